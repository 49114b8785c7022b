//! The rules of compaction, held against a map of keys and against every crash.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;
use tokio::sync::mpsc::unbounded_channel;

use super::*;
use crate::config::sections::LogDirsConfig;
use crate::log::files::faults::{Op, fail, watch};
use crate::log::testing::*;
use crate::log::{FirstBatch, ReadUntil};
use crate::model::LeaderEpoch;
use crate::record::append_rules::AppendOrigin;
use crate::record::batch::{Batch, BatchHeader, TimestampType};
use crate::record::build::{BatchBuilder, MessageSetBuilder};
use crate::record::compression::Codec;
use crate::record::read::{self, Record};

const NOW_MS: i64 = 1_700_000_000_000;
const HOUR_MS: i64 = 3_600_000;

fn compacted() -> LogConfig {
    LogConfig {
        cleanup_policy: vec!["compact".to_string()],
        compact: true,
        delete: false,
        retention_ms: None,
        min_cleanable_dirty_ratio: 0.0,
        delete_retention_ms: HOUR_MS,
        ..small_segments()
    }
}

/// The directories of a broker, and its cleaner.
struct Fixture {
    _root: Option<TempDir>,
    dirs: Arc<LogDirs>,
    cleaner: Cleaner,
    config: CleanerConfig,
    root: PathBuf,
}

impl Fixture {
    fn new(topic: &LogConfig) -> Fixture {
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().to_path_buf();
        Fixture { _root: Some(root), ..Fixture::at(path, topic) }
    }

    fn at(root: PathBuf, topic: &LogConfig) -> Fixture {
        let config = LogDirsConfig {
            dirs: vec![root.clone()],
            topic_defaults: topic.clone(),
            producer_id_expiration_ms: i64::MAX,
            ..LogDirsConfig::default()
        };
        let (sender, _) = unbounded_channel();
        let dirs = Arc::new(LogDirs::open(&config, sender, Arc::default()).expect("openable"));
        let topic = Arc::new(topic.clone());
        dirs.load(&|_| Arc::clone(&topic), NOW_MS, &|_| {}).expect("loadable");
        let config = CleanerConfig { dedupe_buffer_bytes: 2 << 20, ..CleanerConfig::default() };
        Fixture { _root: None, cleaner: Cleaner::new(Arc::clone(&dirs), &config), dirs, config, root }
    }

    fn log(&self, topic: &str) -> Arc<Log> {
        let tp = TopicPartition::new(topic, 0);
        let config = self.dirs.logs().first().map_or_else(|| Arc::new(compacted()), |log| log.config());
        let log = self.dirs.get_or_create(&tp, None, config, true, NOW_MS).expect("creatable");
        log.lead(LeaderEpoch(0)).expect("nobody led later");
        log.update_high_watermark(log.log_end_offset());
        log
    }

    fn clean(&self, now_ms: i64) -> bool {
        self.cleaner.clean_filthiest(&self.config, &AtomicBool::new(false), now_ms)
    }

    fn clean_all(&self, now_ms: i64) {
        while self.clean(now_ms) {}
    }
}

fn keyed(records: &[(&str, Option<&str>)]) -> BatchBuilder {
    let mut builder = BatchBuilder::new();
    for (key, value) in records {
        builder.append(NOW_MS, Some(key.as_bytes()), value.map(str::as_bytes), &[]);
    }
    builder
}

fn append_as(log: &Log, batch: BatchBuilder, origin: AppendOrigin) {
    let mut prepared = prepared_as(batch, origin);
    let info = log.append_as_leader(&mut prepared, LeaderEpoch(0), origin, NOW_MS).expect("appended");
    log.update_high_watermark(info.log_end_offset);
}

fn put(log: &Log, records: &[(&str, Option<&str>)]) {
    append_as(log, keyed(records), AppendOrigin::Client);
}

fn records(log: &Log) -> Vec<Record> {
    let mut all = Vec::new();
    for (_, bytes) in read_all(log) {
        for record in read::records(&bytes) {
            all.push(record.expect("readable"));
        }
    }
    all
}

/// What is read, in short: offset, key and value.
fn shown(log: &Log) -> Vec<String> {
    let text = |bytes: &Option<bytes::Bytes>| match bytes {
        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        None => "-".to_string(),
    };
    records(log)
        .iter()
        .map(|record| format!("{} {}={}", record.offset, text(&record.key), text(&record.value)))
        .collect()
}

fn map_of(records: &[Record]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut map = BTreeMap::new();
    for (key, record) in records.iter().filter_map(|record| Some((record.key.as_ref()?.to_vec(), record))) {
        match &record.value {
            Some(value) => drop(map.insert(key, value.to_vec())),
            None => drop(map.remove(&key)),
        }
    }
    map
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("writable");
    for entry in fs::read_dir(from).expect("readable").map(|entry| entry.expect("readable")) {
        let target = to.join(entry.file_name());
        if entry.file_type().expect("readable").is_dir() {
            copy_tree(&entry.path(), &target);
        } else if entry.file_name() != ".lock" {
            fs::copy(entry.path(), &target).expect("writable");
        }
    }
}

#[test]
fn the_last_record_of_each_key_stays_where_it_is() {
    let fixture = Fixture::new(&compacted());
    let log = fixture.log("t");
    put(&log, &[("a", Some("1")), ("b", Some("1"))]);
    put(&log, &[("a", Some("2")), ("c", Some("1"))]);
    log.roll(NOW_MS).expect("rolled");
    put(&log, &[("b", Some("2")), ("d", None)]);
    log.roll(NOW_MS).expect("rolled");
    put(&log, &[("c", Some("2"))]);
    assert!(fixture.clean(NOW_MS));
    // The active segment is left alone, and what it makes void too.
    let expected = ["2 a=2", "3 c=1", "4 b=2", "5 d=-", "6 c=2"];
    assert_eq!(shown(&log), expected);
    assert_eq!((log.segment_count(), log.cleaned_to()), (2, Some(Offset(6))));
    let checkpoint = fixture.root.join("cleaner-offset-checkpoint");
    assert_eq!(fs::read_to_string(&checkpoint).expect("written"), "0\n1\nt 0 6\n");
    assert!(!fixture.clean(NOW_MS), "nothing is dirty");
    let names = names_in(&fixture.root.join("t-0"));
    assert!(names.iter().all(|name| !name.ends_with(".cleaned") && !name.ends_with(".swap")), "{names:?}");
    drop(log);
    let Fixture { dirs, root, _root, .. } = fixture;
    dirs.shutdown(NOW_MS);
    drop(dirs);
    let again = Fixture::at(root, &compacted());
    let log = again.log("t");
    assert_eq!((shown(&log), log.cleaned_to()), (expected.map(str::to_string).to_vec(), Some(Offset(6))));
}

