//! The timers of one shard: a plain queue, driven by whoever knows the time.
//!
//! A heartbeat moves a timer back, thousands of times before it fires once. So moving it later only notes the new
//! deadline, and the queue finds out when the old one comes up; only moving it earlier touches the queue.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap};
use std::hash::Hash;
use std::time::Instant;

use crate::coordinator::core::TimerKey;

#[derive(Debug)]
pub(crate) struct TimerQueue<K> {
    timers: HashMap<TimerKey<K>, Timer>,
    /// When to look at which timer, by its number. That of a timer that was cancelled or moved earlier may still be there,
    /// though not its key, which may be as long as whoever chose it likes.
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    /// By the number under which each timer is queued.
    keys: HashMap<u64, TimerKey<K>>,
    next_number: u64,
}

impl<K> Default for TimerQueue<K>
where
    K: Eq + Hash,
{
    fn default() -> TimerQueue<K> {
        TimerQueue { timers: HashMap::new(), queue: BinaryHeap::new(), keys: HashMap::new(), next_number: 0 }
    }
}

#[derive(Debug)]
struct Timer {
    deadline: Instant,
    /// When the queue will look at it: not after `deadline`.
    queued_at: Instant,
    number: u64,
}

impl<K: Clone + Eq + Hash> TimerQueue<K> {
    pub(crate) fn start(&mut self, key: TimerKey<K>, deadline: Instant) {
        match self.timers.entry(key) {
            Entry::Occupied(mut running) if running.get().queued_at <= deadline => {
                running.get_mut().deadline = deadline;
            }
            entry => {
                let (key, number) = (entry.key().clone(), self.next_number);
                self.next_number += 1;
                if let Entry::Occupied(later) = &entry {
                    self.keys.remove(&later.get().number);
                }
                entry.insert_entry(Timer { deadline, queued_at: deadline, number });
                self.keys.insert(number, key);
                self.queue.push(Reverse((deadline, number)));
                self.drop_leftovers();
            }
        }
    }

    pub(crate) fn cancel(&mut self, key: &TimerKey<K>) {
        if let Some(timer) = self.timers.remove(key) {
            self.keys.remove(&timer.number);
        }
    }

    /// When to call `expired` next; it may find nothing then.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse((at, _))| *at)
    }

    /// A timer whose time has come, which is then no longer running.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<TimerKey<K>> {
        while self.queue.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Reverse((_, number)) = self.queue.pop()?;
            let Some(key) = self.keys.get(&number) else { continue };
            let timer = self.timers.get_mut(key).expect("its number is forgotten with it");
            if timer.deadline <= now {
                self.timers.remove(key);
                return self.keys.remove(&number);
            }
            timer.queued_at = timer.deadline;
            self.queue.push(Reverse((timer.deadline, number)));
        }
        None
    }

    /// Numbers of cancelled timers stay queued until their time, unless they outnumber the running ones.
    fn drop_leftovers(&mut self) {
        if self.queue.len() > 2 * self.timers.len() + 64 {
            let keys = &self.keys;
            self.queue.retain(|Reverse((_, number))| keys.contains_key(number));
        }
    }

    #[cfg(test)]
    pub(crate) fn is_running(&self, key: &TimerKey<K>) -> bool {
        self.timers.contains_key(key)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn key(name: &str) -> TimerKey<Arc<str>> {
        TimerKey { of: Arc::from("g"), kind: Arc::from(name) }
    }

    #[test]
    fn a_timer_moved_later_fires_later_and_once() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = TimerQueue::default();
        timers.start(key("a"), at(10));
        timers.start(key("a"), at(30));
        assert_eq!(timers.expired(at(20)), None);
        assert_eq!(timers.next_deadline(), Some(at(30)));
        assert_eq!(timers.expired(at(30)), Some(key("a")));
        assert_eq!(timers.expired(at(100)), None);
    }

    #[test]
    fn a_timer_moved_earlier_fires_earlier_and_once() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = TimerQueue::default();
        timers.start(key("a"), at(300));
        timers.start(key("a"), at(10));
        assert_eq!(timers.expired(at(10)), Some(key("a")));
        assert_eq!(timers.expired(at(400)), None);
    }

    #[test]
    fn a_cancelled_timer_does_not_fire_and_one_started_again_does() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = TimerQueue::default();
        timers.start(key("a"), at(10));
        timers.cancel(&key("a"));
        assert_eq!(timers.expired(at(20)), None);
        timers.start(key("a"), at(40));
        timers.start(key("b"), at(35));
        assert_eq!(timers.expired(at(50)), Some(key("b")));
        assert_eq!(timers.expired(at(50)), Some(key("a")));
    }

    #[test]
    fn the_name_of_a_cancelled_timer_is_not_kept() {
        let start = Instant::now();
        let mut timers = TimerQueue::default();
        let name = key(&"a".repeat(1000));
        timers.start(name.clone(), start + Duration::from_secs(300));
        timers.start(name.clone(), start + Duration::from_secs(200));
        timers.cancel(&name);
        assert_eq!((Arc::strong_count(&name.of), Arc::strong_count(&name.kind)), (1, 1));
    }

    #[test]
    fn cancelled_timers_do_not_pile_up() {
        let start = Instant::now();
        let mut timers = TimerQueue::default();
        for n in 0..10_000u64 {
            timers.start(key(&n.to_string()), start + Duration::from_secs(300 + n));
            timers.cancel(&key(&n.to_string()));
        }
        assert!(timers.queue.len() < 100, "{} queued", timers.queue.len());
    }
}
