//! Down-conversion: batches of a newer magic as message sets of magic 0 or 1, for consumers that know nothing else.
//!
//! A fetch reply promises the length of a partition's records before they are converted, so that conversion can go on
//! while the socket drains: the first batch is converted at once, since a consumer needs one whole batch to get on,
//! the rest in chunks. What the conversion falls short of the promise is filled with the start of a batch that is
//! larger than what follows, which consumers throw away as cut short; what exceeds it is cut off.
//!
//! Source: kafka 3.9.0-rc3 clients/src/main/java/org/apache/kafka/common/record/{RecordsUtil,LazyDownConversionRecords,
//! LazyDownConversionRecordsSend}.java.

use std::fmt;

use bytes::Bytes;

use crate::record::batch::{Batch, Batches, HEADER_BYTES_V2, LOG_OVERHEAD};
use crate::record::build::MessageSetBuilder;
use crate::record::compression::Codec;
use crate::record::read::{INFLATED_RECORD_BYTES_MAX, ReadError, for_each_record};

/// How much of the log is converted at a time, if one batch is not larger; and the largest piece of filler.
const CHUNK_BYTES: usize = 128 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConvertError {
    /// UNSUPPORTED_COMPRESSION_TYPE: consumers this old cannot read zstd.
    Zstd,
    /// The log itself cannot be read.
    Read(ReadError),
}

impl fmt::Display for ConvertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConvertError::Zstd => f.write_str("zstd-compressed batches cannot be converted for an old consumer"),
            ConvertError::Read(error) => write!(f, "convert a batch for an old consumer: {error}"),
        }
    }
}

impl std::error::Error for ConvertError {}

impl From<ReadError> for ConvertError {
    fn from(error: ReadError) -> ConvertError {
        ConvertError::Read(error)
    }
}

/// Records on their way to an old consumer: an iterator over pieces that have the promised length together.
#[derive(Clone, Debug)]
pub struct DownConversion {
    to_magic: u8,
    /// What the consumer asked for; uncompressed records below are left out, since nothing else could tell them apart.
    fetch_offset: i64,
    source: Bytes,
    first: Option<Bytes>,
    /// What of the promise is still to come.
    left: usize,
    passed_over: Option<usize>,
    filler_has_begun: bool,
}

impl DownConversion {
    /// Converts the first batch that leaves anything. An error in a later one ends the conversion: the consumer comes
    /// back for that batch and gets the error then.
    pub fn new(source: Bytes, to_magic: u8, fetch_offset: i64) -> Result<DownConversion, ConvertError> {
        let source_len = source.len();
        let mut conversion = DownConversion {
            to_magic,
            fetch_offset,
            source,
            first: None,
            left: 0,
            passed_over: None,
            filler_has_begun: false,
        };
        conversion.first = conversion.converted(0)?;
        let passed_over = source_len - conversion.source.len();
        (conversion.left, conversion.passed_over) = match &conversion.first {
            Some(first) => (source_len.max(first.len()), None),
            // A reply without bytes would be asked for again for ever: this one tells of a batch beyond the limit.
            None if passed_over > 0 => (LOG_OVERHEAD, Some(passed_over)),
            None => (0, Some(0)),
        };
        Ok(conversion)
    }

    /// How many bytes of whole batches there are, if none of them leaves anything.
    pub fn passed_over(&self) -> Option<usize> {
        self.passed_over
    }

    /// How many bytes are still to come; before the first piece, what the reply must promise.
    #[cfg(test)]
    pub fn remaining_bytes(&self) -> usize {
        self.left
    }

    /// The next batches together, `source_bytes_max` of them or a single one, and more if these leave nothing.
    fn converted(&mut self, source_bytes_max: usize) -> Result<Option<Bytes>, ConvertError> {
        loop {
            let mut chunk_len = 0;
            for batch in Batches::new(&self.source) {
                let len = batch.map_err(ReadError::from)?.bytes.len();
                if chunk_len > 0 && chunk_len + len > source_bytes_max {
                    break;
                }
                chunk_len += len;
            }
            if chunk_len == 0 {
                return Ok(None);
            }
            let chunk = self.source.split_to(chunk_len);
            let mut out = Vec::new();
            for batch in Batches::new(&chunk) {
                let batch = batch.map_err(ReadError::from)?;
                down_convert(&batch, self.to_magic, self.fetch_offset, &mut out)?;
            }
            if !out.is_empty() {
                // It stays in memory until the consumer takes it.
                out.shrink_to_fit();
                return Ok(Some(Bytes::from(out)));
            }
        }
    }

    fn filler(&mut self) -> Bytes {
        let mut filler = vec![0; self.left.min(CHUNK_BYTES)];
        if !self.filler_has_begun {
            self.filler_has_begun = true;
            let size = i32::try_from(self.left + 1).unwrap_or(i32::MAX).max(HEADER_BYTES_V2 as i32);
            let head = [&(-1_i64).to_be_bytes()[..], &size.to_be_bytes()].concat();
            let len = head.len().min(filler.len());
            filler[..len].copy_from_slice(&head[..len]);
        }
        Bytes::from(filler)
    }
}

impl Iterator for DownConversion {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.left == 0 {
            return None;
        }
        let converted = match self.first.take() {
            Some(first) => Some(first),
            None if self.filler_has_begun => None,
            None => self.converted(CHUNK_BYTES).unwrap_or_default(),
        };
        let mut piece = match converted {
            Some(piece) => piece,
            None => self.filler(),
        };
        piece.truncate(self.left);
        self.left -= piece.len();
        Some(piece)
    }
}

fn down_convert(batch: &Batch<'_>, to_magic: u8, fetch_offset: i64, out: &mut Vec<u8>) -> Result<(), ConvertError> {
    let header = &batch.header;
    if header.is_control {
        return Ok(());
    }
    if header.codec == Codec::Zstd {
        return Err(ConvertError::Zstd);
    }
    if header.magic <= to_magic {
        out.extend_from_slice(batch.bytes);
        return Ok(());
    }
    let mut builder: Option<MessageSetBuilder> = None;
    for_each_record::<ReadError>(batch, INFLATED_RECORD_BYTES_MAX, |record| {
        if header.codec != Codec::None || record.offset >= fetch_offset {
            let builder = builder.get_or_insert_with(|| {
                MessageSetBuilder::new(to_magic, header.codec, None, header.timestamp_type, record.offset)
            });
            builder.append(record.offset, record.timestamp, record.key, record.value);
        }
        Ok(())
    })?;
    if let Some(builder) = builder {
        out.extend_from_slice(&builder.build());
    }
    Ok(())
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
