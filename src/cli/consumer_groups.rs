//! kafka-consumer-groups.sh: lists, describes, resets and deletes consumer groups.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

use regex::Regex;

use crate::cli::cluster;
use crate::cli::options::{Options, Stop, Takes, Tool, flag};
use crate::cli::table::{print_rows, width_of};
use crate::client::admin::{CommittedOffset, EARLIEST, FoundOffsets, LATEST, by_topic};
use crate::client::cluster::{Cluster, Node};
use crate::client::error::{ClientError, described};
use crate::client::group::assigned_partitions;
use crate::model::TopicPartition;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::delete_groups::DeleteGroupsRequest;
use crate::protocol::messages::describe_groups::DescribedGroup;
use crate::protocol::messages::metadata::MetadataResponseTopic;
use crate::protocol::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};

pub(crate) const TOOL: Tool = Tool {
    script: "kafka-consumer-groups",
    about: "This tool helps to list all consumer groups, describe a consumer group, delete consumer group info, or \
            reset consumer group offsets.",
    flags: &[
        flag("bootstrap-server", Takes::Value("server to connect to"), "REQUIRED: The server(s) to connect to."),
        flag("group", Takes::Repeated("consumer group"), "The consumer group we wish to act on."),
        flag(
            "topic",
            Takes::Repeated("topic"),
            "Topics of --reset-offsets and --delete-offsets: topic1:0,1,2 or topic1.",
        ),
        flag("all-topics", Takes::Nothing, "All topics that the group has offsets of, for --reset-offsets."),
        flag("list", Takes::Nothing, "List all consumer groups."),
        flag("describe", Takes::Nothing, "Describe consumer group and list offset lag."),
        flag("all-groups", Takes::Nothing, "Apply to all consumer groups."),
        flag("delete", Takes::Nothing, "Delete topic offsets and ownership information of whole groups."),
        flag("timeout", Takes::Value("timeout (ms)"), "How long to wait for groups to settle. Default: 5000."),
        flag("command-config", Takes::Value("command config property file"), "Property file for the admin client."),
        flag("reset-offsets", Takes::Nothing, "Reset offsets of a consumer group; does so only with --execute."),
        flag("delete-offsets", Takes::Nothing, "Delete offsets of a consumer group for topics."),
        flag("dry-run", Takes::Nothing, "Only show the new offsets."),
        flag("execute", Takes::Nothing, "Store the new offsets."),
        flag("export", Takes::Nothing, "Print the new offsets as CSV."),
        flag("to-offset", Takes::Value("offset"), "Reset offsets to a specific offset."),
        flag("from-file", Takes::Value("path to CSV file"), "Reset offsets to values of a CSV file."),
        flag("to-datetime", Takes::Value("datetime"), "Reset offsets to a time: YYYY-MM-DDTHH:mm:SS.sss"),
        flag("by-duration", Takes::Value("duration"), "Reset offsets to this long ago: PnDTnHnMnS"),
        flag("to-earliest", Takes::Nothing, "Reset offsets to earliest offset."),
        flag("to-latest", Takes::Nothing, "Reset offsets to latest offset."),
        flag("to-current", Takes::Nothing, "Reset offsets to current offset."),
        flag("shift-by", Takes::Value("number-of-offsets"), "Shift current offsets by 'n', which may be negative."),
        flag("members", Takes::Nothing, "Describe members of the group."),
        flag("verbose", Takes::Nothing, "With --members: what each member is assigned."),
        flag("offsets", Takes::Nothing, "Describe offsets of the group: the default of --describe."),
        flag("state", Takes::Optional("String"), "With --describe: the group's state. With --list: groups in states."),
        flag("type", Takes::Optional("String"), "With --list: the groups' types, or groups of types."),
    ],
};

const ACTIONS: [&str; 5] = ["list", "describe", "delete", "reset-offsets", "delete-offsets"];
const SCENARIOS: [&str; 8] =
    ["to-offset", "shift-by", "to-datetime", "by-duration", "to-earliest", "to-latest", "to-current", "from-file"];

