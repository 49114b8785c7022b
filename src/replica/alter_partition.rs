//! ISR changes by AlterPartition, as leaders ask for them from `inter.broker.protocol.version` 2.7-IV2 on: one request for
//! all partitions that wait, and one at a time.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/AlterPartitionManager.scala, 2.8.2 AlterIsrManager.scala.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use log::{error, warn};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::metadata_version::MetadataVersion;
use crate::model::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionEpoch, TopicId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::alter_partition::response::AlterPartitionResponse;
use crate::protocol::messages::alter_partition::{AlterPartitionRequest, BrokerState, PartitionData, TopicData};
use crate::replica::isr_changes::{AfterAnswer, IsrAnswer, IsrProposal};
use crate::replica::replica_manager::ReplicaManager;
use crate::replica::to_controller::ToController;

/// Before what was refused as a whole is asked again: nothing tells when the controller will have it, and Kafka waits as long.
const RETRY_BACKOFF: Duration = Duration::from_millis(50);

/// The first version that names topics by id.
const TOPIC_IDS_FROM: i16 = 2;
/// The first version in which members of an ISR have epochs.
const MEMBER_EPOCHS_FROM: i16 = 3;

/// Topics can be named by their ids only if all have one, and the protocol knows of ids.
pub(crate) fn version_max(proposals: &[IsrProposal], protocol: MetadataVersion) -> i16 {
    let has_ids = protocol.is_topic_ids_supported() && proposals.iter().all(|proposal| !proposal.topic_id.is_zero());
    if has_ids { i16::MAX } else { TOPIC_IDS_FROM - 1 }
}

/// Proposals come in the order of their partitions. A JVM broker of a cluster on ZooKeeper tells no epochs of members, and
/// its controller looks at none. Ours does, and lets nobody in who has registered again since he was proposed: what is
/// asked for may be asked for again long after. Of those that are in sync the controller knows itself what became of them.
/// Where followers do not say who they are (below `inter.broker.protocol.version` 3.5-IV1), or the version has no place for it,
/// nobody can tell. Nor would it help to ask for something else after a failure, since what failed may arrive.
pub(crate) fn request(
    proposals: &[IsrProposal],
    broker: BrokerId,
    broker_epoch: BrokerEpoch,
    version: i16,
) -> AlterPartitionRequest {
    let asked = |proposal: &IsrProposal| {
        let isr = proposal.isr.iter().map(|member| member.0);
        let mut partition = PartitionData {
            partition_index: proposal.partition.partition,
            leader_epoch: proposal.leader_epoch.0,
            partition_epoch: proposal.partition_epoch.0,
            ..Default::default()
        };
        if version >= MEMBER_EPOCHS_FROM {
            let told = |broker_id| proposal.joining.filter(|(joining, _)| joining.0 == broker_id);
            let member =
                |broker_id| BrokerState { broker_id, broker_epoch: told(broker_id).map_or(-1, |(_, epoch)| epoch.0) };
            partition.new_isr_with_epochs = isr.map(member).collect();
        } else {
            partition.new_isr = isr.collect();
        }
        partition
    };
    let of_topic = |proposals: &[IsrProposal]| TopicData {
        topic_name: proposals[0].partition.topic.to_string(),
        topic_id: proposals[0].topic_id,
        partitions: proposals.iter().map(asked).collect(),
    };
    let topics = proposals.chunk_by(|one, next| one.partition.topic == next.partition.topic).map(of_topic).collect();
    AlterPartitionRequest { broker_id: broker.0, broker_epoch: broker_epoch.0, topics }
}

