//! The offsets of a group: committed, fetched, expired, deleted.
//!
//! An offset counts only once its record is in the log. Two commits of one partition may be on their way at once, one
//! of them perhaps inside a transaction, so each remembers where its batch stands in the log, and the later batch wins,
//! as it will when the log is loaded or compacted.
//! Source: kafka 3.9 GroupMetadata.scala, GroupMetadataManager.scala (storeOffsets, cleanupGroupMetadata).

use std::collections::HashMap;
use std::sync::Arc;

use crate::coordinator::group::error::GroupError;
use crate::coordinator::group::rebalance::{Caller, PendingAppend};
use crate::coordinator::group::state::{CONSUMER, Group, GroupState};
use crate::coordinator::group::turn::{Action, CommitAnswer, GroupRecord, ReplyTo, Turn};
use crate::coordinator::topic_log::AppendFailure;
use crate::model::{GenerationId, LeaderEpoch, Offset, ProducerId};

/// What a group has read of a partition: everything below `offset`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommittedOffset {
    pub(crate) offset: Offset,
    /// Of the last record read; -1 if the client does not say.
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) metadata: Arc<str>,
    pub(crate) commit_timestamp_ms: i64,
    /// Only for commits that asked for a retention of their own.
    pub(crate) expire_timestamp_ms: Option<i64>,
}

/// One partition of an OffsetCommit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OffsetToCommit {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) committed: CommittedOffset,
}

/// Whether metadata may be stored beside an offset. The limit counts UTF-16 code units, of which no string has more
/// than it has bytes.
pub(crate) fn metadata_fits(metadata: &str, max: usize) -> bool {
    metadata.len() <= max || metadata.encode_utf16().count() <= max
}

/// Offsets on their way into the log.
#[derive(Debug)]
pub(super) struct StoringOffsets {
    pub(super) reply: ReplyTo,
    offsets: Vec<OffsetToCommit>,
}

/// An offset and where in `__consumer_offsets` its batch starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordedOffset {
    pub(crate) appended_at: Offset,
    pub(crate) committed: CommittedOffset,
}

#[derive(Debug, Default)]
struct PartitionOffset {
    recorded: Option<RecordedOffset>,
    /// How many commits are on their way into the log.
    storing: u32,
}

/// What OffsetFetch finds for one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FoundOffset<'a> {
    None,
    Committed(&'a CommittedOffset),
    /// A commit is on its way whose outcome may change the answer.
    Unstable,
}

#[derive(Debug, Default)]
pub(crate) struct GroupOffsets {
    topics: HashMap<Arc<str>, HashMap<i32, PartitionOffset>>,
    /// Recorded inside transactions that were open at the end of what was loaded. As this broker takes part in none,
    /// their end is seen when the partition is loaded again; until then these partitions have no stable offset.
    in_transactions: HashMap<ProducerId, HashMap<(Arc<str>, i32), RecordedOffset>>,
}

