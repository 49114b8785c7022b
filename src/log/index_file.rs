//! A file of fixed-width entries that grows at the end: what offset index and time index have in common.
//!
//! The newest entries wait in memory and are written in bulk, so that an append costs no second system call; the log
//! itself is the truth, and recovery rebuilds what a crash lost. For the same reason a file is never preallocated: a
//! JVM broker extends the index of the active segment itself when it opens it, and without a zero tail there is
//! nothing that a missing trim could turn into false entries.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::{Condemned, condemned_by};
use super::files::{self, File};

/// Entries kept in memory before they are written together.
const PENDING_MAX: usize = 64;
/// Entries that a search reads together.
const BLOCK_ENTRIES: u32 = 256;

#[derive(Clone, Debug)]
pub(crate) struct IndexFile<const WIDTH: usize> {
    /// Entries in the file; unknown until somebody asks, so that opening a log does not touch its indexes.
    written: Option<u32>,
    /// Entries behind those, not yet written.
    pending: Vec<[u8; WIDTH]>,
    /// Where the last search of the file ended: a consumer that reads on finds its next position there. Whoever
    /// searches without the log's lock fills it; a truncation leaves it to them and starts a new one.
    last_block: Arc<Mutex<Option<Block<WIDTH>>>>,
}

/// Neighbouring entries of the file.
#[derive(Debug)]
struct Block<const WIDTH: usize> {
    /// Index of the first one in the file.
    first: u32,
    entries: Vec<[u8; WIDTH]>,
}

impl<const WIDTH: usize> Block<WIDTH> {
    /// The number of entries in the file for which `before` holds, if that is known from these entries.
    fn partition_point(&self, before: impl Fn(&[u8; WIDTH]) -> bool) -> Option<u32> {
        let found = self.entries.partition_point(before);
        let is_known = (found > 0 || self.first == 0) && found < self.entries.len();
        is_known.then(|| self.first + found as u32)
    }

    fn entry(&self, index: u32) -> Option<[u8; WIDTH]> {
        self.entries.get(index.checked_sub(self.first)? as usize).copied()
    }
}

impl<const WIDTH: usize> IndexFile<WIDTH> {
    /// The index of a new segment. The file appears with the first write.
    pub fn empty() -> Self {
        IndexFile { written: Some(0), pending: Vec::new(), last_block: Arc::default() }
    }

    /// The index of a segment found on disk; every whole entry in the file is taken as valid.
    pub fn existing() -> Self {
        IndexFile { written: None, pending: Vec::new(), last_block: Arc::default() }
    }

