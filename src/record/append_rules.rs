//! What may enter a log: who appends, what its protocol version may send, and the topic's settings.

use crate::record::batch::TimestampType;
use crate::record::compression::Codec;

/// Who appends. Clients are trusted least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOrigin {
    Client,
    /// A client whose coordinator is asked first: no batch opens a transaction in the log that it did not confirm.
    VerifiedClient,
    /// A coordinator of this broker, which may write control batches.
    Coordinator,
    /// The group coordinator with offsets of a transaction that its coordinator must have confirmed.
    VerifiedCoordinator,
    /// Bytes of the leader, as they are: never prepared here.
    Replication,
}

impl AppendOrigin {
    pub fn is_client(self) -> bool {
        matches!(self, AppendOrigin::Client | AppendOrigin::VerifiedClient)
    }

    pub fn is_verified(self) -> bool {
        matches!(self, AppendOrigin::VerifiedClient | AppendOrigin::VerifiedCoordinator)
    }
}

/// What the producer's protocol allows it to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptedSets {
    /// Produce before version 3: any magic, any number of batches.
    Any,
    /// Produce 3 to 6.
    OneV2BatchWithoutZstd,
    /// Produce 7 and later.
    OneV2Batch,
}

/// `compression.type` of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicCompression {
    /// `producer`: as the records came.
    Producer,
    /// The configured codec, at the level configured for it if any.
    Codec { codec: Codec, level: Option<i32> },
}

/// The settings of the topic and of the request that decide what becomes of records.
#[derive(Clone, Debug, PartialEq)]
pub struct AppendRules {
    pub origin: AppendOrigin,
    pub accepted_sets: AcceptedSets,
    /// `max.message.bytes`, for a whole batch.
    pub max_message_bytes: usize,
    /// `cleanup.policy` contains `compact`: keys must not be null.
    pub compacted: bool,
    pub compression: TopicCompression,
    /// The magic of the topic's log format: 2 unless an old `message.format.version` is in force.
    pub log_format: u8,
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms` and `message.timestamp.after.max.ms`; `i64::MAX` for no limit.
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
    /// False below `inter.broker.protocol.version` 2.1-IV0.
    pub zstd_allowed: bool,
}

impl Default for AppendRules {
    /// A topic with Kafka's default settings and a current client.
    fn default() -> AppendRules {
        AppendRules {
            origin: AppendOrigin::Client,
            accepted_sets: AcceptedSets::OneV2Batch,
            max_message_bytes: 1_048_588,
            compacted: false,
            compression: TopicCompression::Producer,
            log_format: 2,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: i64::MAX,
            zstd_allowed: true,
        }
    }
}
