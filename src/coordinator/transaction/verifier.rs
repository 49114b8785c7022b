//! Asks coordinators whether partitions are in a transaction, before a log opens it (KIP-890): a request that was delayed
//! until after the marker would open it again, and nobody would ever end it. Of a producer that follows version 2 of the
//! protocol they are added, unless the request is of an epoch that has ended.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/AddPartitionsToTxnManager.scala, and for the second version kafka 4.1
//! ReplicaManager.scala (handleProduceAppend).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::time::{Instant, sleep, timeout, timeout_at};

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
    AddPartitionsToTxnRequest, AddPartitionsToTxnTopic, AddPartitionsToTxnTopicResult, AddPartitionsToTxnTransaction,
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

/// So many partitions go with one request, or one transaction.
const PARTITIONS_A_REQUEST: usize = 10_000;

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

/// One coordinator. A request is on its way at a time, and the next takes with it all that waits: a coordinator answers when
/// its replicas have what it wrote, and one connection after the other.
#[derive(Default)]
struct Coordinator {
    /// Held by whoever asks it for all.
    link: tokio::sync::Mutex<Link>,
    waiting: Mutex<VecDeque<Question>>,
}

#[derive(Debug)]
struct Question {
    transactional_id: String,
    producer: Producer,
    version: TransactionVersion,
    partitions: Vec<TopicPartition>,
    answer: oneshot::Sender<Verdicts>,
}

impl Question {
    fn answer(self, all: Result<TransactionVersion, Unverified>) {
        let verdicts = vec![all; self.partitions.len()];
        self.tell(verdicts);
    }

    fn tell(self, verdicts: Verdicts) {
        // Who asked may have hung up.
        let _ = self.answer.send(verdicts);
    }
}

impl Coordinator {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Question>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What goes with the next request: of each transactional id one thing, since all that is added at once to a transaction
    /// is refused for the least of it.
    fn next(&self) -> Vec<Question> {
        let mut waiting = self.waiting();
        waiting.retain(|question| !question.answer.is_closed());
        let (mut next, mut left) = (Vec::new(), VecDeque::new());
        let (mut ids, mut partitions) = (HashSet::new(), 0);
        for question in waiting.drain(..) {
            partitions += question.partitions.len();
            let fits = next.is_empty() || partitions <= PARTITIONS_A_REQUEST;
            if fits && ids.insert(question.transactional_id.clone()) {
                next.push(question);
            } else {
                left.push_back(question);
            }
        }
        *waiting = left;
        next
    }
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
    by_broker: Mutex<HashMap<BrokerId, Arc<Coordinator>>>,
}

impl Verifier {
    pub fn new(broker: BrokerId, coordinator: Arc<TransactionCoordinator>, metadata: Arc<MetadataCache>) -> Verifier {
        let config = coordinator.settings();
        let settings = ConnectionSettings {
            client_id: broker.to_string(),
            request_timeout: Duration::from_millis(config.request_timeout_ms),
            resets: true,
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
        self.connections.ask(leader, &address, transactional_id, producer, version, partitions).await
    }
}

impl Connections {
    async fn ask(
        &self,
        broker: BrokerId,
        address: &str,
        transactional_id: &str,
        producer: Producer,
        version: TransactionVersion,
        partitions: &[TopicPartition],
    ) -> Verdicts {
        let deadline = Instant::now() + self.settings.request_timeout;
        let coordinator = {
            let mut by_broker = self.by_broker.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(by_broker.entry(broker).or_default())
        };
        loop {
            let (answer, mut answered) = oneshot::channel();
            let (transactional_id, partitions) = (transactional_id.to_owned(), partitions.to_vec());
            let asked = partitions.len();
            coordinator.waiting().push_back(Question { transactional_id, producer, version, partitions, answer });
            let Ok(mut link) = timeout_at(deadline, coordinator.link.lock()).await else {
                log::warn!("broker {broker} cannot be asked whether a transaction is open: others wait for as long");
                return vec![Err(Unverified::Code(ErrorCode::NetworkException)); asked];
            };
            loop {
                match answered.try_recv() {
                    Ok(verdicts) => return verdicts,
                    Err(TryRecvError::Empty) => {
                        if let Err(why) = self.ask_for_all(&coordinator, &mut link, address).await {
                            log::warn!("broker {broker} cannot be asked whether a transaction is open: {why}");
                        }
                    }
                    // By somebody who was dropped meanwhile.
                    Err(TryRecvError::Closed) => break,
                }
            }
        }
    }

