//! `/brokers/ids/<id>`: where a live broker listens. Ephemeral; its czxid is the broker epoch.
use super::{JsonNode, encoded, int};
use crate::error::ZnodeError;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const ROOT: &str = "/brokers/ids";

pub fn path(id: i32) -> String {
    format!("{ROOT}/{id}")
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub listener: String,
    pub security_protocol: String,
    /// Empty when the broker advertises no host.
    pub host: String,
    pub port: i32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    pub id: i32,
    pub endpoints: Vec<Endpoint>,
    pub rack: Option<String>,
    pub jmx_port: i32,
    pub timestamp_ms: i64,
    /// Name to (min_version, max_version). JVM brokers in ZooKeeper mode register none.
    pub features: BTreeMap<String, (i16, i16)>,
}

/// The payload versions that a broker may have to write, by `inter.broker.protocol.version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerJson {
    /// Below 0.10.0-IV1.
    V2,
    /// From 0.10.0-IV1.
    V4,
    /// From 2.7-IV0.
    V5,
}

impl Broker {
    pub fn encode(&self, version: BrokerJson) -> Vec<u8> {
        // Old clients read host and port of the first endpoint that they could connect to without security.
        let plaintext = self.endpoints.iter().find(|endpoint| endpoint.security_protocol == "PLAINTEXT");
        let mut node = json!({
            "host": plaintext.map(|endpoint| endpoint.host.as_str()),
            "port": plaintext.map_or(-1, |endpoint| endpoint.port),
            "endpoints": self.endpoints.iter().map(Endpoint::connection_string).collect::<Vec<_>>(),
            "jmx_port": self.jmx_port,
            "timestamp": self.timestamp_ms.to_string(),
        });
        node["version"] = match version {
            BrokerJson::V2 => 2,
            BrokerJson::V4 => 4,
            BrokerJson::V5 => 5,
        }
        .into();
        if version != BrokerJson::V2 {
            if let Some(rack) = &self.rack {
                node["rack"] = rack.as_str().into();
            }
            node["listener_security_protocol_map"] = self
                .endpoints
                .iter()
                .map(|endpoint| (endpoint.listener.clone(), Value::from(endpoint.security_protocol.as_str())))
                .collect::<serde_json::Map<_, _>>()
                .into();
        }
        if version == BrokerJson::V5 {
            node["features"] = self
                .features
                .iter()
                .map(|(name, (min, max))| (name.clone(), json!({"min_version": min, "max_version": max})))
                .collect::<serde_json::Map<_, _>>()
                .into();
        }
        encoded(node)
    }

    pub fn decode(id: i32, data: &[u8]) -> Result<Broker, ZnodeError> {
        let path = path(id);
        let node = JsonNode::parse(&path, data)?;
        let version = node.int("version")?;
        if version < 1 {
            return Err(node.error(&format!("version {version} of a broker registration is below 1")));
        }
        let endpoints = if version == 1 {
            vec![Endpoint {
                listener: "PLAINTEXT".to_owned(),
                security_protocol: "PLAINTEXT".to_owned(),
                host: node.string("host")?.to_owned(),
                port: node.int("port")?,
            }]
        } else {
            let protocols = node.optional_map("listener_security_protocol_map")?;
            let mut endpoints = Vec::new();
            for text in node.list("endpoints")? {
                let endpoint = text
                    .as_str()
                    .and_then(|text| Endpoint::parse(text, protocols))
                    .ok_or_else(|| node.error(&format!("endpoint {text} is not NAME://host:port")))?;
                endpoints.push(endpoint);
            }
            endpoints
        };
        let mut features = BTreeMap::new();
        for (name, range) in node.optional_map("features")?.into_iter().flatten() {
            let bound = |key: &str| range.get(key).and_then(int).and_then(|value| i16::try_from(value).ok());
            match (bound("min_version"), bound("max_version")) {
                (Some(min), Some(max)) => features.insert(name.clone(), (min, max)),
                _ => return Err(node.error(&format!("feature {name} lacks min_version or max_version"))),
            };
        }
        Ok(Broker {
            id,
            endpoints,
            rack: node.optional_string("rack")?.map(str::to_owned),
            jmx_port: node.int("jmx_port")?,
            timestamp_ms: node.optional_string("timestamp")?.and_then(|text| text.parse().ok()).unwrap_or(-1),
            features,
        })
    }
}

