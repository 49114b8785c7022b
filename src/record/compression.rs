//! The codecs of record batches, with the framing that Kafka's clients write and read.
//!
//! Decompression is a stream: whatever a batch inflates to, memory stays within one block of its codec and the zstd
//! window that the frame asks for, which is refused above 128 MiB as by Kafka.
//!
//! Source: kafka 3.9.0-rc3 clients/src/main/java/org/apache/kafka/common/compress/*.java;
//! snappy-java SnappyCodec, SnappyInputStream; the lz4 frame format with Kafka's restrictions (KIP-57).

use std::cell::Cell;
use std::fmt;
use std::io::{self, Read, Write};

use flate2::write::GzEncoder;
use flate2::{Crc, Decompress, FlushDecompress, Status};
use twox_hash::XxHash32;
use zstd::zstd_safe;

/// Bits 0 to 2 of a batch's attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Codec {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Codec {
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// Ids 5 to 7 fit the bits but mean nothing.
    pub fn from_id(id: u8) -> Option<Codec> {
        Codec::ALL.get(usize::from(id)).copied()
    }

    pub fn id(self) -> u8 {
        self as u8
    }

    /// As in `compression.type`.
    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }

    pub fn from_name(name: &str) -> Option<Codec> {
        Codec::ALL.into_iter().find(|codec| codec.name() == name)
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads the uncompressed bytes of a batch. `UnexpectedEof` means that the data ends too early, any other error that
/// the codec refuses it.
pub(crate) enum Decompressor<'a> {
    Plain(&'a [u8]),
    Gzip(GzipReader<'a>),
    Snappy(SnappyReader<'a>),
    Lz4(Lz4Reader<'a>),
    Zstd(ZstdReader<'a>),
}

impl<'a> Decompressor<'a> {
    /// `magic` is that of the batch: the lz4 frames of v0 have a checksum that must not be believed.
    pub(crate) fn new(codec: Codec, magic: u8, compressed: &'a [u8]) -> io::Result<Decompressor<'a>> {
        Ok(match codec {
            Codec::None => Decompressor::Plain(compressed),
            Codec::Gzip => Decompressor::Gzip(GzipReader::new(compressed)?),
            Codec::Snappy => Decompressor::Snappy(SnappyReader::new(compressed)?),
            Codec::Lz4 => Decompressor::Lz4(Lz4Reader::new(compressed, magic)?),
            Codec::Zstd => Decompressor::Zstd(ZstdReader::new(compressed)),
        })
    }
}

impl Read for Decompressor<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Decompressor::Plain(bytes) => bytes.read(out),
            Decompressor::Gzip(reader) => reader.read(out),
            Decompressor::Snappy(reader) => reader.read(out),
            Decompressor::Lz4(reader) => reader.read(out),
            Decompressor::Zstd(reader) => reader.read(out),
        }
    }
}

/// A member of a gzip stream starts so: magic, and the method, which is deflate.
const GZIP_START: [u8; 3] = [0x1f, 0x8b, 8];
/// Header and trailer of a member, and the least that lies between. Shorter rests are not even looked at.
const GZIP_MEMBER_BYTES_MIN: usize = 18;
const GZIP_HEADER_CRC_BIT: u8 = 1 << 1;
const GZIP_EXTRA_BIT: u8 = 1 << 2;
const GZIP_NAME_BIT: u8 = 1 << 3;
const GZIP_COMMENT_BIT: u8 = 1 << 4;

/// Members of a gzip stream, one after another, and one inflater for all: a member may be twenty bytes long, and an
/// inflater is forty thousand. Bytes behind the last member that begin no other are ignored, as Java does.
/// Source: RFC 1952; OpenJDK java.base/java/util/zip/GZIPInputStream.java (readHeader, readTrailer).
pub(crate) struct GzipReader<'a> {
    rest: &'a [u8],
    inflater: Decompress,
    crc: Crc,
    finished: bool,
}

impl<'a> GzipReader<'a> {
    fn new(compressed: &'a [u8]) -> io::Result<GzipReader<'a>> {
        let rest = behind_gzip_header(compressed)?;
        #[cfg(test)]
        tests::INFLATERS.set(tests::INFLATERS.get() + 1);
        Ok(GzipReader { rest, inflater: Decompress::new(false), crc: Crc::new(), finished: false })
    }

    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        while !self.finished {
            let (consumed, produced) = (self.inflater.total_in(), self.inflater.total_out());
            let status = self.inflater.decompress(self.rest, out, FlushDecompress::None).map_err(invalid)?;
            let (consumed, produced) = (self.inflater.total_in() - consumed, self.inflater.total_out() - produced);
            let (consumed, produced) = (consumed as usize, produced as usize);
            self.rest = &self.rest[consumed..];
            self.crc.update(&out[..produced]);
            if status == Status::StreamEnd {
                self.end_member()?;
            } else if consumed == 0 && produced == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if produced > 0 {
                return Ok(produced);
            }
        }
        Ok(0)
    }

    fn end_member(&mut self) -> io::Result<()> {
        let (crc, rest) = take_gzip::<4>(self.rest)?;
        let (length, rest) = take_gzip::<4>(rest)?;
        if (u32::from_le_bytes(crc), u32::from_le_bytes(length)) != (self.crc.sum(), self.crc.amount()) {
            return Err(invalid("the trailer of a gzip stream does not fit what it holds"));
        }
        match behind_gzip_header(rest) {
            Ok(behind) if rest.len() > GZIP_MEMBER_BYTES_MIN => {
                self.rest = behind;
                self.inflater.reset(false);
                self.crc.reset();
            }
            Ok(_) | Err(_) => self.finished = true,
        }
        Ok(())
    }
}

fn take_gzip<const N: usize>(bytes: &[u8]) -> io::Result<([u8; N], &[u8])> {
    bytes.split_first_chunk().map(|(taken, rest)| (*taken, rest)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// What follows the header of a gzip member.
fn behind_gzip_header(member: &[u8]) -> io::Result<&[u8]> {
    let text = |rest: &mut &[u8]| -> io::Result<()> {
        let end = rest.iter().position(|&byte| byte == 0).ok_or(io::ErrorKind::UnexpectedEof)?;
        *rest = &rest[end + 1..];
        Ok(())
    };
    // Behind the flags: time, extra flags, system.
    let ([start @ .., flags, _, _, _, _, _, _], mut rest) = take_gzip::<10>(member)?;
    if start != GZIP_START {
        return Err(invalid("no gzip stream"));
    }
    if flags & GZIP_EXTRA_BIT != 0 {
        let (length, extra) = take_gzip::<2>(rest)?;
        rest = extra.get(usize::from(u16::from_le_bytes(length))..).ok_or(io::ErrorKind::UnexpectedEof)?;
    }
    if flags & GZIP_NAME_BIT != 0 {
        text(&mut rest)?;
    }
    if flags & GZIP_COMMENT_BIT != 0 {
        text(&mut rest)?;
    }
    if flags & GZIP_HEADER_CRC_BIT != 0 {
        let mut crc = Crc::new();
        crc.update(&member[..member.len() - rest.len()]);
        let (stored, behind) = take_gzip::<2>(rest)?;
        if u16::from_le_bytes(stored) != crc.sum() as u16 {
            return Err(invalid("the header of a gzip stream does not have its checksum"));
        }
        rest = behind;
    }
    Ok(rest)
}

/// A block that was decompressed as a whole and is handed out in parts.
#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Block {
    /// Room for a new block.
    fn room(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.len() < len {
            self.bytes.resize(len, 0);
        }
        &mut self.bytes[..len]
    }

    fn filled(&mut self, len: usize) {
        (self.start, self.end) = (0, len);
    }

    fn read(&mut self, out: &mut [u8]) -> usize {
        let len = out.len().min(self.end - self.start);
        out[..len].copy_from_slice(&self.bytes[self.start..self.start + len]);
        self.start += len;
        len
    }
}

/// What snappy-java's stream starts with: a name, its version, and the oldest version that can read it.
const SNAPPY_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const SNAPPY_HEADER: [u8; 16] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
const SNAPPY_BLOCK_BYTES: usize = 32 * 1024;

/// Chunks of snappy-java's stream, or one raw snappy block for the whole payload, as some C and Go clients write it.
pub(crate) struct SnappyReader<'a> {
    rest: &'a [u8],
    is_raw: bool,
    block: Block,
}

impl<'a> SnappyReader<'a> {
    fn new(compressed: &'a [u8]) -> io::Result<SnappyReader<'a>> {
        let is_raw = compressed.len() < SNAPPY_HEADER.len() || !compressed.starts_with(&SNAPPY_MAGIC);
        let mut reader = SnappyReader { rest: compressed, is_raw, block: Block::default() };
        if !is_raw {
            reader.rest = &compressed[SNAPPY_MAGIC.len()..];
            reader.skip_versions()?;
        }
        Ok(reader)
    }

    /// Kafka's library does not look at them either.
    fn skip_versions(&mut self) -> io::Result<()> {
        let (_, rest) = self.rest.split_first_chunk::<8>().ok_or_else(|| invalid("a snappy header is cut short"))?;
        self.rest = rest;
        Ok(())
    }

    fn next_compressed(&mut self) -> io::Result<Option<&'a [u8]>> {
        if self.is_raw {
            let block = std::mem::take(&mut self.rest);
            return Ok((!block.is_empty()).then_some(block));
        }
        // A concatenation of streams has the header again where a length should be.
        while let Some(rest) = self.rest.strip_prefix(&SNAPPY_MAGIC) {
            self.rest = rest;
            self.skip_versions()?;
        }
        let Some((length, rest)) = self.rest.split_first_chunk::<4>() else { return Ok(None) };
        let block = usize::try_from(i32::from_be_bytes(*length)).ok().and_then(|length| rest.split_at_checked(length));
        let (block, rest) = block.ok_or_else(|| invalid("a snappy chunk is longer than what is left"))?;
        self.rest = rest;
        Ok(Some(block))
    }

    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.block.start == self.block.end {
            let Some(compressed) = self.next_compressed()? else { return Ok(0) };
            let len = snap::raw::decompress_len(compressed).map_err(invalid)?;
            // The densest element makes 64 bytes of 3: a block that claims more lies, and gets no memory.
            if len > compressed.len().saturating_mul(22) {
                return Err(invalid("a snappy block claims more bytes than it can hold"));
            }
            let len = snap::raw::Decoder::new().decompress(compressed, self.block.room(len)).map_err(invalid)?;
            self.block.filled(len);
        }
        Ok(self.block.read(out))
    }
}

const LZ4_MAGIC: [u8; 4] = 0x184d_2204_u32.to_le_bytes();
const LZ4_VERSION_BITS: u8 = 0b0100_0000;
const LZ4_INDEPENDENT_BLOCKS_BIT: u8 = 0b0010_0000;
const LZ4_BLOCK_CHECKSUM_BIT: u8 = 0b0001_0000;
const LZ4_CONTENT_SIZE_BIT: u8 = 0b0000_1000;
const LZ4_CONTENT_CHECKSUM_BIT: u8 = 0b0000_0100;
const LZ4_STORED_BIT: u32 = 1 << 31;
/// Block size code 4, which Kafka writes.
const LZ4_BLOCK_BYTES: usize = 64 * 1024;

fn lz4_header_checksum(bytes: &[u8]) -> u8 {
    (XxHash32::oneshot(0, bytes) >> 8) as u8
}

/// One lz4 frame, as Kafka restricts it: blocks are independent, and the checksum of the content, though it must be there,
/// is not looked at.
pub(crate) struct Lz4Reader<'a> {
    rest: &'a [u8],
    block_bytes_max: usize,
    has_block_checksums: bool,
    has_content_checksum: bool,
    finished: bool,
    block: Block,
}

