//! ListOffsets, all versions. Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/KafkaApis.scala
//! (handleListOffsetRequest) and core/src/main/scala/kafka/log/UnifiedLog.scala (legacyFetchOffsetsBefore).

use std::collections::HashSet;
use std::sync::Arc;

use crate::api::answer::AnswerTooLong;
use crate::api::topic_numbers::TopicNumbers;
use crate::api::{RequestContext, Server};
use crate::log::OffsetQuery;
use crate::model::LeaderEpoch;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse,
};
use crate::replica::error::ReplicaError;
use crate::replica::replica_manager::ReplicaManager;

const CONSUMER: i32 = -1;
/// A debugging consumer may ask any replica.
const DEBUGGING_CONSUMER: i32 = -2;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: ListOffsetsRequest,
) -> Result<ListOffsetsResponse, AnswerTooLong> {
    let mut response = ListOffsetsResponse::default();
    let mut numbers = TopicNumbers::default();
    let mut seen: HashSet<(u32, i32)> = HashSet::new();
    let mut repeated: HashSet<(u32, i32)> = HashSet::new();
    for topic in &request.topics {
        let number = numbers.of(&topic.name);
        for partition in &topic.partitions {
            let name = (number, partition.partition_index);
            if !seen.insert(name) {
                repeated.insert(name);
            }
        }
    }
    // Version 0 answers a partition as often as it is named, which is as many offsets as it has segments: once will do.
    let mut answered: HashSet<(u32, i32)> = HashSet::new();
    for topic in &request.topics {
        let number = numbers.of(&topic.name);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            context.pause().await;
            let answer = if context.api_version == 0 {
                if !answered.insert((number, asked.partition_index)) {
                    continue;
                }
                let (name, asked) = (topic.name.clone(), asked.clone());
                let (replica_id, number, now_ms) = (request.replica_id, asked.partition_index, context.now_ms);
                let look = move |replicas: &Arc<ReplicaManager>| old_style(replicas, replica_id, &name, &asked, now_ms);
                let looked = server.replicas.at(&topic.name, number, look).await;
                looked.unwrap_or_else(|why| Err(ErrorCode::from(&ReplicaError::from(why))))
            } else if repeated.contains(&(number, asked.partition_index)) {
                Err(ErrorCode::InvalidRequest)
            } else {
                lookup(server, context, &request, &topic.name, asked).await
            };
            let answer = answer.unwrap_or_else(|error| ListOffsetsPartitionResponse {
                partition_index: asked.partition_index,
                error_code: error.code(),
                ..Default::default()
            });
            context.answer.push(&mut partitions, answer)?;
        }
        response.topics.push(ListOffsetsTopicResponse { name: topic.name.clone(), partitions });
    }
    Ok(response)
}

/// What a timestamp asks for, if the version knows it. `None` for tiered storage, of which there is none.
fn query(timestamp: i64, api_version: i16) -> Result<Option<OffsetQuery>, ErrorCode> {
    let (query, since) = match timestamp {
        LATEST => (Some(OffsetQuery::Latest), 1),
        EARLIEST => (Some(OffsetQuery::Earliest), 1),
        MAX_TIMESTAMP => (Some(OffsetQuery::MaxTimestamp), 7),
        EARLIEST_LOCAL => (Some(OffsetQuery::Earliest), 8),
        LATEST_TIERED => (None, 9),
        0.. => (Some(OffsetQuery::AtOrAfter(timestamp)), 1),
        _ => return Err(ErrorCode::UnsupportedVersion),
    };
    if api_version < since { Err(ErrorCode::UnsupportedVersion) } else { Ok(query) }
}

async fn lookup(
    server: &Server,
    context: &RequestContext,
    request: &ListOffsetsRequest,
    topic: &str,
    asked: &ListOffsetsPartition,
) -> Result<ListOffsetsPartitionResponse, ErrorCode> {
    let mut answer = ListOffsetsPartitionResponse { partition_index: asked.partition_index, ..Default::default() };
    let query = query(asked.timestamp, context.api_version)?;
    let read_committed = (request.replica_id == CONSUMER).then_some(request.isolation_level == 1);
    let leader_only = request.replica_id != DEBUGGING_CONSUMER;
    let current = (asked.current_leader_epoch >= 0).then_some(LeaderEpoch(asked.current_leader_epoch));
    let Some(query) = query else {
        // Nothing is tiered: no offset, once it is clear that this broker may answer at all.
        let (name, number) = (topic.to_owned(), asked.partition_index);
        let look = move |replicas: &Arc<ReplicaManager>| {
            replicas.partition(&name, number).and_then(|hosted| hosted.leader_log(current)).map(drop)
        };
        let may_answer = server.replicas.at(topic, number, look).await.unwrap_or_else(|why| Err(why.into()));
        return may_answer.map(|()| answer).map_err(|error| code(&error, context.api_version));
    };
    let found = server
        .replicas
        .find_offset(topic, asked.partition_index, query, read_committed, current, leader_only)
        .await
        .map_err(|error| code(&error, context.api_version))?;
    if let Some(found) = found {
        answer.timestamp = found.timestamp_ms;
        answer.offset = found.offset.0;
        if context.api_version >= 4
            && let Some(epoch) = found.leader_epoch
        {
            answer.leader_epoch = epoch.0;
        }
    }
    Ok(answer)
}

