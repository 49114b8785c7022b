//! kafka-features.sh: describes and changes the finalized features of a cluster, of which one on ZooKeeper has none.
//! Source: kafka 3.9.1 tools/src/main/java/org/apache/kafka/tools/FeatureCommand.java.

use std::collections::BTreeMap;
use std::io::Write;

use crate::cli::cluster;
use crate::cli::options::{BOOTSTRAP_SERVER, COMMAND_CONFIG, Options, Stop, Subcommand, Takes, Tool, flag};
use crate::client::cluster::Cluster;
use crate::client::error::told;
use crate::config::metadata_version::MetadataVersion;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::update_features::{FeatureUpdateKey, UpdateFeaturesRequest, UpdateFeaturesResponse};

pub(crate) const TOOL: Tool = Tool {
    script: "kafka-features",
    about: "This tool manages feature flags in Kafka: describe, upgrade, downgrade, disable.",
    flags: &[
        BOOTSTRAP_SERVER,
        flag("bootstrap-controller", Takes::Value("BOOTSTRAP_CONTROLLER"), "Exists for KRaft only."),
        COMMAND_CONFIG,
        flag("metadata", Takes::Value("METADATA"), "The metadata.version to upgrade or downgrade to."),
        flag("feature", Takes::Repeated("FEATURE"), "A feature to change, as feature=level; to disable, as feature."),
        flag("dry-run", Takes::Nothing, "Validate, but do not perform it."),
        flag("unsafe", Takes::Nothing, "Downgrade or disable even if it may irreversibly destroy metadata."),
    ],
};

const METADATA_VERSION: &str = "metadata.version";
const UPGRADE: i8 = 1;
const SAFE_DOWNGRADE: i8 = 2;
const UNSAFE_DOWNGRADE: i8 = 3;

const SUBCOMMANDS: &[Subcommand] = &[
    Subcommand { name: "describe", needs: &[], takes: &[] },
    Subcommand { name: "upgrade", needs: &[], takes: &["metadata", "feature", "dry-run"] },
    Subcommand { name: "downgrade", needs: &[], takes: &["metadata", "feature", "unsafe", "dry-run"] },
    Subcommand { name: "disable", needs: &[], takes: &["feature", "unsafe", "dry-run"] },
];

pub(crate) async fn run(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    let command = options.subcommand(&["bootstrap-server", "bootstrap-controller", "command-config"], SUBCOMMANDS)?;
    if options.has("bootstrap-controller") {
        return Err(Stop::Failed("--bootstrap-controller exists for KRaft only; use --bootstrap-server".to_owned()));
    }
    let servers = options.value("bootstrap-server");
    servers.ok_or_else(|| Stop::Usage("one of the arguments --bootstrap-server is required".to_owned()))?;
    let updates = updates(command, options)?;
    let cluster = cluster(options, "adminclient-1")?;
    match command {
        "describe" => describe(&cluster, out).await,
        _ => update(&cluster, command, updates, options, out).await,
    }
}

async fn describe(cluster: &Cluster, out: &mut dyn Write) -> Result<(), Stop> {
    let answer = cluster.retried("describe features", || async { cluster.any().await?.api_versions().await }).await?;
    let mut supported = answer.supported_features;
    supported.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let epoch = match answer.finalized_features_epoch {
        epoch if epoch >= 0 => epoch.to_string(),
        _ => "-".to_owned(),
    };
    for feature in supported {
        let finalized = answer.finalized_features.iter().find(|finalized| finalized.name == feature.name);
        writeln!(
            out,
            "Feature: {}\tSupportedMinVersion: {}\tSupportedMaxVersion: {}\tFinalizedVersionLevel: {}\tEpoch: {epoch}",
            feature.name,
            feature.min_version,
            feature.max_version,
            finalized.map_or(0, |finalized| finalized.max_version_level)
        )?;
    }
    Ok(())
}

/// Features and the levels that they are to have.
fn updates(command: &str, options: &Options) -> Result<BTreeMap<String, i16>, Stop> {
    let mut updates = BTreeMap::new();
    if let Some(version) = options.value("metadata").filter(|_| command != "disable") {
        let known = version.parse::<MetadataVersion>();
        let known = known.map_err(|_| {
            // Those that a cluster of KRaft may begin with, whatever ours may.
            let supported = MetadataVersion::ALL.iter();
            let supported = supported.filter(|v| (MetadataVersion::V3_3_IV0..=MetadataVersion::LATEST).contains(*v));
            let supported: Vec<&str> = supported.map(|version| version.name()).collect();
            Stop::Failed(format!(
                "Unsupported metadata.version {version}. Supported metadata.version are {}",
                supported.join(", ")
            ))
        })?;
        updates.insert(METADATA_VERSION.to_owned(), known.feature_level());
    }
    for text in options.values("feature") {
        let (name, level) = match command {
            "disable" => (text.to_owned(), 0),
            _ => parse_level(text).map_err(Stop::Failed)?,
        };
        if updates.insert(name.clone(), level).is_some() {
            return Err(Stop::Failed(format!("Feature {name} was specified more than once.")));
        }
    }
    match updates.is_empty() && command != "describe" {
        true => Err(Stop::Failed(format!("You must specify at least one feature to {command}"))),
        false => Ok(updates),
    }
}

