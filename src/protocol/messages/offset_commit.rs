//! Source: kafka 3.9.1 clients/src/main/resources/common/message/OffsetCommitRequest.json and OffsetCommitResponse.json.

use crate::protocol::message::message;

message! {
    /// Stores positions of a consumer group; version 0 stores them in ZooKeeper.
    OffsetCommitRequest, key 8, versions 0..=9, flexible 8.. {
        group_id: String [0..],
        generation_id_or_member_epoch: i32 [1.., default -1, ignorable],
        member_id: String [1.., ignorable],
        group_instance_id: Option<String> [7.., nullable 7.., default null],
        retention_time_ms: i64 [2..=4, default -1, ignorable],
        topics: Vec<OffsetCommitRequestTopic> [0..],
    }
    struct OffsetCommitRequestTopic {
        name: String [0..],
        partitions: Vec<OffsetCommitRequestPartition> [0..],
    }
    struct OffsetCommitRequestPartition {
        partition_index: i32 [0..],
        committed_offset: i64 [0..],
        committed_leader_epoch: i32 [6.., default -1, ignorable],
        commit_timestamp: i64 [1..=1, default -1],
        committed_metadata: Option<String> [0.., nullable 0..],
    }
}

message! {
    /// Answers [`OffsetCommitRequest`].
    OffsetCommitResponse, key 8, versions 0..=9, flexible 8.. {
        throttle_time_ms: i32 [3.., ignorable],
        topics: Vec<OffsetCommitResponseTopic> [0..],
    }
    struct OffsetCommitResponseTopic {
        name: String [0..],
        partitions: Vec<OffsetCommitResponsePartition> [0..],
    }
    struct OffsetCommitResponsePartition {
        partition_index: i32 [0..],
        error_code: i16 [0..],
    }
}
