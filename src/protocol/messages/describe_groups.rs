//! Source: kafka 3.9.1 clients/src/main/resources/common/message/DescribeGroupsRequest.json and DescribeGroupsResponse.json.

use bytes::Bytes;

use crate::protocol::message::message;

message! {
    /// State and members of groups.
    DescribeGroupsRequest, key 15, versions 0..=5, flexible 5.. {
        groups: Vec<String> [0..],
        include_authorized_operations: bool [3..],
    }
}

message! {
    /// Answers [`DescribeGroupsRequest`].
    DescribeGroupsResponse, key 15, versions 0..=5, flexible 5.. {
        throttle_time_ms: i32 [1.., ignorable],
        groups: Vec<DescribedGroup> [0..],
    }
    struct DescribedGroup {
        error_code: i16 [0..],
        group_id: String [0..],
        group_state: String [0..],
        protocol_type: String [0..],
        protocol_data: String [0..],
        members: Vec<DescribedGroupMember> [0..],
        authorized_operations: i32 [3.., default -2147483648],
    }
    struct DescribedGroupMember {
        member_id: String [0..],
        group_instance_id: Option<String> [4.., nullable 4.., default null, ignorable],
        client_id: String [0..],
        client_host: String [0..],
        member_metadata: Bytes [0..],
        member_assignment: Bytes [0..],
    }
}
