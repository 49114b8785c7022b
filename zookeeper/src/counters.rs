//! What the sessions with ZooKeeper have gone through. The broker makes the counters and hands them in.
//! Source of the names: kafka 3.9.0-rc3 core/src/main/scala/kafka/zookeeper/ZooKeeperClient.scala
//! (`kafka.server:type=SessionExpireListener`).
use std::sync::atomic::{AtomicU64, Ordering};

/// Each counts up from the start of the broker.
#[derive(Debug, Default)]
pub struct ZooKeeperCounters {
    /// Connections to a server, first ones and new ones: Kafka's `ZooKeeperSyncConnectsPerSec`.
    pub connects: AtomicU64,
    /// Kafka's `ZooKeeperDisconnectsPerSec`.
    pub disconnects: AtomicU64,
    /// Sessions that ended before they were closed: Kafka's `ZooKeeperExpiresPerSec`.
    pub expiries: AtomicU64,
    /// Kafka's `ZooKeeperAuthFailuresPerSec`.
    pub auth_failures: AtomicU64,
    /// Znodes that were found malformed, or could not be read or written as they should; those that are so again count
    /// again.
    pub znodes_in_disorder: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
