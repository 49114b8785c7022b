//! What can go wrong in the log room, as cases that a caller tells apart.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

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
    /// The segment reaches further than its indexes can say, and is to be split.
    SegmentOverflows {
        base_offset: Offset,
    },
    /// A truncation is under way, which is short.
    BeingTruncated,
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

/// What an error takes out of service. Only what it is about: an error of the disk, the directory; damage to one log, that
/// log; one about a name, a descriptor or a full disk, nothing but what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condemned {
    Nothing,
    Log,
    /// The log directory if it cannot be listed any more, else the log: a file is missing, or its permissions are wrong.
    LogOrDir,
    Dir,
}

impl LogError {
    pub fn condemns(&self) -> Condemned {
        match self {
            LogError::Io { source, .. } => condemned_by(source),
            LogError::Corrupt { .. } | LogError::SegmentOverflows { .. } => Condemned::Log,
            _ => Condemned::Nothing,
        }
    }

    /// Room or descriptors, of which there may be enough again.
    pub fn may_pass(&self) -> bool {
        let LogError::Io { source, .. } = self else { return false };
        let passing = [Errno::NOSPC, Errno::DQUOT, Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
        Errno::from_io_error(source).is_some_and(|errno| passing.contains(&errno))
    }

    /// A disk is needed, for which the thread may not wait.
    pub(crate) fn would_wait(&self) -> bool {
        matches!(self, LogError::Io { source, .. } if source.kind() == io::ErrorKind::WouldBlock)
    }

    /// A file that is not there, or is shorter than it should be, as long as nobody is at it.
    pub(crate) fn says_missing(&self) -> bool {
        let is_missing = |kind| matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof);
        matches!(self, LogError::Io { source, .. } if is_missing(source.kind()))
    }

    /// True if the partition can no longer be served.
    pub fn is_storage_failure(&self) -> bool {
        self.condemns() != Condemned::Nothing
    }

    /// How loud whoever has observed the error says what it came in the way of: a directory that is out of service has said
    /// why, and a log that was deleted meanwhile is no news.
    pub(crate) fn level(&self) -> log::Level {
        match self {
            LogError::Closed | LogError::BeingTruncated | LogError::Offline { .. } => log::Level::Debug,
            _ if self.condemns() == Condemned::Dir => log::Level::Debug,
            _ => log::Level::Error,
        }
    }

    /// What the system said, if it was asked.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            LogError::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// A change was left half done: memory and files may disagree, and the log must not serve from either.
    pub(crate) fn half_done(self) -> LogError {
        match self.condemns() {
            Condemned::Nothing if matches!(self, LogError::Io { .. }) => {
                LogError::Corrupt { context: self.to_string() }
            }
            _ => self,
        }
    }
}

pub(crate) fn condemned_by(error: &io::Error) -> Condemned {
    // Errors that we make ourselves, such as the end of a file that should be longer.
    let Some(errno) = Errno::from_io_error(error) else { return Condemned::Nothing };
    match errno {
        // What a process or a machine has run out of. The disk is as good as before.
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS | Errno::AGAIN | Errno::INTR | Errno::BUSY => {
            Condemned::Nothing
        }
        // A full disk refuses appends but still serves reads, deletes and admin requests.
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::MLINK => Condemned::Nothing,
        // About a name, or what it stands for.
        Errno::NAMETOOLONG
        | Errno::INVAL
        | Errno::ILSEQ
        | Errno::EXIST
        | Errno::NOTEMPTY
        | Errno::ISDIR
        | Errno::LOOP
        | Errno::OVERFLOW
        | Errno::TXTBSY
        | Errno::XDEV => Condemned::Nothing,
        Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::PERM => Condemned::LogOrDir,
        // EIO, EROFS, ENODEV, ESTALE, EUCLEAN and whatever else a file system says when it fails.
        _ => Condemned::Dir,
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
            LogError::SegmentOverflows { base_offset } => {
                write!(f, "the segment at offset {base_offset} reaches further than its indexes can say")
            }
            LogError::BeingTruncated => f.write_str("the log is being truncated"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_condemns_what_it_is_about() {
        let io = |errno: Errno| LogError::Io { context: "open x".to_string(), source: errno.into() };
        for errno in [Errno::IO, Errno::ROFS, Errno::NODEV, Errno::STALE, Errno::UCLEAN, Errno::NXIO, Errno::SHUTDOWN] {
            assert_eq!(io(errno).condemns(), Condemned::Dir, "{errno:?}");
            assert!(io(errno).is_storage_failure());
        }
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::INTR,
            Errno::NAMETOOLONG,
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::FBIG,
            Errno::MLINK,
        ] {
            assert_eq!(io(errno).condemns(), Condemned::Nothing, "{errno:?}");
            assert!(!io(errno).is_storage_failure());
            assert_eq!(io(errno).half_done().condemns(), Condemned::Log, "{errno:?}");
        }
        for errno in [Errno::NOENT, Errno::ACCESS, Errno::NOTDIR] {
            assert_eq!(io(errno).condemns(), Condemned::LogOrDir, "{errno:?}");
        }
        assert_eq!(io(Errno::IO).half_done().condemns(), Condemned::Dir);
        assert_eq!(LogError::Corrupt { context: String::new() }.condemns(), Condemned::Log);
        assert_eq!(LogError::Closed.half_done().condemns(), Condemned::Nothing);
    }
}
