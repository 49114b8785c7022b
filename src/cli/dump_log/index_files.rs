//! Offset and time indexes, each entry held against the batch that it names.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{Findings, NO_LIMIT, Wanted, base_offset};
use crate::cli::options::Stop;
use crate::log::dump::{self, GoesOn, IndexEntries, SegmentFile};
use crate::model::Offset;
use crate::record::batch::{Batch, BatchHeader, NO_TIMESTAMP};
use crate::record::read::{INFLATED_RECORD_BYTES_MAX, for_each_record};

/// What is wrong with time indexes.
#[derive(Debug, Default)]
pub(super) struct TimeIndexErrors {
    mismatches: BTreeMap<PathBuf, Vec<(i64, i64)>>,
    out_of_order: BTreeMap<PathBuf, Vec<(i64, i64)>>,
    not_found: BTreeMap<PathBuf, Vec<(i64, i64)>>,
}

impl TimeIndexErrors {
    pub(super) fn tell(&self) {
        for (path, pairs) in &self.mismatches {
            complain!("Found timestamp mismatch in :{}", path.display());
            for (index, log) in pairs {
                complain!("  Index timestamp: {index}, log timestamp: {log}");
            }
        }
        for (path, pairs) in &self.out_of_order {
            complain!("Found out of order timestamp in :{}", path.display());
            for (index, previous) in pairs {
                complain!("  Index timestamp: {index}, Previously indexed timestamp: {previous}");
            }
        }
        for pairs in self.not_found.values() {
            complain!("The following indexed offsets are not found in the log.");
            for (index, log) in pairs {
                complain!("Indexed offset: {index}, found log offset: {log}");
            }
        }
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

/// Length and last entry, as a broker checks them at its start.
fn check_sanity<T>(
    path: &Path,
    index: &IndexEntries<T>,
    last_is_sound: Result<(), String>,
    out: &mut dyn Write,
) -> Result<(), Stop> {
    let full = absolute(path);
    last_is_sound.map_err(|why| Stop::Failed(format!("Corrupt index found, index file ({}) {why}", full.display())))?;
    if !index.bytes.is_multiple_of(index.entry_bytes) {
        return Err(Stop::Failed(format!(
            "Index file {} is corrupt, found {} bytes which is neither positive nor a multiple of {}",
            full.display(),
            index.bytes,
            index.entry_bytes
        )));
    }
    writeln!(out, "{} passed sanity check.", path.display())?;
    Ok(())
}

pub(super) fn dump_offset_index(
    path: &Path,
    wanted: &Wanted<'_>,
    findings: &mut Findings,
    out: &mut dyn Write,
) -> Result<(), Stop> {
    let base_offset = base_offset(path)?;
    let log_path = path.with_extension("log");
    let log = SegmentFile::open(&log_path)?;
    let index = dump::offset_index(path, base_offset)?;
    if index.entries.is_empty() {
        writeln!(out, "{} is empty.", path.display())?;
        return Ok(());
    }
    if wanted.checks_sanity_only {
        let last = index.entries.last().map_or(base_offset, |(offset, _)| *offset);
        let is_sound = if last < base_offset {
            Err(format!(
                "has non-zero size but the last offset is {} which is less than the base offset {}",
                last.0, base_offset.0
            ))
        } else {
            Ok(())
        };
        return check_sanity(path, &index, is_sound, out);
    }
    for (at, &(offset, position)) in index.entries.iter().enumerate() {
        // A crash leaves a tail of zeros.
        if at > 0 && offset == base_offset {
            break;
        }
        let mut first = None;
        let take_first = |_, batch: &Batch<'_>| -> Result<GoesOn, Stop> {
            first = Some(batch.header);
            Ok(GoesOn::No)
        };
        log.each_batch(&log_path, position, wanted.message_bytes_max, take_first)?;
        let Some(first) = first else {
            let log_path = log_path.display();
            return Err(Stop::Failed(format!(
                "There is no batch at position {position} of {log_path}, where the index says that offset {} is",
                offset.0
            )));
        };
        if first.last_offset != offset.0 {
            findings.index_mismatches.entry(absolute(path)).or_default().push((offset.0, first.last_offset));
        }
        if !wanted.verifies_only {
            writeln!(out, "offset: {} position: {position}", offset.0)?;
        }
    }
    Ok(())
}

pub(super) fn dump_time_index(
    path: &Path,
    wanted: &Wanted<'_>,
    findings: &mut Findings,
    out: &mut dyn Write,
) -> Result<(), Stop> {
    let base_offset = base_offset(path)?;
    let log_path = path.with_extension("log");
    let log = SegmentFile::open(&log_path)?;
    let offsets = dump::offset_index(&path.with_extension("index"), base_offset)?;
    let index = dump::time_index(path, base_offset)?;
    if wanted.checks_sanity_only {
        return check_sanity(path, &index, last_is_sound(&index.entries, base_offset), out);
    }
    let errors = &mut findings.time_index;
    let mut previous = NO_TIMESTAMP;
    for (at, &(timestamp_ms, offset)) in index.entries.iter().enumerate() {
        if at > 0 && offset == base_offset {
            break;
        }
        let before = offsets.entries.partition_point(|(last_offset, _)| *last_offset <= offset);
        let from = before.checked_sub(1).and_then(|at| offsets.entries.get(at)).map_or(0, |(_, position)| *position);
        match batch_at(&log, &log_path, from, offset)? {
            Some((header, largest)) if header.last_offset == offset.0 => {
                if largest != timestamp_ms {
                    errors.mismatches.entry(absolute(path)).or_default().push((timestamp_ms, largest));
                }
                if previous >= timestamp_ms {
                    errors.out_of_order.entry(absolute(path)).or_default().push((timestamp_ms, previous));
                }
            }
            found => {
                let found = found.map_or(-1, |(header, _)| header.last_offset);
                errors.not_found.entry(absolute(path)).or_default().push((offset.0, found));
            }
        }
        if !wanted.verifies_only {
            writeln!(out, "timestamp: {timestamp_ms} offset: {}", offset.0)?;
        }
        previous = timestamp_ms;
    }
    Ok(())
}

fn last_is_sound(entries: &[(i64, Offset)], base_offset: Offset) -> Result<(), String> {
    let (Some(&(first_ms, _)), Some(&(last_ms, last))) = (entries.first(), entries.last()) else { return Ok(()) };
    if last_ms < first_ms {
        return Err(format!(
            "has non-zero size but the last timestamp is {last_ms} which is less than the first timestamp {first_ms}"
        ));
    }
    if last < base_offset {
        return Err(format!(
            "has non-zero size but the last offset is {} which is less than the first offset {}",
            last.0, base_offset.0
        ));
    }
    Ok(())
}

/// The first batch that ends at or behind an offset, and the largest timestamp of its records.
fn batch_at(log: &SegmentFile, path: &Path, from: u32, offset: Offset) -> Result<Option<(BatchHeader, i64)>, Stop> {
    let mut found = None;
    log.each_batch(path, from, NO_LIMIT, |_, batch| -> Result<GoesOn, Stop> {
        if batch.header.last_offset < offset.0 {
            return Ok(GoesOn::Yes);
        }
        let mut largest = NO_TIMESTAMP;
        if batch.header.last_offset == offset.0 {
            for_each_record(batch, INFLATED_RECORD_BYTES_MAX, |record| -> Result<(), Stop> {
                largest = largest.max(record.timestamp);
                Ok(())
            })?;
        }
        found = Some((batch.header, largest));
        Ok(GoesOn::No)
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_index_is_told_of_as_it_was_named() {
        let index = |bytes| IndexEntries { entries: vec![()], bytes, entry_bytes: 8 };
        let mut out = Vec::new();
        check_sanity(Path::new("t-0/0.index"), &index(8), Ok(()), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "t-0/0.index passed sanity check.\n");
        let torn = check_sanity(Path::new("0.index"), &index(9), Ok(()), &mut Vec::new());
        assert!(matches!(torn, Err(Stop::Failed(why)) if why.starts_with("Index file /")));
    }
}
