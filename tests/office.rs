//! The office of the controller, driven by hand against a real ZooKeeper: what taking it costs, what ends it, and that
//! both are counted.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use odradek::config::sections::ControllerConfig;
use odradek::controller::counters::ControllerCounters;
use odradek::controller::task::Controller;
use odradek::controller::task::topic_ids::KnownTopics;
use odradek::model::BrokerId;
use odradek_zookeeper::session::{CreateKind, ZooKeeper as Session};
use odradek_zookeeper::settings::Settings;
use odradek_zookeeper::znode::broker::{Broker, BrokerJson, Endpoint};
use odradek_zookeeper::znode::topic::{PartitionAssignment, Topic};
use support::{PATIENCE, Scratch, ZooKeeper, eventually};
use tokio::time::timeout;
use zookeeper_client::{Acl, AuthId, Client, Permission};

fn registration(id: i32) -> Broker {
    let endpoint = Endpoint {
        listener: "PLAINTEXT".to_owned(),
        security_protocol: "PLAINTEXT".to_owned(),
        host: "127.0.0.1".to_owned(),
        // Nobody listens there.
        port: 1,
    };
    Broker { id, endpoints: vec![endpoint], rack: None, jmx_port: -1, timestamp_ms: 1, features: BTreeMap::new() }
}

/// How many packets the server has received, this question among them.
fn received(zookeeper: &ZooKeeper) -> u64 {
    let said = zookeeper.status().expect("the server answers");
    let line = said.lines().find_map(|line| line.strip_prefix("Received: "));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or_else(|| panic!("it said: {said}"))
}

