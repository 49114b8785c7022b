//! The end of all accidents, after which a cluster must be whole and serve.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use odradek_zookeeper::znode;
use odradek_zookeeper::znode::topic::{PartitionAssignment, Topic};

use crate::model::TopicPartition;
use crate::replica::memory_log::MemoryLog;
use crate::replica::partition_log::PartitionLog;
use crate::simulation::Theme;
use crate::simulation::checks::Checked;
use crate::simulation::life::Life;
use crate::simulation::world::accidents::Accidents;
use crate::simulation::world::{Broker, PRODUCED, ROUNDS_TO_REST_MAX, World};

impl World {
    /// Nothing happens any more: every broker comes back, and every replica into every ISR, with the same records. Then
    /// a new record of each partition is committed, and a new offset of the group.
    pub(in crate::simulation) fn come_to_rest(&mut self) -> Checked {
        self.note(|_| "all accidents are over".to_owned());
        self.accidents = Accidents::default();
        self.heal();
        let logs = self.brokers.iter().flat_map(|broker| broker.disk.values());
        logs.for_each(|log| log.fail_next(None));
        let broken = |broker: &Broker| !broker.dirs_failed.is_empty();
        let broken: Vec<usize> = (0..self.brokers.len()).filter(|at| broken(&self.brokers[*at])).collect();
        broken.into_iter().for_each(|at| self.kill(at));
        self.network.packets.append(&mut self.network.late);
        while self.request_arrives().is_some() {}
        self.settle(false)?;
        let before = (self.checks.acknowledged, self.checks.commits_acknowledged);
        for partition in 0..PRODUCED {
            self.everywhere(|world, at| world.produce_to(at, partition))?;
        }
        self.committing = None;
        self.everywhere(World::commit_offset)?;
        self.begin_last_transactions();
        self.settle(self.theme != Theme::Transactions)?;
        self.everywhere(World::read_offset)?;
        self.check_transactions_at_rest()?;
        let after = (self.checks.acknowledged, self.checks.commits_acknowledged);
        let is_there = |name: &&TopicPartition| self.zookeeper.partition_state(&name.topic, name.partition).is_some();
        let produced = self.names[..PRODUCED].iter().filter(is_there).count();
        match after.0 == before.0 + produced && after.1 > before.1 {
            true => Ok(()),
            false => Err(format!("{before:?} were acknowledged at rest, and {after:?} afterwards")),
        }
    }

    pub(super) fn everywhere(&mut self, mut act: impl FnMut(&mut World, usize) -> Checked) -> Checked {
        (0..self.brokers.len()).try_for_each(|at| act(self, at))
    }

    /// Until there is nothing left to do; if members are to come to rest too, they go on meanwhile.
    pub(super) fn settle(&mut self, with_members: bool) -> Checked {
        for round in 0..ROUNDS_TO_REST_MAX {
            self.notice_losses();
            self.pass(Duration::from_millis(if with_members { 800 } else { 200 }));
            for at in 0..self.brokers.len() {
                self.brokers[at].life.iter_mut().for_each(|life| life.candidate.retry());
                for session in std::mem::take(&mut self.brokers[at].sessions_left) {
                    self.zookeeper.end_session(session);
                }
                let is_lost = self.lost.contains_key(&self.brokers[at].id);
                if self.brokers[at].life.is_none() && !is_lost {
                    self.start(at);
                }
                self.work_off(at);
                let life = self.brokers[at].life.as_ref();
                let hosted = |name| life.and_then(|life| life.replica(name));
                self.names.iter().filter_map(hosted).for_each(|replica| replica.shrink_isr());
            }
            for packet in std::mem::take(&mut self.network.packets) {
                self.receive(packet);
            }
            if round % 4 == 3 {
                (0..self.brokers.len()).try_for_each(|at| self.check(at))?;
            }
            if with_members {
                (0..5).try_for_each(|_| self.step_member(true).map(drop))?;
            }
            let is_last = self.producers.as_ref().is_some_and(|producers| !producers.are_at_rest());
            if is_last {
                (0..5).try_for_each(|_| self.step_producer(true).map(drop))?;
            }
            if (!with_members || self.members.are_at_rest()) && !is_last && self.is_at_rest() {
                return self.everywhere(World::check);
            }
        }
        Err(format!("no rest: {}", self.unrest()))
    }

