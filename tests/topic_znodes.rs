//! Topics in ZooKeeper, where more than one may write: who comes too late changes nothing, what is malformed is taken
//! over once it is repaired, and what ZooKeeper cannot hold is refused. A JVM broker promises none of this.

mod support;

use std::collections::BTreeMap;

use odradek::config::kafka_config::KafkaConfig;
use odradek::config::properties::Properties;
use odradek::controller::assignment::Candidate;
use odradek::controller::task::topic_administration::{Mode, Topics, Wish};
use odradek::controller::topic_validation::TopicError;
use odradek::model::BrokerId;
use odradek::protocol::messages::create_topics::{CreatableReplicaAssignment, CreatableTopic, CreateTopicsRequest};
use odradek::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use odradek::record::compression::Codec;
use odradek_zookeeper::session::{CreateKind, ZooKeeper as Session};
use odradek_zookeeper::settings::Settings;
use odradek_zookeeper::znode;
use odradek_zookeeper::znode::broker::{Broker as Registration, BrokerJson};
use odradek_zookeeper::znode::config::ConfigEntity;
use support::client::batch;
use support::{Cluster, Kind, PATIENCE, Scratch, ZooKeeper, eventually, usurp};
use tokio::runtime::Runtime;

const BROKERS: [i32; 2] = [1, 2];

/// A session for each of two brokers, on a tree of their own.
async fn two_brokers(zookeeper: &ZooKeeper) -> [Session; 2] {
    let sessions = BROKERS.map(|id| async move {
        let session = Session::connect(Settings::new(format!("127.0.0.1:{}", zookeeper.port))).await.expect("it runs");
        session.create_persistent_roots().await.expect("the roots can be made");
        let broker = Registration {
            id,
            endpoints: Vec::new(),
            rack: None,
            jmx_port: -1,
            timestamp_ms: 0,
            features: BTreeMap::new(),
        };
        session.register_broker(&broker, BrokerJson::V5).await.expect("nobody else has this id");
        session
    });
    let [first, second] = sessions;
    [first.await, second.await]
}

#[test]
fn of_two_brokers_that_create_one_topic_the_later_changes_nothing() {
    let scratch = Scratch::new("created-twice");
    let zookeeper = ZooKeeper::start(&scratch);
    Runtime::new().expect("a runtime").block_on(async {
        let [first, second] = two_brokers(&zookeeper).await;
        let topics = [Topics::new(first.clone()), Topics::new(second)];
        let settings = Properties::from([("zookeeper.connect".to_owned(), "localhost".to_owned())]);
        let config = KafkaConfig::from_properties(&settings).expect("valid");
        let candidates = BROKERS.map(|id| Candidate { id: BrokerId(id), rack: None });
        let overrides = [1, 2].map(|ms| Properties::from([("retention.ms".to_owned(), ms.to_string())]));
        for round in 0..50 {
            let name = format!("t{round}");
            let create = |broker: usize| {
                let wish = Wish::Spread { partitions: Some(1), replication_factor: Some(1) };
                topics[broker].create(&config, &candidates, &name, wish, &overrides[broker], Mode::Create)
            };
            let outcomes: [_; 2] = tokio::join!(create(0), create(1)).into();
            let winners: Vec<usize> = (0..2).filter(|broker| outcomes[*broker].is_ok()).collect();
            let [winner] = winners[..] else { panic!("{name} was created {} times: {outcomes:?}", winners.len()) };
            assert_eq!(outcomes[1 - winner], Err(TopicError::Exists(format!("Topic '{name}' already exists."))));
            let stored = first.config(&ConfigEntity::Topic(name.clone())).await.expect("it can be read");
            assert_eq!(
                stored, overrides[winner],
                "{name} has the settings of the one who was told that it was created"
            );
        }
    });
}

