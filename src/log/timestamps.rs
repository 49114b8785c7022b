//! Finds offsets by time, for ListOffsets.
//! Source: kafka 3.9 core/.../log/UnifiedLog.scala (fetchOffsetByTimestamp), storage/.../log/LogSegment.java.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::error::{IoContext, LogError};
use super::files::{self, File};
use super::offset_index::Lookup;
use super::read::ATTEMPTS_MAX;
use super::scan::{Found, HeaderScan};
use super::segment::find_batch;
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
        match query {
            OffsetQuery::Earliest => Ok(Some(self.serving()?.earliest())),
            OffsetQuery::Latest => Ok(Some(self.serving()?.latest())),
            OffsetQuery::MaxTimestamp => {
                let Some((plan, timestamp_ms)) = self.plan(State::plan_max_timestamp)? else { return Ok(None) };
                plan.first_record(self, timestamp_ms, BatchMatch::Exactly, replacements)
            }
            OffsetQuery::AtOrAfter(timestamp_ms) => {
                let Some(plan) = self.plan(|state| state.plan_at_or_after(timestamp_ms))? else { return Ok(None) };
                plan.first_record(self, timestamp_ms, BatchMatch::AtOrAfter, replacements)
            }
        }
    }

    /// Asks again for each segment whose indexes have to be rebuilt first.
    fn plan<T>(
        &self,
        mut ask: impl FnMut(&mut State) -> Result<Result<Option<T>, WrongIndex>, LogError>,
    ) -> Result<Option<T>, LogError> {
        loop {
            let answer = ask(&mut *self.serving()?)?;
            match answer {
                Ok(planned) => return Ok(planned),
                Err(WrongIndex { segment }) => self.rebuild_indexes(segment)?,
            }
        }
    }
}

/// The time index of this segment does not say what its batches say.
#[derive(Clone, Copy, Debug)]
pub(super) struct WrongIndex {
    pub segment: Offset,
}

struct ScanPlan {
    file: Arc<File>,
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

    fn plan_max_timestamp(&mut self) -> Result<Result<Option<(ScanPlan, i64)>, WrongIndex>, LogError> {
        let State { segments, dir, .. } = self;
        let mut largest: Option<(usize, TimestampOffset)> = None;
        for (at, segment) in segments.iter_mut().enumerate() {
            let Some(so_far) = segment.verified_max_timestamp(dir)? else {
                return Ok(Err(WrongIndex { segment: segment.base_offset() }));
            };
            if largest.is_none_or(|(_, best)| so_far.timestamp_ms > best.timestamp_ms) {
                largest = Some((at, so_far));
            }
        }
        // Records may have no date at all: then the largest timestamp is -1, and the first record has it.
        let Some((at, best)) = largest else { return Ok(Ok(None)) };
        Ok(Ok(Some((self.plan_scan(at, best)?, best.timestamp_ms))))
    }

    fn plan_at_or_after(&mut self, timestamp_ms: i64) -> Result<Result<Option<ScanPlan>, WrongIndex>, LogError> {
        let State { segments, dir, .. } = self;
        for (at, segment) in segments.iter_mut().enumerate() {
            let Some(largest) = segment.largest_timestamp_ms(dir)? else {
                return Ok(Err(WrongIndex { segment: segment.base_offset() }));
            };
            if largest >= timestamp_ms {
                let entry = segment.time_lookup(dir, timestamp_ms)?;
                return self.plan_scan(at, entry).map(|plan| Ok(Some(plan)));
            }
        }
        Ok(Ok(None))
    }

    fn plan_scan(&mut self, at: usize, entry: TimestampOffset) -> Result<ScanPlan, LogError> {
        let State { segments, dir, log_start_offset, .. } = self;
        let segment = &mut segments[at];
        let from = entry.offset.max(*log_start_offset);
        Ok(ScanPlan {
            file: segment.file(dir)?,
            log_path: segment.log_path(dir),
            segment_size: segment.size(),
            lookup: segment.lookup(dir, from)?,
            from,
            entry,
            segment: segment.base_offset(),
            log_start_offset: *log_start_offset,
        })
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
        let path = &self.log_path;
        let indexed = self.lookup.position().doing("search the index of", path)?;
        let located = find_batch(&self.file, indexed, self.segment_size, self.from).doing("read", path)?;
        // That no batch before this one is as young is believed only if it has the timestamp that the entry says.
        let is_wrong = |header: &BatchHeader| header.max_timestamp != self.entry.timestamp_ms;
        let entry_is_wrong = self.entry.timestamp_ms >= 0
            && self.from == self.entry.offset
            && located.batch.as_ref().is_none_or(|(_, header)| is_wrong(header));
        if (located.index_is_wrong || entry_is_wrong) && log.replacements() == replacements {
            log.parent().note_wrong_index(&log.topic_partition, self.segment);
        }
        let from = if entry_is_wrong { 0 } else { located.position_or(self.segment_size) };
        let mut scan = HeaderScan::new(&self.file, from, self.segment_size);
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
            files::read_exact_at(&self.file, &mut bytes, u64::from(position)).doing("read", path)?;
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
