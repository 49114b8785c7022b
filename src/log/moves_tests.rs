//! Moves of logs between directories: what is moved, what a crash at any step leaves, and what goes on meanwhile.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use rustix::io::Errno;
use tempfile::TempDir;
use tokio::sync::mpsc::unbounded_channel;

use super::dirs::LogDirs;
use super::dirs::moves::{MoveBegun, Step};
use super::error::LogError;
use super::file_names::{DirKind, parse_dir_name};
use super::files::faults::{self, Op};
use super::testing::*;
use super::{FirstBatch, Log, ReadUntil};
use crate::config::log::LogConfig;
use crate::config::sections::LogDirsConfig;
use crate::model::{LeaderEpoch, Offset, TopicId, TopicPartition};
use crate::record::append_rules::AppendOrigin;
use crate::record::batch::Batches;

struct Fixture {
    _root: TempDir,
    config: LogDirsConfig,
}

impl Fixture {
    fn new(dirs: usize) -> Fixture {
        let root = tempfile::tempdir().expect("a temporary directory");
        let dirs: Vec<PathBuf> = (0..dirs).map(|i| root.path().join(format!("d{i}"))).collect();
        let config = LogDirsConfig { dirs, topic_defaults: small_segments(), ..LogDirsConfig::default() };
        Fixture { _root: root, config }
    }

    fn start(&self) -> LogDirs {
        let (sender, _) = unbounded_channel();
        let dirs = LogDirs::open(&self.config, sender, Arc::default()).expect("openable");
        dirs.load(&|_| Arc::new(small_segments()), 0, &|_| {}).expect("loadable");
        dirs
    }

    fn start_with(&self, dirs: &[usize]) -> LogDirs {
        let dirs = dirs.iter().map(|at| self.config.dirs[*at].clone()).collect();
        let config = LogDirsConfig { dirs, ..self.config.clone() };
        Fixture { _root: tempfile::tempdir().expect("a temporary directory"), config }.start()
    }

    fn dir_of(&self, log: &Log) -> usize {
        self.config.dirs.iter().position(|dir| *dir == log.parent_dir()).expect("one of them")
    }

    fn path(&self, dir: usize) -> &str {
        self.config.dirs[dir].to_str().expect("text")
    }

    /// What directories there are of the partition, but for those that are to be deleted.
    fn kinds(&self) -> Vec<(usize, DirKind)> {
        let mut kinds = Vec::new();
        for (at, dir) in self.config.dirs.iter().enumerate() {
            let found = names_in(dir).into_iter().filter_map(|name| parse_dir_name(&name));
            kinds.extend(found.map(|(_, kind)| (at, kind)).filter(|(_, kind)| *kind != DirKind::Deleting));
        }
        kinds
    }
}

fn tp() -> TopicPartition {
    TopicPartition::new("t", 0)
}

fn create(dirs: &LogDirs) -> Arc<Log> {
    let id = Some(TopicId(uuid(7)));
    dirs.get_or_create(&tp(), id, Arc::new(small_segments()), true, 0).expect("creatable")
}

fn uuid(byte: u8) -> [u8; 16] {
    [byte; 16]
}

fn fill(log: &Log, batches: i64) {
    for _ in 0..batches {
        let next = log.log_end_offset().0;
        let epoch = log.leader_epoch().0.max(0);
        append_in_epoch(log, batch(&[next], 100).producer(9, 0, next as i32), epoch).expect("appended");
    }
}

/// Carries a move out to its end.
fn finish(dirs: &LogDirs) {
    let mut first = true;
    for _ in 0..100_000 {
        match dirs.move_on(&tp(), first, 0).expect("it goes on") {
            Step::Over => return,
            Step::Copied(_) => first = false,
        }
    }
    panic!("it does not end");
}

/// A log of 25 batches of which a move has copied some, as a crash leaves it; from where, and where it goes.
fn begin(fixture: &Fixture) -> (usize, usize) {
    let dirs = fixture.start();
    let log = create(&dirs);
    fill(&log, 25);
    let from = fixture.dir_of(&log);
    dirs.begin_move(&tp(), fixture.path(1 - from), 0).expect("asked");
    dirs.get_future(&tp()).expect("there").copy_from(&log, 300, 0).expect("copied");
    (from, 1 - from)
}

/// All batches, byte for byte.
fn bytes_of(log: &Log) -> Vec<u8> {
    read_all(log).into_iter().flat_map(|(_, bytes)| bytes).collect()
}

