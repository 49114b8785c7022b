//! Where a consumer reads best: KIP-392's `RackAwareReplicaSelector`.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/ReplicaManager.scala (findPreferredReadReplica),
//! clients/src/main/java/org/apache/kafka/common/replica/{RackAwareReplicaSelector,ReplicaView}.java.

use std::cmp::Reverse;
use std::time::Duration;

use crate::metadata::image::Image;
use crate::model::{BrokerId, Offset};

/// A consumer, as far as it matters where it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Never empty.
    pub rack: String,
    /// By which it reaches the brokers.
    pub listener: String,
}

/// A follower in the ISR that has what the consumer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadableFollower {
    pub broker: BrokerId,
    pub log_end_offset: Offset,
    pub caught_up_since: Option<Duration>,
}

/// The follower that the consumer should ask instead of the leader; `None` where the leader is as good, or nobody is in
/// the consumer's rack.
pub fn preferred(reader: &Reader, leader: BrokerId, followers: &[ReadableFollower], image: &Image) -> Option<BrokerId> {
    let is_near = |broker: BrokerId| {
        let known = image.brokers.get(&broker).filter(|known| known.endpoint(&reader.listener).is_some());
        known.is_some_and(|known| known.rack.as_ref() == Some(&reader.rack))
    };
    if is_near(leader) {
        return None;
    }
    let never = Duration::MAX;
    let near = followers.iter().filter(|follower| is_near(follower.broker));
    let best = near.max_by_key(|follower| {
        (follower.log_end_offset, Reverse(follower.caught_up_since.unwrap_or(never)), follower.broker)
    });
    best.map(|follower| follower.broker)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::image::{Broker, Update};
    use crate::model::endpoint::Endpoint;

    fn image(racks: &[(i32, Option<&str>, &str)]) -> Image {
        let broker = |(id, rack, listener): &(i32, Option<&str>, &str)| Broker {
            id: BrokerId(*id),
            rack: rack.map(str::to_owned),
            endpoints: vec![Endpoint {
                listener: (*listener).to_owned(),
                security_protocol: 0,
                host: "h".to_owned(),
                port: 1,
            }],
        };
        let brokers = racks.iter().map(broker).collect();
        Image::default().with(Update { controller: BrokerId(1), brokers, topics: Vec::new() }).0
    }

    fn follower(broker: i32, end: i64, caught_up_ms: u64) -> ReadableFollower {
        let caught_up_since = Some(Duration::from_millis(caught_up_ms));
        ReadableFollower { broker: BrokerId(broker), log_end_offset: Offset(end), caught_up_since }
    }

    #[test]
    fn a_consumer_reads_from_the_follower_in_its_rack_that_has_most() {
        let reader = Reader { rack: "b".to_owned(), listener: "PLAINTEXT".to_owned() };
        let image = image(&[
            (1, Some("a"), "PLAINTEXT"),
            (2, Some("b"), "PLAINTEXT"),
            (3, Some("b"), "PLAINTEXT"),
            (4, None, "PLAINTEXT"),
            (5, Some("b"), "INTERNAL"),
        ]);
        let chosen = |leader, followers: &[ReadableFollower]| {
            preferred(&reader, BrokerId(leader), followers, &image).map(|broker| broker.0)
        };
        assert_eq!(chosen(1, &[follower(2, 7, 9), follower(3, 5, 0), follower(4, 9, 0)]), Some(2));
        assert_eq!(chosen(1, &[follower(2, 7, 9), follower(3, 7, 0)]), Some(3), "it caught up last");
        assert_eq!(chosen(1, &[follower(2, 7, 9), follower(3, 7, 9)]), Some(3));
        assert_eq!(chosen(2, &[follower(3, 7, 0)]), None, "the leader is near");
        assert_eq!(chosen(1, &[follower(4, 7, 0)]), None, "nobody is near");
        assert_eq!(chosen(1, &[follower(5, 7, 0)]), None, "the consumer cannot reach it");
        assert_eq!(chosen(1, &[follower(6, 7, 0)]), None, "it is not alive");
    }
}
