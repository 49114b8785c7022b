//! The formatters of internal topics as text, which Kafka has under their old names besides those that write JSON.
//!
//! Where Kafka prints members or partitions as its hash tables order them, they stand here in the record's order.
//! Source: kafka 3.9.1 core/.../coordinator/group/GroupMetadataManager.scala, .../transaction/TransactionLog.scala, and
//! toString of what they read.

use bytes::Bytes;

use crate::cli::api_message_formatter::Kind;
use crate::client::consumer::ConsumedRecord;
use crate::codec::reader::Reader;
use crate::coordinator::group::records::{GroupMetadataKey, GroupMetadataValue, OffsetCommitKey, OffsetCommitValue};
use crate::coordinator::transaction::records::{TransactionLogKey, TransactionLogValue};
use crate::coordinator::transaction::state::TransactionState;
use crate::protocol::message::Message;

/// A line of text; `None` for records of the other kind, and for those without a key.
pub(crate) fn text(kind: Kind, consumed: &ConsumedRecord) -> Result<Option<String>, String> {
    let Some(key) = &consumed.record.key else { return Ok(None) };
    let value = consumed.record.value.as_ref();
    let mut reader = Reader::new(key.clone());
    let version = reader.i16().map_err(|error| error.to_string())?;
    let (name, value) = match kind {
        Kind::Offsets => {
            let Some(key) = known::<OffsetCommitKey>(&mut reader, version)? else { return Ok(None) };
            let name = format!("[{},{},{}]", key.group, key.topic, key.partition);
            (name, value.map(|value| versioned("offset message version", value, offset)).transpose()?)
        }
        Kind::Groups => {
            let Some(key) = known::<GroupMetadataKey>(&mut reader, version)? else { return Ok(None) };
            let shown = |stored: &GroupMetadataValue, version| Ok(group(&key.group, stored, version));
            let value = value.map(|value| versioned("group metadata message version", value, shown)).transpose()?;
            (key.group.clone(), value)
        }
        Kind::Transactions => {
            let Some(key) = known::<TransactionLogKey>(&mut reader, version)? else {
                return Ok(Some(format!("unknown::version={version}")));
            };
            let shown = |stored: &TransactionLogValue, _| transaction(&key.transactional_id, stored);
            let value =
                value.map(|value| versioned("version of a transaction log message", value, shown)).transpose()?;
            (key.transactional_id.clone(), value)
        }
    };
    Ok(Some(format!("{name}::{}", value.as_deref().unwrap_or("NULL"))))
}

/// The key, if it is of a version of this kind.
fn known<M: Message>(reader: &mut Reader, version: i16) -> Result<Option<M>, String> {
    M::VERSIONS.contains(&version).then(|| M::decode(reader, version).map_err(|error| error.to_string())).transpose()
}

fn versioned<M: Message>(
    what: &str,
    value: &Bytes,
    shown: impl FnOnce(&M, i16) -> Result<String, String>,
) -> Result<String, String> {
    let mut reader = Reader::new(value.clone());
    let version = reader.i16().map_err(|error| error.to_string())?;
    let value = known(&mut reader, version)?.ok_or_else(|| format!("Unknown {what}: {version}"))?;
    shown(&value, version)
}

/// As Scala shows what may be missing.
fn option(value: Option<impl std::fmt::Display>) -> String {
    value.map_or_else(|| "None".to_owned(), |value| format!("Some({value})"))
}

fn offset(stored: &OffsetCommitValue, _: i16) -> Result<String, String> {
    let epoch = match stored.leader_epoch {
        -1 => "Optional.empty".to_owned(),
        epoch => format!("Optional[{epoch}]"),
    };
    Ok(format!(
        "OffsetAndMetadata(offset={}, leaderEpoch={epoch}, metadata={}, commitTimestamp={}, expireTimestamp={})",
        stored.offset,
        stored.metadata,
        stored.commit_timestamp,
        option(Some(stored.expire_timestamp).filter(|timestamp| *timestamp != -1))
    ))
}

