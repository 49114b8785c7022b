//! Topics that are deleted while nobody tells a broker: it forgets them all the same. A JVM broker serves their metadata until it
//! is started again.

mod support;

use std::collections::BTreeSet;

use odradek::protocol::messages::create_topics::{CreatableReplicaAssignment, CreatableTopic, CreateTopicsRequest};
use odradek::protocol::messages::delete_topics::DeleteTopicsRequest;
use odradek_zookeeper::session::ZooKeeper as Session;
use odradek_zookeeper::settings::Settings;
use odradek_zookeeper::znode::{broker, cluster_id, controller_epoch, delete_topic, topic};
use rustix::process::Signal;
use support::client::Client;
use support::{Brokers, Cluster, Kind, PATIENCE, eventually, usurp};
use tokio::runtime::Runtime;
use zookeeper_client::{Acl, AuthId, Permission};

async fn session(zookeeper: u16) -> Session {
    Session::connect(Settings::new(format!("127.0.0.1:{zookeeper}"))).await.expect("ZooKeeper answers")
}

/// Of partitions on broker 0 alone.
fn create(client: &mut Client, name: &str, partitions: i32) {
    let assignments = (0..partitions)
        .map(|partition_index| CreatableReplicaAssignment { partition_index, broker_ids: vec![0] })
        .collect();
    let topic = CreatableTopic {
        name: name.to_owned(),
        num_partitions: -1,
        replication_factor: -1,
        assignments,
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, ..Default::default() };
    let created = client.call(&request, 5).expect("the broker answers CreateTopics");
    assert_eq!(created.topics[0].error_code, 0, "create {name}");
}

fn delete(client: &mut Client, names: &[&str]) {
    let topic_names = names.iter().map(ToString::to_string).collect();
    let request = DeleteTopicsRequest { topic_names, timeout_ms: 0, ..Default::default() };
    client.call(&request, 3).expect("the broker answers DeleteTopics");
}

