//! Topics whose znodes have lost their ids. Tools and brokers that know no ids write znodes without them; the controller in office
//! puts them back, and one who takes office later has to know them from elsewhere: under a new id, everybody who hosts the topic
//! would refuse it, and whoever reads it would be told that it is another. Kafka's controllers make up a new one (KAFKA-14190).

use std::sync::Arc;

use log::info;
use odradek_zookeeper::error::ZkError;

use crate::controller::active::{LeadershipRead, TopicFound, TopicRead};
use crate::controller::task::candidacy::Task;
use crate::controller::task::cluster::ClusterState;
use crate::log::dirs::LogDirs;
use crate::metadata::cache::MetadataCache;
use crate::metadata::image::{Partition, Topic};
use crate::model::{BrokerId, LeaderEpoch, TopicId, TopicPartition};

impl Task {
    /// Has those of the topics keep their ids that have none and are known here by one.
    pub(super) async fn keep_ids(&self, zookeeper: &ClusterState, topics: &mut [TopicRead]) -> Result<(), ZkError> {
        if !self.config.inter_broker_protocol_version.is_topic_ids_supported() {
            return Ok(());
        }
        let image = self.known.metadata.image();
        let mut known = Vec::new();
        for read in topics.iter_mut() {
            let Some(found) = read.found.as_ref().filter(|found| found.id.is_none()) else { continue };
            let told = image.topic(&read.name).filter(|told| !told.id.is_zero());
            let hosted = self.known.hosted(self.broker_id, &read.name, found);
            if told.is_some() || !hosted.is_empty() {
                known.push((read, told, hosted));
            }
        }
        if known.is_empty() {
            return Ok(());
        }
        let asked: Vec<TopicRead> = known.iter().map(|(read, ..)| TopicRead::clone(read)).collect();
        let states = zookeeper.leaderships(&asked).await?;
        for (read, told, hosted) in known {
            let Some(found) = &read.found else { continue };
            let of_it: Vec<&LeadershipRead> =
                states.iter().filter(|state| state.partition.topic == read.name).collect();
            if let Some(id) = kept_id(found, &of_it, told.map(|told| &**told), &hosted) {
                info!("topic {} is still the one with the id {id}, which its znode has lost", read.name);
                read.fresh_id = id;
            }
        }
        Ok(())
    }
}

/// Where this broker knows topics from, beside ZooKeeper: what controllers have told it, and what it hosts, if anything.
#[derive(Default)]
pub struct KnownTopics {
    pub metadata: Arc<MetadataCache>,
    pub log_dirs: Option<Arc<LogDirs>>,
}

/// What a log says of its topic.
#[derive(Clone, Copy, Debug)]
struct OfLog {
    partition: i32,
    id: TopicId,
    last_epoch: Option<LeaderEpoch>,
}

impl KnownTopics {
    fn hosted(&self, broker: BrokerId, topic: &Arc<str>, found: &TopicFound) -> Vec<OfLog> {
        let Some(log_dirs) = &self.log_dirs else { return Vec::new() };
        let assigned = found.partitions.iter().filter(|(_, assignment)| assignment.replicas.contains(&broker));
        let logs = assigned.filter_map(|(partition, _)| {
            let log = log_dirs.get(&TopicPartition { topic: Arc::clone(topic), partition: *partition })?;
            // Nobody waits for its disk.
            let asked = Some(log).filter(|log| !log.is_held_up() && !log.is_offline())?;
            Some(OfLog { partition: *partition, id: asked.topic_id()?, last_epoch: asked.last_epoch() })
        });
        logs.collect()
    }
}

