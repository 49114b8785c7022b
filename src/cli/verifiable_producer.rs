//! kafka-verifiable-producer.sh: sends increasing numbers and prints a line of JSON for what became of each.
//! Source: kafka 3.9.1 tools/src/main/java/org/apache/kafka/tools/VerifiableProducer.java.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::cli::options::{BOOTSTRAP_SERVER, BROKER_LIST, Options, Stop, Takes, Tool, flag};
use crate::cli::stop_signals::StopSignals;
use crate::cli::{producer, properties_of_file};
use crate::client::error::ClientError;
use crate::client::producer::{OutgoingRecord, Sent};
use crate::model::clock::wall_clock_ms;
use crate::protocol::error_code::ErrorCode;

pub(crate) const TOOL: Tool = Tool {
    script: "kafka-verifiable-producer",
    about: "This tool produces increasing integers to the specified topic and prints JSON metadata to stdout on each \
            \"send\" request, making externally visible which messages have been acked and which have not.",
    flags: &[
        flag("topic", Takes::Value("TOPIC"), "REQUIRED. Produce messages to this topic."),
        BOOTSTRAP_SERVER,
        BROKER_LIST,
        flag("max-messages", Takes::Value("MAX-MESSAGES"), "As many messages; if -1, until the process is killed."),
        flag("throughput", Takes::Value("THROUGHPUT"), "If set >= 0, approximately as many messages a second."),
        flag("acks", Takes::Value("ACKS"), "Acks required on each produced message: 0, 1 or -1. Default: -1."),
        flag("producer.config", Takes::Value("CONFIG_FILE"), "Producer config properties file."),
        flag("message-create-time", Takes::Value("CREATETIME"), "Creation time of the first message, in ms."),
        flag("value-prefix", Takes::Value("VALUE-PREFIX"), "A number that stands before each value, with a dot."),
        flag("repeating-keys", Takes::Value("REPEATING-KEYS"), "Keys from 0 on, which begin anew at this number."),
    ],
};

/// What became of a message.
struct Settled {
    key: Option<String>,
    value: String,
    outcome: Result<Sent, ClientError>,
}

/// A line of JSON with Kafka's names in Kafka's order. `fields` are the members that follow the name.
pub(crate) fn line(name: &str, fields: &str) -> String {
    let separator = if fields.is_empty() { "" } else { "," };
    format!("{{\"timestamp\":{},\"name\":\"{name}\"{separator}{fields}}}", wall_clock_ms())
}

fn settled_line(topic: &str, settled: &Settled) -> String {
    let text = |text: &str| Value::from(text).to_string();
    let key = settled.key.as_deref().map_or_else(|| "null".to_owned(), text);
    let of = format!("\"key\":{key},\"value\":{},\"topic\":{}", text(&settled.value), text(topic));
    match &settled.outcome {
        Ok(Sent { partition, offset }) => {
            line("producer_send_success", &format!("{of},\"partition\":{partition},\"offset\":{offset}"))
        }
        Err(error) => {
            let exception = error.code().unwrap_or(ErrorCode::UnknownServerError).exception();
            let exception = text(&format!("class {exception}"));
            let fields = format!("{of},\"exception\":{exception},\"message\":{}", text(&error.told()));
            line("producer_send_error", &fields)
        }
    }
}

fn value_of(prefix: Option<i32>, number: u64) -> String {
    prefix.map_or_else(|| number.to_string(), |prefix| format!("{prefix}.{number}"))
}

