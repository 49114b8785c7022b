//! Builds v2 batches, for coordinators, tools and tests, and wherever a batch has to be written anew.
//!
//! Source: kafka 3.9.0-rc3 clients/src/main/java/org/apache/kafka/common/record/{MemoryRecordsBuilder,
//! EndTransactionMarker,ControlRecordType}.java.

use bytes::Bytes;

use crate::record::batch::{
    BatchHeader, HEADER_BYTES_V0, HEADER_BYTES_V1, HEADER_BYTES_V2, LOG_APPEND_TIME_BIT, LOG_OVERHEAD, MalformedRecord,
    NO_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, NO_TIMESTAMP, TimestampType, put_varint,
    put_varlong, varlong_len,
};
use crate::record::compression::{Codec, Compressor};
use crate::record::header_fields::{self as fields, legacy};

/// A header of a record: its key, and its value if not null.
pub type Header<'a> = (&'a [u8], Option<&'a [u8]>);

/// One v2 batch in the making. Without further calls: uncompressed, base offset 0, no producer.
pub struct BatchBuilder {
    header: BatchHeader,
    /// Room for the fixed part, then the records as they will be written.
    out: Compressor,
    /// The record being written, if it goes through a codec.
    scratch: Vec<u8>,
    uncompressed_size: usize,
}

impl Default for BatchBuilder {
    fn default() -> BatchBuilder {
        BatchBuilder::new()
    }
}

impl BatchBuilder {
    pub fn new() -> BatchBuilder {
        BatchBuilder {
            header: BatchHeader {
                base_offset: 0,
                last_offset: -1,
                size_in_bytes: HEADER_BYTES_V2,
                partition_leader_epoch: NO_LEADER_EPOCH,
                magic: 2,
                crc: 0,
                codec: Codec::None,
                timestamp_type: TimestampType::CreateTime,
                is_transactional: false,
                is_control: false,
                has_delete_horizon: false,
                last_offset_delta: -1,
                base_timestamp: NO_TIMESTAMP,
                max_timestamp: NO_TIMESTAMP,
                producer_id: NO_PRODUCER_ID,
                producer_epoch: NO_PRODUCER_EPOCH,
                base_sequence: NO_SEQUENCE,
                record_count: 0,
            },
            out: Compressor::Plain(vec![0; HEADER_BYTES_V2]),
            scratch: Vec::new(),
            uncompressed_size: HEADER_BYTES_V2,
        }
    }

    /// To write a batch anew that lost some of its records: all but they is as it was, the last offset too, from which the
    /// producer's last sequence follows. With a delete horizon the records' times are told from it.
    pub(crate) fn rewriting(batch: &BatchHeader, delete_horizon_ms: Option<i64>) -> BatchBuilder {
        let mut builder = BatchBuilder::new().compression(batch.codec, None);
        builder.header = BatchHeader {
            last_offset_delta: -1,
            has_delete_horizon: delete_horizon_ms.is_some(),
            base_timestamp: delete_horizon_ms.unwrap_or(NO_TIMESTAMP),
            max_timestamp: match batch.timestamp_type {
                TimestampType::CreateTime => NO_TIMESTAMP,
                TimestampType::LogAppendTime => batch.max_timestamp,
            },
            record_count: 0,
            ..*batch
        };
        builder
    }

    pub fn compression(mut self, codec: Codec, level: Option<i32>) -> BatchBuilder {
        assert!(self.is_empty(), "the codec is chosen before the first record");
        self.header.codec = codec;
        self.out = Compressor::new(codec, level, 2, vec![0; HEADER_BYTES_V2]);
        self
    }

    pub fn base_offset(mut self, base_offset: i64) -> BatchBuilder {
        self.header.base_offset = base_offset;
        self
    }

