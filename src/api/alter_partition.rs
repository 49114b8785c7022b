//! AlterPartition. Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/KafkaApis.scala (handleAlterPartitionRequest),
//! core/src/main/scala/kafka/controller/KafkaController.scala (tryProcessAlterPartition).

use std::sync::Arc;

use crate::api::refusals::Refusing;
use crate::api::{Handled, RequestContext, Server};
use crate::controller::active::{Answer, Request};
use crate::controller::alter_partition::{AlterPartitions, AlterRefusal, Altered, AskedIsr, AskedPartition, TopicRef};
use crate::model::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionEpoch};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::alter_partition::AlterPartitionRequest;
use crate::protocol::messages::alter_partition::response::{AlterPartitionResponse, PartitionData, TopicData};

const RECOVERING: i8 = 1;

/// The first version of leaders of 3.2.
const REFUSED_MEMBERS_FROM: i16 = 1;
/// Topics have ids instead of names from here on.
const TOPIC_IDS_FROM: i16 = 2;

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: AlterPartitionRequest,
) -> AlterPartitionResponse {
    let version = context.api_version;
    match server.controller.ask(Request::AlterPartitions(asked(request, version))).await {
        Some(Answer::AlterPartitions(Err(_))) => refusal(ErrorCode::StaleBrokerEpoch),
        Some(Answer::AlterPartitions(Ok(altered))) => answer(altered, version),
        _ => refusal(ErrorCode::NotController),
    }
}

pub(crate) fn refusal(code: ErrorCode) -> AlterPartitionResponse {
    AlterPartitionResponse { error_code: code.code(), ..Default::default() }
}

impl Refusing for AlterPartitionResponse {
    type Request = AlterPartitionRequest;

    fn refused(_: AlterPartitionRequest, _: i16, code: ErrorCode, _: &str) -> Handled<AlterPartitionResponse> {
        Handled::Reply(refusal(code))
    }
}

pub(crate) fn asked(request: AlterPartitionRequest, version: i16) -> AlterPartitions {
    let mut partitions = Vec::new();
    for topic in request.topics {
        let named = match version >= TOPIC_IDS_FROM {
            true => TopicRef::Id(topic.topic_id),
            false => TopicRef::Name(topic.topic_name.into()),
        };
        partitions.extend(topic.partitions.into_iter().map(|partition| {
            let with_epochs = partition.new_isr_with_epochs.iter().map(|member| member.broker_id);
            let told = partition.new_isr_with_epochs.iter().filter(|member| member.broker_epoch >= 0);
            AskedPartition {
                topic: named.clone(),
                partition: partition.partition_index,
                asked: AskedIsr {
                    leader_epoch: LeaderEpoch(partition.leader_epoch),
                    partition_epoch: PartitionEpoch(partition.partition_epoch),
                    // The one field or the other, by the version.
                    isr: partition.new_isr.iter().copied().chain(with_epochs).map(BrokerId).collect(),
                    epochs: told.map(|member| (BrokerId(member.broker_id), BrokerEpoch(member.broker_epoch))).collect(),
                    recovering: partition.leader_recovery_state == RECOVERING,
                },
            }
        }));
    }
    let (broker, broker_epoch) = (BrokerId(request.broker_id), BrokerEpoch(request.broker_epoch));
    let knows_refused_members = version >= REFUSED_MEMBERS_FROM;
    AlterPartitions { broker, broker_epoch, knows_refused_members, partitions }
}

pub(crate) fn answer(altered: Vec<Altered>, version: i16) -> AlterPartitionResponse {
    // Of one partition it means nothing to a leader of before 3.2; of all it has the leader look for the controller.
    let is_behind = |altered: &Altered| altered.outcome == Err(AlterRefusal::NotController);
    if version < REFUSED_MEMBERS_FROM && altered.iter().any(is_behind) {
        return refusal(ErrorCode::NotController);
    }
    let mut topics: Vec<TopicData> = Vec::new();
    let mut last: Option<Arc<str>> = None;
    for Altered { topic, topic_id, partition, outcome } in altered {
        let partition = match outcome {
            Ok(now) => PartitionData {
                partition_index: partition,
                leader_id: now.leader.map_or(-1, |leader| leader.0),
                leader_epoch: now.leader_epoch.0,
                isr: now.isr.iter().map(|member| member.0).collect(),
                leader_recovery_state: if now.recovering { RECOVERING } else { 0 },
                partition_epoch: now.partition_epoch.0,
                ..Default::default()
            },
            Err(why) => PartitionData {
                partition_index: partition,
                error_code: code(why, version).code(),
                ..Default::default()
            },
        };
        match topics.last_mut() {
            Some(same) if last.as_ref() == Some(&topic) && same.topic_id == topic_id => same.partitions.push(partition),
            _ => {
                let topic_name = topic.to_string();
                topics.push(TopicData { topic_name, topic_id, partitions: vec![partition] });
                last = Some(topic);
            }
        }
    }
    AlterPartitionResponse { topics, ..Default::default() }
}

