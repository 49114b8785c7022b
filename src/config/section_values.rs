//! How the rooms' sections follow from the values in force.

use super::kafka_config::KafkaConfig;
use super::log::LogConfig;
use super::metadata_version::MetadataVersion;
use super::sections::{CleanerConfig, ControllerConfig, GroupConfig, LogDirsConfig, ReplicaConfig, SocketConfig};
use super::sections::{TransactionConfig, ZooKeeperConfig, ZooKeeperSslConfig};

/// The classes of Kafka's own that `replica.selector.class` may name.
pub(super) const RACK_AWARE_SELECTOR: &str = "org.apache.kafka.common.replica.RackAwareReplicaSelector";
pub(super) const LEADER_SELECTOR: &str = "org.apache.kafka.common.replica.LeaderSelector";

impl KafkaConfig {
    fn hours_as_ms(&self, name: &str) -> i64 {
        self.number(name).saturating_mul(3_600_000)
    }

    pub(super) fn roll_ms(&self) -> i64 {
        self.number_if_set("log.roll.ms").unwrap_or_else(|| self.hours_as_ms("log.roll.hours"))
    }

    pub(super) fn roll_jitter_ms(&self) -> i64 {
        self.number_if_set("log.roll.jitter.ms").unwrap_or_else(|| self.hours_as_ms("log.roll.jitter.hours"))
    }

    /// None keeps records for ever.
    pub(super) fn retention_ms(&self) -> Option<i64> {
        let ms = self
            .number_if_set("log.retention.ms")
            .or_else(|| Some(self.number_if_set("log.retention.minutes")?.saturating_mul(60_000)))
            .unwrap_or_else(|| self.hours_as_ms("log.retention.hours"));
        (ms >= 0).then_some(ms)
    }

    /// What a topic without settings of its own obeys.
    pub fn topic_defaults(&self) -> LogConfig {
        let difference = self.number("log.message.timestamp.difference.max.ms");
        let or_difference = |name| match self.number(name) {
            i64::MAX => difference,
            ms => ms,
        };
        let defaults = LogConfig::default();
        let cleanup_policy = self.list("log.cleanup.policy");
        LogConfig {
            cleanup_policy: cleanup_policy.to_vec(),
            compact: cleanup_policy.iter().any(|policy| policy == "compact"),
            delete: cleanup_policy.iter().any(|policy| policy == "delete"),
            segment_bytes: self.unsigned("log.segment.bytes"),
            segment_ms: self.roll_ms(),
            segment_jitter_ms: self.roll_jitter_ms(),
            segment_index_bytes: self.unsigned("log.index.size.max.bytes"),
            index_interval_bytes: self.unsigned("log.index.interval.bytes"),
            preallocate: self.boolean("log.preallocate"),
            flush_messages: self.number("log.flush.interval.messages"),
            flush_ms: self
                .number_if_set("log.flush.interval.ms")
                .unwrap_or_else(|| self.number("log.flush.scheduler.interval.ms")),
            flush_before_acknowledgement: self.boolean("log.flush.before.acknowledgement"),
            retention_bytes: u64::try_from(self.number("log.retention.bytes")).ok(),
            retention_ms: self.retention_ms(),
            file_delete_delay_ms: self.number("log.segment.delete.delay.ms"),
            max_message_bytes: self.unsigned("message.max.bytes"),
            min_insync_replicas: self.int("min.insync.replicas"),
            unclean_leader_election_enable: self.boolean("unclean.leader.election.enable"),
            message_timestamp_difference_max_ms: difference,
            message_timestamp_before_max_ms: or_difference("log.message.timestamp.before.max.ms"),
            message_timestamp_after_max_ms: or_difference("log.message.timestamp.after.max.ms"),
            message_downconversion_enable: self.boolean("log.message.downconversion.enable"),
            message_format_version: self.message_format_version,
            newest_message_format_version: Some(self.inter_broker_protocol_version)
                .filter(|version| *version < MetadataVersion::V3_0_IV1),
            delete_retention_ms: self.number("log.cleaner.delete.retention.ms"),
            min_compaction_lag_ms: self.number("log.cleaner.min.compaction.lag.ms"),
            max_compaction_lag_ms: self.number("log.cleaner.max.compaction.lag.ms"),
            min_cleanable_dirty_ratio: self.double("log.cleaner.min.cleanable.ratio"),
            local_retention_ms: self.number("log.local.retention.ms"),
            local_retention_bytes: self.number("log.local.retention.bytes"),
            ..defaults
        }
        .with_compression(
            self.text("compression.type").unwrap_or("producer"),
            [self.int("compression.gzip.level"), self.int("compression.lz4.level"), self.int("compression.zstd.level")],
        )
        .with_timestamp_type(self.text("log.message.timestamp.type").unwrap_or("CreateTime"))
    }

