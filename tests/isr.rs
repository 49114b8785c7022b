//! Who is in sync: a leader takes followers out that lag and in again when they have caught up, whatever becomes of the
//! controller meanwhile; what is promised to producers, and to those who delete and read, follows from it.
#![cfg(target_os = "linux")]

mod support;

use std::fs::OpenOptions;
use std::io::Write;

use odradek::protocol::message::Payload;
use odradek::protocol::messages::create_topics::{CreatableReplicaAssignment, CreatableTopic, CreateTopicsRequest};
use odradek::protocol::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use odradek::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchTopic, PartitionData};
use odradek::protocol::messages::metadata::MetadataResponsePartition;
use odradek::protocol::messages::produce::ProduceRequest;
use odradek::record::compression::Codec;
use rustix::process::Signal;
use support::client::{Client, batch, outcome, produce_request, values};
use support::{Brokers, Kind, PATIENCE, eventually};

const TOPIC: &str = "orders";
/// A follower that is stopped leaves the ISR long before ZooKeeper misses it.
const LAGGING: &str = "zookeeper.session.timeout.ms=30000\nreplica.lag.time.max.ms=2000";

const REQUEST_TIMED_OUT: i16 = 7;
const NOT_ENOUGH_REPLICAS: i16 = 19;

/// What one broker says of the first partition, once `accepted` holds.
fn until(
    via: &mut Client,
    what: &str,
    accepted: impl Fn(&MetadataResponsePartition) -> bool,
) -> MetadataResponsePartition {
    eventually(PATIENCE, what, || {
        let metadata = via.metadata(&[TOPIC]).map_err(|error| error.to_string())?;
        let found = metadata.topics.first().and_then(|topic| topic.partitions.first()).cloned();
        found.clone().filter(&accepted).ok_or_else(|| format!("{found:?}"))
    })
}

fn until_in_sync(via: &mut Client, count: usize) -> MetadataResponsePartition {
    until(via, &format!("{count} are in sync"), |found| found.leader_id >= 0 && found.isr_nodes.len() == count)
}

fn line(number: usize) -> bytes::Bytes {
    batch(Codec::None, [format!("line {number}")])
}

struct Topic {
    cluster: Brokers,
    leader: usize,
    /// The controller comes last, if it is one.
    followers: Vec<usize>,
    /// To the leader.
    client: Client,
}

impl Topic {
    /// One partition on all brokers, all of them in sync.
    fn create(name: &str, count: i16, settings: &str, configs: &[(&str, &str)]) -> Topic {
        let cluster = Brokers::start(name, i32::from(count), &format!("replica.fetch.backoff.ms=200\n{settings}"));
        Topic::in_cluster(cluster, count, configs)
    }

    fn in_cluster(cluster: Brokers, count: i16, configs: &[(&str, &str)]) -> Topic {
        cluster.client(0).create_replicated_topic(TOPIC, 1, count, configs);
        Topic::of(cluster, count)
    }

    fn of(cluster: Brokers, count: i16) -> Topic {
        let count = usize::try_from(count).expect("a few");
        let leader = until_in_sync(&mut cluster.client(0), count).leader_id as usize;
        let mut client = cluster.client(leader as i32);
        let controller = client.metadata(&[]).expect("it answers").controller_id as usize;
        let mut followers: Vec<usize> = (0..count).filter(|id| *id != leader).collect();
        followers.sort_by_key(|id| *id == controller);
        client.until_led(TOPIC, 1);
        Topic { cluster, leader, followers, client }
    }

    fn signal(&mut self, broker: usize, signal: Signal) {
        self.cluster.brokers[broker].process().signal(signal);
    }

    fn produce_for(&mut self, number: usize, timeout_ms: i32) -> Result<i64, i16> {
        let request = ProduceRequest { timeout_ms, ..produce_request(TOPIC, 0, line(number), -1) };
        outcome(&self.client.call(&request, 8).expect("the leader answers"))
    }

    fn said(&mut self, broker: usize) -> String {
        self.cluster.brokers[broker].process().said()
    }
}

