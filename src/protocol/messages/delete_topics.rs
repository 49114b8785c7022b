//! Source: kafka 3.9.1 clients/src/main/resources/common/message/DeleteTopicsRequest.json and DeleteTopicsResponse.json.

use crate::model::TopicId;
use crate::protocol::message::message;

message! {
    /// Deletes topics, by the active controller.
    DeleteTopicsRequest, key 20, versions 0..=6, flexible 4.. {
        topics: Vec<DeleteTopicState> [6..],
        topic_names: Vec<String> [0..=5, ignorable],
        timeout_ms: i32 [0..],
    }
    struct DeleteTopicState {
        name: Option<String> [6.., nullable 6.., default null],
        topic_id: TopicId [6..],
    }
}

message! {
    /// Answers [`DeleteTopicsRequest`].
    DeleteTopicsResponse, key 20, versions 0..=6, flexible 4.. {
        throttle_time_ms: i32 [1.., ignorable],
        responses: Vec<DeletableTopicResult> [0..],
    }
    struct DeletableTopicResult {
        name: Option<String> [0.., nullable 6..],
        topic_id: TopicId [6.., ignorable],
        error_code: i16 [0..],
        error_message: Option<String> [5.., nullable 5.., default null, ignorable],
    }
}
