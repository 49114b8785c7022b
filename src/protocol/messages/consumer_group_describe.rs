//! Source: kafka 3.9.1 clients/src/main/resources/common/message/ConsumerGroupDescribe{Request,Response}.json.

use crate::model::TopicId;
use crate::protocol::message::message;

message! {
    /// State and members of groups of the protocol of KIP-848.
    ConsumerGroupDescribeRequest, key 69, versions 0..=0, flexible 0.. {
        group_ids: Vec<String> [0..],
        include_authorized_operations: bool [0..],
    }
}

message! {
    /// Answers [`ConsumerGroupDescribeRequest`].
    ConsumerGroupDescribeResponse, key 69, versions 0..=0, flexible 0.. {
        throttle_time_ms: i32 [0..],
        groups: Vec<DescribedGroup> [0..],
    }
    struct DescribedGroup {
        error_code: i16 [0..],
        error_message: Option<String> [0.., nullable 0.., default null],
        group_id: String [0..],
        group_state: String [0..],
        group_epoch: i32 [0..],
        assignment_epoch: i32 [0..],
        assignor_name: String [0..],
        members: Vec<Member> [0..],
        authorized_operations: i32 [0.., default -2147483648],
    }
    struct Member {
        member_id: String [0..],
        instance_id: Option<String> [0.., nullable 0.., default null],
        rack_id: Option<String> [0.., nullable 0.., default null],
        member_epoch: i32 [0..],
        client_id: String [0..],
        client_host: String [0..],
        subscribed_topic_names: Vec<String> [0..],
        subscribed_topic_regex: Option<String> [0.., nullable 0.., default null],
        assignment: Assignment [0..],
        target_assignment: Assignment [0..],
    }
    struct Assignment {
        topic_partitions: Vec<TopicPartitions> [0..],
    }
    struct TopicPartitions {
        topic_id: TopicId [0..],
        topic_name: String [0..],
        partitions: Vec<i32> [0..],
    }
}
