//! AlterPartitionReassignments and ListPartitionReassignments (KIP-455).
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/KafkaApis.scala.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::api::answer::AnswerTooLong;
use crate::api::elect_leaders::PARTITIONS_ASKED_MAX;
use crate::api::errors::{NOT_CONTROLLER_TEXT, Refusal};
use crate::api::{RequestContext, Server};
use crate::controller::active::{Answer, Request};
use crate::controller::reassignment::ReassignmentRefusal;
use crate::controller::state::Assignment;
use crate::model::{BrokerId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ReassignablePartitionResponse,
    ReassignableTopicResponse,
};
use crate::protocol::messages::list_partition_reassignments::{
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, OngoingPartitionReassignment,
    OngoingTopicReassignment,
};

pub(crate) async fn alter(
    server: &Server,
    context: &RequestContext,
    request: AlterPartitionReassignmentsRequest,
) -> Result<AlterPartitionReassignmentsResponse, AnswerTooLong> {
    let mut asked: BTreeMap<TopicPartition, Option<Vec<BrokerId>>> = BTreeMap::new();
    for topic in request.topics {
        let name: Arc<str> = topic.name.into();
        for partition in topic.partitions {
            if context.pause().await {
                break;
            }
            let replicas = partition.replicas.map(|ids| ids.into_iter().map(BrokerId).collect());
            let partition = TopicPartition { topic: Arc::clone(&name), partition: partition.partition_index };
            asked.insert(partition, replicas);
        }
    }
    let (mut outcomes, mut asked) = (Vec::new(), asked.into_iter().peekable());
    loop {
        let batch = asked.by_ref().take(PARTITIONS_ASKED_MAX).collect();
        let Some(Answer::Reassigned(answered)) = server.controller.ask(Request::Reassign(batch)).await else {
            let (error_code, error_message) = not_controller();
            return Ok(AlterPartitionReassignmentsResponse { error_code, error_message, ..Default::default() });
        };
        outcomes.extend(answered);
        if asked.peek().is_none() || context.pause().await {
            break;
        }
    }
    let mut responses: Vec<ReassignableTopicResponse> = Vec::new();
    for (name, refusal) in outcomes {
        if context.pause().await {
            break;
        }
        let refusal = refusal.map(|refusal| Refusal::new(code(&refusal), refusal.to_string()));
        let partition = ReassignablePartitionResponse {
            partition_index: name.partition,
            error_code: refusal.as_ref().map_or(ErrorCode::None, |refusal| refusal.code).code(),
            error_message: refusal.and_then(|refusal| refusal.message),
        };
        if responses.last().is_none_or(|last| *last.name != *name.topic) {
            let topic = ReassignableTopicResponse { name: name.topic.to_string(), ..Default::default() };
            context.answer.push(&mut responses, topic)?;
        }
        if let Some(last) = responses.last_mut() {
            context.answer.push(&mut last.partitions, partition)?;
        }
    }
    Ok(AlterPartitionReassignmentsResponse { responses, ..Default::default() })
}

fn not_controller() -> (i16, Option<String>) {
    (ErrorCode::NotController.code(), Some(NOT_CONTROLLER_TEXT.to_owned()))
}

fn code(refusal: &ReassignmentRefusal) -> ErrorCode {
    match refusal {
        ReassignmentRefusal::InvalidReplicaAssignment(_) => ErrorCode::InvalidReplicaAssignment,
        ReassignmentRefusal::UnknownTopicOrPartition => ErrorCode::UnknownTopicOrPartition,
        ReassignmentRefusal::NoReassignmentInProgress => ErrorCode::NoReassignmentInProgress,
        ReassignmentRefusal::NotWritten => ErrorCode::UnknownServerError,
    }
}

pub(crate) async fn list(
    server: &Server,
    context: &RequestContext,
    request: ListPartitionReassignmentsRequest,
) -> Result<ListPartitionReassignmentsResponse, AnswerTooLong> {
    let is_for_all = request.topics.is_none();
    let mut named = BTreeSet::new();
    for topic in request.topics.unwrap_or_default() {
        let name: Arc<str> = topic.name.into();
        for partition in topic.partition_indexes {
            if context.pause().await {
                break;
            }
            named.insert(TopicPartition { topic: Arc::clone(&name), partition });
        }
    }
    let (mut moves, mut named) = (Vec::new(), named.into_iter().peekable());
    loop {
        let batch = (!is_for_all).then(|| named.by_ref().take(PARTITIONS_ASKED_MAX).collect());
        let Some(Answer::Reassignments(answered)) = server.controller.ask(Request::ListReassignments(batch)).await
        else {
            let (error_code, error_message) = not_controller();
            return Ok(ListPartitionReassignmentsResponse { error_code, error_message, ..Default::default() });
        };
        moves.extend(answered);
        if named.peek().is_none() || context.pause().await {
            break;
        }
    }
    let mut topics: Vec<OngoingTopicReassignment> = Vec::new();
    for (name, Assignment { replicas, adding, removing }) in moves {
        if topics.last().is_none_or(|last| *last.name != *name.topic) {
            let topic = OngoingTopicReassignment { name: name.topic.to_string(), ..Default::default() };
            context.answer.push(&mut topics, topic)?;
        }
        let ids = |brokers: Vec<BrokerId>| brokers.into_iter().map(|broker| broker.0).collect();
        let partition = OngoingPartitionReassignment {
            partition_index: name.partition,
            replicas: ids(replicas),
            adding_replicas: ids(adding),
            removing_replicas: ids(removing),
        };
        if let Some(last) = topics.last_mut() {
            context.answer.push(&mut last.partitions, partition)?;
        }
    }
    Ok(ListPartitionReassignmentsResponse { topics, ..Default::default() })
}
