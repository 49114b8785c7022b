//! Offsets of consumer groups: commit, fetch, delete. Version 0 of commit and fetch keeps them in ZooKeeper, where
//! consumers of 0.8 expect them; the two stores know nothing of each other.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/KafkaApis.scala, GroupCoordinatorAdapter.scala.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::api::answer::{AnswerBudget, AnswerTooLong};
use crate::api::groups::{code_of, is_static_member_refused};
use crate::api::topic_numbers::NamedOnce;
use crate::api::{RequestContext, Server};
use crate::coordinator::group::error::GroupError;
use crate::coordinator::group::offsets::{FoundOffset, GroupOffsets};
use crate::coordinator::group::records::CommittedOffset;
use crate::coordinator::group::requests::{Caller, Commit, CommitAnswer, OffsetToCommit, metadata_fits};
use crate::metadata::image::Image;
use crate::model::shown::shown;
use crate::model::{GenerationId, LeaderEpoch, Offset};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestTopic, OffsetCommitResponse, OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
};
use crate::protocol::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteRequestTopic, OffsetDeleteResponse, OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
};
use crate::protocol::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics, OffsetFetchResponse,
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};

const NO_OFFSET: i64 = -1;
const NO_LEADER_EPOCH: i32 = -1;

// Commit

/// What is to be committed, without what the metadata does not know. Of a partition that is named twice the last counts.
pub(super) fn to_commit<'a, P: 'a>(
    image: &Image,
    named: impl DoubleEndedIterator<Item = (&'a str, &'a [P])>,
    index_of: impl Fn(&P) -> i32,
    committed: impl Fn(&P) -> CommittedOffset,
) -> Vec<OffsetToCommit> {
    let mut offsets = Vec::new();
    let mut seen = NamedOnce::default();
    for (topic, partitions) in named.rev() {
        let Some(known) = image.topic(topic) else { continue };
        let number = seen.number_of(topic);
        for named in partitions.iter().rev() {
            let partition = index_of(named);
            if known.partition(partition).is_some() && seen.is_new(number, partition) {
                let topic = Arc::clone(&known.name);
                offsets.push(OffsetToCommit { topic, partition, committed: committed(named) });
            }
        }
    }
    offsets.reverse();
    offsets
}

pub(crate) async fn commit(
    server: &Server,
    context: &RequestContext,
    request: OffsetCommitRequest,
) -> OffsetCommitResponse {
    if is_static_member_refused(server, request.group_instance_id.as_deref()) {
        return committed(&request.topics, |_, _, _| ErrorCode::UnsupportedVersion);
    }
    let image = server.metadata.image();
    let metadata_max = server.groups.settings().offset_metadata_max_bytes;
    if context.api_version == 0 {
        return commit_to_zookeeper(server, context, &image, metadata_max, &request).await;
    }
    let expire_timestamp_ms =
        (request.retention_time_ms != -1).then(|| context.now_ms.saturating_add(request.retention_time_ms));
    let named = request.topics.iter().map(|topic| (&*topic.name, &*topic.partitions));
    let offsets = to_commit(
        &image,
        named,
        |partition| partition.partition_index,
        |partition| CommittedOffset {
            offset: Offset(partition.committed_offset),
            leader_epoch: LeaderEpoch(partition.committed_leader_epoch),
            metadata: Arc::from(partition.committed_metadata.as_deref().unwrap_or("")),
            commit_timestamp_ms: match partition.commit_timestamp {
                -1 => context.now_ms,
                given_ms => given_ms,
            },
            expire_timestamp_ms,
        },
    );
    let answer = if offsets.is_empty() {
        CommitAnswer::Stored(Ok(()))
    } else {
        let caller = Caller {
            member_id: Arc::from(request.member_id.as_str()),
            group_instance_id: request.group_instance_id.as_deref().map(Arc::from),
            generation_id: GenerationId(request.generation_id_or_member_epoch),
        };
        server
            .groups
            .commit_offsets(&request.group_id, Commit { caller, offsets, transaction: None, must_be_verified: false })
            .await
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
    context: &RequestContext,
    image: &Image,
    metadata_max: usize,
    request: &OffsetCommitRequest,
) -> OffsetCommitResponse {
    // What a partition is given last is all that stays of it.
    let mut seen = NamedOnce::default();
    let mut errors: HashMap<(u32, i32), ErrorCode> = HashMap::new();
    for topic in request.topics.iter().rev() {
        let topic_number = seen.number_of(&topic.name);
        for partition in topic.partitions.iter().rev() {
            context.pause().await;
            let number = partition.partition_index;
            if !seen.is_new(topic_number, number) {
                continue;
            }
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
                        log::warn!("the offset of {} in {}-{number} is not stored: {error}", shown(group), topic.name);
                        ErrorCode::from(&error)
                    }
                }
            };
            errors.insert((topic_number, number), error);
        }
    }
    let mut answer = committed(&request.topics, |_, _, _| ErrorCode::None);
    for (asked, topic) in request.topics.iter().zip(&mut answer.topics) {
        let topic_number = seen.number_of(&asked.name);
        for partition in &mut topic.partitions {
            let error = errors.get(&(topic_number, partition.partition_index));
            partition.error_code = error.map_or(ErrorCode::UnknownServerError.code(), |error| error.code());
        }
    }
    answer
}

