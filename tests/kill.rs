//! kill -9: the process dies, the machine does not. Under load everything acknowledged is there once and in order, and
//! the deletion of a topic goes on where it was cut short.

mod support;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use odradek::protocol::messages::delete_topics::DeleteTopicsRequest;
use odradek::protocol::messages::produce::ProduceRequest;
use odradek::record::build::BatchBuilder;
use odradek_zookeeper::session::ZooKeeper as Session;
use odradek_zookeeper::settings::Settings;
use rand::{RngExt, SeedableRng};
use support::client::{Client, outcome, produce_request, values};
use support::{Cluster, Kind, PATIENCE, eventually};
use tokio::runtime::Runtime;

/// A JVM broker, which takes seconds to start, is killed less often.
fn kills() -> u32 {
    if Kind::under_test() == Kind::Odradek { 20 } else { 3 }
}

const RECORDS_A_BATCH: i64 = 3;
/// As many batches as a broker remembers of a producer.
const IN_FLIGHT: usize = 5;
const TOPIC: &str = "load";

/// The batch whose first value is `first`; the sequence number is the value, so a batch sent twice is known.
fn batch(producer: (i64, i16), first: i64) -> Bytes {
    let sequence = i32::try_from(first).expect("the test does not run that long");
    let mut builder = BatchBuilder::new().producer(producer.0, producer.1, sequence);
    // A broker forgets a producer a day after its last record's own timestamp: it must be the real time.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_millis() as i64;
    for value in first..first + RECORDS_A_BATCH {
        builder.append(now, None, Some(format!("{value}").as_bytes()), &[]);
    }
    builder.build()
}

/// An idempotent producer that never gives up: up to five batches in flight, and whatever was not acknowledged when
/// the connection broke is sent again in order, as Kafka's own producers do.
fn produce_until(port: u16, producer: (i64, i16), stop: &AtomicBool, acknowledged: &AtomicI64) -> io::Result<()> {
    let mut client = Client::connect(port)?;
    let mut next = acknowledged.load(Ordering::SeqCst);
    let mut in_flight = VecDeque::new();
    while !stop.load(Ordering::SeqCst) {
        while in_flight.len() < IN_FLIGHT {
            let correlation_id = client.send(&produce_request(TOPIC, 0, batch(producer, next), -1), 8)?;
            in_flight.push_back(correlation_id);
            next += RECORDS_A_BATCH;
        }
        let correlation_id = in_flight.pop_front().expect("something is in flight");
        let response = client.receive::<ProduceRequest>(8, correlation_id)?;
        let expected = acknowledged.load(Ordering::SeqCst);
        match outcome(&response) {
            // The batch was there already and Kafka no longer says where: as good as an offset.
            Ok(offset) if offset == expected || offset == -1 => {}
            Ok(offset) => panic!("the batch of value {expected} is at offset {offset}"),
            Err(46) => {}
            // Not yet the leader again, and what comes of that for the batches behind: start over in order.
            Err(3 | 5 | 6 | 45) => return Err(io::Error::other("not yet led")),
            Err(code) => panic!("the batch of value {expected} is refused with error {code}"),
        }
        acknowledged.store(expected + RECORDS_A_BATCH, Ordering::SeqCst);
    }
    Ok(())
}

#[test]
fn everything_acknowledged_is_there_once_and_in_order_after_twenty_kills() {
    let mut cluster = Cluster::start("kill", "log.segment.bytes=65536\nlog.index.interval.bytes=512");
    let mut client = cluster.broker.client();
    client.create_topic(TOPIC, 1, &[]);
    let producer = eventually(support::PATIENCE, "a producer id", || client.producer_id().map_err(|e| e.to_string()));
    let seed = 20_260_000;
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicI64::new(0));
    let port = cluster.broker.port;
    std::thread::scope(|scope| {
        // A failed assertion below must end the load too.
        let _guard = StopOnDrop(&stop);
        let load = scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                // The broker is down for a moment after each kill.
                if produce_until(port, producer, &stop, &acknowledged).is_err() {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        });
        for kill in 1..=kills() {
            let before = acknowledged.load(Ordering::SeqCst);
            eventually(support::PATIENCE, &format!("load before kill {kill}"), || {
                assert!(!load.is_finished(), "the producer gave up, see above");
                let now = acknowledged.load(Ordering::SeqCst);
                if now > before + 100 { Ok(()) } else { Err(format!("{now} acknowledged, {before} before")) }
            });
            // The instant of death is what varies.
            std::thread::sleep(Duration::from_millis(rng.random_range(0..150)));
            cluster.broker.kill();
            cluster.start_broker(Kind::under_test());
        }
        stop.store(true, Ordering::SeqCst);
    });
    let acknowledged = acknowledged.load(Ordering::SeqCst);
    let mut client = cluster.broker.client();
    client.until_led(TOPIC, 1);
    let read = client.read_all(TOPIC, 0, 0).expect("the partition can be read");
    let seen = values(&read);
    assert!(seen.len() as i64 >= acknowledged, "seed {seed}: {acknowledged} acknowledged, {} there", seen.len());
    for (expected, value) in seen.iter().enumerate() {
        assert_eq!(*value, format!("{expected}"), "seed {seed}: value at {expected}");
        assert_eq!(read[expected].offset, expected as i64, "seed {seed}: offsets are dense");
    }
    println!(
        "{acknowledged} records acknowledged over {} kills, {} there, each once and in order",
        kills(),
        seen.len()
    );
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What ZooKeeper and the log directory still hold of a topic.
fn remains(cluster: &Cluster, runtime: &Runtime, zk: &Session, topic: &str) -> Vec<String> {
    let mut remains = Vec::new();
    for path in ["/brokers/topics", "/config/topics", "/admin/delete_topics"].map(|root| format!("{root}/{topic}")) {
        if runtime.block_on(zk.exists(&path)).expect("ZooKeeper answers").is_some() {
            remains.push(path);
        }
    }
    for entry in std::fs::read_dir(&cluster.broker.data).expect("the log directory is there") {
        let name = entry.expect("it can be read").file_name().to_string_lossy().into_owned();
        if name.starts_with(&format!("{topic}-")) || name.starts_with(&format!("{topic}.")) {
            remains.push(name);
        }
    }
    remains.sort_unstable();
    remains
}

