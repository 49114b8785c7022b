//! The controller's reads and writes of ZooKeeper, in its own words.
use std::collections::BTreeSet;
use std::sync::Arc;

use log::{info, warn};
use odradek_zookeeper::brokers::RegisteredBroker;
use odradek_zookeeper::error::{ZkError, ZnodeError};
use odradek_zookeeper::fenced::{Committed, Fenced, Write};
use odradek_zookeeper::requests::Read;
use odradek_zookeeper::session::{Stat, ZooKeeper};
use odradek_zookeeper::znode;
use odradek_zookeeper::znode::config::ConfigEntity;
use odradek_zookeeper::znode::feature::{Feature, FeatureJson, Status};
use odradek_zookeeper::znode::topic::{PartitionAssignment, Topic};
use odradek_zookeeper::znode::{preferred_replica_election, reassign_partitions};

use crate::config::listeners::SecurityProtocol;
use crate::config::sections::ControllerConfig;
use crate::controller::active::{LeadershipRead, LeadershipWrite, TopicFound, TopicRead, WriteOutcome};
use crate::controller::features::{self, FeatureUpdate, FeaturesUpdated};
use crate::controller::reassignment::AssignmentOutcome;
use crate::controller::state::{Assignment, Broker, LeaderAndIsr};
use crate::controller::task::leaderships::{self, noted};
use crate::metadata::features::FeatureLevels;
use crate::model::endpoint::Endpoint;
use crate::model::{BrokerEpoch, BrokerId, TopicId, TopicPartition};

const UNCLEAN_LEADER_ELECTION_ENABLE: &str = "unclean.leader.election.enable";

pub struct ClusterState {
    fenced: Fenced,
    config: ControllerConfig,
}

/// `None` for a payload that cannot be understood, which is complained of: one bad znode must not stop the cluster.
pub fn topic_read(zk: &ZooKeeper, name: &Arc<str>, data: Option<&(Vec<u8>, Stat)>) -> Option<TopicRead> {
    let path = znode::topic::path(name);
    let found = data.map(|(data, stat)| topic_found(&path, name, data, stat.version)).transpose();
    match found {
        Ok(found) => {
            zk.mended(&path);
            Some(TopicRead { name: Arc::clone(name), found, fresh_id: TopicId::random() })
        }
        Err(error) => {
            let what = format!("topic {name} is ignored until its znode is repaired");
            zk.complain(&path, &what, &error.into());
            None
        }
    }
}

pub(crate) fn topic_found(path: &str, name: &str, data: &[u8], version: i32) -> Result<TopicFound, ZnodeError> {
    let topic = Topic::decode(name, data)?;
    let id = topic.topic_id.as_deref().map(str::parse::<TopicId>).transpose();
    let id = id.map_err(|error| ZnodeError { path: path.to_owned(), reason: error.to_string() })?;
    let partitions = topic.partitions.into_iter().map(|(id, replicas)| (id, assignment(replicas))).collect();
    Ok(TopicFound { id, partitions, version })
}

pub(super) fn brokers(ids: Vec<i32>) -> Vec<BrokerId> {
    ids.into_iter().map(BrokerId).collect()
}

pub(super) fn ids(brokers: &[BrokerId]) -> Vec<i32> {
    brokers.iter().map(|broker| broker.0).collect()
}

fn assignment(from: PartitionAssignment) -> Assignment {
    Assignment {
        replicas: brokers(from.replicas),
        adding: brokers(from.adding_replicas),
        removing: brokers(from.removing_replicas),
    }
}

pub(crate) fn topic(found: &TopicFound) -> Topic {
    let partitions = found.partitions.iter().map(|(partition, assignment)| {
        let assignment = PartitionAssignment {
            replicas: ids(&assignment.replicas),
            adding_replicas: ids(&assignment.adding),
            removing_replicas: ids(&assignment.removing),
        };
        (*partition, assignment)
    });
    Topic { topic_id: found.id.map(|id| id.to_string()), partitions: partitions.collect() }
}

fn broker(registered: RegisteredBroker) -> Broker {
    let endpoints = registered.broker.endpoints.into_iter().filter_map(|endpoint| {
        match endpoint.security_protocol.parse::<SecurityProtocol>() {
            Ok(protocol) => Some(Endpoint {
                listener: endpoint.listener,
                security_protocol: protocol.id(),
                host: endpoint.host,
                port: endpoint.port,
            }),
            Err(_) => {
                warn!(
                    "broker {} listens with an unknown protocol, {}",
                    registered.broker.id, endpoint.security_protocol
                );
                None
            }
        }
    });
    Broker {
        id: BrokerId(registered.broker.id),
        epoch: BrokerEpoch(registered.epoch),
        endpoints: endpoints.collect(),
        rack: registered.broker.rack,
        features: registered.broker.features,
    }
}

