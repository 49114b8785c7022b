//! `log.cleaner.io.max.bytes.per.second`, over all threads that compact.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What may be read and written at once, whatever the rate.
const BURST: Duration = Duration::from_millis(300);
/// Whoever waits looks so often whether it still has to.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Throttle {
    spent: Mutex<Spent>,
    changed: Condvar,
}

#[derive(Debug)]
struct Spent {
    bytes_per_second: f64,
    /// Until then everything that was read and written would have taken at the rate.
    paid_until: Option<Instant>,
}

impl Throttle {
    pub fn new(bytes_per_second: f64) -> Throttle {
        Throttle { spent: Mutex::new(Spent { bytes_per_second, paid_until: None }), changed: Condvar::new() }
    }

    pub fn set_rate(&self, bytes_per_second: f64) {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        *spent = Spent { bytes_per_second, paid_until: None };
        self.changed.notify_all();
    }

    /// Waits until so many bytes may have been read and written, or until there is no reason any more to go on.
    pub fn spend(&self, bytes: u64, goes_on: impl Fn() -> bool) {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        spent.paid_until = spent.charge(bytes, now);
        while let Some(paid_until) = spent.paid_until {
            let wait = paid_until.saturating_duration_since(Instant::now()).saturating_sub(BURST);
            if wait.is_zero() || !goes_on() {
                return;
            }
            let waited = self.changed.wait_timeout(spent, wait.min(LOOK_AGAIN));
            spent = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Spent {
    /// `None` for a rate that nobody reaches, or one that is none.
    fn charge(&self, bytes: u64, now: Instant) -> Option<Instant> {
        let seconds = bytes as f64 / self.bytes_per_second;
        let is_limit = self.bytes_per_second.is_finite() && self.bytes_per_second > 0.0 && seconds.is_finite();
        let from = self.paid_until.map_or(now, |paid_until| paid_until.max(now));
        // A rate of next to nothing is one look a day.
        is_limit.then(|| from + Duration::from_secs_f64(seconds.min(86_400.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_the_time_that_the_rate_gives_them() {
        let now = Instant::now();
        let spent = |rate, paid_until| Spent { bytes_per_second: rate, paid_until };
        assert_eq!(spent(1000.0, None).charge(500, now), Some(now + Duration::from_millis(500)));
        let later = now + Duration::from_secs(2);
        assert_eq!(spent(1000.0, Some(later)).charge(1000, now), Some(later + Duration::from_secs(1)));
        assert_eq!(spent(1000.0, Some(now)).charge(1000, later), Some(later + Duration::from_secs(1)), "no savings");
        for unlimited in [f64::INFINITY, 0.0, -1.0, f64::NAN] {
            assert_eq!(spent(unlimited, None).charge(1 << 40, now), None);
        }
    }

    #[test]
    fn who_waits_stops_when_there_is_no_reason_to_go_on() {
        let throttle = Throttle::new(1.0);
        throttle.spend(1 << 30, || false);
        let unlimited = Throttle::new(f64::MAX);
        unlimited.spend(u64::MAX, || true);
    }
}
