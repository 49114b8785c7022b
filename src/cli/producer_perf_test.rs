//! kafka-producer-perf-test.sh: measures how fast records are sent.

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::options::{Options, Stop, Takes, Tool, flag};
use crate::cli::{producer, properties_of_file};
use crate::client::error::ClientError;
use crate::client::pattern::Pattern;
use crate::client::producer::{OutgoingRecord, Sent};
use crate::client::settings::ClientProperties;

pub(crate) const TOOL: Tool = Tool {
    script: "kafka-producer-perf-test",
    about: "This tool is used to verify the producer performance.",
    flags: &[
        flag("topic", Takes::Value("TOPIC"), "REQUIRED: produce messages to this topic"),
        flag("num-records", Takes::Value("NUM-RECORDS"), "REQUIRED: number of messages to produce"),
        flag("payload-delimiter", Takes::Value("DELIMITER"), "Between the payloads of --payload-file. Default: \\n"),
        flag("throughput", Takes::Value("THROUGHPUT"), "REQUIRED: messages/sec, approximately; -1 for no limit"),
        flag("producer-props", Takes::Several("PROP-NAME=PROP-VALUE"), "Settings such as bootstrap.servers."),
        flag("producer.config", Takes::Value("CONFIG-FILE"), "Properties file of the producer."),
        flag("print-metrics", Takes::Nothing, "Accepted; there are none to print."),
        flag("transactional-id", Takes::Value("TRANSACTIONAL-ID"), "Of the transactions, if there are any."),
        flag("transaction-duration-ms", Takes::Value("DURATION"), "How old a transaction gets; 0 for none. Default: 0"),
        flag("record-size", Takes::Value("RECORD-SIZE"), "Message size in bytes; or --payload-file."),
        flag("payload-file", Takes::Value("PAYLOAD-FILE"), "Payloads to choose from; or --record-size."),
        flag("payload-monotonic", Takes::Nothing, "Payloads are increasing numbers."),
    ],
};

const DEFAULT_TRANSACTIONAL_ID: &str = "performance-producer-default-transactional-id";

/// Where the values of the records come from.
enum Payloads {
    Random { size: usize, state: u64 },
    Chosen { payloads: Vec<Bytes>, state: u64 },
    Monotonic,
}

/// The delimiter is a regular expression.
fn split(text: &str, delimiter: &str) -> Result<Vec<Bytes>, String> {
    let payloads = Pattern::new(delimiter)?;
    Ok(payloads.split(text)?.into_iter().map(|payload| Bytes::from(payload.to_owned())).collect())
}

