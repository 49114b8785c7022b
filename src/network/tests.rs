//! Connections over real sockets, with a service whose answers the test releases by hand.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Duration, timeout};

use crate::codec::writer::{Chunk, FileRegion, Writer};
use crate::network::connection::ConnectionBounds;
use crate::network::limits::{ConnectionCounter, ConnectionLimits};
use crate::network::listener::{BoundListener, ListenerSettings, accept};
use crate::network::memory::MemoryPool;
use crate::network::{Answer, Asked, Request, Service, Shared};
use crate::protocol::header::RequestHeader;

const PRODUCE: i16 = 0;
const METADATA: i16 = 3;
/// A part of such a request is kept.
const JOIN_GROUP: i16 = 11;
/// Is not done with before its turn, though it may start early.
const IN_TURN: i32 = 99;

/// Tells the test of each request that starts, and answers once the test says so.
struct ByHand {
    started: mpsc::UnboundedSender<(i32, oneshot::Sender<Answer>)>,
    handled: Mutex<Vec<i32>>,
    /// By correlation id: what its session had counted.
    sent_before: Mutex<HashMap<i32, usize>>,
    /// Parts of requests that a room keeps beyond its answer.
    kept: Mutex<Vec<Bytes>>,
    /// Where the regions begin that could not be sent.
    failed: Mutex<Vec<u64>>,
}

impl Service for ByHand {
    /// How many requests the connection has sent.
    type Session = AtomicUsize;

    fn open_session(&self) -> AtomicUsize {
        AtomicUsize::new(0)
    }

    fn handle(self: &Arc<Self>, request: Request<AtomicUsize>) -> Asked {
        let (answer, answered) = oneshot::channel();
        self.handled.lock().unwrap().push(request.header.correlation_id);
        if request.header.api_key == JOIN_GROUP {
            self.kept.lock().unwrap().extend(request.body.clone().take(8));
        }
        let before = request.peer.session.fetch_add(1, Ordering::Relaxed);
        self.sent_before.lock().unwrap().insert(request.header.correlation_id, before);
        self.started.send((request.header.correlation_id, answer)).unwrap();
        let answer = Box::pin(async move { answered.await.unwrap_or_else(|_| Answer::close()) });
        match request.is_early && request.header.correlation_id == IN_TURN {
            true => Asked::InTurn(answer),
            false => Asked::Waits(answer),
        }
    }

    fn may_start_early(&self, header: &RequestHeader) -> bool {
        header.api_key == PRODUCE
    }

    fn region_failed(&self, region: &FileRegion) {
        self.failed.lock().unwrap().push(region.position);
    }
}

struct Harness {
    address: std::net::SocketAddr,
    service: Arc<ByHand>,
    shared: Arc<Shared>,
    started: mpsc::UnboundedReceiver<(i32, oneshot::Sender<Answer>)>,
    parked: HashMap<i32, oneshot::Sender<Answer>>,
    _shutdown: watch::Sender<bool>,
}

impl Harness {
    fn start(bounds: ConnectionBounds) -> Harness {
        Harness::start_with_memory(bounds, 1 << 30)
    }

    fn start_with_memory(bounds: ConnectionBounds, memory_bytes: usize) -> Harness {
        let (sender, started) = mpsc::unbounded_channel();
        let service = Arc::new(ByHand {
            started: sender,
            handled: Mutex::default(),
            sent_before: Mutex::default(),
            kept: Mutex::default(),
            failed: Mutex::default(),
        });
        let (address, shared, shutdown) = listen(&service, bounds, memory_bytes);
        Harness { address, service, shared, started, parked: HashMap::new(), _shutdown: shutdown }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn wait_for_start(&mut self, correlation_id: i32) {
        while !self.parked.contains_key(&correlation_id) {
            let next = timeout(PATIENCE, self.started.recv()).await;
            let (id, answer) = next.expect("the request starts").unwrap();
            self.parked.insert(id, answer);
        }
    }

    fn answer(&mut self, correlation_id: i32) {
        self.answer_with(correlation_id, |answer| answer);
    }

    fn answer_with(&mut self, correlation_id: i32, and: impl FnOnce(Answer) -> Answer) {
        let reply = Answer::reply(vec![Chunk::Bytes(correlation_id.to_be_bytes().to_vec().into())]);
        self.parked.remove(&correlation_id).expect("it started").send(and(reply)).ok().expect("it is waited for");
    }

    async fn has_dropped(&mut self, correlation_id: i32) {
        let mut parked = self.parked.remove(&correlation_id).expect("it started");
        timeout(PATIENCE, parked.closed()).await.expect("the waiting request is dropped");
    }

    /// Sends the first bytes of a request of that length, and waits until they are read as far as they may be.
    async fn connect_half_sent(&self, length: usize, sent: usize, used_after: usize) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(&frame(METADATA, 0, length)[..sent]).await.unwrap();
        self.until(|harness| harness.shared.memory.used_bytes() >= used_after).await;
        stream
    }

