//! Moves of logs between directories: asked for, carried out step by step, given up.
//!
//! A copy lies in a directory of its own, `<topic>-<partition>.<unique>-future`, which a start finds again. When it has all but
//! what was appended a moment ago, its directory gets the log's name; the log then goes on in it as soon as it has all, in
//! memory, while what is appended is written to the old directory too; then that one is renamed for deletion. So there is at
//! each instant a directory of the log's name that has all of it. A crash while two have the name leaves the longer one to
//! the next start (`duplicates`). A JVM broker refuses to start on both, as after a crash of its own between its two renames.
//! Source: kafka 3.9 core/.../log/LogManager.scala (replaceCurrentWithFutureLog), core/.../server/ReplicaManager.scala
//! (alterReplicaLogDirs).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Dir, LogDirs};
use crate::log::error::{Condemned, IoContext, LogError};
use crate::log::loading;
use crate::log::moving::LAST_BYTES_MAX;
use crate::log::pending::Due;
use crate::log::{Log, file_names, files};
use crate::model::TopicPartition;

/// Of one step of a copy. Kafka's `replica.fetch.max.bytes` is by default.
pub const STEP_BYTES: u32 = 1 << 20;

/// Partitions that are not here, and whose directories are remembered all the same; what comes then is not.
const PREFERRED_MAX: usize = 20_000;

/// How often what is appended meanwhile is copied, before others have a turn: they wait.
const LAST_STEPS_MAX: usize = 20;

/// How often what ends a move is flushed again, and after how much longer each time, if it cannot be for a reason that goes
/// by. In all it is half a minute, for which whoever cuts or moves this log waits.
const SYNC_TRIES_MAX: u32 = 50;
const SYNC_PAUSE: Duration = Duration::from_millis(20);

/// What came of a request to move a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveBegun {
    /// It is copied.
    Moving,
    /// It is there.
    Already,
    /// There is no log of the partition here.
    NotHere,
}

/// Why a directory can be no target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTarget {
    NotConfigured,
    Offline,
    /// The directory of the copy would have a longer name than a file system takes.
    NameTooLong,
}

/// What came of a step of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many bytes, and there are more.
    Copied(u32),
    /// The log is in the other directory, or nothing is to be moved any more.
    Over,
}

impl LogDirs {
    /// Whether a log may be moved there. The path must be written as the setting has it, made absolute.
    pub fn check_target(&self, tp: &TopicPartition, path: &str) -> Result<(), NoTarget> {
        if file_names::future_dir_name(tp).is_none() {
            return Err(NoTarget::NameTooLong);
        }
        let dir = self.dirs.iter().find(|dir| dir.shared.path().as_os_str() == path).ok_or(NoTarget::NotConfigured)?;
        if dir.shared.is_offline() { Err(NoTarget::Offline) } else { Ok(()) }
    }

    /// Gives up the copy of a log to any other directory, remembers where it is wanted if it is not here, and begins to copy
    /// it if it is in another directory. `path` is one that `check_target` has found.
    pub fn begin_move(&self, tp: &TopicPartition, path: &str, now_ms: i64) -> Result<MoveBegun, LogError> {
        let _placing = self.place(tp);
        let wanted = |dir: &&Dir| dir.shared.path().as_os_str() == path;
        let Some(target) = self.dirs.iter().find(wanted) else { return Ok(MoveBegun::NotHere) };
        if self.get_future(tp).is_some_and(|future| !future.is_in(&target.shared) || future.is_offline()) {
            self.delete_future(tp, now_ms);
        }
        let Some(current) = self.get(tp) else {
            self.prefer(tp, path);
            return Ok(MoveBegun::NotHere);
        };
        self.delete_useless_future(&current, now_ms);
        if current.is_in(&target.shared) {
            return Ok(MoveBegun::Already);
        }
        if self.get_future(tp).is_some() {
            return Ok(MoveBegun::Moving);
        }
        current.parent().check()?;
        // It could be in one of these already.
        if let Some(offline) = self.dirs.iter().find(|dir| dir.shared.is_offline()) {
            return Err(offline.shared.offline_error());
        }
        let Some(name) = file_names::future_dir_name(tp) else { return Ok(MoveBegun::NotHere) };
        let path = target.shared.path().join(name);
        let (topic_id, config) = (current.topic_id(), current.config());
        let created = loading::create(tp.clone(), path.clone(), topic_id, config, Arc::clone(&target.shared), now_ms);
        let future = Arc::new(target.shared.observe(created)?);
        self.pause_cleaning(tp, &current);
        future.set_cleaned_to(current.cleaned_to());
        self.future_logs.write().expect("nothing panics under this lock").insert(tp.clone(), future);
        target.shared.count_log();
        log::info!("[{tp}] Copying the log from {} to {}", current.dir().display(), path.display());
        Ok(MoveBegun::Moving)
    }

