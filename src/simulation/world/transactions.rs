//! Producers with transactional ids, and readers of what they have committed.
//!
//! A producer does one thing after the other, as a Java client does: it takes an epoch, adds partitions, writes to them, adds
//! the offsets of its group and commits these, and ends the transaction. What is not answered it asks again, the same way;
//! when it gives up a record it aborts, and takes the next epoch before it goes on. It may end without a word, and be begun
//! anew; and two of them have the same id, each of which is fenced by the other.
//!
//! By version 2 of the protocol it adds nothing before it writes, and has another epoch with each transaction. What it asks
//! may be long under way, and come when it is in another transaction. In version 1 nothing tells apart what belongs to one
//! of two with the same epoch, and a connection that is closed mostly does: so EndTxn and TxnOffsetCommit do not come then.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::sync::oneshot::error::TryRecvError;

use crate::api;
use crate::client::consumer::AbortedBatches;
use crate::coordinator::group::offsets::FoundOffset;
use crate::coordinator::transaction::state::Producer;
use crate::log::FirstBatch;
use crate::model::internal_topics::GROUP_METADATA_TOPIC;
use crate::model::transaction_version::TransactionVersion;
use crate::model::{Offset, ProducerId, TopicId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::message::Payload;
use crate::record::build::{BatchBuilder, TransactionOutcome};
use crate::record::read::batches;
use crate::replica::partition::{FetchLimits, FetchParams, Fetcher};
use crate::replica::partition_log::PartitionLog;
use crate::simulation::checks::Checked;
use crate::simulation::checks::transactions::{Found, Number};
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

/// What a producer asks.
struct Ask {
    which: usize,
    step: Step,
    version: TransactionVersion,
    incarnation: Option<Producer>,
    number: Option<Number>,
    timeout_ms: i32,
    /// That nobody has.
    new_id: ProducerId,
}

/// What has been asked of a broker and has not come there.
struct UnderWay {
    number: usize,
    at: usize,
    life: u64,
    ask: Ask,
}

enum Awaited {
    /// By its number.
    UnderWay(usize),
    Answer(Answering),
}

struct Asked {
    at: usize,
    /// Another had begun by then.
    is_fenced: bool,
    answer: Awaited,
}

#[derive(Default)]
struct TransactionalProducer {
    /// As it was told.
    incarnation: Option<Producer>,
    /// That its transaction follows.
    version: TransactionVersion,
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
        // Another epoch comes with the end, by version 2.
        self.needs_epoch = !self.version.bumps_epoch();
        let is_ended = self.is_open || self.version.bumps_epoch();
        self.steps = is_ended.then_some(Step::End(TransactionOutcome::Abort)).into_iter().collect();
        if is_ended { None } else { self.transaction.take() }
    }

    /// It goes on as another.
    fn becomes(&mut self, incarnation: Producer) {
        if self.incarnation != Some(incarnation) {
            self.sequences = Default::default();
        }
        self.incarnation = Some(incarnation);
    }
}

/// Which version of the protocol producers follow that have heard of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Feature {
    pub version: TransactionVersion,
    /// How often it is turned.
    pub turns: f64,
}

impl Feature {
    pub fn drawn(rng: &mut SmallRng) -> Feature {
        let version = if rng.random_bool(0.5) { TransactionVersion::V0 } else { TransactionVersion::V2 };
        Feature { version, turns: if rng.random_bool(0.4) { 0.02 } else { 0.0 } }
    }

    fn turned(&mut self) {
        self.version = match self.version {
            TransactionVersion::V0 => TransactionVersion::V2,
            TransactionVersion::V2 => TransactionVersion::V0,
        };
    }
}

pub(super) struct TransactionalProducers {
    producers: [TransactionalProducer; IDS.len()],
    timeout_ms: i32,
    /// Of one that was fenced.
    rest_ms_max: u64,
    feature: Feature,
    /// How much of what they ask is long under way.
    delays: f64,
    under_way: Vec<UnderWay>,
    asks: usize,
    ids_given: i64,
    /// Ids under which somebody has begun who waits for that no more.
    begun_in_vain: BTreeSet<&'static str>,
    /// Each id is to commit one transaction more, and whether it has.
    last: Option<[bool; IDS.len()]>,
}

