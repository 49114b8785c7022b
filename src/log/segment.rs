//! One segment: `<base>.log` and the indexes beside it. Knows no lock; the log that owns it has one.
//! Source: kafka 3.9 storage/.../log/LogSegment.java.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{Condemned, IoContext, LogError};
use super::file_names::{self, offset_file};
use super::files;
use super::leader_epochs::LeaderEpochs;
use super::offset_index::{self, Lookup, OffsetIndex};
use super::scan::{BatchScan, Found, HeaderScan};
use super::time_index::{self, TimeIndex, TimestampOffset};
use crate::config::log::LogConfig;
use crate::model::clock::ms_since_1970;
use crate::model::{LeaderEpoch, Offset};
use crate::record::batch::{Batch, BatchHeader};

/// Offsets in the indexes are relative and 31 bits wide.
const RELATIVE_OFFSET_MAX: i64 = i32::MAX as i64;

#[derive(Debug)]
pub(crate) struct Segment {
    base_offset: Offset,
    /// Bytes of whole batches in the file; appends continue here.
    size: u32,
    /// Always open in the active segment once written to; elsewhere while it is being read.
    file: Option<Arc<File>>,
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
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(&path).doing("create", &path)?;
        if config.preallocate {
            file.set_len(u64::from(config.segment_bytes)).doing("preallocate", &path)?;
        }
        Ok(Segment {
            base_offset,
            size: 0,
            file: Some(Arc::new(file)),
            file_was_used: true,
            offset_index: OffsetIndex::empty(base_offset),
            time_index: TimeIndex::empty(base_offset),
            has_txn_index: false,
            max_timestamp: Some(TimestampOffset { timestamp_ms: -1, offset: base_offset }),
            bytes_since_index_entry: 0,
            first_append_timestamp_ms: None,
            created_ms: now_ms,
            jitter_ms: jitter(config),
        })
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
            file_was_used: false,
            offset_index: OffsetIndex::existing(base_offset),
            time_index: TimeIndex::existing(base_offset),
            has_txn_index,
            max_timestamp: None,
            bytes_since_index_entry: 0,
            first_append_timestamp_ms: None,
            created_ms: now_ms,
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

    fn offset_index_path(&self, dir: &Path) -> PathBuf {
        offset_file(dir, self.base_offset, file_names::OFFSET_INDEX)
    }

    fn time_index_path(&self, dir: &Path) -> PathBuf {
        offset_file(dir, self.base_offset, file_names::TIME_INDEX)
    }

    pub fn txn_index_path(&self, dir: &Path) -> PathBuf {
        offset_file(dir, self.base_offset, file_names::TXN_INDEX)
    }

