//! kafka-dump-log.sh: prints what the files of a partition hold: batches and records, indexes, producer snapshots,
//! aborted transactions.
//! Source: kafka 3.9 core/src/main/scala/kafka/tools/DumpLogSegments.scala.

mod decoders;
mod index_files;
mod records;

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::cli::options::{Options, Stop, Takes, Tool, flag};
use crate::client::pattern::comma_list;
use crate::log::dump;
use crate::model::Offset;
use crate::record::batch::{NO_SEQUENCE, incremented_sequence};

use self::decoders::Decoder;
use self::index_files::TimeIndexErrors;

pub(crate) const TOOL: Tool = Tool {
    script: "kafka-dump-log",
    about: "This tool helps to parse a log file and dump its contents to the console, useful for debugging a seemingly \
            corrupt log segment.",
    flags: &[
        flag(
            "print-data-log",
            Takes::Nothing,
            "If set, printing the messages content when dumping data logs. Automatically set if any decoder option is \
             specified.",
        ),
        flag("verify-index-only", Takes::Nothing, "If set, just verify the index log without printing its content."),
        flag(
            "index-sanity-check",
            Takes::Nothing,
            "If set, just checks the index sanity without printing its content. This is the same check that is executed \
             on broker startup to determine if an index needs rebuilding or not.",
        ),
        flag(
            "files",
            Takes::Value("file1, file2, ..."),
            "REQUIRED: The comma separated list of data and index log files to be dumped.",
        ),
        flag("max-message-size", Takes::Value("size"), "Size of largest message. (default: 5242880)"),
        flag(
            "max-bytes",
            Takes::Value("size"),
            "Limit the amount of total batches read in bytes avoiding reading the whole .log file(s). (default: \
             2147483647)",
        ),
        flag(
            "deep-iteration",
            Takes::Nothing,
            "If set, uses deep instead of shallow iteration. Automatically set if print-data-log is enabled.",
        ),
        flag("value-decoder-class", Takes::Optional("class"), "How values are shown. (default: StringDecoder)"),
        flag("key-decoder-class", Takes::Optional("class"), "How keys are shown. (default: StringDecoder)"),
        flag(
            "offsets-decoder",
            Takes::Nothing,
            "If set, log data will be parsed as offset data from the __consumer_offsets topic.",
        ),
        flag(
            "transaction-log-decoder",
            Takes::Nothing,
            "If set, log data will be parsed as transaction metadata from the __transaction_state topic.",
        ),
        flag("cluster-metadata-decoder", Takes::Nothing, "NOT SUPPORTED: there is no KRaft here."),
        flag("remote-log-metadata-decoder", Takes::Nothing, "NOT SUPPORTED: there is no tiered storage here."),
        flag("skip-record-metadata", Takes::Nothing, "Whether to skip printing metadata for each record."),
    ],
};

const MESSAGE_BYTES_MAX: u32 = 5 * 1024 * 1024;
/// Java's largest int: no limit.
const NO_LIMIT: u32 = i32::MAX as u32;

/// What the command line asks for.
struct Wanted<'a> {
    options: &'a Options,
    prints_contents: bool,
    is_deep: bool,
    skips_record_metadata: bool,
    verifies_only: bool,
    checks_sanity_only: bool,
    message_bytes_max: u32,
    bytes_max: u32,
}

/// What is wrong between a file and what it should be, told at the end: pairs of numbers, by file.
#[derive(Debug, Default)]
struct Findings {
    index_mismatches: BTreeMap<PathBuf, Vec<(i64, i64)>>,
    time_index: TimeIndexErrors,
    gaps: BTreeMap<PathBuf, Vec<(i64, i64)>>,
}

impl Findings {
    fn tell(&self) {
        for (path, pairs) in &self.index_mismatches {
            complain!("Mismatches in :{}", path.display());
            for (index, log) in pairs.iter().rev() {
                complain!("  Index offset: {index}, log offset: {log}");
            }
        }
        self.time_index.tell();
        for (path, pairs) in &self.gaps {
            complain!("Non-consecutive offsets in {}", path.display());
            for (first, second) in pairs.iter().rev() {
                complain!("  {first} is followed by {second}");
            }
        }
    }
}

