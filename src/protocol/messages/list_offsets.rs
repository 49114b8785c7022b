//! Source: kafka 3.9.1 clients/src/main/resources/common/message/ListOffsetsRequest.json and ListOffsetsResponse.json.

use crate::protocol::message::message;

message! {
    /// Looks up offsets by timestamp, and the ends of partitions.
    ListOffsetsRequest, key 2, versions 0..=9, flexible 6.. {
        replica_id: i32 [0..],
        isolation_level: i8 [2..],
        topics: Vec<ListOffsetsTopic> [0..],
    }
    struct ListOffsetsTopic {
        name: String [0..],
        partitions: Vec<ListOffsetsPartition> [0..],
    }
    struct ListOffsetsPartition {
        partition_index: i32 [0..],
        current_leader_epoch: i32 [4.., default -1, ignorable],
        timestamp: i64 [0..],
        max_num_offsets: i32 [0..=0, default 1],
    }
}

message! {
    /// Answers [`ListOffsetsRequest`].
    ListOffsetsResponse, key 2, versions 0..=9, flexible 6.. {
        throttle_time_ms: i32 [2.., ignorable],
        topics: Vec<ListOffsetsTopicResponse> [0..],
    }
    struct ListOffsetsTopicResponse {
        name: String [0..],
        partitions: Vec<ListOffsetsPartitionResponse> [0..],
    }
    struct ListOffsetsPartitionResponse {
        partition_index: i32 [0..],
        error_code: i16 [0..],
        old_style_offsets: Vec<i64> [0..=0],
        timestamp: i64 [1.., default -1],
        offset: i64 [1.., default -1],
        leader_epoch: i32 [4.., default -1],
    }
}
