//! What was read for fetches that had gone on without it: whoever asks for the same a little later gets it. A disk that takes
//! longer than fetches wait would otherwise never give them anything, since each would ask it anew.

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
    fn is(&self, other: &Wanted) -> bool {
        Arc::ptr_eq(&self.partition, &other.partition)
            && (self.fetcher, &self.params, self.topic_id) == (other.fetcher, &other.params, other.topic_id)
    }
}

#[derive(Default)]
pub(super) struct LateReads {
    kept: Mutex<Vec<(Instant, Wanted, Fetched)>>,
}

impl LateReads {
    fn kept(&self) -> MutexGuard<'_, Vec<(Instant, Wanted, Fetched)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is kept of a partition that had nothing to read: it may have by the time that somebody asks.
    pub fn keep(self: &Arc<Self>, wanted: Wanted, fetched: Fetched, runtime: &Handle) {
        if fetched.bytes() == 0 {
            return;
        }
        self.kept().push((Instant::now(), wanted, fetched));
        let this = Arc::clone(self);
        runtime.spawn(async move {
            // A timer: nobody may come for it, and nothing tells that.
            tokio::time::sleep(KEPT_FOR).await;
            this.kept().retain(|(since, ..)| since.elapsed() < KEPT_FOR);
        });
    }

    pub fn take(&self, wanted: &Wanted) -> Option<Fetched> {
        let mut kept = self.kept();
        let at = kept.iter().position(|(_, known, _)| known.is(wanted))?;
        Some(kept.remove(at).2)
    }
}
