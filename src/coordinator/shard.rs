//! The shards of a coordinator: one for each partition of its topic, whatever the core in it decides.
//!
//! A shard is a mutex around a core, its timers and the requests that wait. A request takes the lock of its shard, runs
//! the core and performs the actions, append included, on the task of its connection. A task per shard, fed by a channel,
//! was the alternative: it would cost every heartbeat and every commit two hops between threads, which is more than the
//! work itself, and order nothing that the lock does not. One task (`run`) does what no request does: timers, appends
//! that wait for replicas, elections, the periodic round.
//!
//! Fences: a shard appends under the leader epoch that it was loaded for, and the partition refuses the append if its
//! leadership has ended since, even if it has begun again: the news of that may still be on its way here. A shard that is
//! refused knows that others may have spoken meanwhile, so it gives its state up at once, and loads again when it hears
//! of its election. An append of an earlier load that ends late is unknown to the core that is there now. What was read may
//! end with what not every replica has: a core that acts on it is held back until all have it.
//!
//! A shard whose disk does not keep up goes on all the same: its appends are made by I/O threads, one after the other.
//!
//! Locks: shard, then (inside the append) partition and log. No lock is held across an await. A panic under the lock
//! poisons it, and the task stops with it: half-applied state must not serve.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

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

/// How many partitions are read at once after an election; each takes a buffer of `load_buffer_bytes`.
const CONCURRENT_LOADS: usize = 4;

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
    /// The requests that wait. Bounded by the connections, each of which waits for one at most.
    parked: HashMap<ReplyTo, oneshot::Sender<Answer<C>>>,
    next_reply: u64,
    next_append: u64,
    /// While an append is to be made that was handed on to where it may wait for a disk: those after it come after it.
    behind: Option<oneshot::Receiver<()>>,
    /// Empty between turns; kept for its memory.
    actions: VecDeque<Action<C::Vocabulary>>,
    /// An append was refused for its leader epoch.
    is_fenced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ownership {
    NotOwned,
    Loading,
    Owned,
}

pub(crate) struct WaitingAppend {
    partition: i32,
    of: Arc<str>,
    /// `None` if the core does not wait for it.
    append: Option<AppendId>,
    /// Of the shard when it appended.
    load: u64,
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
            behind: None,
            actions: VecDeque::new(),
            is_fenced: false,
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