fn group(id: &str, stored: &GroupMetadataValue, version: i16) -> String {
    let members = stored.members.iter().map(|member| {
        // The first version had one timeout for both.
        let rebalance_ms = if version == 0 { member.session_timeout } else { member.rebalance_timeout };
        format!(
            "{id} -> MemberMetadata(memberId={id}, groupInstanceId={}, clientId={}, clientHost={}, sessionTimeoutMs={}, \
             rebalanceTimeoutMs={rebalance_ms}, supportedProtocols=List({}))",
            option(member.group_instance_id.as_deref()),
            member.client_id,
            member.client_host,
            member.session_timeout,
            stored.protocol.as_deref().unwrap_or("null"),
            id = member.member_id
        )
    });
    let members: Vec<String> = members.collect();
    let has_type = !stored.protocol_type.is_empty() || !members.is_empty();
    format!(
        "GroupMetadata(groupId={id}, generation={}, protocolType={}, currentState={}, members=HashMap({}))",
        stored.generation,
        option(has_type.then_some(&stored.protocol_type)),
        if members.is_empty() { "Empty" } else { "Stable" },
        members.join(", ")
    )
}

fn transaction(id: &str, stored: &TransactionLogValue) -> Result<String, String> {
    let state = TransactionState::from_id(stored.transaction_status).ok_or_else(|| {
        format!("Unknown transaction state id {} from the transaction status message", stored.transaction_status)
    })?;
    let topics = stored.transaction_partitions.iter().flatten().filter(|_| state != TransactionState::Empty);
    let partitions: Vec<String> =
        topics.flat_map(|topic| topic.partition_ids.iter().map(|id| format!("{}-{id}", topic.topic))).collect();
    Ok(format!(
        "TransactionMetadata(transactionalId={id}, producerId={}, producerEpoch={}, txnTimeoutMs={}, state={state}, \
         pendingState=None, topicPartitions=HashSet({}), txnStartTimestamp={}, txnLastUpdateTimestamp={})",
        stored.producer_id,
        stored.producer_epoch,
        stored.transaction_timeout_ms,
        partitions.join(", "),
        stored.transaction_start_timestamp_ms,
        stored.transaction_last_update_timestamp_ms
    ))
}

