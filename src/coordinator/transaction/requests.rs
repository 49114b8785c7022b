//! What transactional ids are asked, with the api version already turned into what it means.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::coordinator::transaction::error::TransactionError;
use crate::coordinator::transaction::state::Producer;
use crate::model::transaction_version::TransactionVersion;
use crate::model::{LeaderEpoch, ProducerId, TopicPartition};
use crate::record::build::TransactionOutcome;

/// An InitProducerId.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Init {
    pub(crate) timeout_ms: i32,
    /// Who the producer is already, if it wants to go on after an error (KIP-360).
    pub(crate) expected: Option<Producer>,
    /// An id that nobody has, for a transactional id that needs one.
    pub(crate) new_id: Option<ProducerId>,
}

/// An EndTxn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) producer: Producer,
    pub(crate) outcome: TransactionOutcome,
    pub(crate) version: TransactionVersion,
    /// An id that nobody has, for a producer that is to have another epoch and has no more of them.
    pub(crate) new_id: Option<ProducerId>,
}

/// The answer to InitProducerId and EndTxn.
pub(crate) type ProducerAnswer = Result<Assigned, TransactionError>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Assigned {
    /// Whoever asked is this one from now on.
    As(Producer),
    /// Nothing was done: ask again, with an id that nobody has.
    NeedsId,
}

/// The answer to all other requests.
pub(crate) type Answered = Result<(), TransactionError>;

/// The markers that a transaction still needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Markers {
    pub(crate) transactional_id: Arc<str>,
    pub(crate) producer: Producer,
    pub(crate) outcome: TransactionOutcome,
    /// Of the coordinator: an older one's markers are refused.
    pub(crate) coordinator_epoch: LeaderEpoch,
    pub(crate) partitions: BTreeSet<TopicPartition>,
}

/// What became of some markers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MarkersFate {
    /// They are in the logs, or need not be.
    Written,
    /// A partition has heard of a newer coordinator or a newer producer.
    Fenced,
}
