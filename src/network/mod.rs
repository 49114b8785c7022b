//! Listeners and connection tasks: frames in, answers out, strictly in the order of the requests.
//!
//! Invariants: a connection task alone owns its socket, its window of waiting requests and its unsent answers. A
//! declared frame length never reserves memory that received bytes do not back. A full window or unsent answers stop
//! the reading of the socket, and TCP tells the client.
//!
//! Deliberately does not know what a request means: it reads headers, asks the [`Service`] and keeps the order.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use crate::codec::reader::Reader;
use crate::codec::writer::Chunk;
use crate::protocol::header::RequestHeader;

pub mod connection;
pub mod limits;
pub mod listener;
pub mod outbox;

/// What a connection has in common for all its requests.
#[derive(Debug)]
pub struct Peer {
    /// Name of the listener that accepted the connection, upper case.
    pub listener: Arc<str>,
    pub address: SocketAddr,
}

/// One request: its header, and its body not read yet.
#[derive(Debug)]
pub struct Request {
    pub header: RequestHeader,
    pub body: Reader,
    pub peer: Arc<Peer>,
    pub received: Instant,
    /// Wall clock at `received`, ms since the epoch: the time of everything that this request does.
    pub now_ms: i64,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Answer {
    /// Response header and body; the frame length is added when it is sent.
    Reply(Vec<Chunk>),
    /// The request wants no answer, as a produce with acks=0.
    Nothing,
    /// The connection is closed, after the answers before this one.
    Close,
}

pub type AnswerFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// What answers requests.
pub trait Service: Send + Sync + 'static {
    /// The future is polled once as soon as the request is let in: what a handler does before its first wait happens
    /// in request order.
    fn handle(self: &Arc<Self>, request: Request) -> AnswerFuture;

    /// Whether a request with this header may start while the earlier ones of its connection still wait, given that
    /// all of them may.
    fn may_start_early(&self, header: &RequestHeader) -> bool;
}

#[cfg(test)]
mod tests;
