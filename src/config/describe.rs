//! What DescribeConfigs tells of a topic or a broker: each setting with its value, where the value comes from, and
//! every place that sets it, the strongest first.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/ConfigHelper.scala, core/src/main/scala/kafka/server/DynamicBrokerConfig.scala.

use std::collections::BTreeSet;

use super::definition::{ConfigType, Setting, Update};
use super::kafka_config::{KafkaConfig, is_sensitive};
use super::keys::{self, SERVER, server_setting, setting_behind};
use super::properties::Properties;
use super::topic_settings::{self, TOPIC, topic_setting};

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    Topic,
    DynamicBroker,
    DynamicDefaultBroker,
    StaticBroker,
    Default,
}

impl ConfigSource {
    /// The number of the source on the wire.
    pub fn id(self) -> i8 {
        match self {
            ConfigSource::Topic => 1,
            ConfigSource::DynamicBroker => 2,
            ConfigSource::DynamicDefaultBroker => 3,
            ConfigSource::StaticBroker => 4,
            ConfigSource::Default => 5,
        }
    }
}

/// One setting of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    pub name: String,
    /// None where it is null, or may not be shown.
    pub value: Option<String>,
    pub source: ConfigSource,
    pub is_sensitive: bool,
    pub read_only: bool,
    /// Strongest first; the value in force comes from the first.
    pub synonyms: Vec<Synonym>,
    /// None for a name that is not declared.
    pub config_type: Option<ConfigType>,
    pub documentation: Option<&'static str>,
}

/// One place that sets the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synonym {
    pub name: String,
    pub value: Option<String>,
    pub source: ConfigSource,
}

/// The settings of a topic whose own ones are `overrides`, sorted by name.
pub fn describe_topic(config: &KafkaConfig, overrides: &Properties) -> Vec<ConfigEntry> {
    let defaults = config.topic_defaults();
    let names: BTreeSet<&str> =
        TOPIC.iter().map(|setting| setting.name).chain(overrides.keys().map(String::as_str)).collect();
    names
        .into_iter()
        .map(|name| {
            let setting = topic_setting(name);
            let config_type = setting.map(|setting| setting.config_type);
            let is_sensitive = is_sensitive(config_type);
            let value = match overrides.get(name) {
                _ if is_sensitive => None,
                // What is stored but does not parse is shown as it stands, so that it can be found and removed.
                Some(text) => setting.map(|setting| match setting.parse(text) {
                    Ok(value) => value.to_text().unwrap_or_default(),
                    Err(_) => text.clone(),
                }),
                None => defaults.text_of(name),
            };
            let mut synonyms = match topic_settings::broker_twins(name).first() {
                Some(twin) => broker_synonyms(config, twin, is_sensitive),
                None => Vec::new(),
            };
            if overrides.contains_key(name) {
                let own = Synonym { name: name.to_string(), value: value.clone(), source: ConfigSource::Topic };
                synonyms.insert(0, own);
            }
            entry(name, value, is_sensitive, false, synonyms, setting)
        })
        .collect()
}

/// The settings of this broker, sorted by name.
pub fn describe_broker(config: &KafkaConfig) -> Vec<ConfigEntry> {
    let declared = SERVER.iter().filter(|setting| !setting.internal).map(|setting| setting.name);
    let names: BTreeSet<&str> = declared.chain(config.originals().keys().map(String::as_str)).collect();
    names
        .into_iter()
        .map(|name| {
            let value = match config.value_of(name) {
                Some(value) => value.to_text(),
                None => config.originals().get(name).cloned(),
            };
            broker_entry(config, name, value, |_| true)
        })
        .collect()
}

/// The defaults for all brokers, as far as they are set dynamically.
pub fn describe_default_broker(config: &KafkaConfig) -> Vec<ConfigEntry> {
    config
        .dynamic_default()
        .iter()
        .map(|(name, text)| {
            let of_default = |synonym: &Synonym| synonym.source == ConfigSource::DynamicDefaultBroker;
            broker_entry(config, name, Some(text.clone()), of_default)
        })
        .collect()
}

fn broker_entry(
    config: &KafkaConfig,
    name: &str,
    value: Option<String>,
    is_wanted: impl Fn(&Synonym) -> bool,
) -> ConfigEntry {
    let setting = setting_behind(name);
    let is_sensitive = is_sensitive(setting.map(|setting| setting.config_type));
    let value = if is_sensitive { None } else { value };
    let mut synonyms = broker_synonyms(config, name, is_sensitive);
    synonyms.retain(is_wanted);
    // A name with a listener prefix counts as read-only, whatever stands behind the prefix.
    let read_only = server_setting(name).is_none_or(|setting| setting.update == Update::ReadOnly);
    entry(name, value, is_sensitive, read_only, synonyms, setting)
}

