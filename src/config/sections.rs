//! The part of the configuration that one room receives. Names are the settings' own, so each field is found in
//! Kafka's documents; `Option` stands where Kafka writes -1 or leaves a setting unset.

use std::path::PathBuf;

use super::listeners::EndPoint;
use super::log::LogConfig;
use super::metadata_version::MetadataVersion;

/// For `log/`: the directories and everything that is not per topic.
#[derive(Clone, Debug, PartialEq)]
pub struct LogDirsConfig {
    /// Never empty, in the order given.
    pub dirs: Vec<PathBuf>,
    pub num_recovery_threads_per_data_dir: usize,
    pub log_flush_offset_checkpoint_interval_ms: i64,
    pub log_flush_start_offset_checkpoint_interval_ms: i64,
    pub log_retention_check_interval_ms: i64,
    pub log_initial_task_delay_ms: i64,
    pub producer_id_expiration_ms: i64,
    pub producer_id_expiration_check_interval_ms: i64,
    /// Of each directory's volume, what records of clients may not take.
    pub reserved_bytes: u64,
    /// Producers that one partition remembers.
    pub producer_ids_max: usize,
    /// Producers that all partitions remember.
    pub producer_ids_total_max: usize,
    /// What a topic without settings of its own obeys.
    pub topic_defaults: LogConfig,
}

impl Default for LogDirsConfig {
    fn default() -> LogDirsConfig {
        LogDirsConfig {
            dirs: vec![PathBuf::from("/tmp/kafka-logs")],
            num_recovery_threads_per_data_dir: 1,
            log_flush_offset_checkpoint_interval_ms: 60_000,
            log_flush_start_offset_checkpoint_interval_ms: 60_000,
            log_retention_check_interval_ms: 300_000,
            log_initial_task_delay_ms: 30_000,
            producer_id_expiration_ms: 86_400_000,
            producer_id_expiration_check_interval_ms: 600_000,
            reserved_bytes: 0,
            producer_ids_max: 20_000,
            producer_ids_total_max: 1_000_000,
            topic_defaults: LogConfig::default(),
        }
    }
}

/// For `log/cleaner/`.
#[derive(Clone, Debug, PartialEq)]
pub struct CleanerConfig {
    pub enable: bool,
    pub threads: usize,
    /// Memory of all threads for the keys that they have seen, and how full it may get.
    pub dedupe_buffer_bytes: u64,
    pub load_factor: f64,
    /// Memory of all threads for reading and writing.
    pub io_buffer_bytes: usize,
    /// Reads and writes of all threads together.
    pub io_max_bytes_per_second: f64,
    pub backoff_ms: u64,
}

impl Default for CleanerConfig {
    fn default() -> CleanerConfig {
        CleanerConfig {
            enable: true,
            threads: 1,
            dedupe_buffer_bytes: 128 << 20,
            load_factor: 0.9,
            io_buffer_bytes: 512 << 10,
            io_max_bytes_per_second: f64::MAX,
            backoff_ms: 15_000,
        }
    }
}

/// For `network/`.
#[derive(Clone, Debug, PartialEq)]
pub struct SocketConfig {
    /// What to bind. Never empty; names are distinct.
    pub listeners: Vec<EndPoint>,
    /// None leaves the system's own size.
    pub socket_send_buffer_bytes: Option<usize>,
    pub socket_receive_buffer_bytes: Option<usize>,
    pub socket_request_max_bytes: usize,
    pub socket_listen_backlog_size: u32,
    /// None never closes an idle connection.
    pub connections_max_idle_ms: Option<u64>,
    pub max_connections: usize,
    /// Connections a second over all listeners.
    pub max_connection_creation_rate: usize,
    pub max_connections_per_ip: usize,
    /// Host names or addresses, as written.
    pub max_connections_per_ip_overrides: Vec<(String, usize)>,
    /// One for each of `listeners`.
    pub listener_limits: Vec<ListenerLimits>,
    pub inter_broker_listener_name: String,
    pub queued_max_requests: usize,
    /// None leaves the bound to the broker.
    pub queued_max_request_bytes: Option<usize>,
    pub num_network_threads: usize,
    pub num_io_threads: usize,
    pub fetch_max_bytes: u32,
    /// Of memory, while one answer is built.
    pub socket_response_max_bytes: usize,
}

