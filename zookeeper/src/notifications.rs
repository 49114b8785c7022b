//! Change notifications: a parent under which writers create sequential children, and a reader that acts once on each.
//! Source: kafka 3.9.0 core/src/main/scala/kafka/common/ZkNodeChangeNotificationListener.scala.
use crate::error::ZkError;
use crate::session::{CreateKind, ZooKeeper};
use crate::watch::{ChildrenWatch, retried};
use crate::znode::config::ConfigEntity;
use crate::znode::{config_change, log_dir_event};
use log::{debug, warn};
use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

/// Notifications older than this have been seen by every broker and are removed by whichever comes first.
const EXPIRY_MS: i64 = 15 * 60 * 1000;

/// The entities whose configuration was written, in order. It begins with every notification that is still there, so a
/// reader that starts late or lost its session only sees a change twice, never not at all.
pub struct ConfigChanges {
    zk: ZooKeeper,
    children: ChildrenWatch,
    /// The last notification that was handed out.
    last_executed: i64,
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
            let children = self.children.next().await?;
            while let Err(error) = self.read(&children).await {
                retried(config_change::ROOT, error).await?;
            }
        }
    }

    async fn read(&mut self, children: &[String]) -> Result<(), ZkError> {
        let mut notifications: Vec<(i64, &str)> =
            children.iter().filter_map(|child| Some((sequence(child)?, child.as_str()))).collect();
        notifications.sort_unstable();
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let now_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
        let zk = self.zk.clone();
        let fresh: Vec<_> = notifications.into_iter().filter(|(sequence, _)| *sequence > self.last_executed).collect();
        let read = zk
            .pipelined(fresh, |(sequence, child)| {
                let (zk, path) = (&zk, format!("{}/{child}", config_change::ROOT));
                Box::pin(async move { (sequence, zk.get(&path).await, path) })
            })
            .await;
        let mut expired = Vec::new();
        for (sequence, outcome, path) in read {
            let Some((data, stat)) = outcome? else { continue };
            self.last_executed = self.last_executed.max(sequence);
            match config_change::decode(&path, &data).and_then(|entity| ConfigEntity::from_entity_path(&entity)) {
                Some(entity) => self.ready.push_back(entity),
                None => debug!("ignoring the notification {path}"),
            }
            if now_ms - stat.ctime_ms > EXPIRY_MS {
                expired.push(path);
            }
        }
        let zk = &zk;
        for outcome in zk.pipelined(expired, |path| Box::pin(async move { zk.delete(&path, -1).await })).await {
            if let Err(error) = outcome {
                warn!("removing an expired notification failed: {error}");
            }
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
