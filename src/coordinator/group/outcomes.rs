//! The fate of an append, told to what waits for it.

use crate::coordinator::group::pending::PendingAppend;
use crate::coordinator::group::state::Group;
use crate::coordinator::group::turn::{AppendId, Turn};
use crate::coordinator::topic_log::AppendFailure;
use crate::model::Offset;

impl Group {
    /// The fate of an append is known. On success, the offset of its first record.
    pub(crate) fn appended(&mut self, append: AppendId, outcome: Result<Offset, AppendFailure>, turn: &mut Turn<'_>) {
        match self.appending.remove(&append) {
            Some(PendingAppend::Assignment { generation_id, assignments, growth }) => {
                self.member_bytes -= growth;
                self.assignment_stored(generation_id, &assignments, outcome, turn);
            }
            Some(PendingAppend::StaticReplacement(replacement)) => {
                self.static_replacement_stored(*replacement, outcome, turn);
            }
            Some(PendingAppend::Offsets(storing)) => self.offsets_stored(storing, outcome, turn),
            Some(PendingAppend::EmptyGeneration) => {
                if let Err(failure) = outcome {
                    // After a crash the last generation with members would come back, and time out.
                    log::warn!("Failed to write empty metadata for group {}: {failure}", self.group_id);
                }
            }
            // Its group was deleted or handed over, and comes back under the same name.
            None => {}
        }
    }
}
