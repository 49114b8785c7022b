//! Which transaction protocol a producer follows.
//! Source: kafka 4.1 server-common/src/main/java/org/apache/kafka/server/common/TransactionVersion.java (facts alone).

/// The feature that says which version a cluster has finalized. Level 2 ends each transaction with another epoch of its producer.
pub const TRANSACTION_VERSION: &str = "transaction.version";

/// It shows in the version of each request, whatever the cluster has finalized: a producer may not have heard of that yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TransactionVersion {
    /// A producer adds partitions before it writes to them, and keeps its epoch for one transaction after the other.
    #[default]
    V0,
    /// The first write adds its partition, and each transaction ends with another epoch (KIP-890 part 2): what belongs to
    /// an earlier one is known by its epoch, however late it comes.
    V2,
}

impl TransactionVersion {
    /// As records of `__transaction_state` and features have it. Level 1 has the same protocol as 0, and other records.
    pub(crate) fn from_level(level: i16) -> TransactionVersion {
        if level >= 2 { TransactionVersion::V2 } else { TransactionVersion::V0 }
    }

    pub(crate) fn level(self) -> i16 {
        match self {
            TransactionVersion::V0 => 0,
            TransactionVersion::V2 => 2,
        }
    }

    pub fn bumps_epoch(self) -> bool {
        self == TransactionVersion::V2
    }
}
