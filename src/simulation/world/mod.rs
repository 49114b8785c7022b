//! A cluster with its clients and its accidents: one step after the other, each drawn from the seed.

mod accidents;
mod clients;
mod packets_shown;
mod rest;
mod transactions;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use odradek_zookeeper::session::Versioned;
use odradek_zookeeper::znode;
use odradek_zookeeper::znode::partition_state::PartitionState;
use odradek_zookeeper::znode::topic::{PartitionAssignment, Topic};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::config::log::LogConfig;
use crate::controller::requests::ControlRequest;
use crate::coordinator::group::requests::CommitAnswer;
use crate::metadata::image::Update;
use crate::model::internal_topics::{GROUP_METADATA_TOPIC, TRANSACTION_STATE_TOPIC};
use crate::model::{BrokerEpoch, BrokerId, Offset, TopicId, TopicPartition};
use crate::record::append_rules::{AcceptedSets, AppendOrigin};
use crate::replica::leader::Leadership;
use crate::replica::partition::{AppendTerms, RequiredAcks};
use crate::replica::partition_log::PartitionLog;
use crate::replica::waiters::Commit;
use crate::simulation::checks::{Checked, Checks};
use crate::simulation::clock::Clock;
use crate::simulation::life::{Disk, Life, Replica};
use crate::simulation::members::Members;
use crate::simulation::network::{Body, Network, Packet, Reply, Request};
use crate::simulation::office::LetGo;
use crate::simulation::world::accidents::Accidents;
use crate::simulation::world::packets_shown::shown;
use crate::simulation::world::transactions::TransactionalProducers;
use crate::simulation::zookeeper::{Passage, SessionId, ZooKeeper};
use crate::simulation::{Planted, Theme};

const BROKERS: i32 = 4;
const REPLICAS: i32 = 3;
pub(super) const TOPIC: &str = "t";
/// One that comes and goes.
const PASSING_TOPIC: &str = "d";
/// The first so many of all partitions are produced to.
const PRODUCED: usize = 3;
const GROUP: &str = "g";
const TERMS: AppendTerms = AppendTerms {
    accepted_sets: AcceptedSets::OneV2Batch,
    origin: AppendOrigin::Client,
    required_acks: RequiredAcks::AllInSync,
    expected_leader_epoch: None,
};
/// That a broker is.
const TASKS: usize = 14;
/// Of one task, on the way to rest.
const STEPS_A_ROUND_MAX: usize = 8;
/// A cluster that nothing happens to any more settles within so many rounds.
const ROUNDS_TO_REST_MAX: usize = 400;

struct Broker {
    id: BrokerId,
    disk: Disk,
    life: Option<Life>,
    /// Another for each life of each broker.
    life_number: u64,
    /// Of earlier lives: their ends have not been noticed yet.
    sessions_left: Vec<SessionId>,
    reaches_zookeeper: bool,
    /// Log directories that have failed, until it starts again.
    dirs_failed: BTreeSet<usize>,
    /// It keeps what it was told to delete while a directory failed, or what nobody lived to tell it.
    may_have_strays: bool,
}

/// Records whose producer waits to hear that they are committed.
struct Produced {
    life: u64,
    partition: Replica,
    end: Offset,
    commit: Commit,
}

/// The one commit of the group that is under way.
struct Committing {
    broker: usize,
    offset: i64,
    answer: Pin<Box<dyn Future<Output = CommitAnswer>>>,
}

