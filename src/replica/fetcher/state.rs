//! The core of one fetcher: where each of its partitions is, what is to be asked of the leader next, and what an answer, or
//! the outcome of what was done to a log, makes of it.
//!
//! ```text
//!                    the log has no epochs, or the protocol is
//!                    from before truncation on fetch
//!   followed ───────────────────────────────────▶ Truncating ──▶ asks where its last epoch ends ─┐
//!      │                                              ▲                                          │
//!      ▼                                              └── must ask again ────────────── truncates ◀┘
//!   Fetching ◀───────────────────────────────────────────────────────────────────────────┘ done
//!      │ ▲ ▲
//!      │ │ └── appends, or truncates by the epoch that the answer to a fetch gives
//!      │ └──── truncates, restarts, or goes on
//!      ├──▶ OutOfRange: asks for the leader's end, and if that lies no lower, for its start
//!      └──▶ Failed: until it is followed under another epoch
//! ```
//! Whatever fails otherwise is tried again after `replica.fetch.backoff.ms`.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/AbstractFetcherThread.scala.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use log::{debug, error, info, warn};

use crate::log::leader_epochs::EpochEnd;
use crate::model::{LeaderEpoch, Offset, TopicId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::message::Payload;
use crate::protocol::messages::fetch::{
    FetchPartition, FetchRequest, FetchResponse, FetchTopic, ForgottenTopic, PartitionData,
};
use crate::protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use crate::protocol::messages::offset_for_leader_epoch::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use crate::replica::fetcher::session::{Sent, Session};
use crate::replica::follower::{FromLeader, Position};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// How a fetcher asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// For log lines: `[ReplicaFetcher replicaId=1, leaderId=2, fetcherId=0]`.
    pub name: String,
    pub wait_max_ms: i32,
    pub min_bytes: i32,
    /// Of one partition.
    pub max_bytes: i32,
    pub response_max_bytes: i32,
    pub backoff: Duration,
    /// The requests have a place for a session.
    pub has_sessions: bool,
    /// The requests name topics by their ids, if all have one.
    pub has_topic_ids: bool,
    /// Answers to fetches say where to truncate.
    pub truncates_on_fetch: bool,
    /// The leader can be asked where an epoch ends.
    pub asks_for_epochs: bool,
}

/// How a partition begins to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Zero when the controller keeps no ids.
    pub topic_id: TopicId,
    pub leader_epoch: LeaderEpoch,
    pub position: Position,
    /// It counts for the follower's replication quota.
    pub is_throttled: bool,
}

/// What the leader is asked.
#[derive(Debug, PartialEq)]
pub(crate) enum Question {
    Fetch {
        /// All but who asks.
        request: FetchRequest,
        uses_topic_ids: bool,
    },
    EpochEnds(OffsetForLeaderEpochRequest),
    Offsets(ListOffsetsRequest),
}

#[derive(Debug)]
pub(crate) enum Next {
    Ask(Question),
    Work(Vec<Work>),
    /// Nothing to do before then; `None` until a partition comes.
    Wait(Option<Instant>),
}

/// What is to be done to a partition's log.
#[derive(Debug)]
pub(crate) struct Work {
    pub partition: TopicPartition,
    pub stay: u64,
    pub leader_epoch: LeaderEpoch,
    pub task: Task,
}

#[derive(Debug)]
pub(crate) enum Task {
    Append(FromLeader),
    Truncate(Offset),
    TruncateByEpoch { leader: EpochEnd, fallback: Offset },
    RestartAt(Offset),
}

/// What became of that.
#[derive(Debug)]
pub(crate) struct Done {
    pub partition: TopicPartition,
    pub stay: u64,
    pub outcome: Result<Settled, Trouble>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    pub position: Position,
    /// The leader must be asked about an earlier epoch.
    pub must_ask_again: bool,
}

/// Why it was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It may go better a little later, from where the log is now: part of it may have been done.
    Passing { why: String, position: Position },
    /// Not under this leader epoch.
    Lasting(String),
    /// The partition is not followed under this epoch any more.
    Overtaken,
}