impl<'a> Lz4Reader<'a> {
    fn new(compressed: &'a [u8], magic: u8) -> io::Result<Lz4Reader<'a>> {
        let short = || invalid("an lz4 frame header is cut short");
        let frame = compressed.strip_prefix(&LZ4_MAGIC).ok_or_else(|| invalid("no lz4 frame"))?;
        let [flags, sizes] = *frame.first_chunk::<2>().ok_or_else(short)?;
        if flags & 0b1100_0000 != LZ4_VERSION_BITS || flags & 0b0000_0011 != 0 || sizes & 0b1000_1111 != 0 {
            return Err(invalid("an lz4 frame of an unknown version or with reserved bits set"));
        }
        if flags & LZ4_INDEPENDENT_BLOCKS_BIT == 0 {
            return Err(invalid("lz4 frames with dependent blocks are not supported"));
        }
        let block_size_code = u32::from(sizes >> 4);
        if block_size_code < 4 {
            return Err(invalid("an lz4 frame with an unknown block size"));
        }
        let described = if flags & LZ4_CONTENT_SIZE_BIT != 0 { 10 } else { 2 };
        let (descriptor, rest) = frame.split_at_checked(described).ok_or_else(short)?;
        let (checksum, rest) = rest.split_first().ok_or_else(short)?;
        // Clients of 0.8 and 0.9, which wrote v0, had the checksum wrong.
        if magic > 0 && *checksum != lz4_header_checksum(descriptor) {
            return Err(invalid("the header of an lz4 frame does not have its checksum"));
        }
        Ok(Lz4Reader {
            rest,
            block_bytes_max: 1 << (2 * block_size_code + 8),
            has_block_checksums: flags & LZ4_BLOCK_CHECKSUM_BIT != 0,
            has_content_checksum: flags & LZ4_CONTENT_CHECKSUM_BIT != 0,
            finished: false,
            block: Block::default(),
        })
    }

    fn take_u32(&mut self) -> io::Result<u32> {
        let (bytes, rest) = self.rest.split_first_chunk::<4>().ok_or_else(|| invalid("an lz4 frame is cut short"))?;
        self.rest = rest;
        Ok(u32::from_le_bytes(*bytes))
    }

    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.block.start == self.block.end {
            if self.finished {
                return Ok(0);
            }
            self.next_block()?;
        }
        Ok(self.block.read(out))
    }

