//! Incremental fetch sessions (KIP-227): a fetcher names its partitions once, and from then on only what changes. A
//! session holds its partitions resolved, and is marked by each of them that changes: a fetch reads those that were
//! marked, those that the fetcher moved, those that it was not told all of, and those whose ISR a follower is not in, and no
//! other.
//!
//! Sessions are bounded in number and in partitions over all of them, and are forgotten when nobody uses them; a session
//! that is in the way of another is evicted by the rules below, and its fetcher simply starts over with a full fetch.
//!
//! | request (session id, epoch) | outcome |
//! |---|---|
//! | any, -1 | no session; an existing one of that id is closed |
//! | any, 0 | an existing one is closed; a new one is made if the cache has room |
//! | unknown, > 0 | FETCH_SESSION_ID_NOT_FOUND |
//! | known, not the expected epoch | INVALID_FETCH_SESSION_EPOCH |
//! | known, but made with topic names where ids come now, or the reverse | FETCH_SESSION_TOPIC_ID_ERROR |
//! | known, the expected epoch | partitions are added, updated, forgotten; the epoch goes up by one |
//!
//! Lock order: session → partition → watch, and session → cache.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/FetchSession.scala.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::info;

use crate::log::Log;
use crate::metadata::image::Image;
use crate::model::{TOPIC_NAME_BYTES_MAX, TopicId};
use crate::replica::disks::{Asked, Disks, LeftOut, Work};
use crate::replica::error::ReplicaError;
use crate::replica::fetch::{Outcome, PARTITIONS_A_SLICE, PartitionQuery, is_unknown};
use crate::replica::hosted::Hosted;
use crate::replica::partition::{FetchParams, Fetched, Fetcher, Partition};
use crate::replica::partition_log::PartitionLog;
use crate::replica::waiters::{ParkedFetch, SessionWatch, WaitsFor};

/// Stands for "no session" on the wire.
pub const NO_SESSION: i32 = 0;
/// Asks for a new session.
const INITIAL_EPOCH: i32 = 0;
/// Asks for no session.
const FINAL_EPOCH: i32 = -1;
/// A session is safe from others of its kind for this long after it was last used, or made.
const EVICTION_AFTER: Duration = Duration::from_secs(120);
/// A session that was not used for this long is forgotten, though nobody needs its place: by then an idle connection
/// would have been closed too.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// Why a fetch in a session is not answered. The fetcher starts over with a full fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionRefusal {
    UnknownId,
    WrongEpoch,
    /// The session was made with topic names and the request has ids, or the reverse.
    OtherNaming,
}

/// How the fetcher names a topic: by name up to version 12 of Fetch, by id from 13 on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum TopicKey {
    Name(Arc<str>),
    Id(TopicId),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PartitionKey {
    topic: TopicKey,
    partition: i32,
}

impl PartitionKey {
    fn of(query: &PartitionQuery, uses_topic_ids: bool) -> PartitionKey {
        let topic = match &query.topic {
            Some(name) if !uses_topic_ids => TopicKey::Name(Arc::clone(name)),
            _ => TopicKey::Id(query.topic_id),
        };
        PartitionKey { topic, partition: query.partition }
    }
}

/// What a Fetch request says about its session.
#[derive(Clone, Debug)]
pub struct SessionRequest {
    pub session_id: i32,
    pub session_epoch: i32,
    pub uses_topic_ids: bool,
    /// Partitions that the session is to forget; only their names matter.
    pub forgotten: Vec<PartitionQuery>,
}

/// How a request is to be read and answered.
pub(crate) enum Opened<L = Log> {
    /// What it names, without a session.
    Sessionless,
    /// What it names; remembered afterwards, if there is room.
    Full,
    /// What is news in the session.
    Incremental(OpenSession<L>),
    Refused(SessionRefusal),
}

/// A request's hold on its session. Another epoch in the session means that a later request has come in between.
pub(crate) struct OpenSession<L = Log> {
    session: Arc<Session<L>>,
    epoch: i32,
}

/// One partition of a session that is to be read.
pub(crate) struct PendingRead<L = Log> {
    pub slot: u32,
    pub query: PartitionQuery,
    pub hosted: Option<Arc<Partition<L>>>,
}

