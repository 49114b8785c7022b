//! What transactional producers ask of their coordinator, once they have an id.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/KafkaApis.scala, TransactionCoordinator.scala.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::api::init_producer_id::next_id;
use crate::api::{RequestContext, Server};
use crate::coordinator::transaction::error::TransactionError;
use crate::coordinator::transaction::state::Producer;
use crate::coordinator::transaction::task::Adding;
use crate::coordinator::transaction::verifier::Unverified;
use crate::log::{Log, VerificationGuard};
use crate::metadata::image::Topic;
use crate::model::internal_topics::{GROUP_METADATA_TOPIC, TRANSACTION_STATE_TOPIC, is_internal_topic};
use crate::model::transaction_version::TransactionVersion;
use crate::model::{ProducerEpoch, ProducerId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::add_offsets_to_txn::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};
use crate::protocol::messages::add_partitions_to_txn::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, AddPartitionsToTxnResult,
    AddPartitionsToTxnTopicResult, AddPartitionsToTxnTransaction,
};
use crate::protocol::messages::end_txn::{EndTxnRequest, EndTxnResponse};
use crate::protocol::transaction_version::transaction_version;
use crate::record::build::TransactionOutcome;

/// From this version on brokers ask, not clients, for many transactions at once.
const FIRST_OF_BROKERS: i16 = 4;
/// Clients before it know a fenced producer by an older code.
const FIRST_WITH_PRODUCER_FENCED: i16 = 2;

/// Of AddPartitionsToTxn. Brokers before it know no transaction that can be aborted, and would tell their clients of an unknown
/// error, as they do where a JVM broker of 3.9 coordinates.
const FIRST_WITH_ABORTABLE: i16 = 5;

pub(super) fn producer(id: i64, epoch: i16) -> Producer {
    Producer { id: ProducerId(id), epoch: ProducerEpoch(epoch) }
}

/// Whoever does not know the code is told that its epoch is not valid, which comes to the same.
pub(super) fn code_of(outcome: Result<(), TransactionError>, knows_producer_fenced: bool) -> ErrorCode {
    match outcome.map_err(ErrorCode::from) {
        Ok(()) => ErrorCode::None,
        Err(ErrorCode::ProducerFenced) if !knows_producer_fenced => ErrorCode::InvalidProducerEpoch,
        Err(code) => code,
    }
}

/// What a producer is told that may not open its transaction. Old clients know no transaction that can be aborted.
fn unverified(why: Unverified, knows_abortable: bool) -> ErrorCode {
    let code = match why {
        Unverified::Refused(error) => ErrorCode::from(error),
        Unverified::Code(code) => code,
    };
    match code {
        ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
        ErrorCode::TransactionAbortable if !knows_abortable => ErrorCode::InvalidTxnState,
        code => code,
    }
}

/// Whether a log opens a transaction only once its coordinator has been asked.
pub(super) fn is_verified(server: &Server, version: TransactionVersion) -> bool {
    version.bumps_epoch() || server.config.load().transaction_partition_verification_enable()
}

/// What the coordinator has said of a transaction, for the log that would open it. Why it does not, if it does not.
pub(super) fn tell(
    log: &Log,
    guard: VerificationGuard,
    verdict: Result<TransactionVersion, Unverified>,
    knows_abortable: bool,
) -> Result<(), ErrorCode> {
    let code = match verdict {
        Ok(version) => {
            log.transaction_verified(guard, version);
            return Ok(());
        }
        Err(why) => unverified(why, knows_abortable),
    };
    if matches!(code, ErrorCode::InvalidProducerEpoch | ErrorCode::InvalidProducerIdMapping) {
        log.transaction_refused(guard);
    }
    Err(code)
}

