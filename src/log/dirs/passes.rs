//! What `broker/` calls by the clock: retention, deletion, flushing, expiry of producers.

use std::fs;

use super::{Dir, LogDirs};
use crate::log::error::{IoContext, LogError};
use crate::log::files;
use crate::model::TopicPartition;

impl LogDirs {
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
                if matches!(&removed, Err(error) if error.kind() == std::io::ErrorKind::NotFound) {
                    continue;
                }
                match dir.shared.observe(removed.doing("delete", &path)) {
                    Ok(()) => log::debug!("Deleted {}", path.display()),
                    // The next start tries again: the names say what they are.
                    Err(error) => log::error!("{error}"),
                }
            }
        }
    }

    /// Writes topic ids and leader epochs that changed, rebuilds indexes that led readers astray, flushes segments that appends have left behind, writes down
    /// recovery points that truncations moved back, and flushes logs whose `flush.ms` is over. Call it every second or so.
    pub fn tick_flush(&self, now_ms: i64) {
        for dir in self.live() {
            self.write_small_files(dir);
            for (tp, base_offset) in dir.shared.take_wrong_indexes() {
                let Some(log) = self.get(&tp) else { continue };
                if let Err(error) = log.rebuild_indexes(base_offset) {
                    complain(&tp, "rebuild indexes", &error);
                }
            }
            for tp in dir.shared.take_rolled() {
                let Some(log) = self.get(&tp) else { continue };
                if let Err(error) = log.flush_old_segments(now_ms) {
                    complain(&tp, "flush", &error);
                    if !error.is_storage_failure() {
                        dir.shared.note_rolled(&tp);
                    }
                }
            }
            if dir.shared.take_truncated()
                && let Err(error) = self.checkpoint_dir(dir)
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

    fn write_small_files(&self, dir: &Dir) {
        let unwritten = dir.shared.take_unwritten();
        if unwritten.is_empty() {
            return;
        }
        let mut unwritten = unwritten.into_iter();
        for tp in unwritten.by_ref() {
            // One that fails notes itself again.
            if let Some(Err(error)) = self.get(&tp).map(|log| log.write_small_files()) {
                complain(&tp, "write topic id and leader epochs", &error);
                // A full disk and a want of descriptors are the same for the next: one line says it for all.
                if !error.is_storage_failure() {
                    unwritten.for_each(|tp| dir.shared.note_unwritten(&tp));
                    return;
                }
            }
        }
        // New partitions are new directories.
        let root = dir.shared.path();
        if let Err(error) = dir.shared.observe(files::sync_dir(root).doing("fsync", root)) {
            log::error!("{error}");
        }
    }

    /// `producer.id.expiration.ms` from now on.
    pub fn set_producer_id_expiration(&self, ms: i64) {
        self.dirs.iter().for_each(|dir| dir.shared.set_producer_id_expiration_ms(ms));
    }

    pub fn tick_producer_expiration(&self, now_ms: i64) {
        for log in self.logs() {
            log.expire_producers(now_ms);
        }
    }
}

/// A log that was deleted meanwhile, or whose directory failed earlier, is no news.
fn complain(tp: &TopicPartition, doing: &str, error: &LogError) {
    let level = match error {
        LogError::Closed | LogError::BeingTruncated | LogError::Offline { .. } => log::Level::Debug,
        _ => log::Level::Error,
    };
    log::log!(level, "[{tp}] {doing}: {error}");
}
