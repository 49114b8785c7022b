//! kafka-configs.sh: shows and changes settings of topics and brokers.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use crate::cli::options::{COMMAND_CONFIG, Options, Stop, Takes, Tool, flag};
use crate::cli::{cluster, properties_of_file};
use crate::client::admin::{BROKER_LOGGER_RESOURCE, BROKER_RESOURCE, TOPIC_RESOURCE};
use crate::client::cluster::Cluster;
use crate::client::error::checked;
use crate::client::pattern::Pattern;
use crate::model::BrokerId;
use crate::protocol::messages::describe_configs::{DescribeConfigsResourceResult, DescribeConfigsResult};
use crate::protocol::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};

pub(crate) const TOOL: Tool = Tool {
    script: "kafka-configs",
    about: "This tool helps to manipulate and describe entity config for a topic, client, user, broker, ip or \
            client-metrics",
    flags: &[
        flag("bootstrap-server", Takes::Value("server to connect to"), "The Kafka servers to connect to."),
        flag("bootstrap-controller", Takes::Value("controller to connect to"), "Exists for KRaft only."),
        flag("zookeeper", Takes::Value("urls"), "DEPRECATED. Not supported here: use --bootstrap-server."),
        COMMAND_CONFIG,
        flag("alter", Takes::Nothing, "Alter the configuration for the entity."),
        flag("describe", Takes::Nothing, "List configs for the given entity."),
        flag("all", Takes::Nothing, "With --describe: defaults and static configuration too."),
        flag("entity-type", Takes::Repeated("type"), "Type of entity: topics, brokers or broker-loggers."),
        flag("entity-name", Takes::Repeated("name"), "Name of entity: topic name or broker id."),
        flag("entity-default", Takes::Nothing, "The defaults of all brokers."),
        flag("add-config", Takes::Value("k1=v1,k2=[v1,v2],k3=v3"), "Configs to add; brackets hold values with commas."),
        flag("add-config-file", Takes::Value("path"), "Properties file with configs to add."),
        flag("delete-config", Takes::Repeated("k1,k2"), "Config keys to remove."),
        flag("force", Takes::Nothing, "Suppress console prompts."),
        flag("topic", Takes::Value("name"), "The topic's name."),
        flag("client", Takes::Value("id"), "The client's id."),
        flag("client-defaults", Takes::Nothing, "The config defaults for all clients."),
        flag("user", Takes::Value("name"), "The user's principal name."),
        flag("user-defaults", Takes::Nothing, "The config defaults for all users."),
        flag("broker", Takes::Value("id"), "The broker's id."),
        flag("broker-defaults", Takes::Nothing, "The config defaults for all brokers."),
        flag("broker-logger", Takes::Value("id"), "The broker's id for its logger config."),
        flag("ip", Takes::Value("ip"), "The IP address."),
        flag("ip-defaults", Takes::Nothing, "The config defaults for all IPs."),
        flag("zk-tls-config-file", Takes::Value("path"), "Only with --zookeeper."),
    ],
};

const NAMED: [(&str, &str); 6] = [
    ("topic", "topics"),
    ("client", "clients"),
    ("user", "users"),
    ("broker", "brokers"),
    ("broker-logger", "broker-loggers"),
    ("ip", "ips"),
];
const DEFAULTS: [(&str, &str); 4] = [
    ("client-defaults", "clients"),
    ("user-defaults", "users"),
    ("broker-defaults", "brokers"),
    ("ip-defaults", "ips"),
];
const KNOWN_TO_ZOOKEEPER: [&str; 2] = ["users", "brokers"];
const KNOWN_TYPES: [&str; 7] = ["topics", "clients", "users", "brokers", "ips", "broker-loggers", "client-metrics"];

/// What the command is about.
#[derive(Debug, PartialEq, Eq)]
struct Entity {
    entity_type: String,
    /// Empty for the defaults; `None` when all entities of the type are meant.
    name: Option<String>,
}

impl Entity {
    fn resource_type(&self) -> i8 {
        match self.entity_type.as_str() {
            "topics" => TOPIC_RESOURCE,
            "brokers" => BROKER_RESOURCE,
            _ => BROKER_LOGGER_RESOURCE,
        }
    }

    fn singular(&self) -> &str {
        self.entity_type.strip_suffix('s').unwrap_or(&self.entity_type)
    }