fn until_known(client: &mut Client, expected: &[&str]) {
    let topics = &["first", "second", "stays", "later"];
    eventually(PATIENCE, &format!("{expected:?} are known, and no others"), || {
        let metadata = client.metadata(topics).map_err(|error| error.to_string())?;
        let found = metadata.topics.into_iter().filter(|topic| topic.error_code == 0).filter_map(|topic| topic.name);
        let found: BTreeSet<String> = found.collect();
        let expected = expected.iter().map(ToString::to_string).collect();
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

/// Two brokers, with the first of that kind as the controller, and topics of its own that the second, one of ours, knows. The
/// second is stopped until it has no session any more, and one of the topics deleted meanwhile.
fn second_away(name: &str, first: Kind) -> (Brokers, Runtime, Session) {
    let mut cluster = Brokers::start_as(name, &[first, Kind::Odradek], "");
    let mut client = cluster.client(0);
    create(&mut client, "first", 3);
    create(&mut client, "second", 1);
    create(&mut client, "stays", 1);
    until_known(&mut cluster.client(1), &["first", "second", "stays"]);
    cluster.brokers[1].process().signal(Signal::STOP);
    let runtime = Runtime::new().expect("a runtime");
    let zk = runtime.block_on(session(cluster.zookeeper.port));
    until(&runtime, &zk, &broker::path(1), false);
    delete(&mut client, &["first"]);
    until(&runtime, &zk, &delete_topic::path("first"), false);
    (cluster, runtime, zk)
}

fn until(runtime: &Runtime, zk: &Session, path: &str, exists: bool) {
    eventually(PATIENCE, &format!("{path} is there: {exists}"), || {
        let found = runtime.block_on(zk.exists(path)).expect("ZooKeeper answers").is_some();
        if found == exists { Ok(()) } else { Err(format!("{found}")) }
    });
}

#[test]
fn a_topic_that_is_deleted_while_a_broker_has_no_session_is_gone_for_it_once_it_has_registered_again() {
    for (name, first) in [("missed", Kind::Odradek), ("missed-by-jvm", Kind::Jvm("3.9.1"))] {
        let (mut cluster, runtime, zk) = second_away(name, first);
        cluster.brokers[1].process().signal(Signal::CONT);
        until(&runtime, &zk, &broker::path(1), true);
        let mut second = cluster.client(1);
        until_known(&mut second, &["second", "stays"]);
        create(&mut cluster.client(0), "later", 1);
        until_known(&mut second, &["second", "stays", "later"]);
    }
}

/// Its deletion begins before the broker is back, which so is not told of it, and goes on for long.
#[test]
fn a_topic_that_is_being_deleted_when_a_broker_registers_again_is_gone_for_it_when_it_is_gone() {
    let (mut cluster, runtime, zk) = second_away("missed-beginning", Kind::Odradek);
    let vandal = runtime.block_on(zookeeper_client::Client::connect(&format!("127.0.0.1:{}", cluster.zookeeper.port)));
    let vandal = vandal.expect("ZooKeeper answers");
    let allow = |permission| {
        let acls = [Acl::new(permission, AuthId::anyone())];
        runtime.block_on(vandal.set_acl(topic::ROOT, &acls, None)).expect("anybody may");
    };
    allow(Permission::READ | Permission::WRITE | Permission::CREATE | Permission::ADMIN);
    let mut first = cluster.client(0);
    delete(&mut first, &["second"]);
    until_known(&mut first, &["stays"]);
    cluster.brokers[1].process().signal(Signal::CONT);
    let mut second = cluster.client(1);
    until_known(&mut second, &["second", "stays"]);
    allow(Permission::ALL);
    until(&runtime, &zk, &delete_topic::path("second"), false);
    until_known(&mut second, &["stays"]);
}

/// Makes the topic go while the controller's office is held by nobody who would tell, and has the broker elected then.
fn delete_untold(cluster: &Cluster, name: &str, meanwhile: impl AsyncFn(&Session)) {
    Runtime::new().expect("a runtime").block_on(async {
        let usurper = usurp(cluster.zookeeper.port).await;
        let zk = session(cluster.zookeeper.port).await;
        let (_, epoch) = zk.get(controller_epoch::PATH).await.expect("it may be read").expect("it is there");
        zk.fenced(epoch.version).delete_recursive(&topic::path(name)).await.expect("anybody may");
        meanwhile(&zk).await;
        usurper.delete("/controller", None).await.expect("it is there");
    });
}

#[test]
fn a_topic_that_was_deleted_under_a_controller_that_told_nobody_is_gone_under_the_next() {
    let cluster = Cluster::start_as(Kind::Odradek, "untold-deletion", "");
    let mut client = cluster.broker.client();
    client.create_topic("first", 3, &[]);
    client.create_topic("stays", 1, &[]);
    until_known(&mut client, &["first", "stays"]);
    delete_untold(&cluster, "first", async |_| {});
    until_known(&mut client, &["stays"]);
    client.until_led("stays", 1);
}

#[test]
fn what_a_zookeeper_does_not_have_that_has_lost_more_is_not_taken_for_deleted() {
    let mut cluster = Cluster::start_as(Kind::Odradek, "wiped", "");
    let mut client = cluster.broker.client();
    client.create_topic("first", 3, &[]);
    client.commit("g", "first", 0, 7);
    delete_untold(&cluster, "first", async |zk| {
        zk.set(cluster_id::PATH, br#"{"version":"1","id":"AAAAAAAAAAAAAAAAAAAAAQ"}"#, -1).await.expect("it is there");
    });
    eventually(PATIENCE, "the broker sees it", || match cluster.broker.process().said() {
        said if said.contains("are not taken for deleted") => Ok(()),
        _ => Err(cluster.broker.process().last_words()),
    });
    until_known(&mut client, &["first"]);
    assert_eq!(client.committed("g", "first", 0), 7);
}
