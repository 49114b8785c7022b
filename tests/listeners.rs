//! Several listeners with names of their own: each tells its clients the address that is advertised for it.

mod support;

use odradek::protocol::messages::describe_cluster::DescribeClusterRequest;
use odradek::protocol::messages::find_coordinator::FindCoordinatorRequest;
use odradek::protocol::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use odradek::record::compression::Codec;
use odradek_zookeeper::session::{CreateKind, ZooKeeper as Session};
use odradek_zookeeper::settings::Settings;
use support::client::{Client, batch};
use support::{Broker, Kind, PATIENCE, Scratch, ZooKeeper, eventually, free_port, repository, tied};
use tokio::runtime::Runtime;

fn znode(zookeeper: &ZooKeeper, path: &str) -> String {
    Runtime::new().expect("a runtime").block_on(async {
        let session = Session::connect(Settings::new(format!("127.0.0.1:{}", zookeeper.port))).await.expect("it runs");
        let (bytes, _) = session.get(path).await.expect("it can be read").expect("it is there");
        session.close().await;
        String::from_utf8(bytes).expect("it is text")
    })
}

#[test]
fn each_listener_tells_its_own_advertised_address() {
    let scratch = Scratch::new("listeners");
    let zookeeper = ZooKeeper::start(&scratch);
    let [internal, external, local] = [free_port(), free_port(), free_port()];
    let settings = format!(
        "listeners=EXTERNAL://127.0.0.1:{external},INTERNAL://127.0.0.1:{internal},LOCAL://127.0.0.1:{local}\n\
         advertised.listeners=EXTERNAL://kafka.example.org:19092,INTERNAL://localhost:{internal},LOCAL://[::1]:{local}\n\
         listener.security.protocol.map=INTERNAL:PLAINTEXT,EXTERNAL:PLAINTEXT,LOCAL:PLAINTEXT\n\
         inter.broker.listener.name=INTERNAL"
    );
    let mut broker = Broker::configure(&scratch, zookeeper.port, &settings);
    broker.port = external;
    broker.start(Kind::under_test(), &scratch);

    // The controller reaches the broker by the internal address alone: the external one leads nowhere.
    broker.client().create_topic("t", 1, &[]);
    for (port, host, advertised) in
        [(external, "kafka.example.org", 19092), (internal, "localhost", internal), (local, "::1", local)]
    {
        let told = [(0, host.to_owned(), i32::from(advertised))];
        let mut client = Client::connect(port).expect("the listener is bound");
        let metadata = client.metadata(&["t"]).expect("Metadata is answered");
        let brokers: Vec<_> = metadata.brokers.into_iter().map(|b| (b.node_id, b.host, b.port)).collect();
        assert_eq!(brokers, told);
        assert_eq!((metadata.controller_id, metadata.topics[0].partitions[0].leader_id), (0, 0));

        let cluster = client.call(&DescribeClusterRequest::default(), 0).expect("DescribeCluster is answered");
        let brokers: Vec<_> = cluster.brokers.into_iter().map(|b| (b.broker_id, b.host, b.port)).collect();
        assert_eq!(brokers, told);

        eventually(PATIENCE, "a group's coordinator is told in the same way", || {
            let request = FindCoordinatorRequest { key: "g".into(), ..Default::default() };
            let found = client.call(&request, 2).map_err(|error| error.to_string())?;
            if (found.node_id, &found.host, found.port) == (0, &told[0].1, told[0].2) {
                return Ok(());
            }
            Err(format!("{found:?}"))
        });
        let outcome = client.produce("t", 0, batch(Codec::None, [host.to_owned()]));
        assert!(outcome.expect("Produce is answered").is_ok());
    }

    let mut registered: serde_json::Value =
        serde_json::from_str(&znode(&zookeeper, "/brokers/ids/0")).expect("a registration is JSON");
    let timestamp = registered["timestamp"].take();
    assert!(timestamp.as_str().is_some_and(|text| text.parse::<i64>().is_ok()), "{timestamp}");
    let features = match Kind::under_test() {
        Kind::Odradek => serde_json::json!({"transaction.version": {"min_version": 2, "max_version": 2}}),
        Kind::Jvm(_) => serde_json::json!({}),
    };
    let expected = serde_json::json!({
        "version": 5,
        "host": "kafka.example.org",
        "port": 19092,
        "endpoints": [
            "EXTERNAL://kafka.example.org:19092",
            format!("INTERNAL://localhost:{internal}"),
            format!("LOCAL://[::1]:{local}"),
        ],
        "listener_security_protocol_map": {"INTERNAL": "PLAINTEXT", "EXTERNAL": "PLAINTEXT", "LOCAL": "PLAINTEXT"},
        "features": features,
        "jmx_port": -1,
        "timestamp": null,
    });
    assert_eq!(registered, expected);
}

