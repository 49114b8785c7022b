//! Every setting of a topic, one row each, and the rules for a change of them.
//! Source: the definition table of 3.9.1 (`tests/golden/config/topic-3.9.1.tsv`), and kafka 3.9
//! storage/src/main/java/org/apache/kafka/storage/internals/log/LogConfig.java, validate.

use super::definition::Check::*;
use super::definition::ConfigType::*;
use super::definition::Standing::*;
use super::definition::Update::*;
use super::definition::{ConfigError, Setting};
use super::keys::settings;
use super::log::LogConfig;
use super::properties::Properties;

settings! {
    /// Sorted by name.
    TOPIC:
    "cleanup.policy": List = Some("delete"), EachOneOf(&["compact", "delete"]), ClusterWide, Acted, "What happens to old records: delete, compact or both.";
    "compression.gzip.level": Int = Some("-1"), GzipLevel, ClusterWide, Acted, "Compression level where compression.type is gzip.";
    "compression.lz4.level": Int = Some("9"), Between(1, 17), ClusterWide, Acted, "Compression level where compression.type is lz4.";
    "compression.type": String = Some("producer"), OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]), ClusterWide, Acted, "Codec of stored batches; producer keeps what the producer chose.";
    "compression.zstd.level": Int = Some("3"), Between(-131_072, 22), ClusterWide, Acted, "Compression level where compression.type is zstd.";
    "delete.retention.ms": Long = Some("86400000"), AtLeast(0), ClusterWide, Acted, "How long a tombstone stays readable in a compacted topic.";
    "file.delete.delay.ms": Long = Some("60000"), AtLeast(0), ClusterWide, Acted, "Time a deleted segment's file stays on disk.";
    "flush.messages": Long = Some("9223372036854775807"), AtLeast(1), ClusterWide, Acted, "Records appended before they are flushed to disk.";
    "flush.ms": Long = Some("9223372036854775807"), AtLeast(0), ClusterWide, Acted, "Time appended records may wait for a flush.";
    "follower.replication.throttled.replicas": List = Some(""), ThrottledReplicas, ClusterWide, Acted, "Replicas whose fetching is throttled, as partition:broker, or * for all.";
    "index.interval.bytes": Int = Some("4096"), AtLeast(0), ClusterWide, Acted, "Bytes of records between two entries of the offset index.";
    "leader.replication.throttled.replicas": List = Some(""), ThrottledReplicas, ClusterWide, Acted, "Replicas whose serving is throttled, as partition:broker, or * for all.";
    "local.retention.bytes": Long = Some("-2"), AtLeast(-2), ClusterWide, NotYet, "Tiered storage: bytes kept on local disk; -2 means retention.bytes.";
    "local.retention.ms": Long = Some("-2"), AtLeast(-2), ClusterWide, NotYet, "Tiered storage: age kept on local disk; -2 means retention.ms.";
    "max.compaction.lag.ms": Long = Some("9223372036854775807"), AtLeast(1), ClusterWide, Acted, "Longest time a record may stay uncompacted.";
    "max.message.bytes": Int = Some("1048588"), AtLeast(0), ClusterWide, Acted, "Largest batch a producer may send.";
    "message.downconversion.enable": Boolean = Some("true"), Any, ClusterWide, Acted, "Whether old consumers are served by converting newer batches.";
    "message.format.version": String = Some("3.0-IV1"), MetadataVersion, ClusterWide, Acted, "Message format to write; ignored from inter-broker protocol 3.0 on.";
    "message.timestamp.after.max.ms": Long = Some("9223372036854775807"), AtLeast(0), ClusterWide, Acted, "How far a producer's timestamp may lie in the future.";
    "message.timestamp.before.max.ms": Long = Some("9223372036854775807"), AtLeast(0), ClusterWide, Acted, "How far a producer's timestamp may lie in the past.";
    "message.timestamp.difference.max.ms": Long = Some("9223372036854775807"), AtLeast(0), ClusterWide, Acted, "Old setting for both bounds of a producer's timestamp.";
    "message.timestamp.type": String = Some("CreateTime"), OneOf(&["CreateTime", "LogAppendTime"]), ClusterWide, Acted, "Whether records carry the producer's or the broker's time.";
    "min.cleanable.dirty.ratio": Double = Some("0.5"), BetweenDoubles(0.0, 1.0), ClusterWide, Acted, "Share of uncompacted bytes at which a log is compacted.";
    "min.compaction.lag.ms": Long = Some("0"), AtLeast(0), ClusterWide, Acted, "Shortest time a record stays uncompacted.";
    "min.insync.replicas": Int = Some("1"), AtLeast(1), ClusterWide, Acted, "In-sync replicas that an acks=all produce needs.";
    "preallocate": Boolean = Some("false"), Any, ClusterWide, Acted, "Whether a new segment takes its full size at once.";
    "remote.log.copy.disable": Boolean = Some("false"), Any, ClusterWide, NotYet, "Tiered storage: whether remote data is only read; KRaft only.";
    "remote.log.delete.on.disable": Boolean = Some("false"), Any, ClusterWide, NotYet, "Tiered storage: whether switching it off deletes remote data; KRaft only.";
    "remote.storage.enable": Boolean = Some("false"), Any, ClusterWide, NotYet, "Tiered storage: whether this topic uses it.";
    "retention.bytes": Long = Some("-1"), Any, ClusterWide, Acted, "Bytes a partition may keep; negative keeps all.";
    "retention.ms": Long = Some("604800000"), AtLeast(-1), ClusterWide, Acted, "Milliseconds a record is kept; -1 for ever.";
    "segment.bytes": Int = Some("1073741824"), AtLeast(14), ClusterWide, Acted, "Largest segment.";
    "segment.index.bytes": Int = Some("10485760"), AtLeast(4), ClusterWide, Acted, "Largest offset index of a segment.";
    "segment.jitter.ms": Long = Some("0"), AtLeast(0), ClusterWide, Acted, "Most milliseconds taken off the roll time at random.";
    "segment.ms": Long = Some("604800000"), AtLeast(1), ClusterWide, Acted, "Milliseconds before a new segment starts.";
    "unclean.leader.election.enable": Boolean = Some("false"), Any, ClusterWide, Acted, "Whether a replica outside the ISR may lead when no other can, losing records.";
}

