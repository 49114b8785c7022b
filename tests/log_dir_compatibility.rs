//! A directory that we wrote is sound to Kafka's own tool for segment files and opens in a JVM broker's log; one that
//! a JVM wrote opens in ours; and for the same batches both write the same bytes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use odradek::config::log::LogConfig;
use odradek::config::sections::LogDirsConfig;
use odradek::log::dirs::LogDirs;
use odradek::log::dirs::startup::LoadProgress;
use odradek::log::{FirstBatch, Log, OffsetQuery, ReadUntil};
use odradek::model::{LeaderEpoch, Offset, TopicPartition};
use odradek::record::append::prepare;
use odradek::record::append_rules::{AcceptedSets, AppendOrigin, AppendRules};
use odradek::record::batch::Batches;
use odradek::record::build::BatchBuilder;
use odradek::record::compression::Codec;
use odradek::record::read;

/// In a future that no producer expires before.
const T0: i64 = 4_000_000_000_000;

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
    log.lead(LeaderEpoch(epoch)).expect("epochs rise");
    log.write_small_files().expect("writable");
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
            let timestamp = T0 + (i * 7919) % 5000 * 10 + record;
            batch.append(timestamp, Some(b"key"), Some(&[b'v'; 60]), &[(b"h", None)]);
        }
        if i % 3 == 0 {
            sequence += 3;
        }
        append(log, batch, (i / 150) as i32, AppendOrigin::Client);
        if i % 50 == 10 {
            let mut batch = BatchBuilder::new().producer(7, 0, (i / 50) as i32).transactional(true);
            batch.append(T0 + i, None, Some(b"in a transaction"), &[]);
            append(log, batch, (i / 150) as i32, AppendOrigin::Client);
        }
        if i % 50 == 30 {
            let mut marker = BatchBuilder::new().producer(7, 0, -1).transactional(true).control(true);
            let kind = u8::from(i % 100 == 30);
            marker.append(T0 + i, Some(&[0, 0, 0, kind]), Some(&[0, 0, 0, 0, 0, 3]), &[]);
            append(log, marker, (i / 150) as i32, AppendOrigin::Coordinator);
        }
    }
}

fn topic_config() -> LogConfig {
    LogConfig { segment_bytes: 16_384, index_interval_bytes: 1000, retention_ms: None, ..LogConfig::default() }
}

/// Our log dirs on `root`, loaded.
fn open(root: &Path) -> LogDirs {
    let config = LogDirsConfig {
        dirs: vec![root.to_path_buf()],
        // The producers of these tests are years old.
        producer_id_expiration_ms: i64::MAX,
        ..LogDirsConfig::default()
    };
    let (failures, _) = tokio::sync::mpsc::unbounded_channel();
    let dirs = LogDirs::open(&config, failures, Arc::default()).expect("openable");
    let was_clean = root.join(".kafka_cleanshutdown").exists();
    let recovered = AtomicU64::new(0);
    let on_progress = |progress: LoadProgress| recovered.store(progress.segments_recovered, Ordering::Relaxed);
    dirs.load(&|_| Arc::new(topic_config()), 0, &on_progress).expect("loadable");
    assert!(!was_clean || recovered.into_inner() == 0, "what was written by whomever is taken as it is");
    dirs
}

fn partition() -> TopicPartition {
    TopicPartition::new("t", 0)
}

fn java(jars: &Path) -> Command {
    let mut command = Command::new("java");
    command
        .args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"])
        .arg(format!("{}/*", jars.display()));
    command
}

/// What the JVM's log says of a directory that it has written or opened.
fn jvm_facts(jars: &Path, arguments: &[&str]) -> Vec<String> {
    let output = java(jars)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/jvm/LogDir.java"))
        .args(arguments)
        .output()
        .expect("java is on the PATH");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let known = ["start ", "end ", "segments ", "epochs ", "records ", "producers ", "at ", "aborted "];
    text.lines().filter(|line| known.iter().any(|word| line.starts_with(word))).map(str::to_string).collect()
}

