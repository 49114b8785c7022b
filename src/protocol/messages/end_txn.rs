//! Source: kafka 4.1.0 clients/src/main/resources/common/message/EndTxnRequest.json and EndTxnResponse.json.

use crate::protocol::message::message;

message! {
    /// Commits or aborts a transaction. Who asks from version 5 on goes on with another epoch, which the answer has.
    EndTxnRequest, key 26, versions 0..=5, flexible 3.. {
        transactional_id: String [0..],
        producer_id: i64 [0..],
        producer_epoch: i16 [0..],
        committed: bool [0..],
    }
}

message! {
    /// Answers [`EndTxnRequest`].
    EndTxnResponse, key 26, versions 0..=5, flexible 3.. {
        throttle_time_ms: i32 [0..],
        error_code: i16 [0..],
        producer_id: i64 [5.., default -1, ignorable],
        producer_epoch: i16 [5.., default -1, ignorable],
    }
}