/// What each proposal was answered; those of which nothing was said come back.
pub(crate) fn answers(
    proposals: Vec<IsrProposal>,
    response: &AlterPartitionResponse,
    version: i16,
) -> (Vec<(IsrProposal, IsrAnswer)>, Vec<IsrProposal>) {
    let names: HashMap<TopicId, Arc<str>> =
        proposals.iter().map(|proposal| (proposal.topic_id, Arc::clone(&proposal.partition.topic))).collect();
    let mut said: BTreeMap<TopicPartition, IsrAnswer> = BTreeMap::new();
    for topic in &response.topics {
        let name = match version >= TOPIC_IDS_FROM {
            true => names.get(&topic.topic_id).cloned(),
            false => Some(topic.topic_name.as_str().into()),
        };
        let Some(name) = name else {
            error!("the controller answers for topic {}, of which it was not asked", topic.topic_id);
            continue;
        };
        for partition in &topic.partitions {
            let answer = match ErrorCode::from_code(partition.error_code) {
                ErrorCode::None => IsrAnswer::InForce {
                    leader_epoch: LeaderEpoch(partition.leader_epoch),
                    partition_epoch: PartitionEpoch(partition.partition_epoch),
                    isr: partition.isr.iter().copied().map(BrokerId).collect(),
                },
                code => refused(code),
            };
            said.insert(TopicPartition { topic: Arc::clone(&name), partition: partition.partition_index }, answer);
        }
    }
    let mut answered = Vec::new();
    let mut unanswered = Vec::new();
    for proposal in proposals {
        match said.remove(&proposal.partition) {
            Some(answer) => answered.push((proposal, answer)),
            None => unanswered.push(proposal),
        }
    }
    (answered, unanswered)
}

/// What an error on a partition means for its leader.
fn refused(code: ErrorCode) -> IsrAnswer {
    match code {
        ErrorCode::OperationNotAttempted | ErrorCode::IneligibleReplica => IsrAnswer::NotApplied,
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::UnknownTopicId
        | ErrorCode::FencedLeaderEpoch
        | ErrorCode::InvalidUpdateVersion
        | ErrorCode::InvalidRequest
        | ErrorCode::NewLeaderElected => IsrAnswer::Unclear,
        _ => IsrAnswer::Failed,
    }
}

