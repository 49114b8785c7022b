//! Two directories of one partition, which a crash leaves in the middle of a move, of ours or of a JVM broker.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Dir, LogDirs};
use crate::log::error::{IoContext, LogError};
use crate::log::loading::{self, LoadInput};
use crate::log::{Log, file_names, files};
use crate::model::Offset;

impl LogDirs {
    /// Decides between a log that was loaded and another of its partition. Where that fails for a fault of a disk or a file,
    /// neither is served, and the next start tries again.
    pub(super) fn settle_duplicate(&self, second: Arc<Log>, now_ms: i64) -> Result<(), LogError> {
        let tp = second.topic_partition();
        let first = self.get(tp);
        let error = match self.decide_between(Arc::clone(&second), now_ms) {
            Err(error) if !matches!(error, LogError::StartRefused { .. }) => error,
            decided => return decided,
        };
        let served = self.get(tp);
        for log in first.iter().chain([&second]) {
            log.fail(&error);
            if !served.as_ref().is_some_and(|served| Arc::ptr_eq(served, log)) {
                // So that the checkpoints keep what they say of it.
                log.abandon();
                let mut unloadable = self.dir_of(log).unloadable.lock().expect("nothing panics under this lock");
                unloadable.insert(tp.clone(), LoadInput::of(log));
            }
        }
        Ok(())
    }

    /// The longer one is the log if the other is its beginning: the directory that a log moves to is never longer than the one
    /// that it leaves before the move is over, nor shorter afterwards. What comes behind something that only the other has was
    /// not flushed, and does not count. A copy that was not whole goes on as one. Logs that part at some offset are for a person
    /// to look at.
    fn decide_between(&self, second: Arc<Log>, now_ms: i64) -> Result<(), LogError> {
        let tp = second.topic_partition().clone();
        let first = self.get(&tp).filter(|first| !first.is_offline());
        let Some(first) = first.filter(|_| !second.is_offline()) else { return Ok(()) };
        let second_is_younger = age(&second.dir()) > age(&first.dir());
        let first_end = first.parent().observe(first.sound_end(&second))?;
        let second_end = second.parent().observe(second.sound_end(&first))?;
        let second_is_whole = match second_end.cmp(&first_end) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => second_is_younger,
            std::cmp::Ordering::Greater => true,
        };
        let (whole, part) = if second_is_whole { (&second, &first) } else { (&first, &second) };
        if !part.parent().observe(is_beginning_of(part, whole, first_end.min(second_end)))? {
            let context = format!(
                "Duplicate log directories for {tp} are found in both {} and {}, which parted. It is likely because log \
                 directory failure happened while broker was replacing current replica with future replica. Recover broker \
                 from this failure by manually deleting one of the two directories for this partition. It is recommended to \
                 delete the partition in the log directory that is known to have failed recently.",
                first.dir().display(),
                second.dir().display()
            );
            return Err(LogError::StartRefused { context });
        }
        if second_is_whole {
            first.parent().uncount_log();
            second.parent().count_log();
            self.logs.write().expect("nothing panics under this lock").insert(tp.clone(), Arc::clone(&second));
        }
        let part_is_younger = second_is_whole != second_is_younger;
        log::warn!(
            "[{tp}] The log in {} is the beginning of the one in {}, to which a move was not finished{}",
            part.dir().display(),
            whole.dir().display(),
            if part_is_younger { " or from which; it goes on" } else { "; it is deleted" }
        );
        self.put_aside(part, part_is_younger, now_ms)
    }

    fn put_aside(&self, part: &Log, is_copy: bool, now_ms: i64) -> Result<(), LogError> {
        let (tp, dir) = (part.topic_partition(), self.dir_of(part));
        part.abandon();
        let input = LoadInput::of(part);
        let copy_name = file_names::future_dir_name(tp).filter(|_| is_copy);
        let is_copy = copy_name.is_some();
        let path = dir.shared.path().join(copy_name.unwrap_or_else(|| file_names::deleting_dir_name(tp)));
        rename(dir, &input.dir, &path)?;
        if !is_copy {
            dir.shared.doom(now_ms.saturating_add(self.topic_defaults.file_delete_delay_ms), [path]);
            return Ok(());
        }
        let future = loading::load(LoadInput { dir: path, ..input }, Arc::clone(&dir.shared), now_ms, &|_| {})?;
        future.forget_unflushed(now_ms)?;
        dir.shared.count_log();
        self.future_logs.write().expect("nothing panics under this lock").insert(tp.clone(), Arc::new(future));
        Ok(())
    }
}

fn rename(dir: &Dir, from: &Path, to: &Path) -> Result<(), LogError> {
    dir.shared.observe(files::rename(from, to).doing("rename", from))?;
    dir.shared.observe(files::sync_path(dir.shared.path()).doing("fsync", dir.shared.path()))
}

/// When a directory was made, where the file system knows. The one that a log moves to is made later.
fn age(dir: &Path) -> Option<SystemTime> {
    files::metadata(dir).and_then(|metadata| metadata.created()).ok()
}

/// By the ids of the topic and the leader epochs.
fn is_beginning_of(part: &Log, whole: &Log, until: Offset) -> Result<bool, LogError> {
    let is_other_topic = part.topic_id().zip(whole.topic_id()).is_some_and(|(one, other)| one != other);
    let from = part.log_start_offset().max(whole.log_start_offset());
    Ok(!is_other_topic && part.agrees_with(whole, from, until)?)
}
