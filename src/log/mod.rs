//! One partition's records on disk, in the files of a JVM broker, byte for byte; and the directories that hold them.
//!
//! A log is a list of segments. Appends go to the last one, the active segment; old ones are flushed, deleted by
//! retention, replaced by compaction, and otherwise left alone. Beside the segments lie leader epochs, producer state and the topic's id.
//!
//! Invariants:
//! - `log_start_offset <= high_watermark <= log_end_offset`, and everything below `recovery_point` has been fsynced.
//! - An append is one write under one lock. If it fails, nothing of it stays in the file.
//! - What is in memory besides can be rebuilt from the `.log` files. An idle partition keeps a few hundred bytes per
//!   segment and no open file.
//! - Readers hold files, not locks: what they were promised stays readable after it was deleted.
//!
//! Every function may wait for the disk and none awaits: callers choose the thread. Deliberately unknown here: who
//! leads, who is in sync (`replica/`), the protocol, and timers: `broker/` calls the passes of `LogDirs`.
//!
//! Epochs: the log knows the leader epoch in force, raised when its partition begins to lead or to follow. Whoever appends
//! or truncates names the epoch under which that was admitted, and any other than the one in force is refused.
//!
//! Locks: `LogDirs::logs`, then `Log::state`; those of `LogDir` are innermost. None is held over an fsync or a rename,
//! which `files` checks in debug builds, but for three kinds that only I/O threads take: the one that orders the writers of
//! a directory's checkpoints, those that keep two from placing the same partition, and `Log::renaming`, taken before
//! `Log::state`.

mod append;
pub mod broker_metadata;
mod checkpoint;
pub mod cleaner;
pub mod counters;
pub mod dirs;
pub mod dump;
pub mod error;
mod file_names;
mod files;
mod index_file;
pub mod leader_epochs;
mod loading;
mod log_dir;
mod look;
mod moving;
mod offset_index;
mod pace;
mod partition_metadata;
mod pending;
mod producer_snapshot;
mod producer_state;
mod read;
mod recent;
mod replacement;
mod reserve;
mod retention;
mod scan;
mod segment;
mod snapshots;
mod splitting;
mod synced;
mod time_index;
mod timestamps;
pub mod transaction_index;
mod truncation;

#[cfg(test)]
mod cold_tests;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod dirs_tests;
#[cfg(test)]
mod failing_disk_tests;
#[cfg(test)]
mod forgetful_disk;
#[cfg(test)]
mod log_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod moves_tests;
#[cfg(test)]
mod power_loss_tests;
#[cfg(test)]
pub(crate) mod testing;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

#[cfg(test)]
pub(crate) use self::append::{producer_batch, producer_batch_of};
use self::counters::add;
use self::error::{Condemned, IoContext, LogError};
#[cfg(test)]
pub(crate) use self::files::faults;
pub(crate) use self::files::{begin_to_read, read_at, read_exact_at, without_waiting};
use self::leader_epochs::{EpochEnd, EpochStart, LeaderEpochs};
use self::log_dir::LogDir;
use self::moving::Shadow;
pub(crate) use self::producer_state::Producers;
pub use self::producer_state::VerificationGuard;
#[cfg(test)]
pub(crate) use self::producer_state::{BatchMetadata, Verdict};
use self::recent::RecentBatches;
use self::segment::Segment;
use self::snapshots::Snapshots;
use self::synced::Synced;
use self::transaction_index::AbortedTxn;
use arc_swap::ArcSwap;

use crate::codec::writer::FileRegion;
use crate::config::log::LogConfig;
use crate::model::lock::{Guard, Lock};
use crate::model::transaction_version::TransactionVersion;
use crate::model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicId, TopicPartition};

/// Greater than any epoch, so that no append carries it.
const NO_EPOCH_ANY_MORE: LeaderEpoch = LeaderEpoch(i32::MAX);

