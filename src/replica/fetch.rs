//! Fetches over many partitions: what is read at once, what waits, and what I/O threads bring into memory first.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use log::{debug, warn};
use tokio::time::Instant;

use crate::codec::writer::FileRegion;
use crate::log::{FirstBatch, without_waiting};
use crate::model::TopicId;
use crate::replica::cached::{begins_cached, is_cached, read_ahead, what_follows};
use crate::replica::counters::add;
use crate::replica::error::ReplicaError;
use crate::replica::fetch_session::{
    NO_SESSION, OpenSession, Opened, Parking, PendingRead, SessionRefusal, SessionRequest,
};
use crate::replica::partition::{Disk, FetchLimits, FetchParams, Fetched, Fetcher, Partition};
use crate::replica::replica_manager::ReplicaManager;
use crate::replica::replica_selector::Reader;
use crate::replica::waiters::ParkedFetch;

/// After so many partitions others have their turn on the thread.
pub(super) const PARTITIONS_A_SLICE: usize = 256;

/// What one fetch asks of one partition.
#[derive(Clone, Debug)]
pub struct PartitionQuery {
    /// `None` for an id that this broker does not know.
    pub topic: Option<Arc<str>>,
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
    /// A consumer that may be sent to a replica near to it; `None` if it does not say where it is.
    pub reader: Option<Reader>,
    /// It waits until there are so many bytes.
    pub min_bytes: usize,
    pub bytes_max: u32,
    pub limits: LimitRule,
    pub partitions: Vec<PartitionQuery>,
}

/// What a fetcher is told.
#[derive(Debug)]
pub struct FetchReply {
    /// Then there is nothing else to tell.
    pub refusal: Option<SessionRefusal>,
    /// 0 without a session.
    pub session_id: i32,
    /// Partitions that are not known come last.
    pub answers: Vec<(PartitionQuery, Outcome)>,
}

pub(crate) type Outcome = Result<Fetched, ReplicaError>;

/// The partitions that a fetch reads each time that it looks: those that it names, or what is pending of its session.
enum Reads<'a> {
    Named(&'a [PartitionQuery]),
    Pending(Vec<PendingRead>),
}

impl Reads<'_> {
    fn len(&self) -> usize {
        match self {
            Reads::Named(queries) => queries.len(),
            Reads::Pending(reads) => reads.len(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&PartitionQuery, Option<&Arc<Partition>>)> {
        (0..self.len()).map(|at| match self {
            Reads::Named(queries) => (&queries[at], None),
            Reads::Pending(reads) => (&reads[at].query, reads[at].hosted.as_ref()),
        })
    }
}

/// What a look at many partitions came to.
struct Looked {
    /// One for each.
    outcomes: Vec<Outcome>,
    bytes: usize,
    /// By which a fetch waits; `None` if it must not.
    waited_for_bytes: Option<u64>,
    /// There is something to tell that no wait may hold back.
    must_tell: bool,
    unknown: usize,
    refused: usize,
    /// Of those, what counts for the leader's replication quota.
    throttled_bytes: usize,
}

impl Looked {
    fn new(count: usize) -> Looked {
        let outcomes = Vec::with_capacity(count);
        Looked {
            outcomes,
            bytes: 0,
            waited_for_bytes: Some(0),
            must_tell: false,
            unknown: 0,
            refused: 0,
            throttled_bytes: 0,
        }
    }

    fn push(&mut self, asked: &FetchParams, outcome: Outcome) {
        match &outcome {
            Ok(fetched) => {
                self.bytes += fetched.bytes();
                self.throttled_bytes += if fetched.is_throttled { fetched.bytes() } else { 0 };
                let waited_for = fetched.waited_for_bytes(asked);
                self.waited_for_bytes = self.waited_for_bytes.zip(waited_for).map(|(before, more)| before + more);
                self.must_tell |= fetched.diverging.is_some() || fetched.preferred_read_replica.is_some();
            }
            Err(_) => {
                self.refused += 1;
                match is_unknown(&outcome) {
                    true => self.unknown += 1,
                    false => self.must_tell = true,
                }
            }
        }
        self.outcomes.push(outcome);
    }
}

/// Where a fetch finds a partition.
enum Found {
    Here(Arc<Partition>),
    /// Whoever looks at it may wait.
    HeldUp(Arc<Partition>),
    /// What sends the consumer to another replica.
    Elsewhere(Box<Fetched>),
}

/// Of a directory one region is read again at a time: that it is one ends with this.
pub(super) struct Doubted {
    dirs: Arc<Mutex<HashSet<PathBuf>>>,
    dir: PathBuf,
}

impl Doubted {
    fn begin(dirs: &Arc<Mutex<HashSet<PathBuf>>>, dir: &Path) -> Option<Doubted> {
        let is_first = dirs.lock().unwrap_or_else(PoisonError::into_inner).insert(dir.to_owned());
        is_first.then(|| Doubted { dirs: Arc::clone(dirs), dir: dir.to_owned() })
    }
}

impl Drop for Doubted {
    fn drop(&mut self) {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.dir);
    }
}

