//! Views over the bytes of batches: framing, headers, checksums, and the records of uncompressed batches.
//!
//! ```text
//! all      0 offset i64 | 8 size i32: what follows | 12 ... | 16 magic i8 | ...
//! v0      12 crc32 u32 over 16.. | 16 magic | 17 attributes i8 | 18 key, value (i32 length, -1 null, then bytes)
//! v1      12 crc32 u32 over 16.. | 16 magic | 17 attributes i8 | 18 timestamp i64 | 26 key, value
//! v2      12 partition leader epoch i32 | 16 magic | 17 crc32c u32 over 21.. | 21 attributes i16
//!         23 last offset delta i32 | 27 base timestamp i64 | 35 max timestamp i64 | 43 producer id i64
//!         51 producer epoch i16 | 53 base sequence i32 | 57 record count i32 | 61 records
//! record  length varint, then: attributes i8 | timestamp delta varlong | offset delta varint
//!         key, value (varint length, -1 null, then bytes) | header count varint | headers: key (not null), value
//! ```
//! In v0 and v1 the offset is that of the message, or of the last inner message of a compressed set; there, each
//! message stands for a batch of its own.
//! Source: kafka 3.9.0-rc3 clients/src/main/java/org/apache/kafka/common/record/{DefaultRecordBatch,DefaultRecord,
//! LegacyRecord,ByteBufferLogInputStream}.java.

use std::fmt;
use std::ops::Range;

use crate::record::compression::Codec;
use crate::record::header_fields::{self as fields, legacy, v2};

/// Offset and size, before every batch and not counted by the size.
pub const LOG_OVERHEAD: usize = 12;
/// Size of the fixed part of a v2 batch; as many bytes hold the header of any magic.
pub const HEADER_BYTES_V2: usize = 61;
/// Up to the length of the key.
pub const HEADER_BYTES_V1: usize = 26;
pub const HEADER_BYTES_V0: usize = 18;
/// The smallest value of the size field that may start a batch: a v0 message with null key and value.
pub(crate) const SIZE_MIN: i32 = 14;

pub const NO_TIMESTAMP: i64 = -1;
pub const NO_PRODUCER_ID: i64 = -1;
pub const NO_PRODUCER_EPOCH: i16 = -1;
pub const NO_SEQUENCE: i32 = -1;
pub const NO_LEADER_EPOCH: i32 = -1;

pub(crate) const CODEC_BITS: i16 = 0x07;
pub(crate) const LOG_APPEND_TIME_BIT: i16 = 0x08;
pub(crate) const TRANSACTIONAL_BIT: i16 = 0x10;
pub(crate) const CONTROL_BIT: i16 = 0x20;
pub(crate) const DELETE_HORIZON_BIT: i16 = 0x40;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// The producer's clock. Messages of magic 0 have no timestamp and count as this with -1.
    #[default]
    CreateTime,
    /// The leader's clock: every record of the batch has its max timestamp.
    LogAppendTime,
}

/// The bytes cannot be told apart into batches; nothing after this point can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorruptBatch {
    SizeTooSmall { size: i32 },
    UnknownMagic { magic: i8 },
    UnknownCodec { id: u8 },
}

impl fmt::Display for CorruptBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CorruptBatch::SizeTooSmall { size } => write!(f, "size field {size} is too small for a record batch"),
            CorruptBatch::UnknownMagic { magic } => write!(f, "unknown record batch magic {magic}"),
            CorruptBatch::UnknownCodec { id } => write!(f, "unknown compression codec id {id}"),
        }
    }
}

impl std::error::Error for CorruptBatch {}

/// The records inside a batch do not follow the format; says what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedRecord(pub &'static str);

impl fmt::Display for MalformedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for MalformedRecord {}