/// One partition on disk. Shared; every call takes the lock for as long as it needs it.
#[derive(Debug)]
pub struct Log {
    topic_partition: TopicPartition,
    /// Another one once the log has moved there.
    parent: ArcSwap<LogDir>,
    /// Something of this log alone is damaged, or a change was left half done: nothing is served until the broker restarts.
    failed: AtomicBool,
    /// How many times segments have taken the place of others: who reads without the lock may have the file of an old one and
    /// the indexes of its successor, and sees it here. So counts that the log is given up.
    replacements: AtomicU64,
    /// Who holds up compaction.
    cleaning_pauses: Arc<AtomicUsize>,
    state: Lock<State>,
    /// Held while files of the directory are replaced or renamed, for which `state` is let go: an older picture never
    /// replaces a newer one, and the directory does not go meanwhile, for the files that the next log of its name has there
    /// are not this one's. Taken before `state`, and by I/O threads alone.
    renaming: Mutex<()>,
}

#[derive(Debug)]
pub(crate) struct State {
    topic_partition: TopicPartition,
    parent: Arc<LogDir>,
    dir: PathBuf,
    config: Arc<LogConfig>,
    topic_id: Option<TopicId>,
    unwritten: Unwritten,
    /// By base offset; never empty, but while there is a truncation. The last one is active.
    segments: Vec<Segment>,
    recent: RecentBatches,
    log_start_offset: Offset,
    high_watermark: Offset,
    /// Where the next record goes. Exclusive.
    log_end_offset: Offset,
    /// Everything below is on the disk, whatever happens to the machine.
    recovery_point: Offset,
    synced: Synced,
    last_flush_ms: i64,
    /// The leader epoch in force: every append and truncation must carry it. -1 until the first decision.
    leader_epoch: LeaderEpoch,
    epochs: LeaderEpochs,
    producers: Producers,
    snapshots: Snapshots,
    /// Counts truncations, so that a flush that overlapped one does not take credit for what was cut off.
    truncations: u64,
    /// Counts truncations that took more than the end of the active segment: compaction that overlapped one begins again.
    cuts: u64,
    /// Counts those of indexes that are written anew where they are: who reads without the lock finds half of one, or none.
    rebuilds: u64,
    /// Compaction has done everything below, if it has done anything. Never beyond the beginning of the active segment: what
    /// is appended there no pass has seen.
    cleaned_to: Option<Offset>,
    /// A truncation is at the files, for which it has let go of the lock: nothing may be read or appended meanwhile.
    is_truncating: bool,
    /// The lowest offset at which a truncation has cut the log since whoever copies it has asked.
    cut_at: Option<Offset>,
    /// The log has moved, and its old directory still bears its name.
    shadow: Option<Shadow>,
    /// Of the segments that a truncation keeps and has taken out of the log, as long as it is at them.
    kept_bytes: u64,
    /// Closed for good, or its directory is gone.
    is_closed: bool,
}

/// Small files that are older than memory. An I/O thread writes them soon, and a flush before it moves the recovery point:
/// what a crash loses of the epochs stands in the batches above that point, and the topic id comes with the next leader
/// epoch.
#[derive(Debug, Default)]
struct Unwritten {
    epochs: bool,
    topic_id: bool,
}

/// The four bounds of a partition. Ends are exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub log_start_offset: Offset,
    pub high_watermark: Offset,
    pub last_stable_offset: Offset,
    pub log_end_offset: Offset,
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendInfo {
    pub first_offset: Offset,
    /// Inclusive.
    pub last_offset: Offset,
    pub log_start_offset: Offset,
    pub max_timestamp_ms: i64,
    /// -1 unless the topic stamps records itself.
    pub log_append_time_ms: i64,
    /// Nothing was appended: the batch was there already, at these offsets.
    pub duplicate: bool,
    /// After the append.
    pub log_end_offset: Offset,
    /// The append is acknowledged after a flush, for which the caller finds the thread: `flush.messages` are unflushed, or
    /// nothing is acknowledged before.
    pub flush_due: bool,
}

/// How far a reader may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadUntil {
    HighWatermark,
    /// As `HighWatermark`, but before any open transaction; the reply names the aborted ones.
    LastStableOffset,
    LogEnd,
}

/// What a reader gets of a first batch that is larger than its byte limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstBatch {
    /// All of it, so that a reader is never stuck.
    Whole,
    /// Nothing: a reader that knows no cut batch would take it for damage.
    IfItFits,
    /// Its first bytes, from which old consumers learn that their limit is too small.
    Cut,
}

