//! The threads that run log work which may wait for a disk, so that no connection does.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use log::error;
use tokio::sync::{Semaphore, oneshot, watch};

type Job = Box<dyn FnOnce() + Send>;

/// The I/O threads have been stopped, or the work panicked, which stops the broker: it was not done, or only in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShuttingDown;

impl std::fmt::Display for ShuttingDown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the broker is shutting down")
    }
}

impl std::error::Error for ShuttingDown {}

/// `num.io.threads` threads behind one queue of `queued.max.requests` jobs.
pub struct IoThreads {
    queue: Arc<Queue>,
    pool: Mutex<Pool>,
    /// By log directory, for work that is of one: a disk that holds up what is asked of it leaves half of the threads to the
    /// others.
    shares: Mutex<HashMap<PathBuf, Share>>,
}

struct Share {
    places: Arc<Semaphore>,
    size: usize,
}

#[derive(Default)]
struct Pool {
    /// How many threads take jobs, once those that are too many have ended.
    wanted: usize,
    /// Threads started so far, which name the next.
    started: usize,
    threads: Vec<JoinHandle<()>>,
}

struct Queue {
    jobs: Mutex<Jobs>,
    arrival: Condvar,
    /// One permit for each place in the queue, taken when a job is queued and given back when a thread picks it up.
    places: Semaphore,
    /// What the first job that panicked said.
    panicked: watch::Sender<Option<String>>,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    stopped: bool,
    /// How many threads are to end before they take another job.
    surplus: usize,
}

impl Queue {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs jobs until the queue is stopped and empty, or this thread is one too many.
    fn work(&self) {
        loop {
            let mut jobs = self.jobs();
            let job = loop {
                if jobs.surplus > 0 && !jobs.stopped {
                    jobs.surplus -= 1;
                    return;
                }
                match jobs.waiting.pop_front() {
                    Some(job) => break job,
                    None if jobs.stopped => return,
                    None => jobs = self.arrival.wait(jobs).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(jobs);
            self.places.add_permits(1);
            // The thread goes on, for the sake of an orderly stop; the caller is answered by a dropped channel.
            if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)) {
                let said = panic.downcast_ref::<String>().map(String::as_str);
                let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
                error!("work on the logs panicked and may be half done: {said}");
                self.panicked.send_if_modified(|first| {
                    let is_first = first.is_none();
                    first.get_or_insert_with(|| said.to_owned());
                    is_first
                });
            }
        }
    }
}

impl IoThreads {
    pub fn start(threads: usize, queued_max_requests: usize) -> std::io::Result<IoThreads> {
        let queue = Arc::new(Queue {
            jobs: Mutex::default(),
            arrival: Condvar::new(),
            places: Semaphore::new(queued_max_requests.clamp(1, Semaphore::MAX_PERMITS)),
            panicked: watch::Sender::new(None),
        });
        let started = IoThreads { queue, pool: Mutex::default(), shares: Mutex::default() };
        started.resize(threads)?;
        Ok(started)
    }

    /// Starts threads, or lets some end when they have done what they are at. Never fewer than one.
    pub fn resize(&self, wanted: usize) -> std::io::Result<()> {
        let mut pool = self.pool();
        pool.threads.retain(|thread| !thread.is_finished());
        let wanted = wanted.max(1);
        {
            let mut jobs = self.queue.jobs();
            let kept = jobs.surplus.min(wanted.saturating_sub(pool.wanted));
            jobs.surplus = jobs.surplus - kept + pool.wanted.saturating_sub(wanted);
            pool.wanted = (pool.wanted + kept).min(wanted);
        }
        self.queue.arrival.notify_all();
        while pool.wanted < wanted {
            let (queue, name) = (Arc::clone(&self.queue), format!("io-{}", pool.started));
            let thread = std::thread::Builder::new().name(name).spawn(move || queue.work())?;
            pool.threads.push(thread);
            (pool.wanted, pool.started) = (pool.wanted + 1, pool.started + 1);
        }
        Ok(())
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs blocking work on an I/O thread. Waits while the queue is full, so the caller stops reading its socket.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ShuttingDown> {
        let place = self.queue.places.acquire().await.map_err(|_| ShuttingDown)?;
        let (done, result) = oneshot::channel();
        {
            let mut jobs = self.queue.jobs();
            if jobs.stopped {
                return Err(ShuttingDown);
            }
            // The caller may have hung up; the work still happens.
            jobs.waiting.push_back(Box::new(move || {
                let _ = done.send(work());
            }));
        }
        place.forget();
        self.queue.arrival.notify_one();
        result.await.map_err(|_| ShuttingDown)
    }

    /// The same for work that waits for one disk. Before the queue it waits for a thread of that directory's share.
    pub async fn run_in<T: Send + 'static>(
        &self,
        dir: Option<&Path>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ShuttingDown> {
        let place = match dir {
            Some(dir) => self.places_of(dir).acquire_owned().await.ok(),
            None => None,
        };
        self.run(move || {
            // The caller may have hung up; the place is taken for as long as the work is done.
            let _place = place;
            work()
        })
        .await
    }

    fn places_of(&self, dir: &Path) -> Arc<Semaphore> {
        let size = (self.pool().wanted / 2).max(1);
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        match shares.get(dir) {
            Some(share) if share.size == size => Arc::clone(&share.places),
            // Whoever has a place of the one before gives it back there.
            _ => {
                let places = Arc::new(Semaphore::new(size));
                shares.insert(dir.to_owned(), Share { places: Arc::clone(&places), size });
                places
            }
        }
    }

    /// Hands over work that nobody waits for, unless the queue is full: then it is left undone.
    pub fn offer(&self, work: impl FnOnce() + Send + 'static) -> bool {
        let Ok(place) = self.queue.places.try_acquire() else { return false };
        {
            let mut jobs = self.queue.jobs();
            if jobs.stopped {
                return false;
            }
            jobs.waiting.push_back(Box::new(work));
        }
        place.forget();
        self.queue.arrival.notify_one();
        true
    }

    /// The same for work that waits for one disk, unless all threads of that directory's share are taken.
    pub fn offer_in(&self, dir: &Path, work: impl FnOnce() + Send + 'static) -> bool {
        let Ok(place) = self.places_of(dir).try_acquire_owned() else { return false };
        self.offer(move || {
            let _place = place;
            work();
        })
    }

    /// Waits for a job that panics, and gives its message. What it left behind must not be served.
    pub async fn panicked(&self) -> String {
        let mut panicked = self.queue.panicked.subscribe();
        let said = panicked.wait_for(Option::is_some).await.map(|said| said.clone());
        said.ok().flatten().unwrap_or_default()
    }

    /// Refuses further work, lets what is queued finish, and waits for the threads.
    pub fn stop(&self) {
        self.queue.jobs().stopped = true;
        self.queue.places.close();
        self.queue.arrival.notify_all();
        let threads = std::mem::take(&mut self.pool().threads);
        // A job may hold the last reference to the room that owns us; its thread cannot wait for itself.
        let this_thread = std::thread::current().id();
        for thread in threads.into_iter().filter(|thread| thread.thread().id() != this_thread) {
            let _ = thread.join();
        }
    }
}

impl Drop for IoThreads {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn a_full_queue_makes_the_caller_wait_and_loses_nothing() {
        let threads = Arc::new(IoThreads::start(2, 3).expect("threads start"));
        let done = Arc::new(AtomicUsize::new(0));
        let mut callers = Vec::new();
        for number in 0..100 {
            let (threads, done) = (Arc::clone(&threads), Arc::clone(&done));
            callers.push(tokio::spawn(async move {
                threads
                    .run(move || {
                        done.fetch_add(1, Ordering::SeqCst);
                        number
                    })
                    .await
            }));
        }
        for (number, caller) in callers.into_iter().enumerate() {
            assert_eq!(caller.await.expect("the caller ends"), Ok(number));
        }
        assert_eq!(done.load(Ordering::SeqCst), 100);
    }