#[test]
fn a_log_moves_with_all_that_it_is() {
    let fixture = Fixture::new(2);
    let dirs = fixture.start();
    let log = create(&dirs);
    fill(&log, 40);
    log.lead(LeaderEpoch(3)).expect("led");
    log.append_as_leader(
        &mut prepared(batch(&[1], 5).transactional(true).producer(5, 0, 0)),
        LeaderEpoch(3),
        AppendOrigin::Client,
        0,
    )
    .expect("appended");
    log.delete_records(Offset(15), LeaderEpoch(3)).expect("deleted");
    let (before, producers, epochs) = (log.bounds(), log.producers(), log.epochs());
    let bytes = bytes_of(&log);
    let from = fixture.config.dirs.iter().position(|dir| *dir == log.parent_dir()).expect("one of them");
    let to = 1 - from;
    assert_eq!(dirs.begin_move(&tp(), fixture.path(from), 0).expect("asked"), MoveBegun::Already);
    assert_eq!(dirs.begin_move(&tp(), fixture.path(to), 0).expect("asked"), MoveBegun::Moving);
    assert_eq!(dirs.begin_move(&tp(), fixture.path(to), 0).expect("asked"), MoveBegun::Moving, "again");
    assert_eq!(fixture.kinds().len(), 2);
    finish(&dirs);
    assert_eq!(fixture.kinds(), [(to, DirKind::Live)]);
    assert_eq!(log.parent_dir(), fixture.config.dirs[to]);
    assert_eq!((log.bounds(), log.producers(), log.epochs()), (before, producers.clone(), epochs.clone()));
    assert_eq!(bytes_of(&log), bytes);
    assert!(log.recovery_point() >= before.high_watermark, "it is on the disk");
    append_in_epoch(&log, batch(&[1], 100), 3).expect("appended");
    assert!(dirs.get_future(&tp()).is_none());
    let bytes = bytes_of(&log);
    drop((log, dirs));
    let dirs = fixture.start();
    let log = dirs.get(&tp()).expect("loaded");
    assert_eq!(bytes_of(&log), bytes);
    assert_eq!((log.epochs(), log.topic_id()), (epochs, Some(TopicId(uuid(7)))));
    assert_eq!(log.log_start_offset(), Offset(15));
    assert_eq!(log.producers().len(), producers.len());
    assert_eq!(dirs.logs().len(), 1);
}

/// The broker ends at the first, second, third … rename, fsync or write of a move.
#[test]
fn a_crash_at_any_step_leaves_one_whole_log_to_the_next_start_and_the_move_to_be_finished() {
    let mut ended_in = BTreeSet::new();
    for op in [Op::Rename, Op::Sync, Op::Write] {
        for others in 0..60 {
            let fixture = Fixture::new(2);
            let dirs = fixture.start();
            let log = create(&dirs);
            let to = usize::from(log.parent_dir() == fixture.config.dirs[0]);
            fill(&log, 25);
            let bytes = bytes_of(&log);
            faults::fail(op, others);
            let begun = dirs.begin_move(&tp(), fixture.path(to), 0);
            let mut outcome = begun.map(|_| Step::Copied(0));
            let mut first = true;
            while let Ok(Step::Copied(_)) = outcome {
                outcome = dirs.move_on(&tp(), first, 0);
                first = false;
            }
            let has_failed = !faults::clear();
            ended_in.insert(fixture.kinds().len());
            assert_eq!(bytes_of(&log), bytes, "the log goes on whatever fails");
            drop((log, dirs));
            let dirs = fixture.start();
            let log = dirs.get(&tp()).expect("loaded");
            assert_eq!(bytes_of(&log), bytes, "after {others} others");
            finish(&dirs);
            dirs.begin_move(&tp(), fixture.path(to), 0).expect("asked again");
            finish(&dirs);
            assert_eq!(fixture.kinds(), [(to, DirKind::Live)]);
            assert_eq!(bytes_of(&log), bytes);
            if !has_failed {
                break;
            }
        }
    }
    assert!(ended_in.contains(&2), "{ended_in:?}");
}

/// As a kill leaves it while both directories have the name: the one that the log goes to is shorter until it has moved, and
/// the one that it comes from afterwards.
#[test]
fn of_two_directories_of_one_name_the_longer_one_is_the_log() {
    let copy_dir = |from: &PathBuf, to: &PathBuf| {
        fs::create_dir(to).expect("writable");
        for name in names_in(from) {
            fs::copy(from.join(&name), to.join(&name)).expect("writable");
        }
    };
    for (old_batches, new_batches) in [(5, 3), (5, 5), (3, 5)] {
        let fixture = Fixture::new(2);
        let dirs = fixture.start();
        let log = create(&dirs);
        let from = usize::from(log.parent_dir() == fixture.config.dirs[1]);
        let (old, new) = (fixture.config.dirs[from].join("t-0"), fixture.config.dirs[1 - from].join("t-0"));
        let mut longest = Vec::new();
        for batches in 1..=5 {
            if batches - 1 == new_batches.min(old_batches) && old_batches != new_batches {
                // The shorter one stays as it is here.
                log.write_small_files().expect("written");
                copy_dir(&old, &new);
            }
            fill(&log, 1);
            longest = bytes_of(&log);
        }
        log.write_small_files().expect("written");
        if old_batches == new_batches {
            copy_dir(&old, &new);
        }
        drop((log, dirs));
        if new_batches > old_batches {
            // What is old is the shorter one: they change places, with what was made later staying where it is.
            let (a, b) = (fixture.config.dirs[0].join("aside"), new.clone());
            fs::rename(&old, &a).expect("writable");
            let files: Vec<String> = names_in(&b);
            for name in files {
                fs::remove_file(b.join(&name)).expect("writable");
            }
            for name in names_in(&a) {
                fs::copy(a.join(&name), b.join(&name)).expect("writable");
            }
            fs::rename(&a, &old).expect("writable");
            let segments: Vec<String> = names_in(&old).into_iter().filter(|name| name.ends_with(".log")).collect();
            let last = old.join(segments.last().expect("a segment"));
            let bytes = fs::metadata(&last).expect("there").len();
            let batch_bytes = (longest.len() / 5) as u64;
            fs::OpenOptions::new()
                .write(true)
                .open(&last)
                .and_then(|file| file.set_len(bytes - batch_bytes))
                .expect("writable");
        }
        let dirs = fixture.start();
        assert_eq!(bytes_of(&dirs.get(&tp()).expect("loaded")), longest, "{old_batches} and {new_batches}");
        let expected = if old_batches > new_batches {
            vec![(from, DirKind::Live), (1 - from, DirKind::Future)]
        } else {
            vec![(1 - from, DirKind::Live)]
        };
        let mut kinds = fixture.kinds();
        kinds.sort_by_key(|(at, _)| *at != expected[0].0);
        assert_eq!(kinds, expected, "{old_batches} and {new_batches}");
        assert_eq!(dirs.logs().len(), 1);
        finish(&dirs);
        assert_eq!(fixture.kinds(), [(1 - from, DirKind::Live)]);
        assert_eq!(bytes_of(&dirs.get(&tp()).expect("there")), longest);
    }
}