/// Batches to send to a reader.
#[derive(Clone, Debug)]
pub struct FetchedBatches {
    /// Whole batches, but for the last, which the reader's byte limit may have cut short. None when there is nothing.
    pub region: Option<FileRegion>,
    /// Where the region ends in the segment is also where what the reader may see ends.
    pub reached_limit: bool,
    /// What the reader may see in the segment where its first batch lies, whatever its byte limit.
    pub visible_bytes: u32,
    /// What the reader may see goes on in later segments.
    pub goes_on: bool,
    /// Only for `ReadUntil::LastStableOffset`.
    pub aborted_transactions: Vec<AbortedTxn>,
}

/// A record found by time. Without a record (earliest, latest) the timestamp is -1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampedOffset {
    pub timestamp_ms: i64,
    pub offset: Offset,
    pub leader_epoch: Option<LeaderEpoch>,
}

/// Which offset ListOffsets asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetQuery {
    Earliest,
    Latest,
    /// The record with the largest timestamp.
    MaxTimestamp,
    /// The first record at or after this time.
    AtOrAfter(i64),
}

/// A producer as DescribeProducers shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerSummary {
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub last_sequence: i32,
    pub last_timestamp_ms: i64,
    pub coordinator_epoch: i32,
    pub current_txn_first_offset: Option<Offset>,
}

