//! The replica room over real logs in a temporary directory.

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::log::LogConfig;
use crate::config::sections::{LogDirsConfig, ReplicaConfig};
use crate::log::dirs::LogDirs;
use crate::log::error::LogError;
use crate::log::faults::{self, Op};
use crate::log::testing::Gate;
use crate::log::{FirstBatch, OffsetQuery, ReadUntil, TimestampedOffset};
use crate::metadata::cache::MetadataCache;
use crate::metadata::image::{Broker, Image, Partition as PartitionImage, TopicUpdate, Update};
use crate::model::{
    BrokerEpoch, BrokerId, ConnectionNumber, ControllerEpoch, LeaderEpoch, Offset, PartitionEpoch, TopicId,
    TopicPartition,
};
use crate::record::append_rules::{AcceptedSets, AppendOrigin};
use crate::record::build::{BatchBuilder, TransactionOutcome, end_transaction_marker};
use crate::replica::control::{ControlEpochs, ControlRefusal, Decisions, PartitionRefusal, StopReplica, StopReplicas};
use crate::replica::decisions::{Changed, LeadershipEvent, TopicConfigs, change_role};
use crate::replica::error::ReplicaError;
use crate::replica::fetch::{FetchQuery, LimitRule, PartitionQuery};
use crate::replica::fetch_session::SessionRequest;
use crate::replica::fetcher::fetchers::FetchChange;
use crate::replica::interleaving_tests;
use crate::replica::io::IoThreads;
use crate::replica::leader::{Decision, DecisionRefusal, Verdict};
use crate::replica::memory_log::MemoryLog;
use crate::replica::partition::{AppendTerms, Appended, FetchParams, Fetcher, RequiredAcks};
use crate::replica::replica_manager::ReplicaManager;
use crate::replica::replica_selector::Reader;
use crate::replica::waiters;

pub(crate) const NOW_MS: i64 = 1_700_000_000_000;
const TOPIC_ID: TopicId = TopicId([5; 16]);

pub(crate) type Outcome = Result<(), PartitionRefusal>;

const STALE: Outcome = Err(PartitionRefusal::Decision(DecisionRefusal::StaleLeaderEpoch));

#[derive(Default)]
struct Defaults {
    /// Whose settings change as soon as they have been read.
    changed_meanwhile: Mutex<Option<Arc<ReplicaManager>>>,
}

impl TopicConfigs for Defaults {
    fn of<'a>(&'a self, topics: &'a [Arc<str>]) -> Pin<Box<dyn Future<Output = Vec<Arc<LogConfig>>> + Send + 'a>> {
        let config = |topic: &Arc<str>| {
            let min_insync_replicas = if &**topic == "safe" { 2 } else { 1 };
            let is_rolling = &**topic == "rolling";
            let segment_bytes = if is_rolling { ROLLING_SEGMENT_BYTES } else { LogConfig::default().segment_bytes };
            Arc::new(LogConfig { min_insync_replicas, segment_bytes, ..LogConfig::default() })
        };
        let read = topics.iter().map(config).collect();
        if let Some(replicas) = self.changed_meanwhile.lock().expect("no test panics under it").take() {
            replicas.set_topic_configs(&topics.iter().map(|topic| (Arc::clone(topic), kept_for(7))).collect());
        }
        Box::pin(std::future::ready(read))
    }
}

/// Settings that are no topic's at first.
fn kept_for(retention_ms: i64) -> Arc<LogConfig> {
    Arc::new(LogConfig { retention_ms: Some(retention_ms), ..LogConfig::default() })
}

/// Of topics called `rolling`.
pub(crate) const ROLLING_SEGMENT_BYTES: u32 = 4_000;
pub(crate) const TERMS: AppendTerms = AppendTerms {
    accepted_sets: AcceptedSets::OneV2Batch,
    origin: AppendOrigin::Client,
    required_acks: RequiredAcks::Leader,
    expected_leader_epoch: None,
};

/// Waits for what another thread does.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting)
        .await
        .unwrap_or_else(|_| panic!("{what}, not within a minute"));
}

pub(crate) struct Fixture {
    pub replicas: Arc<ReplicaManager>,
    events: mpsc::Receiver<LeadershipEvent>,
    topic_configs: Arc<Defaults>,
    broker_epoch: watch::Sender<Option<BrokerEpoch>>,
    /// Removed with everything in it when the test ends.
    pub dir: tempfile::TempDir,
}

/// What appends to one partition wait for.
pub(crate) struct Hung {
    gate: Arc<Gate>,
    _fault: faults::InForce,
    appending: Vec<JoinHandle<Result<Appended, ReplicaError>>>,
}

impl Hung {
    pub fn has_answered(&self) -> bool {
        self.gate.is_open()
    }

    /// The disk answers. What has become of the appends.
    pub fn answer(self) -> Vec<Result<Appended, ReplicaError>> {
        self.gate.open();
        self.appending.into_iter().map(|appending| appending.join().expect("no panic")).collect()
    }
}

pub(crate) fn epochs() -> ControlEpochs {
    ControlEpochs {
        controller_epoch: ControllerEpoch(1),
        broker_epoch: BrokerEpoch(-1),
        connection: ConnectionNumber(1),
    }
}

fn decision(leader: i32, epoch: i32, replicas: &[i32]) -> Decision {
    let brokers: Vec<BrokerId> = replicas.iter().copied().map(BrokerId).collect();
    Decision {
        controller_epoch: ControllerEpoch(1),
        leader: BrokerId(leader),
        leader_epoch: LeaderEpoch(epoch),
        partition_epoch: PartitionEpoch(epoch),
        isr: brokers.clone(),
        assignment: brokers,
        adding: Vec::new(),
        removing: Vec::new(),
        is_new: true,
        topic_id: TOPIC_ID,
    }
}

impl Fixture {
    pub fn new() -> Fixture {
        Fixture::with(ReplicaConfig::default())
    }

    pub fn with(replica_config: ReplicaConfig) -> Fixture {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let dirs = vec![dir.path().to_owned()];
        Fixture::over(dir, dirs, replica_config)
    }

    pub fn over(dir: tempfile::TempDir, dirs: Vec<PathBuf>, replica_config: ReplicaConfig) -> Fixture {
        let config = LogDirsConfig { dirs, ..LogDirsConfig::default() };
        let (failures, _) = mpsc::unbounded_channel();
        let log_dirs = LogDirs::open(&config, failures, Arc::default()).expect("the directory is ours");
        log_dirs.load(&|_| Arc::default(), NOW_MS, &|_| ()).expect("the directory is empty");
        let metadata = Arc::new(MetadataCache::new());
        let io = Arc::new(IoThreads::start(2, 16).expect("threads start"));
        let (broker_epoch, registered) = watch::channel(Some(BrokerEpoch(100)));
        let topic_configs = Arc::new(Defaults::default());
        let (replicas, events, _) = ReplicaManager::new(
            BrokerId(1),
            replica_config,
            metadata,
            Arc::new(log_dirs),
            Arc::clone(&topic_configs) as Arc<dyn TopicConfigs>,
            io,
            registered,
            Arc::default(),
        );
        Fixture { replicas, events, topic_configs, broker_epoch, dir }
    }

