//! The core driven by hand: writes and reads are answered from a map that stands for ZooKeeper's partition states.
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::config::metadata_version::MetadataVersion;
use crate::controller::active::{
    Action, Active, Answer, Deleted, Event, Hosted, LeadershipRead, Request, RequestId, Settings, Snapshot, TopicFound,
    TopicRead, WriteOutcome,
};
use crate::controller::alter_partition::{
    AlterPartitions, AlterRefusal, Altered, AskedIsr, AskedPartition, StaleBrokerEpoch, TopicRef,
};
use crate::controller::controlled_shutdown::ShutdownRefusal;
use crate::controller::counters::ControllerCounters;
use crate::controller::reassignment::AssignmentOutcome;
use crate::controller::requests::{ControlRequest, Outgoing};
use crate::controller::state::{Assignment, Broker, LeaderAndIsr, PartitionState};
use crate::model::endpoint::Endpoint;
use crate::model::{BrokerEpoch, BrokerId, ControllerEpoch, LeaderEpoch, PartitionEpoch, TopicId, TopicPartition};

pub(super) const EPOCH: ControllerEpoch = ControllerEpoch(7);
/// A transaction of ZooKeeper that is later than the registrations of all brokers.
const LATE: i64 = 1_000;

/// What a request said, without the parts that every request has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// To broker: partition, leader, leader epoch, ISR, new.
    Lead(i32, String, i32, i32, Vec<i32>, bool),
    /// To broker: live brokers, and per partition its leader.
    Metadata(i32, Vec<i32>, Vec<(String, i32)>),
    /// To broker: partition, delete.
    Stop(i32, String, bool),
}

pub(super) struct Driver {
    pub(super) active: Active,
    pub(super) states: BTreeMap<TopicPartition, LeaderAndIsr>,
    pub(super) topics: BTreeMap<String, TopicFound>,
    pub(super) unclean: BTreeSet<String>,
    /// Topics whose znode cannot be written, and whose settings cannot be deleted.
    pub(super) unwritable: BTreeSet<String>,
    counters: ControllerCounters,
    pub(super) said: Vec<Said>,
    /// Everything else that the core wanted done.
    pub(super) done: Vec<Action>,
}

pub(super) fn broker(id: i32, epoch: i64) -> Broker {
    let endpoint =
        Endpoint { listener: "PLAINTEXT".to_owned(), security_protocol: 0, host: format!("h{id}"), port: 9092 };
    Broker {
        id: BrokerId(id),
        epoch: BrokerEpoch(epoch),
        endpoints: vec![endpoint],
        rack: None,
        features: Default::default(),
    }
}

pub(super) fn found(partitions: &[&[i32]]) -> TopicFound {
    let assignments = partitions.iter().map(|replicas| Assignment {
        replicas: replicas.iter().copied().map(BrokerId).collect(),
        ..Assignment::default()
    });
    TopicFound { id: Some(TopicId([9; 16])), partitions: (0..).zip(assignments).collect(), version: 0 }
}

pub(super) fn tp(name: &str) -> TopicPartition {
    let (topic, partition) = name.rsplit_once('-').expect("topic-partition");
    TopicPartition::new(topic, partition.parse().expect("a number"))
}

pub(super) fn leadership(leader: i32, leader_epoch: i32, isr: &[i32]) -> LeaderAndIsr {
    LeaderAndIsr {
        leader: Some(BrokerId(leader)).filter(|leader| leader.0 >= 0),
        leader_epoch: LeaderEpoch(leader_epoch),
        isr: isr.iter().copied().map(BrokerId).collect(),
        recovering: false,
        controller_epoch: ControllerEpoch(6),
        partition_epoch: PartitionEpoch(leader_epoch),
    }
}

pub(super) fn settings() -> Settings {
    Settings {
        broker_id: BrokerId(1),
        protocol: MetadataVersion::LATEST,
        inter_broker_listener: "PLAINTEXT".to_owned(),
        delete_topic_enable: true,
    }
}

impl Driver {
    pub(super) fn elected(brokers: &[i32], topics: &[(&str, TopicFound)], states: &[(&str, LeaderAndIsr)]) -> Driver {
        Driver::elected_with(settings(), brokers, topics, states, &[])
    }

    pub(super) fn elected_with(
        settings: Settings,
        brokers: &[i32],
        topics: &[(&str, TopicFound)],
        states: &[(&str, LeaderAndIsr)],
        deletions: &[&str],
    ) -> Driver {
        let brokers: Vec<(i32, i64)> = brokers.iter().map(|id| (*id, 100 + i64::from(*id))).collect();
        let read: Vec<(&str, LeaderAndIsr, i64)> =
            states.iter().map(|(name, state)| (*name, state.clone(), LATE)).collect();
        Driver::elected_over(settings, &brokers, topics, &read, states, deletions)
    }

    /// The states as they were read, each with the transaction of ZooKeeper that had written it, and as they are.
    pub(super) fn elected_over(
        settings: Settings,
        brokers: &[(i32, i64)],
        topics: &[(&str, TopicFound)],
        read: &[(&str, LeaderAndIsr, i64)],
        states: &[(&str, LeaderAndIsr)],
        deletions: &[&str],
    ) -> Driver {
        let topics: BTreeMap<String, TopicFound> =
            topics.iter().map(|(name, found)| ((*name).to_owned(), found.clone())).collect();
        let states: BTreeMap<TopicPartition, LeaderAndIsr> =
            states.iter().map(|(name, state)| (tp(name), state.clone())).collect();
        let topic_read = |(name, found): (&String, &TopicFound)| TopicRead {
            name: name.as_str().into(),
            found: Some(found.clone()),
            fresh_id: TopicId([1; 16]),
        };
        let state_read = |(name, leadership, mzxid): &(&str, LeaderAndIsr, i64)| LeadershipRead {
            partition: tp(name),
            leadership: leadership.clone(),
            mzxid: *mzxid,
        };
        let snapshot = Snapshot {
            brokers: brokers.iter().map(|(id, epoch)| broker(*id, *epoch)).collect(),
            topics: topics.iter().map(topic_read).collect(),
            leaderships: read.iter().map(state_read).collect(),
            deletions: deletions.iter().map(|topic| (*topic).to_owned()).collect(),
            ..Snapshot::default()
        };
        let (active, actions) = Active::elected(settings, EPOCH, snapshot);
        let mut driver = Driver {
            active,
            states,
            topics,
            unclean: BTreeSet::new(),
            unwritable: BTreeSet::new(),
            counters: ControllerCounters::default(),
            said: Vec::new(),
            done: Vec::new(),
        };
        driver.perform(actions);
        driver
    }

    pub(super) fn on(&mut self, event: Event) -> Vec<Said> {
        self.said.clear();
        let actions = self.active.on_event(event);
        self.perform(actions);
        self.said.clone()
    }

