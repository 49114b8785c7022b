//! Who leads a partition, for a client that asked the wrong broker (KIP-951).
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/KafkaApis.scala (getCurrentLeader).

use crate::api::Server;
use crate::model::endpoint::Endpoint;
use crate::model::{BrokerId, LeaderEpoch};

/// -1 and -1 when nothing is known.
pub(crate) struct LeaderHint {
    pub leader: BrokerId,
    pub leader_epoch: LeaderEpoch,
    /// Where the leader listens under the client's listener name, and its rack.
    pub endpoint: Option<(Endpoint, Option<String>)>,
}

/// A hosted partition knows best, unless its disk does not keep up, so that it would have to be waited for; otherwise what the
/// controller told last.
pub(crate) fn leader_hint(server: &Server, topic: &str, partition: i32, listener: &str) -> LeaderHint {
    let image = server.metadata.image();
    let is_at_hand = !server.replicas.is_held_up(topic, partition);
    let hosted = is_at_hand.then(|| server.replicas.partition(topic, partition).ok()).flatten();
    let hosted = hosted.map(|partition| partition.leader());
    let (leader, leader_epoch) = match hosted {
        Some((leader, leader_epoch)) => (leader.unwrap_or(BrokerId(-1)), leader_epoch),
        None => image
            .partition(topic, partition)
            .map_or((BrokerId(-1), LeaderEpoch(-1)), |known| (known.leader, known.leader_epoch)),
    };
    let endpoint = image
        .brokers
        .get(&leader)
        .and_then(|broker| broker.endpoint(listener).map(|endpoint| (endpoint.clone(), broker.rack.clone())));
    LeaderHint { leader, leader_epoch, endpoint }
}
