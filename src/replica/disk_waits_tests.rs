//! Who waits for a disk, and who does not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::io::Errno;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::sections::ReplicaConfig;
use crate::log::OffsetQuery;
use crate::log::faults::{self, Op};
use crate::log::testing::Gate;
use crate::metadata::image::LEADER_DURING_DELETE;
use crate::model::{BrokerId, Offset, PartitionEpoch, TopicPartition};
use crate::replica::disks::LeftOut;
use crate::replica::error::ReplicaError;
use crate::replica::fetch::{FetchQuery, FetchReply, Outcome, PartitionQuery};
use crate::replica::fetch_session::SessionRequest;
use crate::replica::isr_changes::{AfterAnswer, IsrAnswer, IsrProposal};
use crate::replica::partition::Fetcher;
use crate::replica::replica_manager::ReplicaManager;
use crate::replica::tests::{Fixture, TERMS, epochs, follower, records, until};

const LATEST: OffsetQuery = OffsetQuery::Latest;

/// The network threads of these tests are those of their runtimes; I/O threads have names.
fn is_io_thread() -> bool {
    std::thread::current().name().is_some_and(|name| name.starts_with("io-"))
}

#[tokio::test]
async fn a_reader_of_what_is_not_in_memory_waits_for_an_io_thread() {
    let fixture = Fixture::new();
    fixture.publish(&[("rolling", 0)]).await;
    assert_eq!(fixture.decide("rolling", 0, 1, 0, &[1]).await, Ok(()));
    for _ in 0..200 {
        fixture.replicas.append("rolling", 0, records(20), TERMS, 0).expect("this broker leads");
    }
    let log = fixture.replicas.partition("rolling", 0).expect("hosted").log().expect("online");
    assert!(log.segment_count() > 10);
    // Nobody has the files open.
    for _ in 0..2 {
        log.close_idle_files(0).expect("flushed");
    }
    let waits = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&waits);
    // As if nothing were in memory.
    let _cold = faults::below(fixture.dir.path(), move |op, _| {
        if !matches!(op, Op::Open | Op::Read | Op::Stat) {
            return Ok(());
        }
        if !faults::may_wait() {
            return Err(Errno::AGAIN.into());
        }
        seen.lock().expect("unpoisoned").push(is_io_thread());
        Ok(())
    });
    for from in [0, 1000, 2500, 3999] {
        let query = fixture.consumer("rolling", from, 1);
        let far = Instant::now() + Duration::from_secs(60);
        let outcomes = fixture.replicas.fetch(&query, far, std::time::Instant::now()).await;
        assert!(outcomes[0].as_ref().expect("it may be read").bytes() > 0);
    }
    let waits = waits.lock().expect("unpoisoned");
    assert!(waits.len() > 4 && waits.iter().all(|is_io_thread| *is_io_thread), "{waits:?}");
}

#[tokio::test]
async fn a_disk_that_has_lost_what_a_reader_is_to_get_is_not_used_any_more() {
    let fixture = Fixture::new();
    fixture.publish(&[("t", 0)]).await;
    assert_eq!(fixture.decide("t", 0, 1, 0, &[1]).await, Ok(()));
    fixture.replicas.append("t", 0, records(20), TERMS, 0).expect("this broker leads");
    let log = fixture.replicas.partition("t", 0).expect("hosted").log().expect("online");
    // The way there is in memory, the batches are not.
    let _fault = faults::below(fixture.dir.path(), |op, _| match op {
        Op::Read if faults::may_wait() => Err(Errno::IO.into()),
        Op::Read => Err(Errno::AGAIN.into()),
        _ => Ok(()),
    });
    let query = fixture.consumer("t", 0, 1);
    let far = Instant::now() + Duration::from_secs(60);
    fixture.replicas.fetch(&query, far, std::time::Instant::now()).await;
    assert!(log.is_offline());
    let outcomes = fixture.replicas.fetch(&query, Instant::now(), std::time::Instant::now()).await;
    assert!(matches!(outcomes[0], Err(ReplicaError::Offline)), "{outcomes:?}");
}

