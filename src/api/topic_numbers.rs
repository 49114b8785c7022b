//! Numbers for the topics of a request. A name may be as long as 32,767 bytes and a partition as short as four, so whoever
//! remembers partitions by name would read, or copy, many times the request.

use std::collections::{HashMap, HashSet};

/// Each topic of one request under a number of its own.
#[derive(Debug, Default)]
pub(super) struct TopicNumbers<'a>(HashMap<&'a str, u32>);

impl<'a> TopicNumbers<'a> {
    /// To be asked once for each time that the request names a topic, not for each partition.
    pub fn of(&mut self, topic: &'a str) -> u32 {
        let next = self.0.len() as u32;
        *self.0.entry(topic).or_insert(next)
    }
}

/// The partitions that a request has named so far.
#[derive(Debug, Default)]
pub(super) struct NamedOnce<'a> {
    numbers: TopicNumbers<'a>,
    named: HashSet<(u32, i32)>,
}

impl<'a> NamedOnce<'a> {
    /// To be asked once for each time that the request names a topic, not for each partition.
    pub fn number_of(&mut self, topic: &'a str) -> u32 {
        self.numbers.of(topic)
    }

    /// Whether a partition of the topic with that number is named for the first time.
    pub fn is_new(&mut self, topic: u32, partition: i32) -> bool {
        self.named.insert((topic, partition))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_new_once_however_its_topic_is_named_again() {
        let mut seen = NamedOnce::default();
        let (a, b) = (seen.number_of("a"), seen.number_of("b"));
        assert!(seen.is_new(a, 1) && seen.is_new(b, 1) && seen.is_new(a, 2));
        let again = seen.number_of("a");
        assert!(!seen.is_new(again, 1) && seen.is_new(again, 3));
    }
}
