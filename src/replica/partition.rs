//! One hosted partition: its leadership, its log, and those who wait for it. The only owner of all three.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use log::{info, warn};

use crate::codec::writer::FileRegion;
use crate::config::log::LogConfig;
use crate::log::error::LogError;
use crate::log::leader_epochs::EpochEnd;
use crate::log::{AppendInfo, Bounds, FetchedBatches, FirstBatch, Log, OffsetQuery, ReadUntil, TimestampedOffset};
use crate::metadata::cache::MetadataCache;
use crate::metadata::image::Image;
use crate::model::lock::{Guard, Lock};
use crate::model::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, TopicId, TopicPartition};
use crate::record::append::prepare;
use crate::record::append_rules::{AcceptedSets, AppendOrigin};
use crate::replica::append_rules::append_rules;
use crate::replica::counters::ReplicaCounters;
use crate::replica::error::ReplicaError;
use crate::replica::flush::SharedFlush;
use crate::replica::isr_changes::IsrChanges;
use crate::replica::leader::{Decision, FollowerFetch, Leadership, Transition, Verdict, WrongLeadership};
use crate::replica::partition_log::PartitionLog;
use crate::replica::replica_selector;
use crate::replica::replica_selector::Reader;
use crate::replica::throttle::Throttle;
use crate::replica::waiters::{
    Commit, FetchWaiters, Moved, Moves, NotCommitted, OffsetWaiters, ParkedFetch, SessionWatch, WaitsFor,
};

/// How many replicas must have the records before a produce is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequiredAcks {
    /// None: the client waits for no answer.
    None,
    Leader,
    /// All in-sync replicas, of which there must be `min.insync.replicas`.
    AllInSync,
}

/// How records are to be appended.
#[derive(Clone, Copy, Debug)]
pub struct AppendTerms {
    pub accepted_sets: AcceptedSets,
    pub origin: AppendOrigin,
    pub required_acks: RequiredAcks,
    /// The epoch under which the writer learned what it writes: nothing is appended if this broker has not led without a
    /// break since. A client knows none.
    pub expected_leader_epoch: Option<LeaderEpoch>,
}

/// What partitions need to know of the broker around them.
pub struct Surroundings {
    pub local: BrokerId,
    pub replica_lag_time_max: Duration,
    /// False below `inter.broker.protocol.version` 2.1-IV0.
    pub zstd_allowed: bool,
    pub metadata: Arc<MetadataCache>,
    /// What the leaders here want their ISRs to be.
    pub isr_changes: IsrChanges,
    pub counters: Arc<ReplicaCounters>,
    /// Of throttled replicas that are led here.
    pub leader_throttle: Arc<Throttle>,
    /// By which replicas lag; a simulation moves it.
    pub clock: Box<dyn Fn() -> Instant + Send + Sync>,
}

/// Records that are in the leader's log.
#[derive(Debug)]
pub struct Appended {
    pub info: AppendInfo,
    pub leader_epoch: LeaderEpoch,
    /// With `AllInSync`: resolves when they are committed. `None` if they are already.
    pub commit: Option<Commit>,
}

/// What a fetcher asks of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchParams {
    pub fetch_offset: Offset,
    /// -1 unless a follower tells its own.
    pub log_start_offset: Offset,
    pub bytes_max: i32,
    pub current_leader_epoch: Option<LeaderEpoch>,
    pub last_fetched_epoch: Option<LeaderEpoch>,
}

impl FetchParams {
    /// A negative limit is none at all.
    fn bytes_max(&self) -> u32 {
        u32::try_from(self.bytes_max).unwrap_or(0)
    }
}

/// Who fetches, and so how far it may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetcher {
    Consumer {
        read_committed: bool,
        /// Old consumers read from leaders only.
        may_read_from_follower: bool,
    },
    /// Reads up to the log end, from leaders only.
    Follower {
        broker: BrokerId,
        /// Of its registration; -1 when its version of the request has no place for it.
        broker_epoch: BrokerEpoch,
    },
}

impl Fetcher {
    pub fn waits_for(self) -> WaitsFor {
        match self {
            Fetcher::Consumer { .. } => WaitsFor::Committed,
            Fetcher::Follower { .. } => WaitsFor::LogEnd,
        }
    }

    fn leader_only(self) -> bool {
        !matches!(self, Fetcher::Consumer { may_read_from_follower: true, .. })
    }

    fn until(self) -> ReadUntil {
        match self {
            Fetcher::Consumer { read_committed: true, .. } => ReadUntil::LastStableOffset,
            Fetcher::Consumer { .. } => ReadUntil::HighWatermark,
            Fetcher::Follower { .. } => ReadUntil::LogEnd,
        }
    }

    /// Where what it may read ends.
    fn end(self, bounds: &Bounds) -> Offset {
        match self.until() {
            ReadUntil::HighWatermark => bounds.high_watermark,
            ReadUntil::LastStableOffset => bounds.last_stable_offset,
            ReadUntil::LogEnd => bounds.log_end_offset,
        }
    }
}

