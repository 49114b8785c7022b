//! Sessions by themselves against their rules, and over real logs against what a fetcher must come to know.

use std::pin::pin;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;
use crate::config::sections::ReplicaConfig;
use crate::log::faults::{self, Op};
use crate::log::testing::Gate;
use crate::model::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, PartitionEpoch};
use crate::replica::error::ReplicaError;
use crate::replica::fetch::{FetchQuery, FetchReply};
use crate::replica::isr_changes::IsrAnswer;
use crate::replica::tests::{Fixture, NOW_MS, TERMS, follower, records, until, until_all_wait};

const CONSUMER: Fetcher = Fetcher::Consumer { read_committed: false, may_read_from_follower: false };
const FOLLOWER: Fetcher = Fetcher::Follower { broker: BrokerId(2), broker_epoch: BrokerEpoch(-1) };

const EVICTION_AFTER_MS: u64 = 120_000;
const FORGOTTEN_AFTER_MS: u64 = 600_000;

/// A moment, by its distance from one that all of a test's moments share.
fn at(ms: u64) -> std::time::Instant {
    static START: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);
    *START + Duration::from_millis(ms)
}

fn named(partition: i32, fetch_offset: i64) -> PartitionQuery {
    let params = FetchParams {
        fetch_offset: Offset(fetch_offset),
        log_start_offset: Offset(0),
        bytes_max: 1 << 20,
        current_leader_epoch: None,
        last_fetched_epoch: None,
    };
    PartitionQuery { topic: Some("t".into()), partition, topic_id: TopicId::ZERO, params }
}

fn request(session_id: i32, session_epoch: i32) -> SessionRequest {
    SessionRequest { session_id, session_epoch, uses_topic_ids: false, forgotten: Vec::new() }
}

/// The outcome of what only gives way to others.
fn now<T>(ready: impl Future<Output = T>) -> T {
    let mut ready = pin!(ready);
    loop {
        if let Poll::Ready(outcome) = ready.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return outcome;
        }
    }
}

/// A session of that many partitions, none of which exists.
fn session(sessions: &FetchSessions, fetcher: Fetcher, size: i32, now_ms: u64) -> i32 {
    let answers: Vec<_> =
        (0..size).map(|partition| (named(partition, 0), Err(ReplicaError::UnknownTopicOrPartition))).collect();
    now(sessions.create(false, fetcher, &answers, at(now_ms)))
}

fn refusal(sessions: &FetchSessions, request: &SessionRequest, added: &[i32], now_ms: u64) -> Option<SessionRefusal> {
    let mut added = added.iter().map(|&partition| named(partition, 0)).collect();
    match sessions.open(request, CONSUMER, &mut added, at(now_ms)) {
        Opened::Refused(why) => Some(why),
        Opened::Sessionless | Opened::Full | Opened::Incremental(_) => None,
    }
}

fn of(slots: usize, partitions: usize) -> FetchSessions {
    FetchSessions::new(SessionLimits { slots, partitions })
}

#[test]
fn a_wrong_epoch_an_unknown_id_and_a_change_of_naming_have_each_their_refusal() {
    let sessions = of(10, 100);
    let id = session(&sessions, CONSUMER, 1, 0);
    let refusal = |request| refusal(&sessions, &request, &[], 0);
    assert_eq!(refusal(request(id, 2)), Some(SessionRefusal::WrongEpoch));
    assert_eq!(refusal(request(id ^ 1, 1)), Some(SessionRefusal::UnknownId));
    let by_id = SessionRequest { uses_topic_ids: true, ..request(id, 1) };
    assert_eq!(refusal(by_id), Some(SessionRefusal::OtherNaming));
    assert_eq!(refusal(request(id, 1)), None, "refusals leave the session as it was");
}

#[test]
fn a_request_that_a_later_one_overtook_is_refused_when_it_is_answered() {
    let sessions = of(10, 100);
    let id = session(&sessions, CONSUMER, 1, 0);
    let open = |epoch| match sessions.open(&request(id, epoch), CONSUMER, &mut Vec::new(), at(0)) {
        Opened::Incremental(open) => open,
        _ => panic!("the session is there"),
    };
    let (overtaken, latest) = (open(1), open(2));
    assert!(!overtaken.is_current() && latest.is_current());
    assert_eq!(now(overtaken.close(Vec::new(), Vec::new())).err(), Some(SessionRefusal::WrongEpoch));
    assert!(now(latest.close(Vec::new(), Vec::new())).is_ok());
}

