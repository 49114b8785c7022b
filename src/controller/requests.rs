//! What the brokers are told, collected during one event and sent as at most one request of each kind per broker.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/controller/ControllerChannelManager.scala.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::codec::writer::Writer;
use crate::config::metadata_version::MetadataVersion;
use crate::controller::state::{Broker, Cluster};
use crate::model::{BrokerEpoch, BrokerId, ControllerEpoch, TopicId, TopicPartition};
use crate::protocol::message::{EncodeError, Message};
use crate::protocol::messages::leader_and_isr::{
    LeaderAndIsrLiveLeader, LeaderAndIsrPartitionState, LeaderAndIsrRequest, LeaderAndIsrTopicState,
};
use crate::protocol::messages::stop_replica::{
    StopReplicaPartitionState, StopReplicaPartitionV0, StopReplicaRequest, StopReplicaTopicState, StopReplicaTopicV1,
};
use crate::protocol::messages::update_metadata::{
    UpdateMetadataBroker, UpdateMetadataEndpoint, UpdateMetadataPartitionState, UpdateMetadataRequest,
    UpdateMetadataTopicState,
};

/// In UpdateMetadata: the partition is being deleted.
const LEADER_DURING_DELETE: i32 = -2;
/// In StopReplica: the topic is being deleted, so the leader epoch is not compared.
const EPOCH_DURING_DELETE: i32 = -2;
const NO_LEADER: i32 = -1;
const NO_EPOCH: i32 = -1;

#[derive(Clone, Debug, PartialEq)]
pub enum ControlRequest {
    LeaderAndIsr(LeaderAndIsrRequest),
    UpdateMetadata(Announcement),
    StopReplica(StopReplicaRequest),
}

/// An UpdateMetadata to one of several brokers.
#[derive(Clone, Debug)]
pub struct Announcement {
    broker_epoch: BrokerEpoch,
    shared: Arc<Shared>,
}

/// What all receivers are told. It is encoded once, by whichever connection comes first.
#[derive(Debug)]
struct Shared {
    version: i16,
    /// Without the epoch of a receiver.
    request: UpdateMetadataRequest,
    encoded: OnceLock<Result<Bytes, EncodeError>>,
}

impl PartialEq for Announcement {
    fn eq(&self, other: &Announcement) -> bool {
        (self.broker_epoch, self.shared.version) == (other.broker_epoch, other.shared.version)
            && self.shared.request == other.shared.request
    }
}

impl Announcement {
    #[cfg(test)]
    pub fn request(&self) -> UpdateMetadataRequest {
        UpdateMetadataRequest { broker_epoch: self.broker_epoch.0, ..self.shared.request.clone() }
    }

    /// The body of the request, in pieces.
    pub fn encoded(&self) -> Result<Vec<Bytes>, EncodeError> {
        let Shared { version, request, encoded } = &*self.shared;
        let encode = || {
            let mut writer = Writer::new();
            request.encode(&mut writer, *version)?;
            Ok(writer.into_bytes().unwrap_or_default())
        };
        let all = encoded.get_or_init(encode).clone()?;
        // The epoch stands behind the controller's id and epoch, and since version 8 what kind of controller it is.
        let at = match version {
            ..=4 => return Ok(vec![all]),
            5..=7 => 4 + 4,
            _ => 4 + 1 + 4,
        };
        let epoch = Bytes::copy_from_slice(&self.broker_epoch.0.to_be_bytes());
        Ok(vec![all.slice(..at), epoch.clone(), all.slice(at + epoch.len()..)])
    }
}

/// A request to one broker, in the version that the inter-broker protocol prescribes.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    pub to: BrokerId,
    pub version: i16,
    pub request: ControlRequest,
}

/// Whether a broker is to host the partition for the first time.
type IsNew = bool;

#[derive(Clone, Copy, Debug)]
struct StopReplicaEntry {
    leader_epoch: i32,
    delete: bool,
}

/// Everything to be told at the end of the current event: the names, since what there is to say of them is what holds then.
#[derive(Debug, Default)]
pub struct RequestBatch {
    leader_and_isr: BTreeMap<BrokerId, BTreeMap<TopicPartition, IsNew>>,
    /// To every live broker.
    metadata_for_all: Option<BTreeSet<TopicPartition>>,
    /// To these alone.
    metadata_for: BTreeMap<BrokerId, BTreeSet<TopicPartition>>,
    stop_replica: BTreeMap<BrokerId, BTreeMap<TopicPartition, StopReplicaEntry>>,
}

