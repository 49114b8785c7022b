//! What a transaction costs the broker that coordinates it and has its partition, in CPU time of its process: ours, and a
//! JVM broker under the same load in the same run. What is measured is pinned to one core and the load to the other.
//!
//! Each transaction takes in one partition, appends one batch and is committed, by version 0 of the protocol, which both
//! speak. A producer whose last transaction is still being ended asks again a millisecond later.
//!
//! `cargo bench --bench transactions` measures; `cargo test` runs it with tiny inputs and without a JVM. Settings by
//! environment: `ODRADEK_TEST_DEPS` (where tests/deps.sh installed ZooKeeper and Kafka), `ODRADEK_BINARY` (another build of
//! the broker), `BENCH_ONLY=odradek|jvm`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;
use load::{Client, Killed, cpu, frame, free_port, jvm_broker, our_broker, resident_kib, start_zookeeper, stop};
use odradek::protocol::error_code::ErrorCode;
use odradek::protocol::message::Payload;
use odradek::protocol::messages::add_partitions_to_txn::{AddPartitionsToTxnRequest, AddPartitionsToTxnTopic};
use odradek::protocol::messages::describe_transactions::DescribeTransactionsRequest;
use odradek::protocol::messages::end_txn::EndTxnRequest;
use odradek::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use odradek::protocol::messages::find_coordinator::FindCoordinatorRequest;
use odradek::protocol::messages::init_producer_id::InitProducerIdRequest;
use odradek::protocol::messages::list_transactions::ListTransactionsRequest;
use odradek::protocol::messages::metadata::MetadataRequest;
use odradek::protocol::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use odradek::record::build::BatchBuilder;
use odradek::record::read::batches;

mod load;

const KINDS: [&str; 2] = ["odradek", "jvm"];
const ADD: i16 = 3;
const PRODUCE: i16 = 8;
const END: i16 = 3;
const FETCH: i16 = 11;
const INIT: i16 = 4;
const VALUE_BYTES: usize = 100;
const TOPIC: &str = "measured";
const PARTITIONS: usize = 10;
const READ_TOPIC: &str = "read";
/// Of those that are read, one in so many is aborted.
const ABORTED_EVERY: usize = 10;
/// The transaction before is being ended, and nothing tells a client when it is: it asks again, as they all do.
const ENDING_BACKOFF: Duration = Duration::from_millis(1);
/// As transaction.state.log.num.partitions has it if nobody says otherwise.
const STATE_PARTITIONS: usize = 50;

/// How much of each is done.
struct Scale {
    run: Duration,
    warm_up: Duration,
    read_transactions: usize,
    ids: usize,
}

const REAL: Scale =
    Scale { run: Duration::from_secs(5), warm_up: Duration::from_secs(8), read_transactions: 5_000, ids: 100_000 };
const TINY: Scale =
    Scale { run: Duration::from_millis(100), warm_up: Duration::from_millis(100), read_transactions: 40, ids: 500 };

struct Broker {
    kind: &'static str,
    config: PathBuf,
    port: u16,
    process: Killed,
}

impl Broker {
    fn start(kind: &'static str, dir: &Path, zookeeper: u16) -> Broker {
        let port = free_port();
        let config = dir.join(format!("{kind}.properties"));
        let text = format!(
            "broker.id=0\nlisteners=PLAINTEXT://127.0.0.1:{port}\nadvertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             log.dirs={}\nzookeeper.connect=127.0.0.1:{zookeeper}/{kind}\noffsets.topic.replication.factor=1\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\nlog.retention.ms=-1\n",
            dir.join(kind).display()
        );
        fs::write(&config, text).expect("the configuration is written");
        let process = Broker::spawn(kind, &config);
        let broker = Broker { kind, config, port, process };
        let mut client = broker.client();
        until("it serves", || {
            let known = client.call(&MetadataRequest { topics: Some(Vec::new()), ..Default::default() }, 9);
            (known.controller_id >= 0).then_some(())
        });
        broker
    }

