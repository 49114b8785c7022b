//! Members of a consumer group. Each joins, syncs, commits for the partitions that it was given, leaves or falls silent, and
//! asks whoever it takes for the coordinator.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::SmallRng;

use crate::coordinator::group::error::GroupError;
use crate::coordinator::group::records::CommittedOffset;
use crate::coordinator::group::requests::{
    Caller, Commit, CommitAnswer, Join, JoinAnswer, Leaving, OffsetToCommit, Protocol, Sync, SyncAnswer,
};
use crate::coordinator::group::task::GroupCoordinator;
use crate::model::{GenerationId, LeaderEpoch, Offset};
use crate::simulation::Planted;
use crate::simulation::checks::{Checked, Checks};
use crate::simulation::clock::NOW_MS;
use crate::simulation::world::TOPIC;

pub(super) const GROUP: &str = "m";
const MEMBERS: usize = 3;
/// They share so many partitions.
pub(super) const PARTITIONS: u8 = 4;
const SESSION_TIMEOUT_MS: i32 = 10_000;

type Answering<T> = Pin<Box<dyn Future<Output = T>>>;

enum Doing {
    Nothing,
    Joining(Answering<JoinAnswer>),
    Joined(JoinAnswer),
    Syncing(GenerationId, Answering<SyncAnswer>),
    Consuming(GenerationId, Vec<u8>),
    Committing { generation: GenerationId, partitions: Vec<u8>, offset: i64, answer: Answering<CommitAnswer> },
}

struct Member {
    /// Empty until it has one.
    id: Arc<str>,
    doing: Doing,
    /// Whom it has asked last, and in which epoch of that.
    asked: (usize, LeaderEpoch),
    /// The latest generation that the coordinator knew when it was asked.
    known_then: Option<GenerationId>,
}

/// A broker that takes itself for the coordinator.
pub(super) struct Coordinator {
    pub at: usize,
    pub epoch: LeaderEpoch,
    pub groups: Arc<GroupCoordinator>,
}

pub(super) struct Members {
    members: Vec<Member>,
    ids_made: usize,
    /// Commits that arrive when their members are in another generation.
    late: Vec<(Caller, u8)>,
    planted: Planted,
}