pub(crate) async fn run(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    let topic: Arc<str> = options.required("topic")?.into();
    let servers = options.servers("one of the arguments --bootstrap-server --broker-list is required")?;
    let messages_max = options.number::<i64>("max-messages")?.and_then(|count| u64::try_from(count).ok());
    let throughput: i64 = options.number("throughput")?.unwrap_or(-1);
    let acks = options.value("acks").unwrap_or("-1");
    if !["0", "1", "-1"].contains(&acks) {
        return Err(Stop::Usage(format!("argument --acks: invalid choice: '{acks}' (choose from {{0,1,-1}})")));
    }
    let prefix: Option<i32> = options.number("value-prefix")?;
    let repeating_keys: Option<u64> = options.number("repeating-keys")?.filter(|keys| *keys > 0);
    let create_time = options.number::<i64>("message-create-time")?.filter(|time| *time != -1);

    let mut properties = properties_of_file(options.value("producer.config"))?;
    properties.set_if_absent("bootstrap.servers", servers);
    properties.set_if_absent("acks", acks);
    // A message that fails is told of, and not sent again.
    properties.set_if_absent("retries", "0");
    let producer = producer(properties, "producer-1")?;

    let (told, mut settled) = mpsc::unbounded_channel();
    let mut signals = StopSignals::listen()?;
    let (mut sent, mut acked) = (0, 0);
    let mut outcome = Ok(());
    let start = Instant::now();
    writeln!(out, "{}", line("startup_complete", ""))?;
    'sending: while messages_max.is_none_or(|max| sent < max) {
        let key = repeating_keys.map(|keys| (sent % keys).to_string());
        let value = value_of(prefix, sent);
        let elapsed_ms = i64::try_from(start.elapsed().as_millis()).unwrap_or(i64::MAX);
        let record = OutgoingRecord {
            timestamp_ms: create_time.map(|time| time.saturating_add(elapsed_ms)),
            key: key.clone().map(Bytes::from),
            value: Some(Bytes::from(value.clone())),
            ..OutgoingRecord::default()
        };
        sent += 1;
        let of = (key.clone(), value.clone());
        let tell = told.clone();
        // Whoever reads it lives as long as the producer.
        let on_settled = Box::new(move |outcome| drop(tell.send(Settled { key: of.0, value: of.1, outcome })));
        if let Err(error) = producer.send_then(&topic, record, on_settled).await {
            let _ = told.send(Settled { key, value, outcome: Err(error) });
        }
        let due = match throughput {
            1.. => Some(start + Duration::from_secs_f64(sent as f64 / throughput as f64)),
            // As Kafka's tool: more than none a second is too many, whatever is waited.
            0 if sent > 1 && elapsed_ms > 0 => None,
            _ => Some(Instant::now()),
        };
        let is_due = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(is_due);
        // Lets the producer work in any case.
        loop {
            tokio::select! {
                biased;
                stop = signals.recv() => {
                    outcome = Err(stop);
                    break 'sending;
                }
                Some(settled) = settled.recv() => {
                    acked += u64::from(settled.outcome.is_ok());
                    writeln!(out, "{}", settled_line(&topic, &settled))?;
                }
                () = &mut is_due => break,
            }
        }
    }
    producer.flush().await;
    while let Ok(settled) = settled.try_recv() {
        acked += u64::from(settled.outcome.is_ok());
        writeln!(out, "{}", settled_line(&topic, &settled))?;
    }
    writeln!(out, "{}", line("shutdown_complete", ""))?;
    let average = acked as f64 / start.elapsed().as_secs_f64();
    let data =
        format!("\"sent\":{sent},\"acked\":{acked},\"target_throughput\":{throughput},\"avg_throughput\":{average}");
    writeln!(out, "{}", line("tool_data", &data))?;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_json_with_kafkas_names() {
        let parsed = |settled: Settled| -> Value { serde_json::from_str(&settled_line("t", &settled)).unwrap() };
        let value = value_of(Some(7), 3);
        let sent = parsed(Settled { key: None, value, outcome: Ok(Sent { partition: 2, offset: 9 }) });
        assert_eq!(sent["name"], "producer_send_success");
        assert_eq!((&sent["key"], &sent["value"], &sent["topic"]), (&Value::Null, &"7.3".into(), &"t".into()));
        assert_eq!((&sent["partition"], &sent["offset"]), (&2.into(), &9.into()));
        let error = ClientError::refused("send", ErrorCode::NotEnoughReplicas, None);
        let failed = parsed(Settled { key: Some("1".to_owned()), value: value_of(None, 0), outcome: Err(error) });
        assert_eq!((&failed["name"], &failed["key"]), (&"producer_send_error".into(), &"1".into()));
        assert_eq!(failed["exception"], "class org.apache.kafka.common.errors.NotEnoughReplicasException");
        assert_eq!(failed["message"], ErrorCode::NotEnoughReplicas.message());
        let complete: Value = serde_json::from_str(&line("startup_complete", "")).unwrap();
        assert!(complete["timestamp"].is_i64());
    }
}
