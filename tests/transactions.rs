//! Transactions as Kafka's own clients see them: a consumer of committed records sees what was committed, whole, and
//! nothing else, whoever dies in between.

mod support;

use std::io::Write;
use std::process::Output;

use odradek::protocol::error_code::ErrorCode;
use odradek::protocol::message::Message;
use odradek::protocol::messages::add_offsets_to_txn::AddOffsetsToTxnRequest;
use odradek::protocol::messages::add_partitions_to_txn::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use odradek::protocol::messages::delete_topics::DeleteTopicsRequest;
use odradek::protocol::messages::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource};
use odradek::protocol::messages::describe_transactions::DescribeTransactionsRequest;
use odradek::protocol::messages::end_txn::EndTxnRequest;
use odradek::protocol::messages::find_coordinator::FindCoordinatorRequest;
use odradek::protocol::messages::init_producer_id::InitProducerIdRequest;
use odradek::protocol::messages::list_transactions::ListTransactionsRequest;
use odradek::protocol::messages::metadata::MetadataRequest;
use odradek::protocol::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use odradek::protocol::messages::produce::ProduceRequest;
use odradek::protocol::messages::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use odradek::protocol::messages::write_txn_markers::{
    WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest,
};
use odradek::record::compression::Codec;
use odradek_zookeeper::session::ZooKeeper as Session;
use odradek_zookeeper::settings::Settings;
use support::client::{Client, batch, frame};
use support::member::Member;
use support::transactional::{
    Jvm, Producer, high_watermark, id_coordinated_by, init, settled, stable_end, until_stable, until_state,
    until_transactions_are_coordinated,
};
use support::{Brokers, Cluster, Kind, PATIENCE, deps, eventually, jvm_tool, our_tool, repository, tied};
use tokio::runtime::Runtime;

fn until_position(jvm: &mut Jvm, expected: &str) {
    eventually(PATIENCE, "the group's position is decided", || {
        let told = jvm.told("position g orders 0");
        if told == expected { Ok(()) } else { Err(told) }
    });
}

const FEW_PARTITIONS: &str = "transaction.state.log.num.partitions=5";

#[test]
fn what_a_java_client_commits_is_seen_whole_and_nothing_else() {
    let mut cluster = Cluster::start("transactions", FEW_PARTITIONS);
    cluster.broker.client().create_topic("orders", 2, &[]);
    let mut jvm = Jvm::start(&cluster.scratch, &cluster.broker.address(), "kafka-3.9.2");
    jvm.all_ok(&["init a t 60000", "begin a", "send a orders 0 1 3", "send a orders 1 4 2", "commit a"]);
    jvm.all_ok(&["begin a", "send a orders 0 6 2", "abort a", "begin a", "send a orders 1 8 1", "send a orders 0 9 1"]);
    // What is open is not seen, nor what comes behind it.
    assert_eq!(jvm.told("read committed orders 0"), "1,2,3");
    assert_eq!(jvm.told("read uncommitted orders 0"), "1,2,3,6,7,9");
    assert_eq!(jvm.told("read committed orders 1"), "4,5");

    // Nor does a position count that may not stay.
    assert_eq!(jvm.told("position g orders 0"), "none");
    jvm.all_ok(&["offsets a g orders 0 3"]);

    // The broker dies with a transaction open, which goes on afterwards.
    cluster.broker.kill();
    cluster.start_broker(Kind::Odradek);
    assert_eq!(jvm.told("position g orders 0"), "TimeoutException");
    jvm.all_ok(&["send a orders 0 10 1", "commit a"]);
    until_position(&mut jvm, "3");
    jvm.all_ok(&["begin a", "offsets a g orders 0 5", "abort a"]);
    until_position(&mut jvm, "3");
    assert_eq!(jvm.told("read committed orders 0"), "1,2,3,9,10");
    assert_eq!(jvm.told("read committed orders 1"), "4,5,8");

    // It dies while a transaction is being ended, which is then whole.
    jvm.all_ok(&["begin a", "send a orders 0 100 2", "send a orders 1 100 1"]);
    jvm.ask("commit a");
    cluster.broker.kill();
    cluster.start_broker(Kind::Odradek);
    assert_eq!(jvm.answer(), "ok");
    let expected = "1,2,3,9,10,100,101".to_owned();
    assert_eq!(jvm.told("read committed orders 0"), expected);
    assert_eq!(jvm.told("read committed orders 1"), "4,5,8,100");

    // Whoever begins under the same id ends what the other had open, and the other can do nothing more.
    jvm.all_ok(&["begin a", "send a orders 0 900 1", "init b t 60000"]);
    let refused = jvm.told("commit a");
    assert!(["ProducerFencedException", "InvalidProducerEpochException"].contains(&&*refused), "{refused}");
    jvm.all_ok(&["begin b", "send b orders 0 901 1", "commit b"]);
    assert_eq!(jvm.told("read committed orders 0"), expected.clone() + ",901");

    // One that says nothing more is timed out, and fenced.
    jvm.all_ok(&[
        "init c silent 2000",
        "begin c",
        "send c orders 0 902 1",
        "begin b",
        "send b orders 0 903 1",
        "commit b",
    ]);
    eventually(PATIENCE, "the transaction is timed out", || {
        let seen = jvm.told("read committed orders 0");
        if seen == expected.clone() + ",901,903" { Ok(()) } else { Err(seen) }
    });
    let refused = jvm.told("commit c");
    assert!(["ProducerFencedException", "InvalidProducerEpochException"].contains(&&*refused), "{refused}");
}

#[test]
fn what_clients_of_other_releases_commit_is_seen_and_nothing_else() {
    let cluster = Cluster::start("transactions-releases", FEW_PARTITIONS);
    cluster.broker.client().create_topic("orders", 1, &[]);
    let mut expected = Vec::new();
    for (release, first) in [("2.8.2", 10), ("4.1.0", 20)] {
        let mut jvm = Jvm::start(&cluster.scratch, &cluster.broker.address(), &format!("clients-{release}"));
        let (second, third) = (first + 2, first + 3);
        jvm.all_ok(&["init a releases 60000", "begin a", &format!("send a orders 0 {first} 2")]);
        jvm.all_ok(&[&format!("offsets a g orders 0 {first}"), "commit a", "begin a"]);
        jvm.all_ok(&[&format!("send a orders 0 {second} 1"), "abort a"]);
        // Left open, for the next one to end.
        jvm.all_ok(&["begin a", &format!("send a orders 0 {third} 1")]);
        until_position(&mut jvm, &first.to_string());
        expected.extend([first, first + 1].map(|value| value.to_string()));
        assert_eq!(jvm.told("read committed orders 0"), expected.join(","), "{release}");
    }
}

/// What Flink writes down of a transaction before it commits is the producer's id and epoch; whoever commits has these alone,
/// and does it again whenever it cannot know that it has.
fn resumed_as_flink_does(kind: Kind, jars: &str) {
    let mut cluster = Cluster::start_as(kind, "transactions-resumed", FEW_PARTITIONS);
    cluster.broker.client().create_topic("orders", 1, &[]);
    let start = |cluster: &Cluster| Jvm::start(&cluster.scratch, &cluster.broker.address(), jars);
    let mut jvm = start(&cluster);
    // Long enough for all that comes before the commit, on a machine that is busy.
    jvm.all_ok(&["init a sink 600000", "begin a", "send a orders 0 1 3", "offsets a g orders 0 7", "flush a"]);
    let identity = jvm.told("identity a");
    drop(jvm);
    cluster.broker.kill();
    cluster.start_broker(kind);

    let resume = format!("resume a sink {identity}");
    let mut jvm = start(&cluster);
    assert_eq!(jvm.told("read committed orders 0"), "nothing");
    jvm.all_ok(&[&resume, "commit a"]);
    eventually(PATIENCE, "what is committed is read", || match jvm.told("read committed orders 0") {
        told if told == "1,2,3" => Ok(()),
        told => Err(told),
    });
    until_position(&mut jvm, "7");
    drop(jvm);
    cluster.broker.kill();
    cluster.start_broker(kind);
    let mut jvm = start(&cluster);
    jvm.all_ok(&[&resume, "commit a", &resume, "commit a", &resume]);
    assert_eq!(jvm.told("abort a"), "InvalidTxnStateException", "it is committed");
    assert_eq!(jvm.told("read committed orders 0"), "1,2,3");

    // The next one ends what is open and is whoever has the id from then on.
    jvm.all_ok(&["init b sink 60000", &resume]);
    assert_eq!(jvm.told("commit a"), "ProducerFencedException");
    jvm.all_ok(&["begin b", "send b orders 0 4 2", "flush b"]);
    let identity = jvm.told("identity b");
    jvm.all_ok(&[&format!("resume a sink {identity}"), "abort a"]);
    assert_eq!(jvm.told("read committed orders 0"), "1,2,3");
    assert_eq!(jvm.told("read uncommitted orders 0"), "1,2,3,4,5");
}

