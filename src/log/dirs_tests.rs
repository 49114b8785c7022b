//! The rules of log dirs as a whole.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::dirs::LogDirs;
use super::dirs::startup::LoadProgress;
use super::error::LogError;
use super::files::faults::{self, Op, fail};
use super::testing::*;
use crate::config::log::LogConfig;
use crate::config::sections::LogDirsConfig;
use crate::model::{BrokerId, Offset, TopicId, TopicPartition};

struct Fixture {
    _root: TempDir,
    config: LogDirsConfig,
}

impl Fixture {
    fn new(dirs: usize) -> Fixture {
        let root = tempfile::tempdir().expect("a temporary directory");
        let dirs: Vec<PathBuf> = (0..dirs).map(|i| root.path().join(format!("d{i}"))).collect();
        let config = LogDirsConfig {
            dirs,
            num_recovery_threads_per_data_dir: 2,
            topic_defaults: small_segments(),
            ..LogDirsConfig::default()
        };
        Fixture { _root: root, config }
    }

    fn open(&self) -> (LogDirs, UnboundedReceiver<PathBuf>) {
        let (sender, failures) = unbounded_channel();
        (LogDirs::open(&self.config, sender, Arc::default()).expect("openable"), failures)
    }

    fn start(&self) -> (LogDirs, UnboundedReceiver<PathBuf>) {
        let (dirs, failures) = self.open();
        load(&dirs).expect("loadable");
        (dirs, failures)
    }

    fn path(&self, dir: usize, name: &str) -> PathBuf {
        self.config.dirs[dir].join(name)
    }
}

fn load(dirs: &LogDirs) -> Result<(), LogError> {
    dirs.load(&|_| Arc::new(small_segments()), 0, &|_| {})
}

fn create(dirs: &LogDirs, topic: &str, partition: i32) -> Arc<super::Log> {
    let tp = TopicPartition::new(topic, partition);
    dirs.get_or_create(&tp, None, Arc::new(small_segments()), true, 0).expect("creatable")
}

