//! Znodes that could not be read or written as they should, each complained of once: they are tried again for as long as
//! they stay like that, and the log must not grow with every try.
use crate::counters::count;
use crate::error::ZkError;
use crate::session::ZooKeeper;
use log::{error, info};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// More are not remembered, so whoever fills ZooKeeper with junk fills neither memory nor the log.
const REMEMBERED_MAX: usize = 1000;
/// After this time that many may be named again: of many znodes nobody hears that they are gone.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);
/// A complaint is cut to this many bytes.
const COMPLAINT_BYTES_MAX: usize = 1000;

#[derive(Debug, Default)]
pub(crate) struct Faults {
    complaints: Mutex<Complaints>,
}

#[derive(Debug, Default)]
struct Complaints {
    /// What is wrong with each, by path.
    by_path: HashMap<String, String>,
    /// When the last of them for a time was named.
    full: Option<Instant>,
}

impl Complaints {
    /// Whether the fault is to be named, which then is remembered.
    fn is_news(&mut self, path: &str, fault: &str, now: Instant) -> bool {
        if self.by_path.get(path).is_some_and(|known| known == fault) {
            return false;
        }
        if self.by_path.len() >= REMEMBERED_MAX && !self.by_path.contains_key(path) {
            if self.full.is_some_and(|full| now.saturating_duration_since(full) < FORGOTTEN_AFTER) {
                return false;
            }
            self.by_path.clear();
        }
        self.by_path.insert(path.to_owned(), fault.to_owned());
        if self.by_path.len() == REMEMBERED_MAX {
            self.full = Some(now);
        }
        true
    }
}

impl ZooKeeper {
    /// Logs what is wrong with a znode and what follows from it, unless the same was wrong with it the last time.
    pub fn complain(&self, path: &str, what_follows: &str, why: &ZkError) {
        let fault = cut(why.to_string());
        let mut complaints = self.faults().complaints.lock().unwrap_or_else(PoisonError::into_inner);
        let was_full = complaints.by_path.len() >= REMEMBERED_MAX;
        if !complaints.is_news(path, &fault, Instant::now()) {
            return;
        }
        count(&self.settings().counters.znodes_in_disorder);
        error!("{}: {fault}", cut(what_follows.to_owned()));
        if complaints.by_path.len() == REMEMBERED_MAX && !was_full {
            let minutes = FORGOTTEN_AFTER.as_secs() / 60;
            error!(
                "{REMEMBERED_MAX} znodes are in disorder; no more are named until some are repaired, or for {minutes} minutes"
            );
        }
    }

    /// The znode was read or written as it should be, or is gone.
    pub fn mended(&self, path: &str) {
        let mut complaints = self.faults().complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if !complaints.by_path.is_empty() && complaints.by_path.remove(path).is_some() {
            info!("{} is in order again", cut(path.to_owned()));
        }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > COMPLAINT_BYTES_MAX {
        let end = (0..=COMPLAINT_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_wrong_long_ago_keeps_no_other_znode_from_being_named() {
        let mut complaints = Complaints::default();
        let start = Instant::now();
        assert!((0..REMEMBERED_MAX).all(|znode| complaints.is_news(&format!("/{znode}"), "junk", start)));
        assert!(!complaints.is_news("/0", "junk", start));
        assert!(complaints.is_news("/0", "other junk", start));
        assert!(!complaints.is_news("/another", "junk", start + FORGOTTEN_AFTER - Duration::from_secs(1)));
        assert!(complaints.is_news("/another", "junk", start + FORGOTTEN_AFTER));
        assert!(!complaints.is_news("/another", "junk", start + FORGOTTEN_AFTER));
    }
}