/// Who is speaking, and in which protocol.
#[derive(Clone, Debug)]
pub struct ControllerIdentity {
    pub broker_id: BrokerId,
    pub epoch: ControllerEpoch,
    pub protocol: MetadataVersion,
    pub inter_broker_listener: String,
}

impl RequestBatch {
    /// Tells replicas of a partition who leads, and all brokers its metadata. Brokers that are not live are skipped.
    pub fn leader_and_isr(
        &mut self,
        cluster: &Cluster,
        to: impl IntoIterator<Item = BrokerId>,
        partition: &TopicPartition,
        is_new: bool,
    ) {
        if cluster.partition(partition).is_none_or(|known| known.leadership.is_none()) {
            return;
        }
        for broker in to.into_iter().filter(|broker| cluster.brokers.contains_key(broker)) {
            // New stays new until the broker has been told.
            *self.leader_and_isr.entry(broker).or_default().entry(partition.clone()).or_default() |= is_new;
        }
        self.metadata([partition.clone()]);
    }

    /// Tells every live broker who is live, and about these partitions.
    pub fn metadata(&mut self, partitions: impl IntoIterator<Item = TopicPartition>) {
        self.metadata_for_all.get_or_insert_default().extend(partitions);
    }

    /// The same to one broker.
    pub fn metadata_to(&mut self, broker: BrokerId, partitions: impl IntoIterator<Item = TopicPartition>) {
        self.metadata_for.entry(broker).or_default().extend(partitions);
    }

    pub fn stop_replica(&mut self, cluster: &Cluster, broker: BrokerId, partition: &TopicPartition, delete: bool) {
        let leader_epoch = if cluster.is_going(partition) {
            EPOCH_DURING_DELETE
        } else {
            let leadership = cluster.partition(partition).and_then(|known| known.leadership.as_ref());
            leadership.map_or(NO_EPOCH, |leadership| leadership.leader_epoch.0)
        };
        self.stop(cluster, broker, partition, StopReplicaEntry { leader_epoch, delete });
    }

    /// Has a broker delete a log that no replica there has any more. It may be of an earlier topic of this name, whose epochs
    /// say nothing about this one's: none is told, and nobody refuses that.
    pub fn delete_left_behind(&mut self, cluster: &Cluster, broker: BrokerId, partition: &TopicPartition) {
        self.stop(cluster, broker, partition, StopReplicaEntry { leader_epoch: NO_EPOCH, delete: true });
    }

    fn stop(&mut self, cluster: &Cluster, broker: BrokerId, partition: &TopicPartition, stop: StopReplicaEntry) {
        if !cluster.brokers.contains_key(&broker) {
            return;
        }
        // What it was to do until now it is not to do any more.
        if let Some(entries) = self.leader_and_isr.get_mut(&broker) {
            entries.remove(partition);
        }
        let entry = self.stop_replica.entry(broker).or_default().entry(partition.clone());
        let entry = entry.or_insert(stop);
        entry.leader_epoch = stop.leader_epoch;
        entry.delete |= stop.delete;
    }

    /// The requests, per broker in the order LeaderAndIsr, UpdateMetadata, StopReplica, and leaves the batch empty.
    pub fn take(&mut self, cluster: &Cluster, controller: &ControllerIdentity) -> Vec<Outgoing> {
        let batch = std::mem::take(self);
        let mut outgoing = Vec::new();
        for (broker, entries) in batch.leader_and_isr.into_iter().filter(|(_, entries)| !entries.is_empty()) {
            if let Some(to) = cluster.brokers.get(&broker) {
                outgoing.push(leader_and_isr(cluster, controller, to, entries));
            }
        }
        if let Some(partitions) = &batch.metadata_for_all {
            let shared = Arc::new(update_metadata(cluster, controller, partitions));
            outgoing.extend(cluster.brokers.values().map(|to| announced(to, &shared)));
        }
        // What is told to several of these, as to those that start together, is made once too.
        let mut last: Option<(&BTreeSet<TopicPartition>, Arc<Shared>)> = None;
        for (broker, partitions) in &batch.metadata_for {
            if let Some(to) = cluster.brokers.get(broker) {
                let shared = match last.take() {
                    Some((same, shared)) if same == partitions => shared,
                    _ => Arc::new(update_metadata(cluster, controller, partitions)),
                };
                outgoing.push(announced(to, &shared));
                last = Some((partitions, shared));
            }
        }
        for (broker, entries) in batch.stop_replica {
            if let Some(to) = cluster.brokers.get(&broker) {
                outgoing.extend(stop_replica(controller, to, entries));
            }
        }
        outgoing
    }
}

