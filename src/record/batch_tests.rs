use super::*;
use crate::record::build::BatchBuilder;

fn three_records() -> bytes::Bytes {
    let mut builder = BatchBuilder::new().producer(7, 3, 11);
    builder.append(1000, Some(b"k"), Some(b"v"), &[]);
    builder.append(1005, None, Some(&[7; 300]), &[(b"h", None), (b"", Some(b"x"))]);
    builder.append(995, Some(b""), None, &[]);
    builder.build()
}

#[test]
fn a_built_batch_reads_back() {
    let bytes = three_records();
    let batch = Batch::first_of(&bytes).unwrap().unwrap();
    assert!(batch.crc_is_valid());
    assert_eq!(batch.bytes.len(), bytes.len());
    let header = batch.header;
    assert_eq!((header.base_offset, header.last_offset, header.record_count), (0, 2, 3));
    assert_eq!((header.base_timestamp, header.max_timestamp), (1000, 1005));
    assert_eq!(
        (header.producer_id, header.producer_epoch, header.base_sequence, header.last_sequence()),
        (7, 3, 11, 13)
    );
    let records: Vec<RecordView<'_>> = batch.records().collect::<Result<_, _>>().unwrap();
    assert_eq!(records.iter().map(|r| (r.offset, r.timestamp)).collect::<Vec<_>>(), [(0, 1000), (1, 1005), (2, 995)]);
    assert_eq!((records[0].key, records[0].value), (Some(&b"k"[..]), Some(&b"v"[..])));
    assert_eq!((records[1].key, records[1].value), (None, Some(&[7; 300][..])));
    assert_eq!(records[1].headers.collect::<Vec<_>>(), [(&b"h"[..], None), (&b""[..], Some(&b"x"[..]))]);
    assert_eq!((records[2].key, records[2].value), (Some(&b""[..]), None));
}

#[test]
fn a_batch_cut_short_is_ignored() {
    let bytes = three_records();
    for len in 0..bytes.len() {
        assert_eq!(Batches::new(&bytes[..len]).count(), 0, "cut at {len}");
    }
    let two = [&bytes[..], &bytes[..40]].concat();
    let mut batches = Batches::new(&two);
    assert_eq!(batches.by_ref().count(), 1);
    assert_eq!(batches.rest().len(), 40);
}

#[test]
fn a_size_or_magic_that_no_batch_has_is_corrupt() {
    let mut bytes = three_records().to_vec();
    bytes[16] = 3;
    assert_eq!(Batch::first_of(&bytes).unwrap_err(), CorruptBatch::UnknownMagic { magic: 3 });
    bytes[8..12].copy_from_slice(&13_i32.to_be_bytes());
    assert_eq!(Batch::first_of(&bytes).unwrap_err(), CorruptBatch::SizeTooSmall { size: 13 });
    bytes[8..12].copy_from_slice(&(-1_i32).to_be_bytes());
    assert_eq!(Batches::new(&bytes).count(), 1, "an error ends the iteration");
}

#[test]
fn sequences_wrap_from_the_largest_to_zero() {
    assert_eq!(incremented_sequence(i32::MAX, 1), 0);
    assert_eq!(incremented_sequence(i32::MAX - 1, 1), i32::MAX);
    assert_eq!(incremented_sequence(5, 3), 8);
}

#[test]
fn varint_lengths_are_what_is_written() {
    for shift in 0..64 {
        for value in [1_i64 << shift, (1_i64 << shift).wrapping_sub(1), -(1_i64 << (shift.min(62)))] {
            let mut out = Vec::new();
            put_varlong(&mut out, value);
            assert_eq!(out.len(), varlong_len(value), "{value}");
            let mut cursor = Cursor(&out);
            assert_eq!(cursor.varlong(), Ok(value));
            assert!(cursor.0.is_empty());
        }
    }
    assert_eq!(varlong_len(i64::MIN), 10);
    assert!(Cursor(&[0xff; 5]).varint().is_err());
    assert!(Cursor(&[0xff; 10]).varlong().is_err());
}
