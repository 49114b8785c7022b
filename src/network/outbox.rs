//! Answers on their way out of one connection: bytes gathered into few writes, file regions by sendfile.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::codec::writer::Chunk;

/// Shorter chunks are copied beside their neighbours, so that many small answers leave in one write.
const BYTES_COPIED_MAX: usize = 4096;
const SLICES_A_WRITE: usize = 16;

#[derive(Debug, Default)]
pub struct Outbox {
    queue: VecDeque<Chunk>,
    tail: BytesMut,
    /// Bytes that are not sent yet.
    len: usize,
}

impl Outbox {
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds one answer, preceded by its length as an i32. `Err` if it is longer than a frame can say.
    pub fn push_frame(&mut self, chunks: Vec<Chunk>) -> Result<(), FrameTooLong> {
        let bytes: usize = chunks.iter().map(Chunk::len).sum();
        let length = i32::try_from(bytes).map_err(|_| FrameTooLong { bytes })?;
        self.tail.extend_from_slice(&length.to_be_bytes());
        self.len += size_of::<i32>() + bytes;
        for chunk in chunks {
            match chunk {
                Chunk::Bytes(bytes) if bytes.len() <= BYTES_COPIED_MAX => self.tail.extend_from_slice(&bytes),
                Chunk::File(region) if region.len == 0 => {}
                long => {
                    self.seal_tail();
                    self.queue.push_back(long);
                }
            }
        }
        Ok(())
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            self.queue.push_back(Chunk::Bytes(self.tail.split().freeze()));
        }
    }

    /// Sends what the socket takes without waiting. `Ok(true)` once all is sent.
    pub fn try_flush(&mut self, stream: &TcpStream) -> io::Result<bool> {
        self.seal_tail();
        while let Some(front) = self.queue.front_mut() {
            let sent = match front {
                Chunk::Bytes(_) => {
                    let mut slices = [IoSlice::new(&[]); SLICES_A_WRITE];
                    let mut count = 0;
                    for (slot, chunk) in slices.iter_mut().zip(&self.queue) {
                        let Chunk::Bytes(bytes) = chunk else { break };
                        *slot = IoSlice::new(bytes);
                        count += 1;
                    }
                    // A slice of no slices cannot be: the front is bytes.
                    let slices = slices.get(..count).unwrap_or_default();
                    // The head of a fetch answer leaves together with its records: one packet and one wake-up fewer.
                    let flags = match self.queue.get(count) {
                        Some(Chunk::File(_)) => SendFlags::MORE | SendFlags::NOSIGNAL,
                        Some(Chunk::Bytes(_)) | None => SendFlags::NOSIGNAL,
                    };
                    stream.try_io(Interest::WRITABLE, || {
                        Ok(sendmsg(stream, slices, &mut SendAncillaryBuffer::default(), flags)?)
                    })
                }
                Chunk::File(region) => stream.try_io(Interest::WRITABLE, || {
                    let mut position = region.position;
                    let sent = rustix::fs::sendfile(stream, &region.file, Some(&mut position), region.len as usize)?;
                    if sent == 0 {
                        // The region was readable when the answer was made; a shorter file now is a fault.
                        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a segment ends within its region"));
                    }
                    Ok(sent)
                }),
            };
            match sent {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => self.advance(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn advance(&mut self, mut sent: usize) {
        self.len -= sent;
        while sent > 0 {
            let Some(front) = self.queue.front_mut() else { return };
            let here = sent.min(front.len());
            sent -= here;
            let is_done = here == front.len();
            match front {
                Chunk::Bytes(bytes) => Bytes::advance(bytes, here),
                Chunk::File(region) => {
                    region.position += here as u64;
                    region.len -= here as u32;
                }
            }
            if is_done {
                self.queue.pop_front();
            }
        }
    }
}

/// An answer of 2 GiB or more.
#[derive(Debug, PartialEq, Eq)]
pub struct FrameTooLong {
    pub bytes: usize,
}
