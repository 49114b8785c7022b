//! Work that logs leave for the passes over a directory. What fails is tried again, later and later, so that a lasting
//! fault of one partition costs the others nothing and the log file little.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Mutex;

use super::error::LogError;

const FIRST_DELAY_MS: i64 = 1000;
pub(crate) const LONGEST_DELAY_MS: i64 = 60_000;

/// Two threads that read the clock at different times, which is not set back for that, and what they do between.
const CLOCK_SLACK_MS: i64 = 60_000;

/// A moment of the wall clock, so long after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    since_ms: i64,
    due_ms: i64,
}

impl Due {
    pub fn after(now_ms: i64, delay_ms: i64) -> Due {
        Due { since_ms: now_ms, due_ms: now_ms.saturating_add(delay_ms) }
    }

    pub fn at_once(now_ms: i64) -> Due {
        Due::after(now_ms, 0)
    }

    /// A clock that was set back to before it all began must not make anything wait for as long. One that was read a little
    /// before that began was not set back.
    pub fn is_due(self, now_ms: i64) -> bool {
        self.due_ms <= now_ms || self.since_ms > now_ms.saturating_add(CLOCK_SLACK_MS)
    }
}

/// When a piece of work is due, and how often it has failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// `None` for the first.
    due: Option<Due>,
    failures: u32,
}

impl Attempt {
    fn is_due(&self, now_ms: i64) -> bool {
        self.due.is_none_or(|due| due.is_due(now_ms))
    }

    fn after_failure(self, now_ms: i64) -> Attempt {
        let doublings = self.failures.min(16);
        let delay_ms = FIRST_DELAY_MS.saturating_mul(1 << doublings).min(LONGEST_DELAY_MS);
        Attempt { due: Some(Due::after(now_ms, delay_ms)), failures: self.failures.saturating_add(1) }
    }
}

#[derive(Debug)]
pub(crate) struct Pending<K>(Mutex<BTreeMap<K, Attempt>>);

impl<K> Default for Pending<K> {
    fn default() -> Pending<K> {
        Pending(Mutex::default())
    }
}

impl<K: Ord> Pending<K> {
    /// There is work, from now on if it is not waiting for its next attempt. True if it was not known.
    pub fn note(&self, key: K) -> bool {
        let mut pending = self.0.lock().expect("nothing panics under this lock");
        let known = pending.len();
        pending.entry(key).or_default();
        pending.len() > known
    }

    /// The work that is due. Whoever cannot do it gives it back with `failed`.
    pub fn take(&self, now_ms: i64) -> Vec<(K, Attempt)> {
        let mut pending = self.0.lock().expect("nothing panics under this lock");
        let all = std::mem::take(&mut *pending).into_iter();
        let (due, later): (Vec<_>, Vec<_>) = all.partition(|(_, attempt)| attempt.is_due(now_ms));
        pending.extend(later);
        due
    }

    /// All of the work, once some of it is due, and due again later and later, until somebody has done it and it is forgotten.
    pub fn postpone(&self, now_ms: i64) -> Vec<K>
    where
        K: Clone,
    {
        let mut pending = self.0.lock().expect("nothing panics under this lock");
        if !pending.values().any(|attempt| attempt.is_due(now_ms)) {
            return Vec::new();
        }
        pending.values_mut().for_each(|attempt| *attempt = attempt.after_failure(now_ms));
        pending.keys().cloned().collect()
    }

    pub fn contains(&self, key: &K) -> bool {
        self.0.lock().expect("nothing panics under this lock").contains_key(key)
    }

    /// True if it was known.
    pub fn forget(&self, key: &K) -> bool {
        self.0.lock().expect("nothing panics under this lock").remove(key).is_some()
    }

    pub fn forget_all(&self) {
        self.0.lock().expect("nothing panics under this lock").clear();
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.0.lock().expect("nothing panics under this lock").is_empty()
    }

