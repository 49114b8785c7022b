//! Every state × event cell of a transactional id, and the rules that no table shows, on the core alone.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::sections::TransactionConfig;
use crate::coordinator::core::{Core, Now};
use crate::coordinator::timers::TimerQueue;
use crate::coordinator::topic_log::AppendFailure;
use crate::coordinator::transaction::records::TransactionRecord;
use crate::coordinator::transaction::replay::Replay;
use crate::coordinator::transaction::requests::{Assigned, End, Init, Markers, MarkersFate};
use crate::coordinator::transaction::state::{Producer, StoredTransaction, TransactionState};
use crate::coordinator::transaction::transactions::Transactions;
use crate::coordinator::transaction::turn::{
    Action, Answer, AppendId, ReplyTo, TimerKey, TimerKind, TransactionEffect, Turn,
};
use crate::model::transaction_version::TransactionVersion::{self, V0, V2};
use crate::model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicPartition};
use crate::record::build::TransactionOutcome::{self, Abort, Commit};
use crate::record::read::batches;

const WALL_START_MS: i64 = 1_700_000_000_000;
const TIMEOUT_MS: i32 = 60_000;
/// The id that the first transactional id gets.
const FIRST_ID: i64 = 1000;

/// The core of one partition, a clock moved by hand, and a log that stores at once unless a test holds it back.
struct Bench {
    core: Transactions,
    settings: TransactionConfig,
    leader_epoch: i32,
    origin: Instant,
    elapsed_ms: u64,
    timers: TimerQueue<TimerKind>,
    next_append: u64,
    next_reply: u64,
    next_id: i64,
    /// Appends that wait for `finish_append`, while `hold_appends`.
    held: VecDeque<(Arc<str>, AppendId, Vec<TransactionRecord>)>,
    hold_appends: bool,
    fail_appends: Option<AppendFailure>,
    /// The last append failed: what is in force may differ from what is in the log.
    has_failed: bool,
    /// Every batch that the log has.
    log: Vec<Vec<TransactionRecord>>,
    answers: HashMap<ReplyTo, Answer>,
    effects: VecDeque<TransactionEffect>,
}

impl Bench {
    fn new() -> Bench {
        Bench {
            core: Transactions::default(),
            settings: TransactionConfig::default(),
            leader_epoch: 5,
            origin: Instant::now(),
            elapsed_ms: 0,
            timers: TimerQueue::default(),
            next_append: 0,
            next_reply: 0,
            next_id: FIRST_ID,
            held: VecDeque::new(),
            hold_appends: false,
            fail_appends: None,
            has_failed: false,
            log: Vec::new(),
            answers: HashMap::new(),
            effects: VecDeque::new(),
        }
    }

    fn step<R>(&mut self, step: impl FnOnce(&mut Transactions, ReplyTo, &mut Turn<'_>) -> R) -> (ReplyTo, R) {
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
            leader_epoch: LeaderEpoch(self.leader_epoch),
            actions: &mut actions,
            bytes_elsewhere: 0,
            next_append: &mut self.next_append,
        };
        let result = step(&mut self.core, reply, &mut turn);
        while let Some(action) = turn.actions.pop_front() {
            match action {
                Action::Answer(reply, answer) => {
                    assert!(self.answers.insert(reply, answer).is_none(), "{reply:?} answered twice");
                }
                Action::Append { of, append, records } if self.hold_appends => {
                    self.held.push_back((of, append, records));
                }
                Action::Append { of, append, records } => {
                    let outcome = self.fail_appends.map_or(Ok(Offset(0)), Err);
                    self.has_failed = outcome.is_err();
                    if outcome.is_ok() {
                        self.log.push(records);
                    }
                    self.core.appended(&of, append, outcome, &mut turn);
                }
                Action::Forget { records, .. } => self.log.push(records),
                Action::StartTimer(key, deadline) => self.timers.start(key, deadline),
                Action::CancelTimer(key) => self.timers.cancel(&key),
                Action::Effect(effect) => self.effects.push_back(effect),
            }
        }
        assert_eq!(self.core.bytes(), self.core.counted_bytes() as u64);
        (reply, result)
    }

    fn finish_append(&mut self, outcome: Result<Offset, AppendFailure>) {
        let (of, append, records) = self.held.pop_front().expect("an append is held");
        self.has_failed = outcome.is_err();
        if outcome.is_ok() {
            self.log.push(records);
        }
        self.step(|core, _, turn| core.appended(&of, append, outcome, turn));
    }

    /// What those are told by it that wait.
    fn tells(&mut self, act: impl FnOnce(&mut Bench)) -> String {
        let (waiting, answered) = (self.next_reply, self.answers.len());
        let before: Vec<ReplyTo> =
            (0..waiting).map(ReplyTo).filter(|reply| !self.answers.contains_key(reply)).collect();
        act(self);
        let told: Vec<ReplyTo> = before.into_iter().filter(|reply| self.answers.contains_key(reply)).collect();
        assert!(self.answers.len() - answered == told.len() && told.len() <= 1, "{told:?}");
        told.first().map_or("nobody is told".to_owned(), |reply| self.told(*reply))
    }

    /// What comes of the append that is on its way, if one is.
    fn finish(&mut self, outcome: Result<Offset, AppendFailure>) -> String {
        if self.held.is_empty() { "nothing".to_owned() } else { self.tells(|b| b.finish_append(outcome)) }
    }

    fn fire(&mut self, kind: TimerKind) -> String {
        let timer = TimerKey { of: Arc::from("t"), kind };
        self.step(|core, _, turn| core.timer_fired(&timer, turn));
        "fired".to_owned()
    }

    fn refuse_markers(&mut self, producer: Producer) -> String {
        self.effects.clear();
        self.answered(producer, 5, &[("a", 0), ("b", 1)], MarkersFate::Fenced);
        let are_sent = self.effects.iter().any(|effect| matches!(effect, TransactionEffect::SendMarkers(_)));
        if are_sent { "sent again" } else { "heard" }.to_owned()
    }

