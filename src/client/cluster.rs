//! A cluster seen from outside: its brokers and controller, and one connection to each broker that is used.

use std::collections::{BTreeMap, HashMap};
use std::net::ToSocketAddrs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::client::connection::{Connection, FinalizedVersion, retried};
use crate::client::error::{ClientError, checked};
use crate::client::settings::ClusterSettings;
use crate::model::BrokerId;
use crate::model::transaction_version::TransactionVersion;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::message::Request;
use crate::protocol::messages::find_coordinator::FindCoordinatorRequest;
use crate::protocol::messages::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse};

const WARNING_INTERVAL: Duration = Duration::from_secs(1);

/// A broker as the cluster's metadata lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: BrokerId,
    pub host: String,
    pub port: i32,
    pub rack: Option<String>,
}

/// What has a coordinator, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coordinated<'a> {
    Group(&'a str),
    /// The producers that have a transactional id one after the other.
    Transactions(&'a str),
}

impl Node {
    pub fn address(&self) -> String {
        // An IPv6 address needs its brackets to be told from the port.
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Finds the brokers of a cluster from its bootstrap servers and keeps one connection to each that is used.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) settings: ClusterSettings,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By address, since a bootstrap server's broker id is not known before it is asked.
    connections: HashMap<String, Arc<Connection>>,
    nodes: BTreeMap<BrokerId, Node>,
    controller: Option<BrokerId>,
    /// What the broker said that knows best of those that were connected to.
    finalized: FinalizedVersion,
    /// When the last failure to connect was told.
    warned: Option<Instant>,
}

impl Cluster {
    /// Connects to nothing yet; but one of the servers must have an address, or nothing ever will.
    pub fn new(settings: ClusterSettings) -> Result<Cluster, ClientError> {
        let mut has_address = false;
        for server in &settings.bootstrap_servers {
            match server.to_socket_addrs() {
                Ok(_) => has_address = true,
                Err(error) => log::warn!("Couldn't resolve server {server} from bootstrap.servers: {error}"),
            }
        }
        if !has_address {
            return Err(ClientError::NoAddress);
        }
        Ok(Cluster { settings, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection_at(&self, address: &str) -> Result<Arc<Connection>, ClientError> {
        if let Some(open) = self.state().connections.get(address).filter(|connection| !connection.is_closed()) {
            return Ok(Arc::clone(open));
        }
        let connection = Connection::negotiate(address, &self.settings.connection).await;
        let connection = Arc::new(connection.inspect_err(|error| self.warn(error))?);
        let mut state = self.state();
        state.connections.insert(address.to_owned(), Arc::clone(&connection));
        if connection.finalized().epoch > state.finalized.epoch {
            state.finalized = connection.finalized();
        }
        drop(state);
        Ok(connection)
    }

    /// Which transaction protocol the cluster has finalized, as far as brokers have said when they were connected to.
    pub fn transaction_version(&self) -> TransactionVersion {
        self.state().finalized.version
    }

    /// Attempts follow each other quickly; a person needs to be told once in a while.
    fn warn(&self, error: &ClientError) {
        let mut state = self.state();
        if state.warned.is_none_or(|instant| instant.elapsed() >= WARNING_INTERVAL) {
            state.warned = Some(Instant::now());
            log::warn!("{error}");
        }
    }

    /// A connection to any broker: an open one first, then the known brokers, then the bootstrap servers.
    pub async fn any(&self) -> Result<Arc<Connection>, ClientError> {
        let known: Vec<String> = {
            let state = self.state();
            if let Some(open) = state.connections.values().find(|connection| !connection.is_closed()) {
                return Ok(Arc::clone(open));
            }
            let nodes = state.nodes.values().map(Node::address);
            nodes.chain(self.settings.bootstrap_servers.iter().cloned()).collect()
        };
        let mut last = None;
        for address in &known {
            match self.connection_at(address).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            }
        }
        let last = last.map_or_else(|| "no server is named".to_owned(), |error| error.to_string());
        Err(ClientError::NoBroker { servers: self.settings.bootstrap_servers.join(","), last })
    }

    /// A connection to the broker of this id, which the last metadata must have listed; it is asked for if not.
    pub async fn broker(&self, id: BrokerId) -> Result<Arc<Connection>, ClientError> {
        let mut address = self.state().nodes.get(&id).map(Node::address);
        if address.is_none() {
            self.metadata(Some(&[]), false).await?;
            address = self.state().nodes.get(&id).map(Node::address);
        }
        match address {
            Some(address) => self.connection_at(&address).await,
            None => Err(ClientError::refused(format!("find broker {id}"), ErrorCode::BrokerNotAvailable, None)),
        }
    }

    /// The brokers that the last metadata listed.
    pub fn nodes(&self) -> Vec<Node> {
        self.state().nodes.values().cloned().collect()
    }

    /// Asks one broker for metadata; `None` asks for all topics. Errors of single topics stay in the answer; one without
    /// brokers is an error that may pass.
    pub async fn metadata(
        &self,
        topics: Option<&[String]>,
        allow_auto_topic_creation: bool,
    ) -> Result<MetadataResponse, ClientError> {
        let connection = self.any().await?;
        self.metadata_over(&connection, topics, allow_auto_topic_creation).await
    }

    /// The brokers that the first bootstrap server lists that answers. Each is asked once.
    pub async fn bootstrap(&self) -> Result<Vec<Node>, ClientError> {
        let mut last = String::new();
        for server in &self.settings.bootstrap_servers {
            let asked = async {
                let connection = self.connection_at(server).await?;
                self.metadata_over(&connection, Some(&[]), false).await
            };
            match asked.await {
                Ok(_) => return Ok(self.nodes()),
                Err(error @ ClientError::NoMetadata { .. }) => return Err(error),
                Err(error) => last = error.to_string(),
            }
        }
        Err(ClientError::NoBroker { servers: self.settings.bootstrap_servers.join(","), last })
    }

    async fn metadata_over(
        &self,
        connection: &Connection,
        topics: Option<&[String]>,
        allow_auto_topic_creation: bool,
    ) -> Result<MetadataResponse, ClientError> {
        let version = connection.version_of::<MetadataRequest>(i16::MAX)?;
        let topic = |name: &String| MetadataRequestTopic { name: Some(name.clone()), ..Default::default() };
        let request = MetadataRequest {
            topics: topics.map(|names| names.iter().map(topic).collect()),
            // Older versions have no say in it.
            allow_auto_topic_creation: allow_auto_topic_creation || version < 4,
            ..Default::default()
        };
        let answer = connection.send_at(&request, version).await?;
        let nodes: BTreeMap<BrokerId, Node> = answer
            .brokers
            .iter()
            .map(|broker| {
                let (id, host, rack) = (BrokerId(broker.node_id), broker.host.clone(), broker.rack.clone());
                (id, Node { id, host, port: broker.port, rack })
            })
            .collect();
        // A broker that has just started has not heard of anybody yet, its own topics included: what it says of them is
        // no answer. Source: kafka 3.9.0-rc3 clients/.../admin/internals/AdminMetadataManager.java, isReady and update.
        if nodes.is_empty() {
            return Err(ClientError::NoMetadata { address: connection.address().to_owned() });
        }
        let mut state = self.state();
        state.nodes = nodes;
        state.controller = Some(BrokerId(answer.controller_id)).filter(|id| id.0 >= 0);
        drop(state);
        Ok(answer)
    }

    /// Sends to any broker, again and again while it fails with what may pass.
    pub async fn send_to_any<R: Request>(&self, request: &R) -> Result<R::Response, ClientError> {
        self.retried(R::NAME, || async { self.any().await?.send(request).await }).await
    }

    /// Sends to the controller; `refusal` finds the code in the answer that says the broker is not the controller.
    pub async fn send_to_controller<R: Request>(
        &self,
        request: &R,
        at_most: i16,
        code_of: impl Fn(&R::Response) -> ErrorCode,
    ) -> Result<R::Response, ClientError> {
        let code_of = &code_of;
        self.retried(R::NAME, || async move {
            let known = self.state().controller;
            let controller = match known {
                Some(id) => id,
                None => {
                    self.metadata(Some(&[]), false).await?;
                    self.state()
                        .controller
                        .ok_or_else(|| ClientError::refused("find the controller", ErrorCode::NotController, None))?
                }
            };
            let attempt = async {
                let connection = self.broker(controller).await?;
                let version = connection.version_of::<R>(at_most)?;
                connection.send_at(request, version).await
            };
            let answer = attempt.await.inspect_err(|_| self.state().controller = None)?;
            if code_of(&answer) == ErrorCode::NotController {
                self.state().controller = None;
                return Err(ClientError::refused(R::NAME, ErrorCode::NotController, None));
            }
            Ok(answer)
        })
        .await
    }

    /// The broker that coordinates a group or a transactional id. One attempt.
    pub async fn find_coordinator(&self, of: Coordinated<'_>) -> Result<Node, ClientError> {
        let connection = self.any().await?;
        // Later versions ask for many of them at once and say nothing else.
        let version = connection.version_of::<FindCoordinatorRequest>(3)?;
        let (key_type, key, what) = match of {
            Coordinated::Group(group) => (0, group, "group"),
            Coordinated::Transactions(id) => (1, id, "the transactional id"),
        };
        let request = FindCoordinatorRequest { key: key.to_owned(), key_type, ..Default::default() };
        let answer = connection.send_at(&request, version).await?;
        checked(format!("find the coordinator of {what} {key}"), answer.error_code, answer.error_message)?;
        let node = Node { id: BrokerId(answer.node_id), host: answer.host, port: answer.port, rack: None };
        self.state().nodes.entry(node.id).or_insert_with(|| node.clone());
        Ok(node)
    }

    /// A connection to the coordinator of a group. One attempt.
    pub async fn coordinator(&self, group: &str) -> Result<Arc<Connection>, ClientError> {
        let node = self.find_coordinator(Coordinated::Group(group)).await?;
        self.connection_at(&node.address()).await
    }

    /// Runs `attempt` until it succeeds, fails for good, or the time for operations is over.
    pub async fn retried<T, F: Future<Output = Result<T, ClientError>>>(
        &self,
        doing: &str,
        attempt: impl FnMut() -> F,
    ) -> Result<T, ClientError> {
        retried(doing, self.settings.api_timeout, self.settings.retry_backoff, attempt).await
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::client::settings::ClientProperties;
    use crate::codec::reader::Reader;
    use crate::codec::writer::Writer;
    use crate::model::TopicPartition;
    use crate::protocol::api_keys::ApiKey;
    use crate::protocol::header::{RequestHeader, write_response_header};
    use crate::protocol::message::Message;
    use crate::protocol::messages::api_versions::{ApiVersion, ApiVersionsResponse};
    use crate::protocol::messages::list_offsets::{
        ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse,
    };
    use crate::protocol::messages::metadata::{
        MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
    };

    /// Reads one request of the API and answers it.
    pub(crate) async fn answer<M: Message>(socket: &mut TcpStream, key: ApiKey, response: M) {
        let length = socket.read_i32().await.unwrap();
        let mut frame = vec![0; usize::try_from(length).unwrap()];
        socket.read_exact(&mut frame).await.unwrap();
        let header = RequestHeader::read(&mut Reader::new(Bytes::from(frame))).unwrap();
        assert_eq!(header.api_key, key.code());
        let mut body = Writer::new();
        write_response_header(&mut body, key, header.api_version, header.correlation_id);
        response.encode(&mut body, header.api_version).unwrap();
        let body = body.into_bytes().unwrap();
        socket.write_i32(i32::try_from(body.len()).unwrap()).await.unwrap();
        socket.write_all(&body).await.unwrap();
    }

    pub(crate) async fn cluster_of(listener: &TcpListener) -> Cluster {
        let mut properties = ClientProperties::default();
        properties.set("bootstrap.servers", listener.local_addr().unwrap().to_string());
        Cluster::new(ClusterSettings::take(&mut properties, "test").unwrap()).unwrap()
    }

    pub(crate) async fn answer_versions(socket: &mut TcpStream) {
        let knows = |key: ApiKey, max_version| ApiVersion { api_key: key.code(), min_version: 0, max_version };
        let known = [(ApiKey::Metadata, 8), (ApiKey::ListOffsets, 5), (ApiKey::DescribeConfigs, 4)];
        let api_keys = known.map(|(key, version)| knows(key, version)).to_vec();
        answer(socket, ApiKey::ApiVersions, ApiVersionsResponse { api_keys, ..Default::default() }).await;
    }

    /// One without a leader, one that the topic does not have (yet), one of a topic that is not there, and one that has
    /// all.
    #[tokio::test]
    async fn a_partition_that_cannot_be_asked_about_costs_no_other_its_offset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = i32::from(listener.local_addr().unwrap().port());
        let cluster = cluster_of(&listener).await;
        let led_by =
            |partition_index, leader_id| MetadataResponsePartition { partition_index, leader_id, ..Default::default() };
        let topic = |name: &str, error_code, partitions| MetadataResponseTopic {
            name: Some(name.to_owned()),
            error_code,
            partitions,
            ..Default::default()
        };
        let broker = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            answer_versions(&mut socket).await;
            let known = MetadataResponseBroker { node_id: 7, host: "127.0.0.1".to_owned(), port, ..Default::default() };
            let topics = vec![topic("gone", 3, Vec::new()), topic("t", 0, vec![led_by(0, 7), led_by(1, -1)])];
            let metadata = MetadataResponse { brokers: vec![known], topics, ..Default::default() };
            answer(&mut socket, ApiKey::Metadata, metadata).await;
            let found = ListOffsetsPartitionResponse { partition_index: 0, offset: 42, ..Default::default() };
            let found = ListOffsetsTopicResponse { name: "t".to_owned(), partitions: vec![found] };
            let found = ListOffsetsResponse { topics: vec![found], ..Default::default() };
            answer(&mut socket, ApiKey::ListOffsets, found).await;
            socket
        };
        let asked = [("gone", 0), ("t", 0), ("t", 1), ("t", 2)];
        let asked = asked.map(|(topic, partition)| (TopicPartition::new(topic, partition), -1)).into();
        let (listed, _socket) = tokio::join!(cluster.list_offsets_once(&asked, false), broker);
        let (found, retry) = listed.unwrap();
        let offsets: Vec<_> = found
            .into_iter()
            .map(|(partition, found)| (partition.to_string(), found.map(|found| found.offset)))
            .collect();
        assert_eq!(
            offsets,
            [("gone-0".to_owned(), Err(ErrorCode::UnknownTopicOrPartition)), ("t-0".to_owned(), Ok(42))]
        );
        assert_eq!(retry.and_then(|error| error.code()), Some(ErrorCode::LeaderNotAvailable));
    }

    /// Else a tool that asks right after a start would take it that there are no topics.
    #[tokio::test]
    async fn metadata_without_brokers_is_asked_for_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cluster = cluster_of(&listener).await;
        let broker = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            answer_versions(&mut socket).await;
            answer(&mut socket, ApiKey::Metadata, MetadataResponse::default()).await;
            let known = MetadataResponseBroker { node_id: 7, host: "h".to_owned(), port: 1, ..Default::default() };
            let known = MetadataResponse { brokers: vec![known], ..Default::default() };
            answer(&mut socket, ApiKey::Metadata, known).await;
            socket
        };
        let (names, _socket) = tokio::join!(cluster.topic_names(), broker);
        assert_eq!(names.unwrap(), Vec::<String>::new());
        assert_eq!(cluster.nodes().iter().map(|node| node.id.0).collect::<Vec<_>>(), [7]);
    }
}
