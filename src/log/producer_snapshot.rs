//! `<offset>.snapshot`: the producer state of everything below that offset, so that a restart replays little.
//!
//! ```text
//! 0  i16  version = 1
//! 2  u32  CRC-32C of everything behind this field
//! 6  i32  number of producers, then for each, 46 bytes:
//!    0 producer id i64 | 8 epoch i16 | 10 last sequence i32 | 14 last offset i64 | 22 offset delta i32
//!    26 timestamp i64 | 34 coordinator epoch i32 | 38 first offset of the open transaction i64, -1 none
//! ```
//! Only the newest batch of a producer is stored. Last sequence and offset are -1 and the delta 0 when there is none.
//! Source: kafka 3.9 storage/.../log/ProducerStateManager.java (readSnapshot, writeSnapshot).

use std::path::Path;

use super::error::{IoContext, LogError};
use super::files;
use super::producer_state::{BatchMetadata, ProducerState, Producers};
use crate::model::{Offset, ProducerEpoch, ProducerId};

const VERSION: i16 = 1;
const HEADER_BYTES: usize = 10;
const ENTRY_BYTES: usize = 46;

/// Bytes of a snapshot.
pub(crate) fn len(producers: &Producers) -> usize {
    HEADER_BYTES + producers.iter().len() * ENTRY_BYTES
}

fn encode(producers: &Producers) -> Vec<u8> {
    let entries = producers.iter();
    let mut body = Vec::with_capacity(4 + entries.len() * ENTRY_BYTES);
    body.extend((entries.len() as i32).to_be_bytes());
    for (producer_id, state) in entries {
        let last = state.last_batch();
        body.extend(producer_id.0.to_be_bytes());
        body.extend(state.producer_epoch.0.to_be_bytes());
        body.extend(state.last_sequence().to_be_bytes());
        body.extend(last.map_or(-1, |batch| batch.last_offset.0).to_be_bytes());
        body.extend(last.map_or(0, |batch| batch.offset_delta).to_be_bytes());
        body.extend(state.last_timestamp_ms.to_be_bytes());
        body.extend(state.coordinator_epoch.to_be_bytes());
        body.extend(state.current_txn_first_offset.map_or(-1, |offset| offset.0).to_be_bytes());
    }
    let mut file = Vec::with_capacity(HEADER_BYTES + body.len());
    file.extend(VERSION.to_be_bytes());
    file.extend(crc32c::crc32c(&body).to_be_bytes());
    file.extend(body);
    file
}

fn decode(content: &[u8]) -> Result<Vec<(ProducerId, ProducerState)>, &'static str> {
    let (version, rest) = content.split_first_chunk::<2>().ok_or("it is too short")?;
    if i16::from_be_bytes(*version) != VERSION {
        return Err("its version is unknown");
    }
    let (crc, body) = rest.split_first_chunk::<4>().ok_or("it is too short")?;
    if u32::from_be_bytes(*crc) != crc32c::crc32c(body) {
        return Err("its checksum does not match");
    }
    let (count, entries) = body.split_first_chunk::<4>().ok_or("it is too short")?;
    let (entries, _) = entries.as_chunks::<ENTRY_BYTES>();
    let count = usize::try_from(i32::from_be_bytes(*count)).map_err(|_| "its count is negative")?;
    let entries = entries.get(..count).ok_or("it holds fewer producers than it says")?;
    Ok(entries.iter().map(decode_entry).collect())
}

fn decode_entry(entry: &[u8; ENTRY_BYTES]) -> (ProducerId, ProducerState) {
    fn at<const N: usize>(entry: &[u8; ENTRY_BYTES], position: usize) -> [u8; N] {
        *entry[position..].first_chunk().expect("every field is within the entry")
    }
    let timestamp_ms = i64::from_be_bytes(at(entry, 26));
    let last_offset = i64::from_be_bytes(at(entry, 14));
    let last_batch = (last_offset >= 0).then(|| BatchMetadata {
        last_sequence: i32::from_be_bytes(at(entry, 10)),
        last_offset: Offset(last_offset),
        offset_delta: i32::from_be_bytes(at(entry, 22)),
        timestamp_ms,
    });
    let txn = i64::from_be_bytes(at(entry, 38));
    let state = ProducerState::new(
        ProducerEpoch(i16::from_be_bytes(at(entry, 8))),
        i32::from_be_bytes(at(entry, 34)),
        timestamp_ms,
        (txn >= 0).then_some(Offset(txn)),
        last_batch,
    );
    (ProducerId(i64::from_be_bytes(at(entry, 0))), state)
}

/// Writes a snapshot without fsync: the flush that moves the recovery point past it does that.
pub(crate) fn write(path: &Path, producers: &Producers) -> Result<(), LogError> {
    files::write(path, &encode(producers)).doing("write", path)
}

/// The producers of a snapshot; `Corrupt` if it is missing or damaged, and then an older one must do.
pub(crate) fn read(path: &Path) -> Result<Vec<(ProducerId, ProducerState)>, LogError> {
    let content = files::read_if_exists(path).doing("read", path)?.unwrap_or_default();
    decode(&content)
        .map_err(|why| LogError::Corrupt { context: format!("producer snapshot {} is corrupt: {why}", path.display()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::producer_state::ProducerBatch;

    fn sample() -> Producers {
        let mut producers = Producers::default();
        for id in 1..=3 {
            producers.apply(&ProducerBatch {
                producer_id: ProducerId(id),
                producer_epoch: ProducerEpoch(4),
                base_sequence: 10,
                last_sequence: 12,
                first_offset: Offset(100),
                last_offset: Offset(102),
                max_timestamp_ms: 77,
                is_transactional: id == 2,
                marker: None,
            });
        }
        producers
    }

    #[test]
    fn a_snapshot_has_kafkas_layout_and_reads_back() {
        let mut one = Producers::default();
        let last = BatchMetadata { last_sequence: 12, last_offset: Offset(102), offset_delta: 2, timestamp_ms: 77 };
        one.insert(ProducerId(1), ProducerState::new(ProducerEpoch(4), 6, 77, Some(Offset(100)), Some(last)));
        let bytes = encode(&one);
        assert_eq!(bytes.len(), 56);
        assert_eq!(bytes[..2], [0, 1]);
        assert_eq!(bytes[6..10], [0, 0, 0, 1]);
        assert_eq!(bytes[18..20], [0, 4]);
        assert_eq!(bytes[20..24], [0, 0, 0, 12]);
        assert_eq!(bytes[24..32], 102_i64.to_be_bytes());
        assert_eq!(bytes[32..36], [0, 0, 0, 2]);
        assert_eq!(bytes[36..44], 77_i64.to_be_bytes());
        assert_eq!(bytes[44..48], [0, 0, 0, 6]);
        assert_eq!(bytes[48..56], 100_i64.to_be_bytes());
        let read = decode(&bytes).expect("valid");
        assert_eq!(read, one.iter().map(|(id, state)| (id, state.clone())).collect::<Vec<_>>());
    }

    #[test]
    fn every_damaged_byte_is_noticed_and_none_panics() {
        let bytes = encode(&sample());
        assert_eq!(decode(&bytes).expect("valid").len(), 3);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            assert!(decode(&damaged).is_err(), "byte {at}");
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