/// A follower that is only slow is none of the controller's business: the leader epoch shows that the leader asked.
fn a_follower_goes_and_comes(mut topic: Topic) -> Topic {
    let before = until_in_sync(&mut topic.client, 3);
    let slow = topic.followers[0];
    topic.signal(slow, Signal::STOP);
    // Acknowledged once the one that is silent does not count any more.
    assert_eq!(topic.produce_for(0, 30_000), Ok(0));
    let shrunk = until_in_sync(&mut topic.client, 2);
    assert!(!shrunk.isr_nodes.contains(&(slow as i32)), "{shrunk:?}");
    assert_eq!((shrunk.leader_id, shrunk.leader_epoch), (before.leader_id, before.leader_epoch));
    assert_eq!(topic.produce_for(1, 30_000), Ok(1));

    topic.signal(slow, Signal::CONT);
    let whole = until_in_sync(&mut topic.client, 3);
    assert_eq!((whole.leader_id, whole.leader_epoch), (before.leader_id, before.leader_epoch));
    assert_eq!(topic.produce_for(2, 30_000), Ok(2));
    let said = topic.said(topic.leader);
    for words in ["Shrinking ISR from ", "ISR updated to "] {
        assert!(said.contains(words), "the leader does not say {words:?}");
    }
    topic
}

#[test]
fn a_follower_that_lags_leaves_the_isr_and_joins_again_when_it_has_caught_up() {
    a_follower_goes_and_comes(Topic::create("isr", 3, LAGGING, &[("min.insync.replicas", "2")]));
}

/// The first broker that starts is the controller, and the second leads: each asks the other, ours or a JVM broker.
#[test]
fn jvm_leaders_ask_our_controller_for_isrs_and_ours_ask_theirs() {
    let settings = format!("replica.fetch.backoff.ms=200\n{LAGGING}");
    let jvm = Kind::Jvm("3.9.1");
    for kinds in [[jvm, Kind::Odradek, Kind::Odradek], [Kind::Odradek, jvm, Kind::Odradek]] {
        let cluster = Brokers::start_as("mixed-isr", &kinds, &settings);
        let assignments = vec![CreatableReplicaAssignment { partition_index: 0, broker_ids: vec![1, 2, 0] }];
        let (num_partitions, replication_factor) = (-1, -1);
        let asked = CreatableTopic {
            name: TOPIC.to_owned(),
            num_partitions,
            replication_factor,
            assignments,
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![asked], timeout_ms: 30_000, ..Default::default() };
        let created = cluster.client(0).call(&request, 5).expect("the controller answers");
        assert_eq!(created.topics[0].error_code, 0, "{created:?}");
        drop(a_follower_goes_and_comes(Topic::of(cluster, 3)));
    }
}

/// As above, by the znodes of old: the controller hears of what leaders wrote, tells everybody, and clears up.
#[test]
fn leaders_of_an_old_protocol_write_their_isrs_themselves() {
    let settings = format!("{LAGGING}\ninter.broker.protocol.version=2.6");
    let topic = a_follower_goes_and_comes(Topic::create("old-isr", 3, &settings, &[("min.insync.replicas", "2")]));
    let zookeeper = format!("127.0.0.1:{}", topic.cluster.zookeeper.port);
    eventually(PATIENCE, "the notifications are gone", || {
        let listed = topic.cluster.script("zookeeper-shell.sh", &[&zookeeper, "ls", "/isr_change_notification"], "")?;
        if listed.contains("isr_change_") { Err(listed) } else { Ok(()) }
    });
}

