//! kafka-replica-verification.sh: reads the same partitions from each of their replicas and compares what it got.
//! Source: kafka 3.9.1 tools/src/main/java/org/apache/kafka/tools/ReplicaVerificationTool.java.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::cli::configured_cluster;
use crate::cli::options::{Options, Stop, Takes, Tool, bootstrap_servers, flag};
use crate::cli::topic_filter::TopicFilter;
use crate::client::cluster::Cluster;
use crate::client::consumer::{fetch, fetch_topics};
use crate::client::error::ClientError;
use crate::model::{BrokerId, TopicPartition};
use crate::protocol::message::Payload;
use crate::protocol::messages::fetch::FetchRequest;
use crate::record::batch::BatchHeader;
use crate::record::read;

pub(crate) const TOOL: Tool = Tool {
    script: "kafka-replica-verification",
    about: "Validate that all replicas for a set of topics have the same data.",
    flags: &[
        flag("broker-list", Takes::Value("hostname:port,..."), "REQUIRED: The server(s) to connect to."),
        flag("fetch-size", Takes::Value("bytes"), "Of each partition in a request. Default: 1048576."),
        flag("max-wait-ms", Takes::Value("ms"), "How long a broker without records waits. Default: 1000."),
        flag("topic-white-list", Takes::Value("Java regex (String)"), "DEPRECATED, use --topics-include instead."),
        flag("topics-include", Takes::Value("Java regex (String)"), "The topics to verify. Default: all."),
        flag("time", Takes::Value("timestamp/-1(latest)/-2(earliest)"), "Where to start. Default: -1."),
        flag("report-interval-ms", Takes::Value("ms"), "How often the lag is told. Default: 30000."),
    ],
};

/// A reader who may ask followers, too. Source: kafka 3.9.1 clients/.../common/requests/FetchRequest.java.
const DEBUGGING_CONSUMER_ID: i32 = -2;

pub(crate) async fn run(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    log::warn!("This tool is deprecated and may be removed in a future major release.");
    let servers = options.required("broker-list")?;
    options.exclude("topics-include", &["topic-white-list"])?;
    bootstrap_servers(servers)?;
    let pattern = options.value("topics-include").or(options.value("topic-white-list")).unwrap_or(".*");
    let filter = TopicFilter::new(pattern).map_err(|_| Stop::Failed(format!("{pattern} is an invalid regex")))?;
    let partition_max_bytes: i32 = options.number("fetch-size")?.unwrap_or(1_048_576);
    let max_wait_ms: i32 = options.number("max-wait-ms")?.unwrap_or(1000);
    let time: i64 = options.number("time")?.unwrap_or(-1);
    let interval_ms: i64 = options.number("report-interval-ms")?.unwrap_or(30_000);

    let cluster = Arc::new(configured_cluster(None, servers, "replica-verification")?);
    let mut names = cluster.topic_names().await?;
    names.retain(|name| filter.allows(name, false));
    if names.is_empty() {
        log::error!(
            "No topics found. [topics-include] if specified, is either filtering out all topics or there is no topic."
        );
        return Err(Stop::Reported);
    }
    let mut replicas: BTreeMap<TopicPartition, Vec<BrokerId>> = BTreeMap::new();
    for topic in cluster.describe_topics(&names).await? {
        let name: Arc<str> = topic.name.unwrap_or_default().into();
        for partition in topic.partitions {
            let mut brokers: Vec<BrokerId> = partition.replica_nodes.into_iter().map(BrokerId).collect();
            brokers.sort_unstable();
            replicas.insert(TopicPartition::new(name.clone(), partition.partition_index), brokers);
        }
    }
    let mut by_broker: BTreeMap<BrokerId, Vec<TopicPartition>> = BTreeMap::new();
    for (partition, brokers) in &replicas {
        brokers.iter().for_each(|broker| by_broker.entry(*broker).or_default().push(partition.clone()));
    }
    let live: Vec<BrokerId> = cluster.nodes().iter().map(|node| node.id).collect();
    if let Some(dead) = by_broker.keys().find(|broker| !live.contains(broker)) {
        return Err(Stop::Failed(format!("broker {dead} is not available; all have to be at the start")));
    }
    let asked = replicas.keys().map(|partition| (partition.clone(), time)).collect();
    let mut offsets = BTreeMap::new();
    for (partition, found) in cluster.list_offsets(&asked, false).await? {
        match found {
            Ok(found) if found.offset >= 0 => offsets.insert(partition, found.offset),
            Ok(_) => return Err(Stop::Failed(format!("{partition} has no record of that time or later"))),
            Err(code) => return Err(ClientError::refused(format!("list offsets of {partition}"), code, None).into()),
        };
    }

    let mut verification = Verification { replicas, offsets, max_lag: None };
    writeln!(out, "{}: verification process is started", now())?;
    let interval = Duration::from_millis(interval_ms.try_into().unwrap_or(0));
    let mut last_report = Instant::now();
    loop {
        let mut fetches = JoinSet::new();
        for (broker, partitions) in &by_broker {
            let asked: Vec<(TopicPartition, i64)> = partitions
                .iter()
                .filter_map(|partition| Some((partition.clone(), *verification.offsets.get(partition)?)))
                .collect();
            let request = FetchRequest {
                replica_id: DEBUGGING_CONSUMER_ID,
                max_wait_ms,
                min_bytes: 1,
                topics: fetch_topics(&asked, partition_max_bytes),
                ..Default::default()
            };
            fetches.spawn(fetched(Arc::clone(&cluster), *broker, request));
        }
        let mut round = Round::new();
        for (broker, partitions) in fetches.join_all().await {
            for (partition, fetched) in partitions {
                round.entry(partition).or_default().insert(broker, fetched);
            }
        }
        let unequal = verification.verify(&round);
        for line in unequal.lines {
            writeln!(out, "{}: {line}", now())?;
        }
        unequal.end?;
        if last_report.elapsed() > interval {
            writeln!(out, "{}: {}", now(), verification.report())?;
            last_report = Instant::now();
        }
    }
}