impl GroupOffsets {
    pub(crate) fn find(&self, topic: &str, partition: i32, require_stable: bool) -> FoundOffset<'_> {
        let known = self.topics.get(topic).and_then(|partitions| partitions.get(&partition));
        if require_stable && (known.is_some_and(|p| p.storing > 0) || self.is_in_transaction(topic, partition)) {
            return FoundOffset::Unstable;
        }
        match known.and_then(|p| p.recorded.as_ref()) {
            Some(recorded) => FoundOffset::Committed(&recorded.committed),
            None => FoundOffset::None,
        }
    }

    fn is_in_transaction(&self, topic: &str, partition: i32) -> bool {
        self.in_transactions.values().flat_map(HashMap::keys).any(|(t, p)| **t == *topic && *p == partition)
    }

    /// Topics with the partitions that have a committed offset.
    pub(crate) fn committed(&self) -> impl Iterator<Item = (&Arc<str>, impl Iterator<Item = i32>)> {
        self.topics.iter().map(|(topic, partitions)| {
            (topic, partitions.iter().filter(|(_, p)| p.recorded.is_some()).map(|(partition, _)| *partition))
        })
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.topics.values().flat_map(HashMap::values).filter(|p| p.recorded.is_some()).count()
    }

    /// Also those that are only on their way.
    pub(crate) fn is_empty(&self) -> bool {
        self.topics.is_empty() && self.in_transactions.is_empty()
    }

    /// Takes over an offset that is in the log, unless a later one is already known.
    pub(crate) fn record(&mut self, topic: Arc<str>, partition: i32, recorded: RecordedOffset) {
        let entry = self.topics.entry(topic).or_default().entry(partition).or_default();
        if entry.recorded.as_ref().is_none_or(|known| known.appended_at <= recorded.appended_at) {
            entry.recorded = Some(recorded);
        }
    }

    /// Such an offset does not count before its transaction commits.
    pub(crate) fn record_in_transaction(
        &mut self,
        producer_id: ProducerId,
        topic: Arc<str>,
        partition: i32,
        recorded: RecordedOffset,
    ) {
        self.in_transactions.entry(producer_id).or_default().insert((topic, partition), recorded);
    }

    fn start_storing(&mut self, offset: &OffsetToCommit) {
        // The usual commit is of a partition that has been committed before: then no name is cloned.
        let partitions = match self.topics.get_mut(&offset.topic) {
            Some(partitions) => partitions,
            None => self.topics.entry(Arc::clone(&offset.topic)).or_default(),
        };
        partitions.entry(offset.partition).or_default().storing += 1;
    }

    /// `stored_at` is `None` if the append failed.
    fn end_storing(&mut self, offset: OffsetToCommit, stored_at: Option<Offset>) {
        let OffsetToCommit { topic, partition, committed } = offset;
        let entry = self.topics.get_mut(&topic).and_then(|partitions| partitions.get_mut(&partition));
        let entry = entry.expect("a partition is kept while a commit of it is on its way");
        entry.storing -= 1;
        if let Some(appended_at) = stored_at
            && entry.recorded.as_ref().is_none_or(|known| known.appended_at <= appended_at)
        {
            entry.recorded = Some(RecordedOffset { appended_at, committed });
        }
        self.forget_if_empty(&topic, partition);
    }

    fn forget_if_empty(&mut self, topic: &str, partition: i32) {
        if let Some(partitions) = self.topics.get_mut(topic) {
            if partitions.get(&partition).is_some_and(|p| p.recorded.is_none() && p.storing == 0) {
                partitions.remove(&partition);
            }
            if partitions.is_empty() {
                self.topics.remove(topic);
            }
        }
    }

    /// Forgets a partition. True if it has an offset in the log, perhaps on its way there, which needs a tombstone.
    fn remove(&mut self, topic: &str, partition: i32) -> bool {
        self.in_transactions.retain(|_, offsets| {
            offsets.retain(|(t, p), _| !(**t == *topic && *p == partition));
            !offsets.is_empty()
        });
        let Some(partitions) = self.topics.get_mut(topic) else { return false };
        let Some(entry) = partitions.get_mut(&partition) else { return false };
        let had_offset = entry.recorded.take().is_some() || entry.storing > 0;
        entry.storing = 0;
        self.forget_if_empty(topic, partition);
        had_offset
    }

    /// Every partition with an offset in the log or on its way there.
    fn all(&self) -> Vec<(Arc<str>, i32)> {
        self.topics
            .iter()
            .flat_map(|(topic, partitions)| partitions.keys().map(|partition| (Arc::clone(topic), *partition)))
            .collect()
    }
}

/// An OffsetCommit.
#[derive(Debug)]
pub(crate) struct Commit {
    /// Who commits; no member id and generation -1 for a client that assigns partitions itself.
    pub(crate) caller: Caller,
    pub(crate) offsets: Vec<OffsetToCommit>,
}

impl Group {
    pub(crate) fn offsets(&self) -> &GroupOffsets {
        &self.offsets
    }

    pub(crate) fn offsets_mut(&mut self) -> &mut GroupOffsets {
        &mut self.offsets
    }

