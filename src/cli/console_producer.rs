//! kafka-console-producer.sh: sends lines of standard input as records.

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::cli::options::{BOOTSTRAP_SERVER, BROKER_LIST, Options, Stop, Takes, Tool, flag, key_values};
use crate::cli::{producer, properties_of_file};
use crate::client::pattern::Pattern;
use crate::client::producer::OutgoingRecord;
use crate::client::settings::ClientProperties;

pub(crate) const TOOL: Tool = Tool {
    script: "kafka-console-producer",
    about: "This tool helps to read data from standard input and publish it to Kafka.",
    flags: &[
        flag("topic", Takes::Value("topic"), "REQUIRED: The topic to produce messages to."),
        BROKER_LIST,
        BOOTSTRAP_SERVER,
        flag("sync", Takes::Nothing, "Send each message when the one before it is acknowledged."),
        flag(
            "compression-codec",
            Takes::Optional("compression-codec"),
            "One of none, gzip, snappy, lz4, zstd; gzip if it stands without a value.",
        ),
        flag("batch-size", Takes::Value("size"), "Bytes of a batch (batch.size). Default: 16384."),
        flag("message-send-max-retries", Takes::Value("Integer"), "Retries before giving up (retries). Default: 3."),
        flag("retry-backoff-ms", Takes::Value("Long"), "Pause before each retry (retry.backoff.ms). Default: 100."),
        flag("timeout", Takes::Value("timeout_ms"), "How long a message waits for others (linger.ms). Default: 1000."),
        flag("request-required-acks", Takes::Value("acks"), "The required acks (acks). Default: -1."),
        flag("request-timeout-ms", Takes::Value("ms"), "Ack timeout of requests (request.timeout.ms). Default: 1500."),
        flag("metadata-expiry-ms", Takes::Value("ms"), "Metadata is asked for anew (metadata.max.age.ms). 300000."),
        flag("max-block-ms", Takes::Value("max block on send"), "Longest wait of a send (max.block.ms). 60000."),
        flag("max-memory-bytes", Takes::Value("total memory in bytes"), "Buffered (buffer.memory). 33554432."),
        flag("max-partition-memory-bytes", Takes::Value("bytes per partition"), "As --batch-size. Default: 16384."),
        flag("line-reader", Takes::Value("reader_class"), "Only kafka.tools.ConsoleProducer$LineMessageReader."),
        flag("socket-buffer-size", Takes::Value("size"), "Of the socket (send.buffer.bytes). Default: 102400."),
        flag(
            "property",
            Takes::Repeated("prop"),
            "Of the line reader: parse.key, parse.headers, ignore.error, key.separator, headers.delimiter, \
             headers.separator, headers.key.separator, null.marker.",
        ),
        flag("reader-config", Takes::Value("config file"), "Properties file of the line reader."),
        flag("producer-property", Takes::Repeated("producer_prop"), "A setting of the producer, key=value."),
        flag("producer.config", Takes::Value("config file"), "Properties file of the producer."),
    ],
};

const LINE_READER: &str = "kafka.tools.ConsoleProducer$LineMessageReader";

/// Option, setting, and the tool's default where the setting's own is another.
const SETTINGS: &[(&str, &str, &str)] = &[
    ("timeout", "linger.ms", "1000"),
    ("request-required-acks", "acks", "-1"),
    ("request-timeout-ms", "request.timeout.ms", "1500"),
    ("message-send-max-retries", "retries", "3"),
    ("retry-backoff-ms", "retry.backoff.ms", "100"),
    ("socket-buffer-size", "send.buffer.bytes", "102400"),
    ("max-memory-bytes", "buffer.memory", "33554432"),
    ("batch-size", "batch.size", "16384"),
    ("max-partition-memory-bytes", "batch.size", "16384"),
    ("metadata-expiry-ms", "metadata.max.age.ms", "300000"),
    ("max-block-ms", "max.block.ms", "60000"),
];

fn producer_properties(options: &Options) -> Result<ClientProperties, Stop> {
    let servers = options.servers("Missing required option(s) [bootstrap-server]")?;
    let mut properties = properties_of_file(options.value("producer.config"))?;
    properties.extend(key_values(&options.values("producer-property")));
    properties.set("bootstrap.servers", servers);
    let codec = match options.value("compression-codec") {
        Some("") => "gzip",
        Some(codec) => codec,
        None => "none",
    };
    properties.set("compression.type", codec);
    for (option, setting, default) in SETTINGS {
        match options.value(option) {
            Some(value) => properties.set(*setting, value),
            None => properties.set_if_absent(setting, *default),
        }
    }
    Ok(properties)
}

