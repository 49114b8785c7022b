use super::*;
use crate::record::build::{BatchBuilder, MessageSetBuilder};

fn expected(offset: i64, i: usize) -> Record {
    Record {
        offset: offset + i as i64,
        timestamp: 1000 + i as i64,
        key: (!i.is_multiple_of(3)).then(|| Bytes::from(format!("key {i}"))),
        value: (!i.is_multiple_of(5)).then(|| Bytes::from(vec![i as u8; 1 + i * 97 % 1000])),
        headers: (0..i % 3)
            .map(|h| (Bytes::from(format!("h{h}")), h.is_multiple_of(2).then(|| Bytes::from_static(b"x"))))
            .collect(),
    }
}

fn v2_batch(codec: Codec, records: &[Record]) -> Bytes {
    let mut builder = BatchBuilder::new().compression(codec, None).base_offset(records[0].offset);
    for record in records {
        let headers: Vec<_> = record.headers.iter().map(|(key, value)| (&key[..], value.as_deref())).collect();
        builder.append(record.timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
    }
    builder.build()
}

fn message_set(magic: u8, codec: Codec, records: &[Record]) -> Vec<u8> {
    let mut builder = MessageSetBuilder::new(magic, codec, None, TimestampType::CreateTime, records[0].offset);
    for record in records {
        builder.append(record.offset, record.timestamp, record.key.as_deref(), record.value.as_deref());
    }
    builder.build()
}

#[test]
fn records_of_every_magic_and_codec_read_back() {
    let wanted: Vec<Record> = (0..500).map(|i| expected(40, i)).collect();
    for codec in Codec::ALL {
        let bytes = v2_batch(codec, &wanted);
        assert!(batches(&bytes).all(|batch| batch.unwrap().crc_is_valid()), "{codec}");
        assert!(records(&bytes).collect::<Result<Vec<_>, _>>().unwrap() == wanted, "{codec}");
    }
    for (magic, codec) in [0, 1].into_iter().flat_map(|m| Codec::ALL.map(|c| (m, c))).filter(|(_, c)| *c != Codec::Zstd)
    {
        let mut wanted = wanted.clone();
        for record in &mut wanted {
            record.headers.clear();
            if magic == 0 {
                record.timestamp = -1;
            }
        }
        let bytes = Bytes::from(message_set(magic, codec, &wanted));
        assert_eq!(batches(&bytes).count(), if codec == Codec::None { 500 } else { 1 });
        assert!(batches(&bytes).all(|batch| batch.unwrap().crc_is_valid()), "v{magic} {codec}");
        assert!(records(&bytes).collect::<Result<Vec<_>, _>>().unwrap() == wanted, "v{magic} {codec}");
    }
}

#[test]
fn a_record_larger_than_the_window_reads_back_and_is_skimmed() {
    let mut wanted = vec![expected(0, 1), expected(0, 2), expected(0, 3)];
    wanted[1].key = Some(vec![5; WINDOW_BYTES + 10].into());
    wanted[1].value = Some(vec![6; 3 * WINDOW_BYTES].into());
    wanted.iter_mut().zip(0..).for_each(|(record, offset)| record.offset = offset);
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let bytes = v2_batch(codec, &wanted);
        assert!(records(&bytes).collect::<Result<Vec<_>, _>>().unwrap() == wanted, "{codec}");
        let batch = Batch::first_of(&bytes).unwrap().unwrap();
        let mut skimmed = InflatedRecords::new(&batch).unwrap();
        for i in 0..3 {
            let record = skimmed.skim().unwrap().unwrap();
            assert_eq!((record.offset_delta, record.key_len.is_some()), (i, wanted[i as usize].key.is_some()));
        }
        assert!(skimmed.skim().unwrap().is_none());
    }
}

#[test]
fn a_count_that_is_not_that_of_the_records_is_malformed() {
    let wanted: Vec<Record> = (0..5).map(|i| expected(0, i)).collect();
    for codec in Codec::ALL {
        for declared in [0_i32, 4, 6, i32::MAX, -1] {
            let mut bytes = v2_batch(codec, &wanted).to_vec();
            bytes[57..61].copy_from_slice(&declared.to_be_bytes());
            let result = records(&Bytes::from(bytes)).collect::<Result<Vec<_>, _>>();
            if declared == 0 && codec != Codec::None {
                assert_eq!(result, Ok(Vec::new()), "a compressed batch without records is not even decompressed");
            } else {
                assert!(matches!(result, Err(ReadError::Malformed(_))), "{codec} {declared} {result:?}");
            }
        }
    }
}

#[test]
fn reading_ends_after_the_first_error() {
    let mut bytes = v2_batch(Codec::Zstd, &[expected(0, 1)]).to_vec();
    bytes.truncate(70);
    let size = 70 - 12_i32;
    bytes[8..12].copy_from_slice(&size.to_be_bytes());
    let bytes = Bytes::from(bytes.repeat(3));
    assert_eq!(batches(&bytes).count(), 3);
    assert_eq!(records(&bytes).count(), 1);
}