#[test]
fn of_two_brokers_that_grow_one_topic_the_later_starts_from_what_the_earlier_made() {
    let scratch = Scratch::new("grown-twice");
    let zookeeper = ZooKeeper::start(&scratch);
    Runtime::new().expect("a runtime").block_on(async {
        let [first, second] = two_brokers(&zookeeper).await;
        let topics = [Topics::new(first.clone()), Topics::new(second)];
        let partition =
            odradek_zookeeper::znode::topic::PartitionAssignment { replicas: vec![1], ..Default::default() };
        let topic =
            odradek_zookeeper::znode::topic::Topic { topic_id: None, partitions: BTreeMap::from([(0, partition)]) };
        first.create_topic("t", &topic, &BTreeMap::new()).await.expect("it is new");
        let mut count = 1;
        for round in 0..50 {
            // One adds two partitions on broker 1, the other one on broker 2: after either, the other does not fit.
            let wished = [vec![vec![BrokerId(1)]; 2], vec![vec![BrokerId(2)]]];
            let grow = |broker: usize| {
                let assignments = wished[broker].clone();
                let count = count + assignments.len() as i32;
                topics[broker].add_partitions("t", count, Some(assignments), Mode::Create)
            };
            let outcomes: [_; 2] = tokio::join!(grow(0), grow(1)).into();
            let winners: Vec<usize> = (0..2).filter(|broker| outcomes[*broker].is_ok()).collect();
            let [winner] = winners[..] else { panic!("round {round}: grown {} times: {outcomes:?}", winners.len()) };
            let now = first.topic("t").await.expect("it can be read").expect("it is there").value.partitions;
            let added: Vec<Vec<i32>> = (count..now.len() as i32).map(|id| now[&id].replicas.clone()).collect();
            assert_eq!(added, [vec![vec![1]; 2], vec![vec![2]]][winner], "round {round}");
            count = now.len() as i32;
        }
    });
}

