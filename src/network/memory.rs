//! Memory that peers make the broker hold, over all connections: long requests while they arrive and are handled, and
//! answers that are not taken. Its bound is `queued.max.request.bytes`, which Kafka counts requests alone against.
//!
//! Rules, so that nobody pays for another and nobody waits for ever:
//! - Up to [`REQUEST_BYTES_FREE`] of a request, and [`ALLOWANCE_BYTES`] of answers and of requests that wait for their
//!   answers, are not counted: a client of small requests never waits for memory that others use up.
//! - A request grows while less than the limit is used, one longer than [`MEDIUM_BYTES_MAX`] while less than half is:
//!   long ones, which no client of stock settings sends, leave room for the others.
//! - The eldest request that is arriving grows beyond that, by at most one of `socket.request.max.bytes`: requests that
//!   have each a part of the memory do not wait for each other.
//! - While a request waits, the connection whose peer has made no progress for longest is closed, once that was for
//!   [`PATIENCE`], or its peer is slower than [`SLOWEST_BYTES_A_SECOND`].
//! - Answers are counted when their peer does not take them. What they use beyond limit and request is taken back by
//!   closing connections at once: those that are overdue by the same rule, then who holds more than
//!   [`MEDIUM_BYTES_MAX`], the largest first, and only then the others.
//!
//! Source of the setting: kafka 3.9.1 clients/src/main/java/org/apache/kafka/common/memory/SimpleMemoryPool.java.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

/// Bytes of an arriving request that are never counted.
pub const REQUEST_BYTES_FREE: usize = 32 * 1024;
/// Bytes of a connection's unsent answers that are never counted, and of its short requests that wait for answers.
pub const ALLOWANCE_BYTES: usize = 64 * 1024;
/// `max.request.size` of Kafka's producer is 1 MiB.
pub const MEDIUM_BYTES_MAX: usize = 2 * 1024 * 1024;
/// By so much the last who began below the limit may be over it: what one read takes, and some.
const OVERSHOOT_BYTES: usize = 2 * 1024 * 1024;
/// How long a peer may make no progress while others wait for memory.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How slow a peer may be, after [`PATIENCE`], while others wait for memory.
pub const SLOWEST_BYTES_A_SECOND: u64 = 1024 * 1024;
/// Less than this is no progress.
const PROGRESS_BYTES: u64 = 64 * 1024;

/// What a connection that holds memory waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// To send the rest of a request, or to take an answer.
    Peer,
    /// The answer to its request.
    Service,
    Memory,
}

/// Whether a connection may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Good,
    /// Others need the memory that it holds: it has to close.
    Overdue,
}

#[derive(Debug)]
struct Holder {
    bytes: usize,
    waits_for: WaitsFor,
    /// The request that waits for memory grows while less than this is used.
    grows_below: usize,
    is_receiving: bool,
    is_connected: bool,
    is_told_to_close: bool,
    /// Since when it holds memory, not counting what it waited for more.
    since: Instant,
    progressed: Instant,
    moved: u64,
    moved_since_progress: u64,
    waits_for_memory_since: Instant,
    connection: Arc<ConnectionMemory>,
}

impl Holder {
    /// When it has held its memory for too long, if nothing more moves.
    fn overdue_at(&self) -> Instant {
        let at_its_rate = PATIENCE + Duration::from_millis(self.moved * 1000 / SLOWEST_BYTES_A_SECOND);
        (self.progressed + PATIENCE).min(self.since + at_its_rate)
    }

    fn moved(&mut self, bytes: usize, now: Instant) {
        self.moved += bytes as u64;
        self.moved_since_progress += bytes as u64;
        if self.moved_since_progress >= PROGRESS_BYTES {
            self.moved_since_progress = 0;
            self.progressed = now;
        }
    }
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    /// Of `used`, by connections that are told to close.
    leaving: usize,
    waiting: usize,
    next_key: u64,
    /// By age.
    holders: BTreeMap<u64, Holder>,
}

#[derive(Debug)]
pub struct MemoryPool {
    limit: usize,
    /// `socket.request.max.bytes`
    request_max_bytes: usize,
    state: Mutex<State>,
}

