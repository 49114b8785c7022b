//! What `broker/` calls by the clock: retention, deletion, flushing, expiry of producers.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{LogDirs, OneDir};
use crate::log::error::{IoContext, LogError};
use crate::log::pending::{Attempt, Complaints, Due, LONGEST_DELAY_MS, Pending};
use crate::log::{Log, files};
use crate::model::TopicPartition;

impl LogDirs {
    /// As [`OneDir::tick_retention`], of each directory.
    pub fn tick_retention(&self, now_ms: i64) -> usize {
        self.each().map(|dir| dir.tick_retention(now_ms)).sum()
    }

    /// As [`OneDir::tick_deletions`], of each directory.
    pub fn tick_deletions(&self, now_ms: i64) {
        self.each().for_each(|dir| dir.tick_deletions(now_ms));
    }

    /// As [`OneDir::tick_flush`], of each directory.
    pub fn tick_flush(&self, now_ms: i64) {
        self.each().for_each(|dir| dir.tick_flush(now_ms));
    }

    /// As [`OneDir::write_recovery_points_moved_back`], of each directory.
    pub fn write_recovery_points_moved_back(&self, now_ms: i64) {
        self.each().for_each(|dir| dir.write_recovery_points_moved_back(now_ms));
    }

    /// Passes that are under way end with the log that they are at.
    pub fn end_passes(&self) {
        self.passes_end.store(true, Ordering::Release);
    }

    fn passes_end(&self) -> bool {
        self.passes_end.load(Ordering::Acquire)
    }

    /// `num.recovery.threads.per.data.dir` for the logs that are opened from now on.
    pub fn set_recovery_threads(&self, per_dir: usize) {
        self.recovery_threads_per_dir.store(per_dir, Ordering::Relaxed);
    }

    /// `producer.id.expiration.ms` from now on.
    pub fn set_producer_id_expiration(&self, ms: i64) {
        self.dirs.iter().for_each(|dir| dir.shared.set_producer_id_expiration_ms(ms));
    }
}

