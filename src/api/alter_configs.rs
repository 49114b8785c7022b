//! AlterConfigs and IncrementalAlterConfigs: settings of topics and brokers, checked here and written to ZooKeeper,
//! from where every broker takes them over.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/{ConfigAdminManager,ZkAdminManager}.scala.

use std::collections::{BTreeMap, BTreeSet};

use log::{error, info};
use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::znode::config::ConfigEntity;

use crate::api::errors::Refusal;
use crate::api::{RequestContext, Server};
use crate::config::definition::ConfigError;
use crate::config::dynamic::{self, Operation, OperationError, Scope};
use crate::config::properties::Properties;
use crate::config::topic_settings;
use crate::model::shown::shown;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::{alter_configs as legacy, incremental_alter_configs as incremental};

/// So often a change is begun, with others that change the same settings at once. Each time one of them gets through.
const TRIES_MAX: usize = 100;

/// What a request about settings may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResourceType {
    Topic,
    Broker,
    BrokerLogger,
    ClientMetrics,
    Other,
}

impl ResourceType {
    pub(super) fn from_id(id: i8) -> ResourceType {
        match id {
            2 => ResourceType::Topic,
            4 => ResourceType::Broker,
            8 => ResourceType::BrokerLogger,
            16 => ResourceType::ClientMetrics,
            _ => ResourceType::Other,
        }
    }
}

/// What is asked for one resource: other settings in place of all, or steps from those that are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Replace(Properties),
    Steps(Vec<(String, Operation)>),
}

/// Which of the two requests it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Legacy,
    Incremental,
}

/// One resource of a request of either kind.
struct Resource {
    resource_type: i8,
    name: String,
    entries: Vec<Entry>,
}

/// A legacy entry only ever sets.
struct Entry {
    name: String,
    operation: i8,
    value: Option<String>,
}

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: legacy::AlterConfigsRequest,
) -> legacy::AlterConfigsResponse {
    let entry = |config: legacy::AlterableConfig| Entry { name: config.name, operation: SET, value: config.value };
    let resources = request.resources.into_iter().map(|resource| Resource {
        resource_type: resource.resource_type,
        name: resource.resource_name,
        entries: resource.configs.into_iter().map(entry).collect(),
    });
    let altered = alter_all(server, context, Kind::Legacy, resources.collect(), request.validate_only).await;
    let responses = altered.into_iter().map(|altered| legacy::AlterConfigsResourceResponse {
        error_code: altered.error_code,
        error_message: altered.error_message,
        resource_type: altered.resource_type,
        resource_name: altered.resource_name,
    });
    legacy::AlterConfigsResponse { throttle_time_ms: 0, responses: responses.collect() }
}

pub(crate) async fn handle_incremental(
    server: &Server,
    context: &RequestContext,
    request: incremental::IncrementalAlterConfigsRequest,
) -> incremental::IncrementalAlterConfigsResponse {
    let entry = |config: incremental::AlterableConfig| Entry {
        name: config.name,
        operation: config.config_operation,
        value: config.value,
    };
    let resources = request.resources.into_iter().map(|resource| Resource {
        resource_type: resource.resource_type,
        name: resource.resource_name,
        entries: resource.configs.into_iter().map(entry).collect(),
    });
    let responses = alter_all(server, context, Kind::Incremental, resources.collect(), request.validate_only).await;
    incremental::IncrementalAlterConfigsResponse { throttle_time_ms: 0, responses }
}

/// One answer for each resource, in their order.
async fn alter_all(
    server: &Server,
    context: &RequestContext,
    kind: Kind,
    resources: Vec<Resource>,
    validate_only: bool,
) -> Vec<incremental::AlterConfigsResourceResponse> {
    let repeated = repeated(resources.iter().map(|resource| (resource.resource_type, resource.name.as_str())));
    let mut responses = Vec::with_capacity(resources.len());
    for (Resource { resource_type, name, entries }, is_repeated) in resources.into_iter().zip(repeated) {
        if context.pause().await {
            break;
        }
        let change = change_of(kind, entries, is_repeated);
        let refusal = alter(server, resource_type, &name, change, validate_only).await.err();
        responses.push(incremental::AlterConfigsResourceResponse {
            error_code: refusal.as_ref().map_or(ErrorCode::None, |refusal| refusal.code).code(),
            error_message: refusal.and_then(|refusal| refusal.message),
            resource_type,
            resource_name: name,
        });
    }
    responses
}

