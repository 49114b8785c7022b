//! One connection to each live broker, the controller's own among them. Requests go out one after the other; one that
//! fails is repeated until the broker has answered it or is no longer live, since no later one may overtake it.
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use log::{debug, error, info, warn};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::client::connection::{Connection, ConnectionSettings};
use crate::client::error::ClientError;
use crate::config::sections::ControllerConfig;
use crate::controller::active::{Deleted, Event, Hosted};
use crate::controller::requests::{ControlRequest, Outgoing};
use crate::controller::state::Broker;
use crate::controller::task::Input;
use crate::controller::task::watches::reap;
use crate::model::{BrokerEpoch, BrokerId, ControllerEpoch, TopicId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::message::Message;
use crate::protocol::messages::leader_and_isr::{LeaderAndIsrRequest, LeaderAndIsrResponse};
use crate::protocol::messages::stop_replica::{StopReplicaRequest, StopReplicaResponse};
use crate::protocol::messages::update_metadata::UpdateMetadataRequest;

/// Between two attempts at the same request.
const RETRY_BACKOFF: Duration = Duration::from_millis(100);

pub(super) struct Channels {
    controller: BrokerId,
    epoch: ControllerEpoch,
    listener: String,
    settings: ConnectionSettings,
    answers: mpsc::Sender<Input>,
    channels: HashMap<BrokerId, Channel>,
    tasks: JoinSet<()>,
}

struct Channel {
    /// Unbounded: the controller must not wait for one slow broker, and a broker that stays silent loses its session,
    /// and with it this queue.
    requests: mpsc::UnboundedSender<Outgoing>,
    task: AbortHandle,
}

impl Channels {
    pub fn new(
        controller: BrokerId,
        epoch: ControllerEpoch,
        config: &ControllerConfig,
        answers: mpsc::Sender<Input>,
    ) -> Channels {
        let listener =
            config.control_plane_listener_name.clone().unwrap_or_else(|| config.inter_broker_listener_name.clone());
        let settings = ConnectionSettings {
            client_id: controller.to_string(),
            connect_timeout: Duration::from_millis(config.controller_socket_timeout_ms),
            request_timeout: Duration::from_millis(u64::try_from(config.request_timeout_ms).unwrap_or(30_000)),
            resets: true,
            ..ConnectionSettings::default()
        };
        Channels { controller, epoch, listener, settings, answers, channels: HashMap::new(), tasks: JoinSet::new() }
    }

    pub fn connect(&mut self, broker: &Broker) {
        self.disconnect(broker.id);
        let Some(endpoint) = broker.endpoint(&self.listener) else {
            error!(
                "[Controller id={}] broker {} has no listener {}; it gets no requests from this controller",
                self.controller, broker.id, self.listener
            );
            return;
        };
        let (requests, queue) = mpsc::unbounded_channel();
        let sender = RequestSendTask {
            name: format!("[RequestSendThread controllerId={}]", self.controller),
            address: endpoint.address(),
            settings: self.settings.clone(),
            broker: broker.id,
            broker_epoch: broker.epoch,
            epoch: self.epoch,
            answers: self.answers.clone(),
        };
        let task = self.tasks.spawn(sender.run(queue));
        self.channels.insert(broker.id, Channel { requests, task });
        reap(&mut self.tasks);
    }

    pub fn disconnect(&mut self, broker: BrokerId) {
        if let Some(channel) = self.channels.remove(&broker) {
            channel.task.abort();
        }
    }

    /// Requests to brokers without a channel are dropped.
    pub fn send(&mut self, outgoing: Outgoing) {
        if let Some(channel) = self.channels.get(&outgoing.to) {
            channel.requests.send(outgoing).expect("a task that ended has no channel, unless it panicked");
        }
    }
}

struct RequestSendTask {
    name: String,
    address: String,
    settings: ConnectionSettings,
    broker: BrokerId,
    broker_epoch: BrokerEpoch,
    epoch: ControllerEpoch,
    answers: mpsc::Sender<Input>,
}

impl RequestSendTask {
    async fn run(self, mut queue: mpsc::UnboundedReceiver<Outgoing>) {
        let mut connection: Option<Connection> = None;
        while let Some(outgoing) = queue.recv().await {
            let mut complained = false;
            let event = loop {
                match self.attempt(&mut connection, &outgoing).await {
                    Ok(event) => break event,
                    Err(error @ ClientError::Encode { .. }) => {
                        error!("{} a request to broker {} is dropped: {error}", self.name, self.broker);
                        break None;
                    }
                    Err(error) => {
                        connection = None;
                        if !complained {
                            warn!(
                                "{} Controller {} epoch {} fails to send request to broker {}, trying again: {error}",
                                self.name, self.settings.client_id, self.epoch, self.broker
                            );
                            complained = true;
                        }
                        tokio::time::sleep(RETRY_BACKOFF).await;
                    }
                }
            };
            if let Some(event) = event
                && self.answers.send(Input::Event { epoch: self.epoch, event }).await.is_err()
            {
                return;
            }
        }
    }

    async fn attempt(
        &self,
        connection: &mut Option<Connection>,
        outgoing: &Outgoing,
    ) -> Result<Option<Event>, ClientError> {
        let connection = match connection {
            Some(connection) if !connection.is_closed() => connection,
            _ => {
                let opened = Connection::connect(&self.address, &self.settings).await?;
                info!(
                    "{} Controller {} connected to {} for sending state change requests",
                    self.name, self.settings.client_id, self.address
                );
                connection.insert(opened)
            }
        };
        let (broker, broker_epoch) = (self.broker, self.broker_epoch);
        match &outgoing.request {
            ControlRequest::LeaderAndIsr(request) => {
                let response = connection.send_at(request, outgoing.version).await?;
                self.complain("LeaderAndIsr", response.error_code);
                let hosted = hosted(request, &response);
                Ok(Some(Event::LeaderAndIsrAnswered { broker, broker_epoch, hosted }))
            }
            ControlRequest::UpdateMetadata(announcement) => {
                let encode_error = |error| ClientError::Encode { api: UpdateMetadataRequest::NAME, error };
                let body = announcement.encoded().map_err(encode_error)?;
                let response = connection.send_written::<UpdateMetadataRequest>(&body, outgoing.version).await?;
                self.complain("UpdateMetadata", response.error_code);
                Ok(None)
            }
            ControlRequest::StopReplica(request) => {
                let response = connection.send_at(request, outgoing.version).await?;
                self.complain("StopReplica", response.error_code);
                let deleted = deleted(request, &response);
                Ok((!deleted.is_empty()).then_some(Event::StopReplicaAnswered { broker, broker_epoch, deleted }))
            }
        }
    }

    fn complain(&self, api: &str, code: i16) {
        let code = ErrorCode::from_code(code);
        if code.is_error() {
            warn!("{} broker {} answers {api} with {code}", self.name, self.broker);
        } else {
            debug!("{} broker {} answers {api}", self.name, self.broker);
        }
    }
}

/// Whether each partition could be hosted; an error for the whole request says nothing about any.
pub(crate) fn hosted(request: &LeaderAndIsrRequest, response: &LeaderAndIsrResponse) -> Vec<(TopicPartition, Hosted)> {
    if ErrorCode::from_code(response.error_code).is_error() {
        return Vec::new();
    }
    let verdict = |code: i16| match ErrorCode::from_code(code) {
        // It has heard of that or more before, and the answer was lost: what is offline is told from that first, here as in
        // kafka 3.9.0-rc3 core/src/main/scala/kafka/server/ReplicaManager.scala (becomeLeaderOrFollower).
        ErrorCode::None | ErrorCode::StaleControllerEpoch => Some(Hosted::Yes),
        ErrorCode::KafkaStorageError => Some(Hosted::OnOfflineDir),
        ErrorCode::InconsistentTopicId => Some(Hosted::NotBesideEarlier),
        _ => None,
    };
    let by_name = response.partition_errors.iter().filter_map(|error| {
        let partition = TopicPartition::new(error.topic_name.as_str(), error.partition_index);
        Some((partition, verdict(error.error_code)?))
    });
    // From version 5 on the answer names topics by id alone.
    let asked = request.topic_states.iter().filter(|topic| !topic.topic_id.is_zero());
    let names: HashMap<TopicId, &str> = asked.map(|topic| (topic.topic_id, topic.topic_name.as_str())).collect();
    let by_id = response.topics.iter().flat_map(|topic| {
        let name = names.get(&topic.topic_id).copied();
        topic.partition_errors.iter().filter_map(move |error| {
            let partition = TopicPartition::new(name?, error.partition_index);
            Some((partition, verdict(error.error_code)?))
        })
    });
    by_name.chain(by_id).collect()
}

/// What became of the partitions that the request wanted deleted.
pub(crate) fn deleted(request: &StopReplicaRequest, response: &StopReplicaResponse) -> Vec<(TopicPartition, Deleted)> {
    let from_v3 = request.topic_states.iter().flat_map(|topic| {
        let deleted = topic.partition_states.iter().filter(|partition| partition.delete_partition);
        deleted.map(|partition| TopicPartition::new(topic.topic_name.as_str(), partition.partition_index))
    });
    let from_v1 = request.topics.iter().flat_map(|topic| {
        topic.partition_indexes.iter().map(|partition| TopicPartition::new(topic.name.as_str(), *partition))
    });
    let from_v0 = request
        .ungrouped_partitions
        .iter()
        .map(|partition| TopicPartition::new(partition.topic_name.as_str(), partition.partition_index));
    let before_v3 = from_v1.chain(from_v0).filter(|_| request.delete_partitions);
    let is_admitted = !ErrorCode::from_code(response.error_code).is_error();
    let errors = response.partition_errors.iter().filter(|error| ErrorCode::from_code(error.error_code).is_error());
    let errors: HashSet<(&str, i32)> = errors.map(|error| (error.topic_name.as_str(), error.partition_index)).collect();
    let failed = |partition: &TopicPartition| errors.contains(&(&*partition.topic, partition.partition));
    from_v3
        .chain(before_v3)
        .map(|partition| {
            let outcome = match failed(&partition) {
                _ if !is_admitted => Deleted::NotAdmitted,
                true => Deleted::Refused,
                false => Deleted::Yes,
            };
            (partition, outcome)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::messages::leader_and_isr::{
        LeaderAndIsrPartitionError, LeaderAndIsrTopicError, LeaderAndIsrTopicState,
    };
    use crate::protocol::messages::stop_replica::{
        StopReplicaPartitionError, StopReplicaPartitionState, StopReplicaTopicState,
    };

    #[test]
    fn an_answer_says_of_each_partition_whether_it_is_hosted() {
        let id = TopicId([9; 16]);
        let topic =
            LeaderAndIsrTopicState { topic_name: "t".to_owned(), topic_id: id, ..LeaderAndIsrTopicState::default() };
        let request = LeaderAndIsrRequest { topic_states: vec![topic], ..LeaderAndIsrRequest::default() };
        let codes = [
            ErrorCode::None,
            ErrorCode::KafkaStorageError,
            ErrorCode::InconsistentTopicId,
            ErrorCode::StaleControllerEpoch,
            ErrorCode::UnknownTopicOrPartition,
        ];
        let errors = |topic_name: &str| -> Vec<LeaderAndIsrPartitionError> {
            let error = |(partition_index, code): (i32, ErrorCode)| LeaderAndIsrPartitionError {
                topic_name: topic_name.to_owned(),
                partition_index,
                error_code: code.code(),
            };
            (0..).zip(codes).map(error).collect()
        };
        let by_name = LeaderAndIsrResponse { partition_errors: errors("t"), ..LeaderAndIsrResponse::default() };
        let of_topic = LeaderAndIsrTopicError { topic_id: id, partition_errors: errors("") };
        let by_id = LeaderAndIsrResponse { topics: vec![of_topic], ..LeaderAndIsrResponse::default() };
        let expected = [Hosted::Yes, Hosted::OnOfflineDir, Hosted::NotBesideEarlier, Hosted::Yes];
        let expected: Vec<_> = (0..).zip(expected).map(|(at, hosted)| (TopicPartition::new("t", at), hosted)).collect();
        for mut response in [by_name, by_id] {
            assert_eq!(hosted(&request, &response), expected);
            response.error_code = ErrorCode::StaleControllerEpoch.code();
            assert_eq!(hosted(&request, &response), []);
        }
    }

    #[test]
    fn an_answer_says_of_each_partition_whether_it_was_deleted() {
        let states = (0..2).map(|partition_index| StopReplicaPartitionState {
            partition_index,
            delete_partition: true,
            ..StopReplicaPartitionState::default()
        });
        let topic = StopReplicaTopicState { topic_name: "t".to_owned(), partition_states: states.collect() };
        let request = StopReplicaRequest { topic_states: vec![topic], ..StopReplicaRequest::default() };
        let error = StopReplicaPartitionError {
            topic_name: "t".to_owned(),
            partition_index: 1,
            error_code: ErrorCode::KafkaStorageError.code(),
        };
        let mut response = StopReplicaResponse { error_code: 0, partition_errors: vec![error] };
        let outcomes = |response: &StopReplicaResponse| -> Vec<Deleted> {
            deleted(&request, response).into_iter().map(|(_, outcome)| outcome).collect()
        };
        assert_eq!(outcomes(&response), [Deleted::Yes, Deleted::Refused]);
        response.error_code = ErrorCode::StaleBrokerEpoch.code();
        assert_eq!(outcomes(&response), [Deleted::NotAdmitted; 2]);
    }
}
