//! Whatever call on a directory fails, of all that a broker makes of it: the directory goes offline once and says why, the other
//! one serves on, and what was acknowledged is there when the disk is back.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustix::io::Errno;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::cleaner::Cleaner;
use super::counters::LogCounters;
use super::dirs::LogDirs;
use super::dirs::moves::Step;
use super::error::LogError;
use super::files::faults::{self, InForce, Op};
use super::testing::*;
use super::{AppendInfo, FirstBatch, Log, OffsetQuery, ReadUntil};
use crate::config::log::LogConfig;
use crate::config::sections::{CleanerConfig, LogDirsConfig};
use crate::model::{BrokerId, LeaderEpoch, Offset, TopicId, TopicPartition};
use crate::record::append_rules::AppendOrigin;
use crate::record::build::BatchBuilder;
use crate::record::read;

/// Which calls fail, of those on one directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fails {
    Never,
    /// This one and all that come after it: the disk has died.
    From(usize),
    /// This one alone.
    Once(usize),
    /// Of those from this one on that need what there is none of, all before the other one: the disk is full for a while, or
    /// there are too many open files.
    Without(usize, usize),
}

/// A directory on a disk that may fail.
struct Disk {
    /// Not while the test looks at what is there.
    is_watched: AtomicBool,
    has_started: AtomicBool,
    calls: AtomicUsize,
    fails: Mutex<(Fails, Errno)>,
    /// The first call that failed.
    failed: Mutex<Option<String>>,
    root: PathBuf,
    held: Mutex<BTreeMap<&'static str, Held>>,
    /// Both directories as they were at that call, and what they should hold.
    picture: TempDir,
    held_then: Mutex<BTreeMap<&'static str, Held>>,
}

fn needs_room(op: Op, path: &Path) -> bool {
    match op {
        Op::Create => !path.exists(),
        // What is written there has been given room before.
        Op::WriteAt => path.extension().is_none_or(|extension| extension != "txnindex"),
        op => matches!(op, Op::MakeDir | Op::Write | Op::Reserve),
    }
}

fn needs_descriptor(op: Op) -> bool {
    matches!(op, Op::Open | Op::Create | Op::List)
}

impl Disk {
    fn call(&self, op: Op, path: &Path) -> io::Result<()> {
        if !self.is_watched.load(Ordering::SeqCst) {
            return Ok(());
        }
        // Nobody goes on while the picture is taken.
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let (fails, errno) = *self.fails.lock().expect("unpoisoned");
        let does_fail = match fails {
            Fails::Never => false,
            Fails::From(first) => call >= first,
            Fails::Once(one) => call == one,
            // Where there is no room for a directory there is none.
            Fails::Without(first, end) => {
                let needs = if errno == Errno::NOSPC { needs_room(op, path) } else { needs_descriptor(op) };
                self.has_started.load(Ordering::SeqCst) && (first..end).contains(&call) && needs
            }
        };
        if !does_fail {
            return Ok(());
        }
        if failed.is_none() {
            *failed = Some(format!("call {call}, {op:?} of {}", path.display()));
            copy_tree(&self.root, self.picture.path());
            *self.held_then.lock().expect("unpoisoned") = self.held.lock().expect("unpoisoned").clone();
        }
        Err(errno.into())
    }

    fn has_failed(&self) -> Option<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A batch as it should be read.
#[derive(Clone, PartialEq, Eq)]
struct Entry {
    base: i64,
    last: i64,
    /// No two have the same.
    timestamp: i64,
    key: String,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}..={} {}", self.base, self.last, self.timestamp)
    }
}

/// What a log should hold.
#[derive(Clone, Debug, Default)]
struct Held {
    /// Acknowledged, and never cut off by what was asked for.
    must: Vec<Entry>,
    /// `must`, and what an append or a truncation that failed may have left behind it.
    may: Vec<Entry>,
    /// Where the log starts at most.
    start: i64,
    /// The same when what is under way is done.
    will_start: i64,
}

