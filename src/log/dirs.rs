//! All log dirs of a broker: who they belong to, the logs in them, their checkpoints, and the passes over all logs that
//! `broker/` calls from timers. One failing directory goes offline while the others serve.
//! Source: kafka 3.9 core/.../log/LogManager.scala, metadata/.../properties/MetaPropertiesEnsemble.java.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use tokio::sync::mpsc::UnboundedSender;

use super::broker_metadata::MetaProperties;
use super::error::{IoContext, LogError};
use super::file_names::{self, DirKind};
use super::loading::{self, LoadInput};
use super::log_dir::LogDir;
use super::{Log, atomic_file, checkpoint};
use crate::config::log::LogConfig;
use crate::config::sections::LogDirsConfig;
use crate::model::{BrokerId, Offset, TopicId, TopicPartition};

#[derive(Debug)]
pub struct LogDirs {
    dirs: Vec<Dir>,
    recovery_threads_per_dir: usize,
    logs: RwLock<HashMap<TopicPartition, Arc<Log>>>,
    /// Targets of moves between log dirs that were interrupted.
    future_logs: RwLock<HashMap<TopicPartition, Arc<Log>>>,
    topic_defaults: Arc<LogConfig>,
    /// Serialises creation and deletion of logs, which change both the map and the file system.
    placement: Mutex<()>,
}

#[derive(Debug)]
struct Dir {
    shared: Arc<LogDir>,
    /// Holds the lock on the `.lock` file; dropped when the directory fails or the broker stops.
    lock: Mutex<Option<File>>,
    metadata: Mutex<Option<MetaProperties>>,
    had_clean_shutdown: AtomicBool,
    is_loaded: AtomicBool,
}

/// How far loading has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadProgress {
    pub logs_total: u64,
    pub logs_loaded: u64,
    /// Segments that had to be walked because the last shutdown was not clean, and their bytes.
    pub segments_recovered: u64,
    pub bytes_recovered: u64,
}

#[derive(Default)]
struct Counters {
    logs_total: AtomicU64,
    logs_loaded: AtomicU64,
    segments_recovered: AtomicU64,
    bytes_recovered: AtomicU64,
}

impl Counters {
    fn progress(&self) -> LoadProgress {
        LoadProgress {
            logs_total: self.logs_total.load(Ordering::Relaxed),
            logs_loaded: self.logs_loaded.load(Ordering::Relaxed),
            segments_recovered: self.segments_recovered.load(Ordering::Relaxed),
            bytes_recovered: self.bytes_recovered.load(Ordering::Relaxed),
        }
    }
}

impl LogDirs {
    /// Creates and locks the directories and reads whom they belong to. A directory that cannot be used is offline from
    /// the start, and `failures` hears of it; without any that can, there is nothing to run on.
    pub fn open(config: &LogDirsConfig, failures: UnboundedSender<PathBuf>) -> Result<LogDirs, LogError> {
        let mut dirs = Vec::with_capacity(config.dirs.len());
        for path in &config.dirs {
            let path = std::path::absolute(path).doing("resolve", path)?;
            let shared = Arc::new(LogDir::new(path, failures.clone(), config.producer_id_expiration_ms));
            let (lock, metadata) = match prepare_dir(shared.path()) {
                Ok((lock, metadata)) => (Some(lock), metadata),
                Err(refused @ LogError::StartRefused { .. }) => return Err(refused),
                Err(error) => {
                    shared.fail(&error);
                    (None, None)
                }
            };
            dirs.push(Dir {
                shared,
                lock: Mutex::new(lock),
                metadata: Mutex::new(metadata),
                had_clean_shutdown: AtomicBool::new(false),
                is_loaded: AtomicBool::new(false),
            });
        }
        if dirs.iter().all(|dir| dir.shared.is_offline()) {
            let listed: Vec<String> = config.dirs.iter().map(|dir| dir.display().to_string()).collect();
            let context = format!(
                "Shutdown broker because none of the specified log dirs from {} can be created or validated",
                listed.join(", ")
            );
            return Err(LogError::StartRefused { context });
        }
        Ok(LogDirs {
            dirs,
            recovery_threads_per_dir: config.num_recovery_threads_per_data_dir.max(1),
            logs: RwLock::default(),
            future_logs: RwLock::default(),
            topic_defaults: Arc::new(config.topic_defaults.clone()),
            placement: Mutex::default(),
        })
    }

