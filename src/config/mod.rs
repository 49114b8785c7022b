//! Every setting of a ZooKeeper-mode broker and of a topic: declared once as data, parsed and checked as Kafka does.
//!
//! Invariants: a `KafkaConfig` that exists has passed every check Kafka makes at start; a `LogConfig` that exists has
//! passed the checks of every topic setting. A room receives its small typed struct, never the whole configuration.
//! Deliberately unknown here: ZooKeeper, the wire, files other than the properties text itself.

pub(crate) mod definition;
pub(crate) mod describe;
pub(crate) mod dynamic;
pub mod kafka_config;
#[cfg(test)]
mod kafka_config_tests;
pub(crate) mod keys;
mod listener_settings;
pub(crate) mod listeners;
pub mod log;
pub(crate) mod metadata_version;
pub mod properties;
mod section_values;
pub mod sections;
mod startup_log;
pub(crate) mod topic_settings;
mod validation;
