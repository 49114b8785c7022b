//! Source: kafka 3.9.1 clients/src/main/resources/common/message/JoinGroupRequest.json and JoinGroupResponse.json.

use bytes::Bytes;

use crate::protocol::message::message;

message! {
    /// A member asks to take part in the next generation of its group.
    JoinGroupRequest, key 11, versions 0..=9, flexible 6.. {
        group_id: String [0..],
        session_timeout_ms: i32 [0..],
        rebalance_timeout_ms: i32 [1.., default -1, ignorable],
        member_id: String [0..],
        group_instance_id: Option<String> [5.., nullable 5.., default null],
        protocol_type: String [0..],
        protocols: Vec<JoinGroupRequestProtocol> [0..],
        reason: Option<String> [8.., nullable 8.., default null, ignorable],
    }
    struct JoinGroupRequestProtocol {
        name: String [0..],
        metadata: Bytes [0..],
    }
}

message! {
    /// Answers [`JoinGroupRequest`].
    JoinGroupResponse, key 11, versions 0..=9, flexible 6.. {
        throttle_time_ms: i32 [2.., ignorable],
        error_code: i16 [0..],
        generation_id: i32 [0.., default -1],
        protocol_type: Option<String> [7.., nullable 7.., default null, ignorable],
        protocol_name: Option<String> [0.., nullable 7..],
        leader: String [0..],
        skip_assignment: bool [9..],
        member_id: String [0..],
        members: Vec<JoinGroupResponseMember> [0..],
    }
    struct JoinGroupResponseMember {
        member_id: String [0..],
        group_instance_id: Option<String> [5.., nullable 5.., default null, ignorable],
        metadata: Bytes [0..],
    }
}
