//! Promise: the log directories of a broker are told as by Kafka, to any version of a client and to tools of both kinds.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use odradek::protocol::error_code::ErrorCode;
use odradek::protocol::message::Message;
use odradek::protocol::messages::describe_log_dirs::{
    DescribableLogDirTopic, DescribeLogDirsRequest, DescribeLogDirsResponse,
};
use odradek::record::compression::Codec;
use regex::Regex;
use serde_json::Value;
use support::client::{Client, batch};
use support::{Broker, Cluster, Kind, Scratch, ZooKeeper};

const LOG_DIRS: &str = "org.apache.kafka.tools.LogDirsCommand";
const DELETE_RECORDS: &str = "org.apache.kafka.tools.DeleteRecordsCommand";

/// A broker with so many log directories, `data-0` and so on.
fn with_dirs(name: &str, count: usize, settings: &str) -> (Cluster, Vec<PathBuf>) {
    let scratch = Scratch::new(name);
    let zookeeper = ZooKeeper::start(&scratch);
    let dirs: Vec<PathBuf> = (0..count).map(|number| scratch.path(&format!("data-{number}"))).collect();
    let listed: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    let settings = format!("log.dirs={}\n{settings}", listed.join(","));
    let broker = Broker::configure(&scratch, zookeeper.port, &settings);
    (Cluster { broker, zookeeper, scratch }, dirs)
}

fn produce(client: &mut Client, topic: &str, partition: i32, value: &str) {
    let appended = client.produce(topic, partition, batch(Codec::None, [value.to_owned()]));
    appended.expect("Produce is answered").expect("it is appended");
}

/// The bytes of the segments in the directory of a partition.
fn bytes_of(dir: &Path) -> i64 {
    let files = fs::read_dir(dir).expect("it is there").map(|entry| entry.expect("it can be read"));
    let logs = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "log"));
    logs.map(|file| file.metadata().expect("it is there").len() as i64).sum()
}

/// Of each log in a directory, by name, its size, its lag and whether it is a future one.
type Logs = BTreeMap<String, (i64, i64, bool)>;

/// For each directory its error, and the logs in it.
fn told(response: &DescribeLogDirsResponse) -> BTreeMap<String, (i16, Logs)> {
    let dirs = response.results.iter().map(|result| {
        let mut logs = BTreeMap::new();
        for topic in &result.topics {
            for one in &topic.partitions {
                let name = format!("{}-{}", topic.name, one.partition_index);
                logs.insert(name, (one.partition_size, one.offset_lag, one.is_future_key));
            }
        }
        (result.log_dir.clone(), (result.error_code, logs))
    });
    dirs.collect()
}

#[test]
fn directories_are_described_in_every_version_one_that_is_offline_too() {
    let (mut cluster, dirs) = with_dirs("describe-dirs", 3, "");
    // No directory can be made where there is a file.
    fs::write(&dirs[2], "in the way").expect("the scratch directory can be written");
    cluster.start_broker(Kind::under_test());
    let mut client = cluster.broker.client();
    client.create_topic("a", 4, &[]);
    client.create_topic("b", 2, &[]);
    for partition in 0..4 {
        for _ in 0..=partition {
            produce(&mut client, "a", partition, "some");
        }
    }
    let dir_of = |name: &str| dirs[..2].iter().find(|dir| dir.join(name).is_dir()).expect("it is in one of them");
    let in_dir = |dir: &PathBuf, names: &[&str]| {
        let here = names.iter().filter(|name| dir_of(name) == dir);
        let log = |name: &&str| ((*name).to_owned(), (bytes_of(&dir.join(name)), 0, false));
        here.map(log).collect::<BTreeMap<_, _>>()
    };
    let all = ["a-0", "a-1", "a-2", "a-3", "b-0", "b-1"];
    assert!(dirs[..2].iter().all(|dir| in_dir(dir, &all).len() == 3), "the fewest logs get the next");
    let storage_error = ErrorCode::KafkaStorageError.code();
    let expected = |names: &[&str]| {
        let dir = |at: usize| dirs[at].display().to_string();
        BTreeMap::from([
            (dir(0), (0, in_dir(&dirs[0], names))),
            (dir(1), (0, in_dir(&dirs[1], names))),
            (dir(2), (storage_error, BTreeMap::new())),
        ])
    };
    let topic = |name: &str, partitions: &[i32]| DescribableLogDirTopic {
        topic: name.to_owned(),
        partitions: partitions.to_vec(),
    };
    let some = vec![topic("a", &[1, 3, 3, 77]), topic("b", &[0]), topic("no", &[0]), topic("a", &[1])];
    for version in DescribeLogDirsRequest::VERSIONS {
        for (topics, names) in [(None, &all[..]), (Some(some.clone()), &["a-1", "a-3", "b-0"]), (Some(Vec::new()), &[])]
        {
            let answer = client.call(&DescribeLogDirsRequest { topics }, version).expect("it is answered");
            assert_eq!(answer.error_code, 0);
            assert_eq!(told(&answer), expected(names), "version {version}");
            for result in &answer.results {
                let has_volume = version >= 4 && result.error_code == 0;
                let (total, usable) = (result.total_bytes, result.usable_bytes);
                assert!(
                    if has_volume { 0 < usable && usable <= total } else { (total, usable) == (-1, -1) },
                    "{result:?}"
                );
            }
            // Nothing is there without something in it.
            assert!(answer.results.iter().flat_map(|dir| &dir.topics).all(|topic| !topic.partitions.is_empty()));
        }
    }
}

