//! What one topic's logs obey: the broker's defaults under the topic's own settings.
//! Source: kafka 3.9 storage/src/main/java/org/apache/kafka/storage/internals/log/LogConfig.java.

use super::definition::{ConfigError, Value};
use super::metadata_version::MetadataVersion;
use super::properties::Properties;
use super::topic_settings;

/// The settings of one topic. Comparable, so that a change that changes nothing can be seen.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// As written; `compact` and `delete` say what it means.
    pub cleanup_policy: Vec<String>,
    /// `cleanup.policy` contains `compact`.
    pub compact: bool,
    /// `cleanup.policy` contains `delete`.
    pub delete: bool,
    pub segment_bytes: u32,
    pub segment_ms: i64,
    /// Upper bound of the random part taken off `segment_ms`.
    pub segment_jitter_ms: i64,
    pub segment_index_bytes: u32,
    pub index_interval_bytes: u32,
    pub preallocate: bool,
    /// Records between forced flushes; `i64::MAX` never.
    pub flush_messages: i64,
    pub flush_ms: i64,
    /// Nothing is acknowledged that a loss of power could take: of the broker alone, no topic has it.
    pub flush_before_acknowledgement: bool,
    /// None keeps any amount.
    pub retention_bytes: Option<u64>,
    /// None keeps records of any age.
    pub retention_ms: Option<i64>,
    pub file_delete_delay_ms: i64,
    /// The largest batch a producer may send.
    pub max_message_bytes: u32,
    pub min_insync_replicas: i32,
    pub unclean_leader_election_enable: bool,
    /// The codec with its level; the levels of the other codecs stand beside it for a topic that changes the codec.
    pub compression: TopicCompression,
    pub compression_gzip_level: i32,
    pub compression_lz4_level: i32,
    pub compression_zstd_level: i32,
    pub message_timestamp_type: TimestampType,
    /// The old setting for both bounds; the bounds below already heed it.
    pub message_timestamp_difference_max_ms: i64,
    /// How far before the broker's clock a CreateTime may lie; `i64::MAX` any.
    pub message_timestamp_before_max_ms: i64,
    /// How far after the broker's clock a CreateTime may lie; `i64::MAX` any.
    pub message_timestamp_after_max_ms: i64,
    pub message_downconversion_enable: bool,
    /// Fixed at 3.0 unless `inter.broker.protocol.version` is older.
    pub message_format_version: MetadataVersion,
    /// Up to which a topic's own message format counts: `inter.broker.protocol.version`, or none where that is 3.0 or newer.
    /// Source: kafka 3.9 core/src/main/scala/kafka/server/ConfigHandler.scala, excludedConfigs.
    pub newest_message_format_version: Option<MetadataVersion>,
    pub delete_retention_ms: i64,
    pub min_compaction_lag_ms: i64,
    pub max_compaction_lag_ms: i64,
    pub min_cleanable_dirty_ratio: f64,
    pub leader_replication_throttled_replicas: ThrottledReplicas,
    pub follower_replication_throttled_replicas: ThrottledReplicas,
    /// Tiered storage, known and without effect so far.
    pub local_retention_bytes: i64,
    pub local_retention_ms: i64,
    pub remote_storage_enable: bool,
    pub remote_log_copy_disable: bool,
    pub remote_log_delete_on_disable: bool,
}

/// Kafka's built-in defaults, with nothing set on broker or topic.
impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            cleanup_policy: vec!["delete".to_string()],
            compact: false,
            delete: true,
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3_600_000,
            segment_jitter_ms: 0,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            preallocate: false,
            flush_messages: i64::MAX,
            flush_ms: i64::MAX,
            flush_before_acknowledgement: false,
            retention_bytes: None,
            retention_ms: Some(7 * 24 * 3_600_000),
            file_delete_delay_ms: 60_000,
            max_message_bytes: 1_048_588,
            min_insync_replicas: 1,
            unclean_leader_election_enable: false,
            compression: TopicCompression::Producer,
            compression_gzip_level: -1,
            compression_lz4_level: 9,
            compression_zstd_level: 3,
            message_timestamp_type: TimestampType::CreateTime,
            message_timestamp_difference_max_ms: i64::MAX,
            message_timestamp_before_max_ms: i64::MAX,
            message_timestamp_after_max_ms: i64::MAX,
            message_downconversion_enable: true,
            message_format_version: MetadataVersion::V3_0_IV1,
            newest_message_format_version: None,
            delete_retention_ms: 24 * 3_600_000,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: i64::MAX,
            min_cleanable_dirty_ratio: 0.5,
            leader_replication_throttled_replicas: ThrottledReplicas::None,
            follower_replication_throttled_replicas: ThrottledReplicas::None,
            local_retention_bytes: -2,
            local_retention_ms: -2,
            remote_storage_enable: false,
            remote_log_copy_disable: false,
            remote_log_delete_on_disable: false,
        }
    }
}

