//! Large and small batches reach consumers of every kind whatever their limits: a fetch answers whole batches where the
//! client counts on them. Source of the rules: KIP-74 and kafka 3.9.0-rc3 ReplicaManager.scala (readFromLog).

mod support;

use std::process::Command;

use bytes::Bytes;
use odradek::protocol::message::Payload;
use odradek::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use odradek::protocol::messages::write_txn_markers::{
    WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest,
};
use odradek::record::build::BatchBuilder;
use support::client::{Client, TIMESTAMP, batch};
use support::{Cluster, Kind, deps, repository, tied};

use odradek::record::compression::Codec;

/// One more than the default of `max.partition.fetch.bytes`, and less than that of `max.message.bytes`.
const LARGE_BYTES: usize = 1_048_578;

fn batch_of(bytes: usize) -> Bytes {
    let build = |value: usize| {
        let mut builder = BatchBuilder::new();
        builder.append(TIMESTAMP, None, Some(format!("large {}", "x".repeat(value)).as_bytes()), &[]);
        builder.build()
    };
    let around = build(bytes - 200).len() - (bytes - 200);
    let built = build(bytes - around);
    assert_eq!(built.len(), bytes);
    built
}

/// Bytes of records for each partition, in the order of the answer.
fn fetch(client: &mut Client, version: i16, topic: &str, order: &[i32], max_bytes: i32) -> Vec<(i32, usize)> {
    let partition = |&partition: &i32| FetchPartition {
        partition,
        fetch_offset: 0,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    };
    let partitions = order.iter().map(partition).collect();
    let topics = vec![FetchTopic { topic: topic.to_owned(), partitions, ..Default::default() }];
    let request = FetchRequest { max_wait_ms: 0, min_bytes: 1, max_bytes, topics, ..Default::default() };
    let response = client.call(&request, version).expect("the broker answers a fetch");
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    partitions
        .map(|found| {
            assert_eq!(found.error_code, 0, "version {version}");
            (found.partition_index, found.records.as_ref().map_or(0, Payload::len))
        })
        .collect()
}

/// What each line begins with, sorted.
fn names(output: &str) -> Vec<String> {
    let mut names: Vec<String> = output
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    names
}

fn run(mut command: Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("run {command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{err}", output.status);
    out.into_owned()
}

/// What Java, Python and librdkafka read of a topic from its beginning: each must see all of `expected`.
fn read_by_all(cluster: &Cluster, topic: &str, expected: &[String], limits: Option<(u32, u32)>) {
    let (address, count) = (cluster.broker.address(), expected.len().to_string());
    let mut java = vec!["--bootstrap-server", &address, "--topic", topic, "--from-beginning", "--max-messages", &count];
    let limited = limits.map(|(partition, fetch)| {
        [format!("max.partition.fetch.bytes={partition}"), format!("fetch.max.bytes={fetch}")]
    });
    for property in limited.iter().flatten() {
        java.extend(["--consumer-property", property]);
    }
    java.extend(["--timeout-ms", "30000"]);
    let out = cluster.jvm_tool("3.9.1", "org.apache.kafka.tools.consumer.ConsoleConsumer", &java);
    assert_eq!(names(&out.expect("the Java consumer reads all")), expected, "Java, {limits:?}");

    let (partition, fetch) = limits.unwrap_or((1 << 20, 50 << 20));
    let mut python = tied(deps("python/bin/python"));
    python.arg(repository("tests/clients/python/kafka_python_fetch_limits.py")).args([
        &address,
        &count,
        topic,
        &partition.to_string(),
        &fetch.to_string(),
    ]);
    assert_eq!(names(&run(python)), expected, "kafka-python, {limits:?}");

    let mut kcat = tied("kcat");
    kcat.args(["-b", &address, "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%s\n"]);
    if let Some((partition, fetch)) = limits {
        // librdkafka wants a message to fit into a fetch.
        kcat.args(["-X", &format!("fetch.message.max.bytes={partition}")]);
        kcat.args(["-X", &format!("fetch.max.bytes={fetch}"), "-X", "message.max.bytes=1000"]);
    }
    assert_eq!(names(&run(kcat)), expected, "librdkafka, {limits:?}");
}

