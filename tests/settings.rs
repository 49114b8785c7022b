//! Settings of topics and brokers: described, changed while the broker runs, kept over a restart, refused in Kafka's
//! words; and what a configuration file may not say.

mod support;

use std::collections::BTreeMap;

use odradek::protocol::messages::alter_configs::AlterableConfig as LegacyConfig;
use odradek::protocol::messages::alter_configs::{AlterConfigsRequest, AlterConfigsResource as LegacyResource};
use odradek::protocol::messages::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult,
};
use odradek::protocol::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use odradek::protocol::messages::init_producer_id::InitProducerIdRequest;
use odradek::record::compression::Codec;
use odradek_zookeeper::session::ZooKeeper as Session;
use odradek_zookeeper::settings::Settings;
use odradek_zookeeper::znode::config::ConfigEntity;
use support::client::{Client, batch};
use support::{Broker, Cluster, Kind, PATIENCE, Process, Scratch, ZooKeeper, eventually, tied};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;

const DYNAMIC_TOPIC: i8 = 1;
const DYNAMIC_BROKER: i8 = 2;
const DYNAMIC_DEFAULT_BROKER: i8 = 3;
const DEFAULT: i8 = 5;

const MESSAGE_TOO_LARGE: i16 = 10;
const INVALID_CONFIG: i16 = 40;
const INVALID_REQUEST: i16 = 42;

fn describe(client: &mut Client, kind: i8, name: &str, version: i16) -> Vec<DescribeConfigsResourceResult> {
    let resource =
        DescribeConfigsResource { resource_type: kind, resource_name: name.to_owned(), configuration_keys: None };
    let request = DescribeConfigsRequest {
        resources: vec![resource],
        include_synonyms: version >= 1,
        include_documentation: version >= 3,
    };
    let response = client.call(&request, version).expect("the broker answers DescribeConfigs");
    let result = response.results.into_vec().remove(0);
    assert_eq!(result.error_code, 0, "{result:?}");
    result.configs
}

/// The value and where it comes from.
fn setting(client: &mut Client, kind: i8, name: &str, key: &str) -> Option<(Option<String>, i8)> {
    let found = describe(client, kind, name, 4).into_iter().find(|config| config.name == key)?;
    Some((found.value, found.config_source))
}

fn change(client: &mut Client, kind: i8, name: &str, steps: &[(&str, i8, Option<&str>)]) -> (i16, Option<String>) {
    let configs = steps
        .iter()
        .map(|(name, operation, value)| AlterableConfig {
            name: (*name).to_owned(),
            config_operation: *operation,
            value: value.map(str::to_owned),
        })
        .collect();
    let resource = AlterConfigsResource { resource_type: kind, resource_name: name.to_owned(), configs };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
    let mut response = client.call(&request, 1).expect("the broker answers IncrementalAlterConfigs");
    let result = response.responses.remove(0);
    (result.error_code, result.error_message)
}

fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

/// Waits until the logs obey: a batch of this size is taken or refused.
fn until_produced(client: &mut Client, topic: &str, bytes: usize, expected: Result<(), i16>) {
    eventually(PATIENCE, &format!("a batch of {bytes} bytes ends with {expected:?}"), || {
        let produced = client.produce(topic, 0, batch(Codec::None, ["x".repeat(bytes)]));
        let outcome = produced.map_err(|error| error.to_string())?.map(|_| ());
        if outcome == expected { Ok(()) } else { Err(format!("{outcome:?}")) }
    });
}

