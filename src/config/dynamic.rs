//! Changes of settings at run time: what a request asks for, whether it is allowed, and what of the stored settings
//! of a broker is used.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/ConfigAdminManager.scala, core/src/main/scala/kafka/server/DynamicBrokerConfig.scala.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::definition::{ConfigError, ConfigType, Setting, Standing, Update};
use super::kafka_config::KafkaConfig;
use super::keys::{self, DYNAMIC_ONLY, server_setting, setting_behind, without_listener_prefix};
use super::properties::Properties;
use super::sections::ListenerLimits;
use super::topic_settings::{is_broker_twin, topic_setting};

/// Whose settings change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Broker,
    /// The default of all brokers.
    ClusterDefault,
}

/// One step of an incremental change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    Set(String),
    Delete,
    /// Adds the elements that a list does not have yet.
    Append(String),
    /// Takes elements off a list.
    Subtract(String),
}

/// Why a step cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationError {
    NotAList {
        name: String,
        operation: &'static str,
    },
    /// Kafka fails with an unexpected error here.
    UnknownName(String),
}

impl fmt::Display for OperationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OperationError::NotAList { name, operation } => {
                write!(f, "Config value {operation} is not allowed for config key: {name}")
            }
            OperationError::UnknownName(name) => write!(f, "key not found: {name}"),
        }
    }
}

/// The topic's settings after the steps.
pub fn change_topic(current: &Properties, steps: &[(String, Operation)]) -> Result<Properties, OperationError> {
    change(current, steps, topic_setting)
}

/// The broker's settings after the steps.
pub fn change_broker(current: &Properties, steps: &[(String, Operation)]) -> Result<Properties, OperationError> {
    change(current, steps, server_setting)
}

fn change(
    current: &Properties,
    steps: &[(String, Operation)],
    find: impl Fn(&str) -> Option<&'static Setting>,
) -> Result<Properties, OperationError> {
    let mut changed = current.clone();
    for (name, operation) in steps {
        // Kafka splits without trimming and compares as is.
        let elements_of = |changed: &Properties, operation| -> Result<Vec<String>, OperationError> {
            let setting = find(name).ok_or_else(|| OperationError::UnknownName(name.clone()))?;
            if setting.config_type != ConfigType::List {
                return Err(OperationError::NotAList { name: name.clone(), operation });
            }
            let text = match changed.get(name) {
                Some(text) => text.clone(),
                None => setting.default_value().to_text().unwrap_or_default(),
            };
            Ok(text.split(',').filter(|element| !element.is_empty()).map(String::from).collect())
        };
        match operation {
            Operation::Set(value) => {
                changed.insert(name.clone(), value.clone());
            }
            Operation::Delete => {
                changed.remove(name);
            }
            Operation::Append(value) => {
                let mut elements = elements_of(&changed, "append")?;
                let present: HashSet<&str> = elements.iter().map(String::as_str).collect();
                let added: Vec<String> =
                    value.split(',').filter(|new| !present.contains(new)).map(String::from).collect();
                elements.extend(added);
                changed.insert(name.clone(), elements.join(","));
            }
            Operation::Subtract(value) => {
                let mut elements = elements_of(&changed, "subtract")?;
                let mut taken: HashMap<&str, usize> = HashMap::new();
                for element in value.split(',') {
                    *taken.entry(element).or_default() += 1;
                }
                elements.retain(|element| match taken.get_mut(element.as_str()) {
                    Some(times) if *times > 0 => {
                        *times -= 1;
                        false
                    }
                    Some(_) | None => true,
                });
                changed.insert(name.clone(), elements.join(","));
            }
        }
    }
    Ok(changed)
}