    pub fn file(&mut self, dir: &Path) -> Result<Arc<File>, LogError> {
        self.file_was_used = true;
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let path = self.log_path(dir);
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(&path).doing("open", &path)?);
        self.file = Some(file.clone());
        Ok(file)
    }

    /// Closes the file if nobody wanted it since the last call. Readers that hold it keep it.
    pub fn close_if_idle(&mut self) {
        if !std::mem::take(&mut self.file_was_used) {
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

    fn first_append_timestamp(&mut self, dir: &Path) -> Result<Option<i64>, LogError> {
        if self.first_append_timestamp_ms.is_none() && self.size > 0 {
            let file = self.file(dir)?;
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
        if let Err(error) = write_all_at(&file, parts, u64::from(position)) {
            let path = self.log_path(dir);
            // The torn tail must not stay: the next append would hide it from recovery.
            file.set_len(u64::from(position))
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
        self.offset_index.push(&path, last_offset, position);
        let so_far = self.max_timestamp_so_far(dir)?;
        let path = self.time_index_path(dir);
        self.time_index.push_if_larger(&path, so_far).doing("read", &path)
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

    /// The largest record timestamp, or the time of the last write if the records have none.
    pub fn largest_timestamp_ms(&mut self, dir: &Path) -> Result<i64, LogError> {
        let so_far = self.max_timestamp_so_far(dir)?.timestamp_ms;
        if so_far >= 0 {
            return Ok(so_far);
        }
        let path = self.log_path(dir);
        let modified = path.metadata().and_then(|metadata| metadata.modified()).doing("read", &path)?;
        Ok(ms_since_1970(modified))
    }

    /// Where to look for a timestamp: no batch before this one reaches it.
    pub fn time_lookup(&mut self, dir: &Path, target_ms: i64) -> Result<TimestampOffset, LogError> {
        let path = self.time_index_path(dir);
        self.time_index.lookup(&path, target_ms).doing("read", &path)
    }

    /// Starts the search for the batch that holds `target`; see `Lookup`.
    pub fn lookup(&mut self, dir: &Path, target: Offset) -> Result<Lookup, LogError> {
        let path = self.offset_index_path(dir);
        self.offset_index.lookup(&path, target).doing("read", &path)
    }

    /// An offset that no batch before this file position goes beyond, if the index has one.
    pub fn offset_behind(&mut self, dir: &Path, position: u32) -> Result<Option<Offset>, LogError> {
        let path = self.offset_index_path(dir);
        self.offset_index.offset_behind(&path, position).doing("read", &path)
    }

    /// The segment is no longer written to: its files get their final content and length.
    pub fn become_inactive(&mut self, dir: &Path, config: &LogConfig) -> Result<(), LogError> {
        let so_far = self.max_timestamp_so_far(dir)?;
        let path = self.time_index_path(dir);
        self.time_index.push_if_larger(&path, so_far).doing("read", &path)?;
        self.time_index.trim(&path).doing("write", &path)?;
        let path = self.offset_index_path(dir);
        self.offset_index.trim(&path).doing("write", &path)?;
        if config.preallocate {
            let path = self.log_path(dir);
            self.file(dir)?.set_len(u64::from(self.size)).doing("trim", &path)?;
        }
        Ok(())
    }

    /// Writes what is pending of the indexes and names the files to fsync.
    pub fn files_to_flush(&mut self, dir: &Path) -> Result<Vec<PathBuf>, LogError> {
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
        file.set_len(u64::from(cut)).doing("truncate", &path)?;
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

    /// Rebuilds the indexes from the batches and cuts the file behind the last sound one. Tells `each` of every batch.
    pub fn recover(
        &mut self,
        dir: &Path,
        config: &LogConfig,
        epochs: &mut LeaderEpochs,
        mut each: impl FnMut(&Batch<'_>) -> Result<(), LogError>,
    ) -> Result<Recovered, LogError> {
        let path = self.log_path(dir);
        let index_path = self.offset_index_path(dir);
        self.offset_index.clear(&index_path).doing("truncate", &index_path)?;
        let index_path = self.time_index_path(dir);
        self.time_index.clear(&index_path).doing("truncate", &index_path)?;
        let index_path = self.txn_index_path(dir);
        files::remove_if_exists(&index_path).doing("delete", &index_path)?;
        self.has_txn_index = false;
        self.max_timestamp = Some(TimestampOffset { timestamp_ms: -1, offset: self.base_offset });
        self.first_append_timestamp_ms = None;
        self.bytes_since_index_entry = 0;

        let file = self.file(dir)?;
        let mut scan = BatchScan::new(&file, 0, self.size);
        let mut valid = 0;
        let mut next_offset = self.base_offset;
        let why = loop {
            match scan.next().doing("read", &path)? {
                Found::End => break None,
                Found::Damage(why) => break Some(why),
                Found::Batch((position, batch)) => {
                    let header = batch.header;
                    if let Some(why) = unsound(&batch, self.base_offset, next_offset) {
                        break Some(format!("{why} at position {position}"));
                    }
                    self.note_batch(dir, config, position, &header)?;
                    if header.magic >= 2
                        && header.partition_leader_epoch >= 0
                        && epochs.latest().is_none_or(|last| header.partition_leader_epoch > last.epoch.0)
                    {
                        epochs.assign(LeaderEpoch(header.partition_leader_epoch), Offset(header.base_offset));
                    }
                    each(&batch)?;
                    next_offset = Offset(header.next_offset());
                    valid = position + header.size_in_bytes as u32;
                }
            }
        };
        let truncated = self.size - valid;
        let file_bytes = file.metadata().doing("read", &path)?.len();
        if file_bytes != u64::from(valid) {
            file.set_len(u64::from(valid)).doing("truncate", &path)?;
        }
        self.size = valid;
        match self.become_inactive(dir, config) {
            // A full disk: what the index files lack waits in memory, and a file that is missing is rebuilt again.
            Err(error) if error.condemns() == Condemned::Nothing => log::warn!("{error}"),
            inactive => inactive?,
        }
        Ok(Recovered { next_offset, truncated_bytes: truncated, why })
    }

    /// Puts new entries in the place of all there are. `rebuilt` knows the batches up to some position; those appended
    /// since are looked at now.
    pub fn replace_indexes(&mut self, dir: &Path, mut rebuilt: IndexEntries, is_active: bool) -> Result<(), LogError> {
        let path = self.log_path(dir);
        let file = self.file(dir)?;
        rebuilt.scan(&file, self.size).doing("read", &path)?;
        let index_path = self.offset_index_path(dir);
        self.offset_index.clear(&index_path).doing("truncate", &index_path)?;
        let time_path = self.time_index_path(dir);
        self.time_index.clear(&time_path).doing("truncate", &time_path)?;
        for (last_offset, position, so_far) in rebuilt.entries {
            self.offset_index.push(&index_path, last_offset, position);
            self.time_index.push_if_larger(&time_path, so_far).doing("read", &time_path)?;
        }
        self.max_timestamp = Some(rebuilt.so_far);
        self.bytes_since_index_entry = rebuilt.bytes_since_entry;
        if is_active {
            return Ok(());
        }
        self.time_index.push_if_larger(&time_path, rebuilt.so_far).doing("read", &time_path)?;
        self.time_index.trim(&time_path).doing("write", &time_path)?;
        self.offset_index.trim(&index_path).doing("write", &index_path)
    }

    /// The names of the segment's files that exist.
    pub fn files(&self, dir: &Path) -> Vec<PathBuf> {
        [file_names::LOG, file_names::OFFSET_INDEX, file_names::TIME_INDEX, file_names::TXN_INDEX]
            .iter()
            .map(|extension| offset_file(dir, self.base_offset, extension))
            .filter(|path| path.exists())
            .collect()
    }
}

/// What the indexes of a segment should hold, read from the headers of its batches.
pub(crate) struct IndexEntries {
    interval_bytes: u32,
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
            let last_offset = Offset(header.last_offset);
            if header.max_timestamp > self.so_far.timestamp_ms {
                self.so_far = TimestampOffset { timestamp_ms: header.max_timestamp, offset: last_offset };
            }
            if self.bytes_since_entry > self.interval_bytes {
                self.entries.push((last_offset, position, self.so_far));
                self.bytes_since_entry = 0;
            }
            self.bytes_since_entry = self.bytes_since_entry.saturating_add(header.size_in_bytes as u32);
            self.scanned = position + header.size_in_bytes as u32;
        }
        Ok(())
    }
}

/// Why a batch cannot be part of the log, if so.
fn unsound(batch: &Batch<'_>, segment: Offset, next_offset: Offset) -> Option<&'static str> {
    let header = &batch.header;
    if !batch.crc_is_valid() {
        return Some("a batch whose checksum does not match");
    }
    // A compressed set of magic 0 or 1 names its last offset only.
    if header.base_offset < next_offset.0 || header.last_offset < header.base_offset {
        return Some("a batch whose offsets do not continue the log");
    }
    if header.last_offset - segment.0 > RELATIVE_OFFSET_MAX {
        return Some("a batch whose offsets lie too far from the segment's base offset");
    }
    None
}

pub(crate) struct Recovered {
    pub next_offset: Offset,
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

/// Writes all parts, resuming after short writes.
fn write_all_at(file: &File, mut parts: &mut [IoSlice<'_>], mut position: u64) -> io::Result<()> {
    // Longest vector Linux takes.
    const PARTS_MAX: usize = 1024;
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        #[cfg(test)]
        faults::before_write(file, parts, position)?;
        let count = parts.len().min(PARTS_MAX);
        match rustix::io::pwritev(file, &parts[..count], position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                position += written as u64;
                IoSlice::advance_slices(&mut parts, written);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn jitter(config: &LogConfig) -> i64 {
    let bound = config.segment_jitter_ms.min(config.segment_ms);
    if bound <= 0 { 0 } else { rand::random_range(0..bound) }
}

/// Makes appends of this thread fail the way a full or broken disk does.
#[cfg(test)]
pub(crate) mod faults {
    use super::*;
    use std::cell::Cell;
    use std::os::unix::fs::FileExt;

    thread_local! {
        static FAIL_AFTER: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// The next append writes this many bytes and then finds the disk full.
    pub fn fill_disk_after(bytes: usize) {
        FAIL_AFTER.set(Some(bytes));
    }

    pub fn before_write(file: &File, parts: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        let Some(bytes) = FAIL_AFTER.take() else { return Ok(()) };
        let all: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).take(bytes).collect();
        file.write_all_at(&all, position)?;
        Err(io::ErrorKind::StorageFull.into())
    }
}
