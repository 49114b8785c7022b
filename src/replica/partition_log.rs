//! What a partition needs of the log under it. `Log` is the one on disk; with one in memory, partitions of many brokers
//! run in one process.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::config::log::LogConfig;
use crate::log::error::LogError;
use crate::log::leader_epochs::EpochEnd;
use crate::log::{AppendInfo, Bounds, FetchedBatches, FirstBatch, Log, OffsetQuery, ReadUntil, TimestampedOffset};
use crate::model::{LeaderEpoch, Offset, TopicId};
use crate::record::append_rules::AppendOrigin;
use crate::record::prepared::Prepared;

/// One partition's records. Every call is atomic. Whatever changes records carries the leader epoch under which that was
/// admitted, and is refused unless that epoch is in force.
pub trait PartitionLog: Send + Sync + 'static {
    fn is_offline(&self) -> bool;
    /// Its disk does not keep up, and whoever looks at the log may wait. Takes no lock.
    fn is_held_up(&self) -> bool {
        false
    }
    /// The entry of `log.dirs` that it is in, if it is on a disk.
    fn parent_dir(&self) -> Option<PathBuf> {
        None
    }
    fn topic_id(&self) -> Option<TopicId>;
    fn config(&self) -> Arc<LogConfig>;
    fn set_config(&self, config: Arc<LogConfig>);
    fn bounds(&self) -> Bounds;
    /// Where an epoch ends, as OffsetForLeaderEpoch answers it.
    fn end_offset_for_epoch(&self, requested: LeaderEpoch) -> EpochEnd;

    /// The last of the epochs that the log knows.
    fn last_epoch(&self) -> Option<LeaderEpoch>;

    /// This epoch is in force from here on; it begins where the log ends, and this broker leads in it. Waits for no disk.
    fn lead(&self, epoch: LeaderEpoch) -> Result<Bounds, LogError>;
    /// This epoch is in force from here on, and another broker leads in it. Waits for no disk.
    fn follow(&self, epoch: LeaderEpoch) -> Result<(), LogError>;
    /// No epoch is in force any more.
    fn end_appends(&self);

    fn append_as_leader(
        &self,
        prepared: &mut Prepared,
        leader_epoch: LeaderEpoch,
        origin: AppendOrigin,
        now_ms: i64,
    ) -> Result<AppendInfo, LogError>;
    /// Refused, too, unless the log ends at `fetch_offset`.
    fn append_as_follower(
        &self,
        records: &Bytes,
        leader_epoch: LeaderEpoch,
        fetch_offset: Offset,
        now_ms: i64,
    ) -> Result<AppendInfo, LogError>;
    fn truncate_to(&self, offset: Offset, leader_epoch: LeaderEpoch, now_ms: i64) -> Result<bool, LogError>;
    /// Removes everything and goes on at that offset.
    fn truncate_fully_and_start_at(
        &self,
        offset: Offset,
        leader_epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<(), LogError>;
    /// Follows the log start offset of the leader, within what is committed; never back. True if it moved.
    fn increment_log_start_offset(&self, offset: Offset, leader_epoch: LeaderEpoch) -> Result<bool, LogError>;
    /// Moves the log start offset; -1 means to the high watermark.
    fn delete_records(&self, before: Offset, leader_epoch: LeaderEpoch) -> Result<Offset, LogError>;
    /// What was written is on the disk, as far as an acknowledgement waits for it. Returns up to where, exclusive.
    fn flush_for_acknowledgement(&self, now_ms: i64) -> Result<Offset, LogError>;
    /// Up to where a follower may say that it has the records, exclusive.
    fn acknowledgeable_end(&self) -> Offset;
    /// Moves the high watermark, within what the log holds. Returns where it is now.
    fn update_high_watermark(&self, offset: Offset) -> Offset;

    fn read(
        &self,
        from: Offset,
        bytes_max: u32,
        until: ReadUntil,
        first_batch: FirstBatch,
    ) -> Result<FetchedBatches, LogError>;
    fn offset_for_timestamp(&self, query: OffsetQuery) -> Result<Option<TimestampedOffset>, LogError>;
    /// What came of reading batches that were found in it.
    fn observe_read(&self, read: io::Result<()>) -> Result<(), LogError>;
}