/// Whether a broker may be given `proposed` in place of what is stored for it; `config` is the one in force.
pub fn validate_broker(config: &KafkaConfig, proposed: &Properties, scope: Scope) -> Result<(), ConfigError> {
    let named = |matches: &dyn Fn(&str) -> bool| -> Vec<&str> {
        proposed.keys().map(String::as_str).filter(|name| matches(name)).collect()
    };
    let refuse = |text: &str, names: Vec<&str>| match names.is_empty() {
        true => Ok(()),
        false => Err(ConfigError::Config(format!("{text}: Set({})", names.join(", ")))),
    };
    refuse("Cannot update these configs dynamically", named(&is_read_only))?;
    refuse(
        "These security configs can be dynamically updated only per-listener using the listener prefix",
        named(&needs_listener_prefix),
    )?;
    for (name, text) in proposed {
        if let Some(setting) = setting_behind(name) {
            setting.parse(text)?;
        }
    }
    if scope == Scope::ClusterDefault {
        refuse(
            "Cannot update these configs at default cluster level, broker id must be specified",
            named(&is_per_broker),
        )?;
    }
    let stored = match scope {
        Scope::Broker => config.dynamic_broker(),
        Scope::ClusterDefault => config.dynamic_default(),
    };
    for (name, value) in proposed {
        // What stands there already was put there by a broker that acts on it. What no broker knows may be a plug-in's.
        let is_known = setting_behind(name).is_some();
        if stored.get(name) != Some(value) && is_known && !is_applied_at_run_time(name) {
            return Err(ConfigError::Unsupported {
                name: name.clone(),
                value: if is_shown(name) { value.clone() } else { "[hidden]".to_string() },
                advice: "this setting cannot be changed at run time; set it in server.properties and restart"
                    .to_string(),
            });
        }
    }
    let next = match scope {
        Scope::Broker => config.with_dynamic(config.dynamic_default(), proposed),
        Scope::ClusterDefault => config.with_dynamic(proposed, config.dynamic_broker()),
    }?;
    for (current, proposed) in config.listener_limits.iter().zip(&next.listener_limits) {
        validate_listener_limits(current, proposed)?;
    }
    validate_cleaner_threads(config.number("log.cleaner.threads"), next.number("log.cleaner.threads"))?;
    THREAD_POOLS.iter().try_for_each(|name| validate_threads(name, config.number(name), next.number(name)))
}

/// Nobody would be let in any more, and so nobody could take it back.
/// Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/network/SocketServer.scala, ListenerConnectionQuota.
fn validate_listener_limits(current: &ListenerLimits, proposed: &ListenerLimits) -> Result<(), ConfigError> {
    let limits = [proposed.max_connections, proposed.max_connection_creation_rate];
    match keys::PER_LISTENER.iter().zip(limits).find(|(_, limit)| *limit == 0) {
        Some((name, limit)) if current != proposed => {
            Err(invalid_dynamic_configuration(&format!("Invalid {name} {limit}")))
        }
        _ => Ok(()),
    }
}

/// Kafka hands the whole exception to one that takes it for a value.
fn invalid_dynamic_configuration(why: &str) -> ConfigError {
    ConfigError::Config(format!(
        "Invalid value org.apache.kafka.common.config.ConfigException: {why} for configuration Invalid dynamic configuration"
    ))
}

/// Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/log/LogCleaner.scala, validateReconfiguration.
fn validate_cleaner_threads(current: i64, proposed: i64) -> Result<(), ConfigError> {
    let refusal = match proposed {
        ..=0 => "should be at least 1".to_string(),
        threads if threads < current / 2 => {
            format!("cannot be reduced to less than half the current value {current}")
        }
        threads if threads > current * 2 => {
            format!("cannot be increased to more than double the current value {current}")
        }
        _ => return Ok(()),
    };
    Err(invalid_dynamic_configuration(&format!("Log cleaner threads {refusal}")))
}

/// The pools whose threads may be halved or doubled with one change, and no more.
/// Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/DynamicBrokerConfig.scala, DynamicThreadPool.
const THREAD_POOLS: [&str; 4] =
    ["background.threads", "num.io.threads", "num.recovery.threads.per.data.dir", "num.replica.fetchers"];

