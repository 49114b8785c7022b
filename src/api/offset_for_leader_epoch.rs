//! OffsetForLeaderEpoch. Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/KafkaApis.scala
//! (handleOffsetForLeaderEpochRequest) and ReplicaManager.scala (lastOffsetForLeaderEpoch).

use std::sync::Arc;

use crate::api::{RequestContext, Server};
use crate::model::LeaderEpoch;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OffsetForLeaderPartition,
    OffsetForLeaderTopicResult,
};
use crate::replica::error::ReplicaError;
use crate::replica::replica_manager::ReplicaManager;

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            context.pause().await;
            partitions.push(answer(server, &topic.topic, asked).await);
        }
        topics.push(OffsetForLeaderTopicResult { topic: topic.topic, partitions });
    }
    OffsetForLeaderEpochResponse { throttle_time_ms: 0, topics }
}

async fn answer(server: &Server, topic: &str, asked: &OffsetForLeaderPartition) -> EpochEndOffset {
    let current = (asked.current_leader_epoch >= 0).then_some(LeaderEpoch(asked.current_leader_epoch));
    let epoch = LeaderEpoch(asked.leader_epoch);
    let (name, number) = (topic.to_owned(), asked.partition);
    let look = move |replicas: &Arc<ReplicaManager>| {
        replicas.partition(&name, number).and_then(|hosted| hosted.end_offset_for_epoch(epoch, current, true))
    };
    let end = server.replicas.at(topic, number, look).await.unwrap_or_else(|why| Err(ReplicaError::from(why)));
    let mut answer = EpochEndOffset { partition: asked.partition, ..Default::default() };
    match end {
        Ok(end) => {
            answer.leader_epoch = end.epoch.0;
            answer.end_offset = end.end_offset.0;
        }
        Err(error) => answer.error_code = ErrorCode::from(&error).code(),
    }
    answer
}
