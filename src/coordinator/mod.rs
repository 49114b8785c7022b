//! The brokers' second job: looking after consumer groups, whose state lives in an internal topic that this broker
//! leads a partition of.
//!
//! - [`group`] is the group coordinator: a pure core (`state`, `rebalance`, `offsets`, `groups`, `replay`), the
//!   record format of `__consumer_offsets`, and the shell that owns locks, timers and the log (`task`).
//! - [`topic_log`] is what a coordinator needs of the log under it: append a batch and learn its fate, read it back;
//!   [`replica_log`] is that log on the replicas of this broker.
//! - [`producer_ids`] hands out the ids of idempotent producers.
//!
//! Invariant: state that a client was told of is in the log first; what is loaded after an election is exactly
//! what the log says. The room knows nothing of requests' versions or of connections.

pub mod group;
pub(crate) mod partitioner;
pub mod producer_ids;
pub mod replica_log;
pub mod topic_log;
