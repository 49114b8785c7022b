//! One connection: reads whatever the socket holds, lets in every whole frame that may start, answers in order.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use log::{debug, info};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use crate::codec::reader::Reader;
use crate::model::clock::wall_clock_ms;
use crate::network::outbox::Outbox;
use crate::network::{Answer, AnswerFuture, Peer, Request, Service};
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
}

/// What is reserved for a first read; a longer frame grows the buffer as its bytes arrive.
const READ_BYTES: usize = 32 * 1024;
/// Unsent answers beyond this stop the handling of further requests.
const OUTBOX_BYTES_MAX: usize = 1024 * 1024;
const LENGTH_BYTES: usize = size_of::<i32>();

/// A request that was let in and has no answer yet.
struct Waiting {
    answer: AnswerFuture,
    may_start_early: bool,
    bytes: usize,
}

/// Why a connection ends.
#[derive(Debug)]
enum End {
    Peer,
    Idle,
    Shutdown,
    /// A handler asked for it, or the bytes are no request.
    Refused(String),
    Io(io::Error),
}

/// Serves one connection until it ends; logs why it did.
pub async fn serve<S: Service>(
    stream: TcpStream,
    peer: Arc<Peer>,
    service: Arc<S>,
    bounds: ConnectionBounds,
    shutdown: watch::Receiver<bool>,
) {
    let mut connection = Connection {
        stream,
        peer: Arc::clone(&peer),
        service,
        bounds,
        buffer: BytesMut::new(),
        waiting: VecDeque::new(),
        waiting_bytes: 0,
        outbox: Outbox::default(),
        last_active: Instant::now(),
        closing: None,
    };
    match connection.run(shutdown).await {
        End::Peer | End::Shutdown => debug!("connection from {} closed", peer.address),
        End::Idle => debug!("connection from {} closed: it was idle for too long", peer.address),
        End::Refused(why) => info!("closing the connection from {}: {why}", peer.address),
        End::Io(error) => debug!("connection from {} failed: {error}", peer.address),
    }
}

struct Connection<S> {
    stream: TcpStream,
    peer: Arc<Peer>,
    service: Arc<S>,
    bounds: ConnectionBounds,
    /// Received and not let in yet. Holds no memory while the connection is idle.
    buffer: BytesMut,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    outbox: Outbox,
    last_active: Instant,
    /// Set once nothing more is let in: the connection ends when the answers before are sent.
    closing: Option<String>,
}