#[tokio::test]
async fn a_disk_from_which_something_cannot_be_sent_is_not_used_any_more_if_it_cannot_be_read_either() {
    let fixture = Fixture::new();
    fixture.publish(&[("t", 0)]).await;
    assert_eq!(fixture.decide("t", 0, 1, 0, &[1]).await, Ok(()));
    fixture.replicas.append("t", 0, records(20), TERMS, 0).expect("this broker leads");
    let log = fixture.replicas.partition("t", 0).expect("hosted").log().expect("online");
    let query = fixture.consumer("t", 0, 1);
    let outcomes = fixture.replicas.fetch(&query, Instant::now(), std::time::Instant::now()).await;
    let region = outcomes[0].as_ref().expect("it may be read").region().expect("there are records").clone();
    let reads = Arc::new(AtomicUsize::new(0));
    let (fails, counted) = (Arc::new(AtomicBool::new(false)), Arc::clone(&reads));
    let may_fail = Arc::clone(&fails);
    let _fault = faults::below(fixture.dir.path(), move |op, _| {
        if op == Op::Read {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        if op == Op::Read && may_fail.load(Ordering::SeqCst) { Err(Errno::IO.into()) } else { Ok(()) }
    });
    fixture.replicas.region_failed(region.clone());
    until("it is read again", || reads.load(Ordering::SeqCst) > 0).await;
    assert!(!log.is_offline(), "it was for something else");
    // Nobody has the file open any more but who was to send it.
    for _ in 0..2 {
        log.close_idle_files(0).expect("flushed");
    }
    fails.store(true, Ordering::SeqCst);
    until("the log is offline", || {
        fixture.replicas.region_failed(region.clone());
        log.is_offline()
    })
    .await;
    reads.store(0, Ordering::SeqCst);
    fixture.replicas.region_failed(region);
    // Behind whatever that has begun.
    fixture.replicas.io().run(|| ()).await.expect("it is not shut down");
    assert_eq!(reads.load(Ordering::SeqCst), 0, "nothing is to be found out any more");
}

#[tokio::test]
async fn of_a_disk_from_which_much_cannot_be_sent_one_region_is_read_again_at_a_time() {
    let fixture = Fixture::new();
    fixture.publish(&[("t", 0)]).await;
    assert_eq!(fixture.decide("t", 0, 1, 0, &[1]).await, Ok(()));
    fixture.replicas.append("t", 0, records(20), TERMS, 0).expect("this broker leads");
    let query = fixture.consumer("t", 0, 1);
    let outcomes = fixture.replicas.fetch(&query, Instant::now(), std::time::Instant::now()).await;
    let region = outcomes[0].as_ref().expect("it may be read").region().expect("there are records").clone();
    let (gate, reads) = (Arc::new(Gate::default()), Arc::new(AtomicUsize::new(0)));
    let (at_gate, counted) = (Arc::clone(&gate), Arc::clone(&reads));
    let _fault = faults::below(fixture.dir.path(), move |op, _| {
        if op == Op::Read {
            counted.fetch_add(1, Ordering::SeqCst);
            at_gate.pass();
        }
        Ok(())
    });
    fixture.replicas.io().resize(6).expect("threads start");
    for _ in 0..20 {
        fixture.replicas.region_failed(region.clone());
    }
    until("it is read again", || reads.load(Ordering::SeqCst) > 0).await;
    fixture.replicas.region_failed(region.clone());
    // Another thread is free, and behind whatever was begun before.
    fixture.replicas.io().run(|| ()).await.expect("it is not shut down");
    assert_eq!(reads.load(Ordering::SeqCst), 1);
    assert!(!gate.is_open(), "it waited for the disk");
    gate.open();
    until("it is read again, later", || {
        fixture.replicas.region_failed(region.clone());
        reads.load(Ordering::SeqCst) > 1
    })
    .await;
}

/// What it is told of who leads by now waits for the disk too.
#[tokio::test]
async fn consumers_of_a_disk_that_is_silent_for_too_long_look_for_another_leader() {
    const LAG: Duration = Duration::from_secs(30);
    let config = ReplicaConfig { replica_lag_time_max_ms: LAG.as_millis() as i64, ..ReplicaConfig::default() };
    let fixture = slow_and_fast(config).await;
    let replicas = &fixture.replicas;
    let (consumer, now) = (fixture.consumer("slow", 0, 1).fetcher, std::time::Instant::now);
    let caught_up = FetchQuery { fetcher: follower(2), ..fixture.consumer("fast", 2, 1) };
    replicas.fetch(&caught_up, Instant::now(), now()).await;
    let disk = fixture.hang("slow", 0, None).await;
    tokio::time::pause();
    let told = async |fetcher| {
        let outcomes = replicas.fetch(&of_both(&fixture, fetcher, 0), Instant::now(), now()).await;
        let [slow, fast] = outcomes.try_into().expect("one for each");
        assert!(fast.is_ok(), "{fast:?}");
        slow.expect_err("its disk does not answer")
    };
    let full =
        replicas.fetch_in_session(&in_session(0, 0), of_both(&fixture, consumer, 0), Instant::now(), now()).await;
    let refused_in_session = async |epoch| {
        let query = FetchQuery { partitions: Vec::new(), ..of_both(&fixture, consumer, 0) };
        let reply = replicas.fetch_in_session(&in_session(full.session_id, epoch), query, Instant::now(), now()).await;
        let refused = reply.answers.into_iter().filter_map(|(query, outcome)| Some((query.topic?, outcome.err()?)));
        refused.map(|(topic, why)| (topic.to_string(), why)).collect::<Vec<_>>()
    };
    tokio::time::advance(LAG - Duration::from_secs(1)).await;
    assert!(matches!(told(consumer).await, ReplicaError::DiskIsSilent));
    assert_eq!(refused_in_session(1).await.len(), 0);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(matches!(told(consumer).await, ReplicaError::Offline));
    for epoch in [2, 3] {
        let refused = refused_in_session(epoch).await;
        assert!(matches!(&refused[..], [(topic, ReplicaError::Offline)] if topic == "slow"), "{refused:?}");
    }
    assert!(matches!(told(follower(2)).await, ReplicaError::DiskIsSilent), "it asks the controller");
    assert!(!disk.has_answered());
    tokio::time::resume();
    for appended in disk.answer() {
        appended.expect("appended");
    }
    until("the disk has answered", || !replicas.is_any_disk_silent()).await;
    let outcomes = replicas.fetch(&of_both(&fixture, consumer, 0), Instant::now(), now()).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
}

/// What I/O threads read below the directory waits at the gate, and is in memory once that is open. How often that was.
fn of_cold_reads_below(dir: &Path) -> (Arc<Gate>, Arc<AtomicUsize>, faults::InForce) {
    let (gate, reads) = (Arc::new(Gate::default()), Arc::new(AtomicUsize::new(0)));
    let (at_gate, counted) = (Arc::clone(&gate), Arc::clone(&reads));
    let fault = faults::below(dir, move |op, _| {
        if !matches!(op, Op::Open | Op::Read | Op::Stat) || at_gate.is_open() {
            return Ok(());
        }
        if !faults::may_wait() {
            return Err(Errno::AGAIN.into());
        }
        counted.fetch_add(1, Ordering::SeqCst);
        at_gate.pass();
        Ok(())
    });
    (gate, reads, fault)
}

/// Broker 1 leads `slow` and `fast`, with two records each, in different directories, and broker 2 is in sync.
async fn slow_and_fast(config: ReplicaConfig) -> Arc<Fixture> {
    let root = tempfile::tempdir().expect("a temporary directory");
    let dirs = ["one", "other"].map(|name| root.path().join(name)).to_vec();
    let fixture = Arc::new(Fixture::over(root, dirs, config));
    fixture.publish(&[("slow", 0), ("fast", 0)]).await;
    for topic in ["slow", "fast"] {
        fixture.lead_with_isr(topic, 0, 0, &[1, 2], &[1, 2]).await;
        fixture.replicas.append(topic, 0, records(2), TERMS, 0).expect("this broker leads");
    }
    assert!(fixture.replicas.parent_dir("slow", 0) != fixture.replicas.parent_dir("fast", 0));
    fixture
}

fn of_both(fixture: &Fixture, fetcher: Fetcher, from_fast: i64) -> FetchQuery {
    let [slow, fast] = [("slow", 0), ("fast", from_fast)].map(|(topic, from)| fixture.consumer(topic, from, 1));
    FetchQuery { fetcher, partitions: [slow.partitions, fast.partitions].concat(), ..fast }
}

fn in_session(session_id: i32, session_epoch: i32) -> SessionRequest {
    SessionRequest { session_id, session_epoch, uses_topic_ids: false, forgotten: Vec::new() }
}

/// How many bytes there are of each that something is told of.
fn bytes_of(reply: &FetchReply) -> BTreeMap<&str, usize> {
    let bytes = |outcome: &Outcome| outcome.as_ref().expect("it may be read").bytes();
    reply.answers.iter().map(|(query, outcome)| (query.topic.as_deref().expect("known"), bytes(outcome))).collect()
}

/// As that of one who follows many partitions begins, or of one who has fallen behind.
#[tokio::test]
async fn a_disk_that_does_not_answer_takes_no_follower_out_of_the_isrs_of_other_disks() {
    const LAG: Duration = Duration::from_millis(1500);
    let config = ReplicaConfig { replica_lag_time_max_ms: LAG.as_millis() as i64, ..ReplicaConfig::default() };
    let fixture = slow_and_fast(config).await;
    let replicas = &fixture.replicas;
    let [slow_dir, fast_dir] = ["slow", "fast"].map(|topic| replicas.parent_dir(topic, 0).expect("hosted"));
    let (gate, reads, _fault) = of_cold_reads_below(&slow_dir);
    let (began, now) = (Instant::now(), std::time::Instant::now);
    let fetch = async |session_id, epoch, partitions| {
        let query = FetchQuery { partitions, ..of_both(&fixture, follower(2), 0) };
        let deadline = Instant::now() + Duration::from_millis(100);
        replicas.fetch_in_session(&in_session(session_id, epoch), query, deadline, now()).await
    };
    let full = fetch(0, 0, of_both(&fixture, follower(2), 0).partitions).await;
    let of_fast = bytes_of(&full)["fast"];
    assert_eq!(bytes_of(&full), [("slow", 0), ("fast", of_fast)].into());
    assert!(of_fast > 0);
    // Which it has, from now on.
    let mut moved = vec![of_both(&fixture, follower(2), 2).partitions.remove(1)];
    let mut epoch = 0;
    while began.elapsed() < LAG * 2 {
        epoch += 1;
        fetch(full.session_id, epoch, std::mem::take(&mut moved)).await;
    }
    assert!(epoch > 3, "none but the first waited for the disk");
    assert!(!gate.is_open());
    assert_eq!(reads.load(Ordering::SeqCst), 1, "it was asked once");
    [&slow_dir, &fast_dir].into_iter().for_each(|dir| replicas.shrink_isrs(dir));
    let asked = replicas.next_isr_changes(&mut JoinSet::new()).await;
    assert_eq!(asked.iter().map(|proposal| &*proposal.partition.topic).collect::<Vec<_>>(), ["slow"]);
    gate.open();
    let query = FetchQuery { partitions: Vec::new(), ..of_both(&fixture, follower(2), 2) };
    let far = Instant::now() + Duration::from_secs(60);
    let reply = replicas.fetch_in_session(&in_session(full.session_id, epoch + 1), query, far, now()).await;
    assert!(bytes_of(&reply)["slow"] > 0, "{reply:?}");
}

/// Of two at once: neither waits for the other.
#[tokio::test]
async fn who_waits_for_nothing_but_silent_disks_is_answered_as_soon_as_one_speaks() {
    let fixture = slow_and_fast(ReplicaConfig::default()).await;
    let replicas = &fixture.replicas;
    let now = std::time::Instant::now;
    let mut gates = Vec::new();
    for topic in ["slow", "fast"] {
        let caught_up = FetchQuery { fetcher: follower(2), ..fixture.consumer(topic, 2, 1) };
        replicas.fetch(&caught_up, Instant::now(), now()).await;
        let log = replicas.partition(topic, 0).expect("hosted").log().expect("online");
        // Nobody has the files open.
        for _ in 0..2 {
            log.close_idle_files(0).expect("flushed");
        }
        gates.push(of_cold_reads_below(&log.parent_dir()));
    }
    let consumer = fixture.consumer("slow", 0, 1).fetcher;
    // All is told but the records.
    let outcomes = replicas.fetch(&of_both(&fixture, consumer, 0), Instant::now(), now()).await;
    let told = |outcome: &Outcome| {
        let fetched = outcome.as_ref().expect("it may be read");
        (fetched.bytes() > 0, fetched.bounds.high_watermark)
    };
    assert_eq!(outcomes.iter().map(told).collect::<Vec<_>>(), [(false, Offset(2)); 2]);
    assert_eq!(gates.iter().map(|(_, asked, _)| asked.load(Ordering::SeqCst)).collect::<Vec<_>>(), [1, 1]);
    let waiting = Arc::clone(&fixture);
    let fetching = tokio::spawn(async move {
        let far = Instant::now() + Duration::from_secs(60);
        waiting.replicas.fetch(&of_both(&waiting, consumer, 0), far, now()).await
    });
    until("it waits", || replicas.counters.fetches_parked.load(Ordering::Relaxed) > 0).await;
    gates[1].0.open();
    let outcomes = fetching.await.expect("no panic");
    assert_eq!(outcomes.iter().map(told).collect::<Vec<_>>(), [(false, Offset(2)), (true, Offset(2))]);
    assert!(!gates[0].0.is_open());
    gates[0].0.open();
}

/// Neither its appends nor what asks for its lock.
#[tokio::test]
async fn a_disk_that_takes_no_appends_keeps_no_reader_of_another_waiting() {
    let fixture = slow_and_fast(ReplicaConfig::default()).await;
    let replicas = &fixture.replicas;
    let consumer = fixture.consumer("slow", 0, 1).fetcher;
    let now = std::time::Instant::now;
    for topic in ["slow", "fast"] {
        let caught_up = FetchQuery { fetcher: follower(2), ..fixture.consumer(topic, 2, 1) };
        replicas.fetch(&caught_up, Instant::now(), now()).await;
    }
    replicas.fetch(&fixture.consumer("slow", 2, 1), Instant::now(), now()).await;
    let soon = || Instant::now() + Duration::from_secs(5);
    let disk = fixture.hang("slow", 0, None).await;
    for _ in 0..3 {
        let outcomes = replicas.fetch(&of_both(&fixture, consumer, 0), soon(), now()).await;
        assert!(
            matches!(&outcomes[..], [Err(ReplicaError::DiskIsSilent), Ok(fast)] if fast.bytes() > 0),
            "{outcomes:?}"
        );
    }
    // Which is told as it was before.
    assert_eq!(replicas.last_bounds("slow", 0).map(|bounds| bounds.high_watermark), Some(Offset(2)));
    // In a session nothing is told of it, but by the answer that begins it.
    let query = of_both(&fixture, consumer, 0);
    let full = replicas.fetch_in_session(&in_session(0, 0), query, soon(), now()).await;
    let none_named = || FetchQuery { partitions: Vec::new(), ..of_both(&fixture, consumer, 0) };
    let reply = replicas.fetch_in_session(&in_session(full.session_id, 1), none_named(), soon(), now()).await;
    assert_eq!(bytes_of(&reply).into_keys().collect::<Vec<_>>(), ["fast"]);
    // One who wants nothing else waits for it.
    let waiting = Arc::clone(&fixture);
    let alone = tokio::spawn(async move {
        let far = Instant::now() + Duration::from_secs(60);
        waiting.replicas.fetch(&waiting.consumer("slow", 0, 1), far, now()).await
    });
    until("it waits", || replicas.counters.fetches_parked.load(Ordering::Relaxed) > 0).await;
    assert!(!disk.has_answered());
    for appended in disk.answer() {
        appended.expect("appended");
    }
    let outcomes = alone.await.expect("no panic");
    assert!(outcomes[0].as_ref().expect("it has answered").bytes() > 0);
    let mut told = BTreeMap::new();
    for epoch in 2..10 {
        let reply = replicas.fetch_in_session(&in_session(full.session_id, epoch), none_named(), soon(), now()).await;
        told.extend(bytes_of(&reply).into_iter().map(|(topic, bytes)| (topic.to_owned(), bytes)));
        if told.contains_key("slow") {
            break;
        }
    }
    assert!(told["slow"] > 0);
}

/// It has all that there is, and says so with a fetch that finds nothing new and so may last for long.
#[tokio::test]
async fn a_follower_that_asks_while_a_disk_does_not_answer_has_asked_once_that_does() {
    for is_incremental in [false, true] {
        let fixture = slow_and_fast(ReplicaConfig::default()).await;
        let replicas = &fixture.replicas;
        let now = std::time::Instant::now;
        let from = |offset| FetchQuery { fetcher: follower(2), ..fixture.consumer("slow", offset, 1) };
        let full = replicas.fetch_in_session(&in_session(0, 0), from(2), Instant::now(), now()).await;
        let log = replicas.partition("slow", 0).expect("hosted").log().expect("online");
        assert_eq!(log.bounds().high_watermark, Offset(2));
        let disk = fixture.hang("slow", 0, None).await;
        // It is left, and from then on not asked for anything.
        replicas.fetch(&fixture.consumer("slow", 0, 1), Instant::now(), now()).await;
        let before = replicas.counters.fetches_parked.load(Ordering::Relaxed);
        let request = if is_incremental { in_session(full.session_id, 1) } else { in_session(0, -1) };
        let (waiting, query) = (Arc::clone(replicas), from(4));
        let fetching = tokio::spawn(async move {
            let far = Instant::now() + Duration::from_secs(600);
            waiting.fetch_in_session(&request, query, far, now()).await
        });
        until("it waits", || replicas.counters.fetches_parked.load(Ordering::Relaxed) > before).await;
        for appended in disk.answer() {
            appended.expect("appended");
        }
        until("all is committed", || log.bounds().high_watermark == Offset(4)).await;
        assert!(!fetching.is_finished());
        fetching.abort();
    }
}

/// A disk stops answering between a fetch's look at a partition and its waiting for it.
#[tokio::test]
async fn a_fetch_that_waits_knows_of_what_it_could_not_be_registered_with() {
    let fixture = slow_and_fast(ReplicaConfig::default()).await;
    let replicas = &fixture.replicas;
    let query = of_both(&fixture, follower(2), 0);
    let look = async || replicas.fetch(&query, Instant::now(), std::time::Instant::now()).await;
    let seen = look().await;
    assert!(seen.iter().all(Result::is_ok), "{seen:?}");
    let disk = fixture.hang("slow", 0, None).await;
    look().await;
    let (parked, left_out) = replicas.park(&query, seen, 1).await;
    assert_eq!((parked.is_finished(), left_out), (false, LeftOut::Silent));
    disk.answer();
    until("it has answered", || replicas.disks.silent_dirs().is_empty()).await;
    // Whether it goes on at once depends on what the look found: it may be what was read late, and old.
    let (_, left_out) = replicas.park(&query, look().await, 1).await;
    assert_eq!(left_out, LeftOut::Nothing);
}

/// As one is on which appends wait for each other, and who reads for them all.
#[tokio::test]
async fn what_a_disk_gives_later_than_anybody_waits_is_not_asked_for_again() {
    let fixture = slow_and_fast(ReplicaConfig::default()).await;
    let replicas = &fixture.replicas;
    let consumer = fixture.consumer("slow", 0, 1).fetcher;
    for topic in ["slow", "fast"] {
        let caught_up = FetchQuery { fetcher: follower(2), ..fixture.consumer(topic, 2, 1) };
        replicas.fetch(&caught_up, Instant::now(), std::time::Instant::now()).await;
    }
    let of_slow = async || {
        let soon = Instant::now() + Duration::from_secs(5);
        let outcomes = replicas.fetch(&of_both(&fixture, consumer, 0), soon, std::time::Instant::now()).await;
        assert!(outcomes[1].as_ref().expect("it may be read").bytes() > 0);
        match &outcomes[0] {
            Err(ReplicaError::DiskIsSilent) => None,
            outcome => Some(outcome.as_ref().expect("it may be read").bytes()),
        }
    };
    let disk = fixture.hang("slow", 0, None).await;
    assert_eq!(of_slow().await, None);
    let answers = replicas.disks.answers();
    disk.answer();
    answers.await;
    let disk = fixture.hang("slow", 0, None).await;
    assert!(of_slow().await.expect("it was given") > 0);
    assert_eq!(of_slow().await, None, "that was all");
    assert!(!disk.has_answered());
}

/// Whether the disk keeps up again by the time that they are made.
#[tokio::test]
async fn appends_to_a_disk_that_did_not_keep_up_are_made_by_io_threads_those_of_other_disks_meanwhile() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let dirs = ["one", "other"].map(|name| root.path().join(name)).to_vec();
    let fixture = Arc::new(Fixture::over(root, dirs, ReplicaConfig::default()));
    fixture.publish(&[("slow", 0), ("fast", 0)]).await;
    for topic in ["slow", "fast"] {
        assert_eq!(fixture.decide(topic, 0, 1, 0, &[1]).await, Ok(()));
        fixture.replicas.append(topic, 0, records(2), TERMS, 0).expect("this broker leads");
    }
    let of = |topic| fixture.replicas.partition(topic, 0).expect("hosted").log().expect("online");
    let (slow, fast) = (of("slow"), of("fast"));
    assert!(slow.parent_dir() != fast.parent_dir());
    let gate = Arc::new(Gate::default());
    let at_gate = Arc::clone(&gate);
    let _fault = faults::below(&slow.parent_dir(), move |op, _| {
        if op == Op::WriteAt {
            assert!(is_io_thread());
            at_gate.pass();
        }
        Ok(())
    });
    let replicas = Arc::clone(&fixture.replicas);
    let appending = tokio::spawn(async move {
        let appends = ["slow", "fast", "slow"].map(|topic| (topic.into(), 0, records(1))).to_vec();
        replicas.append_held_up(appends, TERMS, 0).await.expect("it is not shut down")
    });
    until("the other disk has its own", || fast.log_end_offset() == Offset(3)).await;
    assert!(!gate.is_open(), "it waited for the disk");
    gate.open();
    let appended = appending.await.expect("no panic");
    let offsets: Vec<_> =
        appended.into_iter().map(|appended| appended.expect("appended").info.first_offset.0).collect();
    assert_eq!(offsets, [2, 2, 3]);
}

