//! What a partition does as a follower: it takes what its leader sends, and cuts off what its leader does not have. All of
//! it carries the leader epoch under which it was asked for, and does nothing under any other.

use std::sync::Arc;

use bytes::Bytes;
use log::{info, warn};

use crate::log::error::LogError;
use crate::log::leader_epochs::EpochEnd;
use crate::log::{AppendInfo, Bounds};
use crate::model::{LeaderEpoch, Offset};
use crate::record::batch::Batches;
use crate::replica::counters::add;
use crate::replica::error::ReplicaError;
use crate::replica::leader::WrongLeadership;
use crate::replica::partition::{Partition, State};
use crate::replica::partition_log::PartitionLog;
use crate::replica::truncation::{Truncation, truncation};
use crate::replica::waiters::Moves;

/// What a follower got of its leader.
#[derive(Clone, Debug)]
pub struct FromLeader {
    /// Whole batches; the last may be cut short.
    pub records: Bytes,
    /// Under which they were asked for.
    pub leader_epoch: LeaderEpoch,
    /// Where the log ended when they were asked for.
    pub fetch_offset: Offset,
    /// The leader's.
    pub high_watermark: Offset,
    /// The leader's; -1 when its version cannot say.
    pub log_start_offset: Offset,
}

/// Where a follower's log is, as far as that decides what it asks of its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub log_start_offset: Offset,
    pub high_watermark: Offset,
    pub log_end_offset: Offset,
    /// Of the last record; `None` when its format has no place for one, and in an empty log.
    pub last_epoch: Option<LeaderEpoch>,
}

impl<L: PartitionLog> Partition<L> {
    /// Where the log is that follows in that epoch.
    pub fn follower_position(&self, leader_epoch: LeaderEpoch) -> Result<Position, ReplicaError> {
        let log = self.state().log_that_follows(leader_epoch)?;
        Ok(position(&*log))
    }

    /// Records are there that it may not say that it has.
    pub(crate) fn has_unflushed(&self) -> bool {
        self.log().is_some_and(|log| log.acknowledgeable_end() < log.bounds().log_end_offset)
    }

    pub(crate) fn flush_before_acknowledgement(&self, now_ms: i64) -> Result<(), ReplicaError> {
        let Some(log) = self.log() else { return Ok(()) };
        log.flush_for_acknowledgement(now_ms).map(drop).map_err(|why| self.failed(why))
    }

    /// Whether what it fetches counts for the follower's replication quota.
    pub fn is_throttled_follower(&self) -> bool {
        self.log().is_some_and(|log| {
            let replicas = &log.config().follower_replication_throttled_replicas;
            replicas.contains(self.name().partition, self.local().0)
        })
    }

    /// Appends what a leader sent, and learns from it what is committed and where the log starts. May wait for a disk.
    pub fn append_from_leader(&self, fetched: &FromLeader, now_ms: i64) -> Result<AppendInfo, ReplicaError> {
        let FromLeader { records, leader_epoch, fetch_offset, high_watermark, log_start_offset } = fetched;
        let log = self.state().log_that_follows(*leader_epoch)?;
        // The partition's lock is free meanwhile: the log refuses the append if another epoch has begun.
        let info =
            self.append_to(&log, records, *leader_epoch, *fetch_offset, now_ms).map_err(|error| self.failed(error))?;
        add(&self.around.counters.replication_bytes_in, records.len());
        {
            let mut state = self.state();
            state.log_that_follows(*leader_epoch)?;
            // What is known to be committed stays so, even if the leader does not know it yet.
            let before = log.bounds().high_watermark;
            if *high_watermark > before && log.update_high_watermark(*high_watermark) > before {
                state.fetches.moved(Moves::COMMITTED);
            }
        }
        let Bounds { log_start_offset: own, high_watermark, .. } = log.bounds();
        if *log_start_offset > own && own < high_watermark {
            let raised = (*log_start_offset).min(high_watermark);
            log.increment_log_start_offset(raised, *leader_epoch).map_err(|error| self.failed(error))?;
            self.note_log_start_offset();
        }
        Ok(AppendInfo { log_start_offset: log.bounds().log_start_offset, ..info })
    }

    fn append_to(
        &self,
        log: &L,
        records: &Bytes,
        leader_epoch: LeaderEpoch,
        fetch_offset: Offset,
        now_ms: i64,
    ) -> Result<AppendInfo, LogError> {
        let appended = log.append_as_follower(records, leader_epoch, fetch_offset, now_ms);
        let (first_offset, log_end_offset) = match appended {
            Err(LogError::UnexpectedOffset { first_offset, log_end_offset }) => (first_offset, log_end_offset),
            Err(LogError::RecordListTooLarge { bytes, segment_bytes }) if segment_bytes < bytes => {
                return append_in_pieces(log, records, segment_bytes, leader_epoch, fetch_offset, now_ms);
            }
            appended => return appended,
        };
        // The leader's log may start in the middle of a batch, after DeleteRecords: a log that is empty starts with all of
        // it. Source: kafka 3.9 core/src/main/scala/kafka/cluster/Partition.scala (appendRecordsToFollowerOrFutureReplica).
        let is_empty = log.bounds().log_start_offset == log_end_offset && fetch_offset == log_end_offset;
        let first = Batches::new(records).next().and_then(Result::ok).map(|batch| batch.header);
        match first {
            Some(first) if is_empty && first_offset < log_end_offset && first.last_offset >= log_end_offset.0 => {
                info!(
                    "{}: the first batch begins at offset {first_offset}, below the log start offset {log_end_offset}; \
                     the log starts with it",
                    self.name()
                );
                log.truncate_fully_and_start_at(first_offset, leader_epoch, now_ms)?;
                log.append_as_follower(records, leader_epoch, first_offset, now_ms)
            }
            _ => Err(LogError::UnexpectedOffset { first_offset, log_end_offset }),
        }
    }

