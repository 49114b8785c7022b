//! Settings that change while the broker runs: read from ZooKeeper at start, then on every notification.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/ZkConfigManager.scala, core/src/main/scala/kafka/server/ConfigHandler.scala.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use log::{debug, error, info, warn};
use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::session::ZooKeeper;
use odradek_zookeeper::znode::config::{ConfigEntity, TOPICS as CONFIG_TOPICS};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::broker::sections::Section;
use crate::broker::settings_to_logs::SettingsToLogs;
use crate::broker::startup::{Doing, StartError};
use crate::config::definition::ConfigError;
use crate::config::dynamic::under_stored;
use crate::config::kafka_config::KafkaConfig;
use crate::config::log::LogConfig;
use crate::config::properties::Properties;
use crate::controller::task::Controller;
use crate::model::BrokerId;
use crate::model::shown::shown;
use crate::replica::decisions::TopicConfigs;
use crate::replica::replica_manager::ReplicaManager;

/// The settings of this broker and of topics as ZooKeeper has them.
pub struct DynamicConfig {
    zookeeper: ZooKeeper,
    broker_id: BrokerId,
    /// The configuration in force; handlers read it.
    config: Arc<ArcSwap<KafkaConfig>>,
    /// The same, for rooms that act on changes.
    watched: watch::Sender<Arc<KafkaConfig>>,
    unread: Mutex<Unread>,
    /// When the first of them were read.
    began: Instant,
}

/// Settings that are stored but could not be read, to be tried again.
#[derive(Debug, Default)]
struct Unread {
    /// Those of this broker.
    of_broker: bool,
    /// Which topics have any, and so those of all topics.
    list_of_topics: bool,
    topics: BTreeSet<String>,
}

const UNCLEAN_LEADER_ELECTION_ENABLE: &str = "unclean.leader.election.enable";

/// So long an announced change is there at the least, with much to spare.
const ANNOUNCED_FOR: Duration = Duration::from_secs(5 * 60);

/// How often settings that could not be read are read again.
const UNREAD_BACKOFF: Duration = Duration::from_secs(5);

impl DynamicConfig {
    /// Reads the broker's stored settings and lays them over those it was started with. Where they contradict each other the start
    /// is refused: of those that keep data some may be among them.
    pub async fn load(
        zookeeper: ZooKeeper,
        broker_id: BrokerId,
        static_config: KafkaConfig,
    ) -> Result<DynamicConfig, StartError> {
        let config = Arc::new(ArcSwap::from_pointee(static_config));
        let (watched, _) = watch::channel(config.load_full());
        let dynamic =
            DynamicConfig { zookeeper, broker_id, config, watched, unread: Mutex::default(), began: Instant::now() };
        let stored = dynamic.stored().await.doing("read the broker's stored settings")?;
        dynamic.put_in_force(&stored).doing("lay the broker's stored settings over its file")?;
        Ok(dynamic)
    }

    pub fn config(&self) -> Arc<ArcSwap<KafkaConfig>> {
        Arc::clone(&self.config)
    }

    /// A room's part of the configuration, to be watched.
    pub fn section<T: PartialEq>(&self, part: fn(&KafkaConfig) -> T) -> Section<T> {
        Section::new(self.watched.subscribe(), part)
    }

    fn unread(&self) -> MutexGuard<'_, Unread> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The settings of every topic that has any node for them, for the start, and what the others obey.
    pub async fn topic_configs(&self) -> Result<(HashMap<String, Arc<LogConfig>>, Arc<LogConfig>), ZkError> {
        let defaults = self.config.load().topic_defaults();
        let entities = loop {
            match self.zookeeper.configured_entities("topics").await {
                Ok(entities) => break entities,
                // The next request waits for the next session.
                Err(ZkError::SessionExpired) => {}
                Err(why) if why.is_of_the_session() => return Err(why),
                Err(why) => {
                    self.zookeeper.complain(
                        CONFIG_TOPICS,
                        "no topic is cleaned up until their settings can be read",
                        &why,
                    );
                    self.unread().list_of_topics = true;
                    return Ok((HashMap::new(), Arc::new(cautious(&defaults))));
                }
            }
        };
        let topics: Vec<String> = entities
            .into_iter()
            .filter_map(|entity| match entity {
                ConfigEntity::Topic(topic) => Some(topic),
                _ => None,
            })
            .collect();
        let mut configs = HashMap::new();
        let mut left = topics;
        while !left.is_empty() {
            let entities: Vec<ConfigEntity> = left.iter().cloned().map(ConfigEntity::Topic).collect();
            let stored = self.zookeeper.configs(&entities).await;
            let mut again = Vec::new();
            for (topic, stored) in left.into_iter().zip(stored) {
                match stored {
                    Err(ZkError::SessionExpired) => again.push(topic),
                    Err(why) if why.is_of_the_session() => return Err(why),
                    stored => {
                        let config = match self.noted(&topic, stored) {
                            Some(overrides) => topic_config(&defaults, &topic, &overrides),
                            None => cautious(&defaults),
                        };
                        configs.insert(topic, Arc::new(config));
                    }
                }
            }
            left = again;
        }
        Ok((configs, Arc::new(defaults)))
    }