#[test]
fn a_batch_beyond_the_limits_waits_for_its_turn_and_every_client_reads_all() {
    let cluster = Cluster::start("fetch-limits", "");
    let mut client = cluster.broker.client();

    client.create_topic("large", 3, &[]);
    let small = |name: &str| batch(Codec::None, [format!("{name} {}", "y".repeat(1_000))]);
    for partition in [0, 2] {
        for number in 0..3 {
            let batch = small(&format!("small-{partition}-{number}"));
            client.produce("large", partition, batch).expect("answered").expect("appended");
        }
    }
    client.produce("large", 1, batch_of(LARGE_BYTES)).expect("answered").expect("appended");
    let three = 3 * small("small-0-0").len();
    // One record more than the three of the first partition would fit, but no whole large one.
    let max_bytes = i32::try_from(2 * three + 90).expect("small");
    for version in 4..=12 {
        let got = fetch(&mut client, version, "large", &[2, 0, 1], max_bytes);
        assert_eq!(got, [(2, three), (0, three), (1, 0)], "version {version}");
        let got = fetch(&mut client, version, "large", &[2, 0, 1], i32::try_from(three + 90).expect("small"));
        assert_eq!(got, [(2, three), (0, 0), (1, 0)], "version {version}: nothing of a batch that does not fit");
        let cut = i32::try_from(2 * three - 90).expect("small");
        let got = fetch(&mut client, version, "large", &[2, 0, 1], cut);
        assert_eq!(got, [(2, three), (0, three - 90), (1, 0)], "version {version}: cut after a complete batch");
        let got = fetch(&mut client, version, "large", &[1, 2, 0], 100);
        assert_eq!(got, [(1, LARGE_BYTES), (2, 0), (0, 0)], "version {version}: the first is whole");
    }
    let mut expected: Vec<String> =
        (0..3).flat_map(|number| [format!("small-0-{number}"), format!("small-2-{number}")]).collect();
    expected.insert(0, "large".to_owned());
    expected.sort_unstable();
    read_by_all(&cluster, "large", &expected, None);

    let partitions = 9;
    client.create_topic("many", partitions, &[]);
    let mut expected = Vec::new();
    for number in 0..6 {
        for partition in 0..partitions {
            // Of every length from a few bytes to many times the limits below.
            let length = 1 << ((number * 5 + partition * 7) % 16);
            let name = format!("{partition}-{number}");
            let batch = batch(Codec::None, [format!("{name} {}", "z".repeat(length))]);
            client.produce("many", partition, batch).expect("answered").expect("appended");
            expected.push(name);
        }
    }
    expected.sort_unstable();
    read_by_all(&cluster, "many", &expected, Some((1_000, 3_000)));
}

/// What is converted for an old consumer is bounded, and it names its partitions in the same order each time: each of them
/// has its turn all the same.
#[test]
fn old_consumers_get_as_many_converted_batches_as_one_answer_holds_and_in_time_those_of_every_partition() {
    const PARTITIONS: i32 = 12;
    const BATCH_BYTES: usize = 1_000_000;
    let cluster = Cluster::start("fetch-converted-room", "socket.response.max.bytes=10000000");
    if Kind::under_test() != Kind::Odradek {
        return;
    }
    let mut client = cluster.broker.client();
    client.create_topic("old", PARTITIONS, &[]);
    for partition in 0..PARTITIONS {
        client.produce("old", partition, batch_of(BATCH_BYTES)).expect("answered").expect("appended");
    }
    let order: Vec<i32> = (0..PARTITIONS).rev().collect();
    for version in 0..=3 {
        let mut waiting = order.clone();
        for round in 0.. {
            assert!(round < 1_000, "version {version}: {waiting:?} are still waiting");
            let got = fetch(&mut client, version, "old", &order, 50 << 20);
            let full: Vec<i32> =
                got.iter().filter(|(_, bytes)| *bytes >= BATCH_BYTES).map(|(partition, _)| *partition).collect();
            assert!((4..=5).contains(&full.len()), "version {version}: of 4 MiB there are {full:?}");
            assert_eq!(got.iter().filter(|(_, bytes)| *bytes > 0).count(), full.len(), "the others are empty: {got:?}");
            waiting.retain(|partition| !full.contains(partition));
            if waiting.is_empty() {
                break;
            }
        }
    }
}

