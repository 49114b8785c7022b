//! The session, its watches and its writes against a real Apache ZooKeeper.
mod support;

use odradek_zookeeper::brokers::RegisteredBroker;
use odradek_zookeeper::election::Election;
use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::fenced::{Committed, Write};
use odradek_zookeeper::requests::Request;
use odradek_zookeeper::session::{CreateKind, ZooKeeper};
use odradek_zookeeper::settings::{SaslDigest, Settings, Tls};
use odradek_zookeeper::watch::DataWatch;
use odradek_zookeeper::znode::broker::{Broker, BrokerJson, Endpoint};
use odradek_zookeeper::znode::config::ConfigEntity;
use odradek_zookeeper::znode::partition_state::{self, PartitionState};
use odradek_zookeeper::znode::producer_id_block::ProducerIdBlock;
use odradek_zookeeper::znode::topic::{PartitionAssignment, Topic};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;
use support::{Server, eventually};

fn broker(id: i32) -> Broker {
    Broker {
        id,
        endpoints: vec![Endpoint {
            listener: "PLAINTEXT".to_owned(),
            security_protocol: "PLAINTEXT".to_owned(),
            host: "h".to_owned(),
            port: 9092,
        }],
        rack: None,
        jmx_port: -1,
        timestamp_ms: 1,
        features: BTreeMap::new(),
    }
}

fn topic(partitions: i32) -> Topic {
    let assignment = PartitionAssignment { replicas: vec![1], ..PartitionAssignment::default() };
    Topic {
        topic_id: Some("AAAAAAAAAAAAAAAAAAAAAQ".to_owned()),
        partitions: (0..partitions).map(|id| (id, assignment.clone())).collect(),
    }
}

