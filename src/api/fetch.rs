//! Fetch, all versions. Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/KafkaApis.scala (handleFetchRequest) and
//! ReplicaManager.scala (fetchMessages, readFromLog).

use std::sync::Arc;

use bytes::Bytes;
use log::warn;
use tokio::time::{Duration, Instant};

use crate::api::answer::AnswerTooLong;
use crate::api::leader_hint::leader_hint;
use crate::api::{RequestContext, Server};
use crate::codec::writer::{Chunk, FileRegion};
use crate::config::log::TopicCompression;
use crate::log::{Log, read_exact_at};
use crate::metadata::image::Image;
use crate::model::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, TopicId};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::message::Payload;
use crate::protocol::messages::fetch::{
    AbortedTransaction, EpochEndOffset, FetchPartition, FetchRequest, FetchResponse, FetchTopic,
    FetchableTopicResponse, ForgottenTopic, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use crate::record::batch::{BatchHeader, HEADER_BYTES_V2};
use crate::record::convert::{ConvertError, DownConversion};
use crate::replica::error::ReplicaError;
use crate::replica::fetch::{FetchQuery, LimitRule, PartitionQuery};
use crate::replica::fetch_session::SessionRequest;
use crate::replica::partition::{FetchParams, Fetched, Fetcher};
use crate::replica::replica_selector::Reader;

/// Before this version a client does not know the storage error, and would give up where it should look elsewhere.
const FIRST_WITH_STORAGE_ERROR: i16 = 6;
const FIRST_WITH_ZSTD: i16 = 10;
const FIRST_WITH_TOPIC_IDS: i16 = 13;
const FIRST_WITH_LEADER_HINTS: i16 = 16;
/// Consumers of this version on may be served by followers (KIP-392).
const FIRST_FROM_FOLLOWERS: i16 = 11;
/// From this version on the first batch of a reply is returned whole, however large (KIP-74).
const FIRST_WITH_SOFT_LIMITS: i16 = 3;

/// About so many bytes of one reply are converted for an old consumer, shared by its partitions, each of which gets whole
/// batches or none: converted records are in memory until the consumer takes them, and it asks for the rest again.
const CONVERTED_BYTES_MAX: usize = 4 << 20;

/// One partition of the answer, in the making.
struct Answer {
    query: PartitionQuery,
    data: PartitionData,
}

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    mut request: FetchRequest,
) -> Result<FetchResponse, AnswerTooLong> {
    let version = context.api_version;
    let replica_id = if version >= 15 { request.replica_state.replica_id } else { request.replica_id };
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
    let uses_topic_ids = version >= FIRST_WITH_TOPIC_IDS;
    let names = Names { uses_topic_ids, image: &server.metadata.image() };
    let asked = request.topics.iter().map(|topic| topic.partitions.len());
    let forgotten = request.forgotten_topics_data.iter().map(|topic| topic.partitions.len());
    // A number in the request becomes much more than it was counted for when it was decoded.
    context.answer.count_request(asked.chain(forgotten).sum::<usize>().saturating_mul(size_of::<PartitionQuery>()));
    let rack = Some(std::mem::take(&mut request.rack_id)).filter(|rack| replica_id < 0 && !rack.is_empty());
    let query = FetchQuery {
        fetcher,
        reader: rack.map(|rack| Reader { rack, listener: context.listener().to_owned() }),
        min_bytes: usize::try_from(request.min_bytes).unwrap_or(0).min(bytes_max as usize),
        bytes_max,
        limits: if version >= FIRST_WITH_SOFT_LIMITS { LimitRule::Soft } else { LimitRule::Hard },
        partitions: names.asked(&request.topics),
    };
    let session = SessionRequest {
        session_id: request.session_id,
        session_epoch: request.session_epoch,
        uses_topic_ids,
        forgotten: names.forgotten(&request.forgotten_topics_data),
    };
    let max_wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let deadline = Instant::from_std(context.received) + max_wait;
    drop(request);
    let reply = server.replicas.fetch_in_session(&session, query, deadline, context.received).await;

    // Each has its place, whatever there is room for of what is converted.
    context.answer.charge(reply.answers.len().saturating_mul(size_of::<PartitionData>()))?;
    let mut answers = Vec::with_capacity(reply.answers.len());
    for (query, outcome) in reply.answers {
        context.pause().await;
        let data = match outcome {
            Ok(fetched) => partition_data(query.partition, fetched, fetcher),
            // It asks again, as it does when there is nothing new. A follower would take the bounds for those of now.
            Err(ReplicaError::DiskIsSilent) if matches!(fetcher, Fetcher::Consumer { .. }) => {
                let known = query.topic.as_ref();
                let bounds = known.and_then(|topic| server.replicas.last_bounds(topic, query.partition));
                let nothing = failed(query.partition, ErrorCode::None);
                match bounds {
                    Some(bounds) => PartitionData {
                        high_watermark: bounds.high_watermark.0,
                        last_stable_offset: bounds.last_stable_offset.0,
                        log_start_offset: bounds.log_start_offset.0,
                        ..nothing
                    },
                    None => nothing,
                }
            }
            Err(error) => failed(query.partition, (&error).into()),
        };
        answers.push(Answer { query, data });
    }
    if version < FIRST_WITH_ZSTD {
        convert_all(server, context, fetcher, &mut answers).await?;
    }
    let error_code = reply.refusal.map_or(ErrorCode::None, ErrorCode::from).code();
    let mut response = FetchResponse { error_code, session_id: reply.session_id, ..Default::default() };
    for mut answer in answers {
        context.pause().await;
        if version >= FIRST_WITH_LEADER_HINTS {
            add_leader_hint(server, context, &mut answer, &mut response.node_endpoints);
        }
        if version < FIRST_WITH_STORAGE_ERROR && answer.data.error_code == ErrorCode::KafkaStorageError.code() {
            answer.data.error_code = ErrorCode::NotLeaderOrFollower.code();
        }
        add(&mut response.responses, answer);
    }
    Ok(response)
}

