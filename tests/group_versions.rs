//! Every version of every API of consumer groups, asked over the wire, in success and in refusal. Requests are written
//! by our own encoder, so the same file holds against a JVM broker (see `tests/support`), which it was checked with.

mod support;

use bytes::Bytes;
use odradek::protocol::error_code::ErrorCode;
use odradek::protocol::message::Message;
use odradek::protocol::messages::consumer_group_describe::ConsumerGroupDescribeRequest;
use odradek::protocol::messages::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;
use odradek::protocol::messages::consumer_group_heartbeat::response::ConsumerGroupHeartbeatResponse;
use odradek::protocol::messages::delete_groups::DeleteGroupsRequest;
use odradek::protocol::messages::describe_groups::DescribeGroupsRequest;
use odradek::protocol::messages::find_coordinator::FindCoordinatorRequest;
use odradek::protocol::messages::heartbeat::HeartbeatRequest;
use odradek::protocol::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse};
use odradek::protocol::messages::leave_group::{LeaveGroupRequest, MemberIdentity};
use odradek::protocol::messages::list_groups::ListGroupsRequest;
use odradek::protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use odradek::protocol::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use odradek::protocol::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use odradek::protocol::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use support::client::Client;
use support::{Cluster, PATIENCE, eventually};

const TOPIC: &str = "orders";

fn name_of(code: i16) -> &'static str {
    ErrorCode::from_code(code).name()
}

/// Joins alone, in as many requests as the version takes.
fn join(client: &mut Client, group: &str, version: i16, instance: Option<&str>) -> JoinGroupResponse {
    let protocol = JoinGroupRequestProtocol { name: "range".into(), metadata: Bytes::from_static(b"\0\0\0\0\0\0") };
    let mut request = JoinGroupRequest {
        group_id: group.into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
        group_instance_id: instance.map(str::to_owned),
        protocol_type: "test".into(),
        protocols: vec![protocol],
        ..Default::default()
    };
    if version == 0 {
        request.rebalance_timeout_ms = -1;
    }
    let mut joined = client.call(&request, version).expect("JoinGroup is answered");
    if version >= 4 && instance.is_none() {
        assert_eq!(name_of(joined.error_code), "MEMBER_ID_REQUIRED", "version {version}");
        request.member_id = joined.member_id;
        joined = client.call(&request, version).expect("JoinGroup is answered");
    }
    assert_eq!(name_of(joined.error_code), "NONE", "JoinGroup version {version}");
    assert_eq!((&joined.leader, joined.members.len()), (&joined.member_id, 1));
    assert_eq!((joined.protocol_name.as_deref(), joined.generation_id), (Some("range"), 1));
    joined
}

fn sync(client: &mut Client, group: &str, joined: &JoinGroupResponse, version: i16) -> Bytes {
    let assignment =
        SyncGroupRequestAssignment { member_id: joined.member_id.clone(), assignment: Bytes::from_static(b"all") };
    let request = SyncGroupRequest {
        group_id: group.into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        protocol_type: Some("test".into()),
        protocol_name: Some("range".into()),
        assignments: vec![assignment],
        ..Default::default()
    };
    let synced = client.call(&request, version).expect("SyncGroup is answered");
    assert_eq!(name_of(synced.error_code), "NONE", "SyncGroup version {version}");
    synced.assignment
}

fn commit_request(group: &str, offset: i64) -> OffsetCommitRequest {
    let partitions = [0, 7].map(|partition_index| OffsetCommitRequestPartition {
        partition_index,
        committed_offset: offset,
        committed_metadata: Some("note".into()),
        ..Default::default()
    });
    OffsetCommitRequest {
        group_id: group.into(),
        topics: vec![OffsetCommitRequestTopic { name: TOPIC.into(), partitions: partitions.into() }],
        ..Default::default()
    }
}

/// The committed offset and the error of partition 0, and the error of the group.
fn fetch(client: &mut Client, group: &str, version: i16) -> (i64, &'static str, &'static str) {
    let request = if version < 8 {
        let topic = OffsetFetchRequestTopic { name: TOPIC.into(), partition_indexes: vec![0] };
        OffsetFetchRequest { group_id: group.into(), topics: Some(vec![topic]), ..Default::default() }
    } else {
        let topic = OffsetFetchRequestTopics { name: TOPIC.into(), partition_indexes: vec![0] };
        let asked = OffsetFetchRequestGroup { group_id: group.into(), topics: Some(vec![topic]), ..Default::default() };
        OffsetFetchRequest { groups: vec![asked], ..Default::default() }
    };
    let response = client.call(&request, version).expect("OffsetFetch is answered");
    if version < 8 {
        let found = &response.topics[0].partitions[0];
        (found.committed_offset, name_of(found.error_code), name_of(response.error_code))
    } else {
        let found = &response.groups[0].topics[0].partitions[0];
        (found.committed_offset, name_of(found.error_code), name_of(response.groups[0].error_code))
    }
}

