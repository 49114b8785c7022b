//! What it costs to check batches on their way into a log, on one core and without the log: `cargo bench --bench records`.
//!
//! The bound is the checksum: every byte must pass through CRC-32C once, which runs at the speed of memory. What is
//! above that is ours: walking the records and patching the head.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use odradek::record::append::prepare;
use odradek::record::append_rules::{AppendRules, TopicCompression};
use odradek::record::batch::{Batch, TimestampType};
use odradek::record::build::BatchBuilder;
use odradek::record::compression::Codec;

fn batch(codec: Codec, records: usize, value_bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new().compression(codec, None);
    let mut noise = 1_u64;
    for i in 0..records {
        let mut value = vec![0; value_bytes];
        for byte in &mut value {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Sixteen letters: as compressible as text.
            *byte = b'a' + (noise >> 60) as u8;
        }
        builder.append(1_700_000_000_000 + i as i64, Some(&(i as u32).to_be_bytes()), Some(&value), &[]);
    }
    builder.build()
}

/// Runs `work` for about as long as told and returns what one run takes: the best of many short rounds, since others
/// share the machine.
fn measured(total: Duration, mut work: impl FnMut() -> u64) -> (Duration, u64) {
    let mut best = Duration::MAX;
    let mut hash = 0_u64;
    let start_of_all = Instant::now();
    while best == Duration::MAX || start_of_all.elapsed() < total {
        let (start, mut runs) = (Instant::now(), 0);
        while runs == 0 || start.elapsed() < Duration::from_micros(500) {
            hash = hash.wrapping_mul(31).wrapping_add(work()) % 1_000_003;
            runs += 1;
        }
        best = best.min(start.elapsed() / runs);
    }
    (best, hash)
}

fn report(name: &str, bytes: usize, records: usize, (time, hash): (Duration, u64), bound: &str) {
    let nanos = time.as_nanos() as f64;
    println!(
        "{name:<44} {nanos:>10.0} ns {:>7.2} GB/s {:>7.1} ns/record  hash {hash:06}  {bound}",
        bytes as f64 / nanos,
        nanos / records as f64,
    );
}

fn append(bytes: &Bytes, rules: &AppendRules) -> u64 {
    let mut prepared = prepare(black_box(bytes).clone(), rules, 1_700_000_000_000).expect("the batch is valid");
    prepared.assign(1000, 5, 1_700_000_000_500);
    u64::from(prepared.batches()[0].header().crc)
}

fn main() {
    let is_test = !std::env::args().any(|arg| arg == "--bench");
    let total = Duration::from_millis(if is_test { 1 } else { 300 });
    let plain = AppendRules::default();
    let append_time = AppendRules { timestamp_type: TimestampType::LogAppendTime, ..AppendRules::default() };
    let checked = AppendRules { timestamp_before_max_ms: i64::MAX - 1, compacted: true, ..AppendRules::default() };

    for (name, records, value_bytes) in
        [("1 x 200 B", 1, 200), ("1,200 x 100 B", 1200, 100), ("9,000 x 100 B", 9000, 100)]
    {
        let bytes = batch(Codec::None, records, value_bytes);
        let crc = measured(total, || u64::from(crc32c::crc32c(black_box(&bytes[21..]))));
        report(&format!("{name}, checksum alone"), bytes.len(), records, crc, "(the bound)");
        let walk = measured(total, || {
            let batch = Batch::first_of(black_box(&bytes)).expect("valid").expect("whole");
            batch.records().map(|record| record.expect("valid").timestamp as u64).sum()
        });
        report(&format!("{name}, walk alone"), bytes.len(), records, walk, "");
        report(&format!("{name}, append"), bytes.len(), records, measured(total, || append(&bytes, &plain)), "");
        let time = measured(total, || append(&bytes, &append_time));
        report(&format!("{name}, append, log append time"), bytes.len(), records, time, "");
        let time = measured(total, || append(&bytes, &checked));
        report(&format!("{name}, append, keys and timestamps"), bytes.len(), records, time, "");
    }
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        for records in [1, 1200] {
            let bytes = batch(codec, records, 100);
            let inflated = batch(Codec::None, records, 100).len();
            let time = measured(total, || append(&bytes, &plain));
            report(&format!("{records} x 100 B in {codec}, append"), inflated, records, time, "(of inflated bytes)");
        }
    }
    let bytes = batch(Codec::None, 1200, 100);
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let rules =
            AppendRules { compression: TopicCompression::Codec { codec, level: None }, ..AppendRules::default() };
        let time = measured(total, || append(&bytes, &rules));
        report(&format!("1,200 x 100 B, append, compressed to {codec}"), bytes.len(), 1200, time, "");
    }
}
