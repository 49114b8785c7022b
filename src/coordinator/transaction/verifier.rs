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
use crate::protocol::messages::end_txn::EndTxnRequest;
use crate::protocol::transaction_version::transaction_version as of_request;

/// The first version in which brokers ask. Brokers before 3.6 do not know it, and then nothing is verified.
const FIRST_OF_BROKERS: i16 = 4;

/// One for each partition that was asked for: by which version of the protocol the coordinator will end the transaction.
type Verdicts = Vec<Result<TransactionVersion, Unverified>>;

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
            let is_concurrent = |verdict: &Result<_, Unverified>| verdict.is_err_and(Unverified::is_concurrent);
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
            return vec![added.map(|()| version).map_err(Unverified::Refused); partitions.len()];
        }
        if leader == Some(self.broker) {
            return match self.coordinator.verify(transactional_id, producer, partitions) {
                Ok(open) => {
                    let abortable = Err(Unverified::Refused(TransactionError::TransactionAbortable));
                    open.into_iter().map(|is_open| if is_open { Ok(version) } else { abortable }).collect()
                }
                Err(error) => all(Unverified::Refused(error)),
            };
        }
        let Some((leader, endpoint)) =
            leader.and_then(|leader| Some((leader, image.endpoint(leader, &self.listener)?)))
        else {
            return all(Unverified::Refused(TransactionError::CoordinatorNotAvailable));
        };
        let address = endpoint.address();
        let asked = self.connections.ask(leader, &address, transactional_id, producer, version, partitions);
        match asked.await {
            Ok(verdicts) => verdicts,
            Err(why) => {
                log::warn!("broker {leader} cannot be asked whether a transaction is open: {why}");
                all(Unverified::Code(ErrorCode::NetworkException))
            }
        }
    }
}

impl Connections {
    async fn ask(
        &self,
        broker: BrokerId,
        address: &str,
        transactional_id: &str,
        producer: Producer,
        transaction_version: TransactionVersion,
        partitions: &[TopicPartition],
    ) -> Result<Verdicts, ClientError> {
        let connection = self.get(broker, address).await?;
        let Ok(version @ FIRST_OF_BROKERS..) = connection.version_of::<AddPartitionsToTxnRequest>(i16::MAX) else {
            let outcome = match transaction_version.bumps_epoch() {
                // What nobody adds nobody ends.
                true => Err(Unverified::Refused(TransactionError::TransactionAbortable)),
                false => Ok(transaction_version),
            };
            return Ok(vec![outcome; partitions.len()]);
        };
        // One that ends transactions without another epoch adds nothing by a write: it would end what is written next too.
        let ends_with = connection
            .version_of::<EndTxnRequest>(i16::MAX)
            .map_or(TransactionVersion::V0, of_request::<EndTxnRequest>);
        let transaction_version = transaction_version.min(ends_with);
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
            Some(ErrorCode::None) => Ok(transaction_version),
            Some(code) => Err(Unverified::Code(*code)),
            None => Err(Unverified::Code(ErrorCode::UnknownServerError)),
        };
        Ok(partitions.iter().map(verdict).collect())
    }

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
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::codec::reader::Reader;
    use crate::codec::writer::Writer;
    use crate::model::{ProducerEpoch, ProducerId};
    use crate::protocol::api_keys::ApiKey;
    use crate::protocol::header::{RequestHeader, write_response_header};
    use crate::protocol::message::{Message, Request};
    use crate::protocol::messages::add_partitions_to_txn::{
        AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResponse, AddPartitionsToTxnResult,
        AddPartitionsToTxnTopicResult,
    };
    use crate::protocol::messages::api_versions::{ApiVersion, ApiVersionsRequest, ApiVersionsResponse};

    /// Reads one request and answers it.
    async fn serve<R: Request>(socket: &mut TcpStream, respond: impl FnOnce(R) -> R::Response) {
        let length = socket.read_i32().await.expect("a request comes");
        let mut frame = vec![0; usize::try_from(length).expect("a length")];
        socket.read_exact(&mut frame).await.expect("all of it");
        let mut reader = Reader::new(Bytes::from(frame));
        let header = RequestHeader::read(&mut reader).expect("a header");
        let key = ApiKey::from_code(R::KEY).expect("one of ours");
        assert_eq!(header.api_key, key.code());
        let request = R::decode(&mut reader, header.api_version).expect("what the header says");
        let mut body = Writer::new();
        write_response_header(&mut body, key, header.api_version, header.correlation_id);
        respond(request).encode(&mut body, header.api_version).expect("it has a place for all");
        let body = body.into_bytes().expect("no file is in it");
        socket.write_i32(i32::try_from(body.len()).expect("short")).await.expect("it listens");
        socket.write_all(&body).await.expect("it listens");
    }

    /// What a coordinator with that EndTxn is asked of a producer by its leader, and what its yes is taken for.
    async fn asked_of(end_txn: i16, version: TransactionVersion) -> (bool, Result<TransactionVersion, Unverified>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("bound").to_string();
        let connections = Connections { settings: ConnectionSettings::default(), by_broker: Mutex::default() };
        let partitions = [TopicPartition::new("a", 0)];
        let producer = Producer { id: ProducerId(7), epoch: ProducerEpoch(3) };
        let coordinator = async {
            let (mut socket, _) = listener.accept().await.expect("it connects");
            let knows = |key: ApiKey, max_version| ApiVersion { api_key: key.code(), min_version: 0, max_version };
            let api_keys = vec![knows(ApiKey::AddPartitionsToTxn, 5), knows(ApiKey::EndTxn, end_txn)];
            let versions = ApiVersionsResponse { api_keys, ..Default::default() };
            serve(&mut socket, |_: ApiVersionsRequest| versions).await;
            let mut is_verify_only = None;
            serve(&mut socket, |request: AddPartitionsToTxnRequest| {
                is_verify_only = Some(request.transactions[0].verify_only);
                let yes = AddPartitionsToTxnPartitionResult { partition_index: 0, partition_error_code: 0 };
                let yes = AddPartitionsToTxnTopicResult { name: "a".to_owned(), results_by_partition: vec![yes] };
                let yes = AddPartitionsToTxnResult { transactional_id: "t".to_owned(), topic_results: vec![yes] };
                AddPartitionsToTxnResponse { results_by_transaction: vec![yes], ..Default::default() }
            })
            .await;
            (is_verify_only.expect("it was asked"), socket)
        };
        let ask = connections.ask(BrokerId(1), &address, "t", producer, version, &partitions);
        let (verdicts, (is_verify_only, _socket)) = tokio::join!(ask, coordinator);
        (is_verify_only, verdicts.expect("it answers")[0])
    }

    /// A JVM broker would end the transaction without another epoch, and could not tell the next one from it.
    #[tokio::test]
    async fn a_write_adds_its_partition_only_where_the_coordinator_ends_transactions_by_version_2() {
        use TransactionVersion::{V0, V2};
        assert_eq!(asked_of(5, V2).await, (false, Ok(V2)));
        assert_eq!(asked_of(4, V2).await, (true, Ok(V0)));
        assert_eq!(asked_of(3, V2).await, (true, Ok(V0)));
        assert_eq!(asked_of(5, V0).await, (true, Ok(V0)));
    }

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
