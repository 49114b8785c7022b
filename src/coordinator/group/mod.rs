//! The group coordinator, with the classic protocol: join, sync, heartbeat, leave, and the offsets of groups.
//!
//! ```text
//!   api ──▶ task ──▶ coordinator/shard (locks, timers, log) ──▶ groups ──▶ rebalance / commits / outcomes ──▶ state   (pure)
//!             ▲        │                               │
//!             └────────┴── actions, in order ◀─────────┘        records, replay: bytes of __consumer_offsets
//! ```
//! A file uses only files after it: task, groups, replay · rebalance, commits, outcomes · state · member, offsets,
//! pending · turn · requests · records, error.
//!
//! Invariants of the core: one leader in every non-empty group that completed a rebalance; the generation never
//! goes back; every reply handed in is answered exactly once, whatever happens to the member or the group.
//! The core opens nothing, awaits nothing and reads no clock: `Turn` carries the time in and the actions out.

pub(crate) mod commits;
pub mod error;
pub(crate) mod groups;
pub(crate) mod member;
pub(crate) mod offsets;
pub(crate) mod outcomes;
pub(crate) mod pending;
pub(crate) mod rebalance;
pub(crate) mod records;
pub(crate) mod replay;
pub(crate) mod requests;
pub(crate) mod state;
pub(crate) mod subscription;
pub mod task;
pub(crate) mod turn;

#[cfg(test)]
mod cells;
#[cfg(test)]
mod schedules;
#[cfg(test)]
mod task_tests;
#[cfg(test)]
mod transactional_offsets_tests;
