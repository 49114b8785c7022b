//! Deletion of old segments, by log start offset, size and age, in that order.
//! Source: kafka 3.9 core/.../log/{UnifiedLog,LocalLog}.scala (deleteOldSegments, deletableSegments).

use std::path::Path;

use super::counters::add;
use super::error::{Condemned, IoContext, LogError};
use super::files;
use super::segment::Segment;
use super::truncation::Removed;
use super::{Log, State};
use crate::model::Offset;
use crate::model::clock::ms_since_1970;

impl Log {
    /// Deletes what the topic's settings no longer keep. Returns how many segments went.
    pub fn delete_old_segments(&self, now_ms: i64) -> Result<usize, LogError> {
        let (mut deleted, mut spares) = self.delete_oldest(now_ms, Rule::LogStartOffset)?;
        let config = self.config();
        if let Some(retention_bytes) = config.retention_bytes.filter(|_| config.delete && !spares) {
            let (count, spared) = self.delete_oldest(now_ms, Rule::Size { retention_bytes })?;
            (deleted, spares) = (deleted + count, spared);
        }
        if let Some(retention_ms) = config.retention_ms.filter(|_| config.delete && !spares) {
            let expired = self.observe(self.expired(retention_ms, now_ms))?;
            if !expired.segments.is_empty() {
                deleted += self.delete_oldest(now_ms, Rule::Age { retention_ms, expired: &expired })?.0;
            }
        }
        Ok(deleted)
    }

    /// The oldest segments, up to the first that has a record or was written to within that time.
    fn expired(&self, retention_ms: i64, now_ms: i64) -> Result<Expired, LogError> {
        let (truncations, replacements) = (self.serving()?.truncations, self.replacements());
        let mut segments = Vec::new();
        let look = |segment: &mut Segment, dir: &Path| {
            Ok(segment.largest_timestamp_ms(dir)?.map(|largest_ms| (segment.size(), largest_ms)))
        };
        self.look_at_each(look, |base_offset, (size, largest_ms)| {
            let is_expired = now_ms.saturating_sub(largest_ms) > retention_ms;
            if is_expired {
                segments.push((base_offset, size));
            }
            !is_expired
        })?;
        Ok(Expired { segments, truncations, replacements })
    }

    /// How many have gone, and whether some stay until the next pass that would go by the rule.
    fn delete_oldest(&self, now_ms: i64, rule: Rule<'_>) -> Result<(usize, bool), LogError> {
        let renaming = self.begin_renaming();
        let mut state = self.serving()?;
        let count = match rule {
            // They are looked at again with the next pass.
            Rule::Age { expired, .. } if !expired.is_of(&state, self.replacements()) => 0,
            rule => state.deletable(rule),
        };
        if count == 0 {
            return Ok((0, false));
        }
        let (from, tp) = (state.segments[0].base_offset(), &self.topic_partition);
        let mut has_rolled = false;
        let deleted = (|| {
            let count = if count < state.segments.len() {
                let spared;
                (spared, has_rolled) = state.spare_newest_snapshot(count, now_ms)?;
                spared
            } else {
                // Something must stay to append to, also when everything has expired: its name alone says where the log ends.
                match state.roll_over_doomed(now_ms) {
                    Err(error) if error.condemns() == Condemned::Nothing => {
                        log::warn!("[{tp}] {error}; the last segment stays until there is room for another");
                        count - 1
                    }
                    rolled => rolled.map(|()| count)?,
                }
            };
            let new_start = state.segments[count].base_offset();
            if new_start > state.log_start_offset {
                state.increment_log_start_offset(new_start)?;
            }
            Ok((count, new_start, state.drop_segments(0..count)))
        })();
        let due = state.due(now_ms);
        drop(state);
        let (count, new_start, removed): (usize, Offset, Removed) = self.observe(deleted)?;
        // Nothing is appended below the log start offset again: no new segment can have one of these names.
        self.observe(removed.rename(&self.parent(), due))?;
        drop(renaming);
        if count > 0 {
            add(&self.parent().counters.segments_deleted, count as u64);
            log::info!("[{tp}] Deleted {count} segments from offset {from} to {new_start} due to {}", rule.reason());
        }
        if has_rolled {
            self.flush_old_segments(now_ms)?;
        }
        Ok((count, has_rolled))
    }
}

/// Segments that are too old, which begin there and had so many bytes.
struct Expired {
    segments: Vec<(Offset, u32)>,
    truncations: u64,
    replacements: u64,
}

