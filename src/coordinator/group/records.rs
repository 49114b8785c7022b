//! The records of `__consumer_offsets`, byte for byte as a JVM broker writes and reads them.
//!
//! ```text
//! key   0, 1   offset commit:   i16 version, group str, topic str, partition i32       (1 is written)
//! key   2      group metadata:  i16 version, group str
//! value 0..=4  of either kind:  i16 version, fields below; 4 has the compact encodings  (at most 3 is written)
//! null value   tombstone
//! ```
//! Which value version is written follows from `inter.broker.protocol.version`. Brokers older than 3.4.1 stop loading
//! a partition at a version they do not know, so nothing above 3 is ever written.
//! Source: kafka 3.9 group-coordinator/src/main/resources/common/message/{OffsetCommit,GroupMetadata}{Key,Value}.json.

use std::sync::Arc;

use bytes::Bytes;

use crate::codec::reader::Reader;
use crate::codec::writer::Writer;
use crate::config::metadata_version::MetadataVersion;
use crate::coordinator::record_error::RecordError;
use crate::coordinator::transaction::state::Producer;
use crate::model::{GenerationId, LeaderEpoch, Offset};
use crate::protocol::message::{EncodeError, Message, message};

/// A record of `__consumer_offsets`, whose group stands beside it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum GroupRecord {
    /// `None` is a tombstone.
    Offset { topic: Arc<str>, partition: i32, committed: Option<CommittedOffset> },
    /// `None` is a tombstone.
    Metadata(Option<Box<GroupMetadata>>),
}

/// What is appended at once.
#[derive(Clone, Debug)]
pub(crate) struct GroupBatch {
    pub(crate) records: Vec<GroupRecord>,
    /// Whose transaction the records belong to, which count once it is committed.
    pub(crate) transaction: Option<Producer>,
    /// The transaction's coordinator has been asked, and the log is to be refused them if it has ended since.
    pub(crate) must_be_verified: bool,
}

impl From<Vec<GroupRecord>> for GroupBatch {
    fn from(records: Vec<GroupRecord>) -> GroupBatch {
        GroupBatch { records, transaction: None, must_be_verified: false }
    }
}

/// A completed generation of a group as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupMetadata {
    /// Empty when the group has none.
    pub(crate) protocol_type: Arc<str>,
    pub(crate) generation_id: GenerationId,
    pub(crate) protocol_name: Option<Arc<str>>,
    pub(crate) leader: Option<Arc<str>>,
    /// When the group entered its state; `None` in records older than version 2.
    pub(crate) current_state_timestamp_ms: Option<i64>,
    pub(crate) members: Vec<StoredMember>,
}

/// A member as it is stored: with its metadata for the selected protocol only, so a reload forgets the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredMember {
    pub(crate) member_id: Arc<str>,
    pub(crate) group_instance_id: Option<Arc<str>>,
    pub(crate) client_id: Arc<str>,
    pub(crate) client_host: Arc<str>,
    pub(crate) rebalance_timeout_ms: i32,
    pub(crate) session_timeout_ms: i32,
    pub(crate) subscription: Bytes,
    pub(crate) assignment: Bytes,
}

/// What a group has read of a partition: everything below `offset`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommittedOffset {
    pub(crate) offset: Offset,
    /// Of the last record read; -1 if the client does not say.
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) metadata: Arc<str>,
    pub(crate) commit_timestamp_ms: i64,
    /// Only for commits that asked for a retention of their own.
    pub(crate) expire_timestamp_ms: Option<i64>,
}

message! {
    OffsetCommitKey, key -1, versions 0..=1, flexible none {
        group: String [0..],
        topic: String [0..],
        partition: i32 [0..],
    }
}

message! {
    OffsetCommitValue, key -1, versions 0..=4, flexible 4.. {
        offset: i64 [0..],
        leader_epoch: i32 [3.., default -1, ignorable],
        metadata: String [0..],
        commit_timestamp: i64 [0..],
        expire_timestamp: i64 [1..=1, default -1, ignorable],
    }
}

message! {
    GroupMetadataKey, key -1, versions 2..=2, flexible none {
        group: String [2..],
    }
}