fn announced(to: &Broker, shared: &Arc<Shared>) -> Outgoing {
    let announcement = Announcement { broker_epoch: to.epoch, shared: Arc::clone(shared) };
    Outgoing { to: to.id, version: shared.version, request: ControlRequest::UpdateMetadata(announcement) }
}

fn raw(brokers: &[BrokerId]) -> Vec<i32> {
    brokers.iter().map(|broker| broker.0).collect()
}

type ByTopic<T> = Vec<(Arc<str>, Vec<T>)>;

/// Groups by topic, keeping the order.
fn by_topic<T>(entries: impl IntoIterator<Item = (TopicPartition, T)>) -> ByTopic<T> {
    let mut topics: ByTopic<T> = Vec::new();
    for (partition, entry) in entries {
        match topics.last_mut() {
            Some((topic, entries)) if *topic == partition.topic => entries.push(entry),
            _ => topics.push((partition.topic, vec![entry])),
        }
    }
    topics
}

fn leader_and_isr(
    cluster: &Cluster,
    controller: &ControllerIdentity,
    to: &Broker,
    entries: BTreeMap<TopicPartition, IsNew>,
) -> Outgoing {
    let version = controller.protocol.leader_and_isr_request_version();
    let mut leaders: BTreeSet<BrokerId> = BTreeSet::new();
    let states = entries.into_iter().filter_map(|(name, is_new)| {
        let known = cluster.partition(&name)?;
        let leadership = known.leadership.as_ref()?;
        leaders.extend(leadership.leader);
        let state = LeaderAndIsrPartitionState {
            topic_name: if version < 2 { name.topic.to_string() } else { String::new() },
            partition_index: name.partition,
            controller_epoch: leadership.controller_epoch.0,
            leader: leadership.leader.map_or(NO_LEADER, |leader| leader.0),
            leader_epoch: leadership.leader_epoch.0,
            isr: raw(&leadership.isr),
            partition_epoch: leadership.partition_epoch.0,
            replicas: raw(&known.assignment.replicas),
            adding_replicas: raw(&known.assignment.adding),
            removing_replicas: raw(&known.assignment.removing),
            is_new,
            leader_recovery_state: if version >= 6 { i8::from(leadership.recovering) } else { 0 },
        };
        Some((name, state))
    });
    let mut request = LeaderAndIsrRequest {
        controller_id: controller.broker_id.0,
        controller_epoch: controller.epoch.0,
        broker_epoch: to.epoch.0,
        ..LeaderAndIsrRequest::default()
    };
    if version < 2 {
        request.ungrouped_partition_states = states.map(|(_, state)| state).collect();
    } else {
        for (topic, partition_states) in by_topic(states) {
            request.topic_states.push(LeaderAndIsrTopicState {
                topic_id: cluster.topics.get(&topic).map_or(TopicId::ZERO, |topic| topic.id),
                topic_name: topic.to_string(),
                partition_states,
            });
        }
    }
    let live_leaders = leaders.into_iter().filter_map(|leader| cluster.brokers.get(&leader)).filter_map(|leader| {
        let endpoint = leader.endpoint(&controller.inter_broker_listener)?;
        Some(LeaderAndIsrLiveLeader { broker_id: leader.id.0, host_name: endpoint.host.clone(), port: endpoint.port })
    });
    request.live_leaders = live_leaders.collect();
    Outgoing { to: to.id, version, request: ControlRequest::LeaderAndIsr(request) }
}

fn update_metadata(
    cluster: &Cluster,
    controller: &ControllerIdentity,
    partitions: &BTreeSet<TopicPartition>,
) -> Shared {
    let version = controller.protocol.update_metadata_request_version();
    let state = |name: &TopicPartition, with_topic: bool| -> Option<UpdateMetadataPartitionState> {
        let known = cluster.partition(name)?;
        let topic_name = if with_topic { name.topic.to_string() } else { String::new() };
        // Partitions without a leader so far are not announced, unless they are on their way out.
        let deleted = cluster.is_going(name);
        if deleted {
            return Some(UpdateMetadataPartitionState {
                topic_name,
                partition_index: name.partition,
                controller_epoch: controller.epoch.0,
                leader: LEADER_DURING_DELETE,
                leader_epoch: 0,
                isr: known.leadership.as_ref().map_or_else(Vec::new, |leadership| raw(&leadership.isr)),
                zk_version: 0,
                replicas: raw(&known.assignment.replicas),
                offline_replicas: Vec::new(),
            });
        }
        let leadership = known.leadership.as_ref()?;
        let replicas = &known.assignment.replicas;
        let offline = replicas.iter().filter(|replica| !cluster.is_replica_online(name, **replica));
        Some(UpdateMetadataPartitionState {
            topic_name,
            partition_index: name.partition,
            controller_epoch: leadership.controller_epoch.0,
            leader: leadership.leader.map_or(NO_LEADER, |leader| leader.0),
            leader_epoch: leadership.leader_epoch.0,
            isr: raw(&leadership.isr),
            zk_version: leadership.partition_epoch.0,
            replicas: raw(replicas),
            offline_replicas: offline.map(|replica| replica.0).collect(),
        })
    };
    let mut request = UpdateMetadataRequest {
        controller_id: controller.broker_id.0,
        controller_epoch: controller.epoch.0,
        live_brokers: cluster.brokers.values().map(|broker| metadata_broker(broker, version)).collect(),
        ..UpdateMetadataRequest::default()
    };
    if version < 5 {
        request.ungrouped_partition_states = partitions.iter().filter_map(|name| state(name, true)).collect();
    } else {
        let states = partitions.iter().filter_map(|name| Some((name.clone(), state(name, false)?)));
        for (topic, partition_states) in by_topic(states) {
            request.topic_states.push(UpdateMetadataTopicState {
                topic_name: topic.to_string(),
                topic_id: cluster.topics.get(&topic).map_or(TopicId::ZERO, |topic| topic.id),
                partition_states,
            });
        }
    }
    Shared { version, request, encoded: OnceLock::new() }
}

