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
//!   closing connections by the same rule, at once.
//!
//! Source of the setting: kafka 3.9.1 clients/src/main/java/org/apache/kafka/common/memory/SimpleMemoryPool.java.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

/// Bytes of an arriving request that are never counted.
pub const REQUEST_BYTES_FREE: usize = 32 * 1024;
/// Bytes of a connection's unsent answers that are never counted, and of its short requests that wait for answers.
pub const ALLOWANCE_BYTES: usize = 64 * 1024;
/// `max.request.size` of Kafka's producer is 1 MiB.
pub const MEDIUM_BYTES_MAX: usize = 2 * 1024 * 1024;
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
    is_receiving: bool,
    is_connected: bool,
    is_told_to_close: bool,
    /// Since when it holds memory, not counting what it waited for more.
    since: Instant,
    progressed: Instant,
    moved: u64,
    moved_since_progress: u64,
    waits_for_memory_since: Instant,
    /// Memory came free for it, or it is told to close.
    signal: Arc<Notify>,
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

    /// What is never exceeded by more than what one read or one answer adds.
    pub fn bytes_max(&self) -> usize {
        self.limit.saturating_add(self.request_max_bytes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Counting cannot panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
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

    /// Whoever gets memory wakes the next, while there is some.
    fn wake_eldest(&self) {
        if self.waiting > 0
            && let Some(holder) = self.holders.values().find(|holder| holder.waits_for == WaitsFor::Memory)
        {
            holder.signal.notify_one();
        }
    }

    fn is_eldest_receiving(&self, key: u64) -> bool {
        let mut receiving = self.holders.iter().filter(|(_, holder)| holder.is_receiving && !holder.is_told_to_close);
        receiving.next().is_some_and(|(eldest, _)| *eldest == key)
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
            holder.signal.notify_one();
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

/// One connection's part of the pool. Whatever it still holds goes back when it is dropped.
#[derive(Debug)]
pub struct Account {
    pool: Arc<MemoryPool>,
    key: Option<u64>,
    signal: Option<Arc<Notify>>,
    /// For the request that is arriving.
    request_bytes: usize,
    answer_bytes: usize,
}

impl Account {
    pub fn new(pool: Arc<MemoryPool>) -> Account {
        Account { pool, key: None, signal: None, request_bytes: 0, answer_bytes: 0 }
    }

    /// Whether there are so many unsent answers that they are counted: nothing that is counted is received meanwhile.
    pub fn has_answers(&self) -> bool {
        self.answer_bytes > 0
    }

    /// Whether the pool may have anything to tell. Cheap, and false for a connection of small requests.
    pub fn is_open(&self) -> bool {
        self.key.is_some()
    }

    /// Its key among the holders, eldest by when it began to hold memory.
    fn open(&mut self, state: &mut State, now: Instant) -> u64 {
        if let Some(key) = self.key.filter(|key| state.holders.contains_key(key)) {
            return key;
        }
        let key = state.next_key;
        state.next_key += 1;
        let holder = Holder {
            bytes: 0,
            waits_for: WaitsFor::Peer,
            is_receiving: false,
            is_connected: true,
            is_told_to_close: false,
            since: now,
            progressed: now,
            moved: 0,
            moved_since_progress: 0,
            waits_for_memory_since: now,
            signal: Arc::clone(self.signal.get_or_insert_default()),
        };
        state.holders.insert(key, holder);
        self.key = Some(key);
        key
    }

    /// Makes room for the first `bytes` of the request that arrives, which will be `length` long. `false` if it has to
    /// wait until [`Account::signalled`].
    pub fn grow_request(&mut self, bytes: usize, length: usize, now: Instant) -> bool {
        let Some(more) = bytes.checked_sub(self.request_bytes).filter(|more| *more > 0) else { return true };
        let pool = Arc::clone(&self.pool);
        let mut state = pool.state();
        let key = self.open(&mut state, now);
        if let Some(holder) = state.holders.get_mut(&key) {
            holder.is_receiving = true;
        }
        let limit = if length > MEDIUM_BYTES_MAX { pool.limit / 2 } else { pool.limit };
        let may_grow = state.used < limit || state.used < pool.bytes_max() && state.is_eldest_receiving(key);
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
        let mut state = self.pool.state();
        if let Some(holder) = state.holders.get_mut(&key) {
            holder.is_receiving = false;
            holder.progressed = now;
        }
        drop(state);
        Some(Charge { pool: Arc::clone(&self.pool), key, bytes })
    }

    /// Memory for a short request beyond the allowance, if there is any.
    pub fn charge(&mut self, bytes: usize, now: Instant) -> Option<Charge> {
        let pool = Arc::clone(&self.pool);
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
        let pool = Arc::clone(&self.pool);
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
        while state.used - state.leaving > pool.bytes_max() {
            let Some((_, key)) = state.most_overdue(WaitsFor::Peer) else { break };
            state.tell_to_close(key);
        }
    }

    /// The peer has sent or taken so many bytes.
    pub fn moved(&mut self, bytes: usize, now: Instant) {
        if let Some(key) = self.key
            && let Some(holder) = self.pool.state().holders.get_mut(&key)
        {
            holder.moved(bytes, now);
        }
    }

    /// Before the connection waits: for its peer if it receives a request or has unsent answers, else for an answer.
    /// One that waits for memory goes on waiting for it.
    pub fn settle(&mut self, now: Instant) -> Standing {
        let Some(key) = self.key else { return Standing::Good };
        let mut state = self.pool.state();
        match state.holders.get(&key) {
            None => self.key = None,
            Some(holder) if holder.is_told_to_close => return Standing::Overdue,
            Some(holder) if holder.waits_for == WaitsFor::Memory => {}
            Some(_) if self.request_bytes + self.answer_bytes > 0 => state.set_waits_for(key, WaitsFor::Peer, now),
            Some(_) => state.set_waits_for(key, WaitsFor::Service, now),
        }
        Standing::Good
    }

    /// Waits until there may be memory, or the connection is told to close. Never for a connection that is not open.
    /// Dropping it loses nothing.
    pub async fn signalled(&self) {
        let (Some(key), Some(signal)) = (self.key, &self.signal) else { return std::future::pending().await };
        loop {
            let wake_at = {
                let now = Instant::now();
                let mut state = self.pool.state();
                let waits = state.holders.get(&key).is_some_and(|holder| holder.waits_for == WaitsFor::Memory);
                waits.then(|| {
                    state.close_overdue(now);
                    let next = [WaitsFor::Peer, WaitsFor::Service].map(|who| state.most_overdue(who));
                    let next = next.into_iter().flatten().map(|(at, _)| at).min();
                    next.map_or(now + PATIENCE, |at| at.clamp(now + Duration::from_millis(1), now + PATIENCE))
                })
            };
            match wake_at {
                None => return signal.notified().await,
                Some(at) => {
                    tokio::select! {
                        () = signal.notified() => return,
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
            }
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let mut state = self.pool.state();
        // Requests of it that are still being handled, or kept, hold what they hold.
        state.set_waits_for(key, WaitsFor::Service, Instant::now());
        if let Some(holder) = state.holders.get_mut(&key) {
            holder.is_receiving = false;
            holder.is_connected = false;
            if std::mem::take(&mut holder.is_told_to_close) {
                let bytes = holder.bytes;
                state.leaving -= bytes;
            }
        }
        state.remove(key, self.request_bytes + self.answer_bytes);
    }
}
