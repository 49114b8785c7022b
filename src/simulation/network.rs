//! The network between brokers: requests and their replies, each as late as the script wants. What is lost the caller
//! learns in time, as of a connection that broke; a caller may give up on what is only late, and what it asked is done
//! all the same, perhaps after what it asked next. But for an ISR: what a leader asks again and is refused counts for it, and
//! would be changed behind its back by the same question that comes later. Nothing in the protocol tells the two apart; a
//! connection that is closed mostly does. So it is with markers: those of one transaction look like those of the producer's
//! next, as long as they have the same coordinator, and so do requests of clients, which are not in this network. Markers that
//! their coordinator does not send again may come at any time.

use std::collections::{BTreeMap, BTreeSet};

use crate::controller::requests::Outgoing;
use crate::coordinator::transaction::state::Producer;
use crate::model::transaction_version::TransactionVersion;
use crate::model::{BrokerEpoch, BrokerId, ConnectionNumber, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::alter_partition::response::AlterPartitionResponse;
use crate::protocol::messages::alter_partition::{self, AlterPartitionRequest};
use crate::protocol::messages::fetch::{FetchRequest, FetchResponse};
use crate::protocol::messages::leader_and_isr::LeaderAndIsrResponse;
use crate::protocol::messages::list_offsets::{ListOffsetsRequest, ListOffsetsResponse};
use crate::protocol::messages::offset_for_leader_epoch::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use crate::protocol::messages::stop_replica::StopReplicaResponse;
use crate::protocol::messages::write_txn_markers::{WriteTxnMarkersRequest, WriteTxnMarkersResponse};

/// By which a reply finds who called; no two calls have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CallId(u64);

impl CallId {
    pub fn connection(self) -> ConnectionNumber {
        ConnectionNumber(self.0)
    }
}

#[derive(Clone, Debug)]
pub(super) enum Request {
    /// Of a controller.
    Control(Outgoing),
    AlterPartition(AlterPartitionRequest),
    Fetch(FetchRequest),
    EpochEnds(OffsetForLeaderEpochRequest),
    Offsets(ListOffsetsRequest),
    /// Whoever asks is about to stop.
    ControlledShutdown(BrokerEpoch),
    WriteTxnMarkers(WriteTxnMarkersRequest),
    /// Whether the partition is in the transaction, or is from now on; AddPartitionsToTxn, as leaders ask it of coordinators.
    Verify {
        transactional_id: &'static str,
        producer: Producer,
        version: TransactionVersion,
        partition: TopicPartition,
    },
}

#[derive(Clone, Debug)]
pub(super) enum Reply {
    LeaderAndIsr(LeaderAndIsrResponse),
    StopReplica(StopReplicaResponse),
    /// To a control request of which nothing is told but that it was received.
    Received,
    AlterPartition(AlterPartitionResponse),
    Fetch(FetchResponse),
    EpochEnds(OffsetForLeaderEpochResponse),
    Offsets(ListOffsetsResponse),
    /// What whoever is about to stop leads still; `None` if it may not leave in order.
    StillLed(Option<Vec<TopicPartition>>),
    WriteTxnMarkers(WriteTxnMarkersResponse),
    Verified(Result<(), ErrorCode>),
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    Request(Request),
    Reply(Reply),
    /// The caller hears no more of its call.
    Lost,
}

#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub from: BrokerId,
    pub to: BrokerId,
    pub call: CallId,
    pub body: Body,
}

impl Packet {
    /// What the caller learns when this does not arrive.
    pub fn lost(&self) -> Packet {
        let caller = if let Body::Request(_) = self.body { self.from } else { self.to };
        Packet { from: caller, to: caller, call: self.call, body: Body::Lost }
    }

    /// That are asked for.
    pub fn markers(&self) -> Option<&WriteTxnMarkersRequest> {
        match &self.body {
            Body::Request(Request::WriteTxnMarkers(asked)) => Some(asked),
            _ => None,
        }
    }

