//! The shards of a coordinator: one for each partition of its topic, whatever the core in it decides.
//!
//! A shard is a mutex around a core, its timers and the requests that wait. A request takes the lock of its shard, runs
//! the core and performs the actions on the task of its connection, and then, without the lock, makes the appends: its own and
//! those that others leave behind meanwhile, so that they are made in the order in which they were wanted, and nobody who
//! wants nothing of the disk waits for one that hangs. A task per shard, fed by a channel,
//! was the alternative: it would cost every heartbeat and every commit two hops between threads, which is more than the
//! work itself, and order nothing that the lock does not. One task (`run`) does what no request does: timers, appends
//! that wait for replicas, elections, the periodic round.
//!
//! Fences: a shard appends under the leader epoch that it was loaded for, and the partition refuses the append if its
//! leadership has ended since, even if it has begun again: the news of that may still be on its way here. A shard that is
//! refused knows that others may have spoken meanwhile, so it gives its state up at once, and loads again when it hears
//! of its election. An append of an earlier load that ends late is unknown to the core that is there now, and one of an
//! earlier epoch of the same load says nothing about the epoch that the shard has heard of since. What was read may end with
//! what not every in-sync replica has: it serves once all have it, however few those are.
//!
//! A shard whose disk does not keep up goes on all the same: its appends are made by I/O threads, one after the other.
//!
//! Locks: none that is taken inside a shard's waits for a disk. No lock is held across an await. A panic under the lock, or
//! of an append, poisons it, and the task stops with it: half-applied state must not serve.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::coordinator::core::{
    Action, Answer, AppendId, Core, Effect, Now, Records, ReplyTo, Settings, Turn, Vocabulary,
};
use crate::coordinator::counters::{ShardCounters, count};
use crate::coordinator::timers::TimerQueue;
use crate::coordinator::topic_log::{
    AppendFailure, AppendOutcome, Appending, Committing, CoordinatorLog, read_partition,
};
use crate::model::LeaderEpoch;
use crate::model::clock::wall_clock_ms;
use crate::model::lock::{Guard, Lock};
use crate::record::append_rules::AppendOrigin;
use crate::record::read::ReadBatch;

/// How many partitions of one log directory are read at once after an election; each takes a buffer of `load_buffer_bytes`.
const CONCURRENT_LOADS: usize = 4;

/// By log directory: a disk that does not answer keeps the partitions of no other from being read.
type Loads = HashMap<Option<PathBuf>, Arc<Semaphore>>;

/// So many appends of a shard may wait for its disk while that does not keep up. Whoever wants one more is told to come again.
/// The tombstones of what memory has forgotten come on top, bounded by what it held: meanwhile it forgets no more but for
/// topics that are deleted.
pub(crate) const BEHIND_MAX: usize = 1000;

/// And so many bytes wait for who makes the appends while it does keep up: then they are made soon, but one may take a while.
/// Tombstones are not counted here either.
const WANTED_BYTES_MAX: usize = 4 << 20;

/// So many steps wait for a shard to be loaded, each with what a request has said.
const WHEN_LOADED_MAX: usize = 1000;

/// So many appends of a shard are made by one who makes them, before another has to: the client of the first one waits.
const APPENDS_IN_A_ROW: usize = 64;

/// For so many actions a shard keeps the memory between turns; a load or an unload leaves many more.
const ACTIONS_KEPT: usize = 1024;

/// What the replicas report of a partition of the coordinator's topic. Reports of one partition come in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardEvent {
    /// This broker leads the partition, from this epoch on.
    Elected { partition: i32, leader_epoch: LeaderEpoch },
    /// This broker no longer leads the partition; without an epoch, because its replica was deleted.
    Resigned { partition: i32, leader_epoch: Option<LeaderEpoch> },
}

/// Why a shard does not speak for its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotServing {
    /// The broker shuts down.
    Stopped,
    Loading,
    NotOwned,
}

/// How a coordinator reads and writes its topic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TopicTerms {
    pub(crate) load_buffer_bytes: u32,
    pub(crate) required_acks: i16,
    pub(crate) append_timeout: Duration,
}

/// All shards of one coordinator.
pub(crate) struct Shards<C: Core> {
    settings: Settings<C>,
    terms: TopicTerms,
    log: Arc<dyn CoordinatorLog>,
    /// One for each partition of the topic, as many as it had when the broker started.
    shards: Box<[Lock<Shard<C>>]>,
    /// False once the broker shuts down.
    active: AtomicBool,
    /// The number of partitions, not that of `shards`, that was complained of last.
    refused_count: AtomicI32,
    waiting_appends: mpsc::UnboundedSender<WaitingAppend>,
    /// Taken by `run`.
    waiting_appends_taker: Mutex<Option<mpsc::UnboundedReceiver<WaitingAppend>>>,
    alarm: Alarm,
    /// What all cores hold. Each shard adds what a step has changed.
    bytes: AtomicU64,
    counters: Arc<ShardCounters>,
    effect: Box<dyn Fn(Effect<C>) + Send + Sync>,
    clock: Clock,
}

