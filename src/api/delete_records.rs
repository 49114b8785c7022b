//! DeleteRecords. Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/KafkaApis.scala (handleDeleteRecordsRequest)
//! and ReplicaManager.scala (deleteRecords).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::time::{Duration, Instant};

use crate::api::topic_numbers::TopicNumbers;
use crate::api::{RequestContext, Server};
use crate::model::Offset;
use crate::model::internal_topics::is_internal_topic;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::delete_records::{
    DeleteRecordsPartition, DeleteRecordsPartitionResult, DeleteRecordsRequest, DeleteRecordsResponse,
    DeleteRecordsTopicResult,
};
use crate::replica::error::ReplicaError;
use crate::replica::partition::DeletedRecords;
use crate::replica::replica_manager::ReplicaManager;

/// Asks for everything below the high watermark to be deleted.
const HIGH_WATERMARK: i64 = -1;

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let deadline =
        Instant::from_std(context.received) + Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    // Of a partition that is named twice the last counts.
    let mut numbers = TopicNumbers::default();
    let mut last: HashMap<(u32, i32), i64> = HashMap::new();
    for topic in &request.topics {
        let number = numbers.of(&topic.name);
        last.extend(topic.partitions.iter().map(|asked| ((number, asked.partition_index), asked.offset)));
    }
    let mut done: HashSet<(u32, i32)> = HashSet::new();
    // All are deleted here before any is waited for elsewhere.
    let mut deletions = Vec::new();
    for topic in &request.topics {
        let number = numbers.of(&topic.name);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            context.pause().await;
            let name = (number, asked.partition_index);
            if !done.insert(name) {
                continue;
            }
            let offset = last.get(&name).copied().unwrap_or(asked.offset);
            let asked = &DeleteRecordsPartition { offset, ..asked.clone() };
            partitions.push((asked.partition_index, delete(server, &topic.name, asked).await));
        }
        deletions.push((topic.name.clone(), partitions));
    }
    let mut response = DeleteRecordsResponse::default();
    for (name, deleted) in deletions {
        let mut partitions = Vec::with_capacity(deleted.len());
        for (partition_index, outcome) in deleted {
            let settled = match outcome {
                Ok(deleted) => settle(server, &name, partition_index, deleted, deadline).await,
                Err(error) => Err(error),
            };
            let (low_watermark, error) = match settled {
                Ok(low_watermark) => (low_watermark.0, ErrorCode::None),
                Err(error) => (-1, error),
            };
            partitions.push(DeleteRecordsPartitionResult { partition_index, low_watermark, error_code: error.code() });
        }
        response.topics.push(DeleteRecordsTopicResult { name, partitions });
    }
    response
}

async fn delete(server: &Server, topic: &str, asked: &DeleteRecordsPartition) -> Result<DeletedRecords, ErrorCode> {
    if server.metadata.image().partition(topic, asked.partition_index).is_none() {
        return Err(ErrorCode::UnknownTopicOrPartition);
    }
    if is_internal_topic(topic) {
        return Err(ErrorCode::InvalidTopicException);
    }
    let before = match asked.offset {
        HIGH_WATERMARK => None,
        offset if offset < 0 => return Err(ErrorCode::OffsetOutOfRange),
        offset => Some(Offset(offset)),
    };
    server.replicas.delete_records(topic, asked.partition_index, before).await.map_err(|error| (&error).into())
}

/// Waits until the other replicas have deleted the records too.
async fn settle(
    server: &Server,
    topic: &str,
    partition: i32,
    deleted: DeletedRecords,
    deadline: Instant,
) -> Result<Offset, ErrorCode> {
    let Some(reached) = deleted.reached else { return Ok(deleted.low_watermark) };
    reached.wait(deadline).await.map_err(|why| ErrorCode::from(&ReplicaError::from(why)))?;
    let name = topic.to_owned();
    let look = move |replicas: &Arc<ReplicaManager>| {
        replicas.partition(&name, partition).and_then(|partition| partition.low_watermark())
    };
    let low_watermark = server.replicas.at(topic, partition, look).await.unwrap_or_else(|why| Err(why.into()));
    low_watermark.map_err(|error| (&error).into())
}
