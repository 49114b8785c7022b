//! What goes wrong, and how often.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use odradek_zookeeper::znode::delete_topic;
use rand::RngExt;
use rand::rngs::SmallRng;

use crate::model::{BrokerEpoch, BrokerId, Offset, TopicPartition};
use crate::replica::memory_log::{Fault, MemoryLog};
use crate::replica::partition_log::PartitionLog;
use crate::simulation::Planted;
use crate::simulation::clock::NOW_MS;
use crate::simulation::life::Life;
use crate::simulation::office::Candidate;
use crate::simulation::world::transactions::TransactionalProducers;
use crate::simulation::world::{Broker, World, dir_of};

/// How often what goes wrong. Each schedule has some of it, so that each accident meets the cluster in many states.
#[derive(Debug, Default)]
pub(super) struct Accidents {
    // Of packets.
    pub lost: f64,
    pub duplicated: f64,
    pub given_up: f64,
    /// Of those of transactions.
    pub coordination_given_up: f64,
    // Of steps.
    pub kills: f64,
    pub power_losses: f64,
    pub expiries: f64,
    pub partitions: f64,
    pub disk_faults: f64,
    /// Of requests to ZooKeeper.
    pub lost_replies: f64,
    /// Of times when somebody may ask for a move.
    pub moves: f64,
    // Of times when somebody may.
    pub leaves: f64,
    pub deletions: f64,
    // Of steps.
    pub coordinators_lost: f64,
    /// What has happened to a broker is noticed, and mended.
    pub notices: f64,
    pub starts: f64,
    pub heals: f64,
}

impl Accidents {
    pub fn drawn(rng: &mut SmallRng) -> Accidents {
        let mut rate = |usual: f64| if rng.random_bool(0.4) { 0.0 } else { usual * rng.random_range(0.2..2.0) };
        let given_up = rate(0.03);
        Accidents {
            lost: rate(0.05),
            duplicated: rate(0.05),
            given_up,
            coordination_given_up: given_up,
            kills: rate(0.01),
            // Nothing else happens for a while after one.
            power_losses: if rate(1.0) > 1.0 { 0.006 } else { 0.0 },
            expiries: rate(0.01),
            partitions: rate(0.01),
            disk_faults: rate(0.01),
            lost_replies: rate(0.1),
            moves: rate(0.4),
            leaves: rate(0.3),
            deletions: rate(0.3),
            coordinators_lost: 0.0,
            notices: 0.05,
            starts: 0.02,
            heals: 0.02,
        }
    }

    /// What the coordinators of transactions and their packets meet, and little else.
    pub fn of_coordinators(rng: &mut SmallRng) -> Accidents {
        let mut rate = |usual: f64| if rng.random_bool(0.3) { 0.0 } else { usual * rng.random_range(0.2..2.0) };
        Accidents {
            lost: rate(0.01),
            duplicated: rate(0.05),
            given_up: rate(0.02),
            coordination_given_up: rate(0.15),
            kills: rate(0.005),
            expiries: rate(0.01),
            lost_replies: rate(0.1),
            moves: rate(0.4),
            coordinators_lost: rate(0.02),
            notices: 0.3,
            starts: 0.2,
            heals: 0.1,
            ..Accidents::default()
        }
    }
}