pub(crate) fn params(partition: &FetchPartition) -> FetchParams {
    let epoch = |epoch: i32| (epoch >= 0).then_some(LeaderEpoch(epoch));
    FetchParams {
        fetch_offset: Offset(partition.fetch_offset),
        log_start_offset: Offset(partition.log_start_offset),
        bytes_max: partition.partition_max_bytes,
        current_leader_epoch: epoch(partition.current_leader_epoch),
        last_fetched_epoch: epoch(partition.last_fetched_epoch),
    }
}

/// Topics as a request names them, under the names that they have in one image of the cluster.
pub(crate) struct Names<'a> {
    pub uses_topic_ids: bool,
    pub image: &'a Image,
}

impl Names<'_> {
    fn topic(&self, name: &str, id: TopicId) -> (Option<Arc<str>>, TopicId) {
        if self.uses_topic_ids {
            (self.image.topic_name(id).cloned(), id)
        } else {
            (Some(Arc::from(name)), TopicId::ZERO)
        }
    }

    pub fn asked(&self, topics: &[FetchTopic]) -> Vec<PartitionQuery> {
        let mut asked = Vec::with_capacity(topics.iter().map(|topic| topic.partitions.len()).sum());
        for named in topics {
            let (topic, topic_id) = self.topic(&named.topic, named.topic_id);
            asked.extend(named.partitions.iter().map(|partition| PartitionQuery {
                topic: topic.clone(),
                partition: partition.partition,
                topic_id,
                params: params(partition),
            }));
        }
        asked
    }

    pub fn forgotten(&self, topics: &[ForgottenTopic]) -> Vec<PartitionQuery> {
        let mut forgotten = Vec::new();
        for named in topics {
            let (topic, topic_id) = self.topic(&named.topic, named.topic_id);
            forgotten.extend(named.partitions.iter().map(|&partition| PartitionQuery {
                topic: topic.clone(),
                partition,
                topic_id,
                params: params(&FetchPartition::default()),
            }));
        }
        forgotten
    }
}

/// What is said of a partition that was not read.
pub(crate) fn failed(partition: i32, error: ErrorCode) -> PartitionData {
    PartitionData {
        partition_index: partition,
        error_code: error.code(),
        high_watermark: -1,
        aborted_transactions: None,
        records: Some(Payload::Bytes(Bytes::new())),
        ..Default::default()
    }
}

