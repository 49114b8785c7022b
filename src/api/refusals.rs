//! How each API says one error of all that a request names: what a client is told when a request costs too much.
//! Source: kafka 3.9.1 clients/src/main/java/org/apache/kafka/common/requests/*Request.java (getErrorResponse).

use crate::api::Handled;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::message::{Message, Payload, Request};
use crate::protocol::messages as m;

/// A response that can carry one error for a whole request.
pub trait Refusing: Message {
    type Request: Request<Response = Self>;

    /// `request` may be the part of one that could be read. The text stands where the first place for one is.
    fn refused(request: Self::Request, version: i16, code: ErrorCode, text: &str) -> Handled<Self>;
}

/// The response made of the request, its version, the code and the text.
macro_rules! refusals {
    ($($file:ident: $request:ident => $response:ident, |$asked:ident, $version:ident, $code:ident, $text:ident| $answer:expr;)*) => {$(
        impl Refusing for m::$file::$response {
            type Request = m::$file::$request;

            fn refused($asked: m::$file::$request, $version: i16, code: ErrorCode, text: &str) -> Handled<Self> {
                #[allow(unused_imports)]
                use m::$file::*;
                #[allow(unused_mut, unused_variables)]
                let ($code, mut $text) = (code.code(), Some(text.to_owned()));
                Handled::from($answer)
            }
        }
    )*};
}

impl<M: Message> From<M> for Handled<M> {
    fn from(response: M) -> Handled<M> {
        Handled::Reply(response)
    }
}

fn each<T, U>(asked: Vec<T>, answer: impl FnMut(T) -> U) -> Vec<U> {
    asked.into_iter().map(answer).collect()
}

