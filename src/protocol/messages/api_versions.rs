//! Source: kafka 3.9.1 clients/src/main/resources/common/message/ApiVersionsRequest.json and ApiVersionsResponse.json.

use crate::protocol::message::message;

message! {
    /// Which APIs and versions the receiver speaks; the first request of most connections.
    ApiVersionsRequest, key 18, versions 0..=4, flexible 3.. {
        client_software_name: String [3.., ignorable],
        client_software_version: String [3.., ignorable],
    }
}

message! {
    /// Answers [`ApiVersionsRequest`].
    ApiVersionsResponse, key 18, versions 0..=4, flexible 3.. {
        error_code: i16 [0..],
        api_keys: Vec<ApiVersion> [0..],
        throttle_time_ms: i32 [1.., ignorable],
        supported_features: Vec<SupportedFeatureKey> [3.., ignorable, tag 0],
        finalized_features_epoch: i64 [3.., default -1, ignorable, tag 1],
        finalized_features: Vec<FinalizedFeatureKey> [3.., ignorable, tag 2],
        zk_migration_ready: bool [3.., ignorable, tag 3],
    }
    struct ApiVersion {
        api_key: i16 [0..],
        min_version: i16 [0..],
        max_version: i16 [0..],
    }
    struct SupportedFeatureKey {
        name: String [3..],
        min_version: i16 [3..],
        max_version: i16 [3..],
    }
    struct FinalizedFeatureKey {
        name: String [3..],
        max_version_level: i16 [3..],
        min_version_level: i16 [3..],
    }
}