    /// What the logs of topics obey, read now: whoever creates a topic writes its settings without a notification.
    async fn configs_of(&self, topics: &[Arc<str>]) -> Vec<Arc<LogConfig>> {
        let overrides = self.overrides_of(topics).await;
        let defaults = self.config.load().topic_defaults();
        let config = |(topic, overrides): (&Arc<str>, Option<Properties>)| match overrides {
            Some(overrides) => topic_config(&defaults, topic, &overrides),
            None => cautious(&defaults),
        };
        topics.iter().zip(overrides).map(config).map(Arc::new).collect()
    }

    /// `None` for each that cannot be read, which is complained of and tried again.
    async fn overrides_of(&self, topics: &[Arc<str>]) -> Vec<Option<Properties>> {
        let entities: Vec<ConfigEntity> = topics.iter().map(|topic| ConfigEntity::Topic(topic.to_string())).collect();
        let mut overrides = Vec::with_capacity(topics.len());
        for (topic, stored) in topics.iter().zip(self.zookeeper.configs(&entities).await) {
            overrides.push(match stored {
                Err(ZkError::SessionExpired) => self.topic_overrides(topic).await,
                stored => self.noted(topic, stored),
            });
        }
        overrides
    }

    /// `None` when they cannot be read, which is complained of and tried again.
    async fn topic_overrides(&self, topic: &str) -> Option<Properties> {
        let entity = ConfigEntity::Topic(topic.to_string());
        loop {
            match self.zookeeper.config(&entity).await {
                Err(ZkError::SessionExpired) => {}
                stored => return self.noted(topic, stored),
            }
        }
    }

    fn noted(&self, topic: &str, stored: Result<Properties, ZkError>) -> Option<Properties> {
        let path = ConfigEntity::Topic(topic.to_owned()).path();
        match stored {
            Ok(overrides) => {
                self.zookeeper.mended(&path);
                self.unread().topics.remove(topic);
                Some(overrides)
            }
            Err(why) => {
                let what = format!("topic {topic} is not cleaned up until its settings can be read");
                self.zookeeper.complain(&path, &what, &why);
                self.unread().topics.insert(topic.to_owned());
                None
            }
        }
    }

