//! `/controller_epoch`: how many controllers there have been, in plain decimal. Its data version fences their writes.
use super::decimal;
use crate::error::ZnodeError;

pub const PATH: &str = "/controller_epoch";

/// What the first broker creates; the first controller then has epoch 1.
pub const INITIAL: i32 = 0;

pub fn encode(epoch: i32) -> Vec<u8> {
    epoch.to_string().into_bytes()
}

pub fn decode(data: &[u8]) -> Result<i32, ZnodeError> {
    decimal(PATH, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_is_plain_decimal() {
        assert_eq!(encode(12), b"12");
        assert_eq!(decode(b"12"), Ok(12));
        assert!(decode(br#"{"version":1}"#).is_err());
        assert!(decode(b"99999999999").is_err());
    }
}