refusals! {
    produce: ProduceRequest => ProduceResponse, |asked, _version, code, text| {
        if asked.acks == 0 {
            // The producer expects no answer; that something failed it can only learn from a closed connection.
            return Handled::Close;
        }
        let responses = each(asked.topic_data, |topic| TopicProduceResponse {
            name: topic.name,
            partition_responses: each(topic.partition_data, |data| PartitionProduceResponse {
                index: data.index,
                error_code: code,
                base_offset: -1,
                error_message: text.take(),
                ..Default::default()
            }),
        });
        ProduceResponse { responses, ..Default::default() }
    };
    fetch: FetchRequest => FetchResponse, |asked, version, code, text| {
        // Later versions have a place for the error of the whole.
        let topics = if version < 7 { asked.topics } else { Vec::new() };
        let responses = each(topics, |topic| FetchableTopicResponse {
            topic: topic.topic,
            partitions: each(topic.partitions, |partition| PartitionData {
                partition_index: partition.partition,
                error_code: code,
                high_watermark: -1,
                aborted_transactions: None,
                records: Some(Payload::default()),
                ..Default::default()
            }),
            ..Default::default()
        });
        FetchResponse { error_code: code, responses, ..Default::default() }
    };
    list_offsets: ListOffsetsRequest => ListOffsetsResponse, |asked, _version, code, text| {
        let topics = each(asked.topics, |topic| ListOffsetsTopicResponse {
            name: topic.name,
            partitions: each(topic.partitions, |partition| ListOffsetsPartitionResponse {
                partition_index: partition.partition_index,
                error_code: code,
                ..Default::default()
            }),
        });
        ListOffsetsResponse { topics, ..Default::default() }
    };
    metadata: MetadataRequest => MetadataResponse, |asked, _version, code, text| {
        let topics = each(asked.topics.unwrap_or_default(), |topic| MetadataResponseTopic {
            error_code: code,
            name: Some(topic.name.unwrap_or_default()),
            topic_id: topic.topic_id,
            ..Default::default()
        });
        MetadataResponse { topics, ..Default::default() }
    };
    leader_and_isr: LeaderAndIsrRequest => LeaderAndIsrResponse, |_asked, _version, code, text| {
        LeaderAndIsrResponse { error_code: code, ..Default::default() }
    };
    stop_replica: StopReplicaRequest => StopReplicaResponse, |_asked, _version, code, text| {
        StopReplicaResponse { error_code: code, ..Default::default() }
    };
    update_metadata: UpdateMetadataRequest => UpdateMetadataResponse, |_asked, _version, code, text| {
        UpdateMetadataResponse { error_code: code }
    };
    controlled_shutdown: ControlledShutdownRequest => ControlledShutdownResponse, |_asked, _version, code, text| {
        ControlledShutdownResponse { error_code: code, ..Default::default() }
    };
    offset_commit: OffsetCommitRequest => OffsetCommitResponse, |asked, _version, code, text| {
        let topics = each(asked.topics, |topic| OffsetCommitResponseTopic {
            name: topic.name,
            partitions: each(topic.partitions, |partition| OffsetCommitResponsePartition {
                partition_index: partition.partition_index,
                error_code: code,
            }),
        });
        OffsetCommitResponse { topics, ..Default::default() }
    };
    offset_fetch: OffsetFetchRequest => OffsetFetchResponse, |asked, version, code, text| {
        let groups = each(asked.groups, |group| OffsetFetchResponseGroup {
            group_id: group.group_id,
            topics: Vec::new(),
            error_code: code,
        });
        // Versions 0 and 1 have no place for the error but the partitions.
        let topics = if version < 2 { asked.topics.unwrap_or_default() } else { Vec::new() };
        let topics = each(topics, |topic| OffsetFetchResponseTopic {
            name: topic.name,
            partitions: each(topic.partition_indexes, |partition_index| OffsetFetchResponsePartition {
                partition_index,
                committed_offset: -1,
                metadata: Some(String::new()),
                error_code: code,
                ..Default::default()
            }),
        });
        OffsetFetchResponse { topics, error_code: if version < 8 { code } else { 0 }, groups, ..Default::default() }
    };
    find_coordinator: FindCoordinatorRequest => FindCoordinatorResponse, |asked, version, code, text| {
        if version < 4 {
            FindCoordinatorResponse {
                error_code: code,
                error_message: text,
                node_id: -1,
                port: -1,
                ..Default::default()
            }
        } else {
            let coordinators = each(asked.coordinator_keys, |key| Coordinator {
                key,
                node_id: -1,
                host: String::new(),
                port: -1,
                error_code: code,
                error_message: Some(text.take().unwrap_or_default()),
            });
            FindCoordinatorResponse { coordinators, ..Default::default() }
        }
    };
    join_group: JoinGroupRequest => JoinGroupResponse, |asked, version, code, text| JoinGroupResponse {
        error_code: code,
        protocol_name: (version < 7).then(String::new),
        member_id: asked.member_id,
        ..Default::default()
    };
    heartbeat: HeartbeatRequest => HeartbeatResponse, |_asked, _version, code, text| {
        HeartbeatResponse { error_code: code, ..Default::default() }
    };
    leave_group: LeaveGroupRequest => LeaveGroupResponse, |_asked, _version, code, text| {
        LeaveGroupResponse { error_code: code, ..Default::default() }
    };
    sync_group: SyncGroupRequest => SyncGroupResponse, |_asked, _version, code, text| {
        SyncGroupResponse { error_code: code, ..Default::default() }
    };
    describe_groups: DescribeGroupsRequest => DescribeGroupsResponse, |asked, _version, code, text| {
        let groups =
            each(asked.groups, |group_id| DescribedGroup { error_code: code, group_id, ..Default::default() });
        DescribeGroupsResponse { groups, ..Default::default() }
    };
    consumer_group_describe: ConsumerGroupDescribeRequest => ConsumerGroupDescribeResponse,
        |asked, _version, code, text| {
            let groups =
                each(asked.group_ids, |group_id| DescribedGroup { error_code: code, group_id, ..Default::default() });
            ConsumerGroupDescribeResponse { groups, ..Default::default() }
        };
    list_groups: ListGroupsRequest => ListGroupsResponse, |_asked, _version, code, text| {
        ListGroupsResponse { error_code: code, ..Default::default() }
    };
    api_versions: ApiVersionsRequest => ApiVersionsResponse, |_asked, _version, code, text| {
        ApiVersionsResponse { error_code: code, ..Default::default() }
    };
    create_topics: CreateTopicsRequest => CreateTopicsResponse, |asked, _version, code, text| {
        let topics = each(asked.topics, |topic| CreatableTopicResult {
            name: topic.name,
            error_code: code,
            error_message: text.take(),
            ..Default::default()
        });
        CreateTopicsResponse { topics, ..Default::default() }
    };
    delete_topics: DeleteTopicsRequest => DeleteTopicsResponse, |asked, _version, code, text| {
        let mut responses = each(asked.topic_names, |name| DeletableTopicResult {
            name: Some(name),
            error_code: code,
            error_message: text.take(),
            ..Default::default()
        });
        responses.extend(asked.topics.into_iter().map(|topic| DeletableTopicResult {
            name: topic.name,
            topic_id: topic.topic_id,
            error_code: code,
            error_message: text.take(),
        }));
        DeleteTopicsResponse { responses, ..Default::default() }
    };
    delete_records: DeleteRecordsRequest => DeleteRecordsResponse, |asked, _version, code, text| {
        let topics = each(asked.topics, |topic| DeleteRecordsTopicResult {
            name: topic.name,
            partitions: each(topic.partitions, |partition| DeleteRecordsPartitionResult {
                partition_index: partition.partition_index,
                low_watermark: -1,
                error_code: code,
            }),
        });
        DeleteRecordsResponse { topics, ..Default::default() }
    };
    init_producer_id: InitProducerIdRequest => InitProducerIdResponse, |_asked, _version, code, text| {
        InitProducerIdResponse { error_code: code, producer_id: -1, producer_epoch: -1, ..Default::default() }
    };
    offset_for_leader_epoch: OffsetForLeaderEpochRequest => OffsetForLeaderEpochResponse,
        |asked, _version, code, text| {
            let topics = each(asked.topics, |topic| OffsetForLeaderTopicResult {
                topic: topic.topic,
                partitions: each(topic.partitions, |partition| EpochEndOffset {
                    error_code: code,
                    partition: partition.partition,
                    ..Default::default()
                }),
            });
            OffsetForLeaderEpochResponse { topics, ..Default::default() }
        };
    add_partitions_to_txn: AddPartitionsToTxnRequest => AddPartitionsToTxnResponse, |asked, version, code, text| {
        // Later versions have a place for the error of the whole.
        let topics = if version < 4 { asked.v3_and_below_topics } else { Vec::new() };
        let results_by_topic_v3_and_below = each(topics, |topic| AddPartitionsToTxnTopicResult {
            name: topic.name,
            results_by_partition: each(topic.partitions, |partition_index| AddPartitionsToTxnPartitionResult {
                partition_index,
                partition_error_code: code,
            }),
        });
        AddPartitionsToTxnResponse { error_code: code, results_by_topic_v3_and_below, ..Default::default() }
    };
    add_offsets_to_txn: AddOffsetsToTxnRequest => AddOffsetsToTxnResponse, |_asked, _version, code, text| {
        AddOffsetsToTxnResponse { error_code: code, ..Default::default() }
    };
    txn_offset_commit: TxnOffsetCommitRequest => TxnOffsetCommitResponse, |asked, _version, code, text| {
        let topics = each(asked.topics, |topic| TxnOffsetCommitResponseTopic {
            name: topic.name,
            partitions: each(topic.partitions, |partition| TxnOffsetCommitResponsePartition {
                partition_index: partition.partition_index,
                error_code: code,
            }),
        });
        TxnOffsetCommitResponse { topics, ..Default::default() }
    };
    end_txn: EndTxnRequest => EndTxnResponse, |_asked, _version, code, text| {
        EndTxnResponse { error_code: code, ..Default::default() }
    };
    write_txn_markers: WriteTxnMarkersRequest => WriteTxnMarkersResponse, |asked, _version, code, text| {
        let markers = each(asked.markers, |marker| WritableTxnMarkerResult {
            producer_id: marker.producer_id,
            topics: each(marker.topics, |topic| WritableTxnMarkerTopicResult {
                name: topic.name,
                partitions: each(topic.partition_indexes, |partition_index| WritableTxnMarkerPartitionResult {
                    partition_index,
                    error_code: code,
                }),
            }),
        });
        WriteTxnMarkersResponse { markers }
    };
    describe_acls: DescribeAclsRequest => DescribeAclsResponse, |_asked, _version, code, text| {
        DescribeAclsResponse { error_code: code, error_message: text, ..Default::default() }
    };
    create_acls: CreateAclsRequest => CreateAclsResponse, |asked, _version, code, text| {
        let results = each(asked.creations, |_| AclCreationResult { error_code: code, error_message: text.take() });
        CreateAclsResponse { results, ..Default::default() }
    };
    delete_acls: DeleteAclsRequest => DeleteAclsResponse, |asked, _version, code, text| {
        let filter_results = each(asked.filters, |_| DeleteAclsFilterResult {
            error_code: code,
            error_message: text.take(),
            matching_acls: Vec::new(),
        });
        DeleteAclsResponse { filter_results, ..Default::default() }
    };
    describe_configs: DescribeConfigsRequest => DescribeConfigsResponse, |asked, _version, code, text| {
        let results = each(asked.resources, |resource| DescribeConfigsResult {
            error_code: code,
            error_message: text.take(),
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
            configs: Vec::new(),
        });
        DescribeConfigsResponse { results: results.into(), ..Default::default() }
    };
    alter_configs: AlterConfigsRequest => AlterConfigsResponse, |asked, _version, code, text| {
        let responses = each(asked.resources, |resource| AlterConfigsResourceResponse {
            error_code: code,
            error_message: text.take(),
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
        });
        AlterConfigsResponse { responses, ..Default::default() }
    };
    alter_replica_log_dirs: AlterReplicaLogDirsRequest => AlterReplicaLogDirsResponse, |asked, _version, code, text| {
        let topics = asked.dirs.into_iter().flat_map(|dir| dir.topics).collect();
        let results = each(topics, |topic: AlterReplicaLogDirTopic| AlterReplicaLogDirTopicResult {
            topic_name: topic.name,
            partitions: each(topic.partitions, |partition_index| AlterReplicaLogDirPartitionResult {
                partition_index,
                error_code: code,
            }),
        });
        AlterReplicaLogDirsResponse { results, ..Default::default() }
    };
    describe_log_dirs: DescribeLogDirsRequest => DescribeLogDirsResponse, |_asked, _version, code, text| {
        DescribeLogDirsResponse { error_code: code, ..Default::default() }
    };
    create_partitions: CreatePartitionsRequest => CreatePartitionsResponse, |asked, _version, code, text| {
        let results = each(asked.topics, |topic| CreatePartitionsTopicResult {
            name: topic.name,
            error_code: code,
            error_message: text.take(),
        });
        CreatePartitionsResponse { results, ..Default::default() }
    };
    delete_groups: DeleteGroupsRequest => DeleteGroupsResponse, |asked, _version, code, text| {
        let results = each(asked.groups_names, |group_id| DeletableGroupResult { group_id, error_code: code });
        DeleteGroupsResponse { results, ..Default::default() }
    };
    elect_leaders: ElectLeadersRequest => ElectLeadersResponse, |asked, version, code, text| {
        // Version 0 has no place for the error but the partitions.
        let topics = if version < 1 { asked.topic_partitions.unwrap_or_default() } else { Vec::new() };
        let replica_election_results = each(topics, |topic| ReplicaElectionResult {
            topic: topic.topic,
            partition_result: each(topic.partitions, |partition_id| PartitionResult {
                partition_id,
                error_code: code,
                error_message: text.take(),
            }),
        });
        let error_code = if version < 1 { 0 } else { code };
        ElectLeadersResponse { error_code, replica_election_results, ..Default::default() }
    };
    alter_partition_reassignments: AlterPartitionReassignmentsRequest => AlterPartitionReassignmentsResponse,
        |_asked, _version, code, text| AlterPartitionReassignmentsResponse {
            error_code: code,
            error_message: text,
            ..Default::default()
        };
    list_partition_reassignments: ListPartitionReassignmentsRequest => ListPartitionReassignmentsResponse,
        |_asked, _version, code, text| ListPartitionReassignmentsResponse {
            error_code: code,
            error_message: text,
            ..Default::default()
        };
    incremental_alter_configs: IncrementalAlterConfigsRequest => IncrementalAlterConfigsResponse,
        |asked, _version, code, text| {
            let responses = each(asked.resources, |resource| AlterConfigsResourceResponse {
                error_code: code,
                error_message: text.take(),
                resource_type: resource.resource_type,
                resource_name: resource.resource_name,
            });
            IncrementalAlterConfigsResponse { responses, ..Default::default() }
        };
    offset_delete: OffsetDeleteRequest => OffsetDeleteResponse, |_asked, _version, code, text| {
        OffsetDeleteResponse { error_code: code, ..Default::default() }
    };
    update_features: UpdateFeaturesRequest => UpdateFeaturesResponse, |_asked, _version, code, text| {
        UpdateFeaturesResponse { error_code: code, error_message: text, ..Default::default() }
    };
    describe_cluster: DescribeClusterRequest => DescribeClusterResponse, |_asked, _version, code, text| {
        DescribeClusterResponse { error_code: code, error_message: text, ..Default::default() }
    };
    allocate_producer_ids: AllocateProducerIdsRequest => AllocateProducerIdsResponse, |_asked, _version, code, text| {
        AllocateProducerIdsResponse { error_code: code, ..Default::default() }
    };
    describe_transactions: DescribeTransactionsRequest => DescribeTransactionsResponse, |asked, _version, code, text| {
        let transaction_states = each(asked.transactional_ids, |transactional_id| TransactionState {
            error_code: code,
            transactional_id,
            ..Default::default()
        });
        DescribeTransactionsResponse { transaction_states, ..Default::default() }
    };
    list_transactions: ListTransactionsRequest => ListTransactionsResponse, |_asked, _version, code, text| {
        ListTransactionsResponse { error_code: code, ..Default::default() }
    };
    describe_producers: DescribeProducersRequest => DescribeProducersResponse, |asked, _version, code, text| {
        let topics = each(asked.topics, |topic| TopicResponse {
            name: topic.name,
            partitions: each(topic.partition_indexes, |partition_index| PartitionResponse {
                partition_index,
                error_code: code,
                error_message: text.take(),
                active_producers: Vec::new(),
            }),
        });
        DescribeProducersResponse { topics, ..Default::default() }
    };
}