/// Which resources a request names more than once.
fn repeated<'a>(resources: impl Iterator<Item = (i8, &'a str)> + Clone) -> Vec<bool> {
    let mut counts: BTreeMap<(i8, &str), usize> = BTreeMap::new();
    for resource in resources.clone() {
        *counts.entry(resource).or_default() += 1;
    }
    resources.map(|resource| counts.get(&resource).is_some_and(|count| *count > 1)).collect()
}

async fn alter(
    server: &Server,
    resource_type: i8,
    name: &str,
    change: Result<Change, Refusal>,
    validate_only: bool,
) -> Result<(), Refusal> {
    let outcome = match (change, ResourceType::from_id(resource_type)) {
        (Err(refusal), _) => Err(refusal),
        (Ok(change), ResourceType::Topic) => alter_topic(server, name, &change, validate_only).await,
        (Ok(change), ResourceType::Broker) => alter_broker(server, name, &change, validate_only).await,
        (Ok(_), ResourceType::BrokerLogger) => {
            Err(Refusal::invalid_request("Log levels cannot be altered yet; RUST_LOG sets them at start"))
        }
        (Ok(_), ResourceType::ClientMetrics) => Err(Refusal::invalid_request(
            "AlterConfigs is only supported for topics and brokers, but resource type is CLIENT_METRICS",
        )),
        (Ok(_), ResourceType::Other) => Err(Refusal::invalid_request(format!("Unknown resource type {resource_type}"))),
    };
    if let Err(refusal) = &outcome {
        info!(
            "a change of settings of resource type {resource_type}, name '{}' is refused: {}",
            shown(name),
            shown(&refusal.to_string())
        );
    }
    outcome
}

/// Kafka's checks before it looks at the resource.
fn change_of(kind: Kind, entries: Vec<Entry>, is_repeated: bool) -> Result<Change, Refusal> {
    if is_repeated {
        return Err(Refusal::invalid_request("Each resource must appear at most once."));
    }
    let mut names = BTreeSet::new();
    if !entries.iter().all(|entry| names.insert(entry.name.as_str())) {
        return Err(Refusal::invalid_request("Error due to duplicate config keys"));
    }
    let is_without_value = |entry: &&Entry| entry.value.is_none() && entry.operation != DELETE;
    let without_value: Vec<&str> = entries.iter().filter(is_without_value).map(|entry| entry.name.as_str()).collect();
    if !without_value.is_empty() {
        return Err(Refusal::invalid_request(format!("Null value not supported for : {}", without_value.join(", "))));
    }
    let pairs = entries.into_iter().map(|entry| (entry.name, entry.operation, entry.value.unwrap_or_default()));
    if kind == Kind::Legacy {
        return Ok(Change::Replace(pairs.map(|(name, _, value)| (name, value)).collect()));
    }
    pairs
        .map(|(name, operation, value)| match operation {
            SET => Ok((name, Operation::Set(value))),
            DELETE => Ok((name, Operation::Delete)),
            APPEND => Ok((name, Operation::Append(value))),
            SUBTRACT => Ok((name, Operation::Subtract(value))),
            unknown => Err(Refusal::invalid_request(format!("Unknown operations type {unknown}"))),
        })
        .collect::<Result<_, _>>()
        .map(Change::Steps)
}

/// Stores what becomes of what is stored, and begins again where somebody else has changed it meanwhile, whose change would be
/// lost. What cannot be understood is nothing, so that whoever changes it also repairs it.
async fn change_stored(
    server: &Server,
    entity: &ConfigEntity,
    validate_only: bool,
    changed: impl Fn(&Properties) -> Result<Properties, Refusal>,
    note: impl Fn(&Properties),
) -> Result<(), Refusal> {
    let mut tries_left = TRIES_MAX;
    loop {
        tries_left -= 1;
        let stored = server.zookeeper.stored_config(entity).await.map_err(unreached)?;
        let proposed = changed(&stored.config.unwrap_or_default())?;
        if validate_only {
            return Ok(());
        }
        note(&proposed);
        match server.zookeeper.replace_config(entity, &proposed, stored.version).await {
            Err(ZkError::BadVersion { .. } | ZkError::NodeExists { .. } | ZkError::NoNode { .. }) if tries_left > 0 => {
            }
            written => return written.map_err(unreached),
        }
    }
}

