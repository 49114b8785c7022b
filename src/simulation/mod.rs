//! Clusters in one process: the real cores of replicas, fetchers, controllers and group coordinators, several brokers of
//! them, over a scripted network, a model of ZooKeeper and logs in memory. A schedule is drawn from a seed, and is the
//! same each time: what is delivered when, what is lost, comes twice or late, who is cut off, killed, loses power, starts
//! again. After each step `checks.rs` says what must be true.
//!
//! ```text
//!   world      draws the steps: clients, accidents, deliveries, and the tasks of brokers
//!     life     one life of a broker: partitions, fetchers, ISR changes, groups     (logs outlive it)
//!     office   a broker as candidate for the controller's office, and in it
//!     network  packets under way        zookeeper   znodes, sessions, watches
//!     members  of a consumer group
//!     checks   the invariants
//! ```
//! `ODRADEK_TEST_SCHEDULES` is how many schedules run, from `ODRADEK_TEST_FIRST_SEED` on, of `ODRADEK_TEST_STEPS` each;
//! `ODRADEK_TEST_SEED` the one that does. One that fails prints all that happened in it.
//!
//! Deliberately simpler than the world: a fetch is answered at once; every read of ZooKeeper sees the latest write; a step
//! of a task is atomic; a write that fails has written nothing; a topic that moves is not deleted; a question for an ISR
//! does not arrive after the one that repeats it.

mod checks;
mod life;
mod members;
mod network;
mod office;
mod world;
mod zookeeper;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::simulation::world::World;

const SCHEDULES: u64 = 10_000;
/// So many of them show each planted fault.
const PLANTED_SCHEDULES_MAX: u64 = 2_000;
const STEPS: usize = 200;

/// What goes wrong on purpose, to see whether a schedule shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    Nothing,
    /// Followers cut their logs at their high watermarks.
    EpochsIgnoredInTruncation,
    /// Leaders take for agreed that a replica is out, of which ZooKeeper has not heard.
    UnagreedShrinks,
    /// Brokers obey LeaderAndIsr requests of earlier leader and controller epochs.
    StaleDecisionsObeyed,
    /// Controllers take what was asked under earlier epochs for what is asked now.
    LateAlterPartitionsObeyed,
    /// Leaders take for told what they have left out of an answer.
    NewsForgotten,
    /// Controllers let go whoever asks, and see about it later.
    LetGoAtOnce,
    /// Controllers make leaders of replicas that were not in sync, though nobody has allowed it.
    UncleanElections,
    /// Brokers say that they have deleted what they have not.
    LogsKept,
    /// Coordinators take whoever commits to be in the generation that is in force.
    GenerationsIgnored,
    /// Followers do not hear that a write has failed.
    FailuresIgnored,
}

/// How much a schedule has shown.
#[derive(Debug, Default)]
struct Shown {
    acknowledged: AtomicUsize,
    commits_acknowledged: AtomicUsize,
    isr_changes: AtomicUsize,
    unclean_elections: AtomicUsize,
    let_go: AtomicUsize,
    topics_deleted: AtomicUsize,
    assignments: AtomicUsize,
    dirs_failed: AtomicUsize,
}

/// Commits of groups wait with a timer, which needs a clock: one that stands still.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("it needs nothing")
}

/// One that `rests` ends with everything mended, which takes longer than what came before.
fn schedule(world: &mut World, steps: usize, rests: bool) -> Result<(), String> {
    world.warm_up().map_err(|why| format!("at the beginning: {why}"))?;
    for step in 0..steps {
        world.step().map_err(|why| format!("step {step}: {why}"))?;
    }
    match rests {
        true => world.come_to_rest().map_err(|why| format!("at rest: {why}")),
        false => Ok(()),
    }
}