#[test]
fn settings_change_while_the_broker_runs_and_outlive_it() {
    let mut cluster = Cluster::start("settings", "");
    let client = &mut cluster.broker.client();
    client.create_topic("t", 1, &[("retention.ms", "1000000")]);
    assert_eq!(setting(client, TOPIC, "t", "retention.ms"), Some((text("1000000"), DYNAMIC_TOPIC)));
    assert_eq!(setting(client, TOPIC, "t", "max.message.bytes"), Some((text("1048588"), DEFAULT)));

    // Every version tells the same values.
    let values = |client: &mut Client, version| {
        let mut pairs: Vec<_> = describe(client, TOPIC, "t", version).into_iter().map(|c| (c.name, c.value)).collect();
        pairs.sort();
        pairs
    };
    let newest = values(client, 4);
    assert!(newest.len() >= 25, "{newest:?}");
    for version in 0..4 {
        assert_eq!(values(client, version), newest, "version {version}");
    }

    // A topic's change reaches its log.
    until_produced(client, "t", 5000, Ok(()));
    assert_eq!(change(client, TOPIC, "t", &[("max.message.bytes", SET, Some("4000"))]), (0, None));
    until_produced(client, "t", 5000, Err(MESSAGE_TOO_LARGE));
    assert_eq!(change(client, TOPIC, "t", &[("cleanup.policy", APPEND, Some("compact"))]), (0, None));
    assert_eq!(setting(client, TOPIC, "t", "cleanup.policy"), Some((text("delete,compact"), DYNAMIC_TOPIC)));
    let back = [("max.message.bytes", DELETE, None), ("cleanup.policy", DELETE, None)];
    assert_eq!(change(client, TOPIC, "t", &back), (0, None));
    until_produced(client, "t", 5000, Ok(()));

    // So does a change of the default of all brokers, and it is there again after a restart.
    assert_eq!(change(client, BROKER, "", &[("message.max.bytes", SET, Some("3000"))]), (0, None));
    until_produced(client, "t", 5000, Err(MESSAGE_TOO_LARGE));
    cluster.broker.stop();
    cluster.start_broker(Kind::under_test());
    let client = &mut cluster.broker.client();
    client.until_led("t", 1);
    let default = Some((text("3000"), DYNAMIC_DEFAULT_BROKER));
    assert_eq!(setting(client, BROKER, "0", "message.max.bytes"), default);
    assert_eq!(setting(client, TOPIC, "t", "max.message.bytes"), default);
    assert_eq!(setting(client, TOPIC, "t", "retention.ms"), Some((text("1000000"), DYNAMIC_TOPIC)));
    until_produced(client, "t", 5000, Err(MESSAGE_TOO_LARGE));

    // The older request replaces all settings of the topic.
    let configs = vec![LegacyConfig { name: "max.message.bytes".to_owned(), value: text("9000") }];
    let resource = LegacyResource { resource_type: TOPIC, resource_name: "t".to_owned(), configs };
    let request = AlterConfigsRequest { resources: vec![resource], validate_only: false };
    let response = client.call(&request, 0).expect("the broker answers AlterConfigs");
    assert_eq!(response.responses[0].error_code, 0);
    until_produced(client, "t", 5000, Ok(()));
    // Without its own value it has the broker's, log.retention.hours=-1.
    assert_eq!(setting(client, TOPIC, "t", "retention.ms").and_then(|(value, _)| value), text("-1"));
}

#[test]
fn changes_of_the_same_settings_at_once_all_count() {
    const KEYS: [&str; 6] =
        ["retention.ms", "segment.ms", "flush.ms", "max.message.bytes", "segment.bytes", "file.delete.delay.ms"];
    const BROKER_KEYS: [&str; 6] = [
        "log.retention.ms",
        "log.roll.ms",
        "log.flush.interval.ms",
        "message.max.bytes",
        "log.segment.bytes",
        "log.segment.delete.delay.ms",
    ];
    let cluster = Cluster::start("settings-at-once", "");
    let client = &mut cluster.broker.client();
    client.create_topic("t", 1, &[]);
    for (kind, name, keys) in [(TOPIC, "t", KEYS), (BROKER, "", BROKER_KEYS)] {
        for round in 0..10 {
            let value = (1_000_000 + round).to_string();
            std::thread::scope(|scope| {
                for key in keys {
                    let (mut client, value) = (cluster.broker.client(), &value);
                    scope.spawn(move || {
                        assert_eq!(change(&mut client, kind, name, &[(key, SET, Some(value))]), (0, None), "{key}");
                    });
                }
            });
            for key in keys {
                eventually(PATIENCE, &format!("{key} is {value}"), || {
                    let found = setting(client, kind, name, key).and_then(|(found, _)| found);
                    if found.as_ref() == Some(&value) { Ok(()) } else { Err(format!("{found:?}")) }
                });
            }
        }
    }
}

