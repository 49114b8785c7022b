use super::*;
use crate::record::build::BatchBuilder;

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
    assert_eq!((prepared.first_offset(), prepared.last_offset()), (100, 102));
    assert_eq!((prepared.max_timestamp(), prepared.offset_of_max_timestamp()), (1002, 102));
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