    fn perform(&mut self, actions: Vec<Action>) {
        let mut actions = VecDeque::from(actions);
        let mut performed = 0;
        while let Some(action) = actions.pop_front() {
            performed += 1;
            assert!(performed < 10_000, "one event leads to actions without end");
            self.counters.action(&action);
            let answer = match action {
                Action::Send(outgoing) => {
                    self.hear(outgoing);
                    continue;
                }
                Action::WriteLeaderships(writes) => Event::LeadershipsWritten(
                    writes
                        .into_iter()
                        .map(|write| {
                            let current = self.states.get(&write.partition).cloned();
                            let version = current.as_ref().map(|current| current.partition_epoch);
                            let outcome = match (write.is_new, version) {
                                (true, None) => WriteOutcome::Written(PartitionEpoch(0)),
                                (false, Some(version)) if version == write.leadership.partition_epoch => {
                                    WriteOutcome::Written(PartitionEpoch(version.0 + 1))
                                }
                                _ => WriteOutcome::Conflict(current),
                            };
                            if let WriteOutcome::Written(partition_epoch) = outcome {
                                let written = LeaderAndIsr { partition_epoch, ..write.leadership };
                                self.states.insert(write.partition.clone(), written);
                            }
                            (write.partition, outcome)
                        })
                        .collect(),
                ),
                Action::WriteAssignments(writes) => Event::AssignmentsWritten(self.write_topics(writes)),
                Action::WriteTopicIds(writes) => {
                    self.done.push(Action::WriteTopicIds(writes.clone()));
                    Event::TopicIdsWritten(self.write_topics(writes))
                }
                Action::ReadUncleanElection(asked) => {
                    let allowed = asked.iter().filter(|topic| self.unclean.contains(&***topic)).cloned().collect();
                    Event::UncleanElectionRead { asked, allowed }
                }
                Action::ReadTopics(names) => Event::TopicsRead(names.iter().map(|name| self.read(name)).collect()),
                Action::DeleteTopic(topic) => {
                    self.topics.remove(&*topic);
                    self.states.retain(|partition, _| partition.topic != topic);
                    self.done.push(Action::DeleteTopic(Arc::clone(&topic)));
                    match self.unwritable.contains(&*topic) {
                        true => Event::TopicNotDeleted { topic },
                        false => Event::TopicDeleted { topic },
                    }
                }
                other => {
                    self.done.push(other);
                    continue;
                }
            };
            self.counters.event(&answer);
            actions.extend(self.active.on_event(answer));
        }
    }

    fn write_topics(&mut self, writes: Vec<(Arc<str>, TopicFound)>) -> Vec<(Arc<str>, AssignmentOutcome)> {
        let written = |(topic, found): (Arc<str>, TopicFound)| {
            let outcome = self.write_topic(&topic, found);
            (topic, outcome)
        };
        writes.into_iter().map(written).collect()
    }

    fn write_topic(&mut self, topic: &str, found: TopicFound) -> AssignmentOutcome {
        let Some(stored) = self.topics.get_mut(topic) else { return AssignmentOutcome::Failed };
        if stored.version != found.version {
            return AssignmentOutcome::Conflict(stored.clone());
        }
        if self.unwritable.contains(topic) {
            return AssignmentOutcome::Failed;
        }
        *stored = TopicFound { version: found.version + 1, ..found };
        AssignmentOutcome::Written(stored.version)
    }

    fn read(&self, name: &str) -> TopicRead {
        TopicRead { name: name.into(), found: self.topics.get(name).cloned(), fresh_id: TopicId([1; 16]) }
    }

    pub(super) fn create(&mut self, name: &str, topic: TopicFound) -> Vec<Said> {
        self.topics.insert(name.to_owned(), topic);
        let names = self.topics.keys().cloned().collect();
        self.on(Event::TopicNames(names))
    }

    pub(super) fn brokers(&mut self, brokers: &[(i32, i64)]) -> Vec<Said> {
        self.on(Event::Brokers(brokers.iter().map(|(id, epoch)| broker(*id, *epoch)).collect()))
    }

    pub(super) fn answer_deletions(&mut self, of: i32, deleted: Deleted) -> Vec<Said> {
        let asked: Vec<_> = self
            .said
            .iter()
            .filter_map(|said| match said {
                Said::Stop(to, partition, true) if *to == of => Some((tp(partition), deleted)),
                _ => None,
            })
            .collect();
        let broker_epoch = self.active.cluster().brokers[&BrokerId(of)].epoch;
        self.on(Event::StopReplicaAnswered { broker: BrokerId(of), broker_epoch, deleted: asked })
    }

    pub(super) fn answer_leadership(&mut self, of: i32, name: &str, hosted: Hosted) -> Vec<Said> {
        let broker_epoch = self.active.cluster().brokers[&BrokerId(of)].epoch;
        self.on(Event::LeaderAndIsrAnswered { broker: BrokerId(of), broker_epoch, hosted: vec![(tp(name), hosted)] })
    }

    pub(super) fn state(&self, name: &str) -> (i32, i32, Vec<i32>) {
        let state = &self.states[&tp(name)];
        let isr = state.isr.iter().map(|id| id.0).collect();
        (state.leader.map_or(-1, |leader| leader.0), state.leader_epoch.0, isr)
    }

    fn hear(&mut self, outgoing: Outgoing) {
        let to = outgoing.to.0;
        match outgoing.request {
            ControlRequest::LeaderAndIsr(request) => {
                assert_eq!((request.controller_id, request.controller_epoch), (1, EPOCH.0));
                assert_eq!(request.broker_epoch, self.active.cluster().brokers[&outgoing.to].epoch.0);
                for topic in request.topic_states {
                    for state in topic.partition_states {
                        let name = format!("{}-{}", topic.topic_name, state.partition_index);
                        let stored = &self.states[&tp(&name)];
                        assert_eq!(
                            state.partition_epoch, stored.partition_epoch.0,
                            "{name}: told before it is written"
                        );
                        self.said.push(Said::Lead(to, name, state.leader, state.leader_epoch, state.isr, state.is_new));
                    }
                }
            }
            ControlRequest::UpdateMetadata(announcement) => {
                let request = announcement.request();
                let live = request.live_brokers.iter().map(|broker| broker.id).collect();
                let states = request.topic_states.iter().flat_map(|topic| {
                    topic
                        .partition_states
                        .iter()
                        .map(|state| (format!("{}-{}", topic.topic_name, state.partition_index), state.leader))
                });
                self.said.push(Said::Metadata(to, live, states.collect()));
            }
            ControlRequest::StopReplica(request) => {
                for topic in request.topic_states {
                    for state in topic.partition_states {
                        let name = format!("{}-{}", topic.topic_name, state.partition_index);
                        self.said.push(Said::Stop(to, name, state.delete_partition));
                    }
                }
            }
        }
    }
}

pub(super) fn named(names: &[(&str, i32)]) -> Vec<(String, i32)> {
    names.iter().map(|(name, leader)| ((*name).to_owned(), *leader)).collect()
}

#[test]
fn the_first_controller_of_an_empty_cluster_introduces_the_brokers() {
    let driver = Driver::elected(&[1], &[], &[]);
    assert_eq!(driver.said, [Said::Metadata(1, vec![1], vec![])]);
    assert_eq!(driver.done, [Action::Connect(broker(1, 101))]);
}

#[test]
fn a_new_topic_gets_leaders_in_zookeeper_before_its_replicas_hear_of_them() {
    let mut driver = Driver::elected(&[1, 2], &[], &[]);
    let said = driver.create("t", found(&[&[1, 2], &[2, 1]]));
    assert_eq!(driver.state("t-0"), (1, 0, vec![1, 2]));
    assert_eq!(driver.state("t-1"), (2, 0, vec![2, 1]));
    let lead = |to, name: &str, leader, isr: &[i32]| Said::Lead(to, name.to_owned(), leader, 0, isr.to_vec(), true);
    let metadata = |to| Said::Metadata(to, vec![1, 2], named(&[("t-0", 1), ("t-1", 2)]));
    assert_eq!(
        said,
        [
            lead(1, "t-0", 1, &[1, 2]),
            lead(1, "t-1", 2, &[2, 1]),
            lead(2, "t-0", 1, &[1, 2]),
            lead(2, "t-1", 2, &[2, 1]),
            metadata(1),
            metadata(2),
        ]
    );
    let names = driver.topics.keys().cloned().collect();
    assert_eq!(driver.on(Event::TopicNames(names)), [], "a list without news says nothing");
}