#[test]
fn forgetting_the_last_partition_ends_the_session() {
    let sessions = of(10, 100);
    let id = session(&sessions, CONSUMER, 2, 0);
    let forget = |epoch, partition| {
        let request = SessionRequest { forgotten: vec![named(partition, 0)], ..request(id, epoch) };
        sessions.open(&request, CONSUMER, &mut Vec::new(), at(0))
    };
    assert!(matches!(forget(1, 0), Opened::Incremental(_)));
    assert_eq!(sessions.size(), (1, 1));
    assert!(matches!(forget(2, 1), Opened::Sessionless));
    assert_eq!(sessions.size(), (0, 0));
}

#[test]
fn a_name_that_no_topic_has_is_answered_and_not_remembered() {
    let sessions = of(10, 100);
    let of_length = |bytes: usize| PartitionQuery { topic: Some("n".repeat(bytes).into()), ..named(0, 0) };
    let open = |request, mut fetched| sessions.open(&request, CONSUMER, &mut fetched, at(0));
    assert!(matches!(open(request(0, 0), vec![of_length(255)]), Opened::Full));
    assert!(matches!(open(request(0, 0), vec![named(0, 0), of_length(256)]), Opened::Sessionless));
    let id = session(&sessions, CONSUMER, 1, 0);
    assert!(matches!(open(request(id, 1), vec![of_length(256)]), Opened::Refused(SessionRefusal::UnknownId)));
    assert!(matches!(open(request(id, 1), vec![of_length(255)]), Opened::Incremental(_)), "it is as it was");
    assert_eq!(sessions.size(), (1, 2));
}

#[test]
fn epochs_wrap_past_the_largest_integer_to_one() {
    assert_eq!(epoch_after(0), 1);
    assert_eq!(epoch_after(i32::MAX), 1);
    assert_eq!(epoch_after(-1), -1);
}

#[test]
fn a_partition_named_twice_is_meant_as_it_is_named_last() {
    let mut fetched: Vec<PartitionQuery> =
        [(3, 1), (1, 2), (3, 3), (2, 4), (1, 5), (3, 6)].map(|(partition, offset)| named(partition, offset)).into();
    keep_last_of_each(&mut fetched, false);
    let kept: Vec<(i32, i64)> = fetched.iter().map(|query| (query.partition, query.params.fetch_offset.0)).collect();
    assert_eq!(kept, [(3, 6), (1, 5), (2, 4)]);
}

#[test]
fn a_full_cache_evicts_the_stale_then_for_followers_consumers_and_never_the_fresh() {
    let sessions = of(2, 100);
    let (small, large) = (session(&sessions, CONSUMER, 1, 0), session(&sessions, CONSUMER, 2, 1));
    assert_eq!(session(&sessions, CONSUMER, 3, 100), NO_SESSION, "a fresh session is safe from other consumers");
    let follower = session(&sessions, FOLLOWER, 1, 200);
    assert_ne!(follower, NO_SESSION);
    let refusal = |id| refusal(&sessions, &request(id, 1), &[], 300);
    assert_eq!(refusal(small), Some(SessionRefusal::UnknownId), "the smallest consumer went");
    assert_eq!(refusal(large), None);
    // Unused for longer than the limit: goes first, whoever asks.
    assert_ne!(session(&sessions, CONSUMER, 1, 200 + EVICTION_AFTER_MS + 1), NO_SESSION);
    assert_eq!(refusal(follower), Some(SessionRefusal::UnknownId));
}

#[test]
fn who_asks_for_less_gets_room_from_who_holds_more_and_nobody_holds_more_than_all() {
    let sessions = of(100, 1_000);
    assert_eq!(session(&sessions, CONSUMER, 1_001, 0), NO_SESSION);
    let (greedy, modest) = (session(&sessions, CONSUMER, 900, 0), session(&sessions, CONSUMER, 100, 0));
    assert_eq!(sessions.size(), (2, 1_000));
    assert_eq!(session(&sessions, CONSUMER, 950, 1), NO_SESSION, "the larger one finds no room");
    assert_ne!(session(&sessions, CONSUMER, 10, 1), NO_SESSION);
    assert_eq!(sessions.size(), (2, 110));
    assert_eq!(refusal(&sessions, &request(greedy, 1), &[], 1), Some(SessionRefusal::UnknownId));
    // Growing is bounded as being made is; a session that must not grow ends.
    let more: Vec<i32> = (0..900).collect();
    assert_eq!(refusal(&sessions, &request(modest, 1), &more, 1), None);
    assert_eq!(sessions.size(), (2, 910));
    let still_more: Vec<i32> = (0..1_200).collect();
    assert_eq!(refusal(&sessions, &request(modest, 2), &still_more, 1), Some(SessionRefusal::UnknownId));
    assert_eq!(sessions.size(), (1, 10));
    // A follower pushes out consumers of any size, but not the other way.
    assert_ne!(session(&sessions, FOLLOWER, 995, 2), NO_SESSION);
    assert_eq!(sessions.size(), (1, 995));
    assert_eq!(session(&sessions, CONSUMER, 6, 3), NO_SESSION);
}

