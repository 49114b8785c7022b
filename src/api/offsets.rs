//! Offsets of consumer groups: commit, fetch, delete. Version 0 of commit and fetch keeps them in ZooKeeper, where
//! consumers of 0.8 expect them; the two stores know nothing of each other.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/KafkaApis.scala, GroupCoordinatorAdapter.scala.

use std::sync::Arc;

use crate::api::groups::{code_of, is_static_member_refused};
use crate::api::{RequestContext, Server};
use crate::coordinator::group::error::GroupError;
use crate::coordinator::group::offsets::{FoundOffset, GroupOffsets};
use crate::coordinator::group::records::CommittedOffset;
use crate::coordinator::group::requests::{Caller, Commit, CommitAnswer, OffsetToCommit, metadata_fits};
use crate::metadata::image::Image;
use crate::model::{GenerationId, LeaderEpoch, Offset};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestTopic, OffsetCommitResponse, OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
};
use crate::protocol::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteResponse, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use crate::protocol::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics, OffsetFetchResponse,
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};

const NO_OFFSET: i64 = -1;
const NO_LEADER_EPOCH: i32 = -1;

// Commit

pub(crate) async fn commit(
    server: &Server,
    context: RequestContext,
    request: OffsetCommitRequest,
) -> OffsetCommitResponse {
    if is_static_member_refused(server, request.group_instance_id.as_deref()) {
        return committed(&request.topics, |_, _, _| ErrorCode::UnsupportedVersion);
    }
    let image = server.metadata.image();
    let metadata_max = server.groups.settings().offset_metadata_max_bytes;
    if context.api_version == 0 {
        return commit_to_zookeeper(server, &image, metadata_max, &request).await;
    }
    let expire_timestamp_ms =
        (request.retention_time_ms != -1).then(|| context.now_ms.saturating_add(request.retention_time_ms));
    let mut offsets = Vec::new();
    for topic in &request.topics {
        let Some(known) = image.topic(&topic.name) else { continue };
        for partition in topic.partitions.iter().filter(|p| known.partition(p.partition_index).is_some()) {
            offsets.push(OffsetToCommit {
                topic: Arc::clone(&known.name),
                partition: partition.partition_index,
                committed: CommittedOffset {
                    offset: Offset(partition.committed_offset),
                    leader_epoch: LeaderEpoch(partition.committed_leader_epoch),
                    metadata: Arc::from(partition.committed_metadata.as_deref().unwrap_or("")),
                    commit_timestamp_ms: match partition.commit_timestamp {
                        -1 => context.now_ms,
                        given_ms => given_ms,
                    },
                    expire_timestamp_ms,
                },
            });
        }
    }
    let answer = if offsets.is_empty() {
        CommitAnswer::Stored(Ok(()))
    } else {
        let caller = Caller {
            member_id: Arc::from(request.member_id.as_str()),
            group_instance_id: request.group_instance_id.as_deref().map(Arc::from),
            generation_id: GenerationId(request.generation_id_or_member_epoch),
        };
        server.groups.commit_offsets(&request.group_id, Commit { caller, offsets }).await
    };
    committed(&request.topics, |topic, partition, metadata| {
        if image.partition(topic, partition).is_none() {
            return ErrorCode::UnknownTopicOrPartition;
        }
        match answer {
            CommitAnswer::Refused(error) => error.into(),
            CommitAnswer::Stored(_) if !metadata_fits(metadata, metadata_max) => ErrorCode::OffsetMetadataTooLarge,
            CommitAnswer::Stored(Err(error)) => error.into(),
            CommitAnswer::Stored(Ok(())) => ErrorCode::None,
        }
    })
}

/// The answer, with an error for each partition by topic, number and metadata.
fn committed(
    topics: &[OffsetCommitRequestTopic],
    mut error_of: impl FnMut(&str, i32, &str) -> ErrorCode,
) -> OffsetCommitResponse {
    let topics = topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let metadata = partition.committed_metadata.as_deref().unwrap_or("");
            OffsetCommitResponsePartition {
                partition_index: partition.partition_index,
                error_code: error_of(&topic.name, partition.partition_index, metadata).code(),
            }
        });
        OffsetCommitResponseTopic { name: topic.name.clone(), partitions: partitions.collect() }
    });
    OffsetCommitResponse { topics: topics.collect(), ..Default::default() }
}

