//! What transactional producers ask of their coordinator, once they have an id.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/KafkaApis.scala, TransactionCoordinator.scala.

use std::collections::BTreeSet;

use crate::api::init_producer_id::next_id;
use crate::api::{RequestContext, Server};
use crate::coordinator::transaction::error::TransactionError;
use crate::coordinator::transaction::state::Producer;
use crate::coordinator::transaction::verifier::Unverified;
use crate::log::{Log, VerificationGuard};
use crate::metadata::image::Image;
use crate::model::internal_topics::{GROUP_METADATA_TOPIC, is_internal_topic};
use crate::model::transaction_version::TransactionVersion;
use crate::model::{ProducerEpoch, ProducerId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::add_offsets_to_txn::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};
use crate::protocol::messages::add_partitions_to_txn::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, AddPartitionsToTxnResult,
    AddPartitionsToTxnTopic, AddPartitionsToTxnTopicResult, AddPartitionsToTxnTransaction,
};
use crate::protocol::messages::end_txn::{EndTxnRequest, EndTxnResponse};
use crate::protocol::transaction_version::transaction_version;
use crate::record::build::TransactionOutcome;

/// From this version on brokers ask, not clients, for many transactions at once.
const FIRST_OF_BROKERS: i16 = 4;
/// Clients before it know a fenced producer by an older code.
const FIRST_WITH_PRODUCER_FENCED: i16 = 2;

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
        let results_by_topic_v3_and_below = added(server, context, &transaction).await;
        return AddPartitionsToTxnResponse { results_by_topic_v3_and_below, ..Default::default() };
    }
    let mut results_by_transaction = Vec::with_capacity(request.transactions.len());
    for transaction in request.transactions {
        context.pause().await;
        let topic_results = added(server, context, &transaction).await;
        let transactional_id = transaction.transactional_id;
        results_by_transaction.push(AddPartitionsToTxnResult { transactional_id, topic_results });
    }
    AddPartitionsToTxnResponse { results_by_transaction, ..Default::default() }
}

/// All partitions of a transaction are added, or none.
async fn added(
    server: &Server,
    context: &RequestContext,
    transaction: &AddPartitionsToTxnTransaction,
) -> Vec<AddPartitionsToTxnTopicResult> {
    let image = server.metadata.image();
    let partitions = partitions_of(&image, &transaction.topics);
    let is_of_client = context.api_version < FIRST_OF_BROKERS;
    let refusal = |partition: &TopicPartition| {
        if is_of_client && is_internal_topic(&partition.topic) {
            Some(ErrorCode::TopicAuthorizationFailed)
        } else if image.partition(&partition.topic, partition.partition).is_none() {
            Some(ErrorCode::UnknownTopicOrPartition)
        } else {
            None
        }
    };
    if partitions.iter().any(|partition| refusal(partition).is_some()) {
        return results(partitions, |_, partition| refusal(partition).unwrap_or(ErrorCode::OperationNotAttempted));
    }
    let producer = producer(transaction.producer_id, transaction.producer_epoch);
    let transactional_id = &transaction.transactional_id;
    let asked: Vec<TopicPartition> = partitions.iter().cloned().collect();
    if transaction.verify_only {
        let verified = server.transactions.verify(transactional_id, producer, &asked);
        return results(partitions, |at, _| match &verified {
            Ok(is_open) if is_open.get(at) == Some(&true) => ErrorCode::None,
            Ok(_) => ErrorCode::from(TransactionError::TransactionAbortable),
            Err(error) => ErrorCode::from(*error),
        });
    }
    let version = transaction_version::<AddPartitionsToTxnRequest>(context.api_version);
    let outcome = server.transactions.add_partitions(transactional_id, producer, asked, version).await;
    let code = code_of(outcome, context.api_version >= FIRST_WITH_PRODUCER_FENCED);
    results(partitions, |_, _| code)
}

/// Each once, with the names that the metadata has.
fn partitions_of(image: &Image, topics: &[AddPartitionsToTxnTopic]) -> BTreeSet<TopicPartition> {
    let mut partitions = BTreeSet::new();
    for topic in topics {
        let name = image.shared_name(&topic.name);
        partitions.extend(topic.partitions.iter().map(|number| TopicPartition::new(name.clone(), *number)));
    }
    partitions
}

fn results(
    partitions: BTreeSet<TopicPartition>,
    code_of: impl Fn(usize, &TopicPartition) -> ErrorCode,
) -> Vec<AddPartitionsToTxnTopicResult> {
    let mut topics: Vec<AddPartitionsToTxnTopicResult> = Vec::new();
    for (at, partition) in partitions.iter().enumerate() {
        let result = AddPartitionsToTxnPartitionResult {
            partition_index: partition.partition,
            partition_error_code: code_of(at, partition).code(),
        };
        match topics.last_mut() {
            Some(topic) if topic.name == *partition.topic => topic.results_by_partition.push(result),
            _ => topics.push(AddPartitionsToTxnTopicResult {
                name: partition.topic.to_string(),
                results_by_partition: vec![result],
            }),
        }
    }
    topics
}
