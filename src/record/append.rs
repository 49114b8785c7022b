//! Everything a leader checks and rewrites before records enter its log, in two steps: [`prepare`] does the work that
//! needs no lock, [`Prepared::assign`] the little that needs the log's next offset.
//!
//! Source: kafka 3.9.0-rc3 storage/src/main/java/org/apache/kafka/storage/internals/log/LogValidator.java,
//! core/src/main/scala/kafka/log/UnifiedLog.scala (analyzeAndValidateRecords),
//! clients/src/main/java/org/apache/kafka/common/requests/ProduceRequest.java (validateRecords).

use bytes::Bytes;

use crate::record::append_rules::{AcceptedSets, AppendRules, TopicCompression};
use crate::record::batch::{
    Batch, BatchHeader, Batches, CorruptBatch, LegacyMessage, MalformedRecord, NO_TIMESTAMP, RawRecord, RecordTimes,
    SIZE_MIN, TimestampType, i32_at, stored_and_computed_crc,
};
use crate::record::compression::Codec;
use crate::record::error::{RecordError, RejectedRecord, Rejection};
use crate::record::header_fields as fields;
use crate::record::prepared::{Messages, Prepared, PreparedBatch};
use crate::record::read::{INFLATED_RECORD_BYTES_MAX, InflatedMessages, InflatedRecords, MessageSet, inner_timestamp};
use crate::record::rebuild::rebuilt;

/// Rejected records are named one by one up to this many; Kafka names all of them, however many a batch inflates to.
const RECORD_ERRORS_MAX: usize = 1000;

/// Checks everything that needs no lock and builds what will be written. `now_ms` is what timestamps are checked
/// against.
pub fn prepare(records: Bytes, rules: &AppendRules, now_ms: i64) -> Result<Prepared, RecordError> {
    check_accepted(&records, rules.accepted_sets)?;
    let Some(set) = check_batches(&records, rules)? else {
        return Ok(Prepared::new(Vec::new(), rules.timestamp_type));
    };
    let target = match rules.compression {
        TopicCompression::Producer => Target { codec: set.source_codec, level: None },
        TopicCompression::Codec { codec, level } => Target { codec, level },
    };
    let is_compressed = set.source_codec != Codec::None || target.codec != Codec::None;
    if is_compressed && target.codec == Codec::Zstd && !rules.zstd_allowed {
        return Err(RecordError::ZstdNotAllowed);
    }
    if !set.is_single && (set.first.magic == 2 || set.source_codec != Codec::None) {
        return Err(RecordError::InvalidBatch(
            "only one batch of magic 2 or with compression can be appended at a time",
        ));
    }
    let keeps_codec = set.source_codec == target.codec || set.source_codec == Codec::None && set.first.is_control;
    let keeps_format = set.first.magic == rules.log_format && !(is_compressed && rules.log_format == 0);
    let walked = walk(&records, &set, keeps_codec && keeps_format, rules, now_ms)?;

    let batch = if !keeps_codec || !keeps_format || is_compressed && !walked.offsets_are_in_order {
        rebuilt(&records, &set, target, rules, now_ms)?
    } else if set.first.magic < 2 && !is_compressed {
        let entries = records.get(..set.size_in_bytes).unwrap_or_default().to_vec();
        let messages = Messages { entries, compression: None };
        PreparedBatch::of_messages(set.first, walked.count, walked.max_timestamp, messages)
    } else {
        PreparedBatch::untouched(set.first, &records, walked.count)
            .with_timestamps(rules.timestamp_type, walked.max_timestamp)
    };
    Ok(Prepared::new(vec![batch], rules.timestamp_type))
}

/// The codec that the topic wants.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub codec: Codec,
    pub level: Option<i32>,
}

/// Section by section what produce requests may carry, before a partition is looked at.
fn check_accepted(records: &[u8], accepted: AcceptedSets) -> Result<(), RecordError> {
    if accepted == AcceptedSets::Any {
        return Ok(());
    }
    const OLD: RecordError =
        RecordError::InvalidBatch("a produce request of this version must carry a batch of magic 2");
    let mut batches = Batches::new(records);
    // The magic comes first: what else may be wrong with old messages does not matter.
    if matches!(records.get(fields::MAGIC), Some(0 | 1))
        && i32_at(records, fields::SIZE.start).is_some_and(|size| size >= SIZE_MIN)
    {
        return Err(OLD);
    }
    let first = batches.next().ok_or(RecordError::InvalidBatch("a produce request must carry a record batch"))?;
    let first = first.map_err(|corrupt| unreadable(records, corrupt))?;
    if first.header.magic != 2 {
        return Err(OLD);
    }
    if first.header.codec == Codec::Zstd && accepted == AcceptedSets::OneV2BatchWithoutZstd {
        return Err(RecordError::ZstdNotAllowed);
    }
    match batches.next() {
        None => Ok(()),
        Some(Err(corrupt)) => Err(unreadable(batches.rest(), corrupt)),
        Some(Ok(_)) => Err(RecordError::InvalidBatch("a produce request must carry exactly one record batch")),
    }
}

