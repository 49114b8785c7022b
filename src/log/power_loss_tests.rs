//! Whatever the power takes with it: after random histories over a disk that forgets what was not fsynced, a log opens with a
//! beginning of what was written that has all that was flushed, and with every fact about it. It is compacted meanwhile, moves
//! between two directories, and is deleted and made anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc::unbounded_channel;

use super::cleaner::Cleaner;
use super::dirs::LogDirs;
use super::dirs::moves::Step;
use super::error::LogError;
use super::testing::*;
use super::{Log, OffsetQuery, ProducerSummary, forgetful_disk};
use crate::config::log::LogConfig;
use crate::config::sections::{CleanerConfig, LogDirsConfig};
use crate::model::{LeaderEpoch, Offset, TopicId, TopicPartition};
use crate::record::append_rules::AppendOrigin;
use crate::record::batch::BatchHeader;
use crate::record::build::BatchBuilder;
use crate::record::read::{self, Record};

const SEEDS: u64 = 120;
const STEPS: u32 = 60;
const FIRST_DELICATE: u32 = 20;
const LONG_MS: i64 = 1_000_000;

fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    match number("ODRADEK_TEST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ODRADEK_TEST_POWER_LOSSES").unwrap_or(SEEDS),
    }
}

fn config(rng: &mut StdRng) -> LogConfig {
    let retention_bytes = if rng.random() { Some(3000) } else { None };
    let compact = rng.random();
    LogConfig {
        compact,
        delete: !compact || rng.random_bool(0.3),
        min_cleanable_dirty_ratio: 0.0,
        delete_retention_ms: if rng.random() { 0 } else { LONG_MS },
        retention_bytes,
        retention_ms: None,
        flush_messages: if rng.random_bool(0.2) { 5 } else { i64::MAX },
        flush_before_acknowledgement: rng.random_bool(0.2),
        file_delete_delay_ms: 0,
        ..small_segments()
    }
}

fn open(root: &Path, config: &Arc<LogConfig>) -> LogDirs {
    try_open(root, config).expect("openable")
}

fn try_open(root: &Path, config: &Arc<LogConfig>) -> Result<LogDirs, LogError> {
    let dirs = LogDirsConfig {
        dirs: DIRS.map(|dir| root.join(dir)).to_vec(),
        topic_defaults: (**config).clone(),
        producer_id_expiration_ms: i64::MAX,
        ..LogDirsConfig::default()
    };
    let (sender, _) = unbounded_channel();
    let dirs = LogDirs::open(&dirs, sender, Arc::default())?;
    dirs.load(&|_| Arc::clone(config), 0, &|_| {})?;
    Ok(dirs)
}

/// The log may move between these.
const DIRS: [&str; 2] = ["a", "b"];

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
    /// The same of records, for batches that compaction writes anew.
    records: BTreeMap<i64, Record>,
    records_ever: BTreeMap<i64, Vec<Record>>,
    epoch: i32,
    /// Next sequence of each producer.
    sequences: BTreeMap<i64, i32>,
}

impl History {
    fn note(&mut self, base: i64, bytes: Bytes) {
        for record in read::records(&bytes) {
            let record = record.expect("readable");
            self.records.insert(record.offset, record.clone());
            self.records_ever.entry(record.offset).or_default().push(record);
        }
        self.batches.insert(base, bytes.clone());
        self.ever.entry(base).or_default().push(bytes);
    }
}

fn create(dirs: &LogDirs, config: &Arc<LogConfig>) -> Arc<Log> {
    let id = Some(TopicId(rand::random()));
    dirs.get_or_create(&partition(), id, Arc::clone(config), true, 0).expect("creatable")
}

fn cleaner_config() -> CleanerConfig {
    CleanerConfig { dedupe_buffer_bytes: 24 * 1000, ..CleanerConfig::default() }
}

struct World {
    dirs: Arc<LogDirs>,
    cleaner: Cleaner,
    config: Arc<LogConfig>,
    log: Arc<Log>,
    history: History,
    rng: StdRng,
    /// Below this everything was flushed before the step that is under way.
    flushed: Offset,
    /// Where the log has started at most.
    start: Offset,
    /// It is being deleted, or made anew.
    may_be_gone: bool,
    /// Events within compaction, moves and deletions.
    delicate: Vec<u64>,
}

