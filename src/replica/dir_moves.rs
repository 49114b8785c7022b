//! Moves of logs between the directories of this broker: which are asked for, and the tasks that carry them out on I/O
//! threads, so many at a time and so fast as the settings allow.
//! Source: kafka 3.9 core/.../server/{ReplicaManager,ReplicaAlterLogDirsManager}.scala.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::warn;
use tokio::sync::{Notify, watch};

use crate::config::sections::ReplicaConfig;
use crate::log::dirs::moves::{MoveBegun, NoTarget, Step};
use crate::log::error::LogError;
use crate::model::TopicPartition;
use crate::model::clock::wall_clock_ms;
use crate::model::lock::{Guard, Lock};
use crate::replica::error::ReplicaError;
use crate::replica::io::ShuttingDown;
use crate::replica::replica_manager::ReplicaManager;
use crate::replica::throttle::Throttle;

/// How often a move looks whether it may go on that has had as many bytes a second as it may.
const THROTTLED_PAUSE: Duration = Duration::from_millis(100);

const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// The moves that wait for their turn.
pub struct DirMoves {
    throttle: Throttle,
    waiting: Lock<Waiting>,
    arrival: Notify,
}

#[derive(Default)]
struct Waiting {
    queue: VecDeque<Move>,
    /// All that are in the queue, under way, or wait after a failure; and whether they were asked for again meanwhile.
    known: HashMap<TopicPartition, bool>,
}

/// A move that is not finished.
#[derive(Debug)]
struct Move {
    partition: TopicPartition,
    /// Nothing of it has been done since it was asked for.
    is_first: bool,
    failures: u32,
}

impl DirMoves {
    pub fn new(config: &ReplicaConfig) -> DirMoves {
        let sample = Duration::from_secs(config.alter_log_dirs_quota_window_size_seconds);
        let throttle =
            Throttle::new(config.alter_log_dirs_bytes_per_second, config.alter_log_dirs_quota_window_num, sample);
        DirMoves { throttle, waiting: Lock::default(), arrival: Notify::new() }
    }

    pub fn set_rate(&self, bytes_per_second: u64) {
        self.throttle.set_rate(bytes_per_second);
    }

    fn waiting(&self) -> Guard<'_, Waiting> {
        self.waiting.lock().expect("nothing panics under it")
    }

    /// The log of the partition is to be copied, unless that is known.
    pub fn add(&self, partition: TopicPartition) {
        let mut waiting = self.waiting();
        if let Some(again) = waiting.known.get_mut(&partition) {
            *again = true;
            return;
        }
        waiting.known.insert(partition.clone(), false);
        waiting.queue.push_back(Move { partition, is_first: true, failures: 0 });
        drop(waiting);
        self.arrival.notify_one();
    }

    async fn next(&self) -> Move {
        loop {
            if let Some(next) = self.waiting().queue.pop_front() {
                return next;
            }
            self.arrival.notified().await;
        }
    }

    fn go_on_with(&self, one: Move) {
        self.waiting().queue.push_back(one);
        self.arrival.notify_one();
    }

    fn is_over(&self, partition: TopicPartition) {
        let mut waiting = self.waiting();
        if waiting.known.remove(&partition) == Some(true) {
            drop(waiting);
            self.add(partition);
        }
    }
}

/// One of the tasks that carry out moves, until told to stop.
pub async fn run(replicas: Arc<ReplicaManager>, mut shutdown: watch::Receiver<bool>) {
    let moves = replicas.dir_moves();
    loop {
        tokio::select! {
            () = carry_on(&replicas, moves) => {}
            _ = shutdown.wait_for(|stops| *stops) => return,
        }
    }
}