fn until_gone_and_creatable(cluster: &Cluster, runtime: &Runtime, zk: &Session, topic: &str) {
    eventually(PATIENCE, &format!("nothing remains of {topic}"), || match remains(cluster, runtime, zk, topic) {
        gone if gone.is_empty() => Ok(()),
        remains => Err(format!("{remains:?}")),
    });
    let mut client = cluster.broker.client();
    client.create_topic(topic, 1, &[]);
    let produced = client.produce(topic, 0, batch((-1, -1), 0)).expect("the produce is answered");
    assert_eq!(produced, Ok(0), "the new topic begins empty");
}

const DELETED_SOON: &str = "log.segment.delete.delay.ms=1500\nlog.flush.scheduler.interval.ms=1000";
const PARTITIONS: i32 = 30;

/// A cluster that deletes soon, and a session with its ZooKeeper.
fn cluster_and_session(name: &str) -> (Cluster, Runtime, Session) {
    let cluster = Cluster::start(name, DELETED_SOON);
    let runtime = Runtime::new().expect("a runtime");
    let settings = Settings::new(format!("127.0.0.1:{}", cluster.zookeeper.port));
    let zk = runtime.block_on(Session::connect(settings)).expect("ZooKeeper runs");
    (cluster, runtime, zk)
}

#[test]
fn a_deletion_that_was_asked_for_while_the_broker_was_down_is_done_after_its_start() {
    let (mut cluster, runtime, zk) = cluster_and_session("deleted-while-down");
    let mut client = cluster.broker.client();
    client.create_topic("doomed", PARTITIONS, &[("retention.ms", "100000")]);
    client.create_topic("doomed-not", 1, &[]);
    assert_eq!(client.produce("doomed", 0, batch((-1, -1), 0)).expect("the produce is answered"), Ok(0));
    cluster.broker.kill();
    runtime.block_on(zk.mark_topic_for_deletion("doomed")).expect("ZooKeeper answers");
    assert_eq!(remains(&cluster, &runtime, &zk, "doomed").len(), 3 + PARTITIONS as usize + 1);
    cluster.start_broker(Kind::under_test());
    eventually(PATIENCE, "only the other topic remains", || {
        let remains = remains(&cluster, &runtime, &zk, "doomed");
        if remains == ["doomed-not-0"] { Ok(()) } else { Err(format!("{remains:?}")) }
    });
    let mut client = cluster.broker.client();
    client.create_topic("doomed", 1, &[]);
    assert_eq!(client.produce("doomed", 0, batch((-1, -1), 0)).expect("the produce is answered"), Ok(0));
}

#[test]
fn a_deletion_cut_short_by_a_kill_is_done_after_the_next_start() {
    let (mut cluster, runtime, zk) = cluster_and_session("deleted-cut-short");
    for (round, delay_ms) in [0, 10, 60, 120, 180, 400].into_iter().enumerate() {
        let topic = format!("doomed{round}");
        let mut client = cluster.broker.client();
        client.create_topic(&topic, PARTITIONS, &[("retention.ms", "100000")]);
        let request =
            DeleteTopicsRequest { topic_names: vec![topic.clone()], timeout_ms: 30_000, ..Default::default() };
        client.send(&request, 5).expect("the broker listens");
        let began = Instant::now();
        while !runtime.block_on(zk.is_marked_for_deletion(&topic)).expect("ZooKeeper answers") {
            // A deletion that is over already cannot be caught any more.
            if began.elapsed() > Duration::from_secs(1) {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(delay_ms)); // Where it is cut short is what varies.
        cluster.broker.kill();
        let left = remains(&cluster, &runtime, &zk, &topic);
        let renamed = left.iter().filter(|name| name.ends_with("-delete")).count();
        println!("killed {delay_ms} ms after the request was stored: {} remain, {renamed} of them renamed", left.len());
        cluster.start_broker(Kind::under_test());
        until_gone_and_creatable(&cluster, &runtime, &zk, &topic);
    }
}
