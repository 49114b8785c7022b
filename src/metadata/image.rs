//! One state of the cluster's metadata, and the pure step from one state to the next.

use std::collections::BTreeMap;
use std::sync::Arc;

use rpds::HashTrieMapSync;

use crate::model::endpoint::{self, Endpoint};
use crate::model::{
    BrokerId, ControllerEpoch, LeaderEpoch, PartitionEpoch, TOPIC_NAME_BYTES_MAX, TopicId, TopicPartition,
};

/// The leader that the controller gives for a partition of a topic that is being deleted.
pub const LEADER_DURING_DELETE: BrokerId = BrokerId(-2);

/// Everything a broker knows of the cluster beyond itself. An image shares with the one before it what has not changed, so
/// that the next one costs what the update names, however much there is beside.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// The controller, unless the last update said that there is none.
    pub controller: Option<BrokerId>,
    /// Live brokers only.
    pub brokers: BTreeMap<BrokerId, Arc<Broker>>,
    topics: HashTrieMapSync<Arc<str>, Arc<Topic>>,
    names_by_id: HashTrieMapSync<TopicId, Arc<str>>,
    partition_count: usize,
}

/// A live broker, with one endpoint per listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    pub id: BrokerId,
    pub rack: Option<String>,
    pub endpoints: Vec<Endpoint>,
}

impl Broker {
    pub fn endpoint(&self, listener: &str) -> Option<&Endpoint> {
        endpoint::of_listener(&self.endpoints, listener)
    }
}

/// A topic that has at least one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: Arc<str>,
    /// `TopicId::ZERO` while the controller knows none.
    pub id: TopicId,
    /// In the order of their numbers, which usually have no gaps.
    pub partitions: Vec<Arc<Partition>>,
}

impl Topic {
    pub fn partition(&self, partition: i32) -> Option<&Arc<Partition>> {
        // Without gaps a partition stands at its own number.
        let guess = usize::try_from(partition).ok().and_then(|index| self.partitions.get(index));
        match guess {
            Some(found) if found.partition == partition => Some(found),
            _ => self
                .partitions
                .binary_search_by_key(&partition, |known| known.partition)
                .ok()
                .and_then(|index| self.partitions.get(index)),
        }
    }
}

/// Leadership of one partition as the controller last told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub partition: i32,
    /// -1 while the partition has none.
    pub leader: BrokerId,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    pub controller_epoch: ControllerEpoch,
    pub isr: Vec<BrokerId>,
    /// All replicas, the preferred leader first.
    pub assignment: Vec<BrokerId>,
    pub offline_replicas: Vec<BrokerId>,
}

/// One UpdateMetadata request, whatever its version was.
#[derive(Clone, Debug, Default)]
pub struct Update {
    pub controller: BrokerId,
    /// Replaces the list of live brokers.
    pub brokers: Vec<Broker>,
    /// Merged: topics and partitions that are not mentioned stay as they are, but for those of an earlier topic of the name.
    pub topics: Vec<TopicUpdate>,
}

#[derive(Clone, Debug)]
pub struct TopicUpdate {
    pub name: Arc<str>,
    /// Zero removes what was known: a controller that went back to an older protocol no longer keeps ids.
    pub id: TopicId,
    pub partitions: Vec<Partition>,
}