    /// The source of what was set for this very entity; `None` where there is no other.
    fn dynamic_source(&self, name: &str) -> Option<i8> {
        match (self.resource_type(), name) {
            (TOPIC_RESOURCE, _) => Some(1),
            (BROKER_RESOURCE, "") => Some(3),
            (BROKER_RESOURCE, _) => Some(2),
            _ => None,
        }
    }
}

/// Source: kafka 3.9.1 core/src/main/scala/kafka/admin/ConfigCommand.scala, checkArgs.
fn check(options: &Options) -> Result<Entity, Stop> {
    let failed = |message: String| Err(Stop::Failed(message));
    if options.has("alter") == options.has("describe") {
        return Err(Stop::Usage("Command must include exactly one action: --describe, --alter".to_owned()));
    }
    options.exclude("describe", &["add-config", "delete-config"])?;
    let named = NAMED.iter().filter(|(option, _)| options.has(option));
    let defaults = DEFAULTS.iter().filter(|(option, _)| options.has(option));
    let mut types: Vec<&str> = options.values("entity-type");
    let has_specific = named.clone().chain(defaults.clone()).next().is_some();
    types.extend(named.clone().chain(defaults.clone()).map(|(_, entity_type)| *entity_type));
    let mut names: Vec<String> = options.values("entity-name").into_iter().map(str::to_owned).collect();
    names.extend(options.has("entity-default").then(String::new));
    names.extend(named.filter_map(|(option, _)| options.value(option)).map(str::to_owned));
    names.extend(defaults.map(|_| String::new()));
    let distinct: BTreeSet<&str> = types.iter().copied().collect();
    if distinct.len() != types.len() {
        // As Scala tells one list from another: each type once less than it stands there.
        let mut first = BTreeSet::new();
        let again: Vec<&str> = types.iter().copied().filter(|entity_type| !first.insert(*entity_type)).collect();
        return failed(format!("Duplicate entity type(s) specified: {}", again.join(",")));
    }
    let (known, servers) = match options.has("bootstrap-server") || options.has("bootstrap-controller") {
        true => (&KNOWN_TYPES[..], "--bootstrap-server or --bootstrap-controller"),
        false => (&KNOWN_TO_ZOOKEEPER[..], "--zookeeper"),
    };
    if let Some(unknown) = types.iter().find(|entity_type| !known.contains(entity_type)) {
        return failed(format!(
            "Invalid entity type {unknown}, the entity type must be one of {} with a {servers} argument",
            known.join(", ")
        ));
    }
    let Some(entity_type) = types.first().copied() else {
        return failed("At least one entity type must be specified".to_owned());
    };
    if types.len() > 1 && distinct != BTreeSet::from(["users", "clients"]) {
        return failed("Only 'users' and 'clients' entity types may be specified together".to_owned());
    }
    if has_specific && ["entity-type", "entity-name", "entity-default"].iter().any(|option| options.has(option)) {
        return failed(
            "--entity-{type,name,default} should not be used in conjunction with specific entity flags".to_owned(),
        );
    }
    let servers = ["bootstrap-server", "bootstrap-controller", "zookeeper"];
    match servers.iter().filter(|option| options.has(option)).count() {
        0 => {
            return failed(
                "One of the required --bootstrap-server, --boostrap-controller, or --zookeeper arguments must be \
                 specified"
                    .to_owned(),
            );
        }
        1 if options.has("bootstrap-server") => {}
        1 => return failed("only --bootstrap-server is supported here".to_owned()),
        _ => {
            return failed(
                "Only one of --bootstrap-server, --boostrap-controller, and --zookeeper can be specified".to_owned(),
            );
        }
    }
    if options.has("zk-tls-config-file") {
        let message = "Only the --zookeeper option can be used with the --zk-tls-config-file option.";
        return failed(message.to_owned());
    }
    if !["topics", "brokers", "broker-loggers"].contains(&entity_type) {
        return failed(format!("configs of {entity_type} are not supported yet"));
    }
    if names.len() > 1 {
        return failed("More entity names specified than entity types".to_owned());
    }
    let name = names.pop();
    if let Some(name) = name.as_ref().filter(|name| !name.is_empty())
        && entity_type != "topics"
        && name.parse::<i32>().is_err()
    {
        return failed(format!(
            "The entity name for {entity_type} must be a valid integer broker id, but it is: {name}"
        ));
    }
    let has_name = name.as_ref().is_some_and(|name| !name.is_empty());
    if options.has("describe") && entity_type == "broker-loggers" && !has_name {
        return failed("an entity name must be specified with --describe of broker-loggers".to_owned());
    }
    if options.has("alter") {
        if entity_type == "brokers" && name.is_none() {
            return failed(
                "an entity-name or default entity must be specified with --alter of users, clients, brokers or ips"
                    .to_owned(),
            );
        }
        if entity_type != "brokers" && !has_name {
            return failed(format!("an entity name must be specified with --alter of {entity_type}"));
        }
        if options.has("add-config") && options.has("add-config-file") {
            return failed("Only one of --add-config or --add-config-file must be specified".to_owned());
        }
        if !["add-config", "add-config-file", "delete-config"].iter().any(|option| options.has(option)) {
            return failed(
                "At least one of --add-config, --add-config-file, or --delete-config must be specified with --alter"
                    .to_owned(),
            );
        }
    }
    Ok(Entity { entity_type: entity_type.to_owned(), name })
}

