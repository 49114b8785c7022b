//! kafka-verifiable-consumer.sh: reads a topic as a member of a group and prints a line of JSON for whatever happens.
//! Source: kafka 3.9.1 tools/src/main/java/org/apache/kafka/tools/VerifiableConsumer.java.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::cli::options::{BOOTSTRAP_SERVER, BROKER_LIST, Options, Stop, Takes, Tool, flag};
use crate::cli::stop_signals::StopSignals;
use crate::cli::verifiable_producer::line;
use crate::cli::{consumer, properties_of_file};
use crate::client::admin::CommittedOffset;
use crate::client::consumer::{ConsumedRecord, Consumer, Rebalance};
use crate::client::error::ClientError;
use crate::model::TopicPartition;
use crate::protocol::error_code::ErrorCode;

pub(crate) const TOOL: Tool = Tool {
    script: "kafka-verifiable-consumer",
    about: "This tool consumes messages from a specific topic and emits consumer events (e.g. group rebalances, received \
            messages, and offsets committed) as JSON objects to STDOUT.",
    flags: &[
        BOOTSTRAP_SERVER,
        BROKER_LIST,
        flag("topic", Takes::Value("TOPIC"), "REQUIRED. Consumes messages from this topic."),
        flag("group-protocol", Takes::Value("GROUP_PROTOCOL"), "classic (default); consumer exists for KRaft only."),
        flag("group-remote-assignor", Takes::Value("GROUP_REMOTE_ASSIGNOR"), "Of --group-protocol consumer alone."),
        flag("group-id", Takes::Value("GROUP_ID"), "REQUIRED. The group that the consumer joins."),
        flag("group-instance-id", Takes::Value("GROUP_INSTANCE_ID"), "Makes the consumer a static member."),
        flag("max-messages", Takes::Value("MAX-MESSAGES"), "As many messages; if -1, until the process is killed."),
        flag("session-timeout", Takes::Value("TIMEOUT_MS"), "The consumer's session timeout. Default: 30000."),
        flag("verbose", Takes::Nothing, "A line for each record, too."),
        flag("enable-autocommit", Takes::Nothing, "Offsets are committed by the clock, and not told."),
        flag("reset-policy", Takes::Value("RESETPOLICY"), "'earliest' (default), 'latest', or 'none'."),
        flag(
            "assignment-strategy",
            Takes::Value("ASSIGNMENTSTRATEGY"),
            "org.apache.kafka.clients.consumer.RangeAssignor, the only one here.",
        ),
        flag("consumer.config", Takes::Value("CONFIG_FILE"), "Consumer config properties file; flags win over it."),
    ],
};

/// What a failure of the consumer is told with, which is none of the tool.
const ENDS: &str = "Error during processing, terminating consumer process";
/// A poll without records is followed by another.
const POLL: Duration = Duration::from_secs(60);

pub(crate) async fn run(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    let servers = options.servers("one of the arguments --bootstrap-server --broker-list is required")?;
    let (topic, group) = (options.required_argument("topic")?, options.required_argument("group-id")?);
    let auto_commits = options.has("enable-autocommit");
    let session_timeout_ms: i32 = options.number("session-timeout")?.unwrap_or(30_000);
    let messages_max = options.number::<i32>("max-messages")?.and_then(|max| usize::try_from(max).ok());

    let mut properties = properties_of_file(options.value("consumer.config"))?;
    properties.set("bootstrap.servers", servers);
    properties.set("group.id", group);
    if let Some(instance) = options.value("group-instance-id") {
        properties.set("group.instance.id", instance);
    }
    let range = "org.apache.kafka.clients.consumer.RangeAssignor";
    properties.set("partition.assignment.strategy", options.value("assignment-strategy").unwrap_or(range));
    properties.set("enable.auto.commit", auto_commits.to_string());
    properties.set("auto.offset.reset", options.value("reset-policy").unwrap_or("earliest"));
    properties.set("session.timeout.ms", session_timeout_ms.to_string());
    let mut consumer = consumer(properties, &format!("consumer-{group}-1"))?;

    writeln!(out, "{}", line("startup_complete", ""))?;
    consumer.subscribe(vec![topic.to_owned()]);
    let mut reading = Reading {
        topic,
        commits: !auto_commits,
        is_verbose: options.has("verbose"),
        messages_left: messages_max,
        rebalances: consumer.rebalances(),
    };
    let outcome = match options.value("group-protocol") {
        Some(protocol) if protocol.eq_ignore_ascii_case("consumer") => {
            log::error!("{ENDS}: the cluster does not support the new CONSUMER group protocol");
            Ok(())
        }
        // Whatever else it is, the protocol is the classic one.
        _ => reading.run(&mut consumer, out).await,
    };
    consumer.close().await;
    reading.tell_rebalances(out)?;
    writeln!(out, "{}", line("shutdown_complete", ""))?;
    outcome
}

struct Reading<'a> {
    topic: &'a str,
    commits: bool,
    is_verbose: bool,
    /// `None`: no end.
    messages_left: Option<usize>,
    rebalances: mpsc::UnboundedReceiver<Rebalance>,
}