    /// Tells of the brokers 1 and 2, and of these partitions, led by broker 1.
    pub async fn publish(&self, names: &[(&str, i32)]) {
        let update = self.image_of(BrokerId(1), names);
        assert_eq!(self.replicas.update_metadata(epochs(), update).await, Ok(()));
    }

    pub fn image_of(&self, leader: BrokerId, names: &[(&str, i32)]) -> Update {
        let broker = |id| Broker { id: BrokerId(id), rack: None, endpoints: Vec::new() };
        let topics = names.iter().map(|&(name, partition)| TopicUpdate {
            name: name.into(),
            id: TOPIC_ID,
            partitions: vec![PartitionImage {
                partition,
                leader,
                leader_epoch: LeaderEpoch(0),
                partition_epoch: PartitionEpoch(0),
                controller_epoch: ControllerEpoch(1),
                isr: vec![BrokerId(1)],
                assignment: vec![BrokerId(1)],
                offline_replicas: Vec::new(),
            }],
        });
        Update { controller: BrokerId(1), brokers: vec![broker(1), broker(2)], topics: topics.collect() }
    }

    pub async fn decide(&self, topic: &str, partition: i32, leader: i32, epoch: i32, replicas: &[i32]) -> Outcome {
        self.decide_from(epochs(), topic, partition, leader, epoch, replicas).await.expect("the epochs are current")
    }

    async fn decide_from(
        &self,
        epochs: ControlEpochs,
        topic: &str,
        partition: i32,
        leader: i32,
        epoch: i32,
        replicas: &[i32],
    ) -> Result<Outcome, ControlRefusal> {
        self.carry_out(epochs, topic, partition, decision(leader, epoch, replicas)).await
    }

    async fn carry_out(
        &self,
        epochs: ControlEpochs,
        topic: &str,
        partition: i32,
        decision: Decision,
    ) -> Result<Outcome, ControlRefusal> {
        let decisions = vec![(TopicPartition::new(topic, partition), decision)];
        let request = Decisions { epochs, decisions, same_epoch_allowed: false };
        let errors = self.replicas.become_leader_or_follower(request, NOW_MS).await?;
        Ok(errors[0].1)
    }

    /// Broker 1 leads, and of the others these are in sync.
    pub async fn lead_with_isr(&self, topic: &str, partition: i32, epoch: i32, isr: &[i32], replicas: &[i32]) {
        let isr = isr.iter().copied().map(BrokerId).collect();
        let decision = Decision { isr, ..decision(1, epoch, replicas) };
        assert_eq!(self.carry_out(epochs(), topic, partition, decision).await, Ok(Ok(())));
    }

    /// Two appends to a partition that this broker leads: one has the log's lock and waits for the disk, the other has the
    /// partition's and waits for that. What is written to other logs of the directory may fail.
    pub async fn hang(&self, topic: &str, partition: i32, others: Option<Errno>) -> Hung {
        let (gate, name) = (Arc::new(Gate::default()), format!("{topic}-{partition}"));
        let at_gate = Arc::clone(&gate);
        let hosted = self.replicas.partition(topic, partition).expect("hosted");
        let dir = self.replicas.parent_dir(topic, partition).expect("it has a log");
        let fault = faults::below(&dir, move |op, path| match op {
            Op::WriteAt if path.to_string_lossy().contains(&name) => {
                at_gate.pass();
                Ok(())
            }
            Op::WriteAt => others.map_or(Ok(()), |errno| Err(errno.into())),
            _ => Ok(()),
        });
        let append = || {
            let (replicas, topic) = (Arc::clone(&self.replicas), topic.to_owned());
            std::thread::spawn(move || replicas.append(&topic, partition, records(1), TERMS, 0))
        };
        let first = append();
        until("it is held up", || self.replicas.is_held_up(topic, partition)).await;
        let second = append();
        until("the partition's lock is taken", || hosted.is_taken()).await;
        Hung { gate, _fault: fault, appending: vec![first, second] }
    }

    /// Tells that these brokers are there, and of no topic.
    pub async fn alive(&self, brokers: &[i32]) {
        let broker = |id: &i32| Broker { id: BrokerId(*id), rack: None, endpoints: Vec::new() };
        let brokers = brokers.iter().map(broker).collect();
        let update = Update { controller: BrokerId(1), brokers, topics: Vec::new() };
        assert_eq!(self.replicas.update_metadata(epochs(), update).await, Ok(()));
    }

    fn produce(&self, topic: &str, acks: RequiredAcks) -> Result<Appended, ReplicaError> {
        let terms = AppendTerms {
            accepted_sets: AcceptedSets::OneV2Batch,
            origin: AppendOrigin::Client,
            required_acks: acks,
            expected_leader_epoch: None,
        };
        self.replicas.append(topic, 0, records(3), terms, NOW_MS)
    }

    pub fn consumer(&self, topic: &str, fetch_offset: i64, min_bytes: usize) -> FetchQuery {
        let params = FetchParams {
            fetch_offset: Offset(fetch_offset),
            log_start_offset: Offset(-1),
            bytes_max: 1 << 20,
            current_leader_epoch: None,
            last_fetched_epoch: None,
        };
        FetchQuery {
            reader: None,
            fetcher: Fetcher::Consumer { read_committed: false, may_read_from_follower: false },
            min_bytes,
            bytes_max: 1 << 20,
            limits: LimitRule::Soft,
            partitions: vec![PartitionQuery {
                topic: Some(topic.into()),
                partition: 0,
                topic_id: TopicId::ZERO,
                params,
            }],
        }
    }
}

pub(crate) fn follower(broker: i32) -> Fetcher {
    Fetcher::Follower { broker: BrokerId(broker), broker_epoch: BrokerEpoch(-1) }
}

