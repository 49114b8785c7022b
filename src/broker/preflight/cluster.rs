//! What ZooKeeper says of the cluster, and of what this broker is to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::session::ZooKeeper;
use odradek_zookeeper::znode::broker::Broker;
use odradek_zookeeper::znode::config::ConfigEntity;
use odradek_zookeeper::znode::topic::Topic;
use serde_json::Value;

use crate::broker::preflight::report::{Report, few};
use crate::broker::zookeeper_settings::zookeeper_settings;
use crate::config::definition::Standing;
use crate::config::dynamic::under_stored;
use crate::config::kafka_config::KafkaConfig;
use crate::config::keys::setting_behind;
use crate::config::metadata_version::MetadataVersion;
use crate::config::properties::Properties;
use crate::config::topic_settings::topic_setting;
use crate::metadata::features::{incompatible, supported};
use crate::model::{TopicId, TopicPartition};

const ABOUT: &str = "cluster";

/// What the log directories are held against.
#[derive(Debug, Default)]
pub struct Cluster {
    pub id: Option<String>,
    /// The partitions of which this broker is a replica.
    pub hosted: BTreeSet<TopicPartition>,
    pub topic_ids: HashMap<Arc<str>, TopicId>,
}

/// `None` if ZooKeeper cannot be asked.
pub async fn look(config: &KafkaConfig, id: Option<i32>, report: &mut Report) -> Option<Cluster> {
    const ABOUT: &str = "ZooKeeper";
    let settings = zookeeper_settings(&config.zookeeper_config());
    let zookeeper = match settings {
        Ok(mut settings) => {
            settings.creates_chroot = false;
            ZooKeeper::connect(settings).await
        }
        Err(why) => Err(why),
    };
    let zookeeper = match zookeeper {
        Ok(zookeeper) => zookeeper,
        Err(why) => {
            report.refuse(ABOUT, why.to_string());
            return None;
        }
    };
    let mut looker = Looker { zookeeper, config, id, cluster: Cluster::default(), report };
    let looked = looker.look().await;
    looker.zookeeper.close().await;
    let cluster = looker.cluster;
    match looked {
        Ok(()) => Some(cluster),
        Err(why) => {
            report.refuse(ABOUT, why.to_string());
            None
        }
    }
}

struct Looker<'a> {
    zookeeper: ZooKeeper,
    config: &'a KafkaConfig,
    id: Option<i32>,
    cluster: Cluster,
    report: &'a mut Report,
}

