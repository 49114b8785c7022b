//! The transaction coordinator as requests see it, over the shards of `__transaction_state`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use log::warn;
use tokio::sync::{mpsc, watch};

use crate::config::sections::TransactionConfig;
use crate::coordinator::counters::{TransactionCounters, add, count};
use crate::coordinator::partitioner::partition_for;
use crate::coordinator::refusals::Refusals;
use crate::coordinator::shard::{Asked, Clock, NotServing, Shard, ShardEvent, Shards, TopicTerms, now};
use crate::coordinator::topic_log::CoordinatorLog;
use crate::coordinator::transaction::error::TransactionError;
use crate::coordinator::transaction::requests::{Answered, Assigned, End, Init, Markers, MarkersFate, ProducerAnswer};
use crate::coordinator::transaction::state::{Producer, StoredTransaction};
use crate::coordinator::transaction::transactions::Transactions;
use crate::coordinator::transaction::turn::{Answer, TransactionEffect};
use crate::model::lock::Guard;
use crate::model::shown::quoted;
use crate::model::transaction_version::TransactionVersion;
use crate::model::{LeaderEpoch, ProducerId, TopicPartition};
use crate::record::build::TransactionOutcome;

/// The handle of the transaction coordinator.
pub struct TransactionCoordinator {
    shards: Arc<Shards<Transactions>>,
    counters: Arc<TransactionCounters>,
}

/// Asks, and once more with an id that nobody has, if one is needed.
async fn assigned<A, F>(
    ask: impl Fn(Option<ProducerId>) -> A,
    next_id: impl FnOnce() -> F,
) -> Result<Producer, TransactionError>
where
    A: Future<Output = ProducerAnswer>,
    F: Future<Output = Option<ProducerId>>,
{
    if let Assigned::As(producer) = ask(None).await? {
        return Ok(producer);
    }
    // What Kafka answers while it waits for a block of ids; producers ask again.
    let new_id = next_id().await.ok_or(TransactionError::CoordinatorLoadInProgress)?;
    match ask(Some(new_id)).await? {
        Assigned::As(producer) => Ok(producer),
        Assigned::NeedsId => Err(TransactionError::ConcurrentTransactions),
    }
}

/// Partitions that are being added to a transaction.
pub(crate) struct Adding(Result<Asked<Transactions>, TransactionError>);

impl Adding {
    pub(crate) async fn answer(self) -> Answered {
        match self.0?.answer().await {
            Some(Answer::Other(answer)) => answer,
            _ => Err(TransactionError::CoordinatorNotAvailable),
        }
    }
}

/// For the one who sends markers.
#[derive(Debug)]
pub enum MarkersToSend {
    Send(Markers),
    /// Of this transactional id no more.
    Stop(Arc<str>),
}

impl From<NotServing> for TransactionError {
    fn from(why: NotServing) -> TransactionError {
        match why {
            NotServing::Stopped => TransactionError::CoordinatorNotAvailable,
            NotServing::Loading => TransactionError::CoordinatorLoadInProgress,
            NotServing::NotOwned => TransactionError::NotCoordinator,
        }
    }
}

impl TransactionCoordinator {
    /// `partition_count` is what `__transaction_state` has in ZooKeeper, or will have when it is created. The second
    /// value is for the marker sender.
    pub fn new(
        settings: TransactionConfig,
        partition_count: i32,
        log: Arc<dyn CoordinatorLog>,
        counters: Arc<TransactionCounters>,
    ) -> (Arc<TransactionCoordinator>, mpsc::UnboundedReceiver<MarkersToSend>) {
        TransactionCoordinator::with_clock(settings, partition_count, log, counters, Box::new(now))
    }

