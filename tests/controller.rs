//! The controller of a cluster of three: brokers stop in order, leaders are elected as asked, partitions move.

mod support;

use std::fs;
use std::time::{Duration, Instant};

use odradek::protocol::messages::delete_topics::DeleteTopicsRequest;
use odradek::protocol::messages::stop_replica::StopReplicaRequest;
use odradek::protocol::messages::update_metadata::{
    UpdateMetadataPartitionState, UpdateMetadataRequest, UpdateMetadataTopicState,
};
use odradek::record::compression::Codec;
use odradek_zookeeper::session::{CreateKind, ZooKeeper as Session};
use odradek_zookeeper::settings::Settings;
use support::client::{Client, batch};
use support::{Brokers, Kind, PATIENCE, eventually};

const REASSIGN: &str = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand";
const ELECT: &str = "org.apache.kafka.tools.LeaderElectionCommand";
const REASSIGN_2_8: &str = "kafka.admin.ReassignPartitionsCommand";
const PREFERRED_2_8: &str = "kafka.admin.PreferredReplicaLeaderElectionCommand";

fn sorted(ids: &[i32]) -> Vec<i32> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids
}

/// Three brokers and a topic of three partitions on all of them, everybody in sync.
fn cluster(name: &str, settings: &str) -> Brokers {
    let cluster = Brokers::start(name, 3, settings);
    cluster.client(0).create_replicated_topic("t", 3, 3, &[]);
    until_whole(&cluster);
    cluster
}

fn until_whole(cluster: &Brokers) {
    for partition in 0..3 {
        cluster.until_partition("t", partition, "everybody is in sync", |found| found.isr_nodes.len() == 3);
    }
}

fn controller(cluster: &Brokers) -> i32 {
    let running = cluster.brokers.iter().find(|broker| broker.process.is_some()).expect("a broker runs");
    running.client().metadata(&[]).expect("metadata").controller_id
}

fn index(id: i32) -> usize {
    usize::try_from(id).expect("a broker's id")
}

#[test]
fn a_broker_that_stops_leads_nothing_by_then_and_every_broker_can_be_rolled() {
    let mut cluster = cluster("rolling", "auto.leader.rebalance.enable=false");
    for id in 0..3 {
        let stopped = cluster.brokers[index(id)].process().log.clone();
        cluster.brokers[index(id)].stop();
        for partition in 0..3 {
            cluster.until_partition("t", partition, "another leads and it is out of sync", |found| {
                found.leader_id != id && !found.isr_nodes.contains(&id)
            });
        }
        if Kind::under_test() == Kind::Odradek {
            let said = fs::read_to_string(&stopped).expect("its log");
            assert!(said.contains("Controlled shutdown request returned successfully"), "{said}");
        }
        cluster.start_broker(index(id), Kind::under_test());
        until_whole(&cluster);
    }
}

#[test]
fn leaders_are_elected_as_the_tools_ask() {
    let mut cluster = cluster("elections", "auto.leader.rebalance.enable=false");
    let preferred = |cluster: &Brokers, partition| {
        let found = cluster.until_partition("t", partition, "it is led", |_| true);
        (found.replica_nodes[0], found.leader_id)
    };
    let (moved, _) = preferred(&cluster, 0);
    cluster.brokers[index(moved)].stop();
    cluster.start_broker(index(moved), Kind::under_test());
    until_whole(&cluster);
    assert_ne!(preferred(&cluster, 0).1, moved, "a broker that comes back follows");

    let servers = cluster.addresses();
    let asked = ["--bootstrap-server", &servers, "--election-type", "preferred", "--topic", "t", "--partition", "0"];
    let told = cluster.script("kafka-leader-election.sh", &asked, "").expect("the election is held");
    assert_eq!(told.trim(), "Successfully completed leader election (PREFERRED) for partitions t-0");
    assert_eq!(preferred(&cluster, 0).1, moved);
    let told = cluster.jvm_tool("3.9.1", ELECT, &asked).expect("the tool of Kafka is understood");
    assert_eq!(told.trim(), "Valid replica already elected for partitions t-0");

    let zookeeper = format!("127.0.0.1:{}", cluster.zookeeper.port);
    let (other, _) = preferred(&cluster, 1);
    cluster.brokers[index(other)].stop();
    cluster.start_broker(index(other), Kind::under_test());
    until_whole(&cluster);
    cluster.jvm_tool("2.8.2", PREFERRED_2_8, &["--zookeeper", &zookeeper]).expect("the tool of 2.8 is understood");
    cluster.until_partition("t", 1, "the preferred replica leads", |found| found.leader_id == other);
    elections_are_told_of(&mut cluster, &["AdminClientTriggered", "ZkTriggered"]);
}

