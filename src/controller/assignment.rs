//! Which brokers get the replicas of new partitions, spread evenly over brokers and racks.
//! Source: kafka 3.9.0-rc3 server-common/src/main/java/org/apache/kafka/admin/AdminUtils.java.
use std::collections::{BTreeMap, BTreeSet};

use crate::controller::topic_validation::TopicError;
use crate::model::BrokerId;

/// A broker that may get replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub id: BrokerId,
    pub rack: Option<String>,
}

/// Where in the list of brokers to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Of the first replica of partition 0.
    pub index: usize,
    /// How far the second replica stands from the first.
    pub shift: usize,
}

impl Start {
    /// For a new topic: anywhere, so that small topics do not all begin with the same broker.
    pub fn random(brokers: usize) -> Start {
        let below = |bound: usize| rand::random_range(0..bound.max(1));
        Start { index: below(brokers), shift: below(brokers) }
    }
}

/// More than a znode of 1 MiB holds; a request must not make us compute what can never be stored.
const PARTITIONS_MAX: i32 = 100_000;

/// Assigns `partitions` new partitions, numbered from `first`. The brokers stand in ascending order of their ids.
pub fn assign(
    brokers: &[Candidate],
    partitions: i32,
    replication_factor: i16,
    first: i32,
    start: Start,
) -> Result<BTreeMap<i32, Vec<BrokerId>>, TopicError> {
    if partitions <= 0 {
        return Err(TopicError::InvalidPartitions("Number of partitions must be larger than 0.".to_owned()));
    }
    if partitions > PARTITIONS_MAX {
        return Err(TopicError::InvalidPartitions(format!(
            "Number of partitions must not be larger than {PARTITIONS_MAX}: the assignment would not fit a znode."
        )));
    }
    let factor = usize::try_from(replication_factor).unwrap_or(0);
    if factor == 0 {
        let reason = "Replication factor must be larger than 0.";
        return Err(TopicError::InvalidReplicationFactor(reason.to_owned()));
    }
    if factor > brokers.len() {
        return Err(TopicError::InvalidReplicationFactor(format!(
            "Replication factor: {factor} larger than available brokers: {}.",
            brokers.len()
        )));
    }
    let racks: BTreeSet<&str> = brokers.iter().filter_map(|broker| broker.rack.as_deref()).collect();
    let arranged: Vec<&Candidate> = if racks.is_empty() {
        brokers.iter().collect()
    } else if brokers.iter().any(|broker| broker.rack.is_none()) {
        return Err(TopicError::Unexpected(
            "Not all brokers have rack information for replica rack aware assignment.".to_owned(),
        ));
    } else {
        rack_alternated(brokers)
    };
    let mut shift = start.shift;
    let mut assigned = BTreeMap::new();
    for partition in (first..).take(usize::try_from(partitions).unwrap_or(0)) {
        let number = usize::try_from(partition).unwrap_or(0);
        if number > 0 && number % arranged.len() == 0 {
            shift += 1;
        }
        let leader = (number + start.index) % arranged.len();
        let replicas = match racks.len() {
            0 => replicas(&arranged, factor, leader, shift),
            racks => replicas_over_racks(&arranged, factor, leader, shift, racks),
        };
        assigned.insert(partition, replicas);
    }
    Ok(assigned)
}

/// The position of a further replica: never that of the leader.
fn position(leader: usize, shift: usize, replica: usize, brokers: usize) -> usize {
    (leader + 1 + (shift + replica) % (brokers - 1)) % brokers
}

fn replicas(brokers: &[&Candidate], factor: usize, leader: usize, shift: usize) -> Vec<BrokerId> {
    let others = (0..factor - 1).map(|replica| position(leader, shift, replica, brokers.len()));
    std::iter::once(leader).chain(others).map(|index| brokers[index].id).collect()
}

/// A rack or a broker gets a second replica only when all have one.
fn replicas_over_racks(
    brokers: &[&Candidate],
    factor: usize,
    leader: usize,
    shift: usize,
    racks: usize,
) -> Vec<BrokerId> {
    let mut chosen = vec![brokers[leader].id];
    let mut used_racks: BTreeSet<Option<&str>> = BTreeSet::from([brokers[leader].rack.as_deref()]);
    let mut next = 0;
    while chosen.len() < factor {
        let broker = brokers[position(leader, shift * racks, next, brokers.len())];
        next += 1;
        let rack_may = used_racks.len() == racks || !used_racks.contains(&broker.rack.as_deref());
        let broker_may = chosen.len() == brokers.len() || !chosen.contains(&broker.id);
        if rack_may && broker_may {
            chosen.push(broker.id);
            used_racks.insert(broker.rack.as_deref());
        }
    }
    chosen
}