    fn spawn(kind: &str, config: &Path) -> Killed {
        let mut command = match kind {
            "jvm" => jvm_broker("0", config),
            _ => our_broker("0", config),
        };
        Killed(command.spawn().expect("the broker starts"))
    }

    fn client(&self) -> Client {
        Client::connect(self.port)
    }

    /// Stops it in order and starts it again; when that began.
    fn restart(self) -> (Broker, Instant) {
        let Broker { kind, config, port, process } = self;
        stop(process);
        let began = Instant::now();
        let process = Broker::spawn(kind, &config);
        (Broker { kind, config, port, process }, began)
    }
}

/// What only asking again shows.
fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whoever is told so asks again.
fn is_for_now(code: i16) -> bool {
    matches!(
        ErrorCode::from_code(code),
        ErrorCode::ConcurrentTransactions
            | ErrorCode::CoordinatorLoadInProgress
            | ErrorCode::CoordinatorNotAvailable
            | ErrorCode::NotCoordinator
            | ErrorCode::NotEnoughReplicas
    )
}

/// Asks until the answer stays.
fn settled(mut ask: impl FnMut() -> i16) {
    let code = until("an answer that stays", || {
        let code = ask();
        (!is_for_now(code)).then_some(code)
    });
    assert_eq!(code, 0, "{}", ErrorCode::from_code(code));
}

fn init(id: String) -> InitProducerIdRequest {
    InitProducerIdRequest { transactional_id: Some(id), transaction_timeout_ms: 60_000, ..Default::default() }
}

/// A producer whose requests are made once: only the sequence of its batch changes, and with it the checksum.
struct Producer {
    client: Client,
    add: Vec<u8>,
    produce: Vec<u8>,
    batch_starts_at: usize,
    commit: Vec<u8>,
    abort: Vec<u8>,
    records: i32,
    sequence: i32,
}

impl Producer {
    fn new(broker: &Broker, id: &str, topic: &str, partition: i32, records: i32) -> Producer {
        let mut client = broker.client();
        let mut known = None;
        settled(|| {
            let told = client.call(&init(id.to_owned()), INIT);
            known = Some((told.producer_id, told.producer_epoch));
            told.error_code
        });
        let (producer_id, producer_epoch) = known.expect("it was answered");
        let add = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: id.to_owned(),
            v3_and_below_producer_id: producer_id,
            v3_and_below_producer_epoch: producer_epoch,
            v3_and_below_topics: vec![AddPartitionsToTxnTopic { name: topic.to_owned(), partitions: vec![partition] }],
            ..Default::default()
        };
        let end = |committed| {
            let request = EndTxnRequest { transactional_id: id.to_owned(), producer_id, producer_epoch, committed };
            frame(&request, END, 1)
        };
        let mut batch = BatchBuilder::new().producer(producer_id, producer_epoch, 0).transactional(true);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later than that");
        for _ in 0..records {
            batch.append(now.as_millis() as i64, None, Some(&[7; VALUE_BYTES]), &[]);
        }
        let batch = batch.build();
        let batch_bytes = batch.len();
        let partition_data = vec![PartitionProduceData { index: partition, records: Some(Payload::Bytes(batch)) }];
        let request = ProduceRequest {
            transactional_id: Some(id.to_owned()),
            acks: -1,
            timeout_ms: 30_000,
            topic_data: vec![TopicProduceData { name: topic.to_owned(), partition_data }],
        };
        let produce = frame(&request, PRODUCE, 1);
        Producer {
            client,
            add: frame(&add, ADD, 1),
            // Nothing comes behind it in this version.
            batch_starts_at: produce.len() - batch_bytes,
            produce,
            commit: end(true),
            abort: end(false),
            records,
            sequence: 0,
        }
    }

    /// One transaction; how long its end took to be answered.
    fn transact(&mut self, is_committed: bool) -> Duration {
        let Producer { client, add, produce, .. } = self;
        loop {
            let told = client.call_framed::<AddPartitionsToTxnRequest>(add, ADD, 1);
            match told.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code {
                0 => break,
                code => assert!(is_for_now(code), "{}", ErrorCode::from_code(code)),
            }
            std::thread::sleep(ENDING_BACKOFF);
        }
        let batch = &mut produce[self.batch_starts_at..];
        batch[53..57].copy_from_slice(&self.sequence.to_be_bytes());
        let crc = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        self.sequence += self.records;
        settled(|| {
            let told = client.call_framed::<ProduceRequest>(produce, PRODUCE, 1);
            told.responses[0].partition_responses[0].error_code
        });
        let asked = Instant::now();
        let end = if is_committed { &self.commit } else { &self.abort };
        settled(|| client.call_framed::<EndTxnRequest>(end, END, 1).error_code);
        asked.elapsed()
    }
}

