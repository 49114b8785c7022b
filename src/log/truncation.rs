//! Cutting a log at either end: truncation to what a new leader has, and the log start offset.
//! Source: kafka 3.9 core/.../log/{UnifiedLog,LocalLog}.scala.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{IoContext, LogError};
use super::log_dir::LogDir;
use super::pending::Due;
use super::producer_snapshot;
use super::producer_state::Producers;
use super::scan::{BatchScan, Found};
use super::segment::{Segment, find_position};
use super::snapshots::{self, Snapshots};
use super::{Log, State, append, file_names, files};
use crate::model::lock::{Guard, about_to_wait_for_disk};
use crate::model::{LeaderEpoch, Offset};

/// Descriptors that a truncation keeps for itself: it opens the directory, the files of the last segment, and snapshots.
const TRUNCATION_OPENS: usize = 8;

impl Log {
    /// Cuts off the batch that holds `offset` and everything behind it, as the leader of `leader_epoch` said; refused
    /// unless that epoch is in force. Returns false if the log ends before.
    pub fn truncate_to(&self, offset: Offset, leader_epoch: LeaderEpoch, now_ms: i64) -> Result<bool, LogError> {
        let renaming = self.begin_renaming();
        let state = self.serving()?;
        state.check_epoch(leader_epoch)?;
        state.check_new_end(offset)?;
        if offset < state.segments[0].base_offset() {
            drop(state);
            drop(renaming);
            return self.truncate_fully_and_start_at(offset, None, leader_epoch, now_ms).map(|()| true);
        }
        let (due, dir) = (state.due(now_ms), state.dir.clone());
        let opens = if offset < state.log_end_offset { TRUNCATION_OPENS } else { 0 };
        let (mut state, _spares) = self.with_spares(state, opens)?;
        let Some(removed) = state.begin_truncation(offset) else { return Ok(false) };
        drop(state);
        let renamed = removed.rename_for_good(&self.parent(), &dir, due);
        let result = renamed.and_then(|()| self.finish_truncation(offset, now_ms));
        let mut state = self.locked();
        // After a failure there may not even be a segment: whoever waits for the lock must not go on.
        state.is_truncating = result.is_err();
        drop(state);
        self.observe_change(result).map(|()| true)
    }

    /// What a truncation opens, before it changes anything.
    fn with_spares<'a>(
        &self,
        state: Guard<'a, State>,
        count: usize,
    ) -> Result<(Guard<'a, State>, files::Spares), LogError> {
        match files::spare_descriptors(&state.dir, count).doing("open", &state.dir) {
            Ok(spares) => Ok((state, spares)),
            Err(error) => {
                drop(state);
                self.observe(Err(error))
            }
        }
    }

    /// Cuts the last segment, and reads what it keeps. Who asks where the log ends is told meanwhile.
    fn finish_truncation(&self, offset: Offset, now_ms: i64) -> Result<(), LogError> {
        let mut cut = self.locked().cut();
        let finished = cut.finish(offset, self.parent().producer_id_expiration_ms(), now_ms);
        self.locked().put_back(cut);
        finished
    }

    /// Removes everything and continues at `offset`: the leader of `leader_epoch` no longer has what this log would need
    /// next. The log start offset may lie behind, where the leader's is. Refused unless that epoch is in force.
    pub fn truncate_fully_and_start_at(
        &self,
        offset: Offset,
        log_start_offset: Option<Offset>,
        leader_epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<(), LogError> {
        let _renaming = self.begin_renaming();
        let state = self.serving()?;
        state.check_epoch(leader_epoch)?;
        state.check_new_end(offset)?;
        let (due, dir) = (state.due(now_ms), state.dir.clone());
        let (mut state, _spares) = self.with_spares(state, TRUNCATION_OPENS)?;
        let removed = state.begin_full_truncation(offset, log_start_offset);
        drop(state);
        // A new segment may have the name of one that goes: that one makes way first.
        let renamed = removed.rename_for_good(&self.parent(), &dir, due);
        let mut state = self.locked();
        let result = renamed.and_then(|()| state.start_at(offset, now_ms));
        state.is_truncating = result.is_err();
        drop(state);
        self.observe_change(result)
    }

    /// DeleteRecords on the leader: moves the log start offset, -1 meaning the high watermark. Refused unless the leader's
    /// epoch is in force. Returns where it is now.
    pub fn delete_records(&self, before: Offset, leader_epoch: LeaderEpoch) -> Result<Offset, LogError> {
        let mut state = self.serving()?;
        state.check_epoch(leader_epoch)?;
        if !state.config.delete {
            return Err(LogError::DeletePolicyRequired);
        }
        let before = if before == Offset(-1) { state.high_watermark } else { before };
        state.increment_log_start_offset(before)?;
        Ok(state.log_start_offset)
    }

    /// Follows the log start offset of the leader of `leader_epoch`, which must be in force. Never moves backwards; true
    /// if it moved.
    pub fn increment_log_start_offset(&self, offset: Offset, leader_epoch: LeaderEpoch) -> Result<bool, LogError> {
        let mut state = self.serving()?;
        state.check_epoch(leader_epoch)?;
        state.increment_log_start_offset(offset)
    }
}