#[test]
fn a_second_broker_of_an_id_ends_and_the_first_serves_on() {
    let scratch = Scratch::new("same-id");
    let zookeeper = ZooKeeper::start(&scratch);
    let mut first = Broker::configure(&scratch, zookeeper.port, "");
    first.start(Kind::under_test(), &scratch);
    let registered = znode(&zookeeper, "/brokers/ids/0");

    let other_scratch = Scratch::new("same-id-again");
    let second = Broker::configure(&other_scratch, zookeeper.port, "zookeeper.session.timeout.ms=1500");
    let mut process = second.spawn(Kind::under_test(), &other_scratch);
    let status = eventually(PATIENCE, "the second ends", || process.has_ended().ok_or_else(|| process.last_words()));
    assert_eq!(status.code(), Some(1), "{}", process.last_words());
    assert!(process.said().contains("/brokers/ids/0"), "{}", process.last_words());

    assert_eq!(znode(&zookeeper, "/brokers/ids/0"), registered);
    let mut client = first.client();
    client.create_topic("t", 1, &[]);
    let outcome = client.produce("t", 0, batch(Codec::None, ["on".to_owned()]));
    assert_eq!(outcome.expect("Produce is answered"), Ok(0));
}

/// Clients and those who look whether a broker is ready would wait at a port that takes them before it can answer.
#[test]
fn a_port_takes_connections_once_there_is_somebody_to_answer_and_is_the_brokers_before() {
    if Kind::under_test() != Kind::Odradek {
        return; // A JVM broker does not wait for the one before it, but ends.
    }
    let scratch = Scratch::new("not-yet");
    let zookeeper = ZooKeeper::start(&scratch);
    let runtime = Runtime::new().expect("a runtime");
    let settings = Settings::new(format!("127.0.0.1:{}", zookeeper.port));
    let earlier = runtime.block_on(Session::connect(settings)).expect("it runs");
    runtime.block_on(async {
        earlier.create_persistent_roots().await.expect("they can be made");
        earlier.create("/brokers/ids/0", b"{}", CreateKind::Ephemeral).await.expect("nobody has it");
    });
    let mut broker = Broker::configure(&scratch, zookeeper.port, "zookeeper.session.timeout.ms=60000");
    broker.process = Some(broker.spawn(Kind::Odradek, &scratch));
    let process = broker.process();
    eventually(PATIENCE, "it waits for the broker before it", || {
        if process.said().contains("/brokers/ids/0 still exists") { Ok(()) } else { Err(process.last_words()) }
    });
    let refused = std::net::TcpStream::connect(("127.0.0.1", broker.port)).map_err(|error| error.kind());
    assert_eq!(refused.map(drop), Err(std::io::ErrorKind::ConnectionRefused));
    runtime.block_on(earlier.close());
    broker.until_serving(Kind::Odradek, &scratch);

    // Whoever wants the same port is told before anything else is done.
    let other_scratch = Scratch::new("same-port");
    let other = Broker::configure_as(1, &other_scratch, zookeeper.port, "");
    let text = std::fs::read_to_string(&other.config).expect("it was just written");
    let text = text.replace(&other.port.to_string(), &broker.port.to_string());
    std::fs::write(&other.config, text).expect("it can be written");
    let mut process = other.spawn(Kind::Odradek, &other_scratch);
    let status = eventually(PATIENCE, "the second ends", || process.has_ended().ok_or_else(|| process.last_words()));
    assert_eq!(status.code(), Some(1), "{}", process.last_words());
    let expected = format!("Socket server failed to bind to 127.0.0.1:{} (listener PLAINTEXT)", broker.port);
    assert!(process.said().contains(&expected), "{}", process.last_words());
}

