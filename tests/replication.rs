//! Three brokers, of which two follow what the third leads: what is acknowledged with acks=all outlives any one of them.
#![cfg(target_os = "linux")]

mod support;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use odradek::protocol::messages::api_versions::ApiVersionsRequest;
use odradek::protocol::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use odradek::protocol::messages::produce::ProduceRequest;
use odradek::record::build::BatchBuilder;
use rustix::process::Signal;
use support::client::{Client, TIMESTAMP, invalid, outcome, produce_request, values};
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
    let mut builder = BatchBuilder::new();
    for number in from..from + count {
        // No headers: old formats have no place for them.
        builder.append(TIMESTAMP, Some(b"key"), Some(format!("{name} {number} {filler}").as_bytes()), &[]);
    }
    builder.build()
}

/// The segments of a partition with what is in them.
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
    outlives_its_leader("");
}

/// Followers ask for the end of an epoch before they truncate.
#[test]
fn so_it_does_in_the_protocol_of_2_6() {
    outlives_its_leader("inter.broker.protocol.version=2.6\n");
}

/// There are no epochs, and no sessions: followers truncate to the high watermark, and name all partitions each time.
#[test]
fn so_it_does_in_the_protocol_of_0_10_2() {
    outlives_its_leader("inter.broker.protocol.version=0.10.2\nlog.message.format.version=0.10.2\n");
}

