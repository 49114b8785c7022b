//! A partition's log in memory, for tests that run partitions of many brokers in one process, that step in between the
//! admission of a change and the change, and that crash. Its producers and their transactions are those of logs on disk. What
//! is read lies in a file without a name, since readers get regions of a file.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Bytes, BytesMut};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

use crate::codec::writer::FileRegion;
use crate::config::log::LogConfig;
use crate::log::error::LogError;
use crate::log::leader_epochs::{EpochEnd, LeaderEpochs};
use crate::log::transaction_index::{self, AbortedTxn};
use crate::log::{
    AppendInfo, BatchMetadata, Bounds, FetchedBatches, FirstBatch, OffsetQuery, Producers, ReadUntil,
    TimestampedOffset, Verdict, VerificationGuard, producer_batch, producer_batch_of,
};
use crate::model::transaction_version::TransactionVersion;
use crate::model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicId};
use crate::record::append_rules::AppendOrigin;
use crate::record::batch::{Batch, Batches};
use crate::record::prepared::Prepared;
use crate::replica::partition_log::PartitionLog;

type Interlude = Box<dyn FnOnce() + Send>;

pub(crate) struct MemoryLog {
    state: Mutex<State>,
    interlude: Mutex<Option<Interlude>>,
    afterthought: Mutex<Option<Interlude>>,
    is_offline: AtomicBool,
}

struct State {
    topic_id: TopicId,
    config: Arc<LogConfig>,
    leader_epoch: LeaderEpoch,
    epochs: LeaderEpochs,
    batches: Vec<Stored>,
    /// Made by the first who reads; then it has all batches, one behind the other.
    file: Option<Arc<File>>,
    producers: Producers,
    /// In the order of their markers.
    aborted: Vec<AbortedTxn>,
    log_start_offset: Offset,
    high_watermark: Offset,
    log_end_offset: Offset,
    /// Everything below it survives a power loss.
    flushed: Offset,
    /// With which the log begins after a crash, as far as it reaches. A truncation leaves it as it is.
    checkpointed: Offset,
    /// Batches that were appended since somebody looked.
    news: Vec<Prefix>,
    /// What the next write meets.
    fault: Option<Fault>,
}

/// How a write fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    DiskFull,
    /// Nothing is served from the log any more.
    DiskBroken,
    /// Nobody is told.
    Silent,
}

#[derive(Clone)]
struct Stored {
    base_offset: Offset,
    last_offset: Offset,
    bytes: Bytes,
    /// In the file.
    position: u64,
    prefix: Prefix,
}

impl Stored {
    fn end_position(&self) -> u64 {
        self.position + self.bytes.len() as u64
    }
}

/// All that a log holds up to the end of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    /// Behind the batch.
    pub end: Offset,
    /// That the batch was written in.
    pub epoch: LeaderEpoch,
    /// Of every byte.
    pub digest: u64,
}

impl Prefix {
    const NOTHING: Prefix = Prefix { end: Offset(0), epoch: LeaderEpoch(-1), digest: 0 };

    fn with(self, batch: &[u8], end: Offset, epoch: LeaderEpoch) -> Prefix {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.digest);
        hasher.write(batch);
        Prefix { end, epoch, digest: hasher.finish() }
    }
}

impl MemoryLog {
    pub fn new() -> MemoryLog {
        MemoryLog::of_topic(TopicId::ZERO)
    }

    pub fn of_topic(topic_id: TopicId) -> MemoryLog {
        MemoryLog::with(State {
            topic_id,
            config: Arc::default(),
            leader_epoch: LeaderEpoch(-1),
            epochs: LeaderEpochs::default(),
            batches: Vec::new(),
            file: None,
            producers: Producers::default(),
            aborted: Vec::new(),
            log_start_offset: Offset(0),
            high_watermark: Offset(0),
            log_end_offset: Offset(0),
            flushed: Offset(0),
            checkpointed: Offset(0),
            news: Vec::new(),
            fault: None,
        })
    }

    fn with(state: State) -> MemoryLog {
        MemoryLog {
            state: Mutex::new(state),
            interlude: Mutex::new(None),
            afterthought: Mutex::new(None),
            is_offline: AtomicBool::new(false),
        }
    }