    async fn until(&self, holds: impl Fn(&Harness) -> bool) {
        let probing = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = timeout(PATIENCE, probing).await;
        let (used, counters) = (self.shared.memory.used_bytes(), &self.shared.counters);
        assert!(waited.is_ok(), "{used} bytes are used; {counters:?}");
    }
}

fn at_port(port: u16) -> ListenerSettings {
    ListenerSettings {
        name: "PLAINTEXT".into(),
        host: "127.0.0.1".into(),
        port,
        backlog: 50,
        send_buffer_bytes: None,
        receive_buffer_bytes: None,
    }
}

#[tokio::test]
async fn a_bound_port_refuses_connections_until_it_listens_and_the_first_to_listen_has_it() {
    let first = BoundListener::bind(at_port(0)).expect("a port is free");
    let address = first.local_address().expect("it has one");
    let refused = TcpStream::connect(address).await.map_err(|error| error.kind());
    assert_eq!(refused.map(drop), Err(std::io::ErrorKind::ConnectionRefused));
    let in_use = format!("Socket server failed to bind to {address} (listener PLAINTEXT): Address already in use");
    let second = BoundListener::bind(at_port(address.port())).expect("neither listens yet");
    let first = first.listen().expect("it is the first");
    let refusal = second.listen().expect_err("it is the second").to_string();
    assert!(refusal.starts_with(&in_use), "{refusal}");
    let refusal = BoundListener::bind(at_port(address.port())).expect_err("the first listens").to_string();
    assert!(refusal.starts_with(&in_use), "{refusal}");
    TcpStream::connect(address).await.expect("it listens");
    drop(first);
}

/// Serves connections of a port of its own, until the sender goes.
pub fn listen<S: Service>(
    service: &Arc<S>,
    bounds: ConnectionBounds,
    memory_bytes: usize,
) -> (std::net::SocketAddr, Arc<Shared>, watch::Sender<bool>) {
    let bound = BoundListener::bind(at_port(0)).expect("a port is free");
    let address = bound.local_address().unwrap();
    let counter = ConnectionCounter::new(ConnectionLimits {
        max_connections: usize::MAX,
        max_connections_per_ip: usize::MAX,
        max_connections_per_ip_overrides: HashMap::new(),
        max_connection_creation_rate: u32::MAX,
        descriptors: usize::MAX,
        listeners: HashMap::new(),
    });
    let (shutdown, receiver) = watch::channel(false);
    let shared = Arc::new(Shared {
        bounds,
        connections: counter,
        memory: MemoryPool::new(memory_bytes, bounds.request_max_bytes),
        counters: Arc::default(),
    });
    tokio::spawn(accept(
        bound.listen().expect("nobody else has it"),
        Arc::clone(service),
        Arc::clone(&shared),
        receiver,
    ));
    (address, shared, shutdown)
}

pub const PATIENCE: Duration = Duration::from_secs(30);

pub const BOUNDS: ConnectionBounds = ConnectionBounds {
    request_max_bytes: 1 << 20,
    max_idle: None,
    window_requests: 4,
    window_bytes: 1 << 20,
    answers_after_close: Duration::ZERO,
};

