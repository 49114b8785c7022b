//! What the controller asks, carried out: partitions lead and follow, stop and go, and the cluster's metadata changes. One
//! request at a time, under the control lock.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use log::{debug, error, info, warn};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::config::log::LogConfig;
use crate::log::Log;
use crate::log::error::LogError;
use crate::metadata::image::{Image, Topic, Update};
use crate::model::internal_topics::is_internal_topic;
use crate::model::lock::{Guard, Lock};
use crate::model::{LeaderEpoch, TOPIC_NAME_BYTES_MAX, TopicId, TopicPartition};
use crate::replica::control::{
    ControlEpochs, ControlRefusal, ControllerFence, Decisions, PartitionOutcomes, PartitionRefusal, StopReplica,
    StopReplicas, judge_stop,
};
use crate::replica::fetcher::fetchers::FetchChange;
use crate::replica::fetcher::state::Start;
use crate::replica::io::ShuttingDown;
use crate::replica::leader::{Decision, DecisionRefusal, Verdict};
use crate::replica::partition::{Disk, Elsewhere, Partition};
use crate::replica::partition_log::PartitionLog;
use crate::replica::replica_manager::ReplicaManager;

/// Decisions handed to one I/O thread at a time: a request about thousands of partitions keeps all threads busy.
const DECISIONS_PER_JOB: usize = 64;

/// How long a request waits for this broker to be registered: as long as a controller waits for its answer, by the
/// default of `request.timeout.ms`.
const REGISTRATION_WAIT_MAX: Duration = Duration::from_secs(30);

/// What the coordinators must know of this broker's partitions, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeadershipEvent {
    /// This broker now leads a partition of an internal topic, and did not before, or not in this epoch.
    Elected { partition: TopicPartition, leader_epoch: LeaderEpoch },
    /// Another broker leads it, or it is being deleted; `leader_epoch` is the one under which that happened.
    Resigned { partition: TopicPartition, leader_epoch: Option<LeaderEpoch> },
    /// The cluster no longer has these partitions, whoever led them.
    Deleted(Vec<TopicPartition>),
}

/// What the settings of topics are, for logs that are about to be created; one for each topic, in their order. Asked once
/// in a request, so that whoever answers may look into ZooKeeper: a new topic's settings are there before its partitions
/// are.
pub trait TopicConfigs: Send + Sync {
    fn of<'a>(&'a self, topics: &'a [Arc<str>]) -> Pin<Box<dyn Future<Output = Vec<Arc<LogConfig>>> + Send + 'a>>;
}

/// Topics whose settings have been asked for, and whose logs are not all there yet. What is heard of them meanwhile is
/// for these logs too.
#[derive(Debug, Default)]
pub(super) struct Creating(Lock<HashMap<Arc<str>, Option<Arc<LogConfig>>>>);

/// What this broker knew of the cluster when a controller, new in its office or new to this registration of the broker, began
/// to tell it: topics that have been deleted in between are not named by anybody any more.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    /// The latest has whatever is left of those before it.
    image: Lock<Option<Arc<Image>>>,
    is_there: Notify,
}

impl Inherited {
    fn put(&self, image: Arc<Image>) {
        *self.image.lock().expect("nothing panics under it") = Some(image);
        self.is_there.notify_one();
    }

    async fn next(&self) -> Arc<Image> {
        loop {
            let image = self.image.lock().expect("nothing panics under it").take();
            match image {
                Some(image) => return image,
                None => self.is_there.notified().await,
            }
        }
    }
}

impl Creating {
    fn topics(&self) -> Guard<'_, HashMap<Arc<str>, Option<Arc<LogConfig>>>> {
        self.0.lock().expect("nothing panics under it")
    }

    fn begin(&self, topics: &[Arc<str>]) {
        self.topics().extend(topics.iter().map(|topic| (Arc::clone(topic), None)));
    }

    pub fn hear(&self, topic: &str, config: &Arc<LogConfig>) {
        if let Some(heard) = self.topics().get_mut(topic) {
            *heard = Some(Arc::clone(config));
        }
    }

    /// What has been heard since they began, or since this was asked last; nothing once they are there and have it all.
    fn heard(&self) -> HashMap<Arc<str>, Arc<LogConfig>> {
        let mut topics = self.topics();
        let heard = topics.iter_mut().filter_map(|(topic, config)| Some((Arc::clone(topic), config.take()?)));
        let heard: HashMap<_, _> = heard.collect();
        if heard.is_empty() {
            topics.clear();
        }
        heard
    }
}

