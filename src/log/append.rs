//! Appends: of a leader, which gives offsets, and of a follower, which takes the leader's bytes as they are.
//! Source: kafka 3.9 core/.../log/UnifiedLog.scala (append), storage/.../log/LogSegment.java.

use std::io::IoSlice;

use bytes::Bytes;

use super::counters::add;
use super::error::LogError;
use super::producer_state::{BatchMetadata, EndTxnMarker, ProducerBatch, Verdict};
use super::segment::{RollQuestion, Segment};
use super::transaction_index::TransactionIndex;
use super::{AppendInfo, Log, State};
use crate::model::internal_topics::is_internal_topic;
use crate::model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use crate::record::append_rules::AppendOrigin;
use crate::record::batch::{Batch, BatchHeader, Batches, HEADER_BYTES_V2, RawRecord, TimestampType};
use crate::record::prepared::Prepared;

/// One part per head and body of each batch of a prepared append; nearly always there is one batch.
const PARTS_INLINE: usize = 2;

impl Log {
    /// Appends records that clients or coordinators sent to this leader: gives them offsets and writes them. Refused
    /// unless the epoch under which they were admitted is the one in force.
    pub fn append_as_leader(
        &self,
        prepared: &mut Prepared,
        leader_epoch: LeaderEpoch,
        origin: AppendOrigin,
        now_ms: i64,
    ) -> Result<AppendInfo, LogError> {
        if origin == AppendOrigin::Client {
            self.admit(prepared.size_in_bytes(), now_ms)?;
        }
        let mut state = self.serving()?;
        let dir = self.parent.load();
        let appended = dir.pace.of(|| state.append_as_leader(prepared, leader_epoch, origin, now_ms));
        drop(dir);
        self.finish_append(state, appended)
    }

    /// Appends batches that the leader of `leader_epoch` sent for `fetch_offset`, with the leader's offsets and epochs.
    /// Refused unless that epoch is in force and the log still ends where it was fetched for: a late or repeated answer
    /// writes nothing.
    pub fn append_as_follower(
        &self,
        records: &Bytes,
        leader_epoch: LeaderEpoch,
        fetch_offset: Offset,
        now_ms: i64,
    ) -> Result<AppendInfo, LogError> {
        let first = Batches::new(records).next().and_then(Result::ok);
        if !first.is_some_and(|batch| batch.header.is_control) {
            self.admit(records.len(), now_ms)?;
        }
        let mut state = self.serving()?;
        let dir = self.parent.load();
        let appended = dir.pace.of(|| state.append_as_follower(records, leader_epoch, fetch_offset, now_ms));
        drop(dir);
        self.finish_append(state, appended)
    }

    /// What coordinators write, to their topics and as markers to others, may take the last of a disk.
    fn admit(&self, bytes: usize, now_ms: i64) -> Result<(), LogError> {
        if is_internal_topic(&self.topic_partition.topic) {
            return Ok(());
        }
        let dir = self.parent.load();
        dir.observe(dir.reserve.admit(dir.path(), bytes, now_ms))
    }

    fn finish_append(
        &self,
        state: crate::model::lock::Guard<'_, State>,
        appended: Result<(AppendInfo, Rolled), LogError>,
    ) -> Result<AppendInfo, LogError> {
        let flush_due = state.is_flush_due() || (state.config.flush_before_acknowledgement && state.has_unsynced());
        drop(state);
        let (info, rolled) = self.observe(appended)?;
        if rolled == Rolled::Yes {
            self.parent().note_rolled(&self.topic_partition);
        }
        Ok(AppendInfo { flush_due, ..info })
    }

