//! Partitions of several brokers in one process, over logs in memory and on disk: hand-driven interleavings of what was
//! admitted with what changed meanwhile, and histories of a cluster from a seed.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;

use crate::config::log::{LogConfig, ThrottledReplicas};
use crate::config::sections::LogDirsConfig;
use crate::log::dirs::LogDirs;
use crate::log::error::LogError;
use crate::log::leader_epochs::EpochEnd;
use crate::log::{FirstBatch, Log, OffsetQuery, ReadUntil};
use crate::metadata::cache::MetadataCache;
use crate::metadata::image::{Broker as BrokerImage, Update};
use crate::model::{
    BrokerEpoch, BrokerId, ControllerEpoch, LeaderEpoch, Offset, PartitionEpoch, TopicId, TopicPartition,
};
use crate::record::append::prepare;
use crate::record::append_rules::{AcceptedSets, AppendOrigin, AppendRules};
use crate::record::build::BatchBuilder;
use crate::record::read;
use crate::replica::error::ReplicaError;
use crate::replica::follower::FromLeader;
use crate::replica::isr_changes::{AfterAnswer, IsrAnswer, IsrChanges, IsrProposal};
use crate::replica::leader::{Decision, Verdict};
use crate::replica::memory_log::MemoryLog;
use crate::replica::partition::{
    AppendTerms, FetchLimits, FetchParams, Fetched, Fetcher, Partition, RequiredAcks, Surroundings,
};
use crate::replica::partition_log::PartitionLog;
use crate::replica::throttle::Throttle;
use crate::replica::waiters::{NotCommitted, ParkedFetch};

pub(super) const NOW_MS: i64 = 1_700_000_000_000;
const BROKERS: [i32; 3] = [1, 2, 3];
pub(super) const TERMS: AppendTerms = AppendTerms {
    accepted_sets: AcceptedSets::OneV2Batch,
    origin: AppendOrigin::Client,
    required_acks: RequiredAcks::AllInSync,
    expected_leader_epoch: None,
};

pub(super) type Clock = Arc<Mutex<Instant>>;

pub(super) fn partition<L: PartitionLog>(broker: i32, clock: &Clock) -> Arc<Partition<L>> {
    let metadata = Arc::new(MetadataCache::new());
    let brokers = BROKERS.map(|id| BrokerImage { id: BrokerId(id), rack: None, endpoints: Vec::new() });
    metadata.apply(Update { controller: BrokerId(1), brokers: brokers.to_vec(), topics: Vec::new() });
    let clock = Arc::clone(clock);
    let around = Surroundings {
        local: BrokerId(broker),
        replica_lag_time_max: Duration::from_secs(30),
        zstd_allowed: true,
        metadata,
        isr_changes: IsrChanges::default(),
        counters: Arc::default(),
        leader_throttle: Arc::new(Throttle::new(u64::MAX, 11, Duration::from_secs(1))),
        clock: Box::new(move || *clock.lock().expect("no test panics under it")),
    };
    Arc::new(Partition::new(TopicPartition::new("t", 0), Arc::new(around)))
}

pub(super) fn decision(leader: i32, epoch: i32, isr: &[i32]) -> Decision {
    let brokers = |ids: &[i32]| ids.iter().copied().map(BrokerId).collect::<Vec<_>>();
    Decision {
        controller_epoch: ControllerEpoch(1),
        leader: BrokerId(leader),
        leader_epoch: LeaderEpoch(epoch),
        partition_epoch: PartitionEpoch(epoch),
        isr: brokers(isr),
        assignment: brokers(&BROKERS),
        adding: Vec::new(),
        removing: Vec::new(),
        is_new: false,
        topic_id: TopicId::ZERO,
    }
}

/// One batch of one record, whose key says which it is.
pub(super) fn records(value: i64) -> Bytes {
    let mut builder = BatchBuilder::new();
    builder.append(NOW_MS, Some(&value.to_be_bytes()), None, &[]);
    builder.build()
}

/// What a leader answers that has one record at `fetch_offset`.
fn answer(epoch: i32, fetch_offset: i64) -> FromLeader {
    let mut prepared = prepare(records(9), &AppendRules::default(), NOW_MS).expect("valid");
    prepared.assign(fetch_offset, epoch, NOW_MS);
    let batch = &prepared.batches()[0];
    FromLeader {
        records: Bytes::from([batch.head(), batch.body()].concat()),
        leader_epoch: LeaderEpoch(epoch),
        fetch_offset: Offset(fetch_offset),
        high_watermark: Offset(fetch_offset + 1),
        log_start_offset: Offset(0),
    }
}

