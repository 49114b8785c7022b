//! Source: kafka 3.9.1 clients/src/main/resources/common/message/ListTransactionsRequest.json and ListTransactionsResponse.json.

use crate::protocol::message::message;

message! {
    /// The transactional ids that a broker coordinates (KIP-664, KIP-994).
    ListTransactionsRequest, key 66, versions 0..=1, flexible 0.. {
        state_filters: Vec<String> [0..],
        producer_id_filters: Vec<i64> [0..],
        duration_filter: i64 [1.., default -1],
    }
}

message! {
    /// Answers [`ListTransactionsRequest`].
    ListTransactionsResponse, key 66, versions 0..=1, flexible 0.. {
        throttle_time_ms: i32 [0..],
        error_code: i16 [0..],
        unknown_state_filters: Vec<String> [0..],
        transaction_states: Vec<TransactionState> [0..],
    }
    struct TransactionState {
        transactional_id: String [0..],
        producer_id: i64 [0..],
        transaction_state: String [0..],
    }
}
