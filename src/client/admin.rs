//! Requests of an admin client, sent to the brokers that must answer them and asked again while the errors may pass.

use std::collections::{BTreeMap, HashMap};

use crate::client::cluster::{Cluster, Coordinated, Node};
use crate::client::error::{ClientError, checked, is_retriable_code};
use crate::model::{BrokerId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use crate::protocol::messages::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResult,
};
use crate::protocol::messages::describe_groups::{DescribeGroupsRequest, DescribedGroup};
use crate::protocol::messages::list_groups::{ListGroupsRequest, ListedGroup};
use crate::protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use crate::protocol::messages::list_partition_reassignments::{
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, OngoingPartitionReassignment,
    OngoingTopicReassignment,
};
use crate::protocol::messages::metadata::MetadataResponseTopic;
use crate::protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use crate::protocol::messages::offset_fetch::{OffsetFetchRequest, OffsetFetchRequestTopic};

/// Timestamps that ask for a position rather than a time.
pub const LATEST: i64 = -1;
pub const EARLIEST: i64 = -2;

/// Resource types of the config APIs. Source: kafka 3.9.1 clients/.../common/config/ConfigResource.java.
pub const TOPIC_RESOURCE: i8 = 2;
pub const BROKER_RESOURCE: i8 = 4;
pub const BROKER_LOGGER_RESOURCE: i8 = 8;

/// A position in a partition, as ListOffsets finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundOffset {
    /// -1 when nothing matches.
    pub offset: i64,
    pub leader_epoch: i32,
}

/// `request.timeout.ms` of an admin client, which is how long the replicas may take.
const DELETE_RECORDS_TIMEOUT_MS: i32 = 30_000;

/// Per partition the position, or why there is none.
pub type FoundOffsets = BTreeMap<TopicPartition, Result<FoundOffset, ErrorCode>>;

/// Partitions that are moving to other replicas.
pub type Ongoing = BTreeMap<TopicPartition, OngoingPartitionReassignment>;

/// Which of a group's positions is meant while a transaction that commits others is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// The one that counts until then.
    AsKnown,
    /// None: it is waited for, as whoever reads on from there must (KIP-447).
    Stable,
}

/// A group's position in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: Option<String>,
}

/// Whether such a group is one of consumers, as one without members may be.
pub(crate) fn is_of_consumers(protocol_type: &str) -> bool {
    matches!(protocol_type, "" | "consumer")
}

/// Groups partitions by topic, in order.
pub(crate) fn by_topic<'a, T>(
    partitions: impl IntoIterator<Item = (&'a TopicPartition, T)>,
) -> BTreeMap<&'a str, Vec<(i32, T)>> {
    let mut topics: BTreeMap<&str, Vec<(i32, T)>> = BTreeMap::new();
    for (partition, value) in partitions {
        topics.entry(&partition.topic).or_default().push((partition.partition, value));
    }
    topics
}

impl Cluster {
    /// The partitions that are moving to other replicas, as the controller knows them.
    pub async fn partition_reassignments(&self) -> Result<Ongoing, ClientError> {
        let request = ListPartitionReassignmentsRequest { timeout_ms: 60_000, topics: None };
        let code_of = |answer: &ListPartitionReassignmentsResponse| ErrorCode::from_code(answer.error_code);
        let answer = self.send_to_controller(&request, i16::MAX, code_of).await?;
        checked("list partition reassignments", answer.error_code, answer.error_message)?;
        let of_topic = |topic: OngoingTopicReassignment| {
            let name = topic.name;
            let partitions = topic.partitions.into_iter();
            partitions.map(move |partition| (TopicPartition::new(name.as_str(), partition.partition_index), partition))
        };
        Ok(answer.topics.into_iter().flat_map(of_topic).collect())
    }

