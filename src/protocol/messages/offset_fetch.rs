//! Source: kafka 3.9.1 clients/src/main/resources/common/message/OffsetFetchRequest.json and OffsetFetchResponse.json.

use crate::protocol::message::message;

message! {
    /// Reads back the positions of a consumer group.
    OffsetFetchRequest, key 9, versions 0..=9, flexible 6.. {
        group_id: String [0..=7],
        topics: Option<Vec<OffsetFetchRequestTopic>> [0..=7, nullable 2..],
        groups: Vec<OffsetFetchRequestGroup> [8..],
        require_stable: bool [7..],
    }
    struct OffsetFetchRequestTopic {
        name: String [0..=7],
        partition_indexes: Vec<i32> [0..=7],
    }
    struct OffsetFetchRequestGroup {
        group_id: String [8..],
        member_id: Option<String> [9.., nullable 9.., default null, ignorable],
        member_epoch: i32 [9.., default -1, ignorable],
        topics: Option<Vec<OffsetFetchRequestTopics>> [8.., nullable 8..],
    }
    struct OffsetFetchRequestTopics {
        name: String [8..],
        partition_indexes: Vec<i32> [8..],
    }
}

message! {
    /// Answers [`OffsetFetchRequest`].
    OffsetFetchResponse, key 9, versions 0..=9, flexible 6.. {
        throttle_time_ms: i32 [3.., ignorable],
        topics: Vec<OffsetFetchResponseTopic> [0..=7],
        error_code: i16 [2..=7, ignorable],
        groups: Vec<OffsetFetchResponseGroup> [8..],
    }
    struct OffsetFetchResponseTopic {
        name: String [0..=7],
        partitions: Vec<OffsetFetchResponsePartition> [0..=7],
    }
    struct OffsetFetchResponsePartition {
        partition_index: i32 [0..=7],
        committed_offset: i64 [0..=7],
        committed_leader_epoch: i32 [5..=7, default -1, ignorable],
        metadata: Option<String> [0..=7, nullable 0..],
        error_code: i16 [0..=7],
    }
    struct OffsetFetchResponseGroup {
        group_id: String [8..],
        topics: Vec<OffsetFetchResponseTopics> [8..],
        error_code: i16 [8..],
    }
    struct OffsetFetchResponseTopics {
        name: String [8..],
        partitions: Vec<OffsetFetchResponsePartitions> [8..],
    }
    struct OffsetFetchResponsePartitions {
        partition_index: i32 [8..],
        committed_offset: i64 [8..],
        committed_leader_epoch: i32 [8.., default -1, ignorable],
        metadata: Option<String> [8.., nullable 8..],
        error_code: i16 [8..],
    }
}
