//! kafka-reassign-partitions.sh: moves partitions to other brokers, and between the log directories of brokers.
//! Source: kafka 3.9.1 tools/src/main/java/org/apache/kafka/tools/reassign/ReassignPartitionsCommand.java.

mod log_dirs;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io::Write;
use std::time::Duration;

use serde_json::Value;

use crate::cli::cluster;
use crate::cli::options::{BOOTSTRAP_SERVER, COMMAND_CONFIG, Options, Stop, Takes, Tool, flag};
use crate::cli::reassign_partitions::log_dirs::Targets;
use crate::client::admin::{BROKER_RESOURCE, Ongoing, TOPIC_RESOURCE};
use crate::client::cluster::Cluster;
use crate::client::error::{ClientError, told};
use crate::controller::assignment::{Candidate, Start, assign};
use crate::model::{BrokerId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ReassignablePartition, ReassignableTopic,
};
use crate::protocol::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use crate::protocol::messages::list_partition_reassignments::OngoingPartitionReassignment;

pub(crate) const TOOL: Tool = Tool {
    script: "kafka-reassign-partitions",
    about: "This tool helps to move topic partitions between replicas.",
    flags: &[
        flag("verify", Takes::Nothing, "Verify if the reassignment completed, and if so, remove its throttles."),
        flag("generate", Takes::Nothing, "Print a candidate reassignment, without executing it."),
        flag("execute", Takes::Nothing, "Kick off the reassignment of --reassignment-json-file."),
        flag("cancel", Takes::Nothing, "Cancel an active reassignment."),
        flag("list", Takes::Nothing, "List all active partition reassignments."),
        BOOTSTRAP_SERVER,
        COMMAND_CONFIG,
        flag(
            "reassignment-json-file",
            Takes::Value("manual assignment json file path"),
            "{\"version\":1, \"partitions\": [{\"topic\": \"foo\", \"partition\": 1, \"replicas\": [1,2,3], \"log_dirs\": \
             [\"dir1\",\"dir2\",\"any\"]}]}; \"log_dirs\" may be left out.",
        ),
        flag(
            "topics-to-move-json-file",
            Takes::Value("topics to reassign json file path"),
            "{\"version\":1, \"topics\": [{\"topic\": \"foo\"}]}",
        ),
        flag("broker-list", Takes::Value("brokerlist"), "The brokers that --generate uses, as 0,1,2."),
        flag("disable-rack-aware", Takes::Nothing, "Disable rack aware replica assignment."),
        flag("throttle", Takes::Value("throttle"), "Bytes a second between brokers; to change it, add --additional."),
        flag(
            "replica-alter-log-dirs-throttle",
            Takes::Value("replicaAlterLogDirsThrottle"),
            "Bytes a second between the log directories of a broker.",
        ),
        flag("timeout", Takes::Value("timeout"), "How long in ms moves between log directories may take to begin."),
        flag("additional", Takes::Nothing, "Execute this reassignment in addition to any other ongoing ones."),
        flag("preserve-throttles", Takes::Nothing, "Do not modify broker or topic throttles."),
    ],
};

const ACTIONS: [&str; 5] = ["generate", "execute", "verify", "cancel", "list"];
const EXISTING: &str = "Cannot execute because there is an existing partition assignment.  Use --additional to override \
                        this and create a new partition assignment in addition to the existing one. The --additional \
                        flag can also be used to change the throttle by resubmitting the current reassignment.";
const VERIFY_PERIODICALLY: &str = "Warning: You must run --verify periodically, until the reassignment completes, to \
                                   ensure the throttle is removed.";
const ANY_LOG_DIR: &str = "any";
/// Unless `--timeout` says otherwise.
const MOVES_BEGIN_WITHIN: Duration = Duration::from_secs(10);
const LEADER_RATE: &str = "leader.replication.throttled.rate";
const FOLLOWER_RATE: &str = "follower.replication.throttled.rate";
const LOG_DIRS_RATE: &str = "replica.alter.log.dirs.io.max.bytes.per.second";
const LEADER_REPLICAS: &str = "leader.replication.throttled.replicas";
const FOLLOWER_REPLICAS: &str = "follower.replication.throttled.replicas";
/// Operations of IncrementalAlterConfigs.
const SET: i8 = 0;
const DELETE: i8 = 1;

/// Replicas by partition.
type Assignments = BTreeMap<TopicPartition, Vec<i32>>;

/// Which flags go with an action: those that it needs, and those that it takes.
fn flags_of(action: &str) -> (&'static [&'static str], &'static [&'static str]) {
    match action {
        "verify" => (&["reassignment-json-file"], &["preserve-throttles"]),
        "generate" => (&["topics-to-move-json-file", "broker-list"], &["disable-rack-aware"]),
        "execute" => {
            (&["reassignment-json-file"], &["additional", "throttle", "replica-alter-log-dirs-throttle", "timeout"])
        }
        "cancel" => (&["reassignment-json-file"], &["preserve-throttles", "timeout"]),
        _ => (&[], &[]),
    }
}