#[test]
fn every_version_of_every_group_api_is_answered() {
    let cluster =
        Cluster::start("group-versions", "group.initial.rebalance.delay.ms=0\noffsets.topic.num.partitions=3");
    let mut client = cluster.broker.client();
    client.create_topic(TOPIC, 1, &[]);

    for version in FindCoordinatorRequest::VERSIONS {
        let (key, coordinator_keys) = if version < 4 { ("g".into(), vec![]) } else { ("".into(), vec!["g".into()]) };
        let request = FindCoordinatorRequest { key, coordinator_keys, ..Default::default() };
        eventually(PATIENCE, "the group has a coordinator", || {
            let response = client.call(&request, version).map_err(|error| error.to_string())?;
            let found = response.coordinators.first();
            let code = found.map_or(response.error_code, |found| found.error_code);
            let node = found.map_or(response.node_id, |found| found.node_id);
            if (code, node) == (0, 0) { Ok(()) } else { Err(format!("version {version}: {response:?}")) }
        });
    }
    // The coordinator says NOT_COORDINATOR or that it loads until it has read its partitions.
    for group in (0..=9).flat_map(|n| [format!("j{n}"), format!("s{n}")]).chain(["simple".into()]) {
        eventually(PATIENCE, "the coordinator has loaded its groups", || {
            let request = DescribeGroupsRequest { groups: vec![group.clone()], ..Default::default() };
            let response = client.call(&request, 0).map_err(|error| error.to_string())?;
            if response.groups[0].error_code == 0 { Ok(()) } else { Err(format!("{response:?}")) }
        });
    }

    for version in JoinGroupRequest::VERSIONS {
        let group = format!("j{version}");
        let joined = join(&mut client, &group, version, None);
        assert_eq!(sync(&mut client, &group, &joined, version.min(5)), "all");
        for version in HeartbeatRequest::VERSIONS {
            let mut beat = HeartbeatRequest {
                group_id: group.clone(),
                generation_id: 1,
                member_id: joined.member_id.clone(),
                ..Default::default()
            };
            let mut said = |beat: &HeartbeatRequest| {
                name_of(client.call(beat, version).expect("Heartbeat is answered").error_code)
            };
            assert_eq!(said(&beat), "NONE");
            beat.generation_id = 0;
            assert_eq!(said(&beat), "ILLEGAL_GENERATION");
            beat.member_id = "stranger".into();
            assert_eq!(said(&beat), "UNKNOWN_MEMBER_ID");
        }
        for version in OffsetCommitRequest::VERSIONS.skip(1) {
            let request = OffsetCommitRequest {
                generation_id_or_member_epoch: 1,
                member_id: joined.member_id.clone(),
                ..commit_request(&group, 100 + i64::from(version))
            };
            let response = client.call(&request, version).expect("OffsetCommit is answered");
            let said: Vec<_> =
                response.topics[0].partitions.iter().map(|p| (p.partition_index, name_of(p.error_code))).collect();
            // Which of the two stands first is not defined.
            for expected in [(0, "NONE"), (7, "UNKNOWN_TOPIC_OR_PARTITION")] {
                assert!(said.contains(&expected), "version {version}: {said:?}");
            }
            for fetch_version in OffsetFetchRequest::VERSIONS.skip(1) {
                assert_eq!(fetch(&mut client, &group, fetch_version), (100 + i64::from(version), "NONE", "NONE"));
            }
        }
        for version in DescribeGroupsRequest::VERSIONS {
            let request = DescribeGroupsRequest { groups: vec![group.clone(), "none".into()], ..Default::default() };
            let response = client.call(&request, version).expect("DescribeGroups is answered");
            let described = response.groups.iter().find(|described| described.group_id == group).expect("asked for");
            assert_eq!((described.group_state.as_str(), described.protocol_data.as_str()), ("Stable", "range"));
            assert_eq!(described.members[0].client_host, "/127.0.0.1");
            assert_eq!(described.members[0].member_assignment, "all");
            let none = response.groups.iter().find(|described| described.group_id == "none").expect("asked for");
            // A group of which another partition is in charge would be no different with one broker.
            assert_eq!((none.group_state.as_str(), none.error_code), ("Dead", 0));
        }
        for leave_version in LeaveGroupRequest::VERSIONS {
            // The first to leave is the member, then nobody is left.
            let member_id = joined.member_id.clone();
            let request = if leave_version < 3 {
                LeaveGroupRequest { group_id: group.clone(), member_id, ..Default::default() }
            } else {
                let member = MemberIdentity { member_id, ..Default::default() };
                LeaveGroupRequest { group_id: group.clone(), members: vec![member], ..Default::default() }
            };
            let response = client.call(&request, leave_version).expect("LeaveGroup is answered");
            let code = response.members.first().map_or(response.error_code, |member| member.error_code);
            assert_eq!(name_of(code), if leave_version == 0 { "NONE" } else { "UNKNOWN_MEMBER_ID" });
        }
    }

    for version in JoinGroupRequest::VERSIONS.skip(5) {
        let group = format!("s{version}");
        let first = join(&mut client, &group, version, Some("i"));
        sync(&mut client, &group, &first, 5);
        let request = JoinGroupRequest {
            group_id: group.clone(),
            session_timeout_ms: 30_000,
            rebalance_timeout_ms: 30_000,
            group_instance_id: Some("i".into()),
            protocol_type: "test".into(),
            protocols: vec![JoinGroupRequestProtocol {
                name: "range".into(),
                metadata: Bytes::from_static(b"\0\0\0\0\0\0"),
            }],
            ..Default::default()
        };
        let back = client.call(&request, version).expect("JoinGroup is answered");
        assert_eq!((name_of(back.error_code), back.generation_id, back.skip_assignment), ("NONE", 1, version >= 9));
        let names_itself = back.leader == back.member_id;
        assert_eq!((names_itself, back.leader == first.member_id), (version >= 9, version < 9), "version {version}");
    }

    for version in ListGroupsRequest::VERSIONS {
        let request = ListGroupsRequest {
            states_filter: if version >= 4 { vec!["empty".into()] } else { vec![] },
            types_filter: if version >= 5 { vec!["Classic".into()] } else { vec![] },
        };
        let response = client.call(&request, version).expect("ListGroups is answered");
        let is_listed = |group: &str| response.groups.iter().any(|listed| listed.group_id == group);
        assert!(is_listed("j0") && is_listed("s9") == (version < 4), "version {version}: {response:?}");
    }

    for version in DeleteGroupsRequest::VERSIONS {
        let groups = [format!("j{version}"), "s9".into(), "none".into()];
        let request = DeleteGroupsRequest { groups_names: groups.to_vec() };
        let response = client.call(&request, version).expect("DeleteGroups is answered");
        for (group, expected) in groups.iter().zip(["NONE", "NON_EMPTY_GROUP", "GROUP_ID_NOT_FOUND"]) {
            let result = response.results.iter().find(|result| result.group_id == *group).expect("asked for");
            assert_eq!(name_of(result.error_code), expected);
        }
    }

    let delete = OffsetDeleteRequest {
        group_id: "j9".into(),
        topics: vec![OffsetDeleteRequestTopic {
            name: TOPIC.into(),
            partitions: vec![
                OffsetDeleteRequestPartition { partition_index: 0 },
                OffsetDeleteRequestPartition { partition_index: 7 },
            ],
        }],
    };
    let response = client.call(&delete, 0).expect("OffsetDelete is answered");
    let said: Vec<_> =
        response.topics[0].partitions.iter().map(|p| (p.partition_index, name_of(p.error_code))).collect();
    assert!(said.contains(&(0, "NONE")) && said.contains(&(7, "UNKNOWN_TOPIC_OR_PARTITION")), "{said:?}");
    assert_eq!(fetch(&mut client, "j9", 8), (-1, "NONE", "NONE"));
}

