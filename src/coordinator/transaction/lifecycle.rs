//! One transactional id: what it is asked and what comes of it.
//! Source: kafka 3.9 TransactionCoordinator.scala, TransactionMetadata.scala.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::coordinator::core;
use crate::coordinator::topic_log::AppendOutcome;
use crate::coordinator::transaction::error::TransactionError;
use crate::coordinator::transaction::records::TransactionRecord;
use crate::coordinator::transaction::requests::{Assigned, End, Init, Markers, MarkersFate};
use crate::coordinator::transaction::state::{Producer, StoredTransaction, TransactionState};
use crate::coordinator::transaction::turn::{Answer, AppendId, ReplyTo, TimerKey, TimerKind, TransactionEffect, Turn};
use crate::model::shown::quoted;
use crate::model::transaction_version::TransactionVersion;
use crate::model::{LeaderEpoch, ProducerEpoch, ProducerId, TopicPartition};
use crate::record::build::TransactionOutcome;

/// An id without its text and partitions; and a partition, whose topic's name is shared.
pub(super) const TRANSACTION_BYTES: usize = 512;
pub(super) const PARTITION_BYTES: usize = 64;

/// How soon what is decided and could not be written is tried again, at first and at last.
const RETRY_MS: i32 = 100;
const RETRY_MS_MAX: i32 = 5_000;

#[derive(Debug)]
pub(crate) struct Transaction {
    transactional_id: Arc<str>,
    stored: StoredTransaction,
    /// Who the producer was before the last InitProducerId that named it, or EndTxn that raised its epoch, so that a repeated
    /// one is known. Not written down: after an election only a commit tells of it, and others are fenced.
    last_producer: Producer,
    /// A change on its way into the log. Few have one.
    pending: Option<Box<Pending>>,
    /// The epoch was raised to fence the producer, and that could not be written: nobody was told of this epoch, and it
    /// need not be raised again.
    has_failed_epoch_fence: bool,
    /// In which epoch of the coordinator markers are being written, if they are.
    markers_in: Option<LeaderEpoch>,
    /// When it is next tried to write down that the transaction is complete, if that fails.
    retry_ms: i32,
}

#[derive(Debug)]
struct Pending {
    append: AppendId,
    next: StoredTransaction,
    then: Then,
}

/// What is done when the change is in force, and who is told.
#[derive(Debug)]
enum Then {
    Init {
        reply: ReplyTo,
        last_producer: Producer,
    },
    Open {
        reply: ReplyTo,
    },
    /// Nothing changes: the partitions are there already.
    RepeatOpen {
        reply: ReplyTo,
    },
    /// Nor here: the transaction has ended.
    RepeatEnd {
        reply: ReplyTo,
    },
    /// The producer itself ends its transaction.
    End {
        reply: ReplyTo,
        last_producer: Producer,
    },
    /// Somebody else does: another producer that begins, or nobody, when the time is up.
    Fence {
        reply: Option<ReplyTo>,
    },
    Complete,
}

impl Transaction {
    pub(crate) fn new(transactional_id: Arc<str>, producer_id: ProducerId, now_ms: i64) -> Transaction {
        let stored = StoredTransaction {
            producer: Producer { id: producer_id, ..Producer::NONE },
            timeout_ms: 0,
            state: TransactionState::Empty,
            partitions: BTreeSet::new(),
            start_ms: None,
            last_update_ms: now_ms,
            next_producer_id: None,
            previous_producer_id: None,
            client_transaction_version: TransactionVersion::V0,
        };
        Transaction::from_record(transactional_id, stored)
    }

    pub(crate) fn from_record(transactional_id: Arc<str>, stored: StoredTransaction) -> Transaction {
        let last_producer = stored.producer_before_commit().unwrap_or(Producer::NONE);
        Transaction {
            transactional_id,
            stored,
            last_producer,
            pending: None,
            has_failed_epoch_fence: false,
            markers_in: None,
            retry_ms: RETRY_MS,
        }
    }

    pub(crate) fn transactional_id(&self) -> &Arc<str> {
        &self.transactional_id
    }

    pub(crate) fn stored(&self) -> &StoredTransaction {
        &self.stored
    }

    pub(crate) fn bytes(&self) -> usize {
        let pending = self.pending.as_ref().map_or(0, |pending| pending.next.partitions.len());
        let partitions = self.stored.partitions.len() + pending;
        TRANSACTION_BYTES + self.transactional_id.len() + PARTITION_BYTES * partitions
    }