#[test]
fn a_tombstone_stays_for_its_retention_from_the_pass_that_left_it() {
    let fixture = Fixture::new(&compacted());
    let log = fixture.log("t");
    put(&log, &[("a", Some("1")), ("b", Some("1"))]);
    put(&log, &[("a", None)]);
    log.roll(NOW_MS).expect("rolled");
    fixture.clean_all(NOW_MS);
    assert_eq!(shown(&log), ["1 b=1", "2 a=-"]);
    let horizon_of = |log: &Log, at: usize| {
        let (header, _) = read_all(log)[at];
        header.has_delete_horizon.then_some(header.base_timestamp)
    };
    assert_eq!(horizon_of(&log, 1), Some(NOW_MS + HOUR_MS));
    // Passes need something dirty.
    for (now_ms, expected) in
        [(NOW_MS + HOUR_MS - 1, &["1 b=1", "2 a=-", "3 x=0"][..]), (NOW_MS + HOUR_MS, &["1 b=1", "4 x=1"])]
    {
        put(&log, &[("x", Some(if expected.len() == 3 { "0" } else { "1" }))]);
        log.roll(NOW_MS).expect("rolled");
        fixture.clean_all(now_ms);
        assert_eq!(shown(&log), expected);
    }
}

#[test]
fn aborted_data_goes_at_once_and_markers_when_nothing_needs_them() {
    let fixture = Fixture::new(&compacted());
    let log = fixture.log("t");
    let data = |producer: i64, sequence: i32, key: &str, value: &str| {
        let mut builder = BatchBuilder::new().producer(producer, 0, sequence).transactional(true);
        builder.append(NOW_MS, Some(key.as_bytes()), Some(value.as_bytes()), &[]);
        builder
    };
    put(&log, &[("a", Some("plain")), ("b", Some("plain"))]);
    append_as(&log, data(1, 0, "a", "aborted"), AppendOrigin::Client);
    append_as(&log, data(2, 0, "b", "committed"), AppendOrigin::Client);
    append_as(&log, marker(1, false, 0), AppendOrigin::Coordinator);
    append_as(&log, marker(2, true, 0), AppendOrigin::Coordinator);
    // Others are the last of these producers.
    for producer in [1, 2] {
        append_as(&log, data(producer, 1, "z", "open"), AppendOrigin::Client);
        append_as(&log, marker(producer, true, 0), AppendOrigin::Coordinator);
    }
    log.roll(NOW_MS).expect("rolled");
    let aborted = |log: &Log| {
        let read = log.read(Offset(0), 1 << 20, ReadUntil::LastStableOffset, FirstBatch::Whole).expect("readable");
        read.aborted_transactions.len()
    };
    assert_eq!(aborted(&log), 1);
    fixture.clean_all(NOW_MS);
    let offsets = |log: &Log| records(log).iter().map(|record| record.offset).collect::<Vec<_>>();
    // 2 was aborted, 6 is replaced by 8; all four markers stay with what they end.
    assert_eq!(offsets(&log), [0, 3, 4, 5, 7, 8, 9]);
    assert_eq!(aborted(&log), 1, "data was seen by this pass, so the marker and the index keep it");
    let dirty = |value: &str| {
        put(&log, &[("y", Some(value))]);
        log.roll(NOW_MS).expect("rolled");
    };
    dirty("1");
    fixture.clean_all(NOW_MS);
    // Nothing is left of the aborted one, and of producer 1 no data at all: their markers get a date.
    assert_eq!(aborted(&log), 0);
    assert_eq!(offsets(&log), [0, 3, 4, 5, 7, 8, 9, 10]);
    dirty("2");
    fixture.clean_all(NOW_MS + HOUR_MS);
    // 6 is empty and stays as the last of its producer; 7 is its end.
    assert_eq!(offsets(&log), [0, 3, 5, 7, 8, 9, 11]);
}

#[test]
fn a_producers_last_sequence_outlives_its_records() {
    let fixture = Fixture::new(&compacted());
    let log = fixture.log("t");
    let batch = |sequence: i32, keys: &[&str]| {
        let mut builder = BatchBuilder::new().producer(9, 3, sequence);
        for key in keys {
            builder.append(NOW_MS, Some(key.as_bytes()), Some(b"v"), &[]);
        }
        builder
    };
    append_as(&log, batch(0, &["a", "b"]), AppendOrigin::Client);
    append_as(&log, batch(2, &["a", "b", "c"]), AppendOrigin::Client);
    put(&log, &[("a", Some("x")), ("b", Some("x")), ("c", Some("x"))]);
    log.roll(NOW_MS).expect("rolled");
    fixture.clean_all(NOW_MS);
    assert_eq!(shown(&log), ["5 a=x", "6 b=x", "7 c=x"]);
    let batches = read_all(&log);
    let (header, _) = batches[0];
    assert_eq!((header.base_offset, header.last_offset, header.record_count, header.last_sequence()), (2, 4, 0, 4));
    drop(log);
    // A crash, after which all is replayed.
    let root = tempfile::tempdir().expect("a temporary directory");
    copy_tree(&fixture.root, root.path());
    for entry in fs::read_dir(root.path().join("t-0")).expect("readable").flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "snapshot") {
            fs::remove_file(entry.path()).expect("removable");
        }
    }
    let again = Fixture::at(root.path().to_path_buf(), &compacted());
    let log = again.log("t");
    append_as(&log, batch(5, &["d"]), AppendOrigin::Client);
    let gap = prepared_as(batch(9, &["d"]), AppendOrigin::Client);
    assert!(log.append_as_leader(&mut gap.clone(), LeaderEpoch(0), AppendOrigin::Client, NOW_MS).is_err());
}