impl LogConfig {
    /// An acknowledgement may have to wait for a flush.
    pub fn flushes_before_acknowledgement(&self) -> bool {
        self.flush_before_acknowledgement || self.flush_messages != i64::MAX
    }

    /// These defaults under a topic's own settings. Names that are no topic settings are ignored, as Kafka ignores
    /// what a newer broker stored; a value that the table refuses is an error.
    pub fn with_overrides(&self, overrides: &Properties) -> Result<LogConfig, ConfigError> {
        let mut config = self.clone();
        let mut compression_type = self.compression.name().to_string();
        for (name, text) in overrides {
            let Some(row) = topic_settings::topic_setting(name) else { continue };
            match (row.name, row.parse(text)?) {
                ("compression.type", Value::String(name)) => compression_type = name,
                (name, value) => config.set(name, value),
            }
        }
        let levels = [config.compression_gzip_level, config.compression_lz4_level, config.compression_zstd_level];
        config = config.with_compression(&compression_type, levels);
        let difference = config.message_timestamp_difference_max_ms;
        for bound in [&mut config.message_timestamp_before_max_ms, &mut config.message_timestamp_after_max_ms] {
            if *bound == i64::MAX {
                *bound = difference;
            }
        }
        Ok(config)
    }

    /// As `with_overrides`, for what is already stored: a value that the table refuses is left out and reported, so
    /// that one bad setting does not take a topic away.
    pub fn with_stored_overrides(&self, overrides: &Properties) -> (LogConfig, Vec<ConfigError>) {
        let mut accepted = overrides.clone();
        let mut errors = Vec::new();
        for (name, text) in overrides {
            if let Some(Err(error)) = topic_settings::topic_setting(name).map(|row| row.parse(text)) {
                errors.push(error);
                accepted.remove(name);
            }
        }
        match self.with_overrides(&accepted) {
            Ok(config) => (config, errors),
            Err(error) => {
                errors.push(error);
                (self.clone(), errors)
            }
        }
    }