struct CachedPartition<L> {
    key: PartitionKey,
    /// As it was resolved first: a topic that is made anew is another one, and the fetcher is to hear of it.
    topic: Option<Arc<str>>,
    params: FetchParams,
    /// The place in the order of reading.
    turn: u64,
    /// As last told to the fetcher; -1 when it must be told again.
    high_watermark: i64,
    log_start_offset: i64,
    /// Marks the session when it changes.
    hosted: Option<Arc<Partition<L>>>,
}

impl<L: PartitionLog> CachedPartition<L> {
    fn read(&mut self, slot: u32, watch: &Arc<SessionWatch>, hosted: &Hosted<L>, image: &Image) -> PendingRead<L> {
        let topic_id = match self.key.topic {
            TopicKey::Id(id) => id,
            TopicKey::Name(_) => TopicId::ZERO,
        };
        if self.topic.is_none() {
            self.topic = image.topic_name(topic_id).cloned();
        }
        if self.hosted.as_ref().is_none_or(|known| known.is_closed()) {
            let found = self.topic.as_ref().and_then(|topic| hosted.get(topic, self.key.partition));
            // Whoever watches it takes its lock: see `watch_held_up`. It is read with each fetch until then, and if its log has
            // failed for ever.
            let found = found.filter(|found| !found.is_held_up() && !found.has_failed_log());
            self.hosted = found.inspect(|found| found.watch(watch, slot));
        }
        let query = PartitionQuery {
            topic: self.topic.clone(),
            partition: self.key.partition,
            topic_id,
            params: self.params.clone(),
        };
        PendingRead { slot, query, hosted: self.hosted.clone() }
    }
}

struct Session<L> {
    watch: Arc<SessionWatch>,
    uses_topic_ids: bool,
    state: Mutex<SessionState<L>>,
}

impl<L> Drop for Session<L> {
    fn drop(&mut self) {
        self.watch.close();
    }
}

struct SessionState<L> {
    /// What the next incremental request must carry.
    epoch: i32,
    /// Whoever fetches otherwise may see more, or less.
    fetcher: Option<Fetcher>,
    slots: Vec<Option<CachedPartition<L>>>,
    free: Vec<u32>,
    by_key: HashMap<PartitionKey, u32>,
    /// Forgotten, but marking the session still, each in its slot: whoever ends that takes its lock, while its disk keeps up.
    leaving: Vec<(Arc<Partition<L>>, u32)>,
    /// Slots by turn that a fetch must read: the fetcher does not know all that there is to say of them.
    pending: BTreeMap<u64, u32>,
    next_turn: u64,
    /// Slots from here on are still to become pending: all are to be read.
    all_pending_from: Option<usize>,
}

impl<L> Session<L> {
    fn state(&self) -> MutexGuard<'_, SessionState<L>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L: PartitionLog> Session<L> {
    fn key(&self, read: &PendingRead<L>) -> PartitionKey {
        PartitionKey::of(&read.query, self.uses_topic_ids)
    }

    /// This partition marks the session, which may have forgotten it and have another in its slot by now.
    fn watched(&self, slot: u32, key: &PartitionKey, found: Arc<Partition<L>>) -> Option<Arc<Partition<L>>> {
        let is_wanted = |cached: &&mut CachedPartition<L>| {
            let known = cached.hosted.as_ref();
            cached.key == *key && known.is_none_or(|known| known.is_closed() || Arc::ptr_eq(known, &found))
        };
        if let Some(cached) = self.state().slot(slot).filter(is_wanted) {
            cached.hosted = Some(Arc::clone(&found));
            return Some(found);
        }
        found.unwatch(&self.watch, slot);
        None
    }
}

impl<L: PartitionLog> SessionState<L> {
    fn new(epoch: i32, fetcher: Fetcher) -> SessionState<L> {
        SessionState {
            epoch,
            fetcher: Some(fetcher),
            slots: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            leaving: Vec::new(),
            pending: BTreeMap::new(),
            next_turn: 0,
            all_pending_from: None,
        }
    }