/// Where an epoch ends, or an offset, as a leader answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer<T> {
    pub error: ErrorCode,
    pub value: T,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Fetching,
    Truncating,
    /// The leader's end is not known yet.
    OutOfRange,
    /// The leader ends no earlier than this log; where it starts is not known yet.
    PastStart,
    /// Something is being done to the log.
    Busy,
    Failed,
}

struct Followed {
    /// Counts the stays of partitions with this fetcher: an answer to what an earlier one asked is not for this one.
    stay: u64,
    topic_id: TopicId,
    leader_epoch: LeaderEpoch,
    phase: Phase,
    /// Of one that is busy: what it goes back to if that is not done.
    phase_before: Phase,
    /// Where the log ends; while truncating, the high watermark that it began with.
    fetch_offset: Offset,
    last_epoch: Option<LeaderEpoch>,
    log_start_offset: Offset,
    high_watermark: Offset,
    /// As it last said; `None` until it has.
    leader_high_watermark: Option<Offset>,
    delayed_until: Option<Instant>,
}

impl Followed {
    fn is_at(&mut self, position: Position) {
        self.fetch_offset = position.log_end_offset;
        self.last_epoch = position.last_epoch;
        self.log_start_offset = position.log_start_offset;
        self.high_watermark = position.high_watermark;
    }

    /// Has all that its leader has committed, as far as it has been told.
    fn is_in_sync(&self) -> bool {
        self.leader_high_watermark.is_some_and(|committed| committed <= self.fetch_offset)
    }

    fn is_ready(&self) -> bool {
        self.phase == Phase::Fetching && self.delayed_until.is_none()
    }
}

/// Whom the question in flight is about, each in its stay.
#[derive(Debug, Default)]
struct Asked(BTreeMap<TopicPartition, u64>);

/// How long the leader may keep a fetch that leaves out partitions whose disk does not answer: when it has, they are asked for
/// with the next one.
const WAIT_MAX_MS_WITH_SOME_ASIDE: i32 = 50;

pub(crate) struct Fetcher {
    settings: Settings,
    followed: BTreeMap<TopicPartition, Followed>,
    stays: u64,
    failures: u64,
    session: Session,
    /// Of which the leader may have to be told something.
    changed: BTreeSet<TopicPartition>,
    /// About which something else than a fetch is to be asked, or done.
    unsettled: BTreeSet<TopicPartition>,
    delayed: BTreeSet<(Instant, TopicPartition)>,
    throttled: BTreeSet<TopicPartition>,
    /// Whose disks do not answer.
    aside: BTreeSet<TopicPartition>,
    /// Throttled partitions that are not in sync are not fetched now.
    is_quota_exceeded: bool,
    /// The leader was not reached.
    paused_until: Option<Instant>,
    asked: Asked,
    /// Without a session each request names all partitions; the one after that which gave records last comes first.
    last_with_records: Option<TopicPartition>,
}

