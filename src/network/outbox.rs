//! Answers on their way out of one connection: bytes gathered into few writes, file regions by sendfile.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};

use crate::codec::writer::Chunk;
use crate::network::WhenSent;
use crate::network::transport::{Follows, Transport};

/// Shorter chunks are copied beside their neighbours, so that many small answers leave in one write.
const BYTES_COPIED_MAX: usize = 4096;
const SLICES_A_WRITE: usize = 16;

#[derive(Default)]
pub struct Outbox {
    queue: VecDeque<Chunk>,
    tail: BytesMut,
    /// Bytes that are not sent yet.
    len: usize,
    /// Of the chunks that are not sent whole, those in memory: regions of files are not.
    memory_bytes: usize,
    /// Of the front, if that is bytes.
    sent_of_front: usize,
    sent: u64,
    /// What waits for its answer to be sent: up to which of all bytes ever sent, in order.
    when_sent: VecDeque<(u64, WhenSent)>,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("len", &self.len).field("memory_bytes", &self.memory_bytes).finish()
    }
}

impl Outbox {
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Adds one answer, preceded by its length as an i32. `Err` if it is longer than a frame can say.
    pub fn push_frame(&mut self, chunks: Vec<Chunk>, when_sent: Option<WhenSent>) -> Result<(), FrameTooLong> {
        let bytes: usize = chunks.iter().map(Chunk::len).sum();
        let length = i32::try_from(bytes).map_err(|_| FrameTooLong { bytes })?;
        self.tail.extend_from_slice(&length.to_be_bytes());
        self.memory_bytes += size_of::<i32>();
        self.len += size_of::<i32>() + bytes;
        for chunk in chunks {
            match chunk {
                Chunk::File(region) if region.len == 0 => continue,
                Chunk::Bytes(bytes) if bytes.len() <= BYTES_COPIED_MAX => {
                    self.memory_bytes += bytes.len();
                    self.tail.extend_from_slice(&bytes);
                    continue;
                }
                Chunk::Bytes(ref bytes) => self.memory_bytes += bytes.len(),
                Chunk::File(_) => {}
            }
            self.seal_tail();
            self.queue.push_back(chunk);
        }
        if let Some(when_sent) = when_sent {
            self.when_sent.push_back((self.sent + self.len as u64, when_sent));
        }
        Ok(())
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            self.queue.push_back(Chunk::Bytes(self.tail.split().freeze()));
        }
    }

    /// Sends what the transport takes without waiting. `Ok(true)` once all is sent.
    pub fn try_flush(&mut self, transport: &mut impl Transport) -> io::Result<bool> {
        self.seal_tail();
        while let Some(front) = self.queue.front() {
            let sent = match front {
                Chunk::Bytes(_) => {
                    let mut slices = [IoSlice::new(&[]); SLICES_A_WRITE];
                    let mut count = 0;
                    for (slot, chunk) in slices.iter_mut().zip(&self.queue) {
                        let Chunk::Bytes(bytes) = chunk else { break };
                        *slot = IoSlice::new(bytes);
                        count += 1;
                    }
                    // The head of a fetch answer leaves together with its records: one packet and one wake-up fewer.
                    let follows = match self.queue.get(count) {
                        Some(Chunk::File(_)) => Follows::More,
                        Some(Chunk::Bytes(_)) | None => Follows::Nothing,
                    };
                    // A slice of no slices cannot be: the front is bytes.
                    transport.try_write(slices.get(..count).unwrap_or_default(), follows)
                }
                Chunk::File(region) => transport.try_send_file(region),
            };
            match sent {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => self.advance(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // Memory of the tail that nothing uses any more.
        if self.tail.capacity() > BYTES_COPIED_MAX {
            self.tail = BytesMut::new();
        }
        Ok(true)
    }

    fn advance(&mut self, mut sent: usize) {
        self.len -= sent;
        self.sent += sent as u64;
        while sent > 0 {
            let Some(front) = self.queue.front_mut() else { break };
            let here = sent.min(front.len());
            sent -= here;
            let is_done = here == front.len();
            match front {
                Chunk::Bytes(bytes) => {
                    // All of it stays in memory until its last byte is sent.
                    self.sent_of_front += here;
                    Bytes::advance(bytes, here);
                    if is_done {
                        self.memory_bytes -= std::mem::take(&mut self.sent_of_front);
                    }
                }
                Chunk::File(region) => {
                    region.position += here as u64;
                    region.len -= here as u32;
                }
            }
            if is_done {
                self.queue.pop_front();
            }
        }
        if self.when_sent.front().is_some_and(|(until, _)| *until <= self.sent) {
            let now = Instant::now();
            while self.when_sent.front().is_some_and(|(until, _)| *until <= self.sent) {
                if let Some((_, when_sent)) = self.when_sent.pop_front() {
                    when_sent(now);
                }
            }
        }
    }
}

/// An answer of 2 GiB or more.
#[derive(Debug, PartialEq, Eq)]
pub struct FrameTooLong {
    pub bytes: usize,
}
