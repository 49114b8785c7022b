//! All partitions that this broker hosts: the way in for appends, offsets, deletions and what runs by the clock. What the
//! controller asks is carried out in `decisions.rs`, what fetchers ask in `fetch.rs`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use log::{debug, warn};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::config::log::LogConfig;
use crate::config::metadata_version::MetadataVersion;
use crate::config::sections::ReplicaConfig;
use crate::log::dirs::LogDirs;
use crate::log::{Bounds, OffsetQuery, TimestampedOffset};
use crate::metadata::cache::MetadataCache;
use crate::model::internal_topics::is_internal_topic;
use crate::model::lock::off_the_network;
use crate::model::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, TopicPartition};
use crate::replica::control::ControllerFence;
use crate::replica::counters::{ReplicaCounters, add};
use crate::replica::decisions::{Creating, Inherited, LeadershipEvent, TopicConfigs};
use crate::replica::dir_moves::DirMoves;
use crate::replica::disks::Disks;
use crate::replica::error::ReplicaError;
use crate::replica::fetch_session::{FetchSessions, SessionLimits};
use crate::replica::fetcher::fetchers::{Begun, Fetchers};
use crate::replica::hosted::Hosted;
use crate::replica::io::{IoThreads, ShuttingDown};
use crate::replica::isr_changes::{AfterAnswer, IsrAnswer, IsrChanges, IsrProposal};
use crate::replica::late_reads::LateReads;
use crate::replica::partition::{AppendTerms, Appended, DeletedRecords, Disk, Partition, RequiredAcks, Surroundings};
use crate::replica::throttle::Throttle;
use crate::replica::waiters::Commit;

/// So much later than the longest timeout a coordinator may come to abort a transaction.
/// Source: kafka 3.9 storage/.../log/ProducerStateManager.java.
const LATE_TRANSACTION_BUFFER_MS: i64 = 5 * 60 * 1000;

/// Before a partition whose disk does not keep up asks for its ISR again.
const HELD_UP_RETRY_BACKOFF: Duration = Duration::from_secs(1);

/// Leadership changes that coordinators wait to hear of, at most this many untold.
const LEADERSHIP_EVENTS_MAX: usize = 4096;

/// All partitions hosted by this broker.
pub struct ReplicaManager {
    pub(super) around: Arc<Surroundings>,
    pub(super) config: ReplicaConfig,
    pub(super) hosted: Hosted,
    pub(super) sessions: FetchSessions,
    pub(super) fetchers: Arc<Fetchers>,
    pub(super) counters: Arc<ReplicaCounters>,
    pub(super) log_dirs: Arc<LogDirs>,
    pub(super) topic_configs: Arc<dyn TopicConfigs>,
    pub(super) creating: Creating,
    pub(super) inherited: Inherited,
    pub(super) io: Arc<IoThreads>,
    /// As fetches see them.
    pub(super) disks: Disks,
    pub(super) late_reads: Arc<LateReads>,
    pub(super) dir_moves: DirMoves,
    /// Directories from which something could not be sent, while it is read again.
    pub(super) doubted: Arc<Mutex<HashSet<PathBuf>>>,
    /// The control lock: one request of the controller at a time.
    pub(super) fence: tokio::sync::Mutex<ControllerFence>,
    /// The epoch of this broker's registration in ZooKeeper, known here before any controller can have heard of it;
    /// `None` while there is no registration.
    pub(super) registered: watch::Receiver<Option<BrokerEpoch>>,
    pub(super) events: mpsc::Sender<LeadershipEvent>,
    /// True once the controller has told which partitions live here: only then are high watermarks checkpointed, or
    /// those of partitions not heard of yet would be lost.
    pub(super) has_decisions: watch::Sender<bool>,
    /// Notified when the controller is to tell again which partitions live here: some were refused that may be had now.
    pub(crate) wants_decisions: Notify,
    /// Partitions that were refused, and that nobody leads though this broker, which is to lead them before others, has
    /// them by now and is in sync.
    pub(crate) leaderless: watch::Sender<BTreeSet<TopicPartition>>,
}

