//! `/isr_change_notification/isr_change_<seq>`: partitions whose leader wrote a new ISR by itself, as leaders below
//! inter-broker protocol 2.7-IV2 do.
use super::{JsonNode, int};
use crate::error::ZnodeError;
use serde_json::Value;

pub const ROOT: &str = "/isr_change_notification";

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
    fn a_notification_is_read() {
        let data = br#"{"version":1,"partitions":[{"topic":"t","partition":3}]}"#;
        assert_eq!(decode("/x", data).unwrap(), [("t".to_owned(), 3)]);
    }
}
