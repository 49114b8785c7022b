//! A fetch session as the one who fetches sees it: the leader remembers what it was told, so that a request names only what
//! has changed and an answer only what there is to say (KIP-227).
//! Source: kafka 3.9 clients/src/main/java/org/apache/kafka/clients/FetchSessionHandler.java.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{LeaderEpoch, Offset, TopicId, TopicPartition};
use crate::protocol::error_code::ErrorCode;

/// What the leader was last told of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// Which stay of the partition with this fetcher it was.
    pub stay: u64,
    pub topic_id: TopicId,
    pub leader_epoch: LeaderEpoch,
    pub fetch_offset: Offset,
    pub last_epoch: Option<LeaderEpoch>,
    pub log_start_offset: Offset,
}

#[derive(Debug, Default)]
pub(super) struct Session {
    /// 0 when the leader keeps none.
    id: i32,
    /// Of the next request: 0 begins a session.
    epoch: i32,
    uses_topic_ids: bool,
    pub partitions: BTreeMap<TopicPartition, Sent>,
    /// Of the topics that answers may name by their ids.
    names: BTreeMap<TopicId, Arc<str>>,
    /// What the leader is yet to be told that it may forget, under the id that it knows.
    forgotten: BTreeMap<TopicPartition, TopicId>,
    without_topic_id: usize,
}

impl Session {
    pub fn id(&self) -> i32 {
        self.id
    }

    pub fn epoch(&self) -> i32 {
        self.epoch
    }

    /// The next request names all partitions.
    pub fn is_full(&self) -> bool {
        self.epoch == 0
    }

    pub fn has_topic_ids(&self) -> bool {
        self.without_topic_id == 0
    }

    pub fn name(&self, topic_id: TopicId) -> Option<&Arc<str>> {
        self.names.get(&topic_id)
    }

    pub fn clear(&mut self) {
        self.partitions.clear();
        self.names.clear();
        self.forgotten.clear();
        self.without_topic_id = 0;
    }

    /// The request will say this of the partition. False if the leader knows it already.
    pub fn tell(&mut self, partition: &TopicPartition, sent: Sent) -> bool {
        let before = self.forget_quietly(partition);
        if !self.uses_topic_ids {
            // It has one name, whatever its id: a leader forgets after it has taken up what it is told.
            self.forgotten.remove(partition);
        } else if let Some(before) = before
            && before.topic_id != sent.topic_id
        {
            self.forgotten.insert(partition.clone(), before.topic_id);
        } else if self.forgotten.get(partition) == Some(&sent.topic_id) {
            self.forgotten.remove(partition);
        }
        match sent.topic_id.is_zero() {
            true => self.without_topic_id += 1,
            false => drop(self.names.insert(sent.topic_id, Arc::clone(&partition.topic))),
        }
        self.partitions.insert(partition.clone(), sent);
        before != Some(sent)
    }

    /// The leader need not look at the partition any more.
    pub fn forget(&mut self, partition: &TopicPartition) {
        if let Some(sent) = self.forget_quietly(partition) {
            self.forgotten.insert(partition.clone(), sent.topic_id);
        }
    }

    fn forget_quietly(&mut self, partition: &TopicPartition) -> Option<Sent> {
        let sent = self.partitions.remove(partition)?;
        self.without_topic_id -= usize::from(sent.topic_id.is_zero());
        Some(sent)
    }

    /// Fixes whether the next request names topics by their ids. False if the session was begun the other way, so that
    /// another must be begun.
    pub fn settle_names(&mut self, uses_topic_ids: bool) -> bool {
        if !self.is_full() && uses_topic_ids != self.uses_topic_ids {
            return false;
        }
        self.uses_topic_ids = uses_topic_ids;
        true
    }

    /// What the request that is being built tells the leader to forget.
    pub fn take_forgotten(&mut self) -> Vec<(TopicPartition, TopicId)> {
        let forgotten = std::mem::take(&mut self.forgotten);
        for (name, topic_id) in &forgotten {
            let first = TopicPartition { topic: Arc::clone(&name.topic), partition: i32::MIN };
            let mut of_topic = self.partitions.range(first..).take_while(|(other, _)| other.topic == name.topic);
            if of_topic.all(|(_, sent)| sent.topic_id != *topic_id) {
                self.names.remove(topic_id);
            }
        }
        forgotten.into_iter().collect()
    }

    /// An answer without an error has come.
    pub fn answered(&mut self, session_id: i32) {
        if session_id == 0 {
            // The leader has no room for a session, or has closed this one.
            (self.id, self.epoch) = (0, 0);
        } else if self.is_full() {
            (self.id, self.epoch) = (session_id, 1);
        } else {
            self.epoch = if self.epoch == i32::MAX { 1 } else { self.epoch + 1 };
        }
    }

    /// The session is not what either side thinks: another begins, in place of it.
    pub fn begin_anew(&mut self) {
        self.epoch = 0;
    }

    pub fn refused(&mut self, error: ErrorCode) {
        if error == ErrorCode::FetchSessionIdNotFound {
            self.id = 0;
        }
        self.begin_anew();
    }
}