/// The broker settings that decide a topic setting's default, the strongest first; sorted by the topic's name.
/// Source: kafka 3.9 server-common/src/main/java/org/apache/kafka/server/config/ServerTopicConfigSynonyms.java.
const BROKER_TWINS: &[(&str, &[&str])] = &[
    ("cleanup.policy", &["log.cleanup.policy"]),
    ("compression.gzip.level", &["compression.gzip.level"]),
    ("compression.lz4.level", &["compression.lz4.level"]),
    ("compression.type", &["compression.type"]),
    ("compression.zstd.level", &["compression.zstd.level"]),
    ("delete.retention.ms", &["log.cleaner.delete.retention.ms"]),
    ("file.delete.delay.ms", &["log.segment.delete.delay.ms"]),
    ("flush.messages", &["log.flush.interval.messages"]),
    ("flush.ms", &["log.flush.interval.ms", "log.flush.scheduler.interval.ms"]),
    ("follower.replication.throttled.replicas", &[]),
    ("index.interval.bytes", &["log.index.interval.bytes"]),
    ("leader.replication.throttled.replicas", &[]),
    ("local.retention.bytes", &["log.local.retention.bytes"]),
    ("local.retention.ms", &["log.local.retention.ms"]),
    ("max.compaction.lag.ms", &["log.cleaner.max.compaction.lag.ms"]),
    ("max.message.bytes", &["message.max.bytes"]),
    ("message.downconversion.enable", &["log.message.downconversion.enable"]),
    ("message.format.version", &["log.message.format.version"]),
    ("message.timestamp.after.max.ms", &["log.message.timestamp.after.max.ms"]),
    ("message.timestamp.before.max.ms", &["log.message.timestamp.before.max.ms"]),
    ("message.timestamp.difference.max.ms", &["log.message.timestamp.difference.max.ms"]),
    ("message.timestamp.type", &["log.message.timestamp.type"]),
    ("min.cleanable.dirty.ratio", &["log.cleaner.min.cleanable.ratio"]),
    ("min.compaction.lag.ms", &["log.cleaner.min.compaction.lag.ms"]),
    ("min.insync.replicas", &["min.insync.replicas"]),
    ("preallocate", &["log.preallocate"]),
    ("remote.log.copy.disable", &[]),
    ("remote.log.delete.on.disable", &[]),
    ("remote.storage.enable", &[]),
    ("retention.bytes", &["log.retention.bytes"]),
    ("retention.ms", &["log.retention.ms", "log.retention.minutes", "log.retention.hours"]),
    ("segment.bytes", &["log.segment.bytes"]),
    ("segment.index.bytes", &["log.index.size.max.bytes"]),
    ("segment.jitter.ms", &["log.roll.jitter.ms", "log.roll.jitter.hours"]),
    ("segment.ms", &["log.roll.ms", "log.roll.hours"]),
    ("unclean.leader.election.enable", &["unclean.leader.election.enable"]),
];

/// The topic setting of this name.
pub fn topic_setting(name: &str) -> Option<&'static Setting> {
    TOPIC.binary_search_by(|setting| setting.name.cmp(name)).ok().map(|index| &TOPIC[index])
}

/// The broker settings that decide the default of a topic setting, the strongest first.
pub fn broker_twins(name: &str) -> &'static [&'static str] {
    match BROKER_TWINS.binary_search_by(|(topic, _)| (*topic).cmp(name)) {
        Ok(index) => BROKER_TWINS[index].1,
        Err(_) => &[],
    }
}

