//! The rules of one log, one by one.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::io::Errno;

use super::error::LogError;
use super::files;
use super::files::faults::Op;
use super::testing::*;
use super::{FirstBatch, OffsetQuery, ReadUntil, TimestampedOffset};
use crate::config::log::LogConfig;
use crate::config::metadata_version::MetadataVersion;
use crate::model::{LeaderEpoch, Offset, TopicId};
use crate::record::append::prepare;
use crate::record::append_rules::{AppendOrigin, AppendRules};
use crate::record::batch::{Batches, TimestampType};
use crate::record::compression::Codec;

#[test]
fn appended_batches_get_offsets_and_the_leader_epoch_and_are_read_back() {
    let one = OneLog::new(LogConfig::default());
    let log = one.open_clean();
    let first = append_in_epoch(&log, batch(&[10, 20, 15], 5), 3).expect("appended");
    assert_eq!((first.first_offset, first.last_offset, first.log_end_offset), (Offset(0), Offset(2), Offset(3)));
    assert_eq!((first.max_timestamp_ms, first.log_append_time_ms, first.duplicate), (20, -1, false));
    append_in_epoch(&log, batch(&[30], 5), 3).expect("appended");
    let read = read_all(&log);
    assert_eq!(read.iter().map(|(h, _)| (h.base_offset, h.last_offset)).collect::<Vec<_>>(), [(0, 2), (3, 3)]);
    assert!(read.iter().all(|(header, _)| header.partition_leader_epoch == 3));
    log.write_small_files().expect("written");
    assert_eq!(std::fs::read_to_string(one.dir().join("leader-epoch-checkpoint")).expect("written"), "0\n1\n3 0\n");
}

#[test]
fn a_log_that_dates_its_records_does_so_in_the_order_of_their_offsets() {
    thread_local!(static CLOCK: Cell<i64> = const { Cell::new(0) });
    let mut one = OneLog::new(LogConfig::default());
    Arc::get_mut(&mut one.parent).expect("nobody else has it").wall_clock = || CLOCK.get();
    let log = one.open_clean();
    log.follow(LeaderEpoch(0)).expect("the first epoch");
    let rules = AppendRules { timestamp_type: TimestampType::LogAppendTime, ..AppendRules::default() };
    // The one that was read first is held up; and at last somebody sets the clock back.
    let times = [(5_000, 4_000), (5_001, 1_000), (10, 7_000)].map(|(clock_ms, requested_ms)| {
        CLOCK.set(clock_ms);
        let mut prepared = prepare(batch(&[1, 2], 5).build(), &rules, requested_ms).expect("a valid batch");
        let appended = log.append_as_leader(&mut prepared, LeaderEpoch(0), AppendOrigin::Client, requested_ms);
        let appended = appended.expect("appended");
        assert_eq!(appended.max_timestamp_ms, appended.log_append_time_ms);
        appended.log_append_time_ms
    });
    assert_eq!(times, [5_000, 5_001, 7_000]);
    assert_eq!(read_all(&log).iter().map(|(header, _)| header.max_timestamp).collect::<Vec<_>>(), times);
}

#[test]
fn a_leader_that_was_replaced_cannot_append() {
    let one = OneLog::new(LogConfig::default());
    let log = one.open_clean();
    append_in_epoch(&log, batch(&[1], 5), 3).expect("appended");
    let refused = append_in_epoch(&log, batch(&[1], 5), 2);
    assert!(matches!(refused, Err(LogError::StaleLeaderEpoch { given: LeaderEpoch(2), latest: LeaderEpoch(3) })));
    assert_eq!(log.log_end_offset(), Offset(1));
}

#[test]
fn a_duplicate_is_answered_with_its_first_offsets_also_after_a_restart() {
    let one = OneLog::new(LogConfig::default());
    let log = one.open_clean();
    append(&log, batch(&[1], 5)).expect("appended");
    let of_producer = |sequence| batch(&[7, 8], 5).producer(42, 1, sequence);
    append(&log, of_producer(0)).expect("appended");
    append(&log, of_producer(2)).expect("appended");
    let again = append(&log, of_producer(0)).expect("a duplicate");
    assert!(again.duplicate);
    assert_eq!((again.first_offset, again.last_offset, again.log_end_offset), (Offset(1), Offset(2), Offset(5)));
    assert!(matches!(append(&log, of_producer(9)), Err(LogError::OutOfOrderSequence { given: 9, last: 3, .. })));
    let fenced = append(&log, batch(&[7], 5).producer(42, 0, 4));
    assert!(matches!(fenced, Err(LogError::InvalidProducerEpoch { .. })));
    log.close(0).expect("closable");

    for clean in [true, false] {
        let log = one.open(clean, Offset(0)).expect("loadable");
        assert_eq!(log.log_end_offset(), Offset(5));
        let again = append(&log, of_producer(2)).expect("the last batch is remembered");
        assert_eq!((again.duplicate, again.first_offset), (true, Offset(3)), "clean: {clean}");
        assert_eq!(log.producers()[0].last_sequence, 3);
    }
}

#[test]
fn a_full_disk_refuses_the_append_and_leaves_no_trace_of_it() {
    for written in [0, 1, 30, 61, 70] {
        let mut one = OneLog::new(LogConfig::default());
        let log = one.open_clean();
        append(&log, batch(&[1], 5)).expect("appended");
        let size = log.size();
        files::faults::fill_disk_after(written);
        assert!(matches!(append(&log, batch(&[2], 50)), Err(LogError::Io { .. })), "after {written} bytes");
        assert_eq!((log.log_end_offset(), log.size()), (Offset(1), size));
        let on_disk = one.dir().join("00000000000000000000.log").metadata().expect("readable").len();
        assert_eq!(on_disk, size);
        assert!(one.failures.try_recv().is_err(), "a full disk does not take the directory offline");
        append(&log, batch(&[3], 50)).expect("appended once there is room again");
        assert_eq!(read_all(&log).iter().map(|(h, _)| h.max_timestamp).collect::<Vec<_>>(), [1, 3]);
    }
}

#[test]
fn a_full_disk_refuses_the_marker_that_aborts_a_transaction_and_the_log_goes_on() {
    let one = OneLog::new(LogConfig::default());
    let log = one.open_clean();
    append(&log, batch(&[1], 5).producer(1, 0, 0).transactional(true)).expect("appended");
    let abort = || {
        let mut prepared = prepared_as(marker(1, false, 1), AppendOrigin::Coordinator);
        log.append_as_leader(&mut prepared, LeaderEpoch(0), AppendOrigin::Coordinator, 0)
    };
    // By the time of the entry there is room for it, or the marker is not in the log either.
    files::faults::fail(files::faults::Op::Reserve, 0);
    assert!(matches!(abort(), Err(LogError::Io { .. })));
    assert!(!log.is_offline());
    log.update_high_watermark(log.log_end_offset());
    assert_eq!((log.log_end_offset(), log.bounds().last_stable_offset), (Offset(1), Offset(0)));
    let info = abort().expect("there is room again");
    log.update_high_watermark(info.log_end_offset);
    let fetched = log.read(Offset(0), 1000, ReadUntil::LastStableOffset, FirstBatch::Whole).expect("readable");
    assert_eq!(fetched.aborted_transactions.len(), 1);
}