message! {
    GroupMetadataValue, key -1, versions 0..=4, flexible 4.. {
        protocol_type: String [0..],
        generation: i32 [0..],
        protocol: Option<String> [0.., nullable 0..],
        leader: Option<String> [0.., nullable 0..],
        current_state_timestamp: i64 [2.., default -1, ignorable],
        members: Vec<MemberMetadata> [0..],
    }
    struct MemberMetadata {
        member_id: String [0..],
        group_instance_id: Option<String> [3.., nullable 3.., default null, ignorable],
        client_id: String [0..],
        client_host: String [0..],
        rebalance_timeout: i32 [1.., ignorable],
        session_timeout: i32 [0..],
        subscription: Bytes [0..],
        assignment: Bytes [0..],
    }
}

const OFFSET_KEY_VERSION: i16 = 1;
const GROUP_KEY_VERSION: i16 = 2;

/// Key and value of one record; no value is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EncodedRecord {
    pub(crate) key: Bytes,
    pub(crate) value: Option<Bytes>,
}

/// What a record of `__consumer_offsets` says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum DecodedRecord {
    Group {
        group: Arc<str>,
        record: GroupRecord,
    },
    /// A key of a later coordinator, perhaps left over from an upgrade that was taken back. To be skipped.
    UnknownKey {
        version: i16,
    },
}

/// Fails for a text too long for its length prefix of 16 bits, which newer requests could carry.
pub(crate) fn encode(
    group: &str,
    record: &GroupRecord,
    protocol_version: MetadataVersion,
) -> Result<EncodedRecord, EncodeError> {
    match record {
        GroupRecord::Offset { topic, partition, committed } => {
            let key = OffsetCommitKey { group: group.to_owned(), topic: topic.to_string(), partition: *partition };
            let value = committed.as_ref().map(|committed| {
                let version = protocol_version.offset_commit_value_version(committed.expire_timestamp_ms.is_some());
                let value = OffsetCommitValue {
                    offset: committed.offset.0,
                    leader_epoch: committed.leader_epoch.0,
                    metadata: committed.metadata.to_string(),
                    commit_timestamp: committed.commit_timestamp_ms,
                    expire_timestamp: committed.expire_timestamp_ms.unwrap_or(-1),
                };
                encode_versioned(&value, version)
            });
            Ok(EncodedRecord { key: encode_versioned(&key, OFFSET_KEY_VERSION)?, value: value.transpose()? })
        }
        GroupRecord::Metadata(metadata) => {
            let key = GroupMetadataKey { group: group.to_owned() };
            let version = protocol_version.group_metadata_value_version();
            let value = metadata.as_deref().map(|metadata| encode_versioned(&wire_metadata(metadata), version));
            Ok(EncodedRecord { key: encode_versioned(&key, GROUP_KEY_VERSION)?, value: value.transpose()? })
        }
    }
}

