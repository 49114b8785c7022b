//! Who leads a partition, which replicas are in sync, and what is committed: the core of a hosted partition.
//! It reads no clock and no log; whoever calls it passes the time and the ends of the log.
//!
//! ```text
//!            decision with a newer leader epoch, this broker leads
//!   Idle ─────────────────────────────────────────────────────────▶ Leader ◀──┐ newer epoch, still leads
//!    │                                                              │  ▲ ▲────┘
//!    │ ... another leads                      ... another leads     ▼  │  ... this broker leads
//!    └────────────────────────────────────────────────────────▶ Follower ◀─┐
//!                                                                   └──────┘ newer epoch, another leads
//! ```
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/cluster/Partition.scala and server/ReplicaManager.scala.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::model::{BrokerEpoch, BrokerId, ControllerEpoch, LeaderEpoch, Offset, PartitionEpoch, TopicId};
use crate::replica::isr::{IsrChange, IsrState};
use crate::replica::replica_selector::ReadableFollower;

/// What the controller decided for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub controller_epoch: ControllerEpoch,
    pub leader: BrokerId,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    pub isr: Vec<BrokerId>,
    /// All replicas, the preferred leader first.
    pub assignment: Vec<BrokerId>,
    pub adding: Vec<BrokerId>,
    pub removing: Vec<BrokerId>,
    /// The replica is created by this decision, so a missing log is no loss.
    pub is_new: bool,
    /// Zero when the controller keeps no ids.
    pub topic_id: TopicId,
}

/// What to do about a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Lead,
    Follow,
    /// The epoch is the current one, and the controller has begun to keep topic ids: the log takes the id.
    AdoptTopicId,
    /// The epoch is the current one, and the controller no longer keeps topic ids: nothing changes here.
    Acknowledge,
    Refuse(DecisionRefusal),
}

/// Why a decision is not obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecisionRefusal {
    /// The log belongs to another incarnation of the topic.
    InconsistentTopicId,
    /// This broker is not among the replicas.
    NotAssigned,
    /// A decision of this leader epoch, or a later one, is in force already.
    StaleLeaderEpoch,
}

/// What a transition did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The decision is older than an ISR change that is already known; nothing changed, and that is no error.
    Skipped,
    Done {
        /// The role is another than before.
        new_role: bool,
        /// The leader epoch is another than before.
        new_epoch: bool,
    },
}

/// The partition cannot answer as the role or epoch that the request assumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongLeadership {
    NotLeader,
    /// The requester knows an older leader epoch.
    Fenced,
    /// The requester knows a newer leader epoch.
    Unknown,
    /// The requester is not among the replicas that this leader knows.
    NotAReplica,
    /// A later registration of the requester has fetched already (KIP-903).
    StaleFollower,
}

/// What the leader knows of another replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follower {
    pub broker: BrokerId,
    /// -1 until its first fetch of this leadership.
    pub log_end_offset: Offset,
    pub log_start_offset: Offset,
    /// The newest registration that fetched; -1 while none has said.
    broker_epoch: BrokerEpoch,
    last_fetch_leader_log_end_offset: Offset,
    /// `None` until its first fetch of this leadership, or while it counts as never heard of.
    last_fetch: Option<Instant>,
    /// The latest moment at which it is known to have had everything that the leader had.
    last_caught_up: Option<Instant>,
}

/// A member of the ISR that should leave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutOfSync {
    pub broker: BrokerId,
    pub log_end_offset: Offset,
    /// `None` if it was never known to have everything.
    pub lags_for: Option<Duration>,
}

/// A fetch of a follower, as the leader admitted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerFetch {
    pub broker: BrokerId,
    /// -1 when the request does not say.
    pub broker_epoch: BrokerEpoch,
    /// Under which it was admitted.
    pub leader_epoch: LeaderEpoch,
    pub fetch_offset: Offset,
    pub log_start_offset: Offset,
    /// The leader's own at the time of the read.
    pub leader_log_end_offset: Offset,
}

impl Follower {
    fn unknown(broker: BrokerId) -> Follower {
        Follower {
            broker,
            log_end_offset: Offset(-1),
            log_start_offset: Offset(-1),
            broker_epoch: BrokerEpoch(-1),
            last_fetch_leader_log_end_offset: Offset(-1),
            last_fetch: None,
            last_caught_up: None,
        }
    }

