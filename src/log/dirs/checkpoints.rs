//! The checkpoint files of each directory.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use super::{Dir, LogDirs, OneDir};
use crate::log::error::LogError;
use crate::log::loading::LoadInput;
use crate::log::segment::Segment;
use crate::log::{Log, checkpoint, file_names};
use crate::model::{Offset, TopicPartition};

impl LogDirs {
    /// Each directory may fail for itself.
    pub fn checkpoint_recovery_points(&self) {
        self.each().for_each(|dir| dir.checkpoint_recovery_points());
    }

    pub fn checkpoint_log_start_offsets(&self) {
        self.each().for_each(|dir| dir.checkpoint_log_start_offsets());
    }

    pub fn checkpoint_high_watermarks(&self) {
        self.each().for_each(|dir| dir.checkpoint_high_watermarks());
    }

    /// How far compaction has come in the logs of this log's directory.
    pub(crate) fn checkpoint_cleaned(&self, log: &Log) -> Result<(), LogError> {
        let dir = self.dir_of(log);
        dir.shared.observe(self.write_checkpoint(dir, &CLEANED))
    }

    pub(super) fn checkpoint_dir(&self, dir: &Dir) -> Result<(), LogError> {
        let all = [&RECOVERY_POINTS, &LOG_STARTS, &HIGH_WATERMARKS, &CLEANED];
        dir.shared.observe(all.into_iter().try_for_each(|checkpoint| self.write_checkpoint(dir, checkpoint)))
    }

    fn write_checkpoint(&self, dir: &Dir, checkpoint: &Checkpoint) -> Result<(), LogError> {
        let _one_at_a_time = dir.shared.checkpointing.lock().expect("nothing panics under this lock");
        // First: a log that is opened meanwhile is in both lists, and the later entry counts.
        let unloadable: Vec<LoadInput> =
            dir.unloadable.lock().expect("nothing panics under this lock").values().cloned().collect();
        // So is one that moves here meanwhile.
        let mut logs = self.future_logs();
        logs.retain(|log| log.is_in(&dir.shared));
        logs.extend(self.logs_of(&dir.shared));
        let kept = unloadable.iter().filter_map(|input| Some((&input.topic_partition, (checkpoint.kept)(input)?)));
        let current = logs.iter().filter_map(|log| Some((log.topic_partition(), (checkpoint.current)(log)?)));
        let offsets: HashMap<&TopicPartition, Offset> = kept.chain(current).collect();
        checkpoint::write_offsets(&dir.shared.path().join(checkpoint.name), offsets)
    }
}

impl OneDir<'_> {
    pub fn checkpoint_recovery_points(&self) {
        self.checkpoint(&RECOVERY_POINTS);
    }

    /// Only logs that start behind their first segment's base need an entry, or are empty.
    pub fn checkpoint_log_start_offsets(&self) {
        self.checkpoint(&LOG_STARTS);
    }

    pub fn checkpoint_high_watermarks(&self) {
        self.checkpoint(&HIGH_WATERMARKS);
    }

    fn checkpoint(&self, checkpoint: &Checkpoint) {
        if let Err(error) = self.try_checkpoint(checkpoint) {
            log::log!(error.level(), "{error}");
        }
    }

    /// As `checkpoint_recovery_points`, but for whoever wants to know whether the directory takes anything.
    pub(super) fn try_recovery_points(&self) -> Result<(), LogError> {
        self.try_checkpoint(&RECOVERY_POINTS)
    }

    fn try_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), LogError> {
        if !self.dir.is_loaded.load(Ordering::Acquire) {
            return Ok(());
        }
        self.dir.shared.observe(self.all.write_checkpoint(self.dir, checkpoint))
    }
}

/// A checkpoint file: what it says of a log, and of one that could not be opened.
struct Checkpoint {
    name: &'static str,
    current: fn(&Log) -> Option<Offset>,
    kept: fn(&LoadInput) -> Option<Offset>,
}

const RECOVERY_POINTS: Checkpoint = Checkpoint {
    name: file_names::RECOVERY_POINT_CHECKPOINT,
    current: |log| Some(log.recovery_point()),
    kept: |input| Some(input.recovery_point),
};
const LOG_STARTS: Checkpoint = Checkpoint {
    name: file_names::LOG_START_OFFSET_CHECKPOINT,
    current: checkpointed_log_start,
    kept: |input| Some(input.log_start_offset),
};
const HIGH_WATERMARKS: Checkpoint = Checkpoint {
    name: file_names::HIGH_WATERMARK_CHECKPOINT,
    current: |log| Some(log.high_watermark()),
    kept: |input| Some(input.high_watermark),
};
/// Only logs that were compacted have an entry. It must not lie above what a truncation cut: records that came since would
/// be taken for compacted ones, and a tombstone among them would go before what it deletes.
const CLEANED: Checkpoint = Checkpoint {
    name: file_names::CLEANER_OFFSET_CHECKPOINT,
    current: Log::cleaned_to,
    kept: |input| input.cleaned_to,
};

fn checkpointed_log_start(log: &Log) -> Option<Offset> {
    let state = log.locked();
    // A truncation has the segments while it is at them: then an entry that is not needed says nothing wrong.
    let first_base = state.segments.first().map(Segment::base_offset);
    // A full disk may have left an empty log without a file that tells where it begins.
    let is_empty = state.bytes() == 0 && state.log_start_offset > Offset(0);
    (is_empty || first_base.is_none_or(|base| state.log_start_offset > base)).then_some(state.log_start_offset)
}