/// What time it is; a simulation moves it.
pub(crate) type Clock = Box<dyn Fn() -> Now + Send + Sync>;

/// A step that more than one shard takes.
pub(crate) type SharedStep<C> = Arc<dyn Fn(&mut C, &mut Turn<'_, <C as Core>::Vocabulary>) + Send + Sync>;

/// One partition of the topic.
pub(crate) struct Shard<C: Core> {
    partition: i32,
    ownership: Ownership,
    /// The latest leader epoch heard of: reports of older ones are history. Appends carry it.
    leader_epoch: Option<LeaderEpoch>,
    /// Counts the loads, so that one that was overtaken is not taken for the current one.
    load: u64,
    core: C,
    /// Of `core`, as counted in the sum over all shards.
    bytes: u64,
    timers: TimerQueue<<C::Vocabulary as Vocabulary>::TimerKind>,
    /// The requests that wait. Bounded by the connections, each of which waits for what one request names.
    parked: HashMap<ReplyTo, oneshot::Sender<Answer<C>>>,
    next_reply: u64,
    next_append: u64,
    /// Appends to be made as soon as nobody holds the lock, by whoever `is_writing`.
    outbox: VecDeque<Outgoing>,
    /// Of those in the outbox that the core waits for.
    wanted_bytes: usize,
    /// Somebody makes an append, without the lock, and will look at the outbox again.
    is_writing: bool,
    /// Told by him, if somebody waits for it.
    written: Option<oneshot::Sender<()>>,
    /// How many appends were handed on to where they may wait for a disk, and are still to be made.
    handed_on: Arc<AtomicUsize>,
    /// Tells when the last of those is: the next one comes after it.
    behind: Option<oneshot::Receiver<()>>,
    /// Empty between turns; kept for its memory.
    actions: VecDeque<Action<C::Vocabulary>>,
    /// An append was refused for its leader epoch.
    is_fenced: bool,
    /// What is to be done once it is loaded: it was told of while it is.
    when_loaded: Vec<SharedStep<C>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ownership {
    NotOwned,
    Loading,
    /// Elected, and not loaded until it is elected anew: the topic has another number of partitions than is counted with.
    /// Whoever asks is told that it loads, as by Kafka.
    Refused,
    Owned,
}

/// Whose append it is.
struct Appender {
    of: Arc<str>,
    /// `None` if the core does not wait for it.
    append: Option<AppendId>,
    /// Of the shard when it appended.
    load: u64,
    leader_epoch: LeaderEpoch,
}

/// An append that is still to be made.
struct Outgoing {
    appender: Appender,
    batch: Bytes,
    origin: AppendOrigin,
    required_acks: i16,
    deadline: Instant,
}

impl Outgoing {
    fn wanted_bytes(&self) -> usize {
        if self.appender.append.is_some() { self.batch.len() } else { 0 }
    }
}

pub(crate) struct WaitingAppend {
    partition: i32,
    appender: Appender,
    /// After which the core is told that it comes too late, if what is waited for has no deadline of its own.
    deadline: Option<Instant>,
    pub(crate) outcome: Pin<Box<dyn Future<Output = AppendOutcome> + Send>>,
}

/// A partition that was read, to be taken over.
pub(crate) struct Read<C: Core> {
    partition: i32,
    leader_epoch: LeaderEpoch,
    load: u64,
    started: Instant,
    replay: C::Replay,
}

/// One append on its way to where it may wait for a disk, until it is made or never will be.
struct HandedOn {
    count: Arc<AtomicUsize>,
    /// The next one waits until it is dropped.
    _made: oneshot::Sender<()>,
}

impl Drop for HandedOn {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What became of a request that may have to wait.
pub(crate) enum Asked<C: Core> {
    Answered(Answer<C>),
    Waits(Waiting<C>),
}

/// A request that waits. Dropped by a connection that hung up, it leaves nothing behind in the shard but what the core
/// keeps of it.
pub(crate) struct Waiting<C: Core> {
    shards: Arc<Shards<C>>,
    partition: i32,
    reply: ReplyTo,
    answer: oneshot::Receiver<Answer<C>>,
}

impl<C: Core> Future for Waiting<C> {
    type Output = Option<Answer<C>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(context).map(Result::ok)
    }
}

impl<C: Core> Drop for Waiting<C> {
    fn drop(&mut self) {
        // Answered, most likely: then there is nothing to take back.
        if !self.answer.is_terminated()
            && let Some(shard) = usize::try_from(self.partition).ok().and_then(|at| self.shards.shards.get(at))
            && let Ok(mut shard) = shard.lock()
        {
            shard.parked.remove(&self.reply);
        }
    }
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

/// The time of the system.
pub(crate) fn now() -> Now {
    Now { instant: tokio::time::Instant::now().into_std(), wall_ms: wall_clock_ms() }
}

impl<C: Core> Shard<C> {
    fn new(partition: i32) -> Shard<C> {
        Shard {
            partition,
            ownership: Ownership::NotOwned,
            leader_epoch: None,
            load: 0,
            core: C::default(),
            bytes: 0,
            timers: TimerQueue::default(),
            parked: HashMap::new(),
            next_reply: 0,
            next_append: 0,
            outbox: VecDeque::new(),
            wanted_bytes: 0,
            is_writing: false,
            written: None,
            handed_on: Arc::default(),
            behind: None,
            actions: VecDeque::new(),
            is_fenced: false,
            when_loaded: Vec::new(),
        }
    }

    /// Under which it speaks for its partition.
    #[cfg(test)]
    pub(crate) fn leader_epoch(&self) -> Option<LeaderEpoch> {
        self.leader_epoch
    }

    pub(crate) fn core(&self) -> &C {
        &self.core
    }

    /// Whether that load has not been overtaken.
    fn is_loading(&self, load: u64) -> bool {
        self.load == load && self.ownership == Ownership::Loading
    }

    /// True if the epoch is not older than the latest heard of, which it then becomes.
    fn hears_of(&mut self, leader_epoch: Option<LeaderEpoch>) -> bool {
        if leader_epoch.is_some() && leader_epoch < self.leader_epoch {
            return false;
        }
        self.leader_epoch = leader_epoch.or(self.leader_epoch);
        true
    }

    fn next_outgoing(&mut self) -> Option<Outgoing> {
        let next = self.outbox.pop_front()?;
        self.wanted_bytes -= next.wanted_bytes();
        Some(next)
    }

    fn drop_outgoing(&mut self) {
        self.outbox.clear();
        self.wanted_bytes = 0;
    }

    /// Whether an earlier append is still to be made where it may wait for a disk.
    fn is_behind(&mut self) -> bool {
        let is_behind = self.handed_on.load(Ordering::Acquire) > 0;
        if !is_behind {
            self.behind = None;
        }
        is_behind
    }

    fn answer(&mut self, reply: ReplyTo, answer: Answer<C>) {
        if let Some(parked) = self.parked.remove(&reply) {
            // Who asked may have hung up.
            let _ = parked.send(answer);
        }
    }
}

impl<C: Core> Shards<C> {
    /// `partition_count` is what the topic has in ZooKeeper, or will have when it is created. `effect` is called under
    /// the lock of a shard, so it must not come back here.
    pub(crate) fn new(
        settings: Settings<C>,
        terms: TopicTerms,
        partition_count: i32,
        log: Arc<dyn CoordinatorLog>,
        counters: Arc<ShardCounters>,
        effect: Box<dyn Fn(Effect<C>) + Send + Sync>,
        clock: Clock,
    ) -> Arc<Shards<C>> {
        let (waiting_appends, taker) = mpsc::unbounded_channel();
        Arc::new(Shards {
            settings,
            terms,
            log,
            shards: (0..partition_count.max(1)).map(|partition| Lock::new(Shard::new(partition))).collect(),
            active: AtomicBool::new(true),
            refused_count: AtomicI32::new(-1),
            waiting_appends,
            waiting_appends_taker: Mutex::new(Some(taker)),
            alarm: Alarm { origin: clock().instant, next: AtomicU64::new(u64::MAX), earlier: Notify::new() },
            bytes: AtomicU64::new(0),
            counters,
            effect,
            clock,
        })
    }

    pub(crate) fn settings(&self) -> &Settings<C> {
        &self.settings
    }

    pub(crate) fn partition_count(&self) -> i32 {
        i32::try_from(self.shards.len()).unwrap_or(i32::MAX)
    }

    /// What all cores hold in memory, about.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn parked_count(&self) -> usize {
        self.every_shard().map(|shard| shard.parked.len()).sum()
    }

    fn shard(&self, partition: i32) -> Option<Guard<'_, Shard<C>>> {
        let shard = self.shards.get(usize::try_from(partition).ok()?)?;
        Some(shard.lock().expect("a shard that panicked must not serve"))
    }

    fn every_shard(&self) -> impl Iterator<Item = Guard<'_, Shard<C>>> {
        self.shards.iter().map(|shard| shard.lock().expect("a shard that panicked must not serve"))
    }

    /// The shard of the partition, if this broker may speak for it now.
    pub(crate) fn owned(&self, partition: i32) -> Result<Guard<'_, Shard<C>>, NotServing> {
        if !self.is_active() {
            return Err(NotServing::Stopped);
        }
        let shard = self.shard(partition).ok_or(NotServing::NotOwned)?;
        match shard.ownership {
            Ownership::Owned => Ok(shard),
            Ownership::Loading | Ownership::Refused => Err(NotServing::Loading),
            Ownership::NotOwned => Err(NotServing::NotOwned),
        }
    }

    /// False once the broker shuts down.
    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// Shows every core that this broker speaks for, one after the other. True if some are still being loaded.
    pub(crate) fn look_at_all(&self, mut look: impl FnMut(&C)) -> bool {
        let mut loading = false;
        for shard in self.every_shard() {
            loading |= matches!(shard.ownership, Ownership::Loading | Ownership::Refused);
            look(&shard.core);
        }
        loading
    }

    /// Whether the disk of the shard does not keep up, and so much waits for it that nothing more may be forgotten. What waits
    /// only for who makes the appends is made soon, however much it is.
    pub(crate) fn is_full(&self, shard: &Shard<C>) -> bool {
        let handed_on = shard.handed_on.load(Ordering::Acquire);
        shard.outbox.len() + handed_on >= BEHIND_MAX && (handed_on > 0 || self.log.is_held_up(shard.partition))
    }

    /// A round: one step of every core that this broker speaks for, but for those with a full shard, which have the next one.
    fn round(&self, mut step: impl FnMut(&mut C, &mut Turn<'_, C::Vocabulary>)) {
        for mut shard in self.every_shard() {
            if shard.ownership == Ownership::Owned && !self.is_full(&shard) {
                self.step(&mut shard, None, &mut step);
                self.make_appends(shard);
            }
        }
    }

    /// One step of every core that this broker speaks for, or will once it is loaded: what it reads may be from before.
    pub(crate) fn step_all_when_loaded(&self, step: SharedStep<C>) {
        for mut shard in self.every_shard() {
            match shard.ownership {
                Ownership::Owned => {
                    self.step(&mut shard, None, &*step);
                    self.make_appends(shard);
                }
                Ownership::Loading if shard.when_loaded.len() < WHEN_LOADED_MAX => {
                    shard.when_loaded.push(Arc::clone(&step));
                }
                Ownership::Loading => log::warn!(
                    "{}-{} has been loading for so long that it is not told of all that happens meanwhile",
                    C::TOPIC,
                    shard.partition
                ),
                Ownership::NotOwned | Ownership::Refused => {}
            }
        }
    }

    /// One step whose answer is at hand when it ends. The lock is free again when this returns.
    pub(crate) fn now<R>(
        &self,
        mut shard: Guard<'_, Shard<C>>,
        step: impl FnOnce(&mut C, &mut Turn<'_, C::Vocabulary>) -> R,
    ) -> R {
        let (result, _) = self.step(&mut shard, None, step);
        self.make_appends(shard);
        result
    }

    /// One step whose request may have to wait. The lock is free again when this returns.
    pub(crate) fn ask(
        self: &Arc<Self>,
        mut shard: Guard<'_, Shard<C>>,
        step: impl FnOnce(&mut C, ReplyTo, &mut Turn<'_, C::Vocabulary>),
    ) -> Asked<C> {
        let reply = ReplyTo(shard.next_reply);
        shard.next_reply += 1;
        let ((), answered) = self.step(&mut shard, Some(reply), |core, turn| step(core, reply, turn));
        if let Some(answer) = answered {
            self.make_appends(shard);
            return Asked::Answered(answer);
        }
        let (parked, mut answer) = oneshot::channel();
        shard.parked.insert(reply, parked);
        let partition = shard.partition;
        self.make_appends(shard);
        match answer.try_recv() {
            Ok(answer) => return Asked::Answered(answer),
            Err(TryRecvError::Empty) => {}
            // The broker shuts down. What has said so once says it no more.
            Err(TryRecvError::Closed) => answer = oneshot::channel().1,
        }
        Asked::Waits(Waiting { shards: Arc::clone(self), partition, reply, answer })
    }

    /// Runs one step of the core and performs what comes of it. The answer to `mine` is returned.
    fn step<R>(
        &self,
        shard: &mut Shard<C>,
        mine: Option<ReplyTo>,
        step: impl FnOnce(&mut C, &mut Turn<'_, C::Vocabulary>) -> R,
    ) -> (R, Option<Answer<C>>) {
        let now = (self.clock)();
        let result = self.turn(shard, now, step);
        let mut answered = None;
        loop {
            while let Some(action) = shard.actions.pop_front() {
                match action {
                    Action::Answer(reply, answer) if mine == Some(reply) => answered = Some(answer),
                    Action::Answer(reply, answer) => shard.answer(reply, answer),
                    other => self.perform(shard, other, now),
                }
            }
            if !shard.is_fenced {
                break;
            }
            self.give_up(shard, now);
        }
        shard.actions.shrink_to(ACTIONS_KEPT);
        self.alarm.set_no_later_than(shard.timers.next_deadline());
        (result, answered)
    }

    fn turn<R>(
        &self,
        shard: &mut Shard<C>,
        now: Now,
        step: impl FnOnce(&mut C, &mut Turn<'_, C::Vocabulary>) -> R,
    ) -> R {
        let Shard { core, actions, next_append, bytes, leader_epoch, .. } = shard;
        let bytes_elsewhere = self.bytes().saturating_sub(*bytes);
        let leader_epoch = leader_epoch.unwrap_or(LeaderEpoch(-1));
        let settings = &self.settings;
        let result = step(core, &mut Turn { now, settings, leader_epoch, bytes_elsewhere, actions, next_append });
        let held = core.bytes();
        // Wraps as it should: the sum loses what the shard has lost.
        self.bytes.fetch_add(held.wrapping_sub(*bytes), Ordering::Relaxed);
        *bytes = held;
        result
    }

    /// The partition has another leader, or had one meanwhile.
    fn give_up(&self, shard: &mut Shard<C>, now: Now) {
        shard.is_fenced = false;
        if shard.ownership != Ownership::Owned {
            return;
        }
        count(&self.counters.fenced);
        log::info!(
            "{}-{} refuses appends of leader epoch {:?}: no longer the {} for it",
            C::TOPIC,
            shard.partition,
            shard.leader_epoch.map(|epoch| epoch.0),
            C::NAME
        );
        shard.ownership = Ownership::NotOwned;
        shard.drop_outgoing();
        self.turn(shard, now, |core, turn| core.unload(turn));
    }

    fn perform(&self, shard: &mut Shard<C>, action: Action<C::Vocabulary>, now: Now) {
        match action {
            Action::Append { of, append, records } => {
                if let Err(why) = self.want(shard, &of, Some(append), &records, self.terms.required_acks, now) {
                    self.turn(shard, now, |core, turn| core.appended(&of, append, Err(why), turn));
                }
            }
            Action::Forget { of, records } => {
                if let Err(why) = self.want(shard, &of, None, &records, 0, now) {
                    forgotten::<C>(shard.partition, &of, Err(why));
                }
            }
            Action::StartTimer(key, deadline) => shard.timers.start(key, deadline),
            Action::CancelTimer(key) => shard.timers.cancel(&key),
            Action::Effect(effect) => (self.effect)(effect),
            Action::Answer(reply, answer) => shard.answer(reply, answer),
        }
    }

    /// Wants an append to be made once the lock is free, or says why it never will be.
    fn want(
        &self,
        shard: &mut Shard<C>,
        of: &Arc<str>,
        append: Option<AppendId>,
        records: &Records<C>,
        required_acks: i16,
        now: Now,
    ) -> Result<(), AppendFailure> {
        let owned_epoch = shard.leader_epoch.filter(|_| shard.ownership == Ownership::Owned);
        let leader_epoch = owned_epoch.ok_or(AppendFailure::NotLeaderOrFollower)?;
        // What is forgotten already must not come back.
        if append.is_some() && (shard.wanted_bytes >= WANTED_BYTES_MAX || self.is_full(shard)) {
            return Err(AppendFailure::NotEnoughReplicas);
        }
        let batch = C::encode(of, records, &self.settings, now.wall_ms).map_err(|error| {
            log::error!("{}-{}: a record of {of} cannot be written: {error}", C::TOPIC, shard.partition);
            AppendFailure::Unexpected
        })?;
        let appender = Appender { of: Arc::clone(of), append, load: shard.load, leader_epoch };
        let (origin, deadline) = (C::origin(records), now.instant + self.terms.append_timeout);
        let wanted = Outgoing { appender, batch, origin, required_acks, deadline };
        shard.wanted_bytes += wanted.wanted_bytes();
        shard.outbox.push_back(wanted);
        Ok(())
    }

    /// Makes the appends that are wanted, without the lock, unless somebody is at it. While the disk does not keep up they are
    /// handed on. What is left when others want more all the time, the next one makes who comes, or the task does.
    fn make_appends<'a>(&'a self, mut shard: Guard<'a, Shard<C>>) {
        let mut made = 0;
        while !shard.outbox.is_empty() {
            if shard.is_behind() || self.log.is_held_up(shard.partition) {
                while let Some(next) = shard.next_outgoing() {
                    self.hand_on(&mut shard, next);
                }
                return;
            }
            if shard.is_writing {
                return;
            }
            if made == APPENDS_IN_A_ROW {
                return self.alarm.earlier.notify_one();
            }
            made += 1;
            let Some(Outgoing { appender, batch, origin, required_acks, .. }) = shard.next_outgoing() else {
                return;
            };
            let (partition, timeout) = (shard.partition, self.terms.append_timeout);
            shard.is_writing = true;
            drop(shard);
            let appending = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                self.log.append(partition, appender.leader_epoch, batch, origin, required_acks, timeout)
            }));
            let Some(locked) = self.shard(partition) else { return };
            shard = locked;
            shard.is_writing = false;
            shard.written = None;
            match appending {
                Ok(Appending::Done(outcome)) => self.made(&mut shard, &appender, outcome),
                Ok(Appending::Waiting(outcome)) => self.wait_for(&shard, appender, None, outcome),
                // Under the lock, which must not be taken any more.
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    }

    /// To where it may wait for a disk, behind those that went there before it and the one that is being made here.
    fn hand_on(&self, shard: &mut Shard<C>, next: Outgoing) {
        let Outgoing { appender, batch, origin, required_acks, deadline } = next;
        let (made, until_made) = oneshot::channel();
        let mut before = shard.behind.replace(until_made);
        if before.is_none() && shard.is_writing {
            let (written, until_written) = oneshot::channel();
            shard.written = Some(written);
            before = Some(until_written);
        }
        shard.handed_on.fetch_add(1, Ordering::AcqRel);
        let handed_on = HandedOn { count: Arc::clone(&shard.handed_on), _made: made };
        let (log, partition, leader_epoch) = (Arc::clone(&self.log), shard.partition, appender.leader_epoch);
        let timeout = self.terms.append_timeout;
        let outcome = Box::pin(async move {
            if let Some(before) = before {
                // It was made, or never will be.
                let _ = before.await;
            }
            let appending = log.append_beside(partition, leader_epoch, batch, origin, required_acks, timeout).await;
            drop(handed_on);
            match appending {
                Appending::Done(outcome) => outcome,
                Appending::Waiting(outcome) => outcome.await,
            }
        });
        // For the others nobody waits.
        let deadline = appender.append.map(|_| deadline);
        self.wait_for(shard, appender, deadline, outcome);
    }

    fn wait_for(
        &self,
        shard: &Shard<C>,
        appender: Appender,
        deadline: Option<Instant>,
        outcome: Pin<Box<dyn Future<Output = AppendOutcome> + Send>>,
    ) {
        // Without the task there is nobody left to answer either.
        let _ = self.waiting_appends.send(WaitingAppend { partition: shard.partition, appender, deadline, outcome });
    }

    /// A wait for replicas is over, or for a disk.
    pub(crate) fn appended(&self, waited: &WaitingAppend, outcome: AppendOutcome) {
        let Some(mut shard) = self.shard(waited.partition) else { return };
        self.made(&mut shard, &waited.appender, outcome);
        self.make_appends(shard);
    }

    /// An append has come to its end.
    fn made(&self, shard: &mut Shard<C>, appender: &Appender, outcome: AppendOutcome) {
        let Appender { ref of, append, load, leader_epoch } = *appender;
        // Of an earlier load nobody waits any more, and what it says of leadership is history.
        if shard.load != load || shard.ownership != Ownership::Owned {
            return;
        }
        // Nor does one of an earlier epoch say anything: elected again without a break, the shard goes on.
        shard.is_fenced |=
            outcome == Err(AppendFailure::NotLeaderOrFollower) && shard.leader_epoch == Some(leader_epoch);
        let partition = shard.partition;
        self.step(shard, None, |core, turn| match append {
            Some(append) => core.appended(of, append, outcome, turn),
            None => forgotten::<C>(partition, of, outcome),
        });
    }

    // The task

    /// The appends that wait for replicas, for the one task that waits with them.
    pub(crate) fn waiting_appends(&self) -> mpsc::UnboundedReceiver<WaitingAppend> {
        let taker = self.waiting_appends_taker.lock().expect("nothing panics while it is held").take();
        taker.expect("the task is started once")
    }

    /// Runs until the broker shuts down: timers, appends that wait for replicas, elections, and `round` each `interval`.
    pub(crate) async fn run(
        self: Arc<Self>,
        mut events: mpsc::UnboundedReceiver<ShardEvent>,
        mut shutdown: watch::Receiver<bool>,
        interval: Duration,
        mut round: impl FnMut(&mut C, &mut Turn<'_, C::Vocabulary>),
    ) {
        let mut waiting_appends = self.waiting_appends();
        let mut work: JoinSet<()> = JoinSet::new();
        let mut loads = Loads::new();
        let mut rounds = tokio::time::interval(interval);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut events_open, mut waiting) = (true, Vec::new());
        let mut next = self.fire_timers();
        while !*shutdown.borrow() {
            let sleep = async move {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = events.recv(), if events_open => match event {
                    Some(event) => self.leadership_changed(event, &mut work, &mut loads),
                    None => events_open = false,
                },
                _ = waiting_appends.recv_many(&mut waiting, APPENDS_IN_A_ROW) => for waiting in waiting.drain(..) {
                    let shards = Arc::clone(&self);
                    work.spawn(async move {
                        shards.wait(waiting).await;
                    });
                },
                Some(done) = work.join_next() => {
                    if let Err(error) = done && error.is_panic() {
                        // Not to be survived: the state behind it may be half applied.
                        std::panic::resume_unwind(error.into_panic());
                    }
                }
                _ = rounds.tick() => self.round(&mut round),
                // Nobody looks at all shards for anything else: whatever starts an earlier timer tells it.
                _ = self.alarm.earlier.notified() => next = self.fire_timers(),
                () = sleep => next = self.fire_timers(),
                changed = shutdown.changed() => if changed.is_err() { break },
            }
        }
        self.stop();
    }

    async fn wait(&self, mut waiting: WaitingAppend) {
        if let Some(deadline) = waiting.deadline {
            match tokio::time::timeout_at(deadline.into(), waiting.outcome.as_mut()).await {
                Ok(outcome) => return self.appended(&waiting, outcome),
                // It is made in its turn all the same, and may say that leadership has ended.
                Err(_) => self.appended(&waiting, Err(AppendFailure::TimedOut)),
            }
        }
        let outcome = waiting.outcome.as_mut().await;
        self.appended(&waiting, outcome);
    }

    fn stop(&self) {
        self.active.store(false, Ordering::Release);
        // Whoever waits learns of it by its dropped channel.
        for mut shard in self.every_shard() {
            shard.parked.clear();
        }
    }

    /// Fires what is due. When to look again.
    pub(crate) fn fire_timers(&self) -> Option<Instant> {
        // From here on, whoever starts an earlier timer than we then find wakes us.
        self.alarm.next.store(u64::MAX, Ordering::Release);
        let now = (self.clock)().instant;
        let mut next: Option<Instant> = None;
        'shards: for partition in 0..self.partition_count() {
            let Some(mut shard) = self.shard(partition) else { continue };
            let mut fired = 0;
            while let Some(timer) = shard.timers.expired(now) {
                self.step(&mut shard, None, |core, turn| core.timer_fired(&timer, turn));
                fired += 1;
                if fired % APPENDS_IN_A_ROW == 0 {
                    // Not all of them at once: many may be due.
                    self.make_appends(shard);
                    let Some(locked) = self.shard(partition) else { continue 'shards };
                    shard = locked;
                }
            }
            next = [next, shard.timers.next_deadline()].into_iter().flatten().min();
            self.make_appends(shard);
        }
        if let Some(next) = next {
            self.alarm.next.fetch_min(self.alarm.nanos(next), Ordering::AcqRel);
        }
        next
    }

    fn leadership_changed(self: &Arc<Self>, event: ShardEvent, work: &mut JoinSet<()>, loads: &mut Loads) {
        match event {
            ShardEvent::Elected { partition, leader_epoch } => {
                if let Some(load) = self.start_load(partition, leader_epoch) {
                    let of_dir = loads.entry(self.log.parent_dir(partition));
                    let loads = Arc::clone(of_dir.or_insert_with(|| Arc::new(Semaphore::new(CONCURRENT_LOADS))));
                    let shards = Arc::clone(self);
                    work.spawn(async move {
                        if !shards.counts_right(partition, load).await {
                            return;
                        }
                        loop {
                            let permit = Arc::clone(&loads).acquire_owned().await;
                            let reader = Arc::clone(&shards);
                            let read = beside_others(move || reader.read(partition, leader_epoch, load)).await;
                            drop(permit);
                            let Some(read) = read else { return };
                            let (committed, taker) = (shards.committed(&read).await, Arc::clone(&shards));
                            if beside_others(move || taker.take_over(read, committed)).await != Some(true) {
                                return;
                            }
                        }
                    });
                }
            }
            ShardEvent::Resigned { partition, leader_epoch } => self.resign(partition, leader_epoch),
        }
    }

    /// The number of the load to make, if one is due.
    pub(crate) fn start_load(&self, partition: i32, leader_epoch: LeaderEpoch) -> Option<u64> {
        let Some(mut shard) = self.shard(partition) else {
            // Nothing is named by partitions beyond those counted at start.
            log::warn!("Elected for {}-{partition}, which did not exist when the broker started", C::TOPIC);
            return None;
        };
        // Elected again without a break, the shard goes on under the new epoch: nobody else has spoken meanwhile.
        if !shard.hears_of(Some(leader_epoch)) || matches!(shard.ownership, Ownership::Loading | Ownership::Owned) {
            return None;
        }
        log::info!("Elected as the {} for partition {partition} in epoch {leader_epoch}", C::NAME);
        shard.ownership = Ownership::Loading;
        shard.when_loaded.clear();
        shard.load += 1;
        Some(shard.load)
    }

    /// False if the topic has another number of partitions than the broker found at its start: a name may belong to another
    /// one by now, for those that have started since. The load is given up then.
    /// Source: kafka 3.9 TransactionStateManager.scala (validateTransactionTopicPartitionCountIsStable).
    async fn counts_right(&self, partition: i32, load: u64) -> bool {
        let known = self.partition_count();
        let Some(count) = self.log.partition_count().await.filter(|count| *count != known) else { return true };
        if self.refused_count.swap(count, Ordering::Relaxed) != count {
            log::error!(
                "The number of partitions has changed from {known} to {count}: this broker is the {} for none of {} that it \
                 is elected for from here on. Restart all brokers, so that all count with the same number",
                C::NAME,
                C::TOPIC
            );
        }
        if let Some(mut shard) = self.shard(partition)
            && shard.is_loading(load)
        {
            shard.ownership = Ownership::Refused;
        }
        false
    }

    #[cfg(test)]
    pub(crate) fn has_refused(&self) -> bool {
        self.every_shard().any(|shard| shard.ownership == Ownership::Refused)
    }

    /// Reads the partition. Blocks.
    pub(crate) fn read(&self, partition: i32, leader_epoch: LeaderEpoch, load: u64) -> Read<C> {
        let started = Instant::now();
        let mut replay = C::Replay::default();
        let overtaken = || {
            !self.active.load(Ordering::Acquire) || self.shard(partition).is_none_or(|shard| !shard.is_loading(load))
        };
        let buffer_bytes = self.terms.load_buffer_bytes;
        // As Kafka does: what can be read serves, since refusing all for good would be worse.
        let mut has_failed = false;
        let mut failed = |error: String| {
            log::error!("Error loading {}-{partition}: {error}", C::TOPIC);
            has_failed = true;
        };
        let visit = |batch: ReadBatch<'_>| {
            let next_offset = batch.header().next_offset();
            if let Err(error) = C::replay(&mut replay, batch) {
                failed(format!("in the batch before offset {next_offset}, and goes on behind it: {error}"));
            }
        };
        if let Err(error) = read_partition(&*self.log, partition, buffer_bytes, overtaken, visit) {
            failed(error);
        }
        if has_failed {
            count(&self.counters.load_failures);
        }
        Read { partition, leader_epoch, load, started, replay }
    }

    /// Resolves when what was read may serve: once every in-sync replica has it. The last records may be of a leader that could
    /// not say whether they stay, and whoever is elected next may not know them: the end of a transaction, which other logs
    /// do not forget that were told of it, or a generation, which would be given to other members once more.
    pub(crate) fn committed(&self, read: &Read<C>) -> Committing {
        self.log.all_replicated(read.partition, read.leader_epoch)
    }

    /// Serves what was read, unless it may not. Takes long where there is much. Whether it is to be read again, since the
    /// broker was elected again meanwhile.
    pub(crate) fn take_over(&self, read: Read<C>, committed: Result<(), AppendFailure>) -> bool {
        let Read { partition, leader_epoch, load, started, replay } = read;
        // What was read is taken over without the lock, by a shard that nobody knows: whoever comes meanwhile is told that it
        // is loading. Until it is owned no other append is numbered.
        let mut unknown = Shard::<C>::new(partition);
        {
            let Some(mut shard) = self.shard(partition) else { return false };
            if let Err(why) = committed
                && shard.is_loading(load)
            {
                log::info!("Not taking over {}-{partition} in epoch {leader_epoch}: {why}", C::TOPIC);
                shard.ownership = Ownership::NotOwned;
                return false;
            }
            (unknown.leader_epoch, unknown.next_append) = (shard.leader_epoch, shard.next_append);
        }
        let loaded = self.turn(&mut unknown, (self.clock)(), |core, turn| core.load(replay, leader_epoch, turn));
        let mut actions = std::mem::take(&mut unknown.actions);
        actions.retain(|action| match action {
            Action::StartTimer(key, deadline) => {
                unknown.timers.start(key.clone(), *deadline);
                false
            }
            Action::CancelTimer(key) => {
                unknown.timers.cancel(key);
                false
            }
            _ => true,
        });
        // It is counted where it comes to.
        self.bytes.fetch_sub(unknown.bytes, Ordering::Relaxed);
        let Some(mut shard) = self.shard(partition) else { return false };
        if !shard.is_loading(load) {
            log::info!("Not taking over {}-{partition} in epoch {leader_epoch}: it moved on meanwhile", C::TOPIC);
            return false;
        }
        if shard.leader_epoch != unknown.leader_epoch {
            // Without a break, and what the shard sends carries its epoch.
            return true;
        }
        shard.ownership = Ownership::Owned;
        shard.next_append = unknown.next_append;
        shard.timers = unknown.timers;
        let core = unknown.core;
        self.step(&mut shard, None, |there, turn| {
            *there = core;
            turn.actions.append(&mut actions);
        });
        for step in std::mem::take(&mut shard.when_loaded) {
            self.step(&mut shard, None, &*step);
        }
        self.make_appends(shard);
        count(&self.counters.loads);
        log::info!(
            "Finished loading {}-{partition} in {} milliseconds for epoch {leader_epoch}: {loaded} taken over",
            C::TOPIC,
            started.elapsed().as_millis()
        );
        false
    }

    /// All of it, where what was read stays.
    #[cfg(test)]
    pub(crate) fn load(&self, partition: i32, leader_epoch: LeaderEpoch, load: u64) {
        while self.take_over(self.read(partition, leader_epoch, load), Ok(())) {}
    }

    pub(crate) fn resign(&self, partition: i32, leader_epoch: Option<LeaderEpoch>) {
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
        log::info!(
            "Resigned as the {} for partition {partition} in epoch {:?}",
            C::NAME,
            leader_epoch.map(|epoch| epoch.0)
        );
        shard.ownership = Ownership::NotOwned;
        shard.drop_outgoing();
        let (unloaded, _) = self.step(&mut shard, None, |core, turn| core.unload(turn));
        count(&self.counters.unloads);
        log::info!("Finished unloading {}-{partition}: {unloaded} given up", C::TOPIC);
    }
}

fn forgotten<C: Core>(partition: i32, of: &str, outcome: AppendOutcome) {
    if let Err(failure) = outcome {
        log::error!(
            "Failed to append tombstones to {}-{partition} for what has expired or was deleted of {of}: {failure}",
            C::TOPIC
        );
    }
}

/// Runs what blocks on a thread of its own. `None` if the runtime shuts down.
async fn beside_others<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Option<R> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Some(result),
        // Not to be survived: the state behind it may be half applied.
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}

impl<C: Core> Asked<C> {
    /// `None` if the broker shuts down before there is an answer.
    pub(crate) async fn answer(self) -> Option<Answer<C>> {
        match self {
            Asked::Answered(answer) => Some(answer),
            Asked::Waits(waiting) => waiting.await,
        }
    }
}
