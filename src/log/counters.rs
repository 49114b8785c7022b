//! What the logs of a broker went through. The broker makes the counters and hands them in; bytes and records count where
//! they are produced and replicated.
//! Source of the names: kafka 3.9.1 storage/src/main/java/org/apache/kafka/storage/internals/log/LogSegment.java
//! (LogFlushStats) and core/src/main/scala/kafka/log/LogManager.scala.

use std::sync::atomic::{AtomicU64, Ordering};

/// Of all logs in all directories. Each counts up from the start of the broker.
#[derive(Debug, Default)]
pub struct LogCounters {
    /// Kafka's `kafka.log:type=LogFlushStats,name=LogFlushRateAndTimeMs`: flushes that had something to make durable.
    pub flushes: AtomicU64,
    /// What they took together, in microseconds.
    pub flush_us: AtomicU64,
    /// Passes of the cleaner over a log.
    pub cleaner_passes: AtomicU64,
    /// Kafka's `kafka.log:type=LogCleaner,name=cleaner-recopy-percent` is what was written of what was read.
    pub cleaner_bytes_read: AtomicU64,
    pub cleaner_bytes_written: AtomicU64,
    /// Passes that failed; Kafka's `kafka.log:type=LogCleanerManager,name=uncleanable-partitions-count` counts logs.
    pub cleaner_failures: AtomicU64,
    pub segments_rolled: AtomicU64,
    /// By retention, or because their records were deleted.
    pub segments_deleted: AtomicU64,
    /// Walked at the start, because the last stop was not clean.
    pub segments_recovered: AtomicU64,
    /// Directories that failed; those offline now are Kafka's `kafka.log:type=LogManager,name=OfflineLogDirectoryCount`.
    pub dirs_failed: AtomicU64,
    /// Single logs that failed while their directory serves.
    pub logs_failed: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}
