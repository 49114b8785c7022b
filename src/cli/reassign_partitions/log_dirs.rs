//! Moves between the log directories of brokers, which a reassignment may ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::{Duration, Instant};

use crate::cli::options::Stop;
use crate::cli::reassign_partitions::{failed, joined, plural, terse};
use crate::client::cluster::Cluster;
use crate::client::error::{ClientError, thrown};
use crate::model::{BrokerId, TopicPartition};
use crate::protocol::error_code::ErrorCode;

/// A replica by its broker; in the order in which Kafka's tool tells of them.
pub(super) type Replica = (i32, TopicPartition);

/// Where replicas are wanted.
pub(super) type Targets = BTreeMap<Replica, String>;

/// How often a broker is asked that does not have a replica yet.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// Where a replica is, beside where it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// In no directory that is online.
    Missing,
    Active {
        current: String,
        future: String,
    },
    NotMoving {
        current: String,
    },
}

impl State {
    fn is_done(&self) -> bool {
        matches!(self, State::NotMoving { .. })
    }
}

pub(super) fn are_done(states: &BTreeMap<Replica, State>) -> bool {
    states.values().all(State::is_done)
}

/// Asks the brokers where these replicas are.
pub(super) async fn states(cluster: &Cluster, targets: &Targets) -> Result<BTreeMap<Replica, State>, ClientError> {
    let mut by_broker: BTreeMap<i32, Vec<TopicPartition>> = BTreeMap::new();
    for (broker, name) in targets.keys() {
        by_broker.entry(*broker).or_default().push(name.clone());
    }
    let mut states = BTreeMap::new();
    for (broker, names) in by_broker {
        let dirs = cluster.describe_log_dirs(BrokerId(broker), Some(&names)).await?;
        let (mut current, mut future) = (BTreeMap::new(), BTreeMap::new());
        for (path, dir) in dirs.into_iter().filter(|(_, dir)| !dir.error.is_error()) {
            for (name, replica) in dir.replicas {
                let found = if replica.is_future { &mut future } else { &mut current };
                found.insert(name, path.clone());
            }
        }
        for name in names {
            let state = match (current.remove(&name), future.remove(&name)) {
                (None, _) => State::Missing,
                (Some(current), Some(future)) => State::Active { current, future },
                (Some(current), None) => State::NotMoving { current },
            };
            states.insert((broker, name), state);
        }
    }
    Ok(states)
}

/// A line for each.
pub(super) fn told(states: &BTreeMap<Replica, State>, targets: &Targets) -> String {
    let line = |(replica, state): (&Replica, &State)| {
        let (broker, name) = replica;
        let target = targets.get(replica).map_or("", String::as_str);
        match state {
            State::Missing => format!(
                "Partition {name} is not found in any live log dir on broker {broker}. There is likely an offline log \
                 directory on the broker."
            ),
            State::Active { future, .. } if future == target => {
                format!("Reassignment of replica {name}-{broker} is still in progress.")
            }
            State::Active { future, .. } => {
                format!("Partition {name} on broker {broker} is being moved to log dir {future} instead of {target}.")
            }
            State::NotMoving { current } if current == target => {
                format!("Reassignment of replica {name}-{broker} completed successfully.")
            }
            State::NotMoving { current } => {
                format!("Partition {name} on broker {broker} is not being moved from log dir {current} to {target}.")
            }
        }
    };
    states.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Has the brokers begin with the moves, each as soon as it has the replica.
pub(super) async fn execute(
    cluster: &Cluster,
    targets: &Targets,
    timeout: Duration,
    out: &mut dyn Write,
) -> Result<(), Stop> {
    let began = Instant::now();
    let mut pending = targets.clone();
    loop {
        for replica in begun(cluster, &pending).await? {
            let (broker, name) = &replica;
            let target = pending.remove(&replica).unwrap_or_default();
            writeln!(
                out,
                "Successfully started moving log directory to {target} for replica {name} with broker {broker} "
            )?;
        }
        if pending.is_empty() {
            return Ok(());
        }
        if began.elapsed() >= timeout {
            let what = plural(pending.len(), "log directory move");
            let names = joined(pending.keys().map(|(broker, name)| format!("{name}-{broker}")));
            return Err(terse(out, format!("Timed out before {what} could be started for: {names}")));
        }
        tokio::time::sleep(RETRY_EVERY).await;
    }
}

async fn begun(cluster: &Cluster, targets: &Targets) -> Result<BTreeSet<Replica>, Stop> {
    let mut by_broker: BTreeMap<i32, BTreeMap<TopicPartition, String>> = BTreeMap::new();
    for ((broker, name), target) in targets {
        by_broker.entry(*broker).or_default().insert(name.clone(), target.clone());
    }
    let mut begun = BTreeSet::new();
    for (broker, targets) in by_broker {
        for (name, code) in cluster.alter_replica_log_dirs(BrokerId(broker), &targets).await? {
            match code {
                ErrorCode::None => drop(begun.insert((broker, name))),
                // It is on its way to that broker.
                ErrorCode::ReplicaNotAvailable => {}
                code => {
                    let why = thrown(code, None);
                    return Err(failed(format!(
                        "Failed to alter dir for {name}-{broker}\nCaused by: java.util.concurrent.ExecutionException: {why}"
                    )));
                }
            }
        }
    }
    Ok(begun)
}

/// The replicas among these that move, and where they come from: there they stay if the moves are given up.
pub(super) fn to_be_cancelled(states: BTreeMap<Replica, State>) -> Targets {
    let moving = states.into_iter().filter_map(|(replica, state)| match state {
        State::Active { current, .. } => Some((replica, current)),
        State::Missing | State::NotMoving { .. } => None,
    });
    moving.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_replica_is_told_of_by_where_it_is_and_where_it_is_wanted() {
        let replica = |broker, partition| (broker, TopicPartition::new("t", partition));
        let state = |current: &str, future: Option<&str>| match future {
            Some(future) => State::Active { current: current.to_owned(), future: future.to_owned() },
            None => State::NotMoving { current: current.to_owned() },
        };
        let states = BTreeMap::from([
            (replica(2, 0), State::Missing),
            (replica(1, 0), state("/a", Some("/b"))),
            (replica(1, 1), state("/a", Some("/c"))),
            (replica(1, 2), state("/b", None)),
            (replica(1, 3), state("/a", None)),
        ]);
        let targets: Targets = states.keys().map(|replica| (replica.clone(), "/b".to_owned())).collect();
        assert_eq!(
            told(&states, &targets),
            "Reassignment of replica t-0-1 is still in progress.\n\
             Partition t-1 on broker 1 is being moved to log dir /c instead of /b.\n\
             Reassignment of replica t-2-1 completed successfully.\n\
             Partition t-3 on broker 1 is not being moved from log dir /a to /b.\n\
             Partition t-0 is not found in any live log dir on broker 2. There is likely an offline log directory on the \
             broker."
        );
        assert!(!are_done(&states));
        let cancelled = to_be_cancelled(states);
        assert_eq!(cancelled, [1, 0].map(|p| (replica(1, p), "/a".to_owned())).into());
    }
}
