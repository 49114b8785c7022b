//! Requests that wait for an offset to move: produces until their records are committed, fetches until there is enough
//! to read. A waiter is a future, woken by the append or the fetch that moves the offset, or by its deadline; nobody
//! polls and no thread waits.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::model::{BrokerId, Offset};

/// Why a parked produce will not be committed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotCommitted {
    /// The deadline passed first.
    TimedOut,
    /// Leadership moved or ended while the records waited.
    NotLeader,
    /// Committed, but the ISR shrank below `min.insync.replicas` meanwhile.
    NotEnoughReplicasAfterAppend,
    /// The log directory went offline.
    Offline,
}

/// Resolves once an offset is reached: for a produce, once its records are committed.
pub struct Commit {
    reached: Option<oneshot::Receiver<Result<(), NotCommitted>>>,
    flushed: Option<Flush>,
}

/// A flush of the log, under way as soon as somebody waits for it.
pub type Flush = Pin<Box<dyn Future<Output = Result<(), NotCommitted>> + Send>>;

impl std::fmt::Debug for Commit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Commit").field("reached", &self.reached).finish_non_exhaustive()
    }
}

impl Commit {
    /// What waits for a flush as well.
    pub fn after(commit: Option<Commit>, flush: Flush) -> Commit {
        Commit { reached: commit.and_then(|commit| commit.reached), flushed: Some(flush) }
    }

    pub async fn wait(self, deadline: Instant) -> Result<(), NotCommitted> {
        if let Some(flushed) = self.flushed {
            flushed.await?;
        }
        let Some(reached) = self.reached else { return Ok(()) };
        match tokio::time::timeout_at(deadline, reached).await {
            Ok(Ok(outcome)) => outcome,
            // The partition was dropped with its waiters: it is no longer hosted here.
            Ok(Err(_)) => Err(NotCommitted::NotLeader),
            Err(_) => Err(NotCommitted::TimedOut),
        }
    }
}

/// Those who wait for one advancing offset of a partition: produces for the high watermark, deletions of records for the
/// low watermark.
#[derive(Debug, Default)]
pub struct OffsetWaiters {
    /// Mostly in the order of the offsets waited for, since appends are; `insert` keeps it so.
    waiting: VecDeque<(Offset, oneshot::Sender<Result<(), NotCommitted>>)>,
}

impl OffsetWaiters {
    /// Parks until the offset is at least `required`.
    pub fn park(&mut self, required: Offset) -> Commit {
        // Those that gave up at their deadline leave from the front, so the queue stays as long as what is unanswered.
        while self.waiting.front().is_some_and(|(_, reply)| reply.is_closed()) {
            self.waiting.pop_front();
        }
        let (reply, commit) = oneshot::channel();
        let position = self.waiting.partition_point(|(offset, _)| *offset <= required);
        self.waiting.insert(position, (required, reply));
        Commit { reached: Some(commit), flushed: None }
    }

    /// Answers all who waited for this offset or a smaller one.
    pub fn reached(&mut self, offset: Offset, outcome: Result<(), NotCommitted>) {
        while self.waiting.front().is_some_and(|(required, _)| *required <= offset) {
            if let Some((_, reply)) = self.waiting.pop_front() {
                // It may have given up.
                let _ = reply.send(outcome);
            }
        }
    }

    /// Answers everybody: the partition stopped leading.
    pub fn fail_all(&mut self, why: NotCommitted) {
        for (_, reply) in self.waiting.drain(..) {
            let _ = reply.send(Err(why));
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.waiting.len()
    }
}

/// One long-polling fetch, registered with every partition it reads.
#[derive(Debug)]
pub struct ParkedFetch {
    /// Bytes still missing before it is worth reading again.
    missing_bytes: AtomicI64,
    finished: AtomicBool,
    wake: Notify,
}

impl ParkedFetch {
    pub fn new(missing_bytes: i64) -> Arc<ParkedFetch> {
        Arc::new(ParkedFetch {
            missing_bytes: AtomicI64::new(missing_bytes.max(1)),
            finished: AtomicBool::new(false),
            wake: Notify::new(),
        })
    }