/// A replica that copies the log has no other word of that: with the active segment empty, nothing is behind the gap.
/// Source: KAFKA-17076.
#[test]
fn where_the_log_ends_is_told_by_its_last_batch_when_nothing_of_that_is_left() {
    let old_set = |magic: u8, codec: Codec, count: i64| {
        let mut set = MessageSetBuilder::new(magic, codec, None, TimestampType::CreateTime, 2);
        (0..count).for_each(|at| set.append(2 + at, NOW_MS, None, Some(b"v")));
        bytes::Bytes::from(set.build())
    };
    let keyless = |codec: Codec| {
        let mut builder = BatchBuilder::new().compression(codec, None).base_offset(2);
        (0..3).for_each(|_| builder.append(NOW_MS, None, Some(b"v"), &[]));
        builder.build()
    };
    let out_of_date = {
        let tombstone = keyed(&[("a", None)]).base_offset(2).build();
        let header = BatchHeader::read(&tombstone).expect("sound").expect("whole");
        let mut builder = BatchBuilder::rewriting(&header, Some(NOW_MS - 1));
        builder.append(NOW_MS, Some(b"a"), None, &[]);
        builder.build()
    };
    let all = &["0 a=1", "1 b=1"][..];
    let cases = [
        (keyless(Codec::None), all, None),
        (keyless(Codec::Lz4), all, None),
        (out_of_date, &all[1..], None),
        // Of these none can be empty.
        (old_set(0, Codec::None, 1), all, Some("2 -=v")),
        (old_set(1, Codec::None, 1), all, Some("2 -=v")),
        (old_set(0, Codec::Gzip, 2), all, Some("3 -=v")),
        (old_set(1, Codec::Gzip, 3), all, Some("4 -=v")),
    ];
    for (what, (last, before, left)) in cases.into_iter().enumerate() {
        let fixture = Fixture::new(&compacted());
        let log = fixture.log("t");
        put(&log, &[("a", Some("1")), ("b", Some("1"))]);
        log.append_as_follower(&last, log.leader_epoch(), Offset(2), NOW_MS).expect("appended");
        let end = log.log_end_offset();
        log.update_high_watermark(end);
        log.roll(NOW_MS).expect("rolled");
        assert!(fixture.clean(NOW_MS));
        let left: Vec<&str> = before.iter().copied().chain(left).collect();
        assert_eq!(
            (shown(&log), log.cleaned_to()),
            (left.into_iter().map(str::to_string).collect(), Some(end)),
            "{what}"
        );

        let copy = fixture.log("copy");
        for (_, bytes) in read_all(&log) {
            copy.append_as_follower(&bytes, copy.leader_epoch(), copy.log_end_offset(), NOW_MS).expect("appended");
        }
        assert_eq!(copy.log_end_offset(), end, "{what}");

        // With others behind it, it goes.
        put(&log, &[("c", Some("1"))]);
        log.roll(NOW_MS).expect("rolled");
        fixture.clean_all(NOW_MS);
        assert_eq!(
            read_all(&log).iter().map(|(header, _)| header.base_offset).collect::<Vec<_>>(),
            [0, end.0],
            "{what}"
        );
    }
}

#[test]
fn a_log_that_cannot_be_read_is_left_alone_and_the_others_go_on() {
    let fixture = Fixture::new(&compacted());
    let (bad, good) = (fixture.log("bad"), fixture.log("good"));
    for log in [&bad, &good] {
        for _ in 0..3 {
            put(log, &[("a", Some("1")), ("b", Some("1"))]);
        }
        log.roll(NOW_MS).expect("rolled");
    }
    put(&bad, &[("a", Some("more, so that it comes first"))]);
    bad.roll(NOW_MS).expect("rolled");
    let path = fixture.root.join("bad-0/00000000000000000000.log");
    let mut content = fs::read(&path).expect("readable");
    let sound = content.clone();
    let at = content.len() - 1;
    content[at] ^= 1;
    fs::write(&path, &content).expect("writable");
    fixture.clean_all(NOW_MS);
    assert_eq!(shown(&good), ["4 a=1", "5 b=1"]);
    assert_eq!((bad.cleaned_to(), bad.is_offline()), (None, false));
    assert_eq!(names_in(&fixture.root.join("bad-0")).iter().filter(|name| name.ends_with(".cleaned")).count(), 0);
    assert_eq!(bad.parent().counters.cleaner_failures.load(Ordering::Relaxed), 1);
    // Mended, it is compacted when it is due again; the first time fails once more.
    assert!(!fixture.clean(NOW_MS + FIRST_DELAY_MS));
    assert!(fixture.clean(NOW_MS + FIRST_DELAY_MS + 1));
    fs::write(&path, &sound).expect("writable");
    assert!(!fixture.clean(NOW_MS + 3 * FIRST_DELAY_MS + 1));
    assert!(fixture.clean(NOW_MS + 3 * FIRST_DELAY_MS + 2));
    assert_eq!(shown(&bad), ["5 b=1", "6 a=more, so that it comes first"]);
}

