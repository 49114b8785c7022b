//! Produce, all versions. Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/KafkaApis.scala (handleProduceRequest)
//! and ReplicaManager.scala (appendRecords).
//!
//! All appends happen before the first wait, in the order of the request; what waits is the acknowledgement. A produce that
//! starts while earlier ones of its connection wait is refused nothing yet that may be otherwise in its turn, which is when
//! a JVM broker looks at it: a client that hears late of a refusal sends the next batches meanwhile, and the broker, which by
//! then may lead, would find a gap before them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{Duration, Instant};

use crate::api::leader_hint::leader_hint;
use crate::api::table::SLICE_BYTES;
use crate::api::topic_numbers::TopicNumbers;
use crate::api::transactions::{is_verified, producer, tell};
use crate::api::{Handled, RequestContext, Server};
use crate::log::error::LogError;
use crate::log::{AppendInfo, Log, VerificationGuard};
use crate::model::internal_topics::{TRANSACTION_STATE_TOPIC, is_internal_topic};
use crate::model::transaction_version::TransactionVersion;
use crate::model::{ProducerEpoch, ProducerId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::message::Payload;
use crate::protocol::messages::produce::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceData, PartitionProduceResponse,
    ProduceRequest, ProduceResponse, TopicProduceData, TopicProduceResponse,
};
use crate::protocol::transaction_version::transaction_version;
use crate::record::append_rules::{AcceptedSets, AppendOrigin};
use crate::record::batch::{BatchHeader, Batches};
use crate::replica::error::ReplicaError;
use crate::replica::partition::{AppendTerms, Appended, RequiredAcks};
use crate::replica::replica_manager::ReplicaManager;
use crate::replica::waiters::Commit;

/// The one client that may write to internal topics, by the name it gives itself.
const ADMIN_CLIENT_ID: &str = "__admin_client";
const FIRST_WITH_LEADER_HINTS: i16 = 10;
const FIRST_WITH_ABORTABLE: i16 = 11;
/// An append takes microseconds, and there is no pause between those of one request.
const PARTITIONS_A_SLICE: usize = 500;

/// Appended, and not yet what the producer asked for.
pub(super) struct Unacknowledged {
    acks: i16,
    timeout_ms: i32,
    deadline: Instant,
    response: ProduceResponse,
    /// With the places of topic and partition in the response.
    commits: Vec<(usize, usize, Commit)>,
    /// What is asked again in its turn, or for the first time where a disk does not keep up.
    again: Option<Box<Again>>,
}

struct Again {
    transactional_id: Option<String>,
    /// With the places of topic and partition in the response.
    partitions: Vec<(usize, usize, PartitionProduceData)>,
}

impl Unacknowledged {
    pub(super) fn is_asked_again(&self) -> bool {
        self.again.is_some()
    }

    pub(super) async fn acknowledged(self, server: &Server, context: &RequestContext) -> Handled<ProduceResponse> {
        let Unacknowledged { acks, timeout_ms, mut deadline, mut response, mut commits, again } = self;
        if let Some(again) = again
            && let Again { transactional_id, partitions: again } = *again
            && let Some(terms) = terms(server, acks, context.api_version, transactional_id.is_some())
        {
            let unverified = verify(server, context, transactional_id.as_deref(), &response, &again).await;
            let is_held_up = |(topic, partition, data): &(usize, usize, PartitionProduceData)| {
                !unverified.contains_key(&(*topic, *partition))
                    && server.replicas.is_held_up(&response.responses[*topic].name, data.index)
            };
            let (held_up, again): (Vec<_>, Vec<_>) = again.into_iter().partition(is_held_up);
            if !held_up.is_empty() {
                let has_id = transactional_id.is_some();
                for (topic, partition, outcome) in
                    append_held_up(server, &response, held_up, terms, has_id, context.now_ms).await
                {
                    let TopicProduceResponse { name, partition_responses } = &mut response.responses[topic];
                    let answer = &mut partition_responses[partition];
                    *answer = match outcome {
                        Ok(Appended { info, commit, .. }) => {
                            commits.extend(commit.map(|commit| (topic, partition, commit)));
                            appended(answer.index, &info)
                        }
                        Err(refusal) => refused(name, answer.index, refusal),
                    };
                }
            }
            let is_long = again.len() > PARTITIONS_A_SLICE;
            let append_all = || {
                for (topic, partition, data) in again {
                    let TopicProduceResponse { name, partition_responses } = &mut response.responses[topic];
                    let index = data.index;
                    let outcome = match unverified.get(&(topic, partition)) {
                        Some(why) => Err(Refusal::unverified(*why, context.api_version)),
                        None => {
                            let turn = Turn::Own(transactional_id.is_some());
                            append(server, name, data, terms, turn, context)
                        }
                    };
                    partition_responses[partition] = match outcome {
                        Ok(Appended { info, commit, .. }) => {
                            commits.extend(commit.map(|commit| (topic, partition, commit)));
                            appended(index, &info)
                        }
                        Err(refusal) => refused(name, index, refusal),
                    };
                }
            };
            server.long_work.run_now(is_long, append_all);
            deadline = deadline_of(timeout_ms);
        }
        for (topic, partition, commit) in commits {
            if let Err(why) = commit.wait(deadline).await {
                let TopicProduceResponse { name, partition_responses } = &mut response.responses[topic];
                let answer = &mut partition_responses[partition];
                *answer = refused(name, answer.index, Refusal::Replica(why.into()));
            }
        }
        finish(server, context, acks, response)
    }
}

