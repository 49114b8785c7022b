//! kill -9 under load: the process dies, the machine does not. Everything acknowledged is there once and in order.

mod support;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use odradek::protocol::messages::produce::ProduceRequest;
use odradek::record::build::BatchBuilder;
use rand::{RngExt, SeedableRng};
use support::client::{Client, outcome, produce_request, values};
use support::{Cluster, Kind, eventually};

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
