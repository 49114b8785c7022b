//! Version 2 of the transaction protocol (KIP-890 part 2): off until an operator finalizes `transaction.version`, which no
//! cluster with a JVM broker lets him do, and off again when he takes it back. What belongs to a transaction that has ended
//! is then known by its epoch, however late it comes.

mod support;

use std::collections::BTreeMap;
use std::fs;

use bytes::Bytes;
use odradek::protocol::error_code::ErrorCode;
use odradek::protocol::messages::describe_transactions::DescribeTransactionsRequest;
use odradek::protocol::messages::end_txn::EndTxnRequest;
use odradek::protocol::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use odradek::protocol::messages::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use odradek::record::read::batches;
use odradek_zookeeper::session::ZooKeeper as Session;
use odradek_zookeeper::settings::Settings;
use odradek_zookeeper::znode::broker::{Broker as Registration, BrokerJson, Endpoint};
use support::client::Client;
use support::member::Member;
use support::transactional::{
    Jvm, Producer, commits, features, finalized, id_coordinated_by, init, settled, stable_end, until_finalized,
    until_stable, until_state, until_transactions_are_coordinated, version_2,
};
use support::{Brokers, Cluster, Kind, PATIENCE, Process, eventually, our_tool};
use tokio::runtime::Runtime;

const FEW_PARTITIONS: &str = "transaction.state.log.num.partitions=5";

/// The state of a transactional id and the epoch of its producer, when nothing of it is on its way.
fn settled_epoch(client: &mut Client, id: &str) -> (String, i16) {
    let request = DescribeTransactionsRequest { transactional_ids: vec![id.to_owned()] };
    eventually(PATIENCE, "the transaction has ended", || {
        let told = client.call(&request, 0).expect("DescribeTransactions is answered").transaction_states.remove(0);
        let state = told.transaction_state;
        if state.starts_with("Prepare") { Err(state) } else { Ok((state, told.producer_epoch)) }
    })
}