async fn alter_topic(server: &Server, name: &str, change: &Change, validate_only: bool) -> Result<(), Refusal> {
    if name.is_empty() {
        return Err(Refusal::invalid_request("Default topic resources are not allowed."));
    }
    let changed = |stored: &Properties| match change {
        Change::Replace(proposed) => Ok(proposed.clone()),
        Change::Steps(steps) => dynamic::change_topic(stored, steps).map_err(unfit),
    };
    if server.metadata.image().topic(name).is_none() {
        // Nothing is read for a name that anybody can make up.
        changed(&Properties::new())?;
        let message = format!("The topic '{name}' does not exist.");
        return Err(Refusal::new(ErrorCode::UnknownTopicOrPartition, message));
    }
    let valid = |stored: &Properties| {
        let proposed = changed(stored)?;
        topic_settings::validate(&server.config.load().topic_defaults(), stored, &proposed)
            .map_err(|why| refused_topic(name, &why))?;
        Ok(proposed)
    };
    let note = |proposed: &Properties| {
        info!("Updating topic {name} with new configuration : {}", shown(&loggable(proposed, |_| true)));
    };
    change_stored(server, &ConfigEntity::Topic(name.to_string()), validate_only, valid, note).await
}

async fn alter_broker(server: &Server, name: &str, change: &Change, validate_only: bool) -> Result<(), Refusal> {
    let own_id = server.broker_id.0;
    let (scope, entity) = match (name.is_empty(), name.parse::<i32>()) {
        (true, _) => (Scope::ClusterDefault, ConfigEntity::DefaultBroker),
        (false, Err(_)) => {
            return Err(Refusal::invalid_request(format!("Node id must be an integer, but it is: {name}")));
        }
        (false, Ok(id)) if id == own_id => (Scope::Broker, ConfigEntity::Broker(id)),
        (false, Ok(_)) => {
            return Err(Refusal::invalid_request(format!(
                "Unexpected broker id, expected {own_id}, but received {name}"
            )));
        }
    };
    let valid = |stored: &Properties| {
        let config = server.config.load();
        let valid = |proposed: &Properties| {
            let refused = |why: ConfigError| Refusal::invalid_request(why.to_string());
            dynamic::validate_broker(&config, proposed, scope).map_err(refused)
        };
        let steps = match change {
            Change::Replace(proposed) => return valid(proposed).map(|()| proposed.clone()),
            Change::Steps(steps) => steps,
        };
        // Like Kafka, an incremental change also drops what is stored and cannot be used.
        let mut proposed = dynamic::change_broker(&dynamic::usable(stored, scope).0, steps).map_err(unfit)?;
        // A JVM broker is to find again what it uses and we do not, its passwords too; who wants it otherwise has said so.
        let mut kept = dynamic::left_out(&config, stored, scope);
        kept.extend(dynamic::encrypted(stored, scope));
        kept.retain(|name, _| steps.iter().all(|(step, _)| step != name));
        proposed.retain(|name, _| !kept.contains_key(name));
        valid(&proposed)?;
        proposed.extend(kept);
        Ok(proposed)
    };
    let note = |proposed: &Properties| {
        let settings = loggable(proposed, dynamic::is_applied_at_run_time);
        match scope {
            Scope::Broker => info!("Updating broker {own_id} with new configuration : {}", shown(&settings)),
            Scope::ClusterDefault => info!("Updating brokers with new configuration : {}", shown(&settings)),
        }
    };
    change_stored(server, &entity, validate_only, valid, note).await
}

fn unfit(why: OperationError) -> Refusal {
    Refusal::new(ErrorCode::from(&why), why.to_string())
}

fn unreached(why: ZkError) -> Refusal {
    let code = ErrorCode::from(&why);
    if code == ErrorCode::UnknownServerError {
        error!("a change of settings did not reach ZooKeeper: {why}");
    }
    Refusal::new(code, why.to_string())
}

