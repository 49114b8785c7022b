//! A broker that loses its ZooKeeper session goes on serving, registers again and is controller again, by itself.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use odradek::record::compression::Codec;
use odradek_zookeeper::session::{CreateKind, ZooKeeper as Session};
use odradek_zookeeper::settings::Settings;
use odradek_zookeeper::znode::config::{self, ConfigEntity};
use rustix::process::Signal;
use support::client::{Client, batch, values};
use support::{Cluster, Kind, PATIENCE, eventually};

fn znode(cluster: &Cluster, path: &str) -> Result<String, String> {
    let server = format!("127.0.0.1:{}", cluster.zookeeper.port);
    let said = cluster.jvm_tool("3.9.1", "org.apache.zookeeper.ZooKeeperMain", &["-server", &server, "get", path])?;
    said.lines().find(|line| line.starts_with('{')).map(str::to_owned).ok_or(said)
}

/// As the server tells it.
fn broker_epoch(cluster: &Cluster) -> i64 {
    let address = format!("127.0.0.1:{}", cluster.zookeeper.port);
    let stat = tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        let session = Session::connect(Settings::new(address)).await.expect("ZooKeeper answers");
        let stat = session.exists("/brokers/ids/0").await.expect("it may be read");
        session.close().await;
        stat
    });
    stat.expect("the broker is registered").czxid
}

fn still_serves(client: &mut Client, topic: &str, expected: i64) {
    let outcome = client.produce(topic, 0, batch(Codec::None, [format!("{expected}")]));
    assert_eq!(outcome.expect("the produce is answered"), Ok(expected));
    let read = client.read_all(topic, 0, expected).expect("the fetch is answered");
    assert_eq!(values(&read), [format!("{expected}")]);
}

/// A controller decides something only while it is one: a topic can be created and is led.
fn until_controlled(cluster: &mut Cluster, topic: &str) {
    let mut client = eventually(PATIENCE, "a topic can be created", || {
        let mut client = Client::connect(cluster.broker.port).map_err(|error| error.to_string())?;
        // Until the new session is there, a creation fails; it may have succeeded unheard.
        match client.try_create_topic(topic, 2, &[]).map_err(|error| error.to_string())? {
            0 | 36 => Ok(client),
            code => Err(format!("error {code}")),
        }
    });
    client.until_led(topic, 2);
}

#[test]
fn a_restart_of_zookeeper_longer_than_the_session_is_survived() {
    let mut cluster = Cluster::start("session", "");
    let mut client = cluster.broker.client();
    client.create_topic("before", 1, &[]);
    still_serves(&mut client, "before", 0);
    let registered = znode(&cluster, "/brokers/ids/0").expect("the broker is registered");
    let epoch = broker_epoch(&cluster);

    cluster.zookeeper.process.kill();
    eventually(PATIENCE, "the session runs out by the broker's clock", || match cluster.broker.process().said() {
        said if said.contains("expired.") => Ok(()),
        said => Err(said),
    });
    // Without ZooKeeper, what is led stays led and is served.
    for i in 1..40 {
        still_serves(&mut client, "before", i);
        std::thread::sleep(Duration::from_millis(100));
    }
    let Cluster { zookeeper, scratch, .. } = &mut cluster;
    zookeeper.restart(scratch, Duration::from_millis(500));

    until_controlled(&mut cluster, "behind");
    let mut client = cluster.broker.client();
    still_serves(&mut client, "before", 40);
    let again = eventually(PATIENCE, "the broker is registered again", || znode(&cluster, "/brokers/ids/0"));
    let endpoints = |json: &str| -> serde_json::Value {
        serde_json::from_str::<serde_json::Value>(json).expect("a registration is JSON")["endpoints"].clone()
    };
    assert_eq!(endpoints(&again), endpoints(&registered));
    // The clock of the server stood meanwhile: what a JVM broker would not have noticed, nobody else does either.
    assert_eq!(broker_epoch(&cluster), epoch);
    assert!(cluster.broker.process().has_ended().is_none());
}

