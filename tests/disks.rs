//! Promise: a full disk or a want of descriptors costs what was asked, and not the broker.
//!
//! Each test runs itself again in a mount namespace, in which it may mount a small file system and lower limits; all of it
//! goes with the process.

mod support;

use std::ffi::CStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use odradek::model::clock::wall_clock_ms;
use odradek::protocol::messages::create_topics::{CreatableReplicaAssignment, CreatableTopic, CreateTopicsRequest};
use odradek::record::build::BatchBuilder;
use odradek::record::compression::Codec;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Resource, Rlimit, getuid, setrlimit};
use support::client::{Client, batch};
use support::{Broker, Brokers, Cluster, Kind, PATIENCE, Scratch, ZooKeeper, eventually};

const DISK_BYTES: u64 = 8 << 20;
const KAFKA_STORAGE_ERROR: i16 = 56;
const INSIDE: &str = "ODRADEK_TEST_IN_NAMESPACE";

/// True inside; outside it runs the test inside and passes on what came of it.
fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !getuid().is_root() {
        command.arg("--map-root-user");
    }
    command.arg(std::env::current_exe().expect("a test knows its program"));
    let status = command.args(["--exact", test, "--nocapture"]).env(INSIDE, "1").status();
    let status = status.expect("unshare (util-linux) can be started");
    assert!(status.success(), "{test} in a mount namespace of its own (unshare --mount): {status}");
    false
}

fn mount_small_disk(at: &Path) {
    fs::create_dir(at).expect("the scratch directory can be written");
    let options = std::ffi::CString::new(format!("size={DISK_BYTES}")).expect("no zero");
    let options: &CStr = &options;
    mount("tmpfs", at, "tmpfs", MountFlags::empty(), options).expect("a tmpfs can be mounted");
}

/// The directory can be removed then, with all that is around it.
fn unmount_small_disk(at: &Path) {
    unmount(at, UnmountFlags::DETACH).expect("it was mounted");
}

/// A cluster whose broker keeps its logs on a small disk.
fn on_a_small_disk(name: &str, settings: &str) -> Cluster {
    let scratch = Scratch::new(name);
    let zookeeper = ZooKeeper::start(&scratch);
    let mut broker = Broker::configure(&scratch, zookeeper.port, settings);
    mount_small_disk(&broker.data);
    broker.start(Kind::under_test(), &scratch);
    Cluster { broker, zookeeper, scratch }
}

/// Appends until the disk is full, in batches of this size, and gives how many it took.
fn fill(client: &mut Client, topic: &str, value_bytes: usize) -> i64 {
    let mut appended = 0;
    loop {
        match client.produce(topic, 0, batch(Codec::None, ["x".repeat(value_bytes)])).expect("Produce is answered") {
            Ok(offset) => assert_eq!(offset, appended),
            Err(error) => {
                assert_eq!(error, KAFKA_STORAGE_ERROR);
                return appended;
            }
        }
        appended += 1;
    }
}

#[test]
fn on_a_full_disk_a_broker_starts_after_a_crash_serves_reads_and_deletes_and_goes_on_when_there_is_room() {
    if !is_inside(
        "on_a_full_disk_a_broker_starts_after_a_crash_serves_reads_and_deletes_and_goes_on_when_there_is_room",
    ) {
        return;
    }
    let mut cluster = on_a_small_disk("full-disk", "log.segment.delete.delay.ms=0");
    let mut client = cluster.broker.client();
    client.create_topic("t", 1, &[]);
    client.create_topic("other", 1, &[]);
    // With a producer's state, so that recovery has a snapshot to write.
    client.produce("other", 0, batch(Codec::None, ["kept".to_owned()])).expect("answered").expect("appended");
    let mut appended = fill(&mut client, "t", 100_000);
    // Down to the last bytes.
    for value_bytes in [10_000, 1000, 10] {
        while client.produce("t", 0, batch(Codec::None, ["x".repeat(value_bytes)])).expect("answered").is_ok() {
            appended += 1;
        }
    }
    let filler = cluster.broker.data.join("filler");
    let _ = fs::write(&filler, vec![0; 1 << 20]);
    for _ in 0..2 {
        cluster.broker.kill();
        cluster.start_broker(Kind::under_test());
        let mut client = cluster.broker.client();
        client.until_led("t", 1);
        client.until_led("other", 1);
        assert_eq!(client.read_all("t", 0, 0).expect("reads are served").len() as i64, appended);
        assert_eq!(client.read_all("other", 0, 0).expect("reads are served").len(), 1);
        let refused = client.produce("t", 0, batch(Codec::None, ["y".repeat(100_000)])).expect("Produce is answered");
        assert_eq!(refused, Err(KAFKA_STORAGE_ERROR));
    }
    fs::remove_file(&filler).expect("removable");
    let mut client = cluster.broker.client();
    let offset = client.produce("other", 0, batch(Codec::None, ["more".to_owned()])).expect("Produce is answered");
    assert_eq!(offset, Ok(1), "there is room again");
    assert!(cluster.broker.stop().success());
    unmount_small_disk(&cluster.broker.data);
}

