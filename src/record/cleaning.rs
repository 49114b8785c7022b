//! What compaction does with a batch: shows the keys of its records, and writes it anew without some of them.
//!
//! Memory is bounded whatever a batch inflates to: what is small is inflated once, into one buffer that is kept; anything
//! else is a stream, read once for its keys and once more for what is copied. A record is never held whole.
//! Source: kafka 3.9 clients/src/main/java/org/apache/kafka/common/record/MemoryRecords.java (filterTo).

use std::fmt;
use std::io::Read;
use std::ops::ControlFlow;

use twox_hash::XxHash3_128;

use crate::record::batch::{
    Batch, BatchHeader, Cursor, HEADER_BYTES_V2, LegacyMessage, MalformedRecord, NO_TIMESTAMP, RawRecord, RecordTimes,
};
use crate::record::build::{BatchBuilder, MessageSetBuilder};
use crate::record::compression::{Codec, Decompressor};
use crate::record::header_fields::v2;
use crate::record::read::{
    INFLATED_RECORD_BYTES_MAX, InflatedMessages, InflatedRecords, MessageSet, ReadError, RecordHead, inner_timestamp,
};

/// What is inflated at once.
const INFLATED_BYTES_MAX: usize = 4 << 20;
/// The buffers that stay between two batches are no larger.
const KEPT_BYTES_MAX: usize = INFLATED_BYTES_MAX;
/// How much larger a batch may become that is written anew: the codec that wrote it may have tried harder.
const GROWTH_BYTES_MAX: usize = INFLATED_RECORD_BYTES_MAX;

/// Why the records of a batch cannot be compacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CleaningError {
    Read(ReadError),
    OffsetsDoNotGrow,
    BatchTooLarge { size: usize },
}

impl fmt::Display for CleaningError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CleaningError::Read(error) => error.fmt(f),
            CleaningError::OffsetsDoNotGrow => {
                f.write_str("a batch whose records are not in the order of their offsets")
            }
            CleaningError::BatchTooLarge { size } => {
                write!(f, "without some of its records the batch would take more than {size} bytes")
            }
        }
    }
}

impl std::error::Error for CleaningError {}

impl<E: Into<ReadError>> From<E> for CleaningError {
    fn from(error: E) -> CleaningError {
        CleaningError::Read(error.into())
    }
}

/// Turns keys into numbers that stand for them. Two keys of the same number are as likely as with any hash of 128 bits, and
/// nobody can make such, who does not know the seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyHasher {
    seed: u64,
}

impl KeyHasher {
    pub fn new(seed: u64) -> KeyHasher {
        KeyHasher { seed }
    }

    #[inline]
    fn hash(&self, key: &[u8]) -> u128 {
        XxHash3_128::oneshot_with_seed(self.seed, key)
    }
}

/// What compaction wants to know of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyedRecord {
    pub offset: i64,
    /// The number of its key, if it has one.
    pub key: Option<u128>,
    pub has_value: bool,
}

/// Which records of a batch stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selected {
    pub records: u32,
    pub retained: u32,
    /// Among those that stay.
    pub has_tombstone: bool,
    /// An inner message has another magic than its set: old brokers wrote such (KAFKA-4298), and it has to be written anew.
    pub is_of_mixed_magic: bool,
}

impl Selected {
    /// The batch may stay as it is.
    pub fn is_whole(&self) -> bool {
        self.records == self.retained && !self.is_of_mixed_magic
    }
}

/// Reads and rewrites one batch after another. Their checksums have been looked at: what is written anew has a right one,
/// whatever the old one was.
pub(crate) struct BatchCleaner {
    hasher: KeyHasher,
    inflated: Vec<u8>,
    /// A bit for each record of the batch that was last selected from.
    kept: Vec<u64>,
}

impl BatchCleaner {
    pub fn new(hasher: KeyHasher) -> BatchCleaner {
        BatchCleaner { hasher, inflated: Vec::new(), kept: Vec::new() }
    }

    /// Shows the records of a batch until `each` has seen enough.
    pub fn for_each(
        &mut self,
        batch: &Batch<'_>,
        mut each: impl FnMut(KeyedRecord) -> ControlFlow<()>,
    ) -> Result<(), CleaningError> {
        self.walk(batch, &mut |record, _| each(record))
    }

    /// Asks of each record whether it stays, and remembers the answers for `rewrite`.
    pub fn select(
        &mut self,
        batch: &Batch<'_>,
        mut stays: impl FnMut(&KeyedRecord) -> bool,
    ) -> Result<Selected, CleaningError> {
        let mut kept = std::mem::take(&mut self.kept);
        kept.clear();
        if kept.capacity() * 8 > KEPT_BYTES_MAX {
            kept = Vec::new();
        }
        let mut selected = Selected::default();
        let walked = self.walk(batch, &mut |record, is_of_its_magic| {
            let at = selected.records;
            if at % 64 == 0 {
                kept.push(0);
            }
            selected.records += 1;
            if stays(&record) {
                if let Some(bits) = kept.last_mut() {
                    *bits |= 1 << (at % 64);
                }
                selected.retained += 1;
                selected.has_tombstone |= !record.has_value;
                selected.is_of_mixed_magic |= !is_of_its_magic;
            }
            ControlFlow::Continue(())
        });
        self.kept = kept;
        walked.map(|()| selected)
    }