#[test]
fn segments_roll_by_size_and_leave_their_indexes_trimmed() {
    let one = OneLog::new(small_segments());
    let log = one.open_clean();
    for i in 0..30 {
        append(&log, batch(&[i], 100)).expect("appended");
    }
    assert!(log.segment_count() > 3);
    let second = read_all(&log).len();
    assert_eq!(second, 30);
    let names = names_in(&one.dir());
    for base in names.iter().filter_map(|name| name.strip_suffix(".log")).filter(|base| *base != names[0]) {
        let length = |extension: &str| one.dir().join(format!("{base}.{extension}")).metadata().map_or(0, |m| m.len());
        assert_eq!(length("index") % 8, 0);
        assert_eq!(length("timeindex") % 12, 0);
        assert!(length("log") <= 1000);
    }
    let bases = names.iter().filter(|name| name.ends_with(".log")).count();
    let snapshots = names.iter().filter(|name| name.ends_with(".snapshot")).count();
    assert_eq!(snapshots, bases - 1, "every roll leaves a snapshot: {names:?}");
}

#[test]
fn segments_roll_by_time_of_their_records() {
    let one = OneLog::new(LogConfig { segment_ms: 1000, ..LogConfig::default() });
    let log = one.open_clean();
    for timestamp in [5000, 5999, 6000] {
        append(&log, batch(&[timestamp], 5)).expect("appended");
    }
    assert_eq!(log.segment_count(), 1, "1000 ms are not more than segment.ms");
    append(&log, batch(&[6001], 5)).expect("appended");
    assert_eq!(log.segment_count(), 2);
    append(&log, batch(&[1], 5)).expect("an old record does not roll");
    assert_eq!(log.segment_count(), 2);
}

#[test]
fn an_append_larger_than_a_segment_is_refused() {
    let one = OneLog::new(small_segments());
    let log = one.open_clean();
    let refused = append(&log, batch(&[1], 2000));
    assert!(matches!(refused, Err(LogError::RecordListTooLarge { segment_bytes: 1000, .. })));
}

#[test]
fn reads_respect_their_bounds_and_byte_limits() {
    let one = OneLog::new(small_segments());
    let log = one.open_clean();
    for i in 0..20 {
        append(&log, batch(&[i], 100)).expect("appended");
    }
    let one_batch = read_all(&log)[0].1.len() as u32;
    assert!(matches!(
        log.read(Offset(21), 100, ReadUntil::LogEnd, FirstBatch::Whole),
        Err(LogError::OffsetOutOfRange { .. })
    ));
    assert!(log.read(Offset(20), 100, ReadUntil::LogEnd, FirstBatch::Whole).expect("at the end").region.is_none());
    let whole =
        log.read(Offset(3), 1, ReadUntil::LogEnd, FirstBatch::Whole).expect("readable").region.expect("one batch");
    assert_eq!(whole.len, one_batch, "at least one batch");
    let cut =
        log.read(Offset(3), 10, ReadUntil::LogEnd, FirstBatch::Cut).expect("readable").region.expect("part of one");
    assert_eq!(cut.len, 10);
    assert!(log.read(Offset(3), 0, ReadUntil::LogEnd, FirstBatch::Cut).expect("readable").region.is_none());

    log.update_high_watermark(Offset(4));
    let until_hw = log.read(Offset(2), 10_000, ReadUntil::HighWatermark, FirstBatch::Whole).expect("readable");
    assert_eq!(until_hw.region.expect("two batches").len, 2 * one_batch);
    assert!(until_hw.reached_limit);
    assert!(log.read(Offset(4), 100, ReadUntil::HighWatermark, FirstBatch::Whole).expect("readable").region.is_none());
    assert!(
        log.read(Offset(9), 100, ReadUntil::HighWatermark, FirstBatch::Whole)
            .expect("above the high watermark")
            .region
            .is_none()
    );
    log.update_high_watermark(Offset(20));
    assert_eq!(log.delete_records(Offset(7), log.leader_epoch()).expect("deleted"), Offset(7));
    assert!(matches!(
        log.read(Offset(6), 100, ReadUntil::LogEnd, FirstBatch::Whole),
        Err(LogError::OffsetOutOfRange { .. })
    ));
}

#[test]
fn offsets_are_found_by_time_also_in_compressed_batches() {
    for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let one = OneLog::new(small_segments());
        let log = one.open_clean();
        for i in 0..20 {
            // Out of order within the batch.
            append_in_epoch(&log, compressed_batch(&[i * 100 + 50, i * 100], 50, codec), 4).expect("appended");
        }
        let at = |query| log.offset_for_timestamp(query).expect("readable");
        let found = |timestamp_ms, offset| {
            Some(TimestampedOffset { timestamp_ms, offset: Offset(offset), leader_epoch: Some(LeaderEpoch(4)) })
        };
        assert_eq!(at(OffsetQuery::AtOrAfter(0)), found(50, 0));
        assert_eq!(at(OffsetQuery::AtOrAfter(150)), found(150, 2));
        assert_eq!(at(OffsetQuery::AtOrAfter(151)), found(250, 4));
        assert_eq!(at(OffsetQuery::AtOrAfter(1901)), found(1950, 38));
        assert_eq!(at(OffsetQuery::AtOrAfter(1951)), None);
        assert_eq!(at(OffsetQuery::MaxTimestamp), found(1950, 38));
        assert_eq!(at(OffsetQuery::Earliest), found(-1, 0));
        assert_eq!(at(OffsetQuery::Latest), found(-1, 40));
        log.delete_records(Offset(5), log.leader_epoch()).expect("deleted");
        assert_eq!(at(OffsetQuery::AtOrAfter(0)), found(200, 5), "records below the log start are not found");
        log.close(0).expect("closable");
        let log = one.open_at(true, Offset(0), Offset(5)).expect("loadable");
        assert_eq!(log.offset_for_timestamp(OffsetQuery::AtOrAfter(1901)).expect("readable"), found(1950, 38));
    }
}

/// Records that are deleted stay in their files until retention runs. Kafka looks no further than the first segment that has
/// one as young, or the youngest, and says that there is none; whoever asks then begins at the end.
#[test]
fn no_record_is_hidden_by_those_that_were_deleted_before_it() {
    for seed in 0..20 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let one = OneLog::new(small_segments());
        let log = one.open_clean();
        let mut records = Vec::new();
        while records.len() < 60 {
            let timestamps: Vec<i64> = (0..rng.random_range(1..4)).map(|_| rng.random_range(0..30)).collect();
            records.extend(timestamps.iter().copied());
            let codec = if rng.random_bool(0.5) { Codec::Lz4 } else { Codec::None };
            append(&log, compressed_batch(&timestamps, 50, codec)).expect("appended");
        }
        assert!(log.segment_count() > 4);
        for start in 0..records.len() {
            log.delete_records(Offset(start as i64), log.leader_epoch()).expect("deleted");
            let left = || (start..).zip(&records[start..]).map(|(offset, timestamp)| (*timestamp, offset as i64));
            let at = |query| log.offset_for_timestamp(query).expect("readable");
            let at = |query| at(query).map(|found| (found.timestamp_ms, found.offset.0));
            for wanted in 0..30 {
                let first = left().find(|(timestamp, _)| *timestamp >= wanted);
                assert_eq!(at(OffsetQuery::AtOrAfter(wanted)), first, "{wanted} from {start} on, seed {seed}");
            }
            let youngest = left().max_by_key(|(timestamp, offset)| (*timestamp, -offset));
            assert_eq!(at(OffsetQuery::MaxTimestamp), youngest, "from {start} on, seed {seed}");
        }
        assert!(log.segment_count() > 4, "all are there still");
    }
}

