//! What can go wrong in the log room, as cases that a caller tells apart.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicId};

#[derive(Debug)]
pub enum LogError {
    /// The offset lies below the log start offset or above the log end offset.
    OffsetOutOfRange {
        offset: Offset,
        log_start_offset: Offset,
        log_end_offset: Offset,
    },
    /// The append comes from a leader that has been replaced since.
    StaleLeaderEpoch {
        given: LeaderEpoch,
        latest: LeaderEpoch,
    },
    /// The bytes are not well-formed batches, or fail their checksum.
    InvalidBatch {
        reason: String,
    },
    /// One append does not fit into one segment.
    RecordListTooLarge {
        bytes: u64,
        segment_bytes: u64,
    },
    /// A producer that a newer incarnation has replaced.
    InvalidProducerEpoch {
        producer_id: ProducerId,
        given: ProducerEpoch,
        latest: ProducerEpoch,
    },
    /// A gap or a step back in the sequence of an idempotent producer, older than the cached duplicates.
    OutOfOrderSequence {
        producer_id: ProducerId,
        given: i32,
        last: i32,
    },
    /// A plain batch inside an open transaction of the same producer.
    InvalidTxnState {
        producer_id: ProducerId,
    },
    /// A transaction marker written by a coordinator that has been replaced since.
    TransactionCoordinatorFenced {
        producer_id: ProducerId,
        given: i32,
        latest: i32,
    },
    /// A follower was given batches that do not continue its log.
    UnexpectedOffset {
        first_offset: Offset,
        log_end_offset: Offset,
    },
    /// The topic's cleanup.policy does not allow records to be deleted.
    DeletePolicyRequired,
    /// The directory belongs to another incarnation of the topic.
    InconsistentTopicId {
        on_disk: TopicId,
        given: TopicId,
    },
    /// The log was closed or deleted: nothing is served from it any more.
    Closed,
    /// The log directory failed earlier: nothing is served from it any more.
    Offline {
        dir: String,
    },
    /// What the directories hold forbids this broker to start on them.
    StartRefused {
        context: String,
    },
    /// A file is not what it should be, and nothing can be rebuilt from it.
    Corrupt {
        context: String,
    },
    Io {
        context: String,
        source: io::Error,
    },
}

impl LogError {
    /// True if the directory as a whole must be taken out of service.
    pub fn is_storage_failure(&self) -> bool {
        match self {
            // A full disk refuses appends but still serves reads, deletes and admin requests.
            LogError::Io { source, .. } => {
                !matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            LogError::Corrupt { .. } => true,
            _ => false,
        }
    }
}

/// Adds "doing what, to which file" to an I/O error, once.
pub(crate) trait IoContext<T> {
    fn doing(self, what: &str, path: &Path) -> Result<T, LogError>;
    /// For where the path would have to be made up only for the error.
    fn doing_at(self, what: &str, path: impl FnOnce() -> PathBuf) -> Result<T, LogError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn doing(self, what: &str, path: &Path) -> Result<T, LogError> {
        self.map_err(|source| LogError::Io { context: format!("{what} {}", path.display()), source })
    }

    fn doing_at(self, what: &str, path: impl FnOnce() -> PathBuf) -> Result<T, LogError> {
        self.map_err(|source| LogError::Io { context: format!("{what} {}", path().display()), source })
    }
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::OffsetOutOfRange { offset, log_start_offset, log_end_offset } => write!(
                f,
                "offset {offset} is out of range: the log holds {log_start_offset} to {log_end_offset} (exclusive)"
            ),
            LogError::StaleLeaderEpoch { given, latest } => {
                write!(f, "admitted under leader epoch {given}, but epoch {latest} is in force")
            }
            LogError::InvalidBatch { reason } => f.write_str(reason),
            LogError::RecordListTooLarge { bytes, segment_bytes } => {
                write!(f, "an append of {bytes} bytes exceeds segment.bytes, which is {segment_bytes}")
            }
            LogError::InvalidProducerEpoch { producer_id, given, latest } => write!(
                f,
                "epoch of producer {producer_id} is {given}, which is smaller than the last seen epoch {latest}"
            ),
            LogError::OutOfOrderSequence { producer_id, given, last } => write!(
                f,
                "out of order sequence number for producer {producer_id}: {given} (incoming seq. number), {last} \
                 (current end sequence number)"
            ),
            LogError::InvalidTxnState { producer_id } => {
                write!(f, "expected a transactional write from producer {producer_id}")
            }
            LogError::TransactionCoordinatorFenced { producer_id, given, latest } => {
                write!(f, "invalid coordinator epoch for producer {producer_id}: {given} (zombie), {latest} (current)")
            }
            LogError::UnexpectedOffset { first_offset, log_end_offset } => {
                write!(f, "batches start at offset {first_offset}, but the log ends at {log_end_offset}")
            }
            LogError::DeletePolicyRequired => f.write_str("the topic's cleanup.policy does not contain delete"),
            LogError::InconsistentTopicId { on_disk, given } => {
                write!(f, "the directory belongs to topic id {on_disk}, not {given}")
            }
            LogError::Closed => f.write_str("the log is closed"),
            LogError::Offline { dir } => write!(f, "log directory {dir} is offline until the broker restarts"),
            LogError::StartRefused { context } | LogError::Corrupt { context } => f.write_str(context),
            LogError::Io { context, source } => write!(f, "{context}: {source}"),
        }
    }
}

impl std::error::Error for LogError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LogError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
