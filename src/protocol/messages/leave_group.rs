//! Source: kafka 3.9.1 clients/src/main/resources/common/message/LeaveGroupRequest.json and LeaveGroupResponse.json.

use crate::protocol::message::message;

message! {
    /// Members leave their group at once, without waiting for their session to time out.
    LeaveGroupRequest, key 13, versions 0..=5, flexible 4.. {
        group_id: String [0..],
        member_id: String [0..=2],
        members: Vec<MemberIdentity> [3..],
    }
    struct MemberIdentity {
        member_id: String [3..],
        group_instance_id: Option<String> [3.., nullable 3.., default null],
        reason: Option<String> [5.., nullable 5.., default null, ignorable],
    }
}

message! {
    /// Answers [`LeaveGroupRequest`].
    LeaveGroupResponse, key 13, versions 0..=5, flexible 4.. {
        throttle_time_ms: i32 [1.., ignorable],
        error_code: i16 [0..],
        members: Vec<MemberResponse> [3..],
    }
    struct MemberResponse {
        member_id: String [3..],
        group_instance_id: Option<String> [3.., nullable 3..],
        error_code: i16 [3..],
    }
}
