//! StopReplica. Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/KafkaApis.scala (handleStopReplicaRequest),
//! clients/src/main/java/org/apache/kafka/common/requests/StopReplicaRequest.java.

use std::sync::Arc;

use crate::api::answer::AnswerTooLong;
use crate::api::errors::{code, refused};
use crate::api::{Handled, RequestContext, Server};
use crate::model::{BrokerEpoch, ControllerEpoch, LeaderEpoch, TopicPartition};
use crate::protocol::messages::stop_replica::{StopReplicaPartitionError, StopReplicaRequest, StopReplicaResponse};
use crate::replica::control::{ControlEpochs, StopReplica, StopReplicas};

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: StopReplicaRequest,
) -> Result<Handled<StopReplicaResponse>, AnswerTooLong> {
    let epochs = ControlEpochs {
        controller_epoch: ControllerEpoch(request.controller_epoch),
        broker_epoch: BrokerEpoch(request.broker_epoch),
        connection: context.peer.number,
    };
    let by_topic = request.topics.iter().map(|topic| topic.partition_indexes.len());
    let with_epochs = request.topic_states.iter().map(|topic| topic.partition_states.len());
    let count = request.ungrouped_partitions.len() + by_topic.chain(with_epochs).sum::<usize>();
    context.answer.count_request(count.saturating_mul(size_of::<StopReplica>()));
    let partitions = partitions(&request);
    // The answer repeats the topic of each partition. Whether it may be so long is known before anything is done.
    for stop in &partitions {
        context.answer.charge(size_of::<StopReplicaPartitionError>() + stop.name.topic.len())?;
    }
    let asked = StopReplicas { epochs, partitions };
    Ok(Handled::Reply(match server.replicas.stop_replicas(asked, context.now_ms).await {
        Ok(outcomes) => StopReplicaResponse {
            error_code: 0,
            partition_errors: outcomes
                .into_iter()
                .map(|(name, outcome)| StopReplicaPartitionError {
                    topic_name: name.topic.to_string(),
                    partition_index: name.partition,
                    error_code: code(outcome).code(),
                })
                .collect(),
        },
        Err(refusal) => {
            let Some(error) = refused(refusal) else { return Ok(Handled::Close) };
            StopReplicaResponse { error_code: error.code(), partition_errors: Vec::new() }
        }
    }))
}

/// Versions 0 to 2 say once for all partitions whether to delete them, and carry no leader epochs.
pub(crate) fn partitions(request: &StopReplicaRequest) -> Vec<StopReplica> {
    let stop = |topic: &Arc<str>, partition: i32, leader_epoch: i32, delete: bool| StopReplica {
        name: TopicPartition { topic: Arc::clone(topic), partition },
        leader_epoch: LeaderEpoch(leader_epoch),
        delete,
    };
    let all = request.delete_partitions;
    let ungrouped = request
        .ungrouped_partitions
        .iter()
        .map(|partition| stop(&partition.topic_name.as_str().into(), partition.partition_index, -1, all));
    let by_topic = request.topics.iter().flat_map(|topic| {
        let name: Arc<str> = topic.name.as_str().into();
        topic.partition_indexes.iter().map(move |&partition| stop(&name, partition, -1, all))
    });
    let with_epochs = request.topic_states.iter().flat_map(|topic| {
        let name: Arc<str> = topic.topic_name.as_str().into();
        topic.partition_states.iter().map(move |partition| {
            stop(&name, partition.partition_index, partition.leader_epoch, partition.delete_partition)
        })
    });
    ungrouped.chain(by_topic).chain(with_epochs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::messages::stop_replica::{
        StopReplicaPartitionState, StopReplicaPartitionV0, StopReplicaTopicState, StopReplicaTopicV1,
    };

    #[test]
    fn every_layout_of_the_request_means_the_same() {
        let expected = |leader_epoch| {
            vec![StopReplica {
                name: TopicPartition::new("a", 3),
                leader_epoch: LeaderEpoch(leader_epoch),
                delete: true,
            }]
        };
        let v0 = StopReplicaRequest {
            delete_partitions: true,
            ungrouped_partitions: vec![StopReplicaPartitionV0 { topic_name: "a".into(), partition_index: 3 }],
            ..Default::default()
        };
        let v1 = StopReplicaRequest {
            delete_partitions: true,
            topics: vec![StopReplicaTopicV1 { name: "a".into(), partition_indexes: vec![3] }],
            ..Default::default()
        };
        let v3 = StopReplicaRequest {
            topic_states: vec![StopReplicaTopicState {
                topic_name: "a".into(),
                partition_states: vec![StopReplicaPartitionState {
                    partition_index: 3,
                    leader_epoch: -2,
                    delete_partition: true,
                }],
            }],
            ..Default::default()
        };
        assert_eq!(partitions(&v0), expected(-1));
        assert_eq!(partitions(&v1), expected(-1));
        assert_eq!(partitions(&v3), expected(-2));
    }
}
