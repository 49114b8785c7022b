//! One entry of `log.dirs`, as the logs in it see it: whether it still serves, and work they leave for later.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc::UnboundedSender;

use super::counters::{LogCounters, add};
use super::error::{Condemned, IoContext, LogError};
use super::files;
use super::pace::Pace;
use super::pending::{Due, Pending};
use super::producer_state::ProducerLimits;
use super::reserve::Reserve;
use crate::codec::writer::RegionSource;
use crate::model::clock::wall_clock_ms;
use crate::model::{Offset, TopicPartition};

#[derive(Debug)]
pub(crate) struct LogDir {
    path: PathBuf,
    offline: AtomicBool,
    /// Told when the directory or a log in it fails, once for each. Unbounded, but there are only so many.
    failures: UnboundedSender<PathBuf>,
    producer_id_expiration_ms: AtomicI64,
    /// Shared by all directories.
    pub producer_limits: Arc<ProducerLimits>,
    /// Shared by all directories too.
    pub counters: Arc<LogCounters>,
    /// Held while a checkpoint is gathered and written: of two writers at once one would find its temporary file gone, and
    /// an older picture could replace a newer one.
    pub checkpointing: Mutex<()>,
    /// Held while recovery points are written that truncations have moved back; taken before `checkpointing`.
    pub moving_back: Mutex<()>,
    /// Partitions with a segment that is complete but not fsynced.
    pub rolled: Pending<TopicPartition>,
    /// Partitions whose `flush.ms` is over.
    pub overdue: Pending<TopicPartition>,
    /// Partitions whose topic id or leader epochs are not on the disk yet.
    pub unwritten: Pending<TopicPartition>,
    /// Partitions that the controller wanted here, and that were refused for want of something that may be there again.
    pub refused: Pending<TopicPartition>,
    /// Segments, by base offset, whose indexes led a reader astray.
    pub wrong_indexes: Pending<(TopicPartition, Offset)>,
    pub reserve: Reserve,
    pub pace: Pace,
    /// What dates records in topics that stamp them; tests move it.
    pub wall_clock: fn() -> i64,
    /// How many logs and copies of logs are in it.
    logs: AtomicUsize,
    doomed: Mutex<Vec<Doomed>>,
    /// A recovery point moved back since the checkpoint: what is appended below the old one is not on the disk yet.
    pub truncated: Pending<()>,
}

/// Files or a whole directory to remove once nobody can be reading them any more.
#[derive(Debug)]
pub(crate) struct Doomed {
    pub due: Due,
    pub path: PathBuf,
}

impl RegionSource for LogDir {
    fn dir(&self) -> &Path {
        &self.path
    }

    fn is_offline(&self) -> bool {
        self.offline.load(Ordering::Acquire)
    }

    fn observe_read(&self, read: io::Result<()>) {
        if let Err(error) = self.observe(read.doing("read again what could not be sent of a log in", &self.path)) {
            log::log!(error.level(), "{error}");
        }
    }
}

impl LogDir {
    pub fn new(
        path: PathBuf,
        failures: UnboundedSender<PathBuf>,
        producer_id_expiration_ms: i64,
        producer_limits: Arc<ProducerLimits>,
        counters: Arc<LogCounters>,
        reserved_bytes: u64,
    ) -> LogDir {
        LogDir {
            path,
            offline: AtomicBool::new(false),
            failures,
            producer_id_expiration_ms: AtomicI64::new(producer_id_expiration_ms),
            producer_limits,
            counters,
            checkpointing: Mutex::default(),
            moving_back: Mutex::default(),
            rolled: Pending::default(),
            overdue: Pending::default(),
            unwritten: Pending::default(),
            refused: Pending::default(),
            wrong_indexes: Pending::default(),
            reserve: Reserve::of(reserved_bytes),
            pace: Pace::default(),
            wall_clock: wall_clock_ms,
            logs: AtomicUsize::new(0),
            doomed: Mutex::default(),
            truncated: Pending::default(),
        }
    }