#[test]
fn with_too_few_in_sync_nothing_is_promised_and_nothing_new_is_taken() {
    let mut topic = Topic::create("min-isr", 3, LAGGING, &[("min.insync.replicas", "3")]);
    let zookeeper = format!("127.0.0.1:{}", topic.cluster.zookeeper.port);
    let state = format!("/brokers/topics/{TOPIC}/partitions/0/state");
    let version = |topic: &Topic| topic.cluster.script("zookeeper-shell.sh", &[&zookeeper, "stat", &state], "");
    assert_eq!(topic.produce_for(0, 30_000), Ok(0));
    let slow = topic.followers[0];
    topic.signal(slow, Signal::STOP);
    // In the log before the ISR shrank, and not committed while it is too small.
    assert_eq!(topic.produce_for(1, 6_000), Err(REQUEST_TIMED_OUT));
    // The leader may hear of the new ISR later than others.
    let until_answered = |topic: &mut Topic, number, timeout_ms, expected: fn(Result<i64, i16>) -> bool| {
        eventually(PATIENCE, &format!("the answer to produce {number}"), || {
            let answer = topic.produce_for(number, timeout_ms);
            if expected(answer) { Ok(()) } else { Err(format!("{answer:?}")) }
        });
    };
    until_answered(&mut topic, 2, 6_000, |answer| answer == Err(NOT_ENOUGH_REPLICAS));
    // The one that is silent has all that is committed, and is not taken back for what it said before.
    let shrunk = version(&topic).expect("the state is there");
    for number in 0..20 {
        assert_eq!(topic.produce_for(2, 6_000), Err(NOT_ENOUGH_REPLICAS), "produce {number}");
    }
    assert_eq!(version(&topic).as_ref(), Ok(&shrunk));
    assert_eq!(values(&topic.client.read_all(TOPIC, 0, 0).expect("the leader answers")), ["line 0"]);
    topic.signal(slow, Signal::CONT);
    until_answered(&mut topic, 3, 30_000, |answer| answer.is_ok());
    let read = values(&topic.client.read_all(TOPIC, 0, 0).expect("the leader answers"));
    assert_eq!(read, ["line 0", "line 1", "line 3"], "what was appended and not acknowledged is there");
}

#[test]
fn an_isr_is_changed_by_whichever_controller_there_is() {
    let settings = "zookeeper.session.timeout.ms=6000\nreplica.lag.time.max.ms=2000";
    let cluster = Brokers::start("controllers", 3, &format!("replica.fetch.backoff.ms=200\n{settings}"));
    let controller = cluster.client(0).metadata(&[]).expect("it answers").controller_id;
    // Led by another than the controller: the second topic of any two on all brokers.
    let mut client = cluster.client(controller);
    client.create_replicated_topic(TOPIC, 3, 3, &[]);
    let partitions = client.metadata(&[TOPIC]).expect("it answers").topics[0].partitions.clone();
    let of = partitions.iter().find(|found| found.leader_id != controller).expect("leaders are spread").clone();
    let (leader, partition) = (of.leader_id, of.partition_index);
    let slow = (0..3).find(|id| *id != leader && *id != controller).expect("there are three");
    let mut cluster = cluster;
    let mut client = cluster.client(leader);
    // Whoever is asked is gone, and comes to be missed by ZooKeeper only later.
    cluster.brokers[slow as usize].process().signal(Signal::STOP);
    cluster.brokers[controller as usize].kill();
    let sent = client.produce(TOPIC, partition, line(0)).expect("the leader answers");
    assert_eq!(sent, Ok(0), "the leader alone is in sync");
    cluster.brokers[slow as usize].process().signal(Signal::CONT);
    cluster.start_broker(controller as usize, Kind::under_test());
    let whole = cluster.until_partition(TOPIC, partition, "all are in sync", |found| found.isr_nodes.len() == 3);
    let read = cluster.client(whole.leader_id).read_all(TOPIC, partition, 0).expect("the leader answers");
    assert_eq!(values(&read), ["line 0"]);
}

