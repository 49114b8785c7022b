//! Batches, and in them the records.

use std::io::Write;
use std::path::Path;

use super::decoders::Decoder;
use super::{Findings, NO_LIMIT, Wanted, base_offset, optional_long};
use crate::cli::options::Stop;
use crate::log::dump::{GoesOn, SegmentFile};
use crate::record::batch::{
    Batch, BatchHeader, LegacyMessage, NO_SEQUENCE, RecordView, TimestampType, incremented_sequence,
};
use crate::record::build::{ControlRecord, TransactionOutcome};
use crate::record::compression::Codec;
use crate::record::read::{INFLATED_RECORD_BYTES_MAX, InflatedMessages, MessageSet, ReadError, for_each_record};

pub(super) fn dump(
    path: &Path,
    wanted: &Wanted<'_>,
    decoder: Decoder,
    findings: &mut Findings,
    out: &mut dyn Write,
) -> Result<(), Stop> {
    writeln!(out, "Log starting offset: {}", base_offset(path)?.0)?;
    let file = SegmentFile::open(path)?;
    let mut offsets = Offsets { last: None, gaps: Vec::new() };
    let dumped = file.each_batch(path, 0, wanted.bytes_max, |position, batch| {
        write_batch(position, batch, out)?;
        if wanted.is_deep {
            each_record(batch, |record, crcs| {
                offsets.note(record.offset);
                write_record(&batch.header, record, crcs, wanted, decoder, out)
            })?;
        }
        Ok::<_, Stop>(GoesOn::Yes)
    });
    if !offsets.gaps.is_empty() {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        findings.gaps.entry(path).or_default().extend(offsets.gaps);
    }
    let (end, damage) = dumped?;
    if let Some(damage) = damage {
        return Err(Stop::Failed(format!("{}: {damage} at position {end}", path.display())));
    }
    if wanted.bytes_max == NO_LIMIT && end < file.bytes() {
        let name = path.file_name().unwrap_or_default().display();
        writeln!(out, "Found {} invalid bytes at the end of {name}", file.bytes() - end)?;
    }
    Ok(())
}

/// Offsets of records as they come.
struct Offsets {
    last: Option<i64>,
    gaps: Vec<(i64, i64)>,
}

impl Offsets {
    fn note(&mut self, offset: i64) {
        if let Some(last) = self.last
            && offset != last.wrapping_add(1)
        {
            self.gaps.push((last, offset));
        }
        self.last = Some(offset);
    }
}

/// Stored and computed checksums of a message of magic 0 or 1; later records have none of their own.
type MessageCrcs = Option<(u32, u32)>;

fn each_record(
    batch: &Batch<'_>,
    mut each: impl FnMut(RecordView<'_>, MessageCrcs) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let header = &batch.header;
    if header.magic >= 2 {
        return for_each_record(batch, INFLATED_RECORD_BYTES_MAX, |record| each(record, None));
    }
    if header.codec == Codec::None {
        let crcs = LegacyMessage::crcs_of(batch.bytes);
        return for_each_record(batch, INFLATED_RECORD_BYTES_MAX, |record| each(record, Some(crcs)));
    }
    let set = MessageSet::survey(batch)?;
    let mut messages = InflatedMessages::new(batch)?;
    while let Some(entry) = messages.next(INFLATED_RECORD_BYTES_MAX)? {
        let message = LegacyMessage::read(entry).map_err(ReadError::from)?;
        each(set.view(&message, header), Some(LegacyMessage::crcs_of(entry)))?;
    }
    Ok(())
}

fn timestamp_type(header: &BatchHeader) -> &'static str {
    match header.timestamp_type {
        _ if header.magic == 0 => "NoTimestampType",
        TimestampType::CreateTime => "CreateTime",
        TimestampType::LogAppendTime => "LogAppendTime",
    }
}

fn write_batch(position: u32, batch: &Batch<'_>, out: &mut dyn Write) -> Result<(), Stop> {
    let header = &batch.header;
    if header.magic >= 2 {
        write!(
            out,
            "baseOffset: {} lastOffset: {} count: {} baseSequence: {} lastSequence: {} producerId: {} producerEpoch: {} \
             partitionLeaderEpoch: {} isTransactional: {} isControl: {} deleteHorizonMs: {}",
            header.base_offset,
            header.last_offset,
            header.record_count,
            header.base_sequence,
            header.last_sequence(),
            header.producer_id,
            header.producer_epoch,
            header.partition_leader_epoch,
            header.is_transactional,
            header.is_control,
            optional_long(header.has_delete_horizon.then_some(header.base_timestamp))
        )?;
    } else {
        write!(out, "offset: {}", header.last_offset)?;
    }
    writeln!(
        out,
        " position: {position} {}: {} size: {} magic: {} compresscodec: {} crc: {} isvalid: {}",
        timestamp_type(header),
        header.max_timestamp,
        header.size_in_bytes,
        header.magic,
        header.codec.name(),
        header.crc,
        batch.crc_is_valid()
    )?;
    Ok(())
}

fn write_record(
    header: &BatchHeader,
    record: RecordView<'_>,
    crcs: MessageCrcs,
    wanted: &Wanted<'_>,
    decoder: Decoder,
    out: &mut dyn Write,
) -> Result<(), Stop> {
    let mut prefix = "| ";
    if !wanted.skips_record_metadata {
        let size = |field: Option<&[u8]>| field.map_or(-1, |bytes| bytes.len() as i64);
        write!(
            out,
            "{prefix}offset: {} {}: {} keySize: {} valueSize: {}",
            record.offset,
            timestamp_type(header),
            record.timestamp,
            size(record.key),
            size(record.value)
        )?;
        prefix = " ";
        if header.magic >= 2 {
            let keys: Vec<_> = record.headers.map(|(key, _)| String::from_utf8_lossy(key)).collect();
            write!(out, " sequence: {} headerKeys: [{}]", sequence(header, record.offset), keys.join(","))?;
        }
        if let Some((stored, computed)) = crcs {
            // The second brace is Kafka's.
            write!(out, " isValid: {} crc: {stored}}}", stored == computed)?;
        }
        if header.is_control {
            let control = ControlRecord::read(record.key, record.value).map_err(ReadError::from)?;
            match control {
                ControlRecord::EndTransaction { outcome, coordinator_epoch } => {
                    let outcome = match outcome {
                        TransactionOutcome::Abort => "ABORT",
                        TransactionOutcome::Commit => "COMMIT",
                    };
                    write!(out, " endTxnMarker: {outcome} coordinatorEpoch: {coordinator_epoch}")?;
                }
                ControlRecord::Unknown { kind } => {
                    let name = match kind {
                        2 => "LEADER_CHANGE",
                        3 => "SNAPSHOT_HEADER",
                        4 => "SNAPSHOT_FOOTER",
                        5 => "KRAFT_VERSION",
                        6 => "KRAFT_VOTERS",
                        _ => "UNKNOWN",
                    };
                    write!(out, " controlType: {name}({kind})")?;
                }
            }
        }
    }
    if wanted.prints_contents && !header.is_control {
        let (key, payload) = decoder.shown(&record)?;
        if let Some(key) = key {
            write!(out, "{prefix}key: {key}")?;
        }
        if let Some(payload) = payload {
            write!(out, " payload: {payload}")?;
        }
    }
    writeln!(out)?;
    Ok(())
}

fn sequence(header: &BatchHeader, offset: i64) -> i32 {
    match header.base_sequence {
        NO_SEQUENCE => NO_SEQUENCE,
        base => incremented_sequence(base, offset.wrapping_sub(header.base_offset) as i32),
    }
}
