//! The partitions that this broker hosts: who leads them, which replicas are in sync, what is committed, who waits.
//!
//! Invariants: a `Partition` is the only owner of its leadership and ISR; the high watermark of a leader only moves
//! forward; every control request is fenced by broker epoch and controller epoch before it changes anything, and waits
//! while this broker is not registered; every partition is fenced by its leader epoch, and so is its log. Locks are taken
//! in the order control, partition, log; of these only the control lock, which no client request takes, is held across an
//! await.
//! Deliberately knows nothing of clients and of ZooKeeper, and of api versions no more than a fetcher needs to ask a leader.

pub mod alter_partition;
mod append_rules;
mod cached;
pub mod control;
pub mod counters;
pub mod decisions;
pub mod dir_moves;
mod disks;
pub mod error;
pub mod fetch;
pub mod fetch_session;
pub mod fetcher;
mod flush;
pub mod follower;
pub mod hosted;
pub mod io;
pub mod isr;
pub mod isr_changes;
mod late_reads;
pub mod leader;
pub mod partition;
pub mod partition_log;
pub mod replica_manager;
pub mod replica_selector;
pub mod throttle;
pub mod to_controller;
mod truncation;
pub mod waiters;

#[cfg(test)]
mod disk_waits_tests;
#[cfg(test)]
mod fetch_limits_tests;
#[cfg(test)]
mod follower_tests;
#[cfg(test)]
mod interleaving_tests;
#[cfg(test)]
mod isr_changes_tests;
#[cfg(test)]
pub(crate) mod memory_log;
#[cfg(test)]
mod memory_log_tests;
#[cfg(test)]
pub(crate) mod tests;