    /// The names of all topics, sorted.
    pub async fn topic_names(&self) -> Result<Vec<String>, ClientError> {
        let metadata = self.retried("list topics", || self.metadata(None, false)).await?;
        let mut names: Vec<String> = metadata.topics.into_iter().filter_map(|topic| topic.name).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Metadata of the given topics; an unknown one is an error, which is given some time to pass.
    pub async fn describe_topics(&self, names: &[String]) -> Result<Vec<MetadataResponseTopic>, ClientError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut metadata = self
            .retried("describe topics", || async {
                let metadata = self.metadata(Some(names), false).await?;
                for topic in &metadata.topics {
                    let name = topic.name.as_deref().unwrap_or_default();
                    let code = ErrorCode::from_code(topic.error_code);
                    match code {
                        ErrorCode::None => {}
                        ErrorCode::LeaderNotAvailable => {
                            return Err(ClientError::refused(format!("describe topic {name}"), code, None));
                        }
                        _ => return Ok(Err(ClientError::refused(format!("describe topic {name}"), code, None))),
                    }
                }
                Ok(Ok(metadata))
            })
            .await??;
        for topic in &mut metadata.topics {
            topic.partitions.sort_unstable_by_key(|partition| partition.partition_index);
        }
        Ok(metadata.topics)
    }

    /// Looks up a position per partition at the partitions' leaders. A partition that fails for good carries its code, and
    /// REQUEST_TIMED_OUT one that has failed until the time was over: it takes no other with it.
    pub async fn list_offsets(
        &self,
        asked: &BTreeMap<TopicPartition, i64>,
        is_read_committed: bool,
    ) -> Result<FoundOffsets, ClientError> {
        let found = std::sync::Mutex::new(BTreeMap::new());
        let listed = self
            .retried("list offsets", || async {
                let known = found.lock().expect("no holder panics").clone();
                let missing = asked.iter().filter(|(p, _)| !known.contains_key(*p)).map(|(p, t)| (p.clone(), *t));
                let (found_now, retry) = self.list_offsets_once(&missing.collect(), is_read_committed).await?;
                found.lock().expect("no holder panics").extend(found_now);
                retry.map_or(Ok(()), Err)
            })
            .await;
        let mut found = found.into_inner().expect("no holder panics");
        match listed {
            Ok(()) => {}
            Err(error @ ClientError::GaveUp { .. }) => {
                log::debug!("{error}");
                let missing: Vec<TopicPartition> = asked.keys().filter(|p| !found.contains_key(*p)).cloned().collect();
                found.extend(missing.into_iter().map(|partition| (partition, Err(ErrorCode::RequestTimedOut))));
            }
            Err(error) => return Err(error),
        }
        Ok(found)
    }

