//! Which producer snapshots a partition has, and when to write another.
//! Source: kafka 3.9 storage/.../log/ProducerStateManager.java.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::error::{Condemned, IoContext, LogError};
use super::file_names::{self, offset_file};
use super::files;
use super::producer_snapshot;
use super::producer_state::Producers;
use crate::model::Offset;

pub(crate) fn path(dir: &Path, offset: Offset) -> PathBuf {
    offset_file(dir, offset, file_names::SNAPSHOT)
}

#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    offsets: BTreeSet<Offset>,
    /// State up to here needs no snapshot.
    last: Offset,
    /// Appended since.
    bytes_since: u64,
}

impl Snapshots {
    pub fn found(offsets: BTreeSet<Offset>) -> Snapshots {
        Snapshots { offsets, last: Offset(0), bytes_since: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    pub fn latest(&self) -> Option<Offset> {
        self.offsets.last().copied()
    }

    pub fn between(&self, from: Offset, until: Offset) -> impl Iterator<Item = Offset> {
        self.offsets.range(from..=until).copied()
    }

    pub fn set_last(&mut self, offset: Offset) {
        self.last = offset;
    }

    /// Writes the state as of its end, unless nothing happened since the last snapshot.
    pub fn take(&mut self, dir: &Path, producers: &Producers) -> Result<(), LogError> {
        let offset = producers.end_offset();
        if offset > self.last {
            producer_snapshot::write(&path(dir, offset), producers)?;
            self.offsets.insert(offset);
            self.last = offset;
            self.bytes_since = 0;
        }
        Ok(())
    }

    pub fn note_appended(&mut self, bytes: u32) {
        self.bytes_since = self.bytes_since.saturating_add(u64::from(bytes));
    }

    /// For a segment that begins, unless that would write more than what was appended since the last snapshot: a log of
    /// many producers and small segments would consist of little else. A restart then replays so much more. The newest
    /// one that there is must not lie below `recent`, lest it go with the oldest segments before the next is taken: then
    /// a crash would forget all producers whose records have gone.
    pub fn take_at_roll(&mut self, dir: &Path, producers: &Producers, recent: Offset) -> Result<(), LogError> {
        let has_recent = self.latest().is_some_and(|latest| latest >= recent);
        if has_recent && self.bytes_since < producer_snapshot::len(producers) as u64 {
            return Ok(());
        }
        self.take_if_possible(dir, producers)
    }

    /// As `take`, but does without where that is all: what a restart cannot read it replays from an older snapshot.
    pub fn take_if_possible(&mut self, dir: &Path, producers: &Producers) -> Result<(), LogError> {
        match self.take(dir, producers) {
            Err(error) if error.condemns() == Condemned::Nothing => {
                log::warn!("{error}; the next start replays more");
                // Half of one would be found corrupt.
                let _ = files::remove_if_exists(&path(dir, producers.end_offset()));
                Ok(())
            }
            taken => taken,
        }
    }

    /// Removes those for which `keep` does not hold.
    pub fn retain(&mut self, dir: &Path, keep: impl Fn(Offset) -> bool) -> Result<(), LogError> {
        let dropped: Vec<Offset> = self.offsets.iter().copied().filter(|offset| !keep(*offset)).collect();
        for offset in dropped {
            self.remove(dir, offset)?;
        }
        Ok(())
    }

    pub fn remove(&mut self, dir: &Path, offset: Offset) -> Result<(), LogError> {
        let path = path(dir, offset);
        files::remove_if_exists(&path).doing("delete", &path)?;
        self.offsets.remove(&offset);
        Ok(())
    }

    /// Gives up the snapshot of a segment that is being deleted; returns its file.
    pub fn forget(&mut self, dir: &Path, offset: Offset) -> Option<PathBuf> {
        self.offsets.remove(&offset).then(|| path(dir, offset))
    }

    /// Removes snapshots that belong to no segment, but for the newest if it lies behind the last segment's start:
    /// that one a clean shutdown left.
    pub fn remove_strays(&mut self, dir: &Path, base_offsets: &[Offset]) -> Result<(), LogError> {
        let newest_stray = self.offsets.iter().copied().rfind(|offset| base_offsets.binary_search(offset).is_err());
        let last_base = base_offsets.last().copied().unwrap_or(Offset(0));
        let kept = newest_stray.filter(|offset| *offset >= last_base);
        self.retain(dir, |offset| base_offsets.binary_search(&offset).is_ok() || Some(offset) == kept)
    }
}
