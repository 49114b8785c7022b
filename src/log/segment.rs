//! One segment: `<base>.log` and the indexes beside it. Knows no lock; the log that owns it has one.
//! Source: kafka 3.9 storage/.../log/LogSegment.java.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use super::error::{Condemned, IoContext, LogError};
use super::file_names::{self, offset_file};
use super::files::{self, File};
use super::leader_epochs::LeaderEpochs;
use super::offset_index::{self, Lookup, OffsetBehind, OffsetIndex};
use super::scan::{BatchScan, Found, HeaderScan};
use super::time_index::{self, TimeIndex, TimeLookup, TimestampOffset};
use super::transaction_index::AbortedTxn;
use crate::config::log::LogConfig;
use crate::model::clock::ms_since_1970;
use crate::model::{LeaderEpoch, Offset};
use crate::record::batch::{Batch, BatchHeader};

/// Offsets in the indexes are relative and 31 bits wide.
pub(crate) const RELATIVE_OFFSET_MAX: i64 = i32::MAX as i64;

/// A clone is a twin that looks into the same files, for which no lock is held; see [`Segment::learn`].
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    base_offset: Offset,
    /// Bytes of whole batches in the file; appends continue here.
    size: u32,
    /// Always open in the active segment once written to; elsewhere while it is being read.
    file: Option<Arc<File>>,
    /// The file of which the system reads nothing ahead.
    sent: Weak<File>,
    /// Whether anyone wanted the file since idle files were closed last.
    file_was_used: bool,
    offset_index: OffsetIndex,
    time_index: TimeIndex,
    pub has_txn_index: bool,
    /// The largest timestamp, once known; a segment found on disk has it in its time index.
    max_timestamp: Option<TimestampOffset>,
    bytes_since_index_entry: u32,
    /// The largest timestamp of the first append: the age of the segment counts from it.
    first_append_timestamp_ms: Option<i64>,
    created_ms: i64,
    /// The transactions of its index, while the files of a segment that takes the place of others have yet to get their
    /// names: until then its file is open and its indexes are in memory.
    taking_place: Option<Arc<[AbortedTxn]>>,
    /// Taken off segment.ms, so that partitions created together do not roll together.
    jitter_ms: i64,
}

/// Facts about one append that decide whether it needs a new segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RollQuestion {
    pub bytes: u32,
    pub last_offset: Offset,
    pub max_timestamp_ms: i64,
    pub now_ms: i64,
}

impl Segment {
    /// Creates an empty segment; what an earlier one of this name left behind goes.
    pub fn create(dir: &Path, base_offset: Offset, config: &LogConfig, now_ms: i64) -> Result<Segment, LogError> {
        for extension in [file_names::OFFSET_INDEX, file_names::TIME_INDEX, file_names::TXN_INDEX] {
            let path = offset_file(dir, base_offset, extension);
            files::remove_if_exists(&path).doing("delete", &path)?;
        }
        let path = offset_file(dir, base_offset, file_names::LOG);
        let file = files::create(&path).doing("create", &path)?;
        if config.preallocate {
            files::set_len(&file, u64::from(config.segment_bytes)).doing("preallocate", &path)?;
        }
        Ok(Segment {
            file: Some(Arc::new(file)),
            sent: Weak::new(),
            file_was_used: true,
            ..Segment::without_file(base_offset, config, now_ms)
        })
    }

    /// The same, without its file where there is no room for it.
    pub fn create_if_possible(
        dir: &Path,
        base_offset: Offset,
        config: &LogConfig,
        now_ms: i64,
    ) -> Result<Segment, LogError> {
        match Segment::create(dir, base_offset, config, now_ms) {
            Err(error) if error.condemns() == Condemned::Nothing => {
                log::warn!("{error}; it is made when there is something to append");
                Ok(Segment::without_file(base_offset, config, now_ms))
            }
            created => created,
        }
    }

    /// An empty segment whose file is made when it is wanted: there is no room for it now.
    pub fn without_file(base_offset: Offset, config: &LogConfig, now_ms: i64) -> Segment {
        Segment {
            base_offset,
            size: 0,
            file: None,
            sent: Weak::new(),
            file_was_used: false,
            offset_index: OffsetIndex::empty(base_offset),
            time_index: TimeIndex::empty(base_offset),
            has_txn_index: false,
            max_timestamp: Some(TimestampOffset { timestamp_ms: -1, offset: base_offset }),
            bytes_since_index_entry: 0,
            first_append_timestamp_ms: None,
            created_ms: now_ms,
            taking_place: None,
            jitter_ms: jitter(config),
        }
    }