    /// Cuts off what the leader of that epoch does not have. May wait for a disk.
    pub fn truncate(&self, offset: Offset, leader_epoch: LeaderEpoch, now_ms: i64) -> Result<bool, ReplicaError> {
        let log = self.state().log_that_follows(leader_epoch)?;
        let high_watermark = log.bounds().high_watermark;
        if offset < high_watermark {
            warn!("Truncating {} to offset {offset} below high watermark {high_watermark}", self.name());
        }
        let has_changed = log.truncate_to(offset, leader_epoch, now_ms).map_err(|error| self.failed(error))?;
        self.has_lost_records(has_changed);
        Ok(has_changed)
    }

    /// The same, by what the leader says of the epoch that this log ends with, or of an earlier one.
    pub fn truncate_by_epoch(
        &self,
        leader: EpochEnd,
        fallback: Offset,
        leader_epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Truncation, ReplicaError> {
        let log = self.state().log_that_follows(leader_epoch)?;
        let local = log.end_offset_for_epoch(leader.epoch);
        let truncation = truncation(leader, local, log.bounds().log_end_offset, fallback);
        self.truncate(truncation.offset(), leader_epoch, now_ms)?;
        Ok(truncation)
    }

    /// Drops everything and goes on at an offset: the leader of that epoch has nothing that this log could go on with.
    /// May wait for a disk.
    pub fn restart_at(&self, offset: Offset, leader_epoch: LeaderEpoch, now_ms: i64) -> Result<(), ReplicaError> {
        let log = self.state().log_that_follows(leader_epoch)?;
        log.truncate_fully_and_start_at(offset, leader_epoch, now_ms).map_err(|error| self.failed(error))?;
        self.has_lost_records(true);
        Ok(())
    }

    /// Consumers may read from followers, and wait for what they read to go on.
    fn has_lost_records(&self, has_changed: bool) {
        if has_changed {
            add(&self.around.counters.follower_truncations, 1);
            self.state().fetches.moved(Moves::ALL);
        }
    }
}

/// The leader's segments may be larger than those that this log makes, after `segment.bytes` has been lowered: its batches are
/// appended so many at a time as a segment holds.
fn append_in_pieces(
    log: &impl PartitionLog,
    records: &Bytes,
    segment_bytes: u64,
    leader_epoch: LeaderEpoch,
    fetch_offset: Offset,
    now_ms: i64,
) -> Result<AppendInfo, LogError> {
    let mut batches = Batches::new(records).map_while(Result::ok).map(|batch| batch.bytes.len()).peekable();
    let (mut from, mut fetch_offset, mut all) = (0, fetch_offset, None::<AppendInfo>);
    while let Some(mut bytes) = batches.next() {
        while let Some(more) = batches.next_if(|more| (bytes + more) as u64 <= segment_bytes) {
            bytes += more;
        }
        let piece = log.append_as_follower(&records.slice(from..from + bytes), leader_epoch, fetch_offset, now_ms)?;
        (from, fetch_offset) = (from + bytes, piece.log_end_offset);
        let first_offset = all.as_ref().map_or(piece.first_offset, |all| all.first_offset);
        let flush_due = piece.flush_due || all.as_ref().is_some_and(|all| all.flush_due);
        all = Some(AppendInfo { first_offset, flush_due, ..piece });
    }
    // Without a whole batch there was nothing too large.
    all.ok_or_else(|| LogError::InvalidBatch { reason: "the leader's records are no batches".to_owned() })
}

fn position(log: &impl PartitionLog) -> Position {
    let Bounds { log_start_offset, high_watermark, .. } = log.bounds();
    // What it does not say that it has, it is sent again, and flushes what is there.
    let log_end_offset = log.acknowledgeable_end();
    Position { log_start_offset, high_watermark, log_end_offset, last_epoch: log.last_epoch() }
}

impl<L: PartitionLog> State<L> {
    /// The log, if this broker follows in that epoch.
    fn log_that_follows(&self, leader_epoch: LeaderEpoch) -> Result<Arc<L>, ReplicaError> {
        if self.is_offline() {
            return Err(ReplicaError::Offline);
        }
        let follows = self.leadership.check_leader(Some(leader_epoch)) == Err(WrongLeadership::NotLeader);
        self.log.clone().filter(|_| follows).ok_or(ReplicaError::NotLeaderOrFollower)
    }
}
