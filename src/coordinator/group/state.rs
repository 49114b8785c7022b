//! One group: who is in it, in which state it is, and what it is called in records and descriptions.
//! What happens to it stands in `rebalance` (membership) and `commits` (offsets).
//!
//! ```text
//!                first member joins                 everyone joined, or time is up
//!     ┌───────┐ ──────────────────▶ ┌────────────────────┐ ────────────▶ ┌─────────────────────┐
//!     │ Empty │                     │ PreparingRebalance │               │ CompletingRebalance │
//!     └───────┘ ◀────────────────── └────────────────────┘ ◀──────────── └─────────────────────┘
//!         │       nobody is left        ▲                   someone joins,        │ leader's assignment
//!         ▼                             │                   leaves or fails       ▼ is stored
//!     ┌──────┐  from any state          │                                    ┌────────┐
//!     │ Dead │  when deleted, expired   └─────────────────────────────────── │ Stable │
//!     └──────┘  or handed over             someone joins, leaves or fails    └────────┘
//! ```
//! Source: kafka 3.9 GroupMetadata.scala. A heartbeat in CompletingRebalance is answered without an error there,
//! whatever the comment above that state says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::coordinator::group::error::GroupError;
use crate::coordinator::group::member::{Member, protocol_bytes};
use crate::coordinator::group::offsets::GroupOffsets;
use crate::coordinator::group::pending::PendingAppend;
use crate::coordinator::group::records::{GroupMetadata, GroupRecord};
use crate::coordinator::group::requests::{CommitAnswer, JoinAnswer, JoinedMember, Protocol};
use crate::coordinator::group::subscription::SubscribedTopics;
use crate::coordinator::group::turn::{AppendId, ReplyTo, TimerKind, Turn};
use crate::model::GenerationId;

/// The protocol type of ordinary consumers, the only one whose metadata the coordinator reads.
pub(super) const CONSUMER: &str = "consumer";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum GroupState {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
    Dead,
}

impl GroupState {
    /// As DescribeGroups and ListGroups spell it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            GroupState::Empty => "Empty",
            GroupState::PreparingRebalance => "PreparingRebalance",
            GroupState::CompletingRebalance => "CompletingRebalance",
            GroupState::Stable => "Stable",
            GroupState::Dead => "Dead",
        }
    }

    fn may_become(self, next: GroupState) -> bool {
        use GroupState::{CompletingRebalance, Dead, Empty, PreparingRebalance, Stable};
        matches!(
            (self, next),
            (Empty | CompletingRebalance | Stable, PreparingRebalance)
                | (PreparingRebalance, CompletingRebalance | Empty)
                | (CompletingRebalance, Stable)
                | (_, Dead)
        )
    }
}

impl fmt::Display for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(super) group_id: Arc<str>,
    pub(super) state: GroupState,
    /// When the group entered its state; `None` if it was loaded from a record too old to say.
    pub(super) state_since_ms: Option<i64>,
    pub(super) protocol_type: Option<Arc<str>>,
    pub(super) protocol_name: Option<Arc<str>>,
    pub(super) generation_id: GenerationId,
    /// Always a member; `None` only while there is no member.
    pub(super) leader: Option<Arc<str>>,
    /// By member id. Ordered, so that whatever picks "any member" picks the same one each time.
    pub(super) members: BTreeMap<Arc<str>, Member>,
    /// Member id by group instance id. Each value is a key of `members`.
    pub(super) static_members: HashMap<Arc<str>, Arc<str>>,
    /// Member ids handed out that nobody has joined with yet, with the requests that they were handed out to. None is a key
    /// of `members`.
    pub(super) pending_members: BTreeMap<Arc<str>, ReplyTo>,
    /// Of those that were pending and are no more, for whoever holds all that are.
    no_longer_pending: Vec<ReplyTo>,
    /// Members of this generation that have not sent SyncGroup yet.
    pub(super) pending_sync: BTreeSet<Arc<str>>,
    /// How many members have a JoinGroup waiting.
    pub(super) awaiting_join: usize,
    /// How many members offer each protocol.
    pub(super) protocol_counts: HashMap<Arc<str>, usize>,
    /// Topics that some member subscribes to; `None` when the group is not of type `consumer` or its metadata is
    /// not readable, which counts as "may be any".
    pub(super) subscribed_topics: Option<SubscribedTopics>,
    /// Some while a first rebalance is held back for more members: what may still be waited, in milliseconds.
    pub(super) initial_delay: Option<InitialDelay>,
    /// A member joined during the very first rebalance, so its initial delay may be extended.
    pub(super) new_member_added: bool,
    /// Appends whose outcome is not known yet.
    pub(super) appending: BTreeMap<AppendId, PendingAppend>,
    /// What members and pending member ids take in memory, about.
    pub(super) member_bytes: usize,
    pub(super) offsets: GroupOffsets,
}