#[test]
fn two_logs_that_part_stop_the_start() {
    let fixture = Fixture::new(2);
    let dirs = fixture.start();
    let log = create(&dirs);
    let from = usize::from(log.parent_dir() == fixture.config.dirs[1]);
    append_in_epoch(&log, batch(&[1], 5), 1).expect("appended");
    log.write_small_files().expect("written");
    let (old, new) = (fixture.config.dirs[from].join("t-0"), fixture.config.dirs[1 - from].join("t-0"));
    fs::create_dir(&new).expect("writable");
    for name in names_in(&old) {
        fs::copy(old.join(&name), new.join(&name)).expect("writable");
    }
    log.truncate_to(Offset(0), log.leader_epoch(), 0).expect("cut");
    append_in_epoch(&log, batch(&[1], 5), 2).expect("appended");
    append_in_epoch(&log, batch(&[1], 5), 2).expect("appended");
    log.write_small_files().expect("written");
    drop((log, dirs));
    let (sender, _) = unbounded_channel();
    let dirs = LogDirs::open(&fixture.config, sender, Arc::default()).expect("openable");
    let refused = dirs.load(&|_| Arc::new(small_segments()), 0, &|_| {});
    assert!(
        matches!(&refused, Err(LogError::StartRefused { context }) if context.contains("which parted")),
        "{refused:?}"
    );
}

#[test]
fn a_move_is_given_up_for_another_or_for_where_the_log_is() {
    let fixture = Fixture::new(3);
    let dirs = fixture.start();
    let log = create(&dirs);
    fill(&log, 10);
    let from = fixture.config.dirs.iter().position(|dir| *dir == log.parent_dir()).expect("one of them");
    let (to, third) = ((from + 1) % 3, (from + 2) % 3);
    dirs.begin_move(&tp(), fixture.path(to), 0).expect("asked");
    assert!(matches!(dirs.move_on(&tp(), true, 0), Ok(Step::Copied(bytes)) if bytes > 0));
    assert_eq!(dirs.begin_move(&tp(), fixture.path(third), 0).expect("asked"), MoveBegun::Moving);
    assert_eq!(fixture.kinds().len(), 2, "the log and one copy");
    assert_eq!(dirs.begin_move(&tp(), fixture.path(from), 0).expect("asked"), MoveBegun::Already);
    assert_eq!(fixture.kinds(), [(from, DirKind::Live)]);
    assert_eq!(dirs.move_on(&tp(), false, 0).expect("nothing is left to do"), Step::Over);
    dirs.begin_move(&tp(), fixture.path(to), 0).expect("asked");
    assert!(dirs.delete(&[tp()], 0).remove(0).expect("deleted"));
    assert_eq!(fixture.kinds(), []);
    assert_eq!(dirs.move_on(&tp(), false, 0).expect("nothing is left to do"), Step::Over);
    // It is wanted there, though it is not here.
    assert_eq!(dirs.begin_move(&tp(), fixture.path(third), 0).expect("asked"), MoveBegun::NotHere);
    assert_eq!(create(&dirs).parent_dir(), fixture.config.dirs[third]);
}

