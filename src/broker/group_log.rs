//! `__consumer_offsets` as the group coordinator sees it, by the replicas of this broker.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::coordinator::group::task::{GROUP_METADATA_TOPIC, GroupCoordinator, Leadership};
use crate::coordinator::shard::{AppendFailure, AppendOutcome, Appending, CoordinatorLog};
use crate::log::ReadUntil;
use crate::model::{Offset, TopicPartition};
use crate::network::wall_clock_ms;
use crate::record::append::{AcceptedSets, AppendOrigin};
use crate::replica::error::ReplicaError;
use crate::replica::partition::RequiredAcks;
use crate::replica::{AppendTerms, LeadershipEvent, ReplicaManager};

pub(crate) struct GroupLog {
    replicas: Arc<ReplicaManager>,
    topic: Arc<str>,
}

impl GroupLog {
    pub fn new(replicas: Arc<ReplicaManager>) -> GroupLog {
        GroupLog { replicas, topic: GROUP_METADATA_TOPIC.into() }
    }
}

impl CoordinatorLog for GroupLog {
    fn append(&self, partition: i32, batch: Bytes, required_acks: i16, timeout: Duration) -> Appending {
        let required_acks = match required_acks {
            0 => RequiredAcks::None,
            1 => RequiredAcks::Leader,
            _ => RequiredAcks::AllInSync,
        };
        let terms =
            AppendTerms { accepted_sets: AcceptedSets::Any, origin: AppendOrigin::Coordinator, required_acks };
        let deadline = Instant::now() + timeout;
        let appended = match self.replicas.append(&self.topic, partition, batch, terms, wall_clock_ms()) {
            Ok(appended) => appended,
            Err(why) => return Appending::Done(Err(failure(&why))),
        };
        let first_offset = appended.info.first_offset;
        match appended.commit {
            None => Appending::Done(Ok(first_offset)),
            Some(commit) => Appending::Waiting(Box::pin(async move {
                let outcome: AppendOutcome =
                    commit.wait(deadline).await.map(|()| first_offset).map_err(|why| failure(&why.into()));
                outcome
            })),
        }
    }

    fn log_start_offset(&self, partition: i32) -> Option<Offset> {
        let log = self.replicas.partition(&self.topic, partition).ok()?.log()?;
        Some(log.log_start_offset())
    }

    fn read(&self, partition: i32, from: Offset, bytes_max: u32) -> Result<Bytes, String> {
        let hosted = self.replicas.partition(&self.topic, partition).map_err(|why| why.to_string())?;
        let Some(log) = hosted.log() else { return Ok(Bytes::new()) };
        let fetched = log.read(from, bytes_max, ReadUntil::LogEnd, true).map_err(|why| why.to_string())?;
        let Some(region) = fetched.region else { return Ok(Bytes::new()) };
        let mut bytes = BytesMut::zeroed(region.len as usize);
        region
            .file
            .read_exact_at(&mut bytes, region.position)
            .map_err(|why| format!("read {}-{partition} from offset {from}: {why}", self.topic))?;
        Ok(bytes.freeze())
    }
}

fn failure(why: &ReplicaError) -> AppendFailure {
    use crate::protocol::error_code::ErrorCode as Code;
    match Code::from(why) {
        Code::UnknownTopicOrPartition => AppendFailure::UnknownTopicOrPartition,
        Code::NotEnoughReplicas => AppendFailure::NotEnoughReplicas,
        Code::NotEnoughReplicasAfterAppend => AppendFailure::NotEnoughReplicasAfterAppend,
        Code::NotLeaderOrFollower => AppendFailure::NotLeaderOrFollower,
        Code::KafkaStorageError => AppendFailure::StorageError,
        Code::RequestTimedOut => AppendFailure::TimedOut,
        Code::MessageTooLarge => AppendFailure::MessageTooLarge,
        Code::RecordListTooLarge => AppendFailure::RecordListTooLarge,
        Code::InvalidFetchSize => AppendFailure::InvalidFetchSize,
        other => AppendFailure::Other(other.code()),
    }
}

/// Tells the group coordinator of what the replicas tell of its topic.
pub(crate) async fn forward_leaderships(
    mut told: mpsc::Receiver<LeadershipEvent>,
    groups_told: mpsc::UnboundedSender<Leadership>,
    groups: Arc<GroupCoordinator>,
) {
    let is_groups = |partition: &TopicPartition| &*partition.topic == GROUP_METADATA_TOPIC;
    while let Some(event) = told.recv().await {
        let leadership = match event {
            LeadershipEvent::Elected { partition, leader_epoch } if is_groups(&partition) => {
                Leadership::Elected { partition: partition.partition, leader_epoch }
            }
            LeadershipEvent::Resigned { partition, leader_epoch } if is_groups(&partition) => {
                Leadership::Resigned { partition: partition.partition, leader_epoch }
            }
            LeadershipEvent::Deleted(partitions) => {
                groups.partitions_deleted(&partitions);
                continue;
            }
            LeadershipEvent::Elected { .. } | LeadershipEvent::Resigned { .. } => continue,
        };
        // Nobody listens once the broker shuts down.
        let _ = groups_told.send(leadership);
    }
}
