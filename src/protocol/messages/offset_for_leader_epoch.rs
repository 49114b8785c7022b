//! Source: kafka 3.9.1 clients/src/main/resources/common/message/OffsetForLeaderEpochRequest.json and OffsetForLeaderEpochResponse.json.

use crate::protocol::message::message;

message! {
    /// The end offset of a leader epoch, for truncation (KIP-101, KIP-279, KIP-320).
    OffsetForLeaderEpochRequest, key 23, versions 0..=4, flexible 4.. {
        replica_id: i32 [3.., default -2, ignorable],
        topics: Vec<OffsetForLeaderTopic> [0..],
    }
    struct OffsetForLeaderTopic {
        topic: String [0..],
        partitions: Vec<OffsetForLeaderPartition> [0..],
    }
    struct OffsetForLeaderPartition {
        partition: i32 [0..],
        current_leader_epoch: i32 [2.., default -1, ignorable],
        leader_epoch: i32 [0..],
    }
}

message! {
    /// Answers [`OffsetForLeaderEpochRequest`].
    OffsetForLeaderEpochResponse, key 23, versions 0..=4, flexible 4.. {
        throttle_time_ms: i32 [2.., ignorable],
        topics: Vec<OffsetForLeaderTopicResult> [0..],
    }
    struct OffsetForLeaderTopicResult {
        topic: String [0..],
        partitions: Vec<EpochEndOffset> [0..],
    }
    struct EpochEndOffset {
        error_code: i16 [0..],
        partition: i32 [0..],
        leader_epoch: i32 [1.., default -1, ignorable],
        end_offset: i64 [0.., default -1],
    }
}