#[test]
fn a_malformed_topic_is_served_once_it_is_repaired() {
    let mut cluster = Cluster::start_as(Kind::Odradek, "malformed", "");
    let runtime = Runtime::new().expect("a runtime");
    let settings = Settings::new(format!("127.0.0.1:{}", cluster.zookeeper.port));
    let zk = runtime.block_on(Session::connect(settings)).expect("it runs");
    let write_junk = |topic: &str| {
        let path = format!("/brokers/topics/{topic}");
        runtime.block_on(zk.create(&path, b"junk", CreateKind::Persistent)).expect("nobody else writes it");
    };
    let repair = |topic: &str| {
        let path = format!("/brokers/topics/{topic}");
        runtime.block_on(zk.set(&path, br#"{"version":1,"partitions":{"0":[0]}}"#, -1)).expect("it is there");
    };
    let is_complained_of = |cluster: &mut Cluster, topic: &str| {
        let complaint = format!("topic {topic} is ignored until its znode is repaired");
        eventually(PATIENCE, &complaint, || match cluster.broker.process().said().matches(&complaint).count() {
            0 => Err("nothing".to_owned()),
            _ => Ok(()),
        });
    };
    // One that a controller in office hears of, and one that it finds when it is elected.
    write_junk("appeared");
    is_complained_of(&mut cluster, "appeared");
    repair("appeared");
    cluster.broker.client().until_led("appeared", 1);
    cluster.broker.stop();
    write_junk("found");
    cluster.start_broker(Kind::Odradek);
    is_complained_of(&mut cluster, "found");
    repair("found");
    let mut client = cluster.broker.client();
    client.until_led("found", 1);
    for topic in ["appeared", "found"] {
        let produced = client.produce(topic, 0, batch(Codec::None, ["x".to_owned()]));
        assert_eq!(produced.expect("the produce is answered"), Ok(0));
    }
}

#[test]
fn a_topic_that_no_znode_can_hold_is_refused_and_nothing_of_it_stays() {
    const INVALID_REQUEST: i16 = 42;
    let cluster = Cluster::start_as(Kind::Odradek, "huge", "");
    let mut client = cluster.broker.client();
    let assignments =
        (0..110_000).map(|partition_index| CreatableReplicaAssignment { partition_index, broker_ids: vec![0] });
    let topic = CreatableTopic {
        name: "huge".to_owned(),
        num_partitions: -1,
        replication_factor: -1,
        assignments: assignments.collect(),
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, ..Default::default() };
    let refused = &client.call(&request, 5).expect("the broker answers CreateTopics").topics[0];
    let message = refused.error_message.as_deref().unwrap_or_default();
    assert_eq!(refused.error_code, INVALID_REQUEST, "{message}");
    assert!(message.starts_with("znode /brokers/topics/huge would hold "), "{message}");
    client.create_topic("small", 1, &[]);
    let metadata = client.metadata(&["huge"]).expect("the broker answers Metadata");
    assert_eq!(metadata.topics[0].error_code, 3, "{:?}", metadata.topics[0]);
}

/// As tools and brokers write it that know no ids.
async fn strip(zk: &Session, topic: &str) {
    let path = znode::topic::path(topic);
    let mut found = zk.topic(topic).await.expect("it can be read").expect("it is there").value;
    assert!(found.topic_id.take().is_some());
    zk.set(&path, &found.encode(), -1).await.expect("anybody may");
}

async fn until_identified(zk: &Session, topic: &str) -> String {
    let identified = async {
        loop {
            match zk.topic(topic).await.expect("it can be read").expect("it is there").value.topic_id {
                Some(id) => return id,
                None => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, identified).await.expect("the topic has an id")
}

/// In another office, or by another broker after a restart: a new id would be another topic's to all who host it or read it.
#[test]
fn a_topic_whose_znode_has_lost_its_id_has_it_again_once_there_is_a_controller_that_knows_ids() {
    let mut cluster = Cluster::start_as(Kind::Odradek, "lost-id", "");
    let runtime = Runtime::new().expect("a runtime");
    let zk = runtime.block_on(Session::connect(Settings::new(format!("127.0.0.1:{}", cluster.zookeeper.port))));
    let zk = zk.expect("it runs");
    cluster.broker.client().create_topic("t", 2, &[]);
    let id = runtime.block_on(until_identified(&zk, "t"));
    let goes_on = |cluster: &Cluster, expected: i64| {
        let mut client = cluster.broker.client();
        client.until_led("t", 2);
        let produced = client.produce("t", 0, batch(Codec::None, ["x".to_owned()]));
        assert_eq!(produced.expect("the produce is answered"), Ok(expected));
        let partition = FetchPartition { fetch_offset: expected, partition_max_bytes: 1 << 20, ..Default::default() };
        let topic_id = id.parse().expect("an id");
        let topics = vec![FetchTopic { topic_id, partitions: vec![partition], ..Default::default() }];
        let request = FetchRequest { topics, max_bytes: 1 << 20, ..Default::default() };
        let fetched = &client.call(&request, 13).expect("the fetch is answered").responses[0].partitions[0];
        assert_eq!((fetched.error_code, fetched.high_watermark), (0, expected + 1));
    };
    goes_on(&cluster, 0);

    runtime.block_on(async {
        let usurper = usurp(cluster.zookeeper.port).await;
        strip(&zk, "t").await;
        usurper.delete("/controller", None).await.expect("it is there");
    });
    assert_eq!(runtime.block_on(until_identified(&zk, "t")), id, "the broker has been told of it");
    goes_on(&cluster, 1);

    cluster.broker.stop();
    runtime.block_on(strip(&zk, "t"));
    cluster.start_broker(Kind::Odradek);
    assert_eq!(runtime.block_on(until_identified(&zk, "t")), id, "the broker has a log of it");
    goes_on(&cluster, 2);
}

#[test]
fn a_topic_that_is_made_again_by_who_knows_no_ids_is_another() {
    let mut cluster = Cluster::start_as(Kind::Odradek, "another-id", "");
    let runtime = Runtime::new().expect("a runtime");
    let zk = runtime.block_on(Session::connect(Settings::new(format!("127.0.0.1:{}", cluster.zookeeper.port))));
    let zk = zk.expect("it runs");
    cluster.broker.client().create_topic("t", 1, &[]);
    let first = runtime.block_on(until_identified(&zk, "t"));
    let make_again = async || {
        let mut found = zk.topic("t").await.expect("it can be read").expect("it is there").value;
        found.topic_id = None;
        let (_, epoch) = zk.get(znode::controller_epoch::PATH).await.expect("it may be read").expect("it is there");
        zk.fenced(epoch.version).delete_recursive(&znode::topic::path("t")).await.expect("anybody may");
        let created = zk.create(&znode::topic::path("t"), &found.encode(), CreateKind::Persistent).await;
        created.expect("nobody else writes it");
    };
    runtime.block_on(async {
        let usurper = usurp(cluster.zookeeper.port).await;
        make_again().await;
        usurper.delete("/controller", None).await.expect("it is there");
    });
    let second = runtime.block_on(until_identified(&zk, "t"));
    assert_ne!(second, first);
    cluster.broker.stop();
    runtime.block_on(make_again());
    // It has the log of another topic, and so does not lead this one.
    cluster.broker.process = Some(cluster.broker.spawn(Kind::Odradek, &cluster.scratch));
    let third = runtime.block_on(until_identified(&zk, "t"));
    assert!(![first, second].contains(&third));
}