/// Damage on the way may look like a codec that does not exist, and a producer sends again what was damaged.
#[cold]
fn unreadable(bytes: &[u8], corrupt: CorruptBatch) -> RecordError {
    let CorruptBatch::UnknownCodec { .. } = corrupt else { return corrupt.into() };
    match stored_and_computed_crc(bytes) {
        Some((stored, computed)) if stored != computed => RecordError::CrcMismatch { stored, computed },
        _ => corrupt.into(),
    }
}

/// What was sent, as far as headers tell.
pub(super) struct SentSet {
    pub first: BatchHeader,
    is_single: bool,
    /// That of the last compressed batch.
    source_codec: Codec,
    /// All whole batches; what follows them is ignored.
    size_in_bytes: usize,
}

/// What Kafka checks of each batch before it takes the log's lock. `None` when there is no whole batch.
fn check_batches(records: &[u8], rules: &AppendRules) -> Result<Option<SentSet>, RecordError> {
    let mut set: Option<SentSet> = None;
    let mut batches = Batches::new(records);
    while let Some(batch) = batches.next() {
        let batch = batch.map_err(|corrupt| unreadable(batches.rest(), corrupt))?;
        let header = &batch.header;
        if header.magic == 2 && rules.origin.is_client() && header.base_offset != 0 {
            return Err(RecordError::InvalidBatch("the base offset of a produced batch must be 0"));
        }
        if header.size_in_bytes > rules.max_message_bytes {
            return Err(RecordError::BatchTooLarge { size: header.size_in_bytes, max: rules.max_message_bytes });
        }
        let computed = batch.computed_crc();
        if computed != header.crc {
            return Err(RecordError::CrcMismatch { stored: header.crc, computed });
        }
        let set = match &mut set {
            None => {
                set.insert(SentSet { first: *header, is_single: true, source_codec: Codec::None, size_in_bytes: 0 })
            }
            Some(set) => {
                set.is_single = false;
                set
            }
        };
        set.size_in_bytes += header.size_in_bytes;
        if header.codec != Codec::None {
            set.source_codec = header.codec;
        }
    }
    Ok(set)
}

/// What Kafka checks of each batch's header once it holds the lock.
fn check_header(header: &BatchHeader, first: &BatchHeader, rules: &AppendRules) -> Result<(), RecordError> {
    if header.magic != first.magic {
        return Err(RecordError::InvalidBatch("all batches of a partition must have the same magic"));
    }
    if rules.origin.is_client() {
        if header.magic == 2 {
            if header.last_offset_delta < 0 {
                return Err(RecordError::InvalidBatch("the batch has an invalid offset range"));
            }
            if header.record_count <= 0 {
                return Err(RecordError::InvalidBatch("the batch declares an invalid record count"));
            }
            if i64::from(header.record_count) != i64::from(header.last_offset_delta) + 1 {
                return Err(RecordError::InvalidBatch("the batch's offset range and record count do not agree"));
            }
        }
        if header.is_control {
            return Err(RecordError::InvalidBatch("clients must not write control batches"));
        }
        if header.has_producer_id() && header.base_sequence < 0 {
            return Err(RecordError::InvalidBatch("a batch with a producer id must have a sequence number"));
        }
    }
    if rules.log_format < 2 && (header.is_transactional || header.has_producer_id()) {
        return Err(RecordError::UnsupportedForLogFormat { magic: rules.log_format });
    }
    Ok(())
}

/// Checks the records of one batch in the order they come, and collects what is wrong with them.
struct RecordChecks<'r> {
    rules: &'r AppendRules,
    now_ms: i64,
    batch_type: TimestampType,
    /// No record can be at fault for its key or timestamp: nothing to look at but the largest timestamp.
    nothing_to_check: bool,
    /// Records seen, which is also the position of the next.
    count: i64,
    max_timestamp: i64,
    rejected: Vec<RejectedRecord>,
    any_invalid_timestamp: bool,
}