impl Fetcher {
    pub fn new(settings: Settings) -> Fetcher {
        Fetcher {
            settings,
            followed: BTreeMap::new(),
            stays: 0,
            failures: 0,
            session: Session::default(),
            changed: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            delayed: BTreeSet::new(),
            throttled: BTreeSet::new(),
            aside: BTreeSet::new(),
            is_quota_exceeded: false,
            paused_until: None,
            asked: Asked::default(),
            last_with_records: None,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.followed.is_empty()
    }

    /// How many times a partition was given up until its epoch changes.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// What a partition that is being fetched is fetched as.
    pub fn identity(&self, partition: &TopicPartition) -> Option<(TopicId, LeaderEpoch)> {
        let followed = self.followed.get(partition).filter(|followed| followed.phase != Phase::Failed)?;
        Some((followed.topic_id, followed.leader_epoch))
    }

    // ---- who is followed ----

    /// Begins to fetch a partition, or goes on under another epoch. One that is being fetched under this epoch goes on as
    /// it is.
    pub fn follow(&mut self, partition: TopicPartition, start: &Start) {
        if let Some(known) = self.followed.get(&partition)
            && known.leader_epoch == start.leader_epoch
            && known.phase != Phase::Failed
        {
            self.set_topic_id(&partition, start.topic_id);
            return;
        }
        self.unfollow(&partition);
        self.stays += 1;
        let Position { log_start_offset, high_watermark, log_end_offset, last_epoch } = start.position;
        // Without epochs, an answer to a fetch cannot say where to truncate.
        let begins_at_end = self.settings.truncates_on_fetch && last_epoch.is_some();
        let followed = Followed {
            stay: self.stays,
            topic_id: start.topic_id,
            leader_epoch: start.leader_epoch,
            phase: if begins_at_end { Phase::Fetching } else { Phase::Truncating },
            phase_before: Phase::Fetching,
            fetch_offset: if begins_at_end { log_end_offset } else { high_watermark },
            last_epoch,
            log_start_offset,
            high_watermark,
            leader_high_watermark: None,
            delayed_until: None,
        };
        if start.is_throttled {
            self.throttled.insert(partition.clone());
        }
        self.followed.insert(partition.clone(), followed);
        self.look_at(&partition);
    }

    pub fn unfollow(&mut self, partition: &TopicPartition) {
        let Some(gone) = self.followed.remove(partition) else { return };
        self.unsettled.remove(partition);
        self.throttled.remove(partition);
        self.aside.remove(partition);
        if let Some(due) = gone.delayed_until {
            self.delayed.remove(&(due, partition.clone()));
        }
        self.changed.insert(partition.clone());
    }

    /// The controller has begun to keep topic ids, or keeps none any more.
    pub fn set_topic_id(&mut self, partition: &TopicPartition, topic_id: TopicId) {
        let Some(followed) = self.followed.get_mut(partition) else { return };
        if followed.topic_id != topic_id {
            followed.topic_id = topic_id;
            self.changed.insert(partition.clone());
        }
    }

    pub fn has_throttled(&self) -> bool {
        !self.throttled.is_empty()
    }

    pub fn set_throttled(&mut self, partition: &TopicPartition, is_throttled: bool) {
        let has_changed = match is_throttled && self.followed.contains_key(partition) {
            true => self.throttled.insert(partition.clone()),
            false => self.throttled.remove(partition),
        };
        if has_changed {
            self.changed.insert(partition.clone());
        }
    }

    /// Nothing is asked of a partition that is set aside, nor asked for it.
    pub fn set_aside(&mut self, partition: &TopicPartition, is_aside: bool) {
        let has_changed = match is_aside && self.followed.contains_key(partition) {
            true => self.aside.insert(partition.clone()),
            false => self.aside.remove(partition),
        };
        if has_changed {
            self.look_at(partition);
        }
    }

    /// Something is being done to its log.
    pub fn is_busy(&self, partition: &TopicPartition) -> bool {
        self.followed.get(partition).is_some_and(|followed| followed.phase == Phase::Busy)
    }

    /// Puts a partition among those for which there is something to do.
    fn look_at(&mut self, partition: &TopicPartition) {
        let Some(followed) = self.followed.get(partition) else { return };
        self.changed.insert(partition.clone());
        let is_unsettled = matches!(followed.phase, Phase::Truncating | Phase::OutOfRange | Phase::PastStart);
        if is_unsettled && followed.delayed_until.is_none() && !self.aside.contains(partition) {
            self.unsettled.insert(partition.clone());
        } else {
            self.unsettled.remove(partition);
        }
    }

    fn enter(&mut self, partition: &TopicPartition, phase: Phase) {
        if let Some(followed) = self.followed.get_mut(partition) {
            followed.phase = phase;
            self.look_at(partition);
        }
    }

    fn delay(&mut self, partition: &TopicPartition, now: Instant) {
        let Some(followed) = self.followed.get_mut(partition) else { return };
        let due = now + self.settings.backoff;
        if let Some(before) = followed.delayed_until.replace(due) {
            self.delayed.remove(&(before, partition.clone()));
        }
        self.delayed.insert((due, partition.clone()));
        self.look_at(partition);
    }

    fn fail(&mut self, partition: &TopicPartition, why: &str) {
        warn!("{} Partition {partition} marked as failed: {why}", self.settings.name);
        self.failures += 1;
        self.enter(partition, Phase::Failed);
    }

    // ---- what is next ----

    /// `is_quota_exceeded`: more than may be of throttled partitions has been fetched of late.
    pub fn next(&mut self, now: Instant, is_quota_exceeded: bool) -> Next {
        if std::mem::replace(&mut self.is_quota_exceeded, is_quota_exceeded) != is_quota_exceeded {
            self.changed.extend(self.throttled.iter().cloned());
        }
        while let Some((due, _)) = self.delayed.first()
            && *due <= now
            && let Some((_, partition)) = self.delayed.pop_first()
        {
            if let Some(followed) = self.followed.get_mut(&partition) {
                followed.delayed_until = None;
            }
            self.look_at(&partition);
        }
        if let Some(until) = self.paused_until {
            if now < until {
                return Next::Wait(Some(until));
            }
            self.paused_until = None;
        }
        if let Some(next) = self.settle() {
            return next;
        }
        match self.build_fetch() {
            Some(question) => Next::Ask(question),
            None if is_quota_exceeded && self.has_throttled() => Next::Wait(Some(now + self.settings.backoff)),
            None => Next::Wait(self.delayed.first().map(|(due, _)| *due)),
        }
    }

    /// What comes before the next fetch: questions about truncation.
    fn settle(&mut self) -> Option<Next> {
        let mut to_high_watermark = Vec::new();
        let mut by_phase: BTreeMap<i64, Vec<TopicPartition>> = BTreeMap::new();
        let mut epochs: Vec<(TopicPartition, LeaderEpoch)> = Vec::new();
        for partition in &self.unsettled {
            let Some(followed) = self.followed.get(partition) else { continue };
            match (followed.phase, followed.last_epoch) {
                (Phase::OutOfRange, _) => by_phase.entry(LATEST).or_default().push(partition.clone()),
                (Phase::PastStart, _) => by_phase.entry(EARLIEST).or_default().push(partition.clone()),
                (Phase::Truncating, Some(epoch)) if self.settings.asks_for_epochs => {
                    epochs.push((partition.clone(), epoch));
                }
                (Phase::Truncating, _) => to_high_watermark.push((partition.clone(), followed.fetch_offset)),
                (Phase::Fetching | Phase::Busy | Phase::Failed, _) => {}
            }
        }
        if !to_high_watermark.is_empty() {
            let cut = |(partition, offset)| self.begin(&partition, Task::Truncate(offset));
            return Some(Next::Work(to_high_watermark.into_iter().filter_map(cut).collect()));
        }
        if let Some((timestamp, partitions)) = by_phase.pop_first() {
            self.asked = self.asked(partitions.iter());
            return Some(Next::Ask(Question::Offsets(self.offsets_request(&partitions, timestamp))));
        }
        if epochs.is_empty() {
            return None;
        }
        self.asked = self.asked(epochs.iter().map(|(partition, _)| partition));
        Some(Next::Ask(Question::EpochEnds(self.epochs_request(&epochs))))
    }

    fn asked<'a>(&self, partitions: impl Iterator<Item = &'a TopicPartition>) -> Asked {
        let stay = |name: &TopicPartition| Some((name.clone(), self.followed.get(name)?.stay));
        Asked(partitions.filter_map(stay).collect())
    }