impl ReplicaManager {
    /// The second value tells of leadership changes; whoever connects the coordinators drains it. The third is for
    /// `Fetchers::run`.
    #[expect(clippy::too_many_arguments, reason = "one for each thing around it")]
    pub fn new(
        broker: BrokerId,
        config: ReplicaConfig,
        metadata: Arc<MetadataCache>,
        log_dirs: Arc<LogDirs>,
        topic_configs: Arc<dyn TopicConfigs>,
        io: Arc<IoThreads>,
        registered: watch::Receiver<Option<BrokerEpoch>>,
        counters: Arc<ReplicaCounters>,
    ) -> (Arc<ReplicaManager>, mpsc::Receiver<LeadershipEvent>, Begun) {
        let (events, told) = mpsc::channel(LEADERSHIP_EVENTS_MAX);
        let around = Arc::new(Surroundings {
            local: broker,
            replica_lag_time_max: Duration::from_millis(u64::try_from(config.replica_lag_time_max_ms).unwrap_or(0)),
            zstd_allowed: config.inter_broker_protocol_version >= MetadataVersion::V2_1_IV0,
            metadata,
            isr_changes: IsrChanges::default(),
            counters: Arc::clone(&counters),
            leader_throttle: throttle(config.leader_replication_throttled_rate, &config),
            clock: Box::new(Instant::now),
        });
        let sessions = FetchSessions::new(SessionLimits::of_slots(config.max_incremental_fetch_session_cache_slots));
        let (fetchers, begun) = Fetchers::new(
            broker,
            &config,
            Arc::clone(&around.metadata),
            registered.clone(),
            Arc::clone(&io),
            Arc::clone(&log_dirs),
            throttle(config.follower_replication_throttled_rate, &config),
            Arc::clone(&counters),
        );
        let replicas = ReplicaManager {
            dir_moves: DirMoves::new(&config),
            around,
            config,
            hosted: Hosted::default(),
            sessions,
            fetchers,
            counters,
            log_dirs,
            topic_configs,
            creating: Creating::default(),
            inherited: Inherited::default(),
            disks: Disks::new(Arc::clone(&io)),
            late_reads: Arc::default(),
            io,
            doubted: Arc::default(),
            fence: tokio::sync::Mutex::default(),
            registered,
            events,
            has_decisions: watch::Sender::new(false),
            wants_decisions: Notify::new(),
            leaderless: watch::Sender::default(),
        };
        (Arc::new(replicas), told, begun)
    }

    pub fn broker(&self) -> BrokerId {
        self.around.local
    }

    /// Those of `leaderless` of which the cluster still says that nobody leads them; the others are forgotten.
    pub fn still_leaderless(&self) -> BTreeSet<TopicPartition> {
        let image = self.around.metadata.image();
        let has_none = |name: &TopicPartition| {
            image.partition(&name.topic, name.partition).is_some_and(|known| known.leader.0 < 0)
        };
        self.leaderless.send_modify(|leaderless| leaderless.retain(has_none));
        self.leaderless.borrow().clone()
    }

    /// A hosted partition, or why there is none. Takes its lock, as does nearly all that there is to ask of it: while its disk
    /// does not keep up that is for I/O threads, see `at`.
    pub fn partition(&self, topic: &str, partition: i32) -> Result<Arc<Partition>, ReplicaError> {
        match self.hosted.get(topic, partition) {
            Some(hosted) if hosted.is_offline() => Err(ReplicaError::Offline),
            Some(hosted) => Ok(hosted),
            None if self.around.metadata.image().partition(topic, partition).is_some() => {
                Err(ReplicaError::NotLeaderOrFollower)
            }
            None => Err(ReplicaError::UnknownTopicOrPartition),
        }
    }

    /// The same for who looks at it on an I/O thread: nothing is asked here of one whose disk does not keep up.
    pub(super) fn partition_to_look_at(&self, topic: &str, partition: i32) -> Result<Arc<Partition>, ReplicaError> {
        match self.hosted.get(topic, partition) {
            Some(hosted) if hosted.is_held_up() => Ok(hosted),
            _ => self.partition(topic, partition),
        }
    }

    pub fn log_dirs(&self) -> &Arc<LogDirs> {
        &self.log_dirs
    }

    pub fn fetchers(&self) -> &Arc<Fetchers> {
        &self.fetchers
    }

    pub fn io(&self) -> &Arc<IoThreads> {
        &self.io
    }

    // ---- data ----

