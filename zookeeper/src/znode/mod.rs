//! One file per znode: its path, and its payload in both directions. Writers produce what a 3.9 broker writes; readers
//! accept what any broker or tool since 0.8 wrote, ignore keys they do not know, and name the path in every refusal.
use crate::error::ZnodeError;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

pub mod broker;
pub mod broker_sequence_id;
pub mod cluster_id;
pub mod config;
pub mod config_change;
pub mod consumer_offset;
pub mod controller;
pub mod controller_epoch;
pub mod delete_topic;
pub mod feature;
pub mod isr_change;
pub mod log_dir_event;
pub mod partition_state;
pub mod preferred_replica_election;
pub mod producer_id_block;
pub mod reassign_partitions;
pub mod topic;

/// The persistent znodes that every broker creates at startup, in Kafka's order.
/// `/latest_producer_id_block` is missing on purpose: it must read back as null until it is first used, and
/// zookeeper-client cannot write null, so whoever takes the first block creates it.
/// Source: kafka 3.9.0 core/src/main/scala/kafka/zk/ZkData.scala, PersistentZkPaths.
pub const PERSISTENT_ROOTS: &[&str] = &[
    "/consumers",
    "/brokers/ids",
    "/brokers/topics",
    "/config/changes",
    "/admin/delete_topics",
    "/brokers/seqid",
    "/isr_change_notification",
    "/log_dir_event_notification",
    "/config/topics",
    "/config/clients",
    "/config/users",
    "/config/brokers",
    "/config/ips",
];

/// Paths under which `zookeeper.set.acl` withholds world-read, since they hold secrets.
pub(crate) const SENSITIVE_ROOTS: &[&str] = &["/config/users", "/config/brokers", "/delegation_token/tokens"];

/// User and client names as they stand in a path: URL-encoded, with `*` and blanks in Kafka's way.
/// Source: kafka 3.9.0 clients/src/main/java/org/apache/kafka/common/utils/Sanitizer.java.
pub fn sanitized(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The inverse of [`sanitized`]; `None` when the text is not percent-encoded UTF-8.
pub fn desanitized(name: &str) -> Option<String> {
    let mut out = Vec::with_capacity(name.len());
    let mut bytes = name.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                out.push(u8::try_from(high * 16 + low).ok()?);
            }
            b'+' => out.push(b' '),
            other => out.push(other),
        }
    }
    String::from_utf8(out).ok()
}

/// A JSON object read from a znode, with errors that name the znode.
pub(crate) struct JsonNode<'a> {
    path: &'a str,
    fields: Map<String, Value>,
}

impl<'a> JsonNode<'a> {
    pub fn parse(path: &'a str, data: &[u8]) -> Result<JsonNode<'a>, ZnodeError> {
        match serde_json::from_slice::<Value>(data) {
            Ok(Value::Object(fields)) => Ok(JsonNode { path, fields }),
            Ok(_) => Err(malformed(path, "it is JSON but not an object")),
            Err(error) => Err(malformed(path, &format!("it is not JSON ({error}): {}", excerpt(data)))),
        }
    }

    pub fn error(&self, reason: &str) -> ZnodeError {
        malformed(self.path, reason)
    }

    /// Absent and null are the same to Kafka's readers.
    pub fn optional(&self, key: &str) -> Option<&Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    fn required(&self, key: &str) -> Result<&Value, ZnodeError> {
        self.optional(key).ok_or_else(|| self.error(&format!("key \"{key}\" is missing")))
    }

    pub fn int(&self, key: &str) -> Result<i32, ZnodeError> {
        int(self.required(key)?).ok_or_else(|| self.error(&format!("\"{key}\" is not a 32-bit number")))
    }

    pub fn optional_int(&self, key: &str) -> Result<Option<i32>, ZnodeError> {
        match self.optional(key) {
            None => Ok(None),
            Some(value) => int(value).map(Some).ok_or_else(|| self.error(&format!("\"{key}\" is not a 32-bit number"))),
        }
    }

    pub fn string(&self, key: &str) -> Result<&str, ZnodeError> {
        self.required(key)?.as_str().ok_or_else(|| self.error(&format!("\"{key}\" is not a string")))
    }

    pub fn optional_string(&self, key: &str) -> Result<Option<&str>, ZnodeError> {
        match self.optional(key) {
            None => Ok(None),
            Some(value) => value.as_str().map(Some).ok_or_else(|| self.error(&format!("\"{key}\" is not a string"))),
        }
    }

    /// A number that Kafka writes as a string, such as `block_start`.
    pub fn long_in_string(&self, key: &str) -> Result<i64, ZnodeError> {
        self.string(key)?.parse().map_err(|_| self.error(&format!("\"{key}\" is not a number in a string")))
    }

    pub fn ints(&self, key: &str) -> Result<Vec<i32>, ZnodeError> {
        self.ints_of(key, self.required(key)?)
    }

    pub fn ints_of(&self, key: &str, value: &Value) -> Result<Vec<i32>, ZnodeError> {
        value
            .as_array()
            .and_then(|values| values.iter().map(int).collect())
            .ok_or_else(|| self.error(&format!("\"{key}\" is not a list of 32-bit numbers")))
    }

    pub fn list(&self, key: &str) -> Result<&Vec<Value>, ZnodeError> {
        self.required(key)?.as_array().ok_or_else(|| self.error(&format!("\"{key}\" is not a list")))
    }

    pub fn optional_map(&self, key: &str) -> Result<Option<&Map<String, Value>>, ZnodeError> {
        match self.optional(key) {
            None => Ok(None),
            Some(value) => {
                value.as_object().map(Some).ok_or_else(|| self.error(&format!("\"{key}\" is not an object")))
            }
        }
    }

    pub fn map(&self, key: &str) -> Result<&Map<String, Value>, ZnodeError> {
        self.optional_map(key)?.ok_or_else(|| self.error(&format!("key \"{key}\" is missing")))
    }
}

pub(crate) fn int(value: &Value) -> Option<i32> {
    value.as_i64().and_then(|number| i32::try_from(number).ok())
}

pub(crate) fn malformed(path: &str, reason: &str) -> ZnodeError {
    ZnodeError { path: path.to_owned(), reason: reason.to_owned() }
}

/// The raw decimal text of `/controller_epoch` and of version 0 consumer offsets.
pub(crate) fn decimal<T: std::str::FromStr>(path: &str, data: &[u8]) -> Result<T, ZnodeError> {
    std::str::from_utf8(data)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| malformed(path, &format!("it is not a decimal number: {}", excerpt(data))))
}

pub(crate) fn excerpt(data: &[u8]) -> String {
    let shown = &data[..data.len().min(200)];
    format!("{:?}", String::from_utf8_lossy(shown))
}

pub(crate) fn encoded(value: Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

pub(crate) fn strings(map: &BTreeMap<String, String>) -> Value {
    Value::Object(map.iter().map(|(key, value)| (key.clone(), Value::String(value.clone()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sanitized_as_kafka_does() {
        assert_eq!(sanitized("a*b c+d"), "a%2Ab%20c%2Bd");
        assert_eq!(sanitized("CN=x,O=y"), "CN%3Dx%2CO%3Dy");
        assert_eq!(desanitized("a%2Ab%20c%2Bd").as_deref(), Some("a*b c+d"));
        assert_eq!(desanitized("%zz"), None);
        assert_eq!(desanitized("%4"), None);
    }
}
