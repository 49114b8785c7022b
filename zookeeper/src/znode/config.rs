//! `/config/<type>/<entity>`: settings that outlive a broker. All values are strings.
use super::{JsonNode, encoded, sanitized, strings};
use crate::error::ZnodeError;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const TOPICS: &str = "/config/topics";
/// The name under which defaults for all entities of a type stand.
pub const DEFAULT_ENTITY: &str = "<default>";

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ConfigEntity {
    Topic(String),
    Broker(i32),
    DefaultBroker,
    /// Names are plain; the path holds them sanitised. `None` is the default entity.
    Client(Option<String>),
    User(Option<String>),
    UserClient(Option<String>, Option<String>),
    Ip(Option<String>),
}

fn quoted(name: &Option<String>) -> String {
    name.as_deref().map_or_else(|| DEFAULT_ENTITY.to_owned(), sanitized)
}

impl ConfigEntity {
    /// What stands after `/config/`, which is also what a change notification carries.
    pub fn entity_path(&self) -> String {
        match self {
            ConfigEntity::Topic(topic) => format!("topics/{topic}"),
            ConfigEntity::Broker(id) => format!("brokers/{id}"),
            ConfigEntity::DefaultBroker => format!("brokers/{DEFAULT_ENTITY}"),
            ConfigEntity::Client(client) => format!("clients/{}", quoted(client)),
            ConfigEntity::User(user) => format!("users/{}", quoted(user)),
            ConfigEntity::UserClient(user, client) => format!("users/{}/clients/{}", quoted(user), quoted(client)),
            // Addresses are not sanitised.
            ConfigEntity::Ip(ip) => format!("ips/{}", ip.as_deref().unwrap_or(DEFAULT_ENTITY)),
        }
    }

    pub fn path(&self) -> String {
        format!("/config/{}", self.entity_path())
    }

    /// `None` for a type that this release does not know.
    pub fn from_entity_path(entity_path: &str) -> Option<ConfigEntity> {
        let plain = |name: &str| match name {
            DEFAULT_ENTITY => Some(None),
            _ => super::desanitized(name).map(Some),
        };
        let parts: Vec<&str> = entity_path.split('/').collect();
        match parts.as_slice() {
            ["topics", topic] => Some(ConfigEntity::Topic((*topic).to_owned())),
            ["brokers", DEFAULT_ENTITY] => Some(ConfigEntity::DefaultBroker),
            ["brokers", id] => id.parse().ok().map(ConfigEntity::Broker),
            ["clients", client] => plain(client).map(ConfigEntity::Client),
            ["users", user] => plain(user).map(ConfigEntity::User),
            ["users", user, "clients", client] => Some(ConfigEntity::UserClient(plain(user)?, plain(client)?)),
            ["ips", DEFAULT_ENTITY] => Some(ConfigEntity::Ip(None)),
            ["ips", ip] => Some(ConfigEntity::Ip(Some((*ip).to_owned()))),
            _ => None,
        }
    }
}

pub fn encode(config: &BTreeMap<String, String>) -> Vec<u8> {
    encoded(json!({"version": 1, "config": strings(config)}))
}

/// A node without data, as ZooKeeper's own tools create it, is an empty configuration.
pub fn decode(path: &str, data: &[u8]) -> Result<BTreeMap<String, String>, ZnodeError> {
    if data.is_empty() {
        return Ok(BTreeMap::new());
    }
    let node = JsonNode::parse(path, data)?;
    let mut config = BTreeMap::new();
    for (key, value) in node.map("config")? {
        match value {
            Value::String(value) => config.insert(key.clone(), value.clone()),
            _ => return Err(node.error(&format!("the value of \"{key}\" is not a string"))),
        };
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_round_trip() {
        let data = br#"{"version":1,"config":{"retention.ms":"1000"}}"#;
        let config = decode("/config/topics/t", data).unwrap();
        assert_eq!(config["retention.ms"], "1000");
        assert_eq!(encode(&config), br#"{"config":{"retention.ms":"1000"},"version":1}"#);
        assert_eq!(decode("/x", b""), Ok(BTreeMap::new()));
        assert_eq!(decode("/x", br#"{"version":2,"config":{}}"#), Ok(BTreeMap::new()), "Kafka does not look at it");
        assert!(decode("/x", br#"{"version":1,"config":{"a":1}}"#).is_err());
    }

    #[test]
    fn entities_have_kafkas_paths() {
        for (entity, path) in [
            (ConfigEntity::Topic("a.b".to_owned()), "topics/a.b"),
            (ConfigEntity::Broker(1), "brokers/1"),
            (ConfigEntity::DefaultBroker, "brokers/<default>"),
            (ConfigEntity::Client(Some("a b".to_owned())), "clients/a%20b"),
            (ConfigEntity::UserClient(Some("CN=u".to_owned()), None), "users/CN%3Du/clients/<default>"),
            (ConfigEntity::Ip(Some("::1".to_owned())), "ips/::1"),
        ] {
            assert_eq!(entity.entity_path(), path);
            assert_eq!(ConfigEntity::from_entity_path(path), Some(entity));
        }
        assert_eq!(ConfigEntity::from_entity_path("client-metrics/x"), None);
        assert_eq!(ConfigEntity::from_entity_path("brokers/x"), None);
    }
}
