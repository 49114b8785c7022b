//! Everything a leader checks and rewrites before records enter its log, in two steps: [`prepare`] does the work that
//! needs no lock, [`Prepared::assign`] the little that needs the log's next offset.
//!
//! Source: kafka 3.9.0-rc3 storage/src/main/java/org/apache/kafka/storage/internals/log/LogValidator.java,
//! core/src/main/scala/kafka/log/UnifiedLog.scala (analyzeAndValidateRecords),
//! clients/src/main/java/org/apache/kafka/common/requests/ProduceRequest.java (validateRecords).

use std::fmt;

use bytes::Bytes;

use crate::record::batch::{
    Batch, BatchHeader, Batches, CorruptBatch, HEADER_BYTES_V0, HEADER_BYTES_V1, HEADER_BYTES_V2, LOG_APPEND_TIME_BIT,
    LegacyMessage, MalformedRecord, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_TIMESTAMP, RawRecord, RecordTimes,
    RecordView, SIZE_MIN, TimestampType, i32_at, stored_and_computed_crc,
};
use crate::record::build::{BatchBuilder, MessageSetBuilder};
use crate::record::compression::Codec;
use crate::record::read::{
    INFLATED_RECORD_BYTES_MAX, InflatedMessages, InflatedRecords, MessageSet, ReadError, for_each_record,
    inner_timestamp,
};

/// Rejected records are named one by one up to this many; Kafka names all of them, however many a batch inflates to.
const RECORD_ERRORS_MAX: usize = 1000;

/// Who appends. Clients are trusted least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOrigin {
    Client,
    /// A coordinator of this broker, which may write control batches.
    Coordinator,
    /// Bytes of the leader, as they are: never prepared here.
    Replication,
}

/// What the producer's protocol allows it to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptedSets {
    /// Produce before version 3: any magic, any number of batches.
    Any,
    /// Produce 3 to 6.
    OneV2BatchWithoutZstd,
    /// Produce 7 and later.
    OneV2Batch,
}

/// `compression.type` of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicCompression {
    /// `producer`: as the records came.
    Producer,
    /// The configured codec, at the level configured for it if any.
    Codec { codec: Codec, level: Option<i32> },
}

