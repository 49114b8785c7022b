//! The records of `__transaction_state`, as a JVM broker writes and reads them.
//!
//! ```text
//! key   0      i16 version, transactional id str
//! value 0, 1   i16 version, fields below; 1 has the compact encodings   (0 is written)
//! null value   tombstone
//! ```
//! Source: kafka 3.9 transaction-coordinator/src/main/resources/common/message/TransactionLog{Key,Value}.json.

use crate::protocol::message::message;

message! {
    TransactionLogKey, key -1, versions 0..=0, flexible none {
        transactional_id: String [0..],
    }
}

message! {
    TransactionLogValue, key -1, versions 0..=1, flexible 1.. {
        producer_id: i64 [0..],
        producer_epoch: i16 [0..],
        transaction_timeout_ms: i32 [0..],
        /// Index into `STATES`.
        transaction_status: i8 [0..],
        transaction_partitions: Option<Vec<PartitionsSchema>> [0.., nullable 0..],
        transaction_last_update_timestamp_ms: i64 [0..],
        transaction_start_timestamp_ms: i64 [0..],
    }
    struct PartitionsSchema {
        topic: String [0..],
        partition_ids: Vec<i32> [0..],
    }
}

/// The states of a transaction, by the number that stands for each.
/// Source: kafka 3.9 core/src/main/scala/kafka/coordinator/transaction/TransactionMetadata.scala.
pub(crate) const STATES: [&str; 8] = [
    "Empty",
    "Ongoing",
    "PrepareCommit",
    "PrepareAbort",
    "CompleteCommit",
    "CompleteAbort",
    "Dead",
    "PrepareEpochFence",
];
