//! The records of `__transaction_state`, as a JVM broker writes and reads them.
//!
//! ```text
//! key   0      i16 version, transactional id str
//! value 0, 1   i16 version, fields below; 1 has the compact encodings, and tagged fields for transaction.version 2
//! null value   tombstone
//! ```
//! Version 1 is written where a tagged field says something, and 0 everywhere else. Brokers older than 3.4.1 do not read 1;
//! those of 3.x that do leave the tagged fields out.
//! Source: kafka 3.9 and 4.1 transaction-coordinator/src/main/resources/common/message/TransactionLog{Key,Value}.json.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::codec::reader::Reader;
use crate::codec::writer::Writer;
use crate::coordinator::record_error::RecordError;
use crate::coordinator::transaction::state::{Producer, StoredTransaction, TransactionState};
use crate::model::transaction_version::TransactionVersion;
use crate::model::{ProducerEpoch, ProducerId, TopicPartition};
use crate::protocol::message::{EncodeError, Message, message};

message! {
    TransactionLogKey, key -1, versions 0..=0, flexible none {
        transactional_id: String [0..],
    }
}

message! {
    TransactionLogValue, key -1, versions 0..=1, flexible 1.. {
        producer_id: i64 [0..],
        producer_epoch: i16 [0..],
        transaction_timeout_ms: i32 [0..],
        /// A `TransactionState`.
        transaction_status: i8 [0..],
        transaction_partitions: Option<Vec<PartitionsSchema>> [0.., nullable 0..],
        transaction_last_update_timestamp_ms: i64 [0..],
        transaction_start_timestamp_ms: i64 [0..],
        previous_producer_id: i64 [1.., default -1, tag 0],
        next_producer_id: i64 [1.., default -1, tag 1],
        client_transaction_version: i16 [1.., tag 2],
    }
    struct PartitionsSchema {
        topic: String [0..],
        partition_ids: Vec<i32> [0..],
    }
}

/// A record of `__transaction_state`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TransactionRecord {
    pub(crate) transactional_id: Arc<str>,
    /// `None` is a tombstone.
    pub(crate) stored: Option<StoredTransaction>,
}

/// What a record of `__transaction_state` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DecodedRecord {
    Transaction(TransactionRecord),
    /// A key of a later coordinator, perhaps left over from an upgrade that was taken back. To be skipped.
    UnknownKey {
        version: i16,
    },
}

/// Key and value of a record; no value is a tombstone. Fails for a text too long for its length prefix of 16 bits.
pub(crate) fn encode(record: &TransactionRecord) -> Result<(Bytes, Option<Bytes>), EncodeError> {
    let key = TransactionLogKey { transactional_id: record.transactional_id.to_string() };
    let value = record.stored.as_ref().map(|stored| encode_versioned(&wire_value(stored), value_version(stored)));
    Ok((encode_versioned(&key, 0)?, value.transpose()?))
}

/// The oldest that has a place for all of it.
fn value_version(stored: &StoredTransaction) -> i16 {
    let StoredTransaction { next_producer_id, previous_producer_id, client_transaction_version, .. } = stored;
    match (next_producer_id, previous_producer_id, client_transaction_version) {
        (None, None, TransactionVersion::V0) => 0,
        _ => 1,
    }
}

fn wire_value(stored: &StoredTransaction) -> TransactionLogValue {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for partition in &stored.partitions {
        topics.entry(&partition.topic).or_default().push(partition.partition);
    }
    let topics =
        topics.into_iter().map(|(topic, partition_ids)| PartitionsSchema { topic: topic.into(), partition_ids });
    let topics = topics.collect();
    TransactionLogValue {
        producer_id: stored.producer.id.0,
        producer_epoch: stored.producer.epoch.0,
        transaction_timeout_ms: stored.timeout_ms,
        transaction_status: stored.state as i8,
        // Kafka reads none back in this state, and fails if there is a list.
        transaction_partitions: (stored.state != TransactionState::Empty).then_some(topics),
        transaction_last_update_timestamp_ms: stored.last_update_ms,
        transaction_start_timestamp_ms: stored.start_ms.unwrap_or(-1),
        previous_producer_id: stored.previous_producer_id.map_or(-1, |id| id.0),
        next_producer_id: stored.next_producer_id.map_or(-1, |id| id.0),
        client_transaction_version: stored.client_transaction_version.level(),
    }
}

