//! Carried as bytes by JoinGroup and SyncGroup, after an i16 version.
//! Source: kafka 3.9.1 clients/src/main/resources/common/message/ConsumerProtocolSubscription.json.

use bytes::Bytes;

use crate::protocol::message::message;

message! {
    /// What a member of a consumer group says of itself when it joins.
    ConsumerProtocolSubscription, key -1, versions 0..=3, flexible none {
        topics: Vec<String> [0..],
        user_data: Option<Bytes> [0.., nullable 0.., default null],
        owned_partitions: Vec<TopicPartition> [1.., ignorable],
        generation_id: i32 [2.., default -1, ignorable],
        rack_id: Option<String> [3.., nullable 3.., default null, ignorable],
    }
    struct TopicPartition {
        topic: String [1..],
        partitions: Vec<i32> [1..],
    }
}
