//! What one step of the core gets and gives: the time and the settings in, the actions out, in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::sections::GroupConfig;
use crate::coordinator::group::records::GroupRecord;
use crate::coordinator::group::requests::{CommitAnswer, JoinAnswer, SyncAnswer};

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
