//! Which leader epoch wrote from which offset on: the basis of truncation between replicas (KIP-101).
//! The file `leader-epoch-checkpoint` has one line `<epoch> <start offset>` per epoch, behind version and count.
//! Source: kafka 3.9 storage/.../epoch/LeaderEpochFileCache.java.

use std::path::Path;

use super::checkpoint;
use super::error::LogError;
use crate::model::{LeaderEpoch, Offset};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    pub epoch: LeaderEpoch,
    pub start_offset: Offset,
}

/// The end of an epoch as OffsetForLeaderEpoch answers it; (-1, -1) when it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    pub epoch: LeaderEpoch,
    pub end_offset: Offset,
}

impl EpochEnd {
    pub const UNDEFINED: EpochEnd = EpochEnd { epoch: LeaderEpoch(-1), end_offset: Offset(-1) };
}

/// Invariant: epochs and start offsets both strictly increase from entry to entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeaderEpochs {
    entries: Vec<EpochStart>,
}

impl LeaderEpochs {
    /// Damage is an error: the caller decides whether the log can be rebuilt without it.
    pub fn read(path: &Path) -> Result<LeaderEpochs, LogError> {
        let mut epochs = LeaderEpochs::default();
        for line in checkpoint::read_lines(path)? {
            let mut words = line.split_whitespace();
            let parsed = (|| {
                let epoch: i32 = words.next()?.parse().ok()?;
                let start: i64 = words.next()?.parse().ok()?;
                (words.next().is_none() && epoch >= 0 && start >= 0).then_some((epoch, start))
            })();
            let Some((epoch, start)) = parsed else {
                let shown: String = line.chars().take(80).collect();
                return Err(LogError::Corrupt { context: format!("malformed line in {}: {shown}", path.display()) });
            };
            epochs.assign(LeaderEpoch(epoch), Offset(start));
        }
        Ok(epochs)
    }

    pub fn write(&self, path: &Path) -> Result<(), LogError> {
        checkpoint::write_lines(path, self.entries.iter().map(|e| format!("{} {}", e.epoch, e.start_offset)))
    }

    pub fn entries(&self) -> &[EpochStart] {
        &self.entries
    }

    pub fn latest(&self) -> Option<EpochStart> {
        self.entries.last().copied()
    }

    pub fn earliest(&self) -> Option<EpochStart> {
        self.entries.first().copied()
    }

