//! What the tests of this room share: a log in a temporary directory, and batches to put into it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::error::LogError;
use super::faults::{self, Op};
use super::loading::{self, LoadInput};
use super::log_dir::LogDir;
use super::producer_state::ProducerLimits;
use super::{AppendInfo, FirstBatch, Log, ReadUntil};
use crate::config::log::LogConfig;
use crate::model::{LeaderEpoch, Offset, TopicPartition};
use crate::record::append::prepare;
use crate::record::append_rules::{AppendOrigin, AppendRules};
use crate::record::batch::{BatchHeader, Batches};
use crate::record::build::BatchBuilder;
use crate::record::compression::Codec;
use crate::record::prepared::Prepared;

pub(crate) const EXPIRATION_MS: i64 = 86_400_000;

pub(crate) fn small_segments() -> LogConfig {
    LogConfig { segment_bytes: 1000, index_interval_bytes: 100, ..LogConfig::default() }
}

/// A log dir with one partition, `t-0`.
pub(crate) struct OneLog {
    pub root: TempDir,
    pub config: Arc<LogConfig>,
    pub parent: Arc<LogDir>,
    pub failures: UnboundedReceiver<PathBuf>,
}

impl OneLog {
    pub fn new(config: LogConfig) -> OneLog {
        OneLog::within(tempfile::tempdir().expect("a temporary directory"), config)
    }

    /// Where there is no disk to wait for, if the machine has such a place: for tests that open thousands of logs.
    pub fn in_memory(config: LogConfig) -> OneLog {
        OneLog::within(scratch(), config)
    }

    fn within(root: TempDir, config: LogConfig) -> OneLog {
        std::fs::create_dir(root.path().join("t-0")).expect("writable");
        OneLog::at(root, config)
    }

    /// Where the partition is already.
    pub fn at(root: TempDir, config: LogConfig) -> OneLog {
        let (sender, failures) = unbounded_channel();
        let parent = Arc::new(LogDir::new(
            root.path().to_path_buf(),
            sender,
            EXPIRATION_MS,
            ProducerLimits::new(1000, usize::MAX),
            Arc::default(),
            0,
        ));
        OneLog { root, config: Arc::new(config), parent, failures }
    }

    pub fn dir(&self) -> PathBuf {
        self.root.path().join("t-0")
    }

    pub fn open_clean(&self) -> Log {
        self.open(true, Offset(0)).expect("loadable")
    }

    pub fn open(&self, had_clean_shutdown: bool, recovery_point: Offset) -> Result<Log, LogError> {
        self.open_at(had_clean_shutdown, recovery_point, Offset(0))
    }

    pub fn open_at(
        &self,
        had_clean_shutdown: bool,
        recovery_point: Offset,
        log_start_offset: Offset,
    ) -> Result<Log, LogError> {
        let input = LoadInput {
            topic_partition: TopicPartition::new("t", 0),
            dir: self.dir(),
            config: self.config.clone(),
            recovery_point,
            log_start_offset,
            high_watermark: Offset(i64::MAX),
            cleaned_to: None,
            had_clean_shutdown,
        };
        loading::load(input, self.parent.clone(), 0, &|_| {})
    }
}

/// A batch of records with the given timestamps, each with a value of `value_bytes`.
pub(crate) fn batch(timestamps: &[i64], value_bytes: usize) -> BatchBuilder {
    compressed_batch(timestamps, value_bytes, Codec::None)
}

pub(crate) fn compressed_batch(timestamps: &[i64], value_bytes: usize, codec: Codec) -> BatchBuilder {
    let mut builder = BatchBuilder::new().compression(codec, None);
    let value = vec![b'v'; value_bytes];
    for timestamp in timestamps {
        builder.append(*timestamp, Some(b"k"), Some(&value), &[]);
    }
    builder
}

pub(crate) fn prepared(batch: BatchBuilder) -> Prepared {
    prepared_as(batch, AppendOrigin::Client)
}

pub(crate) fn prepared_as(batch: BatchBuilder, origin: AppendOrigin) -> Prepared {
    prepare(batch.build(), &AppendRules { origin, ..AppendRules::default() }, 0).expect("a valid batch")
}

pub(crate) fn append(log: &Log, batch: BatchBuilder) -> Result<AppendInfo, LogError> {
    append_in_epoch(log, batch, 0)
}

pub(crate) fn append_in_epoch(log: &Log, batch: BatchBuilder, epoch: i32) -> Result<AppendInfo, LogError> {
    log.follow(LeaderEpoch(epoch))?;
    let info = log.append_as_leader(&mut prepared(batch), LeaderEpoch(epoch), AppendOrigin::Client, 0)?;
    log.update_high_watermark(info.log_end_offset);
    Ok(info)
}

/// Ends a transaction, as its coordinator does.
pub(crate) fn marker(producer_id: i64, commit: bool, coordinator_epoch: i32) -> BatchBuilder {
    let mut builder = BatchBuilder::new().producer(producer_id, 0, -1).transactional(true).control(true);
    let mut value = vec![0, 0];
    value.extend(coordinator_epoch.to_be_bytes());
    builder.append(9, Some(&[0, 0, 0, u8::from(commit)]), Some(&value), &[]);
    builder
}

