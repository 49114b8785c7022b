//! Three brokers, of which two follow what the third leads: what is acknowledged with acks=all outlives any one of them.
#![cfg(target_os = "linux")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use odradek::protocol::messages::produce::ProduceRequest;
use odradek::record::compression::Codec;
use support::client::{Client, batch, invalid, outcome, produce_request, values};
use support::{Brokers, Kind, PATIENCE, eventually};

const TOPIC: &str = "orders";

/// Sends one batch to the partition's leader, wherever that is by now, until it is acknowledged by all in-sync replicas.
fn produce_acknowledged(cluster: &Brokers, partition: i32, records: impl Fn() -> bytes::Bytes) -> i64 {
    eventually(PATIENCE, "a produce is acknowledged", || {
        let leader = cluster.until_partition(TOPIC, partition, "has a leader", |_| true).leader_id;
        let sent = Client::connect(cluster.brokers[leader as usize].port)
            .and_then(|mut client| client.produce(TOPIC, partition, records()))
            .map_err(|error| error.to_string())?;
        sent.map_err(|code| format!("error {code}"))
    })
}

fn lines(name: &str, from: usize, count: usize, bytes: usize) -> bytes::Bytes {
    let filler = "x".repeat(bytes);
    batch(Codec::None, (from..from + count).map(|number| format!("{name} {number} {filler}")))
}

/// The segments of a partition with what is in them, as far as they are no longer than `bytes`.
fn segments(data: &Path, partition: i32) -> BTreeMap<String, Vec<u8>> {
    let dir = data.join(format!("{TOPIC}-{partition}"));
    let files = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    files
        .filter_map(|file| file.ok())
        .map(|file| (file.file_name().to_string_lossy().into_owned(), file.path()))
        .filter(|(name, _)| name.ends_with(".log"))
        .map(|(name, path)| (name, fs::read(path).expect("readable")))
        .collect()
}

fn until_same_segments(cluster: &Brokers, partition: i32, ids: &[usize]) {
    eventually(PATIENCE, "all replicas have the same segments", || {
        let first = segments(&cluster.brokers[ids[0]].data, partition);
        for &id in &ids[1..] {
            let other = segments(&cluster.brokers[id].data, partition);
            if other != first {
                let sizes = |segments: &BTreeMap<String, Vec<u8>>| -> Vec<(String, usize)> {
                    segments.iter().map(|(name, bytes)| (name.clone(), bytes.len())).collect()
                };
                return Err(format!("broker {}: {:?}, broker {id}: {:?}", ids[0], sizes(&first), sizes(&other)));
            }
        }
        if first.values().all(Vec::is_empty) { Err("they are empty".to_owned()) } else { Ok(()) }
    });
}

#[test]
fn what_is_acknowledged_by_all_outlives_the_leader_and_every_replica_has_the_same_bytes() {
    let settings = "min.insync.replicas=2\nreplica.fetch.backoff.ms=200\nlog.segment.bytes=20000";
    let mut cluster = Brokers::start("replication", 3, settings);
    cluster.client(0).create_replicated_topic(TOPIC, 1, 3, &[]);
    let mut sent = 0;
    let mut expected = Vec::new();
    let mut produce = |cluster: &Brokers, count: usize, bytes: usize| {
        produce_acknowledged(cluster, 0, || lines("line", sent, count, bytes));
        expected.extend((sent..sent + count).map(|number| format!("line {number} {}", "x".repeat(bytes))));
        sent += count;
        expected.clone()
    };
    for size in [1, 1000, 5, 3000, 100, 10] {
        produce(&cluster, 3, size);
    }
    until_same_segments(&cluster, 0, &[0, 1, 2]);

    let before = cluster.until_partition(TOPIC, 0, "all are in sync", |partition| partition.isr_nodes.len() == 3);
    let leader = before.leader_id as usize;
    cluster.brokers[leader].kill();
    let after = cluster.until_partition(TOPIC, 0, "another leads", |partition| partition.leader_id != before.leader_id);
    let written = produce(&cluster, 4, 50);
    let read = cluster.client(after.leader_id).read_all(TOPIC, 0, 0).expect("the new leader answers");
    assert_eq!(values(&read), written);

    // Back again, it catches up.
    cluster.start_broker(leader, Kind::under_test());
    produce(&cluster, 2, 2000);
    until_same_segments(&cluster, 0, &[0, 1, 2]);
}

/// Records that only a dead leader has, and that nobody was promised, are gone when it comes back.
#[test]
fn a_follower_whose_log_parted_from_its_leaders_truncates() {
    let settings = "replica.fetch.backoff.ms=200\nreplica.lag.time.max.ms=30000";
    let mut cluster = Brokers::start("diverged", 3, settings);
    cluster.client(0).create_replicated_topic(TOPIC, 1, 3, &[]);
    produce_acknowledged(&cluster, 0, || lines("kept", 0, 5, 10));
    let before = cluster.until_partition(TOPIC, 0, "all are in sync", |partition| partition.isr_nodes.len() == 3);
    let leader = before.leader_id as usize;
    // The followers are gone before it takes what it acknowledges alone, and nobody hears of that before it is gone too.
    let followers: Vec<usize> = (0..3).filter(|id| *id != leader).collect();
    let mut client = cluster.client(before.leader_id);
    followers.iter().for_each(|&id| cluster.brokers[id].kill());
    let lost = produce_request(TOPIC, 0, lines("lost", 0, 7, 10), 1);
    let id = client.send(&lost, 8).expect("the leader reads");
    let response = client.receive::<ProduceRequest>(8, id);
    assert_eq!(outcome(&response.expect("acks=1 waits for nobody")), Ok(5));
    cluster.brokers[leader].kill();
    followers.iter().for_each(|&id| cluster.start_broker(id, Kind::under_test()));
    cluster.until_partition(TOPIC, 0, "another leads", |partition| partition.leader_id != before.leader_id);
    produce_acknowledged(&cluster, 0, || lines("new", 0, 2, 10));
    cluster.start_broker(leader, Kind::under_test());
    until_same_segments(&cluster, 0, &[0, 1, 2]);
    let now = cluster.until_partition(TOPIC, 0, "is led", |_| true);
    let read = cluster.client(now.leader_id).read_all(TOPIC, 0, 0).map_err(invalid).expect("the leader answers");
    assert!(values(&read).iter().all(|value| !value.starts_with("lost")), "{:?}", values(&read));
    assert_eq!(read.len(), 7);
}

/// A group's offsets are in a partition like any other: whoever leads it next coordinates the group.
#[test]
fn a_group_coordinator_moves_with_its_partition() {
    let mut cluster = Brokers::start("coordinator", 3, "offsets.topic.num.partitions=1\nreplica.fetch.backoff.ms=200");
    cluster.client(0).create_replicated_topic(TOPIC, 1, 3, &[]);
    produce_acknowledged(&cluster, 0, || lines("line", 0, 5, 10));
    cluster.client(0).until_coordinated("group");
    let before =
        cluster.until_partition("__consumer_offsets", 0, "all are in sync", |partition| partition.isr_nodes.len() == 3);
    cluster.client(before.leader_id).commit("group", TOPIC, 0, 3);
    cluster.brokers[before.leader_id as usize].kill();
    let after =
        cluster.until_partition("__consumer_offsets", 0, "another leads", |now| now.leader_id != before.leader_id);
    assert_eq!(cluster.client(after.leader_id).committed("group", TOPIC, 0), 3);
    cluster.client(after.leader_id).commit("group", TOPIC, 0, 4);
    assert_eq!(cluster.client(after.leader_id).committed("group", TOPIC, 0), 4);
}