// Fetch

pub(crate) async fn fetch(
    server: &Server,
    context: &RequestContext,
    request: OffsetFetchRequest,
) -> Result<OffsetFetchResponse, AnswerTooLong> {
    match context.api_version {
        0 => Ok(fetch_from_zookeeper(server, context, &request).await),
        1..=7 => {
            let topics = request.topics.map(|topics| {
                let topics = topics.into_iter().map(|topic| OffsetFetchRequestTopics {
                    name: topic.name,
                    partition_indexes: topic.partition_indexes,
                });
                topics.collect()
            });
            let group = OffsetFetchRequestGroup { group_id: request.group_id, topics, ..Default::default() };
            let answer = fetch_group(server, context, &group, request.require_stable).await?;
            Ok(in_old_form(context.api_version, &group, answer))
        }
        _ => {
            let mut groups = Vec::with_capacity(request.groups.len());
            let mut seen = HashSet::new();
            for group in &request.groups {
                context.pause().await;
                // A group that is named twice is answered once.
                if seen.insert(group.group_id.as_str()) {
                    groups.push(fetch_group(server, context, group, request.require_stable).await?);
                }
            }
            Ok(OffsetFetchResponse { groups, ..Default::default() })
        }
    }
}

async fn fetch_group(
    server: &Server,
    context: &RequestContext,
    group: &OffsetFetchRequestGroup,
    require_stable: bool,
) -> Result<OffsetFetchResponseGroup, AnswerTooLong> {
    context.answer.charge(group.group_id.len())?;
    let found = match &group.topics {
        None => all_offsets(server, context, &group.group_id, require_stable).await?,
        Some(topics) => named_offsets(server, context, &group.group_id, topics, require_stable).await?,
    };
    let error_code = code_of(&found);
    Ok(OffsetFetchResponseGroup { group_id: group.group_id.clone(), topics: found.unwrap_or_default(), error_code })
}

/// The lock of the group's shard is held for so many partitions at a time.
const PARTITIONS_A_TURN: usize = 1000;

/// Each partition once, however often it is named.
async fn named_offsets(
    server: &Server,
    context: &RequestContext,
    group_id: &str,
    topics: &[OffsetFetchRequestTopics],
    require_stable: bool,
) -> Result<Result<Vec<OffsetFetchResponseTopics>, GroupError>, AnswerTooLong> {
    // The group may not be looked at by this broker at all.
    if let Err(error) = server.groups.with_offsets(group_id, |_| ()) {
        return Ok(Err(error));
    }
    let mut found = Vec::with_capacity(topics.len());
    let mut seen = NamedOnce::default();
    for topic in topics {
        let number = seen.number_of(&topic.name);
        context.pause().await;
        let mut partitions = Vec::new();
        for indexes in topic.partition_indexes.chunks(PARTITIONS_A_TURN) {
            context.pause().await;
            let turn = server.groups.with_offsets(group_id, |offsets| {
                for &partition in indexes {
                    if seen.is_new(number, partition) {
                        let offset = offsets.map(|offsets| offsets.find(&topic.name, partition, require_stable));
                        let answer = fetched(partition, offset.unwrap_or(FoundOffset::None));
                        context.answer.push(&mut partitions, answer)?;
                    }
                }
                Ok(())
            });
            match turn {
                Ok(outcome) => outcome?,
                Err(error) => return Ok(Err(error)),
            }
        }
        found.push(OffsetFetchResponseTopics { name: topic.name.clone(), partitions });
    }
    Ok(Ok(found))
}