/// Two network threads and two I/O threads; many appends and reads of a directory whose disk does not answer; and as much of
/// another, all of which is done before the first of those is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_does_not_keep_up_holds_up_nobody_who_wants_nothing_of_it() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let dirs = ["one", "other"].map(|name| root.path().join(name)).to_vec();
    let fixture = Arc::new(Fixture::over(root, dirs.clone(), ReplicaConfig::default()));
    fixture.publish(&[("slow", 0), ("fast", 0)]).await;
    for topic in ["slow", "fast"] {
        assert_eq!(fixture.decide(topic, 0, 1, 0, &[1]).await, Ok(()));
        fixture.replicas.append(topic, 0, records(2), TERMS, 0).expect("this broker leads");
    }
    let log = fixture.replicas.partition("slow", 0).expect("hosted").log().expect("online");
    assert!(
        fixture.replicas.partition("fast", 0).expect("hosted").log().expect("online").parent_dir() != log.parent_dir()
    );
    let (gate, _fault) = Gate::of_writes_below(&log.parent_dir());
    // The first one is held up where it is made.
    let replicas = Arc::clone(&fixture.replicas);
    let first = std::thread::spawn(move || replicas.append("slow", 0, records(1), TERMS, 0));
    until("it is held up", || fixture.replicas.is_held_up("slow", 0)).await;
    assert!(!fixture.replicas.is_held_up("fast", 0));
    let mut slow = JoinSet::new();
    for number in 0..8 {
        let fixture = Arc::clone(&fixture);
        slow.spawn(async move {
            if number % 2 == 0 {
                let appends = vec![("slow".into(), 0, records(1))];
                let appended = fixture.replicas.append_held_up(appends, TERMS, 0).await.expect("it is not shut down");
                assert!(appended[0].is_ok(), "{appended:?}");
            } else if number == 1 {
                let found = fixture.replicas.find_offset("slow", 0, OffsetQuery::Latest, Some(false), None, true).await;
                assert!(found.expect("it is found").is_some());
            } else {
                let query = fixture.consumer("slow", 0, 1);
                let far = Instant::now() + Duration::from_secs(60);
                let outcomes = fixture.replicas.fetch(&query, far, std::time::Instant::now()).await;
                assert!(outcomes[0].is_ok(), "{outcomes:?}");
            }
        });
    }
    // Those above have all begun when as many tasks have had their turn again and again.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    for number in 0..20 {
        let fast = Arc::clone(&fixture);
        let done = tokio::spawn(async move {
            let appended = fast.replicas.append("fast", 0, records(1), TERMS, 0).expect("this broker leads");
            assert_eq!(appended.info.first_offset, Offset(2 + number));
            let outcomes =
                fast.replicas.fetch(&fast.consumer("fast", 0, 1), Instant::now(), std::time::Instant::now()).await;
            assert!(outcomes[0].as_ref().expect("it may be read").bytes() > 0);
            let query = OffsetQuery::AtOrAfter(0);
            let found = fast.replicas.find_offset("fast", 0, query, Some(false), None, true).await;
            assert!(found.expect("it is found").is_some());
        });
        done.await.expect("no panic");
    }
    assert!(!gate.is_open() && slow.try_join_next().is_none() && !first.is_finished(), "the slow ones wait");
    gate.open();
    while let Some(done) = slow.join_next().await {
        done.expect("no panic");
    }
    first.join().expect("no panic").expect("appended");
    assert_eq!(log.log_end_offset(), Offset(2 + 1 + 4));
}

