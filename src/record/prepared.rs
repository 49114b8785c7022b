//! Records that may be appended: validated, with a patched head before the untouched body, and waiting for the log's
//! next offset.

use bytes::Bytes;

use crate::record::batch::{
    Batch, BatchHeader, Batches, HEADER_BYTES_V0, HEADER_BYTES_V1, HEADER_BYTES_V2, LOG_APPEND_TIME_BIT, LegacyMessage,
    NO_TIMESTAMP, TimestampType,
};
use crate::record::build::MessageSetBuilder;
use crate::record::compression::Codec;
use crate::record::crc_shift::CrcShift;
use crate::record::header_fields::{self as fields, legacy, v2};

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
    pub(super) fn new(batches: Vec<PreparedBatch>, timestamp_type: TimestampType) -> Prepared {
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

    /// Whether a marker is among them.
    pub fn ends_transaction(&self) -> bool {
        self.batches.iter().any(|batch| batch.header.is_control)
    }

    pub fn timestamp_type(&self) -> TimestampType {
        self.timestamp_type
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

    /// Gives the records their place in the log and, if the topic stamps them itself, their time. Cheap, and may be repeated
    /// with other values.
    pub fn assign(&mut self, first_offset: i64, leader_epoch: i32, append_time_ms: i64) {
        self.max_timestamp = NO_TIMESTAMP;
        let append_time = (self.timestamp_type == TimestampType::LogAppendTime).then_some(append_time_ms);
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
pub(super) struct Messages {
    pub entries: Vec<u8>,
    /// Sets of magic 0 carry absolute offsets, so they can only be compressed once those are known.
    pub compression: Option<(Codec, Option<i32>)>,
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
    pub(super) fn untouched(header: BatchHeader, bytes: &Bytes, offsets: i64) -> PreparedBatch {
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
    pub(super) fn of_messages(
        first: BatchHeader,
        offsets: i64,
        max_timestamp: i64,
        messages: Messages,
    ) -> PreparedBatch {
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
    pub(super) fn with_timestamps(mut self, timestamp_type: TimestampType, max_timestamp: i64) -> PreparedBatch {
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
            self.head[v2::ATTRIBUTES].copy_from_slice(&attributes.to_be_bytes());
            self.head[v2::MAX_TIMESTAMP].copy_from_slice(&max_timestamp.to_be_bytes());
        } else {
            self.head[legacy::ATTRIBUTES] = attributes as u8;
            self.head[legacy::TIMESTAMP].copy_from_slice(&max_timestamp.to_be_bytes());
            self.header.base_timestamp = max_timestamp;
        }
        let after = shift.crc(self.covered_head());
        self.header.crc ^= shift.over_the_rest(before ^ after);
        let crc = if self.header.magic == 2 { v2::CRC } else { legacy::CRC };
        self.head[crc].copy_from_slice(&self.header.crc.to_be_bytes());
    }

    /// The part of the head that the checksum covers.
    fn covered_head(&self) -> &[u8] {
        let from = if self.header.magic == 2 { v2::CRC_COVERS_FROM } else { legacy::CRC_COVERS_FROM };
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
            self.head[v2::PARTITION_LEADER_EPOCH].copy_from_slice(&leader_epoch.to_be_bytes());
        } else {
            self.header.base_offset = last_offset;
        }
        self.head[fields::BASE_OFFSET].copy_from_slice(&self.header.base_offset.to_be_bytes());
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
    entry[fields::BASE_OFFSET].copy_from_slice(&offset.to_be_bytes());
    if entry[fields::MAGIC] == 0 {
        return;
    }
    let bit = LOG_APPEND_TIME_BIT as u8;
    match append_time {
        None if entry[legacy::ATTRIBUTES] & bit == 0 => return,
        None => entry[legacy::ATTRIBUTES] &= !bit,
        Some(append_time) => {
            entry[legacy::ATTRIBUTES] |= bit;
            entry[legacy::TIMESTAMP].copy_from_slice(&append_time.to_be_bytes());
        }
    }
    let crc = crc32fast::hash(&entry[legacy::CRC_COVERS_FROM..]);
    entry[legacy::CRC].copy_from_slice(&crc.to_be_bytes());
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