/// The cluster has no such partition: an answer for its own sake, which ends no wait of the others.
pub(crate) fn is_unknown(outcome: &Outcome) -> bool {
    matches!(outcome, Err(ReplicaError::UnknownTopicId | ReplicaError::UnknownTopicOrPartition))
}

/// A fetch whose partitions change faster than it can read them looks again at once, and might do so until its deadline:
/// others have the thread between.
async fn give_way(looks_again: bool) {
    if looks_again {
        tokio::task::yield_now().await;
    }
}

impl ReplicaManager {
    /// Reads as [`ReplicaManager::fetch`] does, in a session if the request names one or asks for one.
    pub async fn fetch_in_session(
        &self,
        request: &SessionRequest,
        mut query: FetchQuery,
        deadline: Instant,
        asked: std::time::Instant,
    ) -> FetchReply {
        let mut reply = FetchReply { refusal: None, session_id: NO_SESSION, answers: Vec::new() };
        let opened = self.sessions.open(request, query.fetcher, &mut query.partitions, asked);
        self.drop_ended_sessions();
        match opened {
            Opened::Refused(why) => reply.refusal = Some(why),
            opened @ (Opened::Sessionless | Opened::Full) => {
                let outcomes = self.fetch(&query, deadline, asked).await;
                reply.answers = query.partitions.into_iter().zip(outcomes).collect();
                if matches!(opened, Opened::Full) {
                    let uses_topic_ids = request.uses_topic_ids;
                    reply.session_id = self.sessions.create(uses_topic_ids, query.fetcher, &reply.answers, asked).await;
                    self.drop_ended_sessions();
                }
                reply.answers.sort_by_key(|(_, outcome)| is_unknown(outcome));
            }
            Opened::Incremental(session) => {
                reply.session_id = request.session_id;
                let (reads, outcomes) = self.read_until(&query, Some(&session), deadline, asked).await;
                if let Reads::Pending(reads) = reads {
                    match session.close(reads, outcomes).await {
                        Ok(answers) => reply.answers = answers,
                        Err(why) => reply.refusal = Some(why),
                    }
                }
            }
        }
        reply
    }

    /// On an I/O thread: one may have as many partitions as all of them.
    pub(super) fn drop_ended_sessions(&self) {
        if let Some(ended) = self.sessions.take_ended() {
            self.io.offer(move || drop(ended));
        }
    }

    /// Reads from many partitions, in their order. Waits until there is enough to read, until a partition has something
    /// to tell, or until the deadline. One outcome for each partition asked for.
    pub async fn fetch(&self, query: &FetchQuery, deadline: Instant, asked: std::time::Instant) -> Vec<Outcome> {
        self.read_until(query, None, deadline, asked).await.1
    }

