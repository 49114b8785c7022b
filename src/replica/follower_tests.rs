//! A follower over a log on disk: what it takes of its leader, and what it cuts off.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::config::log::LogConfig;
use crate::config::sections::LogDirsConfig;
use crate::log::Log;
use crate::log::dirs::LogDirs;
use crate::log::error::LogError;
use crate::log::leader_epochs::EpochEnd;
use crate::metadata::cache::MetadataCache;
use crate::model::{BrokerId, ControllerEpoch, LeaderEpoch, Offset, PartitionEpoch, TopicId, TopicPartition};
use crate::record::append::prepare;
use crate::record::append_rules::AppendRules;
use crate::record::build::BatchBuilder;
use crate::replica::error::ReplicaError;
use crate::replica::follower::FromLeader;
use crate::replica::isr_changes::IsrChanges;
use crate::replica::leader::Decision;
use crate::replica::partition::{Partition, Surroundings};
use crate::replica::throttle::Throttle;
use crate::replica::truncation::Truncation;

pub(super) const NOW_MS: i64 = 1_700_000_000_000;
pub(super) const EPOCH: LeaderEpoch = LeaderEpoch(5);

pub(super) struct Follower {
    pub partition: Partition,
    log: Arc<Log>,
    dirs: LogDirs,
    pub root: tempfile::TempDir,
}

pub(super) fn following(config: LogConfig) -> Follower {
    let root = tempfile::tempdir().expect("a temporary directory");
    let dirs_config = LogDirsConfig { dirs: vec![root.path().to_owned()], ..LogDirsConfig::default() };
    let (failures, _) = mpsc::unbounded_channel();
    let dirs = LogDirs::open(&dirs_config, failures, Arc::default()).expect("the directory is ours");
    dirs.load(&|_| Arc::default(), NOW_MS, &|_| ()).expect("the directory is empty");
    let name = TopicPartition::new("t", 0);
    let log = dirs.get_or_create(&name, None, Arc::new(config), true, NOW_MS).expect("writable");
    let around = Surroundings {
        local: BrokerId(1),
        replica_lag_time_max: Duration::from_secs(30),
        zstd_allowed: true,
        metadata: Arc::new(MetadataCache::new()),
        isr_changes: IsrChanges::default(),
        counters: Arc::default(),
        leader_throttle: Arc::new(Throttle::new(u64::MAX, 11, Duration::from_secs(1))),
        clock: Box::new(Instant::now),
    };
    let partition = Partition::new(name, Arc::new(around));
    let decision = Decision {
        controller_epoch: ControllerEpoch(1),
        leader: BrokerId(2),
        leader_epoch: EPOCH,
        partition_epoch: PartitionEpoch(0),
        isr: vec![BrokerId(2)],
        assignment: vec![BrokerId(2), BrokerId(1)],
        adding: Vec::new(),
        removing: Vec::new(),
        is_new: true,
        topic_id: TopicId::ZERO,
    };
    assert!(partition.follow(&decision, &log).expect("the log takes the epoch"));
    Follower { partition, log, dirs, root }
}

/// A batch as the leader of that epoch has it.
pub(super) fn batch(epoch: i32, base_offset: i64, records: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    (0..records).for_each(|_| builder.append(NOW_MS, None, Some(b"a value"), &[]));
    let mut prepared = prepare(builder.build(), &AppendRules::default(), NOW_MS).expect("valid");
    prepared.assign(base_offset, epoch, NOW_MS);
    let batch = &prepared.batches()[0];
    [batch.head(), batch.body()].concat()
}

pub(super) fn from_leader(
    fetch_offset: i64,
    records: Vec<u8>,
    high_watermark: i64,
    log_start_offset: i64,
) -> FromLeader {
    FromLeader {
        records: Bytes::from(records),
        leader_epoch: EPOCH,
        fetch_offset: Offset(fetch_offset),
        high_watermark: Offset(high_watermark),
        log_start_offset: Offset(log_start_offset),
    }
}

impl Follower {
    fn takes(&self, from_leader: &FromLeader) -> Result<(i64, i64, i64), ReplicaError> {
        self.partition.append_from_leader(from_leader, NOW_MS)?;
        Ok(self.bounds())
    }

    /// Log start offset, high watermark, log end offset.
    fn bounds(&self) -> (i64, i64, i64) {
        let bounds = self.log.bounds();
        (bounds.log_start_offset.0, bounds.high_watermark.0, bounds.log_end_offset.0)
    }
}

#[test]
fn the_high_watermark_and_the_start_follow_the_leaders_within_what_the_log_holds() {
    let follower = following(LogConfig::default());
    let taken = follower.takes(&from_leader(0, batch(4, 0, 10), 100, 0));
    assert_eq!(taken.expect("it continues the log"), (0, 10, 10));
    let taken = follower.takes(&from_leader(10, Vec::new(), 7, 4));
    assert_eq!(taken.expect("nothing is refused"), (4, 10, 10), "what is committed stays so");
    let taken = follower.takes(&from_leader(10, batch(5, 10, 10), 15, 2));
    assert_eq!(taken.expect("it continues the log"), (4, 15, 20), "the start never goes back");
}