#[test]
fn a_java_client_of_4_x_follows_it_from_when_it_is_finalized_until_it_is_taken_back() {
    let mut cluster = Cluster::start("transaction-version", FEW_PARTITIONS);
    let bootstrap = cluster.broker.address();
    let mut client = cluster.broker.client();
    client.create_topic("orders", 2, &[]);
    let mut jvm = Jvm::start(&cluster.scratch, &bootstrap, "clients-4.1.0");
    let mut old_jvm = Jvm::start(&cluster.scratch, &bootstrap, "kafka-3.9.1");
    jvm.all_ok(&["init a a 60000"]);
    for value in [1, 2] {
        jvm.all_ok(&["begin a", &format!("send a orders 0 {value} 1"), "commit a"]);
    }
    assert_eq!(settled_epoch(&mut client, "a"), ("CompleteCommit".to_owned(), 0), "it is off");

    let run =
        |arguments: &str| features(&bootstrap, arguments, |script, words, fed| cluster.script(script, words, fed));
    let described = |level: i16, epoch: &str| {
        format!(
            "Feature: transaction.version\tSupportedMinVersion: 2\tSupportedMaxVersion: 2\tFinalizedVersionLevel: {level}\t\
             Epoch: {epoch}\n"
        )
    };
    assert_eq!(run("describe"), described(0, "0"));
    let can_be = run("upgrade --feature transaction.version=2 --dry-run");
    assert_eq!(can_be, "transaction.version can be upgraded to 2.\n");
    assert_eq!(run("describe"), described(0, "0"));
    assert_eq!(run("upgrade --feature transaction.version=2"), "transaction.version was upgraded to 2.\n");
    assert_eq!(run("describe"), described(2, "1"));
    let theirs = cluster.jvm_tool(
        "3.9.1",
        "org.apache.kafka.tools.FeatureCommand",
        &["--bootstrap-server", &bootstrap, "describe"],
    );
    assert_eq!(theirs.expect("it ends well"), described(2, "1"), "Kafka's tool says the same");

    // Commits, aborts and offsets, each transaction with an epoch of its own; a producer of 3.9 beside it as ever.
    jvm.all_ok(&["init b b 60000", "begin b", "send b orders 0 3 2", "send b orders 1 30 1", "commit b"]);
    jvm.all_ok(&["begin b", "send b orders 0 900 1", "abort b"]);
    jvm.all_ok(&["begin b", "offsets b g orders 0 5", "send b orders 1 31 1", "commit b"]);
    assert_eq!(settled_epoch(&mut client, "b"), ("CompleteCommit".to_owned(), 3));
    jvm.all_ok(&["begin b", "offsets b g orders 0 900", "abort b"]);
    assert_eq!(settled_epoch(&mut client, "b"), ("CompleteAbort".to_owned(), 4));
    old_jvm.all_ok(&["init old old 60000"]);
    for value in [5, 6] {
        old_jvm.all_ok(&["begin old", &format!("send old orders 0 {value} 1"), "commit old"]);
    }
    assert_eq!(settled_epoch(&mut client, "old"), ("CompleteCommit".to_owned(), 0));
    for jvm in [&mut jvm, &mut old_jvm] {
        eventually(PATIENCE, "the group's position is decided", || {
            let told = jvm.told("position g orders 0");
            if told == "5" { Ok(()) } else { Err(told) }
        });
        assert_eq!(jvm.told("read committed orders 0"), "1,2,3,4,5,6");
        assert_eq!(jvm.told("read committed orders 1"), "30,31");
    }

    // The broker dies with a transaction open, and while one is being ended.
    jvm.all_ok(&["begin b", "send b orders 0 7 1"]);
    cluster.broker.kill();
    cluster.start_broker(Kind::Odradek);
    jvm.all_ok(&["send b orders 0 8 1"]);
    jvm.ask("commit b");
    cluster.broker.kill();
    cluster.start_broker(Kind::Odradek);
    assert_eq!(jvm.answer(), "ok");
    let mut client = cluster.broker.client();
    assert_eq!(finalized(&mut client), version_2());
    assert_eq!(settled_epoch(&mut client, "b"), ("CompleteCommit".to_owned(), 5));
    assert_eq!(jvm.told("read committed orders 0"), "1,2,3,4,5,6,7,8");

    // Taken back in the middle of a transaction, which ends as it has begun.
    jvm.all_ok(&["begin b", "send b orders 0 9 1"]);
    let run =
        |arguments: &str| features(&bootstrap, arguments, |script, words, fed| cluster.script(script, words, fed));
    assert_eq!(run("downgrade --feature transaction.version=0"), "transaction.version was downgraded to 0.\n");
    assert_eq!(run("describe"), described(0, "2"));
    jvm.all_ok(&["send b orders 1 32 1", "commit b", "init c c 60000"]);
    for value in [10, 11] {
        jvm.all_ok(&["begin c", &format!("send c orders 0 {value} 1"), "commit c"]);
    }
    assert_eq!(settled_epoch(&mut client, "c"), ("CompleteCommit".to_owned(), 0), "whoever begins from here on");
    assert_eq!(jvm.told("read committed orders 0"), "1,2,3,4,5,6,7,8,9,10,11");
    assert_eq!(jvm.told("read committed orders 1"), "30,31,32");
}

