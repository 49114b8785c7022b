//! What a coordinator's step is for transactions: their answers, records, timers and effects.

use std::sync::Arc;

use crate::config::sections::TransactionConfig;
use crate::coordinator::core::{self, Vocabulary};
pub(crate) use crate::coordinator::core::{AppendId, ReplyTo};
use crate::coordinator::transaction::error::TransactionError;
use crate::coordinator::transaction::records::TransactionRecord;
use crate::coordinator::transaction::requests::{Answered, Assigned, Markers, ProducerAnswer};
use crate::coordinator::transaction::state::Producer;

#[derive(Debug)]
pub(crate) struct TransactionVocabulary;

impl Vocabulary for TransactionVocabulary {
    type Settings = TransactionConfig;
    type Answer = Answer;
    type Records = Vec<TransactionRecord>;
    type TimerKind = TimerKind;
    type Effect = TransactionEffect;
}

pub(crate) type Turn<'a> = core::Turn<'a, TransactionVocabulary>;
#[cfg(test)]
pub(crate) type Action = core::Action<TransactionVocabulary>;
pub(crate) type TimerKey = core::TimerKey<TimerKind>;

/// To a request that may have to wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Producer(ProducerAnswer),
    Other(Answered),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TimerKind {
    /// The transaction has been open for as long as its producer said.
    Timeout,
    /// All markers are written and that could not be written down: time to try again.
    Complete,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TransactionEffect {
    /// They are to be written, to whoever leads the partitions, until `markers_answered` has heard of all.
    SendMarkers(Markers),
    /// Another broker sends the markers of this transactional id from now on.
    StopMarkers(Arc<str>),
    /// One more has ended.
    Completed,
    TimedOut,
    Expired(usize),
    /// An id, or partitions of one, would take more than the broker may hold.
    RefusedForSize(Box<str>),
}

impl Turn<'_> {
    pub(super) fn answer_producer(&mut self, reply: ReplyTo, answer: Result<Producer, TransactionError>) {
        self.answer(reply, Answer::Producer(answer.map(Assigned::As)));
    }

    pub(super) fn answer_other(&mut self, reply: ReplyTo, answer: Answered) {
        self.answer(reply, Answer::Other(answer));
    }
}
