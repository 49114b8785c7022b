//! Whatever the power takes with it: after random histories over a disk that forgets what was not fsynced, a log opens with a
//! beginning of what was written that has all that was flushed, and with every fact about it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc::unbounded_channel;

use super::dirs::LogDirs;
use super::testing::*;
use super::{Log, forgetful_disk};
use crate::config::log::LogConfig;
use crate::config::sections::LogDirsConfig;
use crate::model::{LeaderEpoch, Offset, TopicPartition};
use crate::record::append_rules::AppendOrigin;
use crate::record::build::BatchBuilder;

const SEEDS: u64 = 300;
const STEPS: u32 = 60;

fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    match number("ODRADEK_TEST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ODRADEK_TEST_POWER_LOSSES").unwrap_or(SEEDS),
    }
}

fn config(rng: &mut StdRng) -> LogConfig {
    let retention_bytes = if rng.random() { Some(3000) } else { None };
    LogConfig {
        retention_bytes,
        retention_ms: None,
        flush_messages: if rng.random_bool(0.2) { 5 } else { i64::MAX },
        flush_before_acknowledgement: rng.random_bool(0.2),
        file_delete_delay_ms: 0,
        ..small_segments()
    }
}

fn open(root: &Path, config: &Arc<LogConfig>) -> LogDirs {
    let dirs = LogDirsConfig {
        dirs: vec![root.to_path_buf()],
        topic_defaults: (**config).clone(),
        producer_id_expiration_ms: i64::MAX,
        ..LogDirsConfig::default()
    };
    let (sender, _) = unbounded_channel();
    let dirs = LogDirs::open(&dirs, sender, Arc::default()).expect("openable");
    dirs.load(&|_| Arc::clone(config), 0, &|_| {}).expect("loadable");
    dirs
}

fn partition() -> TopicPartition {
    TopicPartition::new("t", 0)
}

/// What the log should hold.
#[derive(Clone, Default)]
struct History {
    /// By base offset, in the log now.
    batches: BTreeMap<i64, Bytes>,
    /// All that was ever written at an offset.
    ever: BTreeMap<i64, Vec<Bytes>>,
    epoch: i32,
    /// Next sequence of each producer.
    sequences: BTreeMap<i64, i32>,
}

struct World {
    dirs: LogDirs,
    log: Arc<Log>,
    history: History,
    rng: StdRng,
    /// Below this everything was flushed before the step that is under way.
    flushed: Offset,
    /// Where the log has started at most.
    start: Offset,
}

impl World {
    fn step(&mut self, now_ms: i64) {
        match self.rng.random_range(0..20) {
            0..9 => self.append(now_ms),
            9 => self.begin_epoch(),
            10 => self.truncate(now_ms),
            11 => self.log.flush(now_ms).expect("flushed"),
            12 => self.log.roll(now_ms).expect("rolled"),
            13 | 14 => self.dirs.tick_flush(now_ms),
            15 => {
                self.dirs.tick_retention(now_ms);
                self.dirs.tick_deletions(now_ms + 10);
            }
            16 => {
                let bounds = self.log.bounds();
                let before = self.rng.random_range(bounds.log_start_offset.0..=bounds.high_watermark.0);
                self.log.delete_records(Offset(before), LeaderEpoch(self.history.epoch)).expect("in range");
            }
            17 => self.dirs.checkpoint_recovery_points(),
            18 => self.dirs.checkpoint_log_start_offsets(),
            _ => self.dirs.checkpoint_high_watermarks(),
        }
        self.start = self.start.max(self.log.log_start_offset());
        let start = self.start.0;
        self.history.batches.retain(|base, _| *base >= start);
        if !forgetful_disk::has_lost_power() {
            self.flushed = self.flushed.max(self.log.recovery_point()).min(self.log.log_end_offset());
        }
    }

    fn append(&mut self, now_ms: i64) {
        let producer = self.rng.random_range(0..4);
        let mut batch = BatchBuilder::new();
        let count = self.rng.random_range(1..4);
        let is_transactional = producer == 3;
        if producer > 0 {
            let sequence = self.history.sequences.entry(producer).or_default();
            batch = batch.producer(producer, 0, *sequence).transactional(is_transactional);
            *sequence += count;
        }
        for record in 0..count {
            batch.append(now_ms + i64::from(record), Some(b"k"), Some(&vec![b'v'; self.rng.random_range(1..150)]), &[]);
        }
        self.put(batch, AppendOrigin::Client, now_ms);
        if is_transactional && self.rng.random() {
            let marker = marker(producer, self.rng.random(), 1);
            self.put(marker, AppendOrigin::Coordinator, now_ms);
        }
    }

