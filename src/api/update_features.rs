//! UpdateFeatures: what an operator finalizes for the whole cluster. Which of it may be is for the controller to say
//! (`controller/features.rs`).
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/KafkaApis.scala (handleUpdateFeatures),
//! core/src/main/scala/kafka/controller/KafkaController.scala (processFeatureUpdates).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::timeout;

use crate::api::answer::AnswerTooLong;
use crate::api::errors::NOT_CONTROLLER_TEXT;
use crate::api::{RequestContext, Server};
use crate::controller::active::{Answer, Request};
use crate::controller::features::{FeatureUpdate, FeaturesUpdated, UpgradeType, validated};
use crate::metadata::features::supported;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::update_features::{
    FeatureUpdateKey, UpdatableFeatureResult, UpdateFeaturesRequest, UpdateFeaturesResponse,
};

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
    // One that is named twice is answered once, for what it says last.
    let mut updates: BTreeMap<String, FeatureUpdate> = BTreeMap::new();
    for update in request.feature_updates {
        if context.pause().await {
            break;
        }
        updates.insert(update.feature.clone(), asked(update, context.api_version));
    }
    let answered = |feature: String, code: ErrorCode, error_message: Option<String>| UpdatableFeatureResult {
        feature,
        error_code: code.code(),
        error_message,
    };
    let mut results = Vec::new();
    let finalized = server.features.borrow().levels.clone();
    let protocol = server.config.load().inter_broker_protocol_version();
    let (supported, mut of_controller) = (supported(), Vec::new());
    for (feature, update) in updates {
        if context.pause().await {
            break;
        }
        if supported.contains_key(&feature) || finalized.contains_key(&feature) {
            of_controller.push(update);
            continue;
        }
        // The controller need not hear of what nobody knows, however much of it there is.
        let why = validated(&update, None, protocol, &[]).err();
        context.answer.push(&mut results, answered(feature, ErrorCode::InvalidRequest, why))?;
    }
    if of_controller.is_empty() {
        return Ok(UpdateFeaturesResponse { results, ..Default::default() });
    }
    let names: Vec<String> = of_controller.iter().map(|update| update.feature.clone()).collect();
    let asked = Request::UpdateFeatures { updates: of_controller, validate_only: request.validate_only };
    let Some(Answer::FeaturesUpdated(updated)) = server.controller.ask(asked).await else {
        return Ok(refused(ErrorCode::NotController, NOT_CONTROLLER_TEXT));
    };
    match updated {
        None => results.extend(names.into_iter().map(|name| answered(name, ErrorCode::FeatureUpdateFailed, None))),
        Some(FeaturesUpdated { outcomes, epoch }) => {
            let is_heard_of = heard_of(server, epoch, request.timeout_ms).await;
            results.extend(outcomes.into_iter().map(|(name, outcome)| match outcome {
                Ok(()) if is_heard_of => answered(name, ErrorCode::None, None),
                Ok(()) => answered(name, ErrorCode::FeatureUpdateFailed, None),
                Err(why) => answered(name, ErrorCode::InvalidRequest, Some(why)),
            }));
        }
    }
    Ok(UpdateFeaturesResponse { results, ..Default::default() })
}

fn asked(update: FeatureUpdateKey, version: i16) -> FeatureUpdate {
    let upgrade_type = match (version, update.allow_downgrade, update.upgrade_type) {
        (0, true, _) => UpgradeType::SafeDowngrade,
        (0, false, _) | (_, _, 1) => UpgradeType::Upgrade,
        (_, _, 2) => UpgradeType::SafeDowngrade,
        (_, _, 3) => UpgradeType::UnsafeDowngrade,
        _ => UpgradeType::Unknown,
    };
    FeatureUpdate { feature: update.feature, level: update.max_version_level, upgrade_type }
}

/// Waits until this broker tells its clients what has been finalized.
async fn heard_of(server: &Server, epoch: Option<i32>, timeout_ms: i32) -> bool {
    let Some(epoch) = epoch else { return true };
    let mut features = server.features.clone();
    let patience = Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0));
    let heard = features.wait_for(|finalized| finalized.epoch >= i64::from(epoch));
    matches!(timeout(patience, heard).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_version_says_in_another_way_what_may_go_down() {
        let kind = |version, allow_downgrade, upgrade_type| {
            let update = FeatureUpdateKey { allow_downgrade, upgrade_type, ..Default::default() };
            asked(update, version).upgrade_type
        };
        assert_eq!([kind(0, false, 3), kind(0, true, 1)], [UpgradeType::Upgrade, UpgradeType::SafeDowngrade]);
        let kinds =
            [UpgradeType::Unknown, UpgradeType::Upgrade, UpgradeType::SafeDowngrade, UpgradeType::UnsafeDowngrade];
        assert_eq!([kind(1, true, 0), kind(1, true, 1), kind(1, true, 2), kind(1, true, 3)], kinds);
    }
}