    /// What the next process finds that opens it after the last was killed: whole batches, of which none is missing
    /// below `kept`, the epochs of what they were written in, and the high watermark that was written down last.
    pub fn after_crash(&self, kept: Offset) -> MemoryLog {
        let before = self.state();
        let batches: Vec<Stored> = before.batches.iter().filter(|batch| batch.last_offset < kept).cloned().collect();
        let log_end_offset = batches.last().map_or(before.log_start_offset, |last| last.prefix.end);
        let mut epochs = LeaderEpochs::default();
        for batch in &batches {
            epochs.assign(batch.prefix.epoch, batch.base_offset);
        }
        let mut after = State {
            topic_id: before.topic_id,
            config: Arc::clone(&before.config),
            leader_epoch: LeaderEpoch(-1),
            epochs,
            batches,
            file: None,
            producers: Producers::default(),
            aborted: Vec::new(),
            log_start_offset: before.log_start_offset,
            high_watermark: before.checkpointed.max(before.log_start_offset).min(log_end_offset),
            log_end_offset,
            flushed: before.flushed.min(log_end_offset),
            checkpointed: before.checkpointed,
            news: Vec::new(),
            fault: None,
        };
        after.rebuild_producers();
        MemoryLog::with(after)
    }

    /// See `Log::begin_verification`.
    pub fn begin_verification(
        &self,
        producer_id: ProducerId,
        epoch: ProducerEpoch,
        base_sequence: i32,
        version: TransactionVersion,
        now_ms: i64,
    ) -> Option<VerificationGuard> {
        self.state().producers.begin_verification(producer_id, epoch, base_sequence, version, now_ms)
    }

    /// The coordinator has confirmed the transaction.
    pub fn transaction_verified(&self, guard: VerificationGuard, version: TransactionVersion) {
        self.state().producers.verified(guard, version);
    }

    /// The coordinator knows no such producer.
    pub fn transaction_refused(&self, guard: VerificationGuard) {
        self.state().producers.refused(guard);
    }

    /// The latest epoch that is known here of a producer's coordinator.
    pub fn coordinator_epoch_of(&self, producer_id: ProducerId) -> Option<i32> {
        let state = self.state();
        let known = state.producers.iter().find(|(id, _)| *id == producer_id);
        known.map(|(_, known)| known.coordinator_epoch)
    }

    /// Whether a transaction has ended whose marker is not below the high watermark.
    pub fn has_unreplicated_end(&self) -> bool {
        self.state().producers.has_unreplicated()
    }

    /// Shows every batch, in order.
    pub fn look_at_batches(&self, mut look: impl FnMut(&Batch<'_>)) {
        let state = self.state();
        let batches = state.batches.iter().flat_map(|stored| Batches::new(&stored.bytes));
        batches.for_each(|batch| look(&batch.expect("well-formed")));
    }

    pub fn flushed(&self) -> Offset {
        self.state().flushed
    }

    pub fn checkpoint_high_watermark(&self) {
        let mut state = self.state();
        state.checkpointed = state.high_watermark;
    }

    /// Everything below `end`; `None` if no batch ends there.
    pub fn prefix(&self, end: Offset) -> Option<Prefix> {
        let state = self.state();
        if end == Offset(0) {
            return Some(Prefix::NOTHING);
        }
        let at = state.batches.binary_search_by_key(&end, |batch| batch.prefix.end).ok()?;
        Some(state.batches[at].prefix)
    }

    /// Everything.
    pub fn whole(&self) -> Prefix {
        self.state().whole()
    }

    /// What was appended since the last call.
    pub fn take_news(&self) -> Vec<Prefix> {
        std::mem::take(&mut self.state().news)
    }

    /// Runs once, when the next append, read, look for an offset or deletion has been admitted and is about to begin.
    pub fn before_next(&self, interlude: impl FnOnce() + Send + 'static) {
        *self.interlude.lock().expect("no test panics under it") = Some(Box::new(interlude));
    }

    /// Runs once, when the next append of a leader has been done and nobody has heard of it.
    pub fn after_next(&self, afterthought: impl FnOnce() + Send + 'static) {
        *self.afterthought.lock().expect("no test panics under it") = Some(Box::new(afterthought));
    }

    /// The next write fails, or not any more.
    pub fn fail_next(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    /// Its directory has failed.
    pub fn go_offline(&self) {
        self.is_offline.store(true, Ordering::Relaxed);
    }

    fn check_online(&self) -> Result<(), LogError> {
        match self.is_offline() {
            true => Err(LogError::Offline { dir: "/data".to_owned() }),
            false => Ok(()),
        }
    }

    /// What is admitted to be written, unless it fails.
    fn writing(&self, leader_epoch: LeaderEpoch) -> Result<MutexGuard<'_, State>, LogError> {
        let mut state = self.interrupted();
        self.check_online()?;
        state.check_epoch(leader_epoch)?;
        let errno = match state.fault {
            None | Some(Fault::Silent) => return Ok(state),
            Some(Fault::DiskFull) => Errno::NOSPC,
            Some(Fault::DiskBroken) => {
                self.go_offline();
                Errno::IO
            }
        };
        state.fault = None;
        Err(LogError::Io { context: "write /data/log".to_owned(), source: errno.into() })
    }

    fn interrupted(&self) -> MutexGuard<'_, State> {
        let interlude = self.interlude.lock().expect("no test panics under it").take();
        if let Some(interlude) = interlude {
            interlude();
        }
        self.state()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics under it")
    }
}

