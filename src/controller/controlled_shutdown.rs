//! A broker that is about to stop gives up what it leads while others can still catch up with it.
//!
//! | partition of the broker, on others too | what becomes of it                                                     |
//! |----------------------------------------|------------------------------------------------------------------------|
//! | it leads, another in-sync one is online | the first such of the assignment leads, the broker leaves the ISR      |
//! | it leads, no other can                 | it stays the leader; the answer names the partition                    |
//! | it follows                             | it stops fetching and leaves the ISR                                   |
//!
//! Partitions without another replica, and those of topics that are being deleted, stay as they are until it is gone.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/controller/KafkaController.scala, doControlledShutdown.
use log::info;

use crate::controller::active::{Action, Active, Answer, Asked, RequestId};
use crate::controller::state::Partition;
use crate::model::{BrokerEpoch, BrokerId, TopicPartition};

/// Why a broker may not leave in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownRefusal {
    /// It was said by an earlier incarnation of the broker.
    StaleBrokerEpoch,
    /// No such broker is live, though it knows the epoch of its registration.
    NotRegistered,
    /// No such broker is live.
    NotAvailable,
}

impl Active {
    pub(super) fn controlled_shutdown(&mut self, id: RequestId, broker: BrokerId, broker_epoch: BrokerEpoch) {
        let is_known = broker_epoch.0 >= 0;
        let refusal = match self.cluster.brokers.get(&broker) {
            None if is_known => Some(ShutdownRefusal::NotRegistered),
            None => Some(ShutdownRefusal::NotAvailable),
            Some(live) if is_known && broker_epoch < live.epoch => {
                info!(
                    "Received controlled shutdown request from an old broker epoch {broker_epoch} for broker {broker}. \
                     Current broker epoch is {}.",
                    live.epoch
                );
                Some(ShutdownRefusal::StaleBrokerEpoch)
            }
            Some(_) => None,
        };
        if let Some(refusal) = refusal {
            self.actions.push(Action::Answer { id, answer: Answer::ControlledShutdown(Err(refusal)) });
            return;
        }
        info!("Shutting down broker {broker}");
        self.cluster.shutting_down.insert(broker);
        let shared = self.replicated_on(broker);
        for (name, _) in shared.iter().filter(|(_, is_leader)| !is_leader) {
            self.batch.stop_replica(&self.cluster, broker, name, false);
        }
        // It must not fetch itself back into an ISR that it is about to leave.
        self.send();
        let names: Vec<TopicPartition> = shared.into_iter().map(|(name, _)| name).collect();
        self.settle(&names);
        self.asked = Some((id, Asked::ControlledShutdown(broker)));
    }

    /// Partitions that have a replica on the broker and others elsewhere, and whether it leads them.
    fn replicated_on(&self, broker: BrokerId) -> Vec<(TopicPartition, bool)> {
        let is_shared = |name: &TopicPartition, partition: &Partition| {
            let replicas = &partition.assignment.replicas;
            replicas.len() > 1 && replicas.contains(&broker) && !self.cluster.is_going(name)
        };
        let leader = |partition: &Partition| Some(partition.leadership.as_ref()?.leader == Some(broker));
        self.cluster
            .partitions()
            .filter(|(name, partition)| is_shared(name, partition))
            .filter_map(|(name, partition)| Some((name, leader(partition)?)))
            .collect()
    }

    pub(super) fn still_led_by(&self, broker: BrokerId) -> Vec<TopicPartition> {
        self.replicated_on(broker).into_iter().filter(|(_, is_leader)| *is_leader).map(|(name, _)| name).collect()
    }
}