fn validate_threads(name: &str, current: i64, proposed: i64) -> Result<(), ConfigError> {
    let bound = match proposed {
        threads if threads == current => return Ok(()),
        ..=0 => "be at least 1".to_string(),
        threads if threads < current / 2 => format!("be at least half the current value {current}"),
        threads if threads > current * 2 => format!("not be greater than double the current value {current}"),
        _ => return Ok(()),
    };
    let why = format!("Dynamic thread count update validation failed for {name}={proposed}, value should {bound}");
    Err(invalid_dynamic_configuration(&why))
}

/// What of a broker's stored settings is used, and a line for each that is not.
pub fn usable(stored: &Properties, scope: Scope) -> (Properties, Vec<String>) {
    let mut used = Properties::new();
    let mut complaints = Vec::new();
    for (name, text) in stored {
        let complaint = if is_read_only(name) {
            Some("it cannot change at run time".to_string())
        } else if needs_listener_prefix(name) {
            Some("it needs the prefix of a listener".to_string())
        } else if scope == Scope::ClusterDefault && is_per_broker(name) {
            Some("it can only be set for one broker".to_string())
        } else if setting_behind(name).is_some_and(|setting| setting.config_type == ConfigType::Password) {
            Some("stored passwords cannot be decrypted yet".to_string())
        } else {
            dynamic_setting(name).and_then(|setting| setting.parse(text).err()).map(|error| error.to_string())
        };
        match complaint {
            None => {
                if OF_TICKETS.contains(&name.as_str()) {
                    complaints.push(format!("the stored setting {name} of a broker has no effect without SASL"));
                }
                used.insert(name.clone(), text.clone());
            }
            Some(why) => complaints.push(format!("the stored setting {name} of a broker is ignored: {why}")),
        }
    }
    (used, complaints)
}

/// What of a broker's stored settings a JVM broker uses and we do not: passwords, as it has encrypted them.
pub fn encrypted(stored: &Properties, scope: Scope) -> Properties {
    let is_misplaced = |name: &str| {
        is_read_only(name) || needs_listener_prefix(name) || scope == Scope::ClusterDefault && is_per_broker(name)
    };
    let is_password = |name: &str| setting_behind(name).is_some_and(|one| one.config_type == ConfigType::Password);
    let passwords = stored.iter().filter(|(name, _)| !is_misplaced(name) && is_password(name));
    passwords.map(owned).collect()
}

/// The configuration under what can be used of a broker's stored settings, and a line for each that cannot. One that is not
/// supported, or that alone contradicts the rest, stays as it is in force or, at the start, is left out: the others may be what
/// keeps data from being deleted. For the same reason an error where no single one is to blame.
pub fn under_stored(
    current: &KafkaConfig,
    default: &Properties,
    broker: &Properties,
) -> Result<(KafkaConfig, Vec<String>), ConfigError> {
    let (default, mut complaints) = usable(default, Scope::ClusterDefault);
    let (broker, complaints_of_broker) = usable(broker, Scope::Broker);
    complaints.extend(complaints_of_broker);
    let in_force = [current.dynamic_default(), current.dynamic_broker()];
    let mut layers = [default, broker];
    // What is refused without them is not for this to judge.
    let refused_anyway: Vec<String> = current.unsupported().iter().map(ConfigError::to_string).collect();
    loop {
        let why = match current.read_dynamic(&layers[0], &layers[1]) {
            Ok(config) => {
                let refused = config.unsupported().into_iter().find(|why| !refused_anyway.contains(&why.to_string()));
                let Some(why) = refused else { return Ok((config, complaints)) };
                why
            }
            Err(why) => why,
        };
        let named = match &why {
            ConfigError::Unsupported { name, .. } => {
                layers.iter().rposition(|layer| layer.contains_key(name)).map(|at| (at, name.clone()))
            }
            _ => None,
        };
        // A listener may be refused for what another setting makes of it.
        let mut all = (0..layers.len()).flat_map(|at| layers[at].keys().map(move |name| (at, name.clone())));
        let is_to_blame = |(at, name): &(usize, String)| {
            let mut without = layers.clone();
            put_back(&mut without[*at], in_force[*at], name);
            let said = why.to_string();
            let config = current.read_dynamic(&without[0], &without[1]);
            config.is_ok_and(|config| config.unsupported().iter().all(|other| other.to_string() != said))
        };
        let Some((at, name)) = named.or_else(|| all.find(is_to_blame)) else { return Err(why) };
        put_back(&mut layers[at], in_force[at], &name);
        complaints.push(format!("the stored setting {name} of a broker is ignored: {why}"));
    }
}