    pub(crate) fn with_clock(
        settings: TransactionConfig,
        partition_count: i32,
        log: Arc<dyn CoordinatorLog>,
        counters: Arc<TransactionCounters>,
        clock: Clock,
    ) -> (Arc<TransactionCoordinator>, mpsc::UnboundedReceiver<MarkersToSend>) {
        let terms = TopicTerms {
            load_buffer_bytes: settings.state_log_load_buffer_size,
            required_acks: -1,
            append_timeout: Duration::from_millis(settings.request_timeout_ms),
        };
        let (markers, to_send) = mpsc::unbounded_channel();
        let (counted, refusals) = (Arc::clone(&counters), Refusals::default());
        let effect = Box::new(move |effect| match effect {
            // Nobody sends any more once the broker shuts down; whoever loads the partition next does.
            TransactionEffect::SendMarkers(to_write) => drop(markers.send(MarkersToSend::Send(to_write))),
            TransactionEffect::StopMarkers(transactional_id) => {
                drop(markers.send(MarkersToSend::Stop(transactional_id)));
            }
            TransactionEffect::Completed => count(&counted.completed),
            TransactionEffect::TimedOut => count(&counted.timed_out),
            TransactionEffect::Expired(ids) => add(&counted.expired, ids as u64),
            TransactionEffect::RefusedForSize(transactional_id) => {
                count(&counted.refused_for_size);
                if refusals.is_news(&transactional_id, Instant::now()) {
                    warn!(
                        "{} is refused what it wants to add: it would exceed transaction.coordinator.max.bytes, or three \
                         quarters of it with a new id",
                        quoted(&transactional_id)
                    );
                }
            }
        });
        let shards = Shards::new(settings, terms, partition_count, log, Arc::clone(&counters.shards), effect, clock);
        (Arc::new(TransactionCoordinator { shards, counters }), to_send)
    }

    pub(crate) fn settings(&self) -> &TransactionConfig {
        self.shards.settings()
    }

    #[cfg(test)]
    pub(crate) fn shards(&self) -> &Arc<Shards<Transactions>> {
        &self.shards
    }

    /// The partition of `__transaction_state` whose leader coordinates the transactional id.
    pub fn partition_for(&self, transactional_id: &str) -> i32 {
        partition_for(transactional_id, self.shards.partition_count())
    }