    /// Goes on as a coordinator elected in the next epoch.
    fn load(&mut self) -> String {
        *self = self.reload();
        if self.effects.iter().any(|effect| matches!(effect, TransactionEffect::SendMarkers(_))) {
            return "sends markers".to_owned();
        }
        let is_timed = self.timers.is_running(&TimerKey { of: Arc::from("t"), kind: TimerKind::Timeout });
        if is_timed { "is timed" } else { "rests" }.to_owned()
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
            while let Some(timer) = self.timers.expired(next) {
                self.step(|core, _, turn| core.timer_fired(&timer, turn));
            }
        }
        self.elapsed_ms = end;
    }

    // Requests, each with what it is told

    fn init_as(&mut self, expected: Option<Producer>) -> String {
        let ask = |b: &mut Bench, new_id| {
            let init = Init { timeout_ms: TIMEOUT_MS, expected, new_id };
            b.step(|core, reply, turn| core.init("t", init, reply, turn)).0
        };
        let mut reply = ask(self, None);
        if self.answers.get(&reply) == Some(&Answer::Producer(Ok(Assigned::NeedsId))) {
            let id = self.next_id();
            reply = ask(self, Some(id));
        }
        self.told(reply)
    }

    fn init(&mut self) -> String {
        self.init_as(None)
    }

    fn add(&mut self, producer: Producer, partitions: &[(&str, i32)]) -> String {
        self.add_as(V0, producer, partitions)
    }

    /// As a leader does of a producer that writes without having said so before.
    fn write(&mut self, producer: Producer, partitions: &[(&str, i32)]) -> String {
        self.add_as(V2, producer, partitions)
    }

    fn add_as(&mut self, version: TransactionVersion, producer: Producer, partitions: &[(&str, i32)]) -> String {
        let partitions = partitions.iter().map(|(topic, p)| TopicPartition::new(*topic, *p)).collect();
        let (reply, ()) =
            self.step(|core, reply, turn| core.add_partitions("t", producer, partitions, version, reply, turn));
        self.told(reply)
    }

    fn end(&mut self, producer: Producer, outcome: TransactionOutcome) -> String {
        let told = self.end_as(V0, producer, outcome);
        if told == format!("{}/{}", producer.id, producer.epoch) { "ok".to_owned() } else { told }
    }

    fn end_and_bump(&mut self, producer: Producer, outcome: TransactionOutcome) -> String {
        self.end_as(V2, producer, outcome)
    }

    fn end_as(&mut self, version: TransactionVersion, producer: Producer, outcome: TransactionOutcome) -> String {
        let ask = |b: &mut Bench, new_id| {
            let end = End { producer, outcome, version, new_id };
            b.step(|core, reply, turn| core.end("t", end, reply, turn)).0
        };
        let mut reply = ask(self, None);
        if self.answers.get(&reply) == Some(&Answer::Producer(Ok(Assigned::NeedsId))) {
            let id = self.next_id();
            reply = ask(self, Some(id));
        }
        self.told(reply)
    }

    fn next_id(&mut self) -> ProducerId {
        let id = ProducerId(self.next_id);
        self.next_id += 1000;
        id
    }

    fn verify(&self, producer: Producer, partition: (&str, i32)) -> String {
        let partitions = [TopicPartition::new(partition.0, partition.1)];
        match self.core.verify("t", producer, &partitions) {
            Ok(open) => format!("{open:?}"),
            Err(error) => error.to_string(),
        }
    }

    fn answered(&mut self, producer: Producer, epoch: i32, partitions: &[(&str, i32)], fate: MarkersFate) {
        let partitions: Vec<_> = partitions.iter().map(|(topic, p)| TopicPartition::new(*topic, *p)).collect();
        let epoch = LeaderEpoch(epoch);
        self.step(|core, _, turn| core.markers_answered("t", producer, epoch, &partitions, fate, turn));
    }

    fn told(&mut self, reply: ReplyTo) -> String {
        match self.answers.get(&reply) {
            None => "waits".to_owned(),
            Some(Answer::Producer(Ok(Assigned::As(Producer { id, epoch })))) => format!("{id}/{epoch}"),
            Some(Answer::Producer(Ok(Assigned::NeedsId))) => "needs an id".to_owned(),
            Some(Answer::Producer(Err(error)) | Answer::Other(Err(error))) => error.to_string(),
            Some(Answer::Other(Ok(()))) => "ok".to_owned(),
        }
    }

    fn stored(&self) -> StoredTransaction {
        self.core.get("t").expect("the id is known").stored().clone()
    }

    fn state(&self) -> String {
        let Some(transaction) = self.core.get("t") else { return "gone".to_owned() };
        let Producer { id, epoch } = transaction.stored().producer;
        format!("{} {id}/{epoch}", transaction.stored().state)
    }

    fn markers(&mut self) -> Markers {
        loop {
            match self.effects.pop_front() {
                Some(TransactionEffect::SendMarkers(markers)) => return markers,
                Some(_) => {}
                None => panic!("markers are sent"),
            }
        }
    }

    fn in_state(state: State) -> Bench {
        Bench::in_state_of(V0, state)
    }

    /// The id "t" in a state, reached as a client reaches it: producer 1000 with epoch 0, and a transaction in a-0 and b-1.
    fn in_state_of(version: TransactionVersion, state: State) -> Bench {
        let mut bench = Bench::new();
        if state == State::Unknown {
            return bench;
        }
        assert_eq!(bench.init(), "1000/0");
        if state == State::Empty {
            return bench;
        }
        if state == State::Beginning {
            bench.hold_appends = true;
            assert_eq!(bench.init(), "waits");
            return bench;
        }
        bench.hold_appends = state == State::Opening;
        let told = bench.add_as(version, ME, &[("a", 0), ("b", 1)]);
        assert_eq!(told, if state == State::Opening { "waits" } else { "ok" });
        let outcome = match state {
            State::Unknown | State::Empty | State::Beginning | State::Opening | State::Ongoing => return bench,
            State::Fencing => {
                bench.hold_appends = true;
                bench.pass(60_001);
                return bench;
            }
            State::Ending => {
                bench.hold_appends = true;
                assert_eq!(bench.end_as(version, ME, Commit), "waits");
                return bench;
            }
            State::PrepareCommit | State::CompleteCommit | State::Completing | State::Retrying => Commit,
            State::PrepareAbort | State::CompleteAbort => Abort,
        };
        let ended = if version.bumps_epoch() { NEXT } else { ME };
        assert_eq!(bench.end_as(version, ME, outcome), format!("{}/{}", ended.id, ended.epoch));
        bench.hold_appends = state == State::Completing;
        bench.fail_appends = (state == State::Retrying).then_some(AppendFailure::NotEnoughReplicas);
        if !matches!(state, State::PrepareCommit | State::PrepareAbort) {
            bench.answered(ended, 5, &[("a", 0), ("b", 1)], MarkersFate::Written);
        }
        bench.fail_appends = None;
        bench
    }

    /// What a coordinator elected in the next epoch makes of what the log has.
    fn reload(&self) -> Bench {
        let mut next = Bench { leader_epoch: self.leader_epoch + 1, ..Bench::new() };
        let mut replay = Replay::default();
        for records in &self.log {
            let bytes = Transactions::encode("", records, &next.settings, 0).expect("short texts");
            for batch in batches(&bytes) {
                replay.batch(batch.expect("our own batch")).expect("our own records");
            }
        }
        next.log = self.log.clone();
        next.elapsed_ms = self.elapsed_ms;
        next.next_id = self.next_id;
        let epoch = LeaderEpoch(next.leader_epoch);
        next.step(|core, _, turn| core.load(replay, epoch, turn));
        next
    }
}

const fn producer(id: i64, epoch: i16) -> Producer {
    Producer { id: ProducerId(id), epoch: ProducerEpoch(epoch) }
}

const ME: Producer = producer(FIRST_ID, 0);
/// The same, once a transaction has ended that raises the epoch.
const NEXT: Producer = producer(FIRST_ID, 1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Dead, or never there.
    Unknown,
    Empty,
    /// Another producer's epoch is on its way into the log.
    Beginning,
    /// A first partition is on its way into the log.
    Opening,
    Ongoing,
    /// PrepareEpochFence: an abort with a higher epoch is on its way into the log.
    Fencing,
    /// A commit is.
    Ending,
    PrepareCommit,
    PrepareAbort,
    /// All markers are written, which is on its way into the log.
    Completing,
    /// It could not be written down, and is tried again later.
    Retrying,
    CompleteCommit,
    CompleteAbort,
}