impl MemoryPool {
    pub fn new(limit: usize, request_max_bytes: usize) -> Arc<MemoryPool> {
        Arc::new(MemoryPool { limit, request_max_bytes, state: Mutex::default() })
    }

    #[cfg(test)]
    pub fn used_bytes(&self) -> usize {
        self.state().used
    }

    /// Nobody makes it more than this without a connection being closed for it.
    pub fn bytes_max(&self) -> usize {
        self.limit.saturating_add(OVERSHOOT_BYTES).saturating_add(self.request_max_bytes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Counting cannot panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn open(&mut self, connection: &Arc<ConnectionMemory>, waits_for: WaitsFor, now: Instant) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        let holder = Holder {
            bytes: 0,
            waits_for,
            grows_below: 0,
            is_receiving: false,
            // A request may outlive its connection.
            is_connected: !connection.is_closed.load(Ordering::Relaxed),
            is_told_to_close: false,
            since: now,
            progressed: now,
            moved: 0,
            moved_since_progress: 0,
            waits_for_memory_since: now,
            connection: Arc::clone(connection),
        };
        self.holders.insert(key, holder);
        key
    }

    fn set_waits_for(&mut self, key: u64, waits_for: WaitsFor, now: Instant) {
        let Some(holder) = self.holders.get_mut(&key) else { return };
        let before = std::mem::replace(&mut holder.waits_for, waits_for);
        if before == waits_for {
            return;
        }
        if waits_for == WaitsFor::Memory {
            self.waiting += 1;
            holder.waits_for_memory_since = now;
        }
        if before == WaitsFor::Memory {
            self.waiting -= 1;
            // What it waited for memory is not the peer's fault.
            holder.since += now.saturating_duration_since(holder.waits_for_memory_since);
            holder.progressed = now;
        }
    }

    fn add(&mut self, key: u64, bytes: usize) {
        let Some(holder) = self.holders.get_mut(&key) else { return };
        holder.bytes += bytes;
        self.used += bytes;
        if holder.is_told_to_close {
            self.leaving += bytes;
        }
    }

    fn remove(&mut self, key: u64, bytes: usize) {
        let Some(holder) = self.holders.get_mut(&key) else { return };
        holder.bytes -= bytes;
        self.used -= bytes;
        if holder.is_told_to_close {
            self.leaving -= bytes;
        }
        if holder.bytes == 0 && holder.waits_for != WaitsFor::Memory {
            self.holders.remove(&key);
        }
        self.wake_eldest();
    }

    /// Whoever gets memory wakes the next, while there is some. One that could not go on yet, as a long request before
    /// a medium one, would keep the news to itself.
    fn wake_eldest(&self) {
        if self.waiting == 0 {
            return;
        }
        let eldest = self.eldest_receiving();
        let mut waiting = self.holders.iter().filter(|(_, holder)| holder.waits_for == WaitsFor::Memory);
        if let Some((_, holder)) = waiting.find(|(key, holder)| self.used < holder.grows_below || Some(**key) == eldest)
        {
            holder.connection.signal.notify_one();
        }
    }

    fn eldest_receiving(&self) -> Option<u64> {
        let mut receiving = self.holders.iter().filter(|(_, holder)| holder.is_receiving && !holder.is_told_to_close);
        receiving.next().map(|(key, _)| *key)
    }

    /// The connection to close next: of those that wait for their peer, and only then of those whose requests are
    /// being handled.
    fn most_overdue(&self, waits_for: WaitsFor) -> Option<(Instant, u64)> {
        let candidates = self.holders.iter().filter(|(_, holder)| {
            holder.waits_for == waits_for && holder.bytes > 0 && holder.is_connected && !holder.is_told_to_close
        });
        candidates.map(|(key, holder)| (holder.overdue_at(), *key)).min()
    }

    fn tell_to_close(&mut self, key: u64) {
        if let Some(holder) = self.holders.get_mut(&key) {
            holder.is_told_to_close = true;
            self.leaving += holder.bytes;
            holder.connection.is_told_to_close.store(true, Ordering::Relaxed);
            holder.connection.signal.notify_one();
        }
    }

    /// Closes connections until no more is used than may be. Peers that are not overdue pay for nobody who holds more
    /// than they ever ask for.
    fn enforce(&mut self, bytes_max: usize, now: Instant) {
        while self.used - self.leaving > bytes_max {
            let open = self.holders.iter().filter(|(_, holder)| holder.is_connected && !holder.is_told_to_close);
            let largest = open.max_by_key(|(_, holder)| holder.bytes).map(|(key, holder)| (*key, holder.bytes));
            let stalled = self.most_overdue(WaitsFor::Peer);
            let key = match (stalled, largest) {
                (Some((at, key)), _) if at <= now => key,
                (_, Some((key, bytes))) if bytes > MEDIUM_BYTES_MAX => key,
                (Some((_, key)), _) | (None, Some((key, _))) => key,
                (None, None) => return,
            };
            self.tell_to_close(key);
        }
    }

    /// Closes the connection that has held memory for too long, if there is one and none is about to close.
    fn close_overdue(&mut self, now: Instant) {
        if self.leaving > 0 {
            return;
        }
        let overdue = [WaitsFor::Peer, WaitsFor::Service].into_iter().filter_map(|who| self.most_overdue(who));
        if let Some((_, key)) = overdue.into_iter().find(|(at, _)| *at <= now) {
            self.tell_to_close(key);
        }
    }
}

/// Memory that one request holds, for as long as anything refers to its bytes.
#[derive(Debug)]
pub struct Charge {
    pool: Arc<MemoryPool>,
    key: u64,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.pool.state().remove(self.key, self.bytes);
    }
}

