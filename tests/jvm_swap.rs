//! A JVM broker takes over our data directory and ZooKeeper after we stop, and we take over its: in either direction,
//! as often as one likes, after an orderly stop and after kill -9, everything is there and goes on.

mod support;

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use odradek::record::build::BatchBuilder;
use odradek::record::compression::Codec;
use support::client::{Client, batch, values};
use support::member::Member;
use support::{Cluster, Kind, eventually};

const JVM: Kind = Kind::Jvm("3.9.1");
const JVM_2_8: Kind = Kind::Jvm("2.8.2");
const CODECS: [(&str, Codec); 5] = [
    ("none", Codec::None),
    ("gzip", Codec::Gzip),
    ("snappy", Codec::Snappy),
    ("lz4", Codec::Lz4),
    ("zstd", Codec::Zstd),
];
/// What each holder of the data adds to each topic.
const ADDED: usize = 40;

struct History {
    /// Values of partition 0 of each topic, in order.
    written: Vec<String>,
    committed: i64,
    topics: Vec<String>,
    member: Option<Member>,
    producer: Option<Producer>,
}

/// An idempotent producer that knows nothing of who holds the data.
struct Producer {
    id: i64,
    epoch: i16,
    sequence: i32,
}

const SEQUENCED: &str = "swap-sequenced";
const MEMBERS_GROUP: &str = "swap-members";

/// A producer whose last record is old is forgotten with the next start.
fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right").as_millis() as i64
}

/// Older formats have no headers, and a batch with some cannot be written in them.
fn without_headers(values: &[String]) -> Bytes {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder.append(now_ms(), None, Some(value.as_bytes()), &[]);
    }
    builder.build()
}

impl Producer {
    fn batch(&self, sequence: i32) -> Bytes {
        let mut builder = BatchBuilder::new().producer(self.id, self.epoch, sequence);
        builder.append(now_ms(), None, Some(format!("{sequence}").as_bytes()), &[]);
        builder.build()
    }

    /// One batch at a time, so that the offset is the sequence.
    fn goes_on(&mut self, client: &mut Client, holder: &str) {
        client.until_led(SEQUENCED, 1);
        let mut produce = |sequence: i32| {
            let outcome = client.produce(SEQUENCED, 0, self.batch(sequence)).expect("Produce is answered");
            (sequence, outcome)
        };
        if self.sequence > 0 {
            let repeated = self.sequence - 1;
            assert_eq!(produce(repeated), (repeated, Ok(i64::from(repeated))), "{holder} knows what it has");
        }
        const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
        let missing = self.sequence + 1;
        if self.sequence > 0 {
            assert_eq!(produce(missing), (missing, Err(OUT_OF_ORDER_SEQUENCE_NUMBER)), "{holder} sees the gap");
        }
        for sequence in self.sequence..self.sequence + 3 {
            assert_eq!(produce(sequence), (sequence, Ok(i64::from(sequence))), "{holder} takes the next");
        }
        self.sequence += 3;
    }
}

