//! Reads the records of batches of every magic and codec, compressed ones as a stream: memory stays within one window
//! and the largest single record.
//!
//! Source: kafka 3.9.0-rc3 clients/src/main/java/org/apache/kafka/common/record/{DefaultRecordBatch,DefaultRecord,
//! AbstractLegacyRecordBatch}.java.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Read};

use bytes::Bytes;

use crate::record::batch::{
    self, Batch, BatchHeader, Batches, CorruptBatch, Cursor, LOG_OVERHEAD, LegacyMessage, MalformedRecord, RawRecord,
    RecordTimes, RecordView, TimestampType,
};
use crate::record::compression::{Codec, Decompressor};

/// What is decompressed ahead.
const WINDOW_BYTES: usize = 64 * 1024;
/// The largest record that is read whole out of a compressed batch: more than any broker accepts by default a hundred
/// times over, and little enough to survive.
pub(crate) const INFLATED_RECORD_BYTES_MAX: usize = 256 << 20;

/// Why the records of a batch cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    Corrupt(CorruptBatch),
    Malformed(MalformedRecord),
    /// The codec refuses the bytes.
    Decompression(String),
    /// A record inflates to more than this process is willing to hold.
    RecordTooLarge {
        size: usize,
        max: usize,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Corrupt(corrupt) => corrupt.fmt(f),
            ReadError::Malformed(malformed) => malformed.fmt(f),
            ReadError::Decompression(what) => write!(f, "decompress a record batch: {what}"),
            ReadError::RecordTooLarge { size, max } => {
                write!(f, "a record inflates to {size} bytes, more than the {max} that are read at once")
            }
        }
    }
}

impl std::error::Error for ReadError {}

impl From<CorruptBatch> for ReadError {
    fn from(corrupt: CorruptBatch) -> ReadError {
        ReadError::Corrupt(corrupt)
    }
}

impl From<MalformedRecord> for ReadError {
    fn from(malformed: MalformedRecord) -> ReadError {
        ReadError::Malformed(malformed)
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> ReadError {
        ReadError::Decompression(error.to_string())
    }
}

const ENDS_EARLY: ReadError =
    ReadError::Malformed(MalformedRecord("the compressed records end before the declared number of records"));

/// One record, owning what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

impl Record {
    /// `owner` holds the bytes that `view` points into.
    fn of(view: RecordView<'_>, owner: &Bytes) -> Record {
        Record {
            offset: view.offset,
            timestamp: view.timestamp,
            key: view.key.map(|key| owner.slice_ref(key)),
            value: view.value.map(|value| owner.slice_ref(value)),
            headers: view
                .headers
                .map(|(key, value)| (owner.slice_ref(key), value.map(|value| owner.slice_ref(value))))
                .collect(),
        }
    }
}

/// The whole batches of `bytes`, one after another. Checksums are the caller's to check.
pub fn batches(bytes: &Bytes) -> impl Iterator<Item = Result<ReadBatch<'_>, ReadError>> {
    Batches::new(bytes).map(move |batch| Ok(ReadBatch { batch: batch?, owner: bytes }))
}

/// All records of all batches, control records too. Ends after the first error.
pub fn records(bytes: &Bytes) -> impl Iterator<Item = Result<Record, ReadError>> {
    let mut failed = false;
    batches(bytes)
        .flat_map(|batch| -> Box<dyn Iterator<Item = Result<Record, ReadError>>> {
            match batch.and_then(ReadBatch::records) {
                Ok(records) => Box::new(records),
                Err(error) => Box::new(std::iter::once(Err(error))),
            }
        })
        .take_while(move |record| {
            let goes_on = !failed;
            failed |= record.is_err();
            goes_on
        })
}

/// One batch and the buffer it lies in.
#[derive(Clone, Copy, Debug)]
pub struct ReadBatch<'a> {
    pub batch: Batch<'a>,
    owner: &'a Bytes,
}

impl<'a> ReadBatch<'a> {
    pub fn header(&self) -> &BatchHeader {
        &self.batch.header
    }

    pub fn crc_is_valid(&self) -> bool {
        self.batch.crc_is_valid()
    }

