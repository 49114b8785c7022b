//! Metadata, all versions. Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/KafkaApis.scala
//! (handleTopicMetadataRequest) and metadata/ZkMetadataCache.scala (getPartitionMetadata).

use std::collections::BTreeSet;

use tokio::time::Instant;

use crate::api::answer::AnswerTooLong;
use crate::api::create_topics::auto_create;
use crate::api::{RequestContext, Server};
use crate::controller::topic_validation::validate_name;
use crate::metadata::image::{Image, Partition, Topic};
use crate::model::internal_topics::is_internal_topic;
use crate::model::{BrokerId, TopicId};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::message::Wire;
use crate::protocol::messages::metadata::{
    MetadataRequest, MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};

const FIRST_WITH_TOPIC_IDS: i16 = 12;
const FIRST_WITH_LISTENER_NOT_FOUND: i16 = 6;

/// Bit of an authorized operation, by its code. Without an authorizer everything is allowed.
const fn operations(codes: &[u32]) -> i32 {
    let mut bits = 0;
    let mut index = 0;
    while index < codes.len() {
        bits |= 1 << codes[index];
        index += 1;
    }
    bits
}

/// A pause is due after so many at the latest.
const PARTITIONS_A_SLICE: usize = 256;

/// Create, ClusterAction, DescribeConfigs, AlterConfigs, IdempotentWrite, Alter, Describe.
const CLUSTER_OPERATIONS: i32 = operations(&[5, 7, 8, 9, 10, 11, 12]);
/// Read, Write, Create, Delete, Alter, Describe, DescribeConfigs, AlterConfigs.
const TOPIC_OPERATIONS: i32 = operations(&[3, 4, 5, 6, 7, 8, 10, 11]);

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: MetadataRequest,
) -> Result<MetadataResponse, AnswerTooLong> {
    let version = context.api_version;
    let asked = match asked(&request, version) {
        Ok(asked) => asked,
        Err(error) => return Ok(refused(&request, error)),
    };
    // A broker that has just registered knows of no topic, and some clients would take theirs for deleted.
    server.metadata.until_told(Instant::from_std(context.received)).await;
    let image = server.metadata.image();
    let listener = context.listener();
    let (mut topics, missing) = topics(context, &image, &asked).await?;
    for topic in settle_missing(server, context, &image, missing, request.allow_auto_topic_creation).await {
        context.answer.push(&mut topics, topic)?;
    }
    if version >= 8 && request.include_topic_authorized_operations {
        for topic in topics.iter_mut().filter(|topic| topic.name.is_some()) {
            topic.topic_authorized_operations = TOPIC_OPERATIONS;
        }
    }
    let brokers = image.brokers.values().filter_map(|broker| {
        let endpoint = broker.endpoint(listener)?;
        Some(MetadataResponseBroker {
            node_id: broker.id.0,
            host: endpoint.host.clone(),
            port: endpoint.port,
            rack: broker.rack.clone(),
        })
    });
    Ok(MetadataResponse {
        brokers: brokers.collect(),
        cluster_id: Some(server.cluster_id.clone()),
        controller_id: image.controller.map_or(-1, |controller| controller.0),
        topics,
        cluster_authorized_operations: match version {
            8..=10 if request.include_cluster_authorized_operations => CLUSTER_OPERATIONS,
            _ => i32::MIN,
        },
        ..Default::default()
    })
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    All,
    Names(BTreeSet<String>),
    Ids(BTreeSet<TopicId>),
}

