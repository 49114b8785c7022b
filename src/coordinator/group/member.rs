//! One member of a group.

use std::sync::Arc;

use bytes::Bytes;

use crate::coordinator::group::records::StoredMember;
use crate::coordinator::group::requests::Protocol;
use crate::coordinator::group::turn::ReplyTo;

#[derive(Debug)]
pub(crate) struct Member {
    pub(super) group_instance_id: Option<Arc<str>>,
    pub(super) client_id: Arc<str>,
    pub(super) client_host: Arc<str>,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) session_timeout_ms: i32,
    /// In the member's order of preference, no name twice.
    pub(super) protocols: Vec<Protocol>,
    pub(super) assignment: Bytes,
    /// The JoinGroup that waits for the join phase to end.
    pub(super) awaiting_join: Option<ReplyTo>,
    /// The SyncGroup that waits for the leader's assignment.
    pub(super) awaiting_sync: Option<ReplyTo>,
    /// Joined for the first time and has not been told so yet: it cannot send heartbeats.
    pub(super) is_new: bool,
}

/// A member without its texts: the structures, its places in maps, its timer and its waiting request.
pub(super) const MEMBER_BYTES: usize = 768;
const PROTOCOL_BYTES: usize = 96;

/// What protocols take in memory, about.
pub(super) fn protocol_bytes(protocols: &[Protocol]) -> usize {
    protocols.iter().map(|protocol| PROTOCOL_BYTES + protocol.name.len() + protocol.metadata.len()).sum()
}

impl Member {
    /// What the member takes in memory, about.
    pub(super) fn bytes(&self, member_id: &str) -> usize {
        let instance = self.group_instance_id.as_ref().map_or(0, |instance| instance.len());
        let texts = member_id.len() + instance + self.client_id.len() + self.client_host.len();
        MEMBER_BYTES + texts + protocol_bytes(&self.protocols) + self.assignment.len()
    }

    pub(super) fn is_static(&self) -> bool {
        self.group_instance_id.is_some()
    }

    /// Empty for a protocol that the member does not offer.
    pub(super) fn metadata(&self, protocol_name: &str) -> Bytes {
        self.protocols.iter().find(|p| &*p.name == protocol_name).map(|p| p.metadata.clone()).unwrap_or_default()
    }

    /// Whether the member offers exactly this: same protocols, same order, same bytes.
    pub(super) fn matches(&self, protocols: &[Protocol]) -> bool {
        self.protocols == protocols
    }

    /// The first of its protocols that `is_candidate` accepts.
    pub(super) fn vote(&self, is_candidate: impl Fn(&str) -> bool) -> Option<&Arc<str>> {
        self.protocols.iter().map(|p| &p.name).find(|name| is_candidate(name))
    }

    pub(super) fn stored(&self, member_id: &Arc<str>, protocol_name: &str, assignment: Bytes) -> StoredMember {
        StoredMember {
            member_id: Arc::clone(member_id),
            group_instance_id: self.group_instance_id.clone(),
            client_id: Arc::clone(&self.client_id),
            client_host: Arc::clone(&self.client_host),
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            session_timeout_ms: self.session_timeout_ms,
            subscription: self.metadata(protocol_name),
            assignment,
        }
    }
}
