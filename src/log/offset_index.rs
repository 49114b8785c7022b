//! `<base>.index`: where in the segment the batch with a given last offset starts.
//!
//! ```text
//! 0  i32  last offset of the batch - base offset     strictly increasing
//! 4  i32  position of the batch in the .log file
//! ```
//! Source: kafka 3.9 storage/.../log/OffsetIndex.java.

use std::io;
use std::path::Path;

use super::index_file::{IndexFile, Search, WrittenEntries};
use crate::model::Offset;

pub(crate) const ENTRY_BYTES: usize = 8;

#[derive(Clone, Debug)]
pub(crate) struct OffsetIndex {
    base_offset: Offset,
    file: IndexFile<ENTRY_BYTES>,
}

impl OffsetIndex {
    pub fn empty(base_offset: Offset) -> OffsetIndex {
        OffsetIndex { base_offset, file: IndexFile::empty() }
    }

    pub fn existing(base_offset: Offset) -> OffsetIndex {
        OffsetIndex { base_offset, file: IndexFile::existing() }
    }

    pub fn len(&mut self, path: &Path) -> io::Result<u32> {
        self.file.len(path)
    }

    /// The caller keeps offsets within 2^31 of the base: segments roll before.
    pub fn push(&mut self, path: &Path, last_offset: Offset, position: u32) -> io::Result<()> {
        self.file.push(path, encode(self.base_offset, last_offset, position))
    }

    /// Has these entries instead of all others, in memory until `write_anew`.
    pub fn hold(&mut self, entries: impl Iterator<Item = (Offset, u32)>) {
        let base_offset = self.base_offset;
        self.file.hold(entries.map(|(last_offset, position)| encode(base_offset, last_offset, position)));
    }

    pub fn write_anew(&mut self, path: &Path) -> io::Result<()> {
        self.file.write_anew(path)
    }

    pub fn write_copy(&self, path: &Path) -> io::Result<()> {
        self.file.write_copy(path)
    }

    pub fn now_written(&mut self) {
        self.file.now_written();
    }

    pub fn last(&mut self, path: &Path) -> io::Result<Option<(Offset, u32)>> {
        Ok(self.file.last(path)?.map(|entry| decode(self.base_offset, &entry)))
    }

    /// Starts the search for a position at or before the batch that holds `target`.
    pub fn lookup(&mut self, path: &Path, target: Offset) -> io::Result<Lookup> {
        let base_offset = self.base_offset;
        Ok(match self.file.search(path, |entry| decode(base_offset, entry).0 <= target)? {
            Search::Done(entry) => Lookup::At(entry.map_or(0, |entry| decode(base_offset, &entry).1)),
            Search::InFile(entries) => Lookup::InFile { base_offset, target, entries },
        })
    }

    /// Starts the search for the first entry at or behind a file position: no batch before that position goes beyond its
    /// offset.
    pub fn offset_behind(&mut self, path: &Path, position: u32) -> io::Result<OffsetBehind> {
        let base_offset = self.base_offset;
        let offset = |entry: [u8; ENTRY_BYTES]| decode(base_offset, &entry).0;
        Ok(match self.file.search_behind(path, |entry| decode(base_offset, entry).1 < position)? {
            (Search::Done(entry), _) => OffsetBehind::Known(entry.map(offset)),
            (Search::InFile(entries), other) => {
                OffsetBehind::InFile { base_offset, position, entries, or: other.map(offset) }
            }
        })
    }

    pub fn learn(&mut self, twin: OffsetIndex) {
        self.file.learn(twin.file);
    }

    /// Forgets entries for `offset` and above.
    pub fn truncate_to(&mut self, path: &Path, offset: Offset) -> io::Result<()> {
        let base_offset = self.base_offset;
        let keep = self.file.partition_point(path, |entry| decode(base_offset, entry).0 < offset)?;
        self.file.truncate(path, keep)
    }

    pub fn forget_block(&mut self) {
        self.file.forget_block();
    }

    pub fn spill(&mut self, path: &Path) -> io::Result<()> {
        self.file.spill(path)
    }

    pub fn trim(&mut self, path: &Path) -> io::Result<()> {
        self.file.trim(path)
    }
}

/// A lookup that memory answered, or one that still has to read the file.
pub(crate) enum Lookup {
    At(u32),
    InFile { base_offset: Offset, target: Offset, entries: WrittenEntries<ENTRY_BYTES> },
}

impl Lookup {
    /// A position at or before the wanted batch. Needs no lock.
    pub fn position(self) -> io::Result<u32> {
        match self {
            Lookup::At(position) => Ok(position),
            Lookup::InFile { base_offset, target, entries } => {
                let found = entries.last_before(|entry| decode(base_offset, entry).0 <= target)?;
                Ok(found.map_or(0, |entry| decode(base_offset, &entry).1))
            }
        }
    }
}

/// The same of a search by position.
pub(crate) enum OffsetBehind {
    Known(Option<Offset>),
    InFile { base_offset: Offset, position: u32, entries: WrittenEntries<ENTRY_BYTES>, or: Option<Offset> },
}

impl OffsetBehind {
    /// `None` if the index has no entry there. Needs no lock.
    pub fn offset(self) -> io::Result<Option<Offset>> {
        match self {
            OffsetBehind::Known(offset) => Ok(offset),
            OffsetBehind::InFile { base_offset, position, entries, or } => {
                let found = entries.first_not_before(|entry| decode(base_offset, entry).1 < position)?;
                Ok(found.map(|entry| decode(base_offset, &entry).0).or(or))
            }
        }
    }
}

fn encode(base_offset: Offset, last_offset: Offset, position: u32) -> [u8; ENTRY_BYTES] {
    let relative = (last_offset.0 - base_offset.0) as u32;
    let mut entry = [0; ENTRY_BYTES];
    entry[..4].copy_from_slice(&relative.to_be_bytes());
    entry[4..].copy_from_slice(&position.to_be_bytes());
    entry
}

pub(crate) fn decode(base_offset: Offset, entry: &[u8; ENTRY_BYTES]) -> (Offset, u32) {
    let [a, b, c, d, e, f, g, h] = *entry;
    let relative = u32::from_be_bytes([a, b, c, d]);
    (Offset(base_offset.0.saturating_add(i64::from(relative))), u32::from_be_bytes([e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_lead_to_the_batch_at_or_before_the_target() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("x.index");
        let mut index = OffsetIndex::empty(Offset(100));
        index.push(&path, Offset(110), 5000).expect("writable");
        index.push(&path, Offset(120), 10_000).expect("writable");
        let mut position = |target| index.lookup(&path, Offset(target)).and_then(Lookup::position).expect("readable");
        assert_eq!(
            [position(100), position(109), position(110), position(119), position(500)],
            [0, 0, 5000, 5000, 10_000]
        );
        index.trim(&path).expect("writable");
        assert_eq!(
            std::fs::read(&path).expect("readable"),
            [0, 0, 0, 10, 0, 0, 0x13, 0x88, 0, 0, 0, 20, 0, 0, 0x27, 0x10],
            "byte for byte as Kafka"
        );
        let mut reopened = OffsetIndex::existing(Offset(100));
        assert_eq!(reopened.last(&path).expect("readable"), Some((Offset(120), 10_000)));
        reopened.truncate_to(&path, Offset(120)).expect("truncatable");
        assert_eq!(reopened.last(&path).expect("readable"), Some((Offset(110), 5000)));
    }
}
