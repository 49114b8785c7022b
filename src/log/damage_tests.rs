//! Disks that lie: any region of any file of a log is flipped, cut, doubled, zeroed or noise, and the log opens with what is
//! left of it, or is refused with a sentence. Thousands of cases a run, from seeds.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::testing::*;
use super::{FirstBatch, Log, OffsetQuery, ReadUntil};
use crate::config::log::LogConfig;
use crate::model::Offset;
use crate::record::append_rules::AppendOrigin;
use crate::record::batch::Batches;
use crate::record::compression::Codec;

const CASES: u64 = 1000;
/// The magic and the checksum, and all that this is of.
const CRC_COVERS_FROM: usize = 16;

fn cases() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    match number("ODRADEK_TEST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ODRADEK_TEST_DAMAGES").unwrap_or(CASES),
    }
}

fn config() -> LogConfig {
    LogConfig { segment_bytes: 1500, index_interval_bytes: 100, ..LogConfig::default() }
}

/// Several segments with all codecs, producers, transactions of every end and epochs; closed in order.
fn write_sample(log: &Log) {
    let codecs = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    for i in 0..40_i64 {
        let codec = codecs[i as usize % codecs.len()];
        let records = compressed_batch(&[i * 10, i * 10 + 1], 40 + i as usize, codec).producer(9, 0, i as i32 * 2);
        append_in_epoch(log, records, i as i32 / 9).expect("appended");
        if i % 4 == 0 {
            let records = batch(&[i * 10], 30).producer(20 + i % 3, 0, i as i32 / 12).transactional(true);
            append_in_epoch(log, records, i as i32 / 9).expect("appended");
            let mut marker = prepared_as(marker(20 + i % 3, i % 8 == 0, 1), AppendOrigin::Coordinator);
            let epoch = log.leader_epoch();
            let info = log.append_as_leader(&mut marker, epoch, AppendOrigin::Coordinator, 0).expect("appended");
            log.update_high_watermark(info.log_end_offset);
        }
    }
}

type Files = BTreeMap<String, Vec<u8>>;

fn files_of(dir: &Path) -> Files {
    names_in(dir).into_iter().map(|name| (name.clone(), fs::read(dir.join(name)).expect("readable"))).collect()
}

/// Does something to a region, which may be all of it or nothing, and says what.
fn damage(content: &mut Vec<u8>, rng: &mut StdRng) -> String {
    let len = content.len();
    let start = rng.random_range(0..=len);
    // Short regions more often than long ones.
    let longest = 1 << rng.random_range(0..=12);
    let end = (start + rng.random_range(1..=longest)).min(len);
    let kind = rng.random_range(0..8);
    match kind {
        0 => content[start..end].iter_mut().for_each(|byte| *byte ^= 1 << rng.random_range(0..8)),
        1 => content.truncate(start),
        2 => drop(content.drain(start..end)),
        3 => {
            let region = content[start..end].to_vec();
            content.splice(end..end, region);
        }
        4 => content[start..end].fill(0),
        5 => content[start..end].iter_mut().for_each(|byte| *byte = rng.random()),
        6 => content.extend(std::iter::repeat_with(|| rng.random::<u8>()).take(longest)),
        _ => content.extend(std::iter::repeat_n(0, longest)),
    }
    let kinds = ["flipped", "cut off", "taken out", "doubled", "zeroed", "noise", "noise behind", "zeros behind"];
    format!("{} at {start}..{end} of {len}", kinds[kind])
}

/// The offsets of all batches, each of which is what was written. `None` if one is where it was not written: no checksum
/// covers an offset, and in the last segment nothing else tells that it is wrong.
fn offsets(log: &Log, written: &BTreeMap<i64, Vec<u8>>, is_last_segment: bool, what: &str) -> Option<Vec<i64>> {
    let mut offsets = Vec::new();
    for (header, bytes) in read_all(log) {
        // Nor does one cover the leader's epoch.
        let rest = &bytes[CRC_COVERS_FROM..];
        if written.get(&header.base_offset).is_none_or(|was| was[CRC_COVERS_FROM..] != *rest) {
            let is_elsewhere = written.values().any(|was| was[CRC_COVERS_FROM..] == *rest);
            assert!(is_last_segment && is_elsewhere, "{what}: the batch at {} is another", header.base_offset);
            return None;
        }
        offsets.push(header.base_offset);
    }
    Some(offsets)
}

/// Whatever readers may ask for is answered, or refused.
fn ask_for_everything(log: &Log) {
    let bounds = log.bounds();
    // An offset that nothing contradicts may lie far away.
    let offsets = (bounds.log_start_offset.0..bounds.log_end_offset.0).step_by(3).take(100);
    for offset in offsets.chain([bounds.log_end_offset.0 - 1, bounds.log_end_offset.0]) {
        for until in [ReadUntil::LogEnd, ReadUntil::LastStableOffset] {
            let _ = log.read(Offset(offset), 500, until, FirstBatch::Whole);
        }
    }
    for time in [-1, 0, 55, 240, 10_000] {
        let _ = log.offset_for_timestamp(OffsetQuery::AtOrAfter(time));
    }
    let _ = log.offset_for_timestamp(OffsetQuery::MaxTimestamp);
    let _ = log.producers();
}