    /// A segment that takes the place of others. `file` holds `size` bytes, and is still called otherwise.
    pub fn taking_place(
        base_offset: Offset,
        size: u32,
        file: Arc<File>,
        indexed: IndexEntries,
        txns: Arc<[AbortedTxn]>,
        config: &LogConfig,
        now_ms: i64,
    ) -> Segment {
        let mut segment = Segment {
            base_offset,
            size,
            file: Some(file),
            sent: Weak::new(),
            file_was_used: true,
            offset_index: OffsetIndex::empty(base_offset),
            time_index: TimeIndex::empty(base_offset),
            has_txn_index: !txns.is_empty(),
            max_timestamp: None,
            bytes_since_index_entry: 0,
            first_append_timestamp_ms: None,
            created_ms: now_ms,
            taking_place: Some(txns),
            jitter_ms: jitter(config),
        };
        segment.hold_indexes(indexed);
        segment
    }

    /// Writes the indexes of a segment that is to take the place of others.
    pub fn write_index_copies(&mut self, dir: &Path, index: &Path, time_index: &Path) -> Result<(), LogError> {
        let so_far = self.max_timestamp_so_far(dir)?;
        self.time_index.hold_if_larger(so_far);
        self.offset_index.write_copy(index).doing("write", index)?;
        self.time_index.write_copy(time_index).doing("write", time_index)
    }

    /// The files have got their names.
    pub fn has_taken_place(&mut self) {
        self.taking_place = None;
        self.offset_index.now_written();
        self.time_index.now_written();
    }

    pub fn is_taking_place(&self) -> bool {
        self.taking_place.is_some()
    }

    /// Where the transactions are that were aborted in the segment, if any were.
    pub fn aborted_txns(&self, dir: &Path) -> Option<AbortedTxns> {
        if !self.has_txn_index {
            return None;
        }
        Some(match &self.taking_place {
            Some(txns) => AbortedTxns::Known(Arc::clone(txns)),
            None => AbortedTxns::InFile(self.txn_index_path(dir), self.base_offset),
        })
    }

    /// Of offset index and time index, in bytes.
    pub fn index_sizes(&mut self, dir: &Path) -> Result<(u64, u64), LogError> {
        let path = self.offset_index_path(dir);
        let entries = self.offset_index.len(&path).doing("read", &path)?;
        let path = self.time_index_path(dir);
        let time_entries = self.time_index.len(&path).doing("read", &path)?;
        Ok((
            u64::from(entries) * offset_index::ENTRY_BYTES as u64,
            u64::from(time_entries) * time_index::ENTRY_BYTES as u64,
        ))
    }

    /// The file for one reader, who closes it.
    pub fn open_for_reading(&self, dir: &Path) -> Result<Arc<File>, LogError> {
        if let Some(file) = &self.file {
            return Ok(Arc::clone(file));
        }
        let path = self.log_path(dir);
        files::open(&path).doing("open", &path).map(Arc::new)
    }

    /// Takes over a segment found on disk, opening nothing.
    pub fn existing(
        dir: &Path,
        base_offset: Offset,
        bytes: u64,
        has_txn_index: bool,
        config: &LogConfig,
        now_ms: i64,
    ) -> Result<Segment, LogError> {
        let size = u32::try_from(bytes).ok().filter(|&size| size <= i32::MAX as u32).ok_or_else(|| {
            let path = offset_file(dir, base_offset, file_names::LOG);
            LogError::Corrupt { context: format!("{} has {bytes} bytes, more than a segment may have", path.display()) }
        })?;
        Ok(Segment {
            base_offset,
            size,
            file: None,
            sent: Weak::new(),
            file_was_used: false,
            offset_index: OffsetIndex::existing(base_offset),
            time_index: TimeIndex::existing(base_offset),
            has_txn_index,
            max_timestamp: None,
            bytes_since_index_entry: 0,
            first_append_timestamp_ms: None,
            created_ms: now_ms,
            taking_place: None,
            jitter_ms: jitter(config),
        })
    }

    pub fn base_offset(&self) -> Offset {
        self.base_offset
    }

    pub fn size(&self) -> u32 {
        self.size
    }

    pub fn log_path(&self, dir: &Path) -> PathBuf {
        offset_file(dir, self.base_offset, file_names::LOG)
    }

    pub fn offset_index_path(&self, dir: &Path) -> PathBuf {
        offset_file(dir, self.base_offset, file_names::OFFSET_INDEX)
    }

    pub fn time_index_path(&self, dir: &Path) -> PathBuf {
        offset_file(dir, self.base_offset, file_names::TIME_INDEX)
    }

    pub fn txn_index_path(&self, dir: &Path) -> PathBuf {
        offset_file(dir, self.base_offset, file_names::TXN_INDEX)
    }

    pub fn file(&mut self, dir: &Path) -> Result<Arc<File>, LogError> {
        match self.file_there(dir) {
            Err(LogError::Io { source, .. }) if self.size == 0 && source.kind() == io::ErrorKind::NotFound => {
                let path = self.log_path(dir);
                let file = Arc::new(files::create(&path).doing("create", &path)?);
                Ok(self.file.insert(file).clone())
            }
            opened => opened,
        }
    }

