//! Every version of the APIs that look into partitions and the cluster, asked over the wire, in success and in refusal.
//! The same file holds against a JVM broker (see `tests/support`), which it was checked with.

mod support;

use odradek::protocol::error_code::ErrorCode;
use odradek::protocol::message::Message;
use odradek::protocol::messages::create_acls::{AclCreation, CreateAclsRequest};
use odradek::protocol::messages::create_topics::{CreatableTopic, CreateTopicsRequest};
use odradek::protocol::messages::delete_acls::{DeleteAclsFilter, DeleteAclsRequest};
use odradek::protocol::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use odradek::protocol::messages::describe_acls::DescribeAclsRequest;
use odradek::protocol::messages::describe_cluster::DescribeClusterRequest;
use odradek::protocol::messages::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource};
use odradek::protocol::messages::describe_producers::{DescribeProducersRequest, TopicRequest};
use odradek::protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use odradek::protocol::messages::metadata::{MetadataRequest, MetadataRequestTopic};
use odradek::protocol::messages::offset_for_leader_epoch::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use odradek::record::build::BatchBuilder;
use support::client::{Client, TIMESTAMP};
use support::{Cluster, PATIENCE, eventually};

const TOPIC: &str = "orders";
const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// Records in the only partition, all of one idempotent producer.
const RECORDS: i64 = 10;
const NO_OPERATIONS: i32 = i32::MIN;
/// CREATE, ALTER, DESCRIBE, CLUSTER_ACTION, DESCRIBE_CONFIGS, ALTER_CONFIGS, IDEMPOTENT_WRITE.
const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;

fn name_of(code: i16) -> &'static str {
    ErrorCode::from_code(code).name()
}

/// Fills the topic; gives the producer's id.
fn fill(client: &mut Client) -> i64 {
    client.create_topic(TOPIC, 1, &[]);
    let producer = eventually(PATIENCE, "a producer id", || client.producer_id().map_err(|error| error.to_string()));
    for sequence in 0..RECORDS {
        let mut batch = BatchBuilder::new().producer(producer.0, producer.1, sequence as i32);
        batch.append(TIMESTAMP + sequence, None, Some(b"value"), &[]);
        assert_eq!(client.produce(TOPIC, 0, batch.build()).expect("Produce is answered"), Ok(sequence));
    }
    producer.0
}

/// The answer's error, timestamp, offset and leader epoch; in version 0 the offset is the first of the list.
fn list(client: &mut Client, version: i16, asked: ListOffsetsPartition) -> (&'static str, i64, i64, i32) {
    let topic = ListOffsetsTopic { name: TOPIC.into(), partitions: vec![asked] };
    let request = ListOffsetsRequest { replica_id: -1, isolation_level: 0, topics: vec![topic] };
    let response = client.call(&request, version).expect("ListOffsets is answered");
    let found = &response.topics[0].partitions[0];
    let offset = if version == 0 { found.old_style_offsets.first().copied().unwrap_or(-1) } else { found.offset };
    (name_of(found.error_code), found.timestamp, offset, found.leader_epoch)
}

fn offsets_are_listed(client: &mut Client) {
    for version in ListOffsetsRequest::VERSIONS {
        let asked = |timestamp| ListOffsetsPartition { timestamp, ..Default::default() };
        let epoch = if version >= 4 { 0 } else { -1 };
        assert_eq!(list(client, version, asked(-1)), ("NONE", -1, RECORDS, epoch), "the end, version {version}");
        assert_eq!(list(client, version, asked(-2)), ("NONE", -1, 0, epoch), "the start, version {version}");
        let nowhere = ListOffsetsPartition { partition_index: 7, ..asked(-1) };
        assert_eq!(list(client, version, nowhere), ("UNKNOWN_TOPIC_OR_PARTITION", -1, -1, -1), "version {version}");
        if version >= 1 {
            assert_eq!(list(client, version, asked(TIMESTAMP + 4)), ("NONE", TIMESTAMP + 4, 4, epoch));
            assert_eq!(list(client, version, asked(TIMESTAMP + RECORDS)), ("NONE", -1, -1, -1), "version {version}");
            let newest = list(client, version, asked(-3));
            let expected = if version >= 7 {
                ("NONE", TIMESTAMP + RECORDS - 1, RECORDS - 1, epoch)
            } else {
                ("UNSUPPORTED_VERSION", -1, -1, -1)
            };
            assert_eq!(newest, expected, "the newest record, version {version}");
        }
        if version >= 4 {
            let fenced = ListOffsetsPartition { current_leader_epoch: 5, ..asked(-1) };
            assert_eq!(list(client, version, fenced), ("UNKNOWN_LEADER_EPOCH", -1, -1, -1), "version {version}");
        }
    }
}