fn terms(server: &Server, acks: i16, api_version: i16, has_transactional_id: bool) -> Option<AppendTerms> {
    let required_acks = match acks {
        0 => RequiredAcks::None,
        1 => RequiredAcks::Leader,
        -1 => RequiredAcks::AllInSync,
        _ => return None,
    };
    Some(AppendTerms {
        accepted_sets: accepted_sets(api_version),
        origin: match has_transactional_id && is_verified(server, transaction_version::<ProduceRequest>(api_version)) {
            true => AppendOrigin::VerifiedClient,
            false => AppendOrigin::Client,
        },
        required_acks,
        expected_leader_epoch: None,
    })
}

/// Appends all. What has to wait, for its acknowledgement or for its turn, comes back as the error.
pub(super) fn start(
    server: &Server,
    context: &RequestContext,
    mut request: ProduceRequest,
    is_early: bool,
) -> Result<Handled<ProduceResponse>, Unacknowledged> {
    let is_long = context.answer.taken() > SLICE_BYTES;
    let count = server.long_work.run_now(is_long, || keep_last_of_each(&mut request.topic_data));
    let (acks, timeout_ms) = (request.acks, request.timeout_ms);
    let transactional_id = request.transactional_id.take();
    let terms = terms(server, acks, context.api_version, transactional_id.is_some());
    let mut commits: Vec<(usize, usize, Commit)> = Vec::new();
    let mut again: Vec<(usize, usize, PartitionProduceData)> = Vec::new();
    let mut response = ProduceResponse::default();
    response.responses.reserve_exact(request.topic_data.len());
    let append_all = || {
        for topic in request.topic_data {
            // Nobody writes to the topic of transactions in one: it would be added to them.
            let may_write = context.client_id == ADMIN_CLIENT_ID
                && !(topic.name == TRANSACTION_STATE_TOPIC && transactional_id.is_some());
            let is_refused = is_internal_topic(&topic.name) && !may_write;
            let mut answers = Vec::with_capacity(topic.partition_data.len());
            for data in topic.partition_data {
                let index = data.index;
                if terms.is_some() && !is_refused && server.replicas.is_held_up(&topic.name, index) {
                    again.push((response.responses.len(), answers.len(), data));
                    answers.push(PartitionProduceResponse { index, ..Default::default() });
                    continue;
                }
                let kept = (is_early || transactional_id.is_some()).then(|| data.clone());
                let outcome = match terms {
                    None => Err(Refusal::Code(ErrorCode::InvalidRequiredAcks)),
                    Some(_) if is_refused => Err(Refusal::Code(ErrorCode::InvalidTopicException)),
                    Some(terms) => {
                        append(server, &topic.name, data, terms, Turn::First(transactional_id.is_some()), context)
                    }
                };
                match outcome {
                    Ok(Appended { info, commit, .. }) => {
                        if let Some(commit) = commit {
                            commits.push((response.responses.len(), answers.len(), commit));
                        }
                        answers.push(appended(index, &info));
                    }
                    Err(refusal) => {
                        let is_again = refusal.is_unasked() || (is_early && refusal.may_pass());
                        if let Some(data) = kept.filter(|_| is_again) {
                            again.push((response.responses.len(), answers.len(), data));
                        }
                        answers.push(refused(&topic.name, index, refusal));
                    }
                }
            }
            response.responses.push(TopicProduceResponse { name: topic.name, partition_responses: answers });
        }
    };
    server.long_work.run_now(count > PARTITIONS_A_SLICE, append_all);
    if commits.is_empty() && again.is_empty() {
        return Ok(finish(server, context, acks, response));
    }
    let deadline = deadline_of(timeout_ms);
    let again = (!again.is_empty()).then(|| Box::new(Again { transactional_id, partitions: again }));
    Err(Unacknowledged { acks, timeout_ms, deadline, response, commits, again })
}

