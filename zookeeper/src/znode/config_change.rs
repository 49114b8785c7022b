//! `/config/changes/config_change_<seq>`: tells every broker that an entity's configuration was written.
use super::{JsonNode, encoded};
use serde_json::json;

pub const ROOT: &str = "/config/changes";
pub const PREFIX: &str = "config_change_";

pub fn encode(entity_path: &str) -> Vec<u8> {
    encoded(json!({"version": 2, "entity_path": entity_path}))
}

/// The entity path, or `None` for a payload that Kafka ignores as well.
pub fn decode(path: &str, data: &[u8]) -> Option<String> {
    let node = JsonNode::parse(path, data).ok()?;
    match node.int("version").ok()? {
        1 => {
            let (kind, name) = (node.string("entity_type").ok()?, node.string("entity_name").ok()?);
            matches!(kind, "topics" | "clients").then(|| format!("{kind}/{name}"))
        }
        2 => node.string("entity_path").ok().map(str::to_owned),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read_and_the_rest_is_ignored() {
        assert_eq!(encode("topics/foo"), br#"{"entity_path":"topics/foo","version":2}"#);
        assert_eq!(decode("/x", &encode("topics/foo")).as_deref(), Some("topics/foo"));
        let v1 = br#"{"version":1,"entity_type":"topics","entity_name":"foo"}"#;
        assert_eq!(decode("/x", v1).as_deref(), Some("topics/foo"));
        assert_eq!(decode("/x", br#"{"version":1,"entity_type":"brokers","entity_name":"1"}"#), None);
        assert_eq!(decode("/x", b"junk"), None);
    }
}