    /// Asks for what has waited first, at the least. Nothing of it waits any longer then.
    async fn ask_for_all(&self, coordinator: &Coordinator, link: &mut Link, address: &str) -> Result<(), ClientError> {
        let connection = self.get(link, address).await;
        let questions = coordinator.next();
        let asked = match connection {
            Ok(connection) => send(&connection, questions).await,
            Err(why) => Err((why, questions)),
        };
        asked.map_err(|(why, questions)| {
            for question in questions {
                question.answer(Err(Unverified::Code(ErrorCode::NetworkException)));
            }
            why
        })
    }

    /// The one that is open, or a new one.
    async fn get(&self, link: &mut Link, address: &str) -> Result<Arc<Connection>, ClientError> {
        let failed = |reason: &str| ClientError::Connect { address: address.to_owned(), reason: reason.to_owned() };
        if let Some(open) = link.open.as_ref().filter(|open| open.address() == address && !open.is_closed()) {
            return Ok(Arc::clone(open));
        }
        if link.failed.as_ref().is_some_and(|(tried, at)| tried == address && at.elapsed() < RETRY_BACKOFF) {
            return Err(failed("it could not be reached just now"));
        }
        let opened = timeout(self.settings.request_timeout, Connection::negotiate(address, &self.settings)).await;
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

/// Gives the questions back if there is no answer.
async fn send(connection: &Connection, questions: Vec<Question>) -> Result<(), (ClientError, Vec<Question>)> {
    let Ok(version @ FIRST_OF_BROKERS..) = connection.version_of::<AddPartitionsToTxnRequest>(i16::MAX) else {
        for question in questions {
            let outcome = match question.version.bumps_epoch() {
                // What nobody adds nobody ends.
                true => Err(Unverified::Refused(TransactionError::TransactionAbortable)),
                false => Ok(question.version),
            };
            question.answer(outcome);
        }
        return Ok(());
    };
    // One that ends transactions without another epoch adds nothing by a write: it would end what is written next too.
    let ends_with =
        connection.version_of::<EndTxnRequest>(i16::MAX).map_or(TransactionVersion::V0, of_request::<EndTxnRequest>);
    let transaction = |question: &Question| AddPartitionsToTxnTransaction {
        transactional_id: question.transactional_id.clone(),
        producer_id: question.producer.id.0,
        producer_epoch: question.producer.epoch.0,
        verify_only: !question.version.min(ends_with).bumps_epoch(),
        topics: by_topic(&question.partitions),
    };
    let transactions = questions.iter().map(transaction).collect();
    let request = AddPartitionsToTxnRequest { transactions, ..Default::default() };
    let answer = match connection.send_at(&request, version).await {
        Ok(answer) => answer,
        Err(why) => return Err((why, questions)),
    };
    let refused = match ErrorCode::from_code(answer.error_code) {
        ErrorCode::None => None,
        // That this broker may not ask is nothing to tell a client.
        ErrorCode::ClusterAuthorizationFailed => Some(ErrorCode::InvalidTxnState),
        code => Some(code),
    };
    let mut results: HashMap<String, Vec<AddPartitionsToTxnTopicResult>> = answer
        .results_by_transaction
        .into_iter()
        .map(|result| (result.transactional_id, result.topic_results))
        .collect();
    for question in questions {
        if let Some(code) = refused {
            question.answer(Err(Unverified::Code(code)));
            continue;
        }
        let version = question.version.min(ends_with);
        let results = results.remove(&question.transactional_id).unwrap_or_default();
        let said: HashMap<(&str, i32), ErrorCode> = results
            .iter()
            .flat_map(|topic| {
                topic.results_by_partition.iter().map(|partition| {
                    let place = (topic.name.as_str(), partition.partition_index);
                    (place, ErrorCode::from_code(partition.partition_error_code))
                })
            })
            .collect();
        let verdict = |partition: &TopicPartition| match said.get(&(&*partition.topic, partition.partition)) {
            Some(ErrorCode::None) => Ok(version),
            Some(code) => Err(Unverified::Code(*code)),
            None => Err(Unverified::Code(ErrorCode::UnknownServerError)),
        };
        let verdicts = question.partitions.iter().map(verdict).collect();
        question.tell(verdicts);
    }
    Ok(())
}

/// Each topic once.
fn by_topic(partitions: &[TopicPartition]) -> Vec<AddPartitionsToTxnTopic> {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for TopicPartition { topic, partition } in partitions {
        topics.entry(topic).or_default().push(*partition);
    }
    let topic = |(name, partitions): (&str, Vec<i32>)| AddPartitionsToTxnTopic { name: name.to_owned(), partitions };
    topics.into_iter().map(topic).collect()
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

    /// To all that is asked.
    fn yes(request: &AddPartitionsToTxnRequest) -> AddPartitionsToTxnResponse {
        let topic = |topic: &AddPartitionsToTxnTopic| {
            let partition =
                |&partition_index: &i32| AddPartitionsToTxnPartitionResult { partition_index, ..Default::default() };
            let results_by_partition = topic.partitions.iter().map(partition).collect();
            AddPartitionsToTxnTopicResult { name: topic.name.clone(), results_by_partition }
        };
        let transaction = |transaction: &AddPartitionsToTxnTransaction| AddPartitionsToTxnResult {
            transactional_id: transaction.transactional_id.clone(),
            topic_results: transaction.topics.iter().map(topic).collect(),
        };
        let results_by_transaction = request.transactions.iter().map(transaction).collect();
        AddPartitionsToTxnResponse { results_by_transaction, ..Default::default() }
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
                yes(&request)
            })
            .await;
            (is_verify_only.expect("it was asked"), socket)
        };
        let ask = connections.ask(BrokerId(1), &address, "t", producer, version, &partitions);
        let (verdicts, (is_verify_only, _socket)) = tokio::join!(ask, coordinator);
        (is_verify_only, verdicts[0])
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