/// What kafka-log-dirs.sh printed, in an order of its own.
fn sorted(mut printed: Value) -> Value {
    let by = |list: &mut Value, key: &str| {
        let list = list.as_array_mut().expect("a list");
        list.sort_by_key(|one| one[key].to_string());
    };
    by(&mut printed["brokers"], "broker");
    for broker in printed["brokers"].as_array_mut().expect("a list") {
        by(&mut broker["logDirs"], "logDir");
        for dir in broker["logDirs"].as_array_mut().expect("a list") {
            by(&mut dir["partitions"], "partition");
        }
    }
    printed
}

/// The keys of each kind of object, in their order.
fn shapes(json: &str) -> BTreeSet<String> {
    let regex = |pattern: &str| Regex::new(pattern).expect("the pattern is constant");
    let (object, list) = (regex(r"\{[^{}\[\]]*\}"), regex(r"\[[,_]*\]"));
    let mut text = regex(r#":("[^"]*"|[-0-9a-z]+)"#).replace_all(json, ":_").into_owned();
    let mut found = BTreeSet::new();
    while object.is_match(&text) {
        found.extend(object.find_iter(&text).map(|shape| shape.as_str().to_owned()));
        text = list.replace_all(&object.replace_all(&text, "_"), "_").into_owned();
    }
    found
}

#[test]
fn our_tools_and_kafkas_print_the_same_of_our_broker_and_of_a_jvm_broker() {
    for kind in [Kind::Odradek, Kind::Jvm("3.9.1")] {
        let (mut cluster, dirs) = with_dirs("dir-tools", 3, "");
        fs::write(&dirs[2], "in the way").expect("the scratch directory can be written");
        cluster.start_broker(kind);
        let mut client = cluster.broker.client();
        client.create_topic("a", 2, &[]);
        client.create_topic("b", 1, &[]);
        for value in ["one", "two", "three"] {
            produce(&mut client, "a", 0, value);
            produce(&mut client, "b", 0, value);
        }
        let address = cluster.broker.address();
        let outcomes = |script: &str, class: &str, arguments: &[&str]| {
            let arguments = [&["--bootstrap-server", &address], arguments].concat();
            let ours = cluster.script(script, &arguments, "");
            (ours, cluster.jvm_tool("3.9.1", class, &arguments))
        };
        for arguments in [&["--describe"][..], &["--describe", "--topic-list", "b,c", "--broker-list", "0"]] {
            let (ours, theirs) = outcomes("kafka-log-dirs.sh", LOG_DIRS, arguments);
            let [ours, theirs] = [ours, theirs].map(|said| said.unwrap_or_else(|error| panic!("{error}")));
            let parts = |said: &str| {
                let lines: Vec<String> = said.lines().map(str::to_owned).collect();
                let [querying, received, json] = lines.try_into().expect("three lines");
                (querying, received, sorted(serde_json::from_str(&json).expect("JSON")), shapes(&json))
            };
            let (ours, theirs) = (parts(&ours), parts(&theirs));
            assert_eq!(ours, theirs, "{kind:?} {arguments:?}");
            let text = ours.2.to_string();
            assert!(text.contains("org.apache.kafka.common.errors.KafkaStorageException"), "{text}");
        }
        let (ours, theirs) = outcomes("kafka-log-dirs.sh", LOG_DIRS, &["--describe", "--broker-list", "0,7"]);
        let missing = "ERROR: The given brokers do not exist from --broker-list: 7. Current existent brokers: 0";
        assert!(ours.unwrap_err().contains(missing) && theirs.unwrap_err().contains(missing));

        let file = cluster.scratch.path("offsets.json");
        let path = file.display().to_string();
        let entry = |topic: &str, partition: i32, offset: i64| {
            format!("{{\"topic\":\"{topic}\",\"partition\":{partition},\"offset\":{offset}}}")
        };
        let write = |entries: &[String]| {
            let text = format!("{{\"partitions\":[{}],\"version\":1}}", entries.join(","));
            fs::write(&file, text).expect("the scratch directory can be written");
        };
        let mut lines = Vec::new();
        for (at, entries) in [
            [entry("a", 0, 1), entry("b", 0, -1), entry("a", 1, 9)],
            [entry("a", 0, 2), entry("b", 0, 0), entry("a", 1, 0)],
        ]
        .iter()
        .enumerate()
        {
            write(entries);
            // The same is asked twice: what is deleted stays so.
            let (ours, theirs) = outcomes("kafka-delete-records.sh", DELETE_RECORDS, &["--offset-json-file", &path]);
            let [ours, theirs] = [ours, theirs].map(|said| {
                let said = said.unwrap_or_else(|error| panic!("{error}"));
                // Whatever an exception says after its name.
                let line = |line: &str| match line.split_once("Exception: ") {
                    Some((name, _)) => name.to_owned(),
                    None => line.to_owned(),
                };
                let mut said: Vec<String> = said.lines().map(line).collect();
                said[2..].sort_unstable();
                said
            });
            assert_eq!(ours, theirs, "{kind:?} {at}");
            lines.push(ours);
        }
        assert_eq!(
            lines[0][2..],
            [
                "partition: a-0\tlow_watermark: 1",
                "partition: a-1\terror: org.apache.kafka.common.errors.OffsetOutOfRange",
                "partition: b-0\tlow_watermark: 3"
            ]
        );
        write(&[entry("a", 0, 1), entry("a", 0, 2)]);
        let (ours, theirs) = outcomes("kafka-delete-records.sh", DELETE_RECORDS, &["--offset-json-file", &path]);
        let twice = "Offset json file contains duplicate topic partitions: a-0";
        assert!(ours.unwrap_err().contains(twice) && theirs.unwrap_err().contains(twice));
    }
}
