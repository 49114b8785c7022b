//! AlterPartition: a leader asks for other ISRs of its partitions. Whatever comes of it, all brokers are told the metadata
//! of all partitions that the request names, and no replica is told to lead or follow: the leader epoch stays. One request
//! is one event, however many partitions it names, since a broker asks for no more until it has been answered.
//!
//! Checked in this order, each partition for itself:
//!
//! | what is asked                                          | outcome                    |
//! |--------------------------------------------------------|----------------------------|
//! | under an older leader epoch                            | `FencedLeaderEpoch`        |
//! | under a leader or partition epoch newer than ours      | `NotController`            |
//! | what is in force, also under an older partition epoch  | what is in force           |
//! | under an older partition epoch                         | `InvalidUpdateVersion`     |
//! | a recovering leader with followers, or to recover again| `InvalidRequest`           |
//! | by another than the leader; an ISR without the leader  | `InvalidRequest`           |
//! | a member twice, or a new one that is no replica        | `InvalidRequest`           |
//! | a member that is not live, or is shutting down         | `IneligibleReplica`, or what is in force to a leader of before 3.2 |
//! | a member as another registration of it than is live    | the same                   |
//! | anything else                                          | written, if ZooKeeper agrees |
//!
//! Kafka has the first two the other way round. Under an older leader epoch the partition epoch is newer only if somebody has
//! deleted the state, which was made anew: its former leader, which has not obeyed that, would ask for ever, and a JVM broker
//! asks for nothing else while one of its partitions is told `NotController`.
//!
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/controller/KafkaController.scala (tryProcessAlterPartition); that the
//! request comes from the leader, and is about replicas, is checked as in metadata/src/main/java/org/apache/kafka/controller/
//! ReplicationControlManager.java (validateAlterPartitionData), since no broker would recover from the contrary; so are the
//! registrations of members (KIP-903), which Kafka on ZooKeeper does not tell.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use log::{debug, info};

use crate::controller::active::{Action, Active, Answer, LeadershipWrite, RequestId, WriteOutcome, listed};
use crate::controller::state::LeaderAndIsr;
use crate::model::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionEpoch, TopicId, TopicPartition};

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlterPartitions {
    pub broker: BrokerId,
    pub broker_epoch: BrokerEpoch,
    /// The leader knows what to do when a member is refused. One of before 3.2 tries again in a way that its own code refuses,
    /// and asks for no ISR of the partition any more before the leader epoch changes.
    /// Source: kafka 2.8.2 core/src/main/scala/kafka/cluster/Partition.scala (handleAlterIsrResponse).
    pub knows_refused_members: bool,
    /// One that is named twice means what it says last.
    pub partitions: Vec<AskedPartition>,
}

/// A topic as a request names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicRef {
    Name(Arc<str>),
    Id(TopicId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedPartition {
    pub topic: TopicRef,
    pub partition: i32,
    pub asked: AskedIsr,
}

/// What a leader asks for, and what it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedIsr {
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    pub isr: Vec<BrokerId>,
    /// Of those members of whom the leader says it: the registration under which it has seen them in sync.
    pub epochs: BTreeMap<BrokerId, BrokerEpoch>,
    /// It was elected unclean and has not recovered.
    pub recovering: bool,
}

/// Why an ISR stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlterRefusal {
    /// The leader has heard of a later controller than this one.
    NotController,
    UnknownTopicId,
    UnknownTopicOrPartition,
    FencedLeaderEpoch,
    InvalidUpdateVersion,
    InvalidRequest,
    IneligibleReplica,
    /// ZooKeeper has refused it.
    NotWritten,
}

/// What became of one partition of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Altered {
    /// Empty where the request named an id that nobody has.
    pub topic: Arc<str>,
    pub topic_id: TopicId,
    pub partition: i32,
    /// What is in force now.
    pub outcome: Result<LeaderAndIsr, AlterRefusal>,
}

/// The request comes from a broker that is not registered, or not like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaleBrokerEpoch;