fn i16_at(bytes: &[u8], at: usize) -> Option<i16> {
    Some(i16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn i64_at(bytes: &[u8], at: usize) -> Option<i64> {
    Some(i64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// What the fixed part of a batch says, of any magic. Fields that v0 and v1 lack have Kafka's "none" values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record. In a compressed v0 or v1 set it is unknown without decompressing, and this is the
    /// last offset.
    pub base_offset: i64,
    /// Offset of the last record, inclusive. Compaction keeps it even if that record is gone.
    pub last_offset: i64,
    /// The whole batch, with offset and size fields.
    pub size_in_bytes: usize,
    pub partition_leader_epoch: i32,
    pub magic: u8,
    /// As stored: CRC-32C in v2, CRC-32 before.
    pub crc: u32,
    pub codec: Codec,
    pub timestamp_type: TimestampType,
    pub is_transactional: bool,
    pub is_control: bool,
    /// `base_timestamp` is the time at which the cleaner may drop the batch's tombstones (KIP-534).
    pub has_delete_horizon: bool,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    /// As declared in v2. 1 before, also for a compressed set, whose count only its contents tell.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`, which may end before the batch does: `HEADER_BYTES_V2` bytes are
    /// enough for any magic. `None` when there are too few bytes to tell.
    pub fn read(bytes: &[u8]) -> Result<Option<BatchHeader>, CorruptBatch> {
        let Some(size) = i32_at(bytes, fields::SIZE.start) else { return Ok(None) };
        if size < SIZE_MIN {
            return Err(CorruptBatch::SizeTooSmall { size });
        }
        let Some(&magic) = bytes.get(fields::MAGIC) else { return Ok(None) };
        let size_min = match magic {
            0 => HEADER_BYTES_V0 + 8 - LOG_OVERHEAD,
            1 => HEADER_BYTES_V1 + 8 - LOG_OVERHEAD,
            2 => HEADER_BYTES_V2 - LOG_OVERHEAD,
            _ => return Err(CorruptBatch::UnknownMagic { magic: magic as i8 }),
        };
        if (size as usize) < size_min {
            return Err(CorruptBatch::SizeTooSmall { size });
        }
        if magic == 2 { BatchHeader::read_v2(bytes, size) } else { BatchHeader::read_legacy(bytes, size, magic) }
    }

    fn read_v2(bytes: &[u8], size: i32) -> Result<Option<BatchHeader>, CorruptBatch> {
        let Some(head) = bytes.first_chunk::<HEADER_BYTES_V2>() else { return Ok(None) };
        let i32_of = |field: Range<usize>| i32_at(head, field.start).expect("every field is within the fixed part");
        let i64_of = |field: Range<usize>| i64_at(head, field.start).expect("every field is within the fixed part");
        let i16_of = |field: Range<usize>| i16_at(head, field.start).expect("every field is within the fixed part");
        let attributes = i16_of(v2::ATTRIBUTES);
        let codec_id = (attributes & CODEC_BITS) as u8;
        let base_offset = i64_of(fields::BASE_OFFSET);
        let last_offset_delta = i32_of(v2::LAST_OFFSET_DELTA);
        Ok(Some(BatchHeader {
            base_offset,
            last_offset: base_offset.wrapping_add(i64::from(last_offset_delta)),
            size_in_bytes: size as usize + LOG_OVERHEAD,
            partition_leader_epoch: i32_of(v2::PARTITION_LEADER_EPOCH),
            magic: 2,
            crc: i32_of(v2::CRC) as u32,
            codec: Codec::from_id(codec_id).ok_or(CorruptBatch::UnknownCodec { id: codec_id })?,
            timestamp_type: timestamp_type_of(attributes),
            is_transactional: attributes & TRANSACTIONAL_BIT != 0,
            is_control: attributes & CONTROL_BIT != 0,
            has_delete_horizon: attributes & DELETE_HORIZON_BIT != 0,
            last_offset_delta,
            base_timestamp: i64_of(v2::BASE_TIMESTAMP),
            max_timestamp: i64_of(v2::MAX_TIMESTAMP),
            producer_id: i64_of(v2::PRODUCER_ID),
            producer_epoch: i16_of(v2::PRODUCER_EPOCH),
            base_sequence: i32_of(v2::BASE_SEQUENCE),
            record_count: i32_of(v2::RECORD_COUNT),
        }))
    }

    fn read_legacy(bytes: &[u8], size: i32, magic: u8) -> Result<Option<BatchHeader>, CorruptBatch> {
        let timestamp = if magic == 0 { Some(NO_TIMESTAMP) } else { i64_at(bytes, legacy::TIMESTAMP.start) };
        let (Some(offset), Some(crc), Some(&attributes), Some(timestamp)) = (
            i64_at(bytes, fields::BASE_OFFSET.start),
            i32_at(bytes, legacy::CRC.start),
            bytes.get(legacy::ATTRIBUTES),
            timestamp,
        ) else {
            return Ok(None);
        };
        let attributes = i16::from(attributes);
        let codec_id = (attributes & CODEC_BITS) as u8;
        Ok(Some(BatchHeader {
            base_offset: offset,
            last_offset: offset,
            size_in_bytes: size as usize + LOG_OVERHEAD,
            partition_leader_epoch: NO_LEADER_EPOCH,
            magic,
            crc: crc as u32,
            codec: Codec::from_id(codec_id).ok_or(CorruptBatch::UnknownCodec { id: codec_id })?,
            timestamp_type: if magic == 0 { TimestampType::CreateTime } else { timestamp_type_of(attributes) },
            is_transactional: false,
            is_control: false,
            has_delete_horizon: false,
            last_offset_delta: 0,
            base_timestamp: timestamp,
            max_timestamp: timestamp,
            producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            base_sequence: NO_SEQUENCE,
            record_count: 1,
        }))
    }

    /// As Kafka asks it: any id below -1 counts as none too.
    pub fn has_producer_id(&self) -> bool {
        self.producer_id > NO_PRODUCER_ID
    }

    /// Sequence number of the last record; sequences go from the largest i32 to 0.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence == NO_SEQUENCE {
            return NO_SEQUENCE;
        }
        incremented_sequence(self.base_sequence, self.last_offset_delta)
    }

    /// The first offset after the batch.
    pub fn next_offset(&self) -> i64 {
        self.last_offset.wrapping_add(1)
    }

    pub(crate) fn attributes(&self) -> i16 {
        let mut attributes = i16::from(self.codec.id());
        if self.timestamp_type == TimestampType::LogAppendTime {
            attributes |= LOG_APPEND_TIME_BIT;
        }
        if self.is_transactional {
            attributes |= TRANSACTIONAL_BIT;
        }
        if self.is_control {
            attributes |= CONTROL_BIT;
        }
        if self.has_delete_horizon {
            attributes |= DELETE_HORIZON_BIT;
        }
        attributes
    }

    /// The fixed part of a v2 batch with these values.
    pub(crate) fn to_v2_bytes(self) -> [u8; HEADER_BYTES_V2] {
        let mut head = [0; HEADER_BYTES_V2];
        let size = (self.size_in_bytes - LOG_OVERHEAD) as i32;
        head[fields::BASE_OFFSET].copy_from_slice(&self.base_offset.to_be_bytes());
        head[fields::SIZE].copy_from_slice(&size.to_be_bytes());
        head[v2::PARTITION_LEADER_EPOCH].copy_from_slice(&self.partition_leader_epoch.to_be_bytes());
        head[fields::MAGIC] = 2;
        head[v2::CRC].copy_from_slice(&self.crc.to_be_bytes());
        head[v2::ATTRIBUTES].copy_from_slice(&self.attributes().to_be_bytes());
        head[v2::LAST_OFFSET_DELTA].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        head[v2::BASE_TIMESTAMP].copy_from_slice(&self.base_timestamp.to_be_bytes());
        head[v2::MAX_TIMESTAMP].copy_from_slice(&self.max_timestamp.to_be_bytes());
        head[v2::PRODUCER_ID].copy_from_slice(&self.producer_id.to_be_bytes());
        head[v2::PRODUCER_EPOCH].copy_from_slice(&self.producer_epoch.to_be_bytes());
        head[v2::BASE_SEQUENCE].copy_from_slice(&self.base_sequence.to_be_bytes());
        head[v2::RECORD_COUNT].copy_from_slice(&self.record_count.to_be_bytes());
        head
    }
}

fn timestamp_type_of(attributes: i16) -> TimestampType {
    if attributes & LOG_APPEND_TIME_BIT == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime }
}

