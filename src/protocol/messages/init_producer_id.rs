//! Source: kafka 3.9.1 clients/src/main/resources/common/message/InitProducerIdRequest.json and InitProducerIdResponse.json.

use crate::protocol::message::message;

message! {
    /// Hands out a producer id for idempotence or transactions.
    InitProducerIdRequest, key 22, versions 0..=5, flexible 2.. {
        transactional_id: Option<String> [0.., nullable 0..],
        transaction_timeout_ms: i32 [0..],
        producer_id: i64 [3.., default -1],
        producer_epoch: i16 [3.., default -1],
    }
}

message! {
    /// Answers [`InitProducerIdRequest`].
    InitProducerIdResponse, key 22, versions 0..=5, flexible 2.. {
        throttle_time_ms: i32 [0.., ignorable],
        error_code: i16 [0..],
        producer_id: i64 [0.., default -1],
        producer_epoch: i16 [0..],
    }
}