/// What Kafka's tools say of a setting that makes no difference any more.
pub(crate) fn message_format_version_warning(version: &str) -> String {
    format!(
        "WARNING: The configuration message.format.version={version} is specified. This configuration will be ignored if \
         the version is newer than the inter.broker.protocol.version specified in the broker or if the \
         inter.broker.protocol.version is 3.0 or newer. This configuration is deprecated and it will be removed in Apache \
         Kafka 4.0."
    )
}

/// `k=v,k=[v1,v2]`: what stands before a `]` without a `[` between them parts nothing, and the brackets are no part of the
/// value. Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/admin/ConfigCommand.scala, parseConfigsToBeAdded.
fn parse_additions(text: &str) -> Result<BTreeMap<String, String>, Stop> {
    const UNBRACKETED: &str = r"(?=[^\]]*(?:\[|$))";
    let [comma, equals] = [",", r"\s*=\s*"]
        .map(|separator| Pattern::new(&format!("{separator}{UNBRACKETED}")).expect("the pattern is constant"));
    let mut configs = BTreeMap::new();
    for pair in comma.split(text).map_err(Stop::Failed)? {
        let parts = equals.split_all(pair).map_err(Stop::Failed)?;
        let [key, value] = parts[..] else {
            let message = "requirement failed: Invalid entity config: all configs to be added must be in the format \
                           \"key=val\".";
            return Err(Stop::Failed(message.to_owned()));
        };
        configs.insert(key.trim().to_owned(), value.replace(['[', ']'], "").trim().to_owned());
    }
    Ok(configs)
}

fn additions(options: &Options, out: &mut dyn Write) -> Result<BTreeMap<String, String>, Stop> {
    let mut configs = match options.value("add-config-file") {
        Some(path) => properties_of_file(Some(path))?.into_pairs(),
        None => BTreeMap::new(),
    };
    if let Some(text) = options.value("add-config") {
        configs.extend(parse_additions(text)?);
    }
    if let Some(version) = configs.get("message.format.version") {
        writeln!(out, "{}", message_format_version_warning(version))?;
    }
    let is_plain = |key: &&String| key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    match configs.keys().find(|key| !is_plain(key)) {
        Some(key) => Err(Stop::Failed(format!("Invalid character found for config key: {key}"))),
        None => Ok(configs),
    }
}

pub(crate) async fn run(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    let entity = check(options)?;
    let cluster = cluster(options, "adminclient-1")?;
    // What the command line says wrongly is told as it is.
    let outcome = match options.has("alter") {
        true => {
            let added = additions(options, out)?;
            alter(options, &cluster, &entity, added, out).await
        }
        false => describe(options, &cluster, &entity, out).await,
    };
    outcome.map_err(|stop| match stop {
        Stop::Failed(message) => Stop::Failed(format!("Error while executing config command: {message}")),
        other => other,
    })
}

/// The entity's configs by name; without `all` only what was set for it.
async fn entries_of(
    cluster: &Cluster,
    entity: &Entity,
    name: &str,
    all: bool,
) -> Result<Vec<DescribeConfigsResourceResult>, Stop> {
    let results = cluster.describe_configs(entity.resource_type(), &[name.to_owned()], true).await?;
    let source = entity.dynamic_source(name).filter(|_| !all);
    let results: Vec<DescribeConfigsResult> = results.into_values().collect::<Result<_, _>>()?;
    let mut entries: Vec<_> = results
        .into_iter()
        .flat_map(|result| result.configs)
        .filter(|entry| source.is_none_or(|source| entry.config_source == source))
        .collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// Source: kafka 3.9.1 clients/.../clients/admin/ConfigEntry.java, ConfigSource, and its codes in DescribeConfigs.
fn source_name(source: i8) -> &'static str {
    match source {
        1 => "DYNAMIC_TOPIC_CONFIG",
        2 => "DYNAMIC_BROKER_CONFIG",
        3 => "DYNAMIC_DEFAULT_BROKER_CONFIG",
        4 => "STATIC_BROKER_CONFIG",
        5 => "DEFAULT_CONFIG",
        6 => "DYNAMIC_BROKER_LOGGER_CONFIG",
        7 => "DYNAMIC_CLIENT_METRICS_CONFIG",
        _ => "UNKNOWN",
    }
}

