//! What the controller asks of this broker, whatever version it asked in, and the fences that every such request passes.

use crate::model::{BrokerEpoch, ConnectionNumber, ControllerEpoch, LeaderEpoch, TopicPartition};
use crate::replica::leader::{Decision, DecisionRefusal};

/// The epochs that every control request carries, and the connection that it came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlEpochs {
    pub controller_epoch: ControllerEpoch,
    /// The registration of this broker that the controller means; -1 when its version cannot say.
    pub broker_epoch: BrokerEpoch,
    pub connection: ConnectionNumber,
}

/// A LeaderAndIsr request.
#[derive(Clone, Debug)]
pub struct Decisions {
    pub epochs: ControlEpochs,
    pub decisions: Vec<(TopicPartition, Decision)>,
    /// A controller that migrates the cluster to KRaft repeats decisions under the same leader epoch.
    pub same_epoch_allowed: bool,
}

/// A StopReplica request.
#[derive(Clone, Debug)]
pub struct StopReplicas {
    pub epochs: ControlEpochs,
    pub partitions: Vec<StopReplica>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopReplica {
    pub name: TopicPartition,
    /// -2 while the topic is being deleted, -1 when the controller knows none or its version cannot say.
    pub leader_epoch: LeaderEpoch,
    pub delete: bool,
}

/// Why a control request is refused as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRefusal {
    /// It was meant for an earlier registration of this broker.
    StaleBrokerEpoch,
    /// It comes from a controller that has been replaced.
    StaleControllerEpoch,
    /// Its controller has given it up: it speaks by another connection since.
    StaleConnection,
    /// This broker has no registration, and has waited long for one.
    NotRegistered,
    ShuttingDown,
}

/// Why a control request is refused for one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionRefusal {
    Decision(DecisionRefusal),
    /// The stop is older than the leader epoch in force.
    StaleStop,
    /// Its log directory is offline, or the log cannot be created, changed or deleted.
    Storage,
    ShuttingDown,
}

impl From<DecisionRefusal> for PartitionRefusal {
    fn from(refusal: DecisionRefusal) -> PartitionRefusal {
        PartitionRefusal::Decision(refusal)
    }
}

/// What became of each partition that a control request names.
pub type PartitionOutcomes = Vec<(TopicPartition, Result<(), PartitionRefusal>)>;

/// Whether a replica may be stopped under this leader epoch. Controllers before KAFKA-13972 send a greater epoch than
/// the current one, later ones may send the current one.
pub fn judge_stop(asked: LeaderEpoch, current: LeaderEpoch) -> Result<(), PartitionRefusal> {
    if asked.0 < 0 || asked >= current { Ok(()) } else { Err(PartitionRefusal::StaleStop) }
}

/// The newest controller this broker has heard of, and the youngest connection that it has been obeyed by: a controller has
/// one at a time, and asks again by the next what it was not answered by the last. What arrives by an earlier one after that
/// is older than what has been done since, and no epoch of it need say so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControllerFence {
    latest: ControllerEpoch,
    connection: ConnectionNumber,
    /// Which controller has told the metadata last, and to which registration of this broker.
    told_by: (ControllerEpoch, BrokerEpoch),
    /// Of this broker when it last obeyed.
    registration: BrokerEpoch,
}

impl ControllerFence {
    /// Whether what has been admitted is the first that its controller tells this registration of the metadata. Which that is,
    /// requests of old versions do not say.
    pub fn begins_to_tell(&mut self, controller: ControllerEpoch) -> bool {
        let teller = (controller, self.registration);
        std::mem::replace(&mut self.told_by, teller) != teller
    }

    /// Refuses what was meant for an earlier registration of this broker, then what comes from a replaced controller, then
    /// what comes by a connection that its controller has replaced.
    /// A newer controller is believed from its first request on, even if that achieves nothing else. A broker epoch
    /// greater than our own is fine: the controller may learn of a registration first.
    pub fn admit(&mut self, epochs: ControlEpochs, own_broker_epoch: BrokerEpoch) -> Result<(), ControlRefusal> {
        if epochs.broker_epoch.0 != -1 && epochs.broker_epoch < own_broker_epoch {
            return Err(ControlRefusal::StaleBrokerEpoch);
        }
        if epochs.controller_epoch < self.latest {
            return Err(ControlRefusal::StaleControllerEpoch);
        }
        if epochs.controller_epoch == self.latest && epochs.connection < self.connection {
            return Err(ControlRefusal::StaleConnection);
        }
        (self.latest, self.connection) = (epochs.controller_epoch, epochs.connection);
        Ok(())
    }