/// The partition's own lock is taken meanwhile, by an append that waits for the log.
#[tokio::test]
async fn what_the_controller_says_and_hears_of_a_partition_whose_disk_does_not_answer_keeps_no_other_waiting() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let dirs = ["one", "other"].map(|name| root.path().join(name)).to_vec();
    let config = ReplicaConfig { replica_lag_time_max_ms: 0, ..ReplicaConfig::default() };
    let fixture = Arc::new(Fixture::over(root, dirs.clone(), config));
    let replicas = &fixture.replicas;
    fixture.publish(&[("slow", 0), ("fast", 0)]).await;
    for topic in ["slow", "fast"] {
        fixture.lead_with_isr(topic, 0, 0, &[1, 2], &[1, 2]).await;
        replicas.append(topic, 0, records(2), TERMS, 0).expect("this broker leads");
    }
    let slow = replicas.partition("slow", 0).expect("hosted");
    let log = slow.log().expect("online");
    let in_force = |proposal: &IsrProposal| IsrAnswer::InForce {
        leader_epoch: proposal.leader_epoch,
        partition_epoch: PartitionEpoch(proposal.partition_epoch.0 + 1),
        isr: proposal.isr.clone(),
    };
    dirs.iter().for_each(|dir| replicas.shrink_isrs(dir));
    let mut beside = JoinSet::new();
    let asked = replicas.next_isr_changes(&mut beside).await;
    assert_eq!(asked.len(), 2);
    let (gate, _fault) = Gate::of_writes_below(&log.parent_dir());
    let appending = Arc::clone(replicas);
    let first = std::thread::spawn(move || appending.append("slow", 0, records(1), TERMS, 0));
    until("it is held up", || replicas.is_held_up("slow", 0)).await;
    let appending = Arc::clone(replicas);
    let second = std::thread::spawn(move || appending.append("slow", 0, records(1), TERMS, 0));
    until("the partition's lock is taken", || slow.is_taken()).await;

    // What is put back was asked of a controller that is gone.
    replicas.isr_changes().put_back(asked.clone());
    let again = replicas.next_isr_changes(&mut beside).await;
    assert_eq!(again.iter().map(|proposal| &*proposal.partition.topic).collect::<Vec<_>>(), ["fast"]);
    for proposal in &asked {
        assert_eq!(replicas.isr_answered(proposal, in_force(proposal), &mut beside), AfterAnswer::Nothing);
    }
    assert_eq!(replicas.partition("fast", 0).expect("hosted").isr(), [BrokerId(1)]);
    fixture.publish(&[("fast", 0)]).await;
    let deleted = fixture.image_of(LEADER_DURING_DELETE, &[("slow", 0)]);
    assert_eq!(replicas.update_metadata(epochs(), deleted).await, Ok(()));
    assert_eq!(fixture.decide("fast", 0, 1, 1, &[1]).await, Ok(()));
    assert!(!gate.is_open() && !first.is_finished() && !second.is_finished(), "the disk has not answered");
    gate.open();
    for appending in [first, second] {
        appending.join().expect("no panic").expect("appended");
    }
    until("it has heard", || slow.isr() == [BrokerId(1)]).await;
}

