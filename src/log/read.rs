//! Reads: where in which file the wanted batches lie. The lock is held only to look up what memory knows; index files
//! and batch headers are read without it.
//! Source: kafka 3.9 core/.../log/{UnifiedLog,LocalLog}.scala (read), storage/.../log/LogSegment.java (read).

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::{IoContext, LogError};
use super::file_names::{self, offset_file};
use super::files::File;
use super::offset_index::Lookup;
use super::segment::{AbortedTxns, IndexEntries, IsActive, Segment, find_batch, find_position};
use super::transaction_index::{self, AbortedTxn};
use super::{FetchedBatches, FirstBatch, Log, ReadUntil, State};
use crate::codec::writer::FileRegion;
use crate::model::Offset;

/// A truncation may cut the file while its headers are being read: then the read starts again.
pub(super) const ATTEMPTS_MAX: usize = 4;

impl Log {
    /// Finds batches from `from` on, at most `max_bytes` of them; `first_batch` says what becomes of a larger first one.
    pub fn read(
        &self,
        from: Offset,
        max_bytes: u32,
        until: ReadUntil,
        first_batch: FirstBatch,
    ) -> Result<FetchedBatches, LogError> {
        let mut attempt = 1;
        let mut not_before = Offset(i64::MIN);
        loop {
            let replacements = self.replacements();
            let planned = self.serving()?.plan_read(from, until, not_before);
            let plan = match self.observe(planned)? {
                Planned::Empty => return Ok(nothing()),
                Planned::Read(plan) => plan,
            };
            let (segment, next_segment) = (plan.segment, plan.next_segment);
            let resolved = plan.resolve(self, from, max_bytes, until, first_batch, replacements);
            // The indexes may be those of a segment that has taken the place of the one whose file was read; or the log has
            // moved, and what was read was read in the directory that it has left.
            if self.replacements() != replacements {
                continue;
            }
            match resolved {
                Ok(Some(fetched)) => return Ok(fetched),
                // Compaction or a truncation left nothing behind `from` in this segment.
                Ok(None) => match next_segment {
                    Some(base_offset) => not_before = base_offset,
                    None => return Ok(nothing()),
                },
                Err(LogError::Io { source, .. })
                    if source.kind() == io::ErrorKind::UnexpectedEof && attempt < ATTEMPTS_MAX =>
                {
                    attempt += 1;
                }
                Err(LogError::Io { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => {
                    let path = self.segment_path(segment);
                    let context = format!("{} is shorter than what was appended to it", path.display());
                    return self.observe(Err(LogError::Corrupt { context }));
                }
                Err(error) => return self.observe(Err(error)),
            }
        }
    }
}

impl Log {
    /// Reads the segment's headers and puts what follows from them in the place of its indexes.
    pub(crate) fn rebuild_indexes(&self, base_offset: Offset) -> Result<(), LogError> {
        let replacements = self.replacements();
        let (file, path, size, truncations, mut entries) = {
            let mut state = self.serving()?;
            let State { segments, dir, config, truncations, .. } = &mut *state;
            let Ok(at) = segments.binary_search_by_key(&base_offset, Segment::base_offset) else { return Ok(()) };
            let segment = &mut segments[at];
            if segment.is_taking_place() {
                return Ok(());
            }
            let entries = IndexEntries::new(base_offset, config);
            (self.observe(segment.file(dir))?, segment.log_path(dir), segment.size(), *truncations, entries)
        };
        // The long part, without the lock.
        self.observe(entries.scan(&file, size).doing("read", &path))?;
        let mut state = self.serving()?;
        let is_active = if state.active().base_offset() == base_offset { IsActive::Yes } else { IsActive::No };
        let State { segments, dir, truncations: now, .. } = &mut *state;
        match segments.binary_search_by_key(&base_offset, Segment::base_offset) {
            Ok(at) if *now == truncations && self.replacements() == replacements => {
                self.observe(segments[at].replace_indexes(dir, entries, is_active))
            }
            // Whoever is led astray again says so again.
            _ => Ok(()),
        }
    }

    /// For messages about a segment's file.
    fn segment_path(&self, base_offset: Offset) -> PathBuf {
        offset_file(&self.locked().dir, base_offset, file_names::LOG)
    }
}

fn nothing() -> FetchedBatches {
    FetchedBatches {
        region: None,
        reached_limit: true,
        visible_bytes: 0,
        goes_on: false,
        aborted_transactions: Vec::new(),
    }
}

enum Planned {
    Empty,
    Read(ReadPlan),
}

/// A batch that memory knew, or one still to be found in the file.
enum Position {
    Known { start: u32, end: u32 },
    Search(Lookup, Offset),
}

impl Position {
    /// The end of what is in the segment, where no batch is.
    fn end_of(size: u32) -> Position {
        Position::Known { start: size, end: size }
    }
}

struct ReadPlan {
    file: Arc<File>,
    segment_size: u32,
    /// The first batch to read.
    first: Position,
    /// The first batch that may not be read.
    end: Position,
    /// What the reader may see ends in this segment.
    limit_is_here: bool,
    segment: Offset,
    next_segment: Option<Offset>,
}

impl State {
    /// Checks the offset, and collects what memory knows of the way to it.
    fn plan_read(&mut self, from: Offset, until: ReadUntil, not_before: Offset) -> Result<Planned, LogError> {
        let bounds = self.bounds();
        if from < bounds.log_start_offset || from > bounds.log_end_offset {
            return Err(LogError::OffsetOutOfRange {
                offset: from,
                log_start_offset: bounds.log_start_offset,
                log_end_offset: bounds.log_end_offset,
            });
        }
        let limit = match until {
            ReadUntil::HighWatermark => bounds.high_watermark,
            ReadUntil::LastStableOffset => bounds.last_stable_offset,
            ReadUntil::LogEnd => bounds.log_end_offset,
        };
        if from >= limit {
            return Ok(Planned::Empty);
        }
        let at = self.segment_of(from.max(not_before));
        let next_segment = self.segments.get(at + 1).map(Segment::base_offset);
        let limit_is_here = next_segment.is_none_or(|next| limit <= next);
        if self.segments[at].base_offset() >= limit {
            return Ok(Planned::Empty);
        }
        let size = self.segments[at].size();
        let first = self.position_of(at, from)?;
        let whole = next_segment.map_or(limit >= bounds.log_end_offset, |next| limit >= next);
        let end = if whole { Position::end_of(size) } else { self.position_of(at, limit)? };
        let State { segments, dir, .. } = self;
        let segment = &mut segments[at];
        Ok(Planned::Read(ReadPlan {
            file: segment.file(dir)?,
            segment_size: size,
            first,
            end,
            limit_is_here,
            segment: segment.base_offset(),
            next_segment,
        }))
    }

    /// The index of the segment in which `offset` would be.
    pub(super) fn segment_of(&self, offset: Offset) -> usize {
        self.segments.partition_point(|segment| segment.base_offset() <= offset).saturating_sub(1)
    }

    /// Where the first batch at or above `target` lies.
    fn position_of(&mut self, at: usize, target: Offset) -> Result<Position, LogError> {
        let is_active = at + 1 == self.segments.len();
        if is_active && let Some((start, end)) = self.recent.find(target, self.segments[at].size()) {
            return Ok(Position::Known { start, end });
        }
        let State { segments, dir, .. } = self;
        Ok(Position::Search(segments[at].lookup(dir, target)?, target))
    }

    /// The transaction indexes of this segment and later ones.
    fn txn_indexes_from(&self, segment: Offset) -> Vec<AbortedTxns> {
        let from = self.segments.partition_point(|s| s.base_offset() < segment);
        self.segments[from..].iter().filter_map(|segment| segment.aborted_txns(&self.dir)).collect()
    }

    /// An offset that no batch before `position` in that segment goes beyond.
    fn upper_bound(&mut self, segment: Offset, position: u32) -> Result<Offset, LogError> {
        let at = self.segment_of(segment);
        let State { segments, dir, log_end_offset, .. } = self;
        if let Some(offset) = segments[at].offset_behind(dir, position)? {
            return Ok(offset);
        }
        Ok(segments.get(at + 1).map_or(*log_end_offset, Segment::base_offset))
    }
}

impl ReadPlan {
    /// `None` when the segment holds nothing at or above `from`.
    fn resolve(
        self,
        log: &Log,
        from: Offset,
        max_bytes: u32,
        until: ReadUntil,
        first_batch: FirstBatch,
        replacements: u64,
    ) -> Result<Option<FetchedBatches>, LogError> {
        let path = || log.segment_path(self.segment);
        let (start, first_end) = match self.first {
            Position::Known { start, end } => (start, end),
            Position::Search(lookup, target) => {
                let index = lookup.position().doing_at("search the index of", path)?;
                let located = find_batch(&self.file, index, self.segment_size, target).doing_at("read", path)?;
                if located.index_is_wrong && log.replacements() == replacements {
                    log.parent().note_wrong_index(&log.topic_partition, self.segment);
                }
                match located.batch {
                    Some((position, header)) => (position, position + header.size_in_bytes as u32),
                    None => return Ok(None),
                }
            }
        };
        if start >= self.segment_size {
            return Ok(None);
        }
        let end = match self.end {
            Position::Known { start, .. } => start,
            Position::Search(lookup, target) => {
                let index = lookup.position().doing_at("search the index of", path)?;
                find_position(&self.file, index, self.segment_size, target).doing_at("read", path)?
            }
        };
        if end <= start {
            // The limit lies within the batch that holds `from`, or before it.
            return Ok(Some(nothing()));
        }
        let visible_bytes = end - start;
        let first_len = first_end - start;
        let len = match first_batch {
            FirstBatch::Whole => max_bytes.max(first_len),
            FirstBatch::IfItFits if max_bytes < first_len => 0,
            FirstBatch::IfItFits | FirstBatch::Cut => max_bytes,
        };
        let len = len.min(visible_bytes);
        let aborted_transactions = if until == ReadUntil::LastStableOffset {
            aborted_transactions(log, self.segment, from, start + len)?
        } else {
            Vec::new()
        };
        let region = (len > 0).then(|| FileRegion { file: self.file.clone(), position: u64::from(start), len });
        let reached_limit = self.limit_is_here && start + len == end;
        let goes_on = !self.limit_is_here;
        Ok(Some(FetchedBatches { region, reached_limit, visible_bytes, goes_on, aborted_transactions }))
    }
}

fn aborted_transactions(log: &Log, segment: Offset, from: Offset, end: u32) -> Result<Vec<AbortedTxn>, LogError> {
    let mut state = log.serving()?;
    let indexes = state.txn_indexes_from(segment);
    if indexes.is_empty() {
        return Ok(Vec::new());
    }
    let upper_bound = state.upper_bound(segment, end)?;
    drop(state);
    collect_aborted(indexes, from, upper_bound)
}

impl Log {
    /// The transactions that were aborted and have data in `[from, upper_bound)`, as the indexes of the segment at `segment`
    /// and of later ones say.
    pub(super) fn aborted_between(
        &self,
        segment: Offset,
        from: Offset,
        upper_bound: Offset,
    ) -> Result<Vec<AbortedTxn>, LogError> {
        let indexes = self.serving()?.txn_indexes_from(segment);
        collect_aborted(indexes, from, upper_bound)
    }
}

fn collect_aborted(indexes: Vec<AbortedTxns>, from: Offset, upper_bound: Offset) -> Result<Vec<AbortedTxn>, LogError> {
    let mut found = Vec::new();
    for index in indexes {
        let no_more = match index {
            AbortedTxns::Known(txns) => transaction_index::collect_from(&txns, from, upper_bound, &mut found),
            AbortedTxns::InFile(path, base_offset) => {
                transaction_index::collect(&path, base_offset, from, upper_bound, &mut found)?
            }
        };
        if no_more {
            break;
        }
    }
    Ok(found)
}