/// All of them at once, for so long. How many transactions that came to, and the latencies of their ends.
fn transact(producers: &mut [Producer], time: Duration) -> Histogram<u64> {
    let until = Instant::now() + time;
    let mut ends = Histogram::<u64>::new(3).expect("three digits are allowed");
    std::thread::scope(|scope| {
        let threads: Vec<_> = producers
            .iter_mut()
            .map(|producer| {
                scope.spawn(move || {
                    let mut ends = Histogram::<u64>::new(3).expect("three digits are allowed");
                    while Instant::now() < until {
                        ends.record(producer.transact(true).as_micros() as u64).expect("it resizes itself");
                    }
                    ends
                })
            })
            .collect();
        for thread in threads {
            ends.add(thread.join().expect("the producer gets on")).expect("of one kind");
        }
    });
    ends
}

struct Line {
    what: String,
    value: f64,
    unit: &'static str,
}

#[derive(Default)]
struct Lines(Vec<Line>);

impl Lines {
    fn push(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        let what = what.into();
        eprintln!("measured: {what} {value:.2} {unit}");
        self.0.push(Line { what, value, unit });
    }
}

fn measure_transactions(broker: &Broker, scale: &Scale, lines: &mut Lines) {
    broker.client().create_topic(TOPIC, PARTITIONS as i32, 1);
    let producers = |count: usize, records: i32| -> Vec<Producer> {
        let producer =
            |at: usize| Producer::new(broker, &format!("producer-{at}"), TOPIC, (at % PARTITIONS) as i32, records);
        (0..count).map(producer).collect()
    };
    transact(&mut producers(100, 1), scale.warm_up);
    for (count, records) in [(1, 1), (1, 100), (100, 1), (100, 100)] {
        let mut producers = producers(count, records);
        let before = cpu(&broker.process);
        let ends = transact(&mut producers, scale.run);
        let spent = (cpu(&broker.process) - before).as_secs_f64();
        let what = format!("{count} producer(s), {records} record(s) each");
        lines.push(what, ends.len() as f64 / spent, "transactions/CPU-second");
        if (count, records) == (1, 1) {
            for quantile in [0.5, 0.99] {
                let value = ends.value_at_quantile(quantile) as f64 / 1e3;
                lines.push(format!("EndTxn, 1 producer, p{}", quantile * 100.0), value, "ms");
            }
        }
    }
}

fn fetch(offset: i64, bytes: i32, isolation_level: i8) -> FetchRequest {
    let partition = FetchPartition { fetch_offset: offset, partition_max_bytes: bytes, ..Default::default() };
    let topics = vec![FetchTopic { topic: READ_TOPIC.into(), partitions: vec![partition], ..Default::default() }];
    FetchRequest { max_wait_ms: 500, min_bytes: 1, max_bytes: bytes, isolation_level, topics, ..Default::default() }
}