/// As many as the directory has threads wait for the disk when another call to it fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_directory_held_is_refused_at_once_though_its_disk_does_not_answer() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let dirs = ["one", "other"].map(|name| root.path().join(name)).to_vec();
    let fixture = Arc::new(Fixture::over(root, dirs, ReplicaConfig::default()));
    let replicas = &fixture.replicas;
    fixture.publish(&[("t", 0), ("t", 1), ("t", 2)]).await;
    for number in 0..3 {
        assert_eq!(fixture.decide("t", number, 1, 0, &[1]).await, Ok(()));
        replicas.append("t", number, records(2), TERMS, 0).expect("this broker leads");
    }
    let of = |number| replicas.parent_dir("t", number).expect("hosted");
    let (hung, failing, other) =
        [(0, 1, 2), (0, 2, 1), (1, 2, 0)].into_iter().find(|(one, two, _)| of(*one) == of(*two)).expect("two of three");
    let dir = of(hung);
    let from = |offset: i64, min_bytes| {
        let mut query = fixture.consumer("t", offset, min_bytes);
        let of = |partition| PartitionQuery { partition, ..query.partitions[0].clone() };
        query.partitions = [hung, failing, other].map(of).to_vec();
        query
    };
    let now = std::time::Instant::now;
    let full = replicas.fetch_in_session(&in_session(0, 0), from(2, 0), Instant::now(), now()).await;
    let (waiting, session) = (Arc::clone(replicas), in_session(full.session_id, 1));
    let query = FetchQuery { partitions: Vec::new(), ..from(2, 1) };
    let parked = tokio::spawn(async move {
        let far = Instant::now() + Duration::from_secs(60);
        waiting.fetch_in_session(&session, query, far, now()).await
    });
    until("a fetch waits", || replicas.counters.fetches_parked.load(Ordering::Relaxed) > 0).await;

    let disk = fixture.hang("t", hung, Some(Errno::IO)).await;
    let waiting = Arc::clone(replicas);
    let in_the_way = tokio::spawn(async move { waiting.find_offset("t", hung, LATEST, None, None, true).await });
    replicas.append("t", failing, records(1), TERMS, 0).expect_err("the disk fails it");
    let giving_up = Arc::clone(replicas);
    let giving_up = tokio::spawn(async move { giving_up.log_dir_failed(&dir).await });

    let reply = parked.await.expect("no panic");
    let refused: Vec<_> = reply.answers.iter().filter(|(_, outcome)| outcome.is_err()).collect();
    assert!(refused.iter().all(|(_, outcome)| matches!(outcome, Err(ReplicaError::Offline))), "{refused:?}");
    assert_eq!(refused.iter().map(|(query, _)| query.partition).collect::<BTreeSet<_>>(), [hung, failing].into());
    let outcomes = replicas.fetch(&from(0, 1), Instant::now(), now()).await;
    assert!(matches!(outcomes[..], [Err(ReplicaError::Offline), Err(ReplicaError::Offline), Ok(_)]), "{outcomes:?}");
    for number in [hung, failing] {
        assert!(!replicas.is_held_up("t", number), "nobody waits for it");
        let appended = replicas.append("t", number, records(1), TERMS, 0);
        assert!(matches!(appended, Err(ReplicaError::Offline)), "{appended:?}");
        let found = replicas.find_offset("t", number, LATEST, None, None, true).await;
        assert!(matches!(found, Err(ReplicaError::Offline)), "{found:?}");
        let deleted = replicas.delete_records("t", number, None).await;
        assert!(matches!(deleted, Err(ReplicaError::Offline)), "{deleted:?}");
        let look = move |replicas: &Arc<ReplicaManager>| replicas.partition("t", number).map(drop);
        let looked = replicas.at("t", number, look).await.expect("it is not shut down");
        assert!(matches!(looked, Err(ReplicaError::Offline)), "{looked:?}");
    }
    assert!(!disk.has_answered() && !giving_up.is_finished());
    disk.answer();
    giving_up.await.expect("no panic");
    in_the_way.await.expect("no panic").expect_err("it has failed");
}

