//! The transactional ids of one partition of `__transaction_state`: which request meets, makes or misses which.
//! Knows nothing of elections: whoever calls has made sure that this broker is their coordinator.
//! Source: kafka 3.9 TransactionCoordinator.scala, TransactionStateManager.scala.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::config::sections::TransactionConfig;
use crate::coordinator::core::{self, Core, in_short_batches};
use crate::coordinator::topic_log::AppendOutcome;
use crate::coordinator::transaction::error::TransactionError;
use crate::coordinator::transaction::lifecycle::{PARTITION_BYTES, TRANSACTION_BYTES, Transaction};
use crate::coordinator::transaction::records::{self, TransactionRecord};
use crate::coordinator::transaction::replay::Replay;
use crate::coordinator::transaction::requests::{Assigned, End, Init, MarkersFate};
use crate::coordinator::transaction::state::Producer;
use crate::coordinator::transaction::turn::{
    Answer, AppendId, ReplyTo, TimerKey, TransactionEffect, TransactionVocabulary, Turn,
};
use crate::model::internal_topics::TRANSACTION_STATE_TOPIC;
use crate::model::transaction_version::TransactionVersion;
use crate::model::{LeaderEpoch, TopicPartition};
use crate::record::build::BatchBuilder;
use crate::record::read::ReadBatch;

#[derive(Debug, Default)]
pub(crate) struct Transactions {
    /// Boxed, since the map has room for twice as many.
    transactions: BTreeMap<Arc<str>, Box<Transaction>>,
    /// Of all transactions.
    bytes: usize,
}

impl Transactions {
    pub(crate) fn get(&self, transactional_id: &str) -> Option<&Transaction> {
        self.transactions.get(transactional_id).map(|transaction| &**transaction)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Transaction> {
        self.transactions.values().map(|transaction| &**transaction)
    }

    /// The one way in which a transaction changes: what it takes is counted anew.
    fn change<R>(&mut self, transactional_id: &str, change: impl FnOnce(&mut Transaction) -> R) -> Option<R> {
        let transaction = self.transactions.get_mut(transactional_id)?;
        self.bytes -= transaction.bytes();
        let result = change(transaction);
        self.bytes += transaction.bytes();
        Some(result)
    }

    fn insert(&mut self, transaction: Transaction) {
        self.bytes += transaction.bytes();
        let transactional_id = Arc::clone(transaction.transactional_id());
        let replaced = self.transactions.insert(transactional_id, Box::new(transaction));
        self.bytes -= replaced.map_or(0, |replaced| replaced.bytes());
    }

    /// Whether the broker may hold `growth` bytes more, up to a limit. What is no growth is always welcome.
    fn has_room_for(&self, transactional_id: &str, growth: usize, limit: u64, turn: &mut Turn<'_>) -> bool {
        let held = turn.bytes_elsewhere.saturating_add(self.bytes as u64);
        let has_room = growth == 0 || held.saturating_add(growth as u64) <= limit;
        if !has_room {
            turn.effect(TransactionEffect::RefusedForSize(transactional_id.into()));
        }
        has_room
    }

    pub(crate) fn init(&mut self, transactional_id: &str, init: Init, reply: ReplyTo, turn: &mut Turn<'_>) {
        if !(1..=turn.settings.transaction_max_timeout_ms).contains(&init.timeout_ms) {
            return turn.answer_producer(reply, Err(TransactionError::InvalidTransactionTimeout));
        }
        if !self.transactions.contains_key(transactional_id) {
            let Some(producer_id) = init.new_id else {
                return turn.answer(reply, Answer::Producer(Ok(Assigned::NeedsId)));
            };
            // The rest is for the partitions of those that are there.
            let limit = turn.settings.transaction_coordinator_max_bytes / 4 * 3;
            if !self.has_room_for(transactional_id, TRANSACTION_BYTES + transactional_id.len(), limit, turn) {
                return turn.answer_producer(reply, Err(TransactionError::TooMuchHeld));
            }
            self.insert(Transaction::new(Arc::from(transactional_id), producer_id, turn.now.wall_ms));
        }
        self.change(transactional_id, |transaction| transaction.init(init, reply, turn));
    }

    pub(crate) fn add_partitions(
        &mut self,
        transactional_id: &str,
        producer: Producer,
        partitions: Vec<TopicPartition>,
        version: TransactionVersion,
        reply: ReplyTo,
        turn: &mut Turn<'_>,
    ) {
        let is_new = |known: &Transaction, partition: &TopicPartition| !known.stored().partitions.contains(partition);
        let new = self.get(transactional_id).map_or(0, |known| partitions.iter().filter(|p| is_new(known, p)).count());
        // Twice: as it is, and as it will be.
        let limit = turn.settings.transaction_coordinator_max_bytes;
        if !self.has_room_for(transactional_id, 2 * PARTITION_BYTES * new, limit, turn) {
            return turn.answer_other(reply, Err(TransactionError::TooMuchHeld));
        }
        let change =
            |transaction: &mut Transaction| transaction.add_partitions(producer, partitions, version, reply, turn);
        if self.change(transactional_id, change).is_none() {
            turn.answer_other(reply, Err(TransactionError::InvalidProducerIdMapping));
        }
    }

    /// For each partition, whether the transaction is open there.
    pub(crate) fn verify(
        &self,
        transactional_id: &str,
        producer: Producer,
        partitions: &[TopicPartition],
    ) -> Result<Vec<bool>, TransactionError> {
        let transaction = self.get(transactional_id).ok_or(TransactionError::InvalidProducerIdMapping)?;
        transaction.verify(producer, partitions)
    }

    pub(crate) fn end(&mut self, transactional_id: &str, end: End, reply: ReplyTo, turn: &mut Turn<'_>) {
        if self.change(transactional_id, |transaction| transaction.end(end, reply, turn)).is_none() {
            turn.answer_producer(reply, Err(TransactionError::InvalidProducerIdMapping));
        }
    }

    /// What became of markers.
    pub(crate) fn markers_answered(
        &mut self,
        transactional_id: &str,
        producer: Producer,
        coordinator_epoch: LeaderEpoch,
        partitions: &[TopicPartition],
        fate: MarkersFate,
        turn: &mut Turn<'_>,
    ) {
        self.change(transactional_id, |transaction| {
            transaction.markers_answered(producer, coordinator_epoch, partitions, fate, turn);
        });
    }

    /// The periodic round: ids that nobody uses any more. They are gone at once; if their tombstones get lost, whoever
    /// loads the partition next forgets them again.
    pub(crate) fn expire(&mut self, turn: &mut Turn<'_>) {
        let expiration_ms = turn.settings.transactional_id_expiration_ms;
        let expired: Vec<Arc<str>> = self
            .iter()
            .filter(|transaction| transaction.is_expired(turn.now.wall_ms, expiration_ms))
            .map(|transaction| Arc::clone(transaction.transactional_id()))
            .collect();
        if expired.is_empty() {
            return;
        }
        turn.effect(TransactionEffect::Expired(expired.len()));
        for transactional_id in &expired {
            let gone = self.transactions.remove(transactional_id);
            self.bytes -= gone.map_or(0, |gone| gone.bytes());
        }
        let tombstone = |transactional_id| TransactionRecord { transactional_id, stored: None };
        let tombstones = expired.into_iter().map(tombstone).collect();
        for records in in_short_batches(tombstones, |tombstone| tombstone.transactional_id.len()) {
            let Some(first) = records.first() else { continue };
            let of = Arc::clone(&first.transactional_id);
            turn.actions.push_back(core::Action::Forget { of, records });
        }
    }

    /// What `bytes` must be.
    #[cfg(test)]
    pub(super) fn counted_bytes(&self) -> usize {
        self.iter().map(Transaction::bytes).sum()
    }
}

impl Core for Transactions {
    type Vocabulary = TransactionVocabulary;
    type Replay = Replay;

