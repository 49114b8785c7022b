//! Any byte stream, before or after the request header, costs its sender the connection and nothing else: the broker
//! stays up, stays small, and serves a client meanwhile.

mod support;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use odradek::protocol::error_code::ErrorCode;
use odradek::protocol::message::Request;
use odradek::protocol::messages::alter_configs::AlterConfigsRequest;
use odradek::protocol::messages::api_versions::ApiVersionsRequest;
use odradek::protocol::messages::create_acls::{AclCreation, CreateAclsRequest};
use odradek::protocol::messages::create_partitions::CreatePartitionsRequest;
use odradek::protocol::messages::create_topics::{CreatableTopic, CreateTopicsRequest};
use odradek::protocol::messages::delete_acls::{DeleteAclsFilter, DeleteAclsRequest};
use odradek::protocol::messages::delete_groups::DeleteGroupsRequest;
use odradek::protocol::messages::delete_records::DeleteRecordsRequest;
use odradek::protocol::messages::delete_topics::DeleteTopicsRequest;
use odradek::protocol::messages::describe_acls::DescribeAclsRequest;
use odradek::protocol::messages::describe_cluster::DescribeClusterRequest;
use odradek::protocol::messages::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource};
use odradek::protocol::messages::describe_groups::DescribeGroupsRequest;
use odradek::protocol::messages::describe_producers::{DescribeProducersRequest, TopicRequest};
use odradek::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use odradek::protocol::messages::find_coordinator::FindCoordinatorRequest;
use odradek::protocol::messages::heartbeat::HeartbeatRequest;
use odradek::protocol::messages::incremental_alter_configs::IncrementalAlterConfigsRequest;
use odradek::protocol::messages::init_producer_id::InitProducerIdRequest;
use odradek::protocol::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use odradek::protocol::messages::leader_and_isr::{
    LeaderAndIsrPartitionState, LeaderAndIsrRequest, LeaderAndIsrTopicState,
};
use odradek::protocol::messages::leave_group::LeaveGroupRequest;
use odradek::protocol::messages::list_groups::ListGroupsRequest;
use odradek::protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use odradek::protocol::messages::metadata::{MetadataRequest, MetadataRequestTopic};
use odradek::protocol::messages::offset_delete::OffsetDeleteRequest;
use odradek::protocol::messages::offset_for_leader_epoch::OffsetForLeaderEpochRequest;
use odradek::protocol::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use odradek::record::compression::Codec;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use support::client::{Client, batch, frame, produce_request, values};
use support::{Cluster, Kind};

const FRAMES: u64 = 100_000;
const SENDERS: u64 = 4;
/// Beside the pages of the program itself, which an unoptimised one has many of.
const RESIDENT_KIB_MAX: u64 = 48 * 1024;
const SOCKET_REQUEST_MAX_BYTES: i32 = 100 * 1024 * 1024;
/// By each sender, at once.
const HELD_MAX: usize = 50;
/// A correlation id that no request of the corpus has.
const SENTINEL: i32 = 0x5e17_1e1e;

/// One frame, without its length, for each version that the message can be written in.
fn all_versions<R: Request>(request: R, corpus: &mut Vec<Vec<u8>>) {
    for version in R::VERSIONS {
        let body = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| frame(&request, version, 7)));
        // A field that the version has no place for: that version is covered by bytes that mutate into it.
        if let Ok(frame) = body {
            corpus.push(frame[4..].to_vec());
        }
    }
}