    /// Waits for enough bytes, for something that must be told at once, or for the deadline. True if woken.
    pub async fn wait(&self, deadline: Instant) -> bool {
        tokio::time::timeout_at(deadline, self.wake.notified()).await.is_ok()
    }

    /// Wakes the fetch, once.
    pub fn wake(&self) {
        if !self.finished.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    /// The fetch no longer waits; partitions forget it the next time they look.
    pub fn finish(&self) {
        self.finished.store(true, Ordering::Release);
    }

    /// It has been woken, or waits no more.
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// Counts bytes that became readable. True if that was enough and the fetch has been woken.
    fn add(&self, bytes: i64) -> bool {
        let enough = self.missing_bytes.fetch_sub(bytes, Ordering::AcqRel) <= bytes;
        if enough {
            self.wake();
        }
        enough
    }
}

/// Which end of the log a fetch reads up to, and so which move wakes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// Consumers: the high watermark or the last stable offset, which moves with it.
    Committed,
    /// Followers: the log end offset.
    LogEnd,
}

/// What a fetch session hears of its partitions: which of them changed since it looked and, while a fetch of it waits,
/// how much became readable. The session is registered with each partition once, whatever the number of its fetches.
#[derive(Debug)]
pub struct SessionWatch {
    closed: AtomicBool,
    /// Bytes that the parked fetch still misses; 0 or less while none is parked.
    missing_bytes: AtomicI64,
    waits_for_log_end: AtomicBool,
    wake: Notify,
    marks: Mutex<Marks>,
    /// Whose fetches they are, if a follower's.
    follower: Option<BrokerId>,
    created: std::time::Instant,
    /// Of the last fetch, in ms since the session was made.
    last_fetch_ms: AtomicU64,
}

#[derive(Debug, Default)]
struct Marks {
    is_marked: Vec<bool>,
    slots: Vec<u32>,
}

impl SessionWatch {
    pub fn new(follower: Option<BrokerId>, now: std::time::Instant) -> SessionWatch {
        SessionWatch {
            closed: AtomicBool::new(false),
            missing_bytes: AtomicI64::new(0),
            waits_for_log_end: AtomicBool::new(false),
            wake: Notify::new(),
            marks: Mutex::default(),
            follower,
            created: now,
            last_fetch_ms: AtomicU64::new(0),
        }
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session has fetched, and a fetch of it that still waits is not the latest any more: it ends.
    pub fn fetched(&self, now: std::time::Instant) {
        let since_created = now.saturating_duration_since(self.created).as_millis();
        self.last_fetch_ms.store(u64::try_from(since_created).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.wake();
    }

    fn last_fetch(&self) -> std::time::Instant {
        self.created + Duration::from_millis(self.last_fetch_ms.load(Ordering::Relaxed))
    }

    /// Parks a fetch. False if a partition has changed since the marks were taken: then it has to look again.
    pub fn park(&self, waits_for: WaitsFor, missing_bytes: i64) -> bool {
        self.waits_for_log_end.store(waits_for == WaitsFor::LogEnd, Ordering::Relaxed);
        self.missing_bytes.store(missing_bytes.max(1), Ordering::Release);
        // Partitions mark first and count then: what this does not see here is counted.
        let is_parked = self.marks().slots.is_empty();
        if !is_parked {
            self.missing_bytes.store(0, Ordering::Release);
        }
        is_parked
    }

    /// Waits for enough bytes, for something that must be told at once, or for the deadline. True if woken.
    pub async fn wait(&self, deadline: Instant) -> bool {
        let woken = tokio::time::timeout_at(deadline, self.wake.notified()).await.is_ok();
        self.missing_bytes.store(0, Ordering::Release);
        woken
    }

    /// The slots of the session's partitions that have changed since the last call.
    pub fn take_marks(&self) -> Vec<u32> {
        let mut marks = self.marks();
        let slots = std::mem::take(&mut marks.slots);
        for &slot in &slots {
            marks.is_marked[slot as usize] = false;
        }
        slots
    }

    /// Partitions forget it the next time they look.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        *self.marks() = Marks::default();
        self.wake();
    }

    fn wake(&self) {
        if self.missing_bytes.swap(0, Ordering::AcqRel) > 0 {
            self.wake.notify_one();
        }
    }

    fn add(&self, end: WaitsFor, bytes: i64) {
        let counts = (end == WaitsFor::LogEnd) == self.waits_for_log_end.load(Ordering::Relaxed);
        if counts {
            let missing = self.missing_bytes.fetch_sub(bytes, Ordering::AcqRel);
            if missing > 0 && missing <= bytes {
                self.wake.notify_one();
            }
        }
    }

    /// False once the session is gone.
    fn mark(&self, slot: u32) -> bool {
        let mut marks = self.marks();
        if self.closed.load(Ordering::Acquire) {
            return false;
        }
        let at = slot as usize;
        if marks.is_marked.len() <= at {
            marks.is_marked.resize(at + 1, false);
        }
        if !std::mem::replace(&mut marks.is_marked[at], true) {
            marks.slots.push(slot);
        }
        true
    }
}

/// The fetches parked at one partition, and the sessions that it is in.
#[derive(Debug, Default)]
pub struct FetchWaiters {
    waiting: Vec<(Arc<ParkedFetch>, WaitsFor)>,
    /// When the list grows past this, finished fetches are swept out. A quiet partition would otherwise collect one
    /// entry from every poll that other partitions ended.
    sweep_at: usize,
    /// Each with the slot that the partition has in it.
    sessions: Vec<(Arc<SessionWatch>, u32)>,
    sweep_sessions_at: usize,
}

const SWEEP_AT_LEAST: usize = 16;

impl FetchWaiters {
    pub fn park(&mut self, fetch: &Arc<ParkedFetch>, waits_for: WaitsFor) {
        if self.waiting.len() >= self.sweep_at.max(SWEEP_AT_LEAST) {
            self.waiting.retain(|(fetch, _)| !fetch.is_finished());
            self.sweep_at = self.waiting.len() * 2;
        }
        self.waiting.push((Arc::clone(fetch), waits_for));
    }