/// What of a broker's stored settings could be used, and is not: see [`under_stored`].
pub fn left_out(config: &KafkaConfig, stored: &Properties, scope: Scope) -> Properties {
    let (stored, _) = usable(stored, scope);
    let (default, broker) = match scope {
        Scope::Broker => (config.dynamic_default(), &stored),
        Scope::ClusterDefault => (&stored, config.dynamic_broker()),
    };
    let Ok((under, _)) = under_stored(config, default, broker) else { return Properties::new() };
    let used = match scope {
        Scope::Broker => under.dynamic_broker(),
        Scope::ClusterDefault => under.dynamic_default(),
    };
    stored.iter().filter(|(name, value)| used.get(*name) != Some(value)).map(owned).collect()
}

fn owned((name, value): (&String, &String)) -> (String, String) {
    (name.clone(), value.clone())
}

/// The setting is what it was or, if that is what it is, not there any more.
fn put_back(layer: &mut Properties, in_force: &Properties, name: &str) {
    match in_force.get(name) {
        Some(was) if layer.get(name) != Some(was) => layer.insert(name.to_owned(), was.clone()),
        _ => layer.remove(name),
    };
}

/// What else than the defaults of topics is acted on when it changes: each is watched by `broker/sections.rs`.
/// There is no pool of ours that `background.threads` would bound, and `num.recovery.threads.per.data.dir` counts when
/// logs are opened, which is at the next start, as in Kafka.
const WATCHED: [&str; 20] = [
    "advertised.listeners",
    "background.threads",
    "follower.replication.throttled.rate",
    "leader.replication.throttled.rate",
    "log.cleaner.backoff.ms",
    "log.cleaner.dedupe.buffer.size",
    "log.cleaner.io.buffer.load.factor",
    "log.cleaner.io.buffer.size",
    "log.cleaner.io.max.bytes.per.second",
    "log.cleaner.threads",
    "max.connection.creation.rate",
    "max.connections",
    "max.connections.per.ip",
    "max.connections.per.ip.overrides",
    "num.io.threads",
    "num.recovery.threads.per.data.dir",
    "num.replica.fetchers",
    "producer.id.expiration.ms",
    "replica.alter.log.dirs.io.max.bytes.per.second",
    "transaction.partition.verification.enable",
];

/// How Kerberos and OAuth tickets are renewed. While no listener asks for either nothing comes of it, here as in a JVM broker,
/// which takes such settings all the same.
const OF_TICKETS: [&str; 9] = [
    "sasl.kerberos.kinit.cmd",
    "sasl.kerberos.min.time.before.relogin",
    "sasl.kerberos.service.name",
    "sasl.kerberos.ticket.renew.jitter",
    "sasl.kerberos.ticket.renew.window.factor",
    "sasl.login.refresh.buffer.seconds",
    "sasl.login.refresh.min.period.seconds",
    "sasl.login.refresh.window.factor",
    "sasl.login.refresh.window.jitter",
];

/// Whether a change takes effect while this broker runs: the defaults of topics do, as far as their logs obey them.
pub fn is_applied_at_run_time(name: &str) -> bool {
    if keys::PER_LISTENER.iter().any(|base| without_listener_prefix(name) == Some(base)) {
        return true;
    }
    WATCHED.contains(&name)
        || OF_TICKETS.contains(&name)
        || server_setting(name).is_some_and(|setting| {
            setting.update == Update::ClusterWide && setting.standing == Standing::Acted && is_broker_twin(name)
        })
}