/// A server that was away counts what is left of each session from its return; those that waited for it have counted on.
#[test]
fn an_office_of_a_session_that_was_given_up_and_that_zookeeper_still_has_keeps_nobody_from_being_elected() {
    // What it says of itself is read from its log, so it is ours.
    let mut cluster = Cluster::start_as(Kind::Odradek, "outlived", "zookeeper.session.timeout.ms=10000");
    cluster.zookeeper.process.kill();
    eventually(PATIENCE, "the broker gives its session up", || match cluster.broker.process().said() {
        said if said.contains(" expired.") => Ok(()),
        _ => Err(cluster.broker.process().last_words()),
    });
    let Cluster { zookeeper, scratch, .. } = &mut cluster;
    zookeeper.start_again(scratch);
    let said = eventually(PATIENCE, "the broker is elected again", || match cluster.broker.process().said() {
        said if said.contains("elected as the controller. Epoch incremented to 2") => Ok(said),
        _ => Err(cluster.broker.process().last_words()),
    });
    for expected in ["Connected with the session of before", "/controller was left behind by this broker's"] {
        assert!(said.contains(expected), "the server did not have it any more: {said}");
    }
}

#[test]
fn a_broker_stopped_for_longer_than_its_session_registers_again() {
    let mut cluster = Cluster::start("stopped", "");
    let mut client = cluster.broker.client();
    client.create_topic("before", 1, &[]);
    still_serves(&mut client, "before", 0);

    cluster.broker.process().signal(Signal::STOP);
    let gone = eventually(PATIENCE, "the session ends", || match znode(&cluster, "/brokers/ids/0") {
        Ok(json) => Err(json),
        Err(said) => Ok(said),
    });
    println!("while stopped: {}", gone.lines().last().unwrap_or_default());
    cluster.broker.process().signal(Signal::CONT);

    eventually(PATIENCE, "the broker is registered again", || znode(&cluster, "/brokers/ids/0"));
    until_controlled(&mut cluster, "behind");
    let mut client = cluster.broker.client();
    still_serves(&mut client, "before", 1);
}

