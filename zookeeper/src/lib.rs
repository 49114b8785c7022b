//! The part of a Kafka cluster that lives in ZooKeeper: the layout of every znode, and a session that outlives
//! connection loss and expiry.
//!
//! What belongs here: paths, payloads, the exact requests a ZooKeeper-mode broker sends (fenced, conditional,
//! pipelined), and watches. What does not: any decision. The structs hold plain `i32` and `String`, named like the
//! JSON keys; a room of the broker converts them to its own words.
//!
//! Invariants: nothing read from ZooKeeper panics; only connection loss is retried, so that a caller never sees a
//! write applied twice without having been told how to recognise it; nothing that belongs to one session is carried into
//! the next through a handle that is bound to it; a watch never loses a change, since each change is
//! delivered as the state read after the watch was armed again.
#![forbid(unsafe_code)]

mod connect_string;
pub mod counters;
pub mod error;
mod faults;
pub mod jaas;
mod relay;
pub mod requests;
pub mod session;
pub mod settings;
pub mod watch;
pub mod znode;

pub mod brokers;
pub mod cluster;
pub mod configs;
pub mod consumer_offsets;
pub mod election;
pub mod fenced;
pub mod notifications;
pub mod producer_ids;
pub mod topic_requests;