impl World {
    fn step(&mut self, now_ms: i64) {
        let (op, before) = (self.rng.random_range(0..27), forgetful_disk::events());
        match op {
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
                let deleted = self.log.delete_records(Offset(before), LeaderEpoch(self.history.epoch));
                assert_eq!(deleted.is_ok(), self.config.delete, "{deleted:?}");
            }
            17 => self.dirs.checkpoint_recovery_points(),
            18 => self.dirs.checkpoint_log_start_offsets(),
            19 => self.dirs.checkpoint_high_watermarks(),
            FIRST_DELICATE => {
                self.cleaner.clean_filthiest(&cleaner_config(), &AtomicBool::new(false), now_ms);
            }
            21 => self.cleaner.delete_old_segments(now_ms),
            22 => {
                let to = self.dirs.live_dirs()[self.rng.random_range(0..2)].display().to_string();
                self.dirs.begin_move(&partition(), &to, now_ms).expect("begun");
            }
            23..26 => {
                let first = self.rng.random();
                self.dirs.move_on(&partition(), first, now_ms).expect("it goes on");
            }
            _ => self.make_anew(now_ms),
        }
        if op >= FIRST_DELICATE {
            self.delicate.extend(before..forgetful_disk::events());
        }
        self.start = self.start.max(self.log.log_start_offset());
        let start = self.start.0;
        self.history.batches.retain(|base, _| *base >= start);
        self.history.records.retain(|offset, _| *offset >= start);
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
            let key = [if is_transactional { b't' } else { b'k' }, self.rng.random_range(0..8)];
            let value = vec![b'v'; self.rng.random_range(1..150)];
            let value = (!self.config.compact || self.rng.random_bool(0.8)).then_some(value.as_slice());
            batch.append(now_ms + i64::from(record), Some(&key), value, &[]);
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
        self.history.note(info.first_offset.0, bytes);
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

