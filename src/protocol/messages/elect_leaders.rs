//! Source: kafka 3.9.1 clients/src/main/resources/common/message/ElectLeadersRequest.json and ElectLeadersResponse.json.

use crate::protocol::message::message;

message! {
    /// Elects the preferred leaders of partitions, or any live replica where none is in sync.
    ElectLeadersRequest, key 43, versions 0..=2, flexible 2.. {
        election_type: i8 [1..],
        topic_partitions: Option<Vec<TopicPartitions>> [0.., nullable 0..],
        timeout_ms: i32 [0.., default 60000],
    }
    struct TopicPartitions {
        topic: String [0..],
        partitions: Vec<i32> [0..],
    }
}

message! {
    /// Answers [`ElectLeadersRequest`].
    ElectLeadersResponse, key 43, versions 0..=2, flexible 2.. {
        throttle_time_ms: i32 [0..],
        error_code: i16 [1..],
        replica_election_results: Vec<ReplicaElectionResult> [0..],
    }
    struct ReplicaElectionResult {
        topic: String [0..],
        partition_result: Vec<PartitionResult> [0..],
    }
    struct PartitionResult {
        partition_id: i32 [0..],
        error_code: i16 [0..],
        error_message: Option<String> [0.., nullable 0..],
    }
}