fn deadline_of(timeout_ms: i32) -> Instant {
    Instant::now() + Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0))
}

fn finish(
    server: &Server,
    context: &RequestContext,
    acks: i16,
    mut response: ProduceResponse,
) -> Handled<ProduceResponse> {
    let failed = response.responses.iter().flat_map(|topic| &topic.partition_responses).any(|p| p.error_code != 0);
    if acks == 0 {
        // The producer expects no answer; that something failed it can only learn from a closed connection.
        return if failed { Handled::Close } else { Handled::Nothing };
    }
    if failed && context.api_version >= FIRST_WITH_LEADER_HINTS {
        add_leader_hints(server, context, &mut response);
    }
    Handled::Reply(response)
}

/// Of a partition that a request names twice the last counts: a request is a map to Kafka (handleProduceRequest). How
/// many there are.
fn keep_last_of_each(topics: &mut Vec<TopicProduceData>) -> usize {
    let count: usize = topics.iter().map(|topic| topic.partition_data.len()).sum();
    if count < 2 {
        return count;
    }
    let mut numbers = TopicNumbers::default();
    let numbers: Vec<u32> = topics.iter().map(|topic| numbers.of(&topic.name)).collect();
    let mut named = HashSet::with_capacity(count);
    let numbered = topics.iter().zip(&numbers);
    let mut each =
        numbered.flat_map(|(topic, number)| topic.partition_data.iter().map(move |data| (*number, data.index)));
    if each.all(|partition| named.insert(partition)) {
        return count;
    }
    let mut later: HashSet<(u32, i32)> = HashSet::new();
    for (topic, number) in topics.iter_mut().zip(numbers).rev() {
        topic.partition_data.reverse();
        topic.partition_data.retain(|data| later.insert((number, data.index)));
        topic.partition_data.reverse();
    }
    topics.retain(|topic| !topic.partition_data.is_empty());
    later.len()
}

pub(super) fn accepted_sets(api_version: i16) -> AcceptedSets {
    match api_version {
        ..=2 => AcceptedSets::Any,
        3..=6 => AcceptedSets::OneV2BatchWithoutZstd,
        _ => AcceptedSets::OneV2Batch,
    }
}

/// Why one partition's records were not appended, or not acknowledged.
enum Refusal {
    Code(ErrorCode),
    /// It would open a transaction of which the coordinator has not been asked.
    Unasked,
    /// The coordinator does not confirm the transaction.
    Unverified(ErrorCode),
    Replica(ReplicaError),
}

/// When a partition is looked at, by a request that names a transactional id or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    First(bool),
    /// Its coordinator has been asked.
    Own(bool),
}

impl Refusal {
    fn unverified(code: ErrorCode, api_version: i16) -> Refusal {
        match code {
            // Who adds partitions by writing to them knows that the transaction before may have to end first.
            ErrorCode::ConcurrentTransactions if transaction_version::<ProduceRequest>(api_version).bumps_epoch() => {
                Refusal::Code(code)
            }
            code => Refusal::Unverified(code),
        }
    }

    fn is_unasked(&self) -> bool {
        matches!(self, Refusal::Unasked)
    }