/// What a listener may have of its own, beside the limits of the broker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ListenerLimits {
    /// `listener.name.<name>.max.connections`
    pub max_connections: usize,
    /// `listener.name.<name>.max.connection.creation.rate`
    pub max_connection_creation_rate: usize,
}

impl SocketConfig {
    /// More than one a core would only stand in each other's way.
    pub fn network_threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.num_network_threads.clamp(1, cores)
    }
}

impl Default for SocketConfig {
    fn default() -> SocketConfig {
        SocketConfig {
            listeners: Vec::new(),
            socket_send_buffer_bytes: Some(100 << 10),
            socket_receive_buffer_bytes: Some(100 << 10),
            socket_request_max_bytes: 100 << 20,
            socket_listen_backlog_size: 50,
            connections_max_idle_ms: Some(600_000),
            max_connections: i32::MAX as usize,
            max_connection_creation_rate: i32::MAX as usize,
            max_connections_per_ip: i32::MAX as usize,
            max_connections_per_ip_overrides: Vec::new(),
            listener_limits: Vec::new(),
            inter_broker_listener_name: "PLAINTEXT".to_string(),
            queued_max_requests: 500,
            queued_max_request_bytes: None,
            num_network_threads: 3,
            num_io_threads: 8,
            fetch_max_bytes: 55 << 20,
            socket_response_max_bytes: 64 << 20,
        }
    }
}

/// For `coordinator/group/`.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupConfig {
    pub group_min_session_timeout_ms: i32,
    pub group_max_session_timeout_ms: i32,
    pub group_initial_rebalance_delay_ms: i32,
    pub group_max_size: usize,
    /// Of the members of one group: names, metadata and assignments.
    pub group_max_metadata_bytes: usize,
    /// Of all groups, members and offsets that this broker coordinates.
    pub group_coordinator_max_bytes: u64,
    /// Member ids that were handed out and that nobody has joined with, over all groups.
    pub group_max_pending_members: usize,
    pub offset_metadata_max_bytes: usize,
    pub offsets_load_buffer_size: u32,
    pub offsets_retention_ms: i64,
    pub offsets_retention_check_interval_ms: i64,
    pub offsets_topic_num_partitions: i32,
    pub offsets_topic_replication_factor: i16,
    pub offsets_topic_segment_bytes: u32,
    /// The codec id of the records in `__consumer_offsets`: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
    pub offsets_topic_compression_codec: i8,
    pub offsets_commit_timeout_ms: i32,
    pub offsets_commit_required_acks: i16,
    pub inter_broker_protocol_version: MetadataVersion,
}

impl Default for GroupConfig {
    fn default() -> GroupConfig {
        GroupConfig {
            group_min_session_timeout_ms: 6_000,
            group_max_session_timeout_ms: 1_800_000,
            group_initial_rebalance_delay_ms: 3_000,
            group_max_size: i32::MAX as usize,
            group_max_metadata_bytes: 16 << 20,
            group_coordinator_max_bytes: 256 << 20,
            group_max_pending_members: 50_000,
            offset_metadata_max_bytes: 4096,
            offsets_load_buffer_size: 5 << 20,
            offsets_retention_ms: 10_080 * 60_000,
            offsets_retention_check_interval_ms: 600_000,
            offsets_topic_num_partitions: 50,
            offsets_topic_replication_factor: 3,
            offsets_topic_segment_bytes: 100 << 20,
            offsets_topic_compression_codec: 0,
            offsets_commit_timeout_ms: 5_000,
            offsets_commit_required_acks: -1,
            inter_broker_protocol_version: MetadataVersion::LATEST,
        }
    }
}

