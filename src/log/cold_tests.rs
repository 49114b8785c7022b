//! Who looks at records that are not in memory, while the disk does not answer; and who appends meanwhile.

use super::testing::{OneLog, append, batch, copy_tree, held_up, marker, prepared_as, small_segments};
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

fn read(log: &Log, from: i64, until: ReadUntil) -> String {
    let read = log.read(Offset(from), 100, until, FirstBatch::Whole).expect("readable");
    let region = read.region.expect("there are records");
    let aborted: Vec<_> = read.aborted_transactions.iter().map(|txn| txn.producer_id.0).collect();
    format!("{} bytes at {}, aborted {aborted:?}", region.len, region.position)
}

fn found(log: &Log, query: OffsetQuery) -> String {
    format!("{:?}", log.offset_for_timestamp(query).expect("searchable"))
}

type Question = (&'static str, fn(&Log) -> String);

/// With what each is to find.
const QUESTIONS: &[(Question, &str)] = &[
    (("a read", |log| read(log, 30, ReadUntil::HighWatermark)), "119 bytes at 714, aborted []"),
    (("a committed read", |log| read(log, 0, ReadUntil::LastStableOffset)), "bytes at 0, aborted [7]"),
    (("a search by time", |log| found(log, OffsetQuery::AtOrAfter(2950))), "32"),
    (("a search for the latest", |log| found(log, OffsetQuery::MaxTimestamp)), "61"),
    (("retention", |log| log.delete_old_segments(4000).expect("deletable").to_string()), "4"),
    (("rebuilding", |log| format!("{:?}", log.rebuild_indexes(Offset(0)))), "Ok(())"),
];

#[test]
fn nobody_who_appends_waits_for_the_disk_behind_one_who_looks_at_old_records() {
    let sample = filled();
    let afresh = || {
        let one = OneLog::new((*sample.config).clone());
        copy_tree(&sample.dir(), &one.dir());
        one
    };
    for &((what, ask), expected) in QUESTIONS {
        let answer = ask(&afresh().open_clean());
        assert!(answer.contains(expected), "{what}: {answer}");
        let mut nth = 0;
        loop {
            let one = afresh();
            let log = one.open_clean();
            let tail = log.log_end_offset();
            let (held_up_answer, is_held_up) = held_up(
                one.root.path(),
                nth,
                || ask(&log),
                || {
                    append(&log, batch(&[0], 50)).expect("appended");
                    read(&log, tail.0, ReadUntil::HighWatermark);
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
