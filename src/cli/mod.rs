//! The command-line tools: one file per script in bin/, with Kafka's flags, output and exit codes. Where Kafka's
//! releases differ, 3.9 is followed.
//!
//! Invariants: a tool writes its results to stdout and what went wrong to stderr (or where Kafka's tool writes it); a
//! usage error prints the message and the table of flags and ends with status 1.
//!
//! Deliberately unknown here: the broker itself, which `main.rs` starts.

/// Tells the user on standard error, if anybody reads it.
macro_rules! complain {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

pub(crate) mod api_message_formatter;
pub(crate) mod broker_api_versions;
pub(crate) mod cluster_tool;
pub(crate) mod configs;
pub(crate) mod console_consumer;
pub(crate) mod console_producer;
pub(crate) mod consumer_groups;
pub(crate) mod consumer_perf_test;
pub(crate) mod delete_records;
pub(crate) mod deprecated_formatters;
pub(crate) mod dump_log;
pub(crate) mod end_to_end_latency;
pub(crate) mod features;
pub(crate) mod get_offsets;
pub(crate) mod leader_election;
pub(crate) mod log_dirs;
pub(crate) mod message_formatter;
pub(crate) mod options;
pub(crate) mod producer_perf_test;
pub(crate) mod reassign_partitions;
pub(crate) mod replica_verification;
pub(crate) mod stop_signals;
pub(crate) mod table;
pub(crate) mod topic_command;
pub(crate) mod topic_command_zookeeper;
pub(crate) mod topic_filter;
pub(crate) mod transactions;
pub(crate) mod verifiable_consumer;
pub(crate) mod verifiable_producer;
pub(crate) mod zookeeper;
pub(crate) mod zookeeper_shell;

use std::ffi::OsString;
use std::io::{self, Write};

use crate::cli::options::{Options, Stop, Tool};
use crate::client::cluster::Cluster;
use crate::client::consumer::Consumer;
use crate::client::error::ClientError;
use crate::client::producer::Producer;
use crate::client::settings::{ClientProperties, ClusterSettings, ConsumerSettings, ProducerSettings};
use crate::config::properties;

/// Subcommands of the binary, and the script in bin/ that calls each.
pub const SUBCOMMANDS: &[(&str, &str)] = &[
    ("topics", "Create, describe, alter, delete and list topics (kafka-topics.sh)"),
    ("console-producer", "Send lines of standard input as messages (kafka-console-producer.sh)"),
    ("console-consumer", "Print messages of topics (kafka-console-consumer.sh)"),
    ("consumer-groups", "List, describe, reset and delete consumer groups (kafka-consumer-groups.sh)"),
    ("configs", "Describe and alter configs of topics and brokers (kafka-configs.sh)"),
    ("producer-perf-test", "Measure how fast records are sent (kafka-producer-perf-test.sh)"),
    ("consumer-perf-test", "Measure how fast records are read (kafka-consumer-perf-test.sh)"),
    ("get-offsets", "Print offsets of partitions (kafka-get-offsets.sh)"),
    ("reassign-partitions", "Move partitions to other brokers (kafka-reassign-partitions.sh)"),
    ("leader-election", "Have leaders elected (kafka-leader-election.sh)"),
    ("log-dirs", "Describe the log directories of brokers (kafka-log-dirs.sh)"),
    ("delete-records", "Delete records below an offset (kafka-delete-records.sh)"),
    ("transactions", "List, describe and abort transactions (kafka-transactions.sh)"),
    ("features", "Describe and change features of the cluster (kafka-features.sh)"),
    ("cluster", "Print the id of the cluster (kafka-cluster.sh)"),
    ("replica-verification", "Compare what replicas hold (kafka-replica-verification.sh)"),
    ("verifiable-consumer", "Read as a member of a group and print what happens (kafka-verifiable-consumer.sh)"),
    ("verifiable-producer", "Send numbers and print what became of each (kafka-verifiable-producer.sh)"),
    ("dump-log", "Print what the files of a partition hold (kafka-dump-log.sh)"),
    ("e2e-latency", "Measure the time from sending to reading (kafka-e2e-latency.sh)"),
    ("zookeeper-shell", "Read znodes: host:port ls|get|stat PATH"),
    ("broker-api-versions", "Print the API versions that brokers support (kafka-broker-api-versions.sh)"),
];

/// Version of Kafka's tools whose flags and output these are.
const KAFKA_VERSION: &str = "3.9.1";

/// Runs a subcommand with the arguments of its script; gives the exit status. `None` if there is no such tool.
pub fn run(subcommand: &str, arguments: &[OsString]) -> Option<i32> {
    Some(match subcommand {
        "topics" => start(&topic_command::TOOL, arguments, topic_command::run),
        "console-producer" => start(&console_producer::TOOL, arguments, console_producer::run),
        // Alone among the tools, this one ends when nobody reads on.
        "console-consumer" => start_on(&mut io::stdout(), &console_consumer::TOOL, arguments, console_consumer::run),
        "consumer-groups" => start(&consumer_groups::TOOL, arguments, consumer_groups::run),
        "configs" => start(&configs::TOOL, arguments, configs::run),
        // Alone among the tools, these take no arguments for a question.
        "producer-perf-test" if arguments.is_empty() => explain(&producer_perf_test::TOOL),
        "verifiable-consumer" if arguments.is_empty() => explain(&verifiable_consumer::TOOL),
        "verifiable-producer" if arguments.is_empty() => explain(&verifiable_producer::TOOL),
        "producer-perf-test" => start(&producer_perf_test::TOOL, arguments, producer_perf_test::run),
        "consumer-perf-test" => start(&consumer_perf_test::TOOL, arguments, consumer_perf_test::run),
        "get-offsets" => start(&get_offsets::TOOL, arguments, get_offsets::run),
        "reassign-partitions" => start(&reassign_partitions::TOOL, arguments, reassign_partitions::run),
        "leader-election" => start(&leader_election::TOOL, arguments, leader_election::run),
        "log-dirs" => start(&log_dirs::TOOL, arguments, log_dirs::run),
        "delete-records" => start(&delete_records::TOOL, arguments, delete_records::run),
        "transactions" => start(&transactions::TOOL, arguments, transactions::run),
        "features" => start(&features::TOOL, arguments, features::run),
        "cluster" => start(&cluster_tool::TOOL, &cluster_tool::spelled_out(arguments), cluster_tool::run),
        "replica-verification" => start(&replica_verification::TOOL, arguments, replica_verification::run),
        "verifiable-consumer" => start(&verifiable_consumer::TOOL, arguments, verifiable_consumer::run),
        "verifiable-producer" => start(&verifiable_producer::TOOL, arguments, verifiable_producer::run),
        "dump-log" => start(&dump_log::TOOL, arguments, dump_log::run),
        "e2e-latency" => start(&end_to_end_latency::TOOL, arguments, end_to_end_latency::run),
        "broker-api-versions" => start(&broker_api_versions::TOOL, arguments, broker_api_versions::run),
        "zookeeper-shell" => start(&zookeeper_shell::TOOL, arguments, zookeeper_shell::run),
        _ => return None,
    })
}

fn explain(tool: &Tool) -> i32 {
    tool.print_usage(tool.about, &mut Unheeded(io::stdout())).map_or(1, |()| 0)
}

/// An output whose reader may leave: what is written from then on goes nowhere, and the tool does its work all the same.
/// Source: the documentation of java.io.PrintStream, which Kafka's tools write to.
struct Unheeded<W>(W);

/// `done` where nobody reads.
fn unless_closed<T>(outcome: io::Result<T>, done: T) -> io::Result<T> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(done),
        outcome => outcome,
    }
}

