//! Finds offsets by time, for ListOffsets.
//! Source: kafka 3.9 core/.../log/UnifiedLog.scala (fetchOffsetByTimestamp), storage/.../log/LogSegment.java.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::error::{IoContext, LogError};
use super::files::{self, File};
use super::offset_index::Lookup;
use super::read::ATTEMPTS_MAX;
use super::scan::{Found, HeaderScan};
use super::segment::{Segment, find_batch};
use super::time_index::TimestampOffset;
use super::{Log, OffsetQuery, State, TimestampedOffset};
use crate::model::{LeaderEpoch, Offset};
use crate::record::batch::BatchHeader;
use crate::record::read::{self, ReadError};

impl Log {
    /// The offset that ListOffsets asks for; `None` when no record is as young as the time asked for.
    pub fn offset_for_timestamp(&self, query: OffsetQuery) -> Result<Option<TimestampedOffset>, LogError> {
        let mut attempt = 1;
        loop {
            let replacements = self.replacements();
            let found = self.find_offset(query, replacements);
            // See `read`: file and indexes may be those of two segments.
            if self.replacements() != replacements {
                continue;
            }
            match found {
                // The file is searched without the lock: a truncation may have cut it meanwhile.
                Err(LogError::Io { source, .. })
                    if source.kind() == io::ErrorKind::UnexpectedEof && attempt < ATTEMPTS_MAX =>
                {
                    attempt += 1;
                }
                found => return self.observe(found),
            }
        }
    }

    fn find_offset(&self, query: OffsetQuery, replacements: u64) -> Result<Option<TimestampedOffset>, LogError> {
        let wanted = match query {
            OffsetQuery::Earliest => return Ok(Some(self.serving()?.earliest())),
            OffsetQuery::Latest => return Ok(Some(self.serving()?.latest())),
            OffsetQuery::MaxTimestamp => BatchMatch::Exactly,
            OffsetQuery::AtOrAfter(_) => BatchMatch::AtOrAfter,
        };
        loop {
            let found = match query {
                OffsetQuery::AtOrAfter(timestamp_ms) => self.reaching(timestamp_ms)?.map(|found| (found, timestamp_ms)),
                _ => self.largest_timestamp()?.map(|found| (found, found.1.timestamp_ms)),
            };
            let Some(((segment, entry), timestamp_ms)) = found else { return Ok(None) };
            // Retention may have taken it meanwhile.
            if let Some(plan) = self.plan_scan(segment, entry)? {
                return plan.first_record(self, timestamp_ms, wanted, replacements);
            }
        }
    }

    /// The segment with the largest timestamp, and that; records may have no date at all: then it is -1, and the first
    /// record has it.
    fn largest_timestamp(&self) -> Result<Option<(Offset, TimestampOffset)>, LogError> {
        let mut largest: Option<(Offset, TimestampOffset)> = None;
        self.look_at_each(Segment::verified_max_timestamp, |segment, so_far| {
            if largest.is_none_or(|(_, best)| so_far.timestamp_ms > best.timestamp_ms) {
                largest = Some((segment, so_far));
            }
            false
        })?;
        Ok(largest)
    }

    /// The first segment with a timestamp that is as large, and where its time index leads.
    fn reaching(&self, timestamp_ms: i64) -> Result<Option<(Offset, TimestampOffset)>, LogError> {
        let mut reaching = None;
        let look = |segment: &mut Segment, dir: &Path| {
            let Some(largest_ms) = segment.largest_timestamp_ms(dir)? else { return Ok(None) };
            // What has no file yet has no records.
            let reaches = largest_ms >= timestamp_ms && segment.size() > 0;
            Ok(Some(if reaches { Some(segment.time_lookup(dir, timestamp_ms)?) } else { None }))
        };
        self.look_at_each(look, |segment, lookup| {
            reaching = lookup.map(|lookup| (segment, lookup));
            reaching.is_some()
        })?;
        let Some((segment, lookup)) = reaching else { return Ok(None) };
        let entry = lookup.entry().doing_at("search the time index of", || self.segment_path(segment))?;
        Ok(Some((segment, entry)))
    }

