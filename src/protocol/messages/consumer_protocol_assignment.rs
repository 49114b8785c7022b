//! Carried as bytes by JoinGroup and SyncGroup, after an i16 version.
//! Source: kafka 3.9.1 clients/src/main/resources/common/message/ConsumerProtocolAssignment.json.

use bytes::Bytes;

use crate::protocol::message::message;

message! {
    /// The partitions that a member of a consumer group is given.
    ConsumerProtocolAssignment, key -1, versions 0..=3, flexible none {
        assigned_partitions: Vec<TopicPartition> [0..],
        user_data: Option<Bytes> [0.., nullable 0.., default null],
    }
    struct TopicPartition {
        topic: String [0..],
        partitions: Vec<i32> [0..],
    }
}