/// Source: kafka 3.9.0-rc3 UnifiedLog.scala (fetchOffsetByTimestamp), where no date is the largest if there is no other.
#[test]
fn the_largest_timestamp_of_records_without_a_date_is_that_of_the_first() {
    let one = OneLog::new(LogConfig::default());
    let log = one.open_clean();
    for _ in 0..3 {
        append(&log, batch(&[-1, -1], 10)).expect("appendable");
    }
    let largest = || log.offset_for_timestamp(OffsetQuery::MaxTimestamp).expect("readable");
    assert_eq!(largest().map(|found| (found.timestamp_ms, found.offset)), Some((-1, Offset(0))));
    append(&log, batch(&[-1, 5, 7], 10)).expect("appendable");
    assert_eq!(largest().map(|found| (found.timestamp_ms, found.offset)), Some((7, Offset(8))));
}

#[test]
fn an_empty_log_has_no_record_at_any_time() {
    let one = OneLog::new(LogConfig::default());
    let log = one.open_clean();
    assert_eq!(log.offset_for_timestamp(OffsetQuery::MaxTimestamp).expect("readable"), None);
    let now = 1_900_000_000_000;
    assert_eq!(log.offset_for_timestamp(OffsetQuery::AtOrAfter(now)).expect("readable"), None);
    let earliest = log.offset_for_timestamp(OffsetQuery::Earliest).expect("readable").expect("always");
    assert_eq!((earliest.offset, earliest.leader_epoch), (Offset(0), None));
}

#[test]
fn a_log_without_records_is_closed_with_the_index_whose_want_a_jvm_broker_takes_for_damage() {
    let one = OneLog::new(LogConfig::default());
    let names = || {
        let entries = std::fs::read_dir(one.dir()).expect("readable");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    };
    one.open_clean().close(0).expect("closable");
    assert_eq!(names(), ["00000000000000000000.index", "00000000000000000000.log"]);
    assert_eq!(one.open_clean().log_end_offset(), Offset(0));
    assert_eq!(names(), ["00000000000000000000.index", "00000000000000000000.log"], "nothing is rebuilt");
}

#[test]
fn a_follower_takes_the_leaders_bytes_as_they_are_and_refuses_others() {
    let leader = OneLog::new(small_segments());
    let leader_log = leader.open_clean();
    for i in 0..20 {
        append_in_epoch(&leader_log, batch(&[i], 100).producer(5, 0, i as i32), (i / 7) as i32).expect("appended");
    }
    let follower = OneLog::new(small_segments());
    let log = follower.open_clean();
    while log.log_end_offset() < Offset(20) {
        let bytes = read_bytes(&leader_log, log.log_end_offset(), 500);
        log.append_as_follower(&bytes, log.leader_epoch(), log.log_end_offset(), 0).expect("appended");
    }
    assert_eq!(read_all(&log), read_all(&leader_log));
    assert_eq!(log.epochs(), leader_log.epochs());
    assert_eq!(log.producers(), leader_log.producers());

    let old = read_bytes(&leader_log, Offset(3), 500);
    assert!(matches!(
        log.append_as_follower(&old, log.leader_epoch(), log.log_end_offset(), 0),
        Err(LogError::UnexpectedOffset { .. })
    ));
    let mut damaged = batch(&[1], 5).base_offset(20).build().to_vec();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    assert!(matches!(
        log.append_as_follower(&Bytes::from(damaged), log.leader_epoch(), log.log_end_offset(), 0),
        Err(LogError::InvalidBatch { .. })
    ));
    let partial = batch(&[1], 5).base_offset(20).build();
    let nothing = log
        .append_as_follower(&partial.slice(..40), log.leader_epoch(), log.log_end_offset(), 0)
        .expect("part of a batch is ignored");
    assert_eq!(nothing.log_end_offset, Offset(20));
    // The leader compacted its log: offsets may jump, even over what a segment can address.
    let far = Offset(20 + (1 << 33));
    log.append_as_follower(&batch(&[1], 5).base_offset(far.0).build(), log.leader_epoch(), log.log_end_offset(), 0)
        .expect("appended");
    assert_eq!(log.log_end_offset(), Offset(far.0 + 1));
    assert!(one_batch_at(&log, Offset(100)) == far.0);
}

/// Every writer of a log, admitted under one epoch and late under another.
#[test]
fn what_was_admitted_under_another_epoch_writes_nothing() {
    let one = OneLog::new(small_segments());
    let log = one.open_clean();
    let write_all = |given: i32, fetch_offset: i64| {
        let epoch = LeaderEpoch(given);
        let from_leader = batch(&[7], 5).base_offset(fetch_offset).build();
        [
            log.append_as_leader(&mut prepared(batch(&[1], 5)), epoch, AppendOrigin::Client, 0).err(),
            log.append_as_follower(&from_leader, epoch, Offset(fetch_offset), 0).err(),
            log.truncate_to(Offset(1), epoch, 0).err(),
            log.truncate_fully_and_start_at(Offset(9), None, epoch, 0).err(),
            log.delete_records(Offset(1), epoch).err(),
            log.increment_log_start_offset(Offset(1), epoch).err(),
        ]
    };
    let refused = |given: i32| {
        let before = (log.bounds(), log.epochs(), log.size());
        for error in write_all(given, before.0.log_end_offset.0) {
            assert!(matches!(error, Some(LogError::StaleLeaderEpoch { .. })), "under epoch {given}: {error:?}");
        }
        assert_eq!((log.bounds(), log.epochs(), log.size()), before, "under epoch {given}");
    };
    refused(0);
    log.lead(LeaderEpoch(5)).expect("the first epoch");
    for _ in 0..3 {
        append_in_epoch(&log, batch(&[1], 5), 5).expect("appended");
    }
    // A follower now: neither what it admitted as the leader nor a fetch from an earlier leader may still be written.
    log.follow(LeaderEpoch(6)).expect("a newer epoch");
    [4, 5, 7].into_iter().for_each(refused);
    // It leads again: a late answer of the leader of epoch 6 is as stale as its own former appends.
    log.lead(LeaderEpoch(8)).expect("a newer epoch");
    [5, 6].into_iter().for_each(refused);
    assert!(matches!(log.follow(LeaderEpoch(7)), Err(LogError::StaleLeaderEpoch { .. })), "epochs only rise");
    assert!(matches!(log.lead(LeaderEpoch(7)), Err(LogError::StaleLeaderEpoch { .. })), "epochs only rise");
    append_in_epoch(&log, batch(&[1], 5), 8).expect("the epoch in force appends");
    log.end_appends();
    [8, 9].into_iter().for_each(refused);
}