fn action(options: &Options) -> Result<&'static str, Stop> {
    let mut chosen = ACTIONS.into_iter().filter(|action| options.has(action));
    let (Some(action), None) = (chosen.next(), chosen.next()) else {
        let all: Vec<String> = ACTIONS.iter().map(|action| format!("--{action}")).collect();
        return Err(Stop::Usage(format!("Command must include exactly one action: {}", all.join(", "))));
    };
    if !options.has("bootstrap-server") {
        return Err(Stop::Usage("Please specify --bootstrap-server".to_owned()));
    }
    let (needed, taken) = flags_of(action);
    for flag in needed {
        options.required(flag)?;
    }
    let always = ["bootstrap-server", "command-config", action];
    let is_taken = |name: &&str| needed.contains(name) || taken.contains(name) || always.contains(name);
    match TOOL.flags.iter().map(|flag| flag.name).find(|name| options.has(name) && !is_taken(name)) {
        Some(name) => Err(Stop::Usage(format!("Option \"[{name}]\" can't be used with action \"[{action}]\""))),
        None => Ok(action),
    }
}

pub(crate) async fn run(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    let action = action(options)?;
    let outcome = match cluster(options, "reassign-partitions-tool") {
        Ok(cluster) => match action {
            "verify" => verify(options, &cluster, out).await,
            "generate" => generate(options, &cluster, out).await,
            "execute" => execute(options, &cluster, out).await,
            "cancel" => cancel(options, &cluster, out).await,
            _ => list(&cluster, out).await,
        },
        Err(stop) => Err(stop),
    };
    match outcome {
        // Like Kafka's, this tool tells its mistakes where it tells the rest.
        Err(Stop::Failed(why)) => {
            writeln!(out, "Error: {why}")?;
            Err(Stop::Reported)
        }
        outcome => outcome,
    }
}

fn failed(why: impl Into<String>) -> Stop {
    Stop::Failed(why.into())
}

/// What went wrong in words of its own, without `Error:` before them.
fn terse(out: &mut dyn Write, why: impl Display) -> Stop {
    match writeln!(out, "{why}") {
        Ok(()) => Stop::Reported,
        Err(_) => Stop::Output,
    }
}

fn json_of(options: &Options, flag: &str) -> Result<Value, Stop> {
    let path = options.required(flag)?;
    let text = std::fs::read(path).map_err(|error| failed(format!("read {path}: {error}")))?;
    let parsed: Value =
        serde_json::from_slice(&text).map_err(|error| failed(format!("{path} is not JSON: {error}")))?;
    if !parsed.is_object() {
        return Err(failed(format!("Expected JSON object, received {parsed}")));
    }
    match parsed.get("version").map_or(Some(1), Value::as_i64) {
        Some(1) => Ok(parsed),
        _ => Err(failed(format!("Not supported version field value {}", parsed["version"]))),
    }
}

/// A list that may be left out, but be nothing else.
/// Source: kafka 3.9.0-rc3 server-common/src/main/java/org/apache/kafka/server/util/json/JsonValue.java, asJsonArray.
fn list_in<'a>(object: &'a Value, name: &str) -> Result<Option<&'a Vec<Value>>, String> {
    match object.get(name) {
        None => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list)),
        Some(other) => Err(format!("Expected JSON array, received {other}")),
    }
}

fn number(value: &Value) -> Option<i32> {
    value.as_i64().and_then(|id| i32::try_from(id).ok())
}

/// What a file asks for.
#[derive(Debug, PartialEq)]
struct Asked {
    /// In the order of the file, each as often as it stands there.
    partitions: Vec<(TopicPartition, Vec<i32>)>,
    log_dirs: Targets,
}

fn parse_reassignment(data: &Value) -> Result<Asked, String> {
    let (mut partitions, mut targets) = (Vec::new(), Targets::new());
    for entry in list_in(data, "partitions")?.into_iter().flatten() {
        let topic = entry.get("topic").and_then(Value::as_str);
        let partition = entry.get("partition").and_then(number);
        let replicas = entry.get("replicas").and_then(Value::as_array);
        let replicas: Option<Vec<i32>> = replicas.and_then(|ids| ids.iter().map(number).collect());
        let (Some(topic), Some(partition), Some(replicas)) = (topic, partition, replicas) else {
            return Err(format!("{entry} lacks a topic, a partition or replicas"));
        };
        let name = TopicPartition::new(topic, partition);
        if let Some(log_dirs) = list_in(entry, "log_dirs")? {
            if log_dirs.len() != replicas.len() {
                return Err(format!(
                    "Size of replicas list {replicas:?} is different from size of log dirs list {} for partition {name}",
                    entry["log_dirs"]
                ));
            }
            for (replica, log_dir) in replicas.iter().zip(log_dirs) {
                match log_dir.as_str() {
                    Some(ANY_LOG_DIR) => {}
                    Some(path) => drop(targets.insert((*replica, name.clone()), path.to_owned())),
                    None => return Err(format!("{log_dir} is no log directory of partition {name}")),
                }
            }
        }
        partitions.push((name, replicas));
    }
    Ok(Asked { partitions, log_dirs: targets })
}

