//! kafka-consumer-groups.sh: lists, describes, resets and deletes consumer groups.

mod delete_offsets;
mod describe;
mod reset;

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use crate::cli::cluster;
use crate::cli::options::{BOOTSTRAP_SERVER, COMMAND_CONFIG, Options, Stop, Takes, Tool, flag};
use crate::cli::table::{print_rows, width_of};
use crate::client::admin::is_of_consumers;
use crate::client::cluster::{Cluster, Node};
use crate::client::error::checked;
use crate::client::pattern::comma_list;
use crate::model::TopicPartition;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::delete_groups::DeleteGroupsRequest;
use crate::protocol::messages::describe_groups::DescribedGroup;
use crate::protocol::messages::metadata::MetadataResponseTopic;

pub(crate) const TOOL: Tool = Tool {
    script: "kafka-consumer-groups",
    about: "This tool helps to list all consumer groups, describe a consumer group, delete consumer group info, or \
            reset consumer group offsets.",
    flags: &[
        BOOTSTRAP_SERVER,
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
        COMMAND_CONFIG,
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
    let available: [(&str, &[&str]); 5] = [
        ("members", &["describe"]),
        ("verbose", &["describe"]),
        ("offsets", &["describe"]),
        ("state", &["describe", "list"]),
        ("type", &["list"]),
    ];
    for (option, actions) in available {
        if options.has(option) && !actions.iter().any(|action| options.has(action)) {
            let actions = actions.join("] or [");
            return Err(Stop::Usage(format!("Option [{option}] is available only with [{actions}]")));
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
        describe::describe(options, cluster, out).await
    } else if options.has("delete") {
        delete(options, cluster, out).await
    } else if options.has("reset-offsets") {
        reset::reset(options, cluster, out).await
    } else {
        delete_offsets::delete_offsets(options, cluster, out).await
    }
}

/// The groups that `--group` or `--all-groups` names, each once.
async fn group_ids(options: &Options, cluster: &Cluster) -> Result<Vec<String>, Stop> {
    if options.has("all-groups") {
        return Ok(cluster.list_groups(&[], &[]).await?.into_iter().map(|group| group.group_id).collect());
    }
    let mut seen = BTreeSet::new();
    let named = options.values("group").into_iter().filter(|id| seen.insert(*id));
    Ok(named.map(str::to_owned).collect())
}

/// A group and its coordinator, or what is said of one that is none of consumers. `None` for one that there is not.
/// Source: kafka 3.9.0-rc3 clients/.../admin/internals/DescribeConsumerGroupsHandler.java.
async fn described(cluster: &Cluster, id: &str) -> Result<Result<Option<(DescribedGroup, Node)>, String>, Stop> {
    match cluster.describe_group(id).await {
        Err(error) if error.code() == Some(ErrorCode::GroupIdNotFound) => Ok(Ok(None)),
        Err(error) => Err(error.into()),
        Ok((group, _)) if !is_of_consumers(&group.protocol_type) => {
            let kind = group.protocol_type;
            Ok(Err(format!("java.lang.IllegalArgumentException: GroupId {id} is not a consumer group ({kind}).")))
        }
        Ok(found) => Ok(Ok(Some(found))),
    }
}

/// Kafka's spelling of the names in a comma list.
fn filter_of(option: Option<&str>, known: &[&str], what: &str) -> Result<Vec<String>, Stop> {
    let Some(text) = option.filter(|text| !text.is_empty()) else { return Ok(Vec::new()) };
    comma_list(text)
        .into_iter()
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
                checked("delete group", code, None)
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
        let why = error.thrown();
        writeln!(out, "* Group '{id}' could not be deleted due to: java.util.concurrent.ExecutionException: {why}")?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(line: &str) -> String {
        match check(&TOOL.options(&format!("--bootstrap-server a:1 {line}"))) {
            Err(Stop::Usage(message)) => message,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn empty_names_at_the_end_of_a_filter_are_none() {
        let states = |text| filter_of(Some(text), &STATES, "state").map_err(|_| ());
        let expected = ["Dead", "CompletingRebalance"].map(str::to_owned).to_vec();
        assert_eq!(states("Dead,completingrebalance,"), Ok(expected));
        assert_eq!(states(",,"), Ok(Vec::new()));
        assert_eq!((states("Dead,,Empty"), states(" ")), (Err(()), Err(())));
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
        let state = "Option [state] is available only with [describe] or [list]";
        for action in ["--delete", "--delete-offsets --topic t", "--reset-offsets --topic t --to-latest"] {
            assert_eq!(refusal(&format!("{action} --group g --state")), state);
        }
        assert!(check(&TOOL.options("--bootstrap-server a:1 --list --state Stable")).is_ok());
    }
}