    /// One attempt at the same: what was found, and why some may only be found later.
    /// Source: kafka 3.9.0-rc3 clients/.../admin/internals/{ListOffsetsHandler,PartitionLeaderStrategy}.java.
    pub(crate) async fn list_offsets_once(
        &self,
        asked: &BTreeMap<TopicPartition, i64>,
        is_read_committed: bool,
    ) -> Result<(FoundOffsets, Option<ClientError>), ClientError> {
        let mut topics: Vec<String> = asked.keys().map(|partition| partition.topic.to_string()).collect();
        topics.dedup();
        let mut found = BTreeMap::new();
        let mut retry = None;
        let (leaders, refused) = self.leaders_and_refusals(&topics).await?;
        let mut by_leader: BTreeMap<BrokerId, Vec<(&TopicPartition, i64)>> = BTreeMap::new();
        for (partition, timestamp) in asked {
            match (leaders.get(partition), refused.get(&*partition.topic)) {
                (Some(leader), _) => by_leader.entry(*leader).or_default().push((partition, *timestamp)),
                (None, Some(code)) if *code != ErrorCode::LeaderNotAvailable => {
                    found.insert(partition.clone(), Err(*code));
                }
                // A partition that is not there may be one that the broker has not heard of.
                (None, _) => {
                    let doing = format!("list offsets of {partition}");
                    retry = Some(ClientError::refused(doing, ErrorCode::LeaderNotAvailable, None));
                }
            }
        }
        for (leader, partitions) in by_leader {
            let request = list_offsets_request(partitions, is_read_committed);
            let answer = async { self.broker(leader).await?.send(&request).await };
            let answer = match answer.await {
                Ok(answer) => answer,
                Err(error) if error.is_retriable() => {
                    retry = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            for topic in &answer.topics {
                let name: std::sync::Arc<str> = topic.name.as_str().into();
                for partition in &topic.partitions {
                    let key = TopicPartition::new(name.clone(), partition.partition_index);
                    match ErrorCode::from_code(partition.error_code) {
                        ErrorCode::None => {
                            let (offset, leader_epoch) = (partition.offset, partition.leader_epoch);
                            found.insert(key, Ok(FoundOffset { offset, leader_epoch }));
                        }
                        code if is_retriable_code(code) => {
                            retry = Some(ClientError::refused(format!("list offsets of {key}"), code, None));
                        }
                        code => {
                            found.insert(key, Err(code));
                        }
                    }
                }
            }
        }
        Ok((found, retry))
    }

    /// Deletes the records below an offset each, or with -1 all that are committed, at the partitions' leaders. Gives the low
    /// watermarks. A partition that fails for good carries its code, and REQUEST_TIMED_OUT one that has failed until the
    /// time was over.
    pub async fn delete_records(
        &self,
        asked: &BTreeMap<TopicPartition, i64>,
    ) -> Result<BTreeMap<TopicPartition, Result<i64, ErrorCode>>, ClientError> {
        let done = std::sync::Mutex::new(BTreeMap::new());
        let ended = self
            .retried("delete records", || async {
                let known: BTreeMap<TopicPartition, _> = done.lock().expect("no holder panics").clone();
                let missing: BTreeMap<&TopicPartition, i64> = asked
                    .iter()
                    .filter(|(name, _)| !known.contains_key(*name))
                    .map(|(name, offset)| (name, *offset))
                    .collect();
                let (done_now, retry) = self.delete_records_once(&missing).await?;
                done.lock().expect("no holder panics").extend(done_now);
                retry.map_or(Ok(()), Err)
            })
            .await;
        let mut done = done.into_inner().expect("no holder panics");
        match ended {
            Err(error) if !matches!(error, ClientError::GaveUp { .. }) => return Err(error),
            Err(error) => log::debug!("{error}"),
            Ok(()) => {}
        }
        for name in asked.keys() {
            done.entry(name.clone()).or_insert(Err(ErrorCode::RequestTimedOut));
        }
        Ok(done)
    }

    async fn delete_records_once(
        &self,
        asked: &BTreeMap<&TopicPartition, i64>,
    ) -> Result<(BTreeMap<TopicPartition, Result<i64, ErrorCode>>, Option<ClientError>), ClientError> {
        let mut topics: Vec<String> = asked.keys().map(|partition| partition.topic.to_string()).collect();
        topics.dedup();
        let leaders = self.leaders(&topics).await?;
        let mut done = BTreeMap::new();
        let mut retry = None;
        let mut by_leader: BTreeMap<BrokerId, Vec<(&TopicPartition, i64)>> = BTreeMap::new();
        for (name, offset) in asked {
            match leaders.get(*name) {
                Some(leader) => by_leader.entry(*leader).or_default().push((name, *offset)),
                None => {
                    let doing = format!("delete records of {name}");
                    retry = Some(ClientError::refused(doing, ErrorCode::LeaderNotAvailable, None));
                }
            }
        }
        for (leader, partitions) in by_leader {
            let of_topic = |(name, partitions): (&str, Vec<(i32, i64)>)| DeleteRecordsTopic {
                name: name.to_owned(),
                partitions: partitions
                    .into_iter()
                    .map(|(partition_index, offset)| DeleteRecordsPartition { partition_index, offset })
                    .collect(),
            };
            let topics = by_topic(partitions).into_iter().map(of_topic).collect();
            let request = DeleteRecordsRequest { topics, timeout_ms: DELETE_RECORDS_TIMEOUT_MS };
            let answer = match async { self.broker(leader).await?.send(&request).await }.await {
                Ok(answer) => answer,
                Err(error) if error.is_retriable() => {
                    retry = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            for topic in &answer.topics {
                let name: std::sync::Arc<str> = topic.name.as_str().into();
                for partition in &topic.partitions {
                    let key = TopicPartition::new(name.clone(), partition.partition_index);
                    match ErrorCode::from_code(partition.error_code) {
                        ErrorCode::None => drop(done.insert(key, Ok(partition.low_watermark))),
                        code if is_retriable_code(code) => {
                            retry = Some(ClientError::refused(format!("delete records of {key}"), code, None));
                        }
                        code => drop(done.insert(key, Err(code))),
                    }
                }
            }
        }
        Ok((done, retry))
    }

    /// The leader of every partition of the topics that has one.
    pub async fn leaders(&self, topics: &[String]) -> Result<HashMap<TopicPartition, BrokerId>, ClientError> {
        self.leaders_and_refusals(topics).await.map(|(leaders, _)| leaders)
    }

    /// The same, and what the broker says of topics that it tells nothing about.
    async fn leaders_and_refusals(
        &self,
        topics: &[String],
    ) -> Result<(HashMap<TopicPartition, BrokerId>, BTreeMap<String, ErrorCode>), ClientError> {
        let metadata = self.metadata(Some(topics), false).await?;
        let mut leaders = HashMap::new();
        let mut refused = BTreeMap::new();
        for topic in metadata.topics {
            let name = topic.name.unwrap_or_default();
            let code = ErrorCode::from_code(topic.error_code);
            if code.is_error() {
                refused.insert(name, code);
                continue;
            }
            let name: std::sync::Arc<str> = name.into();
            for partition in topic.partitions.iter().filter(|partition| partition.leader_id >= 0) {
                let key = TopicPartition::new(name.clone(), partition.partition_index);
                leaders.insert(key, BrokerId(partition.leader_id));
            }
        }
        Ok((leaders, refused))
    }

    /// Configs of topics or brokers, or why there are none, by name. A broker's are asked of that broker.
    pub async fn describe_configs(
        &self,
        resource_type: i8,
        names: &[String],
        include_synonyms: bool,
    ) -> Result<BTreeMap<String, Result<DescribeConfigsResult, ClientError>>, ClientError> {
        let mut results = BTreeMap::new();
        let is_broker = matches!(resource_type, BROKER_RESOURCE | BROKER_LOGGER_RESOURCE);
        let asks: Vec<&[String]> = if is_broker { names.chunks(1).collect() } else { vec![names] };
        for ask in asks.into_iter().filter(|ask| !ask.is_empty()) {
            let request = DescribeConfigsRequest {
                resources: ask
                    .iter()
                    .map(|name| DescribeConfigsResource {
                        resource_type,
                        resource_name: name.clone(),
                        configuration_keys: None,
                    })
                    .collect(),
                include_synonyms,
                ..Default::default()
            };
            let broker = ask.first().filter(|_| is_broker).and_then(|name| name.parse().ok()).map(BrokerId);
            let answer = match broker {
                Some(id) => {
                    self.retried("describe configs", || async { self.broker(id).await?.send(&request).await }).await?
                }
                None => self.send_to_any(&request).await?,
            };
            results.extend(answer.results.into_vec().into_iter().map(|mut result| {
                let doing = format!("describe configs of {}", result.resource_name);
                let refusal = checked(doing, result.error_code, result.error_message.take());
                (result.resource_name.clone(), refusal.map(|()| result))
            }));
        }
        Ok(results)
    }

    /// The groups that every broker coordinates; brokers that do not answer fail the call.
    pub async fn list_groups(&self, states: &[String], types: &[String]) -> Result<Vec<ListedGroup>, ClientError> {
        self.retried("list groups", || self.metadata(Some(&[]), false)).await?;
        let request = ListGroupsRequest { states_filter: states.to_vec(), types_filter: types.to_vec() };
        let request = &request;
        let mut groups: BTreeMap<String, ListedGroup> = BTreeMap::new();
        for node in self.nodes() {
            let answer = self
                .retried("list groups", || async {
                    let answer = self.broker(node.id).await?.send(request).await?;
                    checked(format!("list groups of broker {}", node.id), answer.error_code, None)?;
                    Ok(answer)
                })
                .await?;
            groups.extend(answer.groups.into_iter().map(|group| (group.group_id.clone(), group)));
        }
        // Groups of other kinds, as Connect's workers, have no offsets to show.
        Ok(groups.into_values().filter(|group| is_of_consumers(&group.protocol_type)).collect())
    }

    /// State and members of a group, and its coordinator.
    pub async fn describe_group(&self, group: &str) -> Result<(DescribedGroup, Node), ClientError> {
        let request = DescribeGroupsRequest { groups: vec![group.to_owned()], include_authorized_operations: false };
        let request = &request;
        self.retried("describe group", || async {
            let coordinator = self.find_coordinator(Coordinated::Group(group)).await?;
            let answer = self.broker(coordinator.id).await?.send(request).await?;
            let described = answer.groups.into_iter().next().ok_or_else(|| {
                ClientError::refused(format!("describe group {group}"), ErrorCode::UnknownServerError, None)
            })?;
            checked(format!("describe group {group}"), described.error_code, None)?;
            Ok((described, coordinator))
        })
        .await
    }

    /// The group's positions; `None` asks for all it has. A commit of a position below zero says that there is none.
    pub async fn committed_offsets(
        &self,
        group: &str,
        partitions: Option<&[TopicPartition]>,
        committed: Committed,
    ) -> Result<BTreeMap<TopicPartition, Option<CommittedOffset>>, ClientError> {
        let topics = partitions.map(|partitions| {
            by_topic(partitions.iter().map(|partition| (partition, ())))
                .into_iter()
                .map(|(name, partitions)| OffsetFetchRequestTopic {
                    name: name.to_owned(),
                    partition_indexes: partitions.into_iter().map(|(index, ())| index).collect(),
                })
                .collect()
        });
        let request = OffsetFetchRequest { group_id: group.to_owned(), topics, ..Default::default() };
        let request = &request;
        self.retried("fetch committed offsets", || async {
            let coordinator = self.coordinator(group).await?;
            // From version 8 on, groups come in batches; one group needs none of that.
            let version = coordinator.version_of::<OffsetFetchRequest>(7)?;
            // Older brokers cannot be asked for it; Kafka's consumer takes what they say.
            let require_stable = committed == Committed::Stable && version >= 7;
            let answer =
                coordinator.send_at(&OffsetFetchRequest { require_stable, ..request.clone() }, version).await?;
            let doing = || format!("fetch offsets of group {group}");
            checked(doing(), answer.error_code, None)?;
            let mut committed = BTreeMap::new();
            for topic in answer.topics {
                let name: std::sync::Arc<str> = topic.name.as_str().into();
                for partition in topic.partitions {
                    checked(doing(), partition.error_code, None)?;
                    let key = TopicPartition::new(name.clone(), partition.partition_index);
                    let (offset, leader_epoch) = (partition.committed_offset, partition.committed_leader_epoch);
                    let position = CommittedOffset { offset, leader_epoch, metadata: partition.metadata };
                    committed.insert(key, Some(position).filter(|position| position.offset >= 0));
                }
            }
            Ok(committed)
        })
        .await
    }

    /// Stores positions for a group that has no members.
    pub async fn alter_committed_offsets(
        &self,
        group: &str,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<(), ClientError> {
        let positions: BTreeMap<TopicPartition, CommittedOffset> = offsets
            .iter()
            .map(|(partition, offset)| {
                let metadata = Some(String::new());
                (partition.clone(), CommittedOffset { offset: *offset, leader_epoch: -1, metadata })
            })
            .collect();
        let request = OffsetCommitRequest { group_id: group.to_owned(), ..commit_request(&positions) };
        let request = &request;
        self.retried("commit offsets", || async {
            let coordinator = self.coordinator(group).await?;
            let answer = coordinator.send(request).await?;
            for topic in &answer.topics {
                for partition in &topic.partitions {
                    let doing =
                        format!("commit offset of {}-{} for group {group}", topic.name, partition.partition_index);
                    checked(doing, partition.error_code, None)?;
                }
            }
            Ok(())
        })
        .await
    }
}

fn list_offsets_request(asked: Vec<(&TopicPartition, i64)>, is_read_committed: bool) -> ListOffsetsRequest {
    let topics = by_topic(asked).into_iter().map(|(name, partitions)| ListOffsetsTopic {
        name: name.to_owned(),
        partitions: partitions
            .into_iter()
            .map(|(partition_index, timestamp)| ListOffsetsPartition {
                partition_index,
                timestamp,
                ..Default::default()
            })
            .collect(),
    });
    ListOffsetsRequest { replica_id: -1, isolation_level: i8::from(is_read_committed), topics: topics.collect() }
}

/// A commit of the positions, of no group and no member yet.
pub(crate) fn commit_request(positions: &BTreeMap<TopicPartition, CommittedOffset>) -> OffsetCommitRequest {
    OffsetCommitRequest {
        topics: by_topic(positions)
            .into_iter()
            .map(|(name, partitions)| OffsetCommitRequestTopic {
                name: name.to_owned(),
                partitions: partitions
                    .into_iter()
                    .map(|(partition_index, position)| OffsetCommitRequestPartition {
                        partition_index,
                        committed_offset: position.offset,
                        committed_leader_epoch: position.leader_epoch,
                        committed_metadata: Some(position.metadata.clone().unwrap_or_default()),
                        ..Default::default()
                    })
                    .collect(),
            })
            .collect(),
        ..Default::default()
    }
}
