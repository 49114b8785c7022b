//! Listeners: the addresses a broker binds and those it tells the world.
//! Source: kafka 3.9 core/src/main/scala/kafka/utils/CoreUtils.scala, core/src/main/scala/kafka/cluster/EndPoint.scala.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::definition::{ConfigError, java_trim};

/// How the bytes of a listener are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecurityProtocol {
    Plaintext,
    Ssl,
    SaslPlaintext,
    SaslSsl,
}

impl SecurityProtocol {
    pub const ALL: [SecurityProtocol; 4] = [
        SecurityProtocol::Plaintext,
        SecurityProtocol::Ssl,
        SecurityProtocol::SaslPlaintext,
        SecurityProtocol::SaslSsl,
    ];

    pub fn name(self) -> &'static str {
        match self {
            SecurityProtocol::Plaintext => "PLAINTEXT",
            SecurityProtocol::Ssl => "SSL",
            SecurityProtocol::SaslPlaintext => "SASL_PLAINTEXT",
            SecurityProtocol::SaslSsl => "SASL_SSL",
        }
    }

    /// The number of the protocol on the wire (UpdateMetadata).
    pub fn id(self) -> i16 {
        match self {
            SecurityProtocol::Plaintext => 0,
            SecurityProtocol::Ssl => 1,
            SecurityProtocol::SaslPlaintext => 2,
            SecurityProtocol::SaslSsl => 3,
        }
    }

    pub fn from_id(id: i16) -> Option<SecurityProtocol> {
        SecurityProtocol::ALL.into_iter().find(|protocol| protocol.id() == id)
    }
}

impl fmt::Display for SecurityProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no security protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownSecurityProtocol(pub String);

impl FromStr for SecurityProtocol {
    type Err = UnknownSecurityProtocol;

    fn from_str(text: &str) -> Result<SecurityProtocol, UnknownSecurityProtocol> {
        SecurityProtocol::ALL
            .into_iter()
            .find(|protocol| protocol.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownSecurityProtocol(text.to_string()))
    }
}

/// One entry of `listeners` or `advertised.listeners`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndPoint {
    /// In upper case, as everywhere but in the prefix of a setting.
    pub listener_name: String,
    pub security_protocol: SecurityProtocol,
    /// IPv6 literals without brackets. None binds all interfaces, and advertises the canonical name of this host.
    pub host: Option<String>,
    /// 0 lets the system choose.
    pub port: u16,
}

/// As Kafka writes an endpoint, also into `/brokers/ids/N`: IPv6 literals in brackets.
impl fmt::Display for EndPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host.as_deref().unwrap_or("");
        if host.contains(':') {
            write!(f, "{}://[{host}]:{}", self.listener_name, self.port)
        } else {
            write!(f, "{}://{host}:{}", self.listener_name, self.port)
        }
    }
}

/// Which security protocol each listener name has.
pub type ProtocolMap = BTreeMap<String, SecurityProtocol>;

/// Reads `listener.security.protocol.map`.
pub fn parse_protocol_map(text: &str) -> Result<ProtocolMap, ConfigError> {
    const NAME: &str = "listener.security.protocol.map";
    let mut map = ProtocolMap::new();
    for (name, protocol) in parse_pairs(NAME, text)? {
        let protocol = protocol.parse().map_err(|UnknownSecurityProtocol(text)| {
            ConfigError::Config(format!("Invalid security protocol `{text}` defined in {NAME}"))
        })?;
        map.insert(normalised(&name)?, protocol);
    }
    Ok(map)
}

/// Reads a list of `key:value`, where the last colon of an entry divides it.
pub fn parse_pairs(name: &str, text: &str) -> Result<Vec<(String, String)>, ConfigError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(',')
        .map(|entry| match entry.rsplit_once(':') {
            Some((key, value)) => Ok((java_trim(key).to_string(), java_trim(value).to_string())),
            None => Err(ConfigError::IllegalArgument(format!(
                "Error parsing configuration property '{name}': {entry:?} has no colon"
            ))),
        })
        .collect()
}

/// A listener name as it is compared: in upper case, never blank.
pub fn normalised(name: &str) -> Result<String, ConfigError> {
    if java_trim(name).is_empty() {
        return Err(ConfigError::Config("The provided listener name is null or empty string".to_string()));
    }
    Ok(name.to_uppercase())
}

