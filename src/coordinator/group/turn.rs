//! What a coordinator's step is for groups: their answers, records and timers.

use std::sync::Arc;

use crate::config::sections::GroupConfig;
use crate::coordinator::core::{self, Vocabulary};
pub(crate) use crate::coordinator::core::{AppendId, ReplyTo};
use crate::coordinator::group::records::GroupBatch;
use crate::coordinator::group::requests::{CommitAnswer, JoinAnswer, SyncAnswer};

#[derive(Debug)]
pub(crate) struct GroupVocabulary;

impl Vocabulary for GroupVocabulary {
    type Settings = GroupConfig;
    type Answer = Answer;
    type Records = GroupBatch;
    type TimerKind = TimerKind;
    type Effect = GroupEffect;
}

pub(crate) type Turn<'a> = core::Turn<'a, GroupVocabulary>;
pub(crate) type Action = core::Action<GroupVocabulary>;
pub(crate) type TimerKey = core::TimerKey<TimerKind>;

/// To a request that may have to wait.
#[derive(Debug)]
pub(crate) enum Answer {
    Join(JoinAnswer),
    Sync(SyncAnswer),
    Commit(CommitAnswer),
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

/// What is counted, and said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GroupEffect {
    RebalanceCompleted,
    OffsetsCommitted(usize),
    OffsetsExpired(usize),
    OffsetsDeleted(usize),
    /// Something would take more than the setting allows.
    RefusedForSize {
        group_id: Box<str>,
        setting: &'static str,
    },
    PendingMemberEvicted,
}

/// The settings that bound what is held of groups.
pub(super) const COORDINATOR_MAX_BYTES: &str = "group.coordinator.max.bytes";
pub(super) const MAX_METADATA_BYTES: &str = "group.max.metadata.bytes";

impl Turn<'_> {
    /// Something of the group would take more than the setting allows. Its client may not say why it fails.
    pub(super) fn refused_for_size(&mut self, group_id: &str, setting: &'static str) {
        self.effect(GroupEffect::RefusedForSize { group_id: group_id.into(), setting });
    }

    pub(super) fn answer_join(&mut self, reply: ReplyTo, answer: JoinAnswer) {
        self.answer(reply, Answer::Join(answer));
    }

    pub(super) fn answer_sync(&mut self, reply: ReplyTo, answer: SyncAnswer) {
        self.answer(reply, Answer::Sync(answer));
    }

    pub(super) fn answer_commit(&mut self, reply: ReplyTo, answer: CommitAnswer) {
        self.answer(reply, Answer::Commit(answer));
    }
}