pub(crate) async fn end(server: &Server, context: &RequestContext, request: EndTxnRequest) -> EndTxnResponse {
    let outcome = match request.committed {
        true => TransactionOutcome::Commit,
        false => TransactionOutcome::Abort,
    };
    let producer = producer(request.producer_id, request.producer_epoch);
    let version = transaction_version::<EndTxnRequest>(context.api_version);
    let transactional_id = &request.transactional_id;
    let ended = server.transactions.end(transactional_id, producer, outcome, version, || next_id(server)).await;
    // The first versions have no place for who the producer is then: the same as before.
    let Producer { id, epoch } = ended.unwrap_or(Producer::NONE);
    let code = code_of(ended.map(|_| ()), context.api_version >= FIRST_WITH_PRODUCER_FENCED);
    EndTxnResponse { error_code: code.code(), producer_id: id.0, producer_epoch: epoch.0, ..Default::default() }
}

/// The partition that has the offsets of the group is added.
pub(crate) async fn add_offsets(
    server: &Server,
    context: &RequestContext,
    request: AddOffsetsToTxnRequest,
) -> AddOffsetsToTxnResponse {
    let name = server.metadata.image().shared_name(GROUP_METADATA_TOPIC);
    let partition = TopicPartition::new(name, server.groups.partition_for(&request.group_id));
    let producer = producer(request.producer_id, request.producer_epoch);
    let version = transaction_version::<AddOffsetsToTxnRequest>(context.api_version);
    let added = server.transactions.add_partitions(&request.transactional_id, producer, vec![partition], version).await;
    let code = code_of(added, context.api_version >= FIRST_WITH_PRODUCER_FENCED);
    AddOffsetsToTxnResponse { error_code: code.code(), ..Default::default() }
}

pub(crate) async fn add_partitions(
    server: &Server,
    context: &RequestContext,
    request: AddPartitionsToTxnRequest,
) -> AddPartitionsToTxnResponse {
    if context.api_version < FIRST_OF_BROKERS {
        let transaction = AddPartitionsToTxnTransaction {
            transactional_id: request.v3_and_below_transactional_id,
            producer_id: request.v3_and_below_producer_id,
            producer_epoch: request.v3_and_below_producer_epoch,
            verify_only: false,
            topics: request.v3_and_below_topics,
        };
        let results_by_topic_v3_and_below = ask(server, context, &transaction).await.answer(context).await;
        return AddPartitionsToTxnResponse { results_by_topic_v3_and_below, ..Default::default() };
    }
    // Each waits for the replicas of its own record: all are asked for before any is waited for.
    let mut asked = Vec::with_capacity(request.transactions.len());
    for transaction in &request.transactions {
        context.pause().await;
        asked.push(ask(server, context, transaction).await);
    }
    let mut results_by_transaction = Vec::with_capacity(asked.len());
    for (transaction, asked) in request.transactions.iter().zip(asked) {
        context.pause().await;
        let (transactional_id, topic_results) = (transaction.transactional_id.clone(), asked.answer(context).await);
        results_by_transaction.push(AddPartitionsToTxnResult { transactional_id, topic_results });
    }
    AddPartitionsToTxnResponse { results_by_transaction, ..Default::default() }
}

/// A topic that a transaction names, with its partitions, once each. A name may be as long as 32,767 bytes and a partition
/// as short as four: names are not looked at for each.
struct Named<'a> {
    name: &'a str,
    known: Option<Arc<Topic>>,
    partitions: BTreeSet<i32>,
}

impl Named<'_> {
    fn refusal(&self, partition: i32, is_of_client: bool) -> Option<ErrorCode> {
        // A marker says nothing to a coordinator that reads its log, and those of JVM brokers read no further.
        if self.name == TRANSACTION_STATE_TOPIC || (is_of_client && is_internal_topic(self.name)) {
            Some(ErrorCode::TopicAuthorizationFailed)
        } else if self.known.as_ref().is_none_or(|known| known.partition(partition).is_none()) {
            Some(ErrorCode::UnknownTopicOrPartition)
        } else {
            None
        }
    }
}

