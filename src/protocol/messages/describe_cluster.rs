//! Source: kafka 3.9.1 clients/src/main/resources/common/message/DescribeClusterRequest.json and DescribeClusterResponse.json.

use crate::protocol::message::message;

message! {
    /// Brokers, controller and id of the cluster.
    DescribeClusterRequest, key 60, versions 0..=1, flexible 0.. {
        include_cluster_authorized_operations: bool [0..],
        endpoint_type: i8 [1.., default 1],
    }
}

message! {
    /// Answers [`DescribeClusterRequest`].
    DescribeClusterResponse, key 60, versions 0..=1, flexible 0.. {
        throttle_time_ms: i32 [0..],
        error_code: i16 [0..],
        error_message: Option<String> [0.., nullable 0.., default null],
        endpoint_type: i8 [1.., default 1],
        cluster_id: String [0..],
        controller_id: i32 [0.., default -1],
        brokers: Vec<DescribeClusterBroker> [0..],
        cluster_authorized_operations: i32 [0.., default -2147483648],
    }
    struct DescribeClusterBroker {
        broker_id: i32 [0..],
        host: String [0..],
        port: i32 [0..],
        rack: Option<String> [0.., nullable 0.., default null],
    }
}