/// The first broker of every rack, then the second of every rack, and so on.
fn rack_alternated(brokers: &[Candidate]) -> Vec<&Candidate> {
    let mut racks: BTreeMap<&str, Vec<&Candidate>> = BTreeMap::new();
    for broker in brokers {
        racks.entry(broker.rack.as_deref().unwrap_or_default()).or_default().push(broker);
    }
    let rounds = racks.values().map(Vec::len).max().unwrap_or(0);
    (0..rounds).flat_map(|round| racks.values().filter_map(move |rack| rack.get(round).copied())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brokers(racks: &[Option<&str>]) -> Vec<Candidate> {
        let ids = (0..).map(BrokerId);
        ids.zip(racks).map(|(id, rack)| Candidate { id, rack: rack.map(str::to_owned) }).collect()
    }

    fn assigned(brokers: &[Candidate], partitions: i32, factor: i16, start: Start) -> Vec<Vec<i32>> {
        let assigned = assign(brokers, partitions, factor, 0, start).expect("a valid request");
        assigned.into_values().map(|replicas| replicas.iter().map(|id| id.0).collect()).collect()
    }

    /// The table in the comment of AdminUtils.
    #[test]
    fn replicas_are_spread_as_the_documented_example_shows() {
        let start = Start { index: 0, shift: 0 };
        let replicas = assigned(&brokers(&[None; 5]), 10, 3, start);
        assert_eq!(
            replicas,
            [
                [0, 1, 2],
                [1, 2, 3],
                [2, 3, 4],
                [3, 4, 0],
                [4, 0, 1],
                [0, 2, 3],
                [1, 3, 4],
                [2, 4, 0],
                [3, 0, 1],
                [4, 1, 2],
            ]
        );
    }

    /// The rack example in the comment of AdminUtils.
    #[test]
    fn racks_alternate_as_the_documented_example_shows() {
        let racks = ["rack1", "rack3", "rack3", "rack2", "rack2", "rack1"].map(Some);
        let replicas = assigned(&brokers(&racks), 7, 3, Start { index: 0, shift: 0 });
        assert_eq!(replicas, [[0, 3, 1], [3, 1, 5], [1, 5, 4], [5, 4, 2], [4, 2, 0], [2, 0, 3], [0, 4, 2]]);
    }

    #[test]
    fn every_assignment_names_each_broker_once_and_every_rack_it_can() {
        for (count, racks) in [(1, 1), (2, 2), (5, 2), (6, 3), (7, 3)] {
            let names: Vec<String> = (0..count).map(|id| format!("r{}", id % racks)).collect();
            let list = brokers(&names.iter().map(|name| Some(name.as_str())).collect::<Vec<_>>());
            for factor in 1..=count {
                for index in 0..count {
                    for shift in 0..count {
                        let start = Start { index: index as usize, shift: shift as usize };
                        let case = format!("{count} brokers on {racks} racks, factor {factor}, {start:?}");
                        for replicas in assigned(&list, 2 * count, factor as i16, start) {
                            let distinct: BTreeSet<_> = replicas.iter().collect();
                            assert_eq!(distinct.len(), factor as usize, "{case}");
                            let used: BTreeSet<_> = replicas.iter().map(|id| id % racks).collect();
                            assert_eq!(used.len() as i32, factor.min(racks), "{case}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn impossible_wishes_are_refused_in_kafkas_words() {
        let refusal = |partitions, factor, racks: &[Option<&str>]| {
            assign(&brokers(racks), partitions, factor, 0, Start { index: 0, shift: 0 }).unwrap_err()
        };
        assert_eq!(
            refusal(1, 3, &[None]),
            TopicError::InvalidReplicationFactor("Replication factor: 3 larger than available brokers: 1.".to_owned())
        );
        assert!(matches!(refusal(0, 1, &[None]), TopicError::InvalidPartitions(_)));
        assert!(matches!(refusal(1, 0, &[None]), TopicError::InvalidReplicationFactor(_)));
        assert!(matches!(refusal(1, 1, &[None, Some("r")]), TopicError::Unexpected(_)));
    }
}
