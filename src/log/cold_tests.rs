//! Who looks at records that are not in memory, while the disk does not answer; and who appends meanwhile.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::error::LogError;
use super::file_names::{self, offset_file, with_suffix};
use super::files::faults::{self, Op};
use super::testing::{OneLog, append, batch, copy_tree, held_up, marker, names_in, prepared_as, small_segments};
use super::{FirstBatch, Log, OffsetQuery, ReadUntil};
use crate::config::log::LogConfig;
use crate::model::{LeaderEpoch, Offset};
use crate::record::append_rules::AppendOrigin;

/// Many segments, and in the first of them a transaction that was aborted.
fn filled() -> OneLog {
    let one = OneLog::new(LogConfig { retention_ms: Some(1000), ..small_segments() });
    let log = one.open_clean();
    append(&log, batch(&[1], 50).producer(7, 0, 0).transactional(true)).expect("appended");
    let mut abort = prepared_as(marker(7, false, 1), AppendOrigin::Coordinator);
    log.append_as_leader(&mut abort, LeaderEpoch(0), AppendOrigin::Coordinator, 0).expect("appended");
    for at in 0..60 {
        append(&log, batch(&[at * 100], 50)).expect("appended");
    }
    assert!(log.segment_count() > 7);
    log.close(0).expect("closable");
    one
}

fn read(log: &Log, from: i64, until: ReadUntil) -> Result<String, LogError> {
    let read = log.read(Offset(from), 100, until, FirstBatch::Whole)?;
    let region = read.region.expect("there are records");
    let aborted: Vec<_> = read.aborted_transactions.iter().map(|txn| txn.producer_id.0).collect();
    Ok(format!("{} bytes at {}, aborted {aborted:?}", region.len, region.position))
}

fn found(log: &Log, query: OffsetQuery) -> Result<String, LogError> {
    Ok(format!("{:?}", log.offset_for_timestamp(query)?.map(|found| found.offset.0)))
}

