//! Source: kafka 3.9.1 clients/src/main/resources/common/message/ControlledShutdownRequest.json and
//! ControlledShutdownResponse.json.

use crate::protocol::message::message;

message! {
    /// A broker that will stop asks the active controller to move its leaderships away.
    ControlledShutdownRequest, key 7, versions 0..=3, flexible 3.. {
        broker_id: i32 [0..],
        broker_epoch: i64 [2.., default -1, ignorable],
    }
}

message! {
    /// Answers [`ControlledShutdownRequest`] with what the broker leads still.
    ControlledShutdownResponse, key 7, versions 0..=3, flexible 3.. {
        error_code: i16 [0..],
        remaining_partitions: Vec<RemainingPartition> [0..],
    }
    struct RemainingPartition {
        topic_name: String [0..],
        partition_index: i32 [0..],
    }
}