/// What counts of it: a node that is switched off finalizes nothing.
fn finalized(feature: &Feature) -> FeatureLevels {
    match feature.status {
        Status::Enabled => feature.features.clone(),
        Status::Disabled => FeatureLevels::new(),
    }
}

/// A registration as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerRead {
    Registered(Broker),
    Gone,
    /// Of the registration with this epoch, if that could be told.
    NotUnderstood {
        epoch: Option<BrokerEpoch>,
    },
}

impl ClusterState {
    pub fn new(fenced: Fenced, config: ControllerConfig) -> ClusterState {
        ClusterState { fenced, config }
    }

    pub fn configure(&mut self, config: ControllerConfig) {
        self.config = config;
    }

    pub fn zk(&self) -> &ZooKeeper {
        self.fenced.zk()
    }

    /// Passes on what ends the office; the rest concerns one znode and is complained of.
    fn noted<T>(&self, path: &str, what_follows: &str, outcome: Result<T, ZkError>) -> Result<Option<T>, ZkError> {
        noted(&self.fenced, path, what_follows, outcome)
    }

    pub fn epoch_zk_version(&self) -> i32 {
        self.fenced.epoch_zk_version()
    }

    fn feature_json(&self) -> FeatureJson {
        match self.config.inter_broker_protocol_version.feature_znode_version() {
            2 => FeatureJson::V2,
            _ => FeatureJson::V1,
        }
    }

    /// `/feature` says whether feature versioning is on, which follows from the inter-broker protocol. Gives what is
    /// finalized.
    pub async fn set_up_features(&self) -> Result<FeatureLevels, ZkError> {
        let version = self.feature_json();
        let path = znode::feature::PATH;
        let current = self.zk().feature().await;
        let Some(current) = self.noted(path, "the features of the cluster stay as they are", current)? else {
            return Ok(FeatureLevels::new());
        };
        let current = current.map(|current| current.value);
        let wanted = if self.config.inter_broker_protocol_version.is_feature_versioning_supported() {
            let features = current.as_ref().map(finalized).unwrap_or_default();
            Feature { version, status: Status::Enabled, features }
        } else {
            Feature { version, status: Status::Disabled, features: FeatureLevels::new() }
        };
        if current.as_ref() != Some(&wanted) {
            info!("writing {} with contents {wanted:?}", znode::feature::PATH);
            let written = self.fenced.set_feature(&wanted).await;
            self.noted(path, "the features of the cluster stay as they are", written)?;
        }
        Ok(wanted.features)
    }

    /// Finalizes features as far as all brokers support them; gives what came of it, and what is finalized then. `None` if
    /// ZooKeeper does not let it be written.
    pub async fn update_features(
        &self,
        updates: &[FeatureUpdate],
        validate_only: bool,
        brokers: &[Broker],
    ) -> Result<Option<(FeaturesUpdated, FeatureLevels)>, ZkError> {
        let path = znode::feature::PATH;
        let what = "the features of the cluster stay as they are";
        loop {
            let Some(current) = self.noted(path, what, self.zk().feature().await)? else { return Ok(None) };
            let existing = current.as_ref().map(|current| finalized(&current.value)).unwrap_or_default();
            let protocol = self.config.inter_broker_protocol_version;
            let (target, outcomes) = features::updated(&existing, updates, protocol, brokers);
            if target == existing || validate_only {
                return Ok(Some((FeaturesUpdated { outcomes, epoch: None }, existing)));
            }
            let wanted = Feature { version: self.feature_json(), status: Status::Enabled, features: target };
            info!("writing {path} with contents {wanted:?}");
            let written = match current {
                Some(current) => self.fenced.set(path, &wanted.encode(), current.version).await,
                None => self.fenced.create(path, &wanted.encode()).await.map(|()| 0),
            };
            // Somebody else was there in between.
            if matches!(written, Err(ZkError::BadVersion { .. } | ZkError::NoNode { .. } | ZkError::NodeExists { .. }))
            {
                continue;
            }
            let Some(epoch) = self.noted(path, what, written)? else { return Ok(None) };
            return Ok(Some((FeaturesUpdated { outcomes, epoch: Some(epoch) }, wanted.features)));
        }
    }