    /// Whether the log of a partition moves, as far as it has been asked for or a start has found.
    pub fn has_future(&self, tp: &TopicPartition) -> bool {
        self.get_future(tp).is_some()
    }

    /// Copies some of a log that moves, and lets it go on there when all of it is. The `first` step of those that follow one
    /// another makes sure that what there is of the copy is of that log.
    pub fn move_on(&self, tp: &TopicPartition, first: bool, now_ms: i64) -> Result<Step, LogError> {
        let (Some(current), Some(mut future)) = (self.get(tp), self.get_future(tp)) else { return Ok(Step::Over) };
        if has_failed_alone(&future, &current) {
            log::warn!("[{tp}] The copy in {} has failed and is begun anew", future.dir().display());
            self.begin_move(tp, &future.parent().path().display().to_string(), now_ms)?;
            match self.get_future(tp) {
                Some(anew) => future = anew,
                None => return Ok(Step::Over),
            }
        }
        let step = (|| {
            if first {
                if is_useless(&future, &current) {
                    let _placing = self.place(tp);
                    self.delete_useless_future(&current, now_ms);
                    return Ok(Step::Over);
                }
                self.pause_cleaning(tp, &current);
                future.align_with(&current, now_ms)?;
            }
            let copied = future.copy_from(&current, STEP_BYTES, now_ms)?;
            if copied.bytes > 0 {
                // After a crash the copy goes on from there.
                future.flush_old_segments(now_ms)?;
                return Ok(Step::Copied(copied.bytes));
            }
            future.flush(now_ms)?;
            self.finish_move(&current, &future, now_ms)
        })();
        if !self.has_future(tp) {
            self.resume_cleaning(tp);
        }
        match step {
            // The next step begins anew.
            Err(_) if has_failed_alone(&future, &current) => step,
            // Deleted, or in a directory that has failed.
            Err(LogError::Closed | LogError::Offline { .. }) => Ok(Step::Over),
            step => step,
        }
    }