#[test]
fn what_a_truncation_takes_from_a_log_is_taken_from_its_copy() {
    let fixture = Fixture::new(2);
    let dirs = fixture.start();
    let log = create(&dirs);
    let to = usize::from(log.parent_dir() == fixture.config.dirs[0]);
    fill(&log, 20);
    dirs.begin_move(&tp(), fixture.path(to), 0).expect("asked");
    while dirs.get_future(&tp()).expect("there").log_end_offset() < Offset(20) {
        // Steps are longer than the log: only some of it is taken at a time.
        let future = dirs.get_future(&tp()).expect("there");
        future.copy_from(&log, 300, 0).expect("copied");
    }
    log.truncate_to(Offset(7), log.leader_epoch(), 0).expect("cut");
    for _ in 0..20 {
        append_in_epoch(&log, batch(&[5], 70), 4).expect("appended");
    }
    finish(&dirs);
    assert_eq!(fixture.kinds(), [(to, DirKind::Live)]);
    let bytes = bytes_of(&log);
    drop((log, dirs));
    // A copy that a start finds is compared by its epochs.
    let dirs = fixture.start();
    let log = dirs.get(&tp()).expect("loaded");
    assert_eq!(bytes_of(&log), bytes);
    dirs.begin_move(&tp(), fixture.path(1 - to), 0).expect("asked");
    let future = dirs.get_future(&tp()).expect("there");
    while future.copy_from(&log, 300, 0).expect("copied").bytes > 0 {}
    drop(future);
    drop((log, dirs));
    let dirs = fixture.start();
    let log = dirs.get(&tp()).expect("loaded");
    log.truncate_to(Offset(9), log.leader_epoch(), 0).expect("cut");
    log.locked().cut_at = None;
    for _ in 0..20 {
        append_in_epoch(&log, batch(&[5], 60), 6).expect("appended");
    }
    let bytes = bytes_of(&log);
    assert!(dirs.has_future(&tp()));
    finish(&dirs);
    assert_eq!(bytes_of(&log), bytes);
    assert_eq!(fixture.kinds(), [(1 - to, DirKind::Live)]);
    // Nor does it keep what the log has given up altogether.
    dirs.begin_move(&tp(), fixture.path(to), 0).expect("asked");
    dirs.get_future(&tp()).expect("there").copy_from(&log, 300, 0).expect("copied");
    log.truncate_fully_and_start_at(Offset(500), None, log.leader_epoch(), 0).expect("cut");
    finish(&dirs);
    assert_eq!((log.bounds().log_start_offset, log.log_end_offset()), (Offset(500), Offset(500)));
    append_in_epoch(&log, batch(&[5], 60), 6).expect("appended");
    assert_eq!(log.log_end_offset(), Offset(501));
}

/// Back and forth under an appender and a reader, which see one log.
#[test]
fn a_log_is_appended_to_and_read_while_it_moves() {
    let fixture = Fixture::new(2);
    let dirs = fixture.start();
    let log = create(&dirs);
    fill(&log, 1);
    let (stop, allowed) = (AtomicBool::new(false), AtomicI64::new(100));
    let mut moves = 0;
    std::thread::scope(|scope| {
        let appender = scope.spawn(|| {
            let mut appended = 1;
            while !stop.load(Ordering::Relaxed) {
                // All the time, and not without end.
                if appended >= allowed.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                    continue;
                }
                fill(&log, 1);
                appended += 1;
                if appended % 50 == 0 {
                    log.flush(0).expect("flushed");
                }
            }
            appended
        });
        let reader = scope.spawn(|| {
            let mut from = Offset(0);
            while !stop.load(Ordering::Relaxed) {
                for batch in Batches::new(&read_bytes(&log, from, 700)).map_while(Result::ok) {
                    assert_eq!(batch.header.base_offset, from.0);
                    from = Offset(batch.header.next_offset());
                }
            }
            from
        });
        while moves < 12 && !appender.is_finished() && !reader.is_finished() {
            let to = usize::from(log.parent_dir() == fixture.config.dirs[0]);
            assert_eq!(dirs.begin_move(&tp(), fixture.path(to), 0).expect("asked"), MoveBegun::Moving);
            let _ = dirs.move_on(&tp(), true, 0).expect("it goes on");
            allowed.fetch_add(100, Ordering::Relaxed);
            finish(&dirs);
            assert_eq!(fixture.kinds(), [(to, DirKind::Live)]);
            moves += 1;
        }
        stop.store(true, Ordering::Relaxed);
        let appended = appender.join().expect("it appends");
        reader.join().expect("it reads");
        assert_eq!(log.log_end_offset(), Offset(appended));
    });
    assert_eq!(moves, 12);
    let bytes = bytes_of(&log);
    let end = log.log_end_offset();
    drop((log, dirs));
    let dirs = fixture.start();
    let log = dirs.get(&tp()).expect("loaded");
    assert_eq!((log.log_end_offset(), bytes_of(&log) == bytes), (end, true));
}

/// As DeleteRecords leaves it.
#[test]
fn a_log_that_starts_within_a_batch_moves_with_all_of_that_batch() {
    let fixture = Fixture::new(2);
    let dirs = fixture.start();
    let log = create(&dirs);
    for first in [0, 3, 6] {
        append_in_epoch(&log, batch(&[first, first + 1, first + 2], 10), 0).expect("appended");
    }
    log.delete_records(Offset(4), LeaderEpoch(0)).expect("in range");
    let before = read_bytes(&log, Offset(4), 1 << 20);
    let to = 1 - usize::from(log.parent_dir().display().to_string() == fixture.path(1));
    assert_eq!(dirs.begin_move(&tp(), fixture.path(to), 0).expect("begun"), MoveBegun::Moving);
    finish(&dirs);
    assert_eq!(log.parent_dir().display().to_string(), fixture.path(to));
    assert_eq!((log.log_start_offset(), read_bytes(&log, Offset(4), 1 << 20)), (Offset(4), before));
}

