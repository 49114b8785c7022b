//! Asks coordinators whether partitions are in a transaction, before a log opens it (KIP-890): a request that was delayed
//! until after the marker would open it again, and nobody would ever end it. Of a producer that follows version 2 of the
//! protocol they are added, unless the request is of an epoch that has ended.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/AddPartitionsToTxnManager.scala, and for the second version kafka 4.1
//! ReplicaManager.scala (handleProduceAppend).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::client::connection::{Connection, ConnectionSettings};
use crate::client::error::ClientError;
use crate::coordinator::transaction::error::TransactionError;
use crate::coordinator::transaction::state::Producer;
use crate::coordinator::transaction::task::TransactionCoordinator;
use crate::metadata::cache::MetadataCache;
use crate::model::internal_topics::TRANSACTION_STATE_TOPIC;
use crate::model::transaction_version::TransactionVersion;
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

/// After a coordinator could not be reached, nobody tries for so long.
const RETRY_BACKOFF: Duration = Duration::from_millis(100);

/// The transaction before is being ended, which takes as long as its markers: a producer that had to send all again would
/// wait longer. Kafka's defaults, `add.partitions.to.txn.retry.backoff.ms` and `add.partitions.to.txn.retry.backoff.max.ms`.
const ADD_RETRY_BACKOFF: Duration = Duration::from_millis(20);
const ADD_RETRY_MAX: Duration = Duration::from_millis(100);

impl Unverified {
    fn is_concurrent(self) -> bool {
        let concurrent = TransactionError::ConcurrentTransactions;
        self == Unverified::Refused(concurrent) || self == Unverified::Code(ErrorCode::ConcurrentTransactions)
    }
}

/// The connection to one coordinator.
#[derive(Default)]
struct Link {
    open: Option<Arc<Connection>>,
    /// The address that could not be reached, and when.
    failed: Option<(String, Instant)>,
}

pub struct Verifier {
    broker: BrokerId,
    coordinator: Arc<TransactionCoordinator>,
    metadata: Arc<MetadataCache>,
    listener: String,
    connections: Connections,
}

/// One to each coordinator, over which many are asked at once.
struct Connections {
    settings: ConnectionSettings,
    by_broker: Mutex<HashMap<BrokerId, Arc<tokio::sync::Mutex<Link>>>>,
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
        let connections = Connections { settings, by_broker: Mutex::default() };
        Verifier { broker, coordinator, metadata, listener, connections }
    }

    /// Whether each of the partitions is in the producer's transaction, or can be from now on.
    pub(crate) async fn verify(
        &self,
        transactional_id: &str,
        producer: Producer,
        version: TransactionVersion,
        partitions: &[TopicPartition],
    ) -> Verdicts {
        let began = Instant::now();
        loop {
            let verdicts = self.verify_once(transactional_id, producer, version, partitions).await;
            let is_concurrent = |verdict: &Result<(), Unverified>| verdict.is_err_and(Unverified::is_concurrent);
            if !(version.bumps_epoch() && verdicts.iter().any(is_concurrent)) || began.elapsed() >= ADD_RETRY_MAX {
                return verdicts;
            }
            sleep(ADD_RETRY_BACKOFF).await;
        }
    }

    async fn verify_once(
        &self,
        transactional_id: &str,
        producer: Producer,
        version: TransactionVersion,
        partitions: &[TopicPartition],
    ) -> Verdicts {
        let image = self.metadata.image();
        let leader = image.partition(TRANSACTION_STATE_TOPIC, self.coordinator.partition_for(transactional_id));
        let leader = leader.map(|partition| partition.leader);
        let all = |why| vec![Err(why); partitions.len()];
        if leader == Some(self.broker) && version.bumps_epoch() {
            let added = self.coordinator.add_partitions(transactional_id, producer, partitions.to_vec(), version).await;
            return vec![added.map_err(Unverified::Refused); partitions.len()];
        }
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
        match self.ask(leader, &endpoint.address(), transactional_id, producer, version, partitions).await {
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
        transaction_version: TransactionVersion,
        partitions: &[TopicPartition],
    ) -> Result<Verdicts, ClientError> {
        let connection = self.connections.get(broker, address).await?;
        let Ok(version @ FIRST_OF_BROKERS..) = connection.version_of::<AddPartitionsToTxnRequest>(i16::MAX) else {
            let outcome = match transaction_version.bumps_epoch() {
                // What nobody adds nobody ends.
                true => Err(Unverified::Refused(TransactionError::TransactionAbortable)),
                false => Ok(()),
            };
            return Ok(vec![outcome; partitions.len()]);
        };
        let topic = |partition: &TopicPartition| AddPartitionsToTxnTopic {
            name: partition.topic.to_string(),
            partitions: vec![partition.partition],
        };
        let transaction = AddPartitionsToTxnTransaction {
            transactional_id: transactional_id.to_owned(),
            producer_id: producer.id.0,
            producer_epoch: producer.epoch.0,
            verify_only: !transaction_version.bumps_epoch(),
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
}

impl Connections {
    /// The one that is open, or a new one. Whoever waits while somebody else opens it, waits no longer than for his own, and
    /// shares what comes of it.
    async fn get(&self, broker: BrokerId, address: &str) -> Result<Arc<Connection>, ClientError> {
        let deadline = Instant::now() + self.settings.request_timeout;
        let failed = |reason: &str| ClientError::Connect { address: address.to_owned(), reason: reason.to_owned() };
        let link = {
            let mut by_broker = self.by_broker.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(by_broker.entry(broker).or_default())
        };
        let Ok(mut link) = timeout_at(deadline, link.lock()).await else {
            return Err(failed("others have been trying for as long as a request may take"));
        };
        if let Some(open) = link.open.as_ref().filter(|open| open.address() == address && !open.is_closed()) {
            return Ok(Arc::clone(open));
        }
        if link.failed.as_ref().is_some_and(|(tried, at)| tried == address && at.elapsed() < RETRY_BACKOFF) {
            return Err(failed("it could not be reached just now"));
        }
        let opened = timeout_at(deadline, Connection::negotiate(address, &self.settings)).await;
        match opened.unwrap_or_else(|_| Err(failed("it does not answer"))) {
            Ok(opened) => {
                let opened = Arc::new(opened);
                *link = Link { open: Some(Arc::clone(&opened)), failed: None };
                Ok(opened)
            }
            Err(why) => {
                *link = Link { open: None, failed: Some((address.to_owned(), Instant::now())) };
                Err(why)
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Time passes only while nothing else happens.
    #[tokio::test(start_paused = true)]
    async fn all_who_wait_for_a_broker_that_does_not_answer_wait_once() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = silent.local_addr().expect("bound").to_string();
        let settings = ConnectionSettings { request_timeout: Duration::from_secs(5), ..ConnectionSettings::default() };
        let connections = Connections { settings, by_broker: Mutex::default() };
        let began = Instant::now();
        let ask = || connections.get(BrokerId(1), &address);
        let (first, second, third) = tokio::join!(ask(), ask(), ask());
        assert_eq!([first.is_err(), second.is_err(), third.is_err()], [true; 3]);
        let waited = began.elapsed();
        assert!(waited < Duration::from_secs(6), "{waited:?}");
        assert!(ask().await.is_err());
        assert_eq!(began.elapsed(), waited, "nobody tries at once");
        tokio::time::advance(RETRY_BACKOFF).await;
        let again = Instant::now();
        assert!(ask().await.is_err());
        assert!(again.elapsed() > Duration::from_secs(4), "somebody tries again");
    }
}
