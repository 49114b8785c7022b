//! The task of one fetcher: it owns the connection to the leader, asks what the core wants to know, and has done on the I/O
//! threads what comes of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinSet};

use crate::client::connection::{Connection, ConnectionSettings};
use crate::client::error::ClientError;
use crate::config::metadata_version::MetadataVersion;
use crate::log::dirs::LogDirs;
use crate::metadata::cache::MetadataCache;
use crate::model::clock::wall_clock_ms;
use crate::model::lock::Lock;
use crate::model::{BrokerEpoch, BrokerId, TopicId, TopicPartition};
use crate::protocol::messages::fetch::{FetchRequest, FetchResponse, ReplicaState};
use crate::protocol::messages::list_offsets::ListOffsetsResponse;
use crate::protocol::messages::offset_for_leader_epoch::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use crate::replica::counters::{ReplicaCounters, add};
use crate::replica::disks::PATIENCE;
use crate::replica::fetcher::answers::{epoch_ends, offsets};
use crate::replica::fetcher::fetchers::Fetchers;
use crate::replica::fetcher::state::{Done, Fetcher, Next, Question, Start, Task, Work};
use crate::replica::fetcher::work::done;
use crate::replica::io::{IoThreads, ShuttingDown};
use crate::replica::partition::{Disk, Partition};
use crate::replica::throttle::Throttle;

/// The last version without topic ids.
const LAST_WITH_NAMES: i16 = 12;
const FIRST_WITH_REPLICA_STATE: i16 = 15;

/// What a fetcher is told of a partition.
pub(super) enum Command {
    Follow(Arc<Partition>, Start),
    Unfollow,
    SetTopicId(TopicId),
    SetThrottled(bool),
    /// Another fetcher takes it over, unless something else has been decided since that word.
    HandOver(u64),
}

/// What a fetcher is yet to hear. It holds no more of a partition than what was said since it was last followed or let go,
/// so whoever tells it something never waits.
#[derive(Default)]
pub(super) struct Mailbox {
    commands: Lock<BTreeMap<TopicPartition, Vec<Command>>>,
    arrival: Notify,
}

impl Mailbox {
    pub fn put(&self, partition: TopicPartition, command: Command) {
        {
            let mut commands = self.commands.lock().expect("nothing panics under it");
            let of_partition = commands.entry(partition).or_default();
            if matches!(command, Command::Follow(..) | Command::Unfollow) {
                of_partition.clear();
            }
            of_partition.push(command);
        }
        self.arrival.notify_one();
    }

    fn take(&self) -> BTreeMap<TopicPartition, Vec<Command>> {
        std::mem::take(&mut *self.commands.lock().expect("nothing panics under it"))
    }

    pub fn is_empty(&self) -> bool {
        self.commands.lock().expect("nothing panics under it").is_empty()
    }
}

/// Which broker is asked, and how.
#[derive(Clone)]
pub(super) struct Source {
    pub local: BrokerId,
    pub leader: BrokerId,
    /// Which of the fetchers for that broker.
    pub number: u32,
    pub listener: String,
    pub protocol: MetadataVersion,
    pub socket_timeout: Duration,
    pub receive_buffer_bytes: Option<u32>,
}

/// What is appended on the task's own thread, where other connections wait for it: it costs less than the way to an I/O
/// thread and back.
const BYTES_AT_ONCE_MAX: usize = 256 * 1024;
const PARTITIONS_AT_ONCE_MAX: usize = 64;

/// How long a disk that took longer than anybody waits for is not waited for at all: what else is fetched would stand still each
/// time that it does.
const SLOW_FOR: Duration = Duration::from_secs(5);

/// What was done to the logs of a directory, and how long that took.
type DoneIn = (Option<PathBuf>, Duration, Result<Vec<Done>, ShuttingDown>);

