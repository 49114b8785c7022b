//! How long fetches wait for disks.
//!
//! What may wait for a disk is done by I/O threads, for each log directory one thing after the other, and a fetch waits for as
//! long as there are answers. A disk that gives none is left: the fetch goes on without it, what it asked last stays asked, and
//! until that is answered no other fetch asks the disk for anything. So one that hangs costs the fetches that are under way a
//! moment, and those that come later nothing; and what waits for it is no more than what those that were under way asked.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout_at};

use crate::replica::fetch::PARTITIONS_A_SLICE;
use crate::replica::io::IoThreads;

/// A disk that takes longer for one answer is left until it has given it. As long as fetchers by default wait for records.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);

/// Something that one of the partitions of a fetch needs of the disk of its directory.
pub(crate) struct Work<T> {
    pub dir: Option<PathBuf>,
    /// Which of the partitions it is.
    pub place: usize,
    pub run: Box<dyn FnOnce(&Asked) -> T + Send>,
}

/// What a fetch goes on without, and so hears nothing of while it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LeftOut {
    Nothing,
    /// What silent disks have: it looks again when one has answered.
    Silent,
    /// There was no time for something: whether anybody else asks that disk or not, it looks again a little later.
    Slow,
}

pub(crate) struct Disks {
    io: Arc<IoThreads>,
    silent: Arc<Silent>,
}

/// The directories whose disks were left and have not answered yet.
#[derive(Default)]
struct Silent {
    dirs: Mutex<HashMap<Option<PathBuf>, Left>>,
    answers: Notify,
}

struct Left {
    /// How many have left it.
    fetches: usize,
    /// When the first did.
    since: Instant,
}

impl Silent {
    fn dirs(&self) -> MutexGuard<'_, HashMap<Option<PathBuf>, Left>> {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one fetch asks of one disk. If it is left, the directory is silent until the last has let go of this.
pub(crate) struct Asked {
    dir: Option<PathBuf>,
    silent: Arc<Silent>,
    steps: AtomicUsize,
    is_left: AtomicBool,
}

impl Asked {
    /// The disk has given a part of what it was asked for.
    pub fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// The fetch has gone on without it.
    pub fn is_left(&self) -> bool {
        self.is_left.load(Ordering::Acquire)
    }

    fn leave(&self) {
        if !self.is_left.swap(true, Ordering::AcqRel) {
            let mut dirs = self.silent.dirs();
            dirs.entry(self.dir.clone()).or_insert_with(|| Left { fetches: 0, since: Instant::now() }).fetches += 1;
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.is_left() {
            return;
        }
        {
            let mut dirs = self.silent.dirs();
            let left = dirs.get_mut(&self.dir).map_or(0, |left| {
                left.fetches -= 1;
                left.fetches
            });
            if left > 0 {
                return;
            }
            dirs.remove(&self.dir);
        }
        self.silent.answers.notify_waiters();
    }
}

/// A disk that a fetch waits for.
struct Wait {
    asked: Arc<Asked>,
    steps: usize,
    until: Instant,
}

enum Told<T> {
    Done {
        place: usize,
        outcome: T,
    },
    /// There is nothing more to come.
    End,
}

impl Disks {
    pub fn new(io: Arc<IoThreads>) -> Disks {
        Disks { io, silent: Arc::default() }
    }

    /// Resolves when a disk that was silent when this was called has answered.
    pub fn answers(&self) -> Notified<'_> {
        self.silent.answers.notified()
    }

    /// The directories whose disks are not to be asked.
    pub fn silent_dirs(&self) -> HashSet<Option<PathBuf>> {
        self.silent.dirs().keys().cloned().collect()
    }

    /// Those that have been silent for longer than that.
    pub fn dirs_silent_for(&self, time: Duration) -> HashSet<Option<PathBuf>> {
        let dirs = self.silent.dirs();
        let silent = dirs.iter().filter(|(_, left)| left.since.elapsed() > time);
        silent.map(|(dir, _)| dir.clone()).collect()
    }