async fn cluster(server: &Server, chroot: &str) -> ZooKeeper {
    let zk = server.connect(chroot).await;
    zk.create_persistent_roots().await.unwrap();
    zk
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_laid_out_below_its_chroot() {
    let server = Server::shared();
    let zk = cluster(&server, "/layout/deep").await;
    zk.create_persistent_roots().await.unwrap();
    let outside = server.connect("").await;
    assert!(outside.exists("/layout/deep/brokers/ids").await.unwrap().is_some());
    assert_eq!(zk.cluster_id_or_create("first").await.unwrap(), "first");
    assert_eq!(zk.cluster_id_or_create("second").await.unwrap(), "first");
    assert_eq!(zk.generate_broker_id(1000).await.unwrap(), 1001);
    assert_eq!(zk.generate_broker_id(1000).await.unwrap(), 1002);
    assert_eq!(
        zk.allocate_producer_id_block(4).await.unwrap(),
        ProducerIdBlock { broker: 4, block_start: 0, block_end: 999 }
    );
    assert_eq!(zk.allocate_producer_id_block(5).await.unwrap().block_start, 1000);
    assert_eq!(zk.consumer_offset("g", "t", 0).await.unwrap(), None);
    zk.set_consumer_offset("g", "t", 0, 17).await.unwrap();
    zk.set_consumer_offset("g", "t", 0, 18).await.unwrap();
    assert_eq!(zk.consumer_offset("g", "t", 0).await.unwrap(), Some(18));
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_and_configs_are_written_once_and_read_back() {
    let server = Server::shared();
    let zk = cluster(&server, "/topics").await;
    let config = BTreeMap::from([("retention.ms".to_owned(), "1".to_owned())]);
    zk.create_topic("t", &topic(2), &config).await.unwrap();
    let again = zk.create_topic("t", &topic(2), &BTreeMap::new()).await;
    assert!(matches!(again, Err(ZkError::NodeExists { .. })), "{again:?}");
    assert_eq!(zk.topics().await.unwrap(), ["t"]);
    assert_eq!(zk.topic("t").await.unwrap().unwrap().value, topic(2));
    assert_eq!(zk.topic("u").await.unwrap(), None);
    zk.set_topic("t", &topic(3), 0).await.unwrap();
    let late = zk.set_topic("t", &topic(4), 0).await;
    assert!(matches!(late, Err(ZkError::BadVersion { .. })), "{late:?}");
    assert_eq!(zk.topics_of(&["t".to_owned(), "u".to_owned()]).await.unwrap()["t"], topic(3));
    assert_eq!(zk.config(&ConfigEntity::Topic("t".to_owned())).await.unwrap(), config);
    zk.mark_topic_for_deletion("t").await.unwrap();
    zk.mark_topic_for_deletion("t").await.unwrap();
    assert!(zk.is_marked_for_deletion("t").await.unwrap());
    zk.set("/brokers/topics/t", b"junk", -1).await.unwrap();
    let error = zk.topic("t").await.unwrap_err().to_string();
    assert!(error.contains("/brokers/topics/t") && error.contains("junk"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_is_replaced_only_as_it_was_read() {
    let server = Server::shared();
    let zk = cluster(&server, "/replaced").await;
    let (entity, path) = (ConfigEntity::Topic("t".to_owned()), "/config/topics/t");
    let one = BTreeMap::from([("retention.ms".to_owned(), "1".to_owned())]);
    let other = BTreeMap::from([("retention.ms".to_owned(), "2".to_owned())]);
    let read = zk.stored_config(&entity).await.unwrap();
    assert_eq!((read.config.unwrap(), read.version), (BTreeMap::new(), None));
    zk.replace_config(&entity, &one, read.version).await.unwrap();
    assert!(matches!(zk.replace_config(&entity, &other, read.version).await, Err(ZkError::NodeExists { .. })));

    let read = zk.stored_config(&entity).await.unwrap();
    assert_eq!((read.config.unwrap(), read.version), (one.clone(), Some(0)));
    zk.replace_config(&entity, &other, read.version).await.unwrap();
    assert!(matches!(zk.replace_config(&entity, &one, read.version).await, Err(ZkError::BadVersion { .. })));
    assert_eq!(zk.config(&entity).await.unwrap(), other);
    // As a request that is sent again, whose reply was lost.
    zk.replace_config(&entity, &other, read.version).await.unwrap();

    zk.set(path, b"no json", -1).await.unwrap();
    let read = zk.stored_config(&entity).await.unwrap();
    assert!(read.config.is_err());
    assert!(zk.delete(path, -1).await.unwrap());
    assert!(matches!(zk.replace_config(&entity, &one, read.version).await, Err(ZkError::NoNode { .. })));
    assert_eq!(zk.stored_config(&entity).await.unwrap().version, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_is_stored_and_told_of_or_neither() {
    let server = Server::shared();
    let zk = cluster(&server, "/told").await;
    let entity = ConfigEntity::Topic("t".to_owned());
    let config = |value: &str| BTreeMap::from([("retention.ms".to_owned(), value.to_owned())]);
    let written = async || zk.exists(&entity.path()).await.unwrap().expect("it is stored").mzxid;
    let told = async || {
        let changes = zk.children("/config/changes").await.unwrap();
        let last = changes.into_iter().max().expect("one is told of");
        zk.exists(&format!("/config/changes/{last}")).await.unwrap().expect("it is there").czxid
    };
    zk.replace_config(&entity, &config("1"), None).await.unwrap();
    assert_eq!(told().await, written().await, "created");
    zk.replace_config(&entity, &config("2"), Some(0)).await.unwrap();
    assert_eq!(told().await, written().await, "replaced");
    zk.set_config(&entity, &config("3")).await.unwrap();
    assert_eq!(told().await, written().await, "set");
    let before = told().await;
    assert!(zk.replace_config(&entity, &config("4"), Some(0)).await.is_err());
    assert_eq!(told().await, before, "what is refused is not told of");

    // Somebody has removed all of it.
    for change in zk.children("/config/changes").await.unwrap() {
        assert!(zk.delete(&format!("/config/changes/{change}"), -1).await.unwrap());
    }
    for gone in ["/config/changes", "/config/topics/t", "/config/topics"] {
        assert!(zk.delete(gone, -1).await.unwrap());
    }
    assert!(matches!(zk.replace_config(&entity, &config("5"), Some(0)).await, Err(ZkError::NoNode { .. })));
    zk.set_config(&entity, &config("5")).await.unwrap();
    assert_eq!(told().await, written().await, "created where nothing was");
    assert_eq!(zk.config(&entity).await.unwrap(), config("5"));
}

#[tokio::test(flavor = "multi_thread")]
async fn config_changes_arrive_in_order_and_again_for_a_late_reader() {
    let server = Server::shared();
    let zk = cluster(&server, "/changes").await;
    let mut changes = zk.config_changes();
    let entities: Vec<ConfigEntity> = (0..30).map(|i| ConfigEntity::Topic(format!("t{i}"))).collect();
    let writer = {
        let (zk, entities) = (zk.clone(), entities.clone());
        tokio::spawn(async move {
            for entity in &entities {
                zk.set_config(entity, &BTreeMap::new()).await.unwrap();
            }
        })
    };
    for entity in &entities {
        assert_eq!(changes.next().await.unwrap(), *entity);
    }
    writer.await.unwrap();
    assert_eq!(zk.config_changes().next().await.unwrap(), entities[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_config_change_is_missed_for_a_reader_that_is_cut_short_or_for_a_large_counter() {
    let server = Server::shared();
    let zk = cluster(&server, "/changes/cut").await;
    zk.set_config(&ConfigEntity::DefaultBroker, &BTreeMap::new()).await.unwrap();
    let mut changes = zk.config_changes();
    let mut heard = None;
    for polls in 1..20 {
        let mut left = polls;
        let mut next = Box::pin(changes.next());
        let cut = std::future::poll_fn(|context| {
            left -= 1;
            match next.as_mut().poll(context) {
                Poll::Ready(entity) => Poll::Ready(Some(entity)),
                Poll::Pending if left == 0 => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        heard = tokio::time::timeout(Duration::from_secs(20), cut).await.expect("the change is heard of");
        if heard.is_some() {
            break;
        }
    }
    assert_eq!(heard, Some(Ok(ConfigEntity::DefaultBroker)));

    let junk = "/config/changes/config_change_2147483000";
    zk.create(junk, br#"{"version":2,"entity_path":"brokers/1"}"#, CreateKind::Persistent).await.unwrap();
    assert_eq!(changes.next().await, Ok(ConfigEntity::Broker(1)));
    zk.set_config(&ConfigEntity::Broker(2), &BTreeMap::new()).await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(20), changes.next()).await;
    assert_eq!(next, Ok(Ok(ConfigEntity::Broker(2))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_of_a_deposed_controller_is_refused() {
    let server = Server::shared();
    let (first, second) = (cluster(&server, "/fence").await, server.connect("/fence").await);
    let Election::Won { epoch: 1, epoch_zk_version } = first.elect_controller(1, 0, 0).await.unwrap() else {
        panic!("the first controller has epoch 1")
    };
    assert_eq!(second.elect_controller(2, 0, 0).await.unwrap(), Election::Lost);
    let fenced = first.fenced(epoch_zk_version);
    fenced.create("/admin/x", b"").await.unwrap();
    let taken = fenced.create("/admin/x", b"").await;
    assert!(matches!(taken, Err(ZkError::NodeExists { .. })), "{taken:?}");
    let stale = fenced.set("/admin/x", b"new", 7).await;
    assert!(matches!(stale, Err(ZkError::BadVersion { .. })), "{stale:?}");
    assert_eq!(fenced.set("/admin/x", b"new", 0).await, Ok(1));

    first.resign_controller(epoch_zk_version).await.unwrap();
    assert!(matches!(second.elect_controller(2, 0, 0).await.unwrap(), Election::Won { epoch: 2, .. }));
    let moved = Err(ZkError::ControllerMoved { epoch_zk_version });
    assert_eq!(fenced.set("/admin/x", b"late", -1).await, moved);
    assert_eq!(fenced.delete_recursive("/admin").await, Err(ZkError::ControllerMoved { epoch_zk_version }));
    first.resign_controller(epoch_zk_version).await.expect("there is nothing left to give up");
    assert_eq!(second.controller().await.unwrap().unwrap().value.broker_id, 2);
    assert_eq!(second.get("/admin/x").await.unwrap().unwrap().0, b"new");
}

#[tokio::test(flavor = "multi_thread")]
async fn fenced_deletion_takes_the_whole_tree() {
    let server = Server::shared();
    let zk = cluster(&server, "/tree").await;
    let Election::Won { epoch_zk_version, .. } = zk.elect_controller(1, 0, 0).await.unwrap() else {
        panic!("no rival")
    };
    let fenced = zk.fenced(epoch_zk_version);
    zk.create_topic("t", &topic(25), &BTreeMap::new()).await.unwrap();
    let state =
        PartitionState { controller_epoch: 1, leader: 1, leader_epoch: 0, isr: vec![1], leader_recovery_state: 0 };
    for partition in 0..25 {
        let path = partition_state::path("t", partition);
        zk.create_recursive(&path, &state.encode(), CreateKind::Persistent).await.unwrap();
    }
    let asked: Vec<(&str, i32)> = (0..26).map(|partition| ("t", partition)).collect();
    let states = zk.partition_states(&asked).await;
    assert_eq!(states.iter().filter(|state| matches!(state, Ok(Some((found, _))) if found.leader == 1)).count(), 25);
    assert_eq!(states[25], Ok(None));
    fenced.delete_recursive("/brokers/topics/t").await.unwrap();
    assert!(!zk.topic_exists("t").await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_delivers_the_last_state_whatever_happens_meanwhile() {
    let server = Server::shared();
    let writer = cluster(&server, "/watch").await;
    let (reader, proxy) = server.connect_through_proxy("/watch").await;
    let mut children = reader.watch_children("/brokers/topics");
    let mut data = reader.watch_data("/brokers/topics/t199");
    assert_eq!(children.next().await.unwrap(), Vec::<String>::new());
    assert_eq!(data.next().await.unwrap(), None);
    // Changes race with re-arming, and half of them happen while the reader is cut off.
    for i in 0..200 {
        match i {
            80 => proxy.cut(),
            120 => proxy.mend(),
            _ => {}
        }
        writer.create(&format!("/brokers/topics/t{i}"), b"", CreateKind::Persistent).await.unwrap();
    }
    let mut seen = 0;
    while seen < 200 {
        let now = children.next().await.unwrap().len();
        assert!(now >= seen, "the watch went back from {seen} to {now} children");
        seen = now;
    }
    assert_eq!(data.next().await.unwrap().unwrap().1.version, 0);
    writer.set("/brokers/topics/t199", b"x", -1).await.unwrap();
    assert_eq!(data.next().await.unwrap().unwrap().0, b"x");
    writer.delete("/brokers/topics/t199", -1).await.unwrap();
    assert_eq!(data.next().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_session_is_replaced_and_the_broker_registers_under_a_new_epoch() {
    let server = Server::shared();
    let observer = cluster(&server, "/expiry").await;
    let (zk, proxy) = server.connect_through_proxy("/expiry").await;
    let first = zk.current_session().await.unwrap();
    let first_epoch = first.register_broker(&broker(1), BrokerJson::V5).await.unwrap();
    assert_eq!(first.register_broker(&broker(1), BrokerJson::V5).await, Ok(first_epoch), "a lost reply is success");
    assert_eq!(observer.brokers().await.unwrap(), [RegisteredBroker { broker: broker(1), epoch: first_epoch }]);
    let mut topics = zk.watch_children("/brokers/topics");
    assert_eq!(topics.next().await.unwrap(), Vec::<String>::new());
    let mut bound_topics = first.watch_children("/brokers/topics");
    assert_eq!(bound_topics.next().await.unwrap(), Vec::<String>::new());

    proxy.cut();
    // What is asked of the session while it is cut off ends with it, and so does what is asked of it later.
    let under_way = tokio::spawn({
        let first = first.clone();
        async move { first.create("/brokers/topics/late", b"", CreateKind::Persistent).await }
    });
    let unbound = tokio::spawn({
        let zk = zk.clone();
        async move { zk.create("/brokers/topics/later", b"", CreateKind::Persistent).await }
    });
    first.ended().await;
    assert_eq!(first.exists("/brokers").await, Err(ZkError::SessionExpired));
    assert_eq!(bound_topics.next().await, Err(ZkError::SessionExpired));
    eventually("the registration goes with its session", || async {
        let ids = observer.broker_ids().await.map_err(|error| error.to_string())?;
        if ids.is_empty() { Ok(()) } else { Err(format!("{ids:?}")) }
    })
    .await;
    observer.create("/brokers/topics/t", b"", CreateKind::Persistent).await.unwrap();
    proxy.mend();
    let second = zk.current_session().await.unwrap();
    assert_ne!(second.session_id(), first.session_id());
    let second_epoch = second.register_broker(&broker(1), BrokerJson::V5).await.unwrap();
    assert!(second_epoch > first_epoch, "{second_epoch} follows {first_epoch}");
    assert_eq!(first.exists("/brokers").await, Err(ZkError::SessionExpired), "it is never carried to the next session");
    assert_eq!(under_way.await.unwrap(), Err(ZkError::SessionExpired));
    // The handle that is not bound may have been told that the session expired, or have waited for the next one.
    let unbound = unbound.await.unwrap();
    assert!(matches!(unbound, Ok(_) | Err(ZkError::SessionExpired)), "{unbound:?}");
    eventually("a change during the expiry is not lost", || async {
        let now = observer.topics().await.map_err(|error| error.to_string())?;
        if now.contains(&"t".to_owned()) { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    let counters = &zk.settings().counters;
    let counted = [&counters.connects, &counters.disconnects, &counters.expiries, &counters.auth_failures];
    let counted = counted.map(|counter| counter.load(Ordering::Relaxed));
    assert!(counted[0] >= 2 && counted[1] >= 1, "{counted:?}");
    assert_eq!(counted[2..], [1, 0]);
    let seen = topics.next().await.unwrap();
    assert!(seen.contains(&"t".to_owned()) && !seen.contains(&"late".to_owned()), "{seen:?}");
}

/// What every broker asks of its server, whichever release it is.
async fn everything_is_asked_of(server: Server) {
    // A transaction whose answer is lost on a busy machine is refused when it is sent again.
    let settings = Settings { session_timeout: Duration::from_secs(60), ..server.settings("/of/every/release") };
    let zk = ZooKeeper::connect(settings).await.unwrap();
    zk.create_persistent_roots().await.unwrap();
    let session = zk.current_session().await.unwrap();
    let epoch = session.register_broker(&broker(1), BrokerJson::V5).await.unwrap();
    assert_eq!(zk.brokers().await.unwrap(), [RegisteredBroker { broker: broker(1), epoch }]);
    assert_eq!(zk.exists("/brokers/ids/1").await.unwrap().unwrap().czxid, epoch);
    assert_eq!(zk.generate_broker_id(1000).await.unwrap(), 1001);
    zk.set_config(&ConfigEntity::DefaultBroker, &BTreeMap::new()).await.unwrap();
    assert_eq!(zk.config_changes().next().await.unwrap(), ConfigEntity::DefaultBroker);
    let config = BTreeMap::from([("retention.ms".to_owned(), "1".to_owned())]);
    let mut topics = zk.watch_children("/brokers/topics");
    assert_eq!(topics.next().await.unwrap(), Vec::<String>::new());
    zk.create_topic("t", &topic(2), &config).await.unwrap();
    assert_eq!(topics.next().await.unwrap(), ["t"]);
    assert!(matches!(zk.create_topic("t", &topic(2), &config).await, Err(ZkError::NodeExists { .. })));

    let Election::Won { epoch: 1, epoch_zk_version } = session.elect_controller(1, 0, 0).await.unwrap() else {
        panic!("the first controller has epoch 1")
    };
    let rival = server.connect("/of/every/release").await;
    assert_eq!(rival.elect_controller(2, 0, 0).await, Ok(Election::Lost));
    let fenced = session.fenced(epoch_zk_version);
    fenced.create("/brokers/topics/t/partitions", b"").await.unwrap();
    // More than one transaction holds, a few of which cannot be applied: they alone are refused.
    let state =
        PartitionState { controller_epoch: 1, leader: 1, leader_epoch: 0, isr: vec![1], leader_recovery_state: 0 };
    let group = |partition: i32| {
        let path = partition_state::partition_path("t", partition);
        let state_path = partition_state::path("t", partition);
        vec![Write::Create { path, data: Vec::new() }, Write::Create { path: state_path, data: state.encode() }]
    };
    let taken = [0, 77, 400, 401, 999];
    for partition in taken {
        fenced.create(&partition_state::partition_path("t", partition), b"").await.unwrap();
    }
    let groups: Vec<Vec<Write>> = (0..1000).map(group).collect();
    let committed = fenced.write_many(&groups).await.unwrap();
    for (partition, committed) in (0..1000).zip(committed) {
        let path = partition_state::partition_path("t", partition);
        let expected = match taken.contains(&partition) {
            true => Committed::Refused { index: 0, error: ZkError::NodeExists { path } },
            false => Committed::Versions(vec![0, 0]),
        };
        assert_eq!(committed, expected);
    }
    let asked: Vec<(&str, i32)> = (0..1001).map(|partition| ("t", partition)).collect();
    for (partition, found) in (0..1001).zip(zk.partition_states(&asked).await) {
        let is_there = partition < 1000 && !taken.contains(&partition);
        assert_eq!(found.unwrap().map(|(found, _)| found), is_there.then(|| state.clone()), "{partition}");
    }
    // A state knows whether a broker registered before or after it was written.
    let last_written = async || zk.partition_states(&[("t", 998)]).await.remove(0).unwrap().unwrap().1.mzxid;
    let written = last_written().await;
    let later = session.register_broker(&broker(2), BrokerJson::V5).await.unwrap();
    assert!(epoch < written && written < later, "{epoch} {written} {later}");
    assert_eq!(last_written().await, written);
    zk.set(&partition_state::path("t", 998), &state.encode(), -1).await.unwrap();
    assert!(last_written().await > later);
    zk.set("/controller_epoch", b"7", -1).await.unwrap();
    let moved = Err(ZkError::ControllerMoved { epoch_zk_version });
    assert_eq!(fenced.create("/admin/late", b"").await, moved);
    assert!(zk.exists("/admin/late").await.unwrap().is_none());
    session.resign_controller(epoch_zk_version).await.unwrap();
    let Election::Won { epoch: 8, epoch_zk_version } = rival.elect_controller(2, 0, 0).await.unwrap() else {
        panic!("the registration of the one before is gone")
    };
    rival.fenced(epoch_zk_version).delete_recursive("/brokers/topics/t").await.unwrap();
    assert!(!zk.topic_exists("t").await.unwrap());
    zk.close().await;
    eventually("the registration goes with its session", || async {
        match rival.broker_ids().await.map_err(|error| error.to_string())? {
            ids if ids.is_empty() => Ok(()),
            ids => Err(format!("{ids:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_partitions_are_written_and_read_with_a_few_dozen_requests() {
    const PARTITIONS: i32 = 10_000;
    let server = Server::of_version("3.9.5");
    // A connection that is lost on a busy machine would count requests twice.
    let settings = Settings { session_timeout: std::time::Duration::from_secs(60), ..server.settings("") };
    let zk = ZooKeeper::connect(settings).await.unwrap();
    zk.create_persistent_roots().await.unwrap();
    let Election::Won { epoch_zk_version, .. } = zk.elect_controller(1, 0, 0).await.unwrap() else {
        panic!("no rival")
    };
    let fenced = zk.fenced(epoch_zk_version);
    zk.create_topic("t", &topic(PARTITIONS), &BTreeMap::new()).await.unwrap();
    let state =
        PartitionState { controller_epoch: 1, leader: 1, leader_epoch: 0, isr: vec![1], leader_recovery_state: 0 };
    fenced.create(&partition_state::partitions_path("t"), b"").await.unwrap();
    let created = |path, data: &[u8]| Write::Create { path, data: data.to_vec() };
    let groups: Vec<Vec<Write>> = (0..PARTITIONS)
        .map(|id| {
            let parent = created(partition_state::partition_path("t", id), b"");
            vec![parent, created(partition_state::path("t", id), &state.encode())]
        })
        .collect();
    let before = (server.received().await, std::time::Instant::now());
    let committed = fenced.write_many(&groups).await.unwrap();
    let written = (server.received().await, std::time::Instant::now());
    assert!(committed.iter().all(|committed| *committed == Committed::Versions(vec![0, 0])));
    let asked: Vec<(&str, i32)> = (0..PARTITIONS).map(|partition| ("t", partition)).collect();
    let read = zk.partition_states(&asked).await;
    let end = (server.received().await, std::time::Instant::now());
    assert!(read.iter().all(|found| found.as_ref().is_ok_and(|found| found.as_ref().unwrap().0 == state)));
    let (writes, reads) = (written.0 - before.0, end.0 - written.0);
    println!("{writes} writes in {:?}, {reads} reads in {:?}", written.1 - before.1, end.1 - written.1);
    // Pings and the questions themselves among them.
    assert!(writes < 60 && reads < 40, "{writes} requests to write and {reads} to read");
    fenced.delete_recursive("/brokers/topics/t").await.unwrap();
    let deleted = server.received().await - end.0;
    assert!(deleted < 150, "{deleted} requests to delete");
}

#[tokio::test(flavor = "multi_thread")]
async fn znodes_whose_common_answer_would_be_too_long_are_read_in_smaller_parts() {
    let server = Server::shared();
    let (zk, _proxy) = server.connect_through_narrow_proxy("/long", 1 << 20).await;
    let paths: Vec<String> = (0..100).map(|number| format!("/znode-{number}")).collect();
    for (number, path) in paths.iter().enumerate() {
        let data = vec![b'x'; if number == 70 { 900_000 } else { 20_000 + number }];
        zk.create(path, &data, CreateKind::Persistent).await.unwrap();
    }
    let read = zk.get_many(&paths).await;
    let bytes: Vec<usize> = read.into_iter().map(|found| found.unwrap().unwrap().0.len()).collect();
    let expected: Vec<usize> = (0..100).map(|number| if number == 70 { 900_000 } else { 20_000 + number }).collect();
    assert_eq!(bytes, expected);
    let parents: Vec<String> = (0..4).map(|number| format!("/znode-{number}")).collect();
    let names = parents.iter().flat_map(|parent| (0..1500).map(move |number| format!("{parent}/{number:0>240}")));
    let zk = &zk;
    let create = |name: String| -> Request<'_, _> {
        Box::pin(async move { zk.create(&name, b"", CreateKind::Persistent).await })
    };
    zk.pipelined_until_one_fails(names, create).await.unwrap();
    let children: Vec<usize> =
        zk.children_of_many(&parents).await.into_iter().map(|names| names.unwrap().len()).collect();
    assert_eq!(children, [1500; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_is_written_meanwhile_costs_no_election_where_there_is_no_rival() {
    const ELECTIONS: i32 = 200;
    let server = Server::shared();
    let zk = cluster(&server, "/edited-epoch").await;
    let vandal = server.connect("/edited-epoch").await;
    let path = "/controller_epoch";
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let editing = tokio::spawn(async move {
        let mut edits = 0;
        while !*stopped.borrow() {
            // The same epoch under another version, as a tool leaves it that restores what was there.
            if let Some((data, stat)) = vandal.get(path).await.unwrap()
                && vandal.set(path, &data, stat.version).await.is_ok()
            {
                edits += 1;
            }
        }
        edits
    });
    let mut last = 0;
    for _ in 0..ELECTIONS {
        let Election::Won { epoch, epoch_zk_version } = zk.elect_controller(1, 0, 0).await.unwrap() else {
            panic!("there is no rival")
        };
        assert!(epoch > last);
        last = epoch;
        zk.resign_controller(epoch_zk_version).await.unwrap();
    }
    stop.send_replace(true);
    println!("{} edits", editing.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_release_is_spoken_to() {
    everything_is_asked_of(Server::of_version("3.4.14")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_release_is_spoken_to() {
    everything_is_asked_of(Server::of_version("3.9.5")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_lives_where_the_jvms_client_would_put_it() {
    let server = Server::shared();
    let root = server.connect("").await;
    let hosts = root.settings().connect.clone();
    for (connect, at) in [
        (format!("{hosts}/list/ch,{hosts}/list/ch"), format!("/list/ch,{hosts}/list/ch")),
        (format!("{hosts},/comma"), "/comma".to_owned()),
        (format!(" {hosts} , /blanks"), "/blanks".to_owned()),
    ] {
        let zk = ZooKeeper::connect(Settings { connect: connect.clone(), ..server.settings("") }).await.unwrap();
        zk.create_persistent_roots().await.unwrap();
        assert!(root.exists(&format!("{at}/brokers/ids")).await.unwrap().is_some(), "{connect}");
    }
    for connect in [format!("{hosts}/ch/"), format!("{hosts}//ch"), "/ch".to_owned()] {
        let refused = ZooKeeper::connect(Settings { connect, ..server.settings("") }).await.unwrap_err();
        assert!(matches!(refused, ZkError::Settings(_)), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_id_is_never_registered_twice() {
    let server = Server::shared();
    let first = cluster(&server, "/twice").await;
    let second = server.connect("/twice").await;
    let epoch = first.register_broker(&broker(1), BrokerJson::V5).await.unwrap();
    let refused = second.register_broker(&broker(1), BrokerJson::V5).await.unwrap_err();
    assert_eq!(
        refused,
        ZkError::BrokerIdTaken {
            path: "/brokers/ids/1".to_owned(),
            owner_session: first.session_id().unwrap(),
            own_session: second.session_id().unwrap(),
        }
    );
    assert_eq!(second.broker(1).await.unwrap().unwrap().epoch, epoch, "the refused one changed nothing");
    let _watch = first.watch_children("/brokers/ids").next().await;
    first.close().await;
    let taken_over = second.register_broker(&broker(1), BrokerJson::V5).await;
    assert!(taken_over.is_ok_and(|taken_over| taken_over > epoch), "a closed session frees its id at once");
    assert_eq!(first.broker_ids().await, Err(ZkError::Closed));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_out_a_short_interruption() {
    let server = Server::shared();
    let (zk, proxy) = server.connect_through_proxy("/interrupted").await;
    zk.create_persistent_roots().await.unwrap();
    let session = zk.session_id();
    for round in 0..10 {
        let writes = {
            let zk = zk.clone();
            tokio::spawn(async move {
                let paths: Vec<String> = (0..50).map(|i| format!("/brokers/topics/r{round}-{i}")).collect();
                let zk = &zk;
                zk.pipelined(&paths, |path| {
                    Box::pin(async move {
                        // A create whose reply was lost finds its own node.
                        match zk.create(path, b"", CreateKind::Persistent).await {
                            Ok(_) | Err(ZkError::NodeExists { .. }) => Ok(()),
                            Err(error) => Err(error),
                        }
                    })
                })
                .await
            })
        };
        proxy.cut();
        tokio::task::yield_now().await;
        proxy.mend();
        for outcome in writes.await.unwrap() {
            assert_eq!(outcome, Ok(()));
        }
    }
    assert_eq!(zk.topics().await.unwrap().len(), 500);
    assert_eq!(zk.session_id(), session);
}

/// Their paths do not fit into one request by which a client that is connected again tells of its watches.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_many_watches_outlives_a_short_interruption() {
    let server = Server::shared();
    let writer = cluster(&server, "/many-watches").await;
    let (reader, proxy) = server.connect_through_proxy("/many-watches").await;
    let session = reader.session_id();
    let path = |number: usize| format!("/brokers/topics/{number:0>100}");
    let armed = (0..4_000).map(|number| {
        let mut watch = reader.watch_data(path(number));
        tokio::spawn(async move {
            assert_eq!(watch.next().await.unwrap(), None);
            watch
        })
    });
    let mut watches = Vec::new();
    for armed in armed.collect::<Vec<_>>() {
        watches.push(armed.await.unwrap());
    }
    proxy.cut();
    eventually("the connection is lost", async || {
        let lost = reader.settings().counters.disconnects.load(Ordering::SeqCst);
        if lost > 0 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    writer.create(&path(0), b"", CreateKind::Persistent).await.unwrap();
    proxy.mend();
    assert!(watches[0].next().await.unwrap().is_some(), "what happened meanwhile is heard of");
    for number in (1..4_000).step_by(400) {
        writer.create(&path(number), b"", CreateKind::Persistent).await.unwrap();
        assert!(watches[number].next().await.unwrap().is_some());
    }
    assert_eq!(reader.session_id(), session);
    assert_eq!(reader.settings().counters.connects.load(Ordering::SeqCst), 2, "it has not run out in between");
}

/// What it tells of them takes several requests, and the connection ends when the first has been answered: by what that
/// answer says, the session has seen all that happened to the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_heard_of_though_the_connection_ends_while_the_watches_are_told() {
    let server = Server::shared();
    let writer = cluster(&server, "/told-in-part").await;
    let (reader, proxy) = server.connect_through_proxy("/told-in-part").await;
    let session = reader.session_id();
    // Three to a request.
    let paths: Vec<String> = (0..9).map(|number| format!("/brokers/topics/{number:0>60000}")).collect();
    let mut watches = Vec::new();
    for path in &paths {
        writer.create(path, b"", CreateKind::Persistent).await.unwrap();
        let mut watch = reader.watch_data(path.as_str());
        assert_eq!(watch.next().await.unwrap().unwrap().0, b"");
        watches.push(watch);
    }
    proxy.cut();
    eventually("the connection is lost", async || {
        let lost = reader.settings().counters.disconnects.load(Ordering::SeqCst);
        if lost > 0 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    for path in &paths {
        writer.set(path, b"new", -1).await.unwrap();
    }
    proxy.mend_for_requests(2).await;
    proxy.mend();
    let heard = futures_util::future::join_all(watches.iter_mut().map(DataWatch::next));
    let heard = tokio::time::timeout(Duration::from_secs(30), heard).await.expect("all changes are heard of");
    for data in heard {
        assert_eq!(data.unwrap().unwrap().0, b"new");
    }
    assert_eq!(reader.session_id(), session);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_answers_fails_the_start_within_the_connection_timeout() {
    let mut settings = Server::shared().settings("");
    settings.connect = "127.0.0.1:1".to_owned();
    settings.connection_timeout = std::time::Duration::from_millis(300);
    let error = ZooKeeper::connect(settings).await.unwrap_err();
    assert!(matches!(&error, ZkError::NotConnected { timeout_ms: 300, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_zookeeper_set_acl_only_the_broker_writes_and_secrets_stay_secret() {
    let server = Server::with_user("kafka", "secret");
    let login = |password: &str| Some(SaslDigest { username: "kafka".to_owned(), password: password.to_owned() });
    let mut settings = server.settings("/secure");
    settings.set_acl = true;
    settings.sasl = login("secret");
    let broker = ZooKeeper::connect(settings.clone()).await.unwrap();
    broker.create_persistent_roots().await.unwrap();
    broker.create_topic("t", &topic(1), &BTreeMap::new()).await.unwrap();
    broker.set_topic("t", &topic(2), -1).await.unwrap();

    let stranger = server.connect("/secure").await;
    assert_eq!(stranger.topic("t").await.unwrap().unwrap().value, topic(2));
    assert!(matches!(stranger.set_topic("t", &topic(3), -1).await, Err(ZkError::NoAuth { .. })));
    assert!(matches!(stranger.children("/config/users").await, Err(ZkError::NoAuth { .. })));
    stranger.set_consumer_offset("g", "t", 0, 5).await.expect("old consumers keep their offsets there");

    settings.sasl = login("wrong");
    assert_eq!(ZooKeeper::connect(settings).await.unwrap_err(), ZkError::AuthFailed);
}

/// How often a watch said that it may not read `/config/users`.
static COMPLAINTS: AtomicUsize = AtomicUsize::new(0);

struct Complaints;

impl log::Log for Complaints {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.args().to_string().starts_with("reading /config/users is tried every") {
            COMPLAINTS.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn flush(&self) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_outlasts_a_time_in_which_its_znode_may_not_be_read() {
    log::set_logger(&Complaints).expect("no other test here listens to the log");
    log::set_max_level(log::LevelFilter::Warn);
    let server = Server::with_user("kafka", "secret");
    let mut settings = server.settings("/refused");
    settings.set_acl = true;
    settings.sasl = Some(SaslDigest { username: "kafka".to_owned(), password: "secret".to_owned() });
    let broker = ZooKeeper::connect(settings).await.unwrap();
    broker.create("/config", b"", CreateKind::Persistent).await.unwrap();

    // Only its creator may read this one.
    broker.create("/config/users", b"secret", CreateKind::Persistent).await.unwrap();

    let stranger = server.connect("/refused").await;
    let mut children = stranger.watch_children("/config/users");
    let mut data = stranger.watch_data("/config/users");
    let refused = ZkError::NoAuth { path: "/config/users".to_owned() };
    assert_eq!(children.arm().await, Err(refused.clone()));
    assert_eq!(data.arm().await, Err(refused));
    let children = tokio::spawn(async move { (children.next().await, children) });
    let data = tokio::spawn(async move { (data.next().await, data) });
    eventually("the first refusal is complained of", || async {
        match COMPLAINTS.load(Ordering::SeqCst) {
            0 => Err("nothing".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    assert!(!children.is_finished() && !data.is_finished(), "a watch delivered what may not be read, or ended");

    broker.delete("/config/users", -1).await.unwrap();
    let (gone, mut children) = children.await.unwrap();
    assert_eq!(gone, Ok(Vec::new()));
    let (gone, mut data) = data.await.unwrap();
    assert_eq!(gone, Ok(None));
    assert_eq!(COMPLAINTS.load(Ordering::SeqCst), 1, "the same fault is complained of once");
    assert_eq!(stranger.settings().counters.znodes_in_disorder.load(Ordering::Relaxed), 1);
    stranger.close().await;
    assert_eq!(children.next().await, Err(ZkError::Closed));
    assert_eq!(data.next().await, Err(ZkError::Closed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_topic_replaces_the_configuration_of_a_former_one_and_misses_no_root() {
    let server = Server::shared();
    let zk = server.connect("/recreated").await;
    let config = |value: &str| BTreeMap::from([("retention.ms".to_owned(), value.to_owned())]);
    zk.create_topic("t", &topic(1), &config("1")).await.unwrap();
    zk.delete("/brokers/topics/t", -1).await.unwrap();
    zk.create_topic("t", &topic(2), &config("2")).await.unwrap();
    assert_eq!(zk.topic("t").await.unwrap().unwrap().value, topic(2));
    assert_eq!(zk.config(&ConfigEntity::Topic("t".to_owned())).await.unwrap(), config("2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_no_server_takes_is_refused_and_the_largest_is_taken() {
    let server = Server::shared();
    let zk = cluster(&server, "/large").await;
    let Election::Won { epoch_zk_version, .. } = zk.elect_controller(1, 0, 0).await.unwrap() else {
        panic!("no rival")
    };
    let fenced = zk.fenced(epoch_zk_version);
    let session = zk.session_id();
    for (writer, path) in [("plain", "/admin/plain"), ("fenced", "/admin/fenced")] {
        let limit = 0xf_ffff - 4096 - path.len();
        let (largest, larger) = (vec![b'x'; limit], vec![b'x'; limit + 1]);
        let too_large = ZkError::TooLarge { path: path.to_owned(), bytes: limit + 1, limit };
        let (refused, created, set) = match writer {
            "plain" => (
                zk.create(path, &larger, CreateKind::Persistent).await.map(|_| ()),
                zk.create(path, &largest, CreateKind::Persistent).await.map(|_| ()),
                zk.set(path, &larger, -1).await.map(|_| ()),
            ),
            _ => (
                fenced.create(path, &larger).await,
                fenced.create(path, &largest).await,
                fenced.set(path, &larger, -1).await.map(|_| ()),
            ),
        };
        assert_eq!((refused, created, set), (Err(too_large.clone()), Ok(()), Err(too_large)), "{writer}");
    }
    let config = BTreeMap::from([("x".to_owned(), "y".repeat(0x10_0000))]);
    let refused = zk.create_topic("t", &topic(1), &config).await.unwrap_err().to_string();
    assert!(refused.starts_with("znode /config/topics/t would hold 10486"), "{refused}");
    assert!(!zk.topic_exists("t").await.unwrap());
    assert_eq!(zk.session_id(), session);
}

/// Settings for a start that fails soon.
fn impatient(settings: &Settings) -> Settings {
    Settings { connection_timeout: std::time::Duration::from_secs(2), ..settings.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_server_must_be_the_one_that_is_trusted() {
    let server = Server::with_tls("none");
    let mut settings = server.settings("/tls/deep");
    settings.tls = Some(server.tls(false));
    let zk = ZooKeeper::connect(settings.clone()).await.unwrap();
    zk.create_persistent_roots().await.unwrap();
    let mut topics = zk.watch_children("/brokers/topics");
    assert_eq!(topics.next().await.unwrap(), Vec::<String>::new());
    zk.create_topic("t", &topic(100), &BTreeMap::new()).await.unwrap();
    assert_eq!(topics.next().await.unwrap(), ["t"]);
    assert_eq!(zk.topic("t").await.unwrap().unwrap().value, topic(100));
    let large = vec![b'x'; 1_000_000];
    match zk.create("/admin/large", &large, CreateKind::Persistent).await {
        // The second is that of a create whose reply was lost.
        Ok(_) | Err(ZkError::NodeExists { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    assert_eq!(zk.get("/admin/large").await.unwrap().unwrap().0, large);

    // Its certificate is for 127.0.0.1 alone, and another one is not trusted.
    let mut other_name = impatient(&settings);
    other_name.connect = settings.connect.replace("127.0.0.1", "localhost");
    let mut other_signer = impatient(&settings);
    other_signer.tls = Some(Tls { truststore_pem: server.tls(true).keystore_pem.unwrap().0, ..server.tls(false) });
    let plaintext = Settings { tls: None, ..impatient(&settings) };
    for refused in [other_name, other_signer, plaintext] {
        let error = ZooKeeper::connect(refused).await.unwrap_err();
        println!("{error}");
        assert!(matches!(error, ZkError::NotConnected { .. }), "{error}");
    }
    zk.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_a_certificate_of_the_client_is_its_login() {
    let server = Server::with_tls("need");
    let mut settings = server.settings("/mutual");
    settings.set_acl = true;
    settings.tls = Some(server.tls(true));
    let zk = ZooKeeper::connect(settings.clone()).await.unwrap();
    zk.create_persistent_roots().await.unwrap();
    zk.create_topic("t", &topic(1), &BTreeMap::new()).await.unwrap();
    zk.set_topic("t", &topic(2), 0).await.unwrap();
    assert_eq!(zk.children("/config/users").await.unwrap(), Vec::<String>::new());

    let mut nobody = impatient(&settings);
    nobody.tls = Some(server.tls(false));
    let error = ZooKeeper::connect(nobody).await.unwrap_err();
    println!("{error}");
    assert!(matches!(error, ZkError::NotConnected { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_say_how_long_they_keep_a_session() {
    let server = Server::shared();
    for (wanted_ms, granted_ms) in [(3000, 3000), (60_000, 5000)] {
        let settings = Settings { session_timeout: Duration::from_millis(wanted_ms), ..server.settings("/granted") };
        let zk = ZooKeeper::connect(settings).await.unwrap();
        assert_eq!(zk.session_timeout(), Duration::from_millis(granted_ms), "of {wanted_ms} ms");
    }
}