    /// The ISRs of a partition that it asks for.
    pub fn isrs_asked(&self, name: &TopicPartition) -> Vec<Vec<i32>> {
        let Body::Request(Request::AlterPartition(asked)) = &self.body else { return Vec::new() };
        let of_topic = asked.topics.iter().filter(|topic| *topic.topic_name == *name.topic);
        let of_partition =
            of_topic.flat_map(|topic| &topic.partitions).filter(|asked| asked.partition_index == name.partition);
        let members = |asked: &alter_partition::PartitionData| {
            asked.new_isr_with_epochs.iter().map(|member| member.broker_id).collect()
        };
        of_partition.map(members).collect()
    }

    pub fn answered(&self, reply: Reply) -> Packet {
        Packet { from: self.to, to: self.from, call: self.call, body: Body::Reply(reply) }
    }
}

#[derive(Debug, Default)]
pub(super) struct Network {
    pub packets: Vec<Packet>,
    /// Of calls that were given up, and what comes twice: it arrives long after.
    pub late: Vec<Packet>,
    calls: u64,
    /// The latest of a leader's questions for ISRs that a broker has got.
    isrs_asked: BTreeMap<(BrokerId, BrokerId), CallId>,
    /// Who does not reach whom.
    pub cut: BTreeSet<(BrokerId, BrokerId)>,
}

impl Network {
    pub fn call(&mut self, from: BrokerId, to: BrokerId, request: Request) -> CallId {
        if let Request::WriteTxnMarkers(asked) = &request {
            let is_repeated = |packet: &Packet| packet.markers().is_some_and(|earlier| are_repeated(earlier, asked));
            self.forget(|packet| packet.from == from && is_repeated(packet));
        }
        self.calls += 1;
        let call = CallId(self.calls);
        self.packets.push(Packet { from, to, call, body: Body::Request(request) });
        call
    }

    /// These requests do not arrive any more.
    pub fn forget(&mut self, is_forgotten: impl Fn(&Packet) -> bool) {
        let is_forgotten = |packet: &mut Packet| matches!(packet.body, Body::Request(_)) && is_forgotten(packet);
        self.late.retain_mut(|packet| !is_forgotten(packet));
        let lost: Vec<Packet> = self.packets.extract_if(.., is_forgotten).map(|packet| packet.lost()).collect();
        self.packets.extend(lost);
    }

    /// Whether a leader has asked the same broker for ISRs since, over another connection.
    pub fn is_overtaken(&mut self, packet: &Packet) -> bool {
        let Body::Request(Request::AlterPartition(_)) = packet.body else { return false };
        let latest = self.isrs_asked.entry((packet.from, packet.to)).or_insert(packet.call);
        *latest = packet.call.max(*latest);
        packet.call < *latest
    }

    /// Cuts a broker off from the others, both ways or so that it only sends, or only hears.
    pub fn cut_off(&mut self, broker: BrokerId, others: impl Iterator<Item = BrokerId>, sends: bool, hears: bool) {
        for other in others.filter(|other| *other != broker) {
            if !sends {
                self.cut.insert((broker, other));
            }
            if !hears {
                self.cut.insert((other, broker));
            }
        }
    }
}

/// Whether one marker of a request is in a later one, too.
fn are_repeated(earlier: &WriteTxnMarkersRequest, later: &WriteTxnMarkersRequest) -> bool {
    let each = |request: &WriteTxnMarkersRequest| {
        let of_marker = request.markers.iter().flat_map(|marker| {
            let of_topic = marker.topics.iter().flat_map(move |topic| {
                let name = topic.name.clone();
                topic.partition_indexes.iter().map(move |partition| {
                    (marker.producer_id, marker.producer_epoch, marker.coordinator_epoch, name.clone(), *partition)
                })
            });
            of_topic.collect::<Vec<_>>()
        });
        of_marker.collect::<BTreeSet<_>>()
    };
    !each(earlier).is_disjoint(&each(later))
}
