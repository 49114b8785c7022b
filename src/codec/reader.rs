use std::fmt;

use bytes::Bytes;

use crate::codec::text::text_of;

/// What the bytes did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Fewer bytes are left than a value of this size needs, or than a declared length or count claims.
    Truncated { needed: usize, remaining: usize },
    /// A length or count below -1, or -1 where null is not allowed.
    InvalidLength(i64),
    /// A variable-length integer longer than its type.
    VarintTooLong,
    /// What the bytes declare would take more memory once it is read than their number allows.
    OverBudget,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Truncated { needed, remaining } => {
                write!(f, "{needed} bytes are declared where {remaining} remain")
            }
            DecodeError::InvalidLength(length) => write!(f, "{length} is not a valid length here"),
            DecodeError::VarintTooLong => write!(f, "a variable-length integer does not end"),
            DecodeError::OverBudget => write!(f, "it would take many times its bytes in memory"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// What is read of a frame may take this many times the frame's bytes in memory, and `MEMORY_BASE` beside. The honest
/// request with the worst ratio names many things by very short names, and stays below ten.
pub const MEMORY_PER_BYTE: usize = 12;
pub const MEMORY_BASE: usize = 64 * 1024;
/// And never more than this, however long the frame: twice what a controller tells of 200,000 partitions.
pub const MEMORY_MAX: usize = 128 * 1024 * 1024;
/// What an allocation takes beside its bytes.
const ALLOCATION: usize = 16;

/// Reads big-endian primitives from a frame. Byte fields come out as slices of the frame, never as copies; what takes
/// memory of its own is charged to a budget before it is allocated.
#[derive(Clone, Debug)]
pub struct Reader {
    bytes: Bytes,
    position: usize,
    /// Bytes that may still be allocated for what is read.
    budget: usize,
}

fn budget(bytes: usize) -> usize {
    bytes.saturating_mul(MEMORY_PER_BYTE).saturating_add(MEMORY_BASE).min(MEMORY_MAX)
}

macro_rules! fixed {
    ($($name:ident -> $type:ty),*) => {$(
        pub fn $name(&mut self) -> Result<$type, DecodeError> {
            const SIZE: usize = size_of::<$type>();
            match self.bytes.get(self.position..).and_then(|rest| rest.first_chunk::<SIZE>()) {
                Some(chunk) => {
                    self.position += SIZE;
                    Ok(<$type>::from_be_bytes(*chunk))
                }
                None => Err(DecodeError::Truncated { needed: SIZE, remaining: self.remaining() }),
            }
        }
    )*};
}

impl Reader {
    pub fn new(bytes: Bytes) -> Reader {
        let budget = budget(bytes.len());
        Reader { bytes, position: 0, budget }
    }

    /// What was charged so far.
    pub fn memory_taken(&self) -> usize {
        budget(self.bytes.len()) - self.budget
    }

    /// Allows no more than [`MEMORY_BASE`] from here on: for who wants to know how a request begins.
    pub fn read_the_beginning(&mut self) {
        self.budget = self.budget.min(MEMORY_BASE);
    }

    /// Takes the memory of `count` elements of `size` bytes each out of the budget.
    pub fn charge(&mut self, count: usize, size: usize) -> Result<(), DecodeError> {
        let bytes = count.saturating_mul(size).saturating_add(ALLOCATION);
        self.budget = self.budget.checked_sub(bytes).ok_or(DecodeError::OverBudget)?;
        Ok(())
    }

    /// Reads a part of these bytes with a reader of its own, out of the same budget.
    pub fn within<T>(
        &mut self,
        length: usize,
        read: impl FnOnce(&mut Reader) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        let mut part = Reader { bytes: self.take(length)?, position: 0, budget: self.budget };
        let read = read(&mut part);
        self.budget = part.budget;
        read
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    fixed!(i8 -> i8, u8 -> u8, i16 -> i16, u16 -> u16, i32 -> i32, i64 -> i64, f64 -> f64);

    /// The next `length` bytes, shared with the frame.
    pub fn take(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        if length > self.remaining() {
            return Err(DecodeError::Truncated { needed: length, remaining: self.remaining() });
        }
        let taken = self.bytes.slice(self.position..self.position + length);
        self.position += length;
        Ok(taken)
    }

    /// The next `length` bytes as text, which is longer, by up to three times, where they are not UTF-8.
    pub fn text(&mut self, length: usize) -> Result<String, DecodeError> {
        if length > self.remaining() {
            return Err(DecodeError::Truncated { needed: length, remaining: self.remaining() });
        }
        let bytes = self.bytes.slice(self.position..self.position + length);
        let text = text_of(&bytes);
        if length > 0 {
            self.charge(text.len(), 1)?;
        }
        self.position += length;
        Ok(text.into_owned())
    }

    /// Unsigned LEB128 of at most 32 bits (KIP-482).
    pub fn uvarint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let byte = self.u8()?;
            // The fifth byte has room for four bits only.
            if shift == 28 && byte > 0x0f {
                return Err(DecodeError::VarintTooLong);
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::VarintTooLong)
    }

    /// A length as an i16, `None` for -1.
    pub fn length_i16(&mut self) -> Result<Option<usize>, DecodeError> {
        let length = self.i16()?;
        self.checked_length(i64::from(length))
    }

    /// A length or count as an i32, `None` for -1.
    pub fn length_i32(&mut self) -> Result<Option<usize>, DecodeError> {
        let length = self.i32()?;
        self.checked_length(i64::from(length))
    }

    /// A compact length or count: one more than its value, `None` for 0 (KIP-482).
    pub fn length_compact(&mut self) -> Result<Option<usize>, DecodeError> {
        let length = i64::from(self.uvarint()?) - 1;
        self.checked_length(length)
    }

    /// Every element of an array takes at least one byte, so a count is checked like a length.
    fn checked_length(&self, length: i64) -> Result<Option<usize>, DecodeError> {
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| DecodeError::InvalidLength(length))?;
        if length > self.remaining() {
            return Err(DecodeError::Truncated { needed: length, remaining: self.remaining() });
        }
        Ok(Some(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &'static [u8]) -> Reader {
        Reader::new(Bytes::from_static(bytes))
    }

    #[test]
    fn a_length_beyond_the_frame_is_refused() {
        assert_eq!(
            reader(&[0x7f, 0xff, 0xff, 0xff, 1]).length_i32(),
            Err(DecodeError::Truncated { needed: 0x7fff_ffff, remaining: 1 })
        );
        assert_eq!(reader(&[0xff, 0xfe]).length_i16(), Err(DecodeError::InvalidLength(-2)));
        assert_eq!(reader(&[0xff, 0xff]).length_i16(), Ok(None));
        assert_eq!(reader(&[0]).length_compact(), Ok(None));
        assert_eq!(reader(&[2, 9]).length_compact(), Ok(Some(1)));
    }

    #[test]
    fn what_is_read_takes_no_more_memory_than_the_bytes_allow() {
        let mut reader = reader(&[0; 10]);
        assert_eq!(reader.charge(MEMORY_BASE + 10 * MEMORY_PER_BYTE - ALLOCATION + 1, 1), Err(DecodeError::OverBudget));
        assert_eq!(reader.charge(usize::MAX, usize::MAX), Err(DecodeError::OverBudget));
        let part = reader.within(4, |part| part.charge(MEMORY_BASE, 1));
        assert_eq!(part, Ok(()), "a part has the budget of the whole");
        assert_eq!(reader.charge(10 * MEMORY_PER_BYTE, 1), Err(DecodeError::OverBudget), "and uses it up");
    }

    /// As `new String(bytes, UTF_8)` of OpenJDK 17 and 25 has it: the number of replacements decides, by its hash,
    /// which partition a group is in.
    #[test]
    fn text_that_is_not_utf8_is_what_a_jvm_makes_of_it() {
        const CASES: &[(&[u8], &str)] = &[
            (b"b\xfcro", "b\u{fffd}ro"),
            (b"\xff\0", "\u{fffd}\0"),
            (b"gr\xc3\xbcn \xf0\x9f\x98\x80", "gr\u{fc}n \u{1f600}"),
            // Cut short, at the end or by what follows: one for what is there.
            (b"\xc3", "\u{fffd}"),
            (b"\xe2\x82", "\u{fffd}"),
            (b"\xe2\x82A", "\u{fffd}A"),
            (b"\xf0\x9f\x98", "\u{fffd}"),
            (b"\xf0\x9f\x98\xc3\xbc", "\u{fffd}\u{fc}"),
            // Overlong forms, and what is beyond the last code point: one for each byte.
            (b"\xc0\x80", "\u{fffd}\u{fffd}"),
            (b"\xe0\x80\x80", "\u{fffd}\u{fffd}\u{fffd}"),
            (b"\xf0\x80\x80\x80", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
            (b"\xf4\x90\x80\x80", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
            (b"\xf5\x80\x80\x80", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
            (b"\xfd\x80", "\u{fffd}\u{fffd}"),
            (b"\x80\xbf", "\u{fffd}\u{fffd}"),
            // Surrogates: one for each, whole or cut short.
            (b"\xed\xa0\x80", "\u{fffd}"),
            (b"\xed\xbf\xbf", "\u{fffd}"),
            (b"\xed\xa0\x80\xed\xb0\x80", "\u{fffd}\u{fffd}"),
            (b"\xed\xa0", "\u{fffd}"),
            (b"\xed\xa0A", "\u{fffd}A"),
            (b"\xed\x9f\xbf", "\u{d7ff}"),
            (b"\xed", "\u{fffd}"),
            (b"\xedA", "\u{fffd}A"),
        ];
        for (bytes, text) in CASES {
            let mut reader = reader(bytes);
            assert_eq!(reader.text(bytes.len()).as_deref(), Ok(*text), "{bytes:x?}");
            assert_eq!((reader.remaining(), reader.memory_taken()), (0, text.len() + ALLOCATION));
        }
    }

    #[test]
    fn text_that_grows_is_charged_as_long_as_it_becomes() {
        let mut reader = reader(&[0xff; 100]);
        reader.budget = 299 + ALLOCATION;
        assert_eq!(reader.text(100), Err(DecodeError::OverBudget));
        reader.budget = 300 + ALLOCATION;
        assert_eq!(reader.text(100), Ok("\u{fffd}".repeat(100)));
    }

    #[test]
    fn a_varint_ends_within_five_bytes() {
        assert_eq!(reader(&[0xff, 0xff, 0xff, 0xff, 0x0f]).uvarint(), Ok(u32::MAX));
        assert_eq!(reader(&[0xff, 0xff, 0xff, 0xff, 0x1f]).uvarint(), Err(DecodeError::VarintTooLong));
        assert_eq!(reader(&[0x80, 0x01]).uvarint(), Ok(128));
    }
}
