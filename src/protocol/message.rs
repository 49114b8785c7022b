//! One declaration per message gives the struct, its defaults, its reader and its writer for all versions.
//! The encoding rules are those of Kafka's message schemas:
//! source: kafka 3.9.1 clients/src/main/resources/common/message/README.md (KIP-482 for flexible versions).

use std::fmt;
use std::ops::RangeInclusive;

use bytes::Bytes;

use crate::codec::reader::{DecodeError, Reader};
use crate::codec::writer::{Chunk, FileRegion, Writer};
use crate::model::TopicId;

/// Why a message cannot be written in a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// The field carries a value that the version has no place for.
    FieldUnsupported { message: &'static str, field: &'static str, version: i16 },
    /// The value is longer than its length prefix can say.
    TooLong { bytes: usize },
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncodeError::FieldUnsupported { message, field, version } => {
                write!(f, "{message} version {version} has no place for {field}")
            }
            EncodeError::TooLong { bytes } => write!(f, "a value of {bytes} bytes does not fit its length prefix"),
        }
    }
}

impl std::error::Error for EncodeError {}

/// The version being read or written, and whether it uses the compact encodings.
#[derive(Clone, Copy, Debug)]
pub struct Encoding {
    pub version: i16,
    pub flexible: bool,
}

/// A value with a place in a message.
pub trait Wire: Sized + PartialEq {
    /// The default of a field whose declaration names none.
    fn initial() -> Self;
    /// After an error `self` holds what was read before it.
    fn read_into(&mut self, reader: &mut Reader, encoding: Encoding) -> Result<(), DecodeError>;
    fn read(reader: &mut Reader, encoding: Encoding) -> Result<Self, DecodeError> {
        let mut value = Self::initial();
        value.read_into(reader, encoding)?;
        Ok(value)
    }
    fn write(&self, writer: &mut Writer, encoding: Encoding) -> Result<(), EncodeError>;
    /// Bytes that the value holds elsewhere: what it allocated, and what it will be sent with.
    fn held(&self) -> usize {
        0
    }
    /// Calls `found` with each error code in a response that says of something that it failed.
    fn errors(&self, _found: &mut dyn FnMut(i16)) {}
    /// All bytes of the value.
    fn memory(&self) -> usize {
        size_of::<Self>() + self.held()
    }
}

/// What an allocation takes, with what the allocator adds.
fn allocated(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { bytes + 16 }
}

/// A whole request, response or stored record with its API key and versions.
pub trait Message: Wire + Default + fmt::Debug {
    const NAME: &'static str;
    /// -1 for messages that are no request or response.
    const KEY: i16;
    const VERSIONS: RangeInclusive<i16>;
    /// First flexible version; `i16::MAX` if there is none.
    const FLEXIBLE_FROM: i16;
    const SCHEMA: &'static MessageSchema;

    fn encoding(version: i16) -> Encoding {
        Encoding { version, flexible: version >= Self::FLEXIBLE_FROM }
    }

    /// Reads the body in a version that the caller has checked to be among `VERSIONS`.
    fn decode(reader: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        Self::read(reader, Self::encoding(version))
    }

    /// The same, with what was read before an error.
    fn decode_partly(reader: &mut Reader, version: i16) -> (Self, Result<(), DecodeError>) {
        let mut message = Self::default();
        let outcome = message.read_into(reader, Self::encoding(version));
        (message, outcome)
    }

    fn encode(&self, writer: &mut Writer, version: i16) -> Result<(), EncodeError> {
        self.write(writer, Self::encoding(version))
    }
}

/// A request, paired with the message that answers it.
pub trait Request: Message {
    type Response: Message;
}

/// What a declaration said, for the test that compares it with Kafka's schema.
#[derive(Debug)]
pub struct MessageSchema {
    pub name: &'static str,
    pub key: i16,
    pub versions: RangeInclusive<i16>,
    pub flexible_from: i16,
    /// The message itself first, then the structs inside it.
    pub structs: &'static [StructSchema],
}

#[derive(Debug)]
pub struct StructSchema {
    pub name: &'static str,
    pub fields: &'static [FieldSchema],
}

#[derive(Debug)]
pub struct FieldSchema {
    pub name: &'static str,
    pub rust_type: &'static str,
    pub versions: RangeInclusive<i16>,
    pub nullable_from: Option<i16>,
    pub default: &'static str,
    pub ignorable: bool,
    pub tag: Option<u32>,
}