/// What the pool has to tell a connection, and how the requests of one reach it.
#[derive(Debug)]
pub struct ConnectionMemory {
    pool: Arc<MemoryPool>,
    /// Memory came free for it, or it is told to close.
    signal: Notify,
    is_told_to_close: AtomicBool,
    /// What requests of it still hold is theirs.
    is_closed: AtomicBool,
}

impl ConnectionMemory {
    pub fn new(pool: Arc<MemoryPool>) -> Arc<ConnectionMemory> {
        Arc::new(ConnectionMemory {
            pool,
            signal: Notify::new(),
            is_told_to_close: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
        })
    }

    /// For a request that is being handled: counts what it has decoded and what it builds.
    pub fn working_memory(self: &Arc<Self>) -> WorkingMemory {
        WorkingMemory { connection: Arc::clone(self), key: None, bytes: 0 }
    }
}

/// Memory that the handling of one request takes. What goes over the bound of the pool closes the connections that
/// hold most, which may be its own.
#[derive(Debug)]
pub struct WorkingMemory {
    connection: Arc<ConnectionMemory>,
    key: Option<u64>,
    bytes: usize,
}

impl WorkingMemory {
    /// It takes so many bytes by now. The first [`ALLOWANCE_BYTES`] are not counted, and cost nothing.
    pub fn grow_to(&mut self, bytes: usize) {
        let Some(more) = bytes.checked_sub(ALLOWANCE_BYTES + self.bytes).filter(|more| *more > 0) else { return };
        // In steps, so that what is built piece by piece is not counted piece by piece.
        let more = more.next_multiple_of(ALLOWANCE_BYTES);
        let (pool, now) = (&self.connection.pool, Instant::now());
        let mut state = pool.state();
        let key = match self.key {
            Some(key) => key,
            None => *self.key.insert(state.open(&self.connection, WaitsFor::Service, now)),
        };
        state.add(key, more);
        self.bytes += more;
        state.enforce(pool.bytes_max(), now);
    }
}

impl Drop for WorkingMemory {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.connection.pool.state().remove(key, self.bytes);
        }
    }
}

/// One connection's part of the pool. Whatever it still holds goes back when it is dropped.
#[derive(Debug)]
pub struct Account {
    connection: Arc<ConnectionMemory>,
    key: Option<u64>,
    /// For the request that is arriving.
    request_bytes: usize,
    answer_bytes: usize,
}

impl Account {
    pub fn new(connection: Arc<ConnectionMemory>) -> Account {
        Account { connection, key: None, request_bytes: 0, answer_bytes: 0 }
    }

    /// Whether there are so many unsent answers that they are counted: nothing that is counted is received meanwhile.
    pub fn has_answers(&self) -> bool {
        self.answer_bytes > 0
    }

    /// Whether it counts anything. Cheap, and false for a connection of small requests.
    pub fn is_open(&self) -> bool {
        self.key.is_some()
    }