#[test]
fn a_log_that_is_empty_begins_with_all_of_the_batch_in_which_the_leaders_begins() {
    let follower = following(LogConfig::default());
    follower.partition.restart_at(Offset(15), EPOCH, NOW_MS).expect("the log can be restarted");
    assert_eq!(follower.bounds(), (15, 15, 15));
    let taken = follower.takes(&from_leader(15, batch(4, 10, 10), 20, 15));
    assert_eq!(taken.expect("the batch holds the offset"), (15, 20, 20));
    // One that has records may not go back.
    let refused = follower.takes(&from_leader(20, batch(4, 18, 5), 25, 15));
    assert!(matches!(refused, Err(ReplicaError::Log(LogError::UnexpectedOffset { .. }))), "{refused:?}");
    assert_eq!(follower.bounds(), (15, 20, 20));
}

#[test]
fn what_is_longer_than_a_segment_is_taken_in_pieces() {
    let one = batch(4, 0, 10).len() as u32;
    let follower = following(LogConfig { segment_bytes: 2 * one + 10, ..LogConfig::default() });
    let records: Vec<u8> = (0..7).flat_map(|number| batch(4, number * 10, 10)).collect();
    assert_eq!(follower.takes(&from_leader(0, records, 70, 0)).expect("each batch fits"), (0, 70, 70));
    assert_eq!(follower.log.segment_count(), 4);
    // A batch goes whole.
    let records = [batch(4, 70, 100), batch(4, 170, 10)].concat();
    assert_eq!(follower.takes(&from_leader(70, records, 180, 0)).expect("as the leader has it"), (0, 180, 180));
    assert_eq!(follower.log.segment_count(), 6);
}

#[test]
fn a_truncation_by_epoch_cuts_where_the_logs_part_and_a_crash_knows_it_at_once() {
    let follower = following(LogConfig::default());
    for (epoch, base) in [(1, 0), (3, 10), (4, 20)] {
        follower.takes(&from_leader(base, batch(epoch, base, 10), 5, 0)).expect("it continues the log");
    }
    follower.log.flush(NOW_MS).expect("writable");
    follower.dirs.checkpoint_recovery_points();
    let end = |epoch, end_offset| EpochEnd { epoch: LeaderEpoch(epoch), end_offset: Offset(end_offset) };
    let cut = |leader| follower.partition.truncate_by_epoch(leader, Offset(5), EPOCH, NOW_MS).expect("writable");
    // The leader's epoch 2 is not known here: only what came before it may be the same.
    assert_eq!(cut(end(2, 15)), Truncation::AskAgain(Offset(10)));
    assert_eq!(follower.bounds(), (0, 5, 10));
    assert_eq!(follower.log.last_epoch(), Some(LeaderEpoch(1)));
    assert_eq!(cut(end(1, 15)), Truncation::Done(Offset(10)));
    follower.dirs.write_recovery_points_moved_back(NOW_MS);
    let checkpoint = std::fs::read_to_string(follower.root.path().join("recovery-point-offset-checkpoint"));
    assert_eq!(checkpoint.expect("it was written"), "0\n1\nt 0 10\n");
    let late = follower.partition.truncate(Offset(0), LeaderEpoch(4), NOW_MS);
    assert!(matches!(late, Err(ReplicaError::NotLeaderOrFollower)), "{late:?}");
}

#[test]
fn a_log_ends_at_no_negative_offset_whatever_its_leader_says() {
    let follower = following(LogConfig::default());
    follower.takes(&from_leader(0, batch(4, 0, 10), 5, 0)).expect("it continues the log");
    let refused = |outcome: Result<(), ReplicaError>| match outcome {
        Err(ReplicaError::Log(LogError::OffsetOutOfRange { .. })) => {}
        outcome => panic!("{outcome:?}"),
    };
    let partition = &follower.partition;
    for (epoch, end_offset) in [(4, -7), (3, -2), (-1, -7)] {
        let leader = EpochEnd { epoch: LeaderEpoch(epoch), end_offset: Offset(end_offset) };
        refused(partition.truncate_by_epoch(leader, Offset(5), EPOCH, NOW_MS).map(drop));
    }
    refused(partition.truncate(Offset(-1), EPOCH, NOW_MS).map(drop));
    refused(partition.restart_at(Offset(-1), EPOCH, NOW_MS));
    assert_eq!(follower.bounds(), (0, 5, 10));
    // Nor does it begin at one.
    partition.restart_at(Offset(3), EPOCH, NOW_MS).expect("writable");
    refused(follower.takes(&from_leader(3, batch(4, -2, 10), 5, 0)).map(drop));
    assert_eq!(follower.bounds(), (3, 3, 3));
}

#[test]
fn what_is_taken_and_what_is_cut_is_counted_and_nothing_else() {
    let follower = following(LogConfig::default());
    let counters = &follower.partition.around.counters;
    let counted = || {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (of(&counters.replication_bytes_in), of(&counters.follower_truncations))
    };
    follower.partition.truncate(Offset(0), EPOCH, NOW_MS).expect("there is nothing to cut");
    follower.takes(&from_leader(5, batch(4, 5, 10), 0, 0)).expect_err("it does not continue the log");
    assert_eq!(counted(), (0, 0));
    let records = batch(4, 0, 10);
    follower.takes(&from_leader(0, records.clone(), 0, 0)).expect("it continues the log");
    follower.partition.truncate(Offset(0), EPOCH, NOW_MS).expect("writable");
    assert_eq!(counted(), (records.len() as u64, 1));
}
