//! Source: kafka 3.9.1 clients/src/main/resources/common/message/EndTxnRequest.json and EndTxnResponse.json.

use crate::protocol::message::message;

message! {
    /// Commits or aborts a transaction.
    EndTxnRequest, key 26, versions 0..=4, flexible 3.. {
        transactional_id: String [0..],
        producer_id: i64 [0..],
        producer_epoch: i16 [0..],
        committed: bool [0..],
    }
}

message! {
    /// Answers [`EndTxnRequest`].
    EndTxnResponse, key 26, versions 0..=4, flexible 3.. {
        throttle_time_ms: i32 [0..],
        error_code: i16 [0..],
    }
}
