//! One connection: reads whatever the socket holds, lets in every whole frame that may start, answers in order.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use log::{debug, info};
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use crate::codec::reader::{DecodeError, Reader};
use crate::model::clock::wall_clock_ms;
use crate::network::counters::{Untold, count};
use crate::network::memory::{ALLOWANCE_BYTES, Account, Charge, REQUEST_BYTES_FREE, Standing};
use crate::network::outbox::Outbox;
use crate::network::transport::Transport;
use crate::network::{Answer, Asked, Peer, Reply, Request, Service, Shared};
use crate::protocol::header::RequestHeader;

/// The bounds of one connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionBounds {
    /// `socket.request.max.bytes`
    pub request_max_bytes: usize,
    /// `connections.max.idle.ms`; `None` for never.
    pub max_idle: Option<Duration>,
    /// Requests of one connection that may wait for their answers at once.
    pub window_requests: usize,
    /// Bytes of those requests.
    pub window_bytes: usize,
    /// How long a peer that has closed its side is given its answers.
    pub answers_after_close: Duration,
}

/// A peer that has closed its side may still read, as a script does that ends its input: a JVM broker answers all that it
/// sent before. Nobody can tell it from a peer that is gone, which is not worked for any longer than this.
pub const ANSWERS_AFTER_CLOSE: Duration = Duration::from_secs(5);

/// What is reserved for a first read, and twice as much while reads are filled; a longer frame grows the buffer as its bytes
/// arrive.
const READ_BYTES: usize = 32 * 1024;
/// What one read takes at most.
const READ_BYTES_MAX: usize = 1024 * 1024;
/// Unsent answers beyond this stop the handling of further requests.
const OUTBOX_BYTES_MAX: usize = 1024 * 1024;
const LENGTH_BYTES: usize = size_of::<i32>();

/// A request that was let in and has no answer yet.
struct Waiting {
    asked: Asked,
    may_start_early: bool,
    /// None that comes later may start.
    holds_others: bool,
    bytes: usize,
    /// Given back when the answer is there. A produce gives it back with the last slice of its records.
    _charge: Option<Arc<Charge>>,
}

/// The bytes of a long request: their memory is counted for as long as anything refers to them.
struct Charged {
    bytes: BytesMut,
    _charge: Arc<Charge>,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Why a connection ends.
#[derive(Debug)]
enum End {
    Peer,
    Idle,
    Shutdown,
    /// A handler asked for it, or the bytes are no request.
    Refused(String),
    /// Its memory was needed, and its peer had made no progress for longest.
    Overdue,
    Io(io::Error),
}

/// How far the peer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PeerIs {
    There,
    /// It has closed its side, and the socket may hold what it sent before.
    Leaving,
    /// Nothing more comes.
    Gone,
}

/// Serves one connection until it ends; logs why it did.
pub async fn serve<S: Service, T: Transport>(
    transport: T,
    peer: Arc<Peer<S::Session>>,
    service: Arc<S>,
    shared: Arc<Shared>,
    shutdown: watch::Receiver<bool>,
) {
    let mut connection = Connection {
        window: Window::default(),
        buffer: BytesMut::new(),
        account: Account::new(Arc::clone(&peer.memory)),
        transport,
        peer: Arc::clone(&peer),
        service,
        bounds: shared.bounds,
        last_read_was_filled: false,
        wants_memory: false,
        last_active: Instant::now(),
        peer_is: PeerIs::There,
        takes_answers: true,
        answers_until: None,
        shared,
    };
    let end = connection.run(shutdown).await;
    connection.window.untold.tell(&connection.shared.counters);
    match end {
        End::Peer | End::Shutdown => debug!("connection from {} closed", peer.address),
        End::Idle => debug!("connection from {} closed: it was idle for too long", peer.address),
        End::Refused(why) => info!("closing the connection from {}: {why}", peer.address),
        End::Overdue => {
            count(&connection.shared.counters.connections_overdue, 1);
            info!(
                "closing the connection from {}: others need the memory that it holds (queued.max.request.bytes)",
                peer.address
            );
        }
        End::Io(error) => debug!("connection from {} failed: {error}", peer.address),
    }
}

/// The requests that were let in, and their answers.
#[derive(Default)]
struct Window {
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    outbox: Outbox,
    muted_until: Option<Instant>,
    /// Set once nothing more is let in: the connection ends when the answers before are sent.
    closing: Option<String>,
    untold: Untold,
}