#[test]
fn logs_go_to_the_directory_with_the_fewest_and_survive_both_kinds_of_restart() {
    let fixture = Fixture::new(2);
    let (dirs, _failures) = fixture.start();
    for partition in 0..6 {
        let log = create(&dirs, "t", partition);
        for i in 0..=i64::from(partition) {
            append(&log, batch(&[i], 100)).expect("appended");
        }
    }
    let in_first = dirs.logs().iter().filter(|log| log.parent_dir() == fixture.config.dirs[0]).count();
    assert_eq!(in_first, 3);
    dirs.checkpoint_high_watermarks();
    let log = dirs.get(&TopicPartition::new("t", 5)).expect("there");
    log.delete_records(Offset(2), log.leader_epoch()).expect("deleted");
    drop(log);
    dirs.shutdown(0);
    assert!(fixture.path(0, ".kafka_cleanshutdown").exists());
    let marker = fs::read_to_string(fixture.path(1, ".kafka_cleanshutdown")).expect("readable");
    assert_eq!(marker, r#"{"version":0,"brokerEpoch":-1}"#);
    drop(dirs);

    for clean in [true, false] {
        let (dirs, _failures) = fixture.open();
        let seen = Mutex::new(Vec::new());
        dirs.load(&|_| Arc::new(small_segments()), 0, &|p: LoadProgress| seen.lock().expect("unpoisoned").push(p))
            .expect("loadable");
        assert!(!fixture.path(0, ".kafka_cleanshutdown").exists());
        let last = seen.lock().expect("unpoisoned").last().copied().expect("progress");
        assert_eq!((last.logs_total, last.logs_loaded), (6, 6));
        assert_eq!(last.segments_recovered == 0, clean, "{last:?}");
        for partition in 0..6 {
            let log = dirs.get(&TopicPartition::new("t", partition)).expect("loaded");
            assert_eq!(log.log_end_offset(), Offset(i64::from(partition) + 1));
            assert_eq!(log.high_watermark(), log.log_end_offset(), "from the checkpoint");
        }
        let start = dirs.get(&TopicPartition::new("t", 5)).expect("loaded").log_start_offset();
        assert_eq!(start, Offset(2));
        if clean {
            // The next start finds no marker, as after a crash.
            dirs.checkpoint_log_start_offsets();
        }
    }
}

#[test]
fn a_pass_ends_when_the_broker_stops_and_what_it_has_not_written_is_written_as_the_logs_are_closed() {
    let fixture = Fixture::new(1);
    let (dirs, _failures) = fixture.start();
    let dirs = Arc::new(dirs);
    for partition in 0..20 {
        create(&dirs, "t", partition).assign_topic_id(TopicId::random()).expect("it has none yet");
    }
    let written = || (0..20).filter(|i| fixture.path(0, &format!("t-{i}/partition.metadata")).exists()).count();
    let stopping = Arc::clone(&dirs);
    let fault = faults::below(&fixture.config.dirs[0], move |op, _| {
        if op == Op::Rename {
            stopping.end_passes();
        }
        Ok(())
    });
    dirs.tick_flush(1000);
    assert_eq!(written(), 1);
    drop(fault);
    dirs.shutdown(0);
    assert_eq!(written(), 20);
    assert!(fixture.path(0, ".kafka_cleanshutdown").exists());
}

#[test]
fn a_directory_in_use_is_refused() {
    let fixture = Fixture::new(1);
    let (_dirs, _failures) = fixture.open();
    let (sender, _) = unbounded_channel();
    assert!(matches!(LogDirs::open(&fixture.config, sender, Arc::default()), Err(LogError::StartRefused { .. })));
}

#[test]
fn directories_belong_to_one_broker_of_one_cluster() {
    let fixture = Fixture::new(2);
    let (dirs, _failures) = fixture.open();
    assert_eq!((dirs.stored_broker_id().expect("new"), dirs.stored_cluster_id().expect("new")), (None, None));
    dirs.claim("cluster-a", BrokerId(3)).expect("claimed");
    drop(dirs);
    let text = fs::read_to_string(fixture.path(1, "meta.properties")).expect("written");
    assert!(
        text.contains("\nversion=0\n") && text.contains("\nbroker.id=3\n") && text.contains("\ncluster.id=cluster-a\n")
    );

    let (dirs, _failures) = fixture.open();
    assert_eq!(dirs.stored_broker_id().expect("agreed"), Some(BrokerId(3)));
    assert!(matches!(dirs.claim("cluster-b", BrokerId(3)), Err(LogError::StartRefused { .. })));
    assert!(matches!(dirs.claim("cluster-a", BrokerId(4)), Err(LogError::StartRefused { .. })));
    drop(dirs);
    fs::write(fixture.path(0, "meta.properties"), "version=0\nbroker.id=4\ncluster.id=cluster-a\n").expect("writable");
    let (dirs, _failures) = fixture.open();
    assert!(matches!(dirs.stored_broker_id(), Err(LogError::StartRefused { .. })));
    drop(dirs);
    fs::write(fixture.path(0, "meta.properties"), "version=1\nnode.id=4\ncluster.id=cluster-a\n").expect("writable");
    let (sender, _) = unbounded_channel();
    assert!(LogDirs::open(&fixture.config, sender, Arc::default()).is_err());
}

fn delete(dirs: &LogDirs, tp: &TopicPartition) -> Result<bool, LogError> {
    dirs.delete(std::slice::from_ref(tp), 1000).pop().expect("one outcome for one partition")
}

/// Each used to rename the other's temporary file away, and the directory went offline.
#[test]
fn checkpoints_are_written_one_at_a_time() {
    let fixture = Fixture::new(1);
    let (dirs, mut failures) = fixture.start();
    let partitions: Vec<TopicPartition> = (0..40).map(|partition| TopicPartition::new("t", partition)).collect();
    for tp in &partitions {
        create(&dirs, "t", tp.partition);
    }
    std::thread::scope(|scope| {
        let deletes = scope.spawn(|| {
            for tp in &partitions {
                assert!(delete(&dirs, tp).expect("deleted"));
            }
        });
        while !deletes.is_finished() {
            dirs.checkpoint_high_watermarks();
            dirs.checkpoint_recovery_points();
        }
    });
    assert!(failures.try_recv().is_err(), "no directory failed");
    dirs.checkpoint_high_watermarks();
    let written = fs::read_to_string(fixture.path(0, "replication-offset-checkpoint")).expect("readable");
    assert_eq!(written, "0\n0\n");
}

#[test]
fn a_deleted_log_is_gone_at_once_and_its_files_after_the_delay() {
    let fixture = Fixture::new(1);
    let (dirs, _failures) = fixture.start();
    let log = create(&dirs, "t", 0);
    append(&log, batch(&[1], 5)).expect("appended");
    let tp = TopicPartition::new("t", 0);
    assert!(delete(&dirs, &tp).expect("deleted"));
    assert!(!delete(&dirs, &tp).expect("already"));
    assert!(matches!(append(&log, batch(&[1], 5)), Err(LogError::Closed)));
    let doomed = || names_in(&fixture.config.dirs[0]).iter().filter(|name| name.ends_with("-delete")).count();
    assert_eq!(doomed(), 1);
    dirs.tick_deletions(1000 + 59_999);
    assert_eq!(doomed(), 1);
    // The same partition again, while the old directory waits; and a start finds that one.
    create(&dirs, "t", 0);
    dirs.shutdown(0);
    drop((dirs, log));
    let (dirs, _failures) = fixture.start();
    assert_eq!(dirs.logs().len(), 1);
    dirs.tick_deletions(60_000);
    assert_eq!(doomed(), 0);
    assert_eq!(names_in(&fixture.config.dirs[0]).iter().filter(|name| *name == "t-0").count(), 1);
}

/// A JVM broker opens it once more, and takes a missing one for damage.
#[test]
fn a_deleted_log_has_its_indexes_after_a_clean_shutdown() {
    let fixture = Fixture::new(1);
    let (dirs, _failures) = fixture.start();
    append(&create(&dirs, "t", 0), batch(&[1], 5)).expect("appended");
    create(&dirs, "empty", 0);
    for topic in ["t", "empty"] {
        assert!(delete(&dirs, &TopicPartition::new(topic, 0)).expect("deleted"));
    }
    dirs.shutdown(0);
    let deleted = |name: &String| name.ends_with("-delete");
    for dir in names_in(&fixture.config.dirs[0]).into_iter().filter(deleted) {
        let names = names_in(&fixture.path(0, &dir));
        let [log, index] = ["log", "index"].map(|kind| names.contains(&format!("00000000000000000000.{kind}")));
        assert_eq!((log, index), (true, true), "{dir}: {names:?}");
    }
}

#[test]
fn a_log_whose_directory_cannot_be_renamed_is_known_until_it_can() {
    let fixture = Fixture::new(1);
    let (dirs, _failures) = fixture.start();
    let log = create(&dirs, "t", 0);
    for i in 0..20 {
        append(&log, batch(&[i], 100)).expect("appended");
    }
    let tp = log.topic_partition().clone();
    fail(Op::Rename, 0);
    assert!(delete(&dirs, &tp).is_err());
    assert!(matches!(append(&log, batch(&[1], 5)), Err(LogError::Closed)));
    assert!(dirs.get(&tp).is_none());
    dirs.checkpoint_high_watermarks();
    let checkpoint = fs::read_to_string(fixture.path(0, "replication-offset-checkpoint")).expect("written");
    assert_eq!(checkpoint, "0\n1\nt 0 20\n");
    // The files have not got their final form: a start that took them for clean would miss index entries.
    dirs.shutdown(0);
    assert!(!fixture.path(0, ".kafka_cleanshutdown").exists());
    assert!(delete(&dirs, &tp).expect("deleted now"));
    assert!(!fixture.path(0, "t-0").exists());
    assert!(!delete(&dirs, &tp).expect("gone"));
}

#[test]
fn what_the_disk_did_not_take_is_written_again() {
    let fixture = Fixture::new(1);
    let (dirs, _failures) = fixture.start();
    let log = create(&dirs, "t", 0);
    for i in 0..20 {
        append(&log, batch(&[i], 100)).expect("appended");
    }
    log.flush(0).expect("flushed");
    dirs.checkpoint_recovery_points();
    dirs.tick_flush(0);
    log.truncate_to(Offset(7), log.leader_epoch(), 0).expect("truncated");
    let checkpoint = || fs::read_to_string(fixture.path(0, "recovery-point-offset-checkpoint")).expect("written");
    let in_the_way = fixture.path(0, "recovery-point-offset-checkpoint.tmp");
    fs::create_dir(&in_the_way).expect("writable");
    dirs.tick_flush(0);
    fs::remove_dir(&in_the_way).expect("removable");
    assert_eq!(checkpoint(), "0\n1\nt 0 20\n");
    dirs.tick_flush(1000);
    assert_eq!(checkpoint(), "0\n1\nt 0 7\n");

    // Of a partition without records that fsync is the only one of the pass.
    create(&dirs, "t", 1);
    fail(Op::Sync, 0);
    dirs.tick_flush(2000);
    assert_eq!(dirs.live_dirs().len(), 1);
    assert_eq!(dirs.get(&TopicPartition::new("t", 1)).expect("there").parent().unwritten.take(3000).len(), 1);
}

#[test]
fn what_cannot_be_removed_now_is_removed_later() {
    let fixture = Fixture::new(1);
    let (dirs, _failures) = fixture.start();
    for partition in 0..2 {
        let tp = create(&dirs, "t", partition).topic_partition().clone();
        assert!(delete(&dirs, &tp).expect("deleted"));
    }
    let left = || names_in(&fixture.config.dirs[0]).iter().filter(|name| name.ends_with("-delete")).count();
    fail(Op::Removal, 0);
    dirs.tick_deletions(100_000);
    assert_eq!(left(), 1, "the other is removed all the same");
    dirs.tick_deletions(110_000);
    assert_eq!(left(), 1, "not at once");
    dirs.tick_deletions(160_000);
    assert_eq!(left(), 0);
}

/// The clock of the machine may have been ahead when they were deleted, or appended to.
#[test]
fn a_clock_that_is_set_back_keeps_neither_files_nor_what_is_to_be_flushed_for_longer() {
    const HOUR_MS: i64 = 3_600_000;
    let fixture = Fixture::new(1);
    let (dirs, _failures) = fixture.start();
    let doomed = || names_in(&fixture.config.dirs[0]).iter().filter(|name| name.ends_with("-delete")).count();
    create(&dirs, "t", 0);
    let deleted = dirs.delete(&[TopicPartition::new("t", 0)], 5 * HOUR_MS);
    assert_eq!(deleted.into_iter().map(|one| one.expect("deleted")).collect::<Vec<_>>(), [true]);
    dirs.tick_deletions(5 * HOUR_MS + 1);
    assert_eq!(doomed(), 1);
    dirs.tick_deletions(HOUR_MS);
    assert_eq!(doomed(), 0);

    let log = create(&dirs, "flushed", 0);
    log.set_config(Arc::new(LogConfig { flush_ms: 1000, ..LogConfig::clone(&log.config()) }));
    append(&log, batch(&[1], 5)).expect("appended");
    log.flush(5 * HOUR_MS).expect("flushed");
    append(&log, batch(&[2], 5)).expect("appended");
    dirs.tick_flush(5 * HOUR_MS + 999);
    assert!(log.recovery_point() < log.log_end_offset());
    dirs.tick_flush(HOUR_MS);
    assert_eq!(log.recovery_point(), log.log_end_offset());
}

#[test]
fn a_partition_whose_small_files_cannot_be_written_costs_the_others_nothing() {
    let fixture = Fixture::new(1);
    let (dirs, _failures) = fixture.start();
    let in_the_way = |partition: i32| fixture.path(0, &format!("t-{partition}/leader-epoch-checkpoint.tmp"));
    let written = |partition: i32| fixture.path(0, &format!("t-{partition}/leader-epoch-checkpoint")).exists();
    for partition in 0..4 {
        for i in 0..20 {
            append(&create(&dirs, "t", partition), batch(&[i], 100)).expect("appended");
        }
    }
    for bad in [0, 2] {
        fs::create_dir(in_the_way(bad)).expect("writable");
    }
    dirs.tick_flush(0);
    assert_eq!([0, 1, 2, 3].map(written), [false, true, false, true]);
    let recovery_point = |partition: i32| create(&dirs, "t", partition).recovery_point().0;
    assert_eq!([0, 1, 2, 3].map(|partition| recovery_point(partition) > 0), [false, true, false, true]);
    fs::remove_dir(in_the_way(0)).expect("removable");
    dirs.tick_flush(999);
    assert!(!written(0), "not at once");
    dirs.tick_flush(1000);
    assert_eq!([0, 1, 2, 3].map(written), [true, true, false, true]);
    assert!(recovery_point(0) > 0);
}

#[test]
fn one_failed_directory_leaves_the_others_serving() {
    let fixture = Fixture::new(2);
    let (dirs, mut failures) = fixture.start();
    for partition in 0..4 {
        let log = create(&dirs, "t", partition);
        log.assign_topic_id(TopicId::random()).expect("written");
        append(&log, batch(&[1], 5)).expect("appended");
    }
    dirs.shutdown(0);
    drop(dirs);
    fs::write(fixture.path(0, "meta.properties"), "version=x").expect("writable");
    let (dirs, mut failures_at_start) = fixture.start();
    assert_eq!(failures_at_start.try_recv().expect("heard"), fixture.config.dirs[0]);
    assert_eq!(dirs.offline_dirs(), [fixture.config.dirs[0].clone()]);
    assert_eq!(dirs.logs().len(), 2);
    for log in dirs.logs() {
        append(&log, batch(&[1], 5)).expect("appended");
    }
    let tp = TopicPartition::new("u", 0);
    let refused = dirs.get_or_create(&tp, None, Arc::new(small_segments()), false, 0);
    assert!(matches!(refused, Err(LogError::Offline { .. })), "it may be in the failed directory");
    create(&dirs, "u", 0);
    assert!(failures.try_recv().is_err());
    drop(dirs);

    // All of them: nothing to run on.
    let file_in_the_way = Fixture::new(1);
    fs::create_dir_all(file_in_the_way.config.dirs[0].parent().expect("a parent")).expect("writable");
    fs::write(&file_in_the_way.config.dirs[0], "a file").expect("writable");
    let (sender, _) = unbounded_channel();
    assert!(matches!(
        LogDirs::open(&file_in_the_way.config, sender, Arc::default()),
        Err(LogError::StartRefused { .. })
    ));
}

#[test]
fn a_damaged_checkpoint_or_one_of_a_later_version_costs_a_recovery_and_nothing_else() {
    for damaged in ["garbage", "1\n1\nt 0 3 4\n", "0\n2\nt 0 3\n", "0\n1\nt 0 x\n"] {
        let fixture = Fixture::new(1);
        let (dirs, _failures) = fixture.start();
        append(&create(&dirs, "t", 0), batch(&[1, 2, 3], 5)).expect("appended");
        dirs.shutdown(0);
        drop(dirs);
        for name in ["recovery-point", "log-start", "replication"] {
            fs::write(fixture.path(0, &format!("{name}-offset-checkpoint")), damaged).expect("writable");
        }
        let (dirs, mut failures) = fixture.start();
        assert!(failures.try_recv().is_err(), "{damaged:?}");
        assert_eq!(read_all(&dirs.logs()[0]).len(), 1, "{damaged:?}");
    }
}

#[test]
fn a_log_that_cannot_be_opened_costs_only_itself_until_it_can() {
    let fixture = Fixture::new(1);
    let (dirs, _failures) = fixture.start();
    let config = LogConfig { delete: true, retention_ms: Some(1234), ..small_segments() };
    for partition in 0..2 {
        let tp = TopicPartition::new("t", partition);
        let log = dirs.get_or_create(&tp, Some(TopicId([7; 16])), Arc::new(config.clone()), true, 0).expect("created");
        append(&log, batch(&[1, 2, 3], 5)).expect("appended");
        log.delete_records(Offset(2), log.leader_epoch()).expect("deleted");
    }
    dirs.shutdown(0);
    drop(dirs);
    let metadata = fixture.path(0, "t-1/partition.metadata");
    let good = fs::read(&metadata).expect("written");
    fs::write(&metadata, "what?").expect("writable");

    let (dirs, mut failures) = fixture.start();
    assert!(failures.try_recv().is_err(), "the directory serves");
    assert_eq!(dirs.logs().iter().map(|log| log.topic_partition().partition).collect::<Vec<_>>(), [0]);
    let tp = TopicPartition::new("t", 1);
    let take = |dirs: &LogDirs| dirs.get_or_create(&tp, None, Arc::new(config.clone()), true, 0);
    assert!(matches!(take(&dirs), Err(LogError::Corrupt { .. })), "nothing is created in its place");
    dirs.checkpoint_recovery_points();
    dirs.checkpoint_log_start_offsets();
    dirs.checkpoint_high_watermarks();
    fs::write(&metadata, good).expect("writable");
    let log = take(&dirs).expect("repaired");
    let bounds = log.bounds();
    assert_eq!((bounds.log_start_offset.0, bounds.high_watermark.0, bounds.log_end_offset.0), (2, 3, 3));
    assert_eq!(log.topic_id(), Some(TopicId([7; 16])));
    assert_eq!(log.config().retention_ms, Some(1234), "the settings of now");
    drop(log);
    fs::write(&metadata, "what?").expect("writable");
    drop(dirs);

    // A crash, and nobody repairs it: the next start must recover it, whatever became of the others; or it is deleted.
    let (dirs, _failures) = fixture.start();
    dirs.shutdown(0);
    assert!(!fixture.path(0, ".kafka_cleanshutdown").exists());
    for checkpoint in ["recovery-point", "log-start", "replication"] {
        let text = fs::read_to_string(fixture.path(0, &format!("{checkpoint}-offset-checkpoint"))).expect("written");
        assert!(text.contains("t 1 "), "{checkpoint}: {text}");
    }
    drop(dirs);
    let (dirs, _failures) = fixture.start();
    assert!(dirs.delete(std::slice::from_ref(&tp), 0).remove(0).expect("deleted"));
    assert!(!metadata.exists());
    assert_eq!(take(&dirs).expect("created anew").log_end_offset(), Offset(0));
}

#[test]
fn a_partition_whose_name_is_too_long_for_the_disk_is_refused_alone() {
    let fixture = Fixture::new(2);
    let (dirs, mut failures) = fixture.start();
    let tp = TopicPartition::new("x".repeat(249), 100_000);
    let refused = dirs.get_or_create(&tp, None, Arc::new(small_segments()), true, 0);
    assert!(matches!(refused, Err(LogError::Io { .. })));
    assert!(failures.try_recv().is_err(), "the directories serve");
    create(&dirs, "t", 0);
}

#[test]
fn a_partition_never_gets_a_second_directory() {
    let fixture = Fixture::new(2);
    let (dirs, _failures) = fixture.start();
    fs::create_dir(fixture.path(0, "t-0")).expect("writable");
    fs::write(fixture.path(0, "t-0/partition.metadata"), "what?").expect("writable");
    let tp = TopicPartition::new("t", 0);
    let refused = dirs.get_or_create(&tp, None, Arc::new(small_segments()), true, 0);
    assert!(matches!(refused, Err(LogError::Corrupt { .. })), "{refused:?}");
    assert!(!fixture.path(1, "t-0").exists(), "with two, the next start would be refused");
}

#[test]
fn what_cannot_be_a_partition_stops_the_start() {
    let fixture = Fixture::new(2);
    let (dirs, _failures) = fixture.open();
    fs::create_dir(fixture.path(0, "lost+found")).expect("writable");
    assert!(matches!(load(&dirs), Err(LogError::StartRefused { .. })));
    fs::remove_dir(fixture.path(0, "lost+found")).expect("removable");
    fs::write(fixture.path(0, "a-file"), "ignored").expect("writable");
    fs::create_dir(fixture.path(0, "__cluster_metadata-0")).expect("writable");
    fs::create_dir(fixture.path(0, "t-0")).expect("writable");
    fs::create_dir(fixture.path(1, "t-0")).expect("writable");
    // Of two topics of that name.
    for (dir, id) in [(0, "AAAAAAAAAAAAAAAAAAAAAQ"), (1, "AAAAAAAAAAAAAAAAAAAAAg")] {
        let text = format!("version: 0\ntopic_id: {id}");
        fs::write(fixture.path(dir, "t-0/partition.metadata"), text).expect("writable");
    }
    let refused = load(&dirs);
    assert!(
        matches!(&refused, Err(LogError::StartRefused { context }) if context.contains("Duplicate")),
        "{refused:?}"
    );
}

#[test]
fn timers_flush_rolled_segments_and_delete_old_ones() {
    let fixture = Fixture::new(1);
    let (dirs, _failures) = fixture.start();
    let config = LogConfig { retention_ms: Some(10), flush_ms: 1000, ..small_segments() };
    let tp = TopicPartition::new("t", 0);
    let log = dirs.get_or_create(&tp, None, Arc::new(config), true, 0).expect("created");
    for i in 0..20 {
        append(&log, batch(&[i], 100)).expect("appended");
    }
    dirs.tick_flush(999);
    assert!(log.recovery_point() > Offset(0) && log.recovery_point() < Offset(20));
    // The flush of rolled segments counts as one.
    dirs.tick_flush(1999);
    assert_eq!(log.recovery_point(), Offset(20));
    dirs.checkpoint_recovery_points();
    let checkpoint = fs::read_to_string(fixture.path(0, "recovery-point-offset-checkpoint")).expect("written");
    assert_eq!(checkpoint, "0\n1\nt 0 20\n");
    log.truncate_to(Offset(13), log.leader_epoch(), 0).expect("truncated");
    dirs.tick_flush(1999);
    let checkpoint = fs::read_to_string(fixture.path(0, "recovery-point-offset-checkpoint")).expect("written");
    assert_eq!(checkpoint, "0\n1\nt 0 13\n", "what comes below 20 now is not on the disk yet");
    assert!(dirs.tick_retention(1_000_000) > 2);
    dirs.tick_deletions(2_000_000);
    assert_eq!((log.log_start_offset(), log.segment_count()), (Offset(13), 1));
    assert!(!names_in(&fixture.path(0, "t-0")).iter().any(|name| name.ends_with(".deleted")));
}

#[test]
fn a_topic_id_outlives_the_process_at_once_and_has_its_file_when_that_is_on_the_disk() {
    let fixture = Fixture::new(1);
    let (dirs, _failures) = fixture.start();
    let (tp, id) = (TopicPartition::new("t", 0), TopicId([7; 16]));
    dirs.get_or_create(&tp, Some(id), Arc::new(small_segments()), true, 0).expect("created");
    let metadata = fixture.path(0, "t-0/partition.metadata");
    assert!(!metadata.exists(), "a machine that fails now leaves no empty one, which a JVM broker would refuse");
    drop(dirs);
    let (dirs, _failures) = fixture.start();
    assert_eq!(dirs.get(&tp).expect("loaded").topic_id(), Some(id));
    dirs.tick_flush(0);
    assert_eq!(fs::read_to_string(&metadata).expect("written"), format!("version: 0\ntopic_id: {id}"));
    assert!(!fixture.path(0, "t-0/partition.metadata.tmp").exists());
}

/// What is appended in place of what was cut would else be taken for flushed after a power loss.
#[test]
fn nobody_goes_on_from_a_truncation_before_its_recovery_point_is_written_whoever_writes_it() {
    let fixture = Fixture::new(1);
    let (dirs, _failures) = fixture.start();
    let log = create(&dirs, "t", 0);
    (0..3).for_each(|value| _ = append(&log, batch(&[value], 100)).expect("appended"));
    log.flush(0).expect("flushed");
    dirs.checkpoint_recovery_points();
    let written = || fs::read_to_string(fixture.path(0, "recovery-point-offset-checkpoint")).expect("written");
    assert_eq!(written(), "0\n1\nt 0 3\n");
    log.truncate_to(Offset(1), log.leader_epoch(), 0).expect("truncated");
    let shared = &log.parent();
    let checkpointing = shared.checkpointing.lock().expect("nothing panics under this lock");
    std::thread::scope(|scope| {
        scope.spawn(|| dirs.write_recovery_points_moved_back(0));
        while !shared.truncated.is_empty() {
            std::thread::yield_now();
        }
        let other = scope.spawn(|| {
            dirs.write_recovery_points_moved_back(0);
            written()
        });
        (0..1_000).for_each(|_| std::thread::yield_now());
        drop(checkpointing);
        assert_eq!(other.join().expect("no panic"), "0\n1\nt 0 1\n");
    });
}

/// Records that were deleted would come back with a crash.
#[test]
fn a_truncation_that_is_at_the_segments_costs_no_log_its_start_in_the_checkpoint() {
    let fixture = Fixture::new(1);
    let (dirs, _failures) = fixture.start();
    let log = create(&dirs, "t", 0);
    (0..3).for_each(|value| _ = append(&log, batch(&[value], 100)).expect("appended"));
    log.update_high_watermark(Offset(3));
    log.increment_log_start_offset(Offset(2), log.leader_epoch()).expect("it is committed");
    let segments = std::mem::take(&mut log.locked().segments);
    dirs.checkpoint_log_start_offsets();
    log.locked().segments = segments;
    let written = fs::read_to_string(fixture.path(0, "log-start-offset-checkpoint"));
    assert_eq!(written.expect("written"), "0\n1\nt 0 2\n");
}

#[test]
fn a_directory_does_not_go_while_its_files_are_being_renamed() {
    let fixture = Fixture::new(1);
    let (dirs, _failures) = fixture.start();
    let log = create(&dirs, "t", 0);
    let dir = fixture.path(0, "t-0");
    let renaming = log.begin_renaming();
    std::thread::scope(|scope| {
        let tp = log.topic_partition();
        let deletion = scope.spawn(|| dirs.delete(std::slice::from_ref(tp), 0));
        while !matches!(log.roll(0), Err(LogError::Closed)) {
            std::thread::yield_now();
        }
        // What is watched is that nothing happens: a deletion that waits for nobody is done long before.
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(dir.exists(), "another log may have its name, and the old log rename the files of that one");
        drop(renaming);
        assert!(deletion.join().expect("no panic").remove(0).expect("deleted"));
    });
    assert!(!dir.exists());
}

#[test]
fn a_log_that_a_full_disk_left_without_a_file_begins_where_it_was_cut() {
    for is_clean in [false, true] {
        let fixture = Fixture::new(1);
        let (dirs, _failures) = fixture.start();
        let log = create(&dirs, "t", 0);
        append(&log, batch(&[1], 100)).expect("appended");
        fail(Op::Create, 0);
        log.truncate_fully_and_start_at(Offset(500), None, log.leader_epoch(), 0).expect("cut");
        let file = fixture.path(0, "t-0/00000000000000000500.log");
        assert!(!file.exists(), "the disk was full");
        if is_clean {
            dirs.shutdown(0);
            assert!(file.exists());
        } else {
            dirs.checkpoint_log_start_offsets();
        }
        drop((log, dirs));
        let (dirs, _failures) = fixture.start();
        let log = dirs.get(&TopicPartition::new("t", 0)).expect("loaded");
        assert_eq!((log.log_start_offset(), log.log_end_offset()), (Offset(500), Offset(500)));
    }
}