impl Image {
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    /// The name as the image has it, so that whoever keeps it keeps no copy. An unknown one is one.
    pub fn shared_name(&self, name: &str) -> Arc<str> {
        self.topic(name).map_or_else(|| name.into(), |topic| Arc::clone(&topic.name))
    }

    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.names_by_id.get(&id).and_then(|name| self.topics.get(name))
    }

    pub fn topic_name(&self, id: TopicId) -> Option<&Arc<str>> {
        self.names_by_id.get(&id)
    }

    /// `TopicId::ZERO` for a topic that is unknown or has none.
    pub fn topic_id(&self, name: &str) -> TopicId {
        self.topics.get(name).map_or(TopicId::ZERO, |topic| topic.id)
    }

    /// Of all topics.
    pub fn partition_count(&self) -> usize {
        self.partition_count
    }

    /// In no particular order.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    pub fn partition(&self, topic: &str, partition: i32) -> Option<&Arc<Partition>> {
        if topic.len() > TOPIC_NAME_BYTES_MAX {
            return None;
        }
        self.topics.get(topic).and_then(|topic| topic.partition(partition))
    }

    pub fn is_alive(&self, broker: BrokerId) -> bool {
        self.brokers.contains_key(&broker)
    }

    /// Where a live broker listens under this listener name.
    pub fn endpoint(&self, broker: BrokerId, listener: &str) -> Option<&Endpoint> {
        self.brokers.get(&broker).and_then(|broker| broker.endpoint(listener))
    }

    /// The image after `update`, and the partitions that the update deleted. The last update wins: leader epochs are
    /// not compared. Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/metadata/ZkMetadataCache.scala.
    pub fn with(&self, update: Update) -> (Image, Vec<TopicPartition>) {
        let mut next = Image {
            controller: (update.controller.0 >= 0).then_some(update.controller),
            brokers: update.brokers.into_iter().map(|broker| (broker.id, Arc::new(broker))).collect(),
            topics: self.topics.clone(),
            names_by_id: self.names_by_id.clone(),
            partition_count: self.partition_count,
        };
        let mut deleted = Vec::new();
        for topic in update.topics {
            next.merge(topic, &mut deleted);
        }
        (next, deleted)
    }

    /// The image without those of the topics that are in it still as they are given, and the partitions that are gone with them.
    pub fn without(&self, topics: &[Arc<Topic>]) -> (Image, Vec<TopicPartition>) {
        let (mut next, mut deleted) = (self.clone(), Vec::new());
        for gone in topics {
            if !self.topic(&gone.name).is_some_and(|known| Arc::ptr_eq(known, gone)) {
                continue;
            }
            next.topics.remove_mut(&gone.name);
            if next.names_by_id.get(&gone.id) == Some(&gone.name) {
                next.names_by_id.remove_mut(&gone.id);
            }
            next.partition_count -= gone.partitions.len();
            let numbers = gone.partitions.iter().map(|partition| partition.partition);
            deleted.extend(numbers.map(|partition| TopicPartition { topic: Arc::clone(&gone.name), partition }));
        }
        (next, deleted)
    }

    fn merge(&mut self, update: TopicUpdate, deleted: &mut Vec<TopicPartition>) {
        let known = self.topics.get(&update.name);
        let name = known.map_or(update.name, |topic| Arc::clone(&topic.name));
        let previous_id = known.map_or(TopicId::ZERO, |topic| topic.id);
        let mut before = known.map_or(&[][..], |topic| &topic.partitions);
        self.partition_count -= before.len();
        let mut delete = |partition| deleted.push(TopicPartition { topic: Arc::clone(&name), partition });
        // Another topic has taken the name, and nobody has told of the end of the one before.
        if previous_id != update.id && !previous_id.is_zero() && !update.id.is_zero() {
            std::mem::take(&mut before).iter().for_each(|partition| delete(partition.partition));
        }
        let partitions = merged(before, update.partitions, delete);
        self.partition_count += partitions.len();
        if previous_id != update.id || partitions.is_empty() {
            // Only if it is still this topic's: an id is never given to two topics, but an image must not depend on that.
            if self.names_by_id.get(&previous_id) == Some(&name) {
                self.names_by_id.remove_mut(&previous_id);
            }
        }
        if partitions.is_empty() {
            self.topics.remove_mut(&name);
            return;
        }
        if !update.id.is_zero() && self.names_by_id.get(&update.id) != Some(&name) {
            self.names_by_id.insert_mut(update.id, Arc::clone(&name));
        }
        let topic = Topic { name: Arc::clone(&name), id: update.id, partitions };
        self.topics.insert_mut(name, Arc::new(topic));
    }
}