pub(super) fn follower(broker: i32, broker_epoch: i64) -> Fetcher {
    Fetcher::Follower { broker: BrokerId(broker), broker_epoch: BrokerEpoch(broker_epoch) }
}

pub(super) fn params(
    fetch_offset: Offset,
    epoch: Option<LeaderEpoch>,
    last_fetched_epoch: Option<LeaderEpoch>,
) -> FetchParams {
    FetchParams {
        fetch_offset,
        log_start_offset: Offset(0),
        bytes_max: 1 << 20,
        current_leader_epoch: epoch,
        last_fetched_epoch,
    }
}

pub(super) fn limits(now: Instant) -> FetchLimits {
    FetchLimits { bytes_left: 1 << 20, first_batch: FirstBatch::Whole, asked: Some(now) }
}

fn bytes_of(fetched: &Fetched) -> Bytes {
    let Some(region) = fetched.region() else { return Bytes::new() };
    let mut bytes = vec![0; region.len as usize];
    std::os::unix::fs::FileExt::read_exact_at(&*region.file, &mut bytes, region.position).expect("readable");
    Bytes::from(bytes)
}

/// Every record of a log, by offset.
fn contents<L: PartitionLog>(log: &L) -> BTreeMap<i64, i64> {
    let bounds = log.bounds();
    let mut found = BTreeMap::new();
    let mut from = bounds.log_start_offset;
    while from < bounds.log_end_offset {
        let batches = log.read(from, 1 << 20, ReadUntil::LogEnd, FirstBatch::Whole).expect("readable");
        let fetched = Fetched {
            batches: Some(batches),
            bounds,
            diverging: None,
            preferred_read_replica: None,
            end: bounds.log_end_offset,
            is_throttled: false,
            is_out_of_sync: false,
        };
        for record in read::records(&bytes_of(&fetched)) {
            let record = record.expect("well-formed");
            let key = record.key.expect("keyed");
            found.insert(record.offset, i64::from_be_bytes(key[..].try_into().expect("eight bytes")));
            from = Offset(record.offset + 1);
        }
    }
    found
}

// ---- interleavings ----

struct One {
    partition: Arc<Partition<MemoryLog>>,
    log: Arc<MemoryLog>,
    clock: Clock,
}

type Change = fn(&One);

impl One {
    /// Broker 1, leading in epoch 5 with three records, of which followers have none.
    fn leading() -> One {
        let clock = Arc::new(Mutex::new(Instant::now()));
        let one = One { partition: partition(1, &clock), log: Arc::new(MemoryLog::new()), clock };
        one.lead(5);
        for value in 0..3 {
            one.partition.append(records(value), TERMS, NOW_MS).expect("this broker leads");
        }
        one
    }

    fn lead(&self, epoch: i32) {
        self.partition.lead(&decision(1, epoch, &BROKERS), &self.log).expect("nothing fails in memory");
    }

    fn follow(&self, epoch: i32) {
        self.partition.follow(&decision(2, epoch, &BROKERS), &self.log).expect("nothing fails in memory");
    }

    fn now(&self) -> Instant {
        *self.clock.lock().expect("no test panics under it")
    }

    fn fetch(&self, broker: i32, broker_epoch: i64, offset: i64, epoch: Option<i32>) -> Result<Fetched, ReplicaError> {
        let params = params(Offset(offset), epoch.map(LeaderEpoch), None);
        self.partition.fetch(follower(broker, broker_epoch), &params, TopicId::ZERO, limits(self.now()))
    }

    /// The controller refuses what was asked for.
    fn lets_nobody_in(&self) {
        for proposal in self.partition.around.isr_changes.take() {
            self.partition.isr_answered(&proposal, IsrAnswer::NotApplied);
        }
    }