/// It learns of it when it connects, and keeps to what a transaction has begun with.
#[test]
fn our_own_producer_follows_it_too_from_one_transaction_to_the_next() {
    let mut cluster = Cluster::start("transaction-version-producer", FEW_PARTITIONS);
    let bootstrap = cluster.broker.address();
    cluster.broker.client().create_topic("orders", 1, &[]);
    let run = |cluster: &Cluster, arguments: &str| {
        features(&bootstrap, arguments, |script, words, fed| cluster.script(script, words, fed))
    };
    let log = cluster.broker.data.join("orders-0");
    let mut producer = our_tool("kafka-producer-perf-test.sh");
    producer.args(["--topic", "orders", "--payload-monotonic", "--num-records", "1000000", "--throughput", "1000"]);
    producer.args(["--transaction-duration-ms", "50", "--producer-props"]);
    producer.args([&format!("bootstrap.servers={bootstrap}"), "linger.ms=0", "batch.size=100"]);
    let mut producer = Process::start("the producer", &mut producer, cluster.scratch.path("producer.log"));
    let is_of_version_2 = |(epoch, next): &(i16, i16)| epoch < next;
    let mut until_all_of = |version_2: bool, from: usize| {
        eventually(PATIENCE, "transactions are committed", || {
            assert_eq!(producer.has_ended(), None, "{}", producer.last_words());
            let commits = commits(&log);
            let since = commits[from..].iter().position(|commit| is_of_version_2(commit) == version_2);
            let all = since.map_or(&[][..], |at| &commits[from + at..]);
            assert!(all.iter().all(|commit| is_of_version_2(commit) == version_2), "{commits:?}");
            if all.len() < 5 { Err(format!("{commits:?}; {}", producer.last_words())) } else { Ok(commits.len()) }
        })
    };
    let at_first = until_all_of(false, 0);
    assert_eq!(run(&cluster, "upgrade --feature transaction.version=2"), "transaction.version was upgraded to 2.\n");
    let unheard_of = until_all_of(false, at_first);
    cluster.broker.stop();
    cluster.start_broker(Kind::Odradek);
    let heard_of = until_all_of(true, unheard_of);
    assert!(run(&cluster, "downgrade --feature transaction.version=0").contains("was downgraded to 0."));
    cluster.broker.kill();
    cluster.start_broker(Kind::Odradek);
    until_all_of(false, heard_of);
    producer.kill();

    let commits = commits(&log);
    for pair in commits.windows(2) {
        let [before, now] = pair else { unreachable!("two") };
        match is_of_version_2(before) || !is_of_version_2(now) {
            true => assert_eq!(before.1, now.0, "{commits:?}"),
            // What is late of the last transaction of version 0 is of none of version 2.
            false => assert_eq!(before.1 + 1, now.0, "{commits:?}"),
        }
    }
    let bytes = Bytes::from(fs::read(log.join("00000000000000000000.log")).expect("all is in one segment"));
    let data = batches(&bytes).map_while(Result::ok).filter(|batch| !batch.header().is_control);
    let records = data.flat_map(|batch| batch.records().expect("it is not compressed").collect::<Vec<_>>());
    for (number, record) in records.enumerate() {
        let value = record.expect("the record is sound").value.unwrap_or_default();
        assert_eq!(value, number.to_string(), "each is there once, in order");
    }
}

