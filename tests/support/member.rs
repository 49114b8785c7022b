//! The only member of a group, alive for longer than the test: whoever coordinates the group next must know it.

use bytes::Bytes;
use odradek::protocol::message::Request;
use odradek::protocol::messages::heartbeat::HeartbeatRequest;
use odradek::protocol::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use odradek::protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic, OffsetCommitResponse,
};
use odradek::protocol::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};

use super::client::Client;
use super::{PATIENCE, eventually};

pub struct Member {
    group: &'static str,
    id: String,
    generation: i32,
}

/// Asks the coordinator until it answers as one: it may move, and loads what it has been given.
pub fn coordinated<R: Request>(
    coordinator: &impl Fn() -> Client,
    request: &R,
    version: i16,
    code: impl Fn(&R::Response) -> i16,
) -> R::Response {
    eventually(PATIENCE, &format!("a coordinator answers {}", std::any::type_name::<R>()), || {
        let answer = coordinator().call(request, version).map_err(|error| error.to_string())?;
        // Loading, not available, another coordinates.
        match code(&answer) {
            code @ 14..=16 => Err(format!("error {code}")),
            _ => Ok(answer),
        }
    })
}

impl Member {
    pub fn joins(group: &'static str, coordinator: &impl Fn() -> Client) -> Member {
        let protocol = JoinGroupRequestProtocol { name: "range".into(), metadata: Bytes::from_static(b"subscribed") };
        let request = JoinGroupRequest {
            group_id: group.into(),
            session_timeout_ms: 300_000,
            rebalance_timeout_ms: 300_000,
            protocol_type: "test".into(),
            protocols: vec![protocol],
            ..Default::default()
        };
        let joined = coordinated(coordinator, &request, 2, |answer| answer.error_code);
        assert_eq!(joined.error_code, 0, "{joined:?}");
        let member = Member { group, id: joined.member_id, generation: joined.generation_id };
        assert_eq!(member.assignment(coordinator, "all"), "all");
        member
    }

    /// Asks for its share; only the first time it also tells it.
    fn assignment(&self, coordinator: &impl Fn() -> Client, told: &'static str) -> Bytes {
        let told = Bytes::from_static(told.as_bytes());
        let request = SyncGroupRequest {
            group_id: self.group.into(),
            generation_id: self.generation,
            member_id: self.id.clone(),
            assignments: vec![SyncGroupRequestAssignment { member_id: self.id.clone(), assignment: told }],
            ..Default::default()
        };
        let synced = coordinated(coordinator, &request, 2, |answer| answer.error_code);
        assert_eq!(synced.error_code, 0, "{synced:?}");
        synced.assignment
    }

    /// The group is as it was, without a rebalance. `holder` is who coordinates it.
    pub fn is_known(&self, coordinator: &impl Fn() -> Client, holder: &str) {
        let beat = HeartbeatRequest {
            group_id: self.group.into(),
            generation_id: self.generation,
            member_id: self.id.clone(),
            ..Default::default()
        };
        let beaten = coordinated(coordinator, &beat, 2, |answer| answer.error_code);
        assert_eq!(beaten.error_code, 0, "{holder} knows the member of {}", self.group);
        assert_eq!(self.assignment(coordinator, ""), "all", "{holder} knows what was assigned in {}", self.group);
    }

    pub fn commits(&self, coordinator: &impl Fn() -> Client, topic: &str, partition: i32, offset: i64) {
        let partitions = vec![OffsetCommitRequestPartition {
            partition_index: partition,
            committed_offset: offset,
            committed_metadata: Some("by its member".into()),
            ..Default::default()
        }];
        let topics = vec![OffsetCommitRequestTopic { name: topic.into(), partitions }];
        let request = OffsetCommitRequest {
            group_id: self.group.into(),
            generation_id_or_member_epoch: self.generation,
            member_id: self.id.clone(),
            topics,
            ..Default::default()
        };
        let code = |answer: &OffsetCommitResponse| answer.topics[0].partitions[0].error_code;
        let committed = coordinated(coordinator, &request, 2, code);
        assert_eq!(code(&committed), 0, "a commit of {} is taken", self.group);
    }
}
