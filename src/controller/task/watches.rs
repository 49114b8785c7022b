//! What a controller watches: each watch is a task that turns a change into an input.
use std::sync::Arc;

use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::session::ZooKeeper;
use odradek_zookeeper::watch::{ChildrenWatch, DataWatch};
use odradek_zookeeper::znode;
use tokio::task::{AbortHandle, JoinSet};

use crate::controller::active::{Event, TopicRead};
use crate::controller::task::candidacy::Task;
use crate::controller::task::{Input, cluster};
use crate::model::ControllerEpoch;

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

    pub(super) fn watch_broker(
        &self,
        watches: &mut JoinSet<()>,
        epoch: ControllerEpoch,
        mut watch: DataWatch,
    ) -> AbortHandle {
        let inputs = self.inputs.clone();
        watches.spawn(async move {
            while watch.next().await.is_ok() {
                if inputs.send(Input::BrokersChanged { epoch }).await.is_err() {
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
            while let Ok(data) = watch.next().await {
                // The list of topics tells of deletions.
                let Some(data) = data else { continue };
                let Some(read) = cluster::topic_read(&name, Some(&data)) else { continue };
                let event = Event::TopicsRead(vec![read]);
                if inputs.send(Input::Event { epoch, event }).await.is_err() {
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

/// A topic as it was found.
pub(super) struct ReadTopic {
    pub(super) name: Arc<str>,
    /// `None` when there is no such znode.
    pub(super) watch: Option<DataWatch>,
    /// `None` when its znode cannot be understood: the watch tells when it has been repaired.
    pub(super) topic: Option<TopicRead>,
}

/// Reads topics by arming a watch on each.
pub(super) async fn read_topics(zk: &ZooKeeper, names: Vec<String>) -> Result<Vec<ReadTopic>, ZkError> {
    let read = zk
        .pipelined(names, |name| {
            let mut watch = zk.watch_data(znode::topic::path(&name));
            Box::pin(async move {
                let data = watch.arm().await;
                (name, watch, data)
            })
        })
        .await;
    let mut topics = Vec::new();
    for (name, watch, data) in read {
        let (name, data): (Arc<str>, _) = (name.into(), data?);
        let topic = cluster::topic_read(&name, data.as_ref());
        topics.push(ReadTopic { name, watch: data.is_some().then_some(watch), topic });
    }
    Ok(topics)
}

#[cfg(test)]
mod tests {
    use super::*;

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