    /// It is about who leads, who is in sync, or what came before.
    fn may_pass(&self) -> bool {
        matches!(
            self,
            Refusal::Replica(
                ReplicaError::UnknownTopicOrPartition
                    | ReplicaError::NotLeaderOrFollower
                    | ReplicaError::NotEnoughReplicas { .. }
                    | ReplicaError::Log(LogError::OutOfOrderSequence { .. })
            )
        )
    }
}

fn append(
    server: &Server,
    topic: &str,
    data: PartitionProduceData,
    terms: AppendTerms,
    turn: Turn,
    context: &RequestContext,
) -> Result<Appended, Refusal> {
    let index = data.index;
    let records = records_of(data);
    if let Some(batch) = transactional(&records) {
        let (Turn::First(has_id) | Turn::Own(has_id)) = turn;
        if !has_id {
            // Whose transaction it is nobody says.
            return Err(Refusal::Code(ErrorCode::TransactionalIdAuthorizationFailed));
        }
        let is_verified = terms.origin == AppendOrigin::VerifiedClient;
        let version = transaction_version::<ProduceRequest>(context.api_version);
        if is_verified
            && turn == Turn::First(true)
            && opens(&server.replicas, topic, index, &batch, version, context.now_ms).is_some()
        {
            return Err(Refusal::Unasked);
        }
    }
    server.replicas.append(topic, index, records, terms, context.now_ms).map_err(Refusal::Replica)
}

/// Appends in their turn what waits for a disk. Each with its place.
async fn append_held_up(
    server: &Server,
    response: &ProduceResponse,
    held_up: Vec<(usize, usize, PartitionProduceData)>,
    terms: AppendTerms,
    has_transactional_id: bool,
    now_ms: i64,
) -> Vec<(usize, usize, Result<Appended, Refusal>)> {
    let (mut refused, mut places, mut appends) = (Vec::new(), Vec::new(), Vec::new());
    for (topic, partition, data) in held_up {
        let index = data.index;
        let records = records_of(data);
        if !has_transactional_id && transactional(&records).is_some() {
            // Whose transaction it is nobody says.
            let why = Refusal::Code(ErrorCode::TransactionalIdAuthorizationFailed);
            refused.push((topic, partition, Err(why)));
            continue;
        }
        places.push((topic, partition));
        appends.push((Arc::from(response.responses[topic].name.as_str()), index, records));
    }
    let outcomes = server.replicas.append_held_up(appends, terms, now_ms).await;
    let outcomes = outcomes.unwrap_or_else(|why| places.iter().map(|_| Err(why.into())).collect());
    let appended = places.into_iter().zip(outcomes);
    let appended = appended.map(|((topic, partition), outcome)| (topic, partition, outcome.map_err(Refusal::Replica)));
    refused.into_iter().chain(appended).collect()
}

fn records_of(data: PartitionProduceData) -> Bytes {
    match data.records {
        Some(Payload::Bytes(records)) => records,
        // A request is never decoded to anything but bytes; no records at all are none.
        Some(Payload::File(_) | Payload::Chunks(_)) | None => Bytes::new(),
    }
}

/// The first batch of a transaction. Requests before version 3 may carry several batches.
fn transactional(records: &[u8]) -> Option<BatchHeader> {
    Batches::new(records).flatten().map(|batch| batch.header).find(|header| header.is_transactional)
}

/// The log of the partition, if the batch would open a transaction there.
fn opens(
    replicas: &ReplicaManager,
    topic: &str,
    partition: i32,
    batch: &BatchHeader,
    version: TransactionVersion,
    now_ms: i64,
) -> Option<(Arc<Log>, VerificationGuard)> {
    // Who has no log, or does not lead, refuses the batch for that.
    let log = replicas.partition(topic, partition).ok()?.leader_log(None).ok()?;
    let (id, epoch) = (ProducerId(batch.producer_id), ProducerEpoch(batch.producer_epoch));
    let guard = log.begin_verification(id, epoch, batch.base_sequence, version, now_ms)?;
    Some((log, guard))
}

