//! What is known of one transactional id and written down as its record.
//! Source: kafka 3.9 core/src/main/scala/kafka/coordinator/transaction/TransactionMetadata.scala.

use std::collections::BTreeSet;
use std::fmt;

use crate::model::transaction_version::TransactionVersion;
use crate::model::{ProducerEpoch, ProducerId, TopicPartition};

/// ```text
///               partitions or                  EndTxn(commit)                   every partition
///   ┌───────┐  offsets added   ┌─────────┐     is stored    ┌───────────────┐  has its marker   ┌────────────────┐
///   │ Empty │ ───────────────▶ │ Ongoing │ ───────────────▶ │ PrepareCommit │ ────────────────▶ │ CompleteCommit │ ─┐
///   └───────┘                  └─────────┘                  └───────────────┘                   └────────────────┘  │
///       ▲                        ▲  │ │       EndTxn(abort)  ┌──────────────┐                   ┌───────────────┐   │
///       │ InitProducerId         │  │ └────────────────────▶ │ PrepareAbort │ ────────────────▶ │ CompleteAbort │ ──┤
///       │                        │  ▼                        └──────────────┘                   └───────────────┘   │
///       │                        │ ┌───────────────────┐  bumps the epoch ▲                                         │
///       │                        │ │ PrepareEpochFence │ ─────────────────┘                                         │
///       │                        │ └───────────────────┘  timed out, or another producer begins                     │
///       └────────────────────────┴──────────────────────────────────────────────────────────────────────────────────┤
///                                  partitions added: the next transaction                                            ▼
///                                                                    ┌──────┐  unused for transactional.id.expiration.ms
///                                                      Empty ──────▶ │ Dead │
///                                                                    └──────┘
/// ```
/// From version 5 of EndTxn on, which clients choose that have heard of transaction.version 2, an abort is taken in Empty and
/// the Complete states too, which fences what may still be on its way; and whatever ends a transaction raises the epoch.
///
/// PrepareEpochFence and Dead are never in force and never written: an id is fenced by the record of PrepareAbort with a
/// higher epoch, and dies by a tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i8)]
pub enum TransactionState {
    Empty = 0,
    Ongoing = 1,
    PrepareCommit = 2,
    PrepareAbort = 3,
    CompleteCommit = 4,
    CompleteAbort = 5,
    Dead = 6,
    PrepareEpochFence = 7,
}

impl TransactionState {
    /// By the number that stands for each in a record.
    pub(crate) const ALL: [TransactionState; 8] = [
        TransactionState::Empty,
        TransactionState::Ongoing,
        TransactionState::PrepareCommit,
        TransactionState::PrepareAbort,
        TransactionState::CompleteCommit,
        TransactionState::CompleteAbort,
        TransactionState::Dead,
        TransactionState::PrepareEpochFence,
    ];

    pub(crate) fn from_id(id: i8) -> Option<TransactionState> {
        TransactionState::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// As the tools and DescribeTransactions spell it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            TransactionState::Empty => "Empty",
            TransactionState::Ongoing => "Ongoing",
            TransactionState::PrepareCommit => "PrepareCommit",
            TransactionState::PrepareAbort => "PrepareAbort",
            TransactionState::CompleteCommit => "CompleteCommit",
            TransactionState::CompleteAbort => "CompleteAbort",
            TransactionState::Dead => "Dead",
            TransactionState::PrepareEpochFence => "PrepareEpochFence",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<TransactionState> {
        TransactionState::ALL.into_iter().find(|state| state.name() == name)
    }

    /// No transaction is open, and none is being ended.
    pub(crate) fn is_idle(self) -> bool {
        matches!(self, TransactionState::Empty | TransactionState::CompleteCommit | TransactionState::CompleteAbort)
    }

    /// Its end is decided and not yet known to every partition.
    pub(crate) fn is_ending(self) -> bool {
        matches!(self, TransactionState::PrepareCommit | TransactionState::PrepareAbort)
    }
}

impl fmt::Display for TransactionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One incarnation of a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Producer {
    pub(crate) id: ProducerId,
    pub(crate) epoch: ProducerEpoch,
}

impl Producer {
    pub(crate) const NONE: Producer = Producer { id: ProducerId(-1), epoch: ProducerEpoch(-1) };

    /// No producer is given the last epoch there is, so that each can be fenced.
    pub(crate) fn is_exhausted(self) -> bool {
        self.epoch.0 >= i16::MAX - 1
    }

    pub(crate) fn with_next_epoch(self) -> Producer {
        Producer { epoch: ProducerEpoch(self.epoch.0.saturating_add(1)), ..self }
    }

    pub(crate) fn with_former_epoch(self) -> Option<Producer> {
        (self.epoch.0 > 0).then(|| Producer { epoch: ProducerEpoch(self.epoch.0 - 1), ..self })
    }
}

impl fmt::Display for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "producer {} with epoch {}", self.id, self.epoch)
    }
}

/// What is written down of a transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredTransaction {
    pub(crate) producer: Producer,
    pub(crate) timeout_ms: i32,
    pub(crate) state: TransactionState,
    /// Where the transaction has written, or may; in a state that ends one, where its marker may be missing.
    pub(crate) partitions: BTreeSet<TopicPartition>,
    /// When the transaction began; stays until the next InitProducerId.
    pub(crate) start_ms: Option<i64>,
    pub(crate) last_update_ms: i64,
    /// The id that the producer has from the end of the transaction on, since it has had all epochs of this one.
    pub(crate) next_producer_id: Option<ProducerId>,
    /// The id that it had until the transaction that was ended last, if that is another.
    pub(crate) previous_producer_id: Option<ProducerId>,
    /// How the producer has last spoken of a transaction. After an EndTxn of version 2 the epoch before is that of whoever
    /// may repeat it.
    pub(crate) client_transaction_version: TransactionVersion,
}

impl StoredTransaction {
    /// Who the producer is once the transaction has ended.
    pub(crate) fn producer_afterwards(&self) -> Producer {
        self.next_producer_id.map_or(self.producer, |id| Producer { id, ..Producer::NONE }.with_next_epoch())
    }

    /// Who the producer was that has committed, if that has raised its epoch. Of an abort nobody knows whose it was: that of
    /// the clock looks the same.
    pub(crate) fn producer_before_commit(&self) -> Option<Producer> {
        let is_commit = matches!(self.state, TransactionState::PrepareCommit | TransactionState::CompleteCommit);
        if !is_commit || !self.client_transaction_version.bumps_epoch() {
            return None;
        }
        match self.previous_producer_id {
            Some(id) => Some(Producer { id, epoch: ProducerEpoch(i16::MAX - 1) }),
            None => self.producer.with_former_epoch(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_found_by_its_number_and_its_name() {
        for (id, state) in (0i8..).zip(TransactionState::ALL) {
            assert_eq!(state as i8, id);
            assert_eq!(TransactionState::from_id(id), Some(state));
            assert_eq!(TransactionState::from_name(state.name()), Some(state));
        }
        assert_eq!((TransactionState::from_id(8), TransactionState::from_id(-1)), (None, None));
        assert_eq!(TransactionState::from_name("ongoing"), None);
    }
}
