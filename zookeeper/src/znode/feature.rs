//! `/feature`: the finalized features, and whether the feature versioning system (KIP-584) is enabled. JVM brokers in
//! ZooKeeper mode know no feature, and stop where one is finalized.
use super::{JsonNode, encoded, int};
use crate::error::ZnodeError;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const PATH: &str = "/feature";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Disabled,
    Enabled,
}

/// Version 1 below 3.3-IV0, version 2 from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureJson {
    V1,
    V2,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    pub version: FeatureJson,
    pub status: Status,
    /// Name to its finalized maximum version level.
    pub features: BTreeMap<String, i16>,
}

impl Feature {
    pub fn encode(&self) -> Vec<u8> {
        let features: serde_json::Map<String, Value> = self
            .features
            .iter()
            .map(|(name, level)| {
                let range = match self.version {
                    FeatureJson::V1 => json!({"min_version_level": level, "max_version_level": level}),
                    FeatureJson::V2 => json!({"max_version_level": level}),
                };
                (name.clone(), range)
            })
            .collect();
        encoded(json!({
            "version": match self.version { FeatureJson::V1 => 1, FeatureJson::V2 => 2 },
            "status": match self.status { Status::Disabled => 0, Status::Enabled => 1 },
            "features": features,
        }))
    }

    pub fn decode(data: &[u8]) -> Result<Feature, ZnodeError> {
        let node = JsonNode::parse(PATH, data)?;
        let version = match node.int("version")? {
            1 => FeatureJson::V1,
            2 => FeatureJson::V2,
            other => return Err(node.error(&format!("version {other} is not 1 or 2"))),
        };
        let status = match node.int("status")? {
            0 => Status::Disabled,
            1 => Status::Enabled,
            other => return Err(node.error(&format!("status {other} is neither 0 (disabled) nor 1 (enabled)"))),
        };
        let mut features = BTreeMap::new();
        for (name, range) in node.map("features")? {
            let level = range.get("max_version_level").and_then(int).and_then(|level| i16::try_from(level).ok());
            features.insert(
                name.clone(),
                level.ok_or_else(|| node.error(&format!("feature {name} lacks max_version_level")))?,
            );
        }
        Ok(Feature { version, status, features })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_round_trip() {
        let v1 = br#"{"version":1,"status":1,"features":{"f":{"min_version_level":1,"max_version_level":3}}}"#;
        let feature = Feature::decode(v1).unwrap();
        assert_eq!((feature.version, feature.status, feature.features["f"]), (FeatureJson::V1, Status::Enabled, 3));
        let v2 = Feature { version: FeatureJson::V2, status: Status::Enabled, features: BTreeMap::new() };
        let written: Value = serde_json::from_slice(&v2.encode()).unwrap();
        assert_eq!(written, json!({"version":2,"status":1,"features":{}}));
        assert_eq!(Feature::decode(&v2.encode()), Ok(v2));
    }

    #[test]
    fn empty_data_and_later_versions_are_refused() {
        assert!(Feature::decode(b"").is_err());
        assert!(Feature::decode(br#"{"version":3,"status":1,"features":{}}"#).is_err());
    }
}
