//! `odradek preflight`: what it says of a broker that runs, of one that was killed, and of what stands against a swap; and
//! that it leaves ZooKeeper and the log directories as they are.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use odradek_zookeeper::session::ZooKeeper as Session;
use odradek_zookeeper::settings::Settings;
use serde_json::Value;
use support::{Brokers, Kind, free_port};
use tokio::runtime::Runtime;

/// Exit status, and what it printed.
fn preflight(config: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_odradek"));
    let output = command.arg("preflight").arg(config).args(arguments).output().expect("it runs");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().expect("it ends by itself"), printed)
}

#[track_caller]
fn says(printed: &str, what: &[&str]) {
    for what in what {
        assert!(printed.contains(what), "nothing of {what:?} in:\n{printed}");
    }
}

#[test]
fn an_operator_is_told_what_a_swap_would_meet() {
    let settings = "inter.broker.protocol.version=3.9\nunclean.leader.election.enable=false";
    let mut cluster = Brokers::start_as("preflight", &[Kind::Jvm("3.9.1"), Kind::Odradek], settings);
    let mut client = cluster.client(0);
    client.create_replicated_topic("safe", 2, 2, &[]);
    client.create_replicated_topic("tight", 1, 2, &[("min.insync.replicas", "2"), ("cleanup.policy", "compact")]);
    for topic in ["safe", "tight"] {
        cluster.until_partition(topic, 0, "in sync", |found| found.isr_nodes.len() == 2);
    }
    let config = cluster.brokers[0].config.clone();

    let (status, printed) = preflight(&config, &[]);
    assert_eq!(status, 1, "{printed}");
    says(
        &printed,
        &[
            &format!("is in use by process {}", cluster.brokers[0].process().id()),
            "broker 0 runs now, as PLAINTEXT://127.0.0.1:",
            "inter.broker.protocol.version is 3.9-IV0: a JVM broker of 3.9 can take its place back",
            "1 other broker(s): 1;",
            "of 3 this broker is a replica",
            "1 partition(s) below min.insync.replicas without this broker: acks=all fails while it is away: tight-0",
            "Yes, with ",
        ],
    );
    assert!(!printed.contains("takes them offline") && !printed.contains("without a leader"), "{printed}");

    // All that stands against it is told at once.
    let (status, printed) = preflight(
        &config,
        &[
            "--json",
            "--override=authorizer.class.name=kafka.security.authorizer.AclAuthorizer",
            "--override=listeners=PLAINTEXT://:9092,SSL://:9093",
            "--override=create.topic.policy.class.name=com.example.Policy",
            "--override=brokr.rack=a",
            "--override=broker.id=7",
        ],
    );
    assert_eq!(status, 2, "{printed}");
    let report: Value = serde_json::from_str(&printed).expect("it is JSON alone");
    assert_eq!((report["answer"].as_str(), report["exit_status"].as_i64()), (Some("no"), Some(2)));
    let of = |weight: &str| -> String {
        let findings = report["findings"].as_array().expect("a list").iter();
        let texts =
            findings.filter(|finding| finding["weight"] == weight).filter_map(|finding| finding["text"].as_str());
        texts.collect::<Vec<_>>().join("\n")
    };
    says(
        &of("refusal"),
        &["AclAuthorizer", "SSL://:9093", "com.example.Policy", "belongs to broker 0, and the settings say 7"],
    );
    says(&of("warning"), &["brokr.rack"]);

    // A path of ZooKeeper that does not exist stays so.
    let zookeeper = cluster.zookeeper.port;
    let missing = format!("--override=zookeeper.connect=127.0.0.1:{zookeeper}/nowhere");
    let (status, printed) = preflight(&config, &[&missing]);
    assert_eq!(status, 2, "{printed}");
    says(&printed, &["/nowhere"]);
    let runtime = Runtime::new().expect("a runtime");
    let session =
        runtime.block_on(Session::connect(Settings::new(format!("127.0.0.1:{zookeeper}")))).expect("ZooKeeper serves");
    assert_eq!(runtime.block_on(session.exists("/nowhere")), Ok(None));
    let nobody = format!("--override=zookeeper.connect=127.0.0.1:{}", free_port());
    let (status, printed) = preflight(&config, &[&nobody, "--override=zookeeper.connection.timeout.ms=500"]);
    assert_eq!(status, 2, "{printed}");

    // Broker 1 dies: what the other one holds is no longer elsewhere.
    cluster.brokers[1].kill();
    for topic in ["safe", "tight"] {
        cluster.until_partition(topic, 0, "led by broker 0 alone", |found| found.isr_nodes == [0]);
    }
    cluster.until_partition("safe", 1, "led by broker 0 alone", |found| found.isr_nodes == [0]);
    let (status, printed) = preflight(&config, &[]);
    assert_eq!(status, 1, "{printed}");
    says(
        &printed,
        &[
            "3 partition(s) under-replicated now",
            "3 partition(s) in sync on this broker alone",
            "there is no other broker",
        ],
    );
    let (killed, data) = (cluster.brokers[1].config.clone(), cluster.brokers[1].data.clone());
    let (status, printed) = preflight(&killed, &[]);
    assert_eq!(status, 1, "{printed}");
    says(&printed, &["was not shut down cleanly"]);

    fs::create_dir(data.join("lost+found")).expect("the directory can be written");
    let (status, printed) = preflight(&killed, &[]);
    assert_eq!(status, 2, "{printed}");
    says(&printed, &["no broker starts with them: lost+found"]);
}
