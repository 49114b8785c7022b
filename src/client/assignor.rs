//! How the leader of a group divides partitions among its members.

use std::collections::BTreeMap;

/// Who gets which partitions of which topics.
pub type Assignment = BTreeMap<String, BTreeMap<String, Vec<i32>>>;

/// A member of a group as an assignor sees it. Static members stand before dynamic ones, by their instance id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subscriber {
    /// `None` sorts last here: see `order`.
    pub instance_id: Option<String>,
    pub member_id: String,
    pub topics: Vec<String>,
}

impl Subscriber {
    fn order(&self) -> (bool, Option<&str>, &str) {
        (self.instance_id.is_none(), self.instance_id.as_deref(), &self.member_id)
    }
}

/// Kafka's range assignor: each topic's partitions are cut into consecutive ranges, the first members get one more.
/// Source: kafka 3.9.1 clients/src/main/java/org/apache/kafka/clients/consumer/RangeAssignor.java, without racks.
pub fn range(mut subscribers: Vec<Subscriber>, partition_counts: &BTreeMap<String, usize>) -> Assignment {
    subscribers.sort_unstable_by(|a, b| a.order().cmp(&b.order()));
    let mut assignment: Assignment =
        subscribers.iter().map(|member| (member.member_id.clone(), BTreeMap::new())).collect();
    for (topic, count) in partition_counts {
        let members: Vec<&Subscriber> = subscribers.iter().filter(|member| member.topics.contains(topic)).collect();
        if members.is_empty() {
            continue;
        }
        let (each, extra) = (count / members.len(), count % members.len());
        let mut from = 0;
        for (index, member) in members.iter().enumerate() {
            let until = from + each + usize::from(index < extra);
            let partitions: Vec<i32> = (from..until).filter_map(|partition| i32::try_from(partition).ok()).collect();
            from = until;
            if !partitions.is_empty()
                && let Some(topics) = assignment.get_mut(&member.member_id)
            {
                topics.insert(topic.clone(), partitions);
            }
        }
    }
    assignment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_consecutive_and_static_members_come_first() {
        let member = |instance: Option<&str>, id: &str, topics: &[&str]| Subscriber {
            instance_id: instance.map(str::to_owned),
            member_id: id.to_owned(),
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        };
        let counts = BTreeMap::from([("t".to_owned(), 5), ("u".to_owned(), 1)]);
        let assignment = range(
            vec![member(None, "a", &["t"]), member(Some("z"), "b", &["t", "u"]), member(None, "c", &[])],
            &counts,
        );
        assert_eq!(assignment["b"], BTreeMap::from([("t".to_owned(), vec![0, 1, 2]), ("u".to_owned(), vec![0])]));
        assert_eq!(assignment["a"], BTreeMap::from([("t".to_owned(), vec![3, 4])]));
        assert!(assignment["c"].is_empty());
    }
}
