//! `/brokers/topics/<topic>/partitions/<partition>/state`: leader and ISR. Its data version is the partition epoch.
use super::{JsonNode, encoded, topic};
use crate::error::ZnodeError;
use serde_json::json;

pub fn partitions_path(topic: &str) -> String {
    format!("{}/partitions", topic::path(topic))
}

pub fn partition_path(topic: &str, partition: i32) -> String {
    format!("{}/{partition}", partitions_path(topic))
}

pub fn path(topic: &str, partition: i32) -> String {
    format!("{}/state", partition_path(topic, partition))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionState {
    pub controller_epoch: i32,
    /// -1 when there is none.
    pub leader: i32,
    pub leader_epoch: i32,
    pub isr: Vec<i32>,
    /// 0 recovered, 1 recovering after an unclean election.
    pub leader_recovery_state: i32,
}

impl PartitionState {
    pub fn encode(&self) -> Vec<u8> {
        let mut node = json!({
            "version": 1,
            "leader": self.leader,
            "leader_epoch": self.leader_epoch,
            "controller_epoch": self.controller_epoch,
            "isr": self.isr,
        });
        // Absent means recovered; a broker before 3.2 does not know the key.
        if self.leader_recovery_state != 0 {
            node["leader_recovery_state"] = self.leader_recovery_state.into();
        }
        encoded(node)
    }

    pub fn decode(topic: &str, partition: i32, data: &[u8]) -> Result<PartitionState, ZnodeError> {
        let path = path(topic, partition);
        let node = JsonNode::parse(&path, data)?;
        let state = PartitionState {
            controller_epoch: node.int("controller_epoch")?,
            leader: node.int("leader")?,
            leader_epoch: node.int("leader_epoch")?,
            isr: node.ints("isr")?,
            leader_recovery_state: node.optional_int("leader_recovery_state")?.unwrap_or(0),
        };
        if state.leader_epoch < 0 || state.leader < -1 || state.isr.iter().any(|replica| *replica < 0) {
            return Err(node.error("a leader, its epoch or a member of the ISR is negative"));
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn the_payload_is_what_a_3_9_broker_writes() {
        let data = r#"{"controller_epoch":1,"leader":1,"version":1,"leader_epoch":0,"isr":[1,2]}"#;
        let state = PartitionState::decode("t", 0, data.as_bytes()).unwrap();
        assert_eq!(
            state,
            PartitionState {
                controller_epoch: 1,
                leader: 1,
                leader_epoch: 0,
                isr: vec![1, 2],
                leader_recovery_state: 0
            }
        );
        let written: Value = serde_json::from_slice(&state.encode()).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(data).unwrap());
    }

    #[test]
    fn a_recovering_leader_is_marked() {
        let state =
            PartitionState { controller_epoch: 3, leader: 2, leader_epoch: 7, isr: vec![2], leader_recovery_state: 1 };
        let written: Value = serde_json::from_slice(&state.encode()).unwrap();
        assert_eq!(written["leader_recovery_state"], 1);
        assert_eq!(PartitionState::decode("t", 0, &state.encode()), Ok(state));
    }

    #[test]
    fn malformed_states_are_refused_by_name() {
        for data in [
            &b""[..],
            br#"{"leader":1}"#,
            br#"{"controller_epoch":1,"leader":"1","leader_epoch":0,"isr":[]}"#,
            br#"{"controller_epoch":1,"leader":1,"leader_epoch":-1,"isr":[1]}"#,
            br#"{"controller_epoch":1,"leader":1,"leader_epoch":0,"isr":[-1]}"#,
        ] {
            assert_eq!(PartitionState::decode("t", 4, data).unwrap_err().path, "/brokers/topics/t/partitions/4/state");
        }
    }
}
