//! Shards around a core that does next to nothing.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak, mpsc};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::coordinator::core::{AppendId, Core, TimerKey, Turn, Vocabulary};
use crate::coordinator::shard::{BEHIND_MAX, Clock, NotServing, ShardEvent, Shards, TopicTerms, now};
use crate::coordinator::topic_log::{AppendOutcome, Appending, Committing, CoordinatorLog};
use crate::log::testing::Gate;
use crate::model::{LeaderEpoch, Offset};
use crate::record::append_rules::AppendOrigin;
use crate::record::read::ReadBatch;

/// What taking over what was read waits for, and who is told that it has begun.
struct Loading {
    gate: Arc<Gate>,
    begun: Mutex<mpsc::Sender<()>>,
}

#[derive(Debug)]
struct Nothing;

impl Vocabulary for Nothing {
    type Settings = Loading;
    type Answer = ();
    type Records = ();
    type TimerKind = ();
    type Effect = ();
}

#[derive(Default)]
struct Epoch {
    /// Under which leader epoch it was loaded.
    loaded_in: Option<LeaderEpoch>,
    /// Each of them wants an append.
    timers_fired: usize,
    appends_made: usize,
    appends_refused: usize,
}

impl Core for Epoch {
    type Vocabulary = Nothing;
    type Replay = ();

    const TOPIC: &'static str = "__nothing";
    const NAME: &'static str = "coordinator of nothing";

    fn encode(_: &str, (): &(), _: &Loading, _: i64) -> Result<Bytes, String> {
        Ok(Bytes::new())
    }

    fn replay((): &mut (), _: ReadBatch<'_>) -> Result<(), String> {
        Ok(())
    }

    fn load(&mut self, (): (), _: LeaderEpoch, turn: &mut Turn<'_, Nothing>) -> usize {
        self.loaded_in = Some(turn.leader_epoch);
        let _ = turn.settings.begun.lock().expect("unpoisoned").send(());
        turn.settings.gate.pass();
        1
    }

    fn unload(&mut self, _: &mut Turn<'_, Nothing>) -> usize {
        *self = Epoch::default();
        1
    }

    fn appended(&mut self, _: &str, _: AppendId, outcome: AppendOutcome, _: &mut Turn<'_, Nothing>) {
        match outcome {
            Ok(_) => self.appends_made += 1,
            Err(_) => self.appends_refused += 1,
        }
    }

    fn timer_fired(&mut self, timer: &TimerKey<()>, turn: &mut Turn<'_, Nothing>) {
        self.timers_fired += 1;
        turn.append(&timer.of, ());
    }

    fn bytes(&self) -> u64 {
        if self.loaded_in.is_some() { 100 } else { 0 }
    }
}

/// Nothing, of a topic with so many partitions.
struct Empty(Arc<AtomicI32>);

impl CoordinatorLog for Empty {
    fn append(&self, _: i32, _: LeaderEpoch, _: Bytes, _: AppendOrigin, _: i16, _: Duration) -> Appending {
        Appending::Done(Ok(Offset(0)))
    }

    fn all_replicated(&self, _: i32, _: LeaderEpoch) -> Committing {
        Box::pin(std::future::ready(Ok(())))
    }

    fn partition_count(&self) -> Pin<Box<dyn Future<Output = Option<i32>> + Send>> {
        Box::pin(std::future::ready(Some(self.0.load(Ordering::Relaxed))))
    }

    fn log_start_offset(&self, _: i32) -> Option<Offset> {
        Some(Offset(0))
    }

    fn read(&self, _: i32, _: Offset, _: u32) -> Result<Bytes, String> {
        Ok(Bytes::new())
    }
}

/// Of a topic with one partition, whose log counts as many as it is told.
fn shards(gate: &Arc<Gate>) -> (Arc<Shards<Epoch>>, mpsc::Receiver<()>, Arc<AtomicI32>) {
    let (begun, has_begun) = mpsc::channel();
    let settings = Loading { gate: Arc::clone(gate), begun: Mutex::new(begun) };
    let terms = TopicTerms { load_buffer_bytes: 1000, required_acks: -1, append_timeout: Duration::ZERO };
    let count = Arc::new(AtomicI32::new(1));
    let log = Arc::new(Empty(Arc::clone(&count)));
    (Shards::new(settings, terms, 1, log, Arc::default(), Box::new(|()| {}), Box::new(now)), has_begun, count)
}