    /// A change is on its way, or markers are.
    pub(crate) fn is_changing(&self) -> bool {
        self.pending.is_some() || self.markers_in.is_some()
    }

    fn change(&mut self, next: StoredTransaction, then: Then, turn: &mut Turn<'_>) {
        debug_assert!(self.pending.is_none(), "one change at a time");
        let transactional_id = Arc::clone(&self.transactional_id);
        let record = TransactionRecord { transactional_id, stored: Some(next.clone()) };
        let append = turn.append(&self.transactional_id, vec![record]);
        self.pending = Some(Box::new(Pending { append, next, then }));
    }

    /// Confirms what was done before, once its record is in the log again. All transactions of a producer look alike: a
    /// coordinator that has not heard of the next one would otherwise confirm an end that it knows to whoever ends a later
    /// transaction, which is open at the next coordinator and nobody then commits. In Kafka it does.
    fn repeat(&mut self, then: Then, turn: &mut Turn<'_>) {
        self.change(self.stored.clone(), then, turn);
    }

    // Requests

    /// Whether the producer may have what is kept here; it is checked again when its epoch is raised.
    fn is_expected(&self, expected: Producer) -> bool {
        let Producer { id, epoch } = self.stored.producer;
        // The id was only just made: its producer has lost what it had, and takes whatever it is given.
        epoch == Producer::NONE.epoch
            || expected.id == id
            // A repeated request: it was given the new id and has not heard of that.
            || (expected.id == self.last_producer.id && expected.is_exhausted())
    }

    pub(crate) fn init(&mut self, init: Init, reply: ReplyTo, turn: &mut Turn<'_>) {
        if self.is_changing() {
            return turn.answer_producer(reply, Err(TransactionError::ConcurrentTransactions));
        }
        if init.expected.is_some_and(|expected| !self.is_expected(expected)) {
            return turn.answer_producer(reply, Err(TransactionError::ProducerFenced));
        }
        let current = self.stored.producer;
        match self.stored.state {
            state if state.is_ending() => turn.answer_producer(reply, Err(TransactionError::ConcurrentTransactions)),
            // The transaction that is open ends first. The epoch that this takes is told to nobody.
            TransactionState::Ongoing => self.fence(Some(reply), turn),
            _ => {
                let bumped = current.with_next_epoch();
                let (producer, last_producer) = match init.expected {
                    expected if current.is_exhausted() && expected.is_none_or(|e| e.epoch == current.epoch) => {
                        let Some(id) = init.new_id else {
                            return turn.answer(reply, Answer::Producer(Ok(Assigned::NeedsId)));
                        };
                        let last_epoch = if expected.is_some() { current.epoch } else { Producer::NONE.epoch };
                        let first = Producer { id, ..Producer::NONE }.with_next_epoch();
                        (first, Producer { epoch: last_epoch, ..current })
                    }
                    None => (bumped, Producer { epoch: Producer::NONE.epoch, ..current }),
                    Some(expected) if current.epoch == Producer::NONE.epoch || expected.epoch == current.epoch => {
                        (bumped, current)
                    }
                    Some(expected) if expected.epoch == self.last_producer.epoch => (current, self.last_producer),
                    Some(expected) => {
                        log::info!(
                            "{} is {current}, and not the one with epoch {} that begins anew",
                            quoted(&self.transactional_id),
                            expected.epoch
                        );
                        return turn.answer_producer(reply, Err(TransactionError::ProducerFenced));
                    }
                };
                let next = StoredTransaction {
                    producer,
                    timeout_ms: init.timeout_ms,
                    state: TransactionState::Empty,
                    partitions: BTreeSet::new(),
                    start_ms: None,
                    last_update_ms: turn.now.wall_ms,
                    next_producer_id: None,
                    previous_producer_id: None,
                    client_transaction_version: TransactionVersion::V0,
                };
                self.change(next, Then::Init { reply, last_producer }, turn);
            }
        }
    }

    /// Whoever asks must be exactly the producer that is known.
    fn check_producer(&self, producer: Producer) -> Result<(), TransactionError> {
        if self.stored.next_producer_id == Some(producer.id) {
            // It was told its new id, which counts once the transaction has ended (KAFKA-18660).
            Err(TransactionError::ConcurrentTransactions)
        } else if producer.id != self.stored.producer.id {
            Err(TransactionError::InvalidProducerIdMapping)
        } else if producer.epoch != self.stored.producer.epoch {
            Err(TransactionError::ProducerFenced)
        } else {
            Ok(())
        }
    }