const STATES: [State; 13] = [
    State::Unknown,
    State::Empty,
    State::Beginning,
    State::Opening,
    State::Ongoing,
    State::Fencing,
    State::Ending,
    State::PrepareCommit,
    State::PrepareAbort,
    State::Completing,
    State::Retrying,
    State::CompleteCommit,
    State::CompleteAbort,
];

/// What happens, and what comes of it in each state: what is told, and the state if that is another.
type Row = (&'static str, fn(&mut Bench) -> String, [&'static str; 13]);

fn walk(version: TransactionVersion, rows: &[Row]) {
    for (event, perform, expected) in rows {
        for (state, expected) in STATES.into_iter().zip(expected) {
            let mut bench = Bench::in_state_of(version, state);
            let before = bench.state();
            let mut outcome = perform(&mut bench);
            if bench.state() != before {
                outcome = format!("{outcome}, {}", bench.state());
            }
            assert_eq!(outcome, *expected, "{event}, in {state:?}");
            // What the log has is what whoever is elected next knows.
            let reloaded = bench.reload();
            if bench.held.is_empty() && !bench.has_failed {
                let [found, known] = [&reloaded, &bench].map(|bench| bench.core.get("t").map(|t| t.stored()));
                assert_eq!(found, known, "{event}, in {state:?}");
            }
        }
    }
}

const MAPPING: &str = "InvalidProducerIdMapping";
const FENCED: &str = "ProducerFenced";
const AGAIN: &str = "ConcurrentTransactions";
const NOT_SO: &str = "InvalidTxnState";
const UNAVAILABLE: &str = "CoordinatorNotAvailable";

/// In either version, by state.
#[rustfmt::skip]
const NOT_THERE: [&str; 13] =
    ["nothing", "nothing", UNAVAILABLE, UNAVAILABLE, "nothing", "nobody is told", UNAVAILABLE, "nothing", "nothing",
     "nobody is told", "nothing", "nothing", "nothing"];
#[rustfmt::skip]
const ELECTED: [&str; 13] =
    ["rests", "rests", "rests", "rests", "is timed", "is timed, Ongoing 1000/0", "is timed", "sends markers",
     "sends markers", "sends markers", "sends markers", "rests", "rests"];

#[test]
fn every_event_in_every_state() {
    #[rustfmt::skip]
    let rows: [Row; 23] = [
        ("another producer begins", |b| b.init(),
            ["1000/0, Empty 1000/0", "1000/1, Empty 1000/1", AGAIN, AGAIN, "ConcurrentTransactions, PrepareAbort 1000/1", AGAIN,
             AGAIN, AGAIN, AGAIN, AGAIN, AGAIN, "1000/1, Empty 1000/1", "1000/1, Empty 1000/1"]),
        ("the producer goes on after an error", |b| b.init_as(Some(ME)),
            ["1000/0, Empty 1000/0", "1000/1, Empty 1000/1", AGAIN, AGAIN, "ConcurrentTransactions, PrepareAbort 1000/1", AGAIN,
             AGAIN, AGAIN, AGAIN, AGAIN, AGAIN, "1000/1, Empty 1000/1", "1000/1, Empty 1000/1"]),
        ("a producer with another id goes on", |b| b.init_as(Some(producer(7, 0))),
            ["1000/0, Empty 1000/0", FENCED, AGAIN, AGAIN, FENCED, AGAIN, AGAIN, AGAIN, AGAIN, AGAIN, AGAIN, FENCED, FENCED]),
        ("a producer with another epoch goes on", |b| b.init_as(Some(producer(FIRST_ID, 3))),
            ["1000/0, Empty 1000/0", FENCED, AGAIN, AGAIN, "ConcurrentTransactions, PrepareAbort 1000/1", AGAIN,
             AGAIN, AGAIN, AGAIN, AGAIN, AGAIN, FENCED, FENCED]),
        ("partitions are added", |b| b.add(ME, &[("c", 0)]),
            [MAPPING, "ok, Ongoing 1000/0", AGAIN, AGAIN, "ok", FENCED, AGAIN, AGAIN, AGAIN, AGAIN, AGAIN,
             "ok, Ongoing 1000/0", "ok, Ongoing 1000/0"]),
        ("known partitions are added", |b| b.add(ME, &[("b", 1)]),
            [MAPPING, "ok, Ongoing 1000/0", AGAIN, AGAIN, "ok", FENCED, AGAIN, AGAIN, AGAIN, AGAIN, AGAIN,
             "ok, Ongoing 1000/0", "ok, Ongoing 1000/0"]),
        ("another id adds partitions", |b| b.add(producer(7, 0), &[("c", 0)]), [MAPPING; 13]),
        ("another epoch adds partitions", |b| b.add(producer(FIRST_ID, 3), &[("c", 0)]),
            [MAPPING, FENCED, FENCED, FENCED, FENCED, FENCED, FENCED, FENCED, FENCED, FENCED, FENCED, FENCED, FENCED]),
        ("a commit", |b| b.end(ME, Commit),
            [MAPPING, NOT_SO, AGAIN, AGAIN, "ok, PrepareCommit 1000/0", FENCED, AGAIN, AGAIN, AGAIN, AGAIN, AGAIN, "ok", NOT_SO]),
        ("an abort", |b| b.end(ME, Abort),
            [MAPPING, NOT_SO, AGAIN, AGAIN, "ok, PrepareAbort 1000/0", FENCED, AGAIN, AGAIN, AGAIN, AGAIN, AGAIN, NOT_SO, "ok"]),
        ("another id commits", |b| b.end(producer(7, 0), Commit), [MAPPING; 13]),
        ("another epoch commits", |b| b.end(producer(FIRST_ID, 3), Commit),
            [MAPPING, FENCED, FENCED, FENCED, FENCED, FENCED, FENCED, FENCED, FENCED, FENCED, FENCED, FENCED, FENCED]),
        ("a partition is verified", |b| b.verify(ME, ("a", 0)),
            [MAPPING, "[false]", "[false]", "[false]", "[true]", FENCED, "[true]", AGAIN, AGAIN, AGAIN, AGAIN, "[false]", "[false]"]),
        ("all markers are written", |b| {
            b.answered(ME, 5, &[("a", 0), ("b", 1)], MarkersFate::Written); "heard".to_owned()
        }, ["heard", "heard", "heard", "heard", "heard", "heard", "heard", "heard, CompleteCommit 1000/0",
            "heard, CompleteAbort 1000/0", "heard", "heard, CompleteCommit 1000/0", "heard", "heard"]),
        ("markers of an older coordinator are written", |b| {
            b.answered(ME, 4, &[("a", 0), ("b", 1)], MarkersFate::Written); "heard".to_owned()
        }, ["heard"; 13]),
        ("markers are refused as outdated", |b| b.refuse_markers(ME), ["heard"; 13]),
        ("markers are refused since this coordinator was elected again", |b| { b.leader_epoch = 7; b.refuse_markers(ME) },
            ["heard", "heard", "heard", "heard", "heard", "heard", "heard", "sent again", "sent again", "heard",
             "heard, CompleteCommit 1000/0", "heard", "heard"]),
        ("the time is up", |b| b.fire(TimerKind::Timeout),
            ["fired", "fired", "fired", "fired", "fired, PrepareAbort 1000/1", "fired", "fired", "fired", "fired", "fired",
             "fired", "fired", "fired"]),
        ("it is time to complete it", |b| b.fire(TimerKind::Complete),
            ["fired", "fired", "fired", "fired", "fired", "fired", "fired", "fired", "fired", "fired",
             "fired, CompleteCommit 1000/0", "fired", "fired"]),
        ("it has not been used for long", |b| {
            b.elapsed_ms += 604_800_000; b.step(|core, _, turn| core.expire(turn)); "looked".to_owned()
        }, ["looked", "looked, gone", "looked", "looked", "looked", "looked", "looked", "looked", "looked", "looked", "looked",
            "looked, gone", "looked, gone"]),
        ("what is on its way is in the log", |b| b.finish(Ok(Offset(9))),
            ["nothing", "nothing", "1000/1, Empty 1000/1", "ok, Ongoing 1000/0", "nothing", "nobody is told, PrepareAbort 1000/1",
             "1000/0, PrepareCommit 1000/0", "nothing", "nothing", "nobody is told, CompleteCommit 1000/0", "nothing", "nothing",
             "nothing"]),
        ("what is on its way does not get there", |b| b.finish(Err(AppendFailure::NotEnoughReplicas)), NOT_THERE),
        ("another broker is elected", |b| b.load(), ELECTED),
    ];
    walk(V0, &rows);
}

