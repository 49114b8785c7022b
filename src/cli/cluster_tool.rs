//! kafka-cluster.sh: the id of a cluster.
//! Source: kafka 3.9.1 tools/src/main/java/org/apache/kafka/tools/ClusterTool.java.

use std::ffi::OsString;
use std::io::Write;

use crate::cli::configured_cluster;
use crate::cli::options::{Options, Stop, Subcommand, Takes, Tool, flag};

pub(crate) const TOOL: Tool = Tool {
    script: "kafka-cluster",
    about: "The Kafka cluster tool: cluster-id, unregister.",
    flags: &[
        flag("bootstrap-server", Takes::Value("BOOTSTRAP_SERVER"), "REQUIRED. The server(s) to connect to; also -b."),
        flag("bootstrap-controller", Takes::Value("BOOTSTRAP_CONTROLLER"), "Exists for KRaft only; also -C."),
        flag("config", Takes::Value("CONFIG"), "Property file for the admin client; also -c."),
        flag("id", Takes::Value("ID"), "The ID of the broker to unregister; also -i."),
    ],
};

const SUBCOMMANDS: &[Subcommand] = &[
    Subcommand { name: "cluster-id", needs: &[], takes: &["bootstrap-server", "bootstrap-controller", "config"] },
    Subcommand { name: "unregister", needs: &[], takes: &["bootstrap-server", "bootstrap-controller", "config", "id"] },
];

/// Alone among the tools this one has short flags too.
pub(crate) fn spelled_out(arguments: &[OsString]) -> Vec<OsString> {
    let long = |argument: &OsString| match argument.to_str() {
        Some("-b") => "--bootstrap-server".into(),
        Some("-C") => "--bootstrap-controller".into(),
        Some("-c") => "--config".into(),
        Some("-i") => "--id".into(),
        _ => argument.clone(),
    };
    arguments.iter().map(long).collect()
}

pub(crate) async fn run(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    let command = options.subcommand(&[], SUBCOMMANDS)?;
    if options.has("bootstrap-controller") {
        return Err(Stop::Failed("--bootstrap-controller exists for KRaft only; use --bootstrap-server".to_owned()));
    }
    let servers = options.value("bootstrap-server");
    let servers =
        servers.ok_or_else(|| Stop::Usage("one of the arguments --bootstrap-server/-b is required".to_owned()))?;
    if command == "unregister" {
        options.number::<i32>("id")?.ok_or_else(|| Stop::Usage("argument --id/-i is required".to_owned()))?;
    }
    let cluster = configured_cluster(options.value("config"), servers, "adminclient-1")?;
    let metadata = cluster.retried("describe cluster", || cluster.metadata(Some(&[]), false)).await?;
    if command == "unregister" {
        // Brokers on ZooKeeper come and go with their sessions.
        writeln!(out, "The target cluster does not support the broker unregistration API.")?;
        return Ok(());
    }
    match metadata.cluster_id {
        Some(id) => writeln!(out, "Cluster ID: {id}")?,
        None => writeln!(out, "No cluster ID found. The Kafka version is probably too old.")?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_flags_mean_the_long_ones() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        let expected = words("unregister --bootstrap-server a:1 --config f --id 3");
        assert_eq!(spelled_out(&words("unregister -b a:1 -c f -i 3")), expected);
    }
}