/// The offsets from which a reader that takes so much at once reads the topic, the bytes of it all, and how many aborted
/// transactions it is told of.
fn reads(client: &mut Client, bytes: i32, isolation_level: i8) -> (Vec<i64>, usize, usize) {
    let (mut offsets, mut next, mut read, mut aborted) = (Vec::new(), 0, 0, 0);
    loop {
        let answer = client.call(&fetch(next, bytes, isolation_level), FETCH);
        let found = &answer.responses[0].partitions[0];
        assert_eq!(found.error_code, 0);
        let Some(Payload::Bytes(records)) = &found.records else { return (offsets, read, aborted) };
        // What is cut off at the end is no batch.
        let Some(last) = batches(records).filter_map(Result::ok).last() else { return (offsets, read, aborted) };
        offsets.push(next);
        next = last.header().next_offset();
        read += records.len();
        aborted += found.aborted_transactions.as_ref().map_or(0, Vec::len);
    }
}

/// The same topic for readers of committed records and for others.
fn measure_reads(broker: &Broker, scale: &Scale, lines: &mut Lines) {
    const WRITERS: usize = 20;
    let mut client = broker.client();
    client.create_topic(READ_TOPIC, 1, 1);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                let mut producer = Producer::new(broker, &format!("writer-{writer}"), READ_TOPIC, 0, 100);
                for number in 0..scale.read_transactions / WRITERS {
                    producer.transact(!(number + writer).is_multiple_of(ABORTED_EVERY));
                }
            });
        }
    });
    let aborted = until("all transactions have ended", || {
        let (_, all, _) = reads(&mut client, 1 << 20, 0);
        let (_, committed, aborted) = reads(&mut client, 1 << 20, 1);
        (all == committed).then_some(aborted)
    });
    assert!(aborted >= scale.read_transactions / ABORTED_EVERY, "{aborted}");
    for (size, bytes) in [("64 KiB", 64 << 10), ("1 MiB", 1 << 20)] {
        for (level, isolation_level) in [("uncommitted", 0), ("committed", 1)] {
            let (offsets, _, _) = reads(&mut client, bytes, isolation_level);
            let frames: Vec<Vec<u8>> =
                offsets.into_iter().map(|offset| frame(&fetch(offset, bytes, isolation_level), FETCH, 1)).collect();
            let mut read_for = |time: Duration| {
                let (began, mut received) = (Instant::now(), 0);
                while began.elapsed() < time {
                    received += frames.iter().map(|frame| client.pump(frame, 1, 1).0).sum::<u64>();
                }
                received
            };
            read_for(scale.run / 5);
            let before = cpu(&broker.process);
            let received = read_for(scale.run / 2);
            let spent = (cpu(&broker.process) - before).as_secs_f64();
            let what = format!("read {level}, {size} a fetch");
            lines.push(what, received as f64 / 1e6 / spent, "MB/CPU-second");
        }
    }
}

fn id(number: usize) -> String {
    format!("transactional-id-{number}")
}

/// The partition of a transactional id, by Java's hash of strings.
fn state_partition(id: &str) -> usize {
    let hash = id.bytes().fold(0i32, |hash, byte| hash.wrapping_mul(31).wrapping_add(i32::from(byte)));
    hash.checked_abs().unwrap_or(0) as usize % STATE_PARTITIONS
}