impl Endpoint {
    fn connection_string(&self) -> String {
        match self.host.contains(':') {
            true => format!("{}://[{}]:{}", self.listener, self.host, self.port),
            false => format!("{}://{}:{}", self.listener, self.host, self.port),
        }
    }

    fn parse(text: &str, protocols: Option<&serde_json::Map<String, Value>>) -> Option<Endpoint> {
        let (name, address) = text.split_once("://")?;
        let (host, port) = address.rsplit_once(':')?;
        let listener = name.to_uppercase();
        let security_protocol = match protocols {
            // Without the map the listener is named after its protocol (brokers before 0.10.2).
            None => listener.clone(),
            Some(protocols) => protocols.get(name).or_else(|| protocols.get(&listener))?.as_str()?.to_owned(),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Some(Endpoint { listener, security_protocol, host: host.to_owned(), port: port.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(listener: &str, protocol: &str, host: &str, port: i32) -> Endpoint {
        Endpoint { listener: listener.to_owned(), security_protocol: protocol.to_owned(), host: host.to_owned(), port }
    }

    const V5: &str = r#"{"features":{},"listener_security_protocol_map":{"PLAINTEXT":"PLAINTEXT"},"endpoints":["PLAINTEXT://h1:9092"],"jmx_port":-1,"port":9092,"host":"h1","version":5,"timestamp":"1700000000000"}"#;

    fn h1() -> Broker {
        Broker {
            id: 1,
            endpoints: vec![endpoint("PLAINTEXT", "PLAINTEXT", "h1", 9092)],
            rack: None,
            jmx_port: -1,
            timestamp_ms: 1_700_000_000_000,
            features: BTreeMap::new(),
        }
    }

    #[test]
    fn version_5_is_what_a_3_9_broker_writes() {
        assert_eq!(Broker::decode(1, V5.as_bytes()), Ok(h1()));
        let written: Value = serde_json::from_slice(&h1().encode(BrokerJson::V5)).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(V5).unwrap());
    }

    #[test]
    fn host_and_port_are_absent_without_a_plaintext_endpoint_and_ipv6_stands_in_brackets() {
        let broker = Broker {
            endpoints: vec![endpoint("INSIDE", "SASL_SSL", "::1", 9093)],
            rack: Some("r1".to_owned()),
            ..h1()
        };
        let written: Value = serde_json::from_slice(&broker.encode(BrokerJson::V4)).unwrap();
        assert_eq!(
            written,
            json!({"version":4,"host":null,"port":-1,"endpoints":["INSIDE://[::1]:9093"],"jmx_port":-1,
                   "timestamp":"1700000000000","rack":"r1","listener_security_protocol_map":{"INSIDE":"SASL_SSL"}})
        );
        assert_eq!(Broker::decode(1, &broker.encode(BrokerJson::V4)), Ok(broker));
    }

    #[test]
    fn old_registrations_are_read() {
        let v1 = br#"{"version":1,"host":"h","port":9092,"jmx_port":9999,"timestamp":"1"}"#;
        let broker = Broker::decode(7, v1).unwrap();
        assert_eq!(broker.endpoints, [endpoint("PLAINTEXT", "PLAINTEXT", "h", 9092)]);
        let v2 = br#"{"version":2,"host":"h","port":1,"jmx_port":-1,"timestamp":"1","endpoints":["SSL://h:1"]}"#;
        assert_eq!(Broker::decode(7, v2).unwrap().endpoints, [endpoint("SSL", "SSL", "h", 1)]);
    }

    #[test]
    fn malformed_registrations_are_refused_by_name() {
        for (data, reason) in [
            (&b"junk"[..], "it is not JSON"),
            (b"[]", "not an object"),
            (br#"{"version":0}"#, "below 1"),
            (br#"{"version":5,"endpoints":["nonsense"],"jmx_port":-1}"#, "NAME://host:port"),
            (br#"{"version":5,"endpoints":[]}"#, "\"jmx_port\" is missing"),
            (br#"{"version":5000000000}"#, "32-bit"),
        ] {
            let error = Broker::decode(3, data).unwrap_err();
            assert_eq!(error.path, "/brokers/ids/3");
            assert!(error.reason.contains(reason), "{error}");
        }
    }
}