/// A sequence number `count` further on; after the largest i32 comes 0.
pub fn incremented_sequence(sequence: i32, count: i32) -> i32 {
    ((i64::from(sequence) + i64::from(count)) & i64::from(i32::MAX)) as i32
}

/// One whole batch.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    pub header: BatchHeader,
    /// Exactly `header.size_in_bytes` of them.
    pub bytes: &'a [u8],
}

impl<'a> Batch<'a> {
    /// The batch at the start of `bytes`, if it is whole.
    pub fn first_of(bytes: &'a [u8]) -> Result<Option<Batch<'a>>, CorruptBatch> {
        let Some(header) = BatchHeader::read(bytes)? else { return Ok(None) };
        Ok(bytes.get(..header.size_in_bytes).map(|bytes| Batch { header, bytes }))
    }

    pub fn crc_is_valid(&self) -> bool {
        self.computed_crc() == self.header.crc
    }

    pub(crate) fn computed_crc(&self) -> u32 {
        computed_crc(self.header.magic, self.bytes)
    }

    /// What follows the fixed part of a v2 batch: records, or the compressed block of them.
    pub fn body(&self) -> &'a [u8] {
        self.bytes.get(HEADER_BYTES_V2..).unwrap_or_default()
    }

    /// Walks the records of an uncompressed batch. A compressed one yields a single error: `read` walks those.
    pub fn records(&self) -> Records<'a> {
        let header = &self.header;
        let state = if header.codec != Codec::None {
            Walk::Failed(MalformedRecord("the batch is compressed"))
        } else if header.magic < 2 {
            Walk::Legacy(Some(self.bytes))
        } else if header.record_count < 0 {
            Walk::Failed(MalformedRecord("the batch declares a negative record count"))
        } else {
            Walk::V2 { rest: self.body(), left: header.record_count }
        };
        Records { state, times: RecordTimes::of(header), base_offset: header.base_offset }
    }
}

