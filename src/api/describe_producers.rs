//! DescribeProducers (KIP-664): the idempotent producers that a partition knows.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/KafkaApis.scala, handleDescribeProducersRequest.

use std::collections::HashSet;
use std::sync::Arc;

use crate::api::answer::AnswerTooLong;
use crate::api::errors::Refusal;
use crate::api::topic_numbers::TopicNumbers;
use crate::api::{RequestContext, Server};
use crate::controller::topic_validation::validate_name;
use crate::log::ProducerSummary;
use crate::metadata::image::Image;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::describe_producers::{
    DescribeProducersRequest, DescribeProducersResponse, PartitionResponse, ProducerState, TopicResponse,
};
use crate::replica::error::ReplicaError;
use crate::replica::replica_manager::ReplicaManager;

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: DescribeProducersRequest,
) -> Result<DescribeProducersResponse, AnswerTooLong> {
    let image = server.metadata.image();
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut numbers = TopicNumbers::default();
    let mut seen: HashSet<(u32, i32)> = HashSet::new();
    for topic in &request.topics {
        let number = numbers.of(&topic.name);
        let refused = refusal(&image, &topic.name);
        let mut partitions = Vec::new();
        for &partition_index in &topic.partition_indexes {
            context.pause().await;
            if !seen.insert((number, partition_index)) {
                continue;
            }
            let outcome = match &refused {
                None => {
                    let name = topic.name.clone();
                    let look = move |replicas: &Arc<ReplicaManager>| producers(replicas, &name, partition_index);
                    let looked = server.replicas.at(&topic.name, partition_index, look).await;
                    let shutting_down = |why| Err(ErrorCode::from(&ReplicaError::from(why)));
                    looked.unwrap_or_else(shutting_down).map_err(Refusal::from)
                }
                Some(refused) => Err(refused.clone()),
            };
            context.answer.push(&mut partitions, partition_response(partition_index, outcome))?;
        }
        topics.push(TopicResponse { name: topic.name.clone(), partitions });
    }
    Ok(DescribeProducersResponse { throttle_time_ms: 0, topics })
}

/// Only what is wrong with the whole topic comes with a message.
fn refusal(image: &Image, topic: &str) -> Option<Refusal> {
    if let Err(why) = validate_name(topic) {
        return Some((&why).into());
    }
    let is_known = image.topic(topic).is_some();
    let message = "This server does not host this topic-partition.";
    (!is_known).then(|| Refusal::new(ErrorCode::UnknownTopicOrPartition, message))
}

fn producers(replicas: &ReplicaManager, topic: &str, partition: i32) -> Result<Vec<ProducerSummary>, ErrorCode> {
    let partition = replicas.partition(topic, partition).map_err(|why| ErrorCode::from(&why))?;
    let log = partition.log().ok_or(ErrorCode::NotLeaderOrFollower)?;
    Ok(log.producers())
}

fn partition_response(partition_index: i32, outcome: Result<Vec<ProducerSummary>, Refusal>) -> PartitionResponse {
    let (refused, producers) = match outcome {
        Ok(producers) => (Refusal::from(ErrorCode::None), producers),
        Err(refused) => (refused, Vec::new()),
    };
    let active_producers = producers
        .into_iter()
        .map(|producer| ProducerState {
            producer_id: producer.producer_id.0,
            producer_epoch: i32::from(producer.producer_epoch.0),
            last_sequence: producer.last_sequence,
            last_timestamp: producer.last_timestamp_ms,
            coordinator_epoch: producer.coordinator_epoch,
            current_txn_start_offset: producer.current_txn_first_offset.map_or(-1, |offset| offset.0),
        })
        .collect();
    PartitionResponse {
        partition_index,
        error_code: refused.code.code(),
        error_message: refused.message,
        active_producers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ProducerEpoch, ProducerId};

    #[test]
    fn a_producer_without_transaction_has_no_first_offset() {
        let producer = ProducerSummary {
            producer_id: ProducerId(1000),
            producer_epoch: ProducerEpoch(2),
            last_sequence: 7,
            last_timestamp_ms: 9,
            coordinator_epoch: -1,
            current_txn_first_offset: None,
        };
        let response = partition_response(3, Ok(vec![producer]));
        assert_eq!((response.partition_index, response.error_code), (3, 0));
        let state = &response.active_producers[0];
        assert_eq!((state.producer_id, state.producer_epoch, state.last_sequence), (1000, 2, 7));
        assert_eq!((state.last_timestamp, state.coordinator_epoch, state.current_txn_start_offset), (9, -1, -1));
        let refused = partition_response(3, Err(ErrorCode::NotLeaderOrFollower.into()));
        assert_eq!((refused.error_code, refused.active_producers.len()), (6, 0));
    }
}
