//! The groups of one partition of `__consumer_offsets`: which request meets, makes or misses which group.
//! Knows nothing of elections: whoever calls has made sure that this broker is their coordinator.
//! Source: kafka 3.9 GroupCoordinator.scala (the handle functions).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use crate::config::sections::GroupConfig;
use crate::coordinator::core::Core;
use crate::coordinator::group::error::GroupError;
use crate::coordinator::group::offsets::GroupOffsets;
use crate::coordinator::group::records::{self, GroupBatch};
use crate::coordinator::group::replay::Replay;
use crate::coordinator::group::requests::{Caller, Commit, CommitAnswer, Join, JoinAnswer, Leaving, Sync};
use crate::coordinator::group::state::{GROUP_BYTES, Group, GroupState};
use crate::coordinator::group::turn::{
    AppendId, COORDINATOR_MAX_BYTES, GroupEffect, GroupVocabulary, ReplyTo, TimerKey, Turn,
};
use crate::coordinator::topic_log::AppendOutcome;
use crate::coordinator::transaction::state::Producer;
use crate::model::internal_topics::GROUP_METADATA_TOPIC;
use crate::model::{GenerationId, LeaderEpoch, Offset, ProducerId, TopicPartition};
use crate::record::append_rules::AppendOrigin;
use crate::record::build::{BatchBuilder, TransactionOutcome};
use crate::record::compression::Codec;
use crate::record::read::ReadBatch;

#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: BTreeMap<Arc<str>, Group>,
    /// Of all groups.
    bytes: usize,
    /// The pending member ids of all groups with their groups, by the requests that they were handed out to: the oldest first.
    handed_out: BTreeMap<ReplyTo, (Arc<str>, Arc<str>)>,
    /// The groups with offsets in open transactions, by the producer.
    in_transactions: HashMap<ProducerId, BTreeSet<Arc<str>>>,
}

