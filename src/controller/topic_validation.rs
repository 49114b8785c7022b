//! The rules for creating and growing topics.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/zk/AdminZkClient.scala,
//! clients/src/main/java/org/apache/kafka/common/internals/Topic.java.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::model::BrokerId;

const NAME_LENGTH_MAX: usize = 249;

/// Why a topic cannot be created, grown or deleted. The texts are Kafka's, for they reach the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicError {
    Exists(String),
    Unknown(String),
    InvalidName(String),
    InvalidConfig(String),
    /// More than this broker is willing to hold.
    PolicyViolation(String),
    InvalidRequest(String),
    InvalidPartitions(String),
    InvalidReplicationFactor(String),
    InvalidAssignment(String),
    BrokerNotAvailable(String),
    ReassignmentInProgress(String),
    /// Not the client's fault; it is told no details.
    Unexpected(String),
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TopicError::Exists(reason)
            | TopicError::Unknown(reason)
            | TopicError::InvalidName(reason)
            | TopicError::InvalidConfig(reason)
            | TopicError::PolicyViolation(reason)
            | TopicError::InvalidRequest(reason)
            | TopicError::InvalidPartitions(reason)
            | TopicError::InvalidReplicationFactor(reason)
            | TopicError::InvalidAssignment(reason)
            | TopicError::BrokerNotAvailable(reason)
            | TopicError::ReassignmentInProgress(reason)
            | TopicError::Unexpected(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for TopicError {}

pub fn validate_name(name: &str) -> Result<(), TopicError> {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let reason = match name {
        "" => "the empty string is not allowed".to_owned(),
        "." => "'.' is not allowed".to_owned(),
        ".." => "'..' is not allowed".to_owned(),
        // Kafka counts UTF-16 units; a name with any others than ASCII is refused either way.
        long if long.encode_utf16().count() > NAME_LENGTH_MAX => {
            format!("the length of '{name}' is longer than the max allowed length {NAME_LENGTH_MAX}")
        }
        name if !name.bytes().all(is_legal) => {
            format!("'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'")
        }
        _ => return Ok(()),
    };
    Err(TopicError::InvalidName(format!("Topic name is invalid: {reason}")))
}

/// What the metrics of a topic are called.
pub fn name_in_metrics(name: &str) -> String {
    name.replace('.', "_")
}

/// Names that differ only in `.` and `_` would share their metrics.
pub fn refuse_collision(name: &str, existing: &[String]) -> Result<(), TopicError> {
    if !name.contains(['.', '_']) {
        return Ok(());
    }
    if existing.iter().any(|other| other == name) {
        return Err(TopicError::Exists(format!("Topic '{name}' already exists.")));
    }
    let shared = name_in_metrics(name);
    let colliding: Vec<&str> =
        existing.iter().map(String::as_str).filter(|other| name_in_metrics(other) == shared).collect();
    if colliding.is_empty() {
        return Ok(());
    }
    Err(TopicError::InvalidName(format!("Topic '{name}' collides with existing topics: {}", colliding.join(", "))))
}

/// What a client asks for with an assignment of its own. Unknown brokers are allowed, as in Kafka.
pub fn validate_assignment(assignment: &BTreeMap<i32, Vec<BrokerId>>) -> Result<(), TopicError> {
    let factors: BTreeSet<usize> = assignment.values().map(Vec::len).collect();
    if factors.len() != 1 {
        return Err(TopicError::InvalidAssignment("All partitions should have the same number of replicas".to_owned()));
    }
    for (partition, replicas) in assignment {
        let distinct: BTreeSet<&BrokerId> = replicas.iter().collect();
        if distinct.len() != replicas.len() {
            return Err(TopicError::InvalidAssignment(format!(
                "Duplicate replica assignment found: partition {partition} -> {}",
                listed(replicas)
            )));
        }
    }
    if !assignment.keys().copied().eq((0..).take(assignment.len())) {
        return Err(TopicError::InvalidAssignment(
            "partitions should be a consecutive 0-based integer sequence".to_owned(),
        ));
    }
    if factors.contains(&0) {
        // Kafka accepts it, and then cannot elect anyone, ever.
        return Err(TopicError::InvalidAssignment("Cannot have replication factor of 0.".to_owned()));
    }
    Ok(())
}

/// The same for partitions that are added, where the brokers must be live.
pub fn validate_added(
    added: &BTreeMap<i32, Vec<BrokerId>>,
    replication_factor: usize,
    live: &BTreeSet<BrokerId>,
) -> Result<(), TopicError> {
    for (partition, replicas) in added {
        if replicas.is_empty() {
            return Err(TopicError::InvalidAssignment(format!(
                "Cannot have replication factor of 0 for partition id {partition}."
            )));
        }
        let distinct: BTreeSet<&BrokerId> = replicas.iter().collect();
        if distinct.len() != replicas.len() {
            return Err(TopicError::InvalidAssignment(format!(
                "Duplicate brokers not allowed in replica assignment: {} for partition id {partition}.",
                listed(replicas)
            )));
        }
        if !replicas.iter().all(|replica| live.contains(replica)) {
            return Err(TopicError::BrokerNotAvailable(format!(
                "Some brokers specified for partition id {partition} are not available. Specified brokers: {}, \
                 available brokers: {}.",
                listed(replicas),
                listed(&live.iter().copied().collect::<Vec<_>>())
            )));
        }
    }
    let odd: Vec<(&i32, usize)> = added
        .iter()
        .map(|(partition, replicas)| (partition, replicas.len()))
        .filter(|(_, factor)| *factor != replication_factor)
        .collect();
    if odd.is_empty() {
        return Ok(());
    }
    let partitions: Vec<String> = odd.iter().map(|(partition, _)| partition.to_string()).collect();
    let factors: Vec<String> = odd.iter().map(|(_, factor)| factor.to_string()).collect();
    Err(TopicError::InvalidAssignment(format!(
        "Inconsistent replication factor between partitions, partition 0 has {replication_factor} while partitions \
         [{}] have replication factors [{}], respectively.",
        partitions.join(", "),
        factors.join(", ")
    )))
}

pub fn listed(brokers: &[BrokerId]) -> String {
    brokers.iter().map(BrokerId::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafkas_rules() {
        for good in ["a", "Hello-Kafka", "a.b_c-9", "...", &"x".repeat(249)] {
            assert_eq!(validate_name(good), Ok(()), "{good}");
        }
        for (bad, reason) in [
            ("", "Topic name is invalid: the empty string is not allowed"),
            (".", "Topic name is invalid: '.' is not allowed"),
            ("..", "Topic name is invalid: '..' is not allowed"),
            (
                "a b",
                "Topic name is invalid: 'a b' contains one or more characters other than ASCII alphanumerics, '.', \
                 '_' and '-'",
            ),
        ] {
            assert_eq!(validate_name(bad), Err(TopicError::InvalidName(reason.to_owned())));
        }
        assert!(validate_name(&"x".repeat(250)).is_err());
        assert!(validate_name("é").is_err());
        assert!(validate_name("a/b").is_err());
    }

    #[test]
    fn names_that_share_metrics_collide() {
        let existing = ["a_b".to_owned(), "plain".to_owned()];
        assert_eq!(refuse_collision("plain2", &existing), Ok(()));
        assert_eq!(refuse_collision("a.c", &existing), Ok(()));
        assert_eq!(
            refuse_collision("a.b", &existing),
            Err(TopicError::InvalidName("Topic 'a.b' collides with existing topics: a_b".to_owned()))
        );
        assert!(matches!(refuse_collision("a_b", &existing), Err(TopicError::Exists(_))));
    }

    fn assignment(partitions: &[(i32, &[i32])]) -> BTreeMap<i32, Vec<BrokerId>> {
        let replicas = |ids: &[i32]| ids.iter().copied().map(BrokerId).collect();
        partitions.iter().map(|(partition, ids)| (*partition, replicas(ids))).collect()
    }

    #[test]
    fn assignments_are_even_distinct_and_without_gaps() {
        assert_eq!(validate_assignment(&assignment(&[(0, &[1, 2]), (1, &[2, 1])])), Ok(()));
        for bad in [
            &[(0, &[1, 2][..]), (1, &[2][..])][..],
            &[(0, &[1, 1])],
            &[(0, &[1]), (2, &[1])],
            &[(1, &[1])],
            &[(0, &[])],
            &[],
        ] {
            let refused = validate_assignment(&assignment(bad));
            assert!(matches!(refused, Err(TopicError::InvalidAssignment(_))), "{bad:?}: {refused:?}");
        }
    }

    #[test]
    fn added_partitions_match_the_topic_and_the_live_brokers() {
        let live = BTreeSet::from([BrokerId(1), BrokerId(2)]);
        assert_eq!(validate_added(&assignment(&[(1, &[1, 2])]), 2, &live), Ok(()));
        assert!(matches!(
            validate_added(&assignment(&[(1, &[1, 3])]), 2, &live),
            Err(TopicError::BrokerNotAvailable(_))
        ));
        assert_eq!(
            validate_added(&assignment(&[(1, &[1])]), 2, &live).unwrap_err().to_string(),
            "Inconsistent replication factor between partitions, partition 0 has 2 while partitions [1] have \
             replication factors [1], respectively."
        );
    }
}
