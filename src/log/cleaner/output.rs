//! The segment that compaction writes: `.cleaned` files, of which nobody knows before they are complete.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::CleanError;
use crate::config::log::LogConfig;
use crate::log::error::{IoContext, LogError};
use crate::log::file_names::{self, with_suffix};
use crate::log::files::{self, File};
use crate::log::loading::file_names_in;
use crate::log::replacement::{Cleaned, paths_of, remove_cleaned};
use crate::log::segment::{IndexEntries, Segment};
use crate::log::transaction_index::{self, AbortedTxn};
use crate::model::Offset;
use crate::record::batch::BatchHeader;

pub(crate) struct Output {
    dir: PathBuf,
    base_offset: Offset,
    file: File,
    path: PathBuf,
    /// Not yet in the file.
    buffer: Vec<u8>,
    buffer_bytes: usize,
    written: u64,
    size: u32,
    next_offset: Offset,
    indexed: IndexEntries,
    pub txns: Vec<AbortedTxn>,
    is_finished: bool,
}

impl Output {
    /// What earlier attempts left of theirs goes: to a start it would say that all that was swapped in behind it is half done.
    pub fn create(
        dir: &Path,
        base_offset: Offset,
        config: &LogConfig,
        buffer_bytes: usize,
    ) -> Result<Output, LogError> {
        for name in file_names_in(dir)?.iter().filter(|name| name.ends_with(file_names::CLEANED)) {
            let path = dir.join(name);
            files::remove_if_exists(&path).doing("delete", &path)?;
        }
        let path = with_suffix(&file_names::offset_file(dir, base_offset, file_names::LOG), file_names::CLEANED);
        let file = files::create(&path).doing("create", &path)?;
        Ok(Output {
            dir: dir.to_path_buf(),
            base_offset,
            file,
            path,
            buffer: Vec::new(),
            buffer_bytes,
            written: 0,
            size: 0,
            next_offset: base_offset,
            indexed: IndexEntries::new(base_offset, config),
            txns: Vec::new(),
            is_finished: false,
        })
    }

    /// Adds a batch, which has this header.
    pub fn append(&mut self, bytes: &[u8], header: &BatchHeader) -> Result<(), CleanError> {
        let (first, last) = (header.base_offset, header.last_offset);
        if first < self.next_offset.0 || last < first || last - self.base_offset.0 > i64::from(i32::MAX) {
            let reason = "a batch whose offsets do not continue its segment";
            return Err(CleanError::unreadable(&self.path, Offset(first), reason));
        }
        let size = u64::from(self.size) + bytes.len() as u64;
        if size > i32::MAX as u64 {
            let reason = "its segment would take more bytes than one may have";
            return Err(CleanError::unreadable(&self.path, Offset(first), reason));
        }
        self.indexed.note(self.size, header);
        self.size = size as u32;
        self.next_offset = Offset(header.next_offset());
        if self.buffer.len() + bytes.len() > self.buffer_bytes {
            self.write_buffer()?;
        }
        if bytes.len() >= self.buffer_bytes {
            self.write(bytes)?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn write_buffer(&mut self) -> Result<(), LogError> {
        let buffer = std::mem::take(&mut self.buffer);
        self.write(&buffer)?;
        self.buffer = buffer;
        self.buffer.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        files::write_all_at(&self.file, bytes, self.written).doing("write", &self.path)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Gives the files to the disk, with the date of the last segment that they were made from.
    pub fn finish(mut self, modified: SystemTime, config: &LogConfig, now_ms: i64) -> Result<Cleaned, LogError> {
        self.write_buffer()?;
        let txns: Arc<[AbortedTxn]> = std::mem::take(&mut self.txns).into();
        let paths = paths_of(&self.dir, self.base_offset, !txns.is_empty());
        let cleaned: Vec<PathBuf> = paths.iter().map(|path| with_suffix(path, file_names::CLEANED)).collect();
        let file = Arc::new(self.file.try_clone().doing("open", &self.path)?);
        let indexed = std::mem::replace(&mut self.indexed, IndexEntries::new(self.base_offset, config));
        let mut segment =
            Segment::taking_place(self.base_offset, self.size, file, indexed, Arc::clone(&txns), config, now_ms);
        let [_, index, time_index, ..] = cleaned.as_slice() else { unreachable!("a segment has three files or four") };
        segment.write_index_copies(&self.dir, index, time_index)?;
        if let [_, _, _, txn_index] = cleaned.as_slice() {
            files::write(txn_index, &transaction_index::encode(&txns)).doing("write", txn_index)?;
        }
        for path in &cleaned {
            let file = files::open_to_write(path).doing("open", path)?;
            files::set_modified(&file, modified).doing("date", path)?;
            files::sync(&file).doing("fsync", path)?;
        }
        self.is_finished = true;
        Ok(Cleaned { segment, next_offset: self.next_offset, paths })
    }

    pub fn size(&self) -> u32 {
        self.size
    }
}

/// What is not finished is of no use.
impl Drop for Output {
    fn drop(&mut self) {
        if !self.is_finished {
            remove_cleaned(&paths_of(&self.dir, self.base_offset, true));
        }
    }
}
