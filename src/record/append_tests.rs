use super::*;
use crate::record::append_rules::AppendOrigin;
use crate::record::batch::{CONTROL_BIT, HEADER_BYTES_V2};
use crate::record::build::{
    BatchBuilder, ControlRecord, MessageSetBuilder, TransactionOutcome, end_transaction_marker,
};
use crate::record::read;

fn batch_of(records: usize) -> Bytes {
    let mut builder = BatchBuilder::new();
    for i in 0..records {
        builder.append(1000 + i as i64, Some(b"key"), Some(b"value"), &[]);
    }
    builder.build()
}

/// What the log would write.
fn written(prepared: &Prepared) -> Vec<u8> {
    prepared.batches().iter().flat_map(|batch| [batch.head(), batch.body()].concat()).collect()
}

#[test]
fn an_uncompressed_batch_gets_its_offsets_and_keeps_its_body() {
    let bytes = batch_of(3);
    let mut prepared = prepare(bytes.clone(), &AppendRules::default(), 0).unwrap();
    prepared.assign(100, 7, 0);
    assert_eq!(prepared.batches()[0].body().as_ptr(), bytes[HEADER_BYTES_V2..].as_ptr(), "the body is not copied");
    assert_eq!((prepared.last_offset(), prepared.max_timestamp()), (102, 1002));
    let log = written(&prepared);
    let batch = Batch::first_of(&log).unwrap().unwrap();
    assert!(batch.crc_is_valid());
    assert_eq!(batch.header, *prepared.batches()[0].header());
    assert_eq!(
        (batch.header.base_offset, batch.header.last_offset, batch.header.partition_leader_epoch),
        (100, 102, 7)
    );
}

#[test]
fn log_append_time_rewrites_the_head_with_a_right_crc() {
    let rules = AppendRules { timestamp_type: TimestampType::LogAppendTime, ..AppendRules::default() };
    for records in [1, 2, 100, 5000] {
        let mut prepared = prepare(batch_of(records), &rules, 5).unwrap();
        for now_ms in [123_456_789, 42] {
            prepared.assign(9, 1, now_ms);
            let log = written(&prepared);
            let batch = Batch::first_of(&log).unwrap().unwrap();
            assert!(batch.crc_is_valid());
            assert_eq!(batch.header.timestamp_type, TimestampType::LogAppendTime);
            assert_eq!((batch.header.max_timestamp, batch.header.base_timestamp), (now_ms, 1000));
            assert_eq!((prepared.log_append_time_ms(), prepared.max_timestamp()), (now_ms, now_ms));
            assert!(batch.records().all(|record| record.unwrap().timestamp == now_ms));
        }
    }
}