impl TransactionalProducers {
    pub fn drawn(rng: &mut SmallRng, about_transactions: bool, now: Instant) -> TransactionalProducers {
        let timeout_ms = rng.random_range(2_000..20_000);
        let is_patient = about_transactions && rng.random_bool(0.5);
        let rest_ms_max = if about_transactions { 12_000 } else { 3_000 };
        let mut producers: [TransactionalProducer; IDS.len()] = Default::default();
        // Who begins under an id fences whoever has.
        producers[IDS.len() - 1].rests_until = Some(now + Duration::from_millis(rng.random_range(0..rest_ms_max)));
        TransactionalProducers {
            producers,
            rest_ms_max,
            timeout_ms: if is_patient { CALM_TIMEOUT_MS } else { timeout_ms },
            feature: Feature::drawn(rng),
            delays: if rng.random_bool(0.3) { 0.0 } else { rng.random_range(0.0..0.2) },
            under_way: Vec::new(),
            asks: 0,
            ids_given: 0,
            begun_in_vain: BTreeSet::new(),
            last: None,
        }
    }

    /// Each id has committed its last transaction.
    pub fn are_at_rest(&self) -> bool {
        self.last.is_none_or(|last| last == [true; IDS.len()])
    }

    /// A producer waits for the end of its transaction.
    pub fn is_one_ending(&self) -> bool {
        let is_ending = |one: &TransactionalProducer| matches!(one.steps.front(), Some(Step::End(_)));
        self.producers.iter().any(|one| one.asked.is_some() && is_ending(one))
    }

    fn awaits(&self, which: usize, number: usize) -> bool {
        let asked = self.producers[which].asked.as_ref();
        asked.is_some_and(|asked| matches!(asked.answer, Awaited::UnderWay(awaited) if awaited == number))
    }

    fn is_under_way(&self, which: usize) -> bool {
        let asked = self.producers[which].asked.as_ref();
        asked.is_some_and(|asked| matches!(asked.answer, Awaited::UnderWay(_)))
    }

    /// Whether nothing but itself ends what a producer of that id does, whatever comes late.
    fn is_alone(&self, which: usize) -> bool {
        let id = IDS[which];
        let is_only = IDS.iter().filter(|known| **known == id).count() == 1;
        is_only && self.timeout_ms == CALM_TIMEOUT_MS && !self.begun_in_vain.contains(id)
    }