impl Expired {
    /// Whether nothing has changed since but by appends.
    fn is_of(&self, state: &State, replacements: u64) -> bool {
        (self.truncations, self.replacements) == (state.truncations, replacements)
    }

    /// Whether the segment is one of them, and nothing was appended to it since.
    fn has(&self, segment: &Segment) -> bool {
        let at = self.segments.binary_search_by_key(&segment.base_offset(), |(base_offset, _)| *base_offset);
        at.is_ok_and(|at| self.segments[at].1 == segment.size())
    }
}

#[derive(Clone, Copy)]
enum Rule<'a> {
    LogStartOffset,
    Size { retention_bytes: u64 },
    Age { retention_ms: i64, expired: &'a Expired },
}

impl Rule<'_> {
    fn reason(self) -> String {
        match self {
            Rule::LogStartOffset => "log start offset breach".to_string(),
            Rule::Size { retention_bytes } => format!("retention size {retention_bytes} breach"),
            Rule::Age { retention_ms, .. } => format!("retention time {retention_ms}ms breach"),
        }
    }
}

impl State {
    /// Of so many segments how many go now, and whether another begins. Snapshots that were skipped at rolls may leave the
    /// newest one among them, without which a crash would forget all producers whose records have gone. It stays until the next
    /// pass, when a recovery finds another: that of the segment which begins here, since whole segments are replayed. Where
    /// there is no room for one all go at once.
    fn spare_newest_snapshot(&mut self, count: usize, now_ms: i64) -> Result<(usize, bool), LogError> {
        let first_kept = self.segments[count].base_offset();
        let Some(newest) = self.snapshots.latest().filter(|newest| *newest < first_kept) else {
            return Ok((count, false));
        };
        let end = self.log_end_offset;
        self.producers.set_end_offset(end);
        self.snapshots.take_if_possible(&self.dir, &self.producers)?;
        if self.snapshots.latest() == Some(newest) {
            return Ok((count, false));
        }
        match self.roll(end, now_ms) {
            Err(error) if error.condemns() == Condemned::Nothing => {
                log::warn!("[{}] {error}; a crash may forget producers", self.topic_partition);
                return Ok((count, false));
            }
            rolled => rolled?,
        };
        // One where the log begins or below is of no use to a start.
        let spared = self.segments.partition_point(|segment| segment.base_offset() < newest);
        let is_useful = newest > self.log_start_offset;
        Ok((if is_useful { count.min(spared.saturating_sub(1)) } else { count }, true))
    }

    /// How many of the oldest segments the rule lets go. Nothing that consumers have not been allowed to see goes.
    fn deletable(&self, rule: Rule<'_>) -> usize {
        let total: u64 = self.segments.iter().map(|segment| u64::from(segment.size())).sum();
        let mut surplus = match rule {
            Rule::Size { retention_bytes } => total.saturating_sub(retention_bytes),
            _ => 0,
        };
        let mut count = 0;
        while let Some(segment) = self.segments.get(count) {
            let next_base = self.segments.get(count + 1).map(Segment::base_offset);
            let end = self.end_of_segment(count);
            if end > self.high_watermark || (next_base.is_none() && segment.size() == 0) {
                break;
            }
            let goes = match rule {
                Rule::LogStartOffset => next_base.is_some_and(|next| next <= self.log_start_offset),
                Rule::Size { .. } if surplus >= u64::from(segment.size()) && surplus > 0 => {
                    surplus -= u64::from(segment.size());
                    true
                }
                Rule::Size { .. } => false,
                Rule::Age { expired, .. } => expired.has(segment),
            };
            if !goes {
                break;
            }
            count += 1;
        }
        count
    }
}

impl Log {
    /// Where each segment begins and when its file last changed, oldest first: what ListOffsets version 0 answers.
    pub fn segment_starts(&self) -> Result<Vec<(Offset, i64)>, LogError> {
        let paths: Vec<_> = {
            let state = self.serving()?;
            state.segments.iter().map(|s| (s.base_offset(), s.log_path(&state.dir))).collect()
        };
        let modified = |path: &std::path::Path| files::metadata(path)?.modified();
        let mut starts = Vec::with_capacity(paths.len());
        for (base_offset, path) in paths {
            let modified = match modified(&path) {
                // Retention or a deletion took it away meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                modified => self.observe(modified.doing("look at", &path))?,
            };
            starts.push((base_offset, ms_since_1970(modified)));
        }
        Ok(starts)
    }
}