    /// Starts a new segment, unless the active one is empty.
    pub fn roll(&self, now_ms: i64) -> Result<(), LogError> {
        let mut state = self.serving()?;
        let base_offset = state.log_end_offset;
        let rolled = self.observe(state.roll(base_offset, now_ms))?;
        drop(state);
        if rolled == Rolled::Yes {
            self.parent().note_rolled(&self.topic_partition);
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rolled {
    No,
    Yes,
}

impl State {
    fn append_as_leader(
        &mut self,
        prepared: &mut Prepared,
        leader_epoch: LeaderEpoch,
        origin: AppendOrigin,
        now_ms: i64,
    ) -> Result<(AppendInfo, Rolled), LogError> {
        self.check_epoch(leader_epoch)?;
        let first_offset = self.log_end_offset;
        if prepared.is_empty() {
            return Ok((self.empty_append(), Rolled::No));
        }
        // Of now, not of the request: what was read after it may have been appended before it.
        // Source: kafka 3.9.0-rc3 UnifiedLog.scala (append), LogValidator.java, which asks the clock under the log's lock.
        let append_time_ms = match prepared.timestamp_type() {
            TimestampType::LogAppendTime => (self.parent.wall_clock)().max(now_ms),
            TimestampType::CreateTime => now_ms,
        };
        prepared.assign(first_offset.0, leader_epoch.0, append_time_ms);
        let bytes = self.check_size(prepared.size_in_bytes())?;
        let mut aborts = 0;
        for batch in prepared.batches() {
            let Some(of_producer) = producer_batch(batch.header(), batch.body()) else { continue };
            aborts += usize::from(of_producer.is_abort());
            self.producers.check_room_for(&of_producer, origin)?;
            if let Verdict::Duplicate(known) = self.producers.check(&of_producer, origin)? {
                return Ok((self.duplicate_append(&known), Rolled::No));
            }
        }
        // Every magic 2 batch carries the epoch; older formats have no place for one.
        if prepared.batches().iter().any(|batch| batch.header().magic >= 2) {
            self.assign_epoch(leader_epoch, first_offset);
        } else {
            self.forget_epochs();
        }
        let last_offset = Offset(prepared.last_offset());
        let question = RollQuestion { bytes, last_offset, max_timestamp_ms: prepared.max_timestamp(), now_ms };
        let rolled = self.roll_if_needed(first_offset, &question)?;

        let batches = prepared.batches();
        let (position, index) = if let [batch] = batches {
            let mut parts: [IoSlice<'_>; PARTS_INLINE] = [IoSlice::new(batch.head()), IoSlice::new(batch.body())];
            self.write(&mut parts, bytes, aborts)?
        } else {
            let mut parts: Vec<IoSlice<'_>> =
                batches.iter().flat_map(|batch| [IoSlice::new(batch.head()), IoSlice::new(batch.body())]).collect();
            self.write(&mut parts, bytes, aborts)?
        };
        self.log_end_offset = Offset(last_offset.0 + 1);
        let mut at = position;
        for batch in batches {
            self.note_appended(at, batch.header(), batch.body(), index.as_ref())?;
            at += batch.size_in_bytes() as u32;
        }
        self.producers.set_end_offset(self.log_end_offset);
        let info = AppendInfo {
            first_offset,
            last_offset,
            log_start_offset: self.log_start_offset,
            max_timestamp_ms: prepared.max_timestamp(),
            log_append_time_ms: prepared.log_append_time_ms(),
            duplicate: false,
            log_end_offset: self.log_end_offset,
            flush_due: false,
        };
        Ok((info, rolled))
    }

    pub(super) fn append_as_follower(
        &mut self,
        records: &Bytes,
        leader_epoch: LeaderEpoch,
        fetch_offset: Offset,
        now_ms: i64,
    ) -> Result<(AppendInfo, Rolled), LogError> {
        self.check_epoch(leader_epoch)?;
        if fetch_offset != self.log_end_offset {
            return Err(LogError::UnexpectedOffset { first_offset: fetch_offset, log_end_offset: self.log_end_offset });
        }
        // A fetch reply may end with part of a batch.
        let mut whole = Batches::new(records);
        let mut facts: Option<FollowerFacts> = None;
        let mut expected = self.log_end_offset;
        for batch in &mut whole {
            let batch = batch.map_err(|corrupt| LogError::InvalidBatch { reason: corrupt.to_string() })?;
            let header = batch.header;
            if !batch.crc_is_valid() {
                let reason = format!("the batch at offset {} fails its checksum", header.base_offset);
                return Err(LogError::InvalidBatch { reason });
            }
            if header.base_offset < expected.0 || header.last_offset < header.base_offset {
                let first_offset = Offset(header.base_offset);
                return Err(LogError::UnexpectedOffset { first_offset, log_end_offset: expected });
            }
            expected = Offset(header.next_offset());
            let facts = facts.get_or_insert(FollowerFacts {
                first_offset: Offset(header.base_offset),
                max_timestamp_ms: -1,
                has_magic_2: false,
                aborts: 0,
            });
            facts.max_timestamp_ms = facts.max_timestamp_ms.max(header.max_timestamp);
            facts.has_magic_2 |= header.magic >= 2;
            facts.aborts += usize::from(producer_batch_of(&batch).is_some_and(|of_producer| of_producer.is_abort()));
        }
        let Some(facts) = facts else { return Ok((self.empty_append(), Rolled::No)) };
        let whole_bytes = records.len() - whole.rest().len();
        // A batch that is longer goes whole, into a segment of its own: the leader's segments may have been larger once. A JVM
        // follower gives up there.
        let is_one = Batches::new(&records[..whole_bytes]).nth(1).is_none();
        let bytes = match u32::try_from(whole_bytes) {
            Ok(bytes) if is_one && bytes <= i32::MAX as u32 => bytes,
            _ => self.check_size(whole_bytes)?,
        };
        let last_offset = Offset(expected.0 - 1);
        for batch in Batches::new(&records[..whole_bytes]).flatten() {
            if batch.header.magic >= 2 && batch.header.partition_leader_epoch >= 0 {
                self.assign_epoch(LeaderEpoch(batch.header.partition_leader_epoch), Offset(batch.header.base_offset));
            }
        }
        if !facts.has_magic_2 {
            self.forget_epochs();
        }
        let question = RollQuestion { bytes, last_offset, max_timestamp_ms: facts.max_timestamp_ms, now_ms };
        // Old formats may name only the last offset of a set: what precedes it must fit the segment as well.
        let new_base = if facts.has_magic_2 {
            facts.first_offset
        } else {
            self.log_end_offset.max(Offset(last_offset.0 - i64::from(i32::MAX)))
        };
        let rolled = self.roll_if_needed(new_base, &question)?;
        let (position, index) = self.write(&mut [IoSlice::new(&records[..whole_bytes])], bytes, facts.aborts)?;
        self.log_end_offset = Offset(last_offset.0 + 1);
        let mut at = position;
        for batch in Batches::new(&records[..whole_bytes]).flatten() {
            let body = if batch.header.magic >= 2 { batch.body() } else { &[] };
            self.note_appended(at, &batch.header, body, index.as_ref())?;
            at += batch.header.size_in_bytes as u32;
        }
        self.producers.set_end_offset(self.log_end_offset);
        let info = AppendInfo {
            first_offset: facts.first_offset,
            last_offset,
            log_start_offset: self.log_start_offset,
            max_timestamp_ms: facts.max_timestamp_ms,
            log_append_time_ms: -1,
            duplicate: false,
            log_end_offset: self.log_end_offset,
            flush_due: false,
        };
        Ok((info, rolled))
    }

    fn check_size(&self, bytes: usize) -> Result<u32, LogError> {
        let too_large = || LogError::RecordListTooLarge {
            bytes: bytes as u64,
            segment_bytes: u64::from(self.config.segment_bytes),
        };
        u32::try_from(bytes).ok().filter(|&bytes| bytes <= self.config.segment_bytes).ok_or_else(too_large)
    }

    /// Writes batches, among which are so many markers that abort a transaction. Where they are, and the index for these.
    fn write(
        &mut self,
        parts: &mut [IoSlice<'_>],
        bytes: u32,
        aborts: usize,
    ) -> Result<(u32, Option<TransactionIndex>), LogError> {
        let State { segments, dir, snapshots, shadow, .. } = self;
        let active = segments.last_mut().expect("a log always has an active segment");
        let index =
            (aborts > 0).then(|| TransactionIndex::with_room(active.txn_index_path(dir), aborts)).transpose()?;
        snapshots.note_appended(bytes);
        // Writing uses them up.
        let again: Option<Vec<u8>> = shadow.as_ref().map(|_| parts.iter().flat_map(|part| part.to_vec()).collect());
        let position = active.append_bytes(dir, parts, bytes)?;
        if let (Some(in_old_directory), Some(again)) = (shadow, again) {
            in_old_directory.append(&again);
        }
        Ok((position, index))
    }

    fn note_appended(
        &mut self,
        position: u32,
        header: &BatchHeader,
        body: &[u8],
        index: Option<&TransactionIndex>,
    ) -> Result<(), LogError> {
        let State { segments, dir, config, .. } = self;
        let active = segments.last_mut().expect("a log always has an active segment");
        active.note_batch(dir, config, position, header)?;
        self.recent.push(Offset(header.base_offset), Offset(header.last_offset), position);
        let Some(of_producer) = producer_batch(header, body) else { return Ok(()) };
        if let Some(aborted) = self.producers.apply(&of_producer) {
            // The marker is in the log: without its entry readers would take aborted records for committed ones. So even
            // a full disk, which had room a moment ago, is a failure of the log here; recovery rebuilds the index.
            let index = index.expect("room was made for each abort");
            index.append(&aborted).map_err(LogError::half_done)?;
            active.has_txn_index = true;
        }
        Ok(())
    }

    pub(super) fn forget_epochs(&mut self) {
        if self.epochs.clear() {
            self.note_epochs_changed();
        }
    }

    fn empty_append(&self) -> AppendInfo {
        AppendInfo {
            first_offset: Offset(-1),
            last_offset: Offset(-1),
            log_start_offset: self.log_start_offset,
            max_timestamp_ms: -1,
            log_append_time_ms: -1,
            duplicate: false,
            log_end_offset: self.log_end_offset,
            flush_due: false,
        }
    }

    fn duplicate_append(&self, known: &BatchMetadata) -> AppendInfo {
        AppendInfo {
            first_offset: known.first_offset(),
            last_offset: known.last_offset,
            log_start_offset: self.log_start_offset,
            max_timestamp_ms: known.timestamp_ms,
            log_append_time_ms: known.timestamp_ms,
            duplicate: true,
            log_end_offset: self.log_end_offset,
            flush_due: false,
        }
    }

    fn roll_if_needed(&mut self, new_base: Offset, question: &RollQuestion) -> Result<Rolled, LogError> {
        let State { segments, dir, config, .. } = self;
        let active = segments.last_mut().expect("a log always has an active segment");
        if active.needs_roll(dir, config, question)? { self.roll(new_base, question.now_ms) } else { Ok(Rolled::No) }
    }

    /// Starts a segment at `base_offset`. The old one gets its final form; fsync is left to the flush of rolled logs.
    pub(crate) fn roll(&mut self, base_offset: Offset, now_ms: i64) -> Result<Rolled, LogError> {
        let base_offset = base_offset.max(self.log_end_offset);
        if self.active().size() == 0 && base_offset == self.active().base_offset() {
            return Ok(Rolled::No);
        }
        let config = self.config.clone();
        let dir = self.dir.clone();
        self.active_mut().become_inactive(&dir, &config)?;
        // The new segment starts where the state ends, so that a restart finds a snapshot near each segment.
        self.producers.set_end_offset(base_offset);
        // Retention takes the oldest segments, some at a time.
        let recent = self.segments[self.segments.len() / 3].base_offset();
        self.snapshots.take_at_roll(&dir, &self.producers, recent)?;
        let segment = Segment::create(&dir, base_offset, &config, now_ms)?;
        self.begin(segment);
        Ok(Rolled::Yes)
    }

    /// The same at the end of a log whose segments are about to be deleted, all of them: they need no final form, and a full
    /// disk, which waits for that, is no hindrance.
    pub(super) fn roll_over_doomed(&mut self, now_ms: i64) -> Result<(), LogError> {
        let (config, dir, base_offset) = (self.config.clone(), self.dir.clone(), self.log_end_offset);
        self.active_mut().trim_preallocated(&dir, &config)?;
        self.producers.set_end_offset(base_offset);
        self.snapshots.take_if_possible(&dir, &self.producers)?;
        let segment = Segment::create(&dir, base_offset, &config, now_ms)?;
        self.begin(segment);
        Ok(())
    }

    fn begin(&mut self, segment: Segment) {
        self.segments.push(segment);
        self.recent.clear();
        add(&self.parent.counters.segments_rolled, 1);
    }
}

#[derive(Clone, Copy)]
struct FollowerFacts {
    first_offset: Offset,
    max_timestamp_ms: i64,
    has_magic_2: bool,
    /// Markers that abort a transaction.
    aborts: usize,
}

/// What the producer state wants to know of a batch; `None` for a batch that no producer id stands behind.
pub(crate) fn producer_batch(header: &BatchHeader, body: &[u8]) -> Option<ProducerBatch> {
    if !header.has_producer_id() {
        return None;
    }
    let marker = if header.is_control {
        // A control batch whose record was cleaned away, or of another kind, ends no transaction.
        Some(end_txn_marker(header, body)?)
    } else {
        None
    };
    Some(ProducerBatch {
        producer_id: ProducerId(header.producer_id),
        producer_epoch: ProducerEpoch(header.producer_epoch),
        base_sequence: header.base_sequence,
        last_sequence: header.last_sequence(),
        first_offset: Offset(header.base_offset),
        last_offset: Offset(header.last_offset),
        max_timestamp_ms: header.max_timestamp,
        is_transactional: header.is_transactional,
        marker,
    })
}

pub(crate) fn producer_batch_of(batch: &Batch<'_>) -> Option<ProducerBatch> {
    producer_batch(&batch.header, batch.bytes.get(HEADER_BYTES_V2..).unwrap_or_default())
}

/// Key: version i16, type i16 (0 abort, 1 commit). Value: version i16, coordinator epoch i32.
/// Source: kafka 3.9 clients/.../record/{ControlRecordType,EndTransactionMarker}.java.
fn end_txn_marker(header: &BatchHeader, body: &[u8]) -> Option<EndTxnMarker> {
    if header.record_count < 1 {
        return None;
    }
    let (record, _) = RawRecord::first_of(body).ok()?;
    let [_, _, kind @ ..] = record.key?.first_chunk::<4>()?;
    let is_abort = match i16::from_be_bytes(*kind) {
        0 => true,
        1 => false,
        _ => return None,
    };
    let [_, _, coordinator_epoch @ ..] = record.value?.first_chunk::<6>()?;
    let timestamp_ms = match header.timestamp_type {
        TimestampType::LogAppendTime => header.max_timestamp,
        TimestampType::CreateTime => header.base_timestamp.wrapping_add(record.timestamp_delta),
    };
    Some(EndTxnMarker { is_abort, coordinator_epoch: i32::from_be_bytes(*coordinator_epoch), timestamp_ms })
}
