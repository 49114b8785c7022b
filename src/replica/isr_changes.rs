//! How a leader gets another ISR: it asks, and takes what is answered. What is asked for waits here until the task that
//! speaks for the whole broker takes it; a partition that asks again, under a newer decision, takes its own place.
//!
//! ```text
//!   follower's fetch ─▶ expand ─┐                 ┌─▶ in force: committed, and the high watermark may move
//!   half a lag time  ─▶ shrink ─┴─▶ unsent ─▶ asked ─▶ not applied: committed as before
//!                                     ▲         │  └─▶ unclear: stays pending until the next decision
//!                                     └─────────┘ failed
//! ```
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/cluster/Partition.scala (submitAlterPartition,
//! handleAlterPartitionUpdate, handleAlterPartitionError), core/src/main/scala/kafka/server/AlterPartitionManager.scala.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use log::{debug, info};
use tokio::sync::Notify;

use crate::model::lock::{Guard, Lock};
use crate::model::{BrokerEpoch, BrokerId, ControllerEpoch, LeaderEpoch, PartitionEpoch, TopicId, TopicPartition};
use crate::replica::isr::IsrChange;
use crate::replica::leader::{FollowerFetch, OutOfSync};
use crate::replica::partition::{Partition, State};
use crate::replica::partition_log::PartitionLog;
use crate::replica::waiters::Moves;

/// What a leader asks for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsrProposal {
    pub partition: TopicPartition,
    /// Zero if the log has none.
    pub topic_id: TopicId,
    /// Of the decision that the leader leads by.
    pub controller_epoch: ControllerEpoch,
    pub leader_epoch: LeaderEpoch,
    /// The version of the state that it is to replace.
    pub partition_epoch: PartitionEpoch,
    pub isr: Vec<BrokerId>,
    /// Who is to join, and under which registration it had all that it needs; -1 if it did not say.
    pub joining: Option<(BrokerId, BrokerEpoch)>,
    /// Different for all that this broker asks.
    pub number: u64,
}

/// What became of a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IsrAnswer {
    /// This is in force now, whether by this proposal or before it.
    InForce { leader_epoch: LeaderEpoch, partition_epoch: PartitionEpoch, isr: Vec<BrokerId> },
    /// It was not applied, and no controller will apply it any more.
    NotApplied,
    /// The leader knows too little to ask: a decision of the controller is on its way.
    Unclear,
    /// Nothing was decided.
    Failed,
}

/// What is to be done after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterAnswer {
    Nothing,
    /// The same is to be asked again.
    AskAgain,
}

/// What is wanted now.
#[derive(Debug, Default)]
pub struct Wanted {
    pub unsent: Vec<IsrProposal>,
    /// Of partitions whose disks do not keep up: these have been looked at, and wanted it still.
    pub confirmed: Vec<IsrProposal>,
}

/// What the leaders of this broker want and nobody has been asked for yet: one proposal a partition.
#[derive(Debug, Default)]
pub struct IsrChanges {
    unsent: Lock<BTreeMap<TopicPartition, IsrProposal>>,
    confirmed: Lock<BTreeMap<TopicPartition, IsrProposal>>,
    proposed: AtomicU64,
    submitted: Notify,
}