pub fn frame(key: i16, correlation_id: i32, padding: usize) -> Vec<u8> {
    let mut writer = Writer::new();
    RequestHeader { api_key: key, api_version: 0, correlation_id, client_id: None }.write(&mut writer).unwrap();
    writer.slice(&vec![0; padding]);
    let body = writer.into_bytes().unwrap();
    let mut frame = (body.len() as i32).to_be_bytes().to_vec();
    frame.extend_from_slice(&body);
    frame
}

async fn next_answer(stream: &mut TcpStream) -> i32 {
    let mut answer = [0; 8];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("an answer comes").unwrap();
    assert_eq!(answer[..4], 4i32.to_be_bytes());
    i32::from_be_bytes([answer[4], answer[5], answer[6], answer[7]])
}

pub async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut byte = [0; 1];
    matches!(timeout(PATIENCE, stream.read(&mut byte)).await.expect("the end comes"), Ok(0) | Err(_))
}

#[tokio::test]
async fn produces_start_early_and_are_answered_in_order() {
    let mut harness = Harness::start(BOUNDS);
    let mut stream = harness.connect().await;
    stream.write_all(&[frame(PRODUCE, 1, 0), frame(PRODUCE, 2, 0), frame(PRODUCE, 3, 0)].concat()).await.unwrap();
    harness.wait_for_start(3).await;
    harness.answer(3);
    harness.answer(2);
    harness.answer(1);
    for expected in 1..=3 {
        assert_eq!(next_answer(&mut stream).await, expected);
    }
}

#[tokio::test]
async fn long_produces_start_early_too_and_a_long_other_request_does_not() {
    let mut harness = Harness::start(BOUNDS);
    let mut stream = harness.connect().await;
    let frames = [frame(PRODUCE, 1, 300_000), frame(PRODUCE, 2, 300_000), frame(METADATA, 3, 300_000)].concat();
    let (mut incoming, mut outgoing) = stream.split();
    let sending = outgoing.write_all(&frames);
    let checking = async {
        harness.wait_for_start(2).await;
        assert_eq!(*harness.service.handled.lock().unwrap(), [1, 2]);
        harness.answer(1);
        harness.answer(2);
        harness.wait_for_start(3).await;
        harness.answer(3);
        let mut answers = [0; 24];
        timeout(PATIENCE, incoming.read_exact(&mut answers)).await.expect("answers come").unwrap();
        assert_eq!([answers[7], answers[15], answers[23]], [1, 2, 3]);
    };
    let (sent, ()) = tokio::join!(sending, checking);
    sent.unwrap();
}

#[tokio::test]
async fn none_starts_before_one_is_answered_that_waits_for_its_turn() {
    let mut harness = Harness::start(BOUNDS);
    let mut stream = harness.connect().await;
    stream.write_all(&[frame(PRODUCE, 1, 0), frame(PRODUCE, IN_TURN, 0), frame(PRODUCE, 3, 0)].concat()).await.unwrap();
    harness.wait_for_start(IN_TURN).await;
    harness.answer(IN_TURN);
    harness.answer(1);
    assert_eq!(next_answer(&mut stream).await, 1);
    assert_eq!(next_answer(&mut stream).await, IN_TURN);
    harness.wait_for_start(3).await;
    assert_eq!(*harness.service.handled.lock().unwrap(), [1, IN_TURN, 3]);
    harness.answer(3);
    assert_eq!(next_answer(&mut stream).await, 3);

    stream.write_all(&[frame(PRODUCE, 4, 0), frame(PRODUCE, IN_TURN, 0), frame(PRODUCE, 5, 0)].concat()).await.unwrap();
    harness.wait_for_start(IN_TURN).await;
    harness.answer(4);
    assert_eq!(next_answer(&mut stream).await, 4);
    assert_eq!(
        *harness.service.handled.lock().unwrap(),
        [1, IN_TURN, 3, 4, IN_TURN],
        "it is its turn, and not yet answered"
    );
    harness.answer(IN_TURN);
    harness.wait_for_start(5).await;
    harness.answer(5);
    assert_eq!(next_answer(&mut stream).await, IN_TURN);
}