/// Any broker serves this, and no membership is checked. The metadata has no place there and is dropped.
async fn commit_to_zookeeper(
    server: &Server,
    image: &Image,
    metadata_max: usize,
    request: &OffsetCommitRequest,
) -> OffsetCommitResponse {
    let mut errors = Vec::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            let number = partition.partition_index;
            let metadata = partition.committed_metadata.as_deref().unwrap_or("");
            let error = if image.partition(&topic.name, number).is_none() {
                ErrorCode::UnknownTopicOrPartition
            } else if !metadata_fits(metadata, metadata_max) {
                ErrorCode::OffsetMetadataTooLarge
            } else {
                let (group, offset) = (&request.group_id, partition.committed_offset);
                match server.zookeeper.set_consumer_offset(group, &topic.name, number, offset).await {
                    Ok(()) => ErrorCode::None,
                    Err(error) => {
                        log::warn!("the offset of {group} in {}-{number} is not stored: {error}", topic.name);
                        ErrorCode::from(&error)
                    }
                }
            };
            errors.push(error);
        }
    }
    let mut errors = errors.into_iter();
    committed(&request.topics, |_, _, _| errors.next().unwrap_or(ErrorCode::UnknownServerError))
}

// Fetch

pub(crate) async fn fetch(
    server: &Server,
    context: RequestContext,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    match context.api_version {
        0 => fetch_from_zookeeper(server, &request).await,
        1..=7 => {
            let topics = request.topics.map(|topics| {
                let topics = topics.into_iter().map(|topic| OffsetFetchRequestTopics {
                    name: topic.name,
                    partition_indexes: topic.partition_indexes,
                });
                topics.collect()
            });
            let group = OffsetFetchRequestGroup { group_id: request.group_id, topics, ..Default::default() };
            in_old_form(context.api_version, &group, fetch_group(server, &group, request.require_stable))
        }
        _ => {
            let groups = request.groups.iter().map(|group| fetch_group(server, group, request.require_stable));
            OffsetFetchResponse { groups: groups.collect(), ..Default::default() }
        }
    }
}

fn fetch_group(server: &Server, group: &OffsetFetchRequestGroup, require_stable: bool) -> OffsetFetchResponseGroup {
    let found = server.groups.with_offsets(&group.group_id, |offsets| match &group.topics {
        None => offsets.map(|offsets| all_offsets(offsets, require_stable)).unwrap_or_default(),
        Some(topics) => topics
            .iter()
            .map(|topic| {
                let partitions = topic.partition_indexes.iter().map(|partition| {
                    let found = offsets.map(|offsets| offsets.find(&topic.name, *partition, require_stable));
                    fetched(*partition, found.unwrap_or(FoundOffset::None))
                });
                OffsetFetchResponseTopics { name: topic.name.clone(), partitions: partitions.collect() }
            })
            .collect(),
    });
    let error_code = code_of(&found);
    OffsetFetchResponseGroup { group_id: group.group_id.clone(), topics: found.unwrap_or_default(), error_code }
}

fn all_offsets(offsets: &GroupOffsets, require_stable: bool) -> Vec<OffsetFetchResponseTopics> {
    let topics = offsets.committed().map(|(topic, partitions)| {
        let partitions = partitions.map(|partition| fetched(partition, offsets.find(topic, partition, require_stable)));
        OffsetFetchResponseTopics { name: topic.to_string(), partitions: partitions.collect() }
    });
    topics.filter(|topic| !topic.partitions.is_empty()).collect()
}

fn fetched(partition: i32, found: FoundOffset<'_>) -> OffsetFetchResponsePartitions {
    let nothing = OffsetFetchResponsePartitions {
        partition_index: partition,
        committed_offset: NO_OFFSET,
        committed_leader_epoch: NO_LEADER_EPOCH,
        metadata: Some(String::new()),
        error_code: 0,
    };
    match found {
        FoundOffset::None => nothing,
        FoundOffset::Unstable => {
            OffsetFetchResponsePartitions { error_code: ErrorCode::UnstableOffsetCommit.code(), ..nothing }
        }
        FoundOffset::Committed(committed) => OffsetFetchResponsePartitions {
            committed_offset: committed.offset.0,
            committed_leader_epoch: committed.leader_epoch.0,
            metadata: Some(committed.metadata.to_string()),
            ..nothing
        },
    }
}

