//! Features (KIP-584): what this broker knows how to do, and what an operator has finalized for the whole cluster.
//!
//! A JVM broker in ZooKeeper mode registers none, and stops where one is finalized: none is unless an operator says so.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/BrokerFeatures.scala, FinalizedFeatureChangeListener.scala.

use std::collections::BTreeMap;

use crate::model::transaction_version::TRANSACTION_VERSION;

/// By name, the lowest and the highest level.
pub type SupportedFeatures = BTreeMap<String, (i16, i16)>;

/// What this broker supports. Brokers before 3.8 can read no registration with a level below 1.
pub fn supported() -> SupportedFeatures {
    BTreeMap::from([(TRANSACTION_VERSION.to_owned(), (2, 2))])
}

/// By name, the level.
pub type FeatureLevels = BTreeMap<String, i16>;

/// Those of the finalized features that a broker with such supported ones cannot take part in.
pub fn incompatible(supported: &SupportedFeatures, finalized: &FeatureLevels) -> FeatureLevels {
    let is_known = |name: &str, level: i16| {
        supported.get(name).is_some_and(|(lowest, highest)| (*lowest..=*highest).contains(&level))
    };
    finalized
        .iter()
        .filter(|(name, level)| !is_known(name, **level))
        .map(|(name, level)| (name.clone(), *level))
        .collect()
}

/// What the cluster has finalized, as far as this broker has heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalizedFeatures {
    /// How often `/feature` had been written; -1 where it says nothing.
    pub epoch: i64,
    pub levels: FeatureLevels,
}

impl Default for FinalizedFeatures {
    fn default() -> FinalizedFeatures {
        FinalizedFeatures { epoch: -1, levels: FeatureLevels::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_a_broker_does_not_support_is_incompatible_and_so_is_a_name() {
        let finalized = |level| FeatureLevels::from([(TRANSACTION_VERSION.to_owned(), level)]);
        for (level, is_compatible) in [(1, false), (2, true), (3, false)] {
            assert_eq!(incompatible(&supported(), &finalized(level)).is_empty(), is_compatible, "level {level}");
        }
        assert_eq!(incompatible(&SupportedFeatures::new(), &finalized(2)), finalized(2), "a JVM broker supports none");
        assert_eq!(incompatible(&SupportedFeatures::new(), &FeatureLevels::new()), FeatureLevels::new());
    }
}
