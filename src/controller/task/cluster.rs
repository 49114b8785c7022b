//! The controller's reads and writes of ZooKeeper, in its own words.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use log::{error, info, warn};
use odradek_zookeeper::brokers::RegisteredBroker;
use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::fenced::Fenced;
use odradek_zookeeper::session::{CreateKind, Stat, Versioned};
use odradek_zookeeper::znode;
use odradek_zookeeper::znode::config::ConfigEntity;
use odradek_zookeeper::znode::feature::{Feature, FeatureJson, Status};
use odradek_zookeeper::znode::partition_state::{self, PartitionState};
use odradek_zookeeper::znode::topic::{PartitionAssignment, Topic};

use crate::config::listeners::SecurityProtocol;
use crate::config::sections::ControllerConfig;
use crate::controller::active::{LeadershipWrite, TopicFound, TopicRead, WriteOutcome};
use crate::controller::state::{Assignment, Broker, LeaderAndIsr};
use crate::model::endpoint::Endpoint;
use crate::model::{BrokerEpoch, BrokerId, ControllerEpoch, LeaderEpoch, PartitionEpoch, TopicId, TopicPartition};

const UNCLEAN_LEADER_ELECTION_ENABLE: &str = "unclean.leader.election.enable";
const RECOVERING: i32 = 1;

pub struct ClusterState {
    fenced: Fenced,
    config: ControllerConfig,
}

/// `None` for a payload that cannot be understood, which is logged: one bad znode must not stop the cluster.
pub fn topic_read(name: &Arc<str>, data: Option<&(Vec<u8>, Stat)>) -> Option<TopicRead> {
    let found = match data.map(|(data, stat)| Topic::decode(name, data).map(|topic| (topic, stat.version))) {
        None => None,
        Some(Err(error)) => {
            error!("topic {name} is ignored until its znode is repaired: {error}");
            return None;
        }
        Some(Ok((topic, version))) => {
            let id = match topic.topic_id.as_deref().map(str::parse::<TopicId>) {
                Some(Err(error)) => {
                    error!("topic {name} is ignored until its znode is repaired: {error}");
                    return None;
                }
                Some(Ok(id)) => Some(id),
                None => None,
            };
            let partitions = topic.partitions.into_iter().map(|(id, replicas)| (id, assignment(replicas))).collect();
            Some(TopicFound { id, partitions, version })
        }
    };
    Some(TopicRead { name: Arc::clone(name), found, fresh_id: TopicId::random() })
}

fn brokers(ids: Vec<i32>) -> Vec<BrokerId> {
    ids.into_iter().map(BrokerId).collect()
}

fn ids(brokers: &[BrokerId]) -> Vec<i32> {
    brokers.iter().map(|broker| broker.0).collect()
}

fn assignment(from: PartitionAssignment) -> Assignment {
    Assignment {
        replicas: brokers(from.replicas),
        adding: brokers(from.adding_replicas),
        removing: brokers(from.removing_replicas),
    }
}

fn leadership(state: Versioned<PartitionState>) -> LeaderAndIsr {
    LeaderAndIsr {
        leader: Some(BrokerId(state.value.leader)).filter(|leader| leader.0 >= 0),
        leader_epoch: LeaderEpoch(state.value.leader_epoch),
        isr: brokers(state.value.isr),
        recovering: state.value.leader_recovery_state == RECOVERING,
        controller_epoch: ControllerEpoch(state.value.controller_epoch),
        partition_epoch: PartitionEpoch(state.version),
    }
}

fn partition_state(leadership: &LeaderAndIsr) -> PartitionState {
    PartitionState {
        controller_epoch: leadership.controller_epoch.0,
        leader: leadership.leader.map_or(-1, |leader| leader.0),
        leader_epoch: leadership.leader_epoch.0,
        isr: ids(&leadership.isr),
        leader_recovery_state: if leadership.recovering { RECOVERING } else { 0 },
    }
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
    }
}

