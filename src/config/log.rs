//! What one topic's logs obey: the broker's defaults under the topic's own settings.

use super::metadata_version::MetadataVersion;

/// The settings of one topic. Comparable, so that a change that changes nothing can be seen.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// `cleanup.policy` contains `compact`.
    pub compact: bool,
    /// `cleanup.policy` contains `delete`.
    pub delete: bool,
    pub segment_bytes: u32,
    pub segment_ms: i64,
    /// Upper bound of the random part taken off `segment_ms`.
    pub segment_jitter_ms: i64,
    pub segment_index_bytes: u32,
    pub index_interval_bytes: u32,
    pub preallocate: bool,
    /// Records between forced flushes; `i64::MAX` never.
    pub flush_messages: i64,
    pub flush_ms: i64,
    /// None keeps any amount.
    pub retention_bytes: Option<u64>,
    /// None keeps records of any age.
    pub retention_ms: Option<i64>,
    pub file_delete_delay_ms: i64,
    /// The largest batch a producer may send.
    pub max_message_bytes: u32,
    pub min_insync_replicas: i32,
    pub unclean_leader_election_enable: bool,
    pub compression: TopicCompression,
    pub message_timestamp_type: TimestampType,
    /// How far before the broker's clock a CreateTime may lie; `i64::MAX` any.
    pub message_timestamp_before_max_ms: i64,
    /// How far after the broker's clock a CreateTime may lie; `i64::MAX` any.
    pub message_timestamp_after_max_ms: i64,
    pub message_downconversion_enable: bool,
    /// Fixed at 3.0 unless `inter.broker.protocol.version` is older.
    pub message_format_version: MetadataVersion,
    pub delete_retention_ms: i64,
    pub min_compaction_lag_ms: i64,
    pub max_compaction_lag_ms: i64,
    pub min_cleanable_dirty_ratio: f64,
    pub leader_replication_throttled_replicas: ThrottledReplicas,
    pub follower_replication_throttled_replicas: ThrottledReplicas,
}

/// Kafka's built-in defaults, with nothing set on broker or topic.
impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            compact: false,
            delete: true,
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3_600_000,
            segment_jitter_ms: 0,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            preallocate: false,
            flush_messages: i64::MAX,
            flush_ms: i64::MAX,
            retention_bytes: None,
            retention_ms: Some(7 * 24 * 3_600_000),
            file_delete_delay_ms: 60_000,
            max_message_bytes: 1_048_588,
            min_insync_replicas: 1,
            unclean_leader_election_enable: false,
            compression: TopicCompression::Producer,
            message_timestamp_type: TimestampType::CreateTime,
            message_timestamp_before_max_ms: i64::MAX,
            message_timestamp_after_max_ms: i64::MAX,
            message_downconversion_enable: true,
            message_format_version: MetadataVersion::V3_0_IV1,
            delete_retention_ms: 24 * 3_600_000,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: i64::MAX,
            min_cleanable_dirty_ratio: 0.5,
            leader_replication_throttled_replicas: ThrottledReplicas::None,
            follower_replication_throttled_replicas: ThrottledReplicas::None,
        }
    }
}

/// How stored batches are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicCompression {
    /// As the producer sent them.
    Producer,
    Uncompressed,
    /// Level 1 to 9, or -1 for the library's own choice.
    Gzip {
        level: i32,
    },
    Snappy,
    Lz4 {
        level: i32,
    },
    Zstd {
        level: i32,
    },
}

/// Whose clock stamps a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

/// Replicas whose replication traffic obeys the throttle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ThrottledReplicas {
    #[default]
    None,
    /// `*`
    All,
    /// Partition and broker.
    These(Vec<(i32, i32)>),
}

impl ThrottledReplicas {
    pub fn contains(&self, partition: i32, broker: i32) -> bool {
        match self {
            ThrottledReplicas::None => false,
            ThrottledReplicas::All => true,
            ThrottledReplicas::These(replicas) => replicas.contains(&(partition, broker)),
        }
    }
}
