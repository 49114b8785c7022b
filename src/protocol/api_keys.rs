//! The APIs that this broker speaks, by number.
//! Source: kafka 3.9.1 clients/src/main/java/org/apache/kafka/common/protocol/ApiKeys.java.

use std::ops::RangeInclusive;

use crate::protocol::message::Message;
use crate::protocol::messages as m;

macro_rules! api_keys {
    ($($name:ident = $code:literal, $request:path;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        pub enum ApiKey {
            $( $name = $code, )*
        }

        impl ApiKey {
            /// In the order of their numbers.
            pub const ALL: &'static [ApiKey] = &[$( ApiKey::$name, )*];

            pub fn from_code(code: i16) -> Option<ApiKey> {
                match code {
                    $( $code => Some(ApiKey::$name), )*
                    _ => None,
                }
            }

            pub fn code(self) -> i16 {
                self as i16
            }

            /// The versions that are declared, which are those of a 3.9 broker on ZooKeeper.
            pub fn versions(self) -> RangeInclusive<i16> {
                match self {
                    $( ApiKey::$name => <$request as Message>::VERSIONS, )*
                }
            }

            /// First flexible version; `i16::MAX` if there is none.
            pub fn flexible_from(self) -> i16 {
                match self {
                    $( ApiKey::$name => <$request as Message>::FLEXIBLE_FROM, )*
                }
            }

            pub fn name(self) -> &'static str {
                match self {
                    $( ApiKey::$name => stringify!($name), )*
                }
            }
        }
    };
}

api_keys! {
    Produce = 0, m::produce::ProduceRequest;
    Fetch = 1, m::fetch::FetchRequest;
    ListOffsets = 2, m::list_offsets::ListOffsetsRequest;
    Metadata = 3, m::metadata::MetadataRequest;
    LeaderAndIsr = 4, m::leader_and_isr::LeaderAndIsrRequest;
    StopReplica = 5, m::stop_replica::StopReplicaRequest;
    UpdateMetadata = 6, m::update_metadata::UpdateMetadataRequest;
    ControlledShutdown = 7, m::controlled_shutdown::ControlledShutdownRequest;
    OffsetCommit = 8, m::offset_commit::OffsetCommitRequest;
    OffsetFetch = 9, m::offset_fetch::OffsetFetchRequest;
    FindCoordinator = 10, m::find_coordinator::FindCoordinatorRequest;
    JoinGroup = 11, m::join_group::JoinGroupRequest;
    Heartbeat = 12, m::heartbeat::HeartbeatRequest;
    LeaveGroup = 13, m::leave_group::LeaveGroupRequest;
    SyncGroup = 14, m::sync_group::SyncGroupRequest;
    DescribeGroups = 15, m::describe_groups::DescribeGroupsRequest;
    ListGroups = 16, m::list_groups::ListGroupsRequest;
    ApiVersions = 18, m::api_versions::ApiVersionsRequest;
    CreateTopics = 19, m::create_topics::CreateTopicsRequest;
    DeleteTopics = 20, m::delete_topics::DeleteTopicsRequest;
    DeleteRecords = 21, m::delete_records::DeleteRecordsRequest;
    InitProducerId = 22, m::init_producer_id::InitProducerIdRequest;
    OffsetForLeaderEpoch = 23, m::offset_for_leader_epoch::OffsetForLeaderEpochRequest;
    AddPartitionsToTxn = 24, m::add_partitions_to_txn::AddPartitionsToTxnRequest;
    AddOffsetsToTxn = 25, m::add_offsets_to_txn::AddOffsetsToTxnRequest;
    EndTxn = 26, m::end_txn::EndTxnRequest;
    WriteTxnMarkers = 27, m::write_txn_markers::WriteTxnMarkersRequest;
    TxnOffsetCommit = 28, m::txn_offset_commit::TxnOffsetCommitRequest;
    DescribeAcls = 29, m::describe_acls::DescribeAclsRequest;
    CreateAcls = 30, m::create_acls::CreateAclsRequest;
    DeleteAcls = 31, m::delete_acls::DeleteAclsRequest;
    DescribeConfigs = 32, m::describe_configs::DescribeConfigsRequest;
    AlterConfigs = 33, m::alter_configs::AlterConfigsRequest;
    AlterReplicaLogDirs = 34, m::alter_replica_log_dirs::AlterReplicaLogDirsRequest;
    DescribeLogDirs = 35, m::describe_log_dirs::DescribeLogDirsRequest;
    CreatePartitions = 37, m::create_partitions::CreatePartitionsRequest;
    DeleteGroups = 42, m::delete_groups::DeleteGroupsRequest;
    ElectLeaders = 43, m::elect_leaders::ElectLeadersRequest;
    IncrementalAlterConfigs = 44, m::incremental_alter_configs::IncrementalAlterConfigsRequest;
    AlterPartitionReassignments = 45, m::alter_partition_reassignments::AlterPartitionReassignmentsRequest;
    ListPartitionReassignments = 46, m::list_partition_reassignments::ListPartitionReassignmentsRequest;
    OffsetDelete = 47, m::offset_delete::OffsetDeleteRequest;
    AlterPartition = 56, m::alter_partition::AlterPartitionRequest;
    UpdateFeatures = 57, m::update_features::UpdateFeaturesRequest;
    DescribeCluster = 60, m::describe_cluster::DescribeClusterRequest;
    DescribeProducers = 61, m::describe_producers::DescribeProducersRequest;
    DescribeTransactions = 65, m::describe_transactions::DescribeTransactionsRequest;
    ListTransactions = 66, m::list_transactions::ListTransactionsRequest;
    AllocateProducerIds = 67, m::allocate_producer_ids::AllocateProducerIdsRequest;
    ConsumerGroupHeartbeat = 68, m::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;
    ConsumerGroupDescribe = 69, m::consumer_group_describe::ConsumerGroupDescribeRequest;
}