impl<W: Write> Write for Unheeded<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        unless_closed(self.0.write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        unless_closed(self.0.flush(), ())
    }
}

fn start(
    tool: &Tool,
    arguments: &[OsString],
    run: impl AsyncFnOnce(&Options, &mut dyn Write) -> Result<(), Stop>,
) -> i32 {
    start_on(&mut Unheeded(io::stdout()), tool, arguments, run)
}

fn start_on(
    out: &mut dyn Write,
    tool: &Tool,
    arguments: &[OsString],
    run: impl AsyncFnOnce(&Options, &mut dyn Write) -> Result<(), Stop>,
) -> i32 {
    log_to_stderr();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain!("start the runtime: {error}");
            return 1;
        }
    };
    let outcome = match tool.parse(arguments) {
        Ok(options) => runtime.block_on(run(&options, &mut *out)),
        Err(stop) => Err(stop),
    };
    // A thread may still wait for a line on stdin; it ends with the process.
    runtime.shutdown_background();
    let (status, told) = match outcome {
        Ok(()) => (0, out.flush()),
        Err(Stop::Version) => (0, writeln!(out, "{KAFKA_VERSION}")),
        Err(Stop::Usage(message)) => (1, tool.print_usage(&message, &mut io::stderr())),
        Err(Stop::Failed(message)) => (1, writeln!(io::stderr(), "{message}")),
        Err(Stop::Reported | Stop::Output) => (1, out.flush()),
        Err(Stop::Signalled(status)) => (status, out.flush()),
    };
    // What could not be written where somebody may look for it, the status still tells.
    if unless_closed(told, ()).is_err() { 1 } else { status }
}

