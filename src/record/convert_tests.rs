use super::*;
use crate::record::batch::TimestampType;
use crate::record::build::{BatchBuilder, TransactionOutcome, end_transaction_marker};
use crate::record::cleaning;
use crate::record::read::{self, Record};

fn batch(codec: Codec, base_offset: i64, records: i64) -> Bytes {
    let mut builder = BatchBuilder::new().compression(codec, None).base_offset(base_offset).producer(4, 1, 9);
    for i in 0..records {
        builder.append(500 + i, Some(b"key"), Some(&[base_offset as u8; 50]), &[(b"header", Some(b"dropped"))]);
    }
    builder.build()
}

fn all(conversion: DownConversion) -> Bytes {
    let promised = conversion.remaining_bytes();
    let pieces: Vec<Bytes> = conversion.collect();
    let bytes = Bytes::from(pieces.concat());
    assert_eq!(bytes.len(), promised);
    bytes
}

fn read_all(bytes: &Bytes) -> Vec<Record> {
    // The filler is cut short, which ends the iteration without an error.
    assert!(read::batches(bytes).all(|batch| batch.unwrap().crc_is_valid()));
    read::records(bytes).collect::<Result<_, _>>().unwrap()
}

#[test]
fn old_consumers_see_the_same_records_without_what_they_cannot_know() {
    for to_magic in [0, 1] {
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4] {
            let log: Bytes = (0..40).map(|i| batch(codec, i * 50, 50)).collect::<Vec<_>>().concat().into();
            let converted = all(DownConversion::new(log.clone(), to_magic, 0).unwrap());
            let case = format!("{codec} to v{to_magic}");
            assert!(read::batches(&converted).all(|b| b.unwrap().header().magic == to_magic), "{case}");
            let got = read_all(&converted);
            let wanted = read_all(&log);
            assert!(!got.is_empty() && got.len() <= wanted.len(), "{case}");
            // Where messages are larger than records were, the reply is cut off at the promised length.
            assert!(got.len() >= 500, "{case} {}", got.len());
            for (got, mut wanted) in got.into_iter().zip(wanted) {
                wanted.headers.clear();
                wanted.timestamp = if to_magic == 0 { -1 } else { wanted.timestamp };
                assert_eq!(got, wanted, "{case}");
            }
        }
    }
}

#[test]
fn an_uncompressed_batch_is_cut_below_the_fetch_offset() {
    let converted = all(DownConversion::new(batch(Codec::None, 10, 10), 1, 15).unwrap());
    assert_eq!(read_all(&converted).iter().map(|r| r.offset).collect::<Vec<_>>(), [15, 16, 17, 18, 19]);
    let converted = all(DownConversion::new(batch(Codec::Gzip, 10, 10), 1, 15).unwrap());
    assert_eq!(read_all(&converted).first().map(|r| r.offset), Some(10), "the consumer leaves the others out");
}

#[test]
fn append_times_stay_what_they_are() {
    for codec in [Codec::None, Codec::Lz4] {
        let mut builder = BatchBuilder::new().compression(codec, None).log_append_time(9000);
        (0..3).for_each(|i| builder.append(i, None, Some(&[0; 300]), &[]));
        let converted = all(DownConversion::new(builder.build(), 1, 0).unwrap());
        let first = Batch::first_of(&converted).unwrap().unwrap().header;
        assert_eq!((first.timestamp_type, first.max_timestamp), (TimestampType::LogAppendTime, 9000));
        assert!(read_all(&converted).iter().all(|record| record.timestamp == 9000));
    }
}

#[test]
fn control_batches_are_left_out_and_never_make_an_empty_reply() {
    let marker = end_transaction_marker(1, 0, TransactionOutcome::Commit, 0, 5);
    let log = Bytes::from([&marker[..], &batch(Codec::Gzip, 1, 5), &marker].concat());
    let converted = all(DownConversion::new(log.clone(), 1, 0).unwrap());
    assert_eq!(converted.len(), log.len());
    assert_eq!(read_all(&converted).len(), 5);
    let only_markers = all(DownConversion::new(marker.repeat(3).into(), 1, 0).unwrap());
    assert_eq!(only_markers[..], [&[0xff; 8][..], &[0, 0, 0, 61]].concat());
    assert_eq!(DownConversion::new(Bytes::new(), 1, 0).unwrap().remaining_bytes(), 0);
}

#[test]
fn what_leaves_nothing_is_told_from_what_is_not_whole() {
    let marker = end_transaction_marker(1, 0, TransactionOutcome::Commit, 0, 5);
    let data = batch(Codec::Gzip, 1, 5);
    let emptied = cleaning::emptied(&Batch::first_of(&data).unwrap().unwrap().header);
    let passed_over = |parts: &[&[u8]]| DownConversion::new(parts.concat().into(), 1, 0).unwrap().passed_over();
    let cut = &data[..data.len() - 1];
    assert_eq!(passed_over(&[&marker, &emptied]), Some(marker.len() + emptied.len()));
    assert_eq!(passed_over(&[&marker, &emptied, cut]), Some(marker.len() + emptied.len()));
    assert_eq!(passed_over(&[cut]), Some(0));
    assert_eq!(passed_over(&[&marker, &emptied, &data]), None);
}

#[test]
fn the_filler_is_a_batch_that_never_ends() {
    // Zeros compress so well that the converted form is much smaller once the producer's headers are gone.
    let mut builder = BatchBuilder::new();
    builder.append(1, None, None, &[(b"h", Some(&[1; 300_000]))]);
    let log = builder.build();
    let converted = all(DownConversion::new(log.clone(), 0, 0).unwrap());
    let first = Batch::first_of(&converted).unwrap().unwrap().bytes.len();
    let filler = &converted[first..];
    assert_eq!(filler[..12], [&[0xff; 8][..], &(filler.len() as i32 + 1).to_be_bytes()].concat());
    assert!(filler[12..].iter().all(|byte| *byte == 0));
}

#[test]
fn zstd_is_refused_at_first_and_ends_the_reply_later() {
    let zstd = batch(Codec::Zstd, 5, 5);
    assert_eq!(DownConversion::new(zstd.clone(), 1, 0).unwrap_err(), ConvertError::Zstd);
    let log = Bytes::from([&batch(Codec::Lz4, 0, 5)[..], &zstd].concat());
    let converted = all(DownConversion::new(log.clone(), 1, 0).unwrap());
    assert_eq!(converted.len(), log.len());
    assert_eq!(read_all(&converted).len(), 5);
}

#[test]
fn what_the_consumer_knows_passes_unchanged() {
    let mut builder = MessageSetBuilder::new(0, Codec::Gzip, None, TimestampType::CreateTime, 0);
    builder.append(0, -1, None, Some(b"v"));
    let old = Bytes::from(builder.build());
    assert_eq!(all(DownConversion::new(old.clone(), 1, 0).unwrap()), old);
}