fn leader_epochs_end_somewhere(client: &mut Client) {
    for version in OffsetForLeaderEpochRequest::VERSIONS {
        let mut ask = |partition, current_leader_epoch, leader_epoch| {
            let partitions = vec![OffsetForLeaderPartition { partition, current_leader_epoch, leader_epoch }];
            let topics = vec![OffsetForLeaderTopic { topic: TOPIC.into(), partitions }];
            let request = OffsetForLeaderEpochRequest { replica_id: -1, topics };
            let response = client.call(&request, version).expect("OffsetForLeaderEpoch is answered");
            let found = &response.topics[0].partitions[0];
            assert_eq!(found.partition, partition);
            (name_of(found.error_code), found.leader_epoch, found.end_offset)
        };
        let epoch = if version >= 1 { 0 } else { -1 };
        assert_eq!(ask(0, -1, 0), ("NONE", epoch, RECORDS), "version {version}");
        assert_eq!(ask(0, -1, 9), ("NONE", -1, -1), "an epoch to come, version {version}");
        assert_eq!(ask(7, -1, 0), ("UNKNOWN_TOPIC_OR_PARTITION", -1, -1), "version {version}");
        if version >= 2 {
            assert_eq!(ask(0, 0, 0), ("NONE", 0, RECORDS), "version {version}");
            assert_eq!(ask(0, 5, 0), ("UNKNOWN_LEADER_EPOCH", -1, -1), "version {version}");
        }
    }
}

/// Web consoles ask at start.
fn access_rights_are_refused_for_want_of_an_authorizer(client: &mut Client) {
    const ANY: i8 = 1;
    for version in DescribeAclsRequest::VERSIONS {
        let asked = DescribeAclsRequest {
            resource_type_filter: ANY,
            resource_name_filter: None,
            pattern_type_filter: if version == 0 { 3 } else { ANY },
            principal_filter: None,
            host_filter: None,
            operation: ANY,
            permission_type: ANY,
        };
        let answer = client.call(&asked, version).expect("DescribeAcls is answered");
        assert_eq!(
            (name_of(answer.error_code), answer.error_message.as_deref(), answer.resources.len()),
            ("SECURITY_DISABLED", Some("No Authorizer is configured on the broker"), 0),
            "version {version}"
        );
        let creation = AclCreation {
            resource_type: 2,
            resource_name: TOPIC.into(),
            resource_pattern_type: 3,
            principal: "User:a".into(),
            host: "*".into(),
            operation: 3,
            permission_type: 3,
        };
        let asked = CreateAclsRequest { creations: vec![creation.clone(), creation] };
        let answer = client.call(&asked, version).expect("CreateAcls is answered");
        let refused: Vec<_> =
            answer.results.iter().map(|r| (name_of(r.error_code), r.error_message.as_deref())).collect();
        assert_eq!(refused, [("SECURITY_DISABLED", Some("No Authorizer is configured.")); 2], "version {version}");
        let filter = DeleteAclsFilter {
            resource_type_filter: ANY,
            resource_name_filter: None,
            pattern_type_filter: 3,
            principal_filter: None,
            host_filter: None,
            operation: ANY,
            permission_type: ANY,
        };
        let asked = DeleteAclsRequest { filters: vec![filter.clone(), filter] };
        let answer = client.call(&asked, version).expect("DeleteAcls is answered");
        let refused: Vec<_> =
            answer.filter_results.iter().map(|r| (name_of(r.error_code), r.error_message.as_deref())).collect();
        assert_eq!(refused, [("SECURITY_DISABLED", Some("No Authorizer is configured.")); 2], "version {version}");
        assert!(answer.filter_results.iter().all(|result| result.matching_acls.is_empty()));
    }
    // What no client sends is not read.
    let mut other = Client::connect(client.stream.peer_addr().expect("connected").port()).expect("the broker listens");
    assert!(other.call(&DescribeAclsRequest::default(), 3).is_err(), "the connection is closed");
}