    fn is_caught_up(&self, log_end_offset: Offset, now: Instant, lag_max: Duration) -> bool {
        self.log_end_offset == log_end_offset
            || self.last_caught_up.is_some_and(|at| now.saturating_duration_since(at) <= lag_max)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    /// No decision has been accepted yet.
    Idle,
    Leader {
        /// Where the log ended when this leader epoch began.
        epoch_start_offset: Offset,
    },
    Follower,
}

/// The leadership of one partition as this broker knows it.
#[derive(Clone, Debug)]
pub struct Leadership {
    local: BrokerId,
    role: Role,
    controller_epoch: ControllerEpoch,
    leader: Option<BrokerId>,
    /// -1 until the first decision, so that epoch 0 is accepted.
    leader_epoch: LeaderEpoch,
    /// Of a leader: the epoch that its leadership began with. It has not followed since.
    led_since: LeaderEpoch,
    assignment: Vec<BrokerId>,
    adding: Vec<BrokerId>,
    removing: Vec<BrokerId>,
    isr: IsrState,
    /// The assignment without this broker. Kept on a follower too, but reset when it leads.
    followers: Vec<Follower>,
}

impl Leadership {
    pub fn new(local: BrokerId) -> Leadership {
        Leadership {
            local,
            role: Role::Idle,
            controller_epoch: ControllerEpoch(-1),
            leader: None,
            leader_epoch: LeaderEpoch(-1),
            led_since: LeaderEpoch(-1),
            assignment: Vec::new(),
            adding: Vec::new(),
            removing: Vec::new(),
            isr: IsrState::committed(Vec::new(), PartitionEpoch(-1)),
            followers: Vec::new(),
        }
    }

    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader { .. })
    }

    /// Whether this broker has led from that epoch on to now: whoever read the partition then has missed nothing.
    pub fn has_led_since(&self, epoch: LeaderEpoch) -> bool {
        self.is_leader() && self.led_since <= epoch && epoch <= self.leader_epoch
    }

    pub fn leader(&self) -> Option<BrokerId> {
        self.leader
    }

    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    pub fn isr(&self) -> &IsrState {
        &self.isr
    }

    /// Of whoever decided last.
    pub fn controller_epoch(&self) -> ControllerEpoch {
        self.controller_epoch
    }

    /// Where the log ended when this broker began to lead in the current epoch; `None` on a follower.
    pub fn epoch_start_offset(&self) -> Option<Offset> {
        match self.role {
            Role::Leader { epoch_start_offset } => Some(epoch_start_offset),
            Role::Idle | Role::Follower => None,
        }
    }

    /// Decides about a LeaderAndIsr decision; the controller's and the broker's epoch have been checked before.
    /// `same_epoch_allowed` is true for a controller that migrates to KRaft: it repeats decisions.
    pub fn judge(&self, decision: &Decision, log_topic_id: TopicId, same_epoch_allowed: bool) -> Verdict {
        let asked = decision.topic_id;
        if !asked.is_zero() && !log_topic_id.is_zero() && asked != log_topic_id {
            return Verdict::Refuse(DecisionRefusal::InconsistentTopicId);
        }
        let leads = decision.leader == self.local;
        if decision.leader_epoch > self.leader_epoch
            || (decision.leader_epoch == self.leader_epoch && same_epoch_allowed)
        {
            if !decision.assignment.contains(&self.local) {
                return Verdict::Refuse(DecisionRefusal::NotAssigned);
            }
            return if leads { Verdict::Lead } else { Verdict::Follow };
        }
        if decision.leader_epoch < self.leader_epoch {
            return Verdict::Refuse(DecisionRefusal::StaleLeaderEpoch);
        }
        if !asked.is_zero() && log_topic_id.is_zero() {
            Verdict::AdoptTopicId
        } else if asked.is_zero() && !log_topic_id.is_zero() && !leads {
            Verdict::Acknowledge
        } else {
            Verdict::Refuse(DecisionRefusal::StaleLeaderEpoch)
        }
    }

    /// Whether `lead` or `follow` would skip the decision because a newer ISR is known already. Under a later leader epoch none
    /// is: both epochs only grow, but in a state that somebody has deleted, which is made anew under the next leader epoch and
    /// whose versions begin with 0 again. Kafka's brokers skip such a decision, and any other of that state.
    pub fn is_overtaken(&self, decision: &Decision) -> bool {
        decision.leader_epoch <= self.leader_epoch && decision.partition_epoch < self.isr.partition_epoch()
    }

    /// Takes over, or goes on, as the leader. The caller assigns the epoch to `log_end_offset` in the log's epoch cache
    /// if the epoch is new, and then looks at the high watermark again.
    pub fn lead(&mut self, decision: &Decision, log_end_offset: Offset, now: Instant) -> Transition {
        if self.is_overtaken(decision) {
            return Transition::Skipped;
        }
        let new_role = !self.is_leader();
        let new_epoch = decision.leader_epoch > self.leader_epoch;
        if new_role {
            self.led_since = decision.leader_epoch;
        }
        self.take(decision);
        self.isr = IsrState::committed(decision.isr.clone(), decision.partition_epoch);
        if new_epoch || new_role {
            for follower in &mut self.followers {
                // In the ISR: treated as caught up now, so it is not dropped before its first fetch. Out of it: it must
                // not hold back the high watermark.
                let in_sync_since = decision.isr.contains(&follower.broker).then_some(now);
                if new_role {
                    *follower = Follower { last_caught_up: in_sync_since, ..Follower::unknown(follower.broker) };
                } else {
                    follower.last_fetch_leader_log_end_offset = log_end_offset;
                    follower.last_fetch = in_sync_since;
                    follower.last_caught_up = in_sync_since;
                }
            }
            self.role = Role::Leader { epoch_start_offset: log_end_offset };
        }
        self.leader_epoch = decision.leader_epoch;
        Transition::Done { new_role, new_epoch }
    }

    /// Becomes, or stays, a follower.
    pub fn follow(&mut self, decision: &Decision) -> Transition {
        if self.is_overtaken(decision) {
            return Transition::Skipped;
        }
        let new_role = self.role != Role::Follower;
        let new_epoch = decision.leader_epoch > self.leader_epoch;
        self.take(decision);
        // Only the leader knows who is in sync.
        self.isr = IsrState::committed(Vec::new(), decision.partition_epoch);
        self.role = Role::Follower;
        self.leader_epoch = decision.leader_epoch;
        Transition::Done { new_role, new_epoch }
    }

    fn take(&mut self, decision: &Decision) {
        self.controller_epoch = decision.controller_epoch;
        self.leader = Some(decision.leader);
        self.assignment = decision.assignment.clone();
        self.adding = decision.adding.clone();
        self.removing = decision.removing.clone();
        let mut others: BTreeSet<BrokerId> = decision.assignment.iter().copied().collect();
        others.remove(&self.local);
        self.followers.retain(|follower| others.remove(&follower.broker));
        // Those that are left are new.
        let new = decision.assignment.iter().copied().filter(|broker| others.remove(broker));
        self.followers.extend(new.map(Follower::unknown));
    }

    /// Checks the leader epoch that a request carries (`None` if it carries none), then that this broker leads.
    pub fn check_leader(&self, current_leader_epoch: Option<LeaderEpoch>) -> Result<(), WrongLeadership> {
        self.check_epoch(current_leader_epoch)?;
        if self.is_leader() { Ok(()) } else { Err(WrongLeadership::NotLeader) }
    }

    pub fn check_epoch(&self, current_leader_epoch: Option<LeaderEpoch>) -> Result<(), WrongLeadership> {
        match current_leader_epoch {
            Some(epoch) if epoch < self.leader_epoch => Err(WrongLeadership::Fenced),
            Some(epoch) if epoch > self.leader_epoch => Err(WrongLeadership::Unknown),
            Some(_) | None => Ok(()),
        }
    }

    /// `min.insync.replicas`, but never more than there are replicas: such a setting could not be met.
    fn effective_min_isr(&self, min_insync_replicas: i32) -> usize {
        usize::try_from(min_insync_replicas).unwrap_or(0).min(self.followers.len() + 1)
    }

    /// Whether the ISR is large enough for `acks=all`.
    pub fn has_min_isr(&self, min_insync_replicas: i32) -> bool {
        self.isr.members().len() >= self.effective_min_isr(min_insync_replicas)
    }

    /// How far every in-sync replica is, as their known log ends justify: the smallest log end offset of the maximal ISR and
    /// of those about to join it. To there all is committed, unless the ISR is below its minimum. `None` if another leads.
    /// `now` is asked for only if it matters, which it does not while all replicas are in sync.
    pub fn in_sync_end(
        &self,
        log_end_offset: Offset,
        now: impl Fn() -> Instant,
        lag_max: Duration,
        is_alive: impl Fn(BrokerId) -> bool,
    ) -> Option<Offset> {
        if !self.is_leader() {
            return None;
        }
        let mut end = log_end_offset;
        for follower in &self.followers {
            if follower.log_end_offset < end
                && (self.isr.maximal_contains(follower.broker)
                    || (follower.is_caught_up(log_end_offset, now(), lag_max) && is_alive(follower.broker)))
            {
                end = follower.log_end_offset;
            }
        }
        Some(end)
    }

    /// Records where a follower fetches. What was admitted under another leader epoch, or comes from an earlier life of
    /// the follower, is refused: a late fetch must not make a replica look better than it is.
    pub fn follower_fetched(&mut self, fetch: &FollowerFetch, now: Instant) -> Result<(), WrongLeadership> {
        if !self.is_leader() || fetch.leader_epoch != self.leader_epoch {
            return Err(WrongLeadership::NotLeader);
        }
        let follower = self.followers.iter_mut().find(|follower| follower.broker == fetch.broker);
        let follower = follower.ok_or(WrongLeadership::NotAReplica)?;
        if fetch.broker_epoch.0 >= 0 && fetch.broker_epoch < follower.broker_epoch {
            return Err(WrongLeadership::StaleFollower);
        }
        follower.broker_epoch = follower.broker_epoch.max(fetch.broker_epoch);
        if fetch.fetch_offset >= fetch.leader_log_end_offset {
            follower.last_caught_up = follower.last_caught_up.max(Some(now));
        } else if fetch.fetch_offset >= follower.last_fetch_leader_log_end_offset {
            // It had everything that was there when it asked last.
            follower.last_caught_up = follower.last_caught_up.max(follower.last_fetch);
        }
        follower.log_end_offset = fetch.fetch_offset;
        follower.log_start_offset = fetch.log_start_offset;
        follower.last_fetch_leader_log_end_offset =
            follower.last_fetch_leader_log_end_offset.max(fetch.leader_log_end_offset);
        follower.last_fetch = Some(now);
        Ok(())
    }

    /// Whether the follower that has just fetched may join the ISR: it has all that is committed, and all that there was
    /// when this leader epoch began. To be asked with its fetch and at no other time: what it said before may have gone with
    /// its disk since. False while a change is pending. Source: Partition.scala (updateFollowerFetchState, maybeExpandIsr).
    pub fn may_join(&self, broker: BrokerId, high_watermark: Offset, is_alive: impl Fn(BrokerId) -> bool) -> bool {
        let Role::Leader { epoch_start_offset } = self.role else { return false };
        if self.isr.is_pending() || self.isr.members().contains(&broker) {
            return false;
        }
        let follower = self.followers.iter().find(|follower| follower.broker == broker);
        let has_all =
            follower.is_some_and(|follower| follower.log_end_offset >= high_watermark.max(epoch_start_offset));
        has_all && is_alive(broker)
    }

    /// Members of the ISR that have not had everything for longer than they may, with where they are and for how long
    /// they lag, if they ever fetched. None while a change is pending.
    pub fn out_of_sync(&self, log_end_offset: Offset, now: Instant, lag_max: Duration) -> Vec<OutOfSync> {
        if !self.is_leader() || self.isr.is_pending() {
            return Vec::new();
        }
        let members = self.isr.members().iter().filter(|&&member| member != self.local);
        members
            .filter_map(|&broker| {
                let follower = self.followers.iter().find(|follower| follower.broker == broker);
                if follower.is_some_and(|follower| follower.is_caught_up(log_end_offset, now, lag_max)) {
                    return None;
                }
                let last = follower.and_then(|follower| follower.last_caught_up);
                Some(OutOfSync {
                    broker,
                    log_end_offset: follower.map_or(Offset(-1), |follower| follower.log_end_offset),
                    lags_for: last.map(|at| now.saturating_duration_since(at)),
                })
            })
            .collect()
    }

    /// The followers in the ISR that have what a consumer asks for. Source: ReplicaManager.scala (findPreferredReadReplica).
    pub fn readable_followers(&self, offset: Offset, now: Instant) -> Vec<ReadableFollower> {
        let in_sync = self.followers.iter().filter(|follower| self.isr.members().contains(&follower.broker));
        in_sync
            .filter(|follower| follower.log_end_offset >= offset && follower.log_start_offset <= offset)
            .map(|follower| ReadableFollower {
                broker: follower.broker,
                log_end_offset: follower.log_end_offset,
                caught_up_since: follower.last_caught_up.map(|at| now.saturating_duration_since(at)),
            })
            .collect()
    }

    /// Asks for another ISR, see [`IsrState::propose`].
    pub fn propose_isr(&mut self, change: IsrChange, number: u64) -> Option<Vec<BrokerId>> {
        self.isr.propose(change, number)
    }

    /// The controller has answered what is in force. False if that was for another epoch, or is older than what is known:
    /// then nothing changes, and the next decision tells.
    pub fn settle_isr(
        &mut self,
        leader_epoch: LeaderEpoch,
        isr: Vec<BrokerId>,
        partition_epoch: PartitionEpoch,
    ) -> bool {
        leader_epoch == self.leader_epoch && self.isr.settle(isr, partition_epoch)
    }

    /// The controller has not changed the ISR and will not: it may be asked again.
    pub fn refuse_isr(&mut self) {
        self.isr.refuse();
    }

    /// A follower has fetched at that time in a session that left this partition out, before anything was appended from
    /// `first_appended` on: it had all that was there, if what it has ends no earlier. One that counts as never heard of
    /// polled under an earlier epoch, and may be dead since.
    pub fn follower_polled(&mut self, broker: BrokerId, at: Instant, first_appended: Offset) {
        let follower = self.followers.iter_mut().find(|follower| follower.broker == broker);
        if let Some(follower) = follower
            && follower.last_fetch.is_some()
            && follower.log_end_offset >= first_appended
        {
            follower.last_caught_up = follower.last_caught_up.max(Some(at));
            follower.last_fetch = follower.last_fetch.max(Some(at));
        }
    }

    pub fn has_followers(&self) -> bool {
        !self.followers.is_empty()
    }

    pub fn is_replica(&self, broker: BrokerId) -> bool {
        self.followers.iter().any(|follower| follower.broker == broker)
    }

    /// The smallest log start offset over this replica and the live others: below it, records are gone everywhere.
    pub fn low_watermark(&self, log_start_offset: Offset, is_alive: impl Fn(BrokerId) -> bool) -> Offset {
        self.followers
            .iter()
            .filter(|follower| is_alive(follower.broker))
            .map(|follower| follower.log_start_offset)
            .fold(log_start_offset, Offset::min)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    const LOCAL: BrokerId = BrokerId(1);
    const ID: TopicId = TopicId([1; 16]);
    const LAG_MAX: Duration = Duration::from_secs(30);

    /// A moment, by its distance from one that all of a test's moments share.
    fn at(ms: u64) -> Instant {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        *START + Duration::from_millis(ms)
    }

    fn decision(leader: i32, leader_epoch: i32, replicas: &[i32]) -> Decision {
        let brokers: Vec<BrokerId> = replicas.iter().copied().map(BrokerId).collect();
        Decision {
            controller_epoch: ControllerEpoch(1),
            leader: BrokerId(leader),
            leader_epoch: LeaderEpoch(leader_epoch),
            partition_epoch: PartitionEpoch(leader_epoch),
            isr: brokers.clone(),
            assignment: brokers,
            adding: Vec::new(),
            removing: Vec::new(),
            is_new: true,
            topic_id: ID,
        }
    }

    fn leading(epoch: i32, replicas: &[i32], log_end_offset: i64) -> Leadership {
        let mut leadership = Leadership::new(LOCAL);
        leadership.lead(&decision(1, epoch, replicas), Offset(log_end_offset), at(1_000));
        leadership
    }

    fn fetch(broker: i32, leader_epoch: i32, fetch_offset: i64, log_start_offset: i64, ends: i64) -> FollowerFetch {
        FollowerFetch {
            broker: BrokerId(broker),
            broker_epoch: BrokerEpoch(-1),
            leader_epoch: LeaderEpoch(leader_epoch),
            fetch_offset: Offset(fetch_offset),
            log_start_offset: Offset(log_start_offset),
            leader_log_end_offset: Offset(ends),
        }
    }

    /// Every cell of the table in Kafka's becomeLeaderOrFollower that looks at one partition.
    #[test]
    fn a_decision_is_judged_by_topic_id_then_leader_epoch_then_assignment() {
        use DecisionRefusal::{InconsistentTopicId, NotAssigned, StaleLeaderEpoch};
        use Verdict::{Acknowledge, AdoptTopicId, Follow, Lead, Refuse};
        let other = TopicId([2; 16]);
        type Case = (i32, i32, &'static [i32], TopicId, TopicId, Verdict);
        // Our epoch is 5. Columns: epoch, leader, replicas, id asked, id of the log, verdict.
        let cases: &[Case] = &[
            (6, 1, &[1, 2], ID, ID, Lead),
            (6, 2, &[1, 2], ID, ID, Follow),
            (6, -1, &[1, 2], ID, ID, Follow),
            (6, 1, &[1, 2], TopicId::ZERO, ID, Lead),
            (6, 1, &[1, 2], ID, TopicId::ZERO, Lead),
            (6, 2, &[2, 3], ID, ID, Refuse(NotAssigned)),
            (6, 1, &[1, 2], other, ID, Refuse(InconsistentTopicId)),
            (4, 1, &[1, 2], other, ID, Refuse(InconsistentTopicId)),
            (4, 1, &[1, 2], ID, ID, Refuse(StaleLeaderEpoch)),
            (4, 1, &[1, 2], ID, TopicId::ZERO, Refuse(StaleLeaderEpoch)),
            (5, 1, &[1, 2], ID, ID, Refuse(StaleLeaderEpoch)),
            (5, 2, &[1, 2], ID, ID, Refuse(StaleLeaderEpoch)),
            (5, 1, &[1, 2], ID, TopicId::ZERO, AdoptTopicId),
            (5, 2, &[1, 2], ID, TopicId::ZERO, AdoptTopicId),
            (5, 2, &[1, 2], TopicId::ZERO, ID, Acknowledge),
            (5, 1, &[1, 2], TopicId::ZERO, ID, Refuse(StaleLeaderEpoch)),
            (5, 1, &[1, 2], TopicId::ZERO, TopicId::ZERO, Refuse(StaleLeaderEpoch)),
        ];
        let leadership = leading(5, &[1, 2], 0);
        for &(epoch, leader, replicas, asked, known, expected) in cases {
            let decision = Decision { topic_id: asked, ..decision(leader, epoch, replicas) };
            assert_eq!(leadership.judge(&decision, known, false), expected, "{decision:?} with the log at {known}");
        }
        assert_eq!(leadership.judge(&decision(1, 5, &[1]), ID, true), Lead, "a migrating controller repeats itself");
        assert_eq!(leadership.judge(&decision(1, 4, &[1]), ID, true), Refuse(StaleLeaderEpoch));
    }

    #[test]
    fn the_first_epoch_zero_is_accepted() {
        assert_eq!(Leadership::new(LOCAL).judge(&decision(1, 0, &[1]), TopicId::ZERO, false), Verdict::Lead);
    }

    #[test]
    fn a_single_replica_commits_what_it_has() {
        let leadership = leading(0, &[1], 0);
        assert_eq!(leadership.in_sync_end(Offset(17), || at(2_000), LAG_MAX, |_| true), Some(Offset(17)));
        assert!([1, 2].iter().all(|min_isr| leadership.has_min_isr(*min_isr)));
    }

    #[test]
    fn an_isr_below_min_insync_replicas_has_all_that_its_members_have() {
        let mut shrunk = decision(1, 1, &[1, 2, 3]);
        shrunk.isr = vec![LOCAL];
        let mut leadership = leading(0, &[1, 2, 3], 0);
        leadership.lead(&shrunk, Offset(10), at(1_000));
        assert!(!leadership.has_min_isr(2));
        assert!(leadership.has_min_isr(1));
        assert_eq!(leadership.in_sync_end(Offset(10), || at(1_000_000), LAG_MAX, |_| true), Some(Offset(10)));
    }

    #[test]
    fn the_high_watermark_is_the_smallest_end_of_the_isr_and_of_those_about_to_join() {
        let mut decided = decision(1, 0, &[1, 2, 3]);
        decided.isr = vec![BrokerId(1), BrokerId(2)];
        let mut leadership = Leadership::new(LOCAL);
        leadership.lead(&decided, Offset(0), at(100_000));
        let committed = |leadership: &Leadership, now_ms, alive: bool| {
            leadership.in_sync_end(Offset(100), || at(now_ms), LAG_MAX, |_| alive).map(|offset| offset.0)
        };
        assert_eq!(committed(&leadership, 100_000, true), Some(-1), "in the ISR, but not heard of yet");
        leadership.follower_fetched(&fetch(2, 0, 60, 0, 100), at(100_100)).expect("a replica");
        assert_eq!(committed(&leadership, 100_100, true), Some(60));
        // Broker 3 catches up to where the leader was, and so delays the high watermark while it may join the ISR.
        leadership.follower_fetched(&fetch(3, 0, 50, 0, 50), at(100_200)).expect("a replica");
        assert_eq!(committed(&leadership, 100_200, true), Some(50));
        assert_eq!(committed(&leadership, 100_200, false), Some(60), "the dead do not join");
        assert_eq!(committed(&leadership, 200_000, true), Some(60), "the slow do not join");
    }

    /// What a session's fetch says of a partition that it left out: when the follower was caught up, and nothing of what
    /// it has.
    #[test]
    fn a_follower_that_polled_was_caught_up_if_it_had_all_and_has_no_more_for_it() {
        let polled = |leadership: &mut Leadership, ms, first_appended| {
            leadership.follower_polled(BrokerId(2), at(ms), Offset(first_appended));
            let follower = &leadership.followers[0];
            (follower.last_caught_up, follower.log_end_offset.0)
        };
        let mut leadership = leading(0, &[1, 2], 5);
        assert_eq!(polled(&mut leadership, 9_000, 5), (Some(at(1_000)), -1), "it has never fetched from this leader");
        leadership.follower_fetched(&fetch(2, 0, 5, 0, 5), at(2_000)).expect("a replica");
        assert_eq!(polled(&mut leadership, 3_000, 5), (Some(at(3_000)), 5));
        // What it did not have yet was there when it polled.
        assert_eq!(polled(&mut leadership, 40_000, 6), (Some(at(3_000)), 5));
        let committed = |now_ms| leadership.in_sync_end(Offset(7), || at(now_ms), LAG_MAX, |_| true);
        assert_eq!(committed(33_000), Some(Offset(5)), "the high watermark waits for what it has");
        leadership.follower_fetched(&fetch(2, 0, 5, 0, 7), at(41_000)).expect("a replica");
        assert_eq!(leadership.followers[0].last_caught_up, Some(at(3_000)), "at its last poll that left it out");
    }

    /// As after a controlled shutdown: it polled a moment ago, and is not in the ISR of the next epoch.
    #[test]
    fn who_left_the_isr_with_the_epoch_holds_nothing_back_by_its_earlier_polls() {
        let mut leadership = leading(0, &[1, 2, 3], 5);
        for broker in [2, 3] {
            leadership.follower_fetched(&fetch(broker, 0, 5, 0, 5), at(2_000)).expect("a replica");
        }
        let mut without = decision(1, 1, &[1, 2, 3]);
        without.isr = vec![BrokerId(1), BrokerId(2)];
        leadership.lead(&without, Offset(5), at(3_000));
        [2, 3].into_iter().for_each(|broker| leadership.follower_polled(BrokerId(broker), at(2_900), Offset(5)));
        leadership.follower_fetched(&fetch(2, 1, 6, 0, 6), at(3_100)).expect("a replica");
        let committed = leadership.in_sync_end(Offset(6), || at(3_200), LAG_MAX, |_| true);
        assert_eq!(committed, Some(Offset(6)));
        leadership.follower_fetched(&fetch(3, 1, 5, 0, 5), at(3_300)).expect("a replica");
        leadership.follower_polled(BrokerId(3), at(3_400), Offset(5));
        let committed = leadership.in_sync_end(Offset(6), || at(3_500), LAG_MAX, |_| true);
        assert_eq!(committed, Some(Offset(5)), "it is back, and about to join");
    }

    #[test]
    fn a_reelected_leader_remembers_where_its_followers_are_and_a_new_one_does_not() {
        let mut leadership = leading(0, &[1, 2], 0);
        leadership.follower_fetched(&fetch(2, 0, 7, 3, 7), at(2_000)).expect("a replica");
        let again = leadership.lead(&decision(1, 1, &[1, 2]), Offset(9), at(3_000));
        assert_eq!(again, Transition::Done { new_role: false, new_epoch: true });
        assert_eq!(leadership.followers[0].log_end_offset, Offset(7));
        assert_eq!(leadership.epoch_start_offset(), Some(Offset(9)));
        leadership.follow(&decision(2, 2, &[1, 2]));
        assert_eq!(leadership.check_leader(Some(LeaderEpoch(2))), Err(WrongLeadership::NotLeader));
        assert_eq!(leadership.epoch_start_offset(), None);
        let anew = leadership.lead(&decision(1, 3, &[1, 2]), Offset(9), at(4_000));
        assert_eq!(anew, Transition::Done { new_role: true, new_epoch: true });
        assert_eq!(leadership.followers[0].log_end_offset, Offset(-1));
    }

    #[test]
    fn an_assignment_costs_its_length_and_each_of_its_brokers_is_one_follower() {
        let followers = |leadership: &Leadership| -> Vec<i32> {
            leadership.followers.iter().map(|follower| follower.broker.0).collect()
        };
        let mut leadership = leading(0, &[3, 1, 2, 3], 0);
        assert_eq!(followers(&leadership), [3, 2]);
        leadership.follow(&decision(2, 1, &[4, 2, 1, 4]));
        assert_eq!(followers(&leadership), [2, 4]);
        // By its square it would take hours.
        let long: Vec<i32> = (0..1_000_000).collect();
        leadership.follow(&decision(2, 2, &long));
        leadership.follow(&decision(2, 3, &long));
        assert_eq!(leadership.followers.len(), 999_999);
    }

    #[test]
    fn a_decision_older_than_a_known_isr_change_is_skipped() {
        let mut leadership = leading(5, &[1, 2], 0);
        let overtaken = Decision { partition_epoch: PartitionEpoch(4), ..decision(2, 5, &[1, 2]) };
        assert_eq!(leadership.follow(&overtaken), Transition::Skipped);
        assert_eq!(leadership.lead(&overtaken, Offset(0), at(0)), Transition::Skipped);
        assert!(leadership.is_leader() && leadership.leader_epoch() == LeaderEpoch(5));
    }

    #[test]
    fn a_state_that_was_deleted_and_made_anew_is_obeyed_though_its_versions_begin_again() {
        let anew = Decision { partition_epoch: PartitionEpoch(0), ..decision(1, 6, &[1, 2]) };
        let mut leadership = leading(5, &[1, 2], 0);
        assert_eq!(leadership.lead(&anew, Offset(0), at(0)), Transition::Done { new_role: false, new_epoch: true });
        assert_eq!(
            (leadership.leader_epoch(), leadership.isr().partition_epoch()),
            (LeaderEpoch(6), PartitionEpoch(0))
        );
        let mut leadership = leading(5, &[1, 2], 0);
        let followed = Decision { leader: BrokerId(2), ..anew };
        assert_eq!(leadership.follow(&followed), Transition::Done { new_role: true, new_epoch: true });
        assert_eq!(
            (leadership.leader_epoch(), leadership.isr().partition_epoch()),
            (LeaderEpoch(6), PartitionEpoch(0))
        );
    }

    #[test]
    fn requests_are_fenced_by_the_leader_epoch_they_carry() {
        let leadership = leading(5, &[1], 0);
        assert_eq!(leadership.check_leader(None), Ok(()));
        assert_eq!(leadership.check_leader(Some(LeaderEpoch(5))), Ok(()));
        assert_eq!(leadership.check_leader(Some(LeaderEpoch(4))), Err(WrongLeadership::Fenced));
        assert_eq!(leadership.check_leader(Some(LeaderEpoch(6))), Err(WrongLeadership::Unknown));
        assert_eq!(Leadership::new(LOCAL).check_leader(None), Err(WrongLeadership::NotLeader));
    }

    #[test]
    fn the_low_watermark_counts_live_replicas_only() {
        let mut leadership = leading(0, &[1, 2, 3], 0);
        leadership.follower_fetched(&fetch(2, 0, 9, 4, 9), at(0)).expect("a replica");
        assert_eq!(leadership.low_watermark(Offset(6), |_| true), Offset(-1));
        assert_eq!(leadership.low_watermark(Offset(6), |broker| broker == BrokerId(2)), Offset(4));
        assert_eq!(leadership.low_watermark(Offset(6), |_| false), Offset(6));
        assert_eq!(leadership.follower_fetched(&fetch(9, 0, 9, 4, 9), at(0)), Err(WrongLeadership::NotAReplica));
    }
}
