//! What must be true of transactions, as their producers and their readers know them:
//!
//! - No record of a transaction is read as committed before its producer asks for the commit, nor ever if it was aborted or
//!   given up, or its producer had been fenced by then. So it is with offsets.
//! - An end that was confirmed is the one that everybody sees.
//! - No two incarnations of a producer are the same.
//! - Committed records are read up to the first transaction whose end is not known to be in the log for good.
//! - A marker of an earlier coordinator is not written behind one of a later; and none ends more than one transaction, which
//!   is ended the same way everywhere.
//! - By version 2 nothing that comes late ends what the only producer of an id does.
//! - At rest each transaction is whole or not there, in every partition and in the offsets of its group; and nobody waits for
//!   the end of one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;

use crate::coordinator::transaction::state::Producer;
use crate::log::{Bounds, producer_batch_of};
use crate::model::{Offset, ProducerId, TopicPartition};
use crate::record::build::TransactionOutcome;
use crate::record::read::batches;
use crate::replica::memory_log::MemoryLog;
use crate::replica::partition_log::PartitionLog;
use crate::simulation::checks::Checked;

/// By the order in which they were begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::simulation) struct Number(usize);

impl Number {
    /// Which stands for the transaction.
    pub fn as_offset(self) -> i64 {
        i64::try_from(self.0).expect("schedules are short") + 1
    }

    fn of_offset(offset: i64) -> Number {
        Number(usize::try_from(offset - 1).expect("only such are committed"))
    }
}

/// As whoever looks from outside knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    /// Its producer has asked for the commit.
    MayCommit,
    Committed,
    /// And why.
    NotCommitted(&'static str),
}

struct Transaction {
    transactional_id: &'static str,
    fate: Fate,
    /// Where it has written what.
    records: Vec<(TopicPartition, i64)>,
    has_offset: bool,
}

/// What a reader of committed records finds at rest.
#[derive(Default)]
pub(in crate::simulation) struct Found {
    /// In each partition from which nothing was lost.
    pub records: BTreeMap<TopicPartition, Vec<i64>>,
    pub offsets: BTreeMap<&'static str, Option<i64>>,
}

#[derive(Default)]
pub(in crate::simulation) struct TransactionChecks {
    transactions: Vec<Transaction>,
    /// In which transaction a record was written.
    of_values: HashMap<i64, Number>,
    /// Whether the first marker that was seen of it was that of an abort.
    aborts: HashMap<Number, bool>,
    /// What each transactional id was given.
    incarnations: BTreeMap<&'static str, Vec<Producer>>,
    pub committed: usize,
    pub aborted: usize,
    pub fenced: usize,
}

impl TransactionChecks {
    fn of(&mut self, number: Number) -> &mut Transaction {
        &mut self.transactions[number.0]
    }

    /// A producer has an incarnation of its own.
    pub fn inited(&mut self, transactional_id: &'static str, producer: Producer) -> Checked {
        let known = self.incarnations.entry(transactional_id).or_default();
        if known.contains(&producer) {
            return Err(format!("{transactional_id}: {producer} is given twice"));
        }
        known.push(producer);
        Ok(())
    }

    /// Nobody has begun under the id since.
    pub fn is_current(&self, transactional_id: &'static str, producer: Producer) -> bool {
        self.incarnations.get(transactional_id).is_none_or(|known| known.iter().all(|known| *known <= producer))
    }

    pub fn begin(&mut self, transactional_id: &'static str) -> Number {
        let (records, fate) = (Vec::new(), Fate::Open);
        self.transactions.push(Transaction { transactional_id, fate, records, has_offset: false });
        Number(self.transactions.len() - 1)
    }

    pub fn writes(&mut self, number: Number, partition: &TopicPartition, value: i64) {
        self.of_values.insert(value, number);
        self.of(number).records.push((partition.clone(), value));
    }

    pub fn writes_offset(&mut self, number: Number) {
        self.of(number).has_offset = true;
    }

    pub fn asks_for_commit(&mut self, number: Number, is_fenced: bool) {
        self.fenced += usize::from(is_fenced);
        let transaction = self.of(number);
        transaction.fate = match transaction.fate {
            Fate::Open if is_fenced => Fate::NotCommitted("its producer was fenced before it asked for the commit"),
            Fate::Open => Fate::MayCommit,
            asked => asked,
        };
    }

    /// Nobody asks for anything any more.
    pub fn given_up(&mut self, number: Number) {
        let transaction = self.of(number);
        if transaction.fate == Fate::Open {
            transaction.fate = Fate::NotCommitted("its producer has given it up");
        }
    }

    /// The producer was told so.
    pub fn ended(&mut self, number: Number, outcome: TransactionOutcome) -> Checked {
        match outcome {
            TransactionOutcome::Commit => {
                self.committed += 1;
                self.is_committed(number, "its producer was told so")
            }
            TransactionOutcome::Abort => {
                self.aborted += 1;
                let transaction = self.of(number);
                if transaction.fate == Fate::Committed {
                    return Err(format!("{}: {number:?} is aborted after it was read", transaction.transactional_id));
                }
                transaction.fate = Fate::NotCommitted("its producer was told that it is aborted");
                Ok(())
            }
        }
    }

    fn is_committed(&mut self, number: Number, how: &str) -> Checked {
        let transaction = self.of(number);
        let id = transaction.transactional_id;
        match transaction.fate {
            Fate::MayCommit | Fate::Committed => {
                transaction.fate = Fate::Committed;
                Ok(())
            }
            Fate::Open => Err(format!("{id}: {number:?} is committed: {how}; and nobody has asked for it")),
            Fate::NotCommitted(why) => Err(format!("{id}: {number:?} is committed: {how}; and {why}")),
        }
    }