    /// Answers `reply` now, or when the offsets are stored.
    pub(crate) fn commit_offsets(&mut self, commit: Commit, reply: ReplyTo, turn: &mut Turn<'_>) {
        if let Err(error) = self.check_committer(&commit.caller) {
            return turn.answer_commit(reply, CommitAnswer::Refused(error));
        }
        match self.state {
            GroupState::Empty => {}
            // Commits of the old generation are welcome until its members join again: they learn of the rebalance by
            // their heartbeats.
            GroupState::Stable | GroupState::PreparingRebalance => {
                self.restart_session(&commit.caller.member_id, turn);
            }
            GroupState::CompletingRebalance => {
                return turn.answer_commit(reply, CommitAnswer::Refused(GroupError::RebalanceInProgress));
            }
            GroupState::Dead => {
                return turn.answer_commit(reply, CommitAnswer::Refused(GroupError::CoordinatorNotAvailable));
            }
        }
        let max = turn.settings.offset_metadata_max_bytes;
        let mut offsets = commit.offsets;
        offsets.retain(|offset| metadata_fits(&offset.committed.metadata, max));
        if offsets.is_empty() {
            return turn.answer_commit(reply, CommitAnswer::Stored(Ok(())));
        }
        let records = offsets
            .iter()
            .map(|offset| GroupRecord::Offset {
                topic: Arc::clone(&offset.topic),
                partition: offset.partition,
                committed: Some(offset.committed.clone()),
            })
            .collect();
        let append = turn.append(&self.group_id, records);
        for offset in &offsets {
            self.offsets.start_storing(offset);
        }
        self.appending.insert(append, PendingAppend::Offsets(StoringOffsets { reply, offsets }));
    }

    fn check_committer(&self, caller: &Caller) -> Result<(), GroupError> {
        let by_member = caller.generation_id >= GenerationId(0)
            || !caller.member_id.is_empty()
            || caller.group_instance_id.is_some();
        if self.state == GroupState::Dead {
            Err(GroupError::CoordinatorNotAvailable)
        } else if caller.generation_id < GenerationId(0) && self.state == GroupState::Empty {
            // An admin client, or a consumer that assigns its partitions itself.
            Ok(())
        } else if by_member {
            self.check_member(&caller.member_id, caller.group_instance_id.as_deref())?;
            if caller.generation_id == self.generation_id { Ok(()) } else { Err(GroupError::IllegalGeneration) }
        } else {
            // Only members commit while there are any.
            Err(GroupError::UnknownMemberId)
        }
    }

    pub(super) fn offsets_stored(
        &mut self,
        storing: StoringOffsets,
        outcome: Result<Offset, AppendFailure>,
        turn: &mut Turn<'_>,
    ) {
        for offset in storing.offsets {
            self.offsets.end_storing(offset, outcome.ok());
        }
        let answer = outcome.map(|_| ()).map_err(AppendFailure::for_offsets);
        turn.answer_commit(storing.reply, CommitAnswer::Stored(answer));
    }

    // Going away

    /// Forgets what nobody reads any more. True if nothing is left of the group, which is then dead.
    pub(crate) fn expire(&mut self, turn: &mut Turn<'_>) -> bool {
        let expired = self.expired_offsets(turn.now.wall_ms, turn.settings.offsets_retention_ms);
        self.forget(expired, turn)
    }