    fn next_block(&mut self) -> io::Result<()> {
        let length = self.take_u32()?;
        let is_stored = length & LZ4_STORED_BIT != 0;
        let length = (length & !LZ4_STORED_BIT) as usize;
        if length == 0 {
            if self.has_content_checksum {
                self.take_u32()?;
            }
            self.finished = true;
            return Ok(());
        }
        if length > self.block_bytes_max {
            return Err(invalid("an lz4 block is longer than its frame allows"));
        }
        let (compressed, rest) =
            self.rest.split_at_checked(length).ok_or_else(|| invalid("an lz4 frame is cut short"))?;
        self.rest = rest;
        if self.has_block_checksums && self.take_u32()? != XxHash32::oneshot(0, compressed) {
            return Err(invalid("an lz4 block does not have its checksum"));
        }
        let len = if is_stored {
            self.block.room(length).copy_from_slice(compressed);
            length
        } else {
            // A byte of lz4 makes at most 255: small blocks need no room for large ones.
            let room = self.block.room(self.block_bytes_max.min(length.saturating_mul(255)));
            lz4_flex::block::decompress_into(compressed, room).map_err(invalid)?
        };
        self.block.filled(len);
        Ok(())
    }
}

/// A context that grew beyond this is dropped after use instead of kept for the next batch of the thread.
const ZSTD_KEPT_CONTEXT_BYTES_MAX: usize = 4 << 20;

