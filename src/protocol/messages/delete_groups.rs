//! Source: kafka 3.9.1 clients/src/main/resources/common/message/DeleteGroupsRequest.json and DeleteGroupsResponse.json.

use crate::protocol::message::message;

message! {
    /// Deletes empty groups.
    DeleteGroupsRequest, key 42, versions 0..=2, flexible 2.. {
        groups_names: Vec<String> [0..],
    }
}

message! {
    /// Answers [`DeleteGroupsRequest`].
    DeleteGroupsResponse, key 42, versions 0..=2, flexible 2.. {
        throttle_time_ms: i32 [0..],
        results: Vec<DeletableGroupResult> [0..],
    }
    struct DeletableGroupResult {
        group_id: String [0..],
        error_code: i16 [0..],
    }
}