#[test]
fn changes_are_refused_in_kafkas_words() {
    let cluster = Cluster::start("settings-refused", "");
    let client = &mut cluster.broker.client();
    client.create_topic("t", 1, &[]);
    let prefix = "Invalid config value for resource ConfigResource(type=TOPIC, name='t'): ";
    let of_topic =
        |client: &mut Client, name, operation, value| change(client, TOPIC, "t", &[(name, operation, value)]);
    assert_eq!(
        of_topic(client, "segment.bytes", SET, Some("1")),
        (
            INVALID_CONFIG,
            Some(format!("{prefix}Invalid value 1 for configuration segment.bytes: Value must be at least 14"))
        )
    );
    assert_eq!(
        of_topic(client, "segment", SET, Some("1")),
        (INVALID_CONFIG, text("Unknown topic config name: segment"))
    );
    assert_eq!(
        of_topic(client, "retention.ms", APPEND, Some("1")),
        (INVALID_CONFIG, text("Config value append is not allowed for config key: retention.ms"))
    );
    assert_eq!(
        of_topic(client, "retention.ms", SET, None),
        (INVALID_REQUEST, text("Null value not supported for : retention.ms"))
    );
    assert_eq!(
        change(client, BROKER, "0", &[("num.partitions", SET, Some("2"))]),
        (INVALID_REQUEST, text("Cannot update these configs dynamically: Set(num.partitions)"))
    );
    assert_eq!(
        change(client, BROKER, "7", &[("message.max.bytes", SET, Some("2"))]),
        (INVALID_REQUEST, text("Unexpected broker id, expected 0, but received 7"))
    );
    let why = "Invalid value org.apache.kafka.common.config.ConfigException: Dynamic thread count update validation failed \
               for num.io.threads=17, value should not be greater than double the current value 8 for configuration \
               Invalid dynamic configuration";
    assert_eq!(change(client, BROKER, "0", &[("num.io.threads", SET, Some("17"))]), (INVALID_REQUEST, text(why)));
    let (code, message) = change(client, BROKER, "0", &[("log.cleaner.threads", SET, Some("3"))]);
    let why = "Invalid value org.apache.kafka.common.config.ConfigException: Log cleaner threads cannot be increased to more \
               than double the current value 1 for configuration Invalid dynamic configuration";
    assert_eq!((code, message), (INVALID_REQUEST, text(why)));
    // A JVM broker may change these.
    if Kind::under_test() == Kind::Odradek {
        let (code, message) = change(client, BROKER, "0", &[("num.network.threads", SET, Some("4"))]);
        assert_eq!(code, INVALID_REQUEST);
        assert!(message.is_some_and(|text| text.contains("num.network.threads=4")));
    }
}

/// Whoever goes back to a JVM broker has its listeners still.
#[test]
fn passwords_that_a_jvm_broker_has_stored_outlive_changes_of_other_settings() {
    const RATE: &str = "leader.replication.throttled.rate";
    const PASSWORD: &str = "listener.name.a.ssl.keystore.password";
    const JAAS: &str = "listener.name.a.scram-sha-256.sasl.jaas.config";
    let cluster = Cluster::start_as(Kind::Odradek, "settings-passwords", "");
    let client = &mut cluster.broker.client();
    assert_eq!(change(client, BROKER, "0", &[(RATE, SET, Some("7"))]), (0, None));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let zk = runtime
        .block_on(Session::connect(Settings::new(format!("127.0.0.1:{}", cluster.zookeeper.port))))
        .expect("ZooKeeper runs");
    let entity = ConfigEntity::Broker(0);
    let stored = || runtime.block_on(zk.config(&entity)).expect("it is stored");
    let properties = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let written = properties(&[(RATE, "7"), (PASSWORD, "encrypted"), (JAAS, "too"), ("num.partitions", "3")]);
    runtime.block_on(zk.set_config(&entity, &written)).expect("written");
    assert_eq!(change(client, BROKER, "0", &[(RATE, SET, Some("8"))]), (0, None));
    // Kafka drops what no broker may change at run time.
    assert_eq!(stored(), properties(&[(RATE, "8"), (PASSWORD, "encrypted"), (JAAS, "too")]));
    assert_eq!(change(client, BROKER, "0", &[(RATE, DELETE, None), (JAAS, DELETE, None)]), (0, None));
    assert_eq!(stored(), properties(&[(PASSWORD, "encrypted")]));
    // We could not encrypt it.
    let (code, message) = change(client, BROKER, "0", &[(JAAS, SET, Some("secret"))]);
    assert_eq!(code, INVALID_REQUEST);
    assert!(message.as_ref().is_some_and(|text| text.contains(JAAS) && !text.contains("secret")), "{message:?}");
    assert_eq!(stored(), properties(&[(PASSWORD, "encrypted")]));
}

