//! Answers on their way out of one connection: bytes gathered into few writes, file regions by sendfile unless they are
//! short.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use rustix::io::{ReadWriteFlags, preadv2};

use crate::codec::writer::{Chunk, FileRegion};
use crate::network::WhenSent;
use crate::network::transport::{Follows, Transport};

/// Shorter chunks are copied beside their neighbours, so that many small answers leave in one write.
const BYTES_COPIED_MAX: usize = 4096;
/// While so much waits in memory, no region of a file comes to lie there too.
const BYTES_READ_MAX: usize = 32 * 1024;
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

    /// What is sent next, if that is a region of a file.
    pub fn next_region(&self) -> Option<&FileRegion> {
        match self.queue.front()? {
            Chunk::File(region) => Some(region),
            Chunk::Bytes(_) => None,
        }
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
                Chunk::File(ref region) => {
                    if self.memory_bytes < BYTES_READ_MAX && read_cached(region, &mut self.tail) {
                        self.memory_bytes += region.len as usize;
                        continue;
                    }
                }
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

/// Appends a region that is short and in the page cache, which costs less than sending it from there in a write of its own.
fn read_cached(region: &FileRegion, tail: &mut BytesMut) -> bool {
    let mut bytes = [0; BYTES_COPIED_MAX];
    let Some(room) = bytes.get_mut(..region.len as usize) else { return false };
    let read = preadv2(&*region.file, &mut [IoSliceMut::new(room)], region.position, ReadWriteFlags::NOWAIT);
    let is_whole = read == Ok(room.len());
    if is_whole {
        tail.extend_from_slice(room);
    }
    is_whole
}

/// An answer of 2 GiB or more.
#[derive(Debug, PartialEq, Eq)]
pub struct FrameTooLong {
    pub bytes: usize,
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::io::Write;
    use std::sync::Arc;

    use super::*;

    /// Takes everything, and counts by which way it came.
    #[derive(Default)]
    struct Taken {
        bytes: Vec<u8>,
        writes: usize,
        files: usize,
    }

    impl Transport for Taken {
        async fn readable(&self) -> io::Result<()> {
            pending().await
        }

        async fn writable(&self) -> io::Result<()> {
            Ok(())
        }

        async fn hung_up(&self) {
            pending().await
        }

        fn try_read(&mut self, _: &mut BytesMut, _: usize) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }

        fn try_write(&mut self, slices: &[IoSlice<'_>], _: Follows) -> io::Result<usize> {
            self.writes += 1;
            slices.iter().for_each(|slice| self.bytes.extend_from_slice(slice));
            Ok(slices.iter().map(|slice| slice.len()).sum())
        }

        fn try_send_file(&mut self, region: &FileRegion) -> io::Result<usize> {
            self.files += 1;
            let mut bytes = vec![0; region.len as usize];
            std::os::unix::fs::FileExt::read_exact_at(&*region.file, &mut bytes, region.position)?;
            self.bytes.extend_from_slice(&bytes);
            Ok(bytes.len())
        }
    }

    #[test]
    fn short_regions_in_memory_leave_with_what_stands_around_them() {
        let mut file = tempfile::tempfile().expect("a temporary file");
        let content: Vec<u8> = (0..100_000_u32).map(|at| at as u8).collect();
        file.write_all(&content).expect("room for it");
        let file = Arc::new(file);
        let region =
            |position: u64, len: u32| Chunk::File(FileRegion { file: Arc::clone(&file), position, len, source: None });
        let mut expected = Vec::new();
        let mut outbox = Outbox::default();
        let mut answer = |outbox: &mut Outbox, regions: &[(u64, u32)]| {
            let mut chunks = vec![Chunk::Bytes(Bytes::from_static(b"head"))];
            chunks.extend(regions.iter().map(|&(position, len)| region(position, len)));
            let length: usize = chunks.iter().map(Chunk::len).sum();
            expected.extend_from_slice(&(length as i32).to_be_bytes());
            expected.extend_from_slice(b"head");
            regions.iter().for_each(|&(at, len)| expected.extend_from_slice(&content[at as usize..][..len as usize]));
            outbox.push_frame(chunks, None).expect("it is short");
        };

        let mut taken = Taken::default();
        answer(&mut outbox, &[(10, 4096), (7, 100)]);
        assert_eq!(outbox.memory_bytes(), 8 + 4196);
        assert!(outbox.try_flush(&mut taken).expect("it is taken"));
        assert_eq!((taken.writes, taken.files, outbox.memory_bytes()), (1, 0, 0));

        answer(&mut outbox, &[(10, 4097)]);
        assert!(outbox.try_flush(&mut taken).expect("it is taken"));
        assert_eq!((taken.writes, taken.files), (2, 1), "a longer one is not copied");

        // Each of many is short, and all of them together are not.
        answer(&mut outbox, &[(0, 4000); 20]);
        assert!(outbox.memory_bytes() < BYTES_READ_MAX + BYTES_COPIED_MAX, "{outbox:?}");
        // What a file does not have is missed when it is sent.
        answer(&mut outbox, &[]);
        assert!(outbox.try_flush(&mut taken).expect("it is taken"));
        outbox.push_frame(vec![region(99_990, 20)], None).expect("it is short");
        assert!(outbox.try_flush(&mut taken).is_err());
        expected.extend_from_slice(&20_i32.to_be_bytes());
        assert!(taken.bytes == expected);
    }
}
