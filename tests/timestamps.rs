//! Who dates a record: the leader where the topic says so, and a producer only within the bounds of the topic; and the
//! refusal of single records, one by one.
//! Asked over the wire in every version that carries today's batches.

mod support;

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use odradek::protocol::error_code::ErrorCode;
use odradek::protocol::message::{Message, Payload};
use odradek::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use odradek::protocol::messages::produce::{PartitionProduceResponse, ProduceRequest};
use odradek::record::batch::{BatchHeader, TimestampType};
use odradek::record::build::BatchBuilder;
use odradek::record::compression::Codec;
use odradek::record::read::records;
use support::Cluster;
use support::client::{Client, TIMESTAMP, batch, produce_request};

const HOUR_MS: i64 = 3_600_000;
/// From this version of Produce on, batches are of today's format; older ones are the clients' tests' matter.
const FIRST_VERSION: i16 = 3;

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right").as_millis() as i64
}

fn versions() -> impl Iterator<Item = i16> {
    ProduceRequest::VERSIONS.filter(|version| *version >= FIRST_VERSION)
}

fn produce(client: &mut Client, version: i16, topic: &str, batch: Bytes) -> PartitionProduceResponse {
    let mut response = client.call(&produce_request(topic, 0, batch, -1), version).expect("Produce is answered");
    response.responses.remove(0).partition_responses.remove(0)
}

fn fetch(client: &mut Client, topic: &str, fetch_offset: i64) -> Bytes {
    let asked = FetchPartition { fetch_offset, partition_max_bytes: 1 << 20, ..Default::default() };
    let topics = vec![FetchTopic { topic: topic.to_owned(), partitions: vec![asked], ..Default::default() }];
    let request = FetchRequest { max_wait_ms: 0, max_bytes: 1 << 20, topics, ..Default::default() };
    let mut response = client.call(&request, 11).expect("Fetch is answered");
    match response.responses.remove(0).partitions.remove(0).records {
        Some(Payload::Bytes(bytes)) => bytes,
        other => panic!("a fetch at {fetch_offset} gives {other:?}"),
    }
}

fn dated(timestamps: &[i64]) -> Bytes {
    let mut builder = BatchBuilder::new();
    for timestamp in timestamps {
        builder.append(*timestamp, None, Some(b"value"), &[]);
    }
    builder.build()
}

fn the_leader_dates_what_it_appends(client: &mut Client) {
    client.create_topic("dated", 1, &[("message.timestamp.type", "LogAppendTime")]);
    for version in versions() {
        for codec in [Codec::None, Codec::Gzip] {
            let before = now_ms();
            let produced = produce(client, version, "dated", batch(codec, ["a".into(), "b".into()]));
            assert_eq!(produced.error_code, 0, "version {version}");
            let append_time = produced.log_append_time_ms;
            assert!((before..=now_ms()).contains(&append_time), "version {version}: {produced:?}");

            let bytes = fetch(client, "dated", produced.base_offset);
            let header = BatchHeader::read(&bytes).expect("a sound batch").expect("a whole batch");
            assert_eq!((header.timestamp_type, header.codec), (TimestampType::LogAppendTime, codec));
            assert_eq!((header.base_offset, header.max_timestamp), (produced.base_offset, append_time));
            for record in records(&bytes) {
                assert_eq!(record.expect("a sound record").timestamp, append_time);
            }
        }
        // A producer must not say that the leader has dated its batch.
        let mut pretender = batch(Codec::None, ["a".into()]).to_vec();
        pretender[22] |= 0b1000;
        let crc = crc32c::crc32c(&pretender[21..]);
        pretender[17..21].copy_from_slice(&crc.to_be_bytes());
        let refused = produce(client, version, "dated", pretender.into());
        assert_eq!(ErrorCode::from_code(refused.error_code).name(), "INVALID_TIMESTAMP", "version {version}");
    }
}

fn the_producers_dates_are_kept(client: &mut Client) {
    client.create_topic("kept", 1, &[]);
    for version in versions() {
        let produced = produce(client, version, "kept", batch(Codec::None, ["a".into()]));
        assert_eq!((produced.error_code, produced.log_append_time_ms), (0, -1), "version {version}");
        let bytes = fetch(client, "kept", produced.base_offset);
        let header = BatchHeader::read(&bytes).expect("a sound batch").expect("a whole batch");
        assert_eq!((header.timestamp_type, header.max_timestamp), (TimestampType::CreateTime, TIMESTAMP));
    }
}

fn dates_out_of_bounds_are_refused(client: &mut Client) {
    let bound = HOUR_MS.to_string();
    let bounds = [("message.timestamp.before.max.ms", bound.as_str()), ("message.timestamp.after.max.ms", &bound)];
    client.create_topic("bounded", 1, &bounds);
    let now = now_ms();
    let (old, new) = (now - 2 * HOUR_MS, now + 2 * HOUR_MS);
    for version in versions() {
        let refused = produce(client, version, "bounded", dated(&[now, old, now, new]));
        assert_eq!(ErrorCode::from_code(refused.error_code).name(), "INVALID_TIMESTAMP", "version {version}");
        assert_eq!((refused.base_offset, refused.log_append_time_ms), (-1, -1), "version {version}");
        // Older versions have no place for the reasons.
        if version < 8 {
            continue;
        }
        let words = "One or more records have been rejected due to invalid timestamp";
        assert_eq!(refused.error_message.as_deref(), Some(words));
        let rejected: Vec<i32> = refused.record_errors.iter().map(|error| error.batch_index).collect();
        assert_eq!(rejected, [1, 3]);
        for (error, (offset, timestamp)) in refused.record_errors.iter().zip([(1, old), (3, new)]) {
            let said = error.batch_index_error_message.as_deref().unwrap_or_default();
            let words = format!(
                "Timestamp {timestamp} of message with offset {offset} is out of range. The timestamp should be within ["
            );
            assert!(said.starts_with(&words), "{said}");
        }
    }
    let taken = produce(client, 8, "bounded", dated(&[now, now - HOUR_MS / 2, now + HOUR_MS / 2]));
    assert_eq!((taken.error_code, taken.base_offset), (0, 0), "nothing of what was refused is in the log");
}

fn records_without_a_key_are_refused_one_by_one(client: &mut Client) {
    client.create_topic("keyed", 1, &[("cleanup.policy", "compact")]);
    let refused = produce(client, 8, "keyed", dated(&[TIMESTAMP; 4]));
    assert_eq!(ErrorCode::from_code(refused.error_code).name(), "INVALID_RECORD");
    let shown: Vec<String> = refused
        .record_errors
        .iter()
        .map(|error| {
            let why = error.batch_index_error_message.as_deref().unwrap_or_default();
            assert_eq!(why, "Compacted topic cannot accept message without key in topic partition keyed-0");
            format!("RecordError(batchIndex={}, message='{why}')", error.batch_index)
        })
        .collect();
    assert_eq!(shown.len(), 4);
    let words = format!(
        "One or more records have been rejected due to 4 record errors in total, \
         and only showing the first three errors at most: [{}]",
        shown[..3].join(", ")
    );
    assert_eq!(refused.error_message, Some(words));
}

#[test]
fn records_are_dated_as_the_topic_says() {
    let cluster = Cluster::start("timestamps", "");
    let mut client = cluster.broker.client();
    the_leader_dates_what_it_appends(&mut client);
    the_producers_dates_are_kept(&mut client);
    dates_out_of_bounds_are_refused(&mut client);
    records_without_a_key_are_refused_one_by_one(&mut client);
}
