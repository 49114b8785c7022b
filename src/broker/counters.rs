//! What the broker has done so far, by rooms: each room counts in a struct of its own, made here and handed to it.
//! Metrics read them; nothing else does.

use std::sync::Arc;

use crate::api::counters::ApiCounters;
use crate::coordinator::counters::GroupCounters;
use crate::network::counters::NetworkCounters;

/// All counters of one broker. They count up from its start and are never set back.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) network: Arc<NetworkCounters>,
    pub(crate) api: Arc<ApiCounters>,
    pub(crate) groups: Arc<GroupCounters>,
}