impl Held {
    fn start_at(&mut self, start: i64) {
        (self.start, self.will_start) = (start, start);
        self.must.retain(|entry| entry.last >= start);
        self.may.retain(|entry| entry.last >= start);
    }
}

const TXN: i64 = 7;
const IDEMPOTENT: i64 = 8;
const BAD: [&str; 7] = ["a", "big", "compact", "leaves", "shrinks", "restarts", "deleted"];
const GOOD: [&str; 3] = ["good", "arrives", "good-compact"];

fn tp(topic: &str) -> TopicPartition {
    TopicPartition::new(topic, 0)
}

fn config_of(topic: &str) -> Arc<LogConfig> {
    let small = LogConfig { file_delete_delay_ms: 0, retention_ms: None, ..small_segments() };
    Arc::new(match topic {
        "big" => LogConfig { segment_bytes: 20_000, index_interval_bytes: 1, ..small },
        "shrinks" => LogConfig { retention_bytes: Some(2500), ..small },
        "compact" | "good-compact" => LogConfig {
            cleanup_policy: vec!["compact".to_string()],
            compact: true,
            delete: false,
            min_cleanable_dirty_ratio: 0.0,
            ..small
        },
        _ => small,
    })
}

struct World {
    root: TempDir,
    dirs: Option<Arc<LogDirs>>,
    failures: UnboundedReceiver<PathBuf>,
    counters: Arc<LogCounters>,
    disk: Arc<Disk>,
    now_ms: i64,
    epoch: i32,
    was_told: bool,
    /// Since before the last thing that was done.
    has_room_again: bool,
    fails: Fails,
    _fault: Option<InForce>,
}

fn bad(root: &Path) -> PathBuf {
    root.join("bad")
}

fn good(root: &Path) -> PathBuf {
    root.join("good")
}

type Opened = (Arc<LogDirs>, UnboundedReceiver<PathBuf>, Arc<LogCounters>);

fn open(root: &Path, now_ms: i64) -> Opened {
    let config = LogDirsConfig {
        dirs: vec![bad(root), good(root)],
        topic_defaults: (*config_of("a")).clone(),
        producer_id_expiration_ms: i64::MAX,
        ..LogDirsConfig::default()
    };
    let counters = Arc::<LogCounters>::default();
    let (sender, failures) = unbounded_channel();
    let dirs = LogDirs::open(&config, sender, Arc::clone(&counters)).expect("one directory is good");
    dirs.claim("cluster", BrokerId(1)).expect("nobody else's");
    dirs.load(&config_of, now_ms, &|_| {}).expect("one directory is good");
    (Arc::new(dirs), failures, counters)
}

impl World {
    fn new(fails: Fails, errno: Errno) -> World {
        let root = scratch();
        let disk = Arc::new(Disk {
            is_watched: AtomicBool::new(true),
            has_started: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            fails: Mutex::new((fails, errno)),
            failed: Mutex::default(),
            root: root.path().to_path_buf(),
            held: Mutex::default(),
            picture: scratch(),
            held_then: Mutex::default(),
        });
        let of_calls = Arc::clone(&disk);
        let fault = faults::below(&bad(root.path()), move |op, path| of_calls.call(op, path));
        watch_errors(&bad(root.path()));
        let (dirs, failures, counters) = open(root.path(), 0);
        disk.has_started.store(true, Ordering::SeqCst);
        World {
            root,
            dirs: Some(dirs),
            failures,
            counters,
            disk,
            now_ms: 1000,
            epoch: 0,
            was_told: false,
            has_room_again: false,
            fails,
            _fault: Some(fault),
        }
    }

    fn with<T>(&self, topic: &str, change: impl FnOnce(&mut Held) -> T) -> T {
        change(self.disk.held.lock().expect("unpoisoned").get_mut(topic).expect("it was created"))
    }

