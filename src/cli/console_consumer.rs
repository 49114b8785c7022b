//! kafka-console-consumer.sh: prints the records of topics.

use std::io::{BufWriter, Write};
use std::time::{Duration, Instant};

use crate::cli::message_formatter::MessageFormatter;
use crate::cli::options::{self, BOOTSTRAP_SERVER, Options, Stop, Takes, Tool, flag, key_values};
use crate::cli::stop_signals::StopSignals;
use crate::cli::{consumer, properties_of_file};
use crate::client::admin::{EARLIEST, LATEST};
use crate::client::consumer::{ConsumedRecord, Consumer};
use crate::client::pattern::Pattern;
use crate::client::settings::ClientProperties;
use crate::model::TopicPartition;
use crate::protocol::error_code::ErrorCode;

pub(crate) const TOOL: Tool = Tool {
    script: "kafka-console-consumer",
    about: "This tool helps to read data from Kafka topics and outputs it to standard output.",
    flags: &[
        flag("topic", Takes::Value("topic"), "The topic to consume on."),
        flag("whitelist", Takes::Value("Java regex (String)"), "DEPRECATED, use --include instead."),
        flag("include", Takes::Value("Java regex (String)"), "Regular expression of topics to include."),
        flag("partition", Takes::Value("partition"), "The partition to consume from, from its end unless --offset."),
        flag("offset", Takes::Value("consume offset"), "Where to start: a number, 'earliest' or 'latest' (default)."),
        flag("from-beginning", Takes::Nothing, "Start with the earliest message if there is no position yet."),
        flag("max-messages", Takes::Value("num_messages"), "Exit after this many messages."),
        flag("timeout-ms", Takes::Value("timeout_ms"), "Exit if no message comes for this long."),
        flag("group", Takes::Value("consumer group id"), "The consumer group id of the consumer."),
        flag("isolation-level", Takes::Value("isolation level"), "read_committed or read_uncommitted (default)."),
        BOOTSTRAP_SERVER,
        flag(
            "zookeeper",
            Takes::Value("urls"),
            "The old form: host:port[/chroot] of the ZooKeeper ensemble in which the brokers are looked up.",
        ),
        flag(
            "formatter",
            Takes::Value("class"),
            "With its package, which is org.apache.kafka.tools.consumer: DefaultMessageFormatter, LoggingMessageFormatter, \
             NoOpMessageFormatter, OffsetsMessageFormatter, GroupMetadataMessageFormatter or \
             TransactionLogMessageFormatter.",
        ),
        flag(
            "property",
            Takes::Repeated("prop"),
            "Of the formatter: print.timestamp, print.key, print.offset, print.partition, print.headers, print.value, \
             key.separator, line.separator, headers.separator, null.literal, key.deserializer, value.deserializer, \
             headers.deserializer.",
        ),
        flag("formatter-config", Takes::Value("config file"), "Properties file of the formatter."),
        flag("consumer-property", Takes::Repeated("consumer_prop"), "A setting of the consumer, key=value."),
        flag("consumer.config", Takes::Value("config file"), "Properties file of the consumer."),
        flag("key-deserializer", Takes::Value("deserializer for key"), "The class of the key's deserializer."),
        flag("value-deserializer", Takes::Value("deserializer for values"), "The class of the value's deserializer."),
        flag("skip-message-on-error", Takes::Nothing, "Go on after a message that cannot be printed."),
        flag("enable-systest-events", Takes::Nothing, "Log lifecycle events of the consumer."),
    ],
};

/// What is read, and from where.
#[derive(Debug)]
enum Wanted {
    Topic(String),
    Pattern(Pattern),
    /// A timestamp below zero is an end of the log.
    Partition(TopicPartition, i64),
}

fn wanted(options: &Options) -> Result<Wanted, Stop> {
    let include = options.value("include").or(options.value("whitelist"));
    let topic = options.value("topic");
    if topic.is_some() == include.is_some() {
        let hint = match options.has("whitelist") {
            true => "--whitelist is DEPRECATED use --include instead; ignored if --include specified.",
            false => "",
        };
        return Err(Stop::Usage(format!("Exactly one of --include/--topic is required. {hint}")));
    }
    let partition: Option<i32> = options.number("partition")?;
    let from_beginning = options.has("from-beginning");
    match (topic, partition) {
        (None, Some(_)) => Err(Stop::Usage("The topic is required when partition is specified.".to_owned())),
        (_, None) if options.has("offset") => {
            Err(Stop::Usage("The partition is required when offset is specified.".to_owned()))
        }
        (Some(_), Some(_)) if from_beginning && options.has("offset") => {
            Err(Stop::Usage("Options from-beginning and offset cannot be specified together.".to_owned()))
        }
        (Some(topic), Some(partition)) => {
            let offset = match options.value("offset").map(str::to_ascii_lowercase).as_deref() {
                None if from_beginning => EARLIEST,
                None | Some("latest") => LATEST,
                Some("earliest") => EARLIEST,
                Some(text) => text.parse().ok().filter(|offset| *offset >= 0).ok_or_else(|| {
                    Stop::Usage(format!(
                        "The provided offset value '{text}' is incorrect. Valid values are 'earliest', 'latest', or a \
                         non-negative long."
                    ))
                })?,
            };
            Ok(Wanted::Partition(TopicPartition::new(topic, partition), offset))
        }
        (Some(topic), None) => Ok(Wanted::Topic(topic.to_owned())),
        (None, None) => {
            let text = include.unwrap_or_default();
            Pattern::whole(text)
                .map(Wanted::Pattern)
                .map_err(|_| Stop::Usage(format!("{text} is not a regular expression")))
        }
    }
}

