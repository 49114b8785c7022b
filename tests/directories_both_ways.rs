//! Whatever a broker of 2.8 or 3.9 has in a directory (old formats, all codecs, what compaction has left, transactions that were
//! committed, aborted or are open, deleted records, epochs, what a truncation has cut) opens here and reads the same, record by
//! record; and once we have gone on with it, it opens there. Then the other way round.

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use odradek::config::log::LogConfig;
use odradek::config::sections::CleanerConfig;
use odradek::log::cleaner::Cleaner;
use odradek::log::dirs::LogDirs;
use odradek::log::{FirstBatch, Log, ReadUntil};
use odradek::model::{LeaderEpoch, Offset, TopicPartition};
use odradek::record::append::prepare;
use odradek::record::append_rules::{AcceptedSets, AppendOrigin, AppendRules};
use odradek::record::batch::Batches;
use odradek::record::build::BatchBuilder;
use odradek::record::compression::Codec;
use odradek::record::read;
use support::{deps, open_log_dirs, repository};

/// In a future that no producer expires before, as in the program of tests/jvm.
const T0: i64 = 4_000_000_000_000;

fn topic_config() -> LogConfig {
    LogConfig {
        cleanup_policy: vec!["compact".into(), "delete".into()],
        compact: true,
        delete: true,
        retention_ms: None,
        segment_bytes: 16_384,
        index_interval_bytes: 1000,
        min_cleanable_dirty_ratio: 0.0,
        ..LogConfig::default()
    }
}

fn open(root: &Path) -> Arc<LogDirs> {
    open_log_dirs(root, topic_config())
}

fn partition(dirs: &LogDirs) -> Arc<Log> {
    dirs.get(&TopicPartition::new("t", 0)).expect("found")
}

/// The program of tests/jvm/everything, for one release.
struct Release {
    name: &'static str,
    classes: tempfile::TempDir,
}

impl Release {
    fn compiled(name: &'static str) -> Release {
        let release = Release { name, classes: tempfile::tempdir().expect("a temporary directory") };
        let mut command = Command::new("javac");
        command.arg("-cp").arg(format!("{}/*", release.jars().display())).arg("-d").arg(release.classes.path());
        command.arg(repository("tests/jvm/everything/Everything.java"));
        command.arg(repository(&format!("tests/jvm/everything/{name}/Release.java")));
        run(&mut command);
        release
    }

    fn jars(&self) -> PathBuf {
        deps(&format!("kafka-{}", self.name))
    }

    fn java(&self) -> Command {
        let mut command = Command::new("java");
        command.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"]);
        command.arg(format!("{}:{}/*", self.classes.path().display(), self.jars().display()));
        command
    }

    /// What it says of the log once it has done that.
    fn facts(&self, what: &str, root: &Path, more: &[&str]) -> Vec<String> {
        let text = run(self.java().args(["Everything", what]).arg(root.join("t-0")).args(more));
        let known = ["start ", "end ", "stable ", "segments ", "epochs ", "records ", "producers ", "aborted "];
        let facts: Vec<String> =
            text.lines().filter(|line| known.iter().any(|word| line.starts_with(word))).map(str::to_string).collect();
        assert_eq!(facts.len(), known.len(), "{text}");
        facts
    }

    /// What it says of a copy of what is there.
    fn read(&self, root: &Path, clean: bool) -> Vec<String> {
        let copy = copy_of(root);
        self.facts("read", copy.path(), &[&log_start(root), if clean { "clean" } else { "crashed" }])
    }

