//! The partitions that this broker hosts: who leads them, which replicas are in sync, what is committed, who waits.
//!
//! Invariants: a `Partition` is the only owner of its leadership and ISR; the high watermark of a leader only moves
//! forward; every control request is fenced by broker epoch and controller epoch before it changes anything, and every
//! partition by its leader epoch. Locks are taken in the order control, partition, log; of these only the control lock,
//! which no client request takes, is held across an await.
//! Deliberately knows nothing of api versions, of clients and of ZooKeeper.

use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use log::{debug, error, info, warn};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::codec::writer::FileRegion;
use crate::config::log::LogConfig;
use crate::config::metadata_version::MetadataVersion;
use crate::config::sections::ReplicaConfig;
use crate::log::dirs::LogDirs;
use crate::log::error::LogError;
use crate::log::{Log, OffsetQuery, TimestampedOffset};
use crate::metadata::cache::MetadataCache;
use crate::metadata::image::Update;
use crate::model::internal_topics::is_internal_topic;
use crate::model::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, TopicId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::record::append::{AcceptedSets, AppendOrigin};
use crate::replica::cached::{begins_cached, is_cached, read_ahead};
use crate::replica::control::{ControllerFence, LeaderAndIsr, Sender, StopReplicas, judge_stop};
use crate::replica::error::ReplicaError;
use crate::replica::hosted::Hosted;
use crate::replica::io::IoThreads;
use crate::replica::leader::{Decision, Verdict};
use crate::replica::partition::{
    Appended, DeletedRecords, FetchParams, Fetched, Fetcher, Partition, RequiredAcks, Surroundings,
};
use crate::replica::waiters::ParkedFetch;

mod append_rules;
mod cached;
pub mod control;
pub mod error;
mod hosted;
pub mod io;
pub mod leader;
pub mod partition;
pub mod waiters;

#[cfg(test)]
mod tests;

/// Leadership changes that coordinators wait to hear of, at most this many untold.
const LEADERSHIP_EVENTS_MAX: usize = 4096;
/// Decisions handed to one I/O thread at a time: a request about thousands of partitions keeps all threads busy.
const DECISIONS_PER_JOB: usize = 64;

/// What the coordinators must know of this broker's partitions, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeadershipEvent {
    /// This broker now leads a partition of an internal topic, and did not before.
    Elected { partition: TopicPartition, leader_epoch: LeaderEpoch },
    /// Another broker leads it, or it is being deleted; `leader_epoch` is the one under which that happened.
    Resigned { partition: TopicPartition, leader_epoch: Option<LeaderEpoch> },
    /// The cluster no longer has these partitions, whoever led them.
    Deleted(Vec<TopicPartition>),
}

/// What a topic's settings are, for a log that is about to be created. Asked once for a topic in a request, so that
/// whoever answers may look into ZooKeeper: a new topic's settings are there before its partitions are.
pub trait TopicConfigs: Send + Sync {
    fn of<'a>(&'a self, topic: &'a str) -> Pin<Box<dyn Future<Output = Arc<LogConfig>> + Send + 'a>>;
}

/// All partitions hosted by this broker.
pub struct ReplicaManager {
    around: Arc<Surroundings>,
    config: ReplicaConfig,
    hosted: Hosted,
    log_dirs: Arc<LogDirs>,
    topic_configs: Arc<dyn TopicConfigs>,
    io: Arc<IoThreads>,
    /// The control lock: one request of the controller at a time.
    fence: tokio::sync::Mutex<ControllerFence>,
    /// Of the current registration in ZooKeeper; -1 before the first.
    broker_epoch: AtomicI64,
    events: mpsc::Sender<LeadershipEvent>,
    /// True once the controller has told which partitions live here: only then are high watermarks checkpointed, or
    /// those of partitions not heard of yet would be lost.
    has_decisions: watch::Sender<bool>,
}

