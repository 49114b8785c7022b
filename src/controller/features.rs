//! Which features may be finalized, at which level.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/controller/KafkaController.scala (validateFeatureUpdate).

use crate::config::metadata_version::MetadataVersion;
use crate::controller::state::Broker;
use crate::metadata::features::{FeatureLevels, incompatible, supported};
use crate::model::transaction_version::TRANSACTION_VERSION;

/// Should the cluster go back to JVM brokers: those before 3.6 do not ask a coordinator before a log opens a transaction, so
/// that whoever still follows version 2 would open one that nobody ends; and those before 3.4.1 cannot read what it leaves in
/// `__transaction_state`.
const OLDEST_WITH_TRANSACTION_VERSION: MetadataVersion = MetadataVersion::V3_6_IV0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpgradeType {
    Upgrade,
    SafeDowngrade,
    UnsafeDowngrade,
    Unknown,
}

/// The level that a feature is to have, or, below 1, that it is to have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureUpdate {
    pub feature: String,
    pub level: i16,
    pub upgrade_type: UpgradeType,
}

/// Of each update by the name of its feature, why it does not count.
pub type Outcomes = Vec<(String, Result<(), String>)>;

/// What came of updates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeaturesUpdated {
    pub outcomes: Outcomes,
    /// How often `/feature` has been written now, if it has been for these.
    pub epoch: Option<i32>,
}

/// The features as they will be, and what came of each update.
pub fn updated(
    existing: &FeatureLevels,
    updates: &[FeatureUpdate],
    protocol: MetadataVersion,
    brokers: &[Broker],
) -> (FeatureLevels, Outcomes) {
    let mut target = existing.clone();
    let mut outcomes = Vec::with_capacity(updates.len());
    for update in updates {
        let outcome = validated(update, existing.get(&update.feature).copied(), protocol, brokers);
        let outcome = outcome.map(|level| match level {
            Some(level) => drop(target.insert(update.feature.clone(), level)),
            None => drop(target.remove(&update.feature)),
        });
        outcomes.push((update.feature.clone(), outcome));
    }
    (target, outcomes)
}

/// The level to be, or none; or why it may not be.
pub fn validated(
    update: &FeatureUpdate,
    existing: Option<i16>,
    protocol: MetadataVersion,
    brokers: &[Broker],
) -> Result<Option<i16>, String> {
    use UpgradeType::{SafeDowngrade, Unknown, Upgrade};
    let FeatureUpdate { feature, level, upgrade_type } = update;
    if feature.is_empty() {
        return Err("Feature name can not be empty.".to_owned());
    }
    if *upgrade_type == Unknown {
        return Err("Received unknown upgrade type.".to_owned());
    }
    if *level < 1 {
        return match existing {
            _ if *upgrade_type == Upgrade => Err(format!(
                "Can not provide versionLevel: {level} less than 1 without setting the SAFE downgradeType in the request."
            )),
            None => Err("Can not delete non-existing finalized feature.".to_owned()),
            Some(_) => Ok(None),
        };
    }
    match existing {
        Some(existing) if *level == existing => {
            let verb = if *upgrade_type == SafeDowngrade { "downgrade" } else { "upgrade" };
            return Err(format!(
                "Can not {verb} a finalized feature from existing versionLevel:{existing} to the same value."
            ));
        }
        Some(existing) if *level < existing && *upgrade_type != SafeDowngrade => {
            return Err(format!(
                "Can not downgrade finalized feature from existing versionLevel:{existing} to provided \
                 versionLevel:{level} without setting the downgradeType to SAFE in the request."
            ));
        }
        Some(existing) if *level > existing && *upgrade_type != Upgrade => {
            return Err(format!(
                "When the downgradeType is set to SAFE in the request, the provided versionLevel:{level} can not be \
                 greater than existing versionLevel:{existing}."
            ));
        }
        _ => {}
    }
    is_supported_by_all(feature, *level, protocol, brokers).map(|()| Some(*level))
}