/// Every place that sets a broker setting or one of its family: by layer first, by precedence in the family second.
fn broker_synonyms(config: &KafkaConfig, name: &str, is_sensitive: bool) -> Vec<Synonym> {
    let family = keys::synonyms(name);
    let layers = [
        (config.dynamic_broker(), ConfigSource::DynamicBroker),
        (config.dynamic_default(), ConfigSource::DynamicDefaultBroker),
        (config.static_properties(), ConfigSource::StaticBroker),
    ];
    let set = layers.into_iter().flat_map(|(layer, source)| {
        family.iter().filter_map(move |member| Some((*member, layer.get(*member)?.clone(), source)))
    });
    let defaults = family.iter().filter_map(|member| {
        let default = server_setting(member)?.default_value().to_text()?;
        Some((*member, default, ConfigSource::Default))
    });
    set.chain(defaults)
        // What only weaker members of the family set is not the value of this one.
        .skip_while(|(member, _, _)| *member != name)
        .map(|(member, value, source)| Synonym {
            name: member.to_string(),
            value: (!is_sensitive).then_some(value),
            source,
        })
        .collect()
}

fn entry(
    name: &str,
    value: Option<String>,
    is_sensitive: bool,
    read_only: bool,
    synonyms: Vec<Synonym>,
    setting: Option<&'static Setting>,
) -> ConfigEntry {
    ConfigEntry {
        name: name.to_string(),
        value,
        source: synonyms.first().map_or(ConfigSource::Default, |synonym| synonym.source),
        is_sensitive,
        read_only,
        synonyms,
        config_type: setting.map(|setting| setting.config_type),
        documentation: setting.map(|setting| setting.documentation),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(pairs: &[(&str, &str)]) -> Properties {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn config(pairs: &[(&str, &str)]) -> KafkaConfig {
        let mut all = properties(pairs);
        all.insert("zookeeper.connect".to_string(), "localhost:2181".to_string());
        KafkaConfig::from_properties(&all).expect("valid")
    }

    fn find(entries: Vec<ConfigEntry>, name: &str) -> ConfigEntry {
        entries.into_iter().find(|entry| entry.name == name).unwrap_or_else(|| panic!("{name} is described"))
    }

    fn synonyms(entry: &ConfigEntry) -> Vec<(&str, Option<&str>, ConfigSource)> {
        entry.synonyms.iter().map(|s| (s.name.as_str(), s.value.as_deref(), s.source)).collect()
    }

    const GOLDEN: &str = include_str!("../../tests/golden/config/describe-3.9.1.tsv");

    fn golden_settings(kind: &str) -> Properties {
        let header = format!("# {kind}\t");
        let line = GOLDEN.lines().find_map(|line| line.strip_prefix(&header)).expect("the file names its settings");
        line.split("||").filter_map(|pair| pair.split_once('=')).map(|(n, v)| (n.to_string(), v.to_string())).collect()
    }

    fn golden(kind: &str) -> Vec<&'static str> {
        GOLDEN.lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix('\t')).collect()
    }

    fn row(entry: &ConfigEntry) -> String {
        let text = |value: &Option<String>| value.clone().unwrap_or("null".to_string());
        let synonyms: Vec<String> =
            entry.synonyms.iter().map(|s| format!("{}={}:{}", s.name, text(&s.value), s.source.id())).collect();
        let config_type = entry.config_type.map_or(0, |config_type| config_type.id());
        format!(
            "{}\t{}\t{}\t{}\t{}\t{config_type}\t{}",
            entry.name,
            text(&entry.value),
            entry.source.id(),
            entry.is_sensitive,
            entry.read_only,
            synonyms.join(" ")
        )
    }

    /// Values, sources, flags, types and synonyms of every setting, against what a 3.9.1 broker answers.
    #[test]
    fn everything_is_described_as_kafka_describes_it() {
        let config = KafkaConfig::from_properties(&golden_settings("settings")).expect("valid");
        let broker: Vec<String> = describe_broker(&config).iter().map(row).collect();
        for (ours, theirs) in broker.iter().zip(golden("broker")) {
            assert_eq!(ours, theirs);
        }
        assert_eq!(broker.len(), golden("broker").len());
        let topic: Vec<String> = describe_topic(&config, &golden_settings("topic settings")).iter().map(row).collect();
        assert_eq!(topic, golden("topic"));
    }

    #[test]
    fn every_value_is_logged_as_kafka_logs_it() {
        let config = KafkaConfig::from_properties(&golden_settings("settings")).expect("valid");
        let text = config.to_log_text();
        let lines = text.lines().skip(1).map(|line| line.trim_start_matches('\t'));
        // Kafka has none of our own; they are in the list all the same.
        let is_own = |line: &&str| keys::OWN.iter().any(|own| line.starts_with(&format!("{} = ", own.name)));
        let (own, ours): (Vec<&str>, Vec<&str>) = lines.partition(is_own);
        assert_eq!(ours, golden("value"));
        assert_eq!(own.len(), keys::OWN.len());
    }

    #[test]
    fn a_topic_lists_its_own_value_before_the_brokers() {
        let config = config(&[("message.max.bytes", "2000000")])
            .with_dynamic(&properties(&[("message.max.bytes", "3000000")]), &Properties::new())
            .expect("valid");
        let entry = find(describe_topic(&config, &properties(&[("max.message.bytes", " 17 ")])), "max.message.bytes");
        assert_eq!(entry.value.as_deref(), Some("17"));
        assert_eq!(entry.source, ConfigSource::Topic);
        assert_eq!(
            synonyms(&entry),
            [
                ("max.message.bytes", Some("17"), ConfigSource::Topic),
                ("message.max.bytes", Some("3000000"), ConfigSource::DynamicDefaultBroker),
                ("message.max.bytes", Some("2000000"), ConfigSource::StaticBroker),
                ("message.max.bytes", Some("1048588"), ConfigSource::Default),
            ]
        );
        assert!(!entry.read_only && !entry.is_sensitive);
        let plain = find(describe_topic(&config, &Properties::new()), "max.message.bytes");
        assert_eq!(plain.value.as_deref(), Some("3000000"));
        assert_eq!(plain.source, ConfigSource::DynamicDefaultBroker);
    }

    /// Kafka shows no synonyms for retention.ms while only log.retention.hours is set.
    #[test]
    fn what_only_a_weaker_member_of_the_family_sets_is_not_listed() {
        let config = config(&[("log.retention.hours", "24")]);
        let entry = find(describe_topic(&config, &Properties::new()), "retention.ms");
        assert_eq!(entry.value.as_deref(), Some("86400000"));
        assert_eq!((entry.source, entry.synonyms.len()), (ConfigSource::Default, 0));
        let hours = find(describe_broker(&config), "log.retention.hours");
        assert_eq!(
            synonyms(&hours),
            [
                ("log.retention.hours", Some("24"), ConfigSource::StaticBroker),
                ("log.retention.hours", Some("168"), ConfigSource::Default),
            ]
        );
        let ms = find(describe_broker(&config), "log.retention.ms");
        assert_eq!((ms.value, ms.source), (None, ConfigSource::Default));
    }

    #[test]
    fn what_is_unknown_or_a_password_is_not_shown() {
        let config = config(&[("made.up", "secret"), ("ssl.keystore.password", "secret")]);
        for name in ["made.up", "ssl.keystore.password"] {
            let entry = find(describe_broker(&config), name);
            assert!(entry.is_sensitive && entry.value.is_none(), "{name}");
            assert!(entry.synonyms.iter().all(|synonym| synonym.value.is_none()), "{name}");
        }
        assert_eq!(find(describe_broker(&config), "made.up").config_type, None);
        let topic = find(describe_topic(&config, &properties(&[("from.the.future", "x")])), "from.the.future");
        assert!(topic.is_sensitive && topic.value.is_none());
    }

    #[test]
    fn a_broker_tells_what_may_change_at_run_time() {
        let entries = describe_broker(&config(&[]));
        let read_only = |name: &str| find(entries.clone(), name).read_only;
        assert!(read_only("num.partitions") && !read_only("message.max.bytes") && !read_only("listeners"));
        assert!(entries.iter().all(|entry| entry.name != "log.initial.task.delay.ms"), "internal settings are hidden");
        let set = config(&[("log.initial.task.delay.ms", "1")]);
        assert_eq!(find(describe_broker(&set), "log.initial.task.delay.ms").value.as_deref(), Some("1"));
    }

    #[test]
    fn the_default_broker_has_only_what_was_set_for_all() {
        let config = config(&[("message.max.bytes", "1")])
            .with_dynamic(&properties(&[("message.max.bytes", "2")]), &properties(&[("message.max.bytes", "3")]))
            .expect("valid");
        let entries = describe_default_broker(&config);
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].value.as_deref(), Some("2"));
        assert_eq!(synonyms(&entries[0]), [("message.max.bytes", Some("2"), ConfigSource::DynamicDefaultBroker)]);
    }
}