/// What one fetch may take of one partition.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// What is left of the reply.
    pub bytes_left: u32,
    pub first_batch: FirstBatch,
    /// When a follower asked; `None` when a parked fetch is read again, which says nothing new of the follower.
    pub asked: Option<Instant>,
}

/// What a fetch got from one partition.
#[derive(Debug)]
pub struct Fetched {
    /// `None` when there is nothing to read, or the reply has no room for it.
    pub batches: Option<FetchedBatches>,
    pub bounds: Bounds,
    /// The fetcher's log parted from ours: it must truncate.
    pub diverging: Option<EpochEnd>,
    /// A consumer reads from this replica instead: nothing was read here.
    pub preferred_read_replica: Option<BrokerId>,
    /// Where what the fetcher may read ended, by which a parked fetch knows whether it has moved since.
    pub end: Offset,
    /// What it got counts for the leader's replication quota.
    pub is_throttled: bool,
    /// A follower that is not in the ISR: each of its fetches may let it in, so no session of it leaves this partition out.
    pub is_out_of_sync: bool,
}

impl Fetched {
    /// The bytes to send, if there are any.
    pub fn region(&self) -> Option<&FileRegion> {
        self.batches.as_ref().and_then(|batches| batches.region.as_ref())
    }

    pub fn bytes(&self) -> usize {
        self.region().map_or(0, |region| region.len as usize)
    }

    /// The bytes that count for a fetch that waits for `min_bytes`: whatever lies before the end, as far as the
    /// partition's own limit, whether the reply had room for it or not. `None` if they go on in a later segment, which
    /// ends the wait. Source: kafka 3.9.0-rc3 DelayedFetch.scala (tryComplete).
    pub fn waited_for_bytes(&self, params: &FetchParams) -> Option<u64> {
        match &self.batches {
            Some(batches) if batches.goes_on => None,
            Some(batches) => Some(u64::from(batches.visible_bytes.min(params.bytes_max()))),
            None => Some(0),
        }
    }
}

/// What the controller tells of a partition whose replicas are all on other brokers.
#[derive(Clone, Copy, Debug)]
pub struct Elsewhere {
    /// Zero when the controller keeps no ids.
    pub topic_id: TopicId,
    pub leader_epoch: LeaderEpoch,
    /// Its topic is being deleted, and the leader epoch says nothing.
    pub is_deleted: bool,
}

/// A replica that others have instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// Under which that is so; `None` when the topic is over, and with it its epochs.
    pub leader_epoch: Option<LeaderEpoch>,
}

pub struct Partition<L = Log> {
    name: TopicPartition,
    pub(super) around: Arc<Surroundings>,
    state: Lock<State<L>>,
    pub(super) flushes: SharedFlush,
    /// That of the state, for who may not wait for the lock: somebody may have it who waits for a disk.
    log_at_hand: ArcSwapOption<L>,
    /// As a fetch saw them last, for who may not wait for the log.
    seen_bounds: Mutex<Option<Bounds>>,
    /// Its replica was stopped and deleted here.
    is_closed: AtomicBool,
}

pub(super) struct State<L> {
    pub(super) leadership: Leadership,
    /// `None` until the first decision creates or finds it.
    pub(super) log: Option<Arc<L>>,
    /// As last given to the log while leading, which nobody else moves meanwhile.
    pub(super) high_watermark: Offset,
    /// Its log directory failed: nothing is served until the broker restarts.
    offline: bool,
    /// As sessions were told of it.
    noted_log_start_offset: Offset,
    commits: OffsetWaiters,
    /// Those who wait for every in-sync replica, however few those are.
    replications: OffsetWaiters,
    pub(super) fetches: FetchWaiters,
    deletions: OffsetWaiters,
}

/// How the disk of a partition does, for whoever may not wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disk {
    KeepsUp,
    /// Whoever looks at the partition may wait.
    HeldUp,
    /// Whoever looks at it may wait for ever, and it has nothing to give.
    Failed,
}

impl<L: PartitionLog> Partition<L> {
    pub fn new(name: TopicPartition, around: Arc<Surroundings>) -> Partition<L> {
        let leadership = Leadership::new(around.local);
        let state = State {
            leadership,
            log: None,
            high_watermark: Offset(0),
            offline: false,
            noted_log_start_offset: Offset(0),
            commits: OffsetWaiters::default(),
            replications: OffsetWaiters::default(),
            fetches: FetchWaiters::default(),
            deletions: OffsetWaiters::default(),
        };
        Partition {
            name,
            around,
            state: Lock::new(state),
            flushes: SharedFlush::default(),
            log_at_hand: ArcSwapOption::empty(),
            seen_bounds: Mutex::default(),
            is_closed: AtomicBool::new(false),
        }
    }

    pub fn name(&self) -> &TopicPartition {
        &self.name
    }

    pub fn local(&self) -> BrokerId {
        self.around.local
    }

