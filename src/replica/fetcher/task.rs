//! The task of one fetcher: it owns the connection to the leader, asks what the core wants to know, and has done on the I/O
//! threads what comes of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

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
            let works = match self.next() {
                Next::Work(works) => works,
                Next::Wait(until) => {
                    self.wait(until).await;
                    continue;
                }
                Next::Ask(question) => {
                    let told = self.ask(question).await;
                    // What has changed meanwhile decides what the answer is good for.
                    self.hear();
                    self.take_in(told)
                }
            };
            if !works.is_empty() {
                let Ok(done) = self.carry_out(works).await else { break };
                self.core.on_done(done, Instant::now());
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
            }
            Command::Unfollow => {
                self.partitions.remove(name);
                self.core.unfollow(name);
            }
            Command::SetTopicId(topic_id) => self.core.set_topic_id(name, topic_id),
            Command::SetThrottled(is_throttled) => self.core.set_throttled(name, is_throttled),
            Command::HandOver(word) => {
                let identity = self.core.identity(name);
                self.core.unfollow(name);
                let Some((partition, (topic_id, leader_epoch))) = self.partitions.remove(name).zip(identity) else {
                    return;
                };
                let (fetchers, dir, disk) = (Arc::clone(&self.fetchers), partition.parent_dir(), partition.disk());
                // Nothing of this fetcher is under way, so the log ends where the other goes on.
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

    async fn wait(&self, until: Option<Instant>) {
        match until {
            None => self.mailbox.arrival.notified().await,
            Some(until) => {
                tokio::select! {
                    () = self.mailbox.arrival.notified() => {}
                    () = tokio::time::sleep_until(until.into()) => {}
                }
            }
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

    async fn carry_out(&mut self, works: Vec<Work>) -> Result<Vec<Done>, ShuttingDown> {
        let with_partition = |work: Work| Some((Arc::clone(self.partitions.get(&work.partition)?), work));
        // What failed is let go of in a moment, and nobody may wait for its lock.
        let works = works.into_iter().filter_map(with_partition).filter(|(partition, _)| !partition.has_failed_log());
        let works: Vec<(Arc<Partition>, Work)> = works.collect();
        let bytes: usize = works.iter().map(|(_, work)| appended_bytes(&work.task)).sum();
        let is_short = bytes <= BYTES_AT_ONCE_MAX && works.len() <= PARTITIONS_AT_ONCE_MAX;
        if is_short && !works.iter().any(|(partition, work)| may_wait_for_a_disk(partition, &work.task)) {
            return Ok(all_done(works, &self.throttle, wall_clock_ms()));
        }
        let mut by_dir: HashMap<Option<PathBuf>, Vec<(Arc<Partition>, Work)>> = HashMap::new();
        for (partition, work) in works {
            by_dir.entry(partition.parent_dir()).or_default().push((partition, work));
        }
        let mut jobs = JoinSet::new();
        for (dir, works) in by_dir {
            let (log_dirs, throttle, io) =
                (Arc::clone(&self.log_dirs), Arc::clone(&self.throttle), Arc::clone(&self.io));
            jobs.spawn(async move {
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
                io.run_in(dir.as_deref(), carry_out).await
            });
        }
        let mut outcomes = Vec::new();
        while let Some(done) = jobs.join_next().await {
            outcomes.extend(done.map_err(|_| ShuttingDown)??);
        }
        Ok(outcomes)
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
    use super::*;
    use crate::config::log::LogConfig;
    use crate::replica::follower_tests::{batch, following, from_leader};

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
}