#[test]
fn sessions_that_nobody_uses_are_forgotten() {
    let sessions = of(10, 100);
    let used = session(&sessions, CONSUMER, 3, 0);
    session(&sessions, FOLLOWER, 4, 0);
    assert_eq!(refusal(&sessions, &request(used, 1), &[], 1_000), None);
    sessions.forget_unused(at(FORGOTTEN_AFTER_MS + 1_000));
    assert_eq!(sessions.size(), (1, 3));
    sessions.forget_unused(at(FORGOTTEN_AFTER_MS + 1_001));
    assert_eq!(sessions.size(), (0, 0));
}

/// One fetcher over a fixture, with what it knows.
struct OneFetcher {
    fetcher: Fetcher,
    session_id: i32,
    epoch: i32,
    now_ms: u64,
}

impl OneFetcher {
    fn new(fetcher: Fetcher) -> OneFetcher {
        OneFetcher { fetcher, session_id: NO_SESSION, epoch: INITIAL_EPOCH, now_ms: 0 }
    }

    async fn fetch(
        &mut self,
        fixture: &Fixture,
        partitions: Vec<PartitionQuery>,
        forgotten: Vec<PartitionQuery>,
        deadline: Instant,
    ) -> FetchReply {
        let request = SessionRequest { forgotten, ..request(self.session_id, self.epoch) };
        let query = FetchQuery { fetcher: self.fetcher, partitions, ..fixture.consumer("t", 0, 1) };
        let reply = fixture.replicas.fetch_in_session(&request, query, deadline, at(self.now_ms)).await;
        match reply.refusal {
            None => {
                self.session_id = reply.session_id;
                self.epoch = if reply.session_id == NO_SESSION { INITIAL_EPOCH } else { epoch_after(self.epoch) };
            }
            Some(_) => (self.session_id, self.epoch) = (NO_SESSION, INITIAL_EPOCH),
        }
        reply
    }
}

async fn led(partitions: i32, replicas: &[i32]) -> Fixture {
    let fixture = Fixture::new();
    let names: Vec<(&str, i32)> = (0..partitions).map(|partition| ("t", partition)).collect();
    fixture.publish(&names).await;
    for partition in 0..partitions {
        assert_eq!(fixture.decide("t", partition, 1, 0, replicas).await, Ok(()));
    }
    fixture
}

fn told(reply: &FetchReply) -> Vec<(i32, usize)> {
    assert_eq!(reply.refusal, None);
    let bytes = |outcome: &Result<Fetched, ReplicaError>| outcome.as_ref().map_or(0, Fetched::bytes);
    reply.answers.iter().map(|(query, outcome)| (query.partition, bytes(outcome))).collect()
}

