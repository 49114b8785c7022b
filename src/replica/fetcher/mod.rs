//! What makes followers replicate: fetchers, each of which asks one broker for its share of the partitions that this broker
//! follows there, over one connection, one request at a time.
//!
//! Invariants: a partition has at most one fetcher; whatever a fetcher writes carries the leader epoch under which it asked
//! for it, and the partition refuses it under any other; one bad partition stops no other. `state.rs` and `session.rs` are
//! the core: they read no clock, and take answers and outcomes as events. `answers.rs` makes such events of responses,
//! `work.rs` of what was done to a log. `task.rs` owns the connection, `fetchers.rs` says which fetcher a partition has.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/{AbstractFetcherManager,AbstractFetcherThread,RemoteLeaderEndPoint}.scala.

pub(crate) mod answers;
pub mod fetchers;
mod session;
pub mod state;
mod task;
pub(crate) mod work;

#[cfg(test)]
mod state_tests;
