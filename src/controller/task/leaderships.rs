//! Who leads what, as it stands in ZooKeeper: how it is read, and how it is written under the fence of an office.
use std::collections::{BTreeMap, BTreeSet};

use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::fenced::{Committed, Fenced, Write};
use odradek_zookeeper::session::Stat;
use odradek_zookeeper::znode::partition_state::{self, PartitionState};

use crate::controller::active::{LeadershipRead, LeadershipWrite, WriteOutcome};
use crate::controller::state::LeaderAndIsr;
use crate::controller::task::cluster::{brokers, ids};
use crate::model::{BrokerId, ControllerEpoch, LeaderEpoch, PartitionEpoch, TopicPartition};

const RECOVERING: i32 = 1;

/// What an office needs of ZooKeeper to read and write leaderships. A simulation has a model of it.
pub(crate) trait StateZnodes: Sync {
    /// See [`Fenced::write_many`].
    fn write_many(&self, groups: &[Vec<Write>]) -> impl Future<Output = Result<Vec<Committed>, ZkError>> + Send;
    /// The states of partitions, in the order in which they are asked for.
    fn partition_states(
        &self,
        partitions: &[(&str, i32)],
    ) -> impl Future<Output = Vec<Result<Option<(PartitionState, Stat)>, ZkError>>> + Send;
    fn complain(&self, path: &str, what_follows: &str, why: &ZkError);
    fn mended(&self, path: &str);
}

impl StateZnodes for Fenced {
    async fn write_many(&self, groups: &[Vec<Write>]) -> Result<Vec<Committed>, ZkError> {
        Fenced::write_many(self, groups).await
    }

    async fn partition_states(
        &self,
        partitions: &[(&str, i32)],
    ) -> Vec<Result<Option<(PartitionState, Stat)>, ZkError>> {
        self.zk().partition_states(partitions).await
    }

    fn complain(&self, path: &str, what_follows: &str, why: &ZkError) {
        self.zk().complain(path, what_follows, why);
    }

    fn mended(&self, path: &str) {
        self.zk().mended(path);
    }
}

/// Passes on what ends the office; the rest concerns one znode and is complained of.
pub(super) fn noted<T>(
    znodes: &impl StateZnodes,
    path: &str,
    what_follows: &str,
    outcome: Result<T, ZkError>,
) -> Result<Option<T>, ZkError> {
    match outcome {
        Ok(value) => {
            znodes.mended(path);
            Ok(Some(value))
        }
        Err(error) if error.is_of_the_session() => Err(error),
        Err(error) => {
            znodes.complain(path, what_follows, &error);
            Ok(None)
        }
    }
}

/// Those of the partitions that have a leadership.
pub(crate) async fn read(
    znodes: &impl StateZnodes,
    names: Vec<TopicPartition>,
) -> Result<Vec<LeadershipRead>, ZkError> {
    let asked: Vec<(&str, i32)> = names.iter().map(|name| (&*name.topic, name.partition)).collect();
    let states = znodes.partition_states(&asked).await;
    let mut found = Vec::new();
    for (partition, state) in names.into_iter().zip(states) {
        let path = partition_state::path(&partition.topic, partition.partition);
        if let Some(Some((state, stat))) = noted(znodes, &path, "a partition is taken for new", state)? {
            found.push(LeadershipRead { partition, leadership: leadership(state, stat), mzxid: stat.mzxid });
        }
    }
    Ok(found)
}

/// A state that is gone is made anew: its partition goes on under its next leader epoch.
pub(crate) async fn write(
    znodes: &impl StateZnodes,
    writes: Vec<LeadershipWrite>,
) -> Result<Vec<(TopicPartition, WriteOutcome)>, ZkError> {
    let (new, known): (Vec<usize>, Vec<usize>) = (0..writes.len()).partition(|at| writes[*at].is_new);
    let groups: Vec<Vec<Write>> = known.iter().map(|at| vec![set_state(&writes[*at])]).collect();
    let mut committed: BTreeMap<usize, Committed> = known.into_iter().zip(znodes.write_many(&groups).await?).collect();
    let is_gone = |committed: &Committed| matches!(committed, Committed::Refused { error: ZkError::NoNode { .. }, .. });
    let gone =
        committed.iter().filter(|(at, committed)| is_gone(committed) && !writes[**at].is_by_leader).map(|(at, _)| *at);
    let created: Vec<usize> = new.into_iter().chain(gone).collect();
    let states: Vec<&LeadershipWrite> = created.iter().map(|at| &writes[*at]).collect();
    committed.extend(created.iter().copied().zip(create_states(znodes, &states).await?));
    outcomes(znodes, writes, committed.into_values().collect()).await
}