fn computed_crc(magic: u8, batch: &[u8]) -> u32 {
    if magic == 2 {
        crc32c::crc32c(batch.get(v2::CRC_COVERS_FROM..).unwrap_or_default())
    } else {
        crc32fast::hash(batch.get(legacy::CRC_COVERS_FROM..).unwrap_or_default())
    }
}

/// The checksums of the batch at the start of `bytes`, even if its header makes no sense otherwise.
pub(crate) fn stored_and_computed_crc(bytes: &[u8]) -> Option<(u32, u32)> {
    let len = usize::try_from(i32_at(bytes, fields::SIZE.start)?).ok()? + LOG_OVERHEAD;
    let (batch, magic) = (bytes.get(..len)?, *bytes.get(fields::MAGIC)?);
    let stored = i32_at(batch, if magic == 2 { v2::CRC.start } else { legacy::CRC.start })? as u32;
    Some((stored, computed_crc(magic, batch)))
}

/// Iterates over the whole batches in `bytes`. What is left over at the end, because it is shorter than it says, is
/// ignored as Kafka does: fetch replies and old producers cut batches short.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    rest: &'a [u8],
    failed: bool,
}

impl<'a> Batches<'a> {
    pub fn new(bytes: &'a [u8]) -> Batches<'a> {
        Batches { rest: bytes, failed: false }
    }

    /// The bytes after the last batch returned.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<Batch<'a>, CorruptBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        match Batch::first_of(self.rest) {
            Ok(None) => None,
            Ok(Some(batch)) => {
                self.rest = self.rest.get(batch.bytes.len()..).unwrap_or_default();
                Some(Ok(batch))
            }
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}

/// How the timestamps of a v2 batch's records follow from its header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordTimes {
    base_timestamp: i64,
    append_time: Option<i64>,
}

impl RecordTimes {
    pub(crate) fn of(header: &BatchHeader) -> RecordTimes {
        let append_time = (header.timestamp_type == TimestampType::LogAppendTime).then_some(header.max_timestamp);
        RecordTimes { base_timestamp: header.base_timestamp, append_time }
    }

    pub(crate) fn timestamp(&self, delta: i64) -> i64 {
        self.append_time.unwrap_or_else(|| self.base_timestamp.wrapping_add(delta))
    }
}

/// One record, borrowed from its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Headers<'a>,
}

/// The headers of a record, decoded as they are walked; they were checked when the record was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    left: u32,
    rest: &'a [u8],
}

