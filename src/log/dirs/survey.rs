//! A look at a log directory from outside: nothing is written, locked or created, so that a broker may be using it.

use std::io;
use std::path::Path;

use super::startup::NOT_PARTITIONS;
use crate::log::broker_metadata::MetaProperties;
use crate::log::checkpoint;
use crate::log::error::{IoContext, LogError};
use crate::log::file_names::{self, DirKind};
use crate::log::files::{self, Kind};
use crate::log::partition_metadata;
use crate::model::{Offset, TopicId, TopicPartition};

/// What a log directory holds.
#[derive(Debug)]
pub struct DirSurvey {
    /// The process that has locked it: a broker that runs. 0 if it cannot be seen from here.
    pub lock_holder: Option<i32>,
    pub had_clean_shutdown: bool,
    /// Its `meta.properties`; `None` in a new directory.
    pub metadata: Result<Option<MetaProperties>, LogError>,
    /// Checkpoints that cannot be read, each with what is wrong.
    pub damaged: Vec<String>,
    pub partitions: Vec<SurveyedPartition>,
    /// Directories that no broker makes: it would not start with them.
    pub foreign: Vec<String>,
    /// Links that lead nowhere, whatever they stand for.
    pub broken_links: Vec<String>,
    /// For whom the broker runs as.
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// One directory of a partition.
#[derive(Debug)]
pub struct SurveyedPartition {
    pub topic_partition: TopicPartition,
    pub is_future: bool,
    pub is_stray: bool,
    /// Its deletion is under way.
    pub is_deleting: bool,
    /// `None` below inter-broker protocol 2.8, or if its file cannot be read.
    pub topic_id: Option<TopicId>,
    pub bytes: u64,
    /// In segments past the recovery point: what a start after a crash reads.
    pub unflushed_bytes: u64,
    /// Files that are not of a kind known here; they are left alone.
    pub unknown_files: Vec<String>,
}

/// Looks at a directory that exists.
pub fn survey(root: &Path) -> Result<DirSurvey, LogError> {
    files::may_use(root).doing("use", root)?;
    let lock = root.join(file_names::LOCK);
    let space = files::volume(root).doing("measure", root)?;
    let mut survey = DirSurvey {
        lock_holder: files::lock_holder(&lock).doing("look at the lock of", &lock)?,
        had_clean_shutdown: files::exists(&root.join(file_names::CLEAN_SHUTDOWN)).unwrap_or(false),
        metadata: MetaProperties::read(&root.join(file_names::META_PROPERTIES)),
        damaged: Vec::new(),
        partitions: Vec::new(),
        foreign: Vec::new(),
        broken_links: Vec::new(),
        free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
    };
    let mut recovery_points = Default::default();
    for name in [
        file_names::RECOVERY_POINT_CHECKPOINT,
        file_names::LOG_START_OFFSET_CHECKPOINT,
        file_names::HIGH_WATERMARK_CHECKPOINT,
    ] {
        match checkpoint::read_offsets(&root.join(name)) {
            Ok(offsets) if name == file_names::RECOVERY_POINT_CHECKPOINT => recovery_points = offsets,
            Ok(_) => {}
            Err(why) => survey.damaged.push(why.to_string()),
        }
    }
    for entry in files::list(root).doing("list", root)? {
        let name = entry.file_name().to_string_lossy().into_owned();
        match files::kind_of(&entry).doing("list", root)? {
            Kind::Dir if NOT_PARTITIONS.contains(&name.as_str()) => continue,
            Kind::Dir => {}
            Kind::BrokenLink => {
                survey.broken_links.push(name);
                continue;
            }
            Kind::File | Kind::Other => continue,
        }
        let Some((topic_partition, kind)) = file_names::parse_dir_name(&name) else {
            survey.foreign.push(name);
            continue;
        };
        let recovery_point = recovery_points.get(&topic_partition).copied().unwrap_or(Offset(0));
        match survey_partition(&entry.path(), topic_partition, kind, recovery_point) {
            Ok((partition, broken_links)) => {
                survey.broken_links.extend(broken_links.into_iter().map(|link| format!("{name}/{link}")));
                survey.partitions.push(partition);
            }
            // A broker that runs removes it meanwhile.
            Err(LogError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(why) => survey.damaged.push(why.to_string()),
        }
    }
    survey.foreign.sort_unstable();
    survey.broken_links.sort_unstable();
    survey.partitions.sort_unstable_by(|a, b| a.topic_partition.cmp(&b.topic_partition));
    Ok(survey)
}

fn survey_partition(
    dir: &Path,
    topic_partition: TopicPartition,
    kind: DirKind,
    recovery_point: Offset,
) -> Result<(SurveyedPartition, Vec<String>), LogError> {
    let mut partition = SurveyedPartition {
        topic_partition,
        is_future: kind == DirKind::Future,
        is_stray: kind == DirKind::Stray,
        is_deleting: kind == DirKind::Deleting,
        topic_id: partition_metadata::read(&dir.join(file_names::PARTITION_METADATA)).ok().flatten(),
        bytes: 0,
        unflushed_bytes: 0,
        unknown_files: Vec::new(),
    };
    let mut segments: Vec<(Offset, u64)> = Vec::new();
    let mut broken_links = Vec::new();
    for entry in files::list(dir).doing("list", dir)? {
        let name = entry.file_name().to_string_lossy().into_owned();
        if matches!(files::kind_of(&entry).doing("list", dir)?, Kind::BrokenLink) {
            broken_links.push(name);
            continue;
        }
        let bytes = files::metadata(&entry.path()).doing("look at", &entry.path())?.len();
        partition.bytes += bytes;
        match file_names::offset_of(&name) {
            Some(base) if name.ends_with(".log") => segments.push((base, bytes)),
            Some(_) => {}
            None if is_known(&name) => {}
            None => partition.unknown_files.push(name),
        }
    }
    segments.sort_unstable();
    // A segment ends where the next one begins.
    let ends = segments.iter().skip(1).map(|(base, _)| *base).chain([Offset(i64::MAX)]);
    let unflushed = segments.iter().zip(ends).filter(|(_, end)| *end > recovery_point);
    partition.unflushed_bytes = unflushed.map(|((_, bytes), _)| bytes).sum();
    Ok((partition, broken_links))
}

/// What stands beside the segments.
fn is_known(name: &str) -> bool {
    let name = name.strip_suffix(".tmp").unwrap_or(name);
    name == file_names::LEADER_EPOCH_CHECKPOINT || name == file_names::PARTITION_METADATA
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_directory_is_told_without_a_byte_written() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path();
        let write = |name: &str, content: &[u8]| fs::write(root.join(name), content).expect("writable");
        write("meta.properties", b"version=0\nbroker.id=7\ncluster.id=abc\n");
        write("recovery-point-offset-checkpoint", b"0\n1\norders 0 100\n");
        write("replication-offset-checkpoint", b"1\n");
        for name in
            ["orders-0", "lost+found", "orders-1.0123456789abcdef0123456789abcdef-stray", "__cluster_metadata-0"]
        {
            fs::create_dir(root.join(name)).expect("writable");
        }
        for (name, bytes) in [("00000000000000000000.log", 10), ("00000000000000000100.log", 20)] {
            write(&format!("orders-0/{name}"), &vec![0; bytes]);
        }
        write("orders-0/leader-epoch-checkpoint", b"0\n0\n");
        write("orders-0/notes.txt", b"mine");
        let before = tree(root);
        let survey = survey(root).expect("it can be read");
        assert_eq!(tree(root), before);
        let metadata = survey.metadata.expect("valid").expect("there");
        assert_eq!((metadata.cluster_id(), metadata.broker_id().map(|id| id.0)), (Some("abc"), Some(7)));
        assert_eq!((survey.lock_holder, survey.had_clean_shutdown), (None, false));
        assert_eq!(survey.foreign, ["lost+found"]);
        assert!(matches!(survey.damaged.as_slice(), [one] if one.contains("replication-offset-checkpoint")));
        let [orders, stray] = survey.partitions.as_slice() else { panic!("{:?}", survey.partitions) };
        assert_eq!((orders.bytes, orders.unflushed_bytes), (10 + 20 + 4 + 4, 20));
        assert_eq!(orders.unknown_files, ["notes.txt"]);
        assert!(stray.is_stray && !orders.is_stray);
    }

    fn tree(root: &Path) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(root).expect("readable").map(|entry| entry.expect("readable")) {
            let metadata = entry.metadata().expect("readable");
            found.push((entry.path(), metadata.len()));
            if metadata.is_dir() {
                found.extend(tree(&entry.path()));
            }
        }
        found.sort();
        found
    }
}