    pub fn failed(&self, key: K, attempt: Attempt, now_ms: i64) {
        self.0.lock().expect("nothing panics under this lock").insert(key, attempt.after_failure(now_ms));
    }
}

/// The errors that one pass met: one line for each kind, however many partitions have it.
pub(crate) struct Complaints {
    doing: &'static str,
    kinds: BTreeMap<Option<i32>, Complaint>,
}

struct Complaint {
    first: String,
    others: usize,
}

impl Complaints {
    pub fn about(doing: &'static str) -> Complaints {
        Complaints { doing, kinds: BTreeMap::new() }
    }

    pub fn note(&mut self, of: impl Display, error: &LogError) {
        if error.level() > log::Level::Error {
            log::debug!("[{of}] {}: {error}", self.doing);
            return;
        }
        let complaint = self.kinds.entry(error.errno());
        let of_kind = complaint.and_modify(|complaint| complaint.others += 1);
        of_kind.or_insert_with(|| Complaint { first: format!("[{of}] {}: {error}", self.doing), others: 0 });
    }
}

impl Drop for Complaints {
    fn drop(&mut self) {
        for Complaint { first, others } in self.kinds.values() {
            match others {
                0 => log::error!("{first}"),
                _ => log::error!("{first}; and the same for {others} others"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_no_longer_for_a_clock_that_is_set_back() {
        let due = Due::after(3_600_000, 60_000);
        let moments = [3_600_000, 3_659_999, 3_660_000, 7_200_000, 3_599_999, 3_540_000, 3_539_999, 0];
        let expected = [false, false, true, true, false, false, true, true];
        assert_eq!(moments.map(|now_ms| due.is_due(now_ms)), expected);
        assert!(Due::at_once(5).is_due(5));
        assert!(!Due::after(5, i64::MAX).is_due(i64::MAX - 1));
    }

    #[test]
    fn what_fails_waits_for_longer_each_time_and_new_work_does_not() {
        let pending = Pending::default();
        assert!(pending.note("bad"));
        let mut now_ms = 0;
        let mut delays = Vec::new();
        for _ in 0..8 {
            let [(key, attempt)] = pending.take(now_ms).try_into().expect("due");
            pending.failed(key, attempt, now_ms);
            assert!(!pending.note("bad"), "the same work again does not hasten it");
            assert_eq!(pending.take(now_ms), []);
            assert!(pending.note("good"));
            assert_eq!(pending.take(now_ms).len(), 1);
            let due_ms = (now_ms..).step_by(1000).find(|&later| pending.0.lock().unwrap()["bad"].is_due(later));
            delays.push((due_ms.expect("some time") - now_ms) / 1000);
            now_ms = due_ms.expect("some time");
        }
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
        let [(key, attempt)] = pending.take(now_ms).try_into().expect("due");
        pending.failed(key, attempt, now_ms);
        assert_eq!(pending.take(now_ms - 3_600_000).len(), 1, "a clock that was set back");
    }

    #[test]
    fn what_others_do_is_due_later_and_later_until_it_is_forgotten() {
        let pending = Pending::default();
        assert!(pending.note("refused"));
        let due = |now_ms| pending.postpone(now_ms);
        for (now_ms, expected) in [(0, 1), (999, 0), (1000, 1), (2999, 0), (3000, 1), (6999, 0)] {
            assert_eq!(due(now_ms).len(), expected, "at {now_ms} ms");
        }
        assert!(!pending.note("refused"), "it has been refused again, which does not hasten it");
        assert_eq!(due(6999), Vec::<&str>::new());
        pending.note("later");
        assert_eq!(due(7000), ["later", "refused"]);
        assert_eq!(due(7001), Vec::<&str>::new(), "they go together");
        pending.forget(&"later");
        pending.forget(&"refused");
        assert_eq!(due(i64::MAX), Vec::<&str>::new());
    }
}
