//! What a broker does by the clock while nobody asks for it: retention by size and by time, the removal of files, the
//! checkpoints, the forgetting of producers and of transactional ids.

mod support;

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use odradek::protocol::error_code::ErrorCode;
use odradek::protocol::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use odradek::protocol::messages::describe_producers::{DescribeProducersRequest, TopicRequest};
use odradek::protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use odradek::record::build::BatchBuilder;
use odradek::record::compression::Codec;
use support::client::{Client, batch};
use support::transactional::{Producer, state_of, until_state, until_transactions_are_coordinated};
use support::{Cluster, Kind, PATIENCE, eventually};

const BATCHES: i64 = 30;
const BATCH_VALUE: usize = 500;
const SEGMENT_BYTES: u64 = 2000;
const RETENTION_BYTES: u64 = 5000;

fn start_offset(client: &mut Client, topic: &str) -> Result<i64, String> {
    let partitions = vec![ListOffsetsPartition { timestamp: -2, ..Default::default() }];
    let topics = vec![ListOffsetsTopic { name: topic.into(), partitions }];
    let request = ListOffsetsRequest { replica_id: -1, topics, ..Default::default() };
    let response = client.call(&request, 5).map_err(|error| error.to_string())?;
    let found = &response.topics[0].partitions[0];
    if found.error_code == 0 { Ok(found.offset) } else { Err(format!("{found:?}")) }
}

fn fill(client: &mut Client, topic: &str) {
    for offset in 0..BATCHES {
        let outcome = client.produce(topic, 0, batch(Codec::None, ["x".repeat(BATCH_VALUE)]));
        assert_eq!(outcome.expect("Produce is answered"), Ok(offset));
    }
}

