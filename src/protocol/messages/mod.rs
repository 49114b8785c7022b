//! Every message, one file per API, declared as data.

pub mod add_offsets_to_txn;
pub mod add_partitions_to_txn;
pub mod allocate_producer_ids;
pub mod alter_configs;
pub mod alter_partition;
pub mod alter_partition_reassignments;
pub mod alter_replica_log_dirs;
pub mod api_versions;
pub mod consumer_group_describe;
pub mod consumer_group_heartbeat;
pub mod consumer_protocol_assignment;
pub mod consumer_protocol_subscription;
pub mod controlled_shutdown;
pub mod create_acls;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_acls;
pub mod delete_groups;
pub mod delete_records;
pub mod delete_topics;
pub mod describe_acls;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_groups;
pub mod describe_log_dirs;
pub mod describe_producers;
pub mod describe_transactions;
pub mod elect_leaders;
pub mod end_txn;
pub mod fetch;
pub mod find_coordinator;
pub mod heartbeat;
pub mod incremental_alter_configs;
pub mod init_producer_id;
pub mod join_group;
pub mod leader_and_isr;
pub mod leave_group;
pub mod list_groups;
pub mod list_offsets;
pub mod list_partition_reassignments;
pub mod list_transactions;
pub mod metadata;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod stop_replica;
pub mod sync_group;
pub mod txn_offset_commit;
pub mod update_features;
pub mod update_metadata;
pub mod write_txn_markers;

use crate::protocol::message::{Message, MessageSchema, Request};

macro_rules! exchanges {
    ($($file:ident: $request:ident => $($response:ident)::+;)*) => {
        $( impl Request for $file::$request {
            type Response = $file::$($response)::+;
        } )*

        /// All requests and responses, for the test that compares them with Kafka's schemas.
        pub const SCHEMAS: &[&MessageSchema] =
            &[
            consumer_protocol_subscription::ConsumerProtocolSubscription::SCHEMA,
            consumer_protocol_assignment::ConsumerProtocolAssignment::SCHEMA,
            $( $file::$request::SCHEMA, $file::$($response)::+::SCHEMA, )*
        ];
    };
}

exchanges! {
    produce: ProduceRequest => ProduceResponse;
    fetch: FetchRequest => FetchResponse;
    list_offsets: ListOffsetsRequest => ListOffsetsResponse;
    metadata: MetadataRequest => MetadataResponse;
    leader_and_isr: LeaderAndIsrRequest => LeaderAndIsrResponse;
    stop_replica: StopReplicaRequest => StopReplicaResponse;
    update_metadata: UpdateMetadataRequest => UpdateMetadataResponse;
    controlled_shutdown: ControlledShutdownRequest => ControlledShutdownResponse;
    offset_commit: OffsetCommitRequest => OffsetCommitResponse;
    offset_fetch: OffsetFetchRequest => OffsetFetchResponse;
    find_coordinator: FindCoordinatorRequest => FindCoordinatorResponse;
    join_group: JoinGroupRequest => JoinGroupResponse;
    heartbeat: HeartbeatRequest => HeartbeatResponse;
    leave_group: LeaveGroupRequest => LeaveGroupResponse;
    sync_group: SyncGroupRequest => SyncGroupResponse;
    describe_groups: DescribeGroupsRequest => DescribeGroupsResponse;
    list_groups: ListGroupsRequest => ListGroupsResponse;
    api_versions: ApiVersionsRequest => ApiVersionsResponse;
    create_topics: CreateTopicsRequest => CreateTopicsResponse;
    delete_topics: DeleteTopicsRequest => DeleteTopicsResponse;
    delete_records: DeleteRecordsRequest => DeleteRecordsResponse;
    init_producer_id: InitProducerIdRequest => InitProducerIdResponse;
    offset_for_leader_epoch: OffsetForLeaderEpochRequest => OffsetForLeaderEpochResponse;
    add_partitions_to_txn: AddPartitionsToTxnRequest => AddPartitionsToTxnResponse;
    add_offsets_to_txn: AddOffsetsToTxnRequest => AddOffsetsToTxnResponse;
    end_txn: EndTxnRequest => EndTxnResponse;
    write_txn_markers: WriteTxnMarkersRequest => WriteTxnMarkersResponse;
    txn_offset_commit: TxnOffsetCommitRequest => TxnOffsetCommitResponse;
    describe_acls: DescribeAclsRequest => DescribeAclsResponse;
    create_acls: CreateAclsRequest => CreateAclsResponse;
    delete_acls: DeleteAclsRequest => DeleteAclsResponse;
    describe_configs: DescribeConfigsRequest => DescribeConfigsResponse;
    alter_configs: AlterConfigsRequest => AlterConfigsResponse;
    alter_replica_log_dirs: AlterReplicaLogDirsRequest => AlterReplicaLogDirsResponse;
    describe_log_dirs: DescribeLogDirsRequest => DescribeLogDirsResponse;
    create_partitions: CreatePartitionsRequest => CreatePartitionsResponse;
    delete_groups: DeleteGroupsRequest => DeleteGroupsResponse;
    elect_leaders: ElectLeadersRequest => ElectLeadersResponse;
    incremental_alter_configs: IncrementalAlterConfigsRequest => IncrementalAlterConfigsResponse;
    alter_partition_reassignments: AlterPartitionReassignmentsRequest => AlterPartitionReassignmentsResponse;
    list_partition_reassignments: ListPartitionReassignmentsRequest => ListPartitionReassignmentsResponse;
    offset_delete: OffsetDeleteRequest => OffsetDeleteResponse;
    alter_partition: AlterPartitionRequest => response::AlterPartitionResponse;
    update_features: UpdateFeaturesRequest => UpdateFeaturesResponse;
    describe_cluster: DescribeClusterRequest => DescribeClusterResponse;
    describe_producers: DescribeProducersRequest => DescribeProducersResponse;
    describe_transactions: DescribeTransactionsRequest => DescribeTransactionsResponse;
    list_transactions: ListTransactionsRequest => ListTransactionsResponse;
    allocate_producer_ids: AllocateProducerIdsRequest => AllocateProducerIdsResponse;
    consumer_group_heartbeat: ConsumerGroupHeartbeatRequest => response::ConsumerGroupHeartbeatResponse;
    consumer_group_describe: ConsumerGroupDescribeRequest => ConsumerGroupDescribeResponse;
}
