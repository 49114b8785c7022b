//! Source: kafka 3.9.1 clients/src/main/resources/common/message/IncrementalAlterConfigsRequest.json and IncrementalAlterConfigsResponse.json.

use crate::protocol::message::message;

message! {
    /// Changes single settings of topics or brokers (KIP-339).
    IncrementalAlterConfigsRequest, key 44, versions 0..=1, flexible 1.. {
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
        config_operation: i8 [0..],
        value: Option<String> [0.., nullable 0..],
    }
}

message! {
    /// Answers [`IncrementalAlterConfigsRequest`].
    IncrementalAlterConfigsResponse, key 44, versions 0..=1, flexible 1.. {
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