    /// What may come in between the admission of something and its being done.
    fn changes() -> [(&'static str, Change); 3] {
        [
            ("another broker was elected", |one| one.follow(6)),
            ("this broker was elected again", |one| one.lead(6)),
            ("the replica was deleted", |one| one.partition.close()),
        ]
    }

    fn clone_of(&self) -> One {
        One { partition: Arc::clone(&self.partition), log: Arc::clone(&self.log), clock: Arc::clone(&self.clock) }
    }

    /// Does something, with the change coming after its admission.
    fn interrupted<T>(&self, change: Change, work: impl FnOnce() -> T) -> T {
        let other = self.clone_of();
        self.log.before_next(move || change(&other));
        work()
    }
}

#[tokio::test]
async fn an_append_that_a_change_of_leadership_overtakes_writes_nothing() {
    for (what, change) in One::changes() {
        let one = One::leading();
        let outcome = one.interrupted(change, || one.partition.append(records(9), TERMS, NOW_MS));
        assert!(matches!(outcome, Err(ReplicaError::NotLeaderOrFollower)), "{what}: {outcome:?}");
        assert_eq!(contents(&*one.log).len(), 3, "{what}");
    }
}

#[tokio::test]
async fn an_append_whose_records_another_leader_has_replaced_is_not_acknowledged() {
    for (what, is_replaced) in [("elected again, with others in between", true), ("elected again", false)] {
        let one = One::leading();
        let other = one.clone_of();
        one.log.after_next(move || {
            if is_replaced {
                // What this broker wrote in epoch 5 goes, and so does all that the log knows of the epoch.
                other.follow(6);
                other.partition.truncate(Offset(0), LeaderEpoch(6), NOW_MS).expect("it follows");
                for offset in 0..5 {
                    let replicated = FromLeader { leader_epoch: LeaderEpoch(6), ..answer(4, offset) };
                    other.partition.append_from_leader(&replicated, NOW_MS).expect("it follows");
                }
            }
            other.lead(7);
        });
        let appended = one.partition.append(records(9), TERMS, NOW_MS);
        match is_replaced {
            true => assert!(matches!(appended, Err(ReplicaError::NotLeaderOrFollower)), "{what}: {appended:?}"),
            false => assert_eq!(appended.expect(what).info.first_offset, Offset(3)),
        }
    }
}

#[tokio::test]
async fn a_late_answer_of_an_old_leader_is_not_written_once_this_broker_leads_or_follows_another() {
    let later: [(&str, Change); 3] = [
        ("this broker leads", |one| one.lead(7)),
        ("this broker follows another", |one| one.follow(7)),
        ("the replica was deleted", |one| one.partition.close()),
    ];
    for (what, change) in later {
        for comes_in_between in [false, true] {
            let one = One::leading();
            one.follow(6);
            let answer = answer(6, 3);
            let outcome = match comes_in_between {
                true => one.interrupted(change, || one.partition.append_from_leader(&answer, NOW_MS)),
                false => {
                    change(&one);
                    one.partition.append_from_leader(&answer, NOW_MS)
                }
            };
            assert!(matches!(outcome, Err(ReplicaError::NotLeaderOrFollower)), "{what}: {outcome:?}");
            assert_eq!(contents(&*one.log).len(), 3, "{what}");
            assert_eq!(one.log.bounds().high_watermark, Offset(0), "{what}");
            let truncated = one.partition.truncate(Offset(1), LeaderEpoch(6), NOW_MS);
            assert!(matches!(truncated, Err(ReplicaError::NotLeaderOrFollower)), "{what}: {truncated:?}");
        }
    }
    // In its own epoch it is written once, however often it comes.
    let one = One::leading();
    one.follow(6);
    let answer = answer(6, 3);
    assert!(one.partition.append_from_leader(&answer, NOW_MS).is_ok());
    let again = one.partition.append_from_leader(&answer, NOW_MS);
    assert!(matches!(again, Err(ReplicaError::Log(LogError::UnexpectedOffset { .. }))), "{again:?}");
    assert_eq!((contents(&*one.log).len(), one.log.bounds().high_watermark), (4, Offset(4)));
}

#[tokio::test]
async fn a_fetch_that_was_admitted_under_another_epoch_says_nothing_of_its_follower() {
    for (what, change) in One::changes() {
        // Without an epoch in the request, as old followers ask: only the admission tells them apart.
        for epoch in [None, Some(5)] {
            let one = One::leading();
            for (broker, offset) in [(2, 0), (3, 3)] {
                one.fetch(broker, -1, offset, None).expect("a replica");
            }
            let outcome = one.interrupted(change, || one.fetch(2, -1, 2, epoch));
            assert!(outcome.is_err(), "{what}: {outcome:?}");
            assert_eq!(one.log.bounds().high_watermark, Offset(0), "{what}: nobody said so in this epoch");
        }
    }
}

/// It may be another leader's log by then, which the follower would append behind its own or truncate by.
#[tokio::test]
async fn what_was_read_after_a_change_of_leadership_is_given_to_no_follower() {
    for (what, change) in One::changes() {
        // A fetch that waited is read again, which says nothing new of the follower.
        for asked in [None, Some(Instant::now())] {
            let one = One::leading();
            let params = params(Offset(1), Some(LeaderEpoch(5)), Some(LeaderEpoch(5)));
            let limits = FetchLimits { asked, ..limits(one.now()) };
            let fetched =
                one.interrupted(change, || one.partition.fetch(follower(2, -1), &params, TopicId::ZERO, limits));
            assert!(matches!(fetched, Err(ReplicaError::NotLeaderOrFollower)), "{what}: {fetched:?}");
        }
        let one = One::leading();
        let earliest = || one.partition.find_offset(OffsetQuery::Earliest, None, Some(LeaderEpoch(5)), true);
        let found = one.interrupted(change, earliest);
        assert!(matches!(found, Err(ReplicaError::NotLeaderOrFollower)), "{what}: {found:?}");
    }
}

#[tokio::test]
async fn a_fetch_of_a_followers_earlier_life_does_not_move_it() {
    let one = One::leading();
    for (broker, broker_epoch, offset) in [(2, 20, 3), (3, 30, 1)] {
        one.fetch(broker, broker_epoch, offset, Some(5)).expect("a replica");
    }
    assert_eq!(one.log.bounds().high_watermark, Offset(1));
    let late = one.fetch(3, 29, 3, Some(5));
    assert!(matches!(late, Err(ReplicaError::NotLeaderOrFollower)), "{late:?}");
    assert_eq!(one.log.bounds().high_watermark, Offset(1), "the disk of that life may be gone");
    one.fetch(3, -1, 2, Some(5)).expect("a version that does not say");
    one.fetch(3, 31, 3, Some(5)).expect("a newer life");
    assert_eq!(one.log.bounds().high_watermark, Offset(3));
}

#[tokio::test]
async fn a_writer_that_expects_another_epoch_appends_nothing() {
    let one = One::leading();
    for (expected, is_appended) in [(4, false), (6, false), (5, true)] {
        let terms = AppendTerms { expected_leader_epoch: Some(LeaderEpoch(expected)), ..TERMS };
        let outcome = one.partition.append(records(9), terms, NOW_MS);
        match is_appended {
            true => assert!(outcome.is_ok()),
            false => assert!(matches!(outcome, Err(ReplicaError::NotLeaderOrFollower)), "{outcome:?}"),
        }
    }
    assert_eq!(contents(&*one.log).len(), 4);
}

#[tokio::test]
async fn a_deletion_that_a_change_of_leadership_overtakes_moves_nothing() {
    for (what, change) in One::changes() {
        let one = One::leading();
        for broker in [2, 3] {
            one.fetch(broker, -1, 3, Some(5)).expect("a replica");
        }
        let outcome = one.interrupted(change, || one.partition.delete_records(Some(Offset(2))));
        assert!(matches!(outcome, Err(ReplicaError::NotLeaderOrFollower)), "{what}: {outcome:?}");
        assert_eq!(one.log.bounds().log_start_offset, Offset(0), "{what}");
    }
}

#[tokio::test]
async fn how_far_a_follower_lags_does_not_depend_on_the_wall_clock() {
    let one = One::leading();
    one.lead(6);
    let shrunk = Decision { isr: vec![BrokerId(1)], ..decision(1, 7, &[1]) };
    one.partition.lead(&shrunk, &one.log).expect("nothing fails in memory");
    assert_eq!(one.log.bounds().high_watermark, Offset(3), "the others are out");
    one.fetch(2, -1, 3, Some(7)).expect("a replica");
    one.lets_nobody_in();
    let append = |now_ms| one.partition.append(records(9), TERMS, now_ms).expect("this broker leads");
    // Caught up a moment ago: it may join, so what it lacks is not committed, wherever the wall clock has jumped to.
    append(NOW_MS + 86_400_000);
    assert_eq!(one.log.bounds().high_watermark, Offset(3));
    *one.clock.lock().expect("no test panics under it") += Duration::from_secs(31);
    append(NOW_MS);
    assert_eq!(one.log.bounds().high_watermark, Offset(5), "too slow to join");
}

/// What a replica held back that may not join any more is committed with the next append, and counts as that does.
#[tokio::test]
async fn a_fetch_that_waits_hears_of_all_that_an_append_has_committed() {
    let one = One::leading();
    let shrunk = Decision { isr: vec![BrokerId(1)], ..decision(1, 6, &[1]) };
    one.partition.lead(&shrunk, &one.log).expect("nothing fails in memory");
    one.fetch(2, -1, 3, Some(6)).expect("a replica");
    one.lets_nobody_in();
    let parked = ParkedFetch::new(2 * records(9).len() as i64);
    let consumer = Fetcher::Consumer { read_committed: false, may_read_from_follower: false };
    one.partition.park_fetch(&parked, consumer, Offset(3));
    let append = || one.partition.append(records(9), TERMS, NOW_MS).expect("this broker leads");
    append();
    assert_eq!((one.log.bounds().high_watermark, parked.is_finished()), (Offset(3), false));
    *one.clock.lock().expect("no test panics under it") += Duration::from_secs(31);
    append();
    assert_eq!((one.log.bounds().high_watermark, parked.is_finished()), (Offset(5), true));
}

#[tokio::test]
async fn over_the_quota_a_throttled_follower_gets_nothing_unless_it_is_in_sync() {
    let one = One::leading();
    let shrunk = Decision { isr: vec![BrokerId(1), BrokerId(2)], ..decision(1, 6, &[1]) };
    one.partition.lead(&shrunk, &one.log).expect("nothing fails in memory");
    let throttle = &one.partition.around.leader_throttle;
    throttle.set_rate(0);
    throttle.record(1, one.now());
    let given = |broker| {
        let fetched = one.fetch(broker, -1, 0, Some(6)).expect("a replica");
        (fetched.bytes() > 0, fetched.is_throttled)
    };
    assert_eq!(given(3), (true, false), "nobody has said that it is throttled");
    let throttled = ThrottledReplicas::All;
    one.log.set_config(Arc::new(LogConfig { leader_replication_throttled_replicas: throttled, ..Default::default() }));
    assert_eq!([given(3), given(2)], [(false, true), (true, true)]);
    throttle.set_rate(u64::MAX);
    assert_eq!(given(3), (true, true));
}

// ---- histories ----

enum Message {
    Decision {
        to: usize,
        decision: Decision,
    },
    Fetch {
        from: usize,
        to: usize,
        request: u64,
        params: FetchParams,
    },
    Answer {
        to: usize,
        request: u64,
        diverging: Option<EpochEnd>,
        from_leader: FromLeader,
    },
    /// A leader asks the controller for an ISR until it is answered.
    Ask {
        from: usize,
        proposal: IsrProposal,
    },
    Told {
        to: usize,
        proposal: IsrProposal,
        answer: IsrAnswer,
    },
}

/// What goes wrong on purpose, to see whether a history shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    Nothing,
    /// Leaders take for agreed what the controller has not heard of.
    UnagreedShrinks,
    /// Leaders take an answer to what they asked before for one to what they ask now.
    LateAnswersObeyed,
}

