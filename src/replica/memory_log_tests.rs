//! A log in memory does what one on disk does: what a simulation shows of partitions over the one holds over the other.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;

use crate::client::consumer::AbortedBatches;
use crate::config::sections::LogDirsConfig;
use crate::log::dirs::LogDirs;
use crate::log::error::LogError;
use crate::log::{AppendInfo, Bounds, FirstBatch, Log, ReadUntil};
use crate::model::{LeaderEpoch, Offset, TopicPartition};
use crate::protocol::messages::fetch::AbortedTransaction;
use crate::record::append::prepare;
use crate::record::append_rules::{AcceptedSets, AppendOrigin, AppendRules};
use crate::record::batch::Batches;
use crate::record::build::{BatchBuilder, TransactionOutcome, end_transaction_marker};
use crate::record::prepared::Prepared;
use crate::replica::interleaving_tests::{NOW_MS, records};
use crate::replica::memory_log::MemoryLog;
use crate::replica::partition_log::PartitionLog;

const HISTORIES: u64 = 40;
const STEPS: usize = 120;
/// Of transactions.
const PRODUCERS: i64 = 3;

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

/// A batch to append.
#[derive(Clone, Copy, Debug)]
enum What {
    Plain(i64),
    InTransaction { producer: i64, epoch: i16, sequence: i32, value: i64 },
    Marker { producer: i64, epoch: i16, outcome: TransactionOutcome, coordinator_epoch: i32 },
}

impl What {
    fn origin(self) -> AppendOrigin {
        match self {
            What::Marker { .. } => AppendOrigin::Coordinator,
            What::Plain(_) | What::InTransaction { .. } => AppendOrigin::Client,
        }
    }

    fn prepared(self) -> Prepared {
        let bytes = match self {
            What::Plain(value) => records(value),
            What::InTransaction { producer, epoch, sequence, value } => {
                let mut builder = BatchBuilder::new().producer(producer, epoch, sequence).transactional(true);
                builder.append(NOW_MS, Some(&value.to_be_bytes()), None, &[]);
                builder.build()
            }
            What::Marker { producer, epoch, outcome, coordinator_epoch } => {
                end_transaction_marker(producer, epoch, outcome, coordinator_epoch, NOW_MS)
            }
        };
        let (origin, accepted_sets) = (self.origin(), AcceptedSets::Any);
        let rules = AppendRules { origin, accepted_sets, ..AppendRules::default() };
        prepare(bytes, &rules, NOW_MS).expect("valid")
    }
}

/// What a change does, on either.
#[derive(Clone, Copy, Debug)]
enum Change {
    Lead(LeaderEpoch),
    Follow(LeaderEpoch),
    AppendAsLeader { what: What, epoch: LeaderEpoch },
    AppendAsFollower { what: What, epoch: LeaderEpoch, written_in: LeaderEpoch, offset: Offset },
    Truncate { to: Offset, epoch: LeaderEpoch },
    RestartAt { offset: Offset, epoch: LeaderEpoch },
    HighWatermark(Offset),
    EndAppends,
}

fn change(log: &impl PartitionLog, change: Change) -> Result<String, String> {
    let appended = |info: AppendInfo| {
        let how = if info.duplicate { "again" } else { "new" };
        format!("{} to {}, {how}", info.first_offset, info.last_offset)
    };
    let outcome = match change {
        Change::Lead(epoch) => log.lead(epoch).map(|bounds| shown(&bounds)),
        Change::Follow(epoch) => log.follow(epoch).map(|()| String::new()),
        Change::AppendAsLeader { what, epoch } => {
            log.append_as_leader(&mut what.prepared(), epoch, what.origin(), NOW_MS).map(appended)
        }
        Change::AppendAsFollower { what, epoch, written_in, offset } => {
            let mut prepared = what.prepared();
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
        LogError::OutOfOrderSequence { .. } => "out of order".to_owned(),
        LogError::InvalidProducerEpoch { .. } => "an old producer".to_owned(),
        LogError::TransactionCoordinatorFenced { .. } => "an old coordinator".to_owned(),
        other => panic!("{change:?}: {other}"),
    })
}

fn shown(bounds: &Bounds) -> String {
    let Bounds { log_start_offset, high_watermark, log_end_offset, .. } = bounds;
    format!("{log_start_offset} to {log_end_offset}, committed to {high_watermark}")
}

fn read(log: &impl PartitionLog, from: Offset, until: ReadUntil) -> (Vec<u8>, Vec<AbortedTransaction>) {
    let fetched = log.read(from, 1 << 20, until, FirstBatch::Whole).expect("readable");
    let mut bytes = Vec::new();
    if let Some(region) = fetched.region {
        bytes.resize(region.len as usize, 0);
        std::os::unix::fs::FileExt::read_exact_at(&*region.file, &mut bytes, region.position).expect("readable");
    }
    let aborted = fetched.aborted_transactions.iter().map(|transaction| AbortedTransaction {
        producer_id: transaction.producer_id.0,
        first_offset: transaction.first_offset.0,
    });
    (bytes, aborted.collect())
}

/// Where the batches begin that a reader of committed records is given.
fn committed(log: &impl PartitionLog, from: Offset) -> Vec<i64> {
    let (bytes, aborted) = read(log, from, ReadUntil::LastStableOffset);
    let mut aborted = AbortedBatches::new(aborted);
    let headers = Batches::new(&bytes).map(|batch| batch.expect("well-formed").header);
    headers.filter(|header| !aborted.hides(header)).map(|header| header.base_offset).collect()
}

