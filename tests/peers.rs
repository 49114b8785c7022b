//! Everything that strangers can make the broker hold, at once: it stays within the sum that README gives, and a client
//! that sends little is served meanwhile.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use odradek::protocol::message::Payload;
use odradek::protocol::message::Request;
use odradek::protocol::messages::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource};
use odradek::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use odradek::protocol::messages::find_coordinator::FindCoordinatorRequest;
use odradek::protocol::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use odradek::protocol::messages::metadata::MetadataRequest;
use odradek::protocol::messages::offset_fetch::{OffsetFetchRequest, OffsetFetchRequestGroup};
use odradek::protocol::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use odradek::record::build::BatchBuilder;
use odradek::record::compression::Codec;
use support::client::{TIMESTAMP, batch, frame, values};
use support::{Cluster, Kind, PATIENCE, eventually};

/// `queued.max.request.bytes` as it is where nothing sets it, one `socket.request.max.bytes`, what two network threads
/// decode and encode of frames of a megabyte, and the broker itself.
const RESIDENT_KIB_MAX: u64 = (256 + 100 + 2 * 64 + 64) * 1024;

const PRODUCED_PARTITIONS: i32 = 50;
const HALF_SENT: usize = 40;
const UNREAD: usize = 40;
/// The client's round trips meanwhile.
const ROUND_TRIPS: i64 = 100;

