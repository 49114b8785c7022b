//! A log in memory does what one on disk does: what a simulation shows of partitions over the one holds over the other.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;

use crate::config::sections::LogDirsConfig;
use crate::log::dirs::LogDirs;
use crate::log::error::LogError;
use crate::log::{AppendInfo, Bounds, FirstBatch, Log, ReadUntil};
use crate::model::{LeaderEpoch, Offset, TopicPartition};
use crate::record::append::prepare;
use crate::record::append_rules::{AppendOrigin, AppendRules};
use crate::replica::interleaving_tests::{NOW_MS, records};
use crate::replica::memory_log::MemoryLog;
use crate::replica::partition_log::PartitionLog;

const HISTORIES: u64 = 40;
const STEPS: usize = 120;

fn name() -> TopicPartition {
    TopicPartition::new("t", 0)
}

/// As the next process opens it.
fn opened(dir: &Path) -> LogDirs {
    let config = LogDirsConfig { dirs: vec![dir.to_owned()], ..LogDirsConfig::default() };
    let (failures, _) = mpsc::unbounded_channel();
    let dirs = LogDirs::open(&config, failures, Arc::default()).expect("the directory is ours");
    dirs.load(&|_| Arc::default(), NOW_MS, &|_| ()).expect("every log is readable");
    dirs
}

fn log(dirs: &LogDirs) -> Arc<Log> {
    dirs.get_or_create(&name(), None, Arc::default(), true, NOW_MS).expect("writable")
}

/// What a change does, on either.
#[derive(Clone, Copy, Debug)]
enum Change {
    Lead(LeaderEpoch),
    Follow(LeaderEpoch),
    AppendAsLeader { value: i64, epoch: LeaderEpoch },
    AppendAsFollower { value: i64, epoch: LeaderEpoch, written_in: LeaderEpoch, offset: Offset },
    Truncate { to: Offset, epoch: LeaderEpoch },
    RestartAt { offset: Offset, epoch: LeaderEpoch },
    HighWatermark(Offset),
    EndAppends,
}

fn change(log: &impl PartitionLog, change: Change) -> Result<String, String> {
    let appended = |info: AppendInfo| format!("{} to {}", info.first_offset, info.last_offset);
    let outcome = match change {
        Change::Lead(epoch) => log.lead(epoch).map(|bounds| shown(&bounds)),
        Change::Follow(epoch) => log.follow(epoch).map(|()| String::new()),
        Change::AppendAsLeader { value, epoch } => {
            let mut prepared = prepare(records(value), &AppendRules::default(), NOW_MS).expect("valid");
            log.append_as_leader(&mut prepared, epoch, AppendOrigin::Client, NOW_MS).map(appended)
        }
        Change::AppendAsFollower { value, epoch, written_in, offset } => {
            let mut prepared = prepare(records(value), &AppendRules::default(), NOW_MS).expect("valid");
            prepared.assign(offset.0, written_in.0, NOW_MS);
            let batch = &prepared.batches()[0];
            let batch = Bytes::from([batch.head(), batch.body()].concat());
            log.append_as_follower(&batch, epoch, offset, NOW_MS).map(appended)
        }
        Change::Truncate { to, epoch } => log.truncate_to(to, epoch, NOW_MS).map(|changed| changed.to_string()),
        Change::RestartAt { offset, epoch } => {
            log.truncate_fully_and_start_at(offset, epoch, NOW_MS).map(|()| String::new())
        }
        Change::HighWatermark(offset) => Ok(log.update_high_watermark(offset).to_string()),
        Change::EndAppends => {
            log.end_appends();
            Ok(String::new())
        }
    };
    outcome.map_err(|error| match error {
        LogError::StaleLeaderEpoch { .. } => "stale".to_owned(),
        LogError::UnexpectedOffset { .. } => "unexpected".to_owned(),
        other => panic!("{change:?}: {other}"),
    })
}

fn shown(bounds: &Bounds) -> String {
    let Bounds { log_start_offset, high_watermark, log_end_offset, .. } = bounds;
    format!("{log_start_offset} to {log_end_offset}, committed to {high_watermark}")
}

/// All that partitions look at.
fn state(log: &impl PartitionLog, latest: LeaderEpoch) -> (String, Option<LeaderEpoch>, Vec<String>, Vec<u8>) {
    let bounds = log.bounds();
    let ends = (0..=latest.0 + 1).map(|epoch| format!("{:?}", log.end_offset_for_epoch(LeaderEpoch(epoch))));
    let mut bytes = Vec::new();
    let read = |until| log.read(bounds.log_start_offset, 1 << 20, until, FirstBatch::Whole).expect("readable");
    for until in [ReadUntil::HighWatermark, ReadUntil::LogEnd] {
        if let Some(region) = read(until).region {
            let mut some = vec![0; region.len as usize];
            std::os::unix::fs::FileExt::read_exact_at(&*region.file, &mut some, region.position).expect("readable");
            bytes.extend(some);
        }
    }
    (shown(&bounds), log.last_epoch(), ends.collect(), bytes)
}

#[test]
fn a_log_in_memory_does_what_one_on_disk_does() {
    for seed in 0..HISTORIES {
        let mut rng = SmallRng::seed_from_u64(seed);
        let root = tempfile::tempdir().expect("a temporary directory");
        let mut dirs = opened(root.path());
        let (mut on_disk, mut in_memory) = (log(&dirs), MemoryLog::new());
        let mut latest = LeaderEpoch(-1);
        for step in 0..STEPS {
            let bounds = in_memory.bounds();
            let near = |rng: &mut SmallRng| Offset((bounds.log_end_offset.0 + rng.random_range(-3..2)).max(0));
            // Now and then of an epoch that is not in force.
            let epoch = if rng.random_bool(0.9) { latest } else { LeaderEpoch(latest.0 - 1) };
            let next = LeaderEpoch(latest.0 + rng.random_range(0..3));
            let value = step as i64;
            let drawn = match rng.random_range(0..20) {
                0..2 => Change::Lead(next),
                2..4 => Change::Follow(next),
                4..9 => Change::AppendAsLeader { value, epoch },
                9..14 => {
                    let offset = if rng.random_bool(0.9) { bounds.log_end_offset } else { near(&mut rng) };
                    Change::AppendAsFollower { value, epoch, written_in: latest, offset }
                }
                14..16 => Change::Truncate { to: near(&mut rng).max(bounds.log_start_offset), epoch },
                16 if rng.random_bool(0.1) => Change::RestartAt { offset: near(&mut rng), epoch },
                17 if rng.random_bool(0.1) => Change::EndAppends,
                18 if rng.random_bool(0.3) => {
                    // The process is killed, with the high watermark written down or not.
                    if rng.random_bool(0.5) {
                        dirs.checkpoint_high_watermarks();
                        in_memory.checkpoint_high_watermark();
                    }
                    drop((on_disk, dirs));
                    dirs = opened(root.path());
                    on_disk = log(&dirs);
                    in_memory = in_memory.after_crash(Offset(i64::MAX));
                    assert_eq!(state(&*on_disk, latest), state(&in_memory, latest), "seed {seed} step {step}: killed");
                    continue;
                }
                _ => Change::HighWatermark(near(&mut rng).max(bounds.high_watermark)),
            };
            let what = format!("seed {seed} step {step}: {drawn:?}");
            if let Change::Lead(begun) | Change::Follow(begun) = drawn {
                latest = latest.max(begun);
            }
            assert_eq!(change(&*on_disk, drawn), change(&in_memory, drawn), "{what}");
            assert_eq!(state(&*on_disk, latest), state(&in_memory, latest), "{what}");
        }
    }
}