/// Two rounds, since the parent of all partitions has to exist before them.
async fn create_states(znodes: &impl StateZnodes, writes: &[&LeadershipWrite]) -> Result<Vec<Committed>, ZkError> {
    let topics: BTreeSet<&str> = writes.iter().map(|write| &*write.partition.topic).collect();
    let parents: Vec<Vec<Write>> =
        topics.into_iter().map(|topic| vec![created(partition_state::partitions_path(topic))]).collect();
    for (committed, parent) in znodes.write_many(&parents).await?.into_iter().zip(&parents) {
        match committed {
            Committed::Versions(_) | Committed::Refused { error: ZkError::NodeExists { .. }, .. } => {}
            // What is missing shows in the next round.
            Committed::Refused { error, .. } => {
                znodes.complain(parent[0].path(), "its topic gets no leaders", &error);
            }
        }
    }

    let groups: Vec<Vec<Write>> = writes.iter().map(|write| created_state(write, true)).collect();
    let mut committed = znodes.write_many(&groups).await?;
    // What an earlier controller left half done: the parent without the state.
    let is_half =
        |committed: &Committed| matches!(committed, Committed::Refused { index: 0, error: ZkError::NodeExists { .. } });
    let half: Vec<usize> = (0..writes.len()).filter(|at| is_half(&committed[*at])).collect();
    let groups: Vec<Vec<Write>> = half.iter().map(|at| created_state(writes[*at], false)).collect();
    for (at, now) in half.into_iter().zip(znodes.write_many(&groups).await?) {
        committed[at] = now;
    }
    Ok(committed)
}

async fn outcomes(
    znodes: &impl StateZnodes,
    writes: Vec<LeadershipWrite>,
    committed: Vec<Committed>,
) -> Result<Vec<(TopicPartition, WriteOutcome)>, ZkError> {
    let is_doubtful = |committed: &Committed| {
        matches!(committed, Committed::Refused { error: ZkError::BadVersion { .. } | ZkError::NodeExists { .. }, .. })
    };
    let asked: Vec<(&str, i32)> = writes
        .iter()
        .zip(&committed)
        .filter(|(_, committed)| is_doubtful(committed))
        .map(|(write, _)| (&*write.partition.topic, write.partition.partition))
        .collect();
    let mut read = znodes.partition_states(&asked).await.into_iter();
    let mut outcomes = Vec::with_capacity(writes.len());
    for (write, committed) in writes.iter().zip(committed) {
        let path = partition_state::path(&write.partition.topic, write.partition.partition);
        let current = if is_doubtful(&committed) { read.next() } else { None };
        let error = match (committed, current) {
            (Committed::Versions(versions), _) => {
                znodes.mended(&path);
                let version = versions.last().copied().unwrap_or(0);
                outcomes.push((write.partition.clone(), WriteOutcome::Written(PartitionEpoch(version))));
                continue;
            }
            (_, Some(Ok(current))) => {
                znodes.mended(&path);
                let outcome = match current {
                    // The reply to this very write was lost.
                    Some((current, stat)) if current == partition_state(&write.leadership) => {
                        WriteOutcome::Written(PartitionEpoch(stat.version))
                    }
                    current => WriteOutcome::Conflict(current.map(|(current, stat)| leadership(current, stat))),
                };
                outcomes.push((write.partition.clone(), outcome));
                continue;
            }
            (_, Some(Err(error))) | (Committed::Refused { error, .. }, None) => error,
        };
        if error.is_of_the_session() {
            return Err(error);
        }
        znodes.complain(&path, "the leadership of a partition is not written", &error);
        outcomes.push((write.partition.clone(), WriteOutcome::Failed));
    }
    Ok(outcomes)
}

fn leadership(state: PartitionState, stat: Stat) -> LeaderAndIsr {
    LeaderAndIsr {
        leader: Some(BrokerId(state.leader)).filter(|leader| leader.0 >= 0),
        leader_epoch: LeaderEpoch(state.leader_epoch),
        isr: brokers(state.isr),
        recovering: state.leader_recovery_state == RECOVERING,
        controller_epoch: ControllerEpoch(state.controller_epoch),
        partition_epoch: PartitionEpoch(stat.version),
    }
}

fn partition_state(leadership: &LeaderAndIsr) -> PartitionState {
    PartitionState {
        controller_epoch: leadership.controller_epoch.0,
        leader: leadership.leader.map_or(-1, |leader| leader.0),
        leader_epoch: leadership.leader_epoch.0,
        isr: ids(&leadership.isr),
        leader_recovery_state: if leadership.recovering { RECOVERING } else { 0 },
    }
}

fn created(path: String) -> Write {
    Write::Create { path, data: Vec::new() }
}

/// The writes of one partition, applied all or not at all.
fn created_state(write: &LeadershipWrite, with_parent: bool) -> Vec<Write> {
    let TopicPartition { topic, partition } = &write.partition;
    let data = partition_state(&write.leadership).encode();
    let state = Write::Create { path: partition_state::path(topic, *partition), data };
    match with_parent {
        true => vec![created(partition_state::partition_path(topic, *partition)), state],
        false => vec![state],
    }
}

fn set_state(write: &LeadershipWrite) -> Write {
    let TopicPartition { topic, partition } = &write.partition;
    Write::Set {
        path: partition_state::path(topic, *partition),
        data: partition_state(&write.leadership).encode(),
        expected_version: write.leadership.partition_epoch.0,
    }
}