    /// Whether others need the memory that the connection or its requests hold.
    pub fn standing(&self) -> Standing {
        match self.connection.is_told_to_close.load(Ordering::Relaxed) {
            false => Standing::Good,
            true => Standing::Overdue,
        }
    }

    /// Its key among the holders, eldest by when it began to hold memory.
    fn open(&mut self, state: &mut State, now: Instant) -> u64 {
        match self.key.filter(|key| state.holders.contains_key(key)) {
            Some(key) => key,
            None => *self.key.insert(state.open(&self.connection, WaitsFor::Peer, now)),
        }
    }

    /// How much of the request that arrives may be held without asking for more memory.
    pub fn request_room(&self) -> usize {
        self.request_bytes.max(REQUEST_BYTES_FREE)
    }

    /// Makes room for the first `bytes` of the request that arrives, which will be `length` long. `false` if it has to
    /// wait until [`Account::signalled`].
    pub fn grow_request(&mut self, bytes: usize, length: usize, now: Instant) -> bool {
        let Some(more) = bytes.checked_sub(self.request_bytes).filter(|more| *more > 0) else { return true };
        let pool = Arc::clone(&self.connection.pool);
        let mut state = pool.state();
        let key = self.open(&mut state, now);
        let limit = if length > MEDIUM_BYTES_MAX { pool.limit / 2 } else { pool.limit };
        if let Some(holder) = state.holders.get_mut(&key) {
            holder.is_receiving = true;
            holder.grows_below = limit;
        }
        // Who is not the eldest goes on below the limit alone. So what the others have ends with them, or with who is
        // closed for it, and the eldest never waits for one that waits for it.
        let of_others = state.used - state.holders.get(&key).map_or(0, |holder| holder.bytes);
        let may_grow =
            state.used < limit || of_others < pool.limit + OVERSHOOT_BYTES && state.eldest_receiving() == Some(key);
        if may_grow {
            state.set_waits_for(key, WaitsFor::Peer, now);
            state.add(key, more);
            self.request_bytes = bytes;
            state.wake_eldest();
        } else {
            state.set_waits_for(key, WaitsFor::Memory, now);
            state.close_overdue(now);
        }
        may_grow
    }

    /// The request has arrived: what it holds is the request's own from here on. `None` if it holds nothing.
    pub fn finish_request(&mut self, now: Instant) -> Option<Charge> {
        let bytes = std::mem::take(&mut self.request_bytes);
        let key = self.key.filter(|_| bytes > 0)?;
        let mut state = self.connection.pool.state();
        if let Some(holder) = state.holders.get_mut(&key) {
            holder.is_receiving = false;
            holder.progressed = now;
        }
        // The next is the eldest now.
        state.wake_eldest();
        drop(state);
        Some(Charge { pool: Arc::clone(&self.connection.pool), key, bytes })
    }

    /// Nobody wants the request that arrives any more, and nobody waits for it.
    pub fn give_up_request(&mut self, now: Instant) {
        let bytes = std::mem::take(&mut self.request_bytes);
        let Some(key) = self.key else { return };
        let mut state = self.connection.pool.state();
        state.set_waits_for(key, WaitsFor::Service, now);
        if let Some(holder) = state.holders.get_mut(&key) {
            holder.is_receiving = false;
        }
        state.remove(key, bytes);
    }

    /// Memory for a short request beyond the allowance, if there is any.
    pub fn charge(&mut self, bytes: usize, now: Instant) -> Option<Charge> {
        let pool = Arc::clone(&self.connection.pool);
        let mut state = pool.state();
        if state.used >= pool.limit {
            return None;
        }
        let key = self.open(&mut state, now);
        state.add(key, bytes);
        drop(state);
        Some(Charge { pool, key, bytes })
    }

    /// Counts the unsent answers, whether there is room or not: they are in memory already.
    pub fn set_answers(&mut self, unsent_bytes: usize, now: Instant) {
        let bytes = unsent_bytes.saturating_sub(ALLOWANCE_BYTES);
        if bytes == self.answer_bytes {
            return;
        }
        let pool = Arc::clone(&self.connection.pool);
        let mut state = pool.state();
        let key = self.open(&mut state, now);
        match bytes.checked_sub(self.answer_bytes) {
            Some(more) => state.add(key, more),
            None => state.remove(key, self.answer_bytes - bytes),
        }
        self.answer_bytes = bytes;
        if bytes > 0 {
            state.set_waits_for(key, WaitsFor::Peer, now);
        }
        state.enforce(pool.bytes_max(), now);
    }

