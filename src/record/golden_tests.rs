//! Bytes of the Java client, described in tests/golden/records/README.md.

use bytes::Bytes;

use crate::record::append::prepare;
use crate::record::append_rules::{AcceptedSets, AppendOrigin, AppendRules};
use crate::record::batch::{Batches, TimestampType};
use crate::record::build::{
    BatchBuilder, ControlRecord, Header, MessageSetBuilder, TransactionOutcome, end_transaction_marker,
};
use crate::record::compression::Codec;
use crate::record::read::{self, Record};

macro_rules! golden {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../tests/golden/records/", $name, ".bin")) as &'static [u8])
    };
}

const SETS: [(&str, &[u8]); 13] = [
    golden!("v0-none"),
    golden!("v0-gzip"),
    golden!("v0-snappy"),
    golden!("v0-lz4"),
    golden!("v1-none"),
    golden!("v1-gzip"),
    golden!("v1-snappy"),
    golden!("v1-lz4"),
    golden!("v2-none"),
    golden!("v2-gzip"),
    golden!("v2-snappy"),
    golden!("v2-lz4"),
    golden!("v2-zstd"),
];

fn expected(magic: u8) -> Vec<Record> {
    let record = |i: i64| Record {
        offset: i,
        timestamp: if magic == 0 { -1 } else { 1_600_000_000_000 + i * 7919 % 1000 },
        key: (i % 3 != 0).then(|| Bytes::from(format!("key-{i}"))),
        value: (i % 5 != 0).then(|| Bytes::from(format!("value-{i} ").repeat(i as usize * 3 + 1))),
        headers: if magic == 2 && i % 4 == 0 {
            vec![(Bytes::from_static(b"h"), Some(Bytes::from_static(b"x"))), (Bytes::from_static(b"n"), None)]
        } else {
            Vec::new()
        },
    };
    (0..20).map(record).collect()
}

fn append_to(builder: &mut BatchBuilder, record: &Record) {
    let headers: Vec<Header<'_>> = record.headers.iter().map(|(key, value)| (&key[..], value.as_deref())).collect();
    builder.append(record.timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
}

fn magic_and_codec(name: &str) -> (u8, Codec) {
    (name.as_bytes()[1] - b'0', Codec::from_name(&name[3..]).unwrap())
}

#[test]
fn batches_of_the_java_client_read_as_it_wrote_them() {
    for (name, bytes) in SETS {
        let (magic, codec) = magic_and_codec(name);
        let bytes = Bytes::from_static(bytes);
        for batch in read::batches(&bytes) {
            let batch = batch.unwrap();
            assert!(batch.crc_is_valid(), "{name}");
            assert_eq!((batch.header().magic, batch.header().codec), (magic, codec), "{name}");
        }
        assert_eq!(read::records(&bytes).collect::<Result<Vec<_>, _>>(), Ok(expected(magic)), "{name}");
    }
}

#[test]
fn batches_of_the_java_client_are_accepted_and_keep_their_records() {
    for (name, bytes) in SETS {
        let (magic, codec) = magic_and_codec(name);
        for log_format in 0..=magic {
            let rules = AppendRules {
                accepted_sets: AcceptedSets::Any,
                log_format,
                timestamp_before_max_ms: 100,
                timestamp_after_max_ms: 1000,
                ..AppendRules::default()
            };
            let Ok(mut prepared) = prepare(Bytes::from_static(bytes), &rules, 1_600_000_000_050) else {
                assert!(magic == 2 && log_format < 2, "{name}: only headers are refused, by old formats");
                continue;
            };
            prepared.assign(0, -1, 0);
            let log: Vec<u8> = prepared.batches().iter().flat_map(|b| [b.head(), b.body()].concat()).collect();
            if log_format == magic && (magic > 0 || codec == Codec::None) {
                assert!(log == bytes, "{name}: nothing had to change");
            }
            let log = Bytes::from(log);
            assert!(Batches::new(&log).all(|batch| batch.unwrap().crc_is_valid()));
            let mut wanted = expected(magic);
            if log_format == 0 {
                wanted.iter_mut().for_each(|record| record.timestamp = -1);
            }
            assert_eq!(read::records(&log).collect::<Result<Vec<_>, _>>(), Ok(wanted), "{name} in v{log_format}");
        }
    }
}

#[test]
fn what_we_build_uncompressed_is_what_the_java_client_builds() {
    let mut builder = BatchBuilder::new();
    expected(2).iter().for_each(|record| append_to(&mut builder, record));
    assert_eq!(builder.build(), golden!("v2-none").1);

    let mut builder = BatchBuilder::new().base_offset(1000).log_append_time(1_600_000_009_999);
    expected(2).iter().for_each(|record| append_to(&mut builder, record));
    assert_eq!(builder.build(), golden!("v2-none-append-time").1);

    for (magic, (_, bytes)) in [(0, golden!("v0-none")), (1, golden!("v1-none"))] {
        let mut builder = MessageSetBuilder::new(magic, Codec::None, None, TimestampType::CreateTime, 0);
        for record in expected(magic) {
            builder.append(record.offset, record.timestamp, record.key.as_deref(), record.value.as_deref());
        }
        assert_eq!(builder.build(), bytes, "v{magic}");
    }
}

#[test]
fn producer_fields_are_where_java_puts_them() {
    let bytes = Bytes::from_static(golden!("v2-lz4-transactional").1);
    let batch = read::batches(&bytes).next().unwrap().unwrap();
    let header = batch.header();
    assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (4711, 3, 2_147_483_640));
    assert_eq!((header.last_sequence(), header.partition_leader_epoch), (11, 9));
    assert!(header.is_transactional && !header.is_control);
    assert_eq!(batch.records().unwrap().collect::<Result<Vec<_>, _>>(), Ok(expected(2)));
}

#[test]
fn a_transaction_marker_is_javas() {
    let marker = end_transaction_marker(4711, 3, TransactionOutcome::Commit, 12, 1_600_000_000_123);
    let rules = AppendRules { origin: AppendOrigin::Coordinator, ..AppendRules::default() };
    let mut prepared = prepare(marker, &rules, 0).unwrap();
    prepared.assign(55, 7, 0);
    let batch = &prepared.batches()[0];
    assert_eq!([batch.head(), batch.body()].concat(), golden!("v2-marker").1);
    let bytes = Bytes::from_static(golden!("v2-marker").1);
    let record = read::records(&bytes).next().unwrap().unwrap();
    assert_eq!(
        ControlRecord::read(record.key.as_deref(), record.value.as_deref()),
        Ok(ControlRecord::EndTransaction { outcome: TransactionOutcome::Commit, coordinator_epoch: 12 })
    );
}
/// Java's oldest readers believe a header checksum that is wrong, and its newest want the right one.
#[test]
fn our_lz4_frames_start_as_javas() {
    for (magic, at, (_, bytes)) in [(0, 26, golden!("v0-lz4")), (1, 34, golden!("v1-lz4")), (2, 61, golden!("v2-lz4"))]
    {
        let mut records = expected(2);
        let ours = if magic == 2 {
            let mut builder = BatchBuilder::new().compression(Codec::Lz4, None);
            records.iter().for_each(|record| append_to(&mut builder, record));
            builder.build()
        } else {
            let mut builder = MessageSetBuilder::new(magic, Codec::Lz4, None, TimestampType::CreateTime, 0);
            records.drain(..).for_each(|record| builder.append(record.offset, 1, None, record.value.as_deref()));
            builder.build().into()
        };
        assert_eq!(ours[at..at + 7], bytes[at..at + 7], "v{magic}");
    }
}