    async fn read_until<'a>(
        &self,
        query: &'a FetchQuery,
        session: Option<&OpenSession>,
        deadline: Instant,
        asked: std::time::Instant,
    ) -> (Reads<'a>, Vec<Outcome>) {
        let mut is_last = deadline <= Instant::now();
        let mut asked = Some(asked);
        let mut unknown_at_first = None;
        let (reads, looked) = loop {
            let reads = match session {
                None => Reads::Named(&query.partitions),
                Some(session) => {
                    let mut reads = session.pending(&self.hosted, &self.around.metadata.image()).await;
                    session.watch_held_up(&mut reads, &self.hosted, &self.io).await;
                    Reads::Pending(reads)
                }
            };
            let looked = self.read(query, &reads, asked.take()).await;
            // One that became unknown while the fetch waited is told at once.
            let may_be_unknown = *unknown_at_first.get_or_insert(looked.unknown);
            let is_alone = looked.unknown == session.map_or(reads.len(), OpenSession::len);
            let must_tell = looked.must_tell || looked.unknown > may_be_unknown;
            if is_last || is_alone || must_tell || looked.bytes >= query.min_bytes {
                break (reads, looked);
            }
            // A fetch that has fallen behind the last segment is answered with whatever there was room for.
            let Some(waited_for) = looked.waited_for_bytes else { break (reads, looked) };
            let missing_bytes = i64::try_from((query.min_bytes as u64).saturating_sub(waited_for)).unwrap_or(i64::MAX);
            if missing_bytes == 0 {
                break (reads, looked);
            }
            add(&self.counters.fetches_parked, 1);
            // What was read is dropped: it is read again with what has arrived since.
            let parking = match session {
                None => Parking::Parked(self.park(query, looked.outcomes, missing_bytes).await),
                Some(session) => {
                    drop((reads, looked));
                    session.park(query.fetcher.waits_for(), missing_bytes)
                }
            };
            is_last = match parking {
                Parking::Parked(parked) => {
                    give_way(parked.is_finished()).await;
                    let is_woken = parked.wait(deadline).await;
                    parked.finish();
                    !is_woken || session.is_some_and(|session| !session.is_current())
                }
                Parking::LooksAgain => {
                    give_way(true).await;
                    deadline <= Instant::now()
                }
                Parking::Overtaken => true,
            };
            if is_last {
                add(&self.counters.fetches_expired, 1);
            }
        };
        self.count(query.fetcher, &looked);
        if looked.bytes > 0 {
            self.warm_up(&reads, &looked.outcomes).await;
        }
        (reads, looked.outcomes)
    }

    /// Counts what a fetcher is told.
    fn count(&self, fetcher: Fetcher, looked: &Looked) {
        if looked.bytes > 0 {
            match fetcher {
                Fetcher::Consumer { .. } => add(&self.counters.bytes_out, looked.bytes),
                Fetcher::Follower { .. } => add(&self.counters.replication_bytes_out, looked.bytes),
            }
        }
        if looked.throttled_bytes > 0 {
            self.around.leader_throttle.record(looked.throttled_bytes, (self.around.clock)());
        }
        if looked.refused > 0 {
            add(&self.counters.fetches_refused, looked.refused);
        }
    }

    /// Registers a fetch with each partition that it names.
    async fn park(&self, query: &FetchQuery, outcomes: Vec<Outcome>, missing_bytes: i64) -> Arc<ParkedFetch> {
        let parked = ParkedFetch::new(missing_bytes);
        for (asked, outcome) in query.partitions.iter().zip(&outcomes) {
            let hosted = asked.topic.as_ref().and_then(|topic| self.hosted.get(topic, asked.partition));
            let disk = hosted.as_ref().map_or(Disk::KeepsUp, |partition| partition.disk());
            match (hosted, outcome) {
                (Some(_), Ok(_)) if disk == Disk::Failed => parked.wake(),
                (Some(partition), Ok(fetched)) if disk == Disk::HeldUp => {
                    let (dir, parked, fetcher, end) =
                        (partition.parent_dir(), Arc::clone(&parked), query.fetcher, fetched.end);
                    // Without a thread the broker is shutting down, and the fetch ends with its deadline.
                    let _ = self.io.run_in(dir.as_deref(), move || partition.park_fetch(&parked, fetcher, end)).await;
                }
                (Some(partition), Ok(fetched)) => partition.park_fetch(&parked, query.fetcher, fetched.end),
                (_, Err(_)) if is_unknown(outcome) => {}
                // It went away since it was read.
                (None, _) | (_, Err(_)) => parked.wake(),
            }
        }
        parked
    }

    /// Source: kafka 3.9.0-rc3 ReplicaManager.scala (readFromLog).
    async fn read(&self, query: &FetchQuery, reads: &Reads<'_>, asked: Option<std::time::Instant>) -> Looked {
        add(&self.counters.partitions_read, reads.len());
        let image = self.around.metadata.image();
        let reader = query.reader.as_ref().filter(|_| self.config.rack_aware_reads);
        let first_batch = match query.limits {
            LimitRule::Hard => FirstBatch::Cut,
            LimitRule::Soft => FirstBatch::Whole,
        };
        let is_any_held_up = self.log_dirs.is_any_held_up();
        let mut limits = FetchLimits { bytes_left: query.bytes_max, first_batch, asked };
        // Where it is read, or what is told instead.
        let find = |(asked, hosted): (&PartitionQuery, Option<&Arc<Partition>>)| {
            let Some(topic) = &asked.topic else { return Err(ReplicaError::UnknownTopicId) };
            if image.partition(topic, asked.partition).is_none() {
                return Err(ReplicaError::UnknownTopicOrPartition);
            }
            if is_any_held_up {
                let hosted = hosted.cloned().or_else(|| self.hosted.get(topic, asked.partition));
                if let Some(held_up) = hosted.filter(|hosted| hosted.is_held_up()) {
                    return Ok(Found::HeldUp(held_up));
                }
            }
            let partition = match hosted {
                Some(hosted) if hosted.has_failed_log() => return Err(ReplicaError::Offline),
                Some(hosted) => Arc::clone(hosted),
                None => self.partition(topic, asked.partition)?,
            };
            if let Some(reader) = reader
                && let Some(elsewhere) =
                    partition.elsewhere(reader, query.fetcher, &asked.params, asked.topic_id, &image)?
            {
                return Ok(Found::Elsewhere(Box::new(elsewhere)));
            }
            Ok(Found::Here(partition))
        };
        let mut looked = Looked::new(reads.len());
        for read in reads.iter() {
            if looked.outcomes.len() % PARTITIONS_A_SLICE == PARTITIONS_A_SLICE - 1 {
                tokio::task::yield_now().await;
            }
            let outcome = match find(read) {
                Ok(Found::Here(partition)) => self.read_one(partition, query.fetcher, read.0, limits).await,
                Ok(Found::HeldUp(partition)) => self.read_beside(partition, query.fetcher, read.0, limits).await,
                Ok(Found::Elsewhere(elsewhere)) => Ok(*elsewhere),
                Err(refused) => Err(refused),
            };
            if let Some(region) = outcome.as_ref().ok().and_then(Fetched::region) {
                limits.bytes_left = limits.bytes_left.saturating_sub(region.len);
                if limits.first_batch == FirstBatch::Whole {
                    limits.first_batch = FirstBatch::IfItFits;
                }
            }
            looked.push(&read.0.params, outcome);
        }
        looked
    }

    /// On an I/O thread if the way to the batches, through indexes and headers, is not in memory.
    async fn read_one(
        &self,
        partition: Arc<Partition>,
        fetcher: Fetcher,
        asked: &PartitionQuery,
        limits: FetchLimits,
    ) -> Outcome {
        let (params, topic_id) = (&asked.params, asked.topic_id);
        match without_waiting(|| partition.fetch(fetcher, params, topic_id, limits)) {
            Err(why) if why.would_wait() => self.read_beside(partition, fetcher, asked, limits).await,
            read => read,
        }
    }

    /// On an I/O thread.
    async fn read_beside(
        &self,
        partition: Arc<Partition>,
        fetcher: Fetcher,
        asked: &PartitionQuery,
        limits: FetchLimits,
    ) -> Outcome {
        let (dir, params, topic_id) = (partition.parent_dir(), asked.params.clone(), asked.topic_id);
        self.io.run_in(dir.as_deref(), move || partition.fetch(fetcher, &params, topic_id, limits)).await?
    }

    /// What was found in a log could not be sent: an I/O thread reads it, one region of each directory at a time, and the
    /// directory hears what comes of that, whatever has become of the log.
    pub fn region_failed(&self, region: FileRegion) {
        let Some(source) = region.source.clone().filter(|source| !source.is_offline()) else { return };
        let Some(doubted) = Doubted::begin(&self.doubted, source.dir()) else { return };
        let dir = source.dir().to_owned();
        let read = move || {
            let _doubted = doubted;
            source.observe_read(read_ahead(&region));
        };
        if !self.io.offer_in(&dir, read) {
            debug!("what could not be sent is not read again: the I/O threads have too much to do");
        }
    }

    /// Lets I/O threads bring what is not cached into memory, so that sending it holds up no connection; and what a
    /// sequential reader will ask for next, so that finding it holds up none either.
    async fn warm_up(&self, reads: &Reads<'_>, outcomes: &[Outcome]) {
        for ((asked, hosted), outcome) in reads.iter().zip(outcomes) {
            let Ok(fetched) = outcome else { continue };
            let (Some(batches), Some(region)) = (&fetched.batches, fetched.region()) else { continue };
            if !is_cached(region) {
                let region = region.clone();
                let named = || asked.topic.as_ref().and_then(|topic| self.hosted.get(topic, asked.partition));
                let Some(hosted) = hosted.cloned().or_else(named) else { continue };
                let dir = hosted.parent_dir();
                let read = move || hosted.log().map_or(Ok(()), |log| log.observe_read(read_ahead(&region)));
                match self.io.run_in(dir.as_deref(), read).await {
                    Ok(Ok(())) => {}
                    // Sending it will meet the same error, and ends the connection.
                    Ok(Err(why)) => warn!("read ahead of a fetch: {why}"),
                    Err(_) => return,
                }
            }
            if batches.reached_limit {
                continue;
            }
            let next = what_follows(region);
            if !begins_cached(&next) {
                // It is only a matter of speed: the next fetch looks again.
                let source = next.source.clone();
                let read = move || drop(read_ahead(&next));
                let _ = match source {
                    Some(source) => self.io.offer_in(source.dir(), read),
                    None => self.io.offer(read),
                };
            }
        }
    }
}
