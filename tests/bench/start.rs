//! How soon a broker leads its partitions again, after kill -9 and after a clean stop, and what they cost it idle: ours, and
//! a JVM broker in the same run.
//!
//! `cargo bench --bench start` measures; `cargo test` runs it with tiny inputs and without a JVM. Settings by environment:
//! `ODRADEK_TEST_DEPS` (where tests/deps.sh installed ZooKeeper and Kafka), `ODRADEK_BINARY` (another build of the broker),
//! `BENCH_ONLY=odradek|jvm`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use load::{
    Client, Killed, batch, free_port, jvm_broker, our_broker, produce_frame, resident_kib, start_zookeeper, stop,
};
use odradek::protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use odradek::protocol::messages::metadata::MetadataRequest;
use odradek::record::build::BatchBuilder;
use zookeeper_client::Client as ZooKeeperClient;

mod load;

const PARTITIONS_A_TOPIC: usize = 500;
const KINDS: [&str; 2] = ["odradek", "jvm"];

struct Broker {
    kind: &'static str,
    config: PathBuf,
    port: u16,
    zookeeper: u16,
    chroot: String,
}

impl Broker {
    fn configure(kind: &'static str, partitions: usize, dir: &Path, zookeeper: u16) -> Broker {
        let port = free_port();
        let chroot = format!("{kind}-{partitions}");
        let config = dir.join(format!("{chroot}.properties"));
        let text = format!(
            "broker.id=0\nlisteners=PLAINTEXT://127.0.0.1:{port}\nadvertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             log.dirs={}\nzookeeper.connect=127.0.0.1:{zookeeper}/{chroot}\noffsets.topic.replication.factor=1\n\
             log.retention.ms=-1\nzookeeper.session.timeout.ms=6000\n",
            dir.join(&chroot).display()
        );
        fs::write(&config, text).expect("the configuration is written");
        Broker { kind, config, port, zookeeper, chroot }
    }

    fn start(&self) -> Killed {
        let mut command = match self.kind {
            "jvm" => jvm_broker("0,1", &self.config),
            _ => our_broker("0,1", &self.config),
        };
        Killed(command.spawn().expect("the broker starts"))
    }

