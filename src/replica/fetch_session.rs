//! Incremental fetch sessions (KIP-227): a fetcher names its partitions once, and from then on only what changes.
//! The cache is bounded; a session that is in the way of another is evicted by the rules below, and its fetcher simply
//! starts over with a full fetch.
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
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/FetchSession.scala.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::TopicId;
use crate::protocol::error_code::ErrorCode;
use crate::replica::partition::FetchParams;

/// Stands for "no session" on the wire.
pub const NO_SESSION: i32 = 0;
/// Asks for a new session.
const INITIAL_EPOCH: i32 = 0;
/// Asks for no session.
const FINAL_EPOCH: i32 = -1;
/// A session is safe from others of its kind for this long after it was last used, or made.
const EVICTION_AFTER_MS: i64 = 120_000;

/// How the fetcher names a topic: by name up to version 12 of Fetch, by id from 13 on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TopicKey {
    Name(Arc<str>),
    Id(TopicId),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PartitionKey {
    pub topic: TopicKey,
    pub partition: i32,
}

/// What the reply says of one partition, as far as sessions care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    pub records_bytes: usize,
    pub high_watermark: i64,
    pub log_start_offset: i64,
    pub error: ErrorCode,
    /// A diverging epoch or a preferred read replica, which must reach the fetcher.
    pub is_redirect: bool,
}

/// How the reply to a request is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Context {
    Sessionless,
    /// Answer everything, and remember it if there is room.
    Full {
        uses_topic_ids: bool,
        is_follower: bool,
    },
    /// Answer what is news. `next_epoch` is the session's epoch after this request; another one at reply time means that
    /// a duplicate request has come in between.
    Incremental {
        session_id: i32,
        next_epoch: i32,
    },
    /// Answer the error alone.
    Refused {
        error: ErrorCode,
    },
}

/// The header of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHead {
    pub error: ErrorCode,
    pub session_id: i32,
}

#[derive(Debug)]
struct CachedPartition {
    key: PartitionKey,
    params: FetchParams,
    /// As last told to the fetcher; -1 when it must be told again.
    high_watermark: i64,
    log_start_offset: i64,
}

/// The partitions of one session, in the order in which they are read next.
#[derive(Debug, Default)]
struct Partitions {
    by_turn: BTreeMap<u64, CachedPartition>,
    turns: HashMap<PartitionKey, u64>,
    next_turn: u64,
}

impl Partitions {
    fn push(&mut self, partition: CachedPartition) {
        let turn = self.next_turn;
        self.next_turn += 1;
        self.turns.insert(partition.key.clone(), turn);
        self.by_turn.insert(turn, partition);
    }

    fn update(&mut self, key: PartitionKey, params: FetchParams) {
        if let Some(known) = self.turns.get(&key).and_then(|turn| self.by_turn.get_mut(turn)) {
            known.params = params;
        } else {
            self.push(CachedPartition { key, params, high_watermark: -1, log_start_offset: -1 });
        }
    }

    fn forget(&mut self, key: &PartitionKey) {
        if let Some(turn) = self.turns.remove(key) {
            self.by_turn.remove(&turn);
        }
    }

    /// Whether the fetcher must hear of this, and notes what it heard. A partition that had records goes to the end, so
    /// that none starves behind a busy one when the reply is full.
    fn answer(&mut self, key: &PartitionKey, answered: &Answered) -> bool {
        let Some(&turn) = self.turns.get(key) else { return true };
        let Some(known) = self.by_turn.get_mut(&turn) else { return true };
        let is_news = answered.records_bytes > 0
            || known.high_watermark != answered.high_watermark
            || known.log_start_offset != answered.log_start_offset
            || answered.is_redirect
            || answered.error.is_error();
        known.high_watermark = if answered.error.is_error() { -1 } else { answered.high_watermark };
        known.log_start_offset = answered.log_start_offset;
        if answered.records_bytes > 0
            && let Some(partition) = self.by_turn.remove(&turn)
        {
            self.push(partition);
        }
        is_news
    }
}

#[derive(Debug)]
struct Session {
    partitions: Partitions,
    /// What the next incremental request must carry.
    epoch: i32,
    uses_topic_ids: bool,
    /// Followers outlive consumers in the cache.
    privileged: bool,
    created_ms: i64,
    last_used_ms: i64,
    /// Partitions at the last use, by which sessions compare for eviction.
    size: usize,
}