impl IsrChanges {
    /// A panic between two map operations leaves the map as good as it was.
    fn unsent(&self) -> Guard<'_, BTreeMap<TopicPartition, IsrProposal>> {
        self.unsent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&self, proposal: IsrProposal) {
        debug!("asking for an ISR: {proposal:?}");
        self.unsent().insert(proposal.partition.clone(), proposal);
        self.submitted.notify_one();
    }

    /// All that is wanted, once there is anything. Dropped half way it takes nothing.
    pub async fn next(&self) -> Wanted {
        loop {
            let (mut confirmed, mut unsent) = (std::mem::take(&mut *self.confirmed_ones()), self.take());
            // What a partition wants by now stands for what it wanted before, which may have been put back since.
            unsent.retain(|proposal| {
                let is_latest = confirmed.get(&proposal.partition).is_none_or(|known| known.number < proposal.number);
                if is_latest {
                    confirmed.remove(&proposal.partition);
                }
                is_latest
            });
            if !unsent.is_empty() || !confirmed.is_empty() {
                return Wanted { unsent, confirmed: confirmed.into_values().collect() };
            }
            self.submitted.notified().await;
        }
    }

    fn confirmed_ones(&self) -> Guard<'_, BTreeMap<TopicPartition, IsrProposal>> {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are still wanted, as a look at their partitions has shown. Of two looks at one the later may end first.
    pub fn confirmed(&self, proposals: impl IntoIterator<Item = IsrProposal>) {
        put_latest(&mut self.confirmed_ones(), proposals);
        self.submitted.notify_one();
    }

    /// All that is wanted now.
    pub fn take(&self) -> Vec<IsrProposal> {
        std::mem::take(&mut *self.unsent()).into_values().collect()
    }

    /// What could not be asked; a newer proposal of the same partition stands in its place.
    pub fn put_back(&self, proposals: impl IntoIterator<Item = IsrProposal>) {
        put_latest(&mut self.unsent(), proposals);
        self.submitted.notify_one();
    }
}

fn put_latest(into: &mut BTreeMap<TopicPartition, IsrProposal>, proposals: impl IntoIterator<Item = IsrProposal>) {
    for proposal in proposals {
        if into.get(&proposal.partition).is_none_or(|known| known.number < proposal.number) {
            into.insert(proposal.partition.clone(), proposal);
        }
    }
}

pub(super) fn joined(things: impl IntoIterator<Item = impl Display>) -> String {
    things.into_iter().map(|thing| thing.to_string()).collect::<Vec<_>>().join(",")
}

fn lagging(members: &[OutOfSync]) -> String {
    let member = |member: &OutOfSync| {
        let lag = member.lags_for.map_or("never".to_owned(), |lag| format!("{} ms ago", lag.as_millis()));
        format!("(brokerId: {}, endOffset: {}, last caught up: {lag})", member.broker, member.log_end_offset)
    };
    members.iter().map(member).collect::<Vec<_>>().join(" ")
}

impl<L: PartitionLog> Partition<L> {
    /// As Kafka's logs name a partition that says something of itself.
    fn log_prefix(&self) -> String {
        format!("[Partition {} broker={}]", self.name(), self.around.local)
    }

    /// Asks for the follower that has just fetched, if it may join the ISR and is not in it. Until that is settled it may go,
    /// and come back without what it had: so it is asked for as whoever it was when it fetched (KIP-903).
    pub(super) fn expand_isr(&self, state: &mut State<L>, fetch: &FollowerFetch) {
        let FollowerFetch { broker, broker_epoch, .. } = *fetch;
        if !state.leadership.may_join(broker, state.high_watermark, |broker| self.is_alive(broker)) {
            return;
        }
        let members = state.leadership.isr().members().to_vec();
        if let Some(isr) = self.propose(state, IsrChange::Expand(broker), Some((broker, broker_epoch))) {
            info!("{} Expanding ISR from {} to {}", self.log_prefix(), joined(members), joined(isr));
        }
    }

    /// Asks for an ISR without those that lag. And commits what waits for a replica that was about to join and is not any
    /// more: time alone has made it one, so nothing else may come to look.
    pub fn shrink_isr(&self) {
        // Whoever waits for a disk waits here, and not with the partition's lock.
        let Some(log) = self.log_at_hand() else { return };
        let (bounds, min_isr) = (log.bounds(), log.config().min_insync_replicas);
        let mut state = self.state();
        let is_its = state.log.as_ref().is_some_and(|its| Arc::ptr_eq(its, &log));
        if !is_its || !state.leadership.is_leader() || state.is_offline() {
            return;
        }
        if bounds.high_watermark < bounds.log_end_offset
            && self.advance_high_watermark(&mut state, &log, min_isr, bounds.log_end_offset)
        {
            state.fetches.moved(Moves::COMMITTED);
        }
        let (now, lag_max) = ((self.around.clock)(), self.around.replica_lag_time_max);
        let leaving = state.leadership.out_of_sync(bounds.log_end_offset, now, lag_max);
        if leaving.is_empty() {
            return;
        }
        let members = state.leadership.isr().members().to_vec();
        let change = IsrChange::Shrink(leaving.iter().map(|member| member.broker).collect());
        if let Some(isr) = self.propose(&mut state, change, None) {
            info!(
                "{} Shrinking ISR from {} to {}. Leader: (highWatermark: {}, endOffset: {}). Out of sync replicas: {}.",
                self.log_prefix(),
                joined(members),
                joined(isr),
                bounds.high_watermark,
                bounds.log_end_offset,
                lagging(&leaving)
            );
        }
    }

