//! Writes records anew where Kafka does: another codec, another format, offsets out of order.

use bytes::Bytes;

use crate::record::append::{SentSet, Target};
use crate::record::append_rules::AppendRules;
use crate::record::batch::{
    BatchHeader, Batches, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_TIMESTAMP, RecordView, TimestampType,
};
use crate::record::build::{BatchBuilder, MessageSetBuilder};
use crate::record::compression::Codec;
use crate::record::error::RecordError;
use crate::record::prepared::{Messages, PreparedBatch};
use crate::record::read::{INFLATED_RECORD_BYTES_MAX, for_each_record};

/// Writes all records anew, in the topic's log format and codec. They have been checked before.
pub(super) fn rebuilt(
    records: &[u8],
    set: &SentSet,
    target: Target,
    rules: &AppendRules,
    now_ms: i64,
) -> Result<PreparedBatch, RecordError> {
    if rules.log_format == 2 {
        rebuilt_as_v2(records, set, target, rules)
    } else {
        rebuilt_as_messages(records, target, rules, now_ms)
    }
}

fn rebuilt_as_v2(
    records: &[u8],
    set: &SentSet,
    target: Target,
    rules: &AppendRules,
) -> Result<PreparedBatch, RecordError> {
    let first = &set.first;
    let has_producer = first.producer_id != NO_PRODUCER_ID;
    if has_producer && (first.producer_epoch == NO_PRODUCER_EPOCH || first.base_sequence < 0) {
        return Err(RecordError::CannotRebuild("the producer's epoch or sequence is missing"));
    }
    if first.is_transactional && !has_producer {
        return Err(RecordError::CannotRebuild("a transactional batch has no producer id"));
    }
    let mut builder = BatchBuilder::new()
        .compression(target.codec, target.level)
        .producer(first.producer_id, first.producer_epoch, first.base_sequence)
        .transactional(first.is_transactional);
    for batch in Batches::new(records) {
        for_each_record(&batch?, INFLATED_RECORD_BYTES_MAX, |record| {
            check_rebuildable(record.timestamp)?;
            let RecordView { timestamp, key, value, headers, .. } = record;
            builder.append_at(builder.record_count(), timestamp, key, value, headers);
            check_size(builder.written_size(), rules)
        })?;
    }
    let bytes = builder.build();
    check_size(bytes.len(), rules)?;
    let header = BatchHeader::read(&bytes)?.expect("a built batch has a header");
    let batch = PreparedBatch::untouched(header, &bytes, i64::from(header.record_count));
    Ok(batch.with_timestamps(rules.timestamp_type, header.max_timestamp))
}

fn rebuilt_as_messages(
    records: &[u8],
    target: Target,
    rules: &AppendRules,
    now_ms: i64,
) -> Result<PreparedBatch, RecordError> {
    let magic = rules.log_format;
    if target.codec == Codec::Zstd {
        return Err(RecordError::CannotRebuild("zstd needs message format v2"));
    }
    // A set of magic 0 is compressed when its offsets are known.
    let codec_now = if magic == 0 { Codec::None } else { target.codec };
    let mut builder = MessageSetBuilder::new(magic, codec_now, target.level, rules.timestamp_type, 0);
    let mut max_timestamp = NO_TIMESTAMP;
    for batch in Batches::new(records) {
        for_each_record(&batch?, INFLATED_RECORD_BYTES_MAX, |mut record| {
            check_rebuildable(record.timestamp)?;
            if !record.headers.is_empty() {
                return Err(RecordError::CannotRebuild("record headers need message format v2"));
            }
            match (magic, rules.timestamp_type) {
                (0, _) => record.timestamp = NO_TIMESTAMP,
                (_, TimestampType::CreateTime) => {}
                (_, TimestampType::LogAppendTime) => record.timestamp = now_ms,
            }
            max_timestamp = max_timestamp.max(record.timestamp);
            let size_before = builder.written_size();
            builder.append(builder.count(), record.timestamp, record.key, record.value);
            // Without compression every message is a batch of its own.
            let is_one_batch = target.codec != Codec::None;
            check_size(builder.written_size() - if is_one_batch { 0 } else { size_before }, rules)
        })?;
    }
    let count = builder.count();
    let entries = builder.build();
    let header = BatchHeader::read(&entries)?.expect("a built message has a header");
    if codec_now != Codec::None {
        check_size(entries.len(), rules)?;
        let batch = PreparedBatch::untouched(header, &Bytes::from(entries), count);
        return Ok(batch.with_timestamps(rules.timestamp_type, max_timestamp));
    }
    let compression = (target.codec != Codec::None).then_some((target.codec, target.level));
    let messages = Messages { entries, compression };
    Ok(PreparedBatch::of_messages(header, count, max_timestamp, messages))
}

fn check_size(size: usize, rules: &AppendRules) -> Result<(), RecordError> {
    if size > rules.max_message_bytes {
        return Err(RecordError::BatchTooLarge { size, max: rules.max_message_bytes });
    }
    Ok(())
}

fn check_rebuildable(timestamp: i64) -> Result<(), RecordError> {
    if timestamp < NO_TIMESTAMP {
        return Err(RecordError::CannotRebuild("a record has a timestamp below -1"));
    }
    Ok(())
}
