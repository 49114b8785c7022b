//! `odradek preflight server.properties`: whether this broker can take the place of the JVM broker that runs with these
//! settings, and what going back would find. Nothing is written, to a log directory or to ZooKeeper, so the JVM broker may
//! run meanwhile, which is when an operator asks.

mod cluster;
mod directories;
mod report;
mod settings;

use std::ffi::OsString;

use crate::broker::command::read_arguments;
use crate::broker::preflight::report::Report;
use crate::config::kafka_config::KafkaConfig;
use crate::config::properties::Properties;

const USAGE: &str = "USAGE: odradek preflight server.properties [--override property=value]* [--json]\n\
    Says whether Odradek can take the place of the broker that runs with these settings. Writes nothing.\n\
    Exit status: 0 yes, 1 yes with warnings, 2 no.";

/// Prints what there is to know; gives the exit status.
pub fn preflight(arguments: &[OsString]) -> i32 {
    let (flags, arguments): (Vec<_>, Vec<_>) = arguments.iter().cloned().partition(|argument| argument == "--json");
    if arguments.is_empty() || arguments.iter().any(|argument| argument == "--help") {
        println!("{USAGE}");
        return if arguments.is_empty() { 2 } else { 0 };
    }
    let mut report = Report::default();
    match read_arguments(&arguments) {
        Ok(properties) => look(&properties, &mut report),
        Err(why) => report.refuse("settings", why.lines().next().unwrap_or_default()),
    }
    match flags.is_empty() {
        true => print!("{}", report.to_text()),
        false => println!("{:#}", report.to_json()),
    }
    report.exit_status()
}

fn look(properties: &Properties, report: &mut Report) {
    let config = match KafkaConfig::read(properties) {
        Ok(config) => config,
        Err(why) => return report.refuse("settings", why.to_string()),
    };
    settings::look(&config, report);
    let surveyed = directories::survey(config.log_dirs_config().dirs);
    let id = match config.broker_id() {
        -1 => directories::stored_broker_id(&surveyed),
        id => Some(id),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => return report.refuse("ZooKeeper", format!("start a thread for it: {why}")),
    };
    let cluster = runtime.block_on(cluster::look(&config, id, report));
    directories::look(&surveyed, id, cluster.as_ref(), report);
}