/// The same of ours, as tests/jvm/LogDir.java prints it.
fn facts(log: &Log) -> Vec<String> {
    log.update_high_watermark(log.log_end_offset());
    let bounds = log.bounds();
    let (mut next, mut count, mut digest) = (bounds.log_start_offset, 0, 0_i64);
    while next < bounds.log_end_offset {
        for record in read::records(&read_from(log, next)) {
            let record = record.expect("a readable record");
            digest = digest.wrapping_mul(31).wrapping_add(record.offset * 7).wrapping_add(record.timestamp);
            next = Offset(record.offset + 1);
            count += 1;
        }
    }
    let mut producers: Vec<String> = log
        .producers()
        .iter()
        .map(|p| format!("{}:{}:{}:{}", p.producer_id, p.producer_epoch, p.last_sequence, p.coordinator_epoch))
        .collect();
    producers.sort();
    let epochs: Vec<String> = log.epochs().iter().map(|e| format!("{}:{}", e.epoch, e.start_offset)).collect();
    let at = log.offset_for_timestamp(OffsetQuery::AtOrAfter(T0 + 20_000)).expect("readable").expect("a record");
    let mut aborted = BTreeSet::new();
    let mut next = bounds.log_start_offset;
    loop {
        let fetched = log.read(next, u32::MAX, ReadUntil::LastStableOffset, FirstBatch::Whole).expect("readable");
        aborted.extend(fetched.aborted_transactions.iter().map(|txn| txn.last_offset));
        let Some(region) = fetched.region else { break };
        let mut bytes = vec![0; region.len as usize];
        region.file.read_exact_at(&mut bytes, region.position).expect("readable");
        next = Offset(Batches::new(&bytes).flatten().last().expect("a batch").header.next_offset());
    }
    vec![
        format!("start {}", bounds.log_start_offset),
        format!("end {}", bounds.log_end_offset),
        format!("segments {}", log.segment_count()),
        format!("epochs [{}]", epochs.join(", ")),
        format!("records {count} {digest}"),
        format!("producers [{}]", producers.join(", ")),
        format!("at {} {}", at.offset, at.timestamp_ms),
        format!("aborted {}", aborted.len()),
    ]
}

fn read_from(log: &Log, from: Offset) -> Bytes {
    let region =
        log.read(from, 1 << 20, ReadUntil::LogEnd, FirstBatch::Whole).expect("readable").region.expect("a batch");
    let mut bytes = vec![0; region.len as usize];
    region.file.read_exact_at(&mut bytes, region.position).expect("readable");
    Bytes::from(bytes)
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("writable");
    for entry in fs::read_dir(from).expect("readable") {
        let path = entry.expect("readable").path();
        fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("writable");
    }
}

/// Every file that must be the same to the byte. Snapshots list producers in no particular order.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(dir)
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .map(|path| {
            (path.file_name().expect("a name").to_string_lossy().into_owned(), fs::read(&path).expect("readable"))
        })
        .map(
            |(name, content)| {
                if name.ends_with(".snapshot") { (name, sorted_snapshot(&content)) } else { (name, content) }
            },
        )
        .collect();
    files.sort();
    files
}

fn sorted_snapshot(content: &[u8]) -> Vec<u8> {
    let (header, producers) = content.split_at(10);
    let mut producers: Vec<&[u8]> = producers.chunks(46).collect();
    producers.sort();
    [&header[..2], &header[6..], &producers.concat()].concat()
}