/// A group without its texts, members and offsets.
pub(super) const GROUP_BYTES: usize = 1024;

/// A member id that was handed out, with its timer.
pub(super) fn pending_bytes(member_id: &str) -> usize {
    256 + member_id.len()
}

#[derive(Clone, Copy, Debug)]
pub(super) struct InitialDelay {
    /// The delay that runs now.
    pub(super) delay_ms: i32,
    /// What may be waited after it.
    pub(super) remaining_ms: i32,
}

impl Group {
    pub(crate) fn new(group_id: Arc<str>, now_ms: i64) -> Group {
        Group {
            group_id,
            state: GroupState::Empty,
            state_since_ms: Some(now_ms),
            protocol_type: None,
            protocol_name: None,
            generation_id: GenerationId(0),
            leader: None,
            members: BTreeMap::new(),
            static_members: HashMap::new(),
            pending_members: BTreeMap::new(),
            no_longer_pending: Vec::new(),
            pending_sync: BTreeSet::new(),
            awaiting_join: 0,
            protocol_counts: HashMap::new(),
            subscribed_topics: None,
            initial_delay: None,
            new_member_added: false,
            appending: BTreeMap::new(),
            member_bytes: 0,
            offsets: GroupOffsets::default(),
        }
    }

    /// The group that a record describes: Stable if it has members, else Empty.
    pub(crate) fn from_record(group_id: Arc<str>, metadata: &GroupMetadata) -> Group {
        let mut group = Group::new(group_id, 0);
        group.state = if metadata.members.is_empty() { GroupState::Empty } else { GroupState::Stable };
        group.state_since_ms = metadata.current_state_timestamp_ms;
        group.generation_id = metadata.generation_id;
        group.protocol_type = Some(Arc::clone(&metadata.protocol_type)).filter(|t| !t.is_empty());
        group.protocol_name = metadata.protocol_name.clone();
        for stored in &metadata.members {
            let protocols = metadata
                .protocol_name
                .iter()
                .map(|name| Protocol { name: Arc::clone(name), metadata: stored.subscription.clone() })
                .collect();
            let member = Member {
                group_instance_id: stored.group_instance_id.clone(),
                client_id: Arc::clone(&stored.client_id),
                client_host: Arc::clone(&stored.client_host),
                rebalance_timeout_ms: stored.rebalance_timeout_ms,
                session_timeout_ms: stored.session_timeout_ms,
                protocols,
                assignment: stored.assignment.clone(),
                awaiting_join: None,
                awaiting_sync: None,
                is_new: false,
            };
            // Two entries for one member cannot come from a coordinator; the first one holds.
            let known = group.members.contains_key(&stored.member_id);
            if !known && stored.group_instance_id.as_ref().is_none_or(|id| !group.static_members.contains_key(id)) {
                group.insert(Arc::clone(&stored.member_id), member);
            }
        }
        let stored_leader = metadata.leader.as_ref().filter(|leader| group.members.contains_key(*leader));
        if let Some(leader) = stored_leader {
            group.leader = Some(Arc::clone(leader));
        }
        group.subscribed_topics = group.compute_subscribed_topics();
        group
    }

    pub(crate) fn group_id(&self) -> &Arc<str> {
        &self.group_id
    }

