//! What may happen to a cluster.

use std::time::Duration;

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};
use rustix::process::Signal;

use crate::cluster::{BROKERS, Cluster, Coordinated, ORDERS, ZOOKEEPERS};
use crate::network::{Cut, Node};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Of any partition.
    Leader,
    Follower,
    Controller,
    /// Of a group.
    Coordinator,
    TransactionCoordinator,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// kill -9.
    Kill(Whom),
    KillAll,
    /// SIGSTOP for longer than the session with ZooKeeper.
    Pause(Whom),
    /// One broker after the other stops in order and starts again. Nothing else happens meanwhile.
    RollingBounce,
    /// From one other broker, from all of them, from ZooKeeper for longer than the session, from all of these.
    CutFromPeer(Whom),
    CutFromPeers(Whom),
    CutFromZooKeeper(Whom),
    CutFromAll(Whom),
    /// Its session with ZooKeeper ends while it is connected.
    ExpireSession(Whom),
    /// So many servers of the ensemble.
    KillZooKeeper(usize),
    PauseZooKeeper(usize),
}

pub const FAULTS: [Fault; 22] = [
    Fault::Kill(Whom::Leader),
    Fault::Kill(Whom::Follower),
    Fault::Kill(Whom::Controller),
    Fault::Kill(Whom::Coordinator),
    Fault::Kill(Whom::TransactionCoordinator),
    Fault::KillAll,
    Fault::Pause(Whom::Leader),
    Fault::Pause(Whom::Controller),
    Fault::Pause(Whom::Coordinator),
    Fault::Pause(Whom::TransactionCoordinator),
    Fault::RollingBounce,
    Fault::CutFromPeer(Whom::Leader),
    Fault::CutFromPeer(Whom::Controller),
    Fault::CutFromPeers(Whom::Leader),
    Fault::CutFromZooKeeper(Whom::Leader),
    Fault::CutFromZooKeeper(Whom::Controller),
    Fault::CutFromAll(Whom::Controller),
    Fault::ExpireSession(Whom::Controller),
    Fault::KillZooKeeper(1),
    Fault::KillZooKeeper(2),
    Fault::KillZooKeeper(3),
    Fault::PauseZooKeeper(3),
];

/// A fault with all that chance decides of it.
#[derive(Clone, Debug)]
pub struct Aimed {
    pub fault: Fault,
    pub broker: usize,
    peer: usize,
    how: Cut,
    zookeepers: Vec<usize>,
    pub hold: Duration,
}

impl Fault {
    /// Says whom it will hit; the cluster must be whole.
    pub fn aim(self, cluster: &Cluster, rng: &mut impl Rng) -> Aimed {
        let whom = match self {
            Fault::Kill(whom)
            | Fault::Pause(whom)
            | Fault::CutFromPeer(whom)
            | Fault::CutFromPeers(whom)
            | Fault::CutFromZooKeeper(whom)
            | Fault::CutFromAll(whom)
            | Fault::ExpireSession(whom) => whom,
            Fault::KillAll | Fault::RollingBounce | Fault::KillZooKeeper(_) | Fault::PauseZooKeeper(_) => Whom::Leader,
        };
        let broker = broker(whom, cluster, rng);
        let (Fault::KillZooKeeper(count) | Fault::PauseZooKeeper(count)) = self else {
            return self.aimed(broker, Vec::new(), rng);
        };
        self.aimed(broker, rand::seq::index::sample(rng, ZOOKEEPERS, count).into_vec(), rng)
    }

    fn aimed(self, broker: usize, zookeepers: Vec<usize>, rng: &mut impl Rng) -> Aimed {
        let peer = (broker + rng.random_range(1..BROKERS)) % BROKERS;
        let how = if rng.random() { Cut::Silent } else { Cut::Broken };
        // Those that die may be back before anybody has missed them.
        let millis = match self {
            Fault::Kill(_) | Fault::KillAll | Fault::KillZooKeeper(_) | Fault::ExpireSession(_) => 0..5000,
            _ => 3500..5500,
        };
        Aimed { fault: self, broker, peer, how, zookeepers, hold: Duration::from_millis(rng.random_range(millis)) }
    }
}

fn broker(whom: Whom, cluster: &Cluster, rng: &mut impl Rng) -> usize {
    let partitions = cluster.partitions();
    let orders: Vec<_> = partitions.into_iter().filter(|((topic, _), _)| &**topic == ORDERS).collect();
    let leader = orders.choose(rng).expect("it has partitions").1.leader_id as usize;
    match whom {
        Whom::Leader => leader,
        Whom::Follower => (leader + rng.random_range(1..BROKERS)) % BROKERS,
        Whom::Controller => cluster.controller(),
        Whom::Coordinator => {
            let groups: Vec<&str> = cluster.cast().all_groups().collect();
            cluster.coordinator(Coordinated::Group, groups.choose(rng).expect("there are some"))
        }
        Whom::TransactionCoordinator => {
            let ids: Vec<&str> = cluster.cast().transactional_ids().collect();
            cluster.coordinator(Coordinated::Transactions, ids.choose(rng).expect("there are some"))
        }
    }
}

impl Aimed {
    /// A session can only end while there is an ensemble.
    pub fn comes_first(&self) -> bool {
        matches!(self.fault, Fault::ExpireSession(_))
    }

    pub fn inject(&self, cluster: &mut Cluster) {
        let network = &cluster.network;
        let (broker, all) = (Node::Broker(self.broker), (0..BROKERS).filter(|id| *id != self.broker));
        match self.fault {
            Fault::Kill(_) => kill(cluster, self.broker),
            Fault::KillAll => (0..BROKERS).for_each(|id| kill(cluster, id)),
            Fault::Pause(_) => cluster.brokers[self.broker].process.iter().for_each(|it| it.signal(Signal::STOP)),
            Fault::RollingBounce => bounce(cluster),
            Fault::CutFromPeer(_) => network.cut(broker, Node::Broker(self.peer), self.how),
            Fault::CutFromPeers(_) => all.for_each(|peer| network.cut(broker, Node::Broker(peer), self.how)),
            Fault::CutFromZooKeeper(_) => network.cut(broker, Node::ZooKeeper, self.how),
            Fault::CutFromAll(_) => {
                let others = all.map(Node::Broker).chain([Node::ZooKeeper]);
                others.for_each(|other| network.cut(broker, other, self.how));
            }
            Fault::ExpireSession(_) => {
                network.expire_session(self.broker, cluster.zookeepers[self.peer].port);
            }
            Fault::KillZooKeeper(_) => self.zookeepers.iter().for_each(|id| cluster.zookeepers[*id].process.kill()),
            Fault::PauseZooKeeper(_) => {
                for &id in &self.zookeepers {
                    let process = &mut cluster.zookeepers[id].process;
                    if process.has_ended().is_none() {
                        process.signal(Signal::STOP);
                    }
                }
            }
        }
    }
}

fn kill(cluster: &mut Cluster, broker: usize) {
    cluster.brokers[broker].process.take().iter_mut().for_each(|process| process.kill());
}

fn bounce(cluster: &mut Cluster) {
    for id in 0..BROKERS {
        cluster.stop(id);
        cluster.start_brokers();
        cluster.until_whole();
    }
}
