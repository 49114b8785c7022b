//! Packets as a trace shows them.

use crate::controller::requests::ControlRequest;
use crate::simulation::network::{Body, Packet, Reply, Request};

pub(super) fn shown(packet: &Packet) -> String {
    let Packet { from, to, body, .. } = packet;
    let what = match body {
        Body::Request(Request::Control(outgoing)) => match &outgoing.request {
            ControlRequest::LeaderAndIsr(request) => {
                let states = request.topic_states.iter().flat_map(|topic| {
                    let of = |state: &crate::protocol::messages::leader_and_isr::LeaderAndIsrPartitionState| {
                        format!(
                            "{}-{} led by {} in epoch {}.{} with {:?}",
                            topic.topic_name,
                            state.partition_index,
                            state.leader,
                            state.leader_epoch,
                            state.partition_epoch,
                            state.isr
                        )
                    };
                    topic.partition_states.iter().map(of).collect::<Vec<_>>()
                });
                format!(
                    "LeaderAndIsr of controller epoch {}: {}",
                    request.controller_epoch,
                    states.collect::<Vec<_>>().join(", ")
                )
            }
            ControlRequest::UpdateMetadata(announcement) => {
                let live = announcement.request().live_brokers;
                format!("UpdateMetadata: {:?}", live.iter().map(|broker| broker.id).collect::<Vec<_>>())
            }
            ControlRequest::StopReplica(_) => "StopReplica".to_owned(),
        },
        Body::Request(Request::Fetch(request)) => {
            let asked = request.topics.iter().flat_map(|topic| &topic.partitions);
            let asked = asked.map(|asked| {
                (asked.partition, asked.fetch_offset, asked.current_leader_epoch, asked.last_fetched_epoch)
            });
            format!("Fetch {:?}", asked.collect::<Vec<_>>())
        }
        Body::Reply(Reply::Fetch(response)) => {
            let told = response.responses.iter().flat_map(|topic| &topic.partitions);
            let told = told
                .map(|told| (told.partition_index, told.error_code, told.high_watermark, told.diverging_epoch.epoch));
            format!("fetched {:?}", told.collect::<Vec<_>>())
        }
        Body::Request(Request::AlterPartition(request)) => format!("AlterPartition {:?}", request.topics),
        other => format!("{other:?}"),
    };
    format!("{from} → {to}: {what}")
}
