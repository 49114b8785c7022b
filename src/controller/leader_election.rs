//! Elections that are asked for: by an administrator, through ZooKeeper, or by the clock when too many leaders are not
//! where they are preferred.
//!
//! | election  | of partitions                   | the leader is                                             |
//! |-----------|---------------------------------|-----------------------------------------------------------|
//! | preferred | that another replica leads      | the first of the assignment, if it is online and in sync  |
//! | unclean   | that have no leader, or a lost one | as `election.rs` settles it, where unclean is allowed  |
//!
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/controller/KafkaController.scala (processReplicaLeaderElection,
//! checkAndTriggerAutoLeaderRebalance).
use std::collections::BTreeMap;

use log::{info, warn};

use crate::controller::active::{Active, Asked, Cause, RequestId, listed};
use crate::controller::election::{self, Unclean};
use crate::controller::state::{LeaderAndIsr, Liveness, Partition, PartitionState};
use crate::model::shown::shown;
use crate::model::{BrokerId, LeaderEpoch, TopicPartition};

/// Partitions of an election that are looked at for a line of the log, which is cut anyway.
const LISTED_MAX: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElectionType {
    Preferred,
    Unclean,
}

/// Why no leader was elected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElectionRefusal {
    UnknownTopicOrPartition,
    TopicBeingDeleted,
    ElectionNotNeeded,
    /// No replica may lead, or ZooKeeper has refused it.
    NotElected(ElectionType),
}

/// A partition, and who leads it since, or why nobody does.
pub type Elected = (TopicPartition, Result<BrokerId, ElectionRefusal>);

impl Active {
    /// `None` is all partitions that need it.
    pub(super) fn elect_leaders(&mut self, id: RequestId, asked: Option<Vec<TopicPartition>>, election: ElectionType) {
        let is_for_all = asked.is_none();
        let asked = asked.unwrap_or_else(|| self.cluster.partitions().map(|(name, _)| name).collect());
        let mut outcomes = BTreeMap::new();
        for name in asked {
            let refusal = self.election_refusal(&name, election);
            if !is_for_all || refusal.is_none() {
                outcomes.insert(name, refusal);
            }
        }
        let electable = outcomes.iter().filter(|(_, refusal)| refusal.is_none()).map(|(name, _)| name.clone());
        let electable: Vec<TopicPartition> = electable.collect();
        match election {
            ElectionType::Preferred => {
                self.elect_preferred(&electable, "AdminClientTriggered");
            }
            ElectionType::Unclean => {
                election_begins("UNCLEAN", &electable, "AdminClientTriggered");
                self.settle_with(Cause::Unclean, &electable, |_| Unclean::Allowed);
            }
        }
        self.asked = Some((id, Asked::Elections(election, outcomes)));
    }

    fn election_refusal(&self, name: &TopicPartition, election: ElectionType) -> Option<ElectionRefusal> {
        let Some(partition) = self.cluster.partition(name) else {
            return Some(ElectionRefusal::UnknownTopicOrPartition);
        };
        if self.cluster.is_queued_for_deletion(&name.topic) {
            return Some(ElectionRefusal::TopicBeingDeleted);
        }
        let is_needed = match election {
            ElectionType::Preferred => !is_led_as_preferred(partition),
            ElectionType::Unclean => self.cluster.state(name) != PartitionState::Online,
        };
        (!is_needed).then_some(ElectionRefusal::ElectionNotNeeded)
    }

    /// What the election came to, once all is written.
    pub(super) fn elected_leaders(
        &self,
        election: ElectionType,
        outcomes: BTreeMap<TopicPartition, Option<ElectionRefusal>>,
    ) -> Vec<Elected> {
        let outcome = |(name, refusal): (TopicPartition, Option<ElectionRefusal>)| {
            if let Some(refusal) = refusal {
                return (name, Err(refusal));
            }
            let is_elected = self.cluster.partition(&name).is_some_and(|partition| match election {
                ElectionType::Preferred => is_led_as_preferred(partition),
                ElectionType::Unclean => self.cluster.state(&name) == PartitionState::Online,
            });
            let leader = self.cluster.partition(&name).and_then(|partition| partition.leadership.as_ref()?.leader);
            let leader = leader.filter(|_| is_elected).ok_or(ElectionRefusal::NotElected(election));
            (name, leader)
        };
        outcomes.into_iter().map(outcome).collect()
    }

