//! Membership: join, sync, heartbeat, leave, and the timers that speak for members who are silent.
//! Source: kafka 3.9 GroupCoordinator.scala, DelayedJoin.scala, DelayedSync.scala, DelayedHeartbeat.scala.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::coordinator::group::error::GroupError;
use crate::coordinator::group::member::{MEMBER_BYTES, Member, protocol_bytes};
use crate::coordinator::group::pending::{PendingAppend, StaticReplacement};
use crate::coordinator::group::requests::{
    Caller, Join, JoinAnswer, Leaving, Sync, SyncAnswer, Synced, without_repeats,
};
use crate::coordinator::group::state::{Group, GroupState, InitialDelay};
use crate::coordinator::group::turn::{
    COORDINATOR_MAX_BYTES, GroupEffect, MAX_METADATA_BYTES, ReplyTo, TimerKind, Turn,
};
use crate::coordinator::topic_log::AppendFailure;
use crate::model::{GenerationId, Offset};

/// How long a new member may stay in a join phase that does not end: it has no member id to send heartbeats with,
/// and its connection is not read while it waits, so nothing else would tell that it is gone.
const NEW_MEMBER_JOIN_TIMEOUT_MS: i32 = 5 * 60 * 1000;

/// How long a join phase to which nobody came at least lasts when it starts over.
const DESERTED_JOIN_MS: i32 = 1_000;

impl Group {
    // Join

    /// Answers `reply` now, or when the join phase ends. The session timeout has been checked.
    pub(crate) fn join(&mut self, join: Join, reply: ReplyTo, turn: &mut Turn<'_>) {
        let join = Join { protocols: without_repeats(join.protocols), ..join };
        if !self.has_room_for(&join, turn.settings.group_max_size) {
            self.remove(&join.member_id, turn);
            turn.answer_join(reply, JoinAnswer::refused(Arc::from(""), GroupError::GroupMaxSizeReached));
        } else if self.state == GroupState::Dead {
            turn.answer_join(reply, JoinAnswer::refused(join.member_id, GroupError::CoordinatorNotAvailable));
        } else if self.growth_by(&join) > 0
            && self.member_bytes + self.growth_by(&join) > turn.settings.group_max_metadata_bytes
        {
            turn.refused_for_size(&self.group_id, MAX_METADATA_BYTES);
            turn.answer_join(reply, JoinAnswer::refused(join.member_id, GroupError::GroupMaxSizeReached));
        } else if !self.supports(&join.protocol_type, &join.protocols) {
            turn.answer_join(reply, JoinAnswer::refused(join.member_id, GroupError::InconsistentGroupProtocol));
        } else if join.member_id.is_empty() {
            self.join_first_time(join, reply, turn);
        } else {
            self.join_again(join, reply, turn);
        }
        if self.state == GroupState::PreparingRebalance {
            self.complete_join_if_everyone_is_here(turn);
        }
    }

    /// The member whose place it would take: a static one may come back without its id.
    fn counted_as<'a>(&'a self, join: &'a Join) -> &'a Arc<str> {
        let instance = join.group_instance_id.as_ref();
        instance.and_then(|instance| self.static_members.get(instance)).unwrap_or(&join.member_id)
    }

    /// How many bytes more the members would take with this one, as far as that can be told before it is one.
    pub(super) fn growth_by(&self, join: &Join) -> usize {
        let instance = join.group_instance_id.as_ref();
        let protocols = protocol_bytes(&join.protocols);
        match self.members.get(self.counted_as(join)) {
            Some(member) => protocols.saturating_sub(protocol_bytes(&member.protocols)),
            None => {
                let texts = join.member_id.len().max(join.new_member_id.len())
                    + instance.map_or(0, |instance| instance.len())
                    + join.client_id.len()
                    + join.client_host.len();
                MEMBER_BYTES + texts + protocols
            }
        }
    }

