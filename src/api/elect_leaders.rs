//! ElectLeaders.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/{KafkaApis,DelayedElectLeader}.scala.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::api::answer::AnswerTooLong;
use crate::api::errors::Refusal;
use crate::api::{Handled, RequestContext, Server};
use crate::controller::active::{Answer, Request};
use crate::controller::leader_election::{ElectionRefusal, ElectionType};
use crate::metadata::image::{Image, Topic};
use crate::model::{BrokerId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::elect_leaders::{
    ElectLeadersRequest, ElectLeadersResponse, PartitionResult, ReplicaElectionResult, TopicPartitions,
};

type Outcomes = BTreeMap<TopicPartition, Result<(), Refusal>>;

pub(crate) async fn handle(
    server: &Server,
    context: RequestContext,
    request: ElectLeadersRequest,
) -> Handled<ElectLeadersResponse> {
    let deadline = Instant::now() + Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let election = match request.election_type {
        0 => ElectionType::Preferred,
        1 => ElectionType::Unclean,
        _ => {
            let error_code = ErrorCode::UnknownServerError.code();
            return Handled::Reply(ElectLeadersResponse { error_code, ..Default::default() });
        }
    };
    let partitions = request.topic_partitions.map(|topics| {
        let of_topic = |topic: TopicPartitions| {
            let name: Arc<str> = topic.topic.into();
            let partitions = topic.partitions.into_iter();
            partitions.map(move |partition| TopicPartition { topic: Arc::clone(&name), partition })
        };
        topics.into_iter().flat_map(of_topic).collect::<Vec<_>>()
    });
    let asked = Request::ElectLeaders { partitions: partitions.clone(), election };
    let outcomes = match server.controller.ask(asked).await {
        Some(Answer::Elected(elected)) => {
            let (waiting, refused): (Vec<_>, Vec<_>) = elected.into_iter().partition(|(_, outcome)| outcome.is_ok());
            let refused = refused.into_iter().filter_map(|(name, outcome)| Some((name, Err(refusal(outcome.err()?)))));
            let mut outcomes: Outcomes = refused.collect();
            let waiting = waiting.into_iter().filter_map(|(name, outcome)| Some((name, outcome.ok()?))).collect();
            outcomes.extend(known(server, &context, waiting, deadline).await);
            outcomes
        }
        _ => {
            let partitions = partitions.unwrap_or_else(|| all(&server.metadata.image()));
            partitions.into_iter().map(|name| (name, Err(ErrorCode::NotController.into()))).collect()
        }
    };
    response(&context, outcomes).map_or_else(Handled::TooLong, Handled::Reply)
}

fn all(image: &Image) -> Vec<TopicPartition> {
    let of_topic = |topic: &Arc<Topic>| {
        let name = Arc::clone(&topic.name);
        let ids: Vec<i32> = topic.partitions.iter().map(|partition| partition.partition).collect();
        ids.into_iter().map(move |partition| TopicPartition { topic: Arc::clone(&name), partition })
    };
    image.topics().flat_map(of_topic).collect()
}

/// Waits until this broker has heard of the leaders.
async fn known(
    server: &Server,
    context: &RequestContext,
    elected: Vec<(TopicPartition, BrokerId)>,
    deadline: Instant,
) -> Outcomes {
    let is_known = |image: &Image, name: &TopicPartition, leader: BrokerId| {
        image.partition(&name.topic, name.partition).is_some_and(|known| known.leader == leader)
    };
    let all_known = |image: &Image| elected.iter().all(|(name, leader)| is_known(image, name, *leader)).then_some(());
    context.while_connected(server.metadata.wait_for(deadline, all_known)).await;
    let image = server.metadata.image();
    let outcome = |(name, leader): (TopicPartition, BrokerId)| {
        let outcome = is_known(&image, &name, leader).then_some(());
        (name, outcome.ok_or(ErrorCode::RequestTimedOut.into()))
    };
    elected.into_iter().map(outcome).collect()
}

fn refusal(refusal: ElectionRefusal) -> Refusal {
    let not_elected = |strategy: &str| format!("Failed to elect leader for the partition under strategy {strategy}");
    match refusal {
        ElectionRefusal::UnknownTopicOrPartition => {
            Refusal::new(ErrorCode::UnknownTopicOrPartition, "The partition does not exist.")
        }
        ElectionRefusal::TopicBeingDeleted => {
            Refusal::new(ErrorCode::InvalidTopicException, "The topic is being deleted")
        }
        ElectionRefusal::ElectionNotNeeded => {
            Refusal::new(ErrorCode::ElectionNotNeeded, "Leader election not needed for topic partition.")
        }
        ElectionRefusal::NotElected(ElectionType::Preferred) => Refusal::new(
            ErrorCode::PreferredLeaderNotAvailable,
            not_elected("PreferredReplicaPartitionLeaderElectionStrategy"),
        ),
        ElectionRefusal::NotElected(ElectionType::Unclean) => Refusal::new(
            ErrorCode::EligibleLeadersNotAvailable,
            not_elected("OfflinePartitionLeaderElectionStrategy(true)"),
        ),
    }
}

fn response(context: &RequestContext, outcomes: Outcomes) -> Result<ElectLeadersResponse, AnswerTooLong> {
    let mut topics: Vec<ReplicaElectionResult> = Vec::new();
    for (name, outcome) in outcomes {
        let refusal = outcome.err();
        let result = PartitionResult {
            partition_id: name.partition,
            error_code: refusal.as_ref().map_or(ErrorCode::None, |refusal| refusal.code).code(),
            error_message: refusal.and_then(|refusal| refusal.message),
        };
        if topics.last().is_none_or(|last| *last.topic != *name.topic) {
            let topic = ReplicaElectionResult { topic: name.topic.to_string(), ..Default::default() };
            context.answer.push(&mut topics, topic)?;
        }
        if let Some(last) = topics.last_mut() {
            context.answer.push(&mut last.partition_result, result)?;
        }
    }
    Ok(ElectLeadersResponse { replica_election_results: topics, ..Default::default() })
}