#[test]
fn a_transaction_is_committed_by_who_knows_its_producer_alone() {
    for jars in ["clients-2.8.2", "kafka-3.9.2", "clients-4.1.0"] {
        resumed_as_flink_does(Kind::Odradek, jars);
    }
}

#[test]
fn a_jvm_broker_takes_what_a_resumed_producer_asks_in_the_same_way() {
    resumed_as_flink_does(Kind::Jvm("3.9.2"), "kafka-3.9.2");
}

#[test]
fn what_librdkafka_commits_is_seen_and_nothing_else() {
    let cluster = Cluster::start("transactions-librdkafka", FEW_PARTITIONS);
    cluster.broker.client().create_topic("orders", 1, &[]);
    let mut python = tied(deps("python/bin/python"));
    python.arg(repository("tests/clients/python/confluent_kafka_transactions.py"));
    let output = python.arg(cluster.broker.address()).arg("orders").output().expect("there is Python");
    let [printed, said] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let seen: Vec<&str> = printed.lines().collect();
    assert_eq!(seen, ["position 3", "fenced", "committed 1,2,3,6,8"], "{said}");
}

#[test]
fn every_version_is_answered_in_success_and_in_refusal() {
    let cluster = Cluster::start("transaction-versions", FEW_PARTITIONS);
    let mut client = cluster.broker.client();
    client.create_topic("orders", 2, &[]);
    until_transactions_are_coordinated(&mut client);
    let topic = client
        .call(&MetadataRequest { topics: None, ..Default::default() }, 9)
        .expect("Metadata is answered")
        .topics
        .into_iter()
        .find(|topic| topic.name.as_deref() == Some("__transaction_state"))
        .expect("it was made");
    assert_eq!((topic.is_internal, topic.partitions.len()), (true, 5));
    coordinators_are_found(&mut client, cluster.broker.port);

    for version in 0..=5 {
        let id = format!("init-{version}");
        let first = settled("an id is given", || init(&mut client, &id, version), |told| told.error_code);
        assert_eq!((first.error_code, first.producer_epoch), (0, 0), "{first:?}");
        let second = init(&mut client, &id, version);
        assert_eq!((second.error_code, second.producer_id, second.producer_epoch), (0, first.producer_id, 1));
        let empty = init(&mut client, "", version);
        assert_eq!((empty.error_code, empty.producer_id), (ErrorCode::InvalidRequest.code(), -1));
        let request = InitProducerIdRequest {
            transactional_id: Some(id.clone()),
            transaction_timeout_ms: 900_001,
            ..Default::default()
        };
        let refused = client.call(&request, version).expect("InitProducerId is answered");
        assert_eq!(refused.error_code, ErrorCode::InvalidTransactionTimeout.code());
        if version < 3 {
            continue;
        }
        let go_on = |epoch| InitProducerIdRequest {
            transactional_id: Some(id.clone()),
            transaction_timeout_ms: 60_000,
            producer_id: first.producer_id,
            producer_epoch: epoch,
        };
        let fenced = client.call(&go_on(0), version).expect("InitProducerId is answered");
        let code = if version < 4 { ErrorCode::InvalidProducerEpoch } else { ErrorCode::ProducerFenced };
        assert_eq!(fenced.error_code, code.code());
        let gone_on = client.call(&go_on(1), version).expect("InitProducerId is answered");
        assert_eq!((gone_on.error_code, gone_on.producer_epoch), (0, 2));
        let half = client.call(&go_on(-1), version).expect("InitProducerId is answered");
        assert_eq!(half.error_code, ErrorCode::InvalidRequest.code());
    }

    let me = init(&mut client, "t", 4);
    let add = |version: i16, id: &str, epoch: i16, topics: &[(&str, i32)]| {
        let asked = topics.iter().map(|(name, partition)| AddPartitionsToTxnTopic {
            name: (*name).to_owned(),
            partitions: vec![*partition],
        });
        let request = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: id.to_owned(),
            v3_and_below_producer_id: me.producer_id,
            v3_and_below_producer_epoch: epoch,
            v3_and_below_topics: asked.collect(),
            ..Default::default()
        };
        let told = cluster.broker.client().call(&request, version).expect("AddPartitionsToTxn is answered");
        // A JVM broker tells them in any order.
        let code = |(name, partition): &(&str, i32)| {
            let of_topic = told.results_by_topic_v3_and_below.iter().filter(|topic| topic.name == *name);
            let mut found = of_topic.flat_map(|topic| &topic.results_by_partition);
            let found = found.find(|found| found.partition_index == *partition).expect("each is answered");
            ErrorCode::from_code(found.partition_error_code)
        };
        topics.iter().map(code).collect::<Vec<_>>()
    };
    let end = |version: i16, id: &str, epoch: i16, committed: bool| {
        let request = EndTxnRequest {
            transactional_id: id.to_owned(),
            producer_id: me.producer_id,
            producer_epoch: epoch,
            committed,
        };
        let told = cluster.broker.client().call(&request, version).expect("EndTxn is answered");
        ErrorCode::from_code(told.error_code)
    };
    for version in 0..=3 {
        use ErrorCode::{
            InvalidProducerEpoch, InvalidProducerIdMapping, InvalidRequest, InvalidTxnState, None,
            OperationNotAttempted, ProducerFenced, TopicAuthorizationFailed, UnknownTopicOrPartition,
        };
        let fenced = if version < 2 { InvalidProducerEpoch } else { ProducerFenced };
        let added = eventually(PATIENCE, "a partition is added", || {
            let codes = add(version, "t", 0, &[("orders", 0)]);
            if codes == [ErrorCode::ConcurrentTransactions] { Err("not yet".to_owned()) } else { Ok(codes) }
        });
        assert_eq!(added, [None]);
        assert_eq!(add(version, "t", 0, &[("orders", 0), ("orders", 1)]), [None; 2]);
        assert_eq!(
            add(version, "t", 0, &[("missing", 0), ("orders", 1), ("orders", 7)]),
            [UnknownTopicOrPartition, OperationNotAttempted, UnknownTopicOrPartition]
        );
        assert_eq!(
            add(version, "t", 0, &[("__consumer_offsets", 0), ("orders", 1)]),
            [TopicAuthorizationFailed, OperationNotAttempted]
        );
        assert_eq!(add(version, "t", 1, &[("orders", 0)]), [fenced]);
        assert_eq!(add(version, "nobody", 0, &[("orders", 0)]), [InvalidProducerIdMapping]);
        assert_eq!(add(version, "", 0, &[("orders", 0)]), [InvalidRequest]);
        assert_eq!(end(version, "t", 1, true), fenced);
        assert_eq!(end(version, "nobody", 0, true), InvalidProducerIdMapping);
        assert_eq!(end(version, "", 0, true), InvalidRequest);
        let commits = version % 2 == 0;
        assert_eq!(end(version, "t", 0, commits), None);
        let other = eventually(PATIENCE, "the transaction has ended", || match end(version, "t", 0, !commits) {
            ErrorCode::ConcurrentTransactions => Err("not yet".to_owned()),
            code => Ok(code),
        });
        assert_eq!(other, InvalidTxnState);
        assert_eq!(end(version, "t", 0, commits), None, "asked again");
    }
    assert_eq!(end(4, "t", 0, false), ErrorCode::None);
    offsets_in_transactions(&cluster, &mut client);
    for version in 4..=5 {
        use ErrorCode::{InvalidProducerIdMapping, OperationNotAttempted, TopicAuthorizationFailed};
        let added = |id: &str, topics: &[&str]| {
            let topics = topics
                .iter()
                .map(|name| AddPartitionsToTxnTopic { name: (*name).to_owned(), partitions: vec![0] })
                .collect();
            AddPartitionsToTxnTransaction {
                transactional_id: id.to_owned(),
                producer_id: me.producer_id,
                producer_epoch: 0,
                verify_only: false,
                topics,
            }
        };
        // Of a broker they may be internal, but not those of the coordinator itself.
        let transactions =
            vec![added("t", &["__transaction_state", "orders"]), added("nobody", &["__consumer_offsets"])];
        let request = AddPartitionsToTxnRequest { transactions, ..Default::default() };
        let told = client.call(&request, version).expect("AddPartitionsToTxn is answered").results_by_transaction;
        let codes = told.iter().flat_map(|one| &one.topic_results).map(|topic| {
            let code = ErrorCode::from_code(topic.results_by_partition[0].partition_error_code);
            (topic.name.as_str(), code)
        });
        let expected = [
            ("__transaction_state", TopicAuthorizationFailed),
            ("orders", OperationNotAttempted),
            ("__consumer_offsets", InvalidProducerIdMapping),
        ];
        assert_eq!(codes.collect::<Vec<_>>(), expected);
    }
    descriptions(&mut client, me.producer_id);

    for version in 0..=1 {
        let topic = |name: &str, partition_indexes| WritableTxnMarkerTopic { name: name.to_owned(), partition_indexes };
        let marker = |coordinator_epoch| WritableTxnMarker {
            producer_id: 77,
            producer_epoch: 0,
            transaction_result: true,
            topics: vec![topic("orders", vec![0, 5]), topic("missing", vec![0]), topic("__transaction_state", vec![0])],
            coordinator_epoch,
        };
        for (coordinator_epoch, code) in [(9, ErrorCode::None), (8, ErrorCode::TransactionCoordinatorFenced)] {
            let request = WriteTxnMarkersRequest { markers: vec![marker(coordinator_epoch)] };
            let told = client.call(&request, version).expect("WriteTxnMarkers is answered");
            let [of_producer] = &told.markers[..] else { panic!("{told:?}") };
            let codes = of_producer.topics.iter().flat_map(|topic| {
                topic
                    .partitions
                    .iter()
                    .map(|p| (topic.name.as_str(), p.partition_index, ErrorCode::from_code(p.error_code)))
            });
            let unknown = ErrorCode::UnknownTopicOrPartition;
            assert_eq!(
                codes.collect::<Vec<_>>(),
                [
                    ("__transaction_state", 0, ErrorCode::UnsupportedForMessageFormat),
                    ("missing", 0, unknown),
                    ("orders", 0, code),
                    ("orders", 5, unknown)
                ],
                "version {version}"
            );
        }
        let nothing = client.call(&WriteTxnMarkersRequest::default(), version).expect("WriteTxnMarkers is answered");
        assert_eq!(nothing.markers, []);
    }
}

