//! `/isr_change_notification/isr_change_<seq>`: partitions whose leader wrote a new ISR by itself, as leaders below
//! inter-broker protocol 2.7-IV2 do.
use super::{JsonNode, encoded, int};
use crate::error::ZnodeError;
use serde_json::{Value, json};

pub const ROOT: &str = "/isr_change_notification";
/// What the sequence number is appended to.
pub const PREFIX: &str = "isr_change_";

pub fn encode(partitions: &[(&str, i32)]) -> Vec<u8> {
    let entry = |(topic, partition): &(&str, i32)| json!({ "topic": topic, "partition": partition });
    encoded(json!({ "version": 1, "partitions": partitions.iter().map(entry).collect::<Vec<_>>() }))
}

pub fn decode(path: &str, data: &[u8]) -> Result<Vec<(String, i32)>, ZnodeError> {
    let node = JsonNode::parse(path, data)?;
    let mut found = Vec::new();
    for entry in node.list("partitions")? {
        let topic = entry.get("topic").and_then(Value::as_str);
        let partition = entry.get("partition").and_then(int);
        match (topic, partition) {
            (Some(topic), Some(partition)) => found.push((topic.to_owned(), partition)),
            _ => return Err(node.error(&format!("entry {entry} of \"partitions\" lacks a topic or a partition"))),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_what_a_broker_writes() {
        let data = br#"{"version":1,"partitions":[{"topic":"t","partition":3}]}"#;
        assert_eq!(decode("/x", data).unwrap(), [("t".to_owned(), 3)]);
        let written: Value = serde_json::from_slice(&encode(&[("t", 3)])).unwrap();
        assert_eq!(written, serde_json::from_slice::<Value>(data).unwrap());
    }
}