/// Held to what the classes of Kafka 3.9.1 print of the same records.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::api_message_formatter::tests::{consumed, versioned as bytes};
    use crate::coordinator::group::records::MemberMetadata;
    use crate::coordinator::transaction::records::PartitionsSchema;

    fn printed(kind: Kind, key: Option<Bytes>, value: Option<Bytes>) -> Option<String> {
        text(kind, &consumed(key, value)).unwrap()
    }

    #[test]
    fn offsets_read_as_scala_shows_them() {
        let key = OffsetCommitKey { group: "g".to_owned(), topic: "t".to_owned(), partition: 1 };
        let key = |version| Some(bytes(version, &key));
        let value = OffsetCommitValue {
            offset: 100,
            leader_epoch: 10,
            metadata: "m".to_owned(),
            commit_timestamp: 1234,
            expire_timestamp: 5,
        };
        let shown = |version, value: &OffsetCommitValue| printed(Kind::Offsets, key(1), Some(bytes(version, value)));
        assert_eq!(
            shown(3, &OffsetCommitValue { expire_timestamp: -1, ..value.clone() }).unwrap(),
            "[g,t,1]::OffsetAndMetadata(offset=100, leaderEpoch=Optional[10], metadata=m, commitTimestamp=1234, \
             expireTimestamp=None)"
        );
        assert_eq!(
            shown(1, &OffsetCommitValue { leader_epoch: -1, ..value }).unwrap(),
            "[g,t,1]::OffsetAndMetadata(offset=100, leaderEpoch=Optional.empty, metadata=m, commitTimestamp=1234, \
             expireTimestamp=Some(5))"
        );
        assert_eq!(printed(Kind::Offsets, key(0), None).unwrap(), "[g,t,1]::NULL");
        assert_eq!(printed(Kind::Offsets, None, None), None);
        assert_eq!(printed(Kind::Groups, key(1), None), None);
        assert_eq!(printed(Kind::Offsets, Some(Bytes::from_static(&[0, 9])), None), None);
        let unknown = text(Kind::Offsets, &consumed(key(1), Some(Bytes::from_static(&[0, 9]))));
        assert_eq!(unknown.unwrap_err(), "Unknown offset message version: 9");
    }

    #[test]
    fn groups_read_as_scala_shows_them() {
        let key = || Some(bytes(2, &GroupMetadataKey { group: "g".to_owned() }));
        let member = |id: &str, instance: Option<&str>| MemberMetadata {
            member_id: id.to_owned(),
            group_instance_id: instance.map(str::to_owned),
            client_id: "c".to_owned(),
            client_host: "/h".to_owned(),
            rebalance_timeout: 20,
            session_timeout: 10,
            ..Default::default()
        };
        let value = GroupMetadataValue {
            protocol_type: "consumer".to_owned(),
            generation: 3,
            protocol: Some("range".to_owned()),
            members: vec![member("m", None), member("n", Some("i"))],
            ..Default::default()
        };
        assert_eq!(
            printed(Kind::Groups, key(), Some(bytes(3, &value))).unwrap(),
            "g::GroupMetadata(groupId=g, generation=3, protocolType=Some(consumer), currentState=Stable, \
             members=HashMap(m -> MemberMetadata(memberId=m, groupInstanceId=None, clientId=c, clientHost=/h, \
             sessionTimeoutMs=10, rebalanceTimeoutMs=20, supportedProtocols=List(range)), \
             n -> MemberMetadata(memberId=n, groupInstanceId=Some(i), clientId=c, clientHost=/h, sessionTimeoutMs=10, \
             rebalanceTimeoutMs=20, supportedProtocols=List(range))))"
        );
        let old = GroupMetadataValue { members: vec![member("m", None)], ..value };
        let old = printed(Kind::Groups, key(), Some(bytes(0, &old))).unwrap();
        assert!(old.contains("sessionTimeoutMs=10, rebalanceTimeoutMs=10,"), "{old}");
        let empty = GroupMetadataValue { generation: 3, ..Default::default() };
        assert_eq!(
            printed(Kind::Groups, key(), Some(bytes(3, &empty))).unwrap(),
            "g::GroupMetadata(groupId=g, generation=3, protocolType=None, currentState=Empty, members=HashMap())"
        );
        assert_eq!(printed(Kind::Groups, key(), None).unwrap(), "g::NULL");
    }

    #[test]
    fn transactions_read_as_scala_shows_them() {
        let key = || Some(bytes(0, &TransactionLogKey { transactional_id: "id".to_owned() }));
        let value = TransactionLogValue {
            producer_id: 100,
            producer_epoch: 50,
            transaction_timeout_ms: 500,
            transaction_status: 1,
            transaction_partitions: Some(vec![PartitionsSchema { topic: "t".to_owned(), partition_ids: vec![1, 0] }]),
            transaction_last_update_timestamp_ms: 1000,
            transaction_start_timestamp_ms: 750,
            ..Default::default()
        };
        assert_eq!(
            printed(Kind::Transactions, key(), Some(bytes(0, &value))).unwrap(),
            "id::TransactionMetadata(transactionalId=id, producerId=100, producerEpoch=50, txnTimeoutMs=500, \
             state=Ongoing, pendingState=None, topicPartitions=HashSet(t-1, t-0), txnStartTimestamp=750, \
             txnLastUpdateTimestamp=1000)"
        );
        assert_eq!(printed(Kind::Transactions, key(), None).unwrap(), "id::NULL");
        assert_eq!(printed(Kind::Transactions, Some(Bytes::from_static(&[0, 9])), None).unwrap(), "unknown::version=9");
        let unknown = TransactionLogValue { transaction_status: 9, ..value };
        let unknown = text(Kind::Transactions, &consumed(key(), Some(bytes(0, &unknown))));
        assert_eq!(unknown.unwrap_err(), "Unknown transaction state id 9 from the transaction status message");
    }
}
