//! kafka-leader-election.sh: has leaders elected by the controller.
//! Source: kafka 3.9.1 tools/src/main/java/org/apache/kafka/tools/LeaderElectionCommand.java.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use serde_json::Value;

use crate::cli::options::{BOOTSTRAP_SERVER, Options, Stop, Takes, Tool, flag};
use crate::cli::{cluster_with, properties_of_file};
use crate::client::cluster::Cluster;
use crate::client::error::{checked, thrown};
use crate::client::settings::ClientProperties;
use crate::model::TopicPartition;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::elect_leaders::{ElectLeadersRequest, ElectLeadersResponse, TopicPartitions};

pub(crate) const TOOL: Tool = Tool {
    script: "kafka-leader-election",
    about: "This tool attempts to elect a new leader for a set of topic partitions. The type of elections supported are \
            preferred replicas and unclean replicas.",
    flags: &[
        BOOTSTRAP_SERVER,
        flag("admin.config", Takes::Value("config file"), "Property file for the admin client."),
        flag(
            "path-to-json-file",
            Takes::Value("Path to JSON file"),
            "Partitions as {\"partitions\": [{\"topic\": \"foo\", \"partition\": 1}]}.",
        ),
        flag("topic", Takes::Value("topic name"), "Topic of the one partition; needs --partition."),
        flag("partition", Takes::Value("partition id"), "Partition of --topic."),
        flag("all-topic-partitions", Takes::Nothing, "All partitions that the type of election may concern."),
        flag(
            "election-type",
            Takes::Value("election type"),
            "REQUIRED. preferred: the first replica, where another leads. unclean: any live one, where none leads.",
        ),
    ],
};

/// How long an election may take, and an attempt at it, unless the user's properties say so. Source:
/// LeaderElectionCommand.main and run.
const TIMEOUTS: [(&str, &str); 2] = [("default.api.timeout.ms", "30000"), ("request.timeout.ms", "15000")];

pub(crate) async fn run(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    let missing: Vec<&str> =
        ["bootstrap-server", "election-type"].into_iter().filter(|name| !options.has(name)).collect();
    if !missing.is_empty() {
        return Err(Stop::Failed(format!("Missing required option(s): {}", missing.join(", "))));
    }
    let choices = ["topic", "all-topic-partitions", "path-to-json-file"];
    if choices.iter().filter(|name| options.has(name)).count() != 1 {
        return Err(Stop::Failed(format!(
            "One and only one of the following options is required: {}",
            choices.join(", ")
        )));
    }
    if options.has("topic") && !options.has("partition") {
        return Err(Stop::Failed("Missing required option(s): partition".to_owned()));
    }
    if !options.has("topic") && options.has("partition") {
        return Err(Stop::Failed("Option partition is only allowed if topic is used".to_owned()));
    }
    let election = match options.required("election-type")? {
        text if text.eq_ignore_ascii_case("preferred") => "PREFERRED",
        text if text.eq_ignore_ascii_case("unclean") => "UNCLEAN",
        text => {
            return Err(Stop::Failed(format!("Value [{text}] is not one of [PREFERRED, UNCLEAN]")));
        }
    };
    let partitions = match (options.value("path-to-json-file"), options.value("topic")) {
        (Some(path), _) => Some(partitions_in(path)?),
        (None, Some(topic)) => {
            let partition = options.number("partition")?.unwrap_or(0);
            Some(BTreeSet::from([TopicPartition::new(topic, partition)]))
        }
        (None, None) => None,
    };
    let cluster = cluster_with(properties(options)?, options.required("bootstrap-server")?, "kafka-leader-election")?;
    elect(&cluster, election, partitions, out).await
}

fn properties(options: &Options) -> Result<ClientProperties, Stop> {
    let mut properties = properties_of_file(options.value("admin.config"))?;
    for (name, default) in TIMEOUTS {
        properties.set_if_absent(name, default);
    }
    Ok(properties)
}

fn partitions_in(path: &str) -> Result<BTreeSet<TopicPartition>, Stop> {
    let text = std::fs::read(path).map_err(|error| Stop::Failed(format!("read {path}: {error}")))?;
    let parsed: Value = serde_json::from_slice(&text)
        .map_err(|error| Stop::Failed(format!("Replica election data is empty: {path} is not JSON: {error}")))?;
    parse(&parsed).map_err(Stop::Failed)
}

fn parse(data: &Value) -> Result<BTreeSet<TopicPartition>, String> {
    let entries = data.get("partitions").and_then(Value::as_array);
    let entries = entries.ok_or("Replica election data is missing \"partitions\" field")?;
    let mut partitions = BTreeSet::new();
    let mut duplicates = BTreeSet::new();
    for entry in entries {
        let topic = entry.get("topic").and_then(Value::as_str);
        let partition = entry.get("partition").and_then(Value::as_i64).and_then(|id| i32::try_from(id).ok());
        let (Some(topic), Some(partition)) = (topic, partition) else {
            return Err(format!("{entry} of the replica election data lacks a topic or a partition"));
        };
        let name = TopicPartition::new(topic, partition);
        if !partitions.insert(name.clone()) {
            duplicates.insert(name.to_string());
        }
    }
    match duplicates.is_empty() {
        true => Ok(partitions),
        false => Err(format!(
            "Replica election data contains duplicate partitions: [{}]",
            duplicates.into_iter().collect::<Vec<_>>().join(", ")
        )),
    }
}