    pub fn log_dirs_config(&self) -> LogDirsConfig {
        LogDirsConfig {
            dirs: self.log_dirs.clone(),
            num_recovery_threads_per_data_dir: self.size("num.recovery.threads.per.data.dir"),
            log_flush_offset_checkpoint_interval_ms: self.number("log.flush.offset.checkpoint.interval.ms"),
            log_flush_start_offset_checkpoint_interval_ms: self.number("log.flush.start.offset.checkpoint.interval.ms"),
            log_retention_check_interval_ms: self.number("log.retention.check.interval.ms"),
            log_initial_task_delay_ms: self.number("log.initial.task.delay.ms"),
            // 2.8 forgot producers by transactional.id.expiration.ms; the newer default is what 3.9 does.
            producer_id_expiration_ms: self.number("producer.id.expiration.ms"),
            producer_id_expiration_check_interval_ms: self.number("producer.id.expiration.check.interval.ms"),
            reserved_bytes: u64::try_from(self.number("log.dir.reserved.bytes")).unwrap_or(0),
            producer_ids_max: self.size("max.producer.ids.per.partition"),
            producer_ids_total_max: self.size("max.producer.ids"),
            topic_defaults: self.topic_defaults(),
        }
    }

    pub fn cleaner_config(&self) -> CleanerConfig {
        CleanerConfig {
            enable: self.boolean("log.cleaner.enable"),
            threads: self.size("log.cleaner.threads"),
            dedupe_buffer_bytes: u64::try_from(self.number("log.cleaner.dedupe.buffer.size")).unwrap_or(0),
            load_factor: self.double("log.cleaner.io.buffer.load.factor"),
            io_buffer_bytes: self.size("log.cleaner.io.buffer.size"),
            io_max_bytes_per_second: self.double("log.cleaner.io.max.bytes.per.second"),
            backoff_ms: u64::try_from(self.number("log.cleaner.backoff.ms")).unwrap_or(0),
        }
    }

    pub fn socket_config(&self) -> SocketConfig {
        let positive = |name| usize::try_from(self.number(name)).ok().filter(|size| *size > 0);
        SocketConfig {
            listeners: self.listeners.clone(),
            socket_send_buffer_bytes: positive("socket.send.buffer.bytes"),
            socket_receive_buffer_bytes: positive("socket.receive.buffer.bytes"),
            socket_request_max_bytes: self.size("socket.request.max.bytes"),
            socket_listen_backlog_size: self.unsigned("socket.listen.backlog.size"),
            connections_max_idle_ms: u64::try_from(self.number("connections.max.idle.ms")).ok(),
            max_connections: self.size("max.connections"),
            max_connection_creation_rate: self.size("max.connection.creation.rate"),
            max_connections_per_ip: self.size("max.connections.per.ip"),
            max_connections_per_ip_overrides: self.max_connections_per_ip_overrides.clone(),
            listener_limits: self.listener_limits.clone(),
            inter_broker_listener_name: self.inter_broker_listener_name.clone(),
            queued_max_requests: self.size("queued.max.requests"),
            queued_max_request_bytes: positive("queued.max.request.bytes"),
            num_network_threads: self.size("num.network.threads"),
            // One directory may have half of them (`replica/io.rs`): with one alone, a disk that does not answer held up all.
            num_io_threads: self.size("num.io.threads").max(2),
            fetch_max_bytes: self.unsigned("fetch.max.bytes"),
            socket_response_max_bytes: self.size("socket.response.max.bytes"),
        }
    }