/// Source: kafka 3.9.1 tools/.../tools/consumer/group/ConsumerGroupCommandOptions.java, checkArgs.
fn check(options: &Options) -> Result<(), Stop> {
    let usage = |message: &str| Err(Stop::Usage(message.to_owned()));
    options.required("bootstrap-server")?;
    if ACTIONS.iter().filter(|action| options.has(action)).count() != 1 {
        return usage(
            "Command must include exactly one action: --list, --describe, --delete, --reset-offsets, --delete-offsets",
        );
    }
    let has_scope = options.has("group") || options.has("all-groups");
    if options.has("describe") {
        if !has_scope {
            return usage("Option [describe] takes one of these options: [group], [all-groups]");
        }
        if ["members", "offsets", "state"].iter().filter(|form| options.has(form)).count() > 1 {
            return usage("Option [describe] takes at most one of these options: [members], [offsets], [state]");
        }
        if options.value("state").is_some_and(|value| !value.is_empty()) {
            return usage("Option [describe] does not take a value for [state]");
        }
    }
    for (option, needs) in [("members", "describe"), ("verbose", "describe"), ("offsets", "describe"), ("type", "list")]
    {
        if options.has(option) && !options.has(needs) {
            return Err(Stop::Usage(format!("Option [{option}] is available only with [{needs}]")));
        }
    }
    if options.has("delete") {
        if !has_scope {
            return usage("Option [delete] takes one of these options: [group], [all-groups]");
        }
        if options.has("topic") {
            return usage("The consumer does not support topic-specific offset deletion from a consumer group.");
        }
    }
    if options.has("delete-offsets") && (!options.has("group") || !options.has("topic")) {
        return usage("Option [delete-offsets] takes the following options: [group], [topic]");
    }
    if options.has("reset-offsets") {
        if options.has("dry-run") && options.has("execute") {
            return usage("Option [reset-offsets] only accepts one of [execute] and [dry-run]");
        }
        if !has_scope {
            return usage("Option [reset-offsets] takes one of these options: [group], [all-groups]");
        }
        for (index, scenario) in SCENARIOS.iter().enumerate() {
            let others: Vec<&str> =
                SCENARIOS.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, s)| *s).collect();
            options.exclude(scenario, &others)?;
        }
        if !SCENARIOS.iter().any(|scenario| options.has(scenario)) {
            let scenarios: Vec<String> = SCENARIOS.iter().map(|scenario| format!("[{scenario}]")).collect();
            return Err(Stop::Usage(format!(
                "Option '[reset-offsets]' requires one of the following scenarios: [{}]",
                scenarios.join(", ")
            )));
        }
        if !options.has("all-topics") && !options.has("topic") && !options.has("from-file") {
            return usage("One of the reset scopes should be defined: --all-topics, --topic.");
        }
    }
    options.exclude("group", &["all-groups", "list"])?;
    options.exclude("topic", &["list", "describe", "delete"])
}

pub(crate) async fn run(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    check(options)?;
    match run_action(options, out).await {
        // Kafka's tool tells of failures on stdout and ends with status 0.
        Err(Stop::Failed(message)) => {
            Ok(writeln!(out, "\nError: Executing consumer group command failed due to {message}")?)
        }
        other => other,
    }
}

async fn run_action(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    let mut cluster = cluster(options, "adminclient-1")?;
    cluster.settings.api_timeout = Duration::from_millis(options.number("timeout")?.unwrap_or(5000));
    let cluster = &cluster;
    if options.has("list") {
        list(options, cluster, out).await
    } else if options.has("describe") {
        describe(options, cluster, out).await
    } else if options.has("delete") {
        delete(options, cluster, out).await
    } else if options.has("reset-offsets") {
        reset(options, cluster, out).await
    } else {
        delete_offsets(options, cluster, out).await
    }
}

/// The groups that `--group` or `--all-groups` names.
async fn group_ids(options: &Options, cluster: &Cluster) -> Result<Vec<String>, Stop> {
    if options.has("all-groups") {
        Ok(cluster.list_groups(&[], &[]).await?.into_iter().map(|group| group.group_id).collect())
    } else {
        Ok(options.values("group").into_iter().map(str::to_owned).collect())
    }
}

/// Kafka's spelling of the names in a comma list.
fn filter_of(option: Option<&str>, known: &[&str], what: &str) -> Result<Vec<String>, Stop> {
    let Some(text) = option.filter(|text| !text.is_empty()) else { return Ok(Vec::new()) };
    text.split(',')
        .map(|name| {
            let found = known.iter().find(|known| known.eq_ignore_ascii_case(name.trim()));
            found.map(|name| (*name).to_owned()).ok_or_else(|| {
                let all = what.trim_end_matches('s');
                Stop::Usage(format!("Invalid {what} list '{text}'. Valid {all}s are: {}", known.join(", ")))
            })
        })
        .collect()
}

const STATES: [&str; 7] =
    ["PreparingRebalance", "CompletingRebalance", "Stable", "Dead", "Empty", "Assigning", "Reconciling"];
const TYPES: [&str; 3] = ["Consumer", "Classic", "Share"];

async fn list(options: &Options, cluster: &Cluster, out: &mut dyn Write) -> Result<(), Stop> {
    let (with_type, with_state) = (options.has("type"), options.has("state"));
    let states = filter_of(options.value("state"), &STATES, "state")?;
    let types = filter_of(options.value("type"), &TYPES, "types")?;
    let groups = cluster.list_groups(&states, &types).await?;
    if !with_type && !with_state {
        for group in &groups {
            writeln!(out, "{}", group.group_id)?;
        }
        return Ok(());
    }
    let capitalized = |text: &str| match TYPES.iter().find(|known| known.eq_ignore_ascii_case(text)) {
        Some(known) => (*known).to_owned(),
        None => "Unknown".to_owned(),
    };
    let mut rows = vec![vec!["GROUP".to_owned()]];
    let mut widths = vec![width_of(15, groups.iter().map(|group| group.group_id.as_str())) + 10];
    rows.extend(groups.iter().map(|group| vec![group.group_id.clone()]));
    if with_type {
        widths.push(20);
        rows[0].push("TYPE".to_owned());
        rows.iter_mut().skip(1).zip(&groups).for_each(|(row, group)| row.push(capitalized(&group.group_type)));
    }
    if with_state {
        widths.push(20);
        rows[0].push("STATE".to_owned());
        rows.iter_mut().skip(1).zip(&groups).for_each(|(row, group)| row.push(group.group_state.clone()));
    }
    Ok(print_rows(&rows, &widths, out)?)
}

