//! What the files of a partition hold, entry by entry and as it stands there, for whoever looks at a log that no broker
//! has open, or looks over a broker's shoulder. Nothing is repaired, created or locked.

use std::path::Path;

use super::error::{IoContext, LogError};
use super::files::{self, File};
use super::scan::{BatchScan, Found};
use super::transaction_index::{self, AbortedTxn};
use super::{offset_index, producer_snapshot, time_index};
use crate::model::{Offset, ProducerId};
use crate::record::batch::{Batch, BatchHeader, CorruptBatch, HEADER_BYTES_V2};

/// Batches of a segment file, from one position on.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    file: File,
    /// As far as positions in a segment reach.
    bytes: u32,
}

impl SegmentFile {
    pub(crate) fn open(path: &Path) -> Result<SegmentFile, LogError> {
        let file = files::open(path).doing("open", path)?;
        let bytes = files::metadata_of(&file).doing("read", path)?.len();
        Ok(SegmentFile { file, bytes: u32::try_from(bytes).unwrap_or(u32::MAX) })
    }

    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// The whole batches from `from` on that lie within the next `bytes_max` bytes, until `each` says that it has enough.
    /// Gives back where the last one ends, and what is wrong with the bytes behind it, unless they are just too few.
    pub(crate) fn each_batch<E: From<LogError>>(
        &self,
        path: &Path,
        from: u32,
        bytes_max: u32,
        mut each: impl FnMut(u32, &Batch<'_>) -> Result<GoesOn, E>,
    ) -> Result<(u32, Option<CorruptBatch>), E> {
        let mut end = from;
        let limit = self.bytes.min(from.saturating_add(bytes_max));
        let mut scan = BatchScan::new(&self.file, from, limit);
        loop {
            match scan.next().doing("read", path)? {
                Found::End => return Ok((end, None)),
                Found::Damage(_) => {
                    let mut head = [0; HEADER_BYTES_V2];
                    let head = &mut head[..HEADER_BYTES_V2.min((limit - end) as usize)];
                    files::read_exact_at(&self.file, head, u64::from(end)).doing("read", path)?;
                    return Ok((end, BatchHeader::read(head).err()));
                }
                Found::Batch((position, batch)) => {
                    end = position + batch.header.size_in_bytes as u32;
                    if each(position, &batch)? == GoesOn::No {
                        return Ok((end, None));
                    }
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GoesOn {
    Yes,
    No,
}

/// The entries of an index, as many as are whole, and the length of its file in bytes.
#[derive(Debug)]
pub(crate) struct IndexEntries<T> {
    pub(crate) entries: Vec<T>,
    pub(crate) bytes: usize,
    pub(crate) entry_bytes: usize,
}

/// The last offset of a batch, and where it starts.
pub(crate) fn offset_index(path: &Path, base_offset: Offset) -> Result<IndexEntries<(Offset, u32)>, LogError> {
    let content = files::read(path).doing("read", path)?;
    let (entries, _) = content.as_chunks::<{ offset_index::ENTRY_BYTES }>();
    let entries = entries.iter().map(|entry| offset_index::decode(base_offset, entry)).collect();
    Ok(IndexEntries { entries, bytes: content.len(), entry_bytes: offset_index::ENTRY_BYTES })
}

/// The largest timestamp so far, in ms, and the last offset of the batch that carries it.
pub(crate) fn time_index(path: &Path, base_offset: Offset) -> Result<IndexEntries<(i64, Offset)>, LogError> {
    let content = files::read(path).doing("read", path)?;
    let (entries, _) = content.as_chunks::<{ time_index::ENTRY_BYTES }>();
    let decoded = entries.iter().map(|entry| time_index::decode(base_offset, entry));
    let entries = decoded.map(|entry| (entry.timestamp_ms, entry.offset)).collect();
    Ok(IndexEntries { entries, bytes: content.len(), entry_bytes: time_index::ENTRY_BYTES })
}

/// The aborted transactions of a segment; `Corrupt` if the file is damaged.
pub(crate) fn aborted_transactions(path: &Path, base_offset: Offset) -> Result<Vec<AbortedTxn>, LogError> {
    transaction_index::read(path, base_offset)
}

/// One producer of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotEntry {
    pub(crate) producer_id: ProducerId,
    pub(crate) producer_epoch: i16,
    pub(crate) coordinator_epoch: i32,
    pub(crate) current_txn_first_offset: Option<Offset>,
    pub(crate) last_timestamp_ms: i64,
    pub(crate) last_batch: Option<SnapshotBatch>,
}

/// The newest batch of a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotBatch {
    pub(crate) last_sequence: i32,
    pub(crate) last_offset: Offset,
    pub(crate) offset_delta: i32,
    pub(crate) timestamp_ms: i64,
}

/// The producers of a snapshot in the order of the file; `Corrupt` if it is damaged.
pub(crate) fn producers(path: &Path) -> Result<Vec<SnapshotEntry>, LogError> {
    let entries = producer_snapshot::read(path)?.into_iter().map(|(producer_id, state)| SnapshotEntry {
        producer_id,
        producer_epoch: state.producer_epoch.0,
        coordinator_epoch: state.coordinator_epoch,
        current_txn_first_offset: state.current_txn_first_offset,
        last_timestamp_ms: state.last_timestamp_ms,
        last_batch: state.last_batch().map(|batch| SnapshotBatch {
            last_sequence: batch.last_sequence,
            last_offset: batch.last_offset,
            offset_delta: batch.offset_delta,
            timestamp_ms: batch.timestamp_ms,
        }),
    });
    Ok(entries.collect())
}