    /// From now on each change marks the session.
    pub fn watch(&mut self, session: &Arc<SessionWatch>, slot: u32) {
        if self.sessions.len() >= self.sweep_sessions_at.max(SWEEP_AT_LEAST) {
            self.sessions.retain(|(known, _)| !known.closed.load(Ordering::Acquire));
            self.sweep_sessions_at = self.sessions.len() * 2;
        }
        self.sessions.push((Arc::clone(session), slot));
    }

    pub fn unwatch(&mut self, session: &Arc<SessionWatch>, slot: u32) {
        let position = self.sessions.iter().position(|(known, at)| *at == slot && Arc::ptr_eq(known, session));
        if let Some(position) = position {
            self.sessions.swap_remove(position);
        }
    }

    /// Something changed that nobody waits for, but that the next fetch tells.
    pub fn mark(&mut self) {
        self.sessions.retain(|(session, slot)| session.mark(*slot));
    }

    /// When the followers that have this partition in a session fetched last.
    pub fn follower_fetches(&self) -> impl Iterator<Item = (BrokerId, std::time::Instant)> {
        let of = |session: &SessionWatch| Some((session.follower?, session.last_fetch()));
        self.sessions.iter().filter_map(move |(session, _)| of(session))
    }

    /// Bytes became readable for those who wait for this end of the log.
    pub fn bytes_arrived(&mut self, end: WaitsFor, bytes: i64) {
        self.sessions.retain(|(session, slot)| {
            let is_there = session.mark(*slot);
            session.add(end, bytes);
            is_there
        });
        self.waiting.retain(|(fetch, waits_for)| !(fetch.is_finished() || (*waits_for == end && fetch.add(bytes))));
    }

    /// An end moved by an unknown number of bytes: its waiters look again.
    pub fn moved(&mut self, end: WaitsFor) {
        self.sessions.retain(|(session, slot)| {
            let is_there = session.mark(*slot);
            if (end == WaitsFor::LogEnd) == session.waits_for_log_end.load(Ordering::Relaxed) {
                session.wake();
            }
            is_there
        });
        self.waiting.retain(|(fetch, waits_for)| {
            if *waits_for == end {
                fetch.wake();
            }
            !fetch.is_finished()
        });
    }