/// Says what there is to say of the group as such. Whether its rows are to be printed.
fn print_state_notice(group: &str, state: &str, row_count: usize, out: &mut dyn Write) -> std::io::Result<bool> {
    match state {
        "Dead" => writeln!(out, "\nError: Consumer group '{group}' does not exist.")?,
        "Empty" => eprintln!("\nConsumer group '{group}' has no active members."),
        "PreparingRebalance" | "CompletingRebalance" | "Assigning" | "Reconciling" => {
            eprintln!("\nWarning: Consumer group '{group}' is rebalancing.");
        }
        _ => {}
    }
    Ok(state != "Dead" && row_count > 0)
}

/// One line of `--describe`; what is not known is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OffsetRow {
    partition: Option<TopicPartition>,
    current: Option<i64>,
    end: Option<i64>,
    /// Member id, host, client id.
    owner: Option<(String, String, String)>,
}

fn text<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn print_offsets(group: &str, rows: &[OffsetRow], out: &mut dyn Write) -> std::io::Result<()> {
    const HEADER: [&str; 9] =
        ["GROUP", "TOPIC", "PARTITION", "CURRENT-OFFSET", "LOG-END-OFFSET", "LAG", "CONSUMER-ID", "HOST", "CLIENT-ID"];
    let mut table = vec![HEADER.map(str::to_owned).to_vec()];
    for row in rows {
        let lag = row.current.filter(|current| *current != -1).and_then(|current| Some(row.end? - current));
        let (member, host, client) = match &row.owner {
            Some((member, host, client)) => (member.as_str(), host.as_str(), client.as_str()),
            None => ("-", "-", "-"),
        };
        table.push(vec![
            group.to_owned(),
            text(row.partition.as_ref().map(|partition| &*partition.topic)),
            text(row.partition.as_ref().map(|partition| partition.partition)),
            text(row.current),
            text(row.end),
            text(lag),
            member.to_owned(),
            host.to_owned(),
            client.to_owned(),
        ]);
    }
    let column = |index: usize| width_of(15, table.iter().map(move |row| row[index].as_str()));
    let widths = [column(0), column(1), 10, 15, 15, 15, column(6), column(7)];
    writeln!(out)?;
    print_rows(&table, &widths, out)
}

/// What each member owns, the busiest member first, then what nobody owns.
fn offset_rows(
    group: &DescribedGroup,
    committed: &BTreeMap<TopicPartition, CommittedOffset>,
    ends: &FoundOffsets,
) -> Result<Vec<OffsetRow>, ClientError> {
    let row = |partition: &TopicPartition, owner| OffsetRow {
        partition: Some(partition.clone()),
        current: committed.get(partition).map(|committed| committed.offset),
        end: ends.get(partition).and_then(|found| found.ok()).map(|found| found.offset),
        owner,
    };
    let mut members = Vec::new();
    for member in &group.members {
        let mut partitions = assigned_partitions(&member.member_assignment)?;
        partitions.sort_unstable();
        members.push((partitions, member));
    }
    members.retain(|(partitions, _)| !partitions.is_empty());
    members.sort_by_key(|(partitions, _)| std::cmp::Reverse(partitions.len()));
    let mut rows = Vec::new();
    let mut owned = BTreeSet::new();
    for (partitions, member) in &members {
        for partition in partitions {
            let owner = (member.member_id.clone(), member.client_host.clone(), member.client_id.clone());
            rows.push(row(partition, Some(owner)));
            owned.insert(partition);
        }
    }
    rows.extend(committed.keys().filter(|partition| !owned.contains(partition)).map(|partition| row(partition, None)));
    Ok(rows)
}

async fn describe(options: &Options, cluster: &Cluster, out: &mut dyn Write) -> Result<(), Stop> {
    let ids: BTreeSet<String> = group_ids(options, cluster).await?.into_iter().collect();
    for id in ids {
        let (group, coordinator) = match cluster.describe_group(&id).await {
            Err(error) if error.code() == Some(ErrorCode::GroupIdNotFound) => {
                writeln!(out, "\nError: Consumer group '{id}' does not exist.")?;
                continue;
            }
            described => described?,
        };
        if options.has("members") {
            print_state_notice(&id, &group.group_state, group.members.len(), out)?;
            print_members(&group, options.has("verbose"), out)?;
        } else if options.has("state") {
            if print_state_notice(&id, &group.group_state, 1, out)? {
                print_group_state(&group, &coordinator, out)?;
            }
        } else {
            let committed = cluster.committed_offsets(&id, None).await?;
            let mut asked: BTreeMap<TopicPartition, i64> =
                committed.keys().map(|partition| (partition.clone(), LATEST)).collect();
            for member in &group.members {
                asked.extend(assigned_partitions(&member.member_assignment)?.into_iter().map(|p| (p, LATEST)));
            }
            let ends = cluster.list_offsets(&asked, false).await?;
            let rows = offset_rows(&group, &committed, &ends)?;
            if print_state_notice(&id, &group.group_state, rows.len(), out)? {
                print_offsets(&id, &rows, out)?;
            }
        }
    }
    Ok(())
}

