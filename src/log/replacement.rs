//! Puts a compacted segment in the place of those that it was made from.
//!
//! Its files are called `.cleaned` while they are written, `.swap` once they are complete and on the disk: from then on a
//! start, ours or a JVM's, finishes what a crash interrupted, and before it undoes it (`loading.rs`). Then the old files make
//! way and the new ones get their names. The directory is fsynced between these steps, for a disk may keep one rename and
//! lose another that came before it.
//!
//! Memory changes before the files do: whoever begins to read finds the new segment with its file open and its indexes in
//! memory, whatever the names are; whoever has begun sees by `Log::replacements` that its indexes may be others than it
//! looked for, and begins again. A move to another directory counts as one.
//! Source: kafka 3.9 core/.../log/LocalLog.scala (replaceSegments).

use std::path::PathBuf;

use super::error::{IoContext, LogError};
use super::file_names::{self, offset_file, with_suffix};
use super::segment::Segment;
use super::{Log, State, files};
use crate::model::Offset;

/// Files called `.cleaned`, complete and on the disk, and the segment that they will be.
pub(crate) struct Cleaned {
    pub segment: Segment,
    /// Behind the last record of any batch in it.
    pub next_offset: Offset,
    /// Without the suffix.
    pub paths: Vec<PathBuf>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replaced {
    Yes,
    /// The log is no longer what the segment was made from. Its files are gone.
    Overtaken,
}

impl Log {
    /// `sources` are the segments from which the new one was made, by base offset; it has the first one's. `cuts` is what the
    /// log's count was before they were read. After an error that does not condemn the log, everything is as it was.
    pub(crate) fn replace_segments(
        &self,
        cleaned: Cleaned,
        sources: &[Offset],
        cuts: u64,
        now_ms: i64,
    ) -> Result<Replaced, LogError> {
        let _renaming = self.begin_renaming();
        let Cleaned { segment, next_offset, paths } = cleaned;
        let dir = match self.serving() {
            // Files that were written for a directory which the log has left are of no use where it is now.
            Ok(state)
                if state.position_of_sources(sources, cuts).is_some()
                    && paths.iter().all(|path| path.parent() == Some(&state.dir)) =>
            {
                state.dir.clone()
            }
            state => {
                drop(state);
                remove_cleaned(&paths);
                return Ok(Replaced::Overtaken);
            }
        };
        // Before anything has changed: later there may be no descriptor left, and the change would stay half done.
        let opened = files::open(&dir).doing("open", &dir);
        let opened = self.observe(opened).inspect_err(|_| remove_cleaned(&paths))?;
        let sync_dir = || files::sync(&opened).doing("fsync", &dir);
        let swapped = (|| {
            sync_dir()?;
            for path in &paths {
                let (cleaned, swap) = (with_suffix(path, file_names::CLEANED), with_suffix(path, file_names::SWAP));
                files::rename(&cleaned, &swap).doing("rename", &cleaned)?;
            }
            sync_dir()
        })();
        let undo = || {
            // What the next start finds of these would replace what the log is by then.
            self.observe_change(remove_all(&paths, file_names::SWAP).and_then(|()| sync_dir()))?;
            remove_cleaned(&paths);
            Ok(())
        };
        if let Err(error) = swapped {
            undo()?;
            return self.observe(Err(error));
        }
        let mut state = self.locked();
        let position = if state.is_closed { None } else { state.position_of_sources(sources, cuts) };
        let Some(at) = position else {
            drop(state);
            undo()?;
            return Ok(Replaced::Overtaken);
        };
        let base_offset = segment.base_offset();
        let old: Vec<Segment> = state.segments.splice(at..at + sources.len(), [segment]).collect();
        self.replacements.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        let due = state.due(now_ms);
        let latest_snapshot = state.snapshots.latest();
        let mut removed = Vec::with_capacity(old.len());
        for segment in old {
            let mut paths = segment.files(&dir);
            if segment.base_offset() != base_offset && Some(segment.base_offset()) != latest_snapshot {
                paths.extend(state.snapshots.forget(&dir, segment.base_offset()));
            }
            removed.push((segment.base_offset(), paths));
        }
        drop(state);

        let renamed = (|| {
            for (old_base, files) in removed {
                super::truncation::Removed(files).rename(&self.parent(), due)?;
                // A start would take one that the new segment does not reach for a part of the log. Where the oldest go
                // first, none is there without what came after it and may have deleted its keys.
                if old_base >= next_offset {
                    sync_dir()?;
                }
            }
            sync_dir()?;
            for path in &paths {
                let swap = with_suffix(path, file_names::SWAP);
                files::rename(&swap, path).doing("rename", &swap)?;
            }
            sync_dir()
        })();
        self.observe_change(renamed)?;
        let mut state = self.locked();
        if let Ok(at) = state.segments.binary_search_by_key(&base_offset, Segment::base_offset) {
            state.segments[at].has_taken_place();
        }
        Ok(Replaced::Yes)
    }
}

impl State {
    /// Where these segments are, if they are all there and as they were, and none is the active one.
    fn position_of_sources(&self, sources: &[Offset], cuts: u64) -> Option<usize> {
        let first = sources.first()?;
        let at = self.segments.binary_search_by_key(first, Segment::base_offset).ok()?;
        let there = self.segments[at..].iter().map(Segment::base_offset);
        let are_there = there.take(sources.len()).eq(sources.iter().copied());
        (are_there && cuts == self.cuts && at + sources.len() < self.segments.len()).then_some(at)
    }
}

/// The files of a segment, without a suffix.
pub(crate) fn paths_of(dir: &std::path::Path, base_offset: Offset, has_txn_index: bool) -> Vec<PathBuf> {
    let mut extensions = vec![file_names::LOG, file_names::OFFSET_INDEX, file_names::TIME_INDEX];
    if has_txn_index {
        extensions.push(file_names::TXN_INDEX);
    }
    extensions.iter().map(|extension| offset_file(dir, base_offset, extension)).collect()
}

/// What cannot be removed now, the next start removes, or the next attempt.
pub(crate) fn remove_cleaned(paths: &[PathBuf]) {
    if let Err(error) = remove_all(paths, file_names::CLEANED) {
        log::warn!("{error}");
    }
}

fn remove_all(paths: &[PathBuf], suffix: &str) -> Result<(), LogError> {
    // The log last: indexes that are left without it would take the place of sound ones.
    paths.iter().rev().map(|path| with_suffix(path, suffix)).try_for_each(|path| {
        let removed = files::remove_if_exists(&path);
        removed.doing("delete", &path)
    })
}
