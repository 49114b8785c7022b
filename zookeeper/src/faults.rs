//! Znodes that could not be read or written as they should, each complained of once: they are tried again for as long as
//! they stay like that, and the log must not grow with every try.
use crate::error::ZkError;
use crate::session::ZooKeeper;
use log::{error, info};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// More are not remembered, so whoever fills ZooKeeper with junk fills neither memory nor the log.
const REMEMBERED_MAX: usize = 1000;
/// A complaint is cut to this many bytes.
const COMPLAINT_BYTES_MAX: usize = 1000;

#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// What is wrong with each, by path.
    complaints: Mutex<HashMap<String, String>>,
}

impl ZooKeeper {
    /// Logs what is wrong with a znode and what follows from it, unless the same was wrong with it the last time.
    pub fn complain(&self, path: &str, what_follows: &str, why: &ZkError) {
        let fault = cut(why.to_string());
        let mut complaints = self.faults().complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if complaints.get(path) == Some(&fault) {
            return;
        }
        if complaints.len() >= REMEMBERED_MAX && !complaints.contains_key(path) {
            return;
        }
        error!("{}: {fault}", cut(what_follows.to_owned()));
        complaints.insert(path.to_owned(), fault);
        if complaints.len() == REMEMBERED_MAX {
            error!("{REMEMBERED_MAX} znodes are in disorder; no more are named until some are repaired");
        }
    }

    /// The znode was read or written as it should be, or is gone.
    pub fn mended(&self, path: &str) {
        let mut complaints = self.faults().complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if !complaints.is_empty() && complaints.remove(path).is_some() {
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