/// What one fetch asks of one partition.
#[derive(Clone, Debug)]
pub struct PartitionQuery {
    pub topic: Arc<str>,
    pub partition: i32,
    /// Zero when the fetcher names topics.
    pub topic_id: TopicId,
    pub params: FetchParams,
}

/// One fetch over many partitions.
#[derive(Clone, Debug)]
pub struct FetchQuery {
    pub fetcher: Fetcher,
    /// It waits until there are so many bytes.
    pub min_bytes: usize,
    pub bytes_max: u32,
    /// The first batch is returned even if it is larger than all limits, so that a fetcher is never stuck.
    pub at_least_one_batch: bool,
    pub partitions: Vec<PartitionQuery>,
}

/// How records are to be appended.
#[derive(Clone, Copy, Debug)]
pub struct AppendTerms {
    pub accepted_sets: AcceptedSets,
    pub origin: AppendOrigin,
    pub required_acks: RequiredAcks,
}

impl ReplicaManager {
    /// The second value tells of leadership changes; whoever connects the coordinators drains it.
    pub fn new(
        broker: BrokerId,
        config: ReplicaConfig,
        metadata: Arc<MetadataCache>,
        log_dirs: Arc<LogDirs>,
        topic_configs: Arc<dyn TopicConfigs>,
        io: Arc<IoThreads>,
    ) -> (Arc<ReplicaManager>, mpsc::Receiver<LeadershipEvent>) {
        let (events, told) = mpsc::channel(LEADERSHIP_EVENTS_MAX);
        let around = Arc::new(Surroundings {
            local: broker,
            replica_lag_time_max_ms: config.replica_lag_time_max_ms,
            zstd_allowed: config.inter_broker_protocol_version >= MetadataVersion::V2_1_IV0,
            metadata,
        });
        let replicas = ReplicaManager {
            around,
            config,
            hosted: Hosted::default(),
            log_dirs,
            topic_configs,
            io,
            fence: tokio::sync::Mutex::default(),
            broker_epoch: AtomicI64::new(-1),
            events,
            has_decisions: watch::Sender::new(false),
        };
        (Arc::new(replicas), told)
    }

    pub fn broker(&self) -> BrokerId {
        self.around.local
    }

    /// Called with each registration in ZooKeeper, before the controller can have heard of it.
    pub fn set_broker_epoch(&self, epoch: BrokerEpoch) {
        self.broker_epoch.store(epoch.0, Ordering::Release);
    }

    pub fn broker_epoch(&self) -> BrokerEpoch {
        BrokerEpoch(self.broker_epoch.load(Ordering::Acquire))
    }

    /// A hosted partition, or why there is none.
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

    /// Every hosted partition, in no particular order.
    pub fn partitions(&self) -> Vec<Arc<Partition>> {
        self.hosted.all()
    }

    pub fn log_dirs(&self) -> &Arc<LogDirs> {
        &self.log_dirs
    }

    pub fn io(&self) -> &Arc<IoThreads> {
        &self.io
    }

    // ---- the controller's requests ----