#[test]
fn a_transaction_is_committed_where_it_has_written() {
    let mut bench = Bench::in_state(State::Ongoing);
    bench.elapsed_ms += 10;
    assert_eq!(bench.add(ME, &[("b", 2)]), "ok");
    bench.elapsed_ms += 10;
    assert_eq!(bench.end(ME, Commit), "ok");
    let markers = bench.markers();
    let all = [("a", 0), ("b", 1), ("b", 2)];
    assert_eq!(markers.partitions, all.map(|(topic, p)| TopicPartition::new(topic, p)).into());
    assert_eq!((markers.producer, markers.outcome, markers.coordinator_epoch), (ME, Commit, LeaderEpoch(5)));
    bench.answered(ME, 5, &[("b", 1), ("b", 2)], MarkersFate::Written);
    assert_eq!(bench.state(), "PrepareCommit 1000/0", "one is missing");
    assert_eq!(bench.stored().partitions.len(), 1);
    bench.elapsed_ms += 10;
    bench.answered(ME, 5, &[("a", 0)], MarkersFate::Written);
    let stored = bench.stored();
    assert_eq!((stored.state, stored.partitions.len()), (TransactionState::CompleteCommit, 0));
    assert_eq!((stored.start_ms, stored.last_update_ms), (Some(WALL_START_MS), WALL_START_MS + 30));
    // The states as they are in the log, in their order.
    let states: Vec<TransactionState> =
        bench.log.iter().flatten().filter_map(|r| Some(r.stored.as_ref()?.state)).collect();
    use TransactionState::{CompleteCommit, Empty, Ongoing, PrepareCommit};
    assert_eq!(states, [Empty, Ongoing, Ongoing, PrepareCommit, CompleteCommit]);
    // The next transaction begins anew.
    assert_eq!(bench.add(ME, &[("c", 0)]), "ok");
    assert_eq!(bench.stored().start_ms, Some(WALL_START_MS + 30));
    assert!(!bench.timers.is_running(&TimerKey { of: Arc::from("t"), kind: TimerKind::Complete }));
}

#[test]
fn what_is_decided_is_carried_out_by_whoever_is_elected_next() {
    for (state, outcome, end) in
        [(State::PrepareCommit, Commit, "CompleteCommit 1000/0"), (State::PrepareAbort, Abort, "CompleteAbort 1000/0")]
    {
        let mut old = Bench::in_state(state);
        old.answered(ME, 5, &[("a", 0)], MarkersFate::Written);
        let mut next = old.reload();
        assert_eq!(next.init(), "ConcurrentTransactions");
        let markers = next.markers();
        assert_eq!((markers.outcome, markers.coordinator_epoch), (outcome, LeaderEpoch(6)));
        assert_eq!(markers.partitions.len(), 2, "which have their marker is not written down");
        old.step(|core, _, turn| core.unload(turn));
        assert!(old.effects.contains(&TransactionEffect::StopMarkers(Arc::from("t"))));
        // What the old one sent may still be answered.
        next.answered(ME, 5, &[("a", 0), ("b", 1)], MarkersFate::Written);
        assert_ne!(next.state(), end);
        next.answered(ME, 6, &[("a", 0), ("b", 1)], MarkersFate::Written);
        assert_eq!(next.state(), end);
    }
}

#[test]
fn an_open_transaction_is_timed_out_by_whoever_is_elected_next() {
    let mut bench = Bench::in_state(State::Ongoing);
    bench.pass(50_000);
    let mut next = bench.reload();
    next.pass(10_000);
    assert_eq!(next.state(), "Ongoing 1000/0");
    next.pass(1);
    assert_eq!(next.state(), "PrepareAbort 1000/1");
    assert_eq!(next.markers().producer, producer(FIRST_ID, 1), "markers carry the epoch that fences");
    assert_eq!(next.end(ME, Commit), "ProducerFenced");
    let mut last = next.reload();
    assert_eq!(last.markers().producer, producer(FIRST_ID, 1));
}

#[test]
fn a_producer_that_begins_while_a_transaction_is_open_gets_an_epoch_once_that_is_aborted() {
    let mut bench = Bench::in_state(State::Ongoing);
    assert_eq!(bench.init(), "ConcurrentTransactions");
    assert_eq!(bench.add(ME, &[("c", 0)]), "ProducerFenced");
    assert_eq!(bench.init(), "ConcurrentTransactions");
    bench.answered(producer(FIRST_ID, 1), 5, &[("a", 0), ("b", 1)], MarkersFate::Written);
    assert_eq!(bench.init(), "1000/2");
}

#[test]
fn an_epoch_that_was_raised_in_vain_is_not_raised_again() {
    let mut bench = Bench::in_state(State::Ongoing);
    bench.fail_appends = Some(AppendFailure::NotEnoughReplicas);
    assert_eq!(bench.init(), "CoordinatorNotAvailable");
    assert_eq!(bench.state(), "Ongoing 1000/1");
    assert_eq!(bench.end(ME, Commit), "ProducerFenced", "whoever was fenced stays so");
    assert_eq!(bench.init(), "CoordinatorNotAvailable");
    assert_eq!(bench.state(), "Ongoing 1000/1");
    bench.fail_appends = None;
    // Nobody comes back, and the time is up.
    bench.pass(60_001);
    assert_eq!(bench.state(), "PrepareAbort 1000/1");
}

#[test]
fn an_abort_for_time_that_could_not_be_written_is_tried_again() {
    let mut bench = Bench::in_state(State::Ongoing);
    bench.fail_appends = Some(AppendFailure::TimedOut);
    bench.pass(60_001);
    assert_eq!(bench.state(), "Ongoing 1000/1");
    bench.fail_appends = None;
    bench.pass(9_999);
    assert_eq!(bench.state(), "Ongoing 1000/1");
    bench.pass(1);
    assert_eq!(bench.state(), "PrepareAbort 1000/1");
}

