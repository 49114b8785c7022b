//! Topics that are deleted: what this broker forgets with them, and how it learns of those that nobody tells it of.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use log::{error, info};
use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::session::ZooKeeper;
use odradek_zookeeper::znode::{cluster_id, delete_topic, topic};
use tokio::sync::{mpsc, watch};
use tokio::task::block_in_place;

use crate::coordinator::group::task::GroupCoordinator;
use crate::metadata::image::{Image, Topic};
use crate::model::TopicPartition;
use crate::model::shown::shown;
use crate::replica::replica_manager::ReplicaManager;

/// Before ZooKeeper is asked again what it gave no answer to.
const RETRY_BACKOFF: Duration = Duration::from_secs(5);

/// Asks until there is an answer; `None` once there will never be one.
async fn answered<T, F: Future<Output = Result<T, ZkError>>>(
    zookeeper: &ZooKeeper,
    path: &str,
    what_follows: &str,
    ask: impl Fn() -> F,
) -> Option<T> {
    loop {
        match ask().await {
            Ok(answer) => {
                zookeeper.mended(path);
                return Some(answer);
            }
            Err(ZkError::Closed) => return None,
            // The next request waits for the next session.
            Err(ZkError::SessionExpired) => {}
            Err(why) => {
                zookeeper.complain(path, what_follows, &why);
                // A timer: nothing tells when what ZooKeeper refuses, such as an ACL, is put right.
                tokio::time::sleep(RETRY_BACKOFF).await;
            }
        }
    }
}

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
            let what = "whether the topic is gone, and its offsets with it, is not known";
            let path = topic::path(&topic);
            match answered(&zookeeper, &path, what, || is_gone(&zookeeper, &topic)).await {
                // At once: it may be made again while others are asked about.
                Some(true) => groups.partitions_deleted(&partitions),
                Some(false) => info!("{topic} was deleted and is there again; what has been committed of it stays"),
                None => return,
            }
        }
    }
}

async fn is_gone(zookeeper: &ZooKeeper, topic: &str) -> Result<bool, ZkError> {
    let mut is_latest = false;
    loop {
        // In this order: the mark is the last of a topic that is removed.
        if zookeeper.is_marked_for_deletion(topic).await? || !zookeeper.topic_exists(topic).await? {
            return Ok(true);
        }
        if std::mem::replace(&mut is_latest, true) {
            return Ok(false);
        }
        // The controller may have seen the mark by a server that is ahead of this broker's.
        zookeeper.sync().await?;
    }
}

/// Nobody tells a broker of topics that are deleted while it has no session, nor of those whose controller goes before it has told
/// all: its successor has never heard of them. They are looked for whenever a controller begins to tell. Kafka's brokers serve
/// their metadata until they are restarted.
pub(super) async fn forget_missed(
    replicas: Arc<ReplicaManager>,
    zookeeper: ZooKeeper,
    cluster_id: String,
    mut shutdown: watch::Receiver<bool>,
) {
    let forgetting = async {
        let mut inherited = replicas.inherited().await;
        while let Some(next) = forget_gone(&replicas, &zookeeper, &cluster_id, inherited).await {
            inherited = next;
        }
    };
    tokio::select! {
        () = forgetting => {}
        // Without a sender there is no broker either.
        _ = shutdown.wait_for(|stops| *stops) => {}
    }
}

/// Forgets the topics of the image that are gone, and gives the next image to look at. `None` once there is no ZooKeeper.
async fn forget_gone(
    replicas: &ReplicaManager,
    zookeeper: &ZooKeeper,
    cluster_id: &str,
    inherited: Arc<Image>,
) -> Option<Arc<Image>> {
    let what = "topics that were deleted are known for longer";
    // The controller, which has begun to tell, may have seen more by another server.
    answered(zookeeper, topic::ROOT, what, || zookeeper.sync()).await?;
    let found = answered(zookeeper, cluster_id::PATH, what, || zookeeper.cluster_id()).await?;
    if found.as_deref() != Some(cluster_id) {
        error!(
            "{} says {found:?} instead of {cluster_id}: ZooKeeper has lost what it had, or is another cluster's; \
             the topics that it does not have are not taken for deleted",
            cluster_id::PATH
        );
        drop(inherited);
        return Some(replicas.inherited().await);
    }
    // The marks first: the mark is the last of a topic that is removed. What is marked from here on, this controller tells of.
    let mut marks = zookeeper.watch_children(delete_topic::ROOT);
    let marked: HashSet<String> = marks.next().await.ok()?.into_iter().collect();
    let existing = answered(zookeeper, topic::ROOT, what, || zookeeper.children(topic::ROOT)).await?;
    // There may be many; and what is kept of the image while nothing happens is no more than the doubtful.
    let (mut doubtful, gone) = block_in_place(move || {
        let existing: HashSet<String> = existing.into_iter().collect();
        let (there, gone): (Vec<Arc<Topic>>, Vec<_>) =
            inherited.topics().cloned().partition(|topic| existing.contains(&*topic.name));
        let doubtful = there.into_iter().filter(|topic| marked.contains(&*topic.name));
        (doubtful.collect::<Vec<_>>(), gone)
    });
    forget(replicas, gone).await;
    // A deletion that began before this broker was registered is told to the others alone. When the mark goes, it has ended or has
    // been given up.
    while !doubtful.is_empty() {
        let marked: HashSet<String> = tokio::select! {
            next = replicas.inherited() => return Some(next),
            marked = marks.next() => marked.ok()?.into_iter().collect(),
        };
        let decided = doubtful.extract_if(.., |topic| !marked.contains(&*topic.name));
        let mut gone = Vec::new();
        for decided in decided.collect::<Vec<_>>() {
            let path = topic::path(&decided.name);
            if !answered(zookeeper, &path, what, || zookeeper.topic_exists(&decided.name)).await? {
                gone.push(decided);
            }
        }
        forget(replicas, gone).await;
    }
    Some(replicas.inherited().await)
}

async fn forget(replicas: &ReplicaManager, gone: Vec<Arc<Topic>>) {
    if gone.is_empty() {
        return;
    }
    let partitions = replicas.forget_topics(&gone).await;
    let names: Vec<&str> = gone.iter().map(|topic| &*topic.name).collect();
    info!(
        "{} topics were deleted and nobody told of it; {partitions} partitions are forgotten: {}",
        names.len(),
        shown(&format!("{names:?}"))
    );
}