/// A JVM leader answers a follower that names one with an offset out of range, again and again.
#[test]
fn a_log_of_an_old_format_has_no_epochs() {
    let config = LogConfig { message_format_version: MetadataVersion::V0_10_2_IV0, ..small_segments() };
    let one = OneLog::new(config);
    let log = one.open(true, Offset(0)).expect("openable");
    log.lead(LeaderEpoch(5)).expect("the first epoch");
    assert_eq!(log.epochs(), []);
    // The format of the topic is changed while it has some.
    log.set_config(Arc::new(small_segments()));
    log.lead(LeaderEpoch(6)).expect("a newer epoch");
    assert_eq!(log.epochs().len(), 1);
    let config = LogConfig { message_format_version: MetadataVersion::V0_10_2_IV0, ..small_segments() };
    log.set_config(Arc::new(config));
    log.follow(LeaderEpoch(7)).expect("a newer epoch");
    assert_eq!(log.epochs(), []);
}

#[test]
fn a_late_or_repeated_answer_of_the_leader_is_written_once() {
    let one = OneLog::new(small_segments());
    let log = one.open_clean();
    log.follow(LeaderEpoch(3)).expect("the first epoch");
    let answer = |offset: i64| batch(&[offset], 5).base_offset(offset).build();
    let write = |fetched: i64| log.append_as_follower(&answer(fetched), LeaderEpoch(3), Offset(fetched), 0);
    write(0).expect("in order");
    // Ahead of what was asked for: an answer between them was lost. Behind: it was written already.
    for unexpected in [2, 0] {
        let error = write(unexpected).expect_err("out of order");
        assert!(matches!(error, LogError::UnexpectedOffset { .. }), "{error}");
    }
    write(1).expect("in order");
    log.truncate_to(Offset(1), LeaderEpoch(3), 0).expect("truncated");
    assert!(write(2).is_err(), "fetched before the truncation");
    write(1).expect("fetched after it");
    assert_eq!(log.log_end_offset(), Offset(2));
}

#[test]
fn the_file_of_epochs_follows_before_the_recovery_point_does_and_recovery_finds_the_others() {
    let one = OneLog::new(small_segments());
    let log = one.open_clean();
    let on_disk = || std::fs::read_to_string(one.dir().join("leader-epoch-checkpoint")).unwrap_or_default();
    log.lead(LeaderEpoch(2)).expect("the first epoch");
    assert_eq!(on_disk(), "", "no append and no change of role waits for the disk");
    append_in_epoch(&log, batch(&[1], 5), 2).expect("appended");
    log.flush(0).expect("flushed");
    assert_eq!(on_disk(), "0\n1\n2 0\n");
    log.lead(LeaderEpoch(4)).expect("a newer epoch");
    append_in_epoch(&log, batch(&[1], 5), 4).expect("appended");
    assert_eq!(on_disk(), "0\n1\n2 0\n");
    let (recovery_point, epochs) = (log.recovery_point(), log.epochs());
    log.abandon();
    let log = one.open(false, recovery_point).expect("loadable");
    assert_eq!(log.epochs(), epochs);
    log.write_small_files().expect("writable");
    assert_eq!(on_disk(), "0\n2\n2 0\n4 1\n");
}

/// A truncation moves epochs and recovery point back, and the disk hears of it up to a second later.
#[test]
fn a_crash_soon_after_a_truncation_finds_the_epochs_of_what_was_appended_since() {
    let one = OneLog::new(small_segments());
    let log = one.open_clean();
    for i in 0..20 {
        append_in_epoch(&log, batch(&[i], 150), (i / 10) as i32).expect("appended");
    }
    log.flush(0).expect("flushed");
    let recovery_point = log.recovery_point();
    log.truncate_to(Offset(7), log.leader_epoch(), 0).expect("truncated");
    for i in 7..40 {
        append_in_epoch(&log, batch(&[i], 150), if i < 9 { 2 } else { 3 }).expect("appended");
    }
    let epochs: Vec<_> = log.epochs().iter().map(|e| (e.epoch.0, e.start_offset.0)).collect();
    assert_eq!(epochs, [(0, 0), (2, 7), (3, 9)]);
    log.abandon();
    let on_disk = std::fs::read_to_string(one.dir().join("leader-epoch-checkpoint")).expect("written");
    assert_eq!(on_disk, "0\n2\n0 0\n1 10\n", "as before the truncation");
    for recovery_point in [recovery_point, Offset(1000)] {
        let log = one.open(false, recovery_point).expect("loadable");
        assert_eq!(log.epochs().iter().map(|e| (e.epoch.0, e.start_offset.0)).collect::<Vec<_>>(), epochs);
        assert_eq!(log.log_end_offset(), Offset(40));
        assert!(log.recovery_point() <= Offset(7), "what was appended since is flushed");
        log.abandon();
    }
    // Once the file agrees with the batches, a crash costs no more than the segment of the recovery point.
    let log = one.open(false, recovery_point).expect("loadable");
    log.flush(0).expect("flushed");
    log.abandon();
    let log = one.open(false, log.recovery_point()).expect("loadable");
    assert_eq!(log.recovery_point(), Offset(40));
}

/// The file of epochs says so at once, the checkpoint of log start offsets a minute later.
#[test]
fn a_crash_soon_after_a_deletion_of_records_recovers_no_more_than_any_other() {
    let one = OneLog::new(small_segments());
    let log = one.open_clean();
    for i in 0..40 {
        append_in_epoch(&log, batch(&[i], 150), i32::from(i >= 5)).expect("appended");
    }
    log.delete_records(Offset(27), log.leader_epoch()).expect("deleted");
    log.write_small_files().expect("written");
    log.flush(0).expect("flushed");
    log.abandon();
    let on_disk = std::fs::read_to_string(one.dir().join("leader-epoch-checkpoint")).expect("written");
    assert_eq!(on_disk, "0\n1\n1 27\n");
    let recovery_point = Offset(25);
    assert_eq!(one.open_at(false, recovery_point, Offset(0)).expect("loadable").recovery_point(), recovery_point);
}

fn one_batch_at(log: &super::Log, from: Offset) -> i64 {
    let bytes = read_bytes(log, from, 1);
    Batches::new(&bytes).next().expect("a batch").expect("valid").header.base_offset
}