fn now() -> String {
    jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S,%3f").to_string()
}

/// What a replica gave from the offset on that was asked for.
#[derive(Debug)]
struct Fetched {
    /// -1 if it refused.
    high_watermark: i64,
    records: Bytes,
}

/// What was fetched from each replica. Who did not answer is missing.
type Round = BTreeMap<TopicPartition, BTreeMap<BrokerId, Fetched>>;

/// Nothing if the broker cannot be asked: what it has is compared when it is back.
async fn fetched(
    cluster: Arc<Cluster>,
    broker: BrokerId,
    request: FetchRequest,
) -> (BrokerId, Vec<(TopicPartition, Fetched)>) {
    let answer = match fetch(&cluster, broker, &request).await {
        Ok(answer) => answer,
        Err(error) => {
            log::debug!("fetch from broker {broker}: {error}");
            // A setting: nothing tells when a broker that is away is back.
            tokio::time::sleep(cluster.settings.retry_backoff).await;
            return (broker, Vec::new());
        }
    };
    let mut partitions = Vec::new();
    for topic in answer.responses {
        let name: Arc<str> = topic.topic.into();
        for data in topic.partitions {
            let records = match data.records {
                Some(Payload::Bytes(bytes)) => bytes,
                _ => Bytes::new(),
            };
            let fetched = Fetched { high_watermark: data.high_watermark, records };
            partitions.push((TopicPartition::new(name.clone(), data.partition_index), fetched));
        }
    }
    (broker, partitions)
}

#[derive(Debug)]
struct Lag {
    partition: TopicPartition,
    lag: i64,
    offset: i64,
}

struct Verification {
    /// Sorted, as they are compared.
    replicas: BTreeMap<TopicPartition, Vec<BrokerId>>,
    /// Up to where the replicas of each partition agree, and are read next.
    offsets: BTreeMap<TopicPartition, i64>,
    /// Of the last round, the partition whose agreement is farthest behind a high watermark.
    max_lag: Option<Lag>,
}

/// What replicas do not agree on.
struct Unequal {
    lines: Vec<String>,
    /// Whether there is a way on.
    end: Result<(), Stop>,
}

impl Verification {
    /// Compares batch by batch, up to the high watermark of whoever knows the lowest.
    fn verify(&mut self, round: &Round) -> Unequal {
        let mut lines = Vec::new();
        self.max_lag = None;
        for (partition, brokers) in &self.replicas {
            let (Some(offset), Some(fetched)) = (self.offsets.get_mut(partition), round.get(partition)) else {
                continue;
            };
            let high_watermark = fetched.values().map(|fetched| fetched.high_watermark).max().unwrap_or(-1);
            let mut batches: Vec<_> = brokers
                .iter()
                .filter_map(|broker| Some((*broker, fetched.get(broker)?)))
                .map(|(broker, fetched)| (broker, fetched.high_watermark, read::batches(&fetched.records)))
                .collect();
            loop {
                let mut next: Vec<(BrokerId, BatchHeader)> = Vec::with_capacity(batches.len());
                for (broker, high_watermark, batches) in &mut batches {
                    match batches.next() {
                        Some(Ok(batch)) if batch.header().last_offset < *high_watermark => {
                            next.push((*broker, *batch.header()));
                        }
                        Some(Err(error)) => {
                            let end = Stop::Failed(format!(
                                "Error in processing replica {broker} in partition {partition} at offset {offset}: {error}"
                            ));
                            return Unequal { lines, end: Err(end) };
                        }
                        _ => {}
                    }
                }
                if let Err(line) = compare(partition, &next, &mut lines) {
                    lines.push(line);
                    return Unequal { lines, end: Err(Stop::Reported) };
                }
                match next.first() {
                    // Everybody has it.
                    Some((_, first)) if next.len() == brokers.len() => *offset = first.next_offset(),
                    _ => break,
                }
            }
            let lag = high_watermark - *offset;
            if lag > self.max_lag.as_ref().map_or(-1, |max| max.lag) {
                self.max_lag = Some(Lag { partition: partition.clone(), lag, offset: *offset });
            }
        }
        Unequal { lines, end: Ok(()) }
    }