    /// Appends records to a partition that this broker leads, on the calling thread.
    pub fn append(
        &self,
        topic: &str,
        partition: i32,
        records: Bytes,
        terms: AppendTerms,
        now_ms: i64,
    ) -> Result<Appended, ReplicaError> {
        let bytes = records.len();
        let is_unacknowledged = terms.required_acks == RequiredAcks::None;
        let appended = self.partition(topic, partition).and_then(|partition| {
            let appended = partition.append(records, terms, now_ms)?;
            Ok((partition, appended))
        });
        let (partition, appended) = appended.inspect_err(|why| self.counters.not_appended(bytes, why))?;
        self.counters.appended(bytes, &appended.info);
        if appended.commit.is_some() || appended.info.flush_due {
            add(&self.counters.appends_parked, 1);
        }
        if !appended.info.flush_due {
            return Ok(appended);
        }
        let flushed = partition.flushed(appended.leader_epoch, Offset(appended.info.last_offset.0 + 1), &self.io);
        if is_unacknowledged {
            return Ok(appended);
        }
        Ok(Appended { commit: Some(Commit::after(appended.commit, flushed)), ..appended })
    }

    /// Whether a disk does not keep up, so that whoever looks at the partition may wait. Takes no lock.
    pub fn is_held_up(&self, topic: &str, partition: i32) -> bool {
        self.log_dirs.is_any_held_up() && self.hosted.get(topic, partition).is_some_and(|hosted| hosted.is_held_up())
    }

    /// The bounds of the partition that a fetch saw last. Waits for no disk.
    pub fn last_bounds(&self, topic: &str, partition: i32) -> Option<Bounds> {
        self.hosted.get(topic, partition).and_then(|hosted| hosted.last_bounds())
    }

    /// The log directory that the partition is in. Takes no lock.
    pub fn parent_dir(&self, topic: &str, partition: i32) -> Option<PathBuf> {
        self.hosted.get(topic, partition).and_then(|hosted| hosted.parent_dir())
    }

