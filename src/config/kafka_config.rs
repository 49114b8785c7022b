//! The whole configuration of a broker: read, checked, and cut into the parts that the rooms receive.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/KafkaConfig.scala; 2.8.2 for the settings that left after it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::definition::{ConfigError, ConfigType, Standing, Value};
use super::keys::{self, SERVER, SERVER_2_8};
use super::listeners::{EndPoint, Ports, ProtocolMap, SecurityProtocol, is_host, normalised};
use super::listeners::{parse_listeners, parse_pairs, parse_protocol_map};
use super::log::LogConfig;
use super::metadata_version::MetadataVersion;
use super::properties::Properties;
use super::sections::{ControllerConfig, GroupConfig, ListenerLimits, LogDirsConfig, ReplicaConfig, SocketConfig};
use super::sections::{ZooKeeperConfig, ZooKeeperSslConfig};

/// A checked configuration. Immutable: a dynamic change makes a new one.
#[derive(Clone)]
pub struct KafkaConfig {
    /// What the file and the command line say, with `broker.id` and `node.id` filled from each other.
    static_properties: Properties,
    /// `/config/brokers/<default>`, invalid entries left out.
    dynamic_default: Properties,
    /// `/config/brokers/N`, invalid entries left out.
    dynamic_broker: Properties,
    /// The three layers merged.
    originals: Properties,
    values: BTreeMap<&'static str, Value>,
    listeners: Vec<EndPoint>,
    advertised_listeners: Vec<EndPoint>,
    inter_broker_listener_name: String,
    inter_broker_security_protocol: SecurityProtocol,
    control_plane_listener_name: Option<String>,
    inter_broker_protocol_version: MetadataVersion,
    message_format_version: MetadataVersion,
    log_dirs: Vec<PathBuf>,
    max_connections_per_ip_overrides: Vec<(String, usize)>,
    /// One for each of `listeners`.
    listener_limits: Vec<ListenerLimits>,
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
        KafkaConfig::from_layers(with_id_synonyms(properties), Properties::new(), Properties::new())
    }

    /// The same configuration under other dynamic settings.
    pub fn with_dynamic(
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
        for setting in SERVER.iter().chain(SERVER_2_8) {
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
        let legacy_port = match values.get("port") {
            Some(Value::Int(port)) => *port,
            _ => 9092,
        };
        let listeners = match originals.contains_key("listeners") {
            false if originals.contains_key("port") || originals.contains_key("host.name") => {
                let listener = format!("PLAINTEXT://{}:{legacy_port}", text("host.name").unwrap_or_default());
                parse_listeners(&listener, &protocols, Ports::Distinct)?
            }
            _ => parse_listeners(text("listeners").unwrap_or_default(), &protocols, Ports::Distinct)?,
        };
        let advertised_listeners = advertised(&originals, &values, &protocols, &listeners, legacy_port)?;
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
            .map(|listener| listener_limits(&originals, &listener.listener_name))
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
        config.refuse_unsupported()?;
        Ok(config)
    }

    // Values by name. A name that is not declared is a mistake in this crate.

    fn value(&self, name: &str) -> &Value {
        self.values.get(name).expect("every name asked for is declared in keys.rs")
    }

    fn boolean(&self, name: &str) -> bool {
        matches!(self.value(name), Value::Boolean(true))
    }

    /// A number of any integer type; 0 where it is unset, so ask `number_if_set` of those without default.
    fn number(&self, name: &str) -> i64 {
        self.number_if_set(name).unwrap_or(0)
    }

    fn number_if_set(&self, name: &str) -> Option<i64> {
        match self.value(name) {
            Value::Int(number) => Some(i64::from(*number)),
            Value::Short(number) => Some(i64::from(*number)),
            Value::Long(number) => Some(*number),
            _ => None,
        }
    }

    fn int(&self, name: &str) -> i32 {
        match self.value(name) {
            Value::Int(number) => *number,
            _ => 0,
        }
    }

    fn double(&self, name: &str) -> f64 {
        match self.value(name) {
            Value::Double(number) => *number,
            _ => 0.0,
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        match self.value(name) {
            Value::String(text) | Value::Class(text) | Value::Password(text) => Some(text),
            _ => None,
        }
    }

    fn list(&self, name: &str) -> &[String] {
        match self.value(name) {
            Value::List(elements) => elements,
            _ => &[],
        }
    }

    /// A count or size that a check or a start-up rule keeps from being negative.
    fn size(&self, name: &str) -> usize {
        usize::try_from(self.number(name)).unwrap_or(0)
    }

    fn millis(&self, name: &str) -> u64 {
        u64::try_from(self.number(name)).unwrap_or(0)
    }

    fn unsigned(&self, name: &str) -> u32 {
        u32::try_from(self.number(name)).unwrap_or(0)
    }

    // What Kafka checks once all values are read, in its order.

    fn validate(&self) -> Result<(), ConfigError> {
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
    fn refuse_unsupported(&self) -> Result<(), ConfigError> {
        for endpoint in &self.listeners {
            if endpoint.security_protocol != SecurityProtocol::Plaintext {
                return Err(unsupported(
                    "listeners",
                    &endpoint.to_string(),
                    &format!(
                        "its security protocol is {}, and only PLAINTEXT listeners are served so far",
                        endpoint.security_protocol
                    ),
                ));
            }
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
            return Err(unsupported(setting.name, &value.to_text().unwrap_or_default(), advice));
        }
        Ok(())
    }

    // What start-up tells the operator.

    /// Kafka's list of all values at start, passwords hidden.
    pub fn to_log_text(&self) -> String {
        let mut text = "KafkaConfig values: \n".to_string();
        for (name, value) in &self.values {
            let is_of_2_8 = SERVER_2_8.iter().any(|setting| setting.name == *name);
            if !is_of_2_8 || self.originals.contains_key(*name) {
                text.push_str(&format!("\t{name} = {value}\n"));
            }
        }
        text
    }

    /// One line for each thing the operator should know before the broker serves.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut not_yet = Vec::new();
        let mut unknown = Vec::new();
        for name in self.static_properties.keys() {
            match keys::setting_behind(name) {
                None => unknown.push(name.as_str()),
                Some(setting) if setting.standing == Standing::NotYet || keys::is_not_acted_on_per_listener(name) => {
                    not_yet.push(name.as_str());
                }
                Some(_) => {}
            }
        }
        if self.inter_broker_protocol_version >= MetadataVersion::V3_0_IV1
            && self.originals.contains_key("log.message.format.version")
            && version(self.text("log.message.format.version")).is_ok_and(|format| format.highest_supported_magic() < 2)
        {
            warnings.push(format!(
                "Broker configuration log.message.format.version with value {} is ignored because the inter-broker \
                 protocol version `{}` is greater or equal than 3.0. This configuration is deprecated and it will be \
                 removed in Apache Kafka 4.0.",
                self.text("log.message.format.version").unwrap_or_default(),
                self.text("inter.broker.protocol.version").unwrap_or_default()
            ));
        }
        if self.originals.contains_key("offsets.commit.required.acks") {
            warnings.push(
                "offsets.commit.required.acks is deprecated and it will be removed in Apache Kafka 4.0.".to_string(),
            );
        }
        if !not_yet.is_empty() {
            warnings.push(format!("These settings are known but not acted on yet: {}", not_yet.join(", ")));
        }
        if !unknown.is_empty() {
            warnings.push(format!("These settings are unknown and have no effect: {}", unknown.join(", ")));
        }
        warnings
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

    fn hours_as_ms(&self, name: &str) -> i64 {
        self.number(name).saturating_mul(3_600_000)
    }

    fn roll_ms(&self) -> i64 {
        self.number_if_set("log.roll.ms").unwrap_or_else(|| self.hours_as_ms("log.roll.hours"))
    }

    fn roll_jitter_ms(&self) -> i64 {
        self.number_if_set("log.roll.jitter.ms").unwrap_or_else(|| self.hours_as_ms("log.roll.jitter.hours"))
    }

    /// None keeps records for ever.
    fn retention_ms(&self) -> Option<i64> {
        let ms = self
            .number_if_set("log.retention.ms")
            .or_else(|| Some(self.number_if_set("log.retention.minutes")?.saturating_mul(60_000)))
            .unwrap_or_else(|| self.hours_as_ms("log.retention.hours"));
        (ms >= 0).then_some(ms)
    }

    /// What a topic without settings of its own obeys.
    pub fn topic_defaults(&self) -> LogConfig {
        let difference = self.number("log.message.timestamp.difference.max.ms");
        let or_difference = |name| match self.number(name) {
            i64::MAX => difference,
            ms => ms,
        };
        let defaults = LogConfig::default();
        let cleanup_policy = self.list("log.cleanup.policy");
        LogConfig {
            cleanup_policy: cleanup_policy.to_vec(),
            compact: cleanup_policy.iter().any(|policy| policy == "compact"),
            delete: cleanup_policy.iter().any(|policy| policy == "delete"),
            segment_bytes: self.unsigned("log.segment.bytes"),
            segment_ms: self.roll_ms(),
            segment_jitter_ms: self.roll_jitter_ms(),
            segment_index_bytes: self.unsigned("log.index.size.max.bytes"),
            index_interval_bytes: self.unsigned("log.index.interval.bytes"),
            preallocate: self.boolean("log.preallocate"),
            flush_messages: self.number("log.flush.interval.messages"),
            flush_ms: self
                .number_if_set("log.flush.interval.ms")
                .unwrap_or_else(|| self.number("log.flush.scheduler.interval.ms")),
            retention_bytes: u64::try_from(self.number("log.retention.bytes")).ok(),
            retention_ms: self.retention_ms(),
            file_delete_delay_ms: self.number("log.segment.delete.delay.ms"),
            max_message_bytes: self.unsigned("message.max.bytes"),
            min_insync_replicas: self.int("min.insync.replicas"),
            unclean_leader_election_enable: self.boolean("unclean.leader.election.enable"),
            message_timestamp_difference_max_ms: difference,
            message_timestamp_before_max_ms: or_difference("log.message.timestamp.before.max.ms"),
            message_timestamp_after_max_ms: or_difference("log.message.timestamp.after.max.ms"),
            message_downconversion_enable: self.boolean("log.message.downconversion.enable"),
            message_format_version: self.message_format_version,
            message_format_version_is_fixed: self.inter_broker_protocol_version >= MetadataVersion::V3_0_IV1,
            delete_retention_ms: self.number("log.cleaner.delete.retention.ms"),
            min_compaction_lag_ms: self.number("log.cleaner.min.compaction.lag.ms"),
            max_compaction_lag_ms: self.number("log.cleaner.max.compaction.lag.ms"),
            min_cleanable_dirty_ratio: self.double("log.cleaner.min.cleanable.ratio"),
            local_retention_ms: self.number("log.local.retention.ms"),
            local_retention_bytes: self.number("log.local.retention.bytes"),
            ..defaults
        }
        .with_compression(
            self.text("compression.type").unwrap_or("producer"),
            [self.int("compression.gzip.level"), self.int("compression.lz4.level"), self.int("compression.zstd.level")],
        )
        .with_timestamp_type(self.text("log.message.timestamp.type").unwrap_or("CreateTime"))
    }

    pub fn log_dirs_config(&self) -> LogDirsConfig {
        LogDirsConfig {
            dirs: self.log_dirs.clone(),
            num_recovery_threads_per_data_dir: self.size("num.recovery.threads.per.data.dir"),
            log_flush_offset_checkpoint_interval_ms: self.number("log.flush.offset.checkpoint.interval.ms"),
            log_flush_start_offset_checkpoint_interval_ms: self.number("log.flush.start.offset.checkpoint.interval.ms"),
            log_retention_check_interval_ms: self.number("log.retention.check.interval.ms"),
            log_initial_task_delay_ms: self.number("log.initial.task.delay.ms"),
            // 2.8 forgot producers by transactional.id.expiration.ms; the newer default is what 3.9 does.
            producer_id_expiration_ms: self.number("producer.id.expiration.ms"),
            producer_id_expiration_check_interval_ms: self.number("producer.id.expiration.check.interval.ms"),
            topic_defaults: self.topic_defaults(),
        }
    }

    pub fn socket_config(&self) -> SocketConfig {
        let positive = |name| usize::try_from(self.number(name)).ok().filter(|size| *size > 0);
        SocketConfig {
            listeners: self.listeners.clone(),
            socket_send_buffer_bytes: positive("socket.send.buffer.bytes"),
            socket_receive_buffer_bytes: positive("socket.receive.buffer.bytes"),
            socket_request_max_bytes: self.size("socket.request.max.bytes"),
            socket_listen_backlog_size: self.unsigned("socket.listen.backlog.size"),
            connections_max_idle_ms: u64::try_from(self.number("connections.max.idle.ms")).ok(),
            max_connections: self.size("max.connections"),
            max_connection_creation_rate: self.size("max.connection.creation.rate"),
            max_connections_per_ip: self.size("max.connections.per.ip"),
            max_connections_per_ip_overrides: self.max_connections_per_ip_overrides.clone(),
            listener_limits: self.listener_limits.clone(),
            inter_broker_listener_name: self.inter_broker_listener_name.clone(),
            queued_max_requests: self.size("queued.max.requests"),
            queued_max_request_bytes: positive("queued.max.request.bytes"),
            num_network_threads: self.size("num.network.threads"),
            num_io_threads: self.size("num.io.threads"),
            fetch_max_bytes: self.unsigned("fetch.max.bytes"),
            max_incremental_fetch_session_cache_slots: self.size("max.incremental.fetch.session.cache.slots"),
        }
    }

    pub fn group_config(&self) -> GroupConfig {
        GroupConfig {
            group_min_session_timeout_ms: self.int("group.min.session.timeout.ms"),
            group_max_session_timeout_ms: self.int("group.max.session.timeout.ms"),
            group_initial_rebalance_delay_ms: self.int("group.initial.rebalance.delay.ms"),
            group_max_size: self.size("group.max.size"),
            offset_metadata_max_bytes: self.size("offset.metadata.max.bytes"),
            offsets_load_buffer_size: self.unsigned("offsets.load.buffer.size"),
            offsets_retention_ms: self.number("offsets.retention.minutes") * 60_000,
            offsets_retention_check_interval_ms: self.number("offsets.retention.check.interval.ms"),
            offsets_topic_num_partitions: self.int("offsets.topic.num.partitions"),
            offsets_topic_replication_factor: self.short("offsets.topic.replication.factor"),
            offsets_topic_segment_bytes: self.unsigned("offsets.topic.segment.bytes"),
            offsets_topic_compression_codec: i8::try_from(self.int("offsets.topic.compression.codec")).unwrap_or(0),
            offsets_commit_timeout_ms: self.int("offsets.commit.timeout.ms"),
            offsets_commit_required_acks: self.short("offsets.commit.required.acks"),
            inter_broker_protocol_version: self.inter_broker_protocol_version,
        }
    }

    fn short(&self, name: &str) -> i16 {
        match self.value(name) {
            Value::Short(number) => *number,
            _ => 0,
        }
    }

    pub fn zookeeper_config(&self) -> ZooKeeperConfig {
        let owned = |name| self.text(name).map(String::from);
        let session_timeout_ms = self.unsigned("zookeeper.session.timeout.ms");
        ZooKeeperConfig {
            connect: owned("zookeeper.connect").unwrap_or_default(),
            session_timeout_ms,
            connection_timeout_ms: self
                .number_if_set("zookeeper.connection.timeout.ms")
                .map_or(session_timeout_ms, |ms| u32::try_from(ms).unwrap_or(0)),
            set_acl: self.boolean("zookeeper.set.acl"),
            max_in_flight_requests: self.size("zookeeper.max.in.flight.requests"),
            ssl: ZooKeeperSslConfig {
                client_enable: self.boolean("zookeeper.ssl.client.enable"),
                keystore_location: owned("zookeeper.ssl.keystore.location"),
                keystore_type: owned("zookeeper.ssl.keystore.type"),
                truststore_location: owned("zookeeper.ssl.truststore.location"),
                truststore_type: owned("zookeeper.ssl.truststore.type"),
                verify_hostname: self
                    .text("zookeeper.ssl.endpoint.identification.algorithm")
                    .is_some_and(|algorithm| algorithm.eq_ignore_ascii_case("HTTPS")),
            },
        }
    }

    pub fn replica_config(&self) -> ReplicaConfig {
        ReplicaConfig {
            inter_broker_protocol_version: self.inter_broker_protocol_version,
            replica_lag_time_max_ms: self.number("replica.lag.time.max.ms"),
            replica_high_watermark_checkpoint_interval_ms: self.number("replica.high.watermark.checkpoint.interval.ms"),
        }
    }

    pub fn controller_config(&self) -> ControllerConfig {
        ControllerConfig {
            inter_broker_protocol_version: self.inter_broker_protocol_version,
            inter_broker_listener_name: self.inter_broker_listener_name.clone(),
            control_plane_listener_name: self.control_plane_listener_name.clone(),
            controller_socket_timeout_ms: self.millis("controller.socket.timeout.ms"),
            request_timeout_ms: self.number("request.timeout.ms"),
            delete_topic_enable: self.boolean("delete.topic.enable"),
            auto_create_topics_enable: self.boolean("auto.create.topics.enable"),
            num_partitions: self.int("num.partitions"),
            default_replication_factor: self.int("default.replication.factor"),
            unclean_leader_election_enable: self.boolean("unclean.leader.election.enable"),
        }
    }
}

fn require(holds: bool, text: &str) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError::Requirement(text.to_string())) }
}