    fn len(&self) -> usize {
        self.by_key.len()
    }

    fn slot(&mut self, slot: u32) -> Option<&mut CachedPartition<L>> {
        self.slots.get_mut(slot as usize).and_then(Option::as_mut)
    }

    fn is_pending(&mut self, slot: u32) {
        if let Some(turn) = self.slot(slot).map(|cached| cached.turn) {
            self.pending.insert(turn, slot);
        }
    }

    /// Goes on with what is to become pending. True if there is more.
    fn grow_pending(&mut self) -> bool {
        let Some(from) = self.all_pending_from else { return false };
        let until = self.slots.len().min(from + PARTITIONS_A_SLICE);
        (from..until).for_each(|slot| self.is_pending(slot as u32));
        self.all_pending_from = (until < self.slots.len()).then_some(until);
        self.all_pending_from.is_some()
    }

    /// The next of what is pending, in the order of reading, and the last turn of them if there may be more. A change of one
    /// of these marks the session from then on.
    fn next_reads(
        &mut self,
        after: Bound<u64>,
        watch: &Arc<SessionWatch>,
        hosted: &Hosted<L>,
        image: &Image,
    ) -> (Vec<PendingRead<L>>, Option<u64>) {
        let SessionState { slots, pending, .. } = self;
        let mut reads = Vec::with_capacity(pending.len().min(PARTITIONS_A_SLICE));
        for (count, (&turn, &slot)) in pending.range((after, Bound::Unbounded)).enumerate() {
            if let Some(cached) = slots.get_mut(slot as usize).and_then(Option::as_mut) {
                reads.push(cached.read(slot, watch, hosted, image));
            }
            if count + 1 == PARTITIONS_A_SLICE {
                return (reads, Some(turn));
            }
        }
        (reads, None)
    }

    fn update(&mut self, query: PartitionQuery, key: PartitionKey) {
        if let Some(&slot) = self.by_key.get(&key) {
            if let Some(cached) = self.slot(slot) {
                // Whoever begins to fetch it anew drops what it is told of it as it was before.
                let is_anew = query.params == cached.params
                    || query.params.current_leader_epoch != cached.params.current_leader_epoch;
                if is_anew {
                    cached.high_watermark = -1;
                }
                cached.params = query.params;
            }
            self.is_pending(slot);
            return;
        }
        let turn = self.next_turn;
        self.next_turn += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.by_key.insert(key.clone(), slot);
        self.pending.insert(turn, slot);
        self.slots[slot as usize] = Some(CachedPartition {
            key,
            topic: query.topic,
            params: query.params,
            turn,
            high_watermark: -1,
            log_start_offset: -1,
            hosted: None,
        });
    }

    fn forget(&mut self, key: &PartitionKey) {
        let Some(slot) = self.by_key.remove(key) else { return };
        if let Some(cached) = self.slots.get_mut(slot as usize).and_then(Option::take) {
            self.pending.remove(&cached.turn);
            match cached.hosted {
                Some(hosted) => self.leaving.push((hosted, slot)),
                None => self.free.push(slot),
            }
        }
    }

    /// Ends that partitions mark the session that it has forgotten.
    fn let_go(&mut self, watch: &SessionWatch) {
        let SessionState { leaving, free, .. } = self;
        for (hosted, slot) in leaving.extract_if(.., |(hosted, _)| !hosted.is_held_up() && !hosted.has_failed_log()) {
            hosted.unwatch(watch, slot);
            free.push(slot);
        }
    }

    /// Takes note of what the fetcher is told. True if it is news.
    fn answer(&mut self, read: &PendingRead<L>, outcome: &Outcome) -> bool {
        let next_turn = self.next_turn;
        let Some(cached) = self.slot(read.slot) else { return true };
        let (turn, told) = (cached.turn, Told::of(outcome));
        let is_news = told.has_records
            || told.is_error
            || told.is_diverging
            || told.is_elsewhere
            || cached.high_watermark != told.high_watermark
            || cached.log_start_offset != told.log_start_offset;
        cached.high_watermark = told.high_watermark;
        cached.log_start_offset = told.log_start_offset;
        // A partition that had records is read last the next time, so that none starves behind a busy one when replies
        // are full.
        if told.has_records {
            cached.turn = next_turn;
            self.next_turn += 1;
            self.pending.remove(&turn);
            self.pending.insert(next_turn, read.slot);
        } else if read.hosted.is_some()
            && outcome.as_ref().is_ok_and(|fetched| told.is_settled(fetched, &read.query.params))
        {
            self.pending.remove(&turn);
        }
        is_news
    }
}

