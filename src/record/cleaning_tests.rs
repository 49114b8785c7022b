use bytes::Bytes;

use super::*;
use crate::record::batch::TimestampType;
use crate::record::read::{self, Record};

fn cleaner() -> BatchCleaner {
    BatchCleaner::new(KeyHasher::new(7))
}

fn records_of(bytes: &[u8]) -> Vec<Record> {
    let bytes = Bytes::copy_from_slice(bytes);
    read::records(&bytes).collect::<Result<_, _>>().expect("readable")
}

/// Ten records with headers, each third a tombstone, at times that go back and forth.
fn sample(codec: Codec, value_bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new().compression(codec, None).base_offset(100).producer(5, 1, 40);
    for i in 0..10_u8 {
        let value = vec![i; value_bytes];
        let value = (i % 3 != 1).then_some(value.as_slice());
        builder.append(1000 + i64::from(i % 4), Some(&[b'k', i]), value, &[(b"h", Some(&[i])), (b"n", None)]);
    }
    builder.build()
}

#[test]
fn what_stays_of_a_batch_is_as_it_was_whatever_the_codec_and_the_size() {
    for codec in Codec::ALL {
        // The last does not fit what is inflated at once.
        for value_bytes in [0, 100, 70_000, 800_000] {
            let bytes = sample(codec, value_bytes);
            let batch = Batch::first_of(&bytes).expect("sound").expect("whole");
            let all = records_of(&bytes);
            let mut cleaner = cleaner();
            let selected = cleaner.select(&batch, |record| record.offset % 2 == 1).expect("readable");
            let expected: Vec<_> = all.iter().filter(|record| record.offset % 2 == 1).cloned().collect();
            assert_eq!((selected.records, selected.retained, selected.is_whole()), (10, 5, false));
            assert!(selected.has_tombstone);
            for horizon_ms in [None, Some(9_000_000)] {
                cleaner.select(&batch, |record| record.offset % 2 == 1).expect("readable");
                let rewritten = cleaner.rewrite(&batch, horizon_ms).expect("rewritten");
                assert_eq!(records_of(&rewritten), expected, "{codec} {value_bytes} {horizon_ms:?}");
                let anew = Batch::first_of(&rewritten).expect("sound").expect("whole");
                assert!(anew.crc_is_valid());
                let header = anew.header;
                assert_eq!((header.base_offset, header.last_offset, header.record_count), (100, 109, 5));
                assert_eq!((header.producer_id, header.producer_epoch, header.last_sequence()), (5, 1, 49));
                assert_eq!((header.codec, header.max_timestamp), (codec, 1003));
                assert_eq!(delete_horizon(&header), horizon_ms);
                assert_eq!(header.base_timestamp, horizon_ms.unwrap_or(1001));
                // A second pass keeps the horizon.
                cleaner.select(&anew, |record| record.offset > 103).expect("readable");
                let again = cleaner.rewrite(&anew, None).expect("rewritten");
                let again = Batch::first_of(&again).expect("sound").expect("whole").header;
                assert_eq!((delete_horizon(&again), again.last_offset, again.record_count), (horizon_ms, 109, 3));
            }
        }
    }
}

#[test]
fn a_key_has_one_number_wherever_it_is_read() {
    for key_bytes in [0, 1, 17, 300, 100_000, 5_000_000] {
        let key: Vec<u8> = (0..key_bytes).map(|i| (i * 31) as u8).collect();
        let expected = KeyHasher::new(7).hash(&key);
        for codec in Codec::ALL {
            let mut builder = BatchBuilder::new().compression(codec, None);
            builder.append(1, Some(&key), Some(b"v"), &[]);
            builder.append(1, None, None, &[]);
            let bytes = builder.build();
            let batch = Batch::first_of(&bytes).expect("sound").expect("whole");
            let mut seen = Vec::new();
            let walked = cleaner().for_each(&batch, |record| {
                seen.push((record.offset, record.key, record.has_value));
                ControlFlow::Continue(())
            });
            walked.expect("readable");
            assert_eq!(seen, [(0, Some(expected), true), (1, None, false)], "{codec} {key_bytes}");
        }
    }
}

#[test]
fn sets_of_old_formats_lose_messages_and_keep_offsets_and_times() {
    for (magic, codec) in [(0, Codec::Gzip), (0, Codec::Lz4), (1, Codec::Gzip), (1, Codec::Snappy), (1, Codec::Lz4)] {
        for kind in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
            let mut builder = MessageSetBuilder::new(magic, codec, None, kind, 500);
            for i in 0..6_i64 {
                let timestamp = match (magic, kind) {
                    (0, _) => NO_TIMESTAMP,
                    (_, TimestampType::CreateTime) => 2000 - i,
                    (_, TimestampType::LogAppendTime) => 7,
                };
                builder.append(500 + i * 2, timestamp, Some(&[b'k', i as u8]), (i != 3).then_some(&b"value"[..]));
            }
            let bytes = builder.build();
            let batch = Batch::first_of(&bytes).expect("sound").expect("whole");
            let mut cleaner = cleaner();
            let selected =
                cleaner.select(&batch, |record| record.offset > 503 && record.offset < 510).expect("readable");
            assert_eq!((selected.records, selected.retained, selected.has_tombstone), (6, 3, true));
            let rewritten = cleaner.rewrite(&batch, None).expect("rewritten");
            let expected: Vec<_> =
                records_of(&bytes).into_iter().filter(|record| (504..510).contains(&record.offset)).collect();
            assert_eq!(records_of(&rewritten), expected, "{magic} {codec} {kind:?}");
            assert!(Batch::first_of(&rewritten).expect("sound").expect("whole").crc_is_valid());
        }
    }
}

#[test]
fn an_emptied_batch_still_tells_its_producers_last_sequence() {
    let bytes = sample(Codec::Zstd, 50);
    let header = Batch::first_of(&bytes).expect("sound").expect("whole").header;
    let emptied = emptied(&header);
    let batch = Batch::first_of(&emptied).expect("sound").expect("whole");
    assert!(batch.crc_is_valid());
    assert_eq!((batch.header.last_offset, batch.header.last_sequence()), (109, 49));
    assert_eq!((batch.header.max_timestamp, batch.header.codec, batch.header.record_count), (1003, Codec::None, 0));
    let selected = cleaner().select(&batch, |_| true).expect("readable");
    assert_eq!(selected, Selected::default());
}

#[test]
fn what_cannot_be_read_is_an_error_and_no_panic() {
    let bytes = sample(Codec::Gzip, 50);
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80] {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= flip;
            let Ok(Some(mut batch)) = Batch::first_of(&damaged) else { continue };
            // The checksum is believed, so that what lies behind it is looked at.
            batch.header.crc = batch.computed_crc();
            let mut cleaner = cleaner();
            if cleaner.select(&batch, |record| record.offset % 2 == 0).is_ok() {
                let _ = cleaner.rewrite(&batch, None);
            }
        }
    }
}