    fn offsets_request(&self, partitions: &[TopicPartition], timestamp: i64) -> ListOffsetsRequest {
        let asked = |name: &TopicPartition| ListOffsetsPartition {
            partition_index: name.partition,
            current_leader_epoch: self.epoch_of(name),
            timestamp,
            ..Default::default()
        };
        let of_topic = |names: &[TopicPartition]| ListOffsetsTopic {
            name: names[0].topic.to_string(),
            partitions: names.iter().map(asked).collect(),
        };
        let topics = partitions.chunk_by(|one, next| one.topic == next.topic).map(of_topic).collect();
        ListOffsetsRequest { topics, ..Default::default() }
    }

    fn epochs_request(&self, epochs: &[(TopicPartition, LeaderEpoch)]) -> OffsetForLeaderEpochRequest {
        let asked = |(name, epoch): &(TopicPartition, LeaderEpoch)| OffsetForLeaderPartition {
            partition: name.partition,
            current_leader_epoch: self.epoch_of(name),
            leader_epoch: epoch.0,
        };
        let of_topic = |epochs: &[(TopicPartition, LeaderEpoch)]| OffsetForLeaderTopic {
            topic: epochs[0].0.topic.to_string(),
            partitions: epochs.iter().map(asked).collect(),
        };
        let topics = epochs.chunk_by(|(one, _), (next, _)| one.topic == next.topic).map(of_topic).collect();
        OffsetForLeaderEpochRequest { topics, ..Default::default() }
    }