/// A hostile client: connects, sends as much of the bytes as the broker takes, reads nothing, and begins again once the
/// broker closes the connection.
fn send_and_hold(port: u16, bytes: &[u8], stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { continue };
        stream.set_nonblocking(true).expect("a socket option");
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            match stream.write(&bytes[sent..]) {
                Ok(0) if sent < bytes.len() => break,
                Ok(count) => sent += count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
            if sent == bytes.len() && !matches!(stream.peek(&mut [0]), Ok(1..)) && is_closed(&stream) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn is_closed(stream: &TcpStream) -> bool {
    match stream.peek(&mut [0]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

fn repeated<R: Request>(request: &R, version: i16, times: i32) -> Vec<u8> {
    (0..times).flat_map(|id| frame(request, version, id)).collect()
}

/// Each is sent by so many clients at once.
fn attacks() -> Vec<(usize, Vec<u8>)> {
    let mut half_sent = vec![0; 60_000_000 - 1];
    half_sent[..4].copy_from_slice(&60_000_000i32.to_be_bytes());
    half_sent[4..8].copy_from_slice(&[0, 3, 0, 0]);

    let partition = FetchPartition { partition_max_bytes: 50 << 20, ..Default::default() };
    let topics = vec![FetchTopic { topic: "old".to_owned(), partitions: vec![partition], ..Default::default() }];
    let old_fetch = FetchRequest { replica_id: -1, max_bytes: 50 << 20, topics, ..Default::default() };

    let partitions = (0..30_000).map(|partition| FetchPartition { partition, ..Default::default() }).collect();
    let topics = vec![FetchTopic { topic: "unknown".to_owned(), partitions, ..Default::default() }];
    let session = FetchRequest {
        replica_id: -1,
        session_epoch: 0,
        max_wait_ms: i32::MAX,
        min_bytes: 1,
        topics,
        ..Default::default()
    };

    let protocols = vec![JoinGroupRequestProtocol { name: "range".into(), metadata: Bytes::from(vec![7; 1 << 20]) }];
    let join = |group: usize| JoinGroupRequest {
        group_id: format!("g{group}"),
        session_timeout_ms: 60_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".into(),
        protocols: protocols.clone(),
        ..Default::default()
    };

    let group = OffsetFetchRequestGroup { group_id: "committed".to_owned(), topics: None, ..Default::default() };
    let offsets = OffsetFetchRequest { groups: vec![group; 20_000], ..Default::default() };
    let broker = DescribeConfigsResource { resource_type: 4, resource_name: "0".into(), configuration_keys: None };
    let configs =
        DescribeConfigsRequest { resources: vec![broker; 50_000], include_synonyms: true, include_documentation: true };
    let coordinators = FindCoordinatorRequest { coordinator_keys: vec!["x".repeat(40); 20_000], ..Default::default() };

    let newcomer = |group: usize| JoinGroupRequest {
        group_id: format!("newcomers-{group}"),
        session_timeout_ms: 60_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol { name: "range".into(), ..Default::default() }],
        ..Default::default()
    };
    // Each is told to come back with the id that it is given, and nobody does.
    let newcomers: Vec<u8> = (0..10_000).flat_map(|group| frame(&newcomer(group), 4, 0)).collect();

    let one_record = |producer_id| {
        let mut batch = BatchBuilder::new().producer(producer_id, 0, 0);
        batch.append(TIMESTAMP, None, Some(b"v"), &[]);
        Some(Payload::Bytes(batch.build()))
    };
    // Each batch is of another producer, whose sequence is remembered.
    let produce = |first: i64| {
        let partition = |index: i32| PartitionProduceData { index, records: one_record(first + i64::from(index)) };
        let partition_data = (0..PRODUCED_PARTITIONS).map(partition).collect();
        let topic_data = vec![TopicProduceData { name: "produced".to_owned(), partition_data }];
        ProduceRequest { acks: 1, timeout_ms: 1000, topic_data, ..Default::default() }
    };
    let producers = (0..500).flat_map(|round| frame(&produce(1_000_000 + round * 1_000), 8, 0)).collect();

    let mut attacks = vec![
        (2, newcomers),
        (2, producers),
        (HALF_SENT, half_sent),
        (UNREAD, repeated(&old_fetch, 2, 4)),
        (8, repeated(&session, 11, 1)),
        (2, repeated(&offsets, 8, 4)),
        (2, repeated(&configs, 4, 4)),
        (2, repeated(&coordinators, 4, 4)),
        (8, repeated(&MetadataRequest { topics: None, ..Default::default() }, 9, 5_000)),
    ];
    attacks.extend((0..20).map(|group| (1, repeated(&join(group), 5, 1))));
    attacks
}

#[test]
fn all_that_peers_hold_at_once_stays_within_its_bound() {
    let mut cluster = Cluster::start("peers", "max.connections.per.ip=2147483647");
    let mut client = cluster.broker.client();
    client.create_topic("served", 1, &[]);
    client.create_topic("old", 1, &[]);
    client.create_topic("produced", PRODUCED_PARTITIONS, &[]);
    client.commit("committed", "served", 0, 7);
    for _ in 0..24 {
        let megabyte = batch(Codec::None, (0..100).map(|_| "x".repeat(10_000)));
        client.produce("old", 0, megabyte).expect("it is answered").expect("it is appended");
    }

    let (port, stop, attacks) = (cluster.broker.port, AtomicBool::new(false), attacks());
    let (mut count, mut slowest) = (0, Duration::ZERO);
    std::thread::scope(|scope| {
        for (clients, bytes) in &attacks {
            for _ in 0..*clients {
                scope.spawn(|| send_and_hold(port, bytes, &stop));
            }
        }
        let serving = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let process = cluster.broker.process();
            let began = Instant::now();
            let closes_the_overdue = Kind::under_test() == Kind::Odradek;
            while count < ROUND_TRIPS
                || closes_the_overdue && !process.said().contains("others need the memory that it holds")
            {
                assert!(process.has_ended().is_none(), "the broker is up; {}", process.last_words());
                assert!(began.elapsed() < PATIENCE * 3, "{count} round trips; {}", process.last_words());
                let asked = Instant::now();
                let produced = client.produce("served", 0, batch(Codec::None, [format!("{count}")]));
                assert_eq!(produced.expect("it is answered"), Ok(count));
                let read = client.read_all("served", 0, count).expect("it can be read");
                assert_eq!(values(&read), [format!("{count}")]);
                slowest = slowest.max(asked.elapsed());
                count += 1;
            }
        }));
        stop.store(true, Ordering::Relaxed);
        serving.unwrap_or_else(|failed| std::panic::resume_unwind(failed));
    });

    let process = cluster.broker.process();
    let (peak, now) = (process.memory_kib("VmHWM:"), process.memory_kib("VmRSS:"));
    println!("{count} round trips, the slowest {slowest:?}; resident {now} KiB, at most {peak} KiB");
    if Kind::under_test() == Kind::Odradek {
        assert!(peak < RESIDENT_KIB_MAX, "{peak} KiB were resident");
    }
    assert!(slowest < Duration::from_secs(10), "a round trip took {slowest:?}");
    // Who comes now with a long request finds room.
    let long = batch(Codec::None, (0..90).map(|_| "y".repeat(10_000)));
    assert!(client.produce("served", 0, long).expect("it is answered").is_ok());
}