/// What a reply says of one partition, as far as sessions care.
struct Told {
    has_records: bool,
    is_error: bool,
    is_diverging: bool,
    /// The consumer is sent to another replica.
    is_elsewhere: bool,
    /// -1 with an error, so that its end is news; and where logs part, since a follower takes nothing else from that.
    high_watermark: i64,
    log_start_offset: i64,
}

impl Told {
    fn of(outcome: &Outcome) -> Told {
        let fetched = outcome.as_ref().ok();
        Told {
            has_records: fetched.is_some_and(|fetched| fetched.bytes() > 0),
            is_error: fetched.is_none(),
            is_diverging: fetched.is_some_and(|fetched| fetched.diverging.is_some()),
            is_elsewhere: fetched.is_some_and(|fetched| fetched.preferred_read_replica.is_some()),
            high_watermark: fetched
                .filter(|fetched| fetched.diverging.is_none())
                .map_or(-1, |fetched| fetched.bounds.high_watermark.0),
            log_start_offset: fetched.map_or(-1, |fetched| fetched.bounds.log_start_offset.0),
        }
    }

    /// Nothing is left to say until the partition changes, on either side.
    fn is_settled(&self, fetched: &Fetched, params: &FetchParams) -> bool {
        let has_more = self.has_records || params.fetch_offset < fetched.end;
        !has_more && !self.is_diverging && !self.is_elsewhere && !fetched.is_out_of_sync
    }
}

/// What becomes of a session's fetch that finds too little.
pub(crate) enum Parking {
    Parked(Arc<ParkedFetch>),
    /// A partition has changed since it looked.
    LooksAgain,
    /// A later request of the session was let in: this one will be refused.
    Overtaken,
}

impl<L: PartitionLog> OpenSession<L> {
    /// Parks the fetch, unless there is something to do for it at once.
    pub fn park(&self, waits_for: WaitsFor, missing_bytes: i64) -> Parking {
        // A later request changes the epoch under this lock, and ends what is parked then.
        let state = self.session.state();
        if state.epoch != self.epoch {
            return Parking::Overtaken;
        }
        if state.all_pending_from.is_some() {
            return Parking::LooksAgain;
        }
        self.session.watch.park(waits_for, missing_bytes).map_or(Parking::LooksAgain, Parking::Parked)
    }

    /// False once a later request of the session was let in: this one will be refused.
    pub fn is_current(&self) -> bool {
        self.session.state().epoch == self.epoch
    }

    /// Partitions of the session, whether there is something to read of them or not.
    pub fn len(&self) -> usize {
        self.session.state().len()
    }