    const TOPIC: &'static str = TRANSACTION_STATE_TOPIC;
    const NAME: &'static str = "txn coordinator";

    fn encode(_: &str, records: &Vec<TransactionRecord>, _: &TransactionConfig, now_ms: i64) -> Result<Bytes, String> {
        let mut batch = BatchBuilder::new();
        for record in records {
            let (key, value) = records::encode(record).map_err(|error| error.to_string())?;
            batch.append(now_ms, Some(&key), value.as_deref(), &[]);
        }
        Ok(batch.build())
    }

    fn replay(replay: &mut Replay, batch: ReadBatch<'_>) -> Result<(), String> {
        replay.batch(batch)
    }

    fn load(&mut self, replay: Replay, _: LeaderEpoch, turn: &mut Turn<'_>) -> usize {
        for (transactional_id, stored) in replay.into_transactions() {
            let mut transaction = Transaction::from_record(transactional_id, stored);
            transaction.loaded(turn);
            self.insert(transaction);
        }
        self.transactions.len()
    }

    fn unload(&mut self, turn: &mut Turn<'_>) -> usize {
        let transactions = std::mem::take(self).transactions;
        let count = transactions.len();
        for mut transaction in transactions.into_values() {
            transaction.unloaded(turn);
        }
        count
    }

    fn appended(&mut self, transactional_id: &str, append: AppendId, outcome: AppendOutcome, turn: &mut Turn<'_>) {
        self.change(transactional_id, |transaction| transaction.appended(append, outcome, turn));
    }

    fn timer_fired(&mut self, timer: &TimerKey, turn: &mut Turn<'_>) {
        self.change(&timer.of, |transaction| transaction.timer_fired(timer.kind, turn));
    }

    fn bytes(&self) -> u64 {
        self.bytes as u64
    }
}