    /// Its dump tool finds all files sound.
    fn dump(&self, root: &Path) {
        let mut files: Vec<PathBuf> =
            fs::read_dir(root.join("t-0")).expect("readable").map(|entry| entry.expect("readable").path()).collect();
        files.sort();
        let of = |extensions: &[&str]| -> Vec<String> {
            let is_one = |path: &&PathBuf| path.extension().is_some_and(|known| extensions.iter().any(|e| known == *e));
            files.iter().filter(is_one).map(|path| path.display().to_string()).collect()
        };
        let dump = |files: &[String], flag: &str| {
            run(self.java().args(["kafka.tools.DumpLogSegments", flag, "--files", &files.join(",")]))
        };
        let text = dump(&of(&["log", "index", "timeindex", "txnindex", "snapshot"]), "--deep-iteration");
        // Offsets that compaction has left out are not consecutive, and no complaint.
        for complaint in ["mismatch", "Mismatch", "Found", "not found", "isvalid: false", "out of order"] {
            let found = text.lines().find(|line| line.contains(complaint));
            assert_eq!(found, None, "the tool of {} complains", self.name);
        }
        let indexes = of(&["index", "timeindex"]);
        let text = dump(&indexes, "--index-sanity-check");
        let is_sound = |line: &&str| line.ends_with(" passed sanity check.") || line.ends_with(" is empty.");
        assert_eq!(text.lines().filter(is_sound).count(), indexes.len(), "{text}");
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("java is on the PATH");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn copy_of(root: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a temporary directory");
    for (from, to) in [(root.to_path_buf(), copy.path().to_path_buf()), (root.join("t-0"), copy.path().join("t-0"))] {
        fs::create_dir_all(&to).expect("writable");
        for entry in fs::read_dir(from).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_file() {
                fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("writable");
            }
        }
    }
    copy
}

/// What the checkpoint says.
fn log_start(root: &Path) -> String {
    let checkpoint = fs::read_to_string(root.join("log-start-offset-checkpoint")).unwrap_or_default();
    let of_log = checkpoint.lines().find_map(|line| line.strip_prefix("t 0 "));
    of_log.unwrap_or("0").to_string()
}

/// As a JVM counts it up.
fn hash(bytes: Option<&[u8]>) -> i64 {
    bytes.map_or(7, |bytes| {
        i64::from(bytes.iter().fold(1_i32, |hash, &byte| hash.wrapping_mul(31).wrapping_add(i32::from(byte as i8))))
    })
}

/// The same facts of ours.
fn facts(log: &Log) -> Vec<String> {
    log.update_high_watermark(log.log_end_offset());
    let bounds = log.bounds();
    let (mut next, mut count, mut digest) = (bounds.log_start_offset, 0, 0_i64);
    let mut aborted = Vec::new();
    while let Some((bytes, of_bytes)) = read_from(log, next, ReadUntil::LogEnd) {
        aborted.extend(of_bytes);
        for record in read::records(&bytes) {
            let record = record.expect("a readable record");
            if record.offset < next.0 {
                continue;
            }
            for part in [record.offset, record.timestamp, hash(record.key.as_deref()), hash(record.value.as_deref())] {
                digest = digest.wrapping_mul(31).wrapping_add(part);
            }
            next = Offset(record.offset + 1);
            count += 1;
        }
        next = next.max(Offset(Batches::new(&bytes).flatten().last().expect("a batch").header.next_offset()));
    }
    let mut next = bounds.log_start_offset;
    while let Some((bytes, of_bytes)) = read_from(log, next, ReadUntil::LastStableOffset) {
        aborted.extend(of_bytes);
        next = Offset(Batches::new(&bytes).flatten().last().expect("a batch").header.next_offset());
    }
    aborted.sort();
    aborted.dedup();
    let mut producers: Vec<String> = log
        .producers()
        .iter()
        .map(|p| {
            let open = p.current_txn_first_offset.map_or(-1, |offset| offset.0);
            format!("{}:{}:{}:{}:{open}", p.producer_id, p.producer_epoch, p.last_sequence, p.coordinator_epoch)
        })
        .collect();
    producers.sort();
    let epochs: Vec<String> = log.epochs().iter().map(|e| format!("{}:{}", e.epoch, e.start_offset)).collect();
    vec![
        format!("start {}", bounds.log_start_offset),
        format!("end {}", bounds.log_end_offset),
        format!("stable {}", bounds.last_stable_offset),
        format!("segments {}", log.segment_count()),
        format!("epochs [{}]", epochs.join(", ")),
        format!("records {count} {digest}"),
        format!("producers [{}]", producers.join(", ")),
        format!("aborted [{}]", aborted.join(", ")),
    ]
}

/// Whole batches, and the transactions that were aborted among them, if the reader asks for committed ones.
fn read_from(log: &Log, from: Offset, until: ReadUntil) -> Option<(Bytes, Vec<String>)> {
    let fetched = log.read(from, 1, until, FirstBatch::Whole).expect("readable");
    let region = fetched.region?;
    let mut bytes = vec![0; region.len as usize];
    region.file.read_exact_at(&mut bytes, region.position).expect("readable");
    let aborted = fetched.aborted_transactions.iter();
    let aborted = aborted.map(|txn| format!("{}:{}-{}", txn.producer_id, txn.first_offset, txn.last_offset)).collect();
    Some((Bytes::from(bytes), aborted))
}

fn append(log: &Log, batch: BatchBuilder, epoch: i32, origin: AppendOrigin) {
    let rules = AppendRules { origin, accepted_sets: AcceptedSets::Any, ..AppendRules::default() };
    let mut prepared = prepare(batch.build(), &rules, 0).expect("a valid batch");
    log.lead(LeaderEpoch(epoch)).expect("epochs rise");
    let info = log.append_as_leader(&mut prepared, LeaderEpoch(epoch), origin, 0).expect("appended");
    log.update_high_watermark(info.log_end_offset);
}

fn end(log: &Log, producer: i64, commits: bool, epoch: i32) {
    let mut marker = BatchBuilder::new().producer(producer, 0, -1).transactional(true).control(true);
    marker.append(T0, Some(&[0, 0, 0, u8::from(commits)]), Some(&[0, 0, 0, 0, 0, 3]), &[]);
    append(log, marker, epoch, AppendOrigin::Coordinator);
}

/// As the program of tests/jvm does it: so many batches, of all codecs and of producers of each kind.
fn append_some(log: &Log, from: i64, count: i64, epoch: i32, first_producer: i64) {
    for i in 0..count {
        let n = from + i;
        let codec = Codec::ALL[n as usize % Codec::ALL.len()];
        let mut batch = BatchBuilder::new().compression(codec, None);
        if i % 4 != 0 {
            batch = batch.producer(first_producer + i % 4, 2, (i / 4 * 3) as i32);
        }
        for at in 0..3 {
            let key = format!("key {}", (n * 3 + at) * 7919 % 601);
            let value = format!("value {n} ").repeat(3);
            let value = (n % 11 != 0).then_some(value.as_bytes());
            batch.append(T0 + n * 7919 % 5000 * 10 + at, Some(key.as_bytes()), value, &[(b"h", Some(b"x"))]);
        }
        append(log, batch, epoch, AppendOrigin::Client);
        if i % 20 == 3 {
            for other in [7, 8] {
                let mut batch =
                    BatchBuilder::new().producer(first_producer + other, 0, (i / 20) as i32).transactional(true);
                batch.append(T0 + n, Some(format!("key {}", n % 13).as_bytes()), Some(b"in a transaction"), &[]);
                append(log, batch, epoch, AppendOrigin::Client);
            }
        }
        if i % 20 == 13 {
            end(log, first_producer + 7, i % 40 == 13, epoch);
            end(log, first_producer + 8, false, epoch);
        }
    }
}

fn compact(dirs: &Arc<LogDirs>) {
    let config = CleanerConfig::default();
    let cleaner = Cleaner::new(Arc::clone(dirs), &config);
    assert!(cleaner.clean_filthiest(&config, &AtomicBool::new(false), T0), "there is something to compact");
}

/// Ends the transaction of producer 9, which is open, and leaves another of his open.
fn go_on(dirs: &Arc<LogDirs>, epoch: i32) {
    let log = partition(dirs);
    end(&log, 9, true, epoch);
    append_some(&log, 2000, 100, epoch, 20_000);
    log.roll(T0).expect("rolled");
    compact(dirs);
    append_some(&log, 2100, 60, epoch + 1, 21_000);
    log.roll(T0).expect("rolled");
    append_some(&log, 2200, 3, epoch + 2, 22_000);
    let mut open = BatchBuilder::new().producer(9, 0, 1).transactional(true);
    open.append(T0, Some(b"key 1"), Some(b"open"), &[]);
    append(&log, open, epoch + 2, AppendOrigin::Client);
}

/// All that a replica of `source` gets of it, some of which its leader then has it cut and delete.
fn replicate(source: &Log, dirs: &Arc<LogDirs>) {
    let config = Arc::new(topic_config());
    let log = dirs.get_or_create(&TopicPartition::new("t", 0), None, config, true, 0).expect("creatable");
    log.follow(LeaderEpoch(10)).expect("nobody led later");
    let mut next = source.log_start_offset();
    while let Some((bytes, _)) = read_from(source, next, ReadUntil::LogEnd) {
        for batch in Batches::new(&bytes) {
            let batch = batch.expect("well-formed");
            if log.log_end_offset() == Offset(0) {
                let first = Offset(batch.header.base_offset);
                log.truncate_fully_and_start_at(first, None, LeaderEpoch(10), 0).expect("it is empty");
            }
            next = Offset(batch.header.next_offset());
            let batch = bytes.slice_ref(batch.bytes);
            log.append_as_follower(&batch, LeaderEpoch(10), log.log_end_offset(), 0).expect("appended");
        }
    }
    log.update_high_watermark(log.log_end_offset());
    append_some(&log, 3000, 40, 11, 30_000);
    log.lead(LeaderEpoch(12)).expect("epochs rise");
    log.truncate_to(Offset(log.log_end_offset().0 - 5), LeaderEpoch(12), 0).expect("cut");
    append_some(&log, 3100, 40, 13, 31_000);
    log.delete_records(Offset(log.log_start_offset().0 + 60), LeaderEpoch(13)).expect("deleted");
}

fn both_ways(name: &'static str) {
    let (release, newest) = (Release::compiled(name), Release::compiled("3.9.1"));
    let theirs = tempfile::tempdir().expect("a temporary directory");
    let written = release.facts("write", theirs.path(), &[]);
    release.dump(theirs.path());

    // Theirs, as they left it and after a crash, reads the same here as there.
    for clean in [false, true] {
        let ours = copy_of(theirs.path());
        if clean {
            fs::write(ours.path().join(".kafka_cleanshutdown"), "").expect("writable");
        }
        let dirs = open(ours.path());
        let expected = if clean { written.clone() } else { release.read(theirs.path(), false) };
        assert_eq!(facts(&partition(&dirs)), expected, "clean: {clean}");
        // And once we have gone on with it, there as here.
        go_on(&dirs, 10);
        let log = partition(&dirs);
        let expected = facts(&log);
        log.write_small_files().expect("written");
        let crashed = copy_of(ours.path());
        dirs.shutdown(0);
        drop((log, dirs));
        // What a recovery finds of aborted transactions is less: compaction has left nothing of some.
        let recovered = facts(&partition(&open(copy_of(crashed.path()).path())));
        for reader in [&release, &newest] {
            assert_eq!(reader.read(ours.path(), true), expected, "read by {}, clean: {clean}", reader.name);
            assert_eq!(reader.read(crashed.path(), false), recovered, "read by {} after a crash", reader.name);
            reader.dump(ours.path());
        }
    }

    // What we have made, they go on with, and we read what they say is there.
    let (source, ours) = (copy_of(theirs.path()), tempfile::tempdir().expect("a temporary directory"));
    let (source, dirs) = (open(source.path()), open(ours.path()));
    replicate(&partition(&source), &dirs);
    compact(&dirs);
    go_on(&dirs, 14);
    let expected = facts(&partition(&dirs));
    dirs.shutdown(0);
    drop(dirs);
    for reader in [&release, &newest] {
        assert_eq!(reader.read(ours.path(), true), expected, "read by {}", reader.name);
    }
    let written = release.facts("go-on", ours.path(), &[&log_start(ours.path()), "20"]);
    for clean in [true, false] {
        let again = copy_of(ours.path());
        if !clean {
            // Then all is recovered, here as there.
            for name in [".kafka_cleanshutdown", "recovery-point-offset-checkpoint"] {
                fs::remove_file(again.path().join(name)).expect("there");
            }
        }
        let dirs = open(again.path());
        let expected = if clean { written.clone() } else { release.read(ours.path(), false) };
        assert_eq!(facts(&partition(&dirs)), expected, "clean: {clean}");
    }
}

#[test]
fn a_directory_of_2_8_is_ours_and_ours_is_its() {
    both_ways("2.8.2");
}

#[test]
fn a_directory_of_3_9_is_ours_and_ours_is_its() {
    both_ways("3.9.1");
}
