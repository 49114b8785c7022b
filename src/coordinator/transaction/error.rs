//! Why the transaction coordinator refuses a request.

use std::fmt;

use crate::coordinator::topic_log::AppendFailure;

/// One variant per answer a client can tell apart; the number on the wire, which may depend on the version, is chosen in
/// `api`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransactionError {
    InvalidRequest,
    InvalidTransactionTimeout,
    /// No such transactional id, or another producer has it.
    InvalidProducerIdMapping,
    ProducerFenced,
    /// Something is on its way whose end must come first: ask again.
    ConcurrentTransactions,
    InvalidTxnState,
    /// The partition is not in the transaction, which its producer should abort.
    TransactionAbortable,
    TransactionalIdNotFound,
    /// More is held already than may be.
    TooMuchHeld,
    CoordinatorNotAvailable,
    CoordinatorLoadInProgress,
    NotCoordinator,
    UnknownServerError,
}

/// What a client is told when a change of its transaction could not be stored.
/// Source: kafka 3.9 TransactionStateManager.scala (appendTransactionToLog).
impl From<AppendFailure> for TransactionError {
    fn from(failure: AppendFailure) -> TransactionError {
        match failure {
            AppendFailure::UnknownTopicOrPartition
            | AppendFailure::NotEnoughReplicas
            | AppendFailure::NotEnoughReplicasAfterAppend
            | AppendFailure::TimedOut => TransactionError::CoordinatorNotAvailable,
            AppendFailure::NotLeaderOrFollower | AppendFailure::StorageError => TransactionError::NotCoordinator,
            AppendFailure::MessageTooLarge
            | AppendFailure::RecordListTooLarge
            | AppendFailure::InvalidProducerEpoch
            | AppendFailure::InvalidTxnState
            | AppendFailure::Unexpected => TransactionError::UnknownServerError,
        }
    }
}

impl fmt::Display for TransactionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for TransactionError {}