    /// A new controller reads everything anyway.
    pub async fn delete_notifications(&self) -> Result<(), ZkError> {
        for root in [znode::log_dir_event::ROOT, znode::isr_change::ROOT] {
            let children = self.zk().children(root).await?;
            self.delete_children(root, &children).await?;
        }
        Ok(())
    }

    pub async fn delete_children(&self, root: &str, children: &[String]) -> Result<(), ZkError> {
        let deletions: Vec<Vec<Write>> = children
            .iter()
            .map(|child| vec![Write::Delete { path: format!("{root}/{child}"), expected_version: -1 }])
            .collect();
        for (committed, deletion) in self.fenced.write_many(&deletions).await?.into_iter().zip(&deletions) {
            let path = deletion[0].path();
            match committed {
                Committed::Versions(_) | Committed::Refused { error: ZkError::NoNode { .. }, .. } => {
                    self.zk().mended(path);
                }
                Committed::Refused { error, .. } => {
                    self.zk().complain(path, "a notification cannot be deleted", &error)
                }
            }
        }
        Ok(())
    }

    /// What stands in a broker's registration; what cannot be understood is complained of.
    pub fn broker_read(&self, id: BrokerId, read: Read) -> BrokerRead {
        let path = znode::broker::path(id.0);
        let epoch = read.as_ref().ok().and_then(|read| read.as_ref().map(|(_, stat)| BrokerEpoch(stat.czxid)));
        let decoded = read.and_then(|read| match read {
            None => Ok(None),
            Some((data, stat)) => {
                let registered =
                    RegisteredBroker { broker: znode::broker::Broker::decode(id.0, &data)?, epoch: stat.czxid };
                Ok(Some(broker(registered)))
            }
        });
        match decoded {
            Ok(decoded) => {
                self.zk().mended(&path);
                decoded.map_or(BrokerRead::Gone, BrokerRead::Registered)
            }
            Err(error) => {
                self.zk().complain(&path, &format!("broker {id} is taken for what it last was"), &error);
                BrokerRead::NotUnderstood { epoch }
            }
        }
    }

    /// Leaderships of all partitions of the topics that have one.
    pub async fn leaderships(&self, topics: &[TopicRead]) -> Result<Vec<LeadershipRead>, ZkError> {
        let names: Vec<TopicPartition> = topics
            .iter()
            .filter_map(|topic| Some((&topic.name, topic.found.as_ref()?)))
            .flat_map(|(name, found)| {
                found
                    .partitions
                    .keys()
                    .map(|partition| TopicPartition { topic: Arc::clone(name), partition: *partition })
            })
            .collect();
        self.leaderships_of(names).await
    }

    async fn leaderships_of(&self, names: Vec<TopicPartition>) -> Result<Vec<LeadershipRead>, ZkError> {
        leaderships::read(&self.fenced, names).await
    }

    /// Writes topics, each unless it was written since the version that is known.
    pub async fn write_topics(
        &self,
        writes: Vec<(Arc<str>, TopicFound)>,
    ) -> Result<Vec<(Arc<str>, AssignmentOutcome)>, ZkError> {
        let write = |(name, found): &(Arc<str>, TopicFound)| {
            let (path, data) = (znode::topic::path(name), topic(found).encode());
            vec![Write::Set { path, data, expected_version: found.version }]
        };
        let groups: Vec<Vec<Write>> = writes.iter().map(write).collect();
        let committed = self.fenced.write_many(&groups).await?;
        let mut outcomes = Vec::with_capacity(writes.len());
        for ((name, wanted), committed) in writes.into_iter().zip(committed) {
            let path = znode::topic::path(&name);
            let error = match committed {
                Committed::Versions(versions) => {
                    self.zk().mended(&path);
                    outcomes.push((name, AssignmentOutcome::Written(versions.last().copied().unwrap_or(0))));
                    continue;
                }
                Committed::Refused { error, .. } => error,
            };
            let outcome = match error {
                ZkError::BadVersion { .. } => self.assignment_found(&name, &wanted).await?,
                error => {
                    self.zk().complain(&path, "a topic is not written", &error);
                    AssignmentOutcome::Failed
                }
            };
            outcomes.push((name, outcome));
        }
        Ok(outcomes)
    }

