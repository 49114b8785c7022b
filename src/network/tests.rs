//! Connections over real sockets, with a service whose answers the test releases by hand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Duration, timeout};

use crate::codec::writer::{Chunk, Writer};
use crate::network::connection::ConnectionBounds;
use crate::network::limits::{ConnectionCounter, ConnectionLimits};
use crate::network::listener::{BoundListener, ListenerSettings, accept};
use crate::network::{Answer, AnswerFuture, Request, Service};
use crate::protocol::header::RequestHeader;

const PRODUCE: i16 = 0;
const METADATA: i16 = 3;

/// Tells the test of each request that starts, and answers once the test says so.
struct ByHand {
    started: mpsc::UnboundedSender<(i32, oneshot::Sender<Answer>)>,
    handled: Mutex<Vec<i32>>,
}

impl Service for ByHand {
    fn handle(self: &Arc<Self>, request: Request) -> AnswerFuture {
        let (answer, answered) = oneshot::channel();
        self.handled.lock().unwrap().push(request.header.correlation_id);
        self.started.send((request.header.correlation_id, answer)).unwrap();
        Box::pin(async move { answered.await.unwrap_or(Answer::Close) })
    }

    fn may_start_early(&self, header: &RequestHeader) -> bool {
        header.api_key == PRODUCE
    }
}

struct Harness {
    address: std::net::SocketAddr,
    service: Arc<ByHand>,
    started: mpsc::UnboundedReceiver<(i32, oneshot::Sender<Answer>)>,
    parked: HashMap<i32, oneshot::Sender<Answer>>,
    _shutdown: watch::Sender<bool>,
}

impl Harness {
    fn start(bounds: ConnectionBounds) -> Harness {
        let (sender, started) = mpsc::unbounded_channel();
        let service = Arc::new(ByHand { started: sender, handled: Mutex::default() });
        let bound = BoundListener::bind(ListenerSettings {
            name: "PLAINTEXT".into(),
            host: "127.0.0.1".into(),
            port: 0,
            backlog: 50,
            send_buffer_bytes: None,
            receive_buffer_bytes: None,
        })
        .expect("a port is free");
        let address = bound.local_address().unwrap();
        let counter = ConnectionCounter::new(ConnectionLimits {
            max_connections: usize::MAX,
            max_connections_per_ip: usize::MAX,
            max_connections_per_ip_overrides: HashMap::new(),
            max_connection_creation_rate: u32::MAX,
            listeners: HashMap::new(),
        });
        let (shutdown, receiver) = watch::channel(false);
        tokio::spawn(accept(bound, Arc::clone(&service), counter, bounds, receiver));
        Harness { address, service, started, parked: HashMap::new(), _shutdown: shutdown }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn wait_for_start(&mut self, correlation_id: i32) {
        while !self.parked.contains_key(&correlation_id) {
            let next = timeout(Duration::from_secs(5), self.started.recv()).await;
            let (id, answer) = next.expect("the request starts").unwrap();
            self.parked.insert(id, answer);
        }
    }

    fn answer(&mut self, correlation_id: i32) {
        let reply = Answer::Reply(vec![Chunk::Bytes(correlation_id.to_be_bytes().to_vec().into())]);
        self.parked.remove(&correlation_id).expect("it started").send(reply).unwrap();
    }
}

const BOUNDS: ConnectionBounds =
    ConnectionBounds { request_max_bytes: 1 << 20, max_idle: None, window_requests: 4, window_bytes: 1 << 20 };

fn frame(key: i16, correlation_id: i32, padding: usize) -> Vec<u8> {
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
    timeout(Duration::from_secs(5), stream.read_exact(&mut answer)).await.expect("an answer comes").unwrap();
    assert_eq!(answer[..4], 4i32.to_be_bytes());
    i32::from_be_bytes([answer[4], answer[5], answer[6], answer[7]])
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut byte = [0; 1];
    matches!(timeout(Duration::from_secs(5), stream.read(&mut byte)).await.expect("the end comes"), Ok(0) | Err(_))
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
        timeout(Duration::from_secs(5), incoming.read_exact(&mut answers)).await.expect("answers come").unwrap();
        assert_eq!([answers[7], answers[15], answers[23]], [1, 2, 3]);
    };
    let (sent, ()) = tokio::join!(sending, checking);
    sent.unwrap();
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
async fn a_hang_up_drops_what_waits() {
    let mut harness = Harness::start(BOUNDS);
    let mut stream = harness.connect().await;
    stream.write_all(&frame(METADATA, 1, 0)).await.unwrap();
    harness.wait_for_start(1).await;
    drop(stream);
    let mut parked = harness.parked.remove(&1).unwrap();
    timeout(Duration::from_secs(5), parked.closed()).await.expect("the waiting request is dropped");
}
