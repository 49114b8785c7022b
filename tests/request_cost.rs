//! A request costs in proportion to its bytes: the worst megabyte of each API, on as many connections as there are
//! network threads, keeps no other client waiting, fills neither memory nor log, and is answered.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use odradek::protocol::api_keys::ApiKey;
use odradek::protocol::error_code::ErrorCode;
use odradek::protocol::header::RequestHeader;
use odradek::protocol::message::Request;
use odradek::protocol::messages as m;
use odradek::record::compression::Codec;
use support::client::{Client, batch, frame, produce_request};
use support::{Cluster, PATIENCE, Scratch, eventually};

/// `num.network.threads`
const THREADS: usize = 3;
const FRAME_BYTES: usize = 1 << 20;
const TOPIC: &str = "orders";
/// A plain client's produce, in a debug build on a machine with other work to do. What starved, starved for a minute.
const PRODUCE_WITHIN: Duration = Duration::from_secs(5);
const ANSWERED_WITHIN: Duration = Duration::from_secs(120);
const RESIDENT_KIB_MAX: u64 = 1024 * 1024;
/// Of the broker's log, for one request.
const LOG_BYTES_MAX: u64 = 128 * 1024;

/// As many names as fit, all different.
fn names(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|i| format!("n{i:x}"))
}

fn topic() -> String {
    TOPIC.to_owned()
}

/// About as long as a string may be, and named once for all its partitions.
fn long_name() -> String {
    "n".repeat(32_000)
}

/// A request without arrays is as long as its unknown tagged fields.
fn with_tags<R: Request>(request: &R, version: i16) -> Vec<u8> {
    let mut bytes = frame(request, version, 1);
    assert_eq!(bytes.pop(), Some(0), "a flexible version ends with the count of its tagged fields");
    let fields = (FRAME_BYTES / 5) as u32;
    uvarint(fields, &mut bytes);
    for tag in 0..fields {
        uvarint(tag + 100, &mut bytes);
        bytes.push(0);
    }
    let length = (bytes.len() as i32 - 4).to_be_bytes();
    bytes[..4].copy_from_slice(&length);
    bytes
}

