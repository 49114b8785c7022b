//! Change notifications: a parent under which writers create sequential children, and a reader that acts once on each.
//! Source: kafka 3.9.0 core/src/main/scala/kafka/common/ZkNodeChangeNotificationListener.scala.
use crate::error::ZkError;
use crate::session::{CreateKind, ZooKeeper};
use crate::watch::{ChildrenWatch, retried};
use crate::znode::config::ConfigEntity;
use crate::znode::{config_change, isr_change, log_dir_event};
use log::debug;
use std::collections::{BTreeSet, HashSet, VecDeque};
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
    /// Heard of, and not read through yet.
    listed: Option<Vec<String>>,
    /// Those that are there and were handed out, or could not be read. Their counters say nothing about what is new:
    /// anybody may write a large one, and they begin anew when somebody has removed the parent.
    seen: HashSet<String>,
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

    /// Tells the controller of partitions whose ISR this broker has written.
    pub async fn notify_isr_changes(&self, partitions: &[(&str, i32)]) -> Result<(), ZkError> {
        let path = format!("{}/{}", isr_change::ROOT, isr_change::PREFIX);
        let data = isr_change::encode(partitions);
        self.create_recursive(&path, &data, CreateKind::PersistentSequential).await.map(|_| ())
    }

    pub fn config_changes(&self) -> ConfigChanges {
        ConfigChanges {
            zk: self.clone(),
            children: self.watch_children(config_change::ROOT),
            listed: None,
            seen: HashSet::new(),
            unread: BTreeSet::new(),
            ready: VecDeque::new(),
        }
    }
}

impl ConfigChanges {
    /// Waits for the next change. Dropping the future loses nothing. Fails only when the client is closed.
    pub async fn next(&mut self) -> Result<ConfigEntity, ZkError> {
        loop {
            if let Some(entity) = self.ready.pop_front() {
                return Ok(entity);
            }
            if self.listed.is_none() {
                let children = tokio::select! {
                    children = self.children.next() => {
                        let children = children?;
                        let there: HashSet<&String> = children.iter().collect();
                        self.seen.retain(|child| there.contains(child));
                        children
                    }
                    () = sleep(UNREAD_BACKOFF), if !self.unread.is_empty() => self.unread.iter().cloned().collect(),
                };
                self.listed = Some(children);
            }
            while let Err(error) = self.read().await {
                retried(&self.zk, config_change::ROOT, error).await?;
            }
        }
    }

    /// What is listed.
    async fn read(&mut self) -> Result<(), ZkError> {
        let children = self.listed.iter().flatten();
        let mut notifications: Vec<(i64, String)> = children
            .filter(|child| !self.seen.contains(*child) || self.unread.contains(*child))
            .filter_map(|child| Some((sequence(child)?, child.clone())))
            .collect();
        notifications.sort_unstable();
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let now_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
        let zk = self.zk.clone();
        let paths: Vec<String> =
            notifications.iter().map(|(_, child)| format!("{}/{child}", config_change::ROOT)).collect();
        let mut expired = Vec::new();
        for ((read, path), (_, child)) in zk.get_many(&paths).await.into_iter().zip(&paths).zip(notifications) {
            let read = match read {
                Err(error) if error.is_of_the_session() => return Err(error),
                read => read,
            };
            self.unread.remove(&child);
            self.seen.insert(child.clone());
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
                        self.unread.insert(child);
                    }
                }
            }
        }
        self.listed = None;
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
