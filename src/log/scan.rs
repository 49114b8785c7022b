//! Walks the batches of a segment file: headers only, for lookups, or whole batches, for recovery and replay.
//! Whatever the bytes say, a walk never reads beyond the end it was given and never reserves more than lies before it.

use std::io;

use super::files::{self, File};
use crate::record::batch::{Batch, BatchHeader, HEADER_BYTES_V2};

/// Headers are small and near each other: one read usually brings several.
const HEADER_READ_BYTES: usize = 4096;
const BATCH_READ_BYTES: usize = 1 << 20;

/// What a walk found at one position.
#[derive(Debug)]
pub(crate) enum Found<T> {
    Batch(T),
    /// The end that was given, exactly.
    End,
    /// The bytes from here to the end are not whole batches; says why.
    Damage(String),
}

/// Walks headers from one position on.
pub(crate) struct HeaderScan<'a> {
    file: &'a File,
    position: u32,
    end: u32,
    buffer: [u8; HEADER_READ_BYTES],
    buffer_position: u32,
    buffer_len: usize,
}

impl<'a> HeaderScan<'a> {
    pub fn new(file: &'a File, position: u32, end: u32) -> HeaderScan<'a> {
        HeaderScan { file, position, end, buffer: [0; HEADER_READ_BYTES], buffer_position: 0, buffer_len: 0 }
    }

    /// The next batch's position and header.
    pub fn next(&mut self) -> io::Result<Found<(u32, BatchHeader)>> {
        if self.position >= self.end {
            return Ok(Found::End);
        }
        let wanted = HEADER_BYTES_V2.min((self.end - self.position) as usize);
        let buffered = (self.position as usize).checked_sub(self.buffer_position as usize);
        let at = match buffered {
            Some(at) if at + wanted <= self.buffer_len => at,
            _ => {
                let len = HEADER_READ_BYTES.min((self.end - self.position) as usize);
                files::read_exact_at(self.file, &mut self.buffer[..len], u64::from(self.position))?;
                self.buffer_position = self.position;
                self.buffer_len = len;
                0
            }
        };
        let header = match BatchHeader::read(&self.buffer[at..at + wanted]) {
            Ok(Some(header)) => header,
            Ok(None) => return Ok(Found::Damage(format!("a torn batch header at position {}", self.position))),
            Err(corrupt) => return Ok(Found::Damage(format!("{corrupt} at position {}", self.position))),
        };
        if header.size_in_bytes > (self.end - self.position) as usize {
            return Ok(Found::Damage(format!("a torn batch at position {}", self.position)));
        }
        let position = self.position;
        self.position += header.size_in_bytes as u32;
        Ok(Found::Batch((position, header)))
    }
}

/// Walks whole batches from one position on.
pub(crate) struct BatchScan<'a> {
    file: &'a File,
    position: u32,
    end: u32,
    buffer: Vec<u8>,
    buffer_position: u32,
    read_bytes: usize,
}

impl<'a> BatchScan<'a> {
    pub fn new(file: &'a File, position: u32, end: u32) -> BatchScan<'a> {
        BatchScan::reading(BATCH_READ_BYTES, file, position, end)
    }

    /// Reads so many bytes at once, or a whole batch if that is more.
    pub fn reading(read_bytes: usize, file: &'a File, position: u32, end: u32) -> BatchScan<'a> {
        BatchScan { file, position, end, buffer: Vec::new(), buffer_position: position, read_bytes }
    }

    /// Makes sure that `wanted` bytes from the current position on are buffered, as far as the end allows.
    fn fill(&mut self, wanted: usize) -> io::Result<usize> {
        let at = (self.position - self.buffer_position) as usize;
        let left = (self.end - self.position) as usize;
        if self.buffer.len() >= at + wanted.min(left) {
            return Ok(at);
        }
        // What is there already is kept: a large batch is read once, though its header is looked at first.
        let kept = self.buffer.len().saturating_sub(at);
        self.buffer.drain(..self.buffer.len() - kept);
        self.buffer.resize(wanted.max(self.read_bytes).min(left), 0);
        files::read_exact_at(self.file, &mut self.buffer[kept..], u64::from(self.position) + kept as u64)?;
        self.buffer_position = self.position;
        Ok(0)
    }

    /// The next batch with its position. Its checksum has not been looked at.
    pub fn next(&mut self) -> io::Result<Found<(u32, Batch<'_>)>> {
        if self.position >= self.end {
            return Ok(Found::End);
        }
        let position = self.position;
        let at = self.fill(HEADER_BYTES_V2)?;
        let size = match BatchHeader::read(&self.buffer[at..]) {
            Ok(Some(header)) => header.size_in_bytes,
            Ok(None) => return Ok(Found::Damage(format!("a torn batch header at position {position}"))),
            Err(corrupt) => return Ok(Found::Damage(format!("{corrupt} at position {position}"))),
        };
        if size > (self.end - position) as usize {
            return Ok(Found::Damage(format!("a torn batch at position {position}")));
        }
        let at = self.fill(size)?;
        self.position += size as u32;
        match Batch::first_of(&self.buffer[at..]) {
            Ok(Some(batch)) => Ok(Found::Batch((position, batch))),
            _ => Ok(Found::Damage(format!("a torn batch at position {position}"))),
        }
    }
}