/// All sessions of this broker, at most `max.incremental.fetch.session.cache.slots`.
#[derive(Debug)]
pub struct FetchSessions {
    cache: Mutex<Cache>,
}

#[derive(Debug)]
struct Cache {
    slots: usize,
    sessions: HashMap<i32, Session>,
}

fn epoch_after(epoch: i32) -> i32 {
    match epoch {
        i32::MAX => 1,
        epoch if epoch < 0 => FINAL_EPOCH,
        epoch => epoch + 1,
    }
}

/// What a Fetch request says about its session.
#[derive(Clone, Copy, Debug)]
pub struct SessionRequest {
    pub session_id: i32,
    pub session_epoch: i32,
    pub uses_topic_ids: bool,
    pub is_follower: bool,
}

impl FetchSessions {
    pub fn new(slots: usize) -> FetchSessions {
        FetchSessions { cache: Mutex::new(Cache { slots, sessions: HashMap::new() }) }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.cache().sessions.len()
    }

    /// Settles which partitions a request reads, in which order, and how it is to be answered.
    pub fn open(
        &self,
        request: SessionRequest,
        fetched: Vec<(PartitionKey, FetchParams)>,
        forgotten: &[PartitionKey],
        now_ms: i64,
    ) -> (Context, Vec<(PartitionKey, FetchParams)>) {
        let SessionRequest { session_id, session_epoch, uses_topic_ids, is_follower } = request;
        if session_epoch == FINAL_EPOCH || session_epoch == INITIAL_EPOCH {
            if session_id != NO_SESSION {
                self.cache().sessions.remove(&session_id);
            }
            let context = match session_epoch {
                FINAL_EPOCH => Context::Sessionless,
                _ => Context::Full { uses_topic_ids, is_follower },
            };
            return (context, fetched);
        }
        let refused = |error| (Context::Refused { error }, Vec::new());
        let mut cache = self.cache();
        let Some(session) = cache.sessions.get_mut(&session_id) else {
            return refused(ErrorCode::FetchSessionIdNotFound);
        };
        if session.epoch != session_epoch {
            return refused(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.uses_topic_ids != uses_topic_ids {
            return refused(ErrorCode::FetchSessionTopicIdError);
        }
        // Kept in case the session ends with this request, whose own partitions are answered nevertheless.
        for (key, params) in &fetched {
            session.partitions.update(key.clone(), params.clone());
        }
        for key in forgotten {
            session.partitions.forget(key);
        }
        if session.partitions.by_turn.is_empty() {
            cache.sessions.remove(&session_id);
            return (Context::Sessionless, fetched);
        }
        session.last_used_ms = now_ms;
        session.size = session.partitions.by_turn.len();
        session.epoch = epoch_after(session_epoch);
        let reads = session.partitions.by_turn.values().map(|p| (p.key.clone(), p.params.clone())).collect();
        (Context::Incremental { session_id, next_epoch: session.epoch }, reads)
    }

    /// Settles the head of the reply and drops from `answers` what the fetcher need not hear.
    pub fn close<T>(
        &self,
        context: &Context,
        answers: &mut Vec<T>,
        facts: impl Fn(&T) -> (&PartitionKey, &FetchParams, Answered),
        now_ms: i64,
    ) -> ReplyHead {
        match *context {
            Context::Sessionless => ReplyHead { error: ErrorCode::None, session_id: NO_SESSION },
            Context::Refused { error } => {
                answers.clear();
                ReplyHead { error, session_id: NO_SESSION }
            }
            Context::Full { uses_topic_ids, is_follower } => {
                let mut cache = self.cache();
                if !cache.make_room(is_follower, answers.len(), now_ms) {
                    return ReplyHead { error: ErrorCode::None, session_id: NO_SESSION };
                }
                let mut partitions = Partitions::default();
                for (key, params, answered) in answers.iter().map(&facts) {
                    if partitions.turns.contains_key(key) {
                        continue;
                    }
                    partitions.push(CachedPartition {
                        key: key.clone(),
                        params: params.clone(),
                        high_watermark: answered.high_watermark,
                        log_start_offset: answered.log_start_offset,
                    });
                }
                let session_id = cache.unused_id();
                let session = Session {
                    size: partitions.by_turn.len(),
                    partitions,
                    epoch: epoch_after(INITIAL_EPOCH),
                    uses_topic_ids,
                    privileged: is_follower,
                    created_ms: now_ms,
                    last_used_ms: now_ms,
                };
                cache.sessions.insert(session_id, session);
                ReplyHead { error: ErrorCode::None, session_id }
            }
            Context::Incremental { session_id, next_epoch } => {
                let mut cache = self.cache();
                // Evicted meanwhile: Kafka answers from the session object that the request still holds. All that the
                // fetcher can notice is that its next request finds no session.
                let Some(session) = cache.sessions.get_mut(&session_id) else {
                    return ReplyHead { error: ErrorCode::None, session_id };
                };
                if session.epoch != next_epoch {
                    answers.clear();
                    return ReplyHead { error: ErrorCode::InvalidFetchSessionEpoch, session_id };
                }
                answers.retain(|answer| {
                    let (key, _, answered) = facts(answer);
                    session.partitions.answer(key, &answered)
                });
                ReplyHead { error: ErrorCode::None, session_id }
            }
        }
    }
}

impl Cache {
    fn unused_id(&self) -> i32 {
        loop {
            let id = rand::random_range(1..i32::MAX);
            if !self.sessions.contains_key(&id) {
                return id;
            }
        }
    }

    /// Evicts, if it must and may: first whoever has not been used for long, else the smallest session that is not
    /// larger than the new one and has had its time; a follower also pushes out any consumer.
    fn make_room(&mut self, privileged: bool, size: usize, now_ms: i64) -> bool {
        if self.sessions.len() < self.slots {
            return true;
        }
        let stalest = self.sessions.iter().min_by_key(|(id, session)| (session.last_used_ms, **id));
        let Some((&stalest, session)) = stalest else { return false };
        if now_ms - session.last_used_ms > EVICTION_AFTER_MS {
            self.sessions.remove(&stalest);
            return true;
        }
        let victim = self
            .sessions
            .iter()
            .filter(|(_, session)| {
                (privileged && !session.privileged) || now_ms - session.created_ms > EVICTION_AFTER_MS
            })
            .map(|(id, session)| (session.privileged, session.size, *id))
            .min();
        match victim {
            Some(victim) if (privileged, size, 0) >= victim => {
                self.sessions.remove(&victim.2);
                true
            }
            Some(_) | None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Offset;

    type Answer = (PartitionKey, FetchParams, Answered);

    fn key(number: i32) -> PartitionKey {
        PartitionKey { topic: TopicKey::Name("orders".into()), partition: number }
    }

    fn params(fetch_offset: i64) -> FetchParams {
        FetchParams {
            fetch_offset: Offset(fetch_offset),
            log_start_offset: Offset(-1),
            bytes_max: 1 << 20,
            current_leader_epoch: None,
            last_fetched_epoch: None,
        }
    }

    fn quiet() -> Answered {
        Answered {
            records_bytes: 0,
            high_watermark: 0,
            log_start_offset: 0,
            error: ErrorCode::None,
            is_redirect: false,
        }
    }

    fn request(session_id: i32, session_epoch: i32) -> SessionRequest {
        SessionRequest { session_id, session_epoch, uses_topic_ids: false, is_follower: false }
    }

    /// Opens, answers every partition with `answered`, closes. Returns the head and the partitions in the reply.
    fn fetch(
        sessions: &FetchSessions,
        request: SessionRequest,
        fetched: &[i32],
        forgotten: &[i32],
        answered: impl Fn(i32) -> Answered,
        now_ms: i64,
    ) -> (ReplyHead, Vec<i32>) {
        let fetched = fetched.iter().map(|&number| (key(number), params(0))).collect();
        let forgotten: Vec<PartitionKey> = forgotten.iter().copied().map(key).collect();
        let (context, reads) = sessions.open(request, fetched, &forgotten, now_ms);
        let mut answers: Vec<Answer> = reads
            .into_iter()
            .map(|(key, params)| {
                let answered = answered(key.partition);
                (key, params, answered)
            })
            .collect();
        let head = sessions.close(&context, &mut answers, |(key, params, answered)| (key, params, *answered), now_ms);
        (head, answers.into_iter().map(|(key, ..)| key.partition).collect())
    }

    #[test]
    fn an_incremental_reply_carries_only_news() {
        let sessions = FetchSessions::new(10);
        let (head, told) = fetch(&sessions, request(0, 0), &[0, 1, 2], &[], |_| quiet(), 0);
        assert_eq!(told, vec![0, 1, 2]);
        let id = head.session_id;
        assert_eq!(fetch(&sessions, request(id, 1), &[], &[], |_| quiet(), 0).1, Vec::<i32>::new());
        let moved = |number| Answered { high_watermark: i64::from(number == 1), ..quiet() };
        assert_eq!(fetch(&sessions, request(id, 2), &[], &[], moved, 0).1, vec![1]);
        assert_eq!(fetch(&sessions, request(id, 3), &[], &[], moved, 0).1, Vec::<i32>::new(), "told once");
        let failed = |number| Answered {
            error: if number == 2 { ErrorCode::NotLeaderOrFollower } else { ErrorCode::None },
            ..moved(number)
        };
        assert_eq!(fetch(&sessions, request(id, 4), &[], &[], failed, 0).1, vec![2]);
        assert_eq!(fetch(&sessions, request(id, 5), &[], &[], failed, 0).1, vec![2], "an error is told every time");
        assert_eq!(fetch(&sessions, request(id, 6), &[], &[], moved, 0).1, vec![2], "and so is its end");
    }

    #[test]
    fn a_partition_that_had_records_is_read_last_the_next_time() {
        let sessions = FetchSessions::new(10);
        let id = fetch(&sessions, request(0, 0), &[0, 1, 2], &[], |_| quiet(), 0).0.session_id;
        let busy = |number| Answered { records_bytes: usize::from(number == 0), ..quiet() };
        fetch(&sessions, request(id, 1), &[], &[], busy, 0);
        let (_, reads) = sessions.open(request(id, 2), Vec::new(), &[], 0);
        assert_eq!(reads.iter().map(|(key, _)| key.partition).collect::<Vec<_>>(), vec![1, 2, 0]);
    }

    #[test]
    fn a_wrong_epoch_an_unknown_id_and_a_change_of_naming_have_each_their_error() {
        let sessions = FetchSessions::new(10);
        let id = fetch(&sessions, request(0, 0), &[0], &[], |_| quiet(), 0).0.session_id;
        let error = |request| fetch(&sessions, request, &[0], &[], |_| quiet(), 0).0.error;
        assert_eq!(error(request(id, 2)), ErrorCode::InvalidFetchSessionEpoch);
        assert_eq!(error(request(id ^ 1, 1)), ErrorCode::FetchSessionIdNotFound);
        assert_eq!(
            error(SessionRequest { uses_topic_ids: true, ..request(id, 1) }),
            ErrorCode::FetchSessionTopicIdError
        );
        assert_eq!(error(request(id, 1)), ErrorCode::None, "refusals leave the session as it was");
    }

    #[test]
    fn a_request_that_a_duplicate_overtook_is_refused_when_it_is_answered() {
        let sessions = FetchSessions::new(10);
        let id = fetch(&sessions, request(0, 0), &[0], &[], |_| quiet(), 0).0.session_id;
        let (context, _) = sessions.open(request(id, 1), Vec::new(), &[], 0);
        fetch(&sessions, request(id, 2), &[], &[], |_| quiet(), 0);
        let mut answers = vec![(key(0), params(0), quiet())];
        let head = sessions.close(&context, &mut answers, |(key, params, answered)| (key, params, *answered), 0);
        assert_eq!(head, ReplyHead { error: ErrorCode::InvalidFetchSessionEpoch, session_id: id });
        assert!(answers.is_empty());
    }

    #[test]
    fn forgetting_the_last_partition_ends_the_session() {
        let sessions = FetchSessions::new(10);
        let id = fetch(&sessions, request(0, 0), &[0, 1], &[], |_| quiet(), 0).0.session_id;
        assert_eq!(fetch(&sessions, request(id, 1), &[], &[0], |_| quiet(), 0).0.session_id, id);
        assert_eq!(fetch(&sessions, request(id, 2), &[], &[1], |_| quiet(), 0).0.session_id, NO_SESSION);
        assert_eq!(sessions.len(), 0);
    }

    #[test]
    fn epochs_wrap_past_the_largest_integer_to_one() {
        assert_eq!(epoch_after(0), 1);
        assert_eq!(epoch_after(i32::MAX), 1);
        assert_eq!(epoch_after(-1), -1);
    }

    #[test]
    fn a_full_cache_evicts_the_stale_then_for_followers_consumers_and_never_the_fresh() {
        let sessions = FetchSessions::new(2);
        let full = |follower, partitions: &[i32], now_ms| {
            let request = SessionRequest { is_follower: follower, ..request(0, 0) };
            fetch(&sessions, request, partitions, &[], |_| quiet(), now_ms).0.session_id
        };
        let (small, large) = (full(false, &[0], 0), full(false, &[0, 1], 1));
        assert_eq!(full(false, &[0, 1, 2], 100), NO_SESSION, "a fresh session is safe from other consumers");
        let follower = full(true, &[0], 200);
        assert_ne!(follower, NO_SESSION);
        let error = |id| fetch(&sessions, request(id, 1), &[], &[], |_| quiet(), 300).0.error;
        assert_eq!(error(small), ErrorCode::FetchSessionIdNotFound, "the smallest consumer went");
        assert_eq!(error(large), ErrorCode::None);
        // Unused for longer than the limit: goes first, whoever asks.
        assert_ne!(full(false, &[0], 200 + EVICTION_AFTER_MS + 1), NO_SESSION);
        assert_eq!(error(follower), ErrorCode::FetchSessionIdNotFound);
    }

    /// Random schedules of many fetchers against a plain model of what each of them has been told.
    #[test]
    fn whatever_the_schedule_a_fetcher_that_applies_its_replies_knows_every_high_watermark() {
        for seed in 0..300_u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut random = |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % below
            };
            let sessions = FetchSessions::new(2);
            let mut high_watermarks = [0_i64; 5];
            // For each fetcher: session id, next epoch, partitions wanted, partitions in the session, what it was told.
            let mut fetchers = vec![(NO_SESSION, 0, vec![0, 1], Vec::<i32>::new(), HashMap::<i32, i64>::new()); 4];
            for step in 0..60 {
                let now_ms = step * 1_000;
                if random(2) == 0 {
                    high_watermarks[random(5) as usize] += 1;
                }
                let (session_id, epoch, wanted, in_session, told) = &mut fetchers[random(4) as usize];
                if random(3) == 0 {
                    let number = random(5) as i32;
                    match wanted.iter().position(|&wanted| wanted == number) {
                        Some(position) if wanted.len() > 1 => drop(wanted.remove(position)),
                        Some(_) => {}
                        None => wanted.push(number),
                    }
                }
                let (added, gone): (Vec<i32>, Vec<i32>) = if *epoch == 0 {
                    (wanted.clone(), Vec::new())
                } else {
                    (
                        wanted.iter().copied().filter(|number| !in_session.contains(number)).collect(),
                        in_session.iter().copied().filter(|number| !wanted.contains(number)).collect(),
                    )
                };
                let busy = random(2) as usize;
                let answered = |number: i32| Answered {
                    records_bytes: busy * usize::from(number == 0),
                    high_watermark: high_watermarks[number as usize],
                    ..quiet()
                };
                let (head, reply) = fetch(&sessions, request(*session_id, *epoch), &added, &gone, answered, now_ms);
                match head.error {
                    ErrorCode::None => {
                        told.retain(|number, _| wanted.contains(number));
                        for number in reply {
                            told.insert(number, high_watermarks[number as usize]);
                        }
                        for number in wanted.iter() {
                            let known = told.get(number).copied();
                            assert_eq!(known, Some(high_watermarks[*number as usize]), "seed {seed} step {step}");
                        }
                        *session_id = head.session_id;
                        *epoch = if head.session_id == NO_SESSION { 0 } else { epoch_after(*epoch) };
                        *in_session = wanted.clone();
                    }
                    _ => {
                        assert_eq!(head.error, ErrorCode::FetchSessionIdNotFound, "seed {seed}: only eviction");
                        (*session_id, *epoch) = (NO_SESSION, 0);
                    }
                }
                assert!(sessions.len() <= 2, "seed {seed}: more sessions than slots");
            }
        }
    }
}