fn outlives_its_leader(protocol: &str) {
    let settings = format!("{protocol}min.insync.replicas=2\nreplica.fetch.backoff.ms=200\nlog.segment.bytes=20000");
    let mut cluster = Brokers::start("replication", 3, &settings);
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
    cluster.until_partition(TOPIC, 0, "all are in sync again", |partition| partition.isr_nodes.len() == 3);
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

#[test]
fn hundreds_of_partitions_go_to_other_fetchers_while_they_replicate() {
    let mut cluster = Brokers::start("fetchers", 3, "replica.fetch.backoff.ms=200");
    cluster.client(0).create_replicated_topic(TOPIC, 300, 3, &[]);
    let spread = [0, 1, 2, 150, 298, 299];
    let produce_to_all = |cluster: &Brokers, name: &str| {
        for partition in spread {
            produce_acknowledged(cluster, partition, || lines(name, 0, 3, 50));
        }
    };
    produce_to_all(&cluster, "one fetcher");
    let resize = |cluster: &Brokers, setting: &str, what: &str| {
        let addresses = cluster.addresses();
        let arguments = ["--bootstrap-server", &addresses, "--alter", "--entity-type", "brokers", "--entity-default"];
        let arguments = [&arguments[..], &["--add-config", setting]].concat();
        cluster.script("kafka-configs.sh", &arguments, "").unwrap_or_else(|said| panic!("{setting}: {said}"));
        for id in 0..3 {
            let said = || cluster.brokers[id].process.as_ref().map(|process| process.said()).unwrap_or_default();
            eventually(PATIENCE, &format!("broker {id}: {what}"), || {
                let of_each_leader = said().matches(what).count();
                if of_each_leader >= 2 { Ok(()) } else { Err(format!("{of_each_leader} times")) }
            });
        }
    };
    resize(&cluster, "num.replica.fetchers=2", "fetcherId=1] Starting");
    produce_to_all(&cluster, "two fetchers");
    resize(&cluster, "num.replica.fetchers=1", "fetcherId=1] Stopped");
    produce_to_all(&cluster, "one fetcher again");
    spread.iter().for_each(|partition| until_same_segments(&cluster, *partition, &[0, 1, 2]));
    for broker in &mut cluster.brokers {
        assert!(broker.stop().success(), "broker {} ends in order while it follows", broker.id);
    }
}

/// Whoever leads, JVM broker or ours, whoever follows: all have the same bytes.
#[test]
fn a_jvm_broker_and_ours_follow_each_other() {
    follow_each_other("3.9.1", "");
}

#[test]
fn so_do_a_jvm_broker_of_2_8_and_ours() {
    follow_each_other("2.8.2", "inter.broker.protocol.version=2.8\n");
}

fn follow_each_other(version: &'static str, protocol: &str) {
    let kinds = [Kind::Jvm(version), Kind::Odradek, Kind::Odradek];
    let mut cluster = Brokers::start_as("with-jvm", &kinds, &format!("{protocol}replica.fetch.backoff.ms=200"));
    // The first that started is the controller.
    cluster.client(0).create_replicated_topic(TOPIC, 3, 3, &[]);
    let leader_of = |cluster: &Brokers, partition: i32| {
        cluster.until_partition(TOPIC, partition, "all are in sync", |found| found.isr_nodes.len() == 3).leader_id
    };
    let mut leaders: Vec<i32> = (0..3).map(|partition| leader_of(&cluster, partition)).collect();
    leaders.sort_unstable();
    assert_eq!(leaders, [0, 1, 2], "each leads one");
    for partition in 0..3 {
        for round in 0..5 {
            produce_acknowledged(&cluster, partition, || lines("line", round, 4, 300));
        }
        until_same_segments(&cluster, partition, &[0, 1, 2]);
    }
    cluster.brokers[0].kill();
    for partition in 0..3 {
        cluster.until_partition(TOPIC, partition, "one of ours leads", |found| found.leader_id > 0);
        produce_acknowledged(&cluster, partition, || lines("more", 0, 4, 300));
    }
    cluster.start_broker(0, kinds[0]);
    (0..3).for_each(|partition| until_same_segments(&cluster, partition, &[0, 1, 2]));
}

/// Numbers its batches and sends them one after the other, each until it is acknowledged by all in-sync replicas, wherever
/// the leader is. Gives the numbers that were acknowledged, and counts them meanwhile.
fn produce_until(stopped: &AtomicBool, count: &AtomicUsize, ports: &[u16]) -> Vec<usize> {
    let mut acknowledged = Vec::new();
    let mut clients: HashMap<u16, Client> = HashMap::new();
    let mut number = 0;
    let mut leader = ports[0];
    while !stopped.load(Ordering::Relaxed) {
        let client = match clients.entry(leader) {
            Entry::Occupied(client) => Ok(client.into_mut()),
            Entry::Vacant(place) => Client::connect(leader).map(|client| place.insert(client)),
        };
        match client.and_then(|client| client.produce(TOPIC, 0, lines("number", number, 1, 100))) {
            Ok(Ok(_)) => {
                acknowledged.push(number);
                count.store(acknowledged.len(), Ordering::Relaxed);
                number += 1;
            }
            refused => {
                // What was sent may be in the log all the same, and comes again.
                if refused.is_err() {
                    clients.remove(&leader);
                }
                let at = ports.iter().position(|port| *port == leader).unwrap_or(0);
                leader = ports[(at + 1) % ports.len()];
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
    acknowledged
}

#[test]
fn nothing_that_was_acknowledged_is_lost_while_one_broker_after_the_other_is_killed() {
    let settings = "min.insync.replicas=2\nreplica.fetch.backoff.ms=200\nlog.segment.bytes=20000";
    let mut cluster = Brokers::start("killed-in-turn", 3, settings);
    cluster.client(0).create_replicated_topic(TOPIC, 1, 3, &[]);
    let ports: Vec<u16> = cluster.brokers.iter().map(|broker| broker.port).collect();
    let (stopped, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let acknowledged = std::thread::scope(|scope| {
        let producer = scope.spawn(|| produce_until(&stopped, &count, &ports));
        let all_in_sync = |cluster: &Brokers| {
            cluster.until_partition(TOPIC, 0, "all are in sync", |partition| partition.isr_nodes.len() == 3).leader_id
        };
        // The leader each time, which comes back as a follower.
        for round in 1..=4 {
            eventually(PATIENCE, "the producer goes on", || match count.load(Ordering::Relaxed) {
                count if count >= round * 50 => Ok(()),
                count => Err(format!("{count} were acknowledged by round {round}")),
            });
            let leader = all_in_sync(&cluster);
            cluster.brokers[leader as usize].kill();
            cluster.until_partition(TOPIC, 0, "another leads", |partition| partition.leader_id != leader);
            cluster.start_broker(leader as usize, Kind::under_test());
        }
        all_in_sync(&cluster);
        stopped.store(true, Ordering::Relaxed);
        producer.join().expect("the producer does not panic")
    });
    until_same_segments(&cluster, 0, &[0, 1, 2]);
    let leader = cluster.until_partition(TOPIC, 0, "is led", |_| true).leader_id;
    let read = cluster.client(leader).read_all(TOPIC, 0, 0).expect("the leader answers");
    let numbers: Vec<usize> = values(&read)
        .iter()
        .map(|value| value.split(' ').nth(1).and_then(|number| number.parse().ok()).expect("a number"))
        .collect();
    let held: HashSet<usize> = numbers.iter().copied().collect();
    let lost: Vec<&usize> = acknowledged.iter().filter(|number| !held.contains(number)).collect();
    assert!(lost.is_empty(), "of {} acknowledged, these are lost: {lost:?}", acknowledged.len());
    assert!(numbers.is_sorted(), "each comes after those acknowledged before it");
}

/// A leader that hangs keeps its connections, so its followers wait for its answers; they follow the next all the same.
#[test]
fn a_leader_that_hangs_is_replaced_and_follows_when_it_goes_on() {
    let mut cluster = Brokers::start("hung", 3, "min.insync.replicas=2\nreplica.fetch.backoff.ms=200");
    cluster.client(0).create_replicated_topic(TOPIC, 1, 3, &[]);
    produce_acknowledged(&cluster, 0, || lines("before", 0, 5, 100));
    let before = cluster.until_partition(TOPIC, 0, "all are in sync", |partition| partition.isr_nodes.len() == 3);
    let leader = before.leader_id as usize;
    let hung = cluster.brokers[leader].process.take().expect("it runs");
    hung.signal(Signal::STOP);
    cluster.until_partition(TOPIC, 0, "another leads", |partition| partition.leader_id != before.leader_id);
    for round in 0..5 {
        produce_acknowledged(&cluster, 0, || lines("meanwhile", round, 5, 100));
    }
    hung.signal(Signal::CONT);
    cluster.brokers[leader].process = Some(hung);
    cluster.until_all_know(&[0, 1, 2]);
    produce_acknowledged(&cluster, 0, || lines("after", 0, 5, 100));
    until_same_segments(&cluster, 0, &[0, 1, 2]);
    cluster.until_partition(TOPIC, 0, "all are in sync again", |partition| partition.isr_nodes.len() == 3);
}

/// Some clients would take their topics for deleted, and fail what they have to send.
#[test]
fn a_broker_that_has_just_started_tells_of_topics_once_it_has_been_told_of_them() {
    let mut cluster = Brokers::start("untold", 2, "");
    cluster.client(0).create_replicated_topic(TOPIC, 1, 2, &[]);
    let controller = cluster.client(0).metadata(&[]).expect("metadata").controller_id;
    let started = usize::from(controller == 0);
    cluster.brokers[started].stop();
    let controller = usize::try_from(controller).expect("there is one");
    cluster.brokers[controller].process().signal(Signal::STOP);
    let mut process = cluster.brokers[started].spawn(Kind::under_test(), &cluster.scratch);
    let port = cluster.brokers[started].port;
    process.until_port(port);
    let asked = std::thread::spawn(move || Client::connect(port).expect("it listens").metadata(&[TOPIC]));
    // By when the other has been asked too.
    Client::connect(port).expect("it listens").call(&ApiVersionsRequest::default(), 0).expect("it is answered");
    cluster.brokers[controller].process().signal(Signal::CONT);
    let told = asked.join().expect("it does not panic").expect("it is answered");
    assert_eq!(told.topics[0].error_code, 0, "{told:?}");
}

/// A new controller tells of the live brokers first, and of topics once these have been told to lead and follow.
#[test]
fn a_cluster_that_has_just_started_tells_of_topics_once_it_has_been_told_of_them() {
    const PARTITIONS: i32 = 100;
    let mut cluster = Brokers::start("untold-by-anyone", 1, "");
    cluster.client(0).create_replicated_topic(TOPIC, PARTITIONS, 1, &[]);
    cluster.brokers[0].stop();
    let mut process = cluster.brokers[0].spawn(Kind::under_test(), &cluster.scratch);
    process.until_port(cluster.brokers[0].port);
    let told = cluster.client(0).metadata(&[TOPIC]).expect("it is answered");
    assert_eq!((told.topics[0].error_code, told.topics[0].partitions.len()), (0, PARTITIONS as usize), "{told:?}");
}

/// The leader's log may start in the middle of a batch: who comes with nothing starts with all of that batch.
#[test]
fn a_replica_that_lost_its_disk_starts_where_the_leaders_log_does() {
    let mut cluster = Brokers::start("lost-disk", 3, "replica.fetch.backoff.ms=200");
    cluster.client(0).create_replicated_topic(TOPIC, 1, 3, &[]);
    (0..3).for_each(|batch| {
        assert_eq!(produce_acknowledged(&cluster, 0, || lines("line", batch, 10, 10)), batch as i64 * 10)
    });
    let found = cluster.until_partition(TOPIC, 0, "all are in sync", |partition| partition.isr_nodes.len() == 3);
    let partition = DeleteRecordsPartition { partition_index: 0, offset: 15 };
    let topics = vec![DeleteRecordsTopic { name: TOPIC.to_owned(), partitions: vec![partition] }];
    let request = DeleteRecordsRequest { topics, timeout_ms: 30_000 };
    let deleted = cluster.client(found.leader_id).call(&request, 1).expect("the leader answers");
    let deleted = &deleted.topics[0].partitions[0];
    assert_eq!((deleted.error_code, deleted.low_watermark), (0, 15), "all replicas have deleted them");

    let leader = found.leader_id as usize;
    let follower = (leader + 1) % 3;
    cluster.brokers[follower].kill();
    fs::remove_dir_all(&cluster.brokers[follower].data).expect("its disk is ours");
    cluster.start_broker(follower, Kind::under_test());
    // The ISR may not have changed meanwhile: what is to be seen are the records.
    let data = &cluster.brokers[follower].data;
    let (name, begun) = eventually(PATIENCE, "it has records again", || {
        let is_there = data.join(format!("{TOPIC}-0")).exists();
        let begun = is_there.then(|| segments(data, 0)).and_then(|segments| segments.into_iter().next());
        begun.filter(|(_, bytes)| !bytes.is_empty()).ok_or_else(|| "it has none".to_owned())
    });
    let whole = segments(&cluster.brokers[leader].data, 0);
    let whole = whole.values().next().expect("the leader has a segment");
    assert_eq!(name, "00000000000000000010.log");
    assert!(whole.ends_with(&begun), "the batches from that offset on are the leader's");
}

#[test]
fn a_throttled_move_takes_the_time_that_its_rate_gives_it() {
    let cluster = Brokers::start("throttled", 2, "replica.fetch.backoff.ms=100");
    cluster.client(0).create_replicated_topic(TOPIC, 1, 1, &[]);
    let from = cluster.until_partition(TOPIC, 0, "is led", |_| true).leader_id;
    // Six megabytes and more.
    for batch in 0..7 {
        produce_acknowledged(&cluster, 0, || lines("line", batch, 90, 10_000));
    }
    let to = 1 - from;
    let json = format!(r#"{{"version":1,"partitions":[{{"topic":"{TOPIC}","partition":0,"replicas":[{to}]}}]}}"#);
    let file = cluster.scratch.path("move.json");
    fs::write(&file, json).expect("the scratch directory can be written");
    let (addresses, file) = (cluster.addresses(), file.display().to_string());
    let reassign = |more: &[&str]| {
        let arguments = ["--bootstrap-server", &addresses, "--reassignment-json-file", &file];
        cluster
            .script("kafka-reassign-partitions.sh", &[&arguments[..], more].concat(), "")
            .expect("the tool ends well")
    };
    let began = Instant::now();
    reassign(&["--execute", "--throttle", "1000000"]);
    cluster.until_partition(TOPIC, 0, "it has moved", |found| found.leader_id == to && found.isr_nodes == [to]);
    assert!(began.elapsed() > Duration::from_secs(4), "6 MB at 1 MB a second took {:?}", began.elapsed());
    let said = reassign(&["--verify"]);
    assert!(said.contains("Clearing broker-level throttles"), "{said}");
    assert_eq!(cluster.client(to).read_all(TOPIC, 0, 0).expect("it leads").len(), 7 * 90);
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