#[test]
fn a_start_knows_one_log_in_two_directories_though_one_lacks_the_first_batch_of_an_epoch() {
    let fixture = Fixture::new(2);
    let (one, other) = (fixture.start_with(&[0]), fixture.start_with(&[1]));
    let (log, copy) = (create(&one), create(&other));
    let written = OneLog::new(small_segments());
    let written = written.open_clean();
    fill(&written, 3);
    written.lead(LeaderEpoch(1)).expect("led");
    fill(&written, 2);
    // The log knows where the epoch began, compaction took its first batch, and then the copy was made.
    for (header, bytes) in read_all(&written) {
        if header.base_offset == 3 {
            log.lead(LeaderEpoch(1)).expect("led");
            copy.follow(LeaderEpoch(1)).expect("followed");
            continue;
        }
        for log in [&log, &copy] {
            log.append_as_follower(&bytes, log.leader_epoch(), log.log_end_offset(), 0).expect("appended");
        }
    }
    assert_ne!(log.epochs(), copy.epochs());
    one.shutdown(0);
    other.shutdown(0);
    drop((one, other, log, copy));
    let dirs = fixture.start();
    assert_eq!(dirs.get(&tp()).expect("one of them").log_end_offset(), Offset(5));
}

/// Its segments may be larger in the other directory.
#[test]
fn what_was_compacted_below_the_active_segment_counts_as_compacted_after_a_move() {
    let fixture = Fixture::new(2);
    let dirs = fixture.start();
    let log = create(&dirs);
    fill(&log, 30);
    log.set_cleaned_to(Some(Offset(20)));
    let to = 1 - fixture.dir_of(&log);
    log.set_config(Arc::new(LogConfig { segment_bytes: 1 << 20, ..small_segments() }));
    dirs.begin_move(&tp(), fixture.path(to), 0).expect("asked");
    finish(&dirs);
    assert_eq!((log.segment_count(), log.cleaned_to()), (1, Some(Offset(0))));
}

#[test]
fn a_copy_is_given_up_for_a_log_in_the_same_directory_or_one_made_anew() {
    // The disk that had the log is taken away.
    let fixture = Fixture::new(2);
    let (_, to) = begin(&fixture);
    let dirs = fixture.start_with(&[to]);
    assert!(dirs.has_future(&tp()));
    let log = create(&dirs);
    assert_eq!((fixture.dir_of(&log), log.log_end_offset(), dirs.has_future(&tp())), (to, Offset(0), false));
    assert_eq!(fixture.kinds().iter().filter(|(dir, _)| *dir == to).count(), 1);
    dirs.checkpoint_recovery_points();
    let checkpoint = fixture.config.dirs[to].join("recovery-point-offset-checkpoint");
    assert_eq!(fs::read_to_string(checkpoint).expect("written"), "0\n1\nt 0 0\n");
    assert_eq!(dirs.begin_move(&tp(), fixture.path(to), 0).expect("asked"), MoveBegun::Already);

    // A person has put the log where the copy is.
    let fixture = Fixture::new(2);
    let (from, to) = begin(&fixture);
    let dir = |at: usize| fixture.config.dirs[at].join("t-0");
    fs::rename(dir(from), dir(to)).expect("writable");
    let dirs = fixture.start();
    assert_eq!((fixture.kinds(), dirs.has_future(&tp())), (vec![(to, DirKind::Live)], false));
    assert_eq!(dirs.get(&tp()).expect("loaded").log_end_offset(), Offset(25));
}

#[test]
fn a_copy_of_another_topic_of_that_name_is_given_up() {
    let fixture = Fixture::new(2);
    let (from, to) = begin(&fixture);
    fs::remove_dir_all(fixture.config.dirs[from].join("t-0")).expect("removable");
    let dirs = fixture.start_with(&[from]);
    let id = Some(TopicId(uuid(8)));
    let log = dirs.get_or_create(&tp(), id, Arc::new(small_segments()), true, 0).expect("creatable");
    fill(&log, 3);
    let bytes = bytes_of(&log);
    drop((log, dirs));
    let dirs = fixture.start();
    let log = dirs.get(&tp()).expect("loaded");
    finish(&dirs);
    assert_eq!((bytes_of(&log), fixture.kinds()), (bytes.clone(), vec![(from, DirKind::Live)]));
    dirs.begin_move(&tp(), fixture.path(to), 0).expect("asked");
    finish(&dirs);
    assert_eq!((bytes_of(&log), fixture.kinds()), (bytes, vec![(to, DirKind::Live)]));
    assert_eq!(log.topic_id(), id);
}

/// Partitions share these locks.
#[test]
fn what_the_end_of_a_move_does_under_the_lock_does_not_grow_with_the_log() {
    let syncs_for = |batches: i64| {
        let fixture = Fixture::new(2);
        let dirs = Arc::new(fixture.start());
        let log = create(&dirs);
        fill(&log, batches);
        let to = 1 - fixture.dir_of(&log);
        dirs.begin_move(&tp(), fixture.path(to), 0).expect("asked");
        let (seen, watched) = (Rc::new(Cell::new(0)), Arc::clone(&dirs));
        let count = Rc::clone(&seen);
        faults::watch(Some(Box::new(move |op| {
            if op == Op::Sync && watched.is_placing(&tp()) {
                count.set(count.get() + 1);
            }
        })));
        finish(&dirs);
        faults::watch(None);
        assert_eq!(fixture.kinds(), [(to, DirKind::Live)]);
        seen.get()
    };
    assert_eq!(syncs_for(10), syncs_for(100));
}