#[test]
fn a_wrong_max_timestamp_is_corrected() {
    let mut bytes = batch_of(3).to_vec();
    bytes[35..43].copy_from_slice(&77_i64.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    let mut prepared = prepare(bytes.into(), &AppendRules::default(), 0).unwrap();
    prepared.assign(0, 0, 0);
    let log = written(&prepared);
    let batch = Batch::first_of(&log).unwrap().unwrap();
    assert!(batch.crc_is_valid());
    assert_eq!(batch.header.max_timestamp, 1002);
}

/// For what any client may send, however old.
fn any() -> AppendRules {
    AppendRules { accepted_sets: AcceptedSets::Any, ..AppendRules::default() }
}

const COMPRESSING: [Codec; 4] = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

/// Changes bytes of a v2 batch and makes its checksum right again.
fn patched(bytes: &[u8], at: usize, with: &[u8]) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[at..at + with.len()].copy_from_slice(with);
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

fn compressed_batch(codec: Codec, records: usize) -> Bytes {
    let mut builder = BatchBuilder::new().compression(codec, None);
    for i in 0..records {
        builder.append(1000 + i as i64, Some(b"key"), Some(&[i as u8; 100]), &[(b"h", Some(b"x"))]);
    }
    builder.build()
}

fn message_set(magic: u8, codec: Codec, records: usize) -> Bytes {
    let mut builder = MessageSetBuilder::new(magic, codec, None, TimestampType::CreateTime, 0);
    for i in 0..records {
        builder.append(i as i64, if magic == 0 { -1 } else { 2000 - i as i64 }, Some(b"key"), Some(&[i as u8; 100]));
    }
    builder.build().into()
}

fn refused(bytes: Bytes, rules: &AppendRules) -> RecordError {
    prepare(bytes, rules, 5000).unwrap_err()
}

/// Appends at offset 100 and returns what the log then holds, checked for its checksums and against the facts given.
fn appended(bytes: Bytes, rules: &AppendRules) -> (Prepared, Vec<read::Record>) {
    let mut prepared = prepare(bytes, rules, 5000).unwrap();
    prepared.assign(100, 3, 6000);
    let log = Bytes::from(written(&prepared));
    assert_eq!(log.len(), prepared.size_in_bytes());
    for batch in Batches::new(&log) {
        assert!(batch.unwrap().crc_is_valid());
    }
    let records: Vec<read::Record> = read::records(&log).collect::<Result<_, _>>().unwrap();
    assert_eq!(records.first().unwrap().offset, 100);
    assert_eq!(records.last().unwrap().offset, prepared.last_offset());
    assert_eq!(records.len() as i64, prepared.record_count());
    let max_timestamp = records.iter().map(|record| record.timestamp).max().unwrap();
    assert_eq!(max_timestamp, prepared.max_timestamp());
    (prepared, records)
}

#[test]
fn a_produce_request_carries_exactly_one_v2_batch_since_version_3() {
    let v3 = AppendRules { accepted_sets: AcceptedSets::OneV2BatchWithoutZstd, ..any() };
    let v7 = AppendRules::default();
    let one = batch_of(1);
    for rules in [&v3, &v7] {
        assert!(matches!(refused(Bytes::new(), rules), RecordError::InvalidBatch(_)));
        assert!(matches!(refused(one.slice(..one.len() - 1), rules), RecordError::InvalidBatch(_)), "not even a batch");
        assert!(matches!(refused(message_set(1, Codec::None, 1), rules), RecordError::InvalidBatch(_)));
        assert!(matches!(refused(one.repeat(2).into(), rules), RecordError::InvalidBatch(_)));
        assert!(prepare(one.clone(), rules, 0).is_ok());
    }
    assert_eq!(refused(compressed_batch(Codec::Zstd, 1), &v3), RecordError::ZstdNotAllowed);
    assert!(prepare(compressed_batch(Codec::Zstd, 1), &v7, 0).is_ok());
    assert!(prepare(Bytes::new(), &any(), 0).unwrap().is_empty());
    assert!(matches!(refused(one.repeat(2).into(), &any()), RecordError::InvalidBatch(_)), "the log takes only one");
    assert!(prepare(message_set(1, Codec::None, 5), &any(), 0).is_ok());
}

#[test]
fn headers_of_client_batches_are_checked() {
    let rules = AppendRules::default();
    let three = batch_of(3);
    let invalid = |at: usize, with: &[u8]| match refused(patched(&three, at, with), &rules) {
        RecordError::InvalidBatch(_) | RecordError::Malformed(_) => {}
        other => panic!("byte {at}: {other:?}"),
    };
    invalid(7, &[1]); // base offset
    invalid(23, &(-1_i32).to_be_bytes()); // last offset delta
    invalid(23, &3_i32.to_be_bytes());
    invalid(57, &0_i32.to_be_bytes()); // record count
    invalid(57, &4_i32.to_be_bytes());
    invalid(22, &[CONTROL_BIT as u8]);
    invalid(43, &9_i64.to_be_bytes()); // a producer id without a sequence
    let mut corrupt = three.to_vec();
    corrupt[70] ^= 1;
    assert!(matches!(refused(corrupt.into(), &rules), RecordError::CrcMismatch { .. }));
    assert_eq!(refused(patched(&three, 22, &[5]), &rules), RecordError::UnknownCodec { id: 5 });
    let mut damaged = three.to_vec();
    damaged[22] = 5;
    for accepted_sets in [AcceptedSets::Any, AcceptedSets::OneV2Batch] {
        let rules = AppendRules { accepted_sets, ..rules.clone() };
        assert!(matches!(refused(damaged.clone().into(), &rules), RecordError::CrcMismatch { .. }), "send it again");
    }
    let small = AppendRules { max_message_bytes: three.len() - 1, ..rules };
    assert_eq!(refused(three.clone(), &small), RecordError::BatchTooLarge { size: three.len(), max: three.len() - 1 });
}

#[test]
fn records_that_do_not_add_up_are_malformed() {
    let rules = AppendRules::default();
    for codec in Codec::ALL {
        let three = compressed_batch(codec, 3);
        for count in [2_i32, 4] {
            let lying = patched(&three, 57, &count.to_be_bytes());
            let lying = patched(&lying, 23, &(count - 1).to_be_bytes());
            assert!(matches!(refused(lying, &rules), RecordError::Malformed(_)), "{codec}");
        }
    }
}

#[test]
fn every_codec_passes_through_untouched() {
    for codec in COMPRESSING {
        let bytes = compressed_batch(codec, 50);
        let (prepared, records) = appended(bytes.clone(), &AppendRules::default());
        assert_eq!(prepared.batches()[0].body().as_ptr(), bytes[HEADER_BYTES_V2..].as_ptr(), "{codec}");
        assert_eq!((records[49].offset, records[49].timestamp), (149, 1049));
    }
}

#[test]
fn topics_recompress_to_their_codec_and_keep_the_producer() {
    for (from, to) in Codec::ALL.into_iter().flat_map(|from| Codec::ALL.map(|to| (from, to))).filter(|(f, t)| f != t) {
        let bytes = patched(&compressed_batch(from, 50), 43, &7_i64.to_be_bytes());
        let bytes = patched(&bytes, 51, &[0, 2, 0, 0, 0, 9]);
        let level = (to == Codec::Zstd).then_some(7);
        let rules = AppendRules {
            compression: TopicCompression::Codec { codec: to, level },
            timestamp_type: TimestampType::LogAppendTime,
            ..AppendRules::default()
        };
        let (prepared, records) = appended(bytes, &rules);
        let header = prepared.batches()[0].header();
        assert_eq!((header.codec, header.producer_id, header.producer_epoch), (to, 7, 2), "{from} to {to}");
        assert_eq!((header.base_sequence, header.base_offset, header.partition_leader_epoch), (9, 100, 3));
        assert_eq!((records[7].offset, records[7].timestamp), (107, 6000));
        assert_eq!(records[7].value.as_deref(), Some(&[7; 100][..]));
        assert_eq!(records[7].headers, [(Bytes::from_static(b"h"), Some(Bytes::from_static(b"x")))]);
    }
    let zstd = AppendRules {
        compression: TopicCompression::Codec { codec: Codec::Zstd, level: None },
        zstd_allowed: false,
        ..AppendRules::default()
    };
    assert_eq!(refused(batch_of(1), &zstd), RecordError::ZstdNotAllowed);
}

#[test]
fn a_rebuilt_batch_must_fit_too() {
    let rules = AppendRules {
        compression: TopicCompression::Codec { codec: Codec::None, level: None },
        max_message_bytes: 1000,
        ..AppendRules::default()
    };
    let mut builder = BatchBuilder::new().compression(Codec::Zstd, None);
    (0..100).for_each(|_| builder.append(1, None, Some(&[0; 100]), &[]));
    assert!(matches!(refused(builder.build(), &rules), RecordError::BatchTooLarge { max: 1000, .. }));
}

#[test]
fn a_marker_of_a_coordinator_stays_as_it_is_in_a_compressed_topic() {
    let marker = end_transaction_marker(5, 2, TransactionOutcome::Commit, 8, 77);
    assert_eq!(marker.len(), 78);
    assert!(matches!(refused(marker.clone(), &AppendRules::default()), RecordError::InvalidBatch(_)));
    let rules = AppendRules {
        origin: AppendOrigin::Coordinator,
        compression: TopicCompression::Codec { codec: Codec::Lz4, level: None },
        ..AppendRules::default()
    };
    let (prepared, records) = appended(marker.clone(), &rules);
    assert_eq!(prepared.batches()[0].body(), &marker[61..]);
    assert!(prepared.batches()[0].header().is_control);
    assert_eq!(
        ControlRecord::read(records[0].key.as_deref(), records[0].value.as_deref()),
        Ok(ControlRecord::EndTransaction { outcome: TransactionOutcome::Commit, coordinator_epoch: 8 })
    );
}

#[test]
fn compacted_topics_name_every_record_without_a_key() {
    for codec in Codec::ALL {
        let mut builder = BatchBuilder::new().compression(codec, None);
        for i in 0..6 {
            builder.append(i, (i % 2 == 0).then_some(b"k"), Some(b"v"), &[]);
        }
        let rules = AppendRules { compacted: true, ..AppendRules::default() };
        let error = refused(builder.build(), &rules);
        assert!(matches!(error, RecordError::InvalidRecords(_)), "{codec}");
        let named: Vec<i32> = error.rejected_records().iter().map(|rejected| rejected.batch_index).collect();
        assert_eq!(named, [1, 3, 5]);
    }
}

#[test]
fn timestamps_are_held_against_the_clock() {
    let near = AppendRules { timestamp_before_max_ms: 100, timestamp_after_max_ms: 10, ..AppendRules::default() };
    for codec in Codec::ALL {
        for (timestamp, fits) in [(4900, true), (4899, false), (5010, true), (5011, false), (-1, true), (-2, false)] {
            let mut builder = BatchBuilder::new().compression(codec, None);
            builder.append(5000, None, None, &[]);
            builder.append(timestamp, None, None, &[]);
            match prepare(builder.build(), &near, 5000) {
                Ok(_) => assert!(fits, "{codec} {timestamp}"),
                Err(RecordError::InvalidTimestamps(rejected)) => {
                    assert!(!fits && rejected.len() == 1 && rejected[0].batch_index == 1, "{codec} {timestamp}");
                    let words = format!(
                        "Timestamp {timestamp} of message with offset 1 is out of range. The timestamp should be within \
                         [4900, 5010]"
                    );
                    assert_eq!(rejected[0].message("t", 0), words);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn batches_marked_with_append_time_are_the_brokers_business() {
    let mut builder = BatchBuilder::new().log_append_time(4000);
    builder.append(3000, None, None, &[]);
    builder.append(3001, None, None, &[]);
    let marked = builder.build();
    let mut prepared = prepare(marked.clone(), &AppendRules::default(), 5000).unwrap();
    prepared.assign(100, 3, 6000);
    // As in 3.9: the type is rewritten, and the time that all records claimed stays as the largest.
    let header = prepared.batches()[0].header();
    assert_eq!((header.timestamp_type, header.max_timestamp), (TimestampType::CreateTime, 4000));
    assert!(Batch::first_of(&written(&prepared)).unwrap().unwrap().crc_is_valid());
    let append_time = AppendRules { timestamp_type: TimestampType::LogAppendTime, ..AppendRules::default() };
    let record = "(offset=1, timestamp=4000, key=";
    let words = |of: &str, lens: &str| {
        let name = format!("{of}{record}{lens} bytes)");
        format!("Invalid timestamp type in message {name}. Producer should not set timestamp type to LogAppendTime.")
    };
    let second = |rules| {
        let refused = refused(marked.clone(), rules);
        assert_eq!(refused.rejected_records().len(), 2);
        refused.rejected_records()[1].message("t", 0)
    };
    assert_eq!(second(&append_time), words("DefaultRecord", "0 bytes, value=0"));
    let mut builder = BatchBuilder::new().log_append_time(4000).compression(Codec::Gzip, None);
    builder.append(3000, None, None, &[]);
    builder.append(3001, None, Some(b"value"), &[]);
    let compressed = builder.build();
    let second = |rules| refused(compressed.clone(), rules).rejected_records()[1].message("t", 0);
    assert_eq!(second(&append_time), words("PartialDefaultRecord", "-1 bytes, value=5"));
    let codec = TopicCompression::Codec { codec: Codec::Lz4, level: None };
    let anew = AppendRules { compression: codec, ..append_time.clone() };
    assert_eq!(second(&anew), words("DefaultRecord", "0 bytes, value=5"));
    let without_time = patched(&marked, 35, &(-1_i64).to_be_bytes());
    assert!(matches!(refused(without_time, &AppendRules::default()), RecordError::InvalidTimestamps(_)));
}

#[test]
fn old_messages_become_one_v2_batch() {
    for magic in [0, 1] {
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4] {
            let (prepared, records) = appended(message_set(magic, codec, 20), &any());
            assert_eq!(prepared.batches().len(), 1);
            let header = prepared.batches()[0].header();
            assert_eq!((header.magic, header.codec, header.record_count, header.base_sequence), (2, codec, 20, -1));
            assert_eq!(records[19].timestamp, if magic == 0 { -1 } else { 1981 });
            assert_eq!(records[19].value.as_deref(), Some(&[19; 100][..]));
        }
    }
}

#[test]
fn old_log_formats_keep_their_shape() {
    for (log_format, sent) in [0, 1].into_iter().flat_map(|to| [(to, 0), (to, 1), (to, 2)]) {
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4] {
            for timestamp_type in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
                let bytes = if sent == 2 {
                    let mut builder = BatchBuilder::new().compression(codec, None);
                    (0..20).for_each(|i| builder.append(2000 - i, Some(b"k"), Some(b"v"), &[]));
                    builder.build()
                } else {
                    message_set(sent, codec, 20)
                };
                let rules = AppendRules { log_format, timestamp_type, ..any() };
                let (prepared, records) = appended(bytes.clone(), &rules);
                let case = format!("v{sent} to v{log_format} {codec} {timestamp_type:?}");
                let log = written(&prepared);
                let batches: Vec<Batch<'_>> = Batches::new(&log).map(Result::unwrap).collect();
                assert_eq!(batches.len(), if codec == Codec::None { 20 } else { 1 }, "{case}");
                assert!(batches.iter().all(|b| b.header.magic == log_format && b.header.codec == codec), "{case}");
                let wanted = match (log_format, timestamp_type, sent) {
                    (0, _, _) | (_, TimestampType::CreateTime, 0) => -1,
                    (_, TimestampType::LogAppendTime, _) => 6000,
                    _ => 2000,
                };
                assert_eq!(prepared.max_timestamp(), wanted, "{case}");
                assert_eq!(records[4].offset, 104, "{case}");
                if log_format == 1 && sent == 1 && codec != Codec::None {
                    assert_eq!(prepared.batches()[0].body().as_ptr(), bytes[26..].as_ptr(), "{case}: passes through");
                }
            }
        }
    }
}

#[test]
fn old_log_formats_refuse_what_they_cannot_hold() {
    let old = AppendRules { log_format: 1, ..AppendRules::default() };
    let mut builder = BatchBuilder::new().producer(1, 0, 0);
    builder.append(1, None, None, &[]);
    assert_eq!(refused(builder.build(), &old), RecordError::UnsupportedForLogFormat { magic: 1 });
    assert!(matches!(refused(compressed_batch(Codec::None, 1), &old), RecordError::CannotRebuild(_)), "headers");
    let mut builder = BatchBuilder::new().compression(Codec::Zstd, None);
    builder.append(1, None, None, &[]);
    assert!(matches!(refused(builder.build(), &old), RecordError::CannotRebuild(_)));
}

#[test]
fn inner_messages_are_checked() {
    let old = AppendRules { log_format: 1, ..any() };
    let wrap = |magic: u8, offset: i64, inner: &[u8]| {
        let mut compressor = crate::record::compression::Compressor::new(Codec::Gzip, None, magic, Vec::new());
        compressor.put(inner);
        let mut builder = MessageSetBuilder::new(magic, Codec::None, None, TimestampType::CreateTime, offset);
        builder.append(offset, 5, None, Some(&compressor.finish()));
        let mut bytes = builder.build();
        bytes[17] |= Codec::Gzip.id();
        let crc = crc32fast::hash(&bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_be_bytes());
        Bytes::from(bytes)
    };
    let inner = message_set(1, Codec::None, 3);
    for offset in [0, 2] {
        let (prepared, _) = appended(wrap(1, offset, &inner), &old);
        assert_eq!(prepared.record_count(), 3);
    }
    assert!(matches!(refused(wrap(1, 1, &inner), &old), RecordError::Malformed(_)), "offset below the last inner one");
    let (prepared, records) = appended(wrap(1, 9, &inner), &old);
    assert_eq!((prepared.record_count(), records[0].offset), (3, 100), "odd offsets are rebuilt");
    assert!(matches!(refused(wrap(1, 2, b""), &old), RecordError::Malformed(_)), "no inner message");
    let mut corrupt = inner.to_vec();
    *corrupt.last_mut().unwrap() ^= 1;
    assert!(matches!(refused(wrap(1, 2, &corrupt), &old), RecordError::InnerCrcMismatch { .. }));
    let foreign = message_set(0, Codec::None, 3);
    assert_eq!(refused(wrap(1, 2, &foreign), &old).rejected_records().len(), 3, "inner messages of another magic");
    let nested = wrap(1, 0, &inner);
    assert!(matches!(refused(wrap(1, 0, &nested), &old), RecordError::Malformed(_)));
}

/// What LogValidator of Kafka 3.9.1 answers to such batches.
#[test]
fn odd_producer_fields_meet_the_same_end_as_in_kafka() {
    let plain = batch_of(2);
    let below_none = patched(&plain, 43, &(-17_i64).to_be_bytes());
    assert!(prepare(below_none.clone(), &AppendRules::default(), 0).is_ok(), "an id below -1 is none");
    let gzip = TopicCompression::Codec { codec: Codec::Gzip, level: None };
    let rebuilding = AppendRules { compression: gzip, ..AppendRules::default() };
    assert!(matches!(refused(below_none, &rebuilding), RecordError::CannotRebuild(_)));
    let transactional = patched(&plain, 22, &[0x10]);
    assert!(prepare(transactional.clone(), &AppendRules::default(), 0).is_ok());
    assert!(matches!(refused(transactional, &rebuilding), RecordError::CannotRebuild(_)));
}

#[test]
fn a_compressed_stream_cut_short_is_the_codecs_error() {
    let whole = compressed_batch(Codec::Gzip, 100);
    let cut = patched(&whole[..whole.len() - 20], 8, &(whole.len() as i32 - 20 - 12).to_be_bytes());
    assert!(matches!(refused(cut, &AppendRules::default()), RecordError::Decompression(_)));
}

#[test]
fn a_mix_of_magics_is_refused() {
    let mixed = [message_set(0, Codec::None, 1), message_set(1, Codec::None, 1)].concat();
    assert!(matches!(refused(mixed.into(), &any()), RecordError::InvalidBatch(_)));
}