fn print_members(group: &DescribedGroup, verbose: bool, out: &mut dyn Write) -> Result<(), Stop> {
    let with_instance = group.members.iter().any(|member| member.group_instance_id.is_some());
    let mut table = vec![vec!["GROUP".to_owned(), "CONSUMER-ID".to_owned()]];
    if with_instance {
        table[0].push("GROUP-INSTANCE-ID".to_owned());
    }
    table[0].extend(["HOST", "CLIENT-ID", "#PARTITIONS"].map(str::to_owned));
    table[0].push(if verbose { "ASSIGNMENT".to_owned() } else { String::new() });
    for member in &group.members {
        let partitions = assigned_partitions(&member.member_assignment)?;
        let mut row = vec![group.group_id.clone(), member.member_id.clone()];
        if with_instance {
            row.push(member.group_instance_id.clone().unwrap_or_default());
        }
        row.extend([member.client_host.clone(), member.client_id.clone(), partitions.len().to_string()]);
        row.push(match verbose {
            false => String::new(),
            true if partitions.is_empty() => "-".to_owned(),
            true => {
                // 3.9 leaves the topics' names out.
                let mut lists: Vec<String> = by_topic(partitions.iter().map(|partition| (partition, ())))
                    .into_values()
                    .map(|partitions| {
                        let mut ids: Vec<String> = partitions.iter().map(|(id, ())| id.to_string()).collect();
                        ids.sort_unstable();
                        format!("({})", ids.join(","))
                    })
                    .collect();
                lists.sort_unstable();
                lists.join(", ")
            }
        });
        table.push(row);
    }
    let column = |index: usize| width_of(15, table.iter().map(move |row| row[index].as_str()));
    let mut widths = vec![column(0), column(1)];
    if with_instance {
        widths.push(column(2).max(17));
    }
    widths.extend([column(widths.len()), column(widths.len() + 1), 15]);
    writeln!(out)?;
    Ok(print_rows(&table, &widths, out)?)
}

fn print_group_state(group: &DescribedGroup, coordinator: &Node, out: &mut dyn Write) -> std::io::Result<()> {
    let coordinator = format!("{}:{}  ({})", coordinator.host, coordinator.port, coordinator.id);
    let rows = [
        ["GROUP", "COORDINATOR (ID)", "ASSIGNMENT-STRATEGY", "STATE", "#MEMBERS"].map(str::to_owned).to_vec(),
        vec![
            group.group_id.clone(),
            coordinator.clone(),
            group.protocol_data.clone(),
            group.group_state.clone(),
            group.members.len().to_string(),
        ],
    ];
    // The width of the coordinator's column goes to the group's, as in Kafka's tool.
    writeln!(out)?;
    print_rows(&rows, &[coordinator.len().max(25), 25, 20, 15], out)
}

async fn delete(options: &Options, cluster: &Cluster, out: &mut dyn Write) -> Result<(), Stop> {
    let mut deleted = Vec::new();
    let mut failed = Vec::new();
    for id in group_ids(options, cluster).await? {
        let request = DeleteGroupsRequest { groups_names: vec![id.clone()] };
        let request = &request;
        let outcome = cluster
            .retried("delete group", || async {
                let answer = cluster.coordinator(&request.groups_names[0]).await?.send(request).await?;
                let code = answer.results.first().map_or(0, |result| result.error_code);
                super::checked("delete group", code, None)
            })
            .await;
        match outcome {
            Ok(()) => deleted.push(id),
            Err(error) => failed.push((id, error)),
        }
    }
    if failed.is_empty() {
        let deleted = deleted.join(", ");
        writeln!(out, "Deletion of requested consumer groups ('{deleted}') was successful.")?;
        return Ok(());
    }
    writeln!(out, "\nError: Deletion of some consumer groups failed:")?;
    for (id, error) in failed {
        let why = error.code().map_or_else(|| error.to_string(), described);
        writeln!(out, "* Group '{id}' could not be deleted due to: {why}")?;
    }
    if !deleted.is_empty() {
        writeln!(out, "\nThese consumer groups were deleted successfully: '{}'", deleted.join("', '"))?;
    }
    Ok(())
}

/// `topic:0,1` as partitions; `None` for a topic without partitions.
fn parse_topic_argument(argument: &str) -> Result<Option<Vec<TopicPartition>>, Stop> {
    if !argument.contains(':') {
        return Ok(None);
    }
    let invalid = || Stop::Usage(format!("Invalid topic arg '{argument}', expected topic name and partitions"));
    let (topic, partitions) = argument.split_once(':').filter(|(_, rest)| !rest.contains(':')).ok_or_else(invalid)?;
    let parsed = partitions.split(',').map(|text| {
        text.parse()
            .map(|partition| TopicPartition::new(topic, partition))
            .map_err(|_| Stop::Usage(format!("Invalid partition '{text}' specified in topic arg '{argument}''")))
    });
    parsed.collect::<Result<_, _>>().map(Some)
}

/// The partitions that `--topic` arguments name, and the topics that they name as a whole.
fn partitions_named(options: &Options) -> Result<(Vec<TopicPartition>, Vec<String>), Stop> {
    let mut partitions = Vec::new();
    let mut whole = Vec::new();
    for argument in options.values("topic") {
        match parse_topic_argument(argument)? {
            Some(named) => partitions.extend(named),
            None => whole.push(argument.to_owned()),
        }
    }
    Ok((partitions, whole))
}