    fn topics(&self) -> Vec<&'static str> {
        self.disk.held.lock().expect("unpoisoned").keys().copied().collect()
    }

    fn dirs(&self) -> &Arc<LogDirs> {
        self.dirs.as_ref().expect("a broker is alive")
    }

    fn what(&self) -> String {
        self.disk.has_failed().unwrap_or_default()
    }

    fn is_bad(&self, log: &Log) -> bool {
        log.parent_dir() == bad(self.root.path())
    }

    /// What is done of a log may fail only where the disk has.
    fn allow<T>(&mut self, is_bad: bool, outcome: Result<T, LogError>) -> Option<T> {
        self.hear();
        let outcome = outcome.inspect_err(|error| {
            let is_told = matches!(error, LogError::Offline { .. } | LogError::Closed) || error.errno().is_some();
            assert!(is_bad && is_told && self.disk.has_failed().is_some(), "{error}, after {}", self.what());
            assert!(!self.has_room_again, "{error}, though there is room again after {}", self.what());
        });
        if let Fails::Without(_, end) = self.fails {
            self.has_room_again = self.disk.calls.load(Ordering::SeqCst) >= end;
        }
        outcome.ok()
    }

    /// As a broker does which hears that a directory has failed.
    fn hear(&mut self) {
        if self.dirs().offline_dirs().contains(&bad(self.root.path())) {
            self.dirs().drop_offline_logs(&bad(self.root.path()));
        }
    }

    fn log(&self, topic: &str) -> Option<Arc<Log>> {
        self.dirs().get(&tp(topic))
    }

    fn create(&mut self, topic: &'static str, dir: PathBuf) {
        self.dirs().prefer(&tp(topic), dir.to_str().expect("text"));
        let id = Some(TopicId::random());
        let created = self.dirs().get_or_create(&tp(topic), id, config_of(topic), true, self.now_ms);
        if self.allow(dir == bad(self.root.path()), created).is_some() {
            self.disk.held.lock().expect("unpoisoned").insert(topic, Held::default());
        }
    }

    fn append(&mut self, topic: &'static str, key: &str, batch: BatchBuilder, records: i64) -> bool {
        let Some(log) = self.log(topic) else { return false };
        let is_bad = self.is_bad(&log);
        let epoch = LeaderEpoch(self.epoch);
        let origin = if key.starts_with('\0') { AppendOrigin::Coordinator } else { AppendOrigin::Client };
        let entry = self.with(topic, |held| {
            let base = held.must.last().map_or(held.start, |entry| entry.last + 1);
            let entry = Entry { base, last: base + records - 1, timestamp: self.now_ms, key: key.to_string() };
            held.may.push(entry.clone());
            entry
        });
        let appended: Result<AppendInfo, LogError> = (|| {
            log.lead(epoch)?;
            log.append_as_leader(&mut prepared_as(batch, origin), epoch, origin, self.now_ms)
        })();
        if let Ok(info) = &appended {
            assert_eq!((info.first_offset.0, info.last_offset.0), (entry.base, entry.last), "{topic}, {}", self.what());
            self.with(topic, |held| held.must.push(entry));
            log.update_high_watermark(info.log_end_offset);
        } else if !log.is_offline() {
            // It goes on as if nothing had been appended.
            assert_eq!(log.log_end_offset().0, entry.base, "{topic}, {}", self.what());
            self.with(topic, |held| held.may.clone_from(&held.must));
        }
        self.now_ms += 1;
        self.allow(is_bad, appended).is_some()
    }

    fn put(&mut self, topic: &'static str, key: &str) -> bool {
        let mut batch = BatchBuilder::new();
        let value = format!("{:0100}", self.now_ms);
        batch.append(self.now_ms, Some(key.as_bytes()), Some(value.as_bytes()), &[]);
        self.append(topic, key, batch, 1)
    }

    /// With what comes next of a producer.
    fn put_as(&mut self, topic: &'static str, producer_id: i64) -> bool {
        let Some(log) = self.log(topic) else { return false };
        let known = log.producers().into_iter().find(|producer| producer.producer_id.0 == producer_id);
        let sequence = known.map_or(0, |producer| producer.last_sequence + 1);
        let mut batch = BatchBuilder::new().producer(producer_id, 0, sequence).transactional(producer_id == TXN);
        for _ in 0..2 {
            batch.append(self.now_ms, Some(b"k"), Some(&[b'v'; 60]), &[]);
        }
        self.append(topic, "k", batch, 2)
    }

    fn end_txn(&mut self, topic: &'static str, commit: bool) {
        let mut batch = BatchBuilder::new().producer(TXN, 0, -1).transactional(true).control(true);
        let key = if commit { "\0\0\0\x01" } else { "\0\0\0\0" };
        batch.append(self.now_ms, Some(key.as_bytes()), Some(&[0, 0, 0, 0, 0, 1]), &[]);
        self.append(topic, key, batch, 1);
    }

    /// Reads all of a log, by every way there is.
    fn look(&mut self, topic: &'static str) {
        let Some(log) = self.log(topic) else { return };
        let is_bad = self.is_bad(&log);
        let bounds = log.bounds();
        for from in (bounds.log_start_offset.0..bounds.log_end_offset.0).step_by(3) {
            let read = log.read(Offset(from), 400, ReadUntil::LastStableOffset, FirstBatch::Whole);
            self.allow(is_bad, read);
        }
        for query in [OffsetQuery::MaxTimestamp, OffsetQuery::AtOrAfter(self.now_ms / 2), OffsetQuery::AtOrAfter(0)] {
            self.allow(is_bad, log.offset_for_timestamp(query));
        }
        self.allow(is_bad, log.segment_starts());
    }

    /// Cuts the log to its first `entries` batches, or lets it start anew where it would end then.
    fn truncate(&mut self, topic: &'static str, entries: usize, all: bool) {
        let Some(log) = self.log(topic) else { return };
        let is_bad = self.is_bad(&log);
        self.epoch += 1;
        let epoch = LeaderEpoch(self.epoch);
        let (before, end) = (self.with(topic, |held| held.clone()), log.log_end_offset());
        let offset = self.with(topic, |held| {
            let offset = Offset(held.must.get(entries - 1)?.last + 1);
            held.must.truncate(if all { 0 } else { entries });
            held.start = if all { offset.0 } else { held.start };
            held.will_start = held.start;
            Some(offset)
        });
        let Some(offset) = offset else { return };
        let truncated = log.follow(epoch).and_then(|()| match all {
            true => log.truncate_fully_and_start_at(offset, None, epoch, self.now_ms),
            false => log.truncate_to(offset, epoch, self.now_ms).map(drop),
        });
        if truncated.is_ok() {
            self.with(topic, |held| held.may.clone_from(&held.must));
        } else if log.log_end_offset() == end && !log.is_offline() {
            // It was not begun.
            self.with(topic, |held| *held = before);
        }
        self.allow(is_bad, truncated);
        self.dirs().write_recovery_points_moved_back(self.now_ms);
        self.hear();
    }

    fn shrink(&mut self, topic: &'static str) {
        let Some(log) = self.log(topic) else { return };
        let is_bad = self.is_bad(&log);
        let before = Offset(log.log_start_offset().0 + 7).min(log.high_watermark());
        self.with(topic, |held| held.will_start = before.0);
        let deleted = log.delete_records(before, log.leader_epoch());
        self.allow(is_bad, deleted);
        self.dirs().checkpoint_log_start_offsets();
        self.note_start(topic, &log);
    }

    fn note_start(&mut self, topic: &'static str, log: &Log) {
        let start = log.log_start_offset().0;
        self.with(topic, |held| held.start_at(start));
    }

    fn tick(&mut self) {
        self.now_ms += 100_000;
        self.dirs().tick_flush(self.now_ms);
        self.hear();
        let logs: Vec<_> = self.topics().into_iter().filter_map(|topic| Some((topic, self.log(topic)?))).collect();
        for (topic, log) in &logs {
            self.with(topic, |held| held.will_start = log.high_watermark().0);
        }
        self.dirs().tick_retention(self.now_ms);
        logs.iter().for_each(|(topic, log)| self.note_start(topic, log));
        self.hear();
        self.dirs().tick_deletions(self.now_ms);
        self.dirs().checkpoint_recovery_points();
        self.dirs().checkpoint_log_start_offsets();
        self.dirs().checkpoint_high_watermarks();
        self.dirs().described();
        self.hear();
    }

    fn compact(&mut self) {
        let config = CleanerConfig { dedupe_buffer_bytes: 1 << 20, ..CleanerConfig::default() };
        let cleaner = Cleaner::new(Arc::clone(self.dirs()), &config);
        for _ in 0..4 {
            if !cleaner.clean_filthiest(&config, &AtomicBool::new(false), self.now_ms) {
                break;
            }
        }
        self.hear();
    }

    fn move_to(&mut self, topic: &'static str, dir: PathBuf) {
        let begun = self.dirs().begin_move(&tp(topic), dir.to_str().expect("text"), self.now_ms);
        let (mut is_moving, mut first) = (self.allow(true, begun).is_some(), true);
        while is_moving {
            let step = self.dirs().move_on(&tp(topic), first, self.now_ms);
            is_moving = matches!(self.allow(true, step), Some(Step::Copied(_)));
            self.put(topic, "k");
            first = false;
            if self.with(topic, |held| held.must.len() > 60) {
                break;
            }
        }
    }

    fn delete(&mut self, topic: &'static str) {
        let Some(log) = self.log(topic) else { return };
        let is_bad = self.is_bad(&log);
        self.with(topic, |held| held.must.clear());
        for outcome in self.dirs().delete(&[tp(topic)], self.now_ms) {
            self.allow(is_bad, outcome);
        }
    }

    fn fill(&mut self, count: usize) {
        for number in 0..count {
            for topic in ["a", "good", "leaves", "arrives", "shrinks", "restarts", "deleted"] {
                self.put(topic, "k");
            }
            for topic in ["compact", "good-compact"] {
                self.put(topic, ["x", "y", "z"][number % 3]);
            }
            for topic in ["a", "good"] {
                self.put_as(topic, IDEMPOTENT);
                // An append that failed was of a transaction that goes on.
                if self.put_as(topic, TXN) && number % 2 == 1 {
                    self.end_txn(topic, number % 4 == 1);
                }
            }
        }
    }

    fn live(&mut self) {
        for topic in BAD {
            self.create(topic, bad(self.root.path()));
        }
        for topic in GOOD {
            self.create(topic, good(self.root.path()));
        }
        self.fill(6);
        self.tick();
        for _ in 0..80 {
            self.put("big", "k");
        }
        for _ in 0..2 {
            BAD.into_iter().chain(GOOD).for_each(|topic| self.look(topic));
            self.tick();
        }
        self.truncate("a", 9, false);
        self.truncate("restarts", 4, true);
        self.shrink("shrinks");
        self.fill(2);
        self.compact();
        self.move_to("leaves", good(self.root.path()));
        self.move_to("arrives", bad(self.root.path()));
        self.delete("deleted");
        self.tick();
    }

    /// What came of the life that ends.
    fn check_failures(&mut self) {
        let mut heard = Vec::new();
        while let Ok(dir) = self.failures.try_recv() {
            heard.push(dir);
        }
        let (bad, what) = (bad(self.root.path()), self.what());
        let offline = self.dirs().offline_dirs();
        let lines = errors_about(&bad);
        let told: Vec<_> = lines.iter().filter(|line| line.contains("is offline until the broker restarts")).collect();
        let failed = self.counters.dirs_failed.load(Ordering::Relaxed);
        assert_eq!(self.counters.logs_failed.load(Ordering::Relaxed), 0, "{what}: {lines:#?}");
        assert_eq!((failed as usize, heard.len(), told.len()), (offline.len(), offline.len(), offline.len()), "{what}");
        assert!(offline.is_empty() || offline == [bad], "{what}");
        if let Fails::Without(..) = self.fails {
            assert!(offline.is_empty(), "{what}: {lines:#?}");
        } else if self.disk.has_failed().is_some() && !self.was_told {
            self.was_told = true;
            assert!(!offline.is_empty(), "{what}: {lines:#?}");
            assert_eq!(lines.len(), 1, "{what}: {lines:#?}");
        }
    }

    fn restart(&mut self, in_order: bool) {
        if in_order {
            self.dirs().shutdown(self.now_ms);
        }
        self.check_failures();
        // The locks of the directories go with it.
        self.dirs = None;
        errors_about(&bad(self.root.path()));
        // A process that begins has descriptors.
        let is_without = self.disk.fails.lock().expect("unpoisoned").1 == Errno::MFILE;
        self.disk.is_watched.store(!is_without, Ordering::SeqCst);
        let (dirs, failures, counters) = open(self.root.path(), self.now_ms);
        (self.dirs, self.failures, self.counters) = (Some(dirs), failures, counters);
        self.hear();
        self.disk.is_watched.store(false, Ordering::SeqCst);
        let hosted: Vec<_> = self.topics().into_iter().filter(|topic| self.log(topic).is_some()).collect();
        for topic in hosted {
            let log = self.log(topic).expect("just seen");
            let what = self.what();
            self.with(topic, |held| check(topic, held, &log, &what));
        }
        self.disk.is_watched.store(true, Ordering::SeqCst);
    }
}