/// The consumer's settings, but for where the brokers are.
fn consumer_properties(options: &Options) -> Result<ClientProperties, Stop> {
    let from_file = properties_of_file(options.value("consumer.config"))?;
    let mut extra = ClientProperties::default();
    extra.extend(key_values(&options.values("consumer-property")));
    let mut groups: Vec<&str> =
        [options.value("group"), from_file.get("group.id"), extra.get("group.id")].into_iter().flatten().collect();
    groups.sort_unstable();
    groups.dedup();
    if groups.len() > 1 {
        let detected: Vec<String> = groups.iter().map(|group| format!("'{group}'")).collect();
        return Err(Stop::Usage(format!(
            "The group ids provided in different places (directly using '--group', via '--consumer-property', or via \
             '--consumer.config') do not match. Detected group ids: {}",
            detected.join(", ")
        )));
    }
    if !groups.is_empty() && options.has("partition") {
        return Err(Stop::Usage("Options group and partition cannot be specified together.".to_owned()));
    }
    let group = groups.first().map(|group| (*group).to_owned());
    let mut properties = from_file;
    properties.extend(key_values(&options.values("consumer-property")));
    let from_beginning = options.has("from-beginning");
    if let Some(reset) = properties.get("auto.offset.reset")
        && from_beginning
        && reset != "earliest"
    {
        return Err(Stop::Failed(format!(
            "Can't simultaneously specify --from-beginning and 'auto.offset.reset={reset}', please remove one option"
        )));
    }
    properties.set_if_absent("auto.offset.reset", if from_beginning { "earliest" } else { "latest" });
    match options.value("isolation-level") {
        Some(level) => properties.set("isolation.level", level),
        None => properties.set_if_absent("isolation.level", "read_uncommitted"),
    }
    match group {
        Some(group) => properties.set("group.id", group),
        // Without a group nothing is committed and nothing is looked up.
        None if options.has("partition") => {}
        None => {
            // Nobody will come back to a group that was made up here, so its positions are not worth storing.
            properties.set("group.id", format!("console-consumer-{}", rand::random_range(0..100_000)));
            properties.set_if_absent("enable.auto.commit", "false");
        }
    }
    Ok(properties)
}

fn formatter(options: &Options) -> Result<MessageFormatter, Stop> {
    let mut properties = properties_of_file(options.value("formatter-config"))?;
    for (option, key) in [("key-deserializer", "key.deserializer"), ("value-deserializer", "value.deserializer")] {
        if let Some(class) = options.value(option).filter(|class| !class.is_empty()) {
            properties.set(key, class);
        }
    }
    properties.extend(key_values(&options.values("property")));
    let class = options.value("formatter").unwrap_or("org.apache.kafka.tools.consumer.DefaultMessageFormatter");
    MessageFormatter::new(class, &properties).map_err(Stop::Usage)
}

/// The brokers' addresses, from the option or from ZooKeeper.
async fn servers(options: &Options) -> Result<Vec<String>, Stop> {
    match (options.value("bootstrap-server"), options.value("zookeeper")) {
        (Some(servers), _) => options::bootstrap_servers(servers),
        (None, Some(hosts)) => crate::cli::zookeeper::broker_addresses(hosts).await,
        (None, None) => Err(Stop::Usage("Missing required argument \"[bootstrap-server]\"".to_owned())),
    }
}

pub(crate) async fn run(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    let wanted = wanted(options)?;
    let mut properties = consumer_properties(options)?;
    let formatter = formatter(options)?;
    let max_messages: i64 = options.number("max-messages")?.unwrap_or(-1);
    let timeout: i64 = options.number("timeout-ms")?.unwrap_or(-1);
    let timeout = u64::try_from(timeout).ok().map(Duration::from_millis);
    properties.set("bootstrap.servers", servers(options).await?.join(","));
    let mut consumer = consumer(properties, "console-consumer")?;
    match wanted {
        Wanted::Topic(topic) => consumer.subscribe(vec![topic]),
        Wanted::Pattern(pattern) => consumer.subscribe_pattern(pattern),
        Wanted::Partition(partition, offset) => {
            consumer.assign([partition.clone()]);
            match offset {
                end if end < 0 => consumer.seek_to_timestamp(&partition, end),
                offset => consumer.seek(&partition, offset),
            }
        }
    }
    let mut printed = 0;
    let printing = Printing { formatter, max_messages, timeout, skips_errors: options.has("skip-message-on-error") };
    let outcome = printing.run(&mut consumer, out, &mut printed).await;
    consumer.close().await;
    complain!("Processed a total of {printed} messages");
    if options.has("enable-systest-events") {
        // Whether or not anybody reads it.
        let _ = writeln!(out, "shutdown_complete");
    }
    outcome
}

