//! Hand-driven interleavings of what was admitted with what changed meanwhile, over logs in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::config::log::{LogConfig, ThrottledReplicas};
use crate::log::error::LogError;
use crate::log::{FirstBatch, OffsetQuery, ReadUntil};
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
use crate::replica::isr_changes::{IsrAnswer, IsrChanges};
use crate::replica::leader::Decision;
use crate::replica::memory_log::MemoryLog;
use crate::replica::partition::{
    AppendTerms, FetchLimits, FetchParams, Fetched, Fetcher, Partition, RequiredAcks, Surroundings,
};
use crate::replica::partition_log::PartitionLog;
use crate::replica::throttle::Throttle;
use crate::replica::waiters::ParkedFetch;

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
