//! Any client may make topics while nobody is authenticated: how many partitions they can make is bounded.

mod support;

use odradek::protocol::messages::create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic};
use odradek::protocol::messages::metadata::{MetadataRequest, MetadataRequestTopic};
use support::Cluster;

const POLICY_VIOLATION: i16 = 44;

#[test]
fn beyond_the_most_partitions_of_the_cluster_clients_make_no_more() {
    let cluster = Cluster::start("partition-limit", "cluster.max.partitions=8\nnum.partitions=1\n");
    let client = &mut cluster.broker.client();
    client.create_topic("t", 5, &[]);
    assert_eq!(client.try_create_topic("u", 4, &[]).expect("an answer"), POLICY_VIOLATION);
    assert_eq!(client.try_create_topic("u", 3, &[]).expect("an answer"), 0);
    client.until_led("u", 3);

    let topics = vec![CreatePartitionsTopic { name: "t".to_owned(), count: 6, assignments: None }];
    let request = CreatePartitionsRequest { topics, timeout_ms: 10_000, validate_only: false };
    let grown = client.call(&request, 1).expect("the broker answers CreatePartitions");
    assert_eq!(grown.results[0].error_code, POLICY_VIOLATION);
    let message = grown.results[0].error_message.as_deref().unwrap_or_default();
    assert!(message.contains("cluster.max.partitions"), "{message}");

    let topics = vec![MetadataRequestTopic { name: Some("by-itself".to_owned()), ..Default::default() }];
    let request = MetadataRequest { topics: Some(topics), allow_auto_topic_creation: true, ..Default::default() };
    let asked = client.call(&request, 9).expect("the broker answers Metadata");
    assert_eq!(asked.topics[0].error_code, POLICY_VIOLATION);

    // The cluster's own topics come all the same: a group has a place for its offsets.
    client.commit("g", "t", 0, 3);
    assert_eq!(client.committed("g", "t", 0), 3);
}
