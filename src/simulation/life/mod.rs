//! One life of a broker, from its start to its crash: the real cores, and in place of the tasks around them the steps of
//! those tasks, each of which the script may hold back. What outlives it are its logs.

mod coordinators;
mod transactions;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use odradek_zookeeper::znode::{self, delete_topic, log_dir_event, topic};

use crate::api;
use crate::api::fetch::Names;
use crate::codec::writer::FileRegion;
use crate::config::sections::{GroupConfig, TransactionConfig};
use crate::coordinator::group::groups::Groups;
use crate::coordinator::group::task::GroupCoordinator;
use crate::coordinator::shard::ShardEvent;
use crate::coordinator::transaction::task::TransactionCoordinator;
use crate::coordinator::transaction::transactions::Transactions;
use crate::log::{FirstBatch, OffsetQuery};
use crate::metadata::cache::MetadataCache;
use crate::metadata::image::{Image, Topic, Update};
use crate::model::internal_topics::{GROUP_METADATA_TOPIC, TRANSACTION_STATE_TOPIC, is_internal_topic};
use crate::model::{BrokerEpoch, BrokerId, ConnectionNumber, ControllerEpoch, LeaderEpoch, TopicId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::message::Payload;
use crate::protocol::messages::alter_partition::response::AlterPartitionResponse;
use crate::protocol::messages::fetch::{
    FetchRequest, FetchResponse, FetchableTopicResponse, PartitionData, ReplicaState,
};
use crate::protocol::messages::leader_and_isr::{LeaderAndIsrRequest, LeaderAndIsrResponse};
use crate::protocol::messages::list_offsets::{
    ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use crate::protocol::messages::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OffsetForLeaderTopicResult,
};
use crate::protocol::messages::stop_replica::{StopReplicaPartitionError, StopReplicaRequest, StopReplicaResponse};
use crate::replica::alter_partition;
use crate::replica::control::{
    ControlEpochs, ControlRefusal, ControllerFence, PartitionRefusal, StopReplica, judge_stop,
};
use crate::replica::decisions::{LeadershipEvent, change_role, last_of_each};
use crate::replica::error::ReplicaError;
use crate::replica::fetch::{Outcome, PartitionQuery};
use crate::replica::fetch_session::{FetchSessions, Opened, SessionLimits, SessionRequest};
use crate::replica::fetcher::answers::{epoch_ends, offsets};
use crate::replica::fetcher::fetchers::FetchChange;
use crate::replica::fetcher::state::{Fetcher as Core, Next, Question, Settings, Task, Work};
use crate::replica::fetcher::work::done;
use crate::replica::hosted::Hosted;
use crate::replica::isr_changes::{AfterAnswer, IsrAnswer, IsrChanges, IsrProposal};
use crate::replica::leader::{Decision, Verdict};
use crate::replica::memory_log::MemoryLog;
use crate::replica::partition::{FetchLimits, Fetched, Fetcher, GivenUp, Partition, Surroundings};
use crate::replica::partition_log::PartitionLog;
use crate::replica::throttle::Throttle;
use crate::simulation::Planted;
use crate::simulation::clock::{Clock, NOW_MS};
use crate::simulation::life::coordinators::{ShardTask, TopicLog};
pub(super) use crate::simulation::life::transactions::{Answer, Answering, Written};
use crate::simulation::life::transactions::{MarkerTask, Requests};
use crate::simulation::network::{CallId, Network, Reply, Request};
use crate::simulation::office::Candidate;
use crate::simulation::zookeeper::{SessionId, ZooKeeper};

pub(super) const LAG_TIME_MAX: Duration = Duration::from_secs(10);
const FETCH_BYTES_MAX: i32 = 1 << 20;
/// Each broker has one with each other, for each of their lives.
const SESSIONS_MAX: usize = 1000;
/// For how long an append of the transaction coordinator waits for its replicas.
const REQUEST_TIMEOUT_MS: u64 = 5_000;
const LEAVING_TRIES_MAX: usize = 4;
const FETCH_WAIT: Duration = Duration::from_millis(100);
/// Of AlterPartition, as a 3.9 broker asks.
const ALTER_PARTITION_VERSION: i16 = 3;

/// The logs of a broker, which outlive it.
pub(super) type Disk = BTreeMap<TopicPartition, Arc<MemoryLog>>;
pub(super) type Replica = Arc<Partition<MemoryLog>>;

/// The fetcher for one leader.
struct FetcherTask {
    core: Core,
    commands: Vec<(TopicPartition, FetchChange)>,
    asked: Option<CallId>,
    works: Vec<Work>,
    /// After an answer that said nothing new: a leader keeps such a fetch for a while.
    rests_until: Option<Instant>,
}

/// The task that speaks for the leaders here.
#[derive(Default)]
struct IsrTask {
    /// What the controller is being asked.
    proposals: Vec<IsrProposal>,
    asked: Option<CallId>,
}

/// A broker that is about to stop.
#[derive(Default)]
struct Leaving {
    asked: Option<CallId>,
    tries: usize,
}

pub(super) struct Life {
    pub id: BrokerId,
    clock: Clock,
    planted: Planted,
    /// As the broker believes; `None` while it has to make another.
    pub session: Option<SessionId>,
    pub registered: Option<BrokerEpoch>,
    pub around: Arc<Surroundings>,
    fence: ControllerFence,
    /// What was known when a controller began to tell, until it is known what of that is gone.
    inherited: Option<Arc<Image>>,
    pub hosted: Arc<Hosted<MemoryLog>>,
    /// The same, by name.
    replicas: BTreeMap<TopicPartition, Replica>,
    sessions: FetchSessions<MemoryLog>,
    fetchers: BTreeMap<BrokerId, FetcherTask>,
    places: BTreeMap<TopicPartition, BrokerId>,
    isr: IsrTask,
    pub candidate: Candidate,
    leaving: Option<Leaving>,
    has_news_of_dirs: bool,
    pub groups: Arc<GroupCoordinator>,
    group_task: ShardTask<Groups>,
    pub transactions: Arc<TransactionCoordinator>,
    transaction_task: ShardTask<Transactions>,
    markers: MarkerTask,
    requests: Requests,
    /// Where this broker has appended what a leader of that epoch sent, since somebody looked.
    pub appended: Vec<(Replica, LeaderEpoch)>,
}

impl Life {
    pub fn new(id: BrokerId, clock: &Clock, planted: Planted, unclean_elections: bool) -> Life {
        let replica_clock = clock.clone();
        let around = Arc::new(Surroundings {
            local: id,
            replica_lag_time_max: LAG_TIME_MAX,
            zstd_allowed: true,
            metadata: Arc::new(MetadataCache::new()),
            isr_changes: IsrChanges::default(),
            counters: Arc::default(),
            leader_throttle: Arc::new(Throttle::new(u64::MAX, 11, Duration::from_secs(1))),
            clock: Box::new(move || replica_clock.now()),
        });
        let hosted = Arc::<Hosted<MemoryLog>>::default();
        let log = |topic| Arc::new(TopicLog { topic, hosted: Arc::clone(&hosted), clock: clock.clone(), planted });
        let at_coordinators = || {
            let clock = clock.clone();
            Box::new(move || clock.at_coordinators())
        };
        let config = GroupConfig { group_initial_rebalance_delay_ms: 0, ..GroupConfig::default() };
        let log_of_groups = log(GROUP_METADATA_TOPIC);
        let groups = GroupCoordinator::with_clock(config, 1, log_of_groups, Arc::default(), at_coordinators());
        let config = TransactionConfig { request_timeout_ms: REQUEST_TIMEOUT_MS, ..TransactionConfig::default() };
        let log_of_transactions = log(TRANSACTION_STATE_TOPIC);
        let (transactions, markers_to_send) =
            TransactionCoordinator::with_clock(config, 1, log_of_transactions, Arc::default(), at_coordinators());
        let now = clock.now();
        Life {
            id,
            clock: clock.clone(),
            planted,
            session: None,
            registered: None,
            around,
            fence: ControllerFence::default(),
            inherited: None,
            hosted,
            replicas: BTreeMap::new(),
            sessions: FetchSessions::new(SessionLimits::of_slots(SESSIONS_MAX)),
            fetchers: BTreeMap::new(),
            places: BTreeMap::new(),
            isr: IsrTask::default(),
            candidate: Candidate::new(id, planted, unclean_elections),
            leaving: None,
            has_news_of_dirs: false,
            group_task: ShardTask::new(groups.shards(), now),
            groups,
            transaction_task: ShardTask::new(transactions.shards(), now),
            transactions,
            markers: MarkerTask::new(markers_to_send),
            requests: Requests::default(),
            appended: Vec::new(),
        }
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }

    /// What coordinators are told of their topics.
    fn leadership_changed(&mut self, event: LeadershipEvent) {
        let (TopicPartition { topic, .. }, event) = match event {
            LeadershipEvent::Elected { partition: name, leader_epoch } => {
                let partition = name.partition;
                (name, ShardEvent::Elected { partition, leader_epoch })
            }
            LeadershipEvent::Resigned { partition: name, leader_epoch } => {
                let partition = name.partition;
                (name, ShardEvent::Resigned { partition, leader_epoch })
            }
            LeadershipEvent::Deleted(_) => return,
        };
        match &*topic {
            GROUP_METADATA_TOPIC => self.group_task.events.push_back(event),
            _ => self.transaction_task.events.push_back(event),
        }
    }

    // ---- what others ask ----

    /// A log directory has failed that held these partitions.
    pub fn dir_failed(&mut self, names: &[TopicPartition]) {
        for name in names {
            self.change_fetch(name.clone(), FetchChange::Stop);
            let Some(replica) = self.replica(name) else { continue };
            replica.go_offline();
            if is_internal_topic(&name.topic) {
                let (partition, leader_epoch) = (name.clone(), Some(replica.leader_epoch()));
                self.leadership_changed(LeadershipEvent::Resigned { partition, leader_epoch });
            }
        }
        self.has_news_of_dirs = true;
    }

    /// The controller is told of it, through ZooKeeper.
    pub fn step_dirs(&mut self, zookeeper: &mut ZooKeeper) -> bool {
        let is_heard = self.session.is_some_and(|session| zookeeper.is_open(session));
        if !self.has_news_of_dirs || !is_heard {
            return false;
        }
        zookeeper.notify(log_dir_event::ROOT, log_dir_event::PREFIX, log_dir_event::encode(self.id.0));
        self.has_news_of_dirs = false;
        true
    }

    /// A controller sends nothing before it has been answered, or has given its connection up: each call has one of its own.
    pub fn epochs(&self, controller_epoch: i32, broker_epoch: i64, call: CallId) -> ControlEpochs {
        ControlEpochs {
            controller_epoch: ControllerEpoch(controller_epoch),
            broker_epoch: BrokerEpoch(broker_epoch),
            connection: match self.planted {
                Planted::GivenUpRequestsObeyed => ConnectionNumber(0),
                _ => call.connection(),
            },
        }
    }

    /// Carries out a request of a controller, as `replica/decisions.rs` does. `None` while this broker is not registered:
    /// the request waits for that.
    pub fn leader_and_isr(
        &mut self,
        request: &LeaderAndIsrRequest,
        version: i16,
        call: CallId,
        disk: &mut Disk,
        is_offline: impl Fn(&TopicPartition) -> bool,
    ) -> Option<LeaderAndIsrResponse> {
        let topic_ids = api::leader_and_isr::topic_ids(request);
        let decisions = last_of_each(api::leader_and_isr::decisions(request));
        let epochs = self.epochs(request.controller_epoch, request.broker_epoch, call);
        if let Err(refusal) = self.fence.admit(epochs, self.registered?)
            && self.planted != Planted::StaleDecisionsObeyed
        {
            let error = refused(refusal);
            let errors = decisions.into_iter().map(|(name, _)| (name, error)).collect();
            return Some(api::leader_and_isr::respond(version, error, errors, &topic_ids));
        }
        let mut errors = Vec::new();
        for (name, mut decision) in decisions {
            let partition = self.replica(&name).unwrap_or_else(|| {
                let new = Arc::new(Partition::new(name.clone(), Arc::clone(&self.around)));
                self.hosted.insert(vec![Arc::clone(&new)]);
                self.replicas.insert(name.clone(), Arc::clone(&new));
                new
            });
            let log_topic_id = disk.get(&name).and_then(|log| log.topic_id()).unwrap_or(TopicId::ZERO);
            let verdict = match self.planted == Planted::StaleDecisionsObeyed {
                true => obeyed(&partition, &mut decision),
                false => partition.judge(&decision, log_topic_id, false),
            };
            let outcome = match verdict {
                _ if is_offline(&name) || partition.is_offline() => Err(PartitionRefusal::Storage),
                Verdict::Refuse(why) => Err(PartitionRefusal::from(why)),
                verdict => {
                    let log = || Arc::new(MemoryLog::of_topic(decision.topic_id));
                    let log = Arc::clone(disk.entry(name.clone()).or_insert_with(log));
                    change_role(&partition, &decision, verdict, &log).map(|changed| {
                        changed.event.into_iter().for_each(|event| self.leadership_changed(event));
                        if let Some(change) = changed.fetch {
                            self.change_fetch(name.clone(), change);
                        }
                    })
                }
            };
            errors.push((name, outcome.map_or_else(ErrorCode::from, |()| ErrorCode::None)));
        }
        Some(api::leader_and_isr::respond(version, ErrorCode::None, errors, &topic_ids))
    }

    /// The same for replicas that are not wanted here any more. `None` while this broker is not registered.
    pub fn stop_replicas(
        &mut self,
        request: &StopReplicaRequest,
        call: CallId,
        disk: &mut Disk,
    ) -> Option<StopReplicaResponse> {
        let epochs = self.epochs(request.controller_epoch, request.broker_epoch, call);
        if let Err(refusal) = self.fence.admit(epochs, self.registered?) {
            let error_code = refused(refusal).code();
            return Some(StopReplicaResponse { error_code, partition_errors: Vec::new() });
        }
        let mut partition_errors = Vec::new();
        for StopReplica { name, leader_epoch, delete } in api::stop_replica::partitions(request) {
            let hosted = self.replica(&name);
            let verdict = match &hosted {
                Some(hosted) if hosted.is_offline() => Err(PartitionRefusal::Storage),
                Some(hosted) => judge_stop(leader_epoch, hosted.leader_epoch()),
                None if disk.get(&name).is_some_and(|log| log.is_offline()) => Err(PartitionRefusal::Storage),
                None => Ok(()),
            };
            if verdict.is_ok() {
                self.change_fetch(name.clone(), FetchChange::Stop);
            }
            if verdict.is_ok() && !delete {
                hosted.iter().for_each(|hosted| hosted.wake_all());
            } else if verdict.is_ok() {
                self.hosted.remove(std::slice::from_ref(&name));
                self.replicas.remove(&name);
                hosted.iter().for_each(|hosted| hosted.close());
                if self.planted != Planted::LogsKept {
                    disk.remove(&name);
                }
                if is_internal_topic(&name.topic) {
                    let leader_epoch = Some(leader_epoch).filter(|epoch| epoch.0 >= 0);
                    self.leadership_changed(LeadershipEvent::Resigned { partition: name.clone(), leader_epoch });
                }
            }
            partition_errors.push(StopReplicaPartitionError {
                topic_name: name.topic.to_string(),
                partition_index: name.partition,
                error_code: verdict.map_or_else(ErrorCode::from, |()| ErrorCode::None).code(),
            });
        }
        Some(StopReplicaResponse { error_code: 0, partition_errors })
    }

    /// The same for metadata. `None` while this broker is not registered.
    pub fn update_metadata(&mut self, epochs: ControlEpochs, update: Update) -> Option<()> {
        let own = self.registered?;
        if self.fence.admit(epochs, own).is_err() {
            return Some(());
        }
        self.fence.begins(own);
        if self.fence.begins_to_tell(epochs.controller_epoch) && self.planted != Planted::MissedDeletionsIgnored {
            self.inherited = Some(self.around.metadata.image());
        }
        let elsewhere = self.hosted.elsewhere(&update.topics, self.id);
        let deleted = self.around.metadata.apply(update);
        self.topics_deleted(&deleted);
        for (partition, told) in elsewhere {
            let name = partition.name();
            if self.planted == Planted::LostStopsIgnored {
                continue;
            }
            let Some(GivenUp { leader_epoch }) = partition.give_up(told) else { continue };
            self.change_fetch(name.clone(), FetchChange::Stop);
            self.hosted.remove(std::slice::from_ref(name));
            self.replicas.remove(name);
            if is_internal_topic(&name.topic) {
                self.leadership_changed(LeadershipEvent::Resigned { partition: name.clone(), leader_epoch });
            }
        }
        Some(())
    }

    fn topics_deleted(&self, deleted: &[TopicPartition]) {
        deleted.iter().filter_map(|name| self.replica(name)).for_each(|replica| replica.wake_all());
        if !deleted.is_empty() {
            self.groups.partitions_deleted(deleted);
        }
    }

    /// What `broker/deletions.rs` does of topics that were deleted when nobody told it.
    pub fn step_inherited(&mut self, zookeeper: &ZooKeeper) -> bool {
        let Some(inherited) = self.inherited.take() else { return false };
        let (there, gone): (Vec<Arc<Topic>>, Vec<_>) =
            inherited.topics().cloned().partition(|known| zookeeper.get(&topic::path(&known.name)).is_some());
        let deleted = self.around.metadata.forget(&gone);
        deleted.iter().filter_map(|name| self.replica(name)).for_each(|replica| replica.wake_all());
        if there.iter().any(|known| zookeeper.get(&delete_topic::path(&known.name)).is_some()) {
            self.inherited = Some(inherited);
        }
        !deleted.is_empty()
    }

    /// Whether the topics that it knows are those that there are.
    pub fn knows_topics_of(&self, zookeeper: &ZooKeeper) -> bool {
        self.around.metadata.image().topics().all(|known| {
            zookeeper.get(&topic::path(&known.name)).is_some_and(|znode| {
                let found = znode::topic::Topic::decode(&known.name, &znode.data).expect("it was written well");
                found.topic_id == Some(known.id.to_string())
                    && known.partitions.iter().all(|known| found.partitions.contains_key(&known.partition))
            })
        })
    }

    /// A fetch of a follower, in its session, as `replica/fetch.rs` and `api/fetch.rs` answer one that does not wait.
    pub fn fetch(&self, request: &FetchRequest) -> FetchResponse {
        let ReplicaState { replica_id, replica_epoch } = request.replica_state;
        let fetcher = Fetcher::Follower { broker: BrokerId(replica_id), broker_epoch: BrokerEpoch(replica_epoch) };
        let (image, now) = (self.around.metadata.image(), self.now());
        let names = Names { uses_topic_ids: true, image: &image };
        let mut queries = names.asked(&request.topics);
        let &FetchRequest { session_id, session_epoch, .. } = request;
        let forgotten = names.forgotten(&request.forgotten_topics_data);
        let session = SessionRequest { session_id, session_epoch, uses_topic_ids: true, forgotten };
        let opened = self.sessions.open(&session, fetcher, &mut queries, now);
        drop(self.sessions.take_ended());
        let read = |query: &PartitionQuery, hosted: Option<&Replica>| {
            let topic = query.topic.as_ref().ok_or(ReplicaError::UnknownTopicId)?;
            image.partition(topic, query.partition).ok_or(ReplicaError::UnknownTopicOrPartition)?;
            let known = || self.hosted.get(topic, query.partition);
            let partition = hosted.cloned().or_else(known).ok_or(ReplicaError::NotLeaderOrFollower)?;
            let bytes_left = FETCH_BYTES_MAX.unsigned_abs();
            let limits = FetchLimits { bytes_left, first_batch: FirstBatch::Whole, asked: Some(now) };
            partition.fetch(fetcher, &query.params, query.topic_id, limits)
        };
        let mut response = FetchResponse::default();
        let mut answers: Vec<(PartitionQuery, Outcome)> = match opened {
            Opened::Refused(why) => {
                response.error_code = ErrorCode::from(why).code();
                return response;
            }
            Opened::Incremental(open) => {
                response.session_id = session_id;
                let reads = at_once(open.pending(&self.hosted, &image));
                let outcomes = reads.iter().map(|pending| read(&pending.query, pending.hosted.as_ref())).collect();
                at_once(open.close(reads, outcomes)).expect("nobody comes in between")
            }
            opened @ (Opened::Sessionless | Opened::Full) => {
                let outcomes: Vec<Outcome> = queries.iter().map(|query| read(query, None)).collect();
                let answers: Vec<_> = queries.into_iter().zip(outcomes).collect();
                if matches!(opened, Opened::Full) {
                    response.session_id = at_once(self.sessions.create(true, fetcher, &answers, now));
                }
                answers
            }
        };
        if self.planted == Planted::NewsForgotten {
            answers.retain(|(_, outcome)| outcome.as_ref().map_or(true, |fetched| fetched.bytes() > 0));
        }
        for (query, outcome) in answers {
            let data = match outcome {
                Ok(fetched) => partition_data(query.partition, fetched, fetcher),
                Err(error) => api::fetch::failed(query.partition, (&error).into()),
            };
            let (topic, topic_id) = (String::new(), query.topic_id);
            response.responses.push(FetchableTopicResponse { topic, topic_id, partitions: vec![data] });
        }
        response
    }

    pub fn epoch_ends(&self, request: &OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse {
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|asked| {
                let current = Some(LeaderEpoch(asked.current_leader_epoch));
                let end = self.partition(&topic.topic, asked.partition).and_then(|partition| {
                    partition.end_offset_for_epoch(LeaderEpoch(asked.leader_epoch), current, true)
                });
                let mut answer = EpochEndOffset { partition: asked.partition, ..Default::default() };
                match end {
                    Ok(end) => (answer.leader_epoch, answer.end_offset) = (end.epoch.0, end.end_offset.0),
                    Err(error) => answer.error_code = ErrorCode::from(&error).code(),
                }
                answer
            });
            OffsetForLeaderTopicResult { topic: topic.topic.clone(), partitions: partitions.collect() }
        });
        OffsetForLeaderEpochResponse { throttle_time_ms: 0, topics: topics.collect() }
    }

    pub fn offsets(&self, request: &ListOffsetsRequest) -> ListOffsetsResponse {
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|asked| {
                let query = if asked.timestamp == -1 { OffsetQuery::Latest } else { OffsetQuery::Earliest };
                let current = Some(LeaderEpoch(asked.current_leader_epoch));
                let found = self
                    .partition(&topic.name, asked.partition_index)
                    .and_then(|partition| partition.find_offset(query, None, current, true));
                let mut answer =
                    ListOffsetsPartitionResponse { partition_index: asked.partition_index, ..Default::default() };
                match found {
                    Ok(found) => answer.offset = found.map_or(-1, |found| found.offset.0),
                    Err(error) => answer.error_code = ErrorCode::from(&error).code(),
                }
                answer
            });
            ListOffsetsTopicResponse { name: topic.name.clone(), partitions: partitions.collect() }
        });
        ListOffsetsResponse { topics: topics.collect(), ..Default::default() }
    }

    fn partition(&self, topic: &str, partition: i32) -> Result<Replica, ReplicaError> {
        self.hosted.get(topic, partition).ok_or(ReplicaError::NotLeaderOrFollower)
    }

    pub fn replica(&self, name: &TopicPartition) -> Option<Replica> {
        self.replicas.get(name).cloned()
    }

    // ---- fetchers ----

    fn change_fetch(&mut self, name: TopicPartition, change: FetchChange) {
        let before = self.places.get(&name).copied();
        let after = match &change {
            FetchChange::Follow { leader, .. } => Some(*leader),
            FetchChange::Stop => None,
            FetchChange::SetTopicId(_) => before,
        };
        if let Some(leader) = before.filter(|before| after != Some(*before)) {
            self.fetcher(leader).commands.push((name.clone(), FetchChange::Stop));
            self.places.remove(&name);
        }
        if let Some(leader) = after {
            self.places.insert(name.clone(), leader);
            self.fetcher(leader).commands.push((name, change));
        }
    }

    fn fetcher(&mut self, leader: BrokerId) -> &mut FetcherTask {
        // Truncation by the high watermark, as before KIP-101.
        let knows_epochs = self.planted != Planted::EpochsIgnoredInTruncation;
        let settings = Settings {
            name: String::new(),
            wait_max_ms: 500,
            min_bytes: 1,
            max_bytes: FETCH_BYTES_MAX,
            response_max_bytes: FETCH_BYTES_MAX,
            backoff: Duration::from_secs(1),
            has_sessions: true,
            has_topic_ids: true,
            truncates_on_fetch: knows_epochs && !self.asks_before_it_fetches(),
            asks_for_epochs: knows_epochs,
        };
        let (core, commands, works) = (Core::new(settings), Vec::new(), Vec::new());
        let task = || FetcherTask { core, commands, asked: None, works, rests_until: None };
        self.fetchers.entry(leader).or_insert_with(task)
    }

    /// Brokers with odd numbers speak the protocol from before truncation on fetch.
    fn asks_before_it_fetches(&self) -> bool {
        self.id.0 % 2 == 1
    }

    /// The next step of a fetcher, if one has anything to do.
    pub fn step_fetchers(&mut self, network: &mut Network, first: usize) -> bool {
        let leaders: Vec<BrokerId> = self.fetchers.keys().copied().collect();
        (0..leaders.len()).any(|at| self.step_fetcher(leaders[(at + first) % leaders.len()], network))
    }

    fn step_fetcher(&mut self, leader: BrokerId, network: &mut Network) -> bool {
        let now = self.now();
        let Some(fetcher) = self.fetchers.get_mut(&leader).filter(|fetcher| fetcher.asked.is_none()) else {
            return false;
        };
        if !fetcher.works.is_empty() {
            let works = std::mem::take(&mut fetcher.works);
            self.carry_out(leader, works);
            return true;
        }
        if fetcher.rests_until.is_some_and(|until| now < until) && fetcher.commands.is_empty() {
            return false;
        }
        fetcher.hear();
        match fetcher.core.next(now, false) {
            Next::Work(works) => fetcher.works = works,
            Next::Wait(_) => return false,
            Next::Ask(question) => {
                let replica_epoch = self.registered.map_or(-1, |epoch| epoch.0);
                let replica_state = ReplicaState { replica_id: self.id.0, replica_epoch };
                let request = match question {
                    Question::Fetch { request, .. } => Request::Fetch(FetchRequest { replica_state, ..request }),
                    Question::EpochEnds(request) => Request::EpochEnds(request),
                    Question::Offsets(request) => Request::Offsets(request),
                };
                fetcher.asked = Some(network.call(self.id, leader, request));
            }
        }
        true
    }

    fn carry_out(&mut self, leader: BrokerId, works: Vec<Work>) {
        let mut outcomes = Vec::new();
        for work in works {
            let Some(partition) = self.replica(&work.partition) else { continue };
            let (is_append, epoch) = (matches!(work.task, Task::Append(_)), work.leader_epoch);
            let outcome = done(&partition, work, NOW_MS);
            if is_append && outcome.outcome.is_ok() {
                self.appended.push((partition, epoch));
            }
            outcomes.push(outcome);
        }
        let now = self.now();
        if let Some(fetcher) = self.fetchers.get_mut(&leader) {
            fetcher.core.on_done(outcomes, now);
        }
    }

    /// What a leader has answered, or `None` if it was not reached. False if nobody waits for it.
    pub fn fetcher_answered(&mut self, call: CallId, reply: Option<Reply>) -> bool {
        let now = self.now();
        let Some(fetcher) = self.fetchers.values_mut().find(|fetcher| fetcher.asked == Some(call)) else {
            return false;
        };
        fetcher.asked = None;
        fetcher.hear();
        match reply {
            Some(Reply::Fetch(response)) => {
                fetcher.works = fetcher.core.on_fetched(response, now);
                fetcher.rests_until = fetcher.works.is_empty().then(|| now + FETCH_WAIT);
            }
            Some(Reply::EpochEnds(response)) => {
                fetcher.works = fetcher.core.on_epoch_ends(epoch_ends(response), now);
            }
            Some(Reply::Offsets(response)) => {
                fetcher.works = fetcher.core.on_offsets(offsets(response, false), now);
            }
            _ => fetcher.core.on_unreachable(now),
        }
        true
    }

    // ---- in-sync replicas ----

    /// The next step of the task that asks for ISRs, see `replica/alter_partition.rs`.
    pub fn step_isr(&mut self, network: &mut Network) -> bool {
        if self.isr.asked.is_some() {
            return false;
        }
        if self.isr.proposals.is_empty() {
            let still_wanted = |proposal: &IsrProposal| {
                self.replica(&proposal.partition).is_some_and(|partition| partition.still_wants(proposal))
            };
            self.isr.proposals = self.around.isr_changes.take().into_iter().filter(still_wanted).collect();
            if self.planted == Planted::UnagreedShrinks {
                let proposals = std::mem::take(&mut self.isr.proposals);
                self.isr.proposals =
                    proposals.into_iter().filter(|proposal| !self.is_taken_for_agreed(proposal)).collect();
            }
        }
        let controller = self.around.metadata.image().controller;
        let (Some(controller), Some(broker_epoch), false) =
            (controller, self.registered, self.isr.proposals.is_empty())
        else {
            return false;
        };
        let request = alter_partition::request(&self.isr.proposals, self.id, broker_epoch, ALTER_PARTITION_VERSION);
        self.isr.asked = Some(network.call(self.id, controller, Request::AlterPartition(request)));
        true
    }

    /// Planted: whom this leader wants out is out before ZooKeeper has it.
    fn is_taken_for_agreed(&self, proposal: &IsrProposal) -> bool {
        let IsrProposal { leader_epoch, partition_epoch, ref isr, .. } = *proposal;
        let Some(partition) = self.replica(&proposal.partition).filter(|known| isr.len() < known.isr().len()) else {
            return false;
        };
        partition.isr_answered(proposal, IsrAnswer::InForce { leader_epoch, partition_epoch, isr: isr.clone() });
        true
    }

    /// What the controller has answered, or `None` if it was not reached. False if nobody waits for it.
    pub fn isr_answered(&mut self, call: CallId, response: Option<&AlterPartitionResponse>) -> bool {
        if self.isr.asked != Some(call) {
            return false;
        }
        self.isr.asked = None;
        // Nobody, or one that is not the controller: the same is asked again.
        let is_denial = |code| ErrorCode::from_code(code) == ErrorCode::NotController;
        let Some(response) = response.filter(|response| !is_denial(response.error_code)) else { return true };
        let proposals = std::mem::take(&mut self.isr.proposals);
        if ErrorCode::from_code(response.error_code).is_error() {
            self.around.isr_changes.put_back(proposals);
            return true;
        }
        let (answered, mut again) = alter_partition::answers(proposals, response, ALTER_PARTITION_VERSION);
        for (proposal, answer) in answered {
            let Some(partition) = self.replica(&proposal.partition) else { continue };
            if partition.isr_answered(&proposal, answer) == AfterAnswer::AskAgain {
                again.push(proposal);
            }
        }
        self.around.isr_changes.put_back(again);
        true
    }

    // ---- the end in order ----

    /// The broker is asked to stop.
    pub fn leave(&mut self) {
        self.leaving.get_or_insert_default();
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// The next step of `broker/controlled_shutdown.rs`.
    pub fn step_leaving(&mut self, network: &mut Network) -> bool {
        let controller = self.around.metadata.image().controller;
        let Some(leaving) = self.leaving.as_mut().filter(|leaving| leaving.asked.is_none()) else { return false };
        let (Some(controller), Some(epoch)) = (controller, self.registered) else { return false };
        leaving.asked = Some(network.call(self.id, controller, Request::ControlledShutdown(epoch)));
        true
    }

    /// What the controller has answered, or `None` if it was not reached. True if the broker may go: it leads nothing any
    /// more, or has lost its patience.
    pub fn may_go(&mut self, call: CallId, reply: Option<&Reply>) -> bool {
        let Some(leaving) = self.leaving.as_mut().filter(|leaving| leaving.asked == Some(call)) else { return false };
        leaving.asked = None;
        leaving.tries += 1;
        let is_let_go = matches!(reply, Some(Reply::StillLed(Some(left))) if left.is_empty());
        is_let_go || leaving.tries >= LEAVING_TRIES_MAX
    }

    // ---- coordinators ----

    pub fn step_groups(&mut self) -> bool {
        self.group_task.step(self.clock.now())
    }

    pub fn step_transactions(&mut self) -> bool {
        self.transaction_task.step(self.clock.now())
    }

    // ---- the session with ZooKeeper ----

    /// The broker hears that its session has ended.
    pub fn session_ended(&mut self, network: &mut Network) {
        self.session = None;
        self.registered = None;
        self.candidate.session_ended(network);
    }
}