#[test]
fn what_is_delayed_until_its_transaction_has_ended_is_part_of_no_other() {
    use ErrorCode::{InvalidProducerEpoch, None, ProducerFenced};
    let cluster = Cluster::start("transaction-delayed", FEW_PARTITIONS);
    let mut client = cluster.broker.client();
    client.create_topic("orders", 2, &[]);
    until_transactions_are_coordinated(&mut client);
    let mut me = Producer::begin(&mut client, "t");
    assert_eq!(me.write(&mut client, 0), 0, "nobody has added the partition");
    let first = Producer { id: me.id.clone(), me: me.me.clone(), sequence: 1 };
    assert_eq!(me.end_and_bump(&mut client, true), None);
    assert_eq!((me.me.producer_id, me.me.producer_epoch), (first.me.producer_id, 1));
    until_stable(&mut client, 0, 2);

    // On another connection, long after: to where the transaction was, and to where it never was.
    let mut delayed = cluster.broker.client();
    for partition in 0..2 {
        assert_eq!(first.send(&mut delayed, 12, partition, 1), InvalidProducerEpoch, "partition {partition}");
    }
    let again = settled("it has ended", || first.ask_to_end(&mut delayed, 5, true), |told| told.error_code);
    assert_eq!((again.error_code, again.producer_id, again.producer_epoch), (0, me.me.producer_id, 1), "repeated");
    let other = first.ask_to_end(&mut delayed, 5, false);
    assert_eq!((other.error_code, other.producer_id), (ErrorCode::InvalidTxnState.code(), -1));
    assert_eq!(first.end(&mut delayed, true), ProducerFenced);

    // The same while the next one is open.
    assert_eq!(me.write(&mut client, 1), 0);
    for partition in 0..2 {
        assert_eq!(first.send(&mut delayed, 12, partition, 1), InvalidProducerEpoch, "partition {partition}");
    }
    for committed in [true, false] {
        assert_eq!(first.ask_to_end(&mut delayed, 5, committed).error_code, ProducerFenced.code());
    }
    until_state(&mut client, "t", "Ongoing", &[("orders".to_owned(), vec![1])]);
    assert_eq!(me.end_and_bump(&mut client, false), None);
    until_stable(&mut client, 1, 2);
    until_stable(&mut client, 0, 2);

    // What version 0 of the protocol cannot tell apart, by the same requests.
    let mut old = Producer::begin(&mut client, "old");
    old.add(&mut client, "orders", 0);
    old.append(&mut client, 0);
    assert_eq!(old.end(&mut client, true), None);
    until_stable(&mut client, 0, 4);
    old.add(&mut client, "orders", 0);
    old.append(&mut client, 0);
    assert_eq!(old.end(&mut delayed, true), None, "the end of the transaction before, delayed, ends this one");
}