    fn propose(
        &self,
        state: &mut State<L>,
        change: IsrChange,
        joining: Option<(BrokerId, BrokerEpoch)>,
    ) -> Option<Vec<BrokerId>> {
        let changes = &self.around.isr_changes;
        let number = changes.proposed.fetch_add(1, Ordering::Relaxed);
        let isr = state.leadership.propose_isr(change, number)?;
        changes.submit(IsrProposal {
            partition: self.name().clone(),
            topic_id: state.log.as_ref().and_then(|log| log.topic_id()).unwrap_or(TopicId::ZERO),
            controller_epoch: state.leadership.controller_epoch(),
            leader_epoch: state.leadership.leader_epoch(),
            partition_epoch: state.leadership.isr().partition_epoch(),
            isr: isr.clone(),
            joining,
            number,
        });
        Some(isr)
    }

    /// Whether nobody has settled or overtaken it.
    pub fn still_wants(&self, proposal: &IsrProposal) -> bool {
        self.state().leadership.isr().pending(proposal.number).is_some()
    }

    /// Takes an answer. One to a proposal that is no longer pending changes nothing: a decision has come meanwhile, or
    /// another answer to it.
    pub fn isr_answered(&self, proposal: &IsrProposal, answer: IsrAnswer) -> AfterAnswer {
        let mut state = self.state();
        let Some(change) = state.leadership.isr().pending(proposal.number).cloned() else {
            debug!("{} what was answered to {proposal:?} comes too late: {answer:?}", self.log_prefix());
            return AfterAnswer::Nothing;
        };
        let (leader_epoch, partition_epoch, isr) = match answer {
            IsrAnswer::InForce { leader_epoch, partition_epoch, isr } => (leader_epoch, partition_epoch, isr),
            IsrAnswer::NotApplied => {
                self.around.counters.isr_not_changed();
                info!("{} The controller does not let the ISR be {}", self.log_prefix(), joined(&proposal.isr));
                state.leadership.refuse_isr();
                return AfterAnswer::Nothing;
            }
            IsrAnswer::Unclear => {
                self.around.counters.isr_not_changed();
                debug!("{} {proposal:?} stays pending until the controller decides", self.log_prefix());
                return AfterAnswer::Nothing;
            }
            IsrAnswer::Failed => {
                self.around.counters.isr_not_changed();
                return AfterAnswer::AskAgain;
            }
        };
        if !state.leadership.settle_isr(leader_epoch, isr, partition_epoch) {
            self.around.counters.isr_not_changed();
            debug!("{} an ISR of leader epoch {leader_epoch}, {partition_epoch} is ignored", self.log_prefix());
            return AfterAnswer::Nothing;
        }
        self.around.counters.isr_changed(&change);
        let Some(log) = state.log.clone() else { return AfterAnswer::Nothing };
        let min_isr = log.config().min_insync_replicas;
        let under = if state.leadership.has_min_isr(min_isr) { "" } else { "(under-min-isr)" };
        info!(
            "{} ISR updated to {} {under} and version updated to {partition_epoch}",
            self.log_prefix(),
            joined(state.leadership.isr().members())
        );
        let has_moved = self.advance_high_watermark(&mut state, &log, min_isr, log.bounds().log_end_offset);
        // Whom consumers may read from has changed in any case, and whose fetches count.
        state.fetches.moved(if has_moved { Moves::COMMITTED } else { Moves::NONE });
        AfterAnswer::Nothing
    }
}