impl Headers<'_> {
    pub const NONE: Headers<'static> = Headers { left: 0, rest: &[] };

    pub fn is_empty(&self) -> bool {
        self.left == 0
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let mut cursor = Cursor(self.rest);
        let key = cursor.nullable_bytes().ok()??;
        let value = cursor.nullable_bytes().ok()?;
        self.rest = cursor.0;
        Some((key, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

/// See [`Batch::records`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    state: Walk<'a>,
    times: RecordTimes,
    base_offset: i64,
}

#[derive(Clone, Debug)]
enum Walk<'a> {
    V2 { rest: &'a [u8], left: i32 },
    Legacy(Option<&'a [u8]>),
    Failed(MalformedRecord),
    Done,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordView<'a>, MalformedRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = match &mut self.state {
            Walk::Done => return None,
            Walk::Failed(error) => Err(*error),
            Walk::Legacy(message) => {
                let bytes = message.take()?;
                LegacyMessage::read(bytes).map(|message| RecordView {
                    offset: self.base_offset,
                    timestamp: message.timestamp,
                    key: message.key,
                    value: message.value,
                    headers: Headers::NONE,
                })
            }
            Walk::V2 { rest, left: 0 } => {
                if rest.is_empty() {
                    return None;
                }
                Err(MalformedRecord("bytes are left over after the declared number of records"))
            }
            Walk::V2 { rest, left } => RawRecord::first_of(rest).map(|(record, after)| {
                *rest = after;
                *left -= 1;
                record.view(self.base_offset, &self.times)
            }),
        };
        if result.is_err() {
            self.state = Walk::Done;
        }
        Some(result)
    }
}

/// One v2 record as stored, with deltas.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawRecord<'a> {
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Headers<'a>,
}

impl<'a> RawRecord<'a> {
    /// Reads the record at the start of `bytes`, and returns what follows it.
    #[inline]
    pub(crate) fn first_of(bytes: &'a [u8]) -> Result<(RawRecord<'a>, &'a [u8]), MalformedRecord> {
        let mut cursor = Cursor(bytes);
        let length = cursor.varint()?;
        let length = usize::try_from(length).map_err(|_| MalformedRecord("a record has a negative length"))?;
        let (body, rest) = cursor
            .0
            .split_at_checked(length)
            .ok_or(MalformedRecord("a record is longer than what is left of its batch"))?;
        Ok((RawRecord::read_body(body)?, rest))
    }

    /// Reads a record without its length; `body` is exactly the record.
    #[inline]
    pub(crate) fn read_body(body: &'a [u8]) -> Result<RawRecord<'a>, MalformedRecord> {
        let mut cursor = Cursor(body);
        let _attributes = cursor.byte()?;
        let timestamp_delta = cursor.varlong()?;
        let offset_delta = cursor.varint()?;
        let key = cursor.nullable_bytes()?;
        let value = cursor.nullable_bytes()?;
        let headers = cursor.headers()?;
        if !cursor.0.is_empty() {
            return Err(MalformedRecord("a record is longer than its fields"));
        }
        Ok(RawRecord { timestamp_delta, offset_delta, key, value, headers })
    }

    pub(crate) fn view(&self, base_offset: i64, times: &RecordTimes) -> RecordView<'a> {
        RecordView {
            offset: base_offset.wrapping_add(i64::from(self.offset_delta)),
            timestamp: times.timestamp(self.timestamp_delta),
            key: self.key,
            value: self.value,
            headers: self.headers,
        }
    }
}

/// A message of magic 0 or 1, as stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LegacyMessage<'a> {
    /// As the size and offset fields before it say; for an inner message of a v1 set, relative.
    pub offset: i64,
    pub magic: u8,
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
}

impl<'a> LegacyMessage<'a> {
    /// `entry` is exactly one entry with its offset and size.
    pub(crate) fn read(entry: &'a [u8]) -> Result<LegacyMessage<'a>, MalformedRecord> {
        const SHORT: MalformedRecord = MalformedRecord("a message is shorter than its fields");
        let offset = i64_at(entry, fields::BASE_OFFSET.start).ok_or(SHORT)?;
        let magic = *entry.get(fields::MAGIC).ok_or(SHORT)?;
        let (timestamp, rest) = if magic == 0 {
            (NO_TIMESTAMP, entry.get(HEADER_BYTES_V0..))
        } else {
            (i64_at(entry, legacy::TIMESTAMP.start).ok_or(SHORT)?, entry.get(HEADER_BYTES_V1..))
        };
        let (key, rest) = nullable_i32_bytes(rest.ok_or(SHORT)?).ok_or(SHORT)?;
        let (value, _) = nullable_i32_bytes(rest).ok_or(SHORT)?;
        Ok(LegacyMessage { offset, magic, timestamp, key, value })
    }

    pub(crate) fn offset_of(entry: &[u8]) -> i64 {
        i64_at(entry, fields::BASE_OFFSET.start).unwrap_or_default()
    }

    pub(crate) fn is_compressed(entry: &[u8]) -> bool {
        entry.get(legacy::ATTRIBUTES).is_some_and(|attributes| i16::from(*attributes) & CODEC_BITS != 0)
    }

    /// The stored checksum and that of the bytes; the fields need not make sense.
    pub(crate) fn crcs_of(entry: &[u8]) -> (u32, u32) {
        let stored = i32_at(entry, legacy::CRC.start).unwrap_or_default() as u32;
        (stored, computed_crc(0, entry))
    }
}

/// A field with a length of four bytes; any negative length is null.
#[allow(clippy::type_complexity)]
fn nullable_i32_bytes(bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    match usize::try_from(i32::from_be_bytes(*length)) {
        Err(_) => Some((None, rest)),
        Ok(length) => rest.split_at_checked(length).map(|(field, rest)| (Some(field), rest)),
    }
}

/// Reads the variable-length fields of v2 records. The hot loop of every append: kept free of anything but the checks.
pub(crate) struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    #[inline(always)]
    pub(crate) fn byte(&mut self) -> Result<u8, MalformedRecord> {
        let (byte, rest) = self.0.split_first().ok_or(MalformedRecord("a record ends within a field"))?;
        self.0 = rest;
        Ok(*byte)
    }

