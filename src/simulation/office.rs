//! A broker as a candidate for the controller's office, and the office: the real core with the steps of the shell around
//! it (`controller/task/`). An event is worked off to its end before the next begins, but others act between any two of
//! its actions; and an office that has been lost goes on until it hears of that.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use odradek_zookeeper::brokers::ids;
use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::fenced::{Committed, Write};
use odradek_zookeeper::znode::{broker, controller, delete_topic, log_dir_event, topic};

use crate::api::alter_partition;
use crate::config::metadata_version::MetadataVersion;
use crate::controller::active::{
    self, Action, Active, Answer, Event, RequestId, Settings, Snapshot, TopicFound, TopicRead,
};
use crate::controller::alter_partition::{AskedPartition, TopicRef};
use crate::controller::leader_election::ElectionType;
use crate::controller::reassignment::AssignmentOutcome;
use crate::controller::requests::{ControlRequest, Outgoing};
use crate::controller::state::Broker;
use crate::controller::task::channel::{deleted, hosted};
use crate::controller::task::cluster::{self, topic_found};
use crate::controller::task::leaderships::{self, StateZnodes};
use crate::model::{BrokerEpoch, BrokerId, ControllerEpoch, TopicId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::alter_partition::AlterPartitionRequest;
use crate::simulation::Planted;
use crate::simulation::life::at_once;
use crate::simulation::network::{Body, CallId, Network, Packet, Reply, Request};
use crate::simulation::world::TOPIC;
use crate::simulation::zookeeper::{OfficeZnodes, Passage, SessionId, Watched, ZooKeeper};

/// Of AlterPartition, as a 3.9 broker asks.
const ALTER_PARTITION_VERSION: i16 = 3;

/// What waits for the controller.
enum Input {
    /// This broker is registered under its session, or `/controller` has changed.
    Stand,
    Event(Event),
    /// Its answer goes to whoever asked, if that is a broker.
    Request(active::Request, Option<Packet>),
}

/// A broker that was told that it may leave, under the epoch that it asked with, and what it leads all the same.
pub(super) struct LetGo {
    pub broker: BrokerId,
    pub epoch: BrokerEpoch,
    pub left: Vec<TopicPartition>,
}

pub(super) struct Candidate {
    broker: BrokerId,
    pub session: Option<SessionId>,
    inputs: VecDeque<Input>,
    /// Won and not taken yet.
    won: Option<(ControllerEpoch, i32)>,
    pub office: Option<Office>,
    epoch_known: i32,
    planted: Planted,
    unclean_elections: bool,
    pub let_go: Vec<LetGo>,
}

pub(super) struct Office {
    pub core: Active,
    epoch_zk_version: i32,
    actions: VecDeque<Action>,
    /// What came of the last action.
    outcome: Option<Event>,
    channels: BTreeMap<BrokerId, Channel>,
    live: BTreeMap<BrokerId, Broker>,
    asked: BTreeMap<RequestId, Packet>,
    requests: u64,
    let_go: Vec<LetGo>,
}

#[derive(Clone, Copy)]
struct Rules {
    planted: Planted,
    unclean_elections: bool,
}

/// To one registration of a broker: what it is to be told, one after the other.
struct Channel {
    broker_epoch: BrokerEpoch,
    queue: VecDeque<Outgoing>,
    call: Option<CallId>,
}

impl Candidate {
    pub fn new(broker: BrokerId, planted: Planted, unclean_elections: bool) -> Candidate {
        Candidate {
            broker,
            session: None,
            inputs: VecDeque::new(),
            won: None,
            office: None,
            epoch_known: 0,
            planted,
            unclean_elections,
            let_go: Vec::new(),
        }
    }

    /// The broker is registered under this session.
    pub fn registered(&mut self, session: SessionId, zookeeper: &mut ZooKeeper) {
        self.session = Some(session);
        zookeeper.watch(session, Watched::Data(controller::PATH.to_owned()));
        self.inputs.push_back(Input::Stand);
    }

    pub fn session_ended(&mut self, network: &mut Network) {
        self.session = None;
        self.resign(network);
    }

    /// No longer acts as the controller; whoever waits for an answer is told so.
    fn resign(&mut self, network: &mut Network) {
        let unanswered = self.give_up();
        network.packets.extend(unanswered.map(|packet| packet.answered(not_the_controller(&packet))));
    }

    /// What was asked and is answered no more.
    pub fn give_up(&mut self) -> impl Iterator<Item = Packet> + use<> {
        self.won = None;
        let asked = self.office.take().into_iter().flat_map(|office| office.asked.into_values());
        asked.chain(std::mem::take(&mut self.inputs).into_iter().filter_map(|input| match input {
            Input::Request(_, packet) => packet,
            Input::Stand | Input::Event(_) => None,
        }))
    }

    /// A leader asks for ISRs.
    pub fn asked(&mut self, request: AlterPartitionRequest, packet: Packet, network: &mut Network) {
        let Some(office) = &self.office else {
            network.packets.push(packet.answered(not_the_controller(&packet)));
            return;
        };
        let mut asked = alter_partition::asked(request, ALTER_PARTITION_VERSION);
        if self.planted == Planted::LateAlterPartitionsObeyed {
            asked.partitions.iter_mut().for_each(|asked| obey(asked, &office.core));
        }
        if self.planted == Planted::LatecomersLetIn {
            asked.partitions.iter_mut().for_each(|asked| asked.asked.epochs.clear());
        }
        self.inputs.push_back(Input::Request(active::Request::AlterPartitions(asked), Some(packet)));
    }

    /// A broker is about to stop.
    pub fn asked_to_let_go(&mut self, broker_epoch: BrokerEpoch, packet: Packet, network: &mut Network) {
        if self.office.is_none() {
            network.packets.push(packet.answered(not_the_controller(&packet)));
        } else if self.planted == Planted::LetGoAtOnce {
            self.let_go.push(LetGo { broker: packet.from, epoch: broker_epoch, left: Vec::new() });
            network.packets.push(packet.answered(Reply::StillLed(Some(Vec::new()))));
        } else {
            let request = active::Request::ControlledShutdown { broker: packet.from, broker_epoch };
            self.inputs.push_back(Input::Request(request, Some(packet)));
        }
    }

    /// Whether what it decides is written.
    pub fn is_in_office(&self, zookeeper: &ZooKeeper) -> bool {
        let (Some(session), Some(office)) = (self.session, &self.office) else { return false };
        zookeeper.admits(session, office.epoch_zk_version).is_ok()
    }

    /// Nothing is left to decide of what has been heard of.
    pub fn has_decided(&self) -> bool {
        self.inputs.is_empty() && self.won.is_none() && self.office.as_ref().is_none_or(|office| !office.is_busy())
    }

    /// And all has been told.
    pub fn is_idle(&self) -> bool {
        let is_told = |office: &Office| office.channels.values().all(|channel| channel.queue.is_empty());
        self.has_decided() && self.office.as_ref().is_none_or(is_told)
    }

    // ---- steps ----

    /// The next step of the controller's task.
    pub fn step(&mut self, zookeeper: &mut ZooKeeper, passage: Passage, network: &mut Network) -> bool {
        let Some(session) = self.session else { return false };
        let outcome = if let Some(office) = self.office.as_mut().filter(|office| office.is_busy()) {
            let rules = Rules { planted: self.planted, unclean_elections: self.unclean_elections };
            let stepped = office.step(session, zookeeper, passage, network, rules);
            self.let_go.append(&mut office.let_go);
            stepped
        } else if let (None, Some((epoch, version))) = (&self.office, self.won) {
            self.take_office(epoch, version, session, zookeeper)
        } else {
            let Some(input) = self.inputs.pop_front() else { return false };
            match (input, &mut self.office) {
                (Input::Stand, _) => self.stand(session, zookeeper, network),
                (Input::Event(event), Some(office)) => office.outcome = Some(event),
                (Input::Request(request, packet), Some(office)) => {
                    let id = RequestId(office.requests);
                    office.requests += 1;
                    office.asked.extend(packet.map(|packet| (id, packet)));
                    office.outcome = Some(Event::Requested { id, request });
                }
                (Input::Event(_) | Input::Request(..), None) => {}
            }
            Ok(())
        };
        if outcome.is_err() {
            // The session's end is heard of elsewhere; another's office ends this one.
            self.resign(network);
            self.inputs.push_back(Input::Stand);
        }
        true
    }

    fn stand(&mut self, session: SessionId, zookeeper: &mut ZooKeeper, network: &mut Network) {
        if !zookeeper.is_open(session) {
            return;
        }
        match zookeeper.get(controller::PATH).map(|znode| (znode.owner, znode.version)) {
            Some((owner, _)) if owner != Some(session) => self.resign(network),
            // Won, but never taken or given up since.
            Some(_) if self.office.is_none() && self.won.is_none() => {
                zookeeper.delete(controller::PATH, -1).expect("it is there");
                self.inputs.push_back(Input::Stand);
            }
            Some(_) => {}
            None => {
                self.resign(network);
                let won = zookeeper.elect(session, self.broker.0, self.epoch_known);
                self.won = won.map(|(epoch, version)| (ControllerEpoch(epoch), version));
            }
        }
    }

    fn take_office(
        &mut self,
        epoch: ControllerEpoch,
        epoch_zk_version: i32,
        session: SessionId,
        zookeeper: &mut ZooKeeper,
    ) -> Result<(), ZkError> {
        self.won = None;
        self.epoch_known = epoch.0;
        if !zookeeper.is_open(session) {
            return Err(ZkError::SessionExpired);
        }
        zookeeper.watch(session, Watched::Children(broker::ROOT.to_owned()));
        let brokers = ids(&zookeeper.children(broker::ROOT));
        let live: BTreeMap<BrokerId, Broker> =
            brokers.into_iter().filter_map(|id| registration(BrokerId(id), session, zookeeper)).collect();
        take_log_dir_events(zookeeper);
        for root in [topic::ROOT, delete_topic::ROOT, log_dir_event::ROOT] {
            zookeeper.watch(session, Watched::Children(root.to_owned()));
        }
        let deletions = zookeeper.children(delete_topic::ROOT);
        let names = zookeeper.children(topic::ROOT);
        let topics: Vec<TopicRead> = names.iter().map(|name| read_and_watch(name, session, zookeeper)).collect();
        let partitions = topics.iter().flat_map(|topic| {
            let of_topic = topic.found.iter().flat_map(|found| found.partitions.keys());
            of_topic.map(|partition| TopicPartition { topic: Arc::clone(&topic.name), partition: *partition })
        });
        let partitions = partitions.collect();
        let znodes =
            OfficeZnodes { zookeeper: Mutex::new(zookeeper), session, epoch_zk_version, passage: Passage::Answered };
        let mut leaderships = at_once(leaderships::read(&znodes, partitions))?;
        if self.planted == Planted::BouncesUnseen {
            leaderships.iter_mut().for_each(|read| read.mzxid = i64::MAX);
        }
        let settings = Settings {
            broker_id: self.broker,
            protocol: MetadataVersion::LATEST,
            inter_broker_listener: "PLAINTEXT".to_owned(),
            delete_topic_enable: true,
        };
        let brokers = live.values().cloned().collect();
        let snapshot = Snapshot { brokers, topics, leaderships, deletions, ..Snapshot::default() };
        let (core, actions) = Active::elected(settings, epoch, snapshot);
        self.office = Some(Office {
            core,
            epoch_zk_version,
            actions: actions.into(),
            outcome: None,
            channels: BTreeMap::new(),
            live,
            asked: BTreeMap::new(),
            requests: 0,
            let_go: Vec::new(),
        });
        Ok(())
    }

    /// A watch of the session has fired: what it watches is read, and watched again.
    pub fn watch_fired(&mut self, watched: Watched, zookeeper: &mut ZooKeeper) {
        let Some(session) = self.session else { return };
        match watched {
            Watched::Data(path) if path == controller::PATH => {
                zookeeper.watch(session, Watched::Data(path));
                self.inputs.push_back(Input::Stand);
            }
            Watched::Data(path) if path.starts_with(topic::ROOT) => {
                let topic = read_and_watch(&path[topic::ROOT.len() + 1..], session, zookeeper);
                // One that is gone is heard of by its name.
                if topic.found.is_some() {
                    self.inputs.push_back(Input::Event(Event::TopicsRead(vec![topic])));
                }
            }
            Watched::Data(path) => {
                let id = path.rsplit('/').next().and_then(|id| id.parse().ok());
                let id = BrokerId(id.expect("no other data is watched"));
                let Some(office) = &mut self.office else { return };
                match registration(id, session, zookeeper) {
                    Some((id, broker)) => drop(office.live.insert(id, broker)),
                    None => drop(office.live.remove(&id)),
                }
                let live = office.live.values().cloned().collect();
                self.inputs.push_back(Input::Event(Event::Brokers(live)));
            }
            Watched::Children(path) => {
                zookeeper.watch(session, Watched::Children(path.clone()));
                let listed = |path: &str| zookeeper.children(path);
                match path.as_str() {
                    log_dir_event::ROOT => {
                        let is_active = self.office.as_ref();
                        let may_take =
                            is_active.is_some_and(|office| zookeeper.admits(session, office.epoch_zk_version).is_ok());
                        let failed = if may_take { take_log_dir_events(zookeeper) } else { BTreeSet::new() };
                        if !failed.is_empty() {
                            self.inputs.push_back(Input::Event(Event::LogDirsFailed(failed)));
                        }
                        return;
                    }
                    topic::ROOT => return self.inputs.push_back(Input::Event(Event::TopicNames(listed(&path)))),
                    delete_topic::ROOT => {
                        return self.inputs.push_back(Input::Event(Event::DeletionsRequested(listed(&path))));
                    }
                    _ => {}
                }
                let Some(office) = &mut self.office else { return };
                let live = ids(&zookeeper.children(&path));
                office.live.retain(|id, _| live.contains(&id.0));
                for id in live.into_iter().map(BrokerId) {
                    if !office.live.contains_key(&id) {
                        office.live.extend(registration(id, session, zookeeper));
                    }
                }
                let live = office.live.values().cloned().collect();
                self.inputs.push_back(Input::Event(Event::Brokers(live)));
            }
        }
    }

    /// Sends the next of what a broker is to be told.
    pub fn step_channels(&mut self, network: &mut Network) -> bool {
        let Some(office) = &mut self.office else { return false };
        for (to, channel) in &mut office.channels {
            if let (None, Some(outgoing)) = (channel.call, channel.queue.front()) {
                channel.call = Some(network.call(self.broker, *to, Request::Control(outgoing.clone())));
                return true;
            }
        }
        false
    }

    /// What a broker has answered, or `None` if it was not reached: then it is told the same again. False if nobody waits
    /// for it.
    pub fn channel_answered(&mut self, call: CallId, reply: Option<&Reply>) -> bool {
        let Some(office) = &mut self.office else { return false };
        let mut channels = office.channels.iter_mut();
        let Some((broker, channel)) = channels.find(|(_, channel)| channel.call == Some(call)) else { return false };
        channel.call = None;
        let Some(reply) = reply else { return true };
        let Some(outgoing) = channel.queue.pop_front() else { return true };
        let (broker, broker_epoch) = (*broker, channel.broker_epoch);
        let event = match (&outgoing.request, reply) {
            (ControlRequest::LeaderAndIsr(request), Reply::LeaderAndIsr(response)) => {
                Event::LeaderAndIsrAnswered { broker, broker_epoch, hosted: hosted(request, response) }
            }
            (ControlRequest::StopReplica(request), Reply::StopReplica(response)) => {
                Event::StopReplicaAnswered { broker, broker_epoch, deleted: deleted(request, response) }
            }
            _ => return true,
        };
        self.inputs.push_back(Input::Event(event));
        true
    }

    /// Somebody wants partitions moved.
    pub fn reassign(&mut self, partitions: Vec<(TopicPartition, Option<Vec<BrokerId>>)>) {
        if self.office.is_some() {
            self.inputs.push_back(Input::Request(active::Request::Reassign(partitions), None));
        }
    }

    /// Time to try again what ZooKeeper has refused.
    pub fn retry(&mut self) {
        if self.office.as_ref().is_some_and(|office| office.core.is_unfinished()) {
            self.inputs.push_back(Input::Event(Event::Retry));
        }
    }

    /// Somebody wants any replica to lead rather than none.
    pub fn elect_uncleanly(&mut self, partitions: Vec<TopicPartition>) {
        if self.office.is_some() {
            let (partitions, election) = (Some(partitions), ElectionType::Unclean);
            self.inputs.push_back(Input::Request(active::Request::ElectLeaders { partitions, election }, None));
        }
    }

    /// Time to see whether leaders are where they are preferred.
    pub fn rebalance(&mut self) {
        if self.office.is_some() {
            self.inputs.push_back(Input::Event(Event::RebalanceDue { imbalance_percentage: 0 }));
        }
    }
}

impl Office {
    fn is_busy(&self) -> bool {
        self.outcome.is_some() || !self.actions.is_empty()
    }

    /// Performs one action, or takes in what came of one.
    fn step(
        &mut self,
        session: SessionId,
        zookeeper: &mut ZooKeeper,
        passage: Passage,
        network: &mut Network,
        rules: Rules,
    ) -> Result<(), ZkError> {
        if let Some(event) = self.outcome.take() {
            self.actions.extend(self.core.on_event(event));
            return Ok(());
        }
        match self.actions.pop_front() {
            None => {}
            Some(Action::Connect(broker)) => {
                let channel = Channel { broker_epoch: broker.epoch, queue: VecDeque::new(), call: None };
                self.channels.insert(broker.id, channel);
            }
            Some(Action::Disconnect(broker)) => drop(self.channels.remove(&broker)),
            Some(Action::Send(outgoing)) => {
                if let Some(channel) = self.channels.get_mut(&outgoing.to) {
                    channel.queue.push_back(outgoing);
                }
            }
            Some(Action::WriteLeaderships(writes)) => {
                let epoch_zk_version = self.epoch_zk_version;
                let znodes = OfficeZnodes { zookeeper: Mutex::new(zookeeper), session, epoch_zk_version, passage };
                let outcomes = at_once(leaderships::write(&znodes, writes))?;
                self.outcome = Some(Event::LeadershipsWritten(outcomes));
            }
            Some(Action::ReadUncleanElection(asked)) => {
                let mut allowed = asked.clone();
                let is_allowed = |topic: &str| rules.unclean_elections && topic == TOPIC;
                allowed.retain(|topic| rules.planted == Planted::UncleanElections || is_allowed(topic));
                self.outcome = Some(Event::UncleanElectionRead { asked, allowed });
            }
            Some(Action::Answer { id, answer: Answer::AlterPartitions(answer) }) => {
                let response = match answer {
                    Ok(altered) => alter_partition::answer(altered, ALTER_PARTITION_VERSION),
                    Err(_) => alter_partition::refusal(ErrorCode::StaleBrokerEpoch),
                };
                if let Some(packet) = self.asked.remove(&id) {
                    network.packets.push(packet.answered(Reply::AlterPartition(response)));
                }
            }
            Some(Action::Answer { id, answer: Answer::ControlledShutdown(answer) }) => {
                if let Some(packet) = self.asked.remove(&id) {
                    if let (Ok(left), Ok(())) = (&answer, zookeeper.admits(session, self.epoch_zk_version))
                        && let Body::Request(Request::ControlledShutdown(epoch)) = packet.body
                    {
                        self.let_go.push(LetGo { broker: packet.from, epoch, left: left.clone() });
                    }
                    network.packets.push(packet.answered(Reply::StillLed(answer.ok())));
                }
            }
            Some(Action::ReadTopics(names)) => {
                let read = names.iter().map(|name| read_and_watch(name, session, zookeeper)).collect();
                self.outcome = Some(Event::TopicsRead(read));
            }
            Some(Action::DeleteTopic(topic)) => {
                zookeeper.admits(session, self.epoch_zk_version)?;
                // One znode after the other, the marker last.
                match zookeeper.leaf(&topic::path(&topic)) {
                    Some(leaf) => {
                        zookeeper.delete(&leaf, -1)?;
                        self.actions.push_front(Action::DeleteTopic(topic));
                    }
                    None => {
                        let _ = zookeeper.delete(&delete_topic::path(&topic), -1);
                        self.outcome = Some(Event::TopicDeleted { topic });
                    }
                }
            }
            Some(Action::DeleteMarkers(topics)) => {
                zookeeper.admits(session, self.epoch_zk_version)?;
                for topic in topics {
                    let _ = zookeeper.delete(&delete_topic::path(&topic), -1);
                }
            }
            Some(Action::WriteAssignments(writes)) => {
                let outcomes = writes.into_iter().map(|(name, found)| {
                    let outcome = self.write_assignment(&name, &found, session, zookeeper, passage)?;
                    Ok((name, outcome))
                });
                self.outcome = Some(Event::AssignmentsWritten(outcomes.collect::<Result<_, ZkError>>()?));
            }
            // Whoever has asked for a move looks at the topic; nobody asks by a znode.
            Some(Action::Answer { .. } | Action::ForgetReassignments(_)) => {}
            Some(other) => panic!("nothing here leads to {other:?}"),
        }
        Ok(())
    }
}

impl Office {
    /// See `write_topics` in `controller/task/cluster.rs`.
    fn write_assignment(
        &self,
        name: &str,
        wanted: &TopicFound,
        session: SessionId,
        zookeeper: &mut ZooKeeper,
        passage: Passage,
    ) -> Result<AssignmentOutcome, ZkError> {
        let (path, data) = (topic::path(name), cluster::topic(wanted).encode());
        let write = vec![Write::Set { path, data, expected_version: wanted.version }];
        let epoch_zk_version = self.epoch_zk_version;
        let znodes = OfficeZnodes { zookeeper: Mutex::new(zookeeper), session, epoch_zk_version, passage };
        let committed = at_once(znodes.write_many(&[write]))?;
        if let [Committed::Versions(versions)] = &committed[..] {
            return Ok(AssignmentOutcome::Written(versions[0]));
        }
        let OfficeZnodes { zookeeper, .. } = znodes;
        let found = read(name, zookeeper.into_inner().expect("nothing panics under it")).found;
        let Some(found) = found else { return Ok(AssignmentOutcome::Failed) };
        let is_own = found.partitions == wanted.partitions && found.id == wanted.id;
        Ok(if is_own { AssignmentOutcome::Written(found.version) } else { AssignmentOutcome::Conflict(found) })
    }
}

fn not_the_controller(packet: &Packet) -> Reply {
    match packet.body {
        Body::Request(Request::ControlledShutdown(_)) => Reply::StillLed(None),
        _ => Reply::AlterPartition(alter_partition::refusal(ErrorCode::NotController)),
    }
}

/// A broker as it is registered now, whose registration is watched from now on.
fn registration(id: BrokerId, session: SessionId, zookeeper: &mut ZooKeeper) -> Option<(BrokerId, Broker)> {
    let path = broker::path(id.0);
    let epoch = BrokerEpoch(zookeeper.get(&path)?.czxid);
    zookeeper.watch(session, Watched::Data(path));
    Some((id, Broker { id, epoch, endpoints: Vec::new(), rack: None, features: Default::default() }))
}

/// Brokers that have lost a log directory, of which nobody will hear again.
fn take_log_dir_events(zookeeper: &mut ZooKeeper) -> BTreeSet<BrokerId> {
    let mut failed = BTreeSet::new();
    for child in zookeeper.children(log_dir_event::ROOT) {
        let path = format!("{}/{child}", log_dir_event::ROOT);
        let broker = zookeeper.get(&path).map(|znode| log_dir_event::decode(&path, &znode.data));
        failed.extend(broker.map(|broker| BrokerId(broker.expect("it was written well"))));
        zookeeper.delete(&path, -1).expect("it is there");
    }
    failed
}

fn read(name: &str, zookeeper: &ZooKeeper) -> TopicRead {
    let path = topic::path(name);
    let found = zookeeper.get(&path);
    let found = found.map(|znode| topic_found(&path, name, &znode.data, znode.version).expect("it was written well"));
    TopicRead { name: name.into(), found, fresh_id: TopicId::ZERO }
}

fn read_and_watch(name: &str, session: SessionId, zookeeper: &mut ZooKeeper) -> TopicRead {
    let read = read(name, zookeeper);
    if read.found.is_some() {
        zookeeper.watch(session, Watched::Data(topic::path(name)));
    }
    read
}

/// Planted: what a leader asked under earlier epochs is taken for what it asks now.
fn obey(asked: &mut AskedPartition, core: &Active) {
    let topics = &core.cluster().topics;
    let topic = match &asked.topic {
        TopicRef::Name(name) => topics.get(name),
        TopicRef::Id(id) => topics.values().find(|topic| topic.id == *id),
    };
    let known = topic.and_then(|topic| topic.partitions.get(&asked.partition));
    if let Some(current) = known.and_then(|partition| partition.leadership.as_ref()) {
        (asked.asked.leader_epoch, asked.asked.partition_epoch) = (current.leader_epoch, current.partition_epoch);
    }
}
