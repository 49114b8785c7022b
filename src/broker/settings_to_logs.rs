//! Changed settings of topics on their way to the logs here. Those of a disk that does not keep up get theirs beside the others,
//! and of what has changed again meanwhile the latest.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use log::debug;
use tokio::task::JoinSet;

use crate::config::log::LogConfig;
use crate::model::TopicPartition;
use crate::replica::replica_manager::ReplicaManager;

pub(super) struct SettingsToLogs {
    replicas: Arc<ReplicaManager>,
    late: Late,
    /// One for each directory in `late`.
    giving: JoinSet<()>,
}

#[derive(Clone, Default)]
struct Late(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    /// Whose logs in a directory are still to be given theirs. A directory is in it while a task gives what was in here, too.
    dirs: HashMap<PathBuf, BTreeSet<TopicPartition>>,
    /// Of topics, as long as there is any such directory: a log may be in another by the time it is given its own.
    latest: HashMap<Arc<str>, Arc<LogConfig>>,
}

impl Late {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None when nothing is left; then the directory is not late any more.
    fn take(&self, dir: &Path) -> Option<BTreeSet<TopicPartition>> {
        let mut waiting = self.waiting();
        match waiting.dirs.get_mut(dir) {
            Some(names) if !names.is_empty() => Some(std::mem::take(names)),
            _ => {
                waiting.dirs.remove(dir);
                if waiting.dirs.is_empty() {
                    waiting.latest.clear();
                }
                None
            }
        }
    }

    fn latest(&self, topic: &str) -> Option<Arc<LogConfig>> {
        self.waiting().latest.get(topic).cloned()
    }

    /// Gives the latest, and again if that has changed meanwhile.
    fn give(&self, replicas: &ReplicaManager, name: &TopicPartition) {
        let mut given: Option<Arc<LogConfig>> = None;
        while let Some(latest) = self.latest(&name.topic)
            && given.as_ref().is_none_or(|given| !Arc::ptr_eq(given, &latest))
        {
            replicas.give_config(name, &latest);
            given = Some(latest);
        }
    }
}

impl SettingsToLogs {
    pub fn new(replicas: Arc<ReplicaManager>) -> SettingsToLogs {
        SettingsToLogs { replicas, late: Late::default(), giving: JoinSet::new() }
    }

    pub fn replicas(&self) -> &ReplicaManager {
        &self.replicas
    }

    /// Waits for no disk that is known not to keep up.
    pub fn give(&mut self, configs: &HashMap<Arc<str>, Arc<LogConfig>>) {
        while let Some(given) = self.giving.try_join_next() {
            if let Err(error) = given
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        let log_dirs = self.replicas.log_dirs();
        let held_up = log_dirs.held_up_dirs();
        if held_up.is_empty() && self.late.waiting().dirs.is_empty() {
            return self.replicas.set_topic_configs(configs);
        }
        self.replicas.hear_topic_configs(configs);
        self.late
            .waiting()
            .latest
            .extend(configs.iter().map(|(topic, config)| (Arc::clone(topic), Arc::clone(config))));
        for name in self.replicas.partitions_of(configs) {
            let config = &configs[&name.topic];
            let mut waiting = self.late.waiting();
            let logs = [log_dirs.get(&name), log_dirs.get_future(&name)];
            let mut of_logs = logs.iter().flatten().map(|log| log.parent_dir());
            let late = of_logs.find(|dir| held_up.contains(dir) || waiting.dirs.contains_key(dir));
            let Some(dir) = late else {
                drop(waiting);
                self.replicas.give_config(&name, config);
                continue;
            };
            if !waiting.dirs.contains_key(&dir) {
                self.giving.spawn(give_late(Arc::clone(&self.replicas), self.late.clone(), dir.clone()));
            }
            waiting.dirs.entry(dir).or_default().insert(name);
        }
    }
}

async fn give_late(replicas: Arc<ReplicaManager>, late: Late, dir: PathBuf) {
    while let Some(names) = late.take(&dir) {
        let (given, of) = (Arc::clone(&replicas), late.clone());
        let give = move || names.iter().for_each(|name| of.give(&given, name));
        if replicas.io().run_in(Some(&dir), give).await.is_err() {
            return debug!("settings of topics are not taken over: the broker is shutting down");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sections::ReplicaConfig;
    use crate::log::testing::Gate;
    use crate::replica::tests::{Fixture, TERMS, records, until};

    #[tokio::test]
    async fn logs_get_their_settings_while_those_of_a_disk_that_does_not_answer_wait_for_the_latest() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let dirs = ["one", "other"].map(|name| root.path().join(name)).to_vec();
        let fixture = Fixture::over(root, dirs, ReplicaConfig::default());
        let replicas = &fixture.replicas;
        fixture.publish(&[("t", 0), ("t", 1)]).await;
        for number in [0, 1] {
            assert_eq!(fixture.decide("t", number, 1, 0, &[1]).await, Ok(()));
            replicas.append("t", number, records(2), TERMS, 0).expect("this broker leads");
        }
        let of = |number| replicas.partition("t", number).expect("hosted").log().expect("online");
        let (slow, fast) = (of(0), of(1));
        assert!(slow.parent_dir() != fast.parent_dir());
        let (gate, _fault) = Gate::of_writes_below(&slow.parent_dir());
        let appending = Arc::clone(replicas);
        let append = std::thread::spawn(move || appending.append("t", 0, records(1), TERMS, 0));
        until("it is held up", || replicas.is_held_up("t", 0)).await;

        let mut to_logs = SettingsToLogs::new(Arc::clone(replicas));
        for retention_ms in 1..=3 {
            let config = Arc::new(LogConfig { retention_ms: Some(retention_ms), ..LogConfig::default() });
            to_logs.give(&HashMap::from([("t".into(), config)]));
            assert_eq!(fast.config().retention_ms, Some(retention_ms));
            // The first is on its way when the next comes.
            crate::replica::tests::until_all_wait().await;
        }
        assert!(!gate.is_open() && !append.is_finished(), "the disk has not answered");
        gate.open();
        append.join().expect("no panic").expect("appended");
        until("nothing is late", || to_logs.late.waiting().dirs.is_empty()).await;
        assert_eq!(slow.config().retention_ms, Some(3));
    }
}
