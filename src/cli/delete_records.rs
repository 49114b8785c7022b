//! kafka-delete-records.sh: deletes records of partitions below an offset each.
//! Source: kafka 3.9.1 tools/src/main/java/org/apache/kafka/tools/DeleteRecordsCommand.java.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use serde_json::Value;

use crate::cli::cluster;
use crate::cli::options::{BOOTSTRAP_SERVER, COMMAND_CONFIG, Options, Stop, Takes, Tool, flag};
use crate::client::error::thrown;
use crate::model::TopicPartition;

pub(crate) const TOOL: Tool = Tool {
    script: "kafka-delete-records",
    about: "This tool helps to delete records of the given partitions down to the specified offset.",
    flags: &[
        BOOTSTRAP_SERVER,
        flag(
            "offset-json-file",
            Takes::Value("Offset json file path"),
            "REQUIRED: {\"partitions\": [{\"topic\": \"foo\", \"partition\": 1, \"offset\": 1}], \"version\":1}",
        ),
        COMMAND_CONFIG,
    ],
};

pub(crate) async fn run(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    options.required("bootstrap-server")?;
    let path = options.required("offset-json-file")?;
    let text = std::fs::read(path).map_err(|error| Stop::Failed(format!("read {path}: {error}")))?;
    let asked = parse(&text).map_err(Stop::Failed)?;
    let cluster = cluster(options, "adminclient-1")?;
    writeln!(out, "Executing records delete operation")?;
    let deleted = cluster.delete_records(&asked).await?;
    writeln!(out, "Records delete operation completed:")?;
    for (name, outcome) in deleted {
        match outcome {
            Ok(low_watermark) => writeln!(out, "partition: {name}\tlow_watermark: {low_watermark}")?,
            Err(code) => writeln!(out, "partition: {name}\terror: {}", thrown(code, None))?,
        }
    }
    Ok(())
}

fn parse(text: &[u8]) -> Result<BTreeMap<TopicPartition, i64>, String> {
    let parsed: Value = serde_json::from_slice(text).map_err(|_| "The input string is not a valid JSON".to_owned())?;
    match parsed.get("version").map_or(Some(1), Value::as_i64) {
        Some(1) => {}
        _ => return Err(format!("Not supported version field value {}", parsed["version"])),
    }
    let entries = parsed.get("partitions").and_then(Value::as_array).ok_or("Missing partitions field")?;
    let mut asked = BTreeMap::new();
    let mut twice = BTreeSet::new();
    for entry in entries {
        let topic = entry.get("topic").and_then(Value::as_str);
        let partition = entry.get("partition").and_then(Value::as_i64).and_then(|id| i32::try_from(id).ok());
        let offset = entry.get("offset").and_then(Value::as_i64);
        let (Some(topic), Some(partition), Some(offset)) = (topic, partition, offset) else {
            return Err(format!("{entry} lacks a topic, a partition or an offset"));
        };
        let name = TopicPartition::new(topic, partition);
        if asked.insert(name.clone(), offset).is_some() {
            twice.insert(name.to_string());
        }
    }
    match twice.is_empty() {
        true => Ok(asked),
        false => Err(format!(
            "Offset json file contains duplicate topic partitions: {}",
            twice.into_iter().collect::<Vec<_>>().join(",")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_and_what_makes_no_sense_is_refused_in_kafkas_words() {
        let parsed = |text: &str| parse(text.as_bytes());
        let one = r#"{"topic":"t","partition":1,"offset":-1}"#;
        let found = parsed(&format!(r#"{{"partitions":[{one}]}}"#));
        assert_eq!(found, Ok(BTreeMap::from([(TopicPartition::new("t", 1), -1)])));
        for (text, why) in [
            ("{", "The input string is not a valid JSON"),
            ("{}", "Missing partitions field"),
            (r#"{"version":2,"partitions":[]}"#, "Not supported version field value 2"),
            (
                &format!(r#"{{"partitions":[{one},{one}]}}"#),
                "Offset json file contains duplicate topic partitions: t-1",
            ),
        ] {
            assert_eq!(parsed(text), Err(why.to_owned()));
        }
    }
}
