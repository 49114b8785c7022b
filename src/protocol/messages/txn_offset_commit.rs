//! Source: kafka 4.1.0 clients/src/main/resources/common/message/TxnOffsetCommitRequest.json and TxnOffsetCommitResponse.json.

use crate::protocol::message::message;

message! {
    /// Stores positions of a consumer group, which count once the transaction is committed.
    TxnOffsetCommitRequest, key 28, versions 0..=5, flexible 3.. {
        transactional_id: String [0..],
        group_id: String [0..],
        producer_id: i64 [0..],
        producer_epoch: i16 [0..],
        generation_id: i32 [3.., default -1],
        member_id: String [3..],
        group_instance_id: Option<String> [3.., nullable 3.., default null],
        topics: Vec<TxnOffsetCommitRequestTopic> [0..],
    }
    struct TxnOffsetCommitRequestTopic {
        name: String [0..],
        partitions: Vec<TxnOffsetCommitRequestPartition> [0..],
    }
    struct TxnOffsetCommitRequestPartition {
        partition_index: i32 [0..],
        committed_offset: i64 [0..],
        committed_leader_epoch: i32 [2.., default -1, ignorable],
        committed_metadata: Option<String> [0.., nullable 0..],
    }
}

message! {
    /// Answers [`TxnOffsetCommitRequest`].
    TxnOffsetCommitResponse, key 28, versions 0..=5, flexible 3.. {
        throttle_time_ms: i32 [0..],
        topics: Vec<TxnOffsetCommitResponseTopic> [0..],
    }
    struct TxnOffsetCommitResponseTopic {
        name: String [0..],
        partitions: Vec<TxnOffsetCommitResponsePartition> [0..],
    }
    struct TxnOffsetCommitResponsePartition {
        partition_index: i32 [0..],
        error_code: i16 [0..],
    }
}
