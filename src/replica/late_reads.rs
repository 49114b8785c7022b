//! What was read for fetches that had gone on without it: whoever asks for the same a little later gets it. A disk that takes
//! longer than fetches wait would otherwise never give them anything, since each would ask it anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::model::TopicId;
use crate::replica::partition::{FetchParams, Fetched, Fetcher, Partition};

/// By then most have asked again. It is as good as what was read for an answer that a slow connection takes no sooner.
const KEPT_FOR: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(super) struct Wanted {
    pub partition: Arc<Partition>,
    pub fetcher: Fetcher,
    pub params: FetchParams,
    pub topic_id: TopicId,
}

impl Wanted {
    fn place(&self) -> usize {
        Arc::as_ptr(&self.partition).addr()
    }

    fn is(&self, other: &Wanted) -> bool {
        Arc::ptr_eq(&self.partition, &other.partition)
            && (self.fetcher, &self.params, self.topic_id) == (other.fetcher, &other.params, other.topic_id)
    }
}

#[derive(Default)]
pub(super) struct LateReads {
    kept: Mutex<Kept>,
}

/// By the place of the partition in memory, which is no other's while something of it is kept.
type Kept = HashMap<usize, Vec<(Instant, Wanted, Fetched)>>;

impl LateReads {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is kept of a partition that had nothing to read: it may have by the time that somebody asks.
    pub fn keep(self: &Arc<Self>, wanted: Wanted, fetched: Fetched, runtime: &Handle) {
        if fetched.bytes() == 0 {
            return;
        }
        let place = wanted.place();
        self.kept().entry(place).or_default().push((Instant::now(), wanted, fetched));
        let this = Arc::clone(self);
        runtime.spawn(async move {
            // A timer: nobody may come for it, and nothing tells that.
            tokio::time::sleep(KEPT_FOR).await;
            this.reduce(place, |of_partition| of_partition.retain(|(since, ..)| since.elapsed() < KEPT_FOR));
        });
    }

    pub fn take(&self, wanted: &Wanted) -> Option<Fetched> {
        self.reduce(wanted.place(), |of_partition| {
            let at = of_partition.iter().position(|(_, known, _)| known.is(wanted))?;
            Some(of_partition.remove(at).2)
        })?
    }

    fn reduce<T>(&self, place: usize, take: impl FnOnce(&mut Vec<(Instant, Wanted, Fetched)>) -> T) -> Option<T> {
        let mut kept = self.kept();
        let of_partition = kept.get_mut(&place)?;
        let taken = take(of_partition);
        if of_partition.is_empty() {
            kept.remove(&place);
        }
        Some(taken)
    }
}