    /// Of a topic that was, which nothing in it says.
    pub fn forget_writes(&mut self, to: usize) {
        self.under_way.retain(|one| !matches!(one.ask.step, Step::Write { partition, .. } if partition == to));
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
            let (heard, patience) = match answer {
                Awaited::UnderWay(_) => (Err(TryRecvError::Empty), 0.2),
                Awaited::Answer(answer) => (answer.try_recv(), 0.04),
            };
            match heard {
                Ok(outcome) => {
                    producer.asked = None;
                    self.producer_answered(which, at, is_fenced, is_calm, outcome)?;
                }
                Err(TryRecvError::Closed) => producer.asked = None,
                Err(TryRecvError::Empty) if !is_calm && self.rng.random_bool(patience) => self.lose_patience(which),
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
        if is_last.is_some_and(|last| last[which]) {
            return;
        }
        let producer = &mut producers.producers[which];
        let before = producer.version;
        if !rng.random_bool(0.2) {
            producer.version = producers.feature.version;
        }
        // Nothing but the epoch would tell the first transaction of version 2 from the last before it.
        let is_raised = producer.version > before;
        if producer.incarnation.is_none() || producer.needs_epoch || is_raised {
            producer.steps.push_back(Step::Init);
            return;
        }
        let adds = !producer.version.bumps_epoch();
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
        if adds && rng.random_bool(0.5) && !partitions.is_empty() {
            producer.steps.push_back(Step::Add(partitions.clone()));
        }
        for partition in partitions {
            producer.steps.extend(adds.then(|| Step::Add(vec![partition])));
            for _ in 0..rng.random_range(1..3) {
                *next_value += 1;
                let sequence = producer.sequences[partition];
                producer.sequences[partition] += 1;
                producer.steps.push_back(Step::Write { partition, value: *next_value, sequence });
            }
        }
        if with_offsets {
            producer.steps.extend(adds.then_some(Step::AddOffsets));
            producer.steps.push_back(Step::CommitOffsets);
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
        let (incarnation, transaction) = (producer.incarnation, producer.transaction);
        let is_calm = producers.last.is_some();
        let checks = &mut self.checks.transactions;
        let is_fenced = incarnation.is_some_and(|incarnation| !checks.is_current(id, incarnation));
        match (&step, transaction) {
            (Step::Write { partition, value, .. }, Some(number)) => {
                checks.writes(number, &self.names[*partition], *value);
            }
            (Step::CommitOffsets, Some(number)) => checks.writes_offset(number),
            (Step::End(TransactionOutcome::Commit), Some(number)) => checks.asks_for_commit(number, is_fenced),
            _ => {}
        }
        let life = self.brokers[at].life_number;
        let World { producers, rng, .. } = self;
        let producers = producers.as_mut()?;
        producers.asks += 1;
        producers.ids_given += 1;
        let ask = Ask {
            which,
            step: step.clone(),
            version: producers.producers[which].version,
            incarnation,
            number: transaction,
            timeout_ms: if is_calm { CALM_TIMEOUT_MS } else { producers.timeout_ms },
            new_id: ProducerId(producers.ids_given),
        };
        producers.under_way.retain(|earlier| {
            let is_mistaken = matches!(earlier.ask.step, Step::CommitOffsets | Step::End(_));
            let is_same = earlier.ask.which == which && earlier.ask.incarnation == incarnation;
            !(is_same && is_mistaken && !earlier.ask.version.bumps_epoch())
        });
        let answer = if !is_calm && rng.random_bool(producers.delays) {
            let number = producers.asks;
            producers.under_way.push(UnderWay { number, at, life, ask });
            Awaited::UnderWay(number)
        } else {
            Awaited::Answer(self.serve(at, ask)?)
        };
        let producer = &mut self.producers.as_mut()?.producers[which];
        // A write opens the transaction.
        producer.is_open |= producer.version.bumps_epoch() && matches!(step, Step::Write { .. } | Step::CommitOffsets);
        producer.asked = Some(Asked { at, is_fenced, answer });
        self.note(|world| {
            let is_late = world.producers.as_ref().is_some_and(|producers| producers.is_under_way(which));
            let how = if is_late { "asks, late," } else { "asks" };
            format!("producer {which} of {id}, {incarnation:?}, {how} broker {} for {step:?}", world.brokers[at].id)
        });
        Some(at)
    }

    /// What a broker is asked comes there.
    fn serve(&mut self, at: usize, ask: Ask) -> Option<Answering> {
        let Ask { which, step, version, incarnation, number, timeout_ms, new_id } = ask;
        let (id, names) = (IDS[which], &self.names);
        let life = self.brokers[at].life.as_mut()?;
        Some(match (step, incarnation, number) {
            (Step::Init, ..) => life.init_producer_id(id, timeout_ms, incarnation, new_id),
            (Step::Add(partitions), Some(producer), _) => {
                let partitions = partitions.iter().map(|partition| names[*partition].clone()).collect();
                life.add_partitions(id, producer, partitions)
            }
            (Step::Write { partition, value, sequence }, Some(producer), _) => {
                let mut batch = BatchBuilder::new();
                batch = batch.producer(producer.id.0, producer.epoch.0, sequence).transactional(true);
                batch.append(NOW_MS, Some(&value.to_be_bytes()), None, &[]);
                life.produce(&names[partition], id, producer, version, sequence, batch.build())
            }
            (Step::AddOffsets, Some(producer), _) => {
                life.add_partitions(id, producer, vec![TopicPartition::new(GROUP_METADATA_TOPIC, 0)])
            }
            (Step::CommitOffsets, Some(producer), Some(number)) => {
                let place = (TOPIC, place_of(id));
                life.commit_in_transaction(GROUP, id, producer, version, place, number.as_offset())
            }
            (Step::End(outcome), Some(producer), _) => life.end_transaction(id, producer, outcome, version),
            (step, ..) => panic!("nobody does {step:?} without an epoch or outside a transaction"),
        })
    }

    /// Something comes to a broker that was long under way. Who has received it.
    pub(super) fn request_arrives(&mut self) -> Option<usize> {
        let World { producers, rng, brokers, .. } = self;
        let producers = producers.as_mut().filter(|producers| !producers.under_way.is_empty())?;
        let UnderWay { number, at, life, ask } =
            producers.under_way.swap_remove(rng.random_range(0..producers.under_way.len()));
        let which = ask.which;
        let is_awaited = producers.awaits(which, number);
        let is_there = brokers[at].life_number == life && brokers[at].life.is_some();
        if is_there && matches!(ask.step, Step::Init) && !is_awaited {
            producers.begun_in_vain.insert(IDS[which]);
        }
        self.note(|world| {
            let (step, incarnation, broker) = (&ask.step, ask.incarnation, world.brokers[at].id);
            format!("what producer {which}, {incarnation:?}, has asked broker {broker} for comes: {step:?}, {is_there}")
        });
        let answer = if is_there { self.serve(at, ask) } else { None };
        let producer = &mut self.producers.as_mut()?.producers[which];
        if is_awaited {
            producer.asked = producer
                .asked
                .take()
                .and_then(|asked| answer.map(|answer| Asked { answer: Awaited::Answer(answer), ..asked }));
        }
        Some(at)
    }

    /// The feature is turned, in some schedules.
    pub(super) fn turn_feature(&mut self) {
        let World { producers, rng, .. } = self;
        let Some(producers) = producers else { return };
        if rng.random_bool(producers.feature.turns) {
            producers.feature.turned();
            self.note(|world| format!("{:?} from now on", world.producers.as_ref().map(|known| known.feature)));
        }
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
        let is_alone = producers.is_alone(which);
        let (id, producer) = (IDS[which], &mut producers.producers[which]);
        let Some(step) = producer.steps.front().cloned() else { return Ok(()) };
        let answer = match outcome {
            Ok(answer) => answer,
            Err(code) => {
                let refusal = refusal(code).ok_or_else(|| format!("{id}: {step:?} is answered with {code}"))?;
                let is_fenced = match step {
                    // What has opened a transaction in vain, by version 1, is ended for it.
                    Step::Init => false,
                    Step::End(_) => !matches!(refusal, Refusal::Retriable),
                    _ => matches!(refusal, Refusal::Fenced),
                };
                if is_fenced && producer.version.bumps_epoch() && is_alone {
                    return Err(format!("{id}: {step:?} is answered with {code}, and there is no other"));
                }
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
                        producer.rests_until =
                            Some(now + Duration::from_millis(rng.random_range(0..producers.rest_ms_max)));
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
                let (incarnation, version) = (Some(inited), producer.version);
                *producer = TransactionalProducer { incarnation, version, ..TransactionalProducer::default() };
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
            (Step::End(outcome), Answer::Ended(ended)) => {
                if producer.version.bumps_epoch() && producer.incarnation != Some(ended) {
                    if was_fenced {
                        return Err(format!("{id}: a fenced producer goes on as {ended}"));
                    }
                    checks.transactions.inited(id, ended)?;
                }
                producer.becomes(ended);
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
        self.checks.transactions.log(&name, &log)?;
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
                if let Some(log) = self.brokers[at].disk.get(&name).filter(|_| !self.checks.was_unclean(&name)) {
                    self.checks.transactions.log(&name, log)?;
                }
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
