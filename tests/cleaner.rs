//! Compaction beside that of a JVM broker: on copies of one directory both leave the same, pass after pass; and in a broker
//! that runs.

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use odradek::config::log::LogConfig;
use odradek::config::sections::CleanerConfig;
use odradek::log::cleaner::Cleaner;
use odradek::log::dirs::LogDirs;
use odradek::log::{FirstBatch, Log, ReadUntil};
use odradek::model::{LeaderEpoch, Offset, TopicPartition};
use odradek::record::append::prepare;
use odradek::record::append_rules::{AcceptedSets, AppendOrigin, AppendRules};
use odradek::record::batch::{Batch, BatchHeader, Batches};
use odradek::record::build::BatchBuilder;
use odradek::record::compression::Codec;
use odradek::record::read::{self, Record};
use support::client::Client;
use support::{Cluster, Kind, PATIENCE, deps, eventually, open_log_dirs};

/// In a future that no producer expires before.
const T0: i64 = 4_000_000_000_000;
const SEGMENT_BYTES: u32 = 16_384;
const DELETE_RETENTION_MS: i64 = 60_000;

fn topic_config() -> LogConfig {
    LogConfig {
        cleanup_policy: vec!["compact".into()],
        compact: true,
        delete: false,
        retention_ms: None,
        segment_bytes: SEGMENT_BYTES,
        index_interval_bytes: 1000,
        delete_retention_ms: DELETE_RETENTION_MS,
        min_cleanable_dirty_ratio: 0.0,
        ..LogConfig::default()
    }
}

fn open(root: &Path) -> Arc<LogDirs> {
    open_log_dirs(root, topic_config())
}

fn partition(dirs: &LogDirs) -> Arc<Log> {
    let log = dirs.get_or_create(&TopicPartition::new("t", 0), None, Arc::new(topic_config()), true, 0);
    let log = log.expect("there or creatable");
    log.lead(LeaderEpoch(3)).expect("nobody led later");
    log.update_high_watermark(log.log_end_offset());
    log
}

fn append(log: &Log, batch: BatchBuilder, origin: AppendOrigin) {
    let rules = AppendRules { origin, accepted_sets: AcceptedSets::Any, ..AppendRules::default() };
    let mut prepared = prepare(batch.build(), &rules, 0).expect("a valid batch");
    let info = log.append_as_leader(&mut prepared, LeaderEpoch(3), origin, 0).expect("appended");
    log.update_high_watermark(info.log_end_offset);
}

/// Keys that come again, tombstones, all codecs, idempotent producers and those of transactions, some of them aborted.
fn write_sample(log: &Log, round: i64, with_transactions: bool) {
    for i in 0..300_i64 {
        let n = round * 300 + i;
        let codec = Codec::ALL[i as usize % 5];
        let mut batch = BatchBuilder::new().compression(codec, None);
        if i % 4 != 0 {
            batch = batch.producer(1000 + i % 4, 2, (n / 4 * 3) as i32);
        }
        for record in 0..3 {
            let key = format!("key {}", (n * 3 + record) * 7919 % 211);
            let value = "value ".repeat(5) + &n.to_string();
            let value = ((n + record) % 9 != 0).then_some(value.as_bytes());
            let timestamp = T0 + (n * 7919) % 5000 * 10 + record;
            batch.append(timestamp, Some(key.as_bytes()), value, &[(b"h", Some(b"x"))]);
        }
        append(log, batch, AppendOrigin::Client);
        let transaction =
            |producer: i64| BatchBuilder::new().producer(producer, 0, (n / 10) as i32).transactional(true);
        if with_transactions && i % 10 == 1 {
            let key = format!("key {}", n % 13);
            for producer in [7, 8] {
                let mut batch = transaction(producer);
                batch.append(T0 + n, Some(key.as_bytes()), Some(b"in a transaction"), &[]);
                append(log, batch, AppendOrigin::Client);
            }
        }
        if with_transactions && i % 10 == 6 {
            for (producer, commits) in [(7, i % 20 == 6), (8, false)] {
                let mut marker = BatchBuilder::new().producer(producer, 0, -1).transactional(true).control(true);
                marker.append(T0 + n, Some(&[0, 0, 0, u8::from(commits)]), Some(&[0, 0, 0, 0, 0, 3]), &[]);
                append(log, marker, AppendOrigin::Coordinator);
            }
        }
    }
    log.roll(T0).expect("rolled");
}

fn jvm(arguments: &[&str]) -> String {
    let jars = deps("kafka-3.9.1");
    let mut command = Command::new("java");
    command.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"]);
    command.arg(format!("{}/*", jars.display())).arg(support::repository("tests/jvm/Cleaner.java")).args(arguments);
    let output = command.output().expect("java is on the PATH");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("writable");
    for entry in fs::read_dir(from).expect("readable") {
        let path = entry.expect("readable").path();
        fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("writable");
    }
}

