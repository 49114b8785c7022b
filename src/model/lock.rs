//! The lock for what many tasks touch briefly, and the rule that nobody waits for a disk behind one: a lock that is held
//! over an fsync or a rename stops everybody who needs it for as long as the disk takes, and a network thread that waits
//! for one stops all its connections. In debug builds, and so in every test, the file layer asks here and panics where
//! the rule is broken; release builds carry nothing of it.

use std::sync::{LockResult, Mutex, MutexGuard, PoisonError};

#[cfg(debug_assertions)]
thread_local! {
    static HELD: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
    static IS_NETWORK: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// A mutex under which no file is fsynced or renamed.
#[derive(Debug, Default)]
pub struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    pub const fn new(value: T) -> Lock<T> {
        Lock(Mutex::new(value))
    }

    pub fn lock(&self) -> LockResult<Guard<'_, T>> {
        match self.0.lock() {
            Ok(guard) => Ok(Guard::new(guard)),
            Err(poisoned) => Err(PoisonError::new(Guard::new(poisoned.into_inner()))),
        }
    }
}

#[cfg(test)]
impl<T> Lock<T> {
    pub fn is_taken(&self) -> bool {
        matches!(self.0.try_lock(), Err(std::sync::TryLockError::WouldBlock))
    }
}

#[derive(Debug)]
pub struct Guard<'a, T> {
    guard: MutexGuard<'a, T>,
    _held: Held,
}

impl<'a, T> Guard<'a, T> {
    fn new(guard: MutexGuard<'a, T>) -> Guard<'a, T> {
        Guard { guard, _held: Held::new() }
    }
}

impl<T> std::ops::Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> std::ops::DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

#[derive(Debug)]
struct Held;

impl Held {
    #[inline(always)]
    fn new() -> Held {
        #[cfg(debug_assertions)]
        HELD.set(HELD.get() + 1);
        Held
    }
}

#[cfg(debug_assertions)]
impl Drop for Held {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
    }
}

/// Says that the calling thread serves connections.
pub fn mark_network_thread() {
    #[cfg(debug_assertions)]
    IS_NETWORK.set(true);
}

/// Runs what may wait for a disk on a thread that a runtime keeps for such work, and marked like its others.
pub fn off_the_network<T>(work: impl FnOnce() -> T) -> T {
    #[cfg(debug_assertions)]
    IS_NETWORK.set(false);
    work()
}

/// Called by whoever is about to wait for a disk.
#[track_caller]
pub fn about_to_wait_for_disk() {
    #[cfg(debug_assertions)]
    {
        // A panic on the way out of a panic would only hide the first.
        let may_wait = (HELD.get() == 0 && !IS_NETWORK.get()) || std::thread::panicking();
        assert!(
            may_wait,
            "locks held: {}, network thread: {}: nobody may wait for a disk here",
            HELD.get(),
            IS_NETWORK.get()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic = "locks held: 1"]
    fn nobody_waits_for_a_disk_under_a_lock() {
        let lock = Lock::new(());
        drop(lock.lock().expect("free"));
        about_to_wait_for_disk();
        let _held = lock.lock().expect("free");
        about_to_wait_for_disk();
    }

    #[test]
    #[should_panic = "network thread: true"]
    fn nobody_waits_for_a_disk_on_a_network_thread() {
        mark_network_thread();
        off_the_network(about_to_wait_for_disk);
        mark_network_thread();
        about_to_wait_for_disk();
    }
}
