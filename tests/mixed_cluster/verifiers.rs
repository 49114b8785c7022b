//! Kafka's own verifiers, against a cluster of both kinds: they must find nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::Value;

use crate::clients::KEPT;
use crate::support::{Kind, PATIENCE, Process, eventually, jvm_tool};
use crate::world::World;

const VERSION: &str = "3.9.1";
const VERIFIED: &str = "verified";
const MESSAGES: usize = 3000;

/// VerifiableProducer and VerifiableConsumer while a broker stops and starts, the ReplicaVerificationTool over all topics, and
/// DumpLogSegments over the files of every broker.
pub fn find_nothing(world: &mut World, stopped: i32) {
    producer_and_consumer(world, stopped);
    world.says("what VerifiableProducer sent VerifiableConsumer has read");
    replica_verification(world);
    world.says("ReplicaVerificationTool has found nothing");
    dump_log(world);
    world.says("DumpLogSegments has found nothing");
}

fn start(world: &World, name: &str, (version, class): (&str, &str), arguments: &[&str]) -> Process {
    let mut command = jvm_tool(version, class);
    command.args(arguments);
    Process::start(name, &mut command, world.cluster.scratch.path(&format!("{name}.log")))
}

fn ends_well(mut process: Process) -> String {
    let status = eventually(2 * PATIENCE, &format!("{} ends", process.name), || {
        process.has_ended().ok_or_else(|| process.last_words())
    });
    assert!(status.success(), "{} ended with {status}; {}", process.name, process.last_words());
    process.said()
}

/// Of one kind, among the JSON lines of a tool: partition, offset, value.
fn records(said: &str, kind: &str) -> Vec<(i32, i64, String)> {
    let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let number = |line: &Value, name: &str| line[name].as_i64().unwrap_or_else(|| panic!("{line} has no {name}"));
    lines
        .filter(|line| line["name"] == kind)
        .map(|line| {
            let value = line["value"].as_str().unwrap_or_else(|| panic!("{line} has no value"));
            (number(&line, "partition") as i32, number(&line, "offset"), value.to_owned())
        })
        .collect()
}

fn producer_and_consumer(world: &mut World, stopped: i32) {
    world.creates(
        VERIFIED,
        &[&[0, 1, 2], &[1, 2, 0], &[2, 0, 1]],
        &[("segment.bytes", "8192"), ("index.interval.bytes", "256")],
    );
    // Nobody knows how much of it there is while the producer runs.
    world.expected.retain(|(topic, _), _| topic != VERIFIED);
    let config = world.cluster.scratch.path("verifiable-producer.properties");
    // Without it the tool gives up what it would have to send again.
    let text = "retries=2147483647\nenable.idempotence=true\ndelivery.timeout.ms=600000\nbatch.size=1000\n";
    std::fs::write(&config, text).expect("the scratch directory can be written");
    let (servers, count) = (world.cluster.addresses(), MESSAGES.to_string());
    let both = ["--bootstrap-server", &servers, "--topic", VERIFIED, "--max-messages", &count];
    let config = config.display().to_string();
    let producing = ["--throughput", "300", "--acks", "-1", "--producer.config", &config];
    let producer = start(
        world,
        "verifiable-producer",
        (VERSION, "org.apache.kafka.tools.VerifiableProducer"),
        &[&both[..], &producing].concat(),
    );
    let consuming = ["--group-id", "verified-by-its-consumer", "--reset-policy", "earliest", "--verbose"];
    let consumer = start(
        world,
        "verifiable-consumer",
        (VERSION, "org.apache.kafka.tools.VerifiableConsumer"),
        &[&both[..], &consuming].concat(),
    );
    eventually(PATIENCE, "VerifiableProducer has begun", || {
        if producer.said().contains("producer_send_success") { Ok(()) } else { Err(producer.last_words()) }
    });
    world.stops(stopped);
    world.starts(stopped);
    let said = ends_well(producer);
    assert!(!said.contains("producer_send_error"), "{said}");
    let sent: BTreeSet<_> = records(&said, "producer_send_success").into_iter().collect();
    assert_eq!(sent.len(), MESSAGES);
    let said = ends_well(consumer);
    let read = records(&said, "record_data");
    assert_eq!(read.len(), MESSAGES, "each is read once");
    assert_eq!(read.into_iter().collect::<BTreeSet<_>>(), sent);
    for (partition, offset, value) in sent {
        let values = world.expected.entry((VERIFIED.to_owned(), partition)).or_default();
        assert_eq!(values.len() as i64, offset, "nothing is between what was sent");
        values.push(value);
    }
    world.until_whole();
    world.reads_all();
}

