//! Whoever uses the cluster: producers, consumers, a group that commits, and administrators.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use odradek_zookeeper::znode;
use rand::RngExt;

use crate::coordinator::group::offsets::FoundOffset;
use crate::coordinator::group::records::CommittedOffset;
use crate::coordinator::group::requests::{Caller, Commit as OffsetCommit, CommitAnswer, OffsetToCommit};
use crate::log::FirstBatch;
use crate::model::internal_topics::GROUP_METADATA_TOPIC;
use crate::model::{BrokerId, GenerationId, LeaderEpoch, Offset, TopicId, TopicPartition};
use crate::record::batch::Batches;
use crate::record::build::BatchBuilder;
use crate::replica::leader::Leadership;
use crate::replica::partition::{FetchLimits, FetchParams, Fetcher};
use crate::replica::partition_log::PartitionLog;
use crate::simulation::checks::Checked;
use crate::simulation::clock::NOW_MS;
use crate::simulation::life::{Replica, read};
use crate::simulation::members::{self, Coordinator};
use crate::simulation::network::Packet;
use crate::simulation::world::{
    BROKERS, Broker, Committing, GROUP, PASSING_TOPIC, PRODUCED, Produced, TERMS, TOPIC, World, topic_data,
};

impl World {
    pub(super) fn leader_of(&self, at: usize, name: &TopicPartition) -> Option<Replica> {
        let replica = self.brokers[at].life.as_ref()?.replica(name)?;
        replica.looking_at(|leadership| leadership.is_leader()).then_some(replica)
    }

    /// To whoever leads, from that broker on. Who that is.
    pub(super) fn produce(&mut self, at: usize) -> Result<usize, String> {
        let partition = self.rng.random_range(0..PRODUCED);
        let leads = |at: &usize| self.leader_of(*at, &self.names[partition]).is_some();
        let brokers = (0..self.brokers.len()).map(|next| (at + next) % self.brokers.len());
        match brokers.into_iter().find(leads) {
            Some(leader) => self.produce_to(leader, partition).map(|()| leader),
            None => Ok(at),
        }
    }

    pub(super) fn produce_to(&mut self, at: usize, partition: usize) -> Checked {
        let name = self.names[partition].clone();
        let Some(partition) = self.leader_of(at, &name) else { return Ok(()) };
        self.next_value += 1;
        let mut builder = BatchBuilder::new();
        builder.append(NOW_MS, Some(&self.next_value.to_be_bytes()), None, &[]);
        let Ok(appended) = partition.append(builder.build(), TERMS, NOW_MS) else { return Ok(()) };
        self.note(|world| {
            format!(
                "broker {} appends {} to {name} at {}",
                world.brokers[at].id, world.next_value, appended.info.first_offset
            )
        });
        let end = Offset(appended.info.last_offset.0 + 1);
        match appended.commit {
            None => self.acknowledged(&partition, end),
            Some(commit) => {
                let life = self.brokers[at].life_number;
                self.produced.push(Produced { life, partition, end, commit });
                Ok(())
            }
        }
    }

    pub(super) fn acknowledged(&mut self, partition: &Replica, end: Offset) -> Checked {
        let at = self.at(partition.local());
        // It may have been deleted before its producer heard of the commit.
        let Some(log) = self.brokers[at].disk.get(partition.name()) else { return Ok(()) };
        let prefix = log.prefix(end);
        self.note(|_| format!("{} is committed up to {end} in epoch {}", partition.name(), partition.leader_epoch()));
        self.checks.acknowledged += 1;
        self.checks.told(partition.name(), partition.leader_epoch(), prefix)
    }