#[test]
fn added_partitions_alone_are_new() {
    let mut driver = Driver::elected(&[1], &[("t", found(&[&[1]]))], &[("t-0", leadership(1, 3, &[1]))]);
    driver.topics.insert("t".to_owned(), found(&[&[1], &[1]]));
    let read = driver.read("t");
    let said = driver.on(Event::TopicsRead(vec![read]));
    assert_eq!(
        said,
        [Said::Lead(1, "t-1".to_owned(), 1, 0, vec![1], true), Said::Metadata(1, vec![1], named(&[("t-1", 1)])),]
    );
    assert_eq!(driver.state("t-0"), (1, 3, vec![1]));
}

#[test]
fn a_new_controller_tells_everything_and_elects_where_the_leader_is_gone() {
    let topics = [("t", found(&[&[1, 2], &[2, 1], &[3]]))];
    let states =
        [("t-0", leadership(1, 4, &[1, 2])), ("t-1", leadership(3, 2, &[3, 1])), ("t-2", leadership(3, 0, &[3]))];
    let driver = Driver::elected(&[1, 2], &topics, &states);
    assert_eq!(driver.state("t-0"), (1, 4, vec![1, 2]), "an online leader stays");
    assert_eq!(driver.state("t-1"), (1, 3, vec![1]));
    assert_eq!(driver.state("t-2"), (-1, 1, vec![3]), "the ISR stays when none of it is online");
    assert_eq!(driver.said[0], Said::Metadata(1, vec![1, 2], vec![]), "the live brokers come first");
    assert_eq!(driver.said[1], Said::Metadata(2, vec![1, 2], vec![]));
    assert!(driver.said.contains(&Said::Lead(2, "t-0".to_owned(), 1, 4, vec![1, 2], false)));
    assert!(driver.said.contains(&Said::Lead(1, "t-1".to_owned(), 1, 3, vec![1], false)));
}

#[test]
fn a_lost_broker_is_replaced_and_a_returning_one_follows() {
    let mut driver = Driver::elected(&[1, 2], &[("t", found(&[&[2, 1]]))], &[("t-0", leadership(2, 0, &[2, 1]))]);
    let said = driver.brokers(&[(1, 101)]);
    assert_eq!(driver.state("t-0"), (1, 1, vec![1]));
    assert_eq!(
        said,
        [Said::Lead(1, "t-0".to_owned(), 1, 1, vec![1], false), Said::Metadata(1, vec![1], named(&[("t-0", 1)])),]
    );
    assert!(driver.done.contains(&Action::Disconnect(BrokerId(2))));
    let said = driver.brokers(&[(1, 101), (2, 300)]);
    assert_eq!(driver.state("t-0"), (1, 1, vec![1]), "it has to catch up before it is in sync");
    assert_eq!(
        said,
        [
            Said::Metadata(1, vec![1, 2], vec![]),
            Said::Metadata(2, vec![1, 2], named(&[("t-0", 1)])),
            Said::Lead(2, "t-0".to_owned(), 1, 1, vec![1], false),
            Said::Metadata(1, vec![1, 2], named(&[("t-0", 1)])),
            Said::Metadata(2, vec![1, 2], named(&[("t-0", 1)])),
        ]
    );
}

#[test]
fn a_bounced_broker_is_lost_and_then_found() {
    let mut driver = Driver::elected(
        &[1, 2],
        &[("t", found(&[&[2, 1], &[2]]))],
        &[("t-0", leadership(2, 0, &[2, 1])), ("t-1", leadership(2, 5, &[2]))],
    );
    driver.brokers(&[(1, 101), (2, 400)]);
    assert_eq!(driver.state("t-0"), (1, 1, vec![1]));
    assert_eq!(driver.state("t-1"), (2, 7, vec![2]), "leaderless in between, then elected again");
    assert_eq!(driver.brokers(&[(1, 101), (2, 102)]), [], "an older registration is not news");
}

#[test]
fn a_partition_without_a_live_replica_waits_for_one() {
    let mut driver = Driver::elected(&[1], &[], &[]);
    assert_eq!(driver.create("t", found(&[&[2]])), []);
    assert_eq!(driver.active.cluster().state(&tp("t-0")), PartitionState::New);
    driver.brokers(&[(1, 101), (2, 200)]);
    assert_eq!(driver.state("t-0"), (2, 0, vec![2]));
    assert_eq!(driver.active.cluster().state(&tp("t-0")), PartitionState::Online);
}

#[test]
fn an_unclean_election_asks_for_the_topics_setting_first() {
    for (allowed, expected) in [(true, (1, 1, vec![1])), (false, (-1, 1, vec![2]))] {
        let mut driver = Driver::elected(&[1, 2], &[("t", found(&[&[2, 1]]))], &[("t-0", leadership(2, 0, &[2]))]);
        if allowed {
            driver.unclean.insert("t".to_owned());
        }
        driver.brokers(&[(1, 101)]);
        assert_eq!(driver.state("t-0"), expected);
        assert_eq!(driver.states[&tp("t-0")].recovering, allowed);
        let counters = [&driver.counters.unclean_leader_elections, &driver.counters.leaderships_written];
        assert_eq!(counters.map(|counter| counter.load(Ordering::Relaxed)), [u64::from(allowed), 1]);
    }
}

#[test]
fn a_partition_that_stays_without_a_leader_is_told_of_alone() {
    let topics = [("t", found(&[&[2, 1], &[1]]))];
    let states = [("t-0", leadership(-1, 1, &[2])), ("t-1", leadership(1, 0, &[1]))];
    let mut driver = Driver::elected(&[1], &topics, &states);
    let said = driver.brokers(&[(1, 101), (3, 103)]);
    let to_first: Vec<_> = said.into_iter().filter(|said| matches!(said, Said::Metadata(1, ..))).collect();
    let both = vec![1, 3];
    assert_eq!(to_first, [Said::Metadata(1, both.clone(), vec![]), Said::Metadata(1, both, named(&[("t-0", -1)]))]);
}

#[test]
fn a_partition_without_a_leader_gets_one_when_unclean_elections_are_allowed() {
    for topic in [None, Some("t".into())] {
        let topics = [("t", found(&[&[2, 1]])), ("u", found(&[&[2, 1]]))];
        let states = [("t-0", leadership(2, 0, &[2])), ("u-0", leadership(2, 0, &[2]))];
        let mut driver = Driver::elected(&[1, 2], &topics, &states);
        driver.brokers(&[(1, 101)]);
        driver.unclean.extend(["t".to_owned(), "u".to_owned()]);
        let other = if topic.is_some() { (-1, 1, vec![2]) } else { (1, 2, vec![1]) };
        driver.on(Event::UncleanElectionsAllowed { topic });
        assert_eq!((driver.state("t-0"), driver.state("u-0")), ((1, 2, vec![1]), other));
    }
}

#[test]
fn a_write_that_lost_a_race_starts_again_from_what_is_there() {
    let mut driver = Driver::elected(&[1, 2], &[("t", found(&[&[2, 1]]))], &[("t-0", leadership(2, 0, &[2, 1]))]);
    // The leader shrank the ISR itself, as leaders of an older protocol do.
    driver.states.insert(tp("t-0"), LeaderAndIsr { partition_epoch: PartitionEpoch(9), ..leadership(2, 0, &[2]) });
    driver.brokers(&[(1, 101)]);
    assert_eq!(driver.state("t-0"), (-1, 1, vec![2]), "broker 1 is no longer in sync and must not lead");
    assert_eq!(driver.states[&tp("t-0")].partition_epoch, PartitionEpoch(10));
}