/// Whoever may not begin a transaction, one without a name, is told so by its coordinator.
fn coordinators_are_found(client: &mut Client, port: u16) {
    for version in FindCoordinatorRequest::VERSIONS {
        // Version 0 knows coordinators of groups alone.
        let key_type = i8::from(version > 0);
        if version < 4 {
            for key in ["t", ""] {
                let request = FindCoordinatorRequest { key: key.to_owned(), key_type, ..Default::default() };
                let told = settled(
                    "there is a coordinator",
                    || client.call(&request, version).expect("FindCoordinator is answered"),
                    |told| told.error_code,
                );
                let found = (told.error_code, told.node_id, &*told.host, told.port);
                assert_eq!(found, (0, 0, "127.0.0.1", i32::from(port)), "version {version}, {key:?}");
                assert_eq!(
                    told.error_message.as_deref(),
                    Some(if version > 0 { "NONE" } else { "" }),
                    "version {version}"
                );
            }
            continue;
        }
        let mut find = |key_type, keys: &[&str]| {
            let coordinator_keys = keys.iter().map(|key| (*key).to_owned()).collect();
            let request = FindCoordinatorRequest { coordinator_keys, key_type, ..Default::default() };
            client.call(&request, version).expect("FindCoordinator is answered").coordinators
        };
        let found = find(key_type, &["t", "", "other", "t"]);
        for one in &found {
            let here = (0, 0, "127.0.0.1", i32::from(port));
            assert_eq!((one.error_code, one.node_id, &*one.host, one.port), here, "version {version}, {one:?}");
            assert_eq!(one.error_message.as_deref(), Some(""), "version {version}");
        }
        // A JVM broker repeats what a request repeats.
        let keys: &[&str] =
            if Kind::under_test() == Kind::Odradek { &["t", "", "other"] } else { &["t", "", "other", "t"] };
        assert_eq!(found.iter().map(|one| &*one.key).collect::<Vec<_>>(), keys, "version {version}");
        assert_eq!(find(key_type, &[]), [], "version {version}");
        let share = &find(2, &["s"])[0];
        let refused = if version < 6 { ErrorCode::InvalidRequest } else { ErrorCode::CoordinatorNotAvailable };
        assert_eq!((ErrorCode::from_code(share.error_code), share.node_id, &*share.host), (refused, -1, ""));
    }
}

