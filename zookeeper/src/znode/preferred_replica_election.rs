//! `/admin/preferred_replica_election`: leader elections that the tools before 2.4 ask for.
use super::{JsonNode, encoded, topic_partitions};
use crate::error::ZnodeError;
use serde_json::{Value, json};

pub const PATH: &str = "/admin/preferred_replica_election";

pub fn encode(partitions: &[(String, i32)]) -> Vec<u8> {
    let partitions: Vec<Value> =
        partitions.iter().map(|(topic, partition)| json!({"topic": topic, "partition": partition})).collect();
    encoded(json!({"version": 1, "partitions": partitions}))
}

pub fn decode(data: &[u8]) -> Result<Vec<(String, i32)>, ZnodeError> {
    topic_partitions(&JsonNode::parse(PATH, data)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_the_old_tool_are_read() {
        let data = br#"{"version":1,"partitions":[{"topic":"t","partition":0}]}"#;
        assert_eq!(decode(data).unwrap(), [("t".to_owned(), 0)]);
        assert_eq!(decode(&encode(&[("t".to_owned(), 0)])).unwrap(), [("t".to_owned(), 0)]);
        assert!(decode(br#"{"version":1,"partitions":[{"partition":0}]}"#).is_err());
    }
}