    fn epoch_of(&self, partition: &TopicPartition) -> i32 {
        self.followed.get(partition).map_or(-1, |followed| followed.leader_epoch.0)
    }

    /// What the leader is to know of a partition, if it is to be fetched.
    fn wanted(&self, partition: &TopicPartition) -> Option<Sent> {
        let followed = self.followed.get(partition).filter(|followed| followed.is_ready())?;
        if self.aside.contains(partition) {
            return None;
        }
        if self.is_quota_exceeded && self.throttled.contains(partition) && !followed.is_in_sync() {
            return None;
        }
        Some(Sent {
            stay: followed.stay,
            topic_id: followed.topic_id,
            leader_epoch: followed.leader_epoch,
            fetch_offset: followed.fetch_offset,
            last_epoch: followed.last_epoch.filter(|_| self.settings.truncates_on_fetch),
            log_start_offset: followed.log_start_offset,
        })
    }

    fn build_fetch(&mut self) -> Option<Question> {
        let mut told = Vec::new();
        if !self.session.is_full() {
            for partition in std::mem::take(&mut self.changed) {
                match self.wanted(&partition) {
                    Some(sent) => {
                        if self.session.tell(&partition, sent) {
                            told.push((partition, sent));
                        }
                    }
                    None => self.session.forget(&partition),
                }
            }
            let uses_topic_ids = self.settings.has_topic_ids && self.session.has_topic_ids();
            if !self.session.settle_names(uses_topic_ids) {
                self.session.begin_anew();
            }
        }
        if self.session.is_full() {
            told.clear();
            self.changed.clear();
            self.session.clear();
            for partition in self.in_turn() {
                if let Some(sent) = self.wanted(&partition) {
                    self.session.tell(&partition, sent);
                    told.push((partition, sent));
                }
            }
            let uses_topic_ids = self.settings.has_topic_ids && self.session.has_topic_ids();
            self.session.settle_names(uses_topic_ids);
        }
        if self.session.partitions.is_empty() {
            return None;
        }
        Some(self.fetch(&told))
    }

    /// All partitions, beginning behind the one that gave records last.
    fn in_turn(&self) -> Vec<TopicPartition> {
        let names = || self.followed.keys().cloned();
        match &self.last_with_records {
            None => names().collect(),
            Some(last) => {
                let behind = names().skip_while(|name| name <= last);
                behind.chain(names().take_while(|name| name <= last)).collect()
            }
        }
    }