#[test]
fn nothing_is_in_force_before_it_is_in_the_log() {
    let failures = [
        (AppendFailure::NotEnoughReplicas, "CoordinatorNotAvailable"),
        (AppendFailure::TimedOut, "CoordinatorNotAvailable"),
        (AppendFailure::StorageError, "NotCoordinator"),
        (AppendFailure::NotLeaderOrFollower, "NotCoordinator"),
        (AppendFailure::MessageTooLarge, "UnknownServerError"),
    ];
    for (failure, told) in failures {
        let mut bench = Bench::in_state(State::Ongoing);
        bench.fail_appends = Some(failure);
        assert_eq!(bench.add(ME, &[("c", 0)]), told);
        assert_eq!(bench.stored().partitions.len(), 2);
        assert_eq!(bench.end(ME, Commit), told);
        assert_eq!(bench.state(), "Ongoing 1000/0");
        bench.fail_appends = None;
        assert_eq!(bench.end(ME, Commit), "ok", "a failed change leaves nothing behind");
        let mut bench = Bench::new();
        bench.fail_appends = Some(failure);
        assert_eq!(bench.init(), told);
        bench.fail_appends = None;
        assert_eq!(bench.init(), "1000/0", "nobody was given the epoch");
    }
    let mut bench = Bench::in_state(State::Ongoing);
    bench.hold_appends = true;
    assert_eq!(bench.end(ME, Commit), "waits");
    assert!(bench.effects.is_empty(), "no marker before the decision is in the log");
    bench.finish_append(Ok(Offset(9)));
    assert_eq!(bench.markers().outcome, Commit);
}

/// To a coordinator that another has followed every transaction of a producer looks like the last it knows of.
#[test]
fn what_was_done_before_is_confirmed_by_the_log_and_not_from_memory() {
    type Ask = fn(&mut Bench) -> String;
    let repeated: [(State, Ask); 3] = [
        (State::CompleteCommit, |b| b.end(ME, Commit)),
        (State::CompleteAbort, |b| b.end(ME, Abort)),
        (State::Ongoing, |b| b.add(ME, &[("b", 1)])),
    ];
    for (state, ask) in repeated {
        let mut bench = Bench::in_state(state);
        let (before, records) = (bench.stored(), bench.log.len());
        bench.hold_appends = true;
        assert_eq!(ask(&mut bench), "waits");
        let waiting = ReplyTo(bench.next_reply - 1);
        assert_eq!(ask(&mut bench), "ConcurrentTransactions");
        bench.finish_append(Ok(Offset(9)));
        assert_eq!(bench.told(waiting), if state == State::Ongoing { "ok" } else { "1000/0" });
        assert_eq!(bench.log[records][0].stored, Some(before.clone()), "nothing has changed");
        assert_eq!(ask(&mut bench), "waits");
        let waiting = ReplyTo(bench.next_reply - 1);
        bench.finish_append(Err(AppendFailure::NotLeaderOrFollower));
        assert_eq!(bench.told(waiting), "NotCoordinator");
        assert_eq!(bench.stored(), before);
    }
}

#[test]
fn an_end_that_could_not_be_written_is_tried_again() {
    let mut bench = Bench::in_state(State::PrepareCommit);
    bench.fail_appends = Some(AppendFailure::NotEnoughReplicas);
    bench.answered(ME, 5, &[("a", 0), ("b", 1)], MarkersFate::Written);
    bench.pass(1_000);
    assert_eq!(bench.init(), "ConcurrentTransactions");
    let tried = bench.next_append;
    bench.pass(60_000);
    assert!((10..=15).contains(&(bench.next_append - tried)), "{}", bench.next_append - tried);
    bench.fail_appends = None;
    bench.pass(5_000);
    assert_eq!(bench.state(), "CompleteCommit 1000/0");
}

#[test]
fn every_state_is_let_go_when_another_broker_speaks_for_it() {
    use State::{Beginning, Completing, Ending, Opening, PrepareAbort, PrepareCommit, Retrying, Unknown};
    for (version, state) in [V0, V2].into_iter().flat_map(|version| STATES.map(|state| (version, state))) {
        let mut bench = Bench::in_state_of(version, state);
        let waits = matches!(state, Beginning | Opening | Ending);
        let told = bench.tells(|b| {
            let (_, count) = b.step(|core, _, turn| core.unload(turn));
            assert_eq!(count, usize::from(state != Unknown));
        });
        assert_eq!(told, if waits { "NotCoordinator" } else { "nobody is told" }, "{state:?}");
        let stops = bench.effects.contains(&TransactionEffect::StopMarkers(Arc::from("t")));
        let sends = matches!(state, PrepareCommit | PrepareAbort | Completing | Retrying);
        assert_eq!(stops, sends, "{state:?}: its markers are sent no more");
        let is_running = |kind| bench.timers.is_running(&TimerKey { of: Arc::from("t"), kind });
        assert_eq!([TimerKind::Timeout, TimerKind::Complete].map(is_running), [false; 2], "{state:?}");
        assert_eq!(bench.core.bytes(), 0, "{state:?}");
        // An append of an earlier load that ends late is nobody's.
        assert!(["nothing", "nobody is told"].contains(&&*bench.finish(Ok(Offset(9)))), "{state:?}");
        assert_eq!(bench.state(), "gone", "{state:?}");
    }
}

#[test]
fn a_coordinator_led_on_in_a_newer_epoch_sends_what_was_refused_again() {
    let mut bench = Bench::in_state(State::PrepareCommit);
    bench.markers();
    bench.leader_epoch = 7;
    bench.answered(ME, 5, &[("b", 1)], MarkersFate::Written);
    bench.answered(ME, 5, &[("a", 0)], MarkersFate::Fenced);
    let again = bench.markers();
    assert_eq!((again.coordinator_epoch, again.partitions.len()), (LeaderEpoch(7), 1));
    bench.answered(ME, 7, &[("a", 0)], MarkersFate::Fenced);
    assert!(bench.effects.is_empty(), "a newer coordinator is at it");
    assert_eq!(bench.end(ME, Commit), "ConcurrentTransactions");
    assert_eq!(bench.end(ME, Abort), "InvalidTxnState");
}

#[test]
fn a_transaction_without_partitions_ends_at_once() {
    let mut bench = Bench::in_state(State::Empty);
    assert_eq!(bench.add(ME, &[]), "ok");
    assert_eq!(bench.end(ME, Commit), "ok");
    assert_eq!(bench.state(), "CompleteCommit 1000/0");
}

/// KIP-360.
#[test]
fn a_producer_that_repeats_itself_gets_what_it_was_given() {
    let mut bench = Bench::in_state(State::CompleteCommit);
    assert_eq!(bench.init_as(Some(ME)), "1000/1");
    assert_eq!(bench.init_as(Some(ME)), "1000/1", "it has not heard the answer");
    assert_eq!(bench.init_as(Some(ME)), "1000/1");
    assert_eq!(bench.init_as(Some(producer(FIRST_ID, 1))), "1000/2");
    assert_eq!(bench.init_as(Some(ME)), "ProducerFenced", "two epochs back");
    assert_eq!(bench.init(), "1000/3");
    assert_eq!(bench.init_as(Some(producer(FIRST_ID, 2))), "ProducerFenced", "another one has begun");
}

