//! Source: kafka 3.9.1 clients/src/main/resources/common/message/MetadataRequest.json and MetadataResponse.json.

use crate::model::TopicId;
use crate::protocol::message::message;

message! {
    /// Brokers, topics and leaders as the receiver knows them; may create topics.
    MetadataRequest, key 3, versions 0..=12, flexible 9.. {
        topics: Option<Vec<MetadataRequestTopic>> [0.., nullable 1..],
        allow_auto_topic_creation: bool [4.., default true],
        include_cluster_authorized_operations: bool [8..=10],
        include_topic_authorized_operations: bool [8..],
    }
    struct MetadataRequestTopic {
        topic_id: TopicId [10.., ignorable],
        name: Option<String> [0.., nullable 10..],
    }
}

message! {
    /// Answers [`MetadataRequest`].
    MetadataResponse, key 3, versions 0..=12, flexible 9.. {
        throttle_time_ms: i32 [3.., ignorable],
        brokers: Vec<MetadataResponseBroker> [0..],
        cluster_id: Option<String> [2.., nullable 2.., default null, ignorable],
        controller_id: i32 [1.., default -1, ignorable],
        topics: Vec<MetadataResponseTopic> [0..],
        cluster_authorized_operations: i32 [8..=10, default -2147483648],
    }
    struct MetadataResponseBroker {
        node_id: i32 [0..],
        host: String [0..],
        port: i32 [0..],
        rack: Option<String> [1.., nullable 1.., default null, ignorable],
    }
    struct MetadataResponseTopic {
        error_code: i16 [0..],
        name: Option<String> [0.., nullable 12..],
        topic_id: TopicId [10.., ignorable],
        is_internal: bool [1.., ignorable],
        partitions: Vec<MetadataResponsePartition> [0..],
        topic_authorized_operations: i32 [8.., default -2147483648],
    }
    struct MetadataResponsePartition {
        error_code: i16 [0..],
        partition_index: i32 [0..],
        leader_id: i32 [0..],
        leader_epoch: i32 [7.., default -1, ignorable],
        replica_nodes: Vec<i32> [0..],
        isr_nodes: Vec<i32> [0..],
        offline_replicas: Vec<i32> [5.., ignorable],
    }
}