/// Operators look for these lines in the logs of Kafka's controllers.
fn elections_are_told_of(cluster: &mut Brokers, triggers: &[&str]) {
    if Kind::under_test() != Kind::Odradek {
        return;
    }
    let said: String = cluster.brokers.iter_mut().map(|broker| broker.process().said()).collect();
    for trigger in triggers {
        let is_told = |line: &str| {
            line.contains("Starting replica leader election (PREFERRED) for partitions t-")
                && line.contains(&format!(" triggered by {trigger}"))
        };
        assert!(said.lines().any(is_told), "none is {trigger}: {said}");
    }
}

#[test]
fn leaders_go_back_by_themselves() {
    let mut cluster =
        cluster("rebalance", "leader.imbalance.check.interval.seconds=1\nleader.imbalance.per.broker.percentage=0");
    let first = cluster.until_partition("t", 0, "it is led", |_| true).replica_nodes[0];
    cluster.brokers[index(first)].stop();
    cluster.until_partition("t", 0, "another leads", |found| found.leader_id != first);
    cluster.start_broker(index(first), Kind::under_test());
    cluster.until_partition("t", 0, "it leads again", |found| found.leader_id == first);
    elections_are_told_of(&mut cluster, &["AutoTriggered"]);
}

/// A file that asks for one partition on these brokers.
fn asking(cluster: &Brokers, partition: i32, replicas: &[i32]) -> String {
    let path = cluster.scratch.path("reassignment.json");
    let text = format!(
        "{{\"version\":1,\"partitions\":[{{\"topic\":\"moved\",\"partition\":{partition},\"replicas\":{replicas:?}}}]}}"
    );
    fs::write(&path, text).expect("the scratch directory can be written");
    path.display().to_string()
}

