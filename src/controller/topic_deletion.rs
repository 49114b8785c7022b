//! Deleting topics: brokers forget the metadata, every replica is stopped and deleted, then the znodes go.
//! A replica that is offline halts its topic until its broker comes back or tells of its disks, so the deletion survives
//! any restart: the marker in `/admin/delete_topics` is the last to go.
//!
//! | replica    | StopReplica succeeded | StopReplica refused | broker lost | broker, or a disk, back |
//! |------------|-----------------------|---------------------|-------------|-------------------------|
//! | (none yet) | -                     | -                   | Ineligible  | told to delete          |
//! | Started    | Successful            | Ineligible          | Ineligible  | -                       |
//! | Ineligible | -                     | -                   | Ineligible  | told to delete          |
//! | Successful | -                     | -                   | Successful  | -                       |
//!
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/controller/TopicDeletionManager.scala.
use std::collections::BTreeSet;
use std::sync::Arc;

use log::info;

use crate::controller::active::{Action, Active, TopicRead, listed};
use crate::controller::state::{ReplicaDeletion, Topic};
use crate::model::{BrokerId, TopicPartition};

fn replicas(topic: &Topic) -> impl Iterator<Item = (TopicPartition, BrokerId)> {
    topic.partitions.iter().flat_map(|(id, partition)| {
        let name = TopicPartition { topic: Arc::clone(&topic.name), partition: *id };
        partition.assignment.replicas.iter().map(move |replica| (name.clone(), *replica))
    })
}

impl Active {
    pub(super) fn queue_deletions(&mut self, topics: Vec<Arc<str>>) {
        if !topics.is_empty() {
            info!("starting deletion of topics: {}", listed(&topics));
            self.resume_deletions();
        }
    }

    /// Starts, repeats or completes every deletion that can go on.
    pub(super) fn resume_deletions(&mut self) {
        let mut due = Vec::new();
        let mut without_replicas = Vec::new();
        for (name, topic) in &self.cluster.topics {
            let Some(deletion) = &topic.deletion else { continue };
            if self.reassignments.is_moving(name) {
                continue;
            }
            let state = |partition: &TopicPartition, broker| deletion.replicas.get(&(partition.partition, broker));
            if replicas(topic).all(|(name, broker)| state(&name, broker) == Some(&ReplicaDeletion::Successful)) {
                if !self.undeleted.contains(name) {
                    without_replicas.push(Arc::clone(name));
                }
                continue;
            }
            let in_progress = deletion.replicas.values().any(|state| *state == ReplicaDeletion::Started);
            if !deletion.ineligible && !in_progress {
                due.push(Arc::clone(name));
            }
        }
        for name in without_replicas {
            let topic = self.cluster.topics.get_mut(&name);
            let Some(deletion) = topic.and_then(|topic| topic.deletion.as_mut()) else { continue };
            // Once: behind it, the name may be that of another topic.
            if !std::mem::replace(&mut deletion.znodes_go, true) {
                self.awaited += 1;
                self.actions.push(Action::DeleteTopic(name));
            }
        }
        if !due.is_empty() {
            self.delete_replicas(&due);
        }
    }

    /// Of however many topics, each broker is told three things.
    fn delete_replicas(&mut self, topics: &[Arc<str>]) {
        let mut left: Vec<(TopicPartition, BrokerId)> = Vec::new();
        for name in topics {
            let Some(topic) = self.cluster.topics.get_mut(name) else { continue };
            let Some(deletion) = &mut topic.deletion else { continue };
            deletion.started = true;
            let done = deletion.replicas.clone();
            let is_left = |(partition, broker): &(TopicPartition, BrokerId)| {
                done.get(&(partition.partition, *broker)) != Some(&ReplicaDeletion::Successful)
            };
            left.extend(replicas(topic).filter(is_left));
            let partitions = topic.partitions.keys();
            let named = partitions.map(|partition| TopicPartition { topic: Arc::clone(name), partition: *partition });
            self.batch.metadata(named);
        }
        // Nobody serves the topics from now on.
        self.send();
        let is_online =
            |(partition, broker): &(TopicPartition, BrokerId)| self.cluster.is_replica_online(partition, *broker);
        let (alive, offline): (Vec<_>, Vec<_>) = left.into_iter().partition(is_online);
        // All of them stop before the first is deleted, so that no follower goes on asking a leader that is gone.
        for delete in [false, true] {
            for (partition, broker) in &alive {
                self.batch.stop_replica(&self.cluster, *broker, partition, delete);
            }
            self.send();
        }
        if !offline.is_empty() {
            info!("halted deletion of topics whose replicas are offline: {}", listed(&offline));
        }
        for (state, replicas) in [(ReplicaDeletion::Started, alive), (ReplicaDeletion::Ineligible, offline)] {
            for (partition, broker) in replicas {
                let topic = self.cluster.topics.get_mut(&partition.topic);
                let Some(deletion) = topic.and_then(|topic| topic.deletion.as_mut()) else { continue };
                deletion.ineligible |= state == ReplicaDeletion::Ineligible;
                deletion.replicas.insert((partition.partition, broker), state);
            }
        }
    }