/// A request whose writes are under way.
pub(super) struct Altering {
    id: RequestId,
    outcomes: BTreeMap<TopicPartition, Result<LeaderAndIsr, AlterRefusal>>,
    unknown: Vec<Altered>,
    writes: BTreeMap<TopicPartition, LeaderAndIsr>,
}

enum Verdict {
    InForce,
    Refused(AlterRefusal),
    Write,
}

fn judge(
    current: &LeaderAndIsr,
    replicas: &[BrokerId],
    broker: BrokerId,
    asked: &AskedIsr,
    knows_refused_members: bool,
    is_eligible: impl Fn(BrokerId) -> bool,
) -> Verdict {
    let is_in_force = current.leader == Some(broker)
        && current.leader_epoch == asked.leader_epoch
        && current.isr == asked.isr
        && current.recovering == asked.recovering;
    if asked.leader_epoch < current.leader_epoch {
        Verdict::Refused(AlterRefusal::FencedLeaderEpoch)
    } else if asked.partition_epoch > current.partition_epoch || asked.leader_epoch > current.leader_epoch {
        Verdict::Refused(AlterRefusal::NotController)
    } else if is_in_force {
        Verdict::InForce
    } else if asked.partition_epoch < current.partition_epoch {
        Verdict::Refused(AlterRefusal::InvalidUpdateVersion)
    } else if (asked.recovering && (asked.isr.len() > 1 || !current.recovering))
        || current.leader != Some(broker)
        || !asked.isr.contains(&broker)
        || !has_each_once(&asked.isr, |member| replicas.contains(&member) || current.isr.contains(&member))
    {
        Verdict::Refused(AlterRefusal::InvalidRequest)
    } else if !asked.isr.iter().all(|member| is_eligible(*member)) {
        match knows_refused_members {
            true => Verdict::Refused(AlterRefusal::IneligibleReplica),
            // It goes on from there, and asks again when the member fetches again.
            false => Verdict::InForce,
        }
    } else {
        Verdict::Write
    }
}

/// Each member counts for `min.insync.replicas`.
fn has_each_once(isr: &[BrokerId], may_be_in: impl Fn(BrokerId) -> bool) -> bool {
    let members: BTreeSet<BrokerId> = isr.iter().copied().collect();
    members.len() == isr.len() && members.into_iter().all(may_be_in)
}

impl Active {
    pub(super) fn alter_partitions(&mut self, id: RequestId, request: AlterPartitions) {
        let AlterPartitions { broker, broker_epoch, knows_refused_members, partitions } = request;
        // Exactly this one: a leader that has registered anew has lost what it led before.
        let known = self.cluster.brokers.get(&broker).map(|known| known.epoch);
        if known != Some(broker_epoch) {
            info!(
                "ignoring AlterPartition of broker {broker} with epoch {broker_epoch}, which is known with {known:?}"
            );
            self.actions.push(Action::Answer { id, answer: Answer::AlterPartitions(Err(StaleBrokerEpoch)) });
            return;
        }
        let mut altering = Altering { id, outcomes: BTreeMap::new(), unknown: Vec::new(), writes: BTreeMap::new() };
        let mut refused = Vec::new();
        for (name, asked) in self.named(partitions, &mut altering.unknown) {
            let current = self.cluster.partition(&name).and_then(|known| Some((known.leadership.as_ref()?, known)));
            let is_seen_as_it_is = |member: BrokerId| match asked.epochs.get(&member) {
                Some(seen) => self.cluster.brokers.get(&member).is_some_and(|live| live.epoch == *seen),
                None => true,
            };
            let is_eligible = |member| self.cluster.is_electable(member) && is_seen_as_it_is(member);
            let outcome = match current {
                None => Err(AlterRefusal::UnknownTopicOrPartition),
                Some((current, known)) => {
                    match judge(current, &known.assignment.replicas, broker, &asked, knows_refused_members, is_eligible)
                    {
                        Verdict::InForce => Ok(current.clone()),
                        Verdict::Refused(why) => {
                            debug!("partition {name} stays {current:?}, broker {broker} asks for {asked:?}: {why:?}");
                            refused.push((name.to_string(), why));
                            Err(why)
                        }
                        Verdict::Write => {
                            let next = LeaderAndIsr {
                                isr: asked.isr,
                                recovering: asked.recovering,
                                controller_epoch: self.epoch(),
                                ..current.clone()
                            };
                            altering.writes.insert(name, next);
                            continue;
                        }
                    }
                }
            };
            altering.outcomes.insert(name, outcome);
        }
        if !refused.is_empty() {
            info!("not altering partitions for broker {broker}: {}", listed(&refused));
        }
        if altering.writes.is_empty() {
            self.altered(altering);
            return;
        }
        let writes = altering.writes.iter().map(|(partition, leadership)| LeadershipWrite {
            partition: partition.clone(),
            leadership: leadership.clone(),
            is_new: false,
            is_unclean: false,
            is_by_leader: true,
        });
        self.awaited += 1;
        self.actions.push(Action::WriteLeaderships(writes.collect()));
        self.altering = Some(altering);
    }