fn duplicates<T: Ord + Clone>(things: &[T]) -> Vec<T> {
    let mut seen = BTreeSet::new();
    let twice: BTreeSet<T> = things.iter().filter(|thing| !seen.insert((*thing).clone())).cloned().collect();
    twice.into_iter().collect()
}

fn checked_reassignment(partitions: Vec<(TopicPartition, Vec<i32>)>) -> Result<Assignments, String> {
    if partitions.is_empty() {
        return Err("Partition reassignment list cannot be empty".to_owned());
    }
    if partitions.iter().any(|(_, replicas)| replicas.is_empty()) {
        return Err("Partition replica list cannot be empty".to_owned());
    }
    let names: Vec<TopicPartition> = partitions.iter().map(|(name, _)| name.clone()).collect();
    let twice = duplicates(&names);
    if !twice.is_empty() {
        return Err(format!("Partition reassignment contains duplicate topic partitions: {}", joined(&twice)));
    }
    let entries = partitions.iter().map(|(name, replicas)| (name, duplicates(replicas)));
    let entries: Vec<String> = entries
        .filter(|(_, twice)| !twice.is_empty())
        .map(|(name, twice)| format!("{name} contains multiple entries for {}", joined(&twice)))
        .collect();
    match entries.is_empty() {
        true => Ok(partitions.into_iter().collect()),
        false => Err(format!("Partition replica lists may not contain duplicate entries: {}", entries.join(". "))),
    }
}

fn joined<T: Display>(things: impl IntoIterator<Item = T>) -> String {
    things.into_iter().map(|thing| thing.to_string()).collect::<Vec<_>>().join(",")
}

fn plural(count: usize, word: &str) -> String {
    format!("{word}{}", if count == 1 { "" } else { "s" })
}

/// As Kafka writes it, key by key, so that it can be compared as text.
fn reassignment_json(assignments: &Assignments) -> String {
    let partition = |(name, replicas): (&TopicPartition, &Vec<i32>)| {
        let any: Vec<String> = replicas.iter().map(|_| format!("\"{ANY_LOG_DIR}\"")).collect();
        format!(
            "{{\"topic\":{},\"partition\":{},\"replicas\":[{}],\"log_dirs\":[{}]}}",
            Value::from(&*name.topic),
            name.partition,
            joined(replicas),
            any.join(",")
        )
    };
    let partitions: Vec<String> = assignments.iter().map(partition).collect();
    format!("{{\"version\":1,\"partitions\":[{}]}}", partitions.join(","))
}

/// Replicas of all partitions of the topics; those that do not exist are missing.
async fn current(cluster: &Cluster, topics: &BTreeSet<String>) -> Result<Assignments, ClientError> {
    if topics.is_empty() {
        return Ok(Assignments::new());
    }
    let names: Vec<String> = topics.iter().cloned().collect();
    let metadata = cluster.retried("describe topics", || cluster.metadata(Some(&names), false)).await?;
    let mut found = Assignments::new();
    for topic in metadata.topics {
        let name = topic.name.unwrap_or_default();
        let code = ErrorCode::from_code(topic.error_code);
        if code.is_error() && code != ErrorCode::UnknownTopicOrPartition {
            return Err(ClientError::refused(format!("describe topic {name}"), code, None));
        }
        for partition in topic.partitions {
            found.insert(TopicPartition::new(name.as_str(), partition.partition_index), partition.replica_nodes);
        }
    }
    Ok(found)
}

fn topics_of<'a>(partitions: impl IntoIterator<Item = &'a TopicPartition>) -> BTreeSet<String> {
    partitions.into_iter().map(|name| name.topic.to_string()).collect()
}