thread_local! {
    /// Making a context costs more than decompressing a small batch.
    static ZSTD_CONTEXT: Cell<Option<zstd_safe::DCtx<'static>>> = const { Cell::new(None) };
}

/// Zstd frames, one after another. One that begins behind another and is cut short ends the stream, as in Kafka's library.
/// Source: zstd-jni 1.5.6 ZstdInputStreamNoFinalizer.java (readInternal).
pub(crate) struct ZstdReader<'a> {
    context: Option<zstd_safe::DCtx<'static>>,
    rest: &'a [u8],
    /// The last call ended at the end of a frame.
    between_frames: bool,
    has_ended_a_frame: bool,
}

impl<'a> ZstdReader<'a> {
    fn new(compressed: &'a [u8]) -> ZstdReader<'a> {
        let context = ZSTD_CONTEXT.take().unwrap_or_else(zstd_safe::DCtx::create);
        ZstdReader { context: Some(context), rest: compressed, between_frames: true, has_ended_a_frame: false }
    }

    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let context = self.context.as_mut().expect("the context is there until drop");
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            if self.rest.is_empty() && self.between_frames {
                return Ok(0);
            }
            let had = self.rest.len();
            let mut input = zstd_safe::InBuffer::around(self.rest);
            let mut output = zstd_safe::OutBuffer::around(out);
            let left_of_frame = context
                .decompress_stream(&mut output, &mut input)
                .map_err(|code| invalid(zstd_safe::get_error_name(code)))?;
            let (consumed, produced) = (input.pos, output.pos());
            self.rest = &self.rest[consumed..];
            self.between_frames = left_of_frame == 0;
            self.has_ended_a_frame |= self.between_frames;
            if produced > 0 {
                return Ok(produced);
            }
            if self.rest.len() == had && !self.between_frames {
                return if self.has_ended_a_frame { Ok(0) } else { Err(invalid("a zstd frame is cut short")) };
            }
        }
    }
}

