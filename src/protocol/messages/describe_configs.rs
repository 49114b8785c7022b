//! Source: kafka 3.9.1 clients/src/main/resources/common/message/DescribeConfigsRequest.json and DescribeConfigsResponse.json.

use crate::protocol::elements::Elements;
use crate::protocol::message::message;

message! {
    /// Settings of topics and brokers with their sources and synonyms.
    DescribeConfigsRequest, key 32, versions 0..=4, flexible 4.. {
        resources: Vec<DescribeConfigsResource> [0..],
        include_synonyms: bool [1..],
        include_documentation: bool [3..],
    }
    struct DescribeConfigsResource {
        resource_type: i8 [0..],
        resource_name: String [0..],
        configuration_keys: Option<Vec<String>> [0.., nullable 0..],
    }
}

message! {
    /// Answers [`DescribeConfigsRequest`].
    DescribeConfigsResponse, key 32, versions 0..=4, flexible 4.. {
        throttle_time_ms: i32 [0..],
        results: Elements<DescribeConfigsResult> [0..],
    }
    struct DescribeConfigsResult {
        error_code: i16 [0..],
        error_message: Option<String> [0.., nullable 0..],
        resource_type: i8 [0..],
        resource_name: String [0..],
        configs: Vec<DescribeConfigsResourceResult> [0..],
    }
    struct DescribeConfigsResourceResult {
        name: String [0..],
        value: Option<String> [0.., nullable 0..],
        read_only: bool [0..],
        is_default: bool [0..=0],
        config_source: i8 [1.., default -1, ignorable],
        is_sensitive: bool [0..],
        synonyms: Vec<DescribeConfigsSynonym> [1.., ignorable],
        config_type: i8 [3.., ignorable],
        documentation: Option<String> [3.., nullable 0.., ignorable],
    }
    struct DescribeConfigsSynonym {
        name: String [1..],
        value: Option<String> [1.., nullable 0..],
        source: i8 [1..],
    }
}
