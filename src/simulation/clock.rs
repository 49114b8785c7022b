//! The time of a simulation, which passes when the script says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::coordinator::core::Now;

/// On the wall, at the beginning. Records carry it.
pub(super) const NOW_MS: i64 = 1_700_000_000_000;

#[derive(Clone, Debug)]
pub(super) struct Clock {
    origin: Instant,
    /// In microseconds.
    passed: Arc<AtomicU64>,
}

impl Clock {
    pub fn new() -> Clock {
        Clock { origin: Instant::now(), passed: Arc::default() }
    }

    fn passed(&self) -> Duration {
        Duration::from_micros(self.passed.load(Ordering::Relaxed))
    }

    pub fn now(&self) -> Instant {
        self.origin + self.passed()
    }

    /// As coordinators see it.
    pub fn at_coordinators(&self) -> Now {
        let passed_ms = i64::try_from(self.passed().as_millis()).expect("schedules are short");
        Now { instant: self.now(), wall_ms: NOW_MS + passed_ms }
    }

    pub fn pass(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).expect("schedules are short");
        self.passed.fetch_add(micros, Ordering::Relaxed);
    }
}
