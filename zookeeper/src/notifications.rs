//! Change notifications: a parent under which writers create sequential children, and a reader that acts once on each.
//! Source: kafka 3.9.0 core/src/main/scala/kafka/common/ZkNodeChangeNotificationListener.scala.
use crate::error::ZkError;
use crate::session::{CreateKind, ZooKeeper};
use crate::watch::{ChildrenWatch, retried};
use crate::znode::config::ConfigEntity;
use crate::znode::{config_change, log_dir_event};
use log::debug;
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::sleep;

/// Notifications older than this have been seen by every broker and are removed by whichever comes first.
const EXPIRY_MS: i64 = 15 * 60 * 1000;
/// Notifications that could not be read and are tried again; of more than that the rest is given up.
const UNREAD_MAX: usize = 1000;
/// How long to wait before notifications that could not be read are read again.
const UNREAD_BACKOFF: Duration = Duration::from_secs(5);

/// The entities whose configuration was written, in order. It begins with every notification that is still there, so a
/// reader that starts late or lost its session only sees a change twice, never not at all.
pub struct ConfigChanges {
    zk: ZooKeeper,
    children: ChildrenWatch,
    /// The last notification that was handed out, or that could not be read.
    last_executed: i64,
    /// Notifications that could not be read, to be tried again.
    unread: BTreeSet<String>,
    ready: VecDeque<ConfigEntity>,
}

impl ZooKeeper {
    /// Tells the controller that this broker lost a log directory.
    pub async fn notify_log_dir_failure(&self, broker_id: i32) -> Result<(), ZkError> {
        let path = format!("{}/{}", log_dir_event::ROOT, log_dir_event::PREFIX);
        let data = log_dir_event::encode(broker_id);
        self.create_recursive(&path, &data, CreateKind::PersistentSequential).await.map(|_| ())
    }

    pub fn config_changes(&self) -> ConfigChanges {
        ConfigChanges {
            zk: self.clone(),
            children: self.watch_children(config_change::ROOT),
            last_executed: -1,
            unread: BTreeSet::new(),
            ready: VecDeque::new(),
        }
    }
}

impl ConfigChanges {
    /// Waits for the next change. Fails only when the client is closed.
    pub async fn next(&mut self) -> Result<ConfigEntity, ZkError> {
        loop {
            if let Some(entity) = self.ready.pop_front() {
                return Ok(entity);
            }
            let children = tokio::select! {
                children = self.children.next() => children?,
                () = sleep(UNREAD_BACKOFF), if !self.unread.is_empty() => self.unread.iter().cloned().collect(),
            };
            if children.is_empty() {
                // Whoever removed the parent made the counter begin anew.
                (self.last_executed, self.unread) = (-1, BTreeSet::new());
            }
            while let Err(error) = self.read(&children).await {
                retried(&self.zk, config_change::ROOT, error).await?;
            }
        }
    }

    async fn read(&mut self, children: &[String]) -> Result<(), ZkError> {
        let mut notifications: Vec<(i64, &String)> = children
            .iter()
            .filter_map(|child| Some((sequence(child)?, child)))
            .filter(|(sequence, child)| *sequence > self.last_executed || self.unread.contains(*child))
            .collect();
        notifications.sort_unstable();
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let now_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
        let zk = self.zk.clone();
        let paths: Vec<String> =
            notifications.iter().map(|(_, child)| format!("{}/{child}", config_change::ROOT)).collect();
        let mut expired = Vec::new();
        for ((read, path), (sequence, child)) in zk.get_many(&paths).await.into_iter().zip(&paths).zip(notifications) {
            let read = match read {
                Err(error) if error.is_of_the_session() => return Err(error),
                read => read,
            };
            self.last_executed = self.last_executed.max(sequence);
            self.unread.remove(child);
            match read {
                Ok(None) => zk.mended(path),
                Ok(Some((data, stat))) => {
                    zk.mended(path);
                    match config_change::decode(path, &data).and_then(|entity| ConfigEntity::from_entity_path(&entity))
                    {
                        Some(entity) => self.ready.push_back(entity),
                        None => debug!("ignoring the notification {path}"),
                    }
                    if now_ms - stat.ctime_ms > EXPIRY_MS {
                        expired.push(path);
                    }
                }
                Err(error) => {
                    zk.complain(path, "a change of settings is not taken over yet", &error);
                    if self.unread.len() < UNREAD_MAX {
                        self.unread.insert(child.clone());
                    }
                }
            }
        }
        let zk = &zk;
        let removed = zk
            .pipelined(expired, |path| {
                Box::pin(async move { zk.delete(path, -1).await.map_err(|error| (path, error)) })
            })
            .await;
        for (path, error) in removed.into_iter().filter_map(Result::err) {
            zk.complain(path, "an expired notification cannot be removed", &error);
        }
        Ok(())
    }
}

/// The counter that ZooKeeper appended.
fn sequence(child: &str) -> Option<i64> {
    child.strip_prefix(config_change::PREFIX)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_appended_counter() {
        assert_eq!(sequence("config_change_0000000012"), Some(12));
        assert_eq!(sequence("config_change_"), None);
        assert_eq!(sequence("other_0000000012"), None);
    }
}
