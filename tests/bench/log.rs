//! What the log costs beyond the write to the page cache that nobody can avoid, on one thread: appends of several
//! sizes, reads at the tail and in old segments, loading and recovery.
//!
//! `cargo bench --bench log` measures; `cargo test` runs it with tiny inputs.

use std::fs::File;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use odradek::config::log::LogConfig;
use odradek::config::sections::LogDirsConfig;
use odradek::log::dirs::LogDirs;
use odradek::log::{FirstBatch, Log, ReadUntil};
use odradek::model::{LeaderEpoch, Offset, TopicPartition};
use odradek::record::append::prepare;
use odradek::record::append_rules::{AppendOrigin, AppendRules};
use odradek::record::build::BatchBuilder;

fn batch(value_bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new();
    builder.append(1_700_000_000_000, None, Some(&vec![b'v'; value_bytes]), &[]);
    builder.build()
}

/// The unavoidable part: one write of the same bytes to the same place of a file.
fn bare_writes(bytes: &Bytes, count: u64) -> f64 {
    let file: File = tempfile::tempfile().expect("a temporary file");
    let started = Instant::now();
    for i in 0..count {
        let parts = [IoSlice::new(&bytes[..61]), IoSlice::new(&bytes[61..])];
        rustix::io::pwritev(&file, &parts, i * bytes.len() as u64).expect("writable");
    }
    started.elapsed().as_nanos() as f64 / count as f64
}

fn appends(log: &Log, bytes: &Bytes, count: u64) -> f64 {
    let rules = AppendRules { max_message_bytes: 8 << 20, ..AppendRules::default() };
    // Preparing belongs to the record room: it is done before the clock starts.
    let prepared = prepare(bytes.clone(), &rules, 0).expect("a valid batch");
    let mut work: Vec<_> = (0..count.min(1000)).map(|_| prepared.clone()).collect();
    let at = work.len() as u64;
    let started = Instant::now();
    for i in 0..count {
        let prepared = &mut work[(i % at) as usize];
        log.append_as_leader(prepared, LeaderEpoch(0), AppendOrigin::Client, 1_700_000_000_000).expect("appended");
    }
    let elapsed = started.elapsed().as_nanos() as f64 / count as f64;
    log.update_high_watermark(log.log_end_offset());
    elapsed
}

fn reads(log: &Log, count: u64, from: impl Fn(u64) -> i64) -> f64 {
    let mut bytes = 0;
    let started = Instant::now();
    for i in 0..count {
        let fetched =
            log.read(Offset(from(i)), 1 << 20, ReadUntil::HighWatermark, FirstBatch::Whole).expect("readable");
        bytes += fetched.region.map_or(0, |region| u64::from(region.len));
    }
    assert!(bytes > 0);
    started.elapsed().as_nanos() as f64 / count as f64
}

fn main() {
    let is_real = std::env::args().any(|argument| argument == "--bench");
    let scale = if is_real { 1 } else { 1000 };
    let root = tempfile::tempdir().expect("a temporary directory");
    let config = LogDirsConfig { dirs: vec![root.path().to_path_buf()], ..LogDirsConfig::default() };
    let topic = Arc::new(LogConfig { segment_bytes: 64 << 20, ..LogConfig::default() });
    let open = || {
        let (failures, _) = tokio::sync::mpsc::unbounded_channel();
        let dirs = LogDirs::open(&config, failures, Arc::default()).expect("openable");
        let started = Instant::now();
        dirs.load(&|_| topic.clone(), 0, &|_| {}).expect("loadable");
        (dirs, started.elapsed())
    };
    let (dirs, _) = open();
    let create = |partition| {
        let tp = TopicPartition::new("bench", partition);
        dirs.get_or_create(&tp, None, topic.clone(), true, 0).expect("creatable")
    };

    println!("{:<34} {:>10} {:>10} {:>10}  ns", "append of one batch", "log", "bare write", "beyond");
    for (partition, (value_bytes, count)) in
        [(200, 400_000), (16 << 10, 20_000), (128 << 10, 2_000), (1 << 20, 300)].into_iter().enumerate()
    {
        let bytes = batch(value_bytes);
        let count = (count / scale).max(2);
        let log = create(partition as i32);
        log.lead(LeaderEpoch(0)).expect("nobody led before");
        appends(&log, &bytes, count / 10 + 1);
        let (ours, bare) = (appends(&log, &bytes, count), bare_writes(&bytes, count));
        println!("{:<34} {ours:>10.0} {bare:>10.0} {:>10.0}", format!("{value_bytes} bytes"), ours - bare);
    }
    let log = create(0);
    let end = log.log_end_offset().0;
    let count = (200_000 / scale).max(2);
    println!("{:<34} {:>10.0}", "find a batch at the tail", reads(&log, count, |_| end - 1));
    println!("{:<34} {:>10.0}", "find a batch anywhere", reads(&log, count, |i| (i as i64 * 7919) % end));
    let bytes: u64 = dirs.logs().iter().map(|log| log.size()).sum();
    drop((log, dirs));
    let (dirs, elapsed) = open();
    let rate = bytes as f64 / 1e6 / elapsed.as_secs_f64();
    println!("recovery after a crash: {} logs, {bytes} bytes in {elapsed:?}, {rate:.0} MB/s", dirs.logs().len());
    let create = |partition| {
        let tp = TopicPartition::new("bench", partition);
        dirs.get_or_create(&tp, None, topic.clone(), true, 0).expect("creatable")
    };
    let idle = (10_000 / scale).max(2) as i32;
    let started = Instant::now();
    for partition in 100..100 + idle {
        create(partition);
    }
    println!("{:<34} {:>10.0}", "create a partition", started.elapsed().as_nanos() as f64 / f64::from(idle));
    dirs.shutdown(0);
    drop(dirs);
    let (dirs, elapsed) = open();
    println!("load after a clean shutdown: {} logs in {elapsed:?}", dirs.logs().len());
    if !is_real {
        println!("tiny inputs: the numbers above say only that the bench runs");
    }
}
