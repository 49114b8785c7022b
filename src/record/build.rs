//! Builds v2 batches, for coordinators, tools and tests, and wherever a batch has to be written anew.
//!
//! Source: kafka 3.9.0-rc3 clients/src/main/java/org/apache/kafka/common/record/{MemoryRecordsBuilder,
//! EndTransactionMarker,ControlRecordType}.java.

use bytes::Bytes;

use crate::record::batch::{
    BatchHeader, HEADER_BYTES_V2, NO_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, NO_TIMESTAMP,
    TimestampType, put_varint, put_varlong, varlong_len,
};
use crate::record::compression::Codec;

/// A header of a record: its key, and its value if not null.
pub type Header<'a> = (&'a [u8], Option<&'a [u8]>);

/// One v2 batch in the making. Without further calls: uncompressed, base offset 0, no producer.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    header: BatchHeader,
    level: Option<i32>,
    /// Room for the fixed part, then the records, uncompressed until the end.
    bytes: Vec<u8>,
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
            level: None,
            bytes: vec![0; HEADER_BYTES_V2],
        }
    }

    pub fn compression(mut self, codec: Codec, level: Option<i32>) -> BatchBuilder {
        self.header.codec = codec;
        self.level = level;
        self
    }

    pub fn base_offset(mut self, base_offset: i64) -> BatchBuilder {
        self.header.base_offset = base_offset;
        self
    }

    pub fn partition_leader_epoch(mut self, leader_epoch: i32) -> BatchBuilder {
        self.header.partition_leader_epoch = leader_epoch;
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
        if self.header.record_count == 0 {
            self.header.base_timestamp = timestamp;
        }
        if self.header.timestamp_type == TimestampType::CreateTime {
            self.header.max_timestamp = self.header.max_timestamp.max(timestamp);
        }
        self.header.record_count += 1;
        self.header.last_offset_delta = offset_delta;
        let timestamp_delta = timestamp.wrapping_sub(self.header.base_timestamp);

        let header_count = headers.clone().count();
        let headers_len: usize = headers.clone().map(|(key, value)| field_len(Some(key)) + field_len(value)).sum();
        let length = 1
            + varlong_len(timestamp_delta)
            + varlong_len(i64::from(offset_delta))
            + field_len(key)
            + field_len(value)
            + varlong_len(header_count as i64)
            + headers_len;
        let out = &mut self.bytes;
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
    }

    pub fn is_empty(&self) -> bool {
        self.header.record_count == 0
    }

    pub fn record_count(&self) -> i32 {
        self.header.record_count
    }

    /// What the batch would take without compression.
    pub fn uncompressed_size(&self) -> usize {
        self.bytes.len()
    }

    /// The batch, with its size and checksum. A batch without records is legal, as compaction leaves them.
    pub fn build(self) -> Bytes {
        let BatchBuilder { mut header, level: _, mut bytes } = self;
        header.last_offset_delta = header.last_offset_delta.max(0);
        header.size_in_bytes = bytes.len();
        bytes[..HEADER_BYTES_V2].copy_from_slice(&header.to_v2_bytes());
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        Bytes::from(bytes)
    }
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