struct Printing {
    formatter: MessageFormatter,
    /// -1: no end.
    max_messages: i64,
    timeout: Option<Duration>,
    skips_errors: bool,
}

impl Printing {
    async fn run(&self, consumer: &mut Consumer, out: &mut dyn Write, printed: &mut i64) -> Result<(), Stop> {
        let mut out = BufWriter::with_capacity(64 * 1024, out);
        let mut last_message = Instant::now();
        let mut signals = StopSignals::listen()?;
        while self.max_messages < 0 || *printed < self.max_messages {
            let left = match self.max_messages {
                -1 => usize::MAX,
                max => usize::try_from(max - *printed).unwrap_or(usize::MAX),
            };
            let wait = self.timeout.map_or(Duration::from_secs(1), |t| t.saturating_sub(last_message.elapsed()));
            let polled = tokio::select! {
                polled = consumer.poll(wait.min(Duration::from_secs(1)), left) => polled,
                stop = signals.recv() => return Err(stop),
            };
            let records = match polled {
                Ok(records) => records,
                Err(error) => {
                    // Kafka's tool tells and ends with status 0.
                    let thrown = error.thrown();
                    log::error!("Error processing message, terminating consumer process: {thrown}");
                    return Ok(());
                }
            };
            if records.is_empty() && self.timeout.is_some_and(|timeout| last_message.elapsed() >= timeout) {
                let class = ErrorCode::RequestTimedOut.exception();
                log::error!("Error processing message, terminating consumer process: {class}");
                return Ok(());
            }
            if !records.is_empty() {
                last_message = Instant::now();
            }
            for (index, record) in records.iter().enumerate() {
                *printed += 1;
                match self.formatter.write(record, &mut out) {
                    Err(error) if error.kind() == std::io::ErrorKind::InvalidData && self.skips_errors => {
                        log::error!("Error processing message, skipping this message: {error}");
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                        let printed = if out.flush().is_ok() { index + 1 } else { 0 };
                        give_back(consumer, &records[printed..]);
                        return Err(Stop::Failed(format!("Unknown error when running consumer: {error}")));
                    }
                    Err(_) => return unwritable(consumer, &records),
                    Ok(()) => {}
                }
            }
            if out.flush().is_err() {
                return unwritable(consumer, &records);
            }
        }
        Ok(())
    }
}

/// That nobody reads on is no failure of the tool. How many of the records somebody has read is not known.
fn unwritable(consumer: &mut Consumer, records: &[ConsumedRecord]) -> Result<(), Stop> {
    give_back(consumer, records);
    complain!("Unable to write to standard out, closing consumer.");
    Ok(())
}

/// What was not printed is not committed: whoever comes next in the group reads on with the first of it.
/// Source: kafka 3.9.0-rc3 tools/src/main/java/org/apache/kafka/tools/consumer/ConsoleConsumer.java, resetUnconsumedOffsets.
fn give_back(consumer: &mut Consumer, records: &[ConsumedRecord]) {
    for record in records.iter().rev() {
        consumer.seek(&record.partition, record.record.offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(line: &str) -> String {
        match wanted(&TOOL.options(line))
            .map(|_| ())
            .and_then(|()| consumer_properties(&TOOL.options(line)).map(|_| ()))
        {
            Err(Stop::Usage(message) | Stop::Failed(message)) => message,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn contradictions_are_refused_in_kafkas_words() {
        assert_eq!(refusal("--from-beginning"), "Exactly one of --include/--topic is required. ");
        assert_eq!(refusal("--include a --partition 0"), "The topic is required when partition is specified.");
        assert_eq!(refusal("--topic a --offset 1"), "The partition is required when offset is specified.");
        assert!(refusal("--topic a --partition 0 --offset -3").starts_with("The provided offset value '-3'"));
        assert_eq!(
            refusal("--topic a --partition 0 --group g"),
            "Options group and partition cannot be specified together."
        );
        assert!(refusal("--topic a --group g --consumer-property group.id=h").ends_with("group ids: 'g', 'h'"));
        assert!(
            refusal("--topic a --from-beginning --consumer-property auto.offset.reset=latest")
                .starts_with("Can't simultaneously")
        );
    }

    #[test]
    fn a_group_that_was_made_up_commits_nothing() {
        let made_up = consumer_properties(&TOOL.options("--topic a --from-beginning")).unwrap();
        assert!(made_up.get("group.id").unwrap().starts_with("console-consumer-"));
        assert_eq!(made_up.get("enable.auto.commit"), Some("false"));
        assert_eq!(made_up.get("auto.offset.reset"), Some("earliest"));
        let given = consumer_properties(&TOOL.options("--topic a --group g")).unwrap();
        assert_eq!((given.get("group.id"), given.get("enable.auto.commit")), (Some("g"), None));
        assert_eq!(given.get("auto.offset.reset"), Some("latest"));
    }
}