/// A log is what it should be; then that is what it should be from here on.
fn check(topic: &str, held: &mut Held, log: &Log, what: &str) {
    let what = &format!("{topic}, {what}");
    log.update_high_watermark(log.log_end_offset());
    let bounds = log.bounds();
    let read = read_all(log);
    let key_of = |bytes: &Bytes| read::records(bytes).next().expect("one").expect("sound").key.unwrap_or_default();
    let entries = read.iter().map(|(header, bytes)| Entry {
        base: header.base_offset,
        last: header.last_offset,
        timestamp: header.max_timestamp,
        key: String::from_utf8(key_of(bytes).to_vec()).expect("text"),
    });
    if bounds.log_start_offset.0 > held.start {
        held.start_at(held.will_start.min(bounds.log_start_offset.0));
    }
    let entries: Vec<_> = entries.filter(|entry| entry.last >= held.start).collect();
    assert!(bounds.log_start_offset.0 <= held.start || held.must.is_empty(), "{what}: {bounds:?}, {held:?}");
    if config_of(topic).compact {
        let latest = |entries: &[Entry]| -> BTreeMap<String, i64> {
            entries.iter().map(|entry| (entry.key.clone(), entry.timestamp)).collect()
        };
        let (found, must, may) = (latest(&entries), latest(&held.must), latest(&held.may));
        assert!(found == must || found == may, "{what}: {found:?}, {must:?}, {may:?}");
        return;
    }
    assert!(entries.starts_with(&held.must), "{what}: {entries:?} lack some of {held:?}");
    held.may.retain(|entry| entry.last >= held.start);
    assert!(held.may.starts_with(&entries), "{what}: {entries:?} are more than {held:?}");
    held.must.clone_from(&entries);
    held.may = entries;
    if held.may.is_empty() {
        // What a truncation of everything did not come to is left to whoever leads.
        held.start_at(bounds.log_end_offset.0);
    }
    if bounds.log_start_offset == Offset(0) {
        let mut sequences = BTreeMap::new();
        let mut open = BTreeMap::new();
        let mut ended = Vec::new();
        for (header, _) in read.iter().filter(|(header, _)| header.producer_id >= 0) {
            if header.is_control {
                ended.extend(open.remove(&header.producer_id).map(|first| (first, header.base_offset)));
                continue;
            }
            sequences.insert(header.producer_id, header.last_sequence());
            if header.is_transactional {
                open.entry(header.producer_id).or_insert(header.base_offset);
            }
        }
        let known = log.producers();
        let of = |id: i64| known.iter().find(|producer| producer.producer_id.0 == id);
        for (id, sequence) in &sequences {
            let producer = of(*id).unwrap_or_else(|| panic!("{what}: producer {id} is not known"));
            assert_eq!(producer.last_sequence, *sequence, "{what}: of producer {id}");
            let first = producer.current_txn_first_offset.map(|first| first.0);
            assert_eq!(first, open.get(id).copied(), "{what}: the transaction of producer {id}");
        }
        let committed = log.read(Offset(0), i32::MAX as u32, ReadUntil::LastStableOffset, FirstBatch::Whole);
        let aborted = committed.expect("readable").aborted_transactions;
        for txn in aborted {
            assert!(ended.contains(&(txn.first_offset.0, txn.last_offset.0)), "{what}: {txn:?}");
        }
    }
}

