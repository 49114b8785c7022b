//! kafka-log-dirs.sh: prints the log directories of brokers and the replicas in them.
//! Source: kafka 3.9.1 tools/src/main/java/org/apache/kafka/tools/LogDirsCommand.java.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use serde_json::Value;

use crate::cli::cluster;
use crate::cli::options::{BOOTSTRAP_SERVER, COMMAND_CONFIG, Options, Stop, Takes, Tool, flag};
use crate::client::log_dirs::DescribedLogDirs;
use crate::model::BrokerId;

pub(crate) const TOOL: Tool = Tool {
    script: "kafka-log-dirs",
    about: "This tool helps to query log directory usage on the specified brokers.",
    flags: &[
        BOOTSTRAP_SERVER,
        COMMAND_CONFIG,
        flag("describe", Takes::Nothing, "Describe the specified log directories on the specified brokers."),
        flag("topic-list", Takes::Value("Topic list"), "The topics to be queried, as topic1,topic2; else all."),
        flag("broker-list", Takes::Value("Broker list"), "The brokers to be queried, as 0,1,2; else all."),
    ],
};

pub(crate) async fn run(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    options.required("bootstrap-server")?;
    if !options.has("describe") {
        return Err(Stop::Usage("Missing required argument \"[describe]\"".to_owned()));
    }
    let topics: BTreeSet<&str> = listed(options, "topic-list").collect();
    let asked = listed(options, "broker-list")
        .map(|id| id.parse().map_err(|_| Stop::Failed(format!("For input string: \"{id}\""))));
    let asked = asked.collect::<Result<BTreeSet<i32>, Stop>>()?;
    let cluster = cluster(options, "log-dirs-tool")?;
    cluster.retried("describe cluster", || cluster.metadata(Some(&[]), false)).await?;
    let there: BTreeSet<i32> = cluster.nodes().into_iter().map(|node| node.id.0).collect();
    let missing: BTreeSet<i32> = asked.difference(&there).copied().collect();
    if !missing.is_empty() {
        return Err(Stop::Failed(format!(
            "ERROR: The given brokers do not exist from --broker-list: {}. Current existent brokers: {}",
            joined(&missing),
            joined(&there)
        )));
    }
    let brokers = if asked.is_empty() { there } else { asked };
    writeln!(out, "Querying brokers for log directories information")?;
    let mut described = BTreeMap::new();
    for broker in &brokers {
        described.insert(*broker, cluster.describe_log_dirs(BrokerId(*broker), None).await?);
    }
    writeln!(out, "Received log directory information from brokers {}", joined(&brokers))?;
    writeln!(out, "{}", as_json(&described, &topics))?;
    Ok(())
}

fn listed<'a>(options: &'a Options, flag: &str) -> impl Iterator<Item = &'a str> {
    options.value(flag).unwrap_or_default().split(',').filter(|word| !word.is_empty())
}

fn joined(ids: &BTreeSet<i32>) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// As Kafka's tool writes it, key by key. The order of directories and partitions is theirs by chance, ours by name.
fn as_json(described: &BTreeMap<i32, DescribedLogDirs>, topics: &BTreeSet<&str>) -> String {
    let all = |parts: Vec<String>| parts.join(",");
    let brokers = described.iter().map(|(broker, dirs)| {
        let dirs = dirs.iter().map(|(path, dir)| {
            let replicas = dir.replicas.iter().filter(|(name, _)| topics.is_empty() || topics.contains(&*name.topic));
            let replicas = replicas.map(|(name, replica)| {
                format!(
                    "{{\"partition\":{},\"size\":{},\"offsetLag\":{},\"isFuture\":{}}}",
                    Value::from(name.to_string()),
                    replica.size_bytes,
                    replica.offset_lag,
                    replica.is_future
                )
            });
            let error = dir.error.is_error().then(|| dir.error.exception());
            format!(
                "{{\"partitions\":[{}],\"error\":{},\"logDir\":{}}}",
                all(replicas.collect()),
                Value::from(error),
                Value::from(path.as_str())
            )
        });
        format!("{{\"broker\":{broker},\"logDirs\":[{}]}}", all(dirs.collect()))
    });
    format!("{{\"brokers\":[{}],\"version\":1}}", all(brokers.collect()))
}