/// However many partitions a session has, a fetch looks at those that changed.
#[tokio::test]
async fn a_fetch_costs_work_for_the_partitions_that_changed() {
    const MANY: i32 = 300;
    for fetcher in [CONSUMER, follower(2)] {
        let replicas: &[i32] = if fetcher == CONSUMER { &[1] } else { &[1, 2] };
        let fixture = led(MANY, replicas).await;
        let looks = || fixture.replicas.counters.partitions_read.swap(0, Ordering::Relaxed);
        let append = |partition| {
            fixture.replicas.append("t", partition, records(1), TERMS, NOW_MS).expect("this broker leads");
        };
        let bytes = records(1).len();
        let mut one = OneFetcher::new(fetcher);
        let all = (0..MANY).map(|partition| named(partition, 0)).collect();
        let reply = one.fetch(&fixture, all, Vec::new(), Instant::now()).await;
        assert_eq!(told(&reply).len(), MANY as usize);
        looks();
        // Of a follower the high watermark may have moved by what it said with its first fetch.
        one.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await;
        assert_eq!(looks(), MANY as u64, "the session gets to know its partitions");
        let reply = one.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await;
        assert_eq!((told(&reply), looks()), (vec![], 0), "{fetcher:?}: nothing has changed");
        append(7);
        append(250);
        append(7);
        let reply = one.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await;
        assert_eq!((told(&reply), looks()), (vec![(7, 2 * bytes), (250, bytes)], 2), "{fetcher:?}");
        let reply = one.fetch(&fixture, vec![named(7, 2)], Vec::new(), Instant::now()).await;
        let is_told_again = told(&reply).contains(&(250, bytes));
        assert!(is_told_again, "{fetcher:?}: what it did not take is given again: {:?}", told(&reply));
        one.fetch(&fixture, vec![named(250, 1)], Vec::new(), Instant::now()).await;
        one.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await;
        looks();
        // One that waits is woken by any of them, and reads that one alone.
        let far = Instant::now() + Duration::from_secs(60);
        let waiting = one.fetch(&fixture, Vec::new(), Vec::new(), far);
        let appending = async {
            tokio::task::yield_now().await;
            append(99);
        };
        let (reply, ()) = tokio::join!(waiting, appending);
        assert_eq!((told(&reply), looks()), (vec![(99, bytes)], 1), "{fetcher:?}");
    }
}

/// Only a fetch that has just come says of a follower that it may join, and that may be any.
#[tokio::test]
async fn each_fetch_of_a_follower_reads_what_it_is_not_in_sync_with() {
    let fixture = Fixture::new();
    fixture.publish(&[("t", 0), ("t", 1)]).await;
    fixture.lead_with_isr("t", 0, 0, &[1], &[1, 2]).await;
    fixture.lead_with_isr("t", 1, 0, &[1, 2], &[1, 2]).await;
    let asked = || fixture.replicas.isr_changes().take();
    let asked_one = || asked().pop().expect("it may join");
    let looks = || fixture.replicas.counters.partitions_read.swap(0, Ordering::Relaxed);
    let mut one = OneFetcher::new(FOLLOWER);
    one.fetch(&fixture, vec![named(0, 0), named(1, 0)], Vec::new(), Instant::now()).await;
    let first = asked_one();
    one.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await;
    looks();
    one.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await;
    assert_eq!((looks(), asked()), (1, vec![]), "one is pending");
    // Refused while the follower waits for records: its next fetch asks, and neither this one nor that it is alive again.
    let far = Instant::now() + Duration::from_secs(60);
    let refusing = async {
        until_all_wait().await;
        fixture.replicas.isr_answered(&first, IsrAnswer::NotApplied, &mut JoinSet::new());
        fixture.alive(&[1]).await;
        fixture.alive(&[1, 2]).await;
        fixture.replicas.append("t", 1, records(1), TERMS, NOW_MS).expect("this broker leads");
    };
    let (reply, ()) = tokio::join!(one.fetch(&fixture, Vec::new(), Vec::new(), far), refusing);
    assert_eq!((told(&reply), asked()), (vec![(1, records(1).len())], vec![]));
    one.fetch(&fixture, vec![named(1, 1)], Vec::new(), Instant::now()).await;
    let second = asked_one();
    let (leader_epoch, isr) = (second.leader_epoch, second.isr.clone());
    let in_force = IsrAnswer::InForce { leader_epoch, partition_epoch: PartitionEpoch(1), isr };
    fixture.replicas.isr_answered(&second, in_force, &mut JoinSet::new());
    one.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await;
    looks();
    one.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await;
    assert_eq!((looks(), asked()), (0, vec![]));
}