    /// While a rebalance is prepared the members that wait are counted, not all of them: a limit that was lowered
    /// then keeps out the last to return.
    fn has_room_for(&self, join: &Join, max_size: usize) -> bool {
        let member_id = self.counted_as(join);
        match self.state {
            GroupState::Empty | GroupState::Dead => true,
            GroupState::PreparingRebalance => {
                self.members.get(member_id).is_some_and(|member| member.awaiting_join.is_some())
                    || self.awaiting_join < max_size
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                self.members.contains_key(member_id) || self.members.len() < max_size
            }
        }
    }

    fn join_first_time(&mut self, join: Join, reply: ReplyTo, turn: &mut Turn<'_>) {
        let new_id = Arc::clone(&join.new_member_id);
        if let Some(instance) = &join.group_instance_id {
            match self.static_members.get(instance).cloned() {
                Some(old_id) => {
                    log::info!(
                        "Static member {instance} joins group {} in {} state without a member id; {new_id} takes \
                         the place of {old_id}",
                        self.group_id,
                        self.state
                    );
                    self.replace_and_rebalance_if_needed(old_id, join, reply, turn);
                }
                None => {
                    log::info!(
                        "Static member {instance} joins group {} in {} state for the first time, as {new_id}",
                        self.group_id,
                        self.state
                    );
                    self.add_and_rebalance(new_id, join, reply, turn);
                }
            }
        } else if join.require_known_member_id {
            log::info!(
                "Dynamic member without a member id joins group {} in {} state; asked to join again as {new_id}",
                self.group_id,
                self.state
            );
            self.add_pending(&new_id, reply);
            turn.start_timer(&self.group_id, TimerKind::Pending(Arc::clone(&new_id)), join.session_timeout_ms);
            turn.answer_join(reply, JoinAnswer::refused(new_id, GroupError::MemberIdRequired));
        } else {
            log::info!(
                "Dynamic member without a member id joins group {} in {} state, as {new_id}",
                self.group_id,
                self.state
            );
            self.add_and_rebalance(new_id, join, reply, turn);
        }
    }

    fn join_again(&mut self, join: Join, reply: ReplyTo, turn: &mut Turn<'_>) {
        if self.pending_members.contains_key(&join.member_id) {
            if join.group_instance_id.is_some() {
                // Only dynamic members are asked to join again, so nobody can come here honestly.
                let refusal = JoinAnswer::refused(join.member_id, GroupError::UnknownServerError);
                return turn.answer_join(reply, refusal);
            }
            turn.cancel_timer(&self.group_id, TimerKind::Pending(Arc::clone(&join.member_id)));
            return self.add_and_rebalance(Arc::clone(&join.member_id), join, reply, turn);
        }
        if let Err(error) = self.check_member(&join.member_id, join.group_instance_id.as_deref()) {
            return turn.answer_join(reply, JoinAnswer::refused(join.member_id, error));
        }
        let unchanged = self.members.get(&join.member_id).is_some_and(|member| member.matches(&join.protocols));
        let is_leader = self.is_leader(&join.member_id);
        match self.state {
            GroupState::PreparingRebalance => {
                self.update_and_rebalance(join, reply, "member joins during the rebalance", turn)
            }
            // It most likely did not get the answer to its first JoinGroup, so it gets it again.
            GroupState::CompletingRebalance if unchanged => {
                let members = if is_leader { self.joined_members() } else { Vec::new() };
                turn.answer_join(reply, JoinAnswer { members, ..self.joined(join.member_id) });
            }
            GroupState::CompletingRebalance => {
                self.update_and_rebalance(join, reply, "member changed its metadata during the rebalance", turn)
            }
            // The leader joins again to have partitions assigned anew after a change that no member's metadata
            // shows, such as more partitions of a topic.
            GroupState::Stable if is_leader => self.update_and_rebalance(join, reply, "leader joins again", turn),
            GroupState::Stable if unchanged => turn.answer_join(reply, self.joined(join.member_id)),
            GroupState::Stable => self.update_and_rebalance(join, reply, "member changed its metadata", turn),
            GroupState::Empty | GroupState::Dead => {
                turn.answer_join(reply, JoinAnswer::refused(join.member_id, GroupError::UnknownMemberId));
            }
        }
    }

