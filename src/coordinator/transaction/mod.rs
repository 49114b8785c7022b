//! The transaction coordinator: which producer may write under a transactional id, and whether what it has written counts.
//!
//! ```text
//!   api ──▶ task ──▶ coordinator/shard (locks, timers, log) ──▶ transactions ──▶ lifecycle ──▶ state   (pure)
//!            ▲ │                          │                          │
//!            │ └── markers to send ◀──────┴─── actions, in order ◀───┘     records, replay: bytes of __transaction_state
//!            │            │
//!            │            ▼
//!            └─── marker_sender ──▶ markers (pure) ──▶ WriteTxnMarkers to the leaders
//! ```
//! A file uses only files after it: marker_sender, markers, verifier, task, transactions, replay · lifecycle · turn · requests ·
//! records · state, error.
//!
//! Invariants of the core: a state is in force once its record is in the log; of one transactional id one change is on
//! its way at a time, and whatever else is asked meanwhile is told to ask again; a transaction whose end is in the log
//! ends that way, however often its markers have to be sent and by whomever.
//! The core opens nothing, awaits nothing and reads no clock: `Turn` carries the time in and the actions out.

pub mod error;
pub(crate) mod lifecycle;
pub(crate) mod marker_sender;
pub(crate) mod markers;
pub mod records;
pub(crate) mod replay;
pub mod requests;
pub mod state;
pub mod task;
pub(crate) mod transactions;
pub(crate) mod turn;
pub mod verifier;

#[cfg(test)]
mod cells;
#[cfg(test)]
mod load_tests;
