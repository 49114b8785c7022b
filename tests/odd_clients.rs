//! What no client of Kafka's own sends and a JVM broker serves all the same: text that is not UTF-8, tagged fields in
//! any order. The file holds against JVM brokers too (see `tests/support`), which it was checked with.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::Bytes;
use odradek::codec::reader::Reader;
use odradek::protocol::message::{Message, Request};
use odradek::protocol::messages::api_versions::ApiVersionsRequest;
use odradek::protocol::messages::describe_groups::{DescribeGroupsRequest, DescribeGroupsResponse};
use odradek::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use odradek::protocol::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use odradek::protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use odradek::protocol::messages::offset_fetch::{OffsetFetchRequest, OffsetFetchRequestTopic};
use odradek::protocol::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use support::client::frame;
use support::{Broker, Cluster, Kind, PATIENCE, Scratch, ZooKeeper, eventually, free_port};

const TOPIC: &str = "orders";
const CORRELATION_ID: i32 = 7;
const GROUPS: &str = "__consumer_offsets";

/// The frame with other bytes in the place of as many.
fn with(mut frame: Vec<u8>, placeholder: &str, bytes: &[u8]) -> Vec<u8> {
    assert_eq!(placeholder.len(), bytes.len());
    let mut windows = frame.windows(bytes.len());
    let at = windows.position(|window| window == placeholder.as_bytes()).expect("it is there");
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// The body that answers a frame, as it came; `head` is what comes before it.
fn raw_answer(stream: &mut TcpStream, frame: &[u8], head: usize) -> Bytes {
    stream.write_all(frame).expect("the broker reads");
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("the broker answers");
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).expect("the broker answers");
    assert_eq!(answer[..4], CORRELATION_ID.to_be_bytes());
    Bytes::from(answer).slice(head..)
}