impl<S: Service> Connection<S> {
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
            let unsent = self.outbox.len();
            match self.outbox.try_flush(&self.stream) {
                Ok(_) if self.outbox.len() < unsent => self.last_active = Instant::now(),
                Ok(_) => {}
                Err(error) => return End::Io(error),
            }
            if let Some(why) = &self.closing
                && self.waiting.is_empty()
                && self.outbox.is_empty()
            {
                return End::Refused(why.clone());
            }
            if self.buffer.is_empty() {
                self.buffer = BytesMut::new();
            }
            let wants_read = self.wants_read();
            let wants_write = !self.outbox.is_empty();
            tokio::select! {
                biased;
                ready = self.stream.writable(), if wants_write => match ready {
                    Ok(()) => {}
                    Err(error) => return End::Io(error),
                },
                () = poll_fn(|context| front_is_ready(&mut self.waiting, &mut self.outbox, &mut self.waiting_bytes,
                                                     &mut self.closing, context)),
                    if !self.waiting.is_empty() => {}
                ready = self.stream.readable(), if wants_read => {
                    if let Err(error) = ready {
                        return End::Io(error);
                    }
                    match self.read() {
                        Ok(true) => {}
                        Ok(false) => return End::Peer,
                        Err(error) => return End::Io(error),
                    }
                }
                () = &mut idle => {
                    let Some(max_idle) = self.bounds.max_idle else {
                        idle.as_mut().reset(Instant::now() + Duration::from_secs(86_400));
                        continue;
                    };
                    let now = Instant::now();
                    if !self.waiting.is_empty() {
                        // A request that waits for its answer keeps its connection.
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
        if self.closing.is_some() || self.outbox.len() > OUTBOX_BYTES_MAX {
            return false;
        }
        // A request that may not start yet waits in the buffer; what follows it stays in the socket. A hang-up is
        // noticed all the same while the buffer is small.
        self.waiting.is_empty() || self.buffer.len() < READ_BYTES || self.is_receiving_early()
    }

    fn is_window_full(&self) -> bool {
        self.waiting.len() >= self.bounds.window_requests || self.waiting_bytes >= self.bounds.window_bytes
    }

    /// Whether the rest of a frame is missing that may start while others wait.
    fn is_receiving_early(&self) -> bool {
        let frame = self.buffer.get(LENGTH_BYTES..).unwrap_or_default();
        let is_incomplete = matches!(self.frame_length(), Ok(Some(length)) if frame.len() < length);
        is_incomplete && !self.is_window_full() && self.may_pass(frame)
    }

    /// Reads what the socket holds. `Ok(false)` if the peer closed it.
    fn read(&mut self) -> io::Result<bool> {
        self.last_active = Instant::now();
        // Grows by what has arrived: a declared length alone reserves nothing.
        let reserve = if self.buffer.is_empty() { READ_BYTES } else { self.buffer.len().max(READ_BYTES) };
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES / 2 {
            let missing = match self.frame_length() {
                Ok(Some(length)) => (LENGTH_BYTES + length).saturating_sub(self.buffer.len()),
                _ => 0,
            };
            self.buffer.reserve(reserve.min(missing.max(READ_BYTES)));
        }
        match self.stream.try_read_buf(&mut self.buffer) {
            Ok(0) => Ok(false),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Lets in every whole frame that may start now.
    async fn progress(&mut self) -> Result<(), End> {
        while self.closing.is_none() && self.outbox.len() <= OUTBOX_BYTES_MAX {
            // A client that always has another request must not keep the others from this thread.
            tokio::task::coop::consume_budget().await;
            let length = match self.frame_length() {
                Ok(Some(length)) => length,
                Ok(None) => return Ok(()),
                Err(why) => {
                    self.closing = Some(why);
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
            if !self.waiting.is_empty() && !self.may_pass(frame) {
                return Ok(());
            }
            self.buffer.advance(LENGTH_BYTES);
            let mut body = Reader::new(self.buffer.split_to(length).freeze());
            let header = match RequestHeader::read(&mut body) {
                Ok(header) => header,
                Err(error) => {
                    self.closing = Some(format!("a request header does not parse: {error}"));
                    return Ok(());
                }
            };
            let may_start_early = self.service.may_start_early(&header);
            let request = Request {
                header,
                body,
                peer: Arc::clone(&self.peer),
                received: std::time::Instant::now(),
                now_ms: wall_clock_ms(),
            };
            let answer = self.service.handle(request);
            self.waiting.push_back(Waiting { answer, may_start_early, bytes: length });
            self.waiting_bytes += length;
            self.start_last().await;
        }
        Ok(())
    }

    /// Polls the newest request once, so that it starts, and takes its answer if that is ready and its turn.
    async fn start_last(&mut self) {
        poll_fn(|context| {
            let is_alone = self.waiting.len() == 1;
            let Some(last) = self.waiting.back_mut() else { return Poll::Ready(()) };
            if let Poll::Ready(answer) = last.answer.as_mut().poll(context) {
                if is_alone {
                    self.waiting_bytes = 0;
                    self.waiting.clear();
                    take_answer(answer, &mut self.outbox, &mut self.closing);
                } else {
                    // Kept until its turn.
                    last.answer = Box::pin(std::future::ready(answer));
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    /// The length of the next frame, once its four bytes are there.
    fn frame_length(&self) -> Result<Option<usize>, String> {
        let Some(prefix) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = i32::from_be_bytes(*prefix);
        match usize::try_from(length) {
            Ok(length) if length <= self.bounds.request_max_bytes => Ok(Some(length)),
            _ => Err(format!(
                "a request of {length} bytes is declared; socket.request.max.bytes is {}",
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
        self.service.may_start_early(&header) && self.waiting.iter().all(|waiting| waiting.may_start_early)
    }
}

fn take_answer(answer: Answer, outbox: &mut Outbox, closing: &mut Option<String>) {
    match answer {
        Answer::Reply(chunks) => {
            if let Err(error) = outbox.push_frame(chunks) {
                *closing = Some(format!("an answer of {} bytes is longer than a frame can be", error.bytes));
            }
        }
        Answer::Nothing => {}
        Answer::Close => *closing = Some("its request cannot be answered".to_owned()),
    }
}

/// Takes the answers that are ready, from the front, and is done once there was one.
fn front_is_ready(
    waiting: &mut VecDeque<Waiting>,
    outbox: &mut Outbox,
    waiting_bytes: &mut usize,
    closing: &mut Option<String>,
    context: &mut Context<'_>,
) -> Poll<()> {
    let mut progress = Poll::Pending;
    while let Some(front) = waiting.front_mut() {
        let Poll::Ready(answer) = front.answer.as_mut().poll(context) else { break };
        *waiting_bytes -= front.bytes;
        waiting.pop_front();
        if closing.is_none() {
            take_answer(answer, outbox, closing);
        }
        progress = Poll::Ready(());
    }
    progress
}