/// Versions 2 to 7 have one group, with its error at the top; versions 0 and 1 have no place for it but the partitions.
fn in_old_form(version: i16, asked: &OffsetFetchRequestGroup, answer: OffsetFetchResponseGroup) -> OffsetFetchResponse {
    if version < 2 && answer.error_code != 0 {
        return refuse_all(asked.topics.iter().flatten().map(|t| (&t.name, &t.partition_indexes)), answer.error_code);
    }
    let topics = answer.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|partition| OffsetFetchResponsePartition {
            partition_index: partition.partition_index,
            committed_offset: partition.committed_offset,
            committed_leader_epoch: partition.committed_leader_epoch,
            metadata: partition.metadata,
            error_code: partition.error_code,
        });
        OffsetFetchResponseTopic { name: topic.name, partitions: partitions.collect() }
    });
    OffsetFetchResponse { topics: topics.collect(), error_code: answer.error_code, ..Default::default() }
}

fn refuse_all<'a>(topics: impl Iterator<Item = (&'a String, &'a Vec<i32>)>, error_code: i16) -> OffsetFetchResponse {
    let topics = topics.map(|(name, partitions)| {
        let partitions = partitions.iter().map(|partition| old_partition(*partition, NO_OFFSET, error_code));
        OffsetFetchResponseTopic { name: name.clone(), partitions: partitions.collect() }
    });
    OffsetFetchResponse { topics: topics.collect(), ..Default::default() }
}

fn old_partition(partition_index: i32, committed_offset: i64, error_code: i16) -> OffsetFetchResponsePartition {
    OffsetFetchResponsePartition {
        partition_index,
        committed_offset,
        committed_leader_epoch: NO_LEADER_EPOCH,
        metadata: Some(String::new()),
        error_code,
    }
}

/// Here alone a partition without an offset is an error to the client.
async fn fetch_from_zookeeper(server: &Server, request: &OffsetFetchRequest) -> OffsetFetchResponse {
    let image = server.metadata.image();
    let unknown = ErrorCode::UnknownTopicOrPartition.code();
    let mut topics = Vec::new();
    for topic in request.topics.iter().flatten() {
        let mut partitions = Vec::new();
        for number in &topic.partition_indexes {
            let partition = if image.partition(&topic.name, *number).is_none() {
                old_partition(*number, NO_OFFSET, unknown)
            } else {
                match server.zookeeper.consumer_offset(&request.group_id, &topic.name, *number).await {
                    Ok(Some(offset)) => old_partition(*number, offset, 0),
                    Ok(None) => old_partition(*number, NO_OFFSET, unknown),
                    Err(error) => {
                        log::warn!("the offset of {} in {}-{number}: {error}", request.group_id, topic.name);
                        old_partition(*number, NO_OFFSET, ErrorCode::from(&error).code())
                    }
                }
            };
            partitions.push(partition);
        }
        topics.push(OffsetFetchResponseTopic { name: topic.name.clone(), partitions });
    }
    OffsetFetchResponse { topics, ..Default::default() }
}

// Delete

pub(crate) async fn delete(server: &Server, _: RequestContext, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let image = server.metadata.image();
    let known: Vec<(Arc<str>, i32)> = request
        .topics
        .iter()
        .filter_map(|topic| Some((image.topic(&topic.name)?, &topic.partitions)))
        .flat_map(|(topic, partitions)| {
            let known = partitions.iter().filter(|p| topic.partition(p.partition_index).is_some());
            known.map(|partition| (Arc::clone(&topic.name), partition.partition_index))
        })
        .collect();
    let answers = match server.groups.delete_offsets(&request.group_id, &known) {
        Ok(answers) => answers,
        Err(error) => return OffsetDeleteResponse { error_code: ErrorCode::from(error).code(), ..Default::default() },
    };
    // The answers come in the order of `known`, which is the order of the request without the unknown partitions.
    let mut answers = answers.into_iter();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|partition| {
            let is_known = image.partition(&topic.name, partition.partition_index).is_some();
            let answer: Option<Result<(), GroupError>> = if is_known { answers.next() } else { None };
            OffsetDeleteResponsePartition {
                partition_index: partition.partition_index,
                error_code: answer.map_or(ErrorCode::UnknownTopicOrPartition.code(), |answer| code_of(&answer)),
            }
        });
        OffsetDeleteResponseTopic { partitions: partitions.collect(), name: topic.name }
    });
    OffsetDeleteResponse { topics: topics.collect(), ..Default::default() }
}
