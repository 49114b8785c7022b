//! `/latest_producer_id_block`: the block of producer ids handed out last.
use super::{JsonNode, encoded};
use crate::error::ZnodeError;
use serde_json::json;

pub const PATH: &str = "/latest_producer_id_block";
pub const BLOCK_SIZE: i64 = 1000;

/// Both ends are inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerIdBlock {
    pub broker: i32,
    pub block_start: i64,
    pub block_end: i64,
}

impl ProducerIdBlock {
    /// The block after `latest`; `None` once the ids are used up.
    pub fn after(latest: Option<ProducerIdBlock>, broker: i32) -> Option<ProducerIdBlock> {
        let block_start = match latest {
            None => 0,
            Some(latest) => latest.block_end.checked_add(1)?,
        };
        let block_end = block_start.checked_add(BLOCK_SIZE - 1)?;
        Some(ProducerIdBlock { broker, block_start, block_end })
    }

    pub fn encode(&self) -> Vec<u8> {
        encoded(json!({
            "version": 1,
            "broker": self.broker,
            "block_start": self.block_start.to_string(),
            "block_end": self.block_end.to_string(),
        }))
    }

    /// `None` while no block was handed out: JVM brokers create the node without data.
    pub fn decode(data: &[u8]) -> Result<Option<ProducerIdBlock>, ZnodeError> {
        if data.is_empty() {
            return Ok(None);
        }
        let node = JsonNode::parse(PATH, data)?;
        let (block_start, block_end) = (node.long_in_string("block_start")?, node.long_in_string("block_end")?);
        if block_start < 0 || block_end < block_start {
            return Err(node.error(&format!("{block_start} to {block_end} is no block of ids")));
        }
        Ok(Some(ProducerIdBlock { broker: node.int("broker")?, block_start, block_end }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_follow_each_other() {
        let first = ProducerIdBlock::after(None, 1).unwrap();
        assert_eq!(first, ProducerIdBlock { broker: 1, block_start: 0, block_end: 999 });
        let second = ProducerIdBlock::after(Some(first), 2).unwrap();
        assert_eq!((second.block_start, second.block_end), (1000, 1999));
        let last = ProducerIdBlock { broker: 1, block_start: 0, block_end: i64::MAX - 5 };
        assert_eq!(ProducerIdBlock::after(Some(last), 1), None);
    }

    #[test]
    fn bounds_are_strings() {
        let data = br#"{"version":1,"broker":1,"block_start":"0","block_end":"999"}"#;
        let block = ProducerIdBlock::decode(data).unwrap().unwrap();
        assert_eq!(block, ProducerIdBlock { broker: 1, block_start: 0, block_end: 999 });
        assert_eq!(ProducerIdBlock::decode(&block.encode()), Ok(Some(block)));
        assert_eq!(ProducerIdBlock::decode(b""), Ok(None));
        for junk in [
            &br#"{"version":1,"broker":1,"block_start":0,"block_end":9}"#[..],
            br#"{"version":1,"broker":1,"block_start":"-9","block_end":"-5"}"#,
            br#"{"version":1,"broker":1,"block_start":"9","block_end":"5"}"#,
        ] {
            assert!(ProducerIdBlock::decode(junk).is_err());
        }
    }
}
