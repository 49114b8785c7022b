//! A broker that loses its ZooKeeper session goes on serving, registers again and is controller again, by itself.

mod support;

use std::time::Duration;

use odradek::record::compression::Codec;
use rustix::process::Signal;
use support::client::{Client, batch, values};
use support::{Cluster, PATIENCE, eventually};

fn znode(cluster: &Cluster, path: &str) -> Result<String, String> {
    let server = format!("127.0.0.1:{}", cluster.zookeeper.port);
    let said = cluster.jvm_tool("3.9.1", "org.apache.zookeeper.ZooKeeperMain", &["-server", &server, "get", path])?;
    said.lines().find(|line| line.starts_with('{')).map(str::to_owned).ok_or(said)
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

    cluster.zookeeper.process.kill();
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
    assert!(cluster.broker.process().has_ended().is_none());
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