/// Turns lines into records, as Kafka's LineMessageReader does.
/// Source: kafka 3.9.1 core/src/main/scala/kafka/tools/ConsoleProducer.scala.
#[derive(Debug)]
struct LineReader {
    parses_key: bool,
    parses_headers: bool,
    ignores_errors: bool,
    key_separator: String,
    headers_delimiter: String,
    headers_separator: Pattern,
    headers_key_separator: String,
    null_marker: Option<String>,
    line_number: u64,
}

/// What stands before a separator, and what after it.
type Split<'a> = (&'a [u8], &'a [u8]);

impl LineReader {
    fn new(properties: &ClientProperties) -> Result<LineReader, String> {
        let text = |key: &str, default: &str| properties.get(key).unwrap_or(default).to_owned();
        let flag = |key: &str| properties.get(key).is_some_and(|value| value.trim().eq_ignore_ascii_case("true"));
        let headers_separator = text("headers.separator", ",");
        let reader = LineReader {
            parses_key: flag("parse.key"),
            parses_headers: flag("parse.headers"),
            ignores_errors: flag("ignore.error"),
            key_separator: text("key.separator", "\t"),
            headers_delimiter: text("headers.delimiter", "\t"),
            headers_separator: Pattern::new(&headers_separator)?,
            headers_key_separator: text("headers.key.separator", ":"),
            null_marker: properties.get("null.marker").map(str::to_owned),
            line_number: 0,
        };
        let headers = [
            ("headers.delimiter", &reader.headers_delimiter),
            ("headers.separator", &headers_separator),
            ("headers.key.separator", &reader.headers_key_separator),
        ];
        let same = |a: (&str, &String), b: (&str, &String)| {
            (a.1 == b.1).then(|| format!("{} and {} may not be equal", a.0, b.0))
        };
        let mut clash = same(headers[0], headers[1]).or(same(headers[0], headers[2])).or(same(headers[1], headers[2]));
        if let Some(marker) = &reader.null_marker {
            for separator in [("key.separator", &reader.key_separator), headers[1], headers[0], headers[2]] {
                clash = clash.or(same(("null.marker", marker), separator));
            }
        }
        clash.map_or(Ok(reader), Err)
    }

    /// Splits off what stands before the separator; `None` if there is no separator and that is forgiven.
    fn split<'a>(&self, line: &'a [u8], separator: &str, name: &str) -> Result<Option<Split<'a>>, String> {
        let found = find(line, separator.as_bytes());
        if found.is_none() && !self.ignores_errors {
            let text = String::from_utf8_lossy(line);
            return Err(format!("No {name} found on line number {}: '{text}'", self.line_number));
        }
        Ok(found.map(|at| (&line[..at], &line[at + separator.len()..])))
    }

    fn field(&self, bytes: &[u8]) -> Option<Bytes> {
        let is_null = self.null_marker.as_ref().is_some_and(|marker| marker.as_bytes() == bytes);
        (!is_null).then(|| Bytes::copy_from_slice(bytes))
    }

    fn headers(&self, text: &[u8]) -> Result<Vec<(Bytes, Option<Bytes>)>, String> {
        if self.null_marker.as_ref().is_some_and(|marker| marker.as_bytes() == text) {
            return Ok(Vec::new());
        }
        let mut headers = Vec::new();
        for pair in self.headers_separator.split(&String::from_utf8_lossy(text))? {
            match pair.split_once(&self.headers_key_separator) {
                None if self.ignores_errors => headers.push((Bytes::copy_from_slice(pair.as_bytes()), None)),
                None => {
                    let number = self.line_number;
                    return Err(format!("No header key separator found in pair '{pair}' on line number {number}"));
                }
                Some((key, value)) => {
                    let Some(key) = self.field(key.as_bytes()) else {
                        let marker = self.null_marker.as_deref().unwrap_or_default();
                        return Err(format!(
                            "Header keys should not be equal to the null marker '{marker}' as they can't be null"
                        ));
                    };
                    headers.push((key, self.field(value.as_bytes())));
                }
            }
        }
        Ok(headers)
    }

    fn record(&mut self, line: &[u8]) -> Result<OutgoingRecord, String> {
        self.line_number += 1;
        let mut record = OutgoingRecord::default();
        let mut rest = line;
        if self.parses_headers
            && let Some((headers, after)) = self.split(rest, &self.headers_delimiter, "headers delimiter")?
        {
            record.headers = self.headers(headers)?;
            rest = after;
        }
        if self.parses_key
            && let Some((key, after)) = self.split(rest, &self.key_separator, "key separator")?
        {
            record.key = self.field(key);
            rest = after;
        }
        record.value = self.field(rest);
        Ok(record)
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() {
        return Some(0);
    }
    text.windows(part.len()).position(|window| window == part)
}