fn producers_are_described(client: &mut Client, producer_id: i64) {
    for version in DescribeProducersRequest::VERSIONS {
        let topic = |name: &str, partition_indexes| TopicRequest { name: name.into(), partition_indexes };
        let topics = vec![topic(TOPIC, vec![0, 7]), topic("none", vec![0]), topic("..", vec![0])];
        let request = DescribeProducersRequest { topics };
        let response = client.call(&request, version).expect("DescribeProducers is answered");
        let partition = |topic: &str, index| {
            let topic = response.topics.iter().find(|found| found.name == topic).expect("asked for");
            topic.partitions.iter().find(|found| found.partition_index == index).expect("asked for")
        };
        let active = &partition(TOPIC, 0).active_producers;
        assert_eq!((name_of(partition(TOPIC, 0).error_code), active.len()), ("NONE", 1));
        assert_eq!((active[0].producer_id, active[0].producer_epoch), (producer_id, 0));
        assert_eq!((active[0].last_sequence, active[0].last_timestamp), (9, TIMESTAMP + RECORDS - 1));
        assert_eq!((active[0].coordinator_epoch, active[0].current_txn_start_offset), (-1, -1));
        for (refused, code, words) in [
            (partition(TOPIC, 7), "UNKNOWN_TOPIC_OR_PARTITION", None),
            (
                partition("none", 0),
                "UNKNOWN_TOPIC_OR_PARTITION",
                Some("This server does not host this topic-partition."),
            ),
            (partition("..", 0), "INVALID_TOPIC_EXCEPTION", Some("Topic name is invalid: '..' is not allowed")),
        ] {
            assert_eq!((name_of(refused.error_code), refused.error_message.as_deref()), (code, words));
            assert_eq!(refused.active_producers.len(), 0);
        }
    }
}

fn what_is_created_has_no_error(client: &mut Client) {
    for version in CreateTopicsRequest::VERSIONS.skip(1) {
        let topic =
            CreatableTopic { name: "new".into(), num_partitions: 1, replication_factor: 1, ..Default::default() };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, validate_only: true };
        let response = client.call(&request, version).expect("CreateTopics is answered");
        let created = &response.topics[0];
        assert_eq!((name_of(created.error_code), &created.error_message), ("NONE", &None), "version {version}");
    }
}

fn the_cluster_is_described(client: &mut Client, port: u16) {
    for version in DescribeClusterRequest::VERSIONS {
        for (asked, expected) in [(false, NO_OPERATIONS), (true, CLUSTER_OPERATIONS)] {
            let request = DescribeClusterRequest { include_cluster_authorized_operations: asked, ..Default::default() };
            let response = client.call(&request, version).expect("DescribeCluster is answered");
            assert_eq!((name_of(response.error_code), &response.error_message), ("NONE", &None));
            assert_eq!((response.controller_id, response.endpoint_type, response.cluster_id.len()), (0, 1, 22));
            assert_eq!(response.cluster_authorized_operations, expected, "version {version}");
            let brokers: Vec<_> =
                response.brokers.iter().map(|b| (b.broker_id, b.host.as_str(), b.port, b.rack.as_deref())).collect();
            assert_eq!(brokers, [(0, "127.0.0.1", i32::from(port), Some("r1"))]);
        }
        for (endpoint_type, code, words) in [
            (
                2,
                "MISMATCHED_ENDPOINT_TYPE",
                "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER",
            ),
            (3, "UNSUPPORTED_ENDPOINT_TYPE", "Unsupported endpoint type 3"),
        ] {
            // Version 0 has no place for the type.
            if version >= 1 {
                let request = DescribeClusterRequest { endpoint_type, ..Default::default() };
                let response = client.call(&request, version).expect("DescribeCluster is answered");
                assert_eq!((name_of(response.error_code), response.error_message.as_deref()), (code, Some(words)));
                assert_eq!((response.brokers.len(), response.controller_id), (0, -1));
            }
        }
    }
}

fn metadata_is_told(client: &mut Client, port: u16) {
    for version in MetadataRequest::VERSIONS {
        let topics = [TOPIC, "none"].map(|name| MetadataRequestTopic { name: Some(name.into()), ..Default::default() });
        let request = MetadataRequest { topics: Some(topics.into()), ..Default::default() };
        let response = client.call(&request, version).expect("Metadata is answered");
        let rack = (version >= 1).then_some("r1");
        let brokers: Vec<_> =
            response.brokers.iter().map(|b| (b.node_id, b.host.as_str(), b.port, b.rack.as_deref())).collect();
        assert_eq!(brokers, [(0, "127.0.0.1", i32::from(port), rack)], "version {version}");
        assert_eq!(response.controller_id, if version >= 1 { 0 } else { -1 }, "version {version}");
        assert_eq!(response.cluster_id.map(|id| id.len()), (version >= 2).then_some(22), "version {version}");
        let topic =
            |name: &str| response.topics.iter().find(|found| found.name.as_deref() == Some(name)).expect("asked for");
        let found = topic(TOPIC);
        assert_eq!((name_of(found.error_code), found.partitions.len(), found.is_internal), ("NONE", 1, false));
        assert_eq!(found.topic_id == Default::default(), version < 10, "version {version}");
        let partition = &found.partitions[0];
        assert_eq!((name_of(partition.error_code), partition.partition_index, partition.leader_id), ("NONE", 0, 0));
        assert_eq!(partition.leader_epoch, if version >= 7 { 0 } else { -1 }, "version {version}");
        assert_eq!((&partition.replica_nodes, &partition.isr_nodes), (&vec![0], &vec![0]));
        let none = topic("none");
        let said = (name_of(none.error_code), none.partitions.len());
        assert_eq!(said, ("UNKNOWN_TOPIC_OR_PARTITION", 0), "version {version}");

        if version >= 12 {
            let unknown = MetadataRequestTopic { topic_id: found.topic_id, name: None };
            let request = MetadataRequest { topics: Some(vec![unknown]), ..Default::default() };
            let by_id = client.call(&request, version).expect("Metadata is answered");
            assert_eq!(by_id.topics[0].name.as_deref(), Some(TOPIC));
        }
    }
}