fn partitions_of(topics: Vec<MetadataResponseTopic>) -> impl Iterator<Item = TopicPartition> {
    topics.into_iter().flat_map(|topic| {
        let name = topic.name.unwrap_or_default();
        topic.partitions.into_iter().map(move |p| TopicPartition::new(name.as_str(), p.partition_index))
    })
}

/// All partitions that `--topic` arguments name.
async fn partitions_of_arguments(options: &Options, cluster: &Cluster) -> Result<Vec<TopicPartition>, Stop> {
    let (mut partitions, whole) = partitions_named(options)?;
    partitions.extend(partitions_of(cluster.describe_topics(&whole).await?));
    Ok(partitions)
}

/// Stands for the partitions of a topic that could not be looked up.
const NOT_PROVIDED: i32 = -1;

async fn delete_offsets(options: &Options, cluster: &Cluster, out: &mut dyn Write) -> Result<(), Stop> {
    let group = options.value("group").unwrap_or_default();
    let (mut partitions, whole) = partitions_named(options)?;
    let mut statuses: BTreeMap<(String, i32), ErrorCode> = BTreeMap::new();
    for topic in whole {
        match cluster.describe_topics(std::slice::from_ref(&topic)).await {
            Ok(described) => partitions.extend(partitions_of(described)),
            Err(error) => _ = statuses.insert((topic, NOT_PROVIDED), error.code().ok_or(error)?),
        }
    }
    let request = OffsetDeleteRequest {
        group_id: group.to_owned(),
        topics: by_topic(partitions.iter().map(|partition| (partition, ())))
            .into_iter()
            .map(|(name, partitions)| OffsetDeleteRequestTopic {
                name: name.to_owned(),
                partitions: partitions
                    .into_iter()
                    .map(|(partition_index, ())| OffsetDeleteRequestPartition { partition_index })
                    .collect(),
            })
            .collect(),
    };
    let request = &request;
    let answer = cluster
        .retried("delete offsets", || async {
            let answer = cluster.coordinator(group).await?.send(request).await?;
            match ErrorCode::from_code(answer.error_code) {
                code if crate::client::error::is_retriable_code(code) => {
                    Err(ClientError::refused("delete offsets", code, None))
                }
                _ => Ok(answer),
            }
        })
        .await?;
    let top = ErrorCode::from_code(answer.error_code);
    let codes: BTreeMap<(String, i32), ErrorCode> = answer
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.name.clone(), partition)))
        .map(|(name, partition)| ((name, partition.partition_index), ErrorCode::from_code(partition.error_code)))
        .collect();
    let first_failure = codes.values().find(|code| code.is_error()).copied();
    match first_failure.filter(|_| !top.is_error()).unwrap_or(top) {
        ErrorCode::None => {
            let topics = options.values("topic").join(", ");
            writeln!(out, "Request succeed for deleting offsets with topic {topics} group {group}")?;
        }
        ErrorCode::InvalidGroupId => writeln!(out, "\nError: '{group}' is not valid.")?,
        ErrorCode::GroupIdNotFound => writeln!(out, "\nError: '{group}' does not exist.")?,
        ErrorCode::GroupAuthorizationFailed => writeln!(out, "\nError: Access to '{group}' is not authorized.")?,
        ErrorCode::NonEmptyGroup => writeln!(
            out,
            "\nError: Deleting offsets of a consumer group '{group}' is forbidden if the group is not empty."
        )?,
        ErrorCode::GroupSubscribedToTopic
        | ErrorCode::TopicAuthorizationFailed
        | ErrorCode::UnknownTopicOrPartition => {
            writeln!(out, "\nError: Encounter some partition level error, see the follow-up details:")?;
        }
        code => writeln!(out, "\nError: Encounter some unknown error: {code}")?,
    }
    let mut rows = vec![["TOPIC", "PARTITION", "STATUS"].map(str::to_owned).to_vec()];
    for partition in &partitions {
        let key = (partition.topic.to_string(), partition.partition);
        let code = codes.get(&key).copied().unwrap_or(top);
        statuses.insert(key, code);
    }
    for ((topic, partition), code) in statuses {
        let partition = if partition == NOT_PROVIDED { "Not Provided".to_owned() } else { partition.to_string() };
        let status = if code.is_error() { format!("Error: {}", described(code)) } else { "Successful".to_owned() };
        rows.push(vec![topic, partition, status]);
    }
    writeln!(out)?;
    Ok(print_rows(&rows, &[30, 15, 15], out)?)
}

type Offsets = BTreeMap<TopicPartition, i64>;

