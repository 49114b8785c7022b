//! Why records are refused, as cases that a caller tells apart.

use std::fmt;

use crate::record::batch::{CorruptBatch, MalformedRecord};
use crate::record::read::ReadError;

/// Why one record was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRecord {
    /// Position of the record in its batch, from 0.
    pub batch_index: i32,
    pub why: Rejection,
}

/// What is wrong with a record. Names of records are as Kafka's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// In a compacted topic.
    NoKey,
    /// Of the times that may enter, the first and the last.
    TimestampOutOfRange { timestamp: i64, offset: i64, first: i64, last: i64 },
    /// Only brokers say when a record was appended.
    LogAppendTime { record: String },
    /// An inner message has another magic than its set.
    OtherMagic { record: String, magic: u8 },
}

impl RejectedRecord {
    /// Producers show these words, so they are Kafka's.
    pub fn message(&self, topic: &str, partition: i32) -> String {
        match &self.why {
            Rejection::NoKey => {
                format!("Compacted topic cannot accept message without key in topic partition {topic}-{partition}")
            }
            Rejection::TimestampOutOfRange { timestamp, offset, first, last } => format!(
                "Timestamp {timestamp} of message with offset {offset} is out of range. The timestamp should be within \
                 [{first}, {last}]"
            ),
            Rejection::LogAppendTime { record } => format!(
                "Invalid timestamp type in message {record}. Producer should not set timestamp type to LogAppendTime."
            ),
            Rejection::OtherMagic { record, magic } => format!(
                "Record {record}'s magic does not match outer magic {magic} in topic partition {topic}-{partition}"
            ),
        }
    }
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
    /// UNSUPPORTED_COMPRESSION_TYPE: codec ids 5 to 7. Kafka stumbles over these and the next two, and answers
    /// UNKNOWN_SERVER_ERROR; but it is the client's bytes that are at fault, and its records that it must not send again.
    UnknownCodec { id: u8 },
    /// INVALID_RECORD: the codec refuses the compressed bytes, though their checksum holds.
    Decompression(String),
    /// INVALID_RECORD: the batch must be written anew for the topic, and that is not possible.
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

    /// What is told beside the error, if single records are to blame; of the others Kafka says no more than what its error
    /// says. Producers show these words, so they are Kafka's.
    pub fn message(&self, topic: &str, partition: i32) -> Option<String> {
        match self {
            RecordError::InvalidRecords(rejected) => {
                let shown = rejected.iter().take(3).map(|record| {
                    let message = record.message(topic, partition);
                    format!("RecordError(batchIndex={}, message='{message}')", record.batch_index)
                });
                Some(format!(
                    "One or more records have been rejected due to {} record errors in total, \
                     and only showing the first three errors at most: [{}]",
                    rejected.len(),
                    shown.collect::<Vec<_>>().join(", ")
                ))
            }
            RecordError::InvalidTimestamps(_) => {
                Some("One or more records have been rejected due to invalid timestamp".to_owned())
            }
            _ => None,
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
            RecordError::InvalidRecords(rejected) => write!(f, "{} records of a batch are refused", rejected.len()),
            RecordError::InvalidTimestamps(rejected) => {
                write!(f, "{} records of a batch are refused, some for their timestamps", rejected.len())
            }
            RecordError::UnknownCodec { id } => write!(f, "unknown compression codec id {id}"),
            RecordError::Decompression(what) => write!(f, "decompress a record batch: {what}"),
            RecordError::CannotRebuild(why) => write!(f, "write a record batch anew for its topic: {why}"),
        }
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