pub(crate) async fn run(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    let files = options.required("files")?;
    for (flag, absent) in [("cluster-metadata-decoder", "KRaft"), ("remote-log-metadata-decoder", "tiered storage")] {
        if options.has(flag) {
            return Err(Stop::Failed(format!("--{flag} is not supported: there is no {absent} here")));
        }
    }
    let limit = |name, default| -> Result<u32, Stop> {
        let limit: i32 = options.number(name)?.unwrap_or(default as i32);
        u32::try_from(limit).map_err(|_| Stop::Failed(format!("Invalid size: {limit}")))
    };
    // Line by line would be a system call a record.
    let mut out = BufWriter::with_capacity(1 << 16, out);
    let is_decoded = ["value-decoder-class", "key-decoder-class", "offsets-decoder", "transaction-log-decoder"];
    let prints_contents = options.has("print-data-log") || is_decoded.iter().any(|flag| options.has(flag));
    let wanted = Wanted {
        options,
        prints_contents,
        is_deep: options.has("deep-iteration") || prints_contents,
        skips_record_metadata: options.has("skip-record-metadata"),
        verifies_only: options.has("verify-index-only"),
        checks_sanity_only: options.has("index-sanity-check"),
        message_bytes_max: limit("max-message-size", MESSAGE_BYTES_MAX)?,
        bytes_max: limit("max-bytes", NO_LIMIT)?,
    };
    let mut findings = Findings::default();
    for file in comma_list(files) {
        let dumped = dump_file(Path::new(file), &wanted, &mut findings, &mut out);
        out.flush()?;
        dumped?;
    }
    findings.tell();
    Ok(())
}

fn dump_file(path: &Path, wanted: &Wanted<'_>, findings: &mut Findings, out: &mut dyn Write) -> Result<(), Stop> {
    writeln!(out, "Dumping {}", path.display())?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("log") => {
            let decoder = Decoder::of(wanted.options, out)?;
            records::dump(path, wanted, decoder, findings, out)
        }
        Some("index") => index_files::dump_offset_index(path, wanted, findings, out),
        Some("timeindex") => index_files::dump_time_index(path, wanted, findings, out),
        Some("snapshot") => dump_snapshot(path, out),
        Some("txnindex") => {
            for txn in dump::aborted_transactions(path, base_offset(path)?)? {
                writeln!(
                    out,
                    "version: 0 producerId: {} firstOffset: {} lastOffset: {} lastStableOffset: {}",
                    txn.producer_id.0, txn.first_offset.0, txn.last_offset.0, txn.last_stable_offset.0
                )?;
            }
            Ok(())
        }
        _ => {
            out.flush()?;
            complain!("Ignoring unknown file {}", path.display());
            Ok(())
        }
    }
}

/// The number in front of the first dot of the file's name.
fn base_offset(path: &Path) -> Result<Offset, Stop> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let number = name.split('.').next().unwrap_or_default();
    let offset =
        number.parse().map_err(|_| Stop::Failed(format!("{} is not named after an offset", path.display())))?;
    Ok(Offset(offset))
}

/// As Java shows a number that may be absent.
fn optional_long(value: Option<i64>) -> String {
    value.map_or_else(|| "OptionalLong.empty".to_owned(), |value| format!("OptionalLong[{value}]"))
}

fn dump_snapshot(path: &Path, out: &mut dyn Write) -> Result<(), Stop> {
    let producers = match dump::producers(path) {
        Ok(producers) => producers,
        Err(error) => {
            out.flush()?;
            complain!("{error}");
            return Ok(());
        }
    };
    for producer in producers {
        write!(
            out,
            "producerId: {} producerEpoch: {} coordinatorEpoch: {} currentTxnFirstOffset: {} lastTimestamp: {} ",
            producer.producer_id.0,
            producer.producer_epoch,
            producer.coordinator_epoch,
            optional_long(producer.current_txn_first_offset.map(|offset| offset.0)),
            producer.last_timestamp_ms
        )?;
        if let Some(batch) = producer.last_batch {
            let first_sequence = match batch.last_sequence {
                NO_SEQUENCE => NO_SEQUENCE,
                last => incremented_sequence(last, batch.offset_delta.wrapping_neg()),
            };
            write!(
                out,
                "firstSequence: {first_sequence} lastSequence: {} lastOffset: {} offsetDelta: {} timestamp: {}",
                batch.last_sequence, batch.last_offset.0, batch.offset_delta, batch.timestamp_ms
            )?;
        }
        writeln!(out)?;
    }
    Ok(())
}