/// Asks the coordinator about all that would open a transaction, and tells the logs. Why others may not, by their places.
async fn verify(
    server: &Server,
    context: &RequestContext,
    transactional_id: Option<&str>,
    response: &ProduceResponse,
    again: &[(usize, usize, PartitionProduceData)],
) -> HashMap<(usize, usize), ErrorCode> {
    let mut refused = HashMap::new();
    let Some(transactional_id) = transactional_id else { return refused };
    let version = transaction_version::<ProduceRequest>(context.api_version);
    if !is_verified(server, version) {
        return refused;
    }
    let image = server.metadata.image();
    let mut opening = Vec::new();
    for (topic, partition, data) in again {
        let Some(Payload::Bytes(records)) = &data.records else { continue };
        let Some(batch) = transactional(records) else { continue };
        let producer = producer(batch.producer_id, batch.producer_epoch);
        let tp = TopicPartition::new(image.shared_name(&response.responses[*topic].name), data.index);
        let (name, index, now_ms) = (tp.clone(), data.index, context.now_ms);
        let look = move |replicas: &Arc<ReplicaManager>| opens(replicas, &name.topic, index, &batch, version, now_ms);
        if let Ok(Some((log, guard))) = server.replicas.at(&tp.topic, index, look).await {
            opening.push(((*topic, *partition), producer, tp, log, guard));
        }
    }
    let Some((_, producer, ..)) = opening.first() else { return refused };
    let producer = *producer;
    if opening.iter().any(|(_, other, ..)| *other != producer) {
        refused.extend(opening.into_iter().map(|(place, ..)| (place, ErrorCode::InvalidProducerIdMapping)));
        return refused;
    }
    let partitions: Vec<TopicPartition> = opening.iter().map(|(_, _, partition, ..)| partition.clone()).collect();
    let verdicts = server.verifier.verify(transactional_id, producer, version, &partitions).await;
    let knows_abortable = context.api_version >= FIRST_WITH_ABORTABLE;
    for ((place, _, tp, log, guard), verdict) in opening.into_iter().zip(verdicts) {
        let tell = move |_: &Arc<ReplicaManager>| tell(&log, guard, verdict, knows_abortable);
        // Without a thread the broker is shutting down, and appends nothing more.
        if let Ok(Err(why)) = server.replicas.at(&tp.topic, tp.partition, tell).await {
            refused.insert(place, why);
        }
    }
    refused
}

fn appended(index: i32, info: &AppendInfo) -> PartitionProduceResponse {
    PartitionProduceResponse {
        index,
        base_offset: info.first_offset.0,
        log_append_time_ms: info.log_append_time_ms,
        log_start_offset: info.log_start_offset.0,
        ..Default::default()
    }
}

fn refused(topic: &str, index: i32, refusal: Refusal) -> PartitionProduceResponse {
    let mut answer = PartitionProduceResponse { index, base_offset: -1, ..Default::default() };
    match refusal {
        Refusal::Code(code) => answer.error_code = code.code(),
        // It is never told: whoever was not asked is asked in its turn.
        Refusal::Unasked => answer.error_code = ErrorCode::InvalidTxnState.code(),
        // Old clients would not ask again for what these say.
        Refusal::Unverified(
            code @ (ErrorCode::ConcurrentTransactions
            // Another partition of the request is one that the coordinator has not heard of yet.
            | ErrorCode::OperationNotAttempted
            | ErrorCode::NetworkException
            | ErrorCode::CoordinatorLoadInProgress
            | ErrorCode::CoordinatorNotAvailable
            | ErrorCode::NotCoordinator),
        ) => {
            answer.error_code = ErrorCode::NotEnoughReplicas.code();
            let what = "Unable to verify the partition has been added to the transaction. Underlying error:";
            answer.error_message = Some(format!("{what} {code}"));
        }
        Refusal::Unverified(code) => {
            answer.error_code = code.code();
            let what = "Partition was not added to the transaction";
            answer.error_message = (code == ErrorCode::InvalidTxnState).then(|| what.to_owned());
        }
        Refusal::Replica(error) => {
            answer.error_code = ErrorCode::from(&error).code();
            if let ReplicaError::Records(records) = &error {
                answer.error_message = records.message(topic, index);
                answer.record_errors = records
                    .rejected_records()
                    .iter()
                    .map(|rejected| BatchIndexAndErrorMessage {
                        batch_index: rejected.batch_index,
                        batch_index_error_message: Some(rejected.message(topic, index)),
                    })
                    .collect();
            }
        }
    }
    answer
}