    pub(super) fn unrest(&self) -> String {
        let states = self.names.iter().map(|name| {
            let state = self.zookeeper.partition_state(&name.topic, name.partition);
            let logs = self.brokers.iter().map(|broker| broker.disk.get(name).map(|log| (log.whole(), log.bounds())));
            format!("{name}: {state:?}, logs {:?}", logs.collect::<Vec<_>>())
        });
        let tasks = (0..self.brokers.len()).map(|at| {
            let life = self.brokers[at].life.as_ref();
            format!(
                "broker {}: coordinates {:?} {}, decides {:?}, transactions {:?}",
                self.brokers[at].id,
                self.coordinator_epoch(at),
                self.coordinates_transactions(at),
                life.map(|life| (life.candidate.office.is_some(), life.candidate.is_idle(), life.is_leaving())),
                life.map(|life| life.unended_transactions())
            )
        });
        states.chain(tasks).collect::<Vec<_>>().join("; ")
    }

    /// Every replica is in sync with the same records, and nobody else has any; groups and transactions have their
    /// coordinators, and no marker is missing; nobody knows a topic that is gone, or serves what was moved away.
    pub(super) fn is_at_rest(&self) -> bool {
        let lives = || self.brokers.iter().filter_map(|broker| broker.life.as_ref());
        let coordinators = (0..self.brokers.len()).filter(|at| self.coordinator_epoch(*at).is_some()).count();
        let controllers = lives().filter(|life| life.candidate.office.is_some()).count();
        let of_transactions = (0..self.brokers.len()).filter(|at| self.coordinates_transactions(*at)).count();
        let is_waiting = !self.produced.is_empty() || self.committing.is_some();
        (coordinators, controllers, is_waiting) == (1, 1, false)
            && of_transactions == usize::from(self.producers.is_some())
            && lives()
                .all(|life| life.candidate.is_idle() && !life.is_leaving() && life.unended_transactions() == (0, 0))
            && self.zookeeper.children(znode::delete_topic::ROOT).is_empty()
            && lives().all(|life| life.knows_topics_of(&self.zookeeper))
            && self.names.iter().all(|name| {
                let Some(topic) = self.zookeeper.get(&znode::topic::path(&name.topic)) else {
                    let has_it = |broker: &Broker| broker.disk.contains_key(name) && !broker.may_have_strays;
                    return !self.brokers.iter().any(has_it);
                };
                let topic = Topic::decode(&name.topic, &topic.data).expect("it was written well");
                let PartitionAssignment { replicas, adding_replicas, removing_replicas } =
                    &topic.partitions[&name.partition];
                let is_moving = !adding_replicas.is_empty() || !removing_replicas.is_empty();
                let state = self.zookeeper.partition_state(&name.topic, name.partition);
                let isr: BTreeSet<i32> = state.into_iter().flat_map(|state| state.value.isr).collect();
                let all: BTreeSet<i32> = replicas.iter().copied().collect();
                let is_stray = |broker: &Broker| broker.may_have_strays && !all.contains(&broker.id.0);
                let with_log = || {
                    let hosting = |broker: &&Broker| broker.disk.contains_key(name) && !is_stray(broker);
                    self.brokers.iter().filter(hosting)
                };
                let with_log_ids: BTreeSet<i32> = with_log().map(|broker| broker.id.0).collect();
                let logs: Vec<_> = with_log().map(|broker| &broker.disk[name]).collect();
                let serves = |life: &Life| life.hosted.get(&name.topic, name.partition).is_some();
                let is_served_elsewhere = lives().any(|life| !all.contains(&life.id.0) && serves(life));
                let is_same = |log: &&Arc<MemoryLog>| {
                    log.whole() == logs[0].whole() && log.bounds().high_watermark == log.whole().end
                };
                !is_moving && !is_served_elsewhere && isr == all && with_log_ids == all && logs.iter().all(is_same)
            })
    }
}