/// The others may have removed the notification by the time that it is back. Kafka's brokers never hear of such a change.
#[test]
fn settings_that_changed_while_a_broker_had_no_session_are_obeyed_with_the_next_one_though_nobody_announces_them() {
    const MESSAGE_TOO_LARGE: i16 = 10;
    let mut cluster = Cluster::start_as(Kind::Odradek, "unheard", "");
    let mut client = cluster.broker.client();
    for topic in ["changed", "default"] {
        client.create_topic(topic, 1, &[]);
        still_serves(&mut client, topic, 0);
    }
    cluster.broker.process().signal(Signal::STOP);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let settings = Settings::new(format!("127.0.0.1:{}", cluster.zookeeper.port));
        let zk = Session::connect(settings).await.expect("ZooKeeper runs");
        while !zk.broker_ids().await.expect("ZooKeeper answers").is_empty() {
            tokio::task::yield_now().await;
        }
        let limit = |name: &str, bytes: &str| config::encode(&BTreeMap::from([(name.to_owned(), bytes.to_owned())]));
        let topic = ConfigEntity::Topic("changed".to_owned()).path();
        zk.set(&topic, &limit("max.message.bytes", "500"), -1).await.expect("it is there");
        let broker = ConfigEntity::Broker(0).path();
        let created = zk.create(&broker, &limit("message.max.bytes", "5000"), CreateKind::Persistent).await;
        created.expect("it is not there");
    });
    cluster.broker.process().signal(Signal::CONT);
    for (topic, bytes) in [("changed", 1000), ("default", 10_000)] {
        eventually(PATIENCE, "the new limit is in force", || {
            match client.produce(topic, 0, batch(Codec::None, ["x".repeat(bytes)])) {
                Ok(Err(MESSAGE_TOO_LARGE)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
}

#[test]
fn the_office_ends_with_its_session_whatever_the_controller_is_doing() {
    // What it says of itself is read from its log, so it is ours.
    let mut cluster = Cluster::start_as(Kind::Odradek, "interrupted", "");
    let mut client = cluster.broker.client();
    client.create_topic("before", 1, &[]);
    // The controller has a topic of many partitions to write, and hears nothing from ZooKeeper any more.
    let mut creator = cluster.broker.client();
    let creating = std::thread::spawn(move || creator.try_create_topic("wide", 600, &[]));
    eventually(PATIENCE, "the controller has begun", || {
        match cluster.broker.process().said().contains("new partitions: 600 in number, [wide-") {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        }
    });
    cluster.zookeeper.process.signal(Signal::STOP);
    eventually(PATIENCE, "the controller resigns while there is no ZooKeeper", || {
        match cluster.broker.process().said().contains("Resigned, epoch 1: the ZooKeeper session ended") {
            true => Ok(()),
            false => Err(cluster.broker.process().last_words()),
        }
    });
    still_serves(&mut client, "before", 0);
    cluster.zookeeper.process.signal(Signal::CONT);
    until_controlled(&mut cluster, "behind");
    let _ = creating.join();
    cluster.broker.client().until_led("wide", 600);
    // Other brokers need not wait for its logs to be closed.
    assert_eq!(cluster.broker.process().terminate().code(), Some(0));
    let said = cluster.broker.process().said();
    let at = |what: &str| said.rfind(what).unwrap_or_else(|| panic!("it never said {what}"));
    assert!(at("the broker shuts down") < at("shut down completed"));
}

#[test]
fn a_broker_that_waits_for_zookeeper_to_read_changed_settings_can_be_stopped() {
    // What it says of itself is read from its log, so it is ours.
    const CHANGES: usize = 3000;
    let mut cluster = Cluster::start_as(Kind::Odradek, "away", "");
    cluster.broker.client().create_topic("changed", 1, &[]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let settings = Settings::new(format!("127.0.0.1:{}", cluster.zookeeper.port));
    let zk = runtime.block_on(Session::connect(settings)).expect("ZooKeeper runs");
    runtime.spawn(async move {
        let entity = ConfigEntity::Topic("changed".to_owned());
        let config = BTreeMap::from([("retention.ms".to_owned(), "100000".to_owned())]);
        zk.set_config(&entity, &config).await.expect("ZooKeeper answers");
        let (zk, entity) = (&zk, &entity);
        zk.pipelined(0..CHANGES, |_| Box::pin(zk.notify_config_change(entity))).await;
    });
    // It reads the settings once for each change, and so is in the middle of that.
    let taken_over = |cluster: &mut Cluster| cluster.broker.process().said().matches("topics/changed").count();
    eventually(PATIENCE, "changes are taken over", || match taken_over(&mut cluster) {
        few @ 0..100 => Err(format!("{few} changes")),
        _ => Ok(()),
    });
    cluster.zookeeper.process.signal(Signal::STOP);
    let status = cluster.broker.process().terminate();
    let said = cluster.broker.process().said();
    assert!(status.success(), "{status}");
    let changes = said.matches("topics/changed").count();
    assert!(changes < CHANGES, "all changes were taken over before ZooKeeper stopped");
    assert!(!said.contains("did not end in time and are cut"), "{}", cluster.broker.process().last_words());
    println!("stopped after {changes} of {CHANGES} changes");
    runtime.shutdown_background();
    cluster.zookeeper.process.signal(Signal::CONT);
}

#[test]
fn a_broker_that_loses_its_log_directories_while_zookeeper_is_away_stops() {
    let soon = "log.flush.offset.checkpoint.interval.ms=300\nlog.initial.task.delay.ms=300\n\
                replica.high.watermark.checkpoint.interval.ms=300";
    let mut cluster = Cluster::start_as(Kind::Odradek, "dirs", soon);
    cluster.broker.stop();
    let dirs = ["first", "second"].map(|name| cluster.scratch.path(name));
    let mut properties = std::fs::read_to_string(&cluster.broker.config).expect("it was written");
    properties.push_str(&format!("log.dirs={},{}\n", dirs[0].display(), dirs[1].display()));
    std::fs::write(&cluster.broker.config, properties).expect("it can be written");
    cluster.start_broker(Kind::Odradek);
    cluster.broker.client().create_topic("everywhere", 4, &[]);

    cluster.zookeeper.process.signal(Signal::STOP);
    // From here on a request to ZooKeeper waits for a session that does not come.
    eventually(PATIENCE, "the session ends", || {
        let said = cluster.broker.process().said();
        said.contains("Session 0x").then_some(()).ok_or_else(|| cluster.broker.process().last_words())
    });
    for dir in &dirs {
        // The broker may write a checkpoint into it meanwhile.
        eventually(PATIENCE, "the directory is removed", || {
            std::fs::remove_dir_all(dir).map_err(|error| error.to_string())
        });
        let line = format!("Stopping serving logs in dir {}", dir.display());
        eventually(PATIENCE, &line, || match cluster.broker.process().said().contains(&line) {
            true => Ok(()),
            false => Err(cluster.broker.process().last_words()),
        });
    }
    let status = eventually(PATIENCE, "the broker ends", || {
        let broker = cluster.broker.process();
        broker.has_ended().ok_or_else(|| broker.last_words())
    });
    assert_eq!(status.code(), Some(1), "{}", cluster.broker.process().last_words());
    assert!(cluster.broker.process().said().contains("shutting down: all log directories have failed"));
    cluster.zookeeper.process.signal(Signal::CONT);
}