    pub fn group_config(&self) -> GroupConfig {
        GroupConfig {
            group_min_session_timeout_ms: self.int("group.min.session.timeout.ms"),
            group_max_session_timeout_ms: self.int("group.max.session.timeout.ms"),
            group_initial_rebalance_delay_ms: self.int("group.initial.rebalance.delay.ms"),
            group_max_size: self.size("group.max.size"),
            group_max_metadata_bytes: self.size("group.max.metadata.bytes"),
            group_coordinator_max_bytes: u64::try_from(self.number("group.coordinator.max.bytes")).unwrap_or(0),
            group_max_pending_members: self.size("group.max.pending.members"),
            offset_metadata_max_bytes: self.size("offset.metadata.max.bytes"),
            offsets_load_buffer_size: self.unsigned("offsets.load.buffer.size"),
            offsets_retention_ms: self.number("offsets.retention.minutes") * 60_000,
            offsets_retention_check_interval_ms: self.number("offsets.retention.check.interval.ms"),
            offsets_topic_num_partitions: self.int("offsets.topic.num.partitions"),
            offsets_topic_replication_factor: self.short("offsets.topic.replication.factor"),
            offsets_topic_segment_bytes: self.unsigned("offsets.topic.segment.bytes"),
            offsets_topic_compression_codec: i8::try_from(self.int("offsets.topic.compression.codec")).unwrap_or(0),
            offsets_commit_timeout_ms: self.int("offsets.commit.timeout.ms"),
            offsets_commit_required_acks: self.short("offsets.commit.required.acks"),
            inter_broker_protocol_version: self.inter_broker_protocol_version,
        }
    }

    /// Whether a transaction is opened in a log only once its coordinator has confirmed it.
    pub fn transaction_partition_verification_enable(&self) -> bool {
        self.boolean("transaction.partition.verification.enable")
    }

    pub fn transaction_config(&self) -> TransactionConfig {
        TransactionConfig {
            transaction_max_timeout_ms: self.int("transaction.max.timeout.ms"),
            transactional_id_expiration_ms: self.number("transactional.id.expiration.ms"),
            abort_timed_out_transaction_cleanup_interval_ms: self
                .int("transaction.abort.timed.out.transaction.cleanup.interval.ms"),
            remove_expired_transaction_cleanup_interval_ms: self
                .millis("transaction.remove.expired.transaction.cleanup.interval.ms"),
            transaction_coordinator_max_bytes: u64::try_from(self.number("transaction.coordinator.max.bytes"))
                .unwrap_or(0),
            state_log_load_buffer_size: self.unsigned("transaction.state.log.load.buffer.size"),
            state_log_num_partitions: self.int("transaction.state.log.num.partitions"),
            state_log_replication_factor: self.short("transaction.state.log.replication.factor"),
            state_log_min_isr: self.int("transaction.state.log.min.isr"),
            state_log_segment_bytes: self.unsigned("transaction.state.log.segment.bytes"),
            request_timeout_ms: self.millis("request.timeout.ms"),
            inter_broker_listener_name: self.inter_broker_listener_name.clone(),
        }
    }

    pub fn zookeeper_config(&self) -> ZooKeeperConfig {
        let owned = |name| self.text(name).map(String::from);
        let session_timeout_ms = self.unsigned("zookeeper.session.timeout.ms");
        ZooKeeperConfig {
            connect: owned("zookeeper.connect").unwrap_or_default(),
            session_timeout_ms,
            connection_timeout_ms: self
                .number_if_set("zookeeper.connection.timeout.ms")
                .map_or(session_timeout_ms, |ms| u32::try_from(ms).unwrap_or(0)),
            set_acl: self.boolean("zookeeper.set.acl"),
            max_in_flight_requests: self.size("zookeeper.max.in.flight.requests"),
            ssl: ZooKeeperSslConfig {
                client_enable: self.boolean("zookeeper.ssl.client.enable"),
                keystore_location: owned("zookeeper.ssl.keystore.location"),
                keystore_type: owned("zookeeper.ssl.keystore.type"),
                truststore_location: owned("zookeeper.ssl.truststore.location"),
                truststore_type: owned("zookeeper.ssl.truststore.type"),
                verify_hostname: self
                    .text("zookeeper.ssl.endpoint.identification.algorithm")
                    .is_some_and(|algorithm| algorithm.eq_ignore_ascii_case("HTTPS")),
            },
        }
    }