/// Version 0 asks for all topics with an empty list, later ones with none. If any topic has an id, names are not read.
fn asked(request: &MetadataRequest, version: i16) -> Result<Asked, ErrorCode> {
    let topics = match &request.topics {
        None => return Ok(Asked::All),
        Some(topics) if topics.is_empty() && version == 0 => return Ok(Asked::All),
        Some(topics) => topics,
    };
    if version < FIRST_WITH_TOPIC_IDS && topics.iter().any(|topic| topic.name.is_none() || !topic.topic_id.is_zero()) {
        return Err(ErrorCode::InvalidRequest);
    }
    let ids: BTreeSet<TopicId> = topics.iter().map(|topic| topic.topic_id).filter(|id| !id.is_zero()).collect();
    if ids.is_empty() {
        Ok(Asked::Names(topics.iter().filter_map(|topic| topic.name.clone()).collect()))
    } else {
        Ok(Asked::Ids(ids))
    }
}

/// The error stands on each topic: the reply has no place for one of its own.
fn refused(request: &MetadataRequest, error: ErrorCode) -> MetadataResponse {
    let topics = request.topics.iter().flatten().map(|topic| MetadataResponseTopic {
        error_code: error.code(),
        name: Some(topic.name.clone().unwrap_or_default()),
        topic_id: topic.topic_id,
        ..Default::default()
    });
    MetadataResponse { topics: topics.collect(), ..Default::default() }
}

/// The topics that are known, and the names of those that are not. Ids that are not known are answered at once.
async fn topics(
    context: &RequestContext,
    image: &Image,
    asked: &Asked,
) -> Result<(Vec<MetadataResponseTopic>, Vec<String>), AnswerTooLong> {
    let mut known = Vec::new();
    let mut missing = Vec::new();
    match asked {
        Asked::All => {
            for topic in image.topics() {
                known.push(describe(context, image, topic).await?);
            }
        }
        Asked::Names(names) => {
            for name in names {
                context.pause().await;
                match image.topic(name) {
                    Some(topic) => known.push(describe(context, image, topic).await?),
                    None => missing.push(name.clone()),
                }
            }
        }
        Asked::Ids(ids) => {
            for &id in ids {
                context.pause().await;
                let Some(topic) = image.topic_by_id(id) else {
                    let unknown = MetadataResponseTopic {
                        error_code: ErrorCode::UnknownTopicId.code(),
                        name: None,
                        topic_id: id,
                        ..Default::default()
                    };
                    context.answer.push(&mut known, unknown)?;
                    continue;
                };
                known.push(describe(context, image, topic).await?);
            }
        }
    }
    Ok((known, missing))
}

/// One request creates at most so many topics. It is told of the others what it would be if they were being created
/// already, and asks again.
const AUTO_CREATED_MAX: usize = 100;

async fn settle_missing(
    server: &Server,
    context: &RequestContext,
    image: &Image,
    missing: Vec<String>,
    allow_auto_topic_creation: bool,
) -> Vec<MetadataResponseTopic> {
    if missing.is_empty() {
        return Vec::new();
    }
    let creates = allow_auto_topic_creation && server.config.load().controller_config().auto_create_topics_enable;
    let mut to_create = if creates { AUTO_CREATED_MAX } else { 0 };
    let mut settled = Vec::with_capacity(missing.len());
    for name in missing {
        context.pause().await;
        let error = match validate_name(&name) {
            Err(error) => ErrorCode::from(&error),
            Ok(()) if to_create > 0 => {
                to_create -= 1;
                auto_create(server, &name).await
            }
            Ok(()) => ErrorCode::UnknownTopicOrPartition,
        };
        settled.push(MetadataResponseTopic {
            error_code: error.code(),
            topic_id: image.topic_id(&name),
            is_internal: is_internal_topic(&name),
            name: Some(name),
            ..Default::default()
        });
    }
    settled
}