/// Everything between two offsets, batch by batch, as a follower would read it.
pub(crate) fn read_all(log: &Log) -> Vec<(BatchHeader, Bytes)> {
    let bounds = log.bounds();
    let mut from = bounds.log_start_offset;
    let mut batches = Vec::new();
    while from < bounds.log_end_offset {
        let bytes = read_bytes(log, from, 1 << 20);
        let before = from;
        for batch in Batches::new(&bytes) {
            let batch = batch.expect("well-formed batches");
            assert!(batch.crc_is_valid());
            from = Offset(batch.header.next_offset());
            batches.push((batch.header, bytes.slice_ref(batch.bytes)));
        }
        if before == from {
            break;
        }
    }
    batches
}

pub(crate) fn read_bytes(log: &Log, from: Offset, max_bytes: u32) -> Bytes {
    let fetched = log.read(from, max_bytes, ReadUntil::LogEnd, FirstBatch::Whole).expect("readable");
    let Some(region) = fetched.region else { return Bytes::new() };
    let mut bytes = vec![0; region.len as usize];
    std::os::unix::fs::FileExt::read_exact_at(&*region.file, &mut bytes, region.position).expect("readable");
    Bytes::from(bytes)
}

/// Where whoever comes waits until the test lets him go on.
#[derive(Default)]
pub(crate) struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    /// One that what is written below the directory passes.
    pub fn of_writes_below(dir: &Path) -> (Arc<Gate>, faults::InForce) {
        let gate = Arc::new(Gate::default());
        let passed = Arc::clone(&gate);
        let fault = faults::below(dir, move |op, _| {
            if op == Op::WriteAt {
                passed.pass();
            }
            Ok(())
        });
        (gate, fault)
    }

    pub fn pass(&self) {
        let is_open = self.is_open.lock().expect("unpoisoned");
        // If the test does not get to open it, it ends all the same.
        let waited = self.opened.wait_timeout_while(is_open, Duration::from_secs(15), |is_open| !*is_open);
        *waited.expect("unpoisoned").0 = true;
    }

    pub fn open(&self) {
        *self.is_open.lock().expect("unpoisoned") = true;
        self.opened.notify_all();
    }

    pub fn is_open(&self) -> bool {
        *self.is_open.lock().expect("unpoisoned")
    }
}

/// Runs `ask` on a thread of its own, which the disk of this directory does not answer when it opens, reads or looks at a file
/// for the `nth` time; and then `meanwhile`, which must not wait for that. Says, too, whether it came so far.
pub(crate) fn held_up<T: Send>(
    dir: &Path,
    nth: usize,
    ask: impl FnOnce() -> T + Send,
    meanwhile: impl FnOnce(),
) -> (T, bool) {
    const NAME: &str = "held up";
    let (gate, looks) = (Arc::new(Gate::default()), AtomicUsize::new(0));
    let (tell, told) = std::sync::mpsc::channel();
    let (at_gate, is_held_up) = (Arc::clone(&gate), tell.clone());
    let _fault = faults::below(dir, move |op, _| {
        let asks = std::thread::current().name() == Some(NAME);
        if asks && matches!(op, Op::Open | Op::Read | Op::Stat) && looks.fetch_add(1, Ordering::Relaxed) == nth {
            let _ = is_held_up.send(true);
            at_gate.pass();
        }
        Ok(())
    });
    std::thread::scope(|scope| {
        let run = move || {
            let answer = ask();
            let _ = tell.send(false);
            answer
        };
        let asking = std::thread::Builder::new().name(NAME.to_owned()).spawn_scoped(scope, run).expect("it starts");
        let is_held_up = told.recv_timeout(Duration::from_secs(60)).unwrap_or(false);
        if is_held_up {
            meanwhile();
            assert!(!gate.is_open(), "it waited for the disk, at look {nth}");
        }
        gate.open();
        (asking.join().expect("no panic"), is_held_up)
    })
}

/// A directory where there is no disk to wait for, if the machine has such a place.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary directory")
}

pub(crate) fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("writable");
    for name in names_in(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            copy_tree(&from, &to)
        } else {
            // One that is gone meanwhile is not in the picture.
            let _ = std::fs::copy(from, to);
        }
    }
}

pub(crate) fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Keeps the errors that are logged of directories which somebody watches.
struct Errors(Mutex<Vec<(PathBuf, Vec<String>)>>);

static ERRORS: Errors = Errors(Mutex::new(Vec::new()));

impl log::Log for Errors {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() == log::Level::Error
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = record.args().to_string();
        let mut watched = self.0.lock().expect("unpoisoned");
        let of_line = watched.iter_mut().filter(|(dir, _)| dir.to_str().is_some_and(|dir| line.contains(dir)));
        of_line.for_each(|(_, lines)| lines.push(line.clone()));
    }

    fn flush(&self) {}
}

/// From now on `errors_about` knows what is logged of this directory.
pub(crate) fn watch_errors(dir: &Path) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        log::set_logger(&ERRORS).expect("no test has another logger");
        log::set_max_level(log::LevelFilter::Error);
    });
    ERRORS.0.lock().expect("unpoisoned").push((dir.to_path_buf(), Vec::new()));
}

/// What was logged of it since the last call.
pub(crate) fn errors_about(dir: &Path) -> Vec<String> {
    let mut watched = ERRORS.0.lock().expect("unpoisoned");
    let lines = watched.iter_mut().find(|(watched, _)| watched == dir).map(|(_, lines)| std::mem::take(lines));
    lines.unwrap_or_default()
}
