//! The broker works on every release of ZooKeeper that Kafka's users run, from 3.4 on, without being told which.

mod support;

use std::time::Duration;

use odradek::protocol::messages::delete_topics::DeleteTopicsRequest;
use odradek::record::compression::Codec;
use support::client::{Client, batch, values};
use support::{Cluster, Kind, PATIENCE, eventually};

const PARTITIONS: i32 = 600;

fn deleted(client: &mut Client, topic: &str) {
    let request = DeleteTopicsRequest {
        topic_names: vec![topic.to_owned()],
        timeout_ms: 30_000,
        ..DeleteTopicsRequest::default()
    };
    let response = client.call(&request, 3).expect("the broker answers DeleteTopics");
    assert_eq!(response.responses[0].error_code, 0);
    eventually(PATIENCE, &format!("{topic} is gone"), || {
        let metadata = client.metadata(&[topic]).map_err(|error| error.to_string())?;
        if metadata.topics[0].error_code == 3 { Ok(()) } else { Err(format!("{:?}", metadata.topics[0].error_code)) }
    });
}

fn topics_live_and_die_on(release: &'static str, name: &str) {
    let mut cluster = Cluster::start_on(release, Kind::under_test(), name, "");
    let mut client = cluster.broker.client();
    client.create_topic("kept", 1, &[("max.message.bytes", "1000")]);
    client.create_topic("wide", PARTITIONS, &[]);
    let outcome = client.produce("kept", 0, batch(Codec::None, ["first".to_owned()]));
    assert_eq!(outcome.expect("the produce is answered"), Ok(0));
    deleted(&mut client, "wide");
    // Its name is free once the last of its znodes is gone.
    eventually(PATIENCE, "it can be created again", || {
        match client.try_create_topic("wide", PARTITIONS, &[]).map_err(|error| error.to_string())? {
            0 => Ok(()),
            code => Err(format!("error {code}")),
        }
    });
    client.until_led("wide", PARTITIONS);

    // Longer than the session: it registers anew, and is elected anew.
    let Cluster { zookeeper, scratch, .. } = &mut cluster;
    zookeeper.process.kill();
    zookeeper.restart(scratch, Duration::from_secs(5));
    eventually(PATIENCE, "a topic can be created", || {
        let mut client = cluster.broker.client();
        match client.try_create_topic("behind", 2, &[]).map_err(|error| error.to_string())? {
            0 | 36 => Ok(()),
            code => Err(format!("error {code}")),
        }
    });
    cluster.broker.client().until_led("behind", 2);

    cluster.broker.stop();
    cluster.start_broker(Kind::under_test());
    let mut client = cluster.broker.client();
    client.until_led("wide", PARTITIONS);
    let read = client.read_all("kept", 0, 0).expect("the fetch is answered");
    assert_eq!(values(&read), ["first"]);
    let refused = client.produce("kept", 0, batch(Codec::None, ["x".repeat(2000)]));
    assert_eq!(refused.expect("the produce is answered"), Err(10), "its settings are in force");
    assert_eq!(cluster.broker.stop().code().unwrap_or(143) % 143, 0);
}

#[test]
fn topics_live_and_die_on_the_oldest_zookeeper() {
    topics_live_and_die_on("zookeeper-3.4.14", "oldest");
}

#[test]
fn topics_live_and_die_on_the_newest_zookeeper() {
    topics_live_and_die_on("zookeeper-3.9.5", "newest");
}