    pub(crate) fn add_partitions(
        &mut self,
        producer: Producer,
        partitions: Vec<TopicPartition>,
        version: TransactionVersion,
        reply: ReplyTo,
        turn: &mut Turn<'_>,
    ) {
        let state = self.stored.state;
        if let Err(error) = self.check_producer(producer) {
            return turn.answer_other(reply, Err(error));
        }
        if self.is_changing() || state.is_ending() {
            return turn.answer_other(reply, Err(TransactionError::ConcurrentTransactions));
        }
        if state == TransactionState::Ongoing && self.has_all(&partitions) {
            return self.repeat(Then::RepeatOpen { reply }, turn);
        }
        let mut next = self.stored.clone();
        next.partitions.extend(partitions);
        next.last_update_ms = turn.now.wall_ms;
        next.previous_producer_id = None;
        next.client_transaction_version = version;
        if state != TransactionState::Ongoing {
            next.start_ms = Some(turn.now.wall_ms);
        }
        next.state = TransactionState::Ongoing;
        self.change(next, Then::Open { reply }, turn);
    }

    fn has_all(&self, partitions: &[TopicPartition]) -> bool {
        partitions.iter().all(|partition| self.stored.partitions.contains(partition))
    }

    /// For each partition, whether the transaction is open there. A change on its way is not looked at: it is the append
    /// that is checked once more.
    pub(crate) fn verify(
        &self,
        producer: Producer,
        partitions: &[TopicPartition],
    ) -> Result<Vec<bool>, TransactionError> {
        self.check_producer(producer)?;
        if self.stored.state.is_ending() {
            return Err(TransactionError::ConcurrentTransactions);
        }
        Ok(partitions.iter().map(|partition| self.stored.partitions.contains(partition)).collect())
    }

    /// The producer has not heard that its EndTxn, which raised its epoch, was carried out.
    /// Source: kafka 4.1 TransactionCoordinator.scala (endTransaction), and KAFKA-20090 for the last epoch.
    fn is_repeated_end(&self, producer: Producer) -> bool {
        let StoredTransaction { producer: current, next_producer_id, previous_producer_id, .. } = self.stored;
        let has_bumped = self.stored.client_transaction_version.bumps_epoch();
        // One that was fenced with the last epoch there is cannot go on with it.
        let can_go_on = current.epoch.0 < i16::MAX || next_producer_id.is_some();
        let is_before = producer.with_next_epoch() == current && can_go_on;
        let is_before_rotation =
            previous_producer_id == Some(producer.id) && producer.is_exhausted() && current.epoch == ProducerEpoch(0);
        match self.stored.state {
            TransactionState::PrepareCommit | TransactionState::PrepareAbort => has_bumped && is_before,
            TransactionState::CompleteCommit | TransactionState::CompleteAbort => {
                has_bumped && (is_before || is_before_rotation)
            }
            _ => false,
        }
    }

    /// ```text
    ///                  version 0            version 2            version 2, repeated
    ///                  abort    commit      abort    commit      abort    commit
    /// Empty            refused  refused     new      refused     fenced   fenced
    /// Ongoing          ends     ends        ends     ends        fenced   fenced
    /// CompleteCommit   refused  ok          new      refused     refused  ok
    /// CompleteAbort    ok       refused     new      refused     ok       fenced
    /// PrepareCommit    again    again       again    again       again    again
    /// PrepareAbort     again    again       again    again       again    fenced
    /// ```
    /// "new" is an abort of nothing, by which the producer gets another epoch. A client repeats only what it has asked for:
    /// what has aborted where it repeats a commit is the clock, by which it is fenced as by another producer (KAFKA-20785).
    pub(crate) fn end(&mut self, end: End, reply: ReplyTo, turn: &mut Turn<'_>) {
        use TransactionOutcome::{Abort, Commit};
        use TransactionState::{CompleteAbort, CompleteCommit, Empty, Ongoing, PrepareAbort, PrepareCommit};
        let End { producer, outcome, version, new_id } = end;
        let is_repeated = version.bumps_epoch() && self.is_repeated_end(producer);
        if let Err(error) = self.check_producer(producer)
            && !is_repeated
        {
            return turn.answer_producer(reply, Err(error));
        }
        let bumps = version.bumps_epoch() && !is_repeated;
        let answer = match (self.stored.state, outcome) {
            (PrepareAbort | CompleteAbort, Commit) if is_repeated => Err(TransactionError::ProducerFenced),
            _ if self.is_changing() => Err(TransactionError::ConcurrentTransactions),
            (Ongoing, _) | (Empty | CompleteCommit | CompleteAbort, Abort) if bumps => {
                return self.end_and_bump(outcome, new_id, reply, turn);
            }
            (Ongoing, _) => {
                let last_producer = self.last_producer;
                let next = StoredTransaction {
                    client_transaction_version: version,
                    ..self.ending(outcome, self.stored.producer, turn)
                };
                return self.change(next, Then::End { reply, last_producer }, turn);
            }
            (CompleteCommit, Commit) | (CompleteAbort, Abort) if !bumps => {
                return self.repeat(Then::RepeatEnd { reply }, turn);
            }
            (PrepareCommit, Commit) | (PrepareAbort, Abort) => Err(TransactionError::ConcurrentTransactions),
            _ => Err(TransactionError::InvalidTxnState),
        };
        turn.answer_producer(reply, answer);
    }

