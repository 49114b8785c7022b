//! One connection to a broker: versions agreed on, requests written in order, answers matched by correlation id.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::client::error::ClientError;
use crate::codec::reader::Reader;
use crate::codec::writer::{Chunk, Writer};
use crate::model::endpoint::ipv4_first;
use crate::model::transaction_version::{TRANSACTION_VERSION, TransactionVersion};
use crate::protocol::api_keys::ApiKey;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::header::{RequestHeader, read_response_header};
use crate::protocol::message::{EncodeError, Message, Request};
use crate::protocol::messages::api_versions::{ApiVersionsRequest, ApiVersionsResponse};

/// Frames that wait for the socket; a submitter beyond that waits.
const FRAMES_QUEUED_MAX: usize = 64;
/// Most pieces handed to one write.
const SLICES_PER_WRITE: usize = 64;
/// A response's buffer grows by at most this much before the bytes for it have arrived.
const READ_AHEAD_BYTES: usize = 256 * 1024;

/// How to connect and how long to wait.
#[derive(Clone, Debug)]
pub struct ConnectionSettings {
    pub client_id: String,
    pub connect_timeout: Duration,
    /// From submission to the whole answer.
    pub request_timeout: Duration,
    /// SO_SNDBUF and SO_RCVBUF; `None` leaves them to the operating system.
    pub send_buffer_bytes: Option<u32>,
    pub receive_buffer_bytes: Option<u32>,
    /// What is on its way when the connection is dropped is not to arrive: whoever drops it asks again by another, and what
    /// came late would be obeyed after what came later. Otherwise the system goes on sending for minutes.
    pub resets: bool,
}

impl Default for ConnectionSettings {
    fn default() -> ConnectionSettings {
        ConnectionSettings {
            client_id: "odradek".to_owned(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            send_buffer_bytes: None,
            receive_buffer_bytes: None,
            resets: false,
        }
    }
}

/// The versions that a broker said it speaks.
#[derive(Clone, Debug, Default)]
pub struct ApiVersions {
    ranges: HashMap<i16, RangeInclusive<i16>>,
}

/// Which transaction protocol a broker said the cluster has finalized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinalizedVersion {
    /// How often features had been changed; -1 if never. Of two brokers that say different things, the higher one knows better.
    pub epoch: i64,
    pub version: TransactionVersion,
}

impl Default for FinalizedVersion {
    fn default() -> FinalizedVersion {
        FinalizedVersion { epoch: -1, version: TransactionVersion::V0 }
    }
}

impl FinalizedVersion {
    fn told(answer: &ApiVersionsResponse) -> FinalizedVersion {
        let level = answer.finalized_features.iter().find(|feature| feature.name == TRANSACTION_VERSION);
        FinalizedVersion {
            epoch: answer.finalized_features_epoch,
            version: TransactionVersion::from_level(level.map_or(0, |feature| feature.max_version_level)),
        }
    }
}

impl ApiVersions {
    pub fn new(ranges: impl IntoIterator<Item = (i16, RangeInclusive<i16>)>) -> ApiVersions {
        ApiVersions { ranges: ranges.into_iter().collect() }
    }

    /// The highest version of the request within `ours` that the broker speaks too.
    pub fn highest_common(&self, key: i16, ours: RangeInclusive<i16>) -> Option<i16> {
        let theirs = self.ranges.get(&key)?;
        let version = *theirs.end().min(ours.end());
        (version >= *theirs.start() && version >= *ours.start()).then_some(version)
    }
}

/// One connection to one broker. Any number of requests may wait for their answers at once.
#[derive(Debug)]
pub struct Connection {
    shared: Arc<Shared>,
    frames: mpsc::Sender<Vec<Bytes>>,
    /// The reader and the writer; they end with the connection.
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    address: String,
    settings: ConnectionSettings,
    next_correlation_id: AtomicI32,
    versions: OnceLock<ApiVersions>,
    finalized: OnceLock<FinalizedVersion>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// By correlation id: who gets the frame's bytes after the correlation id.
    replies: HashMap<i32, oneshot::Sender<Result<Bytes, ClientError>>>,
    /// Why the connection is over; nothing may wait any more.
    closed: Option<ClientError>,
}

