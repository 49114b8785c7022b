//! Settings that change while the broker runs: read from ZooKeeper at start, then on every notification.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/ZkConfigManager.scala, core/src/main/scala/kafka/server/ConfigHandler.scala.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use log::{debug, error, info, warn};
use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::session::ZooKeeper;
use odradek_zookeeper::znode::config::ConfigEntity;
use tokio::sync::watch;

use crate::config::dynamic::{Scope, usable};
use crate::config::kafka_config::KafkaConfig;
use crate::config::log::LogConfig;
use crate::config::properties::Properties;
use crate::model::BrokerId;
use crate::model::clock::wall_clock_ms;
use crate::replica::decisions::TopicConfigs;
use crate::replica::replica_manager::ReplicaManager;

/// The settings of this broker and of topics as ZooKeeper has them.
pub struct DynamicConfig {
    zookeeper: ZooKeeper,
    broker_id: BrokerId,
    /// The configuration in force; handlers read it.
    config: Arc<ArcSwap<KafkaConfig>>,
}

impl DynamicConfig {
    /// Reads the broker's stored settings and lays them over those it was started with.
    pub async fn load(
        zookeeper: ZooKeeper,
        broker_id: BrokerId,
        static_config: KafkaConfig,
    ) -> Result<DynamicConfig, ZkError> {
        let config = Arc::new(ArcSwap::from_pointee(static_config));
        let dynamic = DynamicConfig { zookeeper, broker_id, config };
        dynamic.read_broker().await?;
        Ok(dynamic)
    }

    pub fn config(&self) -> Arc<ArcSwap<KafkaConfig>> {
        Arc::clone(&self.config)
    }

    /// The settings of every topic that has any node for them, for the start. Topics that are not in it obey the
    /// defaults.
    pub async fn topic_configs(&self) -> Result<HashMap<String, Arc<LogConfig>>, ZkError> {
        let entities = self.zookeeper.configured_entities("topics").await?;
        let stored = self.zookeeper.configs(&entities).await?;
        let defaults = self.config.load().topic_defaults();
        let topics = entities.into_iter().zip(stored).filter_map(|(entity, overrides)| match entity {
            ConfigEntity::Topic(topic) => {
                let config = Arc::new(topic_config(&defaults, &topic, &overrides));
                Some((topic, config))
            }
            _ => None,
        });
        Ok(topics.collect())
    }

    /// What the logs of a topic obey, read now: whoever creates a topic writes its settings without a notification.
    pub async fn topic_config(&self, topic: &str) -> Arc<LogConfig> {
        let overrides = self.topic_overrides(topic).await;
        Arc::new(topic_config(&self.config.load().topic_defaults(), topic, &overrides))
    }

    async fn topic_overrides(&self, topic: &str) -> Properties {
        let entity = ConfigEntity::Topic(topic.to_string());
        loop {
            match self.zookeeper.config(&entity).await {
                Ok(overrides) => return overrides,
                // The next request waits for the next session.
                Err(ZkError::SessionExpired) => {}
                Err(why) => {
                    error!("reading the settings of topic {topic} failed, its logs obey the defaults: {why}");
                    return Properties::new();
                }
            }
        }
    }

    /// Takes over each change that is announced, until told to stop. It begins with all that are still announced.
    pub async fn run(self: Arc<Self>, replicas: Arc<ReplicaManager>, mut shutdown: watch::Receiver<bool>) {
        let mut changes = self.zookeeper.config_changes();
        loop {
            let entity = tokio::select! {
                next = changes.next() => match next {
                    Ok(entity) => entity,
                    Err(why) => {
                        debug!("no more changes of settings are heard of: {why}");
                        return;
                    }
                },
                _ = shutdown.wait_for(|stops| *stops) => return,
            };
            // Without ZooKeeper this waits for its return. Cut short it leaves each topic with its old settings or its
            // new ones, and the next start reads them all.
            tokio::select! {
                () = self.take_over(&entity, &replicas) => {}
                _ = shutdown.wait_for(|stops| *stops) => return,
            }
        }
    }

    async fn take_over(&self, entity: &ConfigEntity, replicas: &ReplicaManager) {
        match entity {
            ConfigEntity::Topic(topic) => {
                let overrides = self.topic_overrides(topic).await;
                info!("Processing override for entityPath: {} with config: {overrides:?}", entity.entity_path());
                let config = topic_config(&self.config.load().topic_defaults(), topic, &overrides);
                replicas.set_topic_config(topic, &Arc::new(config), wall_clock_ms());
            }
            ConfigEntity::DefaultBroker => self.take_over_broker(replicas).await,
            ConfigEntity::Broker(id) if *id == self.broker_id.0 => self.take_over_broker(replicas).await,
            ConfigEntity::Broker(_) => {}
            other => warn!("a change of {} has no effect: quotas are not acted on yet", other.entity_path()),
        }
    }