    /// The markers carry the next epoch already: whatever the producer has sent before them is refused behind them.
    fn end_and_bump(
        &mut self,
        outcome: TransactionOutcome,
        new_id: Option<ProducerId>,
        reply: ReplyTo,
        turn: &mut Turn<'_>,
    ) {
        let current = self.stored.producer;
        let next_producer_id = new_id.filter(|_| current.is_exhausted());
        if current.is_exhausted() && next_producer_id.is_none() {
            return turn.answer(reply, Answer::Producer(Ok(Assigned::NeedsId)));
        }
        let mut next = self.ending(outcome, current.with_next_epoch(), turn);
        next.next_producer_id = next_producer_id;
        next.client_transaction_version = TransactionVersion::V2;
        if self.stored.state != TransactionState::Ongoing {
            // Nothing has begun; but what is ended has a beginning, or a JVM broker would not take it over.
            next.start_ms = Some(turn.now.wall_ms);
        }
        self.change(next, Then::End { reply, last_producer: current }, turn);
    }

    fn ending(&self, outcome: TransactionOutcome, producer: Producer, turn: &Turn<'_>) -> StoredTransaction {
        let state = match outcome {
            TransactionOutcome::Commit => TransactionState::PrepareCommit,
            TransactionOutcome::Abort => TransactionState::PrepareAbort,
        };
        StoredTransaction {
            producer,
            state,
            last_update_ms: turn.now.wall_ms,
            previous_producer_id: None,
            ..self.stored.clone()
        }
    }

    /// Aborts the open transaction under a higher epoch, so that its producer can do nothing more, or no more than learn
    /// that its time was up.
    fn fence(&mut self, reply: Option<ReplyTo>, turn: &mut Turn<'_>) {
        if !self.has_failed_epoch_fence {
            // At once: whatever the old producer asks from here on is refused, even if this cannot be written.
            self.stored.producer = self.stored.producer.with_next_epoch();
        }
        self.last_producer.epoch = Producer::NONE.epoch;
        let mut next = self.ending(TransactionOutcome::Abort, self.stored.producer, turn);
        if reply.is_some() {
            // Another one has the id now: the old one repeats nothing.
            next.client_transaction_version = TransactionVersion::V0;
        }
        self.change(next, Then::Fence { reply }, turn);
    }

    // Time

    pub(crate) fn timer_fired(&mut self, kind: TimerKind, turn: &mut Turn<'_>) {
        match kind {
            TimerKind::Complete if self.stored.partitions.is_empty() && self.pending.is_none() => self.complete(turn),
            // Markers are missing, or it is being written down.
            TimerKind::Complete => {}
            TimerKind::Timeout if self.stored.state != TransactionState::Ongoing => {}
            TimerKind::Timeout if self.is_changing() => self.look_again_at_timeout(turn),
            TimerKind::Timeout => {
                log::info!(
                    "the transaction of {} by {} is aborted: it has been open for more than {} ms",
                    quoted(&self.transactional_id),
                    self.stored.producer,
                    self.stored.timeout_ms
                );
                turn.effect(TransactionEffect::TimedOut);
                self.fence(None, turn);
            }
        }
    }

