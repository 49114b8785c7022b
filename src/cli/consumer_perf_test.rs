//! kafka-consumer-perf-test.sh: measures how fast records are read.

use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Zoned;

use crate::cli::options::{BOOTSTRAP_SERVER, BROKER_LIST, Options, Stop, Takes, Tool, flag};
use crate::cli::{consumer, properties_of_file};

pub(crate) const TOOL: Tool = Tool {
    script: "kafka-consumer-perf-test",
    about: "This tool is used to verify the consumer performance.",
    flags: &[
        BROKER_LIST,
        BOOTSTRAP_SERVER,
        flag("topic", Takes::Value("topic"), "REQUIRED: The topic to consume from."),
        flag("group", Takes::Value("gid"), "The group id to consume on."),
        flag("fetch-size", Takes::Value("size"), "The amount of data to fetch in a request. Default: 1048576."),
        flag("from-latest", Takes::Nothing, "Start with the latest message if the group has no position."),
        flag("socket-buffer-size", Takes::Value("size"), "The size of the tcp RECV size. Default: 2097152."),
        flag("threads", Takes::Value("count"), "DEPRECATED AND IGNORED."),
        flag("num-fetch-threads", Takes::Value("count"), "DEPRECATED AND IGNORED."),
        flag("consumer.config", Takes::Value("config file"), "Properties file of the consumer."),
        flag("print-metrics", Takes::Nothing, "Accepted; there are none to print."),
        flag("show-detailed-stats", Takes::Nothing, "Report for each reporting interval."),
        flag("timeout", Takes::Value("milliseconds"), "Longest time between records. Default: 10000."),
        flag("messages", Takes::Value("count"), "REQUIRED: The number of messages to consume."),
        flag("reporting-interval", Takes::Value("interval_ms"), "Interval of progress info. Default: 5000."),
        flag("date-format", Takes::Value("date format"), "Of the times. Default: yyyy-MM-dd HH:mm:ss:SSS."),
        flag("hide-header", Takes::Nothing, "Skip printing the header for the stats."),
    ],
};

const MB: f64 = 1024.0 * 1024.0;

/// The common letters of java.text.SimpleDateFormat as those of strftime. How often a letter stands says how it is written.
fn strftime_of(java: &str) -> Result<String, String> {
    let mut format = String::new();
    let mut letters = java.chars().peekable();
    let mut is_quoted = false;
    while let Some(letter) = letters.next() {
        if letter == '\'' && letters.next_if_eq(&'\'').is_some() {
            format.push('\'');
        } else if letter == '\'' {
            is_quoted = !is_quoted;
        } else if letter == '%' {
            format.push_str("%%");
        } else if is_quoted || !letter.is_ascii_alphabetic() {
            format.push(letter);
        } else {
            let mut count = 1;
            while letters.next_if_eq(&letter).is_some() {
                count += 1;
            }
            format.push_str(match (letter, count) {
                ('y', 2) => "%y",
                ('y', _) => "%Y",
                ('M' | 'L', 1) => "%-m",
                ('M' | 'L', 2) => "%m",
                ('M' | 'L', 3) => "%b",
                ('M' | 'L', _) => "%B",
                ('d', 1) => "%-d",
                ('d', _) => "%d",
                ('H', 1) => "%-H",
                ('H', _) => "%H",
                ('h', 1) => "%-I",
                ('h', _) => "%I",
                ('m', 1) => "%-M",
                ('m', _) => "%M",
                ('s', 1) => "%-S",
                ('s', _) => "%S",
                ('S', _) => "%3f",
                ('a', _) => "%p",
                ('E', 1..=3) => "%a",
                ('E', _) => "%A",
                ('u', _) => "%u",
                ('z', _) => "%Z",
                ('Z', _) => "%z",
                ('G' | 'Y' | 'w' | 'W' | 'D' | 'F' | 'k' | 'K' | 'X', _) => {
                    return Err(format!("the letter {letter} of --date-format is not supported"));
                }
                _ => return Err(format!("Illegal pattern character '{letter}'")),
            });
        }
    }
    if is_quoted { Err("Unterminated quote".to_owned()) } else { Ok(format) }
}

