//! What leaders answer to questions about truncation, whatever version they answer in.

use std::sync::Arc;

use crate::log::leader_epochs::EpochEnd;
use crate::model::{LeaderEpoch, Offset, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::list_offsets::ListOffsetsResponse;
use crate::protocol::messages::offset_for_leader_epoch::OffsetForLeaderEpochResponse;
use crate::replica::fetcher::state::Answer;

pub(crate) fn epoch_ends(response: OffsetForLeaderEpochResponse) -> Vec<(TopicPartition, Answer<EpochEnd>)> {
    let topics = response.topics.into_iter().flat_map(|topic| {
        let name: Arc<str> = Arc::from(topic.topic.as_str());
        topic.partitions.into_iter().map(move |partition| (Arc::clone(&name), partition))
    });
    let answers = topics.map(|(topic, answer)| {
        let value = EpochEnd { epoch: LeaderEpoch(answer.leader_epoch), end_offset: Offset(answer.end_offset) };
        let error = ErrorCode::from_code(answer.error_code);
        (TopicPartition { topic, partition: answer.partition }, Answer { error, value })
    });
    answers.collect()
}

/// `is_old_style`: version 0 answers with a list of offsets.
pub(crate) fn offsets(response: ListOffsetsResponse, is_old_style: bool) -> Vec<(TopicPartition, Answer<Offset>)> {
    let topics = response.topics.into_iter().flat_map(|topic| {
        let name: Arc<str> = Arc::from(topic.name.as_str());
        topic.partitions.into_iter().map(move |partition| (Arc::clone(&name), partition))
    });
    let answers = topics.map(|(topic, answer)| {
        let offset = match is_old_style {
            true => answer.old_style_offsets.first().copied().unwrap_or(-1),
            false => answer.offset,
        };
        let error = match ErrorCode::from_code(answer.error_code) {
            ErrorCode::None if offset < 0 => ErrorCode::UnknownServerError,
            error => error,
        };
        (TopicPartition { topic, partition: answer.partition_index }, Answer { error, value: Offset(offset) })
    });
    answers.collect()
}
