//! Source: kafka 3.9.1 clients/src/main/resources/common/message/CreatePartitionsRequest.json and CreatePartitionsResponse.json.

use crate::protocol::message::message;

message! {
    /// Adds partitions to topics, by the active controller.
    CreatePartitionsRequest, key 37, versions 0..=3, flexible 2.. {
        topics: Vec<CreatePartitionsTopic> [0..],
        timeout_ms: i32 [0..],
        validate_only: bool [0..],
    }
    struct CreatePartitionsTopic {
        name: String [0..],
        count: i32 [0..],
        assignments: Option<Vec<CreatePartitionsAssignment>> [0.., nullable 0..],
    }
    struct CreatePartitionsAssignment {
        broker_ids: Vec<i32> [0..],
    }
}

message! {
    /// Answers [`CreatePartitionsRequest`].
    CreatePartitionsResponse, key 37, versions 0..=3, flexible 2.. {
        throttle_time_ms: i32 [0..],
        results: Vec<CreatePartitionsTopicResult> [0..],
    }
    struct CreatePartitionsTopicResult {
        name: String [0..],
        error_code: i16 [0..],
        error_message: Option<String> [0.., nullable 0.., default null],
    }
}