    /// Carries out a LeaderAndIsr request. The error stands for the whole request.
    pub async fn become_leader_or_follower(
        self: &Arc<Self>,
        request: LeaderAndIsr,
        now_ms: i64,
    ) -> Result<Vec<(TopicPartition, ErrorCode)>, ErrorCode> {
        let mut fence = self.fence.lock().await;
        fence.admit(request.sender, self.broker_epoch())?;
        let mut errors = Vec::with_capacity(request.decisions.len());
        let mut added = Vec::new();
        let mut changes = Vec::new();
        for (name, decision) in request.decisions {
            let partition = match self.hosted.get(&name.topic, name.partition) {
                Some(partition) if partition.is_offline() => {
                    errors.push((name, ErrorCode::KafkaStorageError));
                    continue;
                }
                Some(partition) => partition,
                None => {
                    let partition = Arc::new(Partition::new(name.clone(), Arc::clone(&self.around)));
                    added.push(Arc::clone(&partition));
                    partition
                }
            };
            let log_topic_id = self.log_dirs.get(&name).and_then(|log| log.topic_id()).unwrap_or(TopicId::ZERO);
            match partition.judge(&decision, log_topic_id, request.same_epoch_allowed) {
                Verdict::Refuse(error) => {
                    debug!("{name}: leader epoch {} is refused: {error}", decision.leader_epoch);
                    errors.push((name, error));
                }
                Verdict::Acknowledge => errors.push((name, ErrorCode::None)),
                verdict @ (Verdict::Lead | Verdict::Follow | Verdict::AdoptTopicId) => {
                    changes.push(Change { partition, decision, verdict });
                }
            }
        }
        self.hosted.insert(added);
        for (name, outcome) in self.change(changes, now_ms).await {
            let event = match outcome {
                Ok(Some(event)) => Some(event),
                Ok(None) => None,
                Err(error) => {
                    errors.push((name, error));
                    continue;
                }
            };
            errors.push((name, ErrorCode::None));
            if let Some(event) = event {
                self.tell(event).await;
            }
        }
        self.has_decisions.send_replace(true);
        drop(fence);
        Ok(errors)
    }

    /// Creates logs and changes roles on the I/O threads. Outcomes come in the order of the changes.
    async fn change(self: &Arc<Self>, changes: Vec<Change>, now_ms: i64) -> Vec<(TopicPartition, ChangeOutcome)> {
        let mut configs: HashMap<Arc<str>, Arc<LogConfig>> = HashMap::new();
        for change in &changes {
            let name = change.partition.name();
            if !configs.contains_key(&name.topic) && self.log_dirs.get(name).is_none() {
                configs.insert(Arc::clone(&name.topic), self.topic_configs.of(&name.topic).await);
            }
        }
        let configs = Arc::new(configs);
        let mut jobs = JoinSet::new();
        let mut changes = changes.into_iter().peekable();
        let mut number = 0;
        while changes.peek().is_some() {
            let job: Vec<Change> = changes.by_ref().take(DECISIONS_PER_JOB).collect();
            let names: Vec<TopicPartition> = job.iter().map(|change| change.partition.name().clone()).collect();
            let this = Arc::clone(self);
            let configs = Arc::clone(&configs);
            jobs.spawn(async move {
                let io = Arc::clone(&this.io);
                let carry_out = move || job.iter().map(|change| this.carry_out(change, &configs, now_ms)).collect();
                let done = io.run(carry_out).await;
                let outcomes: Vec<ChangeOutcome> =
                    done.unwrap_or_else(|_| vec![Err(ErrorCode::UnknownServerError); names.len()]);
                (number, names.into_iter().zip(outcomes).collect::<Vec<_>>())
            });
            number += 1;
        }
        let mut done = jobs.join_all().await;
        done.sort_by_key(|(number, _)| *number);
        done.into_iter().flat_map(|(_, outcomes)| outcomes).collect()
    }

