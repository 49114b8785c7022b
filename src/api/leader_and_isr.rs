//! LeaderAndIsr. Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/KafkaApis.scala (handleLeaderAndIsrRequest),
//! clients/src/main/java/org/apache/kafka/common/requests/LeaderAndIsr{Request,Response}.java.

use std::collections::HashMap;
use std::sync::Arc;

use log::warn;

use crate::api::answer::AnswerTooLong;
use crate::api::errors::{code, refused};
use crate::api::{Handled, RequestContext, Server};
use crate::controller::topic_validation::validate_name;
use crate::model::shown::shown;
use crate::model::{
    BrokerEpoch, BrokerId, ControllerEpoch, LeaderEpoch, PartitionEpoch, TOPIC_NAME_BYTES_MAX, TopicId, TopicPartition,
};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::leader_and_isr::{
    LeaderAndIsrPartitionError, LeaderAndIsrPartitionState, LeaderAndIsrRequest, LeaderAndIsrResponse,
    LeaderAndIsrTopicError,
};
use crate::replica::control::{ControlEpochs, Decisions};
use crate::replica::leader::Decision;

/// From this version on, errors are grouped by topic id.
const FIRST_WITH_TOPIC_IDS: i16 = 5;

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: LeaderAndIsrRequest,
) -> Result<Handled<LeaderAndIsrResponse>, AnswerTooLong> {
    let topic_ids = topic_ids(&request);
    let (mut decisions, mut impossible) = (Vec::new(), Vec::new());
    for (name, decision) in self::decisions(&request) {
        // The answer repeats the topic of each partition. Whether it may be so long is known before anything is done.
        let named = if context.api_version < FIRST_WITH_TOPIC_IDS { name.topic.len() } else { 0 };
        context.answer.charge(size_of::<LeaderAndIsrPartitionError>() + named)?;
        match possible(&name, &decision) {
            Ok(()) => decisions.push((name, decision)),
            Err(why) => impossible.push((name, why)),
        }
    }
    if let Some((name, why)) = impossible.first() {
        let (count, name) = (impossible.len(), name.to_string());
        warn!("{count} partitions of a LeaderAndIsr request cannot be, such as {}: {why}", shown(&name));
    }
    let names: Vec<TopicPartition> = decisions.iter().map(|(name, _)| name.clone()).collect();
    let epochs = ControlEpochs {
        controller_epoch: ControllerEpoch(request.controller_epoch),
        broker_epoch: BrokerEpoch(request.broker_epoch),
        connection: context.peer.number,
    };
    let asked = Decisions { epochs, decisions, same_epoch_allowed: request.is_kraft_controller };
    let (error, mut errors): (ErrorCode, Vec<_>) =
        match server.replicas.become_leader_or_follower(asked, context.now_ms).await {
            Ok(outcomes) => {
                (ErrorCode::None, outcomes.into_iter().map(|(name, outcome)| (name, code(outcome))).collect())
            }
            // An error of the whole request stands on each partition too.
            Err(refusal) => {
                let Some(error) = refused(refusal) else { return Ok(Handled::Close) };
                (error, names.into_iter().map(|name| (name, error)).collect())
            }
        };
    errors.extend(impossible);
    Ok(Handled::Reply(respond(context.api_version, error, errors, &topic_ids)))
}

/// A partition has a directory, and a word in each checkpoint, by its name: one that could not be a topic's may lead out of
/// the log directory, or damage what is said of all others. No replication factor is more than an i16, and nothing else that
/// names replicas is longer.
fn possible(name: &TopicPartition, decision: &Decision) -> Result<(), ErrorCode> {
    let lists = [&decision.assignment, &decision.isr, &decision.adding, &decision.removing];
    if name.topic.len() > TOPIC_NAME_BYTES_MAX || validate_name(&name.topic).is_err() {
        Err(ErrorCode::InvalidTopicException)
    } else if name.partition < 0 {
        Err(ErrorCode::InvalidPartitions)
    } else if lists.iter().any(|list| i16::try_from(list.len()).is_err()) {
        Err(ErrorCode::InvalidReplicaAssignment)
    } else {
        Ok(())
    }
}

pub(crate) fn topic_ids(request: &LeaderAndIsrRequest) -> HashMap<Arc<str>, TopicId> {
    request.topic_states.iter().map(|topic| (Arc::from(topic.topic_name.as_str()), topic.topic_id)).collect()
}

/// Versions 0 and 1 do not group partitions by topic.
pub(crate) fn decisions(request: &LeaderAndIsrRequest) -> Vec<(TopicPartition, Decision)> {
    let mut decisions = Vec::new();
    for state in &request.ungrouped_partition_states {
        let name = TopicPartition::new(state.topic_name.as_str(), state.partition_index);
        decisions.push((name, decision(state, TopicId::ZERO)));
    }
    for topic in &request.topic_states {
        let topic_name: Arc<str> = Arc::from(topic.topic_name.as_str());
        for state in &topic.partition_states {
            let name = TopicPartition { topic: Arc::clone(&topic_name), partition: state.partition_index };
            decisions.push((name, decision(state, topic.topic_id)));
        }
    }
    decisions
}