impl Window {
    fn push(&mut self, request: Waiting) {
        self.waiting_bytes += request.bytes;
        self.waiting.push_back(request);
    }

    fn retain_early(&mut self) {
        self.waiting.retain(|waiting| waiting.may_start_early);
        self.waiting_bytes = self.waiting.iter().map(|waiting| waiting.bytes).sum();
    }

    /// Polls the newest request once, so that it starts, and takes its answer if that is ready and its turn.
    fn poll_last(&mut self, context: &mut Context<'_>) {
        let is_alone = self.waiting.len() == 1;
        let Some(last) = self.waiting.back_mut() else { return };
        if let Poll::Ready(answer) = last.asked.poll(context) {
            if is_alone {
                self.waiting_bytes = 0;
                self.waiting.clear();
                self.take_answer(answer);
            } else {
                // Kept until its turn.
                last.asked = Asked::Answered(answer);
            }
        }
    }

    /// Takes the answers that are ready, from the front, and is done once there was one.
    fn poll_front(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut progress = Poll::Pending;
        while let Some(front) = self.waiting.front_mut() {
            let Poll::Ready(answer) = front.asked.poll(context) else { break };
            self.waiting_bytes -= front.bytes;
            self.waiting.pop_front();
            if self.closing.is_none() {
                self.take_answer(answer);
            }
            progress = Poll::Ready(());
        }
        progress
    }

    fn take_answer(&mut self, answer: Answer) {
        let Answer { reply, mute_for, then_close, when_sent } = answer;
        match reply {
            Reply::Frame(chunks) => {
                if let Err(error) = self.outbox.push_frame(chunks, when_sent) {
                    self.closing = Some(format!("an answer of {} bytes is longer than a frame can be", error.bytes));
                }
            }
            Reply::Nothing => {
                if let Some(when_sent) = when_sent {
                    when_sent(std::time::Instant::now());
                }
            }
            Reply::Close => self.closing = Some("its request cannot be answered".to_owned()),
        }
        if then_close {
            self.closing.get_or_insert_with(|| "its request has ended it".to_owned());
        }
        if !mute_for.is_zero() {
            self.untold.mutes += 1;
            self.muted_until = self.muted_until.max(Some(Instant::now() + mute_for));
        }
    }
}

/// Whether an error says that the peer takes nothing more; any other that the system gives may be the file's.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, HostUnreachable, NetworkDown, NetworkUnreachable, NotConnected,
        TimedOut,
    };
    let of_peer = matches!(
        error.kind(),
        BrokenPipe
            | ConnectionAborted
            | ConnectionReset
            | HostUnreachable
            | NetworkDown
            | NetworkUnreachable
            | NotConnected
            | TimedOut
    );
    // What the system has not said, we have.
    of_peer || error.raw_os_error().is_none()
}

/// What holds memory is dropped before the account that it is counted in.
struct Connection<S: Service, T> {
    window: Window,
    /// Received and not let in yet. Holds no memory while the connection is idle.
    buffer: BytesMut,
    account: Account,
    transport: T,
    peer: Arc<Peer<S::Session>>,
    service: Arc<S>,
    bounds: ConnectionBounds,
    /// There is likely more to come than it took.
    last_read_was_filled: bool,
    /// The request that arrives may not grow now.
    wants_memory: bool,
    last_active: Instant,
    peer_is: PeerIs,
    /// False once nobody waits for what the peer asked for.
    takes_answers: bool,
    /// When that will be, since the peer has closed its side.
    answers_until: Option<Instant>,
    shared: Arc<Shared>,
}

