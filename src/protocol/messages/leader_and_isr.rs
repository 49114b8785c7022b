//! Source: kafka 3.9.1 clients/src/main/resources/common/message/LeaderAndIsrRequest.json and LeaderAndIsrResponse.json.

use crate::model::TopicId;
use crate::protocol::message::message;

message! {
    /// The controller tells a broker which partitions it leads or follows.
    LeaderAndIsrRequest, key 4, versions 0..=7, flexible 4.. {
        controller_id: i32 [0..],
        is_kraft_controller: bool [7..],
        controller_epoch: i32 [0..],
        broker_epoch: i64 [2.., default -1, ignorable],
        r#type: i8 [5..],
        ungrouped_partition_states: Vec<LeaderAndIsrPartitionState> [0..=1],
        topic_states: Vec<LeaderAndIsrTopicState> [2..],
        live_leaders: Vec<LeaderAndIsrLiveLeader> [0..],
    }
    struct LeaderAndIsrPartitionState {
        topic_name: String [0..=1, ignorable],
        partition_index: i32 [0..],
        controller_epoch: i32 [0..],
        leader: i32 [0..],
        leader_epoch: i32 [0..],
        isr: Vec<i32> [0..],
        partition_epoch: i32 [0..],
        replicas: Vec<i32> [0..],
        adding_replicas: Vec<i32> [3.., ignorable],
        removing_replicas: Vec<i32> [3.., ignorable],
        is_new: bool [1.., ignorable],
        leader_recovery_state: i8 [6..],
    }
    struct LeaderAndIsrTopicState {
        topic_name: String [2..],
        topic_id: TopicId [5.., ignorable],
        partition_states: Vec<LeaderAndIsrPartitionState> [2..],
    }
    struct LeaderAndIsrLiveLeader {
        broker_id: i32 [0..],
        host_name: String [0..],
        port: i32 [0..],
    }
}

message! {
    /// Answers [`LeaderAndIsrRequest`].
    LeaderAndIsrResponse, key 4, versions 0..=7, flexible 4.. {
        error_code: i16 [0..],
        partition_errors: Vec<LeaderAndIsrPartitionError> [0..=4],
        topics: Vec<LeaderAndIsrTopicError> [5..],
    }
    struct LeaderAndIsrPartitionError {
        topic_name: String [0..=4, ignorable],
        partition_index: i32 [0..],
        error_code: i16 [0..],
    }
    struct LeaderAndIsrTopicError {
        topic_id: TopicId [5..],
        partition_errors: Vec<LeaderAndIsrPartitionError> [5..],
    }
}