pub(super) struct FetcherTask {
    pub source: Source,
    pub core: Fetcher,
    pub name: String,
    pub mailbox: Arc<Mailbox>,
    pub metadata: Arc<MetadataCache>,
    pub registered: watch::Receiver<Option<BrokerEpoch>>,
    pub io: Arc<IoThreads>,
    pub log_dirs: Arc<LogDirs>,
    pub throttle: Arc<Throttle>,
    pub counters: Arc<ReplicaCounters>,
    pub fetchers: Arc<Fetchers>,
    pub partitions: BTreeMap<TopicPartition, Arc<Partition>>,
    /// What is being done to logs, for each directory by itself.
    pub jobs: JoinSet<DoneIn>,
    /// How many those of each directory are.
    pub under_way: HashMap<Option<PathBuf>, usize>,
    /// Directories whose disks are not waited for any more, with the partitions that are set aside until they answer.
    pub left: HashMap<Option<PathBuf>, BTreeSet<TopicPartition>>,
    /// Until when disks that took long are not waited for at all.
    pub slow_until: HashMap<Option<PathBuf>, Instant>,
    /// Once what is being done to their logs is done.
    pub handed_over_later: BTreeMap<TopicPartition, u64>,
    pub connection: Option<Connection>,
    /// The leader was not reached, and that was said.
    pub complained: bool,
}

enum Told {
    Fetched(FetchResponse),
    EpochEnds(OffsetForLeaderEpochResponse),
    Offsets(ListOffsetsResponse),
}

impl FetcherTask {
    /// Runs until it has no partition left, or the broker stops.
    pub async fn run(mut self) {
        info!("{} Starting", self.name);
        let mut failures = 0;
        loop {
            let more = self.core.failures() - std::mem::replace(&mut failures, self.core.failures());
            self.counters.follower_partitions_failed.fetch_add(more, Ordering::Relaxed);
            self.hear();
            if self.core.is_empty() && self.fetchers.end(self.source.leader, self.source.number, &self.mailbox) {
                break;
            }
            let carried_out = match self.next() {
                Next::Work(works) => self.carry_out(works).await,
                Next::Wait(until) => self.wait(until).await,
                Next::Ask(question) => {
                    let told = self.ask(question).await;
                    // What has changed meanwhile decides what the answer is good for.
                    self.hear();
                    let works = self.take_in(told);
                    self.carry_out(works).await
                }
            };
            if carried_out.is_err() {
                break;
            }
        }
        info!("{} Stopped", self.name);
    }

    fn next(&mut self) -> Next {
        let now = Instant::now();
        let is_quota_exceeded = self.core.has_throttled() && self.throttle.is_exceeded(now);
        self.core.next(now, is_quota_exceeded)
    }

    fn hear(&mut self) {
        for (name, commands) in self.mailbox.take() {
            commands.into_iter().for_each(|command| self.obey(&name, command));
        }
    }

    fn obey(&mut self, name: &TopicPartition, command: Command) {
        match command {
            Command::Follow(partition, start) => {
                // A topic that was deleted and made again may have the same epoch, and has another log.
                let before = self.partitions.insert(name.clone(), Arc::clone(&partition));
                if before.is_some_and(|before| !Arc::ptr_eq(&before, &partition)) {
                    self.core.unfollow(name);
                }
                self.core.follow(name.clone(), &start);
                self.handed_over_later.remove(name);
                if let Some(aside) = self.left.get_mut(&partition.parent_dir()) {
                    aside.insert(name.clone());
                    self.core.set_aside(name, true);
                }
            }
            Command::Unfollow => {
                self.partitions.remove(name);
                self.handed_over_later.remove(name);
                self.core.unfollow(name);
            }
            Command::SetTopicId(topic_id) => self.core.set_topic_id(name, topic_id),
            Command::SetThrottled(is_throttled) => self.core.set_throttled(name, is_throttled),
            Command::HandOver(word) if self.core.is_busy(name) => {
                self.handed_over_later.insert(name.clone(), word);
            }
            Command::HandOver(word) => {
                let identity = self.core.identity(name);
                self.core.unfollow(name);
                let Some((partition, (topic_id, leader_epoch))) = self.partitions.remove(name).zip(identity) else {
                    return;
                };
                let (fetchers, dir, disk) = (Arc::clone(&self.fetchers), partition.parent_dir(), partition.disk());
                // Nothing of this fetcher is under way for it, so the log ends where the other goes on.
                let hand_over = move || {
                    if let Ok(position) = partition.follower_position(leader_epoch) {
                        let is_throttled = partition.is_throttled_follower();
                        fetchers.hand_over(partition, Start { topic_id, leader_epoch, position, is_throttled }, word);
                    }
                };
                match disk {
                    Disk::Failed => return,
                    Disk::KeepsUp => return hand_over(),
                    Disk::HeldUp => {}
                }
                let io = Arc::clone(&self.io);
                // Of its own: this fetcher may have no partition left, and the others of it wait for other disks.
                tokio::spawn(async move { io.run_in(dir.as_deref(), hand_over).await });
            }
        }
    }