    /// What is to be read now, in the order of reading. From then on a change of one of these marks the session. Nothing
    /// once a later request was let in, which is to hear of all that has changed.
    pub async fn pending(&self, hosted: &Hosted<L>, image: &Image) -> Vec<PendingRead<L>> {
        let (mut reads, mut after) = (Vec::new(), Bound::Unbounded);
        loop {
            {
                let mut state = self.session.state();
                if state.epoch != self.epoch {
                    return Vec::new();
                }
                if !state.grow_pending() {
                    if after == Bound::Unbounded {
                        self.session.watch.take_marks().into_iter().for_each(|slot| state.is_pending(slot));
                    }
                    let (next, last) = state.next_reads(after, &self.session.watch, hosted, image);
                    match reads.is_empty() {
                        true => reads = next,
                        false => reads.extend(next),
                    }
                    let Some(last) = last else { return reads };
                    after = Bound::Excluded(last);
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Has those watched, on I/O threads, that were not a moment ago since they might have waited for their disk.
    pub async fn watch_held_up(&self, reads: &mut [PendingRead<L>], hosted: &Hosted<L>, disks: &Disks) -> LeftOut {
        let silent = disks.silent_dirs();
        let (mut works, mut unheard) = (Vec::new(), LeftOut::Nothing);
        for (place, read) in reads.iter().enumerate() {
            if place % PARTITIONS_A_SLICE == PARTITIONS_A_SLICE - 1 {
                tokio::task::yield_now().await;
            }
            if read.hosted.is_some() {
                continue;
            }
            let found = read.query.topic.as_ref().and_then(|topic| hosted.get(topic, read.query.partition));
            let Some(found) = found.filter(|found| !found.has_failed_log()) else { continue };
            let dir = found.parent_dir();
            if silent.contains(&dir) {
                unheard = LeftOut::Silent;
                continue;
            }
            let (session, slot, key) = (Arc::downgrade(&self.session), read.slot, self.session.key(read));
            let run = Box::new(move |_: &Asked| {
                let session = session.upgrade()?;
                found.watch(&session.watch, slot);
                session.watched(slot, &key, found)
            });
            works.push(Work { dir, place, run });
        }
        if works.is_empty() {
            return unheard;
        }
        let (watched, left_out) = disks.ask_all(works).await;
        for (place, found) in watched {
            reads[place].hosted = found;
        }
        unheard.max(left_out)
    }

    /// Takes note of what the fetcher is told and drops the rest from the answer. Partitions that are not known come last; of
    /// those whose disks do not answer nothing is said, and they stay to be told.
    pub async fn close(
        &self,
        reads: Vec<PendingRead<L>>,
        outcomes: Vec<Outcome>,
    ) -> Result<Vec<(PartitionQuery, Outcome)>, SessionRefusal> {
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        let mut told = reads.into_iter().zip(outcomes);
        loop {
            {
                let mut state = self.session.state();
                if state.epoch != self.epoch {
                    return Err(SessionRefusal::WrongEpoch);
                }
                for (read, outcome) in told.by_ref().take(PARTITIONS_A_SLICE) {
                    if matches!(outcome, Err(ReplicaError::DiskIsSilent)) {
                        continue;
                    }
                    if state.answer(&read, &outcome) {
                        let answers = if is_unknown(&outcome) { &mut unknown } else { &mut known };
                        answers.push((read.query, outcome));
                    }
                }
            }
            if told.len() == 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
        if known.is_empty() {
            return Ok(unknown);
        }
        known.append(&mut unknown);
        Ok(known)
    }
}

/// The bounds of all sessions together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionLimits {
    pub slots: usize,
    pub partitions: usize,
}

/// Partitions that all sessions may hold, for each of `max.incremental.fetch.session.cache.slots`. One takes about 300
/// bytes, and its topic's name besides if it comes by name: 60 to 110 MB in all under stock settings.
const PARTITIONS_A_SLOT: usize = 200;

impl SessionLimits {
    /// Kafka bounds the sessions alone.
    pub fn of_slots(slots: usize) -> SessionLimits {
        SessionLimits { slots, partitions: slots.saturating_mul(PARTITIONS_A_SLOT) }
    }
}

/// All sessions of this broker.
pub(crate) struct FetchSessions<L = Log> {
    limits: SessionLimits,
    cache: Mutex<Cache<L>>,
    /// There are ended sessions to take.
    has_ended: AtomicBool,
}

struct Cache<L> {
    /// How many were ever made.
    made: u64,
    sessions: HashMap<i32, Entry<L>>,
    /// Which may take long to drop, and are not dropped under the lock.
    ended: Vec<Arc<Session<L>>>,
    /// Of all sessions together.
    partitions: usize,
}

struct Entry<L> {
    session: Arc<Session<L>>,
    /// Followers outlive consumers in the cache.
    privileged: bool,
    created: Instant,
    last_used: Instant,
    /// Partitions at the last use.
    size: usize,
}

fn epoch_after(epoch: i32) -> i32 {
    match epoch {
        i32::MAX => 1,
        epoch if epoch < 0 => FINAL_EPOCH,
        epoch => epoch + 1,
    }
}

impl<L: PartitionLog> FetchSessions<L> {
    pub fn new(limits: SessionLimits) -> FetchSessions<L> {
        let SessionLimits { slots, partitions } = limits;
        info!(
            "Fetch sessions: {slots} (max.incremental.fetch.session.cache.slots) with {partitions} partitions at most, \
             {PARTITIONS_A_SLOT} a slot"
        );
        let cache = Cache { made: 0, sessions: HashMap::new(), ended: Vec::new(), partitions: 0 };
        FetchSessions { limits, cache: Mutex::new(cache), has_ended: AtomicBool::new(false) }
    }

    fn cache(&self) -> MutexGuard<'_, Cache<L>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What may end sessions.
    fn ending<T>(&self, work: impl FnOnce(&mut Cache<L>) -> T) -> T {
        let mut cache = self.cache();
        let outcome = work(&mut cache);
        if !cache.ended.is_empty() {
            self.has_ended.store(true, Ordering::Release);
        }
        outcome
    }

    /// Sessions that have ended since the last call, if there are any: whoever drops them may need a while.
    pub fn take_ended(&self) -> Option<impl Send + use<L>> {
        self.has_ended.swap(false, Ordering::Acquire).then(|| std::mem::take(&mut self.cache().ended))
    }

    /// Each session looks at all that it has: there may be some that cannot mark it, since whoever has their locks waits for a
    /// disk that has failed.
    pub fn look_at_all(&self) {
        let sessions: Vec<_> = self.cache().sessions.values().map(|entry| Arc::clone(&entry.session)).collect();
        for session in sessions {
            let mut state = session.state();
            state.all_pending_from = Some(0);
            session.watch.wake();
        }
    }

    /// Sessions, and the partitions of all of them.
    #[cfg(test)]
    pub fn size(&self) -> (usize, usize) {
        let cache = self.cache();
        (cache.sessions.len(), cache.partitions)
    }

    /// Settles how a request is to be answered. Takes from `fetched` what goes into an existing session.
    pub fn open(
        &self,
        request: &SessionRequest,
        fetcher: Fetcher,
        fetched: &mut Vec<PartitionQuery>,
        now: Instant,
    ) -> Opened<L> {
        let (session_id, session_epoch) = (request.session_id, request.session_epoch);
        if session_epoch == FINAL_EPOCH || session_epoch == INITIAL_EPOCH {
            if session_id != NO_SESSION {
                self.ending(|cache| cache.remove(session_id));
            }
            keep_last_of_each(fetched, request.uses_topic_ids);
            let is_remembered = session_epoch == INITIAL_EPOCH && !fetched.iter().any(names_no_topic);
            return if is_remembered { Opened::Full } else { Opened::Sessionless };
        }
        let known = self.cache().sessions.get(&session_id).map(|entry| Arc::clone(&entry.session));
        let Some(session) = known else { return Opened::Refused(SessionRefusal::UnknownId) };
        let mut state = session.state();
        if state.epoch != session_epoch {
            return Opened::Refused(SessionRefusal::WrongEpoch);
        }
        if session.uses_topic_ids != request.uses_topic_ids {
            return Opened::Refused(SessionRefusal::OtherNaming);
        }
        if fetched.iter().any(names_no_topic) {
            return Opened::Refused(SessionRefusal::UnknownId);
        }
        let key_of = |query: &PartitionQuery| PartitionKey::of(query, request.uses_topic_ids);
        let added = fetched.iter().filter(|query| !state.by_key.contains_key(&key_of(query))).count();
        if added > 0 && !self.ending(|cache| cache.grow(session_id, added, self.limits, now)) {
            // It would have to be refused what it adds, which a session has no words for.
            return Opened::Refused(SessionRefusal::UnknownId);
        }
        for query in fetched.iter() {
            let key = key_of(query);
            state.update(query.clone(), key);
        }
        for query in request.forgotten.iter().filter(|query| !names_no_topic(query)) {
            state.forget(&key_of(query));
        }
        state.let_go(&session.watch);
        if state.len() == 0 {
            drop(state);
            self.ending(|cache| cache.remove(session_id));
            keep_last_of_each(fetched, request.uses_topic_ids);
            return Opened::Sessionless;
        }
        if state.fetcher.replace(fetcher).is_some_and(|before| before != fetcher) {
            state.all_pending_from = Some(0);
        }
        state.epoch = epoch_after(state.epoch);
        let epoch = state.epoch;
        self.cache().touch(session_id, state.len(), now);
        session.watch.fetched(now);
        drop(state);
        Opened::Incremental(OpenSession { session, epoch })
    }

    /// Remembers what a full fetch was told, if there is room. The id of the new session.
    pub async fn create(
        &self,
        uses_topic_ids: bool,
        fetcher: Fetcher,
        answers: &[(PartitionQuery, Outcome)],
        now: Instant,
    ) -> i32 {
        let Some((session_id, session)) = self.make(uses_topic_ids, fetcher, answers.len(), now) else {
            return NO_SESSION;
        };
        for (at, some) in answers.chunks(PARTITIONS_A_SLICE).enumerate() {
            if at > 0 {
                tokio::task::yield_now().await;
            }
            let mut state = session.state();
            for (query, outcome) in some {
                state.update(query.clone(), PartitionKey::of(query, uses_topic_ids));
                // All are read again with the next fetch, which finds out what marks them.
                let told = Told::of(outcome);
                if let Some(Some(cached)) = state.slots.last_mut() {
                    cached.high_watermark = told.high_watermark;
                    cached.log_start_offset = told.log_start_offset;
                }
            }
        }
        session_id
    }

    /// A new session of that size, empty yet.
    fn make(
        &self,
        uses_topic_ids: bool,
        fetcher: Fetcher,
        size: usize,
        now: Instant,
    ) -> Option<(i32, Arc<Session<L>>)> {
        let follower = match fetcher {
            Fetcher::Follower { broker, .. } => Some(broker),
            Fetcher::Consumer { .. } => None,
        };
        let privileged = follower.is_some();
        self.ending(|cache| {
            if !cache.make_room(privileged, size, self.limits, now) {
                return None;
            }
            cache.made += 1;
            let watch = Arc::new(SessionWatch::new(cache.made, follower, now));
            let epoch = epoch_after(INITIAL_EPOCH);
            let state = Mutex::new(SessionState::new(epoch, fetcher));
            let session = Arc::new(Session { watch, uses_topic_ids, state });
            let session_id = cache.unused_id();
            let entry = Entry { session: Arc::clone(&session), privileged, created: now, last_used: now, size };
            cache.sessions.insert(session_id, entry);
            cache.partitions += size;
            Some((session_id, session))
        })
    }

    /// Forgets the sessions that nobody has used for long.
    pub fn forget_unused(&self, now: Instant) {
        let unused = |entry: &Entry<L>| now.saturating_duration_since(entry.last_used) > FORGOTTEN_AFTER;
        self.ending(|cache| {
            let ids: Vec<i32> = cache.sessions.iter().filter(|(_, entry)| unused(entry)).map(|(id, _)| *id).collect();
            ids.into_iter().for_each(|id| cache.remove(id));
        });
    }
}

/// It has a name as no topic has. Sessions do not remember these, which may be a hundred times as long as all else that
/// they hold of a partition, and nobody compares them.
fn names_no_topic(query: &PartitionQuery) -> bool {
    query.topic.as_ref().is_some_and(|topic| topic.len() > TOPIC_NAME_BYTES_MAX)
}

/// A request that names a partition twice means what it says last.
fn keep_last_of_each(fetched: &mut Vec<PartitionQuery>, uses_topic_ids: bool) {
    if fetched.len() < 2 {
        return;
    }
    let mut first: HashMap<PartitionKey, usize> = HashMap::with_capacity(fetched.len());
    let mut kept = 0;
    for at in 0..fetched.len() {
        if names_no_topic(&fetched[at]) {
            fetched.swap(kept, at);
            kept += 1;
            continue;
        }
        match first.entry(PartitionKey::of(&fetched[at], uses_topic_ids)) {
            std::collections::hash_map::Entry::Occupied(known) => fetched.swap(*known.get(), at),
            std::collections::hash_map::Entry::Vacant(new) => {
                new.insert(kept);
                fetched.swap(kept, at);
                kept += 1;
            }
        }
    }
    fetched.truncate(kept);
}

impl<L> Cache<L> {
    fn unused_id(&self) -> i32 {
        loop {
            let id = rand::random_range(1..i32::MAX);
            if !self.sessions.contains_key(&id) {
                return id;
            }
        }
    }

    fn remove(&mut self, id: i32) {
        if let Some(entry) = self.sessions.remove(&id) {
            self.partitions -= entry.size;
            self.ended.push(entry.session);
        }
    }

    fn touch(&mut self, id: i32, size: usize, now: Instant) {
        // Evicted meanwhile: the request is answered from the session that it holds.
        let Some(entry) = self.sessions.get_mut(&id) else { return };
        self.partitions = self.partitions + size - entry.size;
        entry.size = size;
        entry.last_used = now;
    }

    /// Makes room for a new session. For its slot, as Kafka does, go first whoever has not been used for long, else the
    /// smallest session that is not larger than the new one and has had its time; a follower also pushes out any
    /// consumer.
    fn make_room(&mut self, privileged: bool, size: usize, limits: SessionLimits, now: Instant) -> bool {
        if self.sessions.len() >= limits.slots {
            let victim = self.stale(now).or_else(|| {
                let may_go = |entry: &Entry<L>| {
                    (privileged && !entry.privileged) || now.saturating_duration_since(entry.created) > EVICTION_AFTER
                };
                let evictable = self.sessions.iter().filter(|(_, entry)| may_go(entry));
                let least = evictable.map(|(id, entry)| (entry.privileged, entry.size, *id)).min();
                least.filter(|&least| (privileged, size, 0) >= least).map(|(_, _, id)| id)
            });
            match victim {
                Some(victim) => self.remove(victim),
                None => return false,
            }
        }
        self.make_room_for_partitions(None, privileged, size, size, limits, now)
    }

    /// Lets a session have more partitions; without room for them it ends.
    fn grow(&mut self, id: i32, added: usize, limits: SessionLimits, now: Instant) -> bool {
        let Some(entry) = self.sessions.get(&id) else { return false };
        let (privileged, size) = (entry.privileged, entry.size + added);
        if !self.make_room_for_partitions(Some(id), privileged, size, added, limits, now) {
            self.remove(id);
            return false;
        }
        if let Some(entry) = self.sessions.get_mut(&id) {
            entry.size = size;
            self.partitions += added;
        }
        true
    }

    /// Makes room for `added` partitions of a session that then has `size`: first goes whoever has not been used for
    /// long, then the largest consumer that is larger; a follower pushes out any consumer, and then a larger follower.
    /// So nobody takes the room of those who ask for less.
    fn make_room_for_partitions(
        &mut self,
        growing: Option<i32>,
        privileged: bool,
        size: usize,
        added: usize,
        limits: SessionLimits,
        now: Instant,
    ) -> bool {
        if size > limits.partitions {
            return false;
        }
        while self.partitions + added > limits.partitions {
            let stale = self.stale(now).filter(|&id| Some(id) != growing);
            let victim = stale.or_else(|| {
                let others = self.sessions.iter().filter(|(id, _)| Some(**id) != growing);
                let may_go = |entry: &Entry<L>| match (privileged, entry.privileged) {
                    (true, false) => entry.size > 0,
                    (false, true) => false,
                    _ => entry.size > size,
                };
                let evictable = others.filter(|(_, entry)| may_go(entry));
                evictable.map(|(id, entry)| (!entry.privileged, entry.size, *id)).max().map(|(_, _, id)| id)
            });
            match victim {
                Some(victim) => self.remove(victim),
                None => return false,
            }
        }
        true
    }

    /// The session that has not been used for longest, if that is long.
    fn stale(&self, now: Instant) -> Option<i32> {
        let stalest = self.sessions.iter().map(|(id, entry)| (entry.last_used, *id)).min();
        stalest.filter(|(last_used, _)| now.saturating_duration_since(*last_used) > EVICTION_AFTER).map(|(_, id)| id)
    }
}

#[cfg(test)]
#[path = "fetch_session_tests.rs"]
mod tests;