    async fn take_over_broker(&self, replicas: &ReplicaManager) {
        let before = self.config.load().topic_defaults();
        loop {
            match self.read_broker().await {
                Ok(()) => break,
                Err(ZkError::SessionExpired) => {}
                Err(why) => {
                    error!("reading the settings of broker {} failed, they stay as they are: {why}", self.broker_id);
                    return;
                }
            }
        }
        let defaults = self.config.load().topic_defaults();
        if defaults == before {
            return;
        }
        let topics: BTreeSet<Arc<str>> =
            replicas.partitions().iter().map(|partition| Arc::clone(&partition.name().topic)).collect();
        for topic in topics {
            let overrides = self.topic_overrides(&topic).await;
            replicas.set_topic_config(&topic, &Arc::new(topic_config(&defaults, &topic, &overrides)), wall_clock_ms());
        }
    }

    async fn read_broker(&self) -> Result<(), ZkError> {
        let entities = [ConfigEntity::DefaultBroker, ConfigEntity::Broker(self.broker_id.0)];
        let mut stored = self.zookeeper.configs(&entities).await?.into_iter();
        let default = stored.next().unwrap_or_default();
        let broker = stored.next().unwrap_or_default();
        let current = self.config.load();
        if let Some(config) = overlaid(&current, &default, &broker) {
            self.config.store(Arc::new(config));
        }
        Ok(())
    }
}

impl TopicConfigs for DynamicConfig {
    fn of<'a>(&'a self, topic: &'a str) -> Pin<Box<dyn Future<Output = Arc<LogConfig>> + Send + 'a>> {
        Box::pin(self.topic_config(topic))
    }
}

/// The configuration under what is stored now. None if nothing changes, or if the whole would not be valid.
fn overlaid(current: &KafkaConfig, default: &Properties, broker: &Properties) -> Option<KafkaConfig> {
    let (default, complaints_of_default) = usable(default, Scope::ClusterDefault);
    let (broker, complaints_of_broker) = usable(broker, Scope::Broker);
    for complaint in complaints_of_default.into_iter().chain(complaints_of_broker) {
        error!("{complaint}");
    }
    if (&default, &broker) == (current.dynamic_default(), current.dynamic_broker()) {
        return None;
    }
    match current.with_dynamic(&default, &broker) {
        Ok(config) => {
            let names: BTreeSet<&str> = default.keys().chain(broker.keys()).map(String::as_str).collect();
            info!("dynamic settings in force: {}", names.into_iter().collect::<Vec<_>>().join(", "));
            Some(config)
        }
        Err(why) => {
            error!("the stored settings of the broker could not be applied: {why}");
            None
        }
    }
}

/// A bad value that is stored does not take the topic away: it is named and left out.
fn topic_config(defaults: &LogConfig, topic: &str, overrides: &Properties) -> LogConfig {
    let (config, errors) = defaults.with_stored_overrides(overrides);
    for why in errors {
        error!("a stored setting of topic {topic} is ignored: {why}");
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(pairs: &[(&str, &str)]) -> Properties {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn config() -> KafkaConfig {
        KafkaConfig::from_properties(&properties(&[("zookeeper.connect", "localhost:2181")])).expect("valid")
    }

    #[test]
    fn stored_settings_lie_over_those_of_the_file() {
        let default = properties(&[("message.max.bytes", "7"), ("num.partitions", "9")]);
        let overlaid_once = overlaid(&config(), &default, &Properties::new()).expect("something changes");
        assert_eq!(overlaid_once.topic_defaults().max_message_bytes, 7);
        assert_eq!(overlaid_once.dynamic_default(), &properties(&[("message.max.bytes", "7")]));
        assert!(overlaid(&overlaid_once, &default, &Properties::new()).is_none(), "nothing changes any more");
        let removed = overlaid(&overlaid_once, &Properties::new(), &Properties::new()).expect("taken back");
        assert_eq!(removed.topic_defaults(), config().topic_defaults());
    }

    #[test]
    fn stored_settings_that_contradict_the_rest_are_not_applied() {
        assert!(overlaid(&config(), &properties(&[("log.retention.ms", "0")]), &Properties::new()).is_none());
    }

    #[test]
    fn a_bad_stored_value_leaves_the_others_of_the_topic_in_force() {
        let overrides = properties(&[("segment.bytes", "1"), ("retention.ms", "5")]);
        let config = topic_config(&LogConfig::default(), "t", &overrides);
        assert_eq!((config.segment_bytes, config.retention_ms), (1 << 30, Some(5)));
    }
}