    /// The same, but that nothing is made.
    pub fn file_there(&mut self, dir: &Path) -> Result<Arc<File>, LogError> {
        self.file_was_used = true;
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let path = self.log_path(dir);
        let file = Arc::new(files::open_to_read_and_write(&path).doing("open", &path)?);
        self.file = Some(file.clone());
        Ok(file)
    }

    /// The same, for what is sent. Who fetches in order is read ahead for by those who may wait (`replica::cached`); who only
    /// scans the file, by the system.
    pub fn file_to_send(&mut self, dir: &Path) -> Result<Arc<File>, LogError> {
        let file = self.file_there(dir)?;
        if !std::ptr::eq(self.sent.as_ptr(), Arc::as_ptr(&file)) {
            files::read_nothing_ahead(&file);
            self.sent = Arc::downgrade(&file);
        }
        Ok(file)
    }

    /// Takes over what its twin has found in the files, none of which were changed meanwhile but by appends: what an append
    /// changes, memory has had since.
    pub fn learn(&mut self, twin: Segment) {
        if self.file.is_none() && twin.file.is_some() {
            self.file = twin.file;
            self.sent = twin.sent;
            self.file_was_used = true;
        }
        self.offset_index.learn(twin.offset_index);
        self.time_index.learn(twin.time_index);
        self.max_timestamp = self.max_timestamp.or(twin.max_timestamp);
        self.first_append_timestamp_ms = self.first_append_timestamp_ms.or(twin.first_append_timestamp_ms);
    }

    #[cfg(test)]
    pub fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Open, though nobody wanted the file since idle files were closed last.
    pub fn is_idle(&self) -> bool {
        self.file.is_some() && !self.file_was_used
    }

    /// Closes the file if nobody wanted it since the last call. Readers that hold it keep it.
    pub fn close_if_idle(&mut self) {
        if self.taking_place.is_none() && !std::mem::take(&mut self.file_was_used) {
            self.file = None;
            self.offset_index.forget_block();
            self.time_index.forget_block();
        }
    }

    pub fn close(&mut self) {
        self.file = None;
    }

    pub fn needs_roll(&mut self, dir: &Path, config: &LogConfig, question: &RollQuestion) -> Result<bool, LogError> {
        if i64::from(self.size) > i64::from(config.segment_bytes) - i64::from(question.bytes) {
            return Ok(true);
        }
        if question.last_offset.0 - self.base_offset.0 > RELATIVE_OFFSET_MAX {
            return Ok(true);
        }
        if self.size > 0 {
            let mut segment_ms = config.segment_ms;
            if config.compact {
                segment_ms = segment_ms.min(config.max_compaction_lag_ms);
            }
            let waited = match self.first_append_timestamp(dir)? {
                Some(first) if first >= 0 => question.max_timestamp_ms.saturating_sub(first),
                _ => question.now_ms.saturating_sub(self.created_ms),
            };
            if waited > segment_ms.saturating_sub(self.jitter_ms) {
                return Ok(true);
            }
        }
        self.indexes_are_full(dir, config)
    }

    fn indexes_are_full(&mut self, dir: &Path, config: &LogConfig) -> Result<bool, LogError> {
        // An index can only fill up after as many appends: spare the common case two path names.
        let offset_max = config.segment_index_bytes / offset_index::ENTRY_BYTES as u32;
        let time_max = (config.segment_index_bytes / time_index::ENTRY_BYTES as u32).saturating_sub(1);
        if u64::from(self.size) < u64::from(offset_max.min(time_max)) * u64::from(config.index_interval_bytes) {
            return Ok(false);
        }
        let path = self.offset_index_path(dir);
        if self.offset_index.len(&path).doing("read", &path)? >= offset_max {
            return Ok(true);
        }
        let path = self.time_index_path(dir);
        Ok(self.time_index.len(&path).doing("read", &path)? >= time_max)
    }

    pub fn first_append_timestamp(&mut self, dir: &Path) -> Result<Option<i64>, LogError> {
        if self.first_append_timestamp_ms.is_none() && self.size > 0 {
            let file = self.open_for_reading(dir)?;
            let found = HeaderScan::new(&file, 0, self.size).next();
            if let Found::Batch((_, header)) = found.doing("read", &self.log_path(dir))? {
                self.first_append_timestamp_ms = Some(header.max_timestamp);
            }
        }
        Ok(self.first_append_timestamp_ms)
    }

