//! Numbers for the topics of a request. A name may be as long as 32,767 bytes and a partition as short as four, so whoever
//! remembers partitions by name would read, or copy, many times the request.

use std::collections::HashMap;

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
