//! `odradek preflight`: what it says of a broker that runs, of one that was killed, and of what stands against a swap; and
//! that it leaves ZooKeeper and the log directories as they are.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use odradek_zookeeper::session::{CreateKind, ZooKeeper as Session};
use odradek_zookeeper::settings::Settings;
use serde_json::Value;
use support::{Brokers, Kind, free_port};
use tokio::runtime::Runtime;
use zookeeper_client::Client as ZooKeeperClient;

/// Exit status, and what it printed.
fn preflight(config: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_odradek"));
    let output = command.arg("preflight").arg(config).args(arguments).output().expect("it runs");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().expect("it ends by itself"), printed)
}

/// All that is in a directory: when each was written, and what a file holds.
fn files(root: &Path) -> BTreeMap<PathBuf, (SystemTime, Option<Vec<u8>>)> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path).expect("nobody else uses the directory");
        let content = metadata.is_file().then(|| fs::read(&path).expect("it can be read"));
        if metadata.is_dir() {
            let entries = fs::read_dir(&path).expect("it can be read");
            left.extend(entries.map(|entry| entry.expect("it can be read").path()));
        }
        found.insert(path, (metadata.modified().expect("the file system keeps it"), content));
    }
    found
}

/// Every znode but those of the servers: its data, the transaction that wrote it last, and how often it and its children have
/// changed.
async fn znodes(client: &ZooKeeperClient) -> BTreeMap<String, (Vec<u8>, i64, i32, i32)> {
    let mut found = BTreeMap::new();
    let mut left = vec!["/".to_owned()];
    while let Some(path) = left.pop() {
        let (children, _) = client.get_children(&path).await.expect("nobody deletes any");
        let below = |child: &String| format!("{}/{child}", path.trim_end_matches('/'));
        left.extend(children.iter().map(below).filter(|child| child != "/zookeeper"));
        let (data, stat) = client.get_data(&path).await.expect("nobody deletes any");
        found.insert(path, (data, stat.mzxid, stat.version, stat.cversion));
    }
    found
}

fn changed<'a, K: Ord, V: PartialEq>(before: &'a BTreeMap<K, V>, after: &'a BTreeMap<K, V>) -> Vec<&'a K> {
    let all: BTreeSet<&K> = before.keys().chain(after.keys()).collect();
    all.into_iter().filter(|key| before.get(key) != after.get(key)).collect()
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
    let client = runtime.block_on(ZooKeeperClient::connect(&format!("127.0.0.1:{zookeeper}")));
    let client = client.expect("ZooKeeper serves");
    let as_it_is = || (files(&data), runtime.block_on(znodes(&client)));
    let (files_before, znodes_before) = as_it_is();
    let (status, printed) = preflight(&killed, &[]);
    assert_eq!(status, 1, "{printed}");
    says(&printed, &["was not shut down cleanly"]);
    let (files_after, znodes_after) = as_it_is();
    assert_eq!(changed(&files_before, &files_after), Vec::<&PathBuf>::new());
    assert_eq!(changed(&znodes_before, &znodes_after), Vec::<&String>::new());
    assert!(files_before.contains_key(&data.join("tight-0/00000000000000000000.log")), "{:?}", files_before.keys());
    assert!(znodes_before.contains_key("/brokers/topics/tight/partitions/0/state"), "{:?}", znodes_before.keys());

    fs::create_dir(data.join("lost+found")).expect("the directory can be written");
    let (status, printed) = preflight(&killed, &[]);
    assert_eq!(status, 2, "{printed}");
    says(&printed, &["no broker starts with them: lost+found"]);
}