    /// Takes over each change that is announced, until told to stop. It begins with all that are still announced. What was
    /// announced while there was no session may not be there any more, so with a new one all settings are read again.
    pub async fn run(
        self: Arc<Self>,
        replicas: Arc<ReplicaManager>,
        controller: Controller,
        mut shutdown: watch::Receiver<bool>,
    ) {
        if self.began.elapsed() > ANNOUNCED_FOR {
            self.all_are_unread();
        }
        let mut to_logs = SettingsToLogs::new(replicas);
        let mut session = None;
        let mut changes = self.zookeeper.config_changes();
        // Whoever creates a topic may find its settings unreadable at any time, and tells nobody.
        let mut next_try = interval(UNREAD_BACKOFF);
        next_try.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let new_session = async {
                if let Some(current) = &session {
                    ZooKeeper::ended(current).await;
                }
                self.zookeeper.current_session().await
            };
            let entity = tokio::select! {
                current = new_session => match current {
                    Ok(current) => {
                        if session.replace(current).is_some() {
                            self.all_are_unread();
                        }
                        None
                    }
                    Err(why) => {
                        debug!("no more changes of settings are heard of: {why}");
                        return;
                    }
                },
                next = changes.next() => match next {
                    Ok(entity) => Some(entity),
                    Err(why) => {
                        debug!("no more changes of settings are heard of: {why}");
                        return;
                    }
                },
                _ = next_try.tick() => None,
                _ = shutdown.wait_for(|stops| *stops) => return,
            };
            // Without ZooKeeper this waits for its return. Cut short it leaves each topic with its old settings or its
            // new ones, and the next start reads them all.
            let taken_over = async {
                match &entity {
                    Some(entity) => self.take_over(entity, &mut to_logs, &controller).await,
                    None => self.read_unread(&mut to_logs, &controller).await,
                }
            };
            tokio::select! {
                () = taken_over => {}
                _ = shutdown.wait_for(|stops| *stops) => return,
            }
        }
    }

    fn all_are_unread(&self) {
        let mut unread = self.unread();
        (unread.of_broker, unread.list_of_topics) = (true, true);
    }

    async fn take_over(&self, entity: &ConfigEntity, to_logs: &mut SettingsToLogs, controller: &Controller) {
        match entity {
            ConfigEntity::Topic(topic) => {
                let Some(overrides) = self.topic_overrides(topic).await else { return };
                let (path, config) = (entity.entity_path(), format!("{overrides:?}"));
                info!("Processing override for entityPath: {} with config: {}", shown(&path), shown(&config));
                let config = topic_config(&self.config.load().topic_defaults(), topic, &overrides);
                to_logs.give(&HashMap::from([(topic.as_str().into(), Arc::new(config))]));
                if overrides
                    .get(UNCLEAN_LEADER_ELECTION_ENABLE)
                    .is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
                {
                    controller.unclean_elections_allowed(topic).await;
                }
            }
            ConfigEntity::DefaultBroker => drop(self.take_over_broker(to_logs).await),
            ConfigEntity::Broker(id) if *id == self.broker_id.0 => drop(self.take_over_broker(to_logs).await),
            ConfigEntity::Broker(_) => {}
            other => warn!("a change of {} has no effect: quotas are not acted on yet", other.entity_path()),
        }
    }

    /// Tries again what could not be read before; what it obeyed meanwhile stays in force until it can be.
    async fn read_unread(&self, to_logs: &mut SettingsToLogs, controller: &Controller) {
        let Unread { of_broker, list_of_topics, topics } = std::mem::take(&mut *self.unread());
        let has_read_all = of_broker && self.take_over_broker(to_logs).await;
        if list_of_topics && !has_read_all {
            match self.zookeeper.configured_entities("topics").await {
                Ok(_) => {
                    self.zookeeper.mended(CONFIG_TOPICS);
                    self.take_over_topics(to_logs).await;
                }
                Err(_) => self.unread().list_of_topics = true,
            }
        }
        for topic in topics {
            self.take_over(&ConfigEntity::Topic(topic), to_logs, controller).await;
        }
    }

    /// Whether that has made it read those of all topics too.
    async fn take_over_broker(&self, to_logs: &mut SettingsToLogs) -> bool {
        let before = self.config.load().topic_defaults();
        match self.stored().await {
            Ok(stored) => {
                if let Err(why) = self.put_in_force(&stored) {
                    error!("the stored settings of the broker could not be applied: {why}");
                }
            }
            Err(why) => {
                debug!("the settings of broker {} stay as they are: {why}", self.broker_id);
                return false;
            }
        }
        if self.config.load().topic_defaults() == before {
            return false;
        }
        self.take_over_topics(to_logs).await;
        true
    }

    /// Those of each topic with a log here. Whether elections of it may be unclean is for the controller, which reads that for
    /// itself when its session is new.
    async fn take_over_topics(&self, to_logs: &mut SettingsToLogs) {
        let topics: Vec<Arc<str>> = topics_of_logs(to_logs.replicas()).into_iter().collect();
        let overrides = self.overrides_of(&topics).await;
        let defaults = self.config.load().topic_defaults();
        let read = topics.into_iter().zip(overrides).filter_map(|(topic, overrides)| {
            let config = topic_config(&defaults, &topic, &overrides?);
            Some((topic, Arc::new(config)))
        });
        to_logs.give(&read.collect());
    }

    /// What is stored for all brokers and for this one. Of the two layers, one that cannot be read stays as it is. Fails only
    /// when there is no ZooKeeper any more.
    async fn stored(&self) -> Result<[Properties; 2], ZkError> {
        let entities = [ConfigEntity::DefaultBroker, ConfigEntity::Broker(self.broker_id.0)];
        let stored = loop {
            let stored = self.zookeeper.configs(&entities).await;
            let ended = stored.iter().filter_map(|one| one.as_ref().err()).find(|why| why.is_of_the_session());
            match ended {
                None => break stored,
                // The next request waits for the next session.
                Some(ZkError::SessionExpired) => {}
                Some(why) => return Err(why.clone()),
            }
        };
        let current = self.config.load();
        let mut layers = [current.dynamic_default().clone(), current.dynamic_broker().clone()];
        for ((layer, stored), entity) in layers.iter_mut().zip(stored).zip(&entities) {
            let path = entity.path();
            match stored {
                Ok(properties) => {
                    self.zookeeper.mended(&path);
                    *layer = properties;
                }
                Err(why) => {
                    let what =
                        format!("the settings of broker {} that are stored there stay as they are", self.broker_id);
                    self.zookeeper.complain(&path, &what, &why);
                    self.unread().of_broker = true;
                }
            }
        }
        Ok(layers)
    }

    fn put_in_force(&self, [default, broker]: &[Properties; 2]) -> Result<(), ConfigError> {
        if let Some(config) = overlaid(&self.config.load(), default, broker)? {
            let config = Arc::new(config);
            self.config.store(Arc::clone(&config));
            self.watched.send_replace(config);
        }
        Ok(())
    }
}

