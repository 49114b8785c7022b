//! What operators ask of a cluster while something happens to it. It is asked before, and done once the cluster is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use odradek::model::transaction_version::TRANSACTION_VERSION;
use odradek::protocol::messages::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use odradek::protocol::messages::alter_replica_log_dirs::{
    AlterReplicaLogDir, AlterReplicaLogDirTopic, AlterReplicaLogDirsRequest,
};
use odradek::protocol::messages::create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic};
use odradek::protocol::messages::delete_topics::DeleteTopicsRequest;
use odradek::protocol::messages::describe_log_dirs::{DescribeLogDirsRequest, DescribeLogDirsResponse};
use odradek::protocol::messages::elect_leaders::ElectLeadersRequest;
use odradek::protocol::messages::list_partition_reassignments::ListPartitionReassignmentsRequest;
use odradek::protocol::messages::update_features::{FeatureUpdateKey, UpdateFeaturesRequest};
use odradek::record::compression::Codec;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

use crate::cluster::{BROKERS, Cluster, MOVED, Partition};
use crate::support::client::{Client, batch};
use crate::support::{PATIENCE, eventually};

/// A topic grows no further.
const PARTITIONS_MAX: usize = 6;
const TIMEOUT_MS: i32 = 10_000;
const TOPIC_ALREADY_EXISTS: i16 = 36;
const UPGRADE: i8 = 1;
const SAFE_DOWNGRADE: i8 = 2;
/// What the coordinators of transactions and of groups know.
pub const INTERNAL: [&str; 2] = ["__transaction_state", "__consumer_offsets"];
/// So many logs move to the other directory of their broker at once.
const LOGS_MAX: usize = 4;

#[derive(Debug)]
pub enum Chore {
    /// The replicas that each partition of a topic is to have.
    Reassign(&'static str, BTreeMap<i32, Vec<i32>>),
    /// In which of a broker's directories logs are to be.
    MoveLogs(usize, BTreeMap<Partition, usize>),
    /// To so many partitions.
    Grow(usize),
    /// A topic that was made for it.
    Delete(String),
    /// Leaders go where they are preferred.
    Elect,
    /// Version 2 of the transaction protocol is finalized, or taken back, which is 0.
    FollowTransactionVersion(i16),
}

impl Chore {
    /// Something that there is to do in a cluster that is whole.
    pub fn choose(cluster: &Cluster, rng: &mut impl Rng) -> Chore {
        let partitions = replicas(cluster, MOVED).len();
        match rng.random_range(0..7) {
            0 if partitions < PARTITIONS_MAX => Chore::Grow(partitions + 1),
            1 => {
                let name = format!("doomed-{}", rng.random::<u32>());
                let mut client = cluster.brokers[cluster.controller()].client();
                // The controller may have lost its session a moment ago.
                eventually(PATIENCE, &format!("{name} is made"), || {
                    match client.try_create_replicated_topic(&name, 3, 3, &[]).map_err(|error| error.to_string())? {
                        0 | TOPIC_ALREADY_EXISTS => Ok(()),
                        code => {
                            client = cluster.brokers[cluster.controller()].client();
                            Err(format!("error {code}"))
                        }
                    }
                });
                client.until_led(&name, 3);
                eventually(PATIENCE, &format!("{name} has something to lose"), || {
                    let metadata = client.metadata(&[&name]).map_err(|error| error.to_string())?;
                    let leader = metadata.topics[0].partitions[0].leader_id as usize;
                    let sent = cluster.brokers[leader].client().produce(&name, 0, batch(Codec::None, ["gone".into()]));
                    sent.map_err(|error| error.to_string())?.map_err(|code| format!("error {code}"))
                });
                Chore::Delete(name)
            }
            2 => Chore::Elect,
            3 => Chore::move_logs(cluster, rng),
            // A JVM broker knows no version 2.
            5 if cluster.is_ours_alone() => {
                let now = eventually(PATIENCE, "a broker tells which version of transactions is followed", || {
                    cluster.transaction_version(0).map_err(|error| error.to_string())
                });
                Chore::FollowTransactionVersion(2 - now)
            }
            4 => Chore::move_internal(INTERNAL.choose(rng).copied().expect("there are two"), cluster, rng),
            _ => {
                let mut two = || sample(rng, 2..=2);
                Chore::Reassign(MOVED, (0..partitions as i32).map(|partition| (partition, two())).collect())
            }
        }
    }