    pub fn records(self) -> Result<BatchRecords<'a>, ReadError> {
        let header = self.batch.header;
        let source = if header.codec == Codec::None {
            RecordSource::Plain { records: self.batch.records(), owner: self.owner }
        } else if header.magic == 2 {
            RecordSource::Inflated(InflatedRecords::new(&self.batch)?)
        } else {
            let set = MessageSet::survey(&self.batch)?;
            RecordSource::Messages { set, messages: InflatedMessages::new(&self.batch)? }
        };
        Ok(BatchRecords { source, header, failed: false })
    }
}

/// The records of one batch.
pub struct BatchRecords<'a> {
    source: RecordSource<'a>,
    header: BatchHeader,
    failed: bool,
}

enum RecordSource<'a> {
    Plain { records: batch::Records<'a>, owner: &'a Bytes },
    Inflated(InflatedRecords<'a>),
    Messages { set: MessageSet, messages: InflatedMessages<'a> },
}

impl BatchRecords<'_> {
    fn read_next(&mut self) -> Result<Option<Record>, ReadError> {
        Ok(match &mut self.source {
            RecordSource::Plain { records, owner } => match records.next() {
                None => None,
                Some(view) => Some(Record::of(view?, owner)),
            },
            RecordSource::Inflated(records) => match records.next_body(INFLATED_RECORD_BYTES_MAX)? {
                None => None,
                Some(body) => {
                    let owner = Bytes::copy_from_slice(body);
                    let view =
                        RawRecord::read_body(&owner)?.view(self.header.base_offset, &RecordTimes::of(&self.header));
                    Some(Record::of(view, &owner))
                }
            },
            RecordSource::Messages { set, messages } => match messages.next(INFLATED_RECORD_BYTES_MAX)? {
                None => None,
                Some(entry) => {
                    let owner = Bytes::copy_from_slice(entry);
                    let message = LegacyMessage::read(&owner)?;
                    Some(Record::of(set.view(&message, &self.header), &owner))
                }
            },
        })
    }
}

impl Iterator for BatchRecords<'_> {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.read_next().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