#[test]
fn the_number_of_io_threads_changes_while_the_broker_runs() {
    let mut cluster = Cluster::start_as(Kind::Odradek, "io-threads", "num.io.threads=4");
    let client = &mut cluster.broker.client();
    let tasks = format!("/proc/{}/task", cluster.broker.process().id());
    let threads = || {
        let names = std::fs::read_dir(&tasks).expect("the broker runs").flatten();
        names
            .filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("io-")))
            .count()
    };
    assert_eq!(threads(), 4);
    for wanted in [8, 5, 3] {
        let text = wanted.to_string();
        assert_eq!(change(client, BROKER, "", &[("num.io.threads", SET, Some(&text))]), (0, None));
        eventually(PATIENCE, &format!("{wanted} threads"), || match threads() {
            now if now == wanted => Ok(()),
            now => Err(format!("{now}")),
        });
    }
}

#[test]
fn limits_of_connections_change_while_the_broker_runs() {
    let cluster = Cluster::start("connection-limits", "");
    let client = &mut cluster.broker.client();
    let can_connect = || Client::connect(cluster.broker.port).and_then(|mut other| other.metadata(&[])).is_ok();
    let until = |wanted: bool, what: &str| {
        eventually(PATIENCE, what, || if can_connect() == wanted { Ok(()) } else { Err(format!("{}", !wanted)) });
    };
    assert!(can_connect());
    for name in ["0", ""] {
        assert_eq!(change(client, BROKER, name, &[("max.connections.per.ip", SET, Some("1"))]), (0, None));
        until(false, "no second connection is let in");
        client.metadata(&[]).expect("the one that is open stays");
        assert_eq!(change(client, BROKER, name, &[("max.connections.per.ip", DELETE, None)]), (0, None));
        until(true, "connections are let in again");
    }
}

/// A broker that has no block of ids yet tells the client to ask again.
fn producer_id(client: &mut Client) -> (i64, i16) {
    eventually(PATIENCE, "a producer id", || client.producer_id().map_err(|error| error.to_string()))
}

#[test]
fn no_producer_id_is_given_twice() {
    let mut cluster = Cluster::start("producer-ids", "");
    let client = &mut cluster.broker.client();
    let first = producer_id(client);
    let second = producer_id(client);
    assert_eq!((first.1, second.1), (0, 0));
    assert_ne!(first.0, second.0);
    cluster.broker.stop();
    cluster.start_broker(Kind::under_test());
    let client = &mut cluster.broker.client();
    let third = producer_id(client);
    assert!(third.0 > first.0.max(second.0), "{third:?} after {second:?}");
    let half = InitProducerIdRequest {
        transactional_id: None,
        transaction_timeout_ms: 60_000,
        producer_id: 5,
        producer_epoch: -1,
    };
    assert_eq!(client.call(&half, 4).expect("an answer").error_code, INVALID_REQUEST);
}

/// The start ends with status 1, and its last words say why.
fn refused_start(name: &str, settings: &str) -> String {
    let scratch = Scratch::new(name);
    let broker = Broker::configure(&scratch, 1, settings);
    let mut command = tied(env!("CARGO_BIN_EXE_odradek"));
    command.arg("server-start").arg(&broker.config);
    let mut process = Process::start("the broker", &mut command, scratch.path("broker.log"));
    let status = eventually(PATIENCE, "the broker ends", || process.has_ended().ok_or_else(|| process.said()));
    assert_eq!(status.code(), Some(1), "{}", process.said());
    process.said()
}

#[test]
fn a_configuration_that_cannot_work_stops_the_start() {
    for (settings, words) in [
        ("num.partitions=many", "Invalid value many for configuration num.partitions: Not a number of type INT"),
        (
            "log.retention.ms=0",
            "requirement failed: log.retention.ms must be unlimited (-1) or, greater than or equal to 1",
        ),
        ("authorizer.class.name=kafka.security.authorizer.AclAuthorizer", "authorizer.class.name"),
        ("process.roles=broker", "process.roles"),
        ("listeners=SSL://127.0.0.1:1\nsecurity.inter.broker.protocol=SSL", "only PLAINTEXT listeners are served"),
    ] {
        let said = refused_start("refused-start", settings);
        assert!(said.contains(words), "{settings}: {said}");
    }
}