    fn look_again_at_timeout(&self, turn: &mut Turn<'_>) {
        let interval_ms = turn.settings.abort_timed_out_transaction_cleanup_interval_ms;
        turn.start_timer(&self.transactional_id, TimerKind::Timeout, interval_ms);
    }

    fn start_timeout(&self, turn: &mut Turn<'_>) {
        let start_ms = self.stored.start_ms.unwrap_or(turn.now.wall_ms);
        let open_until_ms = start_ms.saturating_add(i64::from(self.stored.timeout_ms)).saturating_add(1);
        let left_ms = u64::try_from(open_until_ms.saturating_sub(turn.now.wall_ms)).unwrap_or(0);
        // A clock that has jumped must not keep a transaction open for years.
        let left_ms = left_ms.min(u64::try_from(self.stored.timeout_ms).unwrap_or(0).saturating_add(1));
        let timer = TimerKey { of: Arc::clone(&self.transactional_id), kind: TimerKind::Timeout };
        let deadline = turn.now.instant + Duration::from_millis(left_ms);
        turn.actions.push_back(core::Action::StartTimer(timer, deadline));
    }

    /// Nothing has happened to it for so long that nobody is expected to come back.
    pub(crate) fn is_expired(&self, now_ms: i64, expiration_ms: i64) -> bool {
        let idle_ms = now_ms.saturating_sub(self.stored.last_update_ms);
        self.stored.state.is_idle() && !self.is_changing() && idle_ms >= expiration_ms
    }

    // What comes of it

    /// The fate of an append is known.
    pub(crate) fn appended(&mut self, append: AppendId, outcome: AppendOutcome, turn: &mut Turn<'_>) {
        let Some(pending) = self.pending.take_if(|pending| pending.append == append) else {
            return;
        };
        let Pending { next, then, .. } = *pending;
        match outcome {
            Ok(_) => self.enter(next, then, turn),
            Err(failure) => {
                let level = if matches!(then, Then::Complete) { log::Level::Debug } else { log::Level::Info };
                log::log!(
                    level,
                    "{} does not become {}: its record could not be written: {failure}",
                    quoted(&self.transactional_id),
                    next.state
                );
                self.failed(then, failure.into(), turn);
            }
        }
    }

    fn enter(&mut self, next: StoredTransaction, then: Then, turn: &mut Turn<'_>) {
        let was = self.stored.state;
        self.stored = next;
        match then {
            Then::Init { reply, last_producer } => {
                self.last_producer = last_producer;
                turn.answer_producer(reply, Ok(self.stored.producer));
            }
            Then::Open { reply } => {
                if was != TransactionState::Ongoing {
                    self.start_timeout(turn);
                }
                turn.answer_other(reply, Ok(()));
            }
            Then::RepeatOpen { reply } => turn.answer_other(reply, Ok(())),
            Then::RepeatEnd { reply } => turn.answer_producer(reply, Ok(self.stored.producer)),
            Then::End { reply, last_producer } => {
                self.last_producer = last_producer;
                turn.answer_producer(reply, Ok(self.stored.producer_afterwards()));
                self.ended(turn);
            }
            Then::Fence { reply } => {
                if let Some(reply) = reply {
                    // The producer asks again until the markers are written, and then gets an epoch of its own.
                    turn.answer_producer(reply, Err(TransactionError::ConcurrentTransactions));
                }
                self.ended(turn);
            }
            Then::Complete => {
                self.retry_ms = RETRY_MS;
                turn.effect(TransactionEffect::Completed);
            }
        }
    }

    fn failed(&mut self, then: Then, error: TransactionError, turn: &mut Turn<'_>) {
        match then {
            Then::Init { reply, .. } | Then::RepeatEnd { reply } | Then::End { reply, .. } => {
                turn.answer_producer(reply, Err(error));
            }
            Then::Open { reply } | Then::RepeatOpen { reply } => turn.answer_other(reply, Err(error)),
            Then::Fence { reply } => {
                self.has_failed_epoch_fence = true;
                if let Some(reply) = reply {
                    turn.answer_producer(reply, Err(error));
                }
                self.look_again_at_timeout(turn);
            }
            Then::Complete => {
                // Still changing: nothing else may happen before.
                self.markers_in = Some(turn.leader_epoch);
                turn.start_timer(&self.transactional_id, TimerKind::Complete, self.retry_ms);
                self.retry_ms = (2 * self.retry_ms).min(RETRY_MS_MAX);
            }
        }
    }

