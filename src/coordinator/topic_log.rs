//! What a coordinator needs of the log under it: append a batch and learn its fate, and read a partition back.
//! The replica room provides it; tests drive it by hand.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;

use crate::model::{LeaderEpoch, Offset};
use crate::record::append_rules::AppendOrigin;
use crate::record::read::{ReadBatch, batches};

/// The partitions of one internal topic, as far as this broker leads them.
pub trait CoordinatorLog: Send + Sync + 'static {
    /// Appends one batch to the partition, unless its leadership of `leader_epoch` has ended: then the failure is
    /// `NotLeaderOrFollower`. The write happens before this returns; the wait for replicas does not.
    fn append(
        &self,
        partition: i32,
        leader_epoch: LeaderEpoch,
        batch: Bytes,
        origin: AppendOrigin,
        required_acks: i16,
        timeout: Duration,
    ) -> Appending;

    /// Whether the disk under the partition does not keep up, so that who appends may wait for it. Takes no lock.
    fn is_held_up(&self, _partition: i32) -> bool {
        false
    }

    /// The log directory that the partition is in, if it is on a disk. Takes no lock.
    fn parent_dir(&self, _partition: i32) -> Option<PathBuf> {
        None
    }

    /// The same as `append`, where it may wait for a disk.
    fn append_beside(
        &self,
        partition: i32,
        leader_epoch: LeaderEpoch,
        batch: Bytes,
        origin: AppendOrigin,
        required_acks: i16,
        timeout: Duration,
    ) -> Pin<Box<dyn Future<Output = Appending> + Send>> {
        Box::pin(std::future::ready(self.append(partition, leader_epoch, batch, origin, required_acks, timeout)))
    }

    /// How many partitions the topic has by now, for a coordinator that does not go on with another number; `None` if
    /// nobody says.
    fn partition_count(&self) -> Pin<Box<dyn Future<Output = Option<i32>> + Send>> {
        Box::pin(std::future::ready(None))
    }

    /// Where the partition starts; `None` if this broker has no log of it.
    fn log_start_offset(&self, partition: i32) -> Option<Offset>;

    /// Resolves once every in-sync replica has all that the partition holds now, however few those are; fails when its
    /// leadership of `leader_epoch` ends.
    fn all_replicated(&self, partition: i32, leader_epoch: LeaderEpoch) -> Committing;

    /// Whole batches from `from` on, at least one if there is any below the end of the log. May wait for the disk.
    /// Nothing is left if the slice is empty.
    fn read(&self, partition: i32, from: Offset, bytes_max: u32) -> Result<Bytes, String>;
}

/// The offset of the batch, once as many replicas have it as were asked for.
pub type AppendOutcome = Result<Offset, AppendFailure>;

pub type Committing = Pin<Box<dyn Future<Output = Result<(), AppendFailure>> + Send>>;

pub enum Appending {
    Done(AppendOutcome),
    Waiting(Pin<Box<dyn Future<Output = AppendOutcome> + Send>>),
}

/// Why a batch did not get into an internal topic, as far as the coordinators tell failures apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AppendFailure {
    UnknownTopicOrPartition,
    NotEnoughReplicas,
    NotEnoughReplicasAfterAppend,
    NotLeaderOrFollower,
    StorageError,
    TimedOut,
    MessageTooLarge,
    RecordListTooLarge,
    /// Of the producer of a transaction.
    InvalidProducerEpoch,
    /// The transaction is not open any more.
    InvalidTxnState,
    /// Anything else, which a coordinator's batch should never meet.
    Unexpected,
}

impl fmt::Display for AppendFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for AppendFailure {}

/// Hands every batch of the partition to `visit`, in order, until the end of the log or until `stop` says so. Blocks.
pub(crate) fn read_partition(
    log: &dyn CoordinatorLog,
    partition: i32,
    buffer_bytes: u32,
    stop: impl Fn() -> bool,
    mut visit: impl FnMut(ReadBatch<'_>),
) -> Result<(), String> {
    let Some(mut next) = log.log_start_offset(partition) else {
        return Err("this broker has no log of it".to_owned());
    };
    while !stop() {
        let slice = log.read(partition, next, buffer_bytes)?;
        let mut read_any = false;
        for batch in batches(&slice) {
            let batch = batch.map_err(|error| format!("after offset {next}: {error}"))?;
            // A batch may begin below the start of the log, or below what an earlier slice ended with.
            let next_offset = batch.header().next_offset();
            if next_offset <= next.0 {
                continue;
            }
            visit(batch);
            next = Offset(next_offset);
            read_any = true;
        }
        if !read_any {
            break;
        }
    }
    Ok(())
}