    /// The batch with nothing but the records that were selected from it last, of which there is one at least. A horizon is
    /// for batches of magic 2; one that the batch has is kept.
    pub fn rewrite(&mut self, batch: &Batch<'_>, delete_horizon_ms: Option<i64>) -> Result<Vec<u8>, CleaningError> {
        if batch.header.magic < 2 {
            return self.rewrite_messages(batch);
        }
        let header = &batch.header;
        let horizon_ms = delete_horizon_ms.or(delete_horizon(header));
        let mut anew = Anew { builder: BatchBuilder::rewriting(header, horizon_ms), header, count: 0 };
        let mut inflated = std::mem::take(&mut self.inflated);
        let rewritten = match plain_records(batch, &mut inflated)? {
            Some(records) => anew.copy_plain(records, &self.kept),
            None => anew.copy_inflated(InflatedRecords::new(batch)?, &self.kept),
        };
        self.inflated = inflated;
        rewritten?;
        Ok(anew.builder.build_until(header.last_offset_delta).into())
    }

    fn rewrite_messages(&mut self, batch: &Batch<'_>) -> Result<Vec<u8>, CleaningError> {
        let header = &batch.header;
        let (mut count, mut builder) = (0, None);
        let mut copy = |offset, message: &LegacyMessage<'_>| {
            let stays = is_kept(&self.kept, count);
            count += 1;
            if stays {
                let (magic, kind) = (header.magic, header.timestamp_type);
                let builder =
                    builder.get_or_insert_with(|| MessageSetBuilder::new(magic, header.codec, None, kind, offset));
                builder.append(offset, inner_timestamp(message, header), message.key, message.value);
                return check_growth(builder.written_size(), header);
            }
            Ok(())
        };
        for_each_message(batch, |offset, message| copy(offset, message).map(ControlFlow::Continue))?;
        Ok(builder.map(MessageSetBuilder::build).unwrap_or_default())
    }

    /// Shows each record, and whether it has the magic of its batch.
    fn walk(
        &mut self,
        batch: &Batch<'_>,
        each: &mut dyn FnMut(KeyedRecord, bool) -> ControlFlow<()>,
    ) -> Result<(), CleaningError> {
        let hasher = self.hasher;
        let header = &batch.header;
        if header.magic < 2 {
            return for_each_message(batch, |offset, message| {
                let key = message.key.map(|key| hasher.hash(key));
                let record = KeyedRecord { offset, key, has_value: message.value.is_some() };
                Ok(each(record, message.magic == header.magic))
            });
        }
        let offset = |delta: i32| header.base_offset.wrapping_add(i64::from(delta));
        let mut inflated = std::mem::take(&mut self.inflated);
        let walked = (|| {
            let Some(mut rest) = plain_records(batch, &mut inflated)? else {
                let mut records = InflatedRecords::new(batch)?;
                while let Some(head) = records.next_head()? {
                    let mut key = XxHash3_128::with_seed(hasher.seed);
                    let (has_key, has_value) = records.take_key(&head, |piece| key.write(piece))?;
                    let key = has_key.then(|| key.finish_128());
                    let record = KeyedRecord { offset: offset(head.offset_delta), key, has_value };
                    if each(record, true).is_break() {
                        break;
                    }
                }
                return Ok(());
            };
            for _ in 0..record_count(header)? {
                let (record, behind) = RawRecord::first_of(rest)?;
                rest = behind;
                let key = record.key.map(|key| hasher.hash(key));
                let record =
                    KeyedRecord { offset: offset(record.offset_delta), key, has_value: record.value.is_some() };
                if each(record, true).is_break() {
                    return Ok(());
                }
            }
            check_end(rest)
        })();
        self.inflated = inflated;
        walked
    }
}

/// When tombstones and markers of the batch may go, if that was written into it.
pub(crate) fn delete_horizon(header: &BatchHeader) -> Option<i64> {
    (header.magic >= 2 && header.has_delete_horizon).then_some(header.base_timestamp)
}

