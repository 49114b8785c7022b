//! The end of a broker, top to bottom: what it leads is given to others, nobody is let in any more, the office of the
//! controller is given up with its znode, what was appended is closed and checkpointed, and the registration goes last,
//! when the logs can be opened by another process.
//! Source: kafka 3.9.1 core/src/main/scala/kafka/server/KafkaServer.scala, shutdown.

use std::time::Duration;

use log::{info, warn};
use tokio::task::JoinSet;

use crate::broker::Broker;
use crate::model::clock::wall_clock_ms;
use crate::model::lock::off_the_network;
use crate::replica::io::IoThreads;

/// How long connections and timers may take to end.
const TASKS_PATIENCE: Duration = Duration::from_secs(10);

impl Broker {
    /// Waits for what makes it impossible to go on: a task that panicked may have left half of a change behind.
    pub async fn failed(&mut self) -> String {
        failure([&mut self.tasks, &mut self.controller_task], &self.io, || !self.log_dirs.live_dirs().is_empty()).await
    }

    /// One that cannot go on serves nobody while others take over: it stops at once.
    pub async fn shut_down(mut self, has_failed: bool) {
        let id = self.id;
        info!("[KafkaServer id={id}] shutting down");
        self.replicas.fetchers().take_no_more();
        if !has_failed {
            let config = self.config.load().controller_config();
            self.controlled_shutdown.run(&config).await;
        }
        drop(self.registration);
        self.shutdown.send_replace(true);
        self.log_dirs.end_passes();
        let tasks = &mut self.tasks;
        let ended = tokio::time::timeout(TASKS_PATIENCE, async { while tasks.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            warn!("[KafkaServer id={id}] some connections did not end in time and are cut");
            self.tasks.abort_all();
        }
        // Nobody here asks for a decision any more, and whoever is elected next need not wait until the logs are closed.
        // Without ZooKeeper the controller may be waiting for it; the logs must be closed all the same.
        if tokio::time::timeout(TASKS_PATIENCE, self.controller.shutdown()).await.is_err() {
            warn!("[KafkaServer id={id}] the controller did not give up its office in time");
            self.controller_task.abort_all();
        }
        self.replicas.checkpoint_high_watermarks().await;
        let (io, log_dirs) = (self.io, self.log_dirs);
        // A disk that has failed may never answer, and nothing of it is closed.
        let patience = if log_dirs.offline_dirs().is_empty() { Duration::MAX } else { TASKS_PATIENCE };
        let stopped = tokio::task::spawn_blocking(move || off_the_network(|| io.stop()));
        if tokio::time::timeout(patience, stopped).await.is_err() {
            warn!("[KafkaServer id={id}] work on a log directory that has failed did not end in time");
        }
        let closed = tokio::task::spawn_blocking(move || off_the_network(|| log_dirs.shutdown(wall_clock_ms())));
        if let Err(panicked) = closed.await {
            warn!("[KafkaServer id={id}] closing the logs failed: {panicked}");
        }
        self.zookeeper.close().await;
        info!("[KafkaServer id={id}] shut down completed");
    }
}

async fn failure(tasks: [&mut JoinSet<()>; 2], io: &IoThreads, has_live_dirs: impl Fn() -> bool) -> String {
    let [some, others] = tasks;
    loop {
        let ended = tokio::select! {
            Some(ended) = some.join_next() => ended,
            Some(ended) = others.join_next() => ended,
            said = io.panicked() => return format!("work on the logs panicked: {said}"),
        };
        match ended {
            Err(error) if error.is_panic() => return format!("a task of the broker panicked: {error}"),
            _ if !has_live_dirs() => return "all log directories have failed".to_owned(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io() -> IoThreads {
        IoThreads::start(1, 1).expect("threads start")
    }

    #[tokio::test]
    async fn a_task_that_panics_stops_the_broker_and_one_that_ends_does_not() {
        let mut tasks = JoinSet::new();
        tasks.spawn(async {});
        tasks.spawn(std::future::pending()).abort();
        let panicking = tasks.spawn(async {
            tokio::task::yield_now().await;
            panic!("on purpose");
        });
        let reason = failure([&mut JoinSet::new(), &mut tasks], &io(), || true).await;
        assert_eq!(
            reason,
            format!("a task of the broker panicked: task {} panicked with message \"on purpose\"", panicking.id())
        );
    }

    #[tokio::test]
    async fn work_on_the_logs_that_panics_stops_the_broker() {
        for mut tasks in [JoinSet::new(), JoinSet::from_iter([async {}])] {
            let io = io();
            assert!(io.offer(|| panic!("on purpose")));
            assert_eq!(
                failure([&mut tasks, &mut JoinSet::new()], &io, || true).await,
                "work on the logs panicked: on purpose"
            );
        }
    }

    #[tokio::test]
    async fn a_broker_without_a_log_directory_is_stopped_by_the_task_that_notices() {
        let mut tasks = JoinSet::from_iter([async {}]);
        assert_eq!(
            failure([&mut tasks, &mut JoinSet::new()], &io(), || false).await,
            "all log directories have failed"
        );
    }
}