fn is_ready<T>(answering: &mut Answering<T>) -> Option<T> {
    match answering.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

impl Members {
    pub fn new(planted: Planted) -> Members {
        let member = || Member { id: "".into(), doing: Doing::Nothing, asked: (0, LeaderEpoch(-1)), known_then: None };
        Members { members: (0..MEMBERS).map(|_| member()).collect(), ids_made: 0, late: Vec::new(), planted }
    }

    /// What these brokers were asked is not answered any more.
    pub fn lost(&mut self, at: usize) {
        for member in self.members.iter_mut().filter(|member| member.asked.0 == at) {
            if !matches!(member.doing, Doing::Joined(_) | Doing::Consuming(..)) {
                member.doing = Doing::Nothing;
            }
        }
    }

    /// One of them does something. A calm one neither leaves nor gives up.
    pub fn step(
        &mut self,
        coordinator: &Coordinator,
        is_calm: bool,
        next_offset: &mut i64,
        rng: &mut SmallRng,
        checks: &mut Checks,
    ) -> Checked {
        if !self.late.is_empty() && rng.random_bool(0.3) {
            return self.commit_late(coordinator, next_offset, checks);
        }
        let which = rng.random_range(0..MEMBERS);
        let Coordinator { at, epoch, groups } = coordinator;
        let Members { members, ids_made, late, .. } = self;
        let member = &mut members[which];
        let is_waiting = matches!(member.doing, Doing::Joining(_) | Doing::Syncing(..) | Doing::Committing { .. });
        if is_waiting {
            // It gives up, and begins again.
            if !is_calm && rng.random_bool(0.05) {
                member.doing = Doing::Nothing;
            }
            return Ok(());
        }
        member.asked = (*at, *epoch);
        member.known_then = checks.generation(*epoch);
        let groups = Arc::clone(groups);
        member.doing = match std::mem::replace(&mut member.doing, Doing::Nothing) {
            Doing::Nothing => {
                *ids_made += 1;
                let join = member.join(*ids_made, rng.random_bool(0.5));
                Doing::Joining(Box::pin(async move { groups.join(GROUP, join).await }))
            }
            Doing::Joined(joined) => {
                let generation = joined.generation_id;
                let sync = member.sync(&joined);
                Doing::Syncing(generation, Box::pin(async move { groups.sync(GROUP, sync).await }))
            }
            Doing::Consuming(generation, partitions) => match rng.random_range(0..20) {
                0 if !is_calm => {
                    let leaving = Leaving { member_id: Arc::clone(&member.id), group_instance_id: None, reason: None };
                    let _ = groups.leave(GROUP, &[leaving]);
                    member.id = "".into();
                    Doing::Nothing
                }
                1 if !is_calm => {
                    member.id = "".into();
                    Doing::Nothing
                }
                2..9 if !is_calm && !partitions.is_empty() => {
                    *next_offset += 1;
                    let offset = *next_offset;
                    let commit = commit(member.caller(generation), partitions[0], offset);
                    let answer = Box::pin(async move { groups.commit_offsets(GROUP, commit).await });
                    Doing::Committing { generation, partitions, offset, answer }
                }
                _ => match groups.heartbeat(GROUP, &member.caller(generation)) {
                    Err(GroupError::UnknownMemberId) => {
                        member.id = "".into();
                        Doing::Nothing
                    }
                    Err(GroupError::RebalanceInProgress | GroupError::IllegalGeneration) => {
                        if let Some(partition) = partitions.first().filter(|_| rng.random_bool(0.5)) {
                            late.push((member.caller(generation), *partition));
                        }
                        Doing::Nothing
                    }
                    Ok(()) | Err(_) => Doing::Consuming(generation, partitions),
                },
            },
            doing => doing,
        };
        self.hear(*at, checks)
    }

    /// One that is not refused at once is in the log.
    fn commit_late(&mut self, coordinator: &Coordinator, next_offset: &mut i64, checks: &Checks) -> Checked {
        let (mut caller, partition) = self.late.swap_remove(0);
        let (generation, groups) = (caller.generation_id, Arc::clone(&coordinator.groups));
        if self.planted == Planted::GenerationsIgnored {
            caller.generation_id = known_generation(&groups).unwrap_or(generation);
        }
        *next_offset += 1;
        let commit = commit(caller, partition, *next_offset);
        let mut answering: Answering<CommitAnswer> =
            Box::pin(async move { groups.commit_offsets(GROUP, commit).await });
        match is_ready(&mut answering) {
            Some(CommitAnswer::Refused(_) | CommitAnswer::Stored(Err(_))) => Ok(()),
            None | Some(CommitAnswer::Stored(Ok(()))) => {
                checks.committed_in(generation, checks.generation(coordinator.epoch))
            }
        }
    }

    /// Takes in what that broker has answered.
    pub fn hear(&mut self, at: usize, checks: &mut Checks) -> Checked {
        self.members.iter_mut().filter(|member| member.asked.0 == at).try_for_each(|member| member.hear(checks))
    }

    /// All of them consume in one generation, and share what there is.
    pub fn are_at_rest(&self) -> bool {
        let consuming = self.members.iter().filter_map(|member| match &member.doing {
            Doing::Consuming(generation, partitions) => Some((*generation, partitions)),
            _ => None,
        });
        let consuming: Vec<_> = consuming.collect();
        let is_same = |(generation, _): &(GenerationId, &Vec<u8>)| *generation == consuming[0].0;
        let owned: usize = consuming.iter().map(|(_, partitions)| partitions.len()).sum();
        consuming.len() == MEMBERS && consuming.iter().all(is_same) && owned == usize::from(PARTITIONS)
    }
}

impl Member {
    fn caller(&self, generation_id: GenerationId) -> Caller {
        Caller { member_id: Arc::clone(&self.id), group_instance_id: None, generation_id }
    }

    fn join(&self, number: usize, require_known_member_id: bool) -> Join {
        Join {
            member_id: Arc::clone(&self.id),
            new_member_id: format!("member-{number}").into(),
            group_instance_id: None,
            require_known_member_id,
            can_skip_assignment: true,
            client_id: "".into(),
            client_host: "".into(),
            rebalance_timeout_ms: SESSION_TIMEOUT_MS,
            session_timeout_ms: SESSION_TIMEOUT_MS,
            protocol_type: "consumer".into(),
            protocols: vec![Protocol { name: "range".into(), metadata: Bytes::new() }],
            reason: None,
        }
    }

    /// The leader gives each partition to one of them.
    fn sync(&self, joined: &JoinAnswer) -> Sync {
        let of =
            |at: usize| (0..PARTITIONS).filter(move |partition| usize::from(*partition) % joined.members.len() == at);
        let ids = joined.members.iter().map(|member| Arc::clone(&member.member_id)).enumerate();
        let assignments = ids.map(|(at, id)| (id, of(at).collect::<Vec<u8>>().into())).collect();
        let caller = self.caller(joined.generation_id);
        Sync { caller, protocol_type: None, protocol_name: None, assignments }
    }

    fn hear(&mut self, checks: &mut Checks) -> Checked {
        let epoch = self.asked.1;
        let is_unknown = |error| error == GroupError::UnknownMemberId;
        self.doing = match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Joining(mut answering) => match is_ready(&mut answering) {
                None => Doing::Joining(answering),
                Some(answer) => {
                    self.id = if answer.error.is_some_and(is_unknown) { "".into() } else { answer.member_id.clone() };
                    if answer.error.is_none() { Doing::Joined(answer) } else { Doing::Nothing }
                }
            },
            Doing::Syncing(generation, mut answering) => match is_ready(&mut answering) {
                None => Doing::Syncing(generation, answering),
                Some(Ok(synced)) => {
                    let partitions = synced.assignment.to_vec();
                    checks.assigned(epoch, generation, &self.id, &partitions)?;
                    Doing::Consuming(generation, partitions)
                }
                Some(Err(error)) => {
                    if is_unknown(error) {
                        self.id = "".into();
                    }
                    Doing::Nothing
                }
            },
            Doing::Committing { generation, partitions, offset, mut answer } => match is_ready(&mut answer) {
                None => Doing::Committing { generation, partitions, offset, answer },
                Some(answer) => {
                    if answer == CommitAnswer::Stored(Ok(())) {
                        checks.committed_in(generation, self.known_then)?;
                        checks.committed(GROUP, partitions[0], epoch, offset);
                    }
                    Doing::Consuming(generation, partitions)
                }
            },
            doing => doing,
        };
        Ok(())
    }
}

fn commit(caller: Caller, partition: u8, offset: i64) -> Commit {
    let committed = CommittedOffset {
        offset: Offset(offset),
        leader_epoch: LeaderEpoch(-1),
        metadata: "".into(),
        commit_timestamp_ms: NOW_MS,
        expire_timestamp_ms: None,
    };
    let offset = OffsetToCommit { topic: TOPIC.into(), partition: partition.into(), committed };
    Commit { caller, offsets: vec![offset], transaction: None, must_be_verified: false }
}

/// Planted: whoever commits is taken to be in the generation that is in force.
fn known_generation(groups: &GroupCoordinator) -> Option<GenerationId> {
    Some(groups.shards().owned(0).ok()?.core().get(GROUP)?.generation_id())
}