/// For `coordinator/transaction/`.
#[derive(Clone, Debug, PartialEq)]
pub struct TransactionConfig {
    pub transaction_max_timeout_ms: i32,
    pub transactional_id_expiration_ms: i64,
    /// When a transaction is looked at again that should have been aborted and could not be.
    pub abort_timed_out_transaction_cleanup_interval_ms: i32,
    pub remove_expired_transaction_cleanup_interval_ms: u64,
    /// Of all transactional ids that this broker coordinates.
    pub transaction_coordinator_max_bytes: u64,
    pub state_log_load_buffer_size: u32,
    pub state_log_num_partitions: i32,
    pub state_log_replication_factor: i16,
    pub state_log_min_isr: i32,
    pub state_log_segment_bytes: u32,
    /// How long a record waits for its replicas, and markers for their answer.
    pub request_timeout_ms: u64,
    /// Where the brokers listen that lead what transactions write to.
    pub inter_broker_listener_name: String,
}

impl Default for TransactionConfig {
    fn default() -> TransactionConfig {
        TransactionConfig {
            transaction_max_timeout_ms: 900_000,
            transactional_id_expiration_ms: 604_800_000,
            abort_timed_out_transaction_cleanup_interval_ms: 10_000,
            remove_expired_transaction_cleanup_interval_ms: 3_600_000,
            transaction_coordinator_max_bytes: 256 << 20,
            state_log_load_buffer_size: 5 << 20,
            state_log_num_partitions: 50,
            state_log_replication_factor: 3,
            state_log_min_isr: 2,
            state_log_segment_bytes: 100 << 20,
            request_timeout_ms: 30_000,
            inter_broker_listener_name: "PLAINTEXT".to_string(),
        }
    }
}

/// For the ZooKeeper session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZooKeeperConfig {
    /// `zookeeper.connect` as written: hosts, then the chroot.
    pub connect: String,
    pub session_timeout_ms: u32,
    /// Also the bound of waits for a connection at start; the session timeout when unset.
    pub connection_timeout_ms: u32,
    pub set_acl: bool,
    pub max_in_flight_requests: usize,
    pub ssl: ZooKeeperSslConfig,
}

/// `zookeeper.ssl.*`, of which PEM files need no passwords.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZooKeeperSslConfig {
    pub client_enable: bool,
    pub keystore_location: Option<String>,
    pub keystore_type: Option<String>,
    pub truststore_location: Option<String>,
    pub truststore_type: Option<String>,
    /// `zookeeper.ssl.endpoint.identification.algorithm` is HTTPS.
    pub verify_hostname: bool,
}

impl Default for ZooKeeperConfig {
    fn default() -> ZooKeeperConfig {
        ZooKeeperConfig {
            connect: "localhost:2181".to_string(),
            session_timeout_ms: 18_000,
            connection_timeout_ms: 18_000,
            set_acl: false,
            max_in_flight_requests: 10,
            ssl: ZooKeeperSslConfig { verify_hostname: true, ..ZooKeeperSslConfig::default() },
        }
    }
}

/// For `replica/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaConfig {
    pub inter_broker_protocol_version: MetadataVersion,
    pub replica_lag_time_max_ms: i64,
    pub replica_high_watermark_checkpoint_interval_ms: i64,
    pub max_incremental_fetch_session_cache_slots: usize,
    /// `replica.selector.class` is Kafka's `RackAwareReplicaSelector`.
    pub rack_aware_reads: bool,
    /// Where the brokers that are followed listen.
    pub inter_broker_listener_name: String,
    /// For each broker that is followed.
    pub num_replica_fetchers: usize,
    pub replica_fetch_wait_max_ms: i32,
    pub replica_fetch_min_bytes: i32,
    /// Of one partition.
    pub replica_fetch_max_bytes: i32,
    pub replica_fetch_response_max_bytes: i32,
    pub replica_fetch_backoff_ms: u64,
    pub replica_socket_timeout_ms: u64,
    /// None leaves the system's own size.
    pub replica_socket_receive_buffer_bytes: Option<usize>,
    /// Bytes a second, of throttled replicas that are led here and are not in sync.
    pub leader_replication_throttled_rate: u64,
    /// Bytes a second, of throttled replicas that follow here and are not in sync.
    pub follower_replication_throttled_rate: u64,
    pub replication_quota_window_num: usize,
    pub replication_quota_window_size_seconds: u64,
    /// Bytes a second, of logs that are copied to other directories of this broker.
    pub alter_log_dirs_bytes_per_second: u64,
    pub alter_log_dirs_quota_window_num: usize,
    pub alter_log_dirs_quota_window_size_seconds: u64,
    /// How many are copied at a time.
    pub num_replica_alter_log_dirs_threads: usize,
    /// No transaction may be open for longer.
    pub transaction_max_timeout_ms: i64,
}