/// What a client may send, in every version. Nothing here may harm the topic of the client that is served meanwhile,
/// even after a few bytes have changed, and requests that only brokers send each other are thrown as noise.
fn corpus() -> Vec<Vec<u8>> {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut all = Vec::new();
    let name = || "fuzzed".to_owned();
    for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let records = batch(codec, (0..4).map(|i| format!("value {i} {}", "x".repeat(30))));
        for acks in [0, 1, -1] {
            all_versions(produce_request("fuzzed", 0, records.clone(), acks), &mut all);
        }
    }
    let partition = FetchPartition { partition_max_bytes: 4096, ..Default::default() };
    let topics = vec![FetchTopic { topic: name(), partitions: vec![partition], ..Default::default() }];
    all_versions(FetchRequest { max_bytes: 4096, topics, ..Default::default() }, &mut all);
    let partitions = vec![ListOffsetsPartition { timestamp: -1, ..Default::default() }];
    let topics = vec![ListOffsetsTopic { name: name(), partitions }];
    all_versions(ListOffsetsRequest { replica_id: -1, topics, ..Default::default() }, &mut all);
    let topics = Some(vec![MetadataRequestTopic { name: Some(name()), ..Default::default() }]);
    all_versions(MetadataRequest { topics, allow_auto_topic_creation: false, ..Default::default() }, &mut all);
    all_versions(MetadataRequest { topics: Some(Vec::new()), ..Default::default() }, &mut all);
    all_versions(ApiVersionsRequest::default(), &mut all);
    all_versions(FindCoordinatorRequest { key: name(), ..Default::default() }, &mut all);
    all_versions(FindCoordinatorRequest { coordinator_keys: vec![name(), name()], ..Default::default() }, &mut all);
    let protocols = vec![JoinGroupRequestProtocol { name: "range".into(), metadata: Bytes::from_static(b"\0\0") }];
    let join = JoinGroupRequest {
        group_id: name(),
        session_timeout_ms: 6000,
        rebalance_timeout_ms: 1,
        protocol_type: "consumer".into(),
        protocols,
        ..Default::default()
    };
    all_versions(join, &mut all);
    let assignments = vec![SyncGroupRequestAssignment::default()];
    all_versions(SyncGroupRequest { group_id: name(), assignments, ..Default::default() }, &mut all);
    all_versions(HeartbeatRequest { group_id: name(), ..Default::default() }, &mut all);
    all_versions(LeaveGroupRequest { group_id: name(), ..Default::default() }, &mut all);
    all_versions(DescribeGroupsRequest { groups: vec![name()], ..Default::default() }, &mut all);
    all_versions(ListGroupsRequest::default(), &mut all);
    all_versions(DeleteGroupsRequest { groups_names: vec![name()] }, &mut all);
    all_versions(OffsetDeleteRequest { group_id: name(), ..Default::default() }, &mut all);
    all_versions(OffsetForLeaderEpochRequest::default(), &mut all);
    all_versions(DescribeClusterRequest::default(), &mut all);
    let topics = vec![TopicRequest { name: name(), partition_indexes: vec![0] }];
    all_versions(DescribeProducersRequest { topics }, &mut all);
    all_versions(DescribeAclsRequest { resource_name_filter: Some(name()), ..Default::default() }, &mut all);
    all_versions(CreateAclsRequest { creations: vec![AclCreation::default()] }, &mut all);
    all_versions(DeleteAclsRequest { filters: vec![DeleteAclsFilter::default()] }, &mut all);
    let resources = vec![DescribeConfigsResource { resource_type: 2, resource_name: name(), configuration_keys: None }];
    all_versions(DescribeConfigsRequest { resources, ..Default::default() }, &mut all);
    all_versions(AlterConfigsRequest { validate_only: true, ..Default::default() }, &mut all);
    all_versions(IncrementalAlterConfigsRequest { validate_only: true, ..Default::default() }, &mut all);
    // Refused for its replication factor, so that no mutation of the name fills the disk with topics.
    let topic = CreatableTopic { name: name(), num_partitions: 1, replication_factor: 0x0f0f, ..Default::default() };
    all_versions(CreateTopicsRequest { topics: vec![topic], validate_only: true, timeout_ms: 1 }, &mut all);
    all_versions(CreatePartitionsRequest { validate_only: true, timeout_ms: 1, ..Default::default() }, &mut all);
    all_versions(DeleteTopicsRequest { topic_names: vec!["absent".into()], ..Default::default() }, &mut all);
    all_versions(DeleteRecordsRequest { timeout_ms: 1, ..Default::default() }, &mut all);
    all_versions(InitProducerIdRequest { transactional_id: Some(name()), ..Default::default() }, &mut all);
    std::panic::set_hook(quiet);
    assert!(all.len() > 150, "only {} frames in the corpus", all.len());
    all
}

