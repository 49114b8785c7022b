//! The formatters for the records of `__consumer_offsets`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::client::consumer::ConsumedRecord;
use crate::codec::reader::{DecodeError, Reader};
use crate::coordinator::group::records::{GroupMetadataKey, GroupMetadataValue, OffsetCommitKey, OffsetCommitValue};
use crate::protocol::message::Message;

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
        Kind::Offsets if is_offset => {
            let key = OffsetCommitKey::decode(&mut reader, version)?;
            let (group, topic) = (text(&key.group), text(&key.topic));
            format!(r#"{{"group":{group},"topic":{topic},"partition":{}}}"#, key.partition)
        }
        Kind::Groups if is_group => {
            let key = GroupMetadataKey::decode(&mut reader, version)?;
            format!(r#"{{"group":{}}}"#, text(&key.group))
        }
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
                    group_value(&GroupMetadataValue::decode(&mut reader, version)?, version)
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

fn offset_value(value: &OffsetCommitValue, version: i16) -> String {
    let epoch = if version >= 3 { format!(r#""leaderEpoch":{},"#, value.leader_epoch) } else { String::new() };
    let expiry = if version == 1 { format!(r#","expireTimestamp":{}"#, value.expire_timestamp) } else { String::new() };
    format!(
        r#"{{"offset":{},{epoch}"metadata":{},"commitTimestamp":{}{expiry}}}"#,
        value.offset,
        text(&value.metadata),
        value.commit_timestamp
    )
}

fn group_value(value: &GroupMetadataValue, version: i16) -> String {
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
                base64(&member.subscription),
                base64(&member.assignment)
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
