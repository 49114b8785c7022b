//! What a coordinator has read of its log serves once that stays.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::config::sections::TransactionConfig;
use crate::coordinator::core::Core;
use crate::coordinator::shard::Read;
use crate::coordinator::topic_log::{AppendFailure, Appending, Committing, CoordinatorLog};
use crate::coordinator::transaction::error::TransactionError;
use crate::coordinator::transaction::records::TransactionRecord;
use crate::coordinator::transaction::state::{Producer, StoredTransaction, TransactionState};
use crate::coordinator::transaction::task::{MarkersToSend, TransactionCoordinator};
use crate::coordinator::transaction::transactions::Transactions;
use crate::model::transaction_version::TransactionVersion;
use crate::model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicPartition};
use crate::record::append_rules::AppendOrigin;
use crate::record::build::{BatchBuilder, TransactionOutcome, end_transaction_marker};

/// Whether its replicas have what it holds a test says.
struct Log {
    /// Behind it another, and so on.
    batches: Vec<Bytes>,
    committed: Mutex<Option<oneshot::Sender<Result<(), AppendFailure>>>>,
}

/// That transaction is to be committed.
fn committing(transactional_id: &str, offset: i64) -> Bytes {
    let stored = StoredTransaction {
        producer: Producer { id: ProducerId(7), epoch: ProducerEpoch(0) },
        timeout_ms: 60_000,
        state: TransactionState::PrepareCommit,
        partitions: [TopicPartition::new("a", 0)].into(),
        start_ms: Some(0),
        last_update_ms: 0,
        next_producer_id: None,
        previous_producer_id: None,
        client_transaction_version: TransactionVersion::V0,
    };
    let record = TransactionRecord { transactional_id: transactional_id.into(), stored: Some(stored) };
    let batch = Transactions::encode(transactional_id, &vec![record], &TransactionConfig::default(), 0);
    at(offset, batch.expect("a short name"))
}

fn at(offset: i64, batch: Bytes) -> Bytes {
    [&offset.to_be_bytes(), &batch[8..]].concat().into()
}

impl CoordinatorLog for Log {
    fn append(&self, _: i32, _: LeaderEpoch, _: Bytes, _: AppendOrigin, _: i16, _: Duration) -> Appending {
        panic!("nothing is appended before the markers are answered")
    }

    fn all_replicated(&self, _: i32, _: LeaderEpoch) -> Committing {
        let (committed, outcome) = oneshot::channel();
        *self.committed.lock().expect("no test panics under it") = Some(committed);
        Box::pin(async move { outcome.await.expect("the test says it") })
    }

    fn log_start_offset(&self, _: i32) -> Option<Offset> {
        Some(Offset(0))
    }

    fn read(&self, _: i32, from: Offset, _: u32) -> Result<Bytes, String> {
        let at = usize::try_from(from.0).expect("it is read from its start");
        Ok(self.batches.get(at).cloned().unwrap_or_default())
    }
}

struct Elected {
    log: Arc<Log>,
    coordinator: Arc<TransactionCoordinator>,
    markers: mpsc::UnboundedReceiver<MarkersToSend>,
    loaded: Read<Transactions>,
    committing: Committing,
}

/// By a log with a batch at each offset.
fn elected(batches: Vec<Bytes>) -> Elected {
    let log = Arc::new(Log { batches, committed: Mutex::default() });
    let settings = TransactionConfig::default();
    let (coordinator, markers) = TransactionCoordinator::new(settings, 1, Arc::clone(&log) as _, Arc::default());
    let shards = coordinator.shards();
    let load = shards.start_load(0, LeaderEpoch(3)).expect("it is not loaded");
    let loaded = shards.read(0, LeaderEpoch(3), load);
    let committing = shards.committed(&loaded);
    Elected { log, coordinator, markers, loaded, committing }
}

impl Elected {
    fn committed(&mut self) -> Poll<Result<(), AppendFailure>> {
        self.committing.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    fn say(&self, outcome: Result<(), AppendFailure>) {
        let committed = self.log.committed.lock().expect("no test panics under it").take();
        committed.expect("it was asked").send(outcome).expect("it is awaited");
    }
}

/// The record may be one that only this replica has. If the next leader has not, it aborts what this one has committed.
#[test]
fn what_is_decided_is_not_carried_out_before_every_replica_knows() {
    let mut elected = elected(vec![committing("t", 0)]);
    assert!(elected.committed().is_pending());
    assert_eq!(elected.coordinator.describe("t"), Err(TransactionError::CoordinatorLoadInProgress));
    assert!(elected.markers.try_recv().is_err());
    elected.say(Ok(()));
    let Poll::Ready(committed) = elected.committed() else { panic!("it has been said") };
    elected.coordinator.shards().take_over(elected.loaded, committed);
    assert!(
        matches!(elected.markers.try_recv(), Ok(MarkersToSend::Send(markers)) if &*markers.transactional_id == "t")
    );
    let described = elected.coordinator.describe("t").expect("it is loaded");
    assert_eq!(described.state, TransactionState::PrepareCommit);
}

#[test]
fn what_may_not_stay_is_not_served_and_read_again_after_the_next_election() {
    let mut elected = elected(vec![committing("t", 0)]);
    elected.say(Err(AppendFailure::NotLeaderOrFollower));
    let Poll::Ready(committed) = elected.committed() else { panic!("it has been said") };
    let shards = elected.coordinator.shards();
    shards.take_over(elected.loaded, committed);
    assert!(elected.markers.try_recv().is_err());
    assert_eq!(elected.coordinator.describe("t"), Err(TransactionError::NotCoordinator));
    assert!(shards.start_load(0, LeaderEpoch(5)).is_some());
}

/// Whoever likes can have a marker written here, and some tools write what they like.
#[test]
fn what_says_nothing_of_transactions_hides_none_behind_it() {
    let mut unreadable = BatchBuilder::new();
    unreadable.append(0, Some(&[0, 0, 0]), None, &[]);
    unreadable.append(0, None, None, &[]);
    let marker = end_transaction_marker(7, 0, TransactionOutcome::Commit, 0, 0);
    // Two records, so nothing is to be read from offset 3 on.
    let unreadable = at(2, unreadable.build());
    let batches = vec![committing("t", 0), at(1, marker), unreadable, Bytes::new(), committing("u", 4)];
    let mut elected = elected(batches);
    elected.say(Ok(()));
    let Poll::Ready(committed) = elected.committed() else { panic!("it has been said") };
    elected.coordinator.shards().take_over(elected.loaded, committed);
    let states = ["t", "u"].map(|id| elected.coordinator.describe(id).map(|stored| stored.state));
    assert_eq!(states, [Ok(TransactionState::PrepareCommit); 2]);
}
