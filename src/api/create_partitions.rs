//! CreatePartitions.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/{KafkaApis,ZkAdminManager}.scala.
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use log::info;
use tokio::time::Instant;

use crate::api::create_topics::{PartitionRoom, have_leaders};
use crate::api::errors::Refusal;
use crate::api::{RequestContext, Server};
use crate::controller::task::topic_administration::Mode;
use crate::model::BrokerId;
use crate::model::shown::shown;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::create_partitions::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic, CreatePartitionsTopicResult,
};

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let CreatePartitionsRequest { topics, timeout_ms, validate_only } = request;
    let deadline = Instant::now() + Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0));
    let mode = if validate_only { Mode::ValidateOnly } else { Mode::Create };
    let mut grown: Vec<(&CreatePartitionsTopic, Result<i32, Refusal>)> = Vec::with_capacity(topics.len());
    let mut times: HashMap<&str, usize> = HashMap::new();
    for topic in &topics {
        *times.entry(&topic.name).or_default() += 1;
    }
    let mut room = PartitionRoom::of(server);
    let mut seen = HashSet::new();
    for topic in &topics {
        if context.pause().await {
            break;
        }
        if !seen.insert(topic.name.as_str()) {
            continue;
        }
        let outcome = if !server.controller.is_active() {
            Err(Refusal::from(ErrorCode::NotController))
        } else if times.get(topic.name.as_str()).is_some_and(|times| *times > 1) {
            Err(Refusal::invalid_request("Duplicate topic in request."))
        } else {
            let replicas = |ids: &Vec<i32>| ids.iter().copied().map(BrokerId).collect::<Vec<_>>();
            let assignments = topic.assignments.as_ref();
            let assignments = assignments.map(|all| all.iter().map(|one| replicas(&one.broker_ids)).collect());
            let image = server.metadata.image();
            let there = image.topic(&topic.name).map_or(0, |known| known.partitions.len());
            let more = topic.count.saturating_sub(i32::try_from(there).unwrap_or(i32::MAX));
            let added = match room.take(more) {
                Ok(()) => server.topics.add_partitions(&topic.name, topic.count, assignments, mode).await,
                Err(error) => Err(error),
            };
            added.map_err(|error| {
                info!(
                    "Error processing create partitions request for {}: {}",
                    shown(&topic.name),
                    shown(&error.to_string())
                );
                Refusal::from(&error)
            })
        };
        grown.push((topic, outcome));
    }
    let mut results = Vec::with_capacity(grown.len());
    for (topic, outcome) in grown {
        let outcome = match outcome {
            Ok(partitions) if !validate_only => {
                match timeout_ms > 0 && have_leaders(server, context, &topic.name, partitions, deadline).await {
                    true => Ok(()),
                    false => Err(Refusal::from(ErrorCode::RequestTimedOut)),
                }
            }
            outcome => outcome.map(|_| ()),
        };
        let refusal = outcome.err();
        results.push(CreatePartitionsTopicResult {
            name: topic.name.clone(),
            error_code: refusal.as_ref().map_or(ErrorCode::None, |refusal| refusal.code).code(),
            error_message: refusal.and_then(|refusal| refusal.message),
        });
    }
    CreatePartitionsResponse { results, ..Default::default() }
}
