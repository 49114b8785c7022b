//! Topics that are deleted: what this broker forgets with them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use log::info;
use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::session::ZooKeeper;
use odradek_zookeeper::znode;
use tokio::sync::mpsc;

use crate::coordinator::group::task::GroupCoordinator;
use crate::model::TopicPartition;

/// Between two attempts to learn whether a topic is gone, where ZooKeeper gives no answer.
const RETRY_BACKOFF: Duration = Duration::from_secs(5);

/// Whoever hears late of a deletion may know positions in the topic that has been made since under the same name: these stay.
/// Kafka's brokers forget them.
pub(super) async fn forget_deleted(
    mut deleted: mpsc::UnboundedReceiver<Vec<TopicPartition>>,
    groups: Arc<GroupCoordinator>,
    zookeeper: ZooKeeper,
) {
    while let Some(partitions) = deleted.recv().await {
        let mut by_topic: HashMap<Arc<str>, Vec<TopicPartition>> = HashMap::new();
        for partition in partitions {
            by_topic.entry(Arc::clone(&partition.topic)).or_default().push(partition);
        }
        for (topic, partitions) in by_topic {
            match is_gone(&zookeeper, &topic).await {
                // At once: it may be made again while others are asked about.
                Some(true) => groups.partitions_deleted(&partitions),
                Some(false) => info!("{topic} was deleted and is there again; what has been committed of it stays"),
                None => return,
            }
        }
    }
}

/// `None` once nobody will ever know.
async fn is_gone(zookeeper: &ZooKeeper, topic: &str) -> Option<bool> {
    let path = znode::topic::path(topic);
    let mut is_latest = false;
    loop {
        // In this order: the mark is the last of a topic that is removed.
        let found = match zookeeper.is_marked_for_deletion(topic).await {
            Ok(false) => zookeeper.topic_exists(topic).await,
            Ok(true) => Ok(false),
            Err(why) => Err(why),
        };
        let found = match found {
            // The controller may have seen the mark by a server that is ahead of this broker's.
            Ok(true) if !is_latest => zookeeper.sync().await.map(|()| {
                is_latest = true;
                None
            }),
            found => found.map(Some),
        };
        match found {
            Ok(None) => {}
            Ok(Some(exists)) => {
                zookeeper.mended(&path);
                return Some(!exists);
            }
            Err(ZkError::Closed) => return None,
            // The next request waits for the next session.
            Err(ZkError::SessionExpired) => {}
            Err(why) => {
                zookeeper.complain(&path, "whether the topic is gone, and its offsets with it, is not known", &why);
                // A timer: nothing tells when what ZooKeeper refuses, such as an ACL, is put right.
                tokio::time::sleep(RETRY_BACKOFF).await;
            }
        }
    }
}