/// Shows the records of a batch one by one without copying them out; none may inflate to more than `bytes_max`.
pub(crate) fn for_each_record<E: From<ReadError>>(
    batch: &Batch<'_>,
    bytes_max: usize,
    mut each: impl FnMut(RecordView<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let header = &batch.header;
    if header.codec == Codec::None {
        for record in batch.records() {
            each(record.map_err(ReadError::from)?)?;
        }
    } else if header.magic == 2 {
        let times = RecordTimes::of(header);
        let mut records = InflatedRecords::new(batch)?;
        while let Some(body) = records.next_body(bytes_max)? {
            each(RawRecord::read_body(body).map_err(ReadError::from)?.view(header.base_offset, &times))?;
        }
    } else {
        let set = MessageSet::survey(batch)?;
        let mut messages = InflatedMessages::new(batch)?;
        while let Some(entry) = messages.next(bytes_max)? {
            each(set.view(&LegacyMessage::read(entry).map_err(ReadError::from)?, header))?;
        }
    }
    Ok(())
}

thread_local! {
    /// One window is kept per thread, since a small batch costs less than clearing a new one.
    static WINDOW: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Uncompressed bytes that were read ahead.
struct Window<'a> {
    source: Decompressor<'a>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl<'a> Window<'a> {
    fn new(source: Decompressor<'a>) -> Window<'a> {
        let mut buffer = WINDOW.take();
        buffer.resize(WINDOW_BYTES, 0);
        Window { source, buffer, start: 0, end: 0 }
    }

    fn available(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn consume(&mut self, len: usize) {
        self.start += len;
    }

    /// Reads ahead until `wanted` bytes are there in one piece; false if the source ends before. The buffer grows with
    /// the bytes that arrive, not with those that are wanted.
    #[inline]
    fn fill(&mut self, wanted: usize) -> io::Result<bool> {
        if self.end - self.start >= wanted {
            return Ok(true);
        }
        self.fill_from_source(wanted)
    }

    fn fill_from_source(&mut self, wanted: usize) -> io::Result<bool> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        while self.end < wanted {
            if self.end == self.buffer.len() {
                self.buffer.resize(wanted.min(self.end * 2), 0);
            }
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(len) => self.end += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Passes over `len` bytes without holding them.
    fn skip(&mut self, mut len: usize) -> Result<(), ReadError> {
        loop {
            let now = len.min(self.end - self.start);
            self.consume(now);
            len -= now;
            if len == 0 {
                return Ok(());
            }
            if !self.fill(1)? {
                return Err(ENDS_EARLY);
            }
        }
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        if buffer.len() <= WINDOW_BYTES {
            buffer.resize(WINDOW_BYTES, 0);
            WINDOW.set(buffer);
        }
    }
}

/// What validation wants to know of a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SkimmedRecord {
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub key_len: Option<usize>,
    pub value_len: Option<usize>,
}

/// What stands in front of a record's fields: its key, its value and its headers, as they are stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordHead {
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub fields_len: usize,
}

/// The records of a compressed v2 batch.
pub(crate) struct InflatedRecords<'a> {
    window: Window<'a>,
    left: i32,
    /// A batch that declares no records is not even decompressed.
    finished: bool,
}

impl<'a> InflatedRecords<'a> {
    pub(crate) fn new(batch: &Batch<'a>) -> Result<InflatedRecords<'a>, ReadError> {
        let header = &batch.header;
        if header.record_count < 0 {
            return Err(MalformedRecord("the batch declares a negative record count").into());
        }
        let source = Decompressor::new(header.codec, header.magic, batch.body())?;
        let finished = header.record_count == 0;
        Ok(InflatedRecords { window: Window::new(source), left: header.record_count, finished })
    }

    /// The length of the next record, if there is one; the window stands at its first byte.
    fn next_length(&mut self) -> Result<Option<usize>, ReadError> {
        if self.finished {
            return Ok(None);
        }
        if self.left == 0 {
            if self.window.fill(1)? {
                return Err(MalformedRecord("bytes are left over after the declared number of records").into());
            }
            self.finished = true;
            return Ok(None);
        }
        self.left -= 1;
        // Five bytes hold any length, and near the end there may be fewer.
        if !self.window.fill(5)? && self.window.available().is_empty() {
            return Err(ENDS_EARLY);
        }
        let available = self.window.available();
        let mut cursor = Cursor(available);
        let length = cursor.varint()?;
        let consumed = available.len() - cursor.0.len();
        self.window.consume(consumed);
        let length = usize::try_from(length).map_err(|_| MalformedRecord("a record has a negative length"))?;
        Ok(Some(length))
    }

    /// The bytes of the next record without its length, or an error if there are more than `max`.
    pub(crate) fn next_body(&mut self, max: usize) -> Result<Option<&[u8]>, ReadError> {
        let Some(length) = self.next_length()? else { return Ok(None) };
        if length > max {
            return Err(ReadError::RecordTooLarge { size: length, max });
        }
        if !self.window.fill(length)? {
            return Err(ENDS_EARLY);
        }
        self.window.consume(length);
        let end = self.window.start;
        Ok(Some(&self.window.buffer[end - length..end]))
    }

    /// The next record, without its bytes: one of a gigabyte needs no more memory than one of ten bytes.
    pub(crate) fn skim(&mut self) -> Result<Option<SkimmedRecord>, ReadError> {
        let Some(length) = self.next_length()? else { return Ok(None) };
        if length > WINDOW_BYTES {
            return self.skim_large(length).map(Some);
        }
        if !self.window.fill(length)? {
            return Err(ENDS_EARLY);
        }
        let body = &self.window.buffer[self.window.start..self.window.start + length];
        let record = RawRecord::read_body(body)?;
        let skimmed = SkimmedRecord {
            timestamp_delta: record.timestamp_delta,
            offset_delta: record.offset_delta,
            key_len: record.key.map(<[u8]>::len),
            value_len: record.value.map(<[u8]>::len),
        };
        self.window.consume(length);
        Ok(Some(skimmed))
    }

    fn skim_large(&mut self, length: usize) -> Result<SkimmedRecord, ReadError> {
        let mut left = length;
        let RecordHead { timestamp_delta, offset_delta, .. } = self.head(&mut left)?;
        let key_len = self.skip_field(&mut left)?;
        let value_len = self.skip_field(&mut left)?;
        self.skip_headers(left)?;
        Ok(SkimmedRecord { timestamp_delta, offset_delta, key_len, value_len })
    }

    /// The numbers of the next record. Its fields are the next to be taken or passed over.
    pub(crate) fn next_head(&mut self) -> Result<Option<RecordHead>, ReadError> {
        let Some(mut left) = self.next_length()? else { return Ok(None) };
        self.head(&mut left).map(Some)
    }

    fn head(&mut self, left: &mut usize) -> Result<RecordHead, ReadError> {
        self.numbers(left, |cursor| cursor.byte())?;
        let timestamp_delta = self.numbers(left, |cursor| cursor.varlong())?;
        let offset_delta = self.numbers(left, |cursor| cursor.varint())?;
        Ok(RecordHead { timestamp_delta, offset_delta, fields_len: *left })
    }

    /// Shows the key of the record whose head was read, piece by piece, and passes over the rest of its fields. Tells
    /// whether there are a key and a value.
    pub(crate) fn take_key(&mut self, head: &RecordHead, each: impl FnMut(&[u8])) -> Result<(bool, bool), ReadError> {
        let mut left = head.fields_len;
        let key_len = self.numbers(&mut left, |cursor| cursor.varint())?;
        if let Ok(key_len) = usize::try_from(key_len) {
            left = left.checked_sub(key_len).ok_or(MalformedRecord("a field is longer than its record"))?;
            self.take(key_len, each)?;
        }
        let has_value = self.skip_field(&mut left)?.is_some();
        self.skip_headers(left)?;
        Ok((key_len >= 0, has_value))
    }

    /// Shows the next `len` bytes, piece by piece.
    pub(crate) fn take(&mut self, mut len: usize, mut each: impl FnMut(&[u8])) -> Result<(), ReadError> {
        loop {
            let available = self.window.available();
            let now = len.min(available.len());
            each(&available[..now]);
            self.window.consume(now);
            len -= now;
            if len == 0 {
                return Ok(());
            }
            if !self.window.fill(1)? {
                return Err(ENDS_EARLY);
            }
        }
    }

    /// Passes over the headers, which are the last `left` bytes of a record.
    fn skip_headers(&mut self, mut left: usize) -> Result<(), ReadError> {
        let header_count = self.numbers(&mut left, |cursor| cursor.varint())?;
        let header_count =
            usize::try_from(header_count).map_err(|_| MalformedRecord("a record has a negative header count"))?;
        if header_count > left {
            return Err(MalformedRecord("a record has more headers than bytes").into());
        }
        for _ in 0..header_count {
            if self.skip_field(&mut left)?.is_none() {
                return Err(MalformedRecord("a header has a null key").into());
            }
            self.skip_field(&mut left)?;
        }
        if left > 0 {
            return Err(MalformedRecord("a record is longer than its fields").into());
        }
        Ok(())
    }

    /// Reads one number, of ten bytes at most, of a record of which `left` bytes are left.
    fn numbers<T>(
        &mut self,
        left: &mut usize,
        read: impl FnOnce(&mut Cursor<'_>) -> Result<T, MalformedRecord>,
    ) -> Result<T, ReadError> {
        self.window.fill(10.min(*left))?;
        let available = self.window.available();
        let mut cursor = Cursor(&available[..available.len().min(*left)]);
        let had = cursor.0.len();
        let value = read(&mut cursor)?;
        let consumed = had - cursor.0.len();
        self.window.consume(consumed);
        *left -= consumed;
        Ok(value)
    }

    /// Passes over a length and its bytes; false if the field is null.
    fn skip_field(&mut self, left: &mut usize) -> Result<Option<usize>, ReadError> {
        let length = self.numbers(left, |cursor| cursor.varint())?;
        let Ok(length) = usize::try_from(length) else { return Ok(None) };
        *left = left.checked_sub(length).ok_or(MalformedRecord("a field is longer than its record"))?;
        self.window.skip(length)?;
        Ok(Some(length))
    }
}

/// The inner messages of a compressed set of magic 0 or 1.
pub(crate) struct InflatedMessages<'a> {
    window: Window<'a>,
}

impl<'a> InflatedMessages<'a> {
    pub(crate) fn new(batch: &Batch<'a>) -> Result<InflatedMessages<'a>, ReadError> {
        let header = &batch.header;
        if header.codec == Codec::Zstd {
            return Err(MalformedRecord("message sets of magic 0 and 1 cannot be compressed with zstd").into());
        }
        let wrapper = LegacyMessage::read(batch.bytes)?;
        let value = wrapper.value.ok_or(MalformedRecord("a compressed message set has a null value"))?;
        Ok(InflatedMessages { window: Window::new(Decompressor::new(header.codec, header.magic, value)?) })
    }

    /// The next entry, with its offset and size. A last one that is cut short does not count.
    pub(crate) fn next(&mut self, max: usize) -> Result<Option<&[u8]>, ReadError> {
        if !self.window.fill(LOG_OVERHEAD)? {
            return Ok(None);
        }
        let size = batch::i32_at(self.window.available(), 8).expect("the window holds twelve bytes");
        let size = usize::try_from(size).ok().filter(|size| *size >= 14).ok_or(CorruptBatch::SizeTooSmall { size })?;
        let length = LOG_OVERHEAD + size;
        if size > max {
            return match self.window.skip(length) {
                Ok(()) => Err(ReadError::RecordTooLarge { size, max }),
                Err(ReadError::Malformed(_)) => Ok(None),
                Err(error) => Err(error),
            };
        }
        if !self.window.fill(length)? {
            return Ok(None);
        }
        self.window.consume(length);
        let end = self.window.start;
        let entry = &self.window.buffer[end - length..end];
        if LegacyMessage::is_compressed(entry) {
            return Err(MalformedRecord("the inner messages of a compressed set must not be compressed").into());
        }
        Ok(Some(entry))
    }
}

/// What only a walk over a compressed set of magic 0 or 1 tells about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageSet {
    /// What to add to the offsets of v1's inner messages.
    pub base_offset: i64,
}

impl MessageSet {
    pub(crate) fn survey(batch: &Batch<'_>) -> Result<MessageSet, ReadError> {
        let mut messages = InflatedMessages::new(batch)?;
        let (mut count, mut last_inner_offset) = (0, 0);
        while let Some(entry) = messages.next(INFLATED_RECORD_BYTES_MAX)? {
            count += 1;
            last_inner_offset = LegacyMessage::offset_of(entry);
        }
        MessageSet::new(&batch.header, count, last_inner_offset)
    }

    pub(crate) fn new(header: &BatchHeader, count: i64, last_inner_offset: i64) -> Result<MessageSet, ReadError> {
        if count == 0 {
            return Err(MalformedRecord("a compressed message set has no inner messages").into());
        }
        // Some versions of librdkafka leave the wrapper's offset at 0.
        let base_offset = if header.magic == 0 || header.last_offset == 0 {
            0
        } else if header.last_offset < last_inner_offset {
            return Err(MalformedRecord("a message set's offset is smaller than its last inner offset").into());
        } else {
            header.last_offset.wrapping_sub(last_inner_offset)
        };
        Ok(MessageSet { base_offset })
    }

    pub(crate) fn view<'m>(&self, message: &LegacyMessage<'m>, header: &BatchHeader) -> RecordView<'m> {
        RecordView {
            offset: self.base_offset.wrapping_add(message.offset),
            timestamp: inner_timestamp(message, header),
            key: message.key,
            value: message.value,
            headers: batch::Headers::NONE,
        }
    }
}

/// The append time of a set overrides what its inner messages say.
pub(crate) fn inner_timestamp(message: &LegacyMessage<'_>, header: &BatchHeader) -> i64 {
    match header.timestamp_type {
        TimestampType::LogAppendTime if message.magic > 0 => header.max_timestamp,
        _ => message.timestamp,
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
