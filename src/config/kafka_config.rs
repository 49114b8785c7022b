//! The whole configuration of a broker: read, checked, and cut into the parts that the rooms receive.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/KafkaConfig.scala.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::definition::{ConfigError, ConfigType, Value};
use super::keys::{self, OWN, SERVER};
use super::listener_settings::{inter_broker_listener, listener_limits, per_ip_overrides};
use super::listeners::{EndPoint, Ports, SecurityProtocol, normalised, parse_listeners, parse_protocol_map};
use super::metadata_version::MetadataVersion;
use super::properties::Properties;
use super::sections::ListenerLimits;
use super::validation::refuse_other_modes;

/// A checked configuration. Immutable: a dynamic change makes a new one.
#[derive(Clone)]
pub struct KafkaConfig {
    /// What the file and the command line say, with `broker.id` and `node.id` filled from each other.
    pub(super) static_properties: Properties,
    /// `/config/brokers/<default>`, invalid entries left out.
    pub(super) dynamic_default: Properties,
    /// `/config/brokers/N`, invalid entries left out.
    pub(super) dynamic_broker: Properties,
    /// The three layers merged.
    pub(super) originals: Properties,
    pub(super) values: BTreeMap<&'static str, Value>,
    pub(super) listeners: Vec<EndPoint>,
    pub(super) advertised_listeners: Vec<EndPoint>,
    pub(super) inter_broker_listener_name: String,
    pub(super) inter_broker_security_protocol: SecurityProtocol,
    pub(super) control_plane_listener_name: Option<String>,
    pub(super) inter_broker_protocol_version: MetadataVersion,
    pub(super) message_format_version: MetadataVersion,
    pub(super) log_dirs: Vec<PathBuf>,
    pub(super) max_connections_per_ip_overrides: Vec<(String, usize)>,
    /// One for each of `listeners`.
    pub(super) listener_limits: Vec<ListenerLimits>,
}

/// Nothing but the name: the values may be passwords, and `to_log_text` hides those.
impl std::fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaConfig").finish_non_exhaustive()
    }
}

impl KafkaConfig {
    /// Reads and checks what a file and the command line say.
    pub fn from_properties(properties: &Properties) -> Result<KafkaConfig, ConfigError> {
        KafkaConfig::read(properties)?.supported()
    }

    /// The same where a JVM broker would start with it, whatever [`KafkaConfig::unsupported`] says.
    pub fn read(properties: &Properties) -> Result<KafkaConfig, ConfigError> {
        KafkaConfig::from_layers(with_id_synonyms(properties), Properties::new(), Properties::new())
    }

    /// The same configuration under other dynamic settings.
    pub fn with_dynamic(
        &self,
        dynamic_default: &Properties,
        dynamic_broker: &Properties,
    ) -> Result<KafkaConfig, ConfigError> {
        self.read_dynamic(dynamic_default, dynamic_broker)?.supported()
    }

    /// The same where a JVM broker would take them, whatever [`KafkaConfig::unsupported`] says.
    pub(super) fn read_dynamic(
        &self,
        dynamic_default: &Properties,
        dynamic_broker: &Properties,
    ) -> Result<KafkaConfig, ConfigError> {
        KafkaConfig::from_layers(self.static_properties.clone(), dynamic_default.clone(), dynamic_broker.clone())
    }

    fn from_layers(
        static_properties: Properties,
        dynamic_default: Properties,
        dynamic_broker: Properties,
    ) -> Result<KafkaConfig, ConfigError> {
        let mut originals = static_properties.clone();
        overlay(&mut originals, &dynamic_default);
        overlay(&mut originals, &dynamic_broker);

        // Where these say so, the rest would be checked by rules that do not hold here.
        refuse_other_modes(&originals)?;
        let mut values = BTreeMap::new();
        for setting in SERVER.iter().chain(OWN) {
            let value = match originals.get(setting.name) {
                Some(text) => setting.parse(text)?,
                None => setting.default_value(),
            };
            values.insert(setting.name, value);
        }

        let text = |name: &str| match values.get(name) {
            Some(Value::String(text)) => Some(text.as_str()),
            _ => None,
        };
        let inter_broker_protocol_version = version(text("inter.broker.protocol.version"))?;
        let configured_format = version(text("log.message.format.version"))?;
        let message_format_version = if inter_broker_protocol_version >= MetadataVersion::V3_0_IV1 {
            MetadataVersion::V3_0_IV1
        } else {
            configured_format
        };
        let protocols = parse_protocol_map(text("listener.security.protocol.map").unwrap_or_default())?;
        let listeners = parse_listeners(text("listeners").unwrap_or_default(), &protocols, Ports::Distinct)?;
        let advertised_listeners = match text("advertised.listeners") {
            Some(advertised) => parse_listeners(advertised, &protocols, Ports::Shared)?,
            None => listeners.clone(),
        };
        let (inter_broker_listener_name, inter_broker_security_protocol) =
            inter_broker_listener(&originals, text("inter.broker.listener.name"), &protocols, &values)?;
        let control_plane_listener_name = match text("control.plane.listener.name") {
            None => None,
            Some(name) => {
                let name = normalised(name)?;
                if !protocols.contains_key(&name) {
                    return Err(ConfigError::Config(format!(
                        "Listener with {name} defined in control.plane.listener.name not found in \
                         listener.security.protocol.map."
                    )));
                }
                Some(name)
            }
        };
        let log_dirs = text("log.dirs").or(text("log.dir")).unwrap_or_default();
        let log_dirs = log_dirs.split(',').map(str::trim).filter(|dir| !dir.is_empty()).map(PathBuf::from).collect();
        let max_connections_per_ip_overrides =
            per_ip_overrides(text("max.connections.per.ip.overrides").unwrap_or_default())?;

        let listener_limits = listeners
            .iter()
            .map(|listener| listener_limits(&originals, &values, &listener.listener_name))
            .collect::<Result<_, _>>()?;

        let config = KafkaConfig {
            static_properties,
            dynamic_default,
            dynamic_broker,
            originals,
            values,
            listeners,
            advertised_listeners,
            inter_broker_listener_name,
            inter_broker_security_protocol,
            control_plane_listener_name,
            inter_broker_protocol_version,
            message_format_version,
            log_dirs,
            max_connections_per_ip_overrides,
            listener_limits,
        };
        config.validate()?;
        Ok(config)
    }

