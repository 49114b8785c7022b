//! The offsets of a group.
//!
//! An offset counts only once its record is in the log. Two commits of one partition may be on their way at once, one
//! of them perhaps inside a transaction, so each remembers where its batch stands in the log, and the later batch wins,
//! as it will when the log is loaded or compacted.
//! Source: kafka 3.9 GroupMetadata.scala.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use crate::coordinator::group::records::CommittedOffset;
use crate::coordinator::group::requests::OffsetToCommit;
use crate::model::{Offset, ProducerId};
use crate::record::build::TransactionOutcome;

/// An offset and where in `__consumer_offsets` its batch starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordedOffset {
    pub(crate) appended_at: Offset,
    pub(crate) committed: CommittedOffset,
}

/// What is known of one partition. Kept while any of it is.
#[derive(Debug, Default)]
pub(super) struct PartitionOffset {
    pub(super) recorded: Option<RecordedOffset>,
    /// How many commits are on their way into the log.
    pub(super) storing: u32,
    /// Recorded inside transactions that are open, one for each producer. Until they end there is no stable offset.
    undecided: BTreeMap<ProducerId, RecordedOffset>,
    /// What those take in memory: a partition may be in very many transactions.
    undecided_bytes: usize,
}

/// A partition, without its metadata; and a topic, without its name: the structures and their place in the maps.
const PARTITION_BYTES: usize = 192;
const TOPIC_BYTES: usize = 128;

impl PartitionOffset {
    pub(super) fn is_stable(&self) -> bool {
        self.storing == 0 && self.undecided.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.recorded.is_none() && self.is_stable()
    }

    fn bytes(&self) -> usize {
        let recorded = self.recorded.as_ref().map_or(0, |recorded| recorded.committed.metadata.len());
        PARTITION_BYTES + recorded + self.undecided_bytes
    }

    fn put_undecided(&mut self, producer_id: ProducerId, recorded: RecordedOffset) {
        self.take_undecided(producer_id);
        self.undecided_bytes += undecided_bytes(&recorded);
        self.undecided.insert(producer_id, recorded);
    }

    fn take_undecided(&mut self, producer_id: ProducerId) -> Option<RecordedOffset> {
        let recorded = self.undecided.remove(&producer_id)?;
        self.undecided_bytes -= undecided_bytes(&recorded);
        Some(recorded)
    }
}

fn undecided_bytes(recorded: &RecordedOffset) -> usize {
    #[cfg(test)]
    tests::LOOKED_AT.set(tests::LOOKED_AT.get() + 1);
    PARTITION_BYTES + recorded.committed.metadata.len()
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
    topics: BTreeMap<Arc<str>, BTreeMap<i32, PartitionOffset>>,
    /// Where each producer has recorded offsets in a transaction that is open.
    in_transactions: HashMap<ProducerId, BTreeSet<(Arc<str>, i32)>>,
    bytes: usize,
}

impl GroupOffsets {
    /// What they take in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What `bytes` must be.
    #[cfg(test)]
    pub(super) fn counted_bytes(&self) -> usize {
        let bytes_of = |partition: &PartitionOffset| {
            let undecided: usize = partition.undecided.values().map(undecided_bytes).sum();
            assert_eq!(partition.undecided_bytes, undecided);
            partition.bytes()
        };
        self.topics.values().flat_map(BTreeMap::values).map(bytes_of).sum::<usize>()
            + self.topics.keys().map(|topic| TOPIC_BYTES + topic.len()).sum::<usize>()
    }

