//! The brokers' second job: looking after consumer groups, whose state lives in an internal topic that this broker
//! leads a partition of.
//!
//! - `core` is the border: a coordinator's core takes events and gives actions. `shard` is what surrounds a core for each
//!   partition of its topic, whichever coordinator it is: locks, loading, fenced appends, timers, requests that wait.
//! - [`group`] is the group coordinator: its core, the records of `__consumer_offsets`, and its door (`task`).
//! - [`topic_log`] is what a shard needs of the log under it: append a batch and learn its fate, read it back;
//!   [`replica_log`] is that log on the replicas of this broker.
//! - [`transaction`] is the transaction coordinator: its core, the records of `__transaction_state`, its door, and who
//!   sends the markers.
//! - `refusals` keeps those who are refused for what the broker holds from filling its log.
//! - [`producer_ids`] hands out the ids of idempotent producers.
//!
//! Invariant: state that a client was told of is in the log first; what is loaded after an election is exactly
//! what the log says. The room knows nothing of requests' versions or of connections.

pub(crate) mod core;
pub mod counters;
pub mod group;
pub(crate) mod partitioner;
pub mod producer_ids;
pub(crate) mod record_error;
mod refusals;
pub mod replica_log;
pub mod shard;
#[cfg(test)]
mod shard_tests;
pub(crate) mod timers;
pub mod topic_log;
pub mod transaction;