impl Shared {
    /// A panic between two map operations leaves the map as good as it was.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, error: ClientError) {
        let replies = {
            let mut waiting = self.waiting();
            waiting.closed.get_or_insert_with(|| error.clone());
            std::mem::take(&mut waiting.replies)
        };
        for (_, reply) in replies {
            // Whoever waited may have gone.
            let _ = reply.send(Err(error.clone()));
        }
    }

    /// Closes the connection, which is of no use any more.
    fn timed_out(&self, api: &'static str) -> ClientError {
        let after = self.settings.request_timeout;
        let error = ClientError::TimedOut { address: self.address.clone(), api, after };
        self.close(error.clone());
        error
    }

    fn disconnected(&self, reason: impl Into<String>) -> ClientError {
        ClientError::Disconnected { address: self.address.clone(), reason: reason.into() }
    }
}

/// A request that was submitted; `response` waits for its answer.
#[derive(Debug)]
pub struct InFlight<R: Request> {
    shared: Arc<Shared>,
    reply: oneshot::Receiver<Result<Bytes, ClientError>>,
    correlation_id: i32,
    version: i16,
    deadline: Instant,
    request: PhantomData<fn(R)>,
}

impl<R: Request> InFlight<R> {
    pub async fn response(self) -> Result<R::Response, ClientError> {
        let address = &self.shared.address;
        let frame = match timeout_at(self.deadline, self.reply).await {
            Ok(Ok(reply)) => reply?,
            Ok(Err(_)) => return Err(self.shared.disconnected("closed before the answer came")),
            Err(_) => {
                self.shared.waiting().replies.remove(&self.correlation_id);
                return Err(self.shared.timed_out(R::NAME));
            }
        };
        let decode_error = |error| ClientError::Decode { address: address.clone(), api: R::NAME, error };
        let mut reader = Reader::new(frame);
        let key = ApiKey::from_code(R::KEY).expect("every request declares a known key");
        read_response_header(&mut reader, key, self.version).map_err(decode_error)?;
        R::Response::decode(&mut reader, self.version).map_err(decode_error)
    }
}

impl Connection {
    /// Connects without asking for versions: whoever sends names the version, as brokers among each other do.
    pub async fn connect(address: &str, settings: &ConnectionSettings) -> Result<Connection, ClientError> {
        let refused = |reason: String| ClientError::Connect { address: address.to_owned(), reason };
        let stream = timeout(settings.connect_timeout, async {
            let deadline = Instant::now() + settings.connect_timeout;
            connect_to_any(addresses_of(address).await?, settings, deadline).await
        })
        .await
        .unwrap_or_else(|_| Err(no_answer(settings)))
        .map_err(|error| refused(error.to_string()))?;
        stream.set_nodelay(true).map_err(|error| refused(error.to_string()))?;
        if settings.resets {
            let socket = socket2::SockRef::from(&stream);
            socket.set_linger(Some(Duration::ZERO)).map_err(|error| refused(error.to_string()))?;
        }
        let (read_half, write_half) = stream.into_split();
        let shared = Arc::new(Shared {
            address: address.to_owned(),
            settings: settings.clone(),
            next_correlation_id: AtomicI32::new(0),
            versions: OnceLock::new(),
            finalized: OnceLock::new(),
            waiting: Mutex::default(),
        });
        let (frames, queue) = mpsc::channel(FRAMES_QUEUED_MAX);
        let mut tasks = JoinSet::new();
        let reader = Arc::clone(&shared);
        tasks.spawn(async move {
            let error = read_frames(read_half, &reader).await;
            reader.close(error);
        });
        let writer = Arc::clone(&shared);
        tasks.spawn(async move {
            if let Err(error) = write_frames(write_half, queue).await {
                writer.close(writer.disconnected(error.to_string()));
            }
        });
        Ok(Connection { shared, frames, _tasks: tasks })
    }