/// To a request of a version that is not flexible, or an ApiVersions.
fn answer<R: Request>(stream: &mut TcpStream, frame: &[u8], version: i16) -> R::Response {
    R::Response::decode(&mut Reader::new(raw_answer(stream, frame, 4)), version).expect("a well-formed answer")
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Of an orphan surrogate a JVM makes one character, and the number decides where the group is: its hash is 0xfffd.
#[test]
fn text_that_is_not_utf8_is_served_and_stored_as_a_jvm_reads_it() {
    const ORPHAN: &[u8] = &[0xed, 0xa0, 0x80];
    const PARTITIONS: i32 = 50;
    let cluster = Cluster::start("odd-text", &format!("offsets.topic.num.partitions={PARTITIONS}"));
    let mut client = cluster.broker.client();
    client.create_topic(TOPIC, 1, &[]);
    client.until_coordinated("@@@");
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.broker.port)).expect("the broker accepts");

    let versions = with(frame(&ApiVersionsRequest::default(), 0, CORRELATION_ID), "test", b"b\xfcro");
    assert_eq!(answer::<ApiVersionsRequest>(&mut stream, &versions, 0).error_code, 0);

    let partitions = vec![OffsetCommitRequestPartition {
        committed_offset: 5,
        committed_metadata: Some("!!".into()),
        ..Default::default()
    }];
    let topics = vec![OffsetCommitRequestTopic { name: TOPIC.into(), partitions }];
    let commit =
        OffsetCommitRequest { group_id: "@@@".into(), generation_id_or_member_epoch: -1, topics, ..Default::default() };
    let commit = with(with(frame(&commit, 2, CORRELATION_ID), "@@@", ORPHAN), "!!", &[0xff, 0]);
    eventually(PATIENCE, "the coordinator takes the commit", || {
        match answer::<OffsetCommitRequest>(&mut stream, &commit, 2).topics[0].partitions[0].error_code {
            0 => Ok(()),
            code => Err(format!("error {code}")),
        }
    });
    let topics = vec![OffsetFetchRequestTopic { name: TOPIC.into(), partition_indexes: vec![0] }];
    let fetch = OffsetFetchRequest { group_id: "@@@".into(), topics: Some(topics), ..Default::default() };
    let fetch = with(frame(&fetch, 2, CORRELATION_ID), "@@@", ORPHAN);
    let given = raw_answer(&mut stream, &fetch, 4);
    assert!(contains(&given, &[0, 0, 0, 0, 0, 0, 0, 5, 0, 4, 0xef, 0xbf, 0xbd, 0]), "{given:?}");
    assert_eq!(client.committed("\u{fffd}", TOPIC, 0), 5);
    let stored = client.read_all(GROUPS, 0xfffd % PARTITIONS, 0).expect("readable");
    let of_group = |key: &[u8]| key.starts_with(&[0, 1, 0, 3, 0xef, 0xbf, 0xbd, 0]);
    let record = stored.iter().find(|record| record.key.as_deref().is_some_and(of_group)).expect("it is there");
    assert!(contains(record.value.as_deref().unwrap_or_default(), &[0, 4, 0xef, 0xbf, 0xbd, 0]), "{record:?}");

    let group = |frame| with(with(frame, "gr@p", b"gr\xfcp"), "test", b"b\xfcro");
    client.until_coordinated("gr\u{fffd}p");
    let protocols = vec![JoinGroupRequestProtocol { name: "range".into(), metadata: Bytes::from_static(b"any") }];
    let join = JoinGroupRequest {
        group_id: "gr@p".into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
        protocol_type: "any".into(),
        protocols,
        ..Default::default()
    };
    let joined = answer::<JoinGroupRequest>(&mut stream, &group(frame(&join, 2, CORRELATION_ID)), 2);
    assert_eq!((joined.error_code, joined.generation_id), (0, 1), "{joined:?}");
    assert!(joined.member_id.starts_with("b\u{fffd}ro-"), "{joined:?}");
    let assignment =
        SyncGroupRequestAssignment { member_id: joined.member_id.clone(), assignment: Bytes::from_static(b"all") };
    let sync = SyncGroupRequest {
        group_id: "gr@p".into(),
        generation_id: 1,
        member_id: joined.member_id.clone(),
        assignments: vec![assignment],
        ..Default::default()
    };
    let synced = answer::<SyncGroupRequest>(&mut stream, &group(frame(&sync, 2, CORRELATION_ID)), 2);
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"all"[..]));
    let partitions = vec![OffsetCommitRequestPartition { committed_offset: 6, ..Default::default() }];
    let commit = OffsetCommitRequest {
        group_id: "gr@p".into(),
        generation_id_or_member_epoch: 1,
        member_id: joined.member_id,
        topics: vec![OffsetCommitRequestTopic { name: TOPIC.into(), partitions }],
        ..Default::default()
    };
    let committed = answer::<OffsetCommitRequest>(&mut stream, &group(frame(&commit, 2, CORRELATION_ID)), 2);
    assert_eq!(committed.topics[0].partitions[0].error_code, 0);
    let describe = DescribeGroupsRequest { groups: vec!["gr@p".into()], ..Default::default() };
    let described = answer::<DescribeGroupsRequest>(&mut stream, &group(frame(&describe, 0, CORRELATION_ID)), 0);
    let described = &described.groups[0];
    assert_eq!((&*described.group_id, &*described.group_state), ("gr\u{fffd}p", "Stable"));
    assert_eq!(described.members[0].client_id, "b\u{fffd}ro");
}