#[tokio::test]
async fn what_a_session_is_told_late_is_told_all_the_same() {
    let fixture = led(2, &[1]).await;
    let mut one = OneFetcher::new(CONSUMER);
    for _ in 0..3 {
        fixture.replicas.append("t", 1, records(1), TERMS, NOW_MS).expect("this broker leads");
    }
    let asked = vec![named(0, 0), named(1, 3)];
    one.fetch(&fixture, asked, Vec::new(), Instant::now()).await;
    one.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await;
    assert_eq!(told(&one.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await), []);
    fixture.replicas.delete_records("t", 1, Some(Offset(2))).await.expect("committed");
    let reply = one.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await;
    assert_eq!(told(&reply), [(1, 0)], "the start of the log has moved");
    assert_eq!(reply.answers[0].1.as_ref().expect("led").bounds.log_start_offset, Offset(2));
    // Leadership moves away and comes back: an error each time that it is asked, and its end.
    assert_eq!(fixture.decide("t", 0, 2, 1, &[1, 2]).await, Ok(()));
    for _ in 0..2 {
        let reply = one.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await;
        assert!(
            matches!(&reply.answers[..], [(query, Err(ReplicaError::NotLeaderOrFollower))] if query.partition == 0)
        );
    }
    assert_eq!(fixture.decide("t", 0, 1, 2, &[1, 2]).await, Ok(()));
    assert_eq!(told(&one.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await), [(0, 0)]);
    assert_eq!(told(&one.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await), []);
}

/// What a follower is told of a partition while it hears of another leader epoch it drops; without another record it
/// would never hear the same again.
#[tokio::test]
async fn a_partition_that_is_fetched_anew_is_told_anew() {
    let fixture = led(1, &[1]).await;
    fixture.replicas.append("t", 0, records(1), TERMS, NOW_MS).expect("this broker leads");
    let in_epoch = |epoch| {
        let mut asked = named(0, 1);
        asked.params.current_leader_epoch = Some(LeaderEpoch(epoch));
        vec![asked]
    };
    let mut one = OneFetcher::new(CONSUMER);
    one.fetch(&fixture, in_epoch(0), Vec::new(), Instant::now()).await;
    assert_eq!(told(&one.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await), []);
    assert_eq!(fixture.decide("t", 0, 1, 1, &[1]).await, Ok(()));
    for why in ["in another epoch", "named as it was"] {
        assert_eq!(told(&one.fetch(&fixture, in_epoch(1), Vec::new(), Instant::now()).await), [(0, 0)], "{why}");
        assert_eq!(told(&one.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await), [], "{why}");
    }
}

/// A follower that is told where the logs part truncates, and takes no high watermark from that.
#[tokio::test]
async fn a_follower_that_has_truncated_is_told_what_is_committed() {
    let fixture = Fixture::new();
    fixture.publish(&[("t", 0)]).await;
    fixture.lead_with_isr("t", 0, 0, &[1], &[1, 2]).await;
    fixture.replicas.append("t", 0, records(1), TERMS, NOW_MS).expect("this broker leads");
    let at = |offset| {
        let mut asked = named(0, offset);
        asked.params.last_fetched_epoch = Some(LeaderEpoch(0));
        vec![asked]
    };
    let mut one = OneFetcher::new(FOLLOWER);
    one.fetch(&fixture, at(2), Vec::new(), Instant::now()).await;
    let parted = one.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await;
    assert!(parted.answers[0].1.as_ref().is_ok_and(|fetched| fetched.diverging.is_some()), "{parted:?}");
    let truncated = one.fetch(&fixture, at(1), Vec::new(), Instant::now()).await;
    assert_eq!(told(&truncated), [(0, 0)]);
    assert_eq!(truncated.answers[0].1.as_ref().map(|fetched| fetched.bounds.high_watermark).ok(), Some(Offset(1)));
}

/// A later request of the session ends the wait of one whose fetcher has given it up.
#[tokio::test]
async fn a_fetch_that_waits_ends_when_the_session_goes_on_without_it() {
    let fixture = led(1, &[1]).await;
    let mut one = OneFetcher::new(CONSUMER);
    one.fetch(&fixture, vec![named(0, 0)], Vec::new(), Instant::now()).await;
    let mut later = OneFetcher { epoch: epoch_after(one.epoch), ..OneFetcher::new(CONSUMER) };
    later.session_id = one.session_id;
    let far = Instant::now() + Duration::from_secs(60);
    let going_on = async {
        tokio::task::yield_now().await;
        later.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await
    };
    let (overtaken, latest) = tokio::join!(one.fetch(&fixture, Vec::new(), Vec::new(), far), going_on);
    assert_eq!((overtaken.refusal, latest.refusal), (Some(SessionRefusal::WrongEpoch), None));
}