    /// Does at once what looks at the partition's log, or on an I/O thread while its disk does not keep up.
    pub async fn at<T: Send + 'static>(
        self: &Arc<Self>,
        topic: &str,
        partition: i32,
        work: impl FnOnce(&Arc<ReplicaManager>) -> T + Send + 'static,
    ) -> Result<T, ShuttingDown> {
        if !self.is_held_up(topic, partition) {
            return Ok(work(self));
        }
        let dir = self.parent_dir(topic, partition);
        // What is appended may have to be flushed, which is a task.
        let (replicas, runtime) = (Arc::clone(self), Handle::current());
        let work = move || {
            let _in_runtime = runtime.enter();
            work(&replicas)
        };
        self.io.run_in(dir.as_deref(), work).await
    }

    /// Appends on I/O threads: in this order to the partitions of one directory, and to those of each whatever becomes of the
    /// others.
    pub async fn append_held_up(
        self: &Arc<Self>,
        appends: Vec<(Arc<str>, i32, Bytes)>,
        terms: AppendTerms,
        now_ms: i64,
    ) -> Result<Vec<Result<Appended, ReplicaError>>, ShuttingDown> {
        let mut by_dir: HashMap<Option<PathBuf>, Vec<_>> = HashMap::new();
        for (place, append) in appends.into_iter().enumerate() {
            let dir = self.parent_dir(&append.0, append.1);
            by_dir.entry(dir).or_default().push((place, append));
        }
        let mut appending = JoinSet::new();
        for (dir, appends) in by_dir {
            // What is appended may have to be flushed, which is a task.
            let (replicas, runtime) = (Arc::clone(self), Handle::current());
            let append_all = move || -> Vec<_> {
                let _in_runtime = runtime.enter();
                let append = |(place, (topic, partition, records)): (usize, (Arc<str>, i32, Bytes))| {
                    (place, replicas.append(&topic, partition, records, terms, now_ms))
                };
                appends.into_iter().map(append).collect()
            };
            let replicas = Arc::clone(self);
            appending.spawn(async move { replicas.io.run_in(dir.as_deref(), append_all).await });
        }
        let mut outcomes = Vec::new();
        while let Some(appended) = appending.join_next().await {
            outcomes.extend(appended.map_err(|_| ShuttingDown)??);
        }
        outcomes.sort_by_key(|(place, _)| *place);
        Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
    }

    /// Finds an offset; on an I/O thread unless it is known without a look at the log.
    pub async fn find_offset(
        &self,
        topic: &str,
        partition: i32,
        query: OffsetQuery,
        read_committed: Option<bool>,
        current_leader_epoch: Option<LeaderEpoch>,
        leader_only: bool,
    ) -> Result<Option<TimestampedOffset>, ReplicaError> {
        let partition = self.partition_to_look_at(topic, partition)?;
        match query {
            OffsetQuery::Latest | OffsetQuery::Earliest if !partition.is_held_up() => {
                partition.find_offset(query, read_committed, current_leader_epoch, leader_only)
            }
            _ => {
                let dir = partition.parent_dir();
                let find = move || partition.find_offset(query, read_committed, current_leader_epoch, leader_only);
                self.io.run_in(dir.as_deref(), find).await?
            }
        }
    }

    /// Deletes records below an offset, or all committed ones.
    pub async fn delete_records(
        &self,
        topic: &str,
        partition: i32,
        before: Option<Offset>,
    ) -> Result<DeletedRecords, ReplicaError> {
        let partition = self.partition_to_look_at(topic, partition)?;
        let dir = partition.parent_dir();
        self.io.run_in(dir.as_deref(), move || partition.delete_records(before)).await?
    }

    // ---- in-sync replicas ----

    /// What the leaders here want their ISRs to be. One task takes it.
    pub fn isr_changes(&self) -> &IsrChanges {
        &self.around.isr_changes
    }

    /// All that is wanted, once there is anything that still is: what a partition wanted before it was deleted, or before its
    /// leader was chosen anew, might be taken for the wish of the one that has its name, leader epoch and version now.
    ///
    /// What is done `beside`, of partitions whose disks do not keep up, ends in here.
    pub async fn next_isr_changes(self: &Arc<Self>, beside: &mut JoinSet<()>) -> Vec<IsrProposal> {
        loop {
            let wanted = tokio::select! {
                wanted = self.isr_changes().next() => wanted,
                Some(done) = beside.join_next() => {
                    if let Err(error) = done && error.is_panic() {
                        std::panic::resume_unwind(error.into_panic());
                    }
                    continue;
                }
            };
            let mut proposals = Vec::new();
            let mut held_up: HashMap<Option<PathBuf>, Vec<(Arc<Partition>, IsrProposal)>> = HashMap::new();
            let confirmed = wanted.confirmed.into_iter().map(|proposal| (proposal, true));
            for (proposal, is_confirmed) in confirmed.chain(wanted.unsent.into_iter().map(|proposal| (proposal, false)))
            {
                let TopicPartition { topic, partition } = &proposal.partition;
                let Some(partition) = self.hosted.get(topic, *partition) else { continue };
                match partition.disk() {
                    Disk::Failed => {}
                    Disk::HeldUp if is_confirmed => proposals.push(proposal),
                    Disk::HeldUp => {
                        held_up.entry(partition.parent_dir()).or_default().push((partition, proposal));
                    }
                    Disk::KeepsUp if partition.still_wants(&proposal) => proposals.push(proposal),
                    Disk::KeepsUp => {}
                }
            }
            for (dir, proposals) in held_up {
                beside.spawn(Arc::clone(self).confirm(dir, proposals));
            }
            if !proposals.is_empty() {
                proposals.sort_by(|one, other| one.partition.cmp(&other.partition));
                return proposals;
            }
        }
    }

    /// Looks at partitions whose disk does not keep up, so that those of others need not wait.
    async fn confirm(self: Arc<Self>, dir: Option<PathBuf>, proposals: Vec<(Arc<Partition>, IsrProposal)>) {
        let look = move || proposals.into_iter().filter(|(partition, proposal)| partition.still_wants(proposal));
        let look = move || look().map(|(_, proposal)| proposal).collect::<Vec<_>>();
        if let Ok(wanted) = self.io.run_in(dir.as_deref(), look).await {
            self.isr_changes().confirmed(wanted);
        }
    }

    /// The registration of this broker; `None` while there is none.
    pub fn broker_epoch(&self) -> watch::Receiver<Option<BrokerEpoch>> {
        self.registered.clone()
    }

    /// Hands an answer to whoever asked. To a partition whose disk does not keep up it is handed `beside` the others, and what
    /// it wants to ask again is put back then.
    pub fn isr_answered(
        self: &Arc<Self>,
        proposal: &IsrProposal,
        answer: IsrAnswer,
        beside: &mut JoinSet<()>,
    ) -> AfterAnswer {
        let TopicPartition { topic, partition } = &proposal.partition;
        let Some(partition) = self.hosted.get(topic, *partition) else { return AfterAnswer::Nothing };
        match partition.disk() {
            Disk::Failed => return AfterAnswer::Nothing,
            Disk::KeepsUp => return partition.isr_answered(proposal, answer),
            Disk::HeldUp => {}
        }
        let (replicas, proposal) = (Arc::clone(self), proposal.clone());
        beside.spawn(async move {
            let (dir, asked) = (partition.parent_dir(), proposal.clone());
            let take = move || partition.isr_answered(&asked, answer);
            if let Ok(AfterAnswer::AskAgain) = replicas.io.run_in(dir.as_deref(), take).await {
                // A timer, as between any two tries: nothing tells when the controller would answer otherwise.
                tokio::time::sleep(HELD_UP_RETRY_BACKOFF).await;
                replicas.isr_changes().put_back([proposal]);
            }
        });
        AfterAnswer::Nothing
    }

    /// `replica.lag.time.max.ms`
    pub fn replica_lag_time_max_ms(&self) -> i64 {
        self.config.replica_lag_time_max_ms
    }

    /// Takes those out of ISRs that lag, of the partitions with a log in that directory.
    pub fn shrink_isrs(&self, dir: &Path) {
        self.hosted_in(dir).for_each(|partition| partition.shrink_isr());
    }

    // ---- housekeeping ----

    fn hosted_in(&self, dir: &Path) -> impl Iterator<Item = Arc<Partition>> {
        self.hosted.all().into_iter().filter(move |partition| partition.parent_dir().as_deref() == Some(dir))
    }

    /// Names transactions that are open for longer than any may be, of the partitions with a log in that directory, and counts
    /// the partitions where there are some: nobody ends them, most likely, and readers of committed records wait.
    pub fn look_for_late_transactions(&self, dir: &Path, now_ms: i64) {
        let late_ms = self.config.transaction_max_timeout_ms.saturating_add(LATE_TRANSACTION_BUFFER_MS);
        let mut partitions = 0;
        for partition in self.hosted_in(dir) {
            let Ok(log) = partition.leader_log(None) else { continue };
            let found = log.late_transactions(now_ms, late_ms);
            partitions += u64::from(!found.is_empty());
            for late in found {
                let begins = late.current_txn_first_offset.map_or(-1, |offset| offset.0);
                warn!(
                    "{} has a transaction of producer {} with epoch {} open since offset {begins}, to which nothing was \
                     written for {} ms: kafka-transactions.sh finds out whether it hangs, and can abort it",
                    partition.name(),
                    late.producer_id,
                    late.producer_epoch,
                    now_ms.saturating_sub(late.last_timestamp_ms)
                );
            }
        }
        self.counters.late_transactions_in(dir, partitions);
    }

    /// What fetch sessions are told late: where retention has moved the start of logs in that directory.
    pub fn note_log_start_offsets(&self, dir: &Path) {
        self.hosted_in(dir).for_each(|partition| partition.note_log_start_offset());
    }

    pub fn forget_unused_fetch_sessions(&self) {
        self.sessions.forget_unused((self.around.clock)());
        self.drop_ended_sessions();
    }

    /// Writes every partition's high watermark to its log directory.
    pub async fn checkpoint_high_watermarks(self: &Arc<Self>) {
        let mut writing = JoinSet::new();
        for dir in self.log_dirs.live_dirs() {
            let replicas = Arc::clone(self);
            writing.spawn(async move { replicas.checkpoint_high_watermarks_in(&dir.into()).await });
        }
        writing.join_all().await;
    }

    async fn checkpoint_high_watermarks_in(&self, dir: &Arc<Path>) {
        let (log_dirs, path) = (Arc::clone(&self.log_dirs), Arc::clone(dir));
        let write = move || log_dirs.one(&path).into_iter().for_each(|one| one.checkpoint_high_watermarks());
        if self.io.run_in(Some(dir), write).await.is_err() {
            debug!("high watermarks are not checkpointed: the broker is shutting down");
        }
    }

    /// Stops serving what was in a log directory that failed. Returns those partitions.
    pub async fn log_dir_failed(self: &Arc<Self>, path: &Path) -> Vec<TopicPartition> {
        if self.log_dirs.one(path).is_none() {
            self.counters.late_transactions_in(path, 0);
        }
        // Somebody may have the lock of a log or a partition who still waits for that disk, and the threads of its share may
        // all have gone there: these have their own, and nobody else waits for them.
        let mut giving_up = JoinSet::new();
        let (log_dirs, failed) = (Arc::clone(&self.log_dirs), path.to_owned());
        giving_up.spawn_blocking(move || off_the_network(|| log_dirs.drop_offline_logs(&failed)));
        let offline: Vec<_> = self.hosted.all().into_iter().filter(|partition| partition.has_failed_log()).collect();
        let names: Vec<_> = offline.iter().map(|partition| partition.name().clone()).collect();
        giving_up.spawn_blocking(move || {
            off_the_network(|| offline.iter().for_each(|partition| partition.go_offline()));
            Vec::new()
        });
        let replicas = Arc::clone(self);
        giving_up.spawn_blocking(move || {
            off_the_network(|| replicas.sessions.look_at_all());
            Vec::new()
        });
        self.fetchers.stop(&names);
        for partition in names.into_iter().filter(|name| is_internal_topic(&name.topic)) {
            // Of whatever epoch: it is led no more until the broker restarts.
            self.tell(LeadershipEvent::Resigned { partition, leader_epoch: None }).await;
        }
        giving_up.join_all().await.concat()
    }

    /// Gives the changed settings of topics to their logs, those that are being created and those that nobody has decided
    /// about yet among them.
    pub fn set_topic_configs(&self, configs: &HashMap<Arc<str>, Arc<LogConfig>>) {
        // First: a log that is not there yet is created by who has heard of this.
        self.hear_topic_configs(configs);
        for name in self.partitions_of(configs) {
            self.give_config(&name, &configs[&name.topic]);
        }
    }

    /// What of [`ReplicaManager::set_topic_configs`] is for logs that are being created.
    pub fn hear_topic_configs(&self, configs: &HashMap<Arc<str>, Arc<LogConfig>>) {
        configs.iter().for_each(|(topic, config)| self.creating.hear(topic, config));
    }

    /// Whatever of these topics is here: logs, those that move, and partitions. Takes no log's lock.
    pub fn partitions_of(&self, configs: &HashMap<Arc<str>, Arc<LogConfig>>) -> BTreeSet<TopicPartition> {
        let logs = self.log_dirs.logs().into_iter().chain(self.log_dirs.future_logs());
        let logs = logs.filter(|log| configs.contains_key(&log.topic_partition().topic));
        let hosted = configs.keys().flat_map(|topic| self.hosted.of_topic(topic));
        let hosted = hosted.map(|partition| partition.name().clone());
        logs.map(|log| log.topic_partition().clone()).chain(hosted).collect()
    }

    /// Gives one partition, and its logs, the settings of its topic.
    pub fn give_config(&self, name: &TopicPartition, config: &Arc<LogConfig>) {
        for log in [self.log_dirs.get(name), self.log_dirs.get_future(name)].into_iter().flatten() {
            log.set_config(Arc::clone(config));
        }
        // One whose log has failed serves nothing any more, and may be locked by whoever waits for that disk.
        if let Some(partition) = self.hosted.get(&name.topic, name.partition).filter(|hosted| !hosted.has_failed_log())
        {
            partition.set_config(config);
            self.fetchers.look_whether_throttled(&partition);
        }
    }

    /// `leader.replication.throttled.rate`, `follower.replication.throttled.rate` or
    /// `replica.alter.log.dirs.io.max.bytes.per.second` has changed.
    pub fn set_throttled_rates(&self, config: &ReplicaConfig) {
        self.around.leader_throttle.set_rate(config.leader_replication_throttled_rate);
        self.fetchers.throttle().set_rate(config.follower_replication_throttled_rate);
        self.dir_moves.set_rate(config.alter_log_dirs_bytes_per_second);
    }

    /// Checkpoints the high watermarks of a directory at intervals until shutdown, from the first LeaderAndIsr request on, each
    /// time in its turn.
    pub async fn run_high_watermark_checkpoints(
        self: Arc<Self>,
        dir: PathBuf,
        turn: Arc<tokio::sync::Mutex<()>>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let mut has_decisions = self.has_decisions.subscribe();
        let interval_ms = u64::try_from(self.config.replica_high_watermark_checkpoint_interval_ms).unwrap_or(5_000);
        let dir: Arc<Path> = dir.into();
        tokio::select! {
            _ = has_decisions.wait_for(|has| *has) => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
        loop {
            let in_turn = async {
                // `replica.high.watermark.checkpoint.interval.ms`
                tokio::time::sleep(Duration::from_millis(interval_ms.max(1))).await;
                turn.lock().await
            };
            let _turn = tokio::select! {
                turn = in_turn => turn,
                _ = shutdown.wait_for(|stop| *stop) => return,
            };
            self.checkpoint_high_watermarks_in(&dir).await;
        }
    }
}

fn throttle(bytes_per_second: u64, config: &ReplicaConfig) -> Arc<Throttle> {
    let sample = Duration::from_secs(config.replication_quota_window_size_seconds);
    Arc::new(Throttle::new(bytes_per_second, config.replication_quota_window_num, sample))
}