    fn put(&mut self, batch: BatchBuilder, origin: AppendOrigin, now_ms: i64) {
        let mut prepared = prepared_as(batch, origin);
        let epoch = LeaderEpoch(self.history.epoch);
        let info = self.log.append_as_leader(&mut prepared, epoch, origin, now_ms).expect("appended");
        let bytes = read_bytes(&self.log, info.first_offset, 1);
        self.history.batches.insert(info.first_offset.0, bytes.clone());
        self.history.ever.entry(info.first_offset.0).or_default().push(bytes);
        if self.rng.random_bool(0.7) {
            self.log.update_high_watermark(info.log_end_offset);
        }
        if info.flush_due {
            let until = self.log.flush_for_acknowledgement(now_ms).expect("flushed");
            if !forgetful_disk::has_lost_power() {
                self.flushed = until;
            }
        }
    }

    fn begin_epoch(&mut self) {
        self.history.epoch += 1;
        self.log.lead(LeaderEpoch(self.history.epoch)).expect("epochs rise");
    }

    /// As a follower does, and then leads. Producers go on with what the log knows of them.
    fn truncate(&mut self, now_ms: i64) {
        let bounds = self.log.bounds();
        let to = self.rng.random_range(bounds.high_watermark.0..=bounds.log_end_offset.0);
        // Batches go whole.
        let to =
            self.history.batches.range(..=to).next_back().map_or(to, |(base, _)| *base.max(&bounds.high_watermark.0));
        self.flushed = self.flushed.min(Offset(to));
        self.history.epoch += 1;
        self.log.follow(LeaderEpoch(self.history.epoch)).expect("epochs rise");
        self.log.truncate_to(Offset(to), LeaderEpoch(self.history.epoch), now_ms).expect("truncated");
        self.dirs.write_recovery_points_moved_back(now_ms);
        let end = self.log.log_end_offset().0;
        self.history.batches.retain(|base, _| *base < end);
        self.begin_epoch();
        self.history.sequences = self
            .log
            .producers()
            .iter()
            .filter(|producer| producer.last_sequence >= 0)
            .map(|producer| (producer.producer_id.0, producer.last_sequence + 1))
            .collect();
    }
}

/// For messages: the segments that are left, how long, and how much of the log was flushed.
fn listed(left: &Path) -> String {
    let partition = left.join("t-0");
    let logs = names_in(&partition).into_iter().filter(|name| name.contains(".log"));
    let len = |name: &String| std::fs::metadata(partition.join(name)).map_or(0, |metadata| metadata.len());
    let sizes: Vec<String> = logs.map(|name| format!("{} {}", name.trim_start_matches('0'), len(&name))).collect();
    let checkpoint = std::fs::read_to_string(left.join("recovery-point-offset-checkpoint")).unwrap_or_default();
    format!("{sizes:?} {checkpoint:?}")
}

/// Producers as a replay of all batches has them.
fn replayed(left: &Path, config: &Arc<LogConfig>) -> Vec<String> {
    let root = scratch();
    copy_tree(left, root.path());
    for name in names_in(&root.path().join("t-0")) {
        if name.ends_with(".snapshot") {
            std::fs::remove_file(root.path().join("t-0").join(name)).expect("writable");
        }
    }
    for name in ["recovery-point-offset-checkpoint", ".kafka_cleanshutdown"] {
        let _ = std::fs::remove_file(root.path().join(name));
    }
    let dirs = open(root.path(), config);
    producers_of(&dirs.get(&partition()).expect("it was there"))
}

fn producers_of(log: &Log) -> Vec<String> {
    let mut producers: Vec<String> = log.producers().iter().map(|producer| format!("{producer:?}")).collect();
    producers.sort();
    producers
}

