//! `/consumers/<group>/offsets/<topic>/<partition>`: where OffsetCommit version 0 keeps offsets, in plain decimal.
use super::decimal;
use crate::error::ZnodeError;

pub fn path(group: &str, topic: &str, partition: i32) -> String {
    format!("/consumers/{group}/offsets/{topic}/{partition}")
}

pub fn encode(offset: i64) -> Vec<u8> {
    offset.to_string().into_bytes()
}

/// A node without data means no offset, as in Kafka.
pub fn decode(path: &str, data: &[u8]) -> Result<Option<i64>, ZnodeError> {
    if data.is_empty() { Ok(None) } else { decimal(path, data).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_plain_decimal() {
        assert_eq!(decode("/x", &encode(42)), Ok(Some(42)));
        assert_eq!(decode("/x", b""), Ok(None));
        assert!(decode("/x", b"4x").is_err());
    }
}
