//! The end of a broker, top to bottom: nobody is let in, what was appended is closed and checkpointed, and ZooKeeper is
//! told last, when the logs can be opened by another process.
//! Source: kafka 3.9.1 core/src/main/scala/kafka/server/KafkaServer.scala, shutdown.

use std::time::Duration;

use log::{info, warn};

use crate::broker::Broker;
use crate::model::clock::wall_clock_ms;

/// How long connections and timers may take to end.
const TASKS_PATIENCE: Duration = Duration::from_secs(10);

impl Broker {
    /// Waits for what makes it impossible to go on: a task that panicked may have left half of a change behind.
    pub async fn failed(&mut self) -> String {
        loop {
            match self.tasks.join_next().await {
                Some(Err(error)) if error.is_panic() => return format!("a task of the broker panicked: {error}"),
                Some(_) => {}
                None => std::future::pending().await,
            }
            if self.log_dirs.live_dirs().is_empty() {
                return "all log directories have failed".to_owned();
            }
        }
    }

    pub async fn shut_down(mut self) {
        let id = self.id;
        info!("[KafkaServer id={id}] shutting down");
        // Without ZooKeeper the controller may be waiting for it; the logs must be closed all the same.
        if tokio::time::timeout(TASKS_PATIENCE, self.controller.shutdown()).await.is_err() {
            warn!("[KafkaServer id={id}] the controller did not give up its office in time");
        }
        self.shutdown.send_replace(true);
        let tasks = &mut self.tasks;
        let ended = tokio::time::timeout(TASKS_PATIENCE, async { while tasks.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            warn!("[KafkaServer id={id}] some connections did not end in time and are cut");
            self.tasks.abort_all();
        }
        self.replicas.checkpoint_high_watermarks().await;
        let (io, log_dirs) = (self.io, self.log_dirs);
        let closed = tokio::task::spawn_blocking(move || {
            io.stop();
            log_dirs.shutdown(wall_clock_ms());
        });
        if let Err(panicked) = closed.await {
            warn!("[KafkaServer id={id}] closing the logs failed: {panicked}");
        }
        drop(self.registration);
        self.zookeeper.close().await;
        info!("[KafkaServer id={id}] shut down completed");
    }
}
