//! Which directory a new log goes to, and how one is taken away.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::{Arc, MutexGuard};

use super::{Dir, LogDirs, PLACEMENTS};
use crate::config::log::LogConfig;
use crate::log::error::{IoContext, LogError};
use crate::log::loading::{self, LoadInput};
use crate::log::log_dir::LogDir;
use crate::log::pending::Due;
use crate::log::{Log, file_names, files};
use crate::model::{TopicId, TopicPartition};

impl LogDirs {
    /// The log of a partition, created in the live directory with the fewest logs if there is none. A partition that
    /// is not new may have its log in a directory that is offline: then none is created.
    pub fn get_or_create(
        &self,
        tp: &TopicPartition,
        topic_id: Option<TopicId>,
        config: Arc<LogConfig>,
        is_new: bool,
        now_ms: i64,
    ) -> Result<Arc<Log>, LogError> {
        if let Some(log) = self.get(tp) {
            return Ok(log);
        }
        let _placing = self.place(tp);
        if let Some(log) = self.get(tp) {
            return Ok(log);
        }
        if let Some(loaded) = self.load_again(tp, &config, now_ms) {
            return loaded.inspect(|log| self.take_up_future(log, now_ms));
        }
        if !is_new && let Some(offline) = self.dirs.iter().find(|dir| dir.shared.is_offline()) {
            return Err(offline.shared.offline_error());
        }
        if let Some(future) = self.get_future(tp) {
            // What it is a copy of is gone. It was wanted there.
            self.prefer(tp, &future.parent().path().display().to_string());
            self.delete_future(tp, now_ms);
        }
        let mut last_error = None;
        for dir in self.dirs_for(tp) {
            let path = dir.shared.path().join(tp.to_string());
            let created =
                loading::create(tp.clone(), path.clone(), topic_id, config.clone(), dir.shared.clone(), now_ms);
            match dir.shared.observe(created) {
                Ok(log) => {
                    let log = self.serve(dir, Arc::new(log));
                    log::info!(
                        "Created log for partition {tp} in {}",
                        dir.shared.path().join(tp.to_string()).display()
                    );
                    self.forget_preferred(tp);
                    return Ok(log);
                }
                Err(error) => {
                    last_error = Some(error);
                    // Two directories of one partition would stop the next start.
                    if files::exists(&path).unwrap_or(false) {
                        break;
                    }
                }
            }
        }
        Err(last_error.unwrap_or_else(|| self.dirs[0].shared.offline_error()))
    }

    /// There is no log of the partition, since one could not be created or opened, for no fault of a disk.
    pub fn note_refused(&self, tp: &TopicPartition) {
        self.live().for_each(|dir| dir.shared.note_refused(tp));
    }

    /// It has been refused for want of room, and nothing of it is here: where a directory that has failed might have had it, it
    /// was not taken for new. What could not be opened is here, whatever becomes of its directory.
    pub fn has_refused_new(&self, tp: &TopicPartition) -> bool {
        let is_unloadable = |dir: &Dir| dir.unloadable.lock().expect("nothing panics under this lock").contains_key(tp);
        self.dirs.iter().any(|dir| dir.shared.refused.contains(tp)) && !self.dirs.iter().any(is_unloadable)
    }

    /// It is here, or is wanted no more. True if it had been refused.
    pub fn forget_refused(&self, tp: &TopicPartition) -> bool {
        self.dirs.iter().filter(|dir| dir.shared.refused.forget(tp)).count() > 0
    }

    pub fn forget_all_refused(&self) {
        self.dirs.iter().for_each(|dir| dir.shared.refused.forget_all());
    }

    fn serve(&self, dir: &Dir, log: Arc<Log>) -> Arc<Log> {
        let tp = log.topic_partition();
        self.logs.write().expect("nothing panics under this lock").insert(tp.clone(), log.clone());
        dir.shared.count_log();
        // The pass that writes small files may have looked for the log before it was there.
        dir.shared.note_unwritten(tp);
        log
    }

