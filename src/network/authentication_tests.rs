//! What a service needs of a connection to authenticate its peer, with a service that does so in the simplest way.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::tests::{BOUNDS, PATIENCE, frame, is_closed, listen};
use crate::codec::writer::Chunk;
use crate::network::{Answer, Asked, Peer, Request, Service};
use crate::protocol::header::RequestHeader;

const METADATA: i16 = 3;
const SASL_HANDSHAKE: i16 = 17;
/// `sasl.server.max.receive.size`
const TOKEN_BYTES_MAX: usize = 100;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum State {
    #[default]
    Unknown,
    /// It has named its mechanism: what comes next are tokens.
    Exchanges,
    /// Until then.
    Known(Instant),
}

struct Authenticating;

fn text(answer: &'static str) -> Answer {
    Answer::reply(vec![Chunk::Bytes(Bytes::from_static(answer.as_bytes()))])
}

impl Service for Authenticating {
    type Session = Mutex<State>;

    fn open_session(&self) -> Mutex<State> {
        Mutex::default()
    }

    fn handle(self: &Arc<Self>, request: Request<Mutex<State>>) -> Asked {
        Asked::Waits(Box::pin(async move {
            // An exchange may have to wait, and nothing of the connection overtakes it.
            tokio::task::yield_now().await;
            let mut state = request.peer.session.lock().unwrap();
            match (request.header.api_key, *state) {
                (SASL_HANDSHAKE, _) => {
                    *state = State::Exchanges;
                    text("go on")
                }
                (_, State::Known(until)) if request.received < until => text("served"),
                _ => Answer::close(),
            }
        }))
    }

    fn may_start_early(&self, header: &RequestHeader) -> bool {
        header.api_key != SASL_HANDSHAKE
    }

    fn frame_bytes_max(&self, session: &Mutex<State>) -> usize {
        if matches!(*session.lock().unwrap(), State::Known(_)) { usize::MAX } else { TOKEN_BYTES_MAX }
    }

    fn expects_token(&self, session: &Mutex<State>) -> bool {
        *session.lock().unwrap() == State::Exchanges
    }

    fn handle_token(self: &Arc<Self>, token: Bytes, peer: &Arc<Peer<Mutex<State>>>) -> Asked {
        let peer = Arc::clone(peer);
        Asked::Waits(Box::pin(async move {
            tokio::task::yield_now().await;
            let (state, answer) = match &token[..] {
                b"first" => (State::Exchanges, text("second")),
                b"secret" => (State::Known(Instant::now() + PATIENCE * 2), text("welcome")),
                b"short-lived" => (State::Known(Instant::now()), text("welcome")),
                _ => (State::Unknown, Answer { then_close: true, ..text("no") }),
            };
            *peer.session.lock().unwrap() = state;
            answer
        }))
    }
}

fn token(text: &str) -> Vec<u8> {
    [&(text.len() as i32).to_be_bytes(), text.as_bytes()].concat()
}

async fn answer(stream: &mut TcpStream) -> String {
    let reading = async {
        let length = stream.read_u32().await.unwrap();
        let mut text = vec![0; length as usize];
        stream.read_exact(&mut text).await.unwrap();
        String::from_utf8(text).unwrap()
    };
    timeout(PATIENCE, reading).await.expect("an answer comes")
}

#[tokio::test]
async fn a_peer_is_served_once_it_has_proved_who_it_is_by_tokens_without_headers() {
    let (address, shared, _stop) = listen(&Arc::new(Authenticating), BOUNDS, 1 << 20);
    let mut stream = TcpStream::connect(address).await.unwrap();
    // All at once: each waits its turn.
    let all = [
        frame(SASL_HANDSHAKE, 1, 0),
        token("first"),
        token("secret"),
        frame(METADATA, 2, 0),
        frame(METADATA, 3, 2 * TOKEN_BYTES_MAX),
    ];
    stream.write_all(&all.concat()).await.unwrap();
    for expected in ["go on", "second", "welcome", "served", "served"] {
        assert_eq!(answer(&mut stream).await, expected);
    }
    // Again on the same connection, and this time for no longer than now (KIP-368).
    stream.write_all(&[frame(SASL_HANDSHAKE, 4, 0), token("short-lived")].concat()).await.unwrap();
    assert_eq!((answer(&mut stream).await, answer(&mut stream).await), ("go on".to_owned(), "welcome".to_owned()));
    stream.write_all(&frame(METADATA, 5, 0)).await.unwrap();
    assert!(is_closed(&mut stream).await, "its session has ended");
    drop(shared);
}

#[tokio::test]
async fn a_peer_that_fails_is_told_so_and_closed_and_one_that_does_not_try_is_closed() {
    let (address, _shared, _stop) = listen(&Arc::new(Authenticating), BOUNDS, 1 << 20);
    let mut stream = TcpStream::connect(address).await.unwrap();
    let all = [frame(SASL_HANDSHAKE, 1, 0), token("wrong"), token("secret"), frame(METADATA, 2, 0)];
    stream.write_all(&all.concat()).await.unwrap();
    assert_eq!((answer(&mut stream).await, answer(&mut stream).await), ("go on".to_owned(), "no".to_owned()));
    assert!(is_closed(&mut stream).await, "nothing more is let in");
    for first in [frame(METADATA, 1, 0), frame(SASL_HANDSHAKE, 1, TOKEN_BYTES_MAX)] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&first).await.unwrap();
        assert!(is_closed(&mut stream).await);
    }
}