impl State {
    fn check_epoch(&self, given: LeaderEpoch) -> Result<(), LogError> {
        match given == self.leader_epoch {
            true => Ok(()),
            false => Err(LogError::StaleLeaderEpoch { given, latest: self.leader_epoch }),
        }
    }

    fn begin_epoch(&mut self, epoch: LeaderEpoch) -> Result<(), LogError> {
        if epoch < self.leader_epoch {
            return Err(LogError::StaleLeaderEpoch { given: epoch, latest: self.leader_epoch });
        }
        self.leader_epoch = epoch;
        Ok(())
    }

    fn bounds(&self) -> Bounds {
        let stable = |unstable: Offset| unstable.max(self.log_start_offset).min(self.high_watermark);
        Bounds {
            log_start_offset: self.log_start_offset,
            high_watermark: self.high_watermark,
            last_stable_offset: self.producers.first_unstable_offset().map_or(self.high_watermark, stable),
            log_end_offset: self.log_end_offset,
        }
    }

    /// From the batches that are left, as a start or a truncation does.
    fn rebuild_producers(&mut self) {
        let State { batches, producers, aborted, high_watermark, .. } = self;
        producers.restart_at(Offset(0));
        aborted.clear();
        for stored in batches {
            for batch in Batches::new(&stored.bytes) {
                let of_producer = producer_batch_of(&batch.expect("well-formed"));
                aborted.extend(of_producer.and_then(|of_producer| producers.apply(&of_producer)));
            }
        }
        producers.forget_completed_below(*high_watermark);
    }

    /// That has every batch.
    fn file(&mut self) -> Arc<File> {
        let State { batches, file, .. } = self;
        let file = file.get_or_insert_with(|| {
            let file = File::from(memfd_create("log", MemfdFlags::CLOEXEC).expect("memory is left"));
            let (mut whole, mut position) = (Vec::new(), 0);
            for batch in batches {
                batch.position = position;
                position = batch.end_position();
                whole.extend_from_slice(&batch.bytes);
            }
            file.write_all_at(&whole, 0).expect("memory is left");
            Arc::new(file)
        });
        Arc::clone(file)
    }

    fn whole(&self) -> Prefix {
        self.batches.last().map_or(Prefix::NOTHING, |last| last.prefix)
    }

    fn duplicate_append(&self, known: &BatchMetadata) -> AppendInfo {
        AppendInfo {
            first_offset: known.first_offset(),
            last_offset: known.last_offset,
            log_start_offset: self.log_start_offset,
            max_timestamp_ms: known.timestamp_ms,
            log_append_time_ms: known.timestamp_ms,
            duplicate: true,
            flush_due: false,
            log_end_offset: self.log_end_offset,
        }
    }