impl World {
    pub(super) fn accident(&mut self) {
        let at = self.rng.random_range(0..self.brokers.len());
        // What is lost with a disk is no more than a replica outside the ISR lacks, once a controller knows: until then nothing
        // else happens, but that brokers are back and that their ends are noticed, in whichever order.
        if !self.lost.is_empty() {
            self.notice_losses();
            let is_back = self.rng.random_bool(0.2);
            let is_noticed = self.rng.random_bool(0.2);
            if let Some(at) = self.brokers.iter().position(|broker| is_back && broker.life.is_none()) {
                self.start(at);
            }
            let left = self.brokers.iter_mut().find(|broker| is_noticed && !broker.sessions_left.is_empty());
            if let Some(session) = left.map(|broker| broker.sessions_left.remove(0)) {
                self.zookeeper.end_session(session);
            }
            return;
        }
        let Accidents { kills, power_losses, expiries, partitions, disk_faults, .. } = self.accidents;
        let Accidents { mut coordinators_lost, notices, starts, heals, .. } = self.accidents;
        if coordinators_lost > 0.0 && self.is_coordinator_needed() {
            coordinators_lost *= 8.0;
        }
        let mut drawn = self.rng.random::<f64>();
        let mut is_drawn = |rate: f64| {
            drawn -= rate;
            (-rate..0.0).contains(&drawn)
        };
        if is_drawn(kills) {
            match self.brokers[at].life.is_some() {
                true => self.kill(at),
                false => self.start(at),
            }
        } else if is_drawn(power_losses) {
            let controls = |broker: &Broker| {
                let life = broker.life.as_ref();
                life.is_some_and(|life| life.candidate.is_in_office(&self.zookeeper))
            };
            let controller = self.brokers.iter().position(controls).filter(|controller| *controller != at);
            let killed = controller.filter(|_| self.rng.random_bool(0.3));
            if self.may_lose(at, killed) {
                if let Some(killed) = killed {
                    self.kill(killed);
                    for session in std::mem::take(&mut self.brokers[killed].sessions_left) {
                        self.zookeeper.end_session(session);
                    }
                }
                self.lose_power(at);
            }
        } else if is_drawn(notices) {
            // The end of a life is noticed sooner than an end of patience with one that goes on.
            if !self.brokers[at].sessions_left.is_empty() {
                let session = self.brokers[at].sessions_left.remove(0);
                self.zookeeper.end_session(session);
            }
        } else if is_drawn(starts) {
            if self.brokers[at].life.is_none() {
                self.start(at);
            }
        } else if is_drawn(expiries) {
            if let Some(session) = self.brokers[at].life.as_ref().and_then(|life| life.session) {
                self.note(|world| format!("the session of broker {} expires", world.brokers[at].id));
                self.zookeeper.end_session(session);
            }
        } else if is_drawn(partitions) {
            self.partition(at);
        } else if is_drawn(disk_faults) {
            self.break_disk(at);
        } else if is_drawn(heals) {
            self.heal();
        } else if is_drawn(coordinators_lost) {
            self.lose_coordinator();
        }
    }

    /// Whoever coordinates transactions has just begun to, or is asked to end one.
    fn is_coordinator_needed(&mut self) -> bool {
        let coordinates = |at: &usize| self.coordinates_transactions(*at);
        let coordinator = (0..self.brokers.len()).find(coordinates);
        let is_new = coordinator.is_some() && coordinator != self.coordinator;
        self.coordinator = coordinator.or(self.coordinator);
        is_new || self.producers.as_ref().is_some_and(TransactionalProducers::is_one_ending)
    }

    /// Whoever coordinates transactions dies, or is cut off.
    fn lose_coordinator(&mut self) {
        let coordinates = |at: &usize| self.coordinates_transactions(*at);
        let Some(at) = (0..self.brokers.len()).find(coordinates) else { return };
        let others = self.brokers.iter().filter(|broker| broker.life.is_some()).count() - 1;
        match self.rng.random_range(0..4) {
            0 => self.partition(at),
            _ if others < 2 => {}
            how => {
                self.kill(at);
                if how > 1 {
                    for session in std::mem::take(&mut self.brokers[at].sessions_left) {
                        self.zookeeper.end_session(session);
                    }
                }
            }
        }
    }

    pub(super) fn start(&mut self, at: usize) {
        self.lives += 1;
        let broker = &mut self.brokers[at];
        broker.life = Some(Life::new(broker.id, &self.clock, self.planted, self.unclean_elections));
        broker.life_number = self.lives;
        broker.dirs_failed.clear();
        self.note(|world| format!("broker {} starts", world.brokers[at].id));
    }

    /// The process ends at once; what it has written stays in the page cache.
    pub(super) fn kill(&mut self, at: usize) {
        self.end_life(at, |_| Offset(i64::MAX));
        self.note(|world| format!("broker {} is killed", world.brokers[at].id));
    }

