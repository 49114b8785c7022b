//! Source: kafka 3.9.1 clients/src/main/resources/common/message/UpdateMetadataRequest.json and UpdateMetadataResponse.json.

use crate::model::TopicId;
use crate::protocol::message::message;

message! {
    /// The controller tells a broker the cluster's brokers and partition leaders.
    UpdateMetadataRequest, key 6, versions 0..=8, flexible 6.. {
        controller_id: i32 [0..],
        is_kraft_controller: bool [8..],
        controller_epoch: i32 [0..],
        broker_epoch: i64 [5.., default -1, ignorable],
        ungrouped_partition_states: Vec<UpdateMetadataPartitionState> [0..=4],
        topic_states: Vec<UpdateMetadataTopicState> [5..],
        live_brokers: Vec<UpdateMetadataBroker> [0..],
        r#type: i8 [8.., tag 0],
    }
    struct UpdateMetadataPartitionState {
        topic_name: String [0..=4, ignorable],
        partition_index: i32 [0..],
        controller_epoch: i32 [0..],
        leader: i32 [0..],
        leader_epoch: i32 [0..],
        isr: Vec<i32> [0..],
        zk_version: i32 [0..],
        replicas: Vec<i32> [0..],
        offline_replicas: Vec<i32> [4.., ignorable],
    }
    struct UpdateMetadataTopicState {
        topic_name: String [5..],
        topic_id: TopicId [7.., ignorable],
        partition_states: Vec<UpdateMetadataPartitionState> [5..],
    }
    struct UpdateMetadataBroker {
        id: i32 [0..],
        v0_host: String [0..=0, ignorable],
        v0_port: i32 [0..=0, ignorable],
        endpoints: Vec<UpdateMetadataEndpoint> [1.., ignorable],
        rack: Option<String> [2.., nullable 0.., ignorable],
    }
    struct UpdateMetadataEndpoint {
        port: i32 [1..],
        host: String [1..],
        listener: String [3.., ignorable],
        security_protocol: i16 [1..],
    }
}

message! {
    /// Answers [`UpdateMetadataRequest`].
    UpdateMetadataResponse, key 6, versions 0..=8, flexible 6.. {
        error_code: i16 [0..],
    }
}