    /// How the transaction ends is in the log.
    fn ended(&mut self, turn: &mut Turn<'_>) {
        self.has_failed_epoch_fence = false;
        turn.cancel_timer(&self.transactional_id, TimerKind::Timeout);
        self.send_markers(turn);
    }

    fn send_markers(&mut self, turn: &mut Turn<'_>) {
        self.markers_in = Some(turn.leader_epoch);
        if self.stored.partitions.is_empty() {
            return self.complete(turn);
        }
        let outcome = match self.stored.state {
            TransactionState::PrepareCommit => TransactionOutcome::Commit,
            _ => TransactionOutcome::Abort,
        };
        turn.effect(TransactionEffect::SendMarkers(Markers {
            transactional_id: Arc::clone(&self.transactional_id),
            producer: self.stored.producer,
            outcome,
            coordinator_epoch: turn.leader_epoch,
            partitions: self.stored.partitions.clone(),
        }));
    }

    /// What became of the markers in some partitions, which were sent for the producer in an epoch of the coordinator.
    pub(crate) fn markers_answered(
        &mut self,
        producer: Producer,
        coordinator_epoch: LeaderEpoch,
        partitions: &[TopicPartition],
        fate: MarkersFate,
        turn: &mut Turn<'_>,
    ) {
        let is_of_these = self.markers_in == Some(coordinator_epoch) && self.stored.producer == producer;
        if !is_of_these || !self.stored.state.is_ending() {
            return;
        }
        match fate {
            MarkersFate::Written => {
                for partition in partitions {
                    self.stored.partitions.remove(partition);
                }
                if self.stored.partitions.is_empty() && self.pending.is_none() {
                    self.complete(turn);
                }
            }
            // The partition was led here in an older epoch when they were sent, and without a break since.
            MarkersFate::Fenced if turn.leader_epoch > coordinator_epoch => self.send_markers(turn),
            MarkersFate::Fenced => {
                log::warn!(
                    "the transaction of {} by {} stays {}: its markers are refused as outdated, so another \
                     coordinator has to end it",
                    quoted(&self.transactional_id),
                    self.stored.producer,
                    self.stored.state
                );
                self.markers_in = None;
            }
        }
    }

    /// Every partition has its marker.
    fn complete(&mut self, turn: &mut Turn<'_>) {
        let state = match self.stored.state {
            TransactionState::PrepareCommit => TransactionState::CompleteCommit,
            TransactionState::PrepareAbort => TransactionState::CompleteAbort,
            _ => return,
        };
        self.markers_in = None;
        let former = self.stored.producer.id;
        let next = StoredTransaction {
            state,
            producer: self.stored.producer_afterwards(),
            last_update_ms: turn.now.wall_ms,
            next_producer_id: None,
            previous_producer_id: self.stored.next_producer_id.map(|_| former),
            ..self.stored.clone()
        };
        self.change(next, Then::Complete, turn);
    }

    // Elections

    /// The transaction was read from the log: what was begun goes on.
    pub(crate) fn loaded(&mut self, turn: &mut Turn<'_>) {
        match self.stored.state {
            TransactionState::Ongoing => self.start_timeout(turn),
            state if state.is_ending() => self.send_markers(turn),
            _ => {}
        }
    }

    /// Another broker speaks for it now.
    pub(crate) fn unloaded(&mut self, turn: &mut Turn<'_>) {
        if self.stored.state == TransactionState::Ongoing {
            turn.cancel_timer(&self.transactional_id, TimerKind::Timeout);
        }
        if self.stored.state.is_ending() {
            turn.cancel_timer(&self.transactional_id, TimerKind::Complete);
            turn.effect(TransactionEffect::StopMarkers(Arc::clone(&self.transactional_id)));
        }
        let refused = TransactionError::NotCoordinator;
        match self.pending.take().map(|pending| pending.then) {
            Some(
                Then::Init { reply, .. }
                | Then::RepeatEnd { reply }
                | Then::End { reply, .. }
                | Then::Fence { reply: Some(reply) },
            ) => {
                turn.answer_producer(reply, Err(refused));
            }
            Some(Then::Open { reply } | Then::RepeatOpen { reply }) => turn.answer_other(reply, Err(refused)),
            Some(Then::Complete | Then::Fence { reply: None }) | None => {}
        }
    }
}