impl PartitionLog for Log {
    fn is_offline(&self) -> bool {
        Log::is_offline(self)
    }

    fn is_held_up(&self) -> bool {
        Log::is_held_up(self)
    }

    fn parent_dir(&self) -> Option<PathBuf> {
        Some(Log::parent_dir(self))
    }

    fn topic_id(&self) -> Option<TopicId> {
        Log::topic_id(self)
    }

    fn config(&self) -> Arc<LogConfig> {
        Log::config(self)
    }

    fn set_config(&self, config: Arc<LogConfig>) {
        Log::set_config(self, config);
    }

    fn bounds(&self) -> Bounds {
        Log::bounds(self)
    }

    fn end_offset_for_epoch(&self, requested: LeaderEpoch) -> EpochEnd {
        Log::end_offset_for_epoch(self, requested)
    }

    fn last_epoch(&self) -> Option<LeaderEpoch> {
        Log::last_epoch(self)
    }

    fn lead(&self, epoch: LeaderEpoch) -> Result<Bounds, LogError> {
        Log::lead(self, epoch)
    }

    fn follow(&self, epoch: LeaderEpoch) -> Result<(), LogError> {
        Log::follow(self, epoch)
    }

    fn end_appends(&self) {
        Log::end_appends(self);
    }

    fn append_as_leader(
        &self,
        prepared: &mut Prepared,
        leader_epoch: LeaderEpoch,
        origin: AppendOrigin,
        now_ms: i64,
    ) -> Result<AppendInfo, LogError> {
        Log::append_as_leader(self, prepared, leader_epoch, origin, now_ms)
    }

    fn append_as_follower(
        &self,
        records: &Bytes,
        leader_epoch: LeaderEpoch,
        fetch_offset: Offset,
        now_ms: i64,
    ) -> Result<AppendInfo, LogError> {
        Log::append_as_follower(self, records, leader_epoch, fetch_offset, now_ms)
    }

    fn truncate_to(&self, offset: Offset, leader_epoch: LeaderEpoch, now_ms: i64) -> Result<bool, LogError> {
        Log::truncate_to(self, offset, leader_epoch, now_ms)
    }

    fn truncate_fully_and_start_at(
        &self,
        offset: Offset,
        leader_epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<(), LogError> {
        Log::truncate_fully_and_start_at(self, offset, None, leader_epoch, now_ms)
    }

    fn increment_log_start_offset(&self, offset: Offset, leader_epoch: LeaderEpoch) -> Result<bool, LogError> {
        Log::increment_log_start_offset(self, offset, leader_epoch)
    }

    fn delete_records(&self, before: Offset, leader_epoch: LeaderEpoch) -> Result<Offset, LogError> {
        Log::delete_records(self, before, leader_epoch)
    }

    fn flush_for_acknowledgement(&self, now_ms: i64) -> Result<Offset, LogError> {
        Log::flush_for_acknowledgement(self, now_ms)
    }

    fn acknowledgeable_end(&self) -> Offset {
        Log::acknowledgeable_end(self)
    }

    fn update_high_watermark(&self, offset: Offset) -> Offset {
        Log::update_high_watermark(self, offset)
    }

    fn read(
        &self,
        from: Offset,
        bytes_max: u32,
        until: ReadUntil,
        first_batch: FirstBatch,
    ) -> Result<FetchedBatches, LogError> {
        Log::read(self, from, bytes_max, until, first_batch)
    }

    fn offset_for_timestamp(&self, query: OffsetQuery) -> Result<Option<TimestampedOffset>, LogError> {
        Log::offset_for_timestamp(self, query)
    }

    fn observe_read(&self, read: io::Result<()>) -> Result<(), LogError> {
        Log::observe_read(self, read)
    }
}