/// Tells the client who leads instead, so that it need not ask (KIP-951).
fn add_leader_hints(server: &Server, context: &RequestContext, response: &mut ProduceResponse) {
    for topic in &mut response.responses {
        for answer in &mut topic.partition_responses {
            if answer.error_code != ErrorCode::NotLeaderOrFollower.code() {
                continue;
            }
            let hint = leader_hint(server, &topic.name, answer.index, context.listener());
            answer.current_leader = LeaderIdAndEpoch { leader_id: hint.leader.0, leader_epoch: hint.leader_epoch.0 };
            if let Some((endpoint, rack)) = hint.endpoint
                && !response.node_endpoints.iter().any(|node| node.node_id == hint.leader.0)
            {
                response.node_endpoints.push(NodeEndpoint {
                    node_id: hint.leader.0,
                    host: endpoint.host,
                    port: endpoint.port,
                    rack,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::build::BatchBuilder;
    use crate::record::error::{RecordError, RejectedRecord, Rejection};

    /// Source: kafka 3.9.0-rc3 LogValidator.java and ReplicaManager.scala (appendToLocalLog).
    #[test]
    fn what_is_wrong_with_single_records_is_told_in_kafkas_words_and_of_a_whole_batch_only_the_error() {
        let answer = |error| refused("t", 3, Refusal::Replica(ReplicaError::Records(error)));
        let rejected = |batch_index| RejectedRecord { batch_index, why: Rejection::NoKey };
        let told = answer(RecordError::InvalidRecords((0..4).map(rejected).collect()));
        let words = "Compacted topic cannot accept message without key in topic partition t-3";
        let first = |index| format!("RecordError(batchIndex={index}, message='{words}')");
        let all = "One or more records have been rejected due to 4 record errors in total, and only showing the first three \
                   errors at most:";
        assert_eq!(told.error_code, ErrorCode::InvalidRecord.code());
        assert_eq!(told.error_message, Some(format!("{all} [{}, {}, {}]", first(0), first(1), first(2))));
        assert_eq!(told.record_errors.len(), 4);
        assert_eq!(told.record_errors[3].batch_index_error_message.as_deref(), Some(words));
        let told = answer(RecordError::InvalidTimestamps(vec![rejected(0)]));
        let words = "One or more records have been rejected due to invalid timestamp";
        assert_eq!(told.error_message.as_deref(), Some(words));
        for whole in [
            RecordError::BatchTooLarge { size: 2, max: 1 },
            RecordError::CrcMismatch { stored: 1, computed: 2 },
            RecordError::ZstdNotAllowed,
            RecordError::UnsupportedForLogFormat { magic: 1 },
            RecordError::InvalidBatch("no batch"),
        ] {
            assert_eq!(answer(whole).error_message, None);
        }
    }

    #[test]
    fn of_a_partition_that_is_named_twice_the_last_counts() {
        let data = |index, records: &'static [u8]| PartitionProduceData {
            index,
            records: Some(Payload::Bytes(Bytes::from_static(records))),
        };
        let topic = |name: &str, partition_data| TopicProduceData { name: name.to_owned(), partition_data };
        let mut topics = vec![
            topic("a", vec![data(0, b"1"), data(1, b"2"), data(0, b"3")]),
            topic("b", vec![data(0, b"4")]),
            topic("a", vec![data(1, b"5"), data(2, b"6")]),
            topic("b", vec![data(0, b"7")]),
        ];
        assert_eq!(keep_last_of_each(&mut topics), 4);
        let expected = vec![
            topic("a", vec![data(0, b"3")]),
            topic("a", vec![data(1, b"5"), data(2, b"6")]),
            topic("b", vec![data(0, b"7")]),
        ];
        assert_eq!(topics, expected);
    }

    #[test]
    fn a_transactional_batch_is_found_behind_others() {
        let mut builder = BatchBuilder::new();
        builder.append(0, None, Some(b"v"), &[]);
        let plain = builder.build().to_vec();
        let mut transactional = plain.clone();
        // Bit 4 of the attributes, which follow base offset, length, leader epoch, magic and crc.
        transactional[22] |= 0x10;
        assert!(super::transactional(&[plain.clone(), plain.clone()].concat()).is_none());
        assert!(super::transactional(&[plain, transactional].concat()).is_some());
    }
}