    pub(super) fn place(&self, tp: &TopicPartition) -> MutexGuard<'_, ()> {
        let place = BuildHasherDefault::<DefaultHasher>::default().hash_one(tp) % PLACEMENTS as u64;
        self.placements[place as usize].lock().expect("nothing panics under this lock")
    }

    #[cfg(test)]
    pub(in crate::log) fn is_placing(&self, tp: &TopicPartition) -> bool {
        let place = BuildHasherDefault::<DefaultHasher>::default().hash_one(tp) % PLACEMENTS as u64;
        self.placements[place as usize].try_lock().is_err()
    }

    /// Tries to open a log that could not be opened before; `None` if there is no such log. Of two the longer is served, and
    /// only if both can be opened.
    fn load_again(
        &self,
        tp: &TopicPartition,
        config: &Arc<LogConfig>,
        now_ms: i64,
    ) -> Option<Result<Arc<Log>, LogError>> {
        let unloadable = |dir: &Dir| dir.unloadable.lock().expect("nothing panics under this lock").get(tp).cloned();
        let found: Vec<_> = self.live().filter_map(|dir| Some((dir, unloadable(dir)?))).collect();
        if found.is_empty() {
            return None;
        }
        let opened = found.into_iter().map(|(dir, input)| {
            // Its settings may have changed since it was set aside.
            let input = LoadInput { config: config.clone(), ..input };
            dir.shared.observe(loading::load(input, dir.shared.clone(), now_ms, &|_| {})).map(Arc::new)
        });
        let opened: Result<Vec<Arc<Log>>, LogError> = opened.collect();
        let whole = opened.and_then(|logs| {
            let others = &logs[1..];
            others.iter().try_fold(logs[0].clone(), |whole, log| self.decide_between(&whole, log, now_ms))
        });
        Some(match whole {
            // That was about a start.
            Err(LogError::StartRefused { context }) => Err(LogError::Corrupt { context }),
            whole => whole.map(|log| {
                let dir = self.dir_of(&log);
                let log = self.serve(dir, log);
                dir.unloadable.lock().expect("nothing panics under this lock").remove(tp);
                log
            }),
        })
    }

    /// Live directories: the one that was asked for, then the one with the fewest logs.
    /// Source: kafka 3.9 core/.../log/LogManager.scala (getOrCreateLog, nextLogDirs).
    fn dirs_for(&self, tp: &TopicPartition) -> Vec<&Dir> {
        let preferred = self.preferred_dir(tp);
        let mut live: Vec<&Dir> = self.live().collect();
        live.sort_by_key(|dir| (preferred.as_deref() != Some(dir.shared.path()), dir.shared.log_count()));
        live
    }

    /// Takes logs out of service at once; their files go after the delete delay. For each whether there was one.
    pub fn delete(&self, partitions: &[TopicPartition], now_ms: i64) -> Vec<Result<bool, LogError>> {
        let outcomes: Vec<_> = partitions.iter().map(|tp| self.delete_one(tp, now_ms)).collect();
        for dir in self.live() {
            let has_lost_one = outcomes.iter().flatten().flatten().any(|parent| Arc::ptr_eq(parent, &dir.shared));
            if has_lost_one && let Err(error) = self.checkpoint_dir(dir) {
                log::log!(error.level(), "{error}");
            }
        }
        outcomes.into_iter().map(|outcome| outcome.map(|parent| parent.is_some())).collect()
    }

    /// A directory that the log was in, if there was one. Where its directory cannot be renamed, the log stays as one that
    /// is not open: the checkpoints keep what they say of it, and the next decision about the partition finds it.
    fn delete_one(&self, tp: &TopicPartition, now_ms: i64) -> Result<Option<Arc<LogDir>>, LogError> {
        let _placing = self.place(tp);
        self.delete_future(tp, now_ms);
        let removed = self.logs.write().expect("nothing panics under this lock").remove(tp);
        let mut inputs = Vec::new();
        if let Some(log) = removed {
            log.parent().check()?;
            log.parent().uncount_log();
            // From here on nobody writes to it, by whatever name.
            log.abandon();
            // Nor renames a file, which the next log of this name may have.
            drop(log.begin_renaming());
            inputs.push((self.dir_of(&log), LoadInput::of(&log)));
        }
        // There are two if a start could not tell which of two directories has the log.
        for dir in self.live() {
            let unloadable = dir.unloadable.lock().expect("nothing panics under this lock").remove(tp);
            inputs.extend(unloadable.map(|input| (dir, input)));
        }
        let mut deleted = Ok(None);
        for (dir, input) in inputs {
            let renamed = dir.shared.path().join(file_names::deleting_dir_name(tp));
            if let Err(error) = dir.shared.observe(files::rename(&input.dir, &renamed).doing("rename", &input.dir)) {
                dir.unloadable.lock().expect("nothing panics under this lock").insert(tp.clone(), input);
                deleted = Err(error);
                continue;
            }
            let due = Due::after(now_ms, self.file_delete_delay_ms());
            dir.shared.doom(due, [renamed.clone()]);
            log::info!("Log for partition {tp} is renamed to {} and is scheduled for deletion", renamed.display());
            deleted = deleted.map(|_| Some(dir.shared.clone()));
        }
        deleted
    }

    pub(super) fn dir_of(&self, log: &Log) -> &Dir {
        let is_its_parent = |dir: &&Dir| log.is_in(&dir.shared);
        self.dirs.iter().find(is_its_parent).expect("every log is in one of the directories")
    }
}
