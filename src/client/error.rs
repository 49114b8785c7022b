//! What can go wrong between a client and a cluster, and which of it may pass.

use std::fmt;
use std::time::Duration;

use crate::codec::reader::DecodeError;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::message::EncodeError;

/// What went wrong between us and a broker.
#[derive(Clone, Debug)]
pub enum ClientError {
    /// No connection could be made.
    Connect { address: String, reason: String },
    /// The connection ended while requests were waiting, or before one could be sent.
    Disconnected { address: String, reason: String },
    /// No answer within the request timeout. The connection is closed.
    TimedOut { address: String, api: &'static str, after: Duration },
    /// The broker speaks no version of the API that we speak.
    UnsupportedVersion { address: String, api: &'static str },
    /// The request has no form in the version it is sent in.
    Encode { api: &'static str, error: EncodeError },
    /// The answer is not what the protocol says it is.
    Decode { address: String, api: &'static str, error: DecodeError },
    /// The broker knows of no broker yet, itself among them: no controller has told it of the cluster since it started.
    NoMetadata { address: String },
    /// None of the bootstrap servers has an address.
    NoAddress,
    /// None of the bootstrap servers could be reached. Carries what the last one failed with.
    NoBroker { servers: String, last: String },
    /// The broker refused. `doing` says what was asked for.
    Refused { doing: String, code: ErrorCode, message: Option<String> },
    /// The time allowed for the whole operation is over. Carries what the last attempt failed with.
    GaveUp { doing: String, after: Duration, last: Option<Box<ClientError>> },
    /// A setting that we cannot follow.
    Setting { name: String, reason: String },
    /// Records that a broker sent do not read as records.
    Records { topic: String, partition: i32, offset: i64, reason: String },
}

impl ClientError {
    pub fn refused(doing: impl Into<String>, code: ErrorCode, message: Option<String>) -> ClientError {
        ClientError::Refused { doing: doing.into(), code, message: message.filter(|text| !text.is_empty()) }
    }

    /// The code a broker answered with, if it was a broker that refused.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ClientError::Refused { code, .. } => Some(*code),
            ClientError::GaveUp { last: Some(last), .. } => last.code(),
            _ => None,
        }
    }

    /// As Java shows what Kafka's clients throw for it.
    pub(crate) fn thrown(&self) -> String {
        match self {
            ClientError::Refused { code, message, .. } => thrown(*code, message.as_deref()),
            ClientError::TimedOut { .. } | ClientError::GaveUp { .. } => {
                thrown(ErrorCode::RequestTimedOut, Some(&self.to_string()))
            }
            ClientError::UnsupportedVersion { .. } => thrown(ErrorCode::UnsupportedVersion, Some(&self.to_string())),
            other => format!("org.apache.kafka.common.KafkaException: {other}"),
        }
    }

    /// What such an exception says.
    pub(crate) fn told(&self) -> String {
        match self {
            ClientError::Refused { code, message, .. } => told(*code, message.as_deref()).to_owned(),
            other => other.to_string(),
        }
    }

    /// Whether the same request may succeed a little later, perhaps at another broker.
    /// Source: kafka 3.9.1 the subclasses of clients/.../common/errors/RetriableException.java.
    pub fn is_retriable(&self) -> bool {
        match self {
            ClientError::Connect { .. }
            | ClientError::Disconnected { .. }
            | ClientError::TimedOut { .. }
            | ClientError::NoMetadata { .. }
            | ClientError::NoBroker { .. } => true,
            // A broker that is not live may come back; no broker answers with this code.
            ClientError::Refused { code: ErrorCode::BrokerNotAvailable, .. } => true,
            ClientError::Refused { code, .. } => is_retriable_code(*code),
            ClientError::UnsupportedVersion { .. }
            | ClientError::Encode { .. }
            | ClientError::Decode { .. }
            | ClientError::GaveUp { .. }
            | ClientError::NoAddress
            | ClientError::Setting { .. }
            | ClientError::Records { .. } => false,
        }
    }
}

/// Turns a code in an answer into an error that says what was being done.
pub(crate) fn checked(doing: impl Into<String>, code: i16, message: Option<String>) -> Result<(), ClientError> {
    let code = ErrorCode::from_code(code);
    if code.is_error() { Err(ClientError::refused(doing, code, message)) } else { Ok(()) }
}

/// Source: kafka 3.9.1 clients/.../common/protocol/Errors.java and the class of each exception.
pub fn is_retriable_code(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::CorruptMessage
            | ErrorCode::UnknownTopicOrPartition
            | ErrorCode::LeaderNotAvailable
            | ErrorCode::NotLeaderOrFollower
            | ErrorCode::RequestTimedOut
            | ErrorCode::ReplicaNotAvailable
            | ErrorCode::NetworkException
            | ErrorCode::CoordinatorLoadInProgress
            | ErrorCode::CoordinatorNotAvailable
            | ErrorCode::NotCoordinator
            | ErrorCode::NotEnoughReplicas
            | ErrorCode::NotEnoughReplicasAfterAppend
            | ErrorCode::NotController
            | ErrorCode::KafkaStorageError
            | ErrorCode::ListenerNotFound
            | ErrorCode::FencedLeaderEpoch
            | ErrorCode::UnknownLeaderEpoch
            | ErrorCode::OffsetNotAvailable
            | ErrorCode::UnstableOffsetCommit
            | ErrorCode::UnknownTopicId
            | ErrorCode::InconsistentTopicId
            | ErrorCode::EligibleLeadersNotAvailable
            | ErrorCode::PreferredLeaderNotAvailable
            | ErrorCode::ElectionNotNeeded
            | ErrorCode::ThrottlingQuotaExceeded
            | ErrorCode::ConcurrentTransactions
            | ErrorCode::FetchSessionIdNotFound
            | ErrorCode::FetchSessionTopicIdError
            | ErrorCode::InvalidFetchSessionEpoch
    )
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Connect { address, reason } => write!(f, "connect to {address}: {reason}"),
            ClientError::Disconnected { address, reason } => write!(f, "connection to {address}: {reason}"),
            ClientError::TimedOut { address, api, after } => {
                write!(f, "{api} to {address}: no answer within {} ms", after.as_millis())
            }
            ClientError::UnsupportedVersion { address, api } => {
                write!(f, "the broker at {address} supports no version of {api} that we support")
            }
            ClientError::Encode { api, error } => write!(f, "write {api}: {error}"),
            ClientError::Decode { address, api, error } => write!(f, "read {api} from {address}: {error}"),
            ClientError::NoMetadata { address } => write!(f, "the broker at {address} knows of no brokers yet"),
            ClientError::NoAddress => f.write_str("No resolvable bootstrap urls given in bootstrap.servers"),
            ClientError::NoBroker { servers, last } => write!(f, "none of {servers} answers: {last}"),
            ClientError::Refused { message: Some(message), .. } => f.write_str(message),
            ClientError::Refused { doing, code, message: None } => write!(f, "{doing}: {} ({code})", code.message()),
            ClientError::GaveUp { doing, after, last } => {
                write!(f, "{doing}: gave up after {} ms", after.as_millis())?;
                last.as_ref().map_or(Ok(()), |last| write!(f, ", last: {last}"))
            }
            ClientError::Setting { name, reason } => write!(f, "setting {name}: {reason}"),
            ClientError::Records { topic, partition, offset, reason } => {
                write!(f, "records of {topic}-{partition} at offset {offset}: {reason}")
            }
        }
    }
}