    /// `None` if the segment is not there any more.
    fn plan_scan(&self, segment: Offset, entry: TimestampOffset) -> Result<Option<ScanPlan>, LogError> {
        let choose = |state: &State| {
            let at = state.segments.binary_search_by_key(&segment, Segment::base_offset).ok();
            Ok(at.map(|at| (at, state.log_start_offset)))
        };
        let looked = self.look(choose, |&log_start_offset, segment, dir| {
            let from = entry.offset.max(log_start_offset);
            Ok(ScanPlan {
                file: if segment.size() > 0 { Some(segment.file_there(dir)?) } else { None },
                log_path: segment.log_path(dir),
                segment_size: segment.size(),
                lookup: segment.lookup(dir, from)?,
                from,
                entry,
                segment: segment.base_offset(),
                log_start_offset,
            })
        })?;
        Ok(looked.map(|(_, plan)| plan))
    }
}

struct ScanPlan {
    /// `None` if the segment is empty.
    file: Option<Arc<File>>,
    log_path: PathBuf,
    segment_size: u32,
    lookup: Lookup,
    /// The first batch to look at is the one that holds this offset.
    from: Offset,
    /// What the time index says of that batch; its timestamp is -1 if it says nothing.
    entry: TimestampOffset,
    segment: Offset,
    log_start_offset: Offset,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum BatchMatch {
    AtOrAfter,
    Exactly,
}

impl State {
    fn earliest(&self) -> TimestampedOffset {
        // An epoch that starts later cannot have written the first record: older formats carry none.
        let leader_epoch = self.epochs.earliest().filter(|e| e.start_offset <= self.log_start_offset).map(|e| e.epoch);
        TimestampedOffset { timestamp_ms: -1, offset: self.log_start_offset, leader_epoch }
    }

    fn latest(&self) -> TimestampedOffset {
        let leader_epoch = self.epochs.latest().map(|latest| latest.epoch);
        TimestampedOffset { timestamp_ms: -1, offset: self.log_end_offset, leader_epoch }
    }
}

impl ScanPlan {
    /// Walks batches from the looked-up position to the first that qualifies, and its records to the exact one.
    fn first_record(
        self,
        log: &Log,
        timestamp_ms: i64,
        wanted: BatchMatch,
        replacements: u64,
    ) -> Result<Option<TimestampedOffset>, LogError> {
        let Some(file) = &self.file else { return Ok(None) };
        let path = &self.log_path;
        let indexed = self.lookup.position().doing("search the index of", path)?;
        let located = find_batch(file, indexed, self.segment_size, self.from).doing("read", path)?;
        // That no batch before this one is as young is believed only if it has the timestamp that the entry says.
        let is_wrong = |header: &BatchHeader| header.max_timestamp != self.entry.timestamp_ms;
        let entry_is_wrong = self.entry.timestamp_ms >= 0
            && self.from == self.entry.offset
            && located.batch.as_ref().is_none_or(|(_, header)| is_wrong(header));
        if (located.index_is_wrong || entry_is_wrong) && log.replacements() == replacements {
            log.parent().note_wrong_index(&log.topic_partition, self.segment);
        }
        let from = if entry_is_wrong { 0 } else { located.position_or(self.segment_size) };
        let mut scan = HeaderScan::new(file, from, self.segment_size);
        while let Found::Batch((position, header)) = scan.next().doing("read", path)? {
            let qualifies = match wanted {
                BatchMatch::AtOrAfter => header.max_timestamp >= timestamp_ms,
                BatchMatch::Exactly => header.max_timestamp == timestamp_ms,
            };
            if !qualifies || header.last_offset < self.log_start_offset.0 {
                continue;
            }
            // The oldest format knows no dates, so none is the largest.
            if header.magic == 0 && wanted == BatchMatch::Exactly {
                return Ok(None);
            }
            let mut bytes = vec![0; header.size_in_bytes];
            files::read_exact_at(file, &mut bytes, u64::from(position)).doing("read", path)?;
            let found = find_record(&Bytes::from(bytes), &header, timestamp_ms, self.log_start_offset)
                .map_err(|why| LogError::InvalidBatch { reason: format!("{}: {why}", path.display()) })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

/// The first record of the batch at or after the time and the offset.
fn find_record(
    batch: &Bytes,
    header: &BatchHeader,
    timestamp_ms: i64,
    from: Offset,
) -> Result<Option<TimestampedOffset>, ReadError> {
    for record in read::records(batch) {
        let record = record?;
        if record.timestamp >= timestamp_ms && record.offset >= from.0 {
            return Ok(Some(TimestampedOffset {
                timestamp_ms: record.timestamp,
                offset: Offset(record.offset),
                leader_epoch: (header.partition_leader_epoch >= 0)
                    .then_some(LeaderEpoch(header.partition_leader_epoch)),
            }));
        }
    }
    Ok(None)
}