/// As a follower does whose leader has changed, in the middle of the end of a move; and then the broker crashes.
#[test]
fn a_log_is_not_cut_while_two_directories_have_its_name() {
    for at in 0..40 {
        let fixture = Fixture::new(2);
        let (from, to) = begin(&fixture);
        let dirs = fixture.start();
        let log = dirs.get(&tp()).expect("loaded");
        let end = log.log_end_offset().0;
        let (old, new) = (fixture.config.dirs[from].clone(), fixture.config.dirs[to].clone());
        let crashed = Fixture::new(2);
        let copy = (crashed.config.dirs[from].clone(), crashed.config.dirs[to].clone());
        let (events, cut) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(None)));
        let (counted, cut_at, watched) = (Rc::clone(&events), Rc::clone(&cut), Arc::clone(&log));
        faults::watch(Some(Box::new(move |op| {
            if !matches!(op, Op::Rename | Op::Sync) || !new.join("t-0").exists() {
                return;
            }
            counted.set(counted.get() + 1);
            // Whoever truncates waits for this lock.
            if counted.get() != at + 1 || watched.renaming.try_lock().is_err() {
                return;
            }
            watched.truncate_to(Offset(end - 5), watched.leader_epoch(), 0).expect("cut");
            for _ in 0..2 {
                append_in_epoch(&watched, batch(&[5], 70), 6).expect("appended");
            }
            cut_at.set(Some(bytes_of(&watched)));
            copy_tree(&old, &copy.0);
            copy_tree(&new, &copy.1);
        })));
        finish(&dirs);
        faults::watch(None);
        let Some(bytes) = cut.take() else {
            if events.get() <= at {
                return;
            }
            continue;
        };
        assert_eq!(bytes_of(&log), bytes, "event {at}");
        let dirs = crashed.start();
        let log = dirs.get(&tp()).expect("loaded");
        assert_eq!(bytes_of(&log), bytes, "event {at}");
    }
    panic!("a move has fewer steps");
}

#[test]
fn nothing_is_left_of_what_was_deleted_from_a_copy() {
    let fixture = Fixture::new(2);
    let dirs = fixture.start();
    let log = create(&dirs);
    fill(&log, 30);
    log.delete_records(Offset(25), LeaderEpoch(0)).expect("in range");
    dirs.tick_retention(0);
    assert!(log.log_start_offset() > Offset(20));
    let to = 1 - fixture.dir_of(&log);
    dirs.begin_move(&tp(), fixture.path(to), 0).expect("asked");
    finish(&dirs);
    dirs.tick_deletions(i64::MAX);
    let left = names_in(&log.dir());
    assert!(left.iter().all(|name| !name.ends_with(".deleted")), "{left:?}");
}

/// `segment.bytes` has been lowered since they were written.
#[test]
fn batches_that_are_larger_than_a_segment_may_be_are_moved_too() {
    let fixture = Fixture::new(2);
    let dirs = fixture.start();
    let log = create(&dirs);
    for bytes in [700, 20, 20, 900, 800, 20] {
        append_in_epoch(&log, batch(&[1], bytes), 0).expect("appended");
    }
    log.set_config(Arc::new(LogConfig { segment_bytes: 300, ..small_segments() }));
    let bytes = bytes_of(&log);
    let to = 1 - fixture.dir_of(&log);
    dirs.begin_move(&tp(), fixture.path(to), 0).expect("asked");
    finish(&dirs);
    assert_eq!((fixture.dir_of(&log), bytes_of(&log) == bytes), (to, true));
}

#[test]
fn two_directories_that_cannot_be_told_apart_cost_their_partition_and_not_the_start() {
    let fixture = Fixture::new(2);
    let other = TopicPartition::new("u", 0);
    let dirs = fixture.start();
    dirs.get_or_create(&other, None, Arc::new(small_segments()), true, 0).expect("creatable");
    drop(dirs);
    let (from, to) = begin(&fixture);
    let path = |dir: usize, name: &str| fixture.config.dirs[dir].join(name);
    let give_up_copy = || {
        let dirs = fixture.start();
        dirs.begin_move(&tp(), fixture.path(from), 0).expect("asked");
    };
    give_up_copy();
    // This thread renames nothing else at a start.
    let start_failing = || {
        let (sender, _) = unbounded_channel();
        let dirs = LogDirs::open(&fixture.config, sender, Arc::default()).expect("openable");
        faults::fail(Op::Rename, 0);
        dirs.load(&|_| Arc::new(small_segments()), 0, &|_| {}).expect("the others are served");
        assert!(!faults::clear());
        dirs
    };
    copy_tree(&path(from, "t-0"), &path(to, "t-0"));
    let dirs = start_failing();
    assert!(!dirs.get(&other).expect("loaded").is_offline());
    assert!(dirs.get(&tp()).expect("known").is_offline());
    assert_eq!(dirs.live_dirs().len(), 2);
    dirs.checkpoint_recovery_points();
    drop(dirs);
    // The one that was made later goes on.
    let dirs = fixture.start();
    let log = dirs.get(&tp()).expect("loaded");
    assert_eq!((fixture.dir_of(&log), log.log_end_offset()), (to, Offset(25)));
    drop((log, dirs));
    // Whoever deletes it deletes it everywhere.
    copy_tree(&path(to, "t-0"), &path(from, "t-0"));
    let dirs = start_failing();
    assert!(dirs.delete(&[tp()], 0).remove(0).expect("deleted"));
    assert_eq!(fixture.kinds().len(), 1, "the other partition's");
}