pub(crate) fn records(count: usize) -> Bytes {
    let mut builder = BatchBuilder::new();
    for _ in 0..count {
        builder.append(NOW_MS, Some(b"key"), Some(b"value"), &[]);
    }
    builder.build()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// Lets every spawned task run until it waits for something that only the test can bring about: they share its thread.
pub(crate) async fn until_all_wait() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_single_replica_commits_at_once_and_serves_what_it_committed() {
    let fixture = Fixture::new();
    fixture.publish(&[("t", 0)]).await;
    assert_eq!(fixture.decide("t", 0, 1, 0, &[1]).await, Ok(()));
    for (appended, first_offset) in [(RequiredAcks::AllInSync, 0), (RequiredAcks::Leader, 3), (RequiredAcks::None, 6)] {
        let appended = fixture.produce("t", appended).expect("this broker leads");
        assert_eq!(appended.info.first_offset, Offset(first_offset));
        assert!(appended.commit.is_none());
    }
    let outcomes = fixture.replicas.fetch(&fixture.consumer("t", 0, 1), soon(), std::time::Instant::now()).await;
    let fetched = outcomes[0].as_ref().expect("it may be read");
    assert_eq!(fetched.bounds.high_watermark, Offset(9));
    assert_eq!(fetched.bytes(), 3 * records(3).len());
}

#[tokio::test]
async fn a_flush_acknowledges_what_is_there_and_nothing_that_was_cut_off() {
    let fixture = Fixture::new();
    fixture.publish(&[("t", 0)]).await;
    assert_eq!(fixture.decide("t", 0, 1, 0, &[1]).await, Ok(()));
    fixture.produce("t", RequiredAcks::Leader).expect("this broker leads");
    let partition = fixture.replicas.partition("t", 0).expect("hosted");
    let (epoch, end) = (partition.leader_epoch(), partition.log().expect("online").bounds().log_end_offset);
    let flushed = |epoch, until| partition.flushed(epoch, until, fixture.replicas.io());
    assert_eq!(flushed(epoch, end).await, Ok(Ok(())));
    let behind = Offset(end.0 + 1);
    assert_eq!(
        flushed(epoch, behind).await,
        Ok(Err(waiters::NotCommitted::NotLeader)),
        "there is no such record any more"
    );
    let earlier = LeaderEpoch(epoch.0 - 1);
    assert_eq!(flushed(earlier, end).await, Ok(Err(waiters::NotCommitted::NotLeader)), "another has its place");
}

#[tokio::test]
async fn whoever_takes_a_log_over_waits_for_the_truncation_that_it_meets() {
    let fixture = Fixture::new();
    fixture.publish(&[("rolling", 0)]).await;
    assert_eq!(fixture.decide("rolling", 0, 1, 0, &[1, 2]).await, Ok(()));
    for _ in 0..200 {
        fixture.replicas.append("rolling", 0, records(200), TERMS, NOW_MS).expect("this broker leads");
    }
    assert_eq!(fixture.decide("rolling", 0, 2, 1, &[1, 2]).await, Ok(()));
    let partition = fixture.replicas.partition("rolling", 0).expect("hosted");
    let log = partition.log().expect("it is online");
    assert!(log.segment_count() > 50, "many files are to be renamed");
    let truncation = std::thread::spawn(move || partition.restart_at(Offset(0), LeaderEpoch(1), NOW_MS));
    while log.log_end_offset() > Offset(0) {
        std::thread::yield_now();
    }
    assert_eq!(fixture.decide("rolling", 0, 1, 2, &[1, 2]).await, Ok(()));
    let read = log.read(Offset(0), 100, ReadUntil::LogEnd, FirstBatch::Whole);
    assert!(read.is_ok(), "{read:?}");
    truncation.join().expect("no panic").expect("writable");
}

/// The topic that is made with its name has its leader epoch and version, too.
#[tokio::test]
async fn an_isr_is_not_asked_for_once_its_partition_is_gone() {
    let fixture = Fixture::new();
    fixture.publish(&[("t", 0)]).await;
    fixture.lead_with_isr("t", 0, 0, &[1], &[1, 2]).await;
    let query = FetchQuery { fetcher: follower(2), ..fixture.consumer("t", 0, 1) };
    fixture.replicas.fetch(&query, Instant::now(), std::time::Instant::now()).await;
    let wanted = fixture.replicas.next_isr_changes(&mut JoinSet::new()).await;
    assert_eq!(wanted.len(), 1);
    // It could not be asked, and waits to be asked again.
    fixture.replicas.isr_changes().put_back(wanted);
    let stop = StopReplica { name: TopicPartition::new("t", 0), leader_epoch: LeaderEpoch(-2), delete: true };
    let request = StopReplicas { epochs: epochs(), partitions: vec![stop] };
    assert_eq!(fixture.replicas.stop_replicas(request, NOW_MS).await.expect("current")[0].1, Ok(()));
    fixture.lead_with_isr("t", 0, 0, &[1], &[1, 2]).await;
    let none =
        tokio::time::timeout(Duration::from_millis(1), fixture.replicas.next_isr_changes(&mut JoinSet::new())).await;
    assert!(none.is_err(), "{none:?}");
}

#[tokio::test]
async fn a_consumer_that_means_another_topic_of_that_name_is_sent_nowhere() {
    let fixture = Fixture::new();
    fixture.publish(&[("t", 0)]).await;
    assert_eq!(fixture.decide("t", 0, 1, 0, &[1, 2]).await, Ok(()));
    let partition = fixture.replicas.partition("t", 0).expect("hosted");
    let reader = Reader { rack: "far".to_owned(), listener: "PLAINTEXT".to_owned() };
    let query = fixture.consumer("t", 0, 1);
    let sent = |topic_id| {
        let params = &query.partitions[0].params;
        partition.elsewhere(&reader, query.fetcher, params, topic_id, &Image::default())
    };
    assert!(matches!(sent(TOPIC_ID), Ok(None)));
    assert!(matches!(sent(TopicId([9; 16])), Err(ReplicaError::InconsistentTopicId)));
}

#[tokio::test]
async fn a_fetch_at_the_end_waits_for_the_next_append() {
    let fixture = Fixture::new();
    fixture.publish(&[("t", 0)]).await;
    fixture.decide("t", 0, 1, 0, &[1]).await.expect("decided");
    let query = fixture.consumer("t", 0, 1);
    let replicas = Arc::clone(&fixture.replicas);
    let waiting = tokio::spawn(async move { replicas.fetch(&query, soon(), std::time::Instant::now()).await });
    until_all_wait().await;
    assert!(!waiting.is_finished());
    fixture.produce("t", RequiredAcks::Leader).expect("this broker leads");
    let outcomes = waiting.await.expect("the fetch ends");
    assert_eq!(outcomes[0].as_ref().expect("it may be read").bytes(), records(3).len());
    let nothing = fixture.replicas.fetch(&fixture.consumer("t", 3, 1), Instant::now(), std::time::Instant::now()).await;
    assert_eq!(nothing[0].as_ref().expect("it may be read").bytes(), 0, "the deadline has passed");
}

/// Whose last batch is short: what it is enough with has been in the log before.
#[tokio::test]
async fn a_fetch_that_waits_for_what_is_committed_is_told_of_a_whole_transaction() {
    const ENOUGH: usize = 10_000;
    let now = std::time::Instant::now;
    for in_session in [false, true] {
        let fixture = Fixture::new();
        fixture.publish(&[("t", 0)]).await;
        assert_eq!(fixture.decide("t", 0, 1, 0, &[1]).await, Ok(()));
        let fetcher = Fetcher::Consumer { read_committed: true, may_read_from_follower: false };
        let query = FetchQuery { fetcher, ..fixture.consumer("t", 0, ENOUGH) };
        let session = |session_id, session_epoch| SessionRequest {
            session_id,
            session_epoch,
            uses_topic_ids: false,
            forgotten: Vec::new(),
        };
        let full = fixture.replicas.fetch_in_session(&session(0, 0), query.clone(), Instant::now(), now()).await;
        let terms = AppendTerms { origin: AppendOrigin::Coordinator, ..TERMS };
        let append = |batch| drop(fixture.replicas.append("t", 0, batch, terms, NOW_MS).expect("this broker leads"));
        let mut batch = BatchBuilder::new().producer(7, 0, 0).transactional(true);
        batch.append(NOW_MS, None, Some(&[b'x'; 2 * ENOUGH]), &[]);
        append(batch.build());

        let replicas = Arc::clone(&fixture.replicas);
        let waiting = tokio::spawn(async move {
            if in_session {
                let query = FetchQuery { partitions: Vec::new(), ..query };
                let reply = replicas.fetch_in_session(&session(full.session_id, 1), query, soon(), now()).await;
                reply.answers.into_iter().map(|(_, outcome)| outcome).collect()
            } else {
                replicas.fetch(&query, soon(), now()).await
            }
        });
        let counters = &fixture.replicas.counters;
        until("it waits", || counters.fetches_parked.load(Ordering::Relaxed) > 0).await;
        until_all_wait().await;
        append(end_transaction_marker(7, 0, TransactionOutcome::Commit, 0, NOW_MS));
        let outcomes: Vec<_> = waiting.await.expect("no panic");
        assert!(outcomes[0].as_ref().expect("it may be read").bytes() > 2 * ENOUGH);
        assert_eq!(counters.fetches_expired.load(Ordering::Relaxed), 0, "in a session: {in_session}");
    }
}

#[tokio::test]
async fn acks_all_waits_for_the_isr_and_fails_when_leadership_moves() {
    let fixture = Fixture::new();
    fixture.publish(&[("t", 0)]).await;
    fixture.decide("t", 0, 1, 0, &[1, 2]).await.expect("decided");
    let commit = fixture.produce("t", RequiredAcks::AllInSync).expect("this broker leads").commit.expect("not yet");
    // The follower asks for what comes after the records: it has them.
    let mut query = fixture.consumer("t", 3, 0);
    query.fetcher = follower(2);
    query.partitions[0].params.log_start_offset = Offset(0);
    assert!(fixture.replicas.fetch(&query, Instant::now(), std::time::Instant::now()).await[0].is_ok());
    assert_eq!(commit.wait(soon()).await, Ok(()));

    let commit = fixture.produce("t", RequiredAcks::AllInSync).expect("this broker leads").commit.expect("not yet");
    assert_eq!(fixture.decide("t", 0, 2, 1, &[1, 2]).await, Ok(()));
    assert_eq!(commit.wait(soon()).await, Err(waiters::NotCommitted::NotLeader));
    assert!(matches!(fixture.produce("t", RequiredAcks::Leader), Err(ReplicaError::NotLeaderOrFollower)));
    let outcomes = fixture.replicas.fetch(&fixture.consumer("t", 0, 1), soon(), std::time::Instant::now()).await;
    assert!(matches!(outcomes[0], Err(ReplicaError::NotLeaderOrFollower)));
}

#[tokio::test]
async fn a_produce_below_min_insync_replicas_is_refused_and_appends_nothing() {
    let fixture = Fixture::new();
    fixture.publish(&[("safe", 0)]).await;
    fixture.decide("safe", 0, 1, 0, &[1, 2]).await.expect("decided");
    let partition = fixture.replicas.partition("safe", 0).expect("hosted");
    assert_eq!(partition.isr().len(), 2);
    // The ISR shrinks to this broker alone.
    let brokers = |ids: &[i32]| ids.iter().copied().map(BrokerId).collect::<Vec<_>>();
    let shrunk = Decision {
        controller_epoch: ControllerEpoch(1),
        leader: BrokerId(1),
        leader_epoch: LeaderEpoch(1),
        partition_epoch: PartitionEpoch(1),
        isr: brokers(&[1]),
        assignment: brokers(&[1, 2]),
        adding: Vec::new(),
        removing: Vec::new(),
        is_new: false,
        topic_id: TOPIC_ID,
    };
    let request = Decisions {
        epochs: epochs(),
        decisions: vec![(TopicPartition::new("safe", 0), shrunk)],
        same_epoch_allowed: false,
    };
    fixture.replicas.become_leader_or_follower(request, NOW_MS).await.expect("the epochs are current");
    let refused = fixture.produce("safe", RequiredAcks::AllInSync);
    assert!(matches!(refused, Err(ReplicaError::NotEnoughReplicas { in_sync: 1 })), "{refused:?}");
    assert_eq!(partition.log().expect("hosted").log_end_offset(), Offset(0));
    let accepted = fixture.produce("safe", RequiredAcks::Leader).expect("acks=1 asks for no ISR");
    assert_eq!(accepted.info.log_end_offset, Offset(3));
    assert_eq!(partition.log().expect("hosted").high_watermark(), Offset(0), "nothing is committed below the minimum");
}

#[tokio::test]
async fn control_requests_are_fenced_and_partitions_stop_and_go() {
    let mut fixture = Fixture::new();
    fixture.publish(&[("__consumer_offsets", 0)]).await;
    let from = |controller_epoch, broker_epoch| ControlEpochs {
        controller_epoch: ControllerEpoch(controller_epoch),
        broker_epoch: BrokerEpoch(broker_epoch),
        ..epochs()
    };
    let name = TopicPartition::new("__consumer_offsets", 0);
    let decide = |epochs, leader, epoch| fixture.decide_from(epochs, "__consumer_offsets", 0, leader, epoch, &[1, 2]);
    assert_eq!(decide(from(2, 99), 1, 0).await, Err(ControlRefusal::StaleBrokerEpoch));
    assert_eq!(decide(from(2, 100), 1, 3).await, Ok(Ok(())));
    assert_eq!(decide(from(1, 100), 1, 4).await, Err(ControlRefusal::StaleControllerEpoch));
    assert_eq!(decide(from(2, 100), 1, 3).await, Ok(STALE));
    assert_eq!(decide(from(2, 100), 1, 4).await, Ok(Ok(())), "led already: coordinators append in the new epoch");
    assert_eq!(decide(from(2, 100), 2, 5).await, Ok(Ok(())));

    let stop = |leader_epoch, delete| StopReplicas {
        epochs: from(2, 100),
        partitions: vec![StopReplica { name: name.clone(), leader_epoch: LeaderEpoch(leader_epoch), delete }],
    };
    let stopped = |request| async { fixture.replicas.stop_replicas(request, NOW_MS).await.map(|errors| errors[0].1) };
    assert_eq!(stopped(stop(4, true)).await, Ok(Err(PartitionRefusal::StaleStop)));
    assert_eq!(stopped(stop(5, false)).await, Ok(Ok(())));
    assert!(fixture.replicas.partition("__consumer_offsets", 0).is_ok(), "stopped, not deleted");
    assert_eq!(stopped(stop(-2, true)).await, Ok(Ok(())));
    assert!(matches!(fixture.replicas.partition("__consumer_offsets", 0), Err(ReplicaError::NotLeaderOrFollower)));
    assert!(fixture.replicas.log_dirs().get(&name).is_none());
    assert_eq!(stopped(stop(-2, true)).await, Ok(Ok(())), "gone already");

    let mut told = Vec::new();
    while let Ok(event) = fixture.events.try_recv() {
        told.push(event);
    }
    let elected = |epoch| LeadershipEvent::Elected { partition: name.clone(), leader_epoch: LeaderEpoch(epoch) };
    let resigned = |leader_epoch| LeadershipEvent::Resigned { partition: name.clone(), leader_epoch };
    let expected = vec![elected(3), elected(4), resigned(Some(LeaderEpoch(5))), resigned(None), resigned(None)];
    assert_eq!(told, expected);
}

/// The controller that moved it away was gone before it had said so to this broker, and the next tells it only to those who
/// have it now.
#[tokio::test]
async fn what_is_assigned_to_others_is_not_served_any_more_though_nobody_has_stopped_it() {
    let mut fixture = Fixture::new();
    let topic = "__consumer_offsets";
    let name = TopicPartition::new(topic, 0);
    fixture.publish(&[(topic, 0)]).await;
    assert_eq!(fixture.decide(topic, 0, 1, 3, &[1, 2]).await, Ok(()));
    let appended = fixture.produce(topic, RequiredAcks::AllInSync).expect("led");
    let mut commit = appended.commit.expect("broker 2 has not got it");
    let told = |leader, epoch, assignment: &[i32], id| {
        let mut update = fixture.image_of(BrokerId(leader), &[(topic, 0)]);
        update.topics[0].id = id;
        let told = &mut update.topics[0].partitions[0];
        told.leader_epoch = LeaderEpoch(epoch);
        told.assignment = assignment.iter().copied().map(BrokerId).collect();
        fixture.replicas.update_metadata(epochs(), update)
    };
    for (leader, epoch, assignment) in [(2, 4, &[1, 2]), (2, 2, &[2, 3]), (1, 4, &[2, 3])] {
        assert_eq!(told(leader, epoch, assignment, TOPIC_ID).await, Ok(()));
        let why = "it will be told, or has been told of a later epoch, or leads until another is elected";
        assert!(fixture.replicas.partition(topic, 0).is_ok(), "{why}");
        assert_eq!(commit.outcome(), None);
    }
    assert_eq!(told(2, 4, &[2, 3], TOPIC_ID).await, Ok(()));
    assert!(matches!(fixture.replicas.partition(topic, 0), Err(ReplicaError::NotLeaderOrFollower)));
    assert_eq!(commit.outcome(), Some(Err(waiters::NotCommitted::NotLeader)));
    let log = fixture.replicas.log_dirs().get(&name).expect("kept");
    assert_eq!(log.log_end_offset(), Offset(3));
    assert_eq!(fixture.decide(topic, 0, 1, 4, &[1, 2]).await, Ok(()), "moved back, it goes on from there");
    assert_eq!(told(-2, 0, &[2, 3], TOPIC_ID).await, Ok(()));
    assert!(fixture.replicas.partition(topic, 0).is_err(), "its topic is being deleted");
    assert_eq!(fixture.decide(topic, 0, 1, 9, &[1, 2]).await, Ok(()), "it is not deleted after all");
    assert_eq!(told(2, 0, &[2, 3], TopicId([9; 16])).await, Ok(()));
    assert!(fixture.replicas.partition(topic, 0).is_err(), "another topic of its name");
    let mut events = Vec::new();
    while let Ok(event) = fixture.events.try_recv() {
        events.push(event);
    }
    let elected = |epoch| LeadershipEvent::Elected { partition: name.clone(), leader_epoch: LeaderEpoch(epoch) };
    let resigned = |leader_epoch| LeadershipEvent::Resigned { partition: name.clone(), leader_epoch };
    let deleted = LeadershipEvent::Deleted(vec![name.clone()]);
    let moved = [elected(3), resigned(Some(LeaderEpoch(4))), elected(4)];
    let over = [deleted, resigned(None), elected(9), resigned(None)];
    assert_eq!(events, [&moved[..], &over[..]].concat());
}

/// Coordinators append what they know from the log as of an epoch.
#[tokio::test]
async fn an_append_that_expects_an_epoch_is_refused_once_that_leadership_has_ended_even_if_another_has_begun() {
    let fixture = Fixture::new();
    fixture.publish(&[("t", 0)]).await;
    let append = |expected: i32| {
        let terms = AppendTerms { expected_leader_epoch: Some(LeaderEpoch(expected)), ..TERMS };
        match fixture.replicas.append("t", 0, records(1), terms, NOW_MS) {
            Ok(_) => "appended",
            Err(ReplicaError::NotLeaderOrFollower) => "refused",
            Err(other) => panic!("{other:?}"),
        }
    };
    fixture.decide("t", 0, 1, 5, &[1, 2]).await.expect("decided");
    assert_eq!([4, 5, 6].map(append), ["refused", "appended", "refused"]);
    // Led without a break: nobody else has written.
    fixture.decide("t", 0, 1, 6, &[1, 2]).await.expect("decided");
    assert_eq!([4, 5, 6, 7].map(append), ["refused", "appended", "appended", "refused"]);
    fixture.decide("t", 0, 2, 7, &[1, 2]).await.expect("decided");
    assert_eq!([5, 6, 7].map(append), ["refused"; 3]);
    fixture.decide("t", 0, 1, 8, &[1, 2]).await.expect("decided");
    assert_eq!([5, 6, 7, 8].map(append), ["refused", "refused", "refused", "appended"]);
}

#[tokio::test]
async fn a_request_waits_for_the_registration_and_one_for_an_earlier_life_is_never_obeyed() {
    let fixture = Arc::new(Fixture::new());
    let ask = |broker_epoch: i64, leader_epoch: i32| {
        let fixture = Arc::clone(&fixture);
        let epochs = ControlEpochs { broker_epoch: BrokerEpoch(broker_epoch), ..epochs() };
        tokio::spawn(async move { fixture.decide_from(epochs, "t", 0, 1, leader_epoch, &[1]).await })
    };
    let hosted = || fixture.replicas.partition("t", 0).map(|partition| partition.leader_epoch().0).unwrap_or(-1);
    // Three lives: the start, a session that expires while a request waits for its turn, and the one after it.
    fixture.broker_epoch.send_replace(None);
    let (former, current, of_any) = (ask(99, 1), ask(100, 2), ask(-1, 3));
    until_all_wait().await;
    assert!(![&former, &current, &of_any].into_iter().any(|request| request.is_finished()), "nobody is registered yet");
    assert_eq!(hosted(), -1);
    fixture.broker_epoch.send_replace(Some(BrokerEpoch(100)));
    assert_eq!(former.await.expect("answered"), Err(ControlRefusal::StaleBrokerEpoch));
    let later = [current.await.expect("answered"), of_any.await.expect("answered")];
    assert!(later.contains(&Ok(Ok(()))) && later.iter().all(Result::is_ok), "{later:?}");

    let turn = fixture.replicas.fence.lock().await;
    let late = ask(100, 9);
    until_all_wait().await;
    fixture.broker_epoch.send_replace(None);
    drop(turn);
    let after_expiry = ask(100, 10);
    until_all_wait().await;
    assert!(!late.is_finished() && !after_expiry.is_finished(), "the session has expired");
    fixture.broker_epoch.send_replace(Some(BrokerEpoch(200)));
    for request in [late, after_expiry, ask(100, 11)] {
        assert_eq!(request.await.expect("answered"), Err(ControlRefusal::StaleBrokerEpoch));
    }
    assert!(hosted() < 9, "no decision for an earlier life was obeyed");
    assert_eq!(ask(200, 12).await.expect("answered"), Ok(Ok(())));
    assert_eq!(hosted(), 12);
}

#[tokio::test]
async fn a_leader_without_a_successor_appends_no_more() {
    let fixture = Fixture::new();
    fixture.publish(&[("t", 0)]).await;
    fixture.decide("t", 0, 1, 5, &[1, 9]).await.expect("decided");
    fixture.produce("t", RequiredAcks::Leader).expect("this broker leads");
    for _ in 0..2 {
        assert_eq!(fixture.decide("t", 0, -1, 6, &[1, 9]).await, Ok(()), "it may come again");
        assert!(matches!(fixture.produce("t", RequiredAcks::Leader), Err(ReplicaError::NotLeaderOrFollower)));
    }
    let log = fixture.replicas.partition("t", 0).expect("hosted").log().expect("hosted");
    assert_eq!(log.log_end_offset(), Offset(3));
    fixture.decide("t", 0, 1, 7, &[1, 9]).await.expect("decided");
    fixture.produce("t", RequiredAcks::Leader).expect("this broker leads again");
}

/// An UpdateMetadata of the controller that was on its way for long may have come in between, and it says that once.
#[test]
fn a_leader_is_followed_of_which_the_metadata_does_not_know() {
    let clock = Arc::new(std::sync::Mutex::new(std::time::Instant::now()));
    let follower = interleaving_tests::partition::<MemoryLog>(1, &clock);
    let stranger = BrokerId(9);
    assert!(!follower.is_alive(stranger));
    let changed = change_role(&follower, &decision(9, 6, &[9, 1]), Verdict::Follow, &Arc::new(MemoryLog::new()));
    let Ok(Changed { fetch: Some(FetchChange::Follow { leader, .. }), .. }) = changed else { panic!("it follows") };
    assert_eq!((leader, follower.leader()), (stranger, (Some(stranger), LeaderEpoch(6))));
}

/// Its last fetches would have it in sync with whoever it has just made the leader.
#[tokio::test]
async fn a_broker_that_shuts_down_follows_nobody_anew() {
    let fixture = Fixture::new();
    let follows = |partition| fixture.replicas.fetchers().follows(&TopicPartition::new("t", partition));
    for (partition, leader) in [(0, 2), (1, 1)] {
        assert_eq!(fixture.decide("t", partition, leader, 0, &[1, 2]).await, Ok(()));
    }
    assert!(follows(0) && !follows(1));
    fixture.replicas.fetchers().take_no_more();
    assert!(follows(0), "as before, until something is decided");
    for partition in 0..3 {
        assert_eq!(fixture.decide("t", partition, 2, 1, &[1, 2]).await, Ok(()));
        assert!(!follows(partition));
    }
}

#[tokio::test]
async fn a_request_that_names_a_partition_twice_means_what_it_says_last() {
    let fixture = Fixture::new();
    let name = TopicPartition::new("t", 0);
    let decisions = [(1, 4), (2, 6), (1, 5)].map(|(leader, epoch)| (name.clone(), decision(leader, epoch, &[1, 2])));
    let request = Decisions { epochs: epochs(), decisions: decisions.to_vec(), same_epoch_allowed: false };
    let outcomes = fixture.replicas.become_leader_or_follower(request, NOW_MS).await;
    assert_eq!(outcomes, Ok(vec![(name, Ok(()))]));
    let hosted = fixture.replicas.partition("t", 0).expect("hosted");
    assert_eq!(hosted.leader(), (Some(BrokerId(1)), LeaderEpoch(5)));
}

#[tokio::test]
async fn settings_that_change_before_a_log_is_there_or_decided_about_are_its_settings() {
    let fixture = Fixture::new();
    let retention_ms = |topic: &str| {
        let log = fixture.replicas.log_dirs().get(&TopicPartition::new(topic, 0)).expect("there is one");
        log.config().retention_ms
    };
    *fixture.topic_configs.changed_meanwhile.lock().expect("free") = Some(Arc::clone(&fixture.replicas));
    assert_eq!(fixture.decide("new", 0, 1, 0, &[1]).await, Ok(()));
    assert_eq!(retention_ms("new"), Some(7));
    let found = TopicPartition::new("found", 0);
    let created = fixture.replicas.log_dirs().get_or_create(&found, None, Arc::default(), true, NOW_MS);
    drop(created.expect("writable"));
    fixture.replicas.set_topic_configs(&HashMap::from([("found".into(), kept_for(9))]));
    assert_eq!(fixture.decide("found", 0, 1, 0, &[1]).await, Ok(()));
    assert_eq!((retention_ms("found"), retention_ms("new")), (Some(9), Some(7)));
}

#[tokio::test]
async fn offsets_are_found_by_end_and_by_time_and_records_are_deleted_below_an_offset() {
    let fixture = Fixture::new();
    fixture.publish(&[("t", 0)]).await;
    fixture.decide("t", 0, 1, 7, &[1]).await.expect("decided");
    fixture.produce("t", RequiredAcks::Leader).expect("this broker leads");
    let find = |query| fixture.replicas.find_offset("t", 0, query, Some(false), None, true);
    let offset = |found: Result<Option<TimestampedOffset>, ReplicaError>| {
        found.expect("this broker leads").map(|found| (found.offset.0, found.leader_epoch.map(|epoch| epoch.0)))
    };
    assert_eq!(offset(find(OffsetQuery::Latest).await), Some((3, Some(7))));
    assert_eq!(offset(find(OffsetQuery::Earliest).await), Some((0, Some(7))));
    assert_eq!(offset(find(OffsetQuery::AtOrAfter(NOW_MS)).await), Some((0, Some(7))));
    assert_eq!(offset(find(OffsetQuery::AtOrAfter(NOW_MS + 1)).await), None);
    let deleted = fixture.replicas.delete_records("t", 0, Some(Offset(2))).await.expect("this broker leads");
    assert_eq!(deleted.low_watermark, Offset(2));
    assert!(deleted.reached.is_none());
    assert_eq!(offset(find(OffsetQuery::Earliest).await).map(|found| found.0), Some(2));
    let beyond = fixture.replicas.delete_records("t", 0, Some(Offset(9))).await;
    assert!(matches!(beyond, Err(ReplicaError::Log(LogError::OffsetOutOfRange { .. }))), "{beyond:?}");
    let all = fixture.replicas.delete_records("t", 0, None).await.expect("this broker leads");
    assert_eq!(all.low_watermark, Offset(3));
}

#[tokio::test]
async fn an_unknown_partition_and_one_hosted_elsewhere_have_different_errors() {
    let fixture = Fixture::new();
    fixture.publish(&[("elsewhere", 0)]).await;
    assert!(matches!(fixture.produce("elsewhere", RequiredAcks::Leader), Err(ReplicaError::NotLeaderOrFollower)));
    assert!(matches!(fixture.produce("nowhere", RequiredAcks::Leader), Err(ReplicaError::UnknownTopicOrPartition)));
}

#[tokio::test]
async fn a_request_about_many_partitions_is_answered_in_full() {
    let fixture = Fixture::new();
    let names: Vec<(TopicPartition, Decision)> = (0..150)
        .map(|partition| {
            let decision = Decision {
                controller_epoch: ControllerEpoch(1),
                leader: BrokerId(1),
                leader_epoch: LeaderEpoch(0),
                partition_epoch: PartitionEpoch(0),
                isr: vec![BrokerId(1)],
                assignment: vec![BrokerId(1)],
                adding: Vec::new(),
                removing: Vec::new(),
                is_new: true,
                topic_id: TOPIC_ID,
            };
            (TopicPartition::new("many", partition), decision)
        })
        .collect();
    let request = Decisions { epochs: epochs(), decisions: names, same_epoch_allowed: false };
    let errors = fixture.replicas.become_leader_or_follower(request, NOW_MS).await.expect("the epochs are current");
    let numbers: Vec<i32> = errors.iter().map(|(name, _)| name.partition).collect();
    assert_eq!(numbers, (0..150).collect::<Vec<_>>());
    assert!(errors.iter().all(|(_, error)| error.is_ok()));
    assert_eq!(fixture.replicas.hosted.all().len(), 150);
    fixture.replicas.checkpoint_high_watermarks().await;
}

#[tokio::test]
async fn a_partition_in_a_failed_log_directory_answers_a_storage_error_until_the_broker_restarts() {
    let fixture = Fixture::new();
    fixture.publish(&[("t", 0), ("u", 0)]).await;
    fixture.decide("t", 0, 1, 0, &[1, 2]).await.expect("decided");
    let commit = fixture.produce("t", RequiredAcks::AllInSync).expect("this broker leads").commit.expect("not yet");
    std::fs::remove_dir_all(fixture.dir.path()).expect("it is ours");
    std::fs::write(fixture.dir.path(), b"no directory").expect("a file can stand in its place");
    assert_eq!(fixture.decide("u", 0, 1, 0, &[1]).await, Err(PartitionRefusal::Storage), "no log can be created");
    let dropped = fixture.replicas.log_dir_failed(fixture.dir.path()).await;
    assert_eq!(dropped, vec![TopicPartition::new("t", 0)]);
    assert_eq!(commit.wait(soon()).await, Err(waiters::NotCommitted::Offline));
    assert!(matches!(fixture.produce("t", RequiredAcks::Leader), Err(ReplicaError::Offline)));
    for epoch in [0, 1] {
        assert_eq!(fixture.decide("t", 0, 1, epoch, &[1, 2]).await, Err(PartitionRefusal::Storage), "epoch {epoch}");
    }
    std::fs::remove_file(fixture.dir.path()).expect("it is ours");
}

/// Its directory has just failed: one that is new gets an empty log in another, and this one has records.
#[tokio::test]
async fn a_log_that_is_given_up_while_its_partition_changes_roles_is_not_one_that_there_was_no_room_for() {
    let fixture = Fixture::new();
    fixture.publish(&[("t", 0)]).await;
    fixture.decide("t", 0, 1, 0, &[1]).await.expect("decided");
    fixture.produce("t", RequiredAcks::Leader).expect("this broker leads");
    fixture.replicas.partition("t", 0).expect("hosted").log().expect("online").abandon();
    assert_eq!(fixture.decide("t", 0, 1, 1, &[1]).await, Err(PartitionRefusal::Storage));
    assert!(!fixture.replicas.log_dirs().has_refused_new(&TopicPartition::new("t", 0)));
}

/// What a broker has not heard of while it had no session, it hears of with all that it is to host.
#[tokio::test]
async fn what_there_was_no_room_for_is_asked_for_until_it_is_had_or_the_broker_registers_again() {
    let fixture = Fixture::new();
    fixture.publish(&[("t", 0), ("u", 0)]).await;
    let full = faults::below(fixture.dir.path(), |op, _| match op {
        Op::MakeDir => Err(Errno::NOSPC.into()),
        _ => Ok(()),
    });
    for topic in ["t", "u"] {
        assert_eq!(fixture.decide(topic, 0, 1, 0, &[1]).await, Err(PartitionRefusal::Storage));
    }
    let is_wanted = |topic| fixture.replicas.log_dirs().has_refused_new(&TopicPartition::new(topic, 0));
    assert!(is_wanted("t") && is_wanted("u"));
    drop(full);
    fixture.decide("u", 0, 1, 0, &[1]).await.expect("decided");
    assert!(is_wanted("t") && !is_wanted("u"));
    fixture.broker_epoch.send_replace(Some(BrokerEpoch(200)));
    let of_the_next = ControlEpochs { broker_epoch: BrokerEpoch(200), ..epochs() };
    let decided = fixture.decide_from(of_the_next, "u", 0, 1, 1, &[1]).await;
    assert_eq!(decided, Ok(Ok(())));
    assert!(!is_wanted("t"), "another broker may have it by now");
}

/// A JVM controller has taken its leader for one on a failed directory, and elects nobody when it is back.
#[tokio::test]
async fn a_leader_is_asked_for_where_there_is_room_by_now_and_none_has_been_elected() {
    let fixture = Fixture::new();
    let leaderless = || fixture.replicas.still_leaderless().into_iter().map(|name| name.topic).collect::<Vec<_>>();
    let names = ["led", "of-another", "t"];
    fixture.publish(&names.map(|topic| (topic, 0))).await;
    let full = faults::below(fixture.dir.path(), |op, _| match op {
        Op::MakeDir => Err(Errno::NOSPC.into()),
        _ => Ok(()),
    });
    for topic in names {
        assert_eq!(fixture.decide(topic, 0, 1, 0, &[1, 2]).await, Err(PartitionRefusal::Storage));
    }
    drop(full);
    let update = fixture.image_of(BrokerId(-1), &names.map(|topic| (topic, 0)));
    assert_eq!(fixture.replicas.update_metadata(epochs(), update).await, Ok(()));
    for (topic, leader, replicas) in [("led", 1, [1, 2]), ("of-another", -1, [2, 1]), ("t", -1, [1, 2])] {
        assert_eq!(fixture.decide(topic, 0, leader, 1, &replicas).await, Ok(()));
    }
    assert_eq!(leaderless(), ["t".into()]);
    fixture.publish(&[("t", 0)]).await;
    assert_eq!(leaderless(), [] as [Arc<str>; 0]);
}

/// Followers in lockstep: whatever the interleaving, what a consumer sees is on every replica of the ISR.
#[tokio::test]
async fn the_high_watermark_never_passes_a_follower_and_never_goes_back() {
    let fixture = Fixture::new();
    fixture.publish(&[("t", 0)]).await;
    fixture.decide("t", 0, 1, 0, &[1, 2, 3]).await.expect("decided");
    let log = fixture.replicas.partition("t", 0).expect("hosted").log().expect("hosted");
    let mut fetched = [0_i64; 2];
    let mut before = Offset(0);
    for step in 0..60_usize {
        if step % 3 == 0 {
            fixture.produce("t", RequiredAcks::Leader).expect("this broker leads");
        }
        let follower = (step / 2) % 2;
        let mut query = fixture.consumer("t", fetched[follower], 0);
        query.fetcher = self::follower(i32::try_from(follower).expect("small") + 2);
        let outcomes = fixture.replicas.fetch(&query, Instant::now(), std::time::Instant::now()).await;
        assert!(outcomes[0].is_ok());
        let high_watermark = log.high_watermark();
        assert!(high_watermark >= before, "step {step}: it went back");
        assert!(high_watermark.0 <= fetched[0].min(fetched[1]), "step {step}: a follower lacks committed records");
        before = high_watermark;
        // The follower has appended what it was sent; its next fetch says so.
        fetched[follower] = log.log_end_offset().0;
    }
    assert!(before > Offset(0));
}

#[tokio::test]
async fn what_is_produced_and_what_is_fetched_is_counted() {
    let fixture = Fixture::new();
    fixture.publish(&[("t", 0)]).await;
    assert_eq!(fixture.decide("t", 0, 1, 1, &[1]).await, Ok(()));
    let counters = Arc::clone(&fixture.replicas.counters);
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let bytes = records(3).len() as u64;
    fixture.produce("t", RequiredAcks::Leader).expect("this broker leads");
    fixture.produce("other", RequiredAcks::Leader).expect_err("nobody knows it");
    assert_eq!((of(&counters.bytes_in), of(&counters.messages_in)), (bytes, 3));
    assert_eq!((of(&counters.appends_refused), of(&counters.appends_failed)), (1, 0));

    let fetch = async |from| {
        let deadline = Instant::now() + Duration::from_millis(20);
        fixture.replicas.fetch(&fixture.consumer("t", from, 1), deadline, std::time::Instant::now()).await
    };
    fetch(0).await;
    assert_eq!((of(&counters.bytes_out), of(&counters.fetches_parked)), (bytes, 0));
    fetch(3).await;
    assert_eq!((of(&counters.bytes_out), of(&counters.fetches_parked), of(&counters.fetches_expired)), (bytes, 1, 1));
    fetch(4).await;
    assert_eq!((of(&counters.fetches_refused), of(&counters.replication_bytes_out)), (1, 0));
}

/// As Kafka's gauge of that name, which sees only what is led.
#[tokio::test]
async fn partitions_with_a_transaction_that_is_open_for_longer_than_any_may_be_are_counted() {
    let fixture = Fixture::new();
    fixture.publish(&[("a", 0), ("b", 0), ("c", 0)]).await;
    for topic in ["a", "b", "c"] {
        assert_eq!(fixture.decide(topic, 0, 1, 1, &[1, 2]).await, Ok(()));
    }
    let append = |topic: &str, batch| {
        let terms = AppendTerms { origin: AppendOrigin::Coordinator, ..TERMS };
        fixture.replicas.append(topic, 0, batch, terms, NOW_MS).expect("this broker leads");
    };
    for (topic, producer) in [("a", 7), ("a", 8), ("b", 7)] {
        let mut batch = BatchBuilder::new().producer(producer, 0, 0).transactional(true);
        batch.append(NOW_MS, None, Some(b"value"), &[]);
        append(topic, batch.build());
    }
    let late = |after_ms: i64| {
        fixture.replicas.look_for_late_transactions(fixture.dir.path(), NOW_MS + after_ms);
        fixture.replicas.counters.partitions_with_late_transactions.load(Ordering::Relaxed)
    };
    let late_ms = ReplicaConfig::default().transaction_max_timeout_ms + 5 * 60 * 1000;
    assert_eq!((late(late_ms), late(late_ms + 1)), (0, 2));
    let end = |producer| end_transaction_marker(producer, 0, TransactionOutcome::Abort, 0, NOW_MS);
    append("a", end(7));
    assert_eq!(late(late_ms + 1), 2, "one of two is left there");
    append("a", end(8));
    assert_eq!(late(late_ms + 1), 1);
    assert_eq!(fixture.decide("b", 0, 2, 2, &[1, 2]).await, Ok(()));
    assert_eq!(late(late_ms + 1), 0);
}