/// All that partitions look at.
#[derive(Debug, PartialEq)]
struct Seen {
    bounds: String,
    last_epoch: Option<LeaderEpoch>,
    epoch_ends: Vec<String>,
    whole: Bytes,
    below_high_watermark: Bytes,
    last_stable_offset: Offset,
    /// From the start of the log on, and from its middle.
    committed: [Vec<i64>; 2],
}

impl Seen {
    fn without_transactions(self) -> Seen {
        Seen { last_stable_offset: Offset(0), committed: Default::default(), ..self }
    }
}

/// A log on disk that was cut, or opened anew, has its transactions from a snapshot, and takes those that had ended there for
/// replicated, as Kafka's does. One in memory knows of each.
fn assert_same(on_disk: &Log, in_memory: &MemoryLog, latest: LeaderEpoch, what: &str) {
    let (on_disk, seen_in_memory) = (seen(on_disk, latest), seen(in_memory, latest));
    if in_memory.has_unreplicated_end() {
        assert!(on_disk.last_stable_offset >= seen_in_memory.last_stable_offset, "{what}");
        assert_eq!(on_disk.without_transactions(), seen_in_memory.without_transactions(), "{what}");
    } else {
        assert_eq!(on_disk, seen_in_memory, "{what}");
    }
}

fn seen(log: &impl PartitionLog, latest: LeaderEpoch) -> Seen {
    let bounds = log.bounds();
    let Bounds { log_start_offset: start, log_end_offset: end, .. } = bounds;
    let epoch_ends = (0..=latest.0 + 1).map(|epoch| format!("{:?}", log.end_offset_for_epoch(LeaderEpoch(epoch))));
    Seen {
        bounds: shown(&bounds),
        last_epoch: log.last_epoch(),
        epoch_ends: epoch_ends.collect(),
        whole: read(log, start, ReadUntil::LogEnd).0.into(),
        below_high_watermark: read(log, start, ReadUntil::HighWatermark).0.into(),
        last_stable_offset: bounds.last_stable_offset,
        committed: [start, Offset((start.0 + end.0) / 2)].map(|from| committed(log, from)),
    }
}

/// What is appended next; each producer is now and then another incarnation, or comes with what was there before.
fn drawn(sequences: &mut BTreeMap<i64, (i16, i32)>, value: i64, rng: &mut SmallRng) -> What {
    let producer = rng.random_range(0..PRODUCERS);
    let (epoch, sequence) = sequences.entry(producer).or_default();
    match rng.random_range(0..10) {
        0..4 => return What::Plain(value),
        4 => (*epoch, *sequence) = (*epoch + 1, 0),
        5..7 => {
            let outcome = if rng.random_bool(0.5) { TransactionOutcome::Commit } else { TransactionOutcome::Abort };
            let epoch = (*epoch - rng.random_range(0..2)).max(0);
            return What::Marker { producer, epoch, outcome, coordinator_epoch: rng.random_range(0..3) };
        }
        7 => *sequence = (*sequence - 1).max(0),
        _ => {}
    }
    let what = What::InTransaction { producer, epoch: *epoch, sequence: *sequence, value };
    *sequence += 1;
    what
}

#[test]
fn a_log_in_memory_does_what_one_on_disk_does() {
    for seed in 0..HISTORIES {
        let mut rng = SmallRng::seed_from_u64(seed);
        let root = tempfile::tempdir().expect("a temporary directory");
        let mut dirs = opened(root.path());
        let (mut on_disk, mut in_memory) = (log(&dirs), MemoryLog::new());
        let mut latest = LeaderEpoch(-1);
        let mut sequences = BTreeMap::new();
        for step in 0..STEPS {
            let bounds = in_memory.bounds();
            let near = |rng: &mut SmallRng| Offset((bounds.log_end_offset.0 + rng.random_range(-3..2)).max(0));
            // Now and then of an epoch that is not in force.
            let epoch = if rng.random_bool(0.9) { latest } else { LeaderEpoch(latest.0 - 1) };
            let next = LeaderEpoch(latest.0 + rng.random_range(0..3));
            let value = step as i64;
            let next_change = match rng.random_range(0..20) {
                0..2 => Change::Lead(next),
                2..4 => Change::Follow(next),
                4..9 => Change::AppendAsLeader { what: drawn(&mut sequences, value, &mut rng), epoch },
                9..14 => {
                    let what = drawn(&mut sequences, value, &mut rng);
                    let offset = if rng.random_bool(0.9) { bounds.log_end_offset } else { near(&mut rng) };
                    Change::AppendAsFollower { what, epoch, written_in: latest, offset }
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
                    assert_same(&on_disk, &in_memory, latest, &format!("seed {seed} step {step}: killed"));
                    continue;
                }
                _ => Change::HighWatermark(near(&mut rng).max(bounds.high_watermark)),
            };
            let what = format!("seed {seed} step {step}: {next_change:?}");
            if let Change::Lead(begun) | Change::Follow(begun) = next_change {
                latest = latest.max(begun);
            }
            assert_eq!(change(&*on_disk, next_change), change(&in_memory, next_change), "{what}");
            assert_same(&on_disk, &in_memory, latest, &what);
        }
    }
}
