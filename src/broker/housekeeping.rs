//! What runs by the clock for as long as the broker does: retention, flushes, checkpoints, removals. Each pass over a log
//! directory is blocking work of `log/`, run on an I/O thread of that directory's share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use log::error;
use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::session::ZooKeeper;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::config::sections::LogDirsConfig;
use crate::log::dirs::OneDir;
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
    start_passes(tasks, config, &replicas, &shutdown);
    tasks.spawn(follow_failures(failed_dirs, replicas, zookeeper, shutdown));
}

fn start_passes(
    tasks: &mut JoinSet<()>,
    config: &LogDirsConfig,
    replicas: &Arc<ReplicaManager>,
    shutdown: &watch::Receiver<bool>,
) {
    let delay = ms(config.log_initial_task_delay_ms);
    // Each directory by itself: a disk that does not answer keeps its own waiting, and no other's.
    let dirs = replicas.log_dirs().live_dirs();
    let mut every = |first: Duration, interval: Duration, pass: Pass| {
        for dir in &dirs {
            tasks.spawn(repeat(first, interval, Arc::clone(replicas), dir.clone(), pass, shutdown.clone()));
        }
    };
    every(delay, ms(config.log_retention_check_interval_ms), |replicas, dir, now_ms| {
        dir.tick_retention(now_ms);
        replicas.note_log_start_offsets(dir.path());
    });
    every(SWEEP_INTERVAL, SWEEP_INTERVAL, |_, dir, now_ms| {
        dir.tick_flush(now_ms);
        dir.tick_deletions(now_ms);
    });
    every(delay, ms(config.log_flush_offset_checkpoint_interval_ms), |_, dir, _| dir.checkpoint_recovery_points());
    every(delay, ms(config.log_flush_start_offset_checkpoint_interval_ms), |_, dir, _| {
        dir.checkpoint_log_start_offsets();
    });
    let half_lag = ms(replicas.replica_lag_time_max_ms() / 2);
    every(half_lag, half_lag, |replicas, dir, _| replicas.shrink_isrs(dir.path()));
    let expiry = ms(config.producer_id_expiration_check_interval_ms);
    every(expiry, expiry, |replicas, dir, now_ms| {
        dir.tick_producer_expiration(now_ms);
        replicas.look_for_late_transactions(dir.path(), now_ms);
    });

    tasks.spawn(forget_fetch_sessions(Arc::clone(replicas), shutdown.clone()));
    for dir in dirs {
        tasks.spawn(Arc::clone(replicas).run_high_watermark_checkpoints(dir, shutdown.clone()));
    }
}

/// A setting in ms as a duration that a timer takes.
fn ms(value: i64) -> Duration {
    Duration::from_millis(u64::try_from(value).unwrap_or(0).clamp(1, 1 << 40))
}

type Pass = fn(&ReplicaManager, OneDir<'_>, i64);

/// Until shutdown, or until the directory fails.
async fn repeat(
    first: Duration,
    interval: Duration,
    replicas: Arc<ReplicaManager>,
    dir: PathBuf,
    pass: Pass,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut ticks = ticks(first, interval);
    let dir: Arc<Path> = dir.into();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
        let (this, path) = (Arc::clone(&replicas), Arc::clone(&dir));
        let over_one = move || {
            let one = this.log_dirs().one(&path);
            one.inspect(|one| pass(&this, *one, wall_clock_ms())).is_some()
        };
        if replicas.io().run_in(Some(&dir), over_one).await != Ok(true) {
            return;
        }
    }
}

fn ticks(first: Duration, interval: Duration) -> Interval {
    let mut ticks = tokio::time::interval_at(Instant::now() + first, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn forget_fetch_sessions(replicas: Arc<ReplicaManager>, mut shutdown: watch::Receiver<bool>) {
    let mut ticks = ticks(SWEEP_INTERVAL, SWEEP_INTERVAL);
    loop {
        tokio::select! {
            _ = ticks.tick() => replicas.forget_unused_fetch_sessions(),
            _ = shutdown.wait_for(|stop| *stop) => return,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sections::ReplicaConfig;
    use crate::log::faults::{self, Op};
    use crate::log::testing::Gate;
    use crate::replica::tests::{Fixture, TERMS, records, until};

    /// The logs of both directories are walked by each pass, on two I/O threads.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_append_that_a_disk_does_not_take_keeps_the_other_directories_from_no_housekeeping() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let dirs = ["one", "other"].map(|name| root.path().join(name)).to_vec();
        let config = ReplicaConfig {
            replica_lag_time_max_ms: 2,
            replica_high_watermark_checkpoint_interval_ms: 1,
            ..ReplicaConfig::default()
        };
        let fixture = Fixture::over(root, dirs.clone(), config);
        let replicas = &fixture.replicas;
        fixture.publish(&[("slow", 0), ("rolling", 0)]).await;
        for topic in ["slow", "rolling"] {
            fixture.lead_with_isr(topic, 0, 0, &[1, 2], &[1, 2]).await;
            replicas.append(topic, 0, records(2), TERMS, 0).expect("this broker leads");
        }
        let of = |topic| replicas.partition(topic, 0).expect("hosted").log().expect("online");
        let (slow, fast) = (of("slow"), of("rolling"));
        assert!(slow.parent_dir() != fast.parent_dir());
        let gate = Arc::new(Gate::default());
        let at_gate = Arc::clone(&gate);
        let _fault = faults::below(&slow.parent_dir(), move |op, _| {
            if op == Op::WriteAt {
                at_gate.pass();
            }
            Ok(())
        });
        let appending = Arc::clone(replicas);
        let first = std::thread::spawn(move || appending.append("slow", 0, records(1), TERMS, 0));
        until("it is held up", || replicas.is_held_up("slow", 0)).await;

        let config = LogDirsConfig {
            dirs,
            log_initial_task_delay_ms: 1,
            log_retention_check_interval_ms: 1,
            log_flush_offset_checkpoint_interval_ms: 1,
            log_flush_start_offset_checkpoint_interval_ms: 1,
            producer_id_expiration_check_interval_ms: 1,
            ..LogDirsConfig::default()
        };
        let (shutdown, shutting_down) = watch::channel(false);
        let mut tasks = JoinSet::new();
        start_passes(&mut tasks, &config, replicas, &shutting_down);
        while fast.segment_count() < 3 {
            replicas.append("rolling", 0, records(20), TERMS, 0).expect("this broker leads");
        }
        for checkpoint in
            ["recovery-point-offset-checkpoint", "log-start-offset-checkpoint", "replication-offset-checkpoint"]
        {
            let path = fast.parent_dir().join(checkpoint);
            until(checkpoint, || path.exists()).await;
        }
        until("segments are flushed", || fast.recovery_point().0 > 0).await;
        let wanted = tokio::time::timeout(Duration::from_secs(60), replicas.next_isr_changes()).await;
        let wanted: Vec<_> =
            wanted.expect("within a minute").into_iter().map(|wanted| wanted.partition.topic).collect();
        assert_eq!(wanted, ["rolling".into()]);
        // A thread is left for whatever is of no directory.
        replicas.io().run(|| ()).await.expect("it is not shut down");
        assert!(!gate.is_open() && !first.is_finished(), "the disk has not answered");
        gate.open();
        first.join().expect("no panic").expect("appended");
        let path = slow.parent_dir().join("recovery-point-offset-checkpoint");
        until("the other directory has its turn", || path.exists()).await;
        shutdown.send_replace(true);
        while tasks.join_next().await.is_some() {}
    }
}