#[test]
fn a_jvm_and_we_open_each_others_directories_and_write_the_same_bytes() {
    let jars = kafka_jars();
    let root = tempfile::tempdir().expect("a temporary directory");
    let theirs = root.path().join("jvm/t-0");
    let written = jvm_facts(&jars, &["write", &theirs.display().to_string()]);
    assert_eq!(written.len(), 8, "{written:?}");

    // Theirs, after a clean shutdown and after a crash: then the indexes are rebuilt, and come out the same.
    for clean in [true, false] {
        let ours = root.path().join(format!("opened-{clean}"));
        copy_dir(&theirs, &ours.join("t-0"));
        if clean {
            fs::write(ours.join(".kafka_cleanshutdown"), "").expect("writable");
        }
        let dirs = open(&ours);
        let log = dirs.get(&partition()).expect("found");
        assert_eq!(facts(&log), written, "clean: {clean}");
        dirs.shutdown(0);
        assert_eq!(contents(&ours.join("t-0")), contents(&theirs), "clean: {clean}");
    }

    // Their batches, one by one through our log.
    let replica = root.path().join("replica");
    let (source, target) = (open(&root.path().join("opened-true")), open(&replica));
    let from = source.get(&partition()).expect("found");
    let to = target.get_or_create(&partition(), None, Arc::new(topic_config()), true, 0).expect("creatable");
    while to.log_end_offset() < from.log_end_offset() {
        let bytes = read_from(&from, to.log_end_offset());
        for batch in Batches::new(&bytes) {
            let batch = bytes.slice_ref(batch.expect("well-formed").bytes);
            to.append_as_follower(&batch, to.leader_epoch(), to.log_end_offset(), 0).expect("appended");
        }
    }
    assert_eq!(facts(&to), written);
    target.shutdown(0);
    assert_eq!(contents(&replica.join("t-0")), contents(&theirs));

    // Ours in their hands, and back.
    let ours = root.path().join("ours");
    let dirs = open(&ours);
    let log = dirs.get_or_create(&partition(), None, Arc::new(topic_config()), true, 0).expect("creatable");
    write_sample(&log);
    let expected = facts(&log);
    let crashed = root.path().join("crashed/t-0");
    copy_dir(&ours.join("t-0"), &crashed);
    dirs.shutdown(0);
    drop(dirs);
    assert_eq!(jvm_facts(&jars, &["open", &ours.join("t-0").display().to_string(), "clean"]), expected);
    assert_eq!(jvm_facts(&jars, &["open", &crashed.display().to_string(), "crashed"]), expected);
    assert_eq!(facts(&open(&ours).get(&partition()).expect("found")), expected);
}

/// A segment as a cleaner of an old broker may have left it (KAFKA-6264), and one behind it.
fn write_overflowed(dir: &Path) {
    const FAR: i64 = 1 << 31;
    let batch = |timestamp| {
        let mut batch = BatchBuilder::new();
        batch.append(T0 + timestamp, Some(b"key"), Some(&[b'v'; 300]), &[]);
        batch
    };
    let mut marker = BatchBuilder::new().producer(7, 0, -1).transactional(true).control(true);
    marker.append(T0 + 6, Some(&[0, 0, 0, 0]), Some(&[0, 0, 0, 0, 0, 3]), &[]);
    let far = [
        (0, batch(1)),
        (FAR - 1, batch(30_000)),
        (FAR, batch(3)),
        (FAR + 50, batch(40_000)),
        (3 * FAR, batch(5).producer(7, 0, 0).transactional(true)),
        (3 * FAR + 1, marker),
    ];
    fs::create_dir_all(dir).expect("writable");
    for (segment, batches) in [(0, Vec::from(far)), (4 * FAR, vec![(4 * FAR, batch(7))])] {
        let bytes = batches.into_iter().flat_map(|(offset, batch)| {
            let mut bytes = batch.build().to_vec();
            bytes[..8].copy_from_slice(&offset.to_be_bytes());
            bytes[12..16].copy_from_slice(&0_i32.to_be_bytes());
            bytes
        });
        fs::write(dir.join(format!("{segment:020}.log")), bytes.collect::<Vec<u8>>()).expect("writable");
    }
}

#[test]
fn a_segment_that_reaches_too_far_is_split_as_a_jvm_splits_it() {
    let jars = kafka_jars();
    let root = tempfile::tempdir().expect("a temporary directory");
    let (ours, theirs) = (root.path().join("ours"), root.path().join("theirs/t-0"));
    write_overflowed(&ours.join("t-0"));
    write_overflowed(&theirs);
    let dirs = open(&ours);
    let found = facts(&dirs.get(&partition()).expect("found"));
    dirs.shutdown(0);
    assert!(found.contains(&"segments 4".to_string()) && found.contains(&"aborted 1".to_string()), "{found:?}");
    assert_eq!(jvm_facts(&jars, &["open", &theirs.display().to_string(), "crashed"]), found);
    assert_eq!(jvm_facts(&jars, &["open", &ours.join("t-0").display().to_string(), "clean"]), found);
}

fn dump(jars: &Path, files: &[PathBuf], flags: &[&str]) -> String {
    let listed: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let output = java(jars)
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
    let dirs = open(root.path());
    let log = dirs.get_or_create(&partition(), None, Arc::new(topic_config()), true, 0).expect("creatable");
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