fn print_entry(entry: &DescribeConfigsResourceResult, out: &mut dyn Write) -> std::io::Result<()> {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "null".to_owned());
    let synonyms: Vec<String> = entry
        .synonyms
        .iter()
        .map(|synonym| format!("{}:{}={}", source_name(synonym.source), synonym.name, text(&synonym.value)))
        .collect();
    let (name, value, sensitive) = (&entry.name, text(&entry.value), entry.is_sensitive);
    writeln!(out, "  {name}={value} sensitive={sensitive} synonyms={{{}}}", synonyms.join(", "))
}

async fn describe(options: &Options, cluster: &Cluster, entity: &Entity, out: &mut dyn Write) -> Result<(), Stop> {
    let all = options.has("all");
    let names = match (&entity.name, entity.resource_type()) {
        (Some(name), _) => vec![name.clone()],
        (None, TOPIC_RESOURCE) => cluster.topic_names().await?,
        (None, _) => {
            cluster.retried("find brokers", || cluster.metadata(Some(&[]), false)).await?;
            let ids = cluster.nodes().into_iter().map(|node| node.id.to_string());
            ids.chain([String::new()]).collect()
        }
    };
    for name in names {
        match name.as_str() {
            "" => writeln!(out, "Default configs for {} in the cluster are:", entity.entity_type)?,
            name => {
                let kind = if all { "All" } else { "Dynamic" };
                writeln!(out, "{kind} configs for {} {name} are:", entity.singular())?;
            }
        }
        for entry in entries_of(cluster, entity, &name, all).await? {
            print_entry(&entry, out)?;
        }
    }
    Ok(())
}

/// Operations of IncrementalAlterConfigs. Source: kafka 3.9.1 clients/.../clients/admin/AlterConfigOp.java.
const SET: i8 = 0;
const DELETE: i8 = 1;

