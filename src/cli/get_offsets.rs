//! kafka-get-offsets.sh: prints offsets of partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use regex::Regex;

use crate::cli::cluster_of;
use crate::cli::options::{BOOTSTRAP_SERVER, BROKER_LIST, COMMAND_CONFIG, Options, Stop, Takes, Tool, flag};
use crate::cli::topic_filter::TopicFilter;
use crate::client::admin::{EARLIEST, LATEST};
use crate::client::error::{ClientError, thrown};
use crate::client::pattern::comma_list;
use crate::model::TopicPartition;
use crate::model::internal_topics::is_internal_topic;
use crate::protocol::messages::list_offsets::ListOffsetsRequest;

pub(crate) const TOOL: Tool = Tool {
    script: "kafka-get-offsets",
    about: "An interactive shell for getting topic-partition offsets.",
    flags: &[
        BROKER_LIST,
        BOOTSTRAP_SERVER,
        flag(
            "topic-partitions",
            Takes::Value("topic1:1,topic2:0-3,topic3,topic4:5-,topic5:-3"),
            "Patterns of partitions: a regular expression for the topic, then a partition or a range without its end.",
        ),
        flag("topic", Takes::Value("topic"), "The topic, or a regular expression; all topics if absent."),
        flag("partitions", Takes::Value("partition ids"), "Partition ids; all partitions if absent."),
        flag(
            "time",
            Takes::Value("timestamp / -1 or latest / -2 or earliest / -3 or max-timestamp / ..."),
            "Offsets of the first record at or after this time, in ms. Default: latest.",
        ),
        // What 2.8's class took and ignored.
        flag("offsets", Takes::Value("count"), "DEPRECATED AND IGNORED: number of offsets returned."),
        flag("max-wait-ms", Takes::Value("ms"), "DEPRECATED AND IGNORED: the max wait time."),
        COMMAND_CONFIG,
        flag("exclude-internal-topics", Takes::Nothing, "Leave internal topics out."),
    ],
};

/// Which partitions are asked for: a topic pattern and a set or range of partitions each.
#[derive(Debug)]
struct Rule {
    topics: TopicFilter,
    partitions: Wanted,
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Ids(BTreeSet<i32>),
    /// The end is exclusive.
    Range(i32, i32),
}

impl Rule {
    fn allows(&self, topic: &str, partition: i32) -> bool {
        self.topics.allows(topic, false)
            && match &self.partitions {
                Wanted::All => true,
                Wanted::Ids(ids) => ids.contains(&partition),
                Wanted::Range(from, end) => (*from..*end).contains(&partition),
            }
    }
}

/// Timestamp that ListOffsets takes for it, and the lowest version that knows it.
fn parse_time(text: &str) -> Result<(i64, i16), Stop> {
    let timestamp = match text {
        "latest" => LATEST,
        "earliest" => EARLIEST,
        "max-timestamp" => -3,
        "earliest-local" => -4,
        "latest-tiered" => -5,
        number => number.parse().map_err(|_| {
            Stop::Failed(format!(
                "Malformed time argument {text}. Please use -1 or latest / -2 or earliest / -3 or max-timestamp / \
                 -4 or earliest-local / -5 or latest-tiered, or a specified long format timestamp"
            ))
        })?,
    };
    let version = match timestamp {
        -3 => 7,
        -4 => 8,
        -5 => 9,
        _ => 1,
    };
    Ok((timestamp, version))
}

fn parse_rules(options: &Options) -> Result<Vec<Rule>, Stop> {
    let filter = |text: &str| TopicFilter::new(text).map_err(Stop::Failed);
    if let Some(patterns) = options.value("topic-partitions") {
        if options.has("topic") || options.has("partitions") {
            return Err(Stop::Failed("--topic-partitions cannot be used with --topic or --partitions".to_owned()));
        }
        let form = Regex::new("^([^:,]*)(?::(?:([0-9]*)|(?:([0-9]*)-([0-9]*))))?$").expect("the pattern is constant");
        return comma_list(patterns)
            .into_iter()
            .map(|text| {
                let invalid = || Stop::Failed(format!("Invalid rule specification: {text}"));
                let parts = form.captures(text).ok_or_else(invalid)?;
                let part = |index: usize| parts.get(index).map(|m| m.as_str()).filter(|text| !text.is_empty());
                let number = |text: &str| text.parse::<i32>().map_err(|_| invalid());
                let partitions = match part(2) {
                    Some(id) => Wanted::Ids(BTreeSet::from([number(id)?])),
                    None => Wanted::Range(part(3).map_or(Ok(0), number)?, part(4).map_or(Ok(i32::MAX), number)?),
                };
                Ok(Rule { topics: filter(part(1).unwrap_or(".*"))?, partitions })
            })
            .collect();
    }
    // None at all, as of a lone comma, are all.
    let partitions = match options.value("partitions").filter(|text| !comma_list(text).is_empty()) {
        None => Wanted::All,
        Some(text) => {
            Wanted::Ids(comma_list(text).into_iter().map(str::parse).collect::<Result<_, _>>().map_err(|_| {
                Stop::Failed(format!(
                    "--partitions expects a comma separated list of numeric partition ids, but received: {text}"
                ))
            })?)
        }
    };
    Ok(vec![Rule { topics: filter(options.value("topic").unwrap_or(".*"))?, partitions }])
}