    /// A consumer reads, of the leader or of a follower, all that it may.
    pub(super) fn consume(&mut self, at: usize) -> Checked {
        let name = self.names[self.rng.random_range(0..self.names.len())].clone();
        let Some(partition) = self.brokers[at].life.as_ref().and_then(|life| life.replica(&name)) else {
            return Ok(());
        };
        let fetcher = Fetcher::Consumer { read_committed: false, may_read_from_follower: true };
        let params = FetchParams {
            fetch_offset: Offset(0),
            log_start_offset: Offset(-1),
            bytes_max: 1 << 20,
            current_leader_epoch: None,
            last_fetched_epoch: None,
        };
        let limits = FetchLimits { bytes_left: 1 << 20, first_batch: FirstBatch::Whole, asked: None };
        let Ok(fetched) = partition.fetch(fetcher, &params, TopicId::ZERO, limits) else { return Ok(()) };
        let Some(bytes) = fetched.region().map(read) else { return Ok(()) };
        let last = Batches::new(&bytes).last().expect("there is one").expect("well-formed");
        let end = Offset(last.header.last_offset + 1);
        let epoch = partition.leader_epoch();
        // A follower that has not heard what an unclean election has undone shows it still.
        if self.checks.was_unclean(&name) && !partition.looking_at(|leadership| leadership.is_leader()) {
            return Ok(());
        }
        self.note(|world| format!("a consumer reads {name} of broker {} up to {end}", world.brokers[at].id));
        let prefix = self.brokers[at].disk[&name].prefix(end);
        self.checks.told(&name, epoch, prefix)
    }

    /// The group commits one offset after the other, each behind the last.
    pub(super) fn commit_offset(&mut self, at: usize) -> Checked {
        if let Some(committing) = &self.committing {
            // It asks another coordinator, or tries again.
            if committing.broker == at && self.rng.random_bool(0.3) {
                self.committing = None;
            }
            return Ok(());
        }
        if self.coordinator_epoch(at).is_none() {
            return Ok(());
        }
        let Some(life) = &self.brokers[at].life else { return Ok(()) };
        self.next_offset += 1;
        let committed = CommittedOffset {
            offset: Offset(self.next_offset),
            leader_epoch: LeaderEpoch(-1),
            metadata: "".into(),
            commit_timestamp_ms: NOW_MS,
            expire_timestamp_ms: None,
        };
        let caller = Caller { member_id: "".into(), group_instance_id: None, generation_id: GenerationId(-1) };
        let offsets = vec![OffsetToCommit { topic: TOPIC.into(), partition: 0, committed }];
        let groups = Arc::clone(&life.groups);
        let commit = OffsetCommit { caller, offsets, transaction: None, must_be_verified: false };
        let answer = Box::pin(async move { groups.commit_offsets(GROUP, commit).await });
        self.committing = Some(Committing { broker: at, offset: self.next_offset, answer });
        self.settle_commit()
    }

    pub(super) fn settle_commit(&mut self) -> Checked {
        let Some(committing) = &mut self.committing else { return Ok(()) };
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(answer) = committing.answer.as_mut().poll(&mut context) else { return Ok(()) };
        let Committing { broker, offset, .. } = self.committing.take().expect("it was just there");
        let epoch = self.coordinator_epoch(broker);
        if let (CommitAnswer::Stored(Ok(())), Some(epoch)) = (answer, epoch) {
            self.note(|world| format!("broker {} commits {offset} in epoch {epoch}", world.brokers[broker].id));
            self.checks.committed(GROUP, 0, epoch, offset);
        }
        Ok(())
    }

    /// Under which the broker coordinates the group; a later one if it has been elected again without a break.
    pub(super) fn coordinator_epoch(&self, at: usize) -> Option<LeaderEpoch> {
        let life = self.brokers[at].life.as_ref()?;
        let epoch = life.groups.shards().owned(0).ok()?.leader_epoch()?;
        let replica = life.hosted.get(GROUP_METADATA_TOPIC, 0)?;
        let in_force = |leadership: &Leadership| match leadership.has_led_since(epoch) {
            true => leadership.leader_epoch(),
            false => epoch,
        };
        Some(replica.looking_at(in_force))
    }

    pub(super) fn read_offset(&mut self, at: usize) -> Checked {
        let (Some(epoch), Some(life)) = (self.coordinator_epoch(at), &self.brokers[at].life) else { return Ok(()) };
        let of_members = (0..members::PARTITIONS).map(|partition| (members::GROUP, partition));
        for (group, partition) in [(GROUP, 0)].into_iter().chain(of_members) {
            let found =
                life.groups.with_offsets(group, |offsets| match offsets?.find(TOPIC, partition.into(), false) {
                    FoundOffset::Committed(committed) => Some(committed.offset.0),
                    FoundOffset::None | FoundOffset::Unstable => None,
                });
            self.checks.group_offset(group, partition, epoch, found.expect("it is the coordinator"))?;
        }
        Ok(())
    }