#[test]
fn a_topic_that_is_created_on_a_full_disk_is_led_once_there_is_room() {
    if !is_inside("a_topic_that_is_created_on_a_full_disk_is_led_once_there_is_room") {
        return;
    }
    // Kafka's brokers give the directory up.
    let scratch = Scratch::new("refused");
    let zookeeper = ZooKeeper::start(&scratch);
    let mut broker = Broker::configure(&scratch, zookeeper.port, "");
    mount_small_disk(&broker.data);
    broker.start(Kind::Odradek, &scratch);
    let mut cluster = Cluster { broker, zookeeper, scratch };
    let mut client = cluster.broker.client();
    client.create_topic("before", 1, &[]);
    let filler = cluster.broker.data.join("filler");
    let full = fs::write(&filler, vec![0; DISK_BYTES as usize]);
    assert!(full.is_err(), "all of it is written");
    let topic = CreatableTopic { name: "t".to_owned(), num_partitions: 2, replication_factor: 1, ..Default::default() };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 1, ..Default::default() };
    client.call(&request, 4).expect("CreateTopics is answered");
    eventually(PATIENCE, "they are refused", || match cluster.broker.process().said() {
        said if (0..2).all(|number| said.contains(&format!("t-{number}: leader epoch 0 cannot be served"))) => Ok(()),
        _ => Err(cluster.broker.process().last_words()),
    });
    fs::remove_file(&filler).expect("removable");
    // Nobody may have heard yet that it was refused: it may be named the leader before it is.
    eventually(PATIENCE, "it leads", || {
        let sent = client.produce("t", 1, batch(Codec::None, ["x".to_owned()])).expect("Produce is answered");
        if sent == Ok(0) { Ok(()) } else { Err(format!("{sent:?}")) }
    });
    assert!(cluster.broker.stop().success());
    unmount_small_disk(&cluster.broker.data);
}

/// Which elects nobody when a replica is back: it waits to be asked.
#[test]
fn a_topic_that_is_created_on_a_full_disk_is_led_once_there_is_room_under_a_jvm_controller_too() {
    if !is_inside("a_topic_that_is_created_on_a_full_disk_is_led_once_there_is_room_under_a_jvm_controller_too") {
        return;
    }
    let scratch = Scratch::new("full-under-jvm");
    let zookeeper = ZooKeeper::start(&scratch);
    let settings = "auto.leader.rebalance.enable=false";
    let brokers: Vec<Broker> = (0..2).map(|id| Broker::configure_as(id, &scratch, zookeeper.port, settings)).collect();
    mount_small_disk(&brokers[1].data);
    let mut cluster = Brokers { brokers, zookeeper, scratch };
    for (id, kind) in [Kind::Jvm("3.9.1"), Kind::Odradek].into_iter().enumerate() {
        cluster.start_broker(id, kind);
    }
    cluster.until_all_know(&[0, 1]);
    let filler = cluster.brokers[1].data.join("filler");
    let full = fs::write(&filler, vec![0; DISK_BYTES as usize]);
    assert!(full.is_err(), "all of it is written");
    let assignment = |partition_index| CreatableReplicaAssignment { partition_index, broker_ids: vec![1] };
    let topic = CreatableTopic {
        name: "t".to_owned(),
        num_partitions: -1,
        replication_factor: -1,
        assignments: (0..2).map(assignment).collect(),
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 1, ..Default::default() };
    cluster.client(0).call(&request, 4).expect("CreateTopics is answered");
    eventually(PATIENCE, "they are refused", || match cluster.brokers[1].process().said() {
        said if (0..2).all(|number| said.contains(&format!("t-{number}: leader epoch 0 cannot be served"))) => Ok(()),
        _ => Err(cluster.brokers[1].process().last_words()),
    });
    fs::remove_file(&filler).expect("removable");
    let mut client = cluster.client(1);
    // Nobody may have heard yet that it was refused: it may be named the leader before it is.
    eventually(PATIENCE, "it leads", || {
        let sent = client.produce("t", 1, batch(Codec::None, ["x".to_owned()])).expect("Produce is answered");
        if sent == Ok(0) { Ok(()) } else { Err(format!("{sent:?}")) }
    });
    unmount_small_disk(&cluster.brokers[1].data);
}

