//! Source: kafka 3.9.1 clients/src/main/resources/common/message/AlterConfigsRequest.json and AlterConfigsResponse.json.

use crate::protocol::message::message;

message! {
    /// Replaces all settings of topics or brokers.
    AlterConfigsRequest, key 33, versions 0..=2, flexible 2.. {
        resources: Vec<AlterConfigsResource> [0..],
        validate_only: bool [0..],
    }
    struct AlterConfigsResource {
        resource_type: i8 [0..],
        resource_name: String [0..],
        configs: Vec<AlterableConfig> [0..],
    }
    struct AlterableConfig {
        name: String [0..],
        value: Option<String> [0.., nullable 0..],
    }
}

message! {
    /// Answers [`AlterConfigsRequest`].
    AlterConfigsResponse, key 33, versions 0..=2, flexible 2.. {
        throttle_time_ms: i32 [0..],
        responses: Vec<AlterConfigsResourceResponse> [0..],
    }
    struct AlterConfigsResourceResponse {
        error_code: i16 [0..],
        error_message: Option<String> [0.., nullable 0..],
        resource_type: i8 [0..],
        resource_name: String [0..],
    }
}