/// Speaks for all leaders of this broker until shutdown.
pub async fn run(
    replicas: Arc<ReplicaManager>,
    mut controller: ToController,
    protocol: MetadataVersion,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut registered = replicas.broker_epoch();
    let mut beside = JoinSet::new();
    loop {
        let proposals = tokio::select! {
            proposals = replicas.next_isr_changes(&mut beside) => proposals,
            _ = shutdown.wait_for(|stop| *stop) => return,
        };
        let asked = ask(&replicas, &mut controller, &mut registered, &proposals, protocol);
        let (response, version) = tokio::select! {
            answered = asked => match answered {
                Some(answered) => answered,
                None => return,
            },
            _ = shutdown.wait_for(|stop| *stop) => return,
        };
        let code = ErrorCode::from_code(response.error_code);
        let failed = if code.is_error() {
            warn!("the controller answers AlterPartition with {code}, asking again");
            replicas.isr_changes().put_back(proposals);
            true
        } else {
            let (answered, mut again) = answers(proposals, &response, version);
            for (proposal, answer) in answered {
                if replicas.isr_answered(&proposal, answer, &mut beside) == AfterAnswer::AskAgain {
                    again.push(proposal);
                }
            }
            let failed = !again.is_empty();
            replicas.isr_changes().put_back(again);
            failed
        };
        if failed {
            tokio::select! {
                () = tokio::time::sleep(RETRY_BACKOFF) => {}
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
        }
    }
}

/// `None` when the broker has shut down.
async fn ask(
    replicas: &ReplicaManager,
    controller: &mut ToController,
    registered: &mut watch::Receiver<Option<BrokerEpoch>>,
    proposals: &[IsrProposal],
    protocol: MetadataVersion,
) -> Option<(AlterPartitionResponse, i16)> {
    // Between two registrations nobody would take it.
    let broker_epoch = (*registered.wait_for(Option::is_some).await.ok()?)?;
    let at_most = || version_max(proposals, protocol);
    let build = |version| request(proposals, replicas.broker(), broker_epoch, version);
    let answered = controller.ask(at_most, build, |response| response.error_code).await;
    Some((answered.response, answered.version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ControllerEpoch;
    use crate::protocol::messages::alter_partition::response;

    fn proposal(topic: &str, topic_id: u8, partition: i32) -> IsrProposal {
        IsrProposal {
            partition: TopicPartition::new(topic, partition),
            topic_id: TopicId([topic_id; 16]),
            controller_epoch: ControllerEpoch(1),
            leader_epoch: LeaderEpoch(4),
            partition_epoch: PartitionEpoch(9),
            isr: vec![BrokerId(1), BrokerId(2)],
            joining: Some((BrokerId(2), BrokerEpoch(22))),
            number: 0,
        }
    }

    #[test]
    fn ids_are_used_if_all_topics_have_one_and_the_protocol_knows_them() {
        let with = [proposal("a", 1, 0), proposal("b", 2, 0)];
        let without = [proposal("a", 1, 0), proposal("b", 0, 0)];
        assert_eq!(version_max(&with, MetadataVersion::V2_8_IV0), i16::MAX);
        assert_eq!(version_max(&without, MetadataVersion::LATEST), 1);
        assert_eq!(version_max(&with, MetadataVersion::V2_7_IV2), 1);
    }

    #[test]
    fn a_request_names_what_its_version_has_a_place_for() {
        let proposals = [proposal("a", 1, 0), proposal("a", 1, 3), proposal("b", 2, 0)];
        for version in 0..=3 {
            let request = request(&proposals, BrokerId(1), BrokerEpoch(77), version);
            let mut writer = crate::codec::writer::Writer::new();
            crate::protocol::message::Message::encode(&request, &mut writer, version).expect("it has a place for all");
            assert_eq!((request.broker_id, request.broker_epoch), (1, 77));
            let partitions = request.topics.iter().map(|topic| topic.partitions.len());
            assert_eq!(partitions.collect::<Vec<_>>(), [2, 1]);
            let first = &request.topics[0].partitions[0];
            assert_eq!((first.leader_epoch, first.partition_epoch, first.leader_recovery_state), (4, 9, 0));
            let members: Vec<_> = first.new_isr_with_epochs.iter().map(|m| (m.broker_id, m.broker_epoch)).collect();
            match version {
                3 => assert_eq!((&first.new_isr[..], &members[..]), (&[][..], &[(1, -1), (2, 22)][..])),
                _ => assert_eq!((&first.new_isr[..], &members[..]), (&[1, 2][..], &[][..])),
            }
        }
    }

    #[test]
    fn each_proposal_gets_its_answer_and_those_without_one_come_back() {
        let answered = |partition_index, error_code| response::PartitionData {
            partition_index,
            error_code,
            leader_epoch: 4,
            isr: vec![1, 2],
            partition_epoch: 10,
            ..Default::default()
        };
        let topic = |name: &str, id: u8, partitions| response::TopicData {
            topic_name: name.into(),
            topic_id: TopicId([id; 16]),
            partitions,
        };
        let proposals = vec![proposal("a", 1, 0), proposal("a", 1, 3), proposal("b", 2, 0)];
        let in_force = IsrAnswer::InForce {
            leader_epoch: LeaderEpoch(4),
            partition_epoch: PartitionEpoch(10),
            isr: vec![BrokerId(1), BrokerId(2)],
        };
        for (version, name, id) in [(3, "", 1), (1, "a", 0)] {
            let topics =
                vec![topic(name, id, vec![answered(0, 0), answered(3, 107)]), topic("c", 9, vec![answered(0, 0)])];
            let response = AlterPartitionResponse { topics, ..Default::default() };
            let (said, unanswered) = answers(proposals.clone(), &response, version);
            assert_eq!(said, [(proposals[0].clone(), in_force.clone()), (proposals[1].clone(), IsrAnswer::NotApplied)]);
            assert_eq!(unanswered, [proposals[2].clone()]);
        }
    }

    /// Source: Partition.scala (handleAlterPartitionError).
    #[test]
    fn what_an_error_means_is_what_it_means_to_kafka() {
        for code in [55, 107] {
            assert_eq!(refused(ErrorCode::from_code(code)), IsrAnswer::NotApplied);
        }
        for code in [3, 100, 74, 95, 42, 108] {
            assert_eq!(refused(ErrorCode::from_code(code)), IsrAnswer::Unclear);
        }
        for code in [-1, 7, 29, 41] {
            assert_eq!(refused(ErrorCode::from_code(code)), IsrAnswer::Failed);
        }
    }
}