fn offsets_in_transactions(cluster: &Cluster, client: &mut Client) {
    use ErrorCode::{
        InvalidGroupId, InvalidProducerEpoch, InvalidProducerIdMapping, InvalidTxnState, None, OffsetMetadataTooLarge,
        ProducerFenced, TransactionAbortable, UnknownMemberId, UnknownTopicOrPartition, UnstableOffsetCommit,
    };
    client.until_coordinated("g");
    let me = settled("an id is given", || init(client, "offsets", 4), |told| told.error_code);
    for version in 0..=4 {
        // Nobody said that the transaction has offsets, or it has ended since.
        let early = TxnOffsetCommitRequest {
            transactional_id: "offsets".to_owned(),
            group_id: "g".to_owned(),
            producer_id: me.producer_id,
            topics: vec![TxnOffsetCommitRequestTopic {
                name: "orders".to_owned(),
                partitions: vec![TxnOffsetCommitRequestPartition::default()],
            }],
            ..Default::default()
        };
        let told = settled(
            "the coordinator has decided",
            || client.call(&early, version).expect("TxnOffsetCommit is answered").topics[0].partitions[0].error_code,
            |code| *code,
        );
        let unopened = if version < 4 { InvalidTxnState } else { TransactionAbortable };
        assert_eq!(ErrorCode::from_code(told), unopened, "version {version}");

        let mut add = |id: &str, epoch| {
            let request = AddOffsetsToTxnRequest {
                transactional_id: id.to_owned(),
                producer_id: me.producer_id,
                producer_epoch: epoch,
                group_id: "g".to_owned(),
            };
            client.call(&request, version).expect("AddOffsetsToTxn is answered")
        };
        let added = settled("the offsets are added", || add("offsets", 0), |told| told.error_code);
        assert_eq!(added.error_code, None.code());
        let fenced = if version < 2 { InvalidProducerEpoch } else { ProducerFenced };
        assert_eq!(add("offsets", 1).error_code, fenced.code());
        assert_eq!(add("nobody", 0).error_code, InvalidProducerIdMapping.code());

        let partition = |partition_index, offset| TxnOffsetCommitRequestPartition {
            partition_index,
            committed_offset: offset,
            ..Default::default()
        };
        let mut commit = |group: &str, member: &str, generation_id, partitions| {
            let request = TxnOffsetCommitRequest {
                transactional_id: "offsets".to_owned(),
                group_id: group.to_owned(),
                producer_id: me.producer_id,
                generation_id,
                member_id: member.to_owned(),
                topics: vec![TxnOffsetCommitRequestTopic { name: "orders".to_owned(), partitions }],
                ..Default::default()
            };
            let mut told =
                client.call(&request, version).expect("TxnOffsetCommit is answered").topics.remove(0).partitions;
            // A JVM broker tells them in any order.
            told.sort_by_key(|partition| partition.partition_index);
            told.iter().map(|partition| ErrorCode::from_code(partition.error_code)).collect::<Vec<_>>()
        };
        let mut long = partition(1, 5);
        long.committed_metadata = Some("x".repeat(4097));
        let offset = 100 + i64::from(version);
        let partitions = vec![partition(0, offset), long, partition(7, 5)];
        assert_eq!(commit("g", "", -1, partitions), [None, OffsetMetadataTooLarge, UnknownTopicOrPartition]);
        assert_eq!(commit("", "", -1, vec![partition(0, 1)]), [InvalidGroupId]);
        if version >= 3 {
            assert_eq!(commit("g", "m", 0, vec![partition(0, 1)]), [UnknownMemberId]);
            assert_eq!(commit("g", "", 4, vec![partition(0, 1)]), [UnknownMemberId]);
        }

        let before = if version == 0 { -1 } else { offset - 1 };
        for fetch in 7..=9 {
            assert_eq!(fetched(client, fetch, true), (UnstableOffsetCommit, -1), "OffsetFetch {fetch}");
            assert_eq!(fetched(client, fetch, false), (None, before), "OffsetFetch {fetch}");
        }
        let end = EndTxnRequest {
            transactional_id: "offsets".to_owned(),
            producer_id: me.producer_id,
            producer_epoch: 0,
            committed: true,
        };
        assert_eq!(client.call(&end, 3).expect("EndTxn is answered").error_code, 0);
        for fetch in 7..=9 {
            eventually(PATIENCE, "the offset counts", || {
                let found = fetched(client, fetch, true);
                if found == (None, offset) { Ok(()) } else { Err(format!("{found:?}")) }
            });
        }
    }
    let me = Producer { id: "offsets".to_owned(), me, sequence: 0 };
    for version in 3..=4 {
        let request = AddOffsetsToTxnRequest {
            transactional_id: me.id.clone(),
            producer_id: me.me.producer_id,
            producer_epoch: me.me.producer_epoch,
            group_id: "static".to_owned(),
        };
        let mut add = || client.call(&request, version).expect("AddOffsetsToTxn is answered").error_code;
        assert_eq!(settled("the offsets are added", &mut add, |code| *code), 0);
        Member::commits_while_it_is_one("static", &me, version, &|| cluster.broker.client());
        assert_eq!(me.end(client, false), None);
    }
}

/// Of `g`, what it has committed in the first partition of `orders`. The group had the whole request to itself before version 8.
fn fetched(client: &mut Client, version: i16, require_stable: bool) -> (ErrorCode, i64) {
    let told = match version {
        7 => {
            let topics = vec![OffsetFetchRequestTopic { name: "orders".to_owned(), partition_indexes: vec![0] }];
            let request = OffsetFetchRequest {
                group_id: "g".to_owned(),
                topics: Some(topics),
                require_stable,
                ..Default::default()
            };
            let found = &client.call(&request, version).expect("OffsetFetch is answered").topics[0].partitions[0];
            (found.error_code, found.committed_offset)
        }
        _ => {
            let topics = vec![OffsetFetchRequestTopics { name: "orders".to_owned(), partition_indexes: vec![0] }];
            let group =
                OffsetFetchRequestGroup { group_id: "g".to_owned(), topics: Some(topics), ..Default::default() };
            let request = OffsetFetchRequest { groups: vec![group], require_stable, ..Default::default() };
            let told = client.call(&request, version).expect("OffsetFetch is answered");
            let found = &told.groups[0].topics[0].partitions[0];
            (found.error_code, found.committed_offset)
        }
    };
    (ErrorCode::from_code(told.0), told.1)
}

/// It would read again what the open transaction has consumed.
#[test]
fn our_consumer_waits_for_offsets_of_an_open_transaction() {
    let cluster = Cluster::start("transactions-stable", "");
    let client = &mut cluster.broker.client();
    client.create_topic("orders", 1, &[]);
    let written = batch(Codec::None, ["one".to_owned(), "two".to_owned()]);
    client.produce("orders", 0, written).expect("answered").expect("appended");
    client.until_coordinated("g");
    until_transactions_are_coordinated(client);
    let me = Producer::begin(client, "offsets");
    let add = AddOffsetsToTxnRequest {
        transactional_id: me.id.clone(),
        producer_id: me.me.producer_id,
        producer_epoch: me.me.producer_epoch,
        group_id: "g".to_owned(),
    };
    let mut add_to = || client.call(&add, 3).expect("AddOffsetsToTxn is answered").error_code;
    assert_eq!(settled("the offsets are added", &mut add_to, |code| *code), 0);
    let position = TxnOffsetCommitRequestPartition { committed_offset: 1, ..Default::default() };
    let commit = TxnOffsetCommitRequest {
        transactional_id: me.id.clone(),
        group_id: "g".to_owned(),
        producer_id: me.me.producer_id,
        producer_epoch: me.me.producer_epoch,
        topics: vec![TxnOffsetCommitRequestTopic { name: "orders".to_owned(), partitions: vec![position] }],
        ..Default::default()
    };
    let told = client.call(&commit, 3).expect("TxnOffsetCommit is answered");
    assert_eq!(told.topics[0].partitions[0].error_code, 0);
    let address = cluster.broker.address();
    let consumer = |more: &[&str]| {
        let to_read = ["--bootstrap-server", &address, "--topic", "orders", "--group", "g", "--from-beginning"];
        cluster.script("kafka-console-consumer.sh", &[&to_read[..], more].concat(), "")
    };
    assert_eq!(consumer(&["--timeout-ms", "3000"]).as_deref(), Ok(""));
    assert_eq!(me.end(client, true), ErrorCode::None);
    assert_eq!(consumer(&["--max-messages", "1"]).as_deref(), Ok("two\n"));
}

fn descriptions(client: &mut Client, producer_id: i64) {
    let add = AddPartitionsToTxnRequest {
        v3_and_below_transactional_id: "t".to_owned(),
        v3_and_below_producer_id: producer_id,
        v3_and_below_topics: vec![AddPartitionsToTxnTopic { name: "orders".to_owned(), partitions: vec![1, 0] }],
        ..Default::default()
    };
    eventually(PATIENCE, "a transaction is opened", || {
        let told = client.call(&add, 3).expect("AddPartitionsToTxn is answered");
        let code = told.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code;
        if code == 0 { Ok(()) } else { Err(code.to_string()) }
    });
    let transactional_ids = ["t", "init-5", "nobody", ""].map(String::from).to_vec();
    let told = client.call(&DescribeTransactionsRequest { transactional_ids }, 0).expect("it is answered");
    let [open, idle, unknown, empty] = &told.transaction_states[..] else { panic!("{told:?}") };
    assert_eq!((open.error_code, &*open.transaction_state, open.transaction_timeout_ms), (0, "Ongoing", 60_000));
    assert_eq!((open.producer_id, open.producer_epoch), (producer_id, 0));
    assert!(open.transaction_start_time_ms > 1_700_000_000_000);
    let topics: Vec<_> = open.topics.iter().map(|topic| (&*topic.topic, &topic.partitions[..])).collect();
    assert_eq!(topics, [("orders", &[0, 1][..])]);
    assert_eq!((&*idle.transaction_state, idle.transaction_start_time_ms, idle.topics.len()), ("Empty", -1, 0));
    assert_eq!(unknown.error_code, ErrorCode::TransactionalIdNotFound.code());
    assert_eq!(empty.error_code, ErrorCode::InvalidRequest.code());

    let mut list = |version, states: &[&str], producer_id_filters: &[i64], duration_filter| {
        let request = ListTransactionsRequest {
            state_filters: states.iter().map(|state| (*state).to_owned()).collect(),
            producer_id_filters: producer_id_filters.to_vec(),
            duration_filter,
        };
        let told = client.call(&request, version).expect("ListTransactions is answered");
        assert_eq!(told.error_code, 0);
        let listed = told.transaction_states.into_iter().map(|one| (one.transactional_id, one.transaction_state));
        let mut listed: Vec<(String, String)> = listed.collect();
        listed.sort_unstable();
        (listed, told.unknown_state_filters)
    };
    let open = vec![("t".to_owned(), "Ongoing".to_owned())];
    for version in 0..=1 {
        let (all, _) = list(version, &[], &[], -1);
        assert_eq!(all.len(), 8, "{all:?}");
        assert_eq!(list(version, &["Ongoing", "made up"], &[], -1), (open.clone(), vec!["made up".to_owned()]));
        assert_eq!(list(version, &[], &[producer_id], -1).0, open);
        assert_eq!(list(version, &["Empty"], &[producer_id], -1).0, []);
    }
    assert_eq!(list(1, &["Ongoing"], &[], 1_000_000).0, []);
    assert_eq!(list(1, &["Ongoing"], &[], 0).0, open);
}