    /// Until ZooKeeper has forgotten a broker that was killed: it would refuse to start before.
    fn until_forgotten(&self) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let address = format!("127.0.0.1:{}", self.zookeeper);
            let client = ZooKeeperClient::connect(&address).await.expect("ZooKeeper serves");
            let path = format!("/{}/brokers/ids/0", self.chroot);
            loop {
                let (found, watcher) = client.check_and_watch_stat(&path).await.expect("ZooKeeper answers");
                if found.is_none() {
                    return;
                }
                watcher.changed().await;
            }
        });
    }

    /// Starts it, and waits until it leads every partition: all answer where they end.
    fn start_and_lead(&self, topics: usize, partitions: usize) -> (Killed, Duration) {
        let began = Instant::now();
        let process = self.start();
        let mut client = Client::connect(self.port);
        // Nothing tells a client when a broker serves.
        while client.call(&MetadataRequest { topics: Some(Vec::new()), ..Default::default() }, 9).controller_id < 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
        for topic in 0..topics {
            while !leads(&mut client, topic, partitions) {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        (process, began.elapsed())
    }
}

fn topic_name(number: usize) -> String {
    format!("topic-{number}")
}

fn leads(client: &mut Client, topic: usize, partitions: usize) -> bool {
    let partition = |index| ListOffsetsPartition { partition_index: index, timestamp: -1, ..Default::default() };
    let partitions = (0..partitions as i32).map(partition).collect();
    let topics = vec![ListOffsetsTopic { name: topic_name(topic), partitions }];
    let answer = client.call(&ListOffsetsRequest { replica_id: -1, topics, ..Default::default() }, 5);
    answer.topics.iter().flat_map(|topic| &topic.partitions).all(|found| found.error_code == 0)
}

struct Line {
    what: String,
    value: f64,
    unit: &'static str,
}

fn measure(kind: &'static str, partitions: usize, dir: &Path, zookeeper: u16) -> Vec<Line> {
    let broker = Broker::configure(kind, partitions, dir, zookeeper);
    let (process, _) = broker.start_and_lead(0, 0);
    let mut client = Client::connect(broker.port);
    let (topics, of_topic) = (partitions.div_ceil(PARTITIONS_A_TOPIC), partitions.min(PARTITIONS_A_TOPIC));
    let records = batch(100, 10);
    for topic in 0..topics {
        client.create_topic(&topic_name(topic), of_topic as i32, 1);
        for partition in 0..of_topic {
            client.pump(&produce_frame(&topic_name(topic), partition as i32, 1, records.clone()), 1, 1);
        }
    }
    let mut lines = Vec::new();
    let mut push = |what: &str, value: f64, unit| {
        eprintln!("{kind}, {partitions} partitions: {what} {value:.2} {unit}");
        lines.push(Line { what: format!("{partitions} partitions: {what}"), value, unit });
    };
    drop(process);
    broker.until_forgotten();
    let (process, elapsed) = broker.start_and_lead(topics, of_topic);
    push("all led after kill -9", elapsed.as_secs_f64(), "s");
    stop(process);
    let (process, elapsed) = broker.start_and_lead(topics, of_topic);
    push("all led after a clean stop", elapsed.as_secs_f64(), "s");
    push("resident, idle", resident_kib(&process) as f64 / 1024.0, "MiB");
    let descriptors = fs::read_dir(format!("/proc/{}/fd", process.0.id())).expect("the process runs").count();
    push("descriptors", descriptors as f64, "");
    stop(process);
    lines
}

/// What idempotent producers cost of which each has sent one batch, with as many to a partition as it remembers.
fn measure_producers(kind: &'static str, producers: i64, dir: &Path, zookeeper: u16) -> Line {
    const A_PARTITION: i64 = 20_000;
    const AT_ONCE: i64 = 500;
    let broker = Broker::configure(kind, 0, dir, zookeeper);
    let (process, _) = broker.start_and_lead(0, 0);
    let mut client = Client::connect(broker.port);
    let partitions = (producers / A_PARTITION).max(1) as i32;
    client.create_topic("producers", partitions, 1);
    let before = resident_kib(&process);
    for partition in 0..partitions {
        for first in (0..producers.min(A_PARTITION)).step_by(AT_ONCE as usize) {
            let frames = (first..first + AT_ONCE).map(|producer| {
                let mut batch = BatchBuilder::new().producer(i64::from(partition) * A_PARTITION + producer, 0, 0);
                batch.append(1_700_000_000_000, None, Some(b"v"), &[]);
                produce_frame("producers", partition, 1, batch.build())
            });
            client.exchange(&frames.flatten().collect::<Vec<u8>>(), AT_ONCE as usize);
        }
    }
    let value = resident_kib(&process).saturating_sub(before) as f64 / 1024.0;
    eprintln!("{kind}: {producers} producers take {value:.1} MiB");
    Line { what: format!("resident for {producers} producers"), value, unit: "MiB" }
}

fn main() {
    let is_real = std::env::args().any(|argument| argument == "--bench");
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (_zookeeper, port) = start_zookeeper(dir.path());
    let sizes: &[usize] = if is_real { &[2_000, 10_000] } else { &[20] };
    let measured = KINDS.map(|kind| {
        let is_wanted = (only.is_empty() || only == kind) && (is_real || kind != "jvm");
        let sizes = if is_wanted { sizes } else { &[] };
        let mut lines: Vec<Line> =
            sizes.iter().flat_map(|&partitions| measure(kind, partitions, dir.path(), port)).collect();
        if is_wanted {
            let producers = if is_real { 1_000_000 } else { 1_000 };
            lines.push(measure_producers(kind, producers, dir.path(), port));
        }
        lines
    });
    println!("{:<44} {:>10} {:>10}  unit", "", KINDS[0], KINDS[1]);
    for Line { what, unit, .. } in measured.iter().max_by_key(|lines| lines.len()).expect("there are two") {
        let value = |lines: &Vec<Line>| {
            let line = lines.iter().find(|line| line.what == *what);
            line.map_or_else(|| "-".to_owned(), |line| format!("{:.2}", line.value))
        };
        println!("{what:<44} {:>10} {:>10}  {unit}", value(&measured[0]), value(&measured[1]));
    }
    if !is_real {
        println!("tiny inputs: the numbers above say only that the bench runs");
    }
}