/// And more than once.
/// Source: kafka 3.9.0-rc3 generator/src/main/java/org/apache/kafka/message/MessageDataGenerator.java
/// (generateClassReader).
#[test]
fn tagged_fields_are_read_in_any_order() {
    let cluster = Cluster::start("odd-tags", "");
    let mut client = cluster.broker.client();
    client.create_topic(TOPIC, 1, &[]);
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.broker.port)).expect("the broker accepts");
    let in_frame = |body: Vec<u8>| [&(body.len() as i32).to_be_bytes()[..], &body].concat();

    let head = [0, 18, 0, 3, 0, 0, 0, CORRELATION_ID as u8, 0, 4, b't', b'e', b's', b't'];
    let tags = [3, 9, 1, b'x', 3, 0, 9, 2, b'x', b'y'];
    let versions = in_frame([&head[..], &tags, &[2, b'a', 2, b'1'], &tags].concat());
    assert_eq!(answer::<ApiVersionsRequest>(&mut stream, &versions, 3).error_code, 0);

    let partitions = vec![FetchPartition { partition_max_bytes: 1 << 20, ..Default::default() }];
    let topics = vec![FetchTopic { topic: TOPIC.into(), partitions, ..Default::default() }];
    let request = FetchRequest { max_bytes: 1 << 20, topics, session_epoch: -1, ..Default::default() };
    let mut body = frame(&request, 12, CORRELATION_ID)[4..].to_vec();
    assert_eq!(body.pop(), Some(0), "no tagged field is written");
    // The id of a cluster, which no broker with ZooKeeper looks at, is field 0.
    body.extend([5, 9, 0, 0, 2, 2, b'c', 7, 1, b'x', 0, 1, 0, 9, 0]);
    let given = raw_answer(&mut stream, &in_frame(body), 5);
    let response = <FetchRequest as Request>::Response::decode(&mut Reader::new(given), 12).expect("well-formed");
    let of_partition = &response.responses[0].partitions[0];
    assert_eq!((response.error_code, of_partition.error_code, of_partition.high_watermark), (0, 0, 0));
}

/// In what is said of members and in what is stored. Source: OpenJDK 17 java/net/Inet6Address.java (toString).
#[test]
fn the_host_of_a_member_is_written_as_a_jvm_writes_it() {
    let scratch = Scratch::new("odd-hosts");
    let zookeeper = ZooKeeper::start(&scratch);
    let [plain, local] = [free_port(), free_port()];
    let settings = format!(
        "listeners=PLAINTEXT://127.0.0.1:{plain},LOCAL://[::1]:{local}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,LOCAL:PLAINTEXT\noffsets.topic.num.partitions=1"
    );
    let mut broker = Broker::configure(&scratch, zookeeper.port, &settings);
    broker.port = plain;
    broker.start(Kind::under_test(), &scratch);
    let mut client = broker.client();
    client.until_coordinated("g");
    let mut stream = TcpStream::connect(("::1", local)).expect("the broker accepts");
    let protocols = vec![JoinGroupRequestProtocol { name: "range".into(), metadata: Bytes::from_static(b"any") }];
    let join = JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 30_000,
        protocol_type: "any".into(),
        protocols,
        ..Default::default()
    };
    let joined = eventually(PATIENCE, "the coordinator lets it join", || {
        let joined = answer::<JoinGroupRequest>(&mut stream, &frame(&join, 0, CORRELATION_ID), 0);
        if joined.error_code == 0 { Ok(joined) } else { Err(format!("{joined:?}")) }
    });
    let member_id = joined.member_id;
    let assignment =
        SyncGroupRequestAssignment { member_id: member_id.clone(), assignment: Bytes::from_static(b"all") };
    let sync = SyncGroupRequest {
        group_id: "g".into(),
        generation_id: joined.generation_id,
        member_id,
        assignments: vec![assignment],
        ..Default::default()
    };
    assert_eq!(answer::<SyncGroupRequest>(&mut stream, &frame(&sync, 0, CORRELATION_ID), 0).error_code, 0);
    let describe = DescribeGroupsRequest { groups: vec!["g".into()], ..Default::default() };
    let described: DescribeGroupsResponse = client.call(&describe, 0).expect("DescribeGroups is answered");
    assert_eq!(described.groups[0].members[0].client_host, "/0:0:0:0:0:0:0:1");
    let stored = client.read_all(GROUPS, 0, 0).expect("readable");
    let said = stored.iter().any(|record| contains(record.value.as_deref().unwrap_or_default(), b"/0:0:0:0:0:0:0:1"));
    assert!(said, "{stored:?}");
}
