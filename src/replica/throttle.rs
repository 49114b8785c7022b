//! How much is replicated a second of replicas that an operator has throttled, so that moving partitions leaves room for
//! clients (KIP-73). Only replicas that are not in sync are held back; all of the throttled ones count.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/ReplicationQuotaManager.scala,
//! clients/src/main/java/org/apache/kafka/common/metrics/stats/{SampledStat,SimpleRate}.java.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::model::lock::{Guard, Lock};

/// The quota of one side: what is led here, or what follows here.
#[derive(Debug)]
pub struct Throttle {
    samples_max: usize,
    sample: Duration,
    state: Lock<State>,
}

#[derive(Debug)]
struct State {
    bytes_per_second: u64,
    /// When each sample began, and its bytes; the oldest first.
    samples: VecDeque<(Instant, u64)>,
}

impl Throttle {
    /// `samples_max` samples of `sample` each make up the time over which the rate is taken.
    pub fn new(bytes_per_second: u64, samples_max: usize, sample: Duration) -> Throttle {
        let state = Lock::new(State { bytes_per_second, samples: VecDeque::new() });
        Throttle { samples_max: samples_max.max(1), sample: sample.max(Duration::from_millis(1)), state }
    }

    fn state(&self) -> Guard<'_, State> {
        self.state.lock().expect("nothing panics under it")
    }

    pub fn set_rate(&self, bytes_per_second: u64) {
        self.state().bytes_per_second = bytes_per_second;
    }

    pub fn record(&self, bytes: usize, now: Instant) {
        let mut state = self.state();
        let begins = state.samples.back().is_none_or(|(began, _)| now.saturating_duration_since(*began) >= self.sample);
        if begins {
            state.samples.push_back((now, 0));
            if state.samples.len() > self.samples_max {
                state.samples.pop_front();
            }
        }
        if let Some((_, of_sample)) = state.samples.back_mut() {
            *of_sample += bytes as u64;
        }
    }

    /// Whether more has gone by than may.
    pub fn is_exceeded(&self, now: Instant) -> bool {
        let mut state = self.state();
        let window = self.sample * u32::try_from(self.samples_max).unwrap_or(u32::MAX);
        while state.samples.front().is_some_and(|(began, _)| now.saturating_duration_since(*began) >= window) {
            state.samples.pop_front();
        }
        let Some((oldest, _)) = state.samples.front() else { return false };
        let bytes: u64 = state.samples.iter().map(|(_, bytes)| bytes).sum();
        let elapsed = now.saturating_duration_since(*oldest).max(self.sample);
        bytes as f64 / elapsed.as_secs_f64() > state.bytes_per_second as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_exceeded_until_enough_time_has_passed() {
        let throttle = Throttle::new(1_000, 3, Duration::from_secs(1));
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        assert!(!throttle.is_exceeded(at(0)));
        throttle.record(1_000, at(0));
        assert!(!throttle.is_exceeded(at(0)), "as much as may go by in the shortest time");
        throttle.record(1_000, at(500));
        assert!(throttle.is_exceeded(at(500)));
        assert!(throttle.is_exceeded(at(1_900)));
        assert!(!throttle.is_exceeded(at(2_000)));
        throttle.record(5_000, at(2_500));
        assert!(throttle.is_exceeded(at(2_900)));
        assert!(!throttle.is_exceeded(at(5_500)), "what lies behind the window is forgotten");
        throttle.record(5_000, at(6_000));
        assert!(throttle.is_exceeded(at(6_000)));
        throttle.set_rate(i64::MAX as u64);
        assert!(!throttle.is_exceeded(at(6_000)));
    }
}