    /// A member asks one of those who take themselves for the coordinator. Who that is.
    pub(super) fn step_member(&mut self, is_calm: bool) -> Result<usize, String> {
        let first = self.rng.random_range(0..self.brokers.len());
        let all = (0..self.brokers.len()).map(|at| (first + at) % self.brokers.len());
        let coordinates = |at| {
            let (epoch, life) = (self.coordinator_epoch(at)?, self.brokers[at].life.as_ref()?);
            Some(Coordinator { at, epoch, groups: Arc::clone(&life.groups) })
        };
        let Some(coordinator) = all.into_iter().find_map(coordinates) else { return Ok(first) };
        let World { members, next_offset, rng, checks, .. } = self;
        members.step(&coordinator, is_calm, next_offset, rng, checks)?;
        Ok(coordinator.at)
    }

    /// What runs by the clock.
    pub(super) fn housekeeping(&mut self, at: usize) {
        let World { brokers, names, rng, .. } = self;
        let Broker { life, disk, .. } = &mut brokers[at];
        let Some(life) = life else { return };
        match rng.random_range(0..9) {
            0 | 1 => names.iter().filter_map(|name| life.replica(name)).for_each(|replica| replica.shrink_isr()),
            2 => disk.values().for_each(|log| log.checkpoint_high_watermark()),
            // One that is offline stays as it is.
            3 => disk.values().for_each(|log| drop(log.flush_for_acknowledgement(NOW_MS))),
            4 => {
                life.candidate.rebalance();
                life.candidate.retry();
            }
            5 => {
                if rng.random_bool(self.accidents.leaves) {
                    life.leave();
                }
            }
            6 => self.make_or_delete_topic(),
            7 => {
                if self.unclean_elections {
                    let of_topic = names.iter().filter(|name| &*name.topic == TOPIC);
                    life.candidate.elect_uncleanly(of_topic.cloned().collect());
                }
            }
            _ => self.reassign(at),
        }
    }

    /// Whoever is asked moves a partition, if it is the controller: to any replicas, or back.
    pub(super) fn reassign(&mut self, at: usize) {
        if !self.rng.random_bool(self.accidents.moves) {
            return;
        }
        let name = self.names[self.rng.random_range(0..self.names.len())].clone();
        let left_out = self.rng.random_range(1..=BROKERS);
        let first = self.rng.random_range(0..BROKERS);
        let replicas = (0..BROKERS).map(|at| BrokerId((first + at) % BROKERS + 1)).filter(|id| id.0 != left_out);
        let replicas: Option<Vec<BrokerId>> = self.rng.random_bool(0.8).then(|| replicas.collect());
        self.note(|world| format!("broker {} is asked to move {name} to {replicas:?}", world.brokers[at].id));
        if let Some(life) = &mut self.brokers[at].life {
            life.candidate.reassign(vec![(name, replicas)]);
        }
    }

    /// Somebody makes the topic that comes and goes, or marks it for deletion.
    pub(super) fn make_or_delete_topic(&mut self) {
        if !self.rng.random_bool(self.accidents.deletions) {
            return;
        }
        let name = TopicPartition::new(PASSING_TOPIC, 0);
        let path = znode::topic::path(PASSING_TOPIC);
        let marker = znode::delete_topic::path(PASSING_TOPIC);
        match (self.zookeeper.get(&path).is_some(), self.zookeeper.get(&marker).is_some()) {
            (_, true) => {}
            (true, false) => {
                drop(self.zookeeper.create(&marker, Vec::new(), None));
                self.checks.is_doomed(&name);
            }
            (false, false) => {
                self.topics_made += 1;
                drop(self.zookeeper.create(&path, topic_data(self.topics_made, 1), None));
                self.checks.begins(&name);
                // Nothing in them says that they are for the topic that was.
                let names_it = |packet: &Packet| {
                    let markers = packet.markers().into_iter().flat_map(|asked| &asked.markers);
                    markers.flat_map(|marker| &marker.topics).any(|topic| topic.name == PASSING_TOPIC)
                };
                self.network.forget(names_it);
                let place = self.names.iter().position(|known| *known == name).expect("it is one of them");
                self.producers.iter_mut().for_each(|producers| producers.forget_writes(place));
            }
        }
        self.note(|_| format!("{PASSING_TOPIC} is made, or to be deleted"));
    }
}