    #[test]
    fn work_that_nobody_waits_for_is_done_while_there_is_room_and_refused_when_there_is_none() {
        let threads = IoThreads::start(1, 1).expect("threads start");
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let (started, has_started) = std::sync::mpsc::channel();
        assert!(threads.offer(move || {
            let _ = started.send(());
            let _ = wait.recv();
        }));
        has_started.recv().expect("the job starts");
        // The thread gives the place back before it starts the job, so there is one place again.
        let (done, is_done) = std::sync::mpsc::channel();
        assert!(threads.offer(move || done.send(7).expect("the test waits")));
        assert!(!threads.offer(|| ()));
        release.send(()).expect("the job waits");
        assert_eq!(is_done.recv(), Ok(7));
    }

    /// Waits until so many jobs run at once, and sees that no more do.
    fn run_at_once(threads: &IoThreads, expected: usize) {
        let (started, has_started) = std::sync::mpsc::channel();
        let releases: Vec<_> = (0..=expected)
            .map(|_| {
                let (release, wait) = std::sync::mpsc::channel::<()>();
                let started = started.clone();
                assert!(threads.offer(move || {
                    let _ = started.send(());
                    let _ = wait.recv();
                }));
                release
            })
            .collect();
        for _ in 0..expected {
            has_started.recv().expect("a job starts");
        }
        // The last job keeps its place in the queue of 16 as long as no thread is left for it.
        assert_eq!(threads.queue.jobs().waiting.len(), 1);
        assert!(has_started.try_recv().is_err());
        drop(releases);
        has_started.recv().expect("the last job starts");
    }

    #[test]
    fn threads_are_started_and_let_go_while_work_goes_on() {
        let threads = IoThreads::start(2, 16).expect("threads start");
        run_at_once(&threads, 2);
        for wanted in [5, 3, 1, 4, 2] {
            threads.resize(wanted).expect("threads start");
            run_at_once(&threads, wanted);
        }
        threads.resize(0).expect("one stays");
        run_at_once(&threads, 1);
        // Those that are to end take their leave when they have time; what is wanted back meanwhile stays.
        threads.resize(6).expect("threads start");
        threads.resize(2).expect("some end");
        threads.resize(6).expect("some stay");
        run_at_once(&threads, 6);
        threads.stop();
    }

    #[tokio::test]
    async fn after_stop_work_is_refused() {
        let threads = IoThreads::start(1, 1).expect("threads start");
        assert_eq!(threads.run(|| 7).await, Ok(7));
        threads.stop();
        assert_eq!(threads.run(|| 7).await, Err(ShuttingDown));
    }

    #[tokio::test]
    async fn a_panicking_job_is_told_and_leaves_the_thread_working() {
        let threads = IoThreads::start(1, 1).expect("threads start");
        assert_eq!(threads.run(|| -> i32 { panic!("on purpose") }).await, Err(ShuttingDown));
        assert_eq!(threads.run(|| -> i32 { panic!("number {}", 2) }).await, Err(ShuttingDown));
        assert_eq!(threads.run(|| 7).await, Ok(7));
        assert_eq!(threads.panicked().await, "on purpose", "the first one is told, also to those who ask later");
    }
}