impl Drop for ZstdReader<'_> {
    fn drop(&mut self) {
        if let Some(mut context) = self.context.take()
            && context.sizeof() <= ZSTD_KEPT_CONTEXT_BYTES_MAX
            && context.reset(zstd_safe::ResetDirective::SessionOnly).is_ok()
        {
            ZSTD_CONTEXT.set(Some(context));
        }
    }
}

/// Gzip and zstd take their input in pieces of this size: a call for each record would cost more than its compression.
const STREAM_INPUT_BYTES: usize = 16 * 1024;

/// Compresses into a buffer that may start with bytes of its own.
pub(crate) enum Compressor {
    Plain(Vec<u8>),
    Gzip { encoder: GzEncoder<Vec<u8>>, pending: Vec<u8> },
    Snappy(Box<SnappyWriter>),
    Lz4(Lz4Writer),
    Zstd { encoder: zstd::stream::write::Encoder<'static, Vec<u8>>, pending: Vec<u8> },
}

impl Compressor {
    /// Appends to `out`. Levels mean what they mean to Kafka, except that lz4 has only its fastest. `magic` is that of
    /// the batch to be made: readers of v0 expect an lz4 header checksum that is wrong.
    pub(crate) fn new(codec: Codec, level: Option<i32>, magic: u8, out: Vec<u8>) -> Compressor {
        match codec {
            Codec::None => Compressor::Plain(out),
            Codec::Gzip => {
                let level = level.and_then(|level| u32::try_from(level).ok()).filter(|level| *level <= 9).unwrap_or(6);
                Compressor::Gzip { encoder: GzEncoder::new(out, flate2::Compression::new(level)), pending: Vec::new() }
            }
            Codec::Snappy => Compressor::Snappy(Box::new(SnappyWriter::new(out))),
            Codec::Lz4 => Compressor::Lz4(Lz4Writer::new(out, magic)),
            Codec::Zstd => {
                let level = level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL);
                let encoder = zstd::stream::write::Encoder::new(out, level);
                let encoder = encoder.expect("zstd takes any level and fails only without memory");
                Compressor::Zstd { encoder, pending: Vec::new() }
            }
        }
    }

    /// What has been compressed so far; codecs keep some input back.
    pub(crate) fn compressed_so_far(&self) -> usize {
        match self {
            Compressor::Plain(out) => out.len(),
            Compressor::Gzip { encoder, .. } => encoder.get_ref().len(),
            Compressor::Snappy(writer) => writer.out.len(),
            Compressor::Lz4(writer) => writer.out.len(),
            Compressor::Zstd { encoder, .. } => encoder.get_ref().len(),
        }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        const TO_MEMORY: &str = "compressing to memory does not fail";
        match self {
            Compressor::Plain(out) => out.extend_from_slice(bytes),
            Compressor::Gzip { encoder, pending } => {
                in_blocks(pending, bytes, STREAM_INPUT_BYTES, |block| encoder.write_all(block).expect(TO_MEMORY));
            }
            Compressor::Snappy(writer) => writer.put(bytes),
            Compressor::Lz4(writer) => writer.put(bytes),
            Compressor::Zstd { encoder, pending } => {
                in_blocks(pending, bytes, STREAM_INPUT_BYTES, |block| encoder.write_all(block).expect(TO_MEMORY));
            }
        }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        const TO_MEMORY: &str = "compressing to memory does not fail";
        match self {
            Compressor::Plain(out) => out,
            Compressor::Gzip { mut encoder, pending } => {
                encoder.write_all(&pending).expect(TO_MEMORY);
                encoder.finish().expect(TO_MEMORY)
            }
            Compressor::Snappy(writer) => writer.finish(),
            Compressor::Lz4(writer) => writer.finish(),
            Compressor::Zstd { mut encoder, pending } => {
                encoder.write_all(&pending).expect(TO_MEMORY);
                encoder.finish().expect(TO_MEMORY)
            }
        }
    }
}

