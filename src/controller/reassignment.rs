//! Moving partitions to other replicas (KIP-455).
//!
//! A partition that is reassigned has three lists: all its replicas, the target first; those being added; those being
//! removed. They stand in the topic's znode for as long as it takes, so that any later controller goes on.
//!
//! | step                | what is written                        | what is told                                          |
//! |---------------------|----------------------------------------|-------------------------------------------------------|
//! | given up            | ISR without replicas no longer wanted  | these are deleted                                     |
//! | taken up            | the three lists, into the topic        |                                                       |
//! | goes on             | a new leader epoch                     | all lead or follow; those added are new until in sync  |
//! | target is in sync   | leader and ISR of the target alone     | the target leads or follows; those removed are deleted |
//! | ended               | the target alone, into the topic       | the metadata                                          |
//!
//! "Given up" comes about when a move is replaced by another, or cancelled, which is a move back to where it began. Each
//! step may be repeated: a controller that dies between two leaves the partition as the earlier one made it.
//!
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/controller/{KafkaController,ControllerContext}.scala. Kafka takes a
//! new move up before it gives replicas up, and loses track of these when it dies in between; that no ISR may be left
//! empty is checked as in metadata/src/main/java/org/apache/kafka/controller/ReplicationControlManager.java
//! (cancelPartitionReassignment).
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use log::{info, warn};

use crate::controller::active::{Action, Active, Asked, Cause, RequestId, Step, TopicFound, listed};
use crate::controller::election;
use crate::controller::state::{Assignment, LeaderAndIsr, Liveness, Partition};
use crate::model::{BrokerId, LeaderEpoch, TopicPartition};

/// Why a partition is not moved, in Kafka's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReassignmentRefusal {
    InvalidReplicaAssignment(String),
    UnknownTopicOrPartition,
    NoReassignmentInProgress,
    /// ZooKeeper has refused it.
    NotWritten,
}

impl fmt::Display for ReassignmentRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReassignmentRefusal::InvalidReplicaAssignment(reason) => f.write_str(reason),
            ReassignmentRefusal::UnknownTopicOrPartition => f.write_str("The partition does not exist."),
            ReassignmentRefusal::NoReassignmentInProgress => f.write_str("No partition reassignment is in progress."),
            ReassignmentRefusal::NotWritten => f.write_str("ZooKeeper has refused the new assignment."),
        }
    }
}

/// What became of the assignments of a topic that were to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AssignmentOutcome {
    /// The version of the topic's znode now.
    Written(i32),
    /// Someone else wrote since; this is what is there now.
    Conflict(TopicFound),
    /// Not written; the shell has said why.
    Failed,
}

/// Brokers named in a refusal.
const LISTED_MAX: usize = 100;

/// The moves under way.
#[derive(Debug, Default)]
pub(super) struct Reassignments {
    /// From when a move is taken up until it has ended.
    pub(super) moving: BTreeSet<TopicPartition>,
    /// What is to be taken up once the topic is written.
    wanted: BTreeMap<Arc<str>, BTreeMap<i32, Assignment>>,
    /// The target is in force, and only the topic has to be written.
    ended: BTreeMap<Arc<str>, BTreeSet<i32>>,
    /// Topics that could not be written.
    pub(super) unwritten: BTreeSet<Arc<str>>,
    /// Asked for through `/admin/reassign_partitions`, to these replicas, and not done.
    requested: BTreeMap<TopicPartition, Vec<BrokerId>>,
    /// Those that the current event could not take up.
    failed: BTreeSet<TopicPartition>,
    /// Replicas that were moved away and that their brokers have not said to have deleted. A broker that was not there, or
    /// did not hear of it, is told when it is back; to Kafka's controller they are gone, and stay on its disk.
    to_delete: BTreeMap<BrokerId, BTreeMap<TopicPartition, IsUnderWay>>,
}

/// Whether a request to delete it is not answered yet. Another would delete what has come in its place meanwhile.
type IsUnderWay = bool;

impl Reassignments {
    pub(super) fn forget(&mut self, topic: &str) {
        let is_other = |partition: &TopicPartition| &*partition.topic != topic;
        self.moving.retain(is_other);
        self.wanted.remove(topic);
        self.ended.remove(topic);
        self.requested.retain(|partition, _| is_other(partition));
        self.unwritten.remove(topic);
    }

    /// The broker has deleted it, or hosts it again.
    pub(super) fn nothing_to_delete(&mut self, broker: BrokerId, name: &TopicPartition) {
        if let Some(names) = self.to_delete.get_mut(&broker) {
            names.remove(name);
        }
    }

