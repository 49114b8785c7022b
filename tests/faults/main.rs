//! Real faults, real processes: three brokers and an ensemble of three ZooKeepers under librdkafka's producers and consumers,
//! which write down what they do, while brokers and servers are killed, hang, and are cut off, and operators move, grow and
//! delete. Then all is led and in sync, nothing that was acknowledged is lost, nothing is there twice under idempotence,
//! order is kept, committed offsets are not behind, what instances consume, transform and produce in transactions is there
//! once for each record that they had, and all replicas have the same bytes up to the high watermark.
//!
//! Each kind of fault comes once, in an order that a seed decides, as it decides everything else that is left to chance; the
//! seed is printed, and so is when what was done. `ODRADEK_FAULTS_SECONDS` goes on for longer, also with two faults at once,
//! `ODRADEK_FAULTS_COUNT` takes only so many of them, and `ODRADEK_FAULTS_SEED` takes a seed.
#![cfg(target_os = "linux")]

mod changelog;
mod chores;
mod cluster;
mod history;
mod nemesis;
mod network;
mod roll;
mod rolls;
#[path = "../support/mod.rs"]
mod support;
mod swap;
mod transformed;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

use chores::{Chore, INTERNAL};
use cluster::{BROKERS, Clients, Cluster, Partition, TRANSFORMED, kinds};
use history::{Held, History, doubled, violations};
use nemesis::{FAULTS, Fault};
use support::{PATIENCE, eventually};

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

