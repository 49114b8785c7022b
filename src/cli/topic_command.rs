//! kafka-topics.sh: creates, describes, alters, deletes and lists topics.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;

use crate::cli::configs::message_format_version_warning;
use crate::cli::options::{BOOTSTRAP_SERVER, COMMAND_CONFIG, Options, Stop, Takes, Tool, flag};
use crate::cli::topic_filter::TopicFilter;
use crate::cli::{cluster, topic_command_zookeeper};
use crate::client::admin::{Ongoing, TOPIC_RESOURCE};
use crate::client::cluster::Cluster;
use crate::client::error::{ClientError, checked};
use crate::client::pattern::Pattern;
use crate::model::internal_topics::is_internal_topic;
use crate::model::{TopicId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::create_partitions::{
    CreatePartitionsAssignment, CreatePartitionsRequest, CreatePartitionsTopic,
};
use crate::protocol::messages::create_topics::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use crate::protocol::messages::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use crate::protocol::messages::describe_configs::DescribeConfigsResult;
use crate::protocol::messages::metadata::{MetadataResponsePartition, MetadataResponseTopic};

pub(crate) const TOOL: Tool = Tool {
    script: "kafka-topics",
    about: "This tool helps to create, delete, describe, or change a topic.",
    flags: &[
        BOOTSTRAP_SERVER,
        flag(
            "zookeeper",
            Takes::Value("hosts"),
            "Kafka 2.8's direct form: the connection string of the ZooKeeper ensemble, host:port[/chroot].",
        ),
        COMMAND_CONFIG,
        flag("list", Takes::Nothing, "List all available topics."),
        flag("create", Takes::Nothing, "Create a new topic."),
        flag("delete", Takes::Nothing, "Delete a topic."),
        flag("alter", Takes::Nothing, "Alter the number of partitions and replica assignment."),
        flag("describe", Takes::Nothing, "List details for the given topics."),
        flag(
            "topic",
            Takes::Value("topic"),
            "The topic to create, alter, describe or delete; a regular expression except with --create.",
        ),
        flag("topic-id", Takes::Value("topic-id"), "The topic id to describe."),
        flag("config", Takes::Repeated("name=value"), "A topic configuration override for the topic being created."),
        flag("delete-config", Takes::Repeated("name"), "A topic configuration override to be removed (--zookeeper)."),
        flag("partitions", Takes::Value("# of partitions"), "The number of partitions for --create or --alter."),
        flag(
            "replication-factor",
            Takes::Value("replication factor"),
            "The replication factor of the topic being created; the cluster's default if absent.",
        ),
        flag(
            "replica-assignment",
            Takes::Value("broker_id:broker_id,broker_id:broker_id,..."),
            "Manual partition-to-broker assignments for the topic being created or altered.",
        ),
        flag("under-replicated-partitions", Takes::Nothing, "With --describe: only under-replicated partitions."),
        flag("unavailable-partitions", Takes::Nothing, "With --describe: only partitions without a live leader."),
        flag(
            "under-min-isr-partitions",
            Takes::Nothing,
            "With --describe: only partitions with fewer in-sync replicas than the configured minimum.",
        ),
        flag(
            "at-min-isr-partitions",
            Takes::Nothing,
            "With --describe: only partitions with exactly the configured minimum of in-sync replicas.",
        ),
        flag("topics-with-overrides", Takes::Nothing, "With --describe: only topics that override configs."),
        flag("if-exists", Takes::Nothing, "With --alter, --delete or --describe: act only if the topic exists."),
        flag("if-not-exists", Takes::Nothing, "With --create: act only if the topic does not exist."),
        flag("exclude-internal", Takes::Nothing, "With --list or --describe: leave internal topics out."),
        flag("disable-rack-aware", Takes::Nothing, "Kafka 2.8: assign replicas without regard to racks."),
        flag("force", Takes::Nothing, "Kafka 2.8: suppress console prompts."),
        flag(
            "partition-size-limit-per-response",
            Takes::Value("maximum number of partitions in one response"),
            "Accepted for compatibility.",
        ),
    ],
};

const ACTIONS: [&str; 5] = ["list", "describe", "create", "alter", "delete"];
const REPORTS: [&str; 4] =
    ["under-replicated-partitions", "under-min-isr-partitions", "at-min-isr-partitions", "unavailable-partitions"];

/// Refuses combinations that make no sense.
/// Source: kafka 3.9.1 tools/.../tools/TopicCommand.java, checkArgs; for --zookeeper 2.8.2 kafka/admin/TopicCommand.scala.
fn check(options: &Options) -> Result<(), Stop> {
    if ACTIONS.iter().filter(|action| options.has(action)).count() != 1 {
        let message = "Command must include exactly one action: --list, --describe, --create, --alter or --delete";
        return Err(Stop::Usage(message.to_owned()));
    }
    let is_direct = options.has("zookeeper");
    if is_direct == options.has("bootstrap-server") {
        return Err(Stop::Usage(match is_direct {
            true => "Only one of --bootstrap-server or --zookeeper must be specified".to_owned(),
            false => "--bootstrap-server must be specified".to_owned(),
        }));
    }
    if options.has("describe") && options.has("if-exists") && !options.has("topic") && !options.has("topic-id") {
        return Err(Stop::Usage("--topic or --topic-id is required to describe a topic".to_owned()));
    }
    if !options.has("list") && !options.has("describe") {
        options.required("topic")?;
    }
    if is_direct {
        options.exclude("zookeeper", &["command-config", "topic-id"])?;
        if options.has("create") && !options.has("replica-assignment") {
            options.required("partitions")?;
            options.required("replication-factor")?;
        }
    } else if options.has("alter") {
        if options.has("config") {
            let message = "Option combination \"[bootstrap-server, config]\" can't be used with option \"[alter]\" \
                           (the kafka-configs CLI supports altering topic configs with a --bootstrap-server option)";
            return Err(Stop::Usage(message.to_owned()));
        }
        options.required("partitions")?;
    }
    let except = |kept: &[&'static str]| -> Vec<&'static str> {
        ACTIONS.into_iter().filter(|action| !kept.contains(action)).collect()
    };
    options.exclude("config", &except(&["alter", "create"]))?;
    options.exclude("delete-config", &except(&["alter"]))?;
    if !is_direct {
        options.exclude("delete-config", &["bootstrap-server"])?;
    }
    options.exclude("partitions", &except(&["alter", "create"]))?;
    options.exclude("replication-factor", &except(&["create"]))?;
    options.exclude("replica-assignment", &except(&["create", "alter"]))?;
    if options.has("create") {
        options.exclude("replica-assignment", &["partitions", "replication-factor"])?;
    }
    for report in REPORTS {
        options.exclude(report, &except(&["describe"]))?;
        options.exclude(report, &["topics-with-overrides"])?;
    }
    options.exclude("topics-with-overrides", &except(&["describe"]))?;
    options.exclude("if-exists", &except(&["alter", "delete", "describe"]))?;
    options.exclude("if-not-exists", &except(&["create"]))?;
    options.exclude("exclude-internal", &except(&["list", "describe"]))
}

pub(crate) async fn run(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    check(options)?;
    if ["describe", "if-exists", "topic-id", "topic"].iter().all(|name| options.has(name)) {
        writeln!(
            out,
            "Only topic id will be used when both --topic and --topic-id are specified and topicId is not Uuid.ZERO_UUID"
        )?;
    }
    let outcome = match options.value("zookeeper") {
        Some(hosts) => topic_command_zookeeper::run(options, hosts, out).await,
        None => run_action(options, &cluster(options, "adminclient-1")?, out).await,
    };
    match outcome {
        // Numbers are read that late in Kafka's tool, too.
        Err(Stop::Failed(message) | Stop::Usage(message)) => {
            writeln!(out, "Error while executing topic command : {message}")?;
            log::error!("{message}");
            Err(Stop::Reported)
        }
        other => other,
    }
}

async fn run_action(options: &Options, cluster: &Cluster, out: &mut dyn Write) -> Result<(), Stop> {
    if options.has("create") {
        create(options, cluster, out).await
    } else if options.has("list") {
        let names = matching_topics(options, cluster).await?;
        Ok(writeln!(out, "{}", names.join("\n"))?)
    } else if options.has("describe") {
        describe(options, cluster, out).await
    } else if options.has("alter") {
        alter(options, cluster).await
    } else {
        delete(options, cluster).await
    }
}

/// The cluster's topics that `--topic` and `--exclude-internal` leave.
async fn matching_topics(options: &Options, cluster: &Cluster) -> Result<Vec<String>, Stop> {
    let names = cluster.topic_names().await?;
    filtered(options, names)
}

pub(crate) fn filtered(options: &Options, mut names: Vec<String>) -> Result<Vec<String>, Stop> {
    let excludes_internal = options.has("exclude-internal");
    match options.value("topic") {
        Some(text) => {
            let filter = TopicFilter::new(text).map_err(Stop::Failed)?;
            names.retain(|name| filter.allows(name, excludes_internal));
        }
        None => names.retain(|name| !(excludes_internal && is_internal_topic(name))),
    }
    Ok(names)
}

fn require_found(options: &Options, found: &[String]) -> Result<(), Stop> {
    match options.value("topic") {
        Some(topic) if found.is_empty() && !topic.is_empty() && !options.has("if-exists") => {
            // Kafka 3.9 prints the wrapper of the name with it.
            Err(Stop::Failed(format!("Topic 'Optional[{topic}]' does not exist as expected")))
        }
        _ => Ok(()),
    }
}

/// `1:2,3:1`: the replicas of each partition, all of one length, none twice in a partition.
pub(crate) fn parse_replica_assignment(text: &str) -> Result<Vec<Vec<i32>>, Stop> {
    let mut assignment: Vec<Vec<i32>> = Vec::new();
    for (index, partition) in text.split(',').enumerate() {
        let replicas: Vec<i32> = partition
            .split(':')
            .map(|id| id.trim().parse().map_err(|_| Stop::Failed(format!("For input string: \"{}\"", id.trim()))))
            .collect::<Result<_, _>>()?;
        let mut seen = HashSet::new();
        let twice: Vec<String> = replicas.iter().filter(|id| !seen.insert(**id)).map(i32::to_string).collect();
        if !twice.is_empty() {
            let twice = twice.join(",");
            return Err(Stop::Failed(format!("Partition replica lists may not contain duplicate entries: {twice}")));
        }
        if assignment.first().is_some_and(|first| first.len() != replicas.len()) {
            return Err(Stop::Failed(format!("Partition {index} has different replication factor: {replicas:?}")));
        }
        assignment.push(replicas);
    }
    Ok(assignment)
}

/// `--config` arguments. Keys and values are checked by whoever stores them.
pub(crate) fn parse_configs(options: &Options) -> Result<BTreeMap<String, String>, Stop> {
    let equals = Pattern::new(r"\s*=\s*").expect("the pattern is constant");
    let mut configs = BTreeMap::new();
    for argument in options.values("config") {
        match equals.split(argument).map_err(Stop::Failed)?[..] {
            [key, value] => configs.insert(key.trim().to_owned(), value.trim().to_owned()),
            _ => {
                let message = "requirement failed: Invalid topic config: all configs to be added must be in the \
                               format \"key=val\".";
                return Err(Stop::Failed(message.to_owned()));
            }
        };
    }
    Ok(configs)
}

pub(crate) fn warn_of_collisions(topic: &str, out: &mut dyn Write) -> std::io::Result<()> {
    if topic.contains(['.', '_']) {
        writeln!(
            out,
            "WARNING: Due to limitations in metric names, topics with a period ('.') or underscore ('_') could \
             collide. To avoid issues it is best to use either, but not both."
        )?;
    }
    Ok(())
}

async fn create(options: &Options, cluster: &Cluster, out: &mut dyn Write) -> Result<(), Stop> {
    let topic = options.required("topic")?;
    let configs = parse_configs(options)?;
    if let Some(version) = configs.get("message.format.version") {
        writeln!(out, "{}", message_format_version_warning(version))?;
    }
    warn_of_collisions(topic, out)?;
    let partitions: Option<i32> = options.number("partitions")?;
    let replication_factor: Option<i32> = options.number("replication-factor")?;
    if replication_factor.is_some_and(|factor| !(1..=i32::from(i16::MAX)).contains(&factor)) {
        let max = i16::MAX;
        return Err(Stop::Failed(format!("The replication factor must be between 1 and {max} inclusive")));
    }
    if partitions.is_some_and(|count| count < 1) {
        return Err(Stop::Failed("The partitions must be greater than 0".to_owned()));
    }
    let assignments = match options.value("replica-assignment") {
        Some(text) if !text.is_empty() => parse_replica_assignment(text)?,
        _ => Vec::new(),
    };
    let creatable = CreatableTopic {
        name: topic.to_owned(),
        // -1 leaves the number to the cluster (KIP-464); with an assignment the numbers follow from it.
        num_partitions: partitions.filter(|_| assignments.is_empty()).unwrap_or(-1),
        replication_factor: replication_factor.and_then(|factor| i16::try_from(factor).ok()).unwrap_or(-1),
        assignments: (0..)
            .zip(assignments)
            .map(|(partition_index, broker_ids)| CreatableReplicaAssignment { partition_index, broker_ids })
            .collect(),
        configs: configs.into_iter().map(|(name, value)| CreatableTopicConfig { name, value: Some(value) }).collect(),
    };
    let request =
        CreateTopicsRequest { topics: vec![creatable], timeout_ms: timeout_ms(cluster), validate_only: false };
    let answer = cluster
        .send_to_controller(&request, i16::MAX, |answer| {
            answer.topics.first().map_or(ErrorCode::None, |topic| ErrorCode::from_code(topic.error_code))
        })
        .await?;
    for result in answer.topics {
        let exists = result.error_code == ErrorCode::TopicAlreadyExists.code();
        if exists && options.has("if-not-exists") {
            return Ok(());
        }
        checked(format!("create topic {topic}"), result.error_code, result.error_message)?;
    }
    Ok(writeln!(out, "Created topic {topic}.")?)
}

/// What the broker is given to finish in: as long as we wait for its answer.
fn timeout_ms(cluster: &Cluster) -> i32 {
    i32::try_from(cluster.settings.connection.request_timeout.as_millis()).unwrap_or(i32::MAX)
}

async fn alter(options: &Options, cluster: &Cluster) -> Result<(), Stop> {
    let assignment = options.value("replica-assignment").map(parse_replica_assignment).transpose()?;
    let count: i32 = options.number("partitions")?.unwrap_or_default();
    let names = matching_topics(options, cluster).await?;
    require_found(options, &names)?;
    if names.is_empty() {
        return Ok(());
    }
    let described = cluster.describe_topics(&names).await?;
    let topics = described
        .iter()
        .map(|topic| CreatePartitionsTopic {
            name: topic.name.clone().unwrap_or_default(),
            count,
            assignments: assignment.as_ref().map(|assignment| {
                let new = assignment.iter().skip(topic.partitions.len());
                new.map(|ids| CreatePartitionsAssignment { broker_ids: ids.clone() }).collect()
            }),
        })
        .collect();
    let request = CreatePartitionsRequest { topics, timeout_ms: timeout_ms(cluster), validate_only: false };
    let answer = cluster
        .send_to_controller(&request, i16::MAX, |answer| {
            answer.results.first().map_or(ErrorCode::None, |result| ErrorCode::from_code(result.error_code))
        })
        .await?;
    for result in answer.results {
        checked(format!("add partitions to {}", result.name), result.error_code, result.error_message)?;
    }
    Ok(())
}

async fn delete(options: &Options, cluster: &Cluster) -> Result<(), Stop> {
    let names = matching_topics(options, cluster).await?;
    require_found(options, &names)?;
    if names.is_empty() {
        return Ok(());
    }
    // Version 6 names topics in structs, the older ones in a list of their own.
    let state = |name: &String| DeleteTopicState { name: Some(name.clone()), topic_id: TopicId::ZERO };
    let by_state = DeleteTopicsRequest {
        topics: names.iter().map(state).collect(),
        topic_names: Vec::new(),
        timeout_ms: timeout_ms(cluster),
    };
    let code_of = |answer: &crate::protocol::messages::delete_topics::DeleteTopicsResponse| {
        answer.responses.first().map_or(ErrorCode::None, |result| ErrorCode::from_code(result.error_code))
    };
    let newest = cluster.any().await?.version_of::<DeleteTopicsRequest>(i16::MAX)?;
    let answer = if newest >= 6 {
        cluster.send_to_controller(&by_state, i16::MAX, code_of).await?
    } else {
        let by_name = DeleteTopicsRequest { topics: Vec::new(), topic_names: names, ..by_state };
        cluster.send_to_controller(&by_name, 5, code_of).await?
    };
    for result in answer.responses {
        let name = result.name.unwrap_or_default();
        checked(format!("delete topic {name}"), result.error_code, result.error_message)?;
    }
    Ok(())
}

/// What a describe line is printed from; the direct form fills it from ZooKeeper.
pub(crate) struct DescribedTopic {
    pub(crate) name: String,
    pub(crate) topic_id: TopicId,
    /// Those that are not the built-in defaults.
    pub(crate) configs: Vec<(String, String)>,
    pub(crate) min_insync_replicas: Option<usize>,
    pub(crate) partitions: Vec<DescribedPartition>,
    pub(crate) is_marked_for_deletion: bool,
    /// Whether there are columns for eligible leaders, as 3.8 and later print them.
    pub(crate) has_eligible_leaders: bool,
}

pub(crate) struct DescribedPartition {
    pub(crate) index: i32,
    pub(crate) leader: Option<i32>,
    pub(crate) replicas: Vec<i32>,
    pub(crate) isr: Vec<i32>,
    /// While it moves to other replicas: those that come, and those that go.
    pub(crate) moving: Option<(Vec<i32>, Vec<i32>)>,
}

impl DescribedPartition {
    /// Without the replicas that are still being added.
    fn replication_factor(&self) -> usize {
        match &self.moving {
            // It may have ended since.
            Some((adding, removing)) if self.replicas.iter().any(|id| adding.contains(id) || removing.contains(id)) => {
                self.replicas.iter().filter(|id| !adding.contains(id)).count()
            }
            _ => self.replicas.len(),
        }
    }
}

const CONFIG_SOURCE_DEFAULT: i8 = 5;

impl DescribedTopic {
    fn new(topic: &MetadataResponseTopic, configs: &DescribeConfigsResult, ongoing: &Ongoing) -> DescribedTopic {
        let name = topic.name.clone().unwrap_or_default();
        let moving = |partition: &MetadataResponsePartition| {
            let ongoing = ongoing.get(&TopicPartition::new(name.as_str(), partition.partition_index))?;
            Some((ongoing.adding_replicas.clone(), ongoing.removing_replicas.clone()))
        };
        let value = |name: &str| configs.configs.iter().find(|entry| entry.name == name)?.value.clone();
        DescribedTopic {
            partitions: topic.partitions.iter().map(|one| DescribedPartition::new(one, moving(one))).collect(),
            name,
            topic_id: topic.topic_id,
            configs: configs
                .configs
                .iter()
                .filter(|entry| entry.config_source != CONFIG_SOURCE_DEFAULT)
                .map(|entry| (entry.name.clone(), entry.value.clone().unwrap_or_else(|| "null".to_owned())))
                .collect(),
            min_insync_replicas: value("min.insync.replicas").and_then(|text| text.parse().ok()),
            is_marked_for_deletion: false,
            has_eligible_leaders: true,
        }
    }
}

impl DescribedPartition {
    fn new(partition: &MetadataResponsePartition, moving: Option<(Vec<i32>, Vec<i32>)>) -> DescribedPartition {
        DescribedPartition {
            index: partition.partition_index,
            leader: Some(partition.leader_id).filter(|id| *id >= 0),
            replicas: partition.replica_nodes.clone(),
            isr: partition.isr_nodes.clone(),
            moving,
        }
    }
}

pub(crate) fn joined(ids: &[i32]) -> String {
    ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

/// Prints one topic as `--describe` and its filters ask.
pub(crate) fn print_description(
    topic: &DescribedTopic,
    options: &Options,
    live_brokers: &HashSet<i32>,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let is_report = REPORTS.iter().any(|report| options.has(report));
    let only_overrides = options.has("topics-with-overrides");
    if !is_report && (!only_overrides || !topic.configs.is_empty()) {
        write!(out, "Topic: {}", topic.name)?;
        if !topic.topic_id.is_zero() {
            write!(out, "\tTopicId: {}", topic.topic_id)?;
        }
        let configs: Vec<String> = topic.configs.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let replication_factor = topic.partitions.first().map_or(0, DescribedPartition::replication_factor);
        write!(out, "\tPartitionCount: {}\tReplicationFactor: {replication_factor}", topic.partitions.len())?;
        write!(out, "\tConfigs: {}", configs.join(","))?;
        writeln!(out, "{}", if topic.is_marked_for_deletion { "\tMarkedForDeletion: true" } else { "" })?;
    }
    if only_overrides {
        return Ok(());
    }
    for partition in &topic.partitions {
        let has_leader = partition.leader.is_some();
        let isr = partition.isr.len();
        let is_wanted = !is_report
            || options.has("under-replicated-partitions") && partition.replication_factor() > isr
            || options.has("unavailable-partitions")
                && !partition.leader.is_some_and(|leader| live_brokers.contains(&leader))
            || options.has("under-min-isr-partitions")
                && (!has_leader || topic.min_insync_replicas.is_some_and(|min| isr < min))
            || options.has("at-min-isr-partitions") && topic.min_insync_replicas == Some(isr);
        if is_wanted {
            let leader = partition.leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string());
            write!(out, "\tTopic: {}\tPartition: {}\tLeader: {leader}", topic.name, partition.index)?;
            write!(out, "\tReplicas: {}\tIsr: {}", joined(&partition.replicas), joined(&partition.isr))?;
            if let Some((adding, removing)) = &partition.moving {
                write!(out, "\tAdding Replicas: {}\tRemoving Replicas: {}", joined(adding), joined(removing))?;
            }
            if topic.has_eligible_leaders {
                // They exist on KRaft only.
                write!(out, "\tElr: N/A\tLastKnownElr: N/A")?;
            }
            writeln!(out, "{}", if topic.is_marked_for_deletion { "\tMarkedForDeletion: true" } else { "" })?;
        }
    }
    Ok(())
}

async fn describe(options: &Options, cluster: &Cluster, out: &mut dyn Write) -> Result<(), Stop> {
    let id = match options.value("topic-id") {
        Some(text) => {
            let id: TopicId = text.parse().map_err(|error| Stop::Failed(format!("{error}")))?;
            Some(id).filter(|id| !id.is_zero())
        }
        None => None,
    };
    let names = match id {
        Some(id) => {
            let metadata = cluster.retried("list topics", || cluster.metadata(None, false)).await?;
            let found: Vec<String> =
                metadata.topics.iter().filter(|topic| topic.topic_id == id).filter_map(|t| t.name.clone()).collect();
            if found.is_empty() && !options.has("if-exists") {
                return Err(Stop::Failed(format!("TopicId '{id}' does not exist as expected")));
            }
            found
        }
        None => {
            let names = matching_topics(options, cluster).await?;
            require_found(options, &names)?;
            names
        }
    };
    let topics = cluster.describe_topics(&names).await?;
    let mut configs = cluster.describe_configs(TOPIC_RESOURCE, &names, false).await?;
    let ongoing = match cluster.partition_reassignments().await {
        Ok(ongoing) => ongoing,
        Err(ClientError::UnsupportedVersion { .. }) => Ongoing::new(),
        Err(ClientError::Refused { code: ErrorCode::ClusterAuthorizationFailed, .. }) => Ongoing::new(),
        Err(error) => return Err(error.into()),
    };
    let live: HashSet<i32> = cluster.nodes().iter().map(|node| node.id.0).collect();
    for topic in &topics {
        let name = topic.name.as_deref().unwrap_or_default();
        let configs = match configs.remove(name) {
            Some(Ok(configs)) => configs,
            // It went away meanwhile.
            Some(Err(ClientError::Refused { code: ErrorCode::UnknownTopicOrPartition, .. })) => continue,
            Some(Err(error)) => return Err(error.into()),
            None => return Err(Stop::Failed(format!("The node response did not contain the configs of topic {name}"))),
        };
        print_description(&DescribedTopic::new(topic, &configs, &ongoing), options, &live, out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use tokio::net::TcpListener;

    use super::*;
    use crate::client::cluster::tests::{answer, answer_versions, cluster_of};
    use crate::protocol::api_keys::ApiKey;
    use crate::protocol::messages::describe_configs::{DescribeConfigsResourceResult, DescribeConfigsResponse};
    use crate::protocol::messages::metadata::{MetadataResponse, MetadataResponseBroker};

    fn parse(line: &str) -> Options {
        TOOL.parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>()).unwrap()
    }

    fn refusal(line: &str) -> String {
        match check(&parse(line)) {
            Err(Stop::Usage(message)) => message,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_action_decides_which_flags_make_sense() {
        let server = "--bootstrap-server a:1";
        assert!(refusal("--topic a").starts_with("Command must include exactly one action"));
        assert!(refusal("--list --create --topic a").starts_with("Command must include exactly one action"));
        assert_eq!(refusal("--list"), "--bootstrap-server must be specified");
        assert_eq!(refusal(&format!("{server} --create")), "Missing required argument \"[topic]\"");
        assert_eq!(refusal(&format!("{server} --alter --topic a")), "Missing required argument \"[partitions]\"");
        assert_eq!(
            refusal(&format!("{server} --create --topic a --partitions 1 --replica-assignment 1")),
            "Option \"[replica-assignment]\" can't be used with option \"[partitions]\""
        );
        assert_eq!(
            refusal(&format!("{server} --list --if-exists")),
            "Option \"[if-exists]\" can't be used with option \"[list]\""
        );
        assert_eq!(
            refusal("--zookeeper z --create --topic a --partitions 1"),
            "Missing required argument \"[replication-factor]\""
        );
        let reports = "--under-replicated-partitions --unavailable-partitions";
        assert!(check(&parse(&format!("{server} --describe {reports}"))).is_ok());
    }

    #[test]
    fn assignments_name_each_broker_once_and_have_one_length() {
        assert_eq!(parse_replica_assignment("1:2, 3:1").unwrap(), [[1, 2], [3, 1]]);
        assert!(parse_replica_assignment("1:1").is_err());
        assert!(parse_replica_assignment("1:2,3").is_err());
        assert!(parse_replica_assignment("a").is_err());
    }

    fn printed(line: &str) -> String {
        let topic = DescribedTopic {
            name: "t".to_owned(),
            topic_id: TopicId::ZERO,
            configs: vec![("segment.bytes".to_owned(), "1".to_owned()), ("a".to_owned(), "b".to_owned())],
            min_insync_replicas: Some(2),
            partitions: vec![
                DescribedPartition { index: 0, leader: Some(1), replicas: vec![1, 2], isr: vec![1, 2], moving: None },
                DescribedPartition { index: 1, leader: None, replicas: vec![2, 1], isr: vec![2], moving: None },
            ],
            is_marked_for_deletion: false,
            has_eligible_leaders: true,
        };
        let mut out = Vec::new();
        print_description(&topic, &parse(line), &HashSet::from([1]), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn descriptions_read_as_those_of_kafka() {
        let topic_line = "Topic: t\tPartitionCount: 2\tReplicationFactor: 2\tConfigs: segment.bytes=1,a=b\n";
        let first = "\tTopic: t\tPartition: 0\tLeader: 1\tReplicas: 1,2\tIsr: 1,2\tElr: N/A\tLastKnownElr: N/A\n";
        let second = "\tTopic: t\tPartition: 1\tLeader: none\tReplicas: 2,1\tIsr: 2\tElr: N/A\tLastKnownElr: N/A\n";
        assert_eq!(printed("--describe"), format!("{topic_line}{first}{second}"));
        assert_eq!(printed("--describe --topics-with-overrides"), topic_line);
        for report in ["under-replicated-partitions", "unavailable-partitions", "under-min-isr-partitions"] {
            assert_eq!(printed(&format!("--describe --{report}")), second);
        }
        assert_eq!(printed("--describe --at-min-isr-partitions"), first);
    }

    #[tokio::test]
    async fn a_topic_that_goes_away_meanwhile_takes_no_settings_of_others_with_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = i32::from(listener.local_addr().unwrap().port());
        let cluster = cluster_of(&listener).await;
        let topic = |name: &str| MetadataResponseTopic {
            name: Some(name.to_owned()),
            partitions: vec![MetadataResponsePartition {
                leader_id: 7,
                replica_nodes: vec![7, 8],
                isr_nodes: vec![7],
                ..Default::default()
            }],
            ..Default::default()
        };
        let metadata = MetadataResponse {
            brokers: vec![MetadataResponseBroker {
                node_id: 7,
                host: "127.0.0.1".to_owned(),
                port,
                ..Default::default()
            }],
            controller_id: 7,
            topics: vec![topic("gone"), topic("t")],
            ..Default::default()
        };
        let min_isr = DescribeConfigsResourceResult {
            name: "min.insync.replicas".to_owned(),
            value: Some("2".to_owned()),
            config_source: 1,
            ..Default::default()
        };
        let of = |name: &str, error_code, configs| DescribeConfigsResult {
            error_code,
            resource_type: TOPIC_RESOURCE,
            resource_name: name.to_owned(),
            configs,
            ..Default::default()
        };
        let results =
            vec![of("gone", ErrorCode::UnknownTopicOrPartition.code(), Vec::new()), of("t", 0, vec![min_isr])];
        let configs = DescribeConfigsResponse { results: results.into(), ..Default::default() };
        let broker = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            answer_versions(&mut socket).await;
            answer(&mut socket, ApiKey::Metadata, metadata.clone()).await;
            answer(&mut socket, ApiKey::Metadata, metadata).await;
            answer(&mut socket, ApiKey::DescribeConfigs, configs).await;
            socket
        };
        let mut out = Vec::new();
        let options = parse("--describe --under-min-isr-partitions");
        let (described, _socket) = tokio::join!(describe(&options, &cluster, &mut out), broker);
        described.unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\tTopic: t\tPartition: 0\tLeader: 7\tReplicas: 7,8\tIsr: 7\tElr: N/A\tLastKnownElr: N/A\n"
        );
    }

    #[test]
    fn replicas_that_are_being_added_are_shown_and_not_counted() {
        let partition =
            |moving| DescribedPartition { index: 0, leader: Some(1), replicas: vec![3, 1, 2], isr: vec![1, 2], moving };
        let moving = partition(Some((vec![3], vec![1])));
        assert_eq!((moving.replication_factor(), partition(None).replication_factor()), (2, 3));
        assert_eq!(partition(Some((vec![9], vec![]))).replication_factor(), 3, "a move that has ended since");
        let topic = DescribedTopic {
            name: "t".to_owned(),
            topic_id: TopicId::ZERO,
            configs: Vec::new(),
            min_insync_replicas: Some(1),
            partitions: vec![moving],
            is_marked_for_deletion: false,
            has_eligible_leaders: true,
        };
        let mut out = Vec::new();
        print_description(&topic, &parse("--describe"), &HashSet::from([1]), &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "Topic: t\tPartitionCount: 1\tReplicationFactor: 2\tConfigs: \n\tTopic: t\tPartition: 0\tLeader: 1\t\
             Replicas: 3,1,2\tIsr: 1,2\tAdding Replicas: 3\tRemoving Replicas: 1\tElr: N/A\tLastKnownElr: N/A\n"
        );
    }
}