fn check_all(dirs: &LogDirs, held: BTreeMap<&'static str, Held>, what: &str) {
    assert!(dirs.offline_dirs().is_empty(), "{what}");
    for (topic, mut held) in held {
        match dirs.get(&tp(topic)) {
            Some(log) => check(topic, &mut held, &log, what),
            None => assert!(held.must.is_empty(), "{what}: {topic} is gone"),
        }
    }
}

fn run(fails: Fails, errno: Errno) -> usize {
    let mut world = World::new(fails, errno);
    world.live();
    world.restart(true);
    world.fill(2);
    world.restart(false);
    world.fill(1);
    let calls = world.disk.calls.load(Ordering::SeqCst);
    // The disk is back.
    *world.disk.fails.lock().expect("unpoisoned") = (Fails::Never, errno);
    world.restart(false);
    let what = world.what();
    let held = std::mem::take(&mut *world.disk.held.lock().expect("unpoisoned"));
    check_all(world.dirs(), held, &what);
    let held_then = std::mem::take(&mut *world.disk.held_then.lock().expect("unpoisoned"));
    if world.disk.has_failed().is_some() {
        let (dirs, ..) = open(world.disk.picture.path(), world.now_ms);
        check_all(&dirs, held_then, &format!("{what}, at that moment"));
    }
    calls
}