#[tokio::test]
async fn another_request_waits_its_turn() {
    let mut harness = Harness::start(BOUNDS);
    let mut stream = harness.connect().await;
    stream.write_all(&[frame(PRODUCE, 1, 0), frame(METADATA, 2, 0), frame(PRODUCE, 3, 0)].concat()).await.unwrap();
    harness.wait_for_start(1).await;
    assert_eq!(*harness.service.handled.lock().unwrap(), [1]);
    harness.answer(1);
    harness.wait_for_start(2).await;
    assert_eq!(*harness.service.handled.lock().unwrap(), [1, 2]);
    harness.answer(2);
    harness.wait_for_start(3).await;
    harness.answer(3);
    for expected in 1..=3 {
        assert_eq!(next_answer(&mut stream).await, expected);
    }
}

#[tokio::test]
async fn the_window_bounds_what_waits() {
    let mut harness = Harness::start(BOUNDS);
    let mut stream = harness.connect().await;
    let frames: Vec<u8> = (1..=6).flat_map(|id| frame(PRODUCE, id, 0)).collect();
    stream.write_all(&frames).await.unwrap();
    harness.wait_for_start(4).await;
    assert_eq!(*harness.service.handled.lock().unwrap(), [1, 2, 3, 4]);
    harness.answer(1);
    harness.wait_for_start(5).await;
    (2..=5).for_each(|id| harness.answer(id));
    harness.wait_for_start(6).await;
    harness.answer(6);
    for expected in 1..=6 {
        assert_eq!(next_answer(&mut stream).await, expected);
    }
}

#[tokio::test]
async fn a_frame_that_comes_byte_by_byte_or_very_long_is_read_whole() {
    let mut harness = Harness::start(BOUNDS);
    let mut stream = harness.connect().await;
    for byte in frame(METADATA, 1, 3) {
        stream.write_all(&[byte]).await.unwrap();
        stream.flush().await.unwrap();
    }
    harness.wait_for_start(1).await;
    harness.answer(1);
    assert_eq!(next_answer(&mut stream).await, 1);
    stream.write_all(&frame(METADATA, 2, 1_000_000)).await.unwrap();
    harness.wait_for_start(2).await;
    harness.answer(2);
    assert_eq!(next_answer(&mut stream).await, 2);
}

