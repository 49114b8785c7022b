//! Where the last few appended batches lie, so that consumers at the tail are served without reading headers.

use std::collections::VecDeque;

use crate::model::Offset;

const BATCHES_MAX: usize = 32;

#[derive(Clone, Copy, Debug)]
struct RecentBatch {
    base_offset: Offset,
    last_offset: Offset,
    position: u32,
}

/// Invariant: contiguous batches up to the end of the active segment.
#[derive(Debug, Default)]
pub(crate) struct RecentBatches {
    batches: VecDeque<RecentBatch>,
}

impl RecentBatches {
    pub fn push(&mut self, base_offset: Offset, last_offset: Offset, position: u32) {
        if self.batches.len() == BATCHES_MAX {
            self.batches.pop_front();
        }
        self.batches.push_back(RecentBatch { base_offset, last_offset, position });
    }

    pub fn clear(&mut self) {
        self.batches = VecDeque::new();
    }

    /// The first batch whose last offset is at or above `target`, as position and end, given where the segment ends;
    /// position and end are both `segment_end` if the target lies behind all batches. `None` if it may lie before them.
    pub fn find(&self, target: Offset, segment_end: u32) -> Option<(u32, u32)> {
        let first = self.batches.front()?;
        if target < first.base_offset {
            return None;
        }
        let at = self.batches.partition_point(|batch| batch.last_offset < target);
        let position = |at: usize| self.batches.get(at).map_or(segment_end, |batch| batch.position);
        Some((position(at), position(at + 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_near_the_tail_are_known_and_older_ones_are_not() {
        let mut recent = RecentBatches::default();
        assert_eq!(recent.find(Offset(0), 0), None);
        for i in 0..40 {
            recent.push(Offset(i * 10), Offset(i * 10 + 9), i as u32 * 100);
        }
        assert_eq!(recent.find(Offset(79), 4000), None);
        assert_eq!(recent.find(Offset(80), 4000), Some((800, 900)));
        assert_eq!(recent.find(Offset(89), 4000), Some((800, 900)));
        assert_eq!(recent.find(Offset(399), 4000), Some((3900, 4000)));
        assert_eq!(recent.find(Offset(400), 4000), Some((4000, 4000)));
    }
}
