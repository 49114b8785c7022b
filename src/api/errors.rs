//! Which error code a client is told. No `_ =>` arm: a new variant does not compile until it has chosen its code.

use std::fmt;

use odradek_zookeeper::error::ZkError;

use crate::config::dynamic::OperationError;
use crate::controller::controlled_shutdown::ShutdownRefusal;
use crate::controller::task::topic_administration::AutoCreateError;
use crate::controller::topic_validation::TopicError;
use crate::coordinator::group::error::GroupError;
use crate::coordinator::topic_log::AppendFailure;
use crate::coordinator::transaction::error::TransactionError;
use crate::log::error::LogError;
use crate::protocol::error_code::ErrorCode;
use crate::record::convert::ConvertError;
use crate::record::error::RecordError;
use crate::replica::control::{ControlRefusal, PartitionRefusal};
use crate::replica::error::ReplicaError;
use crate::replica::fetch_session::SessionRefusal;
use crate::replica::leader::DecisionRefusal;

impl From<&LogError> for ErrorCode {
    fn from(error: &LogError) -> ErrorCode {
        match error {
            LogError::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            LogError::StaleLeaderEpoch { .. } => ErrorCode::NotLeaderOrFollower,
            LogError::InvalidBatch { .. } => ErrorCode::CorruptMessage,
            LogError::RecordListTooLarge { .. } => ErrorCode::RecordListTooLarge,
            LogError::InvalidProducerEpoch { .. } => ErrorCode::InvalidProducerEpoch,
            LogError::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequenceNumber,
            LogError::InvalidTxnState { .. } => ErrorCode::InvalidTxnState,
            LogError::TransactionCoordinatorFenced { .. } => ErrorCode::TransactionCoordinatorFenced,
            // A follower and its leader disagree; no client sends what could cause it.
            LogError::UnexpectedOffset { .. } | LogError::StartRefused { .. } => ErrorCode::UnknownServerError,
            LogError::DeletePolicyRequired => ErrorCode::PolicyViolation,
            LogError::InconsistentTopicId { .. } => ErrorCode::InconsistentTopicId,
            LogError::Closed | LogError::BeingTruncated => ErrorCode::NotLeaderOrFollower,
            LogError::Offline { .. }
            | LogError::Corrupt { .. }
            | LogError::SegmentOverflows { .. }
            | LogError::Io { .. } => ErrorCode::KafkaStorageError,
        }
    }
}

impl From<&RecordError> for ErrorCode {
    fn from(error: &RecordError) -> ErrorCode {
        match error {
            RecordError::Corrupt(_) | RecordError::CrcMismatch { .. } | RecordError::InnerCrcMismatch { .. } => {
                ErrorCode::CorruptMessage
            }
            RecordError::BatchTooLarge { .. } => ErrorCode::MessageTooLarge,
            RecordError::ZstdNotAllowed | RecordError::UnknownCodec { .. } => ErrorCode::UnsupportedCompressionType,
            RecordError::UnsupportedForLogFormat { .. } => ErrorCode::UnsupportedForMessageFormat,
            RecordError::InvalidBatch(_)
            | RecordError::Malformed(_)
            | RecordError::InvalidRecords(_)
            | RecordError::Decompression(_)
            | RecordError::CannotRebuild(_) => ErrorCode::InvalidRecord,
            RecordError::InvalidTimestamps(_) => ErrorCode::InvalidTimestamp,
        }
    }
}

/// What Kafka says with `NOT_CONTROLLER` where it says anything.
pub(crate) const NOT_CONTROLLER_TEXT: &str = "This is not the correct controller for this cluster.";

/// The code for what was done or refused.
pub(crate) fn code(outcome: Result<(), impl Into<ErrorCode>>) -> ErrorCode {
    outcome.map_or_else(Into::into, |()| ErrorCode::None)
}