    /// The partitions by their names; what nobody is called is set aside.
    fn named(&self, partitions: Vec<AskedPartition>, unknown: &mut Vec<Altered>) -> BTreeMap<TopicPartition, AskedIsr> {
        let mut named = BTreeMap::new();
        for AskedPartition { topic, partition, asked } in partitions {
            let name = match topic {
                TopicRef::Name(name) => name,
                TopicRef::Id(id) => match self.cluster.topic_name(id) {
                    Some(name) => Arc::clone(name),
                    None => {
                        let outcome = Err(AlterRefusal::UnknownTopicId);
                        unknown.push(Altered { topic: "".into(), topic_id: id, partition, outcome });
                        continue;
                    }
                },
            };
            named.insert(TopicPartition { topic: name, partition }, asked);
        }
        named
    }

    /// What became of the writes of a request.
    pub(super) fn alterations_written(
        &mut self,
        mut altering: Altering,
        outcomes: Vec<(TopicPartition, WriteOutcome)>,
    ) {
        for (name, outcome) in outcomes {
            let Some(asked) = altering.writes.remove(&name) else { continue };
            let own_epoch = self.epoch();
            let known = self.cluster.partition_mut(&name);
            let outcome = match outcome {
                WriteOutcome::Written(partition_epoch) => {
                    debug!("ISR of partition {name} is {:?} with partition epoch {partition_epoch}", asked.isr);
                    let written = LeaderAndIsr { partition_epoch, ..asked };
                    if let Some(known) = known {
                        known.leadership = Some(written.clone());
                    }
                    Ok(written)
                }
                WriteOutcome::Conflict(current) => {
                    // Whose leader is of an older protocol: it writes by itself.
                    let current = current.filter(|current| current.controller_epoch <= own_epoch);
                    if let (Some(known), Some(current)) = (known, current) {
                        known.leadership = Some(current);
                    }
                    Err(AlterRefusal::InvalidUpdateVersion)
                }
                WriteOutcome::Failed => Err(AlterRefusal::NotWritten),
            };
            altering.outcomes.insert(name, outcome);
        }
        self.altered(altering);
    }

    fn altered(&mut self, altering: Altering) {
        let Altering { id, outcomes, unknown: mut altered, .. } = altering;
        self.batch.metadata(outcomes.keys().cloned());
        self.moves_may_end(outcomes.keys());
        altered.extend(outcomes.into_iter().map(|(name, outcome)| Altered {
            topic_id: self.cluster.topics.get(&name.topic).map_or(TopicId::ZERO, |topic| topic.id),
            topic: name.topic,
            partition: name.partition,
            outcome,
        }));
        self.actions.push(Action::Answer { id, answer: Answer::AlterPartitions(Ok(altered)) });
    }
}