impl Reading<'_> {
    /// Reads until all is read, a signal comes or the consumer fails.
    async fn run(&mut self, consumer: &mut Consumer, out: &mut dyn Write) -> Result<(), Stop> {
        let mut signals = StopSignals::listen()?;
        while self.messages_left != Some(0) {
            let polled = {
                let mut poll = Box::pin(consumer.poll(POLL, usize::MAX));
                loop {
                    tokio::select! {
                        biased;
                        stop = signals.recv() => return Err(stop),
                        Some(rebalance) = self.rebalances.recv() => writeln!(out, "{}", rebalance_line(&rebalance))?,
                        polled = &mut poll => break polled,
                    }
                }
            };
            self.tell_rebalances(out)?;
            let outcome = match polled {
                Ok(records) if records.is_empty() => Ok(()),
                Ok(records) => {
                    let positions = self.take(records, out)?;
                    if self.commits { self.commit(consumer, &positions, out).await? } else { Ok(()) }
                }
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                log::error!("{ENDS}: {error}");
                return Ok(());
            }
        }
        Ok(())
    }

    fn tell_rebalances(&mut self, out: &mut dyn Write) -> Result<(), Stop> {
        while let Ok(rebalance) = self.rebalances.try_recv() {
            writeln!(out, "{}", rebalance_line(&rebalance))?;
        }
        Ok(())
    }

    /// Tells of records, as many as are still wanted. Returns the positions behind them.
    fn take(
        &mut self,
        records: Vec<ConsumedRecord>,
        out: &mut dyn Write,
    ) -> Result<BTreeMap<TopicPartition, CommittedOffset>, Stop> {
        let count = records.len();
        let mut by_partition: BTreeMap<i32, Vec<ConsumedRecord>> = BTreeMap::new();
        for record in records {
            by_partition.entry(record.partition.partition).or_default().push(record);
        }
        let mut positions = BTreeMap::new();
        let mut summaries = Vec::new();
        for (partition, mut records) in by_partition {
            if let Some(left) = &mut self.messages_left {
                records.truncate(*left);
                *left -= records.len();
            }
            let (Some(first), Some(last)) = (records.first(), records.last()) else { break };
            let (min, max) = (first.record.offset, last.record.offset);
            if self.is_verbose {
                for record in &records {
                    writeln!(out, "{}", line("record_data", &self.record_fields(record)))?;
                }
            }
            let fields = format!("\"count\":{},\"minOffset\":{min},\"maxOffset\":{max}", records.len());
            let partition = TopicPartition::new(self.topic, partition);
            summaries.push(object(&partition, &fields));
            positions.insert(partition, CommittedOffset { offset: max + 1, leader_epoch: -1, metadata: None });
        }
        let fields = format!("\"count\":{count},\"partitions\":[{}]", summaries.join(","));
        writeln!(out, "{}", line("records_consumed", &fields))?;
        Ok(positions)
    }

    fn record_fields(&self, read: &ConsumedRecord) -> String {
        let text = |bytes: &Option<Bytes>| Value::from(bytes.as_deref().map(String::from_utf8_lossy));
        let (key, value, topic) = (text(&read.record.key), text(&read.record.value), Value::from(self.topic));
        let (partition, offset) = (read.partition.partition, read.record.offset);
        format!("\"key\":{key},\"value\":{value},\"topic\":{topic},\"partition\":{partition},\"offset\":{offset}")
    }

    /// Tells what became of the commit. Only one who has been fenced is to end for it.
    async fn commit(
        &self,
        consumer: &Consumer,
        positions: &BTreeMap<TopicPartition, CommittedOffset>,
        out: &mut dyn Write,
    ) -> Result<Result<(), ClientError>, Stop> {
        let error = match consumer.commit_offsets(positions).await {
            Ok(()) => String::new(),
            Err(error) if error.code() == Some(ErrorCode::FencedInstanceId) => return Ok(Err(error)),
            Err(error) => format!("\"error\":{},", Value::from(error.to_string())),
        };
        let offsets: Vec<String> = positions
            .iter()
            .map(|(partition, position)| object(partition, &format!("\"offset\":{}", position.offset)))
            .collect();
        let fields = format!("\"offsets\":[{}],{error}\"success\":{}", offsets.join(","), error.is_empty());
        writeln!(out, "{}", line("offsets_committed", &fields))?;
        Ok(Ok(()))
    }
}

/// What is told of a partition, as JSON. `fields` are the members that follow its name.
fn object(partition: &TopicPartition, fields: &str) -> String {
    let separator = if fields.is_empty() { "" } else { "," };
    let topic = Value::from(&*partition.topic);
    format!("{{\"topic\":{topic},\"partition\":{}{separator}{fields}}}", partition.partition)
}

fn rebalance_line(rebalance: &Rebalance) -> String {
    let (name, partitions) = match rebalance {
        Rebalance::Assigned(partitions) => ("partitions_assigned", partitions),
        Rebalance::Revoked(partitions) => ("partitions_revoked", partitions),
    };
    let partitions: Vec<String> = partitions.iter().map(|partition| object(partition, "")).collect();
    line(name, &format!("\"partitions\":[{}]", partitions.join(",")))
}