fn code(why: AlterRefusal, version: i16) -> ErrorCode {
    match why {
        AlterRefusal::NotController => ErrorCode::NotController,
        AlterRefusal::UnknownTopicId => ErrorCode::UnknownTopicId,
        AlterRefusal::UnknownTopicOrPartition => ErrorCode::UnknownTopicOrPartition,
        AlterRefusal::FencedLeaderEpoch => ErrorCode::FencedLeaderEpoch,
        AlterRefusal::InvalidUpdateVersion => ErrorCode::InvalidUpdateVersion,
        AlterRefusal::InvalidRequest => ErrorCode::InvalidRequest,
        AlterRefusal::IneligibleReplica if version < TOPIC_IDS_FROM => ErrorCode::OperationNotAttempted,
        AlterRefusal::IneligibleReplica => ErrorCode::IneligibleReplica,
        AlterRefusal::NotWritten => ErrorCode::UnknownServerError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::state::LeaderAndIsr;
    use crate::model::{ControllerEpoch, TopicId};
    use crate::protocol::messages::alter_partition::{BrokerState, PartitionData as Asked, TopicData as AskedTopic};

    #[test]
    fn every_version_of_the_request_asks_for_the_same() {
        let request = |topic_name: &str, topic_id, new_isr: &[i32], with_epochs: &[(i32, i64)]| AlterPartitionRequest {
            broker_id: 1,
            broker_epoch: 9,
            topics: vec![AskedTopic {
                topic_name: topic_name.into(),
                topic_id,
                partitions: vec![Asked {
                    partition_index: 3,
                    leader_epoch: 4,
                    new_isr: new_isr.to_vec(),
                    new_isr_with_epochs: with_epochs
                        .iter()
                        .map(|&(broker_id, broker_epoch)| BrokerState { broker_id, broker_epoch })
                        .collect(),
                    leader_recovery_state: 0,
                    partition_epoch: 5,
                }],
            }],
        };
        let id = TopicId([3; 16]);
        let expected = |topic, epochs: &[(i32, i64)]| AlterPartitions {
            broker: BrokerId(1),
            broker_epoch: BrokerEpoch(9),
            knows_refused_members: true,
            partitions: vec![AskedPartition {
                topic,
                partition: 3,
                asked: AskedIsr {
                    leader_epoch: LeaderEpoch(4),
                    partition_epoch: PartitionEpoch(5),
                    isr: vec![BrokerId(1), BrokerId(2)],
                    epochs: epochs.iter().map(|(id, epoch)| (BrokerId(*id), BrokerEpoch(*epoch))).collect(),
                    recovering: false,
                },
            }],
        };
        let by_name = expected(TopicRef::Name("t".into()), &[]);
        assert_eq!(asked(request("t", TopicId::ZERO, &[1, 2], &[]), 1), by_name);
        let first = AlterPartitions { knows_refused_members: false, ..by_name };
        assert_eq!(asked(request("t", TopicId::ZERO, &[1, 2], &[]), 0), first);
        assert_eq!(asked(request("", id, &[1, 2], &[]), 2), expected(TopicRef::Id(id), &[]));
        assert_eq!(asked(request("", id, &[], &[(1, -1), (2, 22)]), 3), expected(TopicRef::Id(id), &[(2, 22)]));
    }

    #[test]
    fn the_answer_groups_by_topic_and_old_versions_have_another_word_for_an_ineligible_replica() {
        let (known, unknown) = (TopicId([3; 16]), TopicId([4; 16]));
        let altered =
            |topic: &str, topic_id, partition, outcome| Altered { topic: topic.into(), topic_id, partition, outcome };
        let now = LeaderAndIsr {
            leader: Some(BrokerId(1)),
            leader_epoch: LeaderEpoch(4),
            isr: vec![BrokerId(1)],
            recovering: false,
            controller_epoch: ControllerEpoch(2),
            partition_epoch: PartitionEpoch(6),
        };
        let all = vec![
            altered("", unknown, 0, Err(AlterRefusal::UnknownTopicId)),
            altered("t", known, 0, Ok(now)),
            altered("t", known, 1, Err(AlterRefusal::IneligibleReplica)),
        ];
        let response = answer(all.clone(), 3);
        let codes = |response: &AlterPartitionResponse| -> Vec<Vec<i16>> {
            let topics = response.topics.iter();
            topics.map(|topic| topic.partitions.iter().map(|partition| partition.error_code).collect()).collect()
        };
        assert_eq!(codes(&response), [vec![100], vec![0, 107]]);
        assert_eq!((response.topics[0].topic_id, response.topics[1].topic_id), (unknown, known));
        let told = &response.topics[1].partitions[0];
        assert_eq!((told.leader_id, told.leader_epoch, &told.isr[..], told.partition_epoch), (1, 4, &[1][..], 6));
        assert_eq!(codes(&answer(all, 1))[1], [0, 55]);
        let behind = vec![altered("t", known, 0, Err(AlterRefusal::NotController))];
        assert_eq!((answer(behind.clone(), 1).error_code, codes(&answer(behind.clone(), 1))), (0, vec![vec![41]]));
        assert_eq!(answer(behind, 0), refusal(ErrorCode::NotController));
    }
}