pub(super) struct World {
    rng: SmallRng,
    clock: Clock,
    planted: Planted,
    theme: Theme,
    accidents: Accidents,
    zookeeper: ZooKeeper,
    network: Network,
    brokers: Vec<Broker>,
    lives: u64,
    /// Who was the coordinator of transactions when somebody looked last.
    coordinator: Option<usize>,
    config: Arc<LogConfig>,
    /// Of the topic, any replica may lead when no other can.
    unclean_elections: bool,
    topics_made: u8,
    names: Vec<TopicPartition>,
    produced: Vec<Produced>,
    next_value: i64,
    committing: Option<Committing>,
    next_offset: i64,
    members: Members,
    /// In some schedules.
    producers: Option<TransactionalProducers>,
    /// Brokers that have lost what they had promised to keep, as who they were then, until no ISR has them any more.
    lost: BTreeMap<BrokerId, Option<BrokerEpoch>>,
    pub checks: Checks,
    /// What has happened, if somebody wants to know.
    pub trace: Option<Vec<String>>,
}

impl World {
    pub fn new(seed: u64, planted: Planted, is_traced: bool, theme: Theme) -> World {
        let mut rng = SmallRng::seed_from_u64(seed);
        let about_transactions = theme == Theme::Transactions;
        let accidents = match about_transactions {
            true => Accidents::of_coordinators(&mut rng),
            false => Accidents::drawn(&mut rng),
        };
        let min_insync_replicas = rng.random_range(1..=2);
        let unclean_elections = rng.random_bool(if about_transactions { 0.0 } else { 0.25 });
        let has_transactions = theme != Theme::Plain;
        let clock = Clock::new();
        let producers =
            has_transactions.then(|| TransactionalProducers::drawn(&mut rng, about_transactions, clock.now()));
        let mut zookeeper = ZooKeeper::new();
        let mut names = Vec::new();
        let of_transactions = has_transactions.then_some((TRANSACTION_STATE_TOPIC, 4, 1));
        let topics = [(TOPIC, 1, 2), (PASSING_TOPIC, 2, 1), (GROUP_METADATA_TOPIC, 3, 1)];
        for (topic, id, partitions) in topics.into_iter().chain(of_transactions) {
            names.extend((0..partitions).map(|partition| TopicPartition::new(topic, partition)));
            zookeeper
                .create(&znode::topic::path(topic), topic_data(id, partitions), None)
                .expect("its parent is there");
        }
        let broker = |id| Broker {
            id: BrokerId(id),
            disk: BTreeMap::new(),
            life: None,
            life_number: 0,
            sessions_left: Vec::new(),
            reaches_zookeeper: true,
            dirs_failed: BTreeSet::new(),
            may_have_strays: false,
        };
        let mut world = World {
            rng,
            clock,
            planted,
            theme,
            accidents,
            zookeeper,
            network: Network::default(),
            brokers: (1..=BROKERS).map(broker).collect(),
            lives: 0,
            coordinator: None,
            config: Arc::new(LogConfig { min_insync_replicas, ..LogConfig::default() }),
            unclean_elections,
            topics_made: 4,
            names,
            produced: Vec::new(),
            next_value: 0,
            committing: None,
            next_offset: 0,
            members: Members::new(planted),
            producers,
            lost: BTreeMap::new(),
            checks: Checks::default(),
            trace: is_traced.then(Vec::new),
        };
        (0..world.brokers.len()).for_each(|at| world.start(at));
        world
    }

    /// Most schedules begin with a cluster that works.
    pub fn warm_up(&mut self) -> Checked {
        if self.rng.random_bool(0.2) {
            return Ok(());
        }
        let accidents = std::mem::take(&mut self.accidents);
        let with_members = self.rng.random_bool(0.5);
        self.settle(with_members)?;
        self.accidents = accidents;
        Ok(())
    }

    fn note(&mut self, what: impl FnOnce(&World) -> String) {
        let what = self.trace.is_some().then(|| what(self));
        if let (Some(trace), Some(what)) = (&mut self.trace, what) {
            trace.push(what);
        }
    }

    fn at(&self, id: BrokerId) -> usize {
        self.brokers.iter().position(|broker| broker.id == id).expect("one of them")
    }

    fn pass(&mut self, time: Duration) {
        self.clock.pass(time);
    }

    // ---- steps ----