    /// A panic while the lock is held leaves half-applied state behind, which must not serve: it poisons the partition.
    pub(super) fn state(&self) -> Guard<'_, State<L>> {
        match self.state.lock() {
            Ok(state) => state,
            Err(poisoned) => {
                let mut state = PoisonError::into_inner(poisoned);
                state.offline = true;
                state
            }
        }
    }

    /// Whether the disk of its log does not keep up, so that whoever looks at the partition may wait. One that has failed is not
    /// waited for: what it held is refused without a look. Takes no lock.
    pub fn is_held_up(&self) -> bool {
        self.disk() == Disk::HeldUp
    }

    /// How the disk of its log does, seen at once: one that fails between two looks would be taken for one that keeps up. Takes
    /// no lock.
    pub(super) fn disk(&self) -> Disk {
        let log = self.log_at_hand.load();
        let Some(log) = log.as_ref() else { return Disk::KeepsUp };
        // What fails while it does not keep up stays held up.
        let is_held_up = log.is_held_up();
        match (log.is_offline(), is_held_up) {
            (true, _) => Disk::Failed,
            (false, true) => Disk::HeldUp,
            (false, false) => Disk::KeepsUp,
        }
    }

    /// The entry of `log.dirs` that its log is in. Takes no lock.
    pub(super) fn parent_dir(&self) -> Option<PathBuf> {
        self.log_at_hand.load().as_ref().and_then(|log| log.parent_dir())
    }

    /// Takes no lock if its log has failed: whoever has it may wait for that disk for ever.
    pub fn is_offline(&self) -> bool {
        self.has_failed_log() || self.state().is_offline()
    }

    /// Whether its log, or the directory that it is in, is not served any more. Takes no lock.
    pub(super) fn has_failed_log(&self) -> bool {
        self.log_at_hand.load().as_ref().is_some_and(|log| log.is_offline())
    }

    fn seen_bounds(&self) -> MutexGuard<'_, Option<Bounds>> {
        self.seen_bounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bounds that a fetch saw last, if one has since this broker hosts it. Waits for no disk.
    pub fn last_bounds(&self) -> Option<Bounds> {
        *self.seen_bounds()
    }

    /// That of the state, for who may not wait for the lock.
    pub(super) fn log_at_hand(&self) -> Option<Arc<L>> {
        self.log_at_hand.load_full()
    }

    /// The leader as this partition knows it, and its epoch.
    pub fn leader(&self) -> (Option<BrokerId>, LeaderEpoch) {
        let state = self.state();
        (state.leadership.leader(), state.leadership.leader_epoch())
    }

    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.state().leadership.leader_epoch()
    }

    #[cfg(test)]
    pub(crate) fn looking_at<R>(&self, look: impl FnOnce(&Leadership) -> R) -> R {
        look(&self.state().leadership)
    }

    #[cfg(test)]
    pub(crate) fn is_taken(&self) -> bool {
        self.state.is_taken()
    }

    #[cfg(test)]
    pub fn isr(&self) -> Vec<BrokerId> {
        self.state().leadership.isr().members().to_vec()
    }

    /// The log, whoever leads; `None` before the first decision and when it is offline.
    pub fn log(&self) -> Option<Arc<L>> {
        let state = self.state();
        if state.is_offline() { None } else { state.log.clone() }
    }

    /// The log, if this broker leads in the epoch that the request carries.
    pub fn leader_log(&self, current_leader_epoch: Option<LeaderEpoch>) -> Result<Arc<L>, ReplicaError> {
        self.state().log_for(current_leader_epoch, true)
    }

    pub(super) fn is_alive(&self, broker: BrokerId) -> bool {
        self.around.metadata.image().is_alive(broker)
    }

    // ---- control ----

    /// Decides about a decision of the controller. Nothing changes. `log_topic_id` is the id that the log has, whether
    /// the partition has taken the log up already or not.
    pub fn judge(&self, decision: &Decision, log_topic_id: TopicId, same_epoch_allowed: bool) -> Verdict {
        self.state().leadership.judge(decision, log_topic_id, same_epoch_allowed)
    }

    /// The settings of the topic have changed: what is committed may depend on them.
    pub fn set_config(&self, config: &Arc<LogConfig>) {
        let mut state = self.state();
        let Some(log) = state.log.clone() else { return };
        log.set_config(Arc::clone(config));
        if self.advance_high_watermark(&mut state, &log, config.min_insync_replicas, log.bounds().log_end_offset) {
            state.fetches.moved(Moves::COMMITTED);
        }
    }

    /// Takes over, or goes on, as the leader. True if it was not the leader before, or not of this epoch.
    pub fn lead(&self, decision: &Decision, log: &Arc<L>) -> Result<bool, LogError> {
        let mut state = self.state();
        if state.leadership.is_overtaken(decision) {
            info!("{}: the decision to lead is older than a known change of the ISR and is skipped", self.name);
            return Ok(false);
        }
        // What the log ends with from here on is of this epoch: it refuses what earlier ones admitted. A follower may have
        // records of later epochs than any here, so the log must know where this one began before anybody asks.
        let bounds = log.lead(decision.leader_epoch)?;
        let log_end_offset = bounds.log_end_offset;
        state.log = Some(Arc::clone(log));
        self.log_at_hand.store(Some(Arc::clone(log)));
        let transition = state.leadership.lead(decision, log_end_offset, (self.around.clock)());
        let isr: Vec<String> = decision.isr.iter().map(ToString::to_string).collect();
        info!(
            "Leader {} starts at leader epoch {} from offset {log_end_offset} with partition epoch {}, high watermark {}, \
             ISR [{}]",
            self.name,
            decision.leader_epoch,
            decision.partition_epoch,
            bounds.high_watermark,
            isr.join(",")
        );
        state.high_watermark = bounds.high_watermark;
        let min_isr = log.config().min_insync_replicas;
        self.advance_high_watermark(&mut state, log, min_isr, log_end_offset);
        state.fetches.moved(Moves::ALL);
        Ok(matches!(transition, Transition::Done { new_role, new_epoch } if new_role || new_epoch))
    }

    /// Follows another. True if the leader epoch is new, so that fetching must start over.
    pub fn follow(&self, decision: &Decision, log: &Arc<L>) -> Result<bool, LogError> {
        let mut state = self.state();
        if !state.leadership.is_overtaken(decision) {
            // What this broker admitted as the leader is not its own to append any more.
            log.follow(decision.leader_epoch)?;
        }
        state.log = Some(Arc::clone(log));
        self.log_at_hand.store(Some(Arc::clone(log)));
        let transition = state.leadership.follow(decision);
        let Transition::Done { new_epoch, .. } = transition else {
            info!("{}: the decision to follow is older than a known change of the ISR and is skipped", self.name);
            return Ok(false);
        };
        info!(
            "Follower {} starts at leader epoch {} with partition epoch {}. Current leader is {}",
            self.name, decision.leader_epoch, decision.partition_epoch, decision.leader
        );
        state.answer_all(NotCommitted::NotLeader);
        Ok(new_epoch)
    }

    /// Nobody leads, so the decision is not taken, and may come again. Its epoch is known all the same: nothing that was
    /// admitted under an earlier one is appended any more. The log is kept, so that its high watermark is checkpointed.
    pub fn await_leader(&self, decision: &Decision, log: &Arc<L>) -> Result<(), LogError> {
        let mut state = self.state();
        if !state.leadership.is_overtaken(decision) {
            log.follow(decision.leader_epoch)?;
        }
        let log = state.log.get_or_insert_with(|| Arc::clone(log));
        self.log_at_hand.store(Some(Arc::clone(log)));
        Ok(())
    }

    /// Nobody is served any more: the replica is stopped and deleted.
    pub fn close(&self) {
        let mut state = self.state();
        self.is_closed.store(true, Ordering::Release);
        state.leadership = Leadership::new(self.around.local);
        if let Some(log) = state.log.take() {
            log.end_appends();
        }
        state.answer_all(NotCommitted::NotLeader);
    }

    /// The same for a replica that others have instead, but that its log is kept. `None`, and nothing changes, when it is this
    /// broker's by a later leader epoch.
    pub fn give_up(&self, told: Elsewhere) -> Option<GivenUp> {
        let mut state = self.state();
        let topic_id = state.log.as_ref().and_then(|log| log.topic_id());
        let is_another = !told.topic_id.is_zero() && topic_id.is_some_and(|id| id != told.topic_id);
        let is_over = is_another || told.is_deleted;
        let latest = state.leadership.leader_epoch();
        if state.offline || (!is_over && told.leader_epoch < latest) {
            return None;
        }
        self.is_closed.store(true, Ordering::Release);
        state.leadership = Leadership::new(self.around.local);
        if let Some(log) = state.log.take() {
            // It goes on from there if the replica is assigned to this broker once more. An error says that a later epoch is in
            // force already.
            let _ = log.follow(if is_over { LeaderEpoch(latest.0.saturating_add(1)) } else { told.leader_epoch });
        }
        state.answer_all(NotCommitted::NotLeader);
        Some(GivenUp { leader_epoch: (!is_over).then_some(told.leader_epoch) })
    }

    /// Wakes those who wait; the replica stays.
    pub fn wake_all(&self) {
        self.state().fetches.moved(Moves::ALL);
    }

    pub fn go_offline(&self) {
        let mut state = self.state();
        if !state.offline {
            warn!("{} is in an offline log directory and is not served until the broker restarts", self.name);
            state.offline = true;
            state.answer_all(NotCommitted::Offline);
        }
    }

    // ---- data ----

    /// Appends records as the leader, on the calling thread: it writes to the page cache.
    pub fn append(&self, records: Bytes, terms: AppendTerms, now_ms: i64) -> Result<Appended, ReplicaError> {
        let AppendTerms { accepted_sets, origin, required_acks, expected_leader_epoch } = terms;
        let (log, config, leader_epoch, began) = {
            let state = self.state();
            let log = state.log_for(None, true)?;
            if expected_leader_epoch.is_some_and(|expected| !state.leadership.has_led_since(expected)) {
                return Err(ReplicaError::NotLeaderOrFollower);
            }
            let config = log.config();
            if required_acks == RequiredAcks::AllInSync && !state.leadership.has_min_isr(config.min_insync_replicas) {
                return Err(ReplicaError::NotEnoughReplicas { in_sync: state.leadership.isr().members().len() });
            }
            let began = state.leadership.has_followers().then(&self.around.clock);
            (log, config, state.leadership.leader_epoch(), began)
        };
        let rules = append_rules(&config, origin, accepted_sets, self.around.zstd_allowed);
        let mut prepared = prepare(records, &rules, now_ms)?;
        let bytes = i64::try_from(prepared.size_in_bytes()).unwrap_or(i64::MAX);
        // The partition's lock is free meanwhile: the log refuses the append if another epoch has begun.
        let info =
            log.append_as_leader(&mut prepared, leader_epoch, origin, now_ms).map_err(|error| self.failed(error))?;
        let mut state = self.state();
        // Leadership may have gone, and even come back, since the append: whether the records stay is then for the other
        // leader to say. Elected again without a break, this one still has them. An epoch that the log does not know any more
        // is answered for by the one before it, whose records may have taken their place.
        let are_kept = has_kept(&state, &log, leader_epoch, Offset(info.last_offset.0 + 1));
        if !state.leadership.is_leader() || !are_kept {
            return Err(ReplicaError::NotLeaderOrFollower);
        }
        if !info.duplicate {
            let State { leadership, fetches, .. } = &mut *state;
            // Their sessions leave out a partition of which they have all, until now.
            if let Some(began) = began {
                let polls = fetches.follower_fetches();
                // One that came since may have left out what was being written.
                polls.for_each(|(broker, at)| leadership.follower_polled(broker, at.min(began), info.first_offset));
            }
        }
        let min_isr = config.min_insync_replicas;
        let before = state.high_watermark;
        let has_moved = self.advance_high_watermark(&mut state, &log, min_isr, info.log_end_offset);
        let arrived = if info.duplicate { Moved::Not } else { Moved::By(bytes) };
        let committed = match state.high_watermark >= info.log_end_offset {
            // With what was appended before, and waited for a replica that is not waited for any more.
            true if has_moved && (info.duplicate || before < info.first_offset) => Moved::Unknown,
            // With all that its transaction wrote, to who reads what is committed alone.
            true if prepared.ends_transaction() => Moved::Unknown,
            // Every append counts its own bytes, also when another's, later in the log, has moved the high watermark past
            // it.
            true => arrived,
            false if has_moved => Moved::Unknown,
            false => Moved::Not,
        };
        if !info.duplicate || has_moved {
            state.fetches.moved(Moves { log_end: arrived, committed });
        }
        if required_acks != RequiredAcks::AllInSync {
            return Ok(Appended { info, leader_epoch, commit: None });
        }
        let required = Offset(info.last_offset.0 + 1);
        if state.high_watermark < required {
            let commit = Some(state.commits.park(required));
            return Ok(Appended { info, leader_epoch, commit });
        }
        if !state.leadership.has_min_isr(min_isr) {
            return Err(ReplicaError::NotEnoughReplicasAfterAppend);
        }
        Ok(Appended { info, leader_epoch, commit: None })
    }

    /// Resolves once every in-sync replica has all that the log holds now; `None` if they have. So many there need not be as
    /// `min.insync.replicas` says: nobody writes anything, and who is elected next has it. For who has heard that this broker
    /// leads in that epoch: it fails if it has not led without a break since.
    pub fn all_replicated(&self, expected_leader_epoch: LeaderEpoch) -> Result<Option<Commit>, ReplicaError> {
        let mut state = self.state();
        let log = state.log_for(None, true)?;
        if !state.leadership.has_led_since(expected_leader_epoch) {
            return Err(ReplicaError::NotLeaderOrFollower);
        }
        let end = log.bounds().log_end_offset;
        let is_everywhere = self.in_sync_end(&state, end).is_some_and(|in_sync_end| in_sync_end >= end);
        Ok((state.high_watermark < end && !is_everywhere).then(|| state.replications.park(end)))
    }

    /// Whether the log still has records that were appended in that epoch and end there, exclusive.
    pub(super) fn has_kept(&self, leader_epoch: LeaderEpoch, end: Offset) -> bool {
        let state = self.state();
        state.log.as_deref().is_some_and(|log| has_kept(&state, log, leader_epoch, end))
    }

    fn in_sync_end(&self, state: &State<L>, log_end_offset: Offset) -> Option<Offset> {
        let Surroundings { clock, replica_lag_time_max, .. } = &*self.around;
        state.leadership.in_sync_end(log_end_offset, clock, *replica_lag_time_max, |broker| self.is_alive(broker))
    }

    /// Moves the high watermark to where the known ends allow, and answers who waits for them. True if it moved:
    /// the caller wakes the fetches, since it may know by how many bytes.
    pub(super) fn advance_high_watermark(
        &self,
        state: &mut State<L>,
        log: &L,
        min_isr: i32,
        log_end_offset: Offset,
    ) -> bool {
        let Some(committed) = self.in_sync_end(state, log_end_offset) else { return false };
        state.replications.reached(committed);
        if committed <= state.high_watermark || !state.leadership.has_min_isr(min_isr) {
            return false;
        }
        state.high_watermark = log.update_high_watermark(committed);
        state.commits.reached(committed);
        true
    }

    /// Reads for a fetcher.
    pub fn fetch(
        &self,
        fetcher: Fetcher,
        params: &FetchParams,
        topic_id: TopicId,
        limits: FetchLimits,
    ) -> Result<Fetched, ReplicaError> {
        let (log, leader_epoch, is_in_sync, bounds, diverging) = {
            let state = self.state();
            state.check_topic_id(topic_id)?;
            let log = state.log_for(params.current_leader_epoch, fetcher.leader_only())?;
            if let Fetcher::Follower { broker, .. } = fetcher
                && !state.leadership.is_replica(broker)
            {
                // With an epoch it has heard of an assignment that this leader has not; without one, it is not ours.
                return Err(match params.current_leader_epoch {
                    Some(_) => WrongLeadership::NotAReplica.into(),
                    None => ReplicaError::NotLeaderOrFollower,
                });
            }
            let is_in_sync = match fetcher {
                Fetcher::Follower { broker, .. } => state.leadership.isr().members().contains(&broker),
                Fetcher::Consumer { .. } => true,
            };
            // The end before the read: records that arrive meanwhile do not keep a follower from being caught up.
            let bounds = log.bounds();
            let diverging = diverging_epoch(&*log, &bounds, params)?;
            (log, state.leadership.leader_epoch(), is_in_sync, bounds, diverging)
        };
        *self.seen_bounds() = Some(bounds);
        let end = fetcher.end(&bounds);
        if diverging.is_some() {
            return Ok(Fetched {
                batches: None,
                bounds,
                diverging,
                preferred_read_replica: None,
                end,
                is_throttled: false,
                is_out_of_sync: !is_in_sync,
            });
        }
        let offset = params.fetch_offset;
        // A full reply is sent whatever else there is; before that, it matters how much there is.
        let has_room = limits.bytes_left > 0 || limits.first_batch == FirstBatch::Whole;
        let is_in_range = offset >= bounds.log_start_offset && offset <= bounds.log_end_offset;
        let is_throttled = match fetcher {
            Fetcher::Follower { .. } => {
                let replicas = &log.config().leader_replication_throttled_replicas;
                replicas.contains(self.name.partition, self.around.local.0)
            }
            Fetcher::Consumer { .. } => false,
        };
        let is_held_back =
            is_throttled && !is_in_sync && self.around.leader_throttle.is_exceeded((self.around.clock)());
        let batches = if is_in_range && (offset == end || !has_room || is_held_back) {
            None
        } else {
            let bytes_max = limits.bytes_left.min(params.bytes_max());
            let read = log.read(offset, bytes_max, fetcher.until(), limits.first_batch);
            if let Fetcher::Follower { .. } = fetcher {
                self.check_still(leader_epoch)?;
            }
            Some(read.map_err(|error| self.failed(error))?)
        };
        if let (Fetcher::Follower { broker, broker_epoch }, Some(asked)) = (fetcher, limits.asked) {
            let fetch = FollowerFetch {
                broker,
                broker_epoch,
                leader_epoch,
                fetch_offset: params.fetch_offset,
                log_start_offset: params.log_start_offset,
                leader_log_end_offset: bounds.log_end_offset,
            };
            self.follower_fetched(&fetch, &log, asked)?;
        }
        Ok(Fetched {
            batches,
            bounds,
            diverging: None,
            preferred_read_replica: None,
            end,
            is_throttled,
            is_out_of_sync: !is_in_sync,
        })
    }

    /// Sends a consumer to a follower that is nearer to it, if this broker leads and there is one that has what it asks
    /// for.
    pub fn elsewhere(
        &self,
        reader: &Reader,
        fetcher: Fetcher,
        params: &FetchParams,
        topic_id: TopicId,
        image: &Image,
    ) -> Result<Option<Fetched>, ReplicaError> {
        let (log, preferred) = {
            let state = self.state();
            state.check_topic_id(topic_id)?;
            if !state.leadership.is_leader() {
                return Ok(None);
            }
            let followers = state.leadership.readable_followers(params.fetch_offset, (self.around.clock)());
            let preferred = replica_selector::preferred(reader, self.around.local, &followers, image);
            let Some(preferred) = preferred else { return Ok(None) };
            (state.log_for(params.current_leader_epoch, false)?, preferred)
        };
        let bounds = log.bounds();
        let end = fetcher.end(&bounds);
        Ok(Some(Fetched {
            batches: None,
            bounds,
            diverging: None,
            preferred_read_replica: Some(preferred),
            end,
            is_throttled: false,
            is_out_of_sync: false,
        }))
    }

    /// What was read without the partition's lock may be of another leader's log if another epoch has begun meanwhile.
    /// A follower that takes it for this one's appends, or truncates by it, has then what no leader has.
    fn check_still(&self, leader_epoch: LeaderEpoch) -> Result<(), ReplicaError> {
        let is_still = self.leader_epoch() == leader_epoch;
        if is_still { Ok(()) } else { Err(ReplicaError::NotLeaderOrFollower) }
    }

    /// Takes note of what a follower has. The partition's lock was free since the fetch was admitted: one that was
    /// admitted under another leader epoch says nothing about this one.
    fn follower_fetched(&self, fetch: &FollowerFetch, log: &L, asked: Instant) -> Result<(), ReplicaError> {
        let mut state = self.state();
        state.leadership.follower_fetched(fetch, asked)?;
        // A joining replica counts from now on for what is committed.
        self.expand_isr(&mut state, fetch);
        let min_isr = log.config().min_insync_replicas;
        if self.advance_high_watermark(&mut state, log, min_isr, log.bounds().log_end_offset) {
            state.fetches.moved(Moves::COMMITTED);
        }
        let low_watermark =
            state.leadership.low_watermark(log.bounds().log_start_offset, |broker| self.is_alive(broker));
        state.deletions.reached(low_watermark);
        Ok(())
    }

    /// Whether it is hosted no more: another of its name may be. Takes no lock.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Marks a session whenever what its fetches are told may have changed.
    pub fn watch(&self, session: &Arc<SessionWatch>, slot: u32) {
        self.state().fetches.watch(session, slot);
    }

    pub fn unwatch(&self, session: &SessionWatch, slot: u32) {
        self.state().fetches.unwatch(session, slot);
    }

    /// Looks whether retention has moved the start of the log, which sessions are told.
    pub fn note_log_start_offset(&self) {
        // Whoever waits for a disk waits here, and not with the partition's lock.
        let Some(log) = self.log_at_hand() else { return };
        let start = log.bounds().log_start_offset;
        let mut state = self.state();
        if !state.log.as_ref().is_some_and(|its| Arc::ptr_eq(its, &log)) {
            return;
        }
        if std::mem::replace(&mut state.noted_log_start_offset, start) != start {
            state.fetches.moved(Moves::NONE);
        }
    }

    /// Registers a parked fetch that saw `seen`; wakes it at once if that has changed since.
    pub fn park_fetch(&self, fetch: &Arc<ParkedFetch>, fetcher: Fetcher, seen: Offset) {
        let mut state = self.state();
        match state.log_for(None, fetcher.leader_only()) {
            Ok(log) if fetcher.end(&log.bounds()) == seen => state.fetches.park(fetch, fetcher.waits_for()),
            Ok(_) | Err(_) => fetch.wake(),
        }
    }

    /// Finds an offset. May wait for a disk, unless the earliest or latest offset is asked for.
    /// `read_committed` is `None` for a follower, which sees everything; else whether it reads committed records only.
    pub fn find_offset(
        &self,
        query: OffsetQuery,
        read_committed: Option<bool>,
        current_leader_epoch: Option<LeaderEpoch>,
        leader_only: bool,
    ) -> Result<Option<TimestampedOffset>, ReplicaError> {
        let (log, epoch_start_offset, leader_epoch, bounds) = {
            let state = self.state();
            let log = state.log_for(current_leader_epoch, leader_only)?;
            let bounds = log.bounds();
            (log, state.leadership.epoch_start_offset(), state.leadership.leader_epoch(), bounds)
        };
        let last_fetchable_offset = match read_committed {
            Some(true) => bounds.last_stable_offset,
            Some(false) => bounds.high_watermark,
            None => bounds.log_end_offset,
        };
        // After an election the high watermark may lag behind what consumers were told before; an answer from it would
        // make them go back.
        let is_lagging =
            read_committed.is_some() && epoch_start_offset.is_some_and(|start| start > bounds.high_watermark);
        if query == OffsetQuery::Latest {
            return match is_lagging {
                true => Err(ReplicaError::OffsetNotAvailable),
                false => Ok(Some(TimestampedOffset {
                    timestamp_ms: -1,
                    offset: last_fetchable_offset,
                    leader_epoch: Some(leader_epoch),
                })),
            };
        }
        let found = log.offset_for_timestamp(query);
        self.check_still(leader_epoch)?;
        match found.map_err(|error| self.failed(error))? {
            Some(found) if query == OffsetQuery::Earliest || found.offset < last_fetchable_offset => Ok(Some(found)),
            Some(_) | None if is_lagging => Err(ReplicaError::OffsetNotAvailable),
            Some(_) | None => Ok(None),
        }
    }

    /// Where the records of a leader epoch end here.
    pub fn end_offset_for_epoch(
        &self,
        requested: LeaderEpoch,
        current_leader_epoch: Option<LeaderEpoch>,
        leader_only: bool,
    ) -> Result<EpochEnd, ReplicaError> {
        let state = self.state();
        let log = state.log_for(current_leader_epoch, leader_only)?;
        // Under the lock: it is this leader's log that is asked for.
        Ok(log.end_offset_for_epoch(requested))
    }

    /// Raises the log start offset; `None` deletes everything committed. May wait for a disk. Returns what was asked
    /// for, the low watermark, and what resolves when the low watermark has reached it.
    pub fn delete_records(&self, before: Option<Offset>) -> Result<DeletedRecords, ReplicaError> {
        let (log, leader_epoch) = {
            let state = self.state();
            (state.log_for(None, true)?, state.leadership.leader_epoch())
        };
        let before = before.unwrap_or_else(|| log.bounds().high_watermark);
        log.delete_records(before, leader_epoch).map_err(|error| self.failed(error))?;
        self.note_log_start_offset();
        let mut state = self.state();
        let low_watermark =
            state.leadership.low_watermark(log.bounds().log_start_offset, |broker| self.is_alive(broker));
        let reached = (low_watermark < before).then(|| state.deletions.park(before));
        Ok(DeletedRecords { low_watermark, reached })
    }

    /// The low watermark as it is now.
    pub fn low_watermark(&self) -> Result<Offset, ReplicaError> {
        let state = self.state();
        let log = state.log_for(None, true)?;
        Ok(state.leadership.low_watermark(log.bounds().log_start_offset, |broker| self.is_alive(broker)))
    }

    /// An error of the log, after which the partition may no longer be served.
    pub(super) fn failed(&self, error: LogError) -> ReplicaError {
        if error.is_storage_failure() || matches!(error, LogError::Offline { .. }) {
            warn!("{}: {error}", self.name);
            self.go_offline();
        }
        error.into()
    }
}