#[test]
fn version_0_keeps_offsets_in_zookeeper_and_newer_versions_do_not_see_them() {
    let cluster = Cluster::start("group-version-0", "offsets.topic.num.partitions=1");
    let mut client = cluster.broker.client();
    client.create_topic(TOPIC, 1, &[]);
    assert_eq!(fetch(&mut client, "old", 0), (-1, "UNKNOWN_TOPIC_OR_PARTITION", "NONE"));
    for offset in [3, 11] {
        let response = client.call(&commit_request("old", offset), 0).expect("OffsetCommit is answered");
        let said: Vec<_> =
            response.topics[0].partitions.iter().map(|p| (p.partition_index, name_of(p.error_code))).collect();
        assert!(said.contains(&(0, "NONE")) && said.contains(&(7, "UNKNOWN_TOPIC_OR_PARTITION")), "{said:?}");
        assert_eq!(fetch(&mut client, "old", 0), (offset, "NONE", "NONE"));
    }
}

/// Kafka on ZooKeeper has their APIs and not their protocol.
#[test]
fn groups_of_the_new_protocol_are_refused() {
    let cluster = Cluster::start("group-new-protocol", "");
    let mut client = cluster.broker.client();
    let request = ConsumerGroupHeartbeatRequest {
        group_id: "g".into(),
        subscribed_topic_names: Some(vec![TOPIC.into()]),
        topic_partitions: Some(Vec::new()),
        ..Default::default()
    };
    let refused = client.call(&request, 0).expect("ConsumerGroupHeartbeat is answered");
    let expected = ConsumerGroupHeartbeatResponse { error_code: refused.error_code, ..Default::default() };
    assert_eq!((name_of(refused.error_code), refused), ("UNSUPPORTED_VERSION", expected));

    let group_ids = vec!["g".into(), "none".into(), "g".into()];
    let request = ConsumerGroupDescribeRequest { group_ids, include_authorized_operations: true };
    let refused = client.call(&request, 0).expect("ConsumerGroupDescribe is answered");
    let of_each: Vec<_> = refused.groups.iter().map(|group| (&*group.group_id, name_of(group.error_code))).collect();
    assert_eq!(of_each, ["g", "none", "g"].map(|group| (group, "UNSUPPORTED_VERSION")));
}
