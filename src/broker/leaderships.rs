//! What the replicas tell of leadership, for the coordinators that sit on internal topics.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::coordinator::group::task::GroupCoordinator;
use crate::coordinator::shard::ShardEvent;
use crate::model::TopicPartition;
use crate::model::internal_topics::GROUP_METADATA_TOPIC;
use crate::replica::decisions::LeadershipEvent;

/// Tells the group coordinator of what the replicas tell of its topic.
pub(crate) async fn forward_leaderships(
    mut told: mpsc::Receiver<LeadershipEvent>,
    groups_told: mpsc::UnboundedSender<ShardEvent>,
    groups: Arc<GroupCoordinator>,
) {
    let is_groups = |partition: &TopicPartition| &*partition.topic == GROUP_METADATA_TOPIC;
    loop {
        let event = tokio::select! {
            event = told.recv() => event,
            // The coordinator has ended, because the broker shuts down: the replicas live on, but nobody listens.
            () = groups_told.closed() => return,
        };
        let Some(event) = event else { return };
        let leadership = match event {
            LeadershipEvent::Elected { partition, leader_epoch } if is_groups(&partition) => {
                ShardEvent::Elected { partition: partition.partition, leader_epoch }
            }
            LeadershipEvent::Resigned { partition, leader_epoch } if is_groups(&partition) => {
                ShardEvent::Resigned { partition: partition.partition, leader_epoch }
            }
            LeadershipEvent::Deleted(partitions) => {
                groups.partitions_deleted(&partitions);
                continue;
            }
            LeadershipEvent::Elected { .. } | LeadershipEvent::Resigned { .. } => continue,
        };
        // Nobody listens once the broker shuts down.
        let _ = groups_told.send(leadership);
    }
}
