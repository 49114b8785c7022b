//! The formatters that the console consumer prints records with.

use std::borrow::Cow;
use std::io::{self, Write};

use crate::cli::api_message_formatter::Kind;
use crate::cli::{api_message_formatter, deprecated_formatters};
use crate::client::consumer::ConsumedRecord;
use crate::client::settings::ClientProperties;
use crate::record::batch::TimestampType;

/// The names of classes that Kafka's tool takes and warns of.
/// Source: kafka 3.9.1 tools/src/main/java/org/apache/kafka/tools/consumer/ConsoleConsumerOptions.java,
/// convertDeprecatedClass.
const DEPRECATED: [&str; 6] = [
    "kafka.tools.DefaultMessageFormatter",
    "kafka.tools.LoggingMessageFormatter",
    "kafka.tools.NoOpMessageFormatter",
    "kafka.coordinator.transaction.TransactionLog$TransactionLogMessageFormatter",
    "kafka.coordinator.group.GroupMetadataManager$OffsetsMessageFormatter",
    "kafka.coordinator.group.GroupMetadataManager$GroupMetadataMessageFormatter",
];

/// How a consumed record is printed, by the class name that Kafka's tool takes.
#[derive(Debug)]
pub(crate) enum MessageFormatter {
    Default(Columns),
    /// The columns, and the same as a log line.
    Logging(Columns),
    NoOp,
    /// The records of an internal topic as JSON.
    Json(Kind),
    /// The same as text.
    Text(Kind),
}

/// The columns of the default formatter.
/// Source: kafka 3.9.1 tools/src/main/java/org/apache/kafka/tools/consumer/DefaultMessageFormatter.java.
#[derive(Debug)]
pub(crate) struct Columns {
    prints_timestamp: bool,
    prints_partition: bool,
    prints_offset: bool,
    prints_headers: bool,
    prints_key: bool,
    prints_value: bool,
    key_separator: String,
    line_separator: String,
    headers_separator: String,
    null_literal: String,
    key: Deserializer,
    value: Deserializer,
    headers: Deserializer,
}

/// How bytes become text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deserializer {
    /// As they are: without a deserializer, or with one of byte arrays, of which Kafka prints which array in memory they are.
    None,
    Bytes,
    ByteBuffer,
    String(Charset),
    Short,
    Integer,
    Long,
    Float,
    Double,
    Boolean,
    Uuid(Charset),
    Void,
}

impl Deserializer {
    /// By the property of this name, and those that begin with it. Without a class that there is, bytes stay as they are.
    /// Source: kafka 3.9.0-rc3 tools/src/main/java/org/apache/kafka/tools/consumer/DefaultMessageFormatter.java,
    /// getDeserializerProperty; clients/.../common/serialization/StringDeserializer.java, configure.
    fn of_property(key: &str, properties: &ClientProperties) -> Result<Deserializer, String> {
        let Some(class) = properties.get(key) else { return Ok(Deserializer::None) };
        let charset = || {
            let own = if key == "key.deserializer" { key } else { "value.deserializer" };
            let encoding = [format!("{key}.{own}.encoding"), format!("{key}.deserializer.encoding")];
            let given = encoding.iter().find_map(|name| Some((name, properties.get(name)?)));
            given.map_or(Ok(Charset::Utf8), |(name, encoding)| {
                Charset::of_name(encoding).ok_or_else(|| format!("{name}: the encoding {encoding} is not supported"))
            })
        };
        Ok(match class.strip_prefix("org.apache.kafka.common.serialization.").unwrap_or_default() {
            "StringDeserializer" => Deserializer::String(charset()?),
            "ByteArrayDeserializer" => Deserializer::None,
            "BytesDeserializer" => Deserializer::Bytes,
            "ByteBufferDeserializer" => Deserializer::ByteBuffer,
            "ShortDeserializer" => Deserializer::Short,
            "IntegerDeserializer" => Deserializer::Integer,
            "LongDeserializer" => Deserializer::Long,
            "FloatDeserializer" => Deserializer::Float,
            "DoubleDeserializer" => Deserializer::Double,
            "BooleanDeserializer" => Deserializer::Boolean,
            "UUIDDeserializer" => Deserializer::Uuid(charset()?),
            "VoidDeserializer" => Deserializer::Void,
            "ListDeserializer" => return Err(format!("the deserializer {class} is not supported")),
            _ => {
                log::error!("Unable to instantiate a deserializer from {class}");
                Deserializer::None
            }
        })
    }