    pub fn producer(mut self, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> BatchBuilder {
        self.header.producer_id = producer_id;
        self.header.producer_epoch = producer_epoch;
        self.header.base_sequence = base_sequence;
        self
    }

    pub fn transactional(mut self, is_transactional: bool) -> BatchBuilder {
        self.header.is_transactional = is_transactional;
        self
    }

    pub fn control(mut self, is_control: bool) -> BatchBuilder {
        self.header.is_control = is_control;
        self
    }

    /// All records take this time, whatever their own.
    #[cfg(test)]
    pub fn log_append_time(mut self, append_time_ms: i64) -> BatchBuilder {
        self.header.timestamp_type = TimestampType::LogAppendTime;
        self.header.max_timestamp = append_time_ms;
        self
    }

    /// Adds a record at the next offset.
    pub fn append(&mut self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header<'_>]) {
        self.append_at(self.header.last_offset_delta + 1, timestamp, key, value, headers.iter().copied());
    }

    /// Adds a record at a chosen distance from the base offset; distances only grow.
    pub fn append_at<'a>(
        &mut self,
        offset_delta: i32,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = Header<'a>> + Clone,
    ) {
        assert!(offset_delta > self.header.last_offset_delta, "offsets of a batch only grow");
        let timestamp_delta = self.note_record(offset_delta, timestamp);

        let header_count = headers.clone().count();
        let headers_len: usize = headers.clone().map(|(key, value)| field_len(Some(key)) + field_len(value)).sum();
        let length = 1
            + varlong_len(timestamp_delta)
            + varlong_len(i64::from(offset_delta))
            + field_len(key)
            + field_len(value)
            + varlong_len(header_count as i64)
            + headers_len;
        let out = match &mut self.out {
            Compressor::Plain(out) => out,
            _ => {
                self.scratch.clear();
                &mut self.scratch
            }
        };
        put_varlong(out, length as i64);
        out.push(0);
        put_varlong(out, timestamp_delta);
        put_varint(out, offset_delta);
        put_field(out, key);
        put_field(out, value);
        put_varlong(out, header_count as i64);
        for (key, value) in headers {
            put_field(out, Some(key));
            put_field(out, value);
        }
        if self.header.codec != Codec::None {
            self.out.put(&self.scratch);
        }
        self.uncompressed_size += varlong_len(length as i64) + length;
    }

    /// Counts a record, and returns how far it is from the base timestamp.
    fn note_record(&mut self, offset_delta: i32, timestamp: i64) -> i64 {
        if self.header.record_count == 0 && !self.header.has_delete_horizon {
            self.header.base_timestamp = timestamp;
        }
        if self.header.timestamp_type == TimestampType::CreateTime {
            self.header.max_timestamp = self.header.max_timestamp.max(timestamp);
        }
        self.header.record_count += 1;
        self.header.last_offset_delta = offset_delta;
        timestamp.wrapping_sub(self.header.base_timestamp)
    }

    /// Begins a record whose fields are stored already: `fields_len` bytes of them must follow by `put_fields`.
    pub(crate) fn begin_record(&mut self, offset_delta: i32, timestamp: i64, fields_len: usize) {
        assert!(offset_delta > self.header.last_offset_delta, "offsets of a batch only grow");
        let timestamp_delta = self.note_record(offset_delta, timestamp);
        let length = 1 + varlong_len(timestamp_delta) + varlong_len(i64::from(offset_delta)) + fields_len;
        self.scratch.clear();
        put_varlong(&mut self.scratch, length as i64);
        self.scratch.push(0);
        put_varlong(&mut self.scratch, timestamp_delta);
        put_varint(&mut self.scratch, offset_delta);
        self.out.put(&self.scratch);
        self.uncompressed_size += varlong_len(length as i64) + length;
    }

    pub(crate) fn put_fields(&mut self, fields: &[u8]) {
        self.out.put(fields);
    }

    pub(crate) fn last_offset_delta(&self) -> i32 {
        self.header.last_offset_delta
    }

    /// As `build`, of a batch that ends behind its last record.
    pub(crate) fn build_until(mut self, last_offset_delta: i32) -> Bytes {
        self.header.last_offset_delta = last_offset_delta;
        self.build()
    }