pub(crate) fn partition_data(partition: i32, fetched: Fetched, fetcher: Fetcher) -> PartitionData {
    let mut data = PartitionData {
        partition_index: partition,
        high_watermark: fetched.bounds.high_watermark.0,
        last_stable_offset: fetched.bounds.last_stable_offset.0,
        log_start_offset: fetched.bounds.log_start_offset.0,
        // Only who reads committed records needs to know which were aborted.
        aborted_transactions: matches!(fetcher, Fetcher::Consumer { read_committed: true, .. }).then(Vec::new),
        ..Default::default()
    };
    if let Some(replica) = fetched.preferred_read_replica {
        data.preferred_read_replica = replica.0;
    }
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

fn add_leader_hint(server: &Server, context: &RequestContext, answer: &mut Answer, nodes: &mut Vec<NodeEndpoint>) {
    let error = ErrorCode::from_code(answer.data.error_code);
    let Some(topic) = &answer.query.topic else { return };
    if !matches!(error, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch) {
        return;
    }
    let hint = leader_hint(server, topic, answer.query.partition, context.listener());
    answer.data.current_leader = LeaderIdAndEpoch { leader_id: hint.leader.0, leader_epoch: hint.leader_epoch.0 };
    if let Some((endpoint, rack)) = hint.endpoint
        && !nodes.iter().any(|node| node.node_id == hint.leader.0)
    {
        nodes.push(NodeEndpoint { node_id: hint.leader.0, host: endpoint.host, port: endpoint.port, rack });
    }
}

/// What is converted of one reply.
struct Conversion {
    /// Of each partition.
    bytes_max: usize,
    /// So far.
    bytes: usize,
    /// What does not fit the answer any more is asked for again.
    is_full: bool,
}

/// Old consumers name their partitions in the same order each time, whatever they got of them: each reply begins with
/// another, so that there is room for each of them in time.
async fn convert_all(
    server: &Server,
    context: &RequestContext,
    fetcher: Fetcher,
    answers: &mut [Answer],
) -> Result<(), AnswerTooLong> {
    let with_records = answers.iter().filter(|answer| matches!(answer.data.records, Some(Payload::File(_)))).count();
    let bytes_max = CONVERTED_BYTES_MAX / with_records.max(1);
    let mut conversion = Conversion { bytes_max, bytes: 0, is_full: false };
    let (last, first) = answers.split_at_mut(rand::random_range(0..=answers.len()));
    for answer in first.iter_mut().chain(last) {
        context.pause().await;
        convert(server, context, fetcher, &mut conversion, answer).await?;
    }
    Ok(())
}

/// Turns records into what old clients understand. A topic's settings decide, not each batch: versions 0 and 1 get magic
/// 0, versions 2 and 3 magic 1, later ones whatever is in the log.
async fn convert(
    server: &Server,
    context: &RequestContext,
    fetcher: Fetcher,
    conversion: &mut Conversion,
    answer: &mut Answer,
) -> Result<(), AnswerTooLong> {
    let version = context.api_version;
    let partition = answer.query.partition;
    let Some(topic) = &answer.query.topic else { return Ok(()) };
    let (name, replicas) = (Arc::clone(topic), Arc::clone(&server.replicas));
    let look = move || {
        let log = replicas.partition(&name, partition).ok()?.log()?;
        let config = log.config();
        Some((log, config))
    };
    let looked = match server.replicas.is_held_up(topic, partition) {
        true => server.replicas.ask_disk(server.replicas.parent_dir(topic, partition), look).await,
        false => Some(look()),
    };
    // What nobody can tell yet is asked for again.
    let Some(found) = looked else {
        answer.data.records = Some(Payload::default());
        return Ok(());
    };
    let Some((log, config)) = found else { return Ok(()) };
    if matches!(config.compression, TopicCompression::Zstd { .. }) {
        answer.data = failed(partition, ErrorCode::UnsupportedCompressionType);
        return Ok(());
    }
    let log_format = config.message_format_version.highest_supported_magic();
    let to_magic = match version {
        0 | 1 if log_format > 0 => 0,
        2 | 3 if log_format > 1 => 1,
        _ => return Ok(()),
    };
    // Also where there is nothing to convert, or another error: the client learns at once that it is too old.
    if matches!(fetcher, Fetcher::Consumer { .. }) && !config.message_downconversion_enable {
        answer.data = failed(partition, ErrorCode::UnsupportedVersion);
        return Ok(());
    }
    let Some(Payload::File(region)) = &answer.data.records else { return Ok(()) };
    if conversion.is_full {
        answer.data.records = Some(Payload::default());
        return Ok(());
    }
    let (region, fetch_offset, bytes_max) = (region.clone(), answer.query.params.fetch_offset, conversion.bytes_max);
    let dir = log.parent_dir();
    let convert = move || down_converted(&log, &region, bytes_max, to_magic, fetch_offset);
    let converted = server.replicas.io().run_in(Some(&dir), convert).await;
    match converted {
        Ok(Ok(chunks)) => {
            let bytes = chunks.iter().map(Chunk::len).sum();
            match context.answer.charge(bytes) {
                Ok(()) => {
                    conversion.bytes += bytes;
                    conversion.is_full = conversion.bytes >= CONVERTED_BYTES_MAX;
                    answer.data.records = Some(Payload::Chunks(chunks));
                }
                Err(AnswerTooLong) if conversion.bytes > 0 => {
                    conversion.is_full = true;
                    answer.data.records = Some(Payload::default());
                }
                Err(too_long) => return Err(too_long),
            }
        }
        Ok(Err(error)) => answer.data = failed(partition, error),
        Err(why) => answer.data = failed(partition, ErrorCode::from(&ReplicaError::from(why))),
    }
    Ok(())
}

/// Reads the region as far as `bytes_max`, or its first batch, and converts that. Of what leaves nothing, as markers
/// and batches that compaction has emptied do, there may be any number: it looks behind them, twice as far each time.
/// Otherwise the consumer would hear that what is behind is too large for it.
fn down_converted(
    log: &Log,
    region: &FileRegion,
    bytes_max: usize,
    to_magic: u8,
    fetch_offset: Offset,
) -> Result<Vec<Chunk>, ErrorCode> {
    let read = |source: &mut [u8], position: u64| {
        log.observe_read(read_exact_at(&region.file, source, position)).map_err(|why| {
            warn!("read batches to convert them for an old consumer: {why}");
            ErrorCode::KafkaStorageError
        })
    };
    let convert = |from: usize, bytes_max: usize| {
        let (position, len) = (region.position + from as u64, region.len as usize - from);
        let mut source = vec![0; bytes_max.min(len)];
        read(&mut source, position)?;
        if let Ok(Some(first)) = BatchHeader::read(&source)
            && first.size_in_bytes > source.len()
        {
            let have = source.len();
            source.resize(first.size_in_bytes.min(len), 0);
            read(&mut source[have..], position + have as u64)?;
        }
        DownConversion::new(Bytes::from(source), to_magic, fetch_offset.0).map_err(|why| {
            if let ConvertError::Read(why) = &why {
                warn!("convert batches for an old consumer: {why}");
            }
            ErrorCode::from(&why)
        })
    };
    let (mut from, mut bytes_max) = (0, bytes_max.max(HEADER_BYTES_V2));
    let mut conversion = convert(from, bytes_max)?;
    while let Some(passed_over @ 1..) = conversion.passed_over() {
        from += passed_over;
        bytes_max = (2 * bytes_max).min(CONVERTED_BYTES_MAX);
        let next = convert(from, bytes_max)?;
        if next.passed_over() == Some(0) {
            break; // No whole batch is left.
        }
        conversion = next;
    }
    Ok(conversion.map(Chunk::Bytes).collect())
}

/// Neighbours of one topic share its entry, as in Kafka's answers.
fn add(topics: &mut Vec<FetchableTopicResponse>, answer: Answer) {
    let Answer { query, data } = answer;
    let (topic, topic_id) = (query.topic.as_deref().unwrap_or_default(), query.topic_id);
    match topics.last_mut() {
        Some(last) if last.topic == topic && last.topic_id == topic_id => last.partitions.push(data),
        _ => topics.push(FetchableTopicResponse { topic: topic.to_owned(), topic_id, partitions: vec![data] }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustix::io::Errno;

    use super::*;
    use crate::config::log::LogConfig;
    use crate::log::faults::{self, Op};
    use crate::log::testing::{OneLog, append, batch, marker, prepared_as};
    use crate::log::{FirstBatch, ReadUntil};
    use crate::record::append_rules::AppendOrigin;
    use crate::record::read;

    #[test]
    fn a_disk_from_which_nothing_can_be_read_to_convert_it_is_not_used_any_more() {
        let one = OneLog::new(LogConfig::default());
        let log = one.open_clean();
        append(&log, batch(&[1, 2], 50)).expect("appended");
        let read = log.read(Offset(0), 1 << 20, ReadUntil::LogEnd, FirstBatch::Whole).expect("readable");
        let region = read.region.expect("there are records");
        let convert = || down_converted(&log, &region, 1 << 20, 0, Offset(0)).map(|chunks| chunks.is_empty());
        assert_eq!(convert(), Ok(false));
        let broken = |op, _: &Path| if op == Op::Read { Err(Errno::IO.into()) } else { Ok(()) };
        let _fault = faults::below(one.root.path(), broken);
        assert_eq!(convert(), Err(ErrorCode::KafkaStorageError));
        assert!(one.parent.is_offline());
    }

    /// Source: kafka 3.9.0-rc3 LazyDownConversionRecords.java, whose iterator goes over the whole region.
    #[test]
    fn what_converts_is_found_behind_any_number_of_markers() {
        const TOO_LARGE: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 61];
        const ROOM: usize = 1000;
        for (markers, value_bytes) in [1, 2, 12, 13, 100].into_iter().flat_map(|count| [(count, 700), (count, 20_000)])
        {
            let case = format!("{value_bytes} bytes behind {markers} markers");
            let one = OneLog::new(LogConfig::default());
            let log = one.open_clean();
            log.follow(LeaderEpoch(0)).expect("the first epoch");
            for _ in 0..markers {
                let mut marker = prepared_as(marker(7, true, 1), AppendOrigin::Coordinator);
                log.append_as_leader(&mut marker, LeaderEpoch(0), AppendOrigin::Coordinator, 0).expect("appended");
            }
            for _ in 0..10 {
                append(&log, batch(&[1], value_bytes)).expect("appended");
            }
            let converted = |bytes_max: usize| {
                let bytes_max = u32::try_from(bytes_max).expect("small");
                let read = log.read(Offset(0), bytes_max, ReadUntil::LogEnd, FirstBatch::Cut).expect("readable");
                let region = read.region.expect("there are records");
                let chunks = down_converted(&log, &region, ROOM, 1, Offset(0)).expect("readable");
                let pieces = chunks.into_iter().map(|chunk| match chunk {
                    Chunk::Bytes(bytes) => bytes,
                    Chunk::File(_) => panic!("what is converted is in memory"),
                });
                let bytes = Bytes::from(pieces.collect::<Vec<_>>().concat());
                let offsets: Vec<i64> = read::records(&bytes).map(|record| record.expect("readable").offset).collect();
                (offsets, bytes)
            };
            let (marker_bytes, data_bytes) = (78 * markers, batch(&[1], value_bytes).build().len());
            let (offsets, bytes) = converted(1 << 20);
            assert_eq!(offsets.first(), Some(&(markers as i64)), "{case}");
            let held_at_most = data_bytes.max(2 * (ROOM + marker_bytes));
            assert!(bytes.len() <= held_at_most, "{case}: {} bytes are held", bytes.len());
            let (offsets, _) = converted(marker_bytes + data_bytes);
            assert_eq!(offsets, [markers as i64], "{case}, if it just fits");
            for too_few in [marker_bytes + data_bytes - 1, marker_bytes] {
                assert_eq!(converted(too_few), (Vec::new(), Bytes::from_static(TOO_LARGE)), "{case}, of {too_few}");
            }
        }
    }
}
