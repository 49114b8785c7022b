//! The groups of one partition of `__consumer_offsets`: which request meets, makes or misses which group.
//! Knows nothing of elections: whoever calls has made sure that this broker is their coordinator.
//! Source: kafka 3.9 GroupCoordinator.scala (the handle functions).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::config::sections::GroupConfig;
use crate::coordinator::core::Core;
use crate::coordinator::group::error::GroupError;
use crate::coordinator::group::records::{self, GroupRecord};
use crate::coordinator::group::replay::Replay;
use crate::coordinator::group::requests::{Caller, Commit, CommitAnswer, Join, JoinAnswer, Leaving, Sync};
use crate::coordinator::group::state::{Group, GroupState};
use crate::coordinator::group::turn::{AppendId, GroupEffect, GroupVocabulary, ReplyTo, TimerKey, Turn};
use crate::coordinator::topic_log::AppendOutcome;
use crate::model::internal_topics::GROUP_METADATA_TOPIC;
use crate::model::{GenerationId, LeaderEpoch, TopicPartition};
use crate::record::build::BatchBuilder;
use crate::record::compression::Codec;
use crate::record::read::ReadBatch;

#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: BTreeMap<Arc<str>, Group>,
}

impl Groups {
    pub(crate) fn get(&self, group_id: &str) -> Option<&Group> {
        self.groups.get(group_id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    fn get_or_create(&mut self, group_id: &str, turn: &Turn<'_>) -> &mut Group {
        if !self.groups.contains_key(group_id) {
            let id: Arc<str> = Arc::from(group_id);
            self.groups.insert(Arc::clone(&id), Group::new(id, turn.now.wall_ms));
        }
        self.groups.get_mut(group_id).expect("inserted above if it was missing")
    }

    pub(crate) fn join(&mut self, group_id: &str, join: Join, reply: ReplyTo, turn: &mut Turn<'_>) {
        let settings = turn.settings;
        if join.session_timeout_ms < settings.group_min_session_timeout_ms
            || join.session_timeout_ms > settings.group_max_session_timeout_ms
        {
            let refusal = JoinAnswer::refused(join.member_id, GroupError::InvalidSessionTimeout);
            return turn.answer_join(reply, refusal);
        }
        if join.member_id.is_empty() {
            return self.get_or_create(group_id, turn).join(join, reply, turn);
        }
        match self.groups.get_mut(group_id) {
            Some(group) => group.join(join, reply, turn),
            None => turn.answer_join(reply, JoinAnswer::refused(join.member_id, GroupError::UnknownMemberId)),
        }
    }

    pub(crate) fn sync(&mut self, group_id: &str, sync: Sync, reply: ReplyTo, turn: &mut Turn<'_>) {
        match self.groups.get_mut(group_id) {
            Some(group) => group.sync(sync, reply, turn),
            None => turn.answer_sync(reply, Err(GroupError::UnknownMemberId)),
        }
    }

    pub(crate) fn heartbeat(&mut self, group_id: &str, caller: &Caller, turn: &mut Turn<'_>) -> Result<(), GroupError> {
        self.groups.get_mut(group_id).ok_or(GroupError::UnknownMemberId)?.heartbeat(caller, turn)
    }

    /// One answer per leaving member, in order.
    pub(crate) fn leave(
        &mut self,
        group_id: &str,
        leaving: &[Leaving],
        turn: &mut Turn<'_>,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        match self.groups.get_mut(group_id) {
            Some(group) => group.leave(leaving, turn),
            None => Ok(vec![Err(GroupError::UnknownMemberId); leaving.len()]),
        }
    }

    pub(crate) fn commit_offsets(&mut self, group_id: &str, commit: Commit, reply: ReplyTo, turn: &mut Turn<'_>) {
        if commit.caller.generation_id < GenerationId(0) {
            // The client does not rely on the coordinator for its membership, so there need not be a group yet.
            return self.get_or_create(group_id, turn).commit_offsets(commit, reply, turn);
        }
        match self.groups.get_mut(group_id) {
            Some(group) => group.commit_offsets(commit, reply, turn),
            None => turn.answer_commit(reply, CommitAnswer::Refused(GroupError::IllegalGeneration)),
        }
    }

    pub(crate) fn delete(&mut self, group_id: &str, turn: &mut Turn<'_>) -> Result<(), GroupError> {
        self.groups.get_mut(group_id).ok_or(GroupError::GroupIdNotFound)?.delete(turn)?;
        self.groups.remove(group_id);
        Ok(())
    }

    /// One answer per partition, in order.
    pub(crate) fn delete_offsets(
        &mut self,
        group_id: &str,
        partitions: &[(Arc<str>, i32)],
        turn: &mut Turn<'_>,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        let group = self.groups.get_mut(group_id).ok_or(GroupError::GroupIdNotFound)?;
        // An empty request still learns that the group may not be touched.
        group.refuses_deletion_of("")?;
        let mut answers = Vec::with_capacity(partitions.len());
        let mut deletable = Vec::with_capacity(partitions.len());
        for (topic, partition) in partitions {
            if group.refuses_deletion_of(topic)? {
                answers.push(Err(GroupError::GroupSubscribedToTopic));
            } else {
                answers.push(Ok(()));
                deletable.push((Arc::clone(topic), *partition));
            }
        }
        if !deletable.is_empty() {
            turn.effect(GroupEffect::OffsetsDeleted(deletable.len()));
            if group.forget(deletable, turn) {
                self.groups.remove(group_id);
            }
        }
        Ok(answers)
    }

    /// These partitions are gone from the cluster, and what anybody has read of them means nothing any more.
    pub(crate) fn forget_partitions(&mut self, partitions: &[TopicPartition], turn: &mut Turn<'_>) {
        self.groups.retain(|_, group| {
            let gone = partitions.iter().map(|p| (Arc::clone(&p.topic), p.partition)).collect();
            !group.forget(gone, turn)
        });
    }

    /// The periodic round: offsets nobody reads any more, groups nobody uses any more.
    pub(crate) fn expire(&mut self, turn: &mut Turn<'_>) {
        self.groups.retain(|_, group| !group.expire(turn));
    }
}

impl Core for Groups {
    type Vocabulary = GroupVocabulary;
    type Replay = Replay;

