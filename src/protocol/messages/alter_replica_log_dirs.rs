//! Source: kafka 3.9.1 clients/src/main/resources/common/message/AlterReplicaLogDirsRequest.json and
//! AlterReplicaLogDirsResponse.json.

use crate::protocol::message::message;

message! {
    /// Moves replicas of a broker to other log directories of it (KIP-113).
    AlterReplicaLogDirsRequest, key 34, versions 0..=2, flexible 2.. {
        dirs: Vec<AlterReplicaLogDir> [0..],
    }
    struct AlterReplicaLogDir {
        path: String [0..],
        topics: Vec<AlterReplicaLogDirTopic> [0..],
    }
    struct AlterReplicaLogDirTopic {
        name: String [0..],
        partitions: Vec<i32> [0..],
    }
}

message! {
    /// Answers [`AlterReplicaLogDirsRequest`].
    AlterReplicaLogDirsResponse, key 34, versions 0..=2, flexible 2.. {
        throttle_time_ms: i32 [0..],
        results: Vec<AlterReplicaLogDirTopicResult> [0..],
    }
    struct AlterReplicaLogDirTopicResult {
        topic_name: String [0..],
        partitions: Vec<AlterReplicaLogDirPartitionResult> [0..],
    }
    struct AlterReplicaLogDirPartitionResult {
        partition_index: i32 [0..],
        error_code: i16 [0..],
    }
}