    pub fn is_empty(&self) -> bool {
        self.header.record_count == 0
    }

    pub fn record_count(&self) -> i32 {
        self.header.record_count
    }

    /// What the batch would take without compression.
    pub fn uncompressed_size(&self) -> usize {
        self.uncompressed_size
    }

    /// What has been written so far; codecs keep some of the last records back.
    pub fn written_size(&self) -> usize {
        self.out.compressed_so_far()
    }

    /// The batch, with its size and checksum. A batch without records is legal, as compaction leaves them.
    pub fn build(self) -> Bytes {
        let BatchBuilder { mut header, out, .. } = self;
        let mut bytes = out.finish();
        header.last_offset_delta = header.last_offset_delta.max(0);
        header.size_in_bytes = bytes.len();
        bytes[..HEADER_BYTES_V2].copy_from_slice(&header.to_v2_bytes());
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        Bytes::from(bytes)
    }
}

/// The last record of a transaction in one partition: a control batch of one record, 78 bytes.
pub fn end_transaction_marker(
    producer_id: i64,
    producer_epoch: i16,
    outcome: TransactionOutcome,
    coordinator_epoch: i32,
    timestamp: i64,
) -> Bytes {
    let mut builder =
        BatchBuilder::new().producer(producer_id, producer_epoch, NO_SEQUENCE).transactional(true).control(true);
    let mut key = [0; 4];
    key[2..4].copy_from_slice(&(outcome as i16).to_be_bytes());
    let mut value = [0; 6];
    value[2..6].copy_from_slice(&coordinator_epoch.to_be_bytes());
    builder.append(timestamp, Some(&key), Some(&value), &[]);
    builder.build()
}

/// How a transaction ended, by the type in the key of its marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum TransactionOutcome {
    Abort = 0,
    Commit = 1,
}

/// What the record of a control batch says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRecord {
    EndTransaction {
        outcome: TransactionOutcome,
        coordinator_epoch: i32,
    },
    /// Of a kind that is for KRaft or later than us; readers pass over it.
    Unknown {
        kind: i16,
    },
}

impl ControlRecord {
    pub fn read(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<ControlRecord, MalformedRecord> {
        const KEY: MalformedRecord = MalformedRecord("the key of a control record has no valid version and type");
        const VALUE: MalformedRecord = MalformedRecord("the value of a transaction marker is not valid");
        let [v0, v1, k0, k1] = *key.and_then(|key| key.first_chunk::<4>()).ok_or(KEY)?;
        if i16::from_be_bytes([v0, v1]) < 0 {
            return Err(KEY);
        }
        let outcome = match i16::from_be_bytes([k0, k1]) {
            0 => TransactionOutcome::Abort,
            1 => TransactionOutcome::Commit,
            kind => return Ok(ControlRecord::Unknown { kind }),
        };
        let [v0, v1, epoch @ ..] = *value.and_then(|value| value.first_chunk::<6>()).ok_or(VALUE)?;
        if i16::from_be_bytes([v0, v1]) < 0 {
            return Err(VALUE);
        }
        Ok(ControlRecord::EndTransaction { outcome, coordinator_epoch: i32::from_be_bytes(epoch) })
    }
}

/// A set of messages of magic 0 or 1, for logs and consumers of old formats.
pub(crate) struct MessageSetBuilder {
    magic: u8,
    codec: Codec,
    timestamp_type: TimestampType,
    base_offset: i64,
    last_offset: i64,
    max_timestamp: i64,
    count: i64,
    /// Room for the wrapper if there is a codec, then the entries.
    out: Compressor,
    entry: Vec<u8>,
}

impl MessageSetBuilder {
    /// `base_offset` is the offset of the first message to come. With log append time, the timestamps given must be
    /// that time.
    pub(crate) fn new(
        magic: u8,
        codec: Codec,
        level: Option<i32>,
        timestamp_type: TimestampType,
        base_offset: i64,
    ) -> MessageSetBuilder {
        let wrapper_len = if codec == Codec::None { 0 } else { MessageSetBuilder::wrapper_len(magic) };
        MessageSetBuilder {
            magic,
            codec,
            timestamp_type,
            base_offset,
            last_offset: base_offset,
            max_timestamp: NO_TIMESTAMP,
            count: 0,
            out: Compressor::new(codec, level, magic, vec![0; wrapper_len]),
            entry: Vec::new(),
        }
    }