    /// One change of role, with whatever it needs of the disk.
    fn carry_out(&self, change: &Change, configs: &HashMap<Arc<str>, Arc<LogConfig>>, now_ms: i64) -> ChangeOutcome {
        let Change { partition, decision, verdict } = change;
        let name = partition.name();
        let log = match self.log_for(name, decision, configs, now_ms) {
            Ok(log) => log,
            Err(why) => {
                error!("{name}: leader epoch {} cannot be served: {why}", decision.leader_epoch);
                return Err(refused_by_log(partition, &why));
            }
        };
        let leader_epoch = decision.leader_epoch;
        let is_internal = is_internal_topic(&name.topic);
        match verdict {
            Verdict::Lead => match partition.lead(decision, &log, now_ms) {
                Ok(is_new_leader) => Ok((is_new_leader && is_internal)
                    .then(|| LeadershipEvent::Elected { partition: name.clone(), leader_epoch })),
                Err(why) => {
                    error!("{name}: leader epoch {leader_epoch} cannot be recorded: {why}");
                    Err(refused_by_log(partition, &why))
                }
            },
            Verdict::Follow if !self.around.metadata.image().is_alive(decision.leader) => {
                warn!("{name}: cannot follow broker {}, which is not alive", decision.leader);
                partition.keep_log(&log);
                Ok(None)
            }
            Verdict::Follow => {
                let is_new_epoch = partition.follow(decision, &log);
                Ok((is_new_epoch && is_internal)
                    .then(|| LeadershipEvent::Resigned { partition: name.clone(), leader_epoch: Some(leader_epoch) }))
            }
            // The log has taken the id by now.
            Verdict::AdoptTopicId | Verdict::Acknowledge | Verdict::Refuse(_) => Ok(None),
        }
    }

    /// The partition's log, created if there is none, with the topic id that the controller gives.
    fn log_for(
        &self,
        name: &TopicPartition,
        decision: &Decision,
        configs: &HashMap<Arc<str>, Arc<LogConfig>>,
        now_ms: i64,
    ) -> Result<Arc<Log>, LogError> {
        let topic_id = (!decision.topic_id.is_zero()).then_some(decision.topic_id);
        let log = match self.log_dirs.get(name) {
            Some(log) => log,
            None => {
                let config = configs.get(&name.topic).cloned().unwrap_or_default();
                self.log_dirs.get_or_create(name, topic_id, config, decision.is_new, now_ms)?
            }
        };
        match topic_id {
            Some(id) if log.topic_id().is_none() => log.assign_topic_id(id)?,
            Some(_) | None => {}
        }
        Ok(log)
    }

    /// Carries out a StopReplica request. The error stands for the whole request.
    pub async fn stop_replicas(
        self: &Arc<Self>,
        request: StopReplicas,
        now_ms: i64,
    ) -> Result<Vec<(TopicPartition, ErrorCode)>, ErrorCode> {
        let mut fence = self.fence.lock().await;
        fence.admit(request.sender, self.broker_epoch())?;
        let mut errors = Vec::with_capacity(request.partitions.len());
        let mut deleted = Vec::new();
        for stop in request.partitions {
            let hosted = self.hosted.get(&stop.name.topic, stop.name.partition);
            let verdict = match &hosted {
                Some(partition) if partition.is_offline() => Err(ErrorCode::KafkaStorageError),
                Some(partition) => judge_stop(stop.leader_epoch, partition.leader_epoch()),
                None => Ok(()),
            };
            if let Err(error) = verdict {
                debug!("{}: stop at leader epoch {} is refused: {error}", stop.name, stop.leader_epoch);
                errors.push((stop.name, error));
            } else if stop.delete {
                // A log without a partition is left over from a deletion that this broker missed.
                deleted.push(stop);
            } else {
                if let Some(partition) = hosted {
                    partition.wake_all();
                }
                errors.push((stop.name, ErrorCode::None));
            }
        }
        let names: Vec<TopicPartition> = deleted.iter().map(|stop| stop.name.clone()).collect();
        let closed: Vec<_> = names.iter().filter_map(|name| self.hosted.get(&name.topic, name.partition)).collect();
        self.hosted.remove(&names);
        closed.iter().for_each(|partition| partition.close());
        let log_dirs = Arc::clone(&self.log_dirs);
        let delete = move || log_dirs.delete(&names, now_ms);
        let Ok(outcomes) = self.io.run(delete).await else { return Err(ErrorCode::UnknownServerError) };
        for (stop, outcome) in deleted.into_iter().zip(outcomes) {
            if let Err(why) = outcome {
                error!("{}: cannot be deleted: {why}", stop.name);
                errors.push((stop.name, ErrorCode::KafkaStorageError));
                continue;
            }
            info!("{} is no longer hosted here and its log is deleted", stop.name);
            if is_internal_topic(&stop.name.topic) {
                let leader_epoch = (stop.leader_epoch.0 >= 0).then_some(stop.leader_epoch);
                self.tell(LeadershipEvent::Resigned { partition: stop.name.clone(), leader_epoch }).await;
            }
            errors.push((stop.name, ErrorCode::None));
        }
        drop(fence);
        Ok(errors)
    }

