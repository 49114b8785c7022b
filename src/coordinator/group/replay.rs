//! Groups out of the log: what the records of one partition of `__consumer_offsets` add up to.
//! Source: kafka 3.9 GroupMetadataManager.scala (doLoadGroupsAndOffsets).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::coordinator::group::offsets::RecordedOffset;
use crate::coordinator::group::records::{self, CommittedOffset, DecodedRecord, GroupMetadata, GroupRecord};
use crate::coordinator::group::state::Group;
use crate::model::{Offset, ProducerId};
use crate::record::build::{ControlRecord, TransactionOutcome};
use crate::record::read::ReadBatch;

type OffsetKey = (Arc<str>, Arc<str>, i32);

/// The partition so far. Feed it every record in order, then take the groups.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    groups: HashMap<Arc<str>, Box<GroupMetadata>>,
    offsets: HashMap<OffsetKey, RecordedOffset>,
    /// Offsets inside transactions whose end has not been read yet.
    in_transactions: HashMap<ProducerId, HashMap<OffsetKey, RecordedOffset>>,
    /// Whose transactions those are, by what they have an offset of.
    producers_of: HashMap<OffsetKey, BTreeSet<ProducerId>>,
}

impl Replay {
    /// One batch of the log.
    pub(crate) fn batch(&mut self, batch: ReadBatch<'_>) -> Result<(), String> {
        let header = *batch.header();
        let producer_id = ProducerId(header.producer_id);
        // Kafka remembers the offset of the first record that is left, which compaction may have moved up.
        let mut first_offset = None;
        for record in batch.records().map_err(|error| error.to_string())? {
            let record = record.map_err(|error| error.to_string())?;
            if header.is_control {
                let control = ControlRecord::read(record.key.as_deref(), record.value.as_deref());
                if let ControlRecord::EndTransaction { outcome, .. } = control.map_err(|error| error.to_string())? {
                    self.transaction_ended(producer_id, outcome == TransactionOutcome::Commit);
                }
                continue;
            }
            let decoded = records::decode(record.key, record.value).map_err(|error| error.to_string())?;
            let batch_offset = *first_offset.get_or_insert(Offset(record.offset));
            self.record(decoded, batch_offset, header.is_transactional.then_some(producer_id));
        }
        Ok(())
    }

    /// One record of a batch that starts at `batch_offset`; `transaction` is the producer of a transactional batch.
    pub(crate) fn record(&mut self, decoded: DecodedRecord, batch_offset: Offset, transaction: Option<ProducerId>) {
        match decoded {
            DecodedRecord::UnknownKey { version } => log::warn!(
                "Unknown message key with version {version} in __consumer_offsets. Ignoring it; it could be a left \
                 over from an aborted upgrade."
            ),
            DecodedRecord::Group { group, record: GroupRecord::Metadata(Some(metadata)) } => {
                self.groups.insert(group, metadata);
            }
            DecodedRecord::Group { group, record: GroupRecord::Metadata(None) } => {
                self.groups.remove(&group);
            }
            DecodedRecord::Group { group, record: GroupRecord::Offset { topic, partition, committed } } => {
                self.offset((group, topic, partition), committed, batch_offset, transaction);
            }
        }
    }

    fn offset(
        &mut self,
        key: OffsetKey,
        committed: Option<CommittedOffset>,
        appended_at: Offset,
        transaction: Option<ProducerId>,
    ) {
        let recorded = committed.map(|committed| RecordedOffset { appended_at, committed });
        match (transaction, recorded) {
            (Some(producer_id), Some(recorded)) => {
                let offsets = self.in_transactions.entry(producer_id).or_default();
                if offsets.insert(key.clone(), recorded).is_none() {
                    self.producers_of.entry(key).or_default().insert(producer_id);
                }
            }
            (Some(producer_id), None) => {
                let offsets = self.in_transactions.get_mut(&producer_id);
                if offsets.is_some_and(|offsets| offsets.remove(&key).is_some()) {
                    self.leave_transaction(&key, producer_id);
                }
            }
            (None, Some(recorded)) => drop(self.offsets.insert(key, recorded)),
            (None, None) => {
                self.offsets.remove(&key);
                // Deleted, whatever the transactions come to that were open.
                for producer_id in self.producers_of.remove(&key).unwrap_or_default() {
                    if let Some(offsets) = self.in_transactions.get_mut(&producer_id) {
                        offsets.remove(&key);
                    }
                }
            }
        }
    }

    fn leave_transaction(&mut self, key: &OffsetKey, producer_id: ProducerId) {
        if let Some(producers) = self.producers_of.get_mut(key) {
            producers.remove(&producer_id);
            if producers.is_empty() {
                self.producers_of.remove(key);
            }
        }
    }

    /// The marker that ends the producer's transaction.
    pub(crate) fn transaction_ended(&mut self, producer_id: ProducerId, commit: bool) {
        let offsets = self.in_transactions.remove(&producer_id).unwrap_or_default();
        offsets.keys().for_each(|key| self.leave_transaction(key, producer_id));
        if commit {
            for (key, recorded) in offsets {
                if self.offsets.get(&key).is_none_or(|known| known.appended_at < recorded.appended_at) {
                    self.offsets.insert(key, recorded);
                }
            }
        }
    }

    /// Every group of the partition: also those without a record of their own, which only keep offsets here.
    pub(crate) fn into_groups(self, now_ms: i64) -> Vec<Group> {
        // Sorted, so that what comes of loading does not depend on the order of a hash map.
        let mut groups: BTreeMap<Arc<str>, Group> = self
            .groups
            .into_iter()
            .map(|(id, metadata)| (Arc::clone(&id), Group::from_record(id, &metadata)))
            .collect();
        // The same name comes with each of its offsets; one copy of it is enough.
        let mut names: HashMap<Arc<str>, Arc<str>> = HashMap::new();
        let mut one = move |name: Arc<str>| Arc::clone(names.entry(Arc::clone(&name)).or_insert(name));
        for ((group, topic, partition), recorded) in self.offsets {
            let group = groups.entry(group).or_insert_with_key(|id| Group::new(Arc::clone(id), now_ms));
            group.offsets_mut().record(&one(topic), partition, recorded);
        }
        for (producer_id, offsets) in self.in_transactions {
            for ((group, topic, partition), recorded) in offsets {
                let group = groups.entry(group).or_insert_with_key(|id| Group::new(Arc::clone(id), now_ms));
                group.offsets_mut().record_in_transaction(producer_id, &one(topic), partition, recorded);
            }
        }
        groups.into_values().collect()
    }
}