fn topics_of_logs(replicas: &ReplicaManager) -> BTreeSet<Arc<str>> {
    replicas.log_dirs().logs().iter().map(|log| Arc::clone(&log.topic_partition().topic)).collect()
}

/// What a topic obeys whose settings are stored but cannot be read: nothing of it is deleted that they might keep.
fn cautious(defaults: &LogConfig) -> LogConfig {
    LogConfig { retention_ms: None, retention_bytes: None, ..defaults.clone() }
}

impl TopicConfigs for DynamicConfig {
    fn of<'a>(&'a self, topics: &'a [Arc<str>]) -> Pin<Box<dyn Future<Output = Vec<Arc<LogConfig>>> + Send + 'a>> {
        Box::pin(self.configs_of(topics))
    }
}

/// The configuration under what is stored now; None if nothing changes.
fn overlaid(
    current: &KafkaConfig,
    default: &Properties,
    broker: &Properties,
) -> Result<Option<KafkaConfig>, ConfigError> {
    let (config, complaints) = under_stored(current, default, broker)?;
    for complaint in complaints {
        error!("{complaint}");
    }
    let layers = [config.dynamic_default(), config.dynamic_broker()];
    if layers == [current.dynamic_default(), current.dynamic_broker()] {
        return Ok(None);
    }
    let names: BTreeSet<&str> = layers.into_iter().flat_map(|layer| layer.keys()).map(String::as_str).collect();
    info!("dynamic settings in force: {}", names.into_iter().collect::<Vec<_>>().join(", "));
    Ok(Some(config))
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
        let none = Properties::new();
        let default = properties(&[("message.max.bytes", "7"), ("num.partitions", "9")]);
        let overlaid_once = overlaid(&config(), &default, &none).expect("valid").expect("something changes");
        assert_eq!(overlaid_once.topic_defaults().max_message_bytes, 7);
        assert_eq!(overlaid_once.dynamic_default(), &properties(&[("message.max.bytes", "7")]));
        assert!(overlaid(&overlaid_once, &default, &none).expect("valid").is_none(), "nothing changes any more");
        let removed = overlaid(&overlaid_once, &none, &none).expect("valid").expect("taken back");
        assert_eq!(removed.topic_defaults(), config().topic_defaults());
    }

    #[test]
    fn stored_settings_that_contradict_the_rest_are_not_applied() {
        let stored = properties(&[("log.retention.ms", "0"), ("metric.reporters", "com.example.R")]);
        assert!(overlaid(&config(), &stored, &Properties::new()).expect("valid").is_none());
    }

    #[test]
    fn a_bad_stored_value_leaves_the_others_of_the_topic_in_force() {
        let overrides = properties(&[("segment.bytes", "1"), ("retention.ms", "5")]);
        let config = topic_config(&LogConfig::default(), "t", &overrides);
        assert_eq!((config.segment_bytes, config.retention_ms), (1 << 30, Some(5)));
    }
}
