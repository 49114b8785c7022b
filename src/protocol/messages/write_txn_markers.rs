//! Source: kafka 3.9.1 clients/src/main/resources/common/message/WriteTxnMarkersRequest.json and WriteTxnMarkersResponse.json.

use crate::protocol::message::message;

message! {
    /// Ends transactions in the logs that they have written to; the coordinator asks it of their leaders.
    WriteTxnMarkersRequest, key 27, versions 0..=1, flexible 1.. {
        markers: Vec<WritableTxnMarker> [0..],
    }
    struct WritableTxnMarker {
        producer_id: i64 [0..],
        producer_epoch: i16 [0..],
        /// True for a commit.
        transaction_result: bool [0..],
        topics: Vec<WritableTxnMarkerTopic> [0..],
        coordinator_epoch: i32 [0..],
    }
    struct WritableTxnMarkerTopic {
        name: String [0..],
        partition_indexes: Vec<i32> [0..],
    }
}

message! {
    /// Answers [`WriteTxnMarkersRequest`].
    WriteTxnMarkersResponse, key 27, versions 0..=1, flexible 1.. {
        markers: Vec<WritableTxnMarkerResult> [0..],
    }
    struct WritableTxnMarkerResult {
        producer_id: i64 [0..],
        topics: Vec<WritableTxnMarkerTopicResult> [0..],
    }
    struct WritableTxnMarkerTopicResult {
        name: String [0..],
        partitions: Vec<WritableTxnMarkerPartitionResult> [0..],
    }
    struct WritableTxnMarkerPartitionResult {
        partition_index: i32 [0..],
        error_code: i16 [0..],
    }
}