    /// What stands in a topic that could not be written.
    async fn assignment_found(&self, name: &Arc<str>, wanted: &TopicFound) -> Result<AssignmentOutcome, ZkError> {
        let path = znode::topic::path(name);
        let read = self.noted(&path, "a topic is not written", self.zk().get(&path).await)?;
        let found =
            read.flatten().and_then(|data| topic_read(self.zk(), name, Some(&data))).and_then(|read| read.found);
        Ok(match found {
            // The reply to this very write was lost.
            Some(found) if found.partitions == wanted.partitions && found.id == wanted.id => {
                AssignmentOutcome::Written(found.version)
            }
            Some(found) => AssignmentOutcome::Conflict(found),
            None => AssignmentOutcome::Failed,
        })
    }

    /// Strikes partitions out of `/admin/reassign_partitions` that are to go to these replicas, or wherever they are to
    /// go. The znode goes with the last.
    pub async fn forget_reassignments(
        &self,
        struck: &[(TopicPartition, Option<Vec<BrokerId>>)],
    ) -> Result<(), ZkError> {
        let path = reassign_partitions::PATH;
        let what = "partitions are not struck out of it";
        loop {
            let Some(Some((data, stat))) = self.noted(path, what, self.zk().get(path).await)? else { return Ok(()) };
            // What nobody can read asks for nothing.
            let mut wanted = reassign_partitions::decode(&data).unwrap_or_default();
            let before = wanted.len();
            for (TopicPartition { topic, partition }, to) in struck {
                let name = (topic.to_string(), *partition);
                if to.as_ref().is_none_or(|to| wanted.get(&name) == Some(&ids(to))) {
                    wanted.remove(&name);
                }
            }
            let written = match wanted.is_empty() {
                true => self.fenced.delete(path, stat.version).await.map(|_| ()),
                false if wanted.len() == before => return Ok(()),
                false => self.fenced.set(path, &reassign_partitions::encode(&wanted), stat.version).await.map(|_| ()),
            };
            // More may be asked for there by now.
            if !matches!(written, Err(ZkError::BadVersion { .. } | ZkError::NoNode { .. })) {
                return self.noted(path, what, written).map(|_| ());
            }
        }
    }

    /// What stands in a znode by which tools ask for something, and the znode's version. One that nobody can understand
    /// is removed, so that the next is heard of.
    async fn wish<T>(
        &self,
        path: &str,
        decode: impl FnOnce(&[u8]) -> Result<T, ZnodeError> + Send,
    ) -> Result<Option<(T, i32)>, ZkError> {
        let what = "nothing is done of what it asks for";
        let Some(Some((data, stat))) = self.noted(path, what, self.zk().get(path).await)? else { return Ok(None) };
        match decode(&data) {
            Ok(wish) => Ok(Some((wish, stat.version))),
            Err(error) => {
                self.zk().complain(path, "it is removed", &error.into());
                self.remove(path, stat.version).await?;
                Ok(None)
            }
        }
    }

    /// The partitions that `/admin/reassign_partitions` names, and their replicas to be.
    pub async fn reassignments_requested(&self) -> Result<Vec<(TopicPartition, Vec<BrokerId>)>, ZkError> {
        let wish = self.wish(reassign_partitions::PATH, reassign_partitions::decode).await?;
        let wanted = wish.into_iter().flat_map(|(wanted, _)| wanted);
        let named = |((topic, partition), to)| (TopicPartition::new(topic, partition), brokers(to));
        Ok(wanted.map(named).collect())
    }

    /// The partitions that `/admin/preferred_replica_election` names, and its version.
    pub async fn preferred_election_requested(&self) -> Result<Option<(Vec<TopicPartition>, i32)>, ZkError> {
        let wish = self.wish(preferred_replica_election::PATH, preferred_replica_election::decode).await?;
        let named = |(topic, partition)| TopicPartition::new(topic, partition);
        Ok(wish.map(|(asked, version)| (asked.into_iter().map(named).collect(), version)))
    }

    /// The next block of producer ids: its first, and how many there are. `None` when something is in the way.
    pub async fn allocate_producer_ids(&self, broker: BrokerId) -> Result<Option<(i64, i32)>, ZkError> {
        let path = znode::producer_id_block::PATH;
        let what = format!("broker {broker} gets no producer ids");
        let block = self.noted(path, &what, self.zk().allocate_producer_id_block(broker.0).await)?;
        let count = |first: i64, last: i64| i32::try_from(last - first + 1).unwrap_or(i32::MAX);
        Ok(block.map(|block| (block.block_start, count(block.block_start, block.block_end))))
    }

