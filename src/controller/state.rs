//! What an active controller knows: brokers, topics, and who leads what.
//!
//! The states of Kafka's two state machines are derived instead of stored, so none can be wrong:
//!
//! | partition      | when                                   | replica            | when                                |
//! |----------------|----------------------------------------|--------------------|-------------------------------------|
//! | New            | it never had a leader                  | Online             | its broker and directory are online |
//! | Online         | its leader is online, or about to leave | Offline           | otherwise                           |
//! | Offline        | it has no leader, or an offline one    | Deletion…          | its topic is being deleted          |
//! | NonExistent    | its topic's deletion has started       |                    |                                     |
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::metadata::features::SupportedFeatures;
use crate::model::endpoint::{self, Endpoint};
use crate::model::{BrokerEpoch, BrokerId, ControllerEpoch, LeaderEpoch, PartitionEpoch, TopicId, TopicPartition};

/// Where a live broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    pub id: BrokerId,
    pub epoch: BrokerEpoch,
    pub endpoints: Vec<Endpoint>,
    pub rack: Option<String>,
    /// Of a JVM broker in ZooKeeper mode, none.
    pub features: SupportedFeatures,
}

impl Broker {
    pub fn endpoint(&self, listener: &str) -> Option<&Endpoint> {
        endpoint::of_listener(&self.endpoints, listener)
    }
}

/// Who leads a partition, as its state znode says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderAndIsr {
    pub leader: Option<BrokerId>,
    pub leader_epoch: LeaderEpoch,
    pub isr: Vec<BrokerId>,
    /// The leader was elected unclean and has not yet recovered.
    pub recovering: bool,
    /// The controller that wrote it.
    pub controller_epoch: ControllerEpoch,
    pub partition_epoch: PartitionEpoch,
}

/// All replicas of a partition; while a reassignment runs, which of them come and go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    pub replicas: Vec<BrokerId>,
    pub adding: Vec<BrokerId>,
    pub removing: Vec<BrokerId>,
}

impl Assignment {
    pub fn is_being_reassigned(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// The replicas that there will be.
    pub fn target(&self) -> Vec<BrokerId> {
        self.replicas.iter().filter(|replica| !self.removing.contains(replica)).copied().collect()
    }

    /// The replicas that there were before.
    pub fn origin(&self) -> Vec<BrokerId> {
        self.replicas.iter().filter(|replica| !self.adding.contains(replica)).copied().collect()
    }

    /// A move to these replicas, from where the partition was before any move that is under way.
    /// Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/controller/ControllerContext.scala (ReplicaAssignment.reassignTo).
    pub fn reassigned_to(&self, target: &[BrokerId]) -> Assignment {
        let origin = self.origin();
        let mut replicas: Vec<BrokerId> = Vec::with_capacity(target.len() + origin.len());
        for replica in target.iter().chain(&origin) {
            if !replicas.contains(replica) {
                replicas.push(*replica);
            }
        }
        let without = |others: &[BrokerId]| replicas.iter().filter(|id| !others.contains(id)).copied().collect();
        let (adding, removing) = (without(&origin), without(target));
        Assignment { replicas, adding, removing }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub assignment: Assignment,
    /// `None` until the first leader is chosen.
    pub leadership: Option<LeaderAndIsr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionState {
    New,
    Online,
    Offline,
    NonExistent,
}

/// What can be expected of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    Online,
    /// Its broker has asked to leave: it still serves, but is elected no more and counts as in sync no more.
    Leaving,
    /// Its broker is gone, or its log directory has failed.
    Offline,
}

/// How far the deletion of one replica has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaDeletion {
    Started,
    Successful,
    /// The replica is offline or its broker refused; it is tried again when something changes.
    Ineligible,
}

/// A topic that is queued for deletion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deletion {
    /// Brokers have been told to forget the topic's metadata.
    pub started: bool,
    /// Halted until a broker comes back.
    pub ineligible: bool,
    pub replicas: BTreeMap<(i32, BrokerId), ReplicaDeletion>,
    /// Its znodes are being deleted.
    pub znodes_go: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: Arc<str>,
    /// Zero while it has none.
    pub id: TopicId,
    pub partitions: BTreeMap<i32, Partition>,
    /// Of its znode, as far as is known.
    pub version: i32,
    pub deletion: Option<Deletion>,
}

impl Topic {
    /// Each partition with its name.
    pub fn named(&self) -> impl Iterator<Item = (TopicPartition, &Partition)> {
        self.partitions
            .iter()
            .map(|(id, partition)| (TopicPartition { topic: Arc::clone(&self.name), partition: *id }, partition))
    }
}