async fn elect(
    cluster: &Cluster,
    election: &str,
    partitions: Option<BTreeSet<TopicPartition>>,
    out: &mut dyn Write,
) -> Result<(), Stop> {
    let asked = partitions.map(|partitions| {
        let mut topics: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for name in partitions {
            topics.entry(name.topic.to_string()).or_default().push(name.partition);
        }
        topics.into_iter().map(|(topic, partitions)| TopicPartitions { topic, partitions }).collect()
    });
    let allowed = cluster.settings.connection.request_timeout.min(cluster.settings.api_timeout);
    let request = ElectLeadersRequest {
        election_type: i8::from(election == "UNCLEAN"),
        topic_partitions: asked,
        // As Kafka's client asks the first time.
        timeout_ms: i32::try_from(allowed.as_millis()).unwrap_or(i32::MAX),
    };
    // The broker that is not the controller says so for the partitions.
    let code_of = |answer: &ElectLeadersResponse| {
        let results = answer.replica_election_results.iter().flat_map(|topic| &topic.partition_result);
        let codes = std::iter::once(answer.error_code).chain(results.map(|result| result.error_code));
        let is_not_controller = codes.into_iter().any(|code| code == ErrorCode::NotController.code());
        if is_not_controller { ErrorCode::NotController } else { ErrorCode::from_code(answer.error_code) }
    };
    // Before version 1 there was no choice of elections.
    let answer = cluster.send_to_controller(&request, i16::MAX, code_of).await.and_then(|answer| {
        checked("elect leaders", answer.error_code, None)?;
        Ok(answer)
    });
    let why = match answer {
        Ok(answer) => return report(election, answer, out),
        Err(error) if error.thrown().starts_with(&ErrorCode::RequestTimedOut.exception()) => {
            "Timeout waiting for election results"
        }
        Err(error) if error.code() == Some(ErrorCode::ClusterAuthorizationFailed) => {
            "Not authorized to perform leader election"
        }
        Err(error) => {
            return Err(Stop::Failed(format!("java.util.concurrent.ExecutionException: {}", error.thrown())));
        }
    };
    writeln!(out, "{why}")?;
    Err(Stop::Failed(why.to_owned()))
}

fn report(election: &str, answer: ElectLeadersResponse, out: &mut dyn Write) -> Result<(), Stop> {
    let (mut succeeded, mut noop, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for topic in answer.replica_election_results {
        for result in topic.partition_result {
            let name = TopicPartition::new(topic.topic.as_str(), result.partition_id);
            match ErrorCode::from_code(result.error_code) {
                ErrorCode::None => succeeded.push(name.to_string()),
                ErrorCode::ElectionNotNeeded => noop.push(name.to_string()),
                code => failed.push((name, thrown(code, result.error_message.as_deref()))),
            }
        }
    }
    if !succeeded.is_empty() {
        writeln!(out, "Successfully completed leader election ({election}) for partitions {}", succeeded.join(", "))?;
    }
    if !noop.is_empty() {
        writeln!(out, "Valid replica already elected for partitions {}", noop.join(", "))?;
    }
    for (name, why) in &failed {
        writeln!(out, "Error completing leader election ({election}) for partition: {name}: {why}")?;
    }
    match failed.len() {
        0 => Ok(()),
        failed => Err(Stop::Failed(format!("{failed} replica(s) could not be elected"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::messages::elect_leaders::{PartitionResult, ReplicaElectionResult};

    #[test]
    fn partitions_are_read_and_those_named_twice_refused() {
        let parsed = |text: &str| parse(&serde_json::from_str(text).unwrap());
        let found = parsed(r#"{"partitions":[{"topic":"t","partition":1},{"topic":"t","partition":0}]}"#).unwrap();
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), ["t-0", "t-1"]);
        let twice = parsed(r#"{"partitions":[{"topic":"t","partition":1},{"topic":"t","partition":1}]}"#);
        assert_eq!(twice, Err("Replica election data contains duplicate partitions: [t-1]".to_owned()));
        assert_eq!(parsed("{}"), Err("Replica election data is missing \"partitions\" field".to_owned()));
    }

    #[test]
    fn timeouts_are_the_tools_own_unless_the_user_says_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("admin.properties");
        std::fs::write(&file, "request.timeout.ms=7\n").unwrap();
        let given = |line: &str| {
            let properties = properties(&TOOL.options(line)).unwrap();
            ["default.api.timeout.ms", "request.timeout.ms"].map(|name| properties.get(name).map(str::to_owned))
        };
        let ms = |text: &str| Some(text.to_owned());
        assert_eq!(given("--topic t"), [ms("30000"), ms("15000")]);
        assert_eq!(given(&format!("--admin.config {}", file.display())), [ms("30000"), ms("7")]);
    }

    #[test]
    fn the_outcome_of_each_partition_is_told() {
        let result = |partition_id, code: ErrorCode| PartitionResult {
            partition_id,
            error_code: code.code(),
            error_message: (code == ErrorCode::PreferredLeaderNotAvailable).then(|| "not in sync".to_owned()),
        };
        let partition_result = vec![
            result(0, ErrorCode::None),
            result(1, ErrorCode::ElectionNotNeeded),
            result(2, ErrorCode::PreferredLeaderNotAvailable),
            result(3, ErrorCode::None),
        ];
        let topic = ReplicaElectionResult { topic: "t".to_owned(), partition_result };
        let answer = ElectLeadersResponse { replica_election_results: vec![topic], ..Default::default() };
        let mut out = Vec::new();
        let stop = report("PREFERRED", answer, &mut out);
        assert!(matches!(stop, Err(Stop::Failed(why)) if why == "1 replica(s) could not be elected"));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "Successfully completed leader election (PREFERRED) for partitions t-0, t-3\n\
             Valid replica already elected for partitions t-1\n\
             Error completing leader election (PREFERRED) for partition: t-2: \
             org.apache.kafka.common.errors.PreferredLeaderNotAvailableException: not in sync\n"
        );
    }
}