    fn expired_offsets(&self, now_ms: i64, retention_ms: i64) -> Vec<(Arc<str>, i32)> {
        let is_consumer_group = self.protocol_type.as_deref() == Some(CONSUMER);
        // The time from which an offset's retention counts, and the topics that are in use.
        let (since_ms, subscribed) = match (&self.protocol_type, self.state) {
            // Nobody has read for this group since it became empty. Old records do not say when that was.
            (Some(_), GroupState::Empty) => (self.state_since_ms, None),
            (Some(_), GroupState::Stable) if is_consumer_group && self.subscribed_topics.is_some() => {
                (None, self.subscribed_topics.as_ref())
            }
            // Clients that only store offsets here.
            (None, _) => (None, None),
            _ => return Vec::new(),
        };
        let is_expired = |entry: &PartitionOffset| {
            let Some(RecordedOffset { committed, .. }) = &entry.recorded else { return false };
            entry.storing == 0
                && match committed.expire_timestamp_ms {
                    Some(expires_ms) => now_ms >= expires_ms,
                    None => now_ms.saturating_sub(since_ms.unwrap_or(committed.commit_timestamp_ms)) >= retention_ms,
                }
        };
        self.offsets
            .topics
            .iter()
            .filter(|(topic, _)| subscribed.is_none_or(|topics| !topics.contains(*topic)))
            .flat_map(|(topic, partitions)| {
                let expired = partitions.iter().filter(|(_, entry)| is_expired(entry));
                expired.map(|(partition, _)| (Arc::clone(topic), *partition))
            })
            .filter(|(topic, partition)| !self.offsets.is_in_transaction(topic, *partition))
            .collect()
    }

    /// Deletes the offsets of these partitions, whoever asked for it; an empty group without offsets dies of it.
    pub(crate) fn forget(&mut self, partitions: Vec<(Arc<str>, i32)>, turn: &mut Turn<'_>) -> bool {
        let mut tombstones = Vec::new();
        for (topic, partition) in partitions {
            if self.forget_partition(&topic, partition) {
                tombstones.push(GroupRecord::Offset { topic, partition, committed: None });
            }
        }
        let dies = self.state == GroupState::Empty && self.offsets.is_empty();
        if dies {
            log::info!("Group {} transitioned to Dead in generation {}", self.group_id, self.generation_id);
            self.bury(&mut tombstones, turn);
        }
        if !tombstones.is_empty() {
            turn.actions.push_back(Action::Forget { group: Arc::clone(&self.group_id), records: tombstones });
        }
        dies
    }

    /// Commits of the partition that are on their way are answered as if they counted, and forgotten.
    fn forget_partition(&mut self, topic: &str, partition: i32) -> bool {
        for pending in self.appending.values_mut() {
            if let PendingAppend::Offsets(storing) = pending {
                storing.offsets.retain(|offset| !(*offset.topic == *topic && offset.partition == partition));
            }
        }
        self.offsets.remove(topic, partition)
    }

    /// Deletes an empty group with all it has. Commits on their way are written over by the tombstones that follow
    /// them, so they are refused.
    pub(crate) fn delete(&mut self, turn: &mut Turn<'_>) -> Result<(), GroupError> {
        match self.state {
            GroupState::Dead => Err(GroupError::GroupIdNotFound),
            GroupState::Empty => {
                let mut tombstones = Vec::new();
                for (topic, partition) in self.offsets.all() {
                    self.forget_partition(&topic, partition);
                    tombstones.push(GroupRecord::Offset { topic, partition, committed: None });
                }
                self.bury(&mut tombstones, turn);
                if !tombstones.is_empty() {
                    turn.actions.push_back(Action::Forget { group: Arc::clone(&self.group_id), records: tombstones });
                }
                Ok(())
            }
            GroupState::Stable | GroupState::PreparingRebalance | GroupState::CompletingRebalance => {
                Err(GroupError::NonEmptyGroup)
            }
        }
    }

    fn bury(&mut self, tombstones: &mut Vec<GroupRecord>, turn: &mut Turn<'_>) {
        // A group that never had a generation has no record of its own to write over.
        if self.generation_id > GenerationId(0) {
            tombstones.push(GroupRecord::Metadata(None));
        }
        self.die(GroupError::CoordinatorNotAvailable, turn);
    }

    /// OffsetDelete. True for partitions that may not be deleted because somebody subscribes to their topic.
    pub(crate) fn refuses_deletion_of(&self, topic: &str) -> Result<bool, GroupError> {
        match self.state {
            GroupState::Dead => Err(GroupError::GroupIdNotFound),
            GroupState::Empty => Ok(false),
            _ if self.protocol_type.as_deref() == Some(CONSUMER) => Ok(self.may_subscribe_to(topic)),
            _ => Err(GroupError::NonEmptyGroup),
        }
    }
}