fn metadata_broker(broker: &Broker, version: i16) -> UpdateMetadataBroker {
    const PLAINTEXT: i16 = 0;
    if version == 0 {
        let plaintext = broker.endpoints.iter().find(|endpoint| endpoint.security_protocol == PLAINTEXT);
        return UpdateMetadataBroker {
            id: broker.id.0,
            v0_host: plaintext.map_or_else(String::new, |endpoint| endpoint.host.clone()),
            v0_port: plaintext.map_or(-1, |endpoint| endpoint.port),
            ..UpdateMetadataBroker::default()
        };
    }
    let endpoints = broker.endpoints.iter().map(|endpoint| UpdateMetadataEndpoint {
        port: endpoint.port,
        host: endpoint.host.clone(),
        listener: endpoint.listener.clone(),
        security_protocol: endpoint.security_protocol,
    });
    UpdateMetadataBroker {
        id: broker.id.0,
        endpoints: endpoints.collect(),
        rack: broker.rack.clone(),
        ..UpdateMetadataBroker::default()
    }
}

fn stop_replica(
    controller: &ControllerIdentity,
    to: &Broker,
    entries: BTreeMap<TopicPartition, StopReplicaEntry>,
) -> Vec<Outgoing> {
    let version = controller.protocol.stop_replica_request_version();
    let empty = StopReplicaRequest {
        controller_id: controller.broker_id.0,
        controller_epoch: controller.epoch.0,
        broker_epoch: to.epoch.0,
        ..StopReplicaRequest::default()
    };
    let outgoing = |request| Outgoing { to: to.id, version, request: ControlRequest::StopReplica(request) };
    if version >= 3 {
        let states = entries.into_iter().map(|(name, entry)| {
            let state = StopReplicaPartitionState {
                partition_index: name.partition,
                leader_epoch: entry.leader_epoch,
                delete_partition: entry.delete,
            };
            (name, state)
        });
        let topics = by_topic(states).into_iter();
        let topics = topics
            .map(|(topic, partition_states)| StopReplicaTopicState { topic_name: topic.to_string(), partition_states });
        return vec![outgoing(StopReplicaRequest { topic_states: topics.collect(), ..empty })];
    }
    // The old layouts say once for the whole request whether to delete.
    let (deleted, stopped): (BTreeMap<_, _>, BTreeMap<_, _>) = entries.into_iter().partition(|(_, entry)| entry.delete);
    [(true, deleted), (false, stopped)]
        .into_iter()
        .filter(|(_, entries)| !entries.is_empty())
        .map(|(delete_partitions, entries)| {
            let mut request = StopReplicaRequest { delete_partitions, ..empty.clone() };
            if version == 0 {
                let partitions = entries.into_keys().map(|partition| StopReplicaPartitionV0 {
                    topic_name: partition.topic.to_string(),
                    partition_index: partition.partition,
                });
                request.ungrouped_partitions = partitions.collect();
            } else {
                let indexes = entries.into_keys().map(|name| {
                    let index = name.partition;
                    (name, index)
                });
                let topics = by_topic(indexes).into_iter();
                let topics = topics.map(|(topic, partition_indexes)| StopReplicaTopicV1 {
                    name: topic.to_string(),
                    partition_indexes,
                });
                request.topics = topics.collect();
            }
            outgoing(request)
        })
        .collect()
}
