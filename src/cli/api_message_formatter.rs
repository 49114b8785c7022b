//! The formatters for the records of `__consumer_offsets`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::client::consumer::ConsumedRecord;
use crate::codec::reader::{DecodeError, Reader};
use crate::coordinator::group::records::{GroupMetadataKey, GroupMetadataValue, OffsetCommitKey, OffsetCommitValue};
use crate::protocol::message::Message;
use crate::protocol::messages::consumer_protocol_assignment::ConsumerProtocolAssignment;
use crate::protocol::messages::consumer_protocol_subscription::ConsumerProtocolSubscription;

/// Which records of `__consumer_offsets` are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Offsets,
    Groups,
}

/// The record as one line of JSON, its fields in the schema's order; `None` for records of the other kind.
/// Source: kafka 3.9.1 tools/src/main/java/org/apache/kafka/tools/consumer/{ApiMessageFormatter,
/// OffsetsMessageFormatter,GroupMetadataMessageFormatter}.java. They write no line ends; this does.
pub(crate) fn json(kind: Kind, consumed: &ConsumedRecord) -> Result<Option<String>, DecodeError> {
    let Some(key) = &consumed.record.key else { return Ok(Some(r#"{"key":null,"value":null}"#.to_owned())) };
    let mut reader = Reader::new(key.clone());
    let version = reader.i16()?;
    let is_offset = OffsetCommitKey::VERSIONS.contains(&version);
    let is_group = GroupMetadataKey::VERSIONS.contains(&version);
    let data = match kind {
        Kind::Offsets if is_group => return Ok(None),
        Kind::Groups if is_offset => return Ok(None),
        Kind::Offsets if is_offset => offset_key(&OffsetCommitKey::decode(&mut reader, version)?),
        Kind::Groups if is_group => group_key(&GroupMetadataKey::decode(&mut reader, version)?),
        _ => r#""unknown""#.to_owned(),
    };
    let value = match &consumed.record.value {
        None => "null".to_owned(),
        Some(value) => {
            let mut reader = Reader::new(value.clone());
            let version = reader.i16()?;
            let data = match kind {
                Kind::Offsets if OffsetCommitValue::VERSIONS.contains(&version) => {
                    offset_value(&OffsetCommitValue::decode(&mut reader, version)?, version)
                }
                Kind::Groups if GroupMetadataValue::VERSIONS.contains(&version) => {
                    group_value(&GroupMetadataValue::decode(&mut reader, version)?, version, DecodeMembers::No)
                }
                _ => r#""unknown""#.to_owned(),
            };
            format!(r#"{{"version":{version},"data":{data}}}"#)
        }
    };
    Ok(Some(format!(r#"{{"key":{{"version":{version},"data":{data}}},"value":{value}}}"#)))
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
