//! Source: kafka 3.9.1 clients/src/main/resources/common/message/ListPartitionReassignmentsRequest.json and
//! ListPartitionReassignmentsResponse.json.

use crate::protocol::message::message;

message! {
    /// Asks which partitions are moving to other replicas (KIP-455).
    ListPartitionReassignmentsRequest, key 46, versions 0..=0, flexible 0.. {
        timeout_ms: i32 [0.., default 60000],
        topics: Option<Vec<ListPartitionReassignmentsTopics>> [0.., nullable 0.., default null],
    }
    struct ListPartitionReassignmentsTopics {
        name: String [0..],
        partition_indexes: Vec<i32> [0..],
    }
}

message! {
    /// Answers [`ListPartitionReassignmentsRequest`].
    ListPartitionReassignmentsResponse, key 46, versions 0..=0, flexible 0.. {
        throttle_time_ms: i32 [0..],
        error_code: i16 [0..],
        error_message: Option<String> [0.., nullable 0..],
        topics: Vec<OngoingTopicReassignment> [0..],
    }
    struct OngoingTopicReassignment {
        name: String [0..],
        partitions: Vec<OngoingPartitionReassignment> [0..],
    }
    struct OngoingPartitionReassignment {
        partition_index: i32 [0..],
        replicas: Vec<i32> [0..],
        adding_replicas: Vec<i32> [0..],
        removing_replicas: Vec<i32> [0..],
    }
}