/// Dates every segment, so that what is decided by dates is decided alike: one a minute, from the oldest on.
fn date_segments(dir: &Path, from: SystemTime) {
    for (at, path) in logs(dir).iter().enumerate() {
        let file = fs::OpenOptions::new().write(true).open(path).expect("writable");
        file.set_modified(from + Duration::from_secs(60 * at as u64)).expect("dated");
    }
}

fn logs(dir: &Path) -> Vec<PathBuf> {
    with_extension(dir, "log")
}

fn with_extension(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).expect("readable").map(|entry| entry.expect("readable").path());
    let mut found: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    found.sort();
    found
}

/// The codecs of the two compress differently; nothing else of a batch differs.
fn comparable(batch: &Batch<'_>) -> (BatchHeader, Vec<Record>, Bytes) {
    let bytes = Bytes::copy_from_slice(batch.bytes);
    let records = read::records(&bytes).collect::<Result<Vec<_>, _>>().expect("readable");
    let mut header = batch.header;
    if header.codec == Codec::None {
        return (header, records, bytes);
    }
    (header.size_in_bytes, header.crc) = (0, 0);
    (header, records, Bytes::new())
}

/// Both directories have the same segments with the same batches, dates and aborted transactions.
fn assert_same(ours: &Path, theirs: &Path, what: &str) -> usize {
    let names = |dir: &Path| -> Vec<String> {
        logs(dir).iter().map(|path| path.file_name().expect("a name").to_string_lossy().into_owned()).collect()
    };
    assert_eq!(names(ours), names(theirs), "{what}");
    let mut identical = 0;
    for name in names(ours) {
        let [our_file, their_file] = [ours, theirs].map(|dir| fs::read(dir.join(&name)).expect("readable"));
        let mut theirs_in_order = Batches::new(&their_file);
        for batch in Batches::new(&our_file) {
            let batch = batch.expect("sound");
            assert!(batch.crc_is_valid());
            let other = theirs_in_order.next().unwrap_or_else(|| panic!("{what}, {name}: {:?}", batch.header));
            let other = other.expect("sound");
            assert_eq!(comparable(&batch), comparable(&other), "{what}, {name}");
            identical += usize::from(batch.bytes == other.bytes);
        }
        assert!(theirs_in_order.next().is_none(), "{what}, {name}: they have more");
        let modified = |dir: &Path| {
            let modified = fs::metadata(dir.join(&name)).and_then(|metadata| metadata.modified()).expect("readable");
            modified.duration_since(UNIX_EPOCH).expect("after 1970").as_millis()
        };
        if name != names(ours).last().map_or("", |last| last) {
            assert_eq!(modified(ours), modified(theirs), "{what}, {name}");
        }
    }
    let indexes = |dir: &Path| -> Vec<(String, Vec<u8>)> {
        let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
        let all = with_extension(dir, "txnindex").into_iter();
        // A JVM may make one and put nothing into it.
        all.map(|path| (name(&path), fs::read(&path).expect("readable")))
            .filter(|(_, bytes)| !bytes.is_empty())
            .collect()
    };
    assert_eq!(indexes(ours), indexes(theirs), "{what}");
    identical
}

/// One pass of ours. Returns where it ended.
fn clean(root: &Path, now_ms: i64, config: &CleanerConfig) -> Offset {
    let dirs = open(root);
    let log = partition(&dirs);
    let cleaner = Cleaner::new(Arc::clone(&dirs), config);
    assert!(cleaner.clean_filthiest(config, &AtomicBool::new(false), now_ms), "there is something to do");
    let cleaned_to = log.cleaned_to().expect("cleaned");
    drop(log);
    // The old files do not wait for their removal.
    dirs.tick_deletions(i64::MAX);
    dirs.shutdown(now_ms);
    cleaned_to
}

fn dump_is_sound(dir: &Path) {
    let files: Vec<String> = ["log", "index", "timeindex", "txnindex"]
        .iter()
        .flat_map(|extension| with_extension(dir, extension))
        .map(|path| path.display().to_string())
        .collect();
    let output = Command::new("java")
        .args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"])
        .arg(format!("{}/*", deps("kafka-3.9.1").display()))
        .args(["kafka.tools.DumpLogSegments", "--deep-iteration", "--files", &files.join(",")])
        .output()
        .expect("java is on the PATH");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    for complaint in ["mismatch", "Mismatch", "not found", "isvalid: false", "out of order", "Exception"] {
        assert_eq!(text.lines().find(|line| line.contains(complaint)), None, "the tool complains");
    }
}