    fn fetch(&mut self, told: &[(TopicPartition, Sent)]) -> Question {
        let uses_topic_ids = self.settings.has_topic_ids && self.session.has_topic_ids();
        let named = |name: &TopicPartition| if uses_topic_ids { String::new() } else { name.topic.to_string() };
        let asked = |(name, sent): &(TopicPartition, Sent)| FetchPartition {
            partition: name.partition,
            current_leader_epoch: sent.leader_epoch.0,
            fetch_offset: sent.fetch_offset.0,
            last_fetched_epoch: sent.last_epoch.map_or(-1, |epoch| epoch.0),
            log_start_offset: sent.log_start_offset.0,
            partition_max_bytes: self.settings.max_bytes,
            ..Default::default()
        };
        let told = told.chunk_by(|one, next| (&one.0.topic, one.1.topic_id) == (&next.0.topic, next.1.topic_id));
        let topics = told.map(|told| {
            let (name, sent) = &told[0];
            FetchTopic { topic: named(name), topic_id: sent.topic_id, partitions: told.iter().map(asked).collect() }
        });
        let forgotten = self.session.take_forgotten();
        let forgotten = forgotten.chunk_by(|one, next| (&one.0.topic, one.1) == (&next.0.topic, next.1));
        let forgotten = forgotten.map(|forgotten| ForgottenTopic {
            topic: named(&forgotten[0].0),
            topic_id: forgotten[0].1,
            partitions: forgotten.iter().map(|(name, _)| name.partition).collect(),
        });
        let (session_id, session_epoch) = match self.settings.has_sessions {
            true => (self.session.id(), self.session.epoch()),
            false => (0, -1),
        };
        let request = FetchRequest {
            max_wait_ms: match self.aside.is_empty() {
                true => self.settings.wait_max_ms,
                false => self.settings.wait_max_ms.min(WAIT_MAX_MS_WITH_SOME_ASIDE),
            },
            min_bytes: self.settings.min_bytes,
            max_bytes: self.settings.response_max_bytes,
            session_id,
            session_epoch,
            topics: topics.collect(),
            forgotten_topics_data: forgotten.collect(),
            ..Default::default()
        };
        Question::Fetch { request, uses_topic_ids }
    }

    // ---- what came of it ----

    /// The leader was not reached, or its answer could not be read.
    pub fn on_unreachable(&mut self, now: Instant) {
        self.session.begin_anew();
        self.asked = Asked::default();
        self.paused_until = Some(now + self.settings.backoff);
    }

    pub fn on_fetched(&mut self, response: FetchResponse, now: Instant) -> Vec<Work> {
        let code = ErrorCode::from_code(response.error_code);
        if code.is_error() {
            info!("{} The leader answers a fetch with {code}; another session begins", self.settings.name);
            self.session.refused(code);
            let is_of_the_session = matches!(
                code,
                ErrorCode::FetchSessionIdNotFound
                    | ErrorCode::InvalidFetchSessionEpoch
                    | ErrorCode::FetchSessionTopicIdError
            );
            if !is_of_the_session {
                self.paused_until = Some(now + self.settings.backoff);
            }
            return Vec::new();
        }
        let mut answered = Vec::new();
        let mut is_as_asked = true;
        for topic in response.responses {
            let name = match topic.topic.is_empty() {
                true => self.session.name(topic.topic_id).cloned(),
                false => Some(Arc::from(topic.topic.as_str())),
            };
            for data in topic.partitions {
                let name = name.clone().map(|topic| TopicPartition { topic, partition: data.partition_index });
                match name.and_then(|name| Some((self.session.partitions.get(&name).copied()?, name))) {
                    Some((sent, name)) => answered.push((name, sent, data)),
                    None => is_as_asked = false,
                }
            }
        }
        is_as_asked &= !self.session.is_full() || answered.len() >= self.session.partitions.len();
        if !is_as_asked {
            info!("{} The leader's answer is not about what was asked; another session begins", self.settings.name);
            self.session.begin_anew();
            self.paused_until = Some(now + self.settings.backoff);
            return Vec::new();
        }
        if self.settings.has_sessions {
            self.session.answered(response.session_id);
        }
        let mut works = Vec::new();
        for (partition, sent, data) in answered {
            // Removed meanwhile, or followed anew: what was asked is not what this is about any more.
            let is_current = self.followed.get(&partition).is_some_and(|followed| {
                followed.stay == sent.stay && followed.is_ready() && followed.fetch_offset == sent.fetch_offset
            });
            if is_current {
                works.extend(self.on_partition(&partition, sent, data, now));
            }
        }
        works
    }

