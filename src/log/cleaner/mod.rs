//! Compaction: of each key in a compacted topic only the last record stays.
//!
//! `selection` says which log is next, `pass` works on it, `output` is what a pass writes, `replacement` (one room up) puts
//! that in the place of the old segments. `threads` has the threads that do it, one log each.
//!
//! Invariants:
//! - No offset changes, and the log reads the same from any offset on but for records that a later one of their key, an abort
//!   or a tombstone's age has made void.
//! - A log that cannot be compacted is named with file, offset and reason, stays as it is and is tried again, later and
//!   later. Nothing of it keeps the others waiting.
//! - Memory is what the settings give, and for a batch no more than the batch takes and a small constant, whatever it inflates
//!   to (`record/cleaning.rs`).
//!
//! Nobody waits for compaction: it reads without the log's lock, and before segments are replaced it finds out whether they
//! are still what it has read. A truncation, a deletion or retention that came in between has made its work void.
//! Source: kafka 3.9 core/.../log/{LogCleaner,LogCleanerManager}.scala.

mod offset_map;
mod output;
mod pass;
mod selection;
pub mod threads;
mod throttle;
mod transactions;

#[cfg(test)]
mod cleaner_tests;

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use self::pass::{Means, Pass};
use self::selection::{Assessment, FirstDirty, Lags, LogFacts, SegmentFacts};
use self::throttle::Throttle;
use super::counters::add;
use super::dirs::LogDirs;
use super::error::{Condemned, LogError};
use super::pending::Complaints;
use super::segment::Segment;
use super::{Log, State};
use crate::config::log::LogConfig;
use crate::config::sections::CleanerConfig;
use crate::model::{Offset, TopicPartition};

/// Between two attempts at a log that cannot be compacted.
const FIRST_DELAY_MS: i64 = 60_000;
const LONGEST_DELAY_MS: i64 = 3_600_000;

/// Why a pass did not come to its end.
#[derive(Debug)]
pub(crate) enum CleanError {
    /// The log changed under it, or somebody asked it to stop.
    Overtaken,
    /// What is in the log cannot be compacted.
    Unreadable {
        file: String,
        offset: Offset,
        reason: String,
    },
    Log(LogError),
}

impl CleanError {
    fn unreadable(file: &Path, offset: Offset, reason: impl ToString) -> CleanError {
        CleanError::Unreadable { file: file.display().to_string(), offset, reason: reason.to_string() }
    }
}

impl CleanError {
    fn panicked(log: &Log, panic: &(dyn Any + Send)) -> CleanError {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        let dir = log.parent_dir().join(log.topic_partition().to_string());
        CleanError::unreadable(&dir, Offset(-1), format!("the cleaner panicked: {said}"))
    }
}

impl From<LogError> for CleanError {
    fn from(error: LogError) -> CleanError {
        match error {
            LogError::Closed | LogError::BeingTruncated | LogError::Offline { .. } => CleanError::Overtaken,
            error => CleanError::Log(error),
        }
    }
}

impl fmt::Display for CleanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CleanError::Overtaken => f.write_str("the log is changing"),
            CleanError::Unreadable { file, offset, reason } => write!(f, "{file} at offset {offset}: {reason}"),
            CleanError::Log(error) => error.fmt(f),
        }
    }
}

/// What one pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CleanerStats {
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub records_read: u64,
    pub records_retained: u64,
    /// Bytes whose keys were learnt first.
    pub map_bytes: u64,
    /// Records without a key, which a compacted topic should not have; they are dropped.
    pub keyless_records: u64,
    /// How full the memory for keys became, from 0 to 1.
    pub buffer_utilization: f64,
    pub index_seconds: f64,
    pub seconds: f64,
}

/// Holds compaction off a log for as long as it is kept. A pass that is at the log ends without having done anything more.
#[derive(Debug)]
pub struct PausedCleaning(Arc<AtomicUsize>);

impl Drop for PausedCleaning {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Log {
    /// From now on compaction leaves the log alone, and does not move `cleaned_to`. Does not wait for a replacement of
    /// segments that is under way.
    pub fn pause_cleaning(&self) -> PausedCleaning {
        self.cleaning_pauses.fetch_add(1, Ordering::AcqRel);
        PausedCleaning(Arc::clone(&self.cleaning_pauses))
    }

    fn is_cleaning_paused(&self) -> bool {
        self.cleaning_pauses.load(Ordering::Acquire) > 0
    }

    /// Compaction has done everything below, if it has done anything: what `cleaner-offset-checkpoint` says of the log.
    pub fn cleaned_to(&self) -> Option<Offset> {
        self.locked().cleaned_to
    }

