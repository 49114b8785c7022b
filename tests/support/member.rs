//! The only member of a group, alive for longer than the test: whoever coordinates the group next must know it.

use bytes::Bytes;
use odradek::protocol::error_code::ErrorCode;
use odradek::protocol::message::Request;
use odradek::protocol::messages::heartbeat::HeartbeatRequest;
use odradek::protocol::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use odradek::protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic, OffsetCommitResponse,
};
use odradek::protocol::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use odradek::protocol::messages::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};

use super::client::Client;
use super::transactional::{Producer, settled};
use super::{PATIENCE, eventually};

pub struct Member {
    group: &'static str,
    id: String,
    /// Of a static member, its name.
    instance: Option<&'static str>,
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
        let mut member = Member { group, id: String::new(), instance: None, generation: -1 };
        member.join(coordinator);
        member
    }

    /// Whoever had the name before is replaced.
    pub fn joins_as(instance: &'static str, group: &'static str, coordinator: &impl Fn() -> Client) -> Member {
        let mut member = Member { group, id: String::new(), instance: Some(instance), generation: -1 };
        member.join(coordinator);
        member
    }

    /// A member that joins again begins the group's next generation.
    fn join(&mut self, coordinator: &impl Fn() -> Client) {
        let protocol = JoinGroupRequestProtocol { name: "range".into(), metadata: Bytes::from_static(b"subscribed") };
        let request = JoinGroupRequest {
            group_id: self.group.into(),
            session_timeout_ms: 300_000,
            rebalance_timeout_ms: 300_000,
            member_id: self.id.clone(),
            group_instance_id: self.instance.map(str::to_owned),
            protocol_type: "test".into(),
            protocols: vec![protocol],
            ..Default::default()
        };
        let version = if self.instance.is_some() { 5 } else { 2 };
        let joined = coordinated(coordinator, &request, version, |answer| answer.error_code);
        assert_eq!(joined.error_code, 0, "{joined:?}");
        (self.id, self.generation) = (joined.member_id, joined.generation_id);
        assert_eq!(self.assignment(coordinator, "all"), "all");
    }

    /// Asks for its share; only the first time it also tells it.
    fn assignment(&self, coordinator: &impl Fn() -> Client, told: &'static str) -> Bytes {
        let told = Bytes::from_static(told.as_bytes());
        let request = SyncGroupRequest {
            group_id: self.group.into(),
            generation_id: self.generation,
            member_id: self.id.clone(),
            group_instance_id: self.instance.map(str::to_owned),
            assignments: vec![SyncGroupRequestAssignment { member_id: self.id.clone(), assignment: told }],
            ..Default::default()
        };
        let version = if self.instance.is_some() { 3 } else { 2 };
        let synced = coordinated(coordinator, &request, version, |answer| answer.error_code);
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

    /// In a transaction, as the member of a generation.
    fn commits_in_transaction(
        &self,
        generation_id: i32,
        producer: &Producer,
        version: i16,
        coordinator: &impl Fn() -> Client,
    ) -> ErrorCode {
        let partitions = vec![TxnOffsetCommitRequestPartition { committed_offset: 1, ..Default::default() }];
        let request = TxnOffsetCommitRequest {
            transactional_id: producer.id.clone(),
            group_id: self.group.into(),
            producer_id: producer.me.producer_id,
            producer_epoch: producer.me.producer_epoch,
            generation_id,
            member_id: self.id.clone(),
            group_instance_id: self.instance.map(str::to_owned),
            topics: vec![TxnOffsetCommitRequestTopic { name: "orders".into(), partitions }],
        };
        let commit = || {
            let told = coordinator().call(&request, version).expect("TxnOffsetCommit is answered");
            told.topics[0].partitions[0].error_code
        };
        ErrorCode::from_code(settled("the coordinators have decided", commit, |code| *code))
    }

    /// KIP-447: a static member commits in the transaction of a producer, but not for a generation that is over, nor once
    /// another has replaced it. Source: kafka 3.9 GroupCoordinator.scala, validateOffsetCommit.
    pub fn commits_while_it_is_one(
        group: &'static str,
        producer: &Producer,
        version: i16,
        coordinator: &impl Fn() -> Client,
    ) {
        use ErrorCode::{FencedInstanceId, IllegalGeneration, None, UnknownMemberId};
        let mut first = Member::joins_as("i", group, coordinator);
        let before = first.generation;
        first.join(coordinator);
        assert_eq!(first.generation, before + 1);
        let commits =
            |member: &Member, generation| member.commits_in_transaction(generation, producer, version, coordinator);
        assert_eq!(commits(&first, first.generation), None, "version {version}");
        for generation in [before, -1, first.generation + 1] {
            assert_eq!(commits(&first, generation), IllegalGeneration, "version {version}, generation {generation}");
        }
        let second = Member::joins_as("i", group, coordinator);
        assert_ne!(second.id, first.id);
        assert_eq!(commits(&first, second.generation), FencedInstanceId, "version {version}");
        assert_eq!(commits(&second, second.generation), None, "version {version}");
        let nameless = Member { instance: Option::None, id: first.id.clone(), ..second };
        assert_eq!(commits(&nameless, nameless.generation), UnknownMemberId, "version {version}");
        let other = Member { instance: Some("j"), ..nameless };
        assert_eq!(commits(&other, other.generation), UnknownMemberId, "version {version}");
    }
}