fn decision(state: &LeaderAndIsrPartitionState, topic_id: TopicId) -> Decision {
    let brokers = |ids: &[i32]| ids.iter().copied().map(BrokerId).collect();
    Decision {
        controller_epoch: ControllerEpoch(state.controller_epoch),
        leader: BrokerId(state.leader),
        leader_epoch: LeaderEpoch(state.leader_epoch),
        partition_epoch: PartitionEpoch(state.partition_epoch),
        isr: brokers(&state.isr),
        assignment: brokers(&state.replicas),
        adding: brokers(&state.adding_replicas),
        removing: brokers(&state.removing_replicas),
        is_new: state.is_new,
        topic_id,
    }
}

pub(crate) fn respond(
    api_version: i16,
    error: ErrorCode,
    errors: Vec<(TopicPartition, ErrorCode)>,
    topic_ids: &HashMap<Arc<str>, TopicId>,
) -> LeaderAndIsrResponse {
    let mut response = LeaderAndIsrResponse { error_code: error.code(), ..Default::default() };
    let mut positions: HashMap<TopicId, usize> = HashMap::new();
    // Partitions of one topic mostly come together, and its name may be long to look up.
    let mut last: Option<(Arc<str>, usize)> = None;
    for (name, error) in errors {
        let mut partition_error = LeaderAndIsrPartitionError {
            topic_name: String::new(),
            partition_index: name.partition,
            error_code: error.code(),
        };
        if api_version < FIRST_WITH_TOPIC_IDS {
            partition_error.topic_name = name.topic.to_string();
            response.partition_errors.push(partition_error);
            continue;
        }
        let known = last.filter(|(topic, _)| Arc::ptr_eq(topic, &name.topic)).map(|(_, position)| position);
        let position = known.unwrap_or_else(|| {
            // Topics without an id all fall into the one entry of the zero id.
            let topic_id = topic_ids.get(&name.topic).copied().unwrap_or(TopicId::ZERO);
            *positions.entry(topic_id).or_insert_with(|| {
                response.topics.push(LeaderAndIsrTopicError { topic_id, partition_errors: Vec::new() });
                response.topics.len() - 1
            })
        });
        last = Some((name.topic, position));
        response.topics[position].partition_errors.push(partition_error);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::writer::Writer;
    use crate::protocol::message::Message;

    #[test]
    fn no_partition_is_taken_that_could_be_no_topics_or_has_more_replicas_than_any() {
        let possible = |topic: &str, partition, replicas: usize| {
            let state = LeaderAndIsrPartitionState { replicas: vec![1; replicas], ..Default::default() };
            possible(&TopicPartition::new(topic, partition), &decision(&state, TopicId::ZERO))
        };
        assert_eq!(possible("__consumer_offsets", 49, 3), Ok(()));
        for topic in ["", ".", "..", "../t", "a/b", "a b", "a\nb", "a\0b", &"a".repeat(250)] {
            assert_eq!(possible(topic, 0, 3), Err(ErrorCode::InvalidTopicException), "{topic:?}");
        }
        assert_eq!(possible("t", -1, 3), Err(ErrorCode::InvalidPartitions));
        assert_eq!(possible("t", 0, 32_767), Ok(()));
        assert_eq!(possible("t", 0, 32_768), Err(ErrorCode::InvalidReplicaAssignment));
    }

    #[test]
    fn errors_go_by_topic_name_up_to_version_4_and_by_topic_id_from_version_5_on() {
        let errors = || {
            vec![
                (TopicPartition::new("a", 0), ErrorCode::None),
                (TopicPartition::new("b", 0), ErrorCode::KafkaStorageError),
                (TopicPartition::new("a", 1), ErrorCode::StaleControllerEpoch),
                (TopicPartition::new("c", 2), ErrorCode::None),
            ]
        };
        let ids = HashMap::from([(Arc::from("a"), TopicId([1; 16]))]);
        let old = respond(4, ErrorCode::None, errors(), &ids);
        assert_eq!(old.partition_errors.len(), 4);
        assert_eq!(old.partition_errors[1].topic_name, "b");
        let new = respond(5, ErrorCode::None, errors(), &ids);
        let shape: Vec<(TopicId, usize)> =
            new.topics.iter().map(|topic| (topic.topic_id, topic.partition_errors.len())).collect();
        assert_eq!(shape, vec![(TopicId([1; 16]), 2), (TopicId::ZERO, 2)]);
        for (version, response) in [(4, old), (5, new)] {
            assert_eq!(response.encode(&mut Writer::new(), version), Ok(()), "version {version}");
        }
    }
}