/// What an earlier topic of the name did is not this one's.
#[test]
fn a_topic_made_anew_does_not_wait_for_what_its_name_once_failed_at() {
    let fixture = Fixture::new(&compacted());
    let dirty = || {
        let log = fixture.log("t");
        for _ in 0..3 {
            put(&log, &[("a", Some("1")), ("b", Some("1"))]);
        }
        log.roll(NOW_MS).expect("rolled");
        log
    };
    let log = dirty();
    fail(Op::Write, 0);
    assert!(fixture.clean(NOW_MS) && !fixture.clean(NOW_MS), "it is set aside");
    assert!(fixture.dirs.delete(&[log.topic_partition().clone()], NOW_MS).remove(0).expect("deleted"));
    let log = dirty();
    assert!(fixture.clean(NOW_MS));
    assert_eq!(shown(&log), ["4 a=1", "5 b=1"]);
}

#[test]
fn of_two_threads_that_come_for_one_log_the_second_takes_another() {
    let fixture = Fixture::new(&compacted());
    let logs = [fixture.log("a"), fixture.log("b")];
    for _ in 0..40 {
        for log in &logs {
            put(log, &[("a", Some("1"))]);
            log.roll(NOW_MS).expect("rolled");
        }
        let barrier = std::sync::Barrier::new(2);
        let work = || {
            barrier.wait();
            fixture.clean(NOW_MS)
        };
        let worked = std::thread::scope(|scope| {
            let other = scope.spawn(work);
            (work(), other.join().expect("it works"))
        });
        assert_eq!(worked, (true, true));
    }
}

#[test]
fn asking_how_old_a_log_is_keeps_no_file_open() {
    let config = LogConfig { max_compaction_lag_ms: 1, ..compacted() };
    let fixture = Fixture::new(&config);
    let log = fixture.log("t");
    log.set_config(Arc::new(config.clone()));
    for _ in 0..5 {
        put(&log, &[("a", Some("1"))]);
        log.roll(NOW_MS).expect("rolled");
    }
    drop(log);
    let Fixture { dirs, root, _root, .. } = fixture;
    dirs.shutdown(NOW_MS);
    drop(dirs);
    let again = Fixture::at(root, &config);
    let log = again.dirs.get(&TopicPartition::new("t", 0)).expect("loaded");
    log.update_high_watermark(log.log_end_offset());
    let candidate = log.assess(NOW_MS + HOUR_MS).expect("readable").expect("there are segments");
    assert!(candidate.assessment.overdue_ms > 0);
    let open = log.locked().segments.iter().filter(|segment| segment.is_open()).count();
    assert_eq!(open, 0);
}

/// Its state is looked at anew for each segment that is written.
#[test]
fn a_batch_that_was_the_last_of_its_producer_goes_once_another_is() {
    let fixture = Fixture::new(&compacted());
    let log = fixture.log("t");
    log.set_config(Arc::new(LogConfig { segment_bytes: 200, ..compacted() }));
    let of_producer = |sequence: i32| {
        let mut builder = BatchBuilder::new().producer(9, 0, sequence);
        builder.append(NOW_MS, Some(b"p"), Some(b"1"), &[]);
        builder
    };
    for key in ["a", "b", "c", "d"] {
        put(&log, &[(key, Some("1"))]);
    }
    append_as(&log, of_producer(0), AppendOrigin::Client);
    put(&log, &[("p", Some("2"))]);
    log.roll(NOW_MS).expect("rolled");
    log.flush(NOW_MS).expect("flushed");
    let (going_on, mut has_gone_on) = (Arc::clone(&log), false);
    watch(Some(Box::new(move |op| {
        if op == Op::Rename && !std::mem::replace(&mut has_gone_on, true) {
            append_as(&going_on, of_producer(1), AppendOrigin::Client);
        }
    })));
    assert!(fixture.clean(NOW_MS));
    watch(None);
    assert!(log.segment_count() > 2, "several segments were written");
    let kept: Vec<i64> = read_all(&log).iter().map(|(header, _)| header.base_offset).collect();
    assert_eq!(kept, [0, 1, 2, 3, 5, 6]);
}

/// The disk takes neither the last step of a swap nor the way back.
#[test]
fn what_is_left_of_a_swap_never_takes_the_place_of_what_the_log_is_by_then() {
    let mut is_condemned = false;
    for syncs in 0..20 {
        let fixture = Fixture::new(&compacted());
        let log = fixture.log("t");
        for _ in 0..3 {
            put(&log, &[("a", Some("1")), ("b", Some("1"))]);
        }
        log.roll(NOW_MS).expect("rolled");
        log.flush(NOW_MS).expect("flushed");
        let mut seen = 0;
        watch(Some(Box::new(move |op| {
            if op == Op::Sync {
                seen += 1;
                if seen == syncs + 1 {
                    fail(Op::Sync, 0);
                }
            } else if op == Op::Unlink && seen > syncs {
                fail(Op::Unlink, 0);
            }
        })));
        fixture.clean(NOW_MS);
        watch(None);
        crate::log::files::faults::clear();
        is_condemned |= log.is_offline();
        if !log.is_offline() {
            log.truncate_to(Offset(1), LeaderEpoch(0), NOW_MS).expect("truncated");
            put(&log, &[("c", Some("1"))]);
        }
        let crashed = tempfile::tempdir().expect("a temporary directory");
        copy_tree(&fixture.root, crashed.path());
        let again = Fixture::at(crashed.path().to_path_buf(), &compacted());
        let log_then = again.log("t");
        if log.is_offline() {
            assert_eq!(map_of(&records(&log_then)).len(), 2, "{syncs}");
        } else {
            assert_eq!(shown(&log_then), shown(&log), "{syncs}");
        }
    }
    assert!(is_condemned);
}

