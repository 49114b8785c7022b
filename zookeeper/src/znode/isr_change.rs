//! `/isr_change_notification/isr_change_<seq>`: partitions whose leader wrote a new ISR by itself, as leaders below
//! inter-broker protocol 2.7-IV2 do.
use super::{JsonNode, encoded, topic_partitions};
use crate::error::ZnodeError;
use serde_json::{Value, json};

pub const ROOT: &str = "/isr_change_notification";
pub const PREFIX: &str = "isr_change_";

pub fn encode(partitions: &[(String, i32)]) -> Vec<u8> {
    let partitions: Vec<Value> =
        partitions.iter().map(|(topic, partition)| json!({"topic": topic, "partition": partition})).collect();
    encoded(json!({"version": 1, "partitions": partitions}))
}

pub fn decode(path: &str, data: &[u8]) -> Result<Vec<(String, i32)>, ZnodeError> {
    topic_partitions(&JsonNode::parse(path, data)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_round_trip() {
        let data = br#"{"version":1,"partitions":[{"topic":"t","partition":3}]}"#;
        assert_eq!(decode("/x", data).unwrap(), [("t".to_owned(), 3)]);
        assert_eq!(decode("/x", &encode(&[("t".to_owned(), 3)])).unwrap(), [("t".to_owned(), 3)]);
    }
}