type Question = (&'static str, fn(&Log) -> Result<String, LogError>);

/// With what each is to find.
const QUESTIONS: &[(Question, &str)] = &[
    (("a read", |log| read(log, 30, ReadUntil::HighWatermark)), "119 bytes at 714, aborted []"),
    (("a committed read", |log| read(log, 0, ReadUntil::LastStableOffset)), "119 bytes at 0, aborted [7]"),
    (("a search by time", |log| found(log, OffsetQuery::AtOrAfter(2950))), "Some(32)"),
    (("a search for the latest", |log| found(log, OffsetQuery::MaxTimestamp)), "Some(61)"),
    (("retention", |log| log.delete_old_segments(4000).map(|deleted| deleted.to_string())), "4"),
    (("rebuilding", |log| log.rebuild_indexes(Offset(0)).map(|()| "done".to_owned())), "done"),
];

/// The same log again, and again.
fn afresh(sample: &OneLog) -> OneLog {
    let one = OneLog::new((*sample.config).clone());
    copy_tree(&sample.dir(), &one.dir());
    one
}

#[test]
fn nobody_who_appends_waits_for_the_disk_behind_one_who_looks_at_old_records() {
    let sample = filled();
    for &((what, ask), expected) in QUESTIONS {
        let answer = ask(&afresh(&sample).open_clean()).expect(what);
        assert_eq!(answer, expected, "{what}");
        let mut nth = 0;
        loop {
            let one = afresh(&sample);
            let log = one.open_clean();
            let tail = log.log_end_offset();
            let (held_up_answer, is_held_up) = held_up(
                one.root.path(),
                nth,
                || ask(&log).expect(what),
                || {
                    append(&log, batch(&[0], 50)).expect("appended");
                    read(&log, tail.0, ReadUntil::HighWatermark).expect("readable");
                },
            );
            if !is_held_up {
                break;
            }
            assert_eq!(held_up_answer, answer, "{what}, held up at look {nth}");
            nth += 1;
        }
        // It opens a file at the least.
        assert!(nth > 0, "{what}");
    }
}

/// Asks on this thread. Before it opens, reads or looks at a file for the `nth` time, `meanwhile` is given its path, and before
/// the next time and at the end, nothing any more. Says, too, whether it came so far.
fn disturbed(
    one: &OneLog,
    nth: usize,
    ask: impl FnOnce() -> Result<String, LogError>,
    meanwhile: impl Fn(Option<&Path>) + Send + Sync + 'static,
) -> (Result<String, LogError>, bool) {
    let (asking, looks) = (std::thread::current().id(), Arc::new(AtomicUsize::new(0)));
    let (counted, meanwhile) = (Arc::clone(&looks), Arc::new(meanwhile));
    let disturb = Arc::clone(&meanwhile);
    let fault = faults::below(one.root.path(), move |op, path| {
        if std::thread::current().id() == asking && matches!(op, Op::Open | Op::Read | Op::Stat) {
            let at = counted.fetch_add(1, Ordering::SeqCst);
            if at == nth {
                disturb(Some(path));
            } else if at == nth + 1 {
                disturb(None);
            }
        }
        Ok(())
    });
    let answer = ask();
    drop(fault);
    meanwhile(None);
    (answer, looks.load(Ordering::SeqCst) > nth)
}

fn base_offset_in(path: &Path) -> Offset {
    let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
    Offset(name.parse().expect("a segment's"))
}

#[test]
fn who_looks_at_indexes_while_they_are_written_anew_finds_what_there_is() {
    let sample = filled();
    for &((what, ask), expected) in QUESTIONS {
        for nth in 0.. {
            let one = afresh(&sample);
            let log = Arc::new(one.open_clean());
            let (rebuilding, dir) = (Arc::clone(&log), one.dir());
            let (answer, came_so_far) = disturbed(
                &one,
                nth,
                || ask(&log),
                move |path| {
                    let Some(path) = path else {
                        for name in names_in(&dir).iter().filter(|name| name.ends_with(".aside")) {
                            let aside = dir.join(name);
                            std::fs::rename(&aside, aside.with_extension("")).expect("it may be renamed");
                        }
                        return;
                    };
                    let (log, base_offset) = (Arc::clone(&rebuilding), base_offset_in(path));
                    let rebuilt = std::thread::spawn(move || log.rebuild_indexes(base_offset)).join();
                    rebuilt.expect("no panic").expect("rebuilt");
                    // For a moment they are not there.
                    for extension in [file_names::OFFSET_INDEX, file_names::TIME_INDEX] {
                        let index = offset_file(&dir, base_offset, extension);
                        if index.exists() {
                            std::fs::rename(&index, with_suffix(&index, ".aside")).expect("it may be renamed");
                        }
                    }
                },
            );
            if !came_so_far {
                assert!(nth > 0, "{what}");
                break;
            }
            assert_eq!(answer.expect(what), expected, "{what}, overtaken at look {nth}");
            assert!(!log.is_offline(), "{what}, overtaken at look {nth}");
        }
    }
}

/// What half of a time index says is right by all that can be seen of it, but for what lies between.
#[test]
fn who_looks_at_half_an_index_does_not_take_it_for_all() {
    let sample = OneLog::new(LogConfig { index_interval_bytes: 1, segment_bytes: 1000, ..LogConfig::default() });
    let log = sample.open_clean();
    for timestamp_ms in [10, 20, 5000, 5, 5, 5, 5, 5, 5] {
        append(&log, batch(&[timestamp_ms], 50)).expect("appended");
    }
    assert_eq!(log.segment_count(), 2);
    log.close(0).expect("closable");
    let mut disturbances = 0;
    for nth in 0.. {
        let one = afresh(&sample);
        let log = Arc::new(one.open_clean());
        let (rebuilding, half) = (Arc::clone(&log), Arc::new(AtomicUsize::new(0)));
        let (index, halved) = (offset_file(&one.dir(), Offset(0), file_names::TIME_INDEX), Arc::clone(&half));
        let whole = std::fs::read(&index).expect("readable");
        let ask = || found(&log, OffsetQuery::MaxTimestamp);
        let (answer, came_so_far) = disturbed(&one, nth, ask, move |path| match path {
            Some(path) if path.extension().is_some_and(|extension| extension == "timeindex") => {
                let log = Arc::clone(&rebuilding);
                std::thread::spawn(move || log.rebuild_indexes(Offset(0))).join().expect("no panic").expect("rebuilt");
                assert_eq!(std::fs::read(&index).expect("readable"), whole);
                std::fs::write(&index, &whole[..whole.len() / 2]).expect("writable");
                halved.fetch_add(1, Ordering::SeqCst);
            }
            Some(_) => {}
            None => std::fs::write(&index, &whole).expect("writable"),
        });
        disturbances += half.load(Ordering::SeqCst);
        if !came_so_far {
            break;
        }
        assert_eq!(answer.expect("searchable"), "Some(2)", "overtaken at look {nth}");
    }
    assert!(disturbances > 0, "nobody has looked at the time index");
}

#[test]
fn who_looks_at_a_log_that_is_deleted_meanwhile_says_nothing_against_it() {
    let sample = filled();
    for &((what, ask), expected) in QUESTIONS {
        for nth in 0.. {
            let one = afresh(&sample);
            let log = Arc::new(one.open_clean());
            let (doomed, dir) = (Arc::clone(&log), one.dir());
            let (answer, came_so_far) = disturbed(
                &one,
                nth,
                || ask(&log),
                move |path| {
                    if path.is_some() {
                        doomed.abandon();
                        std::fs::rename(&dir, dir.with_extension("deleted")).expect("it may be renamed");
                    }
                },
            );
            if !came_so_far {
                break;
            }
            match answer {
                // It had all that it needed.
                Ok(answer) => assert_eq!(answer, expected, "{what}, overtaken at look {nth}"),
                Err(why) => assert!(matches!(why, LogError::Closed), "{what}, overtaken at look {nth}: {why}"),
            }
            assert!(!log.is_offline(), "{what}, overtaken at look {nth}");
        }
    }
}

#[test]
fn there_may_be_a_segment_at_the_last_offset_of_all() {
    let one = filled();
    std::fs::write(offset_file(&one.dir(), Offset(i64::MAX), file_names::LOG), "").expect("writable");
    let log = one.open_clean();
    assert_eq!(found(&log, OffsetQuery::MaxTimestamp).expect("searchable"), "Some(61)");
}