/// Base offset and size of each segment, in order; an error while files wait for their removal.
fn segments(cluster: &Cluster, topic: &str) -> Result<Vec<(i64, u64)>, String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(cluster.broker.data.join(format!("{topic}-0"))).map_err(|error| error.to_string())? {
        let entry = entry.map_err(|error| error.to_string())?;
        let name = entry.file_name().into_string().expect("names are ASCII");
        if name.ends_with(".deleted") {
            return Err(format!("{name} is still there"));
        }
        if let Some(base) = name.strip_suffix(".log") {
            let size = entry.metadata().map_err(|error| error.to_string())?.len();
            found.push((base.parse().expect("a segment is named by its base offset"), size));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// What a checkpoint file says of partition 0 of a topic.
fn checkpointed(cluster: &Cluster, file: &str, topic: &str) -> Result<i64, String> {
    let text = fs::read_to_string(cluster.broker.data.join(file)).map_err(|error| error.to_string())?;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{topic} 0 ")));
    line.and_then(|offset| offset.parse().ok()).ok_or(text)
}

fn until_checkpointed(cluster: &Cluster, file: &str, topic: &str, expected: i64) {
    eventually(PATIENCE, &format!("{file} says {expected} for {topic}"), || {
        let offset = checkpointed(cluster, file, topic)?;
        if offset == expected { Ok(()) } else { Err(offset.to_string()) }
    });
}

fn retention_by_size(cluster: &Cluster, client: &mut Client) -> i64 {
    let [segment_bytes, retention_bytes] = [SEGMENT_BYTES, RETENTION_BYTES].map(|bytes| bytes.to_string());
    client.create_topic("sized", 1, &[("segment.bytes", &segment_bytes), ("retention.bytes", &retention_bytes)]);
    fill(client, "sized");
    let kept = eventually(PATIENCE, "what is over the size is gone from the disk", || {
        let kept = segments(cluster, "sized")?;
        let size: u64 = kept.iter().map(|(_, size)| size).sum();
        // A segment goes if what is left is still the size that shall be kept.
        if size - kept[0].1 < RETENTION_BYTES { Ok(kept) } else { Err(format!("{kept:?}")) }
    });
    let size: u64 = kept.iter().map(|(_, size)| size).sum();
    assert!(size >= RETENTION_BYTES && kept.len() >= 3, "not more than that is gone: {kept:?}");
    let start = kept[0].0;
    assert!(start > 0);
    assert_eq!(start_offset(client, "sized"), Ok(start));
    assert!(client.read_all("sized", 0, start - 1).is_err(), "what is gone cannot be read");
    assert_eq!(client.read_all("sized", 0, start).expect("the rest can").len() as i64, BATCHES - start);

    until_checkpointed(cluster, "replication-offset-checkpoint", "sized", BATCHES);
    // Segments are flushed when they are rolled, and the last one before its file is closed because nobody uses it.
    let active = kept.last().expect("a log has a segment").0;
    eventually(PATIENCE, "the checkpoint says that what was rolled is flushed", || {
        let offset = checkpointed(cluster, "recovery-point-offset-checkpoint", "sized")?;
        if (active..=BATCHES).contains(&offset) { Ok(()) } else { Err(offset.to_string()) }
    });
    start
}

fn retention_by_time(cluster: &Cluster, client: &mut Client) {
    // The records are years old.
    client.create_topic("timed", 1, &[("segment.bytes", "2000"), ("retention.ms", "600000")]);
    fill(client, "timed");
    eventually(PATIENCE, "all that is too old is gone", || {
        let start = start_offset(client, "timed")?;
        let kept = segments(cluster, "timed")?;
        let is_empty = start == BATCHES && kept == [(BATCHES, 0)];
        if is_empty { Ok(()) } else { Err(format!("start {start}, {kept:?}")) }
    });
    let outcome = client.produce("timed", 0, batch(Codec::None, ["goes on".into()]));
    assert_eq!(outcome.expect("Produce is answered"), Ok(BATCHES));
}

fn start_offsets_are_checkpointed(cluster: &Cluster, client: &mut Client, start: i64) {
    // Only a start inside a segment needs a checkpoint, the names of the files tell the others.
    let partitions = vec![DeleteRecordsPartition { partition_index: 0, offset: start + 1 }];
    let topics = vec![DeleteRecordsTopic { name: "sized".into(), partitions }];
    let request = DeleteRecordsRequest { topics, timeout_ms: 30_000 };
    let response = client.call(&request, 1).expect("DeleteRecords is answered");
    assert_eq!(response.topics[0].partitions[0].low_watermark, start + 1);
    until_checkpointed(cluster, "log-start-offset-checkpoint", "sized", start + 1);
}

fn producers_are_forgotten(client: &mut Client) {
    client.create_topic("produced", 1, &[]);
    let (id, epoch) = eventually(PATIENCE, "a producer id", || client.producer_id().map_err(|error| error.to_string()));
    let known = |client: &mut Client| {
        let topics = vec![TopicRequest { name: "produced".into(), partition_indexes: vec![0] }];
        let response = client.call(&DescribeProducersRequest { topics }, 0).expect("DescribeProducers is answered");
        response.topics[0].partitions[0].active_producers.len()
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right").as_millis() as i64;
    let mut builder = BatchBuilder::new().producer(id, epoch, 0);
    builder.append(now, None, Some(b"value"), &[]);
    assert_eq!(client.produce("produced", 0, builder.build()).expect("Produce is answered"), Ok(0));
    assert_eq!(known(client), 1);
    eventually(PATIENCE, "a silent producer is forgotten", || match known(client) {
        0 => Ok(()),
        known => Err(known.to_string()),
    });
}

#[test]
fn what_is_due_by_the_clock_is_done() {
    let settings = "log.initial.task.delay.ms=100\nlog.retention.check.interval.ms=100\n\
        log.segment.delete.delay.ms=100\nlog.flush.offset.checkpoint.interval.ms=100\n\
        log.flush.start.offset.checkpoint.interval.ms=100\nreplica.high.watermark.checkpoint.interval.ms=100\n\
        producer.id.expiration.ms=3000\nproducer.id.expiration.check.interval.ms=100";
    let cluster = Cluster::start("housekeeping", settings);
    let mut client = cluster.broker.client();
    let start = retention_by_size(&cluster, &mut client);
    retention_by_time(&cluster, &mut client);
    start_offsets_are_checkpointed(&cluster, &mut client, start);
    producers_are_forgotten(&mut client);
}

#[test]
fn a_transactional_id_that_nobody_uses_is_forgotten_for_good() {
    use ErrorCode::TransactionalIdNotFound;
    let settings = "transaction.state.log.num.partitions=2\ntransactional.id.expiration.ms=100\n\
        transaction.remove.expired.transaction.cleanup.interval.ms=100";
    let mut cluster = Cluster::start("housekeeping-transactions", settings);
    let mut client = cluster.broker.client();
    client.create_topic("orders", 1, &[]);
    until_transactions_are_coordinated(&mut client);
    // On a busy machine an id may go before it is used.
    let opened = |client: &mut Client, id: &str| {
        eventually(PATIENCE, "a transaction is opened", || {
            let me = Producer::begin(client, id);
            match me.try_add(client, "orders", 0) {
                ErrorCode::None => Ok(me),
                code => Err(code.to_string()),
            }
        })
    };
    let until_forgotten = |client: &mut Client, id: &str| {
        eventually(PATIENCE, &format!("{id} is forgotten"), || match state_of(client, id) {
            Err(TransactionalIdNotFound) => Ok(()),
            found => Err(format!("{found:?}")),
        });
    };
    let open = opened(&mut client, "open");
    let idle = Producer::begin(&mut client, "idle");
    let [committed, aborted] = [("committed", true), ("aborted", false)].map(|(id, commits)| {
        let me = opened(&mut client, id);
        assert_eq!(me.end(&mut client, commits), ErrorCode::None);
        me
    });
    for gone in [&idle, &committed, &aborted] {
        until_forgotten(&mut client, &gone.id);
        assert_eq!(gone.try_add(&mut client, "orders", 0), ErrorCode::InvalidProducerIdMapping);
    }
    assert_eq!(state_of(&mut client, "open").as_deref(), Ok("Ongoing"));

    // What a broker would keep for long is not there any more.
    cluster.broker.stop();
    let mut text = fs::read_to_string(&cluster.broker.config).expect("it was written");
    text.push_str("transactional.id.expiration.ms=604800000\n");
    fs::write(&cluster.broker.config, text).expect("it can be written");
    cluster.start_broker(Kind::under_test());
    let mut client = cluster.broker.client();
    for gone in [&idle, &committed, &aborted] {
        assert_eq!(state_of(&mut client, &gone.id), Err(TransactionalIdNotFound), "{}", gone.id);
        let next = Producer::begin(&mut client, &gone.id);
        assert_ne!(next.me.producer_id, gone.me.producer_id, "{}", gone.id);
        assert_eq!(next.me.producer_epoch, 0, "{}", gone.id);
    }
    assert_eq!(state_of(&mut client, "open").as_deref(), Ok("Ongoing"));
    assert_eq!(open.end(&mut client, true), ErrorCode::None);
    until_state(&mut client, "open", "CompleteCommit", &[]);
}
