//! Source: kafka 3.9.1 clients/src/main/resources/common/message/ProduceRequest.json and ProduceResponse.json. Version 12, of
//! kafka 4.0, has the fields of 11.

use crate::protocol::message::{Payload, message};

message! {
    /// Appends record batches to partitions that the receiver leads. From version 12 on those of a transaction are added to it
    /// thereby, and its producer ends it by an EndTxn of version 5.
    ProduceRequest, key 0, versions 0..=12, flexible 9.. {
        transactional_id: Option<String> [3.., nullable 3.., default null],
        acks: i16 [0..],
        timeout_ms: i32 [0..],
        topic_data: Vec<TopicProduceData> [0..],
    }
    struct TopicProduceData {
        name: String [0..],
        partition_data: Vec<PartitionProduceData> [0..],
    }
    struct PartitionProduceData {
        index: i32 [0..],
        records: Option<Payload> [0.., nullable 0..],
    }
}

message! {
    /// Answers [`ProduceRequest`].
    ProduceResponse, key 0, versions 0..=12, flexible 9.. {
        responses: Vec<TopicProduceResponse> [0..],
        throttle_time_ms: i32 [1.., ignorable],
        node_endpoints: Vec<NodeEndpoint> [10.., tag 0],
    }
    struct TopicProduceResponse {
        name: String [0..],
        partition_responses: Vec<PartitionProduceResponse> [0..],
    }
    struct PartitionProduceResponse {
        index: i32 [0..],
        error_code: i16 [0..],
        base_offset: i64 [0..],
        log_append_time_ms: i64 [2.., default -1, ignorable],
        log_start_offset: i64 [5.., default -1, ignorable],
        record_errors: Vec<BatchIndexAndErrorMessage> [8.., ignorable],
        error_message: Option<String> [8.., nullable 8.., default null, ignorable],
        current_leader: LeaderIdAndEpoch [10.., tag 0],
    }
    struct BatchIndexAndErrorMessage {
        batch_index: i32 [8..],
        batch_index_error_message: Option<String> [8.., nullable 8.., default null],
    }
    struct LeaderIdAndEpoch {
        leader_id: i32 [10.., default -1],
        leader_epoch: i32 [10.., default -1],
    }
    struct NodeEndpoint {
        node_id: i32 [10..],
        host: String [10..],
        port: i32 [10..],
        rack: Option<String> [10.., nullable 10.., default null],
    }
}
