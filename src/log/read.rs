//! Reads: where in which file the wanted batches lie. The lock is held only to look up what memory knows; files are opened,
//! and index files and batch headers read, without it.
//! Source: kafka 3.9 core/.../log/{UnifiedLog,LocalLog}.scala (read), storage/.../log/LogSegment.java (read).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{IoContext, LogError};
use super::file_names::{self, offset_file};
use super::files::File;
use super::offset_index::Lookup;
use super::segment::{AbortedTxns, IndexEntries, IsActive, Segment, find_batch, find_position};
use super::transaction_index::{self, AbortedTxn};
use super::{FetchedBatches, FirstBatch, Log, ReadUntil, State};
use crate::codec::writer::{FileRegion, RegionSource};
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
            let looked = self.look(|state| state.find(from, until, not_before), Wanted::plan);
            let Some((wanted, plan)) = self.observe(looked)? else { return Ok(nothing()) };
            let (segment, next_segment) = (wanted.segment, wanted.next_segment);
            let resolved = plan.resolve(self, &wanted, max_bytes, first_batch, replacements);
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
        let choose = |state: &State| {
            let Ok(at) = state.segments.binary_search_by_key(&base_offset, Segment::base_offset) else {
                return Ok(None);
            };
            let segment = &state.segments[at];
            let entries = IndexEntries::new(base_offset, &state.config);
            let facts = (segment.log_path(&state.dir), segment.size(), state.truncations, entries);
            Ok((!segment.is_taking_place()).then_some((at, facts)))
        };
        let looked = self.look(choose, |_, segment, dir| segment.file_there(dir));
        let Some(((path, size, truncations, mut entries), file)) = self.observe(looked)? else { return Ok(()) };
        // The long part, without the lock.
        self.observe(entries.scan(&file, size).doing("read", &path))?;
        let mut state = self.serving()?;
        let is_active = if state.active().base_offset() == base_offset { IsActive::Yes } else { IsActive::No };
        let State { segments, dir, truncations: now, rebuilds, .. } = &mut *state;
        match segments.binary_search_by_key(&base_offset, Segment::base_offset) {
            Ok(at) if *now == truncations && self.replacements() == replacements => {
                *rebuilds += 1;
                self.observe(segments[at].replace_indexes(dir, entries, is_active))
            }
            // Whoever is led astray again says so again.
            _ => Ok(()),
        }
    }

    /// For messages about a segment's file.
    pub(super) fn segment_path(&self, base_offset: Offset) -> PathBuf {
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

/// A batch that memory knows, or the first one at or above an offset.
#[derive(Clone, Copy)]
enum Sought {
    Known { start: u32, end: u32 },
    AtOrAbove(Offset),
}

impl Sought {
    /// The end of what is in the segment, where no batch is.
    fn end_of(size: u32) -> Sought {
        Sought::Known { start: size, end: size }
    }
}

/// What is to be read of one segment.
struct Wanted {
    from: Offset,
    until: ReadUntil,
    segment: Offset,
    segment_size: u32,
    next_segment: Option<Offset>,
    /// The first batch to read.
    first: Sought,
    /// The first batch that may not be read.
    end: Sought,
    /// What the reader may see ends in this segment.
    limit_is_here: bool,
}

impl Wanted {
    fn plan(&self, segment: &mut Segment, dir: &Path) -> Result<ReadPlan, LogError> {
        let mut position = |sought| -> Result<Position, LogError> {
            Ok(match sought {
                Sought::Known { start, end } => Position::Known { start, end },
                Sought::AtOrAbove(target) => Position::Search(segment.lookup(dir, target)?, target),
            })
        };
        let (first, end) = (position(self.first)?, position(self.end)?);
        Ok(ReadPlan { file: segment.file_to_send(dir)?, first, end })
    }
}

/// A batch that memory knew, or one still to be found in the file.
enum Position {
    Known { start: u32, end: u32 },
    Search(Lookup, Offset),
}

struct ReadPlan {
    file: Arc<File>,
    first: Position,
    end: Position,
}

impl State {
    /// Checks the offset, and says which segment it leads to and what memory knows of the way there; `None` if there is
    /// nothing to read.
    fn find(&self, from: Offset, until: ReadUntil, not_before: Offset) -> Result<Option<(usize, Wanted)>, LogError> {
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
            return Ok(None);
        }
        let at = self.segment_of(from.max(not_before));
        let next_segment = self.segments.get(at + 1).map(Segment::base_offset);
        let limit_is_here = next_segment.is_none_or(|next| limit <= next);
        let segment = &self.segments[at];
        if segment.base_offset() >= limit {
            return Ok(None);
        }
        let segment_size = segment.size();
        let whole = next_segment.map_or(limit >= bounds.log_end_offset, |next| limit >= next);
        let wanted = Wanted {
            from,
            until,
            segment: segment.base_offset(),
            segment_size,
            next_segment,
            first: self.sought(at, from),
            end: if whole { Sought::end_of(segment_size) } else { self.sought(at, limit) },
            limit_is_here,
        };
        Ok(Some((at, wanted)))
    }

    /// The index of the segment in which `offset` would be.
    pub(super) fn segment_of(&self, offset: Offset) -> usize {
        self.segments.partition_point(|segment| segment.base_offset() <= offset).saturating_sub(1)
    }

    /// The first batch at or above `target`.
    fn sought(&self, at: usize, target: Offset) -> Sought {
        let is_active = at + 1 == self.segments.len();
        match self.recent.find(target, self.segments[at].size()).filter(|_| is_active) {
            Some((start, end)) => Sought::Known { start, end },
            None => Sought::AtOrAbove(target),
        }
    }

    /// The transaction indexes of this segment and later ones.
    fn txn_indexes_from(&self, segment: Offset) -> Vec<AbortedTxns> {
        let from = self.segments.partition_point(|s| s.base_offset() < segment);
        self.segments[from..].iter().filter_map(|segment| segment.aborted_txns(&self.dir)).collect()
    }
}

