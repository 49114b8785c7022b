//! Which version of the transaction protocol is followed, as the version of each request says.
//! Source: kafka 4.1 ProduceRequest.java, EndTxnRequest.java, TxnOffsetCommitRequest.java and AddPartitionsToTxnRequest.java.

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