/// The id of the topic that was told of or is hosted, if that is the one that was found. Another one of its name, made by who
/// knows no ids, has no states yet, or they begin anew. What nobody can tell is an earlier topic whose states had not changed
/// yet, and of whose end this broker has not heard; the one that followed had an id too then, which is as unknown here.
fn kept_id(found: &TopicFound, states: &[&LeadershipRead], told: Option<&Topic>, hosted: &[OfLog]) -> Option<TopicId> {
    let state_of = |partition: i32| {
        states.iter().find(|state| state.partition.partition == partition).map(|state| &state.leadership)
    };
    let goes_on = |told: &&Topic| {
        let is_known = |told: &Arc<Partition>| found.partitions.contains_key(&told.partition);
        let led: Vec<_> = told.partitions.iter().filter_map(|told| Some((told, state_of(told.partition)?))).collect();
        told.partitions.iter().all(is_known)
            && !led.is_empty()
            && led.iter().all(|(told, state)| {
                let then = (told.leader_epoch, told.partition_epoch);
                let now = (state.leader_epoch, state.partition_epoch);
                now > then && state.controller_epoch >= told.controller_epoch
                    || now == then && state.controller_epoch == told.controller_epoch
            })
    };
    if let Some(told) = told.filter(goes_on) {
        return Some(told.id);
    }
    let is_of_it = |log: &OfLog| {
        state_of(log.partition).is_some_and(|state| log.last_epoch.is_none_or(|epoch| epoch <= state.leader_epoch))
    };
    let id = hosted.first()?.id;
    hosted.iter().all(|log| log.id == id && is_of_it(log)).then_some(id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::controller::state::{Assignment, LeaderAndIsr};
    use crate::model::{ControllerEpoch, PartitionEpoch};

    const OLD: TopicId = TopicId([1; 16]);

    /// Leader epoch, partition epoch and controller epoch.
    type Epochs = (i32, i32, i32);

    fn told(partitions: &[Epochs]) -> Topic {
        let partition = |(number, (leader, version, controller)): (i32, &Epochs)| {
            Arc::new(Partition {
                partition: number,
                leader: BrokerId(1),
                leader_epoch: LeaderEpoch(*leader),
                partition_epoch: PartitionEpoch(*version),
                controller_epoch: ControllerEpoch(*controller),
                isr: vec![BrokerId(1)],
                assignment: vec![BrokerId(1)],
                offline_replicas: Vec::new(),
            })
        };
        Topic { name: "t".into(), id: OLD, partitions: (0..).zip(partitions).map(partition).collect() }
    }

    /// Of a topic of two partitions.
    fn kept(states: &[(i32, Epochs)], told: Option<&Topic>, hosted: &[OfLog]) -> Option<TopicId> {
        let read = |(number, (leader, version, controller)): &(i32, Epochs)| LeadershipRead {
            partition: TopicPartition::new("t", *number),
            leadership: LeaderAndIsr {
                leader: Some(BrokerId(1)),
                leader_epoch: LeaderEpoch(*leader),
                isr: vec![BrokerId(1)],
                recovering: false,
                controller_epoch: ControllerEpoch(*controller),
                partition_epoch: PartitionEpoch(*version),
            },
            mzxid: 0,
        };
        let states: Vec<LeadershipRead> = states.iter().map(read).collect();
        let partitions = BTreeMap::from(
            [0, 1].map(|number| (number, Assignment { replicas: vec![BrokerId(1)], ..Assignment::default() })),
        );
        let found = TopicFound { id: None, partitions, version: 1 };
        kept_id(&found, &states.iter().collect::<Vec<_>>(), told, hosted)
    }

    #[test]
    fn a_topic_keeps_the_id_that_was_told_unless_its_states_have_begun_anew() {
        let earlier = told(&[(3, 5, 7), (0, 0, 7)]);
        let is_kept = |states: &[(i32, Epochs)]| kept(states, Some(&earlier), &[]) == Some(OLD);
        assert!(is_kept(&[(0, (3, 5, 7)), (1, (0, 0, 7))]), "nothing has changed");
        assert!(is_kept(&[(0, (4, 6, 8)), (1, (0, 1, 8))]), "it has changed hands");
        assert!(is_kept(&[(0, (4, 0, 8)), (1, (0, 0, 7))]), "a state was lost and written anew");
        assert!(is_kept(&[(0, (3, 5, 7))]), "a state cannot be read");
        assert!(!is_kept(&[]), "nobody has led it yet");
        assert!(!is_kept(&[(0, (0, 0, 9)), (1, (0, 0, 9))]));
        assert!(!is_kept(&[(0, (3, 5, 7)), (1, (0, 0, 9))]), "the same version of something else");
        assert!(!is_kept(&[(0, (4, 6, 6)), (1, (0, 0, 7))]), "of an earlier controller");
        let wider = told(&[(3, 5, 7), (0, 0, 7), (0, 0, 7)]);
        assert_eq!(kept(&[(0, (3, 5, 7)), (1, (0, 0, 7))], Some(&wider), &[]), None, "topics do not shrink");
        assert_eq!(kept(&[(0, (3, 5, 7))], None, &[]), None);
    }

    #[test]
    fn a_topic_keeps_the_id_that_its_logs_have_unless_they_are_ahead_of_it() {
        let log = |partition, id, epoch: i32| OfLog { partition, id, last_epoch: Some(LeaderEpoch(epoch)) };
        let states = [(0, (3, 5, 7)), (1, (0, 0, 7))];
        assert_eq!(kept(&states, None, &[log(0, OLD, 3), log(1, OLD, 0)]), Some(OLD));
        assert_eq!(kept(&states, None, &[OfLog { last_epoch: None, ..log(1, OLD, 0) }]), Some(OLD));
        assert_eq!(kept(&states, None, &[log(0, OLD, 3), log(1, OLD, 1)]), None);
        assert_eq!(kept(&states, None, &[log(0, OLD, 3), log(1, TopicId([2; 16]), 0)]), None);
        assert_eq!(kept(&states[..1], None, &[log(1, OLD, 0)]), None, "nobody has led it yet");
        let another = told(&[(9, 9, 9)]);
        assert_eq!(kept(&states, Some(&another), &[log(0, TopicId([2; 16]), 3)]), Some(TopicId([2; 16])));
    }
}