    /// Takes a value of the right type and checked range; the caller has parsed it by the row of this name.
    fn set(&mut self, name: &str, value: Value) {
        let unsigned = |number: i32| u32::try_from(number).unwrap_or(0);
        match (name, value) {
            ("cleanup.policy", Value::List(policies)) => {
                self.compact = policies.iter().any(|policy| policy == "compact");
                self.delete = policies.iter().any(|policy| policy == "delete");
                self.cleanup_policy = policies;
            }
            ("segment.bytes", Value::Int(bytes)) => self.segment_bytes = unsigned(bytes),
            ("segment.ms", Value::Long(ms)) => self.segment_ms = ms,
            ("segment.jitter.ms", Value::Long(ms)) => self.segment_jitter_ms = ms,
            ("segment.index.bytes", Value::Int(bytes)) => self.segment_index_bytes = unsigned(bytes),
            ("index.interval.bytes", Value::Int(bytes)) => self.index_interval_bytes = unsigned(bytes),
            ("preallocate", Value::Boolean(preallocate)) => self.preallocate = preallocate,
            ("flush.messages", Value::Long(messages)) => self.flush_messages = messages,
            ("flush.ms", Value::Long(ms)) => self.flush_ms = ms,
            ("retention.bytes", Value::Long(bytes)) => self.retention_bytes = u64::try_from(bytes).ok(),
            ("retention.ms", Value::Long(ms)) => self.retention_ms = (ms >= 0).then_some(ms),
            ("file.delete.delay.ms", Value::Long(ms)) => self.file_delete_delay_ms = ms,
            ("max.message.bytes", Value::Int(bytes)) => self.max_message_bytes = unsigned(bytes),
            ("min.insync.replicas", Value::Int(replicas)) => self.min_insync_replicas = replicas,
            ("unclean.leader.election.enable", Value::Boolean(enable)) => self.unclean_leader_election_enable = enable,
            ("compression.gzip.level", Value::Int(level)) => self.compression_gzip_level = level,
            ("compression.lz4.level", Value::Int(level)) => self.compression_lz4_level = level,
            ("compression.zstd.level", Value::Int(level)) => self.compression_zstd_level = level,
            ("message.timestamp.type", Value::String(name)) => {
                self.message_timestamp_type = TimestampType::from_name(&name);
            }
            ("message.timestamp.difference.max.ms", Value::Long(ms)) => self.message_timestamp_difference_max_ms = ms,
            ("message.timestamp.before.max.ms", Value::Long(ms)) => self.message_timestamp_before_max_ms = ms,
            ("message.timestamp.after.max.ms", Value::Long(ms)) => self.message_timestamp_after_max_ms = ms,
            ("message.downconversion.enable", Value::Boolean(enable)) => self.message_downconversion_enable = enable,
            ("message.format.version", Value::String(text)) => {
                if let Ok(version) = text.parse()
                    && self.newest_message_format_version.is_some_and(|newest| version <= newest)
                {
                    self.message_format_version = version;
                }
            }
            ("delete.retention.ms", Value::Long(ms)) => self.delete_retention_ms = ms,
            ("min.compaction.lag.ms", Value::Long(ms)) => self.min_compaction_lag_ms = ms,
            ("max.compaction.lag.ms", Value::Long(ms)) => self.max_compaction_lag_ms = ms,
            ("min.cleanable.dirty.ratio", Value::Double(ratio)) => self.min_cleanable_dirty_ratio = ratio,
            ("leader.replication.throttled.replicas", Value::List(replicas)) => {
                self.leader_replication_throttled_replicas = ThrottledReplicas::from_list(&replicas);
            }
            ("follower.replication.throttled.replicas", Value::List(replicas)) => {
                self.follower_replication_throttled_replicas = ThrottledReplicas::from_list(&replicas);
            }
            ("local.retention.bytes", Value::Long(bytes)) => self.local_retention_bytes = bytes,
            ("local.retention.ms", Value::Long(ms)) => self.local_retention_ms = ms,
            ("remote.storage.enable", Value::Boolean(enable)) => self.remote_storage_enable = enable,
            ("remote.log.copy.disable", Value::Boolean(disable)) => self.remote_log_copy_disable = disable,
            ("remote.log.delete.on.disable", Value::Boolean(delete)) => self.remote_log_delete_on_disable = delete,
            (name, value) => unreachable!("{name} is a row of the topic table but has no field for {value}"),
        }
    }

    /// The value of a topic setting as text, as DescribeConfigs shows it; None for another name.
    pub fn text_of(&self, name: &str) -> Option<String> {
        let unlimited = |limit: Option<i64>| Value::Long(limit.unwrap_or(-1));
        let int = |number: u32| Value::Int(i32::try_from(number).unwrap_or(i32::MAX));
        let value = match name {
            "cleanup.policy" => Value::List(self.cleanup_policy.clone()),
            "segment.bytes" => int(self.segment_bytes),
            "segment.ms" => Value::Long(self.segment_ms),
            "segment.jitter.ms" => Value::Long(self.segment_jitter_ms),
            "segment.index.bytes" => int(self.segment_index_bytes),
            "index.interval.bytes" => int(self.index_interval_bytes),
            "preallocate" => Value::Boolean(self.preallocate),
            "flush.messages" => Value::Long(self.flush_messages),
            "flush.ms" => Value::Long(self.flush_ms),
            "retention.bytes" => unlimited(self.retention_bytes.and_then(|bytes| i64::try_from(bytes).ok())),
            "retention.ms" => unlimited(self.retention_ms),
            "file.delete.delay.ms" => Value::Long(self.file_delete_delay_ms),
            "max.message.bytes" => int(self.max_message_bytes),
            "min.insync.replicas" => Value::Int(self.min_insync_replicas),
            "unclean.leader.election.enable" => Value::Boolean(self.unclean_leader_election_enable),
            "compression.type" => Value::String(self.compression.name().to_string()),
            "compression.gzip.level" => Value::Int(self.compression_gzip_level),
            "compression.lz4.level" => Value::Int(self.compression_lz4_level),
            "compression.zstd.level" => Value::Int(self.compression_zstd_level),
            "message.timestamp.type" => Value::String(self.message_timestamp_type.name().to_string()),
            "message.timestamp.difference.max.ms" => Value::Long(self.message_timestamp_difference_max_ms),
            "message.timestamp.before.max.ms" => Value::Long(self.message_timestamp_before_max_ms),
            "message.timestamp.after.max.ms" => Value::Long(self.message_timestamp_after_max_ms),
            "message.downconversion.enable" => Value::Boolean(self.message_downconversion_enable),
            "message.format.version" => Value::String(self.message_format_version.name().to_string()),
            "delete.retention.ms" => Value::Long(self.delete_retention_ms),
            "min.compaction.lag.ms" => Value::Long(self.min_compaction_lag_ms),
            "max.compaction.lag.ms" => Value::Long(self.max_compaction_lag_ms),
            "min.cleanable.dirty.ratio" => Value::Double(self.min_cleanable_dirty_ratio),
            "leader.replication.throttled.replicas" => {
                Value::String(self.leader_replication_throttled_replicas.to_text())
            }
            "follower.replication.throttled.replicas" => {
                Value::String(self.follower_replication_throttled_replicas.to_text())
            }
            "local.retention.bytes" => Value::Long(self.local_retention_bytes),
            "local.retention.ms" => Value::Long(self.local_retention_ms),
            "remote.storage.enable" => Value::Boolean(self.remote_storage_enable),
            "remote.log.copy.disable" => Value::Boolean(self.remote_log_copy_disable),
            "remote.log.delete.on.disable" => Value::Boolean(self.remote_log_delete_on_disable),
            _ => return None,
        };
        value.to_text()
    }

