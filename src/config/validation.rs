//! The checks of a whole configuration that no single value can make, and the refusals of what is not done here.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/KafkaConfig.scala, validateValues.

use std::collections::BTreeSet;

use super::definition::{ConfigError, Standing, Value};
use super::kafka_config::KafkaConfig;
use super::keys::SERVER;
use super::listeners::{EndPoint, SecurityProtocol, is_host};
use super::metadata_version::MetadataVersion;
use super::properties::Properties;
use super::section_values::{LEADER_SELECTOR, RACK_AWARE_SELECTOR};

impl KafkaConfig {
    // What Kafka checks once all values are read, in its order.

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.int("node.id") != self.int("broker.id") {
            return Err(ConfigError::Config("You must set `node.id` to the same value as `broker.id`.".to_string()));
        }
        if self.text("zookeeper.connect").is_none() {
            return Err(ConfigError::Config(
                "Missing required configuration `zookeeper.connect` which has no default value.".to_string(),
            ));
        }
        let broker_id = self.int("broker.id");
        if self.boolean("broker.id.generation.enable") {
            require(
                broker_id >= -1 && broker_id <= self.int("reserved.broker.max.id"),
                "broker.id must be greater than or equal to -1 and not greater than reserved.broker.max.id",
            )?;
        } else {
            require(broker_id >= 0, "broker.id must be greater than or equal to 0")?;
        }
        self.validate_log()?;
        self.validate_groups()?;
        self.validate_listeners()?;
        self.validate_versions()?;
        self.validate_early_start_listeners()?;
        self.validate_connections()
    }

    fn validate_log(&self) -> Result<(), ConfigError> {
        require(self.roll_ms() >= 1, "log.roll.ms must be greater than or equal to 1")?;
        require(self.roll_jitter_ms() >= 0, "log.roll.jitter.ms must be greater than or equal to 0")?;
        require(
            self.retention_ms() != Some(0),
            "log.retention.ms must be unlimited (-1) or, greater than or equal to 1",
        )?;
        require(!self.log_dirs.is_empty(), "At least one log directory must be defined via log.dirs or log.dir.")?;
        // Kafka divides by the threads and dies of 0 with "/ by zero".
        let per_thread = self.number("log.cleaner.dedupe.buffer.size").checked_div(self.number("log.cleaner.threads"));
        require(
            per_thread.is_some_and(|bytes| bytes > 1024 * 1024),
            "log.cleaner.dedupe.buffer.size must be at least 1MB per cleaner thread.",
        )?;
        let fetch_wait = self.number("replica.fetch.wait.max.ms");
        require(
            fetch_wait <= self.number("replica.socket.timeout.ms"),
            "replica.socket.timeout.ms should always be at least replica.fetch.wait.max.ms to prevent unnecessary \
             socket timeouts",
        )?;
        require(
            fetch_wait <= self.number("replica.lag.time.max.ms"),
            "replica.fetch.wait.max.ms should always be less than or equal to replica.lag.time.max.ms to prevent \
             frequent changes in ISR",
        )
    }

    /// Source: kafka 3.9 group-coordinator/src/main/java/org/apache/kafka/coordinator/group/GroupCoordinatorConfig.java.
    fn validate_groups(&self) -> Result<(), ConfigError> {
        let acks = self.number("offsets.commit.required.acks");
        if acks < -1 || acks > self.number("offsets.topic.replication.factor") {
            return Err(ConfigError::IllegalArgument(
                "offsets.commit.required.acks must be greater or equal to -1 and less or equal to \
                 offsets.topic.replication.factor"
                    .to_string(),
            ));
        }
        // Without effect in ZooKeeper mode, yet a contradiction stops Kafka.
        for (kind, what) in [
            ("consumer", "heartbeat.interval"),
            ("consumer", "session.timeout"),
            ("share", "heartbeat.interval"),
            ("share", "session.timeout"),
        ] {
            let [min, max, own] = ["min.", "max.", ""].map(|bound| format!("group.{kind}.{bound}{what}.ms"));
            for (name, relation, other) in [(&max, "greater", &min), (&own, "greater", &min), (&own, "less", &max)] {
                let (value, bound) = (self.number(name), self.number(other));
                let holds = if relation == "greater" { value >= bound } else { value <= bound };
                if !holds {
                    return Err(ConfigError::IllegalArgument(format!(
                        "{name} must be {relation} than or equals to {other}"
                    )));
                }
            }
        }
        let codec = self.number("offsets.topic.compression.codec");
        if !(0..=4).contains(&codec) {
            return Err(ConfigError::IllegalArgument(format!("Unknown compression type id: {codec}")));
        }
        let protocols = self.list("group.coordinator.rebalance.protocols");
        if !protocols.iter().any(|protocol| protocol == "classic") {
            return Err(ConfigError::Config("Disabling the 'classic' protocol is not supported.".to_string()));
        }
        if protocols.iter().any(|protocol| protocol == "consumer") {
            return Err(ConfigError::Config(
                "The new 'consumer' rebalance protocol is only supported in KRaft cluster.".to_string(),
            ));
        }
        Ok(())
    }

    fn validate_listeners(&self) -> Result<(), ConfigError> {
        let names = |endpoints: &[EndPoint]| -> BTreeSet<String> {
            endpoints.iter().map(|endpoint| endpoint.listener_name.clone()).collect()
        };
        let joined = |endpoints: &[EndPoint]| {
            endpoints.iter().map(|endpoint| endpoint.listener_name.as_str()).collect::<Vec<_>>().join(",")
        };
        let advertised = names(&self.advertised_listeners);
        require(!advertised.is_empty(), "There must be at least one broker advertised listener.")?;
        require(
            advertised.contains(&self.inter_broker_listener_name),
            &format!(
                "inter.broker.listener.name must be a listener name defined in advertised.listeners. The valid options \
                 based on currently configured listeners are {}",
                joined(&self.advertised_listeners)
            ),
        )?;
        require(
            advertised.is_subset(&names(&self.listeners)),
            &format!(
                "advertised.listeners listener names must be equal to or a subset of the ones defined in listeners. \
                 Found {}. The valid options based on the current configuration are {}",
                joined(&self.advertised_listeners),
                joined(&self.listeners)
            ),
        )?;
        require(
            !self.advertised_listeners.iter().any(|endpoint| endpoint.host.as_deref() == Some("0.0.0.0")),
            "advertised.listeners cannot use the nonroutable meta-address 0.0.0.0. Use a routable IP address.",
        )?;
        let Some(control_plane) = &self.control_plane_listener_name else { return Ok(()) };
        require(
            advertised.contains(control_plane),
            &format!(
                "control.plane.listener.name must be a listener name defined in advertised.listeners. The valid \
                 options based on currently configured listeners are {}",
                joined(&self.advertised_listeners)
            ),
        )?;
        require(
            *control_plane != self.inter_broker_listener_name,
            &format!(
                "control.plane.listener.name, when defined, should have a different value from the inter broker \
                 listener name. Currently they both have the value ListenerName({control_plane})"
            ),
        )
    }

    fn validate_versions(&self) -> Result<(), ConfigError> {
        let magic = self.message_format_version.highest_supported_magic();
        require(
            self.inter_broker_protocol_version.highest_supported_magic() >= magic,
            &format!(
                "log.message.format.version {} can only be used when inter.broker.protocol.version is set to version \
                 {} or higher",
                self.text("log.message.format.version").unwrap_or_default(),
                MetadataVersion::oldest_release_of_magic(magic)
            ),
        )?;
        const ZSTD: i64 = 4;
        require(
            self.number("offsets.topic.compression.codec") != ZSTD
                || self.inter_broker_protocol_version.highest_supported_magic() >= 2,
            "offsets.topic.compression.codec zstd can only be used when inter.broker.protocol.version is set to \
             version 2.1 or higher",
        )?;
        let uses_sasl =
            matches!(self.inter_broker_security_protocol, SecurityProtocol::SaslPlaintext | SecurityProtocol::SaslSsl);
        if !uses_sasl {
            return Ok(());
        }
        let mechanism = self.text("sasl.mechanism.inter.broker.protocol").unwrap_or_default();
        require(
            self.inter_broker_protocol_version.is_sasl_inter_broker_handshake_enabled() || mechanism == "GSSAPI",
            &format!(
                "Only GSSAPI mechanism is supported for inter-broker communication with SASL when \
                 inter.broker.protocol.version is set to {}",
                self.text("inter.broker.protocol.version").unwrap_or_default()
            ),
        )?;
        let of_listener =
            format!("listener.name.{}.sasl.enabled.mechanisms", self.inter_broker_listener_name.to_lowercase());
        let enabled = match self.originals.get(&of_listener) {
            Some(text) => super::definition::split_list(text),
            None => self.list("sasl.enabled.mechanisms").to_vec(),
        };
        require(
            enabled.iter().any(|name| name == mechanism),
            "sasl.mechanism.inter.broker.protocol must be included in sasl.enabled.mechanisms when SASL is used for \
             inter-broker communication",
        )
    }

    fn validate_early_start_listeners(&self) -> Result<(), ConfigError> {
        let Some(names) = self.text("early.start.listeners") else { return Ok(()) };
        for name in super::definition::split_list(names).iter().filter(|name| !name.is_empty()) {
            // Kafka takes these names as they are written.
            if !self.listeners.iter().any(|listener| listener.listener_name == *name) {
                return Err(ConfigError::Config(format!(
                    "early.start.listeners contains listener {name}, but this is not contained in listeners or \
                     controller.listener.names"
                )));
            }
        }
        Ok(())
    }

    fn validate_connections(&self) -> Result<(), ConfigError> {
        let queued_bytes = self.number("queued.max.request.bytes");
        require(
            queued_bytes <= 0 || queued_bytes >= self.number("socket.request.max.bytes"),
            "queued.max.request.bytes must be larger or equal to socket.request.max.bytes",
        )?;
        require(
            self.number("max.connections.per.ip") != 0 || !self.max_connections_per_ip_overrides.is_empty(),
            "max.connections.per.ip can be set to zero only if max.connections.per.ip.overrides property is set.",
        )?;
        let invalid: Vec<&str> = self
            .max_connections_per_ip_overrides
            .iter()
            .map(|(host, _)| host.as_str())
            .filter(|host| !is_host(host))
            .collect();
        if !invalid.is_empty() {
            return Err(ConfigError::IllegalArgument(format!(
                "max.connections.per.ip.overrides contains invalid addresses : {}",
                invalid.join(",")
            )));
        }
        let delay = self.number("connection.failed.authentication.delay.ms");
        let idle = self.number("connections.max.idle.ms");
        require(
            idle < 0 || delay < idle,
            &format!(
                "connection.failed.authentication.delay.ms={delay} should always be less than \
                 connections.max.idle.ms={idle} to prevent failed authentication responses from timing out"
            ),
        )
    }

    /// What Kafka would do and Odradek does not: serving without it would break a promise to the operator.
    pub fn unsupported(&self) -> Vec<ConfigError> {
        let mut refusals = Vec::new();
        for endpoint in &self.listeners {
            if endpoint.security_protocol != SecurityProtocol::Plaintext {
                let advice = format!(
                    "its security protocol is {}, and only PLAINTEXT listeners are served so far",
                    endpoint.security_protocol
                );
                refusals.push(unsupported("listeners", &endpoint.to_string(), &advice));
            }
        }
        let selector = self.text("replica.selector.class").unwrap_or_default();
        if !selector.is_empty() && selector != RACK_AWARE_SELECTOR && selector != LEADER_SELECTOR {
            let advice = format!("of the classes that select replicas {RACK_AWARE_SELECTOR} alone is built in");
            refusals.push(unsupported("replica.selector.class", selector, &advice));
        }
        for setting in SERVER.iter().filter(|setting| setting.standing == Standing::Refused) {
            let value = self.value(setting.name);
            // The JMX reporter is how the JVM exposes what is exposed anyway.
            let only_jmx = matches!(value, Value::List(names)
                if names.iter().all(|name| name == "org.apache.kafka.common.metrics.JmxReporter"));
            // Set to nothing is as good as not set.
            let is_empty = matches!(value, Value::String(text) | Value::Class(text) if text.is_empty());
            if *value == setting.default_value() || only_jmx || is_empty {
                continue;
            }
            let advice = match setting.name {
                "authorizer.class.name" => {
                    "access control comes later; without this setting every client is allowed everything"
                }
                "remote.log.storage.system.enable" => "tiered storage comes later",
                "zookeeper.metadata.migration.enable" => "a migration to KRaft needs JVM brokers",
                _ => "classes of the JVM cannot be loaded; remove the setting",
            };
            refusals.push(unsupported(setting.name, &value.to_text().unwrap_or_default(), advice));
        }
        refusals
    }
}

