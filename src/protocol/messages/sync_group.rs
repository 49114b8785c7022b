//! Source: kafka 3.9.1 clients/src/main/resources/common/message/SyncGroupRequest.json and SyncGroupResponse.json.

use bytes::Bytes;

use crate::protocol::message::message;

message! {
    /// The leader of a generation hands in the assignment, every member gets its own.
    SyncGroupRequest, key 14, versions 0..=5, flexible 4.. {
        group_id: String [0..],
        generation_id: i32 [0..],
        member_id: String [0..],
        group_instance_id: Option<String> [3.., nullable 3.., default null],
        protocol_type: Option<String> [5.., nullable 5.., default null, ignorable],
        protocol_name: Option<String> [5.., nullable 5.., default null, ignorable],
        assignments: Vec<SyncGroupRequestAssignment> [0..],
    }
    struct SyncGroupRequestAssignment {
        member_id: String [0..],
        assignment: Bytes [0..],
    }
}

message! {
    /// Answers [`SyncGroupRequest`].
    SyncGroupResponse, key 14, versions 0..=5, flexible 4.. {
        throttle_time_ms: i32 [1.., ignorable],
        error_code: i16 [0..],
        protocol_type: Option<String> [5.., nullable 5.., default null, ignorable],
        protocol_name: Option<String> [5.., nullable 5.., default null, ignorable],
        assignment: Bytes [0..],
    }
}