    /// A reader of committed records has got these, of one partition.
    pub fn read(&mut self, partition: &TopicPartition, values: &[i64]) -> Checked {
        let mut seen = BTreeSet::new();
        for value in values {
            if !seen.insert(value) {
                return Err(format!("{partition}: {value} is there twice"));
            }
            if let Some(number) = self.of_values.get(value).copied() {
                self.is_committed(number, "it was read")?;
            }
        }
        Ok(())
    }

    /// A reader of committed offsets.
    pub fn read_offset(&mut self, offset: i64) -> Checked {
        self.is_committed(Number::of_offset(offset), "its offset was read")
    }

    /// What the batches of a log say of the transactions in it, whatever the log knows of them: the last stable offset is not
    /// beyond one whose marker may be lost, no marker is of an earlier coordinator than one before it, none ends more than
    /// one transaction, and each is ended the same way everywhere, as its producer has asked.
    pub fn log(&mut self, name: &TopicPartition, log: &MemoryLog) -> Checked {
        let Bounds { high_watermark, last_stable_offset, .. } = log.bounds();
        let mut open: BTreeMap<ProducerId, Offset> = BTreeMap::new();
        let mut coordinators: BTreeMap<ProducerId, i32> = BTreeMap::new();
        let mut current: BTreeMap<ProducerId, Number> = BTreeMap::new();
        let mut wrong = None;
        log.look_at_batches(|batch| {
            let Some(of_producer) = producer_batch_of(batch).filter(|batch| batch.is_transactional) else { return };
            let (id, at) = (of_producer.producer_id, of_producer.first_offset);
            let Some(marker) = of_producer.marker else {
                open.entry(id).or_insert(at);
                for number in self.numbers_in(batch.bytes) {
                    let before = current.insert(id, number);
                    if let Some(before) = before.filter(|before| *before != number) {
                        wrong.get_or_insert_with(|| format!("at {at} {number:?} goes on with {before:?}"));
                    }
                }
                return;
            };
            let given = marker.coordinator_epoch;
            let latest = coordinators.insert(id, given).unwrap_or(given);
            if given < latest {
                wrong.get_or_insert_with(|| {
                    format!("at {at} is a marker of coordinator epoch {given}, behind {latest}")
                });
            }
            if let Some(number) = current.remove(&id)
                && let Err(why) = self.is_ended(number, marker.is_abort)
            {
                wrong.get_or_insert_with(|| format!("at {at}: {why}"));
            }
            if of_producer.last_offset < high_watermark {
                open.remove(&id);
            }
        });
        if let Some(wrong) = wrong {
            return Err(format!("{name}: {wrong}"));
        }
        match open.values().min().filter(|first| last_stable_offset > **first) {
            None => Ok(()),
            Some(first) => {
                Err(format!("{name}: committed records are read up to {last_stable_offset}, with one open at {first}"))
            }
        }
    }

    fn numbers_in(&self, batch: &[u8]) -> Vec<Number> {
        let batch = Bytes::copy_from_slice(batch);
        let mut numbers = Vec::new();
        for batch in batches(&batch).map(|batch| batch.expect("well-formed")) {
            for record in batch.records().expect("not compressed") {
                let record = record.expect("well-formed");
                let value = record.key.and_then(|key| (*key).try_into().ok()).map(i64::from_be_bytes);
                numbers.extend(value.and_then(|value| self.of_values.get(&value)));
            }
        }
        numbers
    }

    /// A marker ends it.
    fn is_ended(&mut self, number: Number, is_abort: bool) -> Checked {
        let was_abort = *self.aborts.entry(number).or_insert(is_abort);
        let &mut Transaction { transactional_id: id, fate, .. } = self.of(number);
        match fate {
            _ if was_abort != is_abort => Err(format!("{id}: {number:?} is committed here and aborted there")),
            Fate::Open if !is_abort => Err(format!("{id}: {number:?} is committed, and nobody has asked for it")),
            Fate::NotCommitted(why) if !is_abort => Err(format!("{id}: {number:?} is committed, and {why}")),
            Fate::Committed if is_abort => Err(format!("{id}: {number:?} is aborted, and was committed")),
            _ => Ok(()),
        }
    }

    /// When nothing is under way any more.
    pub fn at_rest(&mut self, found: &Found) -> Checked {
        let mut offsets: BTreeMap<&'static str, i64> = BTreeMap::new();
        for (number, transaction) in self.transactions.iter().enumerate() {
            let (number, id) = (Number(number), transaction.transactional_id);
            let is_there = |(partition, value): &(TopicPartition, i64)| {
                found.records.get(partition).map(|values| values.contains(value))
            };
            let records: Vec<bool> = transaction.records.iter().filter_map(is_there).collect();
            let is_last_offset = transaction.has_offset && found.offsets.get(id) == Some(&Some(number.as_offset()));
            let is_committed = match transaction.fate {
                Fate::Committed => true,
                Fate::MayCommit => records.contains(&true) || is_last_offset,
                Fate::Open | Fate::NotCommitted(_) => false,
            };
            // What is there of others was checked when it was read.
            if is_committed && records.contains(&false) {
                let written = &transaction.records;
                return Err(format!("{id}: {number:?} is {:?}, and not all is there of {written:?}", transaction.fate));
            }
            if is_committed && transaction.has_offset {
                offsets.insert(id, number.as_offset());
            }
        }
        for (id, offset) in &found.offsets {
            let committed = offsets.get(id).copied();
            if *offset != committed {
                return Err(format!("{id}: the offset is {offset:?}, and {committed:?} was committed last"));
            }
        }
        Ok(())
    }
}