#[test]
fn a_replica_on_a_failed_directory_gives_up_the_lead_until_it_is_back() {
    let mut driver = Driver::elected(&[1, 2], &[("t", found(&[&[2, 1]]))], &[("t-0", leadership(2, 0, &[2, 1]))]);
    let answered = |hosted, epoch| Event::LeaderAndIsrAnswered {
        broker: BrokerId(2),
        broker_epoch: BrokerEpoch(epoch),
        hosted: vec![(tp("t-0"), hosted)],
    };
    assert_eq!(driver.on(answered(Hosted::OnOfflineDir, 3)), [], "an answer of an earlier incarnation");
    assert_eq!(driver.on(answered(Hosted::Yes, 102)), []);
    driver.on(answered(Hosted::OnOfflineDir, 102));
    assert_eq!(driver.state("t-0"), (1, 1, vec![1]));
    assert!(!driver.active.cluster().is_replica_online(&tp("t-0"), BrokerId(2)));
    driver.on(answered(Hosted::Yes, 102));
    assert!(driver.active.cluster().is_replica_online(&tp("t-0"), BrokerId(2)));
}

/// Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/controller/ControllerContext.scala (partitionsWithOfflineLeader).
#[test]
fn a_lost_broker_leads_no_longer_though_it_is_no_replica() {
    for before in [leadership(3, 4, &[3, 1]), leadership(1, 4, &[1, 3])] {
        let mut driver = Driver::elected(&[1, 2, 3], &[("t", found(&[&[1, 2]]))], &[("t-0", before)]);
        let said = driver.brokers(&[(1, 101), (2, 102)]);
        assert_eq!(driver.state("t-0"), (1, 5, vec![1]));
        assert!(said.contains(&Said::Lead(1, "t-0".to_owned(), 1, 5, vec![1], false)), "{said:?}");
    }
}

#[test]
fn deletion_stops_deletes_and_then_removes_the_znodes() {
    let mut driver = Driver::elected(
        &[1],
        &[("t", found(&[&[1], &[1]]))],
        &[("t-0", leadership(1, 0, &[1])), ("t-1", leadership(1, 0, &[1]))],
    );
    let said = driver.on(Event::DeletionsRequested(vec!["t".to_owned()]));
    let stop = |name: &str, delete| Said::Stop(1, name.to_owned(), delete);
    assert_eq!(
        said,
        [
            Said::Metadata(1, vec![1], named(&[("t-0", -2), ("t-1", -2)])),
            stop("t-0", false),
            stop("t-1", false),
            stop("t-0", true),
            stop("t-1", true),
        ]
    );
    assert_eq!(driver.active.cluster().state(&tp("t-0")), PartitionState::NonExistent);
    assert_eq!(driver.on(Event::DeletionsRequested(vec!["t".to_owned()])), [], "asking again changes nothing");
    driver.on(Event::DeletionsRequested(vec!["t".to_owned()]));
    driver.said = said;
    driver.answer_deletions(1, Deleted::Yes);
    assert!(driver.done.contains(&Action::DeleteTopic("t".into())));
    assert!(driver.active.cluster().topics.is_empty());
    assert_eq!(driver.create("t", found(&[&[1]])).len(), 2, "the name is free again");
}

#[test]
fn of_however_many_topics_that_are_deleted_a_broker_is_told_three_things() {
    let topics = ["t", "u", "v"];
    let named = topics.map(|name| (name, found(&[&[1], &[1]])));
    let mut driver = Driver::elected(&[1], &named, &[]);
    let deleted = Event::DeletionsRequested(topics.map(str::to_owned).to_vec());
    let actions = driver.active.on_event(deleted);
    assert_eq!(actions.iter().filter(|action| matches!(action, Action::Send(_))).count(), 3);
    driver.said.clear();
    driver.perform(actions);
    for delete in [false, true] {
        let is_asked = |said: &&Said| matches!(said, Said::Stop(1, _, asked) if *asked == delete);
        assert_eq!(driver.said.iter().filter(is_asked).count(), 6);
    }
    driver.answer_deletions(1, Deleted::Yes);
    assert!(driver.active.cluster().topics.is_empty());
}

#[test]
fn a_deletion_that_one_broker_refuses_is_repeated_when_it_returns() {
    let topics = [("t", found(&[&[1, 2]]))];
    let mut driver = Driver::elected(&[1, 2], &topics, &[("t-0", leadership(1, 0, &[1, 2]))]);
    let said = driver.on(Event::DeletionsRequested(vec!["t".to_owned()]));
    driver.answer_deletions(1, Deleted::Yes);
    driver.said = said;
    assert_eq!(driver.answer_deletions(2, Deleted::Refused), []);
    assert!(!driver.done.contains(&Action::DeleteTopic("t".into())));
    driver.brokers(&[(1, 101)]);
    let said = driver.brokers(&[(1, 101), (2, 200)]);
    assert!(said.contains(&Said::Stop(2, "t-0".to_owned(), true)), "{said:?}");
    assert!(!said.iter().any(|said| matches!(said, Said::Stop(1, ..))), "broker 1 is done: {said:?}");
    assert!(!said.iter().any(|said| matches!(said, Said::Lead(..))), "nobody is made leader: {said:?}");
    driver.answer_deletions(2, Deleted::Yes);
    assert!(driver.done.contains(&Action::DeleteTopic("t".into())));
}

#[test]
fn a_new_controller_goes_on_with_deletions_wherever_they_stopped() {
    let topics = [("t", found(&[&[1]]))];
    let states = [("t-0", leadership(1, 0, &[1]))];
    let mut driver = Driver::elected_with(settings(), &[1], &topics, &states, &["t", "gone"]);
    assert!(driver.done.contains(&Action::DeleteTopic("gone".into())), "what is left of it is removed");
    assert!(!driver.said.iter().any(|said| matches!(said, Said::Lead(..))), "{:?}", driver.said);
    driver.answer_deletions(1, Deleted::Yes);
    assert!(driver.done.contains(&Action::DeleteTopic("t".into())));
}

/// Its deletion has got so far that its name is free once its marker is gone.
#[test]
fn a_topic_that_could_not_be_deleted_is_left_alone_once_its_marker_is_taken_back() {
    let half_deleted = || {
        let topics = [("t", found(&[&[1]]))];
        let mut driver = Driver::elected(&[1], &topics, &[("t-0", leadership(1, 0, &[1]))]);
        driver.unwritable.insert("t".to_owned());
        driver.on(Event::DeletionsRequested(vec!["t".to_owned()]));
        driver.answer_deletions(1, Deleted::Yes);
        assert!(driver.active.is_unfinished());
        driver.done.clear();
        driver
    };
    let mut driver = half_deleted();
    driver.on(Event::Retry);
    assert_eq!(driver.done, [Action::DeleteTopic("t".into())]);
    driver.unwritable.clear();
    driver.on(Event::Retry);
    assert!(!driver.active.is_unfinished() && driver.active.cluster().topics.is_empty());

    let mut driver = half_deleted();
    driver.on(Event::DeletionsRequested(vec![]));
    assert!(!driver.active.is_unfinished());
    let another = TopicFound { id: Some(TopicId([8; 16])), ..found(&[&[1]]) };
    driver.create("t", another);
    assert_eq!(driver.state("t-0"), (1, 0, vec![1]));
    driver.on(Event::Retry);
    assert_eq!(driver.done, []);
    assert_eq!(driver.active.cluster().topics["t"].id, TopicId([8; 16]));
}

