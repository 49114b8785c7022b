//! What the operator reads of the configuration when the broker starts.

use super::definition::Standing;
use super::kafka_config::{KafkaConfig, version};
use super::keys::{self, DROPPED_IN_3_0};
use super::metadata_version::MetadataVersion;

impl KafkaConfig {
    /// Kafka's list of all values at start, passwords hidden.
    pub fn to_log_text(&self) -> String {
        let mut text = "KafkaConfig values: \n".to_string();
        for (name, value) in &self.values {
            text.push_str(&format!("\t{name} = {value}\n"));
        }
        text
    }

    /// One line for each thing the operator should know before the broker serves.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut not_yet = Vec::new();
        let mut unknown = Vec::new();
        let mut dropped = Vec::new();
        for name in self.static_properties.keys() {
            match keys::setting_behind(name) {
                None => match DROPPED_IN_3_0.iter().find(|(dropped, _)| dropped == name) {
                    Some((name, instead)) => dropped.push(format!("{name} ({instead})")),
                    None => unknown.push(name.as_str()),
                },
                Some(setting) if setting.standing == Standing::NotYet || keys::is_not_acted_on_per_listener(name) => {
                    not_yet.push(name.as_str());
                }
                Some(_) => {}
            }
        }
        if self.inter_broker_protocol_version >= MetadataVersion::V3_0_IV1
            && self.originals.contains_key("log.message.format.version")
            && version(self.text("log.message.format.version")).is_ok_and(|format| format.highest_supported_magic() < 2)
        {
            warnings.push(format!(
                "Broker configuration log.message.format.version with value {} is ignored because the inter-broker \
                 protocol version `{}` is greater or equal than 3.0. This configuration is deprecated and it will be \
                 removed in Apache Kafka 4.0.",
                self.text("log.message.format.version").unwrap_or_default(),
                self.text("inter.broker.protocol.version").unwrap_or_default()
            ));
        }
        if self.originals.contains_key("offsets.commit.required.acks") {
            warnings.push(
                "offsets.commit.required.acks is deprecated and it will be removed in Apache Kafka 4.0.".to_string(),
            );
        }
        if !not_yet.is_empty() {
            warnings.push(format!("These settings are known but not acted on yet: {}", not_yet.join(", ")));
        }
        if !dropped.is_empty() {
            warnings.push(format!(
                "These settings left Kafka with 3.0 and have no effect, as on a broker of 3.9 (in brackets what does their \
                 work): {}",
                dropped.join(", ")
            ));
        }
        if !unknown.is_empty() {
            warnings.push(format!("These settings are unknown and have no effect: {}", unknown.join(", ")));
        }
        warnings
    }
}
