//! Flushes that acknowledgements wait for: one of a log at a time, shared by all that were appended before it began.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::log::error::LogError;
use crate::model::clock::wall_clock_ms;
use crate::model::{LeaderEpoch, Offset};
use crate::replica::io::IoThreads;
use crate::replica::partition::Partition;
use crate::replica::partition_log::PartitionLog;
use crate::replica::waiters::NotCommitted;

/// Between two attempts at a flush that failed for a reason that may pass.
const RETRY: Duration = Duration::from_millis(500);

/// Resolves after the flush.
pub(crate) type Flushed = oneshot::Receiver<Result<(), NotCommitted>>;

/// Those who wait for a flush that has not begun; `None` while there is none.
#[derive(Debug, Default)]
pub(crate) struct SharedFlush(Mutex<Option<Vec<Waiter>>>);

#[derive(Debug)]
struct Waiter {
    /// In which epoch the records were appended, and where they end, exclusive.
    leader_epoch: LeaderEpoch,
    until: Offset,
    reply: oneshot::Sender<Result<(), NotCommitted>>,
}

/// What came of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// All below is on the disk.
    Until(Offset),
    /// For a reason that may pass.
    Again,
    Never(NotCommitted),
}

impl SharedFlush {
    fn waiting(&self) -> MutexGuard<'_, Option<Vec<Waiter>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins those who wait. True if it is for the caller to begin.
    fn join(&self, leader_epoch: LeaderEpoch, until: Offset) -> (Flushed, bool) {
        let (reply, flushed) = oneshot::channel();
        let mut waiting = self.waiting();
        let is_first = waiting.is_none();
        let waiting = waiting.get_or_insert_default();
        // Unless an acknowledgement is wanted nobody waits, and one for all of them is enough.
        while waiting.last().is_some_and(|last| last.reply.is_closed()) {
            waiting.pop();
        }
        waiting.push(Waiter { leader_epoch, until, reply });
        (flushed, is_first)
    }

    /// Whom the next flush serves; `None` if nobody has come since, and there is none then.
    fn next(&self) -> Option<Vec<Waiter>> {
        let mut waiting = self.waiting();
        match waiting.as_mut().map(std::mem::take) {
            Some(next) if !next.is_empty() => Some(next),
            _ => {
                *waiting = None;
                None
            }
        }
    }
}

impl Waiter {
    fn answer(self, outcome: Result<(), NotCommitted>) {
        // It may have given up.
        let _ = self.reply.send(outcome);
    }
}

impl<L: PartitionLog> Partition<L> {
    /// Has the log flushed up to where records end that were appended in that epoch, whether anybody waits for it or not.
    pub(crate) fn flushed(
        self: &Arc<Partition<L>>,
        leader_epoch: LeaderEpoch,
        until: Offset,
        io: &Arc<IoThreads>,
    ) -> Flushed {
        let (flushed, is_first) = self.flushes.join(leader_epoch, until);
        if is_first {
            // Of its own: whoever asked may not be heard for long, and others share it.
            tokio::spawn(Arc::clone(self).flush_for_all(Arc::clone(io)));
        }
        flushed
    }

    async fn flush_for_all(self: Arc<Partition<L>>, io: Arc<IoThreads>) {
        while let Some(mut served) = self.flushes.next() {
            loop {
                let flushing = Arc::clone(&self);
                let flush = move || {
                    let outcome = flushing.flush();
                    if outcome == Outcome::Again && served.iter().any(|waiter| !waiter.reply.is_closed()) {
                        return Some(served);
                    }
                    served.into_iter().for_each(|waiter| flushing.answer(waiter, outcome));
                    None
                };
                // Without a thread the broker is shutting down, and nobody is answered.
                let Ok(Some(again)) = io.run_in(self.parent_dir().as_deref(), flush).await else { break };
                served = again;
                // A timer: a disk does not tell when it has room again.
                tokio::time::sleep(RETRY).await;
                served.retain(|waiter| !waiter.reply.is_closed());
            }
        }
    }

    /// Takes the partition's lock.
    fn answer(&self, waiter: Waiter, outcome: Outcome) {
        let is_there = |end| waiter.until <= end && self.has_kept(waiter.leader_epoch, waiter.until);
        let answer = match outcome {
            Outcome::Until(end) if is_there(end) => Ok(()),
            // It was cut off meanwhile.
            Outcome::Until(_) | Outcome::Again => Err(NotCommitted::NotLeader),
            Outcome::Never(why) => Err(why),
        };
        waiter.answer(answer);
    }

    fn flush(&self) -> Outcome {
        let Some(log) = self.log() else {
            return Outcome::Never(if self.is_offline() { NotCommitted::Offline } else { NotCommitted::NotLeader });
        };
        match log.flush_for_acknowledgement(wall_clock_ms()) {
            Ok(until) => Outcome::Until(until),
            Err(why) => {
                log::log!(why.level(), "{}: {why}", self.name());
                match why {
                    LogError::Closed => Outcome::Never(NotCommitted::NotLeader),
                    LogError::Offline { .. } => Outcome::Never(NotCommitted::Offline),
                    why if why.is_storage_failure() => Outcome::Never(NotCommitted::Offline),
                    _ => Outcome::Again,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_flush_serves_all_that_were_appended_before_it_began() {
        let flushes = SharedFlush::default();
        let epoch = LeaderEpoch(0);
        assert!(flushes.join(epoch, Offset(3)).1);
        let (_second, begins) = flushes.join(epoch, Offset(5));
        assert!(!begins, "one is about to begin");
        let until = |served: Option<Vec<Waiter>>| served.map(|all| all.iter().map(|one| one.until.0).collect());
        assert_eq!(until(flushes.next()), Some(vec![5]), "nobody waits for the first");
        let (_third, begins) = flushes.join(epoch, Offset(6));
        assert!(!begins, "one is under way");
        for offset in 7..1000 {
            drop(flushes.join(epoch, Offset(offset)));
        }
        assert_eq!(until(flushes.next()), Some(vec![6, 999]), "one is enough for those who do not wait");
        assert_eq!(until(flushes.next()), None);
        assert!(flushes.join(epoch, Offset(1000)).1, "there was nobody left to serve");
    }
}
