//! Whether a disk keeps up with what is appended to its directory.
//!
//! Appends are made on the threads that serve connections, since the page cache takes them at once. A disk that does not keep
//! up with it holds up whoever writes, and with him all connections of his thread. So from the first such append on, whatever
//! is asked of the logs of its directory is for I/O threads, until the disk has kept up for a while: each network thread is
//! held up once at most when that begins.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longer than that takes an append only if the disk holds it up, or a machine that has far too much to do.
const KEEPS_UP_WITHIN: Duration = Duration::from_millis(50);
/// A disk that holds up one append holds up more.
const HOLDS_UP_FOR: Duration = Duration::from_secs(1);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Times are in µs since the start, and 0 is none.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When one began of the appends that are under way: the first of those that overlap.
    under_way_since: AtomicU64,
    holds_up_until: AtomicU64,
}

impl Pace {
    /// An append, or several.
    pub fn of<T>(&self, append: impl FnOnce() -> T) -> T {
        let began = now();
        let is_first = self.under_way_since.compare_exchange(0, began, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        let appended = append();
        if is_first {
            self.under_way_since.store(0, Ordering::Relaxed);
        }
        let ended = now();
        if is_long(ended - began) {
            self.holds_up_until.fetch_max(ended + us(HOLDS_UP_FOR), Ordering::Relaxed);
        }
        appended
    }

    pub fn holds_up(&self) -> bool {
        let (since, until) =
            (self.under_way_since.load(Ordering::Relaxed), self.holds_up_until.load(Ordering::Relaxed));
        // Nearly always, without a look at the clock.
        if since == 0 && until == 0 {
            return false;
        }
        let now = now();
        now < until || since > 0 && is_long(now.saturating_sub(since))
    }
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn now() -> u64 {
    us(START.elapsed()) + 1
}

fn is_long(us_taken: u64) -> bool {
    us_taken > us(KEEPS_UP_WITHIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_holds_up_from_within_a_long_append_on_until_it_has_kept_up_for_a_while() {
        let pace = Pace::default();
        let long = || {
            let began = Instant::now();
            while began.elapsed() <= KEEPS_UP_WITHIN * 2 {
                std::thread::yield_now();
            }
        };
        assert!(!pace.holds_up());
        pace.of(|| assert!(!pace.holds_up(), "it has just begun"));
        pace.of(|| {
            long();
            assert!(pace.holds_up(), "it is under way");
        });
        let ended = Instant::now();
        assert!(pace.holds_up());
        while ended.elapsed() <= HOLDS_UP_FOR {
            std::thread::yield_now();
        }
        assert!(!pace.holds_up());
    }
}
