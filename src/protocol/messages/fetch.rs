//! Source: kafka 3.9.1 clients/src/main/resources/common/message/FetchRequest.json and FetchResponse.json.

use crate::model::TopicId;
use crate::protocol::message::{Payload, message};

message! {
    /// Reads record batches from partitions, for consumers and followers alike; sessions since version 7 (KIP-227).
    FetchRequest, key 1, versions 0..=17, flexible 12.. {
        replica_id: i32 [0..=14, default -1],
        max_wait_ms: i32 [0..],
        min_bytes: i32 [0..],
        max_bytes: i32 [3.., default 2147483647, ignorable],
        isolation_level: i8 [4.., ignorable],
        session_id: i32 [7.., ignorable],
        session_epoch: i32 [7.., default -1, ignorable],
        topics: Vec<FetchTopic> [0..],
        forgotten_topics_data: Vec<ForgottenTopic> [7..],
        rack_id: String [11.., ignorable],
        cluster_id: Option<String> [12.., nullable 12.., default null, ignorable, tag 0],
        replica_state: ReplicaState [15.., tag 1],
    }
    struct FetchTopic {
        topic: String [0..=12, ignorable],
        topic_id: TopicId [13.., ignorable],
        partitions: Vec<FetchPartition> [0..],
    }
    struct FetchPartition {
        partition: i32 [0..],
        current_leader_epoch: i32 [9.., default -1, ignorable],
        fetch_offset: i64 [0..],
        last_fetched_epoch: i32 [12.., default -1],
        log_start_offset: i64 [5.., default -1, ignorable],
        partition_max_bytes: i32 [0..],
        replica_directory_id: TopicId [17.., ignorable, tag 0],
    }
    struct ForgottenTopic {
        topic: String [7..=12, ignorable],
        topic_id: TopicId [13.., ignorable],
        partitions: Vec<i32> [7..],
    }
    struct ReplicaState {
        replica_id: i32 [15.., default -1],
        replica_epoch: i64 [15.., default -1],
    }
}

message! {
    /// Answers [`FetchRequest`].
    FetchResponse, key 1, versions 0..=17, flexible 12.. {
        throttle_time_ms: i32 [1.., ignorable],
        error_code: i16 [7.., ignorable],
        session_id: i32 [7..],
        responses: Vec<FetchableTopicResponse> [0..],
        node_endpoints: Vec<NodeEndpoint> [16.., tag 0],
    }
    struct FetchableTopicResponse {
        topic: String [0..=12, ignorable],
        topic_id: TopicId [13.., ignorable],
        partitions: Vec<PartitionData> [0..],
    }
    struct PartitionData {
        partition_index: i32 [0..],
        error_code: i16 [0..],
        high_watermark: i64 [0..],
        last_stable_offset: i64 [4.., default -1, ignorable],
        log_start_offset: i64 [5.., default -1, ignorable],
        aborted_transactions: Option<Vec<AbortedTransaction>> [4.., nullable 4.., ignorable],
        preferred_read_replica: i32 [11.., default -1],
        records: Option<Payload> [0.., nullable 0..],
        diverging_epoch: EpochEndOffset [12.., tag 0],
        current_leader: LeaderIdAndEpoch [12.., tag 1],
        snapshot_id: SnapshotId [12.., tag 2],
    }
    struct AbortedTransaction {
        producer_id: i64 [4..],
        first_offset: i64 [4..],
    }
    struct EpochEndOffset {
        epoch: i32 [12.., default -1],
        end_offset: i64 [12.., default -1],
    }
    struct LeaderIdAndEpoch {
        leader_id: i32 [12.., default -1],
        leader_epoch: i32 [12.., default -1],
    }
    struct SnapshotId {
        end_offset: i64 [0.., default -1],
        epoch: i32 [0.., default -1],
    }
    struct NodeEndpoint {
        node_id: i32 [16..],
        host: String [16..],
        port: i32 [16..],
        rack: Option<String> [16.., nullable 16.., default null],
    }
}