/// The error of a control request that is refused. None where the connection is to be closed, so that its controller asks again
/// by another: if it has replaced this one, it does not even listen; if this broker is without a registration, its session
/// may turn out to have been there all the time, and nobody says again what has been answered.
pub(crate) fn refused(refusal: ControlRefusal) -> Option<ErrorCode> {
    Some(match refusal {
        ControlRefusal::StaleBrokerEpoch => ErrorCode::StaleBrokerEpoch,
        ControlRefusal::StaleControllerEpoch => ErrorCode::StaleControllerEpoch,
        ControlRefusal::StaleConnection | ControlRefusal::NotRegistered => return None,
        ControlRefusal::ShuttingDown => ErrorCode::UnknownServerError,
    })
}

impl From<PartitionRefusal> for ErrorCode {
    fn from(refusal: PartitionRefusal) -> ErrorCode {
        match refusal {
            PartitionRefusal::Decision(DecisionRefusal::InconsistentTopicId) => ErrorCode::InconsistentTopicId,
            PartitionRefusal::Decision(DecisionRefusal::NotAssigned) => ErrorCode::UnknownTopicOrPartition,
            // Whoever decides under an epoch that is over is not the controller any more, so Kafka says.
            PartitionRefusal::Decision(DecisionRefusal::StaleLeaderEpoch) => ErrorCode::StaleControllerEpoch,
            PartitionRefusal::StaleStop => ErrorCode::FencedLeaderEpoch,
            PartitionRefusal::Storage => ErrorCode::KafkaStorageError,
            PartitionRefusal::ShuttingDown => ErrorCode::UnknownServerError,
        }
    }
}

impl From<&ReplicaError> for ErrorCode {
    fn from(error: &ReplicaError) -> ErrorCode {
        match error {
            ReplicaError::UnknownTopicOrPartition => ErrorCode::UnknownTopicOrPartition,
            ReplicaError::UnknownTopicId => ErrorCode::UnknownTopicId,
            ReplicaError::NotLeaderOrFollower => ErrorCode::NotLeaderOrFollower,
            ReplicaError::FencedLeaderEpoch => ErrorCode::FencedLeaderEpoch,
            ReplicaError::UnknownLeaderEpoch => ErrorCode::UnknownLeaderEpoch,
            ReplicaError::InconsistentTopicId => ErrorCode::InconsistentTopicId,
            ReplicaError::Offline | ReplicaError::DiskIsSilent => ErrorCode::KafkaStorageError,
            ReplicaError::NotEnoughReplicas { .. } => ErrorCode::NotEnoughReplicas,
            ReplicaError::NotEnoughReplicasAfterAppend => ErrorCode::NotEnoughReplicasAfterAppend,
            ReplicaError::TimedOut => ErrorCode::RequestTimedOut,
            ReplicaError::OffsetNotAvailable => ErrorCode::OffsetNotAvailable,
            ReplicaError::UnknownFetchedEpoch => ErrorCode::OffsetOutOfRange,
            ReplicaError::Records(error) => error.into(),
            ReplicaError::Log(error) => error.into(),
            // The client finds the partition's next leader; retried elsewhere it does no harm.
            ReplicaError::ShuttingDown => ErrorCode::NotLeaderOrFollower,
        }
    }
}

impl From<SessionRefusal> for ErrorCode {
    fn from(refusal: SessionRefusal) -> ErrorCode {
        match refusal {
            SessionRefusal::UnknownId => ErrorCode::FetchSessionIdNotFound,
            SessionRefusal::WrongEpoch => ErrorCode::InvalidFetchSessionEpoch,
            SessionRefusal::OtherNaming => ErrorCode::FetchSessionTopicIdError,
        }
    }
}

impl From<&ConvertError> for ErrorCode {
    fn from(error: &ConvertError) -> ErrorCode {
        match error {
            ConvertError::Zstd => ErrorCode::UnsupportedCompressionType,
            ConvertError::Read(_) => ErrorCode::CorruptMessage,
        }
    }
}

