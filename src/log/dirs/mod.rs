//! All log dirs of a broker: who they belong to, the logs in them, their checkpoints, and the passes over all logs that
//! `broker/` calls from timers. One failing directory goes offline while the others serve.
//! Source: kafka 3.9 core/.../log/LogManager.scala.

mod checkpoints;
pub mod described;
mod duplicates;
pub mod moves;
mod ownership;
mod passes;
mod placement;
mod shutdown;
pub mod startup;
pub mod survey;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, RwLock};

use super::Log;
use super::broker_metadata::MetaProperties;
use super::cleaner::PausedCleaning;
use super::files::File;
use super::loading::LoadInput;
use super::log_dir::LogDir;
use crate::config::log::LogConfig;
use crate::model::TopicPartition;

#[derive(Debug)]
pub struct LogDirs {
    dirs: Vec<Dir>,
    recovery_threads_per_dir: AtomicUsize,
    logs: RwLock<HashMap<TopicPartition, Arc<Log>>>,
    /// Copies of logs that move to another directory, and will take their place.
    future_logs: RwLock<HashMap<TopicPartition, Arc<Log>>>,
    topic_defaults: Arc<LogConfig>,
    /// Compaction leaves logs alone that are copied.
    pauses: Mutex<HashMap<TopicPartition, PausedCleaning>>,
    /// Where the logs of partitions are to be created that are not here yet.
    preferred: Mutex<HashMap<TopicPartition, PathBuf>>,
    /// Each keeps two threads from creating or deleting the same partition; which one, its name decides. Only I/O
    /// threads take them.
    placements: [Mutex<()>; PLACEMENTS],
    /// The broker stops: what passes have yet to do is done when the logs are closed, by several threads.
    passes_end: AtomicBool,
}

#[derive(Debug)]
struct Dir {
    shared: Arc<LogDir>,
    /// Holds the lock on the `.lock` file; dropped when the directory fails or the broker stops.
    lock: Mutex<Option<File>>,
    metadata: Mutex<Option<MetaProperties>>,
    had_clean_shutdown: AtomicBool,
    is_loaded: AtomicBool,
    /// Logs that could not be opened, for a fault of their own: what the checkpoints say of them is kept, and the next
    /// decision about the partition tries again.
    unloadable: Mutex<HashMap<TopicPartition, LoadInput>>,
}

const PLACEMENTS: usize = 64;

/// One directory, for the passes over it: what they wait for is its disk and no other, each for itself.
#[derive(Clone, Copy, Debug)]
pub struct OneDir<'a> {
    all: &'a LogDirs,
    dir: &'a Dir,
}

impl<'a> OneDir<'a> {
    pub fn path(&self) -> &'a Path {
        self.dir.shared.path()
    }
}

impl LogDirs {
    fn live(&self) -> impl Iterator<Item = &Dir> {
        self.dirs.iter().filter(|dir| !dir.shared.is_offline())
    }

    /// Each directory that serves.
    pub fn each(&self) -> impl Iterator<Item = OneDir<'_>> {
        self.live().map(|dir| OneDir { all: self, dir })
    }

    /// The directory of that path, while it serves.
    pub fn one(&self, path: &Path) -> Option<OneDir<'_>> {
        self.each().find(|one| one.dir.shared.path() == path)
    }

    pub fn live_dirs(&self) -> Vec<PathBuf> {
        self.live().map(|dir| dir.shared.path().to_path_buf()).collect()
    }

    pub fn offline_dirs(&self) -> Vec<PathBuf> {
        let offline = self.dirs.iter().filter(|dir| dir.shared.is_offline());
        offline.map(|dir| dir.shared.path().to_path_buf()).collect()
    }

    /// Whether the disk of any of them does not keep up with what is appended.
    pub fn is_any_held_up(&self) -> bool {
        self.dirs.iter().any(|dir| dir.shared.pace.holds_up())
    }

    /// Those whose disks do not.
    pub fn held_up_dirs(&self) -> Vec<PathBuf> {
        let held_up = self.dirs.iter().filter(|dir| dir.shared.pace.holds_up());
        held_up.map(|dir| dir.shared.path().to_path_buf()).collect()
    }

    pub fn get(&self, tp: &TopicPartition) -> Option<Arc<Log>> {
        self.logs.read().expect("nothing panics under this lock").get(tp).cloned()
    }

    /// The log that will take the place of the partition's log when it has all that is in it.
    pub fn get_future(&self, tp: &TopicPartition) -> Option<Arc<Log>> {
        self.future_logs.read().expect("nothing panics under this lock").get(tp).cloned()
    }

    pub fn future_logs(&self) -> Vec<Arc<Log>> {
        self.future_logs.read().expect("nothing panics under this lock").values().cloned().collect()
    }

    pub fn logs(&self) -> Vec<Arc<Log>> {
        self.logs.read().expect("nothing panics under this lock").values().cloned().collect()
    }

    /// After a directory failed: stops serving its logs without writing, and lets go of its lock. While it has not, some
    /// of its logs have; those keep their place, and their entries in the checkpoints.
    pub fn drop_offline_logs(&self, path: &Path) -> Vec<TopicPartition> {
        let Some(dir) = self.dirs.iter().find(|dir| dir.shared.path() == path) else { return Vec::new() };
        if !dir.shared.is_offline() {
            let failed = self.logs_of(&dir.shared).into_iter().filter(|log| log.is_offline());
            return failed.inspect(|log| log.abandon()).map(|log| log.topic_partition().clone()).collect();
        }
        *dir.lock.lock().expect("nothing panics under this lock") = None;
        self.abandon_logs_of(&dir.shared)
    }

    fn abandon_logs_of(&self, shared: &Arc<LogDir>) -> Vec<TopicPartition> {
        let mut dropped = Vec::new();
        for map in [&self.logs, &self.future_logs] {
            let mut logs = map.write().expect("nothing panics under this lock");
            dropped.extend(logs.extract_if(|_, log| log.is_in(shared)));
        }
        // Whether it is the copy or what was copied, nothing is any more. The other of the two may be on a disk that serves.
        dropped.iter().for_each(|(tp, _)| self.resume_cleaning(tp));
        // Behind the lock, which everybody needs, and last: an append may still wait for that disk.
        dropped.iter().for_each(|(_, log)| log.abandon());
        dropped.into_iter().map(|(tp, _)| tp).collect()
    }

    fn logs_of(&self, shared: &Arc<LogDir>) -> Vec<Arc<Log>> {
        let logs = self.logs.read().expect("nothing panics under this lock");
        logs.values().filter(|log| log.is_in(shared)).cloned().collect()
    }
}