/// KIP-890.
#[test]
fn a_log_opens_no_transaction_that_its_coordinator_does_not_confirm() {
    use ErrorCode::{InvalidProducerEpoch, InvalidTxnState, None, TransactionAbortable};
    let cluster = Cluster::start("transaction-verification", FEW_PARTITIONS);
    let mut client = cluster.broker.client();
    client.create_topic("orders", 2, &[]);
    until_transactions_are_coordinated(&mut client);
    let mut me = Producer::begin(&mut client, "t");
    // Nobody said that it would write here.
    assert_eq!(me.send(&mut client, 10, 0, 0), InvalidTxnState);
    assert_eq!(me.send(&mut client, 11, 0, 0), TransactionAbortable);
    me.add(&mut client, "orders", 0);
    // Five in flight, as producers send them: what is asked first is asked once, and the order stays.
    let requests: Vec<i32> =
        (0..5).map(|sequence| client.send(&me.request("orders", 0, sequence), 11).expect("it is sent")).collect();
    for (offset, correlation_id) in (0..).zip(requests) {
        let told = client.receive::<ProduceRequest>(11, correlation_id).expect("Produce is answered");
        let told = &told.responses[0].partition_responses[0];
        assert_eq!((told.error_code, told.base_offset), (0, offset));
    }
    me.sequence = 5;
    assert_eq!(me.send(&mut client, 11, 1, 0), TransactionAbortable, "another partition");
    assert_eq!(me.end(&mut client, true), None);
    until_stable(&mut client, 0, 6);
    // The marker is there before the coordinator has heard of it, and until then the answer is to ask again.
    until_state(&mut client, "t", "CompleteCommit", &[]);
    // A request that was delayed until after the marker.
    assert_eq!(me.send(&mut client, 11, 0, 5), TransactionAbortable);
    assert_eq!(me.send(&mut client, 9, 0, 5), InvalidTxnState);
    until_stable(&mut client, 0, 6);
    // A zombie.
    let next = Producer::begin(&mut client, "t");
    assert_eq!(next.me.producer_epoch, 1);
    assert_eq!(me.send(&mut client, 11, 0, 5), InvalidProducerEpoch);
    // Records that belong to no transactional id.
    let nameless = ProduceRequest { transactional_id: Option::None, ..me.request("orders", 0, 5) };
    let told = client.call(&nameless, 11).expect("Produce is answered");
    let code = ErrorCode::from_code(told.responses[0].partition_responses[0].error_code);
    assert_eq!(code, ErrorCode::TransactionalIdAuthorizationFailed);
}

#[test]
fn a_broker_that_is_told_not_to_verify_takes_what_comes() {
    let settings = format!("{FEW_PARTITIONS}\ntransaction.partition.verification.enable=false");
    let cluster = Cluster::start("transactions-unverified", &settings);
    let mut client = cluster.broker.client();
    client.create_topic("orders", 1, &[]);
    until_transactions_are_coordinated(&mut client);
    let me = Producer::begin(&mut client, "t");
    assert_eq!(me.send(&mut client, 11, 0, 0), ErrorCode::None);
    assert_eq!(stable_end(&mut client, 0), Ok(0), "it hangs");
}

/// What a topic has of its own.
fn settings_of(client: &mut Client, topic: &str) -> Vec<(String, Option<String>)> {
    const TOPIC: i8 = 2;
    const OF_THE_TOPIC: i8 = 1;
    let resource =
        DescribeConfigsResource { resource_type: TOPIC, resource_name: topic.to_owned(), configuration_keys: None };
    let request = DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
    let told = client.call(&request, 4).expect("DescribeConfigs is answered");
    let told = &told.results[0];
    assert_eq!(told.error_code, 0, "{told:?}");
    let own = told.configs.iter().filter(|config| config.config_source == OF_THE_TOPIC);
    let mut own: Vec<_> = own.map(|config| (config.name.clone(), config.value.clone())).collect();
    own.sort_unstable();
    own
}

/// A transaction that is open, one that is being ended, and what was ended before, taken over by another kind of broker.
fn taken_over(first: Kind, second: Kind) {
    let mut cluster = Cluster::start_as(first, "transactions-taken-over", FEW_PARTITIONS);
    let mut client = cluster.broker.client();
    client.create_topic("orders", 2, &[]);
    until_transactions_are_coordinated(&mut client);
    // Whoever makes the topic gives it the same settings.
    let expected = [
        ("cleanup.policy", "compact"),
        ("compression.type", "uncompressed"),
        ("min.insync.replicas", "1"),
        ("segment.bytes", "104857600"),
        ("unclean.leader.election.enable", "false"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), Some(value.to_owned())));
    assert_eq!(settings_of(&mut client, "__transaction_state"), expected, "made by {first:?}");
    let mut open = Producer::begin(&mut client, "open");
    for committed in [true, false] {
        open.add(&mut client, "orders", 0);
        open.append(&mut client, 0);
        let told = settled("it is ended", || open.end(&mut client, committed), |code| code.code());
        assert_eq!(told, ErrorCode::None);
        until_stable(&mut client, 0, if committed { 2 } else { 4 });
    }
    open.add(&mut client, "orders", 0);
    open.append(&mut client, 0);
    let mut ending = Producer::begin(&mut client, "ending");
    ending.add(&mut client, "orders", 1);
    ending.append(&mut client, 1);
    assert_eq!(ending.end(&mut client, true), ErrorCode::None);
    if let Kind::Jvm(_) = second {
        // One that loads what is being ended before it has been told who leads takes the partition for deleted, and its
        // marker is never written. Source: kafka 3.9.1 TransactionMarkerChannelManager.scala (addTxnMarkersToBrokerQueue).
        until_state(&mut client, &ending.id, "CompleteCommit", &[]);
    }
    cluster.broker.kill();
    cluster.start_broker(second);

    let mut client = cluster.broker.client();
    until_transactions_are_coordinated(&mut client);
    until_stable(&mut client, 1, 2);
    assert_eq!(stable_end(&mut client, 0), Ok(4), "it is open still");
    open.append(&mut client, 0);
    let told = settled("it is ended", || open.end(&mut client, true), |code| code.code());
    assert_eq!(told, ErrorCode::None);
    until_stable(&mut client, 0, 7);
    let next = settled("the id goes on", || init(&mut client, "open", 4), |told| told.error_code);
    assert_eq!((next.producer_id, next.producer_epoch), (open.me.producer_id, 1));
}

#[test]
fn a_jvm_brokers_transactions_go_on_under_ours() {
    taken_over(Kind::Jvm("3.9.2"), Kind::Odradek);
}

#[test]
fn our_transactions_go_on_under_a_jvm_broker() {
    taken_over(Kind::Odradek, Kind::Jvm("3.9.2"));
}