    /// For a log whose segments are a copy of another's, which is compacted up to there.
    pub fn set_cleaned_to(&self, offset: Option<Offset>) {
        self.locked().cleaned_to = offset;
    }

    /// What there is to be done, and the segments as they were then; `None` if that is nothing, or not to be known now.
    fn assess(&self, now_ms: i64) -> Result<Option<Candidate>, LogError> {
        self.learn_facts(now_ms)?;
        let mut state = self.serving()?;
        let config = state.config.clone();
        let facts = state.log_facts();
        let FirstDirty { offset: first_dirty, invalid } = facts.first_dirty();
        if let Some(invalid) = invalid {
            if !config.delete {
                log::warn!(
                    "[{}] Resetting first dirty offset to log start offset {first_dirty} since the checkpointed offset \
                     {invalid} is invalid.",
                    self.topic_partition
                );
            }
            state.cleaned_to = Some(first_dirty);
        }
        let segments = state.segment_facts()?;
        let Some(lags) = state.lags(&config, first_dirty, now_ms)? else { return Ok(None) };
        let assessed = Assessment::of(&facts, &segments, &lags);
        Ok(assessed.map(|assessment| Candidate { assessment, segments, cuts: state.cuts }))
    }

    /// Makes sure that memory has what `assess` asks of the segments with the lock.
    fn learn_facts(&self, now_ms: i64) -> Result<(), LogError> {
        let (config, first_dirty) = {
            let state = self.serving()?;
            let at = state.segment_of(state.log_facts().first_dirty().offset);
            (state.config.clone(), state.segments[at].base_offset())
        };
        let look = |segment: &mut Segment, dir: &Path| {
            segment.index_sizes(dir)?;
            if segment.base_offset() < first_dirty {
                return Ok(Some(()));
            }
            if config.max_compaction_lag_ms < now_ms {
                segment.first_append_timestamp(dir)?;
            }
            match config.min_compaction_lag_ms {
                1.. => Ok(segment.largest_timestamp_ms(dir)?.map(|_| ())),
                _ => Ok(Some(())),
            }
        };
        self.look_at_each(look, |_, ()| false)
    }
}

/// A log that may be compacted.
struct Candidate {
    assessment: Assessment,
    segments: Vec<SegmentFacts>,
    cuts: u64,
}

impl State {
    fn log_facts(&self) -> LogFacts {
        LogFacts {
            log_start_offset: self.log_start_offset,
            log_end_offset: self.log_end_offset,
            last_stable_offset: self.last_stable_offset(),
            cleaned_to: self.cleaned_to,
        }
    }

    fn segment_facts(&mut self) -> Result<Vec<SegmentFacts>, LogError> {
        let State { segments, dir, .. } = self;
        let facts = |segment: &mut Segment| {
            Ok(SegmentFacts {
                base_offset: segment.base_offset(),
                bytes: u64::from(segment.size()),
                index_bytes: segment.index_sizes(dir)?,
            })
        };
        segments.iter_mut().map(facts).collect()
    }

    /// Dates are only asked for where a setting wants to know them. `None` if an index is wrong, as a start finds or
    /// `learn_facts` the next time.
    fn lags(&mut self, config: &LogConfig, first_dirty: Offset, now_ms: i64) -> Result<Option<Lags>, LogError> {
        let first = self.segment_of(first_dirty);
        let State { segments, dir, .. } = self;
        let Some((_, inactive)) = segments.split_last_mut() else { return Ok(Some(Lags::default())) };
        let dirty = inactive.get_mut(first..).unwrap_or_default();
        let mut lags = Lags::default();
        if config.min_compaction_lag_ms > 0 {
            for segment in dirty.iter_mut() {
                let Some(largest_ms) = segment.largest_timestamp_ms(dir)? else { return Ok(None) };
                if largest_ms > now_ms.saturating_sub(config.min_compaction_lag_ms) {
                    lags.first_too_young = Some(segment.base_offset());
                    break;
                }
            }
        }
        if config.max_compaction_lag_ms < now_ms {
            let mut dates_ms = Vec::with_capacity(dirty.len());
            for segment in dirty.iter_mut() {
                dates_ms.extend(segment.first_append_timestamp(dir)?);
            }
            lags.overdue_ms = selection::overdue_ms(dates_ms.into_iter(), config.max_compaction_lag_ms, now_ms);
        }
        Ok(Some(lags))
    }
}

/// Compacts the logs of a broker, one after another for each thread that asks.
pub struct Cleaner {
    dirs: Arc<LogDirs>,
    throttle: Throttle,
    /// Logs that a thread is at.
    in_progress: Mutex<HashSet<TopicPartition>>,
    /// Logs that could not be compacted.
    set_aside: Mutex<HashMap<TopicPartition, SetAside>>,
}

#[derive(Clone, Debug, Default)]
struct SetAside {
    /// A topic may be made anew with the name.
    log: Weak<Log>,
    until_ms: i64,
    failures: u32,
}

impl SetAside {
    fn is_of(&self, log: &Arc<Log>) -> bool {
        std::ptr::eq(self.log.as_ptr(), Arc::as_ptr(log))
    }
}

/// A log that a thread has taken; given back when it is dropped.
struct Taken<'a> {
    cleaner: &'a Cleaner,
    log: Arc<Log>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.cleaner.in_progress().remove(self.log.topic_partition());
    }
}

