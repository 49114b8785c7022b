//! The topics that brokers create and write themselves.

/// The offsets and the members of consumer groups.
pub const GROUP_METADATA_TOPIC: &str = "__consumer_offsets";
/// The state of transactional producers.
pub const TRANSACTION_STATE_TOPIC: &str = "__transaction_state";

/// Clients see the flag in Metadata replies; the tools leave these topics out when asked to.
pub fn is_internal_topic(topic: &str) -> bool {
    matches!(topic, GROUP_METADATA_TOPIC | TRANSACTION_STATE_TOPIC)
}
