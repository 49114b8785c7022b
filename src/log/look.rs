//! Looks at segments whose files are closed and whose indexes nobody has read yet. What memory does not know of them is opened
//! and read without the log's lock: nobody who appends waits behind a disk that does not answer a reader of old records.

use std::path::Path;

use super::error::LogError;
use super::files::{self, from_memory};
use super::read::ATTEMPTS_MAX;
use super::segment::Segment;
use super::{Log, State};
use crate::model::Offset;

impl Log {
    /// What `look` finds at the segment that `choose` names, and what `choose` said with it. `look` only reads. A thread that
    /// may wait looks at a twin of a segment that is not in memory, without the lock; what the twin has learned the segment
    /// knows from then on.
    pub(super) fn look<C, T>(
        &self,
        mut choose: impl FnMut(&State) -> Result<Option<(usize, C)>, LogError>,
        look: impl Fn(&C, &mut Segment, &Path) -> Result<T, LogError>,
    ) -> Result<Option<(C, T)>, LogError> {
        let may_wait = files::may_wait();
        let mut attempt = 1;
        loop {
            let mut state = self.serving()?;
            let Some((at, chosen)) = choose(&state)? else { return Ok(None) };
            let State { segments, dir, truncations, rebuilds, .. } = &mut *state;
            let segment = &mut segments[at];
            // Whoever is overtaken again and again, or has found something missing, waits with the lock.
            let is_last = attempt == ATTEMPTS_MAX;
            let found = match may_wait && !is_last {
                true => from_memory(|| look(&chosen, segment, dir)),
                false => look(&chosen, segment, dir),
            };
            if !(may_wait && !is_last && found.as_ref().is_err_and(LogError::would_wait)) {
                return found.map(|found| Some((chosen, found)));
            }
            let (mut twin, dir, changes) = (segment.clone(), dir.clone(), (*truncations, *rebuilds));
            let replacements = self.replacements();
            drop(state);
            let found = look(&chosen, &mut twin, &dir);
            let mut state = self.locked();
            // A log that was deleted meanwhile says so itself.
            let is_as_before = !state.is_closed
                && (state.truncations, state.rebuilds) == changes
                && self.replacements() == replacements;
            let place = state.segments.binary_search_by_key(&twin.base_offset(), Segment::base_offset);
            match (found, place) {
                (Ok(found), _) if is_as_before => {
                    if let Ok(at) = place {
                        state.segments[at].learn(twin);
                    }
                    return Ok(Some((chosen, found)));
                }
                // Believed of a disk, not of what may be at a file just now.
                (Err(error), Ok(_)) if is_as_before && error.says_missing() => attempt = ATTEMPTS_MAX,
                (Err(error), Ok(_)) if is_as_before => return Err(error),
                // Its files may have been another's, or were deleted.
                _ => attempt += 1,
            }
        }
    }

    /// What `look` finds at each segment, until `seen` has seen enough and says so. A segment for which it finds nothing has
    /// wrong indexes: they are rebuilt, and it looks again.
    pub(super) fn look_at_each<T>(
        &self,
        look: impl Fn(&mut Segment, &Path) -> Result<Option<T>, LogError>,
        mut seen: impl FnMut(Offset, T) -> bool,
    ) -> Result<(), LogError> {
        let mut last = None;
        loop {
            let choose = |state: &State| {
                let at = state.segments.partition_point(|segment| Some(segment.base_offset()) <= last);
                Ok(state.segments.get(at).map(|segment| (at, segment.base_offset())))
            };
            let Some((segment, found)) = self.look(choose, |_, segment, dir| look(segment, dir))? else {
                return Ok(());
            };
            match found {
                None => self.rebuild_indexes(segment)?,
                Some(found) => {
                    if seen(segment, found) {
                        return Ok(());
                    }
                    last = Some(segment);
                }
            }
        }
    }
}