    /// Writes whole batches behind the last one, in one call. After an error the file is as it was before.
    pub fn append_bytes(&mut self, dir: &Path, parts: &mut [IoSlice<'_>], bytes: u32) -> Result<u32, LogError> {
        let file = self.file(dir)?;
        // What taking note of the batches would have to read is read now: afterwards an error would be one of an append
        // that is in the file.
        self.max_timestamp_so_far(dir)?;
        let position = self.size;
        if let Err(error) = files::write_parts_at(&file, parts, u64::from(position)) {
            let path = self.log_path(dir);
            // The torn tail must not stay: the next append would hide it from recovery.
            files::set_len(&file, u64::from(position))
                .doing("take back a failed append to", &path)
                .map_err(LogError::half_done)?;
            return Err(error).doing("append to", &path);
        }
        self.size += bytes;
        Ok(position)
    }

    /// Takes note of a batch that was just written at `position`.
    pub fn note_batch(
        &mut self,
        dir: &Path,
        config: &LogConfig,
        position: u32,
        header: &BatchHeader,
    ) -> Result<(), LogError> {
        if position == 0 {
            self.first_append_timestamp_ms = Some(header.max_timestamp);
        }
        let so_far = self.max_timestamp_so_far(dir)?;
        let last_offset = Offset(header.last_offset);
        if header.max_timestamp > so_far.timestamp_ms {
            self.max_timestamp = Some(TimestampOffset { timestamp_ms: header.max_timestamp, offset: last_offset });
        }
        if self.bytes_since_index_entry > config.index_interval_bytes {
            self.add_index_entries(dir, last_offset, position)?;
            self.bytes_since_index_entry = 0;
        }
        self.bytes_since_index_entry = self.bytes_since_index_entry.saturating_add(header.size_in_bytes as u32);
        Ok(())
    }

    fn add_index_entries(&mut self, dir: &Path, last_offset: Offset, position: u32) -> Result<(), LogError> {
        let path = self.offset_index_path(dir);
        self.offset_index.push(&path, last_offset, position).doing("write", &path)?;
        let so_far = self.max_timestamp_so_far(dir)?;
        let path = self.time_index_path(dir);
        self.time_index.push_if_larger(&path, so_far).doing("add to", &path)
    }

    /// The largest timestamp of the segment and the batch that carries it, as far as the time index knows.
    pub fn max_timestamp_so_far(&mut self, dir: &Path) -> Result<TimestampOffset, LogError> {
        if let Some(known) = self.max_timestamp {
            return Ok(known);
        }
        let path = self.time_index_path(dir);
        let last = self.time_index.last(&path).doing("read", &path)?;
        self.max_timestamp = Some(last);
        Ok(last)
    }

    /// The same, if the batch has the timestamp that the time index found on the disk says; `None` if the index is wrong.
    /// Deletion by age and searches by time rely on it, and a file may have lost its end or been filled with zeros.
    pub fn verified_max_timestamp(&mut self, dir: &Path) -> Result<Option<TimestampOffset>, LogError> {
        if self.max_timestamp.is_some() {
            return Ok(self.max_timestamp);
        }
        let time_path = self.time_index_path(dir);
        let last = self.time_index.last(&time_path).doing("read", &time_path)?;
        let path = self.log_path(dir);
        let from = self.lookup(dir, last.offset)?.position().doing("search the index of", &path)?;
        let file = match &self.file {
            Some(file) => file.clone(),
            None => Arc::new(files::open(&path).doing("open", &path)?),
        };
        let batch = find_batch(&file, from, self.size, last.offset).doing("read", &path)?.batch;
        // Without an entry no batch has a date, so the first has none either.
        let dated = batch.map_or(-1, |(_, header)| header.max_timestamp.max(-1));
        let is_right = dated == last.timestamp_ms && self.max_timestamp_of_tail(dir, &file)? <= last.timestamp_ms;
        self.max_timestamp = is_right.then_some(last);
        Ok(self.max_timestamp)
    }

    /// Of the batches from the last entry of the offset index on: the time index has had none since.
    fn max_timestamp_of_tail(&mut self, dir: &Path, file: &File) -> Result<i64, LogError> {
        let index_path = self.offset_index_path(dir);
        let from = self.offset_index.last(&index_path).doing("read", &index_path)?.map_or(0, |(_, position)| position);
        let mut scan = HeaderScan::new(file, from.min(self.size), self.size);
        let mut largest = -1;
        while let Found::Batch((_, header)) = scan.next().doing("read", &self.log_path(dir))? {
            largest = largest.max(header.max_timestamp);
        }
        Ok(largest)
    }

    /// The largest record timestamp, or the time of the last write if the records have none; `None` if the time index is
    /// wrong.
    pub fn largest_timestamp_ms(&mut self, dir: &Path) -> Result<Option<i64>, LogError> {
        let Some(largest) = self.verified_max_timestamp(dir)? else { return Ok(None) };
        if largest.timestamp_ms >= 0 {
            return Ok(Some(largest.timestamp_ms));
        }
        let path = self.log_path(dir);
        match files::metadata(&path).and_then(|metadata| metadata.modified()) {
            // There was no room for it yet.
            Err(error) if self.size == 0 && error.kind() == io::ErrorKind::NotFound => Ok(Some(self.created_ms)),
            modified => Ok(Some(ms_since_1970(modified.doing("read", &path)?))),
        }
    }

    /// Where to look for a timestamp: no batch before this one reaches it.
    pub fn time_lookup(&mut self, dir: &Path, target_ms: i64) -> Result<TimeLookup, LogError> {
        let path = self.time_index_path(dir);
        self.time_index.lookup(&path, target_ms).doing("read", &path)
    }

    /// Starts the search for the batch that holds `target`; see `Lookup`.
    pub fn lookup(&mut self, dir: &Path, target: Offset) -> Result<Lookup, LogError> {
        let path = self.offset_index_path(dir);
        self.offset_index.lookup(&path, target).doing("read", &path)
    }

    /// Starts the search for an offset that no batch before this file position goes beyond.
    pub fn offset_behind(&mut self, dir: &Path, position: u32) -> Result<OffsetBehind, LogError> {
        let path = self.offset_index_path(dir);
        self.offset_index.offset_behind(&path, position).doing("read", &path)
    }

    /// The segment is no longer written to: its files get their final content and length.
    pub fn become_inactive(&mut self, dir: &Path, config: &LogConfig) -> Result<(), LogError> {
        let so_far = self.max_timestamp_so_far(dir)?;
        let path = self.time_index_path(dir);
        self.time_index.push_if_larger(&path, so_far).doing("add to", &path)?;
        // A JVM broker makes a missing time index itself, without a word, but takes a missing offset index for damage.
        // Source: kafka 3.9.1 LogSegment.java (sanityCheck).
        if self.size > 0 || files::exists(&path).doing("look for", &path)? {
            self.time_index.trim(&path).doing("write", &path)?;
        }
        let path = self.offset_index_path(dir);
        self.offset_index.trim(&path).doing("write", &path)?;
        self.trim_preallocated(dir, config)
    }

    /// A start takes all that the file of an inactive segment has for records.
    pub fn trim_preallocated(&mut self, dir: &Path, config: &LogConfig) -> Result<(), LogError> {
        if !config.preallocate {
            return Ok(());
        }
        let path = self.log_path(dir);
        files::set_len(&*self.file(dir)?, u64::from(self.size)).doing("trim", &path)
    }

    /// Writes what is pending of the indexes and names the files to fsync.
    pub fn files_to_flush(&mut self, dir: &Path) -> Result<Vec<PathBuf>, LogError> {
        if self.is_taking_place() {
            // The disk has them.
            return Ok(Vec::new());
        }
        let mut files = vec![self.log_path(dir)];
        let path = self.offset_index_path(dir);
        self.offset_index.spill(&path).doing("write", &path)?;
        files.push(path);
        let path = self.time_index_path(dir);
        self.time_index.spill(&path).doing("write", &path)?;
        files.push(path);
        if self.has_txn_index {
            files.push(self.txn_index_path(dir));
        }
        Ok(files)
    }

    /// Cuts off the batch that holds `offset` and everything behind it.
    pub fn truncate_to(&mut self, dir: &Path, offset: Offset, now_ms: i64) -> Result<(), LogError> {
        let path = self.log_path(dir);
        let from = self.lookup(dir, offset)?.position().doing("search the index of", &path)?;
        let file = self.file(dir)?;
        let cut = find_position(&file, from, self.size, offset).doing("read", &path)?;
        let index_path = self.offset_index_path(dir);
        self.offset_index.truncate_to(&index_path, offset).doing("truncate", &index_path)?;
        let index_path = self.time_index_path(dir);
        self.time_index.truncate_to(&index_path, offset).doing("truncate", &index_path)?;
        if self.has_txn_index {
            super::transaction_index::truncate_to(&self.txn_index_path(dir), self.base_offset, offset)?;
        }
        files::set_len(&file, u64::from(cut)).doing("truncate", &path)?;
        self.size = cut;
        if cut == 0 {
            self.created_ms = now_ms;
            self.first_append_timestamp_ms = None;
        }
        self.bytes_since_index_entry = 0;
        self.max_timestamp = Some(self.reread_max_timestamp(dir, &file)?);
        Ok(())
    }

    /// The time index lags behind by up to an index interval: looks at the batches after its last entry too.
    fn reread_max_timestamp(&mut self, dir: &Path, file: &File) -> Result<TimestampOffset, LogError> {
        let path = self.time_index_path(dir);
        let mut largest = self.time_index.last(&path).doing("read", &path)?;
        let path = self.log_path(dir);
        let from = self.lookup(dir, largest.offset)?.position().doing("search the index of", &path)?;
        let from = find_position(file, from, self.size, largest.offset).doing("read", &path)?;
        let mut scan = HeaderScan::new(file, from, self.size);
        while let Found::Batch((_, header)) = scan.next().doing("read", &path)? {
            if header.max_timestamp > largest.timestamp_ms {
                largest = TimestampOffset { timestamp_ms: header.max_timestamp, offset: Offset(header.last_offset) };
            }
        }
        Ok(largest)
    }

    /// The offset behind the last batch, found from the last index entry on, and whether the tail there is sound.
    pub fn next_offset(&mut self, dir: &Path) -> Result<Tail, LogError> {
        let path = self.log_path(dir);
        if self.size == 0 {
            return Ok(Tail { next_offset: self.base_offset, is_sound: true, index_is_wrong: false });
        }
        let index_path = self.offset_index_path(dir);
        let from = self.offset_index.last(&index_path).doing("read", &index_path)?.map_or(0, |(_, position)| position);
        let file = self.file(dir)?;
        if let Some(tail) = walk_tail(&file, from, self.size, self.base_offset).doing("read", &path)? {
            return Ok(tail);
        }
        // The index led astray.
        let tail = walk_tail(&file, 0, self.size, self.base_offset).doing("read", &path)?;
        let tail = tail.unwrap_or(Tail { next_offset: self.base_offset, is_sound: false, index_is_wrong: false });
        Ok(Tail { index_is_wrong: true, ..tail })
    }

    /// Walks all batches, tells `each` of them, and gathers the indexes anew, in memory: `finish_recovery` cuts the file
    /// behind the last sound batch and writes them. No offset lies beyond `limit`, where the next segment begins: no checksum
    /// covers it. A segment that is to be split first is an error. Until then the offset index is missing, so that a start that follows
    /// an interruption, of this broker or of a JVM's, recovers the segment again.
    pub fn recover(
        &mut self,
        dir: &Path,
        config: &LogConfig,
        limit: Offset,
        epochs: &mut LeaderEpochs,
        mut each: impl FnMut(&Batch<'_>) -> Result<(), LogError>,
    ) -> Result<Recovered, LogError> {
        let path = self.log_path(dir);
        // Of an empty segment there is nothing to find.
        if self.size > 0 {
            self.mark_unindexed(dir)?;
        }
        let index_path = self.txn_index_path(dir);
        files::remove_if_exists(&index_path).doing("delete", &index_path)?;
        self.has_txn_index = false;
        self.first_append_timestamp_ms = None;

        let file = self.file(dir)?;
        let mut scan = BatchScan::new(&file, 0, self.size);
        let mut indexed = IndexEntries::new(self.base_offset, config);
        let mut next_offset = self.base_offset;
        let why = loop {
            #[cfg(test)]
            faults::before_recovered_batch().doing("read", &path)?;
            match scan.next().doing("read", &path)? {
                Found::End => break None,
                Found::Damage(why) => break Some(why),
                Found::Batch((position, batch)) => {
                    let header = batch.header;
                    if let Some(why) = unsound(&batch, next_offset, limit) {
                        break Some(format!("{why} at position {position}"));
                    }
                    if header.last_offset - self.base_offset.0 > RELATIVE_OFFSET_MAX {
                        if limit < Offset(i64::MAX) {
                            return Err(LogError::SegmentOverflows { base_offset: self.base_offset });
                        }
                        // Nobody compacts the last segment, and no checksum covers the offset.
                        let why = "a batch whose offsets lie too far from the segment's base offset";
                        break Some(format!("{why} at position {position}"));
                    }
                    indexed.note(position, &header);
                    if header.magic >= 2
                        && header.partition_leader_epoch >= 0
                        && epochs.latest().is_none_or(|last| header.partition_leader_epoch > last.epoch.0)
                    {
                        epochs.assign(LeaderEpoch(header.partition_leader_epoch), Offset(header.base_offset));
                    }
                    each(&batch)?;
                    next_offset = Offset(header.next_offset());
                }
            }
        };
        let valid_bytes = indexed.scanned;
        self.hold_indexes(indexed);
        Ok(Recovered { next_offset, valid_bytes, truncated_bytes: self.size - valid_bytes, why })
    }

    /// Cuts off what was not sound, and writes the indexes.
    pub fn finish_recovery(
        &mut self,
        dir: &Path,
        recovered: &Recovered,
        durability: Durability,
    ) -> Result<(), LogError> {
        let path = self.log_path(dir);
        let file = self.file(dir)?;
        if files::metadata_of(&file).doing("read", &path)?.len() != u64::from(recovered.valid_bytes) {
            files::set_len(&file, u64::from(recovered.valid_bytes)).doing("truncate", &path)?;
        }
        self.size = recovered.valid_bytes;
        match self.write_indexes(dir, IsActive::No, durability) {
            // A full disk: what the index files lack waits in memory, and a file that is missing is rebuilt again.
            Err(error) if error.condemns() == Condemned::Nothing => {
                log::warn!("{error}");
                Ok(())
            }
            written => written,
        }
    }

    /// Puts new entries in the place of all there are. `rebuilt` knows the batches up to some position; those appended
    /// since are looked at now. After an error that comes before the files are touched nothing has changed, after a later
    /// one memory has the entries, and the next start finds that the file has not.
    pub fn replace_indexes(
        &mut self,
        dir: &Path,
        mut rebuilt: IndexEntries,
        is_active: IsActive,
    ) -> Result<(), LogError> {
        let path = self.log_path(dir);
        let file = self.file(dir)?;
        rebuilt.scan(&file, self.size).doing("read", &path)?;
        self.mark_unindexed(dir)?;
        self.hold_indexes(rebuilt);
        self.write_indexes(dir, is_active, Durability::LeftToTheSystem)
    }

    /// Without this file a segment's indexes are rebuilt at the start.
    fn mark_unindexed(&self, dir: &Path) -> Result<(), LogError> {
        let path = self.offset_index_path(dir);
        files::remove_if_exists(&path).doing("delete", &path)
    }

    fn hold_indexes(&mut self, indexed: IndexEntries) {
        self.offset_index.hold(indexed.entries.iter().map(|&(last_offset, position, _)| (last_offset, position)));
        self.time_index.hold(indexed.entries.iter().map(|&(_, _, so_far)| so_far));
        self.max_timestamp = Some(indexed.so_far);
        self.bytes_since_index_entry = indexed.bytes_since_entry;
    }

    /// Writes the indexes that memory holds, whole; the file whose absence marks the segment comes last.
    fn write_indexes(&mut self, dir: &Path, is_active: IsActive, durability: Durability) -> Result<(), LogError> {
        let time_path = self.time_index_path(dir);
        if is_active == IsActive::No {
            let so_far = self.max_timestamp_so_far(dir)?;
            self.time_index.hold_if_larger(so_far);
        }
        self.time_index.write_anew(&time_path).doing("write", &time_path)?;
        if durability == Durability::Now {
            let mut paths = vec![self.log_path(dir), time_path];
            paths.extend(self.has_txn_index.then(|| self.txn_index_path(dir)));
            paths.iter().try_for_each(|path| files::sync_path(path).doing("fsync", path))?;
        }
        let index_path = self.offset_index_path(dir);
        self.offset_index.write_anew(&index_path).doing("write", &index_path)?;
        if durability == Durability::Now {
            files::sync_path(&index_path).doing("fsync", &index_path)?;
            files::sync_path(dir).doing("fsync", dir)?;
        }
        Ok(())
    }

    /// The files that the segment may have.
    pub fn files(&self, dir: &Path) -> Vec<PathBuf> {
        [file_names::LOG, file_names::OFFSET_INDEX, file_names::TIME_INDEX, file_names::TXN_INDEX]
            .iter()
            .map(|extension| offset_file(dir, self.base_offset, extension))
            .collect()
    }
}

/// See [`Segment::aborted_txns`].
pub(crate) enum AbortedTxns {
    Known(Arc<[AbortedTxn]>),
    /// In the index at this path, of the segment at this offset.
    InFile(PathBuf, Offset),
}

/// What the indexes of a segment should hold, read from the headers of its batches.
pub(crate) struct IndexEntries {
    interval_bytes: u32,
    /// As many as fit into the time index, whose entries are longer.
    entries_max: usize,
    /// Last offset and position of a batch, and the largest timestamp up to it.
    entries: Vec<(Offset, u32, TimestampOffset)>,
    so_far: TimestampOffset,
    bytes_since_entry: u32,
    scanned: u32,
}

impl IndexEntries {
    pub fn new(base_offset: Offset, config: &LogConfig) -> IndexEntries {
        IndexEntries {
            interval_bytes: config.index_interval_bytes,
            entries_max: config.segment_index_bytes as usize / time_index::ENTRY_BYTES,
            entries: Vec::new(),
            so_far: TimestampOffset { timestamp_ms: -1, offset: base_offset },
            bytes_since_entry: 0,
            scanned: 0,
        }
    }

    /// Goes on from where the last scan ended.
    pub fn scan(&mut self, file: &File, end: u32) -> io::Result<()> {
        let mut scan = HeaderScan::new(file, self.scanned, end);
        while let Found::Batch((position, header)) = scan.next()? {
            self.note(position, &header);
        }
        Ok(())
    }

    pub fn note(&mut self, position: u32, header: &BatchHeader) {
        let last_offset = Offset(header.last_offset);
        if header.max_timestamp > self.so_far.timestamp_ms {
            self.so_far = TimestampOffset { timestamp_ms: header.max_timestamp, offset: last_offset };
        }
        if self.bytes_since_entry > self.interval_bytes && self.entries.len() < self.entries_max {
            self.entries.push((last_offset, position, self.so_far));
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry = self.bytes_since_entry.saturating_add(header.size_in_bytes as u32);
        self.scanned = position + header.size_in_bytes as u32;
    }
}

/// Why a batch cannot be part of the log, if so.
fn unsound(batch: &Batch<'_>, next_offset: Offset, limit: Offset) -> Option<&'static str> {
    let header = &batch.header;
    if !batch.crc_is_valid() {
        return Some("a batch whose checksum does not match");
    }
    // A compressed set of magic 0 or 1 names its last offset only.
    if header.base_offset < next_offset.0 || header.last_offset < header.base_offset || header.last_offset >= limit.0 {
        return Some("a batch whose offsets do not continue the log");
    }
    None
}

/// Whether a segment is the one that is appended to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IsActive {
    No,
    Yes,
}

/// When what a recovery writes is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The segment lies below the recovery point, and no flush will look at it again.
    Now,
    /// A flush comes, or the next start recovers the segment again.
    LeftToTheSystem,
}

pub(crate) struct Recovered {
    pub next_offset: Offset,
    /// Whole, sound batches from the beginning of the file on.
    pub valid_bytes: u32,
    pub truncated_bytes: u32,
    /// What was wrong with the first byte cut off.
    pub why: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    pub next_offset: Offset,
    /// Whole batches up to the end of the file.
    pub is_sound: bool,
    /// The last entry of the offset index leads to no batch.
    pub index_is_wrong: bool,
}

/// `None` if there is no batch at `from`.
fn walk_tail(file: &File, from: u32, size: u32, base_offset: Offset) -> io::Result<Option<Tail>> {
    let mut scan = HeaderScan::new(file, from, size);
    let mut next_offset = None;
    loop {
        match scan.next()? {
            Found::Batch((_, header)) if header.last_offset >= base_offset.0 => {
                next_offset = Some(Offset(header.next_offset()));
            }
            Found::End => {
                return Ok(next_offset.map(|next_offset| Tail { next_offset, is_sound: true, index_is_wrong: false }));
            }
            Found::Batch(_) | Found::Damage(_) => {
                return Ok(next_offset.map(|next_offset| Tail { next_offset, is_sound: false, index_is_wrong: false }));
            }
        }
    }
}

/// The position of the first batch whose last offset is at or above `target`; `end` if there is none. `from` comes from
/// an index, which may be damaged: what it says is believed only if a batch starts there that does not lie behind the
/// target.
pub(crate) fn find_position(file: &File, from: u32, end: u32, target: Offset) -> io::Result<u32> {
    Ok(find_batch(file, from, end, target)?.position_or(end))
}

/// Where a batch was found, and what that says of the index.
pub(crate) struct Located {
    pub batch: Option<(u32, BatchHeader)>,
    /// The index led to no batch, or behind the one looked for.
    pub index_is_wrong: bool,
}

impl Located {
    pub fn position_or(&self, end: u32) -> u32 {
        self.batch.map_or(end, |(position, _)| position)
    }
}

pub(crate) fn find_batch(file: &File, from: u32, end: u32, target: Offset) -> io::Result<Located> {
    let located = |batch| Located { batch, index_is_wrong: false };
    match search(file, from.min(end), end, target)? {
        Search::Batch(position, header) => Ok(located(Some((position, header)))),
        Search::End => Ok(located(None)),
        Search::Astray if from == 0 => Ok(located(None)),
        Search::Astray => match search(file, 0, end, target)? {
            Search::Batch(position, header) => Ok(Located { batch: Some((position, header)), index_is_wrong: true }),
            Search::End | Search::Astray => Ok(Located { batch: None, index_is_wrong: true }),
        },
    }
}

enum Search {
    Batch(u32, BatchHeader),
    End,
    Astray,
}

fn search(file: &File, from: u32, end: u32, target: Offset) -> io::Result<Search> {
    let mut scan = HeaderScan::new(file, from, end);
    let mut first = true;
    loop {
        match scan.next()? {
            Found::Batch((position, header)) => {
                // An index entry for an offset at or below the target leads to that very batch or one before it.
                if first && position > 0 && header.base_offset > target.0 {
                    return Ok(Search::Astray);
                }
                first = false;
                if header.last_offset >= target.0 {
                    return Ok(Search::Batch(position, header));
                }
            }
            // No entry leads to where there is no batch.
            Found::End if first && from > 0 => return Ok(Search::Astray),
            Found::End => return Ok(Search::End),
            Found::Damage(_) => return Ok(Search::Astray),
        }
    }
}

fn jitter(config: &LogConfig) -> i64 {
    let bound = config.segment_jitter_ms.min(config.segment_ms);
    if bound <= 0 { 0 } else { rand::random_range(0..bound) }
}

/// Ends recoveries of this thread.
#[cfg(test)]
pub(crate) mod faults {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        static INTERRUPT_AFTER: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// The recovery of this thread that comes to this many batches ends there.
    pub fn interrupt_recovery_after(batches: usize) {
        INTERRUPT_AFTER.set(Some(batches));
    }

    pub fn before_recovered_batch() -> io::Result<()> {
        match INTERRUPT_AFTER.take() {
            None => Ok(()),
            Some(0) => Err(rustix::io::Errno::MFILE.into()),
            Some(left) => {
                INTERRUPT_AFTER.set(Some(left - 1));
                Ok(())
            }
        }
    }
}