    /// The broker id that the directories have stored, if any; they must agree.
    pub fn stored_broker_id(&self) -> Result<Option<BrokerId>, LogError> {
        self.stored("broker.id", MetaProperties::broker_id)
    }

    /// The cluster id that the directories have stored, if any; they must agree.
    pub fn stored_cluster_id(&self) -> Result<Option<String>, LogError> {
        self.stored("cluster.id", |metadata| metadata.cluster_id().map(str::to_string))
    }

    fn stored<T: PartialEq + std::fmt::Display>(
        &self,
        key: &str,
        value: impl Fn(&MetaProperties) -> Option<T>,
    ) -> Result<Option<T>, LogError> {
        let mut agreed: Option<T> = None;
        for dir in self.live() {
            let metadata = dir.metadata.lock().expect("nothing panics under this lock");
            let Some(stored) = metadata.as_ref().and_then(&value) else { continue };
            match &agreed {
                Some(other) if *other != stored => {
                    let context = format!(
                        "Stored {key} {stored} in {} doesn't match {other} in another log directory. If you moved your \
                         data, make sure your configured {key} matches",
                        dir.shared.path().join(file_names::META_PROPERTIES).display()
                    );
                    return Err(LogError::StartRefused { context });
                }
                _ => agreed = Some(stored),
            }
        }
        Ok(agreed)
    }

    /// Marks the directories as this broker's, after checking that they are no other's.
    pub fn claim(&self, cluster_id: &str, broker_id: BrokerId) -> Result<(), LogError> {
        if let Some(stored) = self.stored_cluster_id()?
            && stored != cluster_id
        {
            let context = format!(
                "Invalid cluster.id in meta.properties. Expected {cluster_id}, but read {stored}: the broker is trying \
                 to join the wrong cluster. Configured zookeeper.connect may be wrong"
            );
            return Err(LogError::StartRefused { context });
        }
        if let Some(stored) = self.stored_broker_id()?
            && stored != broker_id
        {
            let context = format!(
                "Configured broker.id {broker_id} doesn't match stored broker.id {stored} in meta.properties. If you \
                 moved your data, make sure your configured broker.id matches. If you intend to create a new broker, \
                 you should remove all data in your data directories (log.dirs)"
            );
            return Err(LogError::StartRefused { context });
        }
        for dir in self.live() {
            let mut metadata = dir.metadata.lock().expect("nothing panics under this lock");
            let mut claimed = metadata.clone().unwrap_or_default();
            claimed.claim(cluster_id, broker_id);
            if metadata.as_ref() != Some(&claimed) {
                let path = dir.shared.path().join(file_names::META_PROPERTIES);
                if dir.shared.observe(claimed.write(&path)).is_err() {
                    continue;
                }
                *metadata = Some(claimed);
            }
        }
        Ok(())
    }

    fn live(&self) -> impl Iterator<Item = &Dir> {
        self.dirs.iter().filter(|dir| !dir.shared.is_offline())
    }

    pub fn live_dirs(&self) -> Vec<PathBuf> {
        self.live().map(|dir| dir.shared.path().to_path_buf()).collect()
    }

    #[cfg(test)]
    pub fn offline_dirs(&self) -> Vec<PathBuf> {
        let offline = self.dirs.iter().filter(|dir| dir.shared.is_offline());
        offline.map(|dir| dir.shared.path().to_path_buf()).collect()
    }