/// Ids that are made, and then loaded by the broker's next life.
fn measure_loading(broker: Broker, scale: &Scale, lines: &mut Lines) {
    const CONNECTIONS: usize = 8;
    const WINDOW: usize = 10;
    let before = cpu(&broker.process);
    std::thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let mut client = broker.client();
            scope.spawn(move || {
                let mut wanted: Vec<usize> = (connection..scale.ids).step_by(CONNECTIONS).collect();
                while !wanted.is_empty() {
                    let asked = wanted.split_off(wanted.len().saturating_sub(WINDOW));
                    let frames: Vec<u8> = asked.iter().flat_map(|at| frame(&init(id(*at)), INIT, 1)).collect();
                    std::io::Write::write_all(&mut client.stream, &frames).expect("the broker reads");
                    for at in asked {
                        let code = client.answer::<InitProducerIdRequest>(INIT, 1).error_code;
                        assert!(code == 0 || is_for_now(code), "{}", ErrorCode::from_code(code));
                        if code != 0 {
                            wanted.push(at);
                        }
                    }
                }
            });
        }
    });
    let spent = (cpu(&broker.process) - before).as_secs_f64();
    lines.push("InitProducerId of new ids", scale.ids as f64 / spent, "ids/CPU-second");

    // One of each partition tells when that one is loaded.
    let first = (0..scale.ids).map(|at| (state_partition(&id(at)), id(at)));
    let transactional_ids: Vec<String> = first.rev().collect::<BTreeMap<_, _>>().into_values().collect();
    assert_eq!(transactional_ids.len(), STATE_PARTITIONS);
    let (broker, began) = broker.restart();
    let mut client = broker.client();
    let describe = DescribeTransactionsRequest { transactional_ids };
    until("all are loaded", || {
        let told = client.call(&describe, 0);
        told.transaction_states.iter().all(|state| state.error_code == 0).then_some(())
    });
    let (took, spent) = (began.elapsed(), cpu(&broker.process));
    let listed = client.call(&ListTransactionsRequest { duration_filter: -1, ..Default::default() }, 0);
    let found = listed.transaction_states.iter().filter(|state| state.transactional_id.starts_with("transactional-id"));
    assert_eq!((listed.error_code, found.count()), (0, scale.ids));
    let what = "100,000 ids: from start until all are answered";
    lines.push(what, took.as_secs_f64(), "s");
    lines.push("CPU time until then", spent.as_secs_f64(), "s");
    lines.push("resident with them", resident_kib(&broker.process) as f64 / 1024.0, "MiB");
}

fn measure(kind: &'static str, dir: &Path, zookeeper: u16, scale: &Scale) -> Vec<Line> {
    eprintln!("measuring {kind}");
    let broker = Broker::start(kind, dir, zookeeper);
    let mut client = broker.client();
    settled(|| {
        let request = FindCoordinatorRequest { key: "producer-0".to_owned(), key_type: 1, ..Default::default() };
        client.call(&request, 3).error_code
    });
    let mut lines = Lines::default();
    measure_transactions(&broker, scale, &mut lines);
    measure_reads(&broker, scale, &mut lines);
    measure_loading(broker, scale, &mut lines);
    lines.0
}

fn main() {
    let is_real = std::env::args().any(|argument| argument == "--bench");
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let dir = tempfile::tempdir().expect("a temporary directory");
    load::pin_load();
    let (_zookeeper, port) = start_zookeeper(dir.path());
    let scale = if is_real { REAL } else { TINY };
    let measured = KINDS.map(|kind| {
        // A JVM that is not warm says nothing: only a real run starts one.
        let is_wanted = (only.is_empty() || only == kind) && (is_real || kind != "jvm");
        if is_wanted { measure(kind, dir.path(), port, &scale) } else { Vec::new() }
    });
    println!("{:<50} {:>12} {:>12}  unit", "", KINDS[0], "jvm 3.9.1");
    let longest = measured.iter().max_by_key(|lines| lines.len()).expect("two were measured");
    for Line { what, unit, .. } in longest {
        let numbers = measured.each_ref().map(|lines| {
            let line = lines.iter().find(|line| line.what == *what);
            line.map_or_else(|| "-".to_owned(), |line| format!("{:.2}", line.value))
        });
        let [ours, jvm] = numbers;
        println!("{what:<50} {ours:>12} {jvm:>12}  {unit}");
    }
    if !is_real {
        println!("tiny inputs: the numbers above say only that the bench runs");
    }
}