fn encode_versioned<M: Message>(message: &M, version: i16) -> Result<Bytes, EncodeError> {
    let mut writer = Writer::new();
    writer.i16(version);
    message.encode(&mut writer, version)?;
    Ok(writer.into_bytes().expect("no file region is written into a record"))
}

pub(crate) fn decode(key: Option<Bytes>, value: Option<Bytes>) -> Result<DecodedRecord, RecordError> {
    let mut reader = Reader::new(key.ok_or(RecordError::NoKey)?);
    let version = reader.i16()?;
    if !TransactionLogKey::VERSIONS.contains(&version) {
        return Ok(DecodedRecord::UnknownKey { version });
    }
    let key = TransactionLogKey::decode(&mut reader, version)?;
    let stored = value.map(decode_value).transpose()?;
    Ok(DecodedRecord::Transaction(TransactionRecord { transactional_id: Arc::from(key.transactional_id), stored }))
}

fn decode_value(value: Bytes) -> Result<StoredTransaction, RecordError> {
    let mut reader = Reader::new(value);
    let version = reader.i16()?;
    if !TransactionLogValue::VERSIONS.contains(&version) {
        return Err(RecordError::UnknownValueVersion(version));
    }
    let value = TransactionLogValue::decode(&mut reader, version)?;
    let state = TransactionState::from_id(value.transaction_status)
        .filter(|state| !matches!(state, TransactionState::Dead | TransactionState::PrepareEpochFence))
        .ok_or(RecordError::UnknownState(value.transaction_status))?;
    let mut partitions = std::collections::BTreeSet::new();
    for topic in value.transaction_partitions.unwrap_or_default() {
        let name: Arc<str> = Arc::from(topic.topic);
        partitions.extend(topic.partition_ids.into_iter().map(|p| TopicPartition::new(Arc::clone(&name), p)));
    }
    let known = |id: i64| Some(ProducerId(id)).filter(|id| id.0 != -1);
    Ok(StoredTransaction {
        producer: Producer { id: ProducerId(value.producer_id), epoch: ProducerEpoch(value.producer_epoch) },
        timeout_ms: value.transaction_timeout_ms,
        state,
        partitions,
        start_ms: Some(value.transaction_start_timestamp_ms).filter(|ms| *ms != -1),
        last_update_ms: value.transaction_last_update_timestamp_ms,
        next_producer_id: known(value.next_producer_id),
        // A JVM broker writes down the id that there has always been, too.
        previous_producer_id: known(value.previous_producer_id).filter(|id| id.0 != value.producer_id),
        client_transaction_version: TransactionVersion::from_level(value.client_transaction_version),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(state: TransactionState) -> StoredTransaction {
        let partitions = [("b", 1), ("a", 7), ("b", 0)].map(|(topic, partition)| TopicPartition::new(topic, partition));
        StoredTransaction {
            producer: Producer { id: ProducerId(4000), epoch: ProducerEpoch(3) },
            timeout_ms: 60_000,
            state,
            partitions: if state == TransactionState::Empty { Default::default() } else { partitions.into() },
            start_ms: Some(1_700_000_000_000).filter(|_| state != TransactionState::Empty),
            last_update_ms: 1_700_000_000_500,
            next_producer_id: None,
            previous_producer_id: None,
            client_transaction_version: TransactionVersion::V0,
        }
    }

    #[test]
    fn the_bytes_of_a_record_are_those_of_kafka() {
        let record = TransactionRecord {
            transactional_id: Arc::from("t"),
            stored: Some(stored(TransactionState::PrepareCommit)),
        };
        let (key, value) = encode(&record).expect("short texts");
        assert_eq!(key[..], *b"\0\0\0\x01t");
        let value = value.expect("not a tombstone");
        assert_eq!(value[..17], *b"\0\0\0\0\0\0\0\0\x0f\xa0\0\x03\0\0\xea\x60\x02");
        assert_eq!(value[17..43], *b"\0\0\0\x02\0\x01a\0\0\0\x01\0\0\0\x07\0\x01b\0\0\0\x02\0\0\0\0");
        assert_eq!(value[43..47], *b"\0\0\0\x01");
        assert_eq!(value[47..55], 1_700_000_000_500_i64.to_be_bytes());
        assert_eq!(value[55..], 1_700_000_000_000_i64.to_be_bytes());
        let record =
            TransactionRecord { transactional_id: Arc::from("t"), stored: Some(stored(TransactionState::Empty)) };
        let (_, value) = encode(&record).expect("short texts");
        let value = value.expect("not a tombstone");
        // No list at all, and no beginning.
        assert_eq!(value[16..21], [0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(value[29..], [0xff; 8]);
    }

    #[test]
    fn records_read_back_in_either_version_and_tombstones_too() {
        for state in TransactionState::ALL.into_iter().take(6) {
            let record = TransactionRecord { transactional_id: Arc::from("t"), stored: Some(stored(state)) };
            let (key, value) = encode(&record).expect("short texts");
            assert_eq!(decode(Some(key), value), Ok(DecodedRecord::Transaction(record)));
            let mut writer = Writer::new();
            writer.i16(1);
            wire_value(&stored(state)).encode(&mut writer, 1).expect("short texts");
            assert_eq!(decode_value(writer.into_bytes().expect("no file is in it")), Ok(stored(state)));
        }
        let record = TransactionRecord { transactional_id: Arc::from("t"), stored: None };
        let (key, value) = encode(&record).expect("short texts");
        assert_eq!(decode(Some(key), value), Ok(DecodedRecord::Transaction(record)));
    }

    /// As kafka 4.1 writes them, by its TransactionLogValue.json.
    #[test]
    fn what_version_2_of_the_protocol_adds_stands_in_tagged_fields_and_only_where_it_says_something() {
        let plain = stored(TransactionState::PrepareCommit);
        let encoded = |stored: &StoredTransaction| {
            let record = TransactionRecord { transactional_id: Arc::from("t"), stored: Some(stored.clone()) };
            let (key, value) = encode(&record).expect("short texts");
            assert_eq!(decode(Some(key), value.clone()), Ok(DecodedRecord::Transaction(record)));
            value.expect("not a tombstone")
        };
        assert_eq!(encoded(&plain)[..2], [0, 0]);
        let bumped = StoredTransaction { client_transaction_version: TransactionVersion::V2, ..plain.clone() };
        let bytes = encoded(&bumped);
        assert_eq!(bytes[..2], [0, 1]);
        // One tagged field, of tag 2 and two bytes.
        assert_eq!(bytes[bytes.len() - 5..], [1, 2, 2, 0, 2]);
        let rotating = StoredTransaction { next_producer_id: Some(ProducerId(5000)), ..bumped.clone() };
        let bytes = encoded(&rotating);
        let next = [[2, 1, 8].as_slice(), &5000_i64.to_be_bytes(), &[2, 2, 0, 2]].concat();
        assert_eq!(bytes[bytes.len() - next.len()..], next);
        let rotated = StoredTransaction { previous_producer_id: Some(ProducerId(3000)), ..bumped };
        let bytes = encoded(&rotated);
        let previous = [[2, 0, 8].as_slice(), &3000_i64.to_be_bytes(), &[2, 2, 0, 2]].concat();
        assert_eq!(bytes[bytes.len() - previous.len()..], previous);
        // A JVM broker always writes down an id that there was before.
        let value = TransactionLogValue { previous_producer_id: 4000, ..wire_value(&plain) };
        let bytes = encode_versioned(&value, 1).expect("short texts");
        assert_eq!(decode_value(bytes), Ok(plain));
    }

    #[test]
    fn unknown_keys_are_skipped_and_what_nobody_writes_is_refused() {
        let unknown = decode(Some(Bytes::from_static(&[0, 1, 9])), Some(Bytes::new()));
        assert_eq!(unknown, Ok(DecodedRecord::UnknownKey { version: 1 }));
        assert_eq!(decode(None, None), Err(RecordError::NoKey));
        assert_eq!(decode_value(Bytes::from_static(&[0, 2])), Err(RecordError::UnknownValueVersion(2)));
        for id in [6, 7, 8, -1] {
            let value = TransactionLogValue { transaction_status: id, ..Default::default() };
            let bytes = encode_versioned(&value, 0).expect("short texts");
            assert_eq!(decode_value(bytes), Err(RecordError::UnknownState(id)));
        }
        assert!(matches!(decode_value(Bytes::from_static(&[0, 0, 1])), Err(RecordError::Malformed(_))));
    }
}
