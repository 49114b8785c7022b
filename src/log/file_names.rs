//! How Kafka names the files of a partition and the directories of a log dir.
//! Source: kafka 3.9 storage/.../log/LogFileUtils.java, core/.../log/LocalLog.scala (parseTopicPartitionName).

use std::path::{Path, PathBuf};

use crate::model::{Offset, TopicPartition};

pub(crate) const LOG: &str = "log";
pub(crate) const OFFSET_INDEX: &str = "index";
pub(crate) const TIME_INDEX: &str = "timeindex";
pub(crate) const TXN_INDEX: &str = "txnindex";
pub(crate) const SNAPSHOT: &str = "snapshot";

pub(crate) const DELETED: &str = ".deleted";
pub(crate) const CLEANED: &str = ".cleaned";
pub(crate) const SWAP: &str = ".swap";

pub(crate) const LOCK: &str = ".lock";
pub(crate) const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
pub(crate) const META_PROPERTIES: &str = "meta.properties";
pub(crate) const RECOVERY_POINT_CHECKPOINT: &str = "recovery-point-offset-checkpoint";
pub(crate) const LOG_START_OFFSET_CHECKPOINT: &str = "log-start-offset-checkpoint";
pub(crate) const HIGH_WATERMARK_CHECKPOINT: &str = "replication-offset-checkpoint";
pub(crate) const CLEANER_OFFSET_CHECKPOINT: &str = "cleaner-offset-checkpoint";
pub(crate) const LEADER_EPOCH_CHECKPOINT: &str = "leader-epoch-checkpoint";
pub(crate) const PARTITION_METADATA: &str = "partition.metadata";

/// Longest name of a file or directory on the file systems Kafka supports.
const NAME_BYTES_MAX: usize = 255;

/// `<20 digits>.<extension>` in `dir`.
pub(crate) fn offset_file(dir: &Path, offset: Offset, extension: &str) -> PathBuf {
    dir.join(format!("{:020}.{extension}", offset.0))
}

/// The offset in front of the first dot of a file name, if it is one of ours.
pub(crate) fn offset_of(file_name: &str) -> Option<Offset> {
    let (digits, _) = file_name.split_once('.')?;
    if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().map(Offset)
}

/// `path` with `suffix` appended to its name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// What a sub-directory of a log dir is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DirKind {
    Live,
    /// Scheduled for deletion: `<topic>-<p>.<32 hex>-delete`, the topic possibly cut short.
    Deleting,
    /// Target of a move between log dirs: `<topic>-<p>.<32 hex>-future`.
    Future,
    /// Put aside by a broker that found it unassigned (3.7+): `<topic>-<p>.<32 hex>-stray`.
    Stray,
}

/// Reads the name of a partition directory; `None` if it is not one.
pub(crate) fn parse_dir_name(name: &str) -> Option<(TopicPartition, DirKind)> {
    let known = [("-delete", DirKind::Deleting), ("-future", DirKind::Future), ("-stray", DirKind::Stray)];
    for (suffix, kind) in known {
        let Some(front) = name.strip_suffix(suffix) else { continue };
        // A topic may be called "x-delete": only a unique id behind the last dot makes it one of ours.
        let (base, unique) = front.rsplit_once('.')?;
        if unique.is_empty() {
            return None;
        }
        return parse_plain_name(base).map(|tp| (tp, kind));
    }
    parse_plain_name(name).map(|tp| (tp, DirKind::Live))
}

fn parse_plain_name(name: &str) -> Option<TopicPartition> {
    let (topic, partition) = name.rsplit_once('-')?;
    if topic.is_empty() || partition.is_empty() || !partition.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(TopicPartition::new(topic, partition.parse().ok()?))
}

/// The name of a directory into which a log is copied; `None` where it would be too long for a file system.
/// Source: kafka 3.9 core/.../log/LocalLog.scala (logFutureDirName), core/.../server/ReplicaManager.scala (alterReplicaLogDirs).
pub(crate) fn future_dir_name(tp: &TopicPartition) -> Option<String> {
    let name = format!("{tp}.{:032x}-future", rand::random::<u128>());
    (name.len() <= NAME_BYTES_MAX).then_some(name)
}

/// The name a directory gets when its deletion is scheduled.
pub(crate) fn deleting_dir_name(tp: &TopicPartition) -> String {
    let suffix = format!("-{}.{:032x}-delete", tp.partition, rand::random::<u128>());
    let room = NAME_BYTES_MAX - suffix.len();
    // Kafka's own names are ASCII, but whoever makes a znode or a directory may call a topic anything.
    let cut = (0..=room.min(tp.topic.len())).rev().find(|&at| tp.topic.is_char_boundary(at)).unwrap_or(0);
    format!("{}{suffix}", &tp.topic[..cut])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_names_are_read_as_kafka_reads_them() {
        let hex = "0123456789abcdef0123456789abcdef";
        let parsed = |name: &str| parse_dir_name(name).map(|(tp, kind)| (tp.to_string(), kind));
        assert_eq!(parsed("orders-3"), Some(("orders-3".into(), DirKind::Live)));
        assert_eq!(parsed("a-b.c-12"), Some(("a-b.c-12".into(), DirKind::Live)));
        assert_eq!(parsed(&format!("a-b-1.{hex}-delete")), Some(("a-b-1".into(), DirKind::Deleting)));
        assert_eq!(parsed(&format!("a-0.{hex}-future")), Some(("a-0".into(), DirKind::Future)));
        assert_eq!(parsed(&format!("a-0.{hex}-stray")), Some(("a-0".into(), DirKind::Stray)));
        for bad in ["lost+found", "orders", "-1", "orders-", "orders-x", "a-0.-delete", "x-delete"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_name_of_a_deleted_directory_fits_the_file_system_and_parses_back() {
        let tp = TopicPartition::new("t".repeat(249), 11);
        let name = deleting_dir_name(&tp);
        assert_eq!(name.len(), 255);
        let (parsed, kind) = parse_dir_name(&name).expect("a deleted directory's name");
        assert_eq!((parsed.partition, kind), (11, DirKind::Deleting));
        let odd = deleting_dir_name(&TopicPartition::new("\u{1f600}".repeat(60), 0));
        assert!(odd.len() <= 255 && parse_dir_name(&odd).is_some(), "{odd}");
    }

    #[test]
    fn a_directory_for_a_copy_has_a_name_of_kafkas_or_none() {
        let parsed = parse_dir_name(&future_dir_name(&TopicPartition::new("a-b", 7)).expect("a short name"));
        assert_eq!(parsed, Some((TopicPartition::new("a-b", 7), DirKind::Future)));
        let of_length =
            |bytes: usize| future_dir_name(&TopicPartition::new("t".repeat(bytes), 11)).map(|name| name.len());
        assert_eq!((of_length(212), of_length(213)), (Some(255), None));
    }

    #[test]
    fn only_digits_before_the_first_dot_are_an_offset() {
        assert_eq!(offset_of("00000000000000000042.log"), Some(Offset(42)));
        assert_eq!(offset_of("00000000000000000042.log.swap"), Some(Offset(42)));
        for bad in
            ["leader-epoch-checkpoint", "partition.metadata", ".lock", "-1.log", "7.log", "99999999999999999999.log"]
        {
            assert_eq!(offset_of(bad), None, "{bad}");
        }
    }
}
