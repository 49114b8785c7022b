//! Splits a segment that reaches further than its indexes can say, whose offsets are relative and 31 bits wide. Cleaners of old
//! brokers have made such segments out of several (KAFKA-6264).
//!
//! The parts are swapped in as compacted segments are (`replacement.rs`): a start finishes what a crash interrupts, and a JVM's
//! does. They come without indexes, which the start builds.
//! Source: kafka 3.9 core/.../log/{LogLoader,LocalLog}.scala (retryOnOffsetOverflow, splitOverflowedSegment).

use std::path::Path;

use super::error::{IoContext, LogError};
use super::file_names::{self, offset_file, with_suffix};
use super::files;
use super::replacement::remove_cleaned;
use super::scan::{Found, HeaderScan};
use super::segment::RELATIVE_OFFSET_MAX;
use crate::model::Offset;

const COPIED_BYTES: usize = 1 << 20;

/// Some of the bytes of a segment.
struct Part {
    base_offset: Offset,
    start: u64,
    end: u64,
}

/// Splits the segment at `base_offset`, which ends before `limit`. The files are called `.swap` afterwards, and the directory is
/// to be opened anew.
pub(super) fn split(dir: &Path, base_offset: Offset, limit: Offset) -> Result<(), LogError> {
    let path = offset_file(dir, base_offset, file_names::LOG);
    let file = files::open(&path).doing("open", &path)?;
    let metadata = files::metadata_of(&file).doing("look at", &path)?;
    let parts = parts_of(&file, base_offset, limit, metadata.len()).doing("read", &path)?;
    let modified = metadata.modified().doing("look at", &path)?;
    let paths: Vec<_> = parts.iter().map(|part| offset_file(dir, part.base_offset, file_names::LOG)).collect();
    let write = |part: &Part, cleaned: &Path| {
        let copy = files::create(cleaned)?;
        let mut buffer = vec![0; COPIED_BYTES];
        let mut position = part.start;
        while position < part.end {
            let wanted = usize::try_from(part.end - position).map_or(COPIED_BYTES, |left| left.min(COPIED_BYTES));
            files::read_exact_at(&file, &mut buffer[..wanted], position)?;
            files::write_all_at(&copy, &buffer[..wanted], position - part.start)?;
            position += wanted as u64;
        }
        // Retention goes by it where records have no dates.
        files::set_modified(&copy, modified)?;
        files::sync(&copy)
    };
    let written = parts.iter().zip(&paths).try_for_each(|(part, path)| {
        let cleaned = with_suffix(path, file_names::CLEANED);
        write(part, &cleaned).doing("write", &cleaned)
    });
    if written.is_err() {
        // The disk may be full of them, and the log is opened again when a decision about it comes.
        remove_cleaned(&paths);
    }
    written?;
    let sync_dir = || files::sync_path(dir).doing("fsync", dir);
    sync_dir()?;
    // From the last to the first: see `finish_swaps`.
    for path in paths.iter().rev() {
        let cleaned = with_suffix(path, file_names::CLEANED);
        files::rename(&cleaned, &with_suffix(path, file_names::SWAP)).doing("rename", &cleaned)?;
        sync_dir()?;
    }
    Ok(())
}