    pub(crate) fn find(&self, topic: &str, partition: i32, require_stable: bool) -> FoundOffset<'_> {
        let known = self.topics.get(topic).and_then(|partitions| partitions.get(&partition));
        if require_stable && known.is_some_and(|known| !known.is_stable()) {
            return FoundOffset::Unstable;
        }
        match known.and_then(|p| p.recorded.as_ref()) {
            Some(recorded) => FoundOffset::Committed(&recorded.committed),
            None => FoundOffset::None,
        }
    }

    /// The partitions that have a committed offset, in order, behind the given one.
    pub(crate) fn committed_after(&self, last: Option<(&str, i32)>) -> impl Iterator<Item = (&Arc<str>, i32)> {
        let topics_from = last.map_or(Bound::Unbounded, |(topic, _)| Bound::Included(topic));
        self.topics.range::<str, _>((topics_from, Bound::Unbounded)).flat_map(move |(topic, partitions)| {
            let after = match last {
                Some((name, partition)) if name == &**topic => Bound::Excluded(partition),
                Some(_) | None => Bound::Unbounded,
            };
            let behind = partitions.range((after, Bound::Unbounded));
            behind.filter(|(_, known)| known.recorded.is_some()).map(move |(partition, _)| (topic, *partition))
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &BTreeMap<i32, PartitionOffset>)> {
        self.topics.iter()
    }

    pub(crate) fn count(&self) -> usize {
        self.topics.values().flat_map(BTreeMap::values).filter(|p| p.recorded.is_some()).count()
    }

    /// Also those that are only on their way.
    pub(crate) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    pub(super) fn knows(&self, topic: &str, partition: i32) -> bool {
        self.topics.get(topic).is_some_and(|partitions| partitions.contains_key(&partition))
    }

    /// How many bytes more there would be with this offset stored, inside a transaction of the producer or not.
    pub(super) fn growth_by(&self, offset: &OffsetToCommit, transaction: Option<ProducerId>) -> usize {
        let metadata = offset.committed.metadata.len();
        let undecided = if transaction.is_some() { PARTITION_BYTES } else { 0 };
        let Some(partitions) = self.topics.get(&offset.topic) else {
            return TOPIC_BYTES + offset.topic.len() + PARTITION_BYTES + undecided + metadata;
        };
        let Some(known) = partitions.get(&offset.partition) else { return PARTITION_BYTES + undecided + metadata };
        // What it replaces. In a transaction that is what is committed only in the end: one such offset a partition is no
        // growth, since who is there must go on.
        let mine = transaction.and_then(|id| known.undecided.get(&id));
        let replaced = match (transaction, mine) {
            (Some(_), Some(mine)) => Some(mine),
            (Some(_), None) if !known.undecided.is_empty() => None,
            (Some(_), None) | (None, _) => known.recorded.as_ref(),
        };
        match replaced {
            Some(replaced) => metadata.saturating_sub(replaced.committed.metadata.len()),
            None => undecided + metadata,
        }
    }

    /// The one way in which a partition comes, changes and goes.
    fn change<R>(&mut self, topic: &Arc<str>, partition: i32, change: impl FnOnce(&mut PartitionOffset) -> R) -> R {
        // The usual change is of a partition that has been committed before: then no name is cloned.
        let partitions = match self.topics.get_mut(topic) {
            Some(partitions) => partitions,
            None => {
                self.bytes += TOPIC_BYTES + topic.len();
                self.topics.entry(Arc::clone(topic)).or_default()
            }
        };
        let entry = partitions.entry(partition).or_insert_with(|| {
            let new = PartitionOffset::default();
            self.bytes += new.bytes();
            new
        });
        self.bytes -= entry.bytes();
        let result = change(entry);
        if !entry.is_empty() {
            self.bytes += entry.bytes();
            return result;
        }
        partitions.remove(&partition);
        if partitions.is_empty() {
            self.topics.remove(topic);
            self.bytes -= TOPIC_BYTES + topic.len();
        }
        result
    }

    /// Takes over an offset that is in the log, unless a later one is already known.
    pub(crate) fn record(&mut self, topic: &Arc<str>, partition: i32, recorded: RecordedOffset) {
        self.change(topic, partition, |entry| {
            if entry.recorded.as_ref().is_none_or(|known| known.appended_at <= recorded.appended_at) {
                entry.recorded = Some(recorded);
            }
        });
    }

    /// Such an offset does not count before its transaction commits.
    pub(crate) fn record_in_transaction(
        &mut self,
        producer_id: ProducerId,
        topic: &Arc<str>,
        partition: i32,
        recorded: RecordedOffset,
    ) {
        self.in_transactions.entry(producer_id).or_default().insert((Arc::clone(topic), partition));
        self.change(topic, partition, |entry| entry.put_undecided(producer_id, recorded));
    }

    pub(super) fn start_storing(&mut self, offset: &OffsetToCommit) {
        self.change(&offset.topic, offset.partition, |entry| entry.storing += 1);
    }

    /// `stored_at` is `None` if the append failed.
    pub(super) fn end_storing(&mut self, offset: OffsetToCommit, stored_at: Option<Offset>) {
        let OffsetToCommit { topic, partition, committed } = offset;
        assert!(self.knows(&topic, partition), "a partition is kept while a commit of it is on its way");
        self.change(&topic, partition, |entry| {
            entry.storing -= 1;
            if let Some(appended_at) = stored_at
                && entry.recorded.as_ref().is_none_or(|known| known.appended_at <= appended_at)
            {
                entry.recorded = Some(RecordedOffset { appended_at, committed });
            }
        });
    }

    /// Stored, and to count once the producer commits.
    pub(super) fn end_storing_in_transaction(&mut self, producer_id: ProducerId, offset: OffsetToCommit, at: Offset) {
        let OffsetToCommit { topic, partition, committed } = offset;
        self.record_in_transaction(producer_id, &topic, partition, RecordedOffset { appended_at: at, committed });
        self.change(&topic, partition, |entry| entry.storing -= 1);
    }

    /// Those whose transactions decide whether offsets count.
    pub(crate) fn producers(&self) -> impl Iterator<Item = ProducerId> {
        self.in_transactions.keys().copied()
    }

    pub(super) fn are_in_transaction_of(&self, producer_id: ProducerId) -> bool {
        self.in_transactions.contains_key(&producer_id)
    }

    /// What the producer has recorded before the marker counts now, or is forgotten.
    pub(super) fn transaction_ended(&mut self, producer_id: ProducerId, outcome: TransactionOutcome, marker: Offset) {
        let mut partitions = self.in_transactions.remove(&producer_id).unwrap_or_default();
        partitions.retain(|(topic, partition)| {
            self.change(topic, *partition, |entry| {
                // Recorded behind the marker, it waits for the next.
                let is_decided = entry.undecided.get(&producer_id).is_some_and(|mine| mine.appended_at < marker);
                let decided = if is_decided { entry.take_undecided(producer_id) } else { None };
                let Some(recorded) = decided else { return true };
                let is_newer = entry.recorded.as_ref().is_none_or(|known| known.appended_at < recorded.appended_at);
                if outcome == TransactionOutcome::Commit && is_newer {
                    entry.recorded = Some(recorded);
                }
                false
            })
        });
        if !partitions.is_empty() {
            self.in_transactions.insert(producer_id, partitions);
        }
    }

    /// Forgets a partition. True if it was known: it has an offset in the log, perhaps on its way there or in a transaction,
    /// which needs a tombstone.
    pub(super) fn remove(&mut self, topic: &Arc<str>, partition: i32) -> bool {
        if !self.knows(topic, partition) {
            return false;
        }
        let PartitionOffset { undecided, .. } = self.change(topic, partition, std::mem::take);
        for producer_id in undecided.into_keys() {
            if let Some(partitions) = self.in_transactions.get_mut(&producer_id) {
                partitions.remove(&(Arc::clone(topic), partition));
                if partitions.is_empty() {
                    self.in_transactions.remove(&producer_id);
                }
            }
        }
        true
    }

    /// Every partition with an offset in the log or on its way there, also those in transactions.
    pub(super) fn all(&self) -> Vec<(Arc<str>, i32)> {
        let known = self.topics.iter();
        known
            .flat_map(|(topic, partitions)| partitions.keys().map(|partition| (Arc::clone(topic), *partition)))
            .collect()
    }

    /// Those of the partitions that anything is known of.
    pub(super) fn known_of(&self, partitions: &BTreeMap<&str, Vec<i32>>) -> Vec<(Arc<str>, i32)> {
        let mut known = Vec::new();
        for (topic, asked) in partitions {
            if let Some((topic, partitions)) = self.topics.get_key_value(*topic) {
                let asked = asked.iter().filter(|partition| partitions.contains_key(partition));
                known.extend(asked.map(|partition| (Arc::clone(topic), *partition)));
            }
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::model::LeaderEpoch;

    thread_local! {
        /// How many undecided offsets were looked at for their size.
        pub(super) static LOOKED_AT: Cell<usize> = const { Cell::new(0) };
    }

    fn committed(offset: i64) -> CommittedOffset {
        CommittedOffset {
            offset: Offset(offset),
            leader_epoch: LeaderEpoch(-1),
            metadata: "a note".into(),
            commit_timestamp_ms: 0,
            expire_timestamp_ms: None,
        }
    }

    #[test]
    fn transactions_of_one_partition_cost_what_they_are_however_many_are_open() {
        const OPEN: usize = 1_000;
        let (mut offsets, topic) = (GroupOffsets::default(), Arc::from("a"));
        LOOKED_AT.set(0);
        for offset in 0..OPEN as i64 {
            let recorded = RecordedOffset { appended_at: Offset(offset), committed: committed(offset) };
            offsets.record_in_transaction(ProducerId(offset), &topic, 0, recorded);
        }
        for offset in 0..OPEN as i64 {
            offsets.transaction_ended(ProducerId(offset), TransactionOutcome::Commit, Offset(i64::MAX));
        }
        assert!(LOOKED_AT.get() <= 2 * OPEN, "{}", LOOKED_AT.get());
        assert_eq!(offsets.bytes(), offsets.counted_bytes());
        assert_eq!(offsets.find("a", 0, true), FoundOffset::Committed(&committed(OPEN as i64 - 1)));
    }

    #[test]
    fn what_is_committed_is_told_in_turns_and_each_partition_once() {
        let mut offsets = GroupOffsets::default();
        let all = [("a", 1), ("a", 7), ("b", 0), ("c", -3), ("c", 2)];
        for (topic, partition) in all {
            let offset = OffsetToCommit { topic: topic.into(), partition, committed: committed(1) };
            offsets.start_storing(&offset);
            offsets.end_storing(offset, Some(Offset(5)));
        }
        let mut last: Option<(Arc<str>, i32)> = None;
        for expected in all {
            let next = offsets.committed_after(last.as_ref().map(|(topic, partition)| (&**topic, *partition))).next();
            let (topic, partition) = next.expect("there is another");
            assert_eq!((&**topic, partition), expected);
            last = Some((Arc::clone(topic), partition));
        }
        assert_eq!(offsets.committed_after(Some(("c", 2))).next(), None);
        assert_eq!(offsets.committed_after(Some(("aa", 9))).next().map(|(_, partition)| partition), Some(0));
    }
}