    /// The copy has been flushed, which may take long: here others wait.
    fn finish_move(&self, current: &Arc<Log>, future: &Arc<Log>, now_ms: i64) -> Result<Step, LogError> {
        let tp = current.topic_partition();
        let _placing = self.place(tp);
        let is_there = |log: Option<Arc<Log>>, known: &Arc<Log>| log.is_some_and(|log| Arc::ptr_eq(&log, known));
        if !is_there(self.get(tp), current) || !is_there(self.get_future(tp), future) {
            return Ok(Step::Over);
        }
        let (from, to) = (self.dir_of(current), self.dir_of(future));
        // From here on nothing is cut off: of two directories of its name a start could not tell which has the log.
        let files_held = current.hold_files();
        let copied = future.copy_from(current, STEP_BYTES, now_ms)?;
        if copied.bytes > LAST_BYTES_MAX {
            return Ok(Step::Copied(copied.bytes));
        }
        // By what is flushed of each a start decides between the two.
        for dir in [from, to] {
            self.checkpoint_dir(dir)?;
        }
        let (old_dir, copied_dir) = (current.dir(), future.dir());
        let new_dir = to.shared.path().join(tp.to_string());
        future.rename_dir(&new_dir)?;
        let taken_over = (|| {
            to.shared.observe(files::sync_path(to.shared.path()).doing("fsync", to.shared.path()))?;
            copy_rest(current, future, now_ms)
        })();
        if !matches!(taken_over, Ok(true)) {
            future.rename_dir(&copied_dir)?;
            return taken_over.map(|_| Step::Copied(0));
        }
        self.future_logs.write().expect("nothing panics under this lock").remove(tp);
        from.shared.uncount_log();
        // Some was acknowledged because it is on the disk in the old directory.
        let mut patience = Patience::default();
        if let Err(error) = current.observe_change(patience.sync(|| current.sync_records())) {
            current.has_left();
            future.abandon();
            return Err(error);
        }
        let doomed = from.shared.path().join(file_names::deleting_dir_name(tp));
        let renamed = files::rename(&old_dir, &doomed).doing("rename", &old_dir);
        // No loss of power brings the name back once the log can be cut.
        let root = from.shared.path();
        if renamed.is_ok()
            && let Err(error) = from.shared.observe(patience.sync(|| files::sync_path(root).doing("fsync", root)))
        {
            log::log!(error.level(), "[{tp}] {error}");
        }
        current.has_left();
        drop(files_held);
        future.abandon();
        let due = Due::after(now_ms, self.file_delete_delay_ms());
        match from.shared.observe(renamed) {
            Ok(()) => from.shared.doom(due, [doomed]),
            Err(error) => {
                log::log!(error.level(), "[{tp}] {error}");
                // It may not keep the name: the log may come back to this directory. A disk that does neither has failed.
                let removed = files::remove_all(&old_dir).doing("delete", &old_dir);
                removed.unwrap_or_else(|error| from.shared.fail(&error));
            }
        }
        to.shared.note_unwritten(tp);
        for dir in [from, to] {
            if let Err(error) = self.checkpoint_dir(dir) {
                log::log!(error.level(), "{error}");
            }
        }
        log::info!("[{tp}] The log has moved from {} to {}", old_dir.display(), new_dir.display());
        Ok(Step::Over)
    }

    /// Goes on with a copy that a start has found, if it is of use: compaction leaves the log alone. It would take away
    /// tombstones that the copy lacks, and the copy keeps what they deleted. As for `delete_useless_future`.
    pub(super) fn take_up_future(&self, current: &Log, now_ms: i64) {
        self.delete_useless_future(current, now_ms);
        if self.has_future(current.topic_partition()) {
            self.pause_cleaning(current.topic_partition(), current);
        }
    }

    /// Gives up a copy that can never take the place of the log. The caller keeps others from placing the partition.
    pub(super) fn delete_useless_future(&self, current: &Log, now_ms: i64) {
        let tp = current.topic_partition();
        if self.get_future(tp).is_some_and(|future| is_useless(&future, current)) {
            log::warn!(
                "[{tp}] The copy of the log is of another topic of that name, or in the same directory as the log"
            );
            self.delete_future(tp, now_ms);
        }
    }

    /// Gives up the copy of a log, if there is one. The caller keeps others from placing the partition.
    pub(super) fn delete_future(&self, tp: &TopicPartition, now_ms: i64) {
        let removed = self.future_logs.write().expect("nothing panics under this lock").remove(tp);
        self.resume_cleaning(tp);
        let Some(future) = removed else { return };
        future.abandon();
        drop(future.hold_files());
        let dir = self.dir_of(&future);
        dir.shared.uncount_log();
        if dir.shared.is_offline() {
            return;
        }
        let (path, doomed) = (future.dir(), dir.shared.path().join(file_names::deleting_dir_name(tp)));
        let due = Due::after(now_ms, self.file_delete_delay_ms());
        match dir.shared.observe(files::rename(&path, &doomed).doing("rename", &path)) {
            Ok(()) => {
                log::info!("[{tp}] The copy in {} is given up and scheduled for deletion", path.display());
                dir.shared.doom(due, [doomed]);
            }
            Err(error) => {
                log::log!(error.level(), "[{tp}] {error}");
                dir.shared.doom(Due::at_once(now_ms), [path]);
            }
        }
        if let Err(error) = self.checkpoint_dir(dir) {
            log::log!(error.level(), "{error}");
        }
    }

