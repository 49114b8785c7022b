//! Which transactions compaction is within as it walks a log, and when their markers may go.
//! Source: kafka 3.9 core/.../log/LogCleaner.scala (CleanedTransactionMetadata).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use crate::log::append::producer_batch_of;
use crate::log::transaction_index::AbortedTxn;
use crate::record::batch::{Batch, BatchHeader};

#[derive(Debug, Default)]
pub(crate) struct Transactions {
    /// Producers whose data was passed that no abort is known of.
    committing: HashSet<i64>,
    aborting: HashMap<i64, Aborting>,
    /// Not reached yet, by their first offset.
    ahead: BinaryHeap<Reverse<Ahead>>,
    /// Aborted, with data in what was walked: readers of the new segment must know of them.
    observed: Vec<AbortedTxn>,
}

#[derive(Debug)]
struct Aborting {
    txn: AbortedTxn,
    has_data: bool,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ahead {
    first_offset: i64,
    producer_id: i64,
    last_offset: i64,
    last_stable_offset: i64,
}

impl Transactions {
    /// Aborted transactions that what comes next is a part of; some may be known already.
    pub fn add_aborted(&mut self, txns: &[AbortedTxn]) {
        self.ahead.extend(txns.iter().map(|txn| {
            Reverse(Ahead {
                first_offset: txn.first_offset.0,
                producer_id: txn.producer_id.0,
                last_offset: txn.last_offset.0,
                last_stable_offset: txn.last_stable_offset.0,
            })
        }));
    }

    /// True if the batch is part of an aborted transaction, so that nobody has to see it.
    pub fn on_batch(&mut self, header: &BatchHeader) -> bool {
        self.reach(header.last_offset);
        if !header.is_transactional {
            return false;
        }
        match self.aborting.get_mut(&header.producer_id) {
            Some(aborting) => {
                aborting.has_data = true;
                true
            }
            None => {
                self.committing.insert(header.producer_id);
                false
            }
        }
    }

    /// True if the batch ends a transaction of which no data is left.
    pub fn on_control_batch(&mut self, batch: &Batch<'_>) -> bool {
        let header = &batch.header;
        self.reach(header.last_offset);
        // One that is empty was compacted before.
        if header.record_count == 0 {
            return true;
        }
        let Some(marker) = producer_batch_of(batch).and_then(|of_producer| of_producer.marker) else { return false };
        if !marker.is_abort {
            return !self.committing.remove(&header.producer_id);
        }
        match self.aborting.remove(&header.producer_id) {
            Some(aborting) if aborting.has_data => {
                self.observed.push(aborting.txn);
                false
            }
            _ => true,
        }
    }

    fn reach(&mut self, offset: i64) {
        while self.ahead.peek().is_some_and(|Reverse(next)| next.first_offset <= offset) {
            let Some(Reverse(next)) = self.ahead.pop() else { return };
            let txn = AbortedTxn {
                producer_id: crate::model::ProducerId(next.producer_id),
                first_offset: crate::model::Offset(next.first_offset),
                last_offset: crate::model::Offset(next.last_offset),
                last_stable_offset: crate::model::Offset(next.last_stable_offset),
            };
            self.aborting.entry(next.producer_id).or_insert(Aborting { txn, has_data: false });
        }
    }

    /// Those that ended since the last call.
    pub fn take_observed(&mut self) -> Vec<AbortedTxn> {
        std::mem::take(&mut self.observed)
    }
}
