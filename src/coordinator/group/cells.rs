//! Every state × event cell of the group protocol, and the rules that no table shows, on the core alone.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::config::sections::GroupConfig;
use crate::coordinator::core::Now;
use crate::coordinator::group::error::GroupError;
use crate::coordinator::group::groups::Groups;
use crate::coordinator::group::offsets::FoundOffset;
use crate::coordinator::group::records::{CommittedOffset, GroupRecord};
use crate::coordinator::group::requests::{
    Caller, Commit, CommitAnswer, Join, JoinAnswer, Leaving, OffsetToCommit, Protocol, Sync, SyncAnswer,
};
use crate::coordinator::group::state::{Group, GroupState};
use crate::coordinator::group::turn::{Action, Answer, AppendId, GroupEffect, ReplyTo, TimerKey, TimerKind, Turn};
use crate::coordinator::timers::TimerQueue;
use crate::coordinator::topic_log::AppendFailure;
use crate::model::{GenerationId, LeaderEpoch, Offset};

/// One group, a clock moved by hand, and a log that stores at once unless a test holds it back.
struct Bench {
    group: Group,
    settings: GroupConfig,
    origin: Instant,
    elapsed_ms: u64,
    timers: TimerQueue<TimerKind>,
    next_append: u64,
    next_reply: u64,
    next_offset: i64,
    /// Appends that wait for `finish_append`, while `hold_appends`.
    held: VecDeque<AppendId>,
    hold_appends: bool,
    fail_appends: Option<AppendFailure>,
    /// Every record appended.
    records: Vec<GroupRecord>,
    joins: HashMap<ReplyTo, JoinAnswer>,
    syncs: HashMap<ReplyTo, SyncAnswer>,
    commits: HashMap<ReplyTo, CommitAnswer>,
    effects: Vec<GroupEffect>,
}

const WALL_START_MS: i64 = 1_700_000_000_000;

impl Bench {
    fn new() -> Bench {
        Bench::of(Group::new(Arc::from("g"), WALL_START_MS))
    }

    fn of(group: Group) -> Bench {
        Bench {
            group,
            settings: GroupConfig::default(),
            origin: Instant::now(),
            elapsed_ms: 0,
            timers: TimerQueue::default(),
            next_append: 0,
            next_reply: 0,
            next_offset: 0,
            held: VecDeque::new(),
            hold_appends: false,
            fail_appends: None,
            records: Vec::new(),
            joins: HashMap::new(),
            syncs: HashMap::new(),
            commits: HashMap::new(),
            effects: Vec::new(),
        }
    }