#[test]
fn a_jvm_and_we_leave_the_same_of_a_directory_pass_after_pass() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let (ours, theirs) = (root.path().join("ours"), root.path().join("theirs"));
    // There is memory for all keys, or for half of them: then a pass ends within a segment, and the next one begins there. A
    // JVM that begins within a segment takes some committed data for aborted, since it does not see the markers of earlier
    // transactions (UnifiedLog.collectAbortedTransactions gives it all since the log's start), and maps fewer keys.
    for (case, dedupe, with_transactions) in [("all keys", 4 << 20, true), ("some keys", 24 * 130, false)] {
        let (ours, theirs) = (ours.join(case), theirs.join(case));
        let config = CleanerConfig { dedupe_buffer_bytes: dedupe, ..CleanerConfig::default() };
        let mut first_dirty = Offset(0);
        for round in 0..4 {
            let now_ms = T0 + round * (DELETE_RETENTION_MS / 2 + 1);
            // Each has the same appended to what it has made of the earlier rounds.
            let dirs = open(&ours);
            write_sample(&partition(&dirs), round, with_transactions);
            dirs.shutdown(0);
            drop(dirs);
            if round == 0 {
                copy_dir(&ours.join("t-0"), &theirs.join("t-0"));
            } else {
                fs::write(theirs.join(".kafka_cleanshutdown"), "").expect("writable");
                let dirs = open(&theirs);
                write_sample(&partition(&dirs), round, with_transactions);
                dirs.shutdown(0);
            }
            for dir in [&ours, &theirs] {
                date_segments(&dir.join("t-0"), UNIX_EPOCH + Duration::from_millis(T0 as u64));
            }
            let ended = clean(&ours, now_ms, &config);
            let dir = theirs.join("t-0").display().to_string();
            let [from, now, dedupe, segment] =
                [first_dirty.0, now_ms, dedupe as i64, i64::from(SEGMENT_BYTES)].map(|number| number.to_string());
            let said = jvm(&["clean", &dir, &from, &now, &dedupe, &segment]);
            assert_eq!(
                said.split_whitespace().nth(1),
                Some(ended.to_string().as_str()),
                "{case}, round {round}: {said}"
            );
            for deleted in with_extension(&theirs.join("t-0"), "deleted") {
                fs::remove_file(deleted).expect("removable");
            }
            let identical = assert_same(&ours.join("t-0"), &theirs.join("t-0"), &format!("{case}, round {round}"));
            assert!(identical > 100, "{case}, round {round}: {identical} batches are the same to the byte");
            first_dirty = ended;
        }
        dump_is_sound(&ours.join("t-0"));
    }
}

#[test]
fn sets_of_old_formats_are_compacted_as_by_a_jvm() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let (ours, theirs) = (root.path().join("ours"), root.path().join("theirs"));
    jvm(&["old", &ours.join("t-0").display().to_string()]);
    copy_dir(&ours.join("t-0"), &theirs.join("t-0"));
    let config = CleanerConfig::default();
    // Indexes, as the recovery of either makes them.
    open(&ours).shutdown(0);
    open(&theirs).shutdown(0);
    let mut first_dirty = Offset(0);
    for round in 0..2 {
        for dir in [&ours, &theirs] {
            date_segments(&dir.join("t-0"), UNIX_EPOCH + Duration::from_millis(T0 as u64 + round * 600_000));
            if round > 0 {
                fs::write(dir.join(".kafka_cleanshutdown"), "").expect("writable");
                let dirs = open(dir);
                write_sample(&partition(&dirs), 0, true);
                dirs.shutdown(0);
                date_segments(&dir.join("t-0"), UNIX_EPOCH + Duration::from_millis(T0 as u64 + round * 600_000));
            }
        }
        let ended = clean(&ours, T0, &config);
        let dir = theirs.join("t-0").display().to_string();
        let [from, now, dedupe, segment] =
            [first_dirty.0, T0, 1 << 22, i64::from(SEGMENT_BYTES)].map(|number| number.to_string());
        let said = jvm(&["clean", &dir, &from, &now, &dedupe, &segment]);
        assert_eq!(said.split_whitespace().nth(1), Some(ended.to_string().as_str()), "{said}");
        assert_same(&ours.join("t-0"), &theirs.join("t-0"), &format!("old formats, round {round}"));
        first_dirty = ended;
    }
    dump_is_sound(&ours.join("t-0"));
    // Ours is read by ours.
    let dirs = open(&ours);
    let log = partition(&dirs);
    let read = log.read(Offset(0), 100, ReadUntil::LogEnd, FirstBatch::Whole).expect("readable");
    let region = read.region.expect("a batch");
    let mut bytes = vec![0; region.len as usize];
    region.file.read_exact_at(&mut bytes, region.position).expect("readable");
    assert!(Batch::first_of(&bytes).expect("sound").expect("whole").crc_is_valid());
}