/// Nothing, and appends become what is said here.
struct Made<F>(F);

impl<F: Fn() -> Appending + Send + Sync + 'static> CoordinatorLog for Made<F> {
    fn append(&self, _: i32, _: LeaderEpoch, _: Bytes, _: AppendOrigin, _: i16, _: Duration) -> Appending {
        (self.0)()
    }

    fn all_replicated(&self, _: i32, _: LeaderEpoch) -> Committing {
        Box::pin(std::future::ready(Ok(())))
    }

    fn log_start_offset(&self, _: i32) -> Option<Offset> {
        Some(Offset(0))
    }

    fn read(&self, _: i32, _: Offset, _: u32) -> Result<Bytes, String> {
        Ok(Bytes::new())
    }
}

const APPENDS: usize = 1000;

/// Whoever appends finds that somebody else wants to meanwhile.
#[derive(Default)]
struct Busy {
    shards: OnceLock<Weak<Shards<Epoch>>>,
    appended: AtomicUsize,
}

impl Busy {
    fn append(&self) -> Appending {
        if self.appended.fetch_add(1, Ordering::Relaxed) + 1 < APPENDS {
            want(&self.shards.get().and_then(Weak::upgrade).expect("they append"));
        }
        Appending::Done(Ok(Offset(0)))
    }
}

fn want(shards: &Arc<Shards<Epoch>>) {
    let shard = shards.owned(0).expect("it is loaded");
    shards.now(shard, |_, turn| {
        turn.append(&Arc::from("a"), ());
    });
}

/// Of a topic with one partition, which it speaks for.
fn loaded(append: impl Fn() -> Appending + Send + Sync + 'static, clock: Clock) -> Arc<Shards<Epoch>> {
    let log = Arc::new(Made(append));
    let gate = Arc::new(Gate::default());
    gate.open();
    let settings = Loading { gate, begun: Mutex::new(mpsc::channel().0) };
    let terms = TopicTerms { load_buffer_bytes: 1000, required_acks: -1, append_timeout: Duration::ZERO };
    let shards = Shards::new(settings, terms, 1, log, Arc::default(), Box::new(|()| {}), clock);
    let load = shards.start_load(0, LeaderEpoch(3)).expect("it is due");
    shards.load(0, LeaderEpoch(3), load);
    shards
}

/// Sees how many timers have fired whose appends are still to be made.
#[derive(Default)]
struct Watching {
    shards: OnceLock<Weak<Shards<Epoch>>>,
    appended: AtomicUsize,
    most_behind: AtomicUsize,
}

impl Watching {
    fn append(&self) -> Appending {
        let shards = self.shards.get().and_then(Weak::upgrade).expect("they append");
        let fired = shards.owned(0).expect("it is loaded").core().timers_fired;
        let behind = fired - self.appended.fetch_add(1, Ordering::Relaxed);
        self.most_behind.fetch_max(behind, Ordering::Relaxed);
        Appending::Done(Ok(Offset(0)))
    }
}

#[test]
fn the_appends_of_many_timers_are_made_as_they_fire_and_none_is_refused() {
    const TIMERS: usize = 3 * BEHIND_MAX;
    let log = Arc::new(Watching::default());
    let shards = loaded(
        {
            let log = Arc::clone(&log);
            move || log.append()
        },
        Box::new(now),
    );
    log.shards.set(Arc::downgrade(&shards)).expect("it is told once");
    shards.now(shards.owned(0).expect("it is loaded"), |_, turn| {
        for number in 0..TIMERS {
            turn.start_timer(&Arc::from(number.to_string()), (), 0);
        }
    });
    for _ in 0..TIMERS {
        shards.fire_timers();
        if log.appended.load(Ordering::Relaxed) == TIMERS {
            break;
        }
    }
    let refused = shards.owned(0).expect("it is loaded").core().appends_refused;
    assert_eq!((log.appended.load(Ordering::Relaxed), refused), (TIMERS, 0));
    let most_behind = log.most_behind.load(Ordering::Relaxed);
    assert!(most_behind <= 64, "{most_behind} at once");
}