/// Fails when a registration cannot be read: that broker must not be taken for dead.
fn live(read: Vec<Result<Option<RegisteredBroker>, ZkError>>) -> Result<Vec<Broker>, ZkError> {
    let mut live = Vec::new();
    for read in read {
        match read {
            Ok(registered) => live.extend(registered.map(broker)),
            Err(ZkError::Malformed(error)) => error!("a broker is taken for dead until it registers anew: {error}"),
            Err(error) => return Err(error),
        }
    }
    Ok(live)
}

/// Errors that end the office; the others concern one znode.
fn is_fatal(error: &ZkError) -> bool {
    matches!(error, ZkError::ControllerMoved { .. } | ZkError::SessionExpired | ZkError::AuthFailed | ZkError::Closed)
}

/// Passes on what ends the office; logs the rest.
fn logged<T>(doing: &str, outcome: Result<T, ZkError>) -> Result<Option<T>, ZkError> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_fatal(&error) => Err(error),
        Err(error) => {
            error!("{doing}: {error}");
            Ok(None)
        }
    }
}

impl ClusterState {
    pub fn new(fenced: Fenced, config: ControllerConfig) -> ClusterState {
        ClusterState { fenced, config }
    }

    pub fn epoch_zk_version(&self) -> i32 {
        self.fenced.epoch_zk_version()
    }

