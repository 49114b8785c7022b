//! JVM brokers and ours in one cluster, each kind in every role: controller, leader, follower, coordinator of groups. What an
//! operator does and what fails happens to one of each kind while the other is the controller, and while it is itself; clients
//! that know nothing of kinds get on all the while, and Kafka's own verifiers find nothing. In the end no broker has complained
//! of anything that `logs.rs` does not explain.
//!
//! `cargo test --test mixed_cluster` takes what is newest and what is oldest; `tests/run.sh mixed` takes every version, with
//! ours among JVM brokers and a JVM broker among ours, and three JVM brokers, which show that the test itself is right.
#![cfg(target_os = "linux")]

mod clients;
mod logs;
mod steps;
#[path = "../support/mod.rs"]
mod support;
mod verifiers;
mod world;

use std::sync::{Mutex, MutexGuard, PoisonError};

use clients::{Clients, every_format_is_taken_and_given};
use support::Kind;
use world::World;

/// One cluster at a time: three brokers have enough to do.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Versions of Kafka and of `inter.broker.protocol.version`.
struct Versions(&'static str, &'static str);

const NEWEST: Versions = Versions("3.9.2", "3.9");
const MIDDLE: Versions = Versions("3.6.2", "3.6");
const OLDER: Versions = Versions("2.8.2", "2.8");
/// Leaders write their ISR to ZooKeeper, topics have no ids, and followers ask for the end of an epoch.
const OLDEST: Versions = Versions("2.8.2", "2.4");

fn ours_among_jvm_brokers(Versions(version, protocol): Versions) {
    let jvm = Kind::Jvm(version);
    every_role(&format!("ours-among-{protocol}"), [jvm, jvm, Kind::Odradek], protocol, (0, 2));
}

fn a_jvm_broker_among_ours(Versions(version, protocol): Versions) {
    let kinds = [Kind::Odradek, Kind::Jvm(version), Kind::Odradek];
    every_role(&format!("among-ours-{protocol}"), kinds, protocol, (0, 1));
}

/// `one` and `other` are the brokers to which everything happens, the third looks on.
fn every_role(name: &str, kinds: [Kind; 3], protocol: &str, (one, other): (i32, i32)) {
    let _alone = alone();
    let mut world = World::start(name, &kinds, protocol);
    let mut clients = Clients::start(&mut world);
    every_format_is_taken_and_given(&mut world, "formats", &[]);
    if world.has_old_formats() {
        for format in ["0.9.0", "0.10.0"] {
            every_format_is_taken_and_given(&mut world, format, &[("message.format.version", format)]);
        }
    }
    world.says("every format was taken and given");
    for controller in [one, other] {
        world.office_moves_to(controller);
        steps::a_topic_comes_and_goes(&mut world, "comes-and-goes");
        steps::replicas_move(&mut world, &format!("moved-by-{controller}"));
        clients.go_on(&mut world);
    }
    clients::are_consumed_by_tools(&mut world);
    for (controller, other) in [(one, other), (other, one)] {
        for stopped in [other, controller] {
            world.office_moves_to(controller);
            world.stops(stopped);
            world.starts(stopped);
            clients.go_on(&mut world);
            world.elects_preferred();
            clients.go_on(&mut world);
        }
    }
    for (controller, other) in [(one, other), (other, one)] {
        for expired in [other, controller] {
            world.office_moves_to(controller);
            world.session_expires(expired);
            clients.go_on(&mut world);
        }
    }
    for (controller, other) in [(one, other), (other, one)] {
        for killed in [other, controller] {
            world.office_moves_to(controller);
            world.is_killed(killed);
            world.starts(killed);
            clients.go_on(&mut world);
            world.elects_preferred();
            clients.go_on(&mut world);
        }
    }
    steps::logs_part(&mut world, one, other, "unclean.leader.election.enable=true");
    steps::logs_part(&mut world, other, one, "unclean.leader.election.enable=false");
    clients.go_on(&mut world);
    steps::brokers_change_places(&mut world, &mut clients, one, other);
    clients::are_consumed_by_tools(&mut world);
    verifiers::find_nothing(&mut world, one);
    logs::explain_all(&mut world);
}

