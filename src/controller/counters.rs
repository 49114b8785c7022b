//! What this broker has done as a candidate and as the controller. The broker makes the counters and hands them in.
//! Source of the names: kafka 3.9.1 core/src/main/scala/kafka/controller/{ControllerState,KafkaController}.scala
//! (`kafka.controller:type=ControllerStats`).

use std::sync::atomic::{AtomicU64, Ordering};

use crate::controller::active::{Action, Event, Request, WriteOutcome};

/// Each counts up from the start of the broker, over all its terms in office. `tests/office.rs` holds the first three.
#[derive(Debug, Default)]
pub struct ControllerCounters {
    /// Elections of the controller that this broker won; Kafka's `ControllerChangeRateAndTimeMs` counts each change.
    pub offices_won: AtomicU64,
    /// Offices given up or lost with their session.
    pub offices_left: AtomicU64,
    /// Failures of ZooKeeper that cost this broker the office, or the try for it.
    pub zookeeper_failures: AtomicU64,
    /// Partitions that got another leader and ISR: Kafka's `LeaderElectionRateAndTimeMs`, which counts calls.
    pub leaderships_written: AtomicU64,
    pub leaderships_refused: AtomicU64,
    /// Leaders elected outside the ISR: Kafka's `UncleanLeaderElectionsPerSec`.
    pub unclean_leader_elections: AtomicU64,
    /// Changes of the live brokers.
    pub broker_changes: AtomicU64,
    /// Changes of topics and of their partitions: Kafka's `TopicChangeRateAndTimeMs`.
    pub topic_changes: AtomicU64,
    /// Requests to delete topics; those deleted count in `topics_deleted`.
    pub deletion_requests: AtomicU64,
    /// Kafka's `TopicDeletionRateAndTimeMs`.
    pub topics_deleted: AtomicU64,
    /// Kafka's `LeaderAndIsrResponseReceivedRateAndTimeMs`, and the same of StopReplica.
    pub broker_answers: AtomicU64,
    /// Kafka's `LogDirChangeRateAndTimeMs`.
    pub log_dir_changes: AtomicU64,
    /// Kafka's `IsrChangeRateAndTimeMs`.
    pub isr_changes: AtomicU64,
    /// Tries of brokers to leave: Kafka's `ControlledShutdownRateAndTimeMs`.
    pub controlled_shutdowns: AtomicU64,
    /// Kafka's `ManualLeaderBalanceRateAndTimeMs`.
    pub elections_requested: AtomicU64,
    /// Kafka's `AutoLeaderBalanceRateAndTimeMs`.
    pub rebalances: AtomicU64,
    /// Kafka's `PartitionReassignmentRateAndTimeMs`, which counts what comes of them too.
    pub reassignment_requests: AtomicU64,
    /// Tries to finish what ZooKeeper refused.
    pub retries: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

fn add(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

impl ControllerCounters {
    pub(super) fn event(&self, event: &Event) {
        match event {
            Event::Brokers(_) => count(&self.broker_changes),
            Event::TopicNames(_) | Event::TopicsRead(_) => count(&self.topic_changes),
            Event::DeletionsRequested(_) => count(&self.deletion_requests),
            Event::LeadershipsWritten(outcomes) => {
                let is_written = |outcome: &WriteOutcome| matches!(outcome, WriteOutcome::Written(_));
                let written = outcomes.iter().filter(|(_, outcome)| is_written(outcome)).count();
                add(&self.leaderships_written, written);
                add(&self.leaderships_refused, outcomes.len() - written);
            }
            Event::UncleanElectionRead { .. }
            | Event::UncleanElectionsAllowed { .. }
            | Event::TopicNotDeleted { .. } => {}
            Event::LeaderAndIsrAnswered { .. } | Event::StopReplicaAnswered { .. } => count(&self.broker_answers),
            Event::TopicDeleted { .. } => count(&self.topics_deleted),
            Event::Retry => count(&self.retries),
            Event::LogDirsFailed(_) => count(&self.log_dir_changes),
            Event::IsrsChanged(_) => count(&self.isr_changes),
            Event::TopicIdsWritten(_) | Event::AssignmentsWritten(_) => {}
            Event::PreferredElectionRequested(_) => count(&self.elections_requested),
            Event::ReassignmentsRequested(_) => count(&self.reassignment_requests),
            Event::RebalanceDue { .. } => count(&self.rebalances),
            Event::Requested { request, .. } => match request {
                Request::AlterPartitions(_) => count(&self.isr_changes),
                Request::ControlledShutdown { .. } => count(&self.controlled_shutdowns),
                Request::ElectLeaders { .. } => count(&self.elections_requested),
                Request::Reassign(_) => count(&self.reassignment_requests),
                Request::ListReassignments(_)
                | Request::AllocateProducerIds { .. }
                | Request::UpdateFeatures { .. } => {}
            },
        }
    }

    pub(super) fn action(&self, action: &Action) {
        if let Action::WriteLeaderships(writes) = action {
            add(&self.unclean_leader_elections, writes.iter().filter(|write| write.is_unclean).count());
        }
    }
}