/// Whether two listeners may have the same port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Bound here: only an IPv4 and an IPv6 address may share one.
    Distinct,
    /// Advertised: a proxy may tell them apart.
    Shared,
}

/// Reads `listeners` or `advertised.listeners`.
pub fn parse_listeners(text: &str, protocols: &ProtocolMap, ports: Ports) -> Result<Vec<EndPoint>, ConfigError> {
    let mut listeners = Vec::new();
    for entry in java_trim(text).split(',').map(java_trim).filter(|entry| !entry.is_empty()) {
        let endpoint = parse_endpoint(entry, protocols).map_err(|reason| {
            ConfigError::IllegalArgument(format!("Error creating broker listeners from '{text}': {reason}"))
        })?;
        listeners.push(endpoint);
    }
    let names: BTreeSet<&str> = listeners.iter().map(|listener| listener.listener_name.as_str()).collect();
    if names.len() != listeners.len() {
        return Err(ConfigError::Requirement(format!("Each listener must have a different name, listeners: {text}")));
    }
    if ports == Ports::Distinct {
        check_ports(&listeners, text)?;
    }
    Ok(listeners)
}

/// `NAME://host:port`, the host perhaps in brackets, perhaps absent.
fn parse_endpoint(entry: &str, protocols: &ProtocolMap) -> Result<EndPoint, String> {
    let unparsable = || format!("Unable to parse {entry} to a broker endpoint");
    let (name, address) = entry.rsplit_once("://").ok_or_else(unparsable)?;
    let (host, port) = address.rsplit_once(':').ok_or_else(unparsable)?;
    let host = host.strip_prefix('[').unwrap_or(host);
    let host = host.strip_suffix(']').unwrap_or(host);
    if !is_host(host) || !port.strip_prefix('-').unwrap_or(port).bytes().all(|b| b.is_ascii_digit()) || port.is_empty()
    {
        return Err(unparsable());
    }
    let listener_name = normalised(name).map_err(|error| error.to_string())?;
    // Kafka takes any 32-bit number and fails when it binds.
    let port = port.parse().map_err(|_| format!("the port of {entry} is not between 0 and 65535"))?;
    let security_protocol = *protocols
        .get(&listener_name)
        .ok_or_else(|| format!("No security protocol defined for listener {listener_name}"))?;
    let host = if host.is_empty() { None } else { Some(host.to_string()) };
    Ok(EndPoint { listener_name, security_protocol, host, port })
}

/// Only characters that host names and addresses are written with.
pub fn is_host(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'%' | b'.' | b'_' | b':'))
}