#[tokio::test]
async fn bytes_that_are_no_request_cost_their_sender_the_connection() {
    let harness = Harness::start(BOUNDS);
    let too_long = ((BOUNDS.request_max_bytes + 1) as i32).to_be_bytes().to_vec();
    let negative = (-1i32).to_be_bytes().to_vec();
    let no_header = [3i32.to_be_bytes().to_vec(), vec![0, 0, 0]].concat();
    let long_client_id = [10i32.to_be_bytes().to_vec(), vec![0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 0xff]].concat();
    for bytes in [too_long, negative, no_header, long_client_id] {
        let mut stream = harness.connect().await;
        stream.write_all(&bytes).await.unwrap();
        assert!(is_closed(&mut stream).await);
    }
    assert!(harness.service.handled.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_that_waits_for_its_answer_is_not() {
    let mut harness = Harness::start(ConnectionBounds { max_idle: Some(Duration::from_millis(100)), ..BOUNDS });
    let mut waiting = harness.connect().await;
    waiting.write_all(&frame(METADATA, 1, 0)).await.unwrap();
    harness.wait_for_start(1).await;
    let mut idle = harness.connect().await;
    assert!(is_closed(&mut idle).await);
    harness.answer(1);
    assert_eq!(next_answer(&mut waiting).await, 1);
}

#[tokio::test]
async fn a_peer_that_takes_no_answers_and_sends_no_more_of_its_request_is_idle() {
    const ANSWER_BYTES: usize = 256 << 10;
    let mut harness = Harness::start(ConnectionBounds { max_idle: Some(Duration::from_secs(1)), ..BOUNDS });
    let mut stream = harness.connect().await;
    let is_closed = |harness: &Harness| harness.shared.counters.connections_closed.load(Ordering::Relaxed) == 1;
    let mut sent = 0;
    // Until the sockets take no more, and the rest is counted.
    for id in 1.. {
        if is_closed(&harness) || harness.shared.memory.used_bytes() > 0 {
            break;
        }
        let _ = stream.write_all(&frame(METADATA, id, 0)).await;
        harness.wait_for_start(id).await;
        harness.answer_with(id, |_| Answer::reply(vec![Chunk::Bytes(vec![0; ANSWER_BYTES].into())]));
        sent += (ANSWER_BYTES + 4) as u64;
        let is_settled = |harness: &Harness| {
            let bytes_sent = harness.shared.counters.bytes_sent.load(Ordering::Relaxed);
            bytes_sent == sent || harness.shared.memory.used_bytes() > 0 || is_closed(harness)
        };
        harness.until(is_settled).await;
    }
    let _ = stream.write_all(&frame(METADATA, 0, LONG)[..LONG / 2]).await;
    harness.until(is_closed).await;
    assert_eq!(harness.shared.memory.used_bytes(), 0);
}

#[tokio::test]
async fn a_hang_up_drops_what_waits() {
    let mut harness = Harness::start(BOUNDS);
    let mut stream = harness.connect().await;
    stream.write_all(&frame(METADATA, 1, 0)).await.unwrap();
    harness.wait_for_start(1).await;
    drop(stream);
    harness.has_dropped(1).await;
}

#[tokio::test]
async fn a_hang_up_is_noticed_behind_requests_that_are_not_read_yet() {
    let mut harness = Harness::start(BOUNDS);
    let mut stream = harness.connect().await;
    stream.write_all(&frame(METADATA, 1, 0)).await.unwrap();
    harness.wait_for_start(1).await;
    // More than the connection reads before it has answered, and less than the socket holds.
    stream.write_all(&frame(METADATA, 2, 90_000)).await.unwrap();
    stream.write_all(&frame(METADATA, 3, 0)).await.unwrap();
    drop(stream);
    harness.has_dropped(1).await;
    assert_eq!(*harness.service.handled.lock().unwrap(), [1]);
}

#[tokio::test]
async fn what_a_producer_sent_before_it_hung_up_is_handled_and_nothing_else() {
    let mut harness = Harness::start(BOUNDS);
    let mut stream = harness.connect().await;
    let frames: Vec<u8> = (1..=7).flat_map(|id| frame(PRODUCE, id, 20_000)).collect();
    stream.write_all(&frames).await.unwrap();
    stream.write_all(&[frame(METADATA, 8, 0), frame(PRODUCE, 9, 0)].concat()).await.unwrap();
    harness.wait_for_start(4).await;
    drop(stream);
    for id in 1..=7 {
        harness.wait_for_start(id).await;
        harness.answer_with(id, |_| Answer::nothing());
    }
    harness.until(|harness| harness.shared.counters.connections_closed.load(Ordering::Relaxed) == 1).await;
    assert_eq!(*harness.service.handled.lock().unwrap(), [1, 2, 3, 4, 5, 6, 7]);
}

/// As a script does that ends its input: a JVM broker sees the end only behind the last answer.
#[tokio::test]
async fn a_peer_that_has_closed_its_side_gets_the_answers_to_all_that_it_sent_before() {
    let mut harness = Harness::start(ConnectionBounds { answers_after_close: PATIENCE, ..BOUNDS });
    let mut stream = harness.connect().await;
    // More than is read before the first answer, so that the end is seen before the last request is.
    let frames: Vec<u8> = (1..=4).flat_map(|id| frame(METADATA, id, 40_000)).collect();
    stream.write_all(&frames).await.unwrap();
    stream.shutdown().await.unwrap();
    for id in 1..=4 {
        harness.wait_for_start(id).await;
        harness.answer(id);
        assert_eq!(next_answer(&mut stream).await, id);
    }
    assert!(is_closed(&mut stream).await);
}

#[tokio::test]
async fn a_peer_that_has_closed_its_side_gets_no_answers_after_a_while() {
    let mut harness = Harness::start(ConnectionBounds { answers_after_close: Duration::from_millis(1), ..BOUNDS });
    let mut stream = harness.connect().await;
    stream.write_all(&[frame(METADATA, 1, 0), frame(METADATA, 2, 0)].concat()).await.unwrap();
    harness.wait_for_start(1).await;
    stream.shutdown().await.unwrap();
    harness.has_dropped(1).await;
    assert!(is_closed(&mut stream).await);
    assert_eq!(*harness.service.handled.lock().unwrap(), [1]);
}

#[tokio::test]
async fn requests_that_waited_unread_are_read_once_the_answer_before_them_is_there() {
    let mut harness = Harness::start(BOUNDS);
    let mut stream = harness.connect().await;
    stream.write_all(&frame(METADATA, 1, 0)).await.unwrap();
    harness.wait_for_start(1).await;
    let (mut incoming, mut outgoing) = stream.split();
    let frames = [frame(METADATA, 2, 500_000), frame(METADATA, 3, 500_000), frame(METADATA, 4, 0)].concat();
    let checking = async {
        harness.answer(1);
        for id in 2..=4 {
            harness.wait_for_start(id).await;
            harness.answer(id);
        }
        let mut answers = [0; 32];
        timeout(PATIENCE, incoming.read_exact(&mut answers)).await.expect("answers come").unwrap();
        assert_eq!([answers[7], answers[15], answers[23], answers[31]], [1, 2, 3, 4]);
    };
    let (sent, ()) = tokio::join!(outgoing.write_all(&frames), checking);
    sent.unwrap();
}

#[tokio::test]
async fn a_session_lives_as_long_as_its_connection() {
    let mut harness = Harness::start(BOUNDS);
    for (first, second) in [(1, 2), (3, 4)] {
        let mut stream = harness.connect().await;
        stream.write_all(&[frame(PRODUCE, first, 0), frame(PRODUCE, second, 0)].concat()).await.unwrap();
        harness.wait_for_start(second).await;
        let sent_before = harness.service.sent_before.lock().unwrap();
        assert_eq!((sent_before[&first], sent_before[&second]), (0, 1));
    }
}

#[tokio::test]
async fn an_answer_that_mutes_is_sent_at_once_and_what_follows_is_let_in_later() {
    let mut harness = Harness::start(BOUNDS);
    let mut stream = harness.connect().await;
    stream.write_all(&[frame(METADATA, 1, 0), frame(METADATA, 2, 0)].concat()).await.unwrap();
    harness.wait_for_start(1).await;
    let began = std::time::Instant::now();
    let mute_for = Duration::from_millis(300);
    harness.answer_with(1, |answer| Answer { mute_for, ..answer });
    assert_eq!(next_answer(&mut stream).await, 1);
    assert!(began.elapsed() < mute_for, "the answer does not wait");
    harness.wait_for_start(2).await;
    assert!(began.elapsed() >= mute_for, "let in after {:?}", began.elapsed());
    harness.answer(2);
    assert_eq!(next_answer(&mut stream).await, 2);
    harness.until(|harness| harness.shared.counters.mutes.load(Ordering::Relaxed) == 1).await;
}

#[tokio::test]
async fn a_hang_up_is_noticed_while_muted() {
    let mut harness = Harness::start(BOUNDS);
    let mut stream = harness.connect().await;
    stream.write_all(&frame(METADATA, 1, 0)).await.unwrap();
    harness.wait_for_start(1).await;
    harness.answer_with(1, |answer| Answer { mute_for: Duration::from_millis(200), ..answer });
    assert_eq!(next_answer(&mut stream).await, 1);
    drop(stream);
    harness.until(|harness| harness.shared.counters.connections_closed.load(Ordering::Relaxed) == 1).await;
}

#[tokio::test]
async fn who_waits_for_an_answer_to_be_sent_is_called_then() {
    let mut harness = Harness::start(BOUNDS);
    let mut stream = harness.connect().await;
    stream.write_all(&[frame(PRODUCE, 1, 0), frame(PRODUCE, 2, 0)].concat()).await.unwrap();
    harness.wait_for_start(2).await;
    let (sender, mut sent) = mpsc::unbounded_channel();
    let second = sender.clone();
    // More than sockets hold: the answer is not sent before the peer reads it.
    let long = Answer::reply(vec![Chunk::Bytes(vec![0; 32 << 20].into())]);
    harness.answer_with(1, |_| Answer { when_sent: Some(Box::new(move |_| sender.send(1).unwrap())), ..long });
    harness.answer_with(2, |_| Answer {
        when_sent: Some(Box::new(move |_| second.send(2).unwrap())),
        ..Answer::nothing()
    });
    assert_eq!(sent.recv().await, Some(2), "nothing to send is sent at once");
    assert!(sent.try_recv().is_err());
    let mut answer = vec![0; 4 + (32 << 20)];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("the answer comes").unwrap();
    assert_eq!(timeout(PATIENCE, sent.recv()).await.expect("it is told"), Some(1));
}

const LONG: usize = 900_000;

#[tokio::test]
async fn a_region_of_a_file_that_cannot_be_sent_is_told_of() {
    let mut harness = Harness::start(BOUNDS);
    let mut stream = harness.connect().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("segment");
    std::fs::write(&path, vec![7; 20_000]).unwrap();
    // Nobody can read what was opened to be written alone.
    let file = Arc::new(std::fs::OpenOptions::new().write(true).open(&path).unwrap());
    stream.write_all(&frame(METADATA, 1, 0)).await.unwrap();
    harness.wait_for_start(1).await;
    let region = FileRegion { file, position: 5000, len: 10_000, source: None };
    let reply = Answer::reply(vec![Chunk::Bytes(Bytes::from_static(b"head")), Chunk::File(region)]);
    harness.parked.remove(&1).expect("it started").send(reply).ok().expect("it is waited for");
    harness.until(|harness| !harness.service.failed.lock().unwrap().is_empty()).await;
    assert_eq!(*harness.service.failed.lock().unwrap(), [5000]);
}

#[tokio::test]
async fn half_sent_requests_share_a_bounded_memory_and_harm_no_short_one() {
    let mut harness = Harness::start_with_memory(BOUNDS, 2 << 20);
    let mut held = Vec::new();
    for _ in 0..20 {
        let stream = harness.connect().await;
        // What the broker does not read fills the sockets, and the rest is not sent.
        let sending = stream.try_write(&frame(METADATA, 0, LONG)[..LONG]);
        assert!(sending.is_ok());
        held.push(stream);
    }
    harness.until(|harness| harness.shared.memory.used_bytes() >= 2 << 20).await;
    let mut short = harness.connect().await;
    for id in 1..=10 {
        short.write_all(&frame(METADATA, id, 30_000)).await.unwrap();
        harness.wait_for_start(id).await;
        harness.answer(id);
        assert_eq!(next_answer(&mut short).await, id);
    }
    let used = harness.shared.memory.used_bytes();
    assert!(used <= harness.shared.memory.bytes_max() + (1 << 20), "{used} bytes are used");
    drop(held);
    harness.until(|harness| harness.shared.memory.used_bytes() == 0).await;
}

#[tokio::test]
async fn memory_is_asked_for_by_bytes_that_have_come_and_not_by_a_length() {
    let harness = Harness::start(BOUNDS);
    let received = |harness: &Harness| harness.shared.counters.bytes_received.load(Ordering::Relaxed);
    let mut streams = Vec::new();
    for (bytes, all) in [(4, 4), (20_000, 20_004)] {
        let stream = harness.connect().await;
        stream.writable().await.unwrap();
        assert_eq!(stream.try_write(&frame(METADATA, 1, LONG)[..bytes]).unwrap(), bytes);
        harness.until(|harness| received(harness) == all).await;
        streams.push(stream);
    }
    // It reads until the socket is empty before it serves the next.
    let mut next = harness.connect().await;
    next.write_all(&frame(METADATA, 2, 100)).await.unwrap();
    harness.until(|harness| received(harness) > 20_100).await;
    assert_eq!(harness.shared.memory.used_bytes(), 0);
}

#[tokio::test]
async fn a_request_that_waits_for_memory_gets_that_of_the_peer_that_stalls() {
    let mut harness = Harness::start_with_memory(BOUNDS, LONG / 2);
    let mut stalled = harness.connect_half_sent(LONG, LONG / 2, LONG / 2).await;
    let mut honest = harness.connect().await;
    let request = frame(METADATA, 1, LONG);
    let (sent, ()) = tokio::join!(honest.write_all(&request), harness.wait_for_start(1));
    sent.unwrap();
    assert!(is_closed(&mut stalled).await);
    harness.answer(1);
    assert_eq!(next_answer(&mut honest).await, 1);
    assert_eq!(harness.shared.counters.connections_overdue.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_hang_up_is_noticed_while_a_request_waits_for_memory() {
    let harness = Harness::start_with_memory(BOUNDS, LONG / 2);
    let _stalled = harness.connect_half_sent(LONG, LONG / 2, LONG / 2).await;
    let waiting = harness.connect().await;
    waiting.writable().await.unwrap();
    // No more than the socket holds: a hang-up behind bytes that the peer still has to send cannot be seen.
    waiting.try_write(&frame(METADATA, 1, LONG)[..100_000]).unwrap();
    harness.until(|harness| harness.shared.counters.bytes_received.load(Ordering::Relaxed) > LONG as u64 / 2 + 8).await;
    drop(waiting);
    harness.until(|harness| harness.shared.counters.connections_closed.load(Ordering::Relaxed) == 1).await;
    assert_eq!(harness.shared.counters.connections_overdue.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn long_requests_that_come_at_once_are_all_handled_one_after_the_other() {
    let mut harness = Harness::start_with_memory(BOUNDS, 64 << 10);
    let mut senders = tokio::task::JoinSet::new();
    for id in 1..=8 {
        let mut stream = harness.connect().await;
        senders.spawn(async move {
            stream.write_all(&frame(METADATA, id, LONG)).await.unwrap();
            assert_eq!(next_answer(&mut stream).await, id);
        });
    }
    let mut most_used = 0;
    for _ in 1..=8 {
        let (id, answer) = timeout(PATIENCE, harness.started.recv()).await.expect("the next starts").unwrap();
        most_used = most_used.max(harness.shared.memory.used_bytes());
        harness.parked.insert(id, answer);
        harness.answer(id);
    }
    while let Some(ended) = senders.join_next().await {
        ended.expect("each is answered");
    }
    assert!(most_used <= harness.shared.memory.bytes_max() + (1 << 20), "{most_used} bytes were used");
    assert_eq!(harness.shared.counters.connections_overdue.load(Ordering::Relaxed), 0);
    harness.until(|harness| harness.shared.memory.used_bytes() == 0).await;
}

#[tokio::test]
async fn answers_that_nobody_takes_are_bounded_over_all_connections() {
    let mut harness = Harness::start_with_memory(BOUNDS, 8 << 20);
    let mut readers = Vec::new();
    for id in 1..=8 {
        let mut stream = harness.connect().await;
        stream.write_all(&frame(METADATA, id, 0)).await.unwrap();
        harness.wait_for_start(id).await;
        harness.answer_with(id, |_| Answer::reply(vec![Chunk::Bytes(vec![0; 16 << 20].into())]));
        readers.push(stream);
        harness.until(|harness| harness.shared.counters.requests.load(Ordering::Relaxed) == id as u64).await;
    }
    harness.until(|harness| harness.shared.counters.connections_overdue.load(Ordering::Relaxed) > 0).await;
    harness.until(|harness| harness.shared.memory.used_bytes() <= harness.shared.memory.bytes_max()).await;
    drop(readers);
    harness.until(|harness| harness.shared.memory.used_bytes() == 0).await;
}

#[tokio::test]
async fn a_part_of_a_request_that_is_kept_is_counted_until_it_goes() {
    let mut harness = Harness::start(BOUNDS);
    let mut stream = harness.connect().await;
    let (sent, ()) = {
        let request = frame(JOIN_GROUP, 1, LONG);
        tokio::join!(async { stream.write_all(&request).await }, harness.wait_for_start(1))
    };
    sent.unwrap();
    harness.answer(1);
    assert_eq!(next_answer(&mut stream).await, 1);
    drop(stream);
    harness.until(|harness| harness.shared.counters.connections_closed.load(Ordering::Relaxed) == 1).await;
    assert!(harness.shared.memory.used_bytes() >= LONG);
    harness.service.kept.lock().unwrap().clear();
    harness.until(|harness| harness.shared.memory.used_bytes() == 0).await;
}