struct Broker<L: PartitionLog> {
    partition: Arc<Partition<L>>,
    log: Arc<L>,
    /// The fetch whose answer it waits for: a diverging epoch counts only as the answer to that.
    request: u64,
    /// While it leads without a break.
    high_watermark: Option<Offset>,
}

type Committed = Pin<Box<dyn Future<Output = Result<(), NotCommitted>>>>;

struct World<L: PartitionLog> {
    rng: StdRng,
    clock: Clock,
    brokers: Vec<Broker<L>>,
    network: Vec<Message>,
    leader: usize,
    epoch: i32,
    /// As the controller has it, in this version.
    isr: Vec<usize>,
    partition_epoch: i32,
    /// What each broker asked last.
    asked: [Option<IsrProposal>; 3],
    isr_changes: usize,
    planted: Planted,
    next_value: i64,
    waiting: Vec<(i64, i64, Committed)>,
    /// Offset and value of what a producer was told is committed.
    acknowledged: Vec<(i64, i64)>,
}

impl<L: PartitionLog> World<L> {
    fn new(seed: u64, logs: Vec<Arc<L>>, planted: Planted) -> World<L> {
        let clock = Arc::new(Mutex::new(Instant::now()));
        let ids = BROKERS.into_iter().zip(logs);
        let brokers =
            ids.map(|(id, log)| Broker { partition: partition(id, &clock), log, request: 0, high_watermark: None });
        let mut world = World {
            rng: StdRng::seed_from_u64(seed),
            brokers: brokers.collect(),
            clock,
            network: Vec::new(),
            leader: 0,
            epoch: -1,
            isr: vec![0, 1, 2],
            partition_epoch: -1,
            asked: [None, None, None],
            isr_changes: 0,
            planted,
            next_value: 0,
            waiting: Vec::new(),
            acknowledged: Vec::new(),
        };
        world.elect();
        world
    }