/// What is left of a batch when all its records have gone, but its producer's last sequence must stay known.
pub(crate) fn emptied(header: &BatchHeader) -> [u8; HEADER_BYTES_V2] {
    let emptied = BatchHeader {
        size_in_bytes: HEADER_BYTES_V2,
        codec: Codec::None,
        has_delete_horizon: false,
        base_timestamp: NO_TIMESTAMP,
        record_count: 0,
        ..*header
    };
    let mut bytes = emptied.to_v2_bytes();
    let crc = crc32c::crc32c(&bytes[v2::CRC_COVERS_FROM..]);
    bytes[v2::CRC].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn is_kept(kept: &[u64], at: u32) -> bool {
    kept.get(at as usize / 64).is_some_and(|bits| bits >> (at % 64) & 1 == 1)
}

fn record_count(header: &BatchHeader) -> Result<u32, MalformedRecord> {
    u32::try_from(header.record_count).map_err(|_| MalformedRecord("the batch declares a negative record count"))
}

fn check_end(rest: &[u8]) -> Result<(), CleaningError> {
    match rest.is_empty() {
        true => Ok(()),
        false => Err(MalformedRecord("bytes are left over after the declared number of records").into()),
    }
}

fn check_growth(size: usize, header: &BatchHeader) -> Result<(), CleaningError> {
    if size > header.size_in_bytes.saturating_add(GROWTH_BYTES_MAX) || size > i32::MAX as usize {
        return Err(CleaningError::BatchTooLarge { size });
    }
    Ok(())
}

/// The records of a v2 batch without compression; `None` if they are more than is inflated at once.
fn plain_records<'a>(batch: &Batch<'a>, inflated: &'a mut Vec<u8>) -> Result<Option<&'a [u8]>, ReadError> {
    let header = &batch.header;
    // A batch that declares no records is not even decompressed.
    if header.codec == Codec::None || header.record_count <= 0 {
        return Ok(Some(if header.record_count == 0 && header.codec != Codec::None { &[] } else { batch.body() }));
    }
    inflated.clear();
    let source = Decompressor::new(header.codec, header.magic, batch.body())?;
    let read = source.take(INFLATED_BYTES_MAX as u64 + 1).read_to_end(inflated)?;
    Ok((read <= INFLATED_BYTES_MAX).then_some(inflated.as_slice()))
}

/// The messages of a set of magic 0 or 1, or the one that stands for itself, with their offsets.
fn for_each_message(
    batch: &Batch<'_>,
    mut each: impl FnMut(i64, &LegacyMessage<'_>) -> Result<ControlFlow<()>, CleaningError>,
) -> Result<(), CleaningError> {
    if batch.header.codec == Codec::None {
        let message = LegacyMessage::read(batch.bytes)?;
        return each(message.offset, &message).map(|_| ());
    }
    let set = MessageSet::survey(batch)?;
    let mut messages = InflatedMessages::new(batch)?;
    while let Some(entry) = messages.next(INFLATED_RECORD_BYTES_MAX)? {
        let message = LegacyMessage::read(entry)?;
        if each(set.base_offset.wrapping_add(message.offset), &message)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// A v2 batch that is being written anew.
struct Anew<'a> {
    builder: BatchBuilder,
    header: &'a BatchHeader,
    /// Records of the old batch so far.
    count: u32,
}

impl Anew<'_> {
    /// Whether the next record stays; then it has begun, and its fields follow.
    fn begin(&mut self, head: &RecordHead, kept: &[u64]) -> Result<bool, CleaningError> {
        let stays = is_kept(kept, self.count);
        self.count += 1;
        if stays {
            if head.offset_delta <= self.builder.last_offset_delta() {
                return Err(CleaningError::OffsetsDoNotGrow);
            }
            let timestamp = RecordTimes::of(self.header).timestamp(head.timestamp_delta);
            self.builder.begin_record(head.offset_delta, timestamp, head.fields_len);
        }
        Ok(stays)
    }

    fn copy_plain(&mut self, mut rest: &[u8], kept: &[u64]) -> Result<(), CleaningError> {
        for _ in 0..record_count(self.header)? {
            let (head, fields, behind) = split_record(rest)?;
            rest = behind;
            if self.begin(&head, kept)? {
                self.builder.put_fields(fields);
                check_growth(self.builder.written_size(), self.header)?;
            }
        }
        check_end(rest)
    }

    fn copy_inflated(&mut self, mut records: InflatedRecords<'_>, kept: &[u64]) -> Result<(), CleaningError> {
        while let Some(head) = records.next_head()? {
            if !self.begin(&head, kept)? {
                records.take(head.fields_len, |_| {})?;
                continue;
            }
            let (builder, mut grown) = (&mut self.builder, Ok(()));
            records.take(head.fields_len, |piece| {
                if grown.is_ok() {
                    builder.put_fields(piece);
                    grown = check_growth(builder.written_size(), self.header);
                }
            })?;
            grown?;
        }
        Ok(())
    }
}

/// The head of the record at the start of `bytes`, its fields, and what follows it.
fn split_record(bytes: &[u8]) -> Result<(RecordHead, &[u8], &[u8]), MalformedRecord> {
    let mut cursor = Cursor(bytes);
    let length = usize::try_from(cursor.varint()?).map_err(|_| MalformedRecord("a record has a negative length"))?;
    let record = cursor.0.split_at_checked(length);
    let (body, behind) = record.ok_or(MalformedRecord("a record is longer than what is left of its batch"))?;
    let mut cursor = Cursor(body);
    cursor.byte()?;
    let timestamp_delta = cursor.varlong()?;
    let offset_delta = cursor.varint()?;
    let fields = cursor.0;
    Ok((RecordHead { timestamp_delta, offset_delta, fields_len: fields.len() }, fields, behind))
}

#[cfg(test)]
#[path = "cleaning_tests.rs"]
mod tests;
