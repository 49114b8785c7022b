//! The way of a broker to the active controller: whoever the metadata says it is, asked one thing at a time.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/NodeToControllerChannelManager.scala.

use std::sync::Arc;
use std::time::Duration;

use log::{debug, info, warn};

use crate::client::connection::{Connection, ConnectionSettings};
use crate::client::error::ClientError;
use crate::config::sections::ControllerConfig;
use crate::metadata::cache::MetadataCache;
use crate::model::BrokerId;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::message::Request;

/// Before the controller is asked again, or looked for again: nothing tells when one that refused would not.
const RETRY_BACKOFF: Duration = Duration::from_millis(50);

/// What was answered, and in which version.
#[derive(Debug)]
pub struct Answered<R> {
    pub response: R,
    pub version: i16,
}

pub struct ToController {
    metadata: Arc<MetadataCache>,
    listener: String,
    settings: ConnectionSettings,
    connection: Option<(BrokerId, Connection)>,
    /// What was last complained of, so that it is said once.
    complaint: Option<String>,
}

impl ToController {
    pub fn new(broker: BrokerId, metadata: Arc<MetadataCache>, config: &ControllerConfig) -> ToController {
        let control_plane = config.control_plane_listener_name.clone();
        let settings = ConnectionSettings {
            client_id: broker.to_string(),
            request_timeout: Duration::from_millis(config.controller_socket_timeout_ms),
            resets: true,
            ..ConnectionSettings::default()
        };
        ToController {
            metadata,
            listener: control_plane.unwrap_or_else(|| config.inter_broker_listener_name.clone()),
            settings,
            connection: None,
            complaint: None,
        }
    }

    /// Asks until a controller answers; `build` makes the request in a version that is at most `at_most`, and `error` is the
    /// code that an answer has for the whole of it. What a controller has been sent that is the controller no longer may have
    /// been done all the same.
    ///
    /// What an answer says of a part is for the caller: Kafka takes `NOT_CONTROLLER` there for the same, and asks for all of it
    /// again, for as long as the controller says that of one partition.
    pub async fn ask<R: Request>(
        &mut self,
        at_most: impl Fn() -> i16,
        build: impl Fn(i16) -> R,
        error: impl Fn(&R::Response) -> i16,
    ) -> Answered<R::Response> {
        loop {
            let Some((controller, address)) = self.controller() else {
                self.connection = None;
                self.wait_for_another(None).await;
                continue;
            };
            let metadata = Arc::clone(&self.metadata);
            // A controller that has been replaced may be silent for long.
            let replaced = is_replaced(&metadata, controller);
            let outcome = tokio::select! {
                outcome = self.attempt(controller, &address, at_most(), &build) => outcome,
                () = replaced => {
                    debug!("broker {controller} is the controller no longer");
                    self.connection = None;
                    continue;
                }
            };
            match outcome {
                Ok(answered) if ErrorCode::from_code(error(&answered.response)) != ErrorCode::NotController => {
                    self.complaint = None;
                    return answered;
                }
                Ok(_) => {
                    debug!("broker {controller} says that it is not the controller");
                    self.connection = None;
                }
                Err(error) => {
                    self.connection = None;
                    self.complain(controller, &error);
                }
            }
            self.wait_for_another(Some(controller)).await;
        }
    }

    /// The controller and where it listens, as far as the metadata knows it.
    fn controller(&self) -> Option<(BrokerId, String)> {
        let image = self.metadata.image();
        let controller = image.controller?;
        let endpoint = image.endpoint(controller, &self.listener)?;
        Some((controller, endpoint.address()))
    }

    async fn attempt<R: Request>(
        &mut self,
        controller: BrokerId,
        address: &str,
        at_most: i16,
        build: &impl Fn(i16) -> R,
    ) -> Result<Answered<R::Response>, ClientError> {
        let connection = match self.connection.take() {
            Some((known, open)) if known == controller && open.address() == address && !open.is_closed() => open,
            _ => {
                let opened = Connection::negotiate(address, &self.settings).await?;
                info!("from now on broker {controller} at {address} is asked as the controller");
                opened
            }
        };
        let version = connection.version_of::<R>(at_most)?;
        let response = connection.send_at(&build(version), version).await?;
        self.connection = Some((controller, connection));
        Ok(Answered { response, version })
    }

