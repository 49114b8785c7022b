//! Source: kafka 3.9.1 clients/src/main/resources/common/message/HeartbeatRequest.json and HeartbeatResponse.json.

use crate::protocol::message::message;

message! {
    /// Keeps a member alive in its group; the reply tells it of a rebalance.
    HeartbeatRequest, key 12, versions 0..=4, flexible 4.. {
        group_id: String [0..],
        generation_id: i32 [0..],
        member_id: String [0..],
        group_instance_id: Option<String> [3.., nullable 3.., default null],
    }
}

message! {
    /// Answers [`HeartbeatRequest`].
    HeartbeatResponse, key 12, versions 0..=4, flexible 4.. {
        throttle_time_ms: i32 [1.., ignorable],
        error_code: i16 [0..],
    }
}