impl Cleaner {
    pub fn new(dirs: Arc<LogDirs>, config: &CleanerConfig) -> Cleaner {
        Cleaner {
            dirs,
            throttle: Throttle::new(config.io_max_bytes_per_second),
            in_progress: Mutex::default(),
            set_aside: Mutex::default(),
        }
    }

    fn in_progress(&self) -> std::sync::MutexGuard<'_, HashSet<TopicPartition>> {
        self.in_progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_aside(&self) -> std::sync::MutexGuard<'_, HashMap<TopicPartition, SetAside>> {
        self.set_aside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compacts the log that needs it most. False if none does.
    pub fn clean_filthiest(&self, config: &CleanerConfig, stop: &AtomicBool, now_ms: i64) -> bool {
        let (taken, candidate) = loop {
            let Some((log, candidate)) = self.filthiest(now_ms) else { return false };
            // Another thread may have taken it since: then it is not found again.
            if self.in_progress().insert(log.topic_partition().clone()) {
                break (Taken { cleaner: self, log }, candidate);
            }
        };
        let log = &taken.log;
        let tp = log.topic_partition().clone();
        let Candidate { assessment, segments, cuts } = candidate;
        let means = Means { config, throttle: &self.throttle, stop };
        // Whatever it stumbles over, the other logs go on. Where it held a lock, the lock tells those who come for it.
        let pass = AssertUnwindSafe(|| Pass::new(log, segments, cuts, means, now_ms).run(&assessment));
        let outcome = catch_unwind(pass).unwrap_or_else(|panic| Err(CleanError::panicked(log, panic.as_ref())));
        let outcome = outcome.and_then(|(end, stats)| {
            let has_come_so_far = log.note_cleaned(end, cuts);
            if has_come_so_far {
                self.dirs.checkpoint_cleaned(log)?;
            }
            Ok((end, stats))
        });
        match outcome {
            Ok((end, stats)) => {
                self.set_aside().remove(&tp);
                let counters = &log.parent().counters;
                add(&counters.cleaner_passes, 1);
                add(&counters.cleaner_bytes_read, stats.bytes_read);
                add(&counters.cleaner_bytes_written, stats.bytes_written);
                report(&tp, assessment.first_dirty, end, &stats);
            }
            Err(error) => self.failed(log, error, now_ms),
        }
        true
    }

    fn filthiest(&self, now_ms: i64) -> Option<(Arc<Log>, Candidate)> {
        let mut found: Option<(Arc<Log>, Candidate)> = None;
        for log in self.dirs.logs() {
            let config = log.config();
            if !config.compact || log.is_cleaning_paused() || log.is_offline() || self.is_set_aside(&log, now_ms) {
                continue;
            }
            if self.in_progress().contains(log.topic_partition()) {
                continue;
            }
            let candidate = match log.assess(now_ms) {
                Ok(Some(candidate)) => candidate,
                Ok(None) => continue,
                Err(error) => {
                    self.failed(&log, error.into(), now_ms);
                    continue;
                }
            };
            let is_filthier =
                |(_, best): &(Arc<Log>, Candidate)| candidate.assessment.dirty_ratio() > best.assessment.dirty_ratio();
            let is_due = candidate.assessment.is_due(config.min_cleanable_dirty_ratio);
            if is_due && found.as_ref().is_none_or(is_filthier) {
                found = Some((log, candidate));
            }
        }
        found
    }

    fn is_set_aside(&self, log: &Arc<Log>, now_ms: i64) -> bool {
        let set_aside = self.set_aside();
        let of_log = set_aside.get(log.topic_partition()).filter(|set_aside| set_aside.is_of(log));
        let until_ms = of_log.map(|set_aside| set_aside.until_ms);
        // A clock that was set back must not make anything wait for as long.
        until_ms.is_some_and(|until_ms| (now_ms..=now_ms.saturating_add(LONGEST_DELAY_MS)).contains(&until_ms))
    }