/// Lines that end with `\n`, `\r` or both, as Java's readers take them.
#[derive(Debug, Default)]
struct Lines {
    /// The last line ended with `\r`: an `\n` after it ends no other.
    after_return: bool,
}

impl Lines {
    /// The next line without its end; `None` at the end of the input. A line that ends with `\r` is told at once.
    fn next(&mut self, input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        loop {
            let available = match input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                available => available?,
            };
            if available.is_empty() {
                return Ok((!line.is_empty()).then_some(line));
            }
            if std::mem::take(&mut self.after_return) && available[0] == b'\n' {
                input.consume(1);
                continue;
            }
            let end = available.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            line.extend_from_slice(&available[..end.unwrap_or(available.len())]);
            self.after_return = end.is_some_and(|at| available[at] == b'\r');
            let read = end.map_or(available.len(), |at| at + 1);
            input.consume(read);
            if end.is_some() {
                return Ok(Some(line));
            }
        }
    }
}

/// Reads lines on a thread of its own, since stdin blocks.
fn lines_of_stdin() -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(1024);
    // The thread ends with stdin, with the receiver, or with the process.
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        let mut lines = Lines::default();
        let prompts = io::stdin().is_terminal() && io::stdout().is_terminal();
        loop {
            if prompts {
                let _ = write!(io::stdout(), ">").and_then(|()| io::stdout().flush());
            }
            let outcome = match lines.next(&mut input) {
                Ok(None) => return,
                Ok(Some(line)) => Ok(line),
                Err(error) => Err(error),
            };
            let is_error = outcome.is_err();
            if sender.blocking_send(outcome).is_err() || is_error {
                return;
            }
        }
    });
    receiver
}

fn described_bytes(field: &Option<Bytes>) -> String {
    field.as_ref().map_or_else(|| "null".to_owned(), |bytes| format!("{} bytes", bytes.len()))
}

