//! The `odradek` binary: one subcommand per script in bin/, and the broker itself.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::process::exit;

use clap::{Arg, ArgAction, Command};
use odradek::{broker, cli};

const SERVER_START: (&str, &str) = ("server-start", "Run a broker (kafka-server-start.sh)");
const PREFLIGHT: (&str, &str) =
    ("preflight", "Say whether Odradek can take a JVM broker's place, without writing a byte");

fn main() {
    // Each tool reads its own arguments, in the form that Kafka's scripts take them.
    let arguments = Arg::new("arguments")
        .num_args(0..)
        .trailing_var_arg(true)
        .allow_hyphen_values(true)
        .value_parser(clap::value_parser!(OsString))
        .action(ArgAction::Append);
    let mut command = Command::new("odradek")
        .about("A Kafka broker for clusters on ZooKeeper, and its tools")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true);
    for (name, about) in [SERVER_START, PREFLIGHT].iter().chain(cli::SUBCOMMANDS) {
        command = command.subcommand(Command::new(*name).about(*about).disable_help_flag(true).arg(arguments.clone()));
    }
    let matches = command.get_matches();
    let Some((name, matches)) = matches.subcommand() else { exit(1) };
    let arguments: Vec<OsString> = matches.get_many("arguments").into_iter().flatten().cloned().collect();
    if name == SERVER_START.0 {
        exit(broker::command::server_start(&arguments));
    }
    if name == PREFLIGHT.0 {
        exit(broker::preflight::preflight(&arguments));
    }
    exit(cli::run(name, &arguments).unwrap_or(1));
}
