//! Kafka Streams and Connect with exactly-once, unchanged, against one broker and against three: brokers and the application
//! are killed and started again, and what comes out is what was put in, each once. Those of 3.9 in a cluster that has finalized
//! nothing, and those of 4.1 in one that has version 2 of the transaction protocol, which they follow.
//!
//! Each kind of death comes once; `ODRADEK_EXACTLY_ONCE_SECONDS` goes on for longer.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use odradek::protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use odradek::protocol::messages::metadata::MetadataRequest;
use odradek::record::read::batches;
use rustix::process::Signal;
use support::transactional::{commits, features, segments, until_finalized, version_2};
use support::{Brokers, Kind, PATIENCE, Process, deps, eventually, free_port, repository, tied};

/// Frequent segments, so that changelogs are compacted, in little memory.
const SETTINGS: &str = "\
transaction.state.log.num.partitions=5
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
log.segment.bytes=200000
log.cleaner.backoff.ms=1000
log.cleaner.dedupe.buffer.size=4000000
replica.fetch.backoff.ms=200
";

/// Of the applications, as tests/deps.sh names their jars, and the version of the transaction protocol that is finalized for it.
#[derive(Clone, Copy)]
struct Release {
    streams: &'static str,
    connect: &'static str,
    transaction_version: i16,
}

const OLD: Release = Release { streams: "streams-3.9.1", connect: "kafka-3.9.1", transaction_version: 0 };
const NEW: Release = Release { streams: "streams-4.1.0", connect: "connect-4.1.0", transaction_version: 2 };

/// Each has several JVMs.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Starts a process of an application, told which it is, and how many have been started with it.
type Start = dyn Fn(&Brokers, usize, usize) -> Process;

/// A cluster and an application of one or more processes.
struct Stage {
    /// They end before the brokers.
    application: Vec<Process>,
    cluster: Brokers,
    start: Box<Start>,
    starts: usize,
}

/// All of which have every topic, most of them always.
fn cluster_of(release: Release, brokers: i16, name: &str, topics: &[&str]) -> Brokers {
    let in_sync = brokers / 2 + 1;
    let settings = format!(
        "{SETTINGS}default.replication.factor={brokers}\nmin.insync.replicas={in_sync}\n\
         transaction.state.log.min.isr={in_sync}\n"
    );
    let cluster = Brokers::start(&format!("{name}-{brokers}"), brokers.into(), &settings);
    for topic in topics {
        cluster.client(0).create_replicated_topic(topic, 2, brokers, &[]);
    }
    if is_finalized(release) {
        let upgrade = format!("upgrade --feature transaction.version={}", release.transaction_version);
        let told = features(&cluster.addresses(), &upgrade, |script, words, fed| cluster.script(script, words, fed));
        assert!(told.contains("was upgraded to"), "{told}");
        until_finalized(&cluster, &version_2());
    }
    cluster
}

/// No JVM broker on ZooKeeper knows the feature.
fn is_finalized(release: Release) -> bool {
    release.transaction_version > 0 && Kind::under_test() == Kind::Odradek
}

/// Each commit in the topic's logs brings another epoch of its producer, or none does.
fn assert_followed(release: Release, cluster: &Brokers, topic: &str) {
    let logs = [0, 1].map(|partition| cluster.brokers[0].data.join(format!("{topic}-{partition}")));
    let commits: Vec<_> = logs.iter().flat_map(|log| commits(log)).collect();
    assert!(!commits.is_empty(), "something is committed");
    assert!(commits.iter().all(|(epoch, next)| (epoch < next) == is_finalized(release)), "{topic}: {commits:?}");
}

impl Stage {
    /// As many processes as there are brokers, up to two.
    fn with(cluster: Brokers, start: impl Fn(&Brokers, usize, usize) -> Process + 'static) -> Stage {
        let mut stage = Stage { application: Vec::new(), cluster, start: Box::new(start), starts: 0 };
        for number in 0..stage.cluster.brokers.len().min(2) {
            let process = stage.start(number);
            stage.application.push(process);
        }
        stage
    }

    fn start(&mut self, number: usize) -> Process {
        self.starts += 1;
        (self.start)(&self.cluster, number, self.starts)
    }

