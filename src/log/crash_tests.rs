//! Crashes and damage: whatever happened to the files, a log opens, with everything that was flushed.

use std::fs;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::segment::faults;
use super::testing::*;
use super::{FirstBatch, ReadUntil};
use crate::config::log::LogConfig;
use crate::model::Offset;
use crate::record::append_rules::AppendOrigin;

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("writable");
    for name in names_in(from) {
        fs::copy(from.join(&name), to.join(&name)).expect("writable");
    }
}

/// A log with several segments, flushed up to some offset, and the batches it holds.
fn sample(one: &OneLog) -> (Offset, Vec<(i64, i64)>) {
    let log = one.open_clean();
    for i in 0..25 {
        if i == 18 {
            log.flush(0).expect("flushed");
        }
        append_in_epoch(&log, batch(&[i * 10, i * 10 + 1], 40).producer(9, 0, i as i32 * 2), (i / 9) as i32)
            .expect("appended");
    }
    let flushed = log.recovery_point();
    assert_eq!(flushed, Offset(36));
    // A process that is killed leaves the page cache, but not what waited in memory.
    log.abandon();
    let batches = read_all(&one.open(false, flushed).expect("loadable"));
    (flushed, batches.iter().map(|(header, _)| (header.base_offset, header.last_offset)).collect())
}

#[test]
fn a_torn_or_garbled_tail_is_cut_and_nothing_flushed_is_lost() {
    let one = OneLog::new(small_segments());
    let (flushed, batches) = sample(&one);
    assert_eq!(batches.len(), 25);
    let last_log = names_in(&one.dir()).into_iter().rfind(|name| name.ends_with(".log")).expect("a segment");
    let base: i64 = last_log.trim_end_matches(".log").parse().expect("an offset");
    let content = fs::read(one.dir().join(&last_log)).expect("readable");
    let mut outside_checksum = vec![false; content.len()];
    let mut position = 0;
    for batch in crate::record::batch::Batches::new(&content) {
        outside_checksum[position..position + 8].fill(true);
        outside_checksum[position + 12..position + 16].fill(true);
        position += batch.expect("well-formed").bytes.len();
    }
    let mut rng = StdRng::seed_from_u64(1);
    for at in 0..content.len() {
        for garble in [false, true] {
            let crashed = OneLog::new(small_segments());
            copy_dir(&one.dir(), &crashed.dir());
            let path = crashed.dir().join(&last_log);
            if garble {
                let mut garbled = content.clone();
                garbled[at] ^= 1 << rng.random_range(0..8);
                fs::write(&path, garbled).expect("writable");
            } else {
                fs::write(&path, &content[..at]).expect("writable");
            }
            let recovery_point = Offset(flushed.0.min(base));
            let log = crashed.open(false, recovery_point).expect("a crash is always recoverable");
            let read: Vec<(i64, i64)> = read_all(&log).iter().map(|(h, _)| (h.base_offset, h.last_offset)).collect();
            if garble && outside_checksum[at] {
                continue;
            }
            assert!(batches.starts_with(&read), "byte {at}, garbled: {garble}: {read:?}");
            assert!(log.log_end_offset() >= Offset(base), "byte {at}: whole segments before the last are flushed");
            let kept = read.last().map_or(0, |(_, last)| last + 1);
            assert_eq!(log.log_end_offset().0, kept, "byte {at}");
            if at % 16 != 0 {
                continue;
            }
            append_in_epoch(&log, batch(&[1], 5), 5).expect("the log goes on");
            log.close(0).expect("closable");
            let again = crashed.open_clean();
            assert_eq!(again.log_end_offset().0, kept + 1, "byte {at}");
        }
    }
}

