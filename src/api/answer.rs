//! What one request may take while it is handled: what it was decoded to, and its answer, counted while it is built.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::network::memory::{ALLOWANCE_BYTES, WorkingMemory};
use crate::protocol::message::Wire;

/// The bytes that an answer may still take in memory.
#[derive(Debug)]
pub struct AnswerBudget {
    left: AtomicUsize,
    /// Of this answer, and of the request behind it.
    taken: AtomicUsize,
    /// Counts that over all connections.
    memory: Mutex<WorkingMemory>,
}

/// The answer would be longer than any may be. What there is of it is dropped, and the request refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerTooLong;

impl fmt::Display for AnswerTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("The answer would be too long; ask for less at once.")
    }
}

impl AnswerBudget {
    pub fn new(bytes: usize, memory: WorkingMemory) -> AnswerBudget {
        AnswerBudget { left: AtomicUsize::new(bytes), taken: AtomicUsize::new(0), memory: Mutex::new(memory) }
    }

    /// The memory that the decoded request takes: it does not count against the answer.
    pub fn count_request(&self, bytes: usize) {
        self.take(bytes);
    }

    /// What the request and its answer take by now.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) {
        let taken = self.taken.load(Ordering::Relaxed) + bytes;
        self.taken.store(taken, Ordering::Relaxed);
        if taken > ALLOWANCE_BYTES {
            self.memory.lock().unwrap_or_else(PoisonError::into_inner).grow_to(taken);
        }
    }

    pub fn charge(&self, bytes: usize) -> Result<(), AnswerTooLong> {
        // The tasks of one request charge it one after another.
        let left = self.left.load(Ordering::Relaxed).checked_sub(bytes).ok_or(AnswerTooLong)?;
        self.left.store(left, Ordering::Relaxed);
        self.take(bytes);
        Ok(())
    }

    /// Adds an element, if there is room for all of it.
    pub fn push<T: Wire>(&self, elements: &mut Vec<T>, element: T) -> Result<(), AnswerTooLong> {
        self.charge(element.memory())?;
        elements.push(element);
        Ok(())
    }

    /// Collects elements while there is room for them.
    pub fn collect<T: Wire>(&self, elements: impl Iterator<Item = T>) -> Result<Vec<T>, AnswerTooLong> {
        let mut collected = Vec::new();
        for element in elements {
            self.push(&mut collected, element)?;
        }
        Ok(collected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::memory::{ConnectionMemory, MemoryPool};

    #[test]
    fn elements_are_counted_with_what_they_hold() {
        let text = "x".repeat(100);
        let budget = AnswerBudget::new(1000, ConnectionMemory::new(MemoryPool::new(1 << 20, 0)).working_memory());
        assert_eq!(budget.collect(std::iter::repeat_n(text.clone(), 7)).map(|texts| texts.len()), Ok(7));
        assert_eq!(budget.push(&mut Vec::new(), text), Err(AnswerTooLong));
        assert_eq!(budget.charge(4), Ok(()));
        let mut endless = 0;
        let counted = std::iter::from_fn(|| {
            endless += 1;
            Some(0i64)
        });
        assert_eq!(budget.collect(counted), Err(AnswerTooLong));
        assert_eq!(endless, 3, "nothing is made once the budget is used up");
    }
}