/// Files of segments that are no longer part of the log. They stay for readers until the delete delay is over, under
/// names by which the next start knows them.
#[must_use]
pub(super) struct Removed(pub(super) Vec<PathBuf>);

impl Removed {
    /// As `rename`, and no loss of power brings any of it back behind what is appended next.
    fn rename_for_good(self, parent: &LogDir, dir: &Path, due: Due) -> Result<(), LogError> {
        if self.0.is_empty() {
            return Ok(());
        }
        self.rename(parent, due)?;
        files::sync_path(dir).doing("fsync", dir)
    }

    pub fn rename(self, parent: &LogDir, due: Due) -> Result<(), LogError> {
        for path in self.0 {
            let deleted = file_names::with_suffix(&path, file_names::DELETED);
            match files::rename(&path, &deleted) {
                Ok(()) => parent.doom(due, [deleted]),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                renamed => renamed.doing("rename", &path)?,
            }
        }
        Ok(())
    }
}

/// What a truncation changes without the lock. The log has none of it meanwhile, but for its producers as they were.
struct Cut {
    dir: PathBuf,
    segments: Vec<Segment>,
    snapshots: Snapshots,
    producers: Producers,
    log_start_offset: Offset,
    log_end_offset: Offset,
}

impl Cut {
    fn finish(&mut self, offset: Offset, expiration_ms: i64, now_ms: i64) -> Result<(), LogError> {
        let last = self.segments.last_mut().expect("the first segment starts at or below the offset");
        last.truncate_to(&self.dir, offset, now_ms)?;
        // No loss of power brings back what was cut off, under the epochs of what was appended since.
        let path = last.log_path(&self.dir);
        files::sync(&*last.file(&self.dir)?).doing("fsync", &path)?;
        let Cut { dir, segments, snapshots, producers, log_start_offset, log_end_offset } = self;
        let (start, end) = (*log_start_offset, *log_end_offset);
        ProducersOf { dir, segments, snapshots, producers, start, end }.rebuild(expiration_ms, now_ms)
    }
}

/// The producer state of a log that starts and ends there.
struct ProducersOf<'a> {
    dir: &'a Path,
    segments: &'a mut [Segment],
    snapshots: &'a mut Snapshots,
    producers: &'a mut Producers,
    start: Offset,
    end: Offset,
}

impl State {
    fn cut(&mut self) -> Cut {
        Cut {
            dir: self.dir.clone(),
            segments: std::mem::take(&mut self.segments),
            snapshots: std::mem::take(&mut self.snapshots),
            producers: Producers::new(Arc::clone(&self.parent.producer_limits)),
            log_start_offset: self.log_start_offset,
            log_end_offset: self.log_end_offset,
        }
    }

    fn put_back(&mut self, cut: Cut) {
        let Cut { segments, snapshots, producers, .. } = cut;
        (self.segments, self.snapshots, self.producers) = (segments, snapshots, producers);
        self.producers.forget_completed_below(self.high_watermark);
        if self.is_closed {
            self.segments.iter_mut().for_each(Segment::close);
        }
    }

