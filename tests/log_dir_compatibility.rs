//! Kafka's own tool for segment files finds nothing to complain about in a directory that we wrote.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use odradek::config::log::LogConfig;
use odradek::config::sections::LogDirsConfig;
use odradek::log::Log;
use odradek::log::dirs::LogDirs;
use odradek::model::{LeaderEpoch, TopicPartition};
use odradek::record::append::{AcceptedSets, AppendOrigin, AppendRules, prepare};
use odradek::record::build::BatchBuilder;
use odradek::record::compression::Codec;

fn kafka_jars() -> PathBuf {
    let deps = std::env::var_os("ODRADEK_TEST_DEPS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-deps")), PathBuf::from);
    let jars = deps.join("kafka-3.9.1");
    assert!(
        jars.join("kafka_2.13-3.9.1.jar").exists(),
        "{} is missing: run tests/deps.sh, which installs it",
        jars.display()
    );
    jars
}

fn append(log: &Log, batch: BatchBuilder, epoch: i32, origin: AppendOrigin) {
    let rules = AppendRules { origin, accepted_sets: AcceptedSets::Any, ..AppendRules::default() };
    let mut prepared = prepare(batch.build(), &rules, 0).expect("a valid batch");
    let info = log.append_as_leader(&mut prepared, LeaderEpoch(epoch), origin, 0).expect("appended");
    log.update_high_watermark(info.log_end_offset);
}

/// Several segments with all codecs, idempotent and transactional producers, an aborted transaction, and timestamps
/// that go back and forth.
fn write_sample(log: &Log) {
    let codecs = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    let mut sequence = 0;
    for i in 0..400_i64 {
        let mut batch = BatchBuilder::new().compression(codecs[i as usize % 5], None).producer(
            1000 + i % 3,
            2,
            if i % 3 == 0 { sequence } else { (i / 3) as i32 * 3 },
        );
        for record in 0..3 {
            let timestamp = 1_700_000_000_000 + (i * 7919) % 5000 * 10 + record;
            batch.append(timestamp, Some(b"key"), Some(&[b'v'; 60]), &[(b"h", None)]);
        }
        if i % 3 == 0 {
            sequence += 3;
        }
        append(log, batch, (i / 150) as i32, AppendOrigin::Client);
        if i % 50 == 10 {
            let mut batch = BatchBuilder::new().producer(7, 0, (i / 50) as i32).transactional(true);
            batch.append(1_700_000_000_000 + i, None, Some(b"in a transaction"), &[]);
            append(log, batch, (i / 150) as i32, AppendOrigin::Client);
        }
        if i % 50 == 30 {
            let mut marker = BatchBuilder::new().producer(7, 0, -1).transactional(true).control(true);
            let kind = u8::from(i % 100 == 30);
            marker.append(1_700_000_000_000 + i, Some(&[0, 0, 0, kind]), Some(&[0, 0, 0, 0, 0, 3]), &[]);
            append(log, marker, (i / 150) as i32, AppendOrigin::Coordinator);
        }
    }
}

fn dump(jars: &Path, files: &[PathBuf], flags: &[&str]) -> String {
    let listed: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let output = Command::new("java")
        .args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"])
        .arg(format!("{}/*", jars.display()))
        .args(["kafka.tools.DumpLogSegments", "--files", &listed.join(",")])
        .args(flags)
        .output()
        .expect("java is on the PATH");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn kafkas_dump_tool_finds_every_file_sound() {
    let jars = kafka_jars();
    let root = tempfile::tempdir().expect("a temporary directory");
    let topic_defaults = LogConfig { segment_bytes: 16_384, index_interval_bytes: 1000, ..LogConfig::default() };
    let config = LogDirsConfig {
        dirs: vec![root.path().to_path_buf()],
        topic_defaults: topic_defaults.clone(),
        ..LogDirsConfig::default()
    };
    let (failures, _) = tokio::sync::mpsc::unbounded_channel();
    let dirs = LogDirs::open(&config, failures).expect("openable");
    dirs.load(&|_| Arc::new(LogConfig::default()), 0, &|_| {}).expect("loadable");
    let tp = TopicPartition::new("t", 0);
    let log = dirs.get_or_create(&tp, None, Arc::new(topic_defaults), true, 0).expect("creatable");
    write_sample(&log);
    assert!(log.segment_count() >= 4);
    let (end, producers) = (log.log_end_offset(), log.producers());
    dirs.shutdown(0);

    let dir = root.path().join("t-0");
    let mut files: Vec<PathBuf> = fs::read_dir(&dir)
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|e| ["log", "index", "timeindex", "txnindex", "snapshot"].iter().any(|k| e == *k))
        })
        .collect();
    files.sort();
    assert!(files.iter().filter(|file| file.extension().is_some_and(|e| e == "txnindex")).count() >= 2);

    let text = dump(&jars, &files, &["--deep-iteration"]);
    for complaint in
        ["mismatch", "Mismatch", "Found", "not found", "Non-consecutive", "invalid", "isvalid: false", "out of order"]
    {
        let found = text.lines().find(|line| line.contains(complaint));
        assert_eq!(found, None, "the tool complains");
    }
    assert_eq!(text.matches("| offset: ").count() as i64, end.0, "every record is listed once");
    let last = format!("{:020}.snapshot", end.0);
    let of_last_snapshot = text.split("Dumping ").find(|part| part.lines().next().is_some_and(|l| l.contains(&last)));
    let of_last_snapshot = of_last_snapshot.expect("the snapshot of the shutdown is dumped");
    for producer in producers {
        let expected = format!(
            "producerId: {} producerEpoch: {} coordinatorEpoch: {} currentTxnFirstOffset: {} lastTimestamp: {}",
            producer.producer_id,
            producer.producer_epoch,
            producer.coordinator_epoch,
            producer
                .current_txn_first_offset
                .map_or("OptionalLong.empty".to_string(), |offset| format!("OptionalLong[{offset}]")),
            producer.last_timestamp_ms,
        );
        assert!(of_last_snapshot.contains(&expected), "{expected} is not in\n{of_last_snapshot}");
    }

    let indexes: Vec<PathBuf> =
        files.into_iter().filter(|file| file.extension().is_some_and(|e| e == "index" || e == "timeindex")).collect();
    let text = dump(&jars, &indexes, &["--index-sanity-check"]);
    assert_eq!(text.matches("passed sanity check").count(), indexes.len(), "{text}");
}