/// The road of an upgrade: brokers of 2.8 in the protocol of 2.4, which are replaced by those of 3.6 and of 3.9 on the way, and
/// the protocol follows, one broker after the other.
fn the_protocol_is_raised(name: &str, kinds: [Kind; 3], controller: i32) {
    let _alone = alone();
    let mut world = World::start(name, &kinds, "2.4");
    let mut clients = Clients::start(&mut world);
    assert_eq!(world.topic_id(clients::KEPT), None);
    steps::feature_says(&world, 1, 0);
    for (protocol, version, form_of_feature) in [("2.8", "2.8.2", 1), ("3.6", "3.6.2", 2), ("3.9", "3.9.2", 2)] {
        // A broker speaks what all others understand: first all are of the new release, then each says so.
        let newer = Kind::Jvm(version);
        for id in world.ids() {
            if ![Kind::Odradek, newer].contains(&world.kinds[id as usize]) {
                world.stops(id);
                world.kinds[id as usize] = newer;
                world.starts(id);
                clients.go_on(&mut world);
            }
        }
        for id in world.ids() {
            world.stops(id);
            world.speaks(id, protocol);
            world.starts(id);
            clients.go_on(&mut world);
        }
        world.office_moves_to(controller);
        clients.go_on(&mut world);
        steps::topics_have_ids(&mut world);
        steps::feature_says(&world, form_of_feature, 1);
        world.until_same_files();
        world.elects_preferred();
        steps::a_topic_comes_and_goes(&mut world, &format!("in-{protocol}"));
        clients.go_on(&mut world);
        world.says(&format!("all speak {protocol}"));
    }
    logs::explain_all(&mut world);
}

#[test]
fn ours_among_jvm_brokers_of_3_9() {
    ours_among_jvm_brokers(NEWEST);
}

#[test]
fn the_protocol_is_raised_from_2_4_to_3_9_by_our_controller() {
    the_protocol_is_raised("raised-by-ours", [Kind::Jvm("2.8.2"), Kind::Odradek, Kind::Odradek], 1);
}

#[test]
#[ignore = "tests/run.sh mixed runs it: minutes, and most of it is shown by the newest and the oldest"]
fn the_protocol_is_raised_from_2_4_to_3_9_by_a_jvm_controller() {
    let jvm = Kind::Jvm("2.8.2");
    the_protocol_is_raised("raised-by-jvm", [jvm, jvm, Kind::Odradek], 0);
}

#[test]
#[ignore = "tests/run.sh mixed runs it: minutes, and most of it is shown by the newest and the oldest"]
fn a_jvm_broker_of_3_9_among_ours() {
    a_jvm_broker_among_ours(NEWEST);
}

#[test]
#[ignore = "tests/run.sh mixed runs it: minutes, and most of it is shown by the newest and the oldest"]
fn ours_among_jvm_brokers_of_3_6() {
    ours_among_jvm_brokers(MIDDLE);
}

#[test]
#[ignore = "tests/run.sh mixed runs it: minutes, and most of it is shown by the newest and the oldest"]
fn a_jvm_broker_of_3_6_among_ours() {
    a_jvm_broker_among_ours(MIDDLE);
}

#[test]
#[ignore = "tests/run.sh mixed runs it: minutes, and most of it is shown by the newest and the oldest"]
fn ours_among_jvm_brokers_of_2_8() {
    ours_among_jvm_brokers(OLDER);
}

#[test]
#[ignore = "tests/run.sh mixed runs it: minutes, and most of it is shown by the newest and the oldest"]
fn a_jvm_broker_of_2_8_among_ours() {
    a_jvm_broker_among_ours(OLDER);
}

#[test]
#[ignore = "tests/run.sh mixed runs it: controllers hear of an ISR in ZooKeeper only every five seconds"]
fn ours_among_jvm_brokers_in_the_protocol_of_2_4() {
    ours_among_jvm_brokers(OLDEST);
}

#[test]
#[ignore = "tests/run.sh mixed runs it: controllers hear of an ISR in ZooKeeper only every five seconds"]
fn a_jvm_broker_among_ours_in_the_protocol_of_2_4() {
    a_jvm_broker_among_ours(OLDEST);
}

/// What the other tests ask of a mixed cluster, asked of one that is not: the test is right, and so is what it says of the
/// lines that JVM brokers log. Those of 2.8.2 alone do not pass: a leader that asks for its ISR while the controller's session
/// ends is told UNKNOWN_SERVER_ERROR, and never asks again.
#[test]
#[ignore = "tests/run.sh mixed runs it: it is a test of the test"]
fn jvm_brokers_alone_pass_the_same() {
    every_role("jvm-alone-39", [Kind::Jvm("3.9.2"); 3], "3.9", (0, 2));
}
