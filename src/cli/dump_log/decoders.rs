//! How keys and values are shown.

use std::io::Write;

use bytes::Bytes;

use crate::cli::api_message_formatter::{DecodeMembers, group_key, group_value, offset_key, offset_value};
use crate::cli::options::{Options, Stop};
use crate::codec::reader::{DecodeError, Reader};
use crate::coordinator::group::records::{GroupMetadataKey, GroupMetadataValue, OffsetCommitKey, OffsetCommitValue};
use crate::coordinator::transaction::records::{TransactionLogKey, TransactionLogValue};
use crate::coordinator::transaction::state::TransactionState;
use crate::protocol::message::Message;
use crate::record::batch::RecordView;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoder {
    /// Keys, then values.
    Plain(Plain, Plain),
    /// `__consumer_offsets`.
    Offsets,
    /// `__transaction_state`.
    Transactions,
}

/// By the classes that Kafka's tool takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plain {
    Text,
    Long,
    Integer,
}

/// What stands behind `key:` and `payload:`, if anything does.
type Shown = (Option<String>, Option<String>);

impl Plain {
    fn of_class(class: &str, out: &mut dyn Write) -> Result<Plain, Stop> {
        const PACKAGE: &str = "org.apache.kafka.tools.api";
        let deprecated = class.strip_prefix("kafka.serializer.");
        let name = deprecated.or(class.strip_prefix(PACKAGE).and_then(|name| name.strip_prefix('.')));
        let decoder = match name {
            // Of the default one, which leaves bytes as they are, Kafka prints which array in memory they are.
            Some("StringDecoder" | "DefaultDecoder") => Plain::Text,
            Some("LongDecoder") => Plain::Long,
            Some("IntegerDecoder") => Plain::Integer,
            _ => return Err(Stop::Failed(format!("The decoder {class} is not supported"))),
        };
        if let Some(name) = deprecated {
            writeln!(out, "{class} is deprecated. Please use {PACKAGE}.{name} instead")?;
        }
        Ok(decoder)
    }

    fn shown(self, bytes: &[u8]) -> Result<String, Stop> {
        let short = || Stop::Failed(format!("{} bytes are too few for a number", bytes.len()));
        Ok(match self {
            Plain::Text => String::from_utf8_lossy(bytes).into_owned(),
            Plain::Long => i64::from_be_bytes(*bytes.first_chunk().ok_or_else(short)?).to_string(),
            Plain::Integer => i32::from_be_bytes(*bytes.first_chunk().ok_or_else(short)?).to_string(),
        })
    }
}

impl Decoder {
    pub(super) fn of(options: &Options, out: &mut dyn Write) -> Result<Decoder, Stop> {
        if options.has("offsets-decoder") {
            return Ok(Decoder::Offsets);
        }
        if options.has("transaction-log-decoder") {
            return Ok(Decoder::Transactions);
        }
        // The option alone means the default.
        let class = |flag| options.value(flag).filter(|class| !class.is_empty());
        let mut plain = |flag| class(flag).map_or(Ok(Plain::Text), |class| Plain::of_class(class, out));
        let value = plain("value-decoder-class")?;
        Ok(Decoder::Plain(plain("key-decoder-class")?, value))
    }

    pub(super) fn shown(self, record: &RecordView<'_>) -> Result<Shown, Stop> {
        match self {
            Decoder::Plain(key, value) => {
                let shown = |how: Plain, field: Option<&[u8]>| field.map(|bytes| how.shown(bytes)).transpose();
                Ok((shown(key, record.key)?, shown(value, record.value)?))
            }
            Decoder::Offsets => {
                let key = record.key.ok_or_else(|| {
                    Stop::Failed(format!(
                        "Failed to decode message at offset {} using offset topic decoder (message had a missing key)",
                        record.offset
                    ))
                })?;
                Ok(of_group(key, record).unwrap_or_else(|error| {
                    (Some(format!("Error at offset {}, skipping. {error}", record.offset)), None)
                }))
            }
            Decoder::Transactions => {
                let failed =
                    |error| Stop::Failed(format!("Failed to decode the record at offset {}: {error}", record.offset));
                of_transaction(record.key.unwrap_or_default(), record).map_err(failed)
            }
        }
    }
}

fn of_group(key: &[u8], record: &RecordView<'_>) -> Result<Shown, DecodeError> {
    let mut reader = Reader::new(Bytes::copy_from_slice(key));
    let version = reader.i16()?;
    let is_offset = OffsetCommitKey::VERSIONS.contains(&version);
    let data = if is_offset {
        offset_key(&OffsetCommitKey::decode(&mut reader, version)?)
    } else if GroupMetadataKey::VERSIONS.contains(&version) {
        group_key(&GroupMetadataKey::decode(&mut reader, version)?)
    } else {
        return Ok((Some(format!("Unknown record type {version} at offset {}, skipping.", record.offset)), None));
    };
    let key = format!(r#"{{"type":"{version}","data":{data}}}"#);
    let Some(value) = record.value else { return Ok((Some(key), Some("<DELETE>".to_owned()))) };
    let mut reader = Reader::new(Bytes::copy_from_slice(value));
    let version = reader.i16()?;
    let data = if is_offset {
        offset_value(&OffsetCommitValue::decode(&mut reader, version)?, version)
    } else {
        group_value(&GroupMetadataValue::decode(&mut reader, version)?, version, DecodeMembers::Yes)
    };
    Ok((Some(key), Some(format!(r#"{{"version":"{version}","data":{data}}}"#))))
}

fn of_transaction(key: &[u8], record: &RecordView<'_>) -> Result<Shown, DecodeError> {
    let mut reader = Reader::new(Bytes::copy_from_slice(key));
    let version = reader.i16()?;
    if !TransactionLogKey::VERSIONS.contains(&version) {
        return Ok((Some(format!("unknown::version={version}")), None));
    }
    let key = TransactionLogKey::decode(&mut reader, version)?;
    let shown_key = format!("transaction_metadata::transactionalId={}", key.transactional_id);
    let Some(value) = record.value else { return Ok((Some(shown_key), Some("<DELETE>".to_owned()))) };
    let mut reader = Reader::new(Bytes::copy_from_slice(value));
    let version = reader.i16()?;
    let value = TransactionLogValue::decode(&mut reader, version)?;
    let state = TransactionState::from_id(value.transaction_status);
    let partitions: Vec<String> = value
        .transaction_partitions
        .iter()
        .flatten()
        .flat_map(|topic| topic.partition_ids.iter().map(|partition| format!("{}-{partition}", topic.topic)))
        .collect();
    let payload = format!(
        "producerId:{},producerEpoch:{},state={},partitions=[{}],txnLastUpdateTimestamp={},txnTimeoutMs={}",
        value.producer_id,
        value.producer_epoch,
        state.map_or_else(|| value.transaction_status.to_string(), |state| state.to_string()),
        partitions.join(","),
        value.transaction_last_update_timestamp_ms,
        value.transaction_timeout_ms
    );
    Ok((Some(shown_key), Some(payload)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoders_are_known_by_their_old_names_too() {
        let mut out = Vec::new();
        let decoder = Plain::of_class("kafka.serializer.DefaultDecoder", &mut out).unwrap();
        assert_eq!(decoder, Plain::Text);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "kafka.serializer.DefaultDecoder is deprecated. Please use org.apache.kafka.tools.api.DefaultDecoder instead\n"
        );
        for none in ["org.apache.kafka.tools.api.NoDecoder", "com.example.LongDecoder", "LongDecoder", ""] {
            assert!(Plain::of_class(none, &mut Vec::new()).is_err(), "{none}");
        }
    }
}