impl ReplicaManager {
    /// Carries out a LeaderAndIsr request. The error stands for the whole request.
    pub async fn become_leader_or_follower(
        self: &Arc<Self>,
        request: Decisions,
        now_ms: i64,
    ) -> Result<PartitionOutcomes, ControlRefusal> {
        let fence = self.admit(request.epochs).await?;
        let Decisions { decisions, same_epoch_allowed, .. } = request;
        let decisions = last_of_each(decisions);
        let names = decisions.iter().map(|(name, _)| name);
        let judging =
            self.beside_if_held_up(names.cloned().collect(), move |this| this.judge_all(decisions, same_epoch_allowed));
        let Ok(Judged { mut outcomes, added, changes }) = judging.await else {
            return Err(ControlRefusal::ShuttingDown);
        };
        self.hosted.insert(added);
        let mut fetch_changes = Vec::new();
        let mut events = Vec::new();
        for (partition, outcome) in self.change(changes, now_ms).await {
            let name = partition.name().clone();
            outcomes.push((
                name,
                outcome.map(|Changed { event, fetch }| {
                    events.extend(event);
                    fetch_changes.extend(fetch.map(|fetch| (partition, fetch)));
                }),
            ));
        }
        self.fetchers.change(fetch_changes);
        self.resume_moves(outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(name, _)| name));
        for event in events {
            self.tell(event).await;
        }
        self.has_decisions.send_replace(true);
        drop(fence);
        Ok(outcomes)
    }

    /// Does at once what looks at partitions of these names, or on an I/O thread while the disk of one does not keep up.
    async fn beside_if_held_up<T: Send + 'static>(
        self: &Arc<Self>,
        names: Vec<TopicPartition>,
        work: impl FnOnce(&Arc<ReplicaManager>) -> T + Send + 'static,
    ) -> Result<T, ShuttingDown> {
        let held_up = names.iter().find(|name| self.is_held_up(&name.topic, name.partition));
        let Some(held_up) = held_up else { return Ok(work(self)) };
        self.at(&held_up.topic, held_up.partition, work).await
    }

    fn judge_all(self: &Arc<Self>, decisions: Vec<(TopicPartition, Decision)>, same_epoch_allowed: bool) -> Judged {
        let mut outcomes = PartitionOutcomes::with_capacity(decisions.len());
        let mut added = Vec::new();
        let mut changes = Vec::new();
        for (name, decision) in decisions {
            let partition = match self.hosted.get(&name.topic, name.partition) {
                Some(partition) if partition.is_offline() => {
                    self.log_dirs.forget_refused(&name);
                    outcomes.push((name, Err(PartitionRefusal::Storage)));
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
            match partition.judge(&decision, log_topic_id, same_epoch_allowed) {
                Verdict::Refuse(why) => {
                    debug!("{name}: leader epoch {} is refused: {why:?}", decision.leader_epoch);
                    self.log_dirs.forget_refused(&name);
                    outcomes.push((name, Err(why.into())));
                }
                Verdict::Acknowledge => {
                    self.log_dirs.forget_refused(&name);
                    self.fetchers.change(vec![(partition, FetchChange::SetTopicId(TopicId::ZERO))]);
                    outcomes.push((name, Ok(())));
                }
                verdict @ (Verdict::Lead | Verdict::Follow | Verdict::AdoptTopicId) => {
                    changes.push(Change { partition, decision, verdict });
                }
            }
        }
        Judged { outcomes, added, changes }
    }

    /// Creates logs and changes roles on the I/O threads. Outcomes come in the order of the changes.
    async fn change(self: &Arc<Self>, changes: Vec<Change>, now_ms: i64) -> Vec<(Arc<Partition>, ChangeOutcome)> {
        let names =
            changes.iter().map(|change| change.partition.name()).filter(|name| self.log_dirs.get(name).is_none());
        let new: BTreeSet<Arc<str>> = names.map(|name| Arc::clone(&name.topic)).collect();
        let new: Vec<Arc<str>> = new.into_iter().collect();
        self.creating.begin(&new);
        let configs = self.topic_configs.of(&new).await;
        let configs: HashMap<Arc<str>, Arc<LogConfig>> = new.into_iter().zip(configs).collect();
        let configs = Arc::new(configs);
        // By directory, so that a disk that does not answer keeps no more threads than its share. New logs are in none yet.
        let mut by_dir: BTreeMap<Option<PathBuf>, Vec<(usize, Change)>> = BTreeMap::new();
        for (number, change) in changes.into_iter().enumerate() {
            let dir = self.log_dirs.get(change.partition.name()).map(|log| log.parent_dir());
            by_dir.entry(dir).or_default().push((number, change));
        }
        let mut jobs = JoinSet::new();
        for (dir, changes) in by_dir {
            let mut changes = changes.into_iter().peekable();
            while changes.peek().is_some() {
                let job: Vec<(usize, Change)> = changes.by_ref().take(DECISIONS_PER_JOB).collect();
                let partitions: Vec<(usize, Arc<Partition>)> =
                    job.iter().map(|(number, change)| (*number, Arc::clone(&change.partition))).collect();
                let (this, configs, dir) = (Arc::clone(self), Arc::clone(&configs), dir.clone());
                jobs.spawn(async move {
                    let io = Arc::clone(&this.io);
                    let carry_out =
                        move || job.iter().map(|(_, change)| this.carry_out(change, &configs, now_ms)).collect();
                    let done = io.run_in(dir.as_deref(), carry_out).await;
                    let outcomes: Vec<ChangeOutcome> = done.unwrap_or_else(|ShuttingDown| {
                        partitions.iter().map(|_| Err(PartitionRefusal::ShuttingDown)).collect()
                    });
                    partitions.into_iter().zip(outcomes).collect::<Vec<_>>()
                });
            }
        }
        let mut done: Vec<_> = jobs.join_all().await.into_iter().flatten().collect();
        loop {
            let heard = self.creating.heard();
            if heard.is_empty() {
                break;
            }
            for name in self.partitions_of(&heard) {
                let config = Arc::clone(&heard[&name.topic]);
                let of = name.clone();
                let give = move |this: &Arc<ReplicaManager>| this.give_config(&of, &config);
                // Without a thread the broker is shutting down.
                let _ = self.at(&name.topic, name.partition, give).await;
            }
        }
        done.sort_by_key(|((number, _), _)| *number);
        done.into_iter().map(|((_, partition), outcome)| (partition, outcome)).collect()
    }

    /// One change of role, with whatever it needs of the disk. What is refused though its disk has not failed is wanted again
    /// once it may be had: the controller asks once.
    fn carry_out(&self, change: &Change, configs: &HashMap<Arc<str>, Arc<LogConfig>>, now_ms: i64) -> ChangeOutcome {
        let Change { partition, decision, verdict } = change;
        let name = partition.name();
        let (outcome, may_pass) = match self.log_for(name, decision, configs, now_ms) {
            Ok(log) => {
                let outcome = change_role(partition, decision, *verdict, &log);
                // A coordinator that is told of an election takes what it can read for all there is.
                log.await_truncation();
                // There was all that it takes: what the log refuses now is for good.
                (outcome, false)
            }
            Err(why) => {
                error!("{name}: leader epoch {} cannot be served: {why}", decision.leader_epoch);
                (Err(refused_by_log(partition, &why)), why.may_pass())
            }
        };
        match outcome {
            Err(PartitionRefusal::Storage) if may_pass && !partition.is_offline() => self.log_dirs.note_refused(name),
            _ => {
                let was_refused = self.log_dirs.forget_refused(name);
                let (local, is_led) = (self.broker(), decision.leader.0 >= 0);
                let may_lead = decision.assignment.first() == Some(&local) && decision.isr.contains(&local);
                if was_refused && outcome.is_ok() && may_lead && !is_led {
                    self.leaderless.send_modify(|leaderless| _ = leaderless.insert(name.clone()));
                }
            }
        }
        outcome
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
                // The controller says once that it is new.
                let is_new = decision.is_new || self.log_dirs.has_refused_new(name);
                self.log_dirs.get_or_create(name, topic_id, config, is_new, now_ms)?
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
    ) -> Result<PartitionOutcomes, ControlRefusal> {
        let fence = self.admit(request.epochs).await?;
        let StopReplicas { partitions, .. } = request;
        let names = partitions.iter().map(|stop| stop.name.clone()).collect();
        let stopping = self.beside_if_held_up(names, move |this| this.stop_all(partitions));
        let Ok((mut outcomes, deleted)) = stopping.await else { return Err(ControlRefusal::ShuttingDown) };
        let Ok(deletions) = self.delete_logs(deleted, now_ms).await else { return Err(ControlRefusal::ShuttingDown) };
        for (stop, deletion) in deletions {
            if let Err(why) = deletion {
                error!("{}: cannot be deleted: {why}", stop.name);
                outcomes.push((stop.name, Err(PartitionRefusal::Storage)));
                continue;
            }
            info!("{} is no longer hosted here and its log is deleted", stop.name);
            if is_internal_topic(&stop.name.topic) {
                let leader_epoch = (stop.leader_epoch.0 >= 0).then_some(stop.leader_epoch);
                self.tell(LeadershipEvent::Resigned { partition: stop.name.clone(), leader_epoch }).await;
            }
            outcomes.push((stop.name, Ok(())));
        }
        drop(fence);
        Ok(outcomes)
    }

    /// Of each directory on threads of its share.
    async fn delete_logs(
        &self,
        stops: Vec<StopReplica>,
        now_ms: i64,
    ) -> Result<Vec<(StopReplica, Result<bool, LogError>)>, ShuttingDown> {
        let mut by_dir: BTreeMap<Option<PathBuf>, Vec<StopReplica>> = BTreeMap::new();
        for stop in stops {
            let dir = self.log_dirs.get(&stop.name).map(|log| log.parent_dir());
            by_dir.entry(dir).or_default().push(stop);
        }
        let mut deleting = JoinSet::new();
        for (dir, stops) in by_dir {
            let (log_dirs, io) = (Arc::clone(&self.log_dirs), Arc::clone(&self.io));
            deleting.spawn(async move {
                let names: Vec<TopicPartition> = stops.iter().map(|stop| stop.name.clone()).collect();
                let deleted = io.run_in(dir.as_deref(), move || log_dirs.delete(&names, now_ms)).await?;
                Ok(stops.into_iter().zip(deleted).collect::<Vec<_>>())
            });
        }
        let mut deleted = Vec::new();
        while let Some(done) = deleting.join_next().await {
            deleted.extend(done.map_err(|_| ShuttingDown)??);
        }
        Ok(deleted)
    }

    /// Gives back what of the replicas is to be deleted; nobody is served from those any more.
    fn stop_all(&self, partitions: Vec<StopReplica>) -> (PartitionOutcomes, Vec<StopReplica>) {
        let mut outcomes = PartitionOutcomes::with_capacity(partitions.len());
        let mut deleted = Vec::new();
        for stop in partitions {
            if stop.name.topic.len() > TOPIC_NAME_BYTES_MAX {
                // Nothing here has such a name.
                outcomes.push((stop.name, Ok(())));
                continue;
            }
            let hosted = self.hosted.get(&stop.name.topic, stop.name.partition);
            let verdict = match &hosted {
                Some(partition) if partition.is_offline() => Err(PartitionRefusal::Storage),
                Some(partition) => judge_stop(stop.leader_epoch, partition.leader_epoch()),
                None => Ok(()),
            };
            if let Err(why) = verdict {
                debug!("{}: stop at leader epoch {} is refused: {why:?}", stop.name, stop.leader_epoch);
                outcomes.push((stop.name, Err(why)));
            } else if stop.delete {
                // A log without a partition is left over from a deletion that this broker missed.
                deleted.push(stop);
            } else {
                self.fetchers.stop([&stop.name]);
                if let Some(partition) = hosted {
                    partition.wake_all();
                }
                outcomes.push((stop.name, Ok(())));
            }
        }
        let names: Vec<TopicPartition> = deleted.iter().map(|stop| stop.name.clone()).collect();
        self.fetchers.stop(&names);
        let closed: Vec<_> = names.iter().filter_map(|name| self.hosted.get(&name.topic, name.partition)).collect();
        self.hosted.remove(&names);
        names.iter().for_each(|name| _ = self.log_dirs.forget_refused(name));
        closed.iter().for_each(|partition| partition.close());
        (outcomes, deleted)
    }

    /// Publishes what an UpdateMetadata request says.
    pub async fn update_metadata(
        self: &Arc<Self>,
        epochs: ControlEpochs,
        update: Update,
    ) -> Result<(), ControlRefusal> {
        let mut fence = self.admit(epochs).await?;
        let before = fence.begins_to_tell(epochs.controller_epoch).then(|| self.around.metadata.image());
        let elsewhere = self.hosted.elsewhere(&update.topics, self.broker());
        let deleted = self.around.metadata.apply(update);
        if let Some(before) = before.filter(|before| before.topics().len() > 0) {
            self.inherited.put(before);
        }
        self.topics_deleted(deleted).await;
        let given_up = if elsewhere.is_empty() { Ok(()) } else { self.give_up(elsewhere).await };
        drop(fence);
        given_up.map_err(|ShuttingDown| ControlRefusal::ShuttingDown)
    }

    async fn give_up(self: &Arc<Self>, elsewhere: Vec<(Arc<Partition>, Elsewhere)>) -> Result<(), ShuttingDown> {
        let names = elsewhere.iter().map(|(partition, _)| partition.name().clone()).collect();
        let giving_up = self.beside_if_held_up(names, move |this| {
            // Whoever has the lock of one that has failed may wait for its disk for ever.
            let reachable = elsewhere.iter().filter(|(partition, _)| !partition.has_failed_log());
            let given_up = reachable.filter_map(|(partition, told)| {
                Some((partition.name().clone(), partition.give_up(*told)?.leader_epoch))
            });
            let given_up: Vec<_> = given_up.collect();
            let names: Vec<TopicPartition> = given_up.iter().map(|(name, _)| name.clone()).collect();
            this.fetchers.stop(&names);
            this.hosted.remove(&names);
            names.iter().for_each(|name| _ = this.log_dirs.forget_refused(name));
            given_up
        });
        for (partition, leader_epoch) in giving_up.await? {
            match leader_epoch {
                Some(epoch) => {
                    info!("{partition} is on other brokers from leader epoch {epoch} on: it is no longer hosted here")
                }
                None => {
                    info!("{partition} is deleted, or is another topic's on other brokers: it is no longer hosted here")
                }
            }
            if is_internal_topic(&partition.topic) {
                self.tell(LeadershipEvent::Resigned { partition, leader_epoch }).await;
            }
        }
        Ok(())
    }

    /// Waits until a controller begins to tell of the cluster, and gives what was known before; for one who waits.
    pub(crate) async fn inherited(&self) -> Arc<Image> {
        self.inherited.next().await
    }

    /// Forgets those of the topics of which nothing has been told since they were found in the metadata, and says how many
    /// partitions they had. What groups have committed of them stays: no controller has said that they are deleted, and a
    /// ZooKeeper that was set back to an earlier state does not have them either.
    pub(crate) async fn forget_topics(&self, topics: &[Arc<Topic>]) -> usize {
        let fence = self.fence.lock().await;
        let forgotten = self.around.metadata.forget(topics);
        self.wake_all(&forgotten);
        drop(fence);
        forgotten.len()
    }

    async fn topics_deleted(&self, deleted: Vec<TopicPartition>) {
        self.wake_all(&deleted);
        if !deleted.is_empty() {
            self.tell(LeadershipEvent::Deleted(deleted)).await;
        }
    }

    fn wake_all(&self, gone: &[TopicPartition]) {
        let mut held_up: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for name in gone {
            let Some(hosted) = self.hosted.get(&name.topic, name.partition) else { continue };
            match (hosted.disk(), hosted.parent_dir()) {
                // It wakes all when it goes offline, and whoever has its lock may wait for its disk for ever.
                (Disk::Failed, _) => {}
                (Disk::HeldUp, Some(dir)) => held_up.entry(dir).or_default().push(hosted),
                (Disk::HeldUp | Disk::KeepsUp, _) => hosted.wake_all(),
            }
        }
        for (dir, hosted) in held_up {
            // Others need not wait until these hear of it. If no thread is free for that disk, fetches that wait find out at their
            // deadlines.
            self.io.offer_in(&dir, move || hosted.iter().for_each(|hosted| hosted.wake_all()));
        }
    }

    /// Lets a request in under the control lock, which is held until it is carried out. While this broker is not
    /// registered, at its start and after its session has run out, nobody knows for which life of it a request is meant: the
    /// request waits for the registration, and only then is it judged.
    async fn admit(
        &self,
        epochs: ControlEpochs,
    ) -> Result<tokio::sync::MutexGuard<'_, ControllerFence>, ControlRefusal> {
        let mut registered = self.registered.clone();
        loop {
            match tokio::time::timeout(REGISTRATION_WAIT_MAX, registered.wait_for(Option::is_some)).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return Err(ControlRefusal::ShuttingDown),
                Err(_) => return Err(ControlRefusal::NotRegistered),
            }
            let mut fence = self.fence.lock().await;
            // The registration may have ended while the request waited for its turn.
            let Some(own) = *registered.borrow() else { continue };
            fence.admit(epochs, own)?;
            if fence.begins(own) {
                // It hears of all that it is to host, and has not heard of what it was to host no more.
                self.log_dirs.forget_all_refused();
            }
            return Ok(fence);
        }
    }

    pub(super) async fn tell(&self, event: LeadershipEvent) {
        if self.events.send(event).await.is_err() {
            debug!("no coordinator listens to leadership changes");
        }
    }
}