    /// The codec of this name, with the level that belongs to it; levels of gzip, lz4 and zstd.
    pub(super) fn with_compression(self, name: &str, [gzip, lz4, zstd]: [i32; 3]) -> LogConfig {
        let compression = match name {
            "uncompressed" => TopicCompression::Uncompressed,
            "gzip" => TopicCompression::Gzip { level: gzip },
            "snappy" => TopicCompression::Snappy,
            "lz4" => TopicCompression::Lz4 { level: lz4 },
            "zstd" => TopicCompression::Zstd { level: zstd },
            // The check of the setting lets no other name pass.
            _ => TopicCompression::Producer,
        };
        LogConfig {
            compression,
            compression_gzip_level: gzip,
            compression_lz4_level: lz4,
            compression_zstd_level: zstd,
            ..self
        }
    }

    pub(super) fn with_timestamp_type(self, name: &str) -> LogConfig {
        LogConfig { message_timestamp_type: TimestampType::from_name(name), ..self }
    }
}

/// How stored batches are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicCompression {
    /// As the producer sent them.
    Producer,
    Uncompressed,
    /// Level 1 to 9, or -1 for the library's own choice.
    Gzip {
        level: i32,
    },
    Snappy,
    Lz4 {
        level: i32,
    },
    Zstd {
        level: i32,
    },
}

impl TopicCompression {
    /// The value of `compression.type`.
    pub fn name(self) -> &'static str {
        match self {
            TopicCompression::Producer => "producer",
            TopicCompression::Uncompressed => "uncompressed",
            TopicCompression::Gzip { .. } => "gzip",
            TopicCompression::Snappy => "snappy",
            TopicCompression::Lz4 { .. } => "lz4",
            TopicCompression::Zstd { .. } => "zstd",
        }
    }
}

/// Whose clock stamps a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

impl TimestampType {
    /// The value of `message.timestamp.type`.
    pub fn name(self) -> &'static str {
        match self {
            TimestampType::CreateTime => "CreateTime",
            TimestampType::LogAppendTime => "LogAppendTime",
        }
    }

    /// The check of the setting lets no third name pass.
    fn from_name(name: &str) -> TimestampType {
        if name == "LogAppendTime" { TimestampType::LogAppendTime } else { TimestampType::CreateTime }
    }
}

/// Replicas whose replication traffic obeys the throttle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ThrottledReplicas {
    #[default]
    None,
    /// `*`
    All,
    /// Partition and broker.
    These(Vec<(i32, i32)>),
}

impl ThrottledReplicas {
    /// The check of the setting lets only a star and pairs of numbers pass; a number too large names no replica.
    fn from_list(elements: &[String]) -> ThrottledReplicas {
        if elements.concat().trim() == "*" {
            return ThrottledReplicas::All;
        }
        let replicas: Vec<(i32, i32)> = elements
            .iter()
            .filter_map(|element| {
                let (partition, broker) = element.trim().split_once(':')?;
                Some((partition.parse().ok()?, broker.parse().ok()?))
            })
            .collect();
        if replicas.is_empty() { ThrottledReplicas::None } else { ThrottledReplicas::These(replicas) }
    }

