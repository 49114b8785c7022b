//! What the coordinators have done so far. The broker makes the counters and hands them in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Of one coordinator's partitions. Each counts up from the start of the broker.
#[derive(Debug, Default)]
pub struct ShardCounters {
    pub loads: AtomicU64,
    /// Of those loads: what could be read served, and the rest is missing.
    pub load_failures: AtomicU64,
    pub unloads: AtomicU64,
    /// Appends refused because leadership had ended before its news came.
    pub fenced: AtomicU64,
}

/// Of the group coordinator.
#[derive(Debug, Default)]
pub struct GroupCounters {
    pub shards: Arc<ShardCounters>,
    pub completed_rebalances: AtomicU64,
    pub offsets_committed: AtomicU64,
    pub offsets_expired: AtomicU64,
    pub offsets_deleted: AtomicU64,
    /// Members and offsets that were refused because too much is held already.
    pub refused_for_size: AtomicU64,
    /// Member ids taken back before anybody joined with them, because many more were handed out since.
    pub pending_members_evicted: AtomicU64,
}

/// Of the transaction coordinator.
#[derive(Debug, Default)]
pub struct TransactionCounters {
    pub shards: Arc<ShardCounters>,
    pub completed: AtomicU64,
    /// Of those that were aborted: because their time was up.
    pub timed_out: AtomicU64,
    /// Transactional ids that nobody had used for long.
    pub expired: AtomicU64,
    /// Transactional ids and partitions that were refused because too much is held already.
    pub refused_for_size: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}