impl<'r> RecordChecks<'r> {
    fn new(rules: &'r AppendRules, header: &BatchHeader, now_ms: i64) -> RecordChecks<'r> {
        let any_timestamp = match (rules.timestamp_type, header.timestamp_type) {
            (TimestampType::CreateTime, TimestampType::CreateTime) => {
                rules.timestamp_before_max_ms == i64::MAX && rules.timestamp_after_max_ms == i64::MAX
            }
            (TimestampType::LogAppendTime, TimestampType::CreateTime) => true,
            (_, TimestampType::LogAppendTime) => false,
        };
        RecordChecks {
            rules,
            now_ms,
            batch_type: header.timestamp_type,
            nothing_to_check: any_timestamp && !rules.compacted,
            count: 0,
            max_timestamp: NO_TIMESTAMP,
            rejected: Vec::new(),
            any_invalid_timestamp: false,
        }
    }

    #[inline(always)]
    fn check(&mut self, has_key: bool, timestamp: i64, offset: i64, name: impl FnOnce() -> String) {
        if !self.nothing_to_check {
            self.check_fully(has_key, timestamp, offset, name);
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.count += 1;
    }

    fn check_fully(&mut self, has_key: bool, timestamp: i64, offset: i64, name: impl FnOnce() -> String) {
        if self.rules.compacted && !has_key {
            self.reject(|| Rejection::NoKey);
        } else if self.rules.timestamp_type == TimestampType::CreateTime && timestamp != NO_TIMESTAMP {
            // Wraps as Kafka's arithmetic does, so that absurd timestamps meet the same end.
            let age_ms = self.now_ms.wrapping_sub(timestamp);
            let (before, after) = (self.rules.timestamp_before_max_ms, self.rules.timestamp_after_max_ms);
            if age_ms > before || age_ms.wrapping_neg() > after {
                self.any_invalid_timestamp = true;
                let (first, last) = (self.now_ms.wrapping_sub(before), self.now_ms.wrapping_add(after));
                self.reject(|| Rejection::TimestampOutOfRange { timestamp, offset, first, last });
            }
        } else if self.batch_type == TimestampType::LogAppendTime {
            self.any_invalid_timestamp = true;
            self.reject(|| Rejection::LogAppendTime { record: name() });
        }
    }

    #[cold]
    fn reject(&mut self, why: impl FnOnce() -> Rejection) {
        if self.rejected.len() < RECORD_ERRORS_MAX {
            let batch_index = i32::try_from(self.count).unwrap_or(i32::MAX);
            self.rejected.push(RejectedRecord { batch_index, why: why() });
        }
    }

    /// The largest timestamp of the batch, if all its records may enter.
    fn finish(self) -> Result<i64, RecordError> {
        if self.rejected.is_empty() {
            Ok(self.max_timestamp)
        } else if self.any_invalid_timestamp {
            Err(RecordError::InvalidTimestamps(self.rejected))
        } else {
            Err(RecordError::InvalidRecords(self.rejected))
        }
    }
}

/// What the walk over all records found.
struct Walked {
    count: i64,
    max_timestamp: i64,
    /// Whether the records' offsets are 0, 1, 2 and so on. Not looked at where Kafka does not.
    offsets_are_in_order: bool,
}

/// Checks all records of all batches. They are appended `as_sent` if their offsets are in order.
fn walk(records: &[u8], set: &SentSet, as_sent: bool, rules: &AppendRules, now_ms: i64) -> Result<Walked, RecordError> {
    let mut walked = Walked { count: 0, max_timestamp: NO_TIMESTAMP, offsets_are_in_order: true };
    for batch in Batches::new(records) {
        let batch = batch?;
        let header = &batch.header;
        check_header(header, &set.first, rules)?;
        let mut checks = RecordChecks::new(rules, header, now_ms);
        match (header.magic, header.codec) {
            (2, Codec::None) => walk_v2(&batch, &mut checks)?,
            (2, _) => walked.offsets_are_in_order = walk_compressed_v2(&batch, as_sent, &mut checks)?,
            (_, Codec::None) => {
                let message = LegacyMessage::read(batch.bytes)?;
                let name = || legacy_name(batch.bytes, message.offset, header);
                checks.check(message.key.is_some(), message.timestamp, message.offset, name);
            }
            _ => walked.offsets_are_in_order = walk_message_set(&batch, &mut checks)?,
        }
        let count = checks.count;
        walked.max_timestamp = walked.max_timestamp.max(checks.finish()?);
        walked.count += count;
    }
    Ok(walked)
}

fn walk_v2(batch: &Batch<'_>, checks: &mut RecordChecks<'_>) -> Result<(), RecordError> {
    let times = RecordTimes::of(&batch.header);
    let mut rest = batch.body();
    for _ in 0..batch.header.record_count {
        let (record, after) = RawRecord::first_of(rest)?;
        rest = after;
        let timestamp = times.timestamp(record.timestamp_delta);
        let offset = batch.header.base_offset.wrapping_add(i64::from(record.offset_delta));
        let name = || {
            let [key, value] = [record.key, record.value].map(|field| field.map_or(0, <[u8]>::len));
            format!("DefaultRecord(offset={offset}, timestamp={timestamp}, key={key} bytes, value={value} bytes)")
        };
        checks.check(record.key.is_some(), timestamp, offset, name);
    }
    if !rest.is_empty() {
        return Err(MalformedRecord("bytes are left over after the declared number of records").into());
    }
    Ok(())
}

/// True if the offsets are in order.
fn walk_compressed_v2(batch: &Batch<'_>, as_sent: bool, checks: &mut RecordChecks<'_>) -> Result<bool, RecordError> {
    let times = RecordTimes::of(&batch.header);
    let mut records = InflatedRecords::new(batch)?;
    let mut in_order = true;
    while let Some(record) = records.skim()? {
        let offset = batch.header.base_offset.wrapping_add(i64::from(record.offset_delta));
        in_order &= offset == checks.count;
        let timestamp = times.timestamp(record.timestamp_delta);
        let name = || {
            // Of records that it appends as they came Kafka does not read the fields, and shows what lengths they declare.
            let (of, null) = if as_sent { ("PartialDefaultRecord", "-1") } else { ("DefaultRecord", "0") };
            let bytes = |len: Option<usize>| len.map_or(null.to_owned(), |len| len.to_string());
            let (key, value) = (bytes(record.key_len), bytes(record.value_len));
            format!("{of}(offset={offset}, timestamp={timestamp}, key={key} bytes, value={value} bytes)")
        };
        checks.check(record.key_len.is_some(), timestamp, offset, name);
    }
    Ok(in_order)
}

/// True if the offsets are in order, which nobody asks of magic 0.
fn walk_message_set(batch: &Batch<'_>, checks: &mut RecordChecks<'_>) -> Result<bool, RecordError> {
    let header = &batch.header;
    let mut messages = InflatedMessages::new(batch)?;
    let mut in_order = true;
    let (mut first_inner_offset, mut last_inner_offset) = (0_i64, 0_i64);
    while let Some(entry) = messages.next(INFLATED_RECORD_BYTES_MAX)? {
        let offset = LegacyMessage::offset_of(entry);
        if checks.count == 0 {
            first_inner_offset = offset;
        } else {
            in_order &= offset == last_inner_offset.wrapping_add(1);
        }
        last_inner_offset = offset;
        if entry.get(fields::MAGIC) != Some(&header.magic) {
            checks.reject(|| Rejection::OtherMagic { record: legacy_name(entry, offset, header), magic: header.magic });
            checks.count += 1;
            continue;
        }
        let (stored, computed) = LegacyMessage::crcs_of(entry);
        if computed != stored {
            return Err(RecordError::InnerCrcMismatch { stored, computed });
        }
        let message = LegacyMessage::read(entry)?;
        let name = || legacy_name(entry, offset, header);
        checks.check(message.key.is_some(), inner_timestamp(&message, header), offset, name);
    }
    let set = MessageSet::new(header, checks.count, last_inner_offset)?;
    Ok(in_order && set.base_offset.wrapping_add(first_inner_offset) == 0)
}

/// As Kafka names a message of magic 0 or 1, which is not compressed itself.
fn legacy_name(entry: &[u8], offset: i64, set: &BatchHeader) -> String {
    let Ok(message) = LegacyMessage::read(entry) else { return format!("LegacyRecordBatch(offset={offset})") };
    let attributes = entry.get(fields::legacy::ATTRIBUTES).copied().unwrap_or_default() as i8;
    let (crc, _) = LegacyMessage::crcs_of(entry);
    let time = match (message.magic, set.timestamp_type) {
        (0, _) => String::new(),
        (_, TimestampType::CreateTime) => format!("CreateTime={}, ", message.timestamp),
        (_, TimestampType::LogAppendTime) => format!("LogAppendTime={}, ", inner_timestamp(&message, set)),
    };
    let [key, value] = [message.key, message.value].map(|field| field.map_or(0, <[u8]>::len));
    format!(
        "LegacyRecordBatch(offset={offset}, Record(magic={}, attributes={attributes}, compression=none, crc={crc}, \
         {time}key={key} bytes, value={value} bytes))",
        message.magic
    )
}

#[cfg(test)]
#[path = "append_tests.rs"]
mod tests;
