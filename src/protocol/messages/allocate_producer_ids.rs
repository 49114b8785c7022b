//! Source: kafka 3.9.1 clients/src/main/resources/common/message/AllocateProducerIdsRequest.json and
//! AllocateProducerIdsResponse.json.

use crate::protocol::message::message;

message! {
    /// A broker asks the active controller for producer ids that nobody else has.
    AllocateProducerIdsRequest, key 67, versions 0..=0, flexible 0.. {
        broker_id: i32 [0..],
        broker_epoch: i64 [0.., default -1],
    }
}

message! {
    /// Answers [`AllocateProducerIdsRequest`] with the ids from `producer_id_start` on.
    AllocateProducerIdsResponse, key 67, versions 0..=0, flexible 0.. {
        throttle_time_ms: i32 [0..],
        error_code: i16 [0..],
        producer_id_start: i64 [0..],
        producer_id_len: i32 [0..],
    }
}