impl OneDir<'_> {
    /// Deletes what retention no longer keeps of logs that are not compacted, and closes files that nobody has been using.
    /// Returns the segments deleted.
    pub fn tick_retention(&self, now_ms: i64) -> usize {
        let mut deleted = 0;
        let mut of_deletions = Complaints::about("delete old segments");
        let mut of_flushes = Complaints::about("flush before the files are closed");
        for log in self.logs() {
            if self.all.passes_end() {
                break;
            }
            // Of the others it is the cleaner's work, so that neither takes segments from the other.
            let outcome = if log.config().compact { Ok(0) } else { log.delete_old_segments(now_ms) };
            match outcome {
                Ok(count) => deleted += count,
                Err(error) => of_deletions.note(log.topic_partition(), &error),
            }
            if let Err(error) = log.close_idle_files(now_ms) {
                of_flushes.note(log.topic_partition(), &error);
            }
        }
        deleted
    }

    /// Removes files and directories whose delete delay is over. What cannot be removed is tried again.
    pub fn tick_deletions(&self, now_ms: i64) {
        let shared = &self.dir.shared;
        let mut complaints = Complaints::about("remove what was deleted");
        for path in shared.take_doomed(now_ms) {
            if self.all.passes_end() {
                shared.doom(Due::after(now_ms, LONGEST_DELAY_MS), [path]);
                continue;
            }
            match shared.observe(files::remove_all(&path).doing("delete", &path)) {
                Ok(()) => log::debug!("Deleted {}", path.display()),
                Err(error) => {
                    complaints.note(shared.path().display(), &error);
                    shared.doom(Due::after(now_ms, LONGEST_DELAY_MS), [path]);
                }
            }
        }
    }

    /// Writes topic ids and leader epochs that changed, rebuilds indexes that led readers astray, flushes segments that
    /// appends have left behind, writes down recovery points that truncations moved back, and flushes logs whose
    /// `flush.ms` is over. Call it every second or so.
    pub fn tick_flush(&self, now_ms: i64) {
        let shared = &self.dir.shared;
        self.write_small_files(now_ms);
        self.rebuild_wrong_indexes(now_ms);
        self.each_pending(&shared.rolled, "flush", now_ms, |log| log.flush_old_segments(now_ms));
        self.write_recovery_points_moved_back(now_ms);
        for log in self.logs() {
            let flush_ms = log.config().flush_ms;
            if flush_ms != i64::MAX
                && log.unflushed_since_ms().is_some_and(|since| Due::after(since, flush_ms).is_due(now_ms))
            {
                log.parent().overdue.note(log.topic_partition().clone());
            }
        }
        self.each_pending(&shared.overdue, "flush", now_ms, |log| log.flush(now_ms));
    }

    /// Writes down recovery points that truncations have moved back, where that is yet to be done. Whoever comes while another
    /// writes waits: what it has cut may be among that.
    pub fn write_recovery_points_moved_back(&self, now_ms: i64) {
        let shared = &self.dir.shared;
        let _one_at_a_time = shared.moving_back.lock().expect("nothing panics under this lock");
        for ((), attempt) in shared.truncated.take(now_ms) {
            if let Err(error) = self.all.checkpoint_dir(self.dir) {
                log::log!(error.level(), "{error}");
                shared.truncated.failed((), attempt, now_ms);
            }
        }
    }

    /// Whether partitions that were refused may be had by now, as far as a checkpoint can be written. For each of them this
    /// is looked at later and later.
    pub fn may_take_refused(&self, now_ms: i64) -> bool {
        let due = self.dir.shared.refused.postpone(now_ms);
        let Some(first) = due.first() else { return false };
        match self.try_recovery_points() {
            Ok(()) => {
                let (dir, others) = (self.path().display(), due.len() - 1);
                log::info!("{dir} may have room for {first}, which it refused, and {others} other partitions");
                true
            }
            Err(error) => {
                log::debug!("{first} and others stay refused: {error}");
                false
            }
        }
    }

    pub fn tick_producer_expiration(&self, now_ms: i64) {
        for log in self.logs() {
            log.expire_producers(now_ms);
        }
    }

    fn logs(&self) -> Vec<Arc<Log>> {
        self.all.logs_of(&self.dir.shared)
    }

    /// Does what is due for each log, whatever became of the one before it. Gives back what was done.
    fn each_pending(
        &self,
        pending: &Pending<TopicPartition>,
        doing: &'static str,
        now_ms: i64,
        work: impl Fn(&Log) -> Result<(), LogError>,
    ) -> Vec<(TopicPartition, Attempt)> {
        let mut complaints = Complaints::about(doing);
        let mut due = pending.take(now_ms);
        due.retain(|(tp, attempt)| {
            if self.all.passes_end() {
                return false;
            }
            let Err(error) = self.all.get(tp).map_or(Ok(()), |log| work(&log)) else { return true };
            complaints.note(tp, &error);
            if !error.is_storage_failure() {
                pending.failed(tp.clone(), *attempt, now_ms);
            }
            false
        });
        due
    }

    fn write_small_files(&self, now_ms: i64) {
        let doing = "write topic id and leader epochs";
        let unwritten = &self.dir.shared.unwritten;
        let written = self.each_pending(unwritten, doing, now_ms, Log::write_small_files);
        if written.is_empty() {
            return;
        }
        // New partitions are new directories.
        let root = self.dir.shared.path();
        if let Err(error) = self.dir.shared.observe(files::sync_path(root).doing("fsync", root)) {
            log::log!(error.level(), "{error}");
            written.into_iter().for_each(|(tp, attempt)| unwritten.failed(tp, attempt, now_ms));
        }
    }

    fn rebuild_wrong_indexes(&self, now_ms: i64) {
        let mut complaints = Complaints::about("rebuild indexes");
        for ((tp, base_offset), attempt) in self.dir.shared.wrong_indexes.take(now_ms) {
            let Some(log) = self.all.get(&tp) else { continue };
            if let Err(error) = log.rebuild_indexes(base_offset) {
                complaints.note(&tp, &error);
                if !error.is_storage_failure() {
                    self.dir.shared.wrong_indexes.failed((tp, base_offset), attempt, now_ms);
                }
            }
        }
    }
}
