//! The three checkpoint files of each directory.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::LogDirs;
use crate::log::error::LogError;
use crate::log::log_dir::LogDir;
use crate::log::segment::Segment;
use crate::log::{Log, checkpoint, file_names};
use crate::model::Offset;

impl LogDirs {
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

    pub(super) fn checkpoint_dir(&self, shared: &Arc<LogDir>) -> Result<(), LogError> {
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
}

fn checkpointed_log_start(log: &Log) -> Option<Offset> {
    let state = log.locked();
    let first_base = state.segments.first().map(Segment::base_offset)?;
    (state.log_start_offset > first_base).then_some(state.log_start_offset)
}
