//! Deletion of old segments, by log start offset, size and age, in that order.
//! Source: kafka 3.9 core/.../log/{UnifiedLog,LocalLog}.scala (deleteOldSegments, deletableSegments).

use super::counters::add;
use super::error::{IoContext, LogError};
use super::files;
use super::segment::Segment;
use super::timestamps::WrongIndex;
use super::truncation::Removed;
use super::{Log, State};
use crate::model::Offset;
use crate::model::clock::ms_since_1970;

impl Log {
    /// Deletes what the topic's settings no longer keep. Returns how many segments went.
    pub fn delete_old_segments(&self, now_ms: i64) -> Result<usize, LogError> {
        let mut deleted = self.delete_oldest(now_ms, Rule::LogStartOffset)?;
        let config = self.config();
        if config.delete {
            if let Some(retention_bytes) = config.retention_bytes {
                deleted += self.delete_oldest(now_ms, Rule::Size { retention_bytes })?;
            }
            if let Some(retention_ms) = config.retention_ms {
                deleted += self.delete_oldest(now_ms, Rule::Age { retention_ms })?;
            }
        }
        Ok(deleted)
    }

    fn delete_oldest(&self, now_ms: i64, rule: Rule) -> Result<usize, LogError> {
        let _renaming = self.begin_renaming();
        let (mut state, count) = loop {
            let mut state = self.serving()?;
            match self.observe(state.deletable(rule, now_ms))? {
                Ok(count) => break (state, count),
                Err(WrongIndex { segment }) => {
                    drop(state);
                    self.rebuild_indexes(segment)?;
                }
            }
        };
        if count == 0 {
            return Ok(0);
        }
        let (from, tp) = (state.segments[0].base_offset(), &self.topic_partition);
        let deleted = (|| {
            // Something must stay to append to, also when everything has expired.
            if count == state.segments.len() {
                let base_offset = state.log_end_offset;
                state.roll(base_offset, now_ms)?;
            }
            let new_start = state.segments[count].base_offset();
            if new_start > state.log_start_offset {
                state.increment_log_start_offset(new_start)?;
            }
            Ok((new_start, state.drop_segments(0..count)))
        })();
        let due_ms = state.due_ms(now_ms);
        drop(state);
        let (new_start, removed): (Offset, Removed) = self.observe(deleted)?;
        // Nothing is appended below the log start offset again: no new segment can have one of these names.
        self.observe(removed.rename(&self.parent(), due_ms))?;
        add(&self.parent().counters.segments_deleted, count as u64);
        log::info!("[{tp}] Deleted {count} segments from offset {from} to {new_start} due to {}", rule.reason());
        Ok(count)
    }
}

#[derive(Clone, Copy, Debug)]
enum Rule {
    LogStartOffset,
    Size { retention_bytes: u64 },
    Age { retention_ms: i64 },
}

impl Rule {
    fn reason(self) -> String {
        match self {
            Rule::LogStartOffset => "log start offset breach".to_string(),
            Rule::Size { retention_bytes } => format!("retention size {retention_bytes} breach"),
            Rule::Age { retention_ms } => format!("retention time {retention_ms}ms breach"),
        }
    }
}

impl State {
    /// How many of the oldest segments the rule lets go. Nothing that consumers have not been allowed to see goes.
    fn deletable(&mut self, rule: Rule, now_ms: i64) -> Result<Result<usize, WrongIndex>, LogError> {
        let total: u64 = self.segments.iter().map(|segment| u64::from(segment.size())).sum();
        let mut surplus = match rule {
            Rule::Size { retention_bytes } => total.saturating_sub(retention_bytes),
            _ => 0,
        };
        let State { segments, dir, high_watermark, log_start_offset, log_end_offset, .. } = self;
        let mut count = 0;
        while count < segments.len() {
            let next_base = segments.get(count + 1).map(Segment::base_offset);
            let segment = &mut segments[count];
            if next_base.unwrap_or(*log_end_offset) > *high_watermark || (next_base.is_none() && segment.size() == 0) {
                break;
            }
            let goes = match rule {
                Rule::LogStartOffset => next_base.is_some_and(|next| next <= *log_start_offset),
                Rule::Size { .. } if surplus >= u64::from(segment.size()) && surplus > 0 => {
                    surplus -= u64::from(segment.size());
                    true
                }
                Rule::Size { .. } => false,
                Rule::Age { retention_ms } => match segment.largest_timestamp_ms(dir)? {
                    Some(largest) => now_ms.saturating_sub(largest) > retention_ms,
                    None => return Ok(Err(WrongIndex { segment: segment.base_offset() })),
                },
            };
            if !goes {
                break;
            }
            count += 1;
        }
        Ok(Ok(count))
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
