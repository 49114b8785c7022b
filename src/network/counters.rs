//! What the network has done so far. The broker makes one for all its listeners and hands it in.

use std::sync::atomic::{AtomicU64, Ordering};

/// Each counts up from the start of the broker.
#[derive(Debug, Default)]
pub struct NetworkCounters {
    pub connections_accepted: AtomicU64,
    /// Of those accepted.
    pub connections_closed: AtomicU64,
    /// Closed before their first byte: by `max.connections.per.ip`, or for want of descriptors.
    pub connections_rejected: AtomicU64,
    pub bytes_received: AtomicU64,
    pub bytes_sent: AtomicU64,
    pub requests: AtomicU64,
    /// Answers that muted their connection.
    pub mutes: AtomicU64,
    /// Closed because others needed the memory that they held.
    pub connections_overdue: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// What one connection has done since it last told the counters of all: a request costs it no atomic operation.
#[derive(Debug, Default)]
pub(super) struct Untold {
    pub(super) bytes_received: u64,
    pub(super) bytes_sent: u64,
    pub(super) requests: u64,
    pub(super) mutes: u64,
}

impl Untold {
    pub(super) fn tell(&mut self, counters: &NetworkCounters) {
        let Untold { bytes_received, bytes_sent, requests, mutes } = std::mem::take(self);
        let told = [&counters.bytes_received, &counters.bytes_sent, &counters.requests, &counters.mutes];
        for (counter, more) in told.into_iter().zip([bytes_received, bytes_sent, requests, mutes]) {
            if more > 0 {
                count(counter, more);
            }
        }
    }
}
