//! The threads that compact: `log.cleaner.threads` of them, each at one log, replaced when their settings change.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Cleaner;
use crate::config::sections::CleanerConfig;
use crate::log::dirs::LogDirs;
use crate::model::clock::wall_clock_ms;

/// The cleaner of a broker. Stops when it is dropped.
pub struct CleanerThreads {
    cleaner: Arc<Cleaner>,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
}

/// One for all threads that were started together.
#[derive(Default)]
struct Stop {
    stops: AtomicBool,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Stop {
    fn stop(&self) {
        self.stops.store(true, Ordering::Release);
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Waits, unless it is time to stop.
    fn pause(&self, at_most: Duration) {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(lock, at_most, |()| !self.stops.load(Ordering::Acquire));
        drop(waited);
    }
}

impl CleanerThreads {
    /// None run if `log.cleaner.enable` is false.
    pub fn start(dirs: Arc<LogDirs>, config: &CleanerConfig) -> CleanerThreads {
        let cleaner = Arc::new(Cleaner::new(dirs, config));
        let threads = CleanerThreads { cleaner, running: Mutex::default() };
        threads.run(config);
        threads
    }

    fn run(&self, config: &CleanerConfig) {
        if !config.enable {
            return;
        }
        log::info!("Starting the log cleaner");
        let stop = Arc::new(Stop::default());
        let mut threads = Vec::new();
        for id in 0..config.threads.max(1) {
            let (cleaner, config, stop) = (Arc::clone(&self.cleaner), config.clone(), Arc::clone(&stop));
            let name = format!("kafka-log-cleaner-thread-{id}");
            let work = move || work(&cleaner, &config, &stop);
            match std::thread::Builder::new().name(name).spawn(work) {
                Ok(thread) => threads.push(thread),
                Err(why) => log::error!("a thread of the log cleaner does not start: {why}"),
            }
        }
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Running { stop, threads };
    }

    /// Waits until what the threads are at has been given up, and starts those of the new settings.
    pub fn reconfigure(&self, config: &CleanerConfig) {
        self.stop();
        self.cleaner.throttle.set_rate(config.io_max_bytes_per_second);
        self.run(config);
    }

    /// Waits until nothing more is written.
    pub fn stop(&self) {
        let running = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        running.stop.stop();
        for thread in running.threads {
            if thread.join().is_err() {
                log::error!("a thread of the log cleaner panicked");
            }
        }
    }
}

impl Drop for CleanerThreads {
    fn drop(&mut self) {
        self.stop();
    }
}

fn work(cleaner: &Cleaner, config: &CleanerConfig, stop: &Stop) {
    let backoff = Duration::from_millis(config.backoff_ms);
    while !stop.stops.load(Ordering::Acquire) {
        let worked = cleaner.clean_filthiest(config, &stop.stops, wall_clock_ms());
        cleaner.delete_old_segments(wall_clock_ms());
        if !worked {
            stop.pause(backoff);
        }
    }
}
