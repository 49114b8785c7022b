//! The settings around `listeners`: which listener brokers use, and limits of one listener or address.

use std::collections::BTreeMap;

use super::definition::{ConfigError, Value};
use super::keys;
use super::listeners::{ProtocolMap, SecurityProtocol, normalised, parse_pairs};
use super::properties::Properties;
use super::sections::ListenerLimits;

/// Source: kafka 3.9 core/src/main/scala/kafka/network/SocketServer.scala, ListenerConnectionQuota.
pub(super) fn listener_limits(
    originals: &Properties,
    values: &BTreeMap<&'static str, Value>,
    listener_name: &str,
) -> Result<ListenerLimits, ConfigError> {
    let limit = |name: &str| {
        let own = originals.get(&format!("listener.name.{}.{name}", listener_name.to_lowercase()));
        let setting = keys::server_setting(name).expect("both are declared in keys.rs");
        let own = own.map(|text| setting.parse(text)).transpose()?;
        // The broker's counts for each listener by itself too, and so for the one that the broker's does not close.
        match own.as_ref().or_else(|| values.get(name)) {
            Some(Value::Int(limit)) => Ok(usize::try_from(*limit).unwrap_or(0)),
            _ => Ok(usize::MAX),
        }
    };
    let [connections, rate] = keys::PER_LISTENER;
    Ok(ListenerLimits { max_connections: limit(connections)?, max_connection_creation_rate: limit(rate)? })
}

pub(super) fn inter_broker_listener(
    originals: &Properties,
    name: Option<&str>,
    protocols: &ProtocolMap,
    values: &BTreeMap<&'static str, Value>,
) -> Result<(String, SecurityProtocol), ConfigError> {
    let Some(name) = name else {
        // The check of the setting lets only names of protocols pass.
        let protocol = match values.get("security.inter.broker.protocol") {
            Some(Value::String(text)) => text.parse().ok(),
            _ => None,
        };
        let protocol = protocol.unwrap_or(SecurityProtocol::Plaintext);
        return Ok((protocol.name().to_string(), protocol));
    };
    if originals.contains_key("security.inter.broker.protocol") {
        return Err(ConfigError::Config(
            "Only one of inter.broker.listener.name and security.inter.broker.protocol should be set.".to_string(),
        ));
    }
    let name = normalised(name)?;
    match protocols.get(&name) {
        Some(protocol) => Ok((name, *protocol)),
        None => Err(ConfigError::Config(format!(
            "Listener with name {name} defined in inter.broker.listener.name not found in \
             listener.security.protocol.map."
        ))),
    }
}

pub(super) fn per_ip_overrides(text: &str) -> Result<Vec<(String, usize)>, ConfigError> {
    parse_pairs("max.connections.per.ip.overrides", text)?
        .into_iter()
        .map(|(host, count)| match count.parse() {
            Ok(count) => Ok((host, count)),
            Err(_) => Err(ConfigError::IllegalArgument(format!(
                "Error parsing configuration property 'max.connections.per.ip.overrides': {count:?} is not a number"
            ))),
        })
        .collect()
}
