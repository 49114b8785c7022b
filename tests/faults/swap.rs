//! The swap, as README tells it: three JVM brokers under load become ours one after the other, with the same settings,
//! directories and ZooKeeper, and then JVM brokers again; first stopped in order, then killed. Before each, `odradek preflight`
//! is asked. A topic of old values and new ones is written meanwhile, and topics come and go. What the clients saw of it is
//! printed beside what they see when JVM brokers give way to JVM brokers.

use std::collections::BTreeMap;
use std::process::Command;

use odradek::protocol::messages::delete_topics::DeleteTopicsRequest;
use odradek::record::build::BatchBuilder;

use crate::cluster::{BROKERS, Cluster, Partition};
use crate::history::{Did, History};
use crate::support::client::Client;
use crate::support::{Kind, PATIENCE, eventually};
use crate::{check, until_progress};

/// The last release with ZooKeeper.
const JVM: Kind = Kind::Jvm("3.9.2");

#[derive(Clone, Copy, Debug)]
enum End {
    /// With controlled shutdown.
    Stopped,
    /// kill -9.
    Killed,
}

#[test]
#[ignore = "it takes minutes: tests/run.sh soak has it"]
fn a_jvm_cluster_becomes_ours_one_broker_after_the_other_and_goes_back() {
    let rolls = [
        (JVM, End::Stopped),
        (Kind::Odradek, End::Stopped),
        (JVM, End::Stopped),
        (JVM, End::Killed),
        (Kind::Odradek, End::Killed),
        (JVM, End::Killed),
    ];
    let mut cluster = Cluster::start_as([JVM; BROKERS], rand::random());
    let mut history = eventually(PATIENCE, "the clients start", || {
        History::open(&cluster.history()).map_err(|error| error.to_string())
    });
    until_progress(&mut cluster, &mut history);
    let mut changelog = Changelog::new(&cluster);
    let mut from = JVM;
    let mut gaps = Vec::new();
    for (to, end) in rolls {
        history.follow();
        let first = history.events.len();
        for id in 0..BROKERS {
            swap(&mut cluster, id, to, end);
            until_progress(&mut cluster, &mut history);
            changelog.change(&cluster);
            make_and_delete_a_topic(&cluster, id);
        }
        let gap = worst_gap(&history, first);
        println!("{from:?} to {to:?}, {end:?}: no partition took records of a producer for {gap:.1} s at the most");
        gaps.push((from, to, gap));
        from = to;
    }
    changelog.check(&cluster);
    check(&mut cluster, &mut history);
}

fn swap(cluster: &mut Cluster, id: usize, to: Kind, end: End) {
    if to == Kind::Odradek {
        let mut preflight = Command::new(env!("CARGO_BIN_EXE_odradek"));
        let output = preflight.arg("preflight").arg(&cluster.brokers[id].config).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{said}");
        assert!(!said.contains("takes them offline") && !said.contains("under-replicated now"), "{said}");
    }
    match end {
        End::Stopped => cluster.stop(id),
        End::Killed => cluster.brokers[id].kill(),
    }
    cluster.kinds[id] = to;
    cluster.start_brokers();
    cluster.until_whole();
}

/// The longest time in which no record of a producer to a partition was acknowledged, of the events from `first` on.
fn worst_gap(history: &History, first: usize) -> f64 {
    let mut last: BTreeMap<(&str, &Partition), f64> = BTreeMap::new();
    let mut worst = 0.0_f64;
    for event in &history.events[first..] {
        if let Did::Acknowledged { .. } = event.did {
            let before = last.insert((&event.client, &event.partition), event.at);
            worst = worst.max(event.at - before.unwrap_or(event.at));
        }
    }
    worst
}

/// A compacted topic, as the state of a stream application has it: of each key the last value counts.
struct Changelog {
    rounds: usize,
}

const CHANGELOG: &str = "changelog";
const KEYS: usize = 50;

impl Changelog {
    fn new(cluster: &Cluster) -> Changelog {
        let settings = [("cleanup.policy", "compact"), ("min.insync.replicas", "2")];
        cluster.brokers[cluster.controller()].client().create_replicated_topic(CHANGELOG, 1, 3, &settings);
        Changelog { rounds: 0 }
    }

    /// Sent until it is acknowledged: it may be there twice.
    fn change(&mut self, cluster: &Cluster) {
        self.rounds += 1;
        let mut batch = BatchBuilder::new();
        for key in 0..KEYS {
            let value = format!("{key} of {}", self.rounds);
            batch.append(0, Some(format!("{key}").as_bytes()), Some(value.as_bytes()), &[]);
        }
        let batch = batch.build();
        eventually(PATIENCE, "the changelog takes a batch", || {
            let sent = leader(cluster)?.produce(CHANGELOG, 0, batch.clone()).map_err(|error| error.to_string())?;
            sent.map_err(|code| format!("error {code}"))
        });
    }

    fn check(&self, cluster: &Cluster) {
        let records = eventually(PATIENCE, "the changelog is read", || {
            leader(cluster)?.read_all(CHANGELOG, 0, 0).map_err(|error| error.to_string())
        });
        let last: BTreeMap<_, _> = records.iter().map(|record| (record.key.clone(), record.value.clone())).collect();
        assert_eq!(last.len(), KEYS);
        for (key, value) in last {
            let (key, value) = (key.unwrap_or_default(), value.unwrap_or_default());
            let expected = format!("{} of {}", String::from_utf8_lossy(&key), self.rounds);
            assert_eq!(String::from_utf8_lossy(&value), expected);
        }
    }
}

fn leader(cluster: &Cluster) -> Result<Client, String> {
    let leader = cluster.partitions().get(&(CHANGELOG.into(), 0)).map_or(-1, |found| found.leader_id);
    let leader = usize::try_from(leader).map_err(|_| "nobody leads it".to_owned())?;
    Client::connect(cluster.brokers[leader].port).map_err(|error| error.to_string())
}

fn make_and_delete_a_topic(cluster: &Cluster, number: usize) {
    let name = format!("passing-{number}");
    let mut controller = cluster.brokers[cluster.controller()].client();
    controller.create_replicated_topic(&name, 3, 3, &[]);
    controller.until_led(&name, 3);
    let request = DeleteTopicsRequest { topic_names: vec![name.clone()], timeout_ms: 10_000, ..Default::default() };
    let deleted = controller.call(&request, 3).expect("DeleteTopics is answered");
    assert_eq!(deleted.responses[0].error_code, 0, "{deleted:?}");
    eventually(PATIENCE, &format!("{name} is gone"), || {
        let left = cluster.partitions().into_keys().find(|(topic, _)| **topic == *name);
        left.map_or(Ok(()), |left| Err(format!("{left:?}")))
    });
}
