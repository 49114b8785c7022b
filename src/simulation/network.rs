//! The network between brokers: requests and their replies, each as late as the script wants. What is lost the caller
//! learns in time, as of a connection that broke; a caller may give up on what is only late, and what it asked is done
//! all the same, perhaps after what it asked next. But for an ISR: what a leader asks again and is refused counts for it, and
//! would be changed behind its back by the same question that comes later. Nothing in the protocol tells the two apart; a
//! connection that is closed mostly does.

use std::collections::{BTreeMap, BTreeSet};

use crate::controller::requests::Outgoing;
use crate::model::{BrokerEpoch, BrokerId, TopicPartition};
use crate::protocol::messages::alter_partition::AlterPartitionRequest;
use crate::protocol::messages::alter_partition::response::AlterPartitionResponse;
use crate::protocol::messages::fetch::{FetchRequest, FetchResponse};
use crate::protocol::messages::leader_and_isr::LeaderAndIsrResponse;
use crate::protocol::messages::list_offsets::{ListOffsetsRequest, ListOffsetsResponse};
use crate::protocol::messages::offset_for_leader_epoch::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use crate::protocol::messages::stop_replica::StopReplicaResponse;

/// By which a reply finds who called; no two calls have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CallId(u64);

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
        self.calls += 1;
        let call = CallId(self.calls);
        self.packets.push(Packet { from, to, call, body: Body::Request(request) });
        call
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
