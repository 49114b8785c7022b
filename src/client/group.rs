//! A consumer's membership of a group: joining, synchronising, heartbeats, and committed offsets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::client::admin::{CommittedOffset, commit_request};
use crate::client::assignor::{Subscriber, range};
use crate::client::cluster::{Cluster, Coordinated};
use crate::client::connection::Connection;
use crate::client::error::ClientError;
use crate::client::settings::ConsumerSettings;
use crate::codec::reader::Reader;
use crate::codec::writer::Writer;
use crate::model::TopicPartition;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::message::Message;
use crate::protocol::messages::consumer_protocol_assignment::{
    ConsumerProtocolAssignment, TopicPartition as AssignedTopic,
};
use crate::protocol::messages::consumer_protocol_subscription::ConsumerProtocolSubscription;
use crate::protocol::messages::heartbeat::HeartbeatRequest;
use crate::protocol::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse};
use crate::protocol::messages::leave_group::{LeaveGroupRequest, MemberIdentity};
use crate::protocol::messages::offset_commit::OffsetCommitRequest;
use crate::protocol::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};

const PROTOCOL_TYPE: &str = "consumer";
const PROTOCOL_NAME: &str = "range";
/// The version in which we write subscriptions and assignments; all members read it.
const PROTOCOL_VERSION: i16 = 1;

/// What the group expects of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Stable,
    /// A rebalance is under way: join again, under the same id.
    Rejoin,
    /// The coordinator does not know the member any more: join as a new one.
    Lost,
    /// Another member has come under this one's instance id, and is the one that the group knows by it.
    Fenced,
}

/// A member's place in a generation of the group.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) member_id: String,
    pub(crate) generation_id: i32,
    pub(crate) assignment: Vec<TopicPartition>,
    /// What the assignment was computed from, if this member computed it.
    pub(crate) partition_counts: Option<BTreeMap<String, usize>>,
    connection: Arc<Connection>,
    verdict: watch::Receiver<Verdict>,
    /// The heartbeat; ends with the membership.
    _heartbeat: JoinSet<()>,
}

/// What a join needs to know; cheap to clone into its task.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) id: String,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) settings: Arc<ConsumerSettings>,
}

/// Java's `Bytes` of a subscription or assignment: a version, then the body.
fn versioned<M: Message>(message: &M) -> Result<Bytes, ClientError> {
    let mut writer = Writer::new();
    writer.i16(PROTOCOL_VERSION);
    message.encode(&mut writer, PROTOCOL_VERSION).map_err(|error| ClientError::Encode { api: M::NAME, error })?;
    Ok(writer.into_bytes().unwrap_or_default())
}

/// Reads what another member or client wrote, in whatever version.
pub(crate) fn read_versioned<M: Message>(bytes: Bytes, from: &str) -> Result<M, ClientError> {
    let mut reader = Reader::new(bytes);
    let mut read = || {
        let version = reader.i16()?;
        // Later versions only add fields at the end.
        M::decode(&mut reader, version.clamp(*M::VERSIONS.start(), *M::VERSIONS.end()))
    };
    read().map_err(|error| ClientError::Decode { address: from.to_owned(), api: M::NAME, error })
}

/// The partitions that an assignment's bytes name; none for no bytes.
pub(crate) fn assigned_partitions(bytes: &Bytes) -> Result<Vec<TopicPartition>, ClientError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let assignment: ConsumerProtocolAssignment = read_versioned(bytes.clone(), "the group's leader")?;
    let mut partitions = Vec::new();
    for topic in assignment.assigned_partitions {
        let name: Arc<str> = topic.topic.into();
        partitions.extend(topic.partitions.iter().map(|partition| TopicPartition::new(name.clone(), *partition)));
    }
    Ok(partitions)
}

impl Group {
    pub(crate) fn refused(&self, doing: &str, code: ErrorCode) -> ClientError {
        ClientError::refused(format!("{doing} group {}", self.id), code, None)
    }

    /// A connection of its own: a join is answered when the rebalance ends, and whoever shares the connection would
    /// wait as long.
    async fn connect(&self) -> Result<Arc<Connection>, ClientError> {
        let coordinator = self.cluster.find_coordinator(Coordinated::Group(&self.id)).await?;
        let mut settings = self.settings.cluster.connection.clone();
        settings.request_timeout =
            settings.request_timeout.max(self.settings.rebalance_timeout + Duration::from_secs(5));
        Connection::negotiate(&coordinator.address(), &settings).await.map(Arc::new)
    }