#[test]
fn truncation_cuts_whole_batches_epochs_and_producers() {
    let one = OneLog::new(small_segments());
    let log = one.open_clean();
    for i in 0..20 {
        append_in_epoch(&log, batch(&[i, i], 50).producer(5, 0, i as i32 * 2), (i / 7) as i32).expect("appended");
    }
    assert!(!log.truncate_to(Offset(40), log.leader_epoch(), 0).expect("nothing to do"));
    assert!(log.truncate_to(Offset(15), log.leader_epoch(), 0).expect("truncated"));
    assert_eq!(log.log_end_offset(), Offset(15));
    assert_eq!(log.high_watermark(), Offset(15));
    let last = read_all(&log).last().expect("batches are left").0;
    assert_eq!(last.last_offset, 13, "the batch of 14 and 15 goes entirely");
    assert_eq!(log.epochs().iter().map(|e| (e.epoch.0, e.start_offset.0)).collect::<Vec<_>>(), [(0, 0), (1, 14)]);
    assert_eq!(log.producers()[0].last_sequence, 13);
    append_in_epoch(&log, batch(&[99], 50).producer(5, 0, 14), 3).expect("appended");
    assert_eq!(read_all(&log).last().expect("a batch").0.base_offset, 15);

    log.truncate_fully_and_start_at(Offset(100), None, log.leader_epoch(), 0).expect("truncated");
    let bounds = log.bounds();
    assert_eq!(
        (bounds.log_start_offset, bounds.high_watermark, bounds.log_end_offset),
        (Offset(100), Offset(100), Offset(100))
    );
    assert!(log.epochs().is_empty() && log.producers().is_empty());
    append_in_epoch(&log, batch(&[1], 5), 3).expect("appended");
    log.close(0).expect("closable");
    assert_eq!(read_all(&one.open_clean())[0].0.base_offset, 100);
}

#[test]
fn retention_deletes_from_the_oldest_and_never_above_the_high_watermark() {
    let by_age = LogConfig { retention_ms: Some(1000), ..small_segments() };
    let one = OneLog::new(by_age.clone());
    let log = one.open_clean();
    for i in 0..30 {
        append(&log, batch(&[i * 100], 100)).expect("appended");
    }
    let before = log.segment_count();
    log.update_high_watermark(Offset(0));
    assert_eq!(log.delete_old_segments(i64::MAX).expect("nothing is replicated"), 0);
    log.update_high_watermark(Offset(30));
    let deleted = log.delete_old_segments(2500).expect("deleted");
    assert!(deleted > 0 && deleted < before);
    let counters = &one.parent.counters;
    let counted = [&counters.segments_rolled, &counters.segments_deleted, &counters.flushes];
    let counted = counted.map(|counter| counter.load(Ordering::Relaxed));
    assert_eq!(counted, [before as u64 - 1, deleted as u64, 0]);
    log.flush(0).expect("flushed");
    log.flush(0).expect("nothing is left to flush");
    assert_eq!(counters.flushes.load(Ordering::Relaxed), 1);
    let start = log.log_start_offset();
    assert_eq!(read_all(&log)[0].0.base_offset, start.0);
    assert!(start <= Offset(15), "records younger than 1000 ms are kept");
    let marked = names_in(&one.dir()).iter().filter(|name| name.ends_with(".deleted")).count();
    assert!(marked >= deleted * 3, "log and both indexes stay until the delay is over");
    assert!(one.parent.take_doomed(2500).is_empty());
    for path in one.parent.take_doomed(2500 + 60_000) {
        std::fs::remove_file(path).expect("a file");
    }
    assert!(!names_in(&one.dir()).iter().any(|name| name.ends_with(".deleted")));

    // Everything is too old: the active segment is rolled first, and the log goes on where it was.
    log.delete_old_segments(1_000_000).expect("deleted");
    assert_eq!((log.segment_count(), log.log_start_offset(), log.log_end_offset()), (1, Offset(30), Offset(30)));
    append(&log, batch(&[1], 5)).expect("appended");

    let by_size = LogConfig { retention_ms: None, retention_bytes: Some(1500), ..small_segments() };
    let one = OneLog::new(by_size);
    let log = one.open_clean();
    for i in 0..30 {
        append(&log, batch(&[i * 100], 100)).expect("appended");
    }
    log.delete_old_segments(0).expect("deleted");
    assert!(log.size() >= 1500 && log.size() < 1500 + 1000, "{}", log.size());

    let compacted = LogConfig { compact: true, delete: false, retention_ms: Some(0), ..small_segments() };
    let one = OneLog::new(compacted);
    let log = one.open_clean();
    append(&log, batch(&[0], 100)).expect("appended");
    assert_eq!(log.delete_old_segments(1_000_000).expect("nothing"), 0);
    assert!(matches!(log.delete_records(Offset(-1), log.leader_epoch()), Err(LogError::DeletePolicyRequired)));
}

#[test]
fn deleted_records_stay_deleted_and_free_their_segments() {
    let one = OneLog::new(LogConfig { retention_ms: None, ..small_segments() });
    let log = one.open_clean();
    for i in 0..30 {
        append_in_epoch(&log, batch(&[i], 100), (i / 10) as i32).expect("appended");
    }
    assert!(matches!(log.delete_records(Offset(31), log.leader_epoch()), Err(LogError::OffsetOutOfRange { .. })));
    assert_eq!(log.delete_records(Offset(12), log.leader_epoch()).expect("deleted"), Offset(12));
    assert_eq!(log.delete_records(Offset(3), log.leader_epoch()).expect("already"), Offset(12));
    assert_eq!(log.epochs()[0].start_offset, Offset(12));
    let segments = log.segment_count();
    assert!(log.delete_old_segments(0).expect("deleted") > 0);
    assert!(log.segment_count() < segments);
    assert_eq!(log.log_start_offset(), Offset(12), "the segment of the start offset stays");
    assert_eq!(
        log.delete_records(Offset(-1), log.leader_epoch()).expect("deleted"),
        Offset(30),
        "-1 is the high watermark"
    );
}

#[test]
fn read_committed_stops_at_open_transactions_and_names_aborted_ones() {
    let one = OneLog::new(LogConfig { index_interval_bytes: 0, ..LogConfig::default() });
    let log = one.open_clean();
    let transactional = |producer, sequence| batch(&[1], 5).producer(producer, 0, sequence).transactional(true);
    let end = |commit, producer| {
        let mut prepared = prepared_as(marker(producer, commit, 1), AppendOrigin::Coordinator);
        let info = log.append_as_leader(&mut prepared, LeaderEpoch(0), AppendOrigin::Coordinator, 0).expect("appended");
        log.update_high_watermark(info.log_end_offset);
    };
    append(&log, transactional(1, 0)).expect("appended");
    append(&log, transactional(2, 0)).expect("appended");
    assert_eq!(log.bounds().last_stable_offset, Offset(0));
    assert!(
        log.read(Offset(0), 1000, ReadUntil::LastStableOffset, FirstBatch::Whole).expect("readable").region.is_none()
    );
    end(false, 1);
    assert_eq!(log.bounds().last_stable_offset, Offset(1), "producer 2 is still open");
    end(true, 2);
    assert_eq!(log.bounds().last_stable_offset, Offset(4));
    append(&log, batch(&[1], 5)).expect("appended");
    let fetched = log.read(Offset(0), 1000, ReadUntil::LastStableOffset, FirstBatch::Whole).expect("readable");
    let aborted: Vec<_> = fetched.aborted_transactions.iter().map(|t| (t.producer_id.0, t.first_offset.0)).collect();
    assert_eq!(aborted, [(1, 0)]);
    let later = log.read(Offset(3), 1000, ReadUntil::LastStableOffset, FirstBatch::Whole).expect("readable");
    assert!(later.aborted_transactions.is_empty());
    assert_eq!(names_in(&one.dir()).iter().filter(|name| name.ends_with(".txnindex")).count(), 1);
    log.close(0).expect("closable");
    let index = one.dir().join("00000000000000000000.txnindex");
    let written = std::fs::read(&index).expect("written");
    for (clean, index_survives) in [(true, true), (false, true), (false, false), (true, false)] {
        if index_survives {
            std::fs::write(&index, &written).expect("writable");
        } else {
            std::fs::write(&index, [1, 2, 3]).expect("writable");
        }
        let log = one.open(clean, Offset(0)).expect("loadable");
        assert_eq!(std::fs::read(&index).expect("there"), written, "clean {clean}, index survives {index_survives}");
        let fetched = log.read(Offset(0), 1000, ReadUntil::LastStableOffset, FirstBatch::Whole).expect("readable");
        assert_eq!(fetched.aborted_transactions.len(), 1);
    }
}

