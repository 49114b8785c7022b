//! kafka-e2e-latency.sh: how long it takes from sending a message to reading it.
//! Source: kafka 3.9.1 tools/src/main/java/org/apache/kafka/tools/EndToEndLatency.java.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::cli::options::{Options, Stop, Tool};
use crate::cli::{configured_cluster, properties_of_file, unmade};
use crate::client::admin::LATEST;
use crate::client::consumer::Consumer;
use crate::client::error::ClientError;
use crate::client::producer::{OutgoingRecord, Producer};
use crate::client::settings::{ConsumerSettings, ProducerSettings};
use crate::model::TopicPartition;
use crate::model::clock::wall_clock_ms;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::create_topics::{CreatableTopic, CreateTopicsRequest, CreateTopicsResponse};

pub(crate) const TOOL: Tool = Tool { script: "kafka-e2e-latency", about: USAGE, flags: &[] };

const USAGE: &str = "USAGE: java org.apache.kafka.tools.EndToEndLatency broker_list topic num_messages producer_acks \
                     message_size_bytes [optional] properties_file";
const POLL_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) async fn run(options: &Options, out: &mut dyn Write) -> Result<(), Stop> {
    let words = options.words();
    let (servers, topic, count, acks, size, file) = match words[..] {
        [servers, topic, count, acks, size] => (servers, topic, count, acks, size, None),
        [servers, topic, count, acks, size, file] => (servers, topic, count, acks, size, Some(file)),
        _ => return Err(Stop::Failed(USAGE.to_owned())),
    };
    let number = |text: &str| text.parse::<usize>().map_err(|_| Stop::Failed(format!("For input string: \"{text}\"")));
    let (count, size) = (number(count)?, number(size)?);
    if !["1", "all"].contains(&acks) {
        let why = "Latency testing requires synchronous acknowledgement. Please use 1 or all";
        return Err(Stop::Failed(why.to_owned()));
    }
    let cluster = configured_cluster(file, servers, "adminclient-1")?;
    let named = [topic.to_owned()];
    let partitions = if cluster.topic_names().await?.contains(&named[0]) {
        let described = cluster.describe_topics(&named).await?.into_iter().flat_map(|topic| topic.partitions);
        described.map(|partition| partition.partition_index).collect()
    } else {
        writeln!(
            out,
            "Topic \"{topic}\" does not exist. Will create topic with 1 partition(s) and replication factor = 1"
        )?;
        let one = CreatableTopic {
            name: topic.to_owned(),
            num_partitions: 1,
            replication_factor: 1,
            ..CreatableTopic::default()
        };
        let request = CreateTopicsRequest { topics: vec![one], timeout_ms: 30_000, ..Default::default() };
        let code_of = |answer: &CreateTopicsResponse| {
            ErrorCode::from_code(answer.topics.first().map_or(0, |topic| topic.error_code))
        };
        let answer = cluster.send_to_controller(&request, i16::MAX, code_of).await?;
        if let Some(refused) = answer.topics.into_iter().find(|topic| topic.error_code != 0) {
            writeln!(out, "Creation of topic {topic} failed")?;
            let code = ErrorCode::from_code(refused.error_code);
            return Err(ClientError::refused(format!("create topic {topic}"), code, refused.error_message).into());
        }
        // The broker that is asked next may not have heard of it yet.
        vec![0]
    };
    let partitions: Vec<TopicPartition> =
        partitions.into_iter().map(|index| TopicPartition::new(topic, index)).collect();

    let mut properties = properties_of_file(file)?;
    properties.set("bootstrap.servers", servers);
    let mut of_consumer = properties.clone();
    of_consumer.set("group.id", format!("test-group-{}", wall_clock_ms()));
    of_consumer.set("enable.auto.commit", "false");
    of_consumer.set("auto.offset.reset", "latest");
    // Nothing is to be collected before it is answered.
    of_consumer.set("fetch.max.wait.ms", "0");
    let settings = ConsumerSettings::take(&mut of_consumer, "consumer-1")?;
    let mut consumer = Consumer::new(settings).map_err(|error| unmade("Failed to construct kafka consumer", &error))?;
    properties.set("linger.ms", "0");
    properties.set("acks", acks);
    let settings = ProducerSettings::take(&mut properties, "producer-1")?;
    let producer = Producer::new(settings).map_err(|error| unmade("Failed to construct kafka producer", &error))?;
    consumer.assign(partitions.iter().cloned());
    for partition in &partitions {
        consumer.seek_to_timestamp(partition, LATEST);
    }
    // Everything behind the ends is ours.
    if !consumer.finds_positions(POLL_TIMEOUT).await? {
        return Err(Stop::Failed(format!(
            "Timeout of {}ms expired before the positions were found",
            POLL_TIMEOUT.as_millis()
        )));
    }

    let name: Arc<str> = topic.into();
    let mut latencies = Vec::with_capacity(count.min(1_000_000));
    for number in 0..count {
        let message = Bytes::from(vec![b'A' + u8::try_from(number % 26).unwrap_or(0); size]);
        let began = Instant::now();
        let record = OutgoingRecord { value: Some(message.clone()), ..OutgoingRecord::default() };
        let delivery = producer.send(&name, record).await?;
        delivery.await.map_err(|_| Stop::Failed("the producer ended".to_owned()))??;
        let read = consumer.poll(POLL_TIMEOUT, 2).await?;
        let elapsed = began.elapsed();
        check(&message, read.iter().map(|read| read.record.value.as_deref()).collect()).map_err(Stop::Failed)?;
        if number % 1000 == 0 {
            writeln!(out, "{number}\t{}", elapsed.as_secs_f64() * 1000.0)?;
        }
        latencies.push(elapsed);
    }
    write!(out, "{}", results(latencies))?;
    consumer.close().await;
    Ok(())
}

