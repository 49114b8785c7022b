//! Requests that wait for an offset to move: produces until their records are committed, fetches until there is enough
//! to read. A waiter is a future, woken by the append or the fetch that moves the offset, or by its deadline; nobody
//! polls and no thread waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::model::{BrokerId, Offset};
use crate::replica::flush::Flushed;

/// Why a parked produce will not be committed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotCommitted {
    /// The deadline passed first.
    TimedOut,
    /// Leadership moved or ended while the records waited.
    NotLeader,
    /// The log directory went offline.
    Offline,
}

/// Resolves once an offset is reached: for a produce, once its records are committed.
#[derive(Debug)]
pub struct Commit {
    reached: Option<oneshot::Receiver<Result<(), NotCommitted>>>,
    flushed: Option<Flushed>,
}

impl Commit {
    /// What waits for a flush as well.
    pub(crate) fn after(commit: Option<Commit>, flushed: Flushed) -> Commit {
        Commit { reached: commit.and_then(|commit| commit.reached), flushed: Some(flushed) }
    }

    /// What has become of it, once something has.
    #[cfg(test)]
    pub(crate) fn outcome(&mut self) -> Option<Result<(), NotCommitted>> {
        use oneshot::error::TryRecvError;
        match self.reached.as_mut().map(oneshot::Receiver::try_recv) {
            None => Some(Ok(())),
            Some(Ok(outcome)) => Some(outcome),
            Some(Err(TryRecvError::Closed)) => Some(Err(NotCommitted::NotLeader)),
            Some(Err(TryRecvError::Empty)) => None,
        }
    }

    pub async fn wait(self, deadline: Instant) -> Result<(), NotCommitted> {
        tokio::time::timeout_at(deadline, self.reached()).await.unwrap_or(Err(NotCommitted::TimedOut))
    }

    /// The same, however long it takes.
    pub async fn reached(self) -> Result<(), NotCommitted> {
        for outcome in [self.flushed, self.reached].into_iter().flatten() {
            match outcome.await {
                Ok(outcome) => outcome?,
                // The partition was dropped with its waiters: it is no longer hosted here.
                Err(_) => return Err(NotCommitted::NotLeader),
            }
        }
        Ok(())
    }
}

/// Those who wait for one advancing offset of a partition: produces for the high watermark, deletions of records for the
/// low watermark.
#[derive(Debug, Default)]
pub struct OffsetWaiters {
    /// Mostly in the order of the offsets waited for, since appends are; `insert` keeps it so.
    waiting: VecDeque<(Offset, oneshot::Sender<Result<(), NotCommitted>>)>,
    /// When the queue grows past this, those that gave up are swept out: behind one that waits for long there may be many.
    sweep_at: usize,
}

impl OffsetWaiters {
    /// Parks until the offset is at least `required`.
    pub fn park(&mut self, required: Offset) -> Commit {
        // Those that gave up at their deadline mostly leave from the front.
        while self.waiting.front().is_some_and(|(_, reply)| reply.is_closed()) {
            self.waiting.pop_front();
        }
        if self.waiting.len() >= self.sweep_at.max(SWEEP_AT_LEAST) {
            self.waiting.retain(|(_, reply)| !reply.is_closed());
            self.sweep_at = self.waiting.len() * 2;
        }
        let (reply, commit) = oneshot::channel();
        let position = self.waiting.partition_point(|(offset, _)| *offset <= required);
        self.waiting.insert(position, (required, reply));
        Commit { reached: Some(commit), flushed: None }
    }