impl From<GroupError> for ErrorCode {
    fn from(error: GroupError) -> ErrorCode {
        match error {
            GroupError::InvalidGroupId => ErrorCode::InvalidGroupId,
            GroupError::CoordinatorNotAvailable => ErrorCode::CoordinatorNotAvailable,
            GroupError::CoordinatorLoadInProgress => ErrorCode::CoordinatorLoadInProgress,
            GroupError::NotCoordinator => ErrorCode::NotCoordinator,
            GroupError::UnknownMemberId => ErrorCode::UnknownMemberId,
            GroupError::FencedInstanceId => ErrorCode::FencedInstanceId,
            GroupError::IllegalGeneration => ErrorCode::IllegalGeneration,
            GroupError::InconsistentGroupProtocol => ErrorCode::InconsistentGroupProtocol,
            GroupError::RebalanceInProgress => ErrorCode::RebalanceInProgress,
            GroupError::InvalidSessionTimeout => ErrorCode::InvalidSessionTimeout,
            GroupError::GroupMaxSizeReached => ErrorCode::GroupMaxSizeReached,
            GroupError::MemberIdRequired => ErrorCode::MemberIdRequired,
            GroupError::InvalidCommitOffsetSize => ErrorCode::InvalidCommitOffsetSize,
            GroupError::GroupIdNotFound => ErrorCode::GroupIdNotFound,
            GroupError::NonEmptyGroup => ErrorCode::NonEmptyGroup,
            GroupError::GroupSubscribedToTopic => ErrorCode::GroupSubscribedToTopic,
            GroupError::UnknownServerError => ErrorCode::UnknownServerError,
            GroupError::Append(failure) => ErrorCode::from(failure),
        }
    }
}

impl From<AppendFailure> for ErrorCode {
    fn from(failure: AppendFailure) -> ErrorCode {
        match failure {
            AppendFailure::UnknownTopicOrPartition => ErrorCode::UnknownTopicOrPartition,
            AppendFailure::NotEnoughReplicas => ErrorCode::NotEnoughReplicas,
            AppendFailure::NotEnoughReplicasAfterAppend => ErrorCode::NotEnoughReplicasAfterAppend,
            AppendFailure::NotLeaderOrFollower => ErrorCode::NotLeaderOrFollower,
            AppendFailure::StorageError => ErrorCode::KafkaStorageError,
            AppendFailure::TimedOut => ErrorCode::RequestTimedOut,
            AppendFailure::MessageTooLarge => ErrorCode::MessageTooLarge,
            AppendFailure::RecordListTooLarge => ErrorCode::RecordListTooLarge,
            AppendFailure::InvalidProducerEpoch => ErrorCode::InvalidProducerEpoch,
            AppendFailure::InvalidTxnState => ErrorCode::InvalidTxnState,
            AppendFailure::Unexpected => ErrorCode::UnknownServerError,
        }
    }
}

impl From<TransactionError> for ErrorCode {
    fn from(error: TransactionError) -> ErrorCode {
        match error {
            TransactionError::InvalidRequest => ErrorCode::InvalidRequest,
            TransactionError::InvalidTransactionTimeout => ErrorCode::InvalidTransactionTimeout,
            TransactionError::InvalidProducerIdMapping => ErrorCode::InvalidProducerIdMapping,
            TransactionError::ProducerFenced => ErrorCode::ProducerFenced,
            TransactionError::ConcurrentTransactions => ErrorCode::ConcurrentTransactions,
            TransactionError::InvalidTxnState => ErrorCode::InvalidTxnState,
            TransactionError::TransactionAbortable => ErrorCode::TransactionAbortable,
            TransactionError::TransactionalIdNotFound => ErrorCode::TransactionalIdNotFound,
            TransactionError::TooMuchHeld => ErrorCode::PolicyViolation,
            TransactionError::CoordinatorNotAvailable => ErrorCode::CoordinatorNotAvailable,
            TransactionError::CoordinatorLoadInProgress => ErrorCode::CoordinatorLoadInProgress,
            TransactionError::NotCoordinator => ErrorCode::NotCoordinator,
            TransactionError::UnknownServerError => ErrorCode::UnknownServerError,
        }
    }
}