impl Default for ReplicaConfig {
    fn default() -> ReplicaConfig {
        ReplicaConfig {
            inter_broker_protocol_version: MetadataVersion::LATEST,
            replica_lag_time_max_ms: 30_000,
            replica_high_watermark_checkpoint_interval_ms: 5_000,
            max_incremental_fetch_session_cache_slots: 1000,
            rack_aware_reads: false,
            inter_broker_listener_name: "PLAINTEXT".to_string(),
            num_replica_fetchers: 1,
            replica_fetch_wait_max_ms: 500,
            replica_fetch_min_bytes: 1,
            replica_fetch_max_bytes: 1 << 20,
            replica_fetch_response_max_bytes: 10 << 20,
            replica_fetch_backoff_ms: 1_000,
            replica_socket_timeout_ms: 30_000,
            replica_socket_receive_buffer_bytes: Some(64 << 10),
            leader_replication_throttled_rate: i64::MAX as u64,
            follower_replication_throttled_rate: i64::MAX as u64,
            replication_quota_window_num: 11,
            replication_quota_window_size_seconds: 1,
            alter_log_dirs_bytes_per_second: i64::MAX as u64,
            alter_log_dirs_quota_window_num: 11,
            alter_log_dirs_quota_window_size_seconds: 1,
            num_replica_alter_log_dirs_threads: 1,
            transaction_max_timeout_ms: 900_000,
        }
    }
}

/// For `controller/`, and for the topics that a broker creates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerConfig {
    pub inter_broker_protocol_version: MetadataVersion,
    pub inter_broker_listener_name: String,
    /// The listener that carries the controller's requests; the inter-broker listener when unset.
    pub control_plane_listener_name: Option<String>,
    pub controller_socket_timeout_ms: u64,
    pub request_timeout_ms: i64,
    pub delete_topic_enable: bool,
    pub auto_create_topics_enable: bool,
    pub num_partitions: i32,
    pub default_replication_factor: i32,
    pub unclean_leader_election_enable: bool,
    /// Of all topics; beyond it clients can make no more.
    pub cluster_max_partitions: usize,
    /// Whether leaders are moved back to where they are preferred, how often that is looked at, and how much of what
    /// one broker should lead may be elsewhere.
    pub auto_leader_rebalance_enable: bool,
    pub leader_imbalance_check_interval_seconds: u64,
    pub leader_imbalance_per_broker_percentage: i32,
    /// Whether this broker asks before it stops, how often at most, and how long it waits in between.
    pub controlled_shutdown_enable: bool,
    pub controlled_shutdown_max_retries: i32,
    pub controlled_shutdown_retry_backoff_ms: u64,
}

impl Default for ControllerConfig {
    fn default() -> ControllerConfig {
        ControllerConfig {
            inter_broker_protocol_version: MetadataVersion::LATEST,
            inter_broker_listener_name: "PLAINTEXT".to_string(),
            control_plane_listener_name: None,
            controller_socket_timeout_ms: 30_000,
            request_timeout_ms: 30_000,
            delete_topic_enable: true,
            auto_create_topics_enable: true,
            num_partitions: 1,
            default_replication_factor: 1,
            unclean_leader_election_enable: false,
            cluster_max_partitions: 200_000,
            auto_leader_rebalance_enable: true,
            leader_imbalance_check_interval_seconds: 300,
            leader_imbalance_per_broker_percentage: 10,
            controlled_shutdown_enable: true,
            controlled_shutdown_max_retries: 3,
            controlled_shutdown_retry_backoff_ms: 5_000,
        }
    }
}
