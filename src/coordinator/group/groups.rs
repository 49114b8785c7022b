//! The groups of one partition of `__consumer_offsets`: which request meets, makes or misses which group.
//! Knows nothing of elections: whoever calls has made sure that this broker is their coordinator.
//! Source: kafka 3.9 GroupCoordinator.scala (the handle functions).

use std::collections::HashMap;
use std::sync::Arc;

use crate::coordinator::group::error::GroupError;
use crate::coordinator::group::requests::{Caller, Commit, CommitAnswer, Join, JoinAnswer, Leaving, Sync};
use crate::coordinator::group::state::{Group, GroupState};
use crate::coordinator::group::turn::{AppendId, ReplyTo, TimerKey, Turn};
use crate::coordinator::topic_log::AppendFailure;
use crate::model::{GenerationId, Offset, TopicPartition};

#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: HashMap<Arc<str>, Group>,
}

impl Groups {
    pub(crate) fn get(&self, group_id: &str) -> Option<&Group> {
        self.groups.get(group_id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    fn get_or_create(&mut self, group_id: &str, turn: &Turn<'_>) -> &mut Group {
        if !self.groups.contains_key(group_id) {
            let id: Arc<str> = Arc::from(group_id);
            self.groups.insert(Arc::clone(&id), Group::new(id, turn.now.wall_ms));
        }
        self.groups.get_mut(group_id).expect("inserted above if it was missing")
    }

    pub(crate) fn join(&mut self, group_id: &str, join: Join, reply: ReplyTo, turn: &mut Turn<'_>) {
        let settings = turn.settings;
        if join.session_timeout_ms < settings.group_min_session_timeout_ms
            || join.session_timeout_ms > settings.group_max_session_timeout_ms
        {
            let refusal = JoinAnswer::refused(join.member_id, GroupError::InvalidSessionTimeout);
            return turn.answer_join(reply, refusal);
        }
        if join.member_id.is_empty() {
            return self.get_or_create(group_id, turn).join(join, reply, turn);
        }
        match self.groups.get_mut(group_id) {
            Some(group) => group.join(join, reply, turn),
            None => turn.answer_join(reply, JoinAnswer::refused(join.member_id, GroupError::UnknownMemberId)),
        }
    }

    pub(crate) fn sync(&mut self, group_id: &str, sync: Sync, reply: ReplyTo, turn: &mut Turn<'_>) {
        match self.groups.get_mut(group_id) {
            Some(group) => group.sync(sync, reply, turn),
            None => turn.answer_sync(reply, Err(GroupError::UnknownMemberId)),
        }
    }

    pub(crate) fn heartbeat(&mut self, group_id: &str, caller: &Caller, turn: &mut Turn<'_>) -> Result<(), GroupError> {
        self.groups.get_mut(group_id).ok_or(GroupError::UnknownMemberId)?.heartbeat(caller, turn)
    }

    /// One answer per leaving member, in order.
    pub(crate) fn leave(
        &mut self,
        group_id: &str,
        leaving: &[Leaving],
        turn: &mut Turn<'_>,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        match self.groups.get_mut(group_id) {
            Some(group) => group.leave(leaving, turn),
            None => Ok(vec![Err(GroupError::UnknownMemberId); leaving.len()]),
        }
    }

    pub(crate) fn commit_offsets(&mut self, group_id: &str, commit: Commit, reply: ReplyTo, turn: &mut Turn<'_>) {
        if commit.caller.generation_id < GenerationId(0) {
            // The client does not rely on the coordinator for its membership, so there need not be a group yet.
            return self.get_or_create(group_id, turn).commit_offsets(commit, reply, turn);
        }
        match self.groups.get_mut(group_id) {
            Some(group) => group.commit_offsets(commit, reply, turn),
            None => turn.answer_commit(reply, CommitAnswer::Refused(GroupError::IllegalGeneration)),
        }
    }

    pub(crate) fn delete(&mut self, group_id: &str, turn: &mut Turn<'_>) -> Result<(), GroupError> {
        self.groups.get_mut(group_id).ok_or(GroupError::GroupIdNotFound)?.delete(turn)?;
        self.groups.remove(group_id);
        Ok(())
    }

    /// One answer per partition, in order.
    pub(crate) fn delete_offsets(
        &mut self,
        group_id: &str,
        partitions: &[(Arc<str>, i32)],
        turn: &mut Turn<'_>,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        let group = self.groups.get_mut(group_id).ok_or(GroupError::GroupIdNotFound)?;
        // An empty request still learns that the group may not be touched.
        group.refuses_deletion_of("")?;
        let mut answers = Vec::with_capacity(partitions.len());
        let mut deletable = Vec::with_capacity(partitions.len());
        for (topic, partition) in partitions {
            if group.refuses_deletion_of(topic)? {
                answers.push(Err(GroupError::GroupSubscribedToTopic));
            } else {
                answers.push(Ok(()));
                deletable.push((Arc::clone(topic), *partition));
            }
        }
        if !deletable.is_empty() && group.forget(deletable, turn) {
            self.groups.remove(group_id);
        }
        Ok(answers)
    }

    /// These partitions are gone from the cluster, and what anybody has read of them means nothing any more.
    pub(crate) fn forget_partitions(&mut self, partitions: &[TopicPartition], turn: &mut Turn<'_>) {
        self.groups.retain(|_, group| {
            let gone = partitions.iter().map(|p| (Arc::clone(&p.topic), p.partition)).collect();
            !group.forget(gone, turn)
        });
    }

    /// The periodic round: offsets nobody reads any more, groups nobody uses any more.
    pub(crate) fn expire(&mut self, turn: &mut Turn<'_>) {
        self.groups.retain(|_, group| !group.expire(turn));
    }

    pub(crate) fn timer_fired(&mut self, key: &TimerKey, turn: &mut Turn<'_>) {
        if let Some(group) = self.groups.get_mut(&key.group) {
            group.timer_fired(&key.kind, turn);
        }
    }

    pub(crate) fn appended(
        &mut self,
        group_id: &str,
        append: AppendId,
        outcome: Result<Offset, AppendFailure>,
        turn: &mut Turn<'_>,
    ) {
        if let Some(group) = self.groups.get_mut(group_id) {
            group.appended(append, outcome, turn);
        }
    }

    /// Takes over the groups that were read from the log.
    pub(crate) fn load(&mut self, loaded: Vec<Group>, turn: &mut Turn<'_>) {
        for mut group in loaded {
            log::info!("Loading group metadata for {} with generation {}", group.group_id(), group.generation_id());
            group.loaded(turn);
            self.groups.insert(Arc::clone(group.group_id()), group);
        }
    }

    /// Gives the groups up: another broker is their coordinator now.
    pub(crate) fn unload(&mut self, turn: &mut Turn<'_>) {
        for (_, mut group) in self.groups.drain() {
            log::info!("Unloading group metadata for {} with generation {}", group.group_id(), group.generation_id());
            if group.state() != GroupState::Dead {
                group.die(GroupError::NotCoordinator, turn);
            }
        }
    }
}