    /// The broker has not deleted it, and nothing that asks it to is under way.
    pub(super) fn not_deleted(&mut self, broker: BrokerId, name: &TopicPartition) {
        if let Some(is_under_way) = self.to_delete.get_mut(&broker).and_then(|names| names.get_mut(name)) {
            *is_under_way = false;
        }
    }

    fn wanted_of(&self, name: &TopicPartition) -> Option<&Assignment> {
        self.wanted.get(&name.topic)?.get(&name.partition)
    }

    pub(super) fn is_moving(&self, topic: &Arc<str>) -> bool {
        let first = TopicPartition { topic: Arc::clone(topic), partition: 0 };
        self.moving.range(first..).next().is_some_and(|partition| partition.topic == *topic)
    }
}

fn partition_of(topic: &Arc<str>, partition: i32) -> TopicPartition {
    TopicPartition { topic: Arc::clone(topic), partition }
}

/// Whether the target of a partition's move leads and is in sync.
fn is_complete(assignment: &Assignment, current: &LeaderAndIsr, liveness: impl Fn(BrokerId) -> Liveness) -> bool {
    let target = assignment.target();
    let is_in_sync = target.iter().all(|replica| current.isr.contains(replica));
    let leader = election::reassigned(current, &target, liveness).and_then(|(leader, _)| leader);
    !assignment.is_being_reassigned() || (is_in_sync && leader.is_some())
}

impl Active {
    /// Partitions and where they go; `None` goes back to where the move began.
    pub(super) fn reassign(&mut self, id: RequestId, asked: Vec<(TopicPartition, Option<Vec<BrokerId>>)>) {
        self.reassignments.failed.clear();
        let mut outcomes = BTreeMap::new();
        let live = self.electable_brokers();
        for (name, target) in asked {
            let outcome = self.take_up(&name, target.as_deref(), |replica| live.contains(&replica));
            outcomes.insert(name, outcome.err());
        }
        // What is asked last holds, also over what stands in ZooKeeper and has not been heard of.
        let replaced = outcomes.iter().filter(|(_, refusal)| refusal.is_none()).map(|(name, _)| (name.clone(), None));
        let replaced: Vec<(TopicPartition, Option<Vec<BrokerId>>)> = replaced.collect();
        for (name, _) in &replaced {
            self.reassignments.requested.remove(name);
        }
        if !replaced.is_empty() {
            self.actions.push(Action::ForgetReassignments(replaced));
        }
        self.give_up_replicas();
        self.asked = Some((id, Asked::Reassignments(outcomes)));
    }

    /// The same through ZooKeeper, where nobody waits for an answer. The list is all that is asked for there.
    pub(super) fn reassign_requested(&mut self, asked: Vec<(TopicPartition, Vec<BrokerId>)>) {
        let mut refused = Vec::new();
        for (name, target) in asked {
            if self.reassignments.requested.get(&name) == Some(&target) {
                continue;
            }
            match self.take_up(&name, Some(&target), |_| true) {
                Ok(()) => {
                    self.reassignments.requested.insert(name, target);
                }
                Err(refusal) => refused.push((name, target, refusal)),
            }
        }
        if !refused.is_empty() {
            warn!("Failed reassignment through zk with the following errors: {}", listed(&refused));
            let struck = refused.into_iter().map(|(name, target, _)| (name, Some(target))).collect();
            self.actions.push(Action::ForgetReassignments(struck));
        }
        self.give_up_replicas();
    }

    /// Checks a wish, and notes what has to be written for it.
    fn take_up(
        &mut self,
        name: &TopicPartition,
        target: Option<&[BrokerId]>,
        may_be_added: impl Fn(BrokerId) -> bool,
    ) -> Result<(), ReassignmentRefusal> {
        let known = self.cluster.partition(name);
        let current = known.map(|known| known.assignment.clone()).unwrap_or_default();
        let wanted = match target {
            Some(target) => {
                let origin = current.origin();
                let is_allowed = |replica| origin.contains(&replica) || may_be_added(replica);
                self.refuse_invalid(target, is_allowed).map_err(ReassignmentRefusal::InvalidReplicaAssignment)?;
                current.reassigned_to(target)
            }
            None if current.is_being_reassigned() => current.reassigned_to(&current.origin()),
            None => return Err(ReassignmentRefusal::NoReassignmentInProgress),
        };
        let Some(known) = known.filter(|_| !self.cluster.is_queued_for_deletion(&name.topic)) else {
            return Err(ReassignmentRefusal::UnknownTopicOrPartition);
        };
        if let Some(leadership) = &known.leadership
            && !leadership.isr.iter().any(|member| wanted.replicas.contains(member))
        {
            return Err(ReassignmentRefusal::InvalidReplicaAssignment(format!(
                "Unable to revert partition assignment for {name} because it would require an unclean leader election."
            )));
        }
        self.reassignments.wanted.entry(Arc::clone(&name.topic)).or_default().insert(name.partition, wanted);
        Ok(())
    }