/// `PnDTnHnMnS` in milliseconds. Source: the documentation of java.time.Duration.parse.
fn parse_duration_ms(text: &str) -> Result<i64, Stop> {
    let invalid = || Stop::Failed("Text cannot be parsed to a Duration".to_owned());
    let form = Regex::new(
        r"(?i)^([-+]?)P(?:([-+]?\d+)D)?(T(?:([-+]?\d+)H)?(?:([-+]?\d+)M)?(?:([-+]?\d+)(?:[.,](\d{0,9}))?S)?)?$",
    )
    .expect("the pattern is constant");
    let parts = form.captures(text).ok_or_else(invalid)?;
    let part = |index: usize| parts.get(index).map(|m| m.as_str());
    if (2..=6).filter(|index| *index != 3).all(|index| part(index).is_none()) || part(3).is_some_and(|t| t.len() == 1) {
        return Err(invalid());
    }
    let number = |index: usize| part(index).map_or(Ok(0), |text| text.parse::<i64>().map_err(|_| invalid()));
    let (days, hours, minutes, seconds) = (number(2)?, number(4)?, number(5)?, number(6)?);
    let thousandths: String = part(7).unwrap_or_default().chars().chain("000".chars()).take(3).collect();
    let thousandths: i64 = thousandths.parse().map_err(|_| invalid())?;
    let thousandths = if part(6).is_some_and(|text| text.starts_with('-')) { -thousandths } else { thousandths };
    let total = [(days, 86_400_000), (hours, 3_600_000), (minutes, 60_000), (seconds, 1000), (thousandths, 1)]
        .into_iter()
        .try_fold(0i64, |sum, (count, unit): (i64, i64)| sum.checked_add(count.checked_mul(unit)?))
        .ok_or_else(invalid)?;
    Ok(if part(1) == Some("-") { -total } else { total })
}

/// `YYYY-MM-DDTHH:mm:SS[.sss]` in milliseconds since 1970; UTC unless it ends with an offset.
fn parse_datetime_ms(text: &str) -> Result<i64, Stop> {
    let invalid =
        || Stop::Failed(format!("Error parsing timestamp {text}: it is not in the form YYYY-MM-DDTHH:mm:SS.sss"));
    let (_, time) = text.split_once('T').ok_or_else(|| {
        Stop::Failed("Error parsing timestamp. It does not contain a 'T' according to ISO8601 format".to_owned())
    })?;
    let zoned = if time.contains(['+', '-', 'Z']) { text.to_owned() } else { format!("{text}Z") };
    zoned.parse::<jiff::Timestamp>().map(|timestamp| timestamp.as_millisecond()).map_err(|_| invalid())
}

async fn offsets_at(
    cluster: &Cluster,
    partitions: &[TopicPartition],
    timestamp: i64,
    what: &str,
) -> Result<Offsets, Stop> {
    let asked = partitions.iter().map(|partition| (partition.clone(), timestamp)).collect();
    let found = cluster.list_offsets(&asked, false).await?;
    found
        .into_iter()
        .map(|(partition, found)| match found {
            Ok(found) => Ok((partition, found.offset)),
            Err(_) => Err(Stop::Failed(format!("Error getting {what} of topic partition: {partition}"))),
        })
        .collect()
}

/// Brings offsets within what their partitions hold.
fn clamp(requested: &Offsets, starts: &Offsets, ends: &Offsets) -> Offsets {
    requested
        .iter()
        .map(|(partition, offset)| {
            let (start, end) = (starts.get(partition), ends.get(partition));
            let clamped = match (start, end) {
                (_, Some(end)) if offset > end => {
                    log::warn!(
                        "New offset ({offset}) is higher than latest offset for topic partition {partition}. Value \
                         will be set to {end}"
                    );
                    *end
                }
                (Some(start), _) if offset < start => {
                    log::warn!(
                        "New offset ({offset}) is lower than earliest offset for topic partition {partition}. Value \
                         will be set to {start}"
                    );
                    *start
                }
                _ => *offset,
            };
            (partition.clone(), clamped)
        })
        .collect()
}

async fn within_range(cluster: &Cluster, requested: &Offsets) -> Result<Offsets, Stop> {
    let partitions: Vec<TopicPartition> = requested.keys().cloned().collect();
    let starts = offsets_at(cluster, &partitions, EARLIEST, "starting offset").await?;
    let ends = offsets_at(cluster, &partitions, LATEST, "ending offset").await?;
    Ok(clamp(requested, &starts, &ends))
}

/// The offsets of the first records at or after a time; the end where there is none.
async fn offsets_by_time(
    cluster: &Cluster,
    partitions: &[TopicPartition],
    timestamp: i64,
    out: &mut dyn Write,
) -> Result<Offsets, Stop> {
    let mut found = offsets_at(cluster, partitions, timestamp, "offset by timestamp").await?;
    let missing: Vec<TopicPartition> =
        found.iter().filter(|(_, offset)| **offset < 0).map(|(partition, _)| partition.clone()).collect();
    for partition in &missing {
        writeln!(
            out,
            "\nWarn: Partition {} from topic {} is empty. Falling back to latest known offset.",
            partition.partition, partition.topic
        )?;
    }
    found.extend(offsets_at(cluster, &missing, LATEST, "ending offset").await?);
    Ok(found)
}