    pub fn step(&mut self) -> Checked {
        let is_about_transactions = self.theme == Theme::Transactions;
        // Fetchers that were not answered wait for a second.
        let passed = if is_about_transactions { 400_000 } else { 20_000 };
        let passed = Duration::from_micros(self.rng.random_range(0..passed));
        self.pass(passed);
        self.accident();
        let mut at = self.rng.random_range(0..self.brokers.len());
        if self.producers.is_some() {
            self.turn_feature();
            if self.rng.random_bool(0.05) {
                at = self.request_arrives().unwrap_or(at);
            }
        }
        if is_about_transactions {
            for _ in 0..3 {
                at = self.step_producer(false)?;
            }
            match self.rng.random_range(0..20) {
                0..3 => self.read_committed(at)?,
                3 => drop(self.produce(at)?),
                4 => self.housekeeping(at),
                _ => {}
            }
            return self.go_on(0.85, 2);
        }
        if self.producers.is_some() {
            match self.rng.random_range(0..20) {
                0..3 => {
                    for _ in 0..4 {
                        at = self.step_producer(false)?;
                    }
                    return self.check(at);
                }
                3..6 => return self.go_on(1.0, 1),
                6 => self.read_committed(at)?,
                _ => {}
            }
        }
        match self.rng.random_range(0..100) {
            0..40 => at = self.deliver().unwrap_or(at),
            40..72 => {
                if !self.step_broker(at) {
                    at = self.deliver().unwrap_or(at);
                }
            }
            72..82 => at = self.produce(at)?,
            82..85 => self.consume(at)?,
            85..87 => self.commit_offset(at)?,
            87..95 => {
                for _ in 0..3 {
                    at = self.step_member(false)?;
                }
            }
            95 => self.read_offset(at)?,
            96..99 => self.housekeeping(at),
            _ => {
                let long = Duration::from_millis(self.rng.random_range(0..15_000));
                self.pass(long);
            }
        }
        self.check(at)
    }

    /// Such a share goes on with what there is to do, and hears most of what was said to them, so many times: transactions
    /// need many of these steps.
    fn go_on(&mut self, share: f64, times: usize) -> Checked {
        self.note(|_| "all go on".to_owned());
        let brokers = self.brokers.len();
        for _ in 0..times {
            let first = self.rng.random_range(0..brokers);
            for at in (0..brokers).map(|at| (first + at) % brokers) {
                if self.rng.random_bool(share) {
                    self.work_off(at);
                }
            }
            for _ in 0..self.network.packets.len() {
                if self.rng.random_bool(share) {
                    self.deliver();
                }
            }
        }
        self.everywhere(World::check)
    }

    /// A broker goes on with what it has to do.
    fn work_off(&mut self, at: usize) {
        for task in 0..TASKS {
            (0..STEPS_A_ROUND_MAX).take_while(|_| self.step_task(at, task)).for_each(drop);
        }
    }

    /// The next step of one of the broker's tasks. False if none has anything to do.
    fn step_broker(&mut self, at: usize) -> bool {
        let first = self.rng.random_range(0..TASKS);
        let is_done = (0..TASKS).filter(|task| self.step_task(at, (first + task) % TASKS)).take(4).count() > 0;
        if is_done {
            self.note(|world| format!("broker {} goes on", world.brokers[at].id));
        }
        is_done
    }

    fn step_task(&mut self, at: usize, task: usize) -> bool {
        let is_lost = task == 5 && self.rng.random_bool(self.accidents.lost_replies);
        let World { brokers, zookeeper, network, .. } = self;
        let broker = &mut brokers[at];
        let Some(life) = &mut broker.life else { return false };
        match task {
            0 => life.step_fetchers(network, 0),
            1 => life.step_fetchers(network, 1),
            2 => life.step_isr(network),
            3 => life.candidate.step_channels(network),
            4 => life.step_groups(),
            8 => life.step_leaving(network),
            10 => life.step_transactions(),
            11 => life.step_markers(network),
            12 => life.step_requests(network),
            _ if !broker.reaches_zookeeper => false,
            5 => {
                let passage = if is_lost { Passage::SentAgain } else { Passage::Answered };
                life.candidate.step(zookeeper, passage, network)
            }
            6 => {
                let Some(session) = life.session else { return false };
                let Some(watched) = zookeeper.take_fired(session) else { return false };
                life.candidate.watch_fired(watched, zookeeper);
                true
            }
            9 => life.step_dirs(zookeeper),
            13 => life.step_unknown(zookeeper) | life.step_inherited(zookeeper),
            _ => step_session(life, zookeeper, network),
        }
    }

