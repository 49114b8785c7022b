//! What happens to the cluster: each step is an operator's or a fault's, and leaves a cluster that is whole.

use std::collections::BTreeSet;
use std::fs;

use odradek::record::compression::Codec;

use crate::clients::Clients;
use crate::logs::Event;
use crate::support::{PATIENCE, eventually};
use crate::world::{World, name, partitions};

fn numbered(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{name} {i}")).collect()
}

/// A topic is created, altered, grown and deleted, and all brokers hear of it, whoever is the controller.
pub fn a_topic_comes_and_goes(world: &mut World, topic: &str) {
    world.happens(Event::TopicsChange);
    let with = |more: &[&'static str]| -> Vec<String> {
        [&["--topic", topic][..], more].concat().iter().map(|word| (*word).to_owned()).collect()
    };
    let topics = |world: &World, more: &[&'static str]| {
        let arguments = with(more);
        world.script("kafka-topics.sh", &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let create = ["--create", "--partitions", "3", "--replication-factor", "2", "--config", "retention.ms=-1"];
    topics(world, &create);
    world.until_whole();
    topics(world, &["--alter", "--partitions", "5"]);
    world.until_whole();
    for partition in 0..5 {
        world.expected.insert((topic.to_owned(), partition), Vec::new());
        world.produces(topic, partition, Codec::Gzip, &numbered("line", 3));
    }
    let settings = ["--entity-type", "topics", "--entity-name", topic];
    let alter = ["--alter", "--add-config", "retention.ms=123456,max.message.bytes=4096"];
    world.script("kafka-configs.sh", &[&settings[..], &alter].concat());
    for id in world.ids() {
        // Each broker acts on it by itself.
        let refused = |partition: i32| {
            let found = partitions(world.metadata(id).ok()?).remove(&(topic.to_owned(), partition))?;
            let batch = crate::world::records(Codec::None, &["x".repeat(5000)]);
            (found.leader_id == id).then(|| world.cluster.client(id).produce(topic, partition, batch))
        };
        let Some(led) = (0..5).find(|partition| refused(*partition).is_some()) else { continue };
        const MESSAGE_TOO_LARGE: i16 = 10;
        eventually(PATIENCE, &format!("broker {id} heeds the changed setting"), || {
            match refused(led).expect("it leads it").map_err(|error| error.to_string())? {
                Err(MESSAGE_TOO_LARGE) => Ok(()),
                // One that did not know yet.
                Ok(_) => Err("it took a large one".to_owned()),
                Err(code) => Err(format!("error {code}")),
            }
        });
    }
    topics(world, &["--delete"]);
    (0..5).for_each(|partition| drop(world.expected.remove(&(topic.to_owned(), partition))));
    for id in world.ids() {
        eventually(PATIENCE, &format!("broker {id} has forgotten {topic}"), || {
            let known = partitions(world.metadata(id)?).into_keys().any(|(name, _)| name == topic);
            let left: Vec<i32> = (0..5).filter(|partition| world.directory(id, topic, *partition).exists()).collect();
            if known || !left.is_empty() { Err(format!("known: {known}, directories: {left:?}")) } else { Ok(()) }
        });
    }
    let path = format!("/brokers/topics/{topic}");
    eventually(PATIENCE, &format!("{path} is gone"), || world.zk.get(&path).map_or(Ok(()), Err));
}

/// A partition moves around all brokers, while it is produced to.
pub fn replicas_move(world: &mut World, topic: &str) {
    world.creates(topic, &[&[0, 1]], &[]);
    let file = world.cluster.scratch.path("move.json");
    world.happens(Event::ReplicasMove);
    for to in [[1, 2], [2, 0], [0, 1]] {
        world.produces(topic, 0, Codec::Lz4, &numbered(&format!("before {to:?}"), 3));
        let json = format!(r#"{{"version":1,"partitions":[{{"topic":"{topic}","partition":0,"replicas":{to:?}}}]}}"#);
        fs::write(&file, json).expect("the scratch directory can be written");
        let file = file.display().to_string();
        world.script("kafka-reassign-partitions.sh", &["--reassignment-json-file", &file, "--execute"]);
        world.cluster.until_partition(topic, 0, &format!("it is on {to:?}"), |found| {
            found.replica_nodes == to && found.isr_nodes.len() == 2
        });
        let gone = 3 - to[0] - to[1];
        let directory = world.directory(gone, topic, 0);
        eventually(PATIENCE, &format!("broker {gone} has let go of it"), || match directory.exists() {
            true => Err(format!("{} is there", directory.display())),
            false => Ok(()),
        });
        let verified = world.script("kafka-reassign-partitions.sh", &["--reassignment-json-file", &file, "--verify"]);
        assert!(verified.contains("is completed"), "{verified}");
    }
    world.reads_all();
    world.until_same_bytes();
}

/// The logs of two replicas part: what only `loser` took, once `winner` was gone, is undone by what `winner` takes once
/// `loser` is gone. Neither was promised to anybody for as long as one replica lives.
///
/// `setting` says whether the controller may elect the winner by itself, or has to be asked.
pub fn logs_part(world: &mut World, loser: i32, winner: i32, setting: &str) {
    let topic = format!("parted-{loser}-{winner}");
    let (name_of_setting, allowed) = setting.split_once('=').expect("a setting");
    world.creates(&topic, &[&[loser, winner]], &[(name_of_setting, allowed)]);
    world.office_moves_to(3 - loser - winner);
    world.produces(&topic, 0, Codec::None, &numbered("of both", 3));
    let both = world.expected[&(topic.clone(), 0)].clone();
    world.until_same_bytes();

    world.is_killed(winner);
    world.cluster.until_partition(&topic, 0, "only one is in sync", |found| found.isr_nodes == [loser]);
    world.produces(&topic, 0, Codec::Gzip, &numbered("lost", 4));
    world.produces(&topic, 0, Codec::None, &numbered("lost too", 5));
    world.happens(Event::LogsPart);
    world.is_killed(loser);

    world.starts(winner);
    if allowed == "false" {
        let asked = ["--election-type", "unclean", "--topic", &topic, "--partition", "0"];
        world.script("kafka-leader-election.sh", &asked);
    }
    world.until_leader(&topic, 0, winner);
    world.expected.insert((topic.clone(), 0), both);
    world.produces(&topic, 0, Codec::Zstd, &numbered("won", 2));
    world.starts(loser);
    world.until_whole();
    world.produces(&topic, 0, Codec::None, &numbered("of both again", 2));
    world.reads_all();
    world.until_same_bytes();
    world.says(&format!(
        "broker {loser} ({}) has truncated to {winner} ({})",
        name(world.kinds[loser as usize]),
        name(world.kinds[winner as usize])
    ));
}

/// A broker of one kind goes on with the files of the other.
pub fn brokers_change_places(world: &mut World, clients: &mut Clients, one: i32, other: i32) {
    let kinds = world.kinds.clone();
    for (id, becomes) in [(one, other), (other, one)] {
        world.stops(id);
        world.kinds[id as usize] = kinds[becomes as usize];
        world.starts(id);
        clients.go_on(world);
    }
    world.elects_preferred();
    clients.go_on(world);
}

/// Since the protocol of 2.8 the controller gives every topic an id.
pub fn topics_have_ids(world: &mut World) {
    let topics: BTreeSet<String> = world.until_whole().into_keys().map(|(topic, _)| topic).collect();
    for topic in topics {
        eventually(PATIENCE, &format!("{topic} has an id"), || world.topic_id(&topic).ok_or("none".to_owned()));
    }
}

/// What the controller keeps in `/feature`: which form of it, and whether features are on.
pub fn feature_says(world: &World, version: i32, status: i32) {
    let json = world.zk.get("/feature").expect("it has been written");
    let said: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!(said, serde_json::json!({"version": version, "status": status, "features": {}}));
}
