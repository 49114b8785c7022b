//! What others' work does to the latency of small requests at a fixed rate: the compaction of logs that change all the time,
//! and consumers that read what is not in the page cache. Ours, and a JVM broker in the same run.
//!
//! Latency counts from when a request was due, so one that is late makes those behind it late too; but not for how late the
//! client's own thread gets a processor for it, which is told beside it.
//!
//! `cargo bench --bench latency` measures; `cargo test` runs it with tiny inputs and without a JVM. Settings by environment:
//! `ODRADEK_TEST_DEPS` (where tests/deps.sh installed ZooKeeper and Kafka), `ODRADEK_BINARY` (another build of the broker),
//! `BENCH_ONLY=odradek|jvm`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use load::{Client, Killed, free_port, jvm_broker, our_broker, produce_frame, start_zookeeper};
use odradek::protocol::message::Payload;
use odradek::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use odradek::protocol::messages::metadata::MetadataRequest;
use odradek::protocol::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use odradek::record::build::BatchBuilder;
use rustix::fs::{Advice, fadvise};

mod load;

const KINDS: [&str; 2] = ["odradek", "jvm"];
const RATE: u32 = 500;
const READERS: usize = 8;
/// Each reads a megabyte so often: not the processor but the disk is what they share with others.
const READ_EVERY: Duration = Duration::from_millis(80);
/// Of the log that changes: batches of 16 records of 1 KiB, as many in each turn of 10 ms.
const CHANGES_A_TURN: usize = 6;

struct Broker {
    data: PathBuf,
    port: u16,
    _process: Killed,
}

impl Broker {
    fn start(kind: &str, name: &str, settings: &str, dir: &Path, zookeeper: u16) -> Broker {
        let port = free_port();
        let chroot = format!("{kind}-{name}");
        let (config, data) = (dir.join(format!("{chroot}.properties")), dir.join(&chroot));
        let text = format!(
            "broker.id=0\nlisteners=PLAINTEXT://127.0.0.1:{port}\nadvertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             log.dirs={}\nzookeeper.connect=127.0.0.1:{zookeeper}/{chroot}\noffsets.topic.replication.factor=1\n\
             log.segment.bytes=16777216\nlog.segment.delete.delay.ms=0\nlog.initial.task.delay.ms=0\n\
             log.retention.check.interval.ms=1000\nlog.retention.ms=-1\nlog.cleaner.backoff.ms=50\n{settings}\n",
            data.display()
        );
        fs::write(&config, text).expect("the configuration is written");
        let mut command = match kind {
            "jvm" => jvm_broker("0,1", &config),
            _ => our_broker("0,1", &config),
        };
        let process = Killed(command.spawn().expect("the broker starts"));
        let mut client = Client::connect(port);
        while client.call(&MetadataRequest { topics: Some(Vec::new()), ..Default::default() }, 9).controller_id < 0 {
            // Nothing tells a client when a broker serves.
            std::thread::sleep(Duration::from_millis(5));
        }
        Broker { data, port, _process: process }
    }
}

/// A load beside what is measured, until it is dropped.
struct Beside {
    stops: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Beside {
    fn new(works: impl IntoIterator<Item = Box<dyn FnMut() + Send>>) -> Beside {
        let stops = Arc::new(AtomicBool::new(false));
        let threads = works.into_iter().map(|mut work| {
            let stops = Arc::clone(&stops);
            std::thread::spawn(move || {
                // What they take of their own core is not what is measured.
                rustix::process::setpriority_process(None, 10).expect("one may always be nicer");
                while !stops.load(Ordering::Relaxed) {
                    work();
                }
            })
        });
        Beside { threads: threads.collect(), stops }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("the load has ended well");
        }
    }
}

fn keyed(key: usize, value_bytes: usize, records: usize) -> Bytes {
    let mut batch = BatchBuilder::new();
    let value: Vec<u8> = (0..value_bytes).map(|i| (i * 131 % 251) as u8).collect();
    for record in 0..records {
        batch.append(1_700_000_000_000, Some((key + record).to_string().as_bytes()), Some(&value), &[]);
    }
    batch.build()
}