fn check_ports(listeners: &[EndPoint], text: &str) -> Result<(), ConfigError> {
    let mut by_port: BTreeMap<u16, Vec<&EndPoint>> = BTreeMap::new();
    // Port 0 is another one for each listener.
    for listener in listeners.iter().filter(|listener| listener.port != 0) {
        by_port.entry(listener.port).or_default().push(listener);
    }
    for (port, sharing) in by_port.iter().filter(|(_, sharing)| sharing.len() > 1) {
        let families: Vec<Family> = sharing.iter().filter_map(|l| family(l.host.as_deref()?)).collect();
        if sharing.len() - families.len() > 1 {
            return Err(ConfigError::Requirement(format!(
                "Each listener must have a different port, listeners: {text}"
            )));
        }
        let one_of_each = matches!(families[..], [first, second] if first != second);
        match families.len() {
            2 if one_of_each && sharing.len() == 2 => {}
            2 => {
                let reason = format!(
                    "If you have two listeners on the same port then one needs to be IPv4 and the other IPv6, \
                     listeners: {text}, port: {port}"
                );
                return Err(if one_of_each {
                    ConfigError::IllegalArgument(reason)
                } else {
                    ConfigError::Requirement(reason)
                });
            }
            _ => {
                return Err(ConfigError::IllegalArgument(format!(
                    "Each listener must have a different port unless exactly one listener has an IPv4 address and the \
                     other IPv6 address, listeners: {text}, port: {port}"
                )));
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// None for a name.
fn family(host: &str) -> Option<Family> {
    let without_zone = host.split('%').next().unwrap_or(host);
    if host.parse::<Ipv4Addr>().is_ok() {
        Some(Family::V4)
    } else if without_zone.parse::<Ipv6Addr>().is_ok() {
        Some(Family::V6)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protocols() -> ProtocolMap {
        parse_protocol_map("PLAINTEXT:PLAINTEXT, internal:plaintext,EXTERNAL:SASL_SSL,B:SSL").expect("a good map")
    }

    fn endpoint(name: &str, security_protocol: SecurityProtocol, host: Option<&str>, port: u16) -> EndPoint {
        EndPoint { listener_name: name.to_string(), security_protocol, host: host.map(String::from), port }
    }

    #[test]
    fn entries_are_read_and_written() {
        let text = " plaintext://:9092 , INTERNAL://127.0.0.1:0,, external://[::1]:19092,B://a-b.example_1:65535";
        let parsed = parse_listeners(text, &protocols(), Ports::Distinct).expect("good listeners");
        assert_eq!(
            parsed,
            [
                endpoint("PLAINTEXT", SecurityProtocol::Plaintext, None, 9092),
                endpoint("INTERNAL", SecurityProtocol::Plaintext, Some("127.0.0.1"), 0),
                endpoint("EXTERNAL", SecurityProtocol::SaslSsl, Some("::1"), 19092),
                endpoint("B", SecurityProtocol::Ssl, Some("a-b.example_1"), 65535),
            ]
        );
        let written: Vec<String> = parsed.iter().map(EndPoint::to_string).collect();
        assert_eq!(
            written,
            ["PLAINTEXT://:9092", "INTERNAL://127.0.0.1:0", "EXTERNAL://[::1]:19092", "B://a-b.example_1:65535"]
        );
    }

    #[test]
    fn bad_entries_are_refused_with_kafkas_words() {
        let cases = [
            ("9092", "Error creating broker listeners from '9092': Unable to parse 9092 to a broker endpoint"),
            (
                "PLAINTEXT://h",
                "Error creating broker listeners from 'PLAINTEXT://h': Unable to parse PLAINTEXT://h to a broker endpoint",
            ),
            (
                "PLAINTEXT://h/x:1",
                "Error creating broker listeners from 'PLAINTEXT://h/x:1': Unable to parse PLAINTEXT://h/x:1 to a \
                 broker endpoint",
            ),
            (
                "FOO://h:1",
                "Error creating broker listeners from 'FOO://h:1': No security protocol defined for listener FOO",
            ),
            (
                "://h:1",
                "Error creating broker listeners from '://h:1': The provided listener name is null or empty string",
            ),
            (
                "PLAINTEXT://h:1,plaintext://h:2",
                "requirement failed: Each listener must have a different name, listeners: PLAINTEXT://h:1,plaintext://h:2",
            ),
            (
                "PLAINTEXT://a:1,INTERNAL://b:1",
                "requirement failed: Each listener must have a different port, listeners: PLAINTEXT://a:1,INTERNAL://b:1",
            ),
            (
                "PLAINTEXT://127.0.0.1:1,INTERNAL://127.0.0.2:1",
                "requirement failed: If you have two listeners on the same port then one needs to be IPv4 and the other \
                 IPv6, listeners: PLAINTEXT://127.0.0.1:1,INTERNAL://127.0.0.2:1, port: 1",
            ),
        ];
        for (text, expected) in cases {
            let error = parse_listeners(text, &protocols(), Ports::Distinct).expect_err(text);
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn an_ipv4_and_an_ipv6_address_may_share_a_port_and_advertised_ones_may_anyway() {
        let both = "PLAINTEXT://127.0.0.1:1,INTERNAL://[::1]:1";
        assert!(parse_listeners(both, &protocols(), Ports::Distinct).is_ok());
        let three = "PLAINTEXT://127.0.0.1:1,INTERNAL://[::1]:1,B://h:1";
        assert!(parse_listeners(three, &protocols(), Ports::Distinct).is_err());
        assert!(parse_listeners(three, &protocols(), Ports::Shared).is_ok());
    }

    #[test]
    fn the_protocol_map_is_refused_with_kafkas_words() {
        assert_eq!(
            parse_protocol_map("A:FOO").expect_err("no such protocol").to_string(),
            "Invalid security protocol `FOO` defined in listener.security.protocol.map"
        );
        assert!(
            parse_protocol_map("A")
                .expect_err("no colon")
                .to_string()
                .starts_with("Error parsing configuration property 'listener.security.protocol.map': ")
        );
    }
}
