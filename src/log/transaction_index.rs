//! `<base>.txnindex`: the aborted transactions whose marker lies in the segment, in the order of their markers.
//!
//! ```text
//! 0   i16  version = 0
//! 2   i64  producer id
//! 10  i64  first offset of the transaction
//! 18  i64  last offset: that of the abort marker
//! 26  i64  last stable offset when the marker was appended
//! ```
//! The file exists only where a transaction was aborted, and is opened only when it is used: aborts are rare.
//! Source: kafka 3.9 storage/.../log/{TransactionIndex,AbortedTxn}.java.

use std::io;
use std::path::{Path, PathBuf};

use super::error::{IoContext, LogError};
use super::files;
use crate::model::{Offset, ProducerId};

const ENTRY_BYTES: usize = 34;
const VERSION: i16 = 0;
/// Some 2 KiB.
const READ_AT_ONCE: u64 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTxn {
    pub producer_id: ProducerId,
    pub first_offset: Offset,
    pub last_offset: Offset,
    pub last_stable_offset: Offset,
}

impl AbortedTxn {
    fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut entry = [0; ENTRY_BYTES];
        entry[..2].copy_from_slice(&VERSION.to_be_bytes());
        let fields = [self.producer_id.0, self.first_offset.0, self.last_offset.0, self.last_stable_offset.0];
        for (place, value) in entry[2..].chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&value.to_be_bytes());
        }
        entry
    }

    fn decode(entry: &[u8; ENTRY_BYTES]) -> Option<AbortedTxn> {
        let (version, fields) = entry.split_first_chunk::<2>()?;
        // Later versions only add fields behind these.
        if i16::from_be_bytes(*version) < VERSION {
            return None;
        }
        let (fields, _) = fields.as_chunks::<8>();
        let [producer_id, first_offset, last_offset, last_stable_offset] =
            <[[u8; 8]; 4]>::try_from(fields).ok()?.map(i64::from_be_bytes);
        Some(AbortedTxn {
            producer_id: ProducerId(producer_id),
            first_offset: Offset(first_offset),
            last_offset: Offset(last_offset),
            last_stable_offset: Offset(last_stable_offset),
        })
    }
}

/// A file that is open to be appended to.
pub(crate) struct TransactionIndex {
    file: files::File,
    path: PathBuf,
}

impl TransactionIndex {
    pub fn open(path: PathBuf) -> Result<TransactionIndex, LogError> {
        let file = files::open_or_create(&path).doing("open", &path)?;
        Ok(TransactionIndex { file, path })
    }

    /// One in which there is room for so many entries more, where the file system can tell. Their transactions are about to be
    /// aborted in the log, and without the entries readers would take aborted records for committed ones.
    pub fn with_room(path: PathBuf, count: usize) -> Result<TransactionIndex, LogError> {
        let index = TransactionIndex::open(path)?;
        let length = files::metadata_of(&index.file).doing("make room in", &index.path)?.len();
        files::reserve(&index.file, length, (count * ENTRY_BYTES) as u64).doing("make room in", &index.path)?;
        Ok(index)
    }

    pub fn append(&self, txn: &AbortedTxn) -> Result<(), LogError> {
        let write = || -> io::Result<()> {
            // A torn entry of an earlier failure is overwritten, not built upon.
            let length = files::metadata_of(&self.file)?.len() / ENTRY_BYTES as u64 * ENTRY_BYTES as u64;
            files::write_all_at(&self.file, &txn.encode(), length)
        };
        write().doing("append to", &self.path)
    }
}

/// All entries; checks what a reader relies on: whole entries, known version, markers in order within the segment.
pub(crate) fn read(path: &Path, base_offset: Offset) -> Result<Vec<AbortedTxn>, LogError> {
    let content = files::read_if_exists(path).doing("read", path)?.unwrap_or_default();
    let (entries, rest) = content.as_chunks::<ENTRY_BYTES>();
    let mut txns = Vec::with_capacity(entries.len());
    decode_behind(Offset(base_offset.0 - 1), entries, &mut txns).ok_or_else(|| corrupt(path))?;
    if rest.is_empty() { Ok(txns) } else { Err(corrupt(path)) }
}

/// `None` if one of them is not what a reader relies on.
fn decode_behind(mut previous: Offset, entries: &[[u8; ENTRY_BYTES]], txns: &mut Vec<AbortedTxn>) -> Option<()> {
    for entry in entries {
        let txn = AbortedTxn::decode(entry)
            .filter(|txn| txn.last_offset > previous && txn.first_offset <= txn.last_offset)?;
        previous = txn.last_offset;
        txns.push(txn);
    }
    Some(())
}

/// Forgets transactions that ended at `offset` or above.
pub(crate) fn truncate_to(path: &Path, base_offset: Offset, offset: Offset) -> Result<(), LogError> {
    if !files::exists(path).doing("look for", path)? {
        return Ok(());
    }
    let keep = read(path, base_offset)?.iter().take_while(|txn| txn.last_offset < offset).count();
    let cut = || files::set_len(&files::open_to_write(path)?, (keep * ENTRY_BYTES) as u64);
    cut().doing("truncate", path)
}

