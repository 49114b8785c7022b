//! What the broker has done so far, by rooms: each room counts in a struct of its own, made here and handed to it.
//! They are for metrics; nothing is decided by them.

use std::sync::Arc;

use odradek_zookeeper::counters::ZooKeeperCounters;

use crate::api::counters::ApiCounters;
use crate::controller::counters::ControllerCounters;
use crate::coordinator::counters::{GroupCounters, TransactionCounters};
use crate::log::counters::LogCounters;
use crate::network::counters::NetworkCounters;
use crate::replica::counters::ReplicaCounters;

/// All counters of one broker. They count up from its start and are never set back, but for the few that say so.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) network: Arc<NetworkCounters>,
    pub(crate) api: Arc<ApiCounters>,
    pub(crate) groups: Arc<GroupCounters>,
    pub(crate) transactions: Arc<TransactionCounters>,
    pub(crate) log: Arc<LogCounters>,
    pub(crate) controller: Arc<ControllerCounters>,
    pub(crate) replica: Arc<ReplicaCounters>,
    pub(crate) zookeeper: Arc<ZooKeeperCounters>,
}
