//! Producers with transactional ids, and readers of what they have committed.
//!
//! A producer does one thing after the other, as a Java client does: it takes an epoch, adds partitions, writes to them, adds
//! the offsets of its group and commits these, and ends the transaction. What is not answered it asks again, the same way;
//! when it gives up a record it aborts, and takes the next epoch before it goes on. It may end without a word, and be begun
//! anew; and two of them have the same id, each of which is fenced by the other.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::sync::oneshot::error::TryRecvError;

use crate::api;
use crate::client::consumer::AbortedBatches;
use crate::coordinator::group::offsets::FoundOffset;
use crate::coordinator::transaction::state::Producer;
use crate::log::FirstBatch;
use crate::model::internal_topics::GROUP_METADATA_TOPIC;
use crate::model::{Offset, ProducerId, TopicId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::message::Payload;
use crate::record::build::{BatchBuilder, TransactionOutcome};
use crate::record::read::batches;
use crate::replica::partition::{FetchLimits, FetchParams, Fetcher};
use crate::replica::partition_log::PartitionLog;
use crate::simulation::checks::Checked;
use crate::simulation::checks::transactions::{Found, Number, markers};
use crate::simulation::clock::NOW_MS;
use crate::simulation::life::{Answer, Answering, Replica, Written, read};
use crate::simulation::world::{PRODUCED, TOPIC, World};

/// One of each producer.
const IDS: [&str; 3] = ["x", "y", "y"];
/// That the producers commit offsets of, each id those of a partition of its own.
const GROUP: &str = "e";
/// A transaction that is to be whole in the end takes no longer.
const CALM_TIMEOUT_MS: i32 = 600_000;

#[derive(Clone, Debug)]
enum Step {
    Init,
    /// By their places among all partitions.
    Add(Vec<usize>),
    Write {
        partition: usize,
        value: i64,
        sequence: i32,
    },
    AddOffsets,
    CommitOffsets,
    End(TransactionOutcome),
}

struct Asked {
    at: usize,
    /// Another had begun by then.
    is_fenced: bool,
    answer: Answering,
}

#[derive(Default)]
struct TransactionalProducer {
    /// As it was told.
    incarnation: Option<Producer>,
    /// What it has asked was in vain, or may have been: it goes on under another epoch.
    needs_epoch: bool,
    sequences: [i32; PRODUCED],
    /// What there is to do.
    steps: VecDeque<Step>,
    asked: Option<Asked>,
    transaction: Option<Number>,
    /// The coordinator knows of the transaction.
    is_open: bool,
    /// Fenced.
    rests_until: Option<Instant>,
}

impl TransactionalProducer {
    /// All that it knows, as when it ends.
    fn forget(&mut self) -> Option<Number> {
        std::mem::take(self).transaction
    }

    fn abort(&mut self) -> Option<Number> {
        self.needs_epoch = true;
        self.steps = self.is_open.then_some(Step::End(TransactionOutcome::Abort)).into_iter().collect();
        if self.is_open { None } else { self.transaction.take() }
    }
}

pub(super) struct TransactionalProducers {
    producers: [TransactionalProducer; IDS.len()],
    timeout_ms: i32,
    ids_given: i64,
    /// Each id is to commit one transaction more, and whether it has.
    last: Option<[bool; IDS.len()]>,
}

impl TransactionalProducers {
    pub fn new(timeout_ms: i32) -> TransactionalProducers {
        TransactionalProducers { producers: Default::default(), timeout_ms, ids_given: 0, last: None }
    }

    /// Each id has committed its last transaction.
    pub fn are_at_rest(&self) -> bool {
        self.last.is_none_or(|last| last == [true; IDS.len()])
    }
}

/// What a producer makes of an error.
enum Refusal {
    /// It asks again.
    Retriable,
    /// It aborts.
    Abortable,
    /// It has ended.
    Fenced,
}

fn refusal(code: ErrorCode) -> Option<Refusal> {
    match code {
        ErrorCode::NotCoordinator
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::CoordinatorLoadInProgress
        | ErrorCode::ConcurrentTransactions
        | ErrorCode::NotLeaderOrFollower
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::NotEnoughReplicasAfterAppend
        | ErrorCode::UnknownTopicOrPartition
        | ErrorCode::KafkaStorageError
        | ErrorCode::RequestTimedOut
        | ErrorCode::NetworkException => Some(Refusal::Retriable),
        // The state of a log that has lost it to an unclean election, or of a topic made anew.
        ErrorCode::OutOfOrderSequenceNumber | ErrorCode::InvalidTxnState | ErrorCode::TransactionAbortable => {
            Some(Refusal::Abortable)
        }
        ErrorCode::ProducerFenced | ErrorCode::InvalidProducerEpoch | ErrorCode::InvalidProducerIdMapping => {
            Some(Refusal::Fenced)
        }
        _ => None,
    }
}

impl World {
    /// One of the producers hears what it was answered, or asks what is next. The broker that has to do with it.
    pub(super) fn step_producer(&mut self, is_calm: bool) -> Result<usize, String> {
        let which = self.rng.random_range(0..IDS.len());
        let first = self.rng.random_range(0..self.brokers.len());
        let Some(producers) = &mut self.producers else { return Ok(first) };
        let producer = &mut producers.producers[which];
        if let Some(Asked { at, is_fenced, answer }) = &mut producer.asked {
            let (at, is_fenced) = (*at, *is_fenced);
            match answer.try_recv() {
                Ok(outcome) => {
                    producer.asked = None;
                    self.producer_answered(which, at, is_fenced, is_calm, outcome)?;
                }
                Err(TryRecvError::Closed) => producer.asked = None,
                Err(TryRecvError::Empty) if !is_calm && self.rng.random_bool(0.04) => self.lose_patience(which),
                Err(TryRecvError::Empty) => {}
            }
            return Ok(at);
        }
        if !is_calm && self.rng.random_bool(0.01) {
            let given_up = producer.forget();
            self.give_up(given_up);
            self.note(|_| format!("producer {which} ends without a word"));
            return Ok(first);
        }
        if producer.rests_until.is_some_and(|until| self.clock.now() < until) && !is_calm {
            return Ok(first);
        }
        if producer.steps.is_empty() {
            self.plan(which);
        }
        match self.ask_for_next(which, first) {
            Some(at) => Ok(at),
            None => {
                if !is_calm && self.rng.random_bool(0.1) {
                    self.abort(which);
                }
                Ok(first)
            }
        }
    }

    fn give_up(&mut self, number: Option<Number>) {
        number.into_iter().for_each(|number| self.checks.transactions.given_up(number));
    }

    /// The producer goes no further with its transaction, unless it is about to end it.
    fn abort(&mut self, which: usize) {
        let Some(producers) = &mut self.producers else { return };
        let producer = &mut producers.producers[which];
        if !matches!(producer.steps.front(), None | Some(Step::Init | Step::End(_))) {
            let given_up = producer.abort();
            self.give_up(given_up);
        }
    }

    /// What the producer does next, from the beginning.
    fn plan(&mut self, which: usize) {
        let World { producers, rng, checks, names, next_value, zookeeper, .. } = self;
        let Some(producers) = producers else { return };
        let is_last = producers.last;
        let producer = &mut producers.producers[which];
        if producer.incarnation.is_none() || producer.needs_epoch {
            producer.steps.push_back(Step::Init);
            return;
        }
        if is_last.is_some_and(|last| last[which]) {
            return;
        }
        let number = checks.transactions.begin(IDS[which]);
        let is_there = |partition: &usize| {
            let name = &names[*partition];
            zookeeper.partition_state(&name.topic, name.partition).is_some()
        };
        let mut partitions: Vec<usize> = match is_last {
            Some(_) => (0..PRODUCED).filter(is_there).collect(),
            None => (0..PRODUCED).filter(is_there).filter(|_| rng.random_bool(0.5)).collect(),
        };
        let with_offsets = is_last.is_some() || partitions.is_empty() || rng.random_bool(0.4);
        if rng.random_bool(0.5) {
            partitions.reverse();
        }
        if rng.random_bool(0.5) && !partitions.is_empty() {
            producer.steps.push_back(Step::Add(partitions.clone()));
        }
        for partition in partitions {
            producer.steps.push_back(Step::Add(vec![partition]));
            for _ in 0..rng.random_range(1..3) {
                *next_value += 1;
                let sequence = producer.sequences[partition];
                producer.sequences[partition] += 1;
                producer.steps.push_back(Step::Write { partition, value: *next_value, sequence });
            }
        }
        if with_offsets {
            producer.steps.extend([Step::AddOffsets, Step::CommitOffsets]);
        }
        let commits = is_last.is_some() || rng.random_bool(0.7);
        let outcome = if commits { TransactionOutcome::Commit } else { TransactionOutcome::Abort };
        producer.steps.push_back(Step::End(outcome));
        producer.transaction = Some(number);
    }

    /// Asks one of those who take themselves for the one to be asked. Who that is.
    fn ask_for_next(&mut self, which: usize, first: usize) -> Option<usize> {
        let producers = self.producers.as_ref()?;
        let (id, producer) = (IDS[which], &producers.producers[which]);
        let step = producer.steps.front().cloned()?;
        let is_asked = |at: &usize| match &step {
            Step::Init | Step::Add(_) | Step::AddOffsets | Step::End(_) => self.coordinates_transactions(*at),
            Step::Write { partition, .. } => self.leader_of(*at, &self.names[*partition]).is_some(),
            Step::CommitOffsets => self.coordinator_epoch(*at).is_some(),
        };
        let mut all = (0..self.brokers.len()).map(|at| (first + at) % self.brokers.len());
        let at = all.find(is_asked)?;
        let (incarnation, number) = (producer.incarnation, producer.transaction);
        let checks = &mut self.checks.transactions;
        let is_fenced = incarnation.is_some_and(|incarnation| !checks.is_current(id, incarnation));
        let names = &self.names;
        let life = self.brokers[at].life.as_mut().expect("it is asked");
        let timeout_ms = if producers.last.is_some() { CALM_TIMEOUT_MS } else { producers.timeout_ms };
        let answer = match (&step, incarnation, number) {
            (Step::Init, ..) => {
                let producers = self.producers.as_mut().expect("it is one of them");
                producers.ids_given += 1;
                let new_id = ProducerId(producers.ids_given);
                life.init_producer_id(id, timeout_ms, incarnation, new_id)
            }
            (Step::Add(partitions), Some(producer), _) => {
                let partitions = partitions.iter().map(|partition| names[*partition].clone()).collect();
                life.add_partitions(id, producer, partitions)
            }
            (Step::Write { partition, value, sequence }, Some(producer), Some(number)) => {
                checks.writes(number, &names[*partition], *value);
                let mut batch = BatchBuilder::new();
                batch = batch.producer(producer.id.0, producer.epoch.0, *sequence).transactional(true);
                batch.append(NOW_MS, Some(&value.to_be_bytes()), None, &[]);
                life.produce(&names[*partition], id, producer, *sequence, batch.build())
            }
            (Step::AddOffsets, Some(producer), _) => {
                life.add_partitions(id, producer, vec![TopicPartition::new(GROUP_METADATA_TOPIC, 0)])
            }
            (Step::CommitOffsets, Some(producer), Some(number)) => {
                checks.writes_offset(number);
                life.commit_in_transaction(GROUP, id, producer, (TOPIC, place_of(id)), number.as_offset())
            }
            (Step::End(outcome), Some(producer), Some(number)) => {
                if *outcome == TransactionOutcome::Commit {
                    checks.asks_for_commit(number, is_fenced);
                }
                life.end_transaction(id, producer, *outcome)
            }
            (step, ..) => panic!("nobody does {step:?} without an epoch or outside a transaction"),
        };
        let producers = self.producers.as_mut().expect("it is one of them");
        producers.producers[which].asked = Some(Asked { at, is_fenced, answer });
        self.note(|world| {
            format!("producer {which} of {id}, {incarnation:?}, asks broker {} for {step:?}", world.brokers[at].id)
        });
        Some(at)
    }

    fn producer_answered(
        &mut self,
        which: usize,
        at: usize,
        was_fenced: bool,
        is_calm: bool,
        outcome: Result<Answer, ErrorCode>,
    ) -> Checked {
        self.note(|_| format!("producer {which} is answered {outcome:?}"));
        let now = self.clock.now();
        let World { producers, checks, rng, .. } = self;
        let Some(producers) = producers else { return Ok(()) };
        let (id, producer) = (IDS[which], &mut producers.producers[which]);
        let Some(step) = producer.steps.front().cloned() else { return Ok(()) };
        let answer = match outcome {
            Ok(answer) => answer,
            Err(code) => {
                let refusal = refusal(code).ok_or_else(|| format!("{id}: {step:?} is answered with {code}"))?;
                match (refusal, step) {
                    (Refusal::Retriable, _) => {
                        if !is_calm && rng.random_bool(0.05) {
                            self.abort(which);
                        }
                    }
                    // A log that has heard of a later epoch before the producer: its coordinator will say so.
                    (Refusal::Abortable, Step::Add(_) | Step::AddOffsets)
                    | (Refusal::Abortable | Refusal::Fenced, Step::Write { .. } | Step::CommitOffsets) => {
                        self.abort(which);
                    }
                    (Refusal::Abortable | Refusal::Fenced, _) => {
                        let given_up = producer.forget();
                        producer.rests_until = Some(now + Duration::from_millis(rng.random_range(0..3_000)));
                        self.give_up(given_up);
                    }
                }
                return Ok(());
            }
        };
        producer.steps.pop_front();
        match (step, answer) {
            (Step::Init, Answer::Inited(inited)) => {
                if was_fenced {
                    return Err(format!("{id}: a fenced producer goes on as {inited}"));
                }
                checks.transactions.inited(id, inited)?;
                *producer = TransactionalProducer { incarnation: Some(inited), ..TransactionalProducer::default() };
            }
            (Step::Add(_) | Step::AddOffsets, Answer::Done) => producer.is_open = true,
            (Step::Write { partition, .. }, Answer::Written(Written { topic_id, epoch, prefix })) => {
                let name = &self.names[partition];
                // It may have been deleted before its producer heard of the commit.
                if self.brokers[at].disk.get(name).is_some_and(|log| log.topic_id() == topic_id) {
                    checks.told(name, epoch, prefix)?;
                }
            }
            (Step::CommitOffsets, Answer::Done) => {}
            (Step::End(outcome), Answer::Done) => {
                producer.is_open = false;
                if let Some(number) = producer.transaction.take() {
                    checks.transactions.ended(number, outcome)?;
                }
                if let (Some(last), TransactionOutcome::Commit) = (&mut producers.last, outcome) {
                    last[which] = true;
                }
            }
            (step, answer) => panic!("{step:?} is answered with {answer:?}"),
        }
        Ok(())
    }

    /// A producer waits no more for what it has asked.
    fn lose_patience(&mut self, which: usize) {
        let Some(producers) = &mut self.producers else { return };
        producers.producers[which].asked = None;
        self.note(|_| format!("producer {which} waits no more"));
        if self.rng.random_bool(0.5) {
            self.abort(which);
        }
    }

    /// From here on one producer of each id commits one transaction more, and the others are gone.
    pub(super) fn begin_last_transactions(&mut self) {
        let World { producers, checks, .. } = self;
        let Some(producers) = producers else { return };
        let given_up = producers.producers.iter_mut().filter_map(TransactionalProducer::forget);
        given_up.for_each(|number| checks.transactions.given_up(number));
        let is_first = |which: usize| !IDS[..which].contains(&IDS[which]);
        producers.last = Some(std::array::from_fn(|which| !is_first(which)));
    }

    pub(super) fn coordinates_transactions(&self, at: usize) -> bool {
        self.brokers[at].life.as_ref().is_some_and(|life| life.transactions.shards().owned(0).is_ok())
    }

    // ---- readers ----

    /// Records that a reader of committed ones finds on that broker, and where they end.
    pub(super) fn committed_in(&self, partition: &Replica, from: Offset) -> Option<(Vec<i64>, Offset)> {
        let fetcher = Fetcher::Consumer { read_committed: true, may_read_from_follower: true };
        let params = FetchParams {
            fetch_offset: from,
            log_start_offset: Offset(-1),
            bytes_max: 1 << 20,
            current_leader_epoch: None,
            last_fetched_epoch: None,
        };
        let limits = FetchLimits { bytes_left: 1 << 20, first_batch: FirstBatch::Whole, asked: None };
        let fetched = partition.fetch(fetcher, &params, TopicId::ZERO, limits).ok()?;
        let data = api::fetch::partition_data(partition.name().partition, fetched, fetcher);
        let bytes = match &data.records {
            Some(Payload::File(region)) => read(region),
            _ => return Some((Vec::new(), from)),
        };
        let mut aborted = AbortedBatches::new(data.aborted_transactions.unwrap_or_default());
        let (mut values, mut end) = (Vec::new(), from);
        for batch in batches(&bytes) {
            let batch = batch.expect("well-formed");
            end = Offset(batch.header().next_offset());
            if aborted.hides(batch.header()) || batch.header().is_control {
                continue;
            }
            let records = batch.records().expect("not compressed").map(|record| record.expect("well-formed"));
            let value = |key: &[u8]| i64::from_be_bytes(key.try_into().expect("a value"));
            values.extend(records.filter_map(|record| record.key).map(|key| value(&key)));
        }
        Some((values, end))
    }

    /// Somebody reads what is committed of a partition, and the offsets of the producers' group.
    pub(super) fn read_committed(&mut self, at: usize) -> Checked {
        if self.producers.is_none() {
            return Ok(());
        }
        self.read_committed_offsets(at)?;
        let name = self.names[self.rng.random_range(0..PRODUCED)].clone();
        let Some(partition) = self.brokers[at].life.as_ref().and_then(|life| life.replica(&name)) else {
            return Ok(());
        };
        // What an unclean election has taken away may have been a marker.
        let Some(log) = partition.log().filter(|_| !self.checks.was_unclean(&name)) else { return Ok(()) };
        let end = log.bounds().last_stable_offset;
        let from = if self.rng.random_bool(0.5) { Offset(0) } else { Offset(self.rng.random_range(0..=end.0)) };
        let epoch = partition.leader_epoch();
        let Some((values, end)) = self.committed_in(&partition, from) else { return Ok(()) };
        self.note(|world| {
            let id = world.brokers[at].id;
            format!("a reader of committed records reads {name} of broker {id} from {from} to {end}: {values:?}")
        });
        self.checks.transactions.read(&name, &values)?;
        markers(&name, &log)?;
        match end > from {
            true => self.checks.told(&name, epoch, log.prefix(end)),
            false => Ok(()),
        }
    }

    fn read_committed_offsets(&mut self, at: usize) -> Checked {
        for id in IDS {
            if let Some(offset) = self.committed_offset(at, id) {
                self.checks.transactions.read_offset(offset)?;
            }
        }
        Ok(())
    }

    /// The offset of that id, as this broker says, if it is the coordinator of the group.
    fn committed_offset(&self, at: usize, id: &'static str) -> Option<i64> {
        self.coordinator_epoch(at)?;
        let groups = &self.brokers[at].life.as_ref()?.groups;
        let found = groups.with_offsets(GROUP, |offsets| match offsets?.find(TOPIC, place_of(id), true) {
            FoundOffset::Committed(committed) => Some(committed.offset.0),
            FoundOffset::None | FoundOffset::Unstable => None,
        });
        found.ok()?
    }

    /// All that there is to be read, when nothing is under way any more.
    pub(super) fn check_transactions_at_rest(&mut self) -> Checked {
        if self.producers.is_none() {
            return Ok(());
        }
        let mut found = Found::default();
        for at in 0..self.brokers.len() {
            if self.coordinator_epoch(at).is_some() {
                found.offsets.extend(IDS.map(|id| (id, self.committed_offset(at, id))));
            }
            for partition in 0..PRODUCED {
                let name = self.names[partition].clone();
                let Some(leader) = self.leader_of(at, &name).filter(|_| !self.checks.was_unclean(&name)) else {
                    continue;
                };
                let bounds = leader.log().map(|log| log.bounds()).ok_or_else(|| format!("{name} has no log"))?;
                if bounds.last_stable_offset != bounds.log_end_offset {
                    return Err(format!("{name}: a transaction is open for ever: {bounds:?}"));
                }
                let (values, _) = self.committed_in(&leader, Offset(0)).ok_or_else(|| format!("{name} is not read"))?;
                self.checks.transactions.read(&name, &values)?;
                found.records.insert(name, values);
            }
        }
        self.checks.transactions.at_rest(&found)
    }
}

/// Among the partitions of the group.
fn place_of(id: &str) -> i32 {
    IDS.iter().position(|known| *known == id).and_then(|place| i32::try_from(place).ok()).expect("one of them")
}
