//! What one step of the core gets and gives: the time and the settings in, the actions out, in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::config::sections::GroupConfig;
use crate::coordinator::group::error::GroupError;
use crate::coordinator::group::offsets::CommittedOffset;
use crate::model::GenerationId;

/// Stands for one request that waits for its answer. The shell mints it and answers it when an action says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ReplyTo(pub(crate) u64);

/// Stands for one append whose fate comes back as an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AppendId(pub(crate) u64);

/// The moment an event happened: monotonic for timers, wall clock for what is written down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    pub(crate) wall_ms: i64,
}

/// What the shell must do next. The order of actions is the order of their effects.
#[derive(Debug)]
pub(crate) enum Action {
    AnswerJoin(ReplyTo, JoinAnswer),
    AnswerSync(ReplyTo, SyncAnswer),
    AnswerCommit(ReplyTo, CommitAnswer),
    /// Append the records as one batch; the outcome comes back to the group under `append`.
    Append {
        group: Arc<str>,
        append: AppendId,
        records: Vec<GroupRecord>,
    },
    /// Append tombstones as one batch and wait for nothing: whoever loads the log next expires the same again.
    Forget {
        group: Arc<str>,
        records: Vec<GroupRecord>,
    },
    /// Starts the timer, or moves it if it runs.
    StartTimer(TimerKey, Instant),
    CancelTimer(TimerKey),
}

/// One timer of one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TimerKey {
    pub(crate) group: Arc<str>,
    pub(crate) kind: TimerKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TimerKind {
    /// The join phase is over, or its initial delay.
    Join,
    /// The sync phase is over.
    Sync,
    /// A member has been silent for its session timeout; for a new member in a long join, too long unclaimed.
    Session(Arc<str>),
    /// A member id was handed out and nobody joined with it.
    Pending(Arc<str>),
}

/// A record of `__consumer_offsets`, whose group stands beside it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum GroupRecord {
    /// `None` is a tombstone.
    Offset { topic: Arc<str>, partition: i32, committed: Option<CommittedOffset> },
    /// `None` is a tombstone.
    Metadata(Option<Box<GroupMetadata>>),
}

/// A completed generation of a group as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupMetadata {
    /// Empty when the group has none.
    pub(crate) protocol_type: Arc<str>,
    pub(crate) generation_id: GenerationId,
    pub(crate) protocol_name: Option<Arc<str>>,
    pub(crate) leader: Option<Arc<str>>,
    /// When the group entered its state; `None` in records older than version 2.
    pub(crate) current_state_timestamp_ms: Option<i64>,
    pub(crate) members: Vec<StoredMember>,
}

/// A member as it is stored: with its metadata for the selected protocol only, so a reload forgets the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredMember {
    pub(crate) member_id: Arc<str>,
    pub(crate) group_instance_id: Option<Arc<str>>,
    pub(crate) client_id: Arc<str>,
    pub(crate) client_host: Arc<str>,
    pub(crate) rebalance_timeout_ms: i32,
    pub(crate) session_timeout_ms: i32,
    pub(crate) subscription: Bytes,
    pub(crate) assignment: Bytes,
}

/// The answer to JoinGroup. A refusal leaves the rest at its defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JoinAnswer {
    pub(crate) error: Option<GroupError>,
    pub(crate) member_id: Arc<str>,
    pub(crate) generation_id: GenerationId,
    pub(crate) protocol_type: Option<Arc<str>>,
    pub(crate) protocol_name: Option<Arc<str>>,
    pub(crate) leader: Option<Arc<str>>,
    pub(crate) skip_assignment: bool,
    /// Everyone, for the leader; nobody, for the others.
    pub(crate) members: Vec<JoinedMember>,
}

impl JoinAnswer {
    pub(crate) fn refused(member_id: Arc<str>, error: GroupError) -> JoinAnswer {
        JoinAnswer {
            error: Some(error),
            member_id,
            generation_id: GenerationId(-1),
            protocol_type: None,
            protocol_name: None,
            leader: None,
            skip_assignment: false,
            members: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JoinedMember {
    pub(crate) member_id: Arc<str>,
    pub(crate) group_instance_id: Option<Arc<str>>,
    pub(crate) metadata: Bytes,
}

/// The answer to SyncGroup.
pub(crate) type SyncAnswer = Result<Synced, GroupError>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Synced {
    pub(crate) protocol_type: Option<Arc<str>>,
    pub(crate) protocol_name: Option<Arc<str>>,
    pub(crate) assignment: Bytes,
}

/// The answer to OffsetCommit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommitAnswer {
    /// The request as a whole, so every partition of it.
    Refused(GroupError),
    /// Every partition whose metadata is not too long; the others were not stored.
    Stored(Result<(), GroupError>),
}

/// One step of the core: what it may know, and where it leaves its actions.
pub(crate) struct Turn<'a> {
    pub(crate) now: Now,
    pub(crate) settings: &'a GroupConfig,
    pub(crate) actions: &'a mut VecDeque<Action>,
    /// The number of the next append.
    pub(crate) next_append: &'a mut u64,
}

impl Turn<'_> {
    pub(super) fn append(&mut self, group: &Arc<str>, records: Vec<GroupRecord>) -> AppendId {
        let append = AppendId(*self.next_append);
        *self.next_append += 1;
        self.actions.push_back(Action::Append { group: Arc::clone(group), append, records });
        append
    }

    pub(super) fn answer_join(&mut self, reply: ReplyTo, answer: JoinAnswer) {
        self.actions.push_back(Action::AnswerJoin(reply, answer));
    }

    pub(super) fn answer_sync(&mut self, reply: ReplyTo, answer: SyncAnswer) {
        self.actions.push_back(Action::AnswerSync(reply, answer));
    }

    pub(super) fn answer_commit(&mut self, reply: ReplyTo, answer: CommitAnswer) {
        self.actions.push_back(Action::AnswerCommit(reply, answer));
    }

    /// A negative `after_ms`, which a client may send as its timeout, is over at once.
    pub(super) fn start_timer(&mut self, group: &Arc<str>, kind: TimerKind, after_ms: i32) {
        let after = Duration::from_millis(u64::try_from(after_ms).unwrap_or(0));
        self.actions
            .push_back(Action::StartTimer(TimerKey { group: Arc::clone(group), kind }, self.now.instant + after));
    }

    pub(super) fn cancel_timer(&mut self, group: &Arc<str>, kind: TimerKind) {
        self.actions.push_back(Action::CancelTimer(TimerKey { group: Arc::clone(group), kind }));
    }
}