/// A request that names a partition twice means what it says last, as for a JVM broker; roles are changed on several
/// threads, so it must not be left to them.
pub(crate) fn last_of_each(decisions: Vec<(TopicPartition, Decision)>) -> Vec<(TopicPartition, Decision)> {
    let mut seen = HashSet::with_capacity(decisions.len());
    let mut last: Vec<_> = decisions.into_iter().rev().filter(|(name, _)| seen.insert(name.clone())).collect();
    last.reverse();
    last
}

/// What a LeaderAndIsr request comes to before anything is changed.
struct Judged {
    outcomes: PartitionOutcomes,
    /// Partitions that are new here.
    added: Vec<Arc<Partition>>,
    changes: Vec<Change>,
}

/// One partition's part of a LeaderAndIsr request that was not refused.
struct Change {
    partition: Arc<Partition>,
    decision: Decision,
    verdict: Verdict,
}

/// One change of role, by the verdict on the decision. Waits for no disk.
pub(crate) fn change_role<L: PartitionLog>(
    partition: &Partition<L>,
    decision: &Decision,
    verdict: Verdict,
    log: &Arc<L>,
) -> ChangeOutcome {
    let name = partition.name();
    let leader_epoch = decision.leader_epoch;
    let is_internal = is_internal_topic(&name.topic);
    match verdict {
        Verdict::Lead => match partition.lead(decision, log) {
            Ok(is_elected) => Ok(Changed {
                event: (is_elected && is_internal)
                    .then(|| LeadershipEvent::Elected { partition: name.clone(), leader_epoch }),
                fetch: (partition.leader().0 == Some(partition.local())).then_some(FetchChange::Stop),
            }),
            Err(why) => {
                error!("{name}: leader epoch {leader_epoch} cannot be recorded: {why}");
                Err(refused_by_log(partition, &why))
            }
        },
        // Any other is followed, alive or not: the metadata may be behind, and the controller says it once. In Kafka such a
        // replica follows nobody until the next election.
        Verdict::Follow if decision.leader.0 < 0 => {
            warn!("{name}: cannot follow broker {}, which is not alive", decision.leader);
            match partition.await_leader(decision, log) {
                Ok(()) => Ok(Changed { event: None, fetch: Some(FetchChange::Stop) }),
                Err(why) => Err(refused_by_log(partition, &why)),
            }
        }
        Verdict::Follow => match partition.follow(decision, log) {
            Ok(false) => Ok(Changed::default()),
            Ok(true) => Ok(Changed {
                event: is_internal
                    .then(|| LeadershipEvent::Resigned { partition: name.clone(), leader_epoch: Some(leader_epoch) }),
                // Only a log that fails in between has no position; it is not fetched, nor served.
                fetch: partition.follower_position(leader_epoch).ok().map(|position| FetchChange::Follow {
                    leader: decision.leader,
                    start: Start {
                        topic_id: decision.topic_id,
                        leader_epoch,
                        position,
                        is_throttled: partition.is_throttled_follower(),
                    },
                }),
            }),
            Err(why) => {
                error!("{name}: leader epoch {leader_epoch} cannot be followed: {why}");
                Err(refused_by_log(partition, &why))
            }
        },
        // The log has taken the id by now.
        Verdict::AdoptTopicId => Ok(Changed { event: None, fetch: Some(FetchChange::SetTopicId(decision.topic_id)) }),
        Verdict::Acknowledge | Verdict::Refuse(_) => Ok(Changed::default()),
    }
}

/// What an error of the log means for the request; one of its disk takes the partition out of service.
fn refused_by_log<L: PartitionLog>(partition: &Partition<L>, why: &LogError) -> PartitionRefusal {
    match why {
        LogError::InconsistentTopicId { .. } => return DecisionRefusal::InconsistentTopicId.into(),
        LogError::StaleLeaderEpoch { .. } => return DecisionRefusal::StaleLeaderEpoch.into(),
        _ => {}
    }
    if why.is_storage_failure() || matches!(why, LogError::Offline { .. }) {
        partition.go_offline();
    }
    PartitionRefusal::Storage
}

/// What else a change of role changes.
#[derive(Default)]
pub(crate) struct Changed {
    pub(crate) event: Option<LeadershipEvent>,
    /// `None` leaves the partition's fetcher as it is.
    pub(crate) fetch: Option<FetchChange>,
}

type ChangeOutcome = Result<Changed, PartitionRefusal>;
