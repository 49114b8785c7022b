//! The controller while it is in office: events in, actions out.
//!
//! | event                    | what follows                                                                        |
//! |--------------------------|-------------------------------------------------------------------------------------|
//! | election won             | brokers told who is live; every partition settled; deletions resumed                |
//! | brokers changed          | new ones told everything; partitions of lost ones settled; a bounce is both         |
//! | topics changed           | new ones read, their partitions get a first leader; vanished ones forgotten         |
//! | partitions added         | the new ones get a first leader                                                     |
//! | deletion requested       | see `topic_deletion.rs`                                                             |
//! | unclean elections allowed| partitions without a leader settled                                                 |
//! | LeaderAndIsr answered    | replicas on failed directories count as offline; left ones of old topics make way   |
//! | StopReplica answered     | deletion goes on                                                                    |
//! | a broker asks for ISRs   | see `alter_partition.rs`                                                            |
//! | a broker wants to leave  | see `controlled_shutdown.rs`                                                        |
//! | elections are asked for  | see `leader_election.rs`                                                            |
//! | moves are asked for      | see `reassignment.rs`                                                               |
//!
//! To settle a partition is to give it the leader and ISR that follow from what is online (`election.rs`): written to
//! ZooKeeper first, told to the brokers when the write is confirmed.
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use log::{info, warn};

use crate::config::metadata_version::MetadataVersion;
use crate::controller::alter_partition::{AlterPartitions, Altered, Altering, StaleBrokerEpoch};
use crate::controller::controlled_shutdown::ShutdownRefusal;
use crate::controller::election::{self, Outcome, Unclean};
use crate::controller::features::{FeatureUpdate, FeaturesUpdated};
use crate::controller::leader_election::{Elected, ElectionRefusal, ElectionType};
use crate::controller::reassignment::{AssignmentOutcome, ReassignmentRefusal, Reassignments};
use crate::controller::requests::{ControllerIdentity, Outgoing, RequestBatch};
use crate::controller::state::{
    Assignment, Broker, Cluster, Deletion, LeaderAndIsr, Liveness, Partition, PartitionState, ReplicaDeletion, Topic,
};
use crate::controller::topic_validation::validate_name;
use crate::model::shown::shown;
use crate::model::{BrokerEpoch, BrokerId, ControllerEpoch, LeaderEpoch, PartitionEpoch, TopicId, TopicPartition};

/// A topic as its znode has it; `None` when there is no such znode (any more).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRead {
    pub name: Arc<str>,
    pub found: Option<TopicFound>,
    /// The id that the topic gets if it has none.
    pub fresh_id: TopicId,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicFound {
    pub id: Option<TopicId>,
    pub partitions: BTreeMap<i32, Assignment>,
    /// How often the znode had been written.
    pub version: i32,
}

/// A leadership as a new controller finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeadershipRead {
    pub partition: TopicPartition,
    pub leadership: LeaderAndIsr,
    /// The transaction of ZooKeeper that wrote it. The epoch of a broker is one too: a greater one has registered since.
    pub mzxid: i64,
}

/// All that a new controller reads.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub brokers: Vec<Broker>,
    pub topics: Vec<TopicRead>,
    pub leaderships: Vec<LeadershipRead>,
    pub deletions: Vec<String>,
    /// Topics that are there and cannot be understood (yet).
    pub not_understood: BTreeSet<String>,
}

#[derive(Clone, Debug)]
pub enum Event {
    /// All brokers that are live now.
    Brokers(Vec<Broker>),
    /// The names of all topics that there are now.
    TopicNames(Vec<String>),
    /// The answer to [`Action::ReadTopics`], or a topic whose znode changed.
    TopicsRead(Vec<TopicRead>),
    /// All topics that are marked for deletion now.
    DeletionsRequested(Vec<String>),
    /// The answer to [`Action::WriteLeaderships`].
    LeadershipsWritten(Vec<(TopicPartition, WriteOutcome)>),
    /// The answer to [`Action::ReadUncleanElection`]: those of the topics that allow it.
    UncleanElectionRead { asked: BTreeSet<Arc<str>>, allowed: BTreeSet<Arc<str>> },
    /// What a broker said about its replicas: whether each could be hosted.
    LeaderAndIsrAnswered { broker: BrokerId, broker_epoch: BrokerEpoch, hosted: Vec<(TopicPartition, Hosted)> },
    /// What became of replicas that a broker was told to delete.
    StopReplicaAnswered { broker: BrokerId, broker_epoch: BrokerEpoch, deleted: Vec<(TopicPartition, Deleted)> },
    /// The answer to [`Action::DeleteTopic`].
    TopicDeleted { topic: Arc<str> },
    /// The other answer to it: something in ZooKeeper was in the way.
    TopicNotDeleted { topic: Arc<str> },
    /// Time to try again what ZooKeeper refused, see [`Active::is_unfinished`].
    Retry,
    /// Unclean elections, which were not, are allowed now: of one topic, or of all that leave it to the brokers.
    UncleanElectionsAllowed { topic: Option<Arc<str>> },
    /// Brokers that say they lost a log directory.
    LogDirsFailed(BTreeSet<BrokerId>),
    /// Leaderships that leaders of an older protocol wrote themselves.
    IsrsChanged(Vec<(TopicPartition, LeaderAndIsr)>),
    /// The answer to [`Action::WriteTopicIds`].
    TopicIdsWritten(Vec<(Arc<str>, AssignmentOutcome)>),
    /// The answer to [`Action::WriteAssignments`].
    AssignmentsWritten(Vec<(Arc<str>, AssignmentOutcome)>),
    /// What stands in `/admin/preferred_replica_election`.
    PreferredElectionRequested(Vec<TopicPartition>),
    /// What stands in `/admin/reassign_partitions`: partitions, and their replicas to be.
    ReassignmentsRequested(Vec<(TopicPartition, Vec<BrokerId>)>),
    /// Time to see where leaders are: `leader.imbalance.per.broker.percentage` of a broker's may be elsewhere.
    RebalanceDue { imbalance_percentage: i32 },
    /// A broker asks; answered by [`Action::Answer`].
    Requested { id: RequestId, request: Request },
}