fn uvarint(mut value: u32, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// What costs most for its bytes, for each API that the broker has.
fn worst(key: ApiKey) -> Vec<Vec<u8>> {
    /// Elements of so many bytes in a frame.
    const fn of(bytes: usize) -> usize {
        FRAME_BYTES / bytes
    }
    match key {
        ApiKey::Produce => {
            use m::produce::*;
            let partition = |index| PartitionProduceData { index, records: None };
            let many =
                vec![TopicProduceData { name: topic(), partition_data: (0..of(6) as i32).map(partition).collect() }];
            let empty = vec![TopicProduceData::default(); of(3)];
            let request = |topic_data| ProduceRequest { acks: 1, topic_data, ..Default::default() };
            let mut partition_data: Vec<_> = (0..of(8) as i32).map(partition).collect();
            partition_data.push(partition(0));
            let long = vec![TopicProduceData { name: long_name(), partition_data }];
            vec![frame(&request(many), 9, 1), frame(&request(empty), 9, 1), frame(&request(long), 9, 1)]
        }
        ApiKey::Fetch => {
            use m::fetch::*;
            let partition = |partition| FetchPartition { partition, ..Default::default() };
            let many = FetchTopic {
                topic: topic(),
                partitions: (0..of(33) as i32).map(partition).collect(),
                ..Default::default()
            };
            let repeated = FetchTopic { topic: topic(), partitions: vec![partition(0); of(33)], ..Default::default() };
            let request = |topics| FetchRequest { max_bytes: 1 << 20, topics, ..Default::default() };
            let empty = vec![FetchTopic::default(); of(3)];
            vec![
                frame(&request(vec![FetchTopic { topic: long_name(), ..many.clone() }]), 12, 1),
                frame(&request(vec![many]), 12, 1),
                frame(&request(vec![repeated]), 12, 1),
                frame(&request(empty), 12, 1),
            ]
        }
        ApiKey::ListOffsets => {
            use m::list_offsets::*;
            let asked = |partition_index| ListOffsetsPartition {
                partition_index,
                timestamp: -1,
                max_num_offsets: 1000,
                ..Default::default()
            };
            let named = |name, partitions| ListOffsetsRequest {
                replica_id: -1,
                topics: vec![ListOffsetsTopic { name, partitions }],
                ..Default::default()
            };
            let request = |partitions| named(topic(), partitions);
            let newer = |partition_index| ListOffsetsPartition { max_num_offsets: 1, ..asked(partition_index) };
            vec![
                frame(&request(vec![asked(0); of(16)]), 0, 1),
                frame(&request((0..of(13) as i32).map(newer).collect()), 6, 1),
                frame(&named(long_name(), (0..of(13) as i32).map(newer).collect()), 6, 1),
            ]
        }
        ApiKey::Metadata => {
            use m::metadata::*;
            let topics =
                names(of(9)).map(|name| MetadataRequestTopic { name: Some(name), ..Default::default() }).collect();
            let request =
                MetadataRequest { topics: Some(topics), allow_auto_topic_creation: false, ..Default::default() };
            let known = MetadataRequestTopic { name: Some(topic()), ..Default::default() };
            let repeated = MetadataRequest { topics: Some(vec![known; of(9)]), ..Default::default() };
            vec![frame(&request, 9, 1), frame(&repeated, 9, 1)]
        }
        // The requests of a controller carry an epoch that is long past, unless what they name cannot be.
        ApiKey::LeaderAndIsr => {
            use m::leader_and_isr::*;
            let state = |partition_index| LeaderAndIsrPartitionState { partition_index, ..Default::default() };
            let partition_states = (0..of(28) as i32).map(state).collect();
            let many = LeaderAndIsrTopicState { topic_name: topic(), partition_states, ..Default::default() };
            let long = LeaderAndIsrTopicState { topic_name: long_name(), ..many.clone() };
            let request = |topic| LeaderAndIsrRequest { topic_states: vec![topic], ..Default::default() };
            let obeyed = LeaderAndIsrRequest { controller_epoch: 1, broker_epoch: -1, ..request(long) };
            vec![frame(&request(many), 4, 1), frame(&obeyed, 4, 1), frame(&obeyed, 5, 1)]
        }
        ApiKey::StopReplica => {
            use m::stop_replica::*;
            let state = |partition_index| StopReplicaPartitionState { partition_index, ..Default::default() };
            let partition_states = (0..of(10) as i32).map(state).collect();
            let many = StopReplicaTopicState { topic_name: topic(), partition_states };
            let long = StopReplicaTopicState { topic_name: long_name(), ..many.clone() };
            let request = |topic| StopReplicaRequest { topic_states: vec![topic], ..Default::default() };
            let topics = vec![StopReplicaTopicV1 { name: long_name(), partition_indexes: (0..of(4) as i32).collect() }];
            let older = StopReplicaRequest { topics, ..Default::default() };
            let obeyed = |request| StopReplicaRequest { controller_epoch: 1, broker_epoch: -1, ..request };
            vec![
                frame(&request(many), 3, 1),
                frame(&request(long.clone()), 3, 1),
                frame(&obeyed(request(long)), 3, 1),
                frame(&obeyed(older), 1, 1),
            ]
        }
        ApiKey::UpdateMetadata => {
            use m::update_metadata::*;
            let state = |partition_index| UpdateMetadataPartitionState { partition_index, ..Default::default() };
            let partition_states = (0..of(26) as i32).map(state).collect();
            let topic = UpdateMetadataTopicState { topic_name: topic(), partition_states, ..Default::default() };
            vec![frame(&UpdateMetadataRequest { topic_states: vec![topic], ..Default::default() }, 6, 1)]
        }
        ApiKey::OffsetCommit => {
            use m::offset_commit::*;
            let partition = |partition_index| OffsetCommitRequestPartition { partition_index, ..Default::default() };
            let named = |name, partitions| OffsetCommitRequest {
                group_id: "committing".into(),
                topics: vec![OffsetCommitRequestTopic { name, partitions }],
                ..Default::default()
            };
            let request = |partitions| named(topic(), partitions);
            vec![
                frame(&named(long_name(), (0..of(18) as i32).map(partition).collect()), 8, 1),
                frame(&request(vec![partition(0); of(18)]), 8, 1),
                frame(&request((0..of(18) as i32).map(partition).collect()), 8, 1),
            ]
        }
        ApiKey::OffsetFetch => {
            use m::offset_fetch::*;
            let of_topic = |name, partition_indexes| OffsetFetchRequestGroup {
                group_id: "committed".into(),
                topics: Some(vec![OffsetFetchRequestTopics { name, partition_indexes }]),
                ..Default::default()
            };
            let group = |group_id: String, partition_indexes| OffsetFetchRequestGroup {
                group_id,
                ..of_topic(topic(), partition_indexes)
            };
            let request = |groups| OffsetFetchRequest { groups, ..Default::default() };
            vec![
                frame(&request(vec![group("committed".into(), vec![0; of(4)])]), 8, 1),
                frame(&request(vec![of_topic(long_name(), (0..of(4) as i32).collect())]), 8, 1),
                frame(&request(names(of(24)).map(|name| group(name, vec![0])).collect()), 8, 1),
                frame(&request(vec![group("committed".into(), vec![0]); of(24)]), 8, 1),
            ]
        }
        ApiKey::FindCoordinator => {
            use m::find_coordinator::*;
            let request = |key_type, coordinator_keys| FindCoordinatorRequest {
                key_type,
                coordinator_keys,
                ..Default::default()
            };
            vec![
                frame(&request(0, names(of(7)).collect()), 4, 1),
                frame(&request(1, names(of(7)).collect()), 4, 1),
                frame(&request(1, vec![String::new(); of(1)]), 4, 1),
            ]
        }
        ApiKey::JoinGroup => {
            use m::join_group::*;
            let protocols = names(of(12)).map(|name| JoinGroupRequestProtocol { name, ..Default::default() }).collect();
            let request = JoinGroupRequest {
                group_id: "joining".into(),
                session_timeout_ms: 6000,
                rebalance_timeout_ms: 100,
                protocol_type: "consumer".into(),
                protocols,
                ..Default::default()
            };
            vec![frame(&request, 2, 1)]
        }
        ApiKey::Heartbeat => vec![with_tags(&m::heartbeat::HeartbeatRequest::default(), 4)],
        ApiKey::LeaveGroup => {
            use m::leave_group::*;
            let member = |member_id| MemberIdentity { member_id, ..Default::default() };
            let request = |members| LeaveGroupRequest { group_id: "joining".into(), members, ..Default::default() };
            vec![
                frame(&request(names(of(9)).map(member).collect()), 5, 1),
                frame(&request(vec![MemberIdentity::default(); of(4)]), 5, 1),
            ]
        }
        ApiKey::SyncGroup => {
            use m::sync_group::*;
            let assignments =
                names(of(8)).map(|member_id| SyncGroupRequestAssignment { member_id, ..Default::default() }).collect();
            vec![frame(&SyncGroupRequest { group_id: "joining".into(), assignments, ..Default::default() }, 4, 1)]
        }
        ApiKey::DescribeGroups => {
            use m::describe_groups::*;
            let request = |groups| DescribeGroupsRequest { groups, ..Default::default() };
            vec![frame(&request(names(of(7)).collect()), 5, 1), frame(&request(vec!["joining".into(); of(8)]), 5, 1)]
        }
        ApiKey::ConsumerGroupHeartbeat => {
            let request = m::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest {
                subscribed_topic_names: Some(vec![String::new(); of(1)]),
                ..Default::default()
            };
            vec![frame(&request, 0, 1)]
        }
        ApiKey::ConsumerGroupDescribe => {
            let group_ids = vec![String::new(); of(1)];
            let request = m::consumer_group_describe::ConsumerGroupDescribeRequest { group_ids, ..Default::default() };
            vec![frame(&request, 0, 1)]
        }
        ApiKey::ListGroups => {
            use m::list_groups::*;
            let request = ListGroupsRequest { states_filter: names(of(7)).collect(), ..Default::default() };
            vec![frame(&request, 4, 1)]
        }
        ApiKey::ApiVersions => {
            use m::api_versions::*;
            let name = || "n".to_owned();
            let request = ApiVersionsRequest { client_software_name: name(), client_software_version: name() };
            vec![with_tags(&request, 3)]
        }
        ApiKey::CreateTopics => {
            use m::create_topics::*;
            let topic =
                |name: String| CreatableTopic { name, num_partitions: 1, replication_factor: 2, ..Default::default() };
            let large = |name: String| CreatableTopic {
                num_partitions: 100_000,
                replication_factor: 1,
                configs: vec![CreatableTopicConfig { name: "retention.ms".into(), value: Some("never".into()) }],
                ..topic(name)
            };
            let request = |topics| CreateTopicsRequest { topics, timeout_ms: 1000, validate_only: false };
            vec![
                frame(&request(vec![topic("same".into()); of(14)]), 5, 1),
                frame(&request(names(of(16)).map(topic).collect()), 5, 1),
                // Each of as many partitions as a topic can have, and refused after they were assigned to brokers.
                frame(&request(names(of(48)).map(large).collect()), 4, 1),
            ]
        }
        ApiKey::DeleteTopics => {
            use m::delete_topics::*;
            let request = |topic_names| DeleteTopicsRequest { topic_names, timeout_ms: 1000, ..Default::default() };
            vec![frame(&request(names(of(7)).collect()), 4, 1), frame(&request(vec!["same".into(); of(5)]), 4, 1)]
        }
        ApiKey::DeleteRecords => {
            use m::delete_records::*;
            let asked = |partition_index| DeleteRecordsPartition { partition_index, offset: 0 };
            let named = |name, partitions| DeleteRecordsRequest {
                topics: vec![DeleteRecordsTopic { name, partitions }],
                timeout_ms: 1000,
            };
            let request = |partitions| named(topic(), partitions);
            vec![
                frame(&named(long_name(), (0..of(13) as i32).map(asked).collect()), 2, 1),
                frame(&request(vec![asked(0); of(13)]), 2, 1),
                frame(&request((0..of(13) as i32).map(asked).collect()), 2, 1),
            ]
        }
        ApiKey::AlterReplicaLogDirs => {
            use m::alter_replica_log_dirs::*;
            let many = |name| AlterReplicaLogDirTopic { name, partitions: (0..of(4) as i32).collect() };
            let in_dir = |path: &str, topics| AlterReplicaLogDir { path: path.to_owned(), topics };
            let request = |dirs| AlterReplicaLogDirsRequest { dirs };
            // Of the only directory nobody here knows the path.
            vec![
                frame(&request(vec![in_dir("/d", vec![many(topic())])]), 2, 1),
                frame(&request(vec![in_dir("/d", vec![many(long_name())])]), 2, 1),
                frame(&request(vec![in_dir("/d", vec![AlterReplicaLogDirTopic::default(); of(4)])]), 2, 1),
                frame(&request(vec![AlterReplicaLogDir::default(); of(3)]), 2, 1),
            ]
        }
        ApiKey::DescribeLogDirs => {
            use m::describe_log_dirs::*;
            let named = |topic, partitions| DescribableLogDirTopic { topic, partitions };
            let request = |topics| DescribeLogDirsRequest { topics };
            let many = |topic| named(topic, (0..of(4) as i32).collect());
            vec![
                frame(&request(None), 4, 1),
                frame(&request(Some(vec![many(topic())])), 4, 1),
                frame(&request(Some(vec![many(long_name())])), 4, 1),
                frame(&request(Some(vec![named(topic(), vec![0; of(4)])])), 4, 1),
                frame(&request(Some(vec![named(topic(), vec![0]); of(14)])), 4, 1),
            ]
        }
        ApiKey::InitProducerId => vec![with_tags(&m::init_producer_id::InitProducerIdRequest::default(), 2)],
        ApiKey::AddPartitionsToTxn => {
            use m::add_partitions_to_txn::*;
            let of_client = |name, partitions| AddPartitionsToTxnRequest {
                v3_and_below_transactional_id: "t".into(),
                v3_and_below_topics: vec![AddPartitionsToTxnTopic { name, partitions }],
                ..Default::default()
            };
            let many = || (0..of(4) as i32).collect();
            let transactions = vec![AddPartitionsToTxnTransaction::default(); of(14)];
            // Twice, and partitions that lie between each other; and two names that differ at their ends.
            let odd = |last: &str, odd| AddPartitionsToTxnTopic {
                name: long_name() + last,
                partitions: (0..of(8) as i32).map(|number| 2 * number + odd).collect(),
            };
            let twice = |first, second| AddPartitionsToTxnRequest {
                v3_and_below_topics: vec![odd(first, 0), odd(second, 1)],
                ..of_client(topic(), Vec::new())
            };
            vec![
                frame(&of_client(topic(), many()), 3, 1),
                frame(&of_client(long_name(), many()), 3, 1),
                frame(&twice("", ""), 3, 1),
                frame(&twice("a", "b"), 3, 1),
                frame(&AddPartitionsToTxnRequest { transactions, ..Default::default() }, 5, 1),
            ]
        }
        ApiKey::AddOffsetsToTxn => vec![with_tags(&m::add_offsets_to_txn::AddOffsetsToTxnRequest::default(), 3)],
        ApiKey::TxnOffsetCommit => {
            use m::txn_offset_commit::*;
            let partition = |partition_index| TxnOffsetCommitRequestPartition { partition_index, ..Default::default() };
            let request = |name, partitions| TxnOffsetCommitRequest {
                group_id: "committing".into(),
                producer_id: 7,
                topics: vec![TxnOffsetCommitRequestTopic { name, partitions }],
                ..Default::default()
            };
            vec![
                frame(&request(long_name(), (0..of(18) as i32).map(partition).collect()), 3, 1),
                frame(&request(topic(), vec![partition(0); of(18)]), 3, 1),
                frame(&request(topic(), (0..of(18) as i32).map(partition).collect()), 3, 1),
            ]
        }
        ApiKey::DescribeTransactions => {
            use m::describe_transactions::DescribeTransactionsRequest;
            let same = vec![String::from("t"); of(2)];
            let many = (0..of(7)).map(|number| format!("{number:06}")).collect();
            let request = |transactional_ids| DescribeTransactionsRequest { transactional_ids };
            vec![frame(&request(same), 0, 1), frame(&request(many), 0, 1)]
        }
        ApiKey::ListTransactions => {
            use m::list_transactions::ListTransactionsRequest;
            let state_filters = vec![String::from("x"); of(2)];
            let producer_id_filters = (0..of(8) as i64).collect();
            vec![
                frame(&ListTransactionsRequest { state_filters, ..Default::default() }, 1, 1),
                frame(&ListTransactionsRequest { producer_id_filters, ..Default::default() }, 1, 1),
            ]
        }
        ApiKey::EndTxn => vec![with_tags(&m::end_txn::EndTxnRequest::default(), 3)],
        ApiKey::WriteTxnMarkers => {
            use m::write_txn_markers::*;
            let request = |name, partition_indexes| WriteTxnMarkersRequest {
                markers: vec![WritableTxnMarker {
                    topics: vec![WritableTxnMarkerTopic { name, partition_indexes }],
                    ..Default::default()
                }],
            };
            let markers = vec![WritableTxnMarker::default(); of(17)];
            vec![
                frame(&request("absent".into(), (0..of(4) as i32).collect()), 1, 1),
                frame(&request(long_name(), (0..of(4) as i32).collect()), 1, 1),
                frame(&WriteTxnMarkersRequest { markers }, 1, 1),
            ]
        }
        ApiKey::OffsetForLeaderEpoch => {
            use m::offset_for_leader_epoch::*;
            let asked = OffsetForLeaderPartition { partition: 0, leader_epoch: 0, ..Default::default() };
            let request = |topic| OffsetForLeaderEpochRequest {
                topics: vec![OffsetForLeaderTopic { topic, partitions: vec![asked.clone(); of(13)] }],
                ..Default::default()
            };
            vec![frame(&request(topic()), 4, 1), frame(&request(long_name()), 4, 1)]
        }
        ApiKey::DescribeAcls => {
            use m::describe_acls::*;
            let request = DescribeAclsRequest {
                resource_type_filter: 1,
                pattern_type_filter: 1,
                operation: 1,
                permission_type: 1,
                ..Default::default()
            };
            vec![with_tags(&request, 2)]
        }
        ApiKey::CreateAcls => {
            use m::create_acls::*;
            let creation = AclCreation {
                resource_type: 2,
                resource_pattern_type: 3,
                operation: 2,
                permission_type: 2,
                principal: "User:n".into(),
                host: "*".into(),
                ..Default::default()
            };
            vec![frame(&CreateAclsRequest { creations: vec![creation; of(15)] }, 2, 1)]
        }
        ApiKey::DeleteAcls => {
            use m::delete_acls::*;
            let filter = DeleteAclsFilter {
                resource_type_filter: 1,
                pattern_type_filter: 1,
                operation: 1,
                permission_type: 1,
                ..Default::default()
            };
            vec![frame(&DeleteAclsRequest { filters: vec![filter; of(8)] }, 2, 1)]
        }
        ApiKey::DescribeConfigs => {
            use m::describe_configs::*;
            let resource = |resource_type, resource_name: String| DescribeConfigsResource {
                resource_type,
                resource_name,
                configuration_keys: None,
            };
            let request =
                |resources| DescribeConfigsRequest { resources, include_synonyms: true, include_documentation: true };
            // Many names of one broker: 0, 00, 000 and so on.
            let zeros = (1..1400).map(|zeros| resource(4, "0".repeat(zeros))).collect();
            vec![
                frame(&request(vec![resource(4, "0".into()); of(5)]), 4, 1),
                frame(&request(zeros), 4, 1),
                frame(&request(names(of(10)).map(|name| resource(2, name)).collect()), 4, 1),
                frame(&request(vec![resource(2, topic()); of(10)]), 4, 1),
            ]
        }
        ApiKey::AlterConfigs => {
            use m::alter_configs::*;
            let resource =
                |resource_name| AlterConfigsResource { resource_type: 2, resource_name, ..Default::default() };
            let request = AlterConfigsRequest { resources: names(of(9)).map(resource).collect(), validate_only: true };
            vec![frame(&request, 2, 1)]
        }
        ApiKey::IncrementalAlterConfigs => {
            use m::incremental_alter_configs::*;
            let resource =
                |resource_name| AlterConfigsResource { resource_type: 2, resource_name, ..Default::default() };
            let request = |resources| IncrementalAlterConfigsRequest { resources, validate_only: true };
            let listed = AlterableConfig {
                name: "cleanup.policy".into(),
                config_operation: 2,
                value: Some("delete,".repeat(4600)),
            };
            let long = AlterConfigsResource { configs: vec![listed], ..resource(topic()) };
            vec![frame(&request(names(of(9)).map(resource).collect()), 1, 1), frame(&request(vec![long]), 1, 1)]
        }
        ApiKey::CreatePartitions => {
            use m::create_partitions::*;
            let topic = CreatePartitionsTopic { name: "same".into(), count: 2, assignments: None };
            let request =
                CreatePartitionsRequest { topics: vec![topic; of(11)], timeout_ms: 1000, validate_only: false };
            vec![frame(&request, 2, 1)]
        }
        ApiKey::DeleteGroups => {
            use m::delete_groups::*;
            vec![frame(&DeleteGroupsRequest { groups_names: names(of(7)).collect() }, 2, 1)]
        }
        ApiKey::OffsetDelete => {
            use m::offset_delete::*;
            let partition = OffsetDeleteRequestPartition { partition_index: 0 };
            let request = |name| OffsetDeleteRequest {
                group_id: "committed".into(),
                topics: vec![OffsetDeleteRequestTopic { name, partitions: vec![partition.clone(); of(4)] }],
            };
            vec![frame(&request(topic()), 0, 1), frame(&request(long_name()), 0, 1)]
        }
        ApiKey::DescribeCluster => vec![with_tags(&m::describe_cluster::DescribeClusterRequest::default(), 0)],
        ApiKey::DescribeProducers => {
            use m::describe_producers::*;
            let request = |name, partition_indexes| DescribeProducersRequest {
                topics: vec![TopicRequest { name, partition_indexes }],
            };
            let many = || (0..of(4) as i32).collect();
            vec![
                frame(&request(topic(), vec![0; of(4)]), 0, 1),
                frame(&request(topic(), many()), 0, 1),
                frame(&request(long_name(), many()), 0, 1),
            ]
        }
        ApiKey::AlterPartition => {
            use m::alter_partition::*;
            let partition = |partition_index| PartitionData { partition_index, ..Default::default() };
            let partitions = (0..of(20) as i32).map(partition).collect();
            let many = TopicData { topic_name: topic(), partitions, ..Default::default() };
            let long = TopicData { topic_name: long_name(), ..many.clone() };
            let request = |topic| AlterPartitionRequest { broker_id: 0, broker_epoch: -1, topics: vec![topic] };
            vec![frame(&request(many), 1, 1), frame(&request(long), 1, 1)]
        }
        ApiKey::ControlledShutdown => {
            let request = m::controlled_shutdown::ControlledShutdownRequest { broker_id: 77, broker_epoch: -1 };
            vec![with_tags(&request, 3)]
        }
        ApiKey::ElectLeaders => {
            use m::elect_leaders::{ElectLeadersRequest, TopicPartitions};
            let request = |topics: usize, partitions: usize| {
                let topic = |id: usize| TopicPartitions {
                    topic: format!("{id:x}"),
                    partitions: (0..partitions as i32).collect(),
                };
                let topic_partitions = Some((0..topics).map(topic).collect());
                ElectLeadersRequest { topic_partitions, timeout_ms: 1, ..Default::default() }
            };
            let topic_partitions =
                vec![TopicPartitions { topic: long_name(), partitions: (0..of(4) as i32).collect() }];
            let long =
                ElectLeadersRequest { topic_partitions: Some(topic_partitions), timeout_ms: 1, ..Default::default() };
            vec![frame(&request(1, of(4)), 2, 1), frame(&request(of(12), 1), 2, 1), frame(&long, 2, 1)]
        }
        ApiKey::AlterPartitionReassignments => {
            use m::alter_partition_reassignments::{
                AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
            };
            let named = |name, partitions: usize, replicas: usize| {
                let partition = |partition_index: usize| ReassignablePartition {
                    partition_index: partition_index as i32,
                    replicas: Some((0..replicas as i32).collect()),
                };
                let partitions = (0..partitions).map(partition).collect();
                AlterPartitionReassignmentsRequest {
                    timeout_ms: 1,
                    topics: vec![ReassignableTopic { name, partitions }],
                }
            };
            let request = |partitions, replicas| named("none".into(), partitions, replicas);
            vec![
                frame(&request(of(12), 1), 0, 1),
                frame(&request(1, of(4)), 0, 1),
                frame(&request(40, of(200)), 0, 1),
                frame(&named(long_name(), of(12), 1), 0, 1),
            ]
        }
        ApiKey::ListPartitionReassignments => {
            use m::list_partition_reassignments::{
                ListPartitionReassignmentsRequest, ListPartitionReassignmentsTopics,
            };
            let request = |name| {
                let partition_indexes = (0..of(4) as i32).collect();
                let topic = ListPartitionReassignmentsTopics { name, partition_indexes };
                ListPartitionReassignmentsRequest { timeout_ms: 1, topics: Some(vec![topic]) }
            };
            vec![frame(&request("none".into()), 0, 1), frame(&request(long_name()), 0, 1)]
        }
        ApiKey::UpdateFeatures => {
            use m::update_features::{FeatureUpdateKey, UpdateFeaturesRequest};
            let update = |id: usize| FeatureUpdateKey { feature: format!("{id:x}"), ..Default::default() };
            let request =
                UpdateFeaturesRequest { feature_updates: (0..of(12)).map(update).collect(), ..Default::default() };
            vec![frame(&request, 1, 1)]
        }
        ApiKey::AllocateProducerIds => {
            let request = m::allocate_producer_ids::AllocateProducerIdsRequest { broker_id: 77, broker_epoch: 5 };
            vec![with_tags(&request, 0)]
        }
    }
}

/// Sends a frame and takes the whole answer, without keeping it; gives its length.
fn answer_to(port: u16, frame: &[u8]) -> std::io::Result<usize> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(ANSWERED_WITHIN))?;
    stream.write_all(frame)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    let taken = std::io::copy(&mut stream.take(length as u64), &mut std::io::sink())?;
    assert_eq!(taken as usize, length, "the answer ends early");
    Ok(length)
}