    /// Something happens to a packet. Who has received one.
    fn deliver(&mut self) -> Option<usize> {
        if !self.network.late.is_empty() && self.rng.random_bool(0.03) {
            let at = self.rng.random_range(0..self.network.late.len());
            let packet = self.network.late.swap_remove(at);
            self.network.packets.push(packet);
        }
        if self.network.packets.is_empty() {
            return None;
        }
        // Half of them in the order in which they were sent, the others in any.
        let at = if self.rng.random_bool(0.5) { 0 } else { self.rng.random_range(0..self.network.packets.len()) };
        let packet = self.network.packets.remove(at);
        let is_cut = self.network.cut.contains(&(packet.from, packet.to));
        let is_notice = matches!(packet.body, Body::Lost);
        if !is_notice && (is_cut || self.rng.random_bool(self.accidents.lost)) {
            self.note(|_| format!("lost: {}", shown(&packet)));
            self.network.packets.push(packet.lost());
            return None;
        }
        let given_up = match packet.body {
            Body::Request(Request::WriteTxnMarkers(_) | Request::Verify { .. }) => self.accidents.coordination_given_up,
            _ => self.accidents.given_up,
        };
        if !is_notice && self.rng.random_bool(given_up) {
            self.note(|_| format!("given up: {}", shown(&packet)));
            self.network.packets.push(packet.lost());
            self.network.late.push(packet);
            return None;
        }
        if self.network.is_overtaken(&packet) {
            return None;
        }
        if self.rng.random_bool(self.accidents.duplicated) {
            self.network.late.push(packet.clone());
        }
        let at = self.at(packet.to);
        self.receive(packet);
        Some(at)
    }