    async fn wait(&mut self, until: Option<Instant>) -> Result<(), ShuttingDown> {
        let until = async move {
            match until {
                None => std::future::pending().await,
                Some(until) => tokio::time::sleep_until(until.into()).await,
            }
        };
        tokio::select! {
            () = self.mailbox.arrival.notified() => Ok(()),
            () = until => Ok(()),
            Some(done) = self.jobs.join_next() => self.take_done(done),
        }
    }

    // ---- the leader ----

    async fn ask(&mut self, question: Question) -> Result<Told, ClientError> {
        if matches!(question, Question::Fetch { .. }) {
            add(&self.counters.fetcher_requests, 1);
        }
        let protocol = self.source.protocol;
        let local = self.source.local.0;
        let broker_epoch = self.registered.borrow().map_or(-1, |epoch| epoch.0);
        let connection = self.connect().await?;
        match question {
            Question::Fetch { request, uses_topic_ids } => {
                let highest = protocol.fetch_request_version();
                let version = if uses_topic_ids { highest } else { highest.min(LAST_WITH_NAMES) };
                let request = match version >= FIRST_WITH_REPLICA_STATE {
                    true => FetchRequest {
                        replica_id: -1,
                        replica_state: ReplicaState { replica_id: local, replica_epoch: broker_epoch },
                        ..request
                    },
                    false => FetchRequest { replica_id: local, ..request },
                };
                connection.send_at(&request, version).await.map(Told::Fetched)
            }
            Question::EpochEnds(request) => {
                let request = OffsetForLeaderEpochRequest { replica_id: local, ..request };
                let version = protocol.offset_for_leader_epoch_request_version();
                connection.send_at(&request, version).await.map(Told::EpochEnds)
            }
            Question::Offsets(mut request) => {
                request.replica_id = local;
                let version = protocol.list_offsets_request_version();
                connection.send_at(&request, version).await.map(Told::Offsets)
            }
        }
    }

    async fn connect(&mut self) -> Result<&Connection, ClientError> {
        if self.connection.as_ref().is_some_and(Connection::is_closed) {
            self.connection = None;
        }
        if self.connection.is_none() {
            let Source { local, leader, number, listener, .. } = &self.source;
            let image = self.metadata.image();
            let endpoint = image.endpoint(*leader, listener).ok_or_else(|| ClientError::Connect {
                address: format!("broker {leader}"),
                reason: format!("it is not alive, or has no listener {listener}"),
            })?;
            let settings = ConnectionSettings {
                client_id: format!("broker-{local}-fetcher-{number}"),
                connect_timeout: self.source.socket_timeout,
                request_timeout: self.source.socket_timeout,
                receive_buffer_bytes: self.source.receive_buffer_bytes,
                resets: true,
                ..ConnectionSettings::default()
            };
            self.connection = Some(Connection::connect(&endpoint.address(), &settings).await?);
        }
        Ok(self.connection.as_ref().expect("it was just made"))
    }

