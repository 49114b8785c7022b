//! `odradek server-start server.properties [--override property=value]*`, with the words and exit codes of Kafka's script.
//! Source: kafka 3.9.1 core/src/main/scala/kafka/Kafka.scala.

use std::ffi::OsString;
use std::fs;

use log::{error, info, warn};
use tokio::signal::unix::SignalKind;

use crate::broker::{jvm_environment, logging, startup};
use crate::config::kafka_config::KafkaConfig;
use crate::config::properties::{self, Properties};
use crate::model::lock::mark_network_thread;
use crate::model::signals::EndSignal;

const USAGE: &str = "USAGE: kafka-server-start.sh [-daemon] server.properties [--override property=value]*";

/// Runs a broker until a signal stops it; gives the exit status.
pub fn server_start(arguments: &[OsString]) -> i32 {
    logging::install();
    let properties = match read_arguments(arguments) {
        Ok(properties) => properties,
        Err(message) => {
            // Kafka prints its usage on standard output.
            println!("{message}");
            return 1;
        }
    };
    let config = match KafkaConfig::from_properties(&properties) {
        Ok(config) => config,
        Err(why) => {
            error!("Exiting Kafka due to fatal exception: {}: {why}", why.java_class());
            return 1;
        }
    };
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.socket_config().network_threads())
        .thread_name("network")
        .on_thread_start(mark_network_thread)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let status = runtime.block_on(run(config));
            // A recovery that a signal interrupted is not waited for: the next start does it again.
            runtime.shutdown_background();
            status
        }
        Err(why) => {
            error!("start the network threads: {why}");
            1
        }
    }
}

pub(super) fn read_arguments(arguments: &[OsString]) -> Result<Properties, String> {
    let arguments: Vec<&str> = arguments
        .iter()
        .map(|argument| argument.to_str().ok_or_else(|| format!("{argument:?} is not UTF-8")))
        .collect::<Result<_, _>>()?;
    let Some((file, overrides)) = arguments.split_first() else { return Err(USAGE.to_owned()) };
    let bytes = fs::read(file).map_err(|why| format!("read {file}: {why}"))?;
    let mut properties = properties::parse(&bytes).map_err(|why| format!("read {file}: {why}"))?;
    let mut overrides = overrides.iter();
    while let Some(argument) = overrides.next() {
        let pair = match argument.strip_prefix("--override") {
            Some("") => overrides.next().copied().ok_or_else(|| format!("--override needs a value\n{USAGE}"))?,
            Some(rest) if rest.starts_with('=') => &rest[1..],
            _ => return Err(format!("Found non argument parameters: {argument}\n{USAGE}")),
        };
        // `k` and `k=` both set the empty text.
        let (name, value) = properties::parse_override(pair).unwrap_or_else(|| (pair.trim().to_owned(), String::new()));
        properties.insert(name, value);
    }
    Ok(properties)
}

/// Each connection and each active segment has a descriptor: like the JVM, take all that the system grants.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let number = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let before = limit.current;
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(why) = setrlimit(Resource::Nofile, limit) {
            warn!("raise the limit of open files: {why}");
            limit.current = before;
        }
    }
    info!("open file limit (ulimit -n): {}, raised from {}", number(limit.current), number(before));
}

async fn run(config: KafkaConfig) -> i32 {
    info!("{}", config.to_log_text().trim_end());
    config.warnings().iter().for_each(|warning| warn!("{warning}"));
    let without_meaning = jvm_environment::without_meaning(|name| std::env::var(name).ok());
    if !without_meaning.is_empty() {
        warn!("The environment has what only a JVM needs, without effect here: {}", without_meaning.join(", "));
    }
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(why) => {
            error!("listen for signals: {why}");
            return 1;
        }
    };
    let broker = tokio::select! {
        started = startup::start(config) => started,
        () = signals.next() => {
            info!("stopped by a signal before the start was complete");
            return 0;
        }
    };
    let mut broker = match broker {
        Ok(broker) => broker,
        Err(why) => {
            error!("Exiting Kafka due to fatal exception during startup: {why}");
            return 1;
        }
    };
    let reason = tokio::select! {
        () = signals.next() => None,
        reason = broker.failed() => Some(reason),
    };
    if let Some(reason) = &reason {
        error!("shutting down: {reason}");
    }
    // As in a JVM, more signals are told of and cut nothing short: an ExecStop of systemd and systemd itself each send one.
    let ended = broker.shut_down(reason.is_some());
    tokio::pin!(ended);
    loop {
        tokio::select! {
            () = &mut ended => return i32::from(reason.is_some()),
            () = signals.next() => {}
        }
    }
}

/// TERM, INT and HUP stop the broker, as they stop the JVM.
struct Signals {
    terminate: EndSignal,
    interrupt: EndSignal,
    hang_up: EndSignal,
}

impl Signals {
    fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: EndSignal::listen(SignalKind::terminate())?,
            interrupt: EndSignal::listen(SignalKind::interrupt())?,
            hang_up: EndSignal::listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            () = self.terminate.came() => info!("Terminating process due to signal SIGTERM"),
            () = self.interrupt.came() => info!("Terminating process due to signal SIGINT"),
            () = self.hang_up.came() => info!("Terminating process due to signal SIGHUP"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn overrides_come_after_the_file_and_replace_what_it_says() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "broker.id=1\nlog.dirs=/a\n").unwrap();
        let path = file.path().to_str().unwrap();
        let read =
            read_arguments(&arguments(&[path, "--override", "broker.id=2", "--override=x=a=b", "--override", "y"]));
        let read = read.unwrap();
        assert_eq!(read["broker.id"], "2");
        assert_eq!(read["x"], "a=b");
        assert_eq!(read["y"], "");
        assert_eq!(read["log.dirs"], "/a");
        assert!(read_arguments(&arguments(&[path, "stray"])).unwrap_err().starts_with("Found non argument parameters"));
        assert_eq!(read_arguments(&[]), Err(USAGE.to_owned()));
    }
}
