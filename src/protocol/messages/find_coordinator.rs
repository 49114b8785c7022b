//! Source: kafka 3.9.1 clients/src/main/resources/common/message/FindCoordinatorRequest.json and FindCoordinatorResponse.json.

use crate::protocol::message::message;

message! {
    /// Asks which broker coordinates a group or a transactional id.
    FindCoordinatorRequest, key 10, versions 0..=6, flexible 3.. {
        key: String [0..=3],
        key_type: i8 [1..],
        coordinator_keys: Vec<String> [4..],
    }
}

message! {
    /// Answers [`FindCoordinatorRequest`].
    FindCoordinatorResponse, key 10, versions 0..=6, flexible 3.. {
        throttle_time_ms: i32 [1.., ignorable],
        error_code: i16 [0..=3],
        error_message: Option<String> [1..=3, nullable 1.., ignorable],
        node_id: i32 [0..=3],
        host: String [0..=3],
        port: i32 [0..=3],
        coordinators: Vec<Coordinator> [4..],
    }
    struct Coordinator {
        key: String [4..],
        node_id: i32 [4..],
        host: String [4..],
        port: i32 [4..],
        error_code: i16 [4..],
        error_message: Option<String> [4.., nullable 4.., ignorable],
    }
}
