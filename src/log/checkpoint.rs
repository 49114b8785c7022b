//! The text checkpoints of a log dir: one offset per partition.
//!
//! ```text
//! 0                              version
//! <count>
//! <topic> <partition> <offset>   one line each, in any order
//! ```
//! Source: kafka 3.9 storage/.../checkpoint/OffsetCheckpointFile.java, server-common/.../CheckpointFile.java.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use super::error::{IoContext, LogError};
use super::files;
use crate::model::{Offset, TopicPartition};

const VERSION: &str = "0";

/// Reads a checkpoint of one offset per partition; a missing or empty file holds none.
pub(crate) fn read_offsets(path: &Path) -> Result<HashMap<TopicPartition, Offset>, LogError> {
    let mut offsets = HashMap::new();
    // Names repeat for every partition of a topic: keep one copy of each.
    let mut topics: HashMap<String, Arc<str>> = HashMap::new();
    for line in read_lines(path)? {
        let mut words = line.split_whitespace();
        let parsed = (|| {
            let topic = words.next()?;
            let partition: i32 = words.next()?.parse().ok()?;
            let offset: i64 = words.next()?.parse().ok()?;
            words.next().is_none().then_some((topic, partition, offset))
        })();
        let Some((topic, partition, offset)) = parsed else { return Err(malformed(path, &line)) };
        let topic = topics.entry(topic.to_string()).or_insert_with(|| Arc::from(topic)).clone();
        offsets.insert(TopicPartition { topic, partition }, Offset(offset));
    }
    Ok(offsets)
}

pub(crate) fn write_offsets<'a>(
    path: &Path,
    offsets: impl IntoIterator<Item = (&'a TopicPartition, Offset)>,
) -> Result<(), LogError> {
    let lines = offsets.into_iter().map(|(tp, offset)| format!("{} {} {}", tp.topic, tp.partition, offset));
    write_lines(path, lines)
}

/// The lines behind version and count, checked against both.
pub(crate) fn read_lines(path: &Path) -> Result<Vec<String>, LogError> {
    let content = files::read_if_exists(path).doing("read", path)?.unwrap_or_default();
    let text = String::from_utf8(content)
        .map_err(|_| LogError::Corrupt { context: format!("{} is not UTF-8 text", path.display()) })?;
    let mut lines = text.lines();
    match lines.next() {
        None => return Ok(Vec::new()),
        Some(VERSION) => {}
        Some(other) => {
            let shown: String = other.chars().take(40).collect();
            return Err(LogError::Corrupt {
                context: format!("unrecognized version of the checkpoint file {}: {shown}", path.display()),
            });
        }
    }
    let Some(count) = lines.next() else { return Ok(Vec::new()) };
    let expected: usize = count.trim().parse().map_err(|_| malformed(path, count))?;
    let entries: Vec<String> = lines.map(str::to_string).collect();
    if entries.len() != expected {
        return Err(LogError::Corrupt {
            context: format!(
                "expected {expected} entries in checkpoint file {}, found {}",
                path.display(),
                entries.len()
            ),
        });
    }
    Ok(entries)
}

pub(crate) fn write_lines(path: &Path, lines: impl Iterator<Item = String>) -> Result<(), LogError> {
    let mut body = String::new();
    let mut count = 0;
    for line in lines {
        body.push_str(&line);
        body.push('\n');
        count += 1;
    }
    let mut text = String::with_capacity(body.len() + 16);
    writeln!(text, "{VERSION}\n{count}").expect("writing to a String cannot fail");
    text.push_str(&body);
    files::replace(path, text.as_bytes()).doing("write", path)
}

fn malformed(path: &Path, line: &str) -> LogError {
    let shown: String = line.chars().take(80).collect();
    LogError::Corrupt { context: format!("malformed line in checkpoint file {}: {shown}", path.display()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_the_text_kafka_writes_and_reads_back() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("recovery-point-offset-checkpoint");
        let tp = TopicPartition::new("a.b-c", 7);
        write_offsets(&path, [(&tp, Offset(42))]).expect("writable");
        assert_eq!(std::fs::read_to_string(&path).expect("readable"), "0\n1\na.b-c 7 42\n");
        assert_eq!(read_offsets(&path).expect("valid"), HashMap::from([(tp, Offset(42))]));
        assert!(!dir.path().join("recovery-point-offset-checkpoint.tmp").exists());
    }

    #[test]
    fn a_missing_or_empty_checkpoint_holds_nothing_and_a_damaged_one_is_an_error() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("c");
        assert!(read_offsets(&path).expect("missing is empty").is_empty());
        for empty in ["", "0", "0\n", "0\n0\n"] {
            std::fs::write(&path, empty).expect("writable");
            assert!(read_offsets(&path).expect("empty").is_empty(), "{empty:?}");
        }
        for bad in [
            "1\n0\n",
            "0\n1\n",
            "0\n0\na 0 1\n",
            "0\n1\na 0\n",
            "0\n1\na 0 x\n",
            "0\n1\na 0 1 2\n",
            "0\nx\n",
            "\u{0}\n",
        ] {
            std::fs::write(&path, bad).expect("writable");
            assert!(matches!(read_offsets(&path), Err(LogError::Corrupt { .. })), "{bad:?}");
        }
    }
}