#[test]
fn the_new_versions_are_answered_in_success_and_in_refusal() {
    use ErrorCode::{
        InvalidProducerIdMapping, InvalidRequest, InvalidTxnState, None, OutOfOrderSequenceNumber, ProducerFenced,
        UnknownTopicOrPartition,
    };
    let cluster = Cluster::start("transaction-new-versions", FEW_PARTITIONS);
    let mut client = cluster.broker.client();
    client.create_topic("orders", 2, &[]);
    until_transactions_are_coordinated(&mut client);
    client.until_coordinated("g");
    let mut me = Producer::begin(&mut client, "t");

    // A transaction that has begun nowhere is aborted, and fences what may be on its way; there is nothing to commit.
    assert_eq!(me.end_and_bump(&mut client, true), InvalidTxnState);
    let before = Producer { id: me.id.clone(), me: me.me.clone(), sequence: 0 };
    assert_eq!(me.end_and_bump(&mut client, false), None);
    assert_eq!(me.me.producer_epoch, 1);
    assert_eq!(before.send(&mut client, 12, 0, 0), ErrorCode::InvalidProducerEpoch);

    let end = |client: &mut Client, id: &str, producer_id, producer_epoch| {
        let request = EndTxnRequest { transactional_id: id.to_owned(), producer_id, producer_epoch, committed: true };
        let told = client.call(&request, 5).expect("EndTxn is answered");
        (ErrorCode::from_code(told.error_code), told.producer_id, told.producer_epoch)
    };
    let id = me.me.producer_id;
    assert_eq!(end(&mut client, "nobody", id, 1), (InvalidProducerIdMapping, -1, -1));
    assert_eq!(end(&mut client, "", id, 1), (InvalidRequest, -1, -1));
    assert_eq!(end(&mut client, "t", id + 1, 1), (InvalidProducerIdMapping, -1, -1));
    assert_eq!(end(&mut client, "t", id, 7), (ProducerFenced, -1, -1));

    // Each transaction begins with the first sequence, and what comes behind a gap waits for what is missing.
    assert_eq!(me.send(&mut client, 12, 0, 3), OutOfOrderSequenceNumber);
    // That much is known of it now: the partition is in the transaction, if nothing else is.
    assert_eq!(me.write(&mut client, 0), 0);
    assert_eq!(me.send(&mut client, 12, 7, 0), UnknownTopicOrPartition);

    // Offsets, likewise without having said so before.
    let commit = |client: &mut Client, me: &Producer, offset| {
        let partitions = vec![TxnOffsetCommitRequestPartition { committed_offset: offset, ..Default::default() }];
        let request = TxnOffsetCommitRequest {
            transactional_id: me.id.clone(),
            group_id: "g".to_owned(),
            producer_id: me.me.producer_id,
            producer_epoch: me.me.producer_epoch,
            topics: vec![TxnOffsetCommitRequestTopic { name: "orders".to_owned(), partitions }],
            ..Default::default()
        };
        let code = || client.call(&request, 5).expect("TxnOffsetCommit is answered").topics[0].partitions[0].error_code;
        ErrorCode::from_code(settled("the coordinators have decided", code, |code| *code))
    };
    assert_eq!(commit(&mut client, &me, 1), None);
    assert_eq!(commit(&mut client, &before, 9), ErrorCode::InvalidProducerEpoch);
    let ended = Producer { id: me.id.clone(), me: me.me.clone(), sequence: 1 };
    assert_eq!(me.end_and_bump(&mut client, true), None);
    let position = |expected: i64| {
        let mut client = cluster.broker.client();
        eventually(PATIENCE, "the offset counts", || {
            let topics = vec![OffsetFetchRequestTopics { name: "orders".to_owned(), partition_indexes: vec![0] }];
            let group =
                OffsetFetchRequestGroup { group_id: "g".to_owned(), topics: Some(topics), ..Default::default() };
            let request = OffsetFetchRequest { groups: vec![group], require_stable: true, ..Default::default() };
            let told = client.call(&request, 8).expect("OffsetFetch is answered");
            let found = &told.groups[0].topics[0].partitions[0];
            if (found.error_code, found.committed_offset) == (0, expected) { Ok(()) } else { Err(format!("{found:?}")) }
        });
    };
    position(1);
    assert_eq!(commit(&mut client, &ended, 8), ErrorCode::InvalidProducerEpoch, "delayed");
    assert_eq!(commit(&mut client, &me, 2), None);
    assert_eq!(me.end_and_bump(&mut client, false), None);
    position(1);
    assert_eq!(commit(&mut client, &me, 3), None);
    assert_eq!(me.end_and_bump(&mut client, true), None);
    position(3);
    Member::commits_while_it_is_one("static", &me, 5, &|| cluster.broker.client());
    assert_eq!(me.end_and_bump(&mut client, false), None);

    // A broker that is told not to verify adds all the same: nobody else would.
    let settings = format!("{FEW_PARTITIONS}\ntransaction.partition.verification.enable=false");
    let cluster = Cluster::start("transaction-unverified", &settings);
    let mut client = cluster.broker.client();
    client.create_topic("orders", 1, &[]);
    until_transactions_are_coordinated(&mut client);
    let mut me = Producer::begin(&mut client, "t");
    me.write(&mut client, 0);
    assert_eq!(stable_end(&mut client, 0), Ok(0));
    assert_eq!(me.end_and_bump(&mut client, true), None);
    until_stable(&mut client, 0, 2);
}

