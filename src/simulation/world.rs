//! A cluster with its clients and its accidents: one step after the other, each drawn from the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use odradek_zookeeper::znode;
use odradek_zookeeper::znode::topic::{PartitionAssignment, Topic};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::config::log::LogConfig;
use crate::controller::requests::ControlRequest;
use crate::coordinator::group::offsets::FoundOffset;
use crate::coordinator::group::records::CommittedOffset;
use crate::coordinator::group::requests::{Caller, Commit as OffsetCommit, CommitAnswer, OffsetToCommit};
use crate::log::FirstBatch;
use crate::metadata::image::Update;
use crate::model::internal_topics::GROUP_METADATA_TOPIC;
use crate::model::{BrokerEpoch, BrokerId, GenerationId, LeaderEpoch, Offset, TopicId, TopicPartition};
use crate::record::append_rules::{AcceptedSets, AppendOrigin};
use crate::record::batch::Batches;
use crate::record::build::BatchBuilder;
use crate::replica::leader::Leadership;
use crate::replica::memory_log::MemoryLog;
use crate::replica::partition::{AppendTerms, FetchLimits, FetchParams, Fetcher, RequiredAcks};
use crate::replica::partition_log::PartitionLog;
use crate::replica::waiters::Commit;
use crate::simulation::Planted;
use crate::simulation::checks::{Checked, Checks};
use crate::simulation::life::{Clock, Disk, Life, NOW_MS, Replica, epochs, read};
use crate::simulation::network::{Body, Network, Packet, Reply, Request};
use crate::simulation::zookeeper::{Passage, SessionId, ZooKeeper};

const BROKERS: i32 = 4;
const REPLICAS: i32 = 3;
const TOPIC: &str = "t";
const TOPIC_PARTITIONS: usize = 2;
const GROUP: &str = "g";
const TERMS: AppendTerms = AppendTerms {
    accepted_sets: AcceptedSets::OneV2Batch,
    origin: AppendOrigin::Client,
    required_acks: RequiredAcks::AllInSync,
    expected_leader_epoch: None,
};
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

/// How often what goes wrong. Each schedule has some of it, so that each accident meets the cluster in many states.
#[derive(Debug, Default)]
struct Accidents {
    // Of packets.
    lost: f64,
    duplicated: f64,
    given_up: f64,
    // Of steps.
    kills: f64,
    power_losses: f64,
    expiries: f64,
    partitions: f64,
    /// Of requests to ZooKeeper.
    lost_replies: f64,
    /// Of times when somebody may ask for a move.
    moves: f64,
}

impl Accidents {
    fn drawn(rng: &mut SmallRng) -> Accidents {
        let mut rate = |usual: f64| if rng.random_bool(0.4) { 0.0 } else { usual * rng.random_range(0.2..2.0) };
        Accidents {
            lost: rate(0.05),
            duplicated: rate(0.05),
            given_up: rate(0.03),
            kills: rate(0.01),
            power_losses: rate(0.005),
            expiries: rate(0.01),
            partitions: rate(0.01),
            lost_replies: rate(0.1),
            moves: rate(0.4),
        }
    }
}

pub(super) struct World {
    rng: SmallRng,
    clock: Clock,
    planted: Planted,
    accidents: Accidents,
    zookeeper: ZooKeeper,
    network: Network,
    brokers: Vec<Broker>,
    lives: u64,
    config: Arc<LogConfig>,
    names: Vec<TopicPartition>,
    produced: Vec<Produced>,
    next_value: i64,
    committing: Option<Committing>,
    next_offset: i64,
    /// Brokers that have lost what they had promised to keep, until no ISR has them any more.
    lost: BTreeSet<BrokerId>,
    pub checks: Checks,
    zxid_seen: i64,
    /// What has happened, if somebody wants to know.
    pub trace: Option<Vec<String>>,
}