#[test]
fn a_clean_cluster_gets_a_plain_yes_and_each_thing_that_is_not_clean_a_line() {
    let mut cluster = Brokers::start_as("preflight-lines", &[Kind::Odradek; 2], "inter.broker.protocol.version=3.9");
    cluster.client(0).create_replicated_topic("safe", 1, 2, &[]);
    cluster.until_partition("safe", 0, "in sync", |found| found.isr_nodes.len() == 2);
    let config = cluster.brokers[0].config.clone();
    let (status, printed) = preflight(&config, &[]);
    assert_eq!(status, 0, "{printed}");
    assert!(printed.ends_with("\nYes: Odradek can take the place of this broker.\n"), "{printed}");
    assert!(!printed.contains("WARN") && !printed.contains("going back"), "{printed}");
    let (status, printed) = preflight(&config, &["--json"]);
    let report: Value = serde_json::from_str(&printed).expect("it is JSON alone");
    assert_eq!((status, report["answer"].as_str(), report["exit_status"].as_i64()), (0, Some("yes"), Some(0)));

    // Settings of ours, none for the protocol, and fewer descriptors than connections may take.
    let text = fs::read_to_string(&config).expect("it was written");
    let without = cluster.scratch.path("without-protocol.properties");
    fs::write(&without, text.replace("inter.broker.protocol.version=3.9", "")).expect("it can be written");
    let script = format!(
        "ulimit -n 512; exec '{}' preflight '{}' --override=max.producer.ids=1000",
        env!("CARGO_BIN_EXE_odradek"),
        without.display()
    );
    let output = Command::new("bash").args(["-c", &script]).output().expect("there is bash");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    says(
        &printed,
        &[
            "WARN inter.broker.protocol.version is not set, and Odradek takes ",
            "       going back: a JVM broker warns that it does not know max.producer.ids\n",
            "WARN ulimit -Hn is 512: fewer than 1025, one for each partition and 1024 connections\n",
        ],
    );

    // The rest is written by hand, when nobody is there to be told of it.
    for broker in &mut cluster.brokers {
        broker.stop();
    }
    let assigned = |adding: &str| {
        format!(r#"{{"version":2,"partitions":{{"0":[0,7]}},"adding_replicas":{{{adding}}},"removing_replicas":{{}}}}"#)
    };
    let settings = |settings: &str| format!(r#"{{"version":1,"config":{{{settings}}}}}"#);
    let registered = r#"{"version":4,"host":"h","port":1,"endpoints":["OTHER://h:1"],"jmx_port":-1,"timestamp":"1",
                         "listener_security_protocol_map":{"OTHER":"PLAINTEXT"}}"#;
    let written = [
        ("/migration", r#"{"version":0,"kraft_controller_id":3000,"kraft_controller_epoch":1}"#.to_owned()),
        ("/config/users/u", settings(r#""consumer_byte_rate":"1000""#)),
        ("/config/users/s", settings(r#""SCRAM-SHA-256":"salt=a,stored_key=b,server_key=c,iterations=4096""#)),
        ("/config/users/none", settings("")),
        ("/config/users/u/clients/c", settings(r#""producer_byte_rate":"1000""#)),
        ("/config/clients/c", settings(r#""request_percentage":"50""#)),
        ("/config/ips/1.2.3.4", settings(r#""connection_creation_rate":"5""#)),
        ("/config/brokers/0", settings(r#""leader.replication.throttled.rate":"7","log.local.retention.ms":"9""#)),
        ("/config/topics/moving", settings(r#""message.format.version":"0.10.2","local.retention.ms":"1000""#)),
        ("/config/topics/new", settings(r#""message.format.version":"2.8""#)),
        ("/config/topics/tiered", settings(r#""remote.storage.enable":"true""#)),
        ("/brokers/topics/moving", assigned(r#""0":[7]"#)),
        ("/brokers/topics/new", assigned("")),
        ("/brokers/topics/tiered", assigned("")),
        ("/admin/delete_topics/gone", String::new()),
        ("/brokers/ids/7", registered.to_owned()),
    ];
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let settings = Settings::new(format!("127.0.0.1:{}", cluster.zookeeper.port));
        let session = Session::connect(settings).await.expect("ZooKeeper serves");
        for (path, data) in &written {
            let created = session.create_recursive(path, data.as_bytes(), CreateKind::Persistent).await;
            created.unwrap_or_else(|why| panic!("{path}: {why}"));
        }
        let feature = br#"{"version":2,"status":1,"features":{"made.up":{"max_version_level":3}}}"#;
        session.set("/feature", feature, -1).await.expect("it is there");
        session.close().await;
    });
    let meta = cluster.brokers[0].data.join("meta.properties");
    let text = fs::read_to_string(&meta).expect("it is there");
    let foreign = text.lines().map(|line| if line.starts_with("cluster.id=") { "cluster.id=foreign" } else { line });
    fs::write(&meta, foreign.collect::<Vec<_>>().join("\n")).expect("it can be written");

    let (status, printed) = preflight(&config, &[]);
    assert_eq!(status, 2, "{printed}");
    says(
        &printed,
        &[
            "NO   a migration to KRaft is under way (/migration): it needs JVM brokers\n",
            "NO   finalized features that are not known here: made.up 3\n",
            "NO   topics in tiered storage, which is not served: tiered\n",
            "belongs to the cluster foreign, and ZooKeeper holds ",
            "WARN quotas and credentials that are not acted on: clients/c, ips/1.2.3.4, users/s, users/u, users/u/clients/c\n",
            "WARN settings of topics that are not acted on: local.retention.ms, remote.storage.enable\n",
            "WARN settings in /config/brokers/0 that are not acted on: log.local.retention.ms\n",
            "WARN topics are being deleted: gone; wait for their end\n",
            "WARN 1 partition(s) being reassigned: wait for the end: moving-0\n",
            "WARN broker 7 has no listener PLAINTEXT, by which this one would reach it\n",
            "WARN broker 7 registered in version 4, and with inter.broker.protocol.version 3.9-IV0 it would be 5: ",
            "       topics whose message.format.version no broker heeds since inter.broker.protocol.version is 3.0: \
             moving (0.10.2)\n",
            "WARN there is no controller now: wait until there is one\n",
            "was shut down cleanly\n",
            "\nNo: 4 thing(s) stand against it, ",
        ],
    );
    let (_, printed) = preflight(&config, &["--override=inter.broker.protocol.version=2.8"]);
    let in_use =
        "topics that are written in an old format until inter.broker.protocol.version is 3.0: moving (0.10.2)\n";
    says(&printed, &["a JVM broker of 2.8 up to 3.9 can take its place back", in_use]);
}
