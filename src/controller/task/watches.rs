//! What a controller watches: each watch is a task that turns a change into an input.
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use odradek_zookeeper::error::{ZkError, ZnodeError};
use odradek_zookeeper::requests::Read;
use odradek_zookeeper::session::ZooKeeper;
use odradek_zookeeper::watch::{ChildrenWatch, DataWatch};
use odradek_zookeeper::znode;
use tokio::task::{self, AbortHandle, JoinSet};

use crate::controller::active::TopicRead;
use crate::controller::task::candidacy::Task;
use crate::controller::task::{Input, cluster};
use crate::controller::topic_validation::validate_name;
use crate::model::{BrokerId, ControllerEpoch};

impl Task {
    /// The state that a watch begins with has been read, or is delivered as its first change.
    pub(super) fn watch_list(
        &self,
        watches: &mut JoinSet<()>,
        mut watch: ChildrenWatch,
        input: impl Fn(Vec<String>) -> Input + Send + 'static,
    ) {
        let inputs = self.inputs.clone();
        watches.spawn(async move {
            while let Ok(children) = watch.next().await {
                if inputs.send(input(children)).await.is_err() {
                    return;
                }
            }
        });
    }

    /// A znode by which tools ask for something; it is gone when that is done. It is read when its turn comes: what it
    /// asked for when the watch fired may have been done or overruled since.
    pub(super) fn watch_request(
        &self,
        watches: &mut JoinSet<()>,
        mut watch: DataWatch,
        input: impl Fn() -> Input + Send + 'static,
    ) {
        let inputs = self.inputs.clone();
        watches.spawn(async move {
            while let Ok(data) = watch.next().await {
                if data.is_some() && inputs.send(input()).await.is_err() {
                    return;
                }
            }
        });
    }

    pub(super) fn watch_broker(
        &self,
        watches: &mut JoinSet<()>,
        epoch: ControllerEpoch,
        broker: BrokerId,
        mut watch: DataWatch,
    ) -> AbortHandle {
        let inputs = self.inputs.clone();
        watches.spawn(async move {
            let id = task::id();
            while let Ok(data) = watch.next().await {
                if inputs.send(Input::BrokerChanged { epoch, watch: id, broker, data }).await.is_err() {
                    return;
                }
            }
        })
    }

    pub(super) fn watch_topic(
        &self,
        watches: &mut JoinSet<()>,
        epoch: ControllerEpoch,
        name: Arc<str>,
        mut watch: DataWatch,
    ) -> AbortHandle {
        let inputs = self.inputs.clone();
        watches.spawn(async move {
            let id = task::id();
            while let Ok(data) = watch.next().await {
                // The list of topics tells of deletions.
                let Some(data) = data else { continue };
                let Some(topic) = cluster::topic_read(watch.zk(), &name, Some(&data)) else { continue };
                if inputs.send(Input::TopicChanged { epoch, watch: id, topic }).await.is_err() {
                    return;
                }
            }
        })
    }
}