/// Asks for moves, or with `None` to cancel them, and returns those that were refused with the reasons.
async fn alter(
    cluster: &Cluster,
    asked: BTreeMap<TopicPartition, Option<Vec<i32>>>,
) -> Result<BTreeMap<TopicPartition, String>, ClientError> {
    let names: Vec<TopicPartition> = asked.keys().cloned().collect();
    let mut topics: BTreeMap<String, Vec<ReassignablePartition>> = BTreeMap::new();
    for (name, replicas) in asked {
        let partition = ReassignablePartition { partition_index: name.partition, replicas };
        topics.entry(name.topic.to_string()).or_default().push(partition);
    }
    let topics = topics.into_iter().map(|(name, partitions)| ReassignableTopic { name, partitions }).collect();
    let request = AlterPartitionReassignmentsRequest { timeout_ms: 60_000, topics };
    let code_of = |answer: &AlterPartitionReassignmentsResponse| ErrorCode::from_code(answer.error_code);
    let answer = cluster.send_to_controller(&request, i16::MAX, code_of).await?;
    let code = ErrorCode::from_code(answer.error_code);
    if code.is_error() {
        // It is said of each.
        let why = told(code, answer.error_message.as_deref());
        return Ok(names.into_iter().map(|name| (name, why.to_owned())).collect());
    }
    let mut refused = BTreeMap::new();
    for topic in answer.responses {
        for partition in topic.partitions {
            let code = ErrorCode::from_code(partition.error_code);
            if code.is_error() {
                let why = told(code, partition.error_message.as_deref()).to_owned();
                refused.insert(TopicPartition::new(topic.name.as_str(), partition.partition_index), why);
            }
        }
    }
    Ok(refused)
}

async fn list(cluster: &Cluster, out: &mut dyn Write) -> Result<(), Stop> {
    let ongoing = cluster.partition_reassignments().await?;
    if ongoing.is_empty() {
        writeln!(out, "No partition reassignments found.")?;
        return Ok(());
    }
    writeln!(out, "Current partition reassignments:")?;
    for (name, partition) in ongoing {
        let part = |word: &str, ids: &[i32]| match ids {
            [] => String::new(),
            ids => format!(" {word}: {}.", joined(ids)),
        };
        writeln!(
            out,
            "{name}: replicas: {}.{}{}",
            joined(&partition.replicas),
            part("adding", &partition.adding_replicas),
            part("removing", &partition.removing_replicas)
        )?;
    }
    Ok(())
}

async fn generate(options: &Options, cluster: &Cluster, out: &mut dyn Write) -> Result<(), Stop> {
    let brokers = options.required("broker-list")?.split(',').map(str::parse::<i32>).collect::<Result<Vec<_>, _>>();
    let brokers = brokers.map_err(|error| failed(format!("For --broker-list: {error}")))?;
    let twice = duplicates(&brokers);
    if !twice.is_empty() {
        return Err(failed(format!("Broker list contains duplicate entries: {twice:?}")));
    }
    let data = json_of(options, "topics-to-move-json-file")?;
    let entries = list_in(&data, "topics").map_err(Stop::Failed)?.into_iter().flatten();
    let topics: Option<Vec<String>> =
        entries.map(|entry| entry.get("topic").and_then(Value::as_str).map(str::to_owned)).collect();
    let topics = topics.ok_or_else(|| failed("an entry of \"topics\" lacks a topic"))?;
    let twice = duplicates(&topics);
    if !twice.is_empty() {
        let twice = twice.join(", ");
        return Err(failed(format!("List of topics to reassign contains duplicate entries: [{twice}]")));
    }
    let topics: BTreeSet<String> = topics.into_iter().collect();
    let current = current(cluster, &topics).await?;
    if let Some(missing) = topics.difference(&topics_of(current.keys())).next() {
        return Err(failed(format!("Topic {missing} not found.")));
    }
    let candidates = candidates(cluster, &brokers, !options.has("disable-rack-aware"))?;
    let mut proposed = Assignments::new();
    for topic in &topics {
        let partitions: Vec<&Vec<i32>> =
            current.iter().filter(|(name, _)| *name.topic == **topic).map(|(_, replicas)| replicas).collect();
        let factor = partitions.first().map_or(0, |replicas| replicas.len());
        let count = i32::try_from(partitions.len()).unwrap_or(i32::MAX);
        let factor = i16::try_from(factor).unwrap_or(i16::MAX);
        let assigned = assign(&candidates, count, factor, 0, Start::random(candidates.len()));
        for (partition, replicas) in assigned.map_err(|error| failed(error.to_string()))? {
            let replicas = replicas.into_iter().map(|id| id.0).collect();
            proposed.insert(TopicPartition::new(topic.as_str(), partition), replicas);
        }
    }
    writeln!(out, "Current partition replica assignment\n{}\n", reassignment_json(&current))?;
    writeln!(out, "Proposed partition reassignment configuration\n{}", reassignment_json(&proposed))?;
    Ok(())
}