    fn step<R>(&mut self, step: impl FnOnce(&mut Group, ReplyTo, &mut Turn<'_>) -> R) -> (ReplyTo, R) {
        let reply = ReplyTo(self.next_reply);
        self.next_reply += 1;
        let mut actions = VecDeque::new();
        let now = Now {
            instant: self.origin + Duration::from_millis(self.elapsed_ms),
            wall_ms: WALL_START_MS + i64::try_from(self.elapsed_ms).expect("tests are short"),
        };
        let settings = self.settings.clone();
        let mut turn = Turn {
            now,
            settings: &settings,
            leader_epoch: LeaderEpoch(0),
            actions: &mut actions,
            bytes_elsewhere: 0,
            next_append: &mut self.next_append,
        };
        let result = step(&mut self.group, reply, &mut turn);
        while let Some(action) = turn.actions.pop_front() {
            match action {
                Action::Answer(reply, Answer::Join(answer)) => {
                    assert!(self.joins.insert(reply, answer).is_none(), "{reply:?} answered twice");
                }
                Action::Answer(reply, Answer::Sync(answer)) => {
                    assert!(self.syncs.insert(reply, answer).is_none(), "{reply:?} answered twice");
                }
                Action::Answer(reply, Answer::Commit(answer)) => {
                    assert!(self.commits.insert(reply, answer).is_none(), "{reply:?} answered twice");
                }
                Action::Append { append, records, .. } => {
                    self.records.extend(records.records);
                    if self.hold_appends {
                        self.held.push_back(append);
                    } else {
                        let outcome = self.fail_appends.map_or(Ok(Offset(self.next_offset)), Err);
                        self.next_offset += 1;
                        self.group.appended(append, outcome, &mut turn);
                    }
                }
                Action::Forget { records, .. } => self.records.extend(records.records),
                Action::StartTimer(key, deadline) => self.timers.start(key, deadline),
                Action::CancelTimer(key) => self.timers.cancel(&key),
                Action::Effect(effect) => self.effects.push(effect),
            }
        }
        (reply, result)
    }

    fn finish_append(&mut self, outcome: Result<Offset, AppendFailure>) {
        let append = self.held.pop_front().expect("an append is held");
        self.step(|group, _, turn| group.appended(append, outcome, turn));
    }

    /// Lets time pass and fires what is due, in order.
    fn pass(&mut self, ms: u64) {
        let end = self.elapsed_ms + ms;
        while let Some(next) = self.timers.next_deadline() {
            let due = u64::try_from((next - self.origin).as_millis()).expect("tests are short");
            if due > end {
                break;
            }
            self.elapsed_ms = self.elapsed_ms.max(due);
            while let Some(TimerKey { kind, .. }) = self.timers.expired(next) {
                self.step(|group, _, turn| group.timer_fired(&kind, turn));
            }
        }
        self.elapsed_ms = end;
    }

    fn join(&mut self, join: Join) -> ReplyTo {
        self.step(|group, reply, turn| group.join(join, reply, turn)).0
    }

    fn sync(&mut self, caller: Caller, assignments: &[(&str, &'static str)]) -> ReplyTo {
        let assignments =
            assignments.iter().map(|(id, bytes)| (Arc::from(*id), Bytes::from_static(bytes.as_bytes()))).collect();
        let sync = Sync { caller, protocol_type: None, protocol_name: None, assignments };
        self.step(|group, reply, turn| group.sync(sync, reply, turn)).0
    }

    fn heartbeat(&mut self, caller: &Caller) -> Result<(), GroupError> {
        self.step(|group, _, turn| group.heartbeat(caller, turn)).1
    }

    fn leave(&mut self, member_id: &str, instance: Option<&str>) -> Result<(), GroupError> {
        let leaving =
            Leaving { member_id: Arc::from(member_id), group_instance_id: instance.map(Arc::from), reason: None };
        self.step(|group, _, turn| group.leave(&[leaving], turn)).1?.remove(0)
    }

    fn commit(&mut self, caller: Caller, offset: i64) -> ReplyTo {
        let commit = Commit {
            caller,
            offsets: vec![to_commit("orders", 0, offset)],
            transaction: None,
            must_be_verified: false,
        };
        self.step(|group, reply, turn| group.commit_offsets(commit, reply, turn)).0
    }

    fn me(&self, member_id: &str) -> Caller {
        Caller { member_id: Arc::from(member_id), group_instance_id: None, generation_id: self.group.generation_id() }
    }

    fn state(&self) -> GroupState {
        self.group.state()
    }

    fn members(&self) -> Vec<&str> {
        self.group.members.keys().map(|id| &**id).collect()
    }

    fn is_running(&self, kind: TimerKind) -> bool {
        self.timers.is_running(&TimerKey { of: Arc::from("g"), kind })
    }

    /// Members `a` (the leader) and `b`, and static member `s` with instance `i`.
    fn in_state(state: GroupState) -> Bench {
        let mut bench = Bench::new();
        for id in ["a", "b"] {
            bench.join(first_join(id));
        }
        bench.join(Join { group_instance_id: Some(Arc::from("i")), ..first_join("s") });
        bench.pass(3_000);
        bench.pass(3_000);
        assert_eq!(bench.state(), GroupState::CompletingRebalance);
        match state {
            GroupState::CompletingRebalance => {}
            GroupState::Stable => bench.become_stable(),
            GroupState::PreparingRebalance => {
                bench.become_stable();
                let asked = bench.join(rejoin("b", "changed"));
                assert!(!bench.joins.contains_key(&asked));
            }
            GroupState::Empty => {
                for id in ["a", "b", "s"] {
                    assert_eq!(bench.leave(id, None), Ok(()));
                }
            }
            GroupState::Dead => {
                bench.step(|group, _, turn| group.die(GroupError::NotCoordinator, turn));
            }
        }
        assert_eq!(bench.state(), state);
        bench
    }

    fn become_stable(&mut self) {
        self.sync(self.me("b"), &[]);
        self.sync(self.me("s"), &[]);
        self.sync(self.me("a"), &[("a", "0,1"), ("b", "2,3"), ("s", "4,5")]);
        assert_eq!(self.state(), GroupState::Stable);
    }
}

fn to_commit(topic: &str, partition: i32, offset: i64) -> OffsetToCommit {
    let committed = CommittedOffset {
        offset: Offset(offset),
        leader_epoch: LeaderEpoch(-1),
        metadata: Arc::from(""),
        commit_timestamp_ms: WALL_START_MS,
        expire_timestamp_ms: None,
    };
    OffsetToCommit { topic: Arc::from(topic), partition, committed }
}

fn protocol(name: &str, metadata: &str) -> Protocol {
    Protocol { name: Arc::from(name), metadata: Bytes::copy_from_slice(metadata.as_bytes()) }
}

/// A client without a member id, which gets `id`.
fn first_join(id: &str) -> Join {
    Join { member_id: Arc::from(""), new_member_id: Arc::from(id), ..rejoin(id, "m") }
}

fn rejoin(id: &str, metadata: &str) -> Join {
    Join {
        member_id: Arc::from(id),
        new_member_id: Arc::from(""),
        group_instance_id: None,
        require_known_member_id: false,
        can_skip_assignment: false,
        client_id: Arc::from("client"),
        client_host: Arc::from("/127.0.0.1"),
        rebalance_timeout_ms: 60_000,
        session_timeout_ms: 10_000,
        protocol_type: Arc::from("test"),
        protocols: vec![protocol("range", metadata), protocol("roundrobin", metadata)],
        reason: None,
    }
}

fn anybody(generation_id: i32) -> Caller {
    Caller { member_id: Arc::from(""), group_instance_id: None, generation_id: GenerationId(generation_id) }
}

/// What became of a request, in a word.
fn said(error: Option<GroupError>) -> String {
    error.map_or("ok".to_owned(), |error| format!("{error:?}"))
}

impl Bench {
    fn joined(&self, reply: ReplyTo) -> String {
        self.joins.get(&reply).map_or("waits".to_owned(), |answer| said(answer.error))
    }

    fn synced(&self, reply: ReplyTo) -> String {
        match self.syncs.get(&reply) {
            None => "waits".to_owned(),
            Some(Ok(synced)) => String::from_utf8_lossy(&synced.assignment).into_owned(),
            Some(Err(error)) => format!("{error:?}"),
        }
    }

    fn stored(&self, reply: ReplyTo) -> String {
        match self.commits.get(&reply) {
            None => "waits".to_owned(),
            Some(CommitAnswer::Refused(error)) => format!("{error:?}"),
            Some(CommitAnswer::Stored(outcome)) => said(outcome.err()),
        }
    }
}

type Event = fn(&mut Bench) -> String;

/// One row per event, one column per state: what is answered, and the state after it where it changes.
/// Source: kafka 3.9 GroupCoordinator.scala.
#[test]
fn every_event_in_every_state() {
    use GroupState::{CompletingRebalance, Dead, Empty, PreparingRebalance, Stable};
    const GONE: &str = "CoordinatorNotAvailable";
    const UNKNOWN: &str = "UnknownMemberId";
    const FENCED: &str = "FencedInstanceId";
    const ILLEGAL: &str = "IllegalGeneration";
    const REBALANCE: &str = "RebalanceInProgress";
    const REBALANCES: &str = "waits, PreparingRebalance";
    let columns = [Empty, PreparingRebalance, CompletingRebalance, Stable, Dead];
    #[rustfmt::skip]
    let rows: &[(&str, Event, [&str; 5])] = &[
        // JoinGroup
        ("a new member joins", |b| { let r = b.join(first_join("n")); b.joined(r) },
            [REBALANCES, "waits", REBALANCES, REBALANCES, GONE]),
        ("a new member asks for its id", |b| {
            let r = b.join(Join { require_known_member_id: true, ..first_join("n") });
            assert!(b.state() == Dead || b.is_running(TimerKind::Pending(Arc::from("n"))));
            b.joined(r)
        }, ["MemberIdRequired", "MemberIdRequired", "MemberIdRequired", "MemberIdRequired", GONE]),
        ("a new member with protocols of its own", |b| {
            let r = b.join(Join { protocols: vec![protocol("mine", "")], ..first_join("n") });
            b.joined(r)
        }, [REBALANCES, "InconsistentGroupProtocol", "InconsistentGroupProtocol", "InconsistentGroupProtocol", GONE]),
        ("a new member of another protocol type", |b| {
            let r = b.join(Join { protocol_type: Arc::from("connect"), ..first_join("n") });
            b.joined(r)
        }, [REBALANCES, "InconsistentGroupProtocol", "InconsistentGroupProtocol", "InconsistentGroupProtocol", GONE]),
        ("a new member without protocols", |b| {
            let r = b.join(Join { protocols: Vec::new(), ..first_join("n") });
            b.joined(r)
        }, ["InconsistentGroupProtocol", "InconsistentGroupProtocol", "InconsistentGroupProtocol",
            "InconsistentGroupProtocol", GONE]),
        ("a stranger claims to be a member", |b| { let r = b.join(rejoin("x", "m")); b.joined(r) },
            [UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, GONE]),
        ("somebody claims the instance of another", |b| {
            let r = b.join(Join { group_instance_id: Some(Arc::from("i")), ..rejoin("b", "m") });
            b.joined(r)
        }, [UNKNOWN, FENCED, FENCED, FENCED, GONE]),
        ("the leader joins again, unchanged", |b| { let r = b.join(rejoin("a", "m")); b.joined(r) },
            [UNKNOWN, "waits", "ok", REBALANCES, GONE]),
        ("a follower joins again, unchanged", |b| { let r = b.join(rejoin("b", "m")); b.joined(r) },
            [UNKNOWN, "waits", "ok", "ok", GONE]),
        ("a follower joins again, changed", |b| { let r = b.join(rejoin("b", "new")); b.joined(r) },
            [UNKNOWN, "waits", REBALANCES, REBALANCES, GONE]),
        ("a static member comes back without its id", |b| {
            let r = b.join(Join { group_instance_id: Some(Arc::from("i")), ..first_join("s2") });
            b.joined(r)
        }, [REBALANCES, "waits", REBALANCES, "ok", GONE]),
        // SyncGroup
        ("the leader syncs", |b| { let r = b.sync(b.me("a"), &[("a", "x")]); b.synced(r) },
            [UNKNOWN, REBALANCE, "x, Stable", "0,1", GONE]),
        ("a follower syncs", |b| { let r = b.sync(b.me("b"), &[]); b.synced(r) },
            [UNKNOWN, REBALANCE, "waits", "2,3", GONE]),
        ("a stranger syncs", |b| { let r = b.sync(b.me("x"), &[]); b.synced(r) },
            [UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, GONE]),
        ("a member syncs an older generation", |b| {
            let caller = Caller { generation_id: GenerationId(0), ..b.me("b") };
            let r = b.sync(caller, &[]); b.synced(r)
        }, [UNKNOWN, ILLEGAL, ILLEGAL, ILLEGAL, GONE]),
        ("a member syncs under another protocol", |b| {
            let sync = Sync {
                caller: b.me("b"), protocol_type: Some(Arc::from("test")), protocol_name: Some(Arc::from("other")),
                assignments: Vec::new(),
            };
            let (r, ()) = b.step(|group, reply, turn| group.sync(sync, reply, turn)); b.synced(r)
        }, [UNKNOWN, "InconsistentGroupProtocol", "InconsistentGroupProtocol", "InconsistentGroupProtocol", GONE]),
        // Heartbeat
        ("a member beats", |b| said(b.heartbeat(&b.me("b")).err()),
            [UNKNOWN, REBALANCE, "ok", "ok", GONE]),
        ("a stranger beats", |b| said(b.heartbeat(&b.me("x")).err()),
            [UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, GONE]),
        ("a member of an older generation beats", |b| {
            let caller = Caller { generation_id: GenerationId(0), ..b.me("b") };
            said(b.heartbeat(&caller).err())
        }, [UNKNOWN, ILLEGAL, ILLEGAL, ILLEGAL, GONE]),
        ("a member beats with an instance that is not its own", |b| {
            let caller = Caller { group_instance_id: Some(Arc::from("i")), ..b.me("b") };
            said(b.heartbeat(&caller).err())
        }, [UNKNOWN, FENCED, FENCED, FENCED, GONE]),
        ("a member beats with an instance that nobody has", |b| {
            let caller = Caller { group_instance_id: Some(Arc::from("?")), ..b.me("b") };
            said(b.heartbeat(&caller).err())
        }, [UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, GONE]),
        // LeaveGroup
        ("a member leaves", |b| said(b.leave("b", None).err()),
            [UNKNOWN, "ok", "ok, PreparingRebalance", "ok, PreparingRebalance", GONE]),
        ("an instance is removed", |b| said(b.leave("", Some("i")).err()),
            [UNKNOWN, "ok", "ok, PreparingRebalance", "ok, PreparingRebalance", GONE]),
        ("a stranger leaves", |b| said(b.leave("x", None).err()),
            [UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, GONE]),
        ("a member leaves with an instance that is not its own", |b| said(b.leave("b", Some("i")).err()),
            [UNKNOWN, FENCED, FENCED, FENCED, GONE]),
        // OffsetCommit
        ("a member commits", |b| { let r = b.commit(b.me("b"), 5); b.stored(r) },
            [UNKNOWN, "ok", REBALANCE, "ok", GONE]),
        ("a member of an older generation commits", |b| {
            let caller = Caller { generation_id: GenerationId(0), ..b.me("b") };
            let r = b.commit(caller, 5); b.stored(r)
        }, [UNKNOWN, ILLEGAL, ILLEGAL, ILLEGAL, GONE]),
        ("a member commits with an instance that is not its own", |b| {
            let caller = Caller { group_instance_id: Some(Arc::from("i")), ..b.me("b") };
            let r = b.commit(caller, 5); b.stored(r)
        }, [UNKNOWN, FENCED, FENCED, FENCED, GONE]),
        ("somebody without membership commits", |b| { let r = b.commit(anybody(-1), 5); b.stored(r) },
            ["ok", UNKNOWN, UNKNOWN, UNKNOWN, GONE]),
        ("somebody commits by id alone", |b| {
            let caller = Caller { generation_id: GenerationId(-1), ..b.me("x") };
            let r = b.commit(caller, 5); b.stored(r)
        }, ["ok", UNKNOWN, UNKNOWN, UNKNOWN, GONE]),
        // Admin
        ("the group is deleted", |b| {
            let (_, outcome) = b.step(|group, _, turn| group.delete(turn)); said(outcome.err())
        }, ["ok, Dead", "NonEmptyGroup", "NonEmptyGroup", "NonEmptyGroup", "GroupIdNotFound"]),
        ("its offsets are deleted", |b| match b.group.refuses_deletion_of("orders") {
            Ok(refused) => format!("refused: {refused}"),
            Err(error) => format!("{error:?}"),
        }, ["refused: false", "NonEmptyGroup", "NonEmptyGroup", "NonEmptyGroup", "GroupIdNotFound"]),
        // Timers
        ("a member's session ends", |b| {
            b.step(|group, _, turn| group.timer_fired(&TimerKind::Session(Arc::from("a")), turn)); "fired".to_owned()
        }, ["fired", "fired", "fired, PreparingRebalance", "fired, PreparingRebalance", "fired"]),
        ("the join phase ends", |b| {
            b.step(|group, _, turn| group.timer_fired(&TimerKind::Join, turn)); "fired".to_owned()
        }, ["fired", "fired, CompletingRebalance", "fired", "fired", "fired"]),
        ("the sync phase ends", |b| {
            b.step(|group, _, turn| group.timer_fired(&TimerKind::Sync, turn)); "fired".to_owned()
        // Nobody had synced, so all are removed; in the other states nobody is waited for.
        }, ["fired", "fired", "fired, Empty", "fired", "fired"]),
    ];
    for (event, perform, expected) in rows {
        for (state, expected) in columns.iter().zip(expected) {
            let mut bench = Bench::in_state(*state);
            let mut outcome = perform(&mut bench);
            if bench.state() != *state {
                outcome = format!("{outcome}, {}", bench.state());
            }
            assert_eq!(outcome, *expected, "{event}, in {state}");
        }
    }
}

#[test]
fn requests_for_a_group_that_does_not_exist() {
    let mut groups = Groups::default();
    let (settings, mut actions, mut next_append) = (GroupConfig::default(), VecDeque::new(), 0);
    let now = Now { instant: Instant::now(), wall_ms: WALL_START_MS };
    let mut turn = Turn {
        now,
        settings: &settings,
        leader_epoch: LeaderEpoch(0),
        actions: &mut actions,
        bytes_elsewhere: 0,
        next_append: &mut next_append,
    };
    let caller = |generation| Caller { member_id: Arc::from("a"), ..anybody(generation) };
    groups.join("g", rejoin("a", "m"), ReplyTo(0), &mut turn);
    let sync = Sync { caller: caller(1), protocol_type: None, protocol_name: None, assignments: Vec::new() };
    groups.sync("g", sync, ReplyTo(1), &mut turn);
    groups.commit_offsets(
        "g",
        Commit { caller: caller(0), offsets: Vec::new(), transaction: None, must_be_verified: false },
        ReplyTo(2),
        &mut turn,
    );
    assert_eq!(groups.heartbeat("g", &caller(1), &mut turn), Err(GroupError::UnknownMemberId));
    let leaving = Leaving { member_id: Arc::from("a"), group_instance_id: None, reason: None };
    assert_eq!(groups.leave("g", &[leaving], &mut turn), Ok(vec![Err(GroupError::UnknownMemberId)]));
    assert_eq!(groups.delete("g", &mut turn), Err(GroupError::GroupIdNotFound));
    assert_eq!(groups.delete_offsets("g", &[], &mut turn), Err(GroupError::GroupIdNotFound));
    assert_eq!(groups.iter().count(), 0, "none of these makes a group");
    for (timeout, id) in [(5_999, 3), (1_800_001, 4)] {
        groups.join("g", Join { session_timeout_ms: timeout, ..first_join("n") }, ReplyTo(id), &mut turn);
    }
    let refusals: Vec<String> = actions
        .into_iter()
        .map(|action| match action {
            Action::Answer(_, Answer::Join(answer)) => said(answer.error),
            Action::Answer(_, Answer::Sync(answer)) => said(answer.err()),
            Action::Answer(_, Answer::Commit(CommitAnswer::Refused(error))) => said(Some(error)),
            other => format!("{other:?}"),
        })
        .collect();
    let expected =
        ["UnknownMemberId", "UnknownMemberId", "IllegalGeneration", "InvalidSessionTimeout", "InvalidSessionTimeout"];
    assert_eq!(refusals, expected);
}

// The first rebalance

#[test]
fn the_first_rebalance_waits_for_more_members_but_not_beyond_the_rebalance_timeout() {
    let mut bench = Bench::new();
    let quick = |id: &str| Join { rebalance_timeout_ms: 7_000, ..first_join(id) };
    bench.join(quick("a"));
    for (at, id) in [(2_000, "b"), (5_000, "c"), (6_500, "d")] {
        bench.pass(at - bench.elapsed_ms);
        bench.join(quick(id));
        assert_eq!(bench.state(), GroupState::PreparingRebalance, "at {at}");
    }
    // 3 s, then 3 s more, then what is left of 7 s.
    bench.pass(6_999 - bench.elapsed_ms);
    assert_eq!(bench.state(), GroupState::PreparingRebalance);
    bench.pass(1);
    assert_eq!(bench.state(), GroupState::CompletingRebalance);
    assert_eq!(bench.members(), ["a", "b", "c", "d"]);
}

#[test]
fn the_first_rebalance_ends_after_one_delay_if_nobody_else_comes() {
    let mut bench = Bench::new();
    let joined = bench.join(first_join("a"));
    bench.pass(2_999);
    assert_eq!(bench.joined(joined), "waits");
    bench.pass(1);
    let answer = &bench.joins[&joined];
    assert_eq!((answer.generation_id, answer.leader.as_deref()), (GenerationId(1), Some("a")));
    assert_eq!(answer.members.len(), 1);
}

#[test]
fn a_new_member_that_never_learns_of_its_membership_is_dropped_after_five_minutes() {
    let mut bench = Bench::in_state(GroupState::Stable);
    bench.settings.group_max_session_timeout_ms = i32::MAX;
    // A static member that is away holds the join phase open for as long as its session lasts.
    bench.join(Join { rebalance_timeout_ms: 600_000, session_timeout_ms: 900_000, ..rejoin("a", "m") });
    let new = bench.join(Join { rebalance_timeout_ms: 600_000, ..first_join("n") });
    for _ in 0..299 {
        bench.pass(1_000);
        let (b, s) = (bench.me("b"), bench.me("s"));
        assert_eq!(bench.heartbeat(&b), Err(GroupError::RebalanceInProgress));
        assert_eq!(bench.heartbeat(&s), Err(GroupError::RebalanceInProgress));
    }
    assert_eq!(bench.joined(new), "waits");
    bench.pass(1_000);
    assert_eq!(bench.joined(new), "UnknownMemberId");
}

// Joining

#[test]
fn the_join_phase_ends_early_when_everyone_is_back_and_no_member_id_is_pending() {
    let mut bench = Bench::in_state(GroupState::PreparingRebalance);
    let pending = bench.join(Join { require_known_member_id: true, ..first_join("p") });
    assert_eq!(bench.joined(pending), "MemberIdRequired");
    bench.join(rejoin("a", "m"));
    bench.join(Join { group_instance_id: Some(Arc::from("i")), ..rejoin("s", "m") });
    assert_eq!(bench.state(), GroupState::PreparingRebalance);
    bench.join(rejoin("p", "m"));
    assert_eq!(bench.state(), GroupState::CompletingRebalance);
    assert_eq!(bench.members(), ["a", "b", "p", "s"]);
}

#[test]
fn who_is_not_back_in_time_is_removed_if_dynamic_and_stays_if_static() {
    let mut bench = Bench::in_state(GroupState::PreparingRebalance);
    for _ in 0..8 {
        bench.pass(7_500);
        let (a, s) = (bench.me("a"), bench.me("s"));
        let _ = (bench.heartbeat(&a), bench.heartbeat(&s));
    }
    // `a` led and beat all the time, yet did not join again.
    assert_eq!(bench.state(), GroupState::CompletingRebalance);
    assert_eq!(bench.members(), ["b", "s"]);
    assert!(bench.group.is_leader("b"), "whoever joined leads");
}

#[test]
fn with_only_absent_static_members_the_join_phase_starts_over_until_their_sessions_end() {
    let mut bench = Bench::new();
    let joined =
        bench.join(Join { group_instance_id: Some(Arc::from("i")), session_timeout_ms: 100_000, ..first_join("s") });
    bench.pass(3_000);
    assert_eq!(bench.joined(joined), "ok");
    bench.join(first_join("n"));
    assert_eq!(bench.state(), GroupState::PreparingRebalance);
    assert_eq!(bench.leave("n", None), Ok(()));
    bench.pass(60_000);
    assert_eq!(bench.state(), GroupState::PreparingRebalance);
    bench.pass(40_000);
    assert_eq!((bench.state(), bench.members().len()), (GroupState::Empty, 0));
}

#[test]
fn the_protocol_is_the_one_with_most_votes_among_those_everyone_offers() {
    let mut bench = Bench::new();
    for (id, protocols) in [("a", ["x", "y", "z"]), ("b", ["y", "z", "x"]), ("c", ["z", "y", "w"])] {
        let protocols = protocols.iter().map(|name| protocol(name, "")).collect();
        bench.join(Join { protocols, ..first_join(id) });
    }
    bench.pass(3_000);
    bench.pass(3_000);
    // Candidates are y and z; a and b vote y, c votes z.
    assert_eq!(bench.group.protocol_name.as_deref(), Some("y"));
}

#[test]
fn a_protocol_named_twice_counts_once() {
    let mut bench = Bench::new();
    let twice = bench.join(Join { protocols: vec![protocol("x", "1"), protocol("x", "2")], ..first_join("a") });
    bench.pass(3_000);
    assert_eq!(bench.joins[&twice].members[0].metadata, "1");
    assert_eq!(bench.group.protocol_name.as_deref(), Some("x"));
}

#[test]
fn a_full_group_lets_nobody_in_and_a_shrunk_one_drops_the_last_to_return() {
    let mut bench = Bench::in_state(GroupState::Stable);
    bench.settings.group_max_size = 3;
    let refused = bench.join(first_join("n"));
    assert_eq!(bench.joined(refused), "GroupMaxSizeReached");
    bench.settings.group_max_size = 2;
    bench.join(rejoin("a", "m"));
    bench.join(rejoin("b", "m"));
    let last = bench.join(Join { group_instance_id: Some(Arc::from("i")), ..rejoin("s", "m") });
    assert_eq!(bench.joined(last), "GroupMaxSizeReached");
    assert_eq!((bench.state(), bench.members()), (GroupState::CompletingRebalance, vec!["a", "b"]));
}

/// In Kafka it is refused, and its consumer ends for good: it names no member that is counted already.
#[test]
fn a_static_member_that_comes_back_without_its_id_takes_no_room_in_a_full_group() {
    let back = |id| Join { group_instance_id: Some(Arc::from("i")), ..first_join(id) };
    let mut bench = Bench::in_state(GroupState::Stable);
    bench.settings.group_max_size = 3;
    bench.join(back("s2"));
    assert_eq!(bench.members(), ["a", "b", "s2"]);
    let stranger = bench.join(Join { group_instance_id: Some(Arc::from("j")), ..first_join("n") });
    assert_eq!(bench.joined(stranger), "GroupMaxSizeReached");

    let mut bench = Bench::in_state(GroupState::PreparingRebalance);
    bench.settings.group_max_size = 2;
    let first = bench.join(back("s2"));
    let second = bench.join(back("s3"));
    assert_eq!((bench.joined(first), bench.joined(second)), ("FencedInstanceId".into(), "waits".into()));
}

#[test]
fn an_older_join_of_the_same_member_is_answered_too() {
    let mut bench = Bench::in_state(GroupState::PreparingRebalance);
    let older = bench.join(rejoin("a", "m"));
    let newer = bench.join(rejoin("a", "m"));
    assert_eq!((bench.joined(older), bench.joined(newer)), ("CoordinatorLoadInProgress".into(), "waits".into()));
}

#[test]
fn a_loaded_group_above_its_limit_rebalances() {
    let stable = Bench::in_state(GroupState::Stable);
    let GroupRecord::Metadata(Some(metadata)) = stable.group.record(|_, member| member.assignment.clone()) else {
        panic!("a group is stored as a group");
    };
    let mut bench = Bench::of(Group::from_record(Arc::from("g"), &metadata));
    bench.settings.group_max_size = 2;
    bench.step(|group, _, turn| group.loaded(turn));
    assert_eq!(bench.state(), GroupState::PreparingRebalance);
    let mut bench = Bench::of(Group::from_record(Arc::from("g"), &metadata));
    bench.step(|group, _, turn| group.loaded(turn));
    assert_eq!(bench.state(), GroupState::Stable);
    assert_eq!(bench.group.description(), stable.group.description());
    bench.pass(10_000);
    assert_eq!(bench.state(), GroupState::Empty, "sessions start when the group is loaded");
}

// Syncing

#[test]
fn followers_wait_until_the_assignment_is_stored_and_members_left_out_get_nothing() {
    let mut bench = Bench::in_state(GroupState::CompletingRebalance);
    bench.hold_appends = true;
    let follower = bench.sync(bench.me("b"), &[]);
    let leader = bench.sync(bench.me("a"), &[("a", "all"), ("stranger", "much")]);
    assert_eq!((bench.synced(follower), bench.synced(leader)), ("waits".into(), "waits".into()));
    let Some(GroupRecord::Metadata(Some(stored))) = bench.records.last() else { panic!("nothing stored") };
    let assigned: Vec<(&str, &[u8])> = stored.members.iter().map(|m| (&*m.member_id, &m.assignment[..])).collect();
    assert_eq!(assigned, [("a", &b"all"[..]), ("b", b""), ("s", b"")]);
    bench.finish_append(Ok(Offset(7)));
    assert_eq!((bench.synced(follower), bench.synced(leader)), (String::new(), "all".into()));
    assert_eq!(bench.state(), GroupState::Stable);
}

#[test]
fn an_assignment_stored_too_late_changes_nothing() {
    let mut bench = Bench::in_state(GroupState::CompletingRebalance);
    bench.hold_appends = true;
    let leader = bench.sync(bench.me("a"), &[("a", "all")]);
    let new = bench.join(first_join("n"));
    assert_eq!((bench.synced(leader), bench.joined(new)), ("RebalanceInProgress".into(), "waits".into()));
    bench.finish_append(Ok(Offset(7)));
    assert_eq!(bench.state(), GroupState::PreparingRebalance);
}

#[test]
fn failures_to_store_an_assignment_are_told_as_kafka_tells_them() {
    for (failure, told) in [
        (AppendFailure::UnknownTopicOrPartition, GroupError::CoordinatorNotAvailable),
        (AppendFailure::NotEnoughReplicas, GroupError::CoordinatorNotAvailable),
        (AppendFailure::NotEnoughReplicasAfterAppend, GroupError::CoordinatorNotAvailable),
        (AppendFailure::NotLeaderOrFollower, GroupError::NotCoordinator),
        (AppendFailure::StorageError, GroupError::NotCoordinator),
        (AppendFailure::TimedOut, GroupError::RebalanceInProgress),
        (AppendFailure::MessageTooLarge, GroupError::UnknownServerError),
        (AppendFailure::RecordListTooLarge, GroupError::UnknownServerError),
        (AppendFailure::Unexpected, GroupError::Append(AppendFailure::Unexpected)),
    ] {
        let mut bench = Bench::in_state(GroupState::CompletingRebalance);
        bench.fail_appends = Some(failure);
        let follower = bench.sync(bench.me("b"), &[]);
        let leader = bench.sync(bench.me("a"), &[("a", "all")]);
        assert_eq!((&bench.syncs[&follower], &bench.syncs[&leader]), (&Err(told), &Err(told)), "{failure}");
        assert_eq!(bench.state(), GroupState::PreparingRebalance);
    }
}

#[test]
fn whoever_does_not_sync_in_time_is_removed() {
    let mut bench = Bench::in_state(GroupState::CompletingRebalance);
    bench.sync(bench.me("a"), &[("a", "all")]);
    bench.sync(bench.me("b"), &[]);
    assert_eq!(bench.state(), GroupState::Stable);
    for _ in 0..8 {
        bench.pass(7_500);
        for id in ["a", "b", "s"] {
            let caller = bench.me(id);
            let _ = bench.heartbeat(&caller);
        }
    }
    assert_eq!((bench.state(), bench.members()), (GroupState::PreparingRebalance, vec!["a", "b"]));
}

#[test]
fn the_sync_phase_is_over_once_everyone_synced() {
    let mut bench = Bench::in_state(GroupState::CompletingRebalance);
    assert!(bench.is_running(TimerKind::Sync));
    bench.become_stable();
    assert!(!bench.is_running(TimerKind::Sync));
}

#[test]
fn a_removed_member_that_waits_for_its_assignment_is_answered() {
    let mut bench = Bench::in_state(GroupState::CompletingRebalance);
    let waiting = bench.sync(bench.me("b"), &[]);
    assert_eq!(bench.leave("b", None), Ok(()));
    assert_eq!(bench.synced(waiting), "UnknownMemberId");
}

// Sessions

#[test]
fn nobody_is_dropped_while_it_waits_for_us() {
    let mut bench = Bench::in_state(GroupState::PreparingRebalance);
    let waiting = ReplyTo(bench.next_reply - 1);
    for _ in 0..5 {
        bench.pass(9_000);
        for id in ["a", "s"] {
            let caller = bench.me(id);
            assert_eq!(bench.heartbeat(&caller), Err(GroupError::RebalanceInProgress));
        }
    }
    assert_eq!(bench.joined(waiting), "waits", "b sent no heartbeat in 45 s, and need not");
    assert!(bench.members().contains(&"b"));
}

#[test]
fn commits_keep_a_session_alive() {
    let mut bench = Bench::in_state(GroupState::Stable);
    for _ in 0..3 {
        bench.pass(9_000);
        for id in ["a", "b", "s"] {
            let stored = bench.commit(bench.me(id), 1);
            assert_eq!(bench.stored(stored), "ok");
        }
    }
    assert_eq!(bench.members().len(), 3);
}

// Static members

fn returning(id: &str, can_skip_assignment: bool) -> Join {
    Join { group_instance_id: Some(Arc::from("i")), can_skip_assignment, ..first_join(id) }
}

/// A stable group of one static member, which therefore leads.
fn led_by_a_static_member() -> Bench {
    let mut bench = Bench::new();
    bench.join(returning("s1", false));
    bench.pass(3_000);
    bench.sync(bench.me("s1"), &[("s1", "all")]);
    assert_eq!(bench.state(), GroupState::Stable);
    bench
}

#[test]
fn a_static_leader_that_returns_is_told_to_skip_the_assignment_if_it_can() {
    let mut bench = led_by_a_static_member();
    let back = bench.join(returning("s2", true));
    let answer = &bench.joins[&back];
    assert_eq!((answer.error, answer.generation_id, answer.skip_assignment), (None, GenerationId(1), true));
    assert_eq!((answer.leader.as_deref(), answer.members.len()), (Some("s2"), 1));
    assert_eq!(bench.state(), GroupState::Stable);
    let Some(GroupRecord::Metadata(Some(stored))) = bench.records.last() else { panic!("nothing stored") };
    assert_eq!((&*stored.members[0].member_id, &stored.members[0].assignment[..]), ("s2", &b"all"[..]));
    let old = bench.me("s1");
    let old = Caller { group_instance_id: Some(Arc::from("i")), ..old };
    assert_eq!(bench.heartbeat(&old), Err(GroupError::FencedInstanceId));
    let synced = bench.sync(bench.me("s2"), &[]);
    assert_eq!(bench.synced(synced), "all");
}

#[test]
fn an_older_static_leader_that_returns_does_not_recognize_itself() {
    let mut bench = led_by_a_static_member();
    let back = bench.join(returning("s2", false));
    let answer = &bench.joins[&back];
    assert_eq!((answer.leader.as_deref(), answer.members.len(), answer.skip_assignment), (Some("s1"), 0, false));
    assert_eq!(&*answer.member_id, "s2");
}

#[test]
fn a_return_that_cannot_be_stored_is_taken_back() {
    let mut bench = led_by_a_static_member();
    bench.fail_appends = Some(AppendFailure::NotEnoughReplicas);
    let back = bench.join(returning("s2", true));
    assert_eq!(bench.joined(back), "CoordinatorNotAvailable");
    let old = Caller { group_instance_id: Some(Arc::from("i")), ..bench.me("s1") };
    assert_eq!(bench.heartbeat(&old), Ok(()));
    assert_eq!((bench.members(), bench.state()), (vec!["s1"], GroupState::Stable));
    bench.pass(10_000);
    assert_eq!(bench.state(), GroupState::Empty, "and its session is watched");
}

#[test]
fn the_session_of_the_returned_starts_with_the_answer_however_long_that_took() {
    let mut bench = led_by_a_static_member();
    bench.hold_appends = true;
    let back = bench.join(returning("s2", true));
    bench.pass(11_000);
    assert_eq!(bench.joined(back), "waits");
    bench.finish_append(Ok(Offset(0)));
    assert_eq!((bench.joined(back).as_str(), bench.members()), ("ok", vec!["s2"]));
    bench.pass(9_999);
    assert_eq!(bench.members(), ["s2"]);
    bench.pass(1);
    assert_eq!(bench.members(), [""; 0]);
}

#[test]
fn a_rebalance_during_the_return_answers_the_returned() {
    let mut bench = led_by_a_static_member();
    bench.hold_appends = true;
    let back = bench.join(returning("s2", true));
    let new = bench.join(first_join("n"));
    assert_eq!(bench.state(), GroupState::CompletingRebalance, "both have joined");
    assert_eq!((bench.joined(back), bench.joined(new)), ("ok".into(), "ok".into()));
    bench.finish_append(Ok(Offset(9)));
    assert_eq!(bench.members(), ["n", "s2"]);
}

#[test]
fn a_return_with_other_protocols_rebalances() {
    let mut bench = Bench::in_state(GroupState::Stable);
    bench.join(Join { protocols: vec![protocol("roundrobin", "m")], ..returning("s2", true) });
    assert_eq!(bench.state(), GroupState::PreparingRebalance);
}

#[test]
fn a_return_fences_whoever_still_waits_under_the_old_id() {
    let mut bench = Bench::in_state(GroupState::PreparingRebalance);
    let old = bench.join(Join { group_instance_id: Some(Arc::from("i")), ..rejoin("s", "m") });
    bench.join(returning("s2", true));
    assert_eq!(bench.joined(old), "FencedInstanceId");
}

#[test]
fn a_static_member_that_returns_in_the_sync_phase_may_still_sync() {
    let mut bench = Bench::in_state(GroupState::CompletingRebalance);
    bench.sync(bench.me("a"), &[("s", "mine")]);
    bench.sync(bench.me("b"), &[]);
    assert_eq!(bench.state(), GroupState::Stable);
    bench.join(returning("s2", true));
    let synced = bench.sync(bench.me("s2"), &[]);
    assert_eq!(bench.synced(synced), "mine");
    assert!(!bench.is_running(TimerKind::Sync), "nobody is waited for any more");
}

// Leaving

#[test]
fn the_last_to_leave_empties_the_group_and_stores_that() {
    let mut bench = Bench::in_state(GroupState::Empty);
    let Some(GroupRecord::Metadata(Some(stored))) = bench.records.last() else { panic!("nothing stored") };
    assert_eq!((stored.members.len(), &stored.protocol_name, &stored.leader), (0, &None, &None));
    assert_eq!((&*stored.protocol_type, stored.generation_id), ("test", GenerationId(2)));
    assert_eq!(bench.timers.expired(bench.origin + Duration::from_secs(9_999)), None, "no timer is left");
}

#[test]
fn a_pending_member_can_leave() {
    let mut bench = Bench::new();
    bench.join(Join { require_known_member_id: true, ..first_join("p") });
    assert_eq!(bench.leave("p", None), Ok(()));
    let late = bench.join(rejoin("p", "m"));
    assert_eq!(bench.joined(late), "UnknownMemberId");
    assert!(!bench.is_running(TimerKind::Pending(Arc::from("p"))));
}

// Offsets

#[test]
fn metadata_that_is_too_long_is_left_out_and_the_rest_is_stored() {
    let mut bench = Bench::new();
    let limit = bench.settings.offset_metadata_max_bytes;
    // As many UTF-16 code units as allowed, and three times as many bytes.
    let mut longest = to_commit("orders", 0, 1);
    longest.committed.metadata = Arc::from("\u{20AC}".repeat(limit));
    let mut too_long = to_commit("orders", 1, 1);
    too_long.committed.metadata = Arc::from("x".repeat(limit + 1));
    let commit =
        Commit { caller: anybody(-1), offsets: vec![longest, too_long], transaction: None, must_be_verified: false };
    let (stored, ()) = bench.step(|group, reply, turn| group.commit_offsets(commit, reply, turn));
    assert_eq!(bench.stored(stored), "ok");
    let committed = |partition| bench.group.offsets().find("orders", partition, false);
    assert!(matches!(committed(0), FoundOffset::Committed(_)));
    assert_eq!(committed(1), FoundOffset::None);
}

#[test]
fn failures_to_store_offsets_are_told_as_kafka_tells_them() {
    for (failure, told) in [
        (AppendFailure::UnknownTopicOrPartition, "CoordinatorNotAvailable"),
        (AppendFailure::NotEnoughReplicas, "CoordinatorNotAvailable"),
        (AppendFailure::NotEnoughReplicasAfterAppend, "CoordinatorNotAvailable"),
        (AppendFailure::NotLeaderOrFollower, "NotCoordinator"),
        (AppendFailure::StorageError, "NotCoordinator"),
        (AppendFailure::MessageTooLarge, "InvalidCommitOffsetSize"),
        (AppendFailure::RecordListTooLarge, "InvalidCommitOffsetSize"),
        (AppendFailure::TimedOut, "Append(TimedOut)"),
    ] {
        let mut bench = Bench::new();
        bench.fail_appends = Some(failure);
        let stored = bench.commit(anybody(-1), 5);
        assert_eq!(bench.stored(stored), told);
        assert!(bench.group.offsets().is_empty(), "{failure}");
    }
}

#[test]
fn a_commit_on_its_way_is_unstable_and_not_seen() {
    let mut bench = Bench::new();
    bench.commit(anybody(-1), 5);
    bench.hold_appends = true;
    bench.commit(anybody(-1), 6);
    assert_eq!(bench.group.offsets().find("orders", 0, true), FoundOffset::Unstable);
    let seen = |bench: &Bench| match bench.group.offsets().find("orders", 0, false) {
        FoundOffset::Committed(committed) => committed.offset.0,
        other => panic!("{other:?}"),
    };
    assert_eq!(seen(&bench), 5);
    bench.finish_append(Ok(Offset(50)));
    assert_eq!(seen(&bench), 6);
    assert!(matches!(bench.group.offsets().find("orders", 0, true), FoundOffset::Committed(_)));
}

#[test]
fn of_several_commits_the_last_in_the_log_wins_whatever_order_their_outcomes_come_in() {
    for (order, failing, wins) in [([1, 0, 2], 9, 7), ([2, 1, 0], 9, 7), ([2, 0, 1], 2, 6), ([1, 2, 0], 9, 7)] {
        let mut bench = Bench::new();
        bench.hold_appends = true;
        let appends: Vec<AppendId> = (0..3)
            .map(|n| {
                bench.commit(anybody(-1), 5 + n);
                bench.held.pop_front().expect("each commit is one append")
            })
            .collect();
        for index in order {
            let at = Offset(10 + i64::try_from(index).expect("small"));
            bench.held.push_back(appends[index]);
            bench.finish_append(if index == failing { Err(AppendFailure::TimedOut) } else { Ok(at) });
        }
        match bench.group.offsets().find("orders", 0, true) {
            FoundOffset::Committed(committed) => assert_eq!(committed.offset, Offset(wins), "{order:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_commit_of_a_partition_deleted_meanwhile_leaves_nothing() {
    let mut bench = Bench::new();
    let other = Commit {
        caller: anybody(-1),
        offsets: vec![to_commit("payments", 0, 1)],
        transaction: None,
        must_be_verified: false,
    };
    bench.step(|group, reply, turn| group.commit_offsets(other, reply, turn));
    bench.hold_appends = true;
    let stored = bench.commit(anybody(-1), 5);
    bench.step(|group, _, turn| group.forget(vec![(Arc::from("orders"), 0)], turn));
    assert!(matches!(bench.records.last(), Some(GroupRecord::Offset { committed: None, .. })));
    bench.finish_append(Ok(Offset(10)));
    assert_eq!(bench.group.offsets().find("orders", 0, false), FoundOffset::None);
    assert_eq!((bench.stored(stored), bench.group.offsets().count()), ("ok".into(), 1));
}

fn subscription(topics: &[&str]) -> Bytes {
    let mut bytes = vec![0, 1];
    bytes.extend(u32::try_from(topics.len()).expect("few").to_be_bytes());
    for topic in topics {
        bytes.extend(u16::try_from(topic.len()).expect("short").to_be_bytes());
        bytes.extend(topic.as_bytes());
    }
    bytes.extend([0xff; 4]);
    // A later version has more, which is not read.
    bytes.extend([0; 4]);
    bytes.into()
}

/// A consumer group, stable, subscribed to `orders`, with offsets in `orders` and `payments`.
fn consuming(metadata: Bytes) -> Bench {
    let mut bench = Bench::new();
    let protocols = vec![Protocol { name: Arc::from("range"), metadata }];
    bench.join(Join {
        protocol_type: Arc::from("consumer"),
        protocols,
        session_timeout_ms: i32::MAX,
        ..first_join("a")
    });
    bench.pass(3_000);
    bench.sync(bench.me("a"), &[]);
    assert_eq!(bench.state(), GroupState::Stable);
    let commit = Commit {
        caller: bench.me("a"),
        offsets: vec![to_commit("orders", 0, 1), to_commit("payments", 0, 2)],
        transaction: None,
        must_be_verified: false,
    };
    bench.step(|group, reply, turn| group.commit_offsets(commit, reply, turn));
    bench
}

impl Bench {
    fn expire(&mut self) -> (bool, Vec<String>) {
        let (_, died) = self.step(|group, _, turn| group.expire(turn));
        let mut left: Vec<String> = self
            .group
            .offsets()
            .committed_after(None)
            .map(|(topic, partition)| format!("{topic}-{partition}"))
            .collect();
        left.sort();
        (died, left)
    }
}

const RETENTION_MS: u64 = 7 * 24 * 3_600_000;

#[test]
fn a_stable_consumer_group_keeps_the_offsets_of_what_it_subscribes_to() {
    let mut bench = consuming(subscription(&["orders"]));
    bench.elapsed_ms = RETENTION_MS - 1;
    assert_eq!(bench.expire(), (false, vec!["orders-0".into(), "payments-0".into()]));
    bench.elapsed_ms = RETENTION_MS;
    assert_eq!(bench.expire(), (false, vec!["orders-0".into()]));
    assert!(matches!(bench.records.last(), Some(GroupRecord::Offset { committed: None, .. })));
    assert_eq!(bench.group.refuses_deletion_of("orders"), Ok(true));
    assert_eq!(bench.group.refuses_deletion_of("payments"), Ok(false));
}

#[test]
fn a_group_whose_subscriptions_are_not_readable_keeps_everything() {
    let mut bench = consuming(Bytes::from_static(b"\0\0\0\0\0\x05"));
    bench.elapsed_ms = 10 * RETENTION_MS;
    assert_eq!(bench.expire(), (false, vec!["orders-0".into(), "payments-0".into()]));
    assert_eq!(bench.group.refuses_deletion_of("payments"), Ok(true));
}

#[test]
fn an_empty_group_keeps_its_offsets_from_the_time_it_became_empty_and_dies_with_them() {
    let mut bench = consuming(subscription(&["orders"]));
    bench.elapsed_ms = RETENTION_MS;
    assert_eq!(bench.leave("a", None), Ok(()));
    bench.elapsed_ms = 2 * RETENTION_MS - 1;
    assert_eq!(bench.expire(), (false, vec!["orders-0".into(), "payments-0".into()]));
    bench.elapsed_ms = 2 * RETENTION_MS;
    assert_eq!(bench.expire(), (true, vec![]));
    assert_eq!(bench.records.last(), Some(&GroupRecord::Metadata(None)));
}

/// An operator's reset, or a consumer that assigns its partitions itself under the id of a group that has long had no
/// members. Kafka forgets what they commit with the group's older offsets (KIP-211, GroupMetadata.scala,
/// removeExpiredOffsets).
#[test]
fn an_offset_committed_for_a_group_long_empty_is_kept_as_long_as_any_other() {
    let mut bench = consuming(subscription(&["orders"]));
    assert_eq!(bench.leave("a", None), Ok(()));
    let empty_since = bench.elapsed_ms;
    bench.elapsed_ms = empty_since + RETENTION_MS - 60_000;
    let mut reset = to_commit("orders", 0, 9);
    reset.committed.commit_timestamp_ms = WALL_START_MS + i64::try_from(bench.elapsed_ms).expect("fits");
    let commit = Commit { caller: anybody(-1), offsets: vec![reset], transaction: None, must_be_verified: false };
    bench.step(|group, reply, turn| group.commit_offsets(commit, reply, turn));
    bench.elapsed_ms = empty_since + RETENTION_MS;
    assert_eq!(bench.expire(), (false, vec!["orders-0".into()]));
    assert_eq!(bench.state(), GroupState::Empty);
    bench.elapsed_ms = empty_since + 2 * RETENTION_MS - 60_001;
    assert_eq!(bench.expire(), (false, vec!["orders-0".into()]));
    bench.elapsed_ms = empty_since + 2 * RETENTION_MS - 60_000;
    assert_eq!(bench.expire(), (true, vec![]));
    assert_eq!(bench.records.last(), Some(&GroupRecord::Metadata(None)));
}

#[test]
fn offsets_of_a_group_without_members_of_its_own_expire_by_their_commit_and_leave_no_group_record() {
    let mut bench = Bench::new();
    bench.commit(anybody(-1), 5);
    bench.elapsed_ms = RETENTION_MS;
    assert_eq!(bench.expire(), (true, vec![]));
    assert!(matches!(bench.records.last(), Some(GroupRecord::Offset { committed: None, .. })));
}

#[test]
fn an_expiry_time_of_its_own_overrules_the_retention() {
    let mut bench = Bench::new();
    let mut early = to_commit("orders", 0, 5);
    early.committed.expire_timestamp_ms = Some(WALL_START_MS + 1_000);
    let mut late = to_commit("orders", 1, 5);
    late.committed.expire_timestamp_ms = Some(WALL_START_MS + 3 * i64::try_from(RETENTION_MS).expect("fits"));
    let commit = Commit { caller: anybody(-1), offsets: vec![early, late], transaction: None, must_be_verified: false };
    bench.step(|group, reply, turn| group.commit_offsets(commit, reply, turn));
    bench.elapsed_ms = 1_000;
    assert_eq!(bench.expire(), (false, vec!["orders-1".into()]));
    bench.elapsed_ms = 2 * RETENTION_MS;
    assert_eq!(bench.expire(), (false, vec!["orders-1".into()]));
}

#[test]
fn a_commit_on_its_way_keeps_its_partition_and_its_group() {
    let mut bench = Bench::new();
    bench.commit(anybody(-1), 5);
    bench.hold_appends = true;
    bench.commit(anybody(-1), 6);
    bench.elapsed_ms = RETENTION_MS;
    assert_eq!(bench.expire(), (false, vec!["orders-0".into()]));
}

#[test]
fn deleting_a_group_refuses_the_commits_on_their_way() {
    let mut bench = Bench::new();
    bench.commit(anybody(-1), 5);
    bench.hold_appends = true;
    let on_its_way = bench.commit(anybody(-1), 6);
    let (_, deleted) = bench.step(|group, _, turn| group.delete(turn));
    assert_eq!((deleted, bench.stored(on_its_way)), (Ok(()), "CoordinatorNotAvailable".into()));
    assert!(matches!(bench.records.last(), Some(GroupRecord::Offset { committed: None, .. })));
}