    /// Each partition of an internal topic goes to other brokers, most of all that there are.
    pub fn move_internal(topic: &'static str, cluster: &Cluster, rng: &mut impl Rng) -> Chore {
        let sorted = |replicas: &[i32]| BTreeSet::from_iter(replicas.iter().copied());
        let mut others = |(partition, now): (i32, Vec<i32>)| loop {
            let most = sample(rng, BROKERS - 1..=BROKERS);
            if sorted(&most) != sorted(&now) {
                break (partition, most);
            }
        };
        Chore::Reassign(topic, replicas(cluster, topic).into_iter().map(&mut others).collect())
    }

    /// A topic is on all brokers, of which this one is to lead it.
    pub fn prefer(topic: &'static str, broker: usize, cluster: &Cluster) -> Chore {
        let all: Vec<i32> = (broker..broker + BROKERS).map(|id| (id % BROKERS) as i32).collect();
        Chore::Reassign(topic, replicas(cluster, topic).into_keys().map(|partition| (partition, all.clone())).collect())
    }

    /// Some of the logs of a broker change their directory.
    fn move_logs(cluster: &Cluster, rng: &mut impl Rng) -> Chore {
        let broker = rng.random_range(0..BROKERS);
        let logs = eventually(PATIENCE, &format!("broker {broker} tells where its logs are"), || logs(cluster, broker));
        let logs: Vec<(Partition, Vec<usize>)> = logs.into_iter().collect();
        let other = |(partition, dirs): &(Partition, Vec<usize>)| (partition.clone(), usize::from(dirs == &[0]));
        Chore::MoveLogs(broker, logs.sample(rng, LOGS_MAX).map(other).collect())
    }

    /// Sends the request to whom it concerns; who asks waits for the answer as long as the client is there.
    pub fn ask(&self, cluster: &Cluster) -> io::Result<Client> {
        if let Chore::MoveLogs(broker, moves) = self {
            let dirs = cluster.dirs(*broker);
            let mut broker = Client::connect(cluster.brokers[*broker].port)?;
            let dir = |((topic, partition), dir): (&Partition, &usize)| AlterReplicaLogDir {
                path: dirs[*dir].display().to_string(),
                topics: vec![AlterReplicaLogDirTopic { name: topic.to_string(), partitions: vec![*partition] }],
            };
            broker.send(&AlterReplicaLogDirsRequest { dirs: moves.iter().map(dir).collect() }, 1)?;
            return Ok(broker);
        }
        let mut controller = Client::connect(cluster.brokers[cluster.controller()].port)?;
        match self {
            Chore::MoveLogs(..) => unreachable!("the broker was asked"),
            Chore::Reassign(topic, replicas) => {
                let partition = |(partition_index, replicas): (&i32, &Vec<i32>)| ReassignablePartition {
                    partition_index: *partition_index,
                    replicas: Some(replicas.clone()),
                };
                let partitions = replicas.iter().map(partition).collect();
                let topics = vec![ReassignableTopic { name: (*topic).to_owned(), partitions }];
                controller.send(&AlterPartitionReassignmentsRequest { timeout_ms: TIMEOUT_MS, topics }, 0)?;
            }
            Chore::Grow(count) => {
                let topic = CreatePartitionsTopic { name: MOVED.to_owned(), count: *count as i32, assignments: None };
                let topics = vec![topic];
                let request = CreatePartitionsRequest { topics, timeout_ms: TIMEOUT_MS, validate_only: false };
                controller.send(&request, 1)?;
            }
            Chore::Delete(topic) => {
                let topic_names = vec![topic.clone()];
                let request = DeleteTopicsRequest { topic_names, timeout_ms: TIMEOUT_MS, ..Default::default() };
                controller.send(&request, 5)?;
            }
            Chore::FollowTransactionVersion(level) => {
                let update = FeatureUpdateKey {
                    feature: TRANSACTION_VERSION.to_owned(),
                    max_version_level: *level,
                    upgrade_type: if *level > 0 { UPGRADE } else { SAFE_DOWNGRADE },
                    ..Default::default()
                };
                let feature_updates = vec![update];
                let request = UpdateFeaturesRequest { timeout_ms: TIMEOUT_MS, feature_updates, ..Default::default() };
                controller.send(&request, 1)?;
            }
            Chore::Elect => {
                controller.send(&ElectLeadersRequest { timeout_ms: TIMEOUT_MS, ..Default::default() }, 1)?;
            }
        }
        Ok(controller)
    }

