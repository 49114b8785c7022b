//! What a partition does as a follower: it takes what its leader sends, and cuts off what its leader does not have. Both
//! carry the leader epoch under which they were asked for, and do nothing under any other.

use std::sync::Arc;

use bytes::Bytes;

use crate::log::AppendInfo;
use crate::model::{LeaderEpoch, Offset};
use crate::replica::error::ReplicaError;
use crate::replica::leader::WrongLeadership;
use crate::replica::partition::{Partition, State};
use crate::replica::partition_log::PartitionLog;
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
}

impl<L: PartitionLog> Partition<L> {
    /// Appends what a leader sent, and learns from it what is committed. May wait for a disk.
    pub fn append_from_leader(&self, fetched: &FromLeader, now_ms: i64) -> Result<AppendInfo, ReplicaError> {
        let FromLeader { records, leader_epoch, fetch_offset, high_watermark } = fetched;
        let log = self.state().log_that_follows(*leader_epoch)?;
        // The partition's lock is free meanwhile: the log refuses the append if another epoch has begun.
        let info = log
            .append_as_follower(records, *leader_epoch, *fetch_offset, now_ms)
            .map_err(|error| self.failed(error))?;
        let mut state = self.state();
        state.log_that_follows(*leader_epoch)?;
        // What is known to be committed stays so, even if the leader does not know it yet.
        let before = log.bounds().high_watermark;
        if *high_watermark > before && log.update_high_watermark(*high_watermark) > before {
            state.fetches.moved(Moves::COMMITTED);
        }
        Ok(info)
    }

    /// Cuts off what the leader of that epoch does not have. May wait for a disk.
    pub fn truncate(&self, offset: Offset, leader_epoch: LeaderEpoch, now_ms: i64) -> Result<bool, ReplicaError> {
        let log = self.state().log_that_follows(leader_epoch)?;
        let has_changed = log.truncate_to(offset, leader_epoch, now_ms).map_err(|error| self.failed(error))?;
        if has_changed {
            // Consumers may read from followers, and wait for what they read to go on.
            self.state().fetches.moved(Moves::ALL);
        }
        Ok(has_changed)
    }
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