#[test]
fn a_producer_whose_epochs_are_used_up_gets_a_new_id() {
    let exhausted = producer(FIRST_ID, i16::MAX - 1);
    let with_epoch = |epoch| {
        let mut bench = Bench::in_state(State::CompleteCommit);
        let mut stored = bench.stored();
        stored.producer.epoch = ProducerEpoch(epoch);
        bench.log.push(vec![TransactionRecord { transactional_id: Arc::from("t"), stored: Some(stored) }]);
        bench.reload()
    };
    let mut bench = with_epoch(i16::MAX - 2);
    assert_eq!(bench.init(), "1000/32766");
    assert_eq!(bench.init(), "2000/0");
    let mut bench = with_epoch(i16::MAX - 1);
    assert_eq!(bench.init_as(Some(exhausted)), "2000/0");
    assert_eq!(bench.init_as(Some(exhausted)), "2000/0", "it has not heard the answer");
    assert_eq!(bench.init_as(Some(producer(FIRST_ID, 5))), "ProducerFenced");
    // A fence takes the last epoch, which nobody is given.
    let mut bench = with_epoch(i16::MAX - 1);
    assert_eq!(bench.add(exhausted, &[("a", 0)]), "ok");
    assert_eq!(bench.init(), "ConcurrentTransactions");
    assert_eq!(bench.state(), "PrepareAbort 1000/32767");
    bench.answered(producer(FIRST_ID, i16::MAX), 6, &[("a", 0)], MarkersFate::Written);
    assert_eq!(bench.init(), "2000/0");
}

#[test]
fn timeouts_beyond_what_the_broker_allows_are_refused() {
    let mut bench = Bench::new();
    for timeout_ms in [0, -1, 900_001] {
        let init = Init { timeout_ms, expected: None, new_id: Some(ProducerId(1)) };
        let (reply, ()) = bench.step(|core, reply, turn| core.init("t", init, reply, turn));
        assert_eq!(bench.told(reply), "InvalidTransactionTimeout");
    }
    assert_eq!(bench.core.iter().count(), 0);
}

#[test]
fn unused_ids_are_forgotten_many_by_one_batch() {
    let mut bench = Bench::new();
    for n in 0..250 {
        let init = Init { timeout_ms: TIMEOUT_MS, expected: None, new_id: Some(ProducerId(n)) };
        bench.step(|core, reply, turn| core.init(&format!("t{n}"), init, reply, turn));
    }
    bench.log.clear();
    bench.elapsed_ms = 604_799_999;
    bench.step(|core, _, turn| core.expire(turn));
    assert_eq!(bench.core.iter().count(), 250);
    bench.elapsed_ms += 1;
    bench.step(|core, _, turn| core.expire(turn));
    assert_eq!((bench.core.iter().count(), bench.core.bytes()), (0, 0));
    assert_eq!(bench.log.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 50]);
    assert!(bench.log.iter().flatten().all(|record| record.stored.is_none()));
    assert_eq!(bench.reload().core.iter().count(), 0);
}

#[test]
fn what_the_broker_may_hold_bounds_ids_and_partitions() {
    let mut bench = Bench::in_state(State::Ongoing);
    bench.settings.transaction_coordinator_max_bytes = bench.core.bytes() + 200;
    assert_eq!(bench.add(ME, &[("a", 0), ("b", 1), ("a", 0), ("b", 1)]), "ok", "all are in");
    let init = Init { timeout_ms: TIMEOUT_MS, expected: None, new_id: Some(ProducerId(7)) };
    let (reply, ()) = bench.step(|core, reply, turn| core.init("another", init, reply, turn));
    assert_eq!(bench.told(reply), "TooMuchHeld");
    assert_eq!(bench.add(ME, &[("c", 0)]), "ok");
    assert_eq!(bench.add(ME, &[("d", 0), ("d", 1), ("d", 2)]), "TooMuchHeld");
    assert_eq!(bench.end(ME, Commit), "ok", "what is open can be ended");
    let refused = ["another", "t"].map(|id| TransactionEffect::RefusedForSize(id.into()));
    assert!(refused.iter().all(|effect| bench.effects.contains(effect)), "{:?}", bench.effects);
}

#[test]
fn new_ids_leave_room_for_the_partitions_of_those_that_are_there() {
    let mut bench = Bench::in_state(State::Empty);
    bench.settings.transaction_coordinator_max_bytes = bench.core.bytes() * 40;
    let mut ids = 0;
    loop {
        let init = Init { timeout_ms: TIMEOUT_MS, expected: None, new_id: Some(ProducerId(5000 + ids)) };
        let (reply, ()) = bench.step(|core, reply, turn| core.init(&format!("id-{ids}"), init, reply, turn));
        if bench.told(reply) == "TooMuchHeld" {
            break;
        }
        ids += 1;
    }
    assert!((25..=30).contains(&ids), "{ids}");
    assert_eq!(bench.init(), "1000/1", "it is known");
    let many: Vec<_> = (0..20).map(|p| ("a", p)).collect();
    assert_eq!(bench.add(producer(FIRST_ID, 1), &many), "ok");
}

#[test]
fn long_ids_are_forgotten_by_more_batches() {
    let mut bench = Bench::new();
    for id in 0..10 {
        let init = Init { timeout_ms: TIMEOUT_MS, expected: None, new_id: Some(ProducerId(id)) };
        bench.step(|core, reply, turn| core.init(&format!("{id}{}", "x".repeat(30_000)), init, reply, turn));
    }
    bench.log.clear();
    bench.elapsed_ms = 604_800_000;
    bench.step(|core, _, turn| core.expire(turn));
    assert_eq!(bench.core.iter().count(), 0);
    assert_eq!(bench.log.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 3, 1]);
}

