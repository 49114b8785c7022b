//! ISR changes without a request for them, as leaders make them below `inter.broker.protocol.version` 2.7-IV2: they write
//! the state of the partition themselves, and tell the controller later of all that they have written.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/ZkAlterPartitionManager.scala,
//! core/src/main/scala/kafka/utils/ReplicationUtils.scala.
//!
//! A write that failed is tried again as it is, though whoever is to join may have gone meanwhile, and come back without what he
//! had: in these protocols no fetch says under which registration it was made, so there is nothing to compare the present one
//! with. It must happen within this broker's own session: once the servers have ended that, whichever controller sees it decides
//! anew, and the write finds another version.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::session::ZooKeeper;
use odradek_zookeeper::znode::isr_change;
use odradek_zookeeper::znode::partition_state::{self, PartitionState};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::model::{BrokerId, PartitionEpoch, TopicPartition};
use crate::replica::isr_changes::{AfterAnswer, IsrAnswer, IsrProposal};
use crate::replica::replica_manager::ReplicaManager;

const CHECK_INTERVAL: Duration = Duration::from_millis(2_500);
/// So long the controller is not told, for more may come.
const LINGER: Duration = Duration::from_secs(5);
/// And no longer than this.
const DELAY_MAX: Duration = Duration::from_secs(60);
/// Before what ZooKeeper refused is tried again: nothing tells when it is worth a try.
const RETRY_BACKOFF: Duration = Duration::from_secs(1);

/// What was written and the controller has not been told of.
struct Untold {
    partitions: BTreeSet<TopicPartition>,
    last_change: Instant,
    last_told: Instant,
}

impl Untold {
    fn new(now: Instant) -> Untold {
        Untold { partitions: BTreeSet::new(), last_change: now, last_told: now }
    }

    fn changed(&mut self, partition: TopicPartition, now: Instant) {
        self.partitions.insert(partition);
        self.last_change = now;
    }

    /// Whether it is time to tell: nothing has come for a while, or something has waited for long.
    fn is_due(&self, now: Instant) -> bool {
        let since = |then| now.saturating_duration_since(then);
        !self.partitions.is_empty() && (since(self.last_change) > LINGER || since(self.last_told) > DELAY_MAX)
    }

    fn told(&mut self, now: Instant) {
        self.partitions.clear();
        self.last_told = now;
    }
}

