//! What is on the disk before it is acknowledged, with `log.flush.before.acknowledgement`: the records alone, for recovery
//! finds in them all that other files say of what lies above the recovery point. One fsync serves all that were appended
//! before it began.

use super::counters::add;
use super::error::{IoContext, LogError};
use super::{Log, State, files};
use crate::model::Offset;

use std::sync::Arc;
use std::time::Instant;

/// How much of the records is on the disk, if that is more than the recovery point says.
#[derive(Debug, Default)]
pub(super) struct Synced {
    /// Exclusive.
    to: Offset,
    /// The newest segment whose name is there too, with that of the directory.
    segment: Option<Offset>,
}

impl Synced {
    /// What lies behind has been cut off. Segments that begin anew may have the names of old ones.
    pub fn cut(&mut self, offset: Offset) {
        *self = Synced { to: self.to.min(offset), segment: None };
    }
}

impl Log {
    /// Makes durable what an acknowledgement waits for: all that `flush.messages` asks for, or the records. Returns up to
    /// where, exclusive.
    pub fn flush_for_acknowledgement(&self, now_ms: i64) -> Result<Offset, LogError> {
        if self.serving()?.is_flush_due() {
            self.flush(now_ms)?;
        }
        // A truncation may have overtaken the flush; mostly there is nothing left to do.
        self.sync_records()
    }

    /// Up to where a follower may say that it has the records, exclusive: what is acknowledged is on the disk before, if the
    /// setting says so.
    pub fn acknowledgeable_end(&self) -> Offset {
        let state = self.locked();
        let end = state.log_end_offset;
        if !state.config.flush_before_acknowledgement {
            return end;
        }
        let start = state.segments.first().map_or(end, |segment| segment.base_offset());
        state.synced_to().max(start).min(end)
    }

    pub(crate) fn sync_records(&self) -> Result<Offset, LogError> {
        loop {
            let parent = self.parent();
            let state = self.serving()?;
            let until = state.log_end_offset;
            let lacks_names = state.config.flush_before_acknowledgement && state.synced.segment.is_none();
            if !state.has_unsynced() && !lacks_names {
                return Ok(until);
            }
            let (truncations, active) = (state.truncations, state.active().base_offset());
            let names_are_there = state.synced.segment == Some(active);
            let dir = state.dir.clone();
            let opened = state.unsynced_segments();
            let files = self.observe_in(&parent, opened)?;
            drop(state);

            let began = Instant::now();
            let synced = (|| {
                for (file, path) in &files {
                    // What a failed fsync did not write, the next one takes for written.
                    files::sync_data(file).doing("fsync", path).map_err(LogError::half_done)?;
                }
                if !names_are_there {
                    for dir in [dir.as_path(), parent.path()] {
                        files::sync_path(dir).doing("fsync", dir)?;
                    }
                }
                Ok(())
            })();
            if !self.is_in(&parent) {
                // It has moved meanwhile.
                continue;
            }
            self.observe_in(&parent, synced)?;
            add(&parent.counters.flushes, 1);
            add(&parent.counters.flush_us, u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
            let mut state = self.locked();
            if Arc::ptr_eq(&state.parent, &parent) && state.truncations == truncations {
                state.synced =
                    Synced { to: state.synced.to.max(until), segment: state.synced.segment.max(Some(active)) };
                return Ok(until);
            }
        }
    }
}

impl State {
    /// `flush.messages` are not on the disk.
    pub(super) fn is_flush_due(&self) -> bool {
        self.log_end_offset.0 - self.recovery_point.0 >= self.config.flush_messages
    }

    pub(super) fn has_unsynced(&self) -> bool {
        self.synced_to() < self.log_end_offset
    }

    fn synced_to(&self) -> Offset {
        self.synced.to.max(self.recovery_point)
    }

    /// The oldest first: none is on the disk without what comes before it.
    fn unsynced_segments(&self) -> Result<Vec<(Arc<files::File>, std::path::PathBuf)>, LogError> {
        let from = self.synced_to();
        let unsynced = (0..self.segments.len()).filter(|&at| self.end_of_segment(at) > from);
        let files = unsynced.map(|at| {
            let segment = &self.segments[at];
            Ok((segment.open_for_reading(&self.dir)?, segment.log_path(&self.dir)))
        });
        files.collect()
    }
}