#[test]
#[ignore = "it takes minutes, and tells what it does meanwhile: tests/run.sh has it as a part of its own"]
fn whatever_fails_the_cluster_is_whole_again_and_keeps_its_promises() {
    let seed = number("ODRADEK_FAULTS_SEED").unwrap_or_else(rand::random);
    let duration = Duration::from_secs(number("ODRADEK_FAULTS_SECONDS").unwrap_or(0));
    println!("ODRADEK_FAULTS_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let began = Instant::now();
    let mut cluster = Cluster::start(kinds(), Clients::Librdkafka, "");
    let version = if rng.random() && cluster.is_ours_alone() { 2 } else { 0 };
    println!("transactions begin with version {version}");
    if version > 0 {
        Chore::FollowTransactionVersion(version).until_done(&cluster);
    }
    cluster.transaction_versions.insert(version);
    let mut history = cluster.start_clients(seed);
    until_progress(&mut cluster, &mut history);
    let mut each_once = FAULTS;
    each_once.shuffle(&mut rng);
    let count = number("ODRADEK_FAULTS_COUNT").map_or(FAULTS.len(), |count| count as usize);
    // What coordinators know moves, whatever chance decides.
    let mut moved = INTERNAL.into_iter();
    for fault in each_once.into_iter().take(count) {
        round(&[fault], moved.next(), began, &mut rng, &mut cluster, &mut history);
    }
    assert!(INTERNAL.iter().take(count).all(|topic| cluster.reassigned.contains(topic)), "{:?}", cluster.reassigned);
    while began.elapsed() < duration {
        let faults: Vec<Fault> = FAULTS.sample(&mut rng, 2).copied().collect();
        // Brokers stop in order in a cluster that is whole.
        let count = if faults.contains(&Fault::RollingBounce) || rng.random() { 1 } else { 2 };
        round(&faults[..count], None, began, &mut rng, &mut cluster, &mut history);
    }
    if cluster.is_mixed() {
        println!("markers went, of a JVM and to one: {:?}", cluster.markers_went);
        if count >= FAULTS.len() {
            markers_go_both_ways(&mut cluster, &mut history);
        }
    }
    check(&mut cluster, &mut history);
}

/// Faults come, stay for a time, and go; the cluster heals, and the clients get on. Meanwhile an internal topic moves, or
/// something is done that chance decides.
fn round(
    faults: &[Fault],
    moved: Option<&'static str>,
    began: Instant,
    rng: &mut StdRng,
    cluster: &mut Cluster,
    history: &mut History,
) {
    if cluster.is_mixed() {
        cluster.note_markers();
    }
    let mut aimed: Vec<_> = faults.iter().map(|fault| fault.aim(cluster, rng)).collect();
    aimed.sort_by_key(|aimed| !aimed.comes_first());
    let chore = match moved {
        Some(topic) => Chore::move_internal(topic, cluster, rng),
        None => Chore::choose(cluster, rng),
    };
    println!("{:7.3} s: {chore:?}; {aimed:?}", began.elapsed().as_secs_f64());
    if let Chore::FollowTransactionVersion(version) = chore {
        cluster.transaction_versions.insert(version);
    }
    let asked = chore.ask(cluster).expect("the controller takes a request");
    aimed.iter().for_each(|aimed| aimed.inject(cluster));
    std::thread::sleep(aimed.iter().map(|aimed| aimed.hold).max().unwrap_or_default()); // What the round is about.
    println!("{:7.3} s: the faults end", began.elapsed().as_secs_f64());
    cluster.heal();
    drop(asked);
    cluster.until_whole();
    chore.until_done(cluster);
    if let Chore::Reassign(topic, _) = chore {
        cluster.reassigned.insert(topic);
    }
    cluster.until_whole();
    until_progress(cluster, history);
}

/// If chance has not seen to it, a broker of each kind coordinates what is written to logs that the other leads.
fn markers_go_both_ways(cluster: &mut Cluster, history: &mut History) {
    for (coordinator, leader) in [(false, true), (true, false)] {
        if cluster.markers_went.contains(&(coordinator, leader)) {
            continue;
        }
        for (topic, is_jvm) in [(INTERNAL[0], coordinator), (TRANSFORMED, leader)] {
            let broker = (0..BROKERS).find(|id| cluster.is_jvm(*id) == is_jvm).expect("there are both");
            Chore::prefer(topic, broker, cluster).until_done(cluster);
        }
        Chore::Elect.until_done(cluster);
        cluster.until_whole();
        cluster.note_markers();
        assert!(cluster.markers_went.contains(&(coordinator, leader)), "{:?}", cluster.markers_went);
        until_progress(cluster, history);
    }
}

/// Waits until records of each producer to each partition are acknowledged, and those that are transformed in transactions
/// are read.
fn until_progress(cluster: &mut Cluster, history: &mut History) {
    let all: Vec<Partition> = cluster.client_partitions();
    let producers = cluster.cast().producers.iter().map(|(producer, _)| *producer);
    let mut wanted: Vec<(Arc<str>, Partition)> =
        producers.flat_map(|producer| all.iter().map(move |partition| (producer.into(), partition.clone()))).collect();
    let outputs: Vec<&str> = cluster.cast().transforming.iter().map(|those| those.output).collect();
    let transformed = cluster.partitions().into_keys().filter(|(topic, _)| outputs.contains(&&**topic));
    wanted.extend(transformed.map(|partition| (transformed::READER.into(), partition)));
    let before = history.follow().clone();
    eventually(PATIENCE, "all clients get on with all partitions", || {
        cluster.assert_all_run();
        let now = history.follow();
        match wanted.iter().find(|of| now.get(*of) <= before.get(*of)) {
            Some(of) => Err(format!("{of:?}: {:?} records", now.get(of))),
            None => Ok(()),
        }
    });
}

/// Ends the clients, and with them their history.
fn check(cluster: &mut Cluster, history: &mut History) {
    let status = cluster.stop_clients();
    assert!(status.success(), "the clients ended with {status}");
    cluster.until_whole();
    history.follow();
    let (mut records, mut producer_epochs) = (BTreeMap::new(), BTreeMap::new());
    for (partition, all) in cluster.records() {
        let (sent, epochs): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        records.insert(partition.clone(), sent);
        producer_epochs.insert(partition, epochs);
    }
    let committed = cluster.committed(records.keys().cloned());
    let total: usize = records.values().map(Vec::len).sum();
    println!("{total} records are there, {} things were done", history.events.len());
    let held = Held { records, producer_epochs, committed };
    let cast = cluster.cast();
    let doubled = doubled(cast, &held);
    doubled.iter().for_each(|doubled| println!("{doubled}"));
    assert!(doubled.is_empty() || cast.takes_new_epochs, "what was sent once is there twice");
    let found = violations(cast, &history.events, &held);
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found[..found.len().min(50)].join("\n"));
    for those in cast.transforming {
        transformed::check(those, cluster, history, &held);
    }
    if !cast.transforming.is_empty() {
        transformed::until_all_are_ended(cluster);
    }
    println!("all replicas have the same {} bytes", cluster.until_same_bytes());
    if cast.has_changelog {
        changelog::check(cluster, history);
    }
}
