//! Source: kafka 3.9.1 clients/src/main/resources/common/message/DescribeProducersRequest.json and DescribeProducersResponse.json.

use crate::protocol::message::message;

message! {
    /// The idempotent and transactional producers of partitions (KIP-664).
    DescribeProducersRequest, key 61, versions 0..=0, flexible 0.. {
        topics: Vec<TopicRequest> [0..],
    }
    struct TopicRequest {
        name: String [0..],
        partition_indexes: Vec<i32> [0..],
    }
}

message! {
    /// Answers [`DescribeProducersRequest`].
    DescribeProducersResponse, key 61, versions 0..=0, flexible 0.. {
        throttle_time_ms: i32 [0..],
        topics: Vec<TopicResponse> [0..],
    }
    struct TopicResponse {
        name: String [0..],
        partitions: Vec<PartitionResponse> [0..],
    }
    struct PartitionResponse {
        partition_index: i32 [0..],
        error_code: i16 [0..],
        error_message: Option<String> [0.., nullable 0.., default null],
        active_producers: Vec<ProducerState> [0..],
    }
    struct ProducerState {
        producer_id: i64 [0..],
        producer_epoch: i32 [0..],
        last_sequence: i32 [0.., default -1],
        last_timestamp: i64 [0.., default -1],
        coordinator_epoch: i32 [0..],
        current_txn_start_offset: i64 [0.., default -1],
    }
}
