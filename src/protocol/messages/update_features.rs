//! Source: kafka 3.9.1 clients/src/main/resources/common/message/UpdateFeaturesRequest.json and UpdateFeaturesResponse.json.

use crate::protocol::message::message;

message! {
    /// Changes finalized features of the cluster, by the active controller (KIP-584).
    UpdateFeaturesRequest, key 57, versions 0..=1, flexible 0.. {
        timeout_ms: i32 [0.., default 60000],
        feature_updates: Vec<FeatureUpdateKey> [0..],
        validate_only: bool [1..],
    }
    struct FeatureUpdateKey {
        feature: String [0..],
        max_version_level: i16 [0..],
        allow_downgrade: bool [0..=0],
        upgrade_type: i8 [1.., default 1],
    }
}

message! {
    /// Answers [`UpdateFeaturesRequest`].
    UpdateFeaturesResponse, key 57, versions 0..=1, flexible 0.. {
        throttle_time_ms: i32 [0..],
        error_code: i16 [0..],
        error_message: Option<String> [0.., nullable 0..],
        results: Vec<UpdatableFeatureResult> [0..],
    }
    struct UpdatableFeatureResult {
        feature: String [0..],
        error_code: i16 [0..],
        error_message: Option<String> [0.., nullable 0..],
    }
}