/// Those of the brokers that are live, with their racks unless these are left out.
fn candidates(cluster: &Cluster, brokers: &[i32], with_racks: bool) -> Result<Vec<Candidate>, Stop> {
    let live = cluster.nodes().into_iter().filter(|node| brokers.contains(&node.id.0));
    let mut found: Vec<Candidate> =
        live.map(|node| Candidate { id: node.id, rack: node.rack.filter(|_| with_racks) }).collect();
    found.sort_unstable_by_key(|candidate| candidate.id);
    let rackless = found.iter().filter(|candidate| candidate.rack.is_none()).count();
    if with_racks && rackless != 0 && rackless != found.len() {
        return Err(failed(
            "Not all brokers have rack information. Add --disable-rack-aware in command line to make replica \
             assignment without rack information.",
        ));
    }
    Ok(found)
}

async fn execute(options: &Options, cluster: &Cluster, out: &mut dyn Write) -> Result<(), Stop> {
    let data = json_of(options, "reassignment-json-file")?;
    let Asked { partitions, log_dirs: targets } = parse_reassignment(&data).map_err(Stop::Failed)?;
    let proposed = checked_reassignment(partitions).map_err(Stop::Failed)?;
    let timeout = timeout(options)?;
    let throttle = options.number::<i64>("throttle")?.filter(|rate| *rate >= 0);
    let log_dirs_throttle = options.number::<i64>("replica-alter-log-dirs-throttle")?.filter(|rate| *rate >= 0);
    let ongoing = cluster.partition_reassignments().await?;
    if !options.has("additional") && !ongoing.is_empty() {
        return Err(terse(out, EXISTING));
    }
    let mut current = current(cluster, &topics_of(proposed.keys())).await?;
    let live: BTreeSet<i32> = cluster.nodes().into_iter().map(|node| node.id.0).collect();
    if let Some(unknown) = proposed.values().flatten().find(|id| !live.contains(id)) {
        return Err(failed(format!("Unknown broker id {unknown}")));
    }
    let known = topics_of(current.keys());
    if let Some(missing) = topics_of(proposed.keys()).difference(&known).next() {
        return Err(failed(format!("Topic {missing} not found.")));
    }
    let missing: Vec<String> =
        proposed.keys().filter(|name| !current.contains_key(*name)).map(ToString::to_string).collect();
    if !missing.is_empty() {
        return Err(failed(format!("Unable to find partition: {}", missing.join(", "))));
    }
    current.retain(|name, _| proposed.contains_key(name));
    writeln!(
        out,
        "Current partition replica assignment\n\n{}\n\nSave this to use as the --reassignment-json-file option during \
         rollback",
        reassignment_json(&current)
    )?;
    if throttle.is_some() || log_dirs_throttle.is_some() {
        writeln!(out, "{VERIFY_PERIODICALLY}")?;
    }
    if let Some(rate) = throttle {
        let moves = moves(&ongoing, &proposed, &current);
        set_throttles(cluster, &moves, &live, rate).await?;
        writeln!(out, "The inter-broker throttle limit was set to {rate} B/s")?;
    }
    if let Some(rate) = log_dirs_throttle {
        let brokers: BTreeSet<i32> = targets.keys().map(|(broker, _)| *broker).collect();
        for broker in brokers {
            let values = [(LOG_DIRS_RATE, Some(rate.to_string()))];
            alter_configs(cluster, BROKER_RESOURCE, &broker.to_string(), &values).await?;
        }
        writeln!(out, "The replica-alter-dir throttle limit was set to {rate} B/s")?;
    }
    let asked = proposed.iter().map(|(name, replicas)| (name.clone(), Some(replicas.clone()))).collect();
    let refused = alter(cluster, asked).await?;
    if !refused.is_empty() {
        let lines: Vec<String> = refused.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        return Err(terse(out, format!("Error reassigning partition(s):\n{}", lines.join("\n"))));
    }
    writeln!(
        out,
        "Successfully started {} for {}",
        plural(proposed.len(), "partition reassignment"),
        joined(proposed.keys())
    )?;
    match targets.is_empty() {
        true => Ok(()),
        false => log_dirs::execute(cluster, &targets, timeout, out).await,
    }
}

/// How long the moves between log directories may take to begin.
fn timeout(options: &Options) -> Result<Duration, Stop> {
    let given_ms = options.number::<i64>("timeout")?;
    Ok(given_ms.map_or(MOVES_BEGIN_WITHIN, |ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0))))
}

/// Where a partition's replicas come from, and where they go to.
#[derive(Debug, PartialEq, Eq)]
struct Move {
    sources: BTreeSet<i32>,
    destinations: BTreeSet<i32>,
}

/// Of everything that moves then: what moves already, and what is proposed.
fn moves(ongoing: &Ongoing, proposed: &Assignments, current: &Assignments) -> BTreeMap<TopicPartition, Move> {
    let moving = |(name, partition): (&TopicPartition, &OngoingPartitionReassignment)| {
        let destinations: BTreeSet<i32> = partition.adding_replicas.iter().copied().collect();
        let sources = partition.replicas.iter().copied().filter(|id| !destinations.contains(id)).collect();
        (name.clone(), Move { sources, destinations })
    };
    let mut moves: BTreeMap<TopicPartition, Move> = ongoing.iter().map(moving).collect();
    for (name, replicas) in proposed {
        let sources = match moves.remove(name) {
            Some(moving) => moving.sources,
            None => current.get(name).into_iter().flatten().copied().collect(),
        };
        let destinations = replicas.iter().copied().filter(|id| !sources.contains(id)).collect();
        moves.insert(name.clone(), Move { sources, destinations });
    }
    moves
}