    fn refuse_invalid(&self, target: &[BrokerId], is_allowed: impl Fn(BrokerId) -> bool) -> Result<(), String> {
        // A list of many is none of brokers, and nobody reads it to its end.
        let shown = |ids: &[BrokerId]| {
            let first: Vec<String> = ids.iter().take(LISTED_MAX).map(|id| id.to_string()).collect();
            first.join(", ") + if ids.len() > LISTED_MAX { ", ..." } else { "" }
        };
        if i16::try_from(target.len()).is_err() {
            return Err(format!("A partition cannot have {} replicas.", target.len()));
        }
        if target.is_empty() {
            return Err("Empty replica list specified in partition reassignment.".to_owned());
        }
        if target.iter().collect::<BTreeSet<_>>().len() != target.len() {
            return Err(format!(
                "Duplicate replica ids in partition reassignment replica list: List({})",
                shown(target)
            ));
        }
        if target.iter().any(|id| id.0 < 0) {
            return Err(format!("Invalid broker id in replica list: List({})", shown(target)));
        }
        let strangers: Vec<BrokerId> = target.iter().copied().filter(|id| !is_allowed(*id)).collect();
        if !strangers.is_empty() {
            return Err(format!(
                "Replica assignment has brokers that are not alive. Replica list: List({}), live broker list: Set({})",
                shown(&strangers),
                shown(&self.electable_brokers())
            ));
        }
        Ok(())
    }

    fn electable_brokers(&self) -> Vec<BrokerId> {
        self.cluster.brokers.keys().copied().filter(|id| self.cluster.is_electable(*id)).collect()
    }

    /// Moves that were asked for through ZooKeeper have ended one way or the other.
    fn forget_requested(&mut self, partitions: &[TopicPartition]) {
        let requested = &mut self.reassignments.requested;
        let forgotten: Vec<(TopicPartition, Option<Vec<BrokerId>>)> =
            partitions.iter().filter_map(|name| Some((name.clone(), Some(requested.remove(name)?)))).collect();
        if !forgotten.is_empty() {
            self.actions.push(Action::ForgetReassignments(forgotten));
        }
    }

    /// Replicas that a new wish has no more use for leave the ISR before it is taken up.
    fn give_up_replicas(&mut self) {
        let topics = self.reassignments.wanted.iter();
        let wanted = topics.flat_map(|(topic, partitions)| partitions.keys().map(|id| partition_of(topic, *id)));
        let giving_up: Vec<TopicPartition> = wanted.filter(|name| !self.unwanted_replicas(name).is_empty()).collect();
        self.write_for(Cause::GivingUp, &giving_up);
        let topics = self.reassignments.wanted.keys().cloned().collect();
        self.later.push_back(Step::Assign(topics));
    }

    /// Replicas that the partition has and the wish for it has not.
    fn unwanted_replicas(&self, name: &TopicPartition) -> Vec<BrokerId> {
        let (Some(known), Some(wanted)) = (self.cluster.partition(name), self.reassignments.wanted_of(name)) else {
            return Vec::new();
        };
        let replicas = known.assignment.replicas.iter();
        replicas.filter(|replica| !wanted.replicas.contains(replica)).copied().collect()
    }

    /// The leadership that the next step of a move gives the partition; `None` when it needs none.
    pub(super) fn leadership_of_move(&self, cause: Cause, name: &TopicPartition) -> Option<LeaderAndIsr> {
        let Partition { assignment, leadership } = self.cluster.partition(name)?;
        let current = leadership.as_ref()?;
        let liveness = |broker| self.cluster.liveness(name, broker);
        let allowed = match cause {
            Cause::GivingUp => self.reassignments.wanted_of(name)?.replicas.clone(),
            _ if is_complete(assignment, current, liveness) => assignment.target(),
            _ => assignment.replicas.clone(),
        };
        let (leader, isr) = election::reassigned(current, &allowed, liveness)?;
        Some(LeaderAndIsr {
            leader,
            leader_epoch: LeaderEpoch(current.leader_epoch.0.saturating_add(1)),
            isr,
            recovering: current.recovering,
            controller_epoch: self.epoch(),
            partition_epoch: current.partition_epoch,
        })
    }