    /// Asks again, as operators do whose controller has died, until it is done. To ask twice does no harm.
    pub fn until_done(&self, cluster: &Cluster) {
        eventually(2 * PATIENCE, &format!("{self:?} is done"), || {
            let Err(seen) = self.is_done(cluster) else { return Ok(()) };
            let answered = self.ask(cluster).and_then(|mut asked| {
                let mut length = [0; 4];
                asked.stream.read_exact(&mut length)?;
                asked.stream.read_exact(&mut vec![0; u32::from_be_bytes(length) as usize])
            });
            answered.map_err(|error| error.to_string())?;
            self.is_done(cluster).map_err(|_| seen)
        });
    }

    fn is_done(&self, cluster: &Cluster) -> Result<(), String> {
        if let Chore::FollowTransactionVersion(level) = self {
            let told: Result<Vec<i16>, _> = (0..BROKERS).map(|id| cluster.transaction_version(id)).collect();
            let told = told.map_err(|error| error.to_string())?;
            return if told == [*level; BROKERS] { Ok(()) } else { Err(format!("{told:?}")) };
        }
        let partitions = cluster.partitions();
        let done = match self {
            Chore::MoveLogs(broker, moves) => {
                let logs = logs(cluster, *broker)?;
                let is_there =
                    |(partition, dir): (&Partition, &usize)| logs.get(partition).is_some_and(|dirs| dirs == &[*dir]);
                return if moves.iter().all(is_there) { Ok(()) } else { Err(format!("{logs:?}")) };
            }
            Chore::Reassign(topic, replicas) => {
                let all = ListPartitionReassignmentsRequest { timeout_ms: TIMEOUT_MS, topics: None };
                let controller = Client::connect(cluster.brokers[cluster.controller()].port);
                let moving = controller.and_then(|mut controller| controller.call(&all, 0));
                let moving = moving.map_err(|error| error.to_string())?;
                let is_there = |(partition, replicas): (&i32, &Vec<i32>)| {
                    partitions.get(&((*topic).into(), *partition)).is_some_and(|found| found.replica_nodes == *replicas)
                };
                moving.error_code == 0 && moving.topics.is_empty() && replicas.iter().all(is_there)
            }
            Chore::Grow(count) => partitions.contains_key(&(MOVED.into(), *count as i32 - 1)),
            Chore::Delete(topic) => partitions.keys().all(|(name, _)| **name != **topic),
            Chore::Elect => partitions.values().all(|found| found.replica_nodes.first() == Some(&found.leader_id)),
            Chore::FollowTransactionVersion(_) => unreachable!("each broker was asked"),
        };
        if done { Ok(()) } else { Err(format!("{partitions:?}")) }
    }
}

/// Where each partition of a topic is.
fn replicas(cluster: &Cluster, topic: &str) -> BTreeMap<i32, Vec<i32>> {
    let all = cluster.partitions().into_iter().filter(|((name, _), _)| **name == *topic);
    all.map(|((_, partition), found)| (partition, found.replica_nodes)).collect()
}

/// So many brokers, in any order.
fn sample(rng: &mut impl Rng, count: std::ops::RangeInclusive<usize>) -> Vec<i32> {
    let count = rng.random_range(count);
    rand::seq::index::sample(rng, BROKERS, count).iter().map(|id| id as i32).collect()
}

/// In which of a broker's directories it has the log of each partition: in two while that moves.
fn logs(cluster: &Cluster, broker: usize) -> Result<BTreeMap<Partition, Vec<usize>>, String> {
    let client = Client::connect(cluster.brokers[broker].port);
    let told = client.and_then(|mut client| client.call(&DescribeLogDirsRequest { topics: None }, 1));
    let DescribeLogDirsResponse { results, .. } = told.map_err(|error| error.to_string())?;
    let mut logs: BTreeMap<Partition, Vec<usize>> = BTreeMap::new();
    for (number, dir) in cluster.dirs(broker).iter().enumerate() {
        let told = results.iter().find(|told| *told.log_dir == *dir.as_os_str());
        let told = told.filter(|told| told.error_code == 0).ok_or_else(|| format!("{dir:?}: {told:?}"))?;
        for topic in &told.topics {
            for one in &topic.partitions {
                logs.entry((topic.name.as_str().into(), one.partition_index)).or_default().push(number);
            }
        }
    }
    Ok(logs)
}