/// One step of one move. Dropped half way it may leave a move undone, as the end of the broker does.
async fn carry_on(replicas: &Arc<ReplicaManager>, moves: &DirMoves) {
    let Move { partition, is_first, failures } = moves.next().await;
    while moves.throttle.is_exceeded(Instant::now()) {
        tokio::time::sleep(THROTTLED_PAUSE).await;
    }
    let (log_dirs, name) = (Arc::clone(replicas.log_dirs()), partition.clone());
    let dir = log_dirs.get(&partition).map(|log| log.parent_dir());
    let step = replicas.io().run_in(dir.as_deref(), move || log_dirs.move_on(&name, is_first, wall_clock_ms())).await;
    match step {
        Ok(Ok(Step::Copied(bytes))) => {
            moves.throttle.record(bytes as usize, Instant::now());
            moves.go_on_with(Move { partition, is_first: false, failures: 0 });
        }
        Ok(Ok(Step::Over)) => moves.is_over(partition),
        Ok(Err(why)) => {
            warn!("{partition} cannot be copied to another log directory for now: {why}");
            let backoff = (FIRST_BACKOFF * 2u32.saturating_pow(failures.min(16))).min(LONGEST_BACKOFF);
            let replicas = Arc::clone(replicas);
            tokio::spawn(async move {
                tokio::time::sleep(backoff).await;
                replicas.dir_moves().go_on_with(Move { partition, is_first: true, failures: failures + 1 });
            });
        }
        Err(ShuttingDown) => moves.is_over(partition),
    }
}

/// Why a replica is not moved to a directory.
#[derive(Debug)]
pub enum MoveRefusal {
    Target(NoTarget),
    Replica(ReplicaError),
}

impl ReplicaManager {
    pub fn dir_moves(&self) -> &DirMoves {
        &self.dir_moves
    }

    /// Moves a replica to a directory of this broker, by its path. One that is not here is created there when it comes, and
    /// refused now.
    pub async fn move_to_dir(&self, name: TopicPartition, path: Arc<str>, now_ms: i64) -> Result<(), MoveRefusal> {
        self.log_dirs.check_target(&name, &path).map_err(MoveRefusal::Target)?;
        let hosted = self.partition_to_look_at(&name.topic, name.partition);
        if let Err(ReplicaError::Offline) = hosted {
            return Err(MoveRefusal::Replica(ReplicaError::Offline));
        }
        if self.log_dirs.get(&name).is_none() && !self.log_dirs.has_future(&name) {
            self.log_dirs.prefer(&name, &path);
            return Err(MoveRefusal::Replica(hosted.err().unwrap_or(ReplicaError::NotLeaderOrFollower)));
        }
        let (log_dirs, asked) = (Arc::clone(&self.log_dirs), name.clone());
        let dir = self.log_dirs.get(&name).map(|log| log.parent_dir());
        let begun = self.io.run_in(dir.as_deref(), move || log_dirs.begin_move(&asked, &path, now_ms)).await;
        let refused = |why: ReplicaError| Err(MoveRefusal::Replica(why));
        match begun {
            Ok(Ok(MoveBegun::Moving)) => {
                self.dir_moves.add(name);
                Ok(())
            }
            Ok(Ok(MoveBegun::Already)) => Ok(()),
            Ok(Ok(MoveBegun::NotHere)) => refused(hosted.err().unwrap_or(ReplicaError::NotLeaderOrFollower)),
            Ok(Err(why)) => {
                warn!("{name} is not moved: {why}");
                let is_offline = matches!(why, LogError::Offline { .. }) || why.is_storage_failure();
                refused(if is_offline { ReplicaError::Offline } else { why.into() })
            }
            Err(ShuttingDown) => refused(ReplicaError::ShuttingDown),
        }
    }

    /// Goes on with moves that an earlier life of this broker has begun, once their partitions have been decided about.
    pub(super) fn resume_moves<'a>(&self, partitions: impl Iterator<Item = &'a TopicPartition>) {
        let moving = partitions.filter(|name| self.log_dirs.has_future(name));
        moving.for_each(|name| self.dir_moves.add(name.clone()));
    }
}
