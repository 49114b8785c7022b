//! The controller: elected among the brokers through ZooKeeper, it chooses every partition's leader and tells all
//! brokers.
//!
//! `active.rs` is the core: it takes one event at a time and returns what is to be done. Only `task/` awaits: it runs
//! elections, reads and writes ZooKeeper, keeps one connection to each broker, and feeds every outcome back as an event.
//!
//! Invariants: an event is processed to its end, including the writes that it caused, before the next one begins; no
//! request tells a leadership that is not in ZooKeeper yet; every write is fenced by the version of `/controller_epoch`
//! that the election was won with, so a deposed controller changes nothing, but for the block of producer ids, which any
//! broker may take: that is conditional on its own version.
//! Deliberately unknown here: clients, the brokers' logs, and the metadata cache, which hears of decisions like that of
//! any other broker.

pub mod active;
#[cfg(test)]
mod active_tests;
pub mod alter_partition;
pub mod assignment;
#[cfg(test)]
mod bounce_tests;
pub mod controlled_shutdown;
pub mod counters;
pub mod election;
pub mod features;
pub mod leader_election;
pub mod reassignment;
#[cfg(test)]
mod reassignment_tests;
pub mod requests;
pub mod state;
pub mod task;
pub mod topic_deletion;
pub mod topic_validation;