/// The cluster as the controller sees it.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    pub brokers: BTreeMap<BrokerId, Broker>,
    /// Live brokers that are about to leave; they are told things, but elected no more.
    pub shutting_down: BTreeSet<BrokerId>,
    /// Replicas whose log directory failed.
    pub offline_dirs: BTreeMap<BrokerId, BTreeSet<TopicPartition>>,
    /// Ids and removals go through [`Cluster::identify`] and [`Cluster::forget`].
    pub topics: BTreeMap<Arc<str>, Topic>,
    /// Of the topics that have an id.
    names: BTreeMap<TopicId, Arc<str>>,
}

impl Cluster {
    pub fn topic_name(&self, id: TopicId) -> Option<&Arc<str>> {
        self.names.get(&id)
    }

    /// Gives the topic the id, if it has none.
    pub fn identify(&mut self, topic: &str, id: TopicId) {
        if let Some(topic) = self.topics.get_mut(topic).filter(|topic| topic.id.is_zero() && !id.is_zero()) {
            topic.id = id;
            self.names.insert(id, Arc::clone(&topic.name));
        }
    }

    pub fn forget(&mut self, topic: &str) {
        if let Some(topic) = self.topics.remove(topic) {
            // Only if it is still this topic's: nobody gives an id twice, but whoever writes znodes by hand may.
            if self.names.get(&topic.id) == Some(&topic.name) {
                self.names.remove(&topic.id);
            }
        }
        for offline in self.offline_dirs.values_mut() {
            offline.retain(|partition| &*partition.topic != topic);
        }
    }

    pub fn liveness(&self, partition: &TopicPartition, broker: BrokerId) -> Liveness {
        let is_dir_offline = self.offline_dirs.get(&broker).is_some_and(|offline| offline.contains(partition));
        if is_dir_offline || !self.brokers.contains_key(&broker) {
            Liveness::Offline
        } else if self.is_electable(broker) {
            Liveness::Online
        } else {
            Liveness::Leaving
        }
    }

    /// Live, and not about to leave.
    pub fn is_electable(&self, broker: BrokerId) -> bool {
        self.brokers.contains_key(&broker) && !self.shutting_down.contains(&broker)
    }

    pub fn is_replica_online(&self, partition: &TopicPartition, broker: BrokerId) -> bool {
        self.liveness(partition, broker) == Liveness::Online
    }

    pub fn partition(&self, partition: &TopicPartition) -> Option<&Partition> {
        self.topics.get(&partition.topic)?.partitions.get(&partition.partition)
    }

    /// Whether the broker is to host a replica of it.
    pub fn is_replica(&self, broker: BrokerId, partition: &TopicPartition) -> bool {
        self.partition(partition).is_some_and(|known| known.assignment.replicas.contains(&broker))
    }

    pub fn partition_mut(&mut self, partition: &TopicPartition) -> Option<&mut Partition> {
        self.topics.get_mut(&partition.topic)?.partitions.get_mut(&partition.partition)
    }

    pub fn is_queued_for_deletion(&self, topic: &str) -> bool {
        self.topics.get(topic).is_some_and(|topic| topic.deletion.is_some())
    }

    /// It is served no more. A deletion waits for the moves of its topic, so a partition that moves is served until it has
    /// moved: its new replicas could not be made whole otherwise, and neither move nor deletion would end.
    pub fn is_going(&self, partition: &TopicPartition) -> bool {
        self.is_queued_for_deletion(&partition.topic)
            && !self.partition(partition).is_some_and(|known| known.assignment.is_being_reassigned())
    }

    pub fn state(&self, partition: &TopicPartition) -> PartitionState {
        let Some(topic) = self.topics.get(&partition.topic) else { return PartitionState::NonExistent };
        if topic.deletion.as_ref().is_some_and(|deletion| deletion.started) {
            return PartitionState::NonExistent;
        }
        match topic.partitions.get(&partition.partition) {
            None => PartitionState::NonExistent,
            Some(Partition { leadership: None, .. }) => PartitionState::New,
            Some(Partition { leadership: Some(leadership), .. }) => match leadership.leader {
                Some(leader) if self.liveness(partition, leader) != Liveness::Offline => PartitionState::Online,
                _ => PartitionState::Offline,
            },
        }
    }

    pub fn partitions(&self) -> impl Iterator<Item = (TopicPartition, &Partition)> {
        self.topics.values().flat_map(Topic::named)
    }

    /// Partitions with a replica on any of the brokers, and those that one leads, or is in sync with, and is no replica of: a
    /// move that an earlier controller lost track of leaves such.
    /// Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/controller/ControllerContext.scala (partitionsWithOfflineLeader).
    pub fn partitions_on(&self, brokers: &BTreeSet<BrokerId>) -> Vec<TopicPartition> {
        let is_on = |partition: &Partition| {
            let leadership = partition.leadership.iter();
            let mut others = leadership.flat_map(|current| current.leader.iter().chain(&current.isr));
            partition.assignment.replicas.iter().any(|replica| brokers.contains(replica))
                || others.any(|member| brokers.contains(member))
        };
        self.partitions().filter(|(_, partition)| is_on(partition)).map(|(name, _)| name).collect()
    }
}