fn settings_of_no_topic_are_refused(client: &mut Client) {
    const TOPIC_RESOURCE: i8 = 2;
    for version in DescribeConfigsRequest::VERSIONS {
        for (name, error) in [("none", "UNKNOWN_TOPIC_OR_PARTITION"), ("(no name)", "INVALID_TOPIC_EXCEPTION")] {
            let resource = DescribeConfigsResource {
                resource_type: TOPIC_RESOURCE,
                resource_name: name.into(),
                configuration_keys: None,
            };
            let request = DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
            let response = client.call(&request, version).expect("DescribeConfigs is answered");
            assert_eq!(name_of(response.results[0].error_code), error, "version {version}");
        }
    }
}

fn records_are_deleted(client: &mut Client) {
    for version in DeleteRecordsRequest::VERSIONS {
        let mut delete = |name: &str, partition_index, offset| {
            let partitions = vec![DeleteRecordsPartition { partition_index, offset }];
            let topics = vec![DeleteRecordsTopic { name: name.into(), partitions }];
            let request = DeleteRecordsRequest { topics, timeout_ms: 30_000 };
            let response = client.call(&request, version).expect("DeleteRecords is answered");
            let result = &response.topics[0].partitions[0];
            assert_eq!((response.topics[0].name.as_str(), result.partition_index), (name, partition_index));
            (name_of(result.error_code), result.low_watermark)
        };
        let low = i64::from(version) + 1;
        assert_eq!(delete(TOPIC, 0, low), ("NONE", low), "version {version}");
        assert_eq!(delete(TOPIC, 0, 0), ("NONE", low), "what is gone is gone, version {version}");
        assert_eq!(delete(TOPIC, 0, RECORDS + 1), ("OFFSET_OUT_OF_RANGE", -1), "version {version}");
        assert_eq!(delete(TOPIC, 0, -2), ("OFFSET_OUT_OF_RANGE", -1), "version {version}");
        assert_eq!(delete(TOPIC, 7, 1), ("UNKNOWN_TOPIC_OR_PARTITION", -1), "version {version}");
        assert_eq!(delete(OFFSETS_TOPIC, 0, 0), ("INVALID_TOPIC_EXCEPTION", -1), "version {version}");
        let start = list(client, 1, ListOffsetsPartition { timestamp: -2, ..Default::default() });
        assert_eq!(start, ("NONE", -1, low, -1));
        if version == 2 {
            let request = DeleteRecordsRequest {
                topics: vec![DeleteRecordsTopic {
                    name: TOPIC.into(),
                    partitions: vec![DeleteRecordsPartition { partition_index: 0, offset: -1 }],
                }],
                timeout_ms: 30_000,
            };
            let response = client.call(&request, version).expect("DeleteRecords is answered");
            assert_eq!(response.topics[0].partitions[0].low_watermark, RECORDS, "-1 is the high watermark");
        }
    }
}

#[test]
fn every_version_of_every_admin_api_is_answered() {
    // A JVM broker that creates topics by itself would create the one that must be unknown.
    let settings = "auto.create.topics.enable=false\nbroker.rack=r1\noffsets.topic.num.partitions=1";
    let cluster = Cluster::start("admin-versions", settings);
    let mut client = cluster.broker.client();
    let producer_id = fill(&mut client);
    client.committed("g", TOPIC, 0);
    offsets_are_listed(&mut client);
    leader_epochs_end_somewhere(&mut client);
    access_rights_are_refused_for_want_of_an_authorizer(&mut client);
    producers_are_described(&mut client, producer_id);
    what_is_created_has_no_error(&mut client);
    the_cluster_is_described(&mut client, cluster.broker.port);
    metadata_is_told(&mut client, cluster.broker.port);
    settings_of_no_topic_are_refused(&mut client);
    records_are_deleted(&mut client);
}