impl Log {
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.topic_partition
    }

    /// The entry of `log.dirs` that holds the log.
    pub fn parent_dir(&self) -> PathBuf {
        self.parent().path().to_path_buf()
    }

    pub(crate) fn parent(&self) -> Arc<LogDir> {
        self.parent.load_full()
    }

    pub fn is_offline(&self) -> bool {
        self.parent.load().is_offline() || self.failed.load(Ordering::Acquire)
    }

    /// Whether its disk does not keep up with what is appended, so that whoever looks at the log may wait. Takes no lock.
    pub fn is_held_up(&self) -> bool {
        self.parent.load().pace.holds_up()
    }

    /// What came of reading batches that were found in it.
    pub fn observe_read(&self, read: io::Result<()>) -> Result<(), LogError> {
        self.observe(read.doing_at("read batches of", || self.dir()))
    }

    /// Takes out of service what the error is about: the directory, this log, or nothing.
    fn observe<T>(&self, result: Result<T, LogError>) -> Result<T, LogError> {
        self.observe_in(&self.parent(), result)
    }

    /// The same of what was done in that directory, where the log may be no more.
    fn observe_in<T>(&self, parent: &Arc<LogDir>, result: Result<T, LogError>) -> Result<T, LogError> {
        if let Err(error) = &result {
            match parent.condemned_by(error) {
                Condemned::Dir => parent.fail(error),
                Condemned::Log if self.is_in(parent) => self.fail(error),
                Condemned::Log => log::debug!("[{}] {error}; the log has moved meanwhile", self.topic_partition),
                Condemned::Nothing | Condemned::LogOrDir => {}
            }
        }
        result
    }

    /// As `observe`, of a change that an error leaves half done.
    fn observe_change<T>(&self, result: Result<T, LogError>) -> Result<T, LogError> {
        self.observe(result.map_err(LogError::half_done))
    }

    fn fail(&self, error: &LogError) {
        if !self.failed.swap(true, Ordering::AcqRel) {
            log::error!("[{}] {error}; the partition is offline until the broker restarts", self.topic_partition);
            self.parent().tell_failed_log();
        }
    }

    /// A panic under this lock may have left memory and file apart: it must stop the broker, not be served from.
    fn locked(&self) -> Guard<'_, State> {
        self.state.lock().expect("a log that panicked is not served from")
    }

    /// The state, if the log still serves.
    fn serving(&self) -> Result<Guard<'_, State>, LogError> {
        let state = self.usable()?;
        if state.is_truncating { Err(LogError::BeingTruncated) } else { Ok(state) }
    }

    /// The state, if the log serves or will when a truncation is over.
    fn usable(&self) -> Result<Guard<'_, State>, LogError> {
        self.parent.load().check()?;
        if self.failed.load(Ordering::Acquire) {
            let path = self.parent_dir().join(self.topic_partition.to_string());
            return Err(LogError::Offline { dir: path.display().to_string() });
        }
        let state = self.locked();
        if state.is_closed { Err(LogError::Closed) } else { Ok(state) }
    }

    pub fn bounds(&self) -> Bounds {
        self.locked().bounds()
    }

    pub fn log_end_offset(&self) -> Offset {
        self.locked().log_end_offset
    }

    pub fn high_watermark(&self) -> Offset {
        self.locked().high_watermark
    }

    pub fn log_start_offset(&self) -> Offset {
        self.locked().log_start_offset
    }

    pub fn recovery_point(&self) -> Offset {
        self.locked().recovery_point
    }

    pub fn topic_id(&self) -> Option<TopicId> {
        self.locked().topic_id
    }

    pub fn config(&self) -> Arc<LogConfig> {
        self.locked().config.clone()
    }

    /// Topic settings have changed; they count from the next append or pass on.
    pub fn set_config(&self, config: Arc<LogConfig>) {
        self.locked().config = config;
    }

    /// Bytes of all segments.
    pub fn size(&self) -> u64 {
        let state = self.locked();
        if state.is_truncating { state.kept_bytes } else { state.bytes() }
    }

    /// Whether so many bytes go into the segment that is there.
    pub fn has_room_for(&self, bytes: usize) -> bool {
        let state = self.locked();
        // A truncation has them all.
        let active = state.segments.last();
        active.is_some_and(|active| active.size() as usize + bytes <= state.config.segment_bytes as usize)
    }

    pub fn segment_count(&self) -> usize {
        self.locked().segments.len()
    }

    /// Remembers the topic's id; it is on the disk soon. Refuses another one than the directory has.
    pub fn assign_topic_id(&self, id: TopicId) -> Result<(), LogError> {
        let mut state = self.usable()?;
        match state.topic_id {
            Some(on_disk) if on_disk == id => Ok(()),
            Some(on_disk) => Err(LogError::InconsistentTopicId { on_disk, given: id }),
            None => {
                state.topic_id = Some(id);
                state.unwritten.topic_id = true;
                self.parent().note_unwritten(&self.topic_partition);
                Ok(())
            }
        }
    }

    /// Moves the high watermark, within what the log holds. Returns where it is now.
    pub fn update_high_watermark(&self, offset: Offset) -> Offset {
        let mut state = self.locked();
        state.set_high_watermark(offset);
        state.high_watermark
    }

    /// Leader epochs and where each began.
    pub fn epochs(&self) -> Vec<EpochStart> {
        self.locked().epochs.entries().to_vec()
    }

    /// The last of these epochs.
    pub fn last_epoch(&self) -> Option<LeaderEpoch> {
        self.locked().epochs.latest().map(|last| last.epoch)
    }

    /// Where an epoch ends, as OffsetForLeaderEpoch answers it.
    pub fn end_offset_for_epoch(&self, requested: LeaderEpoch) -> EpochEnd {
        let state = self.locked();
        state.epochs.end_offset_for(requested, state.log_end_offset)
    }

    /// The epoch in force.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.locked().leader_epoch
    }

    /// This broker leads from here on, in this epoch, which begins where the log ends: followers that lag learn from it
    /// where to truncate. What earlier epochs admitted is refused from now on. The epoch is in memory, and
    /// soon on the disk: recovery finds epochs in the batches above the recovery point, but a JVM's begins with the segment
    /// whose index is missing, and then passes over the earlier epochs of the segments before it.
    /// Source: kafka 3.9 core/.../log/LogLoader.scala (loadSegmentFiles, recoverLog).
    pub fn lead(&self, epoch: LeaderEpoch) -> Result<Bounds, LogError> {
        let mut state = self.usable()?;
        state.begin_epoch(epoch)?;
        let log_end_offset = state.log_end_offset;
        if state.keeps_epochs() {
            state.assign_epoch(epoch, log_end_offset);
        }
        Ok(state.bounds())
    }

    /// Another broker leads from here on, in this epoch. What earlier epochs admitted is refused from now on.
    pub fn follow(&self, epoch: LeaderEpoch) -> Result<(), LogError> {
        let mut state = self.locked();
        state.begin_epoch(epoch)?;
        state.keeps_epochs();
        Ok(())
    }

    /// Waits for a truncation that is under way. None of an earlier epoch begins after `lead` or `follow`, so whoever takes the
    /// log over then finds all of it to be read and appended to. Holds up the thread as long as files are renamed.
    pub fn await_truncation(&self) {
        if self.locked().is_truncating {
            drop(self.begin_renaming());
        }
    }

    /// Nobody appends any more, whatever was admitted before: the replica is being deleted.
    pub fn end_appends(&self) {
        self.locked().leader_epoch = NO_EPOCH_ANY_MORE;
    }

    /// Writes the topic id and the leader epochs if they changed. Waits for the disk, with no lock that an append takes.
    pub fn write_small_files(&self) -> Result<(), LogError> {
        let _renaming = self.begin_renaming();
        let (dir, epochs, topic_id) = {
            let mut state = self.locked();
            if state.is_closed {
                return Ok(());
            }
            let unwritten = std::mem::take(&mut state.unwritten);
            let epochs = unwritten.epochs.then(|| state.epochs.clone());
            (state.dir.clone(), epochs, state.topic_id.filter(|_| unwritten.topic_id))
        };
        let written = (|| {
            if let Some(id) = topic_id {
                partition_metadata::write(&dir.join(file_names::PARTITION_METADATA), id)?;
            }
            match &epochs {
                Some(epochs) => epochs.write(&dir.join(file_names::LEADER_EPOCH_CHECKPOINT)),
                None => Ok(()),
            }
        })();
        if written.is_err() {
            let mut state = self.locked();
            if state.is_closed {
                // The log directory failed meanwhile.
                return Ok(());
            }
            state.unwritten.epochs |= epochs.is_some();
            state.unwritten.topic_id |= topic_id.is_some();
            self.parent().note_unwritten(&self.topic_partition);
        }
        self.observe(written)
    }

    /// A producer wants to open a transaction here: whoever asks its coordinator tells `transaction_verified`. `None` if it
    /// has one open, under that epoch, or if nothing is written here any more. Like those two it takes no lock then: who has
    /// it may wait for a disk that has failed.
    pub fn begin_verification(
        &self,
        producer_id: ProducerId,
        epoch: ProducerEpoch,
        base_sequence: i32,
        version: TransactionVersion,
        now_ms: i64,
    ) -> Option<VerificationGuard> {
        if self.is_offline() {
            return None;
        }
        self.locked().producers.begin_verification(producer_id, epoch, base_sequence, version, now_ms)
    }

    /// The coordinator has confirmed the transaction, and will end it by that version of the protocol.
    pub fn transaction_verified(&self, guard: VerificationGuard, version: TransactionVersion) {
        if !self.is_offline() {
            self.locked().producers.verified(guard, version);
        }
    }

    /// The coordinator knows no such producer.
    pub fn transaction_refused(&self, guard: VerificationGuard) {
        if !self.is_offline() {
            self.locked().producers.refused(guard);
        }
    }

    /// Producers with a transaction open to which nothing has been written for that long.
    pub fn late_transactions(&self, now_ms: i64, late_ms: i64) -> Vec<ProducerSummary> {
        let is_late = |producer: &ProducerSummary| {
            let idle_ms = now_ms.saturating_sub(producer.last_timestamp_ms);
            producer.current_txn_first_offset.is_some() && idle_ms > late_ms
        };
        self.producers_that(is_late)
    }

    /// What is known of the partition's producers.
    pub fn producers(&self) -> Vec<ProducerSummary> {
        self.producers_that(|_| true)
    }

    fn producers_that(&self, are_wanted: impl Fn(&ProducerSummary) -> bool) -> Vec<ProducerSummary> {
        let state = self.locked();
        let summary = |(producer_id, producer): (ProducerId, &producer_state::ProducerState)| ProducerSummary {
            producer_id,
            producer_epoch: producer.producer_epoch,
            last_sequence: producer.last_sequence(),
            last_timestamp_ms: producer.last_timestamp_ms,
            coordinator_epoch: producer.coordinator_epoch,
            current_txn_first_offset: producer.current_txn_first_offset,
        };
        state.producers.iter().map(summary).filter(are_wanted).collect()
    }

    /// Forgets producers that have been silent for `producer.id.expiration.ms`.
    pub fn expire_producers(&self, now_ms: i64) {
        self.locked().producers.remove_expired(now_ms, self.parent().producer_id_expiration_ms());
    }

    /// Closes files that nobody used since the last call. What was written to them is flushed first: whether the disk took
    /// it, the system tells whoever has the file open, and it may forget that once nobody has.
    /// Source: Linux, Documentation/core-api/errseq.rst, and fs/open.c (do_dentry_open); the state is the inode's.
    pub fn close_idle_files(&self, now_ms: i64) -> Result<(), LogError> {
        let flushed = if self.locked().has_idle_unflushed_files() { self.flush(now_ms) } else { Ok(()) };
        let mut state = self.locked();
        let recovery_point = state.recovery_point;
        for at in 0..state.segments.len() {
            if state.end_of_segment(at) <= recovery_point || flushed.is_ok() {
                state.segments[at].close_if_idle();
            }
        }
        flushed
    }

    /// Makes everything up to the log end durable.
    pub fn flush(&self, now_ms: i64) -> Result<(), LogError> {
        let until = self.serving()?.log_end_offset;
        self.flush_until(until, now_ms)
    }

    /// Makes all segments but the active one durable.
    pub fn flush_old_segments(&self, now_ms: i64) -> Result<(), LogError> {
        let until = self.serving()?.active().base_offset();
        self.flush_until(until, now_ms)
    }

    fn flush_until(&self, until: Offset, now_ms: i64) -> Result<(), LogError> {
        while !self.flush_once(until, now_ms)? {}
        Ok(())
    }

    /// False if the log was in another directory when it began: there it is of no use any more.
    fn flush_once(&self, until: Offset, now_ms: i64) -> Result<bool, LogError> {
        let parent = self.parent();
        // Recovery finds the epochs of batches above the recovery point in the batches; of those below, in the file.
        self.write_small_files()?;
        let mut state = self.serving()?;
        let from = state.recovery_point;
        if until <= from {
            return Ok(true);
        }
        let truncations = state.truncations;
        let files = self.observe_in(&parent, state.files_to_flush(from, until))?;
        let dir = state.dir.clone();
        drop(state);

        let began = Instant::now();
        let synced = (|| {
            for path in &files {
                match files::open(path) {
                    // What a failed fsync did not write, the next one takes for written.
                    Ok(file) => files::sync(&file).doing("fsync", path).map_err(LogError::half_done)?,
                    // Deleted since: nothing left to lose.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error).doing("open", path),
                }
            }
            match files::sync_path(&dir) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                synced => synced.doing("fsync", &dir),
            }
        })();
        if !self.is_in(&parent) {
            return Ok(false);
        }
        self.observe_in(&parent, synced)?;
        let counters = &parent.counters;
        add(&counters.flushes, 1);
        add(&counters.flush_us, u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));

        let mut state = self.locked();
        state.last_flush_ms = now_ms;
        if !Arc::ptr_eq(&state.parent, &parent) {
            return Ok(false);
        }
        if state.truncations == truncations && until > state.recovery_point {
            state.recovery_point = until;
        }
        Ok(true)
    }

    /// How long there has been something to flush, for `flush.ms`.
    pub fn unflushed_since_ms(&self) -> Option<i64> {
        let state = self.locked();
        (state.recovery_point < state.log_end_offset && !state.is_closed).then_some(state.last_flush_ms)
    }

    /// Flushes, gives all files their final form and closes them. The log serves no more.
    pub fn close(&self, now_ms: i64) -> Result<(), LogError> {
        self.flush(now_ms)?;
        let mut state = self.serving()?;
        self.observe(state.close())
    }

    fn replacements(&self) -> u64 {
        self.replacements.load(Ordering::Acquire)
    }

    fn is_in(&self, parent: &Arc<LogDir>) -> bool {
        Arc::ptr_eq(&self.parent.load(), parent)
    }

    fn begin_renaming(&self) -> MutexGuard<'_, ()> {
        self.renaming.lock().expect("nothing panics under this lock")
    }

    /// Stops serving at once and writes nothing, because the directory failed or is about to go.
    pub(crate) fn abandon(&self) {
        let mut state = self.locked();
        state.is_closed = true;
        state.segments.iter_mut().for_each(Segment::close);
        // Whoever reads without the lock does not find its files any more, or those of the next log of its name.
        self.replacements.fetch_add(1, Ordering::AcqRel);
    }
}

