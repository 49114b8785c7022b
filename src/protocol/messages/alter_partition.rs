//! Source: kafka 3.9.1 clients/src/main/resources/common/message/AlterPartitionRequest.json and AlterPartitionResponse.json.

use crate::model::TopicId;
use crate::protocol::message::message;

message! {
    /// The leader of partitions asks the active controller for other ISRs.
    AlterPartitionRequest, key 56, versions 0..=3, flexible 0.. {
        broker_id: i32 [0..],
        broker_epoch: i64 [0.., default -1],
        topics: Vec<TopicData> [0..],
    }
    struct TopicData {
        topic_name: String [0..=1, ignorable],
        topic_id: TopicId [2.., ignorable],
        partitions: Vec<PartitionData> [0..],
    }
    struct PartitionData {
        partition_index: i32 [0..],
        leader_epoch: i32 [0..],
        new_isr: Vec<i32> [0..=2],
        new_isr_with_epochs: Vec<BrokerState> [3..],
        leader_recovery_state: i8 [1..],
        partition_epoch: i32 [0..],
    }
    struct BrokerState {
        broker_id: i32 [3..],
        broker_epoch: i64 [3.., default -1],
    }
}

pub mod response {
    use crate::model::TopicId;
    use crate::protocol::message::message;

    message! {
        /// Answers [`AlterPartitionRequest`](super::AlterPartitionRequest): for each partition what is in force now.
        AlterPartitionResponse, key 56, versions 0..=3, flexible 0.. {
            throttle_time_ms: i32 [0..],
            error_code: i16 [0..],
            topics: Vec<TopicData> [0..],
        }
        struct TopicData {
            topic_name: String [0..=1, ignorable],
            topic_id: TopicId [2.., ignorable],
            partitions: Vec<PartitionData> [0..],
        }
        struct PartitionData {
            partition_index: i32 [0..],
            error_code: i16 [0..],
            leader_id: i32 [0..],
            leader_epoch: i32 [0..],
            isr: Vec<i32> [0..],
            leader_recovery_state: i8 [1.., ignorable],
            partition_epoch: i32 [0..],
        }
    }
}