/// As an attempt leaves it whose files cannot be removed.
#[test]
fn a_file_that_an_earlier_attempt_has_left_does_not_undo_a_later_swap() {
    let fixture = Fixture::new(&compacted());
    let log = fixture.log("t");
    log.set_config(Arc::new(LogConfig { segment_bytes: 200, ..compacted() }));
    for key in ["a", "b", "c", "d", "e", "f", "a"] {
        put(&log, &[(key, Some("1"))]);
    }
    log.roll(NOW_MS).expect("rolled");
    log.flush(NOW_MS).expect("flushed");
    let expected = map_of(&records(&log));
    fs::write(fixture.root.join("t-0/00000000000000000001.log.cleaned"), "half").expect("writable");
    let crashes = tempfile::tempdir().expect("a temporary directory");
    let (from, to, mut count) = (fixture.root.clone(), crashes.path().to_path_buf(), 0);
    watch(Some(Box::new(move |op| {
        if matches!(op, Op::Sync | Op::Rename | Op::Unlink) {
            copy_tree(&from, &to.join(count.to_string()));
            count += 1;
        }
    })));
    fixture.clean_all(NOW_MS);
    watch(None);
    assert!(log.segment_count() > 2, "several segments were written");
    for crash in fs::read_dir(crashes.path()).expect("readable").flatten() {
        let again = Fixture::at(crash.path(), &compacted());
        assert_eq!(map_of(&records(&again.log("t"))), expected, "{}", crash.path().display());
    }
}

/// Of half a set nothing is left that the next failure could bring back as a whole one.
#[test]
fn a_start_that_undoes_a_swap_makes_sure_of_each_step_before_the_next() {
    let one = OneLog::new(compacted());
    append(&one.open_clean(), keyed(&[("a", Some("1")), ("b", Some("1"))])).expect("appended");
    for name in ["00000000000000000000.log.swap", "00000000000000000000.index.cleaned"] {
        fs::write(one.dir().join(name), "").expect("writable");
    }
    let steps = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let (seen, dir) = (std::rc::Rc::clone(&steps), one.dir());
    watch(Some(Box::new(move |op| {
        let names = names_in(&dir);
        let left = ["swap", "cleaned"].map(|suffix| names.iter().any(|name| name.ends_with(suffix)));
        seen.borrow_mut().push((op, left));
    })));
    one.open(false, Offset(0)).expect("loadable");
    watch(None);
    let steps = steps.take();
    for sure in [[false, true], [false, false]] {
        assert!(steps.contains(&(Op::Sync, sure)), "{sure:?} of {steps:?}");
    }
}

#[test]
fn a_full_disk_leaves_the_log_as_it_is() {
    for (op, others) in [
        (Op::WriteAt, 0),
        (Op::Write, 0),
        (Op::Write, 1),
        (Op::Sync, 0),
        (Op::Sync, 3),
        (Op::Sync, 4),
        (Op::Rename, 0),
        (Op::Rename, 2),
    ] {
        let fixture = Fixture::new(&compacted());
        let log = fixture.log("t");
        for _ in 0..3 {
            put(&log, &[("a", Some("1")), ("b", Some("1"))]);
        }
        log.roll(NOW_MS).expect("rolled");
        log.flush(NOW_MS).expect("flushed");
        let before = names_in(&fixture.root.join("t-0"));
        fail(op, others);
        assert!(fixture.clean(NOW_MS));
        assert_eq!((shown(&log).len(), log.is_offline()), (6, false), "{op:?} {others}");
        assert_eq!(names_in(&fixture.root.join("t-0")), before, "{op:?} {others}");
        assert!(fixture.clean(NOW_MS + HOUR_MS));
        assert_eq!(shown(&log), ["4 a=1", "5 b=1"]);
    }
}

#[test]
fn a_truncation_makes_what_was_compacted_dirty_again_and_ends_a_pause_too() {
    let fixture = Fixture::new(&compacted());
    let log = fixture.log("t");
    for _ in 0..4 {
        put(&log, &[("a", Some("1")), ("b", Some("1"))]);
        log.roll(NOW_MS).expect("rolled");
    }
    let paused = log.pause_cleaning();
    assert!(!fixture.clean(NOW_MS));
    drop(paused);
    log.set_config(Arc::new(LogConfig { segment_bytes: 200, ..compacted() }));
    fixture.clean_all(NOW_MS);
    assert_eq!(log.cleaned_to(), Some(Offset(8)));
    let bases: Vec<Offset> = log.locked().segments.iter().map(|segment| segment.base_offset()).collect();
    assert!(bases.len() > 2, "{bases:?}");
    let cut = bases[bases.len() - 2];
    log.truncate_to(Offset(cut.0 + 1), LeaderEpoch(0), NOW_MS).expect("truncated");
    assert_eq!(log.cleaned_to(), Some(cut));
    fixture.dirs.write_recovery_points_moved_back(NOW_MS);
    let checkpoint = fs::read_to_string(fixture.root.join("cleaner-offset-checkpoint")).expect("written");
    assert_eq!(checkpoint, format!("0\n1\nt 0 {cut}\n"));
    log.truncate_fully_and_start_at(Offset(2), None, LeaderEpoch(0), NOW_MS).expect("truncated");
    assert_eq!(log.cleaned_to(), Some(Offset(2)));
}

/// What is appended behind a cut, or behind where recovery ended, no pass has seen.
#[test]
fn compaction_is_never_said_to_have_come_beyond_the_beginning_of_the_active_segment() {
    let fixture = Fixture::new(&compacted());
    let log = fixture.log("t");
    put(&log, &[("a", Some("1")), ("b", Some("1"))]);
    log.roll(NOW_MS).expect("rolled");
    for _ in 0..3 {
        put(&log, &[("a", Some("2"))]);
    }
    // As after a move to a directory where it has fewer segments.
    log.set_cleaned_to(Some(Offset(5)));
    log.truncate_to(Offset(4), LeaderEpoch(0), NOW_MS).expect("truncated");
    assert_eq!(log.cleaned_to(), Some(Offset(2)));
    drop(log);
    for (written, expected) in [(50, 2), (3, 2), (1, 1)] {
        let crashed = tempfile::tempdir().expect("a temporary directory");
        copy_tree(&fixture.root, crashed.path());
        let checkpoint = crashed.path().join("cleaner-offset-checkpoint");
        fs::write(&checkpoint, format!("0\n1\nt 0 {written}\n")).expect("writable");
        let again = Fixture::at(crashed.path().to_path_buf(), &compacted());
        assert_eq!(again.log("t").cleaned_to(), Some(Offset(expected)), "{written}");
        // A second crash finds nothing else.
        let content = fs::read_to_string(&checkpoint).expect("written");
        assert_eq!(content, format!("0\n1\nt 0 {expected}\n"));
    }
}