fn unsupported(name: &str, value: &str, advice: &str) -> ConfigError {
    ConfigError::Unsupported { name: name.to_string(), value: value.to_string(), advice: advice.to_string() }
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

/// KRaft, and values that come from elsewhere: refused before anything else is read.
fn refuse_other_modes(originals: &Properties) -> Result<(), ConfigError> {
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

fn version(text: Option<&str>) -> Result<MetadataVersion, ConfigError> {
    let text = text.unwrap_or_default();
    text.parse().map_err(|_| ConfigError::IllegalArgument(format!("Version {text} is not a valid version")))
}

/// `advertised.listeners`, else what 2.8 had in its place, else the listeners themselves.
fn advertised(
    originals: &Properties,
    values: &BTreeMap<&'static str, Value>,
    protocols: &ProtocolMap,
    listeners: &[EndPoint],
    legacy_port: i32,
) -> Result<Vec<EndPoint>, ConfigError> {
    if let Some(Value::String(text)) = values.get("advertised.listeners") {
        return parse_listeners(text, protocols, Ports::Shared);
    }
    let host = originals.get("advertised.host.name");
    let port = originals.get("advertised.port");
    if host.is_none() && port.is_none() {
        return Ok(listeners.to_vec());
    }
    let host = host.or(originals.get("host.name")).map_or("", |host| host.trim());
    let port = match values.get("advertised.port") {
        Some(Value::Int(port)) => *port,
        _ => legacy_port,
    };
    parse_listeners(&format!("PLAINTEXT://{host}:{port}"), protocols, Ports::Shared)
}

/// Source: kafka 3.9 core/src/main/scala/kafka/network/SocketServer.scala, ListenerConnectionQuota.
fn listener_limits(originals: &Properties, listener_name: &str) -> Result<ListenerLimits, ConfigError> {
    let limit = |name: &str| match originals.get(&format!("listener.name.{}.{name}", listener_name.to_lowercase())) {
        None => Ok(usize::MAX),
        Some(text) => {
            let setting = keys::server_setting(name).expect("both are declared in keys.rs");
            match setting.parse(text)? {
                Value::Int(limit) => Ok(usize::try_from(limit).unwrap_or(0)),
                _ => Ok(usize::MAX),
            }
        }
    };
    let [connections, rate] = keys::PER_LISTENER;
    Ok(ListenerLimits { max_connections: limit(connections)?, max_connection_creation_rate: limit(rate)? })
}

fn inter_broker_listener(
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

fn per_ip_overrides(text: &str) -> Result<Vec<(String, usize)>, ConfigError> {
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

/// Whether a value of this type may be shown; a setting of unknown type may hold anything.
pub fn is_sensitive(config_type: Option<ConfigType>) -> bool {
    matches!(config_type, None | Some(ConfigType::Password))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Properties {
        let mut properties = Properties::from([("zookeeper.connect".to_string(), "localhost:2181".to_string())]);
        properties.extend(pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())));
        properties
    }

    fn config(pairs: &[(&str, &str)]) -> KafkaConfig {
        KafkaConfig::from_properties(&with(pairs)).unwrap_or_else(|error| panic!("{pairs:?}: {error}"))
    }

    fn refusal(pairs: &[(&str, &str)]) -> ConfigError {
        KafkaConfig::from_properties(&with(pairs)).expect_err(&format!("{pairs:?} must be refused"))
    }

    /// The structs that rooms use in their own tests say the same as the table of settings.
    #[test]
    fn the_defaults_of_the_sections_are_those_of_the_settings() {
        let config = config(&[]);
        assert_eq!(config.log_dirs_config(), LogDirsConfig::default());
        assert_eq!(config.topic_defaults(), LogConfig::default());
        assert_eq!(config.group_config(), GroupConfig::default());
        assert_eq!(config.zookeeper_config(), ZooKeeperConfig::default());
        assert_eq!(config.replica_config(), ReplicaConfig::default());
        assert_eq!(config.controller_config(), ControllerConfig::default());
        let sockets = config.socket_config();
        assert_eq!((sockets.listeners.len(), sockets.listener_limits.len()), (1, 1));
        let bare = SocketConfig { listeners: Vec::new(), listener_limits: Vec::new(), ..sockets };
        assert_eq!(bare, SocketConfig::default());
    }

    /// Every row of `tests/golden/config/startup-3.9.1.tsv`: Kafka's own class and words.
    #[test]
    fn what_kafka_refuses_at_start_is_refused_with_its_words() {
        let rows =
            include_str!("../../tests/golden/config/startup-3.9.1.tsv").lines().filter(|row| !row.starts_with('#'));
        let mut count = 0;
        for row in rows {
            let columns: Vec<&str> = row.split('\t').collect();
            let [settings, class, message] = columns[..] else { panic!("three columns: {row}") };
            let pairs: Vec<(&str, &str)> = settings.split("||").filter_map(|pair| pair.split_once('=')).collect();
            let error = refusal(&pairs);
            assert_eq!((error.to_string().as_str(), error.java_class()), (message, class), "{settings}");
            count += 1;
        }
        assert_eq!(count, 46);
        assert_eq!(
            KafkaConfig::from_properties(&Properties::new()).expect_err("no ZooKeeper").to_string(),
            "Missing required configuration `zookeeper.connect` which has no default value."
        );
    }

    #[test]
    fn what_odradek_cannot_do_is_refused_by_name() {
        #[rustfmt::skip]
        let cases: &[&[(&str, &str)]] = &[
            &[("process.roles", "broker")],
            &[("zookeeper.metadata.migration.enable", "true")],
            &[("config.providers", "file")],
            &[("authorizer.class.name", "kafka.security.authorizer.AclAuthorizer")],
            &[("create.topic.policy.class.name", "com.example.Policy")],
            &[("principal.builder.class", "com.example.Builder")],
            &[("metric.reporters", "com.example.Reporter")],
            &[("replica.selector.class", "org.apache.kafka.common.replica.RackAwareReplicaSelector")],
            &[("remote.log.storage.system.enable", "true")],
            &[("listeners", "SSL://:9093,PLAINTEXT://:9092")],
        ];
        for pairs in cases {
            let (name, _) = pairs[0];
            match refusal(pairs) {
                ConfigError::Unsupported { name: named, .. } => assert_eq!(named, name),
                other => panic!("{name}: {other}"),
            }
        }
        config(&[("metric.reporters", "org.apache.kafka.common.metrics.JmxReporter"), ("authorizer.class.name", "")]);
    }

    #[test]
    fn families_of_settings_are_derived() {
        let defaults = |pairs: &[(&str, &str)]| config(pairs).topic_defaults();
        assert_eq!(defaults(&[("log.retention.minutes", "2")]).retention_ms, Some(120_000));
        assert_eq!(defaults(&[("log.retention.minutes", "2"), ("log.retention.ms", "5")]).retention_ms, Some(5));
        assert_eq!(defaults(&[("log.retention.hours", "-1")]).retention_ms, None);
        assert_eq!(defaults(&[("log.roll.hours", "1")]).segment_ms, 3_600_000);
        assert_eq!(defaults(&[("log.roll.jitter.hours", "1")]).segment_jitter_ms, 3_600_000);
        assert_eq!(defaults(&[("log.flush.scheduler.interval.ms", "7")]).flush_ms, 7);
        assert_eq!(defaults(&[("log.message.timestamp.difference.max.ms", "9")]).message_timestamp_before_max_ms, 9);
        let old = [("inter.broker.protocol.version", "2.8"), ("log.message.format.version", "0.10.2")];
        assert_eq!(defaults(&old).message_format_version, MetadataVersion::V0_10_2_IV0);
        assert_eq!(defaults(&old[1..]).message_format_version, MetadataVersion::V3_0_IV1);
        let dirs = config(&[("log.dirs", "/a, /b,,"), ("log.dir", "/c")]).log_dirs_config().dirs;
        assert_eq!(dirs, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(config(&[("zookeeper.connection.timeout.ms", "5")]).zookeeper_config().connection_timeout_ms, 5);
    }

    #[test]
    fn listeners_of_2_8_still_name_host_and_port() {
        let old = config(&[("host.name", "h"), ("port", "9999"), ("advertised.host.name", "a")]);
        assert_eq!(old.listeners()[0].to_string(), "PLAINTEXT://h:9999");
        assert_eq!(old.advertised_listeners()[0].to_string(), "PLAINTEXT://a:9999");
        let new = config(&[("listeners", "PLAINTEXT://n:1"), ("host.name", "h"), ("port", "9999")]);
        assert_eq!(new.listeners()[0].to_string(), "PLAINTEXT://n:1");
        assert_eq!(new.advertised_listeners(), new.listeners());
    }

    #[test]
    fn the_sample_configuration_is_accepted_and_means_what_it_says() {
        let text = include_bytes!("../../config/server.properties");
        let properties = crate::config::properties::parse(text).expect("well-formed");
        let config = KafkaConfig::from_properties(&properties).expect("accepted");
        assert_eq!(config.broker_id(), 0);
        assert_eq!(config.listeners()[0].to_string(), "PLAINTEXT://:9092");
        assert_eq!(config.log_dirs_config().dirs, [PathBuf::from("/tmp/kafka-logs")]);
        assert_eq!(config.zookeeper_config().connect, "localhost:2181");
        assert_eq!(config.group_config().offsets_topic_replication_factor, 1);
        assert_eq!(config.group_config().group_initial_rebalance_delay_ms, 0);
        let names: Vec<&str> = properties.keys().map(String::as_str).collect();
        assert_eq!(names.len(), 17, "{names:?}: node.id is filled in, not written");
    }

    #[test]
    fn one_of_broker_id_and_node_id_stands_for_both() {
        assert_eq!(config(&[("node.id", "7")]).broker_id(), 7);
        assert_eq!(config(&[("broker.id", "7")]).value_of("node.id"), Some(&Value::Int(7)));
    }

    #[test]
    fn values_are_listed_as_kafka_lists_them() {
        let text = config(&[("broker.id", "3"), ("ssl.keystore.password", "hunter2")]).to_log_text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "KafkaConfig values: ");
        assert_eq!(lines[1], "\tadvertised.listeners = null");
        assert_eq!(lines.len(), 1 + SERVER.len());
        for line in [
            "\tbroker.id = 3",
            "\tnode.id = 3",
            "\tssl.keystore.password = [hidden]",
            "\tssl.truststore.password = null",
            "\tlog.cleanup.policy = [delete]",
            "\tssl.enabled.protocols = [TLSv1.2, TLSv1.3]",
            "\tlog.cleaner.io.max.bytes.per.second = 1.7976931348623157E308",
            "\tprincipal.builder.class = class org.apache.kafka.common.security.authenticator.DefaultKafkaPrincipalBuilder",
            "\tauthorizer.class.name = ",
        ] {
            assert!(lines.contains(&line), "{line}");
        }
        assert!(!text.contains("hunter2"));
    }

    #[test]
    fn warnings_name_what_has_no_effect() {
        let warnings = config(&[
            ("transaction.max.timeout.ms", "1"),
            ("quota.window.num", "3"),
            ("made.up", "1"),
            ("listener.name.plaintext.made.up", "1"),
            ("listener.name.plaintext.num.network.threads", "4"),
            ("listener.name.plaintext.max.connections", "4"),
            ("num.partitions", "2"),
        ])
        .warnings();
        assert_eq!(
            warnings,
            [
                "These settings are known but not acted on yet: listener.name.plaintext.num.network.threads, \
                 quota.window.num, transaction.max.timeout.ms",
                "These settings are unknown and have no effect: listener.name.plaintext.made.up, made.up",
            ]
        );
        let ignored = config(&[("log.message.format.version", "0.10.2")]).warnings();
        assert!(ignored[0].starts_with("Broker configuration log.message.format.version with value 0.10.2 is ignored"));
    }

    #[test]
    fn dynamic_settings_lie_over_static_ones_and_a_broker_over_the_default() {
        let base = config(&[("log.retention.hours", "1"), ("message.max.bytes", "10")]);
        let layer = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        let changed = base
            .with_dynamic(
                &layer(&[
                    ("message.max.bytes", "20"),
                    ("log.retention.ms", "5"),
                    ("leader.replication.throttled.rate", "1"),
                ]),
                &layer(&[("message.max.bytes", "30")]),
            )
            .expect("valid");
        assert_eq!(changed.topic_defaults().max_message_bytes, 30);
        assert_eq!(changed.topic_defaults().retention_ms, Some(5));
        let back = changed.with_dynamic(&Properties::new(), &Properties::new()).expect("valid");
        assert_eq!(back.topic_defaults(), base.topic_defaults());
    }
}
