//! Source: kafka 3.9.1 clients/src/main/resources/common/message/AlterPartitionReassignmentsRequest.json and
//! AlterPartitionReassignmentsResponse.json.

use crate::protocol::message::message;

message! {
    /// Moves partitions to other replicas, or cancels such moves (KIP-455).
    AlterPartitionReassignmentsRequest, key 45, versions 0..=0, flexible 0.. {
        timeout_ms: i32 [0.., default 60000],
        topics: Vec<ReassignableTopic> [0..],
    }
    struct ReassignableTopic {
        name: String [0..],
        partitions: Vec<ReassignablePartition> [0..],
    }
    struct ReassignablePartition {
        partition_index: i32 [0..],
        replicas: Option<Vec<i32>> [0.., nullable 0.., default null],
    }
}

message! {
    /// Answers [`AlterPartitionReassignmentsRequest`].
    AlterPartitionReassignmentsResponse, key 45, versions 0..=0, flexible 0.. {
        throttle_time_ms: i32 [0..],
        error_code: i16 [0..],
        error_message: Option<String> [0.., nullable 0..],
        responses: Vec<ReassignableTopicResponse> [0..],
    }
    struct ReassignableTopicResponse {
        name: String [0..],
        partitions: Vec<ReassignablePartitionResponse> [0..],
    }
    struct ReassignablePartitionResponse {
        partition_index: i32 [0..],
        error_code: i16 [0..],
        error_message: Option<String> [0.., nullable 0..],
    }
}