    fn receive(&mut self, packet: Packet) {
        self.note(|_| shown(&packet));
        let at = self.at(packet.to);
        let World { brokers, network, config, names, .. } = self;
        let Broker { life, disk, dirs_failed, .. } = &mut brokers[at];
        let Some(life) = life else {
            if let Body::Request(_) = packet.body {
                network.packets.push(packet.lost());
            }
            return;
        };
        let reply = match &packet.body {
            Body::Request(Request::Control(outgoing)) => match &outgoing.request {
                ControlRequest::LeaderAndIsr(request) => {
                    let is_offline = |name: &TopicPartition| dirs_failed.contains(&dir_of(name, names));
                    let response = life.leader_and_isr(request, outgoing.version, packet.call, disk, is_offline);
                    disk.values().for_each(|log| log.set_config(Arc::clone(config)));
                    response.map(Reply::LeaderAndIsr)
                }
                ControlRequest::UpdateMetadata(announcement) => {
                    let request = announcement.request();
                    let epochs = life.epochs(request.controller_epoch, request.broker_epoch, packet.call);
                    life.update_metadata(epochs, Update::of(request)).map(|()| Reply::Received)
                }
                ControlRequest::StopReplica(request) => {
                    life.stop_replicas(request, packet.call, disk).map(Reply::StopReplica)
                }
            },
            Body::Request(Request::AlterPartition(request)) => {
                let request = request.clone();
                return life.candidate.asked(request, packet, network);
            }
            Body::Request(Request::ControlledShutdown(epoch)) => {
                return life.candidate.asked_to_let_go(*epoch, packet, network);
            }
            Body::Request(Request::WriteTxnMarkers(request)) => {
                let request = request.clone();
                return life.write_markers(&request, packet);
            }
            Body::Request(Request::Verify { transactional_id, producer, version, partition }) => {
                let partition = partition.clone();
                let (transactional_id, producer, version) = (*transactional_id, *producer, *version);
                return life.verify(transactional_id, producer, version, partition, packet);
            }
            Body::Request(Request::Fetch(request)) => Some(Reply::Fetch(life.fetch(request))),
            Body::Request(Request::EpochEnds(request)) => Some(Reply::EpochEnds(life.epoch_ends(request))),
            Body::Request(Request::Offsets(request)) => Some(Reply::Offsets(life.offsets(request))),
            Body::Reply(_) | Body::Lost => {
                let call = packet.call;
                let reply = if let Body::Reply(reply) = packet.body { Some(reply) } else { None };
                let altered = reply.as_ref().and_then(|reply| match reply {
                    Reply::AlterPartition(response) => Some(response),
                    _ => None,
                });
                let markers = reply.as_ref().and_then(|reply| match reply {
                    Reply::WriteTxnMarkers(response) => Some(response),
                    _ => None,
                });
                if markers.is_some() {
                    // Another copy of what was asked would come too late.
                    network.forget(|packet| packet.call == call);
                }
                if life.may_go(call, reply.as_ref()) {
                    return self.stop(at);
                }
                let is_awaited = life.isr_answered(call, altered)
                    || life.markers_answered(call, markers)
                    || life.question_answered(call, reply.as_ref())
                    || life.candidate.channel_answered(call, reply.as_ref())
                    || life.fetcher_answered(call, reply);
                let _ = is_awaited;
                return;
            }
        };
        match reply {
            Some(reply) => network.packets.push(packet.answered(reply)),
            // It waits for the broker to be registered.
            None => network.packets.push(packet),
        }
    }

    // ---- checks ----

    /// Checks what a step of one broker can have changed.
    fn check(&mut self, at: usize) -> Checked {
        if self.accidents.disk_faults > 0.0 {
            self.lose_dirs(at);
        }
        self.check_written()?;
        self.settle_commit()?;
        self.members.hear(at, &mut self.checks)?;
        let Broker { life, disk, life_number, .. } = &self.brokers[at];
        let life_number = *life_number;
        for name in &self.names {
            if let (Some(log), Some(life)) = (disk.get(name), life)
                && let Some(replica) = life.replica(name)
            {
                self.checks.replica(life_number, &replica, log)?;
            }
        }
        self.check_follower(at)?;
        let mut produced = 0;
        while let Some(waiting) = self.produced.get_mut(produced) {
            match if waiting.life == life_number { waiting.commit.outcome() } else { None } {
                None => produced += 1,
                Some(outcome) => {
                    let Produced { partition, end, .. } = self.produced.swap_remove(produced);
                    if outcome.is_ok() {
                        self.acknowledged(&partition, end)?;
                    }
                }
            }
        }
        let World { brokers, names, checks, lost, .. } = self;
        let let_go = brokers[at].life.as_mut().map(|life| std::mem::take(&mut life.candidate.let_go));
        for LetGo { broker, epoch, left } in let_go.unwrap_or_default() {
            // One that has registered again since may lead again.
            let asked = brokers.iter().find(|known| known.id == broker).and_then(|known| known.life.as_ref());
            if asked.is_some_and(|life| life.registered.is_some_and(|registered| registered != epoch)) {
                continue;
            }
            let shared: Vec<TopicPartition> =
                names.iter().filter(|name| &*name.topic != PASSING_TOPIC).cloned().collect();
            checks.let_go(broker, &left, &shared)?;
        }
        for name in names.iter() {
            let of = |broker| brokers.iter().find(|known| known.id == broker);
            let leader = |broker| of(broker)?.life.as_ref()?.replica(name);
            checks.isr(name, brokers[at].id, leader, |broker| of(broker)?.disk.get(name).cloned(), lost)?;
        }
        Ok(())
    }