    /// Loads every log of every directory, recovering those that a crash may have torn. `config_of` gives the settings
    /// of a topic; `on_progress` is called from several threads.
    pub fn load(
        &self,
        config_of: &(dyn Fn(&str) -> Arc<LogConfig> + Sync),
        now_ms: i64,
        on_progress: &(dyn Fn(LoadProgress) + Sync),
    ) -> Result<(), LogError> {
        let counters = Counters::default();
        let refused: Mutex<Option<LogError>> = Mutex::new(None);
        std::thread::scope(|scope| {
            for dir in self.live() {
                let work = || {
                    if let Err(error) = self.load_dir(dir, config_of, now_ms, &counters, on_progress) {
                        match error {
                            LogError::StartRefused { .. } => {
                                refused.lock().expect("nothing panics under this lock").get_or_insert(error);
                            }
                            error => dir.shared.fail(&error),
                        }
                    }
                };
                scope.spawn(work);
            }
        });
        if let Some(refused) = refused.into_inner().expect("nothing panics under this lock") {
            return Err(refused);
        }
        on_progress(counters.progress());
        // What a directory had loaded before it failed is not served.
        for dir in self.dirs.iter().filter(|dir| dir.shared.is_offline()) {
            self.abandon_logs_of(&dir.shared);
        }
        Ok(())
    }

