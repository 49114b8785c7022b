//! Promise: whatever a batch inflates to, and however long its keys are, compacting it costs the broker little memory.
//!
//! Alone in its process, because it looks at the peak of the whole process.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use odradek::config::log::LogConfig;
use odradek::config::sections::{CleanerConfig, LogDirsConfig};
use odradek::log::cleaner::Cleaner;
use odradek::log::dirs::LogDirs;
use odradek::model::{LeaderEpoch, Offset, TopicPartition};
use odradek::record::append::prepare;
use odradek::record::append_rules::{AppendOrigin, AppendRules};
use odradek::record::batch::{Batches, HEADER_BYTES_V2};
use odradek::record::build::BatchBuilder;

/// The windows of zstd, once to read and once to write, the buffers, and what the test itself needs.
const GROWTH_KIB_MAX: u64 = 48 * 1024;
const GIANT_BYTES: usize = 1 << 30;

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this test needs /proc");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("the kernel tells the peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("the peak is a number")
}

fn varint(value: usize) -> Vec<u8> {
    let mut raw = value as u64 * 2;
    let mut out = Vec::new();
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
    out
}

/// A record of zeros, as parts, at this distance from the base offset.
fn record(offset_delta: usize, key_len: usize, value_len: usize) -> Vec<(Vec<u8>, usize)> {
    let head = [vec![0, 0], varint(offset_delta), varint(key_len)].concat();
    let middle = varint(value_len);
    let length = varint(head.len() + key_len + middle.len() + value_len + 1);
    vec![([length, head].concat(), key_len), (middle, value_len), (vec![0], 0)]
}

/// A batch of records whose keys differ in their lengths alone.
fn batch(records: &[(usize, usize)]) -> Bytes {
    let mut batch = BatchBuilder::new().build()[..HEADER_BYTES_V2].to_vec();
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("there is memory");
    for (at, (key_len, value_len)) in records.iter().enumerate() {
        for (bytes, zeros) in record(at, *key_len, *value_len) {
            encoder.write_all(&bytes).expect("to memory");
            std::io::copy(&mut std::io::Read::take(std::io::repeat(0), zeros as u64), &mut encoder).expect("to memory");
        }
    }
    batch.extend(encoder.finish().expect("to memory"));
    let (size, count) = (batch.len() as i32 - 12, records.len() as i32);
    batch[8..12].copy_from_slice(&size.to_be_bytes());
    batch[21..23].copy_from_slice(&4_i16.to_be_bytes());
    batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    batch[27..35].copy_from_slice(&0_i64.to_be_bytes());
    batch[35..43].copy_from_slice(&0_i64.to_be_bytes());
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    Bytes::from(batch)
}

#[test]
fn a_gigabyte_in_a_batch_and_keys_of_megabytes_are_compacted_in_little_memory() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let topic = LogConfig { compact: true, delete: false, min_cleanable_dirty_ratio: 0.0, ..LogConfig::default() };
    let config = LogDirsConfig { dirs: vec![root.path().to_path_buf()], ..LogDirsConfig::default() };
    let (failures, _) = tokio::sync::mpsc::unbounded_channel();
    let dirs = Arc::new(LogDirs::open(&config, failures, Arc::default()).expect("openable"));
    dirs.load(&|_| Arc::new(topic.clone()), 0, &|_| {}).expect("loadable");
    let log = dirs.get_or_create(&TopicPartition::new("t", 0), None, Arc::new(topic.clone()), true, 0).expect("new");
    log.lead(LeaderEpoch(0)).expect("nobody led before");
    let append = |batch: Bytes| {
        let rules = AppendRules { max_message_bytes: 64 << 20, ..AppendRules::default() };
        let mut prepared = prepare(batch, &rules, 0).expect("valid");
        let info = log.append_as_leader(&mut prepared, LeaderEpoch(0), AppendOrigin::Client, 0).expect("appended");
        log.update_high_watermark(info.log_end_offset);
    };
    // One record that inflates to a gigabyte between two that go, a key of 100 MB, and a million small ones of one key.
    append(batch(&[(1, 10), (3, GIANT_BYTES), (1, 10)]));
    append(batch(&[(100 << 20, 10), (1, 10)]));
    append(batch(&vec![(2, 1000); 1_000_000]));
    append(batch(&[(1, 10), (2, 10), (100 << 20, 20)]));
    log.roll(0).expect("rolled");

    let config = CleanerConfig { dedupe_buffer_bytes: 2 << 20, ..CleanerConfig::default() };
    let cleaner = Cleaner::new(Arc::clone(&dirs), &config);
    let before = peak_kib();
    assert!(cleaner.clean_filthiest(&config, &AtomicBool::new(false), 1));
    let growth = peak_kib().saturating_sub(before);
    assert_eq!(log.cleaned_to(), Some(log.log_end_offset()), "all was compacted");
    assert!(growth < GROWTH_KIB_MAX, "{growth} KiB");
    let content = std::fs::read(root.path().join("t-0/00000000000000000000.log")).expect("readable");
    let left: Vec<(i64, i64, i32)> = Batches::new(&content)
        .map(|batch| batch.expect("sound"))
        .inspect(|batch| assert!(batch.crc_is_valid()))
        .map(|batch| (batch.header.base_offset, batch.header.last_offset, batch.header.record_count))
        .collect();
    assert_eq!(left, [(0, 2, 1), (1_000_005, 1_000_007, 3)]);
    assert!(log.log_start_offset() == Offset(0));
}
