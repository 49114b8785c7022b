//! Fetches over many partitions: what is read at once, what waits, and what I/O threads bring into memory first.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use log::{debug, warn};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::codec::writer::FileRegion;
use crate::log::{FirstBatch, without_waiting};
use crate::model::TopicId;
use crate::replica::cached::{begins_cached, is_cached, read_ahead, what_follows};
use crate::replica::counters::add;
use crate::replica::disks::{Asked, LeftOut, PATIENCE, Work};
use crate::replica::error::ReplicaError;
use crate::replica::fetch_session::{
    NO_SESSION, OpenSession, Opened, Parking, PendingRead, SessionRefusal, SessionRequest,
};
use crate::replica::late_reads::Wanted;
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

    fn get(&self, at: usize) -> (&PartitionQuery, Option<&Arc<Partition>>) {
        match self {
            Reads::Named(queries) => (&queries[at], None),
            Reads::Pending(reads) => (&reads[at].query, reads[at].hosted.as_ref()),
        }
    }

    /// By which a fetch knows it each time that it looks.
    fn key(&self, at: usize) -> usize {
        match self {
            Reads::Named(_) => at,
            Reads::Pending(reads) => reads[at].slot as usize,
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&PartitionQuery, Option<&Arc<Partition>>)> {
        (0..self.len()).map(|at| self.get(at))
    }
}

/// Of which partitions a follower's fetch says that it asked for them.
struct Asking {
    asked: std::time::Instant,
    /// Of those that it was not said of yet, since their disks did not answer; `None` at the first look: of all. What is read
    /// again says nothing new of the follower, and the log may have grown since it asked.
    of: Option<HashSet<usize>>,
}

impl Asking {
    fn of(&self, key: usize) -> Option<std::time::Instant> {
        self.of.as_ref().is_none_or(|of| of.contains(&key)).then_some(self.asked)
    }