/// Hands `bytes` to `full` in blocks of `block_bytes`; what does not fill one waits in `pending`.
fn in_blocks(pending: &mut Vec<u8>, mut bytes: &[u8], block_bytes: usize, mut full: impl FnMut(&[u8])) {
    while pending.len() + bytes.len() >= block_bytes {
        let (now, later) = bytes.split_at(block_bytes - pending.len());
        if pending.is_empty() {
            full(now);
        } else {
            pending.extend_from_slice(now);
            full(pending);
            pending.clear();
        }
        bytes = later;
    }
    pending.extend_from_slice(bytes);
}

pub(crate) struct SnappyWriter {
    out: Vec<u8>,
    pending: Vec<u8>,
    encoder: snap::raw::Encoder,
}

impl SnappyWriter {
    fn new(mut out: Vec<u8>) -> SnappyWriter {
        out.extend_from_slice(&SNAPPY_HEADER);
        SnappyWriter { out, pending: Vec::new(), encoder: snap::raw::Encoder::new() }
    }

    fn put(&mut self, bytes: &[u8]) {
        let SnappyWriter { out, pending, encoder } = self;
        in_blocks(pending, bytes, SNAPPY_BLOCK_BYTES, |block| SnappyWriter::put_block(out, encoder, block));
    }

    fn put_block(out: &mut Vec<u8>, encoder: &mut snap::raw::Encoder, block: &[u8]) {
        let length_at = out.len();
        out.resize(length_at + 4 + snap::raw::max_compress_len(block.len()), 0);
        let len = encoder.compress(block, &mut out[length_at + 4..]).expect("there is room for the worst case");
        out.truncate(length_at + 4 + len);
        out[length_at..length_at + 4].copy_from_slice(&(len as i32).to_be_bytes());
    }

    fn finish(mut self) -> Vec<u8> {
        if !self.pending.is_empty() {
            SnappyWriter::put_block(&mut self.out, &mut self.encoder, &self.pending);
        }
        self.out
    }
}

pub(crate) struct Lz4Writer {
    out: Vec<u8>,
    pending: Vec<u8>,
}

impl Lz4Writer {
    fn new(mut out: Vec<u8>, magic: u8) -> Lz4Writer {
        let descriptor = [LZ4_VERSION_BITS | LZ4_INDEPENDENT_BLOCKS_BIT, 4 << 4];
        out.extend_from_slice(&LZ4_MAGIC);
        out.extend_from_slice(&descriptor);
        let checksum = if magic == 0 {
            lz4_header_checksum(&[&LZ4_MAGIC[..], &descriptor].concat())
        } else {
            lz4_header_checksum(&descriptor)
        };
        out.push(checksum);
        Lz4Writer { out, pending: Vec::new() }
    }

    fn put(&mut self, bytes: &[u8]) {
        let Lz4Writer { out, pending } = self;
        in_blocks(pending, bytes, LZ4_BLOCK_BYTES, |block| Lz4Writer::put_block(out, block));
    }

    fn put_block(out: &mut Vec<u8>, block: &[u8]) {
        let length_at = out.len();
        out.resize(length_at + 4 + lz4_flex::block::get_maximum_output_size(block.len()), 0);
        let compressed = lz4_flex::block::compress_into(block, &mut out[length_at + 4..]);
        let len = compressed.expect("there is room for the worst case");
        let length = if len < block.len() {
            out.truncate(length_at + 4 + len);
            len as u32
        } else {
            out.truncate(length_at + 4);
            out.extend_from_slice(block);
            block.len() as u32 | LZ4_STORED_BIT
        };
        out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn finish(mut self) -> Vec<u8> {
        if !self.pending.is_empty() {
            Lz4Writer::put_block(&mut self.out, &self.pending);
        }
        self.out.extend_from_slice(&[0; 4]);
        self.out
    }
}

#[cfg(test)]
#[path = "compression_tests.rs"]
mod tests;