    #[tokio::test]
    async fn what_waits_while_a_coordinator_is_asked_goes_with_the_next_request_once_for_each_id() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("bound").to_string();
        let connections = Connections { settings: ConnectionSettings::default(), by_broker: Mutex::default() };
        let ask = |id: &'static str, partition: i32| {
            let (connections, address) = (&connections, &address);
            async move {
                let partitions = [TopicPartition::new("b", 0), TopicPartition::new("a", partition)];
                let producer = Producer { id: ProducerId(7), epoch: ProducerEpoch(3) };
                connections.ask(BrokerId(1), address, id, producer, TransactionVersion::V2, &partitions).await
            }
        };
        let waiting = || {
            let by_broker = connections.by_broker.lock().expect("no test panics under it");
            by_broker.get(&BrokerId(1)).map_or(0, |coordinator| coordinator.waiting().len())
        };
        let (first_is_asked, is_asked) = oneshot::channel();
        let coordinator = async {
            let (mut socket, _) = listener.accept().await.expect("it connects");
            let knows = |key: ApiKey| ApiVersion { api_key: key.code(), min_version: 0, max_version: 5 };
            let api_keys = vec![knows(ApiKey::AddPartitionsToTxn), knows(ApiKey::EndTxn)];
            serve(&mut socket, |_: ApiVersionsRequest| ApiVersionsResponse { api_keys, ..Default::default() }).await;
            let ids = |request: &AddPartitionsToTxnRequest| {
                request.transactions.iter().map(|one| one.transactional_id.clone()).collect::<Vec<_>>()
            };
            let mut asked = Vec::new();
            // The first is answered once all others wait.
            socket.peek(&mut [0]).await.expect("it is asked");
            first_is_asked.send(()).expect("they wait for it");
            while waiting() < 3 {
                tokio::task::yield_now().await;
            }
            for _ in 0..3 {
                serve(&mut socket, |request: AddPartitionsToTxnRequest| {
                    asked.push(ids(&request));
                    yes(&request)
                })
                .await;
            }
            (asked, socket)
        };
        let others = async {
            is_asked.await.expect("the first is asked");
            tokio::join!(ask("u", 0), ask("v", 0), ask("u", 1))
        };
        let (first, others, (asked, _socket)) = tokio::join!(ask("t", 0), others, coordinator);
        assert_eq!(asked, [vec!["t"], vec!["u", "v"], vec!["u"]]);
        let opened = vec![Ok(TransactionVersion::V2); 2];
        assert_eq!((first, others), (opened.clone(), (opened.clone(), opened.clone(), opened)));
    }

    #[tokio::test]
    async fn who_hangs_up_while_he_asks_for_others_leaves_them_no_worse() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("bound").to_string();
        let connections = Connections { settings: ConnectionSettings::default(), by_broker: Mutex::default() };
        let partitions = [TopicPartition::new("a", 0)];
        let ask = |id: &'static str| {
            connections.ask(BrokerId(1), &address, id, Producer::NONE, TransactionVersion::V2, &partitions)
        };
        let (gone, is_gone) = oneshot::channel::<()>();
        let coordinator = async {
            let (mut socket, _) = listener.accept().await.expect("it connects");
            let knows = |key: ApiKey| ApiVersion { api_key: key.code(), min_version: 0, max_version: 5 };
            let api_keys = vec![knows(ApiKey::AddPartitionsToTxn), knows(ApiKey::EndTxn)];
            serve(&mut socket, |_: ApiVersionsRequest| ApiVersionsResponse { api_keys, ..Default::default() }).await;
            socket.peek(&mut [0]).await.expect("it is asked, for both");
            drop(gone);
            for _ in 0..2 {
                serve(&mut socket, |request: AddPartitionsToTxnRequest| yes(&request)).await;
            }
            socket
        };
        let first = async {
            tokio::select! {
                _ = ask("t") => panic!("nobody answers it"),
                _ = is_gone => {}
            }
        };
        let ((), second, _socket) = tokio::join!(first, ask("u"), coordinator);
        assert_eq!(second, [Ok(TransactionVersion::V2)]);
    }

    /// Time passes only while nothing else happens.
    #[tokio::test(start_paused = true)]
    async fn all_who_wait_for_a_broker_that_does_not_answer_wait_once() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = silent.local_addr().expect("bound").to_string();
        let settings = ConnectionSettings { request_timeout: Duration::from_secs(5), ..ConnectionSettings::default() };
        let connections = Connections { settings, by_broker: Mutex::default() };
        let began = Instant::now();
        let partitions = [TopicPartition::new("a", 0)];
        let ask = || connections.ask(BrokerId(1), &address, "t", Producer::NONE, TransactionVersion::V2, &partitions);
        let unreached = vec![Err(Unverified::Code(ErrorCode::NetworkException))];
        let (first, second, third) = tokio::join!(ask(), ask(), ask());
        assert_eq!([first, second, third], [unreached.clone(), unreached.clone(), unreached.clone()]);
        let waited = began.elapsed();
        assert!(waited < Duration::from_secs(6), "{waited:?}");
        assert_eq!(ask().await, unreached);
        assert_eq!(began.elapsed(), waited, "nobody tries at once");
        tokio::time::advance(RETRY_BACKOFF).await;
        let again = Instant::now();
        assert_eq!(ask().await, unreached);
        assert!(again.elapsed() > Duration::from_secs(4), "somebody tries again");
    }
}
