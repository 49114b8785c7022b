//! Arrays of answers that may be many times as long in memory as on the wire.

use std::ops::Deref;

use crate::codec::reader::{DecodeError, Reader};
use crate::codec::writer::{Chunk, Writer};
use crate::protocol::message::{EncodeError, Encoding, Wire, write_length};

/// The elements of an array. Whoever answers writes each as soon as it is made, which takes a fraction of the memory of
/// all of them; whoever reads the answer has them as they are.
#[derive(Clone, Debug)]
pub enum Elements<T> {
    Plain(Vec<T>),
    Written(Written),
}

/// Elements as they will be sent.
#[derive(Clone, Debug)]
pub struct Written {
    count: usize,
    pieces: Vec<Chunk>,
    /// The codes of those that say of something that it failed.
    errors: Vec<i16>,
}

/// Elements are gathered in pieces of about this length.
const PIECE_BYTES: usize = 64 * 1024;

/// Writes elements one after another.
#[derive(Debug)]
pub struct ElementsWriter {
    encoding: Encoding,
    written: Written,
    /// The piece that grows.
    last: Writer,
}

impl ElementsWriter {
    pub fn new(encoding: Encoding) -> ElementsWriter {
        let written = Written { count: 0, pieces: Vec::new(), errors: Vec::new() };
        ElementsWriter { encoding, written, last: Writer::new() }
    }

    /// Adds an element, and tells how many bytes it takes. After an error nothing of it is added.
    pub fn push(&mut self, element: &impl Wire) -> Result<usize, EncodeError> {
        let mut writer = Writer::new();
        element.write(&mut writer, self.encoding)?;
        let bytes = writer.len();
        for chunk in writer.into_chunks() {
            match chunk {
                Chunk::Bytes(bytes) => self.last.slice(&bytes),
                file => self.last.chunk(file),
            }
        }
        if self.last.len() >= PIECE_BYTES {
            let full = std::mem::replace(&mut self.last, Writer::with_capacity(PIECE_BYTES));
            self.written.pieces.extend(full.into_chunks());
        }
        self.written.count += 1;
        element.errors(&mut |code| self.written.errors.push(code));
        Ok(bytes)
    }

    pub fn finish<T>(mut self) -> Elements<T> {
        self.written.pieces.extend(self.last.into_chunks());
        Elements::Written(self.written)
    }
}

impl<T> Elements<T> {
    /// Those that were read. None of what is written to be sent.
    pub fn into_vec(self) -> Vec<T> {
        match self {
            Elements::Plain(elements) => elements,
            Elements::Written(_) => Vec::new(),
        }
    }
}

impl<T> From<Vec<T>> for Elements<T> {
    fn from(elements: Vec<T>) -> Elements<T> {
        Elements::Plain(elements)
    }
}

/// Those that were read. None of what is written to be sent.
impl<T> Deref for Elements<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Elements::Plain(elements) => elements,
            Elements::Written(_) => &[],
        }
    }
}

/// What is written to be sent equals nothing.
impl<T: PartialEq> PartialEq for Elements<T> {
    fn eq(&self, other: &Elements<T>) -> bool {
        matches!((self, other), (Elements::Plain(a), Elements::Plain(b)) if a == b)
    }
}

impl<T: Wire> Wire for Elements<T> {
    fn initial() -> Elements<T> {
        Elements::Plain(Vec::new())
    }

    fn read_into(&mut self, reader: &mut Reader, encoding: Encoding) -> Result<(), DecodeError> {
        let mut elements = Vec::new();
        let outcome = elements.read_into(reader, encoding);
        *self = Elements::Plain(elements);
        outcome
    }

    fn write(&self, writer: &mut Writer, encoding: Encoding) -> Result<(), EncodeError> {
        match self {
            Elements::Plain(elements) => elements.write(writer, encoding),
            Elements::Written(written) => {
                write_length(writer, Some(written.count), encoding)?;
                written.pieces.iter().for_each(|piece| writer.chunk(piece.clone()));
                Ok(())
            }
        }
    }

    fn held(&self) -> usize {
        match self {
            Elements::Plain(elements) => elements.held(),
            Elements::Written(written) => written.pieces.iter().map(Chunk::len).sum(),
        }
    }

    fn errors(&self, found: &mut dyn FnMut(i16)) {
        match self {
            Elements::Plain(elements) => elements.errors(found),
            Elements::Written(written) => written.errors.iter().for_each(|&code| found(code)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::message::Message;
    use crate::protocol::messages::describe_configs::{DescribeConfigsResponse, DescribeConfigsResult};

    fn bytes_of(response: &DescribeConfigsResponse, version: i16) -> bytes::Bytes {
        let mut writer = Writer::new();
        response.encode(&mut writer, version).expect("it has a place for each field");
        writer.into_bytes().expect("no file")
    }

    #[test]
    fn elements_written_one_by_one_are_those_written_at_once() {
        let result = |number: usize| DescribeConfigsResult {
            error_code: (number % 3) as i16,
            resource_name: "n".repeat(number % 1_000),
            ..Default::default()
        };
        for count in [0, 1, 1_000] {
            let results: Vec<DescribeConfigsResult> = (0..count).map(result).collect();
            for version in DescribeConfigsResponse::VERSIONS {
                let mut writer = ElementsWriter::new(DescribeConfigsResponse::encoding(version));
                let bytes: usize = results.iter().map(|result| writer.push(result).expect("it is short")).sum();
                let written = DescribeConfigsResponse { results: writer.finish(), ..Default::default() };
                let plain = DescribeConfigsResponse { results: results.clone().into(), ..Default::default() };
                assert_eq!(bytes_of(&written, version), bytes_of(&plain, version), "{count} in version {version}");
                assert_eq!(written.results.held(), bytes);
                let errors = |response: &DescribeConfigsResponse| {
                    let mut errors = Vec::new();
                    response.errors(&mut |code| errors.push(code));
                    errors
                };
                assert_eq!(errors(&written), errors(&plain));
            }
        }
    }

    #[test]
    fn an_element_that_cannot_be_written_leaves_nothing_behind() {
        let mut writer = ElementsWriter::new(DescribeConfigsResponse::encoding(4));
        let too_long = DescribeConfigsResult { resource_name: "n".repeat(40_000), ..Default::default() };
        assert!(writer.push(&too_long).is_err());
        writer.push(&DescribeConfigsResult::default()).expect("it is short");
        let written = DescribeConfigsResponse { results: writer.finish(), ..Default::default() };
        let plain =
            DescribeConfigsResponse { results: vec![DescribeConfigsResult::default()].into(), ..Default::default() };
        assert_eq!(bytes_of(&written, 4), bytes_of(&plain, 4));
    }
}