    fn write(self, bytes: &[u8], out: &mut dyn Write) -> io::Result<()> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("{} bytes are no {self:?}", bytes.len()));
        match self {
            Deserializer::None => out.write_all(bytes),
            Deserializer::Bytes => write_escaped(bytes, out),
            Deserializer::ByteBuffer => {
                write!(out, "java.nio.HeapByteBuffer[pos=0 lim={0} cap={0}]", bytes.len())
            }
            Deserializer::String(charset) => out.write_all(charset.decoded(bytes).as_bytes()),
            Deserializer::Short => write!(out, "{}", i16::from_be_bytes(bytes.try_into().map_err(|_| wrong())?)),
            Deserializer::Integer => write!(out, "{}", i32::from_be_bytes(bytes.try_into().map_err(|_| wrong())?)),
            Deserializer::Long => write!(out, "{}", i64::from_be_bytes(bytes.try_into().map_err(|_| wrong())?)),
            Deserializer::Float => write!(out, "{:?}", f32::from_be_bytes(bytes.try_into().map_err(|_| wrong())?)),
            Deserializer::Double => write!(out, "{:?}", f64::from_be_bytes(bytes.try_into().map_err(|_| wrong())?)),
            Deserializer::Boolean => match bytes {
                [flag @ (0 | 1)] => write!(out, "{}", *flag == 1),
                _ => Err(wrong()),
            },
            Deserializer::Uuid(charset) => write!(out, "{}", uuid(&charset.decoded(bytes)).ok_or_else(wrong)?),
            Deserializer::Void => Err(wrong()),
        }
    }
}

/// Source: kafka 3.9.0-rc3 clients/.../common/utils/Bytes.java, toString.
fn write_escaped(bytes: &[u8], out: &mut dyn Write) -> io::Result<()> {
    bytes.iter().try_for_each(|byte| match byte {
        b'\\' => out.write_all(b"\\x5C"),
        b' '..=b'~' => out.write_all(&[*byte]),
        _ => write!(out, "\\x{byte:02X}"),
    })
}

/// Those that every Java knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Charset {
    Utf8,
    Latin1,
    Ascii,
    /// With a mark of the order of its bytes, or the upper one first.
    Utf16,
    Utf16Be,
    Utf16Le,
}

impl Charset {
    fn of_name(name: &str) -> Option<Charset> {
        Some(match name.to_ascii_lowercase().as_str() {
            "utf-8" | "utf8" => Charset::Utf8,
            "iso-8859-1" | "iso8859_1" | "latin1" => Charset::Latin1,
            "us-ascii" | "ascii" => Charset::Ascii,
            "utf-16" | "utf_16" => Charset::Utf16,
            "utf-16be" => Charset::Utf16Be,
            "utf-16le" => Charset::Utf16Le,
            _ => return None,
        })
    }

    fn decoded(self, bytes: &[u8]) -> Cow<'_, str> {
        let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| -> String {
            let (whole, rest) = bytes.as_chunks();
            let read = char::decode_utf16(whole.iter().copied().map(unit)).map(|read| read.unwrap_or('\u{fffd}'));
            read.chain(rest.iter().map(|_| '\u{fffd}')).collect()
        };
        match self {
            Charset::Utf8 => String::from_utf8_lossy(bytes),
            Charset::Latin1 => bytes.iter().map(|byte| char::from(*byte)).collect(),
            Charset::Ascii => {
                bytes.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { '\u{fffd}' }).collect()
            }
            Charset::Utf16 => match bytes {
                [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes).into(),
                [0xfe, 0xff, rest @ ..] | rest => utf16(rest, u16::from_be_bytes).into(),
            },
            Charset::Utf16Be => utf16(bytes, u16::from_be_bytes).into(),
            Charset::Utf16Le => utf16(bytes, u16::from_le_bytes).into(),
        }
    }
}

/// A UUID that is written in at most 36 characters. As Java reads it, each of the five numbers may have fewer digits than
/// it is printed with, and loses those that it has too many.
fn uuid(text: &str) -> Option<String> {
    if text.len() > 36 {
        return None;
    }
    let numbers: Vec<i64> =
        text.split('-').map(|digits| i64::from_str_radix(digits, 16)).collect::<Result<_, _>>().ok()?;
    let [a, b, c, d, e] = numbers[..] else { return None };
    let low = |number: i64, digits: u32| number & ((1 << (4 * digits)) - 1);
    Some(format!("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", low(a, 8), low(b, 4), low(c, 4), low(d, 4), low(e, 12)))
}

