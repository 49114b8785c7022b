//! What operators ask of a cluster while something happens to it. It is asked before, and done once the cluster is whole.

use std::collections::BTreeMap;
use std::io::{self, Read};

use odradek::protocol::messages::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use odradek::protocol::messages::create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic};
use odradek::protocol::messages::delete_topics::DeleteTopicsRequest;
use odradek::protocol::messages::elect_leaders::ElectLeadersRequest;
use odradek::protocol::messages::list_partition_reassignments::ListPartitionReassignmentsRequest;
use odradek::record::compression::Codec;
use rand::{Rng, RngExt};

use crate::cluster::{BROKERS, Cluster, MOVED};
use crate::support::client::{Client, batch};
use crate::support::{PATIENCE, eventually};

/// A topic grows no further.
const PARTITIONS_MAX: usize = 6;
const TIMEOUT_MS: i32 = 10_000;
const TOPIC_ALREADY_EXISTS: i16 = 36;

#[derive(Debug)]
pub enum Chore {
    /// The replicas that each partition is to have.
    Reassign(BTreeMap<i32, Vec<i32>>),
    /// To so many partitions.
    Grow(usize),
    /// A topic that was made for it.
    Delete(String),
    /// Leaders go where they are preferred.
    Elect,
}

impl Chore {
    /// Something that there is to do in a cluster that is whole.
    pub fn choose(cluster: &Cluster, rng: &mut impl Rng) -> Chore {
        let partitions = cluster.partitions().keys().filter(|(topic, _)| &**topic == MOVED).count();
        match rng.random_range(0..4) {
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
            _ => {
                let mut two = || rand::seq::index::sample(rng, BROKERS, 2).iter().map(|id| id as i32).collect();
                Chore::Reassign((0..partitions as i32).map(|partition| (partition, two())).collect())
            }
        }
    }

    /// Sends the request to the controller; who asks waits for the answer as long as the client is there.
    pub fn ask(&self, cluster: &Cluster) -> io::Result<Client> {
        let mut controller = Client::connect(cluster.brokers[cluster.controller()].port)?;
        match self {
            Chore::Reassign(replicas) => {
                let partition = |(partition_index, replicas): (&i32, &Vec<i32>)| ReassignablePartition {
                    partition_index: *partition_index,
                    replicas: Some(replicas.clone()),
                };
                let partitions = replicas.iter().map(partition).collect();
                let topics = vec![ReassignableTopic { name: MOVED.to_owned(), partitions }];
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
        let partitions = cluster.partitions();
        let done = match self {
            Chore::Reassign(replicas) => {
                let all = ListPartitionReassignmentsRequest { timeout_ms: TIMEOUT_MS, topics: None };
                let controller = Client::connect(cluster.brokers[cluster.controller()].port);
                let moving = controller.and_then(|mut controller| controller.call(&all, 0));
                let moving = moving.map_err(|error| error.to_string())?;
                let is_there = |(partition, replicas): (&i32, &Vec<i32>)| {
                    partitions.get(&(MOVED.into(), *partition)).is_some_and(|found| found.replica_nodes == *replicas)
                };
                moving.error_code == 0 && moving.topics.is_empty() && replicas.iter().all(is_there)
            }
            Chore::Grow(count) => partitions.contains_key(&(MOVED.into(), *count as i32 - 1)),
            Chore::Delete(topic) => partitions.keys().all(|(name, _)| **name != **topic),
            Chore::Elect => partitions.values().all(|found| found.replica_nodes.first() == Some(&found.leader_id)),
        };
        if done { Ok(()) } else { Err(format!("{partitions:?}")) }
    }
}