    fn written(&mut self, path: &Path) -> io::Result<u32> {
        if let Some(written) = self.written {
            return Ok(written);
        }
        let written = match files::metadata(path) {
            Ok(metadata) => u32::try_from(metadata.len() / WIDTH as u64).unwrap_or(u32::MAX),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        self.written = Some(written);
        Ok(written)
    }

    pub fn len(&mut self, path: &Path) -> io::Result<u32> {
        Ok(self.written(path)? + self.pending.len() as u32)
    }

    /// The newest entry.
    pub fn last(&mut self, path: &Path) -> io::Result<Option<[u8; WIDTH]>> {
        if let Some(last) = self.pending.last() {
            return Ok(Some(*last));
        }
        match self.written(path)? {
            0 => Ok(None),
            written => read_entry(&files::open(path)?, written - 1).map(Some),
        }
    }

    /// Adds an entry. That the pending ones cannot be written costs an append nothing, unless the disk is not to be trusted:
    /// they wait for the next flush, which must succeed before the recovery point moves.
    pub fn push(&mut self, path: &Path, entry: [u8; WIDTH]) -> io::Result<()> {
        let spilled = if self.pending.len() >= PENDING_MAX { self.spill(path) } else { Ok(()) };
        self.pending.push(entry);
        spilled.or_else(|error| if condemned_by(&error) == Condemned::Dir { Err(error) } else { Ok(()) })
    }

    /// Writes the pending entries to the file.
    pub fn spill(&mut self, path: &Path) -> io::Result<()> {
        let written = self.written(path)?;
        if self.pending.is_empty() {
            return Ok(());
        }
        let file = files::open_or_create(path)?;
        files::write_all_at(&file, self.pending.as_flattened(), u64::from(written) * WIDTH as u64)?;
        self.written = Some(written + self.pending.len() as u32);
        self.pending = Vec::new();
        Ok(())
    }

    /// Writes everything and gives the file exactly its entries' length, creating it if there are none.
    pub fn trim(&mut self, path: &Path) -> io::Result<()> {
        self.spill(path)?;
        let length = u64::from(self.written(path)?) * WIDTH as u64;
        let file = files::open_or_create(path)?;
        if files::metadata_of(&file)?.len() != length {
            files::set_len(&file, length)?;
        }
        Ok(())
    }

    /// Forgets all entries for these, which only memory has until `write_anew`.
    pub fn hold(&mut self, entries: impl Iterator<Item = [u8; WIDTH]>) {
        self.written = Some(0);
        self.pending = entries.collect();
        self.forget_block();
    }

    /// One more of them.
    pub fn hold_another(&mut self, entry: [u8; WIDTH]) {
        self.pending.push(entry);
    }

    /// Writes the file from its beginning. After an error it is not there, so that nobody takes a part of it for all.
    pub fn write_anew(&mut self, path: &Path) -> io::Result<()> {
        let written = files::write(path, self.pending.as_flattened());
        if written.is_err() {
            files::remove_if_exists(path)?;
        } else {
            self.written = Some(self.pending.len() as u32);
            self.pending = Vec::new();
        }
        written
    }

    /// Writes the entries, all of which memory has, to a file of another name; memory keeps them until `now_written`.
    pub fn write_copy(&self, path: &Path) -> io::Result<()> {
        files::write(path, self.pending.as_flattened())
    }

    /// The entries are in the file, which has got its name.
    pub fn now_written(&mut self) {
        self.written = Some(self.pending.len() as u32);
        self.pending = Vec::new();
    }

    /// Keeps the first `count` entries.
    pub fn truncate(&mut self, path: &Path, count: u32) -> io::Result<()> {
        let written = self.written(path)?;
        if count >= written {
            self.pending.truncate((count - written) as usize);
            return Ok(());
        }
        self.pending.clear();
        self.written = Some(count);
        self.forget_block();
        match files::open_to_write(path) {
            Ok(file) => files::set_len(&file, u64::from(count) * WIDTH as u64),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The last entry for which `before` holds, among entries ordered so that it holds for a prefix of them.
    /// Answers from memory when it can; else the caller searches the file, with or without the log's lock.
    pub fn search(&mut self, path: &Path, before: impl Fn(&[u8; WIDTH]) -> bool) -> io::Result<Search<WIDTH>> {
        let found = self.pending.partition_point(&before);
        if found > 0 {
            return Ok(Search::Done(Some(self.pending[found - 1])));
        }
        if let Some(block) = &*self.last_block.lock().unwrap_or_else(PoisonError::into_inner)
            && let Some(count) = block.partition_point(&before)
        {
            return Ok(Search::Done(count.checked_sub(1).and_then(|last| block.entry(last))));
        }
        match self.written(path)? {
            0 => Ok(Search::Done(None)),
            written => Ok(Search::InFile(self.written_entries(path, written))),
        }
    }

    fn written_entries(&self, path: &Path, written: u32) -> WrittenEntries<WIDTH> {
        WrittenEntries { path: path.to_path_buf(), written, last_block: Arc::clone(&self.last_block) }
    }

    /// Takes over what its twin knows of the file, which has only grown meanwhile, if at all: whoever adds to it knows.
    pub fn learn(&mut self, twin: Self) {
        self.written = self.written.or(twin.written);
    }

    /// Gives the memory back that the last search holds.
    pub fn forget_block(&mut self) {
        self.last_block = Arc::default();
    }

    /// The first entry for which `before` does not hold; if the caller has to search the file and it has none, the first of
    /// the others.
    pub fn search_behind(
        &mut self,
        path: &Path,
        before: impl Fn(&[u8; WIDTH]) -> bool,
    ) -> io::Result<(Search<WIDTH>, Option<[u8; WIDTH]>)> {
        let found = self.pending.partition_point(&before);
        let first_pending = self.pending.get(found).copied();
        if found > 0 {
            return Ok((Search::Done(first_pending), None));
        }
        if let Some(block) = &*self.last_block.lock().unwrap_or_else(PoisonError::into_inner)
            && let Some(count) = block.partition_point(&before)
        {
            return Ok((Search::Done(block.entry(count)), None));
        }
        match self.written(path)? {
            0 => Ok((Search::Done(first_pending), None)),
            written => Ok((Search::InFile(self.written_entries(path, written)), first_pending)),
        }
    }

    /// The number of entries for which `before` holds.
    pub fn partition_point(&mut self, path: &Path, before: impl Fn(&[u8; WIDTH]) -> bool) -> io::Result<u32> {
        let found = self.pending.partition_point(&before) as u32;
        match self.written(path)? {
            written if found > 0 => Ok(written + found),
            0 => Ok(0),
            written => self.written_entries(path, written).partition_point(before),
        }
    }
}

pub(crate) enum Search<const WIDTH: usize> {
    Done(Option<[u8; WIDTH]>),
    InFile(WrittenEntries<WIDTH>),
}

/// The entries in the file as of one moment; entries behind them may come and go meanwhile.
pub(crate) struct WrittenEntries<const WIDTH: usize> {
    path: PathBuf,
    written: u32,
    last_block: Arc<Mutex<Option<Block<WIDTH>>>>,
}

impl<const WIDTH: usize> WrittenEntries<WIDTH> {
    /// `None` also when the segment has been deleted meanwhile.
    pub fn last_before(&self, before: impl Fn(&[u8; WIDTH]) -> bool) -> io::Result<Option<[u8; WIDTH]>> {
        self.search(before, |count| count.checked_sub(1))
    }

    /// The first for which `before` does not hold; `None` also when the segment has been deleted meanwhile.
    pub fn first_not_before(&self, before: impl Fn(&[u8; WIDTH]) -> bool) -> io::Result<Option<[u8; WIDTH]>> {
        self.search(before, |count| Some(count).filter(|&count| count < self.written))
    }

    /// The entry that is wanted where `before` holds for so many.
    fn search(
        &self,
        before: impl Fn(&[u8; WIDTH]) -> bool,
        wanted: impl Fn(u32) -> Option<u32>,
    ) -> io::Result<Option<[u8; WIDTH]>> {
        let file = match files::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let (count, block) = search_file(&file, self.written, before)?;
        let Some(wanted) = wanted(count) else { return Ok(None) };
        let found = match block.entry(wanted) {
            Some(entry) => entry,
            None => read_entry(&file, wanted)?,
        };
        *self.last_block.lock().unwrap_or_else(PoisonError::into_inner) = Some(block);
        Ok(Some(found))
    }

    fn partition_point(&self, before: impl Fn(&[u8; WIDTH]) -> bool) -> io::Result<u32> {
        Ok(search_file(&files::open(&self.path)?, self.written, before)?.0)
    }
}

/// The number of entries for which `before` holds, and the entries around that place.
fn search_file<const WIDTH: usize>(
    file: &File,
    written: u32,
    before: impl Fn(&[u8; WIDTH]) -> bool,
) -> io::Result<(u32, Block<WIDTH>)> {
    let (mut low, mut high) = (0, written);
    while high - low > BLOCK_ENTRIES {
        let middle = low + (high - low) / 2;
        if before(&read_entry(file, middle)?) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    // The last few steps within one read, and what a reader that goes on from there will look for.
    let end = high.max(written.min(low.saturating_add(BLOCK_ENTRIES)));
    let mut entries = vec![[0; WIDTH]; (end - low) as usize];
    files::read_exact_at(file, entries.as_flattened_mut(), u64::from(low) * WIDTH as u64)?;
    let count = low + entries.partition_point(before) as u32;
    Ok((count, Block { first: low, entries }))
}

fn read_entry<const WIDTH: usize>(file: &File, index: u32) -> io::Result<[u8; WIDTH]> {
    let mut entry = [0; WIDTH];
    files::read_exact_at(file, &mut entry, u64::from(index) * WIDTH as u64)?;
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_the_same_in_memory_and_on_disk() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("x.index");
        let mut index = IndexFile::<4>::empty();
        let mut model: Vec<u32> = Vec::new();
        for i in 0..300_u32 {
            index.push(&path, (i * 2).to_be_bytes()).expect("writable");
            model.push(i * 2);
            if i % 97 == 0 {
                index.spill(&path).expect("writable");
            }
            if i == 150 {
                index.truncate(&path, 120).expect("truncatable");
                model.truncate(120);
            }
            for target in [0, 1, i, i * 2, u32::MAX] {
                let before = |e: &[u8; 4]| u32::from_be_bytes(*e) <= target;
                let expected = model.partition_point(|&v| v <= target);
                assert_eq!(index.partition_point(&path, before).expect("readable") as usize, expected);
                let found = match index.search(&path, before).expect("readable") {
                    Search::Done(found) => found,
                    Search::InFile(entries) => entries.last_before(before).expect("readable"),
                };
                assert_eq!(found.map(u32::from_be_bytes), expected.checked_sub(1).map(|e| model[e]));
                let behind = match index.search_behind(&path, before).expect("readable") {
                    (Search::Done(found), _) => found,
                    (Search::InFile(entries), others) => entries.first_not_before(before).expect("readable").or(others),
                };
                assert_eq!(behind.map(u32::from_be_bytes), model.get(expected).copied());
            }
        }
        index.trim(&path).expect("writable");
        let on_disk = std::fs::read(&path).expect("readable");
        assert_eq!(on_disk, model.iter().flat_map(|v| v.to_be_bytes()).collect::<Vec<_>>());
        let mut reopened = IndexFile::<4>::existing();
        assert_eq!(reopened.len(&path).expect("readable") as usize, model.len());
        assert_eq!(reopened.last(&path).expect("readable").map(u32::from_be_bytes), model.last().copied());
    }
}
