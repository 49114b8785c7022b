//! Promise: the log directories of a broker are told as by Kafka, to any version of a client and to tools of both kinds, and
//! its logs move between them while they are written to and read, whatever ends the broker meanwhile.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use odradek::protocol::error_code::ErrorCode;
use odradek::protocol::message::Message;
use odradek::protocol::messages::alter_replica_log_dirs::{
    AlterReplicaLogDir, AlterReplicaLogDirTopic, AlterReplicaLogDirsRequest,
};
use odradek::protocol::messages::describe_log_dirs::{
    DescribableLogDirTopic, DescribeLogDirsRequest, DescribeLogDirsResponse,
};
use odradek::record::build::BatchBuilder;
use odradek::record::compression::Codec;
use rand::{RngExt, SeedableRng};
use regex::Regex;
use serde_json::Value;
use support::client::{Client, batch, outcome, produce_request, values};
use support::{Broker, Brokers, Cluster, Kind, PATIENCE, Scratch, ZooKeeper, eventually};

const LOG_DIRS: &str = "org.apache.kafka.tools.LogDirsCommand";
const REASSIGN: &str = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand";
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

/// Asks for partitions of topics in a directory; the error of each, in the order of the answer.
fn alter(
    client: &mut Client,
    version: i16,
    asked: &[(&Path, &str, &[i32])],
) -> io::Result<BTreeMap<(String, i32), &'static str>> {
    let dir = |(path, topic, partitions): &(&Path, &str, &[i32])| AlterReplicaLogDir {
        path: path.display().to_string(),
        topics: vec![AlterReplicaLogDirTopic { name: (*topic).to_owned(), partitions: partitions.to_vec() }],
    };
    let answer = client.call(&AlterReplicaLogDirsRequest { dirs: asked.iter().map(dir).collect() }, version)?;
    let mut errors = BTreeMap::new();
    for topic in answer.results {
        for one in topic.partitions {
            let error = ErrorCode::from_code(one.error_code).name();
            assert_eq!(errors.insert((topic.topic_name.clone(), one.partition_index), error), None, "answered once");
        }
    }
    Ok(errors)
}

