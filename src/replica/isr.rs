//! Which replicas are in sync: as the controller has it, and what this leader has asked for besides.
//!
//! ```text
//!                 propose                       settle
//!   committed ─────────────▶ committed + pending ──────▶ committed, as the controller now has it
//!       ▲                             │ refuse
//!       └─────────────────────────────┘
//! ```
//! Until a change is settled nobody knows whether it counts, so what is committed must be on the larger set of both: the
//! maximal ISR. For `min.insync.replicas` the committed set alone counts.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/cluster/Partition.scala (PartitionState).

use crate::model::{BrokerId, PartitionEpoch};

/// A change that the leader asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IsrChange {
    Expand(BrokerId),
    Shrink(Vec<BrokerId>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pending {
    change: IsrChange,
    /// Which of all that this broker has asked for it is: an answer to another says nothing of it.
    number: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsrState {
    committed: Vec<BrokerId>,
    pending: Option<Pending>,
    /// The version of the state that `committed` is of.
    partition_epoch: PartitionEpoch,
}

impl IsrState {
    /// What a decision says, which forgets whatever was pending under an earlier one.
    pub fn committed(isr: Vec<BrokerId>, partition_epoch: PartitionEpoch) -> IsrState {
        IsrState { committed: isr, pending: None, partition_epoch }
    }

    /// The ISR as the controller has it; empty on a follower.
    pub fn members(&self) -> &[BrokerId] {
        &self.committed
    }

    pub fn partition_epoch(&self) -> PartitionEpoch {
        self.partition_epoch
    }

    pub fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// The change that was asked for under this number, if nobody has settled or overtaken it.
    pub fn pending(&self, number: u64) -> Option<&IsrChange> {
        self.pending.as_ref().filter(|pending| pending.number == number).map(|pending| &pending.change)
    }

    /// Whether the replica is in the ISR, or would be once what is pending counts.
    pub fn maximal_contains(&self, broker: BrokerId) -> bool {
        self.committed.contains(&broker)
            || self.pending.as_ref().is_some_and(|pending| pending.change == IsrChange::Expand(broker))
    }

    /// Asks for a change. Returns the ISR to ask the controller for; `None` while another change is pending, and if this
    /// one would change nothing.
    pub fn propose(&mut self, change: IsrChange, number: u64) -> Option<Vec<BrokerId>> {
        if self.pending.is_some() {
            return None;
        }
        let mut asked = self.committed.clone();
        match &change {
            IsrChange::Expand(candidate) if !asked.contains(candidate) => asked.push(*candidate),
            IsrChange::Expand(_) => {}
            IsrChange::Shrink(leaving) => asked.retain(|member| !leaving.contains(member)),
        }
        if asked == self.committed {
            return None;
        }
        self.pending = Some(Pending { change, number });
        Some(asked)
    }

    /// The controller has answered with the state that it has now. False for an answer older than what is known.
    pub fn settle(&mut self, isr: Vec<BrokerId>, partition_epoch: PartitionEpoch) -> bool {
        if partition_epoch < self.partition_epoch {
            return false;
        }
        *self = IsrState::committed(isr, partition_epoch);
        true
    }

    /// The controller will not have it: nothing was changed, and it may be asked for again.
    pub fn refuse(&mut self) {
        self.pending = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brokers<const N: usize>(ids: [i32; N]) -> Vec<BrokerId> {
        ids.map(BrokerId).to_vec()
    }

    fn maximal(isr: &IsrState) -> Vec<BrokerId> {
        (0..10).map(BrokerId).filter(|&broker| isr.maximal_contains(broker)).collect()
    }

    #[test]
    fn a_pending_expansion_counts_for_what_is_committed_and_a_pending_shrink_does_not_yet() {
        let mut isr = IsrState::committed(brokers([1, 2]), PartitionEpoch(4));
        assert_eq!(isr.propose(IsrChange::Expand(BrokerId(3)), 7), Some(brokers([1, 2, 3])));
        assert_eq!((isr.members(), maximal(&isr)), (&*brokers([1, 2]), brokers([1, 2, 3])));
        assert!(isr.settle(brokers([1, 2, 3]), PartitionEpoch(5)));
        assert_eq!(
            (isr.members(), isr.partition_epoch(), isr.is_pending()),
            (&*brokers([1, 2, 3]), PartitionEpoch(5), false)
        );

        assert_eq!(isr.propose(IsrChange::Shrink(brokers([2, 3])), 8), Some(brokers([1])));
        assert_eq!(maximal(&isr), brokers([1, 2, 3]));
        assert!(isr.settle(brokers([1]), PartitionEpoch(6)));
        assert_eq!(maximal(&isr), brokers([1]));
    }

    #[test]
    fn one_change_is_pending_at_a_time_until_it_is_settled_or_refused() {
        let mut isr = IsrState::committed(brokers([1, 2]), PartitionEpoch(4));
        assert_eq!(isr.propose(IsrChange::Expand(BrokerId(2)), 7), None, "it is a member");
        assert_eq!(isr.propose(IsrChange::Shrink(brokers([7])), 8), None, "it is no member");
        assert!(isr.propose(IsrChange::Expand(BrokerId(3)), 7).is_some());
        assert_eq!(isr.propose(IsrChange::Shrink(brokers([2])), 8), None);
        isr.refuse();
        assert_eq!(maximal(&isr), brokers([1, 2]));
        assert!(isr.propose(IsrChange::Shrink(brokers([2])), 8).is_some());
        assert!(!isr.settle(brokers([1, 2, 3]), PartitionEpoch(3)), "an answer of before");
        assert_eq!(isr.pending(8), Some(&IsrChange::Shrink(brokers([2]))));
        assert_eq!(isr.pending(7), None, "it is another that is pending");
        assert!(isr.settle(brokers([1]), PartitionEpoch(4)), "the controller had it already");
    }
}