/// What JVM brokers have left in ZooKeeper: a setting that is not for us, and one that keeps data.
#[test]
fn a_stored_setting_that_is_not_supported_costs_the_others_nothing() {
    if Kind::under_test() != Kind::Odradek {
        return; // A JVM broker would look for the class.
    }
    let scratch = Scratch::new("stored");
    let zookeeper = ZooKeeper::start(&scratch);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let settings = Settings::new(format!("127.0.0.1:{}", zookeeper.port));
    let session = runtime.block_on(Session::connect(settings)).expect("it runs");
    let store = |entity: &ConfigEntity, pairs: &[(&str, &str)]| {
        let settings = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        runtime.block_on(async {
            session.create_persistent_roots().await.expect("they can be made");
            session.set_config(entity, &settings).await.expect("it can be written");
        });
    };
    store(&ConfigEntity::DefaultBroker, &[("metric.reporters", "com.example.R"), ("log.retention.ms", "-1")]);
    store(&ConfigEntity::Broker(0), &[("listeners", "SSL://127.0.0.1:1"), ("message.max.bytes", "3000")]);
    let mut broker = Broker::configure(&scratch, zookeeper.port, "log.retention.hours=168");
    broker.start(Kind::Odradek, &scratch);
    let mut client = broker.client();
    let dynamic = |client: &mut Client, name: &str| setting(client, BROKER, "0", name);
    assert_eq!(dynamic(&mut client, "log.retention.ms"), Some((text("-1"), DYNAMIC_DEFAULT_BROKER)));
    assert_eq!(dynamic(&mut client, "message.max.bytes"), Some((text("3000"), DYNAMIC_BROKER)));
    let said = broker.process().said();
    for expected in ["the stored setting metric.reporters of a broker is ignored: ", "the stored setting listeners "] {
        assert!(said.contains(expected), "{said}");
    }
    let preflight =
        std::process::Command::new(env!("CARGO_BIN_EXE_odradek")).arg("preflight").arg(&broker.config).output();
    let printed = String::from_utf8_lossy(&preflight.expect("it runs").stdout).into_owned();
    for expected in ["the stored setting metric.reporters of a broker is ignored: ", "the stored setting listeners "] {
        assert!(printed.contains(expected), "{printed}");
    }

    // So it is with what changes later, be it of the same znode.
    client.create_topic("t", 1, &[]);
    until_produced(&mut client, "t", 5000, Err(MESSAGE_TOO_LARGE));
    store(&ConfigEntity::Broker(0), &[("listeners", "SSL://127.0.0.1:1"), ("message.max.bytes", "9000")]);
    until_produced(&mut client, "t", 5000, Ok(()));

    // A JVM broker is to find it again, whatever else is changed meanwhile.
    let changed = |client: &mut Client, name: &str, entity: &ConfigEntity, unsupported: &str, source: i8| {
        let steps = [("message.max.bytes", SET, Some("4000")), ("log.retention.ms", DELETE, None)];
        assert_eq!(change(client, BROKER, name, &steps), (0, None));
        let stored = runtime.block_on(session.config(entity)).expect("it is stored");
        let mut expected = ["message.max.bytes", unsupported];
        expected.sort_unstable();
        assert!(stored.keys().eq(&expected), "{stored:?}");
        eventually(PATIENCE, "it is in force", || match dynamic(client, "message.max.bytes") {
            Some((Some(value), from)) if (value.as_str(), from) == ("4000", source) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    };
    changed(&mut client, "0", &ConfigEntity::Broker(0), "listeners", DYNAMIC_BROKER);
    assert_eq!(change(&mut client, BROKER, "0", &[("message.max.bytes", DELETE, None)]), (0, None));
    changed(&mut client, "", &ConfigEntity::DefaultBroker, "metric.reporters", DYNAMIC_DEFAULT_BROKER);
    let (code, _) = change(&mut client, BROKER, "", &[("metric.reporters", SET, Some("com.example.R"))]);
    assert_eq!(code, INVALID_REQUEST, "nobody asks for it in vain");
    assert_eq!(change(&mut client, BROKER, "", &[("metric.reporters", DELETE, None)]), (0, None));
}