/// The settings of the topic and of the request that decide what becomes of records.
#[derive(Clone, Debug, PartialEq)]
pub struct AppendRules {
    pub origin: AppendOrigin,
    pub accepted_sets: AcceptedSets,
    /// `max.message.bytes`, for a whole batch.
    pub max_message_bytes: usize,
    /// `cleanup.policy` contains `compact`: keys must not be null.
    pub compacted: bool,
    pub compression: TopicCompression,
    /// The magic of the topic's log format: 2 unless an old `message.format.version` is in force.
    pub log_format: u8,
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms` and `message.timestamp.after.max.ms`; `i64::MAX` for no limit.
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
    /// False below `inter.broker.protocol.version` 2.1-IV0.
    pub zstd_allowed: bool,
}

impl Default for AppendRules {
    /// A topic with Kafka's default settings and a current client.
    fn default() -> AppendRules {
        AppendRules {
            origin: AppendOrigin::Client,
            accepted_sets: AcceptedSets::OneV2Batch,
            max_message_bytes: 1_048_588,
            compacted: false,
            compression: TopicCompression::Producer,
            log_format: 2,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: i64::MAX,
            zstd_allowed: true,
        }
    }
}

/// Why one record was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRecord {
    /// Position of the record in its batch, from 0.
    pub batch_index: i32,
    pub message: String,
}

/// Why records were refused. Beside each variant the name of the protocol's error that stands for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// CORRUPT_MESSAGE
    Corrupt(CorruptBatch),
    /// CORRUPT_MESSAGE
    CrcMismatch { stored: u32, computed: u32 },
    /// CORRUPT_MESSAGE: an inner message of a compressed set of magic 0 or 1.
    InnerCrcMismatch { stored: u32, computed: u32 },
    /// MESSAGE_TOO_LARGE
    BatchTooLarge { size: usize, max: usize },
    /// UNSUPPORTED_COMPRESSION_TYPE
    ZstdNotAllowed,
    /// UNSUPPORTED_FOR_MESSAGE_FORMAT: idempotent or transactional records in a log of magic 0 or 1.
    UnsupportedForLogFormat { magic: u8 },
    /// INVALID_RECORD: the batch as a whole.
    InvalidBatch(&'static str),
    /// INVALID_RECORD: its contents cannot be read.
    Malformed(MalformedRecord),
    /// INVALID_RECORD, with the records to name.
    InvalidRecords(Vec<RejectedRecord>),
    /// INVALID_TIMESTAMP, with the records to name, which may have other faults too.
    InvalidTimestamps(Vec<RejectedRecord>),
    /// UNKNOWN_SERVER_ERROR, as Kafka has it: codec ids 5 to 7.
    UnknownCodec { id: u8 },
    /// UNKNOWN_SERVER_ERROR, as Kafka has it: the codec refuses the compressed bytes.
    Decompression(String),
    /// UNKNOWN_SERVER_ERROR, as Kafka has it: the batch must be written anew for the topic, and that is not possible.
    CannotRebuild(&'static str),
}

impl RecordError {
    /// The records to name in the reply, if single records are to blame.
    pub fn rejected_records(&self) -> &[RejectedRecord] {
        match self {
            RecordError::InvalidRecords(rejected) | RecordError::InvalidTimestamps(rejected) => rejected,
            _ => &[],
        }
    }
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::Corrupt(corrupt) => corrupt.fmt(f),
            RecordError::CrcMismatch { stored, computed } => {
                write!(f, "record batch is corrupt: its crc is {stored}, its bytes have {computed}")
            }
            RecordError::InnerCrcMismatch { stored, computed } => {
                write!(f, "inner message is corrupt: its crc is {stored}, its bytes have {computed}")
            }
            RecordError::BatchTooLarge { size, max } => {
                write!(f, "record batch of {size} bytes is larger than the topic's max.message.bytes of {max}")
            }
            RecordError::ZstdNotAllowed => {
                f.write_str("zstd compression needs a newer version of the produce request or of the cluster")
            }
            RecordError::UnsupportedForLogFormat { magic } => {
                write!(f, "idempotent and transactional records cannot be kept in message format v{magic}")
            }
            RecordError::InvalidBatch(what) => f.write_str(what),
            RecordError::Malformed(malformed) => malformed.fmt(f),
            // Producers show these words, so they are Kafka's.
            RecordError::InvalidRecords(rejected) => {
                let shown: Vec<String> = rejected.iter().take(3).map(RejectedRecord::to_string).collect();
                write!(
                    f,
                    "One or more records have been rejected due to {} record errors in total, \
                     and only showing the first three errors at most: [{}]",
                    rejected.len(),
                    shown.join(", ")
                )
            }
            RecordError::InvalidTimestamps(_) => {
                f.write_str("One or more records have been rejected due to invalid timestamp")
            }
            RecordError::UnknownCodec { id } => write!(f, "unknown compression codec id {id}"),
            RecordError::Decompression(what) => write!(f, "decompress a record batch: {what}"),
            RecordError::CannotRebuild(why) => write!(f, "write a record batch anew for its topic: {why}"),
        }
    }
}

impl fmt::Display for RejectedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordError(batchIndex={}, message='{}')", self.batch_index, self.message)
    }
}

impl std::error::Error for RecordError {}

impl From<CorruptBatch> for RecordError {
    fn from(corrupt: CorruptBatch) -> RecordError {
        match corrupt {
            CorruptBatch::UnknownCodec { id } => RecordError::UnknownCodec { id },
            CorruptBatch::SizeTooSmall { .. } | CorruptBatch::UnknownMagic { .. } => RecordError::Corrupt(corrupt),
        }
    }
}

impl From<MalformedRecord> for RecordError {
    fn from(malformed: MalformedRecord) -> RecordError {
        RecordError::Malformed(malformed)
    }
}

impl From<ReadError> for RecordError {
    fn from(error: ReadError) -> RecordError {
        match error {
            ReadError::Corrupt(corrupt) => corrupt.into(),
            ReadError::Malformed(malformed) => malformed.into(),
            ReadError::Decompression(what) => RecordError::Decompression(what),
            ReadError::RecordTooLarge { size, max } => RecordError::BatchTooLarge { size, max },
        }
    }
}

/// Records that may be appended, but for their offsets.
#[derive(Clone, Debug)]
pub struct Prepared {
    batches: Vec<PreparedBatch>,
    timestamp_type: TimestampType,
    last_offset: i64,
    max_timestamp: i64,
    log_append_time_ms: i64,
}

impl Prepared {
    fn new(batches: Vec<PreparedBatch>, timestamp_type: TimestampType) -> Prepared {
        Prepared {
            batches,
            timestamp_type,
            last_offset: -1,
            max_timestamp: NO_TIMESTAMP,
            log_append_time_ms: NO_TIMESTAMP,
        }
    }

    /// In order of their offsets; at most one as things are.
    pub fn batches(&self) -> &[PreparedBatch] {
        &self.batches
    }

    /// Old producers may send nothing at all; that succeeds and appends nothing.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// How many offsets the records take.
    pub fn record_count(&self) -> i64 {
        self.batches.iter().map(|batch| batch.offsets).sum()
    }

    pub fn size_in_bytes(&self) -> usize {
        self.batches.iter().map(PreparedBatch::size_in_bytes).sum()
    }

    /// Gives the records their place in the log. Cheap, and may be repeated with other values.
    pub fn assign(&mut self, first_offset: i64, leader_epoch: i32, now_ms: i64) {
        self.max_timestamp = NO_TIMESTAMP;
        let append_time = (self.timestamp_type == TimestampType::LogAppendTime).then_some(now_ms);
        self.log_append_time_ms = append_time.unwrap_or(NO_TIMESTAMP);
        let mut next_offset = first_offset;
        for batch in &mut self.batches {
            batch.assign(next_offset, leader_epoch, append_time);
            next_offset += batch.offsets;
            self.max_timestamp = self.max_timestamp.max(batch.header.max_timestamp);
        }
        self.last_offset = next_offset - 1;
    }

    /// Offset of the last record, inclusive, once assigned.
    pub fn last_offset(&self) -> i64 {
        self.last_offset
    }

    /// The largest timestamp of all batches, -1 if none has any; once assigned.
    pub fn max_timestamp(&self) -> i64 {
        self.max_timestamp
    }

    /// The time given to all records, or -1 if they keep the producer's.
    pub fn log_append_time_ms(&self) -> i64 {
        self.log_append_time_ms
    }
}

/// One batch as it will be written: a head that is ours, and the rest as it came. In a log of magic 0 or 1, a run of
/// uncompressed messages counts as one batch here; its header then tells of all of them.
#[derive(Clone, Debug)]
pub struct PreparedBatch {
    header: BatchHeader,
    head: [u8; HEADER_BYTES_V2],
    head_len: usize,
    body: Bytes,
    /// How many offsets the batch takes.
    offsets: i64,
    /// What makes the CRC follow a change of the head; only for batches that will get the append time.
    crc_shift: Option<CrcShift>,
    messages: Option<Box<Messages>>,
}

/// Uncompressed messages of magic 0 or 1, each of which must be told its offset.
#[derive(Clone, Debug)]
struct Messages {
    entries: Vec<u8>,
    /// Sets of magic 0 carry absolute offsets, so they can only be compressed once those are known.
    compression: Option<(Codec, Option<i32>)>,
}

impl PreparedBatch {
    /// The facts of the batch, as they will stand in the log once assigned.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The first bytes to write.
    pub fn head(&self) -> &[u8] {
        &self.head[..self.head_len]
    }

    /// The bytes to write after the head.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    pub fn size_in_bytes(&self) -> usize {
        self.header.size_in_bytes
    }

    /// Takes over a whole batch. `header` must say what the batch's own fixed part says.
    fn untouched(header: BatchHeader, bytes: &Bytes, offsets: i64) -> PreparedBatch {
        let head_len = match header.magic {
            0 => HEADER_BYTES_V0,
            1 => HEADER_BYTES_V1,
            _ => HEADER_BYTES_V2,
        };
        let mut head = [0; HEADER_BYTES_V2];
        head[..head_len].copy_from_slice(&bytes[..head_len]);
        let body = bytes.slice(head_len..header.size_in_bytes);
        PreparedBatch { header, head, head_len, body, offsets, crc_shift: None, messages: None }
    }

    /// Takes over messages of magic 0 or 1 that are not compressed (yet). `first` is the header of one of them.
    fn of_messages(first: BatchHeader, offsets: i64, max_timestamp: i64, messages: Messages) -> PreparedBatch {
        let size_in_bytes = messages.entries.len();
        let header = BatchHeader { max_timestamp, size_in_bytes, timestamp_type: TimestampType::CreateTime, ..first };
        PreparedBatch {
            header,
            head: [0; HEADER_BYTES_V2],
            head_len: 0,
            body: Bytes::new(),
            offsets,
            crc_shift: None,
            messages: Some(Box::new(messages)),
        }
    }

    /// Makes the batch ready for the topic's kind of timestamps.
    fn with_timestamps(mut self, timestamp_type: TimestampType, max_timestamp: i64) -> PreparedBatch {
        match timestamp_type {
            // A producer may have been wrong about its largest timestamp.
            TimestampType::CreateTime => self.set_max_timestamp(TimestampType::CreateTime, max_timestamp),
            TimestampType::LogAppendTime => self.crc_shift = Some(self.new_crc_shift()),
        }
        self
    }

    /// Sets timestamp type and largest timestamp, which costs a look at neither body nor checksum when they are right.
    fn set_max_timestamp(&mut self, timestamp_type: TimestampType, max_timestamp: i64) {
        let is_right = self.header.timestamp_type == timestamp_type && self.header.max_timestamp == max_timestamp;
        if is_right || self.header.magic == 0 {
            return;
        }
        let shift = self.crc_shift.unwrap_or_else(|| self.new_crc_shift());
        let before = shift.crc(self.covered_head());
        self.header.timestamp_type = timestamp_type;
        self.header.max_timestamp = max_timestamp;
        let attributes = self.header.attributes();
        if self.header.magic == 2 {
            self.head[21..23].copy_from_slice(&attributes.to_be_bytes());
            self.head[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
        } else {
            self.head[17] = attributes as u8;
            self.head[18..26].copy_from_slice(&max_timestamp.to_be_bytes());
            self.header.base_timestamp = max_timestamp;
        }
        let after = shift.crc(self.covered_head());
        self.header.crc ^= shift.over_the_rest(before ^ after);
        let crc_at = if self.header.magic == 2 { 17 } else { 12 };
        self.head[crc_at..crc_at + 4].copy_from_slice(&self.header.crc.to_be_bytes());
    }

    /// The part of the head that the checksum covers.
    fn covered_head(&self) -> &[u8] {
        let from = if self.header.magic == 2 { 21 } else { 16 };
        &self.head[from..self.head_len]
    }

    fn new_crc_shift(&self) -> CrcShift {
        CrcShift::new(self.header.magic, self.body.len())
    }

    fn assign(&mut self, first_offset: i64, leader_epoch: i32, append_time: Option<i64>) {
        let last_offset = first_offset + self.offsets - 1;
        self.header.last_offset = last_offset;
        if self.messages.is_some() {
            return self.assign_messages(first_offset, append_time);
        }
        if self.header.magic == 2 {
            // Kafka counts records, but keeps the delta that the batch declares.
            self.header.base_offset = last_offset - i64::from(self.header.last_offset_delta);
            self.header.partition_leader_epoch = leader_epoch;
            self.head[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
        } else {
            self.header.base_offset = last_offset;
        }
        self.head[0..8].copy_from_slice(&self.header.base_offset.to_be_bytes());
        if let Some(append_time) = append_time {
            self.set_max_timestamp(TimestampType::LogAppendTime, append_time);
        }
    }

    fn assign_messages(&mut self, first_offset: i64, append_time: Option<i64>) {
        let messages = self.messages.as_ref().expect("only called for messages");
        self.header.base_offset = first_offset;
        let mut entries = messages.entries.clone();
        let (mut at, mut offset) = (0, first_offset);
        while let Some(entry) = entries.get_mut(at..).filter(|rest| !rest.is_empty()) {
            let size = Batch::first_of(entry).ok().flatten().expect("the entries were read before").bytes.len();
            rewrite_message(&mut entry[..size], offset, append_time);
            at += size;
            offset += 1;
        }
        if let (Some(append_time), 1) = (append_time, self.header.magic) {
            self.header.timestamp_type = TimestampType::LogAppendTime;
            self.header.max_timestamp = append_time;
        }
        if let Some((codec, level)) = messages.compression {
            entries = compressed_v0_set(&entries, codec, level);
            self.header.codec = codec;
            self.header.size_in_bytes = entries.len();
        }
        self.body = Bytes::from(entries);
    }
}

/// Gives a message of magic 0 or 1 its offset and the topic's kind of timestamp.
fn rewrite_message(entry: &mut [u8], offset: i64, append_time: Option<i64>) {
    entry[0..8].copy_from_slice(&offset.to_be_bytes());
    if entry[16] == 0 {
        return;
    }
    let bit = LOG_APPEND_TIME_BIT as u8;
    match append_time {
        None if entry[17] & bit == 0 => return,
        None => entry[17] &= !bit,
        Some(append_time) => {
            entry[17] |= bit;
            entry[18..26].copy_from_slice(&append_time.to_be_bytes());
        }
    }
    let crc = crc32fast::hash(&entry[16..]);
    entry[12..16].copy_from_slice(&crc.to_be_bytes());
}

fn compressed_v0_set(entries: &[u8], codec: Codec, level: Option<i32>) -> Vec<u8> {
    let mut builder = MessageSetBuilder::new(0, codec, level, TimestampType::CreateTime, 0);
    for batch in Batches::new(entries) {
        let message = batch.ok().and_then(|batch| LegacyMessage::read(batch.bytes).ok());
        let message = message.expect("the entries were read before");
        builder.append(message.offset, NO_TIMESTAMP, message.key, message.value);
    }
    builder.build()
}

/// CRCs are linear: when bytes at the front change, the CRC of the whole changes by the change of the front's CRC,
/// multiplied by x^(bits that follow). So a patched head never costs another walk over the body.
#[derive(Clone, Copy, Debug)]
struct CrcShift {
    magic: u8,
    factor: u32,
}

impl CrcShift {
    const CRC32C: u32 = 0x82f6_3b78;
    const CRC32: u32 = 0xedb8_8320;
    /// The polynomial 1; the highest bit is the lowest power, as everywhere in a reflected CRC.
    const ONE: u32 = 1 << 31;
    const X_TO_8: u32 = 1 << 23;

    fn new(magic: u8, bytes_after: usize) -> CrcShift {
        let mut shift = CrcShift { magic, factor: CrcShift::ONE };
        let (mut power, mut left) = (CrcShift::X_TO_8, bytes_after);
        while left > 0 {
            if left & 1 == 1 {
                shift.factor = shift.multiplied(shift.factor, power);
            }
            power = shift.multiplied(power, power);
            left >>= 1;
        }
        shift
    }

    fn multiplied(self, a: u32, mut b: u32) -> u32 {
        let polynomial = if self.magic == 2 { CrcShift::CRC32C } else { CrcShift::CRC32 };
        let mut product = 0;
        for power in (0..32).rev() {
            product ^= b & 0_u32.wrapping_sub((a >> power) & 1);
            b = (b >> 1) ^ (polynomial & 0_u32.wrapping_sub(b & 1));
        }
        product
    }

    fn over_the_rest(self, crc_change: u32) -> u32 {
        self.multiplied(self.factor, crc_change)
    }

    fn crc(self, bytes: &[u8]) -> u32 {
        if self.magic == 2 { crc32c::crc32c(bytes) } else { crc32fast::hash(bytes) }
    }
}

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
    let walked = walk(&records, &set, rules, now_ms)?;

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
struct Target {
    codec: Codec,
    level: Option<i32>,
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
    if matches!(records.get(16), Some(0 | 1)) && i32_at(records, 8).is_some_and(|size| size >= SIZE_MIN) {
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
struct SentSet {
    first: BatchHeader,
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
        if header.magic == 2 && rules.origin == AppendOrigin::Client && header.base_offset != 0 {
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
    if rules.origin == AppendOrigin::Client {
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
    fn check(&mut self, has_key: bool, timestamp: i64) {
        if !self.nothing_to_check {
            self.check_fully(has_key, timestamp);
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.count += 1;
    }

    fn check_fully(&mut self, has_key: bool, timestamp: i64) {
        if self.rules.compacted && !has_key {
            self.reject(|| "a compacted topic accepts no record without a key".to_owned());
        } else if self.rules.timestamp_type == TimestampType::CreateTime && timestamp != NO_TIMESTAMP {
            // Wraps as Kafka's arithmetic does, so that absurd timestamps meet the same end.
            let age_ms = self.now_ms.wrapping_sub(timestamp);
            let (before, after) = (self.rules.timestamp_before_max_ms, self.rules.timestamp_after_max_ms);
            if age_ms > before || age_ms.wrapping_neg() > after {
                self.any_invalid_timestamp = true;
                let (from, to) = (self.now_ms.wrapping_sub(before), self.now_ms.wrapping_add(after));
                self.reject(|| format!("timestamp {timestamp} is out of the accepted range [{from}, {to}]"));
            }
        } else if self.batch_type == TimestampType::LogAppendTime {
            self.any_invalid_timestamp = true;
            self.reject(|| "a producer must not mark its batches with log append time".to_owned());
        }
    }

    #[cold]
    fn reject(&mut self, message: impl FnOnce() -> String) {
        if self.rejected.len() < RECORD_ERRORS_MAX {
            let batch_index = i32::try_from(self.count).unwrap_or(i32::MAX);
            self.rejected.push(RejectedRecord { batch_index, message: message() });
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

/// Checks all records of all batches.
fn walk(records: &[u8], set: &SentSet, rules: &AppendRules, now_ms: i64) -> Result<Walked, RecordError> {
    let mut walked = Walked { count: 0, max_timestamp: NO_TIMESTAMP, offsets_are_in_order: true };
    for batch in Batches::new(records) {
        let batch = batch?;
        let header = &batch.header;
        check_header(header, &set.first, rules)?;
        let mut checks = RecordChecks::new(rules, header, now_ms);
        match (header.magic, header.codec) {
            (2, Codec::None) => walk_v2(&batch, &mut checks)?,
            (2, _) => walked.offsets_are_in_order = walk_compressed_v2(&batch, &mut checks)?,
            (_, Codec::None) => {
                let message = LegacyMessage::read(batch.bytes)?;
                checks.check(message.key.is_some(), message.timestamp);
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
        checks.check(record.key.is_some(), times.timestamp(record.timestamp_delta));
    }
    if !rest.is_empty() {
        return Err(MalformedRecord("bytes are left over after the declared number of records").into());
    }
    Ok(())
}

/// True if the offsets are in order.
fn walk_compressed_v2(batch: &Batch<'_>, checks: &mut RecordChecks<'_>) -> Result<bool, RecordError> {
    let times = RecordTimes::of(&batch.header);
    let mut records = InflatedRecords::new(batch)?;
    let mut in_order = true;
    while let Some(record) = records.skim()? {
        let offset = batch.header.base_offset.wrapping_add(i64::from(record.offset_delta));
        in_order &= offset == checks.count;
        checks.check(record.has_key, times.timestamp(record.timestamp_delta));
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
        if entry.get(16) != Some(&header.magic) {
            checks.reject(|| "an inner message has another magic than its set".to_owned());
            checks.count += 1;
            continue;
        }
        let (stored, computed) = LegacyMessage::crcs_of(entry);
        if computed != stored {
            return Err(RecordError::InnerCrcMismatch { stored, computed });
        }
        let message = LegacyMessage::read(entry)?;
        checks.check(message.key.is_some(), inner_timestamp(&message, header));
    }
    let set = MessageSet::new(header, checks.count, last_inner_offset)?;
    Ok(in_order && set.base_offset.wrapping_add(first_inner_offset) == 0)
}

/// Writes all records anew, in the topic's log format and codec. They have been checked before.
fn rebuilt(
    records: &[u8],
    set: &SentSet,
    target: Target,
    rules: &AppendRules,
    now_ms: i64,
) -> Result<PreparedBatch, RecordError> {
    if rules.log_format == 2 {
        rebuilt_as_v2(records, set, target, rules)
    } else {
        rebuilt_as_messages(records, target, rules, now_ms)
    }
}

fn rebuilt_as_v2(
    records: &[u8],
    set: &SentSet,
    target: Target,
    rules: &AppendRules,
) -> Result<PreparedBatch, RecordError> {
    let first = &set.first;
    let has_producer = first.producer_id != NO_PRODUCER_ID;
    if has_producer && (first.producer_epoch == NO_PRODUCER_EPOCH || first.base_sequence < 0) {
        return Err(RecordError::CannotRebuild("the producer's epoch or sequence is missing"));
    }
    if first.is_transactional && !has_producer {
        return Err(RecordError::CannotRebuild("a transactional batch has no producer id"));
    }
    let mut builder = BatchBuilder::new()
        .compression(target.codec, target.level)
        .producer(first.producer_id, first.producer_epoch, first.base_sequence)
        .transactional(first.is_transactional);
    for batch in Batches::new(records) {
        for_each_record(&batch?, INFLATED_RECORD_BYTES_MAX, |record| {
            check_rebuildable(record.timestamp)?;
            let RecordView { timestamp, key, value, headers, .. } = record;
            builder.append_at(builder.record_count(), timestamp, key, value, headers);
            check_size(builder.written_size(), rules)
        })?;
    }
    let bytes = builder.build();
    check_size(bytes.len(), rules)?;
    let header = BatchHeader::read(&bytes)?.expect("a built batch has a header");
    let batch = PreparedBatch::untouched(header, &bytes, i64::from(header.record_count));
    Ok(batch.with_timestamps(rules.timestamp_type, header.max_timestamp))
}

fn rebuilt_as_messages(
    records: &[u8],
    target: Target,
    rules: &AppendRules,
    now_ms: i64,
) -> Result<PreparedBatch, RecordError> {
    let magic = rules.log_format;
    if target.codec == Codec::Zstd {
        return Err(RecordError::CannotRebuild("zstd needs message format v2"));
    }
    // A set of magic 0 is compressed when its offsets are known.
    let codec_now = if magic == 0 { Codec::None } else { target.codec };
    let mut builder = MessageSetBuilder::new(magic, codec_now, target.level, rules.timestamp_type, 0);
    let mut max_timestamp = NO_TIMESTAMP;
    for batch in Batches::new(records) {
        for_each_record(&batch?, INFLATED_RECORD_BYTES_MAX, |mut record| {
            check_rebuildable(record.timestamp)?;
            if !record.headers.is_empty() {
                return Err(RecordError::CannotRebuild("record headers need message format v2"));
            }
            match (magic, rules.timestamp_type) {
                (0, _) => record.timestamp = NO_TIMESTAMP,
                (_, TimestampType::CreateTime) => {}
                (_, TimestampType::LogAppendTime) => record.timestamp = now_ms,
            }
            max_timestamp = max_timestamp.max(record.timestamp);
            let size_before = builder.written_size();
            builder.append(builder.count(), record.timestamp, record.key, record.value);
            // Without compression every message is a batch of its own.
            let is_one_batch = target.codec != Codec::None;
            check_size(builder.written_size() - if is_one_batch { 0 } else { size_before }, rules)
        })?;
    }
    let count = builder.count();
    let entries = builder.build();
    let header = BatchHeader::read(&entries)?.expect("a built message has a header");
    if codec_now != Codec::None {
        check_size(entries.len(), rules)?;
        let batch = PreparedBatch::untouched(header, &Bytes::from(entries), count);
        return Ok(batch.with_timestamps(rules.timestamp_type, max_timestamp));
    }
    let compression = (target.codec != Codec::None).then_some((target.codec, target.level));
    let messages = Messages { entries, compression };
    Ok(PreparedBatch::of_messages(header, count, max_timestamp, messages))
}

fn check_size(size: usize, rules: &AppendRules) -> Result<(), RecordError> {
    if size > rules.max_message_bytes {
        return Err(RecordError::BatchTooLarge { size, max: rules.max_message_bytes });
    }
    Ok(())
}

fn check_rebuildable(timestamp: i64) -> Result<(), RecordError> {
    if timestamp < NO_TIMESTAMP {
        return Err(RecordError::CannotRebuild("a record has a timestamp below -1"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "append_tests.rs"]
mod tests;