    /// When files that go now are removed.
    pub(super) fn due(&self, now_ms: i64) -> Due {
        Due::after(now_ms, self.config.file_delete_delay_ms)
    }

    /// A leader that says a negative one is broken: no log ends there. Source: UnifiedLog.scala (truncateTo).
    fn check_new_end(&self, offset: Offset) -> Result<(), LogError> {
        if offset.0 >= 0 {
            return Ok(());
        }
        let (log_start_offset, log_end_offset) = (self.log_start_offset, self.log_end_offset);
        Err(LogError::OffsetOutOfRange { offset, log_start_offset, log_end_offset })
    }

    /// Takes whole segments away and refuses everybody until the truncation is finished; `None` if the log ends before.
    fn begin_truncation(&mut self, offset: Offset) -> Option<Removed> {
        if offset >= self.log_end_offset {
            // The leader may still contradict an epoch that has no records yet.
            if self.epochs.truncate_from_end(offset) {
                self.note_epochs_changed();
            }
            return None;
        }
        let keep = self.segments.partition_point(|segment| segment.base_offset() <= offset);
        if self.epochs.truncate_from_end(offset) {
            self.note_epochs_changed();
        }
        let removed = self.begin_removal(keep, offset);
        self.log_start_offset = self.log_start_offset.min(offset);
        let high_watermark = self.high_watermark;
        self.set_high_watermark(high_watermark);
        Some(removed)
    }

    fn begin_full_truncation(&mut self, offset: Offset, log_start_offset: Option<Offset>) -> Removed {
        if self.epochs.clear() {
            self.note_epochs_changed();
        }
        let removed = self.begin_removal(0, offset);
        self.log_start_offset = log_start_offset.unwrap_or(offset).min(offset);
        self.set_high_watermark(offset);
        removed
    }

    /// All that another thread may see of the log is as it will be; what is in its files is not.
    fn begin_removal(&mut self, keep: usize, offset: Offset) -> Removed {
        self.is_truncating = true;
        self.truncations += 1;
        self.cut_at = Some(self.cut_at.map_or(offset, |before| before.min(offset)));
        self.parent.note_truncated();
        self.recovery_point = self.recovery_point.min(offset);
        self.synced.cut(offset);
        self.recent.clear();
        if keep < self.segments.len() {
            self.cuts += 1;
        }
        let active = keep.checked_sub(1).map_or(offset, |last| self.segments[last].base_offset());
        self.cleaned_to = self.cleaned_to.map(|cleaned_to| cleaned_to.min(active));
        let mut removed = self.drop_segments(keep..self.segments.len());
        // The newest first: a crash in between leaves none behind a gap, whose records were of the old history.
        removed.0.reverse();
        self.kept_bytes = self.bytes();
        self.log_end_offset = offset;
        removed
    }

    fn start_at(&mut self, offset: Offset, now_ms: i64) -> Result<(), LogError> {
        // The old ones have made way, and nothing is lost that the leader has.
        let segment = Segment::create_if_possible(&self.dir, offset, &self.config, now_ms)?;
        self.segments.push(segment);
        self.snapshots.retain(&self.dir, |_| false)?;
        self.snapshots.set_last(Offset(0));
        self.producers.restart_at(offset);
        Ok(())
    }

    /// Takes segments out of the log; the caller renames their files, without the lock.
    pub(super) fn drop_segments(&mut self, range: std::ops::Range<usize>) -> Removed {
        let mut files = Vec::new();
        for segment in self.segments.drain(range) {
            files.extend(segment.files(&self.dir));
            files.extend(self.snapshots.forget(&self.dir, segment.base_offset()));
        }
        Removed(files)
    }

    pub(super) fn increment_log_start_offset(&mut self, offset: Offset) -> Result<bool, LogError> {
        if offset > self.high_watermark || offset.0 < 0 {
            return Err(LogError::OffsetOutOfRange {
                offset,
                log_start_offset: self.log_start_offset,
                log_end_offset: self.high_watermark,
            });
        }
        if offset <= self.log_start_offset {
            return Ok(false);
        }
        self.log_start_offset = offset;
        if self.epochs.truncate_from_start(offset) {
            self.note_epochs_changed();
        }
        self.producers.forget_completed_below(offset);
        Ok(true)
    }