    /// `/feature` says whether feature versioning is on, which follows from the inter-broker protocol.
    pub async fn set_up_features(&self) -> Result<(), ZkError> {
        let protocol = self.config.inter_broker_protocol_version;
        let version = if protocol.feature_znode_version() == 2 { FeatureJson::V2 } else { FeatureJson::V1 };
        let current = match self.fenced.zk().feature().await {
            Ok(current) => current.map(|current| current.value),
            Err(ZkError::Malformed(error)) => {
                error!("{error}; it is left as it is");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let wanted = if protocol.is_feature_versioning_supported() {
            let features = match &current {
                Some(Feature { status: Status::Enabled, features, .. }) => features.clone(),
                _ => BTreeMap::new(),
            };
            Feature { version, status: Status::Enabled, features }
        } else {
            Feature { version, status: Status::Disabled, features: BTreeMap::new() }
        };
        if current.as_ref() == Some(&wanted) {
            return Ok(());
        }
        info!("writing {} with contents {wanted:?}", znode::feature::PATH);
        self.fenced.zk().set_feature(&wanted).await
    }

    /// A new controller reads everything anyway.
    pub async fn delete_notifications(&self) -> Result<(), ZkError> {
        for root in [znode::log_dir_event::ROOT, znode::isr_change::ROOT] {
            let children = self.fenced.zk().children(root).await?;
            self.delete_children(root, &children).await?;
        }
        Ok(())
    }

    pub async fn delete_children(&self, root: &str, children: &[String]) -> Result<(), ZkError> {
        let deleted = self.fenced.zk().pipelined(children, |child| {
            let path = format!("{root}/{child}");
            Box::pin(async move { self.fenced.delete(&path, -1).await })
        });
        for outcome in deleted.await {
            logged("deleting a notification", outcome)?;
        }
        Ok(())
    }

    /// All live brokers; a registration that cannot be understood is logged and left out.
    pub async fn brokers(&self) -> Result<Vec<Broker>, ZkError> {
        let zk = self.fenced.zk();
        let ids = zk.broker_ids().await?;
        live(zk.pipelined(ids, |id| Box::pin(zk.broker(id))).await)
    }

    /// Leaderships of all partitions of the topics that have one.
    pub async fn leaderships(&self, topics: &[TopicRead]) -> Result<Vec<(TopicPartition, LeaderAndIsr)>, ZkError> {
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

    async fn leaderships_of(&self, names: Vec<TopicPartition>) -> Result<Vec<(TopicPartition, LeaderAndIsr)>, ZkError> {
        let asked: Vec<(&str, i32)> = names.iter().map(|name| (&*name.topic, name.partition)).collect();
        let states = self.fenced.zk().partition_states(asked).await;
        let mut found = Vec::new();
        for (name, state) in names.into_iter().zip(states) {
            if let Some(Some(state)) = logged("a partition is taken for new", state)? {
                found.push((name, leadership(state)));
            }
        }
        Ok(found)
    }

    pub async fn write_topic(&self, name: &str, id: TopicId, found: &TopicFound) -> Result<(), ZkError> {
        let partitions = found.partitions.iter().map(|(partition, assignment)| {
            let assignment = PartitionAssignment {
                replicas: ids(&assignment.replicas),
                adding_replicas: ids(&assignment.adding),
                removing_replicas: ids(&assignment.removing),
            };
            (*partition, assignment)
        });
        let topic = Topic { topic_id: Some(id.to_string()), partitions: partitions.collect() };
        let written = self.fenced.set(&znode::topic::path(name), &topic.encode(), found.version).await;
        if let Err(ZkError::BadVersion { path }) = &written {
            info!("{path} was written meanwhile and is read again");
            return Ok(());
        }
        logged(&format!("giving topic {name} the id {id}"), written).map(|_| ())
    }

    /// Three rounds for new partitions, since each level has to exist before the next; one for the others.
    pub async fn write_leaderships(
        &self,
        writes: Vec<LeadershipWrite>,
    ) -> Result<Vec<(TopicPartition, WriteOutcome)>, ZkError> {
        let new: Vec<&TopicPartition> =
            writes.iter().filter(|write| write.is_new).map(|write| &write.partition).collect();
        let topics: BTreeSet<&str> = new.iter().map(|partition| &*partition.topic).collect();
        let parents = topics.into_iter().map(partition_state::partitions_path).collect();
        self.create_parents(parents).await?;
        let parents = new.iter().map(|name| partition_state::partition_path(&name.topic, name.partition)).collect();
        self.create_parents(parents).await?;

        let zk = self.fenced.zk();
        let written = zk.pipelined(writes, |write| {
            Box::pin(async move {
                let outcome = self.write_leadership(&write).await;
                (write.partition, outcome)
            })
        });
        written.await.into_iter().map(|(partition, outcome)| Ok((partition, outcome?))).collect()
    }

    async fn create_parents(&self, paths: Vec<String>) -> Result<(), ZkError> {
        let created = self.fenced.zk().pipelined(paths, |path| {
            Box::pin(async move {
                match self.fenced.create(&path, b"", CreateKind::Persistent).await {
                    Ok(_) | Err(ZkError::NodeExists { .. }) => Ok(()),
                    Err(error) => Err(error),
                }
            })
        });
        for outcome in created.await {
            // What is missing shows in the next level.
            logged("creating the parent of a partition state", outcome)?;
        }
        Ok(())
    }

    async fn write_leadership(&self, write: &LeadershipWrite) -> Result<WriteOutcome, ZkError> {
        let TopicPartition { topic, partition } = &write.partition;
        let path = partition_state::path(topic, *partition);
        let state = partition_state(&write.leadership);
        let written = match write.is_new {
            true => self.fenced.create(&path, &state.encode(), CreateKind::Persistent).await.map(|_| 0),
            false => {
                let expected = write.leadership.partition_epoch.0;
                self.fenced.set(&path, &state.encode(), expected).await.map(|stat| stat.version)
            }
        };
        match written {
            Ok(version) => Ok(WriteOutcome::Written(PartitionEpoch(version))),
            Err(error) if is_fatal(&error) => Err(error),
            Err(ZkError::BadVersion { .. } | ZkError::NodeExists { .. }) => {
                match self.fenced.zk().partition_state(topic, *partition).await {
                    // The reply to this very write was lost.
                    Ok(Some(current)) if current.value == state => {
                        Ok(WriteOutcome::Written(PartitionEpoch(current.version)))
                    }
                    Ok(current) => Ok(WriteOutcome::Conflict(current.map(leadership))),
                    Err(error) if is_fatal(&error) => Err(error),
                    Err(error) => Ok(WriteOutcome::Failed(error.to_string())),
                }
            }
            Err(error) => Ok(WriteOutcome::Failed(error.to_string())),
        }
    }

    /// Those of the topics that allow unclean elections, by their own setting or the broker's.
    pub async fn unclean_election_allowed(&self, topics: &BTreeSet<Arc<str>>) -> Result<BTreeSet<Arc<str>>, ZkError> {
        let zk = self.fenced.zk();
        let read = zk.pipelined(topics, |topic| {
            Box::pin(async move { (topic, zk.config(&ConfigEntity::Topic(topic.to_string())).await) })
        });
        let mut allowed = BTreeSet::new();
        for (topic, config) in read.await {
            let config = logged("a topic's configuration is taken for empty", config)?.unwrap_or_default();
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

    /// The marker goes last: as long as it is there, the deletion is repeated.
    pub async fn delete_topic(&self, name: &str) -> Result<(), ZkError> {
        self.fenced.delete_recursive(&znode::topic::path(name)).await?;
        self.fenced.delete_recursive(&ConfigEntity::Topic(name.to_owned()).path()).await?;
        self.fenced.delete(&znode::delete_topic::path(name), -1).await.map(|_| ())
    }

    pub async fn delete_markers(&self, topics: &[String]) -> Result<(), ZkError> {
        self.delete_children(znode::delete_topic::ROOT, topics).await
    }

    /// The brokers that lost a log directory.
    pub async fn log_dir_events(&self, children: &[String]) -> Result<BTreeSet<BrokerId>, ZkError> {
        let mut brokers = BTreeSet::new();
        for (path, data) in self.notifications(znode::log_dir_event::ROOT, children).await? {
            let event = znode::log_dir_event::decode(&path, &data).map_err(ZkError::from);
            brokers.extend(logged("a notification is ignored", event)?.map(BrokerId));
        }
        Ok(brokers)
    }

    /// The leaderships that leaders wrote themselves, as they are now.
    pub async fn isr_changes(&self, children: &[String]) -> Result<Vec<(TopicPartition, LeaderAndIsr)>, ZkError> {
        let mut partitions = BTreeSet::new();
        for (path, data) in self.notifications(znode::isr_change::ROOT, children).await? {
            let change = znode::isr_change::decode(&path, &data).map_err(ZkError::from);
            for (topic, partition) in logged("a notification is ignored", change)?.unwrap_or_default() {
                partitions.insert(TopicPartition::new(topic, partition));
            }
        }
        self.leaderships_of(partitions.into_iter().collect()).await
    }

    async fn notifications(&self, root: &str, children: &[String]) -> Result<Vec<(String, Vec<u8>)>, ZkError> {
        let zk = self.fenced.zk();
        let read = zk.pipelined(children, |child| {
            let path = format!("{root}/{child}");
            Box::pin(async move {
                let data = zk.get(&path).await;
                (path, data)
            })
        });
        let mut found = Vec::new();
        for (path, data) in read.await {
            if let Some((data, _)) = data? {
                found.push((path, data));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use odradek_zookeeper::error::ZnodeError;

    use super::*;

    fn registered(id: i32) -> RegisteredBroker {
        let broker = znode::broker::Broker {
            id,
            endpoints: Vec::new(),
            rack: None,
            jmx_port: -1,
            timestamp_ms: 0,
            features: BTreeMap::new(),
        };
        RegisteredBroker { broker, epoch: 7 }
    }

    #[test]
    fn only_a_broker_without_a_registration_or_with_a_malformed_one_is_taken_for_dead() {
        let malformed = ZnodeError { path: "/brokers/ids/2".to_owned(), reason: "junk".to_owned() };
        let read = vec![Ok(Some(registered(1))), Err(malformed.into()), Ok(None), Ok(Some(registered(4)))];
        let ids: Vec<i32> = live(read).expect("each was read").iter().map(|broker| broker.id.0).collect();
        assert_eq!(ids, [1, 4]);

        let refused = ZkError::Other { path: "/brokers/ids/2".to_owned(), reason: "not authorized".to_owned() };
        for error in [refused, ZkError::SessionExpired] {
            let read = vec![Ok(Some(registered(1))), Err(error.clone()), Ok(Some(registered(3)))];
            assert_eq!(live(read), Err(error));
        }
    }
}