/// The throttled replicas of each topic, as `partition:broker` in the order of the text.
fn throttled(
    moves: &BTreeMap<TopicPartition, Move>,
    brokers: impl Fn(&Move) -> &BTreeSet<i32>,
) -> BTreeMap<String, String> {
    let mut topics: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, one) in moves {
        let replicas = topics.entry(name.topic.to_string()).or_default();
        replicas.extend(brokers(one).iter().map(|broker| format!("{}:{broker}", name.partition)));
    }
    topics.into_iter().map(|(topic, replicas)| (topic, joined(replicas))).collect()
}

async fn set_throttles(
    cluster: &Cluster,
    moves: &BTreeMap<TopicPartition, Move>,
    live: &BTreeSet<i32>,
    rate: i64,
) -> Result<(), ClientError> {
    let leaders = throttled(moves, |one| &one.sources);
    let followers = throttled(moves, |one| &one.destinations);
    for (topic, replicas) in leaders {
        let followers = followers.get(&topic).cloned().unwrap_or_default();
        let values = [(LEADER_REPLICAS, Some(replicas)), (FOLLOWER_REPLICAS, Some(followers))];
        alter_configs(cluster, TOPIC_RESOURCE, &topic, &values).await?;
    }
    let brokers: BTreeSet<i32> =
        moves.values().flat_map(|one| one.sources.iter().chain(&one.destinations)).copied().collect();
    let rates = [(LEADER_RATE, Some(rate.to_string())), (FOLLOWER_RATE, Some(rate.to_string()))];
    // A broker that is gone changes nothing by itself, and keeps Kafka's tool from moving anything away from it.
    for broker in brokers.intersection(live) {
        alter_configs(cluster, BROKER_RESOURCE, &broker.to_string(), &rates).await?;
    }
    Ok(())
}

/// Sets configs, or with `None` deletes them.
async fn alter_configs(
    cluster: &Cluster,
    resource_type: i8,
    name: &str,
    values: &[(&str, Option<String>)],
) -> Result<(), ClientError> {
    let config = |(name, value): &(&str, Option<String>)| AlterableConfig {
        name: (*name).to_owned(),
        config_operation: if value.is_some() { SET } else { DELETE },
        value: value.clone(),
    };
    let request = IncrementalAlterConfigsRequest {
        resources: vec![AlterConfigsResource {
            resource_type,
            resource_name: name.to_owned(),
            configs: values.iter().map(config).collect(),
        }],
        validate_only: false,
    };
    let request = &request;
    // A broker's own settings are changed at that broker.
    let broker = name.parse().ok().map(BrokerId).filter(|_| resource_type == BROKER_RESOURCE);
    let answer = match broker {
        Some(id) => {
            cluster.retried("alter configs", || async { cluster.broker(id).await?.send(request).await }).await?
        }
        None => cluster.send_to_any(request).await?,
    };
    for response in answer.responses {
        let code = ErrorCode::from_code(response.error_code);
        if code.is_error() {
            let doing = format!("alter configs of {}", response.resource_name);
            return Err(ClientError::refused(doing, code, response.error_message));
        }
    }
    Ok(())
}

async fn clear_throttles(
    cluster: &Cluster,
    targets: &[(TopicPartition, Vec<i32>)],
    out: &mut dyn Write,
) -> Result<(), Stop> {
    let live: BTreeSet<i32> = cluster.nodes().into_iter().map(|node| node.id.0).collect();
    let brokers: BTreeSet<i32> =
        live.iter().copied().chain(targets.iter().flat_map(|(_, replicas)| replicas.iter().copied())).collect();
    writeln!(out, "Clearing broker-level throttles on {} {}", plural(brokers.len(), "broker"), joined(&brokers))?;
    // A broker that is gone changes nothing by itself.
    for broker in brokers.intersection(&live) {
        let values = [(LEADER_RATE, None), (FOLLOWER_RATE, None), (LOG_DIRS_RATE, None)];
        alter_configs(cluster, BROKER_RESOURCE, &broker.to_string(), &values).await?;
    }
    let topics = topics_of(targets.iter().map(|(name, _)| name));
    writeln!(out, "Clearing topic-level throttles on {} {}", plural(topics.len(), "topic"), joined(&topics))?;
    for topic in topics {
        alter_configs(cluster, TOPIC_RESOURCE, &topic, &[(LEADER_REPLICAS, None), (FOLLOWER_REPLICAS, None)]).await?;
    }
    Ok(())
}

