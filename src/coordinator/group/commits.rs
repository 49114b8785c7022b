//! What happens to a group's offsets: committed, expired, deleted.
//! Source: kafka 3.9 GroupMetadata.scala, GroupMetadataManager.scala (storeOffsets, cleanupGroupMetadata).

use std::collections::HashSet;
use std::sync::Arc;

use crate::coordinator::core::in_short_batches;
use crate::coordinator::group::error::GroupError;
use crate::coordinator::group::offsets::{PartitionOffset, RecordedOffset};
use crate::coordinator::group::pending::{PendingAppend, StoringOffsets};
use crate::coordinator::group::records::{GroupBatch, GroupRecord};
use crate::coordinator::group::requests::{Caller, Commit, CommitAnswer, metadata_fits};
use crate::coordinator::group::state::{CONSUMER, Group, GroupState};
use crate::coordinator::group::turn::{Action, AppendId, GroupEffect, ReplyTo, Turn};
use crate::coordinator::topic_log::AppendFailure;
use crate::model::{GenerationId, Offset, ProducerId};
use crate::record::build::TransactionOutcome;

impl Group {
    /// Answers `reply` now, or when the offsets are stored.
    pub(crate) fn commit_offsets(&mut self, commit: Commit, reply: ReplyTo, turn: &mut Turn<'_>) {
        if let Err(error) = self.check_committer(&commit.caller, commit.transaction.is_some()) {
            return turn.answer_commit(reply, CommitAnswer::Refused(error));
        }
        match self.state {
            // The producer of a transaction need not know of generations, and is no sign of life of a member.
            _ if commit.transaction.is_some() => {}
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
        let transaction = commit.transaction;
        let append =
            turn.append(&self.group_id, GroupBatch { records, transaction, must_be_verified: commit.must_be_verified });
        for offset in &offsets {
            self.offsets.start_storing(offset);
        }
        self.appending
            .insert(append, PendingAppend::Offsets(StoringOffsets { reply, offsets, transaction, ended: Vec::new() }));
    }

    fn check_committer(&self, caller: &Caller, is_transactional: bool) -> Result<(), GroupError> {
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
        } else if is_transactional {
            // Requests of older versions have no place for the member.
            Ok(())
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
        if outcome.is_ok() {
            turn.effect(GroupEffect::OffsetsCommitted(storing.offsets.len()));
        }
        let decided = outcome.ok().and_then(|stored_at| storing.outcome_at(stored_at));
        for offset in storing.offsets {
            match (storing.transaction, outcome.ok(), decided) {
                (Some(producer), Some(stored_at), None) => {
                    self.offsets.end_storing_in_transaction(producer.id, offset, stored_at);
                }
                (_, _, Some(TransactionOutcome::Abort)) => self.offsets.end_storing(offset, None),
                (_, stored_at, _) => self.offsets.end_storing(offset, stored_at),
            }
        }
        let answer = outcome.map(|_| ()).map_err(AppendFailure::for_offsets);
        turn.answer_commit(storing.reply, CommitAnswer::Stored(answer));
    }

    /// The producer's transaction has ended: so says the marker at this offset, and of what stands before it alone.
    pub(crate) fn transaction_ended(&mut self, producer_id: ProducerId, outcome: TransactionOutcome, marker: Offset) {
        self.offsets.transaction_ended(producer_id, outcome, marker);
        // The marker may be told of before the fate of an append before it is.
        for pending in self.appending.values_mut() {
            if let PendingAppend::Offsets(storing) = pending
                && storing.transaction.is_some_and(|producer| producer.id == producer_id)
            {
                storing.ended.push((marker, outcome));
            }
        }
    }

    /// The producer in whose transaction the append commits offsets, if it does.
    pub(crate) fn producer_of(&self, append: AppendId) -> Option<ProducerId> {
        match self.appending.get(&append)? {
            PendingAppend::Offsets(storing) => storing.transaction.map(|producer| producer.id),
            _ => None,
        }
    }

    /// Whether offsets of the producer wait for the end of its transaction.
    pub(crate) fn is_in_transaction_of(&self, producer_id: ProducerId) -> bool {
        let is_of = |storing: &StoringOffsets| storing.transaction.is_some_and(|producer| producer.id == producer_id);
        let mut appending = self.appending.values();
        self.offsets.are_in_transaction_of(producer_id)
            || appending.any(|pending| matches!(pending, PendingAppend::Offsets(storing) if is_of(storing)))
    }

    // Going away

    /// Forgets what nobody reads any more. True if nothing is left of the group, which is then dead.
    pub(crate) fn expire(&mut self, turn: &mut Turn<'_>) -> bool {
        let expired = self.expired_offsets(turn.now.wall_ms, turn.settings.offsets_retention_ms);
        if !expired.is_empty() {
            turn.effect(GroupEffect::OffsetsExpired(expired.len()));
        }
        self.forget(expired, turn)
    }

    fn expired_offsets(&self, now_ms: i64, retention_ms: i64) -> Vec<(Arc<str>, i32)> {
        let is_consumer_group = self.protocol_type.as_deref() == Some(CONSUMER);
        // The time before which no offset's retention counts, and the topics that are in use.
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
        // An offset may have been committed since, by an operator or by a consumer that is no member.
        let counts_from_ms = |commit_ms: i64| since_ms.map_or(commit_ms, |since_ms| since_ms.max(commit_ms));
        let is_expired = |entry: &PartitionOffset| {
            let Some(RecordedOffset { committed, .. }) = &entry.recorded else { return false };
            entry.is_stable()
                && match committed.expire_timestamp_ms {
                    Some(expires_ms) => now_ms >= expires_ms,
                    None => now_ms.saturating_sub(counts_from_ms(committed.commit_timestamp_ms)) >= retention_ms,
                }
        };
        self.offsets
            .iter()
            .filter(|(topic, _)| subscribed.is_none_or(|topics| !topics.contains(topic)))
            .flat_map(|(topic, partitions)| {
                let expired = partitions.iter().filter(|(_, entry)| is_expired(entry));
                expired.map(|(partition, _)| (Arc::clone(topic), *partition))
            })
            .collect()
    }

    /// Deletes the offsets of these partitions, whoever asked for it; an empty group without offsets dies of it.
    pub(crate) fn forget(&mut self, partitions: Vec<(Arc<str>, i32)>, turn: &mut Turn<'_>) -> bool {
        self.forget_commits_of(&partitions);
        let mut tombstones = Vec::new();
        for (topic, partition) in partitions {
            if self.offsets.remove(&topic, partition) {
                tombstones.push(GroupRecord::Offset { topic, partition, committed: None });
            }
        }
        let dies = self.state == GroupState::Empty && self.offsets.is_empty();
        if dies {
            log::info!("Group {} transitioned to Dead in generation {}", self.group_id, self.generation_id);
            self.bury(&mut tombstones, turn);
        }
        self.append_tombstones(tombstones, turn);
        dies
    }

    /// In some batches where there are many: one that is refused for its size would bring them all back.
    fn append_tombstones(&self, tombstones: Vec<GroupRecord>, turn: &mut Turn<'_>) {
        let bytes = |tombstone: &GroupRecord| match tombstone {
            GroupRecord::Offset { topic, .. } => self.group_id.len() + topic.len(),
            GroupRecord::Metadata(_) => self.group_id.len(),
        };
        for batch in in_short_batches(tombstones, bytes) {
            turn.actions.push_back(Action::Forget { of: Arc::clone(&self.group_id), records: batch.into() });
        }
    }

    /// Commits of the partitions that are on their way are answered as if they counted, and forgotten.
    fn forget_commits_of(&mut self, partitions: &[(Arc<str>, i32)]) {
        if partitions.is_empty() || self.appending.is_empty() {
            return;
        }
        let forgotten: HashSet<(&str, i32)> = partitions.iter().map(|(topic, p)| (&**topic, *p)).collect();
        for pending in self.appending.values_mut() {
            if let PendingAppend::Offsets(storing) = pending {
                storing.offsets.retain(|offset| !forgotten.contains(&(&*offset.topic, offset.partition)));
            }
        }
    }

    /// Deletes an empty group with all it has. Commits on their way are written over by the tombstones that follow
    /// them, so they are refused.
    pub(crate) fn delete(&mut self, turn: &mut Turn<'_>) -> Result<(), GroupError> {
        match self.state {
            GroupState::Dead => Err(GroupError::GroupIdNotFound),
            GroupState::Empty => {
                let all = self.offsets.all().into_iter();
                let tombstone = |(topic, partition)| GroupRecord::Offset { topic, partition, committed: None };
                let mut tombstones: Vec<GroupRecord> = all.map(tombstone).collect();
                self.bury(&mut tombstones, turn);
                self.append_tombstones(tombstones, turn);
                Ok(())
            }
            GroupState::Stable | GroupState::PreparingRebalance | GroupState::CompletingRebalance => {
                Err(GroupError::NonEmptyGroup)
            }
        }
    }

    /// Its own tombstone comes last: while it has offsets in the log it is known there.
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