impl std::error::Error for ClientError {}

/// What Kafka's clients throw for a code, as Java shows it: the class, and what it says.
pub(crate) fn thrown(code: ErrorCode, message: Option<&str>) -> String {
    format!("{}: {}", code.exception(), told(code, message))
}

/// What such an exception says.
pub(crate) fn told(code: ErrorCode, message: Option<&str>) -> &str {
    message.unwrap_or_else(|| code.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_shown_as_java_shows_what_kafkas_clients_throw() {
        let text = "org.apache.kafka.common.errors.TimeoutException: The request timed out.";
        assert_eq!(thrown(ErrorCode::RequestTimedOut, None), text);
        let record = "org.apache.kafka.common.InvalidRecordException: bad";
        assert_eq!(thrown(ErrorCode::InvalidRecord, Some("bad")), record);
        let refused = ClientError::refused("delete group", ErrorCode::NonEmptyGroup, None);
        assert_eq!(refused.thrown(), "org.apache.kafka.common.errors.GroupNotEmptyException: The group is not empty.");
        let gave_up = ClientError::GaveUp { doing: "x".to_owned(), after: Duration::from_secs(1), last: None };
        assert_eq!(gave_up.thrown(), "org.apache.kafka.common.errors.TimeoutException: x: gave up after 1000 ms");
    }
}
