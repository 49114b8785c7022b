//! Source: kafka 3.9.1 clients/src/main/resources/common/message/DescribeLogDirsRequest.json and DescribeLogDirsResponse.json.

use crate::protocol::message::message;

message! {
    /// The log directories of a broker and the replicas in them (KIP-113).
    DescribeLogDirsRequest, key 35, versions 0..=4, flexible 2.. {
        topics: Option<Vec<DescribableLogDirTopic>> [0.., nullable 0..],
    }
    struct DescribableLogDirTopic {
        topic: String [0..],
        partitions: Vec<i32> [0..],
    }
}

message! {
    /// Answers [`DescribeLogDirsRequest`].
    DescribeLogDirsResponse, key 35, versions 0..=4, flexible 2.. {
        throttle_time_ms: i32 [0..],
        error_code: i16 [3.., ignorable],
        results: Vec<DescribeLogDirsResult> [0..],
    }
    struct DescribeLogDirsResult {
        error_code: i16 [0..],
        log_dir: String [0..],
        topics: Vec<DescribeLogDirsTopic> [0..],
        total_bytes: i64 [4.., ignorable, default -1],
        usable_bytes: i64 [4.., ignorable, default -1],
    }
    struct DescribeLogDirsTopic {
        name: String [0..],
        partitions: Vec<DescribeLogDirsPartition> [0..],
    }
    struct DescribeLogDirsPartition {
        partition_index: i32 [0..],
        partition_size: i64 [0..],
        offset_lag: i64 [0..],
        is_future_key: bool [0..],
    }
}
