//! What runs by the clock for as long as the broker does: retention, flushes, checkpoints, removals. Each pass over a log
//! directory is blocking work of `log/`, run on an I/O thread of that directory's share.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use log::{error, info};
use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::session::ZooKeeper;
use tokio::sync::{Mutex, mpsc, watch};
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

/// After which a controller has elected a leader, if it does.
const ELECTION_WAIT: Duration = Duration::from_secs(2);
const ELECTION_WAIT_MAX: Duration = Duration::from_secs(60);

/// Elections that are asked for at once: their names fit into a znode.
const ELECTIONS_MAX: usize = 1000;

pub(crate) fn start(
    tasks: &mut JoinSet<()>,
    config: &LogDirsConfig,
    replicas: Arc<ReplicaManager>,
    failed_dirs: mpsc::UnboundedReceiver<PathBuf>,
    zookeeper: ZooKeeper,
    shutdown: watch::Receiver<bool>,
) {
    start_passes(tasks, config, &replicas, &shutdown);
    tasks.spawn(ask_for_leaders(Arc::clone(&replicas), zookeeper.clone(), shutdown.clone()));
    let broker = replicas.broker();
    let tell = async move || tell_of_failure(&zookeeper, broker).await;
    tasks.spawn(follow_failures(failed_dirs, replicas, tell, shutdown));
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
    // Those that write or sync take turns, so that they leave the threads of a slow disk to whoever is waited for by clients.
    let turns: Vec<Turn> = dirs.iter().map(|_| Turn::default()).collect();
    let mut every_in_turn = |turns: &[Turn], first: Duration, interval: Duration, pass: Pass| {
        for (dir, turn) in dirs.iter().zip(turns) {
            let (dir, turn) = (dir.clone(), Arc::clone(turn));
            tasks.spawn(repeat(first, interval, Arc::clone(replicas), dir, turn, pass, shutdown.clone()));
        }
    };
    let half_lag = ms(replicas.replica_lag_time_max_ms() / 2);
    // Not in turn: producers wait for it.
    let by_itself: Vec<Turn> = dirs.iter().map(|_| Turn::default()).collect();
    every_in_turn(&by_itself, half_lag, half_lag, |replicas, dir, _| replicas.shrink_isrs(dir.path()));
    let mut every = |first, interval, pass: Pass| every_in_turn(&turns, first, interval, pass);
    every(delay, ms(config.log_retention_check_interval_ms), |replicas, dir, now_ms| {
        dir.tick_retention(now_ms);
        replicas.note_log_start_offsets(dir.path());
    });
    every(SWEEP_INTERVAL, SWEEP_INTERVAL, |replicas, dir, now_ms| {
        dir.tick_flush(now_ms);
        // Others have given files up meanwhile.
        dir.tick_deletions(wall_clock_ms());
        if dir.may_take_refused(now_ms) {
            replicas.wants_decisions.notify_one();
        }
    });
    every(delay, ms(config.log_flush_offset_checkpoint_interval_ms), |_, dir, _| dir.checkpoint_recovery_points());
    every(delay, ms(config.log_flush_start_offset_checkpoint_interval_ms), |_, dir, _| {
        dir.checkpoint_log_start_offsets();
    });
    let expiry = ms(config.producer_id_expiration_check_interval_ms);
    every(expiry, expiry, |replicas, dir, now_ms| {
        dir.tick_producer_expiration(now_ms);
        replicas.look_for_late_transactions(dir.path(), now_ms);
    });

    tasks.spawn(forget_fetch_sessions(Arc::clone(replicas), shutdown.clone()));
    for (dir, turn) in dirs.into_iter().zip(turns) {
        tasks.spawn(Arc::clone(replicas).run_high_watermark_checkpoints(dir, turn, shutdown.clone()));
    }
}

/// A setting in ms as a duration that a timer takes.
fn ms(value: i64) -> Duration {
    Duration::from_millis(u64::try_from(value).unwrap_or(0).clamp(1, 1 << 40))
}