#[test]
fn an_advertised_address_changes_while_the_broker_runs() {
    let scratch = Scratch::new("readdressed");
    let zookeeper = ZooKeeper::start(&scratch);
    let [internal, external] = [free_port(), free_port()];
    let settings = format!(
        "listeners=EXTERNAL://127.0.0.1:{external},INTERNAL://127.0.0.1:{internal}\n\
         advertised.listeners=EXTERNAL://kafka.example.org:19092,INTERNAL://127.0.0.1:{internal}\n\
         listener.security.protocol.map=INTERNAL:PLAINTEXT,EXTERNAL:PLAINTEXT\ninter.broker.listener.name=INTERNAL"
    );
    let mut broker = Broker::configure(&scratch, zookeeper.port, &settings);
    broker.port = external;
    broker.start(Kind::under_test(), &scratch);
    let mut client = broker.client();
    let mut change = |value: String| {
        let name = "advertised.listeners".to_owned();
        let configs = vec![AlterableConfig { name, config_operation: 0, value: Some(value) }];
        let resource = AlterConfigsResource { resource_type: 4, resource_name: "0".to_owned(), configs };
        let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
        client.call(&request, 1).expect("the broker answers IncrementalAlterConfigs").responses[0].error_code
    };
    assert_eq!(change("EXTERNAL://elsewhere.example.org:29092".to_owned()), 42, "brokers would not reach it");
    assert_eq!(change(format!("EXTERNAL://elsewhere.example.org:29092,INTERNAL://127.0.0.1:{internal}")), 0);
    eventually(PATIENCE, "clients are told the new address", || {
        let metadata = broker.client().metadata(&[]).map_err(|error| error.to_string())?;
        let brokers: Vec<_> = metadata.brokers.into_iter().map(|b| (b.node_id, b.host, b.port)).collect();
        if brokers == [(0, "elsewhere.example.org".to_owned(), 29092)] { Ok(()) } else { Err(format!("{brokers:?}")) }
    });
    // It is told by the broker's next registration too.
    broker.stop();
    broker.process = Some(broker.spawn(Kind::under_test(), &scratch));
    eventually(PATIENCE, "it is told again", || {
        let mut client = Client::connect(external).map_err(|error| error.to_string())?;
        let metadata = client.metadata(&[]).map_err(|error| error.to_string())?;
        let brokers: Vec<_> = metadata.brokers.into_iter().map(|b| (b.node_id, b.host, b.port)).collect();
        if brokers == [(0, "elsewhere.example.org".to_owned(), 29092)] { Ok(()) } else { Err(format!("{brokers:?}")) }
    });
}

#[test]
fn a_listener_without_a_host_is_advertised_under_the_name_that_a_jvm_finds() {
    let java = tied("java")
        .args(["-XX:TieredStopAtLevel=1", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/jvm/LocalHost.java")])
        .output()
        .expect("java is on the PATH");
    assert!(java.status.success(), "{}", String::from_utf8_lossy(&java.stderr));
    let name = String::from_utf8_lossy(&java.stdout).trim().to_owned();

    let scratch = Scratch::new("no-host");
    let zookeeper = ZooKeeper::start(&scratch);
    let [plain, internal, control] = [free_port(), free_port(), free_port()];
    let settings = format!(
        "listeners=PLAINTEXT://:{plain},INTERNAL://:{internal},CONTROL://:{control}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROL:PLAINTEXT\n\
         inter.broker.listener.name=INTERNAL\ncontrol.plane.listener.name=CONTROL\n"
    );
    let mut broker = Broker::configure(&scratch, zookeeper.port, &settings);
    broker.port = plain;
    broker.start(Kind::under_test(), &scratch);

    let registered: serde_json::Value =
        serde_json::from_str(&znode(&zookeeper, "/brokers/ids/0")).expect("a registration is JSON");
    assert_eq!((&registered["host"], &registered["port"]), (&name.clone().into(), &plain.into()));
    let endpoint = |listener: &str, port: u16| format!("{listener}://{name}:{port}");
    let endpoints = [endpoint("PLAINTEXT", plain), endpoint("INTERNAL", internal), endpoint("CONTROL", control)];
    assert_eq!(registered["endpoints"], serde_json::json!(endpoints));
    let cluster = broker.client().call(&DescribeClusterRequest::default(), 0).expect("DescribeCluster is answered");
    let told: Vec<_> = cluster.brokers.into_iter().map(|b| (b.host, b.port)).collect();
    assert_eq!(told, [(name.clone(), i32::from(plain))]);
    // What is advertised leads to the broker.
    broker.client().create_topic("t", 1, &[]);
    let address = format!("{name}:{plain}");
    let script = repository("bin/kafka-get-offsets.sh");
    let output = tied(script)
        .env("ODRADEK_BINARY", env!("CARGO_BIN_EXE_odradek"))
        .args(["--bootstrap-server", &address, "--topic", "t"])
        .output()
        .expect("the script is there");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "t:0:0\n");
}