    /// The topic is deleted, and made anew with its name.
    fn make_anew(&mut self, now_ms: i64) {
        if !self.rng.random_bool(0.3) {
            return;
        }
        (self.may_be_gone, self.flushed) = (true, Offset(0));
        assert!(self.dirs.delete(&[partition()], now_ms).remove(0).expect("deleted"));
        if self.rng.random() {
            self.dirs.tick_deletions(now_ms + 10);
        }
        if forgetful_disk::has_lost_power() {
            return;
        }
        self.history = History { epoch: self.history.epoch, ..History::default() };
        self.start = Offset(0);
        self.log = create(&self.dirs, &self.config);
        self.begin_epoch();
        self.log.flush(now_ms).expect("flushed");
        self.dirs.tick_flush(now_ms);
        self.may_be_gone = forgetful_disk::has_lost_power();
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
        self.history.records.retain(|offset, _| *offset < end);
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
    let mut listed = String::new();
    for dir in DIRS.map(|dir| left.join(dir)) {
        let checkpoint = std::fs::read_to_string(dir.join("recovery-point-offset-checkpoint")).unwrap_or_default();
        listed.push_str(&format!("{checkpoint:?} "));
        for partition in names_in(&dir).into_iter().filter(|name| name.starts_with("t-0")) {
            let names = names_in(&dir.join(&partition)).into_iter().filter(|name| name.contains(".log"));
            let len = |name: &String| std::fs::metadata(dir.join(&partition).join(name)).map_or(0, |file| file.len());
            let sizes: Vec<String> =
                names.map(|name| format!("{} {}", name.trim_start_matches('0'), len(&name))).collect();
            listed.push_str(&format!("{partition} {sizes:?} "));
        }
    }
    listed
}

/// Producers and last stable offset as a replay of all batches has them.
fn replayed(log: &Log, config: &Arc<LogConfig>) -> (Vec<String>, Offset) {
    let root = scratch();
    for dir in DIRS {
        std::fs::create_dir(root.path().join(dir)).expect("writable");
    }
    let partition_dir = root.path().join(DIRS[0]).join("t-0");
    copy_tree(&log.dir(), &partition_dir);
    for name in names_in(&partition_dir).into_iter().filter(|name| name.ends_with(".snapshot")) {
        std::fs::remove_file(partition_dir.join(name)).expect("writable");
    }
    let dirs = open(root.path(), config);
    transactions_of(&dirs.get(&partition()).expect("it was there"))
}

fn transactions_of(log: &Log) -> (Vec<String>, Offset) {
    log.update_high_watermark(log.log_end_offset());
    // A batch that compaction has written anew is as young as what is left of it.
    let is_compacted = log.config().compact;
    let shown = |mut producer: ProducerSummary| {
        producer.last_timestamp_ms *= i64::from(!is_compacted);
        format!("{producer:?}")
    };
    let mut producers: Vec<String> = log.producers().into_iter().map(shown).collect();
    producers.sort();
    (producers, log.bounds().last_stable_offset)
}

fn check(left: &Path, config: &Arc<LogConfig>, world: &mut World, what: &str) {
    let what = &format!("{what}, left: {}", listed(left));
    let dirs = try_open(left, config).unwrap_or_else(|error| panic!("{what}: {error}"));
    let Some(log) = dirs.get(&partition()) else {
        return assert!(world.may_be_gone, "{what}: the partition is gone");
    };
    if dirs.has_future(&partition()) && world.rng.random() {
        let (end, mut before) = (log.log_end_offset(), read_all(&log));
        let mut steps = (0..100)
            .map(|step| dirs.move_on(&partition(), step == 0, 0).unwrap_or_else(|error| panic!("{what}: {error}")));
        assert!(steps.any(|step| step == Step::Over), "{what}: the move does not end");
        drop(steps);
        // A crash may have made the log forget what was deleted, which its copy lacks.
        before.retain(|(header, _)| header.last_offset >= log.log_start_offset().0);
        assert!((log.log_end_offset(), read_all(&log)) == (end, before), "{what}: it has moved");
    }
    let bounds = log.bounds();
    let read = read_all(&log);
    let mut next = None;
    for (header, bytes) in &read {
        let ever = world.history.ever.get(&header.base_offset);
        let was_written = config.compact || ever.is_some_and(|ever| ever.contains(bytes));
        assert!(was_written, "{what}: {} was never written", header.base_offset);
        // Of what was deleted, some may be back. And nothing tells that a file has lost whole writes at its end, for a log may
        // go on behind a gap, as one that was cut within a batch does; but only what was not flushed may be missing.
        let gap = next.is_some_and(|next: i64| {
            next != header.base_offset
                && header.base_offset > world.start.0
                && next.max(world.start.0) < world.flushed.0
        });
        assert!(!gap || config.compact, "{what}: there is a gap between {next:?} and {}", header.base_offset);
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
    if config.compact {
        check_records(&read, world, what);
    } else {
        for (base, bytes) in world.history.batches.range(bounds.log_start_offset.0..) {
            let last = BatchHeader::read(bytes).expect("a header").expect("a batch").last_offset;
            if last < world.flushed.0 {
                let is_there = read.iter().any(|(header, there)| header.base_offset == *base && there == bytes);
                assert!(is_there, "{what}: the batch at {base} was flushed, up to {}", world.flushed);
            }
        }
    }
    check_indexes(&log, &read, what);
    // Compaction takes what nobody needs of ended transactions, and their producers' epochs with it.
    if bounds.log_start_offset == Offset(0) && (!config.compact || config.delete_retention_ms == LONG_MS) {
        assert_eq!(transactions_of(&log), replayed(&log, config), "{what}: producers are not those of a replay");
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

/// Each record was written, and of each key the last that was flushed is there or a later one; a tombstone or nothing.
fn check_records(read: &[(BatchHeader, Bytes)], world: &World, what: &str) {
    let mut last: BTreeMap<Bytes, i64> = BTreeMap::new();
    let mut next = 0;
    for (header, bytes) in read {
        for record in read::records(bytes) {
            let record = record.expect("readable");
            let ever = world.history.records_ever.get(&record.offset);
            assert!(ever.is_some_and(|ever| ever.contains(&record)), "{what}: {} was never written", record.offset);
            assert!(record.offset >= next, "{what}: {} comes behind {next}", record.offset);
            next = record.offset + 1;
            if !header.is_control {
                last.insert(record.key.clone().expect("all have keys"), record.offset);
            }
        }
    }
    let mut flushed = BTreeMap::new();
    for (offset, record) in world.history.records.range(..world.flushed.0) {
        // Transactions may have been aborted.
        if let Some(key) = record.key.clone().filter(|key| key[0] == b'k') {
            flushed.insert(key, (*offset, record.value.is_some()));
        }
    }
    for (key, (offset, has_value)) in flushed {
        let there = last.get(&key).copied().filter(|there| *there >= world.start.0);
        let is_right = there.map_or(!has_value, |there| there >= offset);
        assert!(is_right, "{what}: {key:?} at {offset} was flushed, up to {}: {there:?}", world.flushed);
    }
}

/// Each offset is found, and each time.
fn check_indexes(log: &Log, read: &[(BatchHeader, Bytes)], what: &str) {
    for (at, (header, bytes)) in read.iter().enumerate() {
        let begins = at.checked_sub(1).map_or(log.log_start_offset().0, |before| read[before].0.next_offset());
        for from in [begins, header.last_offset] {
            if from >= log.log_start_offset().0 {
                assert_eq!(&read_bytes(log, Offset(from), 1), bytes, "{what}: read from {from}");
            }
        }
        let found = log.offset_for_timestamp(OffsetQuery::AtOrAfter(header.max_timestamp)).expect("searchable");
        // The first segment that has one so young decides, though it may be of a batch that is empty or was deleted.
        if let Some(found) = found.filter(|_| header.record_count > 0 && header.base_offset >= log.log_start_offset().0)
        {
            assert!(found.timestamp_ms >= header.max_timestamp, "{what}: {found:?}");
            assert!(found.offset.0 <= header.last_offset, "{what}: {found:?}");
        }
    }
}

/// How many events there were, and which were delicate.
fn live(seed: u64, at_event: u64) -> (u64, Vec<u64>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let config = Arc::new(config(&mut rng));
    let (root, left_root) = (scratch(), scratch());
    let left: PathBuf = left_root.path().join("left");
    for dir in DIRS {
        std::fs::create_dir(root.path().join(dir)).expect("writable");
    }
    let dirs = Arc::new(open(root.path(), &config));
    let log = create(&dirs, &config);
    // The partition is there.
    append_in_epoch(&log, batch(&[1], 5), 0).expect("appended");
    log.flush(0).expect("flushed");
    dirs.tick_flush(0);
    dirs.checkpoint_recovery_points();
    let first = read_bytes(&log, Offset(0), 1);
    let mut history = History::default();
    history.note(0, first);
    forgetful_disk::watch(root.path(), at_event, seed, &left);
    let mut world = World {
        cleaner: Cleaner::new(Arc::clone(&dirs), &cleaner_config()),
        dirs,
        config: Arc::clone(&config),
        log,
        history,
        rng,
        flushed: Offset(1),
        start: Offset(0),
        may_be_gone: false,
        delicate: Vec::new(),
    };
    world.begin_epoch();
    let mut step = 0;
    while step < STEPS && !forgetful_disk::has_lost_power() {
        world.step(i64::from(step) * 10);
        step += 1;
    }
    let events = forgetful_disk::lose_power();
    check(&left, &config, &mut world, &format!("seed {seed}, event {at_event}, step {step}"));
    world.log.abandon();
    (events, world.delicate)
}

#[test]
fn after_a_loss_of_power_a_log_has_all_that_was_flushed_and_knows_all_about_it() {
    for seed in seeds() {
        // At the end, somewhere in the middle of a step, and within one of those that are over soon.
        let (events, delicate) = live(seed, u64::MAX);
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
        live(seed, rng.random_range(0..=events));
        if !delicate.is_empty() {
            live(seed, delicate[rng.random_range(0..delicate.len())]);
        }
    }
}