    fn load_dir(
        &self,
        dir: &Dir,
        config_of: &(dyn Fn(&str) -> Arc<LogConfig> + Sync),
        now_ms: i64,
        counters: &Counters,
        on_progress: &(dyn Fn(LoadProgress) + Sync),
    ) -> Result<(), LogError> {
        let root = dir.shared.path();
        let marker = root.join(file_names::CLEAN_SHUTDOWN);
        let had_clean_shutdown = marker.exists();
        dir.had_clean_shutdown.store(had_clean_shutdown, Ordering::Release);
        // A crash from here on must not find it.
        atomic_file::remove_if_exists(&marker).doing("delete", &marker)?;
        if !had_clean_shutdown {
            log::info!("Attempting recovery for all logs in {} since no clean shutdown file was found", root.display());
        }
        let recovery_points = read_checkpoint(root, file_names::RECOVERY_POINT_CHECKPOINT)?;
        let log_starts = read_checkpoint(root, file_names::LOG_START_OFFSET_CHECKPOINT)?;
        let high_watermarks = read_checkpoint(root, file_names::HIGH_WATERMARK_CHECKPOINT)?;

        let mut queue = VecDeque::new();
        for (name, kind, topic_partition) in partition_dirs(root)? {
            match kind {
                DirKind::Deleting => {
                    let due_ms = now_ms.saturating_add(self.topic_defaults.file_delete_delay_ms);
                    dir.shared.doom(due_ms, [root.join(name)]);
                }
                DirKind::Stray => {
                    log::warn!("Found a stray log directory {}, leaving it alone", root.join(name).display())
                }
                DirKind::Live | DirKind::Future => {
                    let offset = |checkpoint: &HashMap<TopicPartition, Offset>| {
                        checkpoint.get(&topic_partition).copied().unwrap_or(Offset(0)).max(Offset(0))
                    };
                    let input = LoadInput {
                        dir: root.join(name),
                        config: config_of(&topic_partition.topic),
                        recovery_point: offset(&recovery_points),
                        log_start_offset: offset(&log_starts),
                        high_watermark: offset(&high_watermarks),
                        had_clean_shutdown,
                        topic_partition,
                    };
                    queue.push_back((kind, input));
                }
            }
        }
        counters.logs_total.fetch_add(queue.len() as u64, Ordering::Relaxed);
        on_progress(counters.progress());

        let on_recovered = |bytes: u64| {
            counters.segments_recovered.fetch_add(1, Ordering::Relaxed);
            counters.bytes_recovered.fetch_add(bytes, Ordering::Relaxed);
            on_progress(counters.progress());
        };
        let threads = self.recovery_threads_per_dir.min(queue.len());
        let queue = Mutex::new(queue);
        let failure: Mutex<Option<LogError>> = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((kind, input)) =
                        { queue.lock().expect("nothing panics under this lock").pop_front() }
                    {
                        let loaded = loading::load(input, dir.shared.clone(), now_ms, &on_recovered);
                        if let Err(error) = loaded.and_then(|log| self.add_loaded(kind, log)) {
                            queue.lock().expect("nothing panics under this lock").clear();
                            failure.lock().expect("nothing panics under this lock").get_or_insert(error);
                            break;
                        }
                        counters.logs_loaded.fetch_add(1, Ordering::Relaxed);
                        on_progress(counters.progress());
                    }
                });
            }
        });
        if let Some(error) = failure.into_inner().expect("nothing panics under this lock") {
            return Err(error);
        }
        dir.is_loaded.store(true, Ordering::Release);
        Ok(())
    }

    fn add_loaded(&self, kind: DirKind, log: Log) -> Result<(), LogError> {
        let map = if kind == DirKind::Future { &self.future_logs } else { &self.logs };
        let mut logs = map.write().expect("nothing panics under this lock");
        let dir = log.parent_dir().to_path_buf();
        if let Some(other) = logs.insert(log.topic_partition().clone(), Arc::new(log)) {
            let context = format!(
                "Duplicate log directories for {} are found in both {} and {}. It is likely because log directory \
                 failure happened while broker was replacing current replica with future replica. Recover broker from \
                 this failure by manually deleting one of the two directories for this partition. It is recommended to \
                 delete the partition in the log directory that is known to have failed recently.",
                other.topic_partition(),
                other.parent_dir().display(),
                dir.display()
            );
            return Err(LogError::StartRefused { context });
        }
        Ok(())
    }

    pub fn get(&self, tp: &TopicPartition) -> Option<Arc<Log>> {
        self.logs.read().expect("nothing panics under this lock").get(tp).cloned()
    }

    pub fn logs(&self) -> Vec<Arc<Log>> {
        self.logs.read().expect("nothing panics under this lock").values().cloned().collect()
    }

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
        let _placing = self.placement.lock().expect("nothing panics under this lock");
        if let Some(log) = self.get(tp) {
            return Ok(log);
        }
        if !is_new && let Some(offline) = self.dirs.iter().find(|dir| dir.shared.is_offline()) {
            return Err(offline.shared.offline_error());
        }
        let mut last_error = None;
        for dir in self.dirs_by_logs() {
            let path = dir.shared.path().join(tp.to_string());
            let created = loading::create(tp.clone(), path, config.clone(), dir.shared.clone(), now_ms)
                .and_then(|log| topic_id.map_or(Ok(()), |id| log.assign_topic_id(id)).map(|()| Arc::new(log)));
            match dir.shared.observe(created) {
                Ok(log) => {
                    let mut logs = self.logs.write().expect("nothing panics under this lock");
                    logs.insert(tp.clone(), log.clone());
                    log::info!(
                        "Created log for partition {tp} in {}",
                        dir.shared.path().join(tp.to_string()).display()
                    );
                    return Ok(log);
                }
                Err(error) => last_error = Some(error),
            }
        }
        Err(last_error.unwrap_or_else(|| self.dirs[0].shared.offline_error()))
    }

    /// Live directories, the one with the fewest logs first.
    fn dirs_by_logs(&self) -> Vec<&Dir> {
        let live: Vec<&Dir> = self.live().collect();
        if live.len() <= 1 {
            return live;
        }
        let logs = self.logs.read().expect("nothing panics under this lock");
        let mut dirs: Vec<(usize, &Dir)> = live
            .into_iter()
            .map(|dir| (logs.values().filter(|log| Arc::ptr_eq(&log.parent, &dir.shared)).count(), dir))
            .collect();
        dirs.sort_by_key(|(count, _)| *count);
        dirs.into_iter().map(|(_, dir)| dir).collect()
    }

    /// Takes logs out of service at once; their files go after the delete delay. For each whether there was one.
    pub fn delete(&self, partitions: &[TopicPartition], now_ms: i64) -> Vec<Result<bool, LogError>> {
        let _placing = self.placement.lock().expect("nothing panics under this lock");
        let outcomes: Vec<_> = partitions.iter().map(|tp| self.delete_one(tp, now_ms)).collect();
        for dir in self.live() {
            let has_lost_one = outcomes.iter().flatten().flatten().any(|parent| Arc::ptr_eq(parent, &dir.shared));
            if has_lost_one && let Err(error) = self.checkpoint_dir(&dir.shared) {
                log::error!("{error}");
            }
        }
        outcomes.into_iter().map(|outcome| outcome.map(|parent| parent.is_some())).collect()
    }

    /// The directory that the log was in, if there was one.
    fn delete_one(&self, tp: &TopicPartition, now_ms: i64) -> Result<Option<Arc<LogDir>>, LogError> {
        let removed = self.logs.write().expect("nothing panics under this lock").remove(tp);
        let Some(log) = removed else { return Ok(None) };
        let name = file_names::deleting_dir_name(tp);
        let shared = log.parent.clone();
        shared.check()?;
        let mut state = log.locked();
        let renamed = shared.path().join(&name);
        shared.observe(fs::rename(&state.dir, &renamed).doing("rename", &state.dir))?;
        state.dir = renamed.clone();
        drop(state);
        log.abandon();
        let due_ms = now_ms.saturating_add(self.topic_defaults.file_delete_delay_ms);
        shared.doom(due_ms, [renamed.clone()]);
        log::info!("Log for partition {tp} is renamed to {} and is scheduled for deletion", renamed.display());
        Ok(Some(shared))
    }

    /// After a directory failed: stops serving its logs without writing, and lets go of its lock.
    pub fn drop_offline_logs(&self, path: &Path) -> Vec<TopicPartition> {
        let Some(dir) = self.dirs.iter().find(|dir| dir.shared.path() == path) else { return Vec::new() };
        *dir.lock.lock().expect("nothing panics under this lock") = None;
        self.abandon_logs_of(&dir.shared)
    }

    fn abandon_logs_of(&self, shared: &Arc<LogDir>) -> Vec<TopicPartition> {
        let mut dropped = Vec::new();
        for map in [&self.logs, &self.future_logs] {
            let mut logs = map.write().expect("nothing panics under this lock");
            for (tp, log) in logs.extract_if(|_, log| Arc::ptr_eq(&log.parent, shared)) {
                log.abandon();
                dropped.push(tp);
            }
        }
        dropped
    }

    fn logs_of(&self, shared: &Arc<LogDir>) -> Vec<Arc<Log>> {
        let logs = self.logs.read().expect("nothing panics under this lock");
        logs.values().filter(|log| Arc::ptr_eq(&log.parent, shared)).cloned().collect()
    }

    /// Writes all three checkpoints of all directories, each of which may fail for itself.
    pub fn checkpoint_recovery_points(&self) {
        self.checkpoint_each(file_names::RECOVERY_POINT_CHECKPOINT, |log| Some(log.recovery_point()));
    }

    /// Only logs that start behind their first segment's base need an entry.
    pub fn checkpoint_log_start_offsets(&self) {
        self.checkpoint_each(file_names::LOG_START_OFFSET_CHECKPOINT, checkpointed_log_start);
    }

    pub fn checkpoint_high_watermarks(&self) {
        self.checkpoint_each(file_names::HIGH_WATERMARK_CHECKPOINT, |log| Some(log.high_watermark()));
    }

    fn checkpoint_each(&self, name: &str, offset: impl Fn(&Log) -> Option<Offset>) {
        for dir in self.live().filter(|dir| dir.is_loaded.load(Ordering::Acquire)) {
            if let Err(error) = dir.shared.observe(self.write_checkpoint(&dir.shared, name, &offset)) {
                log::error!("{error}");
            }
        }
    }

    fn checkpoint_dir(&self, shared: &Arc<LogDir>) -> Result<(), LogError> {
        let written = self
            .write_checkpoint(shared, file_names::RECOVERY_POINT_CHECKPOINT, |log| Some(log.recovery_point()))
            .and_then(|()| {
                self.write_checkpoint(shared, file_names::LOG_START_OFFSET_CHECKPOINT, checkpointed_log_start)
            })
            .and_then(|()| {
                self.write_checkpoint(shared, file_names::HIGH_WATERMARK_CHECKPOINT, |log| Some(log.high_watermark()))
            });
        shared.observe(written)
    }

    fn write_checkpoint(
        &self,
        shared: &Arc<LogDir>,
        name: &str,
        offset: impl Fn(&Log) -> Option<Offset>,
    ) -> Result<(), LogError> {
        let _one_at_a_time = shared.checkpointing.lock().expect("nothing panics under this lock");
        let logs = self.logs_of(shared);
        let entries = logs.iter().filter_map(|log| Some((log.topic_partition(), offset(log)?)));
        checkpoint::write_offsets(&shared.path().join(name), entries)
    }

    /// Deletes what retention no longer keeps, and closes files that nobody has been using. Returns the segments deleted.
    pub fn tick_retention(&self, now_ms: i64) -> usize {
        let mut deleted = 0;
        for log in self.logs() {
            match log.delete_old_segments(now_ms) {
                Ok(count) => deleted += count,
                Err(error) => complain(log.topic_partition(), "delete old segments", &error),
            }
            log.close_idle_files();
        }
        deleted
    }

    /// Removes files and directories whose delete delay is over.
    pub fn tick_deletions(&self, now_ms: i64) {
        for dir in self.live() {
            for path in dir.shared.take_doomed(now_ms) {
                let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                match removed {
                    Ok(()) => log::debug!("Deleted {}", path.display()),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    // The next start tries again: the names say what they are.
                    Err(error) => log::error!("delete {}: {error}", path.display()),
                }
            }
        }
    }

    /// Flushes segments that appends have left behind, writes down recovery points that truncations moved back, and
    /// flushes logs whose `flush.ms` is over. Call it every second or so.
    pub fn tick_flush(&self, now_ms: i64) {
        for dir in self.live() {
            for tp in dir.shared.take_rolled() {
                let Some(log) = self.get(&tp) else { continue };
                if let Err(error) = log.flush_old_segments(now_ms) {
                    complain(&tp, "flush", &error);
                }
            }
            if dir.shared.take_truncated()
                && let Err(error) = self.checkpoint_dir(&dir.shared)
            {
                log::error!("{error}");
            }
        }
        for log in self.logs() {
            let flush_ms = log.config().flush_ms;
            if flush_ms == i64::MAX {
                continue;
            }
            if log.unflushed_since_ms().is_some_and(|since| now_ms.saturating_sub(since) >= flush_ms)
                && let Err(error) = log.flush(now_ms)
            {
                complain(log.topic_partition(), "flush", &error);
            }
        }
    }

    pub fn tick_producer_expiration(&self, now_ms: i64) {
        for log in self.logs() {
            log.expire_producers(now_ms);
        }
    }

    /// The end of a clean shutdown: every log flushed and closed, checkpoints written, then the marker that lets the next
    /// start trust all files as they are.
    pub fn shutdown(&self, now_ms: i64) {
        std::thread::scope(|scope| {
            for dir in self.live() {
                scope.spawn(|| {
                    if let Err(error) = self.shut_down_dir(dir, now_ms) {
                        log::error!("close log directory {}: {error}", dir.shared.path().display());
                    }
                    *dir.lock.lock().expect("nothing panics under this lock") = None;
                });
            }
        });
    }

    fn shut_down_dir(&self, dir: &Dir, now_ms: i64) -> Result<(), LogError> {
        if !dir.is_loaded.load(Ordering::Acquire) {
            // Nothing was changed yet: what was clean still is.
            if dir.had_clean_shutdown.load(Ordering::Acquire) {
                return write_clean_shutdown_marker(dir.shared.path());
            }
            return Ok(());
        }
        let logs = self.logs_of(&dir.shared);
        let future: Vec<Arc<Log>> = {
            let future = self.future_logs.read().expect("nothing panics under this lock");
            future.values().filter(|log| Arc::ptr_eq(&log.parent, &dir.shared)).cloned().collect()
        };
        let mut all_closed = Ok(());
        for log in logs.iter().chain(&future) {
            let closed = log.close(now_ms);
            if all_closed.is_ok() {
                all_closed = closed;
            }
        }
        self.checkpoint_dir(&dir.shared)?;
        all_closed?;
        write_clean_shutdown_marker(dir.shared.path())
    }
}