    /// Who wrote at this offset.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let begun = self.entries.partition_point(|e| e.start_offset <= offset);
        Some(self.entries[begun.checked_sub(1)?].epoch)
    }

    /// Whether `assign` would change anything: true for the first batch of an epoch only.
    pub fn assign_changes(&self, epoch: LeaderEpoch, start_offset: Offset) -> bool {
        self.latest().is_none_or(|last| epoch != last.epoch || start_offset < last.start_offset)
    }

    /// The epoch writes from this offset on. Entries that contradict it were never committed and go.
    pub fn assign(&mut self, epoch: LeaderEpoch, start_offset: Offset) -> bool {
        if epoch.0 < 0 || start_offset.0 < 0 || !self.assign_changes(epoch, start_offset) {
            return false;
        }
        while self.latest().is_some_and(|last| last.epoch >= epoch || last.start_offset >= start_offset) {
            self.entries.pop();
        }
        self.entries.push(EpochStart { epoch, start_offset });
        true
    }

    /// The log now ends at `end_offset`: epochs that began there or later never wrote. True if anything changed.
    pub fn truncate_from_end(&mut self, end_offset: Offset) -> bool {
        let before = self.entries.len();
        while end_offset.0 >= 0 && self.latest().is_some_and(|last| last.start_offset >= end_offset) {
            self.entries.pop();
        }
        before != self.entries.len()
    }

    /// The log now starts at `start_offset`: the epoch that wrote there becomes the first. True if anything changed.
    pub fn truncate_from_start(&mut self, start_offset: Offset) -> bool {
        let covered = self.entries.partition_point(|e| e.start_offset <= start_offset);
        if covered == 0 {
            return false;
        }
        let first = EpochStart { epoch: self.entries[covered - 1].epoch, start_offset };
        if covered == 1 && self.entries[0] == first {
            return false;
        }
        self.entries.splice(..covered, [first]);
        true
    }

    pub fn clear(&mut self) -> bool {
        let changed = !self.entries.is_empty();
        self.entries.clear();
        changed
    }

    /// Where the requested epoch, or the largest one below it, ends.
    pub fn end_offset_for(&self, requested: LeaderEpoch, log_end_offset: Offset) -> EpochEnd {
        let (Some(first), Some(latest)) = (self.earliest(), self.latest()) else { return EpochEnd::UNDEFINED };
        if requested.0 < 0 || requested > latest.epoch {
            return EpochEnd::UNDEFINED;
        }
        if requested == latest.epoch {
            return EpochEnd { epoch: requested, end_offset: log_end_offset };
        }
        if requested < first.epoch {
            return EpochEnd { epoch: requested, end_offset: first.start_offset };
        }
        let next = self.entries.partition_point(|e| e.epoch <= requested);
        EpochEnd { epoch: self.entries[next - 1].epoch, end_offset: self.entries[next].start_offset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(entries: &[(i32, i64)]) -> LeaderEpochs {
        let mut epochs = LeaderEpochs::default();
        for &(epoch, start) in entries {
            epochs.assign(LeaderEpoch(epoch), Offset(start));
        }
        epochs
    }

    fn listed(epochs: &LeaderEpochs) -> Vec<(i32, i64)> {
        epochs.entries().iter().map(|e| (e.epoch.0, e.start_offset.0)).collect()
    }

    #[test]
    fn a_new_epoch_removes_entries_that_contradict_it() {
        assert_eq!(listed(&epochs(&[(1, 0), (2, 10), (3, 10)])), [(1, 0), (3, 10)]);
        assert_eq!(listed(&epochs(&[(1, 0), (5, 10), (3, 20)])), [(1, 0), (3, 20)]);
        assert_eq!(listed(&epochs(&[(1, 5), (1, 9)])), [(1, 5)], "a later batch of the same epoch changes nothing");
    }

    #[test]
    fn the_end_of_an_epoch_follows_kip_101() {
        let epochs = epochs(&[(2, 5), (4, 10), (7, 20)]);
        let end = |requested| {
            let end = epochs.end_offset_for(LeaderEpoch(requested), Offset(33));
            (end.epoch.0, end.end_offset.0)
        };
        assert_eq!(end(7), (7, 33), "latest: log end offset");
        assert_eq!(end(8), (-1, -1), "larger than known");
        assert_eq!(end(-1), (-1, -1));
        assert_eq!(end(0), (0, 5), "smaller than known: itself and the first start");
        assert_eq!(end(2), (2, 10));
        assert_eq!(end(3), (2, 10), "a gap: the floor");
        assert_eq!(end(4), (4, 20));
        let none = LeaderEpochs::default().end_offset_for(LeaderEpoch(0), Offset(3));
        assert_eq!(none, EpochEnd::UNDEFINED);
    }

    #[test]
    fn truncation_works_from_both_ends() {
        let mut cut = epochs(&[(2, 5), (4, 10), (7, 20)]);
        assert!(!cut.truncate_from_end(Offset(21)));
        assert!(cut.truncate_from_end(Offset(20)));
        assert_eq!(listed(&cut), [(2, 5), (4, 10)]);
        assert!(cut.truncate_from_start(Offset(12)));
        assert_eq!(listed(&cut), [(4, 12)]);
        assert!(!cut.truncate_from_start(Offset(11)));
    }

    #[test]
    fn the_file_is_the_text_kafka_writes() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("leader-epoch-checkpoint");
        let written = epochs(&[(0, 0), (3, 17)]);
        written.write(&path).expect("writable");
        assert_eq!(std::fs::read_to_string(&path).expect("readable"), "0\n2\n0 0\n3 17\n");
        assert_eq!(LeaderEpochs::read(&path).expect("valid"), written);
        std::fs::write(&path, "0\n1\n0 -4\n").expect("writable");
        assert!(LeaderEpochs::read(&path).is_err());
    }
}