fn log_bytes(scratch: &Scratch) -> u64 {
    std::fs::metadata(scratch.path("broker.log")).map_or(0, |metadata| metadata.len())
}

/// A topic with a partition of a thousand segments, and a group with a hundred offsets of 4 kB of metadata.
fn prepare(cluster: &Cluster) {
    let mut client = cluster.broker.client();
    client.create_topic("plain", 1, &[]);
    client.create_topic(TOPIC, 100, &[("segment.bytes", "128"), ("max.message.bytes", "200")]);
    for count in 0..200 {
        client.produce(TOPIC, 0, batch(Codec::None, [format!("{count}")])).expect("it answers").expect("it is stored");
    }
    client.commit("committed", TOPIC, 0, 1);
    let metadata = Some("x".repeat(4096));
    for first in (0..100).step_by(20) {
        let partition = |partition_index| m::offset_commit::OffsetCommitRequestPartition {
            partition_index,
            committed_offset: 1,
            committed_metadata: metadata.clone(),
            ..Default::default()
        };
        let partitions = (first..first + 20).map(partition).collect();
        let topics = vec![m::offset_commit::OffsetCommitRequestTopic { name: topic(), partitions }];
        let request =
            m::offset_commit::OffsetCommitRequest { group_id: "committed".into(), topics, ..Default::default() };
        let answer = client.call(&request, 2).expect("it answers");
        assert!(answer.topics[0].partitions.iter().all(|partition| partition.error_code == 0), "{answer:?}");
    }
}

