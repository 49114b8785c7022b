//! Whole configurations: their checks, their layers, and the sections that follow.
use std::path::PathBuf;

use super::definition::{ConfigError, Value};
use super::kafka_config::KafkaConfig;
use super::keys::{DROPPED_IN_3_0, OWN, SERVER};
use super::log::LogConfig;
use super::metadata_version::MetadataVersion;
use super::properties::Properties;
use super::sections::{ControllerConfig, GroupConfig, LogDirsConfig, ReplicaConfig, SocketConfig, ZooKeeperConfig};

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
    let rows = include_str!("../../tests/golden/config/startup-3.9.1.tsv").lines().filter(|row| !row.starts_with('#'));
    let mut count = 0;
    for row in rows {
        let columns: Vec<&str> = row.split('\t').collect();
        let [settings, class, message] = columns[..] else { panic!("three columns: {row}") };
        let pairs: Vec<(&str, &str)> = settings.split("||").filter_map(|pair| pair.split_once('=')).collect();
        let error = refusal(&pairs);
        assert_eq!((error.to_string().as_str(), error.java_class()), (message, class), "{settings}");
        count += 1;
    }
    assert_eq!(count, 47);
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
        &[("replica.selector.class", "com.example.Selector")],
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
    // What a topic says counts up to the protocol, and from 3.0 on not at all.
    let of_topic = |broker: &[(&str, &str)], version: &str| {
        let topic = [("message.format.version".to_owned(), version.to_owned())].into();
        defaults(broker).with_overrides(&topic).expect("a version").message_format_version
    };
    assert_eq!(of_topic(&old, "2.4"), MetadataVersion::V2_4_IV1);
    assert_eq!(of_topic(&old, "3.0"), MetadataVersion::V0_10_2_IV0);
    assert_eq!(of_topic(&[("inter.broker.protocol.version", "3.0")], "0.10.2"), MetadataVersion::V3_0_IV1);
    let dirs = config(&[("log.dirs", "/a, /b,,"), ("log.dir", "/c")]).log_dirs_config().dirs;
    assert_eq!(dirs, [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert_eq!(config(&[("zookeeper.connection.timeout.ms", "5")]).zookeeper_config().connection_timeout_ms, 5);
}

/// Each of them, beside `listeners` and without, leaves the broker where a 3.9 broker would be.
#[test]
fn what_3_0_dropped_has_no_effect_and_is_named() {
    let values = [
        ("advertised.host.name", "a"),
        ("advertised.port", "9999"),
        ("host.name", "h"),
        ("port", "no number"),
        ("quota.consumer.default", "-1"),
        ("quota.producer.default", "-1"),
        ("zookeeper.sync.time.ms", "x"),
    ];
    assert_eq!(values.map(|(name, _)| name), DROPPED_IN_3_0.map(|(name, _)| name));
    let alone = config(&values);
    assert_eq!(alone.listeners()[0].to_string(), "PLAINTEXT://:9092");
    assert_eq!(alone.advertised_listeners(), alone.listeners());
    let beside = config(&[&values[..], &[("listeners", "PLAINTEXT://n:1")]].concat());
    assert_eq!(beside.listeners()[0].to_string(), "PLAINTEXT://n:1");
    assert_eq!(beside.advertised_listeners(), beside.listeners());
    assert_eq!(
        beside.warnings(),
        ["These settings left Kafka with 3.0 and have no effect, as on a broker of 3.9 (in brackets what does their \
          work): advertised.host.name (advertised.listeners), advertised.port (advertised.listeners), host.name \
          (listeners), port (listeners), quota.consumer.default (a default quota, set with kafka-configs.sh), \
          quota.producer.default (a default quota, set with kafka-configs.sh), zookeeper.sync.time.ms (nothing: it was \
          without effect)"]
    );
    assert!(!beside.to_log_text().contains("host.name ="));
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
    assert_eq!(lines.len(), 1 + SERVER.len() + OWN.len());
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
        ("ssl.protocol", "TLSv1.2"),
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
             quota.window.num, ssl.protocol",
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
