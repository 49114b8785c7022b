//! What requests came to so far. The broker makes the counters and hands them in.
//! Source of the names: kafka 3.9.1 core/src/main/scala/kafka/network/RequestChannel.scala (RequestMetrics).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::protocol::api_keys::ApiKey;
use crate::protocol::error_code::ErrorCode;

/// Keys and versions are small numbers, and a test holds that those of every API are smaller than these.
const KEYS: usize = 70;
const VERSIONS: usize = 32;
/// The codes from -1 on, of which a test holds the same.
const CODES: usize = 136;

/// Of all listeners. Each counts up from the start of the broker.
pub struct ApiCounters {
    /// Kafka's `kafka.network:type=RequestMetrics,name=RequestsPerSec,request=*,version=*`.
    requests: Box<[AtomicU64]>,
    /// Kafka's `kafka.network:type=RequestMetrics,name=ErrorsPerSec,request=*,error=*`, without `NONE`.
    errors: Box<[AtomicU64]>,
    /// Of an API or a version that is not served.
    pub unsupported: AtomicU64,
    /// Bodies that do not parse; those over the budget do not count here.
    pub malformed: AtomicU64,
    /// Requests that would take too much memory.
    pub refused_requests: AtomicU64,
    /// Requests whose answer would be too long.
    pub refused_answers: AtomicU64,
}

impl Default for ApiCounters {
    fn default() -> ApiCounters {
        let zeros = |count| std::iter::repeat_with(AtomicU64::default).take(count).collect();
        ApiCounters {
            requests: zeros(KEYS * VERSIONS),
            errors: zeros(KEYS * CODES),
            unsupported: AtomicU64::default(),
            malformed: AtomicU64::default(),
            refused_requests: AtomicU64::default(),
            refused_answers: AtomicU64::default(),
        }
    }
}

impl fmt::Debug for ApiCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiCounters").finish_non_exhaustive()
    }
}

fn number(code: i16) -> usize {
    usize::try_from(code).unwrap_or(0)
}

impl ApiCounters {
    /// Requests of an API in a version that it has.
    pub fn requests(&self, key: ApiKey, version: i16) -> &AtomicU64 {
        &self.requests[number(key.code()) * VERSIONS + number(version)]
    }

    /// Errors in the answers of an API: one answer may hold several.
    pub fn errors(&self, key: ApiKey, error: ErrorCode) -> &AtomicU64 {
        &self.errors[number(key.code()) * CODES + number(error.code() + 1)]
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_api_version_and_error_has_a_place_of_its_own() {
        let counters = ApiCounters::default();
        for &key in ApiKey::ALL {
            assert!(number(key.code()) < KEYS && number(*key.versions().end()) < VERSIONS, "{key:?}");
            key.versions().for_each(|version| count(counters.requests(key, version)));
            for code in -1..=(CODES as i16 - 2) {
                let error = ErrorCode::from_code(code);
                if error.code() == code {
                    count(counters.errors(key, error));
                }
            }
        }
        let most = |counters: &[AtomicU64]| counters.iter().map(|counter| counter.load(Ordering::Relaxed)).max();
        assert_eq!((most(&counters.requests), most(&counters.errors)), (Some(1), Some(1)));
        let unplaced = (CODES as i16 - 1..=i16::MAX).find(|&code| ErrorCode::from_code(code).code() == code);
        assert_eq!(unplaced, None);
    }
}