/// Whether a broker setting decides the default of some topic setting.
pub fn is_broker_twin(name: &str) -> bool {
    BROKER_TWINS.iter().any(|(_, twins)| twins.contains(&name))
}

/// Checks the settings that a topic would have after a change. `existing` are those it has, empty for a new topic;
/// `defaults` are the broker's. `Ok` is what its logs would obey.
pub fn validate(defaults: &LogConfig, existing: &Properties, proposed: &Properties) -> Result<LogConfig, ConfigError> {
    if let Some(name) = proposed.keys().find(|name| topic_setting(name).is_none()) {
        return Err(ConfigError::InvalidConfiguration(format!("Unknown topic config name: {name}")));
    }
    let config = defaults.with_overrides(proposed)?;
    let (min, max) = (config.min_compaction_lag_ms, config.max_compaction_lag_ms);
    if min > max {
        return Err(ConfigError::InvalidConfiguration(format!(
            "conflict topic config setting min.compaction.lag.ms ({min}) > max.compaction.lag.ms ({max})"
        )));
    }
    if config.remote_log_copy_disable || config.remote_log_delete_on_disable {
        return Err(ConfigError::InvalidConfiguration(
            "It is invalid to set `remote.log.delete.on.disable` or `remote.log.copy.disable` under Zookeeper's mode."
                .to_string(),
        ));
    }
    if config.remote_storage_enable {
        return Err(ConfigError::Config(
            "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log \
             storage."
                .to_string(),
        ));
    }
    if existing.get("remote.storage.enable").is_some_and(|text| text.trim().eq_ignore_ascii_case("true")) {
        return Err(ConfigError::InvalidConfiguration(
            "It is invalid to disable remote storage without deleting remote data. If you want to keep the remote \
             data and turn to read only, please set `remote.storage.enable=true,remote.log.copy.disable=true`. If you \
             want to disable remote storage and delete all remote data, please set \
             `remote.storage.enable=false,remote.log.delete.on.disable=true`."
                .to_string(),
        ));
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::check_text;

    const DUMP: &str = include_str!("../../tests/golden/config/topic-3.9.1.tsv");

    /// Name, type, default, check and broker twins of every setting, against the dump of 3.9.1.
    #[test]
    fn the_table_is_kafkas_table() {
        let ours: Vec<std::string::String> = TOPIC
            .iter()
            .map(|setting| {
                let default = setting.default_value().to_text().unwrap_or_default();
                let (name, config_type) = (setting.name, setting.config_type.name());
                let twins = broker_twins(name).join(",");
                format!("{name}\t{config_type}\t={default}\t{}\t{twins}", check_text(setting))
            })
            .collect();
        let theirs: Vec<&str> = DUMP.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(theirs.len(), 36);
        assert_eq!(ours, theirs);
    }

    fn refusal(pairs: &[(&str, &str)]) -> std::string::String {
        let proposed = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        validate(&LogConfig::default(), &Properties::new(), &proposed).expect_err("refused").to_string()
    }

    #[test]
    fn refusals_use_kafkas_words() {
        assert_eq!(refusal(&[("retention", "1")]), "Unknown topic config name: retention");
        assert_eq!(
            refusal(&[("retention.ms", "-2")]),
            "Invalid value -2 for configuration retention.ms: Value must be at least -1"
        );
        assert_eq!(
            refusal(&[("segment.bytes", "1GB")]),
            "Invalid value 1GB for configuration segment.bytes: Not a number of type INT"
        );
        assert_eq!(
            refusal(&[("cleanup.policy", "compact,zip")]),
            "Invalid value zip for configuration cleanup.policy: String must be one of: compact, delete"
        );
        assert_eq!(
            refusal(&[("compression.type", "lzma")]),
            "Invalid value lzma for configuration compression.type: String must be one of: uncompressed, zstd, lz4, \
             snappy, gzip, producer"
        );
        assert_eq!(
            refusal(&[("min.compaction.lag.ms", "2"), ("max.compaction.lag.ms", "1")]),
            "conflict topic config setting min.compaction.lag.ms (2) > max.compaction.lag.ms (1)"
        );
        assert!(refusal(&[("remote.log.copy.disable", "true")]).starts_with("It is invalid to set"));
        assert!(refusal(&[("remote.storage.enable", "true")]).starts_with("Tiered Storage functionality is disabled"));
    }

    /// In 3.9 the lag check sees the broker's values under the topic's.
    #[test]
    fn the_lag_of_a_topic_is_compared_with_the_brokers() {
        let defaults = LogConfig { max_compaction_lag_ms: 10, ..LogConfig::default() };
        let proposed = Properties::from([("min.compaction.lag.ms".to_string(), "11".to_string())]);
        assert!(validate(&defaults, &Properties::new(), &proposed).is_err());
        assert!(validate(&LogConfig::default(), &Properties::new(), &proposed).is_ok());
    }
}
