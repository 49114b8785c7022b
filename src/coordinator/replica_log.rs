//! The log under a coordinator: the partitions of its internal topic as this broker's replica room hosts them.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::session::ZooKeeper;
use tokio::time::Instant;

use crate::coordinator::topic_log::{AppendFailure, AppendOutcome, Appending, Committing, CoordinatorLog};
use crate::log::error::LogError;
use crate::log::{FirstBatch, ReadUntil, read_exact_at};
use crate::model::clock::wall_clock_ms;
use crate::model::{LeaderEpoch, Offset};
use crate::record::append_rules::{AcceptedSets, AppendOrigin};
use crate::record::error::RecordError;
use crate::replica::error::ReplicaError;
use crate::replica::partition::{AppendTerms, Appended, Partition, RequiredAcks};
use crate::replica::partition_log::PartitionLog;
use crate::replica::replica_manager::ReplicaManager;
use crate::replica::waiters::Commit;

/// One internal topic of this broker.
pub struct ReplicaLog {
    replicas: Arc<ReplicaManager>,
    topic: &'static str,
    counted_in: Option<ZooKeeper>,
}

impl ReplicaLog {
    pub fn new(replicas: Arc<ReplicaManager>, topic: &'static str) -> ReplicaLog {
        ReplicaLog { replicas, topic, counted_in: None }
    }

    /// Whoever asks how many partitions there are by now is told what ZooKeeper says.
    pub fn counted_in(self, zookeeper: ZooKeeper) -> ReplicaLog {
        ReplicaLog { counted_in: Some(zookeeper), ..self }
    }
}

/// How many partitions a topic has in ZooKeeper; `None` if it is not there.
pub(crate) async fn partition_count(zookeeper: &ZooKeeper, topic: &str) -> Result<Option<i32>, ZkError> {
    loop {
        match zookeeper.topic(topic).await {
            Ok(found) => {
                zookeeper.mended(&odradek_zookeeper::znode::topic::path(topic));
                return Ok(found.and_then(|topic| i32::try_from(topic.value.partitions.len()).ok()));
            }
            // The next request waits for the next session.
            Err(ZkError::SessionExpired) => {}
            Err(why) => return Err(why),
        }
    }
}

impl CoordinatorLog for ReplicaLog {
    fn append(
        &self,
        partition: i32,
        leader_epoch: LeaderEpoch,
        batch: Bytes,
        origin: AppendOrigin,
        required_acks: i16,
        timeout: Duration,
    ) -> Appending {
        // Coordinators write on their own account, so there is no request whose time it could be.
        let terms = AppendTerms { origin, ..terms(leader_epoch, required_acks) };
        appending(self.replicas.append(self.topic, partition, batch, terms, wall_clock_ms()), timeout)
    }

    fn is_held_up(&self, partition: i32) -> bool {
        self.replicas.is_held_up(self.topic, partition)
    }

    fn parent_dir(&self, partition: i32) -> Option<PathBuf> {
        self.replicas.parent_dir(self.topic, partition)
    }

    fn append_beside(
        &self,
        partition: i32,
        leader_epoch: LeaderEpoch,
        batch: Bytes,
        origin: AppendOrigin,
        required_acks: i16,
        timeout: Duration,
    ) -> Pin<Box<dyn Future<Output = Appending> + Send>> {
        let (replicas, topic) = (Arc::clone(&self.replicas), Arc::from(self.topic));
        let terms = AppendTerms { origin, ..terms(leader_epoch, required_acks) };
        Box::pin(async move {
            let appended = replicas.append_held_up(vec![(topic, partition, batch)], terms, wall_clock_ms()).await;
            let first = appended.map(|appended| appended.into_iter().next());
            let appended = first.unwrap_or_else(|why| Some(Err(why.into())));
            appending(appended.unwrap_or(Err(ReplicaError::NotLeaderOrFollower)), timeout)
        })
    }

    fn partition_count(&self) -> Pin<Box<dyn Future<Output = Option<i32>> + Send>> {
        let Some(zookeeper) = self.counted_in.clone() else { return Box::pin(std::future::ready(None)) };
        let topic = self.topic;
        Box::pin(async move {
            match partition_count(&zookeeper, topic).await {
                Ok(count) => count,
                // The broker shuts down.
                Err(why) if why.is_of_the_session() => None,
                Err(why) => {
                    let path = odradek_zookeeper::znode::topic::path(topic);
                    zookeeper.complain(&path, "it is taken to have as many partitions as before", &why);
                    None
                }
            }
        })
    }

    fn all_replicated(&self, partition: i32, leader_epoch: LeaderEpoch) -> Committing {
        let (replicas, topic) = (Arc::clone(&self.replicas), self.topic);
        Box::pin(async move {
            let look = move |replicas: &Arc<ReplicaManager>| {
                replicas.partition(topic, partition).and_then(|hosted| hosted.all_replicated(leader_epoch))
            };
            let commit = replicas.at(topic, partition, look).await;
            committing(commit.unwrap_or_else(|why| Err(why.into()))).await
        })
    }

    fn log_start_offset(&self, partition: i32) -> Option<Offset> {
        let hosted = self.replicas.partition(self.topic, partition).ok()?;
        hosted.log().map(|log| log.log_start_offset())
    }

    fn read(&self, partition: i32, from: Offset, bytes_max: u32) -> Result<Bytes, String> {
        let hosted = self.replicas.partition(self.topic, partition).map_err(|error| error.to_string())?;
        read(&hosted, from, bytes_max)
    }
}