/// KIP-890 part 2. Source: kafka 4.1 TransactionCoordinator.scala (endTransaction), but that a producer which is exactly the
/// one that is known is told to ask again while its last transaction is being ended, where Kafka fences it.
#[test]
fn every_event_of_version_2_in_every_state() {
    #[rustfmt::skip]
    let rows: [Row; 15] = [
        ("a commit", |b| b.end_and_bump(ME, Commit),
            [MAPPING, NOT_SO, AGAIN, AGAIN, "1000/1, PrepareCommit 1000/1", FENCED, AGAIN, AGAIN, FENCED, AGAIN, AGAIN,
             "1000/1", FENCED]),
        ("an abort", |b| b.end_and_bump(ME, Abort),
            [MAPPING, "1000/1, CompleteAbort 1000/1", AGAIN, AGAIN, "1000/1, PrepareAbort 1000/1", FENCED, AGAIN, AGAIN, AGAIN,
             AGAIN, AGAIN, NOT_SO, "1000/1"]),
        ("a commit of the next epoch", |b| b.end_and_bump(NEXT, Commit),
            [MAPPING, FENCED, FENCED, FENCED, FENCED, AGAIN, FENCED, AGAIN, AGAIN, AGAIN, AGAIN, NOT_SO, NOT_SO]),
        ("an abort of the next epoch", |b| b.end_and_bump(NEXT, Abort),
            [MAPPING, FENCED, FENCED, FENCED, FENCED, AGAIN, FENCED, AGAIN, AGAIN, AGAIN, AGAIN,
             "1000/2, CompleteAbort 1000/2", "1000/2, CompleteAbort 1000/2"]),
        ("a commit of two epochs later", |b| b.end_and_bump(producer(FIRST_ID, 2), Commit),
            [MAPPING, FENCED, FENCED, FENCED, FENCED, FENCED, FENCED, FENCED, FENCED, FENCED, FENCED, FENCED, FENCED]),
        ("another id commits", |b| b.end_and_bump(producer(7, 0), Commit), [MAPPING; 13]),
        ("a commit of version 0", |b| b.end(ME, Commit),
            [MAPPING, NOT_SO, AGAIN, AGAIN, "ok, PrepareCommit 1000/0", FENCED, AGAIN, FENCED, FENCED, FENCED, FENCED, FENCED,
             FENCED]),
        ("a write", |b| b.write(ME, &[("c", 0)]),
            [MAPPING, "ok, Ongoing 1000/0", AGAIN, AGAIN, "ok", FENCED, AGAIN, FENCED, FENCED, FENCED, FENCED, FENCED, FENCED]),
        ("a write of the next epoch", |b| b.write(NEXT, &[("c", 0)]),
            [MAPPING, FENCED, FENCED, FENCED, FENCED, AGAIN, FENCED, AGAIN, AGAIN, AGAIN, AGAIN,
             "ok, Ongoing 1000/1", "ok, Ongoing 1000/1"]),
        ("another producer begins", |b| b.init(),
            ["1000/0, Empty 1000/0", "1000/1, Empty 1000/1", AGAIN, AGAIN, "ConcurrentTransactions, PrepareAbort 1000/1", AGAIN,
             AGAIN, AGAIN, AGAIN, AGAIN, AGAIN, "1000/2, Empty 1000/2", "1000/2, Empty 1000/2"]),
        ("the producer goes on after an error, having heard of no end", |b| b.init_as(Some(ME)),
            ["1000/0, Empty 1000/0", "1000/1, Empty 1000/1", AGAIN, AGAIN, "ConcurrentTransactions, PrepareAbort 1000/1", AGAIN,
             AGAIN, AGAIN, AGAIN, AGAIN, AGAIN, "1000/1, Empty 1000/1", "1000/1, Empty 1000/1"]),
        ("all markers are written", |b| {
            b.answered(NEXT, 5, &[("a", 0), ("b", 1)], MarkersFate::Written); "heard".to_owned()
        }, ["heard", "heard", "heard", "heard", "heard", "heard", "heard", "heard, CompleteCommit 1000/1",
            "heard, CompleteAbort 1000/1", "heard", "heard, CompleteCommit 1000/1", "heard", "heard"]),
        ("what is on its way is in the log", |b| b.finish(Ok(Offset(9))),
            ["nothing", "nothing", "1000/1, Empty 1000/1", "ok, Ongoing 1000/0", "nothing", "nobody is told, PrepareAbort 1000/1",
             "1000/1, PrepareCommit 1000/1", "nothing", "nothing", "nobody is told, CompleteCommit 1000/1", "nothing", "nothing",
             "nothing"]),
        ("what is on its way does not get there", |b| b.finish(Err(AppendFailure::NotEnoughReplicas)), NOT_THERE),
        ("another broker is elected", |b| b.load(), ELECTED),
    ];
    walk(V2, &rows);
}

#[test]
fn markers_carry_the_next_epoch_and_a_repeated_end_hears_of_it_whoever_is_elected() {
    for (state, outcome, other, told) in [
        (State::PrepareCommit, Commit, Abort, "InvalidTxnState"),
        (State::PrepareAbort, Abort, Commit, "ProducerFenced"),
    ] {
        let mut old = Bench::in_state_of(V2, state);
        assert_eq!(old.markers().producer, NEXT);
        let mut bench = old.reload();
        assert_eq!(bench.markers().producer, NEXT);
        assert_eq!(bench.end_and_bump(ME, outcome), "ConcurrentTransactions");
        bench.answered(NEXT, 6, &[("a", 0), ("b", 1)], MarkersFate::Written);
        for mut bench in [bench.reload(), bench] {
            assert_eq!(bench.end_and_bump(ME, outcome), "1000/1");
            assert_eq!(bench.end_and_bump(ME, other), told);
            // The next transaction is open: what belongs to the one before ends nothing.
            assert_eq!(bench.write(NEXT, &[("a", 0)]), "ok");
            for delayed in [Commit, Abort] {
                assert_eq!(bench.end_and_bump(ME, delayed), "ProducerFenced");
                assert_eq!(bench.end(ME, delayed), "ProducerFenced");
            }
            assert_eq!(bench.write(ME, &[("z", 0)]), "ProducerFenced", "nor is a delayed write part of it");
            assert_eq!(bench.state(), "Ongoing 1000/1");
            assert_eq!(bench.stored().partitions.len(), 1);
        }
    }
}

#[test]
fn a_producer_whose_time_was_up_aborts_and_goes_on_and_one_that_was_replaced_does_not() {
    let partitions = [("a", 0), ("b", 1)];
    let mut bench = Bench::in_state_of(V2, State::Ongoing);
    bench.pass(60_001);
    assert_eq!(bench.state(), "PrepareAbort 1000/1");
    assert_eq!(bench.markers().producer, NEXT);
    assert_eq!(bench.end_and_bump(ME, Abort), "ConcurrentTransactions");
    // KAFKA-20785: what it asked for is not what came of it, and its clients begin anew when they are fenced.
    assert_eq!(bench.end_and_bump(ME, Commit), "ProducerFenced");
    bench.answered(NEXT, 5, &partitions, MarkersFate::Written);
    for mut bench in [bench.reload(), bench] {
        assert_eq!(bench.end_and_bump(ME, Commit), "ProducerFenced");
        assert_eq!(bench.end_and_bump(ME, Abort), "1000/1");
        assert_eq!(bench.write(NEXT, &partitions), "ok");
    }

    let mut bench = Bench::in_state_of(V2, State::Ongoing);
    assert_eq!(bench.init(), "ConcurrentTransactions");
    assert_eq!(bench.end_and_bump(ME, Abort), "ProducerFenced");
    bench.answered(NEXT, 5, &partitions, MarkersFate::Written);
    for mut bench in [bench.reload(), bench] {
        assert_eq!(bench.end_and_bump(ME, Abort), "ProducerFenced", "it is not told the epoch that fences it");
        assert_eq!(bench.init(), "1000/2");
    }
}

/// KIP-360, across an election.
#[test]
fn a_producer_that_has_not_heard_of_its_commit_goes_on_whoever_is_elected_and_one_whose_time_was_up_does_not() {
    let all = [("a", 0), ("b", 1)];
    let mut bench = Bench::in_state_of(V2, State::PrepareCommit);
    let mut while_ending = bench.reload();
    while_ending.answered(NEXT, 6, &all, MarkersFate::Written);
    bench.answered(NEXT, 5, &all, MarkersFate::Written);
    for mut bench in [while_ending, bench.reload(), bench] {
        assert_eq!(bench.init_as(Some(ME)), "1000/1");
        assert_eq!(bench.write(NEXT, &all), "ok");
        assert_eq!(bench.end_and_bump(NEXT, Commit), "1000/2");
    }
    // Its epochs are used up.
    let exhausted = producer(FIRST_ID, i16::MAX - 1);
    let last = producer(FIRST_ID, i16::MAX);
    let mut bench = Bench::in_state_of(V2, State::CompleteCommit);
    let stored = StoredTransaction { producer: exhausted, ..bench.stored() };
    bench.log.push(vec![TransactionRecord { transactional_id: Arc::from("t"), stored: Some(stored) }]);
    let mut bench = bench.reload();
    assert_eq!(bench.write(exhausted, &all), "ok");
    assert_eq!(bench.end_and_bump(exhausted, Commit), "2000/0");
    let mut while_ending = bench.reload();
    while_ending.answered(last, 7, &all, MarkersFate::Written);
    bench.answered(last, 6, &all, MarkersFate::Written);
    for mut bench in [while_ending, bench.reload(), bench] {
        assert_eq!(bench.init_as(Some(exhausted)), "2000/0");
    }
    // What kept its epoch says nothing of the epoch before.
    let mut bench = Bench::in_state_of(V2, State::Empty);
    assert_eq!(bench.init(), "1000/1");
    assert_eq!(bench.add(NEXT, &all), "ok");
    assert_eq!(bench.end(NEXT, Commit), "ok");
    bench.answered(NEXT, 5, &all, MarkersFate::Written);
    for mut bench in [bench.reload(), bench] {
        assert_eq!(bench.init_as(Some(ME)), "ProducerFenced");
    }
    let mut bench = Bench::in_state_of(V2, State::Ongoing);
    bench.pass(60_001);
    bench.answered(NEXT, 5, &all, MarkersFate::Written);
    for mut bench in [bench.reload(), bench] {
        assert_eq!(bench.init_as(Some(ME)), "ProducerFenced");
    }
}