    fn report(&self) -> String {
        let (lag, partition, offset) = match &self.max_lag {
            Some(max) => (max.lag, max.partition.to_string(), max.offset),
            // In the words of Java.
            None => (-1, "null".to_owned(), -1),
        };
        let count = self.replicas.len();
        format!("max lag is {lag} for partition {partition} at offset {offset} among {count} partitions")
    }
}

/// Compares batches that should be the same one. An error is one after which nothing can be compared.
fn compare(
    partition: &TopicPartition,
    batches: &[(BrokerId, BatchHeader)],
    lines: &mut Vec<String>,
) -> Result<(), String> {
    let Some(((first_id, first), others)) = batches.split_first() else { return Ok(()) };
    for (id, other) in others {
        let (offset, other_offset) = (first.last_offset, other.last_offset);
        if offset != other_offset {
            return Err(format!(
                "partition {partition}: replica {first_id}'s offset {offset} doesn't match replica {id}'s offset \
                 {other_offset}"
            ));
        }
        if first.crc != other.crc {
            lines.push(format!(
                "partition {partition} has unmatched checksum at offset {offset}; replica {first_id}'s checksum {}; \
                 replica {id}'s checksum {}",
                first.crc, other.crc
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::build::BatchBuilder;

    fn batch(base_offset: i64, values: &[&str]) -> Bytes {
        let mut builder = BatchBuilder::new().base_offset(base_offset);
        for value in values {
            builder.append(1, None, Some(value.as_bytes()), &[]);
        }
        builder.build()
    }

    /// Each replica's high watermark and batches.
    fn verified(replicas: &[(i64, &[Bytes])]) -> (Vec<String>, bool, i64, String) {
        let partition = TopicPartition::new("t", 0);
        let ids = (1..=3).map(BrokerId);
        let mut verification = Verification {
            replicas: BTreeMap::from([(partition.clone(), ids.clone().take(2).collect())]),
            offsets: BTreeMap::from([(partition.clone(), 0)]),
            max_lag: None,
        };
        let fetched = |(high_watermark, batches): &(i64, &[Bytes])| Fetched {
            high_watermark: *high_watermark,
            records: batches.concat().into(),
        };
        let round = Round::from([(partition.clone(), ids.zip(replicas.iter().map(fetched)).collect())]);
        let unequal = verification.verify(&round);
        (unequal.lines, unequal.end.is_ok(), verification.offsets[&partition], verification.report())
    }

    #[test]
    fn batches_are_compared_up_to_what_every_replica_knows_to_be_committed() {
        let (a, b) = (batch(0, &["1", "2"]), batch(2, &["3"]));
        let report = |lag, offset| format!("max lag is {lag} for partition t-0 at offset {offset} among 1 partitions");
        let both = [a.clone(), b.clone()];
        assert_eq!(verified(&[(3, &both), (3, &both)]), (vec![], true, 3, report(0, 3)));
        assert_eq!(verified(&[(3, &both), (2, &both)]), (vec![], true, 2, report(1, 2)));
        assert_eq!(verified(&[(3, &both), (3, &both[..1])]), (vec![], true, 2, report(1, 2)));
        assert_eq!(verified(&[(3, &both)]), (vec![], true, 0, report(3, 0)), "one replica does not answer");
        let cut = b.slice(..b.len() - 1);
        assert_eq!(verified(&[(3, &both), (3, &[a, cut])]), (vec![], true, 2, report(1, 2)));
    }

    #[test]
    fn another_checksum_is_told_and_another_offset_ends_it() {
        let (one, other) = ([batch(0, &["1"])], [batch(0, &["2"])]);
        let crc = |batch: &Bytes| BatchHeader::read(batch).unwrap().unwrap().crc;
        let (lines, goes_on, offset, _) = verified(&[(1, &one), (1, &other)]);
        let expected = format!(
            "partition t-0 has unmatched checksum at offset 0; replica 1's checksum {}; replica 2's checksum {}",
            crc(&one[0]),
            crc(&other[0])
        );
        assert_eq!((lines, goes_on, offset), (vec![expected], true, 1));
        let (lines, goes_on, ..) = verified(&[(2, &one), (2, &[batch(0, &["1", "2"])])]);
        assert_eq!(lines, ["partition t-0: replica 1's offset 0 doesn't match replica 2's offset 1"]);
        assert!(!goes_on);
    }
}
