//! What holds for all records, and for all bytes.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::record::append::prepare;
use crate::record::append_rules::{AcceptedSets, AppendOrigin, AppendRules, TopicCompression};
use crate::record::batch::{Batches, TimestampType};
use crate::record::build::{BatchBuilder, Header, MessageSetBuilder};
use crate::record::compression::Codec;
use crate::record::convert::DownConversion;
use crate::record::read::{self, Record};

fn any_bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        vec(any::<u8>(), 0..40).prop_map(Bytes::from),
        (any::<u8>(), 0..2000_usize).prop_map(|(byte, len)| Bytes::from(vec![byte; len])),
    ]
}

fn any_records() -> impl Strategy<Value = Vec<Record>> {
    let headers = vec((any_bytes(), option::of(any_bytes())), 0..3);
    let record = (0..i64::MAX / 2, option::of(any_bytes()), option::of(any_bytes()), headers);
    vec(record, 1..30).prop_map(|records| {
        let numbered = records.into_iter().zip(0..);
        let record = |((timestamp, key, value, headers), offset)| Record { offset, timestamp, key, value, headers };
        numbered.map(record).collect()
    })
}

fn any_codec() -> impl Strategy<Value = Codec> {
    (0..5_u8).prop_map(|id| Codec::from_id(id).unwrap())
}

/// Magic 0 and 1 know neither headers nor zstd, and magic 0 no timestamps.
fn built(magic: u8, codec: Codec, records: &mut [Record]) -> Bytes {
    if magic == 2 {
        let mut builder = BatchBuilder::new().compression(codec, None);
        for record in records {
            let headers: Vec<Header<'_>> = record.headers.iter().map(|(k, v)| (&k[..], v.as_deref())).collect();
            builder.append(record.timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
        }
        return builder.build();
    }
    let codec = if codec == Codec::Zstd { Codec::Gzip } else { codec };
    let mut builder = MessageSetBuilder::new(magic, codec, None, TimestampType::CreateTime, 0);
    for record in records {
        record.headers.clear();
        record.timestamp = if magic == 0 { -1 } else { record.timestamp };
        builder.append(record.offset, record.timestamp, record.key.as_deref(), record.value.as_deref());
    }
    builder.build().into()
}

fn any_rules() -> impl Strategy<Value = AppendRules> {
    let compression = option::of(any_codec()).prop_map(|codec| match codec {
        None => TopicCompression::Producer,
        Some(codec) => TopicCompression::Codec { codec, level: None },
    });
    (any::<bool>(), any::<bool>(), compression, 0..3_u8, any::<bool>(), any::<bool>()).prop_map(
        |(is_client, compacted, compression, log_format, append_time, limited)| AppendRules {
            origin: if is_client { AppendOrigin::Client } else { AppendOrigin::Coordinator },
            accepted_sets: AcceptedSets::Any,
            compacted,
            compression,
            log_format,
            timestamp_type: if append_time { TimestampType::LogAppendTime } else { TimestampType::CreateTime },
            timestamp_before_max_ms: if limited { 1000 } else { i64::MAX },
            ..AppendRules::default()
        },
    )
}

/// Makes the first batch's checksum right, so that damage gets past it.
fn with_right_crc(mut bytes: Vec<u8>) -> Vec<u8> {
    let Some(&magic) = bytes.get(16) else { return bytes };
    let size = i32::from_be_bytes(bytes[8..12].try_into().unwrap());
    let end = bytes.len().min((i64::from(size) + 12).clamp(0, bytes.len() as i64) as usize);
    let (crc_at, from) = if magic == 2 { (17, 21) } else { (12, 16) };
    if let Some(covered) = bytes.get(from..end) {
        let crc = if magic == 2 { crc32c::crc32c(covered) } else { crc32fast::hash(covered) };
        bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_be_bytes());
    }
    bytes
}