/// The tools log in Kafka's form, warnings and worse, to stderr; `RUST_LOG` chooses otherwise.
fn log_to_stderr() {
    // A second tool in the same process finds the logger in place.
    let _ = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"))
        .format(|out, record| {
            let now = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S,%3f");
            writeln!(out, "[{now}] {} {} ({})", record.level(), record.args(), record.target())
        })
        .try_init();
}

/// Settings of a client: those of a file, if one is named.
fn properties_of_file(path: Option<&str>) -> Result<ClientProperties, Stop> {
    let mut properties = ClientProperties::default();
    if let Some(path) = path {
        let text = std::fs::read(path).map_err(|error| Stop::Failed(format!("read {path}: {error}")))?;
        let parsed = properties::parse(&text).map_err(|error| Stop::Failed(format!("read {path}: {error}")))?;
        properties.extend(parsed);
    }
    Ok(properties)
}

/// Tells the user by name which settings make no difference here.
fn warn_of_left_over(properties: &ClientProperties) {
    for name in properties.left_over() {
        log::warn!("The configuration '{name}' was supplied but is not acted on.");
    }
}

/// An admin client's cluster, from `--bootstrap-server` and `--command-config`.
fn cluster(options: &Options, client_id: &str) -> Result<Cluster, Stop> {
    cluster_of(options, options.required("bootstrap-server")?, client_id)
}

fn cluster_of(options: &Options, servers: &str, client_id: &str) -> Result<Cluster, Stop> {
    configured_cluster(options.value("command-config"), servers, client_id)
}

/// The same with the properties of a file.
fn configured_cluster(file: Option<&str>, servers: &str, client_id: &str) -> Result<Cluster, Stop> {
    cluster_with(properties_of_file(file)?, servers, client_id)
}

fn cluster_with(mut properties: ClientProperties, servers: &str, client_id: &str) -> Result<Cluster, Stop> {
    properties.set("bootstrap.servers", servers);
    let settings = ClusterSettings::take(&mut properties, client_id)?;
    warn_of_left_over(&properties);
    Cluster::new(settings).map_err(|error| unmade("Failed to create new KafkaAdminClient", &error))
}

fn producer(mut properties: ClientProperties, client_id: &str) -> Result<Producer, Stop> {
    let settings = ProducerSettings::take(&mut properties, client_id)?;
    warn_of_left_over(&properties);
    Producer::new(settings).map_err(|error| unmade("Failed to construct kafka producer", &error))
}

fn consumer(mut properties: ClientProperties, client_id: &str) -> Result<Consumer, Stop> {
    let settings = ConsumerSettings::take(&mut properties, client_id)?;
    warn_of_left_over(&properties);
    Consumer::new(settings).map_err(|error| unmade("Failed to construct kafka consumer", &error))
}

/// What Kafka's tools end with when they get no client, told with its cause.
fn unmade(message: &str, cause: &ClientError) -> Stop {
    log::error!("{message}: {cause}");
    Stop::Failed(message.to_owned())
}