#[test]
fn a_topic_with_an_offline_replica_is_deleted_when_that_returns() {
    let topics = [("t", found(&[&[1, 2]]))];
    let states = [("t-0", leadership(1, 0, &[1]))];
    let mut driver = Driver::elected_with(settings(), &[1], &topics, &states, &["t"]);
    driver.answer_deletions(1, Deleted::Yes);
    assert!(!driver.done.contains(&Action::DeleteTopic("t".into())));
    driver.brokers(&[(1, 101), (2, 200)]);
    driver.answer_deletions(2, Deleted::Yes);
    assert!(driver.done.contains(&Action::DeleteTopic("t".into())));
}

/// An operator deletes it to make room: once there is some, its broker says so as if a directory had failed.
#[test]
fn a_topic_with_a_replica_that_a_full_disk_refused_is_deleted_once_there_is_room() {
    let topics = [("t", found(&[&[1], &[1]]))];
    let states = [("t-0", leadership(1, 0, &[1])), ("t-1", leadership(1, 0, &[1]))];
    let refused = || {
        let mut driver = Driver::elected(&[1], &topics, &states);
        driver.answer_leadership(1, "t-0", Hosted::OnOfflineDir);
        driver.on(Event::DeletionsRequested(vec!["t".to_owned()]));
        driver.answer_deletions(1, Deleted::Yes);
        assert!(!driver.done.contains(&Action::DeleteTopic("t".into())));
        driver
    };
    let mut driver = refused();
    let said = driver.on(Event::LogDirsFailed(BTreeSet::from([BrokerId(1)])));
    assert!(said.contains(&Said::Stop(1, "t-0".to_owned(), true)), "{said:?}");
    assert!(!said.contains(&Said::Stop(1, "t-1".to_owned(), true)), "it is done: {said:?}");
    driver.answer_deletions(1, Deleted::Yes);
    assert!(driver.done.contains(&Action::DeleteTopic("t".into())));

    // A disk that has failed refuses that too, and is not asked for ever.
    let mut driver = refused();
    driver.on(Event::LogDirsFailed(BTreeSet::from([BrokerId(1)])));
    assert_eq!(driver.answer_deletions(1, Deleted::Refused), []);

    // It was told of the replica again before the topic was to be deleted, and answers behind that.
    let mut driver = refused();
    let said = driver.answer_leadership(1, "t-0", Hosted::Yes);
    assert!(said.contains(&Said::Stop(1, "t-0".to_owned(), true)), "{said:?}");
    driver.answer_deletions(1, Deleted::Yes);
    assert!(driver.done.contains(&Action::DeleteTopic("t".into())));
}

/// Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/controller/KafkaController.scala (processTopicChange).
#[test]
fn a_halted_deletion_of_a_topic_that_somebody_else_has_deleted_is_not_that_of_the_next_one_of_its_name() {
    let halted = || {
        let topics = [("t", found(&[&[1, 2]]))];
        let mut driver = Driver::elected(&[1], &topics, &[("t-0", leadership(1, 4, &[1]))]);
        driver.on(Event::DeletionsRequested(vec!["t".to_owned()]));
        driver.answer_deletions(1, Deleted::Yes);
        driver.done.clear();
        driver
    };
    let another = || TopicFound { id: Some(TopicId([8; 16])), ..found(&[&[1, 2]]) };
    let assert_lives_on = |mut driver: Driver| {
        assert_eq!(driver.done, [Action::DeleteMarkers(vec!["t".to_owned()])]);
        assert_eq!(driver.state("t-0"), (1, 0, vec![1]));
        let said = driver.brokers(&[(1, 101), (2, 200)]);
        assert!(!said.iter().any(|said| matches!(said, Said::Stop(..))), "{said:?}");
        assert_eq!(driver.active.cluster().topics["t"].id, TopicId([8; 16]));
    };
    let mut driver = halted();
    driver.topics.clear();
    driver.states.clear();
    driver.on(Event::TopicNames(vec![]));
    driver.create("t", another());
    assert_lives_on(driver);

    // It is made again before anybody has heard that it was gone.
    let mut driver = halted();
    driver.topics.insert("t".to_owned(), another());
    driver.states.clear();
    let read = Event::TopicsRead(vec![driver.read("t")]);
    driver.on(read);
    assert_lives_on(driver);

    // A list that was read before the topic was made.
    let mut driver = halted();
    driver.on(Event::TopicNames(vec![]));
    let said = driver.brokers(&[(1, 101), (2, 200)]);
    assert!(said.contains(&Said::Stop(2, "t-0".to_owned(), true)), "{said:?}");
    driver.answer_deletions(2, Deleted::Yes);
    assert!(driver.done.contains(&Action::DeleteTopic("t".into())));
}

#[test]
fn a_marker_for_a_topic_that_nobody_heard_of_is_looked_into() {
    let mut driver = Driver::elected(&[1], &[], &[]);
    driver.on(Event::DeletionsRequested(vec!["nothing".to_owned()]));
    assert!(driver.done.contains(&Action::DeleteMarkers(vec!["nothing".to_owned()])));
    driver.topics.insert("fresh".to_owned(), found(&[&[1]]));
    let said = driver.on(Event::DeletionsRequested(vec!["fresh".to_owned()]));
    assert!(said.contains(&Said::Stop(1, "fresh-0".to_owned(), true)), "{said:?}");
}

/// Behind the first time, another topic may have the name.
#[test]
fn the_znodes_of_a_topic_are_deleted_once_whatever_else_is_looked_into_meanwhile() {
    let mut driver = Driver::elected(&[1], &[("known", found(&[]))], &[]);
    let deletions = |actions: Vec<Action>| -> Vec<Action> {
        actions.into_iter().filter(|action| matches!(action, Action::DeleteTopic(_))).collect()
    };
    let marked = Event::DeletionsRequested(vec!["known".to_owned(), "fresh".to_owned()]);
    assert_eq!(deletions(driver.active.on_event(marked)), [Action::DeleteTopic("known".into())]);
    driver.topics.insert("fresh".to_owned(), found(&[]));
    let read = Event::TopicsRead(vec![driver.read("fresh")]);
    assert_eq!(deletions(driver.active.on_event(read)), [Action::DeleteTopic("fresh".into())]);
    // What is in the way of it may go.
    let not_deleted = Event::TopicNotDeleted { topic: "known".into() };
    assert_eq!(deletions(driver.active.on_event(not_deleted)), []);
    assert_eq!(deletions(driver.active.on_event(Event::Retry)), [Action::DeleteTopic("known".into())]);
}