    /// `producer.id.expiration.ms`, which may change while the logs are open.
    pub fn producer_id_expiration_ms(&self) -> i64 {
        self.producer_id_expiration_ms.load(Ordering::Relaxed)
    }

    pub fn set_producer_id_expiration_ms(&self, ms: i64) {
        self.producer_id_expiration_ms.store(ms, Ordering::Relaxed);
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn is_offline(&self) -> bool {
        self.offline.load(Ordering::Acquire)
    }

    pub fn check(&self) -> Result<(), LogError> {
        if self.is_offline() { Err(self.offline_error()) } else { Ok(()) }
    }

    pub fn offline_error(&self) -> LogError {
        LogError::Offline { dir: self.path.display().to_string() }
    }

    /// Takes the directory out of service if the error says that its disk is not to be trusted.
    pub fn observe<T>(&self, result: Result<T, LogError>) -> Result<T, LogError> {
        if let Err(error) = &result
            && self.condemned_by(error) == Condemned::Dir
        {
            self.fail(error);
        }
        result
    }

    /// What an error of one of its logs takes out of service.
    pub fn condemned_by(&self, error: &LogError) -> Condemned {
        match error.condemns() {
            Condemned::LogOrDir if files::list(&self.path).is_ok() => Condemned::Log,
            Condemned::LogOrDir => Condemned::Dir,
            condemned => condemned,
        }
    }

    /// One log is not served any more; whoever hears of failures finds it.
    pub fn tell_failed_log(&self) {
        add(&self.counters.logs_failed, 1);
        let _ = self.failures.send(self.path.clone());
    }

    pub fn fail(&self, error: &LogError) {
        if !self.offline.swap(true, Ordering::AcqRel) {
            add(&self.counters.dirs_failed, 1);
            log::error!("{error}; log directory {} is offline until the broker restarts", self.path.display());
            // Nobody listens in tests and tools, and that is fine.
            let _ = self.failures.send(self.path.clone());
        }
    }

    pub fn log_count(&self) -> usize {
        self.logs.load(Ordering::Relaxed)
    }

    pub fn count_log(&self) {
        self.logs.fetch_add(1, Ordering::Relaxed);
    }

    pub fn uncount_log(&self) {
        self.logs.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn note_rolled(&self, tp: &TopicPartition) {
        self.rolled.note(tp.clone());
    }

    pub fn note_refused(&self, tp: &TopicPartition) {
        self.refused.note(tp.clone());
    }

    pub fn note_unwritten(&self, tp: &TopicPartition) {
        self.unwritten.note(tp.clone());
    }

    pub fn note_wrong_index(&self, tp: &TopicPartition, base_offset: Offset) {
        if self.wrong_indexes.note((tp.clone(), base_offset)) {
            log::warn!(
                "[{tp}] The indexes of the segment at offset {base_offset} do not fit its batches and are rebuilt"
            );
        }
    }

    pub fn note_truncated(&self) {
        self.truncated.note(());
    }

    pub fn doom(&self, due: Due, paths: impl IntoIterator<Item = PathBuf>) {
        let mut doomed = self.doomed.lock().expect("nothing panics under this lock");
        doomed.extend(paths.into_iter().map(|path| Doomed { due, path }));
    }

    /// What is to be removed of a directory goes under its new name.
    pub fn has_moved(&self, from: &Path, to: &Path) {
        let mut doomed = self.doomed.lock().expect("nothing panics under this lock");
        for entry in doomed.iter_mut() {
            if let Ok(within) = entry.path.strip_prefix(from) {
                entry.path = to.join(within);
            }
        }
    }

    /// What is still to be removed.
    pub fn doomed(&self) -> Vec<PathBuf> {
        let doomed = self.doomed.lock().expect("nothing panics under this lock");
        doomed.iter().map(|entry| entry.path.clone()).collect()
    }

    /// What is due by now.
    pub fn take_doomed(&self, now_ms: i64) -> Vec<PathBuf> {
        let mut doomed = self.doomed.lock().expect("nothing panics under this lock");
        doomed.extract_if(.., |entry| entry.due.is_due(now_ms)).map(|entry| entry.path).collect()
    }
}