    fn on_partition(
        &mut self,
        partition: &TopicPartition,
        sent: Sent,
        data: PartitionData,
        now: Instant,
    ) -> Option<Work> {
        let name = &self.settings.name;
        match ErrorCode::from_code(data.error_code) {
            ErrorCode::None => return self.on_records(partition, sent, data, now),
            ErrorCode::OffsetOutOfRange => {
                info!("{name} {partition}: offset {} is out of the leader's range", sent.fetch_offset);
                self.enter(partition, Phase::OutOfRange);
                return None;
            }
            ErrorCode::FencedLeaderEpoch => {
                self.fail(partition, &format!("leader epoch {} is fenced", sent.leader_epoch));
                return None;
            }
            code @ (ErrorCode::UnknownLeaderEpoch | ErrorCode::NotLeaderOrFollower) => {
                debug!("{name} {partition} at offset {}: {code}, which may pass", sent.fetch_offset);
            }
            code
            @ (ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId | ErrorCode::InconsistentTopicId) => {
                warn!(
                    "{name} Received {code} from the leader for partition {partition}. This error may be returned \
                     transiently when the partition is being created or deleted, but it is not expected to persist."
                );
            }
            code => error!("{name} {partition} at offset {}: {code}", sent.fetch_offset),
        }
        self.delay(partition, now);
        None
    }

    fn on_records(
        &mut self,
        partition: &TopicPartition,
        sent: Sent,
        data: PartitionData,
        now: Instant,
    ) -> Option<Work> {
        if self.settings.truncates_on_fetch && data.diverging_epoch.epoch >= 0 {
            let leader = EpochEnd {
                epoch: LeaderEpoch(data.diverging_epoch.epoch),
                end_offset: Offset(data.diverging_epoch.end_offset),
            };
            return self.begin(partition, Task::TruncateByEpoch { leader, fallback: sent.fetch_offset });
        }
        let records = match data.records {
            Some(Payload::Bytes(records)) => records,
            None => Bytes::new(),
            Some(_) => {
                error!("{} {partition}: the leader's records have no bytes", self.settings.name);
                self.delay(partition, now);
                return None;
            }
        };
        let followed = self.followed.get_mut(partition)?;
        followed.leader_high_watermark = Some(Offset(data.high_watermark));
        if self.throttled.contains(partition) {
            // It may be in sync now, or not any more.
            self.changed.insert(partition.clone());
        }
        let from_leader = FromLeader {
            records,
            leader_epoch: sent.leader_epoch,
            fetch_offset: sent.fetch_offset,
            high_watermark: Offset(data.high_watermark),
            log_start_offset: Offset(data.log_start_offset),
        };
        let says_something = !from_leader.records.is_empty()
            || from_leader.high_watermark.min(followed.fetch_offset) > followed.high_watermark
            || from_leader.log_start_offset > followed.log_start_offset;
        if !from_leader.records.is_empty() {
            self.last_with_records = Some(partition.clone());
        }
        if says_something { self.begin(partition, Task::Append(from_leader)) } else { None }
    }

    fn begin(&mut self, partition: &TopicPartition, task: Task) -> Option<Work> {
        let followed = self.followed.get_mut(partition)?;
        followed.phase_before = std::mem::replace(&mut followed.phase, Phase::Busy);
        let (stay, leader_epoch) = (followed.stay, followed.leader_epoch);
        self.look_at(partition);
        Some(Work { partition: partition.clone(), stay, leader_epoch, task })
    }