/// A transaction of a request: all its partitions are added, or none.
enum Asked<'a> {
    Answered(Vec<AddPartitionsToTxnTopicResult>),
    Adding(Vec<Named<'a>>, Adding),
}

impl Asked<'_> {
    async fn answer(self, context: &RequestContext) -> Vec<AddPartitionsToTxnTopicResult> {
        match self {
            Asked::Answered(answer) => answer,
            Asked::Adding(topics, adding) => {
                let code = code_of(adding.answer().await, context.api_version >= FIRST_WITH_PRODUCER_FENCED);
                results(&topics, |_, _| code)
            }
        }
    }
}

async fn ask<'a>(
    server: &Server,
    context: &RequestContext,
    transaction: &'a AddPartitionsToTxnTransaction,
) -> Asked<'a> {
    let image = server.metadata.image();
    let mut named: BTreeMap<&str, BTreeSet<i32>> = BTreeMap::new();
    for topic in &transaction.topics {
        let partitions = named.entry(&topic.name).or_default();
        for &partition in &topic.partitions {
            if context.pause().await {
                // Nobody is there to be answered, and some would be worse than none.
                return Asked::Answered(Vec::new());
            }
            partitions.insert(partition);
        }
    }
    let topic = |(name, partitions)| Named { name, known: image.topic(name).cloned(), partitions };
    let topics: Vec<Named<'a>> = named.into_iter().map(topic).collect();
    let is_of_client = context.api_version < FIRST_OF_BROKERS;
    let mut each = topics.iter().flat_map(|topic| topic.partitions.iter().map(move |partition| (topic, *partition)));
    if each.any(|(topic, partition)| topic.refusal(partition, is_of_client).is_some()) {
        return Asked::Answered(results(&topics, |topic, partition| {
            topic.refusal(partition, is_of_client).unwrap_or(ErrorCode::OperationNotAttempted)
        }));
    }
    let asked = topics.iter().flat_map(|topic| topic.known.iter().map(move |known| (known, &topic.partitions)));
    let asked: Vec<TopicPartition> = asked
        .flat_map(|(known, partitions)| {
            partitions.iter().map(|partition| TopicPartition::new(Arc::clone(&known.name), *partition))
        })
        .collect();
    let producer = producer(transaction.producer_id, transaction.producer_epoch);
    let transactional_id = &transaction.transactional_id;
    if transaction.verify_only {
        let verified = server.transactions.verify(transactional_id, producer, &asked);
        let mut open = verified.as_deref().unwrap_or_default().iter();
        let knows_abortable = context.api_version >= FIRST_WITH_ABORTABLE;
        let unopened = unverified(Unverified::Refused(TransactionError::TransactionAbortable), knows_abortable);
        return Asked::Answered(results(&topics, |_, _| match (&verified, open.next()) {
            (Err(error), _) => ErrorCode::from(*error),
            (Ok(_), Some(true)) => ErrorCode::None,
            (Ok(_), _) => unopened,
        }));
    }
    let version = transaction_version::<AddPartitionsToTxnRequest>(context.api_version);
    Asked::Adding(topics, server.transactions.ask_to_add(transactional_id, producer, asked, version))
}

fn results(
    topics: &[Named<'_>],
    mut code_of: impl FnMut(&Named<'_>, i32) -> ErrorCode,
) -> Vec<AddPartitionsToTxnTopicResult> {
    let named = topics.iter().filter(|topic| !topic.partitions.is_empty());
    named
        .map(|topic| {
            let result = |&partition_index: &i32| AddPartitionsToTxnPartitionResult {
                partition_index,
                partition_error_code: code_of(topic, partition_index).code(),
            };
            let results_by_partition = topic.partitions.iter().map(result).collect();
            AddPartitionsToTxnTopicResult { name: topic.name.to_owned(), results_by_partition }
        })
        .collect()
}
