//! CreateTopics, and the creation of topics that a client merely asked about.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/{KafkaApis,ZkAdminManager,AutoTopicCreationManager}.scala.
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use log::{debug, info};
use tokio::time::Instant;

use crate::api::answer::AnswerTooLong;
use crate::api::errors::Refusal;
use crate::api::{RequestContext, Server};
use crate::config::describe::describe_topic;
use crate::config::properties::Properties;
use crate::controller::assignment::Candidate;
use crate::controller::task::topic_administration::{Created, Mode, Wish};
use crate::controller::topic_validation::TopicError;
use crate::metadata::image::Image;
use crate::model::BrokerId;
use crate::model::internal_topics::is_internal_topic;
use crate::model::shown::shown;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::message::Wire;
use crate::protocol::messages::create_topics::{
    CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreateTopicsRequest, CreateTopicsResponse,
};

const CLUSTER_METADATA_TOPIC: &str = "__cluster_metadata";
/// From this version on the answer holds the settings of each topic.
const FIRST_WITH_SETTINGS: i16 = 5;
/// In a request: the broker's default.
const DEFAULT: i32 = -1;

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: CreateTopicsRequest,
) -> Result<CreateTopicsResponse, AnswerTooLong> {
    let CreateTopicsRequest { topics, timeout_ms, validate_only } = request;
    let deadline = Instant::now() + Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0));
    let mut times: HashMap<&str, usize> = HashMap::new();
    for topic in &topics {
        *times.entry(&topic.name).or_default() += 1;
    }
    // Nothing is created whose settings could not be told.
    let of_settings = match context.api_version >= FIRST_WITH_SETTINGS {
        true => accepted(server, "", &Created::default(), &Properties::new()).memory(),
        false => 0,
    };
    context.answer.charge(of_settings.saturating_mul(times.len()))?;
    let mut room = PartitionRoom::of(server);
    let mut results = Vec::with_capacity(times.len());
    let mut refused_twice = HashSet::new();
    for topic in &topics {
        if context.pause().await {
            break;
        }
        let refusal = if !server.controller.is_active() {
            Some(Refusal::from(ErrorCode::NotController))
        } else if topic.name == CLUSTER_METADATA_TOPIC {
            let reason = format!("Creation of internal topic {CLUSTER_METADATA_TOPIC} is prohibited.");
            Some(Refusal::invalid_request(reason))
        } else if times.get(topic.name.as_str()).is_some_and(|times| *times > 1) {
            if !refused_twice.insert(topic.name.as_str()) {
                continue;
            }
            Some(Refusal::invalid_request("Found multiple entries for this topic."))
        } else {
            None
        };
        let result = match refusal {
            Some(refusal) => refused(&topic.name, refusal),
            None => match create(server, topic, validate_only, &mut room).await {
                Ok((created, overrides)) => accepted(server, &topic.name, &created, &overrides),
                Err(error) => {
                    match &error {
                        TopicError::Exists(_) => debug!("Topic creation failed: {}", shown(&error.to_string())),
                        error => info!(
                            "Error processing create topic request for {}: {}",
                            shown(&topic.name),
                            shown(&error.to_string())
                        ),
                    }
                    refused(&topic.name, Refusal::from(&error))
                }
            },
        };
        results.push(result);
    }
    if !validate_only {
        for result in results.iter_mut().filter(|result| result.error_code == ErrorCode::None.code()) {
            if timeout_ms <= 0 || !have_leaders(server, context, &result.name, result.num_partitions, deadline).await {
                // The topic is created all the same; the client is told that its leaders are not.
                *result = refused(&result.name, Refusal::from(ErrorCode::RequestTimedOut));
            }
        }
    }
    Ok(CreateTopicsResponse { topics: results, ..Default::default() })
}