proptest! {
    #[test]
    fn what_is_built_reads_back(mut records in any_records(), magic in 0..3_u8, codec in any_codec()) {
        let bytes = built(magic, codec, &mut records);
        for batch in Batches::new(&bytes) {
            prop_assert!(batch.unwrap().crc_is_valid());
        }
        prop_assert_eq!(read::records(&bytes).collect::<Result<Vec<_>, _>>(), Ok(records));
    }

    #[test]
    fn an_append_changes_no_record(
        mut records in any_records(),
        magic in 0..3_u8,
        codec in any_codec(),
        rules in any_rules(),
        first_offset in 0..i64::MAX / 2,
    ) {
        let bytes = built(magic, codec, &mut records);
        if let Ok(mut prepared) = prepare(bytes, &rules, 5000) {
            prepared.assign(first_offset, 4, 6000);
            let log: Vec<u8> = prepared.batches().iter().flat_map(|b| [b.head(), b.body()].concat()).collect();
            prop_assert_eq!(log.len(), prepared.size_in_bytes());
            let log = Bytes::from(log);
            for batch in Batches::new(&log) {
                let batch = batch.unwrap();
                prop_assert!(batch.crc_is_valid());
                prop_assert_eq!(batch.header.magic, rules.log_format);
            }
            for record in &mut records {
                record.offset += first_offset;
                match (rules.log_format, rules.timestamp_type) {
                    (0, _) => record.timestamp = -1,
                    (_, TimestampType::LogAppendTime) => record.timestamp = 6000,
                    _ => {}
                }
            }
            prop_assert_eq!(prepared.max_timestamp(), records.iter().map(|record| record.timestamp).max().unwrap());
            prop_assert_eq!(read::records(&log).collect::<Result<Vec<_>, _>>(), Ok(records));
        } else {
            let may_be_refused = rules.compacted || rules.timestamp_before_max_ms < i64::MAX || rules.log_format < 2;
            prop_assert!(may_be_refused, "refused for no reason");
        }
    }

    #[test]
    fn no_bytes_make_anything_panic(
        mut records in any_records(),
        magic in 0..3_u8,
        codec in any_codec(),
        rules in any_rules(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        keep in option::of(any::<prop::sample::Index>()),
        right_crc in any::<bool>(),
    ) {
        let mut bytes = built(magic, codec, &mut records).to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(keep) = keep {
            bytes.truncate(keep.index(bytes.len()));
            if let (Ok(size), true) = (i32::try_from(bytes.len() as i64 - 12), bytes.len() > 17) {
                bytes[8..12].copy_from_slice(&size.to_be_bytes());
            }
        }
        if right_crc && bytes.len() > 20 {
            bytes = with_right_crc(bytes);
        }
        let bytes = Bytes::from(bytes);
        let read = read::records(&bytes).take(100_000).collect::<Result<Vec<_>, _>>();
        let rules = AppendRules { log_format: if magic == 2 { 2 } else { rules.log_format }, ..rules };
        if let Ok(mut prepared) = prepare(bytes.clone(), &rules, 5000) {
            prepared.assign(77, 1, 6000);
            prop_assert!(read.is_ok(), "what is accepted can be read");
            prop_assert_eq!(read.unwrap().len() as i64, prepared.record_count());
        }
        for to_magic in 0..2 {
            if let Ok(conversion) = DownConversion::new(bytes.clone(), to_magic, 0) {
                let promised = conversion.remaining_bytes();
                prop_assert_eq!(conversion.map(|piece| piece.len()).sum::<usize>(), promised);
            }
        }
    }

    #[test]
    fn random_bytes_are_no_batch_and_no_trouble(bytes in vec(any::<u8>(), 0..200), magic in 0..3_u8) {
        let mut bytes = bytes;
        if bytes.len() > 22 {
            let size = bytes.len() as i32 - 12;
            bytes[8..12].copy_from_slice(&size.to_be_bytes());
            bytes[16] = magic;
            bytes = with_right_crc(bytes);
        }
        let bytes = Bytes::from(bytes);
        let _ = read::records(&bytes).take(1000).count();
        let _ = prepare(bytes, &AppendRules { accepted_sets: AcceptedSets::Any, ..AppendRules::default() }, 0);
    }
}