#[test]
fn partitions_move_as_the_tools_ask_and_though_the_controller_dies() {
    let mut cluster = Brokers::start("moves", 3, "auto.leader.rebalance.enable=false");
    cluster.client(0).create_replicated_topic("moved", 2, 1, &[]);
    let servers = cluster.addresses();
    let on = |cluster: &Brokers, partition: i32, replicas: &[i32]| {
        let what = format!("it is on {replicas:?}");
        cluster.until_partition("moved", partition, &what, |found| {
            found.replica_nodes == replicas && sorted(&found.isr_nodes) == sorted(replicas)
        })
    };
    let was = cluster.until_partition("moved", 0, "it is led", |_| true).leader_id;
    let to = [(was + 1) % 3, (was + 2) % 3];

    let file = asking(&cluster, 0, &to);
    let asked = ["--bootstrap-server", &servers, "--reassignment-json-file", &file];
    let with = |action: &'static str| [&asked[..], &[action]].concat();
    let told = cluster.script("kafka-reassign-partitions.sh", &with("--execute"), "").expect("it is taken up");
    assert!(told.ends_with("Successfully started partition reassignment for moved-0\n"), "{told}");
    assert_eq!(on(&cluster, 0, &to).leader_id, to[0]);
    let told = cluster.script("kafka-reassign-partitions.sh", &with("--verify"), "").expect("it is told");
    assert!(told.contains("Reassignment of partition moved-0 is completed.\n"), "{told}");
    let told = cluster.jvm_tool("3.9.1", REASSIGN, &with("--verify")).expect("the tool of Kafka is understood");
    assert!(told.contains("Reassignment of partition moved-0 is completed."), "{told}");
    let gone = cluster.brokers[index(was)].data.join("moved-0");
    eventually(PATIENCE, "the former replica is deleted", || match gone.exists() {
        true => Err(format!("{} is there", gone.display())),
        false => Ok(()),
    });

    // Back with Kafka's own tool, and the controller dies as soon as it has taken the move up.
    let file = asking(&cluster, 0, &[was]);
    let asked = ["--bootstrap-server", &servers, "--reassignment-json-file", &file];
    let told = cluster.jvm_tool("3.9.1", REASSIGN, &[&asked[..], &["--execute"]].concat());
    assert!(told.expect("it is taken up").contains("Successfully started partition reassignment for moved-0"));
    let dies = controller(&cluster);
    cluster.brokers[index(dies)].kill();
    cluster.start_broker(index(dies), Kind::under_test());
    on(&cluster, 0, &[was]);
    let told = cluster.script("kafka-reassign-partitions.sh", &["--bootstrap-server", &servers, "--list"], "");
    assert_eq!(told.expect("moves are listed").trim(), "No partition reassignments found.");

    // As the tool of 2.8 asks for it through ZooKeeper.
    let file = asking(&cluster, 0, &to);
    let zookeeper = format!("127.0.0.1:{}", cluster.zookeeper.port);
    cluster
        .jvm_tool("2.8.2", REASSIGN_2_8, &["--zookeeper", &zookeeper, "--reassignment-json-file", &file, "--execute"])
        .expect("the tool of 2.8 is understood");
    on(&cluster, 0, &to);
    eventually(PATIENCE, "what was asked for is struck out", || {
        let shown = cluster.script("zookeeper-shell.sh", &[&zookeeper, "ls", "/admin"], "")?;
        if shown.contains("reassign_partitions") { Err(shown) } else { Ok(()) }
    });
}