/// As Java prints a double with four digits, infinity included.
fn four_digits(value: f64) -> String {
    match value {
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        value => format!("{value:.4}"),
    }
}

/// What was read up to some moment.
#[derive(Clone, Copy, Debug, Default)]
struct Read {
    bytes: u64,
    messages: u64,
    /// Spent waiting for the group.
    rebalance_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// Of an interval. No speed is told of a time that was all spent waiting for the group.
    Interval,
    /// Of the whole run.
    Total,
}

/// The columns of a line, after its times.
fn columns(line: Line, total: &Read, last: &Read, elapsed_ms: u64) -> String {
    let mb = (total.bytes - last.bytes) as f64 / MB;
    let messages = (total.messages - last.messages) as f64;
    let rebalance_ms = total.rebalance_ms;
    // A negative time is printed as it is, as Kafka's tool does.
    let fetch_ms = elapsed_ms as i64 - rebalance_ms as i64;
    let seconds = elapsed_ms as f64 / 1000.0;
    let fetch_seconds = match fetch_ms {
        ..=0 if line == Line::Interval => f64::INFINITY,
        fetch_ms => fetch_ms as f64 / 1000.0,
    };
    format!(
        "{}, {}, {}, {}, {rebalance_ms}, {fetch_ms}, {}, {}",
        four_digits(total.bytes as f64 / MB),
        four_digits(mb / seconds),
        total.messages,
        four_digits(messages / seconds),
        four_digits(mb / fetch_seconds),
        four_digits(messages / fetch_seconds)
    )
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) async fn run(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    if options.has("threads") || options.has("num-fetch-threads") {
        writeln!(
            out,
            "WARNING: option [threads] and [num-fetch-threads] have been deprecated and will be ignored by the test"
        )?;
    }
    let topic = options.required("topic")?.to_owned();
    options.required("messages")?;
    let wanted: u64 = options.number("messages")?.unwrap_or_default();
    let servers = options.servers("Missing required option(s) [bootstrap-server]")?;
    let timeout_ms: u64 = options.number("timeout")?.unwrap_or(10_000);
    let interval_ms: u64 = options.number("reporting-interval")?.unwrap_or(5000);
    if interval_ms == 0 {
        return Err(Stop::Failed("Reporting interval must be greater than 0.".to_owned()));
    }
    let format = strftime_of(options.value("date-format").unwrap_or("yyyy-MM-dd HH:mm:ss:SSS"));
    let format = format.map_err(Stop::Failed)?;
    let mut properties = properties_of_file(options.value("consumer.config"))?;
    properties.set("bootstrap.servers", servers);
    let made_up = format!("perf-consumer-{}", rand::random_range(0..100_000));
    properties.set("group.id", options.value("group").unwrap_or(&made_up));
    properties.set("receive.buffer.bytes", options.value("socket-buffer-size").unwrap_or("2097152"));
    properties.set("max.partition.fetch.bytes", options.value("fetch-size").unwrap_or("1048576"));
    properties.set("auto.offset.reset", if options.has("from-latest") { "latest" } else { "earliest" });
    properties.set("check.crcs", "false");

    let detailed = options.has("show-detailed-stats");
    if !options.has("hide-header") {
        let times = if detailed { "time, threadId" } else { "start.time, end.time" };
        writeln!(
            out,
            "{times}, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg, nMsg.sec, rebalance.time.ms, fetch.time.ms, \
             fetch.MB.sec, fetch.nMsg.sec"
        )?;
    }
    let mut consumer = consumer(properties, "perf-consumer-client")?;
    consumer.subscribe(vec![topic]);
    // Draws on a terminal only.
    let progress = ProgressBar::new(wanted).with_style(
        ProgressStyle::with_template("{elapsed_precise} [{bar:40}] {pos}/{len} messages, {per_sec}, {eta} left")
            .expect("the template is constant"),
    );
    let (start, start_time) = (Instant::now(), Zoned::now());
    let (mut read, mut last) = (Read::default(), Read::default());
    let mut last_report = start;
    let mut last_consumed = start;
    while read.messages < wanted && millis(last_consumed.elapsed()) <= timeout_ms {
        let records = consumer.poll(Duration::from_millis(100), usize::MAX).await?;
        let now = Instant::now();
        if !records.is_empty() {
            last_consumed = now;
        }
        for record in records {
            read.messages += 1;
            let len = |field: &Option<bytes::Bytes>| field.as_ref().map_or(0, bytes::Bytes::len);
            read.bytes += (len(&record.record.key) + len(&record.record.value)) as u64;
            // At the first record that comes when the interval is over, as Kafka's tool does.
            if millis(now - last_report) >= interval_ms {
                progress.set_position(read.messages);
                if detailed {
                    // The waits after the first interval are told of nowhere but in the total.
                    let rebalance_ms = if last.messages == 0 { millis(consumer.rebalance_time) } else { 0 };
                    let read = Read { rebalance_ms, ..read };
                    let line = columns(Line::Interval, &read, &last, millis(now - last_report));
                    let time = Zoned::now().strftime(&format).to_string();
                    progress.suspend(|| writeln!(out, "{time}, 0, {line}"))?;
                }
                last = read;
                last_report = now;
            }
        }
    }
    read.rebalance_ms = millis(consumer.rebalance_time);
    progress.finish_and_clear();
    if read.messages < wanted {
        writeln!(
            out,
            "WARNING: Exiting before consuming the expected number of messages: timeout ({timeout_ms} ms) exceeded. \
             You can use the --timeout option to increase the timeout."
        )?;
    }
    let (elapsed, end_time) = (start.elapsed(), Zoned::now());
    consumer.close().await;
    if !detailed {
        let times = format!("{}, {}", start_time.strftime(&format), end_time.strftime(&format));
        writeln!(out, "{times}, {}", columns(Line::Total, &read, &Read::default(), millis(elapsed)))?;
    }
    if options.has("print-metrics") {
        complain!("There are no metrics to print: this consumer keeps none.");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_follow_javas_letters() {
        let time: Zoned = "2026-02-03T16:05:06.007[UTC]".parse().unwrap();
        let shown = |java: &str| strftime_of(java).map(|format| time.strftime(&format).to_string());
        for (java, expected) in [
            ("yyyy-MM-dd HH:mm:ss:SSS", "2026-02-03 16:05:06:007"),
            ("yyyy-MM-dd'T'HH:mm", "2026-02-03T16:05"),
            ("EEEE, d. MMMM yy", "Tuesday, 3. February 26"),
            ("E dd MMM y, h:m:s a", "Tue 03 Feb 2026, 4:5:6 PM"),
            ("hh 'o''clock' '%'", "04 o'clock %"),
        ] {
            assert_eq!(shown(java).as_deref(), Ok(expected), "{java}");
        }
        assert_eq!(shown("b"), Err("Illegal pattern character 'b'".to_owned()));
        assert_eq!(shown("'"), Err("Unterminated quote".to_owned()));
        assert!(shown("X").is_err());
    }

    #[test]
    fn a_row_counts_the_wait_for_the_group_apart() {
        let read = Read { bytes: 10 * 1024 * 1024, messages: 1000, rebalance_ms: 1000 };
        assert_eq!(
            columns(Line::Total, &read, &Read::default(), 2000),
            "10.0000, 5.0000, 1000, 500.0000, 1000, 1000, 10.0000, 1000.0000"
        );
        assert_eq!(
            columns(Line::Total, &read, &Read::default(), 1000),
            "10.0000, 10.0000, 1000, 1000.0000, 1000, 0, Infinity, Infinity"
        );
        assert_eq!(
            columns(Line::Interval, &read, &Read::default(), 500),
            "10.0000, 20.0000, 1000, 2000.0000, 1000, -500, 0.0000, 0.0000"
        );
        let earlier = Read { bytes: 5 * 1024 * 1024, messages: 600, rebalance_ms: 0 };
        assert_eq!(
            columns(Line::Interval, &Read { rebalance_ms: 0, ..read }, &earlier, 1000),
            "10.0000, 5.0000, 1000, 400.0000, 0, 1000, 5.0000, 400.0000"
        );
    }
}
