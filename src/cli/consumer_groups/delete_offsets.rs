//! `--delete-offsets`: forgets what a group committed for topics.

use std::collections::BTreeMap;
use std::io::Write;

use super::{partitions_named, partitions_of};
use crate::cli::options::{Options, Stop};
use crate::cli::table::print_rows;
use crate::client::admin::by_topic;
use crate::client::cluster::Cluster;
use crate::client::error::{ClientError, is_retriable_code, thrown};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};

/// Stands for the partitions of a topic that could not be looked up.
const NOT_PROVIDED: i32 = -1;

pub(super) async fn delete_offsets(options: &Options, cluster: &Cluster, out: &mut dyn Write) -> Result<(), Stop> {
    let [group] = options.values("group")[..] else {
        let why = "Found multiple arguments for option group, but you asked for only one";
        return Err(Stop::Failed(why.to_owned()));
    };
    let (mut partitions, whole) = partitions_named(options)?;
    let mut statuses: BTreeMap<(String, i32), ErrorCode> = BTreeMap::new();
    for topic in whole {
        match cluster.describe_topics(std::slice::from_ref(&topic)).await {
            Ok(described) => partitions.extend(partitions_of(described)),
            Err(error) => _ = statuses.insert((topic, NOT_PROVIDED), error.code().ok_or(error)?),
        }
    }
    let request = OffsetDeleteRequest {
        group_id: group.to_owned(),
        topics: by_topic(partitions.iter().map(|partition| (partition, ())))
            .into_iter()
            .map(|(name, partitions)| OffsetDeleteRequestTopic {
                name: name.to_owned(),
                partitions: partitions
                    .into_iter()
                    .map(|(partition_index, ())| OffsetDeleteRequestPartition { partition_index })
                    .collect(),
            })
            .collect(),
    };
    let request = &request;
    let answer = cluster
        .retried("delete offsets", || async {
            let answer = cluster.coordinator(group).await?.send(request).await?;
            match ErrorCode::from_code(answer.error_code) {
                code if is_retriable_code(code) => Err(ClientError::refused("delete offsets", code, None)),
                _ => Ok(answer),
            }
        })
        .await?;
    let top = ErrorCode::from_code(answer.error_code);
    let codes: BTreeMap<(String, i32), ErrorCode> = answer
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.name.clone(), partition)))
        .map(|(name, partition)| ((name, partition.partition_index), ErrorCode::from_code(partition.error_code)))
        .collect();
    let first_failure = codes.values().find(|code| code.is_error()).copied();
    match first_failure.filter(|_| !top.is_error()).unwrap_or(top) {
        ErrorCode::None => {
            let topics = options.values("topic").join(", ");
            writeln!(out, "Request succeed for deleting offsets with topic {topics} group {group}")?;
        }
        ErrorCode::InvalidGroupId => writeln!(out, "\nError: '{group}' is not valid.")?,
        ErrorCode::GroupIdNotFound => writeln!(out, "\nError: '{group}' does not exist.")?,
        ErrorCode::GroupAuthorizationFailed => writeln!(out, "\nError: Access to '{group}' is not authorized.")?,
        ErrorCode::NonEmptyGroup => writeln!(
            out,
            "\nError: Deleting offsets of a consumer group '{group}' is forbidden if the group is not empty."
        )?,
        ErrorCode::GroupSubscribedToTopic
        | ErrorCode::TopicAuthorizationFailed
        | ErrorCode::UnknownTopicOrPartition => {
            writeln!(out, "\nError: Encounter some partition level error, see the follow-up details:")?;
        }
        code => writeln!(out, "\nError: Encounter some unknown error: {code}")?,
    }
    let mut rows = vec![["TOPIC", "PARTITION", "STATUS"].map(str::to_owned).to_vec()];
    for partition in &partitions {
        let key = (partition.topic.to_string(), partition.partition);
        let code = codes.get(&key).copied().unwrap_or(top);
        statuses.insert(key, code);
    }
    for ((topic, partition), code) in statuses {
        let partition = if partition == NOT_PROVIDED { "Not Provided".to_owned() } else { partition.to_string() };
        let status = if code.is_error() { format!("Error: :{}", thrown(code, None)) } else { "Successful".to_owned() };
        rows.push(vec![topic, partition, status]);
    }
    writeln!(out)?;
    Ok(print_rows(&rows, &[30, 15, 15], out)?)
}
