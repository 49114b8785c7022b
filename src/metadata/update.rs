//! An UpdateMetadata request of any version, as the one update that the image takes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::listeners::SecurityProtocol;
use crate::metadata::image::{Broker, Partition, TopicUpdate, Update};
use crate::model::endpoint::Endpoint;
use crate::model::{BrokerId, ControllerEpoch, LeaderEpoch, PartitionEpoch, TopicId};
use crate::protocol::messages::update_metadata::{
    UpdateMetadataBroker, UpdateMetadataPartitionState, UpdateMetadataRequest,
};

impl Update {
    /// Versions 0 to 4 list partitions without grouping them, version 0 knows one address for a broker, versions 1 and 2
    /// name a listener after its security protocol.
    /// Source: kafka 3.9.0-rc3 clients/src/main/java/org/apache/kafka/common/requests/UpdateMetadataRequest.java.
    pub fn of(request: UpdateMetadataRequest) -> Update {
        let mut topics = Topics::default();
        for state in request.ungrouped_partition_states {
            topics.of(&state.topic_name, TopicId::ZERO).partitions.push(partition(state));
        }
        for topic in request.topic_states {
            let update = topics.of(&topic.topic_name, topic.topic_id);
            update.partitions.extend(topic.partition_states.into_iter().map(partition));
        }
        Update {
            controller: BrokerId(request.controller_id),
            brokers: request.live_brokers.into_iter().map(broker).collect(),
            topics: topics.updates,
        }
    }
}

/// What is said of each topic, all in one place however often the request names it: for each place there is a new list of
/// all partitions that the topic has.
#[derive(Default)]
struct Topics {
    updates: Vec<TopicUpdate>,
    positions: HashMap<Arc<str>, usize>,
}

impl Topics {
    fn of(&mut self, name: &str, id: TopicId) -> &mut TopicUpdate {
        let position = match self.positions.get(name) {
            Some(position) => *position,
            None => {
                let name: Arc<str> = name.into();
                self.positions.insert(Arc::clone(&name), self.updates.len());
                self.updates.push(TopicUpdate { name, id, partitions: Vec::new() });
                self.updates.len() - 1
            }
        };
        let update = &mut self.updates[position];
        update.id = id;
        update
    }
}

fn brokers(ids: Vec<i32>) -> Vec<BrokerId> {
    ids.into_iter().map(BrokerId).collect()
}

fn partition(state: UpdateMetadataPartitionState) -> Partition {
    Partition {
        partition: state.partition_index,
        leader: BrokerId(state.leader),
        leader_epoch: LeaderEpoch(state.leader_epoch),
        partition_epoch: PartitionEpoch(state.zk_version),
        controller_epoch: ControllerEpoch(state.controller_epoch),
        isr: brokers(state.isr),
        assignment: brokers(state.replicas),
        offline_replicas: brokers(state.offline_replicas),
    }
}

/// The name of the listener where a request names none.
fn listener_of_protocol(id: i16) -> String {
    SecurityProtocol::from_id(id).unwrap_or(SecurityProtocol::Plaintext).name().to_owned()
}

fn broker(broker: UpdateMetadataBroker) -> Broker {
    let mut endpoints: Vec<Endpoint> = broker
        .endpoints
        .into_iter()
        .map(|endpoint| Endpoint {
            listener: match endpoint.listener.is_empty() {
                true => listener_of_protocol(endpoint.security_protocol),
                false => endpoint.listener,
            },
            security_protocol: endpoint.security_protocol,
            host: endpoint.host,
            port: endpoint.port,
        })
        .collect();
    if endpoints.is_empty() && !broker.v0_host.is_empty() {
        endpoints.push(Endpoint {
            listener: SecurityProtocol::Plaintext.name().to_owned(),
            security_protocol: SecurityProtocol::Plaintext.id(),
            host: broker.v0_host,
            port: broker.v0_port,
        });
    }
    Broker { id: BrokerId(broker.id), rack: broker.rack.filter(|rack| !rack.is_empty()), endpoints }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::messages::update_metadata::{UpdateMetadataEndpoint, UpdateMetadataTopicState};

    fn state(topic: &str, partition: i32) -> UpdateMetadataPartitionState {
        UpdateMetadataPartitionState {
            topic_name: topic.to_owned(),
            partition_index: partition,
            leader: 1,
            zk_version: 4,
            ..Default::default()
        }
    }

    #[test]
    fn partitions_of_old_versions_are_grouped_by_topic() {
        let update = Update::of(UpdateMetadataRequest {
            controller_id: 1,
            ungrouped_partition_states: vec![state("a", 0), state("b", 0), state("a", 1)],
            ..Default::default()
        });
        let shape: Vec<(&str, usize)> = update.topics.iter().map(|t| (&*t.name, t.partitions.len())).collect();
        assert_eq!(shape, vec![("a", 2), ("b", 1)]);
        assert_eq!(update.topics[0].partitions[1].partition_epoch, PartitionEpoch(4));
    }

    #[test]
    fn a_topic_that_is_named_often_is_updated_once_and_has_the_id_that_is_said_last() {
        let of = |name: &str, id, partition| UpdateMetadataTopicState {
            topic_name: name.to_owned(),
            topic_id: TopicId([id; 16]),
            partition_states: vec![state("", partition)],
        };
        let topic_states = vec![of("a", 1, 0), of("b", 2, 0), of("a", 3, 1), of("a", 4, 0)];
        let update = Update::of(UpdateMetadataRequest { topic_states, ..Default::default() });
        let shape: Vec<(&str, TopicId, Vec<i32>)> = update
            .topics
            .iter()
            .map(|topic| (&*topic.name, topic.id, topic.partitions.iter().map(|state| state.partition).collect()))
            .collect();
        assert_eq!(shape, [("a", TopicId([4; 16]), vec![0, 1, 0]), ("b", TopicId([2; 16]), vec![0])]);
    }

    #[test]
    fn each_version_names_its_listeners_in_its_own_way() {
        let endpoint = |listener: &str, security_protocol| UpdateMetadataEndpoint {
            port: 9092,
            host: "h".to_owned(),
            listener: listener.to_owned(),
            security_protocol,
        };
        let live = |v0_host: &str, endpoints| UpdateMetadataBroker {
            id: 1,
            v0_host: v0_host.to_owned(),
            v0_port: 9,
            endpoints,
            rack: None,
        };
        let listeners = |broker: UpdateMetadataBroker| {
            super::broker(broker).endpoints.into_iter().map(|endpoint| endpoint.listener).collect::<Vec<_>>()
        };
        assert_eq!(listeners(live("h", Vec::new())), vec!["PLAINTEXT"]);
        assert_eq!(listeners(live("", vec![endpoint("", 1), endpoint("", 3)])), vec!["SSL", "SASL_SSL"]);
        assert_eq!(listeners(live("", vec![endpoint("CLIENTS", 2)])), vec!["CLIENTS"]);
    }

    #[test]
    fn topic_ids_come_with_grouped_topics() {
        let id = TopicId([3; 16]);
        let topic =
            UpdateMetadataTopicState { topic_name: "a".to_owned(), topic_id: id, partition_states: vec![state("", 0)] };
        let update = Update::of(UpdateMetadataRequest { topic_states: vec![topic], ..Default::default() });
        assert_eq!((update.topics[0].id, &*update.topics[0].name), (id, "a"));
    }
}