    pub(crate) fn state(&self) -> GroupState {
        self.state
    }

    pub(crate) fn protocol_type(&self) -> &str {
        self.protocol_type.as_deref().unwrap_or("")
    }

    pub(crate) fn generation_id(&self) -> GenerationId {
        self.generation_id
    }

    pub(crate) fn offsets(&self) -> &GroupOffsets {
        &self.offsets
    }

    pub(crate) fn offsets_mut(&mut self) -> &mut GroupOffsets {
        &mut self.offsets
    }

    /// What the group takes in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        let subscribed = self.subscribed_topics.as_ref().map_or(0, SubscribedTopics::bytes);
        GROUP_BYTES + self.group_id.len() + self.member_bytes + subscribed + self.offsets.bytes()
    }

    /// Whether nobody could tell the group from one that does not exist: it was made by a request that left nothing.
    pub(super) fn is_blank(&self) -> bool {
        self.state == GroupState::Empty
            && self.generation_id == GenerationId(0)
            && self.pending_members.is_empty()
            && self.appending.is_empty()
            && self.offsets.is_empty()
    }

    pub(super) fn is_pending(&self, member_id: &str) -> bool {
        self.pending_members.contains_key(member_id)
    }

    pub(super) fn take_no_longer_pending(&mut self) -> Vec<ReplyTo> {
        std::mem::take(&mut self.no_longer_pending)
    }

    pub(crate) fn member_count(&self) -> usize {
        self.members.len()
    }

    pub(super) fn become_state(&mut self, next: GroupState, now_ms: i64) {
        assert!(self.state.may_become(next), "group {} is {} and cannot become {next}", self.group_id, self.state);
        self.state = next;
        self.state_since_ms = Some(now_ms);
    }

    pub(super) fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    /// The longest that any member asks to be waited for; never negative.
    pub(super) fn rebalance_timeout_ms(&self) -> i32 {
        self.members.values().map(|member| member.rebalance_timeout_ms).fold(0, i32::max)
    }

    pub(super) fn everyone_joined(&self) -> bool {
        self.members.len() == self.awaiting_join && self.pending_members.is_empty()
    }

    // Members come and go only through the functions below, which keep the indexes beside `members` true.

    /// Adds a member that is not there yet. The first one decides the protocol type (the caller sets it) and leads.
    pub(super) fn insert(&mut self, member_id: Arc<str>, member: Member) {
        if let Some(instance) = &member.group_instance_id {
            self.static_members.insert(Arc::clone(instance), Arc::clone(&member_id));
        }
        if self.leader.is_none() {
            self.leader = Some(Arc::clone(&member_id));
        }
        count(&mut self.protocol_counts, &member.protocols);
        self.awaiting_join += usize::from(member.awaiting_join.is_some());
        if let Some(handed_out_to) = self.pending_members.remove(&member_id) {
            self.no_longer_pending.push(handed_out_to);
            self.member_bytes -= pending_bytes(&member_id);
        }
        self.member_bytes += member.bytes(&member_id);
        let previous = self.members.insert(member_id, member);
        debug_assert!(previous.is_none(), "a member is added once");
    }

    /// Removes a member or a pending member id, if it is there; whatever it waits for is answered.
    pub(super) fn remove(&mut self, member_id: &str, turn: &mut Turn<'_>) {
        if let Some((id, member)) = self.members.remove_entry(member_id) {
            self.member_bytes -= member.bytes(&id);
            uncount(&mut self.protocol_counts, &member.protocols);
            if let Some(reply) = member.awaiting_join {
                self.awaiting_join -= 1;
                turn.answer_join(reply, JoinAnswer::refused(Arc::from(""), GroupError::UnknownMemberId));
            }
            if let Some(reply) = member.awaiting_sync {
                turn.answer_sync(reply, Err(GroupError::UnknownMemberId));
            }
            if let Some(instance) = &member.group_instance_id {
                self.static_members.remove(instance);
            }
            self.pending_sync.remove(member_id);
            turn.cancel_timer(&self.group_id, TimerKind::Session(id));
        }
        if self.is_leader(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
        if let Some((id, handed_out_to)) = self.pending_members.remove_entry(member_id) {
            self.no_longer_pending.push(handed_out_to);
            self.member_bytes -= pending_bytes(&id);
            turn.cancel_timer(&self.group_id, TimerKind::Pending(id));
        }
    }

    /// Hands out a member id, which nobody has, for somebody to join with.
    pub(super) fn add_pending(&mut self, member_id: &Arc<str>, handed_out_to: ReplyTo) {
        if let Some(earlier) = self.pending_members.insert(Arc::clone(member_id), handed_out_to) {
            self.no_longer_pending.push(earlier);
        } else {
            self.member_bytes += pending_bytes(member_id);
        }
    }

    pub(super) fn assign(&mut self, member_id: &str, assignment: Bytes) {
        let member = self.members.get_mut(member_id).expect("the caller looked the member up");
        self.member_bytes -= member.assignment.len();
        self.member_bytes += assignment.len();
        member.assignment = assignment;
    }

    /// Gives a static member a new member id and fences whoever used the old one.
    pub(super) fn replace_static_member(&mut self, old_id: &str, new_id: &Arc<str>, turn: &mut Turn<'_>) {
        let (old_id, mut member) = self.members.remove_entry(old_id).expect("a static member is a member");
        self.member_bytes -= member.bytes(&old_id);
        self.member_bytes += member.bytes(new_id);
        if let Some(reply) = member.awaiting_join.take() {
            self.awaiting_join -= 1;
            turn.answer_join(reply, JoinAnswer::refused(Arc::clone(&old_id), GroupError::FencedInstanceId));
        }
        if let Some(reply) = member.awaiting_sync.take() {
            turn.answer_sync(reply, Err(GroupError::FencedInstanceId));
        }
        turn.cancel_timer(&self.group_id, TimerKind::Session(Arc::clone(&old_id)));
        if let Some(instance) = &member.group_instance_id {
            self.static_members.insert(Arc::clone(instance), Arc::clone(new_id));
        }
        if self.is_leader(&old_id) {
            self.leader = Some(Arc::clone(new_id));
        }
        // Kafka leaves the old id here, which removes nobody but rebalances the group when the sync phase ends.
        if self.pending_sync.remove(&old_id) {
            self.pending_sync.insert(Arc::clone(new_id));
        }
        self.members.insert(Arc::clone(new_id), member);
    }

    /// Takes over what a member says of itself when it joins again.
    pub(super) fn update_member(
        &mut self,
        member_id: &str,
        protocols: Vec<Protocol>,
        rebalance_timeout_ms: i32,
        session_timeout_ms: i32,
        reply: Option<ReplyTo>,
        turn: &mut Turn<'_>,
    ) {
        let member = self.members.get_mut(member_id).expect("the caller looked the member up");
        uncount(&mut self.protocol_counts, &member.protocols);
        count(&mut self.protocol_counts, &protocols);
        self.member_bytes -= protocol_bytes(&member.protocols);
        self.member_bytes += protocol_bytes(&protocols);
        member.protocols = protocols;
        member.rebalance_timeout_ms = rebalance_timeout_ms;
        member.session_timeout_ms = session_timeout_ms;
        let replaced = std::mem::replace(&mut member.awaiting_join, reply);
        self.awaiting_join += usize::from(reply.is_some());
        if let Some(older) = replaced {
            self.awaiting_join -= 1;
            // The member asked again, most likely on a new connection. Kafka forgets the older request; we answer it
            // with the one refusal that every client takes as "ask again later".
            let id = Arc::from(member_id);
            turn.answer_join(older, JoinAnswer::refused(id, GroupError::CoordinatorLoadInProgress));
        }
    }

    /// The member exists, and holds the instance id that it claims.
    pub(super) fn check_member(&self, member_id: &str, group_instance_id: Option<&str>) -> Result<(), GroupError> {
        if let Some(instance) = group_instance_id {
            match self.static_members.get(instance) {
                Some(current) if **current != *member_id => {
                    log::info!("Member {member_id} of group {} is fenced: {instance} is now {current}", self.group_id);
                    return Err(GroupError::FencedInstanceId);
                }
                Some(_) => {}
                None => return Err(GroupError::UnknownMemberId),
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(GroupError::UnknownMemberId) }
    }

    pub(super) fn restart_session(&self, member_id: &str, turn: &mut Turn<'_>) {
        if let Some((id, member)) = self.members.get_key_value(member_id) {
            turn.start_timer(&self.group_id, TimerKind::Session(Arc::clone(id)), member.session_timeout_ms);
        }
    }

    /// The group leaves this coordinator: everyone who waits is told `error`, every timer stops.
    pub(crate) fn die(&mut self, error: GroupError, turn: &mut Turn<'_>) {
        for (member_id, member) in &mut self.members {
            if let Some(reply) = member.awaiting_join.take() {
                turn.answer_join(reply, JoinAnswer::refused(Arc::clone(member_id), error));
            }
            if let Some(reply) = member.awaiting_sync.take() {
                turn.answer_sync(reply, Err(error));
            }
            turn.cancel_timer(&self.group_id, TimerKind::Session(Arc::clone(member_id)));
        }
        self.awaiting_join = 0;
        for (member_id, handed_out_to) in std::mem::take(&mut self.pending_members) {
            self.no_longer_pending.push(handed_out_to);
            turn.cancel_timer(&self.group_id, TimerKind::Pending(member_id));
        }
        turn.cancel_timer(&self.group_id, TimerKind::Join);
        turn.cancel_timer(&self.group_id, TimerKind::Sync);
        for pending in std::mem::take(&mut self.appending).into_values() {
            if let PendingAppend::Offsets(storing) = pending {
                turn.answer_commit(storing.reply, CommitAnswer::Stored(Err(error)));
            }
        }
        self.become_state(GroupState::Dead, turn.now.wall_ms);
    }

    /// Whether every member offers the protocol. With no members, so does everyone.
    fn all_offer(&self, protocol_name: &str) -> bool {
        self.protocol_counts.get(protocol_name).copied().unwrap_or(0) == self.members.len()
    }

    /// Whether somebody with these protocols can be a member beside those that are there.
    pub(super) fn supports(&self, protocol_type: &str, protocols: &[Protocol]) -> bool {
        if self.state == GroupState::Empty {
            !protocol_type.is_empty() && !protocols.is_empty()
        } else {
            self.protocol_type.as_deref() == Some(protocol_type) && protocols.iter().any(|p| self.all_offer(&p.name))
        }
    }

    /// The protocol with the most votes among those that all offer; of equals, the one voted for first.
    /// `None` only if there are no members, or members from a damaged record that offer nothing.
    pub(super) fn select_protocol(&self) -> Option<Arc<str>> {
        let mut votes: Vec<(&Arc<str>, usize)> = Vec::new();
        for vote in self.members.values().filter_map(|member| member.vote(|name| self.all_offer(name))) {
            match votes.iter_mut().find(|(name, _)| *name == vote) {
                Some((_, count)) => *count += 1,
                None => votes.push((vote, 1)),
            }
        }
        let most = votes.iter().map(|(_, count)| *count).max()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| Arc::clone(name))
    }

    /// The leader, elected anew among the members that joined if it did not. False if nobody joined at all.
    pub(super) fn elect_joined_leader(&mut self) -> bool {
        let Some(leader) = &self.leader else { return false };
        if self.members.get(leader).is_some_and(|member| member.awaiting_join.is_some()) {
            return true;
        }
        let Some((joined, _)) = self.members.iter().find(|(_, member)| member.awaiting_join.is_some()) else {
            return false;
        };
        let joined = Arc::clone(joined);
        log::info!(
            "Group leader {leader} of group {} did not join before the rebalance timeout; {joined} leads now",
            self.group_id
        );
        self.leader = Some(joined);
        true
    }

    pub(super) fn compute_subscribed_topics(&self) -> Option<SubscribedTopics> {
        if self.protocol_type.as_deref() != Some(CONSUMER) {
            return None;
        }
        if self.members.is_empty() {
            return Some(SubscribedTopics::default());
        }
        let protocol_name = self.protocol_name.as_deref()?;
        match SubscribedTopics::of(self.members.values().map(|member| member.metadata(protocol_name))) {
            Ok(topics) => Some(topics),
            Err(index) => {
                log::warn!(
                    "Metadata of member {} of group {} for protocol {protocol_name} is not a subscription; the topics \
                     of the group are unknown",
                    self.members.keys().nth(index).map_or("", |member_id| member_id),
                    self.group_id
                );
                None
            }
        }
    }

    /// Whether some member subscribes to the topic, as far as the coordinator can tell; true if it cannot.
    pub(super) fn may_subscribe_to(&self, topic: &str) -> bool {
        self.subscribed_topics.as_ref().is_none_or(|topics| topics.contains(topic))
    }

    /// What the leader is told of everyone.
    pub(super) fn joined_members(&self) -> Vec<JoinedMember> {
        let protocol_name = self.protocol_name.as_deref().unwrap_or("");
        self.members
            .iter()
            .map(|(member_id, member)| JoinedMember {
                member_id: Arc::clone(member_id),
                group_instance_id: member.group_instance_id.clone(),
                metadata: member.metadata(protocol_name),
            })
            .collect()
    }

    /// The group as a record, with the assignment of each member by `assignment_of`.
    pub(super) fn record(&self, assignment_of: impl Fn(&str, &Member) -> Bytes) -> GroupRecord {
        let protocol_name = self.protocol_name.as_deref().unwrap_or("");
        GroupRecord::Metadata(Some(Box::new(GroupMetadata {
            protocol_type: self.protocol_type.clone().unwrap_or_else(|| Arc::from("")),
            generation_id: self.generation_id,
            protocol_name: self.protocol_name.clone(),
            leader: self.leader.clone(),
            current_state_timestamp_ms: self.state_since_ms,
            members: self
                .members
                .iter()
                .map(|(id, member)| member.stored(id, protocol_name, assignment_of(id, member)))
                .collect(),
        })))
    }

    /// As DescribeGroups shows it: metadata and assignments only of a stable group.
    pub(crate) fn description(&self) -> GroupDescription {
        let protocol_name = self.protocol_name.as_deref().filter(|_| self.state == GroupState::Stable);
        GroupDescription {
            state: self.state,
            protocol_type: self.protocol_type.clone().unwrap_or_else(|| Arc::from("")),
            protocol_name: protocol_name.map(Arc::from).unwrap_or_else(|| Arc::from("")),
            members: self
                .members
                .iter()
                .map(|(member_id, member)| MemberDescription {
                    member_id: Arc::clone(member_id),
                    group_instance_id: member.group_instance_id.clone(),
                    client_id: Arc::clone(&member.client_id),
                    client_host: Arc::clone(&member.client_host),
                    metadata: protocol_name.map(|name| member.metadata(name)).unwrap_or_default(),
                    assignment: protocol_name.map(|_| member.assignment.clone()).unwrap_or_default(),
                })
                .collect(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupDescription {
    pub(crate) state: GroupState,
    pub(crate) protocol_type: Arc<str>,
    pub(crate) protocol_name: Arc<str>,
    pub(crate) members: Vec<MemberDescription>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberDescription {
    pub(crate) member_id: Arc<str>,
    pub(crate) group_instance_id: Option<Arc<str>>,
    pub(crate) client_id: Arc<str>,
    pub(crate) client_host: Arc<str>,
    pub(crate) metadata: Bytes,
    pub(crate) assignment: Bytes,
}

fn count(counts: &mut HashMap<Arc<str>, usize>, protocols: &[Protocol]) {
    for protocol in protocols {
        *counts.entry(Arc::clone(&protocol.name)).or_default() += 1;
    }
}

fn uncount(counts: &mut HashMap<Arc<str>, usize>, protocols: &[Protocol]) {
    for protocol in protocols {
        if let Some(count) = counts.get_mut(&protocol.name) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&protocol.name);
            }
        }
    }
}
