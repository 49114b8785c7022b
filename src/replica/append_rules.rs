//! What a topic's settings demand of records, in the words of `record/`.

use crate::config::log::{LogConfig, TimestampType, TopicCompression};
use crate::record;
use crate::record::append_rules::{AcceptedSets, AppendOrigin, AppendRules};
use crate::record::compression::Codec;

pub(crate) fn append_rules(
    config: &LogConfig,
    origin: AppendOrigin,
    accepted_sets: AcceptedSets,
    zstd_allowed: bool,
) -> AppendRules {
    AppendRules {
        origin,
        accepted_sets,
        max_message_bytes: config.max_message_bytes as usize,
        compacted: config.compact,
        compression: compression(config.compression),
        log_format: config.message_format_version.highest_supported_magic(),
        timestamp_type: match config.message_timestamp_type {
            TimestampType::CreateTime => record::batch::TimestampType::CreateTime,
            TimestampType::LogAppendTime => record::batch::TimestampType::LogAppendTime,
        },
        timestamp_before_max_ms: config.message_timestamp_before_max_ms,
        timestamp_after_max_ms: config.message_timestamp_after_max_ms,
        zstd_allowed,
    }
}

fn compression(configured: TopicCompression) -> record::append_rules::TopicCompression {
    let codec = |codec, level| record::append_rules::TopicCompression::Codec { codec, level };
    match configured {
        TopicCompression::Producer => record::append_rules::TopicCompression::Producer,
        TopicCompression::Uncompressed => codec(Codec::None, None),
        TopicCompression::Gzip { level } => codec(Codec::Gzip, Some(level)),
        TopicCompression::Snappy => codec(Codec::Snappy, None),
        TopicCompression::Lz4 { level } => codec(Codec::Lz4, Some(level)),
        TopicCompression::Zstd { level } => codec(Codec::Zstd, Some(level)),
    }
}