impl MessageFormatter {
    pub(crate) fn new(class: &str, properties: &ClientProperties) -> Result<MessageFormatter, String> {
        if DEPRECATED.contains(&class) {
            let name = class.rsplit(['.', '$']).next().unwrap_or_default();
            complain!(
                "WARNING: {class} is deprecated and will be removed in the next major release. Please use \
                 org.apache.kafka.tools.consumer.{name} instead"
            );
        }
        match class {
            "org.apache.kafka.tools.consumer.DefaultMessageFormatter" | "kafka.tools.DefaultMessageFormatter" => {
                Ok(MessageFormatter::Default(Columns::new(properties)?))
            }
            "org.apache.kafka.tools.consumer.LoggingMessageFormatter" | "kafka.tools.LoggingMessageFormatter" => {
                Ok(MessageFormatter::Logging(Columns::new(properties)?))
            }
            "org.apache.kafka.tools.consumer.NoOpMessageFormatter" | "kafka.tools.NoOpMessageFormatter" => {
                Ok(MessageFormatter::NoOp)
            }
            "org.apache.kafka.tools.consumer.OffsetsMessageFormatter" => Ok(MessageFormatter::Json(Kind::Offsets)),
            "org.apache.kafka.tools.consumer.GroupMetadataMessageFormatter" => Ok(MessageFormatter::Json(Kind::Groups)),
            "org.apache.kafka.tools.consumer.TransactionLogMessageFormatter" => {
                Ok(MessageFormatter::Json(Kind::Transactions))
            }
            "kafka.coordinator.group.GroupMetadataManager$OffsetsMessageFormatter" => {
                Ok(MessageFormatter::Text(Kind::Offsets))
            }
            "kafka.coordinator.group.GroupMetadataManager$GroupMetadataMessageFormatter" => {
                Ok(MessageFormatter::Text(Kind::Groups))
            }
            "kafka.coordinator.transaction.TransactionLog$TransactionLogMessageFormatter" => {
                Ok(MessageFormatter::Text(Kind::Transactions))
            }
            _ => Err(format!("the formatter {class} is not supported")),
        }
    }

    pub(crate) fn write(&self, record: &ConsumedRecord, out: &mut dyn Write) -> io::Result<()> {
        match self {
            MessageFormatter::Default(columns) => columns.write(record, out),
            MessageFormatter::Logging(columns) => {
                columns.write(record, out)?;
                let text = |field: &Option<bytes::Bytes>| match field {
                    Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                    None => "null".to_owned(),
                };
                let time = record.timestamp_type.map_or_else(String::new, |kind| {
                    format!("{}:{}, ", timestamp_type_name(kind), record.record.timestamp)
                });
                log::info!("{time}key:{}, value:{}", text(&record.record.key), text(&record.record.value));
                Ok(())
            }
            MessageFormatter::NoOp => Ok(()),
            MessageFormatter::Json(kind) => {
                line(api_message_formatter::json(*kind, record).map_err(|error| error.to_string()), out)
            }
            MessageFormatter::Text(kind) => line(deprecated_formatters::text(*kind, record), out),
        }
    }
}

