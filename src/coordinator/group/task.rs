//! The shell of the group coordinator: locks, timers, the log, elections.
//!
//! Each partition of `__consumer_offsets` is a shard: a mutex around its groups, its timers and the requests that wait.
//! A request takes the lock of its shard, runs the core and performs the actions, append included, on the task of its
//! connection. A task per shard, fed by a channel, was the alternative: it would cost every heartbeat and every commit
//! two hops between threads, which is more than the work itself, and order nothing that the lock does not. One task
//! (`run`) does what no request does: timers, appends that wait for replicas, elections, expiry.
//!
//! Locks: shard, then (inside the append) partition and log. No lock is held across an await. A panic under the lock
//! poisons it, and the task stops with it: half-applied state must not serve.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::config::sections::GroupConfig;
use crate::coordinator::group::error::GroupError;
use crate::coordinator::group::groups::Groups;
use crate::coordinator::group::offsets::GroupOffsets;
use crate::coordinator::group::records;
use crate::coordinator::group::records::GroupRecord;
use crate::coordinator::group::replay::Replay;
use crate::coordinator::group::requests::{Caller, Commit, CommitAnswer, Join, JoinAnswer, Leaving, Sync, SyncAnswer};
use crate::coordinator::group::state::{GroupDescription, GroupState};
use crate::coordinator::group::timers::TimerQueue;
use crate::coordinator::group::turn::{Action, AppendId, Now, ReplyTo, Turn};
use crate::coordinator::partitioner::partition_for;
use crate::coordinator::topic_log::{AppendFailure, AppendOutcome, Appending, CoordinatorLog, read_partition};
use crate::model::clock::wall_clock_ms;
use crate::model::internal_topics::GROUP_METADATA_TOPIC;
use crate::model::{LeaderEpoch, Offset, ProducerId, TopicPartition};
use crate::record::build::{BatchBuilder, ControlRecord, TransactionOutcome};
use crate::record::compression::Codec;
use crate::record::read::ReadBatch;

/// How many partitions are read at once after an election; each takes a buffer of `offsets.load.buffer.size`.
const CONCURRENT_LOADS: usize = 4;

/// What the replicas report of a partition of `__consumer_offsets`. Reports of one partition come in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardEvent {
    /// This broker leads the partition, from this epoch on.
    Elected { partition: i32, leader_epoch: LeaderEpoch },
    /// This broker no longer leads the partition; without an epoch, because its replica was deleted.
    Resigned { partition: i32, leader_epoch: Option<LeaderEpoch> },
}

/// The handle of the group coordinator.
pub struct GroupCoordinator {
    settings: GroupConfig,
    codec: Codec,
    log: Arc<dyn CoordinatorLog>,
    /// One for each partition of the topic, as many as it had when the broker started.
    shards: Box<[Mutex<Shard>]>,
    /// False once the broker shuts down.
    active: AtomicBool,
    waiting_appends: mpsc::UnboundedSender<WaitingAppend>,
    /// Taken by `run`.
    waiting_appends_taker: Mutex<Option<mpsc::UnboundedReceiver<WaitingAppend>>>,
    alarm: Alarm,
}

/// One partition of `__consumer_offsets`.
struct Shard {
    partition: i32,
    ownership: Ownership,
    /// The latest leader epoch heard of: reports of older ones are history.
    leader_epoch: Option<LeaderEpoch>,
    /// Counts the loads, so that one that was overtaken is not taken for the current one.
    load: u64,
    groups: Groups,
    timers: TimerQueue,
    /// The requests that wait. Bounded by the connections, each of which waits for one at most.
    parked: HashMap<ReplyTo, oneshot::Sender<Answer>>,
    next_reply: u64,
    next_append: u64,
    /// Empty between turns; kept for its memory.
    actions: VecDeque<Action>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ownership {
    NotOwned,
    Loading,
    Owned,
}

#[derive(Debug)]
enum Answer {
    Join(JoinAnswer),
    Sync(SyncAnswer),
    Commit(CommitAnswer),
}

/// What became of a request that may have to wait.
enum Asked {
    Answered(Answer),
    Waits(oneshot::Receiver<Answer>),
}

impl Asked {
    /// `None` if the broker shuts down before there is an answer.
    async fn answer(self) -> Option<Answer> {
        match self {
            Asked::Answered(answer) => Some(answer),
            Asked::Waits(answer) => answer.await.ok(),
        }
    }
}

struct WaitingAppend {
    partition: i32,
    group: Arc<str>,
    append: AppendId,
    outcome: Pin<Box<dyn Future<Output = AppendOutcome> + Send>>,
}

/// A group as ListGroups shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupOverview {
    pub(crate) group_id: Arc<str>,
    pub(crate) protocol_type: String,
    pub(crate) state: GroupState,
}