fn replica_verification(world: &mut World) {
    let partitions = world.until_whole().len();
    let servers = world.cluster.addresses();
    let arguments = ["--broker-list", &servers, "--time", "-2", "--report-interval-ms", "500"];
    // It fetches in the newest version that it knows, whatever the brokers know.
    let jvm = world.kinds.iter().find_map(|kind| if let Kind::Jvm(version) = kind { Some(*version) } else { None });
    let tool = match jvm.unwrap_or(VERSION) {
        version @ "2.8.2" => (version, "kafka.tools.ReplicaVerificationTool"),
        version => (version, "org.apache.kafka.tools.ReplicaVerificationTool"),
    };
    let mut tool = start(world, "replica-verification", tool, &arguments);
    let all = format!(" among {partitions} partitions");
    eventually(PATIENCE, "the ReplicaVerificationTool has read everything", || {
        let status = tool.has_ended();
        assert!(status.is_none(), "it ended, {status:?}; {}", tool.last_words());
        let said = tool.said();
        let last = said.lines().rfind(|line| line.contains("max lag is "));
        match last.filter(|line| line.contains("max lag is 0 for partition ") && line.ends_with(&all)) {
            Some(_) => Ok(()),
            None => Err(format!("not{all}: {}", tool.last_words())),
        }
    });
    tool.signal(Signal::TERM);
    let said = tool.said();
    let findings = ["different checksum", "has unequal", "doesn't match", "ERROR", "Exception"];
    let found: Vec<&str> = said.lines().filter(|line| findings.iter().any(|finding| line.contains(finding))).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Segments deep into their records, and the indexes of those that are written no more, of all replicas.
fn dump_log(world: &mut World) {
    let mut all = world.until_whole();
    all.retain(|(topic, _), _| [KEPT, VERIFIED].contains(&topic.as_str()));
    let (mut files, mut indexes) = (Vec::new(), Vec::new());
    for ((topic, partition), found) in &all {
        for &broker in &found.replica_nodes {
            let directory = world.directory(broker, topic, *partition);
            let mut segments: Vec<PathBuf> =
                std::fs::read_dir(&directory).expect("it is a replica").flatten().map(|file| file.path()).collect();
            segments.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
            segments.sort();
            let rolled = segments[..segments.len() - 1].iter();
            indexes.extend(rolled.flat_map(|log| [log.with_extension("index"), log.with_extension("timeindex")]));
            files.extend(segments);
        }
    }
    assert!(!indexes.is_empty(), "segments have been rolled");
    let files: Vec<String> = files.into_iter().chain(indexes).map(|path| path.display().to_string()).collect();
    let arguments = ["--deep-iteration", "--verify-index-only", "--files", &files.join(",")];
    let said = world.cluster.jvm_tool(VERSION, "kafka.tools.DumpLogSegments", &arguments);
    let said = said.unwrap_or_else(|said| panic!("{said}"));
    let findings =
        ["isvalid: false", "Mismatches", "mismatch", "out of order", "Non-consecutive", "corrupt", "Exception"];
    let mut dumped: BTreeMap<PathBuf, Vec<&str>> = BTreeMap::new();
    let mut directory = PathBuf::new();
    for line in said.lines() {
        assert!(!findings.iter().any(|finding| line.contains(finding)), "{}: {line}", directory.display());
        if let Some(path) = line.strip_prefix("Dumping ") {
            directory = PathBuf::from(path).parent().expect("a file has a directory").to_owned();
        } else if line.starts_with("| offset: ") {
            dumped.entry(directory.clone()).or_default().push(line);
        }
    }
    for ((topic, partition), found) in all {
        let count = world.expected[&(topic.clone(), partition)].len();
        let leaders = &dumped[&world.directory(found.leader_id, &topic, partition)];
        for broker in found.replica_nodes {
            let its = &dumped[&world.directory(broker, &topic, partition)];
            assert_eq!(its.len(), count, "the records of {topic}-{partition} on broker {broker}");
            assert_eq!(its, leaders, "broker {broker}, and the leader {} of {topic}-{partition}", found.leader_id);
        }
    }
}
