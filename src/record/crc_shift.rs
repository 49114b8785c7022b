//! Carries a checksum over a change of the bytes at the front, without another look at the rest.

/// CRCs are linear: when bytes at the front change, the CRC of the whole changes by the change of the front's CRC,
/// multiplied by x^(bits that follow). So a patched head never costs another walk over the body.
#[derive(Clone, Copy, Debug)]
pub(super) struct CrcShift {
    magic: u8,
    factor: u32,
}

impl CrcShift {
    const CRC32C: u32 = 0x82f6_3b78;
    const CRC32: u32 = 0xedb8_8320;
    /// The polynomial 1; the highest bit is the lowest power, as everywhere in a reflected CRC.
    const ONE: u32 = 1 << 31;
    const X_TO_8: u32 = 1 << 23;

    pub fn new(magic: u8, bytes_after: usize) -> CrcShift {
        let mut shift = CrcShift { magic, factor: CrcShift::ONE };
        let (mut power, mut left) = (CrcShift::X_TO_8, bytes_after);
        while left > 0 {
            if left & 1 == 1 {
                shift.factor = shift.multiplied(shift.factor, power);
            }
            power = shift.multiplied(power, power);
            left >>= 1;
        }
        shift
    }

    fn multiplied(self, a: u32, mut b: u32) -> u32 {
        let polynomial = if self.magic == 2 { CrcShift::CRC32C } else { CrcShift::CRC32 };
        let mut product = 0;
        for power in (0..32).rev() {
            product ^= b & 0_u32.wrapping_sub((a >> power) & 1);
            b = (b >> 1) ^ (polynomial & 0_u32.wrapping_sub(b & 1));
        }
        product
    }

    pub fn over_the_rest(self, crc_change: u32) -> u32 {
        self.multiplied(self.factor, crc_change)
    }

    pub fn crc(self, bytes: &[u8]) -> u32 {
        if self.magic == 2 { crc32c::crc32c(bytes) } else { crc32fast::hash(bytes) }
    }
}