    /// Replicas are out of the ISR and are deleted. The leader hears of it when the wish is taken up.
    pub(super) fn replicas_given_up(&mut self, name: &TopicPartition) {
        for replica in self.unwanted_replicas(name) {
            self.delete_replica(replica, name);
        }
    }

    fn delete_replica(&mut self, replica: BrokerId, name: &TopicPartition) {
        let is_told = self.cluster.brokers.contains_key(&replica);
        self.reassignments.to_delete.entry(replica).or_default().insert(name.clone(), is_told);
        self.batch.stop_replica(&self.cluster, replica, name, true);
    }

    /// Tells brokers that have come back what they were to delete, if it has not become theirs again. The topic may be gone by
    /// now, or be another of the same name.
    pub(super) fn deletions_told_again(&mut self, brokers: &BTreeSet<BrokerId>) {
        for broker in brokers {
            for (name, is_under_way) in self.reassignments.to_delete.get_mut(broker).into_iter().flatten() {
                // What its earlier life was told, this one has not heard.
                *is_under_way = !self.cluster.is_replica(*broker, name);
                if *is_under_way {
                    self.batch.delete_left_behind(&self.cluster, *broker, name);
                }
            }
        }
    }

    /// A broker has logs of earlier topics where it is to host replicas. Those that were moved away from it, and that it has not
    /// said to have deleted, go first, and then it is told of its replicas again, unless it says that it cannot delete them.
    /// What it says before it has heard of that is no news.
    pub(super) fn earlier_replicas_found(&mut self, broker: BrokerId, names: &[TopicPartition]) {
        let Some(to_delete) = self.reassignments.to_delete.get_mut(&broker) else { return };
        let is_to_be_told =
            |name: &&TopicPartition| to_delete.get_mut(*name).is_some_and(|told| !std::mem::replace(told, true));
        let found: Vec<&TopicPartition> = names.iter().filter(is_to_be_told).collect();
        for name in &found {
            self.batch.delete_left_behind(&self.cluster, broker, name);
        }
        self.send();
        for name in found.into_iter().filter(|name| !self.cluster.is_going(name)) {
            self.batch.leader_and_isr(&self.cluster, [broker], name, true);
        }
    }

    /// A wish is dropped, if the partition is the object of one.
    pub(super) fn not_given_up(&mut self, name: &TopicPartition) {
        let partitions = self.reassignments.wanted.get_mut(&name.topic);
        if partitions.and_then(|partitions| partitions.remove(&name.partition)).is_some() {
            self.refused_by_zookeeper(name);
        }
    }

    fn refused_by_zookeeper(&mut self, name: &TopicPartition) {
        self.forget_requested(std::slice::from_ref(name));
        self.reassignments.failed.insert(name.clone());
    }

    /// Known, and not of another id.
    pub(super) fn is_same_topic(&self, name: &Arc<str>, found: &TopicFound) -> bool {
        let id = self.cluster.topics.get(name).map(|topic| topic.id);
        id.is_some_and(|id| id.is_zero() || found.id.is_none_or(|found| found == id))
    }

    /// Writes topics: with what is wanted of their partitions, and with the targets that are in force.
    pub(super) fn write_assignments(&mut self, topics: BTreeSet<Arc<str>>) {
        // Replicas that were given up are gone before the topic says so.
        self.send();
        let (mut writes, mut same) = (Vec::new(), Vec::new());
        let topics: BTreeSet<Arc<str>> = topics.into_iter().chain(self.topics_to_assign()).collect();
        for name in topics {
            let Some(topic) = self.cluster.topics.get(&name) else { continue };
            let wanted = self.reassignments.wanted.get(&name);
            let wanted = |partition| wanted.and_then(|partitions| partitions.get(&partition));
            let assignments = topic.partitions.iter();
            let partitions: BTreeMap<i32, Assignment> =
                assignments.map(|(id, known)| (*id, wanted(*id).unwrap_or(&known.assignment).clone())).collect();
            let is_stale = self.reassignments.ended.contains_key(&name);
            let is_same = topic.partitions.iter().all(|(id, known)| partitions.get(id) == Some(&known.assignment));
            if is_same && !is_stale {
                same.push(name);
                continue;
            }
            let found =
                TopicFound { id: Some(topic.id).filter(|id| !id.is_zero()), partitions, version: topic.version };
            writes.push((name, found));
        }
        for topic in same {
            self.assigned(&topic);
        }
        if !writes.is_empty() {
            self.awaited += 1;
            self.actions.push(Action::WriteAssignments(writes));
        }
    }