fn check(left: &Path, config: &Arc<LogConfig>, world: &World, what: &str) {
    let what = &format!("{what}, left: {}", listed(left));
    let dirs = open(left, config);
    let log = dirs.get(&partition()).unwrap_or_else(|| panic!("{what}: the partition is gone"));
    let bounds = log.bounds();
    let read = read_all(&log);
    let mut next = None;
    for (header, bytes) in &read {
        let ever = world.history.ever.get(&header.base_offset);
        assert!(ever.is_some_and(|ever| ever.contains(bytes)), "{what}: {} was never written", header.base_offset);
        // Of what was deleted, some may be back. And nothing tells that a file has lost whole writes at its end, for a log may
        // go on behind a gap, as one that was cut within a batch does; but only what was not flushed may be missing.
        let gap = next.is_some_and(|next| {
            next != header.base_offset && header.base_offset > world.start.0 && next < world.flushed.0
        });
        assert!(!gap, "{what}: there is a gap between {next:?} and {}", header.base_offset);
        next = Some(header.next_offset());
        let epochs = log.epochs();
        let at = epochs.iter().rfind(|epoch| epoch.start_offset.0 <= header.base_offset);
        // Records that were deleted may be back, and then nobody knows their epoch any more.
        if let Some(at) = at {
            let known = (at.epoch.0, &epochs, log.recovery_point());
            assert_eq!(
                known.0, header.partition_leader_epoch,
                "{what}: the epoch at {}: {known:?}",
                header.base_offset
            );
        }
    }
    assert!(next.is_none_or(|next| bounds.log_end_offset.0 >= next), "{what}: {bounds:?}");
    for (base, bytes) in world.history.batches.range(bounds.log_start_offset.0..) {
        let last = crate::record::batch::BatchHeader::read(bytes).expect("a header").expect("a batch").last_offset;
        if last < world.flushed.0 {
            let is_there = read.iter().any(|(header, there)| header.base_offset == *base && there == bytes);
            assert!(is_there, "{what}: the batch at {base} was flushed, up to {}", world.flushed);
        }
    }
    if bounds.log_start_offset == Offset(0) {
        assert_eq!(producers_of(&log), replayed(left, config), "{what}: producers are not those of a replay");
    }
    // It goes on.
    let epoch = log.last_epoch().map_or(0, |epoch| epoch.0) + 1;
    append_in_epoch(&log, batch(&[1], 5), epoch).unwrap_or_else(|error| panic!("{what}: {error}"));
    let end = log.log_end_offset();
    dirs.shutdown(0);
    drop(dirs);
    let again = open(left, config);
    let log = again.get(&partition()).expect("it was closed in order");
    assert_eq!((log.log_end_offset(), read_all(&log).len()), (end, read.len() + 1), "{what}: closed in order");
}

fn live(seed: u64, at_event: u64) -> u64 {
    let mut rng = StdRng::seed_from_u64(seed);
    let config = Arc::new(config(&mut rng));
    let (root, left_root) = (scratch(), scratch());
    let left: PathBuf = left_root.path().join("left");
    let dirs = open(root.path(), &config);
    let log = dirs.get_or_create(&partition(), None, Arc::clone(&config), true, 0).expect("creatable");
    // The partition is there.
    append_in_epoch(&log, batch(&[1], 5), 0).expect("appended");
    log.flush(0).expect("flushed");
    dirs.tick_flush(0);
    dirs.checkpoint_recovery_points();
    let first = read_bytes(&log, Offset(0), 1);
    let mut history = History::default();
    history.batches.insert(0, first.clone());
    history.ever.insert(0, vec![first]);
    forgetful_disk::watch(root.path(), at_event, seed, &left);
    let mut world = World { dirs, log, history, rng, flushed: Offset(1), start: Offset(0) };
    world.begin_epoch();
    let mut step = 0;
    while step < STEPS && !forgetful_disk::has_lost_power() {
        world.step(i64::from(step) * 10);
        step += 1;
    }
    let events = forgetful_disk::lose_power();
    check(&left, &config, &world, &format!("seed {seed}, event {at_event}, step {step}"));
    world.log.abandon();
    events
}

#[test]
fn after_a_loss_of_power_a_log_has_all_that_was_flushed_and_knows_all_about_it() {
    for seed in seeds() {
        // At the end, and somewhere in the middle of a step.
        let events = live(seed, u64::MAX);
        let at_event = StdRng::seed_from_u64(seed ^ 0x5eed).random_range(0..=events);
        live(seed, at_event);
    }
}