/// The aborted transactions with data in `[fetch_offset, upper_bound)`, and whether later segments cannot add any. Of a long
/// index only a part is read: markers are in order, so those before the first offset are found by halves and left out.
pub(crate) fn collect(
    path: &Path,
    base_offset: Offset,
    fetch_offset: Offset,
    upper_bound: Offset,
    found: &mut Vec<AbortedTxn>,
) -> Result<bool, LogError> {
    let file = match files::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened.doing("open", path)?,
    };
    let count = files::metadata_of(&file).doing("look at", path)?.len() / ENTRY_BYTES as u64;
    let entries = |from: u64, count: u64| -> Result<Vec<u8>, LogError> {
        let mut bytes = vec![0; count as usize * ENTRY_BYTES];
        files::read_exact_at(&file, &mut bytes, from * ENTRY_BYTES as u64).doing("read", path)?;
        Ok(bytes)
    };
    let (mut from, mut to) = (0, count);
    while to - from > READ_AT_ONCE {
        let middle = from + (to - from) / 2;
        let entry = entries(middle, 1)?;
        let txn = entry.first_chunk().and_then(AbortedTxn::decode).ok_or_else(|| corrupt(path))?;
        if txn.last_offset < fetch_offset {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    let (mut txns, mut previous) = (Vec::new(), Offset(base_offset.0 - 1));
    while from < count {
        let bytes = entries(from, READ_AT_ONCE.min(count - from))?;
        let (read, _) = bytes.as_chunks::<ENTRY_BYTES>();
        txns.clear();
        decode_behind(previous, read, &mut txns).ok_or_else(|| corrupt(path))?;
        if collect_from(&txns, fetch_offset, upper_bound, found) {
            return Ok(true);
        }
        previous = txns.last().map_or(previous, |txn| txn.last_offset);
        from += read.len() as u64;
    }
    Ok(false)
}

/// The same, from what was read.
pub(crate) fn collect_from(
    txns: &[AbortedTxn],
    fetch_offset: Offset,
    upper_bound: Offset,
    found: &mut Vec<AbortedTxn>,
) -> bool {
    let first = txns.partition_point(|txn| txn.last_offset < fetch_offset);
    for txn in &txns[first..] {
        if txn.first_offset < upper_bound {
            found.push(*txn);
        }
        if txn.last_stable_offset >= upper_bound {
            return true;
        }
    }
    false
}

/// A whole index.
pub(crate) fn encode(txns: &[AbortedTxn]) -> Vec<u8> {
    txns.iter().flat_map(AbortedTxn::encode).collect()
}

fn corrupt(path: &Path) -> LogError {
    LogError::Corrupt { context: format!("transaction index {} is corrupt", path.display()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn txn(producer_id: i64, first: i64, last: i64, stable: i64) -> AbortedTxn {
        AbortedTxn {
            producer_id: ProducerId(producer_id),
            first_offset: Offset(first),
            last_offset: Offset(last),
            last_stable_offset: Offset(stable),
        }
    }

    #[test]
    fn entries_are_written_as_kafka_writes_them_and_found_by_overlap() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("x.txnindex");
        let all = [txn(1, 0, 10, 11), txn(2, 5, 20, 12), txn(3, 30, 40, 41)];
        for t in &all {
            TransactionIndex::open(path.clone()).and_then(|index| index.append(t)).expect("writable");
        }
        let bytes = std::fs::read(&path).expect("readable");
        assert_eq!(bytes.len(), 3 * 34);
        assert_eq!(bytes[..18], [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        let overlapping = |from, to| {
            let mut found = Vec::new();
            let complete = collect(&path, Offset(0), Offset(from), Offset(to), &mut found).expect("readable");
            (found.iter().map(|t| t.producer_id.0).collect::<Vec<_>>(), complete)
        };
        assert_eq!(overlapping(0, 5), (vec![1], true));
        assert_eq!(overlapping(11, 30), (vec![2], true));
        assert_eq!(overlapping(0, 100), (vec![1, 2, 3], false));
        truncate_to(&path, Offset(0), Offset(20)).expect("truncatable");
        assert_eq!(read(&path, Offset(0)).expect("readable"), all[..1]);
    }

    /// Some are open for so long that those behind them end before them.
    #[test]
    fn a_part_of_a_long_index_is_found_as_in_the_whole() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("x.txnindex");
        let all: Vec<AbortedTxn> =
            (0..1_000).map(|at| txn(at, 10 * (at - at % 7), 10 * at + 9, 10 * (at - at % 7))).collect();
        std::fs::write(&path, encode(&all)).expect("writable");
        for from in (0..10_020).step_by(23) {
            for to in [from + 1, from + 10, from + 500, 10_000, 20_000] {
                let (mut found, mut expected) = (Vec::new(), Vec::new());
                let complete = collect(&path, Offset(0), Offset(from), Offset(to), &mut found).expect("readable");
                let mut is_complete = false;
                for txn in all.iter().filter(|txn| txn.last_offset >= Offset(from)) {
                    expected.extend(Some(*txn).filter(|txn| txn.first_offset < Offset(to)));
                    is_complete = txn.last_stable_offset >= Offset(to);
                    if is_complete {
                        break;
                    }
                }
                assert_eq!((found, complete), (expected, is_complete), "from {from} to {to}");
            }
        }
        let missing = collect(&dir.path().join("none"), Offset(0), Offset(0), Offset(9), &mut Vec::new());
        assert!(!missing.expect("it is none"));
    }

    #[test]
    fn a_damaged_index_is_noticed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("x.txnindex");
        std::fs::write(&path, [0; 33]).expect("writable");
        assert!(read(&path, Offset(0)).is_err(), "half an entry");
        std::fs::write(&path, [0xff; 34]).expect("writable");
        assert!(read(&path, Offset(0)).is_err(), "unknown version");
        std::fs::write(&path, [0; 68]).expect("writable");
        assert!(read(&path, Offset(0)).is_err(), "markers out of order");
    }
}