    /// The process ends in order: all is written, and ZooKeeper is told.
    pub(super) fn stop(&mut self, at: usize) {
        for log in self.brokers[at].disk.values() {
            if log.flush_for_acknowledgement(NOW_MS).is_ok() {
                log.checkpoint_high_watermark();
            }
        }
        let session = self.brokers[at].life.as_ref().and_then(|life| life.session);
        self.end_life(at, |_| Offset(i64::MAX));
        if let Some(session) = session.filter(|_| self.brokers[at].reaches_zookeeper) {
            self.brokers[at].sessions_left.retain(|left| *left != session);
            self.zookeeper.end_session(session);
        }
        self.note(|world| format!("broker {} stops", world.brokers[at].id));
    }

    /// The machine stops, and what was not flushed may be gone.
    pub(super) fn lose_power(&mut self, at: usize) {
        let share = self.rng.random_range(0.0..1.0);
        let registered = self.brokers[at].life.as_ref().and_then(|life| life.registered);
        self.end_life(at, |log| {
            let (flushed, end) = (log.flushed().0, log.bounds().log_end_offset.0);
            Offset(flushed + ((end - flushed) as f64 * share) as i64)
        });
        self.lost.insert(self.brokers[at].id, registered);
        self.heal();
        for session in std::mem::take(&mut self.brokers[at].sessions_left) {
            self.zookeeper.end_session(session);
        }
        self.note(|world| format!("broker {} loses power", world.brokers[at].id));
    }

    pub(super) fn end_life(&mut self, at: usize, kept: impl Fn(&MemoryLog) -> Offset) {
        let Broker { disk, life, life_number, sessions_left, .. } = &mut self.brokers[at];
        let Some(mut life) = life.take() else { return };
        let was_controller = life.candidate.office.is_some();
        sessions_left.extend(life.session);
        let unanswered = life.candidate.give_up().chain(life.give_up_answers());
        self.network.packets.extend(unanswered.map(|packet| packet.lost()));
        for log in disk.values_mut() {
            *log = Arc::new(log.after_crash(kept(log)));
        }
        self.produced.retain(|produced| produced.life != *life_number);
        if was_controller {
            // It may have moved a partition, and not have said so to whoever had it.
            self.brokers.iter_mut().for_each(|broker| broker.may_have_strays = true);
        }
        self.committing = self.committing.take().filter(|committing| committing.broker != at);
        self.members.lost(at);
    }