impl FetcherTask {
    fn hear(&mut self) {
        for (name, command) in self.commands.drain(..) {
            match command {
                FetchChange::Follow { start, .. } => self.core.follow(name, &start),
                FetchChange::Stop => self.core.unfollow(&name),
                FetchChange::SetTopicId(topic_id) => self.core.set_topic_id(&name, topic_id),
            }
        }
    }
}

/// Planted: what is older than what is in force is taken for the latest.
fn obeyed(partition: &Replica, decision: &mut Decision) -> Verdict {
    partition.looking_at(|leadership| {
        decision.leader_epoch = decision.leader_epoch.max(leadership.leader_epoch());
        decision.partition_epoch = decision.partition_epoch.max(leadership.isr().partition_epoch());
    });
    if decision.leader == partition.local() { Verdict::Lead } else { Verdict::Follow }
}

/// What a follower is told of a partition, with the bytes that would be sent.
fn partition_data(partition: i32, fetched: Fetched, fetcher: Fetcher) -> PartitionData {
    let mut data = api::fetch::partition_data(partition, fetched, fetcher);
    if let Some(Payload::File(region)) = &data.records {
        data.records = Some(Payload::Bytes(read(region)));
    }
    data
}

pub(super) fn read(region: &FileRegion) -> Bytes {
    let mut bytes = vec![0; region.len as usize];
    region.file.read_exact_at(&mut bytes, region.position).expect("readable");
    Bytes::from(bytes)
}

/// The outcome of a future that waits for nothing.
pub(super) fn at_once<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("it waits"),
    }
}

/// Of an old connection, whose end nobody here would see, too.
fn refused(refusal: ControlRefusal) -> ErrorCode {
    api::errors::refused(refusal).unwrap_or(ErrorCode::StaleControllerEpoch)
}