async fn create(
    server: &Server,
    topic: &CreatableTopic,
    validate_only: bool,
    room: &mut PartitionRoom,
) -> Result<(Created, Properties), TopicError> {
    let image = server.metadata.image();
    if image.topic(&topic.name).is_some() {
        return Err(TopicError::Exists(format!("Topic '{}' already exists.", topic.name)));
    }
    let nulls: Vec<&str> =
        topic.configs.iter().filter(|config| config.value.is_none()).map(|config| config.name.as_str()).collect();
    if !nulls.is_empty() {
        return Err(TopicError::InvalidConfig(format!(
            "Null value not supported for topic configs: {}",
            nulls.join(",")
        )));
    }
    let has_counts = topic.num_partitions != DEFAULT || i32::from(topic.replication_factor) != DEFAULT;
    if has_counts && !topic.assignments.is_empty() {
        return Err(TopicError::InvalidRequest(
            "Both numPartitions or replicationFactor and replicasAssignments were set. Both cannot be used at the \
             same time."
                .to_owned(),
        ));
    }
    let wish = if topic.assignments.is_empty() {
        Wish::Spread {
            partitions: Some(topic.num_partitions).filter(|count| *count != DEFAULT),
            replication_factor: Some(topic.replication_factor).filter(|factor| i32::from(*factor) != DEFAULT),
        }
    } else {
        let assignments = topic
            .assignments
            .iter()
            .map(|one| (one.partition_index, one.broker_ids.iter().copied().map(BrokerId).collect::<Vec<_>>()));
        Wish::Assigned(assignments.collect::<BTreeMap<_, _>>())
    };
    let overrides: Properties =
        topic.configs.iter().filter_map(|config| Some((config.name.clone(), config.value.clone()?))).collect();
    let mode = if validate_only { Mode::ValidateOnly } else { Mode::Create };
    let config = server.config.load_full();
    room.take(match &wish {
        Wish::Spread { partitions, .. } => partitions.unwrap_or(config.controller_config().num_partitions),
        Wish::Assigned(assignment) => i32::try_from(assignment.len()).unwrap_or(i32::MAX),
    })?;
    let created = server.topics.create(&config, &candidates(&image), &topic.name, wish, &overrides, mode).await?;
    Ok((created, overrides))
}

/// How many partitions clients may still make. Counted once a request, which then takes from it what it asks for itself,
/// whether it gets it or not: assigning them to brokers is work too. What others make meanwhile it does not see.
pub(super) struct PartitionRoom {
    max: usize,
    left: usize,
}

impl PartitionRoom {
    pub fn of(server: &Server) -> PartitionRoom {
        let max = server.config.load().controller_config().cluster_max_partitions;
        PartitionRoom { max, left: max.saturating_sub(server.metadata.image().partition_count()) }
    }

    /// A negative count is for others to refuse.
    pub fn take(&mut self, partitions: i32) -> Result<(), TopicError> {
        if let Some(left) = self.left.checked_sub(usize::try_from(partitions).unwrap_or(0)) {
            self.left = left;
            return Ok(());
        }
        Err(TopicError::PolicyViolation(format!(
            "{partitions} partitions are more than the {} that may still be made: cluster.max.partitions is {}.",
            self.left, self.max
        )))
    }
}

fn candidates(image: &Image) -> Vec<Candidate> {
    image.brokers.values().map(|broker| Candidate { id: broker.id, rack: broker.rack.clone() }).collect()
}

/// Waits until the local metadata knows a leader of every partition.
pub(super) async fn have_leaders(
    server: &Server,
    context: &RequestContext,
    topic: &str,
    partitions: i32,
    deadline: Instant,
) -> bool {
    let known = |image: &Image| {
        let is_led = |partition| image.partition(topic, partition).is_some_and(|known| known.leader.0 >= 0);
        (0..partitions).all(is_led).then_some(())
    };
    context.while_connected(server.metadata.wait_for(deadline, known)).await.is_some()
}

fn accepted(server: &Server, name: &str, created: &Created, overrides: &Properties) -> CreatableTopicResult {
    let described = describe_topic(&server.config.load(), overrides);
    let configs = described.into_iter().map(|entry| CreatableTopicConfigs {
        name: entry.name,
        value: entry.value,
        read_only: entry.read_only,
        config_source: entry.source.id(),
        is_sensitive: entry.is_sensitive,
    });
    CreatableTopicResult {
        name: name.to_owned(),
        error_message: None,
        topic_id: created.id,
        num_partitions: created.partitions,
        replication_factor: created.replication_factor,
        configs: Some(configs.collect()),
        ..CreatableTopicResult::default()
    }
}

fn refused(name: &str, refusal: Refusal) -> CreatableTopicResult {
    CreatableTopicResult {
        name: name.to_owned(),
        error_code: refusal.code.code(),
        error_message: refusal.message,
        configs: Some(Vec::new()),
        ..CreatableTopicResult::default()
    }
}

/// Creates a topic that a client asked about, and returns what the client is told: to ask again, usually.
pub(crate) async fn auto_create(server: &Server, name: &str) -> ErrorCode {
    let image = server.metadata.image();
    let config = server.config.load_full();
    // Without its internal topics the cluster would not work at all.
    if !is_internal_topic(name)
        && let Err(error) = PartitionRoom::of(server).take(config.controller_config().num_partitions)
    {
        return ErrorCode::from(&error);
    }
    match server.topics.auto_create(&config, &candidates(&image), name).await {
        Ok(()) => ErrorCode::LeaderNotAvailable,
        Err(error) => ErrorCode::from(&error),
    }
}