async fn new_offsets(options: &Options, cluster: &Cluster, group: &str, out: &mut dyn Write) -> Result<Offsets, Stop> {
    if let Some(path) = options.value("from-file") {
        let text = std::fs::read_to_string(path).map_err(|error| Stop::Failed(format!("read {path}: {error}")))?;
        let plan = parse_plan(&text, &options.values("group"))?;
        return match plan.get(group) {
            Some(requested) => within_range(cluster, requested).await,
            None => {
                writeln!(out, "\nError: No reset plan for group {group} found")?;
                Ok(Offsets::new())
            }
        };
    }
    let committed = cluster.committed_offsets(group, None).await?;
    let partitions = match options.has("all-topics") {
        true => committed.keys().cloned().collect(),
        false => partitions_of_arguments(options, cluster).await?,
    };
    if let Some(offset) = options.number::<i64>("to-offset")? {
        return within_range(cluster, &partitions.iter().map(|p| (p.clone(), offset)).collect()).await;
    }
    if options.has("to-earliest") {
        return offsets_at(cluster, &partitions, EARLIEST, "starting offset").await;
    }
    if options.has("to-latest") {
        return offsets_at(cluster, &partitions, LATEST, "ending offset").await;
    }
    if let Some(shift) = options.number::<i64>("shift-by")? {
        let requested = partitions.iter().map(|partition| match committed.get(partition) {
            Some(committed) => Ok((partition.clone(), committed.offset.saturating_add(shift))),
            None => Err(Stop::Usage(format!(
                "Cannot shift offset for partition {partition} since there is no current committed offset"
            ))),
        });
        return within_range(cluster, &requested.collect::<Result<_, _>>()?).await;
    }
    if let Some(text) = options.value("to-datetime") {
        return offsets_by_time(cluster, &partitions, parse_datetime_ms(text)?, out).await;
    }
    if let Some(text) = options.value("by-duration") {
        let timestamp = jiff::Timestamp::now().as_millisecond().saturating_sub(parse_duration_ms(text)?);
        return offsets_by_time(cluster, &partitions, timestamp, out).await;
    }
    // --to-current
    let (with, without): (Vec<_>, Vec<_>) = partitions.into_iter().partition(|p| committed.contains_key(p));
    let mut offsets = offsets_at(cluster, &without, LATEST, "ending offset").await?;
    offsets.extend(with.into_iter().filter_map(|p| committed.get(&p).map(|committed| (p.clone(), committed.offset))));
    Ok(offsets)
}

/// `topic,partition,offset` lines for one group, `group,topic,partition,offset` lines for any number.
fn parse_plan(text: &str, groups: &[&str]) -> Result<BTreeMap<String, Offsets>, Stop> {
    let mut plan: BTreeMap<String, Offsets> = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let fields: Vec<String> = csv_fields(line);
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        let (group, topic, partition, offset) = match (fields[..].as_ref(), groups) {
            (&[topic, partition, offset], [group]) => (*group, topic, partition, offset),
            (&[group, topic, partition, offset], _) => (group, topic, partition, offset),
            _ => return Err(Stop::Failed(format!("read a reset plan: '{line}' has the wrong number of columns"))),
        };
        let invalid = |_| Stop::Failed(format!("read a reset plan: '{line}' holds something that is not a number"));
        let key = TopicPartition::new(topic, partition.parse().map_err(invalid)?);
        plan.entry(group.to_owned()).or_default().insert(key, offset.parse().map_err(invalid)?);
    }
    Ok(plan)
}

fn csv_fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut is_quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if is_quoted && characters.peek() == Some(&'"') => {
                characters.next();
                fields.last_mut().expect("there is always a field").push('"');
            }
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(String::new()),
            other => fields.last_mut().expect("there is always a field").push(other),
        }
    }
    fields
}

fn csv_field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

async fn reset(options: &Options, cluster: &Cluster, out: &mut dyn Write) -> Result<(), Stop> {
    let executes = options.has("execute");
    if !executes && !options.has("dry-run") {
        eprintln!(
            "WARN: No action will be performed as the --execute option is missing.In a future major release, the \
             default behavior of this command will be to prompt the user before executing the reset rather than doing \
             a dry run. You should add the --dry-run option explicitly if you are scripting this command and want to \
             keep the current default behavior without prompting."
        );
    }
    let mut prepared: BTreeMap<String, Offsets> = BTreeMap::new();
    for id in group_ids(options, cluster).await? {
        let state = match cluster.describe_group(&id).await {
            Ok((group, _)) => group.group_state,
            Err(error) if error.code() == Some(ErrorCode::GroupIdNotFound) => "Dead".to_owned(),
            Err(error) => return Err(error.into()),
        };
        if !matches!(state.as_str(), "Empty" | "Dead") {
            writeln!(
                out,
                "\nError: Assignments can only be reset if the group '{id}' is inactive, but the current state is {state}."
            )?;
            prepared.insert(id, Offsets::new());
            continue;
        }
        let offsets = new_offsets(options, cluster, &id, out).await?;
        if executes {
            cluster.alter_committed_offsets(&id, &offsets).await?;
        }
        prepared.insert(id, offsets);
    }
    print_reset(&prepared, options.has("export"), options.values("group").len() == 1, out)?;
    Ok(())
}