async fn verify(options: &Options, cluster: &Cluster, out: &mut dyn Write) -> Result<(), Stop> {
    let data = json_of(options, "reassignment-json-file")?;
    let Asked { partitions: targets, log_dirs: wanted } = parse_reassignment(&data).map_err(Stop::Failed)?;
    let ongoing = cluster.partition_reassignments().await?;
    let current = current(cluster, &topics_of(targets.iter().map(|(name, _)| name))).await?;
    write!(out, "{}", states(&targets, &ongoing, &current))?;
    let moves = log_dirs::states(cluster, &wanted).await?;
    writeln!(out, "{}", log_dirs::told(&moves, &wanted))?;
    if ongoing.is_empty() && log_dirs::are_done(&moves) && !options.has("preserve-throttles") {
        clear_throttles(cluster, &targets, out).await?;
    }
    Ok(())
}

fn states(targets: &[(TopicPartition, Vec<i32>)], ongoing: &Ongoing, current: &Assignments) -> String {
    let mut text = "Status of partition reassignment:\n".to_owned();
    let by_name: BTreeMap<&TopicPartition, &Vec<i32>> = targets.iter().map(|(name, target)| (name, target)).collect();
    for (name, target) in by_name {
        let none = Vec::new();
        let replicas = current.get(name).unwrap_or(&none);
        text += &if ongoing.contains_key(name) {
            format!("Reassignment of partition {name} is still in progress.\n")
        } else if replicas == target {
            format!("Reassignment of partition {name} is completed.\n")
        } else {
            format!(
                "There is no active reassignment of partition {name}, but replica set is {} rather than {}.\n",
                joined(replicas),
                joined(target)
            )
        };
    }
    text
}