    /// Answers all who waited for this offset or a smaller one.
    pub fn reached(&mut self, offset: Offset) {
        while self.waiting.front().is_some_and(|(required, _)| *required <= offset) {
            if let Some((_, reply)) = self.waiting.pop_front() {
                // It may have given up.
                let _ = reply.send(Ok(()));
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

/// What became of one end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// It is where it was.
    Not,
    /// So many bytes more can be read.
    By(i64),
    /// Its waiters look again.
    Unknown,
}

impl Moved {
    /// Tells it to a fetch that waits. True if it waits no more.
    fn tell(self, fetch: &ParkedFetch) -> bool {
        match self {
            Moved::Not => fetch.is_finished(),
            Moved::By(bytes) => fetch.is_finished() || fetch.add(bytes),
            Moved::Unknown => {
                fetch.wake();
                true
            }
        }
    }
}

/// What became of a log, as far as fetches wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moves {
    pub log_end: Moved,
    pub committed: Moved,
}

impl Moves {
    /// Something changed that nobody waits for, but that the next fetch tells.
    pub const NONE: Moves = Moves { log_end: Moved::Not, committed: Moved::Not };
    pub const COMMITTED: Moves = Moves { log_end: Moved::Not, committed: Moved::Unknown };
    pub const ALL: Moves = Moves { log_end: Moved::Unknown, committed: Moved::Unknown };

    fn of(&self, end: WaitsFor) -> Moved {
        match end {
            WaitsFor::Committed => self.committed,
            WaitsFor::LogEnd => self.log_end,
        }
    }
}

/// What a fetch session hears of its partitions: which of them changed since it looked and, while a fetch of it waits,
/// how much became readable. The session is registered with each partition once, whatever the number of its fetches.
#[derive(Debug)]
pub struct SessionWatch {
    /// Of all sessions ever made, so that a partition has them in an order.
    number: u64,
    closed: AtomicBool,
    heard: Mutex<Heard>,
    /// Whose fetches they are, if a follower's.
    follower: Option<BrokerId>,
    created: std::time::Instant,
    /// Of the last fetch, in ms since the session was made.
    last_fetch_ms: AtomicU64,
}

#[derive(Debug, Default)]
struct Heard {
    is_marked: Vec<bool>,
    slots: Vec<u32>,
    /// The latest fetch of the session, if it waits: an earlier one was woken when it came.
    parked: Option<(Arc<ParkedFetch>, WaitsFor)>,
}

impl Heard {
    fn wake(&mut self) {
        if let Some((parked, _)) = self.parked.take() {
            parked.wake();
        }
    }
}

impl SessionWatch {
    pub fn new(number: u64, follower: Option<BrokerId>, now: std::time::Instant) -> SessionWatch {
        SessionWatch {
            number,
            closed: AtomicBool::new(false),
            heard: Mutex::default(),
            follower,
            created: now,
            last_fetch_ms: AtomicU64::new(0),
        }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session has fetched, and a fetch of it that still waits is not the latest any more: it ends.
    pub fn fetched(&self, now: std::time::Instant) {
        let since_created = now.saturating_duration_since(self.created).as_millis();
        self.last_fetch_ms.store(u64::try_from(since_created).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.heard().wake();
    }

    fn last_fetch(&self) -> std::time::Instant {
        self.created + Duration::from_millis(self.last_fetch_ms.load(Ordering::Relaxed))
    }

    /// Parks a fetch. `None` if a partition has changed since the marks were taken: then it has to look again.
    pub fn park(&self, waits_for: WaitsFor, missing_bytes: i64) -> Option<Arc<ParkedFetch>> {
        let mut heard = self.heard();
        if !heard.slots.is_empty() {
            return None;
        }
        heard.wake();
        let parked = ParkedFetch::new(missing_bytes);
        heard.parked = Some((Arc::clone(&parked), waits_for));
        Some(parked)
    }

    /// The session has something to look at.
    pub fn wake(&self) {
        self.heard().wake();
    }

    /// The slots of the session's partitions that have changed since the last call.
    pub fn take_marks(&self) -> Vec<u32> {
        let mut heard = self.heard();
        let slots = std::mem::take(&mut heard.slots);
        for &slot in &slots {
            heard.is_marked[slot as usize] = false;
        }
        slots
    }

    /// Partitions forget it the next time they look.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let mut heard = self.heard();
        heard.wake();
        *heard = Heard::default();
    }

    /// One of its partitions has changed. False once the session is gone.
    fn changed(&self, slot: u32, moves: &Moves) -> bool {
        let mut heard = self.heard();
        if self.closed.load(Ordering::Acquire) {
            return false;
        }
        let at = slot as usize;
        if heard.is_marked.len() <= at {
            heard.is_marked.resize(at + 1, false);
        }
        if !std::mem::replace(&mut heard.is_marked[at], true) {
            heard.slots.push(slot);
        }
        if heard.parked.as_ref().is_some_and(|(parked, waits_for)| moves.of(*waits_for).tell(parked)) {
            heard.parked = None;
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
    /// By number, and by the slot that the partition has in each. Those that have forgotten it are `None` until they are
    /// swept out.
    sessions: Vec<(SessionSlot, Option<Arc<SessionWatch>>)>,
    sweep_sessions_at: usize,
    forgotten: usize,
}

type SessionSlot = (u64, u32);

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
            self.sweep_sessions();
            self.sweep_sessions_at = self.sessions.len() * 2;
        }
        // Mostly the latest.
        let new = Some(Arc::clone(session));
        match self.find((session.number, slot)) {
            Ok(at) => self.forgotten -= usize::from(std::mem::replace(&mut self.sessions[at].1, new).is_none()),
            Err(at) => self.sessions.insert(at, ((session.number, slot), new)),
        }
    }

    pub fn unwatch(&mut self, session: &SessionWatch, slot: u32) {
        if let Ok(at) = self.find((session.number, slot))
            && self.sessions[at].1.take().is_some()
        {
            self.forgotten += 1;
            if self.forgotten * 2 > self.sessions.len() {
                self.sweep_sessions();
            }
        }
    }

    fn find(&self, wanted: SessionSlot) -> Result<usize, usize> {
        self.sessions.binary_search_by_key(&wanted, |(known, _)| *known)
    }

    fn sweep_sessions(&mut self) {
        let is_open = |session: &SessionWatch| !session.closed.load(Ordering::Acquire);
        self.sessions.retain(|(_, session)| session.as_deref().is_some_and(is_open));
        self.forgotten = 0;
    }

    /// When the followers that have this partition in a session fetched last.
    pub fn follower_fetches(&self) -> impl Iterator<Item = (BrokerId, std::time::Instant)> {
        let of = |session: &SessionWatch| Some((session.follower?, session.last_fetch()));
        self.sessions.iter().filter_map(move |(_, session)| of(session.as_deref()?))
    }

    /// Marks the sessions, and tells those who wait.
    pub fn moved(&mut self, moves: Moves) {
        self.sessions
            .retain(|((_, slot), session)| session.as_ref().is_some_and(|session| session.changed(*slot, &moves)));
        self.forgotten = 0;
        if moves != Moves::NONE {
            self.waiting.retain(|(fetch, waits_for)| !moves.of(*waits_for).tell(fetch));
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

    fn committed(bytes: i64) -> Moves {
        Moves { log_end: Moved::Not, committed: Moved::By(bytes) }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_produce_is_answered_when_the_high_watermark_reaches_its_end_and_not_before() {
        let mut waiters = OffsetWaiters::default();
        let (late, early) = (waiters.park(Offset(20)), waiters.park(Offset(10)));
        waiters.reached(Offset(9));
        assert_eq!(waiters.len(), 2);
        waiters.reached(Offset(10));
        assert_eq!(early.wait(soon()).await, Ok(()));
        assert_eq!(waiters.len(), 1);
        waiters.reached(Offset(25));
        assert_eq!(late.wait(soon()).await, Ok(()));
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

    #[test]
    fn those_that_gave_up_leave_from_behind_one_that_waits_for_long_too() {
        let mut waiters = OffsetWaiters::default();
        let waits = waiters.park(Offset(1));
        for offset in 2..10_000 {
            drop(waiters.park(Offset(offset)));
        }
        assert!(waiters.len() <= 2 * SWEEP_AT_LEAST, "{} entries", waiters.len());
        waiters.reached(Offset(1));
        let mut reached = waits.reached.expect("it was parked");
        assert_eq!(reached.try_recv(), Ok(Ok(())));
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
        first.moved(committed(60));
        assert!(!fetch.wait(Instant::now() + Duration::from_millis(1)).await);
        first.moved(Moves { log_end: Moved::By(60), committed: Moved::Not });
        assert!(!fetch.wait(Instant::now() + Duration::from_millis(1)).await, "not committed yet");
        second.moved(committed(40));
        assert!(fetch.wait(soon()).await);
        assert_eq!(second.len(), 0);
        first.moved(committed(1));
        assert_eq!(first.len(), 0, "finished elsewhere, forgotten at the next append");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wake_between_parking_and_waiting_is_not_lost() {
        let mut waiters = FetchWaiters::default();
        let fetch = ParkedFetch::new(1);
        waiters.park(&fetch, WaitsFor::LogEnd);
        waiters.moved(Moves { log_end: Moved::Unknown, committed: Moved::Not });
        assert!(fetch.wait(soon()).await);
        assert_eq!(waiters.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_leadership_wakes_every_fetch() {
        let mut waiters = FetchWaiters::default();
        let fetches = [ParkedFetch::new(1_000), ParkedFetch::new(1_000)];
        waiters.park(&fetches[0], WaitsFor::LogEnd);
        waiters.park(&fetches[1], WaitsFor::Committed);
        waiters.moved(Moves::ALL);
        for fetch in fetches {
            assert!(fetch.wait(soon()).await);
        }
    }

    /// Ten thousand consumers of one partition, each with a session of its own.
    #[test]
    fn sessions_that_forget_a_partition_hear_no_more_of_it_and_are_swept_out() {
        const MANY: u64 = 10_000;
        let mut waiters = FetchWaiters::default();
        let sessions: Vec<_> =
            (0..MANY).map(|number| Arc::new(SessionWatch::new(number, None, std::time::Instant::now()))).collect();
        // In an order that is not theirs, and some twice.
        for number in (0..MANY).map(|number| number * 7 % MANY).chain(0..10) {
            waiters.watch(&sessions[number as usize], 3);
        }
        waiters.moved(Moves::NONE);
        assert!(sessions.iter().all(|session| session.take_marks() == [3]), "each hears of it once");
        let (forgetting, staying) = sessions.split_at(MANY as usize - 10);
        forgetting.iter().rev().for_each(|session| waiters.unwatch(session, 3));
        assert!(waiters.sessions.len() < 20, "{} are kept", waiters.sessions.len());
        waiters.unwatch(&staying[0], 4);
        waiters.moved(committed(1));
        assert!(forgetting.iter().all(|session| session.take_marks().is_empty()));
        assert!(staying.iter().all(|session| session.take_marks() == [3]));
        staying[1].close();
        waiters.moved(Moves::NONE);
        assert_eq!(waiters.sessions.len(), 9);
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