/// Some of these calls, evenly spread.
fn every(calls: usize, several: usize) -> impl Iterator<Item = usize> {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<usize>().ok());
    let tried = number("ODRADEK_TEST_FAILING_CALLS").unwrap_or(several);
    let range = match number("ODRADEK_TEST_SEED") {
        Some(call) => call..call + 1,
        None => 0..calls,
    };
    let step = (calls / tried.max(1)).max(1);
    range.step_by(step)
}

#[test]
fn a_disk_that_dies_takes_its_directory_along_and_nothing_else_whatever_call_it_fails_first() {
    let calls = run(Fails::Never, Errno::IO);
    every(calls, 60).for_each(|call| {
        run(Fails::From(call), Errno::IO);
    });
}

#[test]
fn a_directory_is_not_used_any_more_after_any_call_has_failed() {
    let calls = run(Fails::Never, Errno::IO);
    every(calls, 60).for_each(|call| {
        run(Fails::Once(call), Errno::ROFS);
    });
}

#[test]
fn a_full_disk_takes_nothing_out_of_service() {
    let calls = run(Fails::Never, Errno::IO);
    every(calls, 60).for_each(|call| {
        run(Fails::Without(call, call + 40), Errno::NOSPC);
    });
}

#[test]
fn too_many_open_files_take_nothing_out_of_service() {
    let calls = run(Fails::Never, Errno::IO);
    every(calls, 60).for_each(|call| {
        run(Fails::Without(call, call + 40), Errno::MFILE);
    });
}
