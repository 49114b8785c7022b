//! The group coordinator as requests see it, over the shards of `__consumer_offsets`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use log::warn;
use tokio::sync::{mpsc, watch};

use crate::config::sections::GroupConfig;
use crate::coordinator::counters::{GroupCounters, add, count};
use crate::coordinator::group::error::GroupError;
use crate::coordinator::group::groups::Groups;
use crate::coordinator::group::offsets::GroupOffsets;
use crate::coordinator::group::requests::{Caller, Commit, CommitAnswer, Join, JoinAnswer, Leaving, Sync, SyncAnswer};
use crate::coordinator::group::state::{GroupDescription, GroupState};
use crate::coordinator::group::turn::{Answer, GroupEffect};
use crate::coordinator::partitioner::partition_for;
use crate::coordinator::refusals::Refusals;
use crate::coordinator::shard::{Clock, NotServing, Shard, ShardEvent, Shards, TopicTerms, now};
use crate::coordinator::topic_log::CoordinatorLog;
use crate::model::lock::Guard;
use crate::model::shown::shown;
use crate::model::{Offset, ProducerId, TopicPartition};
use crate::record::build::TransactionOutcome;

/// The handle of the group coordinator.
pub struct GroupCoordinator {
    shards: Arc<Shards<Groups>>,
    counters: Arc<GroupCounters>,
}

/// A group as ListGroups shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupOverview<'a> {
    pub(crate) group_id: &'a str,
    pub(crate) protocol_type: &'a str,
    pub(crate) state: GroupState,
}

/// How much is coordinated now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupCensus {
    pub groups: usize,
    pub members: usize,
    pub offsets: usize,
    /// In memory, about.
    pub bytes: u64,
}

impl From<NotServing> for GroupError {
    fn from(why: NotServing) -> GroupError {
        match why {
            NotServing::Stopped => GroupError::CoordinatorNotAvailable,
            NotServing::Loading => GroupError::CoordinatorLoadInProgress,
            NotServing::NotOwned => GroupError::NotCoordinator,
        }
    }
}

impl GroupCoordinator {
    /// `partition_count` is what `__consumer_offsets` has in ZooKeeper, or will have when it is created.
    pub fn new(
        settings: GroupConfig,
        partition_count: i32,
        log: Arc<dyn CoordinatorLog>,
        counters: Arc<GroupCounters>,
    ) -> Arc<GroupCoordinator> {
        GroupCoordinator::with_clock(settings, partition_count, log, counters, Box::new(now))
    }

    pub(crate) fn with_clock(
        settings: GroupConfig,
        partition_count: i32,
        log: Arc<dyn CoordinatorLog>,
        counters: Arc<GroupCounters>,
        clock: Clock,
    ) -> Arc<GroupCoordinator> {
        let terms = TopicTerms {
            load_buffer_bytes: settings.offsets_load_buffer_size,
            required_acks: settings.offsets_commit_required_acks,
            append_timeout: Duration::from_millis(u64::try_from(settings.offsets_commit_timeout_ms).unwrap_or(0)),
        };
        let (counted, refusals) = (Arc::clone(&counters), Refusals::default());
        let effect = Box::new(move |effect| match effect {
            GroupEffect::RebalanceCompleted => count(&counted.completed_rebalances),
            GroupEffect::OffsetsCommitted(offsets) => add(&counted.offsets_committed, offsets as u64),
            GroupEffect::OffsetsExpired(offsets) => add(&counted.offsets_expired, offsets as u64),
            GroupEffect::OffsetsDeleted(offsets) => add(&counted.offsets_deleted, offsets as u64),
            GroupEffect::RefusedForSize { group_id, setting } => {
                count(&counted.refused_for_size);
                // Its client may not say why it fails.
                if refusals.is_news(&group_id, Instant::now()) {
                    warn!("Group {} is refused what it wants to add: it would exceed {setting}", shown(&group_id));
                }
            }
            GroupEffect::PendingMemberEvicted => count(&counted.pending_members_evicted),
        });
        let shards = Shards::new(settings, terms, partition_count, log, Arc::clone(&counters.shards), effect, clock);
        Arc::new(GroupCoordinator { shards, counters })
    }

    pub(crate) fn settings(&self) -> &GroupConfig {
        self.shards.settings()
    }

    #[cfg(test)]
    pub(crate) fn shards(&self) -> &Arc<Shards<Groups>> {
        &self.shards
    }

