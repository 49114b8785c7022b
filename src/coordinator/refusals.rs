//! Groups and transactional ids that are refused something for what the broker holds already, each named once in a while: a
//! client that is refused asks again, and the log must not grow with each time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::model::shown::shown;

/// As often each is named.
const NAMED_EVERY: Duration = Duration::from_secs(60);
/// Of more nobody hears meanwhile, so whoever makes up names fills neither memory nor the log.
const NAMES_MAX: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// When each was named, cut as the log shows it.
    named: Mutex<HashMap<String, Instant>>,
}

impl Refusals {
    /// Whether it is to be named.
    pub fn is_news(&self, name: &str, now: Instant) -> bool {
        let name = shown(name).to_string();
        let is_fresh = |named: &Instant| now.saturating_duration_since(*named) < NAMED_EVERY;
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.get(&name).is_some_and(is_fresh) {
            return false;
        }
        if named.len() >= NAMES_MAX {
            named.retain(|_, named| is_fresh(named));
            if named.len() >= NAMES_MAX {
                return false;
            }
        }
        named.insert(name, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_again_and_again_is_named_once_a_minute_and_of_many_some_are() {
        let refusals = Refusals::default();
        let start = Instant::now();
        let nearly = start + NAMED_EVERY - Duration::from_secs(1);
        assert_eq!([start, nearly, start + NAMED_EVERY].map(|now| refusals.is_news("a", now)), [true, false, true]);
        assert!(refusals.is_news("b", nearly));
        let many = |now| (0..3 * NAMES_MAX).filter(|name| refusals.is_news(&format!("made up {name}"), now)).count();
        assert_eq!(many(nearly), NAMES_MAX - 2);
        assert_eq!(many(start + NAMED_EVERY), 0);
        assert_eq!(many(nearly + NAMED_EVERY), NAMES_MAX - 1, "but for the one that was named again later");
        let long = |end: char| format!("{}{end}", "x".repeat(30_000));
        let later = start + 9 * NAMED_EVERY;
        assert_eq!(['a', 'b'].map(|end| refusals.is_news(&long(end), later)), [true, false], "names are cut");
    }
}