#[test]
fn produces_of_one_connection_are_appended_while_earlier_ones_wait_for_followers() {
    const COUNT: usize = 40;
    let settings = "zookeeper.session.timeout.ms=30000\nreplica.lag.time.max.ms=30000";
    let mut topic = Topic::create("pipelined", 3, settings, &[]);
    let slow = topic.followers[0];
    topic.signal(slow, Signal::STOP);
    let sent: Vec<i32> = (0..COUNT)
        .map(|number| topic.client.send(&produce_request(TOPIC, 0, line(number), -1), 8).expect("the leader reads"))
        .collect();
    let segment = topic.cluster.brokers[topic.leader].data.join(format!("{TOPIC}-0/00000000000000000000.log"));
    let bytes = (COUNT * line(10).len() - 10) as u64;
    eventually(PATIENCE, "all are appended before one is acknowledged", || {
        let length = std::fs::metadata(&segment).map_err(|error| error.to_string())?.len();
        if length >= bytes { Ok(()) } else { Err(format!("{length} of {bytes} bytes")) }
    });
    topic.signal(slow, Signal::CONT);
    for (number, id) in sent.into_iter().enumerate() {
        let answer = topic.client.receive::<ProduceRequest>(8, id).expect("answers come in order");
        assert_eq!(outcome(&answer), Ok(number as i64));
    }
}

/// Of two produces to a topic that is made meanwhile, neither is refused while an earlier produce waits: a JVM broker looks
/// at them when that is answered, and the second must not get ahead of the first.
#[test]
fn what_a_produce_is_refused_shows_in_its_turn() {
    const LATER: &str = "later";
    let settings = "zookeeper.session.timeout.ms=30000\nreplica.lag.time.max.ms=30000\nauto.create.topics.enable=false";
    let mut topic = Topic::create("in-turn", 3, settings, &[]);
    let (slow, leader) = (topic.followers[0], topic.leader as i32);
    topic.signal(slow, Signal::STOP);
    let to = [TOPIC, LATER, LATER].into_iter().enumerate();
    let send = |(number, name): (usize, &str)| topic.client.send(&produce_request(name, 0, line(number), -1), 8);
    let sent: Vec<i32> = to.map(send).map(|sent| sent.expect("the leader reads")).collect();
    let segment = topic.cluster.brokers[topic.leader].data.join(format!("{TOPIC}-0/00000000000000000000.log"));
    eventually(PATIENCE, "the first is appended", || {
        let length = std::fs::metadata(&segment).map_err(|error| error.to_string())?.len();
        if length > 0 { Ok(()) } else { Err("it is not".to_owned()) }
    });
    let assignments = vec![CreatableReplicaAssignment { partition_index: 0, broker_ids: vec![leader] }];
    let (num_partitions, replication_factor) = (-1, -1);
    let name = LATER.to_owned();
    let asked = CreatableTopic { name, num_partitions, replication_factor, assignments, ..Default::default() };
    let request = CreateTopicsRequest { topics: vec![asked], timeout_ms: 30_000, ..Default::default() };
    let controller = topic.cluster.client(leader).metadata(&[]).expect("it answers").controller_id;
    let created = topic.cluster.client(controller).call(&request, 5).expect("the controller answers");
    assert_eq!(created.topics[0].error_code, 0, "{created:?}");
    topic.cluster.client(leader).until_led(LATER, 1);
    topic.signal(slow, Signal::CONT);
    for (id, offset) in sent.into_iter().zip([0, 0, 1]) {
        let answer = topic.client.receive::<ProduceRequest>(8, id).expect("answers come in order");
        assert_eq!(outcome(&answer), Ok(offset));
    }
}

#[test]
fn records_are_deleted_once_all_live_replicas_have_let_go_of_them() {
    let settings = "zookeeper.session.timeout.ms=30000\nreplica.lag.time.max.ms=30000";
    let mut topic = Topic::create("deletion", 3, settings, &[]);
    for number in 0..5 {
        assert_eq!(topic.produce_for(number, 30_000), Ok(number as i64));
    }
    let delete = |client: &mut Client, offset, timeout_ms| {
        let partitions = vec![DeleteRecordsPartition { partition_index: 0, offset }];
        let topics = vec![DeleteRecordsTopic { name: TOPIC.to_owned(), partitions }];
        let answer = client.call(&DeleteRecordsRequest { topics, timeout_ms }, 1).expect("the leader answers");
        let found = &answer.topics[0].partitions[0];
        (found.error_code, found.low_watermark)
    };
    assert_eq!(delete(&mut topic.client, 2, 30_000), (0, 2));
    let slow = topic.followers[0];
    topic.signal(slow, Signal::STOP);
    assert_eq!(delete(&mut topic.client, 4, 3_000).0, REQUEST_TIMED_OUT, "one has them still");
    topic.signal(slow, Signal::CONT);
    assert_eq!(delete(&mut topic.client, 4, 30_000), (0, 4));
}

