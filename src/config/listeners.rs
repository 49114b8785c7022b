//! Listeners: the addresses a broker binds and those it tells the world.
//! Source: kafka 3.9 core/src/main/scala/kafka/utils/CoreUtils.scala, core/src/main/scala/kafka/cluster/EndPoint.scala.

use std::fmt;
use std::str::FromStr;

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

impl EndPoint {
    /// The prefix of the settings that hold for this listener alone.
    pub fn config_prefix(&self) -> String {
        format!("listener.name.{}.", self.listener_name.to_lowercase())
    }
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