impl State {
    fn active(&self) -> &Segment {
        self.segments.last().expect("a log always has an active segment")
    }

    fn active_mut(&mut self) -> &mut Segment {
        self.segments.last_mut().expect("a log always has an active segment")
    }

    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| u64::from(segment.size())).sum()
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            log_start_offset: self.log_start_offset,
            high_watermark: self.high_watermark,
            last_stable_offset: self.last_stable_offset(),
            log_end_offset: self.log_end_offset,
        }
    }

    /// No transaction that a reader below this could see is open.
    fn last_stable_offset(&self) -> Offset {
        match self.producers.first_unstable_offset() {
            Some(unstable) => unstable.max(self.log_start_offset).min(self.high_watermark),
            None => self.high_watermark,
        }
    }

    fn set_high_watermark(&mut self, offset: Offset) {
        self.high_watermark = offset.min(self.log_end_offset).max(self.log_start_offset);
        self.producers.forget_completed_below(self.high_watermark);
    }

    /// Raises the epoch in force.
    fn begin_epoch(&mut self, epoch: LeaderEpoch) -> Result<(), LogError> {
        if epoch < self.leader_epoch {
            return Err(LogError::StaleLeaderEpoch { given: epoch, latest: self.leader_epoch });
        }
        self.leader_epoch = epoch;
        Ok(())
    }

    /// Refuses what was admitted under another epoch than the one in force.
    fn check_epoch(&self, given: LeaderEpoch) -> Result<(), LogError> {
        if given == self.leader_epoch {
            Ok(())
        } else {
            Err(LogError::StaleLeaderEpoch { given, latest: self.leader_epoch })
        }
    }

    /// A log of an old format has no epochs: its batches have no place for them, and a leader knows nothing of one that a
    /// follower names. Source: kafka 2.8.2 core/src/main/scala/kafka/log/Log.scala (maybeCreateLeaderEpochCache).
    fn keeps_epochs(&mut self) -> bool {
        let has_place = self.config.message_format_version.highest_supported_magic() >= 2;
        if !has_place {
            self.forget_epochs();
        }
        has_place
    }

    fn assign_epoch(&mut self, epoch: LeaderEpoch, start_offset: Offset) {
        if self.epochs.assign_changes(epoch, start_offset) && self.epochs.assign(epoch, start_offset) {
            self.note_epochs_changed();
        }
    }

    fn note_epochs_changed(&mut self) {
        if !std::mem::replace(&mut self.unwritten.epochs, true) {
            self.parent.note_unwritten(&self.topic_partition);
        }
    }

    /// Exclusive.
    fn end_of_segment(&self, at: usize) -> Offset {
        self.segments.get(at + 1).map_or(self.log_end_offset, Segment::base_offset)
    }

    fn has_idle_unflushed_files(&self) -> bool {
        let unflushed = (0..self.segments.len()).filter(|&at| self.end_of_segment(at) > self.recovery_point);
        !self.is_closed && unflushed.into_iter().any(|at| self.segments[at].is_idle())
    }

    fn files_to_flush(&mut self, from: Offset, until: Offset) -> Result<Vec<PathBuf>, LogError> {
        let mut files = Vec::new();
        for at in 0..self.segments.len() {
            if self.end_of_segment(at) > from && self.segments[at].base_offset() < until {
                files.extend(self.segments[at].files_to_flush(&self.dir)?);
            }
        }
        files.extend(self.snapshots.between(from, until).map(|offset| snapshots::path(&self.dir, offset)));
        Ok(files)
    }

    fn close(&mut self) -> Result<(), LogError> {
        self.snapshots.take(&self.dir, &self.producers)?;
        let config = self.config.clone();
        let dir = self.dir.clone();
        if self.active().size() == 0 {
            // There may have been no room for it yet.
            self.active_mut().file(&dir)?;
        }
        self.active_mut().become_inactive(&dir, &config)?;
        self.segments.iter_mut().for_each(Segment::close);
        self.is_closed = true;
        Ok(())
    }
}