    fn take_in(&mut self, told: Result<Told, ClientError>) -> Vec<Work> {
        let now = Instant::now();
        let told = match told {
            Ok(told) => told,
            Err(why) => {
                self.connection = None;
                add(&self.counters.fetcher_requests_failed, 1);
                if !std::mem::replace(&mut self.complained, true) {
                    warn!("{} Error in response for a request to broker {}: {why}", self.name, self.source.leader);
                } else {
                    debug!("{} {why}", self.name);
                }
                self.core.on_unreachable(now);
                return Vec::new();
            }
        };
        self.complained = false;
        match told {
            Told::Fetched(response) => self.core.on_fetched(response, now),
            Told::EpochEnds(response) => self.core.on_epoch_ends(epoch_ends(response), now),
            Told::Offsets(response) => {
                let is_old_style = self.source.protocol.list_offsets_request_version() == 0;
                self.core.on_offsets(offsets(response, is_old_style), now)
            }
        }
    }

    // ---- the logs ----

    /// Waits for disks while they answer. Where one does not, its partitions are set aside until it has.
    async fn carry_out(&mut self, works: Vec<Work>) -> Result<(), ShuttingDown> {
        self.begin(works);
        let now = Instant::now();
        self.slow_until.retain(|_, until| *until > now);
        self.leave(|task, dir| task.slow_until.contains_key(dir));
        let until = tokio::time::Instant::now() + PATIENCE;
        while self.under_way.keys().any(|dir| !self.left.contains_key(dir)) {
            match tokio::time::timeout_at(until, self.jobs.join_next()).await {
                Ok(Some(done)) => self.take_done(done)?,
                Ok(None) => break,
                Err(_) => self.leave(|_, _| true),
            }
        }
        while let Some(done) = self.jobs.try_join_next() {
            self.take_done(done)?;
        }
        Ok(())
    }

    fn leave(&mut self, is_left: impl Fn(&FetcherTask, &Option<PathBuf>) -> bool) {
        let waited_for = self.under_way.keys().filter(|dir| !self.left.contains_key(*dir));
        let left: Vec<_> = waited_for.filter(|dir| is_left(self, dir)).cloned().collect();
        for dir in left {
            let of_dir = self.partitions.iter().filter(|(_, partition)| partition.parent_dir() == dir);
            let aside: BTreeSet<TopicPartition> = of_dir.map(|(name, _)| name.clone()).collect();
            if !self.slow_until.contains_key(&dir) {
                let shown = dir.as_deref().unwrap_or(Path::new("")).display();
                info!("{} {} partitions wait until {shown} answers", self.name, aside.len());
            }
            aside.iter().for_each(|name| self.core.set_aside(name, true));
            self.left.insert(dir, aside);
        }
    }

    fn take_done(&mut self, done: Result<DoneIn, JoinError>) -> Result<(), ShuttingDown> {
        let (dir, took, outcomes) = done.map_err(|_| ShuttingDown)?;
        let now = Instant::now();
        self.core.on_done(outcomes?, now);
        if took >= PATIENCE {
            self.slow_until.insert(dir.clone(), now + SLOW_FOR);
        }
        let is_last = self.under_way.get_mut(&dir).is_none_or(|jobs| {
            *jobs -= 1;
            *jobs == 0
        });
        if is_last {
            self.under_way.remove(&dir);
            let aside = self.left.remove(&dir).unwrap_or_default();
            aside.iter().for_each(|name| self.core.set_aside(name, false));
        }
        let is_due = |(name, _): &(&TopicPartition, &u64)| !self.core.is_busy(name);
        let due: Vec<_> =
            self.handed_over_later.iter().filter(is_due).map(|(name, word)| (name.clone(), *word)).collect();
        for (name, word) in due {
            self.handed_over_later.remove(&name);
            self.obey(&name, Command::HandOver(word));
        }
        Ok(())
    }

