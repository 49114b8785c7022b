//! A producer's transactions (KIP-98): what the coordinator of its transactional id is told before and behind its records, in
//! version 1 of the protocol, which every broker speaks.
//!
//! Source: kafka 3.9.1 clients/.../producer/internals/TransactionManager.java.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Identity, Producer, Sender, Shared, State};
use crate::client::admin::by_topic;
use crate::client::cluster::Coordinated;
use crate::client::connection::{Connection, retried};
use crate::client::error::{ClientError, checked};
use crate::model::{BrokerId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::add_partitions_to_txn::{AddPartitionsToTxnRequest, AddPartitionsToTxnTopic};
use crate::protocol::messages::end_txn::EndTxnRequest;
use crate::protocol::messages::init_producer_id::InitProducerIdRequest;

/// Later versions are those of version 2 of the protocol, in which each transaction has an epoch of its own (KIP-890).
pub(super) const PRODUCE_VERSION_MAX: i16 = 11;
const END_TXN_VERSION_MAX: i16 = 4;

/// The coordinator still writes the markers of the transaction before.
const MARKERS_BACKOFF: Duration = Duration::from_millis(20);

/// The transaction that has begun.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    /// Those that the coordinator knows to be in it: records may be sent to them.
    partitions: HashSet<TopicPartition>,
    /// Why it cannot be committed.
    failure: Option<ClientError>,
}

impl Transaction {
    pub(super) fn has(&self, partition: &TopicPartition) -> bool {
        self.partitions.contains(partition)
    }

    pub(super) fn failure(&self) -> Option<&ClientError> {
        self.failure.as_ref()
    }
}

impl Producer {
    /// Takes the transactional id over: whoever had it is fenced, and what that had open is aborted.
    pub async fn init_transactions(&self) -> Result<(), ClientError> {
        let shared = &self.shared;
        let settings = &shared.settings;
        let request = InitProducerIdRequest {
            transactional_id: settings.transactional_id.clone(),
            transaction_timeout_ms: i32::try_from(settings.transaction_timeout.as_millis()).unwrap_or(i32::MAX),
            ..Default::default()
        };
        let request = &request;
        let doing = "take the transactional id";
        let answer = shared.retried(doing, settings.cluster.retry_backoff, || async {
            let answer = shared.coordinator().await?.send(request).await?;
            checked(doing, answer.error_code, None)?;
            Ok(answer)
        });
        let answer = answer.await?;
        let (producer_id, producer_epoch) = (answer.producer_id, answer.producer_epoch);
        shared.state().identity = Some(Identity { producer_id, producer_epoch });
        Ok(())
    }

    /// From here on until it is committed all that is sent is in one transaction.
    pub fn begin_transaction(&self) -> Result<(), ClientError> {
        let mut state = self.shared.state();
        match (&state.transaction, state.identity) {
            (None, Some(_)) => {
                state.transaction = Some(Transaction::default());
                Ok(())
            }
            _ => Err(ClientError::refused("begin a transaction", ErrorCode::InvalidTxnState, None)),
        }
    }

    /// Sends all there is, and commits it once every record is acknowledged; one that was given up is the error.
    pub async fn commit_transaction(&self) -> Result<(), ClientError> {
        self.flush().await;
        let shared = &self.shared;
        let request = {
            let state = shared.state();
            let (Some(transaction), Some(identity)) = (&state.transaction, state.identity) else {
                return Err(ClientError::refused("commit a transaction", ErrorCode::InvalidTxnState, None));
            };
            if let Some(failure) = transaction.failure() {
                return Err(failure.clone());
            }
            let request = EndTxnRequest {
                transactional_id: shared.settings.transactional_id.clone().unwrap_or_default(),
                producer_id: identity.producer_id,
                producer_epoch: identity.producer_epoch,
                committed: true,
            };
            // The coordinator knows nothing of one that went nowhere.
            (!transaction.partitions.is_empty()).then_some(request)
        };
        if let Some(request) = &request {
            let doing = "commit the transaction";
            let committed = shared.retried(doing, shared.settings.cluster.retry_backoff, || async {
                let coordinator = shared.coordinator().await?;
                let version = coordinator.version_of::<EndTxnRequest>(END_TXN_VERSION_MAX)?;
                let answer = coordinator.send_at(request, version).await?;
                checked(doing, answer.error_code, None)
            });
            committed.await?;
        }
        shared.state().transaction = None;
        Ok(())
    }
}