/// What the current holder must find, and what it adds.
fn takes_over(cluster: &mut Cluster, history: &mut History, formats: &[&str], holder: &str) {
    let mut client = cluster.broker.client();
    for topic in &history.topics {
        client.until_led(topic, 3);
        let read = client.read_all(topic, 0, 0).unwrap_or_else(|error| panic!("{holder} reads {topic}: {error}"));
        assert_eq!(values(&read), history.written, "{holder} reads {topic}");
        let offsets: Vec<i64> = read.iter().map(|record| record.offset).collect();
        assert_eq!(
            offsets,
            (0..history.written.len() as i64).collect::<Vec<_>>(),
            "{holder} keeps the offsets of {topic}"
        );
    }
    if history.committed >= 0 {
        assert_eq!(client.committed("kept", "swap-none", 0), history.committed, "{holder} knows the committed offset");
    }
    let added: Vec<String> = (0..ADDED).map(|i| format!("{holder}-{i}-{}", "y".repeat(60))).collect();
    for (name, codec) in CODECS {
        let topic = format!("swap-{name}");
        if !history.topics.contains(&topic) {
            client.create_topic(&topic, 3, &[("segment.bytes", "4096"), ("index.interval.bytes", "256")]);
        }
        for part in added.chunks(8) {
            let base = eventually(support::PATIENCE, "the batch is accepted", || {
                let outcome = client.produce(&topic, 0, batch(codec, part.to_vec())).map_err(|e| e.to_string())?;
                outcome.map_err(|code| format!("error {code}"))
            });
            assert!(base >= history.written.len() as i64, "{holder} appends behind the end, at {base}");
        }
    }
    for format in formats {
        let topic = format!("swap-format-{format}");
        if !history.topics.contains(&topic) {
            client.create_topic(&topic, 3, &[("segment.bytes", "4096"), ("message.format.version", format)]);
        }
        for part in added.chunks(8) {
            let produced = client.produce(&topic, 0, without_headers(part));
            let outcome = produced.expect("Produce is answered");
            assert!(outcome.is_ok(), "{holder} takes format {format}: {outcome:?}");
        }
    }
    let coordinator = || {
        let mut client = cluster.broker.client();
        client.until_coordinated(MEMBERS_GROUP);
        client
    };
    match &history.member {
        Some(member) => member.is_known(&coordinator, holder),
        None => history.member = Some(Member::joins(MEMBERS_GROUP, &coordinator)),
    }
    let producer = history.producer.get_or_insert_with(|| {
        client.create_topic(SEQUENCED, 1, &[]);
        let (id, epoch) =
            eventually(support::PATIENCE, "a producer id", || client.producer_id().map_err(|e| e.to_string()));
        Producer { id, epoch, sequence: 0 }
    });
    producer.goes_on(&mut client, holder);
    // A topic of this holder's own, so that each kind finds some that the other has created.
    if history.topics.is_empty() {
        let names = CODECS.iter().map(|(name, _)| format!("swap-{name}"));
        history.topics = names.chain(formats.iter().map(|format| format!("swap-format-{format}"))).collect();
    }
    history.written.extend(added);
    client.create_topic(&format!("made-by-{holder}"), 1, &[]);
    history.committed = history.written.len() as i64 - 3;
    client.commit("kept", "swap-none", 0, history.committed);
}

/// `formats` are versions of Kafka whose record formats are written too.
fn swap(name: &str, settings: &str, formats: &[&str], holders: &[(Kind, bool)]) {
    // A JVM broker that starts on a busy machine is silent for seconds.
    let settings = format!("zookeeper.session.timeout.ms=6000\n{settings}");
    let mut cluster = Cluster::start_as(holders[0].0, name, &settings);
    let mut history = History { written: Vec::new(), committed: -1, topics: Vec::new(), member: None, producer: None };
    for (turn, (kind, is_killed)) in holders.iter().enumerate() {
        if turn > 0 {
            cluster.start_broker(*kind);
        }
        let holder = format!("{}-{turn}", if *kind == Kind::Odradek { "odradek" } else { "jvm" });
        takes_over(&mut cluster, &mut history, formats, &holder);
        if *is_killed {
            cluster.broker.kill();
        } else {
            cluster.broker.stop();
            let said = std::fs::read_to_string(cluster.scratch.path("broker.log")).unwrap_or_default();
            assert!(!said.contains("FATAL"), "{holder} stops in order: {said}");
        }
    }
    // The last word has a JVM broker or ours, whoever was first: it finds what all have left.
    cluster.start_broker(holders[0].0);
    let mut client = cluster.broker.client();
    client.until_led("swap-zstd", 3);
    let read = client.read_all("swap-zstd", 0, 0).expect("it reads");
    assert_eq!(values(&read), history.written);
    assert_eq!(client.committed("kept", "swap-none", 0), history.committed);
    for (magic, format) in formats.iter().enumerate() {
        let file = cluster.broker.data.join(format!("swap-format-{format}-0/00000000000000000000.log"));
        let bytes = std::fs::read(&file).expect("a log has a first segment");
        assert_eq!(usize::from(bytes[16]), magic, "{} has the records of {format}", file.display());
    }
}

fn ours() -> Kind {
    Kind::under_test()
}

#[test]
fn a_jvm_broker_takes_over_from_us_and_we_from_it_after_orderly_stops() {
    swap("swap", "", &[], &[(ours(), false), (JVM, false), (ours(), false), (JVM, false)]);
}

#[test]
fn a_jvm_broker_takes_over_from_us_and_we_from_it_after_kills() {
    swap("swap-killed", "", &[], &[(JVM, true), (ours(), true), (JVM, true), (ours(), false)]);
}

#[test]
fn a_jvm_broker_of_2_8_takes_over_from_us_at_its_inter_broker_protocol() {
    let settings = "inter.broker.protocol.version=2.8";
    swap(
        "swap-28",
        settings,
        &["0.9.0", "0.10.0"],
        &[(ours(), false), (JVM_2_8, false), (ours(), true), (JVM_2_8, true)],
    );
}