fn parse_level(text: &str) -> Result<(String, i16), String> {
    let (name, level) = text
        .split_once('=')
        .ok_or_else(|| format!("Can't parse feature=level string {text}: equals sign not found."))?;
    let level = level.trim();
    let parsed = level.parse();
    let parsed =
        parsed.map_err(|_| format!("Can't parse feature=level string {text}: unable to parse {level} as a short."));
    Ok((name.trim().to_owned(), parsed?))
}

async fn update(
    cluster: &Cluster,
    command: &str,
    updates: BTreeMap<String, i16>,
    options: &Options,
    out: &mut dyn Write,
) -> Result<(), Stop> {
    let upgrade_type = match (command, options.has("unsafe")) {
        ("upgrade", _) => UPGRADE,
        (_, false) => SAFE_DOWNGRADE,
        (_, true) => UNSAFE_DOWNGRADE,
    };
    let is_dry = options.has("dry-run");
    let feature_updates = updates.iter().map(|(feature, level)| FeatureUpdateKey {
        feature: feature.clone(),
        max_version_level: *level,
        upgrade_type,
        ..Default::default()
    });
    let request =
        UpdateFeaturesRequest { timeout_ms: 60_000, feature_updates: feature_updates.collect(), validate_only: is_dry };
    let code_of = |answer: &UpdateFeaturesResponse| ErrorCode::from_code(answer.error_code);
    let answer = cluster.send_to_controller(&request, i16::MAX, code_of).await?;
    let code = ErrorCode::from_code(answer.error_code);
    let why = |code: ErrorCode, message: Option<String>| told(code, message.as_deref()).to_owned();
    let mut failures: BTreeMap<String, String> = BTreeMap::new();
    if code.is_error() {
        let why = why(code, answer.error_message);
        failures.extend(updates.keys().map(|feature| (feature.clone(), why.clone())));
    }
    for result in answer.results {
        let code = ErrorCode::from_code(result.error_code);
        if code.is_error() {
            failures.insert(result.feature, why(code, result.error_message));
        }
    }
    for (feature, level) in &updates {
        let object = match command {
            "disable" => format!("disable {feature}"),
            _ => format!("{command} {feature} to {level}"),
        };
        match failures.get(feature) {
            Some(why) => writeln!(out, "{} {object}. {why}", if is_dry { "Can not" } else { "Could not" })?,
            None => {
                let verb = if is_dry { "can be" } else { "was" };
                match command {
                    "disable" => writeln!(out, "{feature} {verb} disabled.")?,
                    _ => writeln!(out, "{feature} {verb} {command}d to {level}.")?,
                }
            }
        }
    }
    match failures.len() {
        0 => Ok(()),
        failed => Err(Stop::Failed(format!("{failed} out of {} operation(s) failed.", updates.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(command: &str, line: &str) -> String {
        match updates(command, &TOOL.options(line)) {
            Err(Stop::Failed(message)) => message,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn features_have_levels_and_are_named_once() {
        let options = TOOL.options("upgrade --feature a=1 --feature b=2");
        let expected = BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]);
        assert_eq!(updates("upgrade", &options).unwrap(), expected);
        assert_eq!(refusal("upgrade", "upgrade"), "You must specify at least one feature to upgrade");
        assert_eq!(refusal("upgrade", "--feature a"), "Can't parse feature=level string a: equals sign not found.");
        assert_eq!(
            refusal("upgrade", "--feature a=x"),
            "Can't parse feature=level string a=x: unable to parse x as a short."
        );
        assert_eq!(refusal("disable", "--feature a --feature a"), "Feature a was specified more than once.");
        assert_eq!(
            refusal("upgrade", "--metadata nonsense"),
            "Unsupported metadata.version nonsense. Supported metadata.version are 3.3-IV0, 3.3-IV1, 3.3-IV2, 3.3-IV3, \
             3.4-IV0, 3.5-IV0, 3.5-IV1, 3.5-IV2, 3.6-IV0, 3.6-IV1, 3.6-IV2, 3.7-IV0, 3.7-IV1, 3.7-IV2, 3.7-IV3, 3.7-IV4, \
             3.8-IV0, 3.9-IV0"
        );
        assert_eq!(updates("describe", &TOOL.options("describe")).unwrap(), BTreeMap::new());
    }
}
