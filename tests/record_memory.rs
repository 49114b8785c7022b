//! Promise: whatever a compressed batch inflates to, checking it costs the broker little memory.
//!
//! Alone in its process, because it looks at the peak of the whole process.

use std::io::Write;

use bytes::Bytes;
use odradek::record::append::prepare;
use odradek::record::append_rules::{AppendRules, TopicCompression};
use odradek::record::batch::{Batch, HEADER_BYTES_V2};
use odradek::record::build::BatchBuilder;
use odradek::record::compression::Codec;
use odradek::record::error::RecordError;

/// The window of zstd, the tables of the codecs, and what the test itself needs.
const GROWTH_KIB_MAX: u64 = 24 * 1024;

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this test needs /proc");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("the kernel tells the peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("the peak is a number")
}

/// A batch that declares `count` records and whose body is what `codec` makes of the parts.
fn batch_of(codec: Codec, count: i32, parts: impl Iterator<Item = Vec<u8>>) -> Bytes {
    let mut batch = BatchBuilder::new().build()[..HEADER_BYTES_V2].to_vec();
    let body = match codec {
        Codec::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            parts.for_each(|part| encoder.write_all(&part).unwrap());
            encoder.finish().unwrap()
        }
        _ => {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            parts.for_each(|part| encoder.write_all(&part).unwrap());
            encoder.finish().unwrap()
        }
    };
    batch.extend(body);
    let size = batch.len() as i32 - 12;
    batch[8..12].copy_from_slice(&size.to_be_bytes());
    batch[21..23].copy_from_slice(&i16::from(codec.id()).to_be_bytes());
    batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    batch[35..43].copy_from_slice(&(-1_i64).to_be_bytes());
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    Bytes::from(batch)
}

fn varint(value: i64) -> Vec<u8> {
    let mut raw = ((value << 1) ^ (value >> 63)) as u64;
    let mut out = Vec::new();
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
    out
}

/// One record with a null key and a value of zeros that makes the whole inflate to so many bytes.
fn one_giant(codec: Codec, inflated_bytes: i64) -> Bytes {
    let value_len = inflated_bytes - 64;
    // attributes, timestamp delta, offset delta, null key; after the value, no headers
    let head = [&[0, 0, 0, 1], &varint(value_len)[..]].concat();
    let length = varint(head.len() as i64 + value_len + 1);
    let zeros = (0..value_len).step_by(1 << 20).map(move |at| vec![0; (1 << 20).min((value_len - at) as usize)]);
    batch_of(codec, 1, [length, head].into_iter().chain(zeros).chain([vec![0]]))
}

/// A multitude of the smallest records.
fn many_small(codec: Codec, count: i32) -> Bytes {
    let record = [&varint(6)[..], &[0, 0, 0, 1, 1, 0]].concat();
    batch_of(codec, count, (0..count).step_by(1000).map(|_| record.repeat(1000)))
}

#[test]
fn a_batch_that_inflates_to_a_gigabyte_costs_little_memory() {
    // Gzip is slow without optimization; a third of a gigabyte shows as much.
    for (codec, inflated_bytes) in [(Codec::Gzip, 350 << 20), (Codec::Zstd, 1 << 30)] {
        let giant = one_giant(codec, inflated_bytes);
        let many = many_small(codec, 1_000_000);
        let rules = AppendRules { max_message_bytes: giant.len().max(many.len()), ..AppendRules::default() };
        let recompressing =
            AppendRules { compression: TopicCompression::Codec { codec: Codec::Lz4, level: None }, ..rules.clone() };
        let compacted = AppendRules { compacted: true, ..rules.clone() };
        let before = peak_kib();

        let prepared = prepare(giant.clone(), &rules, 0).expect("a giant record is a valid record");
        assert_eq!(prepared.record_count(), 1);
        let refused = prepare(giant, &recompressing, 0).unwrap_err();
        assert!(matches!(refused, RecordError::BatchTooLarge { .. }), "{refused}");
        let refused = prepare(many.clone(), &compacted, 0).unwrap_err();
        assert_eq!(refused.rejected_records().len(), 1000, "not one name for each of a million");
        assert!(Batch::first_of(&many).unwrap().unwrap().crc_is_valid());

        let grown = peak_kib() - before;
        assert!(grown <= GROWTH_KIB_MAX, "{codec}: the peak grew by {grown} KiB");
    }
}