    fn pause_cleaning(&self, tp: &TopicPartition, log: &Log) {
        let mut pauses = self.pauses.lock().expect("nothing panics under this lock");
        pauses.entry(tp.clone()).or_insert_with(|| log.pause_cleaning());
    }

    pub(super) fn resume_cleaning(&self, tp: &TopicPartition) {
        self.pauses.lock().expect("nothing panics under this lock").remove(tp);
    }

    /// Remembers where the log of a partition is wanted that is not here yet.
    pub fn prefer(&self, tp: &TopicPartition, path: &str) {
        let mut preferred = self.preferred.lock().expect("nothing panics under this lock");
        if preferred.len() < PREFERRED_MAX || preferred.contains_key(tp) {
            preferred.insert(tp.clone(), PathBuf::from(path));
        } else {
            log::debug!("[{tp}] That its log is wanted in {path} is not remembered: so are too many");
        }
    }

    pub(super) fn preferred_dir(&self, tp: &TopicPartition) -> Option<PathBuf> {
        self.preferred.lock().expect("nothing panics under this lock").get(tp).cloned()
    }

    pub(super) fn forget_preferred(&self, tp: &TopicPartition) {
        self.preferred.lock().expect("nothing panics under this lock").remove(tp);
    }
}

/// A copy that is out of service, though its directory is not, nor is what it is a copy of.
fn has_failed_alone(future: &Log, current: &Log) -> bool {
    future.is_offline() && !future.parent().is_offline() && !current.is_offline()
}

/// What goes by soon, such as that there are too many open files, may cost no log that is sound: it is waited for, so long for
/// all that ends a move.
#[derive(Default)]
struct Patience {
    tries: u32,
}

impl Patience {
    fn sync<T>(&mut self, sync: impl Fn() -> Result<T, LogError>) -> Result<T, LogError> {
        loop {
            match sync() {
                Err(error @ LogError::Io { .. })
                    if error.condemns() == Condemned::Nothing && self.tries < SYNC_TRIES_MAX =>
                {
                    if self.tries == 0 {
                        log::warn!("{error}; it is tried again for half a minute");
                    }
                    self.tries += 1;
                    std::thread::sleep(SYNC_PAUSE * self.tries);
                }
                synced => return synced,
            }
        }
    }
}

/// A copy of a topic that was deleted, or in the directory where the log is: a disk was away in between.
fn is_useless(future: &Log, current: &Log) -> bool {
    let is_of_another_topic = future.topic_id().zip(current.topic_id()).is_some_and(|(one, other)| one != other);
    is_of_another_topic || future.is_in(&current.parent())
}

/// Copies what is appended meanwhile until there is nothing more, and lets the log go on in the copy. False if that takes too
/// long.
fn copy_rest(current: &Log, future: &Log, now_ms: i64) -> Result<bool, LogError> {
    for _ in 0..LAST_STEPS_MAX {
        let copied = future.copy_from(current, STEP_BYTES, now_ms)?;
        if copied.bytes > 0 && future.log_end_offset() < copied.end.log_end_offset {
            continue;
        }
        if current.take_over(future, copied.end, now_ms)? {
            return Ok(true);
        }
        if future.recovery_point() < current.recovery_point() {
            future.flush(now_ms)?;
        }
    }
    Ok(false)
}
