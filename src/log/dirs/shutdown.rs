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
        let mut logs = self.logs_of(&dir.shared);
        {
            let future = self.future_logs.read().expect("nothing panics under this lock");
            logs.extend(future.values().filter(|log| Arc::ptr_eq(&log.parent, &dir.shared)).cloned());
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
        write_clean_shutdown_marker(dir.shared.path())
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

/// `num.recovery.threads.per.data.dir` closes logs too, as in Kafka, but never fewer threads than this: they wait for
/// fsyncs, and a file system does those of many together.
const CLOSING_THREADS: usize = 8;

/// The content is what 3.7 and later write in ZooKeeper mode; older brokers look at nothing but the name.
fn write_clean_shutdown_marker(root: &Path) -> Result<(), LogError> {
    let path = root.join(file_names::CLEAN_SHUTDOWN);
    files::replace(&path, br#"{"version":0,"brokerEpoch":-1}"#).doing("write", &path)
}