/// Compaction has taken what was before the active segment, which is empty.
#[test]
fn a_log_that_goes_on_behind_its_last_batch_moves() {
    let fixture = Fixture::new(2);
    let dirs = fixture.start();
    let log = create(&dirs);
    fill(&log, 10);
    {
        let mut state = log.locked();
        state.roll(Offset(15), 0).expect("rolled");
        state.log_end_offset = Offset(15);
    }
    log.flush(0).expect("flushed");
    let to = 1 - fixture.dir_of(&log);
    dirs.begin_move(&tp(), fixture.path(to), 0).expect("asked");
    let steps = (0..10).map(|step| dirs.move_on(&tp(), step == 0, 0).expect("it goes on"));
    assert!(steps.into_iter().any(|step| step == Step::Over));
    assert_eq!((fixture.dir_of(&log), log.log_end_offset(), log.recovery_point()), (to, Offset(15), Offset(15)));
    drop((log, dirs));
    assert_eq!(fixture.start().get(&tp()).expect("loaded").log_end_offset(), Offset(15));
}

/// One that a move was not finished with has the log's name too.
#[test]
fn of_two_directories_the_shorter_is_not_served_while_the_longer_cannot_be_opened() {
    let fixture = Fixture::new(2);
    let dirs = fixture.start();
    let log = create(&dirs);
    fill(&log, 5);
    log.write_small_files().expect("written");
    let from = fixture.dir_of(&log);
    copy_tree(&log.dir(), &fixture.config.dirs[1 - from].join("t-0"));
    fill(&log, 20);
    log.write_small_files().expect("written");
    let bytes = bytes_of(&log);
    let longer = log.dir();
    drop((log, dirs));
    let too_many_files = faults::below(&longer, |op, _| if op == Op::List { Err(Errno::MFILE.into()) } else { Ok(()) });
    let dirs = fixture.start();
    assert!(dirs.get(&tp()).is_none(), "the shorter one");
    let open = || dirs.get_or_create(&tp(), None, Arc::new(small_segments()), false, 0);
    open().expect_err("it cannot be opened yet");
    dirs.checkpoint_recovery_points();
    assert!(dirs.get(&tp()).is_none(), "still the shorter one");
    drop(too_many_files);
    let log = open().expect("both can be opened");
    assert_eq!((fixture.dir_of(&log), bytes_of(&log) == bytes), (from, true));
    let mut kinds = fixture.kinds();
    kinds.sort_by_key(|(dir, _)| *dir != from);
    assert_eq!(kinds, [(from, DirKind::Live), (1 - from, DirKind::Future)]);
    finish(&dirs);
    assert_eq!((fixture.kinds(), bytes_of(&log) == bytes), (vec![(1 - from, DirKind::Live)], true));
}

#[test]
fn a_copy_that_fails_for_itself_is_begun_anew() {
    let fixture = Fixture::new(2);
    let (_, to) = begin(&fixture);
    let dirs = fixture.start();
    let log = dirs.get(&tp()).expect("loaded");
    let bytes = bytes_of(&log);
    dirs.get_future(&tp()).expect("found").fail(&LogError::Corrupt { context: "on purpose".to_string() });
    finish(&dirs);
    assert_eq!((fixture.kinds(), bytes_of(&log) == bytes), (vec![(to, DirKind::Live)], true));
    assert_eq!(log.cleaning_pauses.load(Ordering::Relaxed), 0);
}

#[test]
fn compaction_leaves_a_log_alone_whose_copy_a_start_has_found() {
    let fixture = Fixture::new(2);
    begin(&fixture);
    let dirs = fixture.start();
    let log = dirs.get(&tp()).expect("loaded");
    assert_eq!(log.cleaning_pauses.load(Ordering::Relaxed), 1);
    finish(&dirs);
    assert_eq!(log.cleaning_pauses.load(Ordering::Relaxed), 0);
}

#[test]
fn too_many_open_files_at_the_end_of_a_move_cost_no_log() {
    let fixture = Fixture::new(2);
    let (from, to) = begin(&fixture);
    let dirs = fixture.start();
    let log = dirs.get(&tp()).expect("loaded");
    // So that something is left to be flushed when the log has moved.
    let appended = Arc::clone(&log);
    let _appending = faults::below(&fixture.config.dirs[from], move |op, _| {
        if op == Op::Rename {
            fill(&appended, 1);
        }
        Ok(())
    });
    let (moved, left) = (fixture.config.dirs[to].join("t-0"), Arc::new(AtomicI64::new(8)));
    let failures = Arc::clone(&left);
    let _too_many_files = faults::below(&fixture.config.dirs[to], move |op, path| {
        let fails = op == Op::Open && path == moved && failures.fetch_sub(1, Ordering::Relaxed) > 0;
        if fails { Err(Errno::MFILE.into()) } else { Ok(()) }
    });
    finish(&dirs);
    assert!(left.load(Ordering::Relaxed) < 0, "it was flushed there");
    assert!(!log.is_offline());
    assert_eq!(fixture.kinds(), [(to, DirKind::Live)]);
}

