//! `/admin/reassign_partitions`: partitions and their replicas to be, as tools up to 2.8 ask for it. The controller
//! strikes out what is done, and removes it with the last.
use super::{JsonNode, encoded, int};
use crate::error::ZnodeError;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const PATH: &str = "/admin/reassign_partitions";

/// Replicas by topic and partition.
pub type Wanted = BTreeMap<(String, i32), Vec<i32>>;

pub fn decode(data: &[u8]) -> Result<Wanted, ZnodeError> {
    let node = JsonNode::parse(PATH, data)?;
    let mut wanted = BTreeMap::new();
    for entry in node.list("partitions")? {
        let topic = entry.get("topic").and_then(Value::as_str);
        let partition = entry.get("partition").and_then(int);
        match (topic, partition, entry.get("replicas")) {
            (Some(topic), Some(partition), Some(replicas)) => {
                wanted.insert((topic.to_owned(), partition), node.ints_of("replicas", replicas)?);
            }
            _ => return Err(node.error(&format!("entry {entry} lacks a topic, a partition or replicas"))),
        }
    }
    Ok(wanted)
}

pub fn encode(wanted: &Wanted) -> Vec<u8> {
    let entry = |((topic, partition), replicas): (&(String, i32), &Vec<i32>)| json!({"topic": topic, "partition": partition, "replicas": replicas});
    encoded(json!({"version": 1, "partitions": wanted.iter().map(entry).collect::<Vec<Value>>()}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_old_tool_writes_is_read_and_written_back() {
        let data = br#"{"version":1,"partitions":[{"topic":"t","partition":3,"replicas":[1,2],"log_dirs":["any"]}]}"#;
        let wanted = decode(data).unwrap();
        assert_eq!(wanted, BTreeMap::from([(("t".to_owned(), 3), vec![1, 2])]));
        assert_eq!(decode(&encode(&wanted)), Ok(wanted));
        assert!(decode(br#"{"version":1,"partitions":[{"topic":"t","partition":3}]}"#).is_err());
    }
}