impl Groups {
    pub(crate) fn get(&self, group_id: &str) -> Option<&Group> {
        self.groups.get(group_id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    /// The one way in which a group changes: what it takes is counted anew, and what is left of nothing goes.
    fn change<R>(&mut self, group_id: &str, change: impl FnOnce(&mut Group) -> R) -> Option<R> {
        let group = self.groups.get_mut(group_id)?;
        self.bytes -= group.bytes();
        let result = change(group);
        for handed_out_to in group.take_no_longer_pending() {
            self.handed_out.remove(&handed_out_to);
        }
        if group.state() == GroupState::Dead || group.is_blank() {
            self.groups.remove(group_id);
        } else {
            self.bytes += group.bytes();
        }
        Some(result)
    }

    /// The same for a group that need not exist yet.
    fn change_or_create<R>(&mut self, group_id: &str, now_ms: i64, change: impl FnOnce(&mut Group) -> R) -> R {
        if !self.groups.contains_key(group_id) {
            let group = Group::new(Arc::from(group_id), now_ms);
            self.bytes += group.bytes();
            self.groups.insert(Arc::clone(group.group_id()), group);
        }
        self.change(group_id, change).expect("inserted above if it was missing")
    }

    /// So many bytes more the broker may hold for groups.
    fn room(&self, turn: &Turn<'_>) -> usize {
        let held = turn.bytes_elsewhere.saturating_add(self.bytes as u64);
        let room = turn.settings.group_coordinator_max_bytes.saturating_sub(held);
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    /// Whether there is room for them. What is no growth is always welcome.
    fn has_room_for(&self, group_id: &str, growth: usize, turn: &mut Turn<'_>) -> bool {
        let has_room = growth == 0 || growth <= self.room(turn);
        if !has_room {
            turn.refused_for_size(group_id, COORDINATOR_MAX_BYTES);
        }
        has_room
    }

    fn growth_by_group(&self, group_id: &str) -> usize {
        if self.groups.contains_key(group_id) { 0 } else { GROUP_BYTES + group_id.len() }
    }

    pub(crate) fn join(&mut self, group_id: &str, join: Join, reply: ReplyTo, turn: &mut Turn<'_>) {
        let settings = turn.settings;
        if join.session_timeout_ms < settings.group_min_session_timeout_ms
            || join.session_timeout_ms > settings.group_max_session_timeout_ms
        {
            let refusal = JoinAnswer::refused(join.member_id, GroupError::InvalidSessionTimeout);
            return turn.answer_join(reply, refusal);
        }
        if !join.member_id.is_empty() && !self.groups.contains_key(group_id) {
            return turn.answer_join(reply, JoinAnswer::refused(join.member_id, GroupError::UnknownMemberId));
        }
        let growth = match self.groups.get(group_id) {
            Some(group) => group.growth_by(&join),
            None => self.growth_by_group(group_id) + Group::new(Arc::from(""), 0).growth_by(&join),
        };
        if !self.has_room_for(group_id, growth, turn) {
            let refusal = JoinAnswer::refused(join.member_id, GroupError::GroupMaxSizeReached);
            return turn.answer_join(reply, refusal);
        }
        let may_be_handed = join.member_id.is_empty().then(|| Arc::clone(&join.new_member_id));
        let handed_out = self.change_or_create(group_id, turn.now.wall_ms, |group| {
            group.join(join, reply, turn);
            let handed_out = may_be_handed.filter(|member_id| group.is_pending(member_id));
            handed_out.map(|member_id| (Arc::clone(group.group_id()), member_id))
        });
        if let Some(handed_out) = handed_out {
            self.handed_out.insert(reply, handed_out);
            self.take_back_oldest(turn);
        }
    }

    /// Member ids that nobody joins with cost their sender one small request each, and are kept for as long as it says.
    /// So only the latest count; whoever comes late is told that it is no member, and asks for another id.
    fn take_back_oldest(&mut self, turn: &mut Turn<'_>) {
        let partitions = usize::try_from(turn.settings.offsets_topic_num_partitions).unwrap_or(0).max(1);
        let kept = (turn.settings.group_max_pending_members / partitions).max(1);
        while self.handed_out.len() > kept
            && let Some((_, (group_id, member_id))) = self.handed_out.pop_first()
        {
            self.change(&group_id, |group| {
                if group.is_pending(&member_id) {
                    turn.effect(GroupEffect::PendingMemberEvicted);
                    group.pending_member_is_gone(&member_id, turn);
                }
            });
        }
    }

    pub(crate) fn sync(&mut self, group_id: &str, sync: Sync, reply: ReplyTo, turn: &mut Turn<'_>) {
        let room = self.room(turn);
        if self.change(group_id, |group| group.sync(sync, room, reply, turn)).is_none() {
            turn.answer_sync(reply, Err(GroupError::UnknownMemberId));
        }
    }

    pub(crate) fn heartbeat(&mut self, group_id: &str, caller: &Caller, turn: &mut Turn<'_>) -> Result<(), GroupError> {
        // Nothing grows by a heartbeat.
        self.groups.get_mut(group_id).ok_or(GroupError::UnknownMemberId)?.heartbeat(caller, turn)
    }

    /// One answer per leaving member, in order.
    pub(crate) fn leave(
        &mut self,
        group_id: &str,
        leaving: &[Leaving],
        turn: &mut Turn<'_>,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        let answers = self.change(group_id, |group| group.leave(leaving, turn));
        answers.unwrap_or_else(|| Ok(vec![Err(GroupError::UnknownMemberId); leaving.len()]))
    }

    pub(crate) fn commit_offsets(&mut self, group_id: &str, commit: Commit, reply: ReplyTo, turn: &mut Turn<'_>) {
        // The client that does not rely on the coordinator for its membership need not have a group yet.
        let creates = commit.transaction.is_some() || commit.caller.generation_id < GenerationId(0);
        if !creates && !self.groups.contains_key(group_id) {
            return turn.answer_commit(reply, CommitAnswer::Refused(GroupError::IllegalGeneration));
        }
        let nothing = GroupOffsets::default();
        let known = self.groups.get(group_id).map_or(&nothing, Group::offsets);
        let producer_id = commit.transaction.map(|producer| producer.id);
        let growth: usize = commit.offsets.iter().map(|offset| known.growth_by(offset, producer_id)).sum();
        let growth = self.growth_by_group(group_id) + growth;
        if !self.has_room_for(group_id, growth, turn) {
            return turn.answer_commit(reply, CommitAnswer::Refused(GroupError::InvalidCommitOffsetSize));
        }
        let pending = self.change_or_create(group_id, turn.now.wall_ms, |group| {
            group.commit_offsets(commit, reply, turn);
            let producer_id = producer_id.filter(|producer_id| group.is_in_transaction_of(*producer_id));
            producer_id.map(|producer_id| (producer_id, Arc::clone(group.group_id())))
        });
        if let Some((producer_id, group_id)) = pending {
            self.in_transactions.entry(producer_id).or_default().insert(group_id);
        }
    }

    /// The producer's transaction has ended: so says the marker at this offset.
    pub(crate) fn transaction_ended(&mut self, producer_id: ProducerId, outcome: TransactionOutcome, marker: Offset) {
        let mut groups = self.in_transactions.remove(&producer_id).unwrap_or_default();
        groups.retain(|group_id| {
            let goes_on = self.change(group_id, |group| {
                group.transaction_ended(producer_id, outcome, marker);
                group.is_in_transaction_of(producer_id)
            });
            goes_on == Some(true)
        });
        if !groups.is_empty() {
            self.in_transactions.insert(producer_id, groups);
        }
    }

    pub(crate) fn delete(&mut self, group_id: &str, turn: &mut Turn<'_>) -> Result<(), GroupError> {
        self.change(group_id, |group| group.delete(turn)).unwrap_or(Err(GroupError::GroupIdNotFound))
    }

    /// One answer per partition, in order.
    pub(crate) fn delete_offsets(
        &mut self,
        group_id: &str,
        partitions: &[(Arc<str>, i32)],
        turn: &mut Turn<'_>,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        let group = self.groups.get(group_id).ok_or(GroupError::GroupIdNotFound)?;
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
            self.change(group_id, |group| group.forget(deletable, turn));
        }
        Ok(answers)
    }

    /// These partitions are gone from the cluster, and what anybody has read of them means nothing any more.
    pub(crate) fn forget_partitions(&mut self, partitions: &[TopicPartition], turn: &mut Turn<'_>) {
        let mut by_topic: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for partition in partitions {
            by_topic.entry(&partition.topic).or_default().push(partition.partition);
        }
        self.change_all(|group| {
            let gone = group.offsets().known_of(&by_topic);
            if !gone.is_empty() {
                group.forget(gone, turn);
            }
        });
    }

    /// The periodic round: offsets nobody reads any more, groups nobody uses any more.
    pub(crate) fn expire(&mut self, turn: &mut Turn<'_>) {
        self.change_all(|group| {
            group.expire(turn);
        });
    }

    fn change_all(&mut self, mut change: impl FnMut(&mut Group)) {
        let mut bytes = 0;
        self.groups.retain(|_, group| {
            change(group);
            for handed_out_to in group.take_no_longer_pending() {
                self.handed_out.remove(&handed_out_to);
            }
            let stays = group.state() != GroupState::Dead;
            bytes += if stays { group.bytes() } else { 0 };
            stays
        });
        self.bytes = bytes;
    }

    #[cfg(test)]
    pub(super) fn producers_waited_for(&self) -> usize {
        self.in_transactions.len()
    }

    /// What `bytes` must be.
    #[cfg(test)]
    pub(super) fn counted_bytes(&self) -> usize {
        let pending = self.groups.values().map(|group| group.pending_members.len()).sum::<usize>();
        assert_eq!(self.handed_out.len(), pending, "what is handed out and pending");
        self.groups.values().map(Group::bytes).sum()
    }
}

impl Core for Groups {
    type Vocabulary = GroupVocabulary;
    type Replay = Replay;

    const TOPIC: &'static str = GROUP_METADATA_TOPIC;
    const NAME: &'static str = "group coordinator";

    fn encode(group_id: &str, group_batch: &GroupBatch, settings: &GroupConfig, now_ms: i64) -> Result<Bytes, String> {
        let codec = u8::try_from(settings.offsets_topic_compression_codec).ok().and_then(Codec::from_id);
        let mut batch = BatchBuilder::new().compression(codec.unwrap_or(Codec::None), None);
        if let Some(Producer { id, epoch }) = group_batch.transaction {
            // Coordinators' sequences are not looked at.
            batch = batch.producer(id.0, epoch.0, 0).transactional(true);
        }
        for record in &group_batch.records {
            let encoded = records::encode(group_id, record, settings.inter_broker_protocol_version)
                .map_err(|error| error.to_string())?;
            batch.append(now_ms, Some(&encoded.key), encoded.value.as_deref(), &[]);
        }
        Ok(batch.build())
    }

    fn origin(batch: &GroupBatch) -> AppendOrigin {
        match batch.must_be_verified {
            true => AppendOrigin::VerifiedCoordinator,
            false => AppendOrigin::Coordinator,
        }
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
            for producer_id in group.offsets().producers() {
                self.in_transactions.entry(producer_id).or_default().insert(Arc::clone(group.group_id()));
            }
            self.bytes += group.bytes();
            self.groups.insert(Arc::clone(group.group_id()), group);
        }
        count
    }

    fn unload(&mut self, turn: &mut Turn<'_>) -> usize {
        let groups = std::mem::take(self).groups;
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
        let goes_on = self.change(group_id, |group| {
            let producer_id = group.producer_of(append);
            group.appended(append, outcome, turn);
            producer_id.map(|producer_id| (producer_id, group.is_in_transaction_of(producer_id)))
        });
        // It failed, or its marker was told of before: no other one need come.
        if let Some(Some((producer_id, false))) = goes_on
            && let Some(groups) = self.in_transactions.get_mut(&producer_id)
        {
            groups.remove(group_id);
            if groups.is_empty() {
                self.in_transactions.remove(&producer_id);
            }
        }
    }

    fn timer_fired(&mut self, timer: &TimerKey, turn: &mut Turn<'_>) {
        self.change(&timer.of, |group| group.timer_fired(&timer.kind, turn));
    }

    fn bytes(&self) -> u64 {
        self.bytes as u64
    }
}