    /// The controller chooses a leader from the ISR, which it may shrink.
    fn elect(&mut self) {
        self.epoch += 1;
        self.partition_epoch += 1;
        self.leader = self.isr[self.rng.random_range(0..self.isr.len())];
        if self.isr.len() > 2 && self.rng.random_bool(0.3) {
            let leader = self.leader;
            let leaving = self.isr.iter().position(|&member| member != leader).expect("there are others");
            self.isr.remove(leaving);
        }
        let isr: Vec<i32> = self.isr.iter().map(|&at| BROKERS[at]).collect();
        for to in 0..self.brokers.len() {
            let partition_epoch = PartitionEpoch(self.partition_epoch);
            let decision = Decision { partition_epoch, ..decision(BROKERS[self.leader], self.epoch, &isr) };
            self.network.push(Message::Decision { to, decision });
        }
    }

    /// What a leader wants is on its way to the controller.
    fn ask(&mut self, from: usize) {
        for proposal in self.brokers[from].partition.around.isr_changes.take() {
            self.asked[from] = Some(proposal.clone());
            let is_shrink = proposal.isr.len() < self.brokers[from].partition.isr().len();
            if self.planted == Planted::UnagreedShrinks && is_shrink {
                let answer = in_force(&proposal, PartitionEpoch(proposal.partition_epoch.0 + 1));
                self.brokers[from].partition.isr_answered(&proposal, answer);
                continue;
            }
            self.network.push(Message::Ask { from, proposal });
        }
    }