impl Sender {
    /// Adds to the transaction the partitions to which something waits to be sent; says whether there were any. A refusal
    /// is the end of the transaction, and of all that waits.
    pub(super) async fn add_partitions(&mut self) -> bool {
        if self.unannounced.is_empty() {
            return false;
        }
        let added = std::mem::take(&mut self.unannounced);
        let outcome = self.shared.add_partitions(&added).await;
        let mut state = self.shared.state();
        match outcome {
            Ok(()) => {
                if let Some(transaction) = &mut state.transaction {
                    transaction.partitions.extend(added);
                }
            }
            Err(error) => self.shared.fail_transaction(&mut state, &error),
        }
        true
    }
}

impl Shared {
    /// The transaction, if there is one, cannot be committed any more: nothing of it that waits is sent.
    pub(super) fn fail_transaction(&self, state: &mut State, error: &ClientError) {
        let Some(transaction) = &mut state.transaction else { return };
        transaction.failure.get_or_insert_with(|| error.clone());
        self.give_up_waiting(state, error);
    }

    async fn add_partitions(&self, partitions: &HashSet<TopicPartition>) -> Result<(), ClientError> {
        let topics = by_topic(partitions.iter().map(|partition| (partition, ())));
        let topic = |(name, partitions): (&str, Vec<(i32, ())>)| AddPartitionsToTxnTopic {
            name: name.to_owned(),
            partitions: partitions.into_iter().map(|(partition, ())| partition).collect(),
        };
        let identity = self.state().identity;
        let identity = identity.expect("a transaction begins with an identity, which stays");
        let request = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: self.settings.transactional_id.clone().unwrap_or_default(),
            v3_and_below_producer_id: identity.producer_id,
            v3_and_below_producer_epoch: identity.producer_epoch,
            v3_and_below_topics: topics.into_iter().map(topic).collect(),
            ..Default::default()
        };
        let request = &request;
        let doing = "add partitions to the transaction";
        self.retried(doing, MARKERS_BACKOFF, || async {
            let coordinator = self.coordinator().await?;
            // Later versions are for brokers.
            let version = coordinator.version_of::<AddPartitionsToTxnRequest>(3)?;
            let answer = coordinator.send_at(request, version).await?;
            let results = answer.results_by_topic_v3_and_below.iter().flat_map(|topic| &topic.results_by_partition);
            let codes = results.map(|partition| partition.partition_error_code);
            // Of several, those that were refused because of another say nothing.
            let (attempted, not): (Vec<i16>, Vec<i16>) =
                codes.partition(|code| ErrorCode::from_code(*code) != ErrorCode::OperationNotAttempted);
            attempted.into_iter().chain(not).try_for_each(|code| checked(doing, code, None))
        })
        .await
    }

    /// One attempt after the other until one succeeds, fails for good, or `max.block.ms` are over. After a failure the
    /// coordinator may be another.
    async fn retried<T, F: Future<Output = Result<T, ClientError>>>(
        &self,
        doing: &str,
        backoff: Duration,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, ClientError> {
        retried(doing, self.settings.max_block, backoff, || {
            let attempt = attempt();
            async {
                attempt.await.inspect_err(|error| {
                    if error.code() != Some(ErrorCode::ConcurrentTransactions) {
                        self.state().coordinator = None;
                    }
                })
            }
        })
        .await
    }

    async fn coordinator(&self) -> Result<Arc<Connection>, ClientError> {
        let known: Option<BrokerId> = self.state().coordinator;
        if let Some(id) = known {
            return self.cluster.broker(id).await;
        }
        let id = self.settings.transactional_id.as_deref().unwrap_or_default();
        let node = self.cluster.find_coordinator(Coordinated::Transactions(id)).await?;
        self.state().coordinator = Some(node.id);
        self.cluster.broker(node.id).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::transaction_version::TransactionVersion::{V0, V2};
    use crate::protocol::messages::produce::ProduceRequest;
    use crate::protocol::transaction_version::transaction_version;

    #[test]
    fn the_versions_are_the_last_of_version_1_of_the_protocol() {
        let produce = [PRODUCE_VERSION_MAX, PRODUCE_VERSION_MAX + 1].map(transaction_version::<ProduceRequest>);
        let end_txn = [END_TXN_VERSION_MAX, END_TXN_VERSION_MAX + 1].map(transaction_version::<EndTxnRequest>);
        assert_eq!((produce, end_txn), ([V0, V2], [V0, V2]));
    }
}