fn delete_topic(brokers: &Brokers, topic: &str) {
    let request = DeleteTopicsRequest { topic_names: vec![topic.into()], timeout_ms: 30_000, ..Default::default() };
    let told = at_controller(brokers).call(&request, 4).expect("DeleteTopics is answered");
    assert_eq!(told.responses[0].error_code, 0);
    let runtime = Runtime::new().expect("a runtime");
    let settings = Settings::new(format!("127.0.0.1:{}", brokers.zookeeper.port));
    let session = runtime.block_on(Session::connect(settings)).expect("ZooKeeper serves");
    let path = format!("/brokers/topics/{topic}");
    eventually(PATIENCE, "the topic is gone", || match runtime.block_on(session.exists(&path)) {
        Ok(None) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    for broker in &brokers.brokers {
        eventually(PATIENCE, "each broker has heard of it", || {
            let told = broker.client().metadata(&[topic]).map_err(|error| error.to_string())?.topics.remove(0);
            let is_unknown = told.error_code == ErrorCode::UnknownTopicOrPartition.code();
            if is_unknown { Ok(()) } else { Err(format!("{told:?}")) }
        });
    }
}

fn at_controller(brokers: &Brokers) -> Client {
    brokers.client(brokers.client(0).metadata(&[]).expect("it answers").controller_id)
}

#[test]
fn a_transaction_ends_though_leaders_die_and_topics_go() {
    let mut brokers = Brokers::start("transactions-without-leader", 2, FEW_PARTITIONS);
    let mut coordinating = brokers.client(0);
    coordinating.create_topic("orders", 2, &[]);
    coordinating.create_topic("passing", 1, &[]);
    let led_by = |broker| {
        let mut numbers = 0..2;
        let is_led = |partition: &i32| {
            brokers.until_partition("orders", *partition, "led", |found| found.leader_id >= 0).leader_id == broker
        };
        numbers.find(is_led).expect("the partitions are spread")
    };
    let (here, there) = (led_by(0), led_by(1));
    let passing = brokers.until_partition("passing", 0, "led", |found| found.leader_id >= 0).leader_id;
    let mut me = Producer::begin(&mut coordinating, &id_coordinated_by(&brokers, 0));
    me.add(&mut coordinating, "orders", here);
    me.add(&mut coordinating, "orders", there);
    me.add(&mut coordinating, "passing", 0);
    me.append(&mut brokers.client(0), here);
    me.sequence = 0;
    me.append(&mut brokers.client(1), there);
    let to_passing = me.request("passing", 0, 0);
    let told = brokers.client(passing).call(&to_passing, 9).expect("Produce is answered");
    assert_eq!(told.responses[0].partition_responses[0].error_code, 0);

    // One topic goes, and one leader.
    delete_topic(&brokers, "passing");
    brokers.brokers[1].kill();
    assert_eq!(me.end(&mut coordinating, true), ErrorCode::None);
    until_stable(&mut coordinating, here, 2);
    let missing = vec![("orders".to_owned(), vec![there])];
    until_state(&mut coordinating, &me.id, "PrepareCommit", &missing);
    // So does the coordinator, which has sent all that it could, and knows after its start what is left.
    brokers.brokers[0].kill();
    brokers.start_broker(0, Kind::Odradek);
    brokers.start_broker(1, Kind::Odradek);
    until_stable(&mut brokers.client(1), there, 2);
    until_state(&mut brokers.client(0), &me.id, "CompleteCommit", &[]);
}

/// Its markers meet no log, or one that knows nothing of it; and so does what its producer has sent.
#[test]
fn a_transaction_ends_though_its_topic_is_made_anew() {
    use ErrorCode::{InvalidProducerEpoch, InvalidTxnState, None, TransactionAbortable};
    let brokers = Brokers::start("transactions-anew", 2, FEW_PARTITIONS);
    let make = || {
        // The controller may have more to forget than its znode.
        eventually(PATIENCE, "the topic is made", || {
            let made = at_controller(&brokers).try_create_topic("orders", 2, &[]);
            match made.map_err(|error| error.to_string())? {
                0 => Ok(()),
                code => Err(format!("error {code}")),
            }
        });
        [0, 1].map(|partition| brokers.until_partition("orders", partition, "led", |_| true).leader_id)
    };
    let mut leaders = make();
    assert_ne!(leaders[0], leaders[1], "one partition is led where the transaction is coordinated, one is not");
    // Of Produce; with 12 its producer follows version 2 of the protocol.
    for (version, refused) in [(9, InvalidTxnState), (11, TransactionAbortable), (12, InvalidProducerEpoch)] {
        for (committed, ends_first) in [(true, true), (true, false), (false, true), (false, false)] {
            let id = format!("{version}-{committed}-{ends_first}");
            let mut coordinating = brokers.client(Producer::coordinator(&brokers, &id));
            let write = |me: &mut Producer, coordinating: &mut Client, leaders: [i32; 2], sequence| {
                for (partition, leader) in (0..).zip(leaders) {
                    me.sequence = sequence;
                    if version < 12 {
                        me.add(coordinating, "orders", partition);
                        me.append(&mut brokers.client(leader), partition);
                    } else {
                        me.write(&mut brokers.client(leader), partition);
                    }
                }
            };
            let end = |me: &mut Producer, coordinating: &mut Client| {
                let ended = if version < 12 {
                    me.end(coordinating, committed)
                } else {
                    me.end_and_bump(coordinating, committed)
                };
                assert_eq!(ended, None, "{id}");
            };
            let state = if committed { "CompleteCommit" } else { "CompleteAbort" };
            let mut me = Producer::begin(&mut coordinating, &id);
            write(&mut me, &mut coordinating, leaders, 0);
            let before = Producer { id: id.clone(), me: me.me.clone(), sequence: 0 };
            delete_topic(&brokers, "orders");
            if ends_first {
                end(&mut me, &mut coordinating);
                until_state(&mut coordinating, &id, state, &[]);
            }
            leaders = make();
            if !ends_first {
                // What comes late is of the transaction still.
                for (partition, leader) in (0..).zip(leaders) {
                    let late = before.send(&mut brokers.client(leader), version, partition, 0);
                    assert_eq!(late, None, "{id}: {partition}");
                }
                end(&mut me, &mut coordinating);
                until_state(&mut coordinating, &id, state, &[]);
            }
            let length = if ends_first { 0 } else { 2 };
            for (partition, leader) in (0..).zip(leaders) {
                let mut leader = brokers.client(leader);
                assert_eq!(before.send(&mut leader, version, partition, 1), refused, "{id}: {partition}");
                until_stable(&mut leader, partition, length);
                assert_eq!(high_watermark(&mut leader, partition), Ok(length), "{id}: {partition}");
            }
            write(&mut me, &mut coordinating, leaders, if version < 12 { 1 } else { 0 });
            end(&mut me, &mut coordinating);
            for (partition, leader) in (0..).zip(leaders) {
                let mut leader = brokers.client(leader);
                until_stable(&mut leader, partition, length + 2);
                assert_eq!(high_watermark(&mut leader, partition), Ok(length + 2), "{id}: {partition}");
            }
            until_state(&mut coordinating, &id, state, &[]);
        }
    }
}

#[test]
fn whoever_is_elected_coordinates_what_the_one_before_began() {
    let settings = "transaction.state.log.num.partitions=2\ntransaction.state.log.replication.factor=2";
    let mut brokers = Brokers::start("transactions-elected", 2, settings);
    brokers.client(0).create_replicated_topic("orders", 1, 2, &[]);
    brokers.until_partition("orders", 0, "in sync", |found| found.isr_nodes.len() == 2);
    let id = id_coordinated_by(&brokers, 1);
    for partition in 0..2 {
        brokers.until_partition("__transaction_state", partition, "in sync", |found| found.isr_nodes.len() == 2);
    }
    let mut me = Producer::begin(&mut brokers.client(1), &id);
    me.add(&mut brokers.client(1), "orders", 0);
    let leader = brokers.until_partition("orders", 0, "led", |found| found.leader_id >= 0).leader_id;
    me.append(&mut brokers.client(leader), 0);
    brokers.brokers[1].kill();
    let mut left = brokers.client(0);
    brokers.until_partition("orders", 0, "led here", |found| found.leader_id == 0);
    let ended = settled("the new coordinator ends it", || me.end(&mut left, true), |code| code.code());
    assert_eq!(ended, ErrorCode::None);
    until_stable(&mut left, 0, 2);
    let next = settled("the id goes on", || init(&mut left, &id, 4), |told| told.error_code);
    assert_eq!((next.error_code, next.producer_id, next.producer_epoch), (0, me.me.producer_id, 1));
}

fn transact_across(kinds: &[Kind], protocol: &str) {
    let settings = format!(
        "transaction.state.log.num.partitions=4\ninter.broker.protocol.version={protocol}\n\
         transaction.abort.timed.out.transaction.cleanup.interval.ms=1000"
    );
    let brokers = Brokers::start_as("transactions-across", kinds, &settings);
    brokers.client(0).create_topic("orders", 4, &[]);
    let leader =
        |partition| brokers.until_partition("orders", partition, "led", |found| found.leader_id >= 0).leader_id;
    let leaders: Vec<i32> = (0..4).map(leader).collect();
    let mut ends = [0; 4];
    let mut coordinators = std::collections::BTreeSet::new();
    for number in 0..6 {
        let id = format!("id-{number}");
        let coordinator = Producer::coordinator(&brokers, &id);
        coordinators.insert(coordinator);
        let mut coordinating = brokers.client(coordinator);
        let mut me = Producer::begin(&mut coordinating, &id);
        let unasked = me.send(&mut brokers.client(leaders[0]), 9, 0, 0);
        assert_eq!(unasked, ErrorCode::InvalidTxnState, "coordinated by {coordinator}, led by {}", leaders[0]);
        for (partition, leader) in (0..).zip(&leaders) {
            me.sequence = 0;
            me.add(&mut coordinating, "orders", partition);
            me.append(&mut brokers.client(*leader), partition);
        }
        assert_eq!(me.end(&mut coordinating, number % 2 == 0), ErrorCode::None);
        for (partition, leader) in (0..).zip(&leaders) {
            ends[partition as usize] += 2;
            until_stable(&mut brokers.client(*leader), partition, ends[partition as usize]);
        }
    }
    assert_eq!(coordinators.len(), 2, "each broker coordinates some");
    assert!(leaders.contains(&0) && leaders.contains(&1), "each broker leads some: {leaders:?}");
}

#[test]
fn a_broker_coordinates_what_another_leads() {
    transact_across(&[Kind::Odradek, Kind::Odradek], "3.9");
}

#[test]
fn ours_and_a_jvm_broker_of_3_9_coordinate_for_each_other() {
    transact_across(&[Kind::Odradek, Kind::Jvm("3.9.2")], "3.9");
}

#[test]
fn ours_and_a_jvm_broker_of_3_6_coordinate_for_each_other() {
    transact_across(&[Kind::Odradek, Kind::Jvm("3.6.2")], "3.6");
}

/// No producer is given another one: 32,767 is there to fence it.
const LAST_EPOCH: i16 = 32_766;

/// A producer that has begun anew so often that it has had all epochs of its id.
fn at_its_last_epoch(client: &mut Client, id: &str) -> Producer {
    const AT_ONCE: usize = 302;
    let mut me = Producer::begin(client, id);
    let first = me.me.producer_id;
    let request = InitProducerIdRequest {
        transactional_id: Some(id.into()),
        transaction_timeout_ms: 60_000,
        ..Default::default()
    };
    let frames = frame(&request, 4, 1).repeat(AT_ONCE);
    while me.me.producer_epoch < LAST_EPOCH {
        let left = usize::try_from(LAST_EPOCH - me.me.producer_epoch).expect("it is less");
        let count = left.min(AT_ONCE);
        client.stream.write_all(&frames[..frames.len() / AT_ONCE * count]).expect("the broker reads");
        for _ in 0..count {
            me.me = client.receive::<InitProducerIdRequest>(4, 1).expect("InitProducerId is answered");
            assert_eq!(me.me.error_code, 0);
        }
    }
    assert_eq!((me.me.producer_id, me.me.producer_epoch), (first, LAST_EPOCH));
    me
}

#[test]
fn whoever_has_had_all_epochs_of_an_id_goes_on_with_another() {
    use ErrorCode::{InvalidProducerIdMapping, None};
    let cluster = Cluster::start("transactions-epochs", FEW_PARTITIONS);
    let mut client = cluster.broker.client();
    client.create_topic("orders", 3, &[]);
    until_transactions_are_coordinated(&mut client);
    let (mut idle, mut open, mut going_on) = std::thread::scope(|scope| {
        let producers = ["idle", "open", "going on"].map(|id| {
            let mut client = cluster.broker.client();
            scope.spawn(move || at_its_last_epoch(&mut client, id))
        });
        let [idle, open, going_on] = producers.map(|producer| producer.join().expect("it gets there"));
        (idle, open, going_on)
    });
    let fenced = |client: &mut Client, before: &Producer, now: &Producer, partition: i32| {
        assert_ne!(before.me.producer_id, now.me.producer_id);
        assert_eq!((now.me.error_code, now.me.producer_epoch), (0, 0));
        assert_eq!(before.end(client, true), InvalidProducerIdMapping);
        let mut next = Producer { id: now.id.clone(), me: now.me.clone(), sequence: 0 };
        next.add(client, "orders", partition);
        next.append(client, partition);
        assert_eq!(next.end(client, true), None);
    };

    // The last epoch is as good as any other; who begins after it has another id.
    idle.add(&mut client, "orders", 0);
    idle.append(&mut client, 0);
    assert_eq!(idle.end(&mut client, true), None);
    until_stable(&mut client, 0, 2);
    let next = Producer::begin(&mut client, "idle");
    fenced(&mut client, &idle, &next, 0);
    until_stable(&mut client, 0, 4);

    // So it has who finds a transaction open, which is fenced with the one epoch that is left.
    open.add(&mut client, "orders", 1);
    open.append(&mut client, 1);
    let next = Producer::begin(&mut client, "open");
    until_stable(&mut client, 1, 2);
    assert_eq!(open.send(&mut client, 9, 1, 1), InvalidProducerIdMapping);
    fenced(&mut client, &open, &next, 1);
    until_stable(&mut client, 1, 4);

    // And who goes on after an error, however often it asks.
    let mut told = Vec::new();
    for _ in 0..2 {
        let request = InitProducerIdRequest {
            transactional_id: Some(going_on.id.clone()),
            transaction_timeout_ms: 60_000,
            producer_id: going_on.me.producer_id,
            producer_epoch: LAST_EPOCH,
        };
        told.push(client.call(&request, 4).expect("InitProducerId is answered"));
    }
    assert_eq!(told[0], told[1]);
    let before = Producer { id: going_on.id.clone(), me: going_on.me.clone(), sequence: 0 };
    going_on.me = told.remove(0);
    fenced(&mut client, &before, &going_on, 2);
    until_stable(&mut client, 2, 2);
}

/// The same where each transaction has an epoch of its own: the end of the last one tells of the next id.
#[test]
fn a_transaction_of_the_last_epoch_ends_with_another_id() {
    use ErrorCode::{InvalidProducerIdMapping, None};
    let cluster = Cluster::start_as(Kind::Odradek, "transactions-epochs-2", FEW_PARTITIONS);
    let mut client = cluster.broker.client();
    client.create_topic("orders", 1, &[]);
    until_transactions_are_coordinated(&mut client);
    for (id, committed) in [("committed", true), ("aborted", false)] {
        let mut me = at_its_last_epoch(&mut client, id);
        let start = stable_end(&mut client, 0).expect("it is led");
        assert_eq!(me.write(&mut client, 0), start);
        let before = Producer { id: me.id.clone(), me: me.me.clone(), sequence: 1 };
        assert_eq!(me.end_and_bump(&mut client, committed), None);
        assert_ne!(me.me.producer_id, before.me.producer_id);
        assert_eq!(me.me.producer_epoch, 0);
        until_stable(&mut client, 0, start + 2);
        let again = settled("it has ended", || before.ask_to_end(&mut client, 5, committed), |told| told.error_code);
        assert_eq!((again.error_code, again.producer_id, again.producer_epoch), (0, me.me.producer_id, 0));
        assert_eq!(before.send(&mut client, 12, 0, 1), InvalidProducerIdMapping, "delayed");
        assert_eq!(me.write(&mut client, 0), start + 2);
        assert_eq!(me.end_and_bump(&mut client, committed), None);
        assert_eq!(me.me.producer_epoch, 1);
        until_stable(&mut client, 0, start + 4);
        let late = settled("it has ended", || before.ask_to_end(&mut client, 5, committed), |told| told.error_code);
        assert_eq!(late.error_code, InvalidProducerIdMapping.code());
    }
}

/// Of a line of a table, the cells.
fn cells(line: &str) -> Vec<String> {
    line.split('\t').map(|cell| cell.trim().to_owned()).filter(|cell| !cell.is_empty()).collect()
}

/// What kafka-transactions.sh and Kafka's own say, in that order, to words that stand behind the cluster's address.
fn both_of_transactions(cluster: &Cluster, arguments: &str) -> [Output; 2] {
    let tools = [our_tool("kafka-transactions.sh"), jvm_tool("3.9.1", "org.apache.kafka.tools.TransactionsCommand")];
    let address = cluster.broker.address();
    tools.map(|mut tool| {
        let words = ["--bootstrap-server", &address].into_iter().chain(arguments.split_whitespace());
        tool.args(words).output().expect("it runs")
    })
}

#[test]
fn our_tool_says_of_transactions_what_kafkas_says() {
    let settings = format!(
        "{FEW_PARTITIONS}\ntransaction.partition.verification.enable=false\n\
         producer.id.expiration.check.interval.ms=100\nproducer.id.expiration.ms=2147483647"
    );
    let mut cluster = Cluster::start("transactions-tool", &settings);
    let mut client = cluster.broker.client();
    client.create_topic("orders", 3, &[]);
    until_transactions_are_coordinated(&mut client);
    let mut open = Producer::begin(&mut client, "open");
    open.add(&mut client, "orders", 1);
    open.append(&mut client, 1);
    let idle = Producer::begin(&mut client, "idle");
    assert_eq!(idle.me.producer_epoch, 0);
    // They never told their coordinator.
    for (id, partition) in [("hanging", 0), ("too", 2)] {
        let hanging = Producer::begin(&mut client, id);
        assert_eq!(hanging.send(&mut client, 11, partition, 0), ErrorCode::None);
    }

    // All are years old by the time of their records.
    eventually(PATIENCE, "a transaction that is late is named", || {
        let said = cluster.broker.process().said();
        let named = said.contains("orders-0 has a transaction of producer");
        if named { Ok(()) } else { Err(said) }
    });

    // The duration is that of the moment: where it stands, which column nobody compares.
    let both = |arguments: &str, duration: Option<usize>| {
        let [ours, kafkas] = both_of_transactions(&cluster, arguments).map(|told| {
            let said = String::from_utf8_lossy(&told.stderr);
            assert!(told.status.success(), "{arguments}: {said}");
            let out = String::from_utf8(told.stdout).expect("it is text");
            let mut rows: Vec<Vec<String>> = out.lines().map(cells).collect();
            if let Some(column) = duration {
                for row in &mut rows[1..] {
                    row.remove(column).parse::<u64>().expect("a duration is a number");
                }
            }
            rows[1..].sort_unstable();
            // Where nothing changes from one call to the next, columns are equally wide too.
            let mut lines: Vec<String> = out.lines().map(str::to_owned).collect();
            lines[1..].sort_unstable();
            (rows, duration.is_none().then_some(lines))
        });
        assert_eq!(ours, kafkas, "{arguments}");
        ours.0
    };
    // What has not begun has no duration that would be too short.
    let all = ["hanging", "idle", "open", "too"];
    for (arguments, expected) in [
        ("list", &all[..]),
        ("list --duration-filter -1", &all),
        ("list --duration-filter 0", &all),
        ("list --duration-filter 1000000", &["hanging", "idle", "too"]),
    ] {
        let rows = both(arguments, None);
        assert_eq!(rows[1..].iter().map(|row| &*row[0]).collect::<Vec<_>>(), expected, "{arguments}");
    }
    let producers = both("describe-producers --topic orders --partition 0", None);
    assert_eq!(producers[1][5], "0", "it begins there");
    assert_eq!(both("describe-producers --topic orders --partition 0 --broker-id 0", None), producers);
    let described = both("describe --transactional-id open", Some(7));
    let [row] = &described[1..] else { panic!("{described:?}") };
    assert_eq!((&*row[1], &*row[4], &*row[5], &*row[7]), ("open", "Ongoing", "60000", "orders-1"));
    let described = both("describe --transactional-id idle", None);
    assert_eq!(described[1][4..8], ["Empty", "60000", "None", "None"].map(str::to_owned));

    for arguments in [
        "find-hanging --topic orders",
        "find-hanging --topic orders --max-transaction-timeout 0",
        "find-hanging --broker-id 0",
        "find-hanging --topic orders --broker-id 0 --max-transaction-timeout 1",
    ] {
        let hung = both(arguments, Some(7));
        let hung = hung[1..].iter().map(|row| (&*row[0], &*row[1], &*row[5])).collect::<Vec<_>>();
        assert_eq!(hung, [("orders", "0", "0"), ("orders", "2", "0")], "{arguments}");
    }
    let hung = both("find-hanging --topic orders --partition 2", Some(7));
    assert_eq!((hung.len(), &*hung[1][1]), (2, "2"));
    let late = both("find-hanging --topic orders --max-transaction-timeout 35000000", None);
    assert_eq!(late.len(), 1, "none is as old as that: {late:?}");

    // In what is missing, or not there, they agree to the word; how to call them is for each to say.
    for arguments in [
        "find-hanging",
        "find-hanging --partition 0",
        "find-hanging --broker-id 0 --partition 0",
        "find-hanging --topic missing",
        "abort --topic orders --partition 0",
        "abort --topic orders --partition 0 --producer-id 1",
        "abort --topic orders --partition 0 --producer-id 1 --producer-epoch 0",
        "abort --topic orders --partition 0 --start-offset 7",
        "describe --transactional-id nobody",
        "describe",
        "describe-producers --topic orders",
        "describe-producers --partition 0",
        "abort --topic orders --start-offset 0",
        "abort --partition 0 --start-offset 0",
    ] {
        let [ours, kafkas] = both_of_transactions(&cluster, arguments).map(|told| {
            let said = String::from_utf8_lossy(&told.stderr).into_owned();
            let said = said.lines().filter(|line| !line.starts_with(['[', ' ']) && !line.starts_with("usage: "));
            let said: Vec<String> = said.map(|line| line.replace("kafka-transactions.sh: error: ", "")).collect();
            (told.status.code(), said)
        });
        assert_eq!((ours.0, &*ours.1[0]), (kafkas.0, &*kafkas.1[0]), "{arguments}: {ours:?} {kafkas:?}");
        assert_eq!(ours.0, Some(1), "{arguments}");
    }

    // Each tool ends one.
    assert_eq!((stable_end(&mut client, 0), stable_end(&mut client, 2)), (Ok(0), Ok(0)));
    for (tool, partition) in [(0, 0), (1, 2)] {
        let arguments = ["--topic", "orders", "--partition", &partition.to_string(), "--start-offset", "0"];
        let address = cluster.broker.address();
        let words = [&["--bootstrap-server", &address, "abort"], &arguments[..]].concat();
        let said = match tool {
            0 => cluster.script("kafka-transactions.sh", &words, ""),
            _ => cluster.jvm_tool("3.9.1", "org.apache.kafka.tools.TransactionsCommand", &words),
        };
        assert_eq!(said.as_deref(), Ok(""));
        until_stable(&mut client, partition, 2);
    }
    let producers = [0, 2].map(|p| both(&format!("describe-producers --topic orders --partition {p}"), None));
    for producers in producers {
        assert_eq!((&*producers[1][2], &*producers[1][5]), ("0", "None"), "{producers:?}");
    }
    assert_eq!(both("find-hanging --broker-id 0 --max-transaction-timeout 0", None).len(), 1);
    assert_eq!(open.end(&mut client, true), ErrorCode::None);
}
