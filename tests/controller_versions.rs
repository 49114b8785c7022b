//! Every version of the APIs that only the controller answers, asked over the wire, in success and in refusal. The same file
//! holds against a JVM broker (see `tests/support`), which it was checked with.

mod support;

use odradek::protocol::error_code::ErrorCode;
use odradek::protocol::message::Message;
use odradek::protocol::messages::allocate_producer_ids::AllocateProducerIdsRequest;
use odradek::protocol::messages::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use odradek::protocol::messages::controlled_shutdown::ControlledShutdownRequest;
use odradek::protocol::messages::elect_leaders::{ElectLeadersRequest, TopicPartitions};
use odradek::protocol::messages::list_partition_reassignments::{
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsTopics,
};
use odradek::protocol::messages::update_features::{FeatureUpdateKey, UpdateFeaturesRequest};
use support::client::Client;
use support::{Brokers, Cluster};

const TOPIC: &str = "orders";

fn name_of(code: i16) -> &'static str {
    ErrorCode::from_code(code).name()
}

/// What was answered for each partition, with the text where there is one.
type Answered = Vec<(i32, &'static str, Option<String>)>;

fn elect(client: &mut Client, version: i16, partitions: Option<Vec<i32>>, election_type: i8) -> (i16, Answered) {
    let topic = |partitions| TopicPartitions { topic: TOPIC.to_owned(), partitions };
    let topic_partitions = partitions.map(|partitions| vec![topic(partitions)]);
    let request = ElectLeadersRequest { election_type, topic_partitions, timeout_ms: 30_000 };
    let response = client.call(&request, version).expect("ElectLeaders is answered");
    let results = response.replica_election_results.into_iter().flat_map(|topic| topic.partition_result);
    let mut answered: Answered =
        results.map(|result| (result.partition_id, name_of(result.error_code), result.error_message)).collect();
    answered.sort();
    (response.error_code, answered)
}

fn leaders_are_elected(client: &mut Client) {
    for version in ElectLeadersRequest::VERSIONS {
        let (code, answered) = elect(client, version, Some(vec![0, 7]), 0);
        let expected: [(i32, &str); 2] = [(0, "ELECTION_NOT_NEEDED"), (7, "UNKNOWN_TOPIC_OR_PARTITION")];
        let named: Vec<(i32, &str)> = answered.iter().map(|(id, name, _)| (*id, *name)).collect();
        assert_eq!((code, &named[..]), (0, &expected[..]), "version {version}");
        assert_eq!(answered[1].2.as_deref(), Some("The partition does not exist."));
        assert_eq!(elect(client, version, None, 0), (0, vec![]), "none of all needs it, version {version}");
        if version >= 1 {
            let (code, answered) = elect(client, version, Some(vec![0]), 1);
            assert_eq!((code, answered[0].1), (0, "ELECTION_NOT_NEEDED"), "version {version}");
        }
    }
}

fn partitions_are_reassigned(client: &mut Client) {
    for version in AlterPartitionReassignmentsRequest::VERSIONS {
        let mut ask = |topic: &str, replicas: Option<Vec<i32>>| {
            let partitions = vec![ReassignablePartition { partition_index: 0, replicas }];
            let topics = vec![ReassignableTopic { name: topic.to_owned(), partitions }];
            let request = AlterPartitionReassignmentsRequest { timeout_ms: 30_000, topics };
            let response = client.call(&request, version).expect("AlterPartitionReassignments is answered");
            assert_eq!(response.error_code, 0);
            let result = &response.responses[0].partitions[0];
            (name_of(result.error_code), result.error_message.clone())
        };
        let refused = |code, text: &str| (code, Some(text.to_owned()));
        assert_eq!(ask(TOPIC, Some(vec![0])), ("NONE", None));
        assert_eq!(ask(TOPIC, None).0, "NO_REASSIGNMENT_IN_PROGRESS");
        assert_eq!(ask("nowhere", None).0, "NO_REASSIGNMENT_IN_PROGRESS");
        let unknown = refused("UNKNOWN_TOPIC_OR_PARTITION", "The partition does not exist.");
        assert_eq!(ask("nowhere", Some(vec![0])), unknown);
        let invalid = |text| refused("INVALID_REPLICA_ASSIGNMENT", text);
        assert_eq!(ask(TOPIC, Some(vec![])), invalid("Empty replica list specified in partition reassignment."));
        assert_eq!(ask(TOPIC, Some(vec![0, 0])).0, "INVALID_REPLICA_ASSIGNMENT");
        assert_eq!(ask(TOPIC, Some(vec![-1])).0, "INVALID_REPLICA_ASSIGNMENT");
        let (code, text) = ask(TOPIC, Some(vec![0, 9]));
        let text = text.unwrap_or_default();
        assert!(
            code == "INVALID_REPLICA_ASSIGNMENT"
                && text.starts_with("Replica assignment has brokers that are not alive."),
            "{code}: {text}"
        );
    }
    for version in ListPartitionReassignmentsRequest::VERSIONS {
        let topic = ListPartitionReassignmentsTopics { name: TOPIC.to_owned(), partition_indexes: vec![0, 7] };
        for topics in [None, Some(vec![topic])] {
            let request = ListPartitionReassignmentsRequest { timeout_ms: 30_000, topics };
            let response = client.call(&request, version).expect("ListPartitionReassignments is answered");
            assert_eq!((response.error_code, response.topics.len()), (0, 0), "version {version}");
        }
    }
}

fn no_feature_is_changed(client: &mut Client) {
    for version in UpdateFeaturesRequest::VERSIONS {
        let update = |feature: &str, max_version_level| FeatureUpdateKey {
            feature: feature.to_owned(),
            max_version_level,
            upgrade_type: 1,
            ..Default::default()
        };
        let feature_updates = vec![update("", 1), update("known.to.nobody", 1), update("removed", 0)];
        let request = UpdateFeaturesRequest { timeout_ms: 30_000, feature_updates, validate_only: false };
        let response = client.call(&request, version).expect("UpdateFeatures is answered");
        assert_eq!(response.error_code, 0, "version {version}");
        let mut results = response.results;
        results.sort_by(|a, b| a.feature.cmp(&b.feature));
        let told: Vec<(&str, &str, &str)> = results
            .iter()
            .map(|result| {
                let text = result.error_message.as_deref().unwrap_or_default();
                (result.feature.as_str(), name_of(result.error_code), text)
            })
            .collect();
        let refused = "INVALID_REQUEST";
        assert_eq!(
            told,
            [
                ("", refused, "Feature name can not be empty."),
                (
                    "known.to.nobody",
                    refused,
                    "Could not apply finalized feature update because the provided feature is not supported."
                ),
                (
                    "removed",
                    refused,
                    "Can not provide versionLevel: 0 less than 1 without setting the SAFE downgradeType in the request."
                ),
            ],
            "version {version}"
        );
    }
}

fn strangers_get_no_producer_ids(client: &mut Client) {
    for version in AllocateProducerIdsRequest::VERSIONS {
        for (broker_id, expected) in [(77, "BROKER_ID_NOT_REGISTERED"), (0, "STALE_BROKER_EPOCH")] {
            let request = AllocateProducerIdsRequest { broker_id, broker_epoch: 1 };
            let response = client.call(&request, version).expect("AllocateProducerIds is answered");
            assert_eq!(name_of(response.error_code), expected, "version {version}");
        }
    }
}

fn brokers_ask_to_stop(client: &mut Client) {
    for version in ControlledShutdownRequest::VERSIONS {
        let mut ask = |broker_id, broker_epoch| {
            let request = ControlledShutdownRequest { broker_id, broker_epoch };
            let response = client.call(&request, version).expect("ControlledShutdown is answered");
            (name_of(response.error_code), response.remaining_partitions.len())
        };
        assert_eq!(ask(77, -1), ("BROKER_NOT_AVAILABLE", 0), "version {version}");
        if version >= 2 {
            assert_eq!(ask(0, 1), ("STALE_BROKER_EPOCH", 0), "version {version}");
            assert_eq!(ask(77, 1), ("UNKNOWN_SERVER_ERROR", 0), "version {version}");
        }
        // The only topic has one replica, so that nothing is left for others to take.
        assert_eq!(ask(0, -1), ("NONE", 0), "version {version}");
    }
}

#[test]
fn every_version_is_answered_as_by_kafka() {
    let cluster = Cluster::start("controller-versions", "");
    let mut client = cluster.broker.client();
    client.create_topic(TOPIC, 1, &[]);
    leaders_are_elected(&mut client);
    partitions_are_reassigned(&mut client);
    no_feature_is_changed(&mut client);
    strangers_get_no_producer_ids(&mut client);
    // From then on no topic gets a replica on the broker.
    brokers_ask_to_stop(&mut client);
}

#[test]
fn a_broker_that_is_not_the_controller_says_so() {
    let cluster = Brokers::start("not-controller", 2, "");
    let controller = cluster.client(0).metadata(&[]).expect("metadata").controller_id;
    cluster.client(controller).create_topic(TOPIC, 1, &[]);
    cluster.until_partition(TOPIC, 0, "it is led", |_| true);
    let client = &mut cluster.client(1 - controller);
    for version in ElectLeadersRequest::VERSIONS {
        for partitions in [Some(vec![0]), None] {
            let (code, answered) = elect(client, version, partitions, 0);
            assert_eq!((code, answered), (0, vec![(0, "NOT_CONTROLLER", None)]), "version {version}");
        }
    }
    let request = AlterPartitionReassignmentsRequest::default();
    let response = client.call(&request, 0).expect("AlterPartitionReassignments is answered");
    let said = ("NOT_CONTROLLER", Some("This is not the correct controller for this cluster."));
    assert_eq!((name_of(response.error_code), response.error_message.as_deref()), said);
    let response = client.call(&ListPartitionReassignmentsRequest::default(), 0);
    let response = response.expect("ListPartitionReassignments is answered");
    assert_eq!((name_of(response.error_code), response.error_message.as_deref()), said);
    let response = client.call(&UpdateFeaturesRequest::default(), 1).expect("UpdateFeatures is answered");
    assert_eq!((name_of(response.error_code), response.error_message.as_deref()), said);
    let response = client.call(&AllocateProducerIdsRequest::default(), 0);
    assert_eq!(name_of(response.expect("AllocateProducerIds is answered").error_code), "NOT_CONTROLLER");
    let request = ControlledShutdownRequest { broker_id: 0, broker_epoch: -1 };
    let response = client.call(&request, 3).expect("ControlledShutdown is answered");
    assert_eq!(name_of(response.error_code), "STALE_CONTROLLER_EPOCH");
}