    const TOPIC: &'static str = GROUP_METADATA_TOPIC;
    const NAME: &'static str = "group coordinator";

    fn encode(
        group_id: &str,
        group_records: &Vec<GroupRecord>,
        settings: &GroupConfig,
        now_ms: i64,
    ) -> Result<Bytes, String> {
        let codec = u8::try_from(settings.offsets_topic_compression_codec).ok().and_then(Codec::from_id);
        let mut batch = BatchBuilder::new().compression(codec.unwrap_or(Codec::None), None);
        for record in group_records {
            let encoded = records::encode(group_id, record, settings.inter_broker_protocol_version)
                .map_err(|error| error.to_string())?;
            batch.append(now_ms, Some(&encoded.key), encoded.value.as_deref(), &[]);
        }
        Ok(batch.build())
    }

    fn replay(replay: &mut Replay, batch: ReadBatch<'_>) -> Result<(), String> {
        replay.batch(batch)
    }

    fn load(&mut self, replay: Replay, _: LeaderEpoch, turn: &mut Turn<'_>) -> usize {
        let loaded = replay.into_groups(turn.now.wall_ms);
        let count = loaded.len();
        for mut group in loaded {
            log::info!("Loading group metadata for {} with generation {}", group.group_id(), group.generation_id());
            group.loaded(turn);
            self.groups.insert(Arc::clone(group.group_id()), group);
        }
        count
    }

    fn unload(&mut self, turn: &mut Turn<'_>) -> usize {
        let groups = std::mem::take(&mut self.groups);
        let count = groups.len();
        for mut group in groups.into_values() {
            log::info!("Unloading group metadata for {} with generation {}", group.group_id(), group.generation_id());
            if group.state() != GroupState::Dead {
                group.die(GroupError::NotCoordinator, turn);
            }
        }
        count
    }

    fn appended(&mut self, group_id: &str, append: AppendId, outcome: AppendOutcome, turn: &mut Turn<'_>) {
        if let Some(group) = self.groups.get_mut(group_id) {
            group.appended(append, outcome, turn);
        }
    }

    fn timer_fired(&mut self, timer: &TimerKey, turn: &mut Turn<'_>) {
        if let Some(group) = self.groups.get_mut(&timer.of) {
            group.timer_fired(&timer.kind, turn);
        }
    }

    fn bytes(&self) -> u64 {
        0
    }
}
