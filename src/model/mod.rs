//! The nouns that every room shares, as newtypes: two `i64` side by side in a signature are a bug waiting. Beside them
//! what every room must mean alike: where a broker listens, how the address of a host is written, which
//! topics are internal, what time it is.
//! Knows nothing of wire, disk or ZooKeeper encodings beyond the textual form of a topic id.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

pub mod clock;
pub mod endpoint;
pub mod host_address;
pub mod internal_topics;
pub mod lock;
pub mod shown;
pub mod signals;
pub mod transaction_version;

macro_rules! newtype {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

newtype! {
    /// `broker.id`; -1 stands for "none" where the protocol has a place for no broker.
    BrokerId(i32);
    /// Position of a record in its partition, counted from 0.
    Offset(i64);
    /// Counts the leaders of one partition; -1 when unknown.
    LeaderEpoch(i32);
    /// Counts the controllers of the cluster: the number in `/controller_epoch`.
    ControllerEpoch(i32);
    /// Identifies one registration of a broker: the czxid of its `/brokers/ids/N`. -1 when unknown.
    BrokerEpoch(i64);
    /// Counts changes of one partition's leadership and ISR: the data version of its `state` znode.
    PartitionEpoch(i32);
    /// Identifies an idempotent or transactional producer; -1 for none.
    ProducerId(i64);
    /// Counts the incarnations of one producer id; -1 for none.
    ProducerEpoch(i16);
    /// Counts the rebalances of one consumer group; -1 for a member that takes no part in them.
    GenerationId(i32);
    /// Counts the connections that this broker has accepted; on one listener in the order in which they were opened.
    ConnectionNumber(u64);
}

/// The name of a partition's directory, which begins with the topic's, is no longer than that on any file system: no broker
/// hosts a topic of a longer name, and nobody need look for one.
pub const TOPIC_NAME_BYTES_MAX: usize = 255;

/// Sixteen random bytes that name one incarnation of a topic (KIP-516).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    /// Stands for "no topic id" on the wire and in metadata.
    pub const ZERO: TopicId = TopicId([0; 16]);

    /// A fresh id, as Kafka draws it: never zero, never the id of the metadata log, and its text never starts
    /// with a dash, which a command line would take for an option.
    pub fn random() -> TopicId {
        loop {
            let mut bytes: [u8; 16] = rand::random();
            bytes[6] = (bytes[6] & 0x0f) | 0x40;
            bytes[8] = (bytes[8] & 0x3f) | 0x80;
            let id = TopicId(bytes);
            if id != TopicId::ZERO && !id.to_string().starts_with('-') {
                return id;
            }
        }
    }

    pub fn is_zero(self) -> bool {
        self == TopicId::ZERO
    }
}

/// Kafka's text form: URL-safe base64 without padding, 22 characters.
impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not the 22-character form of a topic id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidTopicId(pub String);

impl fmt::Display for InvalidTopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a topic id", self.0)
    }
}

impl std::error::Error for InvalidTopicId {}

impl FromStr for TopicId {
    type Err = InvalidTopicId;

    fn from_str(text: &str) -> Result<TopicId, InvalidTopicId> {
        let invalid = || InvalidTopicId(text.chars().take(40).collect());
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| invalid())?;
        Ok(TopicId(bytes.try_into().map_err(|_| invalid())?))
    }
}

/// One partition of one topic. Cloning is cheap, and so is comparing partitions that have the topic from one place, however
/// long its name.
#[derive(Clone, Eq)]
pub struct TopicPartition {
    pub topic: Arc<str>,
    pub partition: i32,
}

impl PartialEq for TopicPartition {
    fn eq(&self, other: &TopicPartition) -> bool {
        self.partition == other.partition && (Arc::ptr_eq(&self.topic, &other.topic) || self.topic == other.topic)
    }
}

impl Ord for TopicPartition {
    fn cmp(&self, other: &TopicPartition) -> Ordering {
        let topics = match Arc::ptr_eq(&self.topic, &other.topic) {
            true => Ordering::Equal,
            false => self.topic.cmp(&other.topic),
        };
        topics.then_with(|| self.partition.cmp(&other.partition))
    }
}

impl PartialOrd for TopicPartition {
    fn partial_cmp(&self, other: &TopicPartition) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for TopicPartition {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.topic.hash(state);
        self.partition.hash(state);
    }
}

impl TopicPartition {
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> TopicPartition {
        TopicPartition { topic: topic.into(), partition }
    }
}

/// As Kafka prints it and names directories: `topic-0`.
impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

impl fmt::Debug for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_in_the_order_of_their_topics_and_numbers_wherever_the_names_are_from() {
        let shared: Arc<str> = "b".into();
        let of_shared = |partition| TopicPartition { topic: Arc::clone(&shared), partition };
        let named = TopicPartition::new;
        let in_order = [named("a", 7), of_shared(-1), named("b", 2), of_shared(3), named("ba", 0)];
        for (at, one) in in_order.iter().enumerate() {
            for (other_at, other) in in_order.iter().enumerate() {
                assert_eq!(one.cmp(other), at.cmp(&other_at), "{one} and {other}");
                assert_eq!(one == other, at == other_at, "{one} and {other}");
            }
        }
        assert_eq!((named("b", 3), named("b", 3).cmp(&of_shared(3))), (of_shared(3), Ordering::Equal));
    }

    #[test]
    fn a_topic_id_survives_its_text_form() {
        let id = TopicId::random();
        assert_eq!(id.to_string().len(), 22);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("short".parse::<TopicId>().is_err());
    }
}