    /// Kills and stops, one after the other, and waits in between until more of the output is committed.
    fn suffer(&mut self, output: &str) {
        let seconds = std::env::var("ODRADEK_EXACTLY_ONCE_SECONDS").map_or(0, |text| text.parse().expect("a number"));
        let (began, duration) = (Instant::now(), Duration::from_secs(seconds));
        self.until_progress(output);
        for round in 0.. {
            let broker = round / 4 % self.cluster.brokers.len();
            let part = round / 4 % self.application.len();
            until_in_sync(&self.cluster);
            match round % 4 {
                0 => self.cluster.brokers[broker].kill(),
                2 => drop(self.cluster.brokers[broker].stop()),
                _ => self.application[part].kill(),
            }
            // Of three brokers the others go on, and of two processes the other.
            if self.application.len() > 1 {
                self.until_progress(output);
            }
            match round % 4 {
                0 | 2 => self.cluster.start_broker(broker, Kind::under_test()),
                _ => self.application[part] = self.start(part),
            }
            self.until_progress(output);
            if round + 1 >= 4 * self.cluster.brokers.len() && began.elapsed() >= duration {
                println!("{} rounds in {:?}", round + 1, began.elapsed());
                return;
            }
        }
    }

    fn stop_application(&mut self) {
        for process in &mut self.application {
            let status = process.terminate();
            // A JVM ends with what the signal makes of it, and one that has just been started by the signal.
            let is_asked = status.code() == Some(143) || status.signal() == Some(Signal::TERM.as_raw());
            assert!(is_asked, "{status}: {}", process.last_words());
        }
    }

    fn until_progress(&mut self, output: &str) {
        let total = |cluster: &Brokers| stable(cluster, output).map(|(stable, _)| stable);
        let before = eventually(2 * PATIENCE, "the output's ends are told", || total(&self.cluster));
        eventually(2 * PATIENCE, &format!("more of {output} is committed"), || {
            for process in &mut self.application {
                // One that was killed was meant to be.
                if let Some(status) = process.has_ended().filter(|status| status.code().is_some()) {
                    panic!("{} ended, {status}: {}", process.name, process.last_words());
                }
            }
            let now = total(&self.cluster)?;
            if now > before { Ok(()) } else { Err(format!("{now} is stable")) }
        });
    }
}

/// So that any broker may go.
fn until_in_sync(cluster: &Brokers) {
    eventually(2 * PATIENCE, "all replicas of all topics are in sync", || {
        let all = MetadataRequest { topics: None, allow_auto_topic_creation: false, ..Default::default() };
        let metadata = cluster.client(0).call(&all, 9).map_err(|error| error.to_string())?;
        let mut partitions = metadata.topics.iter().flat_map(|topic| &topic.partitions);
        match partitions.find(|partition| partition.isr_nodes.len() != partition.replica_nodes.len()) {
            None => Ok(()),
            Some(lagging) => Err(format!("{lagging:?}")),
        }
    });
}

/// The sum of the last stable offsets of a topic of two partitions, and that of its ends.
fn stable(cluster: &Brokers, topic: &str) -> Result<(i64, i64), String> {
    let running = cluster.brokers.iter().find(|broker| broker.process.is_some()).ok_or("nobody runs")?;
    let connect = |port| support::client::Client::connect(port).map_err(|error| error.to_string());
    let metadata = connect(running.port)?.metadata(&[topic]).map_err(|error| error.to_string())?;
    let (mut stable, mut all) = (0, 0);
    for partition in &metadata.topics[0].partitions {
        let leader = usize::try_from(partition.leader_id).map_err(|_| format!("{partition:?}"))?;
        let mut leader = connect(cluster.brokers[leader].port)?;
        for (isolation_level, sum) in [(1, &mut stable), (0, &mut all)] {
            let asked = ListOffsetsPartition {
                partition_index: partition.partition_index,
                timestamp: -1,
                ..Default::default()
            };
            let topics = vec![ListOffsetsTopic { name: topic.to_owned(), partitions: vec![asked] }];
            let request = ListOffsetsRequest { replica_id: -1, isolation_level, topics };
            let told = leader.call(&request, 4).map_err(|error| error.to_string())?;
            let told = &told.topics[0].partitions[0];
            if told.error_code != 0 {
                return Err(format!("{told:?}"));
            }
            *sum += told.offset;
        }
    }
    Ok((stable, all))
}

/// Each broker has compacted its replica, transactions and all: fewer records are in it than there were.
fn until_compacted(cluster: &Brokers, log: &str) {
    for broker in &cluster.brokers {
        eventually(PATIENCE, &format!("broker {} has compacted {log}", broker.id), || {
            // A segment may be replaced while it is looked for.
            let bytes = segments(&broker.data.join(log)).map_err(|error| error.to_string())?;
            let (mut records, mut end) = (0, 0);
            for batch in batches(&bytes).map_while(Result::ok) {
                records += i64::from(batch.header().record_count);
                end = batch.header().base_offset + i64::from(batch.header().last_offset_delta) + 1;
            }
            if records < end { Ok(()) } else { Err(format!("{records} records up to {end}")) }
        });
    }
}