fn fetch(topic: &str, offset: i64, bytes: i32) -> FetchRequest {
    let partition = FetchPartition { fetch_offset: offset, partition_max_bytes: bytes, ..Default::default() };
    let topics = vec![FetchTopic { topic: topic.into(), partitions: vec![partition], ..Default::default() }];
    FetchRequest { replica_id: -1, max_wait_ms: 500, min_bytes: 1, max_bytes: bytes, topics, ..Default::default() }
}

/// 10 MB a second of changes to 16,000 keys.
fn changes(broker: &Broker) -> Beside {
    let mut client = Client::connect(broker.port);
    client.create_topic("changing", 1, 1);
    let batches = (0..1_000).map(|at| produce_frame("changing", 0, 1, keyed(at * 16, 1024, 16)));
    let frames: Vec<Vec<u8>> = batches.collect();
    let (mut next, mut due) = (0, Instant::now());
    let change: Box<dyn FnMut() + Send> = Box::new(move || {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due += Duration::from_millis(10);
        let turn: Vec<u8> = frames.iter().cycle().skip(next).take(CHANGES_A_TURN).flatten().copied().collect();
        next = (next + CHANGES_A_TURN) % frames.len();
        client.exchange(&turn, CHANGES_A_TURN);
    });
    Beside::new([change])
}

/// Topics for readers, each as long.
fn fill(broker: &Broker, bytes: usize) {
    let mut client = Client::connect(broker.port);
    for reader in 0..READERS {
        let topic = format!("cold-{reader}");
        client.create_topic(&topic, 1, 1);
        let frame = produce_frame(&topic, 0, 1, keyed(0, 1024, 64));
        client.pump(&frame, bytes / frame.len() + 1, 4);
    }
    drop_from_page_cache(&broker.data);
}

/// What the broker has written to the topics of readers is on the disk alone from now on.
fn drop_from_page_cache(data: &Path) {
    for reader in 0..READERS {
        let entries = fs::read_dir(data.join(format!("cold-{reader}-0"))).expect("the topic is there");
        for entry in entries.flatten().filter(|entry| entry.path().extension().is_some_and(|ext| ext == "log")) {
            let file = File::open(entry.path()).expect("a segment");
            // Only what is on the disk can be dropped.
            file.sync_data().expect("the disk works");
            fadvise(&file, 0, None, Advice::DontNeed).expect("a file");
        }
    }
}

/// Consumers that read their topics from end to end, and begin again with nothing of it in memory.
fn cold_readers(broker: &Broker, read: &Arc<AtomicU64>) -> Beside {
    let reader = |reader: usize| -> Box<dyn FnMut() + Send> {
        let (mut client, data, read) = (Client::connect(broker.port), broker.data.clone(), Arc::clone(read));
        let (topic, mut offset, mut due) = (format!("cold-{reader}"), 0, Instant::now());
        Box::new(move || {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            due += READ_EVERY;
            let answer = client.call(&fetch(&topic, offset, 1 << 20), 11);
            let partition = &answer.responses[0].partitions[0];
            let bytes = match &partition.records {
                Some(Payload::Bytes(bytes)) => bytes.len(),
                _ => 0,
            };
            read.fetch_add(bytes as u64, Ordering::Relaxed);
            // Each batch has 64 records, and its frame a few bytes more than they.
            let batches = bytes / (64 * 1024);
            offset += 64 * batches as i64;
            if batches == 0 {
                offset = 0;
                if reader == 0 {
                    drop_from_page_cache(&data);
                }
            }
        })
    };
    Beside::new((0..READERS).map(reader))
}

struct Line {
    what: String,
    value: f64,
    unit: &'static str,
}