    pub(super) fn replica_deletion_ended(
        &mut self,
        partition: &TopicPartition,
        broker: BrokerId,
        outcome: ReplicaDeletion,
    ) {
        let topic = self.cluster.topics.get_mut(&partition.topic);
        let Some(deletion) = topic.and_then(|topic| topic.deletion.as_mut()) else { return };
        let Some(state) = deletion.replicas.get_mut(&(partition.partition, broker)) else { return };
        if *state == ReplicaDeletion::Started {
            *state = outcome;
            if outcome == ReplicaDeletion::Ineligible {
                info!("halted deletion of topic {}: broker {broker} did not delete {partition}", partition.topic);
                deletion.ineligible = true;
            }
        }
    }

    /// Replicas on lost brokers cannot be deleted now.
    pub(super) fn replicas_lost(&mut self, brokers: &BTreeSet<BrokerId>) {
        for topic in self.cluster.topics.values_mut().filter(|topic| topic.deletion.is_some()) {
            let lost: Vec<(TopicPartition, BrokerId)> =
                replicas(topic).filter(|(_, broker)| brokers.contains(broker)).collect();
            let Some(deletion) = &mut topic.deletion else { continue };
            for (partition, broker) in lost {
                let state = deletion.replicas.entry((partition.partition, broker));
                let state = state.or_insert(ReplicaDeletion::Ineligible);
                if *state != ReplicaDeletion::Successful {
                    *state = ReplicaDeletion::Ineligible;
                    deletion.ineligible = true;
                }
            }
        }
        self.resume_deletions();
    }

    /// Brokers came back, or a disk of theirs: topics that waited for them go on.
    pub(super) fn deletions_possible_again(&mut self, brokers: &BTreeSet<BrokerId>) {
        let mut any = false;
        for topic in self.cluster.topics.values_mut().filter(|topic| topic.deletion.is_some()) {
            let hosted = replicas(topic).any(|(_, broker)| brokers.contains(&broker));
            if let Some(deletion) = &mut topic.deletion
                && hosted
            {
                deletion.ineligible = false;
                any = true;
            }
        }
        if any {
            self.resume_deletions();
        }
    }

    pub(super) fn topic_deleted(&mut self, topic: &Arc<str>) {
        self.awaited = self.awaited.saturating_sub(1);
        info!("deletion of topic {topic} successfully completed");
        self.forget(topic);
    }

    /// It waits for its next try and holds up no other.
    pub(super) fn topic_not_deleted(&mut self, topic: Arc<str>) {
        self.awaited = self.awaited.saturating_sub(1);
        if let Some(deletion) = self.cluster.topics.get_mut(&topic).and_then(|topic| topic.deletion.as_mut()) {
            deletion.znodes_go = false;
        }
        self.undeleted.insert(topic);
    }

    pub(super) fn retry_deletions(&mut self) {
        let undeleted = std::mem::take(&mut self.undeleted);
        // One that was not known may be by now, and have replicas.
        self.known_deletions(undeleted.iter().map(ToString::to_string).collect());
        self.resume_deletions();
    }

    /// Topics that could not be deleted and are marked no longer are left alone: their names may be those of others by
    /// now. What is left of them is read as if it were new.
    pub(super) fn give_up_deletions(&mut self, marked: &[String]) {
        let marked: BTreeSet<&str> = marked.iter().map(String::as_str).collect();
        let undeleted = std::mem::take(&mut self.undeleted).into_iter();
        let (left, unmarked): (BTreeSet<_>, BTreeSet<_>) = undeleted.partition(|topic| marked.contains(&**topic));
        self.undeleted = left;
        let mut unknown = Vec::new();
        for topic in unmarked {
            if self.cluster.topics.contains_key(&topic) {
                info!("topic {topic} is deleted no longer, since it is marked no longer");
                self.forget(&topic);
                unknown.push(topic.to_string());
            }
        }
        if !unknown.is_empty() {
            self.actions.push(Action::ReadTopics(unknown));
        }
    }

    /// A topic whose deletion has halted and that somebody else has deleted is forgotten, and its marker with it: whatever has
    /// its name from here on is another. In Kafka the marker stays, and the next controller deletes that one too.
    pub(super) fn give_up_deletion_of_another(&mut self, read: &TopicRead) {
        let deletion = self.cluster.topics.get(&read.name).and_then(|topic| topic.deletion.as_ref());
        let is_it = read.found.as_ref().is_some_and(|found| self.is_same_topic(&read.name, found));
        if deletion.is_some_and(|deletion| !deletion.znodes_go) && !is_it {
            info!("topic {} is deleted no longer, since somebody else has deleted it", read.name);
            self.forget(&read.name);
            self.undeleted.remove(&read.name);
            self.actions.push(Action::DeleteMarkers(vec![read.name.to_string()]));
        }
    }
}