/// As a script does that ends its input and reads on.
#[test]
fn a_peer_that_closes_its_side_gets_the_answers_to_what_it_sent_before() {
    let cluster = Cluster::start("half-closed", "");
    cluster.broker.client().create_topic("empty", 1, &[]);
    let partitions = vec![FetchPartition { partition_max_bytes: 1 << 20, ..Default::default() }];
    let topics = vec![FetchTopic { topic: "empty".to_owned(), partitions, ..Default::default() }];
    let fetch = FetchRequest { replica_id: -1, max_wait_ms: 300, min_bytes: 1, topics, ..Default::default() };
    let metadata = |id| frame(&MetadataRequest { topics: None, ..Default::default() }, 9, id);
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.broker.port)).expect("the broker accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    stream.write_all(&[metadata(1), frame(&fetch, 4, 2), metadata(3)].concat()).expect("the broker reads");
    stream.shutdown(Shutdown::Write).expect("it is open");
    let mut answers = Vec::new();
    stream.read_to_end(&mut answers).expect("the broker answers, and closes then");
    let mut ids = Vec::new();
    let mut rest = &answers[..];
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        ids.push(i32::from_be_bytes(behind[..4].try_into().expect("four bytes")));
        rest = &behind[length..];
    }
    assert_eq!(ids, [1, 2, 3]);
}

#[test]
fn peers_that_stall_hang_up_or_never_read_cost_only_themselves() {
    let mut cluster = Cluster::start("stalling", "");
    let mut client = cluster.broker.client();
    client.create_topic("served", 1, &[]);
    let connect = || TcpStream::connect(("127.0.0.1", cluster.broker.port)).expect("the broker accepts");
    let fetch = {
        let partitions = vec![FetchPartition { partition_max_bytes: 1 << 20, ..Default::default() }];
        let topics = vec![FetchTopic { topic: "served".to_owned(), partitions, ..Default::default() }];
        let fetch =
            FetchRequest { replica_id: -1, max_wait_ms: i32::MAX, min_bytes: i32::MAX, topics, ..Default::default() };
        frame(&fetch, 4, 1)
    };
    let metadata = repeated(&MetadataRequest { topics: None, ..Default::default() }, 9, 2_000);
    let mut held = Vec::new();
    for round in 0..50 {
        let mut stream = connect();
        match round % 5 {
            // Half of a request.
            0 => stream.write_all(&fetch[..fetch.len() / 2]).expect("the broker reads"),
            // A request that waits, many behind it, and no interest in any answer.
            1 => {
                stream.write_all(&fetch).expect("the broker reads");
                stream.set_nonblocking(true).expect("a socket option");
                let _ = stream.write(&metadata);
            }
            // Half closed while a request waits, and while nothing does.
            2 => {
                stream.write_all(&fetch).expect("the broker reads");
                stream.shutdown(Shutdown::Write).expect("it is open");
            }
            3 => stream.shutdown(Shutdown::Write).expect("it is open"),
            // Closed with answers unread, which resets it.
            _ => {
                stream.set_nonblocking(true).expect("a socket option");
                let _ = stream.write(&metadata);
                continue;
            }
        }
        held.push((round % 5, stream));
    }
    for count in 0..20 {
        let produced = client.produce("served", 0, batch(Codec::None, [format!("{count}")]));
        assert_eq!(produced.expect("it is answered"), Ok(count));
    }
    // Whoever has closed a half is closed, whatever waits.
    eventually(PATIENCE, "the half closed are closed", || {
        let open = held.iter().filter(|(kind, stream)| {
            stream.set_nonblocking(true).expect("a socket option");
            matches!(kind, 2 | 3) && !is_closed(stream)
        });
        match open.count() {
            0 => Ok(()),
            open => Err(format!("{open} are open")),
        }
    });
    assert!(held.iter().filter(|(kind, _)| *kind < 2).all(|(_, stream)| {
        stream.set_nonblocking(true).expect("a socket option");
        !is_closed(stream)
    }));
    let status = cluster.broker.stop();
    if Kind::under_test() == Kind::Odradek {
        assert!(status.success(), "it stops in order: {status}");
    }
}