/// Changes a frame in one to four places: bits, bytes, lengths, its end.
fn mutate(frame: &mut Vec<u8>, rng: &mut StdRng) {
    for _ in 0..rng.random_range(1..=4) {
        if frame.is_empty() {
            frame.push(rng.random());
        }
        let at = rng.random_range(0..frame.len());
        match rng.random_range(0..7) {
            0 => frame[at] ^= 1 << rng.random_range(0..8),
            1 => frame[at] = rng.random(),
            2 => frame.truncate(at),
            3 => frame.insert(at, rng.random()),
            4 => {
                let extreme: &[u8] = match rng.random_range(0..6) {
                    0 => &[0x7f, 0xff, 0xff, 0xff],
                    1 => &[0xff, 0xff, 0xff, 0xff],
                    2 => &[0x80, 0, 0, 0],
                    3 => &[0xff, 0xff, 0xff, 0xff, 0x0f],
                    4 => &[0x7f, 0xff],
                    _ => &[0, 0, 0, 0],
                };
                for (i, &byte) in extreme.iter().enumerate() {
                    if let Some(place) = frame.get_mut(at + i) {
                        *place = byte;
                    }
                }
            }
            5 => {
                let until = rng.random_range(at..frame.len());
                let copied = frame[at..=until].to_vec();
                frame.splice(at..at, copied);
            }
            _ => frame.extend((0..rng.random_range(1..64)).map(|_| rng.random::<u8>())),
        }
    }
    // Which request it is may not become one that only a broker sends: such a one, well formed and believed, is not
    // hostile bytes but a hostile broker.
    if let [high, low, ..] = frame[..]
        && matches!(i16::from_be_bytes([high, low]), 4..=7 | 56 | 57 | 67)
    {
        frame.truncate(rng.random_range(0..12.min(frame.len() + 1)));
    }
}

struct Sender {
    port: u16,
    rng: StdRng,
    stream: Option<TcpStream>,
    /// Connections whose frame announced more than came; the oldest is dropped for the newest.
    held: VecDeque<TcpStream>,
    sentinel: Vec<u8>,
}

#[derive(Debug, PartialEq)]
enum Fate {
    Answered,
    Closed,
    /// It waits for something, as a fetch or a join may, or for bytes that the frame announced.
    Waits,
}

impl Sender {
    /// Throws one frame, followed by a request that any broker answers: either the answer comes or the connection
    /// ends. A frame that makes its connection wait is left alone with it.
    fn throw(&mut self, bytes: &[u8]) -> Fate {
        let connect = || {
            let stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_nodelay(true).expect("a socket option");
            stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket option");
            stream.set_write_timeout(Some(Duration::from_secs(5))).expect("a socket option");
            Ok::<TcpStream, std::io::Error>(stream)
        };
        // A broker that does not accept is what the well-behaved client will tell.
        let Ok(mut stream) = self.stream.take().map_or_else(connect, Ok) else { return Fate::Closed };
        let announced = i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        if announced > bytes.len() as i32 - 4 && announced <= SOCKET_REQUEST_MAX_BYTES {
            let outcome = stream.write_all(bytes);
            self.held.push_back(stream);
            if self.held.len() > HELD_MAX {
                self.held.pop_front();
            }
            return if outcome.is_ok() { Fate::Waits } else { Fate::Closed };
        }
        let both = [bytes, &self.sentinel].concat();
        if stream.write_all(&both).is_err() {
            return Fate::Closed;
        }
        loop {
            let mut head = [0; 8];
            match stream.read_exact(&mut head) {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    return Fate::Waits;
                }
                Err(_) => return Fate::Closed,
            }
            let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let mut body = vec![0; length.saturating_sub(4)];
            if stream.read_exact(&mut body).is_err() {
                return Fate::Waits;
            }
            if head[4..] == SENTINEL.to_be_bytes() {
                self.stream = Some(stream);
                return Fate::Answered;
            }
        }
    }

    fn hostile(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let rng = &mut self.rng;
        let mut frame = match rng.random_range(0..20) {
            // Noise behind a length that is right.
            0 | 1 => {
                let mut noise = vec![0; rng.random_range(0..200)];
                rng.fill_bytes(&mut noise);
                noise
            }
            // A header of a known key in any version, and noise behind it.
            2 | 3 => {
                let (key, version) = (rng.random_range(0i16..76), rng.random_range(0i16..18));
                let mut noise = vec![0; rng.random_range(0..60)];
                rng.fill_bytes(&mut noise);
                // No cluster request in a form that may be believed.
                if matches!(key, 4..=7 | 56 | 57 | 67) {
                    noise.truncate(6);
                }
                [&key.to_be_bytes()[..], &version.to_be_bytes(), &[0, 0, 0, 9, 0, 1, b'x'], &noise].concat()
            }
            _ => {
                let mut frame = corpus[rng.random_range(0..corpus.len())].clone();
                mutate(&mut frame, rng);
                frame
            }
        };
        // A JVM broker reserves what a length declares, and is out of memory at once.
        let may_lie = Kind::under_test() == Kind::Odradek;
        let length: i32 = match if may_lie { rng.random_range(0..60) } else { 60 } {
            // Lengths that lie: negative, zero, the largest allowed, larger, a little off.
            0 => rng.random(),
            1 => SOCKET_REQUEST_MAX_BYTES,
            2 => frame.len() as i32 + rng.random_range(1..100_000),
            _ => frame.len() as i32,
        };
        let mut whole = length.to_be_bytes().to_vec();
        whole.append(&mut frame);
        whole
    }
}