/// A producer that was fenced while its successor follows version 0 must not be taken for the successor that repeats itself.
#[test]
fn what_ended_without_another_epoch_is_repeated_by_nobody_of_the_epoch_before() {
    let mut bench = Bench::in_state_of(V2, State::Empty);
    assert_eq!(bench.init(), "1000/1");
    assert_eq!(bench.add(NEXT, &[("a", 0)]), "ok");
    assert_eq!(bench.end(NEXT, Commit), "ok");
    bench.answered(NEXT, 5, &[("a", 0)], MarkersFate::Written);
    assert_eq!(bench.state(), "CompleteCommit 1000/1");
    assert_eq!(bench.end_and_bump(ME, Commit), "ProducerFenced");
    // It learns of the new protocol, with the transaction after.
    assert_eq!(bench.write(NEXT, &[("a", 0)]), "ok");
    assert_eq!(bench.end_and_bump(NEXT, Commit), "1000/2");
}

#[test]
fn a_client_that_learns_of_another_version_within_a_transaction_ends_it_in_that() {
    let mut bench = Bench::in_state_of(V2, State::Ongoing);
    assert_eq!(bench.add(ME, &[("c", 0)]), "ok");
    assert_eq!(bench.end(ME, Commit), "ok");
    assert_eq!((bench.state(), bench.markers().producer), ("PrepareCommit 1000/0".to_owned(), ME));
    let mut bench = Bench::in_state_of(V0, State::Ongoing);
    assert_eq!(bench.write(ME, &[("c", 0)]), "ok");
    assert_eq!(bench.end_and_bump(ME, Commit), "1000/1");
    assert_eq!((bench.state(), bench.markers().producer), ("PrepareCommit 1000/1".to_owned(), NEXT));
}

#[test]
fn a_producer_whose_epochs_are_used_up_has_another_id_after_its_transaction() {
    let exhausted = producer(FIRST_ID, i16::MAX - 1);
    let last = producer(FIRST_ID, i16::MAX);
    let rotated = producer(2000, 0);
    let open = || {
        let mut bench = Bench::in_state_of(V2, State::CompleteCommit);
        let stored = StoredTransaction { producer: exhausted, ..bench.stored() };
        bench.log.push(vec![TransactionRecord { transactional_id: Arc::from("t"), stored: Some(stored) }]);
        let mut bench = bench.reload();
        assert_eq!(bench.write(exhausted, &[("a", 0)]), "ok");
        bench
    };
    let mut bench = open();
    assert_eq!(bench.end_and_bump(exhausted, Commit), "2000/0");
    assert_eq!((bench.state(), bench.markers().producer), ("PrepareCommit 1000/32767".to_owned(), last));
    let reloaded = bench.reload();
    for (mut bench, epoch) in [(bench, 6), (reloaded, 7)] {
        // It has heard of its new id, or not.
        assert_eq!(bench.write(rotated, &[("a", 0)]), "ConcurrentTransactions");
        assert_eq!(bench.end_and_bump(rotated, Abort), "ConcurrentTransactions");
        assert_eq!(bench.verify(rotated, ("a", 0)), "ConcurrentTransactions");
        assert_eq!(bench.end_and_bump(exhausted, Commit), "ConcurrentTransactions");
        bench.answered(last, epoch, &[("a", 0)], MarkersFate::Written);
        assert_eq!(bench.state(), "CompleteCommit 2000/0");
        for mut bench in [bench.reload(), bench] {
            assert_eq!(bench.end_and_bump(exhausted, Commit), "2000/0");
            assert_eq!(bench.end_and_bump(exhausted, Abort), "InvalidTxnState");
            assert_eq!(bench.write(rotated, &[("a", 0)]), "ok");
            assert_eq!(bench.end_and_bump(exhausted, Commit), "InvalidProducerIdMapping", "that one has ended");
            assert_eq!(bench.end_and_bump(rotated, Commit), "2000/1");
        }
    }

    // Nor is a commit told that it cannot be where an abort took the last epoch and the id with it.
    let mut bench = open();
    assert_eq!(bench.end_and_bump(exhausted, Abort), "2000/0");
    assert_eq!(bench.end_and_bump(exhausted, Commit), "ProducerFenced");
    bench.answered(last, 6, &[("a", 0)], MarkersFate::Written);
    assert_eq!(bench.end_and_bump(exhausted, Commit), "ProducerFenced");

    // KAFKA-20090: nobody is given the last epoch, not even by repeating what the clock has ended.
    let mut bench = open();
    bench.pass(60_001);
    assert_eq!(bench.state(), "PrepareAbort 1000/32767");
    for outcome in [Commit, Abort] {
        assert_eq!(bench.end_and_bump(exhausted, outcome), "ProducerFenced");
    }
    bench.answered(last, 6, &[("a", 0)], MarkersFate::Written);
    for outcome in [Commit, Abort] {
        assert_eq!(bench.end_and_bump(exhausted, outcome), "ProducerFenced");
    }
    assert_eq!(bench.init(), "2000/0");
}

#[test]
fn an_end_that_could_not_be_written_raises_no_epoch() {
    let mut bench = Bench::in_state_of(V2, State::Ongoing);
    bench.fail_appends = Some(AppendFailure::NotEnoughReplicas);
    assert_eq!(bench.end_and_bump(ME, Commit), "CoordinatorNotAvailable");
    assert_eq!(bench.state(), "Ongoing 1000/0");
    bench.fail_appends = None;
    assert_eq!(bench.end_and_bump(ME, Commit), "1000/1");
}

/// A JVM broker takes over no end of what has no beginning.
#[test]
fn an_abort_of_nothing_has_a_beginning() {
    let mut bench = Bench::in_state_of(V2, State::Empty);
    bench.elapsed_ms += 10;
    assert_eq!(bench.end_and_bump(ME, Abort), "1000/1");
    assert_eq!(bench.stored().start_ms, Some(WALL_START_MS + 10));
    assert!(bench.log.iter().flatten().all(|r| {
        r.stored.as_ref().is_some_and(|stored| stored.state == TransactionState::Empty || stored.start_ms.is_some())
    }));
}