    /// What has been written to ZooKeeper, before anybody is looked at who may have heard of it.
    fn check_written(&mut self) -> Checked {
        let World { brokers, names, zookeeper, checks, unclean_elections, .. } = self;
        let paths = |name: &TopicPartition| znode::partition_state::path(&name.topic, name.partition);
        for (path, written) in zookeeper.take_states_written() {
            let Some(name) = names.iter().find(|name| paths(name) == path) else { continue };
            let TopicPartition { topic, partition } = name;
            let read = |(data, version): (Vec<u8>, i32)| {
                let value = PartitionState::decode(topic, *partition, &data).expect("controllers write it well");
                Versioned { value, version }
            };
            if written.is_none() {
                checks.topics_deleted += 1;
                let told = zookeeper.get(&znode::topic::path(topic)).map(|znode| {
                    let topic = Topic::decode(topic, &znode.data).expect("it was written well");
                    topic.partitions[partition].replicas.clone()
                });
                let is_told = |id: BrokerId| told.as_ref().is_some_and(|told| told.contains(&id.0));
                let has_it = |broker: &&Broker| {
                    broker.disk.contains_key(name) && (!broker.may_have_strays || is_told(broker.id))
                };
                if let Some(broker) = brokers.iter().find(has_it) {
                    return Err(format!("{name} is gone, and broker {} has its log", broker.id));
                }
            }
            checks.written(name, written.map(read), *unclean_elections && &**topic == TOPIC)?;
        }
        Ok(())
    }

    /// Whoever has just appended what a leader sent has a prefix of its log, if that leads still.
    fn check_follower(&mut self, at: usize) -> Checked {
        let Some(life) = &mut self.brokers[at].life else { return Ok(()) };
        for (follower, epoch) in std::mem::take(&mut life.appended) {
            let (leader, epoch_now) = follower.leader();
            let leader = leader.filter(|_| epoch_now == epoch);
            let leader = leader.map(|leader| &self.brokers[self.at(leader)]);
            let leader = leader.and_then(|leader| leader.life.as_ref()?.replica(follower.name()));
            let leads = |leadership: &Leadership| leadership.is_leader() && leadership.leader_epoch() == epoch;
            let Some(leader) = leader.filter(|leader| leader.looking_at(leads)) else { continue };
            let (Some(own), Some(of_leader)) = (follower.log(), leader.log()) else { continue };
            self.checks.follows(follower.name(), &own, &of_leader)?;
        }
        Ok(())
    }
}

/// The broker opens a session, registers under it, or hears that it has ended.
fn step_session(life: &mut Life, zookeeper: &mut ZooKeeper, network: &mut Network) -> bool {
    let Some(session) = life.session else {
        life.session = Some(zookeeper.open_session());
        return true;
    };
    if !zookeeper.is_open(session) {
        life.session_ended(network);
        return true;
    }
    if life.registered.is_some() {
        return false;
    }
    let path = znode::broker::path(life.id.0);
    // An earlier life's registration stands until its session ends.
    if zookeeper.create(&path, Vec::new(), Some(session)).is_err() {
        return false;
    }
    life.registered = zookeeper.get(&path).map(|znode| BrokerEpoch(znode.czxid));
    life.candidate.registered(session, zookeeper);
    true
}

/// Each broker has two log directories.
fn dir_of(name: &TopicPartition, names: &[TopicPartition]) -> usize {
    names.iter().position(|known| known == name).unwrap_or(0) % 2
}

fn topic_data(id: u8, partitions: i32) -> Vec<u8> {
    let replicas = |first: i32| (0..REPLICAS).map(|at| (first + at) % BROKERS + 1).collect();
    let assignment = |first| PartitionAssignment { replicas: replicas(first), ..PartitionAssignment::default() };
    let partitions = (0..partitions).map(|partition| (partition, assignment(partition))).collect();
    Topic { topic_id: Some(TopicId([id; 16]).to_string()), partitions }.encode()
}