/// One network thread, and two I/O threads, of which one is for either directory.
#[tokio::test]
async fn who_asks_for_what_a_disk_keeps_waiting_keeps_no_network_thread_waiting() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let dirs = ["one", "other"].map(|name| root.path().join(name)).to_vec();
    let fixture = Arc::new(Fixture::over(root, dirs.clone(), ReplicaConfig::default()));
    let replicas = &fixture.replicas;
    fixture.publish(&[("slow", 0), ("fast", 0)]).await;
    for topic in ["slow", "fast"] {
        assert_eq!(fixture.decide(topic, 0, 1, 0, &[1]).await, Ok(()));
        replicas.append(topic, 0, records(2), TERMS, 0).expect("this broker leads");
    }
    let target = replicas.parent_dir("fast", 0).expect("hosted").to_string_lossy().into();
    let disk = fixture.hang("slow", 0, None).await;
    let mut asking = JoinSet::new();
    let deleting = Arc::clone(replicas);
    asking.spawn(async move { deleting.delete_records("slow", 0, None).await.is_ok() });
    let moving = Arc::clone(replicas);
    asking.spawn(async move { moving.move_to_dir(TopicPartition::new("slow", 0), target, 0).await.is_ok() });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    replicas.io().run(|| ()).await.expect("a thread is left for others");
    assert!(!disk.has_answered() && asking.try_join_next().is_none(), "they wait");
    for appended in disk.answer() {
        appended.expect("appended");
    }
    assert_eq!(asking.join_all().await, [true, true]);
}
