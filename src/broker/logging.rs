//! Log lines in the form that Kafka's log4j pattern `[%d] %p %m (%c)` writes, on standard output, in local time.

use std::fmt;
use std::io::{self, Write};
use std::time::Instant;

use env_logger::{Builder, Env, Target, WriteStyle};
use jiff::Zoned;
use log::Record;

use crate::broker::log_bounds::{Bounded, Repeats, Verdict};

/// Which of Kafka's loggers an operator would look for, by the room that speaks. The longest prefix wins, and what has
/// none keeps its module's own name.
const LOGGERS: &[(&str, &str)] = &[
    ("odradek::api", "kafka.server.KafkaApis"),
    ("odradek::broker", "kafka.server.KafkaServer"),
    ("odradek::broker::dynamic_config", "kafka.server.DynamicConfigManager"),
    ("odradek::client", "org.apache.kafka.clients.NetworkClient"),
    ("odradek::config", "kafka.server.KafkaConfig"),
    ("odradek::controller", "kafka.controller.KafkaController"),
    ("odradek::coordinator::group", "kafka.coordinator.group.GroupCoordinator"),
    ("odradek::coordinator::transaction", "kafka.coordinator.transaction.TransactionCoordinator"),
    ("odradek::log", "kafka.log.LogManager"),
    ("odradek::metadata", "kafka.server.metadata.ZkMetadataCache"),
    ("odradek::network", "kafka.network.SocketServer"),
    ("odradek::replica", "kafka.server.ReplicaManager"),
    ("odradek_zookeeper", "kafka.zookeeper.ZooKeeperClient"),
    ("zookeeper_client", "org.apache.zookeeper.ClientCnxn"),
];

/// Sends everything logged to standard output. `RUST_LOG` chooses levels by module, as in `info,odradek::log=debug`;
/// without it INFO and above is written. A second call changes nothing.
pub fn install() {
    let repeats = Repeats::default();
    let installed = Builder::from_env(Env::default().default_filter_or("info,zookeeper_client=warn"))
        .target(Target::Stdout)
        .write_style(WriteStyle::Never)
        .format(move |out, record| {
            let verdict = repeats.verdict(record, Instant::now());
            write_line(out, &Zoned::now(), record, verdict)
        })
        .try_init();
    if installed.is_err() {
        log::debug!("a logger is already installed");
    }
}

fn write_line(out: &mut impl Write, now: &Zoned, record: &Record<'_>, verdict: Verdict) -> io::Result<()> {
    let line = Line { now, record };
    let remark = |out: &mut dyn Write, text: fmt::Arguments<'_>| {
        let record = &Record::builder().args(text).level(record.level()).target(record.target()).build();
        writeln!(out, "{}", Line { now, record })
    };
    match verdict {
        Verdict::Written => writeln!(out, "{line}"),
        Verdict::WrittenAfter(count) => {
            remark(out, format_args!("{count} lines like the next one were not written"))?;
            writeln!(out, "{line}")
        }
        Verdict::FirstLeftOut => remark(out, format_args!("there are more lines like this than are written")),
        Verdict::LeftOut => Ok(()),
    }
}

struct Line<'a> {
    now: &'a Zoned,
    record: &'a Record<'a>,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.now.strftime("%Y-%m-%d %H:%M:%S,%3f");
        let level = self.record.level();
        write!(f, "[{time}] {level} {} ({})", Bounded(self.record), logger(self.record.target()))
    }
}

fn logger(target: &str) -> &str {
    LOGGERS
        .iter()
        .filter(|(prefix, _)| target.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::")))
        .max_by_key(|(prefix, _)| prefix.len())
        .map_or(target, |(_, logger)| logger)
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;

    fn line(target: &str, level: Level) -> String {
        let now: Zoned = "2018-05-31T11:53:48.631999[Europe/Berlin]".parse().expect("a time");
        let mut out = Vec::new();
        let record = Record::builder().args(format_args!("started")).target(target).level(level).build();
        write_line(&mut out, &now, &record, Verdict::Written).expect("memory takes it");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_line_looks_like_kafkas() {
        let expected = "[2018-05-31 11:53:48,631] INFO started (kafka.server.KafkaServer)\n";
        assert_eq!(line("odradek::broker::startup", Level::Info), expected);
        let expected = "[2018-05-31 11:53:48,631] WARN started (kafka.server.DynamicConfigManager)\n";
        assert_eq!(line("odradek::broker::dynamic_config", Level::Warn), expected);
    }

    #[test]
    fn a_module_without_a_kafka_logger_keeps_its_name() {
        assert_eq!(logger("odradek::cli::topics"), "odradek::cli::topics");
        assert_eq!(logger("odradek::apiary"), "odradek::apiary");
        assert_eq!(logger("kafka.authorizer.logger"), "kafka.authorizer.logger");
    }
}