fn require(holds: bool, text: &str) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError::Requirement(text.to_string())) }
}

fn unsupported(name: &str, value: &str, advice: &str) -> ConfigError {
    ConfigError::Unsupported { name: name.to_string(), value: value.to_string(), advice: advice.to_string() }
}

/// KRaft, and values that come from elsewhere: refused before anything else is read.
pub(super) fn refuse_other_modes(originals: &Properties) -> Result<(), ConfigError> {
    let is_set = |name: &str| originals.get(name).map(|text| text.trim()).filter(|text| !text.is_empty());
    if let Some(roles) = is_set("process.roles") {
        return Err(unsupported(
            "process.roles",
            roles,
            "Odradek is a broker for clusters on ZooKeeper; remove the setting and set zookeeper.connect",
        ));
    }
    if let Some(enabled) = is_set("zookeeper.metadata.migration.enable")
        && enabled.eq_ignore_ascii_case("true")
    {
        return Err(unsupported(
            "zookeeper.metadata.migration.enable",
            enabled,
            "a migration to KRaft needs JVM brokers",
        ));
    }
    if let Some(names) = is_set("controller.listener.names") {
        return Err(ConfigError::Requirement(format!(
            "controller.listener.names must be empty when not running in KRaft mode: [{names}]"
        )));
    }
    if let Some(providers) = is_set("config.providers") {
        return Err(unsupported(
            "config.providers",
            providers,
            "values cannot be fetched from elsewhere; write them into the file",
        ));
    }
    Ok(())
}
