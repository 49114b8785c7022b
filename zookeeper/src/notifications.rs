//! Change notifications: a parent under which writers create sequential children, and a reader that acts once on each.
//! Source: kafka 3.9.0 core/src/main/scala/kafka/common/ZkNodeChangeNotificationListener.scala.
use crate::error::ZkError;
use crate::session::{CreateKind, ZooKeeper};
use crate::watch::{ChildrenWatch, retried};
use crate::znode::config::ConfigEntity;
use crate::znode::{config_change, isr_change, log_dir_event, preferred_replica_election};
use log::debug;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Notifications that a broker has known for so long have been seen by every broker, but for those that lost their sessions
/// meanwhile; and are removed by whichever comes first. How old they are says nothing: that would be the clocks of two
/// machines, and one that is ahead would remove what nobody else has seen. Kafka goes by those.
const KNOWN_MAX: Duration = Duration::from_secs(15 * 60);
/// Notifications that could not be read and are tried again; of more than that the rest is given up.
const UNREAD_MAX: usize = 1000;
/// How long to wait before notifications that could not be read are read again.
const UNREAD_BACKOFF: Duration = Duration::from_secs(5);

/// The entities whose configuration was written, in order. It begins with every notification that is still there, so a
/// reader that starts late or lost its session for a short while only sees a change twice, never not at all. Whoever has a new
/// session may have missed what was removed meanwhile, and reads the settings themselves.
pub struct ConfigChanges {
    zk: ZooKeeper,
    children: ChildrenWatch,
    /// Heard of, and not read through yet.
    listed: Option<Vec<String>>,
    /// Those that are there and were handed out, or could not be read. Their counters say nothing about what is new:
    /// anybody may write a large one, and they begin anew when somebody has removed the parent.
    seen: Seen,
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

    /// Asks the controller to let the preferred replicas of partitions lead. Fails while somebody else is asking.
    pub async fn request_preferred_election(&self, partitions: &[(&str, i32)]) -> Result<(), ZkError> {
        let data = preferred_replica_election::encode(partitions);
        self.create_recursive(preferred_replica_election::PATH, &data, CreateKind::Persistent).await.map(|_| ())
    }

    pub fn config_changes(&self) -> ConfigChanges {
        ConfigChanges {
            zk: self.clone(),
            children: self.watch_children(config_change::ROOT),
            listed: None,
            seen: Seen::default(),
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
                        self.seen.0.retain(|child, _| there.contains(child));
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
            .filter(|child| !self.seen.0.contains_key(*child) || self.unread.contains(*child))
            .filter_map(|child| Some((sequence(child)?, child.clone())))
            .collect();
        notifications.sort_unstable();
        let now = Instant::now();
        let zk = self.zk.clone();
        let paths: Vec<String> =
            notifications.iter().map(|(_, child)| format!("{}/{child}", config_change::ROOT)).collect();
        for ((read, path), (_, child)) in zk.get_many(&paths).await.into_iter().zip(&paths).zip(notifications) {
            let read = match read {
                Err(error) if error.is_of_the_session() => return Err(error),
                read => read,
            };
            self.unread.remove(&child);
            self.seen.note(child.clone(), now);
            match read {
                Ok(None) => zk.mended(path),
                Ok(Some((data, _))) => {
                    zk.mended(path);
                    match config_change::decode(path, &data).and_then(|entity| ConfigEntity::from_entity_path(&entity))
                    {
                        Some(entity) => self.ready.push_back(entity),
                        None => debug!("ignoring the notification {path}"),
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
        let expired = self.seen.take_expired(now).into_iter().filter(|child| !self.unread.contains(child));
        let expired: Vec<String> = expired.map(|child| format!("{}/{child}", config_change::ROOT)).collect();
        let zk = &zk;
        let removed = zk
            .pipelined(expired, |path| {
                Box::pin(async move { zk.delete(&path, -1).await.map_err(|error| (path, error)) })
            })
            .await;
        for (path, error) in removed.into_iter().filter_map(Result::err) {
            zk.complain(&path, "an expired notification cannot be removed", &error);
        }
        Ok(())
    }
}

/// The notifications that were seen, and when first.
#[derive(Default)]
struct Seen(HashMap<String, Instant>);

impl Seen {
    fn note(&mut self, child: String, now: Instant) {
        self.0.entry(child).or_insert(now);
    }

    /// Those that have been known for so long that they may go. One that stays all the same is given another such time.
    fn take_expired(&mut self, now: Instant) -> Vec<String> {
        let expired = self.0.iter_mut().filter(|(_, since)| now.duration_since(**since) > KNOWN_MAX);
        let taken = expired.map(|(child, since)| {
            *since = now;
            child.clone()
        });
        taken.collect()
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
    fn a_notification_goes_when_it_has_been_known_for_long_enough_and_not_before() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let at = |minutes: u64| start + Duration::from_secs(minutes * 60);
        seen.note("early".to_owned(), at(0));
        seen.note("late".to_owned(), at(10));
        seen.note("early".to_owned(), at(10));
        assert_eq!(seen.take_expired(at(15)), Vec::<String>::new());
        assert_eq!(seen.take_expired(at(16)), ["early"]);
        assert_eq!(seen.take_expired(at(16)), Vec::<String>::new(), "it is not removed again and again");
        assert_eq!(seen.take_expired(at(26)), ["late"]);
        assert_eq!(seen.take_expired(at(32)), ["early"], "it could not be removed");
    }

    #[test]
    fn the_sequence_is_the_appended_counter() {
        assert_eq!(sequence("config_change_0000000012"), Some(12));
        assert_eq!(sequence("config_change_"), None);
        assert_eq!(sequence("other_0000000012"), None);
    }
}