    pub fn replica_config(&self) -> ReplicaConfig {
        ReplicaConfig {
            inter_broker_protocol_version: self.inter_broker_protocol_version,
            replica_lag_time_max_ms: self.number("replica.lag.time.max.ms"),
            replica_high_watermark_checkpoint_interval_ms: self.number("replica.high.watermark.checkpoint.interval.ms"),
            max_incremental_fetch_session_cache_slots: self.size("max.incremental.fetch.session.cache.slots"),
            rack_aware_reads: self.text("replica.selector.class") == Some(RACK_AWARE_SELECTOR),
            inter_broker_listener_name: self.inter_broker_listener_name.clone(),
            num_replica_fetchers: self.size("num.replica.fetchers"),
            replica_fetch_wait_max_ms: self.int("replica.fetch.wait.max.ms"),
            replica_fetch_min_bytes: self.int("replica.fetch.min.bytes"),
            replica_fetch_max_bytes: self.int("replica.fetch.max.bytes"),
            replica_fetch_response_max_bytes: self.int("replica.fetch.response.max.bytes"),
            replica_fetch_backoff_ms: self.millis("replica.fetch.backoff.ms"),
            replica_socket_timeout_ms: self.millis("replica.socket.timeout.ms"),
            replica_socket_receive_buffer_bytes: usize::try_from(self.number("replica.socket.receive.buffer.bytes"))
                .ok()
                .filter(|bytes| *bytes > 0),
            leader_replication_throttled_rate: self.stored_rate("leader.replication.throttled.rate"),
            follower_replication_throttled_rate: self.stored_rate("follower.replication.throttled.rate"),
            replication_quota_window_num: self.size("replication.quota.window.num"),
            replication_quota_window_size_seconds: self.millis("replication.quota.window.size.seconds"),
            alter_log_dirs_bytes_per_second: self.stored_rate("replica.alter.log.dirs.io.max.bytes.per.second"),
            alter_log_dirs_quota_window_num: self.size("alter.log.dirs.replication.quota.window.num"),
            alter_log_dirs_quota_window_size_seconds: self
                .millis("alter.log.dirs.replication.quota.window.size.seconds"),
            num_replica_alter_log_dirs_threads: self
                .text("num.replica.alter.log.dirs.threads")
                .and_then(|threads| threads.trim().parse().ok())
                .unwrap_or_else(|| self.log_dirs_config().dirs.len()),
            transaction_max_timeout_ms: self.number("transaction.max.timeout.ms"),
        }
    }

    /// A rate that is only ever stored in ZooKeeper; without one there is no limit.
    fn stored_rate(&self, name: &str) -> u64 {
        let stored = self.dynamic_broker().get(name).or_else(|| self.dynamic_default().get(name));
        stored.and_then(|text| text.trim().parse().ok()).unwrap_or(i64::MAX as u64)
    }

    pub fn controller_config(&self) -> ControllerConfig {
        ControllerConfig {
            inter_broker_protocol_version: self.inter_broker_protocol_version,
            inter_broker_listener_name: self.inter_broker_listener_name.clone(),
            control_plane_listener_name: self.control_plane_listener_name.clone(),
            controller_socket_timeout_ms: self.millis("controller.socket.timeout.ms"),
            request_timeout_ms: self.number("request.timeout.ms"),
            delete_topic_enable: self.boolean("delete.topic.enable"),
            auto_create_topics_enable: self.boolean("auto.create.topics.enable"),
            num_partitions: self.int("num.partitions"),
            default_replication_factor: self.int("default.replication.factor"),
            unclean_leader_election_enable: self.boolean("unclean.leader.election.enable"),
            cluster_max_partitions: self.size("cluster.max.partitions"),
            auto_leader_rebalance_enable: self.boolean("auto.leader.rebalance.enable"),
            leader_imbalance_check_interval_seconds: self.millis("leader.imbalance.check.interval.seconds"),
            leader_imbalance_per_broker_percentage: self.int("leader.imbalance.per.broker.percentage"),
            controlled_shutdown_enable: self.boolean("controlled.shutdown.enable"),
            controlled_shutdown_max_retries: self.int("controlled.shutdown.max.retries"),
            controlled_shutdown_retry_backoff_ms: self.millis("controlled.shutdown.retry.backoff.ms"),
        }
    }
}
