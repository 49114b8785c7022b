//! What a group does when the fate of an append is known.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::coordinator::group::requests::{OffsetToCommit, Protocol};
use crate::coordinator::group::turn::ReplyTo;
use crate::coordinator::transaction::state::Producer;
use crate::model::{GenerationId, Offset};
use crate::record::build::TransactionOutcome;

/// What to do when the fate of an append is known.
#[derive(Debug)]
pub(super) enum PendingAppend {
    /// A generation without members: nobody waits for it.
    EmptyGeneration,
    /// The leader's assignment, for which `growth` bytes are counted with those of the members.
    Assignment { generation_id: GenerationId, assignments: HashMap<Arc<str>, Bytes>, growth: usize },
    /// A static member came back under a new id, without a rebalance.
    StaticReplacement(Box<StaticReplacement>),
    /// Committed offsets.
    Offsets(StoringOffsets),
}

#[derive(Debug)]
pub(super) struct StaticReplacement {
    pub(super) reply: ReplyTo,
    pub(super) generation_id: GenerationId,
    pub(super) old_id: Arc<str>,
    pub(super) new_id: Arc<str>,
    pub(super) old_protocols: Vec<Protocol>,
    pub(super) old_rebalance_timeout_ms: i32,
    pub(super) old_session_timeout_ms: i32,
    pub(super) old_leader: Option<Arc<str>>,
    pub(super) can_skip_assignment: bool,
}

/// Offsets on their way into the log.
#[derive(Debug)]
pub(super) struct StoringOffsets {
    pub(super) reply: ReplyTo,
    pub(super) offsets: Vec<OffsetToCommit>,
    /// Whose transaction decides whether they count.
    pub(super) transaction: Option<Producer>,
    /// What was heard meanwhile of ends of its transactions: where the marker stands, and what it says.
    pub(super) ended: Vec<(Offset, TransactionOutcome)>,
}

impl StoringOffsets {
    /// How the transaction has ended in which they were stored there, if it has.
    pub(super) fn outcome_at(&self, stored_at: Offset) -> Option<TransactionOutcome> {
        let behind = self.ended.iter().filter(|(marker, _)| *marker > stored_at);
        behind.min_by_key(|(marker, _)| *marker).map(|(_, outcome)| *outcome)
    }
}