/// What a consumer in that rack is told of the partition by a broker.
fn fetch_in_rack(client: &mut Client, rack: &str, offset: i64) -> PartitionData {
    let asked =
        FetchPartition { partition: 0, fetch_offset: offset, partition_max_bytes: 1 << 20, ..Default::default() };
    let topics = vec![FetchTopic { topic: TOPIC.to_owned(), partitions: vec![asked], ..Default::default() }];
    let request = FetchRequest {
        max_wait_ms: 10_000,
        min_bytes: 1,
        max_bytes: 1 << 20,
        rack_id: rack.to_owned(),
        topics,
        ..Default::default()
    };
    let answer = client.call(&request, 11).expect("the broker answers");
    answer.responses[0].partitions[0].clone()
}

#[test]
fn consumers_read_from_the_replica_in_their_rack() {
    let selector = "replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector";
    let settings = format!("replica.fetch.backoff.ms=200\n{selector}\n{LAGGING}");
    let mut cluster = Brokers::start("racks", 2, &settings);
    for id in 0..2 {
        let broker = &mut cluster.brokers[id];
        broker.stop();
        let mut config = OpenOptions::new().append(true).open(&broker.config).expect("the settings are there");
        writeln!(config, "broker.rack=rack-{id}").expect("they can be written");
        cluster.start_broker(id, Kind::under_test());
    }
    cluster.until_all_know(&[0, 1]);
    let mut topic = Topic::in_cluster(cluster, 2, &[]);
    let follower = topic.followers[0];
    let (near, far) = (format!("rack-{}", topic.leader), format!("rack-{follower}"));
    for number in 0..3 {
        assert_eq!(topic.produce_for(number, 30_000), Ok(number as i64));
    }
    // Sent away as soon as the follower is known to have what is asked for, and not otherwise.
    eventually(PATIENCE, "the consumer is sent to its rack", || {
        let told = fetch_in_rack(&mut topic.client, &far, 0);
        let is_empty = told.records.as_ref().is_none_or(Payload::is_empty);
        match (told.preferred_read_replica, is_empty) {
            (replica, true) if replica == follower as i32 => Ok(()),
            _ => Err(format!("{told:?}")),
        }
    });
    for (rack, offset) in [(&*near, 0), ("elsewhere", 0), ("", 0)] {
        let told = fetch_in_rack(&mut topic.client, rack, offset);
        assert_eq!((told.error_code, told.preferred_read_replica), (0, -1), "{rack}");
        assert!(told.records.is_some_and(|records| !records.is_empty()), "{rack}");
    }
    // The follower serves what it knows to be committed.
    let mut at_follower = topic.cluster.client(follower as i32);
    eventually(PATIENCE, "the follower knows what is committed", || {
        let told = fetch_in_rack(&mut at_follower, &far, 0);
        if (told.error_code, told.high_watermark) == (0, 3) { Ok(()) } else { Err(format!("{told:?}")) }
    });
    assert_eq!(at_follower.read_all(TOPIC, 0, 0).map(|read| values(&read)).expect("it answers").len(), 3);
    // One that is not in sync is not recommended.
    topic.signal(follower, Signal::STOP);
    assert_eq!(topic.produce_for(3, 30_000), Ok(3));
    until_in_sync(&mut topic.client, 1);
    let told = fetch_in_rack(&mut topic.client, &far, 0);
    assert_eq!((told.error_code, told.preferred_read_replica), (0, -1));
    topic.signal(follower, Signal::CONT);
}