    /// The controller's answer, by the rules of `controller/alter_partition.rs`.
    fn alter(&mut self, from: usize, proposal: &IsrProposal) -> IsrAnswer {
        let current: Vec<BrokerId> = self.isr.iter().map(|&at| BrokerId(BROKERS[at])).collect();
        if proposal.leader_epoch != LeaderEpoch(self.epoch) {
            return IsrAnswer::Unclear;
        }
        assert_eq!(from, self.leader, "another leads in epoch {}", self.epoch);
        if proposal.isr == current {
            return in_force(proposal, PartitionEpoch(self.partition_epoch));
        }
        if proposal.partition_epoch != PartitionEpoch(self.partition_epoch) {
            return IsrAnswer::Unclear;
        }
        match self.rng.random_range(0..20) {
            0 => IsrAnswer::NotApplied,
            1 => IsrAnswer::Failed,
            _ => {
                let at = |member: &BrokerId| BROKERS.iter().position(|id| *id == member.0).expect("a replica");
                self.isr = proposal.isr.iter().map(at).collect();
                self.partition_epoch += 1;
                self.isr_changes += 1;
                in_force(proposal, PartitionEpoch(self.partition_epoch))
            }
        }
    }

    fn told(&mut self, to: usize, proposal: &IsrProposal, answer: IsrAnswer) {
        let partition = Arc::clone(&self.brokers[to].partition);
        let (mut proposal, mut answer) = (proposal.clone(), answer);
        if self.planted == Planted::LateAnswersObeyed
            && let Some(now) = &self.asked[to]
            && let IsrAnswer::InForce { leader_epoch, partition_epoch, .. } = &mut answer
        {
            proposal.number = now.number;
            (*leader_epoch, *partition_epoch) =
                (partition.leader_epoch(), PartitionEpoch(partition_epoch.0.max(now.partition_epoch.0)));
        }
        if partition.isr_answered(&proposal, answer) == AfterAnswer::AskAgain {
            self.network.push(Message::Ask { from: to, proposal });
        }
    }

    fn produce(&mut self, at: usize) {
        let value = self.next_value;
        self.next_value += 1;
        let Ok(appended) = self.brokers[at].partition.append(records(value), TERMS, NOW_MS) else { return };
        let offset = appended.info.first_offset.0;
        match appended.commit {
            None => self.acknowledged.push((offset, value)),
            Some(commit) => {
                let deadline = tokio::time::Instant::now() + Duration::from_secs(3600);
                // The history is one poll of its task, whose budget must not end in the middle.
                let committed = tokio::task::unconstrained(commit.wait(deadline));
                self.waiting.push((offset, value, Box::pin(committed)));
            }
        }
    }

    fn fetch(&mut self, from: usize) {
        let broker = &mut self.brokers[from];
        let (Some(leader), epoch) = broker.partition.leader() else { return };
        let Some(to) = BROKERS.iter().position(|&id| BrokerId(id) == leader) else { return };
        broker.request += 1;
        let latest = broker.log.last_epoch();
        let params = params(broker.log.bounds().log_end_offset, Some(epoch), latest);
        self.network.push(Message::Fetch { from, to, request: broker.request, params });
    }

