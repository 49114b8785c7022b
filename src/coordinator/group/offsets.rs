//! The offsets of a group.
//!
//! An offset counts only once its record is in the log. Two commits of one partition may be on their way at once, one
//! of them perhaps inside a transaction, so each remembers where its batch stands in the log, and the later batch wins,
//! as it will when the log is loaded or compacted.
//! Source: kafka 3.9 GroupMetadata.scala.

use std::collections::HashMap;
use std::sync::Arc;

use crate::coordinator::group::records::CommittedOffset;
use crate::coordinator::group::requests::OffsetToCommit;
use crate::model::{Offset, ProducerId};

/// An offset and where in `__consumer_offsets` its batch starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordedOffset {
    pub(crate) appended_at: Offset,
    pub(crate) committed: CommittedOffset,
}

#[derive(Debug, Default)]
pub(super) struct PartitionOffset {
    pub(super) recorded: Option<RecordedOffset>,
    /// How many commits are on their way into the log.
    pub(super) storing: u32,
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
    pub(super) topics: HashMap<Arc<str>, HashMap<i32, PartitionOffset>>,
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

    pub(super) fn is_in_transaction(&self, topic: &str, partition: i32) -> bool {
        self.in_transactions.values().flat_map(HashMap::keys).any(|(t, p)| **t == *topic && *p == partition)
    }

    /// Topics with the partitions that have a committed offset.
    pub(crate) fn committed(&self) -> impl Iterator<Item = (&Arc<str>, impl Iterator<Item = i32>)> {
        self.topics.iter().map(|(topic, partitions)| {
            (topic, partitions.iter().filter(|(_, p)| p.recorded.is_some()).map(|(partition, _)| *partition))
        })
    }

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

    pub(super) fn start_storing(&mut self, offset: &OffsetToCommit) {
        // The usual commit is of a partition that has been committed before: then no name is cloned.
        let partitions = match self.topics.get_mut(&offset.topic) {
            Some(partitions) => partitions,
            None => self.topics.entry(Arc::clone(&offset.topic)).or_default(),
        };
        partitions.entry(offset.partition).or_default().storing += 1;
    }

    /// `stored_at` is `None` if the append failed.
    pub(super) fn end_storing(&mut self, offset: OffsetToCommit, stored_at: Option<Offset>) {
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
    pub(super) fn remove(&mut self, topic: &str, partition: i32) -> bool {
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
    pub(super) fn all(&self) -> Vec<(Arc<str>, i32)> {
        self.topics
            .iter()
            .flat_map(|(topic, partitions)| partitions.keys().map(|partition| (Arc::clone(topic), *partition)))
            .collect()
    }
}
