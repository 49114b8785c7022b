//! Which partitions this broker hosts. Readers take no lock: the map is replaced by another under the control lock, which
//! shares with it the topics that do not change.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rpds::HashTrieMapSync;

use crate::log::Log;
use crate::metadata::image::{LEADER_DURING_DELETE, TopicUpdate};
use crate::model::{BrokerId, TOPIC_NAME_BYTES_MAX, TopicPartition};
use crate::replica::partition::{Elsewhere, Partition};
use crate::replica::partition_log::PartitionLog;

type Partitions<L> = BTreeMap<i32, Arc<Partition<L>>>;
type Topics<L> = HashTrieMapSync<Arc<str>, Arc<Partitions<L>>>;

pub struct Hosted<L = Log> {
    topics: ArcSwap<Topics<L>>,
}

impl<L> Default for Hosted<L> {
    fn default() -> Hosted<L> {
        Hosted { topics: ArcSwap::default() }
    }
}

impl<L: PartitionLog> Hosted<L> {
    /// Looks up by borrowed name: no allocation on the way of a produce.
    pub fn get(&self, topic: &str, partition: i32) -> Option<Arc<Partition<L>>> {
        if topic.len() > TOPIC_NAME_BYTES_MAX {
            return None;
        }
        self.topics.load().get(topic).and_then(|partitions| partitions.get(&partition)).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Partition<L>>> {
        self.topics.load().values().flat_map(|partitions| partitions.values().cloned()).collect()
    }

    pub fn of_topic(&self, topic: &str) -> Vec<Arc<Partition<L>>> {
        self.topics.load().get(topic).map(|partitions| partitions.values().cloned().collect()).unwrap_or_default()
    }

    /// What is hosted here although the controller tells that others are the replicas, and that another leads if anybody does.
    /// The request that stops it is on its way, or was lost with an earlier controller, and no other will come.
    pub fn elsewhere(&self, told: &[TopicUpdate], local: BrokerId) -> Vec<(Arc<Partition<L>>, Elsewhere)> {
        let topics = self.topics.load();
        let mut elsewhere = Vec::new();
        for told in told {
            let Some(hosted) = topics.get(&told.name) else { continue };
            let others =
                told.partitions.iter().filter(|told| told.leader != local && !told.assignment.contains(&local));
            elsewhere.extend(others.filter_map(|other| {
                let is_deleted = other.leader == LEADER_DURING_DELETE;
                let told = Elsewhere { topic_id: told.id, leader_epoch: other.leader_epoch, is_deleted };
                Some((Arc::clone(hosted.get(&other.partition)?), told))
            }));
        }
        elsewhere
    }

    /// Adds partitions. The caller holds the control lock.
    pub fn insert(&self, added: Vec<Arc<Partition<L>>>) {
        if added.is_empty() {
            return;
        }
        let mut topics = Topics::clone(&self.topics.load());
        for partition in added {
            let TopicPartition { topic, partition: number } = partition.name().clone();
            match topics.get_mut(&topic) {
                Some(partitions) => drop(Arc::make_mut(partitions).insert(number, partition)),
                None => topics.insert_mut(topic, Arc::new(Partitions::from([(number, partition)]))),
            }
        }
        self.topics.store(Arc::new(topics));
    }

    /// Takes partitions away. The caller holds the control lock.
    pub fn remove(&self, gone: &[TopicPartition]) {
        if gone.is_empty() {
            return;
        }
        let mut topics = Topics::clone(&self.topics.load());
        for name in gone {
            let Some(partitions) = topics.get_mut(&name.topic) else { continue };
            Arc::make_mut(partitions).remove(&name.partition);
            if partitions.is_empty() {
                topics.remove_mut(&name.topic);
            }
        }
        self.topics.store(Arc::new(topics));
    }
}
