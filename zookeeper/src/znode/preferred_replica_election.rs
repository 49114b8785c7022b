//! `/admin/preferred_replica_election`: partitions whose preferred replica is to lead, as tools up to 2.8 ask for it. The
//! controller removes it.
use super::isr_change;
use crate::error::ZnodeError;

pub const PATH: &str = "/admin/preferred_replica_election";

pub fn encode(partitions: &[(&str, i32)]) -> Vec<u8> {
    isr_change::encode(partitions)
}

/// Topics and partitions.
pub fn decode(data: &[u8]) -> Result<Vec<(String, i32)>, ZnodeError> {
    isr_change::decode(PATH, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_old_tool_writes_is_read() {
        let data = br#"{"version":1,"partitions":[{"topic":"t","partition":3},{"topic":"u","partition":0}]}"#;
        assert_eq!(decode(data).unwrap(), [("t".to_owned(), 3), ("u".to_owned(), 0)]);
        assert_eq!(decode(&encode(&[("t", 3), ("u", 0)])).unwrap(), decode(data).unwrap());
        assert_eq!(decode(b"{}").unwrap_err().path, PATH);
    }
}