    fn push(&mut self, bytes: Bytes) -> AppendInfo {
        let first_offset = self.log_end_offset;
        for batch in Batches::new(&bytes) {
            let batch = batch.expect("well-formed");
            let (base_offset, last_offset) = (Offset(batch.header.base_offset), Offset(batch.header.last_offset));
            let (epoch, end) = (LeaderEpoch(batch.header.partition_leader_epoch), Offset(last_offset.0 + 1));
            let prefix = self.whole().with(batch.bytes, end, epoch);
            self.epochs.assign(epoch, base_offset);
            let position = self.batches.last().map_or(0, Stored::end_position);
            if let Some(file) = &self.file {
                file.write_all_at(batch.bytes, position).expect("memory is left");
            }
            if let Some(of_producer) = producer_batch_of(&batch) {
                self.aborted.extend(self.producers.apply(&of_producer));
            }
            let bytes = bytes.slice_ref(batch.bytes);
            self.batches.push(Stored { base_offset, last_offset, bytes, position, prefix });
            self.news.push(prefix);
            self.log_end_offset = end;
        }
        AppendInfo {
            first_offset,
            last_offset: Offset(self.log_end_offset.0 - 1),
            log_start_offset: self.log_start_offset,
            max_timestamp_ms: -1,
            log_append_time_ms: -1,
            duplicate: false,
            flush_due: false,
            log_end_offset: self.log_end_offset,
        }
    }
}

impl PartitionLog for MemoryLog {
    fn is_offline(&self) -> bool {
        self.is_offline.load(Ordering::Relaxed)
    }

    fn topic_id(&self) -> Option<TopicId> {
        Some(self.state().topic_id).filter(|id| !id.is_zero())
    }

    fn config(&self) -> Arc<LogConfig> {
        self.state().config.clone()
    }

    fn set_config(&self, config: Arc<LogConfig>) {
        self.state().config = config;
    }

    fn bounds(&self) -> Bounds {
        self.state().bounds()
    }

    fn end_offset_for_epoch(&self, requested: LeaderEpoch) -> EpochEnd {
        let state = self.state();
        state.epochs.end_offset_for(requested, state.log_end_offset)
    }

    fn last_epoch(&self) -> Option<LeaderEpoch> {
        self.state().epochs.latest().map(|last| last.epoch)
    }

    fn lead(&self, epoch: LeaderEpoch) -> Result<Bounds, LogError> {
        self.check_online()?;
        let mut state = self.state();
        state.begin_epoch(epoch)?;
        let log_end_offset = state.log_end_offset;
        state.epochs.assign(epoch, log_end_offset);
        Ok(state.bounds())
    }

    fn follow(&self, epoch: LeaderEpoch) -> Result<(), LogError> {
        self.check_online()?;
        self.state().begin_epoch(epoch)
    }

    fn end_appends(&self) {
        self.state().leader_epoch = LeaderEpoch(i32::MAX);
    }

    fn append_as_leader(
        &self,
        prepared: &mut Prepared,
        leader_epoch: LeaderEpoch,
        origin: AppendOrigin,
        now_ms: i64,
    ) -> Result<AppendInfo, LogError> {
        let mut state = self.writing(leader_epoch)?;
        prepared.assign(state.log_end_offset.0, leader_epoch.0, now_ms);
        let mut bytes = BytesMut::new();
        for batch in prepared.batches() {
            if let Some(of_producer) = producer_batch(batch.header(), batch.body()) {
                state.producers.check_room_for(&of_producer, origin)?;
                if let Verdict::Duplicate(known) = state.producers.check(&of_producer, origin)? {
                    return Ok(state.duplicate_append(&known));
                }
            }
            bytes.extend_from_slice(batch.head());
            bytes.extend_from_slice(batch.body());
        }
        let info = state.push(bytes.freeze());
        drop(state);
        let afterthought = self.afterthought.lock().expect("no test panics under it").take();
        if let Some(afterthought) = afterthought {
            afterthought();
        }
        Ok(info)
    }

    fn append_as_follower(
        &self,
        records: &Bytes,
        leader_epoch: LeaderEpoch,
        fetch_offset: Offset,
        _: i64,
    ) -> Result<AppendInfo, LogError> {
        let mut state = self.writing(leader_epoch)?;
        if fetch_offset != state.log_end_offset {
            let log_end_offset = state.log_end_offset;
            return Err(LogError::UnexpectedOffset { first_offset: fetch_offset, log_end_offset });
        }
        if state.fault.take() == Some(Fault::Silent) {
            let appended = state.push(records.clone());
            state.batches.pop();
            state.rebuild_producers();
            return Ok(appended);
        }
        Ok(state.push(records.clone()))
    }