    /// Joins, again and again, until this member has an assignment or the group refuses it for good.
    pub(crate) async fn join(self, mut member_id: String, topics: Vec<String>) -> Result<Joined, ClientError> {
        let mut connection: Option<Arc<Connection>> = None;
        loop {
            let attempt = async {
                let connection = match connection.clone().filter(|connection| !connection.is_closed()) {
                    Some(open) => open,
                    None => self.connect().await?,
                };
                let joined = self.join_once(&connection, &mut member_id, &topics).await;
                joined.map(|joined| (connection, joined))
            };
            match attempt.await {
                Ok((connection, Some(joined))) => return self.settle_in(connection, member_id, joined),
                Ok((open, None)) => connection = Some(open),
                Err(error) if error.is_retriable() => {
                    log::debug!("join group {}: {error}", self.id);
                    connection = None;
                    sleep(self.settings.cluster.retry_backoff).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One round of join and sync. `None`: another round is due at once.
    async fn join_once(
        &self,
        connection: &Connection,
        member_id: &mut String,
        topics: &[String],
    ) -> Result<Option<(i32, Bytes, Option<BTreeMap<String, usize>>)>, ClientError> {
        let subscription = ConsumerProtocolSubscription { topics: topics.to_vec(), ..Default::default() };
        let request = JoinGroupRequest {
            group_id: self.id.clone(),
            session_timeout_ms: millis(self.settings.session_timeout),
            rebalance_timeout_ms: millis(self.settings.rebalance_timeout),
            member_id: member_id.clone(),
            group_instance_id: self.settings.group_instance_id.clone(),
            protocol_type: PROTOCOL_TYPE.to_owned(),
            protocols: vec![JoinGroupRequestProtocol {
                name: PROTOCOL_NAME.to_owned(),
                metadata: versioned(&subscription)?,
            }],
            reason: None,
        };
        let answer = connection.send(&request).await?;
        match ErrorCode::from_code(answer.error_code) {
            ErrorCode::None => member_id.clone_from(&answer.member_id),
            ErrorCode::MemberIdRequired => {
                member_id.clone_from(&answer.member_id);
                return Ok(None);
            }
            ErrorCode::UnknownMemberId => {
                member_id.clear();
                return Ok(None);
            }
            ErrorCode::RebalanceInProgress => return Ok(None),
            code => return Err(self.refused("join", code)),
        }
        let (assignments, partition_counts) = if answer.leader == *member_id && !answer.skip_assignment {
            let (assignments, counts) = self.assign(&answer).await?;
            (assignments, Some(counts))
        } else {
            (Vec::new(), None)
        };
        let request = SyncGroupRequest {
            group_id: self.id.clone(),
            generation_id: answer.generation_id,
            member_id: member_id.clone(),
            group_instance_id: self.settings.group_instance_id.clone(),
            protocol_type: Some(PROTOCOL_TYPE.to_owned()),
            protocol_name: Some(PROTOCOL_NAME.to_owned()),
            assignments,
        };
        let synced = connection.send(&request).await?;
        match ErrorCode::from_code(synced.error_code) {
            ErrorCode::None => Ok(Some((answer.generation_id, synced.assignment, partition_counts))),
            ErrorCode::RebalanceInProgress => Ok(None),
            ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration => {
                member_id.clear();
                Ok(None)
            }
            code => Err(self.refused("sync with", code)),
        }
    }

    /// The leader's part: who gets what.
    async fn assign(
        &self,
        answer: &JoinGroupResponse,
    ) -> Result<(Vec<SyncGroupRequestAssignment>, BTreeMap<String, usize>), ClientError> {
        let mut subscribers = Vec::new();
        for member in &answer.members {
            let subscription: ConsumerProtocolSubscription =
                read_versioned(member.metadata.clone(), &member.member_id)?;
            subscribers.push(Subscriber {
                instance_id: member.group_instance_id.clone(),
                member_id: member.member_id.clone(),
                topics: subscription.topics,
            });
        }
        let topics: BTreeSet<String> = subscribers.iter().flat_map(|member| member.topics.iter().cloned()).collect();
        let counts = self.partition_counts(&topics.into_iter().collect::<Vec<_>>()).await?;
        let assignments = range(subscribers, &counts)
            .into_iter()
            .map(|(member_id, topics)| {
                let assignment = ConsumerProtocolAssignment {
                    assigned_partitions: topics
                        .into_iter()
                        .map(|(topic, partitions)| AssignedTopic { topic, partitions })
                        .collect(),
                    user_data: None,
                };
                Ok(SyncGroupRequestAssignment { member_id, assignment: versioned(&assignment)? })
            })
            .collect::<Result<_, ClientError>>()?;
        Ok((assignments, counts))
    }

    /// How many partitions the existing ones of these topics have.
    pub(crate) async fn partition_counts(&self, topics: &[String]) -> Result<BTreeMap<String, usize>, ClientError> {
        if topics.is_empty() {
            return Ok(BTreeMap::new());
        }
        let metadata = self.cluster.metadata(Some(topics), self.settings.allows_auto_topic_creation).await?;
        let known = metadata.topics.into_iter().filter(|topic| topic.error_code == ErrorCode::None.code());
        Ok(known.filter_map(|topic| Some((topic.name?, topic.partitions.len()))).collect())
    }

    fn settle_in(
        &self,
        connection: Arc<Connection>,
        member_id: String,
        (generation_id, assignment, partition_counts): (i32, Bytes, Option<BTreeMap<String, usize>>),
    ) -> Result<Joined, ClientError> {
        let (sender, verdict) = watch::channel(Verdict::Stable);
        let mut heartbeat = JoinSet::new();
        let request = HeartbeatRequest {
            group_id: self.id.clone(),
            generation_id,
            member_id: member_id.clone(),
            group_instance_id: self.settings.group_instance_id.clone(),
        };
        heartbeat.spawn(self.clone().beat(Arc::clone(&connection), request, sender));
        let assignment = assigned_partitions(&assignment)?;
        Ok(Joined {
            member_id,
            generation_id,
            assignment,
            partition_counts,
            connection,
            verdict,
            _heartbeat: heartbeat,
        })
    }

    /// Heartbeats until the group wants something else of the member.
    async fn beat(self, mut connection: Arc<Connection>, request: HeartbeatRequest, verdict: watch::Sender<Verdict>) {
        let mut last_success = Instant::now();
        loop {
            sleep(self.settings.heartbeat_interval).await;
            let attempt = async {
                if connection.is_closed() {
                    connection = self.connect().await?;
                }
                connection.send(&request).await
            };
            // The connection itself would wait as long as for a join.
            let answer = timeout(self.settings.session_timeout, attempt).await;
            let code = match answer {
                Ok(Ok(answer)) => ErrorCode::from_code(answer.error_code),
                Ok(Err(error)) => {
                    log::debug!("heartbeat to group {}: {error}", self.id);
                    ErrorCode::NetworkException
                }
                Err(_) => ErrorCode::RequestTimedOut,
            };
            let change = match code {
                ErrorCode::None => {
                    last_success = Instant::now();
                    None
                }
                ErrorCode::RebalanceInProgress => Some(Verdict::Rejoin),
                ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration => Some(Verdict::Lost),
                ErrorCode::FencedInstanceId => Some(Verdict::Fenced),
                _ if last_success.elapsed() > self.settings.session_timeout => Some(Verdict::Lost),
                ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable => {
                    if let Ok(moved) = self.connect().await {
                        connection = moved;
                    }
                    None
                }
                _ => None,
            };
            if let Some(change) = change {
                // Nobody listens when the consumer has gone.
                let _ = verdict.send(change);
                return;
            }
        }
    }

    /// Stores positions as a member of the generation.
    pub(crate) async fn commit(
        &self,
        joined: &Joined,
        positions: &BTreeMap<TopicPartition, CommittedOffset>,
    ) -> Result<(), ClientError> {
        if positions.is_empty() {
            return Ok(());
        }
        let request = OffsetCommitRequest {
            group_id: self.id.clone(),
            generation_id_or_member_epoch: joined.generation_id,
            member_id: joined.member_id.clone(),
            group_instance_id: self.settings.group_instance_id.clone(),
            ..commit_request(positions)
        };
        let request = &request;
        let connection = &joined.connection;
        let allowed = self.settings.cluster.connection.request_timeout;
        crate::client::connection::retried("commit offsets", allowed, self.settings.cluster.retry_backoff, || async {
            let answer = match connection.is_closed() {
                true => self.cluster.coordinator(&self.id).await?.send(request).await?,
                false => connection.send(request).await?,
            };
            let codes = answer.topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.error_code);
            match codes.map(ErrorCode::from_code).find(|code| code.is_error()) {
                Some(code) => Err(self.refused("commit offsets of", code)),
                None => Ok(()),
            }
        })
        .await
    }

    /// Tells the group that the member goes. A static member does not: it may come back under the same id.
    pub(crate) async fn leave(&self, joined: &Joined) {
        if self.settings.group_instance_id.is_some() {
            return;
        }
        let leave = async {
            // The coordinator may have moved or come back since the join.
            let connection = match joined.connection.is_closed() {
                true => self.cluster.coordinator(&self.id).await?,
                false => Arc::clone(&joined.connection),
            };
            let version = connection.version_of::<LeaveGroupRequest>(i16::MAX)?;
            let identity = MemberIdentity {
                member_id: joined.member_id.clone(),
                reason: Some("the consumer is being closed".to_owned()),
                ..Default::default()
            };
            let request = LeaveGroupRequest {
                group_id: self.id.clone(),
                member_id: if version < 3 { joined.member_id.clone() } else { String::new() },
                members: if version < 3 { Vec::new() } else { vec![identity] },
            };
            connection.send_at(&request, version).await
        };
        // The coordinator finds out by itself if it does not hear this.
        if let Ok(Err(error)) = timeout(Duration::from_secs(5), leave).await {
            log::debug!("leave group {}: {error}", self.id);
        }
    }
}

impl Joined {
    pub(crate) fn verdict(&self) -> Verdict {
        *self.verdict.borrow()
    }

    /// Resolves when the group wants something of the member.
    pub(crate) async fn disturbed(&mut self) {
        // A heartbeat that ended without a verdict cannot be; waiting on is as good as anything.
        if self.verdict.wait_for(|verdict| *verdict != Verdict::Stable).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