fn is_supported_by_all(feature: &str, level: i16, protocol: MetadataVersion, brokers: &[Broker]) -> Result<(), String> {
    let refused = "Could not apply finalized feature update because";
    let Some((lowest, highest)) = supported().get(feature).copied() else {
        return Err(format!("{refused} the provided feature is not supported."));
    };
    if level < lowest {
        return Err(format!(
            "{refused} the provided versionLevel:{level} is lower than the supported minVersion:{lowest}."
        ));
    }
    if level > highest {
        return Err(format!(
            "{refused} the provided versionLevel:{level} is higher than the supported maxVersion:{highest}."
        ));
    }
    if feature == TRANSACTION_VERSION && protocol < OLDEST_WITH_TRANSACTION_VERSION {
        return Err(format!(
            "{refused} {feature} needs inter.broker.protocol.version {} or higher, and it is {protocol}.",
            OLDEST_WITH_TRANSACTION_VERSION.release()
        ));
    }
    let wanted = FeatureLevels::from([(feature.to_owned(), level)]);
    let without = brokers.iter().filter(|broker| !incompatible(&broker.features, &wanted).is_empty());
    let without: Vec<String> = without.map(|broker| broker.id.to_string()).collect();
    match without.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "{refused} brokers were found to have incompatible versions for the feature. These do not support it, as no \
             JVM broker does: {}.",
            without.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::features::SupportedFeatures;
    use crate::model::{BrokerEpoch, BrokerId};

    fn broker(id: i32, features: SupportedFeatures) -> Broker {
        Broker { id: BrokerId(id), epoch: BrokerEpoch(1), endpoints: Vec::new(), rack: None, features }
    }

    fn told(existing: Option<i16>, feature: &str, level: i16, upgrade_type: UpgradeType, brokers: &[Broker]) -> String {
        let existing = existing.map(|level| (TRANSACTION_VERSION.to_owned(), level)).into_iter().collect();
        let update = FeatureUpdate { feature: feature.to_owned(), level, upgrade_type };
        let (target, outcomes) = updated(&existing, &[update], MetadataVersion::LATEST, brokers);
        let [(name, outcome)] = &outcomes[..] else { panic!("one update") };
        assert_eq!(name, feature);
        match outcome {
            Ok(()) => target.get(feature).map_or("none".to_owned(), i16::to_string),
            Err(why) => {
                assert_eq!(target, existing, "{why}");
                why.clone()
            }
        }
    }

    #[test]
    fn a_feature_is_finalized_changed_and_removed_and_each_wish_that_may_not_be_hears_why() {
        use UpgradeType::{SafeDowngrade, Unknown, UnsafeDowngrade, Upgrade};
        let ours = [broker(0, supported()), broker(1, supported())];
        const NAME: &str = TRANSACTION_VERSION;
        #[rustfmt::skip]
        let table: [(Option<i16>, &str, i16, UpgradeType, &str); 15] = [
            (None, NAME, 2, Upgrade, "2"),
            (None, NAME, 2, SafeDowngrade, "2"),
            (Some(2), NAME, 0, SafeDowngrade, "none"),
            (Some(2), NAME, 0, UnsafeDowngrade, "none"),
            (None, "", 1, Upgrade, "Feature name can not be empty."),
            (None, "f", 1, Unknown, "Received unknown upgrade type."),
            (None, "f", 1, Upgrade, "the provided feature is not supported."),
            (None, "f", 0, SafeDowngrade, "Can not delete non-existing finalized feature."),
            (Some(2), NAME, 0, Upgrade, "versionLevel: 0 less than 1 without setting the SAFE downgradeType in the request."),
            (None, NAME, 1, Upgrade, "versionLevel:1 is lower than the supported minVersion:2."),
            (None, NAME, 3, Upgrade, "versionLevel:3 is higher than the supported maxVersion:2."),
            (Some(2), NAME, 2, Upgrade, "Can not upgrade a finalized feature from existing versionLevel:2 to the same value."),
            (Some(2), NAME, 2, SafeDowngrade, "Can not downgrade a finalized feature from existing versionLevel:2 to the same value."),
            (Some(2), NAME, 1, Upgrade, "versionLevel:1 without setting the downgradeType to SAFE in the request."),
            (Some(2), NAME, 3, SafeDowngrade, "can not be greater than existing versionLevel:2."),
        ];
        for (existing, feature, level, upgrade_type, expected) in table {
            let told = told(existing, feature, level, upgrade_type, &ours);
            assert!(told.ends_with(expected), "{existing:?} {feature} {level} {upgrade_type:?}: {told}");
        }
    }

    #[test]
    fn no_feature_is_finalized_while_a_jvm_broker_is_there_but_any_is_removed() {
        let mixed = [broker(0, supported()), broker(1, SupportedFeatures::new()), broker(2, SupportedFeatures::new())];
        let refused = told(None, TRANSACTION_VERSION, 2, UpgradeType::Upgrade, &mixed);
        assert!(refused.contains("brokers were found to have incompatible versions for the feature."), "{refused}");
        assert!(refused.ends_with("as no JVM broker does: 1, 2."), "{refused}");
        assert_eq!(told(Some(2), TRANSACTION_VERSION, 0, UpgradeType::SafeDowngrade, &mixed), "none");
    }

    #[test]
    fn nobody_follows_version_2_where_a_broker_may_come_back_that_asks_no_coordinator() {
        let update =
            FeatureUpdate { feature: TRANSACTION_VERSION.to_owned(), level: 2, upgrade_type: UpgradeType::Upgrade };
        for (protocol, is_allowed) in [(MetadataVersion::V3_5_IV2, false), (MetadataVersion::V3_6_IV0, true)] {
            let (_, outcomes) = updated(&FeatureLevels::new(), std::slice::from_ref(&update), protocol, &[]);
            assert_eq!(outcomes[0].1.is_ok(), is_allowed, "{protocol}: {outcomes:?}");
        }
    }
}