    /// At most 5 bytes, zig-zag.
    #[inline(always)]
    pub(crate) fn varint(&mut self) -> Result<i32, MalformedRecord> {
        let raw = match *self.0 {
            [first, ref rest @ ..] if first < 0x80 => {
                self.0 = rest;
                u32::from(first)
            }
            [first, second, ref rest @ ..] if second < 0x80 => {
                self.0 = rest;
                u32::from(first & 0x7f) | u32::from(second) << 7
            }
            _ => self.long_varint()?,
        };
        Ok(((raw >> 1) as i32) ^ -((raw & 1) as i32))
    }

    fn long_varint(&mut self) -> Result<u32, MalformedRecord> {
        let mut raw = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte()?;
            raw |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(raw);
            }
        }
        Err(MalformedRecord("a varint is longer than 5 bytes"))
    }

    /// At most 10 bytes, zig-zag.
    #[inline(always)]
    pub(crate) fn varlong(&mut self) -> Result<i64, MalformedRecord> {
        let raw = match *self.0 {
            [first, ref rest @ ..] if first < 0x80 => {
                self.0 = rest;
                u64::from(first)
            }
            [first, second, ref rest @ ..] if second < 0x80 => {
                self.0 = rest;
                u64::from(first & 0x7f) | u64::from(second) << 7
            }
            _ => self.long_varlong()?,
        };
        Ok(((raw >> 1) as i64) ^ -((raw & 1) as i64))
    }

    fn long_varlong(&mut self) -> Result<u64, MalformedRecord> {
        let mut raw = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            raw |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(raw);
            }
        }
        Err(MalformedRecord("a varlong is longer than 10 bytes"))
    }

    /// Length, then bytes; any negative length is null.
    #[inline(always)]
    pub(crate) fn nullable_bytes(&mut self) -> Result<Option<&'a [u8]>, MalformedRecord> {
        let length = self.varint()?;
        if length < 0 {
            return Ok(None);
        }
        let (field, rest) =
            self.0.split_at_checked(length as usize).ok_or(MalformedRecord("a field is longer than its record"))?;
        self.0 = rest;
        Ok(Some(field))
    }

    #[inline(always)]
    fn headers(&mut self) -> Result<Headers<'a>, MalformedRecord> {
        let count = self.varint()?;
        if count == 0 {
            return Ok(Headers::NONE);
        }
        self.some_headers(count)
    }

    fn some_headers(&mut self, count: i32) -> Result<Headers<'a>, MalformedRecord> {
        let count = u32::try_from(count).map_err(|_| MalformedRecord("a record has a negative header count"))?;
        if count as usize > self.0.len() {
            return Err(MalformedRecord("a record has more headers than bytes"));
        }
        let headers = Headers { left: count, rest: self.0 };
        for _ in 0..count {
            self.nullable_bytes()?.ok_or(MalformedRecord("a header has a null key"))?;
            self.nullable_bytes()?;
        }
        Ok(headers)
    }
}

/// Appends a zig-zag varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, value: i32) {
    put_varlong(out, i64::from(value));
}

/// Appends a zig-zag varlong.
pub(crate) fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)) as u64;
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

/// Bytes that a varint or varlong takes.
pub(crate) fn varlong_len(value: i64) -> usize {
    let raw = ((value << 1) ^ (value >> 63)) as u64;
    (70 - (raw | 1).leading_zeros() as usize) / 7
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