#[test]
fn the_worst_megabyte_of_each_api_keeps_no_other_client_waiting() {
    let mut cluster = Cluster::start("request-cost", &format!("num.network.threads={THREADS}"));
    prepare(&cluster);
    let port = cluster.broker.port;
    let stop = AtomicBool::new(false);
    // The slowest of the frame that is being thrown.
    let slowest_ms = AtomicU64::new(0);
    let (produced, slowest) = std::thread::scope(|scope| {
        let plain = scope.spawn(|| {
            let mut client = Client::connect(port).expect("the broker accepts");
            let (mut count, mut slowest) = (0i64, Duration::ZERO);
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                let records = batch(Codec::None, [format!("{count}")]);
                assert_eq!(client.produce("plain", 0, records).expect("it is answered"), Ok(count));
                slowest = slowest.max(began.elapsed());
                slowest_ms.fetch_max(began.elapsed().as_millis() as u64, Ordering::Relaxed);
                count += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            (count, slowest)
        });
        for key in ApiKey::ALL {
            for (which, frame) in worst(*key).iter().enumerate() {
                let what = format!("{} {which}, {} bytes", key.name(), frame.len());
                let logged = log_bytes(&cluster.scratch);
                let began = Instant::now();
                let answers: Vec<_> = std::thread::scope(|scope| {
                    let flood = (0..THREADS).map(|_| scope.spawn(|| answer_to(port, frame))).collect::<Vec<_>>();
                    flood.into_iter().map(|sender| sender.join().expect("a sender does not panic")).collect()
                });
                let logged = log_bytes(&cluster.scratch) - logged;
                let peak = cluster.broker.process().memory_kib("VmHWM:");
                println!(
                    "{what}: {answers:?} in {:?}, a produce within {} ms, {logged} bytes of log, {peak} KiB at most",
                    began.elapsed(),
                    slowest_ms.swap(0, Ordering::Relaxed)
                );
                // A broker listens to its controller's youngest connection alone, and closes the others.
                let only_youngest = matches!(key, ApiKey::LeaderAndIsr | ApiKey::StopReplica | ApiKey::UpdateMetadata);
                let unanswered = answers.iter().filter(|answer| answer.is_err()).count();
                let may_be_unanswered = if only_youngest { THREADS - 1 } else { 0 };
                if plain.is_finished() || unanswered > may_be_unanswered || logged > LOG_BYTES_MAX * THREADS as u64 {
                    stop.store(true, Ordering::Relaxed);
                    panic!("{what}: {answers:?}, {logged} bytes of log; {}", cluster.broker.process().last_words());
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        plain.join().expect("the plain client was served throughout")
    });
    let peak = cluster.broker.process().memory_kib("VmHWM:");
    println!("{produced} produces meanwhile, the slowest {slowest:?}; resident at most {peak} KiB");
    assert!(produced > 50, "only {produced} produces meanwhile");
    assert!(slowest < PRODUCE_WITHIN, "a produce took {slowest:?}");
    assert!(peak < RESIDENT_KIB_MAX, "{peak} KiB were resident");
}

fn is_refused(code: i16) -> bool {
    ErrorCode::from_code(code) == ErrorCode::PolicyViolation
}

#[test]
fn what_costs_many_times_its_bytes_is_answered_once_or_refused_in_its_own_form() {
    let mut cluster = Cluster::start("request-refusal", "");
    prepare(&cluster);
    let mut client = cluster.broker.client();

    // One group many times: few of them are answered once, and what swells in memory is refused.
    let groups = |count| {
        use m::offset_fetch::*;
        let group = OffsetFetchRequestGroup { group_id: "committed".into(), topics: None, ..Default::default() };
        OffsetFetchRequest { groups: vec![group; count], ..Default::default() }
    };
    let answer = client.call(&groups(500), 8).expect("it answers");
    assert_eq!(answer.groups.len(), 1);
    assert_eq!((answer.groups[0].error_code, answer.groups[0].topics[0].partitions.len()), (0, 100));
    let one_of_many =
        m::offset_fetch::OffsetFetchRequestGroup { group_id: "c".into(), topics: None, ..Default::default() };
    let swollen = m::offset_fetch::OffsetFetchRequest { groups: vec![one_of_many; 20_000], ..Default::default() };
    let answer = client.call(&swollen, 8).expect("it answers");
    assert!(!answer.groups.is_empty() && answer.groups.iter().all(|group| is_refused(group.error_code)), "{answer:?}");

    // The settings of one broker, 200,000 times.
    let resources = |count| {
        use m::describe_configs::*;
        let broker = DescribeConfigsResource { resource_type: 4, resource_name: "0".into(), configuration_keys: None };
        DescribeConfigsRequest { resources: vec![broker; count], ..Default::default() }
    };
    let answer = client.call(&resources(500), 4).expect("it answers");
    assert_eq!((answer.results.len(), answer.results[0].error_code), (1, 0));
    let answer = client.call(&resources(200_000), 4).expect("it answers");
    assert!(!answer.results.is_empty() && answer.results.iter().all(|result| is_refused(result.error_code)));
    assert!(answer.results[0].error_message.as_ref().is_some_and(|text| !text.is_empty()), "{:?}", answer.results[0]);

    // 20 MB of coordinators: honest names whose answer alone would be too long.
    let keys: Vec<String> = (0..1_500_000).map(|i| format!("group-{i:07}")).collect();
    let request = m::find_coordinator::FindCoordinatorRequest { coordinator_keys: keys, ..Default::default() };
    let answer = client.call(&request, 4).expect("it answers");
    assert!(!answer.coordinators.is_empty() && answer.coordinators.iter().all(|found| is_refused(found.error_code)));
    assert_eq!(answer.coordinators[0].key, "group-0000000");

    // 200,000 equal names, twice at once.
    let same = |name: &str| m::create_topics::CreatableTopic {
        name: name.into(),
        num_partitions: 1,
        replication_factor: 1,
        ..Default::default()
    };
    let request = m::create_topics::CreateTopicsRequest {
        topics: vec![same("same"); 200_000],
        timeout_ms: 1000,
        ..Default::default()
    };
    let mut other = cluster.broker.client();
    let (first, second) = (client.send(&request, 5).expect("sent"), other.send(&request, 5).expect("sent"));
    type CreateTopics = m::create_topics::CreateTopicsRequest;
    for answer in [client.receive::<CreateTopics>(5, first), other.receive::<CreateTopics>(5, second)] {
        let answer = answer.expect("it answers");
        assert_eq!(answer.topics.len(), 1);
        assert_eq!(ErrorCode::from_code(answer.topics[0].error_code), ErrorCode::InvalidRequest);
    }

    // One partition of many segments, 50,000 times.
    let asked = m::list_offsets::ListOffsetsPartition { timestamp: -1, max_num_offsets: 1000, ..Default::default() };
    let topics = vec![m::list_offsets::ListOffsetsTopic { name: topic(), partitions: vec![asked; 50_000] }];
    let request = m::list_offsets::ListOffsetsRequest { replica_id: -1, topics, ..Default::default() };
    let answer = client.call(&request, 0).expect("it answers");
    assert_eq!(answer.topics[0].partitions.len(), 1);
    assert!(answer.topics[0].partitions[0].old_style_offsets.len() > 100);

    // Elements that are nothing but their lengths.
    let member = m::leave_group::MemberIdentity::default();
    let request = m::leave_group::LeaveGroupRequest { members: vec![member; 1_000_000], ..Default::default() };
    assert!(is_refused(client.call(&request, 5).expect("it answers").error_code));

    let peak = cluster.broker.process().memory_kib("VmHWM:");
    assert!(peak < RESIDENT_KIB_MAX, "{peak} KiB were resident");
}

/// What ZooKeeper has received, by its own count.
fn zookeeper_packets(cluster: &Cluster) -> u64 {
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.zookeeper.port)).expect("ZooKeeper accepts");
    stream.write_all(b"mntr").expect("it reads");
    let mut told = String::new();
    stream.read_to_string(&mut told).expect("it answers");
    let line = told.lines().find(|line| line.starts_with("zk_packets_received")).expect("it counts packets");
    line.split_whitespace().nth(1).and_then(|count| count.parse().ok()).expect("a number")
}

#[test]
fn a_client_that_hangs_up_ends_what_it_asked_for() {
    let cluster = Cluster::start("request-hang-up", "");
    // Each of these names costs two round trips to ZooKeeper: minutes in all.
    let topic = |name| m::create_partitions::CreatePartitionsTopic { name, count: 2, assignments: None };
    let topics = names(100_000).map(topic).collect();
    let request = m::create_partitions::CreatePartitionsRequest { topics, timeout_ms: 1000, validate_only: false };
    let before = zookeeper_packets(&cluster);
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.broker.port)).expect("the broker accepts");
    stream.write_all(&frame(&request, 2, 1)).expect("the broker reads");
    eventually(PATIENCE, "the broker is at it", || match zookeeper_packets(&cluster) - before {
        packets if packets > 500 => Ok(()),
        packets => Err(format!("{packets} packets")),
    });
    drop(stream);
    eventually(PATIENCE, "the broker has stopped", || {
        let first = zookeeper_packets(&cluster);
        std::thread::sleep(Duration::from_millis(300)); // What is watched is that nothing happens.
        match zookeeper_packets(&cluster) - first {
            packets if packets < 20 => Ok(()),
            packets => Err(format!("{packets} packets in 300 ms")),
        }
    });
    assert!(zookeeper_packets(&cluster) - before < 100_000, "it stopped because it was done");
}