/// Each look takes the locks of all shards, and asks what time it is.
#[tokio::test]
async fn an_append_that_waits_for_replicas_has_nobody_look_at_all_timers() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let clock = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        now()
    };
    // Replicas have it soon.
    let append = || {
        Appending::Waiting(Box::pin(async {
            tokio::task::yield_now().await;
            Ok(Offset(0))
        }))
    };
    let shards = loaded(append, Box::new(clock));
    let (_elections, told) = tokio::sync::mpsc::unbounded_channel();
    let (_running, shutdown) = watch::channel(false);
    tokio::spawn(Arc::clone(&shards).run(told, shutdown, Duration::from_secs(60), |_, _| {}));
    // Its first look, and the first round.
    let idle = asked.load(Ordering::Relaxed);
    while asked.load(Ordering::Relaxed) < idle + 2 {
        tokio::task::yield_now().await;
    }
    tokio::task::yield_now().await;
    let before = asked.load(Ordering::Relaxed);
    for number in 1..=100 {
        want(&shards);
        while shards.owned(0).expect("it is loaded").core().appends_made < number {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(asked.load(Ordering::Relaxed) - before, 200, "when it is wanted and when it is made");
}

#[test]
fn who_appends_gets_away_though_others_want_more_all_the_time() {
    let log = Arc::new(Busy::default());
    let shards = loaded(
        {
            let log = Arc::clone(&log);
            move || log.append()
        },
        Box::new(now),
    );
    log.shards.set(Arc::downgrade(&shards)).expect("it is told once");
    want(&shards);
    let first = log.appended.load(Ordering::Relaxed);
    assert!((1..100).contains(&first), "{first}");
    let mut rounds = 0;
    while log.appended.load(Ordering::Relaxed) < APPENDS {
        shards.fire_timers();
        rounds += 1;
        assert!(rounds < APPENDS, "the task does not go on with it");
    }
}

#[test]
fn who_asks_a_shard_that_takes_over_what_it_has_read_is_told_so_at_once() {
    let gate = Arc::new(Gate::default());
    let (shards, has_begun, _) = shards(&gate);
    let load = shards.start_load(0, LeaderEpoch(3)).expect("it is due");
    std::thread::scope(|scope| {
        let loading = scope.spawn(|| shards.load(0, LeaderEpoch(3), load));
        has_begun.recv().expect("it begins");
        assert_eq!(shards.owned(0).err(), Some(NotServing::Loading));
        // Elected again without a break.
        assert_eq!(shards.start_load(0, LeaderEpoch(4)), None);
        assert!(!gate.is_open(), "they have waited for it");
        gate.open();
        loading.join().expect("no panic");
    });
    assert_eq!(shards.owned(0).expect("it is loaded").core().loaded_in, Some(LeaderEpoch(4)));
    assert_eq!(shards.bytes(), 100);
}

/// Source: kafka 3.9 TransactionStateManager.scala (validateTransactionTopicPartitionCountIsStable).
#[tokio::test]
async fn a_shard_of_a_topic_that_has_grown_is_not_loaded_until_it_is_elected_after_that_was_undone() {
    let gate = Arc::new(Gate::default());
    gate.open();
    let (shards, has_begun, count) = shards(&gate);
    let (elections, told) = tokio::sync::mpsc::unbounded_channel();
    let (_running, shutdown) = watch::channel(false);
    tokio::spawn(Arc::clone(&shards).run(told, shutdown, Duration::from_secs(60), |_, _| {}));
    let elect = |epoch| {
        let event = ShardEvent::Elected { partition: 0, leader_epoch: LeaderEpoch(epoch) };
        elections.send(event).expect("it runs");
    };
    let until_asked = async |expected: Result<Option<LeaderEpoch>, NotServing>| {
        while shards.owned(0).map(|shard| shard.core().loaded_in) != expected {
            tokio::task::yield_now().await;
        }
    };
    count.store(2, Ordering::Relaxed);
    elect(3);
    until_asked(Err(NotServing::Loading)).await;
    while !shards.has_refused() {
        tokio::task::yield_now().await;
    }
    assert!(has_begun.try_recv().is_err());
    assert_eq!(shards.owned(0).err(), Some(NotServing::Loading));
    assert!(shards.look_at_all(|_| {}), "it may not be left out of what is listed");
    count.store(1, Ordering::Relaxed);
    elect(4);
    until_asked(Ok(Some(LeaderEpoch(4)))).await;
    shards.resign(0, Some(LeaderEpoch(5)));
    assert_eq!(shards.owned(0).err(), Some(NotServing::NotOwned));
}
