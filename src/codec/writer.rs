use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of a file that are sent as they are, without passing through this process's memory.
#[derive(Clone, Debug)]
pub struct FileRegion {
    pub file: Arc<File>,
    /// First byte, counted from the start of the file.
    pub position: u64,
    pub len: u32,
    /// Where it is from, if that is to be told when it cannot be sent.
    pub source: Option<Arc<dyn RegionSource>>,
}

/// A directory that has files of which regions are sent.
pub trait RegionSource: Debug + Send + Sync {
    fn dir(&self) -> &Path;

    fn is_offline(&self) -> bool;

    /// What came of reading a region that could not be sent.
    fn observe_read(&self, read: io::Result<()>);
}

/// A piece of an encoded frame, in sending order.
#[derive(Clone, Debug)]
pub enum Chunk {
    Bytes(Bytes),
    File(FileRegion),
}

impl Chunk {
    pub fn len(&self) -> usize {
        match self {
            Chunk::Bytes(bytes) => bytes.len(),
            Chunk::File(region) => region.len as usize,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Shorter byte fields are copied beside their neighbours: a chunk of its own costs more.
const BYTES_COPIED_MAX: usize = 1024;

/// Collects big-endian primitives and byte fields as the chunks of a frame.
#[derive(Debug, Default)]
pub struct Writer {
    chunks: Vec<Chunk>,
    buffer: BytesMut,
}

macro_rules! fixed {
    ($($name:ident($type:ty) = $put:ident),*) => {$(
        pub fn $name(&mut self, value: $type) {
            self.buffer.$put(value);
        }
    )*};
}

impl Writer {
    pub fn new() -> Writer {
        Writer::default()
    }

    pub fn with_capacity(bytes: usize) -> Writer {
        Writer { chunks: Vec::new(), buffer: BytesMut::with_capacity(bytes) }
    }

    fixed!(
        i8(i8) = put_i8,
        i16(i16) = put_i16,
        u16(u16) = put_u16,
        i32(i32) = put_i32,
        i64(i64) = put_i64,
        f64(f64) = put_f64
    );

    /// Raw bytes, copied.
    pub fn slice(&mut self, bytes: &[u8]) {
        self.buffer.put_slice(bytes);
    }

    /// Raw bytes, shared when they are long.
    pub fn bytes(&mut self, bytes: &Bytes) {
        if bytes.len() <= BYTES_COPIED_MAX {
            self.buffer.put_slice(bytes);
        } else {
            self.chunk(Chunk::Bytes(bytes.clone()));
        }
    }

    pub fn chunk(&mut self, chunk: Chunk) {
        if !self.buffer.is_empty() {
            self.chunks.push(Chunk::Bytes(self.buffer.split().freeze()));
        }
        self.chunks.push(chunk);
    }

    /// Unsigned LEB128 (KIP-482).
    pub fn uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.buffer.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.buffer.put_u8(value as u8);
    }

    pub fn len(&self) -> usize {
        self.chunks.iter().map(Chunk::len).sum::<usize>() + self.buffer.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All that was written, in order.
    pub fn into_chunks(mut self) -> Vec<Chunk> {
        if !self.buffer.is_empty() {
            self.chunks.push(Chunk::Bytes(self.buffer.freeze()));
        }
        self.chunks
    }

    /// Appends what another writer collected, without copying its long pieces.
    pub fn append(&mut self, other: Writer) {
        for chunk in other.into_chunks() {
            match chunk {
                Chunk::Bytes(bytes) => self.bytes(&bytes),
                file => self.chunk(file),
            }
        }
    }

    /// All that was written as one slice. `None` if a file region is among it.
    pub fn into_bytes(self) -> Option<Bytes> {
        if self.chunks.is_empty() {
            return Some(self.buffer.freeze());
        }
        let mut all = BytesMut::with_capacity(self.len());
        for chunk in self.into_chunks() {
            match chunk {
                Chunk::Bytes(bytes) => all.put_slice(&bytes),
                Chunk::File(_) => return None,
            }
        }
        Some(all.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_bytes_are_shared_and_keep_their_place() {
        let long = Bytes::from(vec![7u8; BYTES_COPIED_MAX + 1]);
        let mut writer = Writer::new();
        writer.i16(1);
        writer.bytes(&long);
        writer.uvarint(300);
        assert_eq!(writer.len(), 2 + long.len() + 2);
        let chunks = writer.into_chunks();
        assert_eq!(chunks.len(), 3);
        assert!(matches!(&chunks[1], Chunk::Bytes(bytes) if bytes.as_ptr() == long.as_ptr()));
        assert!(matches!(&chunks[2], Chunk::Bytes(bytes) if bytes[..] == [0xac, 0x02]));
    }
}