#[test]
fn a_flush_moves_the_recovery_point_and_settings_ask_for_it() {
    let one = OneLog::new(small_segments());
    let log = one.open_clean();
    for i in 0..20 {
        append(&log, batch(&[i], 100)).expect("appended");
    }
    assert_eq!(log.recovery_point(), Offset(0));
    assert_eq!(one.parent.rolled.take(0).len(), 1);
    log.flush_old_segments(5).expect("flushed");
    let active = names_in(&one.dir()).iter().filter_map(|n| n.strip_suffix(".log")?.parse().ok()).max();
    assert_eq!(Some(log.recovery_point().0), active);
    log.flush(6).expect("flushed");
    assert_eq!(log.recovery_point(), Offset(20));
    log.truncate_to(Offset(3), log.leader_epoch(), 7).expect("truncated");
    assert_eq!(log.recovery_point(), Offset(3));

    let one = OneLog::new(LogConfig { flush_messages: 3, ..LogConfig::default() });
    let log = one.open_clean();
    assert!(!append(&log, batch(&[1, 2], 5)).expect("appended").flush_due);
    assert!(append(&log, batch(&[3], 5)).expect("appended").flush_due, "by whoever acknowledges it");
    log.flush(6).expect("flushed");
    assert!(!append(&log, batch(&[4], 5)).expect("appended").flush_due);
}

#[test]
fn a_directory_belongs_to_one_topic_id() {
    let one = OneLog::new(LogConfig::default());
    let log = one.open_clean();
    let (id, other) = (TopicId::random(), TopicId::random());
    log.assign_topic_id(id).expect("written");
    log.assign_topic_id(id).expect("the same");
    assert!(matches!(log.assign_topic_id(other), Err(LogError::InconsistentTopicId { .. })));
    log.close(0).expect("closable");
    assert_eq!(one.open_clean().topic_id(), Some(id));
}

#[test]
fn a_vanished_partition_goes_offline_and_its_log_dir_with_it_only_if_that_is_gone_too() {
    let mut one = OneLog::new(small_segments());
    let log = one.open_clean();
    append(&log, batch(&[1], 100)).expect("appended");
    std::fs::remove_dir_all(one.dir()).expect("removable");
    let failed = (0..20).find_map(|i| append(&log, batch(&[i], 100)).err()).expect("the next roll fails");
    assert!(matches!(failed, LogError::Io { .. }), "{failed}");
    assert_eq!(one.failures.try_recv().expect("the broker hears of it"), one.root.path());
    assert!(matches!(append(&log, batch(&[1], 5)), Err(LogError::Offline { .. })));
    assert!(one.failures.try_recv().is_err(), "once");
    assert!(log.is_offline() && !one.parent.is_offline());

    let mut one = OneLog::new(small_segments());
    let log = one.open_clean();
    std::fs::remove_dir_all(one.root.path()).expect("removable");
    (0..20).find_map(|i| append(&log, batch(&[i], 100)).err()).expect("the next roll fails");
    assert_eq!(one.failures.try_recv().expect("the broker hears of it"), one.root.path());
    assert!(one.parent.is_offline());
}

#[test]
fn epochs_wait_for_the_disk_behind_appends_and_are_there_after_a_crash() {
    let one = OneLog::new(small_segments());
    let log = one.open_clean();
    for (epoch, timestamp) in [(0, 1), (0, 2), (3, 3), (5, 4)] {
        append_in_epoch(&log, batch(&[timestamp], 40), epoch).expect("appended");
    }
    log.lead(LeaderEpoch(7)).expect("a newer epoch");
    let file = one.dir().join("leader-epoch-checkpoint");
    assert!(!file.exists(), "nobody waits for it");
    log.abandon();
    let starts = |log: &super::Log| log.epochs().iter().map(|e| (e.epoch.0, e.start_offset.0)).collect::<Vec<_>>();
    let log = one.open(false, Offset(0)).expect("loadable");
    assert_eq!(starts(&log), [(0, 0), (3, 2), (5, 3)], "the batches know");

    // A flush lets recovery trust what is below: the epochs come first.
    log.flush(0).expect("flushed");
    assert_eq!(std::fs::read_to_string(&file).expect("written"), "0\n3\n0 0\n3 2\n5 3\n");

    // What a truncation took away and the file still names does not come back.
    log.truncate_to(Offset(3), log.leader_epoch(), 0).expect("truncated");
    append_in_epoch(&log, batch(&[5], 40), 4).expect("appended");
    append_in_epoch(&log, batch(&[5], 40), 5).expect("appended");
    log.abandon();
    let log = one.open(false, Offset(3)).expect("loadable");
    assert_eq!(starts(&log), [(0, 0), (3, 2), (4, 3), (5, 4)]);
}

#[test]
fn an_idle_log_is_small() {
    assert!(size_of::<super::State>() + size_of::<super::Log>() < 1500);
    assert!(size_of::<super::Segment>() < 300, "{}", size_of::<super::Segment>());
}

#[test]
fn idle_files_are_closed_when_the_disk_has_what_was_written_to_them() {
    let one = OneLog::new(LogConfig::default());
    let log = one.open_clean();
    append(&log, batch(&[1], 5)).expect("appended");
    let is_open = || log.locked().active().is_open();
    log.close_idle_files(0).expect("nothing to close");
    assert!(is_open() && log.recovery_point() == Offset(0), "it was used since");
    std::fs::create_dir(one.dir().join("leader-epoch-checkpoint.tmp")).expect("writable");
    assert!(log.close_idle_files(0).is_err());
    assert!(is_open(), "an error of the disk would be lost with it");
    std::fs::remove_dir(one.dir().join("leader-epoch-checkpoint.tmp")).expect("removable");
    log.close_idle_files(0).expect("closed");
    assert!(!is_open());
    assert_eq!(log.recovery_point(), Offset(1));
    read_bytes(&log, Offset(0), 10);
    log.close_idle_files(0).expect("nothing to close");
    let flushes = one.parent.counters.flushes.load(Ordering::Relaxed);
    log.close_idle_files(0).expect("closed");
    assert!(!is_open());
    assert_eq!(one.parent.counters.flushes.load(Ordering::Relaxed), flushes, "nothing was written to it");
}

