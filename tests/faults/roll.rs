//! One broker gives way to another, of the same kind or not, as README tells it; and what Java's clients see of it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use crate::cluster::{Cluster, Partition};
use crate::history::{Did, Event, History};
use crate::support::{Kind, PATIENCE, eventually};
use crate::until_progress;

/// Compaction runs all the time, in little memory.
pub const SETTINGS: &str = "\
log.cleaner.enable=true
log.cleaner.backoff.ms=1000
log.cleaner.dedupe.buffer.size=4000000
";

/// Its members never leave.
const GROUP: &str = "trio";
const MEMBERS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With controlled shutdown.
    Stopped,
    /// kill -9.
    Killed,
}

/// Stops one, and starts the other with the same settings, directories and ZooKeeper. Before ours, `odradek preflight` is
/// asked until it has nothing against a stop, as an operator does.
pub fn give_way(cluster: &mut Cluster, history: &mut History, id: usize, to: Kind, end: End, away: Duration) {
    if to == Kind::Odradek {
        eventually(PATIENCE, &format!("preflight lets broker {id} stop"), || {
            let mut preflight = Command::new(env!("CARGO_BIN_EXE_odradek"));
            let output = preflight.arg("preflight").arg(&cluster.brokers[id].config).output().expect("it runs");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(matches!(output.status.code(), Some(0 | 1)), "{said}");
            // A busy machine makes replicas lag for a moment.
            let is_unwise = said.contains("takes them offline") || said.contains("under-replicated now");
            if is_unwise { Err(said) } else { Ok(()) }
        });
    }
    match end {
        End::Stopped => cluster.stop(id),
        End::Killed => cluster.brokers[id].kill(),
    }
    std::thread::sleep(away); // How long nobody is there may matter.
    cluster.kinds[id] = to;
    cluster.start_brokers();
    cluster.until_whole();
    until_progress(cluster, history);
}

/// Waits until each member of the group has its share; gives the generation. From then on there is no reason for another.
pub fn until_group_is_whole(cluster: &Cluster, history: &mut History) -> i64 {
    let all: BTreeSet<Partition> = cluster.client_partitions().into_iter().collect();
    eventually(PATIENCE, "all members of the group have their shares", || {
        history.follow();
        let mut shares: BTreeMap<i64, BTreeMap<&Partition, &str>> = BTreeMap::new();
        for event in &history.events {
            if let Did::Assigned { generation: Some(generation), .. } = &event.did {
                shares.entry(*generation).or_default().insert(&event.partition, &event.client);
            }
        }
        let (generation, shares) = shares.pop_last().ok_or("nobody has any")?;
        let members: BTreeSet<&str> = shares.values().copied().collect();
        let is_whole = members.len() == MEMBERS && shares.keys().copied().eq(&all);
        if is_whole { Ok(generation) } else { Err(format!("generation {generation}: {shares:?}")) }
    })
}

pub fn assert_no_rebalance_after(generation: i64, history: &History) {
    for event in &history.events {
        if let Did::Assigned { generation: Some(later), .. } = event.did {
            assert!(later <= generation, "{GROUP} was whole in generation {generation}, and rebalanced: {event:?}");
        }
    }
}

/// For how long a client was told nothing of what it waits for all the time, at the most and in seconds.
pub fn worst_gaps(events: &[Event]) -> BTreeMap<String, f64> {
    let mut last: BTreeMap<(String, Option<&Partition>), f64> = BTreeMap::new();
    let mut worst: BTreeMap<String, f64> = BTreeMap::new();
    for event in events {
        let client = event.client.trim_end_matches(|last: char| last == '-' || last.is_ascii_digit());
        let (what, of) = match event.did {
            Did::Acknowledged { .. } => ("is acknowledged", Some(&event.partition)),
            Did::Consumed { .. } => ("reads", Some(&event.partition)),
            Did::Committed { .. } => ("commits", Some(&event.partition)),
            Did::Done if client == "admin" => ("gets done", None),
            _ => continue,
        };
        let what = format!("{client} {what}");
        let before = last.insert((what.clone(), of), event.at);
        let gap = worst.entry(what).or_default();
        *gap = gap.max(event.at - before.unwrap_or(event.at));
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_that_of_one_partition() {
        let at = |at: f64, client: &str, partition: i32, did: Did| Event {
            at,
            client: client.into(),
            partition: ("orders".into(), partition),
            did,
        };
        let acknowledged = Did::Acknowledged { sequence: 0, offset: 0 };
        let committed = Did::Committed { group: "trio".into(), offset: 0 };
        let events = [
            at(0.0, "five", 0, acknowledged.clone()),
            at(1.0, "five", 1, acknowledged.clone()),
            at(2.5, "five", 0, acknowledged.clone()),
            at(3.0, "five", 1, acknowledged),
            at(3.0, "trio-0", 0, committed.clone()),
            at(4.0, "trio-2", 0, committed.clone()),
            at(4.0, "trio-2", 1, committed),
        ];
        let expected = [("five is acknowledged".to_owned(), 2.5), ("trio commits".to_owned(), 1.0)];
        assert_eq!(worst_gaps(&events), BTreeMap::from(expected));
    }
}
