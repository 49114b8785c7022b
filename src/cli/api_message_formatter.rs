//! The formatters that show the records of `__consumer_offsets` and `__transaction_state` as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::client::consumer::ConsumedRecord;
use crate::codec::reader::{DecodeError, Reader};
use crate::coordinator::group::records::{GroupMetadataKey, GroupMetadataValue, OffsetCommitKey, OffsetCommitValue};
use crate::coordinator::transaction::records::{TransactionLogKey, TransactionLogValue};
use crate::protocol::message::Message;
use crate::protocol::messages::consumer_protocol_assignment::ConsumerProtocolAssignment;
use crate::protocol::messages::consumer_protocol_subscription::ConsumerProtocolSubscription;

/// Which records are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of `__consumer_offsets`.
    Offsets,
    /// Of `__consumer_offsets`.
    Groups,
    /// Of `__transaction_state`.
    Transactions,
}

const UNKNOWN: &str = r#""unknown""#;

/// The record as one line of JSON, its fields in the schema's order; `None` for records of the other kind.
/// Source: kafka 3.9.1 tools/src/main/java/org/apache/kafka/tools/consumer/{ApiMessageFormatter,
/// OffsetsMessageFormatter,GroupMetadataMessageFormatter,TransactionLogMessageFormatter}.java. They write no line ends;
/// this does.
pub(crate) fn json(kind: Kind, consumed: &ConsumedRecord) -> Result<Option<String>, DecodeError> {
    let key = match &consumed.record.key {
        None => "null".to_owned(),
        Some(key) => {
            let mut reader = Reader::new(key.clone());
            let version = reader.i16()?;
            let Some(data) = key_data(kind, &mut reader, version)? else { return Ok(None) };
            format!(r#"{{"version":{version},"data":{data}}}"#)
        }
    };
    let value = match &consumed.record.value {
        None => "null".to_owned(),
        Some(value) => {
            let mut reader = Reader::new(value.clone());
            let version = reader.i16()?;
            let data = value_data(kind, &mut reader, version)?;
            format!(r#"{{"version":{version},"data":{data}}}"#)
        }
    };
    Ok(Some(format!(r#"{{"key":{key},"value":{value}}}"#)))
}

fn key_data(kind: Kind, reader: &mut Reader, version: i16) -> Result<Option<String>, DecodeError> {
    let is_offset = OffsetCommitKey::VERSIONS.contains(&version);
    let is_group = GroupMetadataKey::VERSIONS.contains(&version);
    Ok(Some(match kind {
        Kind::Offsets if is_group => return Ok(None),
        Kind::Groups if is_offset => return Ok(None),
        Kind::Offsets if is_offset => offset_key(&OffsetCommitKey::decode(reader, version)?),
        Kind::Groups if is_group => group_key(&GroupMetadataKey::decode(reader, version)?),
        Kind::Transactions if TransactionLogKey::VERSIONS.contains(&version) => {
            let key = TransactionLogKey::decode(reader, version)?;
            format!(r#"{{"transactionalId":{}}}"#, text(&key.transactional_id))
        }
        _ => UNKNOWN.to_owned(),
    }))
}

fn value_data(kind: Kind, reader: &mut Reader, version: i16) -> Result<String, DecodeError> {
    Ok(match kind {
        Kind::Offsets if OffsetCommitValue::VERSIONS.contains(&version) => {
            offset_value(&OffsetCommitValue::decode(reader, version)?, version)
        }
        Kind::Groups if GroupMetadataValue::VERSIONS.contains(&version) => {
            group_value(&GroupMetadataValue::decode(reader, version)?, version, DecodeMembers::No)
        }
        Kind::Transactions if TransactionLogValue::VERSIONS.contains(&version) => {
            transaction_value(&TransactionLogValue::decode(reader, version)?)
        }
        _ => UNKNOWN.to_owned(),
    })
}

/// As 3.9 knows it: what stands in tagged fields is of later releases.
fn transaction_value(value: &TransactionLogValue) -> String {
    let partitions = value.transaction_partitions.as_ref().map_or_else(
        || "null".to_owned(),
        |topics| {
            let topics: Vec<String> = topics
                .iter()
                .map(|topic| {
                    let ids: Vec<String> = topic.partition_ids.iter().map(i32::to_string).collect();
                    format!(r#"{{"topic":{},"partitionIds":[{}]}}"#, text(&topic.topic), ids.join(","))
                })
                .collect();
            format!("[{}]", topics.join(","))
        },
    );
    format!(
        r#"{{"producerId":{},"producerEpoch":{},"transactionTimeoutMs":{},"transactionStatus":{},"transactionPartitions":{partitions},"transactionLastUpdateTimestampMs":{},"transactionStartTimestampMs":{}}}"#,
        value.producer_id,
        value.producer_epoch,
        value.transaction_timeout_ms,
        value.transaction_status,
        value.transaction_last_update_timestamp_ms,
        value.transaction_start_timestamp_ms
    )
}

fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn optional(value: &Option<String>) -> String {
    value.as_deref().map_or_else(|| "null".to_owned(), text)
}

fn base64(bytes: &Bytes) -> String {
    format!("\"{}\"", STANDARD.encode(bytes))
}

/// Whether what members say of themselves, and what they are given, is shown as fields or as the bytes that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecodeMembers {
    /// As far as it is of Kafka's consumer protocol.
    Yes,
    No,
}

pub(crate) fn offset_key(key: &OffsetCommitKey) -> String {
    let (group, topic) = (text(&key.group), text(&key.topic));
    format!(r#"{{"group":{group},"topic":{topic},"partition":{}}}"#, key.partition)
}

pub(crate) fn group_key(key: &GroupMetadataKey) -> String {
    format!(r#"{{"group":{}}}"#, text(&key.group))
}

/// What the bytes say in the consumer protocol's own version, which stands before them.
fn decoded<M: Message>(bytes: &Bytes, shown: impl FnOnce(&M, i16) -> String) -> Option<String> {
    let mut reader = Reader::new(bytes.clone());
    let version = reader.i16().ok()?;
    M::VERSIONS.contains(&version).then_some(())?;
    Some(shown(&M::decode(&mut reader, version).ok()?, version))
}

fn user_data(data: &Option<Bytes>) -> String {
    data.as_ref().map_or_else(|| "null".to_owned(), base64)
}

fn partitions<'a>(topics: impl Iterator<Item = (&'a str, &'a [i32])>) -> String {
    let shown: Vec<String> = topics
        .map(|(topic, partitions)| {
            let partitions: Vec<String> = partitions.iter().map(i32::to_string).collect();
            format!(r#"{{"topic":{},"partitions":[{}]}}"#, text(topic), partitions.join(","))
        })
        .collect();
    format!("[{}]", shown.join(","))
}

fn subscription(subscription: &ConsumerProtocolSubscription, version: i16) -> String {
    let topics: Vec<String> = subscription.topics.iter().map(|topic| text(topic)).collect();
    let mut shown = format!(r#"{{"topics":[{}],"userData":{}"#, topics.join(","), user_data(&subscription.user_data));
    if version >= 1 {
        let owned = subscription.owned_partitions.iter();
        let owned = partitions(owned.map(|owned| (owned.topic.as_str(), owned.partitions.as_slice())));
        shown += &format!(r#","ownedPartitions":{owned}"#);
    }
    if version >= 2 {
        shown += &format!(r#","generationId":{}"#, subscription.generation_id);
    }
    if version >= 3 {
        shown += &format!(r#","rackId":{}"#, optional(&subscription.rack_id));
    }
    shown + "}"
}

fn assignment(assignment: &ConsumerProtocolAssignment, _: i16) -> String {
    let assigned = assignment.assigned_partitions.iter();
    let assigned = partitions(assigned.map(|assigned| (assigned.topic.as_str(), assigned.partitions.as_slice())));
    format!(r#"{{"assignedPartitions":{assigned},"userData":{}}}"#, user_data(&assignment.user_data))
}

pub(crate) fn offset_value(value: &OffsetCommitValue, version: i16) -> String {
    let epoch = if version >= 3 { format!(r#""leaderEpoch":{},"#, value.leader_epoch) } else { String::new() };
    let expiry = if version == 1 { format!(r#","expireTimestamp":{}"#, value.expire_timestamp) } else { String::new() };
    format!(
        r#"{{"offset":{},{epoch}"metadata":{},"commitTimestamp":{}{expiry}}}"#,
        value.offset,
        text(&value.metadata),
        value.commit_timestamp
    )
}

pub(crate) fn group_value(value: &GroupMetadataValue, version: i16, members: DecodeMembers) -> String {
    let decodes = members == DecodeMembers::Yes && value.protocol_type == "consumer";
    let timestamp = match version {
        2.. => format!(r#""currentStateTimestamp":{},"#, value.current_state_timestamp),
        _ => String::new(),
    };
    let members: Vec<String> = value
        .members
        .iter()
        .map(|member| {
            let instance = match version {
                3.. => format!(r#""groupInstanceId":{},"#, optional(&member.group_instance_id)),
                _ => String::new(),
            };
            let rebalance = match version {
                1.. => format!(r#""rebalanceTimeout":{},"#, member.rebalance_timeout),
                _ => String::new(),
            };
            format!(
                r#"{{"memberId":{},{instance}"clientId":{},"clientHost":{},{rebalance}"sessionTimeout":{},"subscription":{},"assignment":{}}}"#,
                text(&member.member_id),
                text(&member.client_id),
                text(&member.client_host),
                member.session_timeout,
                decodes
                    .then(|| decoded(&member.subscription, subscription))
                    .flatten()
                    .unwrap_or_else(|| base64(&member.subscription)),
                decodes
                    .then(|| decoded(&member.assignment, assignment))
                    .flatten()
                    .unwrap_or_else(|| base64(&member.assignment))
            )
        })
        .collect();
    format!(
        r#"{{"protocolType":{},"generation":{},"protocol":{},"leader":{},{timestamp}"members":[{}]}}"#,
        text(&value.protocol_type),
        value.generation,
        optional(&value.protocol),
        optional(&value.leader),
        members.join(",")
    )
}

/// Kafka's own cases: kafka 3.9.0-rc3 tools/src/test/java/org/apache/kafka/tools/consumer/
/// {OffsetMessageFormatter,TransactionLogMessageFormatter}Test.java.
#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::codec::writer::Writer;
    use crate::coordinator::transaction::records::PartitionsSchema;
    use crate::model::TopicPartition;
    use crate::record::batch::TimestampType;
    use crate::record::read::Record;

    pub(crate) fn consumed(key: Option<Bytes>, value: Option<Bytes>) -> ConsumedRecord {
        ConsumedRecord {
            partition: TopicPartition::new("t", 0),
            timestamp_type: Some(TimestampType::CreateTime),
            record: Record { offset: 0, timestamp: 0, key, value, headers: Vec::new() },
        }
    }

    /// A key or a value of an internal topic. Of versions that are none, only the number counts.
    pub(crate) fn versioned<M: Message>(version: i16, message: &M) -> Bytes {
        let mut writer = Writer::new();
        writer.i16(version);
        if M::VERSIONS.contains(&version) {
            message.encode(&mut writer, version).unwrap();
        }
        writer.into_bytes().unwrap()
    }

    fn printed(kind: Kind, key: Option<Bytes>, value: Option<Bytes>) -> String {
        json(kind, &consumed(key, value)).unwrap().unwrap_or_default()
    }

    #[test]
    fn transactions_are_shown_as_kafka_shows_them() {
        let key = |version| Some(versioned(version, &TransactionLogKey { transactional_id: "TXNID".to_owned() }));
        let value = TransactionLogValue {
            producer_id: 100,
            producer_epoch: 50,
            transaction_status: 4,
            transaction_start_timestamp_ms: 750,
            transaction_last_update_timestamp_ms: 1000,
            transaction_timeout_ms: 500,
            transaction_partitions: Some(Vec::new()),
            ..Default::default()
        };
        let stored = |version| Some(versioned(version, &value));
        let shown = |key, value| printed(Kind::Transactions, key, value);
        let fields = r#"{"producerId":100,"producerEpoch":50,"transactionTimeoutMs":500,"transactionStatus":4,"transactionPartitions":[],"transactionLastUpdateTimestampMs":1000,"transactionStartTimestampMs":750}"#;
        let id = r#"{"transactionalId":"TXNID"}"#;
        let unknown = r#""unknown""#;
        for (key_version, data, value_version, fields) in [
            (10, unknown, 10, unknown),
            (0, id, 1, fields),
            (0, id, 5, unknown),
            (1, unknown, 1, fields),
            (0, id, 0, fields),
        ] {
            assert_eq!(
                shown(key(key_version), stored(value_version)),
                format!(
                    r#"{{"key":{{"version":{key_version},"data":{data}}},"value":{{"version":{value_version},"data":{fields}}}}}"#
                )
            );
        }
        assert_eq!(shown(key(0), None), format!(r#"{{"key":{{"version":0,"data":{id}}},"value":null}}"#));
        assert_eq!(shown(None, stored(1)), format!(r#"{{"key":null,"value":{{"version":1,"data":{fields}}}}}"#));
        assert_eq!(shown(None, None), r#"{"key":null,"value":null}"#);

        let topic = PartitionsSchema { topic: "t".to_owned(), partition_ids: vec![1, 0] };
        let ongoing = TransactionLogValue { transaction_partitions: Some(vec![topic]), ..value.clone() };
        let ongoing = shown(key(0), Some(versioned(1, &ongoing)));
        assert!(ongoing.contains(r#""transactionPartitions":[{"topic":"t","partitionIds":[1,0]}],"#), "{ongoing}");
        let empty = TransactionLogValue { transaction_partitions: None, ..value };
        let empty = shown(key(0), Some(versioned(0, &empty)));
        assert!(empty.contains(r#""transactionPartitions":null,"#), "{empty}");
    }

    #[test]
    fn offsets_are_shown_as_kafka_shows_them() {
        let key = OffsetCommitKey { group: "group-id".to_owned(), topic: "foo".to_owned(), partition: 1 };
        let value = |version| OffsetCommitValue {
            offset: 100,
            leader_epoch: if version >= 3 { 10 } else { -1 },
            metadata: "metadata".to_owned(),
            commit_timestamp: 1234,
            expire_timestamp: -1,
        };
        let fields = |version: i16| match version {
            0 | 2 => r#"{"offset":100,"metadata":"metadata","commitTimestamp":1234}"#,
            1 => r#"{"offset":100,"metadata":"metadata","commitTimestamp":1234,"expireTimestamp":-1}"#,
            3 | 4 => r#"{"offset":100,"leaderEpoch":10,"metadata":"metadata","commitTimestamp":1234}"#,
            _ => r#""unknown""#,
        };
        let shown_value = |version: i16| format!(r#"{{"version":{version},"data":{}}}"#, fields(version));
        let stored = |version| Some(versioned(version, &value(version)));
        for (key_version, value_version) in [(10, 10), (0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (5, 4), (0, 5)] {
            let data = match key_version {
                0 => r#"{"group":"group-id","topic":"foo","partition":1}"#,
                _ => r#""unknown""#,
            };
            assert_eq!(
                printed(Kind::Offsets, Some(versioned(key_version, &key)), stored(value_version)),
                format!(
                    r#"{{"key":{{"version":{key_version},"data":{data}}},"value":{}}}"#,
                    shown_value(value_version)
                )
            );
        }
        assert_eq!(printed(Kind::Offsets, None, stored(1)), format!(r#"{{"key":null,"value":{}}}"#, shown_value(1)));
        assert_eq!(printed(Kind::Offsets, None, None), r#"{"key":null,"value":null}"#);
        let of_group = Some(versioned(2, &GroupMetadataKey { group: "group-id".to_owned() }));
        assert_eq!(printed(Kind::Offsets, of_group, None), "");
    }
}