#[test]
fn a_marked_topic_that_is_not_understood_waits_for_its_repair_under_a_new_controller_too() {
    let elected = || {
        let snapshot = Snapshot {
            brokers: vec![broker(1, 101)],
            deletions: vec!["bad".to_owned()],
            not_understood: BTreeSet::from(["bad".to_owned()]),
            ..Snapshot::default()
        };
        let (active, actions) = Active::elected(settings(), EPOCH, snapshot);
        let mut driver = Driver {
            active,
            states: BTreeMap::from([(tp("bad-0"), leadership(1, 0, &[1]))]),
            topics: BTreeMap::new(),
            counters: ControllerCounters::default(),
            unclean: BTreeSet::new(),
            unwritable: BTreeSet::new(),
            said: Vec::new(),
            done: Vec::new(),
        };
        driver.perform(actions);
        assert_eq!(driver.done, [Action::Connect(broker(1, 101))]);
        driver
    };
    let repaired = |driver: &mut Driver| {
        driver.topics.insert("bad".to_owned(), found(&[&[1]]));
        let read = driver.read("bad");
        driver.on(Event::TopicsRead(vec![read]))
    };
    let mut driver = elected();
    let said = repaired(&mut driver);
    assert!(said.contains(&Said::Stop(1, "bad-0".to_owned(), true)), "{said:?}");

    let mut driver = elected();
    driver.on(Event::DeletionsRequested(vec![]));
    let said = repaired(&mut driver);
    assert!(!said.iter().any(|said| matches!(said, Said::Stop(..))), "its marker was taken back: {said:?}");

    let mut driver = elected();
    driver.on(Event::TopicNames(vec![]));
    assert!(driver.done.contains(&Action::DeleteMarkers(vec!["bad".to_owned()])), "{:?}", driver.done);
}

#[test]
fn deletion_can_be_disabled() {
    let disabled = Settings { delete_topic_enable: false, ..settings() };
    let topics = [("t", found(&[&[1]]))];
    let mut driver = Driver::elected_with(disabled, &[1], &topics, &[("t-0", leadership(1, 0, &[1]))], &["t"]);
    assert!(driver.done.contains(&Action::DeleteMarkers(vec!["t".to_owned()])));
    assert_eq!(driver.on(Event::DeletionsRequested(vec!["t".to_owned()])), []);
    assert_eq!(driver.active.cluster().state(&tp("t-0")), PartitionState::Online);
}

#[test]
fn topics_without_an_id_get_one_and_keep_it() {
    let without = |version| TopicFound { id: None, version, ..found(&[&[1]]) };
    let with = |id, version| TopicFound { id: Some(id), version, ..found(&[&[1]]) };
    let states = [("t-0", leadership(1, 0, &[1]))];
    let mut driver = Driver::elected(&[1], &[("t", without(7)), ("u", without(3))], &states);
    let fresh = TopicId([1; 16]);
    let written = |topics: &[(&str, TopicFound)]| {
        Action::WriteTopicIds(topics.iter().map(|(name, found)| ((*name).into(), found.clone())).collect())
    };
    assert_eq!(driver.done[1..], [written(&[("t", with(fresh, 7)), ("u", with(fresh, 3))])], "together");
    assert_eq!(driver.topics["t"], with(fresh, 8));
    driver.done.clear();
    // A tool that knows no ids rewrites the topic.
    driver.topics.insert("t".to_owned(), without(9));
    let read = TopicRead { name: "t".into(), found: Some(without(9)), fresh_id: TopicId([2; 16]) };
    driver.on(Event::TopicsRead(vec![read]));
    assert_eq!(driver.done, [written(&[("t", with(fresh, 9))])]);
    assert_eq!(driver.active.cluster().topics["t"].version, 10, "of what it has written itself");

    let old = Settings { protocol: MetadataVersion::V2_7_IV2, ..settings() };
    let driver = Driver::elected_with(old, &[1], &[("t", without(7))], &[], &[]);
    assert!(!driver.done.iter().any(|action| matches!(action, Action::WriteTopicIds(_))));
}

#[test]
fn a_topic_that_vanished_from_zookeeper_is_forgotten() {
    let mut driver = Driver::elected(&[1], &[("t", found(&[&[1]]))], &[("t-0", leadership(1, 0, &[1]))]);
    driver.on(Event::TopicNames(vec![]));
    assert!(driver.active.cluster().topics.is_empty());
}

/// Old layouts can be written by every protocol version, and name the same partitions.
#[test]
fn every_protocol_version_can_be_spoken() {
    use crate::codec::writer::Writer;
    use crate::protocol::message::Message;
    for protocol in MetadataVersion::ALL.iter().copied() {
        let settings = Settings { protocol, ..settings() };
        let snapshot = Snapshot {
            brokers: vec![broker(1, 101)],
            topics: vec![TopicRead { name: "t".into(), found: Some(found(&[&[1]])), fresh_id: TopicId([1; 16]) }],
            leaderships: vec![LeadershipRead { partition: tp("t-0"), leadership: leadership(1, 0, &[1]), mzxid: LATE }],
            deletions: vec![],
            ..Snapshot::default()
        };
        let (mut active, mut actions) = Active::elected(settings, EPOCH, snapshot);
        actions.extend(active.on_event(Event::DeletionsRequested(vec!["t".to_owned()])));
        let mut kinds = [0; 3];
        for action in actions {
            let Action::Send(Outgoing { version, request, .. }) = action else { continue };
            let mut writer = Writer::new();
            let (kind, encoded) = match &request {
                ControlRequest::LeaderAndIsr(request) => (0, request.encode(&mut writer, version)),
                ControlRequest::UpdateMetadata(announcement) => {
                    let direct = announcement.request().encode(&mut writer, version);
                    let pieces = announcement.encoded().expect("every version can be written").concat();
                    assert_eq!(Some(pieces), std::mem::take(&mut writer).into_bytes().map(Vec::from), "{protocol}");
                    (1, direct)
                }
                ControlRequest::StopReplica(request) => (2, request.encode(&mut writer, version)),
            };
            encoded.unwrap_or_else(|error| panic!("{protocol}: {error}"));
            kinds[kind] += 1;
        }
        assert_eq!(kinds, [1, 3, 2], "{protocol}");
    }
}

/// What broker 1 asks for the first partition of `t`: leader epoch, partition epoch, ISR, recovering.
fn asking(leader_epoch: i32, partition_epoch: i32, isr: &[i32], recovering: bool) -> AlterPartitions {
    AlterPartitions {
        broker: BrokerId(1),
        broker_epoch: BrokerEpoch(101),
        knows_refused_members: true,
        partitions: vec![AskedPartition {
            topic: TopicRef::Name("t".into()),
            partition: 0,
            asked: AskedIsr {
                leader_epoch: LeaderEpoch(leader_epoch),
                partition_epoch: PartitionEpoch(partition_epoch),
                isr: isr.iter().copied().map(BrokerId).collect(),
                epochs: BTreeMap::new(),
                recovering,
            },
        }],
    }
}

impl Driver {
    /// What was said to brokers and answered to whoever asked.
    fn ask(&mut self, asked: AlterPartitions) -> (Vec<Said>, Result<Vec<Altered>, StaleBrokerEpoch>) {
        self.done.clear();
        let said = self.on(Event::Requested { id: RequestId(5), request: Request::AlterPartitions(asked) });
        match &self.done[..] {
            [Action::Answer { id: RequestId(5), answer: Answer::AlterPartitions(answer) }] => (said, answer.clone()),
            other => panic!("one answer is given, not {other:?}"),
        }
    }

    /// What became of the first partition, which all brokers were told of, whatever it was.
    fn alter(&mut self, asked: AlterPartitions) -> Result<(i32, Vec<i32>), AlterRefusal> {
        let (said, answer) = self.ask(asked);
        let leader = self.state("t-0").0;
        assert_eq!(said, [1, 2].map(|to| Said::Metadata(to, vec![1, 2], named(&[("t-0", leader)]))));
        let altered = answer.expect("the broker's epoch is right");
        let [altered] = &altered[..] else { panic!("{altered:?} is of one partition") };
        let isr = |now: &LeaderAndIsr| now.isr.iter().map(|id| id.0).collect();
        altered.outcome.as_ref().map(|now| (now.partition_epoch.0, isr(now))).map_err(|why| *why)
    }
}