    fn complain(&mut self, controller: BrokerId, error: &ClientError) {
        let complaint = error.to_string();
        if self.complaint.as_ref() != Some(&complaint) {
            warn!("broker {controller} cannot be asked as the controller, trying again: {complaint}");
            self.complaint = Some(complaint);
        }
    }

    /// A moment, or less if there is another controller before it is over.
    async fn wait_for_another(&self, than: Option<BrokerId>) {
        let metadata = Arc::clone(&self.metadata);
        let another = async {
            match than {
                Some(than) => is_replaced(&metadata, than).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = another => {}
            () = tokio::time::sleep(RETRY_BACKOFF) => {}
        }
    }
}

/// Returns when the metadata names another controller.
async fn is_replaced(metadata: &MetadataCache, controller: BrokerId) {
    let mut changes = metadata.changes();
    loop {
        changes.mark_unchanged();
        if metadata.image().controller.is_some_and(|now| now != controller) {
            return;
        }
        if changes.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Notify;
    use tokio::time::timeout;

    use super::*;
    use crate::codec::reader::Reader;
    use crate::codec::writer::Writer;
    use crate::metadata::image::{Broker, Update};
    use crate::model::endpoint::Endpoint;
    use crate::protocol::api_keys::ApiKey;
    use crate::protocol::header::{RequestHeader, write_response_header};
    use crate::protocol::message::Message;
    use crate::protocol::messages::alter_partition::AlterPartitionRequest;
    use crate::protocol::messages::alter_partition::response::{AlterPartitionResponse, PartitionData, TopicData};
    use crate::protocol::messages::api_versions::{ApiVersion, ApiVersionsResponse};

    /// What a broker does with what it is asked, connection by connection.
    #[derive(Clone, Copy, Debug)]
    enum Does {
        HangUp,
        /// And tells that it was asked.
        StaySilent(&'static Notify),
        /// Of all that it was asked.
        Deny,
        /// On one partition, in the highest version that it speaks.
        SayIt(ErrorCode, i16),
    }

    async fn serve(mut socket: TcpStream, does: Does) -> std::io::Result<()> {
        loop {
            let length = socket.read_i32().await?;
            let mut frame = vec![0; usize::try_from(length).expect("a length")];
            socket.read_exact(&mut frame).await?;
            let header = RequestHeader::read(&mut Reader::new(Bytes::from(frame))).expect("a header");
            let mut body = Writer::new();
            match (ApiKey::from_code(header.api_key), does) {
                (Some(ApiKey::ApiVersions), _) => {
                    let max_version = if let Does::SayIt(_, version) = does { version } else { 3 };
                    let of = |api_key, max_version| ApiVersion { api_key, max_version, ..Default::default() };
                    let api_keys =
                        vec![of(ApiKey::ApiVersions.code(), 3), of(ApiKey::AlterPartition.code(), max_version)];
                    let response = ApiVersionsResponse { api_keys, ..Default::default() };
                    write_response_header(&mut body, ApiKey::ApiVersions, header.api_version, header.correlation_id);
                    response.encode(&mut body, header.api_version).expect("it has a place for all");
                }
                (_, Does::HangUp) => return Ok(()),
                (_, Does::StaySilent(asked)) => {
                    asked.notify_one();
                    continue;
                }
                (_, Does::Deny) => {
                    let error_code = ErrorCode::NotController.code();
                    let response = AlterPartitionResponse { error_code, ..Default::default() };
                    let version = header.api_version;
                    write_response_header(&mut body, ApiKey::AlterPartition, version, header.correlation_id);
                    response.encode(&mut body, version).expect("it has a place for all");
                }
                (_, Does::SayIt(code, version)) => {
                    assert_eq!(header.api_version, version);
                    let partitions = vec![PartitionData { error_code: code.code(), ..Default::default() }];
                    let topics = vec![TopicData { partitions, ..Default::default() }];
                    let response = AlterPartitionResponse { topics, ..Default::default() };
                    write_response_header(&mut body, ApiKey::AlterPartition, version, header.correlation_id);
                    response.encode(&mut body, version).expect("it has a place for all");
                }
            }
            let body = body.into_bytes().expect("no file is in it");
            socket.write_i32(i32::try_from(body.len()).expect("short")).await?;
            socket.write_all(&body).await?;
        }
    }

    /// A broker that does one thing on its first connection, another on its second, and so on.
    async fn broker(script: &'static [Does]) -> i32 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        tokio::spawn(async move {
            for does in script {
                let (socket, _) = listener.accept().await.expect("somebody connects");
                // How a connection ends is for the other side to say.
                tokio::spawn(serve(socket, *does));
            }
        });
        i32::from(port)
    }

    fn tell(metadata: &MetadataCache, controller: i32, ports: &[i32]) {
        let endpoint = |port: &i32| Endpoint {
            listener: "PLAINTEXT".to_owned(),
            security_protocol: 0,
            host: "127.0.0.1".to_owned(),
            port: *port,
        };
        let brokers = (1..).zip(ports);
        let broker = |(id, port)| Broker { id: BrokerId(id), rack: None, endpoints: vec![endpoint(port)] };
        let brokers = brokers.map(broker).collect();
        metadata.apply(Update { controller: BrokerId(controller), brokers, topics: Vec::new() });
    }

    async fn asked(to: &mut ToController) -> i16 {
        asked_and_told(to, AGREED).await
    }

    async fn asked_and_told(to: &mut ToController, expected: ErrorCode) -> i16 {
        let ask = to.ask(|| i16::MAX, |_| AlterPartitionRequest::default(), |response| response.error_code);
        let answered = timeout(Duration::from_secs(20), ask).await.expect("somebody answers");
        let code = answered.response.topics[0].partitions[0].error_code;
        assert_eq!(ErrorCode::from_code(code), expected, "whatever else it says, it is the controller's answer");
        answered.version
    }

    const AGREED: ErrorCode = ErrorCode::FencedLeaderEpoch;

    #[tokio::test]
    async fn what_is_said_of_one_partition_makes_nobody_ask_for_all_again() {
        let port = broker(&[Does::SayIt(ErrorCode::NotController, 2)]).await;
        let metadata = Arc::new(MetadataCache::new());
        tell(&metadata, 1, &[port]);
        let mut to = ToController::new(BrokerId(9), metadata, &ControllerConfig::default());
        assert_eq!(asked_and_told(&mut to, ErrorCode::NotController).await, 2);
    }

    #[tokio::test]
    async fn a_broker_that_hangs_up_or_is_not_the_controller_is_asked_again_on_another_connection() {
        let port = broker(&[Does::HangUp, Does::Deny, Does::SayIt(AGREED, 1)]).await;
        let metadata = Arc::new(MetadataCache::new());
        let mut to = ToController::new(BrokerId(9), Arc::clone(&metadata), &ControllerConfig::default());
        // Nobody knows yet who it is.
        let later = Arc::clone(&metadata);
        tokio::spawn(async move { tell(&later, 1, &[port]) });
        assert_eq!(asked(&mut to).await, 1);
        assert_eq!(asked(&mut to).await, 1, "over the same connection");
    }

    #[tokio::test]
    async fn a_silent_controller_is_left_as_soon_as_there_is_another() {
        static ASKED: Notify = Notify::const_new();
        static SILENT: [Does; 1] = [Does::StaySilent(&ASKED)];
        let ports = [broker(&SILENT).await, broker(&[Does::SayIt(AGREED, 3)]).await];
        let metadata = Arc::new(MetadataCache::new());
        tell(&metadata, 1, &ports);
        let mut to = ToController::new(BrokerId(9), Arc::clone(&metadata), &ControllerConfig::default());
        let replaced = async {
            ASKED.notified().await;
            tell(&metadata, 2, &ports);
        };
        assert_eq!(tokio::join!(asked(&mut to), replaced).0, 3);
    }
}
