//! AlterReplicaLogDirs (KIP-113): moves replicas to other log directories of this broker.
//! Source: kafka 3.9.1 core/src/main/scala/kafka/server/KafkaApis.scala (handleAlterReplicaLogDirsRequest) and
//! ReplicaManager.scala (alterReplicaLogDirs).

use std::collections::HashMap;
use std::sync::Arc;

use crate::api::topic_numbers::TopicNumbers;
use crate::api::{RequestContext, Server};
use crate::log::dirs::moves::NoTarget;
use crate::model::{TOPIC_NAME_BYTES_MAX, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::alter_replica_log_dirs::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult, AlterReplicaLogDirsRequest,
    AlterReplicaLogDirsResponse,
};
use crate::replica::dir_moves::MoveRefusal;
use crate::replica::error::ReplicaError;

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: AlterReplicaLogDirsRequest,
) -> AlterReplicaLogDirsResponse {
    // Of a partition that is named twice the last directory counts.
    let mut numbers = TopicNumbers::default();
    let mut last: HashMap<(u32, i32), usize> = HashMap::new();
    for (dir, asked) in request.dirs.iter().enumerate() {
        for topic in &asked.topics {
            let number = numbers.of(&topic.name);
            for &partition in &topic.partitions {
                context.pause().await;
                last.insert((number, partition), dir);
            }
        }
    }
    let mut response = AlterReplicaLogDirsResponse::default();
    let mut places: HashMap<u32, usize> = HashMap::new();
    for (dir, asked) in request.dirs.iter().enumerate() {
        let path: Arc<str> = asked.path.as_str().into();
        for topic in &asked.topics {
            let number = numbers.of(&topic.name);
            let name: Arc<str> = topic.name.as_str().into();
            let mut partitions = Vec::new();
            for &partition_index in &topic.partitions {
                if context.pause().await {
                    break;
                }
                if last.get(&(number, partition_index)) != Some(&dir) {
                    continue;
                }
                last.remove(&(number, partition_index));
                let name = TopicPartition { topic: Arc::clone(&name), partition: partition_index };
                let error = move_to(server, context, name, &path).await.err().unwrap_or(ErrorCode::None);
                partitions.push(AlterReplicaLogDirPartitionResult { partition_index, error_code: error.code() });
            }
            if partitions.is_empty() {
                continue;
            }
            match places.get(&number) {
                Some(&place) => response.results[place].partitions.extend(partitions),
                None => {
                    places.insert(number, response.results.len());
                    let topic_name = topic.name.clone();
                    response.results.push(AlterReplicaLogDirTopicResult { topic_name, partitions });
                }
            }
        }
    }
    response
}

async fn move_to(
    server: &Server,
    context: &RequestContext,
    name: TopicPartition,
    path: &Arc<str>,
) -> Result<(), ErrorCode> {
    if name.topic.len() > TOPIC_NAME_BYTES_MAX {
        return Err(ErrorCode::InvalidTopicException);
    }
    let moved = server.replicas.move_to_dir(name, Arc::clone(path), context.now_ms).await;
    moved.map_err(|refusal| match refusal {
        MoveRefusal::Target(NoTarget::NotConfigured) => ErrorCode::LogDirNotFound,
        MoveRefusal::Target(NoTarget::Offline) => ErrorCode::KafkaStorageError,
        MoveRefusal::Target(NoTarget::NameTooLong) => ErrorCode::InvalidTopicException,
        // Of a replica that is not here; it is created there once it is.
        MoveRefusal::Replica(ReplicaError::NotLeaderOrFollower) => ErrorCode::ReplicaNotAvailable,
        MoveRefusal::Replica(why) => (&why).into(),
    })
}