/// A second fetch of a session may come while the first still waits, as after a lost connection: a change wakes the
/// second, and the first has ended.
#[tokio::test(start_paused = true)]
async fn of_two_fetches_of_a_session_that_wait_the_later_one_is_woken() {
    let fixture = led(1, &[1]).await;
    let mut one = OneFetcher::new(CONSUMER);
    for partitions in [vec![named(0, 0)], Vec::new()] {
        one.fetch(&fixture, partitions, Vec::new(), Instant::now()).await;
    }
    let mut later = OneFetcher { epoch: epoch_after(one.epoch), ..OneFetcher::new(CONSUMER) };
    later.session_id = one.session_id;
    let began = Instant::now();
    let far = began + Duration::from_secs(60);
    let parked = || fixture.replicas.counters.fetches_parked.load(Ordering::Relaxed);
    let parked_before = parked();
    let appending = async {
        while parked() < parked_before + 2 {
            tokio::task::yield_now().await;
        }
        // The first has had its turn after the second came.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        fixture.replicas.append("t", 0, records(1), TERMS, NOW_MS).expect("this broker leads");
    };
    let going_on = async {
        while parked() == parked_before {
            tokio::task::yield_now().await;
        }
        later.fetch(&fixture, Vec::new(), Vec::new(), far).await
    };
    let waiting = one.fetch(&fixture, Vec::new(), Vec::new(), far);
    let (overtaken, latest, ()) = tokio::join!(waiting, going_on, appending);
    assert_eq!(overtaken.refusal, Some(SessionRefusal::WrongEpoch));
    assert_eq!(told(&latest), [(0, records(1).len())]);
    assert!(began.elapsed() < Duration::from_secs(1), "it was woken, and not by its deadline");
}

#[tokio::test]
async fn a_fetch_that_was_overtaken_before_it_waits_neither_waits_nor_hears_what_the_later_one_must() {
    let fixture = led(1, &[1]).await;
    let mut one = OneFetcher::new(CONSUMER);
    for partitions in [vec![named(0, 0)], Vec::new()] {
        one.fetch(&fixture, partitions, Vec::new(), Instant::now()).await;
    }
    let open = |epoch| {
        let request = request(one.session_id, epoch);
        match fixture.replicas.sessions.open(&request, CONSUMER, &mut Vec::new(), at(0)) {
            Opened::Incremental(open) => open,
            _ => panic!("the session is there"),
        }
    };
    let image = fixture.replicas.around.metadata.image();
    let (overtaken, latest) = (open(one.epoch), open(epoch_after(one.epoch)));
    assert_eq!(latest.pending(&fixture.replicas.hosted, &image).await.len(), 0);
    fixture.replicas.append("t", 0, records(1), TERMS, NOW_MS).expect("this broker leads");
    assert_eq!(overtaken.pending(&fixture.replicas.hosted, &image).await.len(), 0);
    assert!(matches!(overtaken.park(WaitsFor::Committed, 1), Parking::Overtaken));
    assert!(matches!(latest.park(WaitsFor::Committed, 1), Parking::LooksAgain));
    assert_eq!(latest.pending(&fixture.replicas.hosted, &image).await.len(), 1);
    assert!(matches!(latest.park(WaitsFor::Committed, 1), Parking::Parked(_)));
}

/// The partition's lock is taken all the while, by an append that waits for the log.
#[tokio::test]
async fn a_session_with_a_partition_whose_disk_does_not_answer_keeps_no_thread_waiting() {
    let fixture = led(1, &[1]).await;
    let mut fetcher = OneFetcher::new(CONSUMER);
    let deadline = Instant::now() + Duration::from_secs(60);
    fetcher.fetch(&fixture, vec![named(0, 0)], Vec::new(), Instant::now()).await;
    let partition = fixture.replicas.partition("t", 0).expect("hosted");
    let gate = Arc::new(Gate::default());
    let at_gate = Arc::clone(&gate);
    let _fault = faults::below(fixture.dir.path(), move |op, _| {
        if op == Op::WriteAt {
            at_gate.pass();
        }
        Ok(())
    });
    let append = || {
        let replicas = Arc::clone(&fixture.replicas);
        std::thread::spawn(move || replicas.append("t", 0, records(1), TERMS, 0))
    };
    let first = append();
    until("it is held up", || partition.is_held_up()).await;
    let second = append();
    until("the partition's lock is taken", || partition.is_taken()).await;
    let others = async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!gate.is_open(), "the disk has not answered");
        gate.open();
    };
    let (reply, ()) = tokio::join!(fetcher.fetch(&fixture, Vec::new(), Vec::new(), deadline), others);
    assert!(told(&reply)[0].1 > 0);
    for appending in [first, second] {
        appending.join().expect("no panic").expect("appended");
    }
}

