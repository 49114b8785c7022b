//! log.

mod atomic_file;
pub mod broker_metadata;
mod checkpoint;
pub mod error;
mod file_names;
mod index_file;
pub mod leader_epochs;
mod offset_index;
mod partition_metadata;
mod producer_snapshot;
pub mod producer_state;
mod time_index;
pub mod transaction_index;
