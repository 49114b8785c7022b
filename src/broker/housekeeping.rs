//! What runs by the clock for as long as the broker does: retention, flushes, checkpoints, removals. Each pass is
//! blocking work of `log/`, run on an I/O thread.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use log::error;
use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::session::ZooKeeper;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::config::sections::LogDirsConfig;
use crate::model::BrokerId;
use crate::model::clock::wall_clock_ms;
use crate::replica::replica_manager::ReplicaManager;

/// How often segments that were rolled are flushed, and files whose delete delay is over are removed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Between two attempts to tell the controller of a failed log directory. A timer, since ZooKeeper tells nobody when a znode
/// that it refused to write may be written.
const TELL_BACKOFF: Duration = Duration::from_secs(5);

pub(crate) fn start(
    tasks: &mut JoinSet<()>,
    config: &LogDirsConfig,
    replicas: Arc<ReplicaManager>,
    failed_dirs: mpsc::UnboundedReceiver<PathBuf>,
    zookeeper: ZooKeeper,
    shutdown: watch::Receiver<bool>,
) {
    let delay = ms(config.log_initial_task_delay_ms);
    let mut every = |first: Duration, interval: Duration, pass: fn(&ReplicaManager, i64)| {
        tasks.spawn(repeat(first, interval, Arc::clone(&replicas), pass, shutdown.clone()));
    };
    every(delay, ms(config.log_retention_check_interval_ms), |replicas, now_ms| {
        replicas.log_dirs().tick_retention(now_ms);
        replicas.note_log_start_offsets();
    });
    every(SWEEP_INTERVAL, SWEEP_INTERVAL, |replicas, now_ms| {
        replicas.log_dirs().tick_flush(now_ms);
        replicas.log_dirs().tick_deletions(now_ms);
        replicas.forget_unused_fetch_sessions();
    });
    every(delay, ms(config.log_flush_offset_checkpoint_interval_ms), |replicas, _| {
        replicas.log_dirs().checkpoint_recovery_points();
    });
    every(delay, ms(config.log_flush_start_offset_checkpoint_interval_ms), |replicas, _| {
        replicas.log_dirs().checkpoint_log_start_offsets();
    });
    let half_lag = ms(replicas.replica_lag_time_max_ms() / 2);
    every(half_lag, half_lag, |replicas, _| replicas.shrink_isrs());
    let expiry = ms(config.producer_id_expiration_check_interval_ms);
    every(expiry, expiry, |replicas, now_ms| {
        replicas.log_dirs().tick_producer_expiration(now_ms);
        replicas.look_for_late_transactions(now_ms);
    });

    tasks.spawn(Arc::clone(&replicas).run_high_watermark_checkpoints(shutdown.clone()));
    tasks.spawn(follow_failures(failed_dirs, replicas, zookeeper, shutdown));
}

/// A setting in ms as a duration that a timer takes.
fn ms(value: i64) -> Duration {
    Duration::from_millis(u64::try_from(value).unwrap_or(0).clamp(1, 1 << 40))
}

async fn repeat(
    first: Duration,
    interval: Duration,
    replicas: Arc<ReplicaManager>,
    pass: fn(&ReplicaManager, i64),
    mut shutdown: watch::Receiver<bool>,
) {
    let mut ticks = tokio::time::interval_at(Instant::now() + first, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
        let this = Arc::clone(&replicas);
        if replicas.io().run(move || pass(&this, wall_clock_ms())).await.is_err() {
            return;
        }
    }
}

/// Tells the controller that a log directory has failed, however long that takes: it elects other leaders.
async fn tell_of_failure(zookeeper: &ZooKeeper, broker: BrokerId) {
    let path = odradek_zookeeper::znode::log_dir_event::ROOT;
    loop {
        match zookeeper.notify_log_dir_failure(broker.0).await {
            Ok(()) => return zookeeper.mended(path),
            Err(ZkError::Closed) => return,
            // The next request waits for the next session.
            Err(ZkError::SessionExpired) => {}
            Err(why) => {
                zookeeper.complain(path, "the controller hears of a failed log directory once that is possible", &why);
                tokio::time::sleep(TELL_BACKOFF).await;
            }
        }
    }
}

/// Stops serving what was in a failed directory, and tells the controller; the others go on.
async fn follow_failures(
    mut failed_dirs: mpsc::UnboundedReceiver<PathBuf>,
    replicas: Arc<ReplicaManager>,
    zookeeper: ZooKeeper,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut untold = false;
    loop {
        let path = tokio::select! {
            path = failed_dirs.recv() => match path {
                Some(path) => path,
                None => return,
            },
            // Waits for ZooKeeper, and must not keep the next failure waiting; one notification stands for all.
            () = tell_of_failure(&zookeeper, replicas.broker()), if untold => {
                untold = false;
                continue;
            }
            _ = shutdown.wait_for(|stop| *stop) => return,
        };
        let dropped = replicas.log_dir_failed(&path).await;
        error!("Stopping serving logs in dir {}: {} partitions are offline", path.display(), dropped.len());
        // Ends the broker: there is nothing left to serve.
        if replicas.log_dirs().live_dirs().is_empty() {
            return;
        }
        untold = true;
    }
}