    /// Whether a broker may lose what it had promised to keep, and another may be killed with it. Of each of its partitions
    /// somebody is left who is well, has all that is committed, and is in sync for whoever decides next: he has not registered
    /// since that was written, nobody asks for an ISR without him, and the controller, if there is one, knows all who are left
    /// and has nothing else to decide.
    pub(super) fn may_lose(&self, at: usize, killed: Option<usize>) -> bool {
        let id = self.brokers[at].id;
        let is_left = |(other, broker): (usize, &'_ Broker)| {
            let life =
                broker.life.as_ref().filter(|life| other != at && Some(other) != killed && !life.is_leaving())?;
            let is_open = life.session.is_some_and(|session| self.zookeeper.is_open(session));
            is_open.then_some((broker.id, life.registered?))
        };
        let left: BTreeMap<BrokerId, BrokerEpoch> = self.brokers.iter().enumerate().filter_map(is_left).collect();
        let knows_them = |life: &Life| {
            let known = life.candidate.office.as_ref().map(|office| &office.core.cluster().brokers);
            let knows = |(id, epoch): (&BrokerId, &BrokerEpoch)| {
                known.and_then(|known| known.get(id)).is_some_and(|known| known.epoch == *epoch)
            };
            life.candidate.has_decided() && left.iter().all(knows)
        };
        let mut controllers = self
            .brokers
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != at && Some(*other) != killed)
            .filter_map(|(_, broker)| broker.life.as_ref())
            .filter(|life| life.candidate.is_in_office(&self.zookeeper));
        let is_elsewhere = |name: &TopicPartition| {
            let Some((state, stat)) = self.zookeeper.partition_state_read(&name.topic, name.partition) else {
                return true;
            };
            let is_trusted = |member: &i32| left.get(&BrokerId(*member)).is_some_and(|epoch| epoch.0 < stat.mzxid);
            let is_in = |isr: &[i32]| !isr.contains(&id.0) || isr.iter().any(is_trusted);
            let asked =
                self.network.packets.iter().chain(&self.network.late).flat_map(|packet| packet.isrs_asked(name));
            is_in(&state.isr) && asked.into_iter().all(|isr| is_in(&isr))
        };
        controllers.all(knows_them) && self.names.iter().all(is_elsewhere)
    }

    pub(super) fn notice_losses(&mut self) {
        let World { lost, zookeeper, names, brokers, .. } = self;
        lost.retain(|id, registered| {
            // Of a topic that is to be deleted nothing is decided any more.
            let is_marked = |name: &TopicPartition| zookeeper.get(&delete_topic::path(&name.topic)).is_some();
            let is_in_sync = names.iter().filter(|name| !is_marked(name)).any(|name| {
                let state = zookeeper.partition_state(&name.topic, name.partition);
                state.is_some_and(|state| state.value.isr.contains(&id.0))
            });
            // Whoever takes it for what it was may let it in yet.
            let takes_it_for_well = |candidate: &Candidate| {
                let known = candidate.office.as_ref().and_then(|office| office.core.cluster().brokers.get(id));
                candidate.is_in_office(zookeeper) && known.is_some_and(|known| Some(known.epoch) == *registered)
            };
            let mut candidates = brokers.iter().filter_map(|broker| broker.life.as_ref()).map(|life| &life.candidate);
            is_in_sync || candidates.any(takes_it_for_well)
        });
    }

    /// The next write to one of its logs fails.
    pub(super) fn break_disk(&mut self, at: usize) {
        let fault = match (self.planted, self.rng.random_range(0..3)) {
            (Planted::FailuresIgnored, _) => Fault::Silent,
            (_, 0) => Fault::DiskBroken,
            _ => Fault::DiskFull,
        };
        let name = &self.names[self.rng.random_range(0..self.names.len())];
        if let Some(log) = self.brokers[at].disk.get(name) {
            log.fail_next(Some(fault));
        }
    }

    /// What is in one directory with a log that has failed is not served any more.
    pub(super) fn lose_dirs(&mut self, at: usize) {
        let World { brokers, names, checks, .. } = self;
        let Broker { disk, life, dirs_failed, may_have_strays, .. } = &mut brokers[at];
        let offline = names.iter().filter(|name| disk.get(name).is_some_and(|log| log.is_offline()));
        let dirs: BTreeSet<usize> = offline.map(|name| dir_of(name, names)).collect();
        for dir in dirs.into_iter().filter(|dir| !dirs_failed.contains(dir)).collect::<Vec<_>>() {
            dirs_failed.insert(dir);
            *may_have_strays = true;
            checks.dirs_failed += 1;
            let in_dir: Vec<TopicPartition> = names.iter().filter(|name| dir_of(name, names) == dir).cloned().collect();
            in_dir.iter().filter_map(|name| disk.get(name)).for_each(|log| log.go_offline());
            life.iter_mut().for_each(|life| life.dir_failed(&in_dir));
        }
    }

    pub(super) fn partition(&mut self, at: usize) {
        let id = self.brokers[at].id;
        match self.rng.random_range(0..4) {
            0 => self.brokers[at].reaches_zookeeper = false,
            how => {
                let others: Vec<BrokerId> = self.brokers.iter().map(|broker| broker.id).collect();
                self.network.cut_off(id, others.into_iter(), how == 2, how == 3);
            }
        }
        self.note(|world| format!("broker {id} is cut off: {:?}", world.network.cut));
    }

    pub(super) fn heal(&mut self) {
        self.network.cut.clear();
        self.brokers.iter_mut().for_each(|broker| broker.reaches_zookeeper = true);
    }
}