#[test]
fn names_are_cut_in_the_log_and_repeats_are_counted() {
    let mut cluster = Cluster::start("request-log", "");
    let mut client = cluster.broker.client();
    // The first request of its kind has the offsets topic created.
    client.create_topic("plain", 1, &[]);
    client.commit("any", "plain", 0, 0);
    let before = log_bytes(&cluster.scratch);
    let wrongly_named = |count: usize| {
        let topics = names(count).map(|name| m::create_topics::CreatableTopic {
            name: format!("{name}/"),
            num_partitions: 1,
            replication_factor: 1,
            ..Default::default()
        });
        m::create_topics::CreateTopicsRequest { topics: topics.collect(), timeout_ms: 1000, ..Default::default() }
    };
    let long = "x\n".repeat(16_000);
    let request =
        m::init_producer_id::InitProducerIdRequest { transactional_id: Some(long.clone()), ..Default::default() };
    let answer = client.call(&request, 2).expect("it answers");
    assert_ne!(answer.error_code, 0);
    let mut topic = m::create_topics::CreatableTopic { name: long, num_partitions: 1, ..Default::default() };
    topic.replication_factor = 1;
    let request = m::create_topics::CreateTopicsRequest { topics: vec![topic], timeout_ms: 1000, ..Default::default() };
    assert_ne!(client.call(&request, 5).expect("it answers").topics[0].error_code, 0);
    for _ in 0..100 {
        client.call(&wrongly_named(100), 5).expect("it answers");
    }
    let said = cluster.broker.process().said();
    let (lines, bytes) = (said.lines().count(), log_bytes(&cluster.scratch) - before);
    assert!(bytes < LOG_BYTES_MAX, "{bytes} bytes in {lines} lines");
    assert!(said.lines().all(|line| line.len() < 5000));
    assert!(said.contains("bytes more)"), "a name is cut");
    eventually(PATIENCE, "what was not written is counted", || {
        client.call(&wrongly_named(1), 5).map_err(|error| error.to_string())?;
        let said = cluster.broker.process().said();
        if said.contains("lines like the next one were not written") { Ok(()) } else { Err(said) }
    });
    // A name that is longer than any string may be is no request.
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.broker.port)).expect("the broker accepts");
    stream.set_read_timeout(Some(ANSWERED_WITHIN)).expect("a socket option");
    let mut body = Vec::new();
    let mut header = odradek::codec::writer::Writer::new();
    RequestHeader { api_key: 22, api_version: 2, correlation_id: 1, client_id: None }
        .write(&mut header)
        .expect("short");
    body.extend_from_slice(&header.into_bytes().expect("no file"));
    uvarint(50_000_001, &mut body);
    body.resize(body.len() + 50_000_000, b'x');
    body.extend_from_slice(&[0; 5]);
    stream.write_all(&(body.len() as i32).to_be_bytes()).expect("the broker reads");
    let _ = stream.write_all(&body);
    assert!(matches!(stream.read(&mut [0; 4]), Ok(0) | Err(_)), "the connection is closed");
    assert!(log_bytes(&cluster.scratch) - before < LOG_BYTES_MAX);
    // And the plain client is still served.
    let records = batch(Codec::None, ["kept".to_owned()]);
    let id = client.send(&produce_request("plain", 0, records, 1), 8).expect("sent");
    client.receive::<m::produce::ProduceRequest>(8, id).expect("it answers");
}