impl<S: Service, T: Transport> Connection<S, T> {
    async fn run(&mut self, mut shutdown: watch::Receiver<bool>) -> End {
        let idle = tokio::time::sleep(self.bounds.max_idle.unwrap_or(Duration::from_secs(86_400)));
        tokio::pin!(idle);
        loop {
            // A socket that is always readable would never let the signal have its turn below.
            if shutdown.has_changed().unwrap_or(true) {
                return End::Shutdown;
            }
            if let Err(end) = self.progress().await {
                return end;
            }
            // Answers are sent before anything is awaited.
            if !self.window.outbox.is_empty() {
                self.flush();
            }
            if self.window.waiting.is_empty() && self.window.outbox.is_empty() {
                if let Some(why) = self.window.closing.take() {
                    return End::Refused(why);
                }
                if self.peer_is == PeerIs::Gone && self.window.muted_until.is_none() {
                    return End::Peer;
                }
            }
            if self.buffer.is_empty() {
                self.buffer = BytesMut::new();
            }
            if self.account.standing() == Standing::Overdue {
                return End::Overdue;
            }
            if self.account.is_open() {
                self.account.settle(Instant::now());
            }
            self.window.untold.tell(&self.shared.counters);
            let wants_read = self.wants_read();
            let wants_write = !self.window.outbox.is_empty();
            let may_be_signalled = self.account.is_open() || !self.window.waiting.is_empty();
            let (muted_until, answers_until) = (self.window.muted_until, self.answers_until);
            // An idle connection keeps what all of these take: those that it never waits for are boxed.
            tokio::select! {
                biased;
                ready = async { Box::pin(self.transport.writable()).await }, if wants_write => {
                    if let Err(error) = ready {
                        return End::Io(error);
                    }
                }
                () = poll_fn(|context| self.window.poll_front(context)), if !self.window.waiting.is_empty() => {}
                ready = self.transport.readable(), if wants_read => {
                    if let Err(error) = ready {
                        return End::Io(error);
                    }
                    self.receive();
                }
                () = async { Box::pin(self.transport.hung_up()).await }, if !wants_read && self.peer_is == PeerIs::There => {
                    self.peer_leaves(PeerIs::Leaving);
                }
                () = async { Box::pin(until(answers_until)).await }, if answers_until.is_some() => {
                    self.lose_peer(self.peer_is);
                }
                () = self.account.signalled(), if may_be_signalled => {
                    self.wants_memory = false;
                }
                () = async { Box::pin(until(muted_until)).await }, if muted_until.is_some() => {
                    self.window.muted_until = None;
                }
                () = &mut idle => {
                    let Some(max_idle) = self.bounds.max_idle else {
                        idle.as_mut().reset(Instant::now() + Duration::from_secs(86_400));
                        continue;
                    };
                    let now = Instant::now();
                    // While there are answers to take, it is the broker that waits.
                    let waits_for_memory = self.wants_memory && !self.account.has_answers();
                    if !self.window.waiting.is_empty() || waits_for_memory || self.window.muted_until.is_some() {
                        // Who waits for the broker keeps the connection.
                        idle.as_mut().reset(now + max_idle);
                    } else if now >= self.last_active + max_idle {
                        return End::Idle;
                    } else {
                        idle.as_mut().reset(self.last_active + max_idle);
                    }
                }
                _ = shutdown.changed() => return End::Shutdown,
            }
        }
    }

    fn wants_read(&self) -> bool {
        if self.window.closing.is_some()
            || self.peer_is == PeerIs::Gone
            || self.window.outbox.len() > OUTBOX_BYTES_MAX
            || self.wants_memory
            || self.window.muted_until.is_some()
        {
            return false;
        }
        // A request that may not start yet waits in the buffer; what follows it stays in the socket.
        self.window.waiting.is_empty() || self.buffer.len() < READ_BYTES || self.is_receiving_early()
    }

    fn is_window_full(&self) -> bool {
        self.window.waiting.len() >= self.bounds.window_requests
            || self.window.waiting_bytes >= self.bounds.window_bytes
    }

    /// Whether the rest of a frame is missing that may start while others wait.
    fn is_receiving_early(&self) -> bool {
        let frame = self.buffer.get(LENGTH_BYTES..).unwrap_or_default();
        let is_incomplete = matches!(self.frame_length(), Ok(Some(length)) if frame.len() < length);
        is_incomplete && !self.is_window_full() && self.may_pass(frame)
    }