    pub fn contains(&self, partition: i32, broker: i32) -> bool {
        match self {
            ThrottledReplicas::None => false,
            ThrottledReplicas::All => true,
            ThrottledReplicas::These(replicas) => replicas.contains(&(partition, broker)),
        }
    }

    fn to_text(&self) -> String {
        match self {
            ThrottledReplicas::None => String::new(),
            ThrottledReplicas::All => "*".to_string(),
            ThrottledReplicas::These(replicas) => {
                replicas.iter().map(|(partition, broker)| format!("{partition}:{broker}")).collect::<Vec<_>>().join(",")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overrides(pairs: &[(&str, &str)]) -> Properties {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn the_built_in_defaults_are_those_of_the_table() {
        for row in topic_settings::TOPIC {
            assert_eq!(LogConfig::default().text_of(row.name), row.default_value().to_text(), "{}", row.name);
        }
    }

    /// Every row of the table reaches a field, and is read back from it.
    #[test]
    fn every_topic_setting_is_taken_over() {
        let other = |row: &crate::config::definition::Setting| match row.name {
            "cleanup.policy" => "compact,delete",
            "compression.type" => "zstd",
            "message.timestamp.type" => "LogAppendTime",
            "message.format.version" => "2.8-IV1",
            "leader.replication.throttled.replicas" => "0:1,2:3",
            "follower.replication.throttled.replicas" => "*",
            "min.cleanable.dirty.ratio" => "0.25",
            "compression.gzip.level" => "7",
            _ if row.default == Some("true") => "false",
            _ if row.default == Some("false") => "true",
            _ => "17",
        };
        let defaults =
            LogConfig { newest_message_format_version: Some(MetadataVersion::V2_8_IV1), ..LogConfig::default() };
        for row in topic_settings::TOPIC {
            let config = defaults.with_overrides(&overrides(&[(row.name, other(row))])).expect(row.name);
            assert_eq!(config.text_of(row.name).as_deref(), Some(other(row)), "{}", row.name);
            assert_ne!(config, defaults, "{}", row.name);
        }
    }

    #[test]
    fn negative_retention_is_unlimited() {
        let config = LogConfig::default()
            .with_overrides(&overrides(&[("retention.ms", "-1"), ("retention.bytes", "-7")]))
            .expect("valid");
        assert_eq!((config.retention_ms, config.retention_bytes), (None, None));
    }

    #[test]
    fn a_topic_that_names_only_its_codec_uses_the_brokers_level() {
        let broker = LogConfig::default().with_compression("producer", [6, 12, 19]);
        let topic = broker.with_overrides(&overrides(&[("compression.type", "gzip")])).expect("valid");
        assert_eq!(topic.compression, TopicCompression::Gzip { level: 6 });
        let topic = broker.with_overrides(&overrides(&[("compression.zstd.level", "1")])).expect("valid");
        assert_eq!(topic.compression, TopicCompression::Producer);
        assert_eq!(topic.compression_zstd_level, 1);
    }

    /// KIP-937: the old difference holds for a side whose own bound is not set.
    #[test]
    fn the_old_timestamp_difference_holds_where_no_bound_is_set() {
        let pairs = [("message.timestamp.difference.max.ms", "100"), ("message.timestamp.after.max.ms", "5")];
        let config = LogConfig::default().with_overrides(&overrides(&pairs)).expect("valid");
        assert_eq!((config.message_timestamp_before_max_ms, config.message_timestamp_after_max_ms), (100, 5));
    }

    #[test]
    fn a_bad_stored_value_is_left_out_and_an_unknown_name_ignored() {
        let stored = overrides(&[("flush.messages", "0"), ("retention.ms", "1"), ("from.the.future", "x")]);
        let (config, errors) = LogConfig::default().with_stored_overrides(&stored);
        assert_eq!(config, LogConfig { retention_ms: Some(1), ..LogConfig::default() });
        let texts: Vec<String> = errors.iter().map(ConfigError::to_string).collect();
        assert_eq!(texts, ["Invalid value 0 for configuration flush.messages: Value must be at least 1"]);
        assert!(LogConfig::default().with_overrides(&stored).is_err());
    }
}
