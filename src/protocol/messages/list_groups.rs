//! Source: kafka 3.9.1 clients/src/main/resources/common/message/ListGroupsRequest.json and ListGroupsResponse.json.

use crate::protocol::message::message;

message! {
    /// The groups that the receiver coordinates.
    ListGroupsRequest, key 16, versions 0..=5, flexible 3.. {
        states_filter: Vec<String> [4..],
        types_filter: Vec<String> [5..],
    }
}

message! {
    /// Answers [`ListGroupsRequest`].
    ListGroupsResponse, key 16, versions 0..=5, flexible 3.. {
        throttle_time_ms: i32 [1.., ignorable],
        error_code: i16 [0..],
        groups: Vec<ListedGroup> [0..],
    }
    struct ListedGroup {
        group_id: String [0..],
        protocol_type: String [0..],
        group_state: String [4.., ignorable],
        group_type: String [5.., ignorable],
    }
}
