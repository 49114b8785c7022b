//! kafka-transactions.sh: lists and describes transactions, finds those that hang, and aborts them.
//! Source: kafka 3.9.1 tools/src/main/java/org/apache/kafka/tools/TransactionsCommand.java.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::ops::ControlFlow;

use crate::cli::cluster;
use crate::cli::options::{BOOTSTRAP_SERVER, COMMAND_CONFIG, Options, Stop, Subcommand, Takes, Tool, flag};
use crate::client::cluster::Cluster;
use crate::client::error::ClientError;
use crate::model::clock::wall_clock_ms;
use crate::model::{BrokerId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::describe_producers::ProducerState;
use crate::protocol::messages::list_transactions::ListTransactionsRequest;

pub(crate) const TOOL: Tool = Tool {
    script: "kafka-transactions",
    about: "This tool is used to analyze the transactional state of producers in the cluster. It can be used to detect \
            and recover from hanging transactions: list, describe, describe-producers, abort, find-hanging.",
    flags: &[
        BOOTSTRAP_SERVER,
        COMMAND_CONFIG,
        flag("duration-filter", Takes::Value("DURATION_FILTER"), "list: only those that run for longer, in millis."),
        flag("transactional-id", Takes::Value("TRANSACTIONAL_ID"), "describe: REQUIRED. The transactional id."),
        flag("topic", Takes::Value("TOPIC"), "Topic name."),
        flag("partition", Takes::Value("PARTITION"), "Partition number."),
        flag("broker-id", Takes::Value("BROKER_ID"), "The broker to ask, or to search."),
        flag("start-offset", Takes::Value("START_OFFSET"), "abort: where the transaction begins."),
        flag("producer-id", Takes::Value("PRODUCER_ID"), "abort, of brokers older than 3.0: producer id."),
        flag("producer-epoch", Takes::Value("PRODUCER_EPOCH"), "abort, of brokers older than 3.0: producer epoch."),
        flag("coordinator-epoch", Takes::Value("COORDINATOR_EPOCH"), "abort, of brokers older than 3.0: its epoch."),
        flag(
            "max-transaction-timeout",
            Takes::Value("MAX_TRANSACTION_TIMEOUT"),
            "find-hanging: the longest transaction that there may be, in minutes (15 by default).",
        ),
    ],
};

const SUBCOMMANDS: &[Subcommand] = &[
    Subcommand { name: "list", needs: &[], takes: &["duration-filter"] },
    Subcommand { name: "describe", needs: &["transactional-id"], takes: &[] },
    Subcommand { name: "describe-producers", needs: &["topic", "partition"], takes: &["broker-id"] },
    Subcommand {
        name: "abort",
        needs: &["topic", "partition"],
        takes: &["start-offset", "producer-id", "producer-epoch", "coordinator-epoch"],
    },
    Subcommand {
        name: "find-hanging",
        needs: &[],
        takes: &["broker-id", "max-transaction-timeout", "topic", "partition"],
    },
];

/// So many are asked about at once.
const BATCH: usize = 500;

pub(crate) async fn run(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    let command = options.subcommand(&["bootstrap-server", "command-config"], SUBCOMMANDS)?;
    if !options.has("bootstrap-server") {
        return Err(Stop::Usage("argument --bootstrap-server is required".to_owned()));
    }
    let cluster = cluster(options, "adminclient-1")?;
    match command {
        "list" => list(options, &cluster, out).await,
        "describe" => describe(options, &cluster, out).await,
        "describe-producers" => describe_producers(options, &cluster, out).await,
        "abort" => abort(options, &cluster).await,
        _ => find_hanging(options, &cluster, out).await,
    }
}

fn failed(what: String) -> impl FnOnce(ClientError) -> Stop {
    move |why| {
        let why = why.told();
        Stop::Failed(format!("{what}: {why}. Enable debug logging for additional detail."))
    }
}

fn the_partition(options: &Options) -> Result<TopicPartition, Stop> {
    let topic = options.required_argument("topic")?;
    options.required_argument("partition")?;
    Ok(TopicPartition::new(topic, options.number("partition")?.unwrap_or(0)))
}

/// Columns of one width each, with a tab behind every one.
fn print_table(headers: &[&str], rows: &[Vec<String>], out: &mut dyn Write) -> Result<(), Stop> {
    let width = |column: usize, header: &str| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.max().unwrap_or(0).max(header.len())
    };
    let widths: Vec<usize> = headers.iter().enumerate().map(|(column, header)| width(column, header)).collect();
    let headers: Vec<String> = headers.iter().map(|header| (*header).to_owned()).collect();
    for row in std::iter::once(&headers).chain(rows) {
        for (cell, width) in row.iter().zip(&widths) {
            write!(out, "{cell:width$}\t")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

async fn list(options: &Options, cluster: &Cluster, out: &mut dyn Write) -> Result<(), Stop> {
    let duration_filter = options.number("duration-filter")?.unwrap_or(-1);
    let request = ListTransactionsRequest { duration_filter, ..Default::default() };
    let listed = cluster.list_transactions(&request).await.map_err(failed("Failed to list transactions".to_owned()))?;
    let mut rows = Vec::new();
    for (broker, transactions) in listed {
        rows.extend(transactions.into_iter().map(|one| {
            vec![one.transactional_id, broker.to_string(), one.producer_id.to_string(), one.transaction_state]
        }));
    }
    print_table(&["TransactionalId", "Coordinator", "ProducerId", "TransactionState"], &rows, out)
}

async fn describe(options: &Options, cluster: &Cluster, out: &mut dyn Write) -> Result<(), Stop> {
    let id = options.required_argument("transactional-id")?;
    let what = format!("Failed to describe transaction state of transactional-id `{id}`");
    let (coordinator, state) = cluster.describe_transaction(id).await.map_err(|why| match why.code() {
        Some(ErrorCode::TransactionalIdNotFound) => Stop::Failed(format!(
            "{what}: DescribeTransactions request for transactionalId `{id}` failed because the ID could not be found. \
             Enable debug logging for additional detail."
        )),
        _ => failed(what)(why),
    })?;
    let started = Some(state.transaction_start_time_ms).filter(|ms| *ms >= 0);
    let or_none = |ms: Option<i64>| ms.map_or("None".to_owned(), |ms| ms.to_string());
    let partitions = state
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|partition| format!("{}-{partition}", topic.topic)));
    let row = vec![
        coordinator.to_string(),
        id.to_owned(),
        state.producer_id.to_string(),
        state.producer_epoch.to_string(),
        state.transaction_state.clone(),
        state.transaction_timeout_ms.to_string(),
        or_none(started),
        or_none(started.map(|ms| wall_clock_ms() - ms)),
        partitions.collect::<Vec<_>>().join(","),
    ];
    let headers = [
        "CoordinatorId",
        "TransactionalId",
        "ProducerId",
        "ProducerEpoch",
        "TransactionState",
        "TransactionTimeoutMs",
        "CurrentTransactionStartTimeMs",
        "TransactionDurationMs",
        "TopicPartitions",
    ];
    print_table(&headers, &[row], out)
}

async fn describe_producers(options: &Options, cluster: &Cluster, out: &mut dyn Write) -> Result<(), Stop> {
    let partition = the_partition(options)?;
    let broker = options.number("broker-id")?.map(BrokerId);
    let whom = broker.map_or("leader".to_owned(), |broker| format!("broker {broker}"));
    let what = format!("Failed to describe producers for partition {partition} on {whom}");
    let found = cluster.describe_producers(&[partition], broker).await.map_err(failed(what))?;
    let row = |producer: &ProducerState| {
        vec![
            producer.producer_id.to_string(),
            producer.producer_epoch.to_string(),
            producer.coordinator_epoch.to_string(),
            producer.last_sequence.to_string(),
            producer.last_timestamp.to_string(),
            match producer.current_txn_start_offset {
                -1 => "None".to_owned(),
                offset => offset.to_string(),
            },
        ]
    };
    let rows: Vec<Vec<String>> = found.values().flatten().map(row).collect();
    let headers = [
        "ProducerId",
        "ProducerEpoch",
        "LatestCoordinatorEpoch",
        "LastSequence",
        "LastTimestamp",
        "CurrentTransactionStartOffset",
    ];
    print_table(&headers, &rows, out)
}

async fn abort(options: &Options, cluster: &Cluster) -> Result<(), Stop> {
    let partition = the_partition(options)?;
    let (producer_id, epoch, coordinator_epoch) = match options.number::<i64>("start-offset")? {
        Some(start_offset) => {
            let what = format!("Failed to validate producer state for partition {partition}");
            let asked = [partition.clone()];
            let found = cluster.describe_producers(&asked, None).await.map_err(failed(what))?;
            let begins_there = |producer: &&ProducerState| producer.current_txn_start_offset == start_offset;
            let open = found.values().flatten().find(begins_there).ok_or_else(|| {
                let what = "Could not find any open transactions starting at offset";
                Stop::Failed(format!("{what} {start_offset} on partition {partition}"))
            })?;
            let epoch = i16::try_from(open.producer_epoch).unwrap_or(-1);
            (open.producer_id, epoch, open.coordinator_epoch)
        }
        None => {
            let missing = |name: &str| Stop::Failed(format!("Missing required argument --{name}"));
            let producer_id = options.number("producer-id")?.ok_or_else(|| {
                Stop::Failed(
                    "The transaction to abort must be identified either with --start-offset (for brokers on 3.0 or \
                     above) or with --producer-id, --producer-epoch, and --coordinator-epoch (for older brokers)"
                        .to_owned(),
                )
            })?;
            let epoch = options.number("producer-epoch")?.ok_or_else(|| missing("producer-epoch"))?;
            let coordinator_epoch = options.number("coordinator-epoch")?.ok_or_else(|| missing("coordinator-epoch"))?;
            (producer_id, epoch, coordinator_epoch)
        }
    };
    // Of a producer that no coordinator has ended a transaction of: no leader epoch is less than 0.
    let coordinator_epoch = coordinator_epoch.max(0);
    let what = format!(
        "Failed to abort transaction AbortTransactionSpec(topicPartition={partition}, producerId={producer_id}, \
         producerEpoch={epoch}, coordinatorEpoch={coordinator_epoch})"
    );
    cluster.abort_transaction(&partition, producer_id, epoch, coordinator_epoch).await.map_err(failed(what))
}

async fn find_hanging(options: &Options, cluster: &Cluster, out: &mut dyn Write) -> Result<(), Stop> {
    let broker = options.number("broker-id")?.map(BrokerId);
    let topic = options.value("topic");
    if topic.is_none() && broker.is_none() {
        let what = "The `find-hanging` command requires either --topic or --broker-id to limit the scope of the search";
        return Err(Stop::Failed(what.to_owned()));
    }
    if topic.is_none() && options.has("partition") {
        return Err(Stop::Failed("The --partition argument requires --topic to be provided".to_owned()));
    }
    let timeout_ms = options.number::<i64>("max-transaction-timeout")?.unwrap_or(15).saturating_mul(60_000);
    let partitions = partitions_to_search(options, cluster, topic, broker).await?;
    let mut open: BTreeMap<i64, Vec<(TopicPartition, ProducerState)>> = BTreeMap::new();
    let now_ms = wall_clock_ms();
    for together in partitions.chunks(BATCH) {
        let what = format!("Failed to describe producers for {} partitions", together.len());
        for (partition, producers) in cluster.describe_producers(together, broker).await.map_err(failed(what))? {
            let is_late = |producer: &ProducerState| {
                producer.current_txn_start_offset >= 0 && now_ms - producer.last_timestamp > timeout_ms
            };
            for producer in producers.into_iter().filter(is_late) {
                open.entry(producer.producer_id).or_default().push((partition.clone(), producer));
            }
        }
    }
    let mut rows = Vec::new();
    let expected = expected_partitions(cluster, &open).await?;
    for (producer_id, transactions) in open {
        let expected = expected.get(&producer_id);
        for (partition, producer) in transactions {
            // The coordinator will still write its marker there.
            if expected.is_some_and(|expected| expected.contains(&partition)) {
                continue;
            }
            rows.push(vec![
                partition.topic.to_string(),
                partition.partition.to_string(),
                producer_id.to_string(),
                producer.producer_epoch.to_string(),
                producer.coordinator_epoch.to_string(),
                producer.current_txn_start_offset.to_string(),
                producer.last_timestamp.to_string(),
                ((now_ms - producer.last_timestamp) / 60_000).to_string(),
            ]);
        }
    }
    let headers = [
        "Topic",
        "Partition",
        "ProducerId",
        "ProducerEpoch",
        "CoordinatorEpoch",
        "StartOffset",
        "LastTimestamp",
        "Duration(min)",
    ];
    print_table(&headers, &rows, out)
}

async fn partitions_to_search(
    options: &Options,
    cluster: &Cluster,
    topic: Option<&str>,
    broker: Option<BrokerId>,
) -> Result<Vec<TopicPartition>, Stop> {
    if topic.is_some() && options.has("partition") {
        return Ok(vec![the_partition(options)?]);
    }
    let topics = match topic {
        Some(topic) => vec![topic.to_owned()],
        None => cluster.topic_names().await.map_err(failed("Failed to list topics".to_owned()))?,
    };
    let mut partitions = Vec::new();
    for together in topics.chunks(BATCH) {
        let what = format!("Failed to describe {} topics", together.len());
        for described in cluster.describe_topics(together).await.map_err(failed(what))? {
            let name: std::sync::Arc<str> = described.name.unwrap_or_default().into();
            let is_there = |replicas: &[i32]| broker.is_none_or(|broker| replicas.contains(&broker.0));
            let hosted = described.partitions.iter().filter(|partition| is_there(&partition.replica_nodes));
            partitions.extend(hosted.map(|partition| TopicPartition::new(name.clone(), partition.partition_index)));
        }
    }
    Ok(partitions)
}

/// Where coordinators know transactions of these producers to be open, or without a marker.
async fn expected_partitions(
    cluster: &Cluster,
    open: &BTreeMap<i64, Vec<(TopicPartition, ProducerState)>>,
) -> Result<HashMap<i64, BTreeSet<TopicPartition>>, Stop> {
    let mut expected = HashMap::new();
    if open.is_empty() {
        return Ok(expected);
    }
    let request = ListTransactionsRequest { producer_id_filters: open.keys().copied().collect(), ..Default::default() };
    let what = format!("Failed to list transactions for {} producers", open.len());
    let listed = cluster.list_transactions(&request).await.map_err(failed(what))?;
    for one in listed.into_values().flatten() {
        let id = &one.transactional_id;
        let state = match cluster.describe_transaction(id).await {
            Ok((_, state)) => ControlFlow::Continue(state),
            Err(why) if why.code() == Some(ErrorCode::TransactionalIdNotFound) => ControlFlow::Break(()),
            Err(why) => return Err(failed("Failed to describe 1 transactions".to_owned())(why)),
        };
        let ControlFlow::Continue(state) = state else { continue };
        let partitions = state.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|partition| TopicPartition::new(topic.topic.as_str(), *partition))
        });
        expected.insert(one.producer_id, partitions.collect());
    }
    Ok(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_column_is_as_wide_as_its_widest_cell() {
        let mut out = Vec::new();
        print_table(&["A", "LongHeader"], &[vec!["value".into(), "x".into()]], &mut out).expect("memory takes all");
        let expected = "A    \tLongHeader\t\nvalue\tx         \t\n";
        assert_eq!(String::from_utf8(out).expect("text"), expected);
    }
}