/// A file that lost its end, was filled with zeros, or was left by another segment of the name.
#[test]
fn a_time_index_that_is_wrong_neither_deletes_nor_keeps_nor_hides_records() {
    let config = LogConfig { retention_ms: Some(1000), ..small_segments() };
    let sample = OneLog::new(config.clone());
    let log = sample.open_clean();
    for i in 0..40 {
        append(&log, batch(&[i * 100], 100)).expect("appended");
    }
    log.close(0).expect("closable");
    let names: Vec<String> = names_in(&sample.dir());
    let entry = |timestamp: i64, offset: i32| [&timestamp.to_be_bytes()[..], &offset.to_be_bytes()].concat();
    type Damage<'a> = (&'a str, Box<dyn Fn(&mut Vec<u8>) + 'a>);
    let damages: [Damage<'_>; 6] = [
        ("is empty", Box::new(|index| index.clear())),
        ("has lost its last entry", Box::new(|index| index.truncate(index.len() - 12))),
        ("ends in zeros", Box::new(|index| index.extend([0; 120]))),
        ("ends in the future", Box::new(|index| index.extend(entry(i64::MAX / 2, 6)))),
        ("ends behind the segment", Box::new(|index| index.extend(entry(900_000, 500_000)))),
        (
            "has a last entry that is too low",
            Box::new(|index| {
                let len = index.len();
                index[len - 12..len - 4].copy_from_slice(&1_i64.to_be_bytes());
            }),
        ),
    ];
    for (what, damage) in &damages {
        for clean in [true, false] {
            let one = OneLog::new(config.clone());
            for name in &names {
                let mut content = std::fs::read(sample.dir().join(name)).expect("readable");
                if name.ends_with(".timeindex") {
                    damage(&mut content);
                }
                std::fs::write(one.dir().join(name), content).expect("writable");
            }
            let log = one.open(clean, Offset(40)).expect("loadable");
            let found = |query| log.offset_for_timestamp(query).expect("searchable").map(|found| found.offset.0);
            assert_eq!(found(OffsetQuery::MaxTimestamp), Some(39), "{what}, clean: {clean}");
            for i in 0..40 {
                assert_eq!(found(OffsetQuery::AtOrAfter(i * 100 - 5)), Some(i), "{what}, clean: {clean}");
            }
            assert_eq!(found(OffsetQuery::AtOrAfter(3901)), None, "{what}, clean: {clean}");
            let by_age = one.open(clean, Offset(40)).expect("loadable");
            by_age.delete_old_segments(3000).expect("deletable");
            let kept = read_all(&by_age).first().expect("young ones").0.base_offset;
            assert!((14..=20).contains(&kept), "{what}, clean: {clean}: {kept}");
        }
    }
}

/// What a leader has compacted comes with gaps, and the first batch of an epoch may be in one.
#[test]
fn a_recovery_believes_the_file_of_epochs_unless_a_batch_contradicts_it() {
    let batch_of = |epoch: i32, offset: i64| {
        let mut bytes = batch(&[1], 5).build().to_vec();
        bytes[..8].copy_from_slice(&offset.to_be_bytes());
        bytes[12..16].copy_from_slice(&epoch.to_be_bytes());
        bytes
    };
    let batches = [(0, 0), (0, 1), (5, 10), (5, 11), (7, 12), (9, 30)];
    let content: Vec<u8> = batches.into_iter().flat_map(|(epoch, offset)| batch_of(epoch, offset)).collect();
    let recovered = |file: &[(i32, i64)]| -> Vec<(i32, i64)> {
        let one = OneLog::new(LogConfig::default());
        std::fs::write(one.dir().join("00000000000000000000.log"), &content).expect("writable");
        let lines: String = file.iter().map(|(epoch, start)| format!("{epoch} {start}\n")).collect();
        let path = one.dir().join("leader-epoch-checkpoint");
        std::fs::write(path, format!("0\n{}\n{lines}", file.len())).expect("writable");
        let log = one.open(false, Offset(0)).expect("loadable");
        log.epochs().iter().map(|known| (known.epoch.0, known.start_offset.0)).collect()
    };
    let of_batches = vec![(0, 0), (5, 10), (7, 12), (9, 30)];
    assert_eq!(recovered(&[]), of_batches);
    assert_eq!(recovered(&[(0, 0), (5, 2), (7, 12), (9, 13)]), [(0, 0), (5, 2), (7, 12), (9, 13)]);
    assert_eq!(recovered(&[(0, 0), (5, 2)]), [(0, 0), (5, 2), (7, 12), (9, 30)], "what follows came later");
    // Of before truncations: an epoch that wrote nothing of what is there, or where another did.
    assert_eq!(recovered(&[(0, 0), (3, 5)]), of_batches);
    assert_eq!(recovered(&[(0, 0), (4, 1), (5, 2)]), of_batches);
    assert_eq!(recovered(&[(0, 0), (5, 2), (6, 13)]), of_batches);
}

#[test]
fn an_fsync_that_fails_in_any_way_takes_the_log_offline() {
    let one = OneLog::new(LogConfig::default());
    let log = one.open_clean();
    append(&log, batch(&[1], 5)).expect("appended");
    log.write_small_files().expect("written");
    files::faults::fail(files::faults::Op::Sync, 0);
    assert!(matches!(log.flush(0), Err(LogError::Corrupt { .. })));
    assert!(log.is_offline() && !one.parent.is_offline());
    // The kernel would say that all is well now.
    assert!(matches!(log.flush(0), Err(LogError::Offline { .. })));
    assert_eq!(log.recovery_point(), Offset(0));
}

#[test]
fn snapshots_of_many_producers_are_no_more_than_what_is_appended() {
    // Every batch is a segment.
    let one = OneLog::new(LogConfig { segment_bytes: 100, ..LogConfig::default() });
    let log = one.open_clean();
    for i in 0..400 {
        append(&log, batch(&[i], 5).producer(i, 0, 0)).expect("appended");
    }
    let is_snapshot = |name: &String| name.ends_with(".snapshot");
    let bytes_of = |name: &String| std::fs::metadata(one.dir().join(name)).expect("readable").len();
    let snapshots: u64 = names_in(&one.dir()).iter().filter(|name| is_snapshot(name)).map(bytes_of).sum();
    assert!(snapshots > 0 && snapshots <= log.size(), "{snapshots} bytes of snapshots, {} of log", log.size());
    let producers = log.producers();
    log.abandon();
    assert_eq!(one.open(false, Offset(0)).expect("loadable").producers().len(), producers.len());
    assert_eq!(one.open(false, Offset(399)).expect("loadable").producers().len(), producers.len());
}

#[test]
fn a_crash_forgets_no_producer_whose_records_have_expired() {
    // Every batch is a segment, and a snapshot soon as large as all that are kept.
    let one = OneLog::new(LogConfig { segment_bytes: 100, retention_bytes: Some(2000), ..LogConfig::default() });
    let log = one.open_clean();
    for i in 0..400 {
        append(&log, batch(&[i], 5).producer(i, 0, 0)).expect("appended");
        log.delete_old_segments(i).expect("deleted");
    }
    assert!(log.log_start_offset() > Offset(300));
    let (producers, log_start_offset) = (log.producers(), log.log_start_offset());
    assert_eq!(producers.len(), 400);
    log.abandon();
    let log = one.open_at(false, Offset(399), log_start_offset).expect("loadable");
    assert_eq!(log.producers().len(), producers.len());
}

