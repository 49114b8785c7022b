//! Listeners and connection tasks: frames in, answers out, strictly in the order of the requests.
//!
//! Invariants: a connection task alone owns its socket, its window of waiting requests and its unsent answers. A
//! declared frame length never reserves memory that received bytes do not back. A full window, unsent answers or the
//! want of memory stop the reading of the socket, and TCP tells the client. What peers make the broker hold is bounded
//! over all connections, by `memory.rs`.
//!
//! Deliberately does not know what a request means: it reads headers, asks the [`Service`] and keeps the order.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::codec::reader::Reader;
use crate::codec::writer::{Chunk, FileRegion};
use crate::model::ConnectionNumber;
use crate::network::connection::ConnectionBounds;
use crate::network::counters::NetworkCounters;
use crate::network::limits::ConnectionCounter;
use crate::network::memory::{ConnectionMemory, MemoryPool};
use crate::protocol::header::RequestHeader;

pub mod connection;
pub mod counters;
pub mod limits;
pub mod listener;
pub mod memory;
pub mod outbox;
pub mod transport;

/// What all listeners of a broker share.
#[derive(Debug)]
pub struct Shared {
    pub bounds: ConnectionBounds,
    pub connections: Arc<ConnectionCounter>,
    pub memory: Arc<MemoryPool>,
    pub counters: Arc<NetworkCounters>,
}

/// What a connection has in common for all its requests.
#[derive(Debug)]
pub struct Peer<S> {
    /// Name of the listener that accepted the connection, upper case.
    pub listener: Arc<str>,
    pub address: SocketAddr,
    pub number: ConnectionNumber,
    /// The service's own: what it has learnt of the client. Requests of one connection may share it at once.
    pub session: S,
    pub memory: Arc<ConnectionMemory>,
}

/// One request: its header, and its body not read yet.
#[derive(Debug)]
pub struct Request<S> {
    pub header: RequestHeader,
    pub body: Reader,
    pub peer: Arc<Peer<S>>,
    pub received: Instant,
    /// Wall clock at `received`, ms since the epoch: the time of everything that this request does.
    pub now_ms: i64,
    /// Earlier requests of its connection wait for their answers.
    pub is_early: bool,
}

/// What is sent for a request.
#[derive(Debug)]
pub enum Reply {
    /// Response header and body; the frame length is added when it is sent.
    Frame(Vec<Chunk>),
    /// The request wants no answer, as a produce with acks=0.
    Nothing,
    /// The connection is closed, after the answers before this one.
    Close,
}

/// Called with the time at which the last byte of an answer was given to the socket; dropped uncalled if the
/// connection ends before.
pub type WhenSent = Box<dyn FnOnce(Instant) + Send>;

/// What becomes of a request, and of its connection then.
pub struct Answer {
    pub reply: Reply,
    /// The answer is sent at once; for this long nothing more of the connection is read or let in (KIP-219).
    pub mute_for: Duration,
    /// The connection is closed once the answer is sent, as after a failed authentication (KIP-152).
    pub then_close: bool,
    pub when_sent: Option<WhenSent>,
}

impl Answer {
    fn plain(reply: Reply) -> Answer {
        Answer { reply, mute_for: Duration::ZERO, then_close: false, when_sent: None }
    }

    pub fn reply(chunks: Vec<Chunk>) -> Answer {
        Answer::plain(Reply::Frame(chunks))
    }

    pub fn nothing() -> Answer {
        Answer::plain(Reply::Nothing)
    }

    pub fn close() -> Answer {
        Answer::plain(Reply::Close)
    }
}

pub type AnswerFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// What a service makes of a request.
pub enum Asked {
    Answered(Answer),
    /// Polled once as soon as the request is let in.
    Waits(AnswerFuture),
    /// Polled once all earlier ones are answered. None that comes later starts before it is answered itself.
    InTurn(AnswerFuture),
}

impl Asked {
    /// The answer, once. A second one is nothing.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Answer> {
        match self {
            Asked::Answered(answer) => Poll::Ready(std::mem::replace(answer, Answer::nothing())),
            Asked::Waits(answer) | Asked::InTurn(answer) => answer.as_mut().poll(context),
        }
    }
}

/// What answers requests.
pub trait Service: Send + Sync + 'static {
    /// What the service remembers of a connection, from its first request to its end.
    type Session: Send + Sync + 'static;

    /// Called once for each connection, before its first request.
    fn open_session(&self) -> Self::Session;

    /// What this does, and what a handler does before its first wait, happens in request order.
    fn handle(self: &Arc<Self>, request: Request<Self::Session>) -> Asked;

    /// Whether a request with this header may start while the earlier ones of its connection still wait, given that
    /// all of them may.
    fn may_start_early(&self, header: &RequestHeader) -> bool;

    /// A region of a file could not be sent, and not for the peer's sake.
    fn region_failed(&self, _region: &FileRegion) {}

    /// The longest frame that the connection may send now, if that is less than all may: one that has not proved who it
    /// is sends short ones.
    fn frame_bytes_max(&self, _session: &Self::Session) -> usize {
        usize::MAX
    }

    /// Whether the next frame is no request but a token without a header, as after a SaslHandshake of version 0. Asked
    /// when everything before is answered.
    fn expects_token(&self, _session: &Self::Session) -> bool {
        false
    }

    /// The same as `handle` for such a token; what it is answered has no header either.
    fn handle_token(self: &Arc<Self>, _token: Bytes, _peer: &Arc<Peer<Self::Session>>) -> Asked {
        Asked::Answered(Answer::close())
    }
}

#[cfg(test)]
mod authentication_tests;
#[cfg(test)]
mod tests;