    /// The peer has sent or taken so many bytes.
    pub fn moved(&mut self, bytes: usize, now: Instant) {
        if let Some(key) = self.key
            && let Some(holder) = self.connection.pool.state().holders.get_mut(&key)
        {
            holder.moved(bytes, now);
        }
    }

    /// Before the connection waits: for its peer if it receives a request or has unsent answers, else for an answer.
    /// One that waits for memory goes on waiting for it.
    pub fn settle(&mut self, now: Instant) {
        let Some(key) = self.key else { return };
        let mut state = self.connection.pool.state();
        match state.holders.get(&key) {
            None => self.key = None,
            Some(holder) if holder.waits_for == WaitsFor::Memory => {}
            Some(_) if self.request_bytes + self.answer_bytes > 0 => state.set_waits_for(key, WaitsFor::Peer, now),
            Some(_) => state.set_waits_for(key, WaitsFor::Service, now),
        }
    }

    /// Waits until there may be memory for the request that arrives, or the connection is told to close. Dropping it
    /// loses nothing.
    pub async fn signalled(&self) {
        match self.key {
            // Boxed, since nearly every connection never gets here.
            Some(key) => Box::pin(self.wait_for_memory(key)).await,
            None => self.connection.signal.notified().await,
        }
    }

    async fn wait_for_memory(&self, key: u64) {
        let signal = &self.connection.signal;
        loop {
            let wake_at = {
                let now = Instant::now();
                let mut state = self.connection.pool.state();
                let waits = state.holders.get(&key).is_some_and(|holder| holder.waits_for == WaitsFor::Memory);
                waits.then(|| {
                    state.close_overdue(now);
                    let next = [WaitsFor::Peer, WaitsFor::Service].map(|who| state.most_overdue(who));
                    let next = next.into_iter().flatten().map(|(at, _)| at).min();
                    next.map_or(now + PATIENCE, |at| at.clamp(now + Duration::from_millis(1), now + PATIENCE))
                })
            };
            let Some(wake_at) = wake_at else { return signal.notified().await };
            tokio::select! {
                () = signal.notified() => return,
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.connection.is_closed.store(true, Ordering::Relaxed);
        // A request of a connection without an account open may hold memory and be told to close.
        if self.key.is_none() && self.standing() == Standing::Good {
            return;
        }
        let mut state = self.connection.pool.state();
        // Requests of it that are still being handled, or kept, hold what they hold: nothing of it is about to go.
        let mut stays = 0;
        for holder in state.holders.values_mut().filter(|holder| Arc::ptr_eq(&holder.connection, &self.connection)) {
            holder.is_connected = false;
            if std::mem::take(&mut holder.is_told_to_close) {
                stays += holder.bytes;
            }
        }
        state.leaving -= stays;
        let Some(key) = self.key else { return };
        state.set_waits_for(key, WaitsFor::Service, Instant::now());
        if let Some(holder) = state.holders.get_mut(&key) {
            holder.is_receiving = false;
        }
        state.remove(key, self.request_bytes + self.answer_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn pool() -> Arc<MemoryPool> {
        MemoryPool::new(4 * MIB, 2 * MIB)
    }

    fn account(pool: &Arc<MemoryPool>) -> Account {
        Account::new(ConnectionMemory::new(Arc::clone(pool)))
    }

    #[tokio::test]
    async fn only_the_eldest_request_grows_beyond_the_limit_and_not_for_ever() {
        let (pool, now) = (pool(), Instant::now());
        let [mut eldest, mut second, mut third] = [account(&pool), account(&pool), account(&pool)];
        assert!(eldest.grow_request(MIB, 2 * MIB, now));
        assert!(second.grow_request(2 * MIB, 2 * MIB, now));
        assert!(third.grow_request(2 * MIB, 2 * MIB, now), "it began below the limit");
        assert!(!third.grow_request(2 * MIB + 1, 2 * MIB, now));
        assert!(eldest.grow_request(2 * MIB, 2 * MIB, now), "beyond the limit");
        let finished = eldest.finish_request(now).expect("it holds memory");
        assert!(!third.grow_request(2 * MIB + 1, 2 * MIB, now), "the second is the eldest now");
        let mut work = ConnectionMemory::new(Arc::clone(&pool)).working_memory();
        work.grow_to(2 * MIB + ALLOWANCE_BYTES);
        assert_eq!(pool.used_bytes(), pool.bytes_max());
        assert!(!second.grow_request(3 * MIB, 3 * MIB, now), "others have too much for the eldest, too");
        drop(finished);
        assert!(second.grow_request(3 * MIB, 3 * MIB, now));
        drop((eldest, second, third, work));
        assert_eq!(pool.used_bytes(), 0);
    }

    #[tokio::test]
    async fn long_requests_leave_room_for_medium_ones() {
        let (pool, now) = (pool(), Instant::now());
        let [mut first, mut long, mut medium] = [account(&pool), account(&pool), account(&pool)];
        assert!(first.grow_request(2 * MIB, 2 * MIB, now));
        assert!(!long.grow_request(MIB, MEDIUM_BYTES_MAX + 1, now));
        assert!(medium.grow_request(MIB, MEDIUM_BYTES_MAX, now));
    }

    #[tokio::test]
    async fn a_peer_that_drips_is_closed_and_one_that_was_kept_waiting_is_not() {
        let (pool, began) = (pool(), Instant::now());
        let [mut drips, mut kept_waiting, mut waits] = [account(&pool), account(&pool), account(&pool)];
        assert!(drips.grow_request(2 * MIB, 2 * MIB, began));
        assert!(kept_waiting.grow_request(2 * MIB, 2 * MIB, began));
        assert!(!kept_waiting.grow_request(2 * MIB + 1, 2 * MIB, began));
        for second in 0..8 {
            drips.moved(100_000, began + Duration::from_secs(second));
        }
        // It moves often, and too slowly: after the patience and the time that its bytes are worth it is overdue.
        assert!(!waits.grow_request(MIB, MIB, began + Duration::from_secs(5)));
        assert_eq!(drips.standing(), Standing::Good);
        assert!(!waits.grow_request(MIB, MIB, began + Duration::from_secs(6)));
        assert_eq!((drips.standing(), kept_waiting.standing()), (Standing::Overdue, Standing::Good));
        drop(drips);
        let now = began + Duration::from_secs(60);
        assert!(kept_waiting.grow_request(2 * MIB + 1, 2 * MIB, now) && waits.grow_request(MIB, MIB, now));
        assert!(waits.grow_request(2 * MIB, 2 * MIB, now));
        assert!(!waits.grow_request(3 * MIB, 2 * MIB, now + Duration::from_secs(1)));
        assert_eq!(kept_waiting.standing(), Standing::Good, "its patience begins when it no longer waits");
    }

    async fn is_woken(account: &Account) -> bool {
        tokio::select! {
            biased;
            () = account.connection.signal.notified() => true,
            () = std::future::ready(()) => false,
        }
    }

    #[tokio::test]
    async fn a_long_request_that_cannot_go_on_does_not_keep_a_medium_one_waiting() {
        let (pool, now) = (pool(), Instant::now());
        let [mut eldest, mut long, mut second, mut medium] = [(); 4].map(|()| account(&pool));
        assert!(eldest.grow_request(2 * MIB, 2 * MIB, now));
        assert!(!long.grow_request(MIB, MEDIUM_BYTES_MAX + 1, now));
        assert!(second.grow_request(2 * MIB, 2 * MIB, now));
        assert!(!medium.grow_request(MIB, MEDIUM_BYTES_MAX, now));
        drop(second);
        assert!(!is_woken(&long).await, "half is used still");
        assert!(is_woken(&medium).await);
    }

    #[tokio::test]
    async fn the_next_goes_on_as_the_eldest_once_the_eldest_has_arrived() {
        let (pool, now) = (pool(), Instant::now());
        let [mut eldest, mut second] = [(); 2].map(|()| account(&pool));
        assert!(eldest.grow_request(4 * MIB, MEDIUM_BYTES_MAX, now));
        assert!(!second.grow_request(MIB, MEDIUM_BYTES_MAX, now));
        let finished = eldest.finish_request(now);
        assert!(is_woken(&second).await);
        assert!(second.grow_request(MIB, MEDIUM_BYTES_MAX, now));
        drop(finished);
    }

    #[tokio::test]
    async fn who_gave_its_request_up_is_not_the_eldest() {
        let (pool, now) = (pool(), Instant::now());
        let [mut handled, mut gone, mut second] = [(); 3].map(|()| account(&pool));
        assert!(handled.grow_request(4 * MIB, MEDIUM_BYTES_MAX, now));
        let handled = (handled.finish_request(now), handled);
        let mut work = ConnectionMemory::new(Arc::clone(&pool)).working_memory();
        work.grow_to(OVERSHOOT_BYTES + ALLOWANCE_BYTES);
        assert!(!gone.grow_request(MIB, MEDIUM_BYTES_MAX, now) && !second.grow_request(MIB, MEDIUM_BYTES_MAX, now));
        gone.give_up_request(now);
        drop(work);
        assert!(is_woken(&second).await && second.grow_request(MIB, MEDIUM_BYTES_MAX, now));
        drop((handled, second));
        assert_eq!(pool.used_bytes(), 0);
    }

    #[tokio::test]
    async fn a_request_that_outlives_its_connection_is_not_waited_for() {
        let (pool, began) = (pool(), Instant::now());
        let connection = ConnectionMemory::new(Arc::clone(&pool));
        let mut outlives = connection.working_memory();
        let closed = Account::new(connection);
        outlives.grow_to(20 * MIB);
        assert_eq!(closed.standing(), Standing::Overdue);
        drop(closed);
        let [mut stalls, mut waits] = [(); 2].map(|()| account(&pool));
        outlives.grow_to(21 * MIB);
        stalls.set_answers(MIB, began);
        let now = began + PATIENCE;
        assert!(!waits.grow_request(MIB, MIB, now));
        assert_eq!(stalls.standing(), Standing::Overdue, "nothing else is about to go");
        drop((outlives, stalls, waits));
        assert_eq!((pool.used_bytes(), pool.state().leaving), (0, 0));
    }

    #[tokio::test]
    async fn who_takes_more_than_all_others_pays_for_it_alone() {
        let (pool, now) = (pool(), Instant::now());
        let [mut sends, mut reads] = [(); 2].map(|()| account(&pool));
        assert!(sends.grow_request(MIB, MIB, now));
        reads.set_answers(MIB, now);
        let giant = account(&pool);
        let mut work = giant.connection.working_memory();
        work.grow_to(20 * MIB);
        assert_eq!(giant.standing(), Standing::Overdue);
        assert_eq!((sends.standing(), reads.standing()), (Standing::Good, Standing::Good));
    }

    #[tokio::test]
    async fn beyond_the_bound_who_stalls_is_closed_then_who_holds_much_then_who_waits_for_its_peer() {
        let (pool, began) = (MemoryPool::new(4 * MIB, 0), Instant::now());
        let [mut stalled, mut reads] = [(); 2].map(|()| account(&pool));
        stalled.set_answers(2 * MIB, began.checked_sub(PATIENCE).expect("the machine runs for longer"));
        reads.set_answers(2 * MIB, began);
        let [small, large] = [(); 2].map(|()| account(&pool));
        let mut little = small.connection.working_memory();
        little.grow_to(MIB);
        let mut much = large.connection.working_memory();
        let closed = || [&stalled, &reads, &small, &large].map(|account| account.standing() == Standing::Overdue);
        much.grow_to(MIB);
        assert_eq!(closed(), [false; 4]);
        much.grow_to(3 * MIB);
        assert_eq!(closed(), [true, false, false, false]);
        much.grow_to(4 * MIB);
        assert_eq!(closed(), [true, false, false, true]);
        little.grow_to(2 * MIB);
        assert_eq!(closed(), [true, false, false, true]);
        let mut more = account(&pool).connection.working_memory();
        more.grow_to(2 * MIB);
        let mut last = small.connection.working_memory();
        last.grow_to(2 * MIB);
        assert_eq!(closed(), [true, true, false, true]);
        drop((little, much, more, last, stalled, reads));
        assert_eq!(pool.used_bytes(), 0);
    }
}