/// Forgets tasks that ended. One that panicked takes the controller with it: it would hear of nothing any more.
pub(super) fn reap(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.try_join_next() {
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// Whether this is the watch of that znode. What one that has ended had read before may still be in the queue, behind
/// what is known of the znode since.
pub(super) fn is_current<K: Hash + Eq>(watches: &HashMap<K, AbortHandle>, of: &K, watch: task::Id) -> bool {
    watches.get(of).is_some_and(|current| current.id() == watch)
}

/// Ends the watches of topics that are not among the names, and says which these are: a watch of a topic that is gone
/// would wait for ever, and the list tells when it is there again.
pub(super) fn unwatched(watches: &mut HashMap<Arc<str>, AbortHandle>, names: &[String]) -> Vec<Arc<str>> {
    let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let gone = watches.extract_if(|topic, _| !names.contains(&**topic));
    gone.map(|(topic, watching)| {
        watching.abort();
        topic
    })
    .collect()
}

/// A topic as it was found.
pub(super) struct ReadTopic {
    pub(super) name: Arc<str>,
    /// `None` when there is no such znode.
    pub(super) watch: Option<DataWatch>,
    /// `None` when its znode cannot be read or understood: the watch tells when it has been repaired.
    pub(super) topic: Option<TopicRead>,
}

/// Reads topics by arming a watch on each.
pub(super) async fn read_topics(zk: &ZooKeeper, names: Vec<String>) -> Result<Vec<ReadTopic>, ZkError> {
    let armed = armed(zk, names.into_iter().map(|name| (znode::topic::path(&name), name))).await?;
    let topics = armed.into_iter().map(|(name, watch, data)| {
        let name: Arc<str> = name.into();
        match data {
            Ok(data) => {
                let topic = cluster::topic_read(zk, &name, data.as_ref());
                ReadTopic { name, watch: data.is_some().then_some(watch), topic }
            }
            Err(error) => {
                let what = format!("topic {name} is ignored until its znode can be read");
                zk.complain(watch.path(), &what, &error);
                ReadTopic { name, watch: Some(watch), topic: None }
            }
        }
    });
    Ok(topics.collect())
}

/// Reads what stands at the paths, each by arming a watch on it. What cannot be read costs only itself: its watch, set
/// to work, tries again.
pub(super) async fn armed<K: Send>(
    zk: &ZooKeeper,
    paths: impl Iterator<Item = (String, K)>,
) -> Result<Vec<(K, DataWatch, Read)>, ZkError> {
    zk.pipelined_until_one_fails(paths, |(path, key)| {
        Box::pin(async move {
            let mut watch = zk.watch_data(path);
            match watch.arm().await {
                Err(error) if error.is_of_the_session() => Err(error),
                read => Ok((key, watch, read)),
            }
        })
    })
    .await
}

/// The topics that may be called what they are called. The others can have no directory, and are none to Kafka.
pub(super) fn legal_topics(zk: &ZooKeeper, names: Vec<String>) -> Vec<String> {
    let is_legal = |name: &String| match validate_name(name) {
        Ok(()) => true,
        Err(error) => {
            let path = znode::topic::path(name);
            let why = ZkError::Malformed(ZnodeError { path: path.clone(), reason: error.to_string() });
            zk.complain(&path, "a topic is ignored", &why);
            false
        }
    };
    names.into_iter().filter(is_legal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_topic_that_is_gone_is_watched_no_longer_whether_or_not_it_was_understood() {
        let mut tasks = JoinSet::new();
        let mut watches: HashMap<Arc<str>, AbortHandle> =
            ["gone", "here"].map(|topic| (topic.into(), tasks.spawn(std::future::pending::<()>()))).into();
        assert_eq!(unwatched(&mut watches, &["here".to_owned(), "new".to_owned()]), [Arc::<str>::from("gone")]);
        assert!(tasks.join_next().await.is_some_and(|ended| ended.is_err_and(|error| error.is_cancelled())));
        assert_eq!(watches.keys().map(|topic| &**topic).collect::<Vec<_>>(), ["here"]);
    }

    #[tokio::test]
    async fn what_an_earlier_watch_has_read_is_told_from_what_the_present_one_reads() {
        let mut tasks = JoinSet::new();
        let mut watch = || tasks.spawn(async { task::id() });
        let (earlier, present) = (watch(), watch());
        let watches = HashMap::from([(BrokerId(1), present.clone())]);
        let read: Vec<task::Id> = tasks.join_all().await;
        let of = |watch: &AbortHandle| read.iter().copied().find(|id| *id == watch.id()).expect("it has read");
        assert!(is_current(&watches, &BrokerId(1), of(&present)));
        assert!(!is_current(&watches, &BrokerId(1), of(&earlier)));
        assert!(!is_current(&watches, &BrokerId(2), of(&present)));
    }

    #[tokio::test]
    #[should_panic(expected = "on purpose")]
    async fn a_watch_that_panics_takes_the_controller_with_it() {
        let mut watches = JoinSet::new();
        watches.spawn(async { panic!("on purpose") });
        watches.spawn(std::future::pending()).abort();
        while !watches.is_empty() {
            reap(&mut watches);
            tokio::task::yield_now().await;
        }
    }
}
