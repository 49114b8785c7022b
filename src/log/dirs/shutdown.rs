//! The end of a clean shutdown.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::{Dir, LogDirs};
use crate::log::error::{IoContext, LogError};
use crate::log::{Log, file_names, files};

impl LogDirs {
    /// The end of a clean shutdown: every log flushed and closed, checkpoints written, then the marker that lets the next
    /// start trust all files as they are.
    pub fn shutdown(&self, now_ms: i64) {
        std::thread::scope(|scope| {
            for dir in self.live() {
                scope.spawn(|| {
                    if let Err(error) = self.shut_down_dir(dir, now_ms) {
                        log::log!(error.level(), "close log directory {}: {error}", dir.shared.path().display());
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
                return dir.shared.observe(write_clean_shutdown_marker(dir.shared.path()));
            }
            return Ok(());
        }
        let mut logs = self.logs_of(&dir.shared);
        {
            let future = self.future_logs.read().expect("nothing panics under this lock");
            logs.extend(future.values().filter(|log| log.is_in(&dir.shared)).cloned());
        }
        let all_closed = self.close_all(&logs, now_ms);
        self.checkpoint_dir(dir)?;
        all_closed?;
        // What is not open may have to be recovered still.
        let all_clean = {
            let unloadable = dir.unloadable.lock().expect("nothing panics under this lock");
            unloadable.values().all(|input| input.had_clean_shutdown)
        };
        if !all_clean {
            return Ok(());
        }
        dir.shared.doomed().iter().for_each(|path| complete_deleted(path));
        dir.shared.observe(write_clean_shutdown_marker(dir.shared.path()))
    }

    /// Closes each, whatever becomes of the others. The first error.
    fn close_all(&self, logs: &[Arc<Log>], now_ms: i64) -> Result<(), LogError> {
        let threads = self.recovery_threads_per_dir.load(Ordering::Relaxed).max(CLOSING_THREADS).min(logs.len());
        let (next, closed) = (AtomicUsize::new(0), Mutex::new(Ok(())));
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(log) = logs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = log.close(now_ms) {
                            let mut closed = closed.lock().expect("nothing panics under this lock");
                            *closed = std::mem::replace(&mut *closed, Ok(())).and(Err(error));
                        }
                    }
                });
            }
        });
        closed.into_inner().expect("nothing panics under this lock")
    }
}

/// After a clean shutdown a JVM broker takes a missing offset index for damage, and says so as an error, of a log that waits
/// for its deletion too. Such a log was closed without writing its indexes, which nobody reads.
fn complete_deleted(path: &Path) {
    let Ok(entries) = files::list(path) else { return };
    let files = entries.iter().map(|entry| entry.path());
    for log in files.filter(|path| path.extension().is_some_and(|extension| extension == file_names::LOG)) {
        let index = log.with_extension(file_names::OFFSET_INDEX);
        if let Err(error) = files::open_or_create(&index) {
            log::debug!("create {}: {error}", index.display());
        }
    }
}

/// `num.recovery.threads.per.data.dir` closes logs too, as in Kafka, but never fewer threads than this: they wait for
/// fsyncs, and a file system does those of many together.
const CLOSING_THREADS: usize = 8;

/// The content is what 3.7 and later write in ZooKeeper mode; older brokers look at nothing but the name.
fn write_clean_shutdown_marker(root: &Path) -> Result<(), LogError> {
    let path = root.join(file_names::CLEAN_SHUTDOWN);
    files::replace(&path, br#"{"version":0,"brokerEpoch":-1}"#).doing("write", &path)
}