    /// Removes a znode by which tools ask for something, unless it asks for something else by now, as its watch tells.
    pub async fn remove(&self, path: &str, version: i32) -> Result<(), ZkError> {
        match self.fenced.delete(path, version).await {
            Err(ZkError::BadVersion { .. }) => Ok(()),
            removed => self.noted(path, "it is not removed", removed).map(|_| ()),
        }
    }

    pub async fn write_leaderships(
        &self,
        writes: Vec<LeadershipWrite>,
    ) -> Result<Vec<(TopicPartition, WriteOutcome)>, ZkError> {
        leaderships::write(&self.fenced, writes).await
    }

    /// Those of the topics that allow unclean elections, by their own setting or the broker's.
    pub async fn unclean_election_allowed(&self, topics: &BTreeSet<Arc<str>>) -> Result<BTreeSet<Arc<str>>, ZkError> {
        let entities: Vec<ConfigEntity> = topics.iter().map(|topic| ConfigEntity::Topic(topic.to_string())).collect();
        let read = self.zk().configs(&entities).await;
        let mut allowed = BTreeSet::new();
        for ((topic, entity), config) in topics.iter().zip(&entities).zip(read) {
            // The broker's setting may allow what an override that nobody can read forbids.
            let what = "a topic gets no leader from outside its ISR";
            let Some(config) = self.noted(&entity.path(), what, config)? else { continue };
            let is_allowed = match config.get(UNCLEAN_LEADER_ELECTION_ENABLE) {
                Some(value) => value.trim().eq_ignore_ascii_case("true"),
                None => self.config.unclean_leader_election_enable,
            };
            if is_allowed {
                allowed.insert(Arc::clone(topic));
            }
        }
        Ok(allowed)
    }

    /// The marker goes last: as long as it is there, the deletion is repeated. `None` when something is in the way.
    pub async fn delete_topic(&self, name: &str) -> Result<Option<()>, ZkError> {
        let path = znode::topic::path(name);
        let deleted = async {
            self.fenced.delete_recursive(&path).await?;
            self.fenced.delete_recursive(&ConfigEntity::Topic(name.to_owned()).path()).await?;
            self.fenced.delete(&znode::delete_topic::path(name), -1).await.map(|_| ())
        };
        self.noted(&path, "a topic is not deleted yet", deleted.await)
    }

    pub async fn delete_markers(&self, topics: &[String]) -> Result<(), ZkError> {
        self.delete_children(znode::delete_topic::ROOT, topics).await
    }

    /// The brokers that lost a log directory.
    pub async fn log_dir_events(&self, children: &[String]) -> Result<BTreeSet<BrokerId>, ZkError> {
        let mut brokers = BTreeSet::new();
        for (path, data) in self.notifications(znode::log_dir_event::ROOT, children).await? {
            let event = znode::log_dir_event::decode(&path, &data).map_err(ZkError::from);
            brokers.extend(self.noted(&path, "a notification is ignored", event)?.map(BrokerId));
        }
        Ok(brokers)
    }

    /// The leaderships that leaders wrote themselves, as they are now.
    pub async fn isr_changes(&self, children: &[String]) -> Result<Vec<(TopicPartition, LeaderAndIsr)>, ZkError> {
        let mut partitions = BTreeSet::new();
        for (path, data) in self.notifications(znode::isr_change::ROOT, children).await? {
            let change = znode::isr_change::decode(&path, &data).map_err(ZkError::from);
            for (topic, partition) in self.noted(&path, "a notification is ignored", change)?.unwrap_or_default() {
                partitions.insert(TopicPartition::new(topic, partition));
            }
        }
        let read = self.leaderships_of(partitions.into_iter().collect()).await?;
        Ok(read.into_iter().map(|read| (read.partition, read.leadership)).collect())
    }

    async fn notifications(&self, root: &str, children: &[String]) -> Result<Vec<(String, Vec<u8>)>, ZkError> {
        let paths: Vec<String> = children.iter().map(|child| format!("{root}/{child}")).collect();
        let mut found = Vec::new();
        for (read, path) in self.zk().get_many(&paths).await.into_iter().zip(paths) {
            if let Some(Some((data, _))) = self.noted(&path, "a notification is ignored", read)? {
                found.push((path, data));
            }
        }
        Ok(found)
    }
}