/// The first begins where the segment did, and the others with the first batch that the one before cannot name. What is no
/// batch any more stays with the last.
fn parts_of(file: &files::File, base_offset: Offset, limit: Offset, bytes: u64) -> std::io::Result<Vec<Part>> {
    let mut parts = vec![Part { base_offset, start: 0, end: bytes }];
    let mut next_offset = base_offset;
    let mut scan = HeaderScan::new(file, 0, u32::try_from(bytes).unwrap_or(u32::MAX));
    while let Found::Batch((position, header)) = scan.next()? {
        let part = parts.last_mut().expect("there is the first");
        let is_in_order = header.base_offset >= next_offset.0 && header.last_offset < limit.0;
        if !is_in_order {
            break;
        }
        if header.last_offset - part.base_offset.0 > RELATIVE_OFFSET_MAX {
            // Compressed sets of old formats name their last offset only.
            let first_offset = match header.magic {
                2.. => header.base_offset,
                _ => next_offset.0.max(header.last_offset - RELATIVE_OFFSET_MAX),
            };
            part.end = u64::from(position);
            parts.push(Part { base_offset: Offset(first_offset), start: u64::from(position), end: bytes });
        }
        next_offset = Offset(header.next_offset());
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::faults::{self, Op};
    use crate::log::loading::finish_swaps;
    use crate::log::testing::{OneLog, batch, compressed_batch, copy_tree, marker, names_in, read_all, small_segments};
    use crate::record::build::BatchBuilder;
    use crate::record::compression::Codec;

    const FAR: i64 = 1 << 31;

    fn at(offset: i64, batch: BatchBuilder) -> Vec<u8> {
        let mut bytes = batch.build().to_vec();
        bytes[..8].copy_from_slice(&offset.to_be_bytes());
        bytes[12..16].copy_from_slice(&0_i32.to_be_bytes());
        bytes
    }

    /// One segment that a cleaner has made of what lay in three, an aborted transaction in the last of them, and one behind.
    fn made() -> (OneLog, Vec<i64>) {
        let one = OneLog::new(small_segments());
        let far = [
            (3, batch(&[1, 2], 300)),
            (FAR - 2, batch(&[3], 300)),
            (FAR - 1, compressed_batch(&[4, 5], 300, Codec::Zstd)),
            (FAR + 50, batch(&[6], 300)),
            (3 * FAR, batch(&[7], 300).producer(7, 0, 0).transactional(true)),
            (3 * FAR + 1, marker(7, false, 1)),
        ];
        let mut offsets: Vec<i64> = far.iter().map(|(offset, _)| *offset).collect();
        let bytes: Vec<u8> = far.into_iter().flat_map(|(offset, batch)| at(offset, batch)).collect();
        std::fs::write(offset_file(&one.dir(), Offset(3), file_names::LOG), bytes).expect("writable");
        let last = 4 * FAR;
        std::fs::write(offset_file(&one.dir(), Offset(last), file_names::LOG), at(last, batch(&[8], 10)))
            .expect("writable");
        offsets.push(last);
        (one, offsets)
    }

    fn check(one: &OneLog, offsets: &[i64], clean: bool, what: &str) {
        let log = one.open(clean, Offset(0)).unwrap_or_else(|why| panic!("{what}: {why}"));
        let read: Vec<i64> = read_all(&log).iter().map(|(header, _)| header.base_offset).collect();
        assert_eq!(read, offsets, "{what}");
        let names = names_in(&one.dir());
        let with = |extension: &str| -> Vec<String> {
            names.iter().filter_map(|name| name.strip_suffix(extension)).map(str::to_string).collect()
        };
        let segments: Vec<String> =
            [3, FAR + 50, 3 * FAR, 4 * FAR].iter().map(|offset| format!("{offset:020}")).collect();
        assert_eq!([with(".log"), with(".index"), with(".timeindex")], [segments.clone(), segments.clone(), segments]);
        assert_eq!(with(".txnindex"), [format!("{:020}", 3 * FAR)], "{what}");
        assert!(with(".swap").is_empty() && with(".cleaned").is_empty(), "{what}: {names:?}");
    }

    #[test]
    fn a_segment_that_reaches_too_far_is_split_whatever_the_start_finds() {
        for (clean, with_indexes) in [(true, false), (false, false), (true, true), (false, true)] {
            let (one, offsets) = made();
            if with_indexes {
                for extension in [file_names::OFFSET_INDEX, file_names::TIME_INDEX] {
                    for base_offset in [3, 4 * FAR] {
                        std::fs::write(offset_file(&one.dir(), Offset(base_offset), extension), "").expect("writable");
                    }
                }
            }
            check(&one, &offsets, clean, &format!("clean: {clean}, with indexes: {with_indexes}"));
            // Nor is there anything left to do.
            check(&one, &offsets, clean, "again");
        }
    }

    /// Opens a copy with the nth of these calls failing, for each n that there is, says whether it opened, and expects it whole
    /// when it is opened again. So often did one fail.
    fn open_with_each_failing(op: Op, seen: impl Fn(&OneLog, bool, u32)) -> u32 {
        let (sample, offsets) = made();
        let mut nth = 0;
        loop {
            let one = OneLog::new((*sample.config).clone());
            copy_tree(&sample.dir(), &one.dir());
            faults::fail(op, nth);
            let opened = one.open(true, Offset(0));
            if faults::clear() {
                return nth;
            }
            seen(&one, opened.is_ok(), nth);
            drop(opened);
            check(&one, &offsets, true, &format!("{op:?} {nth}"));
            nth += 1;
        }
    }

    #[test]
    fn a_split_that_a_crash_interrupts_is_finished_or_begun_again() {
        for op in [Op::Create, Op::WriteAt, Op::SetModified, Op::Sync, Op::Rename, Op::Unlink] {
            assert!(open_with_each_failing(op, |_, _, _| {}) > 0, "{op:?}");
        }
    }

    /// In whatever order the file system names them.
    #[test]
    fn segments_that_are_swapped_in_do_not_replace_each_other() {
        let offsets = [3, FAR + 50, 3 * FAR];
        for first in 0..offsets.len() {
            for nth in 0..offsets.len() as u32 {
                let one = OneLog::new(small_segments());
                let log_of = |offset| offset_file(&one.dir(), Offset(offset), file_names::LOG);
                let swap_of = |offset| log_of(offset).with_extension("log.swap");
                let mut names = Vec::new();
                for offset in (0..offsets.len()).map(|at| offsets[(first + at) % offsets.len()]) {
                    std::fs::write(swap_of(offset), at(offset, batch(&[1], 300))).expect("writable");
                    names.push(format!("{offset:020}.log.swap"));
                }
                faults::fail(Op::Rename, nth);
                finish_swaps(&one.dir(), names.clone()).expect_err("a rename fails");
                assert!(!faults::clear());
                names.retain(|name| one.dir().join(name).exists());
                finish_swaps(&one.dir(), names).expect("nothing fails");
                for offset in offsets {
                    assert!(log_of(offset).exists(), "{offset}, begun with the {first}., cut off at the {nth}.");
                }
            }
        }
    }

    #[test]
    fn a_split_for_which_there_is_no_room_leaves_nothing_behind() {
        for op in [Op::Create, Op::WriteAt, Op::SetModified] {
            let failed = open_with_each_failing(op, |one, has_opened, nth| {
                // Indexes are made in another way.
                if !has_opened {
                    let names = names_in(&one.dir());
                    assert!(!names.iter().any(|name| name.ends_with(".cleaned")), "{op:?} {nth}: {names:?}");
                }
            });
            assert!(failed > 2, "{op:?}");
        }
    }

    #[test]
    fn what_lies_far_behind_in_the_last_segment_is_damage() {
        let one = OneLog::new(small_segments());
        let bytes = [at(0, batch(&[1], 10)), at(FAR + 5, batch(&[2], 10))].concat();
        std::fs::write(offset_file(&one.dir(), Offset(0), file_names::LOG), bytes).expect("writable");
        let log = one.open(false, Offset(0)).expect("loadable");
        assert_eq!(log.log_end_offset(), Offset(1));
    }
}
