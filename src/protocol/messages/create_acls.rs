//! Source: kafka 3.9.1 clients/src/main/resources/common/message/CreateAclsRequest.json and CreateAclsResponse.json.

use crate::protocol::message::message;

message! {
    /// Grants or denies access.
    CreateAclsRequest, key 30, versions 0..=3, flexible 2.. {
        creations: Vec<AclCreation> [0..],
    }
    struct AclCreation {
        resource_type: i8 [0..],
        resource_name: String [0..],
        resource_pattern_type: i8 [1.., default 3],
        principal: String [0..],
        host: String [0..],
        operation: i8 [0..],
        permission_type: i8 [0..],
    }
}

message! {
    /// Answers [`CreateAclsRequest`].
    CreateAclsResponse, key 30, versions 0..=3, flexible 2.. {
        throttle_time_ms: i32 [0..],
        results: Vec<AclCreationResult> [0..],
    }
    struct AclCreationResult {
        error_code: i16 [0..],
        error_message: Option<String> [0.., nullable 0..],
    }
}