#[test]
fn with_a_reserve_a_broker_without_room_for_producers_commits_compacts_and_administers_until_there_is_room() {
    if !is_inside(
        "with_a_reserve_a_broker_without_room_for_producers_commits_compacts_and_administers_until_there_is_room",
    ) {
        return;
    }
    let settings = format!(
        "log.dir.reserved.bytes={}\nlog.segment.delete.delay.ms=0\nlog.cleaner.backoff.ms=100\n\
         log.retention.check.interval.ms=200\nlog.initial.task.delay.ms=100",
        2 << 20
    );
    let mut cluster = on_a_small_disk("reserve", &settings);
    let mut client = cluster.broker.client();
    let small_segments = ("segment.bytes", "300000");
    client.create_topic("t", 1, &[small_segments]);
    client.create_topic("changelog", 1, &[small_segments, ("min.cleanable.dirty.ratio", "0.01")]);
    let mut values = BatchBuilder::new();
    values.append(wall_clock_ms(), Some(b"k"), Some(&vec![b'x'; 100_000]), &[]);
    let keyed = values.build();
    for offset in 0..20 {
        assert_eq!(client.produce("changelog", 0, keyed.clone()).expect("answered"), Ok(offset));
    }
    let appended = fill(&mut client, "t", 100_000);
    assert!(appended > 20, "the reserve is no more than it should be: {appended}");

    // What nobody may take from the reserve but coordinators and administrators.
    for offset in 0..500 {
        client.commit("readers", "t", 0, offset);
    }
    client.create_topic("new", 1, &[]);
    let refused = client.produce("new", 0, batch(Codec::None, ["x".repeat(100)])).expect("Produce is answered");
    assert_eq!(refused, Err(KAFKA_STORAGE_ERROR));
    cluster.broker.kill();
    cluster.start_broker(Kind::under_test());
    let mut client = cluster.broker.client();
    client.until_led("t", 1);
    assert_eq!(client.committed("readers", "t", 0), 499);
    assert_eq!(client.read_all("t", 0, 0).expect("reads are served").len() as i64, appended);

    // Nothing but compaction makes room, and producers get on by themselves.
    let address = cluster.broker.address();
    let compacted = "--alter --topic changelog --add-config cleanup.policy=compact";
    let arguments: Vec<&str> = ["--bootstrap-server", &address].into_iter().chain(compacted.split(' ')).collect();
    cluster.script("kafka-configs.sh", &arguments, "").expect("settings are changed");
    eventually(PATIENCE, "there is room", || {
        client
            .produce("t", 0, batch(Codec::None, ["x".repeat(100_000)]))
            .expect("Produce is answered")
            .map_err(|code| format!("error {code}"))
    });
    let said = cluster.broker.process().said();
    // In either life of the broker.
    for (words, times) in [("records are refused until there is room", 2), ("has room again", 1)] {
        assert_eq!(said.matches(words).count(), times, "{words}: {said}");
    }
    assert!(!said.contains("offline"), "{said}");
    assert!(cluster.broker.stop().success());
    unmount_small_disk(&cluster.broker.data);
}