fn check(sent: &[u8], read: Vec<Option<&[u8]>>) -> Result<(), String> {
    let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match read[..] {
        [] => Err(format!("poll() timed out before finding a result (timeout:[{}])", POLL_TIMEOUT.as_millis())),
        [first, ..] if first != Some(sent) => Err(format!(
            "The message read [{}] did not match the message sent [{}]",
            shown(first.unwrap_or_default()),
            shown(sent)
        )),
        [_] => Ok(()),
        _ => Err(format!("Only one result was expected during this test. We found [{}]", read.len())),
    }
}

fn results(mut latencies: Vec<Duration>) -> String {
    let average = latencies.iter().sum::<Duration>().as_secs_f64() * 1000.0 / latencies.len().max(1) as f64;
    latencies.sort_unstable();
    let at = |part: f64| {
        let position = (latencies.len() as f64 * part) as usize;
        latencies.get(position).map_or(0, Duration::as_millis)
    };
    format!(
        "Avg latency: {average:.4} ms\nPercentiles: 50th = {}, 99th = {}, 99.9th = {}\n",
        at(0.5),
        at(0.99),
        at(0.999)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_must_be_what_was_sent() {
        assert_eq!(check(b"A", vec![Some(b"A")]), Ok(()));
        let why = |read| check(b"A", read).unwrap_err();
        assert_eq!(why(vec![]), "poll() timed out before finding a result (timeout:[60000])");
        assert_eq!(why(vec![Some(b"B")]), "The message read [B] did not match the message sent [A]");
        assert_eq!(why(vec![Some(b"A"), Some(b"A")]), "Only one result was expected during this test. We found [2]");
    }

    #[test]
    fn results_read_as_those_of_kafka() {
        let latencies = (1..=1000).rev().map(Duration::from_millis).collect();
        assert_eq!(
            results(latencies),
            "Avg latency: 500.5000 ms\nPercentiles: 50th = 501, 99th = 991, 99.9th = 1000\n"
        );
    }
}