/// `java` of little memory, with these classes of ours before those of a release.
fn java(classes: &Path, jars: &Path) -> Command {
    let mut command = tied("java");
    command.args([
        "-Xmx256M",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
    ]);
    command.arg(format!("-Dlog4j.configuration=file:{}", repository("config/tools-log4j.properties").display()));
    command.arg("-cp").arg(format!("{}:{}/*", classes.display(), jars.display()));
    command
}

fn compiled(cluster: &Brokers, source: &str, jars: &Path) -> PathBuf {
    let classes = cluster.scratch.path("classes");
    let mut compiler = tied("javac");
    compiler.arg("-nowarn").arg("-d").arg(&classes).arg("-cp").arg(jars.join("*"));
    let compiled = compiler.arg(repository(&format!("tests/jvm/{source}"))).output().expect("there is javac");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    classes
}

/// What is committed in a topic now, as Java's consumer reads it: keys with their values, in order.
fn read(release: Release, cluster: &Brokers, classes: &Path, topic: &str) -> BTreeMap<String, Vec<String>> {
    let mut command = java(classes, &deps(release.streams));
    let output = command.args(["Streams", "read", &cluster.addresses(), topic]).output().expect("there is java");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in said.lines() {
        let (key, value) = line.split_once(' ').expect("a key and a value");
        found.entry(key.to_owned()).or_default().push(value.to_owned());
    }
    found
}

/// The transactions that are open end by themselves.
fn until_all_is_stable(cluster: &Brokers, topic: &str) {
    eventually(PATIENCE, &format!("no transaction is open in {topic}"), || {
        let (stable, end) = stable(cluster, topic)?;
        if stable == end { Ok(()) } else { Err(format!("{stable} of {end}")) }
    });
}

fn streams(release: Release, brokers: i16) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = cluster_of(release, brokers, "streams", &["lines", "left", "right", "counted", "joined"]);
    let classes = compiled(&cluster, "Streams.java", &deps(release.streams));
    let mut feeder = java(&classes, &deps(release.streams));
    feeder.args(["Streams", "produce", &cluster.addresses()]);
    let mut feeder = Process::start("the feeder", &mut feeder, cluster.scratch.path("feeder.log"));
    let of_application = classes.clone();
    let mut stage = Stage::with(cluster, move |cluster, number, starts| {
        let state = cluster.scratch.path(&format!("state-{number}"));
        // Every other time it has lost its state, and restores it from the changelogs.
        if starts % 2 == 0 {
            let _ = fs::remove_dir_all(&state);
        }
        let mut command = java(&of_application, &deps(release.streams));
        command.args(["Streams", "run", &cluster.addresses()]).arg(state).arg(cluster.brokers.len().to_string());
        let name = format!("application-{number}");
        Process::start(&name, &mut command, cluster.scratch.path(&format!("{name}.log")))
    });
    stage.suffer("counted");
    assert!(feeder.terminate().success(), "{}", feeder.last_words());
    let said = feeder.said();
    let sent = said.lines().find_map(|line| line.strip_prefix("sent ")).expect("it says how many");
    let sent: u64 = sent.parse().expect("a number");

    let mut words: BTreeMap<String, u64> = BTreeMap::new();
    for line in 0..sent {
        for at in 0..5 {
            *words.entry(format!("w{}", (line * 7 + at * 3) % 20)).or_default() += 1;
        }
    }
    let counted: BTreeMap<String, Vec<String>> =
        words.into_iter().map(|(word, count)| (word, (1..=count).map(|n| n.to_string()).collect())).collect();
    let joined: BTreeMap<String, Vec<String>> =
        (0..sent).map(|key| (format!("k{key}"), vec![format!("l{key}+r{key}")])).collect();
    for (topic, expected) in [("counted", counted), ("joined", joined)] {
        let wanted: usize = expected.values().map(Vec::len).sum();
        let found = eventually(2 * PATIENCE, &format!("all of {topic} is there"), || {
            let found = read(release, &stage.cluster, &classes, topic);
            let count: usize = found.values().map(Vec::len).sum();
            if count >= wanted { Ok(found) } else { Err(format!("{count} of {wanted}")) }
        });
        for (key, values) in &expected {
            assert_eq!(found.get(key), Some(values), "{topic}: {key}");
        }
        assert_eq!(found.len(), expected.len(), "{topic} has other keys");
        println!("{topic}: {wanted} records, each once");
    }
    stage.stop_application();
    for topic in ["counted", "joined"] {
        until_all_is_stable(&stage.cluster, topic);
        assert_followed(release, &stage.cluster, topic);
    }
    for partition in 0..2 {
        until_compacted(&stage.cluster, &format!("streams-counts-changelog-{partition}"));
    }
}