impl World {
    pub fn new(seed: u64, planted: Planted, is_traced: bool) -> World {
        let mut rng = SmallRng::seed_from_u64(seed);
        let accidents = Accidents::drawn(&mut rng);
        let min_insync_replicas = rng.random_range(1..=2);
        let mut zookeeper = ZooKeeper::new();
        let replicas = |first: i32| (0..REPLICAS).map(|at| (first + at) % BROKERS + 1).collect();
        let mut names = Vec::new();
        for (topic, id, partitions) in [(TOPIC, 1, TOPIC_PARTITIONS as i32), (GROUP_METADATA_TOPIC, 2, 1)] {
            let assignment =
                |first| PartitionAssignment { replicas: replicas(first), ..PartitionAssignment::default() };
            let partitions = 0..partitions;
            names.extend(partitions.clone().map(|partition| TopicPartition::new(topic, partition)));
            let partitions = partitions.map(|partition| (partition, assignment(partition)));
            let topic_id = Some(TopicId([id; 16]).to_string());
            let data = Topic { topic_id, partitions: partitions.collect() }.encode();
            zookeeper.create(&znode::topic::path(topic), data, None).expect("its parent is there");
        }
        let broker = |id| Broker {
            id: BrokerId(id),
            disk: BTreeMap::new(),
            life: None,
            life_number: 0,
            sessions_left: Vec::new(),
            reaches_zookeeper: true,
        };
        let mut world = World {
            rng,
            clock: Arc::new(Mutex::new(Instant::now())),
            planted,
            accidents,
            zookeeper,
            network: Network::default(),
            brokers: (1..=BROKERS).map(broker).collect(),
            lives: 0,
            config: Arc::new(LogConfig { min_insync_replicas, ..LogConfig::default() }),
            names,
            produced: Vec::new(),
            next_value: 0,
            committing: None,
            next_offset: 0,
            lost: BTreeSet::new(),
            checks: Checks::default(),
            zxid_seen: 0,
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
        self.settle()?;
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
        *self.clock.lock().expect("nothing panics under it") += time;
    }

    // ---- steps ----

    pub fn step(&mut self) -> Checked {
        let passed = Duration::from_micros(self.rng.random_range(0..20_000));
        self.pass(passed);
        self.accident();
        let mut at = self.rng.random_range(0..self.brokers.len());
        match self.rng.random_range(0..100) {
            0..42 => at = self.deliver().unwrap_or(at),
            42..76 => {
                if !self.step_broker(at) {
                    at = self.deliver().unwrap_or(at);
                }
            }
            76..86 => self.produce(at)?,
            86..90 => self.consume(at)?,
            90..94 => self.commit_offset(at)?,
            94..96 => self.read_offset(at)?,
            96..99 => self.housekeeping(at),
            _ => {
                let long = Duration::from_millis(self.rng.random_range(0..15_000));
                self.pass(long);
            }
        }
        self.check(at)
    }

    /// The next step of one of the broker's tasks. False if none has anything to do.
    fn step_broker(&mut self, at: usize) -> bool {
        const TASKS: usize = 8;
        let first = self.rng.random_range(0..TASKS);
        let is_done = (0..TASKS).filter(|task| self.step_task(at, (first + task) % TASKS)).take(4).count() > 0;
        if is_done {
            self.note(|world| format!("broker {} goes on", world.brokers[at].id));
        }
        is_done
    }

    fn step_task(&mut self, at: usize, task: usize) -> bool {
        let is_lost = self.rng.random_bool(self.accidents.lost_replies);
        let World { brokers, zookeeper, network, .. } = self;
        let broker = &mut brokers[at];
        let Some(life) = &mut broker.life else { return false };
        match task {
            0 => life.step_fetchers(network, 0),
            1 => life.step_fetchers(network, 1),
            2 => life.step_isr(network),
            3 => life.candidate.step_channels(network),
            4 => life.step_groups(),
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
        if !is_notice && self.rng.random_bool(self.accidents.given_up) {
            self.note(|_| format!("given up: {}", shown(&packet)));
            self.network.packets.push(packet.lost());
            self.network.late.push(packet);
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
        let World { brokers, network, planted, config, .. } = self;
        let Broker { life, disk, .. } = &mut brokers[at];
        let Some(life) = life else {
            if let Body::Request(_) = packet.body {
                network.packets.push(packet.lost());
            }
            return;
        };
        let reply = match &packet.body {
            Body::Request(Request::Control(outgoing)) => match &outgoing.request {
                ControlRequest::LeaderAndIsr(request) => {
                    let response = life.leader_and_isr(request, outgoing.version, disk);
                    disk.values().for_each(|log| log.set_config(Arc::clone(config)));
                    response.map(Reply::LeaderAndIsr)
                }
                ControlRequest::UpdateMetadata(announcement) => {
                    let request = announcement.request();
                    let epochs = epochs(request.controller_epoch, request.broker_epoch);
                    life.update_metadata(epochs, Update::of(request)).map(|()| Reply::Received)
                }
                ControlRequest::StopReplica(request) => life.stop_replicas(request, disk).map(Reply::StopReplica),
            },
            Body::Request(Request::AlterPartition(request)) => {
                let request = request.clone();
                return life.candidate.asked(request, packet, *planted, network);
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
                let is_awaited = life.isr_answered(call, altered)
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

    // ---- clients ----

    fn leader_of(&self, at: usize, name: &TopicPartition) -> Option<Replica> {
        let replica = self.brokers[at].life.as_ref()?.hosted.get(name)?;
        replica.looking_at(|leadership| leadership.is_leader()).then_some(replica)
    }

    fn produce(&mut self, at: usize) -> Checked {
        let partition = self.rng.random_range(0..TOPIC_PARTITIONS);
        self.produce_to(at, partition)
    }

    fn produce_to(&mut self, at: usize, partition: usize) -> Checked {
        let name = self.names[partition].clone();
        let Some(partition) = self.leader_of(at, &name) else { return Ok(()) };
        self.next_value += 1;
        let mut builder = BatchBuilder::new();
        builder.append(NOW_MS, Some(&self.next_value.to_be_bytes()), None, &[]);
        let Ok(appended) = partition.append(builder.build(), TERMS, NOW_MS) else { return Ok(()) };
        self.note(|world| {
            format!(
                "broker {} appends {} to {name} at {}",
                world.brokers[at].id, world.next_value, appended.info.first_offset
            )
        });
        let end = Offset(appended.info.last_offset.0 + 1);
        match appended.commit {
            None => self.acknowledged(&partition, end),
            Some(commit) => {
                let life = self.brokers[at].life_number;
                self.produced.push(Produced { life, partition, end, commit });
                Ok(())
            }
        }
    }

    fn acknowledged(&mut self, partition: &Replica, end: Offset) -> Checked {
        let log = partition.log().expect("no log fails");
        self.note(|_| format!("{} is committed up to {end} in epoch {}", partition.name(), partition.leader_epoch()));
        self.checks.acknowledged += 1;
        self.checks.told(partition.name(), partition.leader_epoch(), log.prefix(end))
    }

    /// A consumer reads, of the leader or of a follower, all that it may.
    fn consume(&mut self, at: usize) -> Checked {
        let name = self.names[self.rng.random_range(0..self.names.len())].clone();
        let Some(partition) = self.brokers[at].life.as_ref().and_then(|life| life.hosted.get(&name)) else {
            return Ok(());
        };
        let fetcher = Fetcher::Consumer { read_committed: false, may_read_from_follower: true };
        let params = FetchParams {
            fetch_offset: Offset(0),
            log_start_offset: Offset(-1),
            bytes_max: 1 << 20,
            current_leader_epoch: None,
            last_fetched_epoch: None,
        };
        let limits = FetchLimits { bytes_left: 1 << 20, first_batch: FirstBatch::Whole, asked: None };
        let Ok(fetched) = partition.fetch(fetcher, &params, TopicId::ZERO, limits) else { return Ok(()) };
        let Some(bytes) = fetched.region().map(read) else { return Ok(()) };
        let last = Batches::new(&bytes).last().expect("there is one").expect("well-formed");
        let end = Offset(last.header.last_offset + 1);
        let epoch = partition.leader_epoch();
        self.note(|world| format!("a consumer reads {name} of broker {} up to {end}", world.brokers[at].id));
        let log = partition.log().expect("no log fails");
        self.checks.told(&name, epoch, log.prefix(end))
    }

    /// The group commits one offset after the other, each behind the last.
    fn commit_offset(&mut self, at: usize) -> Checked {
        if let Some(committing) = &self.committing {
            // It asks another coordinator, or tries again.
            if committing.broker == at && self.rng.random_bool(0.3) {
                self.committing = None;
            }
            return Ok(());
        }
        if self.coordinator_epoch(at).is_none() {
            return Ok(());
        }
        let Some(life) = &self.brokers[at].life else { return Ok(()) };
        self.next_offset += 1;
        let committed = CommittedOffset {
            offset: Offset(self.next_offset),
            leader_epoch: LeaderEpoch(-1),
            metadata: "".into(),
            commit_timestamp_ms: NOW_MS,
            expire_timestamp_ms: None,
        };
        let caller = Caller { member_id: "".into(), group_instance_id: None, generation_id: GenerationId(-1) };
        let offsets = vec![OffsetToCommit { topic: TOPIC.into(), partition: 0, committed }];
        let groups = Arc::clone(&life.groups);
        let commit = OffsetCommit { caller, offsets };
        let answer = Box::pin(async move { groups.commit_offsets(GROUP, commit).await });
        self.committing = Some(Committing { broker: at, offset: self.next_offset, answer });
        self.settle_commit()
    }

    fn settle_commit(&mut self) -> Checked {
        let Some(committing) = &mut self.committing else { return Ok(()) };
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(answer) = committing.answer.as_mut().poll(&mut context) else { return Ok(()) };
        let Committing { broker, offset, .. } = self.committing.take().expect("it was just there");
        let epoch = self.coordinator_epoch(broker);
        if let (CommitAnswer::Stored(Ok(())), Some(epoch)) = (answer, epoch) {
            self.note(|world| format!("broker {} commits {offset} in epoch {epoch}", world.brokers[broker].id));
            self.checks.committed(epoch, offset);
        }
        Ok(())
    }

    /// Under which the broker coordinates the group; a later one if it has been elected again without a break.
    fn coordinator_epoch(&self, at: usize) -> Option<LeaderEpoch> {
        let life = self.brokers[at].life.as_ref()?;
        let epoch = life.groups.shards().owned(0).ok()?.leader_epoch()?;
        let replica = life.hosted.get(&TopicPartition::new(GROUP_METADATA_TOPIC, 0))?;
        let in_force = |leadership: &Leadership| match leadership.has_led_since(epoch) {
            true => leadership.leader_epoch(),
            false => epoch,
        };
        Some(replica.looking_at(in_force))
    }

    fn read_offset(&mut self, at: usize) -> Checked {
        let (Some(epoch), Some(life)) = (self.coordinator_epoch(at), &self.brokers[at].life) else { return Ok(()) };
        let found = life.groups.with_offsets(GROUP, |offsets| match offsets?.find(TOPIC, 0, false) {
            FoundOffset::Committed(committed) => Some(committed.offset.0),
            FoundOffset::None | FoundOffset::Unstable => None,
        });
        let found = found.expect("it is the coordinator");
        self.note(|world| format!("broker {} says in epoch {epoch} that {found:?} is committed", world.brokers[at].id));
        self.checks.group_offset(epoch, found)
    }

    /// What runs by the clock.
    fn housekeeping(&mut self, at: usize) {
        let Broker { life, disk, .. } = &mut self.brokers[at];
        let Some(life) = life else { return };
        match self.rng.random_range(0..6) {
            0 | 1 => life.hosted.all().iter().for_each(|partition| partition.shrink_isr()),
            2 => disk.values().for_each(|log| log.checkpoint_high_watermark()),
            3 => disk.values().for_each(|log| log.flush(NOW_MS).expect("nothing fails in memory")),
            4 => life.candidate.rebalance(),
            _ => self.reassign(at),
        }
    }

    /// Whoever is asked moves a partition, if it is the controller: to any replicas, or back.
    fn reassign(&mut self, at: usize) {
        if !self.rng.random_bool(self.accidents.moves) {
            return;
        }
        let name = self.names[self.rng.random_range(0..self.names.len())].clone();
        let left_out = self.rng.random_range(1..=BROKERS);
        let first = self.rng.random_range(0..BROKERS);
        let replicas = (0..BROKERS).map(|at| BrokerId((first + at) % BROKERS + 1)).filter(|id| id.0 != left_out);
        let replicas: Option<Vec<BrokerId>> = self.rng.random_bool(0.8).then(|| replicas.collect());
        self.note(|world| format!("broker {} is asked to move {name} to {replicas:?}", world.brokers[at].id));
        if let Some(life) = &mut self.brokers[at].life {
            life.candidate.reassign(vec![(name, replicas)]);
        }
    }

    // ---- accidents ----

    fn accident(&mut self) {
        let at = self.rng.random_range(0..self.brokers.len());
        // What is lost with a disk is no more than a replica outside the ISR lacks, once the controller knows: until then
        // nothing else happens.
        if !self.lost.is_empty() {
            return self.notice_losses();
        }
        let Accidents { kills, power_losses, expiries, partitions, .. } = self.accidents;
        if self.rng.random_bool(kills) {
            match self.brokers[at].life.is_some() {
                true => self.kill(at),
                false => self.start(at),
            }
        }
        if self.rng.random_bool(power_losses) && self.may_lose(at) {
            return self.lose_power(at);
        }
        // The end of a life is noticed sooner than an end of patience with one that goes on.
        if !self.brokers[at].sessions_left.is_empty() && self.rng.random_bool(0.05) {
            let session = self.brokers[at].sessions_left.remove(0);
            self.zookeeper.end_session(session);
        }
        if self.brokers[at].life.is_none() && self.rng.random_bool(0.02) {
            self.start(at);
        }
        if self.rng.random_bool(expiries)
            && let Some(session) = self.brokers[at].life.as_ref().and_then(|life| life.session)
        {
            self.note(|world| format!("the session of broker {} expires", world.brokers[at].id));
            self.zookeeper.end_session(session);
        }
        if self.rng.random_bool(partitions) {
            self.partition(at);
        }
        if self.rng.random_bool(0.02) {
            self.heal();
        }
    }

    fn start(&mut self, at: usize) {
        self.lives += 1;
        let broker = &mut self.brokers[at];
        broker.life = Some(Life::new(broker.id, &self.clock, self.planted));
        broker.life_number = self.lives;
        self.note(|world| format!("broker {} starts", world.brokers[at].id));
    }

    /// The process ends at once; what it has written stays in the page cache.
    fn kill(&mut self, at: usize) {
        self.end_life(at, |_| Offset(i64::MAX));
        self.note(|world| format!("broker {} is killed", world.brokers[at].id));
    }

    /// The machine stops, and what was not flushed may be gone.
    fn lose_power(&mut self, at: usize) {
        let share = self.rng.random_range(0.0..1.0);
        self.end_life(at, |log| {
            let (flushed, end) = (log.flushed().0, log.bounds().log_end_offset.0);
            Offset(flushed + ((end - flushed) as f64 * share) as i64)
        });
        self.lost.insert(self.brokers[at].id);
        self.heal();
        for session in std::mem::take(&mut self.brokers[at].sessions_left) {
            self.zookeeper.end_session(session);
        }
        self.note(|world| format!("broker {} loses power", world.brokers[at].id));
    }

    fn end_life(&mut self, at: usize, kept: impl Fn(&MemoryLog) -> Offset) {
        let Broker { disk, life, life_number, sessions_left, .. } = &mut self.brokers[at];
        let Some(mut life) = life.take() else { return };
        sessions_left.extend(life.session);
        self.network.packets.extend(life.candidate.give_up().map(|packet| packet.lost()));
        for log in disk.values_mut() {
            *log = Arc::new(log.after_crash(kept(log)));
        }
        self.produced.retain(|produced| produced.life != *life_number);
        self.committing = self.committing.take().filter(|committing| committing.broker != at);
    }

    /// Others have all that is committed, and will have it as long as nothing happens to them: they are well, the
    /// controller knows that and has nothing else to decide, and nobody is leaving an ISR.
    fn may_lose(&self, at: usize) -> bool {
        let registered = |broker: &Broker| {
            let life = broker.life.as_ref()?;
            let is_open = life.session.is_some_and(|session| self.zookeeper.is_open(session));
            is_open.then_some((broker.id, life.registered?))
        };
        let registered: Option<BTreeMap<_, _>> = self.brokers.iter().map(registered).collect();
        let Some(registered) = registered else { return false };
        let knows_all = |life: &Life| {
            let known = life.candidate.office.as_ref().map(|office| &office.core.cluster().brokers);
            known.is_some_and(|known| {
                known.len() == registered.len() && known.values().all(|known| registered[&known.id] == known.epoch)
            })
        };
        let mut controllers = self
            .brokers
            .iter()
            .filter_map(|broker| broker.life.as_ref())
            .filter(|life| life.candidate.office.is_some());
        let is_asked = |packet: &Packet| matches!(packet.body, Body::Request(Request::AlterPartition(_)));
        let is_elsewhere = |name: &TopicPartition| {
            let state = self.zookeeper.partition_state(&name.topic, name.partition);
            state.is_some_and(|state| state.value.isr.iter().any(|member| *member != self.brokers[at].id.0))
        };
        controllers.next().is_some_and(|life| knows_all(life) && life.candidate.has_decided())
            && controllers.next().is_none()
            && !self.network.packets.iter().any(is_asked)
            && self.names.iter().all(is_elsewhere)
    }

    fn notice_losses(&mut self) {
        let World { lost, zookeeper, names, .. } = self;
        lost.retain(|broker| {
            names.iter().any(|name| {
                let state = zookeeper.partition_state(&name.topic, name.partition);
                state.is_some_and(|state| state.value.isr.contains(&broker.0))
            })
        });
    }

    fn partition(&mut self, at: usize) {
        let id = self.brokers[at].id;
        match self.rng.random_range(0..4) {
            0 => self.brokers[at].reaches_zookeeper = false,
            how => {
                let others: Vec<BrokerId> = self.brokers.iter().map(|broker| broker.id).collect();
                self.network.cut_off(id, others.into_iter(), how == 2, how == 3);
            }
        }
        self.note(|world| format!("broker {id} is cut off: {:?}", world.network.cut));
    }

    fn heal(&mut self) {
        self.network.cut.clear();
        self.brokers.iter_mut().for_each(|broker| broker.reaches_zookeeper = true);
    }

    // ---- checks ----

    /// Checks what a step of one broker can have changed.
    fn check(&mut self, at: usize) -> Checked {
        self.settle_commit()?;
        let Broker { life, disk, life_number, .. } = &self.brokers[at];
        let life_number = *life_number;
        for partition in life.iter().flat_map(|life| life.hosted.all()) {
            if let Some(log) = disk.get(partition.name()) {
                self.checks.replica(life_number, &partition, log)?;
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
        let is_written = std::mem::replace(&mut self.zxid_seen, self.zookeeper.zxid()) != self.zookeeper.zxid();
        for name in &self.names {
            if is_written {
                self.checks.written(name, self.zookeeper.partition_state(&name.topic, name.partition))?;
            }
            let leader = self.checks.leader_of(name);
            let leader = leader.and_then(|leader| self.brokers.iter().find(|broker| broker.id == leader));
            let leader = leader.and_then(|leader| leader.life.as_ref()?.hosted.get(name));
            let log_of = |broker| self.brokers.iter().find(|known| known.id == broker)?.disk.get(name).cloned();
            self.checks.isr(name, leader.as_ref(), log_of, &self.lost)?;
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
            let leader = leader.and_then(|leader| leader.life.as_ref()?.hosted.get(follower.name()));
            let leads = |leadership: &Leadership| leadership.is_leader() && leadership.leader_epoch() == epoch;
            let Some(leader) = leader.filter(|leader| leader.looking_at(leads)) else { continue };
            let (Some(own), Some(of_leader)) = (follower.log(), leader.log()) else { continue };
            self.checks.follows(follower.name(), &own, &of_leader)?;
        }
        Ok(())
    }

    // ---- rest ----

    /// Nothing happens any more: every broker comes back, and every replica into every ISR, with the same records. Then
    /// a new record of each partition is committed, and a new offset of the group.
    pub fn come_to_rest(&mut self) -> Checked {
        self.note(|_| "all accidents are over".to_owned());
        self.accidents = Accidents::default();
        self.heal();
        self.network.packets.append(&mut self.network.late);
        self.settle()?;
        let before = (self.checks.acknowledged, self.checks.commits_acknowledged);
        for partition in 0..TOPIC_PARTITIONS {
            self.everywhere(|world, at| world.produce_to(at, partition))?;
        }
        self.committing = None;
        self.everywhere(World::commit_offset)?;
        self.settle()?;
        self.everywhere(World::read_offset)?;
        let after = (self.checks.acknowledged, self.checks.commits_acknowledged);
        match after == (before.0 + TOPIC_PARTITIONS, before.1 + 1) {
            true => Ok(()),
            false => Err(format!("{before:?} were acknowledged at rest, and {after:?} afterwards")),
        }
    }

    fn everywhere(&mut self, mut act: impl FnMut(&mut World, usize) -> Checked) -> Checked {
        (0..self.brokers.len()).try_for_each(|at| act(self, at))
    }

    /// Until there is nothing left to do.
    fn settle(&mut self) -> Checked {
        for _ in 0..ROUNDS_TO_REST_MAX {
            self.notice_losses();
            self.pass(Duration::from_millis(200));
            for at in 0..self.brokers.len() {
                for session in std::mem::take(&mut self.brokers[at].sessions_left) {
                    self.zookeeper.end_session(session);
                }
                let is_lost = self.lost.contains(&self.brokers[at].id);
                if self.brokers[at].life.is_none() && !is_lost {
                    self.start(at);
                }
                for _ in 0..8 {
                    if !self.step_broker(at) {
                        break;
                    }
                }
                let hosted = self.brokers[at].life.as_ref().map_or_else(Vec::new, |life| life.hosted.all());
                hosted.iter().for_each(|partition| partition.shrink_isr());
            }
            for packet in std::mem::take(&mut self.network.packets) {
                self.receive(packet);
            }
            (0..self.brokers.len()).try_for_each(|at| self.check(at))?;
            if self.is_at_rest() {
                return Ok(());
            }
        }
        Err(format!("no rest: {}", self.unrest()))
    }

    fn unrest(&self) -> String {
        let states = self.names.iter().map(|name| {
            let state = self.zookeeper.partition_state(&name.topic, name.partition);
            let logs = self.brokers.iter().map(|broker| broker.disk.get(name).map(|log| (log.whole(), log.bounds())));
            format!("{name}: {state:?}, logs {:?}", logs.collect::<Vec<_>>())
        });
        states.collect::<Vec<_>>().join("; ")
    }

    /// Every replica is in sync with the same records, and nobody else has any; the group has its coordinator.
    fn is_at_rest(&self) -> bool {
        let lives = || self.brokers.iter().filter_map(|broker| broker.life.as_ref());
        let coordinators = (0..self.brokers.len()).filter(|at| self.coordinator_epoch(*at).is_some()).count();
        let controllers = lives().filter(|life| life.candidate.office.is_some()).count();
        let is_waiting = !self.produced.is_empty() || self.committing.is_some();
        (coordinators, controllers, is_waiting) == (1, 1, false)
            && lives().all(|life| life.candidate.is_idle())
            && self.names.iter().all(|name| {
                let topic = self.zookeeper.get(&znode::topic::path(&name.topic)).expect("topics are not deleted");
                let topic = Topic::decode(&name.topic, &topic.data).expect("it was written well");
                let PartitionAssignment { replicas, adding_replicas, removing_replicas } =
                    &topic.partitions[&name.partition];
                let is_moving = !adding_replicas.is_empty() || !removing_replicas.is_empty();
                let state = self.zookeeper.partition_state(&name.topic, name.partition);
                let isr: BTreeSet<i32> = state.into_iter().flat_map(|state| state.value.isr).collect();
                let with_log = || self.brokers.iter().filter(|broker| broker.disk.contains_key(name));
                let with_log_ids: BTreeSet<i32> = with_log().map(|broker| broker.id.0).collect();
                let logs: Vec<_> = with_log().map(|broker| &broker.disk[name]).collect();
                let is_same = |log: &&Arc<MemoryLog>| {
                    log.whole() == logs[0].whole() && log.bounds().high_watermark == log.whole().end
                };
                let all: BTreeSet<i32> = replicas.iter().copied().collect();
                !is_moving && isr == all && with_log_ids == all && logs.iter().all(is_same)
            })
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

fn shown(packet: &Packet) -> String {
    let Packet { from, to, body, .. } = packet;
    let what = match body {
        Body::Request(Request::Control(outgoing)) => match &outgoing.request {
            ControlRequest::LeaderAndIsr(request) => {
                let states = request.topic_states.iter().flat_map(|topic| {
                    let of = |state: &crate::protocol::messages::leader_and_isr::LeaderAndIsrPartitionState| {
                        format!(
                            "{}-{} led by {} in epoch {}.{} with {:?}",
                            topic.topic_name,
                            state.partition_index,
                            state.leader,
                            state.leader_epoch,
                            state.partition_epoch,
                            state.isr
                        )
                    };
                    topic.partition_states.iter().map(of).collect::<Vec<_>>()
                });
                format!(
                    "LeaderAndIsr of controller epoch {}: {}",
                    request.controller_epoch,
                    states.collect::<Vec<_>>().join(", ")
                )
            }
            ControlRequest::UpdateMetadata(announcement) => {
                let live = announcement.request().live_brokers;
                format!("UpdateMetadata: {:?}", live.iter().map(|broker| broker.id).collect::<Vec<_>>())
            }
            ControlRequest::StopReplica(_) => "StopReplica".to_owned(),
        },
        Body::Request(Request::Fetch(request)) => {
            let asked = request.topics.iter().flat_map(|topic| &topic.partitions);
            let asked = asked.map(|asked| {
                (asked.partition, asked.fetch_offset, asked.current_leader_epoch, asked.last_fetched_epoch)
            });
            format!("Fetch {:?}", asked.collect::<Vec<_>>())
        }
        Body::Reply(Reply::Fetch(response)) => {
            let told = response.responses.iter().flat_map(|topic| &topic.partitions);
            let told = told
                .map(|told| (told.partition_index, told.error_code, told.high_watermark, told.diverging_epoch.epoch));
            format!("fetched {:?}", told.collect::<Vec<_>>())
        }
        Body::Request(Request::AlterPartition(request)) => format!("AlterPartition {:?}", request.topics),
        other => format!("{other:?}"),
    };
    format!("{from} → {to}: {what}")
}