/// Source: kafka 3.9 has a snapshot for each segment.
#[test]
fn a_crash_forgets_no_producer_though_most_segments_go_at_once() {
    // Every batch is a segment, and a snapshot is taken after many of them.
    let bytes = batch(&[0], 5).producer(0, 0, 0).build().len() as u64;
    for batches_kept in [1, 5, 40] {
        let retention_bytes = Some(batches_kept * bytes);
        let one = OneLog::in_memory(LogConfig { segment_bytes: 100, retention_bytes, ..LogConfig::default() });
        let log = one.open_clean();
        let known_after_a_crash = || {
            let copy = tempfile::tempdir().expect("a temporary directory");
            copy_tree(one.root.path(), copy.path());
            let crashed = OneLog::at(copy, LogConfig::default());
            let crashed = crashed.open_at(false, log.recovery_point(), log.log_start_offset());
            crashed.expect("loadable").producers().len() as i64
        };
        for i in 0..400 {
            append(&log, batch(&[i], 5).producer(i, 0, 0)).expect("appended");
            log.flush_old_segments(i).expect("flushed");
        }
        let mut passes = 0;
        while log.delete_old_segments(400).expect("deleted") > 0 {
            passes += 1;
            assert_eq!(known_after_a_crash(), 400, "{batches_kept} kept, pass {passes}");
        }
        assert!(log.log_start_offset().0 >= 399 - batches_kept as i64, "{}", log.log_start_offset());
        assert!(passes <= 2, "{passes}");
        for i in 400..410 {
            append(&log, batch(&[i], 5).producer(i, 0, 0)).expect("appended");
            assert_eq!(known_after_a_crash(), i + 1, "{batches_kept} kept");
        }
    }
}

#[test]
fn a_full_disk_keeps_nothing_that_has_expired_but_where_the_log_ends() {
    for preallocate in [false, true] {
        let one = OneLog::new(LogConfig { retention_ms: Some(1000), preallocate, ..small_segments() });
        let log = one.open_clean();
        for i in 0..40 {
            append(&log, batch(&[i], 100).producer(7, 0, i as i32)).expect("appended");
        }
        let segments = log.segment_count();
        assert!(segments > 3);
        let full = |op, _: &std::path::Path| match op {
            Op::Create | Op::Write | Op::WriteAt | Op::Reserve => Err(Errno::NOSPC.into()),
            _ => Ok(()),
        };
        let fault = files::faults::below(one.root.path(), full);
        // The last one has the name that a start finds the end of the log by.
        assert_eq!(log.delete_old_segments(5000).expect("a full disk is no hindrance"), segments - 1);
        assert_eq!((log.segment_count(), log.log_end_offset()), (1, Offset(40)));
        let crashed = || {
            let copy = tempfile::tempdir().expect("a temporary directory");
            copy_tree(one.root.path(), copy.path());
            let crashed = OneLog::at(copy, LogConfig::clone(&one.config));
            let opened = crashed.open_at(false, log.recovery_point(), Offset(0));
            opened.expect("loadable").log_end_offset()
        };
        assert_eq!(crashed(), Offset(40));
        drop(fault);
        assert_eq!(log.delete_old_segments(5000).expect("there is room again"), 1);
        assert_eq!((log.log_start_offset(), log.segment_count()), (Offset(40), 1));
        assert_eq!(crashed(), Offset(40));
        append(&log, batch(&[5000], 100).producer(7, 0, 40)).expect("there is room again");
        assert_eq!(read_all(&log).len(), 1);
    }
}

/// Of a crash in between, all segments may have stayed.
#[test]
fn a_segment_that_was_to_go_without_its_final_form_is_read_after_a_crash() {
    let one = OneLog::new(LogConfig { retention_ms: Some(1000), preallocate: true, ..small_segments() });
    let log = one.open_clean();
    for i in 0..40 {
        append(&log, batch(&[i], 100)).expect("appended");
    }
    log.flush(0).expect("flushed");
    let (size, before) = (log.size(), read_all(&log));
    let cannot = |op, _: &std::path::Path| if op == Op::Rename { Err(Errno::IO.into()) } else { Ok(()) };
    let fault = files::faults::below(&one.dir(), cannot);
    assert!(log.delete_old_segments(5000).is_err());
    drop(fault);
    let copy = tempfile::tempdir().expect("a temporary directory");
    copy_tree(one.root.path(), copy.path());
    let crashed = OneLog::at(copy, LogConfig::clone(&one.config));
    let crashed = crashed.open(false, Offset(40)).expect("loadable");
    assert_eq!((crashed.size(), crashed.log_end_offset()), (size, Offset(40)));
    assert_eq!(read_all(&crashed), before);
}

#[test]
fn an_append_needs_no_index() {
    let one = OneLog::new(LogConfig::default());
    let log = one.open_clean();
    append(&log, batch(&[1], 5)).expect("appended");
    log.close(0).expect("closable");
    let log = one.open_clean();
    for extension in ["index", "timeindex"] {
        let index = one.dir().join(format!("00000000000000000000.{extension}"));
        std::fs::remove_file(&index).expect("removable");
        std::fs::create_dir(&index).expect("writable");
    }
    // It would have to be taken back, were it not known from the start on what an index says.
    append(&log, batch(&[2], 5)).expect("appended");
    assert_eq!(log.log_end_offset(), Offset(2));
}

#[test]
fn a_read_that_cannot_open_the_log_says_so_to_all() {
    let one = OneLog::new(LogConfig::default());
    let log = one.open_clean();
    append(&log, batch(&[1], 5)).expect("appended");
    log.close_idle_files(0).expect("closable");
    log.close_idle_files(0).expect("closable");
    std::fs::remove_file(one.dir().join("00000000000000000000.log")).expect("removable");
    let refused = log.read(Offset(0), 100, ReadUntil::LogEnd, FirstBatch::Whole);
    assert!(matches!(refused, Err(LogError::Io { .. })));
    assert!(log.is_offline());
}

#[test]
fn nobody_goes_on_after_a_truncation_that_failed() {
    let one = OneLog::new(LogConfig::default());
    let log = one.open_clean();
    append(&log, batch(&[1], 5)).expect("appended");
    std::fs::create_dir(one.dir().join("00000000000000000000.log.deleted")).expect("writable");
    let failed = log.truncate_fully_and_start_at(Offset(7), None, LeaderEpoch(0), 0);
    assert!(matches!(failed, Err(LogError::Corrupt { .. })));
    assert!(log.is_offline());
    // As for those who asked before it failed, and waited for the lock.
    log.failed.store(false, std::sync::atomic::Ordering::Release);
    assert!(matches!(append(&log, batch(&[2], 5)), Err(LogError::BeingTruncated)));
}