#[test]
fn streams_counts_and_joins_each_record_once_with_one_broker() {
    streams(OLD, 1);
}

#[test]
fn streams_counts_and_joins_each_record_once_with_three_brokers_in_transactions_of_version_2() {
    streams(NEW, 3);
}

/// Speaks to a Connect worker.
fn ask(port: u16, method: &str, path: &str, body: &str) -> Result<String, String> {
    let said = TcpStream::connect(("127.0.0.1", port)).and_then(|mut socket| {
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        write!(
            socket,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut said = String::new();
        socket.read_to_string(&mut said)?;
        Ok(said)
    });
    let said = said.map_err(|error| error.to_string())?;
    if said.starts_with("HTTP/1.1 2") { Ok(said) } else { Err(said) }
}

fn connect(release: Release, brokers: i16) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = cluster_of(release, brokers, "connect", &["numbers"]);
    let classes = compiled(&cluster, "Numbers.java", &deps(release.connect));
    let services = classes.join("META-INF/services");
    fs::create_dir_all(&services).expect("the scratch directory can be written");
    fs::write(services.join("org.apache.kafka.connect.source.SourceConnector"), "Numbers\n").expect("so can a file");
    let ports = [free_port(), free_port()];
    let mut stage = Stage::with(cluster, move |cluster, number, _| {
        let name = format!("worker-{number}");
        let settings = cluster.scratch.path(&format!("{name}.properties"));
        let replicas = cluster.brokers.len();
        let text = format!(
            "bootstrap.servers={}\ngroup.id=workers\nexactly.once.source.support=enabled\nplugin.discovery=service_load\n\
             listeners=http://127.0.0.1:{}\nscheduled.rebalance.max.delay.ms=0\n\
             session.timeout.ms=6000\nheartbeat.interval.ms=1000\nproducer.transaction.timeout.ms=10000\n\
             key.converter=org.apache.kafka.connect.storage.StringConverter\n\
             value.converter=org.apache.kafka.connect.storage.StringConverter\n\
             config.storage.topic=workers-configs\noffset.storage.topic=workers-offsets\nstatus.storage.topic=workers-status\n\
             offset.storage.partitions=2\nstatus.storage.partitions=1\n\
             config.storage.replication.factor={replicas}\noffset.storage.replication.factor={replicas}\n\
             status.storage.replication.factor={replicas}\n",
            cluster.addresses(),
            ports[number]
        );
        fs::write(&settings, text).expect("the scratch directory can be written");
        let mut command = java(&classes, &deps(release.connect));
        command.arg("org.apache.kafka.connect.cli.ConnectDistributed").arg(&settings);
        Process::start(&name, &mut command, cluster.scratch.path(&format!("{name}.log")))
    });
    let settings =
        r#"{"connector.class":"Numbers","tasks.max":"2","topic":"numbers","exactly.once.support":"required"}"#;
    eventually(2 * PATIENCE, "the connector is there", || {
        let last_words = stage.application[0].last_words();
        ask(ports[0], "PUT", "/connectors/numbers/config", settings).map_err(|said| format!("{said}; {last_words}"))
    });
    stage.suffer("numbers");
    stage.stop_application();
    until_all_is_stable(&stage.cluster, "numbers");
    assert_followed(release, &stage.cluster, "numbers");
    let classes = compiled(&stage.cluster, "Streams.java", &deps(release.streams));
    let found = read(release, &stage.cluster, &classes, "numbers");
    assert_eq!(found.keys().map(String::as_str).collect::<BTreeSet<_>>(), ["t0", "t1"].into());
    for (task, numbers) in found {
        let expected: Vec<String> = (0..numbers.len()).map(|number| number.to_string()).collect();
        assert_eq!(numbers, expected, "what {task} has counted");
        println!("{task}: {} numbers, each once", numbers.len());
    }
}

#[test]
fn a_connect_source_writes_each_record_once_with_one_broker_in_transactions_of_version_2() {
    connect(NEW, 1);
}

#[test]
fn a_connect_source_writes_each_record_once_with_three_brokers() {
    connect(OLD, 3);
}