/// OFFSET_NOT_AVAILABLE came with version 5; older clients retry on this one.
fn code(error: &ReplicaError, api_version: i16) -> ErrorCode {
    match error {
        ReplicaError::OffsetNotAvailable if api_version < 5 => ErrorCode::LeaderNotAvailable,
        error => error.into(),
    }
}

/// Version 0 asks for the offsets at which segments begin, newest first, at most so many, up to a time.
fn old_style(
    replicas: &ReplicaManager,
    replica_id: i32,
    topic: &str,
    asked: &ListOffsetsPartition,
    now_ms: i64,
) -> Result<ListOffsetsPartitionResponse, ErrorCode> {
    if asked.timestamp < EARLIEST {
        return Err(ErrorCode::UnsupportedVersion);
    }
    let partition = replicas.partition(topic, asked.partition_index).map_err(|error| ErrorCode::from(&error))?;
    let log = match replica_id {
        DEBUGGING_CONSUMER => partition.log().ok_or(ErrorCode::NotLeaderOrFollower)?,
        _ => partition.leader_log(None).map_err(|error| ErrorCode::from(&error))?,
    };
    let bounds = log.bounds();
    let end = if replica_id == CONSUMER { bounds.high_watermark } else { bounds.log_end_offset };
    let segments = log.segment_starts().map_err(|error| ErrorCode::from(&error))?;
    let mut starts: Vec<(i64, i64)> = segments.into_iter().map(|(base, modified_ms)| (base.0, modified_ms)).collect();
    if starts.last().is_some_and(|&(base, _)| bounds.log_end_offset.0 > base) {
        // The end of a log that has records in its last segment is as new as it gets.
        starts.push((bounds.log_end_offset.0, now_ms));
    }
    let count = usize::try_from(asked.max_num_offsets).unwrap_or(0);
    let old_style_offsets = segment_offsets(&starts, bounds.log_start_offset.0, end.0, asked.timestamp, count);
    Ok(ListOffsetsPartitionResponse { partition_index: asked.partition_index, old_style_offsets, ..Default::default() })
}

/// `starts` are base offsets with the time of their last change, oldest first. A consumer is not told of offsets beyond
/// what it may read: those are replaced by the end of that.
fn segment_offsets(starts: &[(i64, i64)], log_start_offset: i64, end: i64, timestamp: i64, count: usize) -> Vec<i64> {
    let newest = match timestamp {
        LATEST => starts.len(),
        EARLIEST => 1,
        time => match starts.iter().rposition(|&(_, modified_ms)| modified_ms <= time) {
            Some(position) => position + 1,
            None => 0,
        },
    };
    let found: Vec<i64> =
        starts.iter().take(newest).rev().take(count).map(|&(offset, _)| offset.max(log_start_offset)).collect();
    if !found.iter().any(|&offset| offset > end) {
        return found;
    }
    std::iter::once(end).chain(found.into_iter().filter(|&offset| offset < end)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_special_timestamp_needs_the_version_that_brought_it() {
        for (timestamp, since) in
            [(LATEST, 1), (EARLIEST, 1), (MAX_TIMESTAMP, 7), (EARLIEST_LOCAL, 8), (LATEST_TIERED, 9)]
        {
            for version in 1..=9 {
                assert_eq!(query(timestamp, version).is_ok(), version >= since, "{timestamp} in version {version}");
            }
        }
        assert_eq!(query(-6, 9), Err(ErrorCode::UnsupportedVersion));
        assert_eq!(query(0, 1), Ok(Some(OffsetQuery::AtOrAfter(0))));
    }

    #[test]
    fn version_0_lists_where_segments_begin_newest_first() {
        let starts = [(0, 100), (10, 200), (20, 300), (25, 400)];
        let offsets = |timestamp, count| segment_offsets(&starts, 0, 25, timestamp, count);
        assert_eq!(offsets(LATEST, 10), vec![25, 20, 10, 0]);
        assert_eq!(offsets(LATEST, 1), vec![25]);
        assert_eq!(offsets(EARLIEST, 10), vec![0]);
        assert_eq!(offsets(250, 10), vec![10, 0]);
        assert_eq!(offsets(50, 10), Vec::<i64>::new());
        assert_eq!(offsets(400, 1), vec![25]);
        assert_eq!(segment_offsets(&starts, 3, 25, EARLIEST, 1), vec![3], "deleted records are gone");
        assert_eq!(segment_offsets(&starts, 0, 12, LATEST, 10), vec![12, 10, 0], "not committed yet");
        assert_eq!(segment_offsets(&[(0, 1)], 0, 0, LATEST, 1), vec![0], "an empty log");
    }
}