fn errors(expected: &[(&str, i32, &'static str)]) -> BTreeMap<(String, i32), &'static str> {
    expected.iter().map(|(topic, partition, error)| (((*topic).to_owned(), *partition), *error)).collect()
}

/// Waits until the log is in that directory and nowhere else, but for what is to be deleted.
fn until_in(dirs: &[PathBuf], dir: &Path, name: &str) {
    eventually(PATIENCE, &format!("{name} is in {}", dir.display()), || {
        let mut found = Vec::new();
        for dir in dirs.iter().filter(|dir| dir.is_dir()) {
            for entry in fs::read_dir(dir).map_err(|error| error.to_string())?.flatten() {
                let here = entry.file_name().to_string_lossy().into_owned();
                if here.starts_with(name) && !here.ends_with("-delete") {
                    found.push(entry.path());
                }
            }
        }
        if found == [dir.join(name)] { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn replicas_move_between_directories_as_asked_and_what_cannot_move_is_refused() {
    let (mut cluster, dirs) = with_dirs("move-dirs", 3, "");
    cluster.start_broker(Kind::under_test());
    let mut client = cluster.broker.client();
    client.create_topic("a", 2, &[]);
    for partition in 0..2 {
        for value in ["one", "two", "three"] {
            produce(&mut client, "a", partition, value);
        }
    }
    let long = "l".repeat(220);
    client.create_topic(&long, 1, &[]);
    let nowhere = cluster.scratch.path("nowhere");
    for (version, target) in AlterReplicaLogDirsRequest::VERSIONS.zip(dirs.iter().rev()) {
        let asked: &[(&Path, &str, &[i32])] =
            &[(target, "a", &[0, 7]), (target, "no", &[0]), (target, &long, &[0]), (&nowhere, "a", &[1])];
        let expected = errors(&[
            ("a", 0, "NONE"),
            ("a", 1, "LOG_DIR_NOT_FOUND"),
            ("a", 7, "UNKNOWN_TOPIC_OR_PARTITION"),
            ("no", 0, "UNKNOWN_TOPIC_OR_PARTITION"),
            (&long, 0, "INVALID_TOPIC_EXCEPTION"),
        ]);
        assert_eq!(alter(&mut client, version, asked).expect("it is answered"), expected, "version {version}");
        until_in(&dirs, target, "a-0");
        let again = alter(&mut client, version, &[(target, "a", &[0])]).expect("it is answered");
        assert_eq!(again, errors(&[("a", 0, "NONE")]), "it is there");
        produce(&mut client, "a", 0, "more");
    }
    let all = client.read_all("a", 0, 0).expect("it can be read");
    assert_eq!(values(&all), ["one", "two", "three", "more", "more", "more"]);
    // Where it was wanted before it was there.
    for (at, dir) in dirs.iter().enumerate() {
        let topic = format!("later-{at}");
        alter(&mut client, 2, &[(dir, &topic, &[0])]).expect("it is answered");
        client.create_topic(&topic, 1, &[]);
        until_in(&dirs, dir, &format!("{topic}-0"));
    }
    // One directory that is offline from the start.
    cluster.broker.stop();
    let away = cluster.scratch.path("away");
    fs::rename(&dirs[2], &away).expect("it can be moved");
    fs::write(&dirs[2], "in the way").expect("the scratch directory can be written");
    cluster.start_broker(Kind::under_test());
    let mut client = cluster.broker.client();
    let here = dirs[..2].iter().find(|dir| dir.join("a-0").is_dir()).expect("the last move went there");
    let other = dirs[..2].iter().find(|dir| *dir != here).expect("there are two");
    for (target, error) in [(&dirs[2], "KAFKA_STORAGE_ERROR"), (other, "KAFKA_STORAGE_ERROR"), (here, "NONE")] {
        let told = alter(&mut client, 2, &[(target, "a", &[0])]).expect("it is answered");
        assert_eq!(told, errors(&[("a", 0, error)]), "{}", target.display());
    }
    produce(&mut client, "a", 0, "more");
}

/// Values are their offsets; a batch that is sent again has the sequence that it had.
fn numbered(producer: (i64, i16), number: i64, padding: usize) -> bytes::Bytes {
    let sequence = i32::try_from(number).expect("the test does not run that long");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_millis() as i64;
    let mut builder = BatchBuilder::new().producer(producer.0, producer.1, sequence);
    builder.append(now, None, Some(format!("{number} {}", "x".repeat(padding)).as_bytes()), &[]);
    builder.build()
}

/// Sends one batch after the other until the connection breaks or the broker does not lead yet.
fn produce_on(port: u16, producer: (i64, i16), stop: &AtomicBool, acknowledged: &AtomicI64) -> io::Result<()> {
    let mut client = Client::connect(port)?;
    while !stop.load(Ordering::SeqCst) {
        let next = acknowledged.load(Ordering::SeqCst);
        let response = client.call(&produce_request("t", 0, numbered(producer, next, 20), -1), 8)?;
        match outcome(&response) {
            Ok(offset) => assert!(offset == next || offset == -1, "{next} is at {offset}"),
            Err(46) => {}
            Err(3 | 5 | 6) => return Err(io::Error::other("not yet led")),
            Err(code) => panic!("{next} is refused with error {code}"),
        }
        acknowledged.store(next + 1, Ordering::SeqCst);
    }
    Ok(())
}

/// Reads on from `from`, and gives what comes next.
fn read_on(port: u16, from: i64) -> io::Result<i64> {
    let records = Client::connect(port)?.read_all("t", 0, from)?;
    for (at, record) in records.iter().enumerate() {
        let number = from + at as i64;
        let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
        assert!(record.offset == number && value.starts_with(&format!("{number} ")), "{record:?} at {number}");
    }
    Ok(from + records.len() as i64)
}

#[test]
fn a_log_that_moves_loses_nothing_and_keeps_nobody_waiting_whenever_the_broker_is_killed() {
    const MOVES: usize = 16;
    const PREFILLED: i64 = 120;
    let settings = "log.segment.bytes=1048576\nlog.index.interval.bytes=512";
    let (mut cluster, dirs) = with_dirs("move-kill", 2, settings);
    cluster.start_broker(Kind::under_test());
    let mut client = cluster.broker.client();
    client.create_topic("t", 1, &[]);
    let producer = eventually(PATIENCE, "a producer id", || client.producer_id().map_err(|error| error.to_string()));
    for number in 0..PREFILLED {
        let sent = client.produce("t", 0, numbered(producer, number, 100_000)).expect("Produce is answered");
        assert_eq!(sent, Ok(number));
    }
    let seed = 20_260_010;
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let (stop, acknowledged, port) = (AtomicBool::new(false), AtomicI64::new(PREFILLED), cluster.broker.port);
    let mut kills = 0;
    std::thread::scope(|scope| {
        let _guard = StopOnDrop(&stop);
        let producing = scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                if produce_on(port, producer, &stop, &acknowledged).is_err() {
                    std::thread::sleep(Duration::from_millis(5)); // The broker is down for a moment after each kill.
                }
            }
        });
        let reading = scope.spawn(|| {
            let mut next = 0;
            while !stop.load(Ordering::SeqCst) {
                match read_on(port, next) {
                    Ok(read) => next = read,
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        for number in 0..MOVES {
            assert!(!producing.is_finished() && !reading.is_finished(), "see above");
            let target = &dirs[number % 2];
            let is_killed = number % 4 != 0;
            let before = acknowledged.load(Ordering::SeqCst);
            eventually(PATIENCE, "the move is taken", || {
                let asked = alter(&mut client, 2, &[(target, "t", &[0])]).map_err(|error| error.to_string());
                if asked.is_err() {
                    client = Client::connect(port).map_err(|error| error.to_string())?;
                }
                let expected = errors(&[("t", 0, "NONE")]);
                asked.and_then(|told| if told == expected { Ok(()) } else { Err(format!("{told:?}")) })
            });
            if is_killed {
                // The instant of death is what varies.
                std::thread::sleep(Duration::from_micros(rng.random_range(0..400_000)));
                cluster.broker.kill();
                cluster.start_broker(Kind::under_test());
                client = cluster.broker.client();
                kills += 1;
                // It may have died before it had begun to move.
                let _ = alter(&mut client, 2, &[(target, "t", &[0])]);
            }
            until_in(&dirs, target, "t-0");
            eventually(PATIENCE, "the producer gets on", || {
                let now = acknowledged.load(Ordering::SeqCst);
                if now > before + 10 { Ok(()) } else { Err(format!("{now} acknowledged, {before} before")) }
            });
        }
    });
    let acknowledged = acknowledged.load(Ordering::SeqCst);
    let end = read_on(port, 0).expect("all can be read");
    assert!(end >= acknowledged, "seed {seed}: {end} of {acknowledged} after {kills} kills");
    // A JVM broker goes on with it.
    assert!(cluster.broker.stop().success());
    cluster.start_broker(Kind::Jvm("3.9.1"));
    cluster.broker.client().until_led("t", 1);
    assert_eq!(read_on(port, 0).expect("all can be read"), end);
    let sent = cluster.broker.client().produce("t", 0, numbered(producer, end, 10)).expect("Produce is answered");
    assert_eq!(sent, Ok(end), "the producer is known");
}

/// Two brokers with two directories each, and the directories of both.
fn two_brokers(name: &str, settings: &str) -> (Brokers, [Vec<PathBuf>; 2]) {
    let scratch = Scratch::new(name);
    let zookeeper = ZooKeeper::start(&scratch);
    let dirs_of = |id: usize| (0..2).map(|number| scratch.path(&format!("data-{id}-{number}"))).collect::<Vec<_>>();
    let dirs = [dirs_of(0), dirs_of(1)];
    let brokers = dirs.iter().zip(0..).map(|(dirs, id)| {
        let listed: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        let settings = format!("log.dirs={}\noffsets.topic.replication.factor=2\n{settings}", listed.join(","));
        Broker::configure_as(id, &scratch, zookeeper.port, &settings)
    });
    let brokers = brokers.collect();
    let mut cluster = Brokers { brokers, zookeeper, scratch };
    for id in 0..2 {
        cluster.start_broker(id, Kind::under_test());
    }
    cluster.until_all_know(&[0, 1]);
    (cluster, dirs)
}

/// What the segments of a log hold, one after the other.
fn records_in(dir: &Path) -> Vec<u8> {
    let mut logs: Vec<PathBuf> = fs::read_dir(dir)
        .expect("it is there")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    logs.sort();
    logs.iter().flat_map(|log| fs::read(log).expect("it can be read")).collect()
}

#[test]
fn a_reassignment_names_directories_to_our_tool_and_to_kafkas() {
    let (cluster, dirs) = two_brokers("reassign-dirs", "log.segment.bytes=1048576");
    let mut client = cluster.client(0);
    client.create_replicated_topic("t", 2, 2, &[]);
    for partition in 0..2 {
        let led = cluster.until_partition("t", partition, "all are in sync", |found| found.isr_nodes.len() == 2);
        let mut client = cluster.client(led.leader_id);
        for _ in 0..30 {
            let sent = client.produce("t", partition, batch(Codec::None, ["v".repeat(100_000)]));
            sent.expect("Produce is answered").expect("it is appended");
        }
    }
    let servers = cluster.addresses();
    let file = cluster.scratch.path("reassignment.json");
    let path = file.display().to_string();
    // Where both partitions are to be on each broker.
    let write = |target: [usize; 2]| {
        let named = |broker: usize| format!("\"{}\"", dirs[broker][target[broker]].display());
        let partition = |partition: i32| {
            let log_dirs = [named(0), named(1)].join(",");
            format!("{{\"topic\":\"t\",\"partition\":{partition},\"replicas\":[0,1],\"log_dirs\":[{log_dirs}]}}")
        };
        let text = format!("{{\"version\":1,\"partitions\":[{},{}]}}", partition(0), partition(1));
        fs::write(&file, text).expect("the scratch directory can be written");
    };
    let ours = |arguments: &[&str]| {
        let all = [&["--bootstrap-server", &servers, "--reassignment-json-file", &path], arguments].concat();
        cluster.script("kafka-reassign-partitions.sh", &all, "")
    };
    let kafkas = |arguments: &[&str]| {
        let all = [&["--bootstrap-server", &servers, "--reassignment-json-file", &path], arguments].concat();
        cluster.jvm_tool("3.9.1", REASSIGN, &all)
    };
    let lines = |said: Result<String, String>| {
        let said = said.unwrap_or_else(|error| panic!("{error}"));
        said.lines().map(str::to_owned).collect::<Vec<String>>()
    };
    let until_moved = |target: [usize; 2]| {
        for (broker, dirs) in dirs.iter().enumerate() {
            for name in ["t-0", "t-1"] {
                until_in(dirs, &dirs[target[broker]], name);
            }
        }
    };
    let throttled = ["--execute", "--replica-alter-log-dirs-throttle", "50000000"];
    // Each tool moves all of it once there and once back, and says the same.
    let mut said = Vec::new();
    for (tool, target) in [(&ours as &dyn Fn(&[&str]) -> _, [1, 0]), (&kafkas, [0, 1]), (&ours, [1, 1])] {
        write(target);
        let told = lines(tool(&throttled));
        let shown: Vec<String> = told
            .iter()
            .map(|line| line.replace(&dirs[0][target[0]].display().to_string(), "DIR 0"))
            .map(|line| line.replace(&dirs[1][target[1]].display().to_string(), "DIR 1"))
            .collect();
        said.push(shown);
        until_moved(target);
        let (by_us, by_them) = (lines(ours(&["--verify", "--preserve-throttles"])), lines(kafkas(&["--verify"])));
        assert_eq!(by_us[..], by_them[..by_us.len()]);
        assert_eq!(by_us.iter().filter(|line| line.ends_with(" completed successfully.")).count(), 4, "{by_us:?}");
        assert_eq!(by_them[by_us.len()..], lines(ours(&["--verify"]))[by_us.len()..], "throttles are cleared");
        let [one, other] = [0, 1].map(|broker: usize| dirs[broker][target[broker]].join("t-0"));
        assert!(records_in(&one) == records_in(&other), "the replicas are equal");
    }
    let started = "Successfully started moving log directory to DIR 1 for replica t-1 with broker 1 ";
    assert!(said[0].iter().any(|line| line == started), "{:?}", said[0]);
    // The first one also put the replicas into another order.
    said.iter_mut().for_each(|lines| drop(lines.remove(2)));
    assert_eq!(said[0], said[1]);

    // So slowly that it can be watched, and given up.
    write([0, 0]);
    let slow = ["--execute", "--replica-alter-log-dirs-throttle", "1000"];
    lines(ours(&slow));
    eventually(PATIENCE, "both tools see it under way", || {
        let (by_us, by_them) = (lines(ours(&["--verify"])), lines(kafkas(&["--verify"])));
        let count = by_us.iter().filter(|line| line.ends_with(" is still in progress.")).count();
        if by_us == by_them && count > 0 { Ok(()) } else { Err(format!("{by_us:?} {by_them:?}")) }
    });
    let cancelled = lines(kafkas(&["--cancel", "--preserve-throttles"]));
    assert!(
        cancelled.iter().any(|line| line.starts_with("Successfully started moving log directory to ")),
        "{cancelled:?}"
    );
    write([0, 0]);
    eventually(PATIENCE, "nothing moves", || {
        let told = lines(ours(&["--verify", "--preserve-throttles"]));
        let is_over = |line: &String| line.contains(" is still in progress.") || line.contains(" is being moved ");
        if told.iter().any(is_over) { Err(format!("{told:?}")) } else { Ok(()) }
    });
    let lines_of_ours = lines(ours(&["--cancel"]));
    assert!(lines_of_ours.iter().any(|line| line.starts_with("None of the specified partition moves are active.")));
    // A directory that no broker has.
    let text = fs::read_to_string(&file).expect("it was written");
    fs::write(&file, text.replace("data-0-0", "nowhere")).expect("it can be written");
    let (by_us, by_them) = (ours(&["--execute"]).unwrap_err(), kafkas(&["--execute"]).unwrap_err());
    let refused = |said: &str| said.lines().any(|line| line.starts_with("Error: Failed to alter dir for t-"));
    assert!(refused(&by_us.replace(": Current", ":\nCurrent")), "{by_us}");
    assert!(refused(&by_them.replace(": Current", ":\nCurrent")), "{by_them}");
}

#[test]
fn a_directory_that_fails_takes_its_partitions_with_it_and_the_last_one_the_broker() {
    let (mut cluster, dirs) = two_brokers("dir-fails", "replica.high.watermark.checkpoint.interval.ms=200");
    let mut client = cluster.client(0);
    client.create_replicated_topic("t", 4, 2, &[]);
    let groups: Vec<String> = (0..12).map(|number| format!("group-{number}")).collect();
    let coordinator_of = |cluster: &Brokers, group: &str| {
        eventually(PATIENCE, &format!("{group} has a coordinator"), || {
            let request = odradek::protocol::messages::find_coordinator::FindCoordinatorRequest {
                key: group.to_owned(),
                ..Default::default()
            };
            let found = cluster.client(1).call(&request, 2).map_err(|error| error.to_string())?;
            if found.error_code == 0 { Ok(found.node_id) } else { Err(format!("{found:?}")) }
        })
    };
    for (group, offset) in groups.iter().zip(1..) {
        let coordinator = coordinator_of(&cluster, group);
        cluster.client(coordinator).commit(group, "t", 0, offset);
    }
    for partition in 0..5 {
        cluster.until_partition("__consumer_offsets", partition, "all are in sync", |found| found.isr_nodes.len() == 2);
    }
    let in_dir = |dir: &Path| -> BTreeSet<String> {
        let entries = fs::read_dir(dir).expect("it is there").map(|entry| entry.expect("it can be read"));
        let names = entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name());
        names.map(|name| name.to_string_lossy().into_owned()).collect()
    };
    let failing = in_dir(&dirs[0][0]);
    assert!(failing.iter().any(|name| name.starts_with("t-")), "{failing:?}");
    assert!(failing.iter().any(|name| name.starts_with("__consumer_offsets-")), "{failing:?}");
    // What is not there cannot be written.
    fs::rename(&dirs[0][0], cluster.scratch.path("gone")).expect("it can be moved");
    eventually(PATIENCE, "the directory is offline", || {
        let answer = cluster.client(0).call(&DescribeLogDirsRequest { topics: None }, 4);
        let told = told(&answer.map_err(|error| error.to_string())?);
        let error_of = |at: usize| told.get(&dirs[0][at].display().to_string()).map(|(error, _)| *error);
        let errors = [error_of(0), error_of(1)];
        if errors == [Some(ErrorCode::KafkaStorageError.code()), Some(0)] { Ok(()) } else { Err(format!("{errors:?}")) }
    });
    for topic in [("t", 4), ("__consumer_offsets", 5)] {
        for partition in 0..topic.1 {
            let has_failed = failing.contains(&format!("{}-{partition}", topic.0));
            cluster.until_partition(topic.0, partition, "broker 1 leads what failed", |found| {
                !has_failed || found.leader_id == 1
            });
        }
    }
    for partition in 0..4 {
        let led = cluster.until_partition("t", partition, "it is led", |_| true);
        produce(&mut cluster.client(led.leader_id), "t", partition, "still");
    }
    let mut moved = 0;
    for (group, offset) in groups.iter().zip(1..) {
        let coordinator = coordinator_of(&cluster, group);
        eventually(PATIENCE, &format!("{group} has what it committed"), || {
            let committed = cluster.client(coordinator).try_committed(group, "t", 0)?;
            if committed == offset { Ok(()) } else { Err(format!("{committed}")) }
        });
        if coordinator == 1 {
            moved += 1;
            if Kind::under_test() != Kind::Odradek {
                continue; // A JVM broker goes on telling what it had loaded.
            }
            eventually(PATIENCE, &format!("broker 0 knows that it does not coordinate {group}"), || {
                match cluster.client(0).try_committed(group, "t", 0) {
                    Ok(offset) => Err(format!("it says {offset}")),
                    Err(_) => Ok(()),
                }
            });
        }
    }
    assert!(moved > 0, "some were in the directory");
    // The next one is the last.
    fs::rename(&dirs[0][1], cluster.scratch.path("gone-too")).expect("it can be moved");
    let ended = eventually(PATIENCE, "the broker ends", || {
        let process = cluster.brokers[0].process();
        process.has_ended().ok_or_else(|| process.last_words())
    });
    assert_eq!(ended.code(), Some(1));
    cluster.brokers[0].process = None;
    for partition in 0..4 {
        cluster.until_partition("t", partition, "broker 1 leads", |found| found.leader_id == 1);
        produce(&mut cluster.client(1), "t", partition, "still");
    }
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