/// By which an answer finds whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What others ask of the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    AlterPartitions(AlterPartitions),
    /// A broker is about to stop and wants to lead nothing by then. -1 is the epoch of one that cannot say.
    ControlledShutdown {
        broker: BrokerId,
        broker_epoch: BrokerEpoch,
    },
    /// `None` is all partitions.
    ElectLeaders {
        partitions: Option<Vec<TopicPartition>>,
        election: ElectionType,
    },
    /// Partitions and their replicas to be; `None` cancels a move. Each partition is named once.
    Reassign(Vec<(TopicPartition, Option<Vec<BrokerId>>)>),
    /// Moves under way, of all partitions or of these.
    ListReassignments(Option<Vec<TopicPartition>>),
    AllocateProducerIds {
        broker: BrokerId,
        broker_epoch: BrokerEpoch,
    },
    /// Each feature is named once.
    UpdateFeatures {
        updates: Vec<FeatureUpdate>,
        validate_only: bool,
    },
}

/// Why a broker gets no producer ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocationRefusal {
    NotRegistered,
    StaleBrokerEpoch,
    /// ZooKeeper has refused it.
    NotWritten,
}

/// What they are answered, each in the words of its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    AlterPartitions(Result<Vec<Altered>, StaleBrokerEpoch>),
    /// The replicated partitions that the broker leads still.
    ControlledShutdown(Result<Vec<TopicPartition>, ShutdownRefusal>),
    Elected(Vec<Elected>),
    Reassigned(Vec<(TopicPartition, Option<ReassignmentRefusal>)>),
    Reassignments(Vec<(TopicPartition, Assignment)>),
    /// The first id that the broker may hand out, and how many.
    ProducerIds(Result<(i64, i32), AllocationRefusal>),
    /// `None` if ZooKeeper has refused it.
    FeaturesUpdated(Option<FeaturesUpdated>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hosted {
    Yes,
    /// Its log directory failed.
    OnOfflineDir,
    /// There is a log of an earlier topic of this name.
    NotBesideEarlier,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    Yes,
    Refused,
    /// Nor anything else that the request asked for.
    NotAdmitted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    Written(PartitionEpoch),
    /// Someone else wrote since; this is what is there now.
    Conflict(Option<LeaderAndIsr>),
    /// Not written; the shell has said why.
    Failed,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Open the channel to a broker; requests to it follow.
    Connect(Broker),
    /// Close it and drop what was not sent.
    Disconnect(BrokerId),
    Send(Outgoing),
    /// Read these topics and keep watching them; answered by [`Event::TopicsRead`].
    ReadTopics(Vec<String>),
    /// Write the ids into these topics, each unless its znode was written since the version that is known; answered by
    /// [`Event::TopicIdsWritten`], which names each topic once.
    WriteTopicIds(Vec<(Arc<str>, TopicFound)>),
    /// Answered by [`Event::LeadershipsWritten`], which names each partition once.
    WriteLeaderships(Vec<LeadershipWrite>),
    /// Give topics these assignments, each unless its znode was written since the version that is known; answered by
    /// [`Event::AssignmentsWritten`], which names each topic once.
    WriteAssignments(Vec<(Arc<str>, TopicFound)>),
    /// Strike partitions out of `/admin/reassign_partitions` that are to go to these replicas, or wherever they are to go.
    ForgetReassignments(Vec<(TopicPartition, Option<Vec<BrokerId>>)>),
    /// Answered by [`Event::UncleanElectionRead`].
    ReadUncleanElection(BTreeSet<Arc<str>>),
    /// Remove the topic, its configuration and its deletion marker; answered by [`Event::TopicDeleted`].
    DeleteTopic(Arc<str>),
    /// Remove deletion markers alone.
    DeleteMarkers(Vec<String>),
    /// Take the next block of producer ids for the broker, and answer the request with it.
    AllocateProducerIds {
        id: RequestId,
        broker: BrokerId,
    },
    /// Finalize what these brokers all support, and answer the request with what has come of it.
    UpdateFeatures {
        id: RequestId,
        updates: Vec<FeatureUpdate>,
        validate_only: bool,
        brokers: Vec<Broker>,
    },
    /// Each request is answered once.
    Answer {
        id: RequestId,
        answer: Answer,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeadershipWrite {
    pub partition: TopicPartition,
    /// Its `partition_epoch` is the version that is expected, or, for a new partition, of no meaning.
    pub leadership: LeaderAndIsr,
    pub is_new: bool,
    /// The leader is from outside the ISR.
    pub is_unclean: bool,
    /// Asked for by the leader, under its epoch: a state that is gone is not made anew.
    pub is_by_leader: bool,
}

/// The settings that decisions depend on.
#[derive(Clone, Debug)]
pub struct Settings {
    pub broker_id: BrokerId,
    pub protocol: MetadataVersion,
    pub inter_broker_listener: String,
    pub delete_topic_enable: bool,
}

pub struct Active {
    pub(super) settings: Settings,
    identity: ControllerIdentity,
    pub(super) cluster: Cluster,
    pub(super) batch: RequestBatch,
    pub(super) actions: Vec<Action>,
    /// Writes and reads whose answers the current event waits for.
    pub(super) awaited: usize,
    /// What is done once they have come.
    pub(super) later: VecDeque<Step>,
    /// Who is told when all is done.
    pub(super) asked: Option<(RequestId, Asked)>,
    /// Leaderships being written.
    writing: BTreeMap<TopicPartition, (Cause, LeadershipWrite)>,
    pub(super) reassignments: Reassignments,
    /// The request whose ISRs are being written: nothing else is written meanwhile.
    pub(super) altering: Option<Altering>,
    /// Topics marked for deletion that are not known or not understood (yet).
    doubtful: BTreeSet<String>,
    /// Partitions that get a leader if an unclean election is allowed, which is being read.
    undecided: Vec<TopicPartition>,
    /// Members of ISRs that no controller has seen go and come back, of partitions of which it is not written yet what
    /// follows from that.
    bounced: BTreeMap<TopicPartition, BTreeSet<BrokerId>>,
    /// Partitions whose leadership could not be written.
    unwritten: BTreeSet<TopicPartition>,
    /// Topics whose znodes could not be deleted.
    pub(super) undeleted: BTreeSet<Arc<str>>,
}

/// A list as one short line of the log.
pub(super) fn listed(things: &[impl fmt::Debug]) -> String {
    // More than a line shows.
    const MANY: usize = 100;
    let first = &things[..things.len().min(MANY)];
    format!("{} in number, {}", things.len(), shown(&format!("{first:?}")))
}

pub(super) enum Step {
    Started(Vec<Broker>),
    Failed(BTreeSet<BrokerId>),
    /// Write the assignments of these topics.
    Assign(BTreeSet<Arc<str>>),
    /// Moves of these partitions go on.
    Reassign(BTreeSet<TopicPartition>),
}

/// Why a leadership is written, and so what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// What is online has changed.
    Settling,
    /// The same, and an administrator allows any replica to lead.
    Unclean,
    Preferred,
    /// A move has no more use for some replicas.
    GivingUp,
    /// A move goes on.
    Moving,
}

/// An event whose answer depends on what comes of it.
pub(super) enum Asked {
    ControlledShutdown(BrokerId),
    Elections(ElectionType, BTreeMap<TopicPartition, Option<ElectionRefusal>>),
    Reassignments(BTreeMap<TopicPartition, Option<ReassignmentRefusal>>),
}

impl Active {
    /// Takes office: the first actions follow from everything that was read.
    pub fn elected(settings: Settings, epoch: ControllerEpoch, snapshot: Snapshot) -> (Active, Vec<Action>) {
        let identity = ControllerIdentity {
            broker_id: settings.broker_id,
            epoch,
            protocol: settings.protocol,
            inter_broker_listener: settings.inter_broker_listener.clone(),
        };
        let mut active = Active {
            settings,
            identity,
            cluster: Cluster::default(),
            batch: RequestBatch::default(),
            actions: Vec::new(),
            awaited: 0,
            later: VecDeque::new(),
            asked: None,
            writing: BTreeMap::new(),
            reassignments: Reassignments::default(),
            altering: None,
            doubtful: BTreeSet::new(),
            undecided: Vec::new(),
            bounced: BTreeMap::new(),
            unwritten: BTreeSet::new(),
            undeleted: BTreeSet::new(),
        };
        active.take_office(snapshot);
        let actions = active.finish();
        (active, actions)
    }

    pub fn epoch(&self) -> ControllerEpoch {
        self.identity.epoch
    }

    #[cfg(test)]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub fn on_event(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Brokers(brokers) => self.brokers_changed(brokers),
            Event::TopicNames(names) => self.topics_changed(names),
            Event::TopicsRead(topics) => self.topics_read(topics),
            Event::DeletionsRequested(topics) => self.deletions_requested(topics),
            Event::LeadershipsWritten(outcomes) => self.leaderships_written(outcomes),
            Event::UncleanElectionRead { asked, allowed } => self.unclean_election_read(&asked, &allowed),
            Event::LeaderAndIsrAnswered { broker, broker_epoch, hosted } => {
                if self.is_current(broker, broker_epoch) {
                    self.replicas_answered(broker, hosted);
                }
            }
            Event::StopReplicaAnswered { broker, broker_epoch, deleted } => {
                if self.is_current(broker, broker_epoch) {
                    self.replicas_deleted(broker, deleted);
                }
            }
            Event::TopicDeleted { topic } => self.topic_deleted(&topic),
            Event::TopicNotDeleted { topic } => self.topic_not_deleted(topic),
            Event::Retry => self.retry(),
            Event::UncleanElectionsAllowed { topic } => self.elect_leaderless(topic.as_deref()),
            Event::LogDirsFailed(brokers) => self.log_dirs_failed(&brokers),
            Event::IsrsChanged(leaderships) => self.isrs_changed(leaderships),
            Event::TopicIdsWritten(outcomes) => self.topic_ids_written(outcomes),
            Event::AssignmentsWritten(outcomes) => self.assignments_written(outcomes),
            Event::PreferredElectionRequested(partitions) => self.preferred_election_requested(partitions),
            Event::ReassignmentsRequested(partitions) => self.reassign_requested(partitions),
            Event::RebalanceDue { imbalance_percentage } => self.rebalance_leaders(imbalance_percentage),
            Event::Requested { id, request } => self.requested(id, request),
        }
        self.finish()
    }

    /// Whether anything failed that may be worth another try.
    pub fn is_unfinished(&self) -> bool {
        !self.unwritten.is_empty() || !self.undeleted.is_empty() || !self.reassignments.unwritten.is_empty()
    }

    fn retry(&mut self) {
        let unwritten: Vec<TopicPartition> = std::mem::take(&mut self.unwritten).into_iter().collect();
        for partition in self.settle(&unwritten) {
            self.tell_replicas(&partition, None, false);
        }
        let moving = unwritten.into_iter().filter(|name| self.reassignments.moving.contains(name)).collect();
        self.later.push_back(Step::Reassign(moving));
        self.retry_assignments();
        self.retry_deletions();
    }

    /// Partitions without a leader, of one topic or of all, get one if that is possible now.
    fn elect_leaderless(&mut self, topic: Option<&str>) {
        let mut leaderless = match topic {
            Some(topic) => self.living_partitions_of(self.cluster.topics.get(topic)),
            None => self.living_partitions(),
        };
        leaderless.retain(|name| self.cluster.state(name) != PartitionState::Online);
        self.settle(&leaderless);
    }

    fn requested(&mut self, id: RequestId, request: Request) {
        match request {
            Request::AlterPartitions(asked) => self.alter_partitions(id, asked),
            Request::ControlledShutdown { broker, broker_epoch } => self.controlled_shutdown(id, broker, broker_epoch),
            Request::ElectLeaders { partitions, election } => self.elect_leaders(id, partitions, election),
            Request::Reassign(partitions) => self.reassign(id, partitions),
            Request::AllocateProducerIds { broker, broker_epoch } => {
                let refusal = match self.cluster.brokers.get(&broker) {
                    Some(live) if live.epoch == broker_epoch => None,
                    Some(_) => Some(AllocationRefusal::StaleBrokerEpoch),
                    None => Some(AllocationRefusal::NotRegistered),
                };
                self.actions.push(match refusal {
                    None => Action::AllocateProducerIds { id, broker },
                    Some(refusal) => {
                        info!("ignoring AllocateProducerIds of broker {broker} with epoch {broker_epoch}: {refusal:?}");
                        Action::Answer { id, answer: Answer::ProducerIds(Err(refusal)) }
                    }
                });
            }
            Request::UpdateFeatures { updates, validate_only } => {
                let brokers = self.cluster.brokers.values().cloned().collect();
                self.actions.push(Action::UpdateFeatures { id, updates, validate_only, brokers });
            }
            Request::ListReassignments(partitions) => {
                let answer = Answer::Reassignments(self.reassignments_of(partitions));
                self.actions.push(Action::Answer { id, answer });
            }
        }
    }

    /// Answers of an earlier incarnation of a broker say nothing about the present one.
    fn is_current(&self, broker: BrokerId, epoch: BrokerEpoch) -> bool {
        self.cluster.brokers.get(&broker).is_some_and(|known| known.epoch == epoch)
    }

    /// Goes on with what waited for answers, and hands the actions out.
    fn finish(&mut self) -> Vec<Action> {
        while self.awaited == 0
            && let Some(step) = self.later.pop_front()
        {
            match step {
                Step::Started(brokers) => self.brokers_started(brokers),
                Step::Failed(brokers) => self.brokers_failed(&brokers),
                Step::Assign(topics) => self.write_assignments(topics),
                Step::Reassign(partitions) => self.go_on_moving(partitions),
            }
        }
        if self.awaited > 0 {
            // What the answers lead to goes out together with what there is to say already.
            return std::mem::take(&mut self.actions);
        }
        self.send();
        if let Some((id, asked)) = self.asked.take() {
            let answer = match asked {
                Asked::ControlledShutdown(broker) => Answer::ControlledShutdown(Ok(self.still_led_by(broker))),
                Asked::Elections(election, outcomes) => Answer::Elected(self.elected_leaders(election, outcomes)),
                Asked::Reassignments(outcomes) => Answer::Reassigned(self.reassignment_outcomes(outcomes)),
            };
            self.actions.push(Action::Answer { id, answer });
        }
        std::mem::take(&mut self.actions)
    }

    /// What is collected goes out before anything that is added from here on.
    pub(super) fn send(&mut self) {
        let outgoing = self.batch.take(&self.cluster, &self.identity);
        self.actions.extend(outgoing.into_iter().map(Action::Send));
    }

    fn take_office(&mut self, snapshot: Snapshot) {
        for broker in snapshot.brokers {
            self.actions.push(Action::Connect(broker.clone()));
            self.cluster.brokers.insert(broker.id, broker);
        }
        for topic in snapshot.topics {
            self.add_topic(topic);
        }
        for LeadershipRead { partition, leadership, mzxid } in snapshot.leaderships {
            self.look_for_bounces(&partition, &leadership, mzxid);
            if let Some(known) = self.cluster.partition_mut(&partition) {
                known.leadership = Some(leadership);
            }
        }
        if !self.bounced.is_empty() {
            let bounced: BTreeSet<i32> = self.bounced.values().flatten().map(|broker| broker.0).collect();
            info!(
                "bounced brokers that no controller has seen: {bounced:?}, in ISRs of {} partitions",
                self.bounced.len()
            );
        }
        // Followers look their leader up among the live brokers, so these are told first.
        self.batch.metadata([]);
        self.send();
        // Queued before anything is settled: topics on their way out get no leaders.
        let is_doubtful = |name: &String| self.settings.delete_topic_enable && snapshot.not_understood.contains(name);
        let (doubtful, deletions): (Vec<String>, Vec<String>) = snapshot.deletions.into_iter().partition(is_doubtful);
        // Nobody knows their replicas, which would stay on the brokers.
        self.doubtful.extend(doubtful);
        let deletions = self.known_deletions(deletions);
        let partitions: Vec<TopicPartition> = self.living_partitions();
        for partition in self.settle(&partitions) {
            self.tell_replicas(&partition, None, false);
        }
        self.moves_begun();
        self.queue_deletions(deletions);
    }

    /// Whoever was in the ISR when it was written and has registered since went without being seen, perhaps with its
    /// records: a controller that had seen it would have written the ISR anew, and so would whoever let it back in. Kafka's
    /// takes such a member for one that never went. Not seen here, either, are those that an earlier controller wrote into
    /// an ISR after they had come back, and before it had heard of that. Whoever is the only replica has nobody to differ from.
    fn look_for_bounces(&mut self, name: &TopicPartition, leadership: &LeaderAndIsr, mzxid: i64) {
        let has_registered_since =
            |member: &&BrokerId| self.cluster.brokers.get(member).is_some_and(|broker| broker.epoch.0 > mzxid);
        if self.cluster.partition(name).is_none_or(|known| known.assignment.replicas.len() < 2) {
            return;
        }
        let bounced: BTreeSet<BrokerId> = leadership.isr.iter().filter(has_registered_since).copied().collect();
        if !bounced.is_empty() {
            self.bounced.insert(name.clone(), bounced);
        }
    }

    fn living_partitions(&self) -> Vec<TopicPartition> {
        self.living_partitions_of(self.cluster.topics.values())
    }

    fn living_partitions_of<'a>(&self, topics: impl IntoIterator<Item = &'a Topic>) -> Vec<TopicPartition> {
        let named = topics.into_iter().flat_map(Topic::named).map(|(name, _)| name);
        named.filter(|name| !self.cluster.is_going(name)).collect()
    }

    /// A broker that is about to leave hears of what it leads, or led until now; what it followed it has stopped.
    pub(super) fn tell_replicas(&mut self, partition: &TopicPartition, led_until_now: Option<BrokerId>, is_new: bool) {
        let Some(known) = self.cluster.partition(partition) else { return };
        let leader = known.leadership.as_ref().and_then(|leadership| leadership.leader);
        let is_told = |replica: &BrokerId| match self.cluster.liveness(partition, *replica) {
            Liveness::Online => true,
            Liveness::Leaving => leader == Some(*replica) || led_until_now == Some(*replica),
            Liveness::Offline => false,
        };
        let told: Vec<BrokerId> = known.assignment.replicas.iter().copied().filter(is_told).collect();
        self.batch.leader_and_isr(&self.cluster, told, partition, is_new);
    }

    /// Gives the partitions the leadership that follows from what is online, and returns those whose leadership stays.
    pub(super) fn settle(&mut self, partitions: &[TopicPartition]) -> Vec<TopicPartition> {
        self.settle_with(Cause::Settling, partitions, |_| Unclean::Unknown)
    }

    pub(super) fn settle_with(
        &mut self,
        cause: Cause,
        partitions: &[TopicPartition],
        unclean: impl Fn(&str) -> Unclean,
    ) -> Vec<TopicPartition> {
        let mut unchanged = Vec::new();
        let mut writes = Vec::new();
        let mut asked = BTreeSet::new();
        let mut leaderless = Vec::new();
        for name in partitions {
            if self.cluster.is_going(name) || self.writing.contains_key(name) {
                continue;
            }
            let Some(partition) = self.cluster.partition(name) else { continue };
            let replicas = &partition.assignment.replicas;
            let liveness = |broker| self.cluster.liveness(name, broker);
            let mut is_unclean = false;
            let next = match &partition.leadership {
                None => match election::first(replicas, |broker| liveness(broker) == Liveness::Online) {
                    Some((leader, isr)) => LeaderAndIsr {
                        leader: Some(leader),
                        leader_epoch: LeaderEpoch(0),
                        isr,
                        recovering: false,
                        controller_epoch: self.identity.epoch,
                        partition_epoch: PartitionEpoch(0),
                    },
                    None => {
                        leaderless.push(name);
                        continue;
                    }
                },
                Some(current) => match self.settled(name, current, replicas, unclean(&name.topic)) {
                    Outcome::Unchanged => {
                        self.bounced.remove(name);
                        unchanged.push(name.clone());
                        continue;
                    }
                    Outcome::Undecided => {
                        asked.insert(Arc::clone(&name.topic));
                        self.undecided.push(name.clone());
                        continue;
                    }
                    Outcome::Changed { leader, isr, unclean } => {
                        is_unclean = unclean;
                        if let Some(id) = leader.filter(|_| unclean) {
                            warn!("unclean election for partition {name}: broker {id} leads and records may be lost");
                        }
                        LeaderAndIsr {
                            leader,
                            leader_epoch: LeaderEpoch(current.leader_epoch.0.saturating_add(1)),
                            isr,
                            recovering: current.recovering
                                || (unclean && self.settings.protocol.is_leader_recovery_supported()),
                            controller_epoch: self.identity.epoch,
                            partition_epoch: current.partition_epoch,
                        }
                    }
                },
            };
            let is_new = partition.leadership.is_none();
            writes.push(LeadershipWrite {
                partition: name.clone(),
                leadership: next,
                is_new,
                is_unclean,
                is_by_leader: false,
            });
        }
        if !leaderless.is_empty() {
            warn!(
                "new partitions stay without a leader, since none of their replicas is online: {}",
                listed(&leaderless)
            );
        }
        if !asked.is_empty() {
            self.awaited += 1;
            self.actions.push(Action::ReadUncleanElection(asked));
        }
        self.write(cause, writes);
        unchanged
    }

    fn settled(
        &self,
        name: &TopicPartition,
        current: &LeaderAndIsr,
        replicas: &[BrokerId],
        unclean: Unclean,
    ) -> Outcome {
        let liveness = |broker| self.cluster.liveness(name, broker);
        match self.bounced.get(name) {
            None => election::settled(current, replicas, liveness, unclean),
            Some(bounced) => election::settled_after_bounces(current, replicas, bounced, liveness, unclean),
        }
    }

    fn write(&mut self, cause: Cause, writes: Vec<LeadershipWrite>) {
        if writes.is_empty() {
            return;
        }
        for write in &writes {
            self.writing.insert(write.partition.clone(), (cause, write.clone()));
        }
        self.awaited += 1;
        self.actions.push(Action::WriteLeaderships(writes));
    }

    /// Writes the leadership that the partitions get for this cause, and returns those that get none.
    pub(super) fn write_for(&mut self, cause: Cause, partitions: &[TopicPartition]) -> Vec<TopicPartition> {
        let (mut writes, mut without) = (Vec::new(), Vec::new());
        for name in partitions {
            let leadership = match cause {
                Cause::Preferred => self.preferred_leadership(name),
                _ => self.leadership_of_move(cause, name),
            };
            match leadership.filter(|_| !self.writing.contains_key(name)) {
                None => without.push(name.clone()),
                Some(leadership) => writes.push(LeadershipWrite {
                    partition: name.clone(),
                    leadership,
                    is_new: false,
                    is_unclean: false,
                    is_by_leader: false,
                }),
            }
        }
        self.write(cause, writes);
        without
    }

    fn leaderships_written(&mut self, outcomes: Vec<(TopicPartition, WriteOutcome)>) {
        self.awaited = self.awaited.saturating_sub(1);
        if let Some(altering) = self.altering.take() {
            self.alterations_written(altering, outcomes);
            return;
        }
        let mut again: BTreeMap<Cause, Vec<TopicPartition>> = BTreeMap::new();
        let mut changed = Vec::new();
        for (name, outcome) in outcomes {
            let Some((cause, write)) = self.writing.remove(&name) else { continue };
            let Some(partition) = self.cluster.partition_mut(&name) else { continue };
            match outcome {
                WriteOutcome::Written(partition_epoch) => {
                    let written = LeaderAndIsr { partition_epoch, ..write.leadership };
                    let before = partition.leadership.replace(written).and_then(|before| before.leader);
                    match cause {
                        Cause::Settling | Cause::Unclean | Cause::Preferred => {
                            if cause != Cause::Preferred {
                                self.bounced.remove(&name);
                            }
                            self.tell_replicas(&name, before, write.is_new);
                            changed.push(name);
                        }
                        Cause::GivingUp => self.replicas_given_up(&name),
                        Cause::Moving => self.moved(&name, before),
                    }
                }
                WriteOutcome::Conflict(Some(current)) if current.controller_epoch > self.identity.epoch => {
                    warn!("partition {name} was written by a later controller, epoch {}", current.controller_epoch);
                    self.not_given_up(&name);
                }
                WriteOutcome::Conflict(current) => {
                    partition.leadership = current;
                    again.entry(cause).or_default().push(name);
                }
                WriteOutcome::Failed => {
                    self.not_given_up(&name);
                    self.unwritten.insert(name);
                }
            }
        }
        self.moves_may_end(&changed);
        for (cause, names) in again {
            let settled = match cause {
                Cause::Settling => self.settle(&names),
                Cause::Unclean => self.settle_with(cause, &names, |_| Unclean::Allowed),
                Cause::Preferred => self.write_for(cause, &names),
                Cause::GivingUp => {
                    for name in self.write_for(cause, &names) {
                        self.not_given_up(&name);
                    }
                    continue;
                }
                Cause::Moving => {
                    self.later.push_back(Step::Reassign(names.into_iter().collect()));
                    continue;
                }
            };
            // A leadership that someone else wrote may be just right; then the replicas still have to hear of it.
            for name in settled {
                self.tell_replicas(&name, None, false);
            }
        }
    }

    fn unclean_election_read(&mut self, asked: &BTreeSet<Arc<str>>, allowed: &BTreeSet<Arc<str>>) {
        self.awaited = self.awaited.saturating_sub(1);
        let partitions: Vec<TopicPartition> =
            self.undecided.extract_if(.., |partition| asked.contains(&partition.topic)).collect();
        let verdict = |topic: &str| if allowed.contains(topic) { Unclean::Allowed } else { Unclean::Refused };
        let unchanged = self.settle_with(Cause::Settling, &partitions, verdict);
        self.batch.metadata(unchanged);
    }

    fn brokers_changed(&mut self, brokers: Vec<Broker>) {
        let now: BTreeMap<BrokerId, Broker> = brokers.into_iter().map(|broker| (broker.id, broker)).collect();
        let dead: BTreeSet<BrokerId> =
            self.cluster.brokers.keys().filter(|id| !now.contains_key(id)).copied().collect();
        let mut started = Vec::new();
        let mut bounced = Vec::new();
        let mut modified = false;
        for broker in now.into_values() {
            match self.cluster.brokers.get_mut(&broker.id) {
                None => started.push(broker),
                Some(known) if known.epoch < broker.epoch => bounced.push(broker),
                // A list that was read earlier may arrive later; an old registration never comes back.
                Some(known) if known.epoch > broker.epoch => {}
                Some(known) => {
                    if known.endpoints != broker.endpoints || known.features != broker.features {
                        *known = broker;
                        modified = true;
                    }
                }
            }
        }
        if !started.is_empty() || !bounced.is_empty() || !dead.is_empty() {
            let ids = |brokers: &[Broker]| brokers.iter().map(|broker| broker.id.0).collect::<Vec<_>>();
            info!(
                "newly added brokers: {:?}, deleted brokers: {:?}, bounced brokers: {:?}",
                ids(&started),
                dead.iter().map(|id| id.0).collect::<Vec<_>>(),
                ids(&bounced)
            );
        }
        if modified {
            self.batch.metadata([]);
        }
        if !started.is_empty() {
            self.later.push_back(Step::Started(started));
        }
        if !bounced.is_empty() {
            self.later.push_back(Step::Failed(bounced.iter().map(|broker| broker.id).collect()));
            self.later.push_back(Step::Started(bounced));
        }
        if !dead.is_empty() {
            self.later.push_back(Step::Failed(dead));
        }
    }

    fn brokers_started(&mut self, brokers: Vec<Broker>) {
        let ids: BTreeSet<BrokerId> = brokers.iter().map(|broker| broker.id).collect();
        self.send();
        for broker in brokers {
            self.cluster.offline_dirs.remove(&broker.id);
            self.actions.push(Action::Connect(broker.clone()));
            self.cluster.brokers.insert(broker.id, broker);
        }
        // Everybody learns who is live before anybody is told to lead or follow; the new ones learn all there is.
        let everything: Vec<TopicPartition> = self.living_partitions();
        let others: Vec<BrokerId> = self.cluster.brokers.keys().filter(|id| !ids.contains(id)).copied().collect();
        for other in others {
            self.batch.metadata_to(other, []);
        }
        for id in &ids {
            self.batch.metadata_to(*id, everything.iter().cloned());
        }
        self.send();
        let hosted: BTreeSet<TopicPartition> = self.cluster.partitions_on(&ids).into_iter().collect();
        let unsettled: Vec<TopicPartition> = everything
            .into_iter()
            .filter(|name| hosted.contains(name) || self.cluster.state(name) != PartitionState::Online)
            .collect();
        for partition in self.settle(&unsettled) {
            if hosted.contains(&partition) {
                self.batch.leader_and_isr(
                    &self.cluster,
                    self.cluster
                        .partition(&partition)
                        .into_iter()
                        .flat_map(|known| known.assignment.replicas.iter().copied())
                        .filter(|replica| ids.contains(replica)),
                    &partition,
                    false,
                );
            }
        }
        let moves = self.moves_to(&ids);
        self.later.push_back(Step::Reassign(moves));
        self.deletions_told_again(&ids);
        self.deletions_possible_again(&ids);
    }

    fn brokers_failed(&mut self, brokers: &BTreeSet<BrokerId>) {
        self.send();
        for id in brokers {
            self.cluster.brokers.remove(id);
            self.cluster.shutting_down.remove(id);
            self.cluster.offline_dirs.remove(id);
            self.actions.push(Action::Disconnect(*id));
        }
        let affected = self.cluster.partitions_on(brokers);
        let unchanged = self.settle(&affected);
        // Even if no partition changed, everybody learns that the brokers are gone.
        self.batch.metadata(unchanged);
        self.replicas_lost(brokers);
    }

    fn replicas_answered(&mut self, broker: BrokerId, hosted: Vec<(TopicPartition, Hosted)>) {
        let mut offline = self.cluster.offline_dirs.remove(&broker).unwrap_or_default();
        let (mut changed, mut earlier) = (Vec::new(), Vec::new());
        for (partition, hosted) in hosted {
            let news = match hosted {
                Hosted::Yes => {
                    // Else it answers what it was told before the replica was moved away.
                    if self.cluster.is_replica(broker, &partition) {
                        self.reassignments.nothing_to_delete(broker, &partition);
                    }
                    offline.remove(&partition)
                }
                Hosted::OnOfflineDir => offline.insert(partition.clone()),
                Hosted::NotBesideEarlier => {
                    earlier.push(partition);
                    continue;
                }
            };
            if news {
                changed.push(partition);
            }
        }
        if !offline.is_empty() {
            self.cluster.offline_dirs.insert(broker, offline);
        }
        if !changed.is_empty() {
            info!("replicas on broker {broker} whose log directory failed or came back: {}", listed(&changed));
            let unchanged = self.settle(&changed);
            self.batch.metadata(unchanged);
            // Deletions may have waited for one that it was told of before.
            if changed.iter().any(|name| self.cluster.is_going(name) && self.cluster.is_replica_online(name, broker)) {
                self.deletions_possible_again(&BTreeSet::from([broker]));
            }
        }
        self.earlier_replicas_found(broker, &earlier);
    }

    /// Telling a broker again about all of its replicas makes it say which of them it can no longer host. Those that are going
    /// it is told to delete: it may be able to by now, and of what its disk has lost it says that it is not.
    fn log_dirs_failed(&mut self, brokers: &BTreeSet<BrokerId>) {
        let (going, staying): (Vec<_>, Vec<_>) =
            self.cluster.partitions_on(brokers).into_iter().partition(|name| self.cluster.is_going(name));
        for name in going {
            for broker in brokers {
                self.cluster.offline_dirs.get_mut(broker).map(|offline| offline.remove(&name));
            }
        }
        self.deletions_possible_again(brokers);
        for name in staying {
            let Some(known) = self.cluster.partition(&name) else { continue };
            let replicas = known.assignment.replicas.iter().copied();
            let affected: Vec<BrokerId> = replicas.filter(|replica| brokers.contains(replica)).collect();
            self.batch.leader_and_isr(&self.cluster, affected, &name, false);
        }
    }

    fn isrs_changed(&mut self, leaderships: Vec<(TopicPartition, LeaderAndIsr)>) {
        let mut changed = Vec::new();
        for (name, leadership) in leaderships {
            if let Some(known) = self.cluster.partition_mut(&name) {
                known.leadership = Some(leadership);
                changed.push(name);
            }
        }
        self.moves_may_end(&changed);
        self.batch.metadata(changed);
    }

    fn topics_changed(&mut self, names: Vec<String>) {
        let names: BTreeSet<String> = names.into_iter().collect();
        let gone: Vec<Arc<str>> =
            self.cluster.topics.keys().filter(|name| !names.contains(&***name)).cloned().collect();
        let mut unknown = Vec::new();
        for topic in gone {
            if !self.cluster.is_queued_for_deletion(&topic) {
                info!("topic {topic} is gone from ZooKeeper");
                self.forget(&topic);
            } else if !self.undeleted.contains(&topic) {
                // Nothing is forgotten of a wish to delete it for a list that is older than the topic.
                unknown.push(topic.to_string());
            }
        }
        // A marker for a topic that has gone before it was understood is looked into again.
        unknown.extend(self.doubtful.iter().filter(|name| !names.contains(*name)).cloned());
        unknown.extend(names.into_iter().filter(|name| !self.cluster.topics.contains_key(name.as_str())));
        if !unknown.is_empty() {
            self.actions.push(Action::ReadTopics(unknown));
        }
    }

    fn topics_read(&mut self, topics: Vec<TopicRead>) {
        let mut new_partitions = Vec::new();
        let mut deletions = Vec::new();
        for read in topics {
            let (name, found) = (Arc::clone(&read.name), read.found.is_some());
            self.give_up_deletion_of_another(&read);
            new_partitions.extend(self.add_topic(read));
            if self.doubtful.remove(&*name) {
                match found {
                    true => deletions.push(name.to_string()),
                    false => self.actions.push(Action::DeleteMarkers(vec![name.to_string()])),
                }
            }
        }
        if !new_partitions.is_empty() {
            info!("new partitions: {}", listed(&new_partitions));
        }
        let deletions = self.known_deletions(deletions);
        self.settle(&new_partitions);
        self.queue_deletions(deletions);
    }

    /// A topic as someone else has left it.
    pub(super) fn topic_found(&mut self, name: &Arc<str>, found: TopicFound) {
        let fresh_id = self.cluster.topics.get(name).map_or(TopicId::ZERO, |topic| topic.id);
        let new = self.add_topic(TopicRead { name: Arc::clone(name), found: Some(found), fresh_id });
        self.settle(&new);
    }

    /// Takes over what is new in the znode, and returns the partitions that were not known.
    fn add_topic(&mut self, read: TopicRead) -> Vec<TopicPartition> {
        let TopicRead { name, found, fresh_id } = read;
        let Some(found) = found else { return Vec::new() };
        // Another topic may have taken the name: then what is known of this one is never written over it.
        if self.is_same_topic(&name, &found)
            && let Some(known) = self.cluster.topics.get_mut(&name)
        {
            known.version = found.version;
        }
        let known = self.cluster.topics.get(&name);
        if known.is_some_and(|topic| topic.deletion.is_some()) {
            return Vec::new();
        }
        let known_id = known.map(|topic| topic.id).filter(|id| !id.is_zero());
        let id = match found.id {
            Some(id) => id,
            None if self.settings.protocol.is_topic_ids_supported() => {
                // Written by a tool or broker that knows no ids; the topic keeps the id it had.
                let id = known_id.unwrap_or(fresh_id);
                let written = (Arc::clone(&name), TopicFound { id: Some(id), ..found.clone() });
                if let Some(Action::WriteTopicIds(writes)) = self.actions.last_mut() {
                    writes.push(written);
                } else {
                    self.awaited += 1;
                    self.actions.push(Action::WriteTopicIds(vec![written]));
                }
                id
            }
            None => known_id.unwrap_or(TopicId::ZERO),
        };
        let topic = self.cluster.topics.entry(Arc::clone(&name)).or_insert_with(|| Topic {
            name: Arc::clone(&name),
            id: TopicId::ZERO,
            partitions: BTreeMap::new(),
            version: found.version,
            deletion: None,
        });
        let mut new = Vec::new();
        for (partition, assignment) in found.partitions {
            topic.partitions.entry(partition).or_insert_with(|| {
                new.push(TopicPartition { topic: Arc::clone(&name), partition });
                Partition { assignment, leadership: None }
            });
        }
        self.cluster.identify(&name, id);
        new
    }

    /// What could not be written has changed, and is read again by its watch, or is written by the next controller.
    fn topic_ids_written(&mut self, outcomes: Vec<(Arc<str>, AssignmentOutcome)>) {
        self.awaited = self.awaited.saturating_sub(1);
        for (topic, outcome) in outcomes {
            if let AssignmentOutcome::Written(version) = outcome
                && let Some(known) = self.cluster.topics.get_mut(&topic)
            {
                known.version = version;
            }
        }
    }

    fn deletions_requested(&mut self, topics: Vec<String>) {
        if !self.settings.delete_topic_enable {
            if !topics.is_empty() {
                info!("not deleting {}, since delete.topic.enable is false", listed(&topics));
                self.actions.push(Action::DeleteMarkers(topics));
            }
            return;
        }
        self.give_up_deletions(&topics);
        // A name that no topic can have is never known; what carries it can be removed all the same.
        let (topics, illegal): (Vec<String>, Vec<String>) =
            topics.into_iter().partition(|topic| validate_name(topic).is_ok());
        self.known_deletions(illegal);
        // A topic may have been created and marked before its creation was heard of here.
        let (known, unknown): (Vec<String>, Vec<String>) =
            topics.into_iter().partition(|topic| self.cluster.topics.contains_key(topic.as_str()));
        // One whose marker has been taken back stays.
        self.doubtful = unknown.iter().cloned().collect();
        if !unknown.is_empty() {
            self.actions.push(Action::ReadTopics(unknown));
        }
        let known = self.known_deletions(known);
        self.queue_deletions(known);
    }

    /// Marks topics as queued and returns those that were not; for topics that do not exist the rest is removed.
    pub(super) fn known_deletions(&mut self, topics: Vec<String>) -> Vec<Arc<str>> {
        if !self.settings.delete_topic_enable {
            if !topics.is_empty() {
                self.actions.push(Action::DeleteMarkers(topics));
            }
            return Vec::new();
        }
        let mut queued = Vec::new();
        for name in topics {
            match self.cluster.topics.get_mut(name.as_str()) {
                // A controller before us got no further than removing the topic itself.
                None => {
                    self.awaited += 1;
                    self.actions.push(Action::DeleteTopic(name.into()));
                }
                Some(topic) if topic.deletion.is_none() => {
                    topic.deletion = Some(Deletion::default());
                    queued.push(Arc::clone(&topic.name));
                }
                Some(_) => {}
            }
        }
        queued
    }

    pub(super) fn forget(&mut self, topic: &Arc<str>) {
        self.cluster.forget(topic);
        self.writing.retain(|partition, _| partition.topic != *topic);
        self.unwritten.retain(|partition| partition.topic != *topic);
        self.bounced.retain(|partition, _| partition.topic != *topic);
        self.reassignments.forget(topic);
    }

    fn replicas_deleted(&mut self, broker: BrokerId, deleted: Vec<(TopicPartition, Deleted)>) {
        for (partition, deleted) in deleted {
            let outcome = match deleted {
                Deleted::Yes => {
                    self.reassignments.nothing_to_delete(broker, &partition);
                    ReplicaDeletion::Successful
                }
                Deleted::Refused => {
                    // Of a replica that it is to host it is asked again only when it has found it again.
                    match self.cluster.is_replica(broker, &partition) {
                        true => self.reassignments.nothing_to_delete(broker, &partition),
                        false => self.reassignments.not_deleted(broker, &partition),
                    }
                    ReplicaDeletion::Ineligible
                }
                Deleted::NotAdmitted => {
                    self.reassignments.not_deleted(broker, &partition);
                    ReplicaDeletion::Ineligible
                }
            };
            self.replica_deletion_ended(&partition, broker, outcome);
        }
        self.resume_deletions();
    }
}