fn print_reset(
    prepared: &BTreeMap<String, Offsets>,
    is_export: bool,
    is_single: bool,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    if is_export {
        for (group, offsets) in prepared {
            for (partition, offset) in offsets {
                let group = if is_single { String::new() } else { format!("{},", csv_field(group)) };
                writeln!(out, "{group}{},{},{offset}", partition.topic, partition.partition)?;
            }
        }
        return writeln!(out);
    }
    // Kafka 3.8 and 3.9 forget the line ends between the rows; all other releases, and this tool, write them.
    let mut rows = vec![["GROUP", "TOPIC", "PARTITION", "NEW-OFFSET"].map(str::to_owned).to_vec()];
    for (group, offsets) in prepared {
        for (partition, offset) in offsets {
            let numbers = [partition.partition.to_string(), offset.to_string()];
            rows.push([group.clone(), partition.topic.to_string()].into_iter().chain(numbers).collect());
        }
    }
    writeln!(out)?;
    print_rows(&rows, &[30, 30, 10, 15], out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::admin::FoundOffset;

    fn refusal(line: &str) -> String {
        match check(&TOOL.options(&format!("--bootstrap-server a:1 {line}"))) {
            Err(Stop::Usage(message)) => message,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_action_decides_which_flags_make_sense() {
        assert!(refusal("--group g").starts_with("Command must include exactly one action"));
        assert!(refusal("--describe").starts_with("Option [describe] takes one of these options"));
        assert!(refusal("--describe --group g --members --state").contains("at most one"));
        assert!(refusal("--delete --group g --topic t").starts_with("The consumer does not support"));
        assert!(refusal("--reset-offsets --group g --topic t").starts_with("Option '[reset-offsets]' requires one"));
        assert_eq!(
            refusal("--reset-offsets --group g --to-earliest"),
            "One of the reset scopes should be defined: --all-topics, --topic."
        );
        assert_eq!(
            refusal("--reset-offsets --group g --topic t --to-earliest --shift-by -1"),
            "Option \"[shift-by]\" can't be used with option \"[to-earliest]\""
        );
        assert_eq!(refusal("--list --group g"), "Option \"[group]\" can't be used with option \"[list]\"");
        assert_eq!(refusal("--list --members"), "Option [members] is available only with [describe]");
        assert!(check(&TOOL.options("--bootstrap-server a:1 --list --state Stable")).is_ok());
    }

    #[test]
    fn durations_and_times_are_those_of_iso_8601() {
        assert_eq!(parse_duration_ms("P1DT2H3M4.5S").unwrap(), 93_784_500);
        assert_eq!(parse_duration_ms("-PT1.25S").unwrap(), -1250);
        assert_eq!(parse_duration_ms("PT-1.5S").unwrap(), -1500);
        for wrong in ["", "P", "PT", "1D", "P1H", "PT1D"] {
            assert!(parse_duration_ms(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_datetime_ms("1970-01-02T00:00:00.123").unwrap(), 86_400_123);
        assert_eq!(parse_datetime_ms("1970-01-01T01:00:00.000+01:00").unwrap(), 0);
        assert!(parse_datetime_ms("1970-01-01").is_err());
    }

    #[test]
    fn plans_come_with_and_without_groups() {
        let partition = TopicPartition::new("t", 1);
        let single = parse_plan("t,1,5\n", &["g"]).unwrap();
        assert_eq!(single["g"], Offsets::from([(partition.clone(), 5)]));
        let many = parse_plan("\"a,b\",t,1,5\nc,t,1,6\n", &["x", "y"]).unwrap();
        assert_eq!((many["a,b"][&partition], many["c"][&partition]), (5, 6));
        assert!(parse_plan("t,1\n", &["g"]).is_err());
        assert!(parse_plan("t,1,x\n", &["g"]).is_err());
        let mut out = Vec::new();
        print_reset(&many, true, false, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "\"a,b\",t,1,5\nc,t,1,6\n\n");
    }

    #[test]
    fn new_offsets_stay_within_the_log() {
        let partition = |id| TopicPartition::new("t", id);
        let requested = Offsets::from([(partition(0), 1), (partition(1), 50), (partition(2), 500)]);
        let starts: Offsets = requested.keys().map(|p| (p.clone(), 10)).collect();
        let ends: Offsets = requested.keys().map(|p| (p.clone(), 100)).collect();
        let clamped: Vec<i64> = clamp(&requested, &starts, &ends).into_values().collect();
        assert_eq!(clamped, [10, 50, 100]);
    }

    #[test]
    fn a_description_has_a_row_per_partition_and_dashes_for_what_is_not_known() {
        let committed = |offset| CommittedOffset { offset, leader_epoch: -1, metadata: None };
        let committed =
            BTreeMap::from([(TopicPartition::new("t", 1), committed(3)), (TopicPartition::new("t", 0), committed(2))]);
        let ends = FoundOffsets::from([
            (TopicPartition::new("t", 0), Ok(FoundOffset { offset: 12, leader_epoch: 0 })),
            (TopicPartition::new("t", 1), Err(ErrorCode::UnknownTopicOrPartition)),
        ]);
        let rows = offset_rows(&DescribedGroup::default(), &committed, &ends).unwrap();
        let mut out = Vec::new();
        print_offsets("g", &rows, &mut out).unwrap();
        let expected = "\n\
            GROUP           TOPIC           PARTITION  CURRENT-OFFSET  LOG-END-OFFSET  LAG             CONSUMER-ID     HOST            CLIENT-ID\n\
            g               t               0          2               12              10              -               -               -\n\
            g               t               1          3               -               -               -               -               -\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