/// One topic may have nearly all partitions of the cluster: it is described, and counted, in slices.
async fn describe(
    context: &RequestContext,
    image: &Image,
    topic: &Topic,
) -> Result<MetadataResponseTopic, AnswerTooLong> {
    let mut described = MetadataResponseTopic {
        error_code: 0,
        name: Some(topic.name.to_string()),
        topic_id: topic.id,
        is_internal: is_internal_topic(&topic.name),
        partitions: Vec::with_capacity(topic.partitions.len()),
        ..Default::default()
    };
    context.answer.charge(described.memory())?;
    for some in topic.partitions.chunks(PARTITIONS_A_SLICE) {
        context.pause().await;
        for partition in some {
            let partition = describe_partition(image, partition, context.listener(), context.api_version);
            context.answer.push(&mut described.partitions, partition)?;
        }
    }
    Ok(described)
}

fn describe_partition(image: &Image, partition: &Partition, listener: &str, version: i16) -> MetadataResponsePartition {
    // Version 0 hides replicas that its listener cannot reach, and says so with an error; later ones list them all.
    let reachable = |brokers: &[BrokerId]| -> Vec<i32> {
        let is_listed = |broker: &&BrokerId| version > 0 || image.endpoint(**broker, listener).is_some();
        brokers.iter().filter(is_listed).map(|broker| broker.0).collect()
    };
    let replica_nodes = reachable(&partition.assignment);
    let isr_nodes = reachable(&partition.isr);
    let error = if image.endpoint(partition.leader, listener).is_some() {
        let all_listed = replica_nodes.len() == partition.assignment.len() && isr_nodes.len() == partition.isr.len();
        if all_listed { ErrorCode::None } else { ErrorCode::ReplicaNotAvailable }
    } else if image.is_alive(partition.leader) && version >= FIRST_WITH_LISTENER_NOT_FOUND {
        ErrorCode::ListenerNotFound
    } else {
        ErrorCode::LeaderNotAvailable
    };
    MetadataResponsePartition {
        error_code: error.code(),
        partition_index: partition.partition,
        leader_id: if image.endpoint(partition.leader, listener).is_some() { partition.leader.0 } else { -1 },
        leader_epoch: partition.leader_epoch.0,
        replica_nodes,
        isr_nodes,
        offline_replicas: partition.offline_replicas.iter().map(|broker| broker.0).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::api::HangUp;
    use crate::api::answer::AnswerBudget;
    use crate::api::session::ClientSession;
    use crate::metadata::image::tests::{partition, update};
    use crate::model::ConnectionNumber;
    use crate::network::Peer;
    use crate::network::memory::{ConnectionMemory, MemoryPool};
    use crate::protocol::messages::metadata::MetadataRequestTopic;

    fn context(api_version: i16) -> RequestContext {
        let address = ([127, 0, 0, 1], 1).into();
        let memory = ConnectionMemory::new(MemoryPool::new(1 << 20, 0));
        let answer = AnswerBudget::new(1 << 20, memory.working_memory());
        let number = ConnectionNumber(1);
        let peer = Peer { listener: "PLAINTEXT".into(), address, number, session: ClientSession::default(), memory };
        RequestContext {
            api_version,
            client_id: String::new(),
            peer: Arc::new(peer),
            received: std::time::Instant::now(),
            now_ms: 0,
            answer,
            hang_up: None,
            paused_at: AtomicU64::new(0),
        }
    }

    fn request(topics: Option<&[&str]>) -> MetadataRequest {
        let topic = |name: &&str| MetadataRequestTopic { name: Some((*name).to_owned()), ..Default::default() };
        MetadataRequest { topics: topics.map(|names| names.iter().map(topic).collect()), ..Default::default() }
    }

    #[tokio::test]
    async fn a_request_whose_client_has_hung_up_waits_for_nothing_more() {
        let hang_up = HangUp::default();
        let context = RequestContext { hang_up: Some(hang_up.clone()), ..context(0) };
        assert_eq!(context.while_connected(std::future::ready(Some(1))).await, Some(1));
        let (outcome, ()) = tokio::join!(context.while_connected(std::future::pending::<Option<i32>>()), async {
            hang_up.set();
        });
        assert_eq!(outcome, None);
    }

    #[test]
    fn all_topics_are_asked_for_by_an_empty_list_in_version_0_and_by_none_later() {
        assert_eq!(asked(&request(Some(&[])), 0), Ok(Asked::All));
        assert_eq!(asked(&request(Some(&[])), 1), Ok(Asked::Names(BTreeSet::new())));
        assert_eq!(asked(&request(None), 1), Ok(Asked::All));
    }

    #[test]
    fn an_id_or_a_missing_name_is_refused_before_version_12_and_ids_win_over_names_in_it() {
        let id = TopicId([7; 16]);
        let mut with_id = request(Some(&["a"]));
        with_id.topics.as_mut().expect("topics")[0].topic_id = id;
        assert_eq!(asked(&with_id, 11), Err(ErrorCode::InvalidRequest));
        assert_eq!(asked(&with_id, 12), Ok(Asked::Ids(BTreeSet::from([id]))));
        let mut unnamed = request(Some(&["a"]));
        unnamed.topics.as_mut().expect("topics")[0].name = None;
        assert_eq!(asked(&unnamed, 11), Err(ErrorCode::InvalidRequest));
    }

    /// Broker 1 and 2 are alive; replica 3 is not; broker 2 lacks the listener asked for.
    #[tokio::test]
    async fn each_version_reports_unreachable_replicas_and_leaders_in_its_own_way() {
        let mut replicated = partition("a", 0, 1);
        replicated.1.assignment = vec![BrokerId(1), BrokerId(3)];
        replicated.1.isr = vec![BrokerId(1)];
        let mut update = update(vec![replicated, partition("a", 1, 2), partition("a", 2, -1)]);
        update.brokers[1].endpoints.retain(|endpoint| endpoint.listener == "INTERNAL");
        let (image, _) = Image::default().with(update);
        let topic = Arc::clone(image.topic("a").expect("just added"));
        for (version, expected) in [
            (0, vec![(9, 1, vec![1]), (5, -1, vec![]), (5, -1, vec![])]),
            (1, vec![(0, 1, vec![1, 3]), (5, -1, vec![2]), (5, -1, vec![-1])]),
            (6, vec![(0, 1, vec![1, 3]), (72, -1, vec![2]), (5, -1, vec![-1])]),
        ] {
            let described = describe(&context(version), &image, &topic).await.expect("it is short");
            let parts = described.partitions.into_iter();
            let seen: Vec<_> = parts.map(|p| (p.error_code, p.leader_id, p.replica_nodes)).collect();
            assert_eq!(seen, expected, "version {version}");
        }
    }

    #[tokio::test]
    async fn a_topic_of_very_many_partitions_gives_way_to_others_and_is_counted_while_it_is_described() {
        let (image, _) = Image::default().with(update((0..50_000).map(|number| partition("a", number, 1)).collect()));
        let topic = Arc::clone(image.topic("a").expect("just added"));
        let context = context(9);
        let mut turns = 0;
        let others = async {
            loop {
                turns += 1;
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            described = describe(&context, &image, &topic) => assert_eq!(described.err(), Some(AnswerTooLong)),
            () = others => {}
        }
        assert!(turns > 0 && context.answer.taken() > 900_000, "{turns} turns, {} bytes", context.answer.taken());
    }

    #[tokio::test]
    async fn unknown_ids_are_answered_and_unknown_names_are_returned_to_be_created() {
        let (image, _) = Image::default().with(update(vec![partition("a", 0, 1)]));
        let names = Asked::Names(BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        let (known, missing) = topics(&context(1), &image, &names).await.expect("it is short");
        assert_eq!(known.len(), 1);
        assert_eq!(missing, vec!["b".to_owned()]);
        let (known, _) =
            topics(&context(12), &image, &Asked::Ids(BTreeSet::from([TopicId([1; 16])]))).await.expect("it is short");
        assert_eq!(known[0].error_code, ErrorCode::UnknownTopicId.code());
        assert_eq!(known[0].name, None);
    }
}
