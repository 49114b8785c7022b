//! Why the coordinator refuses a request.

use std::fmt;

use crate::coordinator::topic_log::AppendFailure;

/// One variant per answer a client can tell apart; the number on the wire is chosen in `api`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupError {
    InvalidGroupId,
    CoordinatorNotAvailable,
    CoordinatorLoadInProgress,
    NotCoordinator,
    UnknownMemberId,
    FencedInstanceId,
    IllegalGeneration,
    InconsistentGroupProtocol,
    RebalanceInProgress,
    InvalidSessionTimeout,
    GroupMaxSizeReached,
    MemberIdRequired,
    InvalidCommitOffsetSize,
    GroupIdNotFound,
    NonEmptyGroup,
    GroupSubscribedToTopic,
    UnknownServerError,
    /// A failed append whose reason is passed on to the client unchanged.
    Append(AppendFailure),
}

impl AppendFailure {
    /// What members are told when their group's assignment could not be stored.
    /// Source: kafka 3.9 GroupMetadataManager.scala (storeGroup).
    pub(super) fn for_group_metadata(self) -> GroupError {
        match self {
            AppendFailure::UnknownTopicOrPartition
            | AppendFailure::NotEnoughReplicas
            | AppendFailure::NotEnoughReplicasAfterAppend => GroupError::CoordinatorNotAvailable,
            AppendFailure::NotLeaderOrFollower | AppendFailure::StorageError => GroupError::NotCoordinator,
            AppendFailure::TimedOut => GroupError::RebalanceInProgress,
            AppendFailure::MessageTooLarge | AppendFailure::RecordListTooLarge => GroupError::UnknownServerError,
            AppendFailure::InvalidProducerEpoch | AppendFailure::InvalidTxnState | AppendFailure::Unexpected => {
                GroupError::Append(self)
            }
        }
    }

    /// What a committer is told when its offsets could not be stored.
    /// Source: kafka 3.9 GroupMetadataManager.scala (maybeConvertOffsetCommitError).
    pub(super) fn for_offsets(self) -> GroupError {
        match self {
            AppendFailure::UnknownTopicOrPartition
            | AppendFailure::NotEnoughReplicas
            | AppendFailure::NotEnoughReplicasAfterAppend => GroupError::CoordinatorNotAvailable,
            AppendFailure::NotLeaderOrFollower | AppendFailure::StorageError => GroupError::NotCoordinator,
            AppendFailure::MessageTooLarge | AppendFailure::RecordListTooLarge => GroupError::InvalidCommitOffsetSize,
            AppendFailure::TimedOut
            | AppendFailure::InvalidProducerEpoch
            | AppendFailure::InvalidTxnState
            | AppendFailure::Unexpected => GroupError::Append(self),
        }
    }
}

impl fmt::Display for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for GroupError {}
