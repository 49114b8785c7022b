//! Asks coordinators whether partitions are in a transaction, before a log opens it (KIP-890): a request that was delayed
//! until after the marker would open it again, and nobody would ever end it.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/AddPartitionsToTxnManager.scala.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::client::connection::{Connection, ConnectionSettings};
use crate::client::error::ClientError;
use crate::coordinator::transaction::error::TransactionError;
use crate::coordinator::transaction::state::Producer;
use crate::coordinator::transaction::task::TransactionCoordinator;
use crate::metadata::cache::MetadataCache;
use crate::model::internal_topics::TRANSACTION_STATE_TOPIC;
use crate::model::{BrokerId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::add_partitions_to_txn::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};

/// The first version in which brokers ask. Brokers before 3.6 do not know it, and then nothing is verified.
const FIRST_OF_BROKERS: i16 = 4;

/// One for each partition that was asked for.
type Verdicts = Vec<Result<(), Unverified>>;

/// Why a transaction may not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unverified {
    Refused(TransactionError),
    /// As another broker said.
    Code(ErrorCode),
}

type Shared = Arc<tokio::sync::Mutex<Option<Arc<Connection>>>>;

pub struct Verifier {
    broker: BrokerId,
    coordinator: Arc<TransactionCoordinator>,
    metadata: Arc<MetadataCache>,
    settings: ConnectionSettings,
    listener: String,
    /// One to each coordinator, over which many are asked at once.
    connections: Mutex<HashMap<BrokerId, Shared>>,
}

impl Verifier {
    pub fn new(broker: BrokerId, coordinator: Arc<TransactionCoordinator>, metadata: Arc<MetadataCache>) -> Verifier {
        let config = coordinator.settings();
        let settings = ConnectionSettings {
            client_id: broker.to_string(),
            request_timeout: Duration::from_millis(config.request_timeout_ms),
            ..ConnectionSettings::default()
        };
        let listener = config.inter_broker_listener_name.clone();
        Verifier { broker, coordinator, metadata, settings, listener, connections: Mutex::default() }
    }

    /// Whether each of the partitions is in the producer's transaction.
    pub(crate) async fn verify(
        &self,
        transactional_id: &str,
        producer: Producer,
        partitions: &[TopicPartition],
    ) -> Verdicts {
        let image = self.metadata.image();
        let leader = image.partition(TRANSACTION_STATE_TOPIC, self.coordinator.partition_for(transactional_id));
        let leader = leader.map(|partition| partition.leader);
        let all = |why| vec![Err(why); partitions.len()];
        if leader == Some(self.broker) {
            return match self.coordinator.verify(transactional_id, producer, partitions) {
                Ok(open) => {
                    let abortable = Err(Unverified::Refused(TransactionError::TransactionAbortable));
                    open.into_iter().map(|is_open| if is_open { Ok(()) } else { abortable }).collect()
                }
                Err(error) => all(Unverified::Refused(error)),
            };
        }
        let Some((leader, endpoint)) =
            leader.and_then(|leader| Some((leader, image.endpoint(leader, &self.listener)?)))
        else {
            return all(Unverified::Refused(TransactionError::CoordinatorNotAvailable));
        };
        match self.ask(leader, &endpoint.address(), transactional_id, producer, partitions).await {
            Ok(verdicts) => verdicts,
            Err(why) => {
                log::warn!("broker {leader} cannot be asked whether a transaction is open: {why}");
                all(Unverified::Code(ErrorCode::NetworkException))
            }
        }
    }

    async fn ask(
        &self,
        broker: BrokerId,
        address: &str,
        transactional_id: &str,
        producer: Producer,
        partitions: &[TopicPartition],
    ) -> Result<Verdicts, ClientError> {
        let connection = self.connection(broker, address).await?;
        let Ok(version @ FIRST_OF_BROKERS..) = connection.version_of::<AddPartitionsToTxnRequest>(i16::MAX) else {
            return Ok(vec![Ok(()); partitions.len()]);
        };
        let topic = |partition: &TopicPartition| AddPartitionsToTxnTopic {
            name: partition.topic.to_string(),
            partitions: vec![partition.partition],
        };
        let transaction = AddPartitionsToTxnTransaction {
            transactional_id: transactional_id.to_owned(),
            producer_id: producer.id.0,
            producer_epoch: producer.epoch.0,
            verify_only: true,
            topics: by_topic(partitions.iter().map(topic)),
        };
        let request = AddPartitionsToTxnRequest { transactions: vec![transaction], ..Default::default() };
        let answer = connection.send_at(&request, version).await?;
        let refused = match ErrorCode::from_code(answer.error_code) {
            ErrorCode::None => None,
            // That this broker may not ask is nothing to tell a client.
            ErrorCode::ClusterAuthorizationFailed => Some(ErrorCode::InvalidTxnState),
            code => Some(code),
        };
        if let Some(code) = refused {
            return Ok(vec![Err(Unverified::Code(code)); partitions.len()]);
        }
        let said: HashMap<(&str, i32), ErrorCode> = answer
            .results_by_transaction
            .iter()
            .flat_map(|result| &result.topic_results)
            .flat_map(|topic| {
                topic.results_by_partition.iter().map(|partition| {
                    let place = (topic.name.as_str(), partition.partition_index);
                    (place, ErrorCode::from_code(partition.partition_error_code))
                })
            })
            .collect();
        let verdict = |partition: &TopicPartition| match said.get(&(&*partition.topic, partition.partition)) {
            Some(ErrorCode::None) => Ok(()),
            Some(code) => Err(Unverified::Code(*code)),
            None => Err(Unverified::Code(ErrorCode::UnknownServerError)),
        };
        Ok(partitions.iter().map(verdict).collect())
    }

    async fn connection(&self, broker: BrokerId, address: &str) -> Result<Arc<Connection>, ClientError> {
        let shared = {
            let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(connections.entry(broker).or_default())
        };
        let mut shared = shared.lock().await;
        if let Some(open) = shared.as_ref().filter(|open| open.address() == address && !open.is_closed()) {
            return Ok(Arc::clone(open));
        }
        let opened = Arc::new(Connection::negotiate(address, &self.settings).await?);
        *shared = Some(Arc::clone(&opened));
        Ok(opened)
    }
}

/// Each topic once.
fn by_topic(named: impl Iterator<Item = AddPartitionsToTxnTopic>) -> Vec<AddPartitionsToTxnTopic> {
    let mut topics: Vec<AddPartitionsToTxnTopic> = Vec::new();
    for topic in named {
        match topics.iter_mut().find(|known| known.name == topic.name) {
            Some(known) => known.partitions.extend(topic.partitions),
            None => topics.push(topic),
        }
    }
    topics
}
