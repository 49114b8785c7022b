//! Source: kafka 3.9.1 clients/src/main/resources/common/message/ConsumerGroupHeartbeat{Request,Response}.json.

use crate::model::TopicId;
use crate::protocol::message::message;

message! {
    /// Keeps a member in a group of the protocol of KIP-848.
    ConsumerGroupHeartbeatRequest, key 68, versions 0..=0, flexible 0.. {
        group_id: String [0..],
        member_id: String [0..],
        member_epoch: i32 [0..],
        instance_id: Option<String> [0.., nullable 0.., default null],
        rack_id: Option<String> [0.., nullable 0.., default null],
        rebalance_timeout_ms: i32 [0.., default -1],
        subscribed_topic_names: Option<Vec<String>> [0.., nullable 0.., default null],
        server_assignor: Option<String> [0.., nullable 0.., default null],
        topic_partitions: Option<Vec<TopicPartitions>> [0.., nullable 0.., default null],
    }
    struct TopicPartitions {
        topic_id: TopicId [0..],
        partitions: Vec<i32> [0..],
    }
}

/// In a module of its own, since its structs are named like those of the request.
pub mod response {
    use crate::model::TopicId;
    use crate::protocol::message::message;

    message! {
        /// Answers [`ConsumerGroupHeartbeatRequest`](super::ConsumerGroupHeartbeatRequest).
        ConsumerGroupHeartbeatResponse, key 68, versions 0..=0, flexible 0.. {
            throttle_time_ms: i32 [0..],
            error_code: i16 [0..],
            error_message: Option<String> [0.., nullable 0.., default null],
            member_id: Option<String> [0.., nullable 0.., default null],
            member_epoch: i32 [0..],
            heartbeat_interval_ms: i32 [0..],
            assignment: Option<Assignment> [0.., nullable 0.., default null],
        }
        struct Assignment {
            topic_partitions: Vec<TopicPartitions> [0..],
        }
        struct TopicPartitions {
            topic_id: TopicId [0..],
            partitions: Vec<i32> [0..],
        }
    }
}