/// Record batches in a message: bytes in memory, or a region of a segment to be sent as it is.
#[derive(Clone, Debug)]
pub enum Payload {
    Bytes(Bytes),
    File(FileRegion),
    Chunks(Vec<Chunk>),
}

impl Payload {
    pub fn len(&self) -> usize {
        match self {
            Payload::Bytes(bytes) => bytes.len(),
            Payload::File(region) => region.len as usize,
            Payload::Chunks(chunks) => chunks.iter().map(Chunk::len).sum(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for Payload {
    fn default() -> Payload {
        Payload::Bytes(Bytes::new())
    }
}

/// Only bytes in memory compare; a file region is never a default.
impl PartialEq for Payload {
    fn eq(&self, other: &Payload) -> bool {
        matches!((self, other), (Payload::Bytes(a), Payload::Bytes(b)) if a == b)
    }
}

macro_rules! fixed {
    ($($type:ident)*) => {$(
        impl Wire for $type {
            fn initial() -> $type {
                0 as $type
            }
            fn read_into(&mut self, reader: &mut Reader, _: Encoding) -> Result<(), DecodeError> {
                *self = reader.$type()?;
                Ok(())
            }
            fn write(&self, writer: &mut Writer, _: Encoding) -> Result<(), EncodeError> {
                writer.$type(*self);
                Ok(())
            }
        }
    )*};
}

fixed!(i8 i16 u16 i32 i64 f64);

impl Wire for bool {
    fn initial() -> bool {
        false
    }
    fn read_into(&mut self, reader: &mut Reader, _: Encoding) -> Result<(), DecodeError> {
        *self = reader.i8()? != 0;
        Ok(())
    }
    fn write(&self, writer: &mut Writer, _: Encoding) -> Result<(), EncodeError> {
        writer.i8(i8::from(*self));
        Ok(())
    }
}

impl Wire for TopicId {
    fn initial() -> TopicId {
        TopicId::ZERO
    }
    fn read_into(&mut self, reader: &mut Reader, _: Encoding) -> Result<(), DecodeError> {
        self.0.copy_from_slice(&reader.take(16)?);
        Ok(())
    }
    fn write(&self, writer: &mut Writer, _: Encoding) -> Result<(), EncodeError> {
        writer.slice(&self.0);
        Ok(())
    }
}

const NULL: DecodeError = DecodeError::InvalidLength(-1);

/// Compact strings are no longer than others, whatever their length prefix could say.
/// Source: kafka 3.9.0 generator/src/main/java/org/apache/kafka/message/MessageDataGenerator.java.
const STRING_BYTES_MAX: usize = i16::MAX as usize;

/// So many elements are read of an array that is over the budget: enough to tell the sender what was refused.
const ELEMENTS_REFUSED: usize = 8;

fn write_compact_length(writer: &mut Writer, length: Option<usize>) -> Result<(), EncodeError> {
    let value = match length {
        None => 0,
        Some(bytes) => {
            u32::try_from(bytes).ok().and_then(|n| n.checked_add(1)).ok_or(EncodeError::TooLong { bytes })?
        }
    };
    writer.uvarint(value);
    Ok(())
}

fn write_length_i32(writer: &mut Writer, length: Option<usize>) -> Result<(), EncodeError> {
    let value = match length {
        None => -1,
        Some(bytes) => i32::try_from(bytes).map_err(|_| EncodeError::TooLong { bytes })?,
    };
    writer.i32(value);
    Ok(())
}

fn write_text(text: Option<&str>, writer: &mut Writer, encoding: Encoding) -> Result<(), EncodeError> {
    let length = text.map(str::len);
    let short = match length {
        None => -1,
        Some(bytes) => i16::try_from(bytes).map_err(|_| EncodeError::TooLong { bytes })?,
    };
    if encoding.flexible {
        write_compact_length(writer, length)?;
    } else {
        writer.i16(short);
    }
    writer.slice(text.unwrap_or_default().as_bytes());
    Ok(())
}

impl Wire for Option<String> {
    fn initial() -> Option<String> {
        Some(String::new())
    }
    fn read_into(&mut self, reader: &mut Reader, encoding: Encoding) -> Result<(), DecodeError> {
        let length = if encoding.flexible { reader.length_compact()? } else { reader.length_i16()? };
        let check = |bytes: usize| match bytes {
            ..=STRING_BYTES_MAX => Ok(()),
            _ => Err(DecodeError::InvalidLength(bytes as i64)),
        };
        let Some(length) = length else {
            *self = None;
            return Ok(());
        };
        check(length)?;
        let text = reader.text(length)?;
        // What was not UTF-8 has grown, and there must be a place for it in what is answered or stored.
        check(text.len())?;
        *self = Some(text);
        Ok(())
    }
    fn write(&self, writer: &mut Writer, encoding: Encoding) -> Result<(), EncodeError> {
        write_text(self.as_deref(), writer, encoding)
    }
    fn held(&self) -> usize {
        allocated(self.as_ref().map_or(0, String::len))
    }
}

impl Wire for String {
    fn initial() -> String {
        String::new()
    }
    fn read_into(&mut self, reader: &mut Reader, encoding: Encoding) -> Result<(), DecodeError> {
        *self = Option::<String>::read(reader, encoding)?.ok_or(NULL)?;
        Ok(())
    }
    fn write(&self, writer: &mut Writer, encoding: Encoding) -> Result<(), EncodeError> {
        write_text(Some(self), writer, encoding)
    }
    fn held(&self) -> usize {
        allocated(self.len())
    }
}

fn read_length(reader: &mut Reader, encoding: Encoding) -> Result<Option<usize>, DecodeError> {
    if encoding.flexible { reader.length_compact() } else { reader.length_i32() }
}

pub fn write_length(writer: &mut Writer, length: Option<usize>, encoding: Encoding) -> Result<(), EncodeError> {
    if encoding.flexible { write_compact_length(writer, length) } else { write_length_i32(writer, length) }
}

impl Wire for Option<Bytes> {
    fn initial() -> Option<Bytes> {
        Some(Bytes::new())
    }
    fn read_into(&mut self, reader: &mut Reader, encoding: Encoding) -> Result<(), DecodeError> {
        *self = read_length(reader, encoding)?.map(|length| reader.take(length)).transpose()?;
        Ok(())
    }
    fn write(&self, writer: &mut Writer, encoding: Encoding) -> Result<(), EncodeError> {
        write_length(writer, self.as_ref().map(Bytes::len), encoding)?;
        if let Some(bytes) = self {
            writer.bytes(bytes);
        }
        Ok(())
    }
    fn held(&self) -> usize {
        self.as_ref().map_or(0, Bytes::len)
    }
}

impl Wire for Bytes {
    fn initial() -> Bytes {
        Bytes::new()
    }
    fn read_into(&mut self, reader: &mut Reader, encoding: Encoding) -> Result<(), DecodeError> {
        *self = Option::<Bytes>::read(reader, encoding)?.ok_or(NULL)?;
        Ok(())
    }
    fn write(&self, writer: &mut Writer, encoding: Encoding) -> Result<(), EncodeError> {
        write_length(writer, Some(self.len()), encoding)?;
        writer.bytes(self);
        Ok(())
    }
    fn held(&self) -> usize {
        self.len()
    }
}

impl Wire for Option<Payload> {
    fn initial() -> Option<Payload> {
        Some(Payload::default())
    }
    fn read_into(&mut self, reader: &mut Reader, encoding: Encoding) -> Result<(), DecodeError> {
        *self = Option::<Bytes>::read(reader, encoding)?.map(Payload::Bytes);
        Ok(())
    }
    fn write(&self, writer: &mut Writer, encoding: Encoding) -> Result<(), EncodeError> {
        write_length(writer, self.as_ref().map(Payload::len), encoding)?;
        match self {
            None => {}
            Some(Payload::Bytes(bytes)) => writer.bytes(bytes),
            Some(Payload::File(region)) => writer.chunk(Chunk::File(region.clone())),
            Some(Payload::Chunks(chunks)) => chunks.iter().for_each(|chunk| writer.chunk(chunk.clone())),
        }
        Ok(())
    }
    /// A region of a file is in nobody's memory.
    fn held(&self) -> usize {
        match self {
            None | Some(Payload::File(_)) => 0,
            Some(in_memory) => in_memory.len(),
        }
    }
}

/// An element may be far larger in memory than on the wire, so the whole array is charged before it is allocated.
fn read_elements<T: Wire>(
    elements: &mut Vec<T>,
    count: usize,
    reader: &mut Reader,
    encoding: Encoding,
) -> Result<(), DecodeError> {
    if count == 0 {
        return Ok(());
    }
    let charged = reader.charge(count, size_of::<T>());
    let count = if charged.is_ok() { count } else { count.min(ELEMENTS_REFUSED) };
    *elements = Vec::with_capacity(count);
    for _ in 0..count {
        elements.push(T::initial());
        if let Some(element) = elements.last_mut() {
            element.read_into(reader, encoding)?;
        }
    }
    charged
}

impl<T: Wire> Wire for Option<Vec<T>> {
    fn initial() -> Option<Vec<T>> {
        Some(Vec::new())
    }
    fn read_into(&mut self, reader: &mut Reader, encoding: Encoding) -> Result<(), DecodeError> {
        match read_length(reader, encoding)? {
            None => *self = None,
            Some(count) => read_elements(self.insert(Vec::new()), count, reader, encoding)?,
        }
        Ok(())
    }
    fn write(&self, writer: &mut Writer, encoding: Encoding) -> Result<(), EncodeError> {
        write_length(writer, self.as_ref().map(Vec::len), encoding)?;
        self.iter().flatten().try_for_each(|element| element.write(writer, encoding))
    }
    fn held(&self) -> usize {
        self.as_ref().map_or(0, Wire::held)
    }
    fn errors(&self, found: &mut dyn FnMut(i16)) {
        self.iter().flatten().for_each(|element| element.errors(found));
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn initial() -> Vec<T> {
        Vec::new()
    }
    fn read_into(&mut self, reader: &mut Reader, encoding: Encoding) -> Result<(), DecodeError> {
        let count = read_length(reader, encoding)?.ok_or(NULL)?;
        read_elements(self, count, reader, encoding)
    }
    fn write(&self, writer: &mut Writer, encoding: Encoding) -> Result<(), EncodeError> {
        write_length(writer, Some(self.len()), encoding)?;
        self.iter().try_for_each(|element| element.write(writer, encoding))
    }
    fn held(&self) -> usize {
        allocated(self.len() * size_of::<T>()) + self.iter().map(T::held).sum::<usize>()
    }
    fn errors(&self, found: &mut dyn FnMut(i16)) {
        self.iter().for_each(|element| element.errors(found));
    }
}

/// Reads the tagged section: each field that `known` takes is read from its own bytes, the others are skipped. Their
/// order is nobody's concern, as it is none of Kafka's readers'.
pub fn read_tagged(
    reader: &mut Reader,
    mut known: impl FnMut(u32, &mut Reader) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let count = reader.uvarint()?;
    for _ in 0..count {
        let tag = reader.uvarint()?;
        let size = reader.uvarint()? as usize;
        reader.within(size, |field| known(tag, field))?;
    }
    Ok(())
}

/// Writes one tagged field: tag, size, value.
pub fn write_tagged<T: Wire>(value: &T, tag: u32, writer: &mut Writer, encoding: Encoding) -> Result<(), EncodeError> {
    let mut field = Writer::new();
    value.write(&mut field, encoding)?;
    let bytes = field.len();
    writer.uvarint(tag);
    writer.uvarint(u32::try_from(bytes).map_err(|_| EncodeError::TooLong { bytes })?);
    writer.append(field);
    Ok(())
}

/// Reads one attribute out of a field's `[versions, nullable n.., default x, ignorable, tag n]`.
macro_rules! field_attribute {
    (versions; $low:literal .. $($rest:tt)*) => { $low..=i16::MAX };
    (versions; $low:literal ..= $high:literal $($rest:tt)*) => { $low..=$high };

    (default $type:ty;) => { <$type as $crate::protocol::message::Wire>::initial() };
    (default $type:ty; default null $($rest:tt)*) => { None };
    (default $type:ty; default $value:literal $($rest:tt)*) => { $value };
    (default $type:ty; $skipped:tt $($rest:tt)*) => {
        $crate::protocol::message::field_attribute!(default $type; $($rest)*)
    };

    (default_text;) => { "" };
    (default_text; default null $($rest:tt)*) => { "null" };
    (default_text; default $value:literal $($rest:tt)*) => { stringify!($value) };
    (default_text; $skipped:tt $($rest:tt)*) => {
        $crate::protocol::message::field_attribute!(default_text; $($rest)*)
    };

    (nullable;) => { None };
    (nullable; nullable $low:literal .. $($rest:tt)*) => { Some($low) };
    (nullable; $skipped:tt $($rest:tt)*) => { $crate::protocol::message::field_attribute!(nullable; $($rest)*) };

    (ignorable;) => { false };
    (ignorable; ignorable $($rest:tt)*) => { true };
    (ignorable; $skipped:tt $($rest:tt)*) => { $crate::protocol::message::field_attribute!(ignorable; $($rest)*) };

    (tag;) => { None };
    (tag; tag $tag:literal $($rest:tt)*) => { Some($tag) };
    (tag; $skipped:tt $($rest:tt)*) => { $crate::protocol::message::field_attribute!(tag; $($rest)*) };
}
pub(crate) use field_attribute;

/// Kafka's schemas call every code of an error the same.
macro_rules! field_errors {
    (error_code, $value:expr, $found:ident) => {
        if *$value != 0 {
            $found(*$value);
        }
    };
    (partition_error_code, $value:expr, $found:ident) => {
        $crate::protocol::message::field_errors!(error_code, $value, $found)
    };
    ($field:ident, $value:expr, $found:ident) => {
        $crate::protocol::message::Wire::errors($value, $found)
    };
}
pub(crate) use field_errors;

/// Declares one struct with its reader and writer. Used by `message!`.
macro_rules! wire_struct {
    (
        $(#[$doc:meta])*
        $name:ident { $( $(#[$field_doc:meta])* $field:ident: $type:ty [$($attribute:tt)*], )* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $( $(#[$field_doc])* pub $field: $type, )*
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $( $field: $crate::protocol::message::field_attribute!(default $type; $($attribute)*), )* }
            }
        }

        impl $name {
            const FIELDS: &'static [$crate::protocol::message::FieldSchema] = &[
                $( $crate::protocol::message::FieldSchema {
                    name: stringify!($field),
                    rust_type: stringify!($type),
                    versions: $crate::protocol::message::field_attribute!(versions; $($attribute)*),
                    nullable_from: $crate::protocol::message::field_attribute!(nullable; $($attribute)*),
                    default: $crate::protocol::message::field_attribute!(default_text; $($attribute)*),
                    ignorable: $crate::protocol::message::field_attribute!(ignorable; $($attribute)*),
                    tag: $crate::protocol::message::field_attribute!(tag; $($attribute)*),
                }, )*
            ];
        }

        impl $crate::protocol::message::Wire for $name {
            fn initial() -> $name {
                $name::default()
            }

            #[allow(unused_variables)]
            fn read_into(
                &mut self,
                reader: &mut $crate::codec::reader::Reader,
                encoding: $crate::protocol::message::Encoding,
            ) -> Result<(), $crate::codec::reader::DecodeError> {
                $({
                    const TAG: Option<u32> = $crate::protocol::message::field_attribute!(tag; $($attribute)*);
                    let versions: std::ops::RangeInclusive<i16> =
                        $crate::protocol::message::field_attribute!(versions; $($attribute)*);
                    if TAG.is_none() && versions.contains(&encoding.version) {
                        $crate::protocol::message::Wire::read_into(&mut self.$field, reader, encoding)?;
                    }
                })*
                if encoding.flexible {
                    $crate::protocol::message::read_tagged(reader, |tag, reader| {
                        $({
                            const TAG: Option<u32> = $crate::protocol::message::field_attribute!(tag; $($attribute)*);
                            let versions: std::ops::RangeInclusive<i16> =
                                $crate::protocol::message::field_attribute!(versions; $($attribute)*);
                            if TAG == Some(tag) && versions.contains(&encoding.version) {
                                self.$field = $crate::protocol::message::Wire::read(reader, encoding)?;
                                return Ok(());
                            }
                        })*
                        Ok(())
                    })?;
                }
                Ok(())
            }

            #[allow(unused_mut, unused_variables)]
            fn write(
                &self,
                writer: &mut $crate::codec::writer::Writer,
                encoding: $crate::protocol::message::Encoding,
            ) -> Result<(), $crate::protocol::message::EncodeError> {
                let mut tagged = 0u32;
                $({
                    const TAG: Option<u32> = $crate::protocol::message::field_attribute!(tag; $($attribute)*);
                    const IGNORABLE: bool = $crate::protocol::message::field_attribute!(ignorable; $($attribute)*);
                    let versions: std::ops::RangeInclusive<i16> =
                        $crate::protocol::message::field_attribute!(versions; $($attribute)*);
                    let has_place = versions.contains(&encoding.version);
                    if has_place && TAG.is_none() {
                        $crate::protocol::message::Wire::write(&self.$field, writer, encoding)?;
                    } else if has_place || !IGNORABLE {
                        let default: $type =
                            $crate::protocol::message::field_attribute!(default $type; $($attribute)*);
                        if self.$field != default {
                            if !has_place {
                                return Err($crate::protocol::message::EncodeError::FieldUnsupported {
                                    message: stringify!($name),
                                    field: stringify!($field),
                                    version: encoding.version,
                                });
                            }
                            tagged += 1;
                        }
                    }
                })*
                if encoding.flexible {
                    writer.uvarint(tagged);
                    $(
                        if let Some(tag) = { const TAG: Option<u32> =
                            $crate::protocol::message::field_attribute!(tag; $($attribute)*); TAG }
                        {
                            let versions: std::ops::RangeInclusive<i16> =
                                $crate::protocol::message::field_attribute!(versions; $($attribute)*);
                            let default: $type =
                                $crate::protocol::message::field_attribute!(default $type; $($attribute)*);
                            if versions.contains(&encoding.version) && self.$field != default {
                                $crate::protocol::message::write_tagged(&self.$field, tag, writer, encoding)?;
                            }
                        }
                    )*
                }
                Ok(())
            }

            fn held(&self) -> usize {
                0 $( + $crate::protocol::message::Wire::held(&self.$field) )*
            }

            #[allow(unused_variables)]
            fn errors(&self, found: &mut dyn FnMut(i16)) {
                $( $crate::protocol::message::field_errors!($field, &self.$field, found); )*
            }
        }

        /// A struct that may be absent: one byte, -1 or 1, before it.
        impl $crate::protocol::message::Wire for Option<$name> {
            fn initial() -> Option<$name> {
                None
            }
            fn read_into(
                &mut self,
                reader: &mut $crate::codec::reader::Reader,
                encoding: $crate::protocol::message::Encoding,
            ) -> Result<(), $crate::codec::reader::DecodeError> {
                if reader.i8()? < 0 {
                    *self = None;
                    return Ok(());
                }
                $crate::protocol::message::Wire::read_into(self.insert($name::default()), reader, encoding)
            }
            fn write(
                &self,
                writer: &mut $crate::codec::writer::Writer,
                encoding: $crate::protocol::message::Encoding,
            ) -> Result<(), $crate::protocol::message::EncodeError> {
                match self {
                    None => {
                        writer.i8(-1);
                        Ok(())
                    }
                    Some(value) => {
                        writer.i8(1);
                        $crate::protocol::message::Wire::write(value, writer, encoding)
                    }
                }
            }
            fn held(&self) -> usize {
                self.as_ref().map_or(0, $crate::protocol::message::Wire::held)
            }
            fn errors(&self, found: &mut dyn FnMut(i16)) {
                self.iter().for_each(|value| $crate::protocol::message::Wire::errors(value, found));
            }
        }
    };
}
pub(crate) use wire_struct;

/// Declares a message: its key, versions, first flexible version, fields, and the structs inside it.
///
/// A field is `name: Type [versions, nullable n.., default x, ignorable, tag n]`; what is not named is as in
/// Kafka's schemas: not nullable, default zero or empty, not ignorable, not tagged.
macro_rules! message {
    (
        $(#[$doc:meta])*
        $name:ident, key $key:literal, versions $low:literal ..= $high:literal, flexible $flexible:tt $(..)?
        { $($fields:tt)* }
        $( $(#[$inner_doc:meta])* struct $inner:ident { $($inner_fields:tt)* } )*
    ) => {
        $crate::protocol::message::wire_struct! { $(#[$doc])* $name { $($fields)* } }
        $( $crate::protocol::message::wire_struct! { $(#[$inner_doc])* $inner { $($inner_fields)* } } )*

        impl $crate::protocol::message::Message for $name {
            const NAME: &'static str = stringify!($name);
            const KEY: i16 = $key;
            const VERSIONS: std::ops::RangeInclusive<i16> = $low..=$high;
            const FLEXIBLE_FROM: i16 = $crate::protocol::message::flexible_from!($flexible);
            const SCHEMA: &'static $crate::protocol::message::MessageSchema =
                &$crate::protocol::message::MessageSchema {
                    name: stringify!($name),
                    key: $key,
                    versions: $low..=$high,
                    flexible_from: $crate::protocol::message::flexible_from!($flexible),
                    structs: &[
                        $crate::protocol::message::StructSchema { name: stringify!($name), fields: $name::FIELDS },
                        $( $crate::protocol::message::StructSchema {
                            name: stringify!($inner), fields: $inner::FIELDS,
                        }, )*
                    ],
                };
        }
    };
}
pub(crate) use message;

macro_rules! flexible_from {
    (none) => {
        i16::MAX
    };
    ($version:literal) => {
        $version
    };
}
pub(crate) use flexible_from;