/// SplitMix64: cheap enough to be no part of what is measured.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Payloads {
    fn new(options: &Options, out: &mut dyn Write) -> Result<Payloads, Stop> {
        if let Some(path) = options.value("payload-file") {
            writeln!(out, "Reading payloads from: {path}")?;
            let text = std::fs::read(path).map_err(|error| Stop::Failed(format!("read {path}: {error}")))?;
            if text.is_empty() {
                return Err(Stop::Failed("File does not exist or empty file provided.".to_owned()));
            }
            let delimiter = options.value("payload-delimiter").unwrap_or("\\n");
            let payloads = split(&String::from_utf8_lossy(&text), delimiter).map_err(Stop::Failed)?;
            writeln!(out, "Number of messages read: {}", payloads.len())?;
            if payloads.is_empty() {
                let why = "no payload File Path or record Size or payload-monotonic option provided";
                return Err(Stop::Failed(why.to_owned()));
            }
            return Ok(Payloads::Chosen { payloads, state: 0 });
        }
        Ok(match options.number("record-size")? {
            Some(size) => Payloads::Random { size, state: 0 },
            None => Payloads::Monotonic,
        })
    }

    fn next(&mut self, number: u64) -> Bytes {
        match self {
            Payloads::Random { size, state } => {
                let mut payload = Vec::with_capacity(*size + 8);
                while payload.len() < *size {
                    payload.extend(next_random(state).to_le_bytes().map(|byte| b'A' + byte % 26));
                }
                payload.truncate(*size);
                Bytes::from(payload)
            }
            Payloads::Chosen { payloads, state } => {
                let index = next_random(state) % (payloads.len() as u64);
                payloads.get(usize::try_from(index).unwrap_or_default()).cloned().unwrap_or_default()
            }
            Payloads::Monotonic => Bytes::from(number.to_string()),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    records: u64,
    bytes: u64,
    latency_ms: u64,
    latency_ms_max: u64,
}

impl Totals {
    fn add(&mut self, latency_ms: u64, bytes: usize) {
        self.records += 1;
        self.bytes += bytes as u64;
        self.latency_ms += latency_ms;
        self.latency_ms_max = self.latency_ms_max.max(latency_ms);
    }

    fn records_per_second(&self, elapsed: Duration) -> f64 {
        self.records as f64 / elapsed.as_secs_f64()
    }

    fn mb_per_second(&self, elapsed: Duration) -> f64 {
        self.bytes as f64 / elapsed.as_secs_f64() / (1024.0 * 1024.0)
    }

    fn average_latency_ms(&self) -> f64 {
        self.latency_ms as f64 / self.records as f64
    }
}

struct Stats {
    total: Totals,
    window: Totals,
    latencies_ms: Histogram<u64>,
}

impl Stats {
    fn new() -> Stats {
        // The range is no limit: the histogram grows.
        let latencies_ms = Histogram::new(3).expect("three digits are allowed");
        Stats { total: Totals::default(), window: Totals::default(), latencies_ms }
    }

    fn record(&mut self, latency: Duration, bytes: usize) {
        let latency_ms = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
        self.total.add(latency_ms, bytes);
        self.window.add(latency_ms, bytes);
        self.latencies_ms.saturating_record(latency_ms);
    }
}

fn window_line(window: &Totals, elapsed: Duration) -> String {
    format!(
        "{} records sent, {:.1} records/sec ({:.2} MB/sec), {:.1} ms avg latency, {:.1} ms max latency.",
        window.records,
        window.records_per_second(elapsed),
        window.mb_per_second(elapsed),
        window.average_latency_ms(),
        window.latency_ms_max as f64
    )
}

fn total_line(stats: &Stats, elapsed: Duration) -> String {
    let total = &stats.total;
    let at = |quantile| stats.latencies_ms.value_at_quantile(quantile);
    format!(
        "{} records sent, {:.6} records/sec ({:.2} MB/sec), {:.2} ms avg latency, {:.2} ms max latency, {} ms 50th, \
         {} ms 95th, {} ms 99th, {} ms 99.9th.",
        total.records,
        total.records_per_second(elapsed),
        total.mb_per_second(elapsed),
        total.average_latency_ms(),
        total.latency_ms_max as f64,
        at(0.5),
        at(0.95),
        at(0.99),
        at(0.999)
    )
}

fn locked(stats: &Mutex<Stats>) -> MutexGuard<'_, Stats> {
    stats.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What argparse4j and the tool check first, in their order.
fn check(options: &Options) -> Result<(), Stop> {
    const PAYLOADS: [&str; 3] = ["record-size", "payload-file", "payload-monotonic"];
    let payloads = options.in_order(&PAYLOADS);
    let complaint = if let [first, second, ..] = payloads[..] {
        format!("argument --{second}: not allowed with argument --{first}")
    } else if let [word, ..] = options.words()[..] {
        format!("unrecognized arguments: '{word}'")
    } else if let Some(missing) = ["throughput", "num-records", "topic"].iter().find(|name| !options.has(name)) {
        format!("argument --{missing} is required")
    } else if payloads.is_empty() {
        "one of the arguments --record-size --payload-file --payload-monotonic is required".to_owned()
    } else if !options.has("producer-props") && !options.has("producer.config") {
        "Either --producer-props or --producer.config must be specified.".to_owned()
    } else {
        return Ok(());
    };
    Err(Stop::Usage(complaint))
}

fn properties(options: &Options) -> Result<ClientProperties, Stop> {
    let mut properties = properties_of_file(options.value("producer.config"))?;
    for property in options.values("producer-props") {
        match property.split_once('=') {
            Some((key, value)) if !value.is_empty() => properties.set(key, value),
            _ => return Err(Stop::Failed(format!("Invalid property: {property}"))),
        }
    }
    if transaction_duration(options)?.is_some() {
        properties.set("transactional.id", options.value("transactional-id").unwrap_or(DEFAULT_TRANSACTIONAL_ID));
    }
    Ok(properties)
}

/// After which a transaction is committed; none without transactions.
fn transaction_duration(options: &Options) -> Result<Option<Duration>, Stop> {
    let duration_ms: i64 = options.number("transaction-duration-ms")?.unwrap_or_default();
    Ok(u64::try_from(duration_ms).ok().filter(|duration| *duration > 0).map(Duration::from_millis))
}

pub(crate) async fn run(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    const WINDOW: Duration = Duration::from_secs(5);
    check(options)?;
    let topic: Arc<str> = options.required("topic")?.into();
    let record_count: u64 = options.number("num-records")?.unwrap_or_default();
    let throughput: f64 = options.number("throughput")?.unwrap_or(-1.0);
    let properties = properties(options)?;
    let mut payloads = Payloads::new(options, out)?;
    let transaction_duration = transaction_duration(options)?;
    let producer = producer(properties, "perf-producer-client")?;
    if transaction_duration.is_some() {
        producer.init_transactions().await?;
    }

    let stats = Arc::new(Mutex::new(Stats::new()));
    // Draws on a terminal only.
    let progress = ProgressBar::new(record_count).with_style(progress_style());
    let start = Instant::now();
    let mut window_start = start;
    // When the transaction began that is open.
    let mut transaction_start = None;
    for number in 0..record_count {
        let value = payloads.next(number);
        let size = value.len();
        let record = OutgoingRecord { value: Some(value), ..Default::default() };
        if transaction_duration.is_some() && transaction_start.is_none() {
            producer.begin_transaction()?;
            transaction_start = Some(Instant::now());
        }
        let sent_at = Instant::now();
        let on_settled = {
            let stats = Arc::clone(&stats);
            Box::new(move |outcome: Result<Sent, ClientError>| match outcome {
                Ok(_) => locked(&stats).record(sent_at.elapsed(), size),
                Err(error) => complain!("{}", error.thrown()),
            })
        };
        match producer.send_then(&topic, record, on_settled).await {
            // One that is refused at once is as good as one that fails later. A transaction does not survive it.
            Err(error @ (ClientError::Refused { .. } | ClientError::GaveUp { .. })) if transaction_start.is_none() => {
                complain!("{}", error.thrown());
            }
            sent => sent?,
        }
        if transaction_start.zip(transaction_duration).is_some_and(|(start, duration)| sent_at - start >= duration) {
            producer.commit_transaction().await?;
            transaction_start = None;
        }
        if sent_at - window_start >= WINDOW {
            let window = std::mem::take(&mut locked(&stats).window);
            let elapsed = sent_at - window_start;
            window_start = sent_at;
            progress.set_position(number + 1);
            if window.records > 0 {
                progress.suspend(|| writeln!(out, "{}", window_line(&window, elapsed)))?;
            }
        }
        if throughput == 0.0 && number > 0 && start.elapsed() >= Duration::from_millis(1) {
            // As Kafka's tool: more than none a second is too many, whatever is waited.
            std::future::pending::<()>().await;
        }
        if throughput > 0.0 {
            let due = start + Duration::from_secs_f64((number + 1) as f64 / throughput);
            if due > Instant::now() + Duration::from_millis(1) {
                tokio::time::sleep_until(due.into()).await;
            }
        }
    }
    if transaction_start.is_some() {
        producer.commit_transaction().await?;
    }
    producer.flush().await;
    progress.finish_and_clear();
    let line = total_line(&locked(&stats), start.elapsed());
    writeln!(out, "{line}")?;
    if options.has("print-metrics") {
        complain!("There are no metrics to print: this producer keeps none.");
    }
    Ok(())
}

fn progress_style() -> ProgressStyle {
    ProgressStyle::with_template("{elapsed_precise} [{bar:40}] {pos}/{len} records, {per_sec}, {eta} left")
        .expect("the template is constant")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_as_those_of_kafka() {
        let mut stats = Stats::new();
        for latency_ms in 1..=100 {
            stats.record(Duration::from_millis(latency_ms), 1024 * 1024);
        }
        assert_eq!(
            window_line(&stats.window, Duration::from_secs(10)),
            "100 records sent, 10.0 records/sec (10.00 MB/sec), 50.5 ms avg latency, 100.0 ms max latency."
        );
        assert_eq!(
            total_line(&stats, Duration::from_secs(10)),
            "100 records sent, 10.000000 records/sec (10.00 MB/sec), 50.50 ms avg latency, 100.00 ms max latency, \
             50 ms 50th, 95 ms 95th, 99 ms 99th, 100 ms 99.9th."
        );
    }

    /// The texts, but for blanks, are what Kafka 3.9.1's tool gives for the same.
    #[test]
    fn mistakes_are_told_in_the_words_of_argparse() {
        let refusal = |line: &str| match check(&TOOL.options(line)) {
            Err(Stop::Usage(message)) => message,
            other => panic!("{line}: {other:?}"),
        };
        let line = "--topic t --num-records 1 --throughput 1";
        assert_eq!(refusal("--topic t"), "argument --throughput is required");
        assert_eq!(refusal("--throughput 1"), "argument --num-records is required");
        assert_eq!(refusal(line), "one of the arguments --record-size --payload-file --payload-monotonic is required");
        assert_eq!(
            refusal(&format!("{line} --payload-file f --record-size 5")),
            "argument --record-size: not allowed with argument --payload-file"
        );
        assert_eq!(
            refusal(&format!("{line} --payload-file f --payload-monotonic")),
            "argument --payload-monotonic: not allowed with argument --payload-file"
        );
        assert_eq!(
            refusal(&format!("{line} --record-size 5")),
            "Either --producer-props or --producer.config must be specified."
        );
        assert_eq!(refusal(&format!("extra {line} --record-size 5")), "unrecognized arguments: 'extra'");
    }

    #[test]
    fn payloads_are_parted_by_a_regular_expression() {
        let parts = |text: &str, delimiter: &str| split(text, delimiter).unwrap();
        assert_eq!(parts("a\nb\n\n", "\\n"), ["a", "b"]);
        assert_eq!(parts("a|b.c", "[|.]"), ["a", "b", "c"]);
        assert_eq!(parts("aXXb", "X+"), ["a", "b"]);
        assert_eq!(parts("\n", "\\n"), [""; 0]);
        assert!(split("a", "[").is_err());
    }

    #[test]
    fn payloads_have_the_size_that_was_asked_for() {
        let mut payloads = Payloads::Random { size: 13, state: 0 };
        let (first, second) = (payloads.next(0), payloads.next(1));
        assert_eq!((first.len(), second.len()), (13, 13));
        assert_ne!(first, second);
        assert!(first.iter().all(u8::is_ascii_uppercase));
        assert_eq!(Payloads::Monotonic.next(42), Bytes::from("42"));
    }
}