    /// True once in each registration: what is told from here on is told to one that knows nothing.
    pub fn begins(&mut self, registration: BrokerEpoch) -> bool {
        std::mem::replace(&mut self.registration, registration) != registration
    }

    #[cfg(test)]
    pub fn latest(&self) -> ControllerEpoch {
        self.latest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(controller_epoch: i32, broker_epoch: i64) -> ControlEpochs {
        ControlEpochs {
            controller_epoch: ControllerEpoch(controller_epoch),
            broker_epoch: BrokerEpoch(broker_epoch),
            connection: ConnectionNumber(1),
        }
    }

    #[test]
    fn an_older_broker_epoch_is_stale_and_a_greater_or_absent_one_is_not() {
        let mut fence = ControllerFence::default();
        let own = BrokerEpoch(100);
        assert_eq!(fence.admit(epochs(1, 99), own), Err(ControlRefusal::StaleBrokerEpoch));
        assert_eq!(fence.latest(), ControllerEpoch(0), "a request for another registration teaches nothing");
        assert_eq!(fence.admit(epochs(1, 100), own), Ok(()));
        assert_eq!(fence.admit(epochs(1, 101), own), Ok(()));
        assert_eq!(fence.admit(epochs(1, -1), own), Ok(()));
    }

    #[test]
    fn a_replaced_controller_is_refused_from_the_first_request_of_its_successor() {
        let mut fence = ControllerFence::default();
        assert_eq!(fence.admit(epochs(5, -1), BrokerEpoch(1)), Ok(()));
        assert_eq!(fence.admit(epochs(4, -1), BrokerEpoch(1)), Err(ControlRefusal::StaleControllerEpoch));
        assert_eq!(fence.admit(epochs(5, -1), BrokerEpoch(1)), Ok(()));
        assert_eq!(fence.admit(epochs(6, -1), BrokerEpoch(1)), Ok(()));
        assert_eq!(fence.admit(epochs(5, -1), BrokerEpoch(1)), Err(ControlRefusal::StaleControllerEpoch));
    }

    #[test]
    fn what_a_controller_has_given_up_is_refused_once_it_is_obeyed_by_another_connection() {
        let by = |connection, controller_epoch| ControlEpochs {
            connection: ConnectionNumber(connection),
            ..epochs(controller_epoch, -1)
        };
        let own = BrokerEpoch(1);
        let mut fence = ControllerFence::default();
        for connection in [7, 7, 9, 9] {
            assert_eq!(fence.admit(by(connection, 5), own), Ok(()), "connection {connection}");
        }
        assert_eq!(fence.admit(by(7, 5), own), Err(ControlRefusal::StaleConnection));
        let for_another_life = ControlEpochs { broker_epoch: BrokerEpoch(0), ..by(12, 5) };
        assert_eq!(fence.admit(for_another_life, own), Err(ControlRefusal::StaleBrokerEpoch));
        assert_eq!(fence.admit(by(9, 5), own), Ok(()), "what is not obeyed replaces no connection");
        assert_eq!(fence.admit(by(8, 6), own), Ok(()), "another controller has connections of its own");
        assert_eq!(fence.admit(by(9, 6), own), Ok(()));
        assert_eq!(fence.admit(by(8, 6), own), Err(ControlRefusal::StaleConnection));
        assert_eq!(fence.admit(by(10, 5), own), Err(ControlRefusal::StaleControllerEpoch));
    }

    #[test]
    fn each_controller_begins_to_tell_once_and_again_when_this_broker_has_registered_anew() {
        let mut fence = ControllerFence::default();
        let begins = [(1, 100), (1, 100), (2, 100), (2, 100), (2, 105), (2, 105), (3, 105)];
        let begins = begins.map(|(controller, broker)| {
            fence.begins(BrokerEpoch(broker));
            fence.begins_to_tell(ControllerEpoch(controller))
        });
        assert_eq!(begins, [true, false, true, false, true, false, true]);
    }

    #[test]
    fn a_replica_stops_under_its_own_or_a_later_leader_epoch_or_none() {
        let current = LeaderEpoch(5);
        for (asked, expected) in
            [(-2, Ok(())), (-1, Ok(())), (4, Err(PartitionRefusal::StaleStop)), (5, Ok(())), (6, Ok(()))]
        {
            assert_eq!(judge_stop(LeaderEpoch(asked), current), expected, "epoch {asked}");
        }
    }
}
