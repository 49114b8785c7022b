//! `/brokers/topics/<topic>`: the assignment of all its partitions, and its id.
//! Versions 1 (up to Kafka 2.3), 2 (adds reassignments) and 3 (adds the id) are read alike; 3 is written whatever the
//! inter-broker protocol is, as every broker since 2.8 does.
use super::{JsonNode, encoded};
use crate::error::ZnodeError;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

pub const ROOT: &str = "/brokers/topics";

pub fn path(topic: &str) -> String {
    format!("{ROOT}/{topic}")
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionAssignment {
    /// While a reassignment runs: the target first, then the rest of the origin.
    pub replicas: Vec<i32>,
    pub adding_replicas: Vec<i32>,
    pub removing_replicas: Vec<i32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topic {
    /// 16 bytes in url-safe base64 without padding; absent below 2.8-IV0 and from old tools.
    pub topic_id: Option<String>,
    pub partitions: BTreeMap<i32, PartitionAssignment>,
}

impl Topic {
    pub fn encode(&self) -> Vec<u8> {
        let lists = |choose: fn(&PartitionAssignment) -> &Vec<i32>, keep_empty: bool| -> Map<String, Value> {
            self.partitions
                .iter()
                .filter(|(_, assignment)| keep_empty || !choose(assignment).is_empty())
                .map(|(partition, assignment)| (partition.to_string(), choose(assignment).clone().into()))
                .collect()
        };
        let mut node = json!({
            "version": 3,
            "partitions": lists(|assignment| &assignment.replicas, true),
            "adding_replicas": lists(|assignment| &assignment.adding_replicas, false),
            "removing_replicas": lists(|assignment| &assignment.removing_replicas, false),
        });
        if let Some(topic_id) = &self.topic_id {
            node["topic_id"] = topic_id.as_str().into();
        }
        encoded(node)
    }

    pub fn decode(topic: &str, data: &[u8]) -> Result<Topic, ZnodeError> {
        let path = path(topic);
        let node = JsonNode::parse(&path, data)?;
        let mut partitions: BTreeMap<i32, PartitionAssignment> = BTreeMap::new();
        for (partition, replicas) in node.optional_map("partitions")?.into_iter().flatten() {
            let id = partition.parse().ok().filter(|id: &i32| *id >= 0);
            let id = id.ok_or_else(|| node.error(&format!("partition {partition:?} is not a number from 0 on")))?;
            let replicas = node.ints_of("partitions", replicas)?;
            if replicas.iter().any(|replica| *replica < 0) || !is_distinct(&replicas) {
                return Err(node.error(&format!("{replicas:?} of partition {id} are not brokers, each named once")));
            }
            partitions.insert(id, PartitionAssignment { replicas, ..PartitionAssignment::default() });
        }
        for key in ["adding_replicas", "removing_replicas"] {
            for (partition, replicas) in node.optional_map(key)?.into_iter().flatten() {
                let replicas = node.ints_of(key, replicas)?;
                // Kafka looks these up by partition, so an entry without an assignment counts for nothing.
                let assignment = partition.parse().ok().and_then(|id: i32| partitions.get_mut(&id));
                match (assignment, key) {
                    (Some(assignment), "adding_replicas") => assignment.adding_replicas = replicas,
                    (Some(assignment), _) => assignment.removing_replicas = replicas,
                    (None, _) => {}
                }
            }
        }
        Ok(Topic { topic_id: node.optional_string("topic_id")?.map(str::to_owned), partitions })
    }
}

fn is_distinct(replicas: &[i32]) -> bool {
    replicas.iter().collect::<BTreeSet<_>>().len() == replicas.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_3_is_what_a_3_9_broker_writes() {
        let data = r#"{"version":3,"topic_id":"AAAAAAAAAAAAAAAAAAAAAQ","partitions":{"0":[1,2,3],"10":[2]},"adding_replicas":{"0":[3]},"removing_replicas":{}}"#;
        let topic = Topic::decode("t", data.as_bytes()).unwrap();
        assert_eq!(topic.topic_id.as_deref(), Some("AAAAAAAAAAAAAAAAAAAAAQ"));
        assert_eq!(
            topic.partitions[&0],
            PartitionAssignment { replicas: vec![1, 2, 3], adding_replicas: vec![3], removing_replicas: vec![] }
        );
        assert_eq!(topic.partitions[&10].replicas, [2]);
        let written: Value = serde_json::from_slice(&topic.encode()).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(data).unwrap());
    }

    #[test]
    fn topics_of_old_tools_have_no_id() {
        let v1 = Topic::decode("t", br#"{"version":1,"partitions":{"0":[5]}}"#).unwrap();
        assert_eq!((v1.topic_id, v1.partitions[&0].replicas.clone()), (None, vec![5]));
        let v2 = br#"{"version":2,"partitions":{"0":[5]},"adding_replicas":{},"removing_replicas":{}}"#;
        assert_eq!(Topic::decode("t", v2).unwrap().partitions.len(), 1);
    }

    #[test]
    fn malformed_assignments_are_refused_by_name() {
        for data in [
            &br#"{"partitions":{"x":[1]}}"#[..],
            br#"{"partitions":{"0":1}}"#,
            br#"{"partitions":{"-1":[1]}}"#,
            br#"{"partitions":{"0":[1,1]}}"#,
            br#"{"partitions":{"0":[-1]}}"#,
            br#"{"partitions":[]}"#,
            b"",
        ] {
            assert_eq!(Topic::decode("t", data).unwrap_err().path, "/brokers/topics/t");
        }
    }
}
