//! The tasks of coordinators, which do in turn what `coordinator/shard.rs` does in its own, and the logs under them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::coordinator::core::Core;
use crate::coordinator::replica_log::{self, appending, committing, terms};
use crate::coordinator::shard::{Read, ShardEvent, Shards, WaitingAppend};
use crate::coordinator::topic_log::{AppendFailure, Appending, Committing, CoordinatorLog};
use crate::coordinator::transaction::records::{DecodedRecord, TransactionRecord, decode};
use crate::coordinator::transaction::state::TransactionState;
use crate::model::internal_topics::TRANSACTION_STATE_TOPIC;
use crate::model::{LeaderEpoch, Offset};
use crate::record::append_rules::AppendOrigin;
use crate::record::read::batches;
use crate::replica::error::ReplicaError;
use crate::replica::hosted::Hosted;
use crate::replica::memory_log::MemoryLog;
use crate::replica::partition::AppendTerms;
use crate::replica::partition_log::PartitionLog;
use crate::simulation::Planted;
use crate::simulation::clock::{Clock, NOW_MS};
use crate::simulation::life::Replica;

const TIMERS_EVERY: Duration = Duration::from_millis(50);

/// What one coordinator does besides answering.
pub(super) struct ShardTask<C: Core> {
    shards: Arc<Shards<C>>,
    timers_fired: Instant,
    pub events: VecDeque<ShardEvent>,
    to_read: VecDeque<(i32, LeaderEpoch, u64)>,
    /// They are taken over once they may be.
    loaded: Vec<(i32, LeaderEpoch, u64, Read<C>, Committing)>,
    appends_to_wait_for: mpsc::UnboundedReceiver<WaitingAppend>,
    waiting_appends: Vec<WaitingAppend>,
}

impl<C: Core> ShardTask<C> {
    pub fn new(shards: &Arc<Shards<C>>, now: Instant) -> ShardTask<C> {
        ShardTask {
            shards: Arc::clone(shards),
            timers_fired: now,
            events: VecDeque::new(),
            to_read: VecDeque::new(),
            loaded: Vec::new(),
            appends_to_wait_for: shards.waiting_appends(),
            waiting_appends: Vec::new(),
        }
    }

    /// It hears of an election, a partition is read or taken over, or an append has reached the replicas.
    pub fn step(&mut self, now: Instant) -> bool {
        let ShardTask { shards, events, to_read, loaded, waiting_appends, .. } = self;
        if now.saturating_duration_since(self.timers_fired) > TIMERS_EVERY {
            self.timers_fired = now;
            shards.fire_timers();
        }
        while let Ok(waiting) = self.appends_to_wait_for.try_recv() {
            waiting_appends.push(waiting);
        }
        let mut context = Context::from_waker(Waker::noop());
        for at in 0..waiting_appends.len() {
            if let Poll::Ready(outcome) = waiting_appends[at].outcome.as_mut().poll(&mut context) {
                let waited = waiting_appends.remove(at);
                shards.appended(&waited, outcome);
                return true;
            }
        }
        for at in 0..loaded.len() {
            if let Poll::Ready(committed) = loaded[at].4.as_mut().poll(&mut context) {
                let (partition, leader_epoch, load, read, _) = loaded.remove(at);
                if shards.take_over(read, committed) {
                    to_read.push_back((partition, leader_epoch, load));
                }
                return true;
            }
        }
        if let Some((partition, leader_epoch, load)) = to_read.pop_front() {
            let read = shards.read(partition, leader_epoch, load);
            let committed = shards.committed(&read);
            loaded.push((partition, leader_epoch, load, read, committed));
            return true;
        }
        match events.pop_front() {
            None => return false,
            Some(ShardEvent::Elected { partition, leader_epoch }) => {
                let load = shards.start_load(partition, leader_epoch);
                to_read.extend(load.map(|load| (partition, leader_epoch, load)));
            }
            Some(ShardEvent::Resigned { partition, leader_epoch }) => shards.resign(partition, leader_epoch),
        }
        true
    }
}

/// A topic under its coordinator.
pub(super) struct TopicLog {
    pub topic: &'static str,
    pub hosted: Arc<Hosted<MemoryLog>>,
    pub clock: Clock,
    pub planted: Planted,
}

impl TopicLog {
    fn partition(&self, partition: i32) -> Result<Replica, ReplicaError> {
        self.hosted.get(self.topic, partition).ok_or(ReplicaError::NotLeaderOrFollower)
    }

    fn has_planted(&self, planted: Planted) -> bool {
        self.topic == TRANSACTION_STATE_TOPIC && self.planted == planted
    }
}

impl CoordinatorLog for TopicLog {
    fn append(
        &self,
        partition: i32,
        leader_epoch: LeaderEpoch,
        batch: Bytes,
        origin: AppendOrigin,
        required_acks: i16,
        timeout: Duration,
    ) -> Appending {
        let required_acks = if self.has_planted(Planted::AnsweredBeforeReplicated) { 1 } else { required_acks };
        let terms = AppendTerms { origin, ..terms(leader_epoch, required_acks) };
        let appended = self.partition(partition).and_then(|partition| partition.append(batch, terms, NOW_MS));
        let mut waiting = match appending(appended, timeout) {
            Appending::Done(outcome) => return Appending::Done(outcome),
            Appending::Waiting(waiting) => waiting,
        };
        let (clock, deadline) = (self.clock.clone(), self.clock.now() + timeout);
        Appending::Waiting(Box::pin(poll_fn(move |context| match waiting.as_mut().poll(context) {
            Poll::Pending if clock.now() >= deadline => Poll::Ready(Err(AppendFailure::TimedOut)),
            polled => polled,
        })))
    }

    fn all_replicated(&self, partition: i32, leader_epoch: LeaderEpoch) -> Committing {
        if self.has_planted(Planted::LoadsTakenForCommitted) {
            return Box::pin(std::future::ready(Ok(())));
        }
        committing(self.partition(partition).and_then(|partition| partition.all_replicated(leader_epoch)))
    }

    fn log_start_offset(&self, partition: i32) -> Option<Offset> {
        Some(self.partition(partition).ok()?.log()?.bounds().log_start_offset)
    }

    fn read(&self, partition: i32, from: Offset, bytes_max: u32) -> Result<Bytes, String> {
        let hosted = self.partition(partition).map_err(|error| error.to_string())?;
        let read = replica_log::read(&hosted, from, bytes_max)?;
        Ok(if self.has_planted(Planted::OpenTransactionsForgotten) { without_open(&read) } else { read })
    }
}

/// Planted: nothing is read of transactions that are open.
fn without_open(read: &Bytes) -> Bytes {
    let mut left = BytesMut::new();
    for batch in batches(read) {
        let batch = batch.expect("well-formed");
        let mut records = batch.records().expect("not compressed");
        let is_open = records.any(|record| {
            let record = record.expect("well-formed");
            let decoded = decode(record.key, record.value).expect("written well");
            let DecodedRecord::Transaction(TransactionRecord { stored, .. }) = decoded else { return false };
            stored.is_some_and(|stored| stored.state == TransactionState::Ongoing)
        });
        if !is_open {
            left.extend_from_slice(batch.batch.bytes);
        }
    }
    left.freeze()
}