/// The row that checks a dynamic value; a name that is in no table may have any value.
fn dynamic_setting(name: &str) -> Option<&'static Setting> {
    let base = without_listener_prefix(name).unwrap_or(name);
    server_setting(base).or_else(|| DYNAMIC_ONLY.iter().find(|setting| setting.name == base))
}

fn is_read_only(name: &str) -> bool {
    keys::server_setting(name).is_some_and(|setting| setting.update == Update::ReadOnly)
}

/// SSL stores and their passwords change per listener only.
fn needs_listener_prefix(name: &str) -> bool {
    const STORES: [&str; 3] = ["ssl.keystore.", "ssl.truststore.", "ssl.key.password"];
    server_setting(name).is_some() && STORES.iter().any(|store| name.starts_with(store))
}

fn is_per_broker(name: &str) -> bool {
    const OF_ALL: [&str; 3] = ["max.connections", "max.connection.creation.rate", "num.network.threads"];
    match without_listener_prefix(name) {
        Some(base) => !OF_ALL.contains(&base),
        None => server_setting(name).is_some_and(|setting| setting.update == Update::PerBroker),
    }
}

fn is_shown(name: &str) -> bool {
    !super::kafka_config::is_sensitive(setting_behind(name).map(|setting| setting.config_type))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(pairs: &[(&str, &str)]) -> Properties {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn config() -> KafkaConfig {
        KafkaConfig::from_properties(&properties(&[("zookeeper.connect", "localhost:2181")])).expect("valid")
    }

    fn changed(current: &[(&str, &str)], name: &str, operation: Operation) -> Result<Properties, OperationError> {
        change_topic(&properties(current), &[(name.to_string(), operation)])
    }

    #[test]
    fn steps_set_delete_append_and_subtract() {
        let set = changed(&[("a", "1")], "b", Operation::Set("2".to_string()));
        assert_eq!(set, Ok(properties(&[("a", "1"), ("b", "2")])));
        assert_eq!(changed(&[("a", "1")], "a", Operation::Delete), Ok(Properties::new()));
        let append = |text: &str| Operation::Append(text.to_string());
        let subtract = |text: &str| Operation::Subtract(text.to_string());
        // An append starts from the built-in default, and does not repeat what is there.
        assert_eq!(
            changed(&[], "cleanup.policy", append("compact")),
            Ok(properties(&[("cleanup.policy", "delete,compact")]))
        );
        assert_eq!(
            changed(&[("cleanup.policy", "compact")], "cleanup.policy", append("delete,compact")),
            Ok(properties(&[("cleanup.policy", "compact,delete")]))
        );
        assert_eq!(
            changed(&[("cleanup.policy", "compact,delete")], "cleanup.policy", subtract("compact")),
            Ok(properties(&[("cleanup.policy", "delete")]))
        );
        assert_eq!(
            changed(&[], "retention.ms", append("1")).map_err(|error| error.to_string()),
            Err("Config value append is not allowed for config key: retention.ms".to_string())
        );
        assert_eq!(
            changed(&[], "retention.ms", subtract("1")).map_err(|error| error.to_string()),
            Err("Config value subtract is not allowed for config key: retention.ms".to_string())
        );
        assert!(matches!(changed(&[], "made.up", append("1")), Err(OperationError::UnknownName(_))));
    }

    #[test]
    fn changes_of_a_broker_are_refused_with_kafkas_words() {
        #[rustfmt::skip]
        let cases = [
            (Scope::Broker, "num.partitions", "2", "Cannot update these configs dynamically: Set(num.partitions)"),
            (Scope::Broker, "ssl.keystore.location", "/x", "These security configs can be dynamically updated only per-listener using the listener prefix: Set(ssl.keystore.location)"),
            (Scope::ClusterDefault, "listeners", "PLAINTEXT://:1", "Cannot update these configs at default cluster level, broker id must be specified: Set(listeners)"),
            (Scope::ClusterDefault, "listener.name.a.ssl.client.auth", "none", "Cannot update these configs at default cluster level, broker id must be specified: Set(listener.name.a.ssl.client.auth)"),
            (Scope::Broker, "message.max.bytes", "-1", "Invalid value -1 for configuration message.max.bytes: Value must be at least 0"),
            (Scope::Broker, "log.retention.ms", "0", "requirement failed: log.retention.ms must be unlimited (-1) or, greater than or equal to 1"),
            (Scope::Broker, "listener.name.a.scram-sha-256.sasl.jaas.config", "secret", "Odradek does not support listener.name.a.scram-sha-256.sasl.jaas.config=[hidden] yet: this setting cannot be changed at run time; set it in server.properties and restart"),
            (Scope::Broker, "listener.name.a.plain.connections.max.reauth.ms", "x", "Invalid value x for configuration connections.max.reauth.ms: Not a number of type LONG"),
            (Scope::Broker, "num.network.threads", "4", "Odradek does not support num.network.threads=4 yet: this setting cannot be changed at run time; set it in server.properties and restart"),
            (Scope::ClusterDefault, "max.connections", "0", "Invalid value org.apache.kafka.common.config.ConfigException: Invalid max.connections 0 for configuration Invalid dynamic configuration"),
            (Scope::Broker, "listener.name.plaintext.max.connection.creation.rate", "0", "Invalid value org.apache.kafka.common.config.ConfigException: Invalid max.connection.creation.rate 0 for configuration Invalid dynamic configuration"),
            (Scope::Broker, "num.io.threads", "17", "Invalid value org.apache.kafka.common.config.ConfigException: Dynamic thread count update validation failed for num.io.threads=17, value should not be greater than double the current value 8 for configuration Invalid dynamic configuration"),
            (Scope::Broker, "num.io.threads", "3", "Invalid value org.apache.kafka.common.config.ConfigException: Dynamic thread count update validation failed for num.io.threads=3, value should be at least half the current value 8 for configuration Invalid dynamic configuration"),
            (Scope::Broker, "log.cleaner.threads", "3", "Invalid value org.apache.kafka.common.config.ConfigException: Log cleaner threads cannot be increased to more than double the current value 1 for configuration Invalid dynamic configuration"),
        ];
        for (scope, name, value, expected) in cases {
            let refusal = validate_broker(&config(), &properties(&[(name, value)]), scope).expect_err(name);
            assert_eq!(refusal.to_string(), expected);
        }
    }

    #[test]
    fn the_defaults_of_topics_may_change_and_what_is_stored_may_stay() {
        let allowed = properties(&[
            ("log.retention.ms", "5"),
            ("min.insync.replicas", "2"),
            ("max.connections.per.ip", "3"),
            ("listener.name.plaintext.max.connections", "3"),
            ("producer.id.expiration.ms", "1000"),
            ("made.up", "x"),
        ]);
        assert_eq!(validate_broker(&config(), &allowed, Scope::ClusterDefault), Ok(()));
        assert_eq!(validate_broker(&config(), &allowed, Scope::Broker), Ok(()));
        let stored = properties(&[("num.network.threads", "9")]);
        let config = config().with_dynamic(&Properties::new(), &stored).expect("valid");
        let both = properties(&[("num.network.threads", "9"), ("message.max.bytes", "7")]);
        assert_eq!(validate_broker(&config, &both, Scope::Broker), Ok(()));
        assert!(validate_broker(&config, &both, Scope::ClusterDefault).is_err());
    }

    /// Every setting that Kafka changes at run time either changes something here, or is refused by its name.
    #[test]
    fn each_dynamic_setting_is_acted_on_or_refused() {
        #[rustfmt::skip]
        let acted_on = [
            ("advertised.listeners", "PLAINTEXT://h:1"), ("background.threads", "11"), ("compression.gzip.level", "3"), ("compression.lz4.level", "3"),
            ("follower.replication.throttled.rate", "7"), ("leader.replication.throttled.rate", "7"),
            ("compression.type", "zstd"), ("compression.zstd.level", "4"),
            ("log.cleaner.backoff.ms", "7"), ("log.cleaner.dedupe.buffer.size", "7777777"),
            ("log.cleaner.delete.retention.ms", "7"), ("log.cleaner.io.buffer.load.factor", "0.7"),
            ("log.cleaner.io.buffer.size", "7777"), ("log.cleaner.io.max.bytes.per.second", "7"),
            ("log.cleaner.max.compaction.lag.ms", "7"), ("log.cleaner.min.cleanable.ratio", "0.7"),
            ("log.cleaner.min.compaction.lag.ms", "7"), ("log.cleaner.threads", "2"),
            ("log.cleanup.policy", "compact"), ("log.flush.interval.messages", "7"), ("log.flush.interval.ms", "7"),
            ("log.index.interval.bytes", "7"), ("log.index.size.max.bytes", "77"),
            ("log.message.downconversion.enable", "false"), ("log.message.timestamp.after.max.ms", "7"),
            ("log.message.timestamp.before.max.ms", "7"), ("log.message.timestamp.difference.max.ms", "7"),
            ("log.message.timestamp.type", "LogAppendTime"), ("log.preallocate", "true"), ("log.retention.bytes", "7"),
            ("log.retention.ms", "7"), ("log.roll.jitter.ms", "7"), ("log.roll.ms", "7"), ("log.segment.bytes", "77"),
            ("log.segment.delete.delay.ms", "7"), ("max.connection.creation.rate", "7"), ("max.connections", "7"),
            ("max.connections.per.ip", "7"), ("max.connections.per.ip.overrides", "127.0.0.1:7"),
            ("message.max.bytes", "7"), ("min.insync.replicas", "2"), ("num.io.threads", "7"),
            ("num.recovery.threads.per.data.dir", "2"), ("num.replica.fetchers", "2"), ("producer.id.expiration.ms", "7"),
            ("replica.alter.log.dirs.io.max.bytes.per.second", "7"),
            ("transaction.partition.verification.enable", "false"), ("unclean.leader.election.enable", "true"),
        ];
        let parts = |config: &KafkaConfig| {
            let addresses = config.advertised_listeners().to_vec();
            let replicas = config.replica_config();
            (
                config.log_dirs_config(),
                config.cleaner_config(),
                config.socket_config(),
                config.controller_config(),
                replicas,
                addresses,
                config.transaction_partition_verification_enable(),
            )
        };
        for (name, value) in acted_on {
            let set = properties(&[(name, value)]);
            let of_all = validate_broker(&config(), &set, Scope::ClusterDefault);
            assert_eq!(of_all.is_ok(), !is_per_broker(name), "{name}: {of_all:?}");
            assert_eq!(validate_broker(&config(), &set, Scope::Broker), Ok(()), "{name}");
            let changed = config().with_dynamic(&Properties::new(), &set).expect("valid");
            assert!(parts(&changed) != parts(&config()) || name == "background.threads", "{name}");
        }
        let is_acted_on = |name: &str| acted_on.iter().any(|(acted_on, _)| *acted_on == name);
        let dynamic = keys::SERVER.iter().chain(DYNAMIC_ONLY).filter(|setting| setting.update != Update::ReadOnly);
        let others = dynamic.filter(|setting| !is_acted_on(setting.name));
        for setting in others {
            if OF_TICKETS.contains(&setting.name) {
                continue;
            }
            let value = setting.default.filter(|value| !value.is_empty()).unwrap_or("PLAINTEXT://:9092");
            let refusal = validate_broker(&config(), &properties(&[(setting.name, value)]), Scope::Broker);
            let refusal = refusal.expect_err(setting.name).to_string();
            assert!(refusal.contains(setting.name), "{refusal}");
        }
    }

    #[test]
    fn renewal_of_tickets_that_nobody_has_may_be_set_and_is_named() {
        let set = properties(&[("sasl.kerberos.min.time.before.relogin", "58000")]);
        assert_eq!(validate_broker(&config(), &set, Scope::Broker), Ok(()));
        let (used, complaints) = usable(&set, Scope::Broker);
        assert_eq!(used, set);
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].contains("sasl.kerberos.min.time.before.relogin"), "{complaints:?}");
    }

    #[test]
    fn stored_settings_that_cannot_be_used_are_left_out() {
        let stored = properties(&[
            ("message.max.bytes", "x"),
            ("log.retention.ms", "5"),
            ("num.partitions", "3"),
            ("listeners", "PLAINTEXT://:1"),
            ("ssl.truststore.location", "/x"),
            ("listener.name.a.ssl.keystore.password", "encrypted"),
            ("plug.in", "kept"),
        ]);
        let (used, complaints) = usable(&stored, Scope::ClusterDefault);
        assert_eq!(used, properties(&[("log.retention.ms", "5"), ("plug.in", "kept")]));
        assert_eq!(complaints.len(), 5);
        assert!(usable(&stored, Scope::Broker).0.contains_key("listeners"));
        // A JVM broker has a use for the password of its own listener alone.
        assert_eq!(encrypted(&stored, Scope::ClusterDefault), Properties::new());
        let password = properties(&[("listener.name.a.ssl.keystore.password", "encrypted")]);
        assert_eq!(encrypted(&stored, Scope::Broker), password);
    }

    #[test]
    fn a_stored_setting_that_is_not_supported_or_contradicts_the_rest_costs_the_others_nothing() {
        let default = properties(&[("log.retention.ms", "-1"), ("metric.reporters", "com.example.R")]);
        let broker = properties(&[
            ("listeners", "SSL://:1"),
            ("max.connections.per.ip", "0"),
            ("message.max.bytes", "7"),
            ("metric.reporters", "com.example.S"),
        ]);
        // Two contradictions at once: neither alone is to blame.
        assert!(under_stored(&config(), &default, &broker).is_err());

        let broker = broker.into_iter().filter(|(name, _)| name != "max.connections.per.ip").collect();
        let (config_now, complaints) = under_stored(&config(), &default, &broker).expect("each is found");
        assert_eq!(config_now.dynamic_default(), &properties(&[("log.retention.ms", "-1")]));
        assert_eq!(config_now.dynamic_broker(), &properties(&[("message.max.bytes", "7")]));
        let named = |name: &str| complaints.iter().filter(|line| line.contains(&format!("setting {name} "))).count();
        assert_eq!((complaints.len(), named("listeners"), named("metric.reporters")), (3, 1, 2), "{complaints:?}");

        // What makes another thing of a listener of the file is left out, and with it whatever else does.
        let map = properties(&[("listener.security.protocol.map", "PLAINTEXT:SSL"), ("log.retention.ms", "-1")]);
        let (config_now_too, complaints) = under_stored(&config(), &Properties::new(), &map).expect("it is found");
        assert_eq!(config_now_too.dynamic_broker(), &properties(&[("log.retention.ms", "-1")]));
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        let both = map.into_iter().chain([("listeners".to_owned(), "PLAINTEXT://:1".to_owned())]).collect();
        let (config_now_too, complaints) = under_stored(&config(), &Properties::new(), &both).expect("they are found");
        assert_eq!(config_now_too.unsupported().len(), 0, "{complaints:?}");

        // While the broker runs, what it was is safer than what the file says.
        let contradicting = properties(&[("log.retention.ms", "0"), ("log.segment.bytes", "77")]);
        let (later, complaints) =
            under_stored(&config_now, &contradicting, &Properties::new()).expect("one is to blame");
        let kept = properties(&[("log.retention.ms", "-1"), ("log.segment.bytes", "77")]);
        assert_eq!((later.dynamic_default(), complaints.len()), (&kept, 1));
        let (at_start, complaints) =
            under_stored(&config(), &contradicting, &Properties::new()).expect("one is to blame");
        assert_eq!(at_start.dynamic_default(), &properties(&[("log.segment.bytes", "77")]));
        assert_eq!(
            complaints,
            [
                "the stored setting log.retention.ms of a broker is ignored: requirement failed: log.retention.ms must be \
              unlimited (-1) or, greater than or equal to 1"
            ]
        );
    }
}