impl Looker<'_> {
    async fn look(&mut self) -> Result<(), ZkError> {
        self.cluster.id = self.zookeeper.cluster_id().await?;
        match &self.cluster.id {
            Some(cluster) => self.report.note(ABOUT, format!("{cluster} at {}", self.zookeeper.settings().connect)),
            None => {
                self.report.warn(ABOUT, "ZooKeeper holds no cluster under this path: the broker would begin a new one")
            }
        }
        self.look_at_office().await?;
        self.look_at_brokers().await?;
        let defaults = self.look_at_stored_settings().await?;
        self.look_at_quotas().await?;
        self.look_at_topics(&defaults).await
    }

    /// A znode that cannot be understood is told, and left out.
    fn understood<T>(&mut self, read: Result<T, ZkError>) -> Result<Option<T>, ZkError> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(why) if why.is_of_the_session() => Err(why),
            Err(why) => {
                self.report.warn(ABOUT, why.to_string());
                Ok(None)
            }
        }
    }

    async fn look_at_office(&mut self) -> Result<(), ZkError> {
        let controller = self.zookeeper.controller().await;
        if let Some(controller) = self.understood(controller)? {
            match controller.map(|controller| controller.value.broker_id) {
                None => self.report.warn(ABOUT, "there is no controller now: wait until there is one"),
                Some(broker) if Some(broker) == self.id => {
                    self.report.note(ABOUT, "this broker is the controller: its stop moves the office too");
                }
                Some(broker) => self.report.note(ABOUT, format!("the controller is broker {broker}")),
            }
        }
        // Source: kafka 3.9 core/src/main/scala/kafka/zk/ZkData.scala, MigrationZNode.
        if let Some((data, _)) = self.zookeeper.get("/migration").await? {
            let state: Value = serde_json::from_slice(&data).unwrap_or_default();
            if state["kraft_controller_id"].as_i64().unwrap_or(-1) >= 0 {
                self.report.refuse(ABOUT, "a migration to KRaft is under way (/migration): it needs JVM brokers");
            }
        }
        let feature = self.zookeeper.feature().await;
        if let Some(Some(feature)) = self.understood(feature)?
            && let unknown = incompatible(&supported(), &feature.value.features)
            && !unknown.is_empty()
        {
            let features: Vec<String> = unknown.iter().map(|(name, level)| format!("{name} {level}")).collect();
            self.report.refuse(ABOUT, format!("finalized features that are not known here: {}", few(&features)));
        }
        Ok(())
    }

    async fn look_at_brokers(&mut self) -> Result<(), ZkError> {
        let protocol = self.config.inter_broker_protocol_version();
        let listener = &self.config.socket_config().inter_broker_listener_name;
        let mut others = Vec::new();
        for id in self.zookeeper.broker_ids().await? {
            let Some((data, _)) = self.zookeeper.get(&odradek_zookeeper::znode::broker::path(id)).await? else {
                continue;
            };
            let decoded = Broker::decode(id, &data).map_err(ZkError::from);
            let Some(broker) = self.understood(decoded)? else { continue };
            if Some(id) == self.id {
                self.look_at_predecessor(&broker);
                continue;
            }
            others.push(id);
            let version = serde_json::from_slice::<Value>(&data).unwrap_or_default()["version"].as_i64().unwrap_or(-1);
            if !broker.endpoints.iter().any(|endpoint| endpoint.listener == *listener) {
                self.report
                    .warn(ABOUT, format!("broker {id} has no listener {listener}, by which this one would reach it"));
            }
            let expected = i64::from(protocol.broker_registration_version());
            if version != expected {
                self.report.warn(
                    ABOUT,
                    format!(
                        "broker {id} registered in version {version}, and with inter.broker.protocol.version {} it would \
                         be {expected}: the brokers' settings differ",
                        protocol.name()
                    ),
                );
            }
        }
        match others.is_empty() {
            true => {
                self.report.warn(ABOUT, "there is no other broker: what this one holds cannot be had while it is away")
            }
            false => self.report.note(
                ABOUT,
                format!(
                    "{} other broker(s): {}; ZooKeeper does not say which release each is",
                    others.len(),
                    few(&others)
                ),
            ),
        }
        if self.id.is_none() {
            self.report.warn(ABOUT, "broker.id is not known: neither the settings nor a log directory say it");
        }
        Ok(())
    }

    fn look_at_predecessor(&mut self, broker: &Broker) {
        let registered: BTreeSet<String> = broker
            .endpoints
            .iter()
            .map(|endpoint| format!("{}://{}:{}", endpoint.listener, endpoint.host, endpoint.port))
            .collect();
        let advertised = self.config.advertised_listeners().iter().filter(|endpoint| endpoint.host.is_some());
        let missing: Vec<String> =
            advertised.map(ToString::to_string).filter(|endpoint| !registered.contains(endpoint)).collect();
        let registered: Vec<String> = registered.into_iter().collect();
        self.report.note(ABOUT, format!("broker {} runs now, as {}", broker.id, few(&registered)));
        if !missing.is_empty() {
            self.report
                .warn(ABOUT, format!("the settings advertise what the broker that runs does not: {}", few(&missing)));
        }
        if broker.rack.as_deref() != self.config.broker_rack() {
            self.report.warn(
                ABOUT,
                format!("its rack is {:?}, and the settings say {:?}", broker.rack, self.config.broker_rack()),
            );
        }
    }

    /// What is stored for this broker and for all; gives what all have, which decides defaults of topics.
    async fn look_at_stored_settings(&mut self) -> Result<Properties, ZkError> {
        let entities = [Some(ConfigEntity::DefaultBroker), self.id.map(ConfigEntity::Broker)];
        let mut layers = [Properties::new(), Properties::new()];
        for (layer, entity) in layers.iter_mut().zip(&entities) {
            let Some(entity) = entity else { continue };
            let stored = self.zookeeper.config(entity).await;
            *layer = self.understood(stored)?.unwrap_or_default();
        }
        let config = match under_stored(self.config, &layers[0], &layers[1]) {
            Ok((config, complaints)) => {
                complaints.into_iter().for_each(|complaint| self.report.warn(ABOUT, complaint));
                config
            }
            Err(why) => {
                self.report.refuse(ABOUT, format!("the stored settings of the broker cannot be applied: {why}"));
                return Ok(Properties::new());
            }
        };
        let mut defaults = Properties::new();
        for (used, entity) in [config.dynamic_default(), config.dynamic_broker()].into_iter().zip(&entities) {
            let Some(entity) = entity else { continue };
            let not_yet: Vec<&String> = used
                .keys()
                .filter(|name| setting_behind(name).is_none_or(|setting| setting.standing == Standing::NotYet))
                .collect();
            if !not_yet.is_empty() {
                let path = entity.path();
                self.report.warn(ABOUT, format!("settings in {path} that are not acted on: {}", few(&not_yet)));
            }
            defaults.extend(used.clone());
        }
        Ok(defaults)
    }

    async fn look_at_quotas(&mut self) -> Result<(), ZkError> {
        let mut with_quotas = Vec::new();
        for kind in ["users", "clients", "ips"] {
            let entities = self.zookeeper.configured_entities(kind).await;
            with_quotas.extend(self.understood(entities)?.unwrap_or_default());
        }
        let users = with_quotas.iter().filter(|entity| matches!(entity, ConfigEntity::User(_)));
        let clients: Vec<String> = users.map(|user| format!("{}/clients", user.entity_path())).collect();
        let paths: Vec<String> = clients.iter().map(|clients| format!("/config/{clients}")).collect();
        for (clients, names) in clients.iter().zip(self.zookeeper.children_of_many(&paths).await) {
            let names = self.understood(names)?.unwrap_or_default();
            with_quotas
                .extend(names.iter().filter_map(|name| ConfigEntity::from_entity_path(&format!("{clients}/{name}"))));
        }
        let stored = self.zookeeper.configs(&with_quotas).await;
        let mut limited = Vec::new();
        for (entity, stored) in with_quotas.iter().zip(stored) {
            if self.understood(stored)?.is_some_and(|stored| !stored.is_empty()) {
                limited.push(entity.entity_path());
            }
        }
        if !limited.is_empty() {
            limited.sort_unstable();
            self.report.warn(ABOUT, format!("quotas and credentials that are not acted on: {}", few(&limited)));
        }
        Ok(())
    }

    async fn look_at_topics(&mut self, defaults: &Properties) -> Result<(), ZkError> {
        let names = self.zookeeper.topics().await?;
        let topics = self.zookeeper.topics_of(&names).await?;
        for (name, topic) in &topics {
            if let Some(id) = topic.topic_id.as_deref().and_then(|id| id.parse().ok()) {
                self.cluster.topic_ids.insert(Arc::from(name.as_str()), id);
            }
        }
        let nameless = topics.values().filter(|topic| topic.topic_id.is_none()).count();
        if nameless > 0 {
            let text =
                format!("{nameless} topic(s) without an id, as controllers below inter-broker protocol 2.8 make them");
            self.report.note(ABOUT, text);
        }
        let min_isr = self.look_at_topic_settings(&topics, defaults).await?;
        self.look_at_partitions(&topics, &min_isr).await?;
        let deleted = self.zookeeper.children("/admin/delete_topics").await;
        let deleted = match deleted {
            Err(ZkError::NoNode { .. }) => Vec::new(),
            other => other?,
        };
        if !deleted.is_empty() {
            self.report.warn(ABOUT, format!("topics are being deleted: {}; wait for their end", few(&deleted)));
        }
        Ok(())
    }

    /// Gives each topic's `min.insync.replicas`.
    async fn look_at_topic_settings(
        &mut self,
        topics: &BTreeMap<String, Topic>,
        defaults: &Properties,
    ) -> Result<HashMap<String, usize>, ZkError> {
        let default_min_isr = defaults.get("min.insync.replicas").and_then(|text| text.trim().parse().ok());
        let default_min_isr = default_min_isr.unwrap_or(self.config.topic_defaults().min_insync_replicas);
        let entities: Vec<ConfigEntity> = topics.keys().cloned().map(ConfigEntity::Topic).collect();
        let (mut min_isr, mut tiered, mut in_old_format) = (HashMap::new(), Vec::new(), Vec::new());
        let mut not_acted_on: BTreeSet<String> = BTreeSet::new();
        for (topic, stored) in topics.keys().zip(self.zookeeper.configs(&entities).await) {
            let Some(stored) = self.understood(stored)? else { continue };
            let number = stored.get("min.insync.replicas").and_then(|text| text.trim().parse().ok());
            min_isr.insert(topic.clone(), usize::try_from(number.unwrap_or(default_min_isr)).unwrap_or(1));
            if stored.get("remote.storage.enable").is_some_and(|value| value.trim().eq_ignore_ascii_case("true")) {
                tiered.push(topic);
            }
            let format = stored.get("message.format.version").map_or("", |text| text.trim());
            if format.parse().is_ok_and(|version: MetadataVersion| version.highest_supported_magic() < 2) {
                in_old_format.push(format!("{topic} ({format})"));
            }
            not_acted_on.extend(
                stored
                    .into_keys()
                    .filter(|name| topic_setting(name).is_none_or(|setting| setting.standing == Standing::NotYet)),
            );
        }
        if !tiered.is_empty() {
            self.report.refuse(ABOUT, format!("topics in tiered storage, which is not served: {}", few(&tiered)));
        }
        if !not_acted_on.is_empty() {
            let names: Vec<&String> = not_acted_on.iter().collect();
            self.report.warn(ABOUT, format!("settings of topics that are not acted on: {}", few(&names)));
        }
        if !in_old_format.is_empty() {
            // Source: kafka 3.9 core/src/main/scala/kafka/server/ConfigHandler.scala, excludedConfigs.
            let is_ignored = self.config.inter_broker_protocol_version() >= MetadataVersion::V3_0_IV1;
            let what = match is_ignored {
                true => {
                    "topics whose message.format.version no broker heeds since inter.broker.protocol.version is 3.0"
                }
                false => "topics that are written in an old format until inter.broker.protocol.version is 3.0",
            };
            self.report.note(ABOUT, format!("{what}: {}", few(&in_old_format)));
        }
        Ok(min_isr)
    }

    async fn look_at_partitions(
        &mut self,
        topics: &BTreeMap<String, Topic>,
        min_isr: &HashMap<String, usize>,
    ) -> Result<(), ZkError> {
        let all: Vec<(&str, i32)> = topics
            .iter()
            .flat_map(|(name, topic)| topic.partitions.keys().map(move |partition| (name.as_str(), *partition)))
            .collect();
        let states = self.zookeeper.partition_states(&all).await;
        let (mut led, mut offline, mut under, mut alone, mut short, mut moving) =
            (0, Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for ((topic, partition), state) in all.iter().zip(states) {
            let name = TopicPartition::new(*topic, *partition);
            let Some(assignment) = topics.get(*topic).and_then(|topic| topic.partitions.get(partition)) else {
                continue;
            };
            let is_hosted = self.id.is_some_and(|id| assignment.replicas.contains(&id));
            if is_hosted {
                self.cluster.hosted.insert(name.clone());
            }
            if !assignment.adding_replicas.is_empty() || !assignment.removing_replicas.is_empty() {
                moving.push(name.clone());
            }
            let Some(state) = self.understood(state)?.flatten().map(|(state, _)| state) else {
                offline.push(name);
                continue;
            };
            led += usize::from(Some(state.leader) == self.id);
            let is_in_sync = self.id.is_some_and(|id| state.isr.contains(&id));
            if state.leader < 0 {
                offline.push(name);
                continue;
            }
            if state.isr.len() < assignment.replicas.len() {
                under.push(name.clone());
            }
            let left = state.isr.len() - usize::from(is_in_sync);
            if is_in_sync && left == 0 {
                alone.push(name);
            } else if is_in_sync && left < min_isr.get(*topic).copied().unwrap_or(1) {
                short.push(name);
            }
        }
        let hosted = self.cluster.hosted.len();
        self.report.note(
            ABOUT,
            format!(
                "{} partitions in {} topics; of {hosted} this broker is a replica, of {led} the leader",
                all.len(),
                topics.len()
            ),
        );
        let warnings: [(&[TopicPartition], &str); 5] = [
            (&offline, "without a leader now"),
            (&under, "under-replicated now: wait until their ISRs are whole"),
            (&alone, "in sync on this broker alone: a stop takes them offline"),
            (&short, "below min.insync.replicas without this broker: acks=all fails while it is away"),
            (&moving, "being reassigned: wait for the end"),
        ];
        for (partitions, what) in warnings {
            if !partitions.is_empty() {
                let text = format!("{} partition(s) {what}: {}", partitions.len(), few(partitions));
                self.report.warn(ABOUT, text);
            }
        }
        Ok(())
    }
}
