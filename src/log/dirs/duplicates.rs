//! Two directories of one partition, which a crash leaves in the middle of a move, of ours or of a JVM broker.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Dir, LogDirs};
use crate::log::error::{IoContext, LogError};
use crate::log::loading::{self, LoadInput};
use crate::log::pending::Due;
use crate::log::{Log, file_names, files};
use crate::model::Offset;

impl LogDirs {
    /// Decides between a log that was loaded and another of its partition. Where that fails for a fault of a disk or a file,
    /// neither is served, and the next start tries again.
    pub(super) fn settle_duplicate(&self, second: Arc<Log>, now_ms: i64) -> Result<(), LogError> {
        let tp = second.topic_partition();
        let first = self.get(tp).filter(|first| !first.is_offline());
        let Some(first) = first.filter(|_| !second.is_offline()) else {
            // The directory of one has failed meanwhile, or the first one waits as well.
            self.take_out(&second);
            return Ok(());
        };
        match self.decide_between(&first, &second, now_ms) {
            Ok(whole) if Arc::ptr_eq(&whole, &second) => {
                first.parent().uncount_log();
                second.parent().count_log();
                self.logs.write().expect("nothing panics under this lock").insert(tp.clone(), second.clone());
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(refused @ LogError::StartRefused { .. }) => Err(refused),
            Err(error) => {
                first.fail(&error);
                second.fail(&error);
                self.take_out(&second);
                Ok(())
            }
        }
    }

    /// A log of whose partition another directory cannot be opened is not served: the other may be the longer one, with what
    /// was acknowledged last. The next decision about the partition tries to open both.
    pub(super) fn take_out_doubtful(&self) {
        for log in self.logs() {
            let tp = log.topic_partition();
            let is_in_doubt = |dir: &&Dir| {
                let unloadable = dir.unloadable.lock().expect("nothing panics under this lock");
                !log.is_in(&dir.shared) && unloadable.contains_key(tp)
            };
            let Some(other) = self.live().find(is_in_doubt) else { continue };
            log::error!(
                "[{tp}] The log in {} is not served: another directory of the partition, in {}, cannot be opened and may \
                 have more; the partition is offline until it can be",
                log.dir().display(),
                other.shared.path().display()
            );
            self.logs.write().expect("nothing panics under this lock").remove(tp);
            log.parent().uncount_log();
            self.take_out(&log);
        }
    }

    /// It is opened again with the next decision about the partition; the checkpoints keep what they say of it.
    fn take_out(&self, log: &Log) {
        log.abandon();
        let mut unloadable = self.dir_of(log).unloadable.lock().expect("nothing panics under this lock");
        unloadable.insert(log.topic_partition().clone(), LoadInput::of(log));
    }

    /// The longer one is the log if the other is its beginning: the directory that a log moves to is never longer than the one
    /// that it leaves before the move is over, nor shorter afterwards. What comes behind something that only the other has was
    /// not flushed, and does not count. A copy that was not whole goes on as one. Logs that part at some offset are for a person
    /// to look at.
    pub(super) fn decide_between(
        &self,
        first: &Arc<Log>,
        second: &Arc<Log>,
        now_ms: i64,
    ) -> Result<Arc<Log>, LogError> {
        let tp = second.topic_partition();
        if is_same(&first.dir(), &second.dir()).doing("look at", &first.dir())? {
            let context = format!(
                "Duplicate log directories for {tp} are found in both {} and {}, which are one and the same: one must be a link",
                first.dir().display(),
                second.dir().display()
            );
            return Err(LogError::StartRefused { context });
        }
        let second_is_younger = age(&second.dir()) > age(&first.dir());
        let first_end = first.parent().observe(first.sound_end(second))?;
        let second_end = second.parent().observe(second.sound_end(first))?;
        let second_is_whole = match second_end.cmp(&first_end) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => second_is_younger,
            std::cmp::Ordering::Greater => true,
        };
        let (whole, part) = if second_is_whole { (second, first) } else { (first, second) };
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
        let part_is_younger = second_is_whole != second_is_younger;
        log::warn!(
            "[{tp}] The log in {} is the beginning of the one in {}, to which a move was not finished{}",
            part.dir().display(),
            whole.dir().display(),
            if part_is_younger { " or from which; it goes on" } else { "; it is deleted" }
        );
        self.put_aside(part, part_is_younger, now_ms)?;
        Ok(Arc::clone(whole))
    }

    fn put_aside(&self, part: &Log, is_copy: bool, now_ms: i64) -> Result<(), LogError> {
        let (tp, dir) = (part.topic_partition(), self.dir_of(part));
        part.abandon();
        let input = LoadInput::of(part);
        let copy_name = file_names::future_dir_name(tp).filter(|_| is_copy);
        let is_copy = copy_name.is_some();
        let path = dir.shared.path().join(copy_name.unwrap_or_else(|| file_names::deleting_dir_name(tp)));
        rename(dir, &input.dir, &path)?;
        dir.unloadable.lock().expect("nothing panics under this lock").remove(tp);
        if !is_copy {
            dir.shared.doom(Due::after(now_ms, self.file_delete_delay_ms()), [path]);
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

fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    Ok(files::identity(one)? == files::identity(other)?)
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::log::LogConfig;
    use crate::config::sections::LogDirsConfig;
    use crate::model::TopicPartition;

    #[test]
    fn a_second_log_is_not_forgotten_whose_first_has_gone_with_its_directory() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let dirs: Vec<PathBuf> = ["a", "b"].map(|name| root.path().join(name)).into();
        let config = LogDirsConfig { dirs, ..LogDirsConfig::default() };
        let (failures, _) = tokio::sync::mpsc::unbounded_channel();
        let dirs = LogDirs::open(&config, failures, Arc::default()).expect("openable");
        let topic_config = Arc::new(LogConfig::default());
        dirs.load(&|_| Arc::new(LogConfig::default()), 0, &|_| {}).expect("loadable");
        let tp = TopicPartition::new("t", 0);
        let open = |is_new| dirs.get_or_create(&tp, None, Arc::clone(&topic_config), is_new, 0);
        let second = open(true).expect("creatable");
        dirs.logs.write().expect("unpoisoned").clear();
        let first = dirs.live().find(|dir| !second.is_in(&dir.shared)).expect("there are two");
        first.shared.fail(&LogError::Corrupt { context: "on purpose".to_string() });
        dirs.settle_duplicate(Arc::clone(&second), 0).expect("nothing to decide");
        assert_eq!(open(false).expect("it is known").dir(), second.dir());
    }
}
