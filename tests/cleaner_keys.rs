//! Promise: a topic with more keys than the memory of the cleaner holds is compacted in several passes, each of which costs no
//! more than that memory; and of each key the last record stays.
//!
//! Alone in its process, because it looks at the peak of the whole process.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use bytes::Bytes;
use odradek::config::log::LogConfig;
use odradek::config::sections::{CleanerConfig, LogDirsConfig};
use odradek::log::cleaner::Cleaner;
use odradek::log::dirs::LogDirs;
use odradek::log::{FirstBatch, Log, ReadUntil};
use odradek::model::{LeaderEpoch, Offset, TopicPartition};
use odradek::record::append::prepare;
use odradek::record::append_rules::{AppendOrigin, AppendRules};
use odradek::record::batch::Batches;
use odradek::record::build::BatchBuilder;
use odradek::record::read;

/// Beyond the memory for keys: buffers, what a segment's indexes hold while it is written, and what the test itself needs.
const GROWTH_BYTES_MAX: u64 = 48 << 20;
const BATCH: u64 = 1000;

/// Forgets the peak of the process so far.
fn reset_peak() {
    std::fs::write("/proc/self/clear_refs", "5").expect("the kernel forgets it");
}

fn kib(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this test needs /proc");
    let line = status.lines().find(|line| line.starts_with(what)).expect("the kernel tells it");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("it is a number")
}

fn open(root: &Path) -> Arc<LogDirs> {
    let topic = LogConfig {
        compact: true,
        delete: false,
        min_cleanable_dirty_ratio: 0.0,
        segment_bytes: 64 << 20,
        ..LogConfig::default()
    };
    let config = LogDirsConfig { dirs: vec![root.to_path_buf()], ..LogDirsConfig::default() };
    let (failures, _) = tokio::sync::mpsc::unbounded_channel();
    let dirs = Arc::new(LogDirs::open(&config, failures, Arc::default()).expect("openable"));
    dirs.load(&|_| Arc::new(topic.clone()), 0, &|_| {}).expect("loadable");
    dirs.get_or_create(&TopicPartition::new("t", 0), None, Arc::new(topic), true, 0).expect("there or creatable");
    dirs
}

fn log_of(dirs: &LogDirs) -> Arc<Log> {
    dirs.get(&TopicPartition::new("t", 0)).expect("there")
}

/// Keys far from one another follow each other.
fn shuffled(n: u64, keys: u64) -> u64 {
    n * 7_919 % keys
}

/// Each key once, and every second one again.
fn write(log: &Log, keys: u64) {
    log.lead(LeaderEpoch(0)).expect("nobody led before");
    for (round, every) in [(0_u8, 1), (1, 2)] {
        for from in (0..keys).step_by(BATCH as usize) {
            let mut batch = BatchBuilder::new();
            for key in (from..from + BATCH).map(|n| shuffled(n, keys)).filter(|key| key % every == 0) {
                batch.append(1, Some(&key.to_be_bytes()), Some(&[round; 4]), &[]);
            }
            let mut prepared = prepare(batch.build(), &AppendRules::default(), 0).expect("valid");
            let info = log.append_as_leader(&mut prepared, LeaderEpoch(0), AppendOrigin::Client, 0).expect("appended");
            log.update_high_watermark(info.log_end_offset);
        }
    }
    log.roll(0).expect("rolled");
}

/// How many keys there are, each of which is there once with its last value.
fn check(log: &Log, keys: u64) {
    let mut seen = vec![0_u64; keys.div_ceil(64) as usize];
    let (mut next, mut count) = (log.log_start_offset(), 0);
    loop {
        let fetched = log.read(next, 1 << 20, ReadUntil::LogEnd, FirstBatch::Whole).expect("readable");
        let Some(region) = fetched.region else { break };
        let mut bytes = vec![0; region.len as usize];
        region.file.read_exact_at(&mut bytes, region.position).expect("readable");
        let bytes = Bytes::from(bytes);
        for batch in Batches::new(&bytes) {
            let Ok(batch) = batch else { break };
            next = Offset(batch.header.next_offset());
            for record in read::records(&bytes.slice_ref(batch.bytes)) {
                let record = record.expect("readable");
                let key = record.key.as_deref().expect("each has a key");
                let key = u64::from_be_bytes(key.try_into().expect("of eight bytes"));
                assert_eq!(seen[key as usize / 64] >> (key % 64) & 1, 0, "{key} is there twice");
                seen[key as usize / 64] |= 1 << (key % 64);
                let round = u8::from(key % 2 == 0);
                assert_eq!(record.value.as_deref(), Some([round; 4].as_slice()), "of {key}");
                count += 1;
            }
        }
    }
    assert_eq!(count, keys);
}

/// Compacts until nothing is left to do; in how many passes.
fn compact(root: &Path, dedupe_buffer_bytes: u64, keys: u64) -> u32 {
    let dirs = open(root);
    let log = log_of(&dirs);
    log.lead(LeaderEpoch(0)).expect("nobody led later");
    log.update_high_watermark(log.log_end_offset());
    let config = CleanerConfig { dedupe_buffer_bytes, ..CleanerConfig::default() };
    let cleaner = Cleaner::new(Arc::clone(&dirs), &config);
    reset_peak();
    let (before, began, mut passes) = (kib("VmRSS:"), Instant::now(), 0);
    while log.cleaned_to() != Some(log.log_end_offset()) {
        assert!(cleaner.clean_filthiest(&config, &AtomicBool::new(false), 1), "there is something left to do");
        passes += 1;
    }
    let (took, growth) = (began.elapsed(), (kib("VmHWM:") - before) << 10);
    println!("{keys} keys, {dedupe_buffer_bytes} bytes for them: {passes} passes in {took:?}, {growth} bytes more");
    assert!(growth < dedupe_buffer_bytes + GROWTH_BYTES_MAX, "{growth} bytes");
    check(&log, keys);
    dirs.shutdown(0);
    passes
}

fn many_keys(keys: u64, passes: u64) {
    let root = tempfile::tempdir().expect("a temporary directory");
    let (small, default) = (root.path().join("small"), root.path().join("default"));
    let dirs = open(&small);
    write(&log_of(&dirs), keys);
    dirs.shutdown(0);
    drop(dirs);
    std::fs::create_dir_all(default.join("t-0")).expect("writable");
    for entry in std::fs::read_dir(small.join("t-0")).expect("readable") {
        let path = entry.expect("readable").path();
        std::fs::copy(&path, default.join("t-0").join(path.file_name().expect("a name"))).expect("writable");
    }
    // An entry takes 24 bytes, and the memory is filled to nine tenths: there are half as many records again as keys.
    let small_buffer = keys * 3 / 2 * 24 * 10 / 9 / passes;
    assert!(u64::from(compact(&small, small_buffer, keys)) >= passes);
    compact(&default, CleanerConfig::default().dedupe_buffer_bytes, keys);
}

#[test]
fn more_keys_than_there_is_memory_for_are_compacted_in_several_passes() {
    many_keys(100_000, 5);
}

/// The same at size. `tests/run.sh soak` runs it.
#[test]
#[ignore = "takes minutes without optimization"]
fn ten_million_keys_are_compacted() {
    many_keys(10_000_000, 6);
}
