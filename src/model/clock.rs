//! The wall clock, in the unit of every timestamp on the wire, on disk and in ZooKeeper. For a moment that only this
//! process knows, `Instant` is the clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, in ms since 1970.
pub fn wall_clock_ms() -> i64 {
    ms_since_1970(SystemTime::now())
}

/// 0 for what was before.
pub fn ms_since_1970(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