fn keyed(key: &str, value: Option<&str>) -> Bytes {
    let mut builder = BatchBuilder::new();
    builder.append(1_700_000_000_000, Some(key.as_bytes()), value.map(str::as_bytes), &[]);
    builder.build()
}

fn shown(client: &mut Client, topic: &str) -> Vec<(i64, String, Option<String>)> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let records = client.read_all(topic, 0, 0).expect("Fetch is answered");
    let shown = |record: &Record| {
        (record.offset, record.key.as_ref().map(text).unwrap_or_default(), record.value.as_ref().map(text))
    };
    records.iter().map(shown).collect()
}

#[test]
fn a_broker_compacts_what_clients_and_groups_write() {
    let settings = "log.cleaner.backoff.ms=100\nlog.cleaner.dedupe.buffer.size=40000000\noffsets.topic.segment.bytes=2000\n\
                    offsets.topic.num.partitions=1\nlog.segment.delete.delay.ms=1000\n";
    let cluster = Cluster::start("cleaner", settings);
    let mut client = cluster.broker.client();
    let config = [
        ("cleanup.policy", "compact"),
        ("segment.bytes", "1000"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("delete.retention.ms", "86400000"),
    ];
    client.create_topic("kept", 1, &config);
    for round in 0..40 {
        for key in ["a", "b", "c", "d"] {
            let outcome = client.produce("kept", 0, keyed(key, (key != "d").then_some(&format!("{round}"))));
            outcome.expect("Produce is answered").expect("accepted");
        }
    }
    let size = |topic: &str| -> u64 {
        logs(&cluster.broker.data.join(format!("{topic}-0")))
            .iter()
            .map(|log| fs::metadata(log).map_or(0, |m| m.len()))
            .sum()
    };
    eventually(PATIENCE, "the topic shrinks to its last records", || {
        let records = shown(&mut client, "kept");
        // The active segment holds up to a thousand bytes.
        if records.len() < 30 && size("kept") < 3000 { Ok(()) } else { Err(format!("{} records", records.len())) }
    });
    let records = shown(&mut client, "kept");
    let of = |key: &str| records.iter().rfind(|record| record.1 == key).expect("the last of each key stays").clone();
    assert_eq!([of("a").2, of("b").2, of("c").2], [Some("39".into()), Some("39".into()), Some("39".into())]);
    assert_eq!((of("d").0, of("d").2), (159, None));

    // Tombstones go when their time is over, which changes now.
    let id = cluster.script(
        "kafka-configs.sh",
        &[
            "--bootstrap-server",
            &cluster.broker.address(),
            "--alter",
            "--entity-type",
            "topics",
            "--entity-name",
            "kept",
            "--add-config",
            "delete.retention.ms=1",
        ],
        "",
    );
    id.expect("altered");
    eventually(PATIENCE, "old tombstones go", || {
        for i in 0..10 {
            let outcome = client.produce("kept", 0, keyed("e", Some(&format!("{i}"))));
            outcome.expect("Produce is answered").expect("accepted");
        }
        let left = shown(&mut client, "kept").iter().filter(|record| record.1 == "d").count();
        if left == 0 { Ok(()) } else { Err(format!("{left} tombstones")) }
    });

    // What a group commits again and again is there once, and is what a restart finds.
    client.until_coordinated("g");
    for offset in 0..300 {
        client.commit("g", "kept", 0, offset);
    }
    eventually(PATIENCE, "the offsets topic shrinks", || {
        let bytes = size("__consumer_offsets");
        if bytes < 6000 { Ok(()) } else { Err(format!("{bytes} bytes")) }
    });

    // Other threads, at run time; and none of this is lost by a restart.
    let broker =
        ["--bootstrap-server", &cluster.broker.address(), "--alter", "--entity-type", "brokers", "--entity-name", "0"];
    let set =
        |setting: &str| cluster.script("kafka-configs.sh", &[&broker[..], &["--add-config", setting]].concat(), "");
    set("log.cleaner.threads=2").expect("altered");
    let refused = set("log.cleaner.threads=20").expect_err("too many at once");
    assert!(
        refused.contains("Log cleaner threads cannot be increased to more than double the current value 2"),
        "{refused}"
    );
    let mut cluster = cluster;
    let before = shown(&mut client, "kept");
    assert!(cluster.broker.stop().success());
    cluster.start_broker(Kind::Odradek);
    let mut client = cluster.broker.client();
    client.until_led("kept", 1);
    client.until_coordinated("g");
    assert_eq!(client.committed("g", "kept", 0), 299);
    let after = shown(&mut client, "kept");
    let last = |records: &[(i64, String, Option<String>)], key: &str| records.iter().rfind(|r| r.1 == key).cloned();
    for key in ["a", "b", "c", "e"] {
        assert_eq!(last(&after, key), last(&before, key));
    }
}