/// A log that was deleted meanwhile, or whose directory failed earlier, is no news.
fn complain(tp: &TopicPartition, doing: &str, error: &LogError) {
    let level = match error {
        LogError::Closed | LogError::Offline { .. } => log::Level::Debug,
        _ => log::Level::Error,
    };
    log::log!(level, "[{tp}] {doing}: {error}");
}

fn checkpointed_log_start(log: &Log) -> Option<Offset> {
    let state = log.locked();
    let first_base = state.segments.first().map(super::Segment::base_offset)?;
    (state.log_start_offset > first_base).then_some(state.log_start_offset)
}

/// The content is what 3.7 and later write in ZooKeeper mode; older brokers look at nothing but the name.
fn write_clean_shutdown_marker(root: &Path) -> Result<(), LogError> {
    let path = root.join(file_names::CLEAN_SHUTDOWN);
    atomic_file::replace(&path, br#"{"version":0,"brokerEpoch":-1}"#).doing("write", &path)
}

fn prepare_dir(path: &Path) -> Result<(File, Option<MetaProperties>), LogError> {
    if !path.exists() {
        log::info!("Log directory {} not found, creating it.", path.display());
        fs::create_dir_all(path).doing("create", path)?;
    }
    fs::read_dir(path).doing("list", path)?;
    let lock_path = path.join(file_names::LOCK);
    let lock =
        OpenOptions::new().write(true).create(true).truncate(false).open(&lock_path).doing("open", &lock_path)?;
    if !lock_whole_file(&lock).doing("lock", &lock_path)? {
        let context = format!(
            "Failed to acquire lock on file .lock in {}. A Kafka instance in another process or thread is using this \
             directory.",
            path.display()
        );
        return Err(LogError::StartRefused { context });
    }
    let metadata = MetaProperties::read(&path.join(file_names::META_PROPERTIES))?;
    Ok((lock, metadata))
}

/// Takes the kind of lock that a JVM takes, so that each sees the other's, and one that also holds within a process.
/// False if somebody has either.
fn lock_whole_file(file: &File) -> io::Result<bool> {
    let exclusive = FlockOperation::NonBlockingLockExclusive;
    match rustix::fs::flock(file, exclusive).and_then(|()| rustix::fs::fcntl_lock(file, exclusive)) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// A damaged checkpoint takes the directory offline: what it held cannot be guessed.
fn read_checkpoint(root: &Path, name: &str) -> Result<HashMap<TopicPartition, Offset>, LogError> {
    checkpoint::read_offsets(&root.join(name))
}

fn partition_dirs(root: &Path) -> Result<Vec<(String, DirKind, TopicPartition)>, LogError> {
    /// Directories of other features, which are no partitions of ours.
    const NOT_PARTITIONS: [&str; 2] = ["__cluster_metadata-0", "remote-log-index-cache"];
    let mut dirs = Vec::new();
    for entry in fs::read_dir(root).doing("list", root)? {
        let entry = entry.doing("list", root)?;
        if !entry.file_type().doing("list", root)?.is_dir() {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        if NOT_PARTITIONS.contains(&name.as_str()) {
            continue;
        }
        let Some((topic_partition, kind)) = file_names::parse_dir_name(&name) else {
            let context = format!(
                "Found directory {}, '{name}' is not in the form of topic-partition or topic-partition.uniqueId-delete \
                 (if marked for deletion). Kafka's log directories (and children) should only contain Kafka topic data.",
                entry.path().display()
            );
            return Err(LogError::StartRefused { context });
        };
        dirs.push((name, kind, topic_partition));
    }
    dirs.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(dirs)
}