    /// The log stays as it is, and the others go on.
    fn failed(&self, log: &Arc<Log>, error: CleanError, now_ms: i64) {
        let tp = log.topic_partition();
        if let CleanError::Log(error) = &error
            && log.parent().condemned_by(error) == Condemned::Dir
        {
            log.parent().fail(error);
        }
        let is_gone = log.is_offline() || log.locked().is_closed;
        match &error {
            CleanError::Overtaken => {
                log::debug!("Cleaner: Cleaning of {tp} was given up, because the log is changing");
                return;
            }
            // Its files are no longer where they were, or the directory has said why it is out of service.
            CleanError::Log(error) if is_gone => {
                log::debug!("Cleaner: Cleaning of {tp} was given up: {error}");
                return;
            }
            _ => {}
        }
        let mut set_aside = self.set_aside();
        set_aside.retain(|tp, _| self.dirs.get(tp).is_some());
        let failures = set_aside.get(tp).filter(|entry| entry.is_of(log)).map_or(0, |entry| entry.failures);
        let delay_ms = FIRST_DELAY_MS.saturating_mul(1 << failures.min(16)).min(LONGEST_DELAY_MS);
        let until_ms = now_ms.saturating_add(delay_ms);
        let entry = SetAside { log: Arc::downgrade(log), until_ms, failures: failures.saturating_add(1) };
        set_aside.insert(tp.clone(), entry);
        add(&log.parent().counters.cleaner_failures, 1);
        log::error!(
            "Cleaner: [{tp}] cannot be compacted: {error}; it stays as it is, and is tried again in {} s",
            delay_ms / 1000
        );
    }

    /// Deletes what retention no longer keeps of logs that are compacted, and what lies before their start; of one that another
    /// thread is at, next time.
    pub fn delete_old_segments(&self, now_ms: i64) {
        let mut complaints = Complaints::about("delete old segments");
        for log in self.dirs.logs().iter().filter(|log| log.config().compact) {
            if !self.in_progress().contains(log.topic_partition())
                && let Err(error) = log.delete_old_segments(now_ms)
            {
                complaints.note(log.topic_partition(), &error);
            }
        }
    }
}

impl Log {
    /// False if a truncation came in between.
    fn note_cleaned(&self, end: Offset, cuts: u64) -> bool {
        let mut state = self.locked();
        let is_as_before = !state.is_closed && state.cuts == cuts && !self.is_cleaning_paused();
        if is_as_before {
            state.cleaned_to = Some(end);
        }
        is_as_before
    }
}

/// As a JVM broker's cleaner does.
fn report(tp: &TopicPartition, from: Offset, to: Offset, stats: &CleanerStats) {
    let mb = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let rate = |bytes: u64, seconds: f64| if seconds > 0.0 { mb(bytes) / seconds } else { 0.0 };
    let share = |part: f64, whole: f64| if whole > 0.0 { 100.0 * part / whole } else { 0.0 };
    let cleaning = stats.seconds - stats.index_seconds;
    log::info!(
        "\n\tLog cleaner cleaned log {tp} (dirty section = [{from}, {to}])\n\
         \t{:.1} MB of log processed in {:.1} seconds ({:.1} MB/sec).\n\
         \tIndexed {:.1} MB in {:.1} seconds ({:.1} Mb/sec, {:.1}% of total time)\n\
         \tBuffer utilization: {:.1}%\n\
         \tCleaned {:.1} MB in {cleaning:.1} seconds ({:.1} Mb/sec, {:.1}% of total time)\n\
         \tStart size: {:.1} MB ({} messages)\n\
         \tEnd size: {:.1} MB ({} messages)\n\
         \t{:.1}% size reduction ({:.1}% fewer messages)\n",
        mb(stats.bytes_read),
        stats.seconds,
        rate(stats.bytes_read, stats.seconds),
        mb(stats.map_bytes),
        stats.index_seconds,
        rate(stats.map_bytes, stats.index_seconds),
        share(stats.index_seconds, stats.seconds),
        100.0 * stats.buffer_utilization,
        mb(stats.bytes_read),
        rate(stats.bytes_read, cleaning),
        share(cleaning, stats.seconds),
        mb(stats.bytes_read),
        stats.records_read,
        mb(stats.bytes_written),
        stats.records_retained,
        100.0 - share(stats.bytes_written as f64, stats.bytes_read as f64),
        100.0 - share(stats.records_retained as f64, stats.records_read as f64),
    );
    if stats.keyless_records > 0 {
        log::warn!("[{tp}] Found {} records without a key during compaction.", stats.keyless_records);
    }
}