    fn looked(&mut self, reads: &Reads<'_>, outcomes: &[Outcome]) {
        let is_silent = |outcome: &Outcome| matches!(outcome, Err(ReplicaError::DiskIsSilent));
        let silent = outcomes.iter().enumerate().filter(|(_, outcome)| is_silent(outcome));
        let left = silent.map(|(place, _)| reads.key(place)).filter(|&key| self.of(key).is_some()).collect();
        self.of = Some(left);
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
    /// Of which there may be more than their disks have given in time.
    left_out: LeftOut,
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
            left_out: LeftOut::Nothing,
        }
    }

    fn of(reads: &Reads<'_>, outcomes: Vec<Outcome>) -> Looked {
        let mut looked = Looked::new(outcomes.len());
        for ((asked, _), outcome) in reads.iter().zip(outcomes) {
            looked.push(&asked.params, outcome);
        }
        looked
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
            Err(ReplicaError::DiskIsSilent) => self.left_out = self.left_out.max(LeftOut::Silent),
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

    /// Before a fetch is answered that must not be yet.
    fn missing_bytes(&self, min_bytes: usize) -> i64 {
        if self.bytes >= min_bytes {
            return 0;
        }
        // A fetch that has fallen behind the last segment is answered with whatever there was room for.
        let Some(waited_for) = self.waited_for_bytes else { return 0 };
        i64::try_from((min_bytes as u64).saturating_sub(waited_for)).unwrap_or(i64::MAX)
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
        let mut asking = Asking { asked, of: None };
        let mut unknown_at_first = None;
        let (reads, mut looked) = loop {
            let answers = self.disks.answers();
            tokio::pin!(answers);
            let mut left_out = LeftOut::Nothing;
            let reads = match session {
                None => Reads::Named(&query.partitions),
                Some(session) => {
                    let mut reads = session.pending(&self.hosted, &self.around.metadata.image()).await;
                    left_out = session.watch_held_up(&mut reads, &self.hosted, &self.disks).await;
                    Reads::Pending(reads)
                }
            };
            let mut looked = self.read(query, &reads, deadline, &asking).await;
            asking.looked(&reads, &looked.outcomes);
            // One that became unknown while the fetch waited is told at once.
            let may_be_unknown = *unknown_at_first.get_or_insert(looked.unknown);
            let is_alone = looked.unknown == session.map_or(reads.len(), OpenSession::len);
            let must_tell = looked.must_tell || looked.unknown > may_be_unknown;
            let must_answer = is_last || is_alone || must_tell;
            let mut missing_bytes = if must_answer { 0 } else { looked.missing_bytes(query.min_bytes) };
            if missing_bytes == 0 && looked.bytes > 0 {
                self.warm_up(&reads, &mut looked).await;
                if looked.bytes == 0 && !must_answer {
                    missing_bytes = looked.missing_bytes(query.min_bytes);
                }
            }
            if missing_bytes == 0 {
                break (reads, looked);
            }
            left_out = left_out.max(looked.left_out);
            add(&self.counters.fetches_parked, 1);
            // What was read is dropped: it is read again with what has arrived since.
            let parking = match session {
                None => {
                    let (parked, unheard) = self.park(query, looked.outcomes, missing_bytes).await;
                    left_out = left_out.max(unheard);
                    Parking::Parked(parked)
                }
                Some(session) => {
                    drop((reads, looked));
                    session.park(query.fetcher.waits_for(), missing_bytes)
                }
            };
            is_last = match parking {
                Parking::Parked(parked) => {
                    give_way(parked.is_finished()).await;
                    let until = match left_out {
                        LeftOut::Slow => deadline.min(Instant::now() + PATIENCE),
                        LeftOut::Nothing | LeftOut::Silent => deadline,
                    };
                    let is_woken = tokio::select! {
                        is_woken = parked.wait(until) => is_woken || until < deadline,
                        () = answers, if left_out != LeftOut::Nothing => true,
                    };
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
        if let Fetcher::Consumer { .. } = query.fetcher {
            self.refuse_long_silent(&reads, &mut looked).await;
        }
        self.count(query.fetcher, &looked);
        (reads, looked.outcomes)
    }

    #[cfg(test)]
    pub(crate) fn is_any_disk_silent(&self) -> bool {
        !self.disks.silent_dirs().is_empty()
    }

    /// Of a disk that is silent for as long as takes a follower out of an ISR a consumer hears what it would if that had failed,
    /// and looks who leads: what this broker is told of another leader waits for the disk too. A JVM broker would leave the
    /// whole fetch without an answer.
    async fn refuse_long_silent(&self, reads: &Reads<'_>, looked: &mut Looked) {
        let dirs = self.disks.dirs_silent_for(self.around.replica_lag_time_max);
        if dirs.is_empty() {
            return;
        }
        for (place, outcome) in looked.outcomes.iter_mut().enumerate() {
            if place % PARTITIONS_A_SLICE == PARTITIONS_A_SLICE - 1 {
                tokio::task::yield_now().await;
            }
            if matches!(outcome, Err(ReplicaError::DiskIsSilent))
                && self.hosted(reads.get(place)).is_some_and(|hosted| dirs.contains(&hosted.parent_dir()))
            {
                *outcome = Err(ReplicaError::Offline);
                looked.refused += 1;
            }
        }
    }

    fn hosted(&self, (asked, hosted): (&PartitionQuery, Option<&Arc<Partition>>)) -> Option<Arc<Partition>> {
        hosted.cloned().or_else(|| self.hosted.get(asked.topic.as_ref()?, asked.partition))
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

    /// Registers a fetch with each partition that it names, but for those whose disks do not let it in time.
    pub(super) async fn park(
        &self,
        query: &FetchQuery,
        outcomes: Vec<Outcome>,
        missing_bytes: i64,
    ) -> (Arc<ParkedFetch>, LeftOut) {
        let parked = ParkedFetch::new(missing_bytes);
        let mut held_up = Vec::new();
        for (place, (asked, outcome)) in query.partitions.iter().zip(&outcomes).enumerate() {
            let hosted = asked.topic.as_ref().and_then(|topic| self.hosted.get(topic, asked.partition));
            let disk = hosted.as_ref().map_or(Disk::KeepsUp, |partition| partition.disk());
            match (hosted, outcome) {
                (Some(_), Ok(_)) if disk == Disk::Failed => parked.wake(),
                (Some(partition), Ok(fetched)) if disk == Disk::HeldUp => {
                    let (dir, parked, fetcher, end) =
                        (partition.parent_dir(), Arc::clone(&parked), query.fetcher, fetched.end);
                    let run = Box::new(move |_: &Asked| partition.park_fetch(&parked, fetcher, end));
                    held_up.push(Work { dir, place, run });
                }
                (Some(partition), Ok(fetched)) => partition.park_fetch(&parked, query.fetcher, fetched.end),
                // It is looked at again when its disk has answered.
                (_, Err(ReplicaError::DiskIsSilent)) => {}
                (_, Err(_)) if is_unknown(outcome) => {}
                // It went away since it was read.
                (None, _) | (_, Err(_)) => parked.wake(),
            }
        }
        let (_, left_out) = self.disks.ask_all(held_up).await;
        (parked, left_out)
    }

    /// Source: kafka 3.9.0-rc3 ReplicaManager.scala (readFromLog).
    async fn read(&self, query: &FetchQuery, reads: &Reads<'_>, deadline: Instant, asking: &Asking) -> Looked {
        add(&self.counters.partitions_read, reads.len());
        let image = self.around.metadata.image();
        let reader = query.reader.as_ref().filter(|_| self.config.rack_aware_reads);
        let first_batch = match query.limits {
            LimitRule::Hard => FirstBatch::Cut,
            LimitRule::Soft => FirstBatch::Whole,
        };
        let is_any_held_up = self.log_dirs.is_any_held_up();
        let mut limits = FetchLimits { bytes_left: query.bytes_max, first_batch, asked: None };
        // Where it is read, or what is told instead.
        let find = |read: (&PartitionQuery, Option<&Arc<Partition>>)| {
            let (asked, hosted) = read;
            let Some(topic) = &asked.topic else { return Err(ReplicaError::UnknownTopicId) };
            if image.partition(topic, asked.partition).is_none() {
                return Err(ReplicaError::UnknownTopicOrPartition);
            }
            if is_any_held_up && let Some(held_up) = self.hosted(read).filter(|hosted| hosted.is_held_up()) {
                return Ok(Found::HeldUp(held_up));
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
        let mut beside = Vec::new();
        for (place, read) in reads.iter().enumerate() {
            if looked.outcomes.len() % PARTITIONS_A_SLICE == PARTITIONS_A_SLICE - 1 {
                tokio::task::yield_now().await;
            }
            let PartitionQuery { params, topic_id, .. } = read.0;
            limits.asked = asking.of(reads.key(place));
            let outcome = match find(read) {
                Ok(Found::Here(partition)) => {
                    match without_waiting(|| partition.fetch(query.fetcher, params, *topic_id, limits)) {
                        // The way to the batches, through indexes and headers, is not in memory.
                        Err(why) if why.would_wait() => {
                            beside.push((place, partition, limits.asked));
                            Err(ReplicaError::DiskIsSilent)
                        }
                        read => read,
                    }
                }
                Ok(Found::HeldUp(partition)) => {
                    beside.push((place, partition, limits.asked));
                    Err(ReplicaError::DiskIsSilent)
                }
                Ok(Found::Elsewhere(elsewhere)) => Ok(*elsewhere),
                Err(refused) => Err(refused),
            };
            if let Some(region) = outcome.as_ref().ok().and_then(Fetched::region) {
                limits.bytes_left = limits.bytes_left.saturating_sub(region.len);
                if limits.first_batch == FirstBatch::Whole {
                    limits.first_batch = FirstBatch::IfItFits;
                }
            }
            looked.push(params, outcome);
        }
        if beside.is_empty() {
            return looked;
        }
        // Those who wait for nothing else have time until their deadline.
        let is_enough = looked.bytes >= query.min_bytes || looked.must_tell;
        let patience = Instant::now() + PATIENCE;
        let until = if is_enough { patience } else { patience.max(deadline) };
        let limits = FetchLimits { bytes_left: query.bytes_max, first_batch, asked: None };
        self.read_beside(query.fetcher, reads, looked.outcomes, beside, limits, until).await
    }

    /// Has these read by I/O threads. Of what all have to give together as much is taken as there is room for, in the order of
    /// the partitions.
    async fn read_beside(
        &self,
        fetcher: Fetcher,
        reads: &Reads<'_>,
        mut outcomes: Vec<Outcome>,
        beside: Vec<(usize, Arc<Partition>, Option<std::time::Instant>)>,
        limits: FetchLimits,
        until: Instant,
    ) -> Looked {
        let silent = self.disks.silent_dirs();
        let mut works = Vec::new();
        for (count, (place, partition, asked)) in beside.iter().enumerate() {
            if count % PARTITIONS_A_SLICE == PARTITIONS_A_SLICE - 1 {
                tokio::task::yield_now().await;
            }
            let PartitionQuery { params, topic_id, .. } = reads.get(*place).0.clone();
            let wanted = Wanted { partition: Arc::clone(partition), fetcher, params, topic_id };
            if let Some(read) = self.late_reads.take(&wanted) {
                outcomes[*place] = Ok(read);
                continue;
            }
            let dir = partition.parent_dir();
            if silent.contains(&dir) {
                continue;
            }
            let (late_reads, runtime) = (Arc::clone(&self.late_reads), Handle::current());
            let limits = FetchLimits { asked: *asked, ..limits };
            let read = move |asked: &Asked| {
                let outcome = wanted.partition.fetch(fetcher, &wanted.params, topic_id, limits);
                match outcome {
                    Ok(fetched) if asked.is_left() => {
                        late_reads.keep(wanted, fetched, &runtime);
                        Err(ReplicaError::DiskIsSilent)
                    }
                    outcome => outcome,
                }
            };
            works.push(Work { dir, place: *place, run: Box::new(read) });
        }
        for (place, outcome) in self.disks.ask(works, until).await {
            outcomes[place] = outcome;
        }
        let mut left_out = LeftOut::Nothing;
        for (count, (place, partition, asked)) in beside.into_iter().enumerate() {
            if count % PARTITIONS_A_SLICE == PARTITIONS_A_SLICE - 1 {
                tokio::task::yield_now().await;
            }
            if !matches!(outcomes[place], Err(ReplicaError::DiskIsSilent)) {
                continue;
            }
            left_out = left_out.max(self.disks.left_out(&partition.parent_dir()));
            if !partition.is_held_up() {
                // All but its records is in memory.
                let PartitionQuery { params, topic_id, .. } = reads.get(place).0;
                let no_room = FetchLimits { bytes_left: 0, first_batch: FirstBatch::Cut, asked };
                let told = without_waiting(|| partition.fetch(fetcher, params, *topic_id, no_room));
                if !told.as_ref().is_err_and(ReplicaError::would_wait) {
                    outcomes[place] = told;
                }
            }
        }
        let (mut bytes_left, mut is_first) = (limits.bytes_left, limits.first_batch == FirstBatch::Whole);
        for fetched in outcomes.iter_mut().flatten() {
            let Some(bytes) = fetched.region().map(|region| region.len) else { continue };
            if bytes <= bytes_left || is_first {
                bytes_left = bytes_left.saturating_sub(bytes);
                is_first = false;
            } else {
                fetched.batches = None;
            }
        }
        Looked { left_out, ..Looked::of(reads, outcomes) }
    }

    /// What this comes to on an I/O thread, for a fetch; `None` if the disk does not answer it.
    pub async fn ask_disk<T: Send + 'static>(
        &self,
        dir: Option<PathBuf>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let work = Work { dir, place: 0, run: Box::new(move |_: &Asked| work()) };
        self.disks.ask(vec![work], Instant::now() + PATIENCE).await.pop().map(|(_, outcome)| outcome)
    }

    /// What was found in a log could not be sent: an I/O thread reads it, one region of each directory at a time, and the
    /// directory hears what comes of that, whatever has become of the log.
    pub fn region_failed(&self, region: FileRegion) {
        let Some(source) = region.source.clone().filter(|source| !source.is_offline()) else { return };
        let Some(doubted) = Doubted::begin(&self.doubted, source.dir()) else { return };
        let dir = source.dir().to_owned();
        let read = move || {
            let _doubted = doubted;
            source.observe_read(read_ahead(&region, || ()));
        };
        if !self.io.offer_in(&dir, read) {
            debug!("what could not be sent is not read again: the I/O threads have too much to do");
        }
    }

    /// Lets I/O threads bring what is not cached into memory, so that sending it holds up no connection; and what a
    /// sequential reader will ask for next, so that finding it holds up none either. What a disk does not give in time is
    /// left to a later fetch.
    async fn warm_up(&self, reads: &Reads<'_>, looked: &mut Looked) {
        let silent = self.disks.silent_dirs();
        let mut works = Vec::new();
        let mut is_cold = HashSet::new();
        for (place, (read, outcome)) in reads.iter().zip(&looked.outcomes).enumerate() {
            if place % PARTITIONS_A_SLICE == PARTITIONS_A_SLICE - 1 {
                tokio::task::yield_now().await;
            }
            let Some(region) = outcome.as_ref().ok().and_then(Fetched::region) else { continue };
            if is_cached(region) {
                continue;
            }
            let Some(hosted) = self.hosted(read) else { continue };
            is_cold.insert(place);
            let (dir, region) = (hosted.parent_dir(), region.clone());
            if silent.contains(&dir) {
                continue;
            }
            let run = Box::new(move |asked: &Asked| {
                let read = read_ahead(&region, || asked.step());
                hosted.log_at_hand().map_or(Ok(()), |log| log.observe_read(read))
            });
            works.push(Work { dir, place, run });
        }
        for (place, read) in self.disks.ask(works, Instant::now() + PATIENCE).await {
            is_cold.remove(&place);
            if let Err(why) = read {
                // Sending it will meet the same error, and ends the connection.
                warn!("read ahead of a fetch: {why}");
            }
        }
        if !is_cold.is_empty() {
            let mut outcomes = std::mem::take(&mut looked.outcomes);
            for place in is_cold {
                if let Ok(fetched) = &mut outcomes[place] {
                    fetched.batches = None;
                }
            }
            // A fetch that nothing is left to waits for silent disks alone: others give the first that they are asked for.
            let left_out = looked.left_out.max(LeftOut::Silent);
            *looked = Looked { left_out, ..Looked::of(reads, outcomes) };
        }
        for (place, outcome) in looked.outcomes.iter().enumerate() {
            if place % PARTITIONS_A_SLICE == PARTITIONS_A_SLICE - 1 {
                tokio::task::yield_now().await;
            }
            let Some(batches) = outcome.as_ref().ok().and_then(|fetched| fetched.batches.as_ref()) else { continue };
            let Some(region) = batches.region.as_ref().filter(|_| !batches.reached_limit) else { continue };
            let next = what_follows(region);
            if !begins_cached(&next) {
                // It is only a matter of speed: the next fetch looks again.
                let source = next.source.clone();
                let read = move || drop(read_ahead(&next, || ()));
                let _ = match source {
                    Some(source) => self.io.offer_in(source.dir(), read),
                    None => self.io.offer(read),
                };
            }
        }
    }
}