    /// Reads what the socket holds, as far as there is memory for it.
    fn receive(&mut self) {
        let held = self.buffer.len();
        // A declared length alone reserves nothing: the buffer grows by what has arrived, and so does what is counted.
        let reads_much = self.last_read_was_filled && self.window.waiting.is_empty();
        let mut bytes_max = held.clamp(if reads_much { 2 * READ_BYTES } else { READ_BYTES }, READ_BYTES_MAX);
        let length = match self.frame_length() {
            Ok(Some(length)) if LENGTH_BYTES + length > REQUEST_BYTES_FREE => Some(LENGTH_BYTES + length),
            _ => None,
        };
        if let Some(length) = length {
            // Nothing behind a long frame is read with what is read of it from here on: it would share, and keep, its
            // memory.
            bytes_max = bytes_max.min(length.saturating_sub(held).max(1));
            let room = self.account.request_room().saturating_sub(held);
            if room > 0 && !self.last_read_was_filled {
                // The socket may be empty: memory is asked for once there is more than fits into what there is.
                bytes_max = bytes_max.min(room);
            }
            if bytes_max > room {
                let has_room = !self.account.has_answers();
                if !has_room || !self.account.grow_request(held + bytes_max, length, Instant::now()) {
                    self.wants_memory = true;
                    return;
                }
            }
        }
        if self.buffer.capacity() - held < bytes_max.min(READ_BYTES / 2) {
            self.buffer.reserve(bytes_max);
        }
        let asked = bytes_max.min(self.buffer.capacity() - held);
        let read = self.transport.try_read(&mut self.buffer, asked);
        self.last_read_was_filled = matches!(read, Ok(received) if received == asked);
        match read {
            Ok(0) => self.peer_leaves(PeerIs::Gone),
            Ok(received) => {
                self.last_active = Instant::now();
                self.window.untold.bytes_received += received as u64;
                if length.is_some() {
                    self.account.moved(received, self.last_active);
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                debug!("reading from {} failed: {error}", self.peer.address);
                self.window.outbox = Outbox::default();
                self.lose_peer(PeerIs::Gone);
            }
        }
    }

    /// The peer has closed its side: it gets its answers for a while. A request that waits for memory is not waited for.
    fn peer_leaves(&mut self, peer_is: PeerIs) {
        self.peer_is = self.peer_is.max(peer_is);
        if self.wants_memory || self.bounds.answers_after_close.is_zero() {
            self.lose_peer(peer_is);
        } else if self.takes_answers && self.answers_until.is_none() {
            self.answers_until = Some(Instant::now() + self.bounds.answers_after_close);
        }
    }

    /// The peer wants no answers any more. What it sent and did not wait for, as a producer without acks does, is
    /// handled all the same; everything else ends.
    fn lose_peer(&mut self, peer_is: PeerIs) {
        self.peer_is = self.peer_is.max(peer_is);
        (self.takes_answers, self.answers_until) = (false, None);
        self.window.retain_early();
        if self.wants_memory && !self.may_pass(self.buffer.get(LENGTH_BYTES..).unwrap_or_default()) {
            // Nobody waits for what it is to be part of, and it may stand before others for as long as the rest takes.
            self.buffer.clear();
            self.account.give_up_request(Instant::now());
            self.peer_is = PeerIs::Gone;
        }
    }

    fn flush(&mut self) {
        let unsent = self.window.outbox.len();
        match self.window.outbox.try_flush(&mut self.transport) {
            Ok(_) => {}
            Err(error) => {
                debug!("sending to {} failed: {error}", self.peer.address);
                if let Some(region) = self.window.outbox.next_region().filter(|_| !is_of_the_peer(&error)) {
                    self.service.region_failed(region);
                }
                self.window.outbox = Outbox::default();
                self.lose_peer(PeerIs::Leaving);
            }
        }
        let sent = unsent - self.window.outbox.len();
        if sent > 0 {
            self.last_active = Instant::now();
            self.window.untold.bytes_sent += sent as u64;
        }
        if self.window.outbox.memory_bytes() > ALLOWANCE_BYTES || self.account.has_answers() {
            self.account.moved(sent, self.last_active);
            self.account.set_answers(self.window.outbox.memory_bytes(), self.last_active);
            if !self.account.has_answers() {
                self.wants_memory = false;
            }
        }
    }

    /// Lets in every whole frame that may start now.
    async fn progress(&mut self) -> Result<(), End> {
        while self.window.closing.is_none()
            && self.window.outbox.len() <= OUTBOX_BYTES_MAX
            && self.window.muted_until.is_none()
        {
            // A client that always has another request must not keep the others from this thread.
            tokio::task::coop::consume_budget().await;
            let length = match self.frame_length() {
                Ok(Some(length)) => length,
                Ok(None) => return Ok(()),
                Err(why) => {
                    self.window.closing = Some(why);
                    return Ok(());
                }
            };
            if self.buffer.len() < LENGTH_BYTES + length {
                return Ok(());
            }
            if self.is_window_full() {
                return Ok(());
            }
            // The frame is looked at before it is taken: it may have to wait.
            let frame = self.buffer.get(LENGTH_BYTES..LENGTH_BYTES + length).unwrap_or_default();
            if (!self.window.waiting.is_empty() || !self.takes_answers) && !self.may_pass(frame) {
                if !self.takes_answers {
                    // Nobody waits for its answer, nor for what follows it.
                    self.buffer.clear();
                    self.peer_is = PeerIs::Gone;
                }
                return Ok(());
            }
            let Some((bytes, charge)) = self.take_frame(length) else { return Ok(()) };
            let (asked, may_start_early) = match self.ask(bytes) {
                Ok(asked) => asked,
                Err(error) => {
                    self.window.closing = Some(format!("a request header does not parse: {error}"));
                    return Ok(());
                }
            };
            let is_waited_for = match asked {
                Asked::Answered(answer) if self.window.waiting.is_empty() => {
                    self.window.take_answer(answer);
                    continue;
                }
                Asked::Answered(_) | Asked::InTurn(_) => false,
                Asked::Waits(_) => true,
            };
            let charge = charge.filter(|_| !may_start_early);
            let holds_others = matches!(asked, Asked::InTurn(_));
            self.window.push(Waiting { asked, may_start_early, holds_others, bytes: length, _charge: charge });
            if is_waited_for {
                poll_fn(|context| {
                    self.window.poll_last(context);
                    Poll::Ready(())
                })
                .await;
            }
        }
        Ok(())
    }

    /// Hands a frame to the service. True if it may start while others wait.
    fn ask(&mut self, bytes: Bytes) -> Result<(Asked, bool), DecodeError> {
        if self.service.expects_token(&self.peer.session) {
            return Ok((self.service.handle_token(bytes, &self.peer), false));
        }
        let mut body = Reader::new(bytes);
        let header = RequestHeader::read(&mut body)?;
        let may_start_early = self.service.may_start_early(&header);
        let request = Request {
            header,
            body,
            peer: Arc::clone(&self.peer),
            received: std::time::Instant::now(),
            now_ms: wall_clock_ms(),
            is_early: !self.window.waiting.is_empty(),
        };
        self.window.untold.requests += 1;
        Ok((self.service.handle(request), may_start_early))
    }

    /// Takes the first frame out of the buffer. `None` if it has to wait for the answers to those before it, because
    /// there is no memory for so many at once.
    fn take_frame(&mut self, length: usize) -> Option<(Bytes, Option<Arc<Charge>>)> {
        if LENGTH_BYTES + length > REQUEST_BYTES_FREE {
            self.buffer.advance(LENGTH_BYTES);
            let bytes = self.buffer.split_to(length);
            return Some(match self.account.finish_request(Instant::now()).map(Arc::new) {
                Some(charge) => (Bytes::from_owner(Charged { bytes, _charge: Arc::clone(&charge) }), Some(charge)),
                None => (bytes.freeze(), None),
            });
        }
        let charge = match self.window.waiting_bytes + length > ALLOWANCE_BYTES && !self.window.waiting.is_empty() {
            true => Some(Arc::new(self.account.charge(length, Instant::now())?)),
            false => None,
        };
        self.buffer.advance(LENGTH_BYTES);
        Some((self.buffer.split_to(length).freeze(), charge))
    }

    /// The length of the next frame, once its four bytes are there.
    fn frame_length(&self) -> Result<Option<usize>, String> {
        let Some(prefix) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = i32::from_be_bytes(*prefix);
        let bytes_max = self.bounds.request_max_bytes.min(self.service.frame_bytes_max(&self.peer.session));
        match usize::try_from(length) {
            Ok(length) if length <= bytes_max => Ok(Some(length)),
            _ => Err(format!(
                "a request of {length} bytes is declared; it may have {bytes_max}, and socket.request.max.bytes is {}",
                self.bounds.request_max_bytes
            )),
        }
    }

    /// Whether the frame may start while others wait.
    fn may_pass(&self, frame: &[u8]) -> bool {
        let Some((key, version)) =
            frame.first_chunk::<4>().map(|[a, b, c, d]| (i16::from_be_bytes([*a, *b]), i16::from_be_bytes([*c, *d])))
        else {
            return false;
        };
        let header = RequestHeader { api_key: key, api_version: version, correlation_id: 0, client_id: None };
        self.service.may_start_early(&header)
            && !self.service.expects_token(&self.peer.session)
            && self.window.waiting.iter().all(|waiting| waiting.may_start_early && !waiting.holds_others)
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
