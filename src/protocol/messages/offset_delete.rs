//! Source: kafka 3.9.1 clients/src/main/resources/common/message/OffsetDeleteRequest.json and OffsetDeleteResponse.json.

use crate::protocol::message::message;

message! {
    /// Deletes positions of a consumer group.
    OffsetDeleteRequest, key 47, versions 0..=0, flexible none {
        group_id: String [0..],
        topics: Vec<OffsetDeleteRequestTopic> [0..],
    }
    struct OffsetDeleteRequestTopic {
        name: String [0..],
        partitions: Vec<OffsetDeleteRequestPartition> [0..],
    }
    struct OffsetDeleteRequestPartition {
        partition_index: i32 [0..],
    }
}

message! {
    /// Answers [`OffsetDeleteRequest`].
    OffsetDeleteResponse, key 47, versions 0..=0, flexible none {
        error_code: i16 [0..],
        throttle_time_ms: i32 [0.., ignorable],
        topics: Vec<OffsetDeleteResponseTopic> [0..],
    }
    struct OffsetDeleteResponseTopic {
        name: String [0..],
        partitions: Vec<OffsetDeleteResponsePartition> [0..],
    }
    struct OffsetDeleteResponsePartition {
        partition_index: i32 [0..],
        error_code: i16 [0..],
    }
}