#[test]
fn a_broker_adds_what_another_coordinates_and_a_repeated_end_is_known_by_whoever_is_elected() {
    let settings = "transaction.state.log.num.partitions=2";
    let mut brokers = Brokers::start("transaction-version-across", 2, settings);
    brokers.client(0).create_replicated_topic("orders", 2, 2, &[]);
    for (topic, partition) in [("orders", 0), ("orders", 1)] {
        brokers.until_partition(topic, partition, "in sync", |found| found.isr_nodes.len() == 2);
    }
    let id = id_coordinated_by(&brokers, 1);
    for partition in 0..2 {
        brokers.until_partition("__transaction_state", partition, "in sync", |found| found.isr_nodes.len() == 2);
    }
    let leader =
        |partition| brokers.until_partition("orders", partition, "led", |found| found.leader_id >= 0).leader_id;
    let leaders = [leader(0), leader(1)];
    assert_ne!(leaders[0], leaders[1], "each leads one");
    let mut me = Producer::begin(&mut brokers.client(1), &id);
    for round in 0..3 {
        for (partition, leader) in (0..).zip(leaders) {
            me.sequence = 0;
            assert_eq!(me.write(&mut brokers.client(leader), partition), 2 * round);
        }
        assert_eq!(me.end_and_bump(&mut brokers.client(1), round % 2 == 0), ErrorCode::None);
    }
    assert_eq!(me.me.producer_epoch, 3);
    for partition in 0..2 {
        until_stable(&mut brokers.client(leaders[partition as usize]), partition, 6);
    }
    // The answer to an end gets lost with the coordinator.
    let here = (0..2).find(|partition| leaders[*partition as usize] == 0).expect("it leads one");
    me.sequence = 0;
    me.write(&mut brokers.client(0), here);
    let told = me.ask_to_end(&mut brokers.client(1), 5, true);
    assert_eq!((told.error_code, told.producer_epoch), (0, 4));
    brokers.brokers[1].kill();
    let mut left = brokers.client(0);
    let again = settled("the new coordinator knows", || me.ask_to_end(&mut left, 5, true), |told| told.error_code);
    assert_eq!((again.error_code, again.producer_id, again.producer_epoch), (0, me.me.producer_id, 4));
    until_state(&mut left, &id, "CompleteCommit", &[]);
    // The old coordinator may have written its marker too.
    assert!([8, 9].contains(&stable_end(&mut left, here).expect("it leads")), "{:?}", stable_end(&mut left, here));
}

