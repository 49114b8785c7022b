//! Finds offsets by time, for ListOffsets.
//! Source: kafka 3.9 core/.../log/UnifiedLog.scala (fetchOffsetByTimestamp), storage/.../log/LogSegment.java.

use std::cmp::Reverse;
use std::collections::BTreeMap;
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
use crate::record::read;

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
            OffsetQuery::MaxTimestamp => self.find_youngest(replacements),
            OffsetQuery::AtOrAfter(timestamp_ms) => self.find_reaching(timestamp_ms, replacements),
        }
    }

    /// Each segment has something to find, but one that has it below the log start, or that compaction has left no record of
    /// that time: then the ones behind are looked at.
    fn find_reaching(&self, timestamp_ms: i64, replacements: u64) -> Result<Option<TimestampedOffset>, LogError> {
        let mut from = self.serving()?.first_in_use();
        while let Some((segment, entry)) = self.reaching(timestamp_ms, from)? {
            // Retention may have taken it meanwhile.
            let Some((plan, lookup)) = self.plan_scan(segment, entry)? else { continue };
            let found = plan.first_record(self, lookup, timestamp_ms, BatchMatch::AtOrAfter, replacements)?;
            if found.is_some() {
                return Ok(found);
            }
            from = Offset(segment.0 + 1);
        }
        Ok(None)
    }

    /// Of a segment whose youngest record is gone, the youngest that is left counts.
    fn find_youngest(&self, replacements: u64) -> Result<Option<TimestampedOffset>, LogError> {
        let from = self.serving()?.first_in_use();
        let mut left: BTreeMap<Offset, Option<TimestampedOffset>> = BTreeMap::new();
        loop {
            let known = |(_, best): (_, &Option<TimestampedOffset>)| *best;
            let best = left.iter().filter_map(known).min_by_key(|best| (Reverse(best.timestamp_ms), best.offset));
            let largest = self.largest_timestamp(from, |segment| !left.contains_key(&segment))?;
            let Some((segment, entry)) = largest else { return Ok(best) };
            let place = (Reverse(entry.timestamp_ms), segment);
            if best.is_some_and(|best| (Reverse(best.timestamp_ms), best.offset) < place) {
                return Ok(best);
            }
            let Some((plan, lookup)) = self.plan_scan(segment, entry)? else { continue };
            let found = plan.first_record(self, lookup, entry.timestamp_ms, BatchMatch::Exactly, replacements)?;
            // Where the largest is no date there is none.
            if found.is_some() || entry.timestamp_ms < 0 {
                return Ok(found);
            }
            left.insert(segment, plan.youngest_left()?);
        }
    }

    /// Of these segments the one with the largest timestamp, and that; records may have no date at all: then it is -1, and the
    /// first record has it.
    fn largest_timestamp(
        &self,
        from: Offset,
        counts: impl Fn(Offset) -> bool,
    ) -> Result<Option<(Offset, TimestampOffset)>, LogError> {
        let mut largest: Option<(Offset, TimestampOffset)> = None;
        self.look_at_each(Segment::verified_max_timestamp, |segment, so_far| {
            let counts = segment >= from && counts(segment);
            if counts && largest.is_none_or(|(_, best)| so_far.timestamp_ms > best.timestamp_ms) {
                largest = Some((segment, so_far));
            }
            false
        })?;
        Ok(largest)
    }

    /// The first segment from there on with a timestamp that is as large, and where its time index leads.
    fn reaching(&self, timestamp_ms: i64, from: Offset) -> Result<Option<(Offset, TimestampOffset)>, LogError> {
        let mut reaching = None;
        let look = |segment: &mut Segment, dir: &Path| {
            if segment.base_offset() < from {
                return Ok(Some(None));
            }
            let Some(largest) = segment.verified_max_timestamp(dir)? else { return Ok(None) };
            // What has no file yet has no records.
            let reaches = largest.timestamp_ms >= timestamp_ms && segment.size() > 0;
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

    /// `None` if the segment is not there any more. With where the first batch to look at may be.
    fn plan_scan(&self, segment: Offset, entry: TimestampOffset) -> Result<Option<(ScanPlan, Lookup)>, LogError> {
        let choose = |state: &State| {
            let at = state.segments.binary_search_by_key(&segment, Segment::base_offset).ok();
            Ok(at.map(|at| (at, state.log_start_offset)))
        };
        let looked = self.look(choose, |&log_start_offset, segment, dir| {
            let from = entry.offset.max(log_start_offset);
            let plan = ScanPlan {
                file: if segment.size() > 0 { Some(segment.file_there(dir)?) } else { None },
                log_path: segment.log_path(dir),
                segment_size: segment.size(),
                from,
                entry,
                segment: segment.base_offset(),
                log_start_offset,
            };
            Ok((plan, segment.lookup(dir, from)?))
        })?;
        Ok(looked.map(|(_, plan)| plan))
    }
}

struct ScanPlan {
    /// `None` if the segment is empty.
    file: Option<Arc<File>>,
    log_path: PathBuf,
    segment_size: u32,
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
    /// Where the segment begins that has the log start: the ones before it wait for retention alone.
    fn first_in_use(&self) -> Offset {
        let begun = self.segments.partition_point(|segment| segment.base_offset() <= self.log_start_offset);
        self.segments.get(begun.saturating_sub(1)).map_or(self.log_start_offset, Segment::base_offset)
    }

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
        &self,
        log: &Log,
        lookup: Lookup,
        timestamp_ms: i64,
        wanted: BatchMatch,
        replacements: u64,
    ) -> Result<Option<TimestampedOffset>, LogError> {
        let Some(file) = &self.file else { return Ok(None) };
        let path = &self.log_path;
        let indexed = lookup.position().doing("search the index of", path)?;
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
            let batch = self.read_batch(file, position, &header)?;
            for record in self.records_left(&batch, &header) {
                let record = record?;
                if record.timestamp_ms >= timestamp_ms {
                    return Ok(Some(record));
                }
            }
        }
        Ok(None)
    }

    /// The first of the youngest records that are not below the log start. Only what has begun below it is read for that, and
    /// the batch whose header says that it has the youngest.
    fn youngest_left(&self) -> Result<Option<TimestampedOffset>, LogError> {
        let Some(file) = &self.file else { return Ok(None) };
        let path = &self.log_path;
        let (mut best, mut younger): (Option<TimestampedOffset>, Option<(u32, BatchHeader)>) = (None, None);
        let mut scan = HeaderScan::new(file, 0, self.segment_size);
        while let Found::Batch((position, header)) = scan.next().doing("read", path)? {
            if header.last_offset < self.log_start_offset.0 || header.magic == 0 || header.record_count == 0 {
                continue;
            }
            if header.base_offset < self.log_start_offset.0 {
                best = self.youngest_of(file, position, &header)?;
            } else if younger.is_none_or(|(_, known)| known.max_timestamp < header.max_timestamp) {
                younger = Some((position, header));
            }
        }
        match younger {
            Some((position, header)) if best.is_none_or(|best| best.timestamp_ms < header.max_timestamp) => {
                Ok(self.youngest_of(file, position, &header)?.or(best))
            }
            _ => Ok(best),
        }
    }

    fn youngest_of(
        &self,
        file: &File,
        position: u32,
        header: &BatchHeader,
    ) -> Result<Option<TimestampedOffset>, LogError> {
        let mut youngest: Option<TimestampedOffset> = None;
        let batch = self.read_batch(file, position, header)?;
        for record in self.records_left(&batch, header) {
            let record = record?;
            if youngest.is_none_or(|known| known.timestamp_ms < record.timestamp_ms) {
                youngest = Some(record);
            }
        }
        Ok(youngest)
    }

    fn read_batch(&self, file: &File, position: u32, header: &BatchHeader) -> Result<Bytes, LogError> {
        let mut bytes = vec![0; header.size_in_bytes];
        files::read_exact_at(file, &mut bytes, u64::from(position)).doing("read", &self.log_path)?;
        Ok(Bytes::from(bytes))
    }

    /// The records of the batch that are not below the log start.
    fn records_left(
        &self,
        batch: &Bytes,
        header: &BatchHeader,
    ) -> impl Iterator<Item = Result<TimestampedOffset, LogError>> {
        let leader_epoch = Some(LeaderEpoch(header.partition_leader_epoch)).filter(|epoch| epoch.0 >= 0);
        read::records(batch).filter_map(move |record| match record {
            Ok(record) if record.offset < self.log_start_offset.0 => None,
            Ok(record) => {
                let (timestamp_ms, offset) = (record.timestamp, Offset(record.offset));
                Some(Ok(TimestampedOffset { timestamp_ms, offset, leader_epoch }))
            }
            Err(why) => {
                let reason = format!("{}: {why}", self.log_path.display());
                Some(Err(LogError::InvalidBatch { reason }))
            }
        })
    }
}
