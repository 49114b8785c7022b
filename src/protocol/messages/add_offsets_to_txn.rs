//! Source: kafka 3.9.1 clients/src/main/resources/common/message/AddOffsetsToTxnRequest.json and AddOffsetsToTxnResponse.json.

use crate::protocol::message::message;

message! {
    /// Adds the offsets of a group to a transaction.
    AddOffsetsToTxnRequest, key 25, versions 0..=4, flexible 3.. {
        transactional_id: String [0..],
        producer_id: i64 [0..],
        producer_epoch: i16 [0..],
        group_id: String [0..],
    }
}

message! {
    /// Answers [`AddOffsetsToTxnRequest`].
    AddOffsetsToTxnResponse, key 25, versions 0..=4, flexible 3.. {
        throttle_time_ms: i32 [0..],
        error_code: i16 [0..],
    }
}