    fn supported(self) -> Result<KafkaConfig, ConfigError> {
        match self.unsupported().into_iter().next() {
            Some(refusal) => Err(refusal),
            None => Ok(self),
        }
    }

    // Values by name. A name that is not declared is a mistake in this crate.

    pub(super) fn value(&self, name: &str) -> &Value {
        self.values.get(name).expect("every name asked for is declared in keys.rs")
    }

    pub(super) fn boolean(&self, name: &str) -> bool {
        matches!(self.value(name), Value::Boolean(true))
    }

    /// A number of any integer type; 0 where it is unset, so ask `number_if_set` of those without default.
    pub(super) fn number(&self, name: &str) -> i64 {
        self.number_if_set(name).unwrap_or(0)
    }

    pub(super) fn number_if_set(&self, name: &str) -> Option<i64> {
        match self.value(name) {
            Value::Int(number) => Some(i64::from(*number)),
            Value::Short(number) => Some(i64::from(*number)),
            Value::Long(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn int(&self, name: &str) -> i32 {
        match self.value(name) {
            Value::Int(number) => *number,
            _ => 0,
        }
    }

    pub(super) fn short(&self, name: &str) -> i16 {
        match self.value(name) {
            Value::Short(number) => *number,
            _ => 0,
        }
    }

    pub(super) fn double(&self, name: &str) -> f64 {
        match self.value(name) {
            Value::Double(number) => *number,
            _ => 0.0,
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.value(name) {
            Value::String(text) | Value::Class(text) | Value::Password(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn list(&self, name: &str) -> &[String] {
        match self.value(name) {
            Value::List(elements) => elements,
            _ => &[],
        }
    }

    /// A count or size that a check or a start-up rule keeps from being negative.
    pub(super) fn size(&self, name: &str) -> usize {
        usize::try_from(self.number(name)).unwrap_or(0)
    }

    pub(super) fn millis(&self, name: &str) -> u64 {
        u64::try_from(self.number(name)).unwrap_or(0)
    }

    pub(super) fn unsigned(&self, name: &str) -> u32 {
        u32::try_from(self.number(name)).unwrap_or(0)
    }

    // For DescribeConfigs and dynamic changes.

    pub fn static_properties(&self) -> &Properties {
        &self.static_properties
    }

    pub fn dynamic_default(&self) -> &Properties {
        &self.dynamic_default
    }

    pub fn dynamic_broker(&self) -> &Properties {
        &self.dynamic_broker
    }

    /// Everything that is set, strongest layer first.
    pub fn originals(&self) -> &Properties {
        &self.originals
    }

    /// The value in force; None for a name that is not declared.
    pub fn value_of(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    // What the rooms receive.

    /// -1 where one is to be generated.
    pub fn broker_id(&self) -> i32 {
        self.int("broker.id")
    }

    pub fn reserved_broker_max_id(&self) -> i32 {
        self.int("reserved.broker.max.id")
    }

    pub fn broker_rack(&self) -> Option<&str> {
        self.text("broker.rack")
    }

    pub fn inter_broker_protocol_version(&self) -> MetadataVersion {
        self.inter_broker_protocol_version
    }

    #[cfg(test)]
    pub fn listeners(&self) -> &[EndPoint] {
        &self.listeners
    }

    /// A host that is None stands for this machine's canonical name.
    pub fn advertised_listeners(&self) -> &[EndPoint] {
        &self.advertised_listeners
    }
}

/// One of `broker.id` and `node.id` stands for the other where only one is set.
fn with_id_synonyms(properties: &Properties) -> Properties {
    let mut filled = properties.clone();
    for (present, absent) in [("broker.id", "node.id"), ("node.id", "broker.id")] {
        if let Some(id) = properties.get(present)
            && !properties.contains_key(absent)
        {
            filled.insert(absent.to_string(), id.clone());
        }
    }
    filled
}

/// Lays dynamic settings over weaker ones. One member of a family (`.ms`, `.minutes`, `.hours`) hides all others below.
fn overlay(properties: &mut Properties, dynamic: &Properties) {
    for (name, value) in dynamic {
        if keys::without_listener_prefix(name).is_none() {
            for member in keys::synonyms(name) {
                properties.remove(member);
            }
        }
        properties.insert(name.clone(), value.clone());
    }
}

pub(super) fn version(text: Option<&str>) -> Result<MetadataVersion, ConfigError> {
    let text = text.unwrap_or_default();
    text.parse().map_err(|_| ConfigError::IllegalArgument(format!("Version {text} is not a valid version")))
}

/// Whether a value of this type may be shown; a setting of unknown type may hold anything.
pub fn is_sensitive(config_type: Option<ConfigType>) -> bool {
    matches!(config_type, None | Some(ConfigType::Password))
}
