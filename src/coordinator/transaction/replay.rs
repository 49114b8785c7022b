//! Transactions out of the log: what the records of one partition of `__transaction_state` add up to.
//! Source: kafka 3.9 TransactionStateManager.scala (loadTransactionMetadata).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::coordinator::transaction::records::{self, DecodedRecord, TransactionRecord};
use crate::coordinator::transaction::state::StoredTransaction;
use crate::model::TopicPartition;
use crate::record::read::ReadBatch;

/// The partition so far. Feed it every record in order, then take the transactions.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    transactions: BTreeMap<Arc<str>, StoredTransaction>,
}

impl Replay {
    /// One batch of the log. A record that cannot be read is left out, and named by the error: those behind it count.
    pub(crate) fn batch(&mut self, batch: ReadBatch<'_>) -> Result<(), String> {
        if batch.header().is_control {
            // Of this topic nothing is ever written in a transaction, but whoever likes can have a marker written.
            return Ok(());
        }
        let mut outcome = Ok(());
        for record in batch.records().map_err(|error| error.to_string())? {
            let record = record.map_err(|error| error.to_string())?;
            match records::decode(record.key, record.value) {
                Ok(DecodedRecord::Transaction(TransactionRecord { transactional_id, stored: Some(stored) })) => {
                    self.transactions.insert(transactional_id, stored);
                }
                Ok(DecodedRecord::Transaction(TransactionRecord { transactional_id, stored: None })) => {
                    self.transactions.remove(&transactional_id);
                }
                Ok(DecodedRecord::UnknownKey { version }) => log::warn!(
                    "Unknown message key with version {version} in __transaction_state. Ignoring it; it could be a left \
                     over from an aborted upgrade."
                ),
                Err(error) => outcome = outcome.and(Err(error.to_string())),
            }
        }
        outcome
    }

    pub(crate) fn into_transactions(self) -> impl Iterator<Item = (Arc<str>, StoredTransaction)> {
        // The same name comes with each transaction that writes to the topic; one copy of it is enough.
        let mut names: HashMap<Arc<str>, Arc<str>> = HashMap::new();
        self.transactions.into_iter().map(move |(transactional_id, mut stored)| {
            let mut one = |name: Arc<str>| Arc::clone(names.entry(Arc::clone(&name)).or_insert(name));
            let partitions = std::mem::take(&mut stored.partitions).into_iter();
            stored.partitions = partitions.map(|p| TopicPartition { topic: one(p.topic), ..p }).collect();
            (transactional_id, stored)
        })
    }
}
