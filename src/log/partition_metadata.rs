//! `partition.metadata`: which incarnation of the topic a partition directory belongs to (KIP-516).
//! The text is `version: 0\ntopic_id: <id>`, without a newline at the end.
//! Source: kafka 3.9 storage/.../checkpoint/PartitionMetadataFile.java.

use std::path::Path;

use super::error::{IoContext, LogError};
use super::file_names::with_suffix;
use super::files;
use crate::model::TopicId;

/// The topic id in the file; `None` without a file.
pub(crate) fn read(path: &Path) -> Result<Option<TopicId>, LogError> {
    let Some(content) = files::read_if_exists(path).doing("read", path)? else { return Ok(None) };
    // As a machine's failure leaves a file that was not synced.
    if content.is_empty() {
        return Ok(None);
    }
    let malformed = || LogError::Corrupt { context: format!("malformed partition metadata in {}", path.display()) };
    let text = std::str::from_utf8(&content).map_err(|_| malformed())?;
    let mut lines = text.lines();
    let mut value = |key: &str| -> Option<&str> { lines.next()?.strip_prefix(key)?.strip_prefix(':').map(str::trim) };
    // Later versions keep the lines of this one.
    if value("version").and_then(|version| version.parse::<i32>().ok()).is_none_or(|version| version < 0) {
        return Err(malformed());
    }
    let id: TopicId = value("topic_id").and_then(|id| id.parse().ok()).ok_or_else(malformed)?;
    if id.is_zero() {
        return Err(malformed());
    }
    Ok(Some(id))
}

fn text(id: TopicId) -> String {
    format!("version: 0\ntopic_id: {id}")
}

pub(crate) fn write(path: &Path, id: TopicId) -> Result<(), LogError> {
    files::replace(path, text(id).as_bytes()).doing("write", path)
}

/// Writes what `write` will give its name and make durable. It outlives the process; if the machine fails before, it may
/// be left empty, which under the file's own name a JVM broker would refuse to start with.
pub(crate) fn write_unsynced(path: &Path, id: TopicId) -> Result<(), LogError> {
    let path = with_suffix(path, ".tmp");
    files::write(&path, text(id).as_bytes()).doing("write", &path)
}

/// The topic id of a `write_unsynced` that no `write` followed, if all of it is there.
pub(crate) fn read_unsynced(path: &Path) -> Result<Option<TopicId>, LogError> {
    match read(&with_suffix(path, ".tmp")) {
        Err(LogError::Corrupt { .. }) => Ok(None),
        read => read,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_the_text_kafka_writes() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("partition.metadata");
        assert_eq!(read(&path).expect("missing is none"), None);
        let id: TopicId = "4FNQ5M2zRPOyzl1sJ7DKWg".parse().expect("a topic id");
        write(&path, id).expect("writable");
        assert_eq!(std::fs::read_to_string(&path).expect("readable"), "version: 0\ntopic_id: 4FNQ5M2zRPOyzl1sJ7DKWg");
        assert_eq!(read(&path).expect("valid"), Some(id));
        std::fs::write(&path, "version: 1\ntopic_id: 4FNQ5M2zRPOyzl1sJ7DKWg\nmore: 7").expect("writable");
        assert_eq!(read(&path).expect("valid"), Some(id), "of a later broker");
        std::fs::write(&path, "").expect("writable");
        assert_eq!(read(&path).expect("empty is none"), None);
        write_unsynced(&path, id).expect("writable");
        assert_eq!(read(&path).expect("empty is none"), None);
        assert_eq!(read_unsynced(&path).expect("valid"), Some(id));
        std::fs::write(with_suffix(&path, ".tmp"), "version: 0\ntopic_id: 4FNQ5").expect("writable");
        assert_eq!(read_unsynced(&path).expect("half of one is none"), None);
        for bad in [
            "version: -1\ntopic_id: 4FNQ5M2zRPOyzl1sJ7DKWg",
            "version: x\ntopic_id: 4FNQ5M2zRPOyzl1sJ7DKWg",
            "version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAA",
            "\u{0}",
        ] {
            std::fs::write(&path, bad).expect("writable");
            assert!(matches!(read(&path), Err(LogError::Corrupt { .. })), "{bad:?}");
        }
    }
}
