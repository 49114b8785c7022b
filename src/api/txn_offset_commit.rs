//! TxnOffsetCommit: offsets of a consumer group that count once a transaction is committed (KIP-98, KIP-447).
//! Source: kafka 3.9 core/src/main/scala/kafka/server/KafkaApis.scala (handleTxnOffsetCommitRequest).

use std::sync::Arc;

use crate::api::offsets::to_commit;
use crate::api::transactions::{is_verified, producer, tell};
use crate::api::{RequestContext, Server};
use crate::coordinator::group::records::CommittedOffset;
use crate::coordinator::group::requests::{Caller, Commit, CommitAnswer, metadata_fits};
use crate::model::internal_topics::GROUP_METADATA_TOPIC;
use crate::model::{GenerationId, LeaderEpoch, Offset, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitResponse, TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use crate::protocol::transaction_version::transaction_version;
use crate::replica::error::ReplicaError;
use crate::replica::replica_manager::ReplicaManager;

/// Clients before it may fail when they are told of a coordinator that loads (KAFKA-7296).
const FIRST_WITH_LOADING: i16 = 2;

/// From here on clients know a transaction that can be aborted.
const FIRST_WITH_ABORTABLE: i16 = 4;

/// Whether the coordinator of the transaction knows that the group's offsets are in it, or does from now on.
async fn verify(server: &Server, context: &RequestContext, request: &TxnOffsetCommitRequest) -> Result<(), ErrorCode> {
    let number = server.groups.partition_for(&request.group_id);
    // What the group's coordinator refuses anyway is for it to say.
    if request.group_id.is_empty() {
        return Ok(());
    }
    // But not that it loads: it may have done so by then, and the log would refuse what nobody has confirmed.
    if server.groups.is_loading(number) {
        return Err(ErrorCode::CoordinatorLoadInProgress);
    }
    let partition = TopicPartition::new(server.metadata.image().shared_name(GROUP_METADATA_TOPIC), number);
    let shutting_down = |why| ErrorCode::from(&ReplicaError::from(why));
    let find = move |replicas: &Arc<ReplicaManager>| {
        replicas.partition(GROUP_METADATA_TOPIC, number).and_then(|hosted| hosted.leader_log(None)).ok()
    };
    // Who leads no such log coordinates no such group.
    let found = server.replicas.at(GROUP_METADATA_TOPIC, number, find).await.map_err(shutting_down)?;
    let log = found.ok_or(ErrorCode::NotCoordinator)?;
    let producer = producer(request.producer_id, request.producer_epoch);
    let version = transaction_version::<TxnOffsetCommitRequest>(context.api_version);
    let (looked_at, now_ms) = (Arc::clone(&log), context.now_ms);
    let look =
        move |_: &Arc<ReplicaManager>| looked_at.begin_verification(producer.id, producer.epoch, -1, version, now_ms);
    let opens = server.replicas.at(&partition.topic, number, look).await.map_err(shutting_down)?;
    let Some(guard) = opens else { return Ok(()) };
    let asked =
        server.verifier.verify(&request.transactional_id, producer, version, std::slice::from_ref(&partition)).await;
    let Some(verdict) = asked.into_iter().next() else { return Ok(()) };
    let knows_abortable = context.api_version >= FIRST_WITH_ABORTABLE;
    let tell = move |_: &Arc<ReplicaManager>| tell(&log, guard, verdict, knows_abortable);
    server.replicas.at(&partition.topic, number, tell).await.map_err(shutting_down)?.map_err(|code| match code {
        ErrorCode::NetworkException => ErrorCode::CoordinatorLoadInProgress,
        code => code,
    })
}

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: TxnOffsetCommitRequest,
) -> TxnOffsetCommitResponse {
    let image = server.metadata.image();
    let metadata_max = server.groups.settings().offset_metadata_max_bytes;
    let named = request.topics.iter().map(|topic| (&*topic.name, &*topic.partitions));
    let offsets = to_commit(
        &image,
        named,
        |partition| partition.partition_index,
        |partition| CommittedOffset {
            offset: Offset(partition.committed_offset),
            leader_epoch: LeaderEpoch(partition.committed_leader_epoch),
            metadata: Arc::from(partition.committed_metadata.as_deref().unwrap_or("")),
            commit_timestamp_ms: context.now_ms,
            expire_timestamp_ms: None,
        },
    );
    let mut refused = None;
    let is_verified = is_verified(server, transaction_version::<TxnOffsetCommitRequest>(context.api_version));
    let answer = if offsets.is_empty() {
        CommitAnswer::Stored(Ok(()))
    } else if is_verified && let Err(code) = verify(server, context, &request).await {
        refused = Some(code);
        CommitAnswer::Stored(Ok(()))
    } else {
        let caller = Caller {
            member_id: Arc::from(request.member_id.as_str()),
            group_instance_id: request.group_instance_id.as_deref().map(Arc::from),
            generation_id: GenerationId(request.generation_id),
        };
        let transaction = Some(producer(request.producer_id, request.producer_epoch));
        server
            .groups
            .commit_offsets(&request.group_id, Commit { caller, offsets, transaction, must_be_verified: is_verified })
            .await
    };
    let code_of = |topic: &str, partition: i32, metadata: &str| {
        if image.partition(topic, partition).is_none() {
            return ErrorCode::UnknownTopicOrPartition;
        }
        if let Some(code) = refused {
            return match code {
                ErrorCode::CoordinatorLoadInProgress if context.api_version < FIRST_WITH_LOADING => {
                    ErrorCode::CoordinatorNotAvailable
                }
                code => code,
            };
        }
        match answer {
            CommitAnswer::Stored(_) if !metadata_fits(metadata, metadata_max) => ErrorCode::OffsetMetadataTooLarge,
            CommitAnswer::Stored(Ok(())) => ErrorCode::None,
            CommitAnswer::Refused(error) | CommitAnswer::Stored(Err(error)) => match error.into() {
                ErrorCode::CoordinatorLoadInProgress if context.api_version < FIRST_WITH_LOADING => {
                    ErrorCode::CoordinatorNotAvailable
                }
                code => code,
            },
        }
    };
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| TxnOffsetCommitResponsePartition {
            partition_index: partition.partition_index,
            error_code: code_of(
                &topic.name,
                partition.partition_index,
                partition.committed_metadata.as_deref().unwrap_or(""),
            )
            .code(),
        });
        TxnOffsetCommitResponseTopic { name: topic.name.clone(), partitions: partitions.collect() }
    });
    TxnOffsetCommitResponse { topics: topics.collect(), ..Default::default() }
}