    /// Whether an earlier append is still to be made.
    fn is_behind(&mut self) -> bool {
        let is_behind = self.behind.as_mut().is_some_and(|made| made.try_recv() == Err(TryRecvError::Empty));
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
            Ownership::Loading => Err(NotServing::Loading),
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
            loading |= shard.ownership == Ownership::Loading;
            look(&shard.core);
        }
        loading
    }

    /// One step of every core that this broker speaks for.
    pub(crate) fn step_all(&self, mut step: impl FnMut(&mut C, &mut Turn<'_, C::Vocabulary>)) {
        for mut shard in self.every_shard() {
            if shard.ownership == Ownership::Owned {
                self.step(&mut shard, None, &mut step);
            }
        }
    }

    /// One step whose answer is at hand when it ends.
    pub(crate) fn now<R>(
        &self,
        mut shard: Guard<'_, Shard<C>>,
        step: impl FnOnce(&mut C, &mut Turn<'_, C::Vocabulary>) -> R,
    ) -> R {
        self.step(&mut shard, None, step).0
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
        match answered {
            Some(answer) => Asked::Answered(answer),
            None => {
                let (parked, answer) = oneshot::channel();
                shard.parked.insert(reply, parked);
                Asked::Waits(Waiting { shards: Arc::clone(self), partition: shard.partition, reply, answer })
            }
        }
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
        self.turn(shard, now, |core, turn| core.unload(turn));
    }

    fn perform(&self, shard: &mut Shard<C>, action: Action<C::Vocabulary>, now: Now) {
        match action {
            Action::Append { of, append, records } => {
                match self.append(shard, &of, &records, self.terms.required_acks, now) {
                    Appending::Done(outcome) => {
                        self.turn(shard, now, |core, turn| core.appended(&of, append, outcome, turn));
                    }
                    Appending::Waiting(outcome) => self.wait_for(shard, of, Some(append), outcome),
                }
            }
            Action::Forget { of, records } => match self.append(shard, &of, &records, 0, now) {
                Appending::Done(outcome) => forgotten::<C>(shard.partition, &of, outcome),
                Appending::Waiting(outcome) => self.wait_for(shard, of, None, outcome),
            },
            Action::StartTimer(key, deadline) => shard.timers.start(key, deadline),
            Action::CancelTimer(key) => shard.timers.cancel(&key),
            Action::Effect(effect) => (self.effect)(effect),
            Action::Answer(reply, answer) => shard.answer(reply, answer),
        }
    }

    fn wait_for(
        &self,
        shard: &Shard<C>,
        of: Arc<str>,
        append: Option<AppendId>,
        outcome: Pin<Box<dyn Future<Output = AppendOutcome> + Send>>,
    ) {
        let (partition, load) = (shard.partition, shard.load);
        // Without the task there is nobody left to answer either.
        let _ = self.waiting_appends.send(WaitingAppend { partition, of, append, load, outcome });
    }

    fn append(&self, shard: &mut Shard<C>, of: &str, records: &Records<C>, required_acks: i16, now: Now) -> Appending {
        let Some(leader_epoch) = shard.leader_epoch.filter(|_| shard.ownership == Ownership::Owned) else {
            return Appending::Done(Err(AppendFailure::NotLeaderOrFollower));
        };
        let batch = match C::encode(of, records, &self.settings, now.wall_ms) {
            Ok(batch) => batch,
            Err(error) => {
                log::error!("{}-{}: a record of {of} cannot be written: {error}", C::TOPIC, shard.partition);
                return Appending::Done(Err(AppendFailure::Unexpected));
            }
        };
        let (origin, timeout) = (C::origin(records), self.terms.append_timeout);
        if shard.is_behind() || self.log.is_held_up(shard.partition) {
            let (made, until_made) = oneshot::channel();
            let before = shard.behind.replace(until_made);
            let (log, partition) = (Arc::clone(&self.log), shard.partition);
            return Appending::Waiting(Box::pin(async move {
                if let Some(before) = before {
                    // It was made, or never will be.
                    let _ = before.await;
                }
                let appending = log.append_beside(partition, leader_epoch, batch, origin, required_acks, timeout).await;
                drop::<oneshot::Sender<()>>(made);
                match appending {
                    Appending::Done(outcome) => outcome,
                    Appending::Waiting(outcome) => outcome.await,
                }
            }));
        }
        let appending = self.log.append(shard.partition, leader_epoch, batch, origin, required_acks, timeout);
        shard.is_fenced |= matches!(appending, Appending::Done(Err(AppendFailure::NotLeaderOrFollower)));
        appending
    }

    /// A wait for replicas is over, or for a disk.
    pub(crate) fn appended(&self, waited: &WaitingAppend, outcome: AppendOutcome) {
        let WaitingAppend { partition, ref of, append, load, .. } = *waited;
        let Some(mut shard) = self.shard(partition) else { return };
        // Of an earlier load nobody waits any more, and what it says of leadership is history.
        if shard.load == load && shard.ownership == Ownership::Owned {
            shard.is_fenced |= outcome == Err(AppendFailure::NotLeaderOrFollower);
            self.step(&mut shard, None, |core, turn| match append {
                Some(append) => core.appended(of, append, outcome, turn),
                None => forgotten::<C>(partition, of, outcome),
            });
        }
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
        let loads = Arc::new(Semaphore::new(CONCURRENT_LOADS));
        let mut rounds = tokio::time::interval(interval);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut events_open = true;
        while !*shutdown.borrow() {
            let next = self.fire_timers();
            let sleep = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = events.recv(), if events_open => match event {
                    Some(event) => self.leadership_changed(event, &mut work, &loads),
                    None => events_open = false,
                },
                Some(waiting) = waiting_appends.recv() => {
                    let shards = Arc::clone(&self);
                    work.spawn(async move {
                        let mut waiting = waiting;
                        let outcome = waiting.outcome.as_mut().await;
                        shards.appended(&waiting, outcome);
                    });
                }
                Some(done) = work.join_next() => {
                    if let Err(error) = done && error.is_panic() {
                        // Not to be survived: the state behind it may be half applied.
                        std::panic::resume_unwind(error.into_panic());
                    }
                }
                _ = rounds.tick() => self.step_all(&mut round),
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
    }

    /// Fires what is due. When to look again.
    pub(crate) fn fire_timers(&self) -> Option<Instant> {
        // From here on, whoever starts an earlier timer than we then find wakes us.
        self.alarm.next.store(u64::MAX, Ordering::Release);
        let now = (self.clock)().instant;
        let mut next: Option<Instant> = None;
        for mut shard in self.every_shard() {
            while let Some(timer) = shard.timers.expired(now) {
                self.step(&mut shard, None, |core, turn| core.timer_fired(&timer, turn));
            }
            next = [next, shard.timers.next_deadline()].into_iter().flatten().min();
        }
        if let Some(next) = next {
            self.alarm.next.fetch_min(self.alarm.nanos(next), Ordering::AcqRel);
        }
        next
    }

    fn leadership_changed(self: &Arc<Self>, event: ShardEvent, work: &mut JoinSet<()>, loads: &Arc<Semaphore>) {
        match event {
            ShardEvent::Elected { partition, leader_epoch } => {
                if let Some(load) = self.start_load(partition, leader_epoch) {
                    let (shards, loads) = (Arc::clone(self), Arc::clone(loads));
                    work.spawn(async move {
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
        if !shard.hears_of(Some(leader_epoch)) || shard.ownership != Ownership::NotOwned {
            return None;
        }
        log::info!("Elected as the {} for partition {partition} in epoch {leader_epoch}", C::NAME);
        shard.ownership = Ownership::Loading;
        shard.load += 1;
        Some(shard.load)
    }

    /// Reads the partition. Blocks.
    pub(crate) fn read(&self, partition: i32, leader_epoch: LeaderEpoch, load: u64) -> Read<C> {
        let started = Instant::now();
        let mut replay = C::Replay::default();
        let overtaken = || {
            !self.active.load(Ordering::Acquire) || self.shard(partition).is_none_or(|shard| !shard.is_loading(load))
        };
        let buffer_bytes = self.terms.load_buffer_bytes;
        let read =
            read_partition(&*self.log, partition, buffer_bytes, overtaken, |batch| C::replay(&mut replay, batch));
        if let Err(error) = read {
            // As Kafka does: what was read so far serves, since refusing all for good would be worse.
            log::error!("Error loading {}-{partition}: {error}", C::TOPIC);
            count(&self.counters.load_failures);
        }
        Read { partition, leader_epoch, load, started, replay }
    }

    /// Resolves when what was read may serve.
    pub(crate) fn committed(&self, read: &Read<C>) -> Committing {
        match C::SERVES_ONLY_WHAT_STAYS {
            true => self.log.all_committed(read.partition, read.leader_epoch),
            false => Box::pin(std::future::ready(Ok(()))),
        }
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
        let (core, mut actions) = (unknown.core, unknown.actions);
        self.step(&mut shard, None, |there, turn| {
            *there = core;
            turn.actions.append(&mut actions);
        });
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
