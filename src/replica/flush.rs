//! Flushes that acknowledgements wait for: one of a log at a time, shared by all that were appended before it began.

use std::sync::{Arc, Mutex, PoisonError};

use log::error;
use tokio::sync::oneshot;

use crate::model::Offset;
use crate::model::clock::wall_clock_ms;
use crate::replica::io::IoThreads;
use crate::replica::partition::Partition;
use crate::replica::partition_log::PartitionLog;
use crate::replica::waiters::NotCommitted;

/// Resolves after the flush.
pub(crate) type Flushed = oneshot::Receiver<Result<(), NotCommitted>>;

/// Those who wait for the log to be on the disk up to an offset; `None` while none is flushing it.
#[derive(Debug, Default)]
pub(crate) struct SharedFlush(Mutex<Option<Vec<Waiter>>>);

#[derive(Debug)]
struct Waiter {
    /// Exclusive.
    until: Offset,
    reply: oneshot::Sender<Result<(), NotCommitted>>,
}

impl SharedFlush {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Option<Vec<Waiter>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins those who wait. True if it is for the caller to begin.
    fn join(&self, until: Offset) -> (Flushed, bool) {
        let (reply, flushed) = oneshot::channel();
        let mut waiting = self.waiting();
        let is_first = waiting.is_none();
        let waiting = waiting.get_or_insert_default();
        // Unless an acknowledgement is wanted nobody waits, and one for all of them is enough.
        while waiting.last().is_some_and(|last| last.reply.is_closed()) {
            waiting.pop();
        }
        waiting.push(Waiter { until, reply });
        (flushed, is_first)
    }

    /// Answers those whom a flush has served; all, if it failed. True if there are more.
    fn answer(&self, outcome: Result<Offset, NotCommitted>) -> bool {
        let mut waiting = self.waiting();
        let all = waiting.take().unwrap_or_default();
        let (served, later): (Vec<_>, Vec<_>) = match outcome {
            Ok(until) => all.into_iter().partition(|waiter| waiter.until <= until),
            Err(_) => (all, Vec::new()),
        };
        let are_more = !later.is_empty();
        *waiting = are_more.then_some(later);
        drop(waiting);
        for waiter in served {
            // It may have given up.
            let _ = waiter.reply.send(outcome.map(drop));
        }
        are_more
    }
}

impl<L: PartitionLog> Partition<L> {
    /// Has the log flushed up to an offset, whether anybody waits for it or not.
    pub(crate) fn flushed(self: &Arc<Partition<L>>, until: Offset, io: &Arc<IoThreads>) -> Flushed {
        let (flushed, is_first) = self.flushes.join(until);
        if is_first {
            let (partition, io) = (Arc::clone(self), Arc::clone(io));
            // Of its own: whoever asked may not be heard for long, and others share it.
            tokio::spawn(async move {
                loop {
                    let flushing = Arc::clone(&partition);
                    let outcome = io.run_in(partition.parent_dir().as_deref(), move || flushing.flush()).await;
                    let outcome = outcome.unwrap_or(Err(NotCommitted::NotLeader));
                    if !partition.flushes.answer(outcome) {
                        return;
                    }
                }
            });
        }
        flushed
    }

    fn flush(&self) -> Result<Offset, NotCommitted> {
        let log = self.log().ok_or(NotCommitted::NotLeader)?;
        let until = log.flush_for_acknowledgement(wall_clock_ms()).map_err(|why| {
            error!("{}: {why}", self.name());
            if why.is_storage_failure() { NotCommitted::Offline } else { NotCommitted::NotLeader }
        })?;
        Ok(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_flush_serves_all_that_were_appended_before_it_began() {
        let flushes = SharedFlush::default();
        let (mut first, begins) = flushes.join(Offset(3));
        assert!(begins);
        let (mut second, begins) = flushes.join(Offset(5));
        assert!(!begins, "one is under way");
        assert!(flushes.answer(Ok(Offset(3))), "the second is not served yet");
        assert_eq!(first.try_recv(), Ok(Ok(())));
        assert!(second.try_recv().is_err());
        let (mut third, begins) = flushes.join(Offset(5));
        assert!(!begins);
        assert!(!flushes.answer(Ok(Offset(9))));
        assert_eq!((second.try_recv(), third.try_recv()), (Ok(Ok(())), Ok(Ok(()))));
        for until in 10..1000 {
            drop(flushes.join(Offset(until)));
        }
        assert_eq!(flushes.waiting().as_ref().map(Vec::len), Some(1), "nobody waits");
        assert!(!flushes.answer(Ok(Offset(1000))));
        let (mut failed, begins) = flushes.join(Offset(1001));
        assert!(begins);
        assert!(!flushes.answer(Err(NotCommitted::Offline)));
        assert_eq!(failed.try_recv(), Ok(Err(NotCommitted::Offline)));
    }
}