/// What is committed or deleted while this goes on may be among them or not.
async fn all_offsets(
    server: &Server,
    context: &RequestContext,
    group_id: &str,
    require_stable: bool,
) -> Result<Result<Vec<OffsetFetchResponseTopics>, GroupError>, AnswerTooLong> {
    let mut topics: Vec<OffsetFetchResponseTopics> = Vec::new();
    loop {
        let turn = server.groups.with_offsets(group_id, |offsets| match offsets {
            Some(offsets) => add_offsets(&context.answer, offsets, require_stable, &mut topics, PARTITIONS_A_TURN),
            None => Ok(false),
        });
        match turn {
            Ok(has_more) => {
                if !has_more? {
                    return Ok(Ok(topics));
                }
            }
            Err(error) => return Ok(Err(error)),
        }
        context.pause().await;
    }
}

/// Goes on behind the last partition that was found, for so many partitions. True if there are more.
fn add_offsets(
    answer: &AnswerBudget,
    offsets: &GroupOffsets,
    require_stable: bool,
    topics: &mut Vec<OffsetFetchResponseTopics>,
    partitions_max: usize,
) -> Result<bool, AnswerTooLong> {
    let last = topics.last().and_then(|topic| Some((topic.name.clone(), topic.partitions.last()?.partition_index)));
    let mut left = partitions_max;
    for (name, partition) in offsets.committed_after(last.as_ref().map(|(name, partition)| (name.as_str(), *partition)))
    {
        let Some(after) = left.checked_sub(1) else { return Ok(true) };
        left = after;
        let found = fetched(partition, offsets.find(name, partition, require_stable));
        if topics.last().is_none_or(|topic| topic.name != **name) {
            answer.charge(name.len())?;
            topics.push(OffsetFetchResponseTopics { name: name.to_string(), partitions: Vec::new() });
        }
        if let Some(topic) = topics.last_mut() {
            answer.push(&mut topic.partitions, found)?;
        }
    }
    Ok(false)
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
async fn fetch_from_zookeeper(
    server: &Server,
    context: &RequestContext,
    request: &OffsetFetchRequest,
) -> OffsetFetchResponse {
    let image = server.metadata.image();
    let unknown = ErrorCode::UnknownTopicOrPartition.code();
    let mut topics = Vec::new();
    let mut seen = NamedOnce::default();
    for topic in request.topics.iter().flatten() {
        let topic_number = seen.number_of(&topic.name);
        let mut partitions = Vec::new();
        for number in &topic.partition_indexes {
            context.pause().await;
            if !seen.is_new(topic_number, *number) {
                continue;
            }
            let partition = if image.partition(&topic.name, *number).is_none() {
                old_partition(*number, NO_OFFSET, unknown)
            } else {
                match server.zookeeper.consumer_offset(&request.group_id, &topic.name, *number).await {
                    Ok(Some(offset)) => old_partition(*number, offset, 0),
                    Ok(None) => old_partition(*number, NO_OFFSET, unknown),
                    Err(error) => {
                        log::warn!("the offset of {} in {}-{number}: {error}", shown(&request.group_id), topic.name);
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

pub(crate) async fn delete(
    server: &Server,
    _: &RequestContext,
    mut request: OffsetDeleteRequest,
) -> OffsetDeleteResponse {
    let image = server.metadata.image();
    keep_first_of_each(&mut request.topics);
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

/// A partition that is named twice is answered once.
fn keep_first_of_each(topics: &mut [OffsetDeleteRequestTopic]) {
    let mut seen = NamedOnce::default();
    for topic in topics {
        let number = seen.number_of(&topic.name);
        topic.partitions.retain(|partition| seen.is_new(number, partition.partition_index));
    }
}