    fn begin(&mut self, works: Vec<Work>) {
        let with_partition = |work: Work| Some((Arc::clone(self.partitions.get(&work.partition)?), work));
        // What failed is let go of in a moment, and nobody may wait for its lock.
        let works = works.into_iter().filter_map(with_partition).filter(|(partition, _)| !partition.has_failed_log());
        let works: Vec<(Arc<Partition>, Work)> = works.collect();
        let bytes: usize = works.iter().map(|(_, work)| appended_bytes(&work.task)).sum();
        let is_short = bytes <= BYTES_AT_ONCE_MAX && works.len() <= PARTITIONS_AT_ONCE_MAX;
        if is_short && !works.iter().any(|(partition, work)| may_wait_for_a_disk(partition, &work.task)) {
            let done = all_done(works, &self.throttle, wall_clock_ms());
            return self.core.on_done(done, Instant::now());
        }
        let mut by_dir: HashMap<Option<PathBuf>, Vec<(Arc<Partition>, Work)>> = HashMap::new();
        for (partition, work) in works {
            by_dir.entry(partition.parent_dir()).or_default().push((partition, work));
        }
        for (dir, works) in by_dir {
            *self.under_way.entry(dir.clone()).or_default() += 1;
            let (log_dirs, throttle, io) =
                (Arc::clone(&self.log_dirs), Arc::clone(&self.throttle), Arc::clone(&self.io));
            self.jobs.spawn(async move {
                let mut cut_in: BTreeSet<PathBuf> = dir.iter().cloned().collect();
                let carry_out = move || {
                    let now_ms = wall_clock_ms();
                    let partitions: Vec<_> = works.iter().map(|(partition, _)| Arc::clone(partition)).collect();
                    let outcomes = all_done(works, &throttle, now_ms);
                    // A log may have moved meanwhile.
                    cut_in.extend(partitions.iter().filter_map(|partition| partition.parent_dir()));
                    // Before anything is appended in place of what was cut: a crash must not take that for flushed.
                    for one in cut_in.iter().filter_map(|path| log_dirs.one(path)) {
                        one.write_recovery_points_moved_back(now_ms);
                    }
                    outcomes
                };
                let began = Instant::now();
                let done = io.run_in(dir.as_deref(), carry_out).await;
                (dir, began.elapsed(), done)
            });
        }
    }
}

fn all_done(works: Vec<(Arc<Partition>, Work)>, throttle: &Throttle, now_ms: i64) -> Vec<Done> {
    let carry_out = |(partition, work): (Arc<Partition>, Work)| {
        if let Task::Append(from_leader) = &work.task
            && !from_leader.records.is_empty()
            && partition.is_throttled_follower()
        {
            throttle.record(from_leader.records.len(), Instant::now());
        }
        done(&partition, work, now_ms)
    };
    works.into_iter().map(carry_out).collect()
}

fn appended_bytes(task: &Task) -> usize {
    match task {
        Task::Append(from_leader) => from_leader.records.len(),
        Task::Truncate(_) | Task::TruncateByEpoch { .. } | Task::RestartAt(_) => 0,
    }
}

