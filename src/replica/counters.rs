//! What was produced to and fetched from the partitions here. The broker makes the counters and hands them in.
//! Source of the names: kafka 3.9.1 storage/src/main/java/org/apache/kafka/storage/log/metrics/BrokerTopicMetrics.java
//! (`kafka.server:type=BrokerTopicMetrics`) and core/src/main/scala/kafka/server/{ReplicaManager,DelayedFetch}.scala.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::log::AppendInfo;
use crate::log::error::LogError;
use crate::record::error::RecordError;
use crate::replica::error::ReplicaError;
use crate::replica::isr::IsrChange;

/// Of all partitions together. Each but the last counts up from the start of the broker; what coordinators append counts too.
#[derive(Debug, Default)]
pub struct ReplicaCounters {
    /// Kafka's `BytesInPerSec`: as they were sent.
    pub bytes_in: AtomicU64,
    /// Kafka's `MessagesInPerSec`.
    pub messages_in: AtomicU64,
    /// Record lists that were not appended, for whatever reason.
    pub appends_refused: AtomicU64,
    /// Of those, what nobody expects: Kafka's `FailedProduceRequestsPerSec`.
    pub appends_failed: AtomicU64,
    /// Bytes of batches that are larger than the topic allows: Kafka's `BytesRejectedPerSec`.
    pub bytes_rejected: AtomicU64,
    /// Record lists with a batch that is not what its checksum says: Kafka's `InvalidMessageCrcRecordsPerSec`.
    pub invalid_crcs: AtomicU64,
    /// Appends that wait for other replicas, or for a flush: Kafka's produce purgatory.
    pub appends_parked: AtomicU64,
    /// Kafka's `BytesOutPerSec`: of answers to consumers.
    pub bytes_out: AtomicU64,
    /// Kafka's `ReplicationBytesOutPerSec`: of answers to followers.
    pub replication_bytes_out: AtomicU64,
    /// Kafka's `ReplicationBytesInPerSec`: of answers of leaders.
    pub replication_bytes_in: AtomicU64,
    /// Kafka's `kafka.server:type=FetcherStats,name=RequestsPerSec`: fetches of all fetchers.
    pub fetcher_requests: AtomicU64,
    /// Requests of fetchers that got no answer, or one that could not be read.
    pub fetcher_requests_failed: AtomicU64,
    /// Kafka's `kafka.server:type=ReplicaFetcherManager,name=FailedPartitionsCount`, counting up: partitions that were
    /// given up until their leader epoch changes.
    pub follower_partitions_failed: AtomicU64,
    /// Logs that were cut to what their leaders have.
    pub follower_truncations: AtomicU64,
    /// Looks that fetches had into partitions.
    pub partitions_read: AtomicU64,
    /// Partitions of which a fetch was told an error.
    pub fetches_refused: AtomicU64,
    /// Waits of fetches for more bytes: Kafka's fetch purgatory.
    pub fetches_parked: AtomicU64,
    /// Of those, the ones that ended by their time: Kafka's `kafka.server:type=DelayedFetchMetrics,name=ExpiresPerSec`.
    pub fetches_expired: AtomicU64,
    /// Kafka's `kafka.server:type=ReplicaManager,name=IsrExpandsPerSec`.
    pub isr_expands: AtomicU64,
    /// Kafka's `IsrShrinksPerSec`.
    pub isr_shrinks: AtomicU64,
    /// Kafka's `FailedIsrUpdatesPerSec`.
    pub isr_updates_failed: AtomicU64,
    /// Kafka's `kafka.server:type=ReplicaManager,name=PartitionsWithLateTransactionsCount`: of the partitions led here, those
    /// with a transaction that hangs, most likely. No count from the start on, but how many there were at the last look, each
    /// `producer.id.expiration.check.interval.ms`.
    pub partitions_with_late_transactions: AtomicU64,
    /// The same by log directory, each of which is looked at by itself.
    late_transactions_by_dir: Mutex<HashMap<PathBuf, u64>>,
}

pub(super) fn add(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

impl ReplicaCounters {
    pub(super) fn late_transactions_in(&self, dir: &Path, partitions: u64) {
        let mut by_dir = self.late_transactions_by_dir.lock().unwrap_or_else(PoisonError::into_inner);
        by_dir.insert(dir.to_owned(), partitions);
        self.partitions_with_late_transactions.store(by_dir.values().sum(), Ordering::Relaxed);
    }

    pub(super) fn isr_changed(&self, change: &IsrChange) {
        match change {
            IsrChange::Expand(_) => add(&self.isr_expands, 1),
            IsrChange::Shrink(_) => add(&self.isr_shrinks, 1),
        }
    }

    pub(super) fn isr_not_changed(&self) {
        add(&self.isr_updates_failed, 1);
    }

    pub(super) fn appended(&self, bytes: usize, info: &AppendInfo) {
        add(&self.bytes_in, bytes);
        // Nothing was in it, without a first offset.
        if info.first_offset.0 >= 0 {
            let messages = info.last_offset.0 - info.first_offset.0 + 1;
            self.messages_in.fetch_add(messages.unsigned_abs(), Ordering::Relaxed);
        }
    }

    pub(super) fn not_appended(&self, bytes: usize, error: &ReplicaError) {
        add(&self.appends_refused, 1);
        match error {
            ReplicaError::UnknownTopicOrPartition
            | ReplicaError::NotLeaderOrFollower
            | ReplicaError::Offline
            | ReplicaError::ShuttingDown
            | ReplicaError::Log(
                LogError::RecordListTooLarge { .. }
                | LogError::StaleLeaderEpoch { .. }
                | LogError::Closed
                | LogError::BeingTruncated
                | LogError::Offline { .. }
                | LogError::Io { .. },
            )
            | ReplicaError::Records(RecordError::Corrupt(_)) => {}
            ReplicaError::Records(RecordError::BatchTooLarge { .. }) => add(&self.bytes_rejected, bytes),
            ReplicaError::Records(RecordError::CrcMismatch { .. } | RecordError::InnerCrcMismatch { .. }) => {
                add(&self.invalid_crcs, 1);
            }
            _ => add(&self.appends_failed, 1),
        }
    }
}