    /// Leadership or storage changed: everybody looks again.
    pub fn wake_all(&mut self) {
        self.mark();
        self.sessions.iter().for_each(|(session, _)| session.wake());
        for (fetch, _) in self.waiting.drain(..) {
            fetch.wake();
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_produce_is_answered_when_the_high_watermark_reaches_its_end_and_not_before() {
        let mut waiters = OffsetWaiters::default();
        let (late, early) = (waiters.park(Offset(20)), waiters.park(Offset(10)));
        waiters.reached(Offset(9), Ok(()));
        assert_eq!(waiters.len(), 2);
        waiters.reached(Offset(10), Ok(()));
        assert_eq!(early.wait(soon()).await, Ok(()));
        assert_eq!(waiters.len(), 1);
        waiters.reached(Offset(25), Err(NotCommitted::NotEnoughReplicasAfterAppend));
        assert_eq!(late.wait(soon()).await, Err(NotCommitted::NotEnoughReplicasAfterAppend));
    }

    #[tokio::test(start_paused = true)]
    async fn a_produce_that_nobody_commits_times_out_and_leaves_the_queue() {
        let mut waiters = OffsetWaiters::default();
        let commit = waiters.park(Offset(5));
        assert_eq!(commit.wait(soon()).await, Err(NotCommitted::TimedOut));
        let next = waiters.park(Offset(6));
        assert_eq!(waiters.len(), 1, "the one that gave up is gone");
        waiters.fail_all(NotCommitted::NotLeader);
        assert_eq!(next.wait(soon()).await, Err(NotCommitted::NotLeader));
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_partition_answers_its_waiters() {
        let mut waiters = OffsetWaiters::default();
        let commit = waiters.park(Offset(5));
        drop(waiters);
        assert_eq!(commit.wait(soon()).await, Err(NotCommitted::NotLeader));
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_over_two_partitions_wakes_when_both_together_have_enough() {
        let (mut first, mut second) = (FetchWaiters::default(), FetchWaiters::default());
        let fetch = ParkedFetch::new(100);
        first.park(&fetch, WaitsFor::Committed);
        second.park(&fetch, WaitsFor::Committed);
        first.bytes_arrived(WaitsFor::Committed, 60);
        assert!(!fetch.wait(Instant::now() + Duration::from_millis(1)).await);
        first.bytes_arrived(WaitsFor::LogEnd, 60);
        assert!(!fetch.wait(Instant::now() + Duration::from_millis(1)).await, "not committed yet");
        second.bytes_arrived(WaitsFor::Committed, 40);
        assert!(fetch.wait(soon()).await);
        assert_eq!(second.len(), 0);
        first.bytes_arrived(WaitsFor::Committed, 1);
        assert_eq!(first.len(), 0, "finished elsewhere, forgotten at the next append");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wake_between_parking_and_waiting_is_not_lost() {
        let mut waiters = FetchWaiters::default();
        let fetch = ParkedFetch::new(1);
        waiters.park(&fetch, WaitsFor::LogEnd);
        waiters.moved(WaitsFor::LogEnd);
        assert!(fetch.wait(soon()).await);
        assert_eq!(waiters.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_leadership_wakes_every_fetch() {
        let mut waiters = FetchWaiters::default();
        let fetches = [ParkedFetch::new(1_000), ParkedFetch::new(1_000)];
        waiters.park(&fetches[0], WaitsFor::LogEnd);
        waiters.park(&fetches[1], WaitsFor::Committed);
        waiters.wake_all();
        for fetch in fetches {
            assert!(fetch.wait(soon()).await);
        }
    }

    #[test]
    fn a_quiet_partition_does_not_collect_finished_fetches() {
        let mut waiters = FetchWaiters::default();
        let parked = ParkedFetch::new(1);
        waiters.park(&parked, WaitsFor::Committed);
        for _ in 0..10_000 {
            let fetch = ParkedFetch::new(1);
            waiters.park(&fetch, WaitsFor::Committed);
            fetch.finish();
        }
        assert!(waiters.len() <= 2 * SWEEP_AT_LEAST, "{} entries", waiters.len());
    }
}
