//! The border between what a coordinator decides and the shard around it: a pure core takes an event and the time, and
//! leaves actions; the shard performs them and brings each outcome back as the next event.
//!
//! A core holds what bears a name in one partition of its topic: groups, or transactional ids. It opens nothing, awaits
//! nothing, reads no clock and counts no metric.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::coordinator::topic_log::AppendOutcome;
use crate::model::LeaderEpoch;
use crate::record::append_rules::AppendOrigin;
use crate::record::read::ReadBatch;

/// Stands for one request that waits for its answer. The shard mints it and answers it when an action says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ReplyTo(pub(crate) u64);

/// Stands for one append whose fate comes back as an event. None is used twice, over all loads of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AppendId(pub(crate) u64);

/// The moment an event happened: monotonic for timers, wall clock for what is written down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    pub(crate) wall_ms: i64,
}

/// What one coordinator's requests, records and timers are.
pub(crate) trait Vocabulary: 'static {
    type Settings: Send + Sync;
    type Answer: Debug + Send;
    /// What one append carries; it becomes one batch.
    type Records: Debug + Send;
    type TimerKind: Clone + Debug + Eq + Hash + Send;
    /// Something that happened and that the shell may count or pass on, such as markers to send.
    type Effect: Debug + Send;
}

/// One timer of one name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TimerKey<K> {
    pub(crate) of: Arc<str>,
    pub(crate) kind: K,
}

/// What the shard must do next. The order of actions is the order of their effects.
#[derive(Debug)]
pub(crate) enum Action<V: Vocabulary> {
    Answer(ReplyTo, V::Answer),
    /// Append the records as one batch; the outcome comes back under `append`.
    Append {
        of: Arc<str>,
        append: AppendId,
        records: V::Records,
    },
    /// Append tombstones as one batch and wait for nothing: memory has forgotten already. So none must be refused for its size
    /// (`in_short_batches`). What does not get into the log comes back with the next load, as in Kafka.
    Forget {
        of: Arc<str>,
        records: V::Records,
    },
    /// Starts the timer, or moves it if it runs.
    StartTimer(TimerKey<V::TimerKind>, Instant),
    CancelTimer(TimerKey<V::TimerKind>),
    Effect(V::Effect),
}

/// So many tombstones, or names of so many bytes in them, make one batch, which is then far from too long.
const FORGOTTEN_AT_ONCE: usize = 100;
const FORGOTTEN_BYTES_AT_ONCE: usize = 64 << 10;

/// Tombstones as they are forgotten, in their order. `bytes` are those of the names in one.
pub(crate) fn in_short_batches<R>(tombstones: Vec<R>, bytes: impl Fn(&R) -> usize) -> Vec<Vec<R>> {
    let (mut batches, mut batch, mut held) = (Vec::new(), Vec::new(), 0);
    for tombstone in tombstones {
        held += bytes(&tombstone);
        batch.push(tombstone);
        if batch.len() == FORGOTTEN_AT_ONCE || held >= FORGOTTEN_BYTES_AT_ONCE {
            batches.push(std::mem::take(&mut batch));
            held = 0;
        }
    }
    batches.extend((!batch.is_empty()).then_some(batch));
    batches
}

/// One step of a core: what it may know, and where it leaves its actions.
pub(crate) struct Turn<'a, V: Vocabulary> {
    pub(crate) now: Now,
    pub(crate) settings: &'a V::Settings,
    /// Under which this broker speaks for the partition.
    pub(crate) leader_epoch: LeaderEpoch,
    /// What the cores of the other partitions hold, in bytes.
    pub(crate) bytes_elsewhere: u64,
    pub(crate) actions: &'a mut VecDeque<Action<V>>,
    /// The number of the next append.
    pub(crate) next_append: &'a mut u64,
}

impl<V: Vocabulary> Turn<'_, V> {
    pub(crate) fn append(&mut self, of: &Arc<str>, records: V::Records) -> AppendId {
        let append = AppendId(*self.next_append);
        *self.next_append += 1;
        self.actions.push_back(Action::Append { of: Arc::clone(of), append, records });
        append
    }

    pub(crate) fn answer(&mut self, reply: ReplyTo, answer: V::Answer) {
        self.actions.push_back(Action::Answer(reply, answer));
    }

    pub(crate) fn effect(&mut self, effect: V::Effect) {
        self.actions.push_back(Action::Effect(effect));
    }

    /// A negative `after_ms`, which a client may send as its timeout, is over at once.
    pub(crate) fn start_timer(&mut self, of: &Arc<str>, kind: V::TimerKind, after_ms: i32) {
        let after = Duration::from_millis(u64::try_from(after_ms).unwrap_or(0));
        let deadline = self.now.instant + after;
        self.actions.push_back(Action::StartTimer(TimerKey { of: Arc::clone(of), kind }, deadline));
    }

    pub(crate) fn cancel_timer(&mut self, of: &Arc<str>, kind: V::TimerKind) {
        self.actions.push_back(Action::CancelTimer(TimerKey { of: Arc::clone(of), kind }));
    }
}

/// What a coordinator knows of one partition of its topic, and what it makes of events.
pub(crate) trait Core: Default + Send + 'static {
    type Vocabulary: Vocabulary;
    /// The partition while it is read: every record in order, then `load` takes it over.
    type Replay: Default + Send;

    /// The internal topic.
    const TOPIC: &'static str;
    /// In log lines: "Elected as the ... for partition 3".
    const NAME: &'static str;

    /// The batch of one append. An error says what cannot be written down.
    fn encode(of: &str, records: &Records<Self>, settings: &Settings<Self>, now_ms: i64) -> Result<Bytes, String>;

    /// Who appends them.
    fn origin(_: &Records<Self>) -> AppendOrigin {
        AppendOrigin::Coordinator
    }

    /// An error says what of the batch is left out; what is behind it counts all the same.
    fn replay(replay: &mut Self::Replay, batch: ReadBatch<'_>) -> Result<(), String>;

    /// Takes over what was read. How many names that are.
    fn load(&mut self, replay: Self::Replay, leader_epoch: LeaderEpoch, turn: &mut Turn<'_, Self::Vocabulary>)
    -> usize;

    /// Gives everything up: another broker speaks for it now. Whoever waits is told so, every timer is cancelled.
    fn unload(&mut self, turn: &mut Turn<'_, Self::Vocabulary>) -> usize;

    /// The fate of an append of this load of the partition; of an earlier one, `append` is unknown.
    fn appended(&mut self, of: &str, append: AppendId, outcome: AppendOutcome, turn: &mut Turn<'_, Self::Vocabulary>);

    fn timer_fired(&mut self, timer: &Timer<Self>, turn: &mut Turn<'_, Self::Vocabulary>);

    /// What all of it takes in memory, about.
    fn bytes(&self) -> u64;
}

pub(crate) type Settings<C> = <<C as Core>::Vocabulary as Vocabulary>::Settings;
pub(crate) type Answer<C> = <<C as Core>::Vocabulary as Vocabulary>::Answer;
pub(crate) type Records<C> = <<C as Core>::Vocabulary as Vocabulary>::Records;
pub(crate) type Effect<C> = <<C as Core>::Vocabulary as Vocabulary>::Effect;
pub(crate) type Timer<C> = TimerKey<<<C as Core>::Vocabulary as Vocabulary>::TimerKind>;