    /// The current generation, as a member that does not lead learns it.
    fn joined(&self, member_id: Arc<str>) -> JoinAnswer {
        JoinAnswer {
            error: None,
            member_id,
            generation_id: self.generation_id,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            leader: self.leader.clone(),
            skip_assignment: false,
            members: Vec::new(),
        }
    }

    fn add_and_rebalance(&mut self, member_id: Arc<str>, join: Join, reply: ReplyTo, turn: &mut Turn<'_>) {
        if self.state == GroupState::PreparingRebalance && self.generation_id == GenerationId(0) {
            self.new_member_added = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type);
        }
        let member = Member {
            group_instance_id: join.group_instance_id,
            client_id: join.client_id,
            client_host: join.client_host,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            session_timeout_ms: join.session_timeout_ms,
            protocols: join.protocols,
            assignment: Bytes::new(),
            awaiting_join: Some(reply),
            awaiting_sync: None,
            is_new: true,
        };
        self.insert(Arc::clone(&member_id), member);
        turn.start_timer(&self.group_id, TimerKind::Session(Arc::clone(&member_id)), NEW_MEMBER_JOIN_TIMEOUT_MS);
        let reason = join.reason.as_deref().unwrap_or("not provided");
        self.prepare_rebalance_if_possible(
            format_args!("Adding new member {member_id}; client reason: {reason}"),
            turn,
        );
    }

    fn update_and_rebalance(&mut self, join: Join, reply: ReplyTo, why: &str, turn: &mut Turn<'_>) {
        self.update_member(
            &join.member_id,
            join.protocols,
            join.rebalance_timeout_ms,
            join.session_timeout_ms,
            Some(reply),
            turn,
        );
        let reason = join.reason.as_deref().unwrap_or("not provided");
        self.prepare_rebalance_if_possible(format_args!("{why}: {}; client reason: {reason}", join.member_id), turn);
    }

    /// A known static member came back without its member id. Its group need not notice, unless its protocols would
    /// change the one that is in use.
    fn replace_and_rebalance_if_needed(&mut self, old_id: Arc<str>, join: Join, reply: ReplyTo, turn: &mut Turn<'_>) {
        let new_id = join.new_member_id;
        let old_leader = self.leader.clone();
        self.replace_static_member(&old_id, &new_id, turn);
        let member = &self.members[&new_id];
        let old_protocols = member.protocols.clone();
        let (old_rebalance_timeout_ms, old_session_timeout_ms) =
            (member.rebalance_timeout_ms, member.session_timeout_ms);
        self.update_member(
            &new_id,
            join.protocols,
            join.rebalance_timeout_ms,
            join.session_timeout_ms,
            Some(reply),
            turn,
        );
        self.restart_session(&new_id, turn);
        match self.state {
            GroupState::Stable if self.select_protocol() == self.protocol_name => {
                let record = self.record(|_, member| member.assignment.clone());
                let append = turn.append(&self.group_id, vec![record].into());
                let replacement = StaticReplacement {
                    reply,
                    generation_id: self.generation_id,
                    old_id,
                    new_id,
                    old_protocols,
                    old_rebalance_timeout_ms,
                    old_session_timeout_ms,
                    old_leader,
                    can_skip_assignment: join.can_skip_assignment,
                };
                self.appending.insert(append, PendingAppend::StaticReplacement(Box::new(replacement)));
            }
            // In CompletingRebalance the leader may already be assigning to the old member id.
            GroupState::Stable | GroupState::CompletingRebalance => {
                self.prepare_rebalance_if_possible(format_args!("Static member {old_id} returned as {new_id}"), turn)
            }
            GroupState::PreparingRebalance | GroupState::Empty | GroupState::Dead => {}
        }
    }

    pub(super) fn static_replacement_stored(
        &mut self,
        replacement: StaticReplacement,
        outcome: Result<Offset, AppendFailure>,
        turn: &mut Turn<'_>,
    ) {
        let StaticReplacement { reply, new_id, .. } = replacement;
        let still_waits = self.members.get(&new_id).is_some_and(|member| member.awaiting_join == Some(reply));
        if !still_waits || self.state != GroupState::Stable || self.generation_id != replacement.generation_id {
            // A rebalance has begun meanwhile: it answers the member, and its end stores the new member id.
            return;
        }
        let answer = match outcome {
            Ok(_) if replacement.can_skip_assignment => {
                let is_leader = self.is_leader(&new_id);
                let members = if is_leader { self.joined_members() } else { Vec::new() };
                JoinAnswer { skip_assignment: is_leader, members, ..self.joined(Arc::clone(&new_id)) }
            }
            // Named by its old id the leader does not recognize itself, so it does not assign again: a stable group
            // would ignore the assignment.
            Ok(_) => JoinAnswer { leader: replacement.old_leader, ..self.joined(Arc::clone(&new_id)) },
            Err(failure) => {
                log::warn!("Failed to store group {} with a returned static member: {failure}", self.group_id);
                JoinAnswer {
                    error: Some(failure.for_group_metadata()),
                    leader: replacement.old_leader,
                    ..self.joined(Arc::from(""))
                }
            }
        };
        if let Some(member) = self.members.get_mut(&new_id) {
            member.awaiting_join = None;
            self.awaiting_join -= 1;
        }
        turn.answer_join(reply, answer);
        if outcome.is_ok() {
            // It may have ended meanwhile, which counts for nobody who waits for us.
            self.restart_session(&new_id, turn);
        } else {
            self.update_member(
                &new_id,
                replacement.old_protocols,
                replacement.old_rebalance_timeout_ms,
                replacement.old_session_timeout_ms,
                None,
                turn,
            );
            self.replace_static_member(&new_id, &replacement.old_id, turn);
            self.restart_session(&replacement.old_id, turn);
        }
    }

    // The rebalance

    fn prepare_rebalance_if_possible(&mut self, reason: std::fmt::Arguments<'_>, turn: &mut Turn<'_>) {
        if !matches!(self.state, GroupState::PreparingRebalance | GroupState::Dead) {
            self.prepare_rebalance(reason, turn);
        }
    }

    pub(super) fn prepare_rebalance(&mut self, reason: std::fmt::Arguments<'_>, turn: &mut Turn<'_>) {
        if self.state == GroupState::CompletingRebalance {
            self.drop_assignments(GroupError::RebalanceInProgress, turn);
        }
        self.end_sync_phase(turn);
        log::info!(
            "Preparing to rebalance group {} in state {} with old generation {} (reason: {reason})",
            self.group_id,
            self.state,
            self.generation_id
        );
        let rebalance_timeout_ms = self.rebalance_timeout_ms();
        if self.state == GroupState::Empty {
            // More members are likely to follow the first one: better one rebalance than one for each.
            let delay_ms = turn.settings.group_initial_rebalance_delay_ms;
            let remaining_ms = rebalance_timeout_ms.saturating_sub(delay_ms).max(0);
            self.initial_delay = Some(InitialDelay { delay_ms, remaining_ms });
            turn.start_timer(&self.group_id, TimerKind::Join, delay_ms);
        } else {
            self.initial_delay = None;
            turn.start_timer(&self.group_id, TimerKind::Join, rebalance_timeout_ms);
        }
        self.become_state(GroupState::PreparingRebalance, turn.now.wall_ms);
        self.complete_join_if_everyone_is_here(turn);
    }

    /// The initial delay is never cut short, since nobody knows who else may come.
    fn complete_join_if_everyone_is_here(&mut self, turn: &mut Turn<'_>) {
        if self.state == GroupState::PreparingRebalance && self.initial_delay.is_none() && self.everyone_joined() {
            turn.cancel_timer(&self.group_id, TimerKind::Join);
            self.complete_join(turn);
        }
    }

    fn join_phase_is_over(&mut self, turn: &mut Turn<'_>) {
        if self.state != GroupState::PreparingRebalance {
            return;
        }
        if let Some(InitialDelay { delay_ms, remaining_ms }) = self.initial_delay.take()
            && self.new_member_added
            && remaining_ms != 0
        {
            self.new_member_added = false;
            let next_ms = turn.settings.group_initial_rebalance_delay_ms.min(remaining_ms);
            self.initial_delay =
                Some(InitialDelay { delay_ms: next_ms, remaining_ms: remaining_ms.saturating_sub(delay_ms).max(0) });
            return turn.start_timer(&self.group_id, TimerKind::Join, next_ms);
        }
        self.complete_join(turn);
    }

    fn complete_join(&mut self, turn: &mut Turn<'_>) {
        self.initial_delay = None;
        let missing: Vec<Arc<str>> = self
            .members
            .iter()
            .filter(|(_, member)| member.awaiting_join.is_none() && !member.is_static())
            .map(|(member_id, _)| Arc::clone(member_id))
            .collect();
        if !missing.is_empty() {
            log::info!("Group {} removed dynamic members who haven't joined: {missing:?}", self.group_id);
        }
        for member_id in missing {
            self.remove(&member_id, turn);
        }

        if !self.elect_joined_leader() && !self.members.is_empty() {
            // Only static members that are away are left. Their sessions decide how long they are waited for.
            log::error!("Group {} could not complete rebalance because no members rejoined", self.group_id);
            // With a rebalance timeout of nothing, which a client may choose, that would be a busy loop.
            let again_ms = self.rebalance_timeout_ms().max(DESERTED_JOIN_MS);
            return turn.start_timer(&self.group_id, TimerKind::Join, again_ms);
        }
        self.generation_id = GenerationId(self.generation_id.0.wrapping_add(1).max(0));
        self.pending_sync.clear();
        if self.members.is_empty() {
            self.protocol_name = None;
            self.subscribed_topics = self.compute_subscribed_topics();
            self.become_state(GroupState::Empty, turn.now.wall_ms);
            log::info!("Group {} with generation {} is now empty", self.group_id, self.generation_id);
            let record = self.record(|_, _| Bytes::new());
            let append = turn.append(&self.group_id, vec![record].into());
            self.appending.insert(append, PendingAppend::EmptyGeneration);
            return;
        }

        self.protocol_name = self.select_protocol();
        self.subscribed_topics = self.compute_subscribed_topics();
        self.become_state(GroupState::CompletingRebalance, turn.now.wall_ms);
        log::info!(
            "Stabilized group {} generation {} with {} members",
            self.group_id,
            self.generation_id,
            self.members.len()
        );
        let everyone = self.joined_members();
        let ids: Vec<Arc<str>> = self.members.keys().cloned().collect();
        for member_id in ids {
            let answer = self.joined(Arc::clone(&member_id));
            let is_leader = self.is_leader(&member_id);
            let member = self.members.get_mut(&member_id).expect("nobody left since the ids were listed");
            member.is_new = false;
            if let Some(reply) = member.awaiting_join.take() {
                self.awaiting_join -= 1;
                let members = if is_leader { everyone.clone() } else { Vec::new() };
                turn.answer_join(reply, JoinAnswer { members, ..answer });
            }
            self.restart_session(&member_id, turn);
            self.pending_sync.insert(member_id);
        }
        turn.start_timer(&self.group_id, TimerKind::Sync, self.rebalance_timeout_ms());
    }

    // Sync

    /// Answers `reply` now, or when the leader's assignment is stored, which may take `room` bytes more than the last one.
    pub(crate) fn sync(&mut self, sync: Sync, room: usize, reply: ReplyTo, turn: &mut Turn<'_>) {
        if let Err(error) = self.check_sync(&sync) {
            return turn.answer_sync(reply, Err(error));
        }
        let member_id = sync.caller.member_id;
        match self.state {
            GroupState::Empty => turn.answer_sync(reply, Err(GroupError::UnknownMemberId)),
            GroupState::PreparingRebalance => turn.answer_sync(reply, Err(GroupError::RebalanceInProgress)),
            GroupState::CompletingRebalance => {
                self.sync_received(&member_id, turn);
                let member = self.members.get_mut(&member_id).expect("check_sync found the member");
                if let Some(older) = member.awaiting_sync.replace(reply) {
                    turn.answer_sync(older, Err(GroupError::RebalanceInProgress));
                }
                if self.is_leader(&member_id) {
                    self.store_assignment(sync.assignments, room, turn);
                }
            }
            GroupState::Stable => {
                self.sync_received(&member_id, turn);
                turn.answer_sync(reply, self.synced(&member_id));
                self.restart_session(&member_id, turn);
            }
            GroupState::Dead => turn.answer_sync(reply, Err(GroupError::CoordinatorNotAvailable)),
        }
    }

    fn check_sync(&self, sync: &Sync) -> Result<(), GroupError> {
        self.check_caller(&sync.caller)?;
        let differs = |given: &Option<Arc<str>>, ours: &Option<Arc<str>>| given.is_some() && given != ours;
        if differs(&sync.protocol_type, &self.protocol_type) || differs(&sync.protocol_name, &self.protocol_name) {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        Ok(())
    }

    fn synced(&self, member_id: &str) -> SyncAnswer {
        let assignment = self.members.get(member_id).map(|member| member.assignment.clone()).unwrap_or_default();
        let (protocol_type, protocol_name) = (self.protocol_type.clone(), self.protocol_name.clone());
        Ok(Synced { protocol_type, protocol_name, assignment })
    }

    fn store_assignment(&mut self, assignments: Vec<(Arc<str>, Bytes)>, room: usize, turn: &mut Turn<'_>) {
        // A leader that asks again waits for the same answer: each would otherwise hold another copy of it all.
        let is_stored_already = |pending: &PendingAppend| matches!(pending, PendingAppend::Assignment { generation_id, .. } if *generation_id == self.generation_id);
        if self.appending.values().any(is_stored_already) {
            return;
        }
        let mut assignments: HashMap<Arc<str>, Bytes> = assignments.into_iter().collect();
        assignments.retain(|member_id, _| self.members.contains_key(member_id));
        let assigned: usize = assignments.values().map(Bytes::len).sum();
        let held: usize = self.members.values().map(|member| member.assignment.len()).sum();
        let growth = assigned.saturating_sub(held);
        let exceeds_metadata = growth > 0 && self.member_bytes + growth > turn.settings.group_max_metadata_bytes;
        if exceeds_metadata || growth > room {
            turn.refused_for_size(
                &self.group_id,
                if exceeds_metadata { MAX_METADATA_BYTES } else { COORDINATOR_MAX_BYTES },
            );
            return self.assignment_failed(AppendFailure::MessageTooLarge, turn);
        }
        let omitted = self.members.len() - assignments.len();
        log::info!(
            "Assignment received from leader {} for group {} for generation {}. The group has {} members, {} of \
             which are static.",
            self.leader.as_deref().unwrap_or(""),
            self.group_id,
            self.generation_id,
            self.members.len(),
            self.static_members.len()
        );
        if omitted > 0 {
            log::warn!(
                "Setting empty assignments for {omitted} members of {} for generation {}",
                self.group_id,
                self.generation_id
            );
        }
        let record = self.record(|member_id, _| assignments.get(member_id).cloned().unwrap_or_default());
        let append = turn.append(&self.group_id, vec![record].into());
        // While the fate of the append is not known, nobody else may have the room.
        self.member_bytes += growth;
        let pending = PendingAppend::Assignment { generation_id: self.generation_id, assignments, growth };
        self.appending.insert(append, pending);
    }

    pub(super) fn assignment_stored(
        &mut self,
        generation_id: GenerationId,
        assignments: &HashMap<Arc<str>, Bytes>,
        outcome: Result<Offset, AppendFailure>,
        turn: &mut Turn<'_>,
    ) {
        // Somebody may have joined or left meanwhile; then this assignment is history.
        if self.state != GroupState::CompletingRebalance || self.generation_id != generation_id {
            return;
        }
        match outcome {
            Ok(_) => {
                self.become_state(GroupState::Stable, turn.now.wall_ms);
                turn.effect(GroupEffect::RebalanceCompleted);
                let ids: Vec<Arc<str>> = self.members.keys().cloned().collect();
                for member_id in ids {
                    self.assign(&member_id, assignments.get(&member_id).cloned().unwrap_or_default());
                    let member = self.members.get_mut(&member_id).expect("nobody left since the ids were listed");
                    if let Some(reply) = member.awaiting_sync.take() {
                        turn.answer_sync(reply, self.synced(&member_id));
                        self.restart_session(&member_id, turn);
                    }
                }
            }
            Err(failure) => self.assignment_failed(failure, turn),
        }
    }

    fn assignment_failed(&mut self, failure: AppendFailure, turn: &mut Turn<'_>) {
        let error = failure.for_group_metadata();
        log::error!(
            "Storing generation {} of group {} failed with {failure}; the group rebalances",
            self.generation_id,
            self.group_id
        );
        self.drop_assignments(error, turn);
        self.prepare_rebalance_if_possible(format_args!("Error {error} when storing its assignment"), turn);
    }

    fn drop_assignments(&mut self, error: GroupError, turn: &mut Turn<'_>) {
        let ids: Vec<Arc<str>> = self.members.keys().cloned().collect();
        for member_id in ids {
            self.assign(&member_id, Bytes::new());
            let member = self.members.get_mut(&member_id).expect("nobody left since the ids were listed");
            if let Some(reply) = member.awaiting_sync.take() {
                turn.answer_sync(reply, Err(error));
                // Its session was not watched while it waited.
                self.restart_session(&member_id, turn);
            }
        }
    }

    fn sync_received(&mut self, member_id: &str, turn: &mut Turn<'_>) {
        if self.pending_sync.remove(member_id) && self.pending_sync.is_empty() {
            turn.cancel_timer(&self.group_id, TimerKind::Sync);
        }
    }

    fn end_sync_phase(&mut self, turn: &mut Turn<'_>) {
        self.pending_sync.clear();
        turn.cancel_timer(&self.group_id, TimerKind::Sync);
    }

    fn sync_phase_is_over(&mut self, turn: &mut Turn<'_>) {
        if !matches!(self.state, GroupState::CompletingRebalance | GroupState::Stable) || self.pending_sync.is_empty() {
            return;
        }
        let silent = std::mem::take(&mut self.pending_sync);
        log::info!("Group {} removed members who haven't sent their sync request: {silent:?}", self.group_id);
        for member_id in &silent {
            self.remove(member_id, turn);
        }
        self.prepare_rebalance(format_args!("Removing {} members on sync timeout", silent.len()), turn);
    }

    // Heartbeat

    pub(crate) fn heartbeat(&mut self, caller: &Caller, turn: &mut Turn<'_>) -> Result<(), GroupError> {
        self.check_caller(caller)?;
        match self.state {
            GroupState::Empty => Err(GroupError::UnknownMemberId),
            GroupState::Dead => Err(GroupError::CoordinatorNotAvailable),
            GroupState::CompletingRebalance | GroupState::Stable => {
                self.restart_session(&caller.member_id, turn);
                Ok(())
            }
            GroupState::PreparingRebalance => {
                self.restart_session(&caller.member_id, turn);
                Err(GroupError::RebalanceInProgress)
            }
        }
    }

    // Leave

    /// One answer per leaving member, in order.
    pub(crate) fn leave(
        &mut self,
        leaving: &[Leaving],
        turn: &mut Turn<'_>,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        if self.state == GroupState::Dead {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        Ok(leaving.iter().map(|member| self.leave_one(member, turn)).collect())
    }

    fn leave_one(&mut self, leaving: &Leaving, turn: &mut Turn<'_>) -> Result<(), GroupError> {
        let instance = leaving.group_instance_id.as_deref();
        let member_id = if leaving.member_id.is_empty() {
            let current = instance.and_then(|instance| self.static_members.get(instance));
            Arc::clone(current.ok_or(GroupError::UnknownMemberId)?)
        } else if self.pending_members.contains_key(&leaving.member_id) {
            self.pending_member_is_gone(&leaving.member_id, turn);
            return Ok(());
        } else {
            self.check_member(&leaving.member_id, instance)?;
            Arc::clone(&leaving.member_id)
        };
        let reason = leaving.reason.as_deref().unwrap_or("not provided");
        log::info!("Member {member_id} has left group {}; client reason: {reason}", self.group_id);
        self.remove_and_rebalance(&member_id, "left", turn);
        Ok(())
    }

    pub(super) fn pending_member_is_gone(&mut self, member_id: &str, turn: &mut Turn<'_>) {
        self.remove(member_id, turn);
        self.complete_join_if_everyone_is_here(turn);
    }

    fn remove_and_rebalance(&mut self, member_id: &str, why: &str, turn: &mut Turn<'_>) {
        self.remove(member_id, turn);
        match self.state {
            GroupState::Dead | GroupState::Empty => {}
            GroupState::Stable | GroupState::CompletingRebalance => {
                self.prepare_rebalance(format_args!("Member {member_id} {why}"), turn);
            }
            GroupState::PreparingRebalance => self.complete_join_if_everyone_is_here(turn),
        }
    }

    // Checks

    fn check_caller(&self, caller: &Caller) -> Result<(), GroupError> {
        if self.state == GroupState::Dead {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        self.check_member(&caller.member_id, caller.group_instance_id.as_deref())?;
        if caller.generation_id != self.generation_id {
            return Err(GroupError::IllegalGeneration);
        }
        Ok(())
    }

    // Timers

    /// The sessions of a group that was just loaded start now.
    pub(crate) fn loaded(&mut self, turn: &mut Turn<'_>) {
        if self.members.len() > turn.settings.group_max_size {
            self.prepare_rebalance(
                format_args!("Freshly-loaded group is over capacity ({})", turn.settings.group_max_size),
                turn,
            );
        }
        for member_id in self.members.keys() {
            self.restart_session(member_id, turn);
        }
    }

    pub(crate) fn timer_fired(&mut self, kind: &TimerKind, turn: &mut Turn<'_>) {
        match kind {
            TimerKind::Join => self.join_phase_is_over(turn),
            TimerKind::Sync => self.sync_phase_is_over(turn),
            TimerKind::Pending(member_id) => {
                if self.pending_members.contains_key(member_id) {
                    log::info!("Pending member {member_id} of group {} did not join in time", self.group_id);
                    self.pending_member_is_gone(member_id, turn);
                }
            }
            TimerKind::Session(member_id) => {
                let Some(member) = self.members.get(member_id) else { return };
                // Who waits for us cannot be expected to send heartbeats. Its session starts anew with our answer.
                let waits = member.awaiting_join.is_some() || member.awaiting_sync.is_some();
                if member.is_new || !waits {
                    log::info!("Member {member_id} in group {} has failed, removing it from the group", self.group_id);
                    self.remove_and_rebalance(member_id, "sent no heartbeat within its session timeout", turn);
                }
            }
        }
    }
}
