//! Fetches over many partitions: what is read at once, what waits, and what I/O threads bring into memory first.

use std::sync::Arc;

use log::warn;
use tokio::time::Instant;

use crate::codec::writer::FileRegion;
use crate::log::FirstBatch;
use crate::model::TopicId;
use crate::replica::cached::{begins_cached, is_cached, read_ahead};
use crate::replica::error::ReplicaError;
use crate::replica::partition::{FetchLimits, FetchParams, Fetched, Fetcher};
use crate::replica::replica_manager::ReplicaManager;
use crate::replica::waiters::ParkedFetch;

/// What one fetch asks of one partition.
#[derive(Clone, Debug)]
pub struct PartitionQuery {
    pub topic: Arc<str>,
    pub partition: i32,
    /// Zero when the fetcher names topics.
    pub topic_id: TopicId,
    pub params: FetchParams,
}

/// How the byte limits of a fetch are meant (KIP-74).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitRule {
    /// The reply and each partition are cut at their limits, within the first batch too.
    Hard,
    /// The first batch of the reply is returned even if it is larger than all limits, so that a fetcher is never stuck;
    /// each later partition begins with a whole batch or is empty.
    Soft,
}

/// One fetch over many partitions.
#[derive(Clone, Debug)]
pub struct FetchQuery {
    pub fetcher: Fetcher,
    /// It waits until there are so many bytes.
    pub min_bytes: usize,
    pub bytes_max: u32,
    pub limits: LimitRule,
    pub partitions: Vec<PartitionQuery>,
}

impl ReplicaManager {
    /// Reads from many partitions, in their order. Waits until there is enough to read, until a partition has something
    /// to tell, or until the deadline. One outcome for each partition asked for.
    pub async fn fetch(
        &self,
        query: &FetchQuery,
        deadline: Instant,
        now_ms: i64,
    ) -> Vec<Result<Fetched, ReplicaError>> {
        let mut is_last = query.partitions.is_empty() || deadline <= Instant::now();
        let mut asked_ms = Some(now_ms);
        let outcomes = loop {
            let outcomes = self.read(query, asked_ms.take());
            let bytes: usize = outcomes.iter().flatten().map(Fetched::bytes).sum();
            let must_tell =
                outcomes.iter().any(|outcome| outcome.as_ref().is_ok_and(|fetched| fetched.diverging.is_some()))
                    || outcomes.iter().any(Result::is_err);
            if is_last || must_tell || bytes >= query.min_bytes {
                break outcomes;
            }
            let waited_for = query.partitions.iter().zip(&outcomes);
            let waited_for = waited_for
                .filter_map(|(asked, outcome)| outcome.as_ref().ok().map(|got| got.waited_for_bytes(&asked.params)));
            // A fetch that has fallen behind the last segment is answered with whatever there was room for.
            let Some(waited_for) = waited_for.sum::<Option<u64>>() else { break outcomes };
            let missing_bytes = i64::try_from((query.min_bytes as u64).saturating_sub(waited_for)).unwrap_or(i64::MAX);
            if missing_bytes == 0 {
                break outcomes;
            }
            let parked = ParkedFetch::new(missing_bytes);
            for (asked, outcome) in query.partitions.iter().zip(&outcomes) {
                match (self.hosted.get(&asked.topic, asked.partition), outcome) {
                    (Some(partition), Ok(fetched)) => partition.park_fetch(&parked, query.fetcher, fetched.end),
                    // It went away since it was read.
                    (None, _) | (_, Err(_)) => parked.wake(),
                }
            }
            // What was read is dropped: it is read again with what has arrived since.
            drop(outcomes);
            is_last = !parked.wait(deadline).await;
            parked.finish();
        };
        self.warm_up(&outcomes).await;
        outcomes
    }

    /// Source: kafka 3.9.0-rc3 ReplicaManager.scala (readFromLog).
    fn read(&self, query: &FetchQuery, asked_ms: Option<i64>) -> Vec<Result<Fetched, ReplicaError>> {
        let first_batch = match query.limits {
            LimitRule::Hard => FirstBatch::Cut,
            LimitRule::Soft => FirstBatch::Whole,
        };
        let mut limits = FetchLimits { bytes_left: query.bytes_max, first_batch, asked_ms };
        let read_one = |asked: &PartitionQuery| {
            let partition = self.partition(&asked.topic, asked.partition)?;
            let fetched = partition.fetch(query.fetcher, &asked.params, asked.topic_id, limits)?;
            if let Some(region) = fetched.region() {
                limits.bytes_left = limits.bytes_left.saturating_sub(region.len);
                if limits.first_batch == FirstBatch::Whole {
                    limits.first_batch = FirstBatch::IfItFits;
                }
            }
            Ok(fetched)
        };
        query.partitions.iter().map(read_one).collect()
    }

    /// Lets I/O threads bring what is not cached into memory, so that sending it holds up no connection; and what a
    /// sequential reader will ask for next, so that finding it holds up none either.
    async fn warm_up(&self, outcomes: &[Result<Fetched, ReplicaError>]) {
        for fetched in outcomes.iter().flatten() {
            let (Some(batches), Some(region)) = (&fetched.batches, fetched.region()) else { continue };
            if !is_cached(region) {
                let region = region.clone();
                match self.io.run(move || read_ahead(&region)).await {
                    Ok(Ok(())) => {}
                    // Sending it will meet the same error, and ends the connection.
                    Ok(Err(why)) => warn!("read ahead of a fetch: {why}"),
                    Err(_) => return,
                }
            }
            if batches.reached_limit {
                continue;
            }
            let next = FileRegion { position: region.position + u64::from(region.len), ..region.clone() };
            if !begins_cached(&next) {
                // It is only a matter of speed: the next fetch looks again.
                let _ = self.io.offer(move || drop(read_ahead(&next)));
            }
        }
    }
}
