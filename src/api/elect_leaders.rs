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
use crate::controller::leader_election::{Elected, ElectionRefusal, ElectionType};
use crate::metadata::image::{Image, Topic};
use crate::model::{BrokerId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::elect_leaders::{
    ElectLeadersRequest, ElectLeadersResponse, PartitionResult, ReplicaElectionResult,
};

/// The controller does nothing else while it looks at what it is asked.
pub(super) const PARTITIONS_ASKED_MAX: usize = 500;

type Outcomes = BTreeMap<TopicPartition, Result<(), Refusal>>;

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
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
    let Some(topics) = request.topic_partitions else {
        let asked = Request::ElectLeaders { partitions: None, election };
        let outcomes = match server.controller.ask(asked).await {
            Some(Answer::Elected(elected)) => known(server, context, elected, deadline).await,
            _ => not_controller(all(&server.metadata.image())),
        };
        return response(context, outcomes).await.map_or_else(Handled::TooLong, Handled::Reply);
    };
    let (mut elected, mut refused, mut batch) = (Vec::new(), Outcomes::new(), Vec::new());
    for topic in topics {
        let name: Arc<str> = topic.topic.into();
        for partition in topic.partitions {
            batch.push(TopicPartition { topic: Arc::clone(&name), partition });
            if batch.len() == PARTITIONS_ASKED_MAX {
                elect(server, election, std::mem::take(&mut batch), &mut elected, &mut refused).await;
            }
            if context.pause().await {
                break;
            }
        }
    }
    elect(server, election, batch, &mut elected, &mut refused).await;
    let mut outcomes = known(server, context, elected, deadline).await;
    outcomes.append(&mut refused);
    response(context, outcomes).await.map_or_else(Handled::TooLong, Handled::Reply)
}

async fn elect(
    server: &Server,
    election: ElectionType,
    partitions: Vec<TopicPartition>,
    elected: &mut Vec<Elected>,
    refused: &mut Outcomes,
) {
    let asked = Request::ElectLeaders { partitions: Some(partitions.clone()), election };
    match server.controller.ask(asked).await {
        Some(Answer::Elected(outcomes)) => elected.extend(outcomes),
        _ => refused.extend(not_controller(partitions)),
    }
}

fn not_controller(partitions: Vec<TopicPartition>) -> Outcomes {
    partitions.into_iter().map(|name| (name, Err(ErrorCode::NotController.into()))).collect()
}

fn all(image: &Image) -> Vec<TopicPartition> {
    let of_topic = |topic: &Arc<Topic>| {
        let name = Arc::clone(&topic.name);
        let ids: Vec<i32> = topic.partitions.iter().map(|partition| partition.partition).collect();
        ids.into_iter().map(move |partition| TopicPartition { topic: Arc::clone(&name), partition })
    };
    image.topics().flat_map(of_topic).collect()
}

/// Waits until this broker has heard of the leaders that were elected.
async fn known(server: &Server, context: &RequestContext, outcomes: Vec<Elected>, deadline: Instant) -> Outcomes {
    let is_known = |image: &Image, name: &TopicPartition, leader: BrokerId| {
        image.partition(&name.topic, name.partition).is_some_and(|known| known.leader == leader)
    };
    let elected = outcomes.iter().filter_map(|(name, outcome)| Some((name, outcome.ok()?)));
    let mut waiting: Vec<(&TopicPartition, BrokerId)> = elected.collect();
    let all_known = |image: &Image| {
        waiting.retain(|(name, leader)| !is_known(image, name, *leader));
        waiting.is_empty().then_some(())
    };
    context.while_connected(server.metadata.wait_for(deadline, all_known)).await;
    let image = server.metadata.image();
    let outcome = |(name, outcome): Elected| {
        let outcome = match outcome {
            Ok(leader) if is_known(&image, &name, leader) => Ok(()),
            Ok(_) => Err(ErrorCode::RequestTimedOut.into()),
            Err(why) => Err(refusal(&name, why)),
        };
        (name, outcome)
    };
    outcomes.into_iter().map(outcome).collect()
}

fn refusal(name: &TopicPartition, refusal: ElectionRefusal) -> Refusal {
    let not_elected = |strategy: &str| format!("Failed to elect leader for partition {name} under strategy {strategy}");
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

async fn response(context: &RequestContext, outcomes: Outcomes) -> Result<ElectLeadersResponse, AnswerTooLong> {
    let mut topics: Vec<ReplicaElectionResult> = Vec::new();
    for (name, outcome) in outcomes {
        if context.pause().await {
            break;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/controller/PartitionStateMachine.scala.
    #[test]
    fn who_asks_for_an_election_that_fails_is_told_of_which_partition() {
        let name = TopicPartition::new("t", 3);
        let told = |election| refusal(&name, ElectionRefusal::NotElected(election));
        let text =
            "Failed to elect leader for partition t-3 under strategy PreferredReplicaPartitionLeaderElectionStrategy";
        assert_eq!(told(ElectionType::Preferred), Refusal::new(ErrorCode::PreferredLeaderNotAvailable, text));
        let text =
            "Failed to elect leader for partition t-3 under strategy OfflinePartitionLeaderElectionStrategy(true)";
        assert_eq!(told(ElectionType::Unclean), Refusal::new(ErrorCode::EligibleLeadersNotAvailable, text));
    }
}