    /// Publishes what an UpdateMetadata request says.
    pub async fn update_metadata(&self, sender: Sender, update: &Update) -> Result<(), ErrorCode> {
        let mut fence = self.fence.lock().await;
        fence.admit(sender, self.broker_epoch())?;
        let deleted = self.around.metadata.apply(update);
        if !deleted.is_empty() {
            self.tell(LeadershipEvent::Deleted(deleted)).await;
        }
        drop(fence);
        Ok(())
    }

    async fn tell(&self, event: LeadershipEvent) {
        if self.events.send(event).await.is_err() {
            debug!("no coordinator listens to leadership changes");
        }
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
        let partition = self.partition(topic, partition)?;
        partition.append(records, terms.accepted_sets, terms.origin, terms.required_acks, now_ms)
    }

    /// Reads from many partitions, in their order. Waits until there is enough to read, until a partition has something
    /// to tell, or until the deadline. One outcome for each partition asked for.
    pub async fn fetch(
        &self,
        query: &FetchQuery,
        deadline: Instant,
        now_ms: i64,
    ) -> Vec<Result<Fetched, ReplicaError>> {
        let mut is_last = query.partitions.is_empty();
        let outcomes = loop {
            let outcomes = self.read(query, now_ms);
            let bytes: usize = outcomes.iter().flatten().map(Fetched::bytes).sum();
            let must_tell =
                outcomes.iter().any(|outcome| outcome.as_ref().is_ok_and(|fetched| fetched.diverging.is_some()))
                    || outcomes.iter().any(Result::is_err);
            if is_last || must_tell || bytes >= query.min_bytes {
                break outcomes;
            }
            let missing_bytes = i64::try_from(query.min_bytes - bytes).unwrap_or(i64::MAX);
            let parked = ParkedFetch::new(missing_bytes);
            for (asked, outcome) in query.partitions.iter().zip(&outcomes) {
                match (self.hosted.get(&asked.topic, asked.partition), outcome) {
                    (Some(partition), Ok(fetched)) => partition.park_fetch(&parked, query.fetcher, fetched.end),
                    // It went away since it was read.
                    (None, _) | (_, Err(_)) => parked.wake(),
                }
            }
            // What was read is dropped: it is read again with what has arrived since.
            drop(outcomes);
            is_last = !parked.wait(deadline).await;
            parked.finish();
        };
        self.warm_up(&outcomes).await;
        outcomes
    }

    fn read(&self, query: &FetchQuery, now_ms: i64) -> Vec<Result<Fetched, ReplicaError>> {
        let mut bytes_left = query.bytes_max;
        let mut at_least_one_batch = query.at_least_one_batch;
        let read_one = |asked: &PartitionQuery| {
            let partition = self.partition(&asked.topic, asked.partition)?;
            let fetched = partition.fetch(
                query.fetcher,
                &asked.params,
                asked.topic_id,
                bytes_left,
                at_least_one_batch,
                now_ms,
            )?;
            let bytes = u32::try_from(fetched.bytes()).unwrap_or(u32::MAX);
            at_least_one_batch &= bytes == 0;
            bytes_left = bytes_left.saturating_sub(bytes);
            Ok(fetched)
        };
        query.partitions.iter().map(read_one).collect()
    }

