//! What groups are asked, with the api version already turned into what it means, and what they answer.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::coordinator::group::error::GroupError;
use crate::coordinator::group::records::CommittedOffset;
use crate::coordinator::transaction::state::Producer;
use crate::model::GenerationId;

/// A way of assigning partitions that a member offers, with what it wants to tell the leader about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Protocol {
    pub(crate) name: Arc<str>,
    pub(crate) metadata: Bytes,
}

/// A protocol named twice counts once, with its first metadata: else its votes would outnumber the members.
pub(super) fn without_repeats(mut protocols: Vec<Protocol>) -> Vec<Protocol> {
    let mut seen = HashSet::with_capacity(protocols.len());
    protocols.retain(|p| seen.insert(Arc::clone(&p.name)));
    protocols
}

/// A JoinGroup, with the api version already turned into what it means.
#[derive(Clone, Debug)]
pub(crate) struct Join {
    /// Empty for somebody who is not a member yet.
    pub(crate) member_id: Arc<str>,
    /// The id to give such a somebody.
    pub(crate) new_member_id: Arc<str>,
    pub(crate) group_instance_id: Option<Arc<str>>,
    /// First hand out the member id, then let it join with it (KIP-394).
    pub(crate) require_known_member_id: bool,
    /// A returning static leader can be told to skip the assignment (KIP-814).
    pub(crate) can_skip_assignment: bool,
    pub(crate) client_id: Arc<str>,
    pub(crate) client_host: Arc<str>,
    pub(crate) rebalance_timeout_ms: i32,
    pub(crate) session_timeout_ms: i32,
    pub(crate) protocol_type: Arc<str>,
    pub(crate) protocols: Vec<Protocol>,
    pub(crate) reason: Option<Arc<str>>,
}

/// A SyncGroup.
#[derive(Clone, Debug)]
pub(crate) struct Sync {
    pub(crate) caller: Caller,
    /// Checked when given, as from version 5 on.
    pub(crate) protocol_type: Option<Arc<str>>,
    pub(crate) protocol_name: Option<Arc<str>>,
    /// Member id and assignment; only the leader sends any.
    pub(crate) assignments: Vec<(Arc<str>, Bytes)>,
}

/// Who speaks, and in which generation it believes to be.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) member_id: Arc<str>,
    pub(crate) group_instance_id: Option<Arc<str>>,
    pub(crate) generation_id: GenerationId,
}

/// One member that leaves. An empty member id means whoever holds the instance id.
#[derive(Clone, Debug)]
pub(crate) struct Leaving {
    pub(crate) member_id: Arc<str>,
    pub(crate) group_instance_id: Option<Arc<str>>,
    pub(crate) reason: Option<Arc<str>>,
}

/// The answer to JoinGroup. A refusal leaves the rest at its defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JoinAnswer {
    pub(crate) error: Option<GroupError>,
    pub(crate) member_id: Arc<str>,
    pub(crate) generation_id: GenerationId,
    pub(crate) protocol_type: Option<Arc<str>>,
    pub(crate) protocol_name: Option<Arc<str>>,
    pub(crate) leader: Option<Arc<str>>,
    pub(crate) skip_assignment: bool,
    /// Everyone, for the leader; nobody, for the others.
    pub(crate) members: Vec<JoinedMember>,
}

impl JoinAnswer {
    pub(crate) fn refused(member_id: Arc<str>, error: GroupError) -> JoinAnswer {
        JoinAnswer {
            error: Some(error),
            member_id,
            generation_id: GenerationId(-1),
            protocol_type: None,
            protocol_name: None,
            leader: None,
            skip_assignment: false,
            members: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JoinedMember {
    pub(crate) member_id: Arc<str>,
    pub(crate) group_instance_id: Option<Arc<str>>,
    pub(crate) metadata: Bytes,
}

/// The answer to SyncGroup.
pub(crate) type SyncAnswer = Result<Synced, GroupError>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Synced {
    pub(crate) protocol_type: Option<Arc<str>>,
    pub(crate) protocol_name: Option<Arc<str>>,
    pub(crate) assignment: Bytes,
}

/// One partition of an OffsetCommit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OffsetToCommit {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) committed: CommittedOffset,
}

/// Whether metadata may be stored beside an offset. The limit counts UTF-16 code units, of which no string has more
/// than it has bytes.
pub(crate) fn metadata_fits(metadata: &str, max: usize) -> bool {
    metadata.len() <= max || metadata.encode_utf16().count() <= max
}

/// An OffsetCommit, or a TxnOffsetCommit.
#[derive(Debug)]
pub(crate) struct Commit {
    /// Who commits; no member id and generation -1 for a client that assigns partitions itself.
    pub(crate) caller: Caller,
    pub(crate) offsets: Vec<OffsetToCommit>,
    /// Of a TxnOffsetCommit: whose transaction decides whether they count.
    pub(crate) transaction: Option<Producer>,
    /// The transaction's coordinator has been asked about it.
    pub(crate) must_be_verified: bool,
}

/// The answer to OffsetCommit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommitAnswer {
    /// The request as a whole, so every partition of it.
    Refused(GroupError),
    /// Every partition whose metadata is not too long; the others were not stored.
    Stored(Result<(), GroupError>),
}