pub(crate) async fn run(options: &Options, _out: &mut dyn Write) -> Result<(), Stop> {
    let topic: Arc<str> = options.required("topic")?.into();
    if let Some(class) = options.value("line-reader")
        && class != LINE_READER
    {
        return Err(Stop::Failed(format!("the line reader {class} is not supported, only {LINE_READER}")));
    }
    let mut reader_properties = properties_of_file(options.value("reader-config"))?;
    reader_properties.extend(key_values(&options.values("property")));
    let properties = producer_properties(options)?;
    let mut reader = LineReader::new(&reader_properties).map_err(Stop::Failed)?;
    let producer = producer(properties, "console-producer")?;
    let is_sync = options.has("sync");
    let mut lines = lines_of_stdin();
    // What is told when a record fails; the tool goes on with the next.
    let mut deliveries = JoinSet::new();
    let mut outcome = Ok(());
    while let Some(line) = lines.recv().await {
        let record = match line.map_err(|error| error.to_string()).and_then(|line| reader.record(&line)) {
            Ok(record) => record,
            Err(message) => {
                outcome = Err(Stop::Failed(message));
                break;
            }
        };
        let (key, value) = (described_bytes(&record.key), described_bytes(&record.value));
        let error_line = {
            let topic = topic.clone();
            move |error| {
                format!(
                    "Error when sending message to topic {topic} with key: {key}, value: {value} with error: {error}"
                )
            }
        };
        match producer.send(&topic, record).await {
            Ok(delivery) if is_sync => {
                if let Ok(Err(error)) = delivery.await {
                    outcome = Err(error.into());
                    break;
                }
            }
            Ok(delivery) => {
                deliveries.spawn(async move {
                    if let Ok(Err(error)) = delivery.await {
                        log::error!("{}", error_line(error));
                    }
                });
            }
            Err(error) if is_sync => {
                outcome = Err(error.into());
                break;
            }
            Err(error) => log::error!("{}", error_line(error)),
        }
        while deliveries.try_join_next().is_some() {}
    }
    producer.flush().await;
    while deliveries.join_next().await.is_some() {}
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(pairs: &[(&str, &str)]) -> Result<LineReader, String> {
        let mut properties = ClientProperties::default();
        properties.extend(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        LineReader::new(&properties)
    }

    fn bytes(text: &str) -> Option<Bytes> {
        Some(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn keys_and_headers_stand_before_the_value() {
        let record = reader(&[("parse.key", "true")]).unwrap().record(b"k\tv\tw").unwrap();
        assert_eq!((record.key, record.value), (bytes("k"), bytes("v\tw")));
        let both = [("parse.key", "true"), ("parse.headers", "true"), ("null.marker", "NULL")];
        let record = reader(&both).unwrap().record(b"a:b:c,d:NULL\tNULL\tv").unwrap();
        assert_eq!(record.headers, [(bytes("a").unwrap(), bytes("b:c")), (bytes("d").unwrap(), None)]);
        assert_eq!((record.key, record.value), (None, bytes("v")));
        let record = reader(&both).unwrap().record(b"NULL\tk\tNULL").unwrap();
        assert_eq!((record.headers.len(), record.key, record.value), (0, bytes("k"), None));
    }

    #[test]
    fn a_line_without_its_separator_is_an_error_unless_forgiven() {
        let error = reader(&[("parse.key", "true"), ("key.separator", ":")]).unwrap().record(b"abc").unwrap_err();
        assert_eq!(error, "No key separator found on line number 1: 'abc'");
        let forgiven = [("parse.key", "true"), ("ignore.error", "true")];
        let record = reader(&forgiven).unwrap().record(b"abc").unwrap();
        assert_eq!((record.key, record.value), (None, bytes("abc")));
        assert_eq!(
            reader(&[("headers.separator", ":")]).unwrap_err(),
            "headers.separator and headers.key.separator may not be equal"
        );
    }

    #[test]
    fn headers_are_parted_by_a_regular_expression_as_java_splits() {
        let headers = |separator: &str, line: &str| {
            let given = [("parse.headers", "true"), ("ignore.error", "true"), ("headers.separator", separator)];
            reader(&given).unwrap().record(line.as_bytes()).unwrap().headers
        };
        let header = |key: &str, value: &str| (bytes(key).unwrap(), bytes(value));
        assert_eq!(headers("[;|]", "a:1;b:2|c:3\tv"), [header("a", "1"), header("b", "2"), header("c", "3")]);
        assert_eq!(headers(",", "a:1,,\tv"), [header("a", "1")]);
        assert_eq!(headers(",", ",\tv"), []);
        let bare = |key: &str| (bytes(key).unwrap(), None);
        assert_eq!(headers("", "a:b\tv"), [bare("a"), header("", ""), bare("b")]);
        assert_eq!(headers(",", "\tv"), [bare("")]);
        assert!(reader(&[("headers.separator", "[")]).is_err());
    }

    #[test]
    fn a_line_ends_with_a_newline_a_return_or_both() {
        let lines_of = |text: &str, buffer_bytes: usize| {
            let mut input = io::BufReader::with_capacity(buffer_bytes, text.as_bytes());
            let mut lines = Lines::default();
            let next = || lines.next(&mut input).unwrap().map(|line| String::from_utf8(line).unwrap());
            std::iter::from_fn(next).collect::<Vec<_>>()
        };
        for buffer_bytes in [1, 2, 100] {
            assert_eq!(lines_of("a\nb\rc\r\nd\n\re\r\r\nf", buffer_bytes), ["a", "b", "c", "d", "", "e", "", "f"]);
            assert_eq!(lines_of("a\r", buffer_bytes), ["a"]);
            assert_eq!(lines_of("\n", buffer_bytes), [""]);
        }
        assert_eq!(lines_of("", 1), [""; 0]);
    }

    #[test]
    fn an_option_beats_a_producer_property_and_that_beats_the_tools_default() {
        let properties = |line: &str| producer_properties(&TOOL.options(line)).unwrap();
        let base = "--broker-list a:1 --topic t --producer-property acks=1 --producer-property linger.ms=7";
        let given = properties(&format!("{base} --request-required-acks 0 --compression-codec"));
        assert_eq!(given.get("acks"), Some("0"));
        assert_eq!(given.get("linger.ms"), Some("7"));
        assert_eq!(given.get("request.timeout.ms"), Some("1500"));
        assert_eq!(given.get("compression.type"), Some("gzip"));
        assert_eq!(properties(base).get("compression.type"), Some("none"));
    }
}
