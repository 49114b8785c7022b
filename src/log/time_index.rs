//! `<base>.timeindex`: the largest timestamp of the segment so far, and the batch that carries it.
//!
//! ```text
//! 0  i64  largest timestamp up to and including that batch     strictly increasing
//! 8  i32  last offset of that batch - base offset              never decreasing
//! ```
//! Source: kafka 3.9 storage/.../log/TimeIndex.java.

use std::io;
use std::path::Path;

use super::index_file::{IndexFile, Search, WrittenEntries};
use crate::model::Offset;

pub(crate) const ENTRY_BYTES: usize = 12;

/// A timestamp and the last offset of the batch that carries it; -1 and the segment's base offset if there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimestampOffset {
    pub timestamp_ms: i64,
    pub offset: Offset,
}

#[derive(Clone, Debug)]
pub(crate) struct TimeIndex {
    base_offset: Offset,
    file: IndexFile<ENTRY_BYTES>,
    /// The newest entry, once known, so that the common case costs no read.
    last: Option<TimestampOffset>,
}

impl TimeIndex {
    pub fn empty(base_offset: Offset) -> TimeIndex {
        let last = Some(TimestampOffset { timestamp_ms: -1, offset: base_offset });
        TimeIndex { base_offset, file: IndexFile::empty(), last }
    }

    pub fn existing(base_offset: Offset) -> TimeIndex {
        TimeIndex { base_offset, file: IndexFile::existing(), last: None }
    }

    pub fn len(&mut self, path: &Path) -> io::Result<u32> {
        self.file.len(path)
    }

    pub fn last(&mut self, path: &Path) -> io::Result<TimestampOffset> {
        if let Some(last) = self.last {
            return Ok(last);
        }
        let last = found(self.base_offset, self.file.last(path)?);
        self.last = Some(last);
        Ok(last)
    }

    /// Adds an entry if its timestamp is larger than all before.
    pub fn push_if_larger(&mut self, path: &Path, entry: TimestampOffset) -> io::Result<()> {
        let last = self.last(path)?;
        if !is_larger(&entry, &last) {
            return Ok(());
        }
        self.last = Some(entry);
        self.file.push(path, encode(self.base_offset, &entry))
    }

    /// Has those of these entries that are larger than all before instead of all others, in memory until `write_anew`.
    pub fn hold(&mut self, entries: impl Iterator<Item = TimestampOffset>) {
        let base_offset = self.base_offset;
        let mut last = TimestampOffset { timestamp_ms: -1, offset: base_offset };
        let larger = entries.filter(|entry| {
            let is_larger = is_larger(entry, &last);
            if is_larger {
                last = *entry;
            }
            is_larger
        });
        self.file.hold(larger.map(|entry| encode(base_offset, &entry)));
        self.last = Some(last);
    }

    /// One more, if it is larger than those that are held.
    pub fn hold_if_larger(&mut self, entry: TimestampOffset) {
        if self.last.is_some_and(|last| is_larger(&entry, &last)) {
            self.file.hold_another(encode(self.base_offset, &entry));
            self.last = Some(entry);
        }
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

    /// Starts the search for the last entry with a timestamp at or below the target: no earlier batch can carry a later
    /// timestamp.
    pub fn lookup(&mut self, path: &Path, target_ms: i64) -> io::Result<TimeLookup> {
        let base_offset = self.base_offset;
        Ok(match self.file.search(path, |entry| decode(base_offset, entry).timestamp_ms <= target_ms)? {
            Search::Done(entry) => TimeLookup::Known(found(base_offset, entry)),
            Search::InFile(entries) => TimeLookup::InFile { base_offset, target_ms, entries },
        })
    }

    pub fn learn(&mut self, twin: TimeIndex) {
        self.file.learn(twin.file);
        self.last = self.last.or(twin.last);
    }

    /// Forgets entries for `offset` and above.
    pub fn truncate_to(&mut self, path: &Path, offset: Offset) -> io::Result<()> {
        let base_offset = self.base_offset;
        let keep = self.file.partition_point(path, |entry| decode(base_offset, entry).offset < offset)?;
        self.last = None;
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
pub(crate) enum TimeLookup {
    Known(TimestampOffset),
    InFile { base_offset: Offset, target_ms: i64, entries: WrittenEntries<ENTRY_BYTES> },
}

impl TimeLookup {
    /// The timestamp is -1 if there is no such entry. Needs no lock.
    pub fn entry(self) -> io::Result<TimestampOffset> {
        match self {
            TimeLookup::Known(entry) => Ok(entry),
            TimeLookup::InFile { base_offset, target_ms, entries } => {
                let before = |entry: &[u8; ENTRY_BYTES]| decode(base_offset, entry).timestamp_ms <= target_ms;
                Ok(found(base_offset, entries.last_before(before)?))
            }
        }
    }
}

fn found(base_offset: Offset, entry: Option<[u8; ENTRY_BYTES]>) -> TimestampOffset {
    let none = TimestampOffset { timestamp_ms: -1, offset: base_offset };
    entry.map_or(none, |entry| decode(base_offset, &entry))
}

fn is_larger(entry: &TimestampOffset, last: &TimestampOffset) -> bool {
    entry.timestamp_ms > last.timestamp_ms && entry.offset >= last.offset
}

fn encode(base_offset: Offset, entry: &TimestampOffset) -> [u8; ENTRY_BYTES] {
    let mut bytes = [0; ENTRY_BYTES];
    bytes[..8].copy_from_slice(&entry.timestamp_ms.to_be_bytes());
    bytes[8..].copy_from_slice(&((entry.offset.0 - base_offset.0) as u32).to_be_bytes());
    bytes
}

pub(crate) fn decode(base_offset: Offset, entry: &[u8; ENTRY_BYTES]) -> TimestampOffset {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *entry;
    TimestampOffset {
        timestamp_ms: i64::from_be_bytes([a, b, c, d, e, f, g, h]),
        offset: Offset(base_offset.0.saturating_add(i64::from(u32::from_be_bytes([i, j, k, l])))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_larger_timestamps_are_kept_and_found() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("x.timeindex");
        let mut index = TimeIndex::empty(Offset(100));
        let entry = |timestamp_ms, offset| TimestampOffset { timestamp_ms, offset: Offset(offset) };
        for e in [entry(1000, 105), entry(1000, 110), entry(900, 120), entry(2000, 130)] {
            index.push_if_larger(&path, e).expect("writable");
        }
        assert_eq!(index.len(&path).expect("readable"), 2);
        for reopened in [false, true] {
            if reopened {
                index.trim(&path).expect("writable");
                index = TimeIndex::existing(Offset(100));
            }
            let mut find = |target_ms| index.lookup(&path, target_ms).and_then(TimeLookup::entry).expect("readable");
            assert_eq!([find(999), find(1999), find(2000)], [entry(-1, 100), entry(1000, 105), entry(2000, 130)]);
            assert_eq!(index.last(&path).expect("readable"), entry(2000, 130));
        }
        assert_eq!(
            std::fs::read(&path).expect("readable"),
            [0, 0, 0, 0, 0, 0, 0x03, 0xe8, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0x07, 0xd0, 0, 0, 0, 30],
            "byte for byte as Kafka"
        );
        index.truncate_to(&path, Offset(130)).expect("truncatable");
        assert_eq!(index.last(&path).expect("readable"), entry(1000, 105));
    }
}