    /// What it is to a fetch that nothing of this directory was done for it. To be asked afterwards, with an eye on
    /// [`Disks::answers`] since before: then no answer is missed.
    pub fn left_out(&self, dir: &Option<PathBuf>) -> LeftOut {
        if self.silent.dirs().contains_key(dir) { LeftOut::Silent } else { LeftOut::Slow }
    }

    /// Has all this done as [`Disks::ask`] does, where it matters to a fetch that all of it is.
    pub async fn ask_all<T: Send + 'static>(&self, works: Vec<Work<T>>) -> (Vec<(usize, T)>, LeftOut) {
        let mut dirs: HashMap<usize, Option<PathBuf>> =
            works.iter().map(|work| (work.place, work.dir.clone())).collect();
        let done = self.ask(works, Instant::now() + PATIENCE).await;
        for (place, _) in &done {
            dirs.remove(place);
        }
        let left_out = dirs.values().map(|dir| self.left_out(dir)).max();
        (done, left_out.unwrap_or(LeftOut::Nothing))
    }

    /// Has all this done, at the disks of different directories at once, and gives what has come of it, by places. Left out
    /// is what is asked of a disk that does not answer, and all that has not begun at `until` but for the first of each.
    pub async fn ask<T: Send + 'static>(&self, works: Vec<Work<T>>, until: Instant) -> Vec<(usize, T)> {
        if works.is_empty() {
            return Vec::new();
        }
        let mut outcomes = Vec::with_capacity(works.len());
        let mut by_dir: BTreeMap<Option<PathBuf>, Vec<Work<T>>> = BTreeMap::new();
        for (count, work) in works.into_iter().enumerate() {
            if count % PARTITIONS_A_SLICE == PARTITIONS_A_SLICE - 1 {
                tokio::task::yield_now().await;
            }
            by_dir.entry(work.dir.clone()).or_default().push(work);
        }
        let (tell, mut told) = mpsc::unbounded_channel();
        let mut waits = HashMap::new();
        for (number, (dir, works)) in by_dir.into_iter().enumerate() {
            if self.silent.dirs().contains_key(&dir) {
                continue;
            }
            let (silent, steps) = (Arc::clone(&self.silent), AtomicUsize::new(0));
            let asked = Arc::new(Asked { dir, silent, steps, is_left: AtomicBool::new(false) });
            waits.insert(number, Wait { asked: Arc::clone(&asked), steps: 0, until: Instant::now() + PATIENCE });
            // It may last longer than the fetch.
            tokio::spawn(in_turn(Arc::clone(&self.io), asked, number, works, until, tell.clone()));
        }
        drop(tell);
        while let Some(next) = waits.values().map(|wait| wait.until).min() {
            match timeout_at(next, told.recv()).await {
                Ok(Some((number, Told::Done { place, outcome }))) => {
                    outcomes.push((place, outcome));
                    if let Some(wait) = waits.get_mut(&number) {
                        wait.until = Instant::now() + PATIENCE;
                    }
                }
                Ok(Some((number, Told::End))) => drop(waits.remove(&number)),
                Ok(None) => break,
                Err(_) => waits.retain(|_, wait| wait.is_worth_it(Instant::now())),
            }
        }
        outcomes
    }
}

impl Wait {
    /// Leaves the disk if it has given nothing for too long.
    fn is_worth_it(&mut self, now: Instant) -> bool {
        if now < self.until {
            return true;
        }
        let steps = self.asked.steps.load(Ordering::Relaxed);
        if steps == std::mem::replace(&mut self.steps, steps) {
            self.asked.leave();
            return false;
        }
        self.until = now + PATIENCE;
        true
    }
}

