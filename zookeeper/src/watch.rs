//! Watches as streams of states. ZooKeeper's watches fire once; these are armed again before the state is read, so the
//! last state delivered is never older than the last change, and several changes may arrive as one. They outlive
//! reconnection, and expiry too unless they were made through a handle that is bound to a session: after an expiry the
//! state is read and delivered again under the new session. What else may go wrong is complained of once and tried
//! again, since a watch that ended would hear of nothing any more.
use crate::error::ZkError;
use crate::session::{Stat, ZooKeeper, request};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::sleep;

/// How long to wait before a watch that could not be armed is armed again.
const REARM_BACKOFF: Duration = Duration::from_secs(1);

type Change = Pin<Box<dyn Future<Output = ()> + Send>>;

fn change(watcher: zookeeper_client::OneshotWatcher) -> Change {
    // Which event fired does not matter: the state is read again anyway. The watcher fires at the end of a session too.
    Box::pin(async move {
        watcher.changed().await;
    })
}

/// The children of one znode.
pub struct ChildrenWatch {
    zk: ZooKeeper,
    path: String,
    armed: Option<Change>,
}

/// The data of one znode, which need not exist.
pub struct DataWatch {
    zk: ZooKeeper,
    path: String,
    armed: Option<Change>,
}

impl ZooKeeper {
    pub fn watch_children(&self, path: impl Into<String>) -> ChildrenWatch {
        ChildrenWatch { zk: self.clone(), path: path.into(), armed: None }
    }

    pub fn watch_data(&self, path: impl Into<String>) -> DataWatch {
        DataWatch { zk: self.clone(), path: path.into(), armed: None }
    }
}

/// Returns when it is time to try again; an error that a retry cannot mend is handed on. Nothing tells when it is worth
/// a try, so a timer does.
pub(crate) async fn retried(zk: &ZooKeeper, path: &str, error: ZkError) -> Result<(), ZkError> {
    match error {
        ZkError::Closed => Err(ZkError::Closed),
        ZkError::SessionExpired if zk.is_bound() => Err(ZkError::SessionExpired),
        // The next request waits for the next session.
        ZkError::SessionExpired => Ok(()),
        error => {
            zk.complain(path, &format!("reading {path} is tried every {} ms", REARM_BACKOFF.as_millis()), &error);
            sleep(REARM_BACKOFF).await;
            Ok(())
        }
    }
}

impl ChildrenWatch {
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The first call returns the current children, each further one waits for a change. Children of a missing node
    /// are none. Dropping the future loses nothing. Fails only when the client is closed, or when the
    /// session has ended that the watch is bound to.
    pub async fn next(&mut self) -> Result<Vec<String>, ZkError> {
        if let Some(armed) = &mut self.armed {
            armed.await;
            self.armed = None;
        }
        loop {
            match self.arm().await {
                Ok(children) => {
                    self.zk.mended(&self.path);
                    return Ok(children);
                }
                Err(error) => retried(&self.zk, &self.path, error).await?,
            }
        }
    }

    /// Arms the watch anew and returns the children as they are now. Fails where [`next`](Self::next) would try again.
    pub async fn arm(&mut self) -> Result<Vec<String>, ZkError> {
        let (children, armed) = Self::read(&self.zk, &self.path).await?;
        self.armed = Some(armed);
        Ok(children)
    }

    // Not a method: a watch that waits may move between threads, but is not shared by them.
    async fn read(zk: &ZooKeeper, path: &str) -> Result<(Vec<String>, Change), ZkError> {
        loop {
            let listed = request!(zk, path, |client| client.list_and_watch_children(path));
            match listed {
                Ok((children, watcher)) => return Ok((children, change(watcher))),
                Err(ZkError::NoNode { .. }) => {}
                Err(error) => return Err(error),
            }
            // Only `exists` can watch a node that is not there.
            let (stat, watcher) = request!(zk, path, |client| client.check_and_watch_stat(path))?;
            if stat.is_none() {
                return Ok((Vec::new(), change(watcher)));
            }
        }
    }
}

impl DataWatch {
    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn zk(&self) -> &ZooKeeper {
        &self.zk
    }

    /// The first call returns the current data, each further one waits for a change; `None` while the node does not
    /// exist. Dropping the future loses nothing. Fails only when the client is closed, or when the session has ended that
    /// the watch is bound to.
    pub async fn next(&mut self) -> Result<Option<(Vec<u8>, Stat)>, ZkError> {
        if let Some(armed) = &mut self.armed {
            armed.await;
            self.armed = None;
        }
        loop {
            match self.arm().await {
                Ok(data) => return Ok(data),
                Err(error) => retried(&self.zk, &self.path, error).await?,
            }
        }
    }

    /// Arms the watch anew and returns the data as they are now. Fails where [`next`](Self::next) would try again.
    pub async fn arm(&mut self) -> Result<Option<(Vec<u8>, Stat)>, ZkError> {
        let (data, armed) = Self::read(&self.zk, &self.path).await?;
        self.armed = Some(armed);
        Ok(data)
    }

    // Not a method: a watch that waits may move between threads, but is not shared by them.
    async fn read(zk: &ZooKeeper, path: &str) -> Result<(Option<(Vec<u8>, Stat)>, Change), ZkError> {
        loop {
            let read = request!(zk, path, |client| client.get_and_watch_data(path));
            match read {
                Ok((data, stat, watcher)) => return Ok((Some((data, stat.into())), change(watcher))),
                Err(ZkError::NoNode { .. }) => {}
                Err(error) => return Err(error),
            }
            let (stat, watcher) = request!(zk, path, |client| client.check_and_watch_stat(path))?;
            if stat.is_none() {
                return Ok((None, change(watcher)));
            }
        }
    }
}
