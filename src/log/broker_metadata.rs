//! `meta.properties`: which cluster and broker a log dir belongs to, as Java properties.
//! Keys we do not know, such as `directory.id`, are kept when the file is rewritten: a newer broker wrote them.
//! Source: kafka 3.9 metadata/.../properties/{MetaProperties,MetaPropertiesEnsemble,PropertiesUtils}.java.

use std::path::Path;

use super::error::{IoContext, LogError};
use super::files;
use crate::model::BrokerId;

/// Invariant: no key twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaProperties {
    entries: Vec<(String, String)>,
}

impl MetaProperties {
    fn get(&self, key: &str) -> Option<&str> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    fn set(&mut self, key: &str, value: String) {
        match self.entries.iter_mut().find(|(k, _)| k == key) {
            Some(entry) => entry.1 = value,
            None => self.entries.push((key.to_string(), value)),
        }
    }

    /// Sets version, cluster and broker, leaving all other keys.
    pub fn claim(&mut self, cluster_id: &str, broker_id: BrokerId) {
        self.set("version", "0".into());
        self.set("broker.id", broker_id.to_string());
        self.set("cluster.id", cluster_id.to_string());
    }

    pub fn cluster_id(&self) -> Option<&str> {
        self.get("cluster.id")
    }

    pub fn broker_id(&self) -> Option<BrokerId> {
        self.get("broker.id").and_then(|id| id.parse().ok()).map(BrokerId)
    }

    /// `None` without a file: a new directory.
    pub(crate) fn read(path: &Path) -> Result<Option<MetaProperties>, LogError> {
        let Some(content) = files::read_if_exists(path).doing("read", path)? else { return Ok(None) };
        let mut properties = MetaProperties::default();
        for (key, value) in parse_properties(&content) {
            properties.set(&key, value);
        }
        // Of a number no blank is taken away, as in Java (Integer.parseInt): such a directory is offline there too.
        let wrong = |what: String| LogError::Corrupt { context: format!("{}: {what}", path.display()) };
        match properties.get("version").map_or(Ok(0), |version| version.parse::<i32>()) {
            Ok(0) => {}
            Ok(1) => {
                return Err(LogError::StartRefused {
                    context: format!(
                        "{} has version 1, which belongs to a broker that runs with KRaft; this broker runs with ZooKeeper",
                        path.display()
                    ),
                });
            }
            _ => return Err(wrong("the version is not supported".into())),
        }
        if properties.get("broker.id").is_some_and(|id| id.parse::<i32>().is_err()) {
            return Err(wrong("broker.id is not a number".into()));
        }
        Ok(Some(properties))
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), LogError> {
        let mut text = String::from("#\n");
        for (key, value) in &self.entries {
            text.push_str(&escape(key, true));
            text.push('=');
            text.push_str(&escape(value, false));
            text.push('\n');
        }
        files::replace(path, text.as_bytes()).doing("write", path)
    }
}

/// Java's `Properties.load`: ISO-8859-1, `\` escapes and continuation lines, `=`, `:` or white space after the key.
fn parse_properties(content: &[u8]) -> Vec<(String, String)> {
    let text: String = content.iter().map(|&byte| char::from(byte)).collect();
    let mut properties = Vec::new();
    let mut lines = text.split(['\n', '\r']);
    while let Some(line) = lines.next() {
        let mut logical = line.trim_start_matches([' ', '\t', '\x0c']).to_string();
        if logical.is_empty() || logical.starts_with(['#', '!']) {
            continue;
        }
        while logical.chars().rev().take_while(|&c| c == '\\').count() % 2 == 1 {
            logical.pop();
            let Some(next) = lines.next() else { break };
            logical.push_str(next.trim_start_matches([' ', '\t', '\x0c']));
        }
        let mut escaped = false;
        let key_end = logical.find(|c: char| {
            let ends = !escaped && matches!(c, '=' | ':' | ' ' | '\t' | '\x0c');
            escaped = !escaped && c == '\\';
            ends
        });
        let (key, rest) = logical.split_at(key_end.unwrap_or(logical.len()));
        let rest = rest.trim_start_matches([' ', '\t', '\x0c']);
        let value = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start_matches([' ', '\t', '\x0c']);
        properties.push((unescape(key), unescape(value)));
    }
    properties
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        match chars.next() {
            Some('t') => plain.push('\t'),
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('f') => plain.push('\x0c'),
            Some('u') => {
                let digits: String = chars.by_ref().take(4).collect();
                plain.push(u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32).unwrap_or('\u{fffd}'));
            }
            Some(other) => plain.push(other),
            None => {}
        }
    }
    plain
}

fn escape(text: &str, is_key: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for (at, c) in text.chars().enumerate() {
        match c {
            ' ' if at == 0 || is_key => escaped.push_str("\\ "),
            '\t' => escaped.push_str("\\t"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\x0c' => escaped.push_str("\\f"),
            '=' | ':' | '#' | '!' | '\\' => escaped.extend(['\\', c]),
            ' '..='~' => escaped.push(c),
            other => {
                let mut units = [0; 2];
                for unit in other.encode_utf16(&mut units) {
                    escaped.push_str(&format!("\\u{unit:04X}"));
                }
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_survive_a_rewrite() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("meta.properties");
        let jvm =
            "#\n#Sat Nov 21 06:00:00 UTC 2026\ncluster.id=abc-DEF_1\ndirectory.id=Zm9v\\=\\=\nversion=0\nbroker.id=3\n";
        std::fs::write(&path, jvm).expect("writable");
        let mut read = MetaProperties::read(&path).expect("valid").expect("present");
        assert_eq!((read.cluster_id(), read.broker_id()), (Some("abc-DEF_1"), Some(BrokerId(3))));
        read.claim("abc-DEF_1", BrokerId(3));
        read.write(&path).expect("writable");
        let again = MetaProperties::read(&path).expect("valid").expect("present");
        assert_eq!(again, read);
        assert_eq!(again.get("directory.id"), Some("Zm9v=="));
    }

    #[test]
    fn java_properties_are_read_as_java_reads_them() {
        let parsed = parse_properties(b"! comment\n a = 1\r\nb:2\nc 3\nlong = x\\\n   y\nk\\ ey=\\u0041\\tz\nempty\n");
        let expected = [("a", "1"), ("b", "2"), ("c", "3"), ("long", "xy"), ("k ey", "A\tz"), ("empty", "")];
        assert_eq!(parsed, expected.map(|(k, v)| (k.to_string(), v.to_string())));
    }

    #[test]
    fn a_missing_version_is_zero_and_others_are_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("meta.properties");
        assert_eq!(MetaProperties::read(&path).expect("missing"), None);
        std::fs::write(&path, "broker.id=1\n").expect("writable");
        assert!(MetaProperties::read(&path).expect("valid").is_some());
        for bad in [
            "version=1\nnode.id=1\n",
            "version=7\n",
            "version=x\n",
            "version=0 \n",
            "broker.id=one\n",
            "broker.id=3 \n",
            "broker.id=3\t\n",
        ] {
            std::fs::write(&path, bad).expect("writable");
            assert!(MetaProperties::read(&path).is_err(), "{bad}");
        }
    }
}
