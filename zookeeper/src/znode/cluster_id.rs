//! `/cluster/id`: 16 random bytes in url-safe base64, chosen by the first broker.
use super::{JsonNode, encoded};
use crate::error::ZnodeError;
use serde_json::json;

pub const PATH: &str = "/cluster/id";

pub fn encode(id: &str) -> Vec<u8> {
    encoded(json!({"version": "1", "id": id}))
}

pub fn decode(data: &[u8]) -> Result<String, ZnodeError> {
    JsonNode::parse(PATH, data)?.string("id").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_a_string() {
        assert_eq!(encode("4ZVeQ"), br#"{"id":"4ZVeQ","version":"1"}"#);
        assert_eq!(decode(&encode("4ZVeQ")).as_deref(), Ok("4ZVeQ"));
        assert!(decode(b"{}").is_err());
    }
}