#[test]
fn keys_beyond_the_memory_take_several_passes() {
    let fixture = Fixture::new(&compacted());
    let config = CleanerConfig { dedupe_buffer_bytes: 24 * 100, ..fixture.config.clone() };
    let log = fixture.log("t");
    let mut rng = SmallRng::seed_from_u64(1);
    for value in 0..600 {
        let (key, value) = (format!("k{}", rng.random_range(0..250)), value.to_string());
        put(&log, &[(&key, Some(&value))]);
    }
    log.roll(NOW_MS).expect("rolled");
    let before = map_of(&records(&log));
    let mut passes = 0;
    let mut cleaned_to = Offset(0);
    while fixture.cleaner.clean_filthiest(&config, &AtomicBool::new(false), NOW_MS) {
        passes += 1;
        let next = log.cleaned_to().expect("cleaned");
        assert!(next > cleaned_to, "each pass comes further");
        cleaned_to = next;
        assert_eq!(map_of(&records(&log)), before);
    }
    assert!(passes > 2, "{passes}");
    assert_eq!(cleaned_to, Offset(600));
    assert_eq!(records(&log).len(), before.len());
}

/// Source: kafka 3.9 core/.../log/{LogManager,LogCleaner}.scala (cleanupLogs, cleanFilthiestLog).
#[test]
fn retention_of_a_log_that_is_compacted_too_is_the_cleaners_work_alone() {
    let config = LogConfig { delete: true, retention_bytes: Some(150), ..compacted() };
    let fixture = Fixture::new(&config);
    let tp = TopicPartition::new("t", 0);
    let log = fixture.dirs.get_or_create(&tp, None, Arc::new(config), true, NOW_MS).expect("creatable");
    log.lead(LeaderEpoch(0)).expect("nobody led later");
    for _ in 0..5 {
        put(&log, &[("a", Some("1")), ("b", Some("1"))]);
        log.roll(NOW_MS).expect("rolled");
    }
    assert_eq!(fixture.dirs.tick_retention(NOW_MS), 0, "as without a cleaner");
    fixture.cleaner.delete_old_segments(NOW_MS);
    assert!(log.log_start_offset() > Offset(0));
    fixture.clean_all(NOW_MS);
    assert_eq!(shown(&log), ["8 a=1", "9 b=1"]);
}

