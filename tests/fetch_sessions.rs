//! Fetch sessions over the wire: what becomes of one whose topic is deleted and made anew, and what strangers can make a
//! broker keep. Source: KIP-227, KIP-516 and kafka 3.9.0-rc3 FetchSession.scala.

mod support;

use odradek::model::TopicId;
use odradek::protocol::messages::delete_topics::DeleteTopicsRequest;
use odradek::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use support::client::Client;
use support::{Cluster, Kind, PATIENCE, eventually};

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const UNKNOWN_TOPIC_ID: i16 = 100;
const INCONSISTENT_TOPIC_ID: i16 = 103;

/// A fetch over partition 0 of topics by their ids.
fn by_ids(session_id: i32, session_epoch: i32, ids: &[TopicId]) -> FetchRequest {
    let asked = || FetchPartition { partition_max_bytes: 1 << 20, ..Default::default() };
    let topic = |&topic_id: &TopicId| FetchTopic { topic_id, partitions: vec![asked()], ..Default::default() };
    FetchRequest {
        max_wait_ms: 0,
        max_bytes: 1 << 20,
        session_id,
        session_epoch,
        topics: ids.iter().map(topic).collect(),
        ..Default::default()
    }
}

fn topic_id(client: &mut Client, topic: &str) -> TopicId {
    let metadata = client.metadata(&[topic]).expect("the broker answers");
    assert_eq!(metadata.topics[0].error_code, 0);
    // The id came with version 10 of Metadata, one later than what the client speaks.
    let request = odradek::protocol::messages::metadata::MetadataRequest {
        topics: Some(vec![odradek::protocol::messages::metadata::MetadataRequestTopic {
            name: Some(topic.to_owned()),
            ..Default::default()
        }]),
        ..Default::default()
    };
    client.call(&request, 10).expect("the broker answers").topics[0].topic_id
}

#[test]
fn a_session_keeps_the_topic_that_it_knew_when_another_takes_its_name() {
    let cluster = Cluster::start("fetch-session-ids", "");
    let mut client = cluster.broker.client();
    client.create_topic("t", 1, &[]);
    let id = topic_id(&mut client, "t");
    for version in 13..=17 {
        let stranger = client.call(&by_ids(0, 0, &[TopicId([7; 16])]), version).expect("answered");
        assert_eq!(stranger.responses[0].partitions[0].error_code, UNKNOWN_TOPIC_ID, "version {version}");
    }
    let opened = client.call(&by_ids(0, 0, &[id]), 13).expect("answered");
    assert_eq!((opened.error_code, opened.responses[0].partitions[0].error_code), (0, 0));
    assert_ne!(opened.session_id, 0);
    let mut epoch = 0;
    let mut error = |client: &mut Client| {
        epoch += 1;
        let answer = client.call(&by_ids(opened.session_id, epoch, &[]), 13).expect("answered");
        assert_eq!(answer.error_code, 0);
        answer.responses.first().map_or(0, |topic| {
            assert_eq!(topic.topic_id, id);
            topic.partitions[0].error_code
        })
    };
    assert_eq!(error(&mut client), 0);
    let deletion = DeleteTopicsRequest { topic_names: vec!["t".to_owned()], timeout_ms: 30_000, ..Default::default() };
    assert_eq!(client.call(&deletion, 4).expect("answered").responses[0].error_code, 0);
    eventually(PATIENCE, "the session hears that the topic is gone", || match error(&mut client) {
        UNKNOWN_TOPIC_OR_PARTITION => Ok(()),
        other => Err(format!("error {other}")),
    });
    eventually(PATIENCE, "the name is free again", || match client.try_create_topic("t", 1, &[]) {
        Ok(0) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    client.until_led("t", 1);
    assert_ne!(topic_id(&mut client, "t"), id);
    eventually(PATIENCE, "the session hears that the topic is another", || match error(&mut client) {
        INCONSISTENT_TOPIC_ID => Ok(()),
        UNKNOWN_TOPIC_ID => panic!("the session forgot the name"),
        other => Err(format!("error {other}")),
    });
    assert_eq!(error(&mut client), INCONSISTENT_TOPIC_ID, "told each time");
}

#[test]
fn sessions_over_partitions_that_nobody_has_cost_what_their_limit_allows() {
    if Kind::under_test() != Kind::Odradek {
        return; // A JVM broker keeps them all.
    }
    let mut cluster = Cluster::start("fetch-session-memory", "");
    let partitions: Vec<FetchPartition> =
        (0..100_000).map(|partition| FetchPartition { partition, ..Default::default() }).collect();
    // The first answers show what it takes to make them, which the allocator keeps.
    let mut before = 0;
    for number in 0..40 {
        if number == 20 {
            before = cluster.broker.process().memory_kib("VmRSS");
        }
        let topics = vec![FetchTopic {
            topic: format!("nobody-{number}"),
            partitions: partitions.clone(),
            ..Default::default()
        }];
        let request = FetchRequest { max_wait_ms: 0, max_bytes: 1 << 20, topics, ..Default::default() };
        let mut client = cluster.broker.client();
        let answer = client.call(&request, 12).expect("answered");
        assert_eq!(answer.responses[0].partitions.len(), partitions.len());
    }
    let grown = cluster.broker.process().memory_kib("VmRSS").saturating_sub(before);
    assert!(grown < 300 << 10, "{grown} KiB for 20 more sessions of 100,000 partitions");
    let said = cluster.broker.process().said();
    assert!(said.contains("Fetch sessions: 1000 (max.incremental.fetch.session.cache.slots) with 200000 partitions"));
}