/// Whether it does more than an append as a leader does it, on the thread that asks.
fn may_wait_for_a_disk(partition: &Partition, task: &Task) -> bool {
    let Task::Append(from_leader) = task else { return true };
    if partition.is_held_up() {
        return true;
    }
    partition.log().is_some_and(|log| {
        let bounds = log.bounds();
        // An empty log may have to start elsewhere, and one that starts later lets go of segments.
        bounds.log_start_offset == bounds.log_end_offset
            || bounds.log_start_offset < from_leader.log_start_offset
            // Each segment that begins is several files.
            || !log.has_room_for(from_leader.records.len())
            || log.config().flushes_before_acknowledgement()
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::config::log::LogConfig;
    use crate::config::sections::ReplicaConfig;
    use crate::log::testing::Gate;
    use crate::model::{LeaderEpoch, Offset};
    use crate::protocol::message::Payload;
    use crate::protocol::messages::fetch::{FetchableTopicResponse, PartitionData};
    use crate::replica::follower::Position;
    use crate::replica::follower_tests::{batch, following, from_leader};
    use crate::replica::tests::Fixture;

    #[test]
    fn an_append_that_begins_a_segment_is_not_made_among_connections() {
        let records = batch(4, 0, 10);
        let room = u32::try_from(records.len() + batch(4, 10, 10).len()).expect("they are short");
        let follower = following(LogConfig { segment_bytes: room, ..LogConfig::default() });
        follower.partition.append_from_leader(&from_leader(0, records, 0, 0), 0).expect("it is the first");
        let may_wait =
            |records: Vec<u8>| may_wait_for_a_disk(&follower.partition, &Task::Append(from_leader(10, records, 0, 0)));
        assert!(!may_wait(batch(4, 10, 10)));
        assert!(may_wait(batch(4, 10, 11)));
        assert!(may_wait([batch(4, 10, 10), batch(4, 20, 1)].concat()));
    }

    /// More than is appended at once.
    const MANY: usize = 30_000;

    fn over_two_dirs() -> Fixture {
        let root = tempfile::tempdir().expect("a temporary directory");
        let dirs = ["one", "other"].map(|name| root.path().join(name)).to_vec();
        Fixture::over(root, dirs, ReplicaConfig::default())
    }

    /// Two partitions in either directory, which all have the leader's first ten records. Those whose topics come first are in
    /// the same.
    async fn fetching(fixture: &Fixture) -> (FetcherTask, [String; 4]) {
        let mut fetcher = fixture.replicas.fetchers().fetcher((BrokerId(2), 0));
        let mut topics = ["a", "b", "c", "d"].map(str::to_owned);
        for topic in &topics {
            assert_eq!(fixture.decide(topic, 0, 2, 0, &[1, 2]).await, Ok(()));
            let partition = fixture.replicas.partition(topic, 0).expect("hosted");
            let (log_start_offset, high_watermark, log_end_offset) = (Offset(0), Offset(0), Offset(0));
            let last_epoch = Some(LeaderEpoch(0));
            let position = Position { log_start_offset, high_watermark, log_end_offset, last_epoch };
            let start = Start { topic_id: TopicId::ZERO, leader_epoch: LeaderEpoch(0), position, is_throttled: false };
            fetcher.mailbox.put(partition.name().clone(), Command::Follow(partition, start));
        }
        asked(&mut fetcher);
        is_answered(&mut fetcher, &topics, 0, 10).await;
        topics.sort_by_key(|topic| fixture.replicas.parent_dir(topic, 0));
        let [one, other] = [1, 2].map(|at| fixture.replicas.parent_dir(&topics[at], 0));
        assert!(one != other);
        (fetcher, topics)
    }

    /// What it wants from where on of which partition, and which it wants no more.
    fn asked(fetcher: &mut FetcherTask) -> (BTreeMap<String, i64>, BTreeSet<String>) {
        fetcher.hear();
        let Next::Ask(Question::Fetch { request, .. }) = fetcher.next() else { panic!("it does not fetch") };
        let wanted = request.topics.into_iter().map(|topic| (topic.topic, topic.partitions[0].fetch_offset));
        (wanted.collect(), request.forgotten_topics_data.into_iter().map(|topic| topic.topic).collect())
    }

    async fn is_answered(fetcher: &mut FetcherTask, topics: &[String], from: i64, records: usize) {
        let records = Bytes::from(batch(0, from, records));
        let of_topic = |topic: &String| {
            let data = PartitionData { records: Some(Payload::Bytes(records.clone())), ..Default::default() };
            FetchableTopicResponse { topic: topic.clone(), partitions: vec![data], ..Default::default() }
        };
        let responses = topics.iter().map(of_topic).collect();
        let works =
            fetcher.take_in(Ok(Told::Fetched(FetchResponse { session_id: 7, responses, ..Default::default() })));
        fetcher.carry_out(works).await.expect("it is not shut down");
    }

    async fn until_done(fetcher: &mut FetcherTask) {
        while !fetcher.under_way.is_empty() {
            fetcher.wait(None).await.expect("it is not shut down");
        }
    }

    #[tokio::test]
    async fn a_disk_that_does_not_answer_holds_up_what_is_fetched_for_no_other() {
        let fixture = over_two_dirs();
        let (mut fetcher, [slow, beside, fast, other]) = fetching(&fixture).await;
        let all = [&slow, &beside, &fast, &other].map(|topic| (topic.clone(), 10));
        assert_eq!(asked(&mut fetcher), (all.into(), [].into()));
        let (gate, _fault) = Gate::of_writes_below(&fixture.replicas.parent_dir(&slow, 0).expect("it has a log"));
        is_answered(&mut fetcher, &[slow.clone(), fast.clone()], 10, MANY).await;
        let many = MANY as i64;
        let gone = [slow.clone(), beside.clone()];
        assert_eq!(asked(&mut fetcher), ([(fast.clone(), many + 10)].into(), gone.into()));
        is_answered(&mut fetcher, std::slice::from_ref(&fast), many + 10, MANY).await;
        assert_eq!(asked(&mut fetcher), ([(fast, many * 2 + 10)].into(), [].into()));
        assert!(!gate.is_open(), "it was not waited for");
        gate.open();
        until_done(&mut fetcher).await;
        assert_eq!(asked(&mut fetcher), ([(slow.clone(), many + 10), (beside, 10)].into(), [].into()));
        // What took long once is not waited for again, however short it takes now.
        is_answered(&mut fetcher, std::slice::from_ref(&slow), many + 10, MANY).await;
        let is_left = fetcher.left.len();
        until_done(&mut fetcher).await;
        assert_eq!((is_left, fetcher.left.len()), (1, 0));
    }

    /// Its log goes on, and what the old leader sent arrives there late or not at all.
    #[tokio::test]
    async fn what_another_leader_sends_is_appended_behind_what_a_disk_was_slow_to_take() {
        let fixture = over_two_dirs();
        let (mut fetcher, [slow, ..]) = fetching(&fixture).await;
        asked(&mut fetcher);
        let dir = fixture.replicas.parent_dir(&slow, 0).expect("it has a log");
        let (gate, fault) = Gate::of_writes_below(&dir);
        is_answered(&mut fetcher, std::slice::from_ref(&slow), 10, MANY).await;
        let (decided, ()) = tokio::join!(fixture.decide(&slow, 0, 2, 1, &[1, 2]), async { gate.open() });
        assert_eq!(decided, Ok(()));
        drop(fault);
        let partition = fixture.replicas.partition(&slow, 0).expect("hosted");
        let position = partition.follower_position(LeaderEpoch(1)).expect("it follows");
        let end = position.log_end_offset.0;
        let start = Start { topic_id: TopicId::ZERO, leader_epoch: LeaderEpoch(1), position, is_throttled: false };
        fetcher.mailbox.put(partition.name().clone(), Command::Follow(Arc::clone(&partition), start));
        fetcher.hear();
        until_done(&mut fetcher).await;
        assert_eq!(asked(&mut fetcher).0.get(&slow), Some(&end));
        is_answered(&mut fetcher, std::slice::from_ref(&slow), end, 10).await;
        until_done(&mut fetcher).await;
        assert_eq!(partition.follower_position(LeaderEpoch(1)).expect("it follows").log_end_offset.0, end + 10);
    }

    #[tokio::test]
    async fn a_partition_is_handed_over_once_what_is_being_done_to_its_log_is_done() {
        let fixture = over_two_dirs();
        let (mut fetcher, [slow, ..]) = fetching(&fixture).await;
        asked(&mut fetcher);
        let (gate, _fault) = Gate::of_writes_below(&fixture.replicas.parent_dir(&slow, 0).expect("it has a log"));
        is_answered(&mut fetcher, std::slice::from_ref(&slow), 10, MANY).await;
        let name = TopicPartition::new(slow.as_str(), 0);
        fetcher.obey(&name, Command::HandOver(1));
        assert!(fetcher.core.identity(&name).is_some() && !gate.is_open());
        gate.open();
        until_done(&mut fetcher).await;
        assert!(fetcher.core.identity(&name).is_none());
    }
}