#[test]
fn hostile_bytes_cost_their_sender_the_connection_and_nothing_else() {
    let settings = "auto.create.topics.enable=false\nlog.segment.bytes=1048576\nlog.retention.bytes=4194304\n\
                    max.connections.per.ip=2147483647";
    let mut cluster = Cluster::start("hostile", settings);
    let mut client = cluster.broker.client();
    client.create_topic("fuzzed", 1, &[]);
    client.create_topic("served", 1, &[]);
    let first = client.produce("fuzzed", 0, batch(Codec::None, (0..10).map(|i| format!("{i}")))).expect("it answers");
    assert_eq!(first, Ok(0));

    let corpus = corpus();
    let seed: u64 = std::env::var("ODRADEK_TEST_SEED").map_or(20_260_001, |seed| seed.parse().expect("a number"));
    println!("seed {seed}");
    let port = cluster.broker.port;
    let (thrown, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let fates = std::sync::Mutex::new([0u64; 3]);
    let mut slowest = Duration::ZERO;
    let served = std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            let (thrown, corpus, fates) = (&thrown, &corpus, &fates);
            scope.spawn(move || {
                let mut sender = Sender {
                    port,
                    rng: StdRng::seed_from_u64(seed + sender),
                    stream: None,
                    held: VecDeque::new(),
                    sentinel: frame(&ApiVersionsRequest::default(), 0, SENTINEL),
                };
                while thrown.fetch_add(1, Ordering::Relaxed) < FRAMES {
                    let bytes = sender.hostile(corpus);
                    let fate = sender.throw(&bytes) as usize;
                    fates.lock().expect("no sender panics with it")[fate] += 1;
                }
            });
        }
        // Meanwhile, a client that behaves.
        let served = scope.spawn(|| {
            let mut client = Client::connect(port).expect("the broker accepts");
            let (mut count, mut slowest) = (0i64, Duration::ZERO);
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                let records = batch(Codec::Lz4, [format!("{count}")]);
                assert_eq!(client.produce("served", 0, records).expect("it is answered"), Ok(count));
                let read = client.read_all("served", 0, count).expect("it can read");
                assert_eq!(values(&read), [format!("{count}")]);
                slowest = slowest.max(began.elapsed());
                count += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            (count, slowest)
        });
        let began = Instant::now();
        while thrown.load(Ordering::Relaxed) < FRAMES + SENDERS {
            assert!(began.elapsed() < Duration::from_secs(400), "{thrown:?} of {FRAMES} frames after 400 s");
            let ended = cluster.broker.process().has_ended();
            if ended.is_some() || served.is_finished() {
                // The senders must not outlive the broker by long.
                thrown.store(FRAMES + SENDERS, Ordering::Relaxed);
                stop.store(true, Ordering::Relaxed);
                panic!(
                    "seed {seed}: the broker ended ({ended:?}) or no longer serves; {}",
                    cluster.broker.process().last_words()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
        let (count, longest) = served.join().expect("the client was served throughout");
        slowest = longest;
        count
    });

    let fates = fates.into_inner().expect("no sender panicked");
    let [peak, now] = ["VmHWM:", "VmRSS:"].map(|field| {
        let process = cluster.broker.process();
        process.memory_kib(field) - process.memory_kib("RssFile:")
    });
    println!(
        "{FRAMES} frames: {} answered, {} cost the connection, {} left waiting; {served} round trips of a client \
         meanwhile, the slowest {slowest:?}; resident {now} KiB, at most {peak} KiB",
        fates[0], fates[1], fates[2]
    );
    assert!(cluster.broker.process().has_ended().is_none(), "the broker is up");
    assert!(served > 50, "only {served} round trips of the client meanwhile");
    assert!(slowest < Duration::from_secs(10), "a round trip of the client took {slowest:?}");
    if Kind::under_test() == Kind::Odradek {
        assert!(peak < RESIDENT_KIB_MAX, "seed {seed}: {peak} KiB were resident");
    }
    let kept = client.read_all("served", 0, 0).expect("everything can be read");
    assert_eq!(values(&kept), (0..served).map(|i| format!("{i}")).collect::<Vec<_>>());
    // Nobody's bytes may keep it from stopping, either.
    let status = cluster.broker.stop();
    if Kind::under_test() == Kind::Odradek {
        assert!(status.success(), "it stops in order: {status}");
    }
}

#[test]
fn what_is_no_kafka_request_at_all_costs_the_connection() {
    let mut cluster = Cluster::start("foreign", "");
    let foreign: &[(&str, &[u8])] = &[
        ("HTTP", b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n"),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        ("a negative length", b"\xff\xff\xff\xff"),
        ("a length beyond socket.request.max.bytes", b"\x7f\xff\xff\xff"),
        ("a length too short for a header", b"\0\0\0\x02\0\x12"),
        ("an unknown API", b"\0\0\0\x0a\x7f\x00\0\0\0\0\0\x01\xff\xff"),
        ("an unknown version of Produce", b"\0\0\0\x0a\0\0\x7f\x00\0\0\0\x01\xff\xff"),
    ];
    for (what, bytes) in foreign {
        let mut stream = TcpStream::connect(("127.0.0.1", cluster.broker.port)).expect("the broker accepts");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket option");
        stream.write_all(bytes).expect("the broker reads");
        let mut answer = Vec::new();
        // Closed with data unread, a connection may end by a reset.
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{what}: {error}"),
        }
        assert!(answer.is_empty(), "{what}: answered with {answer:?}");
    }
    assert!(cluster.broker.process().has_ended().is_none());
    assert!(!cluster.broker.client().metadata(&[]).expect("it serves").brokers.is_empty());
}

/// Of one who has the epochs right, and names what cannot be: each would damage what the broker keeps of all partitions.
#[test]
fn no_partition_that_could_not_be_gets_a_log() {
    let mut cluster = Cluster::start("impossible", "");
    let mut client = cluster.broker.client();
    client.create_topic("served", 1, &[]);
    client.produce("served", 0, batch(Codec::None, ["kept".to_owned()])).expect("it is served").expect("no error");
    let topic = |name: &str, partition_index, replicas| LeaderAndIsrTopicState {
        topic_name: name.to_owned(),
        partition_states: vec![LeaderAndIsrPartitionState {
            partition_index,
            isr: vec![0],
            replicas: vec![0; replicas],
            is_new: true,
            ..Default::default()
        }],
        ..Default::default()
    };
    let (name, number, replication) =
        (ErrorCode::InvalidTopicException, ErrorCode::InvalidPartitions, ErrorCode::InvalidReplicaAssignment);
    let (topic_states, expected): (Vec<_>, Vec<_>) = [
        (topic("../outside", 0, 1), name),
        (topic("../data/served", 0, 1), name),
        (topic("two words", 0, 1), name),
        (topic("two\nlines", 0, 1), name),
        (topic("", 0, 1), name),
        (topic("negative", -1, 1), number),
        (topic("everywhere", 0, 40_000), replication),
        (topic("possible", 0, 1), ErrorCode::None),
    ]
    .map(|(topic, code)| (topic.clone(), (topic.topic_name, code.code())))
    .into_iter()
    .unzip();
    // The controller is the first that there was.
    let request = LeaderAndIsrRequest { controller_epoch: 1, broker_epoch: -1, topic_states, ..Default::default() };
    let answer = client.call(&request, 4).expect("the broker answers");
    assert_eq!(answer.error_code, 0);
    let mut said: Vec<_> = answer.partition_errors.into_iter().map(|of| (of.topic_name, of.error_code)).collect();
    said.sort();
    let mut expected = expected;
    expected.sort();
    assert_eq!(said, expected);
    assert!(!cluster.scratch.path("outside-0").exists());
    let status = cluster.broker.stop();
    assert!(status.success(), "it stops in order: {status}");
    let checkpoint = std::fs::read_to_string(cluster.broker.data.join("recovery-point-offset-checkpoint"));
    let mut lines: Vec<_> = checkpoint.expect("a checkpoint").lines().skip(2).map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["possible 0 0", "served 0 1"]);
}
