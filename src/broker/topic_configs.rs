//! A topic's settings, as ZooKeeper has them over this broker's defaults.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use log::warn;
use odradek_zookeeper::session::ZooKeeper;
use odradek_zookeeper::znode::config::ConfigEntity;

use crate::config::kafka_config::KafkaConfig;
use crate::config::log::LogConfig;
use crate::replica::TopicConfigs;

pub(crate) struct StoredTopicConfigs {
    pub zookeeper: ZooKeeper,
    pub config: Arc<ArcSwap<KafkaConfig>>,
}

impl TopicConfigs for StoredTopicConfigs {
    fn of<'a>(&'a self, topic: &'a str) -> Pin<Box<dyn Future<Output = Arc<LogConfig>> + Send + 'a>> {
        Box::pin(async move {
            let overrides = match self.zookeeper.config(&ConfigEntity::Topic(topic.to_owned())).await {
                Ok(overrides) => overrides,
                Err(why) => {
                    // The log is needed now; a change of the settings is heard of by its notification.
                    warn!("topic {topic} starts with the broker's settings, its own cannot be read: {why}");
                    BTreeMap::new()
                }
            };
            topic_config(&self.config.load().topic_defaults(), topic, &overrides)
        })
    }
}

/// A topic's settings over the broker's; what does not hold is left out, and said.
pub(crate) fn topic_config(defaults: &LogConfig, topic: &str, overrides: &BTreeMap<String, String>) -> Arc<LogConfig> {
    let (config, refused) = defaults.with_stored_overrides(overrides);
    for why in refused {
        warn!("a setting of topic {topic} is ignored: {why}");
    }
    Arc::new(config)
}