    /// The shard of the transactional id, if this broker may speak for it now.
    fn shard_of(&self, transactional_id: &str) -> Result<Guard<'_, Shard<Transactions>>, TransactionError> {
        if transactional_id.is_empty() {
            return Err(TransactionError::InvalidRequest);
        }
        Ok(self.shards.owned(self.partition_for(transactional_id))?)
    }

    // What the requests ask for

    /// `next_id` takes a producer id that nobody has; it is asked only if one is needed.
    pub(crate) async fn init_producer_id<F: Future<Output = Option<ProducerId>>>(
        &self,
        transactional_id: &str,
        timeout_ms: i32,
        expected: Option<Producer>,
        next_id: impl FnOnce() -> F,
    ) -> Result<Producer, TransactionError> {
        let init = |new_id| self.ask_init(transactional_id, Init { timeout_ms, expected, new_id });
        assigned(init, next_id).await
    }

    async fn ask_init(&self, transactional_id: &str, init: Init) -> ProducerAnswer {
        let shard = self.shard_of(transactional_id)?;
        match self.shards.ask(shard, |core, reply, turn| core.init(transactional_id, init, reply, turn)).answer().await
        {
            Some(Answer::Producer(answer)) => answer,
            _ => Err(TransactionError::CoordinatorNotAvailable),
        }
    }

    /// Who the producer is from then on. `next_id` as in `init_producer_id`.
    pub(crate) async fn end<F: Future<Output = Option<ProducerId>>>(
        &self,
        transactional_id: &str,
        producer: Producer,
        outcome: TransactionOutcome,
        version: TransactionVersion,
        next_id: impl FnOnce() -> F,
    ) -> Result<Producer, TransactionError> {
        let end = |new_id| self.ask_end(transactional_id, End { producer, outcome, version, new_id });
        assigned(end, next_id).await
    }

    async fn ask_end(&self, transactional_id: &str, end: End) -> ProducerAnswer {
        let shard = self.shard_of(transactional_id)?;
        match self.shards.ask(shard, |core, reply, turn| core.end(transactional_id, end, reply, turn)).answer().await {
            Some(Answer::Producer(answer)) => answer,
            _ => Err(TransactionError::CoordinatorNotAvailable),
        }
    }

    pub(crate) async fn add_partitions(
        &self,
        transactional_id: &str,
        producer: Producer,
        partitions: Vec<TopicPartition>,
        version: TransactionVersion,
    ) -> Answered {
        self.ask_to_add(transactional_id, producer, partitions, version).answer().await
    }

    /// What comes of it can be waited for later.
    pub(crate) fn ask_to_add(
        &self,
        transactional_id: &str,
        producer: Producer,
        partitions: Vec<TopicPartition>,
        version: TransactionVersion,
    ) -> Adding {
        Adding(self.shard_of(transactional_id).map(|shard| {
            self.shards.ask(shard, |core, reply, turn| {
                core.add_partitions(transactional_id, producer, partitions, version, reply, turn);
            })
        }))
    }

    /// For each partition, whether the transaction is open there.
    pub(crate) fn verify(
        &self,
        transactional_id: &str,
        producer: Producer,
        partitions: &[TopicPartition],
    ) -> Result<Vec<bool>, TransactionError> {
        self.shard_of(transactional_id)?.core().verify(transactional_id, producer, partitions)
    }

    pub(crate) fn describe(&self, transactional_id: &str) -> Result<StoredTransaction, TransactionError> {
        let shard = self.shard_of(transactional_id)?;
        let known = shard.core().get(transactional_id).ok_or(TransactionError::TransactionalIdNotFound)?;
        Ok(known.stored().clone())
    }

    /// Shows the transactional ids that this broker coordinates, until `look` has seen enough.
    pub(crate) fn list<E>(
        &self,
        mut look: impl FnMut(&str, &StoredTransaction) -> Result<(), E>,
    ) -> Result<Result<(), E>, TransactionError> {
        if !self.shards.is_active() {
            return Err(TransactionError::CoordinatorNotAvailable);
        }
        let mut outcome = Ok(());
        let loading = self.shards.look_at_all(|core| {
            if outcome.is_ok() {
                outcome = core.iter().try_for_each(|one| look(one.transactional_id(), one.stored()));
            }
        });
        if loading { Err(TransactionError::CoordinatorLoadInProgress) } else { Ok(outcome) }
    }

    // What the marker sender reports

    pub(crate) fn markers_answered(
        &self,
        transactional_id: &str,
        producer: Producer,
        coordinator_epoch: LeaderEpoch,
        partitions: &[TopicPartition],
        fate: MarkersFate,
    ) {
        // Who coordinates it now sends its markers anew.
        let Ok(shard) = self.shard_of(transactional_id) else { return };
        self.shards.now(shard, |core, turn| {
            core.markers_answered(transactional_id, producer, coordinator_epoch, partitions, fate, turn);
        });
    }

    /// Runs until the broker shuts down: timers, appends that wait for replicas, elections, expiry.
    pub async fn run(self: Arc<Self>, events: mpsc::UnboundedReceiver<ShardEvent>, shutdown: watch::Receiver<bool>) {
        let interval_ms = self.settings().remove_expired_transaction_cleanup_interval_ms.max(1);
        let interval = Duration::from_millis(interval_ms);
        Arc::clone(&self.shards).run(events, shutdown, interval, |core, turn| core.expire(turn)).await;
        log::info!(
            "[TransactionCoordinator]: Shutdown complete. {} transactions were completed and {} timed out since the \
             start.",
            self.counters.completed.load(Ordering::Relaxed),
            self.counters.timed_out.load(Ordering::Relaxed)
        );
    }
}
