//! kafka-broker-api-versions.sh: which versions of which APIs each broker answers.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use crate::cli::options::{BOOTSTRAP_SERVER, COMMAND_CONFIG, Options, Stop, Tool};
use crate::cli::{cluster_with, properties_of_file};
use crate::client::cluster::{Cluster, Node};
use crate::client::connection::Connection;
use crate::client::error::{ClientError, checked};
use crate::protocol::messages::api_versions::ApiVersionsResponse;

pub(crate) const TOOL: Tool = Tool {
    script: "kafka-broker-api-versions",
    about: "This tool helps to retrieve broker version information.",
    flags: &[COMMAND_CONFIG, BOOTSTRAP_SERVER],
};

/// Every API that Kafka 3.9's clients know: its number, its name, its highest version, and whether a broker that does
/// not list it is said to lack it. Source: kafka 3.9.1 clients/.../common/protocol/ApiKeys.java.
const APIS: &[(i16, &str, i16, bool)] = &[
    (0, "Produce", 11, true),
    (1, "Fetch", 17, true),
    (2, "ListOffsets", 9, true),
    (3, "Metadata", 12, true),
    (4, "LeaderAndIsr", 7, true),
    (5, "StopReplica", 4, true),
    (6, "UpdateMetadata", 8, true),
    (7, "ControlledShutdown", 3, true),
    (8, "OffsetCommit", 9, true),
    (9, "OffsetFetch", 9, true),
    (10, "FindCoordinator", 6, true),
    (11, "JoinGroup", 9, true),
    (12, "Heartbeat", 4, true),
    (13, "LeaveGroup", 5, true),
    (14, "SyncGroup", 5, true),
    (15, "DescribeGroups", 5, true),
    (16, "ListGroups", 5, true),
    (17, "SaslHandshake", 1, true),
    (18, "ApiVersions", 4, true),
    (19, "CreateTopics", 7, true),
    (20, "DeleteTopics", 6, true),
    (21, "DeleteRecords", 2, true),
    (22, "InitProducerId", 5, true),
    (23, "OffsetForLeaderEpoch", 4, true),
    (24, "AddPartitionsToTxn", 5, true),
    (25, "AddOffsetsToTxn", 4, true),
    (26, "EndTxn", 4, true),
    (27, "WriteTxnMarkers", 1, true),
    (28, "TxnOffsetCommit", 4, true),
    (29, "DescribeAcls", 3, true),
    (30, "CreateAcls", 3, true),
    (31, "DeleteAcls", 3, true),
    (32, "DescribeConfigs", 4, true),
    (33, "AlterConfigs", 2, true),
    (34, "AlterReplicaLogDirs", 2, true),
    (35, "DescribeLogDirs", 4, true),
    (36, "SaslAuthenticate", 2, true),
    (37, "CreatePartitions", 3, true),
    (38, "CreateDelegationToken", 3, true),
    (39, "RenewDelegationToken", 2, true),
    (40, "ExpireDelegationToken", 2, true),
    (41, "DescribeDelegationToken", 3, true),
    (42, "DeleteGroups", 2, true),
    (43, "ElectLeaders", 2, true),
    (44, "IncrementalAlterConfigs", 1, true),
    (45, "AlterPartitionReassignments", 0, true),
    (46, "ListPartitionReassignments", 0, true),
    (47, "OffsetDelete", 0, true),
    (48, "DescribeClientQuotas", 1, true),
    (49, "AlterClientQuotas", 1, true),
    (50, "DescribeUserScramCredentials", 0, true),
    (51, "AlterUserScramCredentials", 0, true),
    (52, "Vote", 1, false),
    (53, "BeginQuorumEpoch", 1, false),
    (54, "EndQuorumEpoch", 1, false),
    (55, "DescribeQuorum", 2, true),
    (56, "AlterPartition", 3, true),
    (57, "UpdateFeatures", 1, true),
    (58, "Envelope", 0, true),
    (59, "FetchSnapshot", 1, false),
    (60, "DescribeCluster", 1, true),
    (61, "DescribeProducers", 0, true),
    (62, "BrokerRegistration", 4, false),
    (63, "BrokerHeartbeat", 1, false),
    (64, "UnregisterBroker", 0, true),
    (65, "DescribeTransactions", 0, true),
    (66, "ListTransactions", 1, true),
    (67, "AllocateProducerIds", 0, true),
    (68, "ConsumerGroupHeartbeat", 0, true),
    (69, "ConsumerGroupDescribe", 0, true),
    (70, "ControllerRegistration", 0, false),
    (71, "GetTelemetrySubscriptions", 0, true),
    (72, "PushTelemetry", 0, true),
    (73, "AssignReplicasToDirs", 0, false),
    (74, "ListClientMetricsResources", 0, true),
    (75, "DescribeTopicPartitions", 0, true),
    (76, "ShareGroupHeartbeat", 0, true),
    (77, "ShareGroupDescribe", 0, true),
    (78, "ShareFetch", 0, true),
    (79, "ShareAcknowledge", 0, true),
    (80, "AddRaftVoter", 0, true),
    (81, "RemoveRaftVoter", 0, true),
    (82, "UpdateRaftVoter", 0, false),
    (83, "InitializeShareGroupState", 0, true),
    (84, "ReadShareGroupState", 0, true),
    (85, "WriteShareGroupState", 0, true),
    (86, "DeleteShareGroupState", 0, true),
    (87, "ReadShareGroupStateSummary", 0, true),
];