impl From<&TopicError> for ErrorCode {
    fn from(error: &TopicError) -> ErrorCode {
        match error {
            TopicError::Exists(_) => ErrorCode::TopicAlreadyExists,
            TopicError::Unknown(_) => ErrorCode::UnknownTopicOrPartition,
            TopicError::InvalidName(_) => ErrorCode::InvalidTopicException,
            TopicError::InvalidConfig(_) => ErrorCode::InvalidConfig,
            TopicError::PolicyViolation(_) => ErrorCode::PolicyViolation,
            TopicError::InvalidRequest(_) => ErrorCode::InvalidRequest,
            TopicError::InvalidPartitions(_) => ErrorCode::InvalidPartitions,
            TopicError::InvalidReplicationFactor(_) => ErrorCode::InvalidReplicationFactor,
            TopicError::InvalidAssignment(_) => ErrorCode::InvalidReplicaAssignment,
            TopicError::BrokerNotAvailable(_) => ErrorCode::BrokerNotAvailable,
            TopicError::ReassignmentInProgress(_) => ErrorCode::ReassignmentInProgress,
            TopicError::Unexpected(_) => ErrorCode::UnknownServerError,
        }
    }
}

impl From<ShutdownRefusal> for ErrorCode {
    fn from(refusal: ShutdownRefusal) -> ErrorCode {
        match refusal {
            ShutdownRefusal::StaleBrokerEpoch => ErrorCode::StaleBrokerEpoch,
            ShutdownRefusal::NotRegistered => ErrorCode::UnknownServerError,
            ShutdownRefusal::NotAvailable => ErrorCode::BrokerNotAvailable,
        }
    }
}

impl From<&AutoCreateError> for ErrorCode {
    fn from(error: &AutoCreateError) -> ErrorCode {
        match error {
            AutoCreateError::InFlight => ErrorCode::UnknownTopicOrPartition,
            AutoCreateError::Refused(error) => error.into(),
        }
    }
}

impl From<&OperationError> for ErrorCode {
    fn from(error: &OperationError) -> ErrorCode {
        match error {
            OperationError::NotAList { .. } => ErrorCode::InvalidConfig,
            OperationError::UnknownName(_) => ErrorCode::UnknownServerError,
        }
    }
}

/// Clients know no code for the trouble that a broker has with ZooKeeper, unless they ask too much of it.
impl From<&ZkError> for ErrorCode {
    fn from(error: &ZkError) -> ErrorCode {
        match error {
            ZkError::TooLarge { .. } => ErrorCode::InvalidRequest,
            ZkError::NoNode { .. }
            | ZkError::NodeExists { .. }
            | ZkError::BadVersion { .. }
            | ZkError::NotEmpty { .. }
            | ZkError::ControllerMoved { .. }
            | ZkError::BrokerIdTaken { .. }
            | ZkError::SessionExpired
            | ZkError::AuthFailed
            | ZkError::Closed
            | ZkError::NotConnected { .. }
            | ZkError::Settings(_)
            | ZkError::Malformed(_)
            | ZkError::NoAuth { .. }
            | ZkError::Other { .. } => ErrorCode::UnknownServerError,
        }
    }
}

/// An error as a response carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub code: ErrorCode,
    /// `None` where the code says it all.
    pub message: Option<String>,
}

/// Texts name what the client named, which may be as long as a field can be: what is said of it must fit one too.
const MESSAGE_BYTES_MAX: usize = 4096;

fn cut(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        message.truncate(end);
        message.push_str("...");
    }
    message
}

impl Refusal {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Refusal {
        Refusal { code, message: Some(cut(message.into())) }
    }

    pub fn invalid_request(message: impl Into<String>) -> Refusal {
        Refusal::new(ErrorCode::InvalidRequest, message)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.message.as_deref().unwrap_or(""))
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Refusal {
        Refusal { code, message: None }
    }
}

impl From<&TopicError> for Refusal {
    fn from(error: &TopicError) -> Refusal {
        let code = ErrorCode::from(error);
        // What went wrong inside is for our log.
        let message = (code != ErrorCode::UnknownServerError).then(|| cut(error.to_string()));
        Refusal { code, message }
    }
}