    fn deliver(&mut self, message: &Message) {
        let now = *self.clock.lock().expect("no test panics under it");
        match message {
            Message::Decision { to, decision } => {
                let Broker { partition, log, .. } = &self.brokers[*to];
                match partition.judge(decision, TopicId::ZERO, false) {
                    Verdict::Lead => drop(partition.lead(decision, log).expect("it was judged")),
                    Verdict::Follow => drop(partition.follow(decision, log).expect("it was judged")),
                    Verdict::Refuse(_) | Verdict::Acknowledge | Verdict::AdoptTopicId => {}
                }
            }
            Message::Fetch { from, to, request, params } => {
                let fetcher = follower(BROKERS[*from], -1);
                let outcome = self.brokers[*to].partition.fetch(fetcher, params, TopicId::ZERO, limits(now));
                let (Ok(fetched), Some(leader_epoch)) = (outcome, params.current_leader_epoch) else { return };
                let from_leader = FromLeader {
                    records: bytes_of(&fetched),
                    leader_epoch,
                    fetch_offset: params.fetch_offset,
                    high_watermark: fetched.bounds.high_watermark,
                    log_start_offset: fetched.bounds.log_start_offset,
                };
                let diverging = fetched.diverging;
                self.network.push(Message::Answer { to: *from, request: *request, diverging, from_leader });
            }
            Message::Answer { to, request, diverging, from_leader } => {
                let broker = &self.brokers[*to];
                let (leader, epoch) = broker.partition.leader();
                let is_current = epoch == from_leader.leader_epoch && leader != Some(BrokerId(BROKERS[*to]));
                let before = broker.log.bounds();
                match diverging {
                    Some(end) if *request == broker.request => {
                        let end_offset = before.log_end_offset;
                        let _ = broker.partition.truncate_by_epoch(*end, end_offset, from_leader.leader_epoch, NOW_MS);
                    }
                    Some(_) => {}
                    // Late, repeated or out of order: the partition must find out.
                    None => drop(broker.partition.append_from_leader(from_leader, NOW_MS)),
                }
                assert!(is_current || broker.log.bounds() == before, "broker {to} wrote what epoch {epoch} is past");
            }
            Message::Ask { from, proposal } => {
                let answer = self.alter(*from, proposal);
                self.network.push(Message::Told { to: *from, proposal: proposal.clone(), answer });
            }
            Message::Told { to, proposal, answer } => self.told(*to, proposal, answer.clone()),
        }
    }

    fn settle_waiting(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        let acknowledged = &mut self.acknowledged;
        self.waiting.retain_mut(|(offset, value, commit)| match commit.as_mut().poll(&mut context) {
            Poll::Pending => true,
            Poll::Ready(outcome) => {
                if outcome.is_ok() {
                    acknowledged.push((*offset, *value));
                }
                false
            }
        });
    }

    fn check(&mut self, what: &str) {
        self.settle_waiting();
        let held: Vec<BTreeMap<i64, i64>> = self.brokers.iter().map(|broker| contents(&*broker.log)).collect();
        for (offset, value) in &self.acknowledged {
            for &member in &self.isr {
                assert_eq!(held[member].get(offset), Some(value), "{what}: broker {member} lost offset {offset}");
            }
        }
        let leader = &self.brokers[self.leader].partition;
        if leader.leader() == (Some(BrokerId(BROKERS[self.leader])), LeaderEpoch(self.epoch)) {
            let state = leader.state();
            for &member in &self.isr {
                let counts = state.leadership.isr().maximal_contains(BrokerId(BROKERS[member]));
                assert!(counts, "{what}: broker {member} is in sync, and the leader does not know");
            }
        }
        let member = &held[self.isr[0]];
        for (at, broker) in self.brokers.iter_mut().enumerate() {
            let high_watermark = broker.log.bounds().high_watermark;
            for (offset, value) in held[at].range(..high_watermark.0) {
                assert_eq!(member.get(offset), Some(value), "{what}: broker {at} shows offset {offset}");
            }
            let leads = broker.partition.leader().0 == Some(BrokerId(BROKERS[at]));
            if leads && let Some(before) = broker.high_watermark {
                assert!(high_watermark >= before, "{what}: the high watermark of broker {at} went back");
            }
            broker.high_watermark = leads.then_some(high_watermark);
        }
    }