/// The outcome of a deletion of records.
#[derive(Debug)]
pub struct DeletedRecords {
    pub low_watermark: Offset,
    /// Resolves when the low watermark has reached the offset asked for; `None` if it has.
    pub reached: Option<Commit>,
}

fn has_kept<L: PartitionLog>(state: &State<L>, log: &L, leader_epoch: LeaderEpoch, end: Offset) -> bool {
    state.leadership.leader_epoch() == leader_epoch || {
        let of_epoch = log.end_offset_for_epoch(leader_epoch);
        of_epoch.epoch == leader_epoch && of_epoch.end_offset >= end
    }
}

impl<L: PartitionLog> State<L> {
    /// The log, after the checks that every request makes: storage, leader epoch, role.
    fn log_for(&self, current_leader_epoch: Option<LeaderEpoch>, leader_only: bool) -> Result<Arc<L>, ReplicaError> {
        if self.is_offline() {
            return Err(ReplicaError::Offline);
        }
        self.leadership.check_epoch(current_leader_epoch)?;
        if leader_only {
            self.leadership.check_leader(None)?;
        }
        self.log.clone().ok_or(ReplicaError::NotLeaderOrFollower)
    }

    /// Before anything else of a fetch: another incarnation of the topic is no partition that the fetcher knows.
    fn check_topic_id(&self, topic_id: TopicId) -> Result<(), ReplicaError> {
        let known = self.log.as_ref().filter(|_| !topic_id.is_zero()).and_then(|log| log.topic_id());
        if known.is_some_and(|known| known != topic_id) { Err(ReplicaError::InconsistentTopicId) } else { Ok(()) }
    }