/// When the task will look at the timers next, so that whoever starts an earlier one can wake it.
struct Alarm {
    origin: Instant,
    /// Nanoseconds after `origin`; `u64::MAX` for never.
    next: AtomicU64,
    earlier: Notify,
}

impl Alarm {
    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX)
    }

    fn set_no_later_than(&self, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return };
        let nanos = self.nanos(deadline);
        if nanos < self.next.load(Ordering::Relaxed) && nanos < self.next.fetch_min(nanos, Ordering::AcqRel) {
            self.earlier.notify_one();
        }
    }
}

fn now() -> Now {
    Now { instant: tokio::time::Instant::now().into_std(), wall_ms: wall_clock_ms() }
}

impl Shard {
    fn new(partition: i32) -> Shard {
        Shard {
            partition,
            ownership: Ownership::NotOwned,
            leader_epoch: None,
            load: 0,
            groups: Groups::default(),
            timers: TimerQueue::default(),
            parked: HashMap::new(),
            next_reply: 0,
            next_append: 0,
            actions: VecDeque::new(),
        }
    }

    /// True if the epoch is not older than the latest heard of, which it then becomes.
    fn hears_of(&mut self, leader_epoch: Option<LeaderEpoch>) -> bool {
        if leader_epoch.is_some() && leader_epoch < self.leader_epoch {
            return false;
        }
        self.leader_epoch = leader_epoch.or(self.leader_epoch);
        true
    }

    fn answer(&mut self, reply: ReplyTo, answer: Answer) {
        if let Some(parked) = self.parked.remove(&reply) {
            // Who asked may have hung up.
            let _ = parked.send(answer);
        }
    }
}

impl GroupCoordinator {
    /// `partition_count` is what `__consumer_offsets` has in ZooKeeper, or will have when it is created.
    pub fn new(settings: GroupConfig, partition_count: i32, log: Arc<dyn CoordinatorLog>) -> Arc<GroupCoordinator> {
        let codec = u8::try_from(settings.offsets_topic_compression_codec).ok().and_then(Codec::from_id);
        let (waiting_appends, taker) = mpsc::unbounded_channel();
        Arc::new(GroupCoordinator {
            settings,
            codec: codec.unwrap_or(Codec::None),
            log,
            shards: (0..partition_count.max(1)).map(|partition| Mutex::new(Shard::new(partition))).collect(),
            active: AtomicBool::new(true),
            waiting_appends,
            waiting_appends_taker: Mutex::new(Some(taker)),
            alarm: Alarm {
                origin: tokio::time::Instant::now().into_std(),
                next: AtomicU64::new(u64::MAX),
                earlier: Notify::new(),
            },
        })
    }

    pub(crate) fn settings(&self) -> &GroupConfig {
        &self.settings
    }

    /// The partition of `__consumer_offsets` whose leader coordinates the group.
    pub fn partition_for(&self, group_id: &str) -> i32 {
        partition_for(group_id, i32::try_from(self.shards.len()).unwrap_or(i32::MAX))
    }