/// Kafka wraps what the table refuses, and tells the rest as it is.
fn refused_topic(name: &str, why: &ConfigError) -> Refusal {
    let message = match why {
        ConfigError::InvalidConfiguration(text) => text.clone(),
        other => {
            format!("Invalid config value for resource ConfigResource(type=TOPIC, name='{name}'): {other}")
        }
    };
    Refusal::new(ErrorCode::InvalidConfig, message)
}

fn loggable(properties: &Properties, is_shown: impl Fn(&str) -> bool) -> String {
    let pair = |(name, value): (&String, &String)| match is_shown(name) {
        true => format!("{name} -> {value}"),
        false => format!("{name} -> [hidden]"),
    };
    properties.iter().map(pair).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, operation: i8, value: Option<&str>) -> Entry {
        Entry { name: name.to_string(), operation, value: value.map(String::from) }
    }

    #[test]
    fn a_change_names_each_setting_once_and_with_a_value() {
        let twice = vec![entry("a", 0, Some("1")), entry("a", 1, None)];
        assert_eq!(
            change_of(Kind::Incremental, twice, false),
            Err(Refusal::invalid_request("Error due to duplicate config keys"))
        );
        let null = vec![entry("a", 0, None), entry("b", 1, None), entry("c", 2, None)];
        assert_eq!(
            change_of(Kind::Incremental, null, false),
            Err(Refusal::invalid_request("Null value not supported for : a, c"))
        );
        let unknown = vec![entry("a", 4, Some("1"))];
        assert_eq!(
            change_of(Kind::Incremental, unknown, false),
            Err(Refusal::invalid_request("Unknown operations type 4"))
        );
    }

    #[test]
    fn a_change_replaces_or_takes_steps() {
        let replace = change_of(Kind::Legacy, vec![entry("a", SET, Some("1"))], false);
        assert_eq!(replace, Ok(Change::Replace(Properties::from([("a".to_string(), "1".to_string())]))));
        let steps = change_of(Kind::Incremental, vec![entry("a", 0, Some("1")), entry("b", DELETE, None)], false);
        let expected = vec![("a".to_string(), Operation::Set("1".to_string())), ("b".to_string(), Operation::Delete)];
        assert_eq!(steps, Ok(Change::Steps(expected)));
        // Nothing to set takes everything away; no step changes nothing.
        assert_eq!(change_of(Kind::Legacy, Vec::new(), false), Ok(Change::Replace(Properties::new())));
        assert_eq!(change_of(Kind::Incremental, Vec::new(), false), Ok(Change::Steps(Vec::new())));
        let repeated = Refusal::invalid_request("Each resource must appear at most once.");
        assert_eq!(change_of(Kind::Legacy, Vec::new(), true), Err(repeated));
    }

    #[test]
    fn a_resource_named_twice_is_refused_both_times() {
        let resources = [(2, "a"), (4, "a"), (2, "b"), (2, "a")];
        assert_eq!(repeated(resources.into_iter()), [true, false, false, true]);
    }

    #[test]
    fn refusals_of_topic_settings_carry_kafkas_prefix_unless_they_are_about_the_whole() {
        let value = ConfigError::InvalidValue {
            name: "retention.ms".to_string(),
            value: "x".to_string(),
            reason: "Not a number of type LONG".to_string(),
        };
        assert_eq!(
            refused_topic("t", &value).message.as_deref(),
            Some(
                "Invalid config value for resource ConfigResource(type=TOPIC, name='t'): Invalid value x for \
                 configuration retention.ms: Not a number of type LONG"
            )
        );
        let unknown = ConfigError::InvalidConfiguration("Unknown topic config name: k".to_string());
        assert_eq!(refused_topic("t", &unknown).message.as_deref(), Some("Unknown topic config name: k"));
        assert_eq!(refused_topic("t", &unknown).code, ErrorCode::InvalidConfig);
    }

    #[test]
    fn settings_that_no_znode_can_hold_are_the_clients_fault() {
        let path = "/config/topics/t".to_owned();
        let refusal = unreached(ZkError::TooLarge { path, bytes: 2_000_000, limit: 1_044_463 });
        assert_eq!(refusal.code, ErrorCode::InvalidRequest);
        let message = refusal.message.unwrap_or_default();
        assert!(message.starts_with("znode /config/topics/t would hold 2000000 bytes"), "{message}");
        assert_eq!(unreached(ZkError::SessionExpired).code, ErrorCode::UnknownServerError);
    }
}