impl ReadPlan {
    /// `None` when the segment holds nothing at or above `from`.
    fn resolve(
        self,
        log: &Log,
        wanted: &Wanted,
        max_bytes: u32,
        first_batch: FirstBatch,
        replacements: u64,
    ) -> Result<Option<FetchedBatches>, LogError> {
        let Wanted { from, until, segment, segment_size, .. } = *wanted;
        let path = || log.segment_path(segment);
        let (start, first_end) = match self.first {
            Position::Known { start, end } => (start, end),
            Position::Search(lookup, target) => {
                let index = lookup.position().doing_at("search the index of", path)?;
                let located = find_batch(&self.file, index, segment_size, target).doing_at("read", path)?;
                if located.index_is_wrong && log.replacements() == replacements {
                    log.parent().note_wrong_index(&log.topic_partition, segment);
                }
                match located.batch {
                    Some((position, header)) => (position, position + header.size_in_bytes as u32),
                    None => return Ok(None),
                }
            }
        };
        if start >= segment_size {
            return Ok(None);
        }
        let end = match self.end {
            Position::Known { start, .. } => start,
            Position::Search(lookup, target) => {
                let index = lookup.position().doing_at("search the index of", path)?;
                find_position(&self.file, index, segment_size, target).doing_at("read", path)?
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
            aborted_transactions(log, segment, from, start + len)?
        } else {
            Vec::new()
        };
        let region = (len > 0).then(|| {
            let source: Arc<dyn RegionSource> = log.parent();
            FileRegion { file: self.file.clone(), position: u64::from(start), len, source: Some(source) }
        });
        let reached_limit = wanted.limit_is_here && start + len == end;
        let goes_on = !wanted.limit_is_here;
        Ok(Some(FetchedBatches { region, reached_limit, visible_bytes, goes_on, aborted_transactions }))
    }
}

/// Of the transactions with data from `from` on to the position `end` in that segment, those that were aborted.
fn aborted_transactions(log: &Log, segment: Offset, from: Offset, end: u32) -> Result<Vec<AbortedTxn>, LogError> {
    let choose = |state: &State| {
        let (at, indexes) = (state.segment_of(segment), state.txn_indexes_from(segment));
        Ok((!indexes.is_empty()).then(|| (at, (indexes, state.end_of_segment(at)))))
    };
    let looked = log.look(choose, |_, segment, dir| segment.offset_behind(dir, end))?;
    let Some(((indexes, end_of_segment), behind)) = looked else { return Ok(Vec::new()) };
    // No batch before the position goes beyond it.
    let behind = behind.offset().doing_at("search the index of", || log.segment_path(segment))?;
    collect_aborted(indexes, from, behind.unwrap_or(end_of_segment))
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
