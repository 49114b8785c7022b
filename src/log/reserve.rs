//! Room on a volume that records of topics may not take (`log.dir.reserved.bytes`): when it is all that is left, offsets are
//! still committed and checkpoints written.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use rustix::io::Errno;

use super::error::{IoContext, LogError};
use super::files;

/// What others write to the volume is seen so late.
const LOOK_AGAIN_MS: u64 = 1000;
const LOOK_AGAIN_WHEN_EXHAUSTED_MS: u64 = 100;

#[derive(Debug, Default)]
pub(crate) struct Reserve {
    bytes: u64,
    /// Of what was free when it was last looked at, without the reserve and what has been appended since.
    left: AtomicI64,
    looked_ms: AtomicI64,
    is_exhausted: AtomicBool,
}

impl Reserve {
    pub fn of(bytes: u64) -> Reserve {
        Reserve { bytes, ..Reserve::default() }
    }

    /// Refuses what would take from the reserve, as a full disk would.
    pub fn admit(&self, dir: &Path, bytes: usize, now_ms: i64) -> Result<(), LogError> {
        if self.bytes == 0 {
            return Ok(());
        }
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let was_exhausted = self.is_exhausted.load(Ordering::Relaxed);
        let looked_before_ms = self.looked_ms.load(Ordering::Relaxed).abs_diff(now_ms);
        if was_exhausted && looked_before_ms < LOOK_AGAIN_WHEN_EXHAUSTED_MS {
            return refused(dir);
        }
        let left = self.left.fetch_sub(bytes, Ordering::Relaxed).saturating_sub(bytes);
        if !was_exhausted && left >= 0 && looked_before_ms < LOOK_AGAIN_MS {
            return Ok(());
        }
        let told = files::volume(dir).doing("ask for the volume of", dir)?;
        let free = i64::try_from(told.f_bavail.saturating_mul(told.f_frsize)).unwrap_or(i64::MAX);
        let reserved = i64::try_from(self.bytes).unwrap_or(i64::MAX);
        let left = free.saturating_sub(reserved).saturating_sub(bytes);
        // Not every few bytes that become free are room again.
        let is_exhausted = left < if was_exhausted { reserved / 16 } else { 0 };
        // What is refused takes nothing.
        self.left.store(if is_exhausted { left.saturating_add(bytes) } else { left }, Ordering::Relaxed);
        self.looked_ms.store(now_ms, Ordering::Relaxed);
        if self.is_exhausted.swap(is_exhausted, Ordering::Relaxed) != is_exhausted {
            match is_exhausted {
                true => log::warn!(
                    "{} has {free} bytes left, of which {} are reserved: records are refused until there is room",
                    dir.display(),
                    self.bytes
                ),
                false => log::info!("{} has room again: records are appended", dir.display()),
            }
        }
        if is_exhausted { refused(dir) } else { Ok(()) }
    }
}

fn refused(dir: &Path) -> Result<(), LogError> {
    Err(io::Error::from(Errno::NOSPC)).doing("append within what is reserved of", dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_not_given_and_the_rest_is() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert!(Reserve::of(0).admit(dir.path(), usize::MAX, 0).is_ok(), "nothing is reserved");
        let all = Reserve::of(i64::MAX as u64);
        for now_ms in [1000, 1001, 5000] {
            let refused = all.admit(dir.path(), 1, now_ms).expect_err("all is reserved");
            assert_eq!(refused.errno(), Some(Errno::NOSPC.raw_os_error()));
            assert!(!refused.is_storage_failure());
        }
        let some = Reserve::of(1);
        assert!(some.admit(dir.path(), 1, 1000).is_ok());
        let left = some.left.load(Ordering::Relaxed);
        assert!(some.admit(dir.path(), 10, 1001).is_ok());
        assert_eq!(some.left.load(Ordering::Relaxed), left - 10, "appends are counted without a look at the disk");
        assert!(some.admit(dir.path(), i64::MAX as usize, 1001).is_err());
        assert!(some.admit(dir.path(), 1, 1002).is_err(), "it is not looked at again at once");
        assert!(some.admit(dir.path(), 1, 1200).is_ok(), "what was refused has taken nothing");
    }
}