#[test]
fn whatever_a_disk_makes_of_a_log_it_opens_or_is_refused_and_nothing_is_read_that_was_not_written() {
    let one = OneLog::new(config());
    let log = one.open_clean();
    write_sample(&log);
    let written: BTreeMap<i64, Vec<u8>> =
        read_all(&log).into_iter().map(|(header, bytes)| (header.base_offset, bytes.to_vec())).collect();
    let ends: Vec<i64> = written.keys().copied().collect();
    let end = log.log_end_offset();
    log.close(0).expect("closable");
    let files = files_of(&one.dir());
    for kind in ["log", "index", "timeindex", "txnindex", "snapshot", "leader-epoch-checkpoint"] {
        assert!(files.keys().any(|name| name.ends_with(kind)), "{kind}");
    }
    let names: Vec<&String> = files.keys().collect();
    let last_log = files.keys().rfind(|name| name.ends_with(".log")).expect("a segment");
    let (mut refused, mut shorter) = (0, 0);
    for seed in cases() {
        let mut rng = StdRng::seed_from_u64(seed);
        let name = names[rng.random_range(0..names.len())];
        let mut content = files[name].clone();
        let did = damage(&mut content, &mut rng);
        let is_clean = rng.random_bool(0.3);
        let what = format!("seed {seed}, {name} {did}, clean: {is_clean}");
        let crashed = OneLog::in_memory(config());
        for (other, sound) in &files {
            fs::write(crashed.dir().join(other), if other == name { &content } else { sound }).expect("writable");
        }
        let recovery_point = if is_clean { end } else { Offset(0) };
        let opened = std::panic::catch_unwind(|| crashed.open(is_clean, recovery_point));
        let Ok(log) = opened.unwrap_or_else(|_| panic!("{what}: it panicked")) else {
            refused += 1;
            continue;
        };
        let read = std::panic::catch_unwind(|| {
            ask_for_everything(&log);
            // Nobody has looked at segments that were closed in order: then the checksum is the reader's to look at.
            let is_looked_at = !is_clean || !name.ends_with(".log");
            if is_looked_at { offsets(&log, &written, name == last_log, &what) } else { None }
        });
        let Some(read) = read.unwrap_or_else(|_| panic!("{what}: a read panicked")) else { continue };
        assert!(ends.starts_with(&read), "{what}: {read:?}");
        if !name.ends_with(".log") {
            assert_eq!(read.len(), ends.len(), "{what}: records are lost to a file beside them");
        }
        shorter += usize::from(read.len() < ends.len());
        // It goes on from there, also after another crash.
        let next = log.log_end_offset();
        let appended = append_in_epoch(&log, batch(&[1], 5), 50);
        assert_eq!(appended.map(|info| info.first_offset).unwrap_or_else(|error| panic!("{what}: {error}")), next);
        log.abandon();
        drop(log);
        let again = crashed.open(false, Offset(0)).unwrap_or_else(|error| panic!("{what}: the second start: {error}"));
        assert_eq!(again.log_end_offset(), Offset(next.0 + 1), "{what}");
        let kept: Vec<i64> = read_all(&again).iter().map(|(header, _)| header.base_offset).collect();
        assert_eq!(kept.split_last(), Some((&next.0, read.as_slice())), "{what}");
    }
    if cases() == (0..CASES) {
        assert!(shorter > 25, "{shorter}");
        assert!(refused < 100, "{refused}");
    }
}

/// The tail of a batch is read as it stands, whatever a batch of the segment says of its length.
#[test]
fn headers_that_say_anything_are_walked_to_an_end() {
    let one = OneLog::new(config());
    let log = one.open_clean();
    write_sample(&log);
    let end = log.log_end_offset();
    log.close(0).expect("closable");
    let files = files_of(&one.dir());
    let logs: Vec<&String> = files.keys().filter(|name| name.ends_with(".log")).collect();
    for seed in cases().take(600) {
        let mut rng = StdRng::seed_from_u64(seed);
        let crashed = OneLog::in_memory(config());
        for (name, sound) in &files {
            fs::write(crashed.dir().join(name), sound).expect("writable");
        }
        // One field of the head of one batch has any value.
        let name = logs[rng.random_range(0..logs.len())];
        let mut content = files[name].clone();
        let heads: Vec<usize> = Batches::new(&files[name])
            .scan(0, |position, batch| {
                let start = *position;
                *position += batch.expect("well-formed").bytes.len();
                Some(start)
            })
            .collect();
        let head = heads[rng.random_range(0..heads.len())];
        let (field, width) = [(0, 8), (8, 4), (16, 1), (21, 2), (23, 4), (57, 4)][rng.random_range(0..6)];
        let any: [u8; 8] = match rng.random_range(0..3) {
            0 => [0; 8],
            1 => [0xff; 8],
            _ => rng.random(),
        };
        content[head + field..head + field + width].copy_from_slice(&any[..width]);
        fs::write(crashed.dir().join(name), &content).expect("writable");
        let is_clean = rng.random();
        let what = format!("seed {seed}, {name}, field {field} of the batch at {head}, clean: {is_clean}");
        let recovery_point = if is_clean { end } else { Offset(0) };
        let walked = std::panic::catch_unwind(|| {
            if let Ok(log) = crashed.open(is_clean, recovery_point) {
                ask_for_everything(&log);
                let _ = log.truncate_to(Offset(end.0 / 2), log.leader_epoch(), 0);
                ask_for_everything(&log);
                let _ = log.delete_old_segments(i64::MAX);
                let _ = log.close(0);
            }
        });
        walked.unwrap_or_else(|_| panic!("{what}: it panicked"));
    }
}