/// A loss of power would bring it back.
#[test]
fn the_disk_knows_that_the_old_directory_has_gone_before_the_log_can_be_cut() {
    let fixture = Fixture::new(2);
    let (from, _) = begin(&fixture);
    let dirs = fixture.start();
    let log = dirs.get(&tp()).expect("loaded");
    let root = fixture.config.dirs[from].clone();
    let (seen, watched) = (Arc::new(Mutex::new(Vec::new())), Arc::clone(&log));
    let noted = Arc::clone(&seen);
    let _watch = faults::below(&root, move |op, path| {
        if matches!(op, Op::Rename | Op::Sync) {
            let may_be_cut = watched.renaming.try_lock().is_ok();
            noted.lock().expect("unpoisoned").push((op, path.to_path_buf(), may_be_cut));
        }
        Ok(())
    });
    finish(&dirs);
    let seen = seen.lock().expect("unpoisoned");
    let gone = seen.iter().position(|(op, path, _)| (*op, path) == (Op::Rename, &root.join("t-0"))).expect("renamed");
    assert!(seen[gone..].contains(&(Op::Sync, root, false)), "{:?}", &seen[gone..]);
}

#[test]
fn a_copy_does_not_go_on_behind_damage() {
    // In the middle of the log, and in its last segment.
    for batches in [25, 3] {
        let fixture = Fixture::new(2);
        let dirs = fixture.start();
        let log = create(&dirs);
        fill(&log, batches);
        let from = fixture.dir_of(&log);
        dirs.begin_move(&tp(), fixture.path(1 - from), 0).expect("asked");
        let future = dirs.get_future(&tp()).expect("there");
        future.copy_from(&log, 300, 0).expect("copied");
        let next = future.log_end_offset();
        assert!(next < Offset(3));
        let region = log.read(next, 300, ReadUntil::LogEnd, FirstBatch::Whole).expect("sound").region.expect("there");
        region.file.write_all_at(&[0xff; 4], region.position + 8).expect("writable");
        let step = future.copy_from(&log, 300, 0);
        assert!(matches!(&step, Err(LogError::Corrupt { context }) if context.contains("no further")), "{step:?}");
        assert!(matches!(dirs.move_on(&tp(), true, 0), Err(LogError::Corrupt { .. })));
        assert!(!log.is_offline() && dirs.has_future(&tp()));
    }
}

/// The copy is on a disk that fails while an append to another log there waits for it.
#[test]
fn a_log_is_compacted_again_whose_copy_was_on_a_disk_that_has_failed_and_hangs() {
    let fixture = Fixture::new(2);
    let dirs = Arc::new(fixture.start());
    let log = create(&dirs);
    fill(&log, 5);
    let id = Some(TopicId(uuid(8)));
    let other = TopicPartition::new("u", 0);
    let other = dirs.get_or_create(&other, id, Arc::new(small_segments()), true, 0).expect("creatable");
    fill(&other, 1);
    let to = fixture.dir_of(&other);
    assert_ne!(fixture.dir_of(&log), to);
    dirs.begin_move(&tp(), fixture.path(to), 0).expect("asked");
    assert_eq!(log.cleaning_pauses.load(Ordering::Relaxed), 1);
    let gate = Arc::new(Gate::default());
    let at_gate = Arc::clone(&gate);
    let _fault = faults::below(&fixture.config.dirs[to], move |op, path| match op {
        Op::WriteAt if path.to_string_lossy().contains("u-0") => {
            at_gate.pass();
            Ok(())
        }
        Op::WriteAt => Err(Errno::IO.into()),
        _ => Ok(()),
    });
    let appending = std::thread::spawn({
        let other = Arc::clone(&other);
        move || drop(append_in_epoch(&other, batch(&[1], 100), 0))
    });
    let until = |is_so: &dyn Fn() -> bool| {
        let began = std::time::Instant::now();
        while !is_so() {
            assert!(began.elapsed().as_secs() < 60, "not within a minute");
            std::thread::yield_now();
        }
    };
    until(&|| other.is_held_up());
    assert!(dirs.get_future(&tp()).expect("there").copy_from(&log, 300, 0).is_err());
    let dropping = std::thread::spawn({
        let (dirs, failed) = (Arc::clone(&dirs), fixture.config.dirs[to].clone());
        move || dirs.drop_offline_logs(&failed)
    });
    until(&|| log.cleaning_pauses.load(Ordering::Relaxed) == 0);
    assert!(!gate.is_open() && !dropping.is_finished(), "the disk has not answered");
    gate.open();
    appending.join().expect("no panic");
    assert_eq!(dropping.join().expect("no panic").len(), 2);
}
