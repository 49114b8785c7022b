//! Fetch, all versions. Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/KafkaApis.scala (handleFetchRequest) and
//! ReplicaManager.scala (fetchMessages, readFromLog).

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use log::warn;
use tokio::time::{Duration, Instant};

use crate::api::leader_hint::leader_hint;
use crate::api::{RequestContext, Server};
use crate::codec::writer::{Chunk, FileRegion};
use crate::config::log::TopicCompression;
use crate::metadata::image::Image;
use crate::model::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, TopicId};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::message::Payload;
use crate::protocol::messages::fetch::{
    AbortedTransaction, EpochEndOffset, FetchPartition, FetchRequest, FetchResponse, FetchableTopicResponse,
    ForgottenTopic, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use crate::record::convert::{ConvertError, DownConversion};
use crate::replica::error::ReplicaError;
use crate::replica::fetch::{FetchQuery, LimitRule, PartitionQuery};
use crate::replica::fetch_session::{Answered, PartitionKey, SessionRequest, TopicKey};
use crate::replica::partition::{FetchParams, Fetched, Fetcher};

/// Before this version a client does not know the storage error, and would give up where it should look elsewhere.
const FIRST_WITH_STORAGE_ERROR: i16 = 6;
const FIRST_WITH_ZSTD: i16 = 10;
const FIRST_WITH_TOPIC_IDS: i16 = 13;
const FIRST_WITH_LEADER_HINTS: i16 = 16;
/// Consumers of this version on may be served by followers (KIP-392).
const FIRST_FROM_FOLLOWERS: i16 = 11;
/// From this version on the first batch of a reply is returned whole, however large (KIP-74).
const FIRST_WITH_SOFT_LIMITS: i16 = 3;

/// One partition of the answer, in the making.
struct Answer {
    key: PartitionKey,
    params: FetchParams,
    /// `None` for an id that this broker does not know.
    topic: Option<Arc<str>>,
    data: PartitionData,
}

pub(crate) async fn handle(server: &Server, context: RequestContext, request: FetchRequest) -> FetchResponse {
    let version = context.api_version;
    let replica_id = if version >= 15 { request.replica_state.replica_id } else { request.replica_id };
    let uses_topic_ids = version >= FIRST_WITH_TOPIC_IDS;
    let session = SessionRequest {
        session_id: request.session_id,
        session_epoch: request.session_epoch,
        uses_topic_ids,
        is_follower: replica_id >= 0,
    };
    let forgotten = forgotten(&request.forgotten_topics_data, uses_topic_ids);
    let asked = asked(&request, uses_topic_ids);
    let (reply_as, reads) = server.fetch_sessions.open(session, asked, &forgotten, context.now_ms);

    // One image for the whole answer.
    let image = server.metadata.image();
    let mut queries = Vec::with_capacity(reads.len());
    let mut answers = Vec::with_capacity(reads.len());
    let mut refused = Vec::new();
    for (key, params) in reads {
        let partition = key.partition;
        let topic = topic_name(&key, &image);
        let error = match &topic {
            None => Some(ErrorCode::UnknownTopicId),
            Some(topic) if image.partition(topic, partition).is_none() => Some(ErrorCode::UnknownTopicOrPartition),
            Some(_) => None,
        };
        match (error, &topic) {
            (None, Some(topic)) => {
                let topic_id = match key.topic {
                    TopicKey::Id(id) => id,
                    TopicKey::Name(_) => TopicId::ZERO,
                };
                let topic = Arc::clone(topic);
                queries.push(PartitionQuery { topic, partition, topic_id, params: params.clone() });
            }
            (error, _) => {
                let data = failed(partition, error.unwrap_or(ErrorCode::UnknownTopicOrPartition));
                refused.push(Answer { key, params, topic, data });
                continue;
            }
        }
        answers.push(Answer { key, params, topic, data: PartitionData::default() });
    }

    let fetcher = match replica_id {
        0.. => Fetcher::Follower {
            broker: BrokerId(replica_id),
            broker_epoch: BrokerEpoch(request.replica_state.replica_epoch),
        },
        _ => Fetcher::Consumer {
            read_committed: request.isolation_level == 1,
            may_read_from_follower: version >= FIRST_FROM_FOLLOWERS,
        },
    };
    let bytes_max = u32::try_from(request.max_bytes).unwrap_or(0).min(server.fetch_max_bytes);
    let query = FetchQuery {
        fetcher,
        min_bytes: usize::try_from(request.min_bytes).unwrap_or(0).min(bytes_max as usize),
        bytes_max,
        limits: if version >= FIRST_WITH_SOFT_LIMITS { LimitRule::Soft } else { LimitRule::Hard },
        partitions: queries,
    };
    let max_wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let deadline = Instant::from_std(context.received) + max_wait;
    let outcomes = server.replicas.fetch(&query, deadline, context.now_ms).await;
    for (answer, outcome) in answers.iter_mut().zip(outcomes) {
        answer.data = match outcome {
            Ok(fetched) => partition_data(answer.key.partition, fetched, fetcher),
            Err(error) => failed(answer.key.partition, (&error).into()),
        };
    }
    answers.append(&mut refused);

    let head = server.fetch_sessions.close(&reply_as, &mut answers, facts, context.now_ms);
    let mut response =
        FetchResponse { error_code: head.error.code(), session_id: head.session_id, ..Default::default() };
    for mut answer in answers {
        if version >= FIRST_WITH_LEADER_HINTS {
            add_leader_hint(server, &context, &mut answer, &mut response.node_endpoints);
        }
        if let Some(topic) = answer.topic.clone() {
            convert(server, version, &topic, fetcher, &mut answer).await;
        }
        if version < FIRST_WITH_STORAGE_ERROR && answer.data.error_code == ErrorCode::KafkaStorageError.code() {
            answer.data.error_code = ErrorCode::NotLeaderOrFollower.code();
        }
        add(&mut response.responses, answer);
    }
    response
}

fn params(partition: &FetchPartition) -> FetchParams {
    let epoch = |epoch: i32| (epoch >= 0).then_some(LeaderEpoch(epoch));
    FetchParams {
        fetch_offset: Offset(partition.fetch_offset),
        log_start_offset: Offset(partition.log_start_offset),
        bytes_max: partition.partition_max_bytes,
        current_leader_epoch: epoch(partition.current_leader_epoch),
        last_fetched_epoch: epoch(partition.last_fetched_epoch),
    }
}

fn asked(request: &FetchRequest, uses_topic_ids: bool) -> Vec<(PartitionKey, FetchParams)> {
    let mut asked = Vec::with_capacity(request.topics.iter().map(|topic| topic.partitions.len()).sum());
    for topic in &request.topics {
        let key = topic_key(&topic.topic, topic.topic_id, uses_topic_ids);
        for partition in &topic.partitions {
            asked.push((PartitionKey { topic: key.clone(), partition: partition.partition }, params(partition)));
        }
    }
    asked
}

fn forgotten(topics: &[ForgottenTopic], uses_topic_ids: bool) -> Vec<PartitionKey> {
    let mut forgotten = Vec::new();
    for topic in topics {
        let key = topic_key(&topic.topic, topic.topic_id, uses_topic_ids);
        forgotten.extend(topic.partitions.iter().map(|&partition| PartitionKey { topic: key.clone(), partition }));
    }
    forgotten
}

fn topic_key(name: &str, id: TopicId, uses_topic_ids: bool) -> TopicKey {
    if uses_topic_ids { TopicKey::Id(id) } else { TopicKey::Name(Arc::from(name)) }
}

fn topic_name(key: &PartitionKey, image: &Image) -> Option<Arc<str>> {
    match &key.topic {
        TopicKey::Name(name) => Some(Arc::clone(name)),
        TopicKey::Id(id) => image.topic_name(*id).cloned(),
    }
}

/// What is said of a partition that was not read.
fn failed(partition: i32, error: ErrorCode) -> PartitionData {
    PartitionData {
        partition_index: partition,
        error_code: error.code(),
        high_watermark: -1,
        aborted_transactions: None,
        records: Some(Payload::Bytes(Bytes::new())),
        ..Default::default()
    }
}

fn partition_data(partition: i32, fetched: Fetched, fetcher: Fetcher) -> PartitionData {
    let mut data = PartitionData {
        partition_index: partition,
        high_watermark: fetched.bounds.high_watermark.0,
        last_stable_offset: fetched.bounds.last_stable_offset.0,
        log_start_offset: fetched.bounds.log_start_offset.0,
        // Only who reads committed records needs to know which were aborted.
        aborted_transactions: matches!(fetcher, Fetcher::Consumer { read_committed: true, .. }).then(Vec::new),
        ..Default::default()
    };
    if let Some(end) = fetched.diverging {
        data.diverging_epoch = EpochEndOffset { epoch: end.epoch.0, end_offset: end.end_offset.0 };
    }
    if let Some(batches) = fetched.batches {
        if let Some(aborted) = &mut data.aborted_transactions {
            aborted.extend(batches.aborted_transactions.iter().map(|transaction| AbortedTransaction {
                producer_id: transaction.producer_id.0,
                first_offset: transaction.first_offset.0,
            }));
        }
        data.records = batches.region.map(Payload::File).or(data.records);
    }
    data
}

fn facts(answer: &Answer) -> (&PartitionKey, &FetchParams, Answered) {
    let data = &answer.data;
    let answered = Answered {
        records_bytes: data.records.as_ref().map_or(0, Payload::len),
        high_watermark: data.high_watermark,
        log_start_offset: data.log_start_offset,
        error: ErrorCode::from_code(data.error_code),
        is_redirect: data.preferred_read_replica >= 0 || data.diverging_epoch.epoch >= 0,
    };
    (&answer.key, &answer.params, answered)
}

fn add_leader_hint(server: &Server, context: &RequestContext, answer: &mut Answer, nodes: &mut Vec<NodeEndpoint>) {
    let error = ErrorCode::from_code(answer.data.error_code);
    let Some(topic) = &answer.topic else { return };
    if !matches!(error, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch) {
        return;
    }
    let hint = leader_hint(server, topic, answer.key.partition, context.listener());
    answer.data.current_leader = LeaderIdAndEpoch { leader_id: hint.leader.0, leader_epoch: hint.leader_epoch.0 };
    if let Some((endpoint, rack)) = hint.endpoint
        && !nodes.iter().any(|node| node.node_id == hint.leader.0)
    {
        nodes.push(NodeEndpoint { node_id: hint.leader.0, host: endpoint.host, port: endpoint.port, rack });
    }
}

/// Turns records into what old clients understand. A topic's settings decide, not each batch: versions 0 and 1 get magic
/// 0, versions 2 and 3 magic 1, later ones whatever is in the log.
async fn convert(server: &Server, version: i16, topic: &str, fetcher: Fetcher, answer: &mut Answer) {
    if version >= FIRST_WITH_ZSTD {
        return;
    }
    let partition = answer.key.partition;
    let Some(log) = server.replicas.partition(topic, partition).ok().and_then(|hosted| hosted.log()) else { return };
    let config = log.config();
    if matches!(config.compression, TopicCompression::Zstd { .. }) {
        answer.data = failed(partition, ErrorCode::UnsupportedCompressionType);
        return;
    }
    let log_format = config.message_format_version.highest_supported_magic();
    let to_magic = match version {
        0 | 1 if log_format > 0 => 0,
        2 | 3 if log_format > 1 => 1,
        _ => return,
    };
    let Some(Payload::File(region)) = &answer.data.records else { return };
    if matches!(fetcher, Fetcher::Consumer { .. }) && !config.message_downconversion_enable {
        answer.data = failed(partition, ErrorCode::UnsupportedVersion);
        return;
    }
    let (region, fetch_offset) = (region.clone(), answer.params.fetch_offset);
    let converted = server.replicas.io().run(move || down_converted(&region, to_magic, fetch_offset)).await;
    match converted {
        Ok(Ok(chunks)) => answer.data.records = Some(Payload::Chunks(chunks)),
        Ok(Err(error)) => answer.data = failed(partition, error),
        Err(why) => answer.data = failed(partition, ErrorCode::from(&ReplicaError::from(why))),
    }
}

/// Reads the region and converts all of it: at most what one reply may carry is in memory meanwhile.
fn down_converted(region: &FileRegion, to_magic: u8, fetch_offset: Offset) -> Result<Vec<Chunk>, ErrorCode> {
    let mut source = vec![0; region.len as usize];
    region.file.read_exact_at(&mut source, region.position).map_err(|why| {
        warn!("read batches to convert them for an old consumer: {why}");
        ErrorCode::KafkaStorageError
    })?;
    let conversion = DownConversion::new(Bytes::from(source), to_magic, fetch_offset.0);
    let conversion = conversion.map_err(|why| {
        if let ConvertError::Read(why) = &why {
            warn!("convert batches for an old consumer: {why}");
        }
        ErrorCode::from(&why)
    })?;
    Ok(conversion.map(Chunk::Bytes).collect())
}

/// Neighbours of one topic share its entry, as in Kafka's answers.
fn add(topics: &mut Vec<FetchableTopicResponse>, answer: Answer) {
    let Answer { key, data, .. } = answer;
    let (topic, topic_id) = match &key.topic {
        TopicKey::Name(name) => (name.as_ref(), TopicId::ZERO),
        TopicKey::Id(id) => ("", *id),
    };
    match topics.last_mut() {
        Some(last) if last.topic == topic && last.topic_id == topic_id => last.partitions.push(data),
        _ => topics.push(FetchableTopicResponse { topic: topic.to_owned(), topic_id, partitions: vec![data] }),
    }
}