    fn step(&mut self) {
        let at = self.rng.random_range(0..self.brokers.len());
        match self.rng.random_range(0..100) {
            0..12 => self.produce(self.leader),
            12..15 => self.produce(at),
            15..40 => self.fetch(at),
            40..44 => self.ask(at),
            44..93 if !self.network.is_empty() => {
                // In any order, now and then twice or never.
                let at = self.rng.random_range(0..self.network.len());
                let message = self.network.swap_remove(at);
                let is_lost = self.rng.random_bool(0.05) && !matches!(message, Message::Decision { .. });
                if is_lost {
                    // Whoever asked asks again.
                    if let Message::Ask { from, proposal } | Message::Told { to: from, proposal, .. } = message {
                        self.network.push(Message::Ask { from, proposal });
                    }
                } else {
                    self.deliver(&message);
                    if self.rng.random_bool(0.1) {
                        self.network.push(message);
                    }
                }
            }
            93 => self.elect(),
            94..97 => self.brokers[at].partition.shrink_isr(),
            _ => {
                let passed = Duration::from_millis(self.rng.random_range(0..20_000));
                *self.clock.lock().expect("no test panics under it") += passed;
            }
        }
    }

    /// What is under way arrives, and followers fetch until they have everything.
    fn come_to_rest(&mut self) {
        for _ in 0..20 {
            for at in 0..self.brokers.len() {
                self.fetch(at);
                self.ask(at);
            }
            while !self.network.is_empty() {
                let message = self.network.remove(0);
                self.deliver(&message);
            }
        }
    }
}

fn in_force(proposal: &IsrProposal, partition_epoch: PartitionEpoch) -> IsrAnswer {
    let IsrProposal { leader_epoch, isr, .. } = proposal;
    IsrAnswer::InForce { leader_epoch: *leader_epoch, partition_epoch, isr: isr.clone() }
}

/// How many records were acknowledged, and how often the ISR changed.
fn run<L: PartitionLog>(seed: u64, steps: usize, logs: Vec<Arc<L>>, planted: Planted) -> (usize, usize) {
    let mut world = World::new(seed, logs, planted);
    for step in 0..steps {
        world.step();
        world.check(&format!("seed {seed} step {step}"));
    }
    world.come_to_rest();
    let what = format!("seed {seed} at rest");
    world.check(&what);
    let leader = &world.brokers[world.leader];
    let end = leader.log.bounds().log_end_offset;
    assert_eq!(leader.log.bounds().high_watermark, end, "{what}");
    for broker in &world.brokers {
        assert_eq!(contents(&*broker.log), contents(&*leader.log), "{what}");
    }
    (world.acknowledged.len(), world.isr_changes)
}

#[tokio::test]
async fn no_history_of_a_cluster_loses_an_acknowledged_record() {
    for min_insync_replicas in [1, 2] {
        let (mut acknowledged, mut isr_changes) = (0, 0);
        for seed in 0..40 {
            let (more, changes) = run(seed, 400, memory_logs(min_insync_replicas), Planted::Nothing);
            (acknowledged, isr_changes) = (acknowledged + more, isr_changes + changes);
        }
        let shown = format!("{acknowledged} records were acknowledged, {isr_changes} ISRs changed");
        assert!(acknowledged > 400 && isr_changes > 60, "little was shown with {min_insync_replicas}: {shown}");
    }
}

fn memory_logs(min_insync_replicas: i32) -> Vec<Arc<MemoryLog>> {
    let config = Arc::new(LogConfig { min_insync_replicas, ..LogConfig::default() });
    let log = |_| {
        let log = MemoryLog::new();
        log.set_config(Arc::clone(&config));
        Arc::new(log)
    };
    BROKERS.map(log).to_vec()
}

#[test]
fn a_history_shows_an_isr_that_is_not_agreed_to_and_a_late_answer_that_is_obeyed() {
    for planted in [Planted::UnagreedShrinks, Planted::LateAnswersObeyed] {
        let shows = |seed| std::panic::catch_unwind(|| run(seed, 400, memory_logs(1), planted)).is_err();
        assert!((0..200).any(shows), "{planted:?} is not seen");
    }
}

#[tokio::test]
async fn no_history_over_logs_on_disk_loses_an_acknowledged_record() {
    for seed in 0..6 {
        let dirs = BROKERS.map(|_| {
            let root = tempfile::tempdir().expect("a temporary directory");
            let config = LogDirsConfig { dirs: vec![root.path().to_owned()], ..LogDirsConfig::default() };
            let (failures, _) = mpsc::unbounded_channel();
            let dirs = LogDirs::open(&config, failures, Arc::default()).expect("the directory is ours");
            dirs.load(&|_| Arc::default(), NOW_MS, &|_| ()).expect("the directory is empty");
            (root, dirs)
        });
        let create = |dirs: &LogDirs| -> Arc<Log> {
            let name = TopicPartition::new("t", 0);
            dirs.get_or_create(&name, None, Arc::default(), true, NOW_MS).expect("writable")
        };
        run(seed, 250, dirs.iter().map(|(_, dirs)| create(dirs)).collect(), Planted::Nothing);
    }
}