    pub(super) fn assignments_written(&mut self, outcomes: Vec<(Arc<str>, AssignmentOutcome)>) {
        self.awaited = self.awaited.saturating_sub(1);
        for (topic, outcome) in outcomes {
            self.assignment_written(topic, outcome);
        }
    }

    fn assignment_written(&mut self, topic: Arc<str>, outcome: AssignmentOutcome) {
        match outcome {
            AssignmentOutcome::Written(version) => {
                if let Some(known) = self.cluster.topics.get_mut(&topic) {
                    known.version = version;
                }
                self.assigned(&topic);
            }
            AssignmentOutcome::Conflict(found) if self.is_same_topic(&topic, &found) => {
                self.topic_found(&topic, found);
                self.later.push_back(Step::Assign(BTreeSet::from([topic])));
            }
            // Another topic may have taken its name.
            AssignmentOutcome::Conflict(_) | AssignmentOutcome::Failed => {
                let wanted = self.reassignments.wanted.remove(&topic).unwrap_or_default();
                for name in wanted.into_keys().map(|id| partition_of(&topic, id)) {
                    self.refused_by_zookeeper(&name);
                    // It may have lost replicas from its ISR by now.
                    self.tell_replicas(&name, None, false);
                }
                if self.reassignments.ended.contains_key(&topic) {
                    self.reassignments.unwritten.insert(topic);
                }
            }
        }
    }

    /// Those of other steps: they are written together.
    fn topics_to_assign(&mut self) -> BTreeSet<Arc<str>> {
        let mut topics = BTreeSet::new();
        self.later.retain_mut(|step| match step {
            Step::Assign(more) => {
                topics.append(more);
                false
            }
            _ => true,
        });
        topics
    }

    /// The topic stands in ZooKeeper as it was to be written.
    fn assigned(&mut self, topic: &Arc<str>) {
        let mut moving = BTreeSet::new();
        let wanted = self.reassignments.wanted.remove(topic).unwrap_or_default();
        for (name, wanted) in wanted.into_iter().map(|(id, wanted)| (partition_of(topic, id), wanted)) {
            if let Some(known) = self.cluster.partition_mut(&name) {
                if known.assignment != wanted {
                    info!("partition {name} is reassigned from {:?} to {wanted:?}", known.assignment);
                }
                known.assignment = wanted;
                self.reassignments.moving.insert(name.clone());
                moving.insert(name);
            }
        }
        let ended = self.reassignments.ended.remove(topic).unwrap_or_default();
        // One that has been taken up anew goes on.
        let ended = ended.into_iter().map(|id| partition_of(topic, id)).filter(|name| !moving.contains(name)).collect();
        self.ended(ended);
        if !moving.is_empty() {
            self.later.push_back(Step::Reassign(moving));
        }
    }

    fn ended(&mut self, partitions: Vec<TopicPartition>) {
        if partitions.is_empty() {
            return;
        }
        info!("completed reassignments of {}", listed(&partitions));
        for name in &partitions {
            self.reassignments.moving.remove(name);
        }
        self.forget_requested(&partitions);
        self.batch.metadata(partitions);
        self.resume_deletions();
    }

    /// Moves go on as far as they can.
    pub(super) fn go_on_moving(&mut self, partitions: BTreeSet<TopicPartition>) {
        let names: Vec<TopicPartition> = partitions.into_iter().collect();
        let unwritten = self.write_for(Cause::Moving, &names);
        // Without a leader there is nobody to catch up with, or nothing to move.
        let (waiting, ended): (Vec<TopicPartition>, Vec<TopicPartition>) = unwritten
            .into_iter()
            .partition(|name| self.cluster.partition(name).is_some_and(|known| known.assignment.is_being_reassigned()));
        self.ended(ended);
        self.settle(&waiting);
    }