    /// The partition, if the answer is for its present stay, with the error sorted out.
    fn awaited<T>(&mut self, partition: &TopicPartition, answer: Answer<T>, now: Instant) -> Option<T> {
        let stay = self.asked.0.remove(partition)?;
        self.followed.get(partition).filter(|followed| followed.stay == stay)?;
        match answer.error {
            ErrorCode::None => return Some(answer.value),
            ErrorCode::FencedLeaderEpoch => self.fail(partition, "its leader epoch is fenced"),
            code => {
                info!("{} {partition}: the leader answers {code}, which may pass", self.settings.name);
                self.delay(partition, now);
            }
        }
        None
    }

    /// Whoever was asked about and not answered for is asked about again, later.
    fn delay_unanswered(&mut self, now: Instant) {
        for (partition, stay) in std::mem::take(&mut self.asked.0) {
            if self.followed.get(&partition).is_some_and(|followed| followed.stay == stay) {
                self.delay(&partition, now);
            }
        }
    }

    pub fn on_epoch_ends(&mut self, answers: Vec<(TopicPartition, Answer<EpochEnd>)>, now: Instant) -> Vec<Work> {
        let mut works = Vec::new();
        for (partition, answer) in answers {
            let Some(leader) = self.awaited(&partition, answer, now) else { continue };
            let Some(fallback) = self.followed.get(&partition).map(|followed| followed.fetch_offset) else { continue };
            works.extend(self.begin(&partition, Task::TruncateByEpoch { leader, fallback }));
        }
        self.delay_unanswered(now);
        works
    }

    /// The leader's ends, or its starts, of those that were asked about.
    pub fn on_offsets(&mut self, answers: Vec<(TopicPartition, Answer<Offset>)>, now: Instant) -> Vec<Work> {
        let mut works = Vec::new();
        for (partition, answer) in answers {
            let Some(offset) = self.awaited(&partition, answer, now) else { continue };
            let Some(followed) = self.followed.get(&partition) else { continue };
            let (name, own_end) = (&self.settings.name, followed.fetch_offset);
            match followed.phase {
                Phase::OutOfRange if offset < own_end => {
                    warn!(
                        "{name} Reset fetch offset for partition {partition} from {own_end} to the leader's end {offset}"
                    );
                    works.extend(self.begin(&partition, Task::Truncate(offset)));
                }
                Phase::OutOfRange => self.enter(&partition, Phase::PastStart),
                Phase::PastStart if offset > own_end => {
                    warn!(
                        "{name} Truncate fully and start at the leader's start offset {offset} for partition {partition}"
                    );
                    works.extend(self.begin(&partition, Task::RestartAt(offset)));
                }
                Phase::PastStart => {
                    // Within the leader's range after all. If it is refused again, there is no hurry.
                    self.enter(&partition, Phase::Fetching);
                    self.delay(&partition, now);
                }
                Phase::Fetching | Phase::Truncating | Phase::Busy | Phase::Failed => {}
            }
        }
        self.delay_unanswered(now);
        works
    }

    pub fn on_done(&mut self, done: Vec<Done>, now: Instant) {
        for Done { partition, stay, outcome } in done {
            let Some(followed) = self.followed.get_mut(&partition).filter(|followed| followed.stay == stay) else {
                continue;
            };
            match outcome {
                Ok(Settled { position, must_ask_again }) => {
                    followed.is_at(position);
                    let asks = must_ask_again && !self.settings.truncates_on_fetch;
                    self.enter(&partition, if asks { Phase::Truncating } else { Phase::Fetching });
                }
                Err(Trouble::Passing { why, position }) => {
                    error!("{} {partition}: {why}; it is tried again", self.settings.name);
                    let (phase, began_with) = (followed.phase_before, followed.fetch_offset);
                    followed.is_at(position);
                    if phase == Phase::Truncating {
                        followed.fetch_offset = began_with;
                    }
                    self.enter(&partition, phase);
                    self.delay(&partition, now);
                }
                Err(Trouble::Lasting(why)) => self.fail(&partition, &why),
                // Whoever gave it another epoch says what becomes of it.
                Err(Trouble::Overtaken) => {
                    debug!("{} {partition}: followed under another epoch meanwhile", self.settings.name);
                    self.enter(&partition, Phase::Failed);
                }
            }
        }
    }
}
