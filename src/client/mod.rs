//! The small internal client: connect, negotiate versions, correlate, time out; on top of it, for the command-line
//! tools, a cluster client that knows leaders and coordinators, a producer and a consumer.
//!
//! Invariants: requests of one connection are written whole and in the order they were submitted; a response is
//! matched by its correlation id; a request that timed out costs its connection, since a late answer could be taken
//! for another's; memory for a response is reserved as its bytes arrive, never for the length it declares.
//!
//! Deliberately unknown here: what a tool prints, what a broker does with a request.

pub mod admin;
pub mod assignor;
pub mod cluster;
pub mod connection;
pub mod consumer;
pub mod error;
pub(crate) mod group;
pub mod log_dirs;
pub mod partitioner;
pub mod pattern;
pub mod producer;
pub mod settings;
pub mod transactions;
