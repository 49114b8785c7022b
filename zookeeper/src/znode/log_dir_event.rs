//! `/log_dir_event_notification/log_dir_event_<seq>`: a broker lost a log directory.
use super::{JsonNode, encoded};
use crate::error::ZnodeError;
use serde_json::json;

pub const ROOT: &str = "/log_dir_event_notification";
pub const PREFIX: &str = "log_dir_event_";

pub fn encode(broker: i32) -> Vec<u8> {
    // 1 is "log directory failure", the only event there is.
    encoded(json!({"version": 1, "broker": broker, "event": 1}))
}

/// The broker that lost a directory.
pub fn decode(path: &str, data: &[u8]) -> Result<i32, ZnodeError> {
    JsonNode::parse(path, data)?.int("broker")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_round_trip() {
        assert_eq!(decode("/x", br#"{"version":1,"broker":4,"event":1}"#), Ok(4));
        assert_eq!(decode("/x", &encode(4)), Ok(4));
    }
}
