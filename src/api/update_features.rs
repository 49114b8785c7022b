//! UpdateFeatures. Brokers on ZooKeeper register no features, so there is none that could be finalized, changed or removed:
//! each wish is refused with the reason that Kafka gives.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/KafkaApis.scala (handleUpdateFeatures),
//! core/src/main/scala/kafka/controller/KafkaController.scala (validateFeatureUpdate).

use std::collections::BTreeMap;

use crate::api::answer::AnswerTooLong;
use crate::api::errors::NOT_CONTROLLER_TEXT;
use crate::api::{RequestContext, Server};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::update_features::{
    FeatureUpdateKey, UpdatableFeatureResult, UpdateFeaturesRequest, UpdateFeaturesResponse,
};

const UPGRADE: i8 = 1;
const SAFE_DOWNGRADE: i8 = 2;
const UNSAFE_DOWNGRADE: i8 = 3;

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: UpdateFeaturesRequest,
) -> Result<UpdateFeaturesResponse, AnswerTooLong> {
    let refused = |code: ErrorCode, message: &str| UpdateFeaturesResponse {
        error_code: code.code(),
        error_message: Some(message.to_owned()),
        ..Default::default()
    };
    if !server.controller.is_active() {
        return Ok(refused(ErrorCode::NotController, NOT_CONTROLLER_TEXT));
    }
    if !server.config.load().inter_broker_protocol_version().is_feature_versioning_supported() {
        return Ok(refused(ErrorCode::InvalidRequest, "Feature versioning system is disabled."));
    }
    let version = context.api_version;
    // One that is named twice is answered once, for what it says last.
    let mut updates: BTreeMap<String, FeatureUpdateKey> = BTreeMap::new();
    for update in request.feature_updates {
        if context.pause().await {
            break;
        }
        updates.insert(update.feature.clone(), update);
    }
    let mut results = Vec::new();
    for (feature, update) in updates {
        if context.pause().await {
            break;
        }
        let result = UpdatableFeatureResult {
            error_code: ErrorCode::InvalidRequest.code(),
            error_message: Some(refusal(&update, version)),
            feature,
        };
        context.answer.push(&mut results, result)?;
    }
    Ok(UpdateFeaturesResponse { results, ..Default::default() })
}

fn refusal(update: &FeatureUpdateKey, version: i16) -> String {
    let upgrade_type = match (version, update.allow_downgrade) {
        (0, true) => SAFE_DOWNGRADE,
        (0, false) => UPGRADE,
        _ => update.upgrade_type,
    };
    if update.feature.is_empty() {
        "Feature name can not be empty.".to_owned()
    } else if ![UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE].contains(&upgrade_type) {
        "Received unknown upgrade type.".to_owned()
    } else if update.max_version_level >= 1 {
        "Could not apply finalized feature update because the provided feature is not supported.".to_owned()
    } else if upgrade_type != UPGRADE {
        "Can not delete non-existing finalized feature.".to_owned()
    } else {
        format!(
            "Can not provide versionLevel: {} less than 1 without setting the SAFE downgradeType in the request.",
            update.max_version_level
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_feature_can_be_changed_and_each_wish_hears_why() {
        let why = |version, feature: &str, max_version_level, allow_downgrade, upgrade_type| {
            let feature = feature.to_owned();
            refusal(&FeatureUpdateKey { feature, max_version_level, allow_downgrade, upgrade_type }, version)
        };
        assert_eq!(why(1, "", 1, false, UPGRADE), "Feature name can not be empty.");
        assert_eq!(why(1, "f", 1, false, 0), "Received unknown upgrade type.");
        assert!(why(1, "f", 1, false, UPGRADE).ends_with("the provided feature is not supported."));
        assert_eq!(why(1, "f", 0, false, SAFE_DOWNGRADE), "Can not delete non-existing finalized feature.");
        assert_eq!(why(0, "f", 0, true, UPGRADE), "Can not delete non-existing finalized feature.");
        assert!(why(0, "f", 0, false, SAFE_DOWNGRADE).starts_with("Can not provide versionLevel: 0 less than 1"));
    }
}