    pub(super) fn is_offline(&self) -> bool {
        self.offline || self.log.as_ref().is_some_and(|log| log.is_offline())
    }

    fn answer_all(&mut self, why: NotCommitted) {
        self.commits.fail_all(why);
        self.replications.fail_all(why);
        self.deletions.fail_all(why);
        self.fetches.moved(Moves::ALL);
    }
}

/// Where the fetcher's log parts from this one, if it does (KIP-595's truncation on fetch).
fn diverging_epoch(
    log: &impl PartitionLog,
    bounds: &Bounds,
    params: &FetchParams,
) -> Result<Option<EpochEnd>, ReplicaError> {
    let Some(last_fetched_epoch) = params.last_fetched_epoch else { return Ok(None) };
    let end = log.end_offset_for_epoch(last_fetched_epoch);
    if end.end_offset.0 < 0 || end.epoch.0 < 0 {
        return Err(ReplicaError::UnknownFetchedEpoch);
    }
    if params.fetch_offset < bounds.log_start_offset {
        return Err(ReplicaError::Log(LogError::OffsetOutOfRange {
            offset: params.fetch_offset,
            log_start_offset: bounds.log_start_offset,
            log_end_offset: bounds.log_end_offset,
        }));
    }
    let parted = end.epoch < last_fetched_epoch || end.end_offset < params.fetch_offset;
    Ok(parted.then_some(end))
}