/// Runs one schedule. An error says what is wrong, and with `is_traced` what led to it.
fn run(seed: u64, planted: Planted, is_traced: bool, shown: &Shown) -> Result<(), String> {
    let mut world = World::new(seed, planted, is_traced);
    let steps = number("ODRADEK_TEST_STEPS").map_or(STEPS, |steps| steps as usize);
    let outcome = catch_unwind(AssertUnwindSafe(|| schedule(&mut world, steps, seed.is_multiple_of(4))));
    let checks = &world.checks;
    shown.acknowledged.fetch_add(checks.acknowledged, Ordering::Relaxed);
    shown.commits_acknowledged.fetch_add(checks.commits_acknowledged, Ordering::Relaxed);
    shown.isr_changes.fetch_add(checks.isr_changes, Ordering::Relaxed);
    shown.unclean_elections.fetch_add(checks.unclean_elections, Ordering::Relaxed);
    shown.let_go.fetch_add(checks.let_go, Ordering::Relaxed);
    shown.dirs_failed.fetch_add(checks.dirs_failed, Ordering::Relaxed);
    shown.assignments.fetch_add(checks.assignments, Ordering::Relaxed);
    shown.topics_deleted.fetch_add(checks.topics_deleted, Ordering::Relaxed);
    let outcome = outcome.unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        Err(format!("panic: {}", message.or(panic.downcast_ref().copied()).unwrap_or("without a message")))
    });
    outcome.map_err(|why| {
        let trace = world.trace.unwrap_or_default();
        format!("{}\nseed {seed}: {why}", trace.join("\n"))
    })
}

/// The first of the seeds whose schedule shows that something is wrong.
fn first_that_fails(seeds: std::ops::Range<u64>, planted: Planted, shown: &Shown) -> Option<u64> {
    let next = AtomicU64::new(seeds.start);
    let failed = AtomicU64::new(u64::MAX);
    let is_over = AtomicBool::new(false);
    let work = || {
        let runtime = runtime();
        let _clock = runtime.enter();
        while !is_over.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            if run(seed, planted, false, shown).is_err() {
                failed.fetch_min(seed, Ordering::Relaxed);
                is_over.store(true, Ordering::Relaxed);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    Some(failed.into_inner()).filter(|seed| *seed != u64::MAX)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|number| number.parse().expect("a number"))
}

#[test]
fn no_schedule_breaks_an_invariant() {
    let shown = Shown::default();
    let first = number("ODRADEK_TEST_FIRST_SEED").unwrap_or(0);
    let seeds = match number("ODRADEK_TEST_SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + number("ODRADEK_TEST_SCHEDULES").unwrap_or(SCHEDULES),
    };
    let schedules = seeds.end - seeds.start;
    if let Some(seed) = first_that_fails(seeds, Planted::Nothing, &shown) {
        let runtime = runtime();
        let _clock = runtime.enter();
        let again = run(seed, Planted::Nothing, true, &shown);
        panic!("{}", again.expect_err("a schedule is the same each time"));
    }
    println!("{schedules} schedules: {shown:?}");
}

#[test]
fn a_schedule_is_the_same_each_time() {
    let runtime = runtime();
    let _clock = runtime.enter();
    for seed in 0..20 {
        let trace = |()| {
            let mut world = World::new(seed, Planted::Nothing, true);
            let outcome = schedule(&mut world, STEPS, true);
            (outcome, world.trace)
        };
        assert_eq!(trace(()), trace(()), "seed {seed}");
    }
}

#[test]
fn planted_faults_are_found() {
    for planted in [
        Planted::EpochsIgnoredInTruncation,
        Planted::UnagreedShrinks,
        Planted::StaleDecisionsObeyed,
        Planted::LateAlterPartitionsObeyed,
        Planted::NewsForgotten,
        Planted::LetGoAtOnce,
        Planted::UncleanElections,
        Planted::LogsKept,
        Planted::GenerationsIgnored,
        Planted::FailuresIgnored,
    ] {
        let shown = Shown::default();
        let found = first_that_fails(0..PLANTED_SCHEDULES_MAX, planted, &shown);
        let seed = found.unwrap_or_else(|| panic!("{planted:?} is not found"));
        let runtime = runtime();
        let _clock = runtime.enter();
        let why = run(seed, planted, false, &shown).expect_err("it failed before");
        println!("{planted:?}:{why}");
        assert!(!why.contains("panic:"), "no invariant shows {planted:?}");
    }
}