fn counted(counter: &AtomicU64, expected: u64, what: &str) {
    let count = || counter.load(Ordering::SeqCst);
    eventually(PATIENCE, what, || if count() < expected { Err(format!("{} of {expected}", count())) } else { Ok(()) });
    assert_eq!(count(), expected, "{what}");
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    eventually(PATIENCE, what, || if is_so() { Ok(()) } else { Err("not yet".to_owned()) });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_office_is_taken_with_one_read_a_znode_and_all_that_ends_it_is_counted() {
    const BROKERS: i32 = 40;
    const TOPICS: i32 = 30;
    let scratch = Scratch::new("office");
    let zookeeper = ZooKeeper::start(&scratch);
    let address = format!("127.0.0.1:{}", zookeeper.port);
    // A connection that is lost on a busy machine would count requests twice.
    let settings = || Settings { session_timeout: Duration::from_secs(20), ..Settings::new(address.clone()) };
    let others = Session::connect(settings()).await.expect("ZooKeeper answers");
    others.create_persistent_roots().await.expect("there is room");
    for id in 100..100 + BROKERS {
        others.register_broker(&registration(id), BrokerJson::V5).await.expect("the id is free");
    }
    let replicas = PartitionAssignment { replicas: vec![100], ..PartitionAssignment::default() };
    let topic = Topic { topic_id: Some("AAAAAAAAAAAAAAAAAAAAAQ".to_owned()), partitions: [(0, replicas)].into() };
    for number in 0..TOPICS {
        others.create_topic(&format!("t{number}"), &topic, &BTreeMap::new()).await.expect("it is new");
    }

    let zk = Session::connect(settings()).await.expect("ZooKeeper answers");
    let counters = Arc::new(ControllerCounters::default());
    let (controller, task) =
        Controller::new(BrokerId(1), ControllerConfig::default(), KnownTopics::default(), Arc::clone(&counters));
    let task = tokio::spawn(task);
    let before = received(&zookeeper);
    controller.registered(zk.current_session().await.expect("it is connected")).await;
    counted(&counters.leaderships_written, TOPICS as u64, "leaderships written");
    let requests = received(&zookeeper) - before;
    println!("{requests} requests");
    // Each registration and each topic once, with a watch, and a few for all the rest, pings among them.
    let each_once = (BROKERS + TOPICS) as u64;
    assert!((each_once..each_once + 40).contains(&requests), "{requests} requests, {each_once} znodes");
    assert!(controller.is_active());
    counted(&counters.offices_won, 1, "offices won");
    counted(&counters.offices_left, 0, "offices left");

    // Somebody removes the znode: the office ends, and is won again.
    others.delete("/controller", -1).await.expect("anybody may");
    counted(&counters.offices_won, 2, "offices won");
    counted(&counters.offices_left, 1, "offices left");
    counted(&counters.zookeeper_failures, 0, "failures of ZooKeeper");

    // Won, but not to be taken, since the topics may not be listed.
    let stranger = Client::connector().with_auth("digest", b"vandal:secret").connect(&address).await;
    let stranger = stranger.expect("ZooKeeper answers");
    let shut = [Acl::new(Permission::ALL, AuthId::new("auth", ""))];
    stranger.set_acl("/brokers/topics", &shut, None).await.expect("anybody may");
    others.delete("/controller", -1).await.expect("anybody may");
    counted(&counters.offices_left, 2, "offices left");
    until("the failure is counted", || counters.zookeeper_failures.load(Ordering::SeqCst) > 0);
    assert!(!controller.is_active());
    let open = [Acl::new(Permission::ALL, AuthId::anyone())];
    stranger.set_acl("/brokers/topics", &open, None).await.expect("it is ours");
    until("the office is taken when that is possible", || controller.is_active());

    // The office ends with its session at once.
    zk.close().await;
    timeout(PATIENCE, controller.resigned()).await.expect("the office ends with its session");
    counted(&counters.offices_left, 3, "offices left");
    timeout(PATIENCE, controller.shutdown()).await.expect("nothing is waited for");
    task.await.expect("no panic");
    assert_eq!(others.exists("/controller").await, Ok(None));
    others.create("/brokers/topics/last", b"", CreateKind::Persistent).await.expect("the server is well");
}

/// A list of marked topics that is heard of late would have a topic deleted that has been made again meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_again_where_one_was_deleted_stays() {
    const ROUNDS: usize = 20;
    const TOGETHER: usize = 10;
    let scratch = Scratch::new("made-again");
    let zookeeper = ZooKeeper::start(&scratch);
    let address = format!("127.0.0.1:{}", zookeeper.port);
    let settings = || Settings { session_timeout: Duration::from_secs(20), ..Settings::new(address.clone()) };
    let others = Session::connect(settings()).await.expect("ZooKeeper answers");
    others.create_persistent_roots().await.expect("there is room");
    let zk = Session::connect(settings()).await.expect("ZooKeeper answers");
    let (controller, task) =
        Controller::new(BrokerId(1), ControllerConfig::default(), KnownTopics::default(), Arc::default());
    let task = tokio::spawn(task);
    controller.registered(zk.current_session().await.expect("it is connected")).await;
    until("there is a controller", || controller.is_active());

    // Without partitions there is nobody to wait for.
    let create = |name: String| {
        let others = others.clone();
        async move {
            others.create_topic(&name, &Topic { topic_id: None, partitions: BTreeMap::new() }, &BTreeMap::new()).await
        }
    };
    let delete = |name: String| {
        let others = others.clone();
        async move {
            let path = format!("/admin/delete_topics/{name}");
            others.create(&path, b"", CreateKind::Persistent).await.expect("it is not marked yet");
            let deleting = async {
                while others.exists(&path).await.expect("ZooKeeper answers").is_some() {
                    tokio::task::yield_now().await;
                }
            };
            timeout(PATIENCE, deleting).await.unwrap_or_else(|_| panic!("{name} is not deleted"));
        }
    };
    let mut names = Vec::new();
    for round in 0..ROUNDS {
        let round = (0..TOGETHER).map(|number| format!("t{round}-{number}"));
        let again = round.map(|name| {
            names.push(name.clone());
            let (first, gone, second) = (create(name.clone()), delete(name.clone()), create(name));
            tokio::spawn(async move {
                first.await.expect("it is new");
                gone.await;
                second.await.expect("it is new again");
            })
        });
        for again in again.collect::<Vec<_>>() {
            again.await.expect("no panic");
        }
    }
    // Whatever was marked before has had its turn.
    create("last".to_owned()).await.expect("it is new");
    delete("last".to_owned()).await;
    for name in names {
        let found = others.exists(&format!("/brokers/topics/{name}")).await.expect("ZooKeeper answers");
        assert!(found.is_some(), "{name} is gone");
    }
    timeout(PATIENCE, controller.shutdown()).await.expect("nothing is waited for");
    task.await.expect("no panic");
}