fn wire_metadata(metadata: &GroupMetadata) -> GroupMetadataValue {
    let text = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
    GroupMetadataValue {
        protocol_type: metadata.protocol_type.to_string(),
        generation: metadata.generation_id.0,
        protocol: text(&metadata.protocol_name),
        leader: text(&metadata.leader),
        current_state_timestamp: metadata.current_state_timestamp_ms.unwrap_or(-1),
        members: metadata
            .members
            .iter()
            .map(|member| MemberMetadata {
                member_id: member.member_id.to_string(),
                group_instance_id: text(&member.group_instance_id),
                client_id: member.client_id.to_string(),
                client_host: member.client_host.to_string(),
                rebalance_timeout: member.rebalance_timeout_ms,
                session_timeout: member.session_timeout_ms,
                subscription: member.subscription.clone(),
                assignment: member.assignment.clone(),
            })
            .collect(),
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
    if OffsetCommitKey::VERSIONS.contains(&version) {
        let key = OffsetCommitKey::decode(&mut reader, version)?;
        let committed = value.map(decode_offset).transpose()?;
        let record = GroupRecord::Offset { topic: Arc::from(key.topic), partition: key.partition, committed };
        Ok(DecodedRecord::Group { group: Arc::from(key.group), record })
    } else if GroupMetadataKey::VERSIONS.contains(&version) {
        let key = GroupMetadataKey::decode(&mut reader, version)?;
        let record = GroupRecord::Metadata(value.map(decode_metadata).transpose()?.map(Box::new));
        Ok(DecodedRecord::Group { group: Arc::from(key.group), record })
    } else {
        Ok(DecodedRecord::UnknownKey { version })
    }
}

fn decode_versioned<M: Message>(value: Bytes) -> Result<(i16, M), RecordError> {
    let mut reader = Reader::new(value);
    let version = reader.i16()?;
    if !M::VERSIONS.contains(&version) {
        return Err(RecordError::UnknownValueVersion(version));
    }
    Ok((version, M::decode(&mut reader, version)?))
}

fn decode_offset(value: Bytes) -> Result<CommittedOffset, RecordError> {
    let (_, value) = decode_versioned::<OffsetCommitValue>(value)?;
    Ok(CommittedOffset {
        offset: Offset(value.offset),
        leader_epoch: LeaderEpoch(value.leader_epoch),
        metadata: Arc::from(value.metadata),
        commit_timestamp_ms: value.commit_timestamp,
        expire_timestamp_ms: Some(value.expire_timestamp).filter(|expires_ms| *expires_ms != -1),
    })
}

fn decode_metadata(value: Bytes) -> Result<GroupMetadata, RecordError> {
    let (version, value) = decode_versioned::<GroupMetadataValue>(value)?;
    let members = value.members.into_iter().map(|member| StoredMember {
        member_id: Arc::from(member.member_id),
        group_instance_id: member.group_instance_id.map(Arc::from),
        client_id: Arc::from(member.client_id),
        client_host: Arc::from(member.client_host),
        // Version 0 knows one timeout for both.
        rebalance_timeout_ms: if version == 0 { member.session_timeout } else { member.rebalance_timeout },
        session_timeout_ms: member.session_timeout,
        // Slices of the value would keep the whole of its batch in memory for as long as the member lives.
        subscription: Bytes::copy_from_slice(&member.subscription),
        assignment: Bytes::copy_from_slice(&member.assignment),
    });
    Ok(GroupMetadata {
        members: members.collect(),
        protocol_type: Arc::from(value.protocol_type),
        generation_id: GenerationId(value.generation),
        protocol_name: value.protocol.map(Arc::from),
        leader: value.leader.map(Arc::from),
        current_state_timestamp_ms: Some(value.current_state_timestamp).filter(|ms| *ms != -1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(committed: Option<CommittedOffset>) -> GroupRecord {
        GroupRecord::Offset { topic: Arc::from("orders"), partition: 3, committed }
    }

    fn committed(expire_timestamp_ms: Option<i64>) -> CommittedOffset {
        CommittedOffset {
            offset: Offset(42),
            leader_epoch: LeaderEpoch(5),
            metadata: Arc::from("m"),
            commit_timestamp_ms: 1_700_000_000_000,
            expire_timestamp_ms,
        }
    }

    fn metadata() -> GroupMetadata {
        GroupMetadata {
            protocol_type: Arc::from("consumer"),
            generation_id: GenerationId(7),
            protocol_name: Some(Arc::from("range")),
            leader: Some(Arc::from("a-1")),
            current_state_timestamp_ms: Some(1_700_000_000_000),
            members: vec![StoredMember {
                member_id: Arc::from("a-1"),
                group_instance_id: Some(Arc::from("i")),
                client_id: Arc::from("a"),
                client_host: Arc::from("/10.0.0.1"),
                rebalance_timeout_ms: 300_000,
                session_timeout_ms: 45_000,
                subscription: Bytes::from_static(b"sub"),
                assignment: Bytes::from_static(b"asn"),
            }],
        }
    }

    fn round_trip(record: &GroupRecord, version: MetadataVersion) -> GroupRecord {
        let EncodedRecord { key, value } = encode("g", record, version).expect("short texts");
        match decode(Some(key), value).expect("our own record") {
            DecodedRecord::Group { group, record } => {
                assert_eq!(&*group, "g");
                record
            }
            unknown => panic!("{unknown:?}"),
        }
    }

    #[test]
    fn the_bytes_of_an_offset_record_are_those_of_kafka() {
        let EncodedRecord { key, value } =
            encode("g", &offset(Some(committed(None))), MetadataVersion::LATEST).expect("short texts");
        assert_eq!(key[..], *b"\0\x01\0\x01g\0\x06orders\0\0\0\x03");
        let value = value.expect("not a tombstone");
        assert_eq!(value[..10], [0, 3, 0, 0, 0, 0, 0, 0, 0, 42]);
        assert_eq!(value[10..14], [0, 0, 0, 5]);
        assert_eq!(value[14..17], [0, 1, b'm']);
        assert_eq!(value[17..], 1_700_000_000_000_i64.to_be_bytes());
    }

    #[test]
    fn a_retention_of_its_own_is_stored_in_version_1_which_has_no_leader_epoch() {
        let record = offset(Some(committed(Some(99))));
        let encoded = encode("g", &record, MetadataVersion::LATEST).expect("short texts");
        assert_eq!(encoded.value.expect("not a tombstone")[..2], [0, 1]);
        let expected = CommittedOffset { leader_epoch: LeaderEpoch(-1), ..committed(Some(99)) };
        assert_eq!(round_trip(&record, MetadataVersion::LATEST), offset(Some(expected)));
    }

    #[test]
    fn records_read_back_and_tombstones_too() {
        for record in [
            offset(Some(committed(None))),
            offset(None),
            GroupRecord::Metadata(Some(Box::new(metadata()))),
            GroupRecord::Metadata(None),
        ] {
            assert_eq!(round_trip(&record, MetadataVersion::LATEST), record);
        }
    }

    #[test]
    fn a_group_record_of_each_protocol_version_keeps_what_that_version_can_say() {
        for version in MetadataVersion::ALL {
            let GroupRecord::Metadata(Some(read)) =
                round_trip(&GroupRecord::Metadata(Some(Box::new(metadata()))), *version)
            else {
                panic!("not a group record");
            };
            let mut expected = metadata();
            let value_version = version.group_metadata_value_version();
            if value_version < 3 {
                expected.members[0].group_instance_id = None;
            }
            if value_version < 2 {
                expected.current_state_timestamp_ms = None;
            }
            if value_version < 1 {
                expected.members[0].rebalance_timeout_ms = expected.members[0].session_timeout_ms;
            }
            assert_eq!(*read, expected, "{version}");
        }
    }

    #[test]
    fn flexible_values_of_later_brokers_are_read() {
        let value = OffsetCommitValue { offset: 9, metadata: "x".into(), commit_timestamp: 5, ..Default::default() };
        let bytes = encode_versioned(&value, 4).expect("short texts");
        let decoded = decode_offset(bytes).expect("version 4 is known");
        assert_eq!((decoded.offset, &*decoded.metadata), (Offset(9), "x"));
        let value = GroupMetadataValue { protocol_type: "consumer".into(), generation: 4, ..Default::default() };
        let decoded = decode_metadata(encode_versioned(&value, 4).expect("short texts")).expect("version 4 is known");
        assert_eq!(decoded.generation_id, GenerationId(4));
    }

    #[test]
    fn unknown_keys_are_skipped_and_unknown_values_are_refused() {
        let unknown = decode(Some(Bytes::from_static(&[0, 3, 1, 2])), Some(Bytes::new()));
        assert_eq!(unknown, Ok(DecodedRecord::UnknownKey { version: 3 }));
        let key = encode_versioned(&GroupMetadataKey { group: "g".into() }, 2).expect("short texts");
        assert_eq!(decode(Some(key), Some(Bytes::from_static(&[0, 5]))), Err(RecordError::UnknownValueVersion(5)));
        assert_eq!(decode(None, None), Err(RecordError::NoKey));
    }

    #[test]
    fn no_bytes_panic() {
        let records = [offset(Some(committed(None))), GroupRecord::Metadata(Some(Box::new(metadata()))), offset(None)];
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let mut refused = 0;
        for round in 0..60_000_usize {
            let EncodedRecord { key, value } =
                encode("g", &records[round % 3], MetadataVersion::LATEST).expect("short texts");
            let (mut key, mut value) = (key.to_vec(), value.unwrap_or_default().to_vec());
            for bytes in [&mut key, &mut value] {
                if random() % 4 == 0 {
                    bytes.truncate(random() as usize % (bytes.len() + 1));
                }
                for _ in 0..random() % 3 {
                    let length = bytes.len() as u64;
                    if let Some(byte) = bytes.get_mut((random() % length.max(1)) as usize) {
                        *byte = random() as u8;
                    }
                }
            }
            refused += usize::from(decode(Some(key.into()), Some(value.into())).is_err());
        }
        assert!(refused > 10_000, "the bytes were hardly damaged: {refused} refused");
    }
}