    /// The leader epoch of a move's next step is written: its replicas are told.
    pub(super) fn moved(&mut self, name: &TopicPartition, led_until_now: Option<BrokerId>) {
        let Some(known) = self.cluster.partition(name) else { return };
        let Some(leadership) = &known.leadership else { return };
        let assignment = known.assignment.clone();
        if !is_complete(&assignment, leadership, |broker| self.cluster.liveness(name, broker)) {
            // One that is in sync has a log, or has lost it with its directory: it must not begin an empty one.
            let added = assignment.adding.iter().copied().filter(|replica| !leadership.isr.contains(replica));
            let added: Vec<BrokerId> =
                added.filter(|replica| self.cluster.liveness(name, *replica) != Liveness::Offline).collect();
            self.tell_replicas(name, led_until_now, false);
            self.batch.leader_and_isr(&self.cluster, added, name, true);
            return;
        }
        let target = assignment.target();
        if let Some(known) = self.cluster.partition_mut(name) {
            known.assignment = Assignment { replicas: target.clone(), ..Assignment::default() };
        }
        self.tell_replicas(name, led_until_now, false);
        for replica in assignment.replicas.iter().filter(|replica| !target.contains(replica)) {
            self.delete_replica(*replica, name);
        }
        if assignment.is_being_reassigned() {
            self.reassignments.ended.entry(Arc::clone(&name.topic)).or_default().insert(name.partition);
            self.later.push_back(Step::Assign(BTreeSet::from([Arc::clone(&name.topic)])));
        } else {
            self.ended(vec![name.clone()]);
        }
    }

    /// ISRs have changed: moves whose target is in sync now end.
    pub(super) fn moves_may_end<'a>(&mut self, partitions: impl IntoIterator<Item = &'a TopicPartition>) {
        let may_end = |name: &&TopicPartition| {
            let Some(Partition { assignment, leadership: Some(current) }) = self.cluster.partition(name) else {
                return false;
            };
            self.reassignments.moving.contains(*name)
                && assignment.is_being_reassigned()
                && is_complete(assignment, current, |broker| self.cluster.liveness(name, broker))
        };
        let ending: BTreeSet<TopicPartition> = partitions.into_iter().filter(may_end).cloned().collect();
        if !ending.is_empty() {
            self.later.push_back(Step::Reassign(ending));
        }
    }

    /// Moves to brokers that have just started go on.
    pub(super) fn moves_to(&self, brokers: &BTreeSet<BrokerId>) -> BTreeSet<TopicPartition> {
        let is_target = |name: &&TopicPartition| {
            let target = self.cluster.partition(name).map(|known| known.assignment.target());
            target.is_some_and(|target| target.iter().any(|replica| brokers.contains(replica)))
        };
        self.reassignments.moving.iter().filter(is_target).cloned().collect()
    }

    /// What an earlier controller began.
    pub(super) fn moves_begun(&mut self) {
        let begun: BTreeSet<TopicPartition> = self
            .cluster
            .partitions()
            .filter(|(_, known)| known.assignment.is_being_reassigned())
            .map(|(name, _)| name)
            .collect();
        if !begun.is_empty() {
            info!("resuming reassignments of {}", listed(&begun.iter().collect::<Vec<_>>()));
            self.reassignments.moving = begun.clone();
            self.later.push_back(Step::Reassign(begun));
        }
    }

    pub(super) fn retry_assignments(&mut self) {
        let topics = std::mem::take(&mut self.reassignments.unwritten);
        if !topics.is_empty() {
            self.later.push_back(Step::Assign(topics));
        }
    }

    /// What whoever asked for moves is told.
    pub(super) fn reassignment_outcomes(
        &mut self,
        mut outcomes: BTreeMap<TopicPartition, Option<ReassignmentRefusal>>,
    ) -> Vec<(TopicPartition, Option<ReassignmentRefusal>)> {
        for name in std::mem::take(&mut self.reassignments.failed) {
            if let Some(outcome) = outcomes.get_mut(&name) {
                outcome.get_or_insert(ReassignmentRefusal::NotWritten);
            }
        }
        outcomes.into_iter().collect()
    }

    /// The moves under way, of all partitions or of these.
    pub(super) fn reassignments_of(&self, asked: Option<Vec<TopicPartition>>) -> Vec<(TopicPartition, Assignment)> {
        let of = |name: TopicPartition| {
            let assignment = self.cluster.partition(&name)?.assignment.clone();
            assignment.is_being_reassigned().then_some((name, assignment))
        };
        match asked {
            Some(asked) => asked.into_iter().collect::<BTreeSet<_>>().into_iter().filter_map(of).collect(),
            None => self.reassignments.moving.iter().cloned().filter_map(of).collect(),
        }
    }
}
