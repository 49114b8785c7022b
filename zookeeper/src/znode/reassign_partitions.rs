//! `/admin/reassign_partitions`: replica moves that the tools before 2.6 ask for.
use super::{JsonNode, encoded, int};
use crate::error::ZnodeError;
use serde_json::{Value, json};

pub const PATH: &str = "/admin/reassign_partitions";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reassignment {
    pub topic: String,
    pub partition: i32,
    pub replicas: Vec<i32>,
}

pub fn encode(reassignments: &[Reassignment]) -> Vec<u8> {
    let partitions: Vec<Value> = reassignments
        .iter()
        .map(|one| json!({"topic": one.topic, "partition": one.partition, "replicas": one.replicas}))
        .collect();
    encoded(json!({"version": 1, "partitions": partitions}))
}

pub fn decode(data: &[u8]) -> Result<Vec<Reassignment>, ZnodeError> {
    let node = JsonNode::parse(PATH, data)?;
    let mut reassignments = Vec::new();
    for entry in node.list("partitions")? {
        let topic = entry.get("topic").and_then(Value::as_str);
        let partition = entry.get("partition").and_then(int);
        let replicas = entry.get("replicas").map(|replicas| node.ints_of("replicas", replicas)).transpose()?;
        match (topic, partition, replicas) {
            (Some(topic), Some(partition), Some(replicas)) => {
                reassignments.push(Reassignment { topic: topic.to_owned(), partition, replicas });
            }
            _ => return Err(node.error(&format!("entry {entry} lacks a topic, a partition or its replicas"))),
        }
    }
    Ok(reassignments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_the_old_tool_are_read() {
        let data = br#"{"version":1,"partitions":[{"topic":"t","partition":0,"replicas":[1,2]}]}"#;
        let expected = [Reassignment { topic: "t".to_owned(), partition: 0, replicas: vec![1, 2] }];
        assert_eq!(decode(data).unwrap(), expected);
        assert_eq!(decode(&encode(&expected)).unwrap(), expected);
        assert!(decode(br#"{"version":1,"partitions":[{"topic":"t"}]}"#).is_err());
    }
}
