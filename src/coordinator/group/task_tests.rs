//! The shell over a log that tests drive by hand: what requests, elections, timers and slow replicas come to.

use std::collections::VecDeque;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::config::sections::GroupConfig;
use crate::coordinator::group::error::GroupError;
use crate::coordinator::group::offsets::FoundOffset;
use crate::coordinator::group::records::CommittedOffset;
use crate::coordinator::group::requests::{
    Caller, Commit, CommitAnswer, Join, JoinAnswer, Leaving, OffsetToCommit, Protocol, Sync,
};
use crate::coordinator::group::state::GroupState;
use crate::coordinator::group::task::{GroupCoordinator, GroupOverview};
use crate::coordinator::shard::{BEHIND_MAX, ShardEvent};
use crate::coordinator::topic_log::{AppendFailure, AppendOutcome, Appending, Committing, CoordinatorLog};
use crate::log::testing::Gate;
use crate::model::{GenerationId, LeaderEpoch, Offset, ProducerId, TopicPartition};
use crate::record::append_rules::AppendOrigin;
use crate::record::build::TransactionOutcome;
use crate::replica::tests::until;

/// One partition in memory, whose replicas and whose disk are as slow as a test wants.
#[derive(Clone)]
struct MemoryLog {
    state: Arc<Mutex<MemoryLogState>>,
    /// So many appends are made while the disk does not keep up.
    disk: Arc<Semaphore>,
}

impl Default for MemoryLog {
    fn default() -> MemoryLog {
        MemoryLog { state: Arc::default(), disk: Arc::new(Semaphore::new(0)) }
    }
}

#[derive(Default)]
struct MemoryLogState {
    batches: Vec<(Offset, Bytes)>,
    next_offset: i64,
    fails_with: Option<AppendFailure>,
    is_slow: bool,
    is_held_up: bool,
    /// Where the next append that is made where it is wanted waits, and whom it tells.
    hangs_at: Option<(std::sync::mpsc::Sender<()>, Arc<Gate>)>,
    /// Appends of another leader epoch are refused, once a test says which one is in force.
    leader_epoch: Option<LeaderEpoch>,
    waiting: VecDeque<(oneshot::Sender<AppendOutcome>, Offset)>,
    /// 0 for none too long.
    longest: usize,
}

impl MemoryLog {
    fn fail_with(&self, failure: Option<AppendFailure>) {
        self.state.lock().expect("no test panics here").fails_with = failure;
    }

    fn be_slow(&self) {
        self.state.lock().expect("no test panics here").is_slow = true;
    }

    fn be_fast(&self) {
        self.state.lock().expect("no test panics here").is_slow = false;
    }

    /// Its disk does not keep up from now on, or does again.
    fn hold_up(&self, is_held_up: bool) {
        self.state.lock().expect("no test panics here").is_held_up = is_held_up;
    }

    /// The next append hangs.
    fn hang(&self) -> (std::sync::mpsc::Receiver<()>, Arc<Gate>) {
        let ((hangs, does_hang), gate) = (std::sync::mpsc::channel(), Arc::new(Gate::default()));
        self.state.lock().expect("no test panics here").hangs_at = Some((hangs, Arc::clone(&gate)));
        (does_hang, gate)
    }

    fn batch_count(&self) -> usize {
        self.state.lock().expect("no test panics here").batches.len()
    }

    async fn until_batches(&self, count: usize) {
        for _ in 0..100_000 {
            if self.batch_count() >= count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(self.batch_count(), count);
    }

    /// As by `max.message.bytes` of the topic.
    fn refuse_longer_than(&self, bytes: usize) {
        self.state.lock().expect("no test panics here").longest = bytes;
    }

    /// The replica leads in this epoch from now on. The coordinator hears of it when the test says so.
    fn lead(&self, epoch: i32) {
        self.state.lock().expect("no test panics here").leader_epoch = Some(LeaderEpoch(epoch));
    }

    /// As a follower of another leader, the replica dropped its last batch.
    fn truncate_last(&self) {
        let mut state = self.state.lock().expect("no test panics here");
        let (offset, _) = state.batches.pop().expect("there is a batch");
        state.next_offset = offset.0;
    }

    /// The replicas have the oldest waiting batch, or never will.
    fn finish(&self, failure: Option<AppendFailure>) -> bool {
        let Some((sender, offset)) = self.state.lock().expect("no test panics here").waiting.pop_front() else {
            return false;
        };
        let _ = sender.send(failure.map_or(Ok(offset), Err));
        true
    }
}

impl CoordinatorLog for MemoryLog {
    fn append(
        &self,
        _: i32,
        leader_epoch: LeaderEpoch,
        batch: Bytes,
        _: AppendOrigin,
        required_acks: i16,
        _: Duration,
    ) -> Appending {
        let hangs_at = self.state.lock().expect("no test panics here").hangs_at.take();
        if let Some((hangs, gate)) = hangs_at {
            let _ = hangs.send(());
            gate.pass();
        }
        let mut state = self.state.lock().expect("no test panics here");
        if state.leader_epoch.is_some_and(|in_force| in_force != leader_epoch) {
            return Appending::Done(Err(AppendFailure::NotLeaderOrFollower));
        }
        if let Some(failure) = state.fails_with {
            return Appending::Done(Err(failure));
        }
        if state.longest > 0 && batch.len() > state.longest {
            return Appending::Done(Err(AppendFailure::MessageTooLarge));
        }
        let mut bytes = batch.to_vec();
        let offset = Offset(state.next_offset);
        bytes[..8].copy_from_slice(&offset.0.to_be_bytes());
        let last_offset_delta = i32::from_be_bytes(bytes[23..27].try_into().expect("four bytes"));
        state.next_offset += i64::from(last_offset_delta) + 1;
        state.batches.push((offset, bytes.into()));
        if state.is_slow && required_acks == -1 {
            let (sender, outcome) = oneshot::channel();
            state.waiting.push_back((sender, offset));
            return Appending::Waiting(Box::pin(async move {
                outcome.await.unwrap_or(Err(AppendFailure::NotLeaderOrFollower))
            }));
        }
        Appending::Done(Ok(offset))
    }

    fn is_held_up(&self, _: i32) -> bool {
        self.state.lock().expect("no test panics here").is_held_up
    }

    fn append_beside(
        &self,
        partition: i32,
        leader_epoch: LeaderEpoch,
        batch: Bytes,
        origin: AppendOrigin,
        required_acks: i16,
        timeout: Duration,
    ) -> Pin<Box<dyn Future<Output = Appending> + Send>> {
        let log = self.clone();
        Box::pin(async move {
            log.disk.acquire().await.expect("nobody closes it").forget();
            log.append(partition, leader_epoch, batch, origin, required_acks, timeout)
        })
    }