/// What a coordinator loads, some of it.
pub(crate) fn read<L: PartitionLog>(hosted: &Partition<L>, from: Offset, bytes_max: u32) -> Result<Bytes, String> {
    let log = hosted.log().ok_or_else(|| ReplicaError::NotLeaderOrFollower.to_string())?;
    let batches = log.read(from, bytes_max, ReadUntil::LogEnd, FirstBatch::Whole).map_err(|error| error.to_string())?;
    let Some(region) = batches.region else { return Ok(Bytes::new()) };
    let mut bytes = vec![0; region.len as usize];
    log.observe_read(read_exact_at(&region.file, &mut bytes, region.position)).map_err(|error| error.to_string())?;
    Ok(Bytes::from(bytes))
}

/// How a coordinator appends that was loaded for a leader epoch.
pub(crate) fn terms(leader_epoch: LeaderEpoch, required_acks: i16) -> AppendTerms {
    AppendTerms {
        accepted_sets: AcceptedSets::Any,
        origin: AppendOrigin::Coordinator,
        required_acks: match required_acks {
            0 => RequiredAcks::None,
            1 => RequiredAcks::Leader,
            _ => RequiredAcks::AllInSync,
        },
        expected_leader_epoch: Some(leader_epoch),
    }
}

/// What becomes of a batch of a coordinator.
pub(crate) fn appending(appended: Result<Appended, ReplicaError>, timeout: Duration) -> Appending {
    match appended {
        Ok(Appended { info, commit: None, .. }) => Appending::Done(Ok(info.first_offset)),
        Ok(Appended { info, commit: Some(commit), .. }) => {
            let deadline = Instant::now() + timeout;
            Appending::Waiting(Box::pin(async move {
                let committed = commit.wait(deadline).await;
                outcome(committed.map(|()| info.first_offset).map_err(ReplicaError::from))
            }))
        }
        Err(error) => Appending::Done(outcome(Err(error))),
    }
}

/// What becomes of all that a partition holds, for which there may be something to wait for.
pub(crate) fn committing(commit: Result<Option<Commit>, ReplicaError>) -> Committing {
    Box::pin(async move {
        let committed = match commit {
            Ok(Some(commit)) => commit.reached().await.map_err(ReplicaError::from),
            Ok(None) => Ok(()),
            Err(why) => Err(why),
        };
        committed.map_err(failure)
    })
}

fn outcome(appended: Result<Offset, ReplicaError>) -> AppendOutcome {
    appended.map_err(failure)
}

fn failure(error: ReplicaError) -> AppendFailure {
    match error {
        ReplicaError::UnknownTopicOrPartition | ReplicaError::UnknownTopicId => AppendFailure::UnknownTopicOrPartition,
        ReplicaError::NotEnoughReplicas { .. } => AppendFailure::NotEnoughReplicas,
        ReplicaError::NotEnoughReplicasAfterAppend => AppendFailure::NotEnoughReplicasAfterAppend,
        ReplicaError::TimedOut => AppendFailure::TimedOut,
        ReplicaError::Offline | ReplicaError::DiskIsSilent => AppendFailure::StorageError,
        ReplicaError::Records(RecordError::BatchTooLarge { .. }) => AppendFailure::MessageTooLarge,
        ReplicaError::Log(LogError::RecordListTooLarge { .. }) => AppendFailure::RecordListTooLarge,
        ReplicaError::Log(LogError::InvalidProducerEpoch { .. }) => AppendFailure::InvalidProducerEpoch,
        ReplicaError::Log(LogError::InvalidTxnState { .. }) => AppendFailure::InvalidTxnState,
        ReplicaError::Log(LogError::Io { .. } | LogError::Corrupt { .. }) => AppendFailure::StorageError,
        ReplicaError::Records(_) | ReplicaError::Log(_) => AppendFailure::Unexpected,
        ReplicaError::NotLeaderOrFollower
        | ReplicaError::FencedLeaderEpoch
        | ReplicaError::UnknownLeaderEpoch
        | ReplicaError::InconsistentTopicId
        | ReplicaError::OffsetNotAvailable
        | ReplicaError::UnknownFetchedEpoch
        | ReplicaError::ShuttingDown => AppendFailure::NotLeaderOrFollower,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustix::io::Errno;

    use super::*;
    use crate::log::faults::{self, Op};
    use crate::replica::tests::{Fixture, TERMS, records};

    #[tokio::test]
    async fn a_disk_from_which_a_coordinator_cannot_load_is_not_used_any_more() {
        let fixture = Fixture::new();
        fixture.publish(&[("t", 0)]).await;
        assert_eq!(fixture.decide("t", 0, 1, 0, &[1]).await, Ok(()));
        fixture.replicas.append("t", 0, records(20), TERMS, 0).expect("this broker leads");
        let hosted = fixture.replicas.partition("t", 0).expect("hosted");
        let log = hosted.log().expect("online");
        assert!(!read(&hosted, Offset(0), 1 << 20).expect("readable").is_empty());
        let broken = |op, _: &Path| if op == Op::Read { Err(Errno::IO.into()) } else { Ok(()) };
        let _fault = faults::below(fixture.dir.path(), broken);
        assert!(read(&hosted, Offset(0), 1 << 20).is_err());
        assert!(log.is_offline());
    }
}
