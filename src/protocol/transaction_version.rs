//! Which version of the transaction protocol is followed, as the version of each request says.
//! Source: kafka 4.1 ProduceRequest.java, EndTxnRequest.java, TxnOffsetCommitRequest.java and AddPartitionsToTxnRequest.java.

use std::ops::RangeInclusive;

use crate::model::transaction_version::TransactionVersion;
use crate::protocol::message::{Message, Request};
use crate::protocol::messages::add_partitions_to_txn::AddPartitionsToTxnRequest;
use crate::protocol::messages::end_txn::EndTxnRequest;
use crate::protocol::messages::produce::ProduceRequest;
use crate::protocol::messages::txn_offset_commit::TxnOffsetCommitRequest;

pub(crate) fn transaction_version<R: Request>(api_version: i16) -> TransactionVersion {
    let first_of_version_2 = match R::KEY {
        // What a transaction writes to need not have been added to it before.
        ProduceRequest::KEY => 12,
        TxnOffsetCommitRequest::KEY => 5,
        // Brokers add it then.
        AddPartitionsToTxnRequest::KEY => 4,
        // It gives the producer another epoch.
        EndTxnRequest::KEY => 5,
        _ => return TransactionVersion::V0,
    };
    if api_version >= first_of_version_2 { TransactionVersion::V2 } else { TransactionVersion::V0 }
}

/// The versions of the request that follow this one; none, if nothing of it is part of that protocol.
pub(crate) fn versions_of<R: Request>(version: TransactionVersion) -> RangeInclusive<i16> {
    let mut of = R::VERSIONS.filter(|api_version| transaction_version::<R>(*api_version) == version);
    of.next().map_or(RangeInclusive::new(1, 0), |first| first..=of.next_back().unwrap_or(first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::transaction_version::TransactionVersion::{V0, V2};
    use crate::protocol::messages::heartbeat::HeartbeatRequest;

    /// Those that Kafka's clients call the last stable ones before version 2.
    #[test]
    fn each_version_of_a_request_is_of_one_version_of_the_protocol() {
        assert_eq!([V0, V2].map(versions_of::<EndTxnRequest>), [0..=4, 5..=5]);
        assert_eq!([V0, V2].map(|version| *versions_of::<ProduceRequest>(version).end()), [11, 12]);
        assert_eq!(*versions_of::<ProduceRequest>(V2).start(), 12);
        assert_eq!(versions_of::<HeartbeatRequest>(V0), HeartbeatRequest::VERSIONS);
        assert!(versions_of::<HeartbeatRequest>(V2).is_empty());
    }
}