    /// Lets I/O threads bring what is not cached into memory, so that sending it holds up no connection; and what a
    /// sequential reader will ask for next, so that finding it holds up none either.
    async fn warm_up(&self, outcomes: &[Result<Fetched, ReplicaError>]) {
        for fetched in outcomes.iter().flatten() {
            let (Some(batches), Some(region)) = (&fetched.batches, fetched.region()) else { continue };
            if !is_cached(region) {
                let region = region.clone();
                match self.io.run(move || read_ahead(&region)).await {
                    Ok(Ok(())) => {}
                    // Sending it will meet the same error, and ends the connection.
                    Ok(Err(why)) => warn!("read ahead of a fetch: {why}"),
                    Err(_) => return,
                }
            }
            if batches.reached_limit {
                continue;
            }
            let next = FileRegion { position: region.position + u64::from(region.len), ..region.clone() };
            if !begins_cached(&next) {
                // It is only a matter of speed: the next fetch looks again.
                let _ = self.io.offer(move || drop(read_ahead(&next)));
            }
        }
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
        let partition = self.partition(topic, partition)?;
        match query {
            OffsetQuery::Latest | OffsetQuery::Earliest => {
                partition.find_offset(query, read_committed, current_leader_epoch, leader_only)
            }
            OffsetQuery::MaxTimestamp | OffsetQuery::AtOrAfter(_) => {
                self.io
                    .run(move || partition.find_offset(query, read_committed, current_leader_epoch, leader_only))
                    .await?
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
        let partition = self.partition(topic, partition)?;
        self.io.run(move || partition.delete_records(before)).await?
    }

    // ---- housekeeping ----

    /// Writes every partition's high watermark to its log directory.
    pub async fn checkpoint_high_watermarks(&self) {
        let log_dirs = Arc::clone(&self.log_dirs);
        if self.io.run(move || log_dirs.checkpoint_high_watermarks()).await.is_err() {
            debug!("high watermarks are not checkpointed: the broker is shutting down");
        }
    }

    /// Stops serving what was in a log directory that failed. Returns those partitions, for the controller to be told.
    pub async fn log_dir_failed(&self, path: &Path) -> Vec<TopicPartition> {
        let log_dirs = Arc::clone(&self.log_dirs);
        let path = path.to_owned();
        let dropped = self.io.run(move || log_dirs.drop_offline_logs(&path)).await.unwrap_or_default();
        for partition in self.hosted.all() {
            if partition.is_offline() {
                partition.go_offline();
            }
        }
        dropped
    }

    /// Gives a topic's changed settings to its logs.
    pub fn set_topic_config(&self, topic: &str, config: &Arc<LogConfig>, now_ms: i64) {
        for partition in self.hosted.of_topic(topic) {
            partition.set_config(config, now_ms);
        }
    }

    /// Checkpoints high watermarks at intervals until shutdown, from the first LeaderAndIsr request on.
    pub async fn run_high_watermark_checkpoints(self: Arc<Self>, mut shutdown: watch::Receiver<bool>) {
        let mut has_decisions = self.has_decisions.subscribe();
        let interval_ms = u64::try_from(self.config.replica_high_watermark_checkpoint_interval_ms).unwrap_or(5_000);
        tokio::select! {
            _ = has_decisions.wait_for(|has| *has) => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
        loop {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(interval_ms.max(1))) => {}
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
            self.checkpoint_high_watermarks().await;
        }
    }
}

/// One partition's part of a LeaderAndIsr request that was not refused.
struct Change {
    partition: Arc<Partition>,
    decision: Decision,
    verdict: Verdict,
}

/// The code for an error of the log; one of its disk takes the partition out of service.
fn refused_by_log(partition: &Partition, why: &LogError) -> ErrorCode {
    if let LogError::InconsistentTopicId { .. } = why {
        return ErrorCode::InconsistentTopicId;
    }
    if why.is_storage_failure() || matches!(why, LogError::Offline { .. }) {
        partition.go_offline();
    }
    ErrorCode::KafkaStorageError
}

type ChangeOutcome = Result<Option<LeadershipEvent>, ErrorCode>;
