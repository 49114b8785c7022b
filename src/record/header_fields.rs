//! Where the fields of a batch's fixed part lie, as ranges of bytes from the start of the batch. The picture is in
//! `batch.rs`.

use std::ops::Range;

pub(crate) const BASE_OFFSET: Range<usize> = 0..8;
/// Of what follows this field.
pub(crate) const SIZE: Range<usize> = 8..12;
pub(crate) const MAGIC: usize = 16;

/// Messages of magic 0 and 1, which have a checksum of type CRC-32.
pub(crate) mod legacy {
    use super::Range;

    pub(crate) const CRC: Range<usize> = 12..16;
    /// The checksum covers everything from here on.
    pub(crate) const CRC_COVERS_FROM: usize = super::MAGIC;
    pub(crate) const ATTRIBUTES: usize = 17;
    /// Magic 1 only.
    pub(crate) const TIMESTAMP: Range<usize> = 18..26;
}

/// Batches of magic 2, which have a checksum of type CRC-32C.
pub(crate) mod v2 {
    use super::Range;

    pub(crate) const PARTITION_LEADER_EPOCH: Range<usize> = 12..16;
    pub(crate) const CRC: Range<usize> = 17..21;
    /// The checksum covers everything from here on.
    pub(crate) const CRC_COVERS_FROM: usize = ATTRIBUTES.start;
    pub(crate) const ATTRIBUTES: Range<usize> = 21..23;
    pub(crate) const LAST_OFFSET_DELTA: Range<usize> = 23..27;
    pub(crate) const BASE_TIMESTAMP: Range<usize> = 27..35;
    pub(crate) const MAX_TIMESTAMP: Range<usize> = 35..43;
    pub(crate) const PRODUCER_ID: Range<usize> = 43..51;
    pub(crate) const PRODUCER_EPOCH: Range<usize> = 51..53;
    pub(crate) const BASE_SEQUENCE: Range<usize> = 53..57;
    pub(crate) const RECORD_COUNT: Range<usize> = 57..61;
}