    /// Brings the producer state to the log end.
    pub(super) fn rebuild_producers(&mut self, expiration_ms: i64, now_ms: i64) -> Result<(), LogError> {
        let (start, end) = (self.log_start_offset, self.log_end_offset);
        let State { dir, segments, snapshots, producers, .. } = self;
        ProducersOf { dir, segments, snapshots, producers, start, end }.rebuild(expiration_ms, now_ms)
    }
}

impl ProducersOf<'_> {
    /// From the newest usable snapshot, then from the batches behind it.
    fn rebuild(&mut self, expiration_ms: i64, now_ms: i64) -> Result<(), LogError> {
        about_to_wait_for_disk();
        let (start, end) = (self.start, self.end);
        self.snapshots.retain(self.dir, |offset| offset <= end && offset > start)?;
        if self.producers.end_offset() != end {
            self.producers.restart_at(start);
            self.snapshots.set_last(start);
            while let Some(offset) = self.snapshots.latest() {
                match producer_snapshot::read(&snapshots::path(self.dir, offset)) {
                    Ok(producers) => {
                        for (producer_id, producer) in producers {
                            self.producers.insert(producer_id, producer);
                        }
                        self.producers.remove_expired(now_ms, expiration_ms);
                        self.producers.set_end_offset(offset);
                        self.snapshots.set_last(offset);
                        break;
                    }
                    Err(LogError::Corrupt { context }) => {
                        log::warn!("{context}; trying an older one");
                        self.snapshots.remove(self.dir, offset)?;
                    }
                    Err(error) => return Err(error),
                }
            }
            self.replay()?;
        }
        self.producers.set_end_offset(end);
        self.snapshots.take_if_possible(self.dir, self.producers)
    }

    fn replay(&mut self) -> Result<(), LogError> {
        let from = self.producers.end_offset();
        let first = self.segments.partition_point(|segment| segment.base_offset() <= from).saturating_sub(1);
        let first_with_snapshot = self.segments.len().saturating_sub(2);
        for (at, segment) in self.segments.iter_mut().enumerate().skip(first) {
            let base_offset = segment.base_offset();
            if base_offset >= self.end {
                break;
            }
            if base_offset > from {
                self.producers.set_end_offset(base_offset);
                // So that the next truncation or crash replays little.
                if at >= first_with_snapshot {
                    self.snapshots.take_if_possible(self.dir, self.producers)?;
                }
            }
            let file = segment.file(self.dir)?;
            let path = segment.log_path(self.dir);
            let start = segment.lookup(self.dir, from)?.position().doing("search the index of", &path)?;
            let start = find_position(&file, start, segment.size(), from).doing("read", &path)?;
            let mut scan = BatchScan::new(&file, start, segment.size());
            while let Found::Batch((_, batch)) = scan.next().doing("read", &path)? {
                if batch.header.base_offset < from.0 {
                    continue;
                }
                if let Some(of_producer) = append::producer_batch_of(&batch) {
                    // The transaction index has these already.
                    let _ = self.producers.apply(&of_producer);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::{OneLog, append, batch, small_segments};

    #[test]
    fn a_log_that_is_being_truncated_has_the_size_of_what_it_keeps() {
        let one = OneLog::new(small_segments());
        let log = one.open_clean();
        let sizes: Vec<u64> = (0..30)
            .map(|_| {
                append(&log, batch(&[1], 100)).expect("appended");
                log.size()
            })
            .collect();
        assert!(log.segment_count() > 3);
        let removed = log.locked().begin_truncation(Offset(15)).expect("there is something to cut");
        let cut = log.locked().cut();
        let segment_bytes = u64::from(one.config.segment_bytes);
        assert!((sizes[14]..sizes[14] + segment_bytes).contains(&log.size()), "{} of {sizes:?}", log.size());
        log.locked().put_back(cut);
        removed.rename(&one.parent, Due::at_once(0)).expect("renamed");
        log.finish_truncation(Offset(15), 0).expect("cut");
        log.locked().is_truncating = false;
        assert_eq!(log.size(), sizes[14]);
    }
}