/// A partition of brokers 1 to 3, of which 3 is not there, led by 1 in epoch 4 with itself in sync.
fn altering() -> Driver {
    Driver::elected(&[1, 2], &[("t", found(&[&[1, 2, 3]]))], &[("t-0", leadership(1, 4, &[1]))])
}

#[test]
fn what_a_leader_asks_for_is_checked_in_order() {
    use AlterRefusal::{FencedLeaderEpoch, IneligibleReplica, InvalidRequest, InvalidUpdateVersion, NotController};
    type Case = (i32, i32, &'static [i32], bool, Result<(i32, Vec<i32>), AlterRefusal>);
    let cases: &[Case] = &[
        (5, 4, &[1, 2], false, Err(NotController)),
        (4, 5, &[1, 2], false, Err(NotController)),
        (3, 5, &[1, 2], false, Err(FencedLeaderEpoch)),
        (3, 4, &[1, 2], false, Err(FencedLeaderEpoch)),
        (3, 4, &[1], false, Err(FencedLeaderEpoch)),
        (4, 4, &[1], false, Ok((4, vec![1]))),
        (4, 3, &[1], false, Ok((4, vec![1]))),
        (4, 3, &[1, 2], false, Err(InvalidUpdateVersion)),
        (4, 3, &[1, 2], true, Err(InvalidUpdateVersion)),
        (4, 4, &[1, 3], true, Err(InvalidRequest)),
        (4, 4, &[1], true, Err(InvalidRequest)),
        (4, 4, &[], false, Err(InvalidRequest)),
        (4, 4, &[2], false, Err(InvalidRequest)),
        (4, 4, &[1, 1], false, Err(InvalidRequest)),
        (4, 4, &[1, 2, 2], false, Err(InvalidRequest)),
        (4, 4, &[1, 4], false, Err(InvalidRequest)),
        (4, 4, &[1, 3], false, Err(IneligibleReplica)),
        (4, 4, &[1, 2], false, Ok((5, vec![1, 2]))),
    ];
    for (leader_epoch, partition_epoch, isr, recovering, expected) in cases {
        let mut driver = altering();
        let outcome = driver.alter(asking(*leader_epoch, *partition_epoch, isr, *recovering));
        assert_eq!(outcome, *expected, "{leader_epoch} {partition_epoch} {isr:?} {recovering}");
        let written = expected.as_ref().map_or(vec![1], |(_, isr)| isr.clone());
        assert_eq!(driver.state("t-0"), (1, 4, written), "the leader and its epoch stay");
    }
}

/// It may have come back without what it had.
#[test]
fn a_member_that_has_registered_again_since_the_leader_saw_it_in_sync_joins_no_isr() {
    let asked_for = |epoch: i64| {
        let mut asked = asking(4, 4, &[1, 2], false);
        asked.partitions[0].asked.epochs.insert(BrokerId(2), BrokerEpoch(epoch));
        asked
    };
    let mut driver = altering();
    driver.brokers(&[(1, 101), (2, 120)]);
    for epoch in [102, 119, 121] {
        assert_eq!(driver.alter(asked_for(epoch)), Err(AlterRefusal::IneligibleReplica));
        assert_eq!(driver.state("t-0"), (1, 4, vec![1]));
    }
    assert_eq!(driver.alter(asked_for(120)), Ok((5, vec![1, 2])));
    assert_eq!(driver.alter(asked_for(102)), Ok((5, vec![1, 2])), "it is in force");
}

/// It would never ask again, and so it asks again when the member fetches.
#[test]
fn a_leader_that_does_not_know_of_refused_members_is_told_what_is_in_force() {
    let mut driver = altering();
    let asked = AlterPartitions { knows_refused_members: false, ..asking(4, 4, &[1, 3], false) };
    assert_eq!(driver.alter(asked), Ok((4, vec![1])));
    assert_eq!(driver.state("t-0"), (1, 4, vec![1]));
}

#[test]
fn a_request_that_comes_twice_is_answered_with_what_the_first_did() {
    let mut driver = altering();
    assert_eq!(driver.alter(asking(4, 4, &[1, 2], false)), Ok((5, vec![1, 2])));
    assert_eq!(driver.alter(asking(4, 4, &[1, 2], false)), Ok((5, vec![1, 2])));
    assert_eq!(driver.alter(asking(4, 4, &[1], false)), Err(AlterRefusal::InvalidUpdateVersion), "it came late");
    assert_eq!(driver.alter(asking(4, 5, &[1], false)), Ok((6, vec![1])));
}

#[test]
fn isrs_are_altered_for_the_registration_that_leads_and_no_other() {
    let mut driver = altering();
    for broker_epoch in [100, 102, -1] {
        let asked = AlterPartitions { broker_epoch: BrokerEpoch(broker_epoch), ..asking(4, 4, &[1, 2], false) };
        assert_eq!(driver.ask(asked), (vec![], Err(StaleBrokerEpoch)));
    }
    let of_another =
        AlterPartitions { broker: BrokerId(2), broker_epoch: BrokerEpoch(102), ..asking(4, 4, &[1, 2], false) };
    assert_eq!(driver.alter(of_another), Err(AlterRefusal::InvalidRequest));
    assert_eq!(driver.state("t-0"), (1, 4, vec![1]));
}

#[test]
fn partitions_that_nobody_knows_are_told_apart_from_the_others_of_a_request() {
    let mut driver = altering();
    let mut asked = asking(4, 4, &[1, 2], false);
    let named = asked.partitions[0].clone();
    let with = |topic, partition| AskedPartition { topic, partition, ..named.clone() };
    asked.partitions = vec![
        with(TopicRef::Id(TopicId([9; 16])), 0),
        with(TopicRef::Id(TopicId([8; 16])), 0),
        with(TopicRef::Id(TopicId::ZERO), 0),
        with(TopicRef::Name("t".into()), 7),
        with(TopicRef::Name("u".into()), 0),
    ];
    let (_, answer) = driver.ask(asked);
    let outcomes: Vec<_> = answer
        .expect("the broker's epoch is right")
        .into_iter()
        .map(|altered| (altered.topic.to_string(), altered.partition, altered.outcome.map(|now| now.partition_epoch.0)))
        .collect();
    let unknown = |topic: &str, partition, why| (topic.to_owned(), partition, Err(why));
    assert_eq!(
        outcomes,
        [
            unknown("", 0, AlterRefusal::UnknownTopicId),
            unknown("", 0, AlterRefusal::UnknownTopicId),
            ("t".to_owned(), 0, Ok(5)),
            unknown("t", 7, AlterRefusal::UnknownTopicOrPartition),
            unknown("u", 0, AlterRefusal::UnknownTopicOrPartition),
        ]
    );
}

#[test]
fn a_topic_that_is_made_anew_is_found_by_its_new_id_alone() {
    let mut driver = altering();
    driver.on(Event::TopicNames(vec![]));
    let by_id = |id: u8| {
        let mut asked = asking(0, 0, &[1], false);
        asked.partitions[0].topic = TopicRef::Id(TopicId([id; 16]));
        asked
    };
    let outcome = |driver: &mut Driver, id| {
        let (_, answer) = driver.ask(by_id(id));
        answer.expect("the broker's epoch is right").remove(0).outcome.map(|now| now.leader_epoch.0)
    };
    assert_eq!(outcome(&mut driver, 9), Err(AlterRefusal::UnknownTopicId));
    driver.states.clear();
    driver.create("t", TopicFound { id: Some(TopicId([8; 16])), ..found(&[&[1, 2]]) });
    assert_eq!(outcome(&mut driver, 9), Err(AlterRefusal::UnknownTopicId));
    assert_eq!(outcome(&mut driver, 8), Ok(0));
}

#[test]
fn a_state_that_its_leader_wrote_itself_is_taken_over_and_the_request_refused() {
    let mut driver = altering();
    let newer = LeaderAndIsr { partition_epoch: PartitionEpoch(8), ..leadership(1, 4, &[1, 2]) };
    driver.states.insert(tp("t-0"), newer);
    assert_eq!(driver.alter(asking(4, 4, &[1, 2], false)), Err(AlterRefusal::InvalidUpdateVersion));
    assert_eq!(driver.alter(asking(4, 8, &[1], false)), Ok((9, vec![1])));
}

#[test]
fn a_leader_that_has_recovered_says_so_with_its_next_isr() {
    let recovering = LeaderAndIsr { recovering: true, ..leadership(1, 4, &[1]) };
    let mut driver = Driver::elected(&[1, 2], &[("t", found(&[&[1, 2]]))], &[("t-0", recovering)]);
    assert_eq!(driver.alter(asking(4, 4, &[1, 2], true)), Err(AlterRefusal::InvalidRequest));
    assert_eq!(driver.alter(asking(4, 4, &[1, 2], false)), Ok((5, vec![1, 2])));
    assert!(!driver.states[&tp("t-0")].recovering);
}

/// A move that an earlier controller lost track of may leave one there.
#[test]
fn a_member_that_is_no_replica_holds_up_no_change_of_the_isr() {
    let mut driver = Driver::elected(&[1, 2, 3], &[("t", found(&[&[1, 2]]))], &[("t-0", leadership(1, 4, &[1, 3]))]);
    let asked = asking(4, 4, &[1, 3, 2], false);
    let (_, answer) = driver.ask(asked);
    let outcome = answer.expect("the broker's epoch is right").remove(0).outcome;
    assert_eq!(outcome.map(|now| now.isr), Ok([1, 3, 2].map(BrokerId).to_vec()));
}

#[test]
fn a_broker_that_shuts_down_joins_no_isr() {
    let mut driver = altering();
    driver.active.cluster.shutting_down.insert(BrokerId(2));
    assert_eq!(driver.alter(asking(4, 4, &[1, 2], false)), Err(AlterRefusal::IneligibleReplica));
}

impl Driver {
    fn leave(&mut self, id: i32, epoch: i64) -> (Vec<Said>, Answer) {
        let said = self.on(Event::Requested {
            id: RequestId(1),
            request: Request::ControlledShutdown { broker: BrokerId(id), broker_epoch: BrokerEpoch(epoch) },
        });
        match self.done.pop() {
            Some(Action::Answer { id: RequestId(1), answer }) => (said, answer),
            other => panic!("whoever asks is told, not {other:?}"),
        }
    }
}

fn left(partitions: &[&str]) -> Answer {
    Answer::ControlledShutdown(Ok(partitions.iter().map(|name| tp(name)).collect()))
}

#[test]
fn a_broker_that_leaves_gives_its_leaderships_away_and_stops_following_first() {
    let topics = [("t", found(&[&[1, 2, 3], &[2, 1], &[1], &[1, 3]]))];
    let states = [
        ("t-0", leadership(1, 4, &[1, 2, 3])),
        ("t-1", leadership(2, 2, &[2, 1])),
        ("t-2", leadership(1, 0, &[1])),
        ("t-3", leadership(1, 0, &[1])),
    ];
    let mut driver = Driver::elected(&[1, 2, 3], &topics, &states);
    let (said, answer) = driver.leave(1, 101);
    assert_eq!(answer, left(&["t-3"]), "one that nobody else has in sync, and none without another replica");
    assert_eq!(driver.state("t-0"), (2, 5, vec![2, 3]));
    assert_eq!(driver.state("t-1"), (2, 3, vec![2]));
    assert_eq!((driver.state("t-2"), driver.state("t-3")), ((1, 0, vec![1]), (1, 0, vec![1])));
    let lead = |to, name: &str, leader, epoch, isr: &[i32]| {
        Said::Lead(to, name.to_owned(), leader, epoch, isr.to_vec(), false)
    };
    let metadata = |to| Said::Metadata(to, vec![1, 2, 3], named(&[("t-0", 2), ("t-1", 2)]));
    assert_eq!(
        said,
        [
            Said::Stop(1, "t-1".to_owned(), false),
            lead(1, "t-0", 2, 5, &[2, 3]),
            lead(2, "t-0", 2, 5, &[2, 3]),
            lead(2, "t-1", 2, 3, &[2]),
            lead(3, "t-0", 2, 5, &[2, 3]),
            metadata(1),
            metadata(2),
            metadata(3),
        ],
        "the former leader learns that it follows, but is not told to follow again what it has stopped"
    );
    // It tries again when another is in sync, which a leader of an older protocol wrote itself.
    let grown = LeaderAndIsr { partition_epoch: PartitionEpoch(1), ..leadership(1, 0, &[1, 3]) };
    driver.states.insert(tp("t-3"), grown.clone());
    driver.on(Event::IsrsChanged(vec![(tp("t-3"), grown)]));
    assert_eq!(driver.leave(1, 101).1, left(&[]));
    assert_eq!(driver.state("t-3"), (3, 1, vec![3]));
    let said = driver.brokers(&[(2, 102), (3, 103)]);
    assert_eq!(driver.state("t-2"), (-1, 1, vec![1]));
    assert!(said.iter().all(|said| !matches!(said, Said::Lead(..))), "nothing is left to be done: {said:?}");
}

#[test]
fn what_a_leaving_broker_leads_still_it_leads_until_it_is_gone() {
    let topics = [("t", found(&[&[1, 2]]))];
    let mut driver = Driver::elected(&[1, 2, 3], &topics, &[("t-0", leadership(1, 4, &[1]))]);
    driver.leave(1, 101);
    let said = driver.brokers(&[(1, 101), (2, 102), (3, 103), (4, 104)]);
    assert_eq!(driver.active.cluster().state(&tp("t-0")), PartitionState::Online);
    assert_eq!(driver.state("t-0"), (1, 4, vec![1]));
    assert!(said.iter().all(|said| !matches!(said, Said::Lead(..))));
    driver.create("new", found(&[&[1, 2]]));
    assert_eq!(driver.state("new-0"), (2, 0, vec![2]), "it gets nothing new");
    driver.brokers(&[(1, 201), (2, 102), (3, 103), (4, 104)]);
    assert_eq!(driver.state("t-0").0, 1, "back again it leads");
    driver.create("newer", found(&[&[1, 2]]));
    assert_eq!(driver.state("newer-0"), (1, 0, vec![1, 2]));
}

#[test]
fn only_a_live_broker_may_leave() {
    let mut driver = Driver::elected(&[1, 2], &[("t", found(&[&[1, 2]]))], &[("t-0", leadership(1, 0, &[1, 2]))]);
    let refused = |why| Answer::ControlledShutdown(Err(why));
    assert_eq!(driver.leave(1, 100), (vec![], refused(ShutdownRefusal::StaleBrokerEpoch)));
    assert_eq!(driver.leave(7, 100).1, refused(ShutdownRefusal::NotRegistered));
    assert_eq!(driver.leave(7, -1).1, refused(ShutdownRefusal::NotAvailable));
    assert_eq!(driver.state("t-0"), (1, 0, vec![1, 2]));
    assert_eq!(driver.leave(1, -1).1, left(&[]), "one of an older protocol cannot say its epoch");
    assert_eq!(driver.state("t-0"), (2, 1, vec![2]));
}