    fn wrapper_len(magic: u8) -> usize {
        8 + if magic == 0 { HEADER_BYTES_V0 } else { HEADER_BYTES_V1 }
    }

    pub(crate) fn append(&mut self, offset: i64, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
        // Absolute in v0; in v1 relative, so that a broker can move a set by changing its wrapper only.
        let written_offset =
            if self.magic == 1 && self.codec != Codec::None { offset - self.base_offset } else { offset };
        self.last_offset = offset;
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.count += 1;
        let entry = &mut self.entry;
        entry.clear();
        put_message_head(entry, self.magic, written_offset, Codec::None, self.timestamp_type, timestamp);
        for field in [key, value] {
            let length = field.map_or(-1, |field| field.len() as i32);
            entry.extend_from_slice(&length.to_be_bytes());
            entry.extend_from_slice(field.unwrap_or_default());
        }
        seal_message(entry);
        self.out.put(entry);
    }

    pub(crate) fn count(&self) -> i64 {
        self.count
    }

    /// What has been written so far; codecs keep some of the last messages back.
    pub(crate) fn written_size(&self) -> usize {
        self.out.compressed_so_far()
    }

    /// The messages, or the one that wraps them. Nothing if there are none.
    pub(crate) fn build(self) -> Vec<u8> {
        if self.count == 0 {
            return Vec::new();
        }
        let mut bytes = self.out.finish();
        if self.codec != Codec::None {
            let wrapper_len = MessageSetBuilder::wrapper_len(self.magic);
            let mut head = Vec::with_capacity(wrapper_len);
            put_message_head(
                &mut head,
                self.magic,
                self.last_offset,
                self.codec,
                self.timestamp_type,
                self.max_timestamp,
            );
            head.extend_from_slice(&(-1_i32).to_be_bytes());
            head.extend_from_slice(&((bytes.len() - wrapper_len) as i32).to_be_bytes());
            bytes[..wrapper_len].copy_from_slice(&head);
            seal_message(&mut bytes);
        }
        bytes
    }
}

/// Everything up to the length of the key; size and checksum are still missing.
fn put_message_head(
    out: &mut Vec<u8>,
    magic: u8,
    offset: i64,
    codec: Codec,
    timestamp_type: TimestampType,
    timestamp: i64,
) {
    let log_append_time = magic > 0 && timestamp_type == TimestampType::LogAppendTime;
    let attributes = codec.id() | if log_append_time { LOG_APPEND_TIME_BIT as u8 } else { 0 };
    out.extend_from_slice(&offset.to_be_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&[magic, attributes]);
    if magic > 0 {
        out.extend_from_slice(&timestamp.to_be_bytes());
    }
}

/// Writes size and checksum of a message that is all there.
fn seal_message(entry: &mut [u8]) {
    let size = (entry.len() - LOG_OVERHEAD) as i32;
    entry[fields::SIZE].copy_from_slice(&size.to_be_bytes());
    let crc = crc32fast::hash(&entry[legacy::CRC_COVERS_FROM..]);
    entry[legacy::CRC].copy_from_slice(&crc.to_be_bytes());
}

fn field_len(field: Option<&[u8]>) -> usize {
    match field {
        None => 1,
        Some(field) => varlong_len(field.len() as i64) + field.len(),
    }
}

fn put_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => put_varint(out, -1),
        Some(field) => {
            put_varlong(out, field.len() as i64);
            out.extend_from_slice(field);
        }
    }
}
