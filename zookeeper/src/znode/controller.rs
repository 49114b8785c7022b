//! `/controller`: which broker is the controller. Ephemeral, except while a KRaft controller owns it.
use super::{JsonNode, encoded};
use crate::error::ZnodeError;
use serde_json::json;

pub const PATH: &str = "/controller";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    pub broker_id: i32,
    pub timestamp_ms: i64,
    /// Set by a KRaft controller that migrates the cluster; absent and -1 mean that a broker is the controller.
    pub kraft_controller_epoch: Option<i32>,
}

/// Brokers from 3.4 on write version 2, whatever the inter-broker protocol is.
pub fn encode(broker_id: i32, timestamp_ms: i64) -> Vec<u8> {
    encoded(json!({
        "version": 2,
        "brokerid": broker_id,
        "timestamp": timestamp_ms.to_string(),
        "kraftControllerEpoch": -1,
    }))
}

pub fn decode(data: &[u8]) -> Result<Controller, ZnodeError> {
    let node = JsonNode::parse(PATH, data)?;
    Ok(Controller {
        broker_id: node.int("brokerid")?,
        timestamp_ms: node.optional_string("timestamp")?.and_then(|text| text.parse().ok()).unwrap_or(-1),
        kraft_controller_epoch: node.optional_int("kraftControllerEpoch")?.filter(|epoch| *epoch >= 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn both_versions_are_read_and_version_2_is_written() {
        let v1 = decode(br#"{"version":1,"brokerid":1,"timestamp":"1700000000000"}"#).unwrap();
        assert_eq!(v1, Controller { broker_id: 1, timestamp_ms: 1_700_000_000_000, kraft_controller_epoch: None });
        let written: Value = serde_json::from_slice(&encode(1, 1_700_000_000_000)).unwrap();
        assert_eq!(written, json!({"version":2,"brokerid":1,"timestamp":"1700000000000","kraftControllerEpoch":-1}));
        assert_eq!(decode(&encode(1, 1_700_000_000_000)), Ok(v1));
    }

    #[test]
    fn a_kraft_controller_is_told_apart() {
        let data = br#"{"version":2,"brokerid":3000,"timestamp":"1","kraftControllerEpoch":7}"#;
        assert_eq!(decode(data).unwrap().kraft_controller_epoch, Some(7));
    }

    #[test]
    fn a_malformed_controller_is_refused() {
        assert!(decode(br#"{"version":1}"#).unwrap_err().reason.contains("brokerid"));
    }
}