pub(crate) async fn run(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    run_terse(options, out).await.map_err(|stop| match stop {
        Stop::Failed(message) => Stop::Failed(format!("Error occurred: {message}")),
        other => other,
    })
}

async fn run_terse(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    let servers = options.servers("Missing required argument \"[bootstrap-server]\"")?;
    let rules = parse_rules(options)?;
    let (timestamp, version) = parse_time(options.value("time").unwrap_or("latest"))?;
    let cluster = cluster_of(options, &servers, "GetOffsetShell")?;
    let metadata = cluster.retried("list topics", || cluster.metadata(None, false)).await?;
    let mut asked = BTreeMap::new();
    for topic in &metadata.topics {
        let name = topic.name.as_deref().unwrap_or_default();
        if options.has("exclude-internal-topics") && (topic.is_internal || is_internal_topic(name)) {
            continue;
        }
        for partition in &topic.partitions {
            let index = partition.partition_index;
            if rules.iter().any(|rule| rule.allows(name, index)) {
                asked.insert(TopicPartition::new(name, index), timestamp);
            }
        }
    }
    if asked.is_empty() {
        let message = "Could not match any topic-partitions with the specified filters";
        return Err(Stop::Failed(message.to_owned()));
    }
    // An older broker would take the special timestamp for a time.
    let newest = cluster.any().await?.version_of::<ListOffsetsRequest>(i16::MAX)?;
    if newest < version {
        let address = cluster.any().await?.address().to_owned();
        return Err(ClientError::UnsupportedVersion { address, api: "ListOffsets for this --time" }.into());
    }
    let found = cluster.list_offsets(&asked, false).await?;
    // Kafka sorts by the text of the partition: t-10 stands before t-2.
    let by_text: BTreeMap<String, (&TopicPartition, _)> =
        found.iter().map(|(partition, result)| (partition.to_string(), (partition, result))).collect();
    for (partition, result) in by_text.into_values() {
        match result {
            Ok(found) if found.offset < 0 => {}
            Ok(found) => writeln!(out, "{}:{}:{}", partition.topic, partition.partition, found.offset)?,
            Err(code) => {
                complain!("Skip getting offsets for topic-partition {partition} due to error: {}", thrown(*code, None))
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn rules(line: &str) -> Result<Vec<Rule>, Stop> {
        let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        parse_rules(&TOOL.parse(&arguments).unwrap())
    }

    #[test]
    fn patterns_choose_topics_and_partitions() {
        let all = rules("--topic-partitions a:1,b:0-3,c,d:5-,e:-3,:7").unwrap();
        let allows = |topic: &str, partition| all.iter().any(|rule| rule.allows(topic, partition));
        assert!(allows("a", 1) && !allows("a", 0));
        assert!(allows("b", 0) && allows("b", 2) && !allows("b", 3));
        assert!(allows("c", 100) && allows("d", 5) && !allows("d", 4) && allows("e", 2) && !allows("e", 3));
        assert!(allows("anything", 7));
        assert!(rules("--topic-partitions a:b").is_err());
        assert!(rules("--topic-partitions a --topic b").is_err());
        assert!(rules("--topic a --partitions 1,x").is_err());
        assert!(rules("--topic a --partitions 1,2").unwrap()[0].allows("a", 2));
    }

    #[test]
    fn times_have_names_and_numbers() {
        assert_eq!(parse_time("latest").unwrap(), (-1, 1));
        assert_eq!(parse_time("-3").unwrap(), (-3, 7));
        assert_eq!(parse_time("latest-tiered").unwrap(), (-5, 9));
        assert_eq!(parse_time("1700000000000").unwrap(), (1_700_000_000_000, 1));
        assert!(parse_time("yesterday").is_err());
    }
}
