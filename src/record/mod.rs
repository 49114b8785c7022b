//! Record batches: the bytes that clients, brokers and log segments share, in all three formats (magic 0, 1 and 2).
//!
//! Invariants: a batch that came in is never changed in place nor copied; what Kafka rewrites lives in a small patched
//! head that is written before the untouched rest. Nothing is allocated per record, and memory is bounded by the bytes
//! that arrived or by a named constant, whatever the data claims or inflates to.
//!
//! Deliberately unknown here: partitions, offsets already taken, producers' state (all `log/`), the versions and error
//! codes of the protocol (`api/` chooses those).

pub mod append;
pub mod append_rules;
pub mod batch;
pub mod build;
pub(crate) mod cleaning;
pub mod compression;
pub(crate) mod convert;
mod crc_shift;
pub mod error;
mod header_fields;
pub mod prepared;
pub mod read;
mod rebuild;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod property_tests;