    fn truncate_to(&self, offset: Offset, leader_epoch: LeaderEpoch, _: i64) -> Result<bool, LogError> {
        let mut state = self.writing(leader_epoch)?;
        state.epochs.truncate_from_end(offset);
        if offset >= state.log_end_offset {
            return Ok(false);
        }
        state.batches.retain(|batch| batch.last_offset < offset);
        state.log_end_offset = offset;
        state.high_watermark = state.high_watermark.min(offset);
        state.flushed = state.flushed.min(offset);
        state.rebuild_producers();
        Ok(true)
    }

    fn truncate_fully_and_start_at(&self, offset: Offset, leader_epoch: LeaderEpoch, _: i64) -> Result<(), LogError> {
        let mut state = self.writing(leader_epoch)?;
        state.epochs.clear();
        state.batches.clear();
        (state.log_start_offset, state.high_watermark, state.log_end_offset) = (offset, offset, offset);
        state.rebuild_producers();
        Ok(())
    }

    fn increment_log_start_offset(&self, offset: Offset, leader_epoch: LeaderEpoch) -> Result<bool, LogError> {
        let mut state = self.writing(leader_epoch)?;
        let moves = offset > state.log_start_offset;
        state.log_start_offset = state.log_start_offset.max(offset.min(state.high_watermark));
        Ok(moves)
    }

    fn delete_records(&self, before: Offset, leader_epoch: LeaderEpoch) -> Result<Offset, LogError> {
        let mut state = self.writing(leader_epoch)?;
        state.log_start_offset = state.log_start_offset.max(before.min(state.high_watermark));
        Ok(state.log_start_offset)
    }

    fn acknowledgeable_end(&self) -> Offset {
        self.state().log_end_offset
    }

    fn flush_for_acknowledgement(&self, _: i64) -> Result<Offset, LogError> {
        self.check_online()?;
        let mut state = self.state();
        state.flushed = state.log_end_offset;
        Ok(state.flushed)
    }

    fn update_high_watermark(&self, offset: Offset) -> Offset {
        let mut state = self.state();
        state.high_watermark = offset.min(state.log_end_offset);
        let high_watermark = state.high_watermark;
        state.producers.forget_completed_below(high_watermark);
        high_watermark
    }

    fn read(
        &self,
        from: Offset,
        bytes_max: u32,
        until: ReadUntil,
        first_batch: FirstBatch,
    ) -> Result<FetchedBatches, LogError> {
        let mut state = self.interrupted();
        self.check_online()?;
        let Bounds { log_start_offset, high_watermark, last_stable_offset, log_end_offset } = state.bounds();
        if from < log_start_offset || from > log_end_offset {
            return Err(LogError::OffsetOutOfRange { offset: from, log_start_offset, log_end_offset });
        }
        let end = match until {
            ReadUntil::LogEnd => log_end_offset,
            ReadUntil::HighWatermark => high_watermark,
            ReadUntil::LastStableOffset => last_stable_offset,
        };
        let first = state.batches.partition_point(|batch| batch.last_offset < from);
        let visible = state.batches[first..].iter().take_while(|batch| batch.base_offset < end);
        let mut len = 0;
        let mut read_to = from;
        for batch in visible {
            let fits = len + batch.bytes.len() <= bytes_max as usize;
            let is_given_anyway = len == 0 && first_batch == FirstBatch::Whole;
            if !fits && !is_given_anyway {
                break;
            }
            len += batch.bytes.len();
            read_to = batch.prefix.end;
        }
        let len = u32::try_from(len).expect("tests are small");
        let mut aborted_transactions = Vec::new();
        if until == ReadUntil::LastStableOffset {
            transaction_index::collect_from(&state.aborted, from, read_to, &mut aborted_transactions);
        }
        let fetched = FetchedBatches {
            region: (len > 0).then(|| FileRegion {
                file: state.file(),
                position: state.batches[first].position,
                len,
                source: None,
            }),
            reached_limit: true,
            visible_bytes: len,
            goes_on: false,
            aborted_transactions,
        };
        Ok(fetched)
    }

    fn offset_for_timestamp(&self, _: OffsetQuery) -> Result<Option<TimestampedOffset>, LogError> {
        drop(self.interrupted());
        Ok(None)
    }

    fn observe_read(&self, read: io::Result<()>) -> Result<(), LogError> {
        read.map_err(|source| LogError::Io { context: "read from memory".to_string(), source })
    }
}