    /// Connects and asks the broker for its versions, so that `send` can choose.
    pub async fn negotiate(address: &str, settings: &ConnectionSettings) -> Result<Connection, ClientError> {
        let connection = Connection::connect(address, settings).await?;
        let answer = connection.api_versions().await?;
        let ranges = answer.api_keys.iter().map(|api| (api.api_key, api.min_version..=api.max_version));
        // Nobody else has the connection yet.
        let _ = connection.shared.versions.set(ApiVersions::new(ranges));
        let _ = connection.shared.finalized.set(FinalizedVersion::told(&answer));
        Ok(connection)
    }

    /// The broker's own words on what it supports, in the highest version of the question that it understands.
    pub async fn api_versions(&self) -> Result<ApiVersionsResponse, ClientError> {
        let request = ApiVersionsRequest {
            client_software_name: "odradek".to_owned(),
            client_software_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        // Version 4 says nothing more, and 2.8 brokers know 3.
        let mut version = 3;
        loop {
            let answer = self.send_at(&request, version).await;
            match answer {
                // A broker that does not know the version answers in version 0, where the error code comes first.
                Ok(answer) if answer.error_code == ErrorCode::UnsupportedVersion.code() && version > 0 => {
                    let theirs = answer.api_keys.iter().find(|api| api.api_key == ApiVersionsRequest::KEY);
                    version = theirs.map_or(0, |api| api.max_version.clamp(0, version - 1));
                }
                Err(ClientError::Decode { .. }) if version > 0 => version = 0,
                Ok(answer) => {
                    let code = ErrorCode::from_code(answer.error_code);
                    if code.is_error() {
                        return Err(ClientError::refused(
                            format!("ask {} for its versions", self.shared.address),
                            code,
                            None,
                        ));
                    }
                    return Ok(answer);
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// Whether requests can no longer be sent.
    pub fn is_closed(&self) -> bool {
        self.shared.waiting().closed.is_some()
    }

    /// As the broker said when it was asked for its versions.
    pub fn finalized(&self) -> FinalizedVersion {
        self.shared.finalized.get().copied().unwrap_or_default()
    }

    /// The version that a negotiated connection sends this request in. `at_most` lowers our own highest version.
    pub fn version_of<R: Request>(&self, at_most: i16) -> Result<i16, ClientError> {
        self.version_among::<R>(*R::VERSIONS.start()..=*R::VERSIONS.end().min(&at_most))
    }

    /// The same, of these versions alone.
    pub fn version_among<R: Request>(&self, ours: RangeInclusive<i16>) -> Result<i16, ClientError> {
        match self.shared.versions.get() {
            None => Some(*ours.end()),
            Some(versions) => versions.highest_common(R::KEY, ours),
        }
        .ok_or_else(|| ClientError::UnsupportedVersion { address: self.shared.address.clone(), api: R::NAME })
    }

    /// Sends in the highest common version and waits for the answer.
    pub async fn send<R: Request>(&self, request: &R) -> Result<R::Response, ClientError> {
        let version = self.version_of::<R>(i16::MAX)?;
        self.send_at(request, version).await
    }

    /// Sends in the given version and waits for the answer.
    pub async fn send_at<R: Request>(&self, request: &R, version: i16) -> Result<R::Response, ClientError> {
        self.submit(request, version).await?.response().await
    }

    /// Queues a request for the socket; requests are sent in the order of these calls. Waits only while the queue is
    /// full.
    pub async fn submit<R: Request>(&self, request: &R, version: i16) -> Result<InFlight<R>, ClientError> {
        self.submit_body(version, |body| request.encode(body, version)).await
    }

    /// Sends a request whose body was written before, in pieces, in the given version.
    pub async fn send_written<R: Request>(&self, pieces: &[Bytes], version: i16) -> Result<R::Response, ClientError> {
        let write = |body: &mut Writer| {
            pieces.iter().for_each(|piece| body.bytes(piece));
            Ok(())
        };
        self.submit_body::<R>(version, write).await?.response().await
    }

    async fn submit_body<R: Request>(
        &self,
        version: i16,
        write: impl FnOnce(&mut Writer) -> Result<(), EncodeError>,
    ) -> Result<InFlight<R>, ClientError> {
        let deadline = Instant::now() + self.shared.settings.request_timeout;
        let correlation_id = self.shared.next_correlation_id.fetch_add(1, Ordering::Relaxed) & i32::MAX;
        let frame = self.frame::<R>(version, correlation_id, write)?;
        let (reply_to, reply) = oneshot::channel();
        {
            let mut waiting = self.shared.waiting();
            if let Some(error) = &waiting.closed {
                return Err(error.clone());
            }
            waiting.replies.insert(correlation_id, reply_to);
        }
        if let Err(error) = self.queue::<R>(frame, deadline).await {
            self.shared.waiting().replies.remove(&correlation_id);
            return Err(error);
        }
        let shared = Arc::clone(&self.shared);
        Ok(InFlight { shared, reply, correlation_id, version, deadline, request: PhantomData })
    }

    /// A broker that takes nothing any more costs its connection, as one does that does not answer.
    async fn queue<R: Request>(&self, frame: Vec<Bytes>, deadline: Instant) -> Result<(), ClientError> {
        match timeout_at(deadline, self.frames.send(frame)).await {
            Ok(queued) => queued.map_err(|_| self.shared.disconnected("closed")),
            Err(_) => Err(self.shared.timed_out(R::NAME)),
        }
    }

    /// Queues a request that gets no answer: a produce with acks=0.
    pub async fn submit_unanswered<R: Request>(&self, request: &R, version: i16) -> Result<(), ClientError> {
        let deadline = Instant::now() + self.shared.settings.request_timeout;
        let correlation_id = self.shared.next_correlation_id.fetch_add(1, Ordering::Relaxed) & i32::MAX;
        let frame = self.frame::<R>(version, correlation_id, |body| request.encode(body, version))?;
        if let Some(error) = &self.shared.waiting().closed {
            return Err(error.clone());
        }
        self.queue::<R>(frame, deadline).await
    }

    fn frame<R: Request>(
        &self,
        version: i16,
        correlation_id: i32,
        write: impl FnOnce(&mut Writer) -> Result<(), EncodeError>,
    ) -> Result<Vec<Bytes>, ClientError> {
        let encode_error = |error| ClientError::Encode { api: R::NAME, error };
        let mut body = Writer::new();
        let client_id = Some(self.shared.settings.client_id.clone());
        RequestHeader { api_key: R::KEY, api_version: version, correlation_id, client_id }
            .write(&mut body)
            .map_err(encode_error)?;
        write(&mut body).map_err(encode_error)?;
        let too_long = |bytes| encode_error(EncodeError::TooLong { bytes });
        let mut length = Writer::with_capacity(4);
        length.i32(i32::try_from(body.len()).map_err(|_| too_long(body.len()))?);
        let mut pieces = Vec::new();
        for chunk in length.into_chunks().into_iter().chain(body.into_chunks()) {
            match chunk {
                Chunk::Bytes(bytes) => pieces.push(bytes),
                // Clients hold what they send in memory; only a broker's responses carry file regions.
                Chunk::File(region) => return Err(too_long(region.len as usize)),
            }
        }
        Ok(pieces)
    }
}

/// What the name stands for, IPv4 first, as a JVM has it unless it is told otherwise.
async fn addresses_of(name: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(ipv4_first(lookup_host(name).await?))
}

/// Tries every address. One that does not answer has its share of the time that is left, so that the others are tried too:
/// a name may have an IPv6 address that a filter drops everything for.
/// Source: kafka 3.9 clients/.../ClusterConnectionStates.java, moveToNextAddress; there each has the whole time for itself.
async fn connect_to_any(
    addresses: Vec<SocketAddr>,
    settings: &ConnectionSettings,
    deadline: Instant,
) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name stands for no address");
    for (address, left) in addresses.iter().zip((1..=addresses.len()).rev()) {
        let now = Instant::now();
        let share = deadline.saturating_duration_since(now) / u32::try_from(left).unwrap_or(u32::MAX);
        match timeout_at(now + share, connect_to(*address, settings)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = no_answer(settings),
        }
    }
    Err(last)
}

fn no_answer(settings: &ConnectionSettings) -> io::Error {
    let waited = format!("no answer within {} ms", settings.connect_timeout.as_millis());
    io::Error::new(io::ErrorKind::TimedOut, waited)
}

async fn connect_to(address: SocketAddr, settings: &ConnectionSettings) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(bytes) = settings.send_buffer_bytes {
        socket.set_send_buffer_size(bytes)?;
    }
    if let Some(bytes) = settings.receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.connect(address).await
}

/// Hands every frame to whoever waits for it. Returns why it stopped.
async fn read_frames(mut socket: OwnedReadHalf, shared: &Shared) -> ClientError {
    let mut buffer = BytesMut::with_capacity(16 * 1024);
    loop {
        match whole_frame(&mut buffer) {
            Ok(Framed::Whole(frame)) => {
                let correlation_id = Reader::new(frame.clone()).i32();
                let reply = correlation_id.ok().and_then(|id| shared.waiting().replies.remove(&id));
                match reply {
                    // Whoever waited may have gone.
                    Some(reply) => drop(reply.send(Ok(frame))),
                    None => return shared.disconnected("the broker answered a request that was not sent"),
                }
                continue;
            }
            // The buffer follows what arrives: a declared length alone reserves no more than a fixed step.
            Ok(Framed::Needs(bytes)) => buffer.reserve(bytes.min(buffer.len().max(READ_AHEAD_BYTES))),
            Err(declared) => return shared.disconnected(format!("a response declares {declared} bytes")),
        }
        match socket.read_buf(&mut buffer).await {
            Ok(0) => return shared.disconnected("closed by the broker"),
            Ok(_) => {}
            Err(error) => return shared.disconnected(error.to_string()),
        }
    }
}

enum Framed {
    Whole(Bytes),
    /// At least this many bytes are missing.
    Needs(usize),
}

/// Splits the first frame off the buffer, as long as it may be: so long is a batch that a fetch must take, and a JVM's
/// clients know no other bound. `Err` carries a declared length that is negative.
/// Source: kafka 3.9 clients/.../common/network/Selector.java (NetworkReceive.UNLIMITED).
fn whole_frame(buffer: &mut BytesMut) -> Result<Framed, i32> {
    let Some(length) = buffer.first_chunk::<4>() else { return Ok(Framed::Needs(4 - buffer.len())) };
    let declared = i32::from_be_bytes(*length);
    let length = usize::try_from(declared).map_err(|_| declared)?;
    if buffer.len() < 4 + length {
        return Ok(Framed::Needs(4 + length - buffer.len()));
    }
    buffer.advance(4);
    Ok(Framed::Whole(buffer.split_to(length).freeze()))
}

/// Writes what is queued, as much as possible per call.
async fn write_frames(mut socket: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<Bytes>>) -> io::Result<()> {
    let mut pieces: VecDeque<Bytes> = VecDeque::new();
    while let Some(frame) = queue.recv().await {
        pieces.extend(frame);
        while let Ok(frame) = queue.try_recv() {
            pieces.extend(frame);
            if pieces.len() >= SLICES_PER_WRITE {
                break;
            }
        }
        while !pieces.is_empty() {
            let slices: Vec<IoSlice<'_>> =
                pieces.iter().take(SLICES_PER_WRITE).map(|piece| IoSlice::new(piece)).collect();
            let mut written = socket.write_vectored(&slices).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            while let Some(first) = pieces.front_mut() {
                if first.len() > written {
                    first.advance(written);
                    break;
                }
                written -= first.len();
                pieces.pop_front();
            }
        }
    }
    Ok(())
}

/// Runs `attempt` again, after a growing pause, while it fails with what may pass, until the time is over.
pub async fn retried<T, F: Future<Output = Result<T, ClientError>>>(
    doing: &str,
    allowed: Duration,
    backoff: Duration,
    mut attempt: impl FnMut() -> F,
) -> Result<T, ClientError> {
    let deadline = Instant::now() + allowed;
    let mut pause = backoff;
    let mut last = None;
    loop {
        match timeout_at(deadline, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) if !error.is_retriable() => return Err(error),
            Ok(Err(error)) if Instant::now() + pause < deadline => last = Some(error),
            Ok(Err(error)) => {
                return Err(ClientError::GaveUp { doing: doing.to_owned(), after: allowed, last: Some(error.into()) });
            }
            Err(_) => {
                let last = last.map(Box::new);
                return Err(ClientError::GaveUp { doing: doing.to_owned(), after: allowed, last });
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1).max(backoff));
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::protocol::messages::heartbeat::{HeartbeatRequest, HeartbeatResponse};

    fn heartbeat() -> HeartbeatRequest {
        HeartbeatRequest { group_id: "g".to_owned(), member_id: "m".to_owned(), ..Default::default() }
    }

    async fn read_request(socket: &mut TcpStream) -> RequestHeader {
        let length = socket.read_i32().await.unwrap();
        let mut frame = vec![0; usize::try_from(length).unwrap()];
        socket.read_exact(&mut frame).await.unwrap();
        RequestHeader::read(&mut Reader::new(Bytes::from(frame))).unwrap()
    }

    async fn answer(socket: &mut TcpStream, correlation_id: i32, error_code: i16) {
        let mut body = Writer::new();
        body.i32(correlation_id);
        HeartbeatResponse { error_code, ..Default::default() }.encode(&mut body, 1).unwrap();
        let body = body.into_bytes().unwrap();
        socket.write_i32(i32::try_from(body.len()).unwrap()).await.unwrap();
        socket.write_all(&body).await.unwrap();
    }

    async fn connected(settings: ConnectionSettings) -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connection = Connection::connect(&address, &settings).await.unwrap();
        (connection, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn answers_find_their_requests_by_correlation_id() {
        let (connection, mut broker) = connected(ConnectionSettings::default()).await;
        let first = connection.submit(&heartbeat(), 1).await.unwrap();
        let second = connection.submit(&heartbeat(), 1).await.unwrap();
        let ids = [read_request(&mut broker).await.correlation_id, read_request(&mut broker).await.correlation_id];
        answer(&mut broker, ids[1], 27).await;
        answer(&mut broker, ids[0], 25).await;
        assert_eq!(first.response().await.unwrap().error_code, 25);
        assert_eq!(second.response().await.unwrap().error_code, 27);
    }

    #[tokio::test]
    async fn a_broker_that_goes_away_fails_every_waiting_request() {
        let (connection, mut broker) = connected(ConnectionSettings::default()).await;
        let waiting = connection.submit(&heartbeat(), 1).await.unwrap();
        read_request(&mut broker).await;
        drop(broker);
        assert!(matches!(waiting.response().await, Err(ClientError::Disconnected { .. })));
        assert!(connection.is_closed());
        assert!(connection.send_at(&heartbeat(), 1).await.is_err());
    }

    #[tokio::test]
    async fn a_request_without_an_answer_costs_its_connection() {
        let settings = ConnectionSettings { request_timeout: Duration::from_millis(50), ..Default::default() };
        let (connection, _broker) = connected(settings).await;
        let error = connection.send_at(&heartbeat(), 1).await.unwrap_err();
        assert!(matches!(error, ClientError::TimedOut { api: "HeartbeatRequest", .. }), "{error}");
        assert!(connection.is_closed());
    }

    /// Its backlog is full, so that the system drops whatever asks for more.
    fn silent() -> (socket2::Socket, SocketAddr, Vec<std::net::TcpStream>) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let wait = Duration::from_millis(100);
        let waiting = std::iter::from_fn(|| std::net::TcpStream::connect_timeout(&address, wait).ok()).collect();
        (socket, address, waiting)
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_keeps_nobody_from_the_next() {
        let (_silent, black_hole, _waiting) = silent();
        let live = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = ConnectionSettings { connect_timeout: Duration::from_secs(1), ..Default::default() };
        let connect = async |addresses| {
            let deadline = Instant::now() + settings.connect_timeout;
            timeout_at(deadline, connect_to_any(addresses, &settings, deadline)).await
        };
        let both = vec![black_hole, live.local_addr().unwrap()];
        let connected = connect(both).await.expect("in time").expect("one of them answers");
        assert_eq!(connected.peer_addr().unwrap(), live.local_addr().unwrap());
        let error = Connection::connect(&black_hole.to_string(), &settings).await.expect_err("nobody answers");
        assert!(error.to_string().contains("no answer within 1000 ms"), "{error}");
    }

    #[tokio::test]
    async fn a_broker_that_takes_nothing_any_more_costs_its_connection() {
        let settings = ConnectionSettings { request_timeout: Duration::from_millis(50), ..Default::default() };
        let flood = HeartbeatRequest { member_id: "m".repeat(30_000), ..heartbeat() };
        let hung = Duration::from_secs(20);
        for is_answered in [false, true] {
            let (connection, _broker) = connected(settings.clone()).await;
            let refused = timeout(hung, async {
                loop {
                    let submitted = match is_answered {
                        false => connection.submit_unanswered(&flood, 1).await,
                        true => connection.submit(&flood, 1).await.map(drop),
                    };
                    match submitted {
                        Ok(()) => {}
                        Err(error) => return error,
                    }
                }
            });
            let error = refused.await.expect("it does not wait for ever");
            assert!(matches!(error, ClientError::TimedOut { api: "HeartbeatRequest", .. }), "{error}");
            assert!(connection.is_closed());
        }
    }

    #[tokio::test]
    async fn what_was_given_up_does_not_arrive() {
        let flood = HeartbeatRequest { member_id: "m".repeat(30_000), ..heartbeat() };
        for resets in [false, true] {
            let (connection, mut broker) = connected(ConnectionSettings { resets, ..Default::default() }).await;
            for _ in 0..FRAMES_QUEUED_MAX {
                drop(connection.submit(&flood, 1).await.unwrap());
            }
            // More are on their way than the broker's socket takes.
            read_request(&mut broker).await;
            let tasks = Arc::downgrade(&connection.shared);
            drop(connection);
            while tasks.strong_count() > 0 {
                tokio::task::yield_now().await;
            }
            let mut rest = Vec::new();
            let end = broker.read_to_end(&mut rest).await.map(drop).map_err(|error| error.kind());
            assert_eq!(end, if resets { Err(io::ErrorKind::ConnectionReset) } else { Ok(()) });
        }
    }

    #[tokio::test]
    async fn a_response_of_negative_length_closes_the_connection_and_no_other_does() {
        let (connection, mut broker) = connected(ConnectionSettings::default()).await;
        let waiting = connection.submit(&heartbeat(), 1).await.unwrap();
        broker.write_i32(-1).await.unwrap();
        let error = waiting.response().await.unwrap_err();
        assert!(error.to_string().contains("declares -1 bytes"), "{error}");
        let mut longest = BytesMut::from(&i32::MAX.to_be_bytes()[..]);
        assert!(matches!(whole_frame(&mut longest), Ok(Framed::Needs(0x7fff_ffff))));
    }
}