/// Has done what a fetch asks of one disk. Goes on with what is under way when the fetch has left it, as nobody else may ask
/// meanwhile; not for one that was given up itself.
async fn in_turn<T: Send + 'static>(
    io: Arc<IoThreads>,
    asked: Arc<Asked>,
    number: usize,
    works: Vec<Work<T>>,
    until: Instant,
    tell: mpsc::UnboundedSender<(usize, Told<T>)>,
) {
    for (at, Work { dir, place, run }) in works.into_iter().enumerate() {
        if at > 0 && (Instant::now() >= until || asked.is_left()) {
            break;
        }
        let by_thread = Arc::clone(&asked);
        let done = io.run_in(dir.as_deref(), move || run(&by_thread));
        tokio::pin!(done);
        let done = tokio::select! {
            done = &mut done => done,
            () = tell.closed() => {
                if !asked.is_left() {
                    return;
                }
                done.await
            }
        };
        let Ok(outcome) = done else { break };
        // The fetch may have its answer already.
        let _ = tell.send((number, Told::Done { place, outcome }));
    }
    let _ = tell.send((number, Told::End));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks() -> Arc<Disks> {
        Arc::new(Disks::new(Arc::new(IoThreads::start(2, 16).expect("threads start"))))
    }

    fn work<T>(dir: &str, place: usize, run: impl FnOnce(&Asked) -> T + Send + 'static) -> Work<T> {
        Work { dir: Some(dir.into()), place, run: Box::new(run) }
    }

    #[tokio::test]
    async fn a_disk_that_gives_piece_after_piece_is_waited_for() {
        let in_pieces = |asked: &Asked| {
            let began = Instant::now();
            while began.elapsed() < PATIENCE * 2 {
                asked.step();
                std::thread::yield_now();
            }
            7
        };
        assert_eq!(disks().ask(vec![work("one", 3, in_pieces)], Instant::now()).await, [(3, 7)]);
    }

    #[tokio::test]
    async fn of_what_is_asked_of_a_disk_only_the_first_begins_when_the_time_is_over() {
        let works = [("one", 1), ("other", 2), ("one", 3)].map(|(dir, place)| work(dir, place, move |_| place * 10));
        let mut done = disks().ask(works.into(), Instant::now()).await;
        done.sort_unstable();
        assert_eq!(done, [(1, 10), (2, 20)]);
    }

    /// The first of one directory takes all the time that there is, that of the other never ends.
    #[tokio::test]
    async fn who_goes_on_without_something_knows_whether_anybody_tells_when_there_is_more_of_it() {
        let disks = disks();
        let slow = |asked: &Asked| {
            let began = Instant::now();
            while began.elapsed() < PATIENCE * 2 {
                asked.step();
                std::thread::yield_now();
            }
        };
        let works = vec![work("slow", 0, slow), work("slow", 1, |_| ())];
        assert_eq!(disks.ask_all(works).await, (vec![(0, ())], LeftOut::Slow));
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let hangs = move |_: &Asked| {
            let _ = wait.recv();
        };
        let works = vec![work("hung", 0, hangs), work("hung", 1, |_| ()), work("fast", 2, |_| ())];
        assert_eq!(disks.ask_all(works).await, (vec![(2, ())], LeftOut::Silent));
        assert_eq!(disks.silent_dirs(), [Some("hung".into())].into());
        let answers = disks.answers();
        drop(release);
        answers.await;
        assert_eq!(disks.ask_all(vec![work("hung", 1, |_| ())]).await, (vec![(1, ())], LeftOut::Nothing));
    }

    /// Whoever hangs up has not waited for long enough to tell.
    #[tokio::test]
    async fn a_fetch_that_is_given_up_leaves_no_disk_silent() {
        let disks = disks();
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let (tell, began) = tokio::sync::oneshot::channel();
        let hangs = work("one", 0, move |_| {
            let _ = tell.send(());
            let _ = wait.recv();
        });
        let asking = Arc::clone(&disks);
        let fetch = tokio::spawn(async move { asking.ask(vec![hangs], Instant::now()).await });
        began.await.expect("it begins");
        fetch.abort();
        assert!(fetch.await.expect_err("it was given up").is_cancelled());
        assert!(disks.silent.dirs().is_empty());
        drop(release);
    }
}