pub(crate) async fn run(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    let servers = options.required("bootstrap-server")?;
    let mut properties = properties_of_file(options.value("command-config"))?;
    properties.set_if_absent("request.timeout.ms", "5000");
    let mut cluster = cluster_with(properties, servers, "admin-client")?;
    let connection = &mut cluster.settings.connection;
    // What could not be sent that long has failed, for want of a connection too.
    connection.connect_timeout = connection.connect_timeout.min(connection.request_timeout);
    for node in brokers(&cluster).await? {
        let rack = node.rack.as_deref().unwrap_or("null");
        write!(out, "{} (id: {} rack: {rack}) -> ", node.address(), node.id)?;
        match versions_of(&node, &cluster.settings.connection).await {
            Ok(answer) => print_versions(&answer, out)?,
            Err(error) => writeln!(out, "ERROR: {error}")?,
        }
    }
    Ok(())
}

/// Whoever does not answer is not asked again, only who knows of no brokers yet.
/// Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/admin/BrokerApiVersionsCommand.scala, awaitBrokers.
async fn brokers(cluster: &Cluster) -> Result<Vec<Node>, ClientError> {
    loop {
        match cluster.bootstrap().await {
            // A timer: a broker that has not heard of the cluster yet does not tell when it has.
            Err(ClientError::NoMetadata { .. }) => tokio::time::sleep(Duration::from_millis(50)).await,
            found => return found,
        }
    }
}

async fn versions_of(
    node: &Node,
    settings: &crate::client::connection::ConnectionSettings,
) -> Result<ApiVersionsResponse, ClientError> {
    let answer = Connection::connect(&node.address(), settings).await?.api_versions().await?;
    checked("ask for versions", answer.error_code, None)?;
    Ok(answer)
}

fn print_versions(answer: &ApiVersionsResponse, out: &mut dyn Write) -> std::io::Result<()> {
    let mut lines: BTreeMap<i16, String> = BTreeMap::new();
    for (key, name, _, is_client_api) in APIS {
        if *is_client_api {
            lines.insert(*key, format!("{name}({key}): UNSUPPORTED"));
        }
    }
    for api in &answer.api_keys {
        let (key, min, max) = (api.api_key, api.min_version, api.max_version);
        let range = if min == max { min.to_string() } else { format!("{min} to {max}") };
        let line = match APIS.iter().find(|(known, ..)| *known == key) {
            None => format!("UNKNOWN({key}): {range}"),
            Some((_, name, latest, _)) if *latest < min => format!("{name}({key}): {range} [unusable: node too new]"),
            Some((_, name, ..)) if max < 0 => format!("{name}({key}): {range} [unusable: node too old]"),
            Some((_, name, latest, _)) => format!("{name}({key}): {range} [usable: {}]", max.min(*latest)),
        };
        lines.insert(key, line);
    }
    let lines: Vec<String> = lines.into_values().collect();
    writeln!(out, "(\n\t{}\n)", lines.join(",\n\t"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::messages::api_versions::ApiVersion;

    #[test]
    fn a_range_a_single_version_and_an_unknown_api_have_their_forms() {
        let api = |api_key, min_version, max_version| ApiVersion { api_key, min_version, max_version };
        let answer = ApiVersionsResponse {
            api_keys: vec![api(0, 0, 20), api(47, 0, 0), api(999, 1, 2), api(1, 30, 31)],
            ..Default::default()
        };
        let mut out = Vec::new();
        print_versions(&answer, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.starts_with("(\n\tProduce(0): 0 to 20 [usable: 11],\n\tFetch(1): 30 to 31 [unusable: node too new],")
        );
        assert!(text.contains("\tOffsetDelete(47): 0 [usable: 0],\n"));
        assert!(text.contains("\tMetadata(3): UNSUPPORTED,\n"));
        assert!(text.ends_with("ReadShareGroupStateSummary(87): UNSUPPORTED,\n\tUNKNOWN(999): 1 to 2\n)\n"));
    }
}
