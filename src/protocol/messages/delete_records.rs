//! Source: kafka 3.9.1 clients/src/main/resources/common/message/DeleteRecordsRequest.json and DeleteRecordsResponse.json.

use crate::protocol::message::message;

message! {
    /// Raises the log start offset of partitions.
    DeleteRecordsRequest, key 21, versions 0..=2, flexible 2.. {
        topics: Vec<DeleteRecordsTopic> [0..],
        timeout_ms: i32 [0..],
    }
    struct DeleteRecordsTopic {
        name: String [0..],
        partitions: Vec<DeleteRecordsPartition> [0..],
    }
    struct DeleteRecordsPartition {
        partition_index: i32 [0..],
        offset: i64 [0..],
    }
}

message! {
    /// Answers [`DeleteRecordsRequest`].
    DeleteRecordsResponse, key 21, versions 0..=2, flexible 2.. {
        throttle_time_ms: i32 [0..],
        topics: Vec<DeleteRecordsTopicResult> [0..],
    }
    struct DeleteRecordsTopicResult {
        name: String [0..],
        partitions: Vec<DeleteRecordsPartitionResult> [0..],
    }
    struct DeleteRecordsPartitionResult {
        partition_index: i32 [0..],
        low_watermark: i64 [0..],
        error_code: i16 [0..],
    }
}