    fn all_replicated(&self, _: i32, _: LeaderEpoch) -> Committing {
        Box::pin(std::future::ready(Ok(())))
    }

    fn log_start_offset(&self, _: i32) -> Option<Offset> {
        Some(Offset(0))
    }

    fn read(&self, _: i32, from: Offset, _: u32) -> Result<Bytes, String> {
        let state = self.state.lock().expect("no test panics here");
        // Two batches at a time, the first of which may have been read already.
        let next = state.batches.iter().rposition(|(offset, _)| *offset <= from).unwrap_or(0);
        if from.0 >= state.next_offset {
            return Ok(Bytes::new());
        }
        Ok(state.batches[next..].iter().take(2).flat_map(|(_, bytes)| bytes.clone()).collect())
    }
}

/// Of two directories; the first four partitions are in the one whose disk does not answer.
#[derive(Default)]
struct TwoDisks {
    gate: Gate,
    is_asked: AtomicUsize,
}

impl CoordinatorLog for TwoDisks {
    fn append(&self, _: i32, _: LeaderEpoch, _: Bytes, _: AppendOrigin, _: i16, _: Duration) -> Appending {
        Appending::Done(Err(AppendFailure::Unexpected))
    }

    fn parent_dir(&self, partition: i32) -> Option<PathBuf> {
        Some(PathBuf::from(if partition < 4 { "slow" } else { "fast" }))
    }

    fn all_replicated(&self, _: i32, _: LeaderEpoch) -> Committing {
        Box::pin(std::future::ready(Ok(())))
    }

    fn log_start_offset(&self, partition: i32) -> Option<Offset> {
        if partition < 4 {
            self.is_asked.fetch_add(1, Ordering::Relaxed);
            self.gate.pass();
        }
        Some(Offset(0))
    }

    fn read(&self, _: i32, _: Offset, _: u32) -> Result<Bytes, String> {
        Ok(Bytes::new())
    }
}

#[tokio::test]
async fn partitions_on_a_disk_that_does_not_answer_keep_those_of_another_from_no_load() {
    let log = Arc::new(TwoDisks::default());
    let groups = GroupCoordinator::new(settings(), 5, Arc::clone(&log) as Arc<dyn CoordinatorLog>, Arc::default());
    let (leaderships, reports) = mpsc::unbounded_channel();
    let (_shutdown, shutting_down) = watch::channel(false);
    tokio::spawn(Arc::clone(&groups).run(reports, shutting_down));
    let elect = |partition| {
        let elected = ShardEvent::Elected { partition, leader_epoch: LeaderEpoch(1) };
        leaderships.send(elected).expect("the task runs");
    };
    (0..4).for_each(elect);
    until("all are being read", || log.is_asked.load(Ordering::Relaxed) == 4).await;
    elect(4);
    let loads = || groups.counters().shards.loads.load(Ordering::Relaxed);
    until("the other is loaded", || loads() == 1).await;
    assert!(!log.gate.is_open(), "the disk has not answered");
    log.gate.open();
    until("all are loaded", || loads() == 5).await;
}

struct Broker {
    groups: Arc<GroupCoordinator>,
    leaderships: mpsc::UnboundedSender<ShardEvent>,
    _shutdown: watch::Sender<bool>,
}

fn settings() -> GroupConfig {
    GroupConfig { group_initial_rebalance_delay_ms: 0, ..GroupConfig::default() }
}

fn start(log: &Arc<MemoryLog>, settings: GroupConfig) -> Broker {
    let groups = GroupCoordinator::new(settings, 1, Arc::clone(log) as Arc<dyn CoordinatorLog>, Arc::default());
    let (leaderships, reports) = mpsc::unbounded_channel();
    let (shutdown, shutting_down) = watch::channel(false);
    tokio::spawn(Arc::clone(&groups).run(reports, shutting_down));
    Broker { groups, leaderships, _shutdown: shutdown }
}

async fn elected(log: &Arc<MemoryLog>, settings: GroupConfig) -> Broker {
    let broker = start(log, settings);
    broker.elect(1);
    broker.until_serving().await;
    broker
}

impl Broker {
    fn elect(&self, epoch: i32) {
        let report = ShardEvent::Elected { partition: 0, leader_epoch: LeaderEpoch(epoch) };
        self.leaderships.send(report).expect("the task runs");
    }

    fn resign(&self, epoch: i32) {
        let report = ShardEvent::Resigned { partition: 0, leader_epoch: Some(LeaderEpoch(epoch)) };
        self.leaderships.send(report).expect("the task runs");
    }