async fn alter(
    options: &Options,
    cluster: &Cluster,
    entity: &Entity,
    added: BTreeMap<String, String>,
    out: &mut dyn Write,
) -> Result<(), Stop> {
    let name = entity.name.clone().unwrap_or_default();
    let deleted: Vec<String> = options
        .values("delete-config")
        .iter()
        .flat_map(|keys| keys.split(','))
        .map(|key| key.trim().to_owned())
        .filter(|key| !key.is_empty())
        .collect();
    let known: BTreeSet<String> =
        entries_of(cluster, entity, &name, false).await?.into_iter().map(|entry| entry.name).collect();
    let unknown: Vec<&str> = deleted.iter().filter(|key| !known.contains(*key)).map(String::as_str).collect();
    if !unknown.is_empty() {
        complain!("Invalid config(s): {}", unknown.join(","));
        return Err(Stop::Reported);
    }
    let set =
        added.into_iter().map(|(name, value)| AlterableConfig { name, config_operation: SET, value: Some(value) });
    let delete = deleted.into_iter().map(|name| AlterableConfig { name, config_operation: DELETE, value: None });
    let request = IncrementalAlterConfigsRequest {
        resources: vec![AlterConfigsResource {
            resource_type: entity.resource_type(),
            resource_name: name.clone(),
            configs: set.chain(delete).collect(),
        }],
        validate_only: false,
    };
    let request = &request;
    // A broker's own settings are changed at that broker.
    let broker = name.parse().ok().map(BrokerId).filter(|_| entity.resource_type() != TOPIC_RESOURCE);
    let answer = match broker {
        Some(id) => {
            cluster.retried("alter configs", || async { cluster.broker(id).await?.send(request).await }).await?
        }
        None => cluster.send_to_any(request).await?,
    };
    for response in answer.responses {
        checked(format!("alter configs of {}", response.resource_name), response.error_code, response.error_message)?;
    }
    match name.as_str() {
        "" => writeln!(out, "Completed updating default config for {} in the cluster.", entity.entity_type)?,
        name => writeln!(out, "Completed updating config for {} {name}.", entity.singular())?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::messages::describe_configs::DescribeConfigsSynonym;

    fn checked_entity(line: &str) -> Result<Entity, String> {
        check(&TOOL.options(&format!("--bootstrap-server a:1 {line}"))).map_err(|stop| match stop {
            Stop::Usage(message) | Stop::Failed(message) => message,
            other => panic!("{line}: {other:?}"),
        })
    }

    #[test]
    fn entities_have_a_long_and_a_short_form() {
        let topic = |name: Option<&str>| Entity { entity_type: "topics".into(), name: name.map(str::to_owned) };
        assert_eq!(checked_entity("--describe --entity-type topics --entity-name t"), Ok(topic(Some("t"))));
        assert_eq!(checked_entity("--describe --topic t"), Ok(topic(Some("t"))));
        assert_eq!(checked_entity("--describe --entity-type topics"), Ok(topic(None)));
        let defaults = Entity { entity_type: "brokers".into(), name: Some(String::new()) };
        assert_eq!(checked_entity("--describe --entity-type brokers --entity-default"), Ok(defaults));
        let refusal = |line| checked_entity(line).unwrap_err();
        assert_eq!(refusal("--topic t"), "Command must include exactly one action: --describe, --alter");
        assert_eq!(refusal("--describe"), "At least one entity type must be specified");
        assert!(refusal("--describe --entity-type cats").starts_with("Invalid entity type cats"));
        assert!(refusal("--describe --topic t --entity-name u").starts_with("--entity-{type,name,default}"));
        assert_eq!(
            refusal("--describe --topic t --entity-type brokers"),
            "Only 'users' and 'clients' entity types may be specified together"
        );
        assert!(refusal("--describe --broker x").contains("must be a valid integer broker id"));
        assert!(refusal("--alter --topic t").starts_with("At least one of --add-config"));
        assert!(refusal("--alter --entity-type topics --add-config a=b").starts_with("an entity name must be"));
        assert_eq!(refusal("--describe --user u"), "configs of users are not supported yet");
        assert_eq!(
            refusal("--describe --entity-type topics --entity-type brokers --entity-type topics"),
            "Duplicate entity type(s) specified: topics"
        );
        assert_eq!(
            refusal("--describe --topic t --zk-tls-config-file f"),
            "Only the --zookeeper option can be used with the --zk-tls-config-file option."
        );
    }

    #[test]
    fn brackets_keep_commas_in_a_value() {
        let pairs = |text| parse_additions(text).unwrap().into_iter().collect::<Vec<_>>();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(pairs("a=1,b=[x,y], c = d"), [pair("a", "1"), pair("b", "x,y"), pair("c", "d")]);
        assert_eq!(pairs("a="), [pair("a", "")]);
        assert_eq!(pairs("a=b,"), [pair("a", "b")]);
        assert_eq!(pairs("a=[b=c,d]"), [pair("a", "b=c,d")]);
        for refused in ["a", "", "a==", "a=b=c", "a=[b,c,d=e", "a=b,,c=d", ",a=b"] {
            assert!(parse_additions(refused).is_err(), "{refused}");
        }
        let added = |line| {
            let mut out = Vec::new();
            additions(&TOOL.options(line), &mut out).map(|_| String::from_utf8(out).unwrap())
        };
        assert!(matches!(added("--add-config a$b=1"), Err(Stop::Failed(m)) if m.ends_with("a$b")));
        assert_eq!(added("--add-config retention.ms=1").unwrap(), "");
        let warning = added("--add-config message.format.version=3.0").unwrap();
        assert!(
            warning.starts_with("WARNING: The configuration message.format.version=3.0 is specified. "),
            "{warning}"
        );
    }

    #[test]
    fn an_entry_shows_its_synonyms_with_their_sources() {
        let synonym = |name: &str, value: &str, source| DescribeConfigsSynonym {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            source,
        };
        let entry = DescribeConfigsResourceResult {
            name: "cleanup.policy".to_owned(),
            value: Some("compact".to_owned()),
            synonyms: vec![synonym("cleanup.policy", "compact", 1), synonym("log.cleanup.policy", "delete", 5)],
            ..Default::default()
        };
        let mut out = Vec::new();
        print_entry(&entry, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "  cleanup.policy=compact sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:cleanup.policy=compact, \
             DEFAULT_CONFIG:log.cleanup.policy=delete}\n"
        );
    }
}