    #[cfg(test)]
    pub(crate) fn counters(&self) -> &GroupCounters {
        &self.counters
    }

    /// The partition of `__consumer_offsets` whose leader coordinates the group.
    pub fn partition_for(&self, group_id: &str) -> i32 {
        partition_for(group_id, self.shards.partition_count())
    }

    /// The shard of the group, if this broker may speak for it now.
    fn shard_of(&self, group_id: &str) -> Result<Guard<'_, Shard<Groups>>, GroupError> {
        Ok(self.shards.owned(self.partition_for(group_id))?)
    }

    /// The same for requests that need a name: groups that manage their members cannot do without.
    fn shard_of_named(&self, group_id: &str) -> Result<Guard<'_, Shard<Groups>>, GroupError> {
        if group_id.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        self.shard_of(group_id)
    }

    /// The shard, for a request by which something is forgotten: memory does so at once, whenever the log follows.
    fn with_room<'a>(&self, shard: Guard<'a, Shard<Groups>>) -> Result<Guard<'a, Shard<Groups>>, GroupError> {
        if self.shards.is_full(&shard) { Err(GroupError::CoordinatorNotAvailable) } else { Ok(shard) }
    }

    // What the requests ask for

    pub(crate) async fn join(&self, group_id: &str, join: Join) -> JoinAnswer {
        let member_id = Arc::clone(&join.member_id);
        let shard = match self.shard_of_named(group_id) {
            Ok(shard) => shard,
            Err(error) => return JoinAnswer::refused(member_id, error),
        };
        let asked = self.shards.ask(shard, |groups, reply, turn| groups.join(group_id, join, reply, turn));
        match asked.answer().await {
            Some(Answer::Join(answer)) => answer,
            _ => JoinAnswer::refused(member_id, GroupError::CoordinatorNotAvailable),
        }
    }

    pub(crate) async fn sync(&self, group_id: &str, sync: Sync) -> SyncAnswer {
        let shard = match self.shard_of_named(group_id) {
            Ok(shard) => shard,
            // The rebalance that the member is in was lost with the old coordinator. Older clients do not expect to
            // hear of loading here, and this makes every client join again.
            Err(GroupError::CoordinatorLoadInProgress) => return Err(GroupError::RebalanceInProgress),
            Err(error) => return Err(error),
        };
        let asked = self.shards.ask(shard, |groups, reply, turn| groups.sync(group_id, sync, reply, turn));
        match asked.answer().await {
            Some(Answer::Sync(answer)) => answer,
            _ => Err(GroupError::CoordinatorNotAvailable),
        }
    }

    pub(crate) async fn commit_offsets(&self, group_id: &str, commit: Commit) -> CommitAnswer {
        let is_transactional = commit.transaction.is_some();
        let named = |group_id| if is_transactional { self.shard_of_named(group_id) } else { self.shard_of(group_id) };
        let shard = match named(group_id) {
            Ok(shard) => shard,
            Err(error) => return CommitAnswer::Refused(error),
        };
        let asked = self.shards.ask(shard, |groups, reply, turn| groups.commit_offsets(group_id, commit, reply, turn));
        match asked.answer().await {
            Some(Answer::Commit(answer)) => answer,
            _ => CommitAnswer::Refused(GroupError::CoordinatorNotAvailable),
        }
    }

    pub(crate) fn heartbeat(&self, group_id: &str, caller: &Caller) -> Result<(), GroupError> {
        let shard = match self.shard_of_named(group_id) {
            Ok(shard) => shard,
            // Whether the member is still one will show when the group is loaded.
            Err(GroupError::CoordinatorLoadInProgress) => return Ok(()),
            Err(error) => return Err(error),
        };
        self.shards.now(shard, |groups, turn| groups.heartbeat(group_id, caller, turn))
    }

    /// One answer per leaving member, in order.
    pub(crate) fn leave(&self, group_id: &str, leaving: &[Leaving]) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        let shard = self.shard_of_named(group_id)?;
        self.shards.now(shard, |groups, turn| groups.leave(group_id, leaving, turn))
    }

    /// Lets `look` at the offsets of the group; `None` if there is no such group.
    pub(crate) fn with_offsets<R>(
        &self,
        group_id: &str,
        look: impl FnOnce(Option<&GroupOffsets>) -> R,
    ) -> Result<R, GroupError> {
        let shard = self.shard_of(group_id)?;
        Ok(look(shard.core().get(group_id).map(|group| group.offsets())))
    }

    /// `None` for a group that does not exist.
    pub(crate) fn describe(&self, group_id: &str) -> Result<Option<GroupDescription>, GroupError> {
        let shard = self.shard_of(group_id)?;
        Ok(shard.core().get(group_id).map(|group| group.description()))
    }

    /// Shows the groups that this broker coordinates, until `look` has seen enough. True if some are still being loaded.
    pub(crate) fn list<E>(
        &self,
        mut look: impl FnMut(GroupOverview<'_>) -> Result<(), E>,
    ) -> Result<Result<bool, E>, GroupError> {
        if !self.shards.is_active() {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        let mut outcome = Ok(());
        let loading = self.shards.look_at_all(|core| {
            if outcome.is_ok() {
                outcome = core.iter().try_for_each(|group| {
                    look(GroupOverview {
                        group_id: group.group_id(),
                        protocol_type: group.protocol_type(),
                        state: group.state(),
                    })
                });
            }
        });
        Ok(outcome.map(|()| loading))
    }

    pub(crate) fn delete(&self, group_id: &str) -> Result<(), GroupError> {
        let shard = self.with_room(self.shard_of(group_id)?)?;
        self.shards.now(shard, |groups, turn| groups.delete(group_id, turn))
    }

    /// One answer per partition, in order.
    pub(crate) fn delete_offsets(
        &self,
        group_id: &str,
        partitions: &[(Arc<str>, i32)],
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        let shard = self.with_room(self.shard_of_named(group_id)?)?;
        self.shards.now(shard, |groups, turn| groups.delete_offsets(group_id, partitions, turn))
    }

    /// How much this broker coordinates.
    pub fn census(&self) -> GroupCensus {
        let mut census = GroupCensus { bytes: self.shards.bytes(), ..GroupCensus::default() };
        self.shards.look_at_all(|core| {
            for group in core.iter() {
                census.groups += 1;
                census.members += group.member_count();
                census.offsets += group.offsets().count();
            }
        });
        census
    }

    #[cfg(test)]
    pub(crate) fn parked_count(&self) -> usize {
        self.shards.parked_count()
    }

    // What the cluster reports

    /// Whether the groups of the partition are being read from the log.
    pub(crate) fn is_loading(&self, partition: i32) -> bool {
        self.shards.owned(partition).err() == Some(NotServing::Loading)
    }

    /// The marker of a producer's transaction is in the log, at this offset. Whoever loads the partition reads it there,
    /// but for one that has begun: false, if it may have read to the end already.
    pub(crate) fn transaction_ended(
        &self,
        partition: i32,
        producer_id: ProducerId,
        outcome: TransactionOutcome,
        marker: Offset,
    ) -> bool {
        match self.shards.owned(partition) {
            Ok(shard) => self.shards.now(shard, |groups, _| groups.transaction_ended(producer_id, outcome, marker)),
            Err(NotServing::Loading) => return false,
            Err(NotServing::NotOwned | NotServing::Stopped) => {}
        }
        true
    }

    /// These partitions are gone, as an UpdateMetadata said.
    pub fn partitions_deleted(&self, partitions: &[TopicPartition]) {
        let partitions: Arc<[TopicPartition]> = partitions.into();
        self.shards.step_all_when_loaded(Arc::new(move |groups, turn| groups.forget_partitions(&partitions, turn)));
    }

    /// Runs until the broker shuts down: timers, appends that wait for replicas, elections, expiry.
    pub async fn run(self: Arc<Self>, events: mpsc::UnboundedReceiver<ShardEvent>, shutdown: watch::Receiver<bool>) {
        let interval_ms = u64::try_from(self.settings().offsets_retention_check_interval_ms).unwrap_or(0).max(1);
        let interval = Duration::from_millis(interval_ms);
        Arc::clone(&self.shards).run(events, shutdown, interval, |groups, turn| groups.expire(turn)).await;
        let GroupCensus { groups, members, offsets, bytes } = self.census();
        log::info!(
            "[GroupCoordinator]: Shutdown complete. Coordinated {groups} groups with {members} members and {offsets} \
             offsets in about {bytes} bytes; {} rebalances completed and {} offsets committed since the start.",
            self.counters.completed_rebalances.load(Ordering::Relaxed),
            self.counters.offsets_committed.load(Ordering::Relaxed)
        );
    }
}
