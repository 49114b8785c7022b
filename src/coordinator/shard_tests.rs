//! Shards around a core that does next to nothing.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;

use crate::coordinator::core::{AppendId, Core, TimerKey, Turn, Vocabulary};
use crate::coordinator::shard::{NotServing, Shards, TopicTerms, now};
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

/// Under which leader epoch it was loaded.
#[derive(Default)]
struct Epoch(Option<LeaderEpoch>);

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
        self.0 = Some(turn.leader_epoch);
        let _ = turn.settings.begun.lock().expect("unpoisoned").send(());
        turn.settings.gate.pass();
        1
    }

    fn unload(&mut self, _: &mut Turn<'_, Nothing>) -> usize {
        *self = Epoch::default();
        1
    }

    fn appended(&mut self, _: &str, _: AppendId, _: AppendOutcome, _: &mut Turn<'_, Nothing>) {}

    fn timer_fired(&mut self, _: &TimerKey<()>, _: &mut Turn<'_, Nothing>) {}

    fn bytes(&self) -> u64 {
        if self.0.is_some() { 100 } else { 0 }
    }
}

struct Empty;

impl CoordinatorLog for Empty {
    fn append(&self, _: i32, _: LeaderEpoch, _: Bytes, _: AppendOrigin, _: i16, _: Duration) -> Appending {
        Appending::Done(Ok(Offset(0)))
    }

    fn all_committed(&self, _: i32, _: LeaderEpoch) -> Committing {
        Box::pin(std::future::ready(Ok(())))
    }

    fn log_start_offset(&self, _: i32) -> Option<Offset> {
        Some(Offset(0))
    }

    fn read(&self, _: i32, _: Offset, _: u32) -> Result<Bytes, String> {
        Ok(Bytes::new())
    }
}

#[test]
fn who_asks_a_shard_that_takes_over_what_it_has_read_is_told_so_at_once() {
    let gate = Arc::new(Gate::default());
    let (begun, has_begun) = mpsc::channel();
    let settings = Loading { gate: Arc::clone(&gate), begun: Mutex::new(begun) };
    let terms = TopicTerms { load_buffer_bytes: 1000, required_acks: -1, append_timeout: Duration::ZERO };
    let effect = Box::new(|()| {});
    let shards: Arc<Shards<Epoch>> =
        Shards::new(settings, terms, 1, Arc::new(Empty), Arc::default(), effect, Box::new(now));
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
    assert_eq!(shards.owned(0).expect("it is loaded").core().0, Some(LeaderEpoch(4)));
    assert_eq!(shards.bytes(), 100);
}