#[test]
fn damage_in_the_middle_ends_the_log_there() {
    let one = OneLog::new(small_segments());
    let (_, batches) = sample(&one);
    let names = names_in(&one.dir());
    let middle = names.iter().filter(|name| name.ends_with(".log")).nth(1).expect("a second segment");
    let path = one.dir().join(middle);
    let mut content = fs::read(&path).expect("readable");
    let at = content.len() - 3;
    content[at] ^= 0xff;
    fs::write(&path, content).expect("writable");
    let log = one.open(false, Offset(0)).expect("loadable");
    let read: Vec<(i64, i64)> = read_all(&log).iter().map(|(h, _)| (h.base_offset, h.last_offset)).collect();
    assert!(batches.starts_with(&read) && read.len() < batches.len());
    assert_eq!(log.log_end_offset().0, read.last().expect("batches before the damage").1 + 1);
    assert!(log.epochs().iter().all(|epoch| epoch.start_offset < log.log_end_offset()));
}

#[test]
fn damage_to_any_file_beside_the_log_loses_no_record() {
    let one = OneLog::new(small_segments());
    let (flushed, batches) = sample(&one);
    one.open(false, flushed).expect("loadable").close(0).expect("closable");
    let damages: [fn(&mut Vec<u8>); 5] = [
        |content| content.clear(),
        |content| content.truncate(content.len() / 2),
        |content| content.fill(0),
        |content| content.fill(0xff),
        |content| content.extend([0; 4096]),
    ];
    let mut damaged_files = 0;
    for name in names_in(&one.dir()) {
        if name.ends_with(".log") {
            continue;
        }
        for (which, damage) in damages.iter().enumerate() {
            for clean in [true, false] {
                let crashed = OneLog::new(small_segments());
                copy_dir(&one.dir(), &crashed.dir());
                let path = crashed.dir().join(&name);
                let mut content = fs::read(&path).expect("readable");
                damage(&mut content);
                fs::write(&path, content).expect("writable");
                let what = format!("{name}, damage {which}, clean: {clean}");
                let log = crashed.open(clean, flushed).unwrap_or_else(|error| panic!("{what}: {error}"));
                let read: Vec<(i64, i64)> =
                    read_all(&log).iter().map(|(h, _)| (h.base_offset, h.last_offset)).collect();
                assert_eq!(read, batches, "{what}");
                for (base, last) in &batches {
                    let bytes = read_bytes(&log, Offset(*last), 1);
                    let header = crate::record::batch::BatchHeader::read(&bytes).expect("valid").expect("a batch");
                    assert_eq!(header.base_offset, *base, "{what}: looking for {last}");
                }
                for timestamp in [0, 55, 240] {
                    let query = super::OffsetQuery::AtOrAfter(timestamp);
                    let _ = log.offset_for_timestamp(query).unwrap_or_else(|error| panic!("{what}: {error}"));
                }
                append_in_epoch(&log, batch(&[1], 5), 7).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
        }
        damaged_files += 1;
    }
    assert!(damaged_files > 8);
}

/// Whatever its entries say, an index hides no record, and one that leads astray is rebuilt.
#[test]
fn an_index_that_is_wrong_in_any_way_hides_no_record_and_is_rebuilt() {
    // Every batch gets an entry, so that every entry leads somewhere.
    let config = LogConfig { index_interval_bytes: 0, segment_bytes: 3000, ..small_segments() };
    let one = OneLog::new(config.clone());
    let (flushed, batches) = sample(&one);
    one.open(false, flushed).expect("loadable").close(0).expect("closable");
    let indexes: Vec<String> = names_in(&one.dir())
        .into_iter()
        .filter(|name| name.ends_with("index") && fs::metadata(one.dir().join(name)).is_ok_and(|file| file.len() > 24))
        .collect();
    assert!(indexes.iter().any(|name| name.ends_with(".timeindex")) && indexes.len() > 2, "{indexes:?}");
    // Makes a wrong position of a right one, and of where the segment ends.
    type Wrong = fn(u32, u32) -> u32;
    let wrongs: [(&str, Wrong); 7] = [
        ("at the end", |_, end| end),
        ("behind the end", |_, end| end + 1),
        ("far behind the end", |_, _| u32::MAX),
        ("into a batch", |value, _| value + 7),
        ("to the next but one", |value, end| value.saturating_add(300).min(end)),
        ("to the beginning", |_, _| 0),
        ("backwards", |value, end| end.saturating_sub(value)),
    ];
    let mut rebuilt = 0;
    for name in &indexes {
        let good = fs::read(one.dir().join(name)).expect("readable");
        let is_time = name.ends_with(".timeindex");
        let width = if is_time { 12 } else { 8 };
        let stem = name.split_once('.').expect("an extension").0;
        let end = fs::metadata(one.dir().join(format!("{stem}.log"))).expect("readable").len() as u32;
        for (what, wrong) in wrongs {
            for all in [true, false] {
                let damaged = OneLog::new(config.clone());
                copy_dir(&one.dir(), &damaged.dir());
                let mut content = good.clone();
                let entries = content.len() / width;
                let first = if all { 0 } else { entries - 1 };
                for entry in content.chunks_mut(width).skip(first) {
                    let (_, last) = entry.split_last_chunk_mut::<4>().expect("four bytes");
                    *last = wrong(u32::from_be_bytes(*last), end).to_be_bytes();
                }
                fs::write(damaged.dir().join(name), content).expect("writable");
                let log = damaged.open(true, flushed).expect("loadable");
                let what = format!("{name} leads {what}, all: {all}");
                for round in ["as found", "once rebuilt"] {
                    for (base, last) in &batches {
                        for offset in [*base, *last] {
                            let bytes = read_bytes(&log, Offset(offset), 1);
                            let header = crate::record::batch::BatchHeader::read(&bytes).expect("valid");
                            let found = header.map(|header| header.base_offset);
                            assert_eq!(found, Some(*base), "{what}, {round}: looking for {offset}");
                        }
                        let asked = super::OffsetQuery::AtOrAfter(base / 2 * 10);
                        let found = log.offset_for_timestamp(asked).unwrap_or_else(|error| panic!("{what}: {error}"));
                        assert_eq!(found.map(|found| found.offset.0), Some(*base), "{what}, {round}: by time");
                    }
                    let wrong = damaged.parent.wrong_indexes.take(0);
                    assert!(round == "as found" || wrong.is_empty(), "{what}: {wrong:?}");
                    for ((_, base_offset), _) in wrong {
                        log.rebuild_indexes(base_offset).expect("rebuilt");
                        rebuilt += 1;
                    }
                }
            }
        }
    }
    assert!(rebuilt > 10, "{rebuilt}");
}

#[test]
fn a_missing_index_is_rebuilt_as_it_was() {
    let one = OneLog::new(small_segments());
    let (flushed, _) = sample(&one);
    one.open(false, flushed).expect("loadable").close(0).expect("closable");
    let indexes: Vec<String> = names_in(&one.dir()).into_iter().filter(|name| name.ends_with("index")).collect();
    let before: Vec<Vec<u8>> = indexes.iter().map(|name| fs::read(one.dir().join(name)).expect("readable")).collect();
    assert!(before.iter().any(|content| content.len() > 8));
    for name in &indexes {
        fs::remove_file(one.dir().join(name)).expect("removable");
    }
    one.open(true, flushed).expect("loadable").close(0).expect("closable");
    for (name, content) in indexes.iter().zip(before) {
        assert_eq!(fs::read(one.dir().join(name)).expect("rebuilt"), content, "{name}");
    }
}

#[test]
fn a_long_time_index_is_rebuilt_as_it_was() {
    let one = OneLog::new(LogConfig { index_interval_bytes: 100, ..LogConfig::default() });
    let log = one.open_clean();
    // The last batch has no entry of its own until the segment is closed.
    for i in 0..600 {
        append_in_epoch(&log, batch(&[i], 5), 0).expect("appended");
    }
    log.roll(0).expect("rolled");
    log.close(0).expect("closable");
    let path = one.dir().join("00000000000000000000.timeindex");
    let sound = fs::read(&path).expect("readable");
    assert!(sound.len() > 100 * 12, "{}", sound.len());
    one.open(false, Offset(0)).expect("loadable").close(0).expect("closable");
    assert!(fs::read(&path).expect("readable") == sound);
}

/// What a reader of committed records is told to skip.
fn aborted(log: &super::Log) -> Vec<(i64, i64)> {
    let mut aborted = Vec::new();
    for offset in 0..log.log_end_offset().0 {
        let fetched = log.read(Offset(offset), 1, ReadUntil::LastStableOffset, FirstBatch::Whole).expect("readable");
        aborted.extend(fetched.aborted_transactions.iter().map(|txn| (txn.producer_id.0, txn.first_offset.0)));
    }
    aborted.dedup();
    aborted
}

/// Transactions of one producer, one after another over several segments, all of them aborted.
fn write_aborted(log: &super::Log) {
    for i in 0..20 {
        let records = batch(&[i * 10, i * 10 + 1], 40).producer(9, 0, i as i32 * 2).transactional(true);
        append(log, records).expect("appended");
        let mut marker = prepared_as(marker(9, false, 1), AppendOrigin::Coordinator);
        let epoch = log.leader_epoch();
        let info = log.append_as_leader(&mut marker, epoch, AppendOrigin::Coordinator, 0).expect("appended");
        log.update_high_watermark(info.log_end_offset);
    }
}

#[test]
fn a_rebuild_that_is_interrupted_is_done_again_at_the_next_start() {
    let one = OneLog::new(small_segments());
    let log = one.open_clean();
    write_aborted(&log);
    let expected = (aborted(&log), read_all(&log));
    assert_eq!(expected.0.len(), 20);
    log.close(0).expect("closable");
    let end = log.log_end_offset();
    let names = names_in(&one.dir());
    let sound: Vec<Vec<u8>> = names.iter().map(|name| fs::read(one.dir().join(name)).expect("readable")).collect();
    let damaged_index = names.iter().find(|name| name.ends_with(".txnindex")).expect("written");
    let mut interruptions = 0;
    for batches in 0.. {
        let crashed = OneLog::new(small_segments());
        copy_dir(&one.dir(), &crashed.dir());
        fs::write(crashed.dir().join(damaged_index), "half of one").expect("writable");
        faults::interrupt_recovery_after(batches);
        let interrupted = crashed.open(true, end).is_err();
        interruptions += usize::from(interrupted);
        // Everything lies below the recovery point: only what the files say leads to another recovery.
        let log = crashed.open(!interrupted, end).expect("loadable");
        assert_eq!((aborted(&log), read_all(&log)), expected, "interrupted after {batches} batches");
        for (name, content) in names.iter().zip(&sound).filter(|(name, _)| name.ends_with("index")) {
            assert_eq!(&fs::read(crashed.dir().join(name)).expect("rebuilt"), content, "{name}, {batches} batches");
        }
        if !interrupted {
            break;
        }
    }
    assert!(interruptions > 5, "{interruptions}");
}

#[test]
fn what_follows_a_gap_goes_before_the_gap_is_cut() {
    let one = OneLog::new(small_segments());
    let (_, batches) = sample(&one);
    let logs: Vec<String> = names_in(&one.dir()).into_iter().filter(|name| name.ends_with(".log")).collect();
    let damaged = one.dir().join(&logs[1]);
    let mut content = fs::read(&damaged).expect("readable");
    let at = content.len() - 3;
    content[at] ^= 0xff;
    fs::write(&damaged, &content).expect("writable");
    // What is behind cannot be taken away: then the file is as it was, and the next start knows as much as this one.
    let in_the_way = one.dir().join(format!("{}.deleted", logs[2]));
    fs::create_dir(&in_the_way).expect("writable");
    assert!(one.open(false, Offset(0)).is_err());
    assert_eq!(fs::read(&damaged).expect("readable"), content);
    fs::remove_dir(&in_the_way).expect("removable");
    let read = read_all(&one.open(false, Offset(0)).expect("loadable"));
    let read: Vec<(i64, i64)> = read.iter().map(|(header, _)| (header.base_offset, header.last_offset)).collect();
    assert!(batches.starts_with(&read) && read.len() < batches.len(), "{read:?}");
}

#[test]
fn indexes_that_a_full_disk_does_not_take_are_in_memory_and_rebuilt_at_the_next_start() {
    for writes in 0..2 {
        let one = OneLog::new(small_segments());
        let (flushed, batches) = sample(&one);
        let log = one.open(false, flushed).expect("loadable");
        super::files::faults::fail(super::files::faults::Op::Write, writes);
        assert!(log.rebuild_indexes(Offset(0)).is_err());
        let index = one.dir().join("00000000000000000000.index");
        assert!(!index.exists(), "its absence marks the segment");
        let found = |log: &super::Log| {
            let read = read_all(log);
            let found: Vec<(i64, i64)> = read.iter().map(|(h, _)| (h.base_offset, h.last_offset)).collect();
            let by_time = log.offset_for_timestamp(super::OffsetQuery::AtOrAfter(55)).expect("searchable");
            (found, by_time.map(|found| found.offset))
        };
        assert_eq!(found(&log), (batches.clone(), Some(Offset(12))));
        assert!(one.parent.wrong_indexes.take(0).is_empty());
        log.close(0).expect("closable");
        let log = one.open_clean();
        assert!(index.exists());
        assert_eq!(found(&log), (batches.clone(), Some(Offset(12))));
    }
}

#[test]
fn an_interrupted_replacement_of_segments_is_undone_or_completed() {
    let one = OneLog::new(LogConfig { segment_bytes: 500, ..small_segments() });
    let (_, batches) = sample(&one);
    let logs: Vec<String> = names_in(&one.dir()).into_iter().filter(|name| name.ends_with(".log")).collect();
    let stem = |name: &str| name.trim_end_matches(".log").to_string();
    let (first, second, third) = (stem(&logs[0]), stem(&logs[1]), stem(&logs[2]));

    // Not all outputs were renamed: everything of the cleaner goes.
    let undone = OneLog::new(one.config.as_ref().clone());
    copy_dir(&one.dir(), &undone.dir());
    fs::write(undone.dir().join(format!("{first}.log.cleaned")), b"half").expect("writable");
    fs::write(undone.dir().join(format!("{second}.log.swap")), b"half").expect("writable");
    fs::write(undone.dir().join(format!("{third}.log.deleted")), b"old").expect("writable");
    fs::write(undone.dir().join("00000000000000099999.index"), b"orphan").expect("writable");
    let log = undone.open(false, Offset(0)).expect("loadable");
    assert_eq!(read_all(&log).len(), batches.len());
    assert!(names_in(&undone.dir()).iter().all(|name| {
        !name.ends_with(".cleaned")
            && !name.ends_with(".swap")
            && !name.ends_with(".deleted")
            && name != "00000000000000099999.index"
    }));

    // All were renamed: they replace what they cover, here the first two segments by the first alone.
    let done = OneLog::new(one.config.as_ref().clone());
    copy_dir(&one.dir(), &done.dir());
    let merged = [&logs[0], &logs[1]].map(|name| fs::read(one.dir().join(name)).expect("readable")).concat();
    fs::write(done.dir().join(format!("{first}.log.swap")), merged).expect("writable");
    let log = done.open(false, Offset(0)).expect("loadable");
    let read: Vec<(i64, i64)> = read_all(&log).iter().map(|(h, _)| (h.base_offset, h.last_offset)).collect();
    assert_eq!(read, batches);
    assert!(!names_in(&done.dir()).contains(&logs[1]));
}

#[test]
fn a_log_that_ends_below_its_start_offset_starts_anew_there() {
    let one = OneLog::new(small_segments());
    sample(&one);
    let log = one.open_at(false, Offset(0), Offset(1000)).expect("loadable");
    let bounds = log.bounds();
    assert_eq!((bounds.log_start_offset, bounds.log_end_offset), (Offset(1000), Offset(1000)));
    assert!(log.epochs().is_empty());
    append(&log, batch(&[1], 5)).expect("appended");
}

#[test]
fn a_preallocated_segment_loses_its_zeros() {
    let one = OneLog::new(LogConfig { preallocate: true, ..small_segments() });
    let (flushed, batches) = sample(&one);
    let log = one.open(false, flushed).expect("loadable");
    assert_eq!(read_all(&log).len(), batches.len());
    log.close(0).expect("closable");
    let total: u64 = names_in(&one.dir())
        .iter()
        .filter(|name| name.ends_with(".log"))
        .map(|name| one.dir().join(name).metadata().expect("readable").len())
        .sum();
    assert_eq!(total, log.size());
}