/// Where little room is left for each of many partitions, as where one has more than markers in its way.
#[test]
fn old_consumers_get_what_is_behind_a_marker_of_every_partition() {
    const PARTITIONS: i32 = 10;
    let cluster = Cluster::start("fetch-behind-markers", "");
    let mut client = cluster.broker.client();
    client.create_topic("old", PARTITIONS, &[]);
    let order: Vec<i32> = (0..PARTITIONS).collect();
    let topics = vec![WritableTxnMarkerTopic { name: "old".to_owned(), partition_indexes: order.clone() }];
    let markers = vec![WritableTxnMarker { producer_id: 7, transaction_result: true, topics, ..Default::default() }];
    let written = client.call(&WriteTxnMarkersRequest { markers }, 0).expect("answered");
    let written = written.markers.iter().flat_map(|marker| &marker.topics).flat_map(|topic| &topic.partitions);
    assert_eq!(written.map(|partition| partition.error_code).collect::<Vec<_>>(), [0; PARTITIONS as usize]);
    for &partition in &order {
        client.produce("old", partition, batch_of(500_000)).expect("answered").expect("appended");
    }
    for version in 0..=3 {
        let mut waiting = order.clone();
        for round in 0.. {
            let got = fetch(&mut client, version, "old", &order, 50 << 20);
            waiting.retain(|partition| !got.iter().any(|(of, bytes)| of == partition && *bytes >= 400_000));
            if waiting.is_empty() {
                break;
            }
            assert!(round < 100, "version {version}: {waiting:?} are still waiting: {got:?}");
        }
    }
}

/// Whether there is something to read or not. Source: kafka 3.9.1 KafkaApis.scala (maybeConvertFetchedData).
#[test]
fn old_consumers_of_what_is_not_converted_for_them_are_told_so_before_there_are_records() {
    const UNSUPPORTED_VERSION: i16 = 35;
    const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;
    let cluster = Cluster::start("fetch-unconverted", "");
    let mut client = cluster.broker.client();
    for (topic, setting, first_that_may, error) in [
        ("zstd", ("compression.type", "zstd"), 10, UNSUPPORTED_COMPRESSION_TYPE),
        ("new", ("message.downconversion.enable", "false"), 4, UNSUPPORTED_VERSION),
    ] {
        client.create_topic(topic, 1, &[setting]);
        client.until_led(topic, 1);
        for version in 0..=10 {
            let partitions = vec![FetchPartition { partition_max_bytes: 1 << 20, ..Default::default() }];
            let topics = vec![FetchTopic { topic: topic.to_owned(), partitions, ..Default::default() }];
            let request = FetchRequest { max_bytes: 1 << 20, topics, session_epoch: -1, ..Default::default() };
            let response = client.call(&request, version).expect("the broker answers a fetch");
            let expected = if version < first_that_may { error } else { 0 };
            assert_eq!(response.responses[0].partitions[0].error_code, expected, "{topic}, version {version}");
        }
    }
}

/// What is converted for old consumers is in memory until they take it.
#[test]
fn old_consumers_that_take_no_answer_hold_little_memory() {
    const PARTITIONS: i32 = 12;
    let mut cluster = Cluster::start("fetch-converted", "");
    let mut client = cluster.broker.client();
    client.create_topic("old", PARTITIONS, &[]);
    for partition in 0..PARTITIONS {
        for _ in 0..8 {
            client.produce("old", partition, batch_of(250_000)).expect("answered").expect("appended");
        }
    }
    let order: Vec<i32> = (0..PARTITIONS).collect();
    for version in 0..=3 {
        let got = fetch(&mut client, version, "old", &order, 50 << 20);
        assert!(got.iter().all(|&(_, bytes)| bytes > 250_000), "version {version}: {got:?}");
    }
    if Kind::under_test() != Kind::Odradek {
        return; // A JVM broker converts while the socket takes it.
    }
    let before = cluster.broker.process().memory_kib("VmRSS");
    let partition = |&partition: &i32| FetchPartition { partition, partition_max_bytes: 2 << 20, ..Default::default() };
    let partitions: Vec<FetchPartition> = order.iter().map(partition).collect();
    let topics = vec![FetchTopic { topic: "old".to_owned(), partitions, ..Default::default() }];
    let request = FetchRequest { max_wait_ms: 0, min_bytes: 1, max_bytes: 50 << 20, topics, ..Default::default() };
    let mut unread: Vec<(Client, i32)> = (0..30)
        .map(|_| {
            let mut client = cluster.broker.client();
            let correlation_id = client.send(&request, 1).expect("the broker takes it");
            // Its first byte is there: all of the answer is made.
            client.stream.peek(&mut [0]).expect("an answer");
            (client, correlation_id)
        })
        .collect();
    let grown = cluster.broker.process().memory_kib("VmRSS").saturating_sub(before);
    assert!(grown < 500 << 10, "{grown} KiB for 30 unread answers over 24 MB each");
    let (client, correlation_id) = &mut unread[0];
    let answer = client.receive::<FetchRequest>(1, *correlation_id).expect("the rest of the answer");
    assert_eq!(answer.responses[0].partitions.len(), PARTITIONS as usize);
}
