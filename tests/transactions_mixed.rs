//! Transactions in clusters of JVM brokers and ours: each kind coordinates, writes markers to the other's logs, and ends what
//! the other has begun when it takes over.

mod support;

use odradek::protocol::messages::create_topics::{CreatableReplicaAssignment, CreatableTopic, CreateTopicsRequest};
use odradek::protocol::messages::find_coordinator::FindCoordinatorRequest;
use support::transactional::Jvm;
use support::{Brokers, Kind, PATIENCE, eventually};

const SETTINGS: &str = "transaction.state.log.num.partitions=1\noffsets.topic.num.partitions=1\n\
    auto.leader.rebalance.enable=false\nreplica.fetch.backoff.ms=200\ncontrolled.shutdown.retry.backoff.ms=500\n\
    log.cleaner.dedupe.buffer.size=4000000";
const INTERNAL: [&str; 2] = ["__transaction_state", "__consumer_offsets"];

/// One partition led by each broker.
fn create_topic(cluster: &Brokers) {
    let assignments = vec![
        CreatableReplicaAssignment { partition_index: 0, broker_ids: vec![0, 1] },
        CreatableReplicaAssignment { partition_index: 1, broker_ids: vec![1, 0] },
    ];
    let topic = CreatableTopic {
        name: "orders".to_owned(),
        num_partitions: -1,
        replication_factor: -1,
        assignments,
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, ..Default::default() };
    eventually(PATIENCE, "the topic is created", || {
        let created = (0..2).map(|id| cluster.client(id).call(&request, 4).expect("CreateTopics is answered"));
        let codes: Vec<i16> = created.map(|answer| answer.topics[0].error_code).collect();
        if codes.contains(&0) { Ok(()) } else { Err(format!("{codes:?}")) }
    });
}

fn coordinator(cluster: &Brokers, asked: i32) -> usize {
    let request = FindCoordinatorRequest { key: "t".to_owned(), key_type: 1, ..Default::default() };
    eventually(PATIENCE, "there is a coordinator of transactions", || {
        let found = cluster.client(asked).call(&request, 2).map_err(|error| error.to_string())?;
        if found.error_code == 0 { Ok(found.node_id as usize) } else { Err(format!("{found:?}")) }
    })
}

/// Both brokers have all of the partitions.
fn until_in_sync(cluster: &Brokers) {
    for (topic, partitions) in [("orders", 2), (INTERNAL[0], 1), (INTERNAL[1], 1)] {
        for partition in 0..partitions {
            cluster.until_partition(topic, partition, "both are in sync", |found| found.isr_nodes.len() == 2);
        }
    }
}

fn sees(jvm: &mut Jvm, expected: &[Vec<String>; 2], when: &str) {
    for (partition, expected) in expected.iter().enumerate() {
        let seen = jvm.told(&format!("read committed orders {partition}"));
        assert_eq!(seen, expected.join(","), "{when}: partition {partition}");
    }
}

fn each_kind_ends_what_the_other_has_begun(jvm_version: &'static str, protocol: &str) {
    let kinds = [Kind::Odradek, Kind::Jvm(jvm_version)];
    let settings = format!("{SETTINGS}\ninter.broker.protocol.version={protocol}");
    let mut cluster = Brokers::start_as(&format!("mixed-transactions-{protocol}"), &kinds, &settings);
    create_topic(&cluster);
    let mut jvm = Jvm::start(&cluster.scratch, &cluster.addresses(), "kafka-3.9.2");
    let mut expected = [Vec::new(), Vec::new()];
    let mut position = 0;
    jvm.all_ok(&["init a t 60000"]);
    // Stopped in order and killed, with a transaction open and while one is being ended, each as the coordinator.
    for (round, is_killed) in [false, false, true, true].into_iter().enumerate() {
        let first = round * 100;
        let mut send = |jvm: &mut Jvm, value: usize, counts: bool| {
            for (partition, expected) in expected.iter_mut().enumerate() {
                jvm.all_ok(&[&format!("send a orders {partition} {value} 2")]);
                if counts {
                    expected.extend([value.to_string(), (value + 1).to_string()]);
                }
            }
        };
        jvm.all_ok(&["begin a"]);
        send(&mut jvm, first, true);
        jvm.all_ok(&[&format!("offsets a g orders 0 {}", first + 1), "commit a", "begin a"]);
        send(&mut jvm, first + 10, false);
        jvm.all_ok(&[&format!("offsets a g orders 0 {}", first + 2), "abort a", "begin a"]);
        // Open while the coordinator goes.
        send(&mut jvm, first + 20, true);
        position = first + 3;
        jvm.all_ok(&[&format!("offsets a g orders 0 {position}")]);
        until_in_sync(&cluster);
        // A client that knows one broker alone is lost without it.
        eventually(PATIENCE, "the producer knows both brokers", || {
            let told = jvm.told("in-sync a orders");
            if told == "2" { Ok(()) } else { Err(told) }
        });
        let gone = coordinator(&cluster, 0);
        match is_killed {
            // A JVM tells by its status that it was asked to end.
            false => drop(cluster.brokers[gone].stop()),
            true => {
                jvm.ask("commit a");
                cluster.brokers[gone].kill();
            }
        }
        let other = 1 - gone;
        if !is_killed {
            eventually(PATIENCE, "the other coordinates", || {
                let found = coordinator(&cluster, other as i32);
                if found == other { Ok(()) } else { Err(format!("broker {found}")) }
            });
            send(&mut jvm, first + 30, true);
            jvm.ask("commit a");
        }
        assert_eq!(jvm.answer(), "ok", "round {round}: {gone} is gone");
        // By the one that is left.
        sees(&mut jvm, &expected, &format!("round {round}"));
        eventually(PATIENCE, "the group's position is decided", || {
            let told = jvm.told("position g orders 0");
            if told == position.to_string() { Ok(()) } else { Err(told) }
        });
        cluster.start_broker(gone, kinds[gone]);
        until_in_sync(&cluster);
    }
    // Each serves all of it.
    for (gone, kind) in kinds.into_iter().enumerate() {
        cluster.brokers[gone].stop();
        sees(&mut jvm, &expected, &format!("without broker {gone}"));
        assert_eq!(jvm.told("position g orders 0"), position.to_string(), "without broker {gone}");
        cluster.start_broker(gone, kind);
        until_in_sync(&cluster);
    }
}

#[test]
fn each_kind_ends_what_the_other_has_begun_with_3_9() {
    each_kind_ends_what_the_other_has_begun("3.9.2", "3.9");
}

#[test]
fn each_kind_ends_what_the_other_has_begun_with_3_6() {
    each_kind_ends_what_the_other_has_begun("3.6.2", "3.6");
}

#[test]
fn each_kind_ends_what_the_other_has_begun_with_2_8() {
    each_kind_ends_what_the_other_has_begun("2.8.2", "2.8");
}

/// Markers go in version 0 of WriteTxnMarkers, producer ids come from ZooKeeper, and leaders write their ISR there.
#[test]
fn each_kind_ends_what_the_other_has_begun_in_the_protocol_of_2_4() {
    each_kind_ends_what_the_other_has_begun("2.8.2", "2.4");
}