    /// The leadership of a partition that its preferred replica can lead and does not.
    pub(super) fn preferred_leadership(&self, name: &TopicPartition) -> Option<LeaderAndIsr> {
        let partition = self.cluster.partition(name).filter(|partition| !is_led_as_preferred(partition))?;
        let current = partition.leadership.as_ref()?;
        let is_online = |broker| self.cluster.liveness(name, broker) == Liveness::Online;
        let leader = election::preferred(current, &partition.assignment.replicas, is_online)?;
        Some(LeaderAndIsr {
            leader: Some(leader),
            leader_epoch: LeaderEpoch(current.leader_epoch.0.saturating_add(1)),
            controller_epoch: self.epoch(),
            ..current.clone()
        })
    }

    /// Asked for through ZooKeeper, where nobody waits for an answer.
    pub(super) fn preferred_election_requested(&mut self, asked: Vec<TopicPartition>) {
        let (electable, skipped): (Vec<_>, Vec<_>) =
            asked.into_iter().partition(|name| self.election_refusal(name, ElectionType::Preferred).is_none());
        if !skipped.is_empty() {
            info!("no preferred leader is elected, since it leads or there is no such partition: {}", listed(&skipped));
        }
        let failed = self.elect_preferred(&electable, "ZkTriggered");
        if !failed.is_empty() {
            warn!("the preferred leader is not available: {}", listed(&failed));
        }
    }

    /// Brokers of whose leaderships more than this percentage are elsewhere get back those that they can have.
    pub(super) fn rebalance_leaders(&mut self, imbalance_percentage: i32) {
        info!("Processing automatic preferred replica leader election");
        let mut preferring: BTreeMap<BrokerId, (usize, Vec<TopicPartition>)> = BTreeMap::new();
        for (name, partition) in self.cluster.partitions() {
            let Some(preferred) = partition.assignment.replicas.first() else { continue };
            if self.cluster.is_queued_for_deletion(&name.topic) {
                continue;
            }
            let (all, elsewhere) = preferring.entry(*preferred).or_default();
            *all += 1;
            if partition.leadership.is_some() && !is_led_as_preferred(partition) {
                elsewhere.push(name);
            }
        }
        let is_imbalanced =
            |all: usize, elsewhere: usize| elsewhere as f64 / all as f64 > f64::from(imbalance_percentage) / 100.0;
        let electable: Vec<TopicPartition> = preferring
            .into_values()
            .filter(|(all, elsewhere)| is_imbalanced(*all, elsewhere.len()))
            .flat_map(|(_, elsewhere)| elsewhere)
            .filter(|name| self.preferred_leadership(name).is_some())
            .collect();
        self.elect_preferred(&electable, "AutoTriggered");
    }

    /// Returns those that the preferred replica cannot lead.
    fn elect_preferred(&mut self, partitions: &[TopicPartition], trigger: &str) -> Vec<TopicPartition> {
        election_begins("PREFERRED", partitions, trigger);
        self.write_for(Cause::Preferred, partitions)
    }
}

/// In the words that operators look for.
/// Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/controller/KafkaController.scala (onReplicaElection).
fn election_begins(election: &str, partitions: &[TopicPartition], trigger: &str) {
    if !partitions.is_empty() {
        let names: Vec<String> = partitions.iter().take(LISTED_MAX).map(ToString::to_string).collect();
        let names = names.join(",");
        info!("Starting replica leader election ({election}) for partitions {} triggered by {trigger}", shown(&names));
    }
}

fn is_led_as_preferred(partition: &Partition) -> bool {
    let leader = partition.leadership.as_ref().and_then(|leadership| leadership.leader);
    leader.is_some() && leader == partition.assignment.replicas.first().copied()
}