#[test]
fn a_follower_on_a_full_disk_leaves_the_isr_and_is_back_once_there_is_room() {
    if !is_inside("a_follower_on_a_full_disk_leaves_the_isr_and_is_back_once_there_is_room") {
        return;
    }
    let scratch = Scratch::new("full-follower");
    let zookeeper = ZooKeeper::start(&scratch);
    let settings = "replica.lag.time.max.ms=2000\nreplica.fetch.backoff.ms=200";
    let brokers: Vec<Broker> = (0..2).map(|id| Broker::configure_as(id, &scratch, zookeeper.port, settings)).collect();
    mount_small_disk(&brokers[1].data);
    let filler = brokers[1].data.join("filler");
    fs::write(&filler, vec![0; (DISK_BYTES - (2 << 20)) as usize]).expect("there is room");
    let mut cluster = Brokers { brokers, zookeeper, scratch };
    for id in 0..2 {
        cluster.start_broker(id, Kind::under_test());
    }
    cluster.until_all_know(&[0, 1]);
    let mut client = cluster.client(0);
    let replicas = vec![CreatableReplicaAssignment { partition_index: 0, broker_ids: vec![0, 1] }];
    let topic = CreatableTopic {
        name: "t".to_owned(),
        num_partitions: -1,
        replication_factor: -1,
        assignments: replicas,
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, ..Default::default() };
    let response = client.call(&request, 4).expect("CreateTopics is answered");
    assert_eq!(response.topics[0].error_code, 0);
    cluster.until_partition("t", 0, "both are in sync", |found| found.leader_id == 0 && found.isr_nodes.len() == 2);
    client.until_led("t", 1);
    // With acks=all: each is acknowledged once the other has it, or is waited for no more.
    for offset in 0..40 {
        let sent = client.produce("t", 0, batch(Codec::None, ["x".repeat(100_000)])).expect("Produce is answered");
        assert_eq!(sent, Ok(offset));
    }
    cluster.until_partition("t", 0, "one is in sync", |found| found.isr_nodes == [0]);
    fs::remove_file(&filler).expect("removable");
    cluster.until_partition("t", 0, "both are in sync again", |found| found.isr_nodes.len() == 2);
    let of = |id: usize| fs::read(cluster.brokers[id].data.join("t-0/00000000000000000000.log")).expect("a segment");
    assert!(of(0) == of(1), "the segments are equal");
    let said = cluster.brokers[1].process().said();
    assert!(!said.contains("offline"), "{said}");
    assert!(said.lines().filter(|line| line.contains("No space left")).count() < 50, "{said}");
    unmount_small_disk(&cluster.brokers[1].data);
}

#[test]
fn partitions_that_find_no_descriptor_are_refused_and_the_others_served() {
    if !is_inside("partitions_that_find_no_descriptor_are_refused_and_the_others_served") {
        return;
    }
    const PARTITIONS: i32 = 300;
    let scratch = Scratch::new("descriptors");
    let zookeeper = ZooKeeper::start(&scratch);
    let mut broker = Broker::configure(&scratch, zookeeper.port, "");
    setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum: Some(256) }).expect("a limit can be lowered");
    broker.start(Kind::under_test(), &scratch);
    let mut cluster = Cluster { broker, zookeeper, scratch };
    let mut client = cluster.broker.client();
    // Partitions that nobody writes to need none.
    client.create_topic("t", PARTITIONS, &[]);
    let mut outcomes = Vec::new();
    for partition in 0..PARTITIONS {
        outcomes.push(client.produce("t", partition, batch(Codec::None, ["x".to_owned()])).expect("answered"));
    }
    let refused: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.err()).collect();
    assert!(refused.iter().all(|&error| error == KAFKA_STORAGE_ERROR), "{refused:?}");
    assert!((20..PARTITIONS as usize - 100).contains(&refused.len()), "{} are refused", refused.len());
    // Those that were served are served on, and nothing is offline: each may be had, if not all at once.
    for partition in 0..PARTITIONS {
        if outcomes[partition as usize].is_ok() {
            let appended = client.produce("t", partition, batch(Codec::None, ["y".to_owned()])).expect("answered");
            assert_eq!(appended, Ok(1), "partition {partition}");
        }
    }
    let said = cluster.broker.process().said();
    assert!(!said.contains("is offline until the broker restarts"), "{said}");
    cluster.broker.kill();
    cluster.start_broker(Kind::under_test());
    let mut client = cluster.broker.client();
    client.until_led("t", PARTITIONS);
    for (partition, outcome) in outcomes.iter().enumerate().filter(|(_, outcome)| outcome.is_err()) {
        let appended = client.produce("t", partition as i32, batch(Codec::None, ["x".to_owned()])).expect("answered");
        assert_eq!(appended, Ok(0), "partition {partition} was refused with {outcome:?} and has a descriptor now");
    }
}
