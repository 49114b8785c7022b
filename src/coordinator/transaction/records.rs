//! The records of `__transaction_state`, as a JVM broker writes and reads them.
//!
//! ```text
//! key   0      i16 version, transactional id str
//! value 0, 1   i16 version, fields below; 1 has the compact encodings   (0 is written)
//! null value   tombstone
//! ```
//! Version 1 is for KRaft alone; brokers older than 3.4.1 do not read it.
//! Source: kafka 3.9 transaction-coordinator/src/main/resources/common/message/TransactionLog{Key,Value}.json.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::codec::reader::Reader;
use crate::codec::writer::Writer;
use crate::coordinator::record_error::RecordError;
use crate::coordinator::transaction::state::{Producer, StoredTransaction, TransactionState};
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
    let value = record.stored.as_ref().map(|stored| encode_versioned(&wire_value(stored)));
    Ok((encode_versioned(&key)?, value.transpose()?))
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
    }
}

fn encode_versioned<M: Message>(message: &M) -> Result<Bytes, EncodeError> {
    let mut writer = Writer::new();
    writer.i16(0);
    message.encode(&mut writer, 0)?;
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
    Ok(StoredTransaction {
        producer: Producer { id: ProducerId(value.producer_id), epoch: ProducerEpoch(value.producer_epoch) },
        timeout_ms: value.transaction_timeout_ms,
        state,
        partitions,
        start_ms: Some(value.transaction_start_timestamp_ms).filter(|ms| *ms != -1),
        last_update_ms: value.transaction_last_update_timestamp_ms,
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

    #[test]
    fn unknown_keys_are_skipped_and_what_nobody_writes_is_refused() {
        let unknown = decode(Some(Bytes::from_static(&[0, 1, 9])), Some(Bytes::new()));
        assert_eq!(unknown, Ok(DecodedRecord::UnknownKey { version: 1 }));
        assert_eq!(decode(None, None), Err(RecordError::NoKey));
        assert_eq!(decode_value(Bytes::from_static(&[0, 2])), Err(RecordError::UnknownValueVersion(2)));
        for id in [6, 7, 8, -1] {
            let value = TransactionLogValue { transaction_status: id, ..Default::default() };
            let bytes = encode_versioned(&value).expect("short texts");
            assert_eq!(decode_value(bytes), Err(RecordError::UnknownState(id)));
        }
        assert!(matches!(decode_value(Bytes::from_static(&[0, 0, 1])), Err(RecordError::Malformed(_))));
    }
}