/// And back: what it left in the logs and in `__transaction_state` a JVM broker of 3.9.1 takes over.
#[test]
fn no_jvm_broker_is_in_a_cluster_with_version_2_and_one_takes_over_once_it_is_taken_back() {
    let settings = "transaction.state.log.num.partitions=2\nauto.leader.rebalance.enable=false\n\
                    transaction.state.log.replication.factor=1\noffsets.topic.replication.factor=1\n\
                    inter.broker.protocol.version=3.9";
    let kinds = [Kind::Odradek, Kind::Jvm("3.9.1")];
    let mut brokers = Brokers::start_as("transaction-version-mixed", &kinds, settings);
    let bootstrap = brokers.brokers[0].address();
    let run = |brokers: &Brokers, arguments: &str| {
        features(&bootstrap, arguments, |script, words, fed| brokers.script(script, words, fed))
    };
    let refused = run(&brokers, "upgrade --feature transaction.version=2");
    assert!(refused.contains("brokers were found to have incompatible versions for the feature"), "{refused}");
    assert!(refused.contains("as no JVM broker does: 1."), "{refused}");
    until_finalized(&brokers, &[]);

    brokers.brokers[1].stop();
    brokers.until_all_know(&[0]);
    let upgraded = run(&brokers, "upgrade --feature transaction.version=2");
    assert!(upgraded.contains("transaction.version was upgraded to 2."), "{upgraded}");
    // A JVM broker that is started now says why it does not.
    let mut started = brokers.brokers[1].spawn(Kind::Jvm("3.9.1"), &brokers.scratch);
    eventually(PATIENCE, "the JVM broker gives up", || started.has_ended().ok_or_else(|| started.last_words()));
    let said = started.said();
    assert!(said.contains("FinalizedFeatureCache update failed since feature compatibility checks failed"), "{said}");
    drop(started);

    // One that does not look there is let into nothing, until the feature is taken back.
    let runtime = Runtime::new().expect("a runtime");
    let settings = Settings::new(format!("127.0.0.1:{}", brokers.zookeeper.port));
    let session = runtime.block_on(Session::connect(settings)).expect("ZooKeeper serves");
    let endpoint = Endpoint {
        listener: "PLAINTEXT".into(),
        security_protocol: "PLAINTEXT".into(),
        host: "127.0.0.1".into(),
        // Nobody listens there.
        port: 1,
    };
    let stranger = Registration {
        id: 7,
        endpoints: vec![endpoint],
        rack: None,
        jmx_port: -1,
        timestamp_ms: 1,
        features: BTreeMap::new(),
    };
    runtime.block_on(session.register_broker(&stranger, BrokerJson::V5)).expect("nobody has the id");
    eventually(PATIENCE, "the controller ignores it", || {
        let said = brokers.brokers[0].process().said();
        if said.contains("the registration of broker 7 is ignored") { Ok(()) } else { Err(said) }
    });
    brokers.until_all_know(&[0]);
    assert!(run(&brokers, "downgrade --feature transaction.version=0").contains("was downgraded to 0."));
    brokers.until_all_know(&[0, 7]);
    let refused = run(&brokers, "upgrade --feature transaction.version=2");
    assert!(refused.contains("as no JVM broker does: 7."), "{refused}");
    runtime.block_on(session.close());
    brokers.until_all_know(&[0]);
    assert!(run(&brokers, "upgrade --feature transaction.version=2").contains("was upgraded to 2."));

    // Transactions of version 2: one committed, one aborted, one that is open, all coordinated by ours.
    let mut client = brokers.client(0);
    client.create_topic("orders", 1, &[]);
    until_transactions_are_coordinated(&mut client);
    let mut ended = Producer::begin(&mut client, "ended");
    ended.write(&mut client, 0);
    assert_eq!(ended.end_and_bump(&mut client, true), ErrorCode::None);
    ended.write(&mut client, 0);
    assert_eq!(ended.end_and_bump(&mut client, false), ErrorCode::None);
    until_stable(&mut client, 0, 4);
    let mut open = Producer::begin(&mut client, "open");
    open.write(&mut client, 0);
    let downgraded = run(&brokers, "downgrade --feature transaction.version=0");
    assert!(downgraded.contains("transaction.version was downgraded to 0."), "{downgraded}");

    // The JVM broker comes back, and then takes ours' place.
    brokers.start_broker(1, Kind::Jvm("3.9.1"));
    brokers.until_all_know(&[0, 1]);
    brokers.brokers[0].stop();
    brokers.start_broker(0, Kind::Jvm("3.9.1"));
    brokers.until_all_know(&[0, 1]);
    let mut client = brokers.client(0);
    until_transactions_are_coordinated(&mut client);
    brokers.until_partition("orders", 0, "led", |found| found.leader_id == 0);
    let coordinating = |brokers: &Brokers, id: &str| brokers.client(Producer::coordinator(brokers, id));
    let told = settled(
        "the open transaction is ended",
        || open.end(&mut coordinating(&brokers, "open"), true),
        |code| code.code(),
    );
    assert_eq!(told, ErrorCode::None);
    until_stable(&mut client, 0, 6);
    let ask = || init(&mut coordinating(&brokers, "ended"), "ended", 4);
    let next = settled("the id goes on", ask, |told| told.error_code);
    assert_eq!((next.producer_id, next.producer_epoch), (ended.me.producer_id, 3));
    let mut next = Producer { id: "ended".to_owned(), me: next, sequence: 0 };
    next.add(&mut coordinating(&brokers, "ended"), "orders", 0);
    next.append(&mut client, 0);
    assert_eq!(next.end(&mut coordinating(&brokers, "ended"), true), ErrorCode::None);
    until_stable(&mut client, 0, 8);
}