    async fn until_serving(&self) {
        for _ in 0..1000 {
            if self.groups.describe("probe").is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("not serving after a second: {:?}", self.groups.describe("probe"));
    }

    async fn until_state(&self, group: &str, state: GroupState) {
        for _ in 0..1000 {
            if self.state(group) == Some(state) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{group} is {:?} after a second, not {state}", self.state(group));
    }

    fn state(&self, group: &str) -> Option<GroupState> {
        self.groups.describe(group).expect("the broker is coordinator").map(|group| group.state)
    }

    async fn join_and_sync(&self, group: &str) -> Caller {
        let joined = self.groups.join(group, join("")).await;
        assert_eq!(joined.error, None);
        let caller = caller(&joined);
        let assignments = vec![(Arc::clone(&joined.member_id), Bytes::from_static(b"all of it"))];
        let synced = self.groups.sync(group, sync(&caller, assignments)).await.expect("the group is stable");
        assert_eq!(synced.assignment, "all of it");
        caller
    }

    fn committed(&self, group: &str) -> Option<i64> {
        let look = |offsets: Option<&crate::coordinator::group::offsets::GroupOffsets>| match offsets?
            .find("orders", 0, false)
        {
            FoundOffset::Committed(committed) => Some(committed.offset.0),
            _ => None,
        };
        self.groups.with_offsets(group, look).expect("the broker is coordinator")
    }
}

fn join(member_id: &str) -> Join {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Join {
        member_id: Arc::from(member_id),
        new_member_id: Arc::from(format!("member-{number:06}")),
        group_instance_id: None,
        require_known_member_id: false,
        can_skip_assignment: true,
        client_id: Arc::from("client"),
        client_host: Arc::from("/127.0.0.1"),
        rebalance_timeout_ms: 60_000,
        session_timeout_ms: 10_000,
        protocol_type: Arc::from("consumer"),
        protocols: vec![Protocol { name: Arc::from("range"), metadata: Bytes::from_static(b"\0\0\0\0\0\0\0\0\0\0") }],
        reason: None,
    }
}

fn caller(joined: &JoinAnswer) -> Caller {
    Caller { member_id: Arc::clone(&joined.member_id), group_instance_id: None, generation_id: joined.generation_id }
}

fn sync(caller: &Caller, assignments: Vec<(Arc<str>, Bytes)>) -> Sync {
    Sync { caller: caller.clone(), protocol_type: None, protocol_name: None, assignments }
}

fn commit(caller: &Caller, offset: i64) -> Commit {
    let committed = CommittedOffset {
        offset: Offset(offset),
        leader_epoch: LeaderEpoch(0),
        metadata: Arc::from(""),
        commit_timestamp_ms: 1,
        expire_timestamp_ms: None,
    };
    Commit {
        caller: caller.clone(),
        offsets: vec![OffsetToCommit { topic: Arc::from("orders"), partition: 0, committed }],
        transaction: None,
        must_be_verified: false,
    }
}

fn nobody() -> Caller {
    Caller { member_id: Arc::from(""), group_instance_id: None, generation_id: GenerationId(-1) }
}

#[tokio::test(start_paused = true)]
async fn a_group_and_its_offsets_survive_a_restart() {
    let log = Arc::new(MemoryLog::default());
    let before = elected(&log, settings()).await;
    let member = before.join_and_sync("g").await;
    for offset in [3, 7, 11] {
        let answer = before.groups.commit_offsets("g", commit(&member, offset)).await;
        assert_eq!(answer, CommitAnswer::Stored(Ok(())));
    }
    assert_eq!(before.groups.commit_offsets("simple", commit(&nobody(), 5)).await, CommitAnswer::Stored(Ok(())));
    let described = before.groups.describe("g");

    let after = elected(&log, settings()).await;
    assert_eq!(after.groups.describe("g"), described);
    assert_eq!((after.committed("g"), after.committed("simple")), (Some(11), Some(5)));
    assert_eq!(after.groups.heartbeat("g", &member), Ok(()), "the member goes on as if nothing had happened");
}

#[tokio::test(start_paused = true)]
async fn before_and_after_its_leadership_a_broker_says_so() {
    let log = Arc::new(MemoryLog::default());
    let broker = start(&log, settings());
    assert_eq!(broker.groups.heartbeat("g", &nobody()), Err(GroupError::NotCoordinator));
    assert_eq!(broker.groups.heartbeat("", &nobody()), Err(GroupError::InvalidGroupId));
    assert_eq!(broker.groups.describe(""), Err(GroupError::NotCoordinator));
    broker.elect(4);
    broker.until_serving().await;
    assert_eq!(broker.groups.heartbeat("g", &nobody()), Err(GroupError::UnknownMemberId));
    // A late report of an earlier epoch changes nothing.
    broker.resign(3);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(broker.state("g"), None);
    broker.resign(5);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(broker.groups.describe("g"), Err(GroupError::NotCoordinator));
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_is_answered_when_the_partition_moves_away() {
    let log = Arc::new(MemoryLog::default());
    let broker = elected(&log, settings()).await;
    let member = broker.join_and_sync("stable").await;
    log.be_slow();
    let first = broker.groups.join("joining", join("")).await;
    let (groups, other) = (Arc::clone(&broker.groups), Arc::clone(&broker.groups));
    let storing = commit(&member, 9);
    let committing = tokio::spawn(async move { groups.commit_offsets("stable", storing).await });
    let follower = tokio::spawn(async move { other.join("joining", join("")).await });
    broker.until_state("joining", GroupState::PreparingRebalance).await;
    assert_eq!(first.error, None);
    broker.resign(2);
    assert_eq!(follower.await.expect("no panic").error, Some(GroupError::NotCoordinator));
    assert_eq!(committing.await.expect("no panic"), CommitAnswer::Stored(Err(GroupError::NotCoordinator)));
    // The append that was on its way comes to its end and means nothing any more.
    assert!(log.finish(None));
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_does_not_keep_up_holds_up_who_commits_in_turn_and_nobody_else() {
    let log = Arc::new(MemoryLog::default());
    let broker = elected(&log, settings()).await;
    let member = broker.join_and_sync("other").await;
    let before = log.batch_count();
    let commit_to_g = |offset| {
        let groups = Arc::clone(&broker.groups);
        tokio::spawn(async move { groups.commit_offsets("g", commit(&nobody(), offset)).await })
    };
    log.hold_up(true);
    let mut committing = VecDeque::new();
    for offset in 1..=3 {
        // The last one comes after the others, though the disk keeps up again by then.
        log.hold_up(offset < 3);
        committing.push_back(commit_to_g(offset));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!((log.batch_count(), broker.committed("g")), (before, None));
    assert_eq!(broker.groups.heartbeat("other", &member), Ok(()), "it wants nothing of the disk");
    for offset in 1..=3 {
        log.disk.add_permits(1);
        let first = committing.pop_front().expect("three were begun");
        assert_eq!(first.await.expect("no panic"), CommitAnswer::Stored(Ok(())));
        assert_eq!((log.batch_count(), broker.committed("g")), (before + offset, Some(offset as i64)));
    }
    assert_eq!(commit_to_g(4).await.expect("no panic"), CommitAnswer::Stored(Ok(())), "made at once");

    // What comes too late is refused, and the shard is given up as by any append.
    log.hold_up(true);
    let late = commit_to_g(5);
    tokio::time::sleep(Duration::from_millis(1)).await;
    log.lead(2);
    log.disk.add_permits(1);
    assert_eq!(late.await.expect("no panic"), CommitAnswer::Stored(Err(GroupError::NotCoordinator)));
    assert_eq!(broker.groups.describe("g"), Err(GroupError::NotCoordinator));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_first_append_that_hangs_holds_up_nobody_who_wants_nothing_of_the_disk() {
    let log = Arc::new(MemoryLog::default());
    let broker = elected(&log, settings()).await;
    let member = broker.join_and_sync("other").await;
    let before = log.batch_count();
    let (hangs, gate) = log.hang();
    let first = store(&broker, 1);
    tokio::task::spawn_blocking(move || hangs.recv()).await.expect("no panic").expect("it comes so far");
    assert_eq!(broker.groups.heartbeat("other", &member), Ok(()));
    // One is left to him who hangs, and once that is known the next is to be made elsewhere: in this order all the same.
    let second = store(&broker, 2);
    let groups = Arc::clone(&broker.groups);
    let until_parked = |count| async move {
        while groups.shards().parked_count() < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), until_parked(2)).await.expect("they wait");
    log.hold_up(true);
    log.disk.add_permits(2);
    let third = store(&broker, 3);
    assert_eq!(broker.groups.heartbeat("other", &member), Ok(()));
    assert!(!gate.is_open(), "they have waited for it");
    assert_eq!((log.batch_count(), broker.committed("g")), (before, None));
    gate.open();
    for stored in [first, second, third] {
        assert_eq!(stored.await.expect("no panic"), CommitAnswer::Stored(Ok(())));
    }
    assert_eq!((log.batch_count(), broker.committed("g")), (before + 3, Some(3)));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_disk_is_told_so_in_time_and_what_he_wants_is_made_all_the_same() {
    let log = Arc::new(MemoryLog::default());
    let broker = elected(&log, settings()).await;
    log.hold_up(true);
    let (late, next) = (store(&broker, 1), store(&broker, 2));
    for answer in [late, next] {
        let timed_out = GroupError::Append(AppendFailure::TimedOut);
        let answer = tokio::time::timeout(Duration::from_secs(60), answer).await.expect("it is told so");
        assert_eq!(answer.expect("no panic"), CommitAnswer::Stored(Err(timed_out)));
    }
    assert_eq!(log.batch_count(), 0);
    // In their order, and before what comes later.
    log.disk.add_permits(3);
    assert_eq!(store(&broker, 3).await.expect("no panic"), CommitAnswer::Stored(Ok(())));
    assert_eq!((log.batch_count(), broker.committed("g")), (3, Some(3)));
}

#[tokio::test(start_paused = true)]
async fn so_many_may_wait_for_a_disk_and_no_more() {
    let log = Arc::new(MemoryLog::default());
    let broker = elected(&log, settings()).await;
    log.hold_up(true);
    let waiting: Vec<_> = (0..BEHIND_MAX).map(|offset| store(&broker, offset as i64)).collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let refused = CommitAnswer::Stored(Err(GroupError::CoordinatorNotAvailable));
    let answer = tokio::time::timeout(Duration::from_secs(60), store(&broker, 0)).await.expect("it is told so");
    assert_eq!(answer.expect("no panic"), refused);
    log.disk.add_permits(BEHIND_MAX + 1);
    for stored in waiting {
        assert_eq!(stored.await.expect("no panic"), CommitAnswer::Stored(Ok(())));
    }
    assert_eq!(store(&broker, 5).await.expect("no panic"), CommitAnswer::Stored(Ok(())));
}

/// Commits an offset of each of these groups, which nobody else uses.
async fn commit_of_each(broker: &Broker, groups: &[String]) {
    for group in groups {
        assert_eq!(broker.groups.commit_offsets(group, commit(&nobody(), 5)).await, CommitAnswer::Stored(Ok(())));
    }
}

async fn left_after_a_restart(log: &Arc<MemoryLog>) -> usize {
    elected(log, settings()).await.groups.census().groups
}

#[tokio::test(start_paused = true)]
async fn of_more_groups_than_may_wait_for_a_disk_none_comes_back_that_was_forgotten_at_once() {
    let log = Arc::new(MemoryLog::default());
    let groups: Vec<String> = (0..BEHIND_MAX + 500).map(|number| format!("g{number}")).collect();
    let gone = [TopicPartition::new("orders", 0)];
    let broker = elected(&log, settings()).await;
    commit_of_each(&broker, &groups).await;
    broker.groups.partitions_deleted(&gone);
    log.until_batches(2 * groups.len()).await;
    assert_eq!((broker.groups.census().groups, left_after_a_restart(&log).await), (0, 0));

    let soon = GroupConfig { offsets_retention_check_interval_ms: 1_000, ..settings() };
    let broker = elected(&log, GroupConfig { offsets_retention_ms: 60_000, ..soon }).await;
    commit_of_each(&broker, &groups).await;
    log.until_batches(4 * groups.len()).await;
    assert_eq!((broker.groups.census().groups, left_after_a_restart(&log).await), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn while_all_wait_for_a_disk_who_wants_something_deleted_is_told_to_come_again() {
    let log = Arc::new(MemoryLog::default());
    let broker = elected(&log, settings()).await;
    commit_of_each(&broker, &["h".to_owned()]).await;
    let before = log.batch_count();
    log.hold_up(true);
    let waiting: Vec<_> = (0..BEHIND_MAX).map(|offset| store(&broker, offset as i64)).collect();
    let refused = GroupError::CoordinatorNotAvailable;
    for _ in 0..100_000 {
        // One that is not there changes nothing while they come.
        if broker.groups.delete("nobody") == Err(refused) {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(broker.groups.delete("h"), Err(refused));
    assert_eq!(broker.groups.delete_offsets("h", &[(Arc::from("orders"), 0)]), Err(refused));
    log.disk.add_permits(BEHIND_MAX + 1);
    for stored in waiting {
        assert_eq!(stored.await.expect("no panic"), CommitAnswer::Stored(Ok(())));
    }
    assert_eq!(broker.groups.delete("h"), Ok(()));
    log.until_batches(before + BEHIND_MAX + 1).await;
}

/// As in Kafka, which makes each append at once.
#[tokio::test(start_paused = true)]
async fn while_the_disk_keeps_up_nobody_is_refused_for_all_that_is_forgotten_at_once() {
    let log = Arc::new(MemoryLog::default());
    let groups: Vec<String> = (0..2 * BEHIND_MAX).map(|number| format!("g{number}")).collect();
    let broker = elected(&log, settings()).await;
    commit_of_each(&broker, &groups).await;
    let joined = broker.groups.join("other", join("")).await;
    broker.groups.partitions_deleted(&[TopicPartition::new("orders", 0)]);
    assert!(log.batch_count() < 2 * groups.len() - BEHIND_MAX, "most are still to be made");
    commit_of_each(&broker, &["h".to_owned()]).await;
    assert_eq!(broker.groups.delete("h"), Ok(()));
    assert!(broker.groups.sync("other", sync(&caller(&joined), Vec::new())).await.is_ok());
    log.until_batches(2 * groups.len() + 3).await;
}

/// Source: KAFKA-17058, which the older coordinator has not.
#[tokio::test(start_paused = true)]
async fn a_group_with_more_offsets_than_one_batch_holds_does_not_come_back_when_it_is_deleted() {
    let log = Arc::new(MemoryLog::default());
    let broker = elected(&log, settings()).await;
    let member = broker.join_and_sync("g").await;
    let one = commit(&member, 5).offsets.remove(0);
    for first in (0..20_000).step_by(1_000) {
        let offsets = (first..first + 1_000).map(|partition| OffsetToCommit { partition, ..one.clone() }).collect();
        let commit = Commit { offsets, ..commit(&member, 5) };
        assert_eq!(broker.groups.commit_offsets("g", commit).await, CommitAnswer::Stored(Ok(())));
    }
    let leaving = Leaving { member_id: Arc::clone(&member.member_id), group_instance_id: None, reason: None };
    assert_eq!(broker.groups.leave("g", &[leaving]), Ok(vec![Ok(())]));
    log.refuse_longer_than(100_000);
    let before = log.batch_count();
    assert_eq!(broker.groups.delete("g"), Ok(()));
    log.until_batches(before + 201).await;
    assert_eq!(left_after_a_restart(&log).await, 0);
}

/// The same leader is elected again while an append waits for the disk.
#[tokio::test(start_paused = true)]
async fn a_shard_that_is_elected_again_goes_on_though_an_append_of_before_is_refused() {
    let log = Arc::new(MemoryLog::default());
    let broker = elected(&log, settings()).await;
    log.hold_up(true);
    let late = store(&broker, 1);
    tokio::time::sleep(Duration::from_millis(1)).await;
    log.lead(2);
    broker.elect(2);
    tokio::time::sleep(Duration::from_millis(1)).await;
    log.disk.add_permits(2);
    assert_eq!(late.await.expect("no panic"), CommitAnswer::Stored(Err(GroupError::NotCoordinator)));
    assert_eq!(store(&broker, 2).await.expect("no panic"), CommitAnswer::Stored(Ok(())));
    assert_eq!(broker.committed("g"), Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_commit_waits_for_the_replicas_and_nobody_reads_it_before() {
    let log = Arc::new(MemoryLog::default());
    let broker = elected(&log, settings()).await;
    log.be_slow();
    let groups = Arc::clone(&broker.groups);
    let committing = tokio::spawn(async move { groups.commit_offsets("g", commit(&nobody(), 5)).await });
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(broker.committed("g"), None);
    assert!(log.finish(None));
    assert_eq!(committing.await.expect("no panic"), CommitAnswer::Stored(Ok(())));
    assert_eq!(broker.committed("g"), Some(5));

    let groups = Arc::clone(&broker.groups);
    let committing = tokio::spawn(async move { groups.commit_offsets("g", commit(&nobody(), 6)).await });
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(log.finish(Some(AppendFailure::NotEnoughReplicasAfterAppend)));
    let answer = committing.await.expect("no panic");
    assert_eq!(answer, CommitAnswer::Stored(Err(GroupError::CoordinatorNotAvailable)));
    assert_eq!(broker.committed("g"), Some(5));
}

#[tokio::test(start_paused = true)]
async fn an_assignment_that_cannot_be_stored_sends_the_group_back_to_join() {
    let log = Arc::new(MemoryLog::default());
    let broker = elected(&log, settings()).await;
    let joined = broker.groups.join("g", join("")).await;
    log.fail_with(Some(AppendFailure::NotEnoughReplicas));
    let answer = broker.groups.sync("g", sync(&caller(&joined), Vec::new())).await;
    assert_eq!(answer, Err(GroupError::CoordinatorNotAvailable));
    assert_eq!(broker.state("g"), Some(GroupState::PreparingRebalance));
    log.fail_with(None);
    let joined = broker.groups.join("g", join(&joined.member_id)).await;
    assert_eq!((joined.error, joined.generation_id), (None, GenerationId(2)));
}

#[tokio::test(start_paused = true)]
async fn a_silent_member_is_removed_after_its_session_and_a_beating_one_is_not() {
    let log = Arc::new(MemoryLog::default());
    let broker = elected(&log, settings()).await;
    let silent = broker.join_and_sync("silent").await;
    let beating = broker.join_and_sync("beating").await;
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(broker.groups.heartbeat("beating", &beating), Ok(()));
    }
    assert_eq!(broker.groups.heartbeat("silent", &silent), Err(GroupError::UnknownMemberId));
    assert_eq!(broker.state("silent"), Some(GroupState::Empty));
    assert_eq!(broker.state("beating"), Some(GroupState::Stable));
}

#[tokio::test(start_paused = true)]
async fn a_handed_out_member_id_must_be_used_within_a_session() {
    let log = Arc::new(MemoryLog::default());
    let broker = elected(&log, settings()).await;
    let asked = broker.groups.join("g", Join { require_known_member_id: true, ..join("") }).await;
    assert_eq!(asked.error, Some(GroupError::MemberIdRequired));
    tokio::time::sleep(Duration::from_secs(11)).await;
    let late = broker.groups.join("g", join(&asked.member_id)).await;
    assert_eq!(late.error, Some(GroupError::UnknownMemberId));
}

#[tokio::test(start_paused = true)]
async fn expired_and_deleted_offsets_stay_away_after_a_restart() {
    let log = Arc::new(MemoryLog::default());
    let broker = elected(&log, settings()).await;
    let member = broker.join_and_sync("deleted").await;
    for group in ["deleted", "topic gone"] {
        let caller = if group == "deleted" { member.clone() } else { nobody() };
        assert_eq!(broker.groups.commit_offsets(group, commit(&caller, 5)).await, CommitAnswer::Stored(Ok(())));
    }
    let mut shown = 0;
    let one = |_: GroupOverview<'_>| {
        shown += 1;
        Err("enough")
    };
    assert_eq!((broker.groups.list(one), shown), (Ok(Err("enough")), 1), "nothing is shown to who has seen enough");
    assert_eq!(broker.groups.delete("deleted"), Err(GroupError::NonEmptyGroup));
    let leaving = Leaving { member_id: member.member_id, group_instance_id: None, reason: None };
    assert_eq!(broker.groups.leave("deleted", &[leaving]), Ok(vec![Ok(())]));
    assert_eq!(broker.groups.delete("deleted"), Ok(()));
    assert_eq!(broker.groups.delete("deleted"), Err(GroupError::GroupIdNotFound));
    broker.groups.partitions_deleted(&[TopicPartition::new("orders", 0)]);
    let nothing = |_: GroupOverview<'_>| Err("a group is left");
    assert_eq!(broker.groups.list(nothing), Ok(Ok(false)));

    let after = elected(&log, settings()).await;
    assert_eq!(after.groups.list(nothing), Ok(Ok(false)));
}

/// 1,000 members join, get their assignment, beat and rejoin; the time of a real clock is printed.
#[tokio::test]
async fn a_group_of_a_thousand_members_works() {
    let log = Arc::new(MemoryLog::default());
    let broker = elected(&log, GroupConfig { group_initial_rebalance_delay_ms: 200, ..settings() }).await;
    let started = std::time::Instant::now();
    let mut joining = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let groups = Arc::clone(&broker.groups);
        joining.spawn(async move { groups.join("g", join("")).await });
    }
    let mut joined = joining.join_all().await;
    joined.sort_by_key(|answer| answer.members.is_empty());
    let [leader, followers @ ..] = &joined[..] else { panic!("nobody joined") };
    assert_eq!((leader.members.len(), followers.len()), (1000, 999));
    assert!(followers.iter().all(|answer| answer.generation_id == leader.generation_id && answer.error.is_none()));
    let mut syncing = tokio::task::JoinSet::new();
    for answer in &joined {
        let (groups, caller) = (Arc::clone(&broker.groups), caller(answer));
        let assignments = answer.members.iter().map(|member| (Arc::clone(&member.member_id), Bytes::from_static(b"p")));
        let sync = sync(&caller, assignments.collect());
        syncing.spawn(async move { groups.sync("g", sync).await });
    }
    assert!(syncing.join_all().await.iter().all(|synced| synced.as_ref().is_ok_and(|s| s.assignment == "p")));
    let stable = started.elapsed();
    let callers: Vec<Caller> = joined.iter().map(caller).collect();
    let beating = std::time::Instant::now();
    for _ in 0..20 {
        assert!(callers.iter().all(|caller| broker.groups.heartbeat("g", caller).is_ok()));
    }
    println!("1000 members: stable after {stable:?}, a heartbeat takes {:?}", beating.elapsed() / 20_000);
}

/// It may have read to the end before the marker came.
#[tokio::test]
async fn a_marker_is_not_heard_while_the_partition_is_loaded() {
    let broker = start(&Arc::default(), settings());
    let hears = || broker.groups.transaction_ended(0, ProducerId(7), TransactionOutcome::Commit, Offset(3));
    assert!(hears(), "whoever loads it later reads the marker");
    let shards = broker.groups.shards();
    let load = shards.start_load(0, LeaderEpoch(1)).expect("nobody has loaded it");
    assert!(!hears());
    shards.load(0, LeaderEpoch(1), load);
    assert!(hears());
}

#[tokio::test]
async fn offsets_of_a_topic_that_is_deleted_while_they_are_loaded_are_gone() {
    let log = Arc::new(MemoryLog::default());
    let before = elected(&log, settings()).await;
    assert_eq!(before.groups.commit_offsets("g", commit(&nobody(), 5)).await, CommitAnswer::Stored(Ok(())));
    let orders = TopicPartition::new("orders", 0);
    let is_there = |broker: &Broker| {
        let found = |_: GroupOverview<'_>| Err(());
        broker.groups.list(found).expect("it is active").is_err()
    };
    let broker = start(&log, settings());
    let shards = broker.groups.shards();

    // That load comes to nothing, and the next one may read what was committed since.
    let load = shards.start_load(0, LeaderEpoch(2)).expect("nobody has loaded it");
    broker.groups.partitions_deleted(std::slice::from_ref(&orders));
    shards.resign(0, Some(LeaderEpoch(3)));
    shards.load(0, LeaderEpoch(2), load);
    let load = shards.start_load(0, LeaderEpoch(4)).expect("nobody has loaded it");
    shards.load(0, LeaderEpoch(4), load);
    assert!(is_there(&broker));
    shards.resign(0, Some(LeaderEpoch(5)));

    let load = shards.start_load(0, LeaderEpoch(6)).expect("nobody has loaded it");
    broker.groups.partitions_deleted(&[TopicPartition::new("orders", 1)]);
    broker.groups.partitions_deleted(&[orders]);
    shards.load(0, LeaderEpoch(6), load);
    assert!(!is_there(&broker));
    assert_eq!(broker.groups.census().bytes, 0, "what is gone is not counted");
    assert!(!is_there(&elected(&log, settings()).await), "nor does it come back");
}

fn store(broker: &Broker, offset: i64) -> tokio::task::JoinHandle<CommitAnswer> {
    let groups = Arc::clone(&broker.groups);
    tokio::spawn(async move { groups.commit_offsets("g", commit(&nobody(), offset)).await })
}

#[tokio::test(start_paused = true)]
async fn a_shard_whose_append_is_refused_for_its_epoch_speaks_no_more_until_it_is_elected_again() {
    let log = Arc::new(MemoryLog::default());
    log.lead(5);
    let broker = start(&log, settings());
    broker.elect(5);
    broker.until_serving().await;
    assert_eq!(store(&broker, 1).await.expect("no panic"), CommitAnswer::Stored(Ok(())));
    let first = broker.groups.join("joining", join("")).await;
    assert_eq!(first.error, None);
    let groups = Arc::clone(&broker.groups);
    let waiting = tokio::spawn(async move { groups.join("joining", join("")).await });
    broker.until_state("joining", GroupState::PreparingRebalance).await;

    // Another leader has come and gone, and no news of it is here yet.
    log.lead(7);
    let refused = CommitAnswer::Stored(Err(GroupError::NotCoordinator));
    assert_eq!(store(&broker, 2).await.expect("no panic"), refused);
    assert_eq!(broker.groups.describe("g"), Err(GroupError::NotCoordinator));
    assert_eq!(waiting.await.expect("no panic").error, Some(GroupError::NotCoordinator));
    assert_eq!(store(&broker, 3).await.expect("no panic"), CommitAnswer::Refused(GroupError::NotCoordinator));
    assert_eq!(broker.groups.counters().shards.fenced.load(Ordering::Relaxed), 1);

    broker.resign(6);
    broker.elect(7);
    broker.until_serving().await;
    assert_eq!(broker.committed("g"), Some(1));
    assert_eq!(broker.state("joining"), None, "it was never stored");
    assert_eq!(store(&broker, 4).await.expect("no panic"), CommitAnswer::Stored(Ok(())));
    assert_eq!(broker.committed("g"), Some(4));
}

#[tokio::test(start_paused = true)]
async fn the_late_end_of_an_append_of_an_earlier_epoch_revives_and_loses_nothing() {
    let outcomes = [None, Some(AppendFailure::NotLeaderOrFollower), Some(AppendFailure::TimedOut)];
    for (is_kept, late) in [true, false].into_iter().flat_map(|kept| outcomes.map(|late| (kept, late))) {
        let log = Arc::new(MemoryLog::default());
        log.lead(5);
        let broker = start(&log, settings());
        broker.elect(5);
        broker.until_serving().await;
        assert_eq!(store(&broker, 1).await.expect("no panic"), CommitAnswer::Stored(Ok(())));
        log.be_slow();
        let under_way = store(&broker, 9);
        while log.state.lock().expect("no test panics here").waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        broker.resign(6);
        let answer = under_way.await.expect("no panic");
        assert_eq!(answer, CommitAnswer::Stored(Err(GroupError::NotCoordinator)), "nobody knows its fate yet");
        if !is_kept {
            log.truncate_last();
        }
        log.lead(7);
        log.be_fast();
        broker.elect(7);
        broker.until_serving().await;
        assert_eq!(broker.committed("g"), Some(if is_kept { 9 } else { 1 }), "what the log says");
        assert!(log.finish(late));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(broker.committed("g"), Some(if is_kept { 9 } else { 1 }), "{late:?}");
        assert_eq!(store(&broker, 10).await.expect("no panic"), CommitAnswer::Stored(Ok(())), "{late:?}");
        assert_eq!(broker.committed("g"), Some(10));
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_replicas_that_ends_with_the_leadership_ends_the_shard_too() {
    let log = Arc::new(MemoryLog::default());
    let broker = elected(&log, settings()).await;
    log.be_slow();
    let under_way = store(&broker, 9);
    while log.state.lock().expect("no test panics here").waiting.is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(log.finish(Some(AppendFailure::NotLeaderOrFollower)));
    assert_eq!(under_way.await.expect("no panic"), CommitAnswer::Stored(Err(GroupError::NotCoordinator)));
    assert_eq!(broker.groups.describe("g"), Err(GroupError::NotCoordinator));
}

#[tokio::test(start_paused = true)]
async fn elected_again_without_a_break_the_shard_keeps_what_it_has() {
    let log = Arc::new(MemoryLog::default());
    log.lead(5);
    let broker = start(&log, settings());
    broker.elect(5);
    broker.until_serving().await;
    let member = broker.join_and_sync("g").await;
    log.lead(7);
    broker.elect(7);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(broker.groups.commit_offsets("g", commit(&member, 3)).await, CommitAnswer::Stored(Ok(())));
    assert_eq!(broker.groups.counters().shards.loads.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_connection_hung_up_is_parked_no_longer_and_its_member_stays() {
    let log = Arc::new(MemoryLog::default());
    let broker = elected(&log, settings()).await;
    assert_eq!(broker.groups.join("g", join("")).await.error, None);
    let groups = Arc::clone(&broker.groups);
    let hanging_up = tokio::spawn(async move { groups.join("g", join("")).await });
    broker.until_state("g", GroupState::PreparingRebalance).await;
    assert_eq!(broker.groups.parked_count(), 1);
    hanging_up.abort();
    assert!(hanging_up.await.expect_err("it was aborted").is_cancelled());
    assert_eq!(broker.groups.parked_count(), 0);
    assert_eq!(broker.groups.census().members, 2);
}

fn join_with_metadata(member_id: &str, bytes: usize) -> Join {
    let mut metadata = vec![0; 10];
    metadata.resize(bytes, 1);
    Join { protocols: vec![Protocol { name: Arc::from("range"), metadata: metadata.into() }], ..join(member_id) }
}

#[tokio::test(start_paused = true)]
async fn the_metadata_of_a_groups_members_is_bounded_and_who_is_there_stays() {
    let log = Arc::new(MemoryLog::default());
    let limits = GroupConfig { group_max_metadata_bytes: 20_000, ..settings() };
    let broker = elected(&log, limits).await;
    let first = broker.groups.join("g", join_with_metadata("", 10_000)).await;
    assert_eq!(first.error, None);
    let refused = broker.groups.join("g", join_with_metadata("", 10_000)).await;
    assert_eq!(refused.error, Some(GroupError::GroupMaxSizeReached));
    let grown = broker.groups.join("g", join_with_metadata(&first.member_id, 30_000)).await;
    assert_eq!(grown.error, Some(GroupError::GroupMaxSizeReached));
    assert_eq!(broker.groups.heartbeat("g", &caller(&first)), Ok(()));
    // What the leader assigns counts too.
    let assignments = vec![(Arc::clone(&first.member_id), Bytes::from(vec![0; 10_000]))];
    let synced = broker.groups.sync("g", sync(&caller(&first), assignments)).await;
    assert_eq!(synced, Err(GroupError::UnknownServerError), "as when a record of the group is too large to be stored");
    let again = broker.groups.join("g", join_with_metadata(&first.member_id, 10_000)).await;
    let assignments = vec![(Arc::clone(&first.member_id), Bytes::from(vec![0; 5_000]))];
    assert!(broker.groups.sync("g", sync(&caller(&again), assignments)).await.is_ok());
    assert!(broker.groups.census().bytes < 22_000, "{:?}", broker.groups.census());
}

#[tokio::test(start_paused = true)]
async fn all_groups_together_are_bounded_and_those_that_are_there_go_on() {
    const LIMIT: u64 = 200_000;
    let log = Arc::new(MemoryLog::default());
    let limits = GroupConfig { group_coordinator_max_bytes: LIMIT, ..settings() };
    let broker = elected(&log, limits).await;
    let member = broker.join_and_sync("real").await;
    assert_eq!(broker.groups.commit_offsets("real", commit(&member, 1)).await, CommitAnswer::Stored(Ok(())));
    let (mut joined, mut refused) = (Vec::new(), 0);
    for stranger in 0..300 {
        let group = format!("stranger-{stranger}");
        let answer = broker.groups.join(&group, join_with_metadata("", 1_000)).await;
        match answer.error {
            Some(error) => refused += usize::from(error == GroupError::GroupMaxSizeReached),
            None => joined.push((group, caller(&answer))),
        }
        assert!(broker.groups.census().bytes <= LIMIT, "{:?}", broker.groups.census());
    }
    assert!((100..300).contains(&refused), "{refused}");
    assert!(broker.groups.census().bytes > LIMIT - 5_000, "{:?}", broker.groups.census());
    for (group, stranger) in &joined {
        let assignments = vec![(Arc::clone(&stranger.member_id), Bytes::from(vec![0; 5_000]))];
        let synced = broker.groups.sync(group, sync(stranger, assignments)).await;
        assert!(broker.groups.census().bytes <= LIMIT, "{:?}", broker.groups.census());
        assert_eq!(synced, Err(GroupError::UnknownServerError), "as when its group has too much for itself");
    }
    for stranger in 0..30 {
        let answer = broker.groups.commit_offsets(&format!("new-{stranger}"), commit(&nobody(), 1)).await;
        if stranger >= 10 {
            assert_eq!(answer, CommitAnswer::Refused(GroupError::InvalidCommitOffsetSize));
        }
    }
    assert_eq!(broker.groups.commit_offsets("real", commit(&member, 2)).await, CommitAnswer::Stored(Ok(())));
    assert_eq!(broker.groups.heartbeat("real", &member), Ok(()));
    let again = broker.groups.join("real", join(&member.member_id)).await;
    assert_eq!(again.error, None);
    let assignments = vec![(Arc::clone(&again.member_id), Bytes::from_static(b"all of it"))];
    assert!(broker.groups.sync("real", sync(&caller(&again), assignments)).await.is_ok(), "as much as it has");
    // The strangers are silent, so their sessions end and the round that follows makes room.
    for _ in 0..150 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let _ = broker.groups.heartbeat("real", &caller(&again));
    }
    assert_eq!(broker.groups.join("newcomer", join("")).await.error, None);
}

#[tokio::test(start_paused = true)]
async fn assignments_on_their_way_into_the_log_are_counted() {
    const LIMIT: u64 = 200_000;
    let log = Arc::new(MemoryLog::default());
    let limits = GroupConfig { group_coordinator_max_bytes: LIMIT, ..settings() };
    let broker = elected(&log, limits).await;
    log.be_slow();
    let mut syncing = tokio::task::JoinSet::new();
    for stranger in 0..50 {
        let group = format!("stranger-{stranger}");
        let stranger = caller(&broker.groups.join(&group, join("")).await);
        let assignments = vec![(Arc::clone(&stranger.member_id), Bytes::from(vec![0; 5_000]))];
        let groups = Arc::clone(&broker.groups);
        syncing.spawn(async move { groups.sync(&group, sync(&stranger, assignments)).await.is_ok() });
    }
    // The clock goes on once all of them wait.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(broker.groups.census().bytes > LIMIT - 10_000, "{:?}", broker.groups.census());
    while log.finish(None) {}
    let stored = syncing.join_all().await.into_iter().filter(|is_stored| *is_stored).count();
    assert!((10..50).contains(&stored), "{stored}");
    assert!(broker.groups.census().bytes <= LIMIT, "{:?}", broker.groups.census());
}

/// Asks for a member id, under which nobody joins.
async fn hand_out(broker: &Broker, group: &str) -> Arc<str> {
    let asking = Join { require_known_member_id: true, session_timeout_ms: 1_800_000, ..join("") };
    let asked = broker.groups.join(group, asking).await;
    assert_eq!(asked.error, Some(GroupError::MemberIdRequired));
    asked.member_id
}

#[tokio::test(start_paused = true)]
async fn a_member_id_that_is_not_waited_for_any_more_is_not_held_and_takes_no_place() {
    let log = Arc::new(MemoryLog::default());
    let limits = GroupConfig { group_max_pending_members: 50 * 100, ..settings() };
    let broker = elected(&log, limits).await;
    let waits = hand_out(&broker, "g").await;
    for round in 0..300 {
        let gone = hand_out(&broker, "h").await;
        match round % 3 {
            0 => {
                let member_id = Arc::from(&*gone);
                let leaving = Leaving { member_id, group_instance_id: None, reason: None };
                assert_eq!(broker.groups.leave("h", &[leaving]), Ok(vec![Ok(())]));
            }
            1 => assert_eq!(broker.groups.delete("h"), Ok(())),
            _ => {
                assert_eq!(broker.groups.join("h", join(&gone)).await.error, None);
                let leaving = Leaving { member_id: Arc::from(&*gone), group_instance_id: None, reason: None };
                assert_eq!(broker.groups.leave("h", &[leaving]), Ok(vec![Ok(())]));
                assert_eq!(broker.groups.delete("h"), Ok(()));
            }
        }
        assert_eq!(Arc::strong_count(&gone), 1, "round {round}");
    }
    assert_eq!(broker.groups.counters().pending_members_evicted.load(Ordering::Relaxed), 0);
    assert_eq!(broker.groups.join("g", join(&waits)).await.error, None);
}

#[tokio::test(start_paused = true)]
async fn member_ids_that_nobody_joins_with_are_taken_back_the_oldest_first_and_their_groups_with_them() {
    let log = Arc::new(MemoryLog::default());
    // For each of the 50 partitions that the topic is said to have.
    let limits = GroupConfig { group_max_pending_members: 50 * 100, ..settings() };
    let broker = elected(&log, limits).await;
    let asking = || Join { require_known_member_id: true, session_timeout_ms: 1_800_000, ..join("") };
    let mut handed_out = Vec::new();
    for stranger in 0..5_000 {
        let asked = broker.groups.join(&format!("g-{stranger}"), asking()).await;
        assert_eq!(asked.error, Some(GroupError::MemberIdRequired));
        handed_out.push(asked.member_id);
    }
    assert_eq!(broker.groups.census().groups, 100);
    assert!(broker.groups.census().bytes < 200_000, "{:?}", broker.groups.census());
    let late = broker.groups.join("g-0", join(&handed_out[0])).await;
    assert_eq!(late.error, Some(GroupError::UnknownMemberId));
    let in_time = broker.groups.join("g-4999", join(&handed_out[4_999])).await;
    assert_eq!(in_time.error, None);
    // Joined with long ago, an id is no longer pending, however many are handed out after it.
    for stranger in 0..200 {
        broker.groups.join(&format!("h-{stranger}"), asking()).await;
    }
    assert_eq!(broker.groups.heartbeat("g-4999", &caller(&in_time)), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_leaves_nothing_leaves_no_group() {
    let log = Arc::new(MemoryLog::default());
    let broker = elected(&log, GroupConfig { offset_metadata_max_bytes: 1, ..settings() }).await;
    let joined = broker.groups.join("a", Join { protocols: Vec::new(), ..join("") }).await;
    assert_eq!(joined.error, Some(GroupError::InconsistentGroupProtocol));
    let mut commit = commit(&nobody(), 1);
    commit.offsets[0].committed.metadata = Arc::from("too long");
    assert_eq!(broker.groups.commit_offsets("b", commit).await, CommitAnswer::Stored(Ok(())));
    let asked = broker.groups.join("c", Join { require_known_member_id: true, ..join("") }).await;
    assert_eq!(broker.groups.census().groups, 1);
    let leaving = Leaving { member_id: asked.member_id, group_instance_id: None, reason: None };
    assert_eq!(broker.groups.leave("c", &[leaving]), Ok(vec![Ok(())]));
    assert_eq!(broker.groups.census(), Default::default());
}