/// A record that cannot be shown is told from an output that cannot be written.
fn line(shown: Result<Option<String>, String>, out: &mut dyn Write) -> io::Result<()> {
    match shown {
        Ok(Some(line)) => writeln!(out, "{line}"),
        Ok(None) => Ok(()),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

fn timestamp_type_name(kind: TimestampType) -> &'static str {
    match kind {
        TimestampType::CreateTime => "CreateTime",
        TimestampType::LogAppendTime => "LogAppendTime",
    }
}

impl Columns {
    fn new(properties: &ClientProperties) -> Result<Columns, String> {
        let flag = |key: &str, default: bool| {
            properties.get(key).map_or(default, |value| value.trim().eq_ignore_ascii_case("true"))
        };
        let text = |key: &str, default: &str| properties.get(key).unwrap_or(default).to_owned();
        let deserializer = |key: &str| Deserializer::of_property(key, properties);
        Ok(Columns {
            prints_timestamp: flag("print.timestamp", false),
            prints_partition: flag("print.partition", false),
            prints_offset: flag("print.offset", false),
            prints_headers: flag("print.headers", false),
            prints_key: flag("print.key", false),
            prints_value: flag("print.value", true),
            key_separator: text("key.separator", "\t"),
            line_separator: text("line.separator", "\n"),
            headers_separator: text("headers.separator", ","),
            null_literal: text("null.literal", "null"),
            key: deserializer("key.deserializer")?,
            value: deserializer("value.deserializer")?,
            headers: deserializer("headers.deserializer")?,
        })
    }

    fn field(&self, field: Option<&[u8]>, deserializer: Deserializer, out: &mut dyn Write) -> io::Result<()> {
        match field {
            Some(bytes) => deserializer.write(bytes, out),
            None => out.write_all(self.null_literal.as_bytes()),
        }
    }

    fn write(&self, consumed: &ConsumedRecord, out: &mut dyn Write) -> io::Result<()> {
        let record = &consumed.record;
        // Which columns follow decides whether a column ends with the separator or the line.
        let after_key = self.prints_value;
        let after_headers = after_key || self.prints_key;
        let after_offset = after_headers || self.prints_headers;
        let after_partition = after_offset || self.prints_offset;
        let after_timestamp = after_partition || self.prints_partition;
        let separator = |is_column: bool| if is_column { &self.key_separator } else { &self.line_separator };
        if self.prints_timestamp {
            match consumed.timestamp_type {
                Some(kind) => write!(out, "{}:{}", timestamp_type_name(kind), record.timestamp)?,
                None => write!(out, "NO_TIMESTAMP")?,
            }
            write!(out, "{}", separator(after_timestamp))?;
        }
        if self.prints_partition {
            write!(out, "Partition:{}{}", consumed.partition.partition, separator(after_partition))?;
        }
        if self.prints_offset {
            write!(out, "Offset:{}{}", record.offset, separator(after_offset))?;
        }
        if self.prints_headers {
            if record.headers.is_empty() {
                write!(out, "NO_HEADERS")?;
            }
            for (index, (key, value)) in record.headers.iter().enumerate() {
                if index > 0 {
                    out.write_all(self.headers_separator.as_bytes())?;
                }
                out.write_all(key)?;
                out.write_all(b":")?;
                self.field(value.as_deref(), self.headers, out)?;
            }
            write!(out, "{}", separator(after_headers))?;
        }
        if self.prints_key {
            self.field(record.key.as_deref(), self.key, out)?;
            write!(out, "{}", separator(after_key))?;
        }
        if self.prints_value {
            self.field(record.value.as_deref(), self.value, out)?;
            write!(out, "{}", self.line_separator)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::TopicPartition;
    use crate::record::read::Record;

    fn printed(pairs: &[(&str, &str)]) -> String {
        let mut properties = ClientProperties::default();
        properties.extend(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let record = ConsumedRecord {
            partition: TopicPartition::new("t", 2),
            timestamp_type: Some(TimestampType::CreateTime),
            record: Record {
                offset: 7,
                timestamp: 99,
                key: None,
                value: Some(Bytes::from_static(b"v")),
                headers: vec![
                    (Bytes::from_static(b"a"), Some(Bytes::from_static(b"b"))),
                    (Bytes::from_static(b"c"), None),
                ],
            },
        };
        let mut out = Vec::new();
        MessageFormatter::new("org.apache.kafka.tools.consumer.DefaultMessageFormatter", &properties)
            .unwrap()
            .write(&record, &mut out)
            .unwrap();
        String::from_utf8(out).unwrap()
    }

    /// By a class of Kafka's, set by the property `of`.
    fn shown(of: &str, class: &str, more: &[(&str, &str)], bytes: &[u8]) -> Option<String> {
        let mut properties = ClientProperties::default();
        properties.set(of, format!("org.apache.kafka.common.serialization.{class}"));
        properties.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let mut out = Vec::new();
        let deserializer = Deserializer::of_property(of, &properties).unwrap();
        deserializer.write(bytes, &mut out).ok().map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn texts_are_read_in_the_encoding_that_is_asked_for_and_bytes_are_escaped() {
        let [value, key, headers] = ["value", "key", "headers"].map(|field| format!("{field}.deserializer"));
        let text = |of: &str, setting: &str, encoding: &str, bytes: &[u8]| {
            shown(of, "StringDeserializer", &[(&format!("{of}.{setting}"), encoding)], bytes).unwrap()
        };
        assert_eq!(text(&value, "value.deserializer.encoding", "ISO-8859-1", b"a\xe4"), "aä");
        assert_eq!(text(&key, "key.deserializer.encoding", "UTF-16", b"\xff\xfea\x00"), "a");
        assert_eq!(text(&key, "deserializer.encoding", "utf-16", b"\x00a\x00"), "a\u{fffd}");
        assert_eq!(text(&headers, "value.deserializer.encoding", "UTF-16LE", b"a\x00"), "a");
        assert_eq!(text(&value, "deserializer.encoding", "US-ASCII", b"a\xe4"), "a\u{fffd}");
        // The settings of another's, and one that Kafka's formatter keeps from its deserializer.
        assert_eq!(text(&value, "key.deserializer.encoding", "UTF-16", b"a"), "a");
        assert_eq!(text(&value, "encoding", "UTF-16", b"a\xff"), "a\u{fffd}");
        assert_eq!(shown(&value, "BytesDeserializer", &[], b"a \\~\x7f\x00\xe4").unwrap(), "a \\x5C~\\x7F\\x00\\xE4");
        let buffer = "java.nio.HeapByteBuffer[pos=0 lim=3 cap=3]";
        assert_eq!(shown(&value, "ByteBufferDeserializer", &[], b"abc").unwrap(), buffer);
        assert_eq!(shown(&value, "VoidDeserializer", &[], b"abc"), None);
        let mut properties = ClientProperties::default();
        properties.set("value.deserializer", "org.apache.kafka.common.serialization.StringDeserializer");
        properties.set("value.deserializer.deserializer.encoding", "EBCDIC");
        let refused = Deserializer::of_property("value.deserializer", &properties).unwrap_err();
        assert_eq!(refused, "value.deserializer.deserializer.encoding: the encoding EBCDIC is not supported");
    }

    #[test]
    fn a_class_that_there_is_not_leaves_bytes_as_they_are() {
        let mut properties = ClientProperties::default();
        properties.set("value.deserializer", "com.example.IntegerDeserializer");
        assert_eq!(Deserializer::of_property("value.deserializer", &properties), Ok(Deserializer::None));
    }

    #[test]
    fn truths_and_uuids_are_read() {
        let shown = |class: &str, bytes: &[u8]| shown("value.deserializer", class, &[], bytes);
        assert_eq!(shown("BooleanDeserializer", &[1]).unwrap(), "true");
        assert_eq!(shown("BooleanDeserializer", &[0]).unwrap(), "false");
        assert_eq!(shown("BooleanDeserializer", &[2]), None);
        assert_eq!(shown("BooleanDeserializer", &[]), None);
        let id = "123e4567-e89b-12d3-a456-426614174000";
        assert_eq!(shown("UUIDDeserializer", id.to_uppercase().as_bytes()).unwrap(), id);
        assert_eq!(shown("UUIDDeserializer", b"1-2-3-4-5").unwrap(), "00000001-0002-0003-0004-000000000005");
        for wrong in ["", "1-2-3-4", "1-2-3-4-5-6", "1-2-3-4-x", "1--3-4-5"] {
            assert_eq!(shown("UUIDDeserializer", wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn names_of_classes_choose_the_form() {
        let chosen = |class: &str| MessageFormatter::new(class, &ClientProperties::default());
        assert!(chosen("com.example.DefaultMessageFormatter").is_err());
        assert!(chosen("DefaultMessageFormatter").is_err());
        let json = chosen("org.apache.kafka.tools.consumer.TransactionLogMessageFormatter");
        assert!(matches!(json, Ok(MessageFormatter::Json(Kind::Transactions))), "{json:?}");
        let text = chosen("kafka.coordinator.transaction.TransactionLog$TransactionLogMessageFormatter");
        assert!(matches!(text, Ok(MessageFormatter::Text(Kind::Transactions))), "{text:?}");
        let text = chosen("kafka.coordinator.group.GroupMetadataManager$OffsetsMessageFormatter");
        assert!(matches!(text, Ok(MessageFormatter::Text(Kind::Offsets))), "{text:?}");
        let text = chosen("kafka.coordinator.group.GroupMetadataManager$GroupMetadataMessageFormatter");
        assert!(matches!(text, Ok(MessageFormatter::Text(Kind::Groups))), "{text:?}");
    }

    #[test]
    fn columns_stand_in_kafkas_order() {
        assert_eq!(printed(&[]), "v\n");
        let all = ["timestamp", "partition", "offset", "headers", "key"].map(|name| (format!("print.{name}"), "true"));
        let all: Vec<(&str, &str)> = all.iter().map(|(key, value)| (key.as_str(), *value)).collect();
        assert_eq!(printed(&all), "CreateTime:99\tPartition:2\tOffset:7\ta:b,c:null\tnull\tv\n");
        assert_eq!(printed(&[("print.key", "true"), ("print.value", "false"), ("null.literal", "-")]), "-\n");
        assert_eq!(printed(&[("print.key", "true"), ("key.separator", "=")]), "null=v\n");
    }
}
