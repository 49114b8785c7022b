//! What the replicas tell of leadership, for the coordinators that sit on internal topics.

use std::sync::Arc;

use odradek_zookeeper::session::ZooKeeper;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::broker::deletions::forget_deleted;
use crate::coordinator::group::task::GroupCoordinator;
use crate::coordinator::shard::ShardEvent;
use crate::model::TopicPartition;
use crate::model::internal_topics::{GROUP_METADATA_TOPIC, TRANSACTION_STATE_TOPIC};
use crate::replica::decisions::LeadershipEvent;

/// Tells each coordinator of what the replicas tell of its topic.
pub(crate) async fn forward_leaderships(
    mut told: mpsc::Receiver<LeadershipEvent>,
    groups_told: mpsc::UnboundedSender<ShardEvent>,
    groups: Arc<GroupCoordinator>,
    transactions_told: mpsc::UnboundedSender<ShardEvent>,
    zookeeper: ZooKeeper,
) {
    // Unbounded: there are only so many partitions. ZooKeeper may be away for long, which holds up nobody else.
    let (deleted, deleted_told) = mpsc::unbounded_channel();
    let mut forgetting = JoinSet::new();
    forgetting.spawn(forget_deleted(deleted_told, groups, zookeeper));
    loop {
        let event = tokio::select! {
            event = told.recv() => event,
            // The coordinators have ended, because the broker shuts down: the replicas live on, but nobody listens.
            () = groups_told.closed() => return,
        };
        let Some(event) = event else { return };
        let (topic, leadership) = match event {
            LeadershipEvent::Elected { partition: TopicPartition { topic, partition }, leader_epoch } => {
                (topic, ShardEvent::Elected { partition, leader_epoch })
            }
            LeadershipEvent::Resigned { partition: TopicPartition { topic, partition }, leader_epoch } => {
                (topic, ShardEvent::Resigned { partition, leader_epoch })
            }
            LeadershipEvent::Deleted(partitions) => {
                // It ends with ZooKeeper's last session.
                let _ = deleted.send(partitions);
                continue;
            }
        };
        // Nobody listens once the broker shuts down.
        let _ = match &*topic {
            GROUP_METADATA_TOPIC => groups_told.send(leadership),
            TRANSACTION_STATE_TOPIC => transactions_told.send(leadership),
            _ => continue,
        };
    }
}