/// Of the two partitions one is forgotten, whose lock is taken.
#[tokio::test]
async fn what_a_session_forgets_is_let_go_of_when_its_disk_keeps_up_again() {
    let fixture = led(2, &[1]).await;
    let mut fetcher = OneFetcher::new(CONSUMER);
    fetcher.fetch(&fixture, vec![named(0, 0), named(1, 0)], Vec::new(), Instant::now()).await;
    fetcher.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await;
    let leaving = || {
        let cache = fixture.replicas.sessions.cache();
        let all = cache.sessions.values().map(|entry| entry.session.state().leaving.len());
        all.sum::<usize>()
    };
    let disk = fixture.hang("t", 0, None).await;
    fetcher.fetch(&fixture, Vec::new(), vec![named(0, 0)], Instant::now()).await;
    assert!(!disk.has_answered() && leaving() == 1);
    for appended in disk.answer() {
        appended.expect("appended");
    }
    let reply = fetcher.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await;
    assert_eq!(told(&reply), []);
    until("it keeps up", || !fixture.replicas.is_held_up("t", 0)).await;
    fetcher.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await;
    assert_eq!(leaving(), 0);
}

/// The partitions of the largest session are looked at and answered in slices, between which others have the thread;
/// and a fetcher that changes makes all of them to be read.
#[tokio::test]
async fn a_large_session_gives_way_to_others() {
    const MANY: i32 = 5_000;
    let fixture = Fixture::new();
    let mut one = OneFetcher::new(CONSUMER);
    let all = (0..MANY).map(|partition| named(partition, 0)).collect();
    one.fetch(&fixture, all, Vec::new(), Instant::now()).await;
    for fetcher in [CONSUMER, FOLLOWER, CONSUMER] {
        one.fetcher = fetcher;
        let (mut turns, mut is_done) = (0, false);
        let others = async {
            loop {
                tokio::task::yield_now().await;
                turns += 1;
            }
        };
        let fetching = async {
            let reply = one.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await;
            assert_eq!(reply.answers.len(), MANY as usize);
            is_done = true;
        };
        tokio::select! {
            biased;
            () = fetching => {}
            () = others => {}
        }
        assert!(is_done && turns >= 3 * MANY / PARTITIONS_A_SLICE as i32 - 3, "{turns} turns of others");
    }
}

/// Ended sessions are dropped where a long drop harms nobody.
#[test]
fn an_ended_session_is_handed_out_to_be_dropped() {
    let sessions = of(1, 100);
    assert!(sessions.take_ended().is_none());
    let id = session(&sessions, CONSUMER, 1, 0);
    let mut none = Vec::new();
    assert!(matches!(sessions.open(&request(id, FINAL_EPOCH), CONSUMER, &mut none, at(0)), Opened::Sessionless));
    assert!(sessions.take_ended().is_some() && sessions.take_ended().is_none());
    session(&sessions, CONSUMER, 1, 0);
    session(&sessions, FOLLOWER, 1, 0);
    assert!(sessions.take_ended().is_some(), "one made room for the other");
}

#[tokio::test]
async fn what_a_truncation_took_away_is_news_to_the_consumers_of_a_follower() {
    let fixture = led(1, &[1, 2]).await;
    let consumer = Fetcher::Consumer { read_committed: false, may_read_from_follower: true };
    let append = || fixture.replicas.append("t", 0, records(1), TERMS, NOW_MS).expect("this broker leads");
    append();
    append();
    assert_eq!(fixture.decide("t", 0, 2, 1, &[1, 2]).await, Ok(()));
    let mut one = OneFetcher::new(consumer);
    for partitions in [vec![named(0, 0)], Vec::new()] {
        one.fetch(&fixture, partitions, Vec::new(), Instant::now()).await;
    }
    let looks = || fixture.replicas.counters.partitions_read.swap(0, Ordering::Relaxed);
    looks();
    one.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await;
    assert_eq!(looks(), 0);
    let partition = fixture.replicas.partition("t", 0).expect("hosted");
    assert!(partition.truncate(Offset(1), LeaderEpoch(1), NOW_MS).expect("it follows"));
    one.fetch(&fixture, Vec::new(), Vec::new(), Instant::now()).await;
    assert_eq!(looks(), 1);
}