type Pass = fn(&ReplicaManager, OneDir<'_>, i64);

/// Whoever has it goes over the directory.
type Turn = Arc<Mutex<()>>;

/// Until shutdown, or until the directory fails.
async fn repeat(
    first: Duration,
    interval: Duration,
    replicas: Arc<ReplicaManager>,
    dir: PathBuf,
    turn: Turn,
    pass: Pass,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut ticks = ticks(first, interval);
    let dir: Arc<Path> = dir.into();
    loop {
        let in_turn = async {
            ticks.tick().await;
            turn.lock().await
        };
        let _turn = tokio::select! {
            turn = in_turn => turn,
            _ = shutdown.wait_for(|stop| *stop) => return,
        };
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

/// Tells the controller that a log directory has failed, however long that takes: it asks this broker for all of its partitions
/// again, and elects other leaders for those that it does not have.
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

/// Asks the controller to elect those leaders that it might have elected by now, later and later. A JVM controller
/// elects nobody when it hears that a replica is back which it took for one on a failed directory.
/// Source: kafka 3.9.0-rc3 core/.../controller/KafkaController.scala (processLeaderAndIsrResponseReceived).
async fn ask_for_leaders(replicas: Arc<ReplicaManager>, zookeeper: ZooKeeper, mut shutdown: watch::Receiver<bool>) {
    let path = odradek_zookeeper::znode::preferred_replica_election::PATH;
    let asking = async {
        let mut leaderless = replicas.leaderless.subscribe();
        loop {
            if leaderless.wait_for(|leaderless| !leaderless.is_empty()).await.is_err() {
                return;
            }
            let mut wait = ELECTION_WAIT;
            loop {
                // Nothing tells that a controller does not elect.
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(ELECTION_WAIT_MAX);
                let names = replicas.still_leaderless();
                let Some(first) = names.first() else { break };
                info!("the controller is asked for leaders of {first} and {} other partitions", names.len() - 1);
                let named: Vec<(&str, i32)> =
                    names.iter().map(|name| (&*name.topic, name.partition)).take(ELECTIONS_MAX).collect();
                match zookeeper.request_preferred_election(&named).await {
                    Ok(()) => zookeeper.mended(path),
                    Err(ZkError::Closed) => return,
                    Err(ZkError::SessionExpired) => {}
                    Err(why) => {
                        zookeeper.complain(path, "partitions that have a replica again stay without a leader", &why)
                    }
                }
            }
        }
    };
    tokio::select! {
        () = asking => {}
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
}

enum News {
    Failed(PathBuf),
    WantsDecisions,
    Told,
}

/// Stops serving what was in a failed directory, and tells the controller; the others go on. In the same way the controller is
/// asked for what was refused before: nothing else makes one of either kind ask again.
async fn follow_failures(
    mut failed_dirs: mpsc::UnboundedReceiver<PathBuf>,
    replicas: Arc<ReplicaManager>,
    tell: impl AsyncFn(),
    mut shutdown: watch::Receiver<bool>,
) {
    let mut untold = false;
    // Whoever is told does not wait for these: a disk that has failed one call may not answer another.
    let mut giving_up = JoinSet::new();
    loop {
        let mut telling = pin!(tell());
        let news = loop {
            tokio::select! {
                path = failed_dirs.recv() => match path {
                    Some(path) => break News::Failed(path),
                    None => return,
                },
                () = replicas.wants_decisions.notified() => break News::WantsDecisions,
                // Waits for ZooKeeper, and must not keep the next failure waiting; one notification stands for all.
                () = &mut telling, if untold => break News::Told,
                Some(ended) = giving_up.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        std::panic::resume_unwind(error.into_panic());
                    }
                }
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
        };
        let path = match news {
            News::Failed(path) => path,
            News::WantsDecisions | News::Told => {
                untold = matches!(news, News::WantsDecisions);
                continue;
            }
        };
        error!("Stopping serving logs in dir {}", path.display());
        // Ends the broker: there is nothing left to serve.
        if replicas.log_dirs().live_dirs().is_empty() {
            return;
        }
        untold = true;
        let replicas = Arc::clone(&replicas);
        giving_up.spawn(async move {
            let dropped = replicas.log_dir_failed(&path).await;
            info!("{}: {} partitions are offline", path.display(), dropped.len());
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustix::io::Errno;

    use super::*;
    use crate::broker::settings_to_logs::SettingsToLogs;
    use crate::config::sections::ReplicaConfig;
    use crate::log::faults::{self, Op};
    use crate::log::testing::Gate;
    use crate::replica::control::PartitionRefusal;
    use crate::replica::tests::{Fixture, TERMS, records, until};

    /// With ISRs that are looked at all the time.
    fn over_two_dirs() -> (Fixture, Vec<PathBuf>) {
        let root = tempfile::tempdir().expect("a temporary directory");
        let dirs = ["one", "other"].map(|name| root.path().join(name)).to_vec();
        let config = ReplicaConfig {
            replica_lag_time_max_ms: 2,
            replica_high_watermark_checkpoint_interval_ms: 1,
            ..ReplicaConfig::default()
        };
        let fixture = Fixture::over(root, dirs.clone(), config);
        (fixture, dirs)
    }

    /// One pass behind the other.
    fn always(dirs: Vec<PathBuf>) -> LogDirsConfig {
        LogDirsConfig {
            dirs,
            log_initial_task_delay_ms: 1,
            log_retention_check_interval_ms: 1,
            log_flush_offset_checkpoint_interval_ms: 1,
            log_flush_start_offset_checkpoint_interval_ms: 1,
            producer_id_expiration_check_interval_ms: 1,
            ..LogDirsConfig::default()
        }
    }

    /// The logs of both directories are walked by each pass, on two I/O threads.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_append_that_a_disk_does_not_take_keeps_the_other_directories_from_no_housekeeping() {
        let (fixture, dirs) = over_two_dirs();
        let replicas = &fixture.replicas;
        fixture.publish(&[("slow", 0), ("rolling", 0)]).await;
        for topic in ["slow", "rolling"] {
            fixture.lead_with_isr(topic, 0, 0, &[1, 2], &[1, 2]).await;
            replicas.append(topic, 0, records(2), TERMS, 0).expect("this broker leads");
        }
        let of = |topic| replicas.partition(topic, 0).expect("hosted").log().expect("online");
        let (slow, fast) = (of("slow"), of("rolling"));
        assert!(slow.parent_dir() != fast.parent_dir());
        let (gate, _fault) = Gate::of_writes_below(&slow.parent_dir());
        let appending = Arc::clone(replicas);
        let first = std::thread::spawn(move || appending.append("slow", 0, records(1), TERMS, 0));
        until("it is held up", || replicas.is_held_up("slow", 0)).await;

        let (shutdown, shutting_down) = watch::channel(false);
        let mut tasks = JoinSet::new();
        start_passes(&mut tasks, &always(dirs), replicas, &shutting_down);
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
        let wanted =
            tokio::time::timeout(Duration::from_secs(60), replicas.next_isr_changes(&mut JoinSet::new())).await;
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

    const PASSES: [&str; 3] =
        ["recovery-point-offset-checkpoint", "log-start-offset-checkpoint", "replication-offset-checkpoint"];

    /// Two I/O threads for either directory; the checkpoints of one are not written while the other's are, again and again.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn passes_over_a_slow_directory_take_turns_and_isrs_are_looked_at_meanwhile() {
        let (fixture, dirs) = over_two_dirs();
        let replicas = &fixture.replicas;
        replicas.io().resize(6).expect("threads start");
        fixture.publish(&[("slow", 0), ("fast", 0)]).await;
        for topic in ["slow", "fast"] {
            assert_eq!(fixture.decide(topic, 0, 1, 0, &[1]).await, Ok(()));
            replicas.append(topic, 0, records(2), TERMS, 0).expect("this broker leads");
        }
        let of = |topic| replicas.partition(topic, 0).expect("hosted").log().expect("online").parent_dir();
        let (slow, fast) = (of("slow"), of("fast"));
        assert!(slow != fast);
        let (gate, waiting) = (Arc::new(Gate::default()), Arc::new(AtomicUsize::new(0)));
        let (at_gate, counted) = (Arc::clone(&gate), Arc::clone(&waiting));
        let _slow = faults::below(&slow, move |op, path| {
            let is_checkpoint = path.to_string_lossy().contains("-offset-checkpoint");
            if is_checkpoint && op == Op::Rename && !at_gate.is_open() {
                counted.fetch_add(1, Ordering::SeqCst);
                at_gate.pass();
            }
            Ok(())
        });
        let written: [Arc<AtomicUsize>; 3] = Default::default();
        let counted = written.clone();
        let _fast = faults::below(&fast, move |op, path| {
            let path = path.to_string_lossy();
            if let Some(which) = PASSES.iter().position(|name| path.contains(name))
                && op == Op::Rename
            {
                counted[which].fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        });
        let (shutdown, shutting_down) = watch::channel(false);
        let mut tasks = JoinSet::new();
        start_passes(&mut tasks, &always(dirs), replicas, &shutting_down);
        until("one is held up", || waiting.load(Ordering::SeqCst) > 0).await;
        written.iter().for_each(|written| written.store(0, Ordering::SeqCst));
        until("the others go on", || written.iter().all(|written| written.load(Ordering::SeqCst) > 9)).await;
        assert_eq!(waiting.load(Ordering::SeqCst), 1);
        let read = replicas.io().run_in(Some(&slow), || ());
        tokio::time::timeout(Duration::from_secs(60), read)
            .await
            .expect("within a minute")
            .expect("it is not shut down");
        // Broker 2 lags from now on.
        fixture.lead_with_isr("slow", 0, 1, &[1, 2], &[1, 2]).await;
        let mut beside = JoinSet::new();
        let wanted = tokio::time::timeout(Duration::from_secs(60), replicas.next_isr_changes(&mut beside)).await;
        assert_eq!(&*wanted.expect("within a minute")[0].partition.topic, "slow");
        assert!(!gate.is_open(), "the disk has not answered");
        gate.open();
        shutdown.send_replace(true);
        while tasks.join_next().await.is_some() {}
    }

    /// All its threads, the log and the partition wait for the disk when another call fails.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_controller_hears_of_a_failed_directory_whose_disk_does_not_answer_and_of_the_next() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let dirs = ["one", "other"].map(|name| root.path().join(name)).to_vec();
        let fixture = Fixture::over(root, dirs.clone(), ReplicaConfig::default());
        let replicas = &fixture.replicas;
        fixture.publish(&[("t", 0), ("t", 1), ("t", 2)]).await;
        for number in 0..3 {
            assert_eq!(fixture.decide("t", number, 1, 0, &[1]).await, Ok(()));
            replicas.append("t", number, records(2), TERMS, 0).expect("this broker leads");
        }
        let of = |number| replicas.parent_dir("t", number).expect("hosted");
        let pairs = [(0, 1, 2), (0, 2, 1), (1, 2, 0)];
        let (hung, failing, other) =
            pairs.into_iter().find(|(one, two, _)| of(*one) == of(*two)).expect("two of three");
        let (slow, fast) = (of(hung), of(other));
        assert!(slow != fast);
        let (gate, name) = (Arc::new(Gate::default()), format!("t-{hung}"));
        let at_gate = Arc::clone(&gate);
        let dying = move |op, path: &Path| match op {
            Op::WriteAt if path.to_string_lossy().contains(&name) => {
                at_gate.pass();
                Ok(())
            }
            Op::WriteAt => Err(Errno::IO.into()),
            _ => Ok(()),
        };
        let _faults = [faults::below(&slow, dying.clone()), faults::below(&fast, dying)];
        let mut appending = Vec::new();
        let partition = replicas.partition("t", hung).expect("hosted");
        for _ in 0..2 {
            let replicas = Arc::clone(replicas);
            appending.push(std::thread::spawn(move || replicas.append("t", hung, records(1), TERMS, 0)));
            until("it is held up", || fixture.replicas.is_held_up("t", hung)).await;
        }
        until("the partition's lock is taken", || partition.is_taken()).await;
        let (reading, dir, at_gate) = (Arc::clone(replicas), slow.clone(), Arc::clone(&gate));
        let (began, has_begun) = tokio::sync::oneshot::channel();
        let work = move || {
            began.send(()).expect("the test waits");
            at_gate.pass();
        };
        let read = tokio::spawn(async move { reading.io().run_in(Some(&dir), work).await });
        has_begun.await.expect("it begins");

        let (failed, failed_dirs) = mpsc::unbounded_channel();
        let (_shutdown, shutting_down) = watch::channel(false);
        let told = Arc::new(AtomicUsize::new(0));
        let telling = Arc::clone(&told);
        let tell = async move || {
            telling.fetch_add(1, Ordering::SeqCst);
        };
        let following = tokio::spawn(follow_failures(failed_dirs, Arc::clone(replicas), tell, shutting_down));
        let fail = |number, dir: &Path| {
            assert!(replicas.append("t", number, records(1), TERMS, 0).is_err());
            assert!(replicas.log_dirs().one(dir).is_none());
            failed.send(dir.to_path_buf()).expect("somebody follows");
        };
        fail(failing, &slow);
        until("the controller hears of it", || told.load(Ordering::SeqCst) > 0).await;
        // It asks what is left.
        for number in [hung, failing] {
            let asking = fixture.decide("t", number, 1, 1, &[1]);
            let answered = tokio::time::timeout(Duration::from_secs(60), asking).await.expect("within a minute");
            assert_eq!(answered, Err(PartitionRefusal::Storage));
        }
        until("nobody is given its logs", || replicas.log_dirs().logs().len() == 1).await;
        // Nor do changed settings wait for its partitions, one of which is locked.
        let settings = HashMap::from([(Arc::from("t"), Arc::default())]);
        SettingsToLogs::new(Arc::clone(replicas)).give(&settings);
        assert!(!gate.is_open(), "the disk has not answered");
        fail(other, &fast);
        let ended = tokio::time::timeout(Duration::from_secs(60), following).await;
        ended.expect("within a minute").expect("no panic");
        assert!(!gate.is_open(), "the disk has not answered");
        gate.open();
        for appending in appending {
            drop(appending.join().expect("no panic"));
        }
        read.await.expect("no panic").expect("it is not shut down");
    }
}