/// Sends a record and fetches it, at a fixed rate.
fn at_fixed_rate(broker: &Broker, beside: &str, seconds: u32, lines: &mut Vec<Line>) {
    let mut client = Client::connect(broker.port);
    let topic = format!("measured-{}", beside.replace(' ', "-"));
    client.create_topic(&topic, 1, 1);
    let mut produced = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("three digits");
    let (mut fetched, mut woken) = (produced.clone(), produced.clone());
    let began = Instant::now();
    for number in 0..RATE * seconds {
        let mut due = began + Duration::from_secs(1) * number / RATE;
        if let Some(left) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(left);
            woken.saturating_record(due.elapsed().as_micros() as u64);
            due = Instant::now();
        }
        let data =
            PartitionProduceData { index: 0, records: Some(Payload::Bytes(keyed(number as usize % 100, 120, 1))) };
        let topic_data = vec![TopicProduceData { name: topic.as_str().into(), partition_data: vec![data] }];
        let request = ProduceRequest { acks: 1, timeout_ms: 30_000, topic_data, ..Default::default() };
        let answer = client.call(&request, 8);
        let answer = &answer.responses[0].partition_responses[0];
        assert_eq!(answer.error_code, 0);
        let acknowledged = Instant::now();
        produced.saturating_record((acknowledged - due).as_micros() as u64);
        let found = client.call(&fetch(&topic, answer.base_offset, 1 << 20), 11);
        assert_eq!(found.responses[0].partitions[0].error_code, 0);
        fetched.saturating_record(acknowledged.elapsed().as_micros() as u64);
    }
    for (what, latencies) in [("produce", produced), ("fetch", fetched), ("client woken", woken)] {
        for quantile in [0.5, 0.99] {
            let value = latencies.value_at_quantile(quantile) as f64 / 1e3;
            let what = format!("{what} p{} {beside}", quantile * 100.0);
            eprintln!("{what}: {value:.2} ms");
            lines.push(Line { what, value, unit: "ms" });
        }
    }
}

fn measure(kind: &str, dir: &Path, zookeeper: u16, is_real: bool) -> Vec<Line> {
    eprintln!("measuring {kind}");
    let seconds = if is_real { 20 } else { 1 };
    let mut lines = Vec::new();
    let kept = "log.cleanup.policy=delete\nlog.retention.bytes=268435456";
    let compacted = "log.cleanup.policy=compact\nlog.cleaner.min.cleanable.ratio=0.01";
    for (name, beside, settings) in
        [("kept", "beside changes that are kept", kept), ("compacted", "beside changes that are compacted", compacted)]
    {
        let broker = Broker::start(kind, name, settings, dir, zookeeper);
        let changing = changes(&broker);
        // Warm, and with something to compact.
        at_fixed_rate(&broker, "at first", seconds / 2, &mut Vec::new());
        at_fixed_rate(&broker, beside, seconds, &mut lines);
        drop(changing);
    }
    let broker = Broker::start(kind, "cold", "", dir, zookeeper);
    fill(&broker, if is_real { 256 << 20 } else { 1 << 20 });
    at_fixed_rate(&broker, "at first", seconds / 2, &mut Vec::new());
    at_fixed_rate(&broker, "alone", seconds, &mut lines);
    let read = Arc::new(AtomicU64::new(0));
    let readers = cold_readers(&broker, &read);
    let began = Instant::now();
    at_fixed_rate(&broker, "beside eight cold readers", seconds, &mut lines);
    let value = read.load(Ordering::Relaxed) as f64 / 1e6 / began.elapsed().as_secs_f64();
    lines.push(Line { what: "read by them".into(), value, unit: "MB/s" });
    drop(readers);
    lines
}

fn main() {
    let is_real = std::env::args().any(|argument| argument == "--bench");
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (_zookeeper, port) = start_zookeeper(dir.path());
    let measured = KINDS.map(|kind| {
        let is_wanted = (only.is_empty() || only == kind) && (is_real || kind != "jvm");
        if is_wanted { measure(kind, dir.path(), port, is_real) } else { Vec::new() }
    });
    println!("{:<50} {:>10} {:>10}  unit", "", KINDS[0], KINDS[1]);
    for Line { what, unit, .. } in measured.iter().max_by_key(|lines| lines.len()).expect("there are two") {
        let value = |lines: &Vec<Line>| {
            let line = lines.iter().find(|line| line.what == *what);
            line.map_or_else(|| "-".to_owned(), |line| format!("{:.2}", line.value))
        };
        println!("{what:<50} {:>10} {:>10}  {unit}", value(&measured[0]), value(&measured[1]));
    }
    if !is_real {
        println!("tiny inputs: the numbers above say only that the bench runs");
    }
}