#[test]
fn a_throttled_move_outlives_its_controller_and_is_let_go() {
    let mut cluster = Brokers::start("throttled", 3, "auto.leader.rebalance.enable=false");
    cluster.client(0).create_replicated_topic("moved", 1, 1, &[]);
    let was = cluster.until_partition("moved", 0, "it is led", |_| true).leader_id;
    let mut client = cluster.client(was);
    for _ in 0..30 {
        // One fetch brings a megabyte at most, throttled or not.
        let sent = client.produce("moved", 0, batch(Codec::None, ["x".repeat(100_000)]));
        sent.expect("Produce is answered").expect("it is appended");
    }
    let to = (was + 1) % 3;
    let servers = cluster.addresses();
    let file = asking(&cluster, 0, &[to]);
    let asked = ["--bootstrap-server", &servers, "--reassignment-json-file", &file];
    let with = |more: &[&'static str]| [&asked[..], more].concat();
    let told = cluster.script("kafka-reassign-partitions.sh", &with(&["--execute", "--throttle", "1000"]), "");
    let told = told.expect("it is taken up");
    assert!(told.contains("The inter-broker throttle limit was set to 1000 B/s\n"), "{told}");
    let settings = |cluster: &Brokers, entity: &[&str]| {
        let asked = [&["--bootstrap-server", &servers, "--describe"][..], entity].concat();
        cluster.script("kafka-configs.sh", &asked, "").expect("settings are described")
    };
    let of_topic = settings(&cluster, &["--topic", "moved"]);
    assert!(of_topic.contains(&format!("leader.replication.throttled.replicas=0:{was} ")), "{of_topic}");
    assert!(of_topic.contains(&format!("follower.replication.throttled.replicas=0:{to} ")), "{of_topic}");

    let dies = controller(&cluster);
    cluster.brokers[index(dies)].kill();
    let next = cluster.brokers[index((dies + 1) % 3)].address();
    eventually(PATIENCE, "the next controller goes on with it", || {
        let moves = cluster.script("kafka-reassign-partitions.sh", &["--bootstrap-server", &next, "--list"], "")?;
        let line = format!("moved-0: replicas: {to},{was}. adding: {to}. removing: {was}.");
        if moves.contains(&line) { Ok(()) } else { Err(moves) }
    });
    cluster.start_broker(index(dies), Kind::under_test());
    let faster = with(&["--execute", "--additional", "--throttle", "100000000"]);
    cluster.script("kafka-reassign-partitions.sh", &faster, "").expect("the throttle is changed");
    cluster.until_partition("moved", 0, "it has moved", |found| found.replica_nodes == [to] && found.leader_id == to);
    assert_eq!(cluster.client(to).read_all("moved", 0, 0).expect("it is read").len(), 30);
    let told = cluster.script("kafka-reassign-partitions.sh", &with(&["--verify"]), "").expect("it is told");
    assert!(told.contains("Reassignment of partition moved-0 is completed.\n"), "{told}");
    assert_eq!(settings(&cluster, &["--topic", "moved"]), "Dynamic configs for topic moved are:\n");
    let of_broker = settings(&cluster, &["--broker", &to.to_string()]);
    assert!(!of_broker.contains("throttled"), "{of_broker}");
}

#[test]
fn junk_in_the_znodes_of_old_tools_is_removed_and_the_next_wish_is_heard() {
    let cluster = Brokers::start("junk", 1, "");
    cluster.client(0).create_topic("moved", 1, &[]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let settings = Settings::new(format!("127.0.0.1:{}", cluster.zookeeper.port));
        let zk = Session::connect(settings).await.expect("ZooKeeper runs");
        let wishes = [
            ("/admin/reassign_partitions", r#"{"partitions":[{"topic":"moved","partition":0,"replicas":[0]}]}"#),
            ("/admin/preferred_replica_election", r#"{"partitions":[{"topic":"moved","partition":0}]}"#),
        ];
        for (path, wish) in wishes {
            for data in ["junk", "{}", "", wish, "[1]", wish] {
                zk.create(path, data.as_bytes(), CreateKind::Persistent).await.expect("the former is gone");
                let began = Instant::now();
                while zk.exists(path).await.expect("ZooKeeper runs").is_some() {
                    assert!(began.elapsed() < PATIENCE, "{path} stays with {data}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    });
    cluster.until_partition("moved", 0, "it is led", |found| found.replica_nodes == [0]);
}

#[test]
fn a_move_that_cannot_end_is_shown_and_can_be_cancelled() {
    let mut cluster = Brokers::start("cancelled", 3, "auto.leader.rebalance.enable=false");
    cluster.client(0).create_replicated_topic("moved", 1, 1, &[]);
    let was = cluster.until_partition("moved", 0, "it is led", |_| true).leader_id;
    let lost = (0..3).find(|id| *id != was && *id != controller(&cluster)).expect("one of three");
    // One that answers.
    let servers = cluster.brokers[index(was)].address();
    let file = asking(&cluster, 0, &[lost]);
    // Stopped, so that it is live and never catches up.
    cluster.brokers[index(lost)].process().signal(rustix::process::Signal::STOP);
    let asked = ["--bootstrap-server", &servers, "--reassignment-json-file", &file];
    let started = cluster.script("kafka-reassign-partitions.sh", &[&asked[..], &["--execute"]].concat(), "");
    started.expect("it is taken up");
    let told = cluster.script("kafka-reassign-partitions.sh", &["--bootstrap-server", &servers, "--list"], "");
    let line = format!("moved-0: replicas: {lost},{was}. adding: {lost}. removing: {was}.");
    assert_eq!(told.expect("moves are listed"), format!("Current partition reassignments:\n{line}\n"));
    let described = cluster
        .script("kafka-topics.sh", &["--bootstrap-server", &servers, "--describe", "--topic", "moved"], "")
        .expect("it is described");
    assert!(described.contains("ReplicationFactor: 1\t"), "{described}");
    assert!(described.contains(&format!("\tAdding Replicas: {lost}\tRemoving Replicas: {was}\t")), "{described}");
    let grown = ["--bootstrap-server", &servers, "--alter", "--topic", "moved", "--partitions", "2"];
    let refused = cluster.script("kafka-topics.sh", &grown, "").expect_err("a topic that moves does not grow");
    assert!(refused.contains("A partition reassignment is in progress for the topic 'moved'."), "{refused}");
    let cancelled = cluster.script(
        "kafka-reassign-partitions.sh",
        &[&asked[..], &["--cancel", "--preserve-throttles"]].concat(),
        "",
    );
    let cancelled = cancelled.expect("it is cancelled");
    assert!(cancelled.starts_with("Successfully cancelled partition reassignment for: moved-0\n"), "{cancelled}");
    cluster.brokers[index(lost)].process().signal(rustix::process::Signal::CONT);
    cluster.until_partition("moved", 0, "it is where it was", |found| found.replica_nodes == [was]);
}

/// A request that its controller has given up may arrive long after, and what is newer has been obeyed by then.
#[test]
fn by_a_connection_that_its_controller_has_replaced_nothing_is_obeyed() {
    // Kafka's brokers obey it.
    let cluster = Brokers::start_as("given-up", &[Kind::Odradek], "");
    let say = |client: &mut Client, controller_epoch| {
        let request = StopReplicaRequest { controller_epoch, broker_epoch: -1, ..StopReplicaRequest::default() };
        client.call(&request, 3).map(|answer| answer.error_code).map_err(|error| error.kind())
    };
    let [mut first, mut second] = [(), ()].map(|()| cluster.client(0));
    cluster.client(0).create_topic("before", 1, &[]);
    for _ in 0..2 {
        assert_eq!(say(&mut first, 1), Ok(0));
    }
    assert_eq!(say(&mut second, 1), Ok(0));
    assert!(say(&mut first, 1).is_err(), "it is closed");
    assert_eq!(say(&mut second, 1), Ok(0));
    // The controller itself has an earlier one, and asks by another.
    cluster.client(0).create_topic("after", 1, &[]);
    assert!(say(&mut second, 1).is_err(), "it is closed");
    let mut third = cluster.client(0);
    assert_eq!(say(&mut third, 1), Ok(0));
    assert_eq!(say(&mut cluster.client(0), 1_000), Ok(0), "another controller");
    assert_ne!(say(&mut third, 1), Ok(0));
}

#[test]
fn offsets_go_with_their_topic_and_those_of_the_next_one_stay_when_its_deletion_is_heard_of_late() {
    // Kafka's brokers forget them, so it is ours.
    let mut cluster = Brokers::start_as("heard-late", &[Kind::Odradek], "");
    let mut client = cluster.client(0);
    for (topic, offset) in [("gone", 5), ("t", 7)] {
        client.create_topic(topic, 1, &[]);
        client.commit("readers", topic, 0, offset);
        assert_eq!(client.committed("readers", topic, 0), offset);
    }
    let delete = DeleteTopicsRequest { topic_names: vec!["gone".to_owned()], timeout_ms: 30_000, ..Default::default() };
    assert_eq!(client.call(&delete, 4).expect("DeleteTopics is answered").responses[0].error_code, 0);
    eventually(PATIENCE, "its offsets are forgotten", || match client.try_committed("readers", "gone", 0)? {
        -1 => Ok(()),
        offset => Err(format!("{offset}")),
    });
    // What was said of an earlier topic of the name.
    let deleted = UpdateMetadataPartitionState { leader: -2, ..UpdateMetadataPartitionState::default() };
    let topic = UpdateMetadataTopicState {
        topic_name: "t".to_owned(),
        partition_states: vec![deleted],
        ..UpdateMetadataTopicState::default()
    };
    let request = UpdateMetadataRequest {
        controller_epoch: 1_000,
        broker_epoch: -1,
        topic_states: vec![topic],
        ..UpdateMetadataRequest::default()
    };
    assert_eq!(client.call(&request, 7).expect("the broker answers").error_code, 0);
    eventually(PATIENCE, "the broker has looked", || match cluster.brokers[0].process().said() {
        said if said.contains("t was deleted and is there again") => Ok(()),
        _ => Err(cluster.brokers[0].process().last_words()),
    });
    assert_eq!(client.try_committed("readers", "t", 0), Ok(7));
}