/// Flips, cuts, zeros, doubles and noise, anywhere in the files of a log: then the pass refuses, or it leaves what is sound.
#[test]
fn no_damage_is_made_sound_and_none_is_a_panic() {
    let fixture = Fixture::new(&compacted());
    let log = fixture.log("t");
    for i in 0..30 {
        let mut builder =
            BatchBuilder::new().compression(Codec::ALL[i % 5], None).producer(i as i64 % 3, 0, -1 + i as i32);
        for record in 0..3 {
            builder.append(NOW_MS, Some(format!("key {}", (i + record) % 7).as_bytes()), Some(&[b'v'; 40]), &[]);
        }
        append_as(&log, builder, AppendOrigin::Coordinator);
    }
    log.roll(NOW_MS).expect("rolled");
    let appended: HashMap<i64, Record> = records(&log).into_iter().map(|record| (record.offset, record)).collect();
    let all = map_of(&records(&log));
    drop(log);
    let Fixture { dirs, root, _root, .. } = fixture;
    dirs.shutdown(NOW_MS);
    drop(dirs);
    let cases = std::env::var("ODRADEK_CLEANER_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(100);
    let (mut refused, mut compacted_all) = (0, 0);
    for seed in 0..cases {
        let mut rng = SmallRng::seed_from_u64(seed);
        let damaged = tempfile::tempdir().expect("a temporary directory");
        copy_tree(&root, damaged.path());
        let names: Vec<String> = names_in(&damaged.path().join("t-0"))
            .into_iter()
            .filter(|name| name.ends_with("log") || name.ends_with("index"))
            .collect();
        let path = damaged.path().join("t-0").join(&names[rng.random_range(0..names.len())]);
        let mut content = fs::read(&path).expect("readable");
        if content.is_empty() {
            continue;
        }
        let (at, len) = (rng.random_range(0..content.len()), rng.random_range(1..60));
        let end = (at + len).min(content.len());
        match seed % 5 {
            0 => content[at] ^= 1 << rng.random_range(0..8),
            1 => content.truncate(at),
            2 => content[at..end].fill(0),
            3 => drop(content.splice(at..at, content[at..end].to_vec())),
            _ => content[at..end].iter_mut().for_each(|byte| *byte = rng.random()),
        }
        fs::write(&path, &content).expect("writable");
        let fixture = Fixture::at(damaged.path().to_path_buf(), &compacted());
        let log = fixture.log("t");
        let what = format!("seed {seed}, {}", path.display());
        fixture.clean_all(NOW_MS);
        let failures = log.parent().counters.cleaner_failures.load(Ordering::Relaxed);
        refused += usize::from(failures > 0);
        // Whatever is written anew was read as it was appended.
        for path in fs::read_dir(damaged.path().join("t-0")).expect("readable").flatten() {
            let path = path.path();
            if failures == 0 && path.extension().is_some_and(|extension| extension == "log") {
                let bytes = bytes::Bytes::from(fs::read(&path).expect("readable"));
                for batch in read::batches(&bytes) {
                    let batch = batch.expect("sound");
                    assert!(batch.crc_is_valid(), "{what}");
                    for record in batch.records().expect("readable") {
                        let record = record.expect("readable");
                        assert_eq!(appended.get(&record.offset), Some(&record), "{what}");
                    }
                }
            }
        }
        if failures == 0 && log.log_end_offset() == Offset(90) && map_of(&records(&log)) == all {
            compacted_all += 1;
        }
    }
    assert!(refused > 3 && compacted_all > 3, "{refused} refused, {compacted_all} compacted");
}

/// The renames and fsyncs of a pass, which a power failure may keep in any order but for what an fsync of the directory
/// made certain.
#[test]
fn no_order_of_renames_that_a_disk_may_keep_loses_or_revives_a_record() {
    // Three segments that become one, which reaches as far as they did.
    let fixture = Fixture::new(&compacted());
    let log = fixture.log("t");
    for (one, other) in [("a", "b"), ("a", "c"), ("d", "a")] {
        put(&log, &[(one, Some("1")), (other, Some("2"))]);
        log.roll(NOW_MS).expect("rolled");
    }
    log.flush(NOW_MS).expect("flushed");
    let expected = map_of(&records(&log));
    let contents = |dir: &Path| -> BTreeMap<String, Vec<u8>> {
        names_in(dir).into_iter().map(|name| (name.clone(), fs::read(dir.join(&name)).expect("readable"))).collect()
    };
    // What the directory was before each fsync and each rename, and at the end.
    let dir = fixture.root.join("t-0");
    type Files = BTreeMap<String, Vec<u8>>;
    /// What the directory is for certain, and the files that have gone since, with what they are called now.
    type Run = (Files, Vec<(String, Option<String>)>);
    let watched = |dir: &Path, work: &mut dyn FnMut()| -> Vec<Run> {
        let steps = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let (seen, watched) = (std::rc::Rc::clone(&steps), dir.to_path_buf());
        watch(Some(Box::new(move |op| {
            if matches!(op, Op::Sync | Op::Rename | Op::Unlink) {
                seen.borrow_mut().push((op, contents(&watched)));
            }
        })));
        work();
        watch(None);
        let mut steps = steps.take();
        steps.push((Op::Sync, contents(dir)));
        // Between two fsyncs a failure keeps any of the changes.
        let (mut runs, mut changes) = (Vec::new(), Vec::new());
        let mut certain = steps[0].1.clone();
        for pair in steps.windows(2) {
            let ((op, before), (_, after)) = (&pair[0], &pair[1]);
            if *op == Op::Sync {
                runs.push((std::mem::replace(&mut certain, after.clone()), std::mem::take(&mut changes)));
            } else if let Some(old) = before.keys().find(|name| !after.contains_key(*name)) {
                // Otherwise it was one of a checkpoint.
                let new = after.keys().find(|name| after.get(*name) != before.get(*name));
                changes.push((old.clone(), new.cloned()));
            }
        }
        runs.push((certain, changes));
        runs.retain(|(_, changes)| !changes.is_empty());
        runs
    };
    let kept_of = |(certain, changes): &Run, rng: &mut SmallRng| {
        let mut kept = certain.clone();
        let share = [0.2, 0.5, 0.9][rng.random_range(0..3)];
        for (old, new) in changes {
            if rng.random_bool(share)
                && let Some(content) = kept.remove(old)
            {
                kept.extend(new.clone().map(|new| (new, content)));
            }
        }
        kept
    };
    let start_on = |kept: &Files, what: &str| {
        let failed = tempfile::tempdir().expect("a temporary directory");
        let dir = failed.path().join("t-0");
        fs::create_dir(&dir).expect("writable");
        for (name, content) in kept {
            fs::write(dir.join(name), content).expect("writable");
        }
        let one = OneLog::at(failed, compacted());
        let mut log = None;
        let runs = watched(&dir, &mut || log = Some(one.open(false, Offset(6)).expect("loadable")));
        let log = log.expect("it was opened");
        let names = kept.keys().collect::<Vec<_>>();
        let read = records(&log);
        assert_eq!(map_of(&read), expected, "{names:?}{what}");
        assert!(read.is_sorted_by(|a, b| a.offset < b.offset), "{names:?}{what}");
        // No segment reaches into the next.
        let ends = log.locked().segments.iter().map(|segment| segment.base_offset()).collect::<Vec<_>>();
        for (base, next) in ends.iter().zip(ends.iter().skip(1)) {
            let bytes = fs::read(dir.join(format!("{:020}.log", base.0))).expect("readable");
            let last = read::batches(&bytes::Bytes::from(bytes))
                .last()
                .map(|batch| batch.expect("sound").header().last_offset);
            assert!(last.is_none_or(|last| last < next.0), "{names:?}{what}: {base} reaches {last:?}");
        }
        runs
    };
    let runs = watched(&dir, &mut || assert!(fixture.clean(NOW_MS)));
    assert_eq!(map_of(&records(&log)), expected);
    assert!(runs.iter().map(|(_, changes)| changes.len()).sum::<usize>() > 10);
    let mut rng = SmallRng::seed_from_u64(5);
    let (mut failures, mut second_failures) = (0, 0);
    for run in &runs {
        for _ in 0..30 {
            let kept = kept_of(run, &mut rng);
            // And there may be another failure in the start that follows.
            for run in start_on(&kept, "") {
                let names = format!(" left by a start on {:?}", kept.keys());
                start_on(&kept_of(&run, &mut rng), &names);
                second_failures += 1;
            }
            failures += 1;
        }
    }
    assert!(failures >= 90 && second_failures >= 90, "{failures}, {second_failures}");
}

/// One random history of appends, rolls and passes, each of whose steps is a crash that the next start gets over.
struct History {
    rng: SmallRng,
    appended: HashMap<i64, Record>,
    map: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl History {
    fn append(&mut self, log: &Log) {
        let rng = &mut self.rng;
        let codec = Codec::ALL[rng.random_range(0..Codec::ALL.len())];
        let mut builder = BatchBuilder::new().compression(codec, None);
        let has_keys = rng.random_bool(0.8);
        for _ in 0..rng.random_range(1..8) {
            let key = has_keys.then(|| vec![b'k'; rng.random_range(1..12)]);
            let value = vec![rng.random_range(b'a'..=b'z'); rng.random_range(0..60)];
            let value = rng.random_bool(0.8).then_some(value);
            builder.append(NOW_MS + rng.random_range(0..1000), key.as_deref(), value.as_deref(), &[]);
        }
        let from = log.log_end_offset();
        append_as(log, builder, AppendOrigin::Client);
        let bytes = read_bytes(log, from, 1 << 20);
        for record in read::records(&bytes) {
            let record = record.expect("readable");
            match (record.key.as_ref().map(|key| key.to_vec()), &record.value) {
                (Some(key), Some(value)) => drop(self.map.insert(key, value.to_vec())),
                (Some(key), None) => drop(self.map.remove(&key)),
                (None, _) => {}
            }
            self.appended.insert(record.offset, record);
        }
    }

    /// Every record is one that was appended, in order, and together they say what all said.
    fn check(&self, log: &Log, what: &str) {
        let read = records(log);
        assert!(read.is_sorted_by(|a, b| a.offset < b.offset), "{what}");
        for record in &read {
            assert_eq!(self.appended.get(&record.offset), Some(record), "{what}");
        }
        assert_eq!(map_of(&read), self.map, "{what}");
        let end = read_all(log).last().map_or(0, |(header, _)| header.next_offset());
        assert_eq!(end, log.log_end_offset().0, "{what}");
        // Below where compaction has come no key is there twice.
        let Some(cleaned_to) = log.cleaned_to() else { return };
        let mut seen = std::collections::HashSet::new();
        for record in read.iter().filter(|record| record.key.is_some() && record.offset < cleaned_to.0) {
            assert!(seen.insert(record.key.clone()), "{what}: {record:?}");
        }
    }
}

#[test]
fn any_history_reads_as_the_map_of_its_records_and_so_does_any_crash_in_it() {
    let cases = std::env::var("ODRADEK_CLEANER_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(5);
    for seed in 0..cases {
        let fixture = Fixture::new(&compacted());
        let log = fixture.log("t");
        let mut history =
            History { rng: SmallRng::seed_from_u64(seed), appended: HashMap::new(), map: BTreeMap::new() };
        let mut now_ms = NOW_MS;
        let crashes = tempfile::tempdir().expect("a temporary directory");
        for step in 0..40 {
            match history.rng.random_range(0..10) {
                0 => log.roll(now_ms).expect("rolled"),
                1 => {
                    // The directory as it is before each fsync, write and rename.
                    let (from, to, mut count) = (fixture.root.clone(), crashes.path().join(step.to_string()), 0);
                    let every = history.rng.random_range(3..9_u32);
                    log.flush(now_ms).expect("flushed");
                    watch(Some(Box::new(move |op| {
                        count += u32::from(matches!(op, Op::Sync | Op::Write | Op::Rename));
                        if count % every == 0 && matches!(op, Op::Sync | Op::Write | Op::Rename) {
                            copy_tree(&from, &to.join(count.to_string()));
                        }
                    })));
                    fixture.clean(now_ms);
                    watch(None);
                    now_ms += history.rng.random_range(0..HOUR_MS);
                    let Ok(copies) = fs::read_dir(crashes.path().join(step.to_string())) else { continue };
                    for copy in copies.flatten() {
                        let crashed = Fixture::at(copy.path(), &compacted());
                        let what = format!("seed {seed}, crash {}", copy.path().display());
                        history.check(&crashed.log("t"), &what);
                        crashed.clean_all(now_ms);
                        history.check(&crashed.log("t"), &what);
                    }
                }
                _ => history.append(&log),
            }
            history.check(&log, &format!("seed {seed}, step {step}"));
        }
        log.roll(now_ms).expect("rolled");
        fixture.clean_all(now_ms);
        history.check(&log, &format!("seed {seed}, at the end"));
        assert!(log.cleaned_to().is_some());
    }
}

/// Each reader finds whole batches of one segment, whatever takes its place meanwhile.
#[test]
fn readers_go_on_while_segments_are_replaced() {
    let fixture = Fixture::new(&LogConfig { segment_bytes: 4000, ..compacted() });
    let log = fixture.log("t");
    log.set_config(Arc::new(LogConfig { segment_bytes: 4000, ..compacted() }));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|seed| {
                let (log, stop) = (&log, &stop);
                scope.spawn(move || {
                    let mut rng = SmallRng::seed_from_u64(seed);
                    let mut reads = 0;
                    while !stop.load(Ordering::Relaxed) || reads < 100 {
                        let end = log.log_end_offset().0;
                        let from = rng.random_range(0..=end);
                        let read = log.read(Offset(from), 3000, ReadUntil::LastStableOffset, FirstBatch::Whole);
                        let Some(region) = read.expect("readable").region else { continue };
                        let mut bytes = vec![0; region.len as usize];
                        std::os::unix::fs::FileExt::read_exact_at(&*region.file, &mut bytes, region.position)
                            .expect("readable");
                        let first = Batch::first_of(&bytes).expect("sound").expect("whole");
                        assert!(first.crc_is_valid());
                        assert!(first.header.last_offset >= from);
                        log.offset_for_timestamp(crate::log::OffsetQuery::AtOrAfter(NOW_MS + from))
                            .expect("searchable");
                        reads += 1;
                    }
                })
            })
            .collect();
        let mut rng = SmallRng::seed_from_u64(77);
        for round in 0..400 {
            let key = format!("key {}", rng.random_range(0..300));
            let mut builder = BatchBuilder::new();
            for record in 0..3_i64 {
                builder.append(NOW_MS + round, Some(key.as_bytes()), Some(&[b'v'; 50][..20 + record as usize]), &[]);
            }
            append_as(&log, builder, AppendOrigin::Client);
            if round % 20 == 19 {
                fixture.clean(NOW_MS);
                log.close_idle_files(NOW_MS).expect("closable");
            }
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().expect("no reader fails");
        }
    });
    assert!(log.parent().wrong_indexes.take(i64::MAX).is_empty(), "no reader takes an index for a wrong one");
    assert!(log.segment_count() < 20);
}
