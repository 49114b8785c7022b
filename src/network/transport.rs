//! What carries the bytes of a connection: TCP as it is now, TLS and kTLS later. The type is known when a connection
//! is compiled, so that the plain one costs nothing.

use std::future::Future;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{BufMut, BytesMut};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::codec::writer::FileRegion;

/// Whether more is about to be sent, which may leave in one packet with this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    Nothing,
    More,
}

/// A stream of bytes to and from a peer. No operation waits but those that say so; one that cannot go on fails with
/// `WouldBlock`.
pub trait Transport: Send + Sync + 'static {
    /// Waits until a read may give something. Dropping it loses nothing.
    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send;

    /// Waits until a write may take something. Dropping it loses nothing.
    fn writable(&self) -> impl Future<Output = io::Result<()>> + Send;

    /// Waits until the peer has closed its side or the connection is broken, whatever is still unread. Dropping it
    /// loses nothing.
    fn hung_up(&self) -> impl Future<Output = ()> + Send;

    /// Appends at most `bytes_max` bytes, and no more than the buffer has room for. `Ok(0)` at the end of the stream.
    fn try_read(&mut self, buffer: &mut BytesMut, bytes_max: usize) -> io::Result<usize>;

    /// How many of the bytes were taken.
    fn try_write(&mut self, slices: &[IoSlice<'_>], follows: Follows) -> io::Result<usize>;

    /// How many bytes of the region were taken.
    fn try_send_file(&mut self, region: &FileRegion) -> io::Result<usize>;
}

/// TCP without encryption: bytes leave as they are, and files without passing through this process's memory.
#[derive(Debug)]
pub struct Plain {
    stream: TcpStream,
    /// Readiness was taken back without a read, to hear of a hang-up: the socket may hold bytes all the same.
    may_hold_unread: AtomicBool,
}

/// What one read takes while the readiness is not to be trusted.
const UNREAD_BYTES: usize = 16 * 1024;

impl Plain {
    pub fn new(stream: TcpStream) -> Plain {
        Plain { stream, may_hold_unread: AtomicBool::new(false) }
    }

    fn try_read_unread(&mut self, buffer: &mut BytesMut, bytes_max: usize) -> io::Result<usize> {
        let mut scratch = [0; UNREAD_BYTES];
        let asked = bytes_max.min(buffer.capacity() - buffer.len()).min(UNREAD_BYTES);
        let Some(room) = scratch.get_mut(..asked) else { return Err(io::ErrorKind::WouldBlock.into()) };
        match recv(&self.stream, &mut *room, RecvFlags::DONTWAIT) {
            Ok((_, received)) => {
                buffer.extend_from_slice(room.get(..received).unwrap_or_default());
                Ok(received)
            }
            Err(error) => {
                let error = io::Error::from(error);
                if error.kind() == io::ErrorKind::WouldBlock {
                    // Whatever comes from here on makes the socket ready again.
                    *self.may_hold_unread.get_mut() = false;
                }
                Err(error)
            }
        }
    }
}

impl Transport for Plain {
    async fn readable(&self) -> io::Result<()> {
        if self.may_hold_unread.load(Ordering::Relaxed) { Ok(()) } else { self.stream.readable().await }
    }

    async fn writable(&self) -> io::Result<()> {
        self.stream.writable().await
    }

    async fn hung_up(&self) {
        loop {
            match self.stream.ready(Interest::READABLE).await {
                Ok(ready) if !ready.is_read_closed() => {}
                Ok(_) | Err(_) => return,
            }
            // Bytes that nobody wants now: only what comes next is news.
            self.may_hold_unread.store(true, Ordering::Relaxed);
            let _ = self.stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
    }

    fn try_read(&mut self, buffer: &mut BytesMut, bytes_max: usize) -> io::Result<usize> {
        if *self.may_hold_unread.get_mut() {
            return self.try_read_unread(buffer, bytes_max);
        }
        let asked = bytes_max.min(buffer.capacity() - buffer.len());
        self.stream.try_read_buf(&mut buffer.limit(asked))
    }

    fn try_write(&mut self, slices: &[IoSlice<'_>], follows: Follows) -> io::Result<usize> {
        let flags = match follows {
            Follows::More => SendFlags::MORE | SendFlags::NOSIGNAL,
            Follows::Nothing => SendFlags::NOSIGNAL,
        };
        let stream = &self.stream;
        stream.try_io(Interest::WRITABLE, || Ok(sendmsg(stream, slices, &mut SendAncillaryBuffer::default(), flags)?))
    }

    fn try_send_file(&mut self, region: &FileRegion) -> io::Result<usize> {
        let stream = &self.stream;
        stream.try_io(Interest::WRITABLE, || {
            let mut position = region.position;
            let sent = rustix::fs::sendfile(stream, &region.file, Some(&mut position), region.len as usize)?;
            if sent == 0 {
                // The region was readable when the answer was made; a shorter file now is a fault.
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a segment ends within its region"));
            }
            Ok(sent)
        })
    }
}