/// A fetcher of a random schedule.
struct Scheduled {
    one: OneFetcher,
    wanted: Vec<i32>,
    in_session: Vec<i32>,
    /// High watermark and log start offset of each partition, as it was told.
    known: HashMap<i32, (i64, i64)>,
    /// What it asked for last.
    offsets: [i64; PARTITIONS as usize],
}

impl Scheduled {
    fn new() -> Scheduled {
        let one = OneFetcher::new(CONSUMER);
        Scheduled {
            one,
            wanted: vec![0, 1],
            in_session: Vec::new(),
            known: HashMap::new(),
            offsets: Default::default(),
        }
    }
}

const PARTITIONS: i32 = 5;

/// Random schedules of many fetchers: whoever applies its replies knows the bounds of all that it asked for.
#[tokio::test]
async fn whatever_the_schedule_a_fetcher_that_applies_its_replies_knows_every_bound() {
    let mut evictions = 0;
    for seed in 0..15_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let config = ReplicaConfig { max_incremental_fetch_session_cache_slots: 2, ..ReplicaConfig::default() };
        let fixture = Fixture::with(config);
        let names: Vec<(&str, i32)> = (0..PARTITIONS).map(|partition| ("t", partition)).collect();
        fixture.publish(&names).await;
        for partition in 0..PARTITIONS {
            fixture.decide("t", partition, 1, 0, &[1]).await.expect("accepted");
        }
        let mut fetchers: Vec<Scheduled> = (0..4).map(|_| Scheduled::new()).collect();
        for step in 0..120 {
            let partition = random(PARTITIONS as u64) as i32;
            match random(4) {
                0 => drop(fixture.replicas.append("t", partition, records(2), TERMS, NOW_MS).expect("led")),
                1 => drop(fixture.replicas.delete_records("t", partition, None).await.expect("led")),
                _ => {}
            }
            let Scheduled { one, wanted, in_session, known, offsets } = &mut fetchers[random(4) as usize];
            if random(3) == 0 {
                match wanted.iter().position(|&wanted| wanted == partition) {
                    Some(position) if wanted.len() > 1 => drop(wanted.remove(position)),
                    Some(_) => {}
                    None => wanted.push(partition),
                }
            }
            one.now_ms = step * 5_000;
            let is_new = one.epoch == INITIAL_EPOCH;
            // Sometimes it moves on to the end of what it was told, or stays where it was.
            let mut moved = Vec::new();
            for &partition in wanted.iter() {
                if let Some(&(high_watermark, log_start_offset)) = known.get(&partition)
                    && (random(2) == 0 || log_start_offset > offsets[partition as usize])
                {
                    offsets[partition as usize] = high_watermark;
                    moved.push(partition);
                }
            }
            let names: Vec<i32> = wanted
                .iter()
                .copied()
                .filter(|partition| is_new || moved.contains(partition) || !in_session.contains(partition))
                .collect();
            let gone = in_session.iter().copied().filter(|partition| !is_new && !wanted.contains(partition));
            let gone = gone.map(|partition| named(partition, 0)).collect();
            let asked = names.iter().map(|&partition| named(partition, offsets[partition as usize])).collect();
            let reply = one.fetch(&fixture, asked, gone, Instant::now()).await;
            if reply.refusal.is_some() {
                assert_eq!(reply.refusal, Some(SessionRefusal::UnknownId), "seed {seed}: only eviction");
                evictions += 1;
                continue;
            }
            *in_session = wanted.clone();
            for (query, outcome) in &reply.answers {
                match outcome {
                    Ok(fetched) => {
                        let bounds = fetched.bounds;
                        known.insert(query.partition, (bounds.high_watermark.0, bounds.log_start_offset.0));
                    }
                    // It fell behind the start: the next fetch is from the end.
                    Err(_) => drop(known.insert(query.partition, bounds(&fixture, query.partition))),
                }
            }
            for &partition in wanted.iter() {
                let known = known.get(&partition).copied();
                let what = format!("seed {seed} step {step} partition {partition}");
                assert_eq!(known, Some(bounds(&fixture, partition)), "{what}");
            }
        }
    }
    assert!(evictions > 0, "no session was ever in the way of another");
}

fn bounds(fixture: &Fixture, partition: i32) -> (i64, i64) {
    let log = fixture.replicas.partition("t", partition).ok().and_then(|hosted| hosted.log()).expect("led");
    (log.bounds().high_watermark.0, log.bounds().log_start_offset.0)
}