/// What a topic's partitions are after an update, in the order of their numbers; of one that the update names twice the last
/// holds.
fn merged(
    before: &[Arc<Partition>],
    mut update: Vec<Partition>,
    mut on_deleted: impl FnMut(i32),
) -> Vec<Arc<Partition>> {
    update.sort_by_key(|partition| partition.partition);
    let mut before = before.iter().peekable();
    let mut merged: Vec<Arc<Partition>> = Vec::with_capacity(before.len().max(update.len()));
    for partition in update {
        let number = partition.partition;
        while let Some(earlier) = before.next_if(|known| known.partition < number) {
            merged.push(Arc::clone(earlier));
        }
        before.next_if(|known| known.partition == number);
        if merged.last().is_some_and(|last| last.partition == number) {
            merged.pop();
        }
        match partition.leader {
            LEADER_DURING_DELETE => on_deleted(number),
            _ => merged.push(Arc::new(partition)),
        }
    }
    merged.extend(before.cloned());
    merged
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn partition(topic: &str, number: i32, leader: i32) -> (Arc<str>, Partition) {
        let partition = Partition {
            partition: number,
            leader: BrokerId(leader),
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
            controller_epoch: ControllerEpoch(1),
            isr: vec![BrokerId(leader)],
            assignment: vec![BrokerId(leader)],
            offline_replicas: Vec::new(),
        };
        (topic.into(), partition)
    }

    pub(crate) fn update(partitions: Vec<(Arc<str>, Partition)>) -> Update {
        let mut topics: Vec<TopicUpdate> = Vec::new();
        for (name, partition) in partitions {
            match topics.iter_mut().find(|topic| topic.name == name) {
                Some(topic) => topic.partitions.push(partition),
                None => topics.push(TopicUpdate { id: id_of(&name), name, partitions: vec![partition] }),
            }
        }
        Update { controller: BrokerId(1), brokers: vec![broker(1), broker(2)], topics }
    }

    fn id_of(name: &str) -> TopicId {
        let mut id = [7; 16];
        id.iter_mut().zip(name.bytes()).for_each(|(slot, byte)| *slot = byte);
        TopicId(id)
    }

    fn broker(id: i32) -> Broker {
        let endpoint = |listener: &str, port| Endpoint {
            listener: listener.to_owned(),
            security_protocol: 0,
            host: format!("broker-{id}"),
            port,
        };
        Broker {
            id: BrokerId(id),
            rack: None,
            endpoints: vec![endpoint("PLAINTEXT", 9092), endpoint("INTERNAL", 9093)],
        }
    }

    #[test]
    fn partitions_that_an_update_does_not_mention_stay() {
        let (first, _) = Image::default().with(update(vec![partition("a", 0, 1), partition("b", 0, 1)]));
        let (second, deleted) = first.with(update(vec![partition("a", 1, 2)]));
        assert_eq!(deleted, Vec::new());
        assert_eq!(second.topic("a").map(|topic| topic.partitions.len()), Some(2));
        assert_eq!(second.partition("a", 1).map(|partition| partition.leader), Some(BrokerId(2)));
        assert_eq!(second.partition("b", 0).map(|partition| partition.leader), Some(BrokerId(1)));
        assert!(first.partition("a", 1).is_none(), "an image never changes");
    }

    #[test]
    fn the_next_image_shares_what_the_update_does_not_name() {
        let many = |leader| (0..500).map(move |number| partition(&format!("topic-{number}"), 0, leader)).collect();
        let (first, _) = Image::default().with(update(many(1)));
        let (second, _) = first.with(update(vec![partition("topic-7", 1, 2)]));
        let shared = |name: &str| first.topic(name).zip(second.topic(name)).is_some_and(|(a, b)| Arc::ptr_eq(a, b));
        let changed: Vec<&str> = second.topics().map(|topic| &*topic.name).filter(|name| !shared(name)).collect();
        assert_eq!(changed, ["topic-7"]);
        let kept = first.partition("topic-7", 0).zip(second.partition("topic-7", 0));
        assert!(kept.is_some_and(|(before, after)| Arc::ptr_eq(before, after)));
    }

    #[test]
    fn partitions_are_counted_through_every_change() {
        let mut image = Image::default();
        let mut count = |named: &[(&str, i32, i32)]| {
            let named = named.iter().map(|(topic, number, leader)| partition(topic, *number, *leader));
            image = image.with(update(named.collect())).0;
            assert_eq!(image.partition_count(), image.topics().map(|topic| topic.partitions.len()).sum::<usize>());
            image.partition_count()
        };
        assert_eq!(count(&[("a", 0, 1), ("a", 1, 1), ("b", 5, 1)]), 3);
        assert_eq!(count(&[("a", 1, 2), ("a", 7, 2)]), 4);
        assert_eq!(count(&[("a", 0, -2), ("a", 3, -2), ("b", 5, -2)]), 2);
        assert_eq!(count(&[("a", 7, -2), ("a", 1, -2), ("c", 0, -2)]), 0);
    }

    #[test]
    fn partitions_stand_in_the_order_of_their_numbers_and_what_is_said_last_holds() {
        let numbers = |image: &Image| -> Vec<(i32, i32)> {
            let topic = image.topic("a").expect("it has partitions");
            topic.partitions.iter().map(|partition| (partition.partition, partition.leader.0)).collect()
        };
        let said = |named: &[(i32, i32)]| update(named.iter().map(|(n, leader)| partition("a", *n, *leader)).collect());
        let (image, _) = Image::default().with(said(&[(4, 1), (0, 1), (2, 1), (4, 2)]));
        assert_eq!(numbers(&image), [(0, 1), (2, 1), (4, 2)]);
        let (image, deleted) = image.with(said(&[(3, 5), (2, -2), (1, 5), (4, -2), (4, 6), (0, 6), (0, -2)]));
        assert_eq!(numbers(&image), [(1, 5), (3, 5), (4, 6)]);
        assert_eq!(deleted, [0, 2, 4].map(|number| TopicPartition::new("a", number)));
    }

    #[test]
    fn leader_minus_two_removes_the_partition_and_the_last_one_removes_the_topic_and_its_id() {
        let (image, _) = Image::default().with(update(vec![partition("a", 0, 1), partition("a", 1, 1)]));
        let (image, deleted) = image.with(update(vec![partition("a", 0, -2)]));
        assert_eq!(deleted, vec![TopicPartition::new("a", 0)]);
        assert_eq!(image.partition("a", 1).map(|partition| partition.partition), Some(1), "found past the gap");
        assert!(image.topic_by_id(id_of("a")).is_some());
        let (image, _) = image.with(update(vec![partition("a", 1, -2)]));
        assert!(image.topic("a").is_none());
        assert!(image.topic_by_id(id_of("a")).is_none());
    }

    #[test]
    fn a_topic_recreated_in_the_next_update_has_only_its_new_id() {
        let (image, _) = Image::default().with(update(vec![partition("a", 0, 1)]));
        let mut recreated = update(vec![partition("a", 0, 2)]);
        recreated.topics[0].id = TopicId([9; 16]);
        let (image, _) = image.with(recreated);
        assert!(image.topic_by_id(id_of("a")).is_none());
        assert_eq!(image.topic_name(TopicId([9; 16])).map(|name| &**name), Some("a"));
    }

    #[test]
    fn nothing_of_a_topic_is_left_in_another_one_of_its_name() {
        let named = |numbers: &[i32], id| {
            let mut update = update(numbers.iter().map(|number| partition("a", *number, 2)).collect());
            update.topics[0].id = id;
            update
        };
        let (first, second, third) = (id_of("a"), TopicId([9; 16]), TopicId::ZERO);
        let (image, _) = Image::default().with(named(&[0, 1, 2], first));
        let (image, deleted) = image.with(named(&[0], second));
        assert_eq!(deleted, [0, 1, 2].map(|number| TopicPartition::new("a", number)));
        assert_eq!((image.topic("a").map(|topic| topic.partitions.len()), image.partition_count()), (Some(1), 1));
        // Who knows no ids says nothing of another topic, nor does the first who knows them.
        for id in [third, second] {
            let (image, deleted) = image.with(named(&[1], id));
            assert_eq!((deleted.len(), image.partition_count()), (0, 2));
        }
        let mut going = named(&[1], first);
        going.topics[0].partitions[0].leader = LEADER_DURING_DELETE;
        let (image, deleted) = image.with(going);
        assert_eq!(deleted, [0, 1].map(|number| TopicPartition::new("a", number)));
        assert_eq!((image.topic("a"), image.topic_by_id(second), image.partition_count()), (None, None, 0));
    }

    #[test]
    fn a_topic_is_taken_out_unless_it_has_been_told_of_since() {
        let all =
            || update(vec![partition("a", 0, 1), partition("a", 3, 1), partition("b", 0, 1), partition("c", 0, 1)]);
        let (before, _) = Image::default().with(all());
        let gone: Vec<Arc<Topic>> = ["a", "b"].into_iter().filter_map(|name| before.topic(name).cloned()).collect();
        let (image, _) = before.with(update(vec![partition("b", 0, 2)]));
        let (image, deleted) = image.without(&gone);
        assert_eq!(deleted, [0, 3].map(|number| TopicPartition::new("a", number)));
        assert!(image.topic("a").is_none() && image.topic_by_id(id_of("a")).is_none());
        assert!(image.topic_by_id(id_of("b")).is_some() && image.topic("c").is_some());
        assert_eq!((image.topics().len(), image.partition_count()), (2, 2));
        assert_eq!(image.without(&gone).1, []);
    }

    #[test]
    fn an_update_without_topic_ids_forgets_those_it_names() {
        let (image, _) = Image::default().with(update(vec![partition("a", 0, 1), partition("b", 0, 1)]));
        let mut downgraded = update(vec![partition("a", 0, 1)]);
        downgraded.topics[0].id = TopicId::ZERO;
        let (image, _) = image.with(downgraded);
        assert_eq!(image.topic_id("a"), TopicId::ZERO);
        assert!(image.topic_by_id(id_of("a")).is_none());
        assert_eq!(image.topic_id("b"), id_of("b"));
    }

    #[test]
    fn live_brokers_are_replaced_and_a_negative_controller_is_none() {
        let (image, _) = Image::default().with(update(Vec::new()));
        assert_eq!(image.controller, Some(BrokerId(1)));
        assert_eq!(image.endpoint(BrokerId(2), "INTERNAL").map(|endpoint| endpoint.port), Some(9093));
        assert!(image.endpoint(BrokerId(2), "ELSEWHERE").is_none());
        let (image, _) = image.with(Update { controller: BrokerId(-1), brokers: vec![broker(2)], topics: Vec::new() });
        assert_eq!(image.controller, None);
        assert!(!image.is_alive(BrokerId(1)) && image.is_alive(BrokerId(2)));
    }

    #[test]
    fn a_name_that_the_image_has_is_shared_and_another_is_none_of_it() {
        let (image, _) = Image::default().with(update(vec![partition("a", 0, 1)]));
        let (first, second) = (image.shared_name("a"), image.shared_name("a"));
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!((&*first, &*image.shared_name("b")), ("a", "b"));
    }
}