    fn shard(&self, partition: i32) -> Option<MutexGuard<'_, Shard>> {
        let shard = self.shards.get(usize::try_from(partition).ok()?)?;
        Some(shard.lock().expect("a shard that panicked must not serve"))
    }

    /// The shard of the group, if this broker may speak for it now.
    fn shard_of(&self, group_id: &str) -> Result<MutexGuard<'_, Shard>, GroupError> {
        if !self.active.load(Ordering::Acquire) {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        let shard = self.shard(self.partition_for(group_id)).ok_or(GroupError::NotCoordinator)?;
        match shard.ownership {
            Ownership::Owned => Ok(shard),
            Ownership::Loading => Err(GroupError::CoordinatorLoadInProgress),
            Ownership::NotOwned => Err(GroupError::NotCoordinator),
        }
    }

    /// The same for requests that need a name: groups that manage their members cannot do without.
    fn shard_of_named(&self, group_id: &str) -> Result<MutexGuard<'_, Shard>, GroupError> {
        if group_id.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        self.shard_of(group_id)
    }

    /// Runs one step of the core and performs what comes of it. Answers to `mine` are returned.
    fn step<R>(
        &self,
        shard: &mut Shard,
        mine: Option<ReplyTo>,
        step: impl FnOnce(&mut Groups, &mut Turn<'_>) -> R,
    ) -> (R, Option<Answer>) {
        let now = now();
        let Shard { groups, actions, next_append, .. } = shard;
        let result = step(groups, &mut Turn { now, settings: &self.settings, actions, next_append });
        let mut answered = None;
        while let Some(action) = shard.actions.pop_front() {
            let (reply, answer) = match action {
                Action::AnswerJoin(reply, answer) => (reply, Answer::Join(answer)),
                Action::AnswerSync(reply, answer) => (reply, Answer::Sync(answer)),
                Action::AnswerCommit(reply, answer) => (reply, Answer::Commit(answer)),
                other => {
                    self.perform(shard, other, now);
                    continue;
                }
            };
            if mine == Some(reply) {
                answered = Some(answer);
            } else {
                shard.answer(reply, answer);
            }
        }
        self.alarm.set_no_later_than(shard.timers.next_deadline());
        (result, answered)
    }

    fn perform(&self, shard: &mut Shard, action: Action, now: Now) {
        match action {
            Action::Append { group, append, records } => {
                let required_acks = self.settings.offsets_commit_required_acks;
                match self.append(shard.partition, &group, &records, required_acks, now) {
                    Appending::Done(outcome) => {
                        let Shard { groups, actions, next_append, .. } = shard;
                        let mut turn = Turn { now, settings: &self.settings, actions, next_append };
                        groups.appended(&group, append, outcome, &mut turn);
                    }
                    Appending::Waiting(outcome) => {
                        let waiting = WaitingAppend { partition: shard.partition, group, append, outcome };
                        // Without the task there is nobody left to answer either.
                        let _ = self.waiting_appends.send(waiting);
                    }
                }
            }
            Action::Forget { group, records } => {
                if let Appending::Done(Err(failure)) = self.append(shard.partition, &group, &records, 0, now) {
                    log::error!(
                        "Failed to append {} tombstones to {GROUP_METADATA_TOPIC}-{} for expired/deleted offsets \
                         and/or metadata for group {group}: {failure}",
                        records.len(),
                        shard.partition
                    );
                }
            }
            Action::StartTimer(key, deadline) => shard.timers.start(key, deadline),
            Action::CancelTimer(key) => shard.timers.cancel(&key),
            Action::AnswerJoin(..) | Action::AnswerSync(..) | Action::AnswerCommit(..) => {
                unreachable!("step keeps the answers to itself")
            }
        }
    }

    fn append(
        &self,
        partition: i32,
        group: &Arc<str>,
        group_records: &[GroupRecord],
        required_acks: i16,
        now: Now,
    ) -> Appending {
        let mut batch = BatchBuilder::new().compression(self.codec, None);
        for record in group_records {
            match records::encode(group, record, self.settings.inter_broker_protocol_version) {
                Ok(encoded) => batch.append(now.wall_ms, Some(&encoded.key), encoded.value.as_deref(), &[]),
                Err(error) => {
                    log::error!("a record of group {group} cannot be written: {error}");
                    return Appending::Done(Err(AppendFailure::Unexpected));
                }
            }
        }
        let timeout = Duration::from_millis(u64::try_from(self.settings.offsets_commit_timeout_ms).unwrap_or(0));
        self.log.append(partition, batch.build(), required_acks, timeout)
    }

    /// One step whose request may have to wait. The lock is free again when this returns.
    fn ask(&self, mut shard: MutexGuard<'_, Shard>, step: impl FnOnce(&mut Groups, ReplyTo, &mut Turn<'_>)) -> Asked {
        let reply = ReplyTo(shard.next_reply);
        shard.next_reply += 1;
        let ((), answered) = self.step(&mut shard, Some(reply), |groups, turn| step(groups, reply, turn));
        match answered {
            Some(answer) => Asked::Answered(answer),
            None => {
                let (parked, answer) = oneshot::channel();
                shard.parked.insert(reply, parked);
                Asked::Waits(answer)
            }
        }
    }

    // What the requests ask for

    pub(crate) async fn join(&self, group_id: &str, join: Join) -> JoinAnswer {
        let member_id = Arc::clone(&join.member_id);
        let shard = match self.shard_of_named(group_id) {
            Ok(shard) => shard,
            Err(error) => return JoinAnswer::refused(member_id, error),
        };
        let asked = self.ask(shard, |groups, reply, turn| groups.join(group_id, join, reply, turn));
        match asked.answer().await {
            Some(Answer::Join(answer)) => answer,
            _ => JoinAnswer::refused(member_id, GroupError::CoordinatorNotAvailable),
        }
    }

    pub(crate) async fn sync(&self, group_id: &str, sync: Sync) -> SyncAnswer {
        let shard = match self.shard_of_named(group_id) {
            Ok(shard) => shard,
            // The rebalance that the member is in was lost with the old coordinator. Older clients do not expect to
            // hear of loading here, and this makes every client join again.
            Err(GroupError::CoordinatorLoadInProgress) => return Err(GroupError::RebalanceInProgress),
            Err(error) => return Err(error),
        };
        let asked = self.ask(shard, |groups, reply, turn| groups.sync(group_id, sync, reply, turn));
        match asked.answer().await {
            Some(Answer::Sync(answer)) => answer,
            _ => Err(GroupError::CoordinatorNotAvailable),
        }
    }

    pub(crate) async fn commit_offsets(&self, group_id: &str, commit: Commit) -> CommitAnswer {
        let shard = match self.shard_of(group_id) {
            Ok(shard) => shard,
            Err(error) => return CommitAnswer::Refused(error),
        };
        let asked = self.ask(shard, |groups, reply, turn| groups.commit_offsets(group_id, commit, reply, turn));
        match asked.answer().await {
            Some(Answer::Commit(answer)) => answer,
            _ => CommitAnswer::Refused(GroupError::CoordinatorNotAvailable),
        }
    }

    pub(crate) fn heartbeat(&self, group_id: &str, caller: &Caller) -> Result<(), GroupError> {
        let mut shard = match self.shard_of_named(group_id) {
            Ok(shard) => shard,
            // Whether the member is still one will show when the group is loaded.
            Err(GroupError::CoordinatorLoadInProgress) => return Ok(()),
            Err(error) => return Err(error),
        };
        self.step(&mut shard, None, |groups, turn| groups.heartbeat(group_id, caller, turn)).0
    }

    /// One answer per leaving member, in order.
    pub(crate) fn leave(&self, group_id: &str, leaving: &[Leaving]) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        let mut shard = self.shard_of_named(group_id)?;
        self.step(&mut shard, None, |groups, turn| groups.leave(group_id, leaving, turn)).0
    }

    /// Lets `look` at the offsets of the group; `None` if there is no such group.
    pub(crate) fn with_offsets<R>(
        &self,
        group_id: &str,
        look: impl FnOnce(Option<&GroupOffsets>) -> R,
    ) -> Result<R, GroupError> {
        let shard = self.shard_of(group_id)?;
        Ok(look(shard.groups.get(group_id).map(|group| group.offsets())))
    }

    /// `None` for a group that does not exist.
    pub(crate) fn describe(&self, group_id: &str) -> Result<Option<GroupDescription>, GroupError> {
        let shard = self.shard_of(group_id)?;
        Ok(shard.groups.get(group_id).map(|group| group.description()))
    }

    /// The groups that this broker coordinates, and whether some are still being loaded.
    pub(crate) fn list(&self) -> Result<(Vec<GroupOverview>, bool), GroupError> {
        if !self.active.load(Ordering::Acquire) {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        let (mut groups, mut loading) = (Vec::new(), false);
        for shard in self.every_shard() {
            loading |= shard.ownership == Ownership::Loading;
            groups.extend(shard.groups.iter().map(|group| GroupOverview {
                group_id: Arc::clone(group.group_id()),
                protocol_type: group.protocol_type().to_owned(),
                state: group.state(),
            }));
        }
        Ok((groups, loading))
    }

    pub(crate) fn delete(&self, group_id: &str) -> Result<(), GroupError> {
        let mut shard = self.shard_of(group_id)?;
        self.step(&mut shard, None, |groups, turn| groups.delete(group_id, turn)).0
    }

    /// One answer per partition, in order.
    pub(crate) fn delete_offsets(
        &self,
        group_id: &str,
        partitions: &[(Arc<str>, i32)],
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        let mut shard = self.shard_of_named(group_id)?;
        self.step(&mut shard, None, |groups, turn| groups.delete_offsets(group_id, partitions, turn)).0
    }

    // What the cluster reports

    /// These partitions are gone, as an UpdateMetadata said.
    pub fn partitions_deleted(&self, partitions: &[TopicPartition]) {
        for mut shard in self.every_shard() {
            if shard.ownership == Ownership::Owned {
                self.step(&mut shard, None, |groups, turn| groups.forget_partitions(partitions, turn));
            }
        }
    }

    fn every_shard(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.shards.iter().map(|shard| shard.lock().expect("a shard that panicked must not serve"))
    }

    /// Offsets that nobody reads any more, groups that nobody uses any more.
    fn expire(&self) {
        for mut shard in self.every_shard() {
            if shard.ownership == Ownership::Owned {
                self.step(&mut shard, None, |groups, turn| groups.expire(turn));
            }
        }
    }

    // The task

    /// Runs until the broker shuts down: timers, appends that wait for replicas, elections, expiry.
    pub async fn run(
        self: Arc<Self>,
        mut leaderships: mpsc::UnboundedReceiver<ShardEvent>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let taker = self.waiting_appends_taker.lock().expect("nothing panics while it is held").take();
        let mut waiting_appends = taker.expect("the task is started once");
        let mut work: JoinSet<()> = JoinSet::new();
        let loads = Arc::new(Semaphore::new(CONCURRENT_LOADS));
        let check_ms = u64::try_from(self.settings.offsets_retention_check_interval_ms).unwrap_or(0).max(1);
        let mut expiry = tokio::time::interval(Duration::from_millis(check_ms));
        expiry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leaderships_open = true;
        while !*shutdown.borrow() {
            let next = self.fire_timers();
            let sleep = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                report = leaderships.recv(), if leaderships_open => match report {
                    Some(report) => self.leadership_changed(report, &mut work, &loads),
                    None => leaderships_open = false,
                },
                Some(waiting) = waiting_appends.recv() => {
                    let coordinator = Arc::clone(&self);
                    work.spawn(async move {
                        let outcome = waiting.outcome.await;
                        coordinator.appended(waiting.partition, &waiting.group, waiting.append, outcome);
                    });
                }
                Some(done) = work.join_next() => {
                    if let Err(error) = done && error.is_panic() {
                        // Not to be survived: the state behind it may be half applied.
                        std::panic::resume_unwind(error.into_panic());
                    }
                }
                _ = expiry.tick() => self.expire(),
                _ = self.alarm.earlier.notified() => {}
                () = sleep => {}
                changed = shutdown.changed() => if changed.is_err() { break },
            }
        }
        self.stop();
    }

    fn stop(&self) {
        self.active.store(false, Ordering::Release);
        // Whoever waits learns of it by its dropped channel.
        for mut shard in self.every_shard() {
            shard.parked.clear();
        }
        log::info!("[GroupCoordinator]: Shutdown complete.");
    }

    /// Fires what is due. When to look again.
    fn fire_timers(&self) -> Option<Instant> {
        // From here on, whoever starts an earlier timer than we then find wakes us.
        self.alarm.next.store(u64::MAX, Ordering::Release);
        let now = tokio::time::Instant::now().into_std();
        let mut next: Option<Instant> = None;
        for mut shard in self.every_shard() {
            while let Some(key) = shard.timers.expired(now) {
                self.step(&mut shard, None, |groups, turn| groups.timer_fired(&key, turn));
            }
            next = [next, shard.timers.next_deadline()].into_iter().flatten().min();
        }
        if let Some(next) = next {
            self.alarm.next.fetch_min(self.alarm.nanos(next), Ordering::AcqRel);
        }
        next
    }

    fn appended(&self, partition: i32, group: &str, append: AppendId, outcome: AppendOutcome) {
        if let Some(mut shard) = self.shard(partition) {
            self.step(&mut shard, None, |groups, turn| groups.appended(group, append, outcome, turn));
        }
    }

    fn leadership_changed(self: &Arc<Self>, report: ShardEvent, work: &mut JoinSet<()>, loads: &Arc<Semaphore>) {
        match report {
            ShardEvent::Elected { partition, leader_epoch } => {
                if let Some(load) = self.start_load(partition, leader_epoch) {
                    let (coordinator, loads) = (Arc::clone(self), Arc::clone(loads));
                    work.spawn(async move {
                        let _permit = loads.acquire_owned().await;
                        let loaded = tokio::task::spawn_blocking(move || {
                            coordinator.load(partition, leader_epoch, load);
                        });
                        if let Err(error) = loaded.await
                            && error.is_panic()
                        {
                            std::panic::resume_unwind(error.into_panic());
                        }
                    });
                }
            }
            ShardEvent::Resigned { partition, leader_epoch } => self.resign(partition, leader_epoch),
        }
    }

    /// The number of the load to make, if one is due.
    fn start_load(&self, partition: i32, leader_epoch: LeaderEpoch) -> Option<u64> {
        let Some(mut shard) = self.shard(partition) else {
            // Partitions beyond those counted at start belong to no group here.
            log::warn!("Elected for {GROUP_METADATA_TOPIC}-{partition}, which did not exist when the broker started");
            return None;
        };
        log::info!("Elected as the group coordinator for partition {partition} in epoch {leader_epoch}");
        if !shard.hears_of(Some(leader_epoch)) || shard.ownership != Ownership::NotOwned {
            return None;
        }
        shard.ownership = Ownership::Loading;
        shard.load += 1;
        Some(shard.load)
    }

    /// Reads the partition and takes over its groups. Blocks.
    fn load(&self, partition: i32, leader_epoch: LeaderEpoch, load: u64) {
        let started = Instant::now();
        let mut replay = Replay::default();
        let overtaken = || {
            !self.active.load(Ordering::Acquire)
                || self.shard(partition).is_none_or(|shard| shard.load != load || shard.ownership != Ownership::Loading)
        };
        let buffer_bytes = self.settings.offsets_load_buffer_size;
        let read =
            read_partition(&*self.log, partition, buffer_bytes, overtaken, |batch| replay_batch(&mut replay, batch));
        if let Err(error) = read {
            // As Kafka does: what was read so far serves, since refusing the groups for good would be worse.
            log::error!("Error loading offsets from {GROUP_METADATA_TOPIC}-{partition}: {error}");
        }
        let groups = replay.into_groups(now().wall_ms);
        let Some(mut shard) = self.shard(partition) else { return };
        if shard.load != load || shard.ownership != Ownership::Loading {
            log::info!(
                "Not taking over {GROUP_METADATA_TOPIC}-{partition} in epoch {leader_epoch}: it moved on meanwhile"
            );
            return;
        }
        shard.ownership = Ownership::Owned;
        let count = groups.len();
        self.step(&mut shard, None, |held, turn| held.load(groups, turn));
        log::info!(
            "Finished loading offsets and group metadata from {GROUP_METADATA_TOPIC}-{partition} in {} milliseconds \
             for epoch {leader_epoch}: {count} groups",
            started.elapsed().as_millis()
        );
    }

    fn resign(&self, partition: i32, leader_epoch: Option<LeaderEpoch>) {
        let Some(mut shard) = self.shard(partition) else { return };
        if !shard.hears_of(leader_epoch) {
            return;
        }
        if leader_epoch.is_none() {
            // The replica was deleted: a topic that is created again begins with epoch 0.
            shard.leader_epoch = None;
        }
        if shard.ownership == Ownership::NotOwned {
            return;
        }
        log::info!("Resigned as the group coordinator for partition {partition} in epoch {leader_epoch:?}");
        shard.ownership = Ownership::NotOwned;
        let count = shard.groups.len();
        self.step(&mut shard, None, |groups, turn| groups.unload(turn));
        log::info!("Finished unloading {GROUP_METADATA_TOPIC}-{partition}. Removed {count} cached groups.");
    }
}

fn replay_batch(replay: &mut Replay, batch: ReadBatch<'_>) -> Result<(), String> {
    let header = *batch.header();
    let producer_id = ProducerId(header.producer_id);
    // Kafka remembers the offset of the first record that is left, which compaction may have moved up.
    let mut first_offset = None;
    for record in batch.records().map_err(|error| error.to_string())? {
        let record = record.map_err(|error| error.to_string())?;
        if header.is_control {
            let control = ControlRecord::read(record.key.as_deref(), record.value.as_deref());
            if let ControlRecord::EndTransaction { outcome, .. } = control.map_err(|error| error.to_string())? {
                replay.transaction_ended(producer_id, outcome == TransactionOutcome::Commit);
            }
            continue;
        }
        let decoded = records::decode(record.key, record.value).map_err(|error| error.to_string())?;
        let batch_offset = *first_offset.get_or_insert(Offset(record.offset));
        replay.record(decoded, batch_offset, header.is_transactional.then_some(producer_id));
    }
    Ok(())
}
