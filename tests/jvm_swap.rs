//! A JVM broker takes over our data directory and ZooKeeper after we stop, and we take over its: in either direction,
//! as often as one likes, after an orderly stop and after kill -9, everything is there and goes on.

mod support;

use odradek::record::compression::Codec;
use support::client::{batch, values};
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
}

/// What the current holder must find, and what it adds.
fn takes_over(cluster: &mut Cluster, history: &mut History, holder: &str) {
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
    // A topic of this holder's own, so that each kind finds some that the other has created.
    if history.topics.is_empty() {
        history.topics = CODECS.iter().map(|(name, _)| format!("swap-{name}")).collect();
    }
    history.written.extend(added);
    client.create_topic(&format!("made-by-{holder}"), 1, &[]);
    history.committed = history.written.len() as i64 - 3;
    client.commit("kept", "swap-none", 0, history.committed);
}

fn swap(name: &str, settings: &str, holders: &[(Kind, bool)]) {
    // A JVM broker that starts on a busy machine is silent for seconds.
    let settings = format!("zookeeper.session.timeout.ms=6000\n{settings}");
    let mut cluster = Cluster::start_as(holders[0].0, name, &settings);
    let mut history = History { written: Vec::new(), committed: -1, topics: Vec::new() };
    for (turn, (kind, is_killed)) in holders.iter().enumerate() {
        if turn > 0 {
            cluster.start_broker(*kind);
        }
        let holder = format!("{}-{turn}", if *kind == Kind::Odradek { "odradek" } else { "jvm" });
        takes_over(&mut cluster, &mut history, &holder);
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
}

fn ours() -> Kind {
    Kind::under_test()
}

#[test]
fn a_jvm_broker_takes_over_from_us_and_we_from_it_after_orderly_stops() {
    swap("swap", "", &[(ours(), false), (JVM, false), (ours(), false), (JVM, false)]);
}

#[test]
fn a_jvm_broker_takes_over_from_us_and_we_from_it_after_kills() {
    swap("swap-killed", "", &[(JVM, true), (ours(), true), (JVM, true), (ours(), false)]);
}

#[test]
fn a_jvm_broker_of_2_8_takes_over_from_us_at_its_inter_broker_protocol() {
    let settings = "inter.broker.protocol.version=2.8";
    swap("swap-28", settings, &[(ours(), false), (JVM_2_8, false), (ours(), true), (JVM_2_8, true)]);
}
