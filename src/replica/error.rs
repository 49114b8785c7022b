//! Why a hosted partition does not do what it is asked.

use std::fmt;

use crate::log::error::LogError;
use crate::record::error::RecordError;
use crate::replica::io::ShuttingDown;
use crate::replica::leader::WrongLeadership;
use crate::replica::waiters::NotCommitted;

#[derive(Debug)]
pub enum ReplicaError {
    /// Neither hosted here nor known to the cluster.
    UnknownTopicOrPartition,
    /// No topic has the id that the fetcher names.
    UnknownTopicId,
    /// Known to the cluster, but not hosted or not led here, or not by this role.
    NotLeaderOrFollower,
    /// The request carries an older leader epoch.
    FencedLeaderEpoch,
    /// The request carries a newer leader epoch.
    UnknownLeaderEpoch,
    /// The partition belongs to another incarnation of the topic than the one asked for.
    InconsistentTopicId,
    /// The partition's log directory is offline.
    Offline,
    /// Its disk has not answered yet; nothing is known but that.
    DiskIsSilent,
    /// The ISR is smaller than `min.insync.replicas`; nothing was appended.
    NotEnoughReplicas {
        in_sync: usize,
    },
    /// Appended and committed already, when the ISR had shrunk below `min.insync.replicas`.
    NotEnoughReplicasAfterAppend,
    /// Not committed before the deadline.
    TimedOut,
    /// The high watermark has not reached the beginning of this leader's epoch yet.
    OffsetNotAvailable,
    /// The fetcher's last epoch is one that the log does not know.
    UnknownFetchedEpoch,
    Records(RecordError),
    Log(LogError),
    ShuttingDown,
}

impl ReplicaError {
    /// A disk is needed, for which the thread may not wait.
    pub(crate) fn would_wait(&self) -> bool {
        matches!(self, ReplicaError::Log(error) if error.would_wait())
    }
}

impl fmt::Display for ReplicaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplicaError::UnknownTopicOrPartition => f.write_str("this server does not host this topic-partition"),
            ReplicaError::UnknownTopicId => f.write_str("no topic has this id"),
            ReplicaError::NotLeaderOrFollower => {
                f.write_str("this broker is not the leader of the partition, nor a replica that may answer for it")
            }
            ReplicaError::FencedLeaderEpoch => f.write_str("the request carries an older leader epoch"),
            ReplicaError::UnknownLeaderEpoch => f.write_str("the request carries a newer leader epoch"),
            ReplicaError::InconsistentTopicId => f.write_str("the log belongs to another incarnation of the topic"),
            ReplicaError::Offline => f.write_str("the partition is in an offline log directory"),
            ReplicaError::DiskIsSilent => f.write_str("the disk that the partition is on does not answer"),
            ReplicaError::NotEnoughReplicas { in_sync } => {
                write!(f, "the ISR of {in_sync} is smaller than min.insync.replicas")
            }
            ReplicaError::NotEnoughReplicasAfterAppend => {
                f.write_str("appended, but the ISR is now smaller than min.insync.replicas")
            }
            ReplicaError::TimedOut => f.write_str("not replicated in time"),
            ReplicaError::OffsetNotAvailable => {
                f.write_str("the high watermark is behind the beginning of the leader's epoch")
            }
            ReplicaError::UnknownFetchedEpoch => f.write_str("the end offset of the last fetched epoch is unknown"),
            ReplicaError::Records(error) => error.fmt(f),
            ReplicaError::Log(error) => error.fmt(f),
            ReplicaError::ShuttingDown => ShuttingDown.fmt(f),
        }
    }
}

impl std::error::Error for ReplicaError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ReplicaError::Records(error) => Some(error),
            ReplicaError::Log(error) => Some(error),
            _ => None,
        }
    }
}

impl From<WrongLeadership> for ReplicaError {
    fn from(wrong: WrongLeadership) -> ReplicaError {
        match wrong {
            WrongLeadership::NotLeader | WrongLeadership::StaleFollower => ReplicaError::NotLeaderOrFollower,
            WrongLeadership::Fenced => ReplicaError::FencedLeaderEpoch,
            // A follower that the leader does not know yet has heard of a newer assignment.
            WrongLeadership::Unknown | WrongLeadership::NotAReplica => ReplicaError::UnknownLeaderEpoch,
        }
    }
}

impl From<NotCommitted> for ReplicaError {
    fn from(why: NotCommitted) -> ReplicaError {
        match why {
            NotCommitted::TimedOut => ReplicaError::TimedOut,
            NotCommitted::NotLeader => ReplicaError::NotLeaderOrFollower,
            NotCommitted::Offline => ReplicaError::Offline,
        }
    }
}

impl From<RecordError> for ReplicaError {
    fn from(error: RecordError) -> ReplicaError {
        ReplicaError::Records(error)
    }
}

impl From<LogError> for ReplicaError {
    fn from(error: LogError) -> ReplicaError {
        match error {
            // Somebody else was elected between the check and the append.
            LogError::StaleLeaderEpoch { .. } => ReplicaError::NotLeaderOrFollower,
            // The partition went away meanwhile.
            LogError::Closed => ReplicaError::NotLeaderOrFollower,
            LogError::Offline { .. } => ReplicaError::Offline,
            error => ReplicaError::Log(error),
        }
    }
}

impl From<ShuttingDown> for ReplicaError {
    fn from(_: ShuttingDown) -> ReplicaError {
        ReplicaError::ShuttingDown
    }
}