/// Writes for all leaders of this broker until shutdown.
pub(crate) async fn run(replicas: Arc<ReplicaManager>, zookeeper: ZooKeeper, mut shutdown: watch::Receiver<bool>) {
    tokio::select! {
        () = write(&replicas, &zookeeper) => {}
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
}

/// Returns when the client is closed.
async fn write(replicas: &Arc<ReplicaManager>, zookeeper: &ZooKeeper) {
    let mut untold = Untold::new(Instant::now());
    let mut checks = interval(CHECK_INTERVAL);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // What failed waits by itself: it may be one znode that cannot be written.
    let mut failed: Vec<IsrProposal> = Vec::new();
    let mut retry_at = Instant::now();
    let mut beside = JoinSet::new();
    loop {
        tokio::select! {
            proposals = replicas.next_isr_changes(&mut beside) => {
                for (proposal, written) in write_all(zookeeper, replicas.broker(), proposals).await {
                    let Some(answer) = answer(zookeeper, &proposal, written) else { return };
                    if matches!(answer, IsrAnswer::InForce { .. }) {
                        untold.changed(proposal.partition.clone(), Instant::now());
                    }
                    if replicas.isr_answered(&proposal, answer, &mut beside) == AfterAnswer::AskAgain {
                        if failed.is_empty() {
                            retry_at = Instant::now() + RETRY_BACKOFF;
                        }
                        failed.push(proposal);
                    }
                }
            }
            () = sleep_until(retry_at), if !failed.is_empty() => {
                replicas.isr_changes().put_back(std::mem::take(&mut failed));
            }
            _ = checks.tick() => {
                if !untold.is_due(Instant::now()) {
                    continue;
                }
                let partitions: Vec<(&str, i32)> =
                    untold.partitions.iter().map(|name| (&*name.topic, name.partition)).collect();
                match zookeeper.notify_isr_changes(&partitions).await {
                    Ok(()) => {
                        zookeeper.mended(isr_change::ROOT);
                        untold.told(Instant::now());
                    }
                    Err(ZkError::Closed) => return,
                    // The next check tells.
                    Err(ZkError::SessionExpired) => {}
                    Err(why) => {
                        let what = "the controller hears of changed ISRs once that is possible";
                        zookeeper.complain(isr_change::ROOT, what, &why);
                    }
                }
            }
        }
    }
}

type Written = Result<PartitionEpoch, ZkError>;

/// Each if its state is still the one that the leader knows.
async fn write_all(
    zookeeper: &ZooKeeper,
    broker: BrokerId,
    proposals: Vec<IsrProposal>,
) -> Vec<(IsrProposal, Written)> {
    zookeeper
        .pipelined(proposals, |proposal| {
            Box::pin(async move {
                let written = write_one(zookeeper, broker, &proposal).await;
                (proposal, written)
            })
        })
        .await
}

async fn write_one(zookeeper: &ZooKeeper, broker: BrokerId, proposal: &IsrProposal) -> Written {
    let TopicPartition { topic, partition } = &proposal.partition;
    let state = PartitionState {
        controller_epoch: proposal.controller_epoch.0,
        leader: broker.0,
        leader_epoch: proposal.leader_epoch.0,
        isr: proposal.isr.iter().map(|member| member.0).collect(),
        leader_recovery_state: 0,
    };
    let path = partition_state::path(topic, *partition);
    match zookeeper.set(&path, &state.encode(), proposal.partition_epoch.0).await {
        Ok(stat) => Ok(PartitionEpoch(stat.version)),
        Err(refused @ ZkError::BadVersion { .. }) => {
            let mut read = zookeeper.partition_states(&[(topic, *partition)]).await;
            match read.pop() {
                // The reply to this very write was lost.
                Some(Ok(Some((current, stat)))) if current == state => Ok(PartitionEpoch(stat.version)),
                Some(Err(error)) => Err(error),
                _ => Err(refused),
            }
        }
        Err(error) => Err(error),
    }
}

/// `None` when the client is closed.
fn answer(zookeeper: &ZooKeeper, proposal: &IsrProposal, written: Written) -> Option<IsrAnswer> {
    let path = partition_state::path(&proposal.partition.topic, proposal.partition.partition);
    match written {
        Ok(partition_epoch) => {
            zookeeper.mended(&path);
            let IsrProposal { leader_epoch, isr, .. } = proposal;
            Some(IsrAnswer::InForce { leader_epoch: *leader_epoch, partition_epoch, isr: isr.clone() })
        }
        Err(ZkError::Closed) => None,
        Err(ZkError::SessionExpired) => Some(IsrAnswer::Failed),
        // The controller has decided something else, and is about to tell.
        Err(ZkError::BadVersion { .. } | ZkError::NoNode { .. }) => Some(IsrAnswer::Unclear),
        Err(why) => {
            zookeeper.complain(&path, "the ISR of a partition is not written", &why);
            Some(IsrAnswer::Failed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_controller_is_told_after_a_pause_and_of_what_keeps_changing_after_a_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut untold = Untold::new(start);
        assert!(!untold.is_due(at(100)), "there is nothing to tell");
        untold.changed(TopicPartition::new("t", 0), at(10));
        assert!(!untold.is_due(at(15)));
        assert!(untold.is_due(at(16)));
        for second in (14..=60).step_by(4) {
            untold.changed(TopicPartition::new("t", 1), at(second));
            assert!(!untold.is_due(at(second + 2)), "more keeps coming");
        }
        assert!(untold.is_due(at(61)));
        untold.told(at(61));
        assert!(!untold.is_due(at(200)));
        untold.changed(TopicPartition::new("t", 0), at(200));
        assert!(untold.is_due(at(201)), "it is long ago that the controller was told");
    }
}