/// Also of a move that only adds replicas, which Kafka's tool (ReassignPartitionsCommand.cancelAssignment) passes over by
/// a slip of its condition, to say that none is active.
async fn cancel(options: &Options, cluster: &Cluster, out: &mut dyn Write) -> Result<(), Stop> {
    let data = json_of(options, "reassignment-json-file")?;
    let Asked { partitions: targets, log_dirs: wanted } = parse_reassignment(&data).map_err(Stop::Failed)?;
    let timeout = timeout(options)?;
    let ongoing = cluster.partition_reassignments().await?;
    let named: BTreeSet<&TopicPartition> = targets.iter().map(|(name, _)| name).collect();
    let active: Vec<TopicPartition> = ongoing.into_keys().filter(|name| named.contains(name)).collect();
    if active.is_empty() {
        writeln!(out, "None of the specified partition reassignments are active.")?;
    } else {
        let refused = alter(cluster, active.iter().map(|name| (name.clone(), None)).collect()).await?;
        if !refused.is_empty() {
            let lines: Vec<String> = refused.iter().map(|(name, why)| format!("{name}: {why}")).collect();
            let what = plural(refused.len(), "Error cancelling partition reassignment");
            return Err(terse(out, format!("{what} for:\n{}", lines.join("\n"))));
        }
        let what = plural(active.len(), "partition reassignment");
        writeln!(out, "Successfully cancelled {what} for: {}", joined(&active))?;
    }
    let moving = log_dirs::to_be_cancelled(log_dirs::states(cluster, &wanted).await?);
    if moving.is_empty() {
        // Kafka ends this line with the next one.
        write!(out, "None of the specified partition moves are active.")?;
    } else {
        log_dirs::execute(cluster, &moving, timeout, out).await?;
    }
    if !options.has("preserve-throttles") {
        cluster.retried("find brokers", || cluster.metadata(Some(&[]), false)).await?;
        clear_throttles(cluster, &targets, out).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Assignments, String> {
        parse_reassignment(&serde_json::from_str(text).unwrap())
            .and_then(|asked| checked_reassignment(asked.partitions))
    }

    fn assignments(all: &[(&str, i32, &[i32])]) -> Assignments {
        all.iter().map(|(topic, id, replicas)| (TopicPartition::new(*topic, *id), replicas.to_vec())).collect()
    }

    #[test]
    fn a_file_is_read_as_it_is_written() {
        let wanted = assignments(&[("t", 0, &[1, 2]), ("t", 1, &[3])]);
        let text = reassignment_json(&wanted);
        assert_eq!(
            text,
            r#"{"version":1,"partitions":[{"topic":"t","partition":0,"replicas":[1,2],"log_dirs":["any","any"]},{"topic":"t","partition":1,"replicas":[3],"log_dirs":["any"]}]}"#
        );
        assert_eq!(parsed(&text), Ok(wanted));
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_kafkas_words() {
        let one = |replicas: &str| {
            parsed(&format!(r#"{{"partitions":[{{"topic":"t","partition":0,"replicas":{replicas}}}]}}"#))
        };
        assert_eq!(parsed("{}"), Err("Partition reassignment list cannot be empty".to_owned()));
        assert_eq!(one("[]"), Err("Partition replica list cannot be empty".to_owned()));
        assert_eq!(
            one("[1,1,2]"),
            Err("Partition replica lists may not contain duplicate entries: t-0 contains multiple entries for 1"
                .to_owned())
        );
        let twice =
            r#"{"partitions":[{"topic":"t","partition":0,"replicas":[1]},{"topic":"t","partition":0,"replicas":[2]}]}"#;
        assert_eq!(parsed(twice), Err("Partition reassignment contains duplicate topic partitions: t-0".to_owned()));
        let moved = r#"{"partitions":[{"topic":"t","partition":0,"replicas":[1],"log_dirs":["/d"]}]}"#;
        let asked = parse_reassignment(&serde_json::from_str(moved).unwrap()).unwrap();
        assert_eq!(asked.log_dirs, Targets::from([((1, TopicPartition::new("t", 0)), "/d".to_owned())]));
        for (field, wrong) in [("[\"/d\"]", "\"/d\""), ("[\"/d\"]", "null"), ("[1]", "1"), ("[1]", "[\"1\"]")] {
            assert!(parsed(&moved.replace(field, wrong)).is_err(), "{field} as {wrong}");
        }
        let not_a_list = r#"{"partitions":{"topic":"t","partition":0,"replicas":[1]}}"#;
        assert!(parsed(not_a_list).unwrap_err().starts_with("Expected JSON array, received {"));
        assert_eq!(parsed(r#"{"partitions":null}"#), Err("Expected JSON array, received null".to_owned()));
        let too_many = moved.replace("[1]", "[1,2]");
        assert!(parsed(&too_many).unwrap_err().starts_with("Size of replicas list [1, 2] is different from"));
    }

    #[test]
    fn an_action_stands_alone_with_the_flags_that_it_takes() {
        let refusal = |line: &str| match action(&TOOL.options(line)) {
            Err(Stop::Usage(message)) => message,
            other => panic!("{line}: {other:?}"),
        };
        let all = "Command must include exactly one action: --generate, --execute, --verify, --cancel, --list";
        assert_eq!(refusal("--bootstrap-server a:1"), all);
        assert_eq!(refusal("--list --verify"), all);
        assert_eq!(refusal("--list"), "Please specify --bootstrap-server");
        assert_eq!(
            refusal("--verify --bootstrap-server a:1"),
            "Missing required argument \"[reassignment-json-file]\""
        );
        assert_eq!(
            refusal("--list --bootstrap-server a:1 --throttle 5"),
            "Option \"[throttle]\" can't be used with action \"[list]\""
        );
        assert_eq!(action(&TOOL.options("--list --bootstrap-server a:1")).unwrap(), "list");
    }

    #[test]
    fn throttles_name_where_replicas_come_from_and_where_they_go() {
        let moving = OngoingPartitionReassignment {
            partition_index: 1,
            replicas: vec![4, 1, 2],
            adding_replicas: vec![4],
            removing_replicas: vec![1],
        };
        let ongoing = Ongoing::from([(TopicPartition::new("t", 1), moving)]);
        let proposed = assignments(&[("t", 0, &[3, 1]), ("t", 1, &[5, 2]), ("u", 0, &[2])]);
        let current = assignments(&[("t", 0, &[1, 2]), ("u", 0, &[1])]);
        let moves = moves(&ongoing, &proposed, &current);
        let text =
            |topics: BTreeMap<String, String>| topics.into_iter().map(|(t, r)| format!("{t}={r}")).collect::<Vec<_>>();
        assert_eq!(text(throttled(&moves, |one| &one.sources)), ["t=0:1,0:2,1:1,1:2", "u=0:1"]);
        assert_eq!(text(throttled(&moves, |one| &one.destinations)), ["t=0:3,1:5", "u=0:2"]);
    }

    #[test]
    fn the_state_of_each_partition_is_told() {
        let targets: Vec<_> = assignments(&[("t", 0, &[1]), ("t", 1, &[1]), ("t", 2, &[1, 2])]).into_iter().collect();
        let ongoing = Ongoing::from([(TopicPartition::new("t", 1), OngoingPartitionReassignment::default())]);
        let current = assignments(&[("t", 0, &[1]), ("t", 1, &[1]), ("t", 2, &[3])]);
        assert_eq!(
            states(&targets, &ongoing, &current),
            "Status of partition reassignment:\n\
             Reassignment of partition t-0 is completed.\n\
             Reassignment of partition t-1 is still in progress.\n\
             There is no active reassignment of partition t-2, but replica set is 3 rather than 1,2.\n"
        );
    }
}
